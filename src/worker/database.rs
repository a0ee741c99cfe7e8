//! One round of work in one database: overdue jobs, retraining ticks, jobs to start.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

use super::jobs::{Jobs, Turn};
use super::{failpoint, scheduled_evaluation, shadow, trainer};
use crate::pg::errors::UserError;
use crate::pg::session::{Failure, Session};
use crate::pg::shared::{shared, DatabaseSlot, NEVER};
use crate::pg::{process, settings, spi};

/// How long a job waits for the process that was started for it before another one is.
const START_DELAY: &str = "10 s";
/// How long a job waits before it asks again for a free training process.
const BUSY_DELAY: &str = "5 s";

/// Longest wait for an answer of a provider before something else is looked at.
const NAP: Duration = Duration::from_millis(200);
/// A worker that has something to do within this time stays, in Postgres' microseconds.
const LINGER: i64 = 3_000_000;

/// The short-lived worker of a database: works until nothing is announced, says when to come back, leaves.
pub fn main(database: u32) -> ! {
    process::install_signal_handlers();
    process::connect(Some(database));
    let Some(slot) = shared().database(database) else { process::exit(process::EXIT_DONE) };
    slot.worker_runs();
    let session = Session::worker();
    if let Err(failure) = work(&session, slot) {
        log!("pg_finetune: worker stops: {} ({})", failure.message, failure.code);
        slot.worker_failed();
        process::exit(process::EXIT_RESTART) // the launcher backs off
    }
    slot.failures.store(0, SeqCst);
    slot.worker_ended();
    shared().wake_launcher();
    process::exit(process::EXIT_DONE)
}

/// Rounds as long as work is announced or providers are about to be asked something.
fn work(session: &Session, slot: &DatabaseSlot) -> Result<(), Failure> {
    let mut schema = None;
    loop {
        let announced = slot.wakes.load(SeqCst);
        process::report_activity("pg_finetune: looking for due work");
        let (found, next) = round(session)?;
        slot.due_at.store(next, SeqCst);
        slot.served.store(announced, SeqCst);
        schema = found.or(schema);
        let turned = match &schema {
            Some(schema) if next != NEVER => ask_providers(session, schema, slot)?,
            _ => Turn::Idle,
        };
        let soon = slot.due_at.load(SeqCst) < process::now() + LINGER;
        match turned {
            Turn::Leave => {
                // Whoever waits gets the database first.
                slot.due_at.store(slot.due_at.load(SeqCst).max(process::now() + LINGER), SeqCst);
                return Ok(());
            }
            _ if slot.announced() => {}
            _ if soon => process::wait(NAP),
            _ => return Ok(()),
        }
    }
}

/// Jobs at providers until nothing of theirs is due, or until something else was announced.
fn ask_providers(session: &Session, schema: &str, slot: &DatabaseSlot) -> Result<Turn, Failure> {
    let mut jobs = Jobs::new(session, schema)?;
    let mut looked = process::now();
    loop {
        process::report_activity("pg_finetune: asking providers");
        let turned = jobs.turn(NAP)?;
        let time_for_a_round = slot.announced() || process::now() > looked + LINGER;
        if turned == Turn::Busy && time_for_a_round {
            // Schedules and trainers do not wait for a provider.
            looked = process::now();
            let announced = slot.wakes.load(SeqCst);
            if session.transaction(workable_schema)?.is_none() {
                return Ok(Turn::Leave);
            }
            housekeeping(session, schema, false)?;
            start_trainers(session, schema)?;
            slot.served.store(announced, SeqCst);
        }
        if turned != Turn::Busy {
            let next = session.transaction(|| workable_schema().map_or(NEVER, |schema| next_due_here(&schema)))?;
            slot.due_at.store(next, SeqCst);
            return Ok(turned);
        }
    }
}

/// Looks once at everything here; returns when something will be due by itself, in Postgres' microseconds.
fn round(session: &Session) -> Result<(Option<String>, i64), Failure> {
    let Some(schema) = session.transaction(workable_schema)? else {
        return Ok((None, NEVER));
    };
    session.transaction(|| call(&format!("SELECT {schema}._note_timeline()")))?;
    housekeeping(session, &schema, false)?;
    start_trainers(session, &schema)?;
    let next = session.transaction(|| next_due_here(&schema))?;
    Ok((Some(schema), next))
}

