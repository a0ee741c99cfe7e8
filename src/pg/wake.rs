//! Wakes the worker when the transaction that made work for it commits.

use std::cell::Cell;
use std::ffi::c_void;

use pgrx::prelude::*;

use super::{process, shared::shared};

thread_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    static REQUESTED: Cell<bool> = const { Cell::new(false) };
}

/// Asks for the worker to look at this database once the current transaction has committed.
pub fn wake_at_commit() {
    shared(); // attach now, where an error is still allowed
    if !REGISTERED.replace(true) {
        // SAFETY: the callback is a static function that neither raises nor allocates.
        unsafe { pg_sys::RegisterXactCallback(Some(at_end_of_transaction), std::ptr::null_mut()) };
    }
    REQUESTED.set(true);
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end_of_transaction(event: pg_sys::XactEvent::Type, _unused: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    match event {
        XACT_EVENT_COMMIT if REQUESTED.replace(false) => {
            let shared = shared();
            // SAFETY: reading a global of this backend.
            shared.announce(unsafe { pg_sys::MyDatabaseId }.to_u32());
            if !shared.launcher_alive() {
                process::start_launcher();
            }
        }
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => REQUESTED.set(false),
        _ => {}
    }
}
