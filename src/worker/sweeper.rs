//! The sweeper: connects to the shared catalogs only, and announces every database for a look.
//! Runs after a start of the server and then rarely; ordinary work announces itself at commit.

use std::sync::atomic::Ordering::SeqCst;

use crate::pg::catalog::connectable_databases;
use crate::pg::process;
use crate::pg::session::Session;
use crate::pg::shared::shared;

pub fn main() -> ! {
    process::install_signal_handlers();
    process::connect(None);
    let databases = Session::worker().transaction(connectable_databases).unwrap_or_default();
    let shared = shared();
    for slot in &shared.databases {
        let oid = slot.oid.load(SeqCst);
        if oid != 0 && !databases.contains(&oid) {
            slot.oid.store(0, SeqCst); // dropped
        }
    }
    for oid in databases {
        shared.announce(oid);
    }
    process::exit(process::EXIT_DONE)
}
