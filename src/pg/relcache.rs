//! When something kept in this backend is out of date: Postgres' own invalidation messages, sent at commit.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrx::prelude::*;

/// The table whose changes matter, and how often it (or everything) was invalidated.
static WATCHED: AtomicU32 = AtomicU32::new(0);
static CHANGES: AtomicU64 = AtomicU64::new(0);

#[pg_guard]
unsafe extern "C-unwind" fn invalidated(_unused: pg_sys::Datum, relation: pg_sys::Oid) {
    let watched = WATCHED.load(Ordering::Relaxed);
    if relation == pg_sys::InvalidOid || relation.to_u32() == watched {
        CHANGES.fetch_add(1, Ordering::Relaxed);
    }
}

/// A number that differs from the last one when the table may have changed since.
pub fn generation(table: pg_sys::Oid) -> u64 {
    let before = WATCHED.swap(table.to_u32(), Ordering::Relaxed);
    if before != table.to_u32() {
        CHANGES.fetch_add(1, Ordering::Relaxed); // the extension was dropped and made anew
    }
    if before == 0 {
        // SAFETY: registered once per backend, on its main thread; the callback only touches two atomics.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), pg_sys::Datum::from(0)) };
    }
    CHANGES.load(Ordering::Relaxed)
}

/// Tells all backends, at commit, that a table changed.
pub fn invalidate(table: pg_sys::Oid) {
    // SAFETY: a plain call inside a transaction; it queues a message.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) };
}
