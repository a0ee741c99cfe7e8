//! Background work: a launcher without a database connection starts a short-lived worker in every database that
//! has something due; training runs in a process of its own.

mod asking;
mod chat_evaluation;
mod database;
mod dataset;
mod evaluation;
mod failpoint;
mod http;
mod jobs;
mod launcher;
mod provider_check;
mod provider_key;
mod reembedding;
mod scheduled_evaluation;
mod shadow;
mod steps;
mod sweeper;
mod trainer;
mod training_file;

pub use database::run_due_work;
pub use evaluation::evaluate as evaluate_model;
pub use provider_check::check as check_provider;
pub use reembedding::{reembed, Wish};

use pgrx::prelude::*;

use crate::pg::process;

/// Registers what must come back after a restart of the server; does nothing unless preloaded.
pub fn register() {
    if process::preloading() {
        process::register_launcher();
    }
}

#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn pg_finetune_launcher_main(_unused: pg_sys::Datum) {
    launcher::main()
}

#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn pg_finetune_sweeper_main(_unused: pg_sys::Datum) {
    sweeper::main()
}

#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn pg_finetune_worker_main(database: pg_sys::Datum) {
    database::main(database.value() as u32)
}

#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn pg_finetune_trainer_main(database: pg_sys::Datum) {
    trainer::main(database.value() as u32)
}
