//! When something kept in this backend is out of date: Postgres' own invalidation messages, sent at commit.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use pgrx::prelude::*;

/// The tables whose changes matter, and how often one of them (or everything) was invalidated.
static WATCHED: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];
static CHANGES: AtomicU64 = AtomicU64::new(0);
static NEXT: AtomicUsize = AtomicUsize::new(0);

#[pg_guard]
unsafe extern "C-unwind" fn invalidated(_unused: pg_sys::Datum, relation: pg_sys::Oid) {
    let is_watched = |watched: &AtomicU32| watched.load(Relaxed) == relation.to_u32();
    if relation == pg_sys::InvalidOid || WATCHED.iter().any(is_watched) {
        CHANGES.fetch_add(1, Relaxed);
    }
}

/// A number that differs from the last one when the table may have changed since.
pub fn generation(table: pg_sys::Oid) -> u64 {
    if WATCHED.iter().all(|watched| watched.load(Relaxed) != table.to_u32()) {
        let place = NEXT.fetch_add(1, Relaxed);
        if place == 0 {
            // SAFETY: registered once per backend, on its main thread; the callback only touches atomics.
            unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), pg_sys::Datum::from(0)) };
        }
        WATCHED[place % WATCHED.len()].store(table.to_u32(), Relaxed);
        CHANGES.fetch_add(1, Relaxed); // what was kept of it before was not watched
    }
    CHANGES.load(Relaxed)
}

/// Tells all backends, at commit, that a table changed.
pub fn invalidate(table: pg_sys::Oid) {
    // SAFETY: a plain call inside a transaction; it queues a message.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) };
}
