//! What a written data point adds to a user's profile, and what it takes away; and when a transaction ends.

use std::ffi::CStr;

use pgrx::prelude::*;

use super::errors::UserError;
use super::own_table::Row;
use super::triggers::{bytes_of, trigger_data};
use super::vector::Vector;

/// A vector that came to (sign 1) or went from (-1) what a user did.
pub struct Step {
    pub user: String,
    pub action: String,
    pub vector: Vector,
    pub sign: i64,
}

/// The end of a savepoint, or of the whole transaction.
#[derive(Clone, Copy)]
pub enum Ending {
    Kept { id: u32, parent: u32 },
    Undone { id: u32 },
    AboutToCommit,
    All,
}

/// AFTER ROW on training_data_point: the steps from the old row to the new one.
pub fn steps_of_trigger(fcinfo: pg_sys::FunctionCallInfo) -> Result<[Option<Step>; 2], UserError> {
    // SAFETY: a trigger's context is its TriggerData, whose relation and tuples live during the call.
    unsafe {
        let data = trigger_data(fcinfo)?;
        let descriptor = (*data.tg_relation).rd_att;
        let row = |tuple| Row { tuple, descriptor };
        Ok(match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => [None, step(&row(data.tg_trigtuple), 1)],
            pg_sys::TRIGGER_EVENT_DELETE => [step(&row(data.tg_trigtuple), -1), None],
            _ => steps(&row(data.tg_trigtuple), &row(data.tg_newtuple)),
        })
    }
}

/// The steps from a row to its next version.
pub fn steps(old: &Row, new: &Row) -> [Option<Step>; 2] {
    if !are_the_same(old, new, c"embedding") {
        return [step(old, -1), step(new, 1)];
    }
    if are_the_same(old, new, c"user_action") && are_the_same(old, new, c"user_id") {
        return [None, None];
    }
    let [before, after] = [old, new].map(|row| Some((row.get(c"user_id")?, row.get(c"user_action")?)));
    if before.is_none() && after.is_none() {
        return [None, None];
    }
    // Fetched once: most who act upon an item leave its vector alone.
    let vector: Option<Vector> = new.get(c"embedding");
    [(before, -1), (after, 1)].map(|(whose, sign)| {
        let ((user, action), vector) = (whose?, vector.clone()?);
        Some(Step { user, action, vector, sign })
    })
}

/// A vector that nobody touched is the same toast: nothing is fetched to find that out.
fn are_the_same(old: &Row, new: &Row, column: &CStr) -> bool {
    let bytes = |row: &Row| {
        let mut is_null = false;
        // SAFETY: the tuple is of the descriptor, lives during the comparison, and the column is of variable length.
        unsafe {
            let number = pg_sys::SPI_fnumber(row.descriptor, column.as_ptr());
            let value = pg_sys::SPI_getbinval(row.tuple, row.descriptor, number, &mut is_null);
            (!is_null).then(|| bytes_of(value, -1))
        }
    };
    bytes(old) == bytes(new)
}

/// None for what counts in no profile: an item not acted upon, or one without a vector.
fn step(row: &Row, sign: i64) -> Option<Step> {
    let action: String = row.get(c"user_action")?;
    let vector: Vector = row.get(c"embedding")?;
    Some(Step { user: row.get(c"user_id")?, action, vector, sign })
}

/// The transaction or savepoint that is open now.
pub fn savepoint() -> u32 {
    // SAFETY: reads the state of the running transaction.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

static WATCHER: std::sync::OnceLock<fn(Ending)> = std::sync::OnceLock::new();

/// Calls `watcher` whenever a transaction or a savepoint ends, from now on.
pub fn watch(watcher: fn(Ending)) {
    if WATCHER.set(watcher).is_ok() {
        // SAFETY: registered once for the life of this process; the callbacks are functions of this library.
        unsafe {
            pg_sys::RegisterXactCallback(Some(transaction_ends), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(savepoint_ends), std::ptr::null_mut());
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE,
    };
    let Some(watcher) = WATCHER.get() else { return };
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => watcher(Ending::AboutToCommit),
        XACT_EVENT_ABORT | XACT_EVENT_COMMIT | XACT_EVENT_PREPARE => watcher(Ending::All),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn savepoint_ends(
    event: pg_sys::SubXactEvent::Type,
    id: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    match (event, WATCHER.get()) {
        (SUBXACT_EVENT_COMMIT_SUB, Some(watcher)) => watcher(Ending::Kept { id, parent }),
        (SUBXACT_EVENT_ABORT_SUB, Some(watcher)) => watcher(Ending::Undone { id }),
        _ => {}
    }
}
