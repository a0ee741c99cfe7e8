//! The running statement, for values that may be kept while it runs.

use pgrx::prelude::*;

/// Differs between two statements, and between two moments of one transaction with a write between them.
pub fn identity() -> (i64, u32) {
    // SAFETY: two reads of the state of the running transaction; `false` does not use the command id up.
    unsafe { (pg_sys::GetCurrentStatementStartTimestamp(), pg_sys::GetCurrentCommandId(false)) }
}

/// Whether what others have committed by now is seen: what an older snapshot shows must not be kept beyond it.
pub fn sees_what_is_committed() -> bool {
    // SAFETY: a read of the state of the running transaction.
    unsafe { pg_sys::XactIsoLevel <= pg_sys::XACT_READ_COMMITTED as i32 }
}

/// Runs something that reads tables where no statement runs: while a transaction is about to commit.
pub fn with_snapshot<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: the transaction is still whole; what is pushed is popped, or goes with the transaction when `body` fails.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = body();
        pg_sys::PopActiveSnapshot();
        result
    }
}
