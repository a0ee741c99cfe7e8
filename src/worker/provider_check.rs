//! `CALL check_provider(name)`: does the address answer, and does the key open it?

use pgrx::prelude::*;

use super::http;
use crate::pg::errors::UserError;
use crate::pg::foreign::{self, Key, Provider};
use crate::pg::session::Session;
use crate::providers::openai;
use crate::providers::secret::Secret;

const SHOWN_MODELS: usize = 5;

/// Reads the provider in a transaction, ends it, asks, and returns what came back.
pub fn check(fcinfo: pg_sys::FunctionCallInfo, name: &str) -> Result<String, UserError> {
    let session = Session::procedure(fcinfo, "check_provider()")?;
    let found = session.transaction(|| foreign::provider(name)).map_err(|failure| {
        UserError::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, failure.message)
            .detail("The server is used with the rights and the key of the role that calls.")
            .hint("GRANT USAGE ON FOREIGN SERVER ...; and CREATE USER MAPPING FOR ... SERVER ... OPTIONS (api_key_env '...');")
    })?;
    let provider = found.ok_or_else(|| {
        UserError::unknown(format!("provider \"{name}\" does not exist"))
            .detail("Providers are foreign servers of the wrapper pg_finetune; builtin needs no check.")
            .hint("CREATE SERVER ... FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'openai', base_url 'https://...');")
    })?;
    if provider.protocol != "openai" {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("protocol \"{}\" cannot be checked in this version", provider.protocol),
        )
        .detail("Protocol openai can.")
        .hint("If the host has an address for OpenAI's protocol, use that one."));
    }
    ask(&provider)
}

fn ask(provider: &Provider) -> Result<String, UserError> {
    let answer = http::get(openai::models_url(&provider.base_url), reveal(&provider.key)?).map_err(|reason| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
            format!("no answer from {}", provider.base_url),
        )
        .detail(reason)
        .hint("Check base_url: ALTER SERVER ... OPTIONS (SET base_url '...');")
    })?;
    let models = openai::parse_models(answer.status, &answer.body).map_err(|error| {
        UserError::new(PgSqlErrorCode::ERRCODE_FDW_UNABLE_TO_CREATE_REPLY, error.to_string())
            .detail(format!("Asked: {}.", openai::models_url(&provider.base_url)))
            .hint("Check the key (ALTER USER MAPPING ... OPTIONS) and base_url.")
    })?;
    let shown = models.iter().take(SHOWN_MODELS).map(String::as_str).collect::<Vec<_>>().join(", ");
    Ok(format!(
        "{} answers with {} models: {shown}{}",
        provider.base_url,
        models.len(),
        if models.len() > SHOWN_MODELS { ", ..." } else { "" }
    ))
}

/// The key itself. Errors name the place, never the content.
fn reveal(key: &Key) -> Result<Secret, UserError> {
    let (found, place) = match key {
        Key::Value(secret) => return Ok(secret.clone()),
        Key::Env(name) => (std::env::var(name).ok(), format!("environment variable {name} of the server")),
        Key::File(path) => (std::fs::read_to_string(path).ok(), format!("file {path} on the server")),
    };
    let text = found.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    text.map(Secret::new).ok_or_else(|| {
        UserError::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the provider's key is missing")
            .detail(format!("The {place} is not there, not readable or empty."))
            .hint("Set it for the user that runs the server and, for an environment variable, restart the server.")
    })
}
