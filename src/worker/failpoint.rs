//! Named steps at which a test can freeze a worker: while it holds the advisory lock, the worker waits for it.

use pgrx::prelude::*;

use crate::pg::session::Session;
use crate::pg::settings;

/// First key of the advisory lock; the second is 1.
const LOCK_CLASS: i32 = 0x70_67_66_74;

/// Waits here if the setting `pg_finetune.failpoint` names this step and a test holds the lock.
pub fn reached(session: &Session, step: &str) {
    let named = settings::FAILPOINT.get().is_some_and(|name| name.to_bytes() == step.as_bytes());
    if named {
        let waited = session.transaction(|| {
            Spi::run_with_args("SET LOCAL lock_timeout = 0", &[])?;
            Spi::run_with_args("SELECT pg_catalog.pg_advisory_xact_lock_shared($1, 1)", &[LOCK_CLASS.into()])
        });
        if let Err(failure) = waited {
            warning!("failpoint {step}: {}", failure.message);
        }
    }
}
