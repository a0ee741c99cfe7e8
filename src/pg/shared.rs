//! What backends and workers tell each other: a named segment of dynamic shared memory, so that it works
//! with and without shared_preload_libraries. Only atomics, all zero at birth; lost and remade in a crash.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, Ordering::SeqCst};

use pgrx::pg_sys;

const DATABASES: usize = 1024;
const TRAINERS: usize = 32;
/// due_at of a database in which nothing will ever be due by itself.
pub const NEVER: i64 = i64::MAX;

/// One database that has, or may have, work.
#[repr(C)]
pub struct DatabaseSlot {
    pub oid: AtomicU32,
    /// Counts announcements; work is due while it differs from `served`.
    pub wakes: AtomicU32,
    pub served: AtomicU32,
    /// TimestampTz of the next work that comes due by itself.
    pub due_at: AtomicI64,
    pub failures: AtomicU32,
    /// Process that works there now; 0 = none, STARTING = registered and not yet connected.
    worker_pid: AtomicI32,
    worker_since: AtomicI64,
}

const STARTING: i32 = -1;
const FAILED: i32 = -2;

/// What became of the worker that was started for a database.
pub enum WorkerState {
    None,
    Running,
    /// It was ended from outside, after so many microseconds.
    Died(i64),
    /// It ended itself, or could not connect.
    Failed,
}

impl DatabaseSlot {
    /// Whether somebody announced work that no round has looked at.
    pub fn announced(&self) -> bool {
        self.wakes.load(SeqCst) != self.served.load(SeqCst)
    }

    pub fn worker(&self, now: i64, start_limit: i64) -> WorkerState {
        match self.worker_pid.load(SeqCst) {
            0 => WorkerState::None,
            STARTING if now - self.worker_since.load(SeqCst) < start_limit => WorkerState::Running,
            STARTING | FAILED => WorkerState::Failed,
            pid if alive(pid) => WorkerState::Running,
            _ => WorkerState::Died(now - self.worker_since.load(SeqCst)),
        }
    }

    pub fn worker_starts(&self, now: i64) {
        self.worker_since.store(now, SeqCst);
        self.worker_pid.store(STARTING, SeqCst);
    }

    pub fn worker_runs(&self) {
        self.worker_pid.store(std::process::id() as i32, SeqCst);
    }

    pub fn worker_failed(&self) {
        self.worker_pid.store(FAILED, SeqCst);
    }

    pub fn worker_ended(&self) {
        self.worker_pid.store(0, SeqCst);
    }
}

/// One process that trains.
#[repr(C)]
pub struct TrainerSlot {
    pub pid: AtomicI32,
    pub database: AtomicU32,
}

#[repr(C)]
pub struct Shared {
    pub launcher_pid: AtomicI32,
    launcher_latch: AtomicPtr<pg_sys::Latch>,
    pub sweeps: AtomicU32,
    pub databases: [DatabaseSlot; DATABASES],
    pub trainers: [TrainerSlot; TRAINERS],
}

/// The segment of this server; attaches on first use, which may raise an ERROR: never call it after commit.
pub fn shared() -> &'static Shared {
    thread_local!(static ATTACHED: std::cell::Cell<Option<&'static Shared>> = const { std::cell::Cell::new(None) });
    ATTACHED.get().unwrap_or_else(|| {
        let mut found = false;
        // SAFETY: the segment is at least as large as Shared, stays mapped until this process ends, is zeroed by
        // the init callback of its creator, and all-zero bytes are a valid Shared.
        let segment: &'static Shared = unsafe {
            let start =
                pg_sys::GetNamedDSMSegment(c"pg_finetune".as_ptr(), size_of::<Shared>(), Some(zero), &mut found);
            &*start.cast::<Shared>()
        };
        ATTACHED.set(Some(segment));
        segment
    })
}

unsafe extern "C-unwind" fn zero(segment: *mut std::ffi::c_void) {
    // SAFETY: called by the creator of the segment, with its start and before anybody else sees it.
    unsafe { std::ptr::write_bytes(segment.cast::<u8>(), 0, size_of::<Shared>()) };
}

impl Shared {
    /// The slot of a database, taken if it has none. None when all slots are taken: the next sweep looks again.
    pub fn database(&self, oid: u32) -> Option<&DatabaseSlot> {
        self.known(oid).or_else(|| {
            self.databases.iter().find(|slot| {
                let taken = slot.oid.compare_exchange(0, oid, SeqCst, SeqCst);
                if taken.is_ok() {
                    slot.due_at.store(NEVER, SeqCst);
                }
                taken.is_ok() || taken == Err(oid)
            })
        })
    }

    pub fn known(&self, oid: u32) -> Option<&DatabaseSlot> {
        self.databases.iter().find(|slot| slot.oid.load(SeqCst) == oid)
    }

    /// Says that a database has work now, and wakes the launcher. Cannot fail, so it is safe after commit.
    pub fn announce(&self, oid: u32) {
        if let Some(slot) = self.database(oid) {
            slot.wakes.fetch_add(1, SeqCst);
        }
        self.wake_launcher();
    }

    pub fn wake_launcher(&self) {
        let latch = self.launcher_latch.load(SeqCst);
        if !latch.is_null() {
            // SAFETY: a latch of a process slot in main shared memory: valid memory for as long as the server runs,
            // and setting the latch of a process that has gone only wakes its successor once for nothing.
            unsafe { pg_sys::SetLatch(latch) };
        }
    }

    /// Makes this process the launcher; false when another live one is.
    pub fn become_launcher(&self) -> bool {
        let me = std::process::id() as i32;
        let current = self.launcher_pid.load(SeqCst);
        if current != 0 && current != me && alive(current) {
            return false;
        }
        if self.launcher_pid.compare_exchange(current, me, SeqCst, SeqCst).is_err() {
            return false;
        }
        // SAFETY: MyLatch of this process, set up before any worker code runs.
        self.launcher_latch.store(unsafe { pg_sys::MyLatch }, SeqCst);
        true
    }

    pub fn launcher_alive(&self) -> bool {
        let pid = self.launcher_pid.load(SeqCst);
        pid != 0 && alive(pid)
    }

    /// Takes a trainer slot for this process; None when `limit` are busy.
    pub fn take_trainer_slot(&self, database: u32, limit: usize) -> Option<&TrainerSlot> {
        let me = std::process::id() as i32;
        self.trainers.iter().take(limit).find(|slot| {
            let pid = slot.pid.load(SeqCst);
            let free = pid == 0 || !alive(pid);
            let taken = free && slot.pid.compare_exchange(pid, me, SeqCst, SeqCst).is_ok();
            if taken {
                slot.database.store(database, SeqCst);
            }
            taken
        })
    }

    pub fn busy_trainers(&self) -> usize {
        self.trainers.iter().filter(|t| matches!(t.pid.load(SeqCst), pid if pid != 0 && alive(pid))).count()
    }

    /// Clears the slots of trainers that ended, and announces their databases: what they left is due.
    pub fn reap_trainers(&self) {
        for slot in &self.trainers {
            let pid = slot.pid.load(SeqCst);
            if pid != 0 && !alive(pid) && slot.pid.compare_exchange(pid, 0, SeqCst, SeqCst).is_ok() {
                self.announce(slot.database.load(SeqCst));
            }
        }
    }
}

/// Whether a process with this pid exists.
fn alive(pid: i32) -> bool {
    // SAFETY: signal 0 only asks.
    unsafe { libc::kill(pid, 0) == 0 }
}
