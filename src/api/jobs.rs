//! C side of sql/jobs.sql and sql/worker.sql.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::JsonB;

use crate::core::trainer::Params;
use crate::pg::errors::UserError;
use crate::pg::{roles, shared::shared, wake};
use crate::providers::protocol::{Server, Training};
use crate::{providers, worker};

/// Checks hyperparameters before a job is written, so that a typo is an answer and not a failed job.
#[pg_extern(sql = false, immutable, parallel_safe, strict)]
fn check_hyperparameters(_provider: &str, _method: &str, hyperparameters: JsonB) -> Result<(), ErrorReport> {
    if !hyperparameters.0.is_object() {
        return Err(UserError::invalid("hyperparameters must be a JSON object")
            .detail(format!("Found {}.", hyperparameters.0))
            .hint(r#"Example: '{"epochs": 10}'; '{}' takes the defaults."#)
            .into());
    }
    if hyperparameters.0.get("seed").is_some() {
        return Err(UserError::invalid("hyperparameter \"seed\" is an argument of its own")
            .detail("It is kept with the job, beside the hyperparameters.")
            .hint("Call fine_tune(..., seed => 42).")
            .into());
    }
    match Params::from_json(&hyperparameters.0) {
        Ok(_) => Ok(()),
        Err(error) => Err(UserError::invalid(error.to_string())
            .detail(format!("Given: {}.", hyperparameters.0))
            .hint("docs/training.md lists the hyperparameters and their ranges; '{}' takes the defaults.")
            .into()),
    }
}

/// The same for a job at a provider: what its protocol says before there is a file.
#[pg_extern(sql = false, immutable, parallel_safe, strict)]
fn check_provider_job(options: Vec<Option<String>>, method: &str, hyperparameters: JsonB) -> Result<(), ErrorReport> {
    if !hyperparameters.0.is_object() {
        return Err(UserError::invalid("hyperparameters must be a JSON object")
            .detail(format!("Found {}.", hyperparameters.0))
            .hint(r#"Example: '{"n_epochs": 3}'; '{}' leaves them to the provider."#)
            .into());
    }
    // As in pg_foreign_server: what a host takes depends on its dialect, too.
    let server = Server::of(options);
    let protocol = server.protocol.as_str();
    let Some(provider) = providers::by_name(protocol) else {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("protocol \"{protocol}\" cannot run jobs in this version"),
        )
        .detail("docs/providers.md lists the protocols that can.")
        .hint("Use provider => 'builtin', or write the training file with export_jsonl() and start the job at the provider yourself.")
        .into());
    };
    let methods = provider.caps(&server).methods;
    if Training::parse(method).is_some_and(|method| methods.contains(&method)) {
        return Ok(());
    }
    let names: Vec<&str> = methods.iter().map(|method| method.name()).collect();
    Err(UserError::invalid(format!("method \"{method}\" is not known to protocol {protocol}"))
        .detail(format!("Its methods: {}.", names.join(", ")))
        .hint(format!("Call fine_tune(..., method => '{}').", names.first().unwrap_or(&"sft")))
        .into())
}

#[pg_extern(sql = false)]
fn wake_worker() {
    wake::wake_at_commit();
}

#[pg_extern(sql = false)]
fn launcher_pid() -> Option<i32> {
    let shared = shared();
    shared.launcher_alive().then(|| shared.launcher_pid.load(std::sync::atomic::Ordering::SeqCst))
}

#[pg_extern(sql = false)]
fn busy_trainers() -> i32 {
    shared().busy_trainers() as i32
}

#[pg_extern(sql = false)]
fn run_due_work(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    roles::require("run_due_work", &["finetune_admin"])?;
    worker::run_due_work(fcinfo).map_err(ErrorReport::from)
}
