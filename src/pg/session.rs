//! Where transactions begin and end: in a background worker, or in a procedure that may commit (CALL run_due_work()).
//! Between two transactions no snapshot and no lock is held: that is where training happens.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, UnwindSafe};

use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::prelude::*;

/// An ERROR that ended a transaction, in a form that outlives it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Home {
    Worker,
    Procedure,
}

pub struct Session(Home);

impl Session {
    /// In a background worker that is connected to a database.
    pub fn worker() -> Self {
        Self(Home::Worker)
    }

    /// In a procedure called outside a transaction block.
    ///
    /// # Errors
    /// When the caller's transaction may not be ended here.
    pub fn procedure(fcinfo: pg_sys::FunctionCallInfo, name: &str) -> Result<Self, crate::pg::errors::UserError> {
        // SAFETY: fcinfo comes from the function manager; for CALL its context is a CallContext node.
        let atomic = unsafe {
            let context = (*fcinfo).context;
            context.is_null()
                || (*context).type_ != pg_sys::NodeTag::T_CallContext
                || (*context.cast::<pg_sys::CallContext>()).atomic
        };
        if atomic {
            return Err(crate::pg::errors::UserError::new(
                PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_TERMINATION,
                format!("{name} cannot run inside a transaction block or function"),
            )
            .detail(
                "It commits between its steps, so that nothing is locked while a model trains or a provider answers.",
            )
            .hint("CALL it on its own, outside BEGIN."));
        }
        // SAFETY: a SPI level that allows commits, below which transaction() opens its own levels.
        unsafe { pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as c_int) };
        Ok(Self(Home::Procedure))
    }

    pub fn is_worker(&self) -> bool {
        self.0 == Home::Worker
    }

    /// Runs `body` in a transaction of its own. An ERROR in it undoes the transaction and comes back as a value,
    /// so that it can be recorded in the next one; a cancel or shutdown passes through.
    pub fn transaction<T>(&self, body: impl FnOnce() -> T + UnwindSafe) -> Result<T, Failure> {
        let outer = self.begin();
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| Ok(body())))
            .catch_others(|error| match failure(&error) {
                Some(failure) => Err(failure),
                None => error.rethrow(),
            })
            .catch_rust_panic(|error| match failure(&error) {
                Some(failure) => Err(failure),
                None => error.rethrow(),
            })
            .execute();
        match outcome {
            Ok(value) => {
                self.commit(outer);
                Ok(value)
            }
            Err(failure) => {
                self.rollback(outer);
                Err(failure)
            }
        }
    }

    fn begin(&self) -> Outer {
        // SAFETY: no transaction (worker) or a fresh one (procedure) is open, and a snapshot is pushed for its body.
        // The procedure's body runs in a subtransaction: its transaction must survive an error to be committed.
        unsafe {
            if self.is_worker() {
                pg_sys::SetCurrentStatementStartTimestamp();
                pg_sys::StartTransactionCommand();
            }
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let outer = Outer { memory: pg_sys::CurrentMemoryContext, owner: pg_sys::CurrentResourceOwner };
            if !self.is_worker() {
                pg_sys::BeginInternalSubTransaction(std::ptr::null());
                pg_sys::MemoryContextSwitchTo(outer.memory);
            }
            outer
        }
    }

    fn commit(&self, outer: Outer) {
        // SAFETY: pops the snapshot pushed by begin and ends the transactions that it opened.
        unsafe {
            if self.is_worker() {
                pg_sys::PopActiveSnapshot();
                pg_sys::CommitTransactionCommand();
                pg_sys::pgstat_report_stat(true);
            } else {
                pg_sys::ReleaseCurrentSubTransaction();
                self.back_to(outer);
            }
        }
    }

    fn rollback(&self, outer: Outer) {
        // SAFETY: the error has been caught and copied; aborting releases snapshots, locks and memory.
        unsafe {
            if self.is_worker() {
                pg_sys::AbortCurrentTransaction();
                pg_sys::pgstat_report_stat(true);
            } else {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                self.back_to(outer);
            }
        }
    }

    /// Leaves the subtransaction of a procedure and commits, with what was current before it.
    unsafe fn back_to(&self, outer: Outer) {
        // SAFETY: both were current in begin and live as long as the procedure's transaction.
        unsafe {
            pg_sys::MemoryContextSwitchTo(outer.memory);
            pg_sys::CurrentResourceOwner = outer.owner;
            pg_sys::PopActiveSnapshot();
            pg_sys::SPI_commit();
        }
    }
}

/// What was current when a transaction began.
struct Outer {
    memory: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl Drop for Session {
    fn drop(&mut self) {
        // While an error unwinds, Postgres cleans SPI up by itself.
        if !self.is_worker() && !std::thread::panicking() {
            // SAFETY: closes the level opened by procedure().
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

/// The error as a value, or None for one that must end the process or statement.
fn failure(error: &CaughtError) -> Option<Failure> {
    let (CaughtError::PostgresError(e) | CaughtError::ErrorReport(e) | CaughtError::RustPanic { ereport: e, .. }) =
        error;
    let passes = matches!(
        e.sql_error_code(),
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
            | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_DATABASE_DROPPED
    );
    (!passes).then(|| describe(e))
}

fn describe(e: &ErrorReportWithLevel) -> Failure {
    Failure {
        code: sqlstate(e.sql_error_code() as i32),
        message: e.message().to_owned(),
        detail: e.detail().map(str::to_owned),
        hint: e.hint().map(str::to_owned),
    }
}

/// The error code of five characters; the inverse of `sqlstate`.
pub fn code_of(sqlstate: &str) -> PgSqlErrorCode {
    let packed = sqlstate.bytes().rev().fold(0, |packed, c| (packed << 6) | i32::from(c.wrapping_sub(b'0') & 0x3f));
    PgSqlErrorCode::from(packed)
}

/// The five characters of an error code (Postgres packs six bits each, lowest first).
pub fn sqlstate(code: i32) -> String {
    (0..5).map(|i| char::from(((code >> (6 * i)) & 0x3f) as u8 + b'0')).collect()
}
