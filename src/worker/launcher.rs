//! The launcher: no connection, no query; sleeps on its latch until a commit announces work or time makes it due.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::pg::process;
use crate::pg::settings;
use crate::pg::shared::{shared, DatabaseSlot, WorkerState, NEVER};

const SECOND: i64 = 1_000_000;
/// A database worker that has not reported its pid by then could not connect.
const START_LIMIT: i64 = 10 * SECOND;
const FIRST_BACKOFF: i64 = 5 * SECOND;
const LAST_BACKOFF: i64 = 300 * SECOND;
const LONGEST_SLEEP: i64 = 60 * SECOND;

pub fn main() -> ! {
    process::install_signal_handlers();
    if !shared().become_launcher() {
        process::exit(process::EXIT_DONE); // another one runs: this registration is not needed
    }
    let mut launcher = Launcher { next_sweep: 0, not_before: HashMap::new() };
    loop {
        let sleep = if process::read_only_server() { LONGEST_SLEEP } else { launcher.round() };
        process::wait(Duration::from_micros(sleep.clamp(1_000, LONGEST_SLEEP) as u64));
    }
}

struct Launcher {
    next_sweep: i64,
    /// Databases whose worker failed, and when to try again.
    not_before: HashMap<u32, i64>,
}

impl Launcher {
    /// Starts what is due; returns for how many microseconds nothing else is.
    fn round(&mut self) -> i64 {
        let now = process::now();
        let shared = shared();
        if now >= self.next_sweep {
            let started = process::start_sweeper();
            self.next_sweep =
                now + if started { i64::from(settings::SWEEP_INTERVAL.get()) * SECOND } else { FIRST_BACKOFF };
        }
        shared.reap_trainers();
        let next = shared.databases.iter().filter_map(|slot| self.serve(slot, now)).min().unwrap_or(LONGEST_SLEEP);
        let while_training = if shared.busy_trainers() > 0 { SECOND } else { LONGEST_SLEEP };
        next.min(while_training).min(self.next_sweep - now)
    }

    /// Starts the worker of a database if it is due and none runs; returns when to look again.
    fn serve(&mut self, slot: &DatabaseSlot, now: i64) -> Option<i64> {
        let oid = slot.oid.load(SeqCst);
        if oid == 0 {
            return None;
        }
        match slot.worker(now, START_LIMIT) {
            WorkerState::Running => return Some(SECOND),
            WorkerState::Died(lived) if lived > SECOND => slot.worker_ended(),
            WorkerState::Died(_) => self.back_off(slot, oid, now, SECOND),
            WorkerState::Failed => self.back_off(slot, oid, now, FIRST_BACKOFF),
            WorkerState::None => {}
        }
        let due = if slot.announced() { now } else { slot.due_at.load(SeqCst) };
        if due == NEVER {
            return None;
        }
        let start_at = due.max(self.not_before.get(&oid).copied().unwrap_or(0));
        if start_at > now {
            return Some(start_at - now);
        }
        slot.worker_starts(now);
        if process::start_database_worker(oid) {
            return Some(SECOND);
        }
        // All of max_worker_processes are taken: worker_status() tells, the log stays quiet.
        slot.worker_ended();
        self.not_before.insert(oid, now + FIRST_BACKOFF);
        Some(FIRST_BACKOFF)
    }

    fn back_off(&mut self, slot: &DatabaseSlot, oid: u32, now: i64, first: i64) {
        let failures = slot.failures.fetch_add(1, SeqCst).min(6);
        self.not_before.insert(oid, now + (first << failures).min(LAST_BACKOFF));
        slot.worker_ended();
    }
}
