//! C side of sql/providers.sql.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::errors::UserError;
use crate::pg::{foreign, roles};
use crate::providers::options::{self, Error};
use crate::providers::protocol::Server;
use crate::worker;

/// Validator of the foreign data wrapper: options arrive as name=value.
#[pg_extern(sql = false)]
fn validate_provider(given: Vec<Option<String>>, catalog: pg_sys::Oid) -> Result<(), ErrorReport> {
    let given: Vec<(String, String)> = given
        .into_iter()
        .flatten()
        .filter_map(|option| option.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())))
        .collect();
    options::validate(foreign::place(catalog), &given, foreign::is_superuser()).map_err(|error| explain(&error).into())
}

#[pg_extern(sql = false, immutable, parallel_safe, strict)]
fn provider_origin(options: Vec<Option<String>>) -> String {
    Server::of(options).origins()
}

fn explain(error: &Error) -> UserError {
    use PgSqlErrorCode as Code;
    let message = error.to_string();
    match error {
        Error::Unknown { valid, nearest, .. } => UserError::new(Code::ERRCODE_FDW_INVALID_OPTION_NAME, message)
            .detail(if valid.is_empty() { "No options are known here.".to_owned() } else { format!("Options here: {valid}.") })
            .hint(nearest.map_or("Secrets (api_key, api_key_env, api_key_file) stand in CREATE USER MAPPING, everything else in CREATE SERVER.".to_owned(), |n| format!("Perhaps you meant \"{n}\"."))),
        Error::Missing { name } => UserError::new(Code::ERRCODE_FDW_OPTION_NAME_NOT_FOUND, message)
            .detail("It has no default.")
            .hint(format!("Add OPTIONS ({name} '...').")),
        Error::Value { reason, .. } => UserError::new(Code::ERRCODE_FDW_INVALID_STRING_FORMAT, message)
            .detail(format!("It takes {reason}."))
            .hint("The value is not repeated here, in case it was a key."),
        Error::Superuser { .. } => UserError::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
            .detail("It names a file or a variable of the server, which could be anybody's secret.")
            .hint("Ask a superuser to create the mapping, or use api_key."),
        Error::ForeignTable => UserError::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, message)
            .detail("A provider is a place where jobs run, not a source of rows.")
            .hint("Use the server's name in fine_tune(..., provider => ...)."),
    }
}

#[pg_extern(sql = false)]
fn check_provider(provider: Option<&str>, fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    roles::require("check_provider", &["finetune_admin"])?;
    let Some(provider) = provider else {
        return Err(UserError::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "provider may not be NULL")
            .detail("It is the name of a foreign server.")
            .hint("SELECT srvname FROM pg_foreign_server; lists them.")
            .into());
    };
    notice!("{}", worker::check_provider(fcinfo, provider)?);
    Ok(())
}

#[pg_extern(sql = false)]
fn evaluate_model(
    model: Option<&str>,
    max_texts: Option<i32>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<(), ErrorReport> {
    roles::require("evaluate_model", &["finetune_admin"])?;
    let (Some(model), Some(max_texts @ 1..)) = (model, max_texts) else {
        return Err(UserError::invalid("evaluate_model() takes a model and a positive number of texts")
            .detail("The model is an id of table model; each text of the comparison is asked for once at the provider.")
            .hint("CALL evaluate_model('...', max_texts => 20000);")
            .into());
    };
    let (verdict, reason) = worker::evaluate_model(fcinfo, model, max_texts)?;
    notice!("{verdict}: {reason}");
    Ok(())
}
