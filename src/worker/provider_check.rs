//! `CALL check_provider(name)`: does the address answer, and does the key open it?

use pgrx::prelude::*;

use super::http::Policy;
use super::{provider_key, steps};
use crate::pg::errors::UserError;
use crate::pg::foreign::{self, Provider};
use crate::pg::session::Session;
use crate::pg::threads::run_beside;
use crate::providers::fault::{Fault, Refusal};

const SHOWN_MODELS: usize = 5;
const NO_KEY: &str =
    "GRANT USAGE ON FOREIGN SERVER ...; and CREATE USER MAPPING FOR ... SERVER ... OPTIONS (api_key_env '...');";

/// Reads the provider in a transaction, ends it, asks, and returns what came back.
pub fn check(fcinfo: pg_sys::FunctionCallInfo, name: &str) -> Result<String, UserError> {
    let session = Session::procedure(fcinfo, "check_provider()")?;
    let found = session.transaction(|| foreign::provider(name)).map_err(|failure| {
        UserError::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, failure.message)
            .detail("The server is used with the rights and the key of the role that calls.")
            .hint(failure.hint.unwrap_or_else(|| NO_KEY.into()))
    })?;
    let provider = found.ok_or_else(|| {
        UserError::unknown(format!("provider \"{name}\" does not exist"))
            .detail("Providers are foreign servers of the wrapper pg_finetune; builtin needs no check.")
            .hint("CREATE SERVER ... FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'openai', base_url 'https://...');")
    })?;
    let address = provider.server.base_url.clone();
    let policy = Policy::now().trusting(&provider.server);
    let told = run_beside(move || ask(&provider, &policy));
    let models = told
        .unwrap_or_else(|| Err(Fault::Retry { after: None, message: "the helper thread broke down".into() }))
        .map_err(|fault| explain(&address, fault))?
        .map_err(|(status, fault)| explain(&format!("{address}; it answered {status}"), fault))?;
    let shown = models.iter().take(SHOWN_MODELS).map(String::as_str).collect::<Vec<_>>().join(", ");
    Ok(format!(
        "{address} answers with {} models: {shown}{}",
        models.len(),
        if models.len() > SHOWN_MODELS { ", ..." } else { "" }
    ))
}

/// The models, or the status of the answer with what is wrong with it; or why there was no answer.
fn ask(provider: &Provider, policy: &Policy) -> Result<Result<Vec<String>, (u16, Fault)>, Fault> {
    let protocol = steps::protocol(&provider.server)?;
    let key = provider_key::reveal(&provider.key).map_err(|message| {
        Fault::Auth(Refusal { code: "key".into(), message, param: None, hint: provider_key::HINT.into() })
    })?;
    let answer = steps::ask(&protocol.models(&provider.server)?, &key, policy)?;
    Ok(protocol.read_models(&answer).map_err(|fault| (answer.status, fault)))
}

fn explain(address: &str, fault: Fault) -> UserError {
    use PgSqlErrorCode as Code;
    let asked = format!("Asked: {address}.");
    match fault {
        Fault::Retry { message, .. } | Fault::Ambiguous { message } => {
            UserError::new(Code::ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION, format!("no answer from {address}"))
                .detail(message)
                .hint("Check base_url: ALTER SERVER ... OPTIONS (SET base_url '...');")
        }
        Fault::Auth(refusal) | Fault::Refused(refusal) => UserError::new(
            Code::ERRCODE_FDW_UNABLE_TO_CREATE_REPLY,
            format!("the provider refuses: {}", refusal.message),
        )
        .detail(asked)
        .hint(refusal.hint),
        other => UserError::new(Code::ERRCODE_FDW_UNABLE_TO_CREATE_REPLY, other.to_string())
            .detail(asked)
            .hint("Check base_url and the option protocol: ALTER SERVER ... OPTIONS (SET ...);"),
    }
}
