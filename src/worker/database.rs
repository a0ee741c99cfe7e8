//! One round of work in one database: overdue jobs, retraining ticks, jobs to start.

use std::sync::atomic::Ordering::SeqCst;

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

use super::{failpoint, trainer};
use crate::pg::errors::UserError;
use crate::pg::session::{Failure, Session};
use crate::pg::shared::{shared, NEVER};
use crate::pg::{process, settings, spi};

/// How long a job waits for the process that was started for it before another one is.
const START_DELAY: &str = "10 s";
/// How long a job waits before it asks again for a free training process.
const BUSY_DELAY: &str = "5 s";

/// The short-lived worker of a database: works until nothing is announced, says when to come back, leaves.
pub fn main(database: u32) -> ! {
    process::install_signal_handlers();
    process::connect(Some(database));
    let Some(slot) = shared().database(database) else { process::exit(process::EXIT_DONE) };
    slot.worker_runs();
    let session = Session::worker();
    loop {
        let announced = slot.wakes.load(SeqCst);
        process::report_activity("pg_finetune: looking for due work");
        match round(&session, database) {
            Ok(next) => slot.due_at.store(next, SeqCst),
            Err(failure) => {
                log!("pg_finetune: worker stops: {} ({})", failure.message, failure.code);
                process::exit(process::EXIT_RESTART) // the launcher backs off
            }
        }
        slot.served.store(announced, SeqCst);
        slot.failures.store(0, SeqCst);
        if !slot.announced() {
            break;
        }
    }
    slot.worker_ended();
    shared().wake_launcher();
    process::exit(process::EXIT_DONE)
}

/// Looks once at everything; returns when something will be due by itself, in Postgres' microseconds.
fn round(session: &Session, database: u32) -> Result<i64, Failure> {
    let Some(schema) = session.transaction(workable_schema)? else {
        return Ok(NEVER);
    };
    housekeeping(session, &schema)?;
    let may_train = settings::MAX_TRAINERS.get() > 0;
    if may_train {
        for job in session.transaction(|| due_jobs(&schema, false))? {
            start(session, &schema, database, &job)?;
        }
    }
    session.transaction(|| next_due(&schema, may_train))
}

fn housekeeping(session: &Session, schema: &str) -> Result<(), Failure> {
    session.transaction(|| call(&format!("SELECT {schema}._end_overdue_jobs()")))?;
    failpoint::reached(session, "housekeeping");
    session.transaction(|| call(&format!("SELECT {schema}._advance_retraining()")))
}

/// Starts a training process for a job, or says why it has to wait.
fn start(session: &Session, schema: &str, database: u32, job: &str) -> Result<(), Failure> {
    let free = shared().busy_trainers() < settings::MAX_TRAINERS.get() as usize;
    let (stage, delay) = match free {
        true => ("starting a training process", START_DELAY),
        false => ("waiting: all training processes are busy (pg_finetune.max_trainers)", BUSY_DELAY),
    };
    session.transaction(|| postpone(schema, job, stage, delay))?;
    if free && !process::start_trainer(database, job) {
        let stage = "waiting: no free background worker slot (max_worker_processes)";
        session.transaction(|| postpone(schema, job, stage, BUSY_DELAY))?;
    }
    Ok(())
}

/// `CALL run_due_work()`: the same round in the caller's session, training included, until nothing is due.
pub fn run_due_work(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), UserError> {
    let session = Session::procedure(fcinfo, "run_due_work()")?;
    let reported = |failure: Failure| {
        UserError::new(PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, failure.message)
            .hint(failure.hint.unwrap_or_default())
    };
    let Some(schema) = session.transaction(workable_schema).map_err(reported)? else {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "no work may be done in this database",
        )
        .detail("The worker is paused, or this database is a copy that has not been adopted.")
        .hint("SELECT * FROM worker_status(); says which, and the command that helps."));
    };
    loop {
        housekeeping(&session, &schema).map_err(reported)?;
        let jobs = session.transaction(|| due_jobs(&schema, true)).map_err(reported)?;
        if jobs.is_empty() {
            return Ok(());
        }
        for job in jobs {
            trainer::run(&session, &schema, &job);
        }
    }
}

/// Our schema, unless something forbids work here: not installed, another version, paused, a copy.
fn workable_schema() -> Option<String> {
    let schema = spi::own_schema()?;
    let installed = spi::installed_version()?;
    if installed != env!("CARGO_PKG_VERSION") {
        log!(
            "pg_finetune: idle, the library is {} but the extension is {installed}: ALTER EXTENSION pg_finetune UPDATE",
            env!("CARGO_PKG_VERSION")
        );
        return None;
    }
    let obstacle = Spi::get_one::<String>(&format!("SELECT {schema}._worker_obstacle()")).ok()?;
    obstacle.is_none().then_some(schema)
}

fn due_jobs(schema: &str, by_hand: bool) -> Vec<String> {
    Spi::connect_mut(|client| {
        let jobs = client.update(
            &format!("SELECT j::pg_catalog.text FROM {schema}._due_jobs($1) j"),
            None,
            &[by_hand.into()],
        )?;
        jobs.map(|row| row.get::<String>(1)).collect::<Result<Vec<_>, _>>()
    })
    .unwrap_or_report()
    .into_iter()
    .flatten()
    .collect()
}

fn postpone(schema: &str, job: &str, stage: &str, delay: &str) {
    let args = [job.into(), stage.into(), delay.into()];
    Spi::run_with_args(
        &format!("SELECT {schema}._postpone_job($1::pg_catalog.uuid, $2, $3::pg_catalog.interval)"),
        &args,
    )
    .unwrap_or_report();
}

fn next_due(schema: &str, with_jobs: bool) -> i64 {
    let query = format!("SELECT {schema}._next_due_at($1)");
    let due = Spi::get_one_with_args::<TimestampWithTimeZone>(&query, &[with_jobs.into()]).unwrap_or_report();
    due.map_or(NEVER, pg_sys::TimestampTz::from)
}

fn call(query: &str) {
    Spi::run(query).unwrap_or_report();
}