fn start_trainers(session: &Session, schema: &str) -> Result<(), Failure> {
    if settings::MAX_TRAINERS.get() > 0 {
        for job in session.transaction(|| due_jobs(schema, false))? {
            start(session, schema, process::database(), &job)?;
        }
        for job in session.transaction(|| scheduled_evaluation::due(schema))? {
            start_evaluation(session, schema, process::database(), &job)?;
        }
    }
    Ok(())
}

fn housekeeping(session: &Session, schema: &str, by_hand: bool) -> Result<(), Failure> {
    session.transaction(|| call(&format!("SELECT {schema}._end_overdue_jobs()")))?;
    failpoint::reached(session, "housekeeping");
    session.transaction(|| call(&format!("SELECT {schema}._begin_erasures()")))?;
    session.transaction(|| call(&format!("SELECT {schema}._apply_retention()")))?;
    session.transaction(|| call(&format!("SELECT {schema}._evaluate_rollouts()")))?;
    session.transaction(|| call(&format!("SELECT {schema}._advance_retraining()")))?;
    shadow::look(session, schema, by_hand)
}

fn a_trainer_is_free() -> bool {
    shared().busy_trainers() < settings::MAX_TRAINERS.get() as usize
}

/// Starts a training process for a job, or says why it has to wait.
fn start(session: &Session, schema: &str, database: u32, job: &str) -> Result<(), Failure> {
    let free = a_trainer_is_free();
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

/// The same for the evaluation of its model.
fn start_evaluation(session: &Session, schema: &str, database: u32, job: &str) -> Result<(), Failure> {
    let free = a_trainer_is_free();
    let delay = if free { START_DELAY } else { BUSY_DELAY };
    session.transaction(|| scheduled_evaluation::postpone(schema, job, delay))?;
    if free {
        process::start_trainer(database, &format!("{}{job}", scheduled_evaluation::PREFIX));
    }
    Ok(())
}

/// `CALL run_due_work()`: the same round in the caller's session, training included, until nothing is due.
pub fn run_due_work(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), UserError> {
    let session = Session::procedure(fcinfo, "run_due_work()")?;
    let Some(schema) = session.transaction(workable_schema)? else {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "no work may be done in this database",
        )
        .detail("The worker is paused, or this database is a copy that has not been adopted.")
        .hint("SELECT * FROM worker_status(); says which, and the command that helps."));
    };
    loop {
        housekeeping(&session, &schema, true)?;
        let jobs = session.transaction(|| due_jobs(&schema, true))?;
        let asked = ask_providers_once(&session, &schema)?;
        let evaluations = session.transaction(|| scheduled_evaluation::due(&schema))?;
        if jobs.is_empty() && evaluations.is_empty() && !asked {
            return Ok(());
        }
        for job in jobs {
            trainer::run(&session, &schema, &job);
        }
        for job in evaluations {
            scheduled_evaluation::run(&session, &schema, &job);
        }
    }
}

/// What providers can be asked now; true when something was asked.
fn ask_providers_once(session: &Session, schema: &str) -> Result<bool, Failure> {
    let mut jobs = Jobs::new(session, schema)?;
    let mut asked = false;
    while jobs.turn(NAP)? == Turn::Busy {
        asked = true;
    }
    Ok(asked)
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
    spi::texts(&format!("SELECT j::pg_catalog.text FROM {schema}._due_jobs($1) j"), &[by_hand.into()])
}

fn postpone(schema: &str, job: &str, stage: &str, delay: &str) {
    let args = [job.into(), stage.into(), delay.into()];
    Spi::run_with_args(
        &format!("SELECT {schema}._postpone_job($1::pg_catalog.uuid, $2, $3::pg_catalog.interval)"),
        &args,
    )
    .unwrap_or_report();
}

fn next_due_here(schema: &str) -> i64 {
    next_due(schema, settings::MAX_TRAINERS.get() > 0)
}

fn next_due(schema: &str, with_jobs: bool) -> i64 {
    let query = format!("SELECT {schema}._next_due_at($1)");
    let due = Spi::get_one_with_args::<TimestampWithTimeZone>(&query, &[with_jobs.into()]).unwrap_or_report();
    due.map_or(NEVER, pg_sys::TimestampTz::from)
}

fn call(query: &str) {
    Spi::run(query).unwrap_or_report();
}
