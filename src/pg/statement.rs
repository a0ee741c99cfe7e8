//! The running statement, for values that may be kept while it runs.

use pgrx::prelude::*;

/// Differs between two statements, and between two moments of one transaction with a write between them.
pub fn identity() -> (i64, u32) {
    // SAFETY: two reads of the state of the running transaction; `false` does not use the command id up.
    unsafe { (pg_sys::GetCurrentStatementStartTimestamp(), pg_sys::GetCurrentCommandId(false)) }
}
