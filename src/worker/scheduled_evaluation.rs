//! A schedule's model that stands at a provider is asked there for the gate, in the name of who made the schedule. Like a
//! training in a process of its own, or in the session of `CALL run_due_work()`.

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

use super::evaluation;
use crate::pg::errors::UserError;
use crate::pg::session::{sqlstate, Failure, Session};
use crate::pg::spi;

/// What a process is started with, before the job's id: its model is evaluated, not trained.
pub const PREFIX: &str = "evaluate ";

/// An evaluation that this process holds, until its token is outdated.
struct Claim {
    token: i32,
    model: String,
    owner: String,
    max_usd: Option<f64>,
}

/// Evaluates the model of a job, if it is still time for that; the outcome is written to the schedule's run.
pub fn run(session: &Session, schema: &str, job: &str) {
    let Ok(Some(claim)) = session.transaction(|| claim(schema, job)) else {
        return;
    };
    let outcome = evaluation::judge(session, schema, &claim.owner, &claim.model, None, claim.max_usd);
    if let Err(failure) = session.transaction(|| end(schema, job, claim.token, outcome.err())) {
        log!(
            "pg_finetune: evaluation of {}: could not record its end: {} ({})",
            claim.model,
            failure.message,
            failure.code
        );
    }
}

/// Jobs whose models are to be evaluated now.
pub fn due(schema: &str) -> Vec<String> {
    spi::texts(&format!("SELECT d::pg_catalog.text FROM {schema}._due_evaluations() d"), &[])
}

/// Leaves it to the process that was started for it.
pub fn postpone(schema: &str, job: &str, delay: &str) {
    let query = format!("SELECT {schema}._postpone_evaluation($1::pg_catalog.uuid, $2::pg_catalog.interval)");
    Spi::run_with_args(&query, &[job.into(), delay.into()]).unwrap_or_report();
}

fn claim(schema: &str, job: &str) -> Option<Claim> {
    let query = format!(
        "SELECT c.token, c.model, c.owner, c.max_usd::pg_catalog.float8 FROM {schema}._claim_evaluation($1::pg_catalog.uuid) c \
         WHERE c.token IS NOT NULL"
    );
    Spi::connect_mut(|client| {
        let row = client.update(&query, Some(1), &[job.into()])?.next();
        row.map(|row| {
            Ok::<_, pgrx::spi::Error>(Claim {
                token: row.get(1)?.unwrap_or_default(),
                model: row.get(2)?.unwrap_or_default(),
                owner: row.get(3)?.unwrap_or_default(),
                max_usd: row.get(4)?,
            })
        })
        .transpose()
    })
    .unwrap_or_report()
}

/// What is wrong with the provider may pass; the rest ends the run.
fn end(schema: &str, job: &str, token: i32, error: Option<UserError>) {
    let failure = error.map(UserError::failure);
    let unreachable = sqlstate(PgSqlErrorCode::ERRCODE_FDW_UNABLE_TO_CREATE_REPLY as i32);
    let may_pass = failure.as_ref().is_some_and(|failure| failure.code == unreachable);
    let told = failure.map(|Failure { message, hint, .. }| match hint {
        Some(hint) => format!("{message}. {hint}"),
        None => message,
    });
    let query = format!("SELECT {schema}._end_evaluation($1::pg_catalog.uuid, $2, $3, $4)");
    Spi::run_with_args(&query, &[job.into(), token.into(), told.into(), may_pass.into()]).unwrap_or_report();
}
