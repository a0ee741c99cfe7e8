//! Settings `pg_finetune.*`: name, default, who may change it and why that default.

use std::ffi::{CStr, CString};

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Training processes at one time in the whole server. One: training wants a core to itself.
pub static MAX_TRAINERS: GucSetting<i32> = GucSetting::<i32>::new(1);
/// Seconds between looks at all databases for work that nobody announced (a restored dump, COMMIT PREPARED).
pub static SWEEP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(300);
/// Seconds without a heartbeat after which another process may take a job over.
pub static LEASE: GucSetting<i32> = GucSetting::<i32>::new(30);
/// Kilobytes of vectors that one training may hold.
pub static TRAINING_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(1024 * 1024);
/// Threads that one training computes on. One: whoever gives it more takes them from queries.
pub static TRAINING_THREADS: GucSetting<i32> = GucSetting::<i32>::new(1);
/// Milliseconds between the first polls of a job at a provider; back-off, searches and longer intervals are multiples.
pub static POLL_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// Seconds that a provider has for an answer; more for large files.
pub static HTTP_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30);
/// Whether a deployed model that ranks worse on live impressions than what served before it is taken back by itself.
pub static AUTO_ROLLBACK: GucSetting<bool> = GucSetting::<bool>::new(true);
pub type Text = GucSetting<Option<CString>>;
/// Origins that lie inside this machine or network, or speak http, and may be used nevertheless.
pub static ALLOWED_ORIGINS: Text = GucSetting::<Option<CString>>::new(None);
/// File with certificates that providers' are checked against, beside the usual ones.
pub static CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// Longest chunk that is captured, in bytes: a text beyond it is no chunk, and would be copied into every dataset.
pub static MAX_CHUNK_BYTES: GucSetting<i32> = GucSetting::<i32>::new(256 * 1024);
/// Name of the step at which workers wait on an advisory lock: for crash tests only.
pub static FAILPOINT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

pub fn define() {
    GucRegistry::define_int_guc(
        c"pg_finetune.max_trainers",
        c"Maximum number of training processes in this server.",
        c"Each also needs a free slot of max_worker_processes.",
        &MAX_TRAINERS,
        0,
        32,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_finetune.sweep_interval",
        c"Time between looks at all databases for work that nobody announced.",
        c"Ordinary work wakes the worker at commit and does not wait for this.",
        &SWEEP_INTERVAL,
        1,
        86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"pg_finetune.lease",
        c"Time without a heartbeat after which a job is taken over.",
        c"The write of a process that lost its lease touches nothing.",
        &LEASE,
        1,
        3_600,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"pg_finetune.training_memory",
        c"Memory for the vectors of one training.",
        c"Those of a larger dataset are kept in a temporary file and read a part at a time; the model is the same.",
        &TRAINING_MEMORY,
        1024,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"pg_finetune.training_threads",
        c"Threads that one training computes on.",
        c"They never touch Postgres, and the model is the same with any number.",
        &TRAINING_THREADS,
        1,
        64,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_finetune.poll_interval",
        c"Time between the first polls of a job at a provider.",
        c"Later polls come up to thirty times as rarely; waits after failures and the search for a lost job follow it, too.",
        &POLL_INTERVAL,
        20,
        600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_finetune.http_timeout",
        c"Time that a provider has for an answer.",
        c"Uploads have one second more for every 100 kB.",
        &HTTP_TIMEOUT,
        1,
        600,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_bool_guc(
        c"pg_finetune.auto_rollback",
        c"Whether a deployed model that ranks worse than what served before it is rolled back by itself.",
        c"For one deployment: set_auto_rollback(false). Without it, shadow_status and worker_status() say so.",
        &AUTO_ROLLBACK,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_finetune.ca_file",
        c"File with certificates of authorities that providers are checked against, beside the public ones.",
        c"PEM; for trainers and gateways of your own.",
        &CA_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"pg_finetune.max_chunk_bytes",
        c"Longest text of a signal that is captured, in bytes.",
        c"Longer ones are set aside in capture_failure and counted in capture_status.",
        &MAX_CHUNK_BYTES,
        1,
        64 * 1024 * 1024,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_finetune.allowed_origins",
        c"Origins inside this machine or network, and http ones, that providers of any role may name.",
        c"scheme://host:port, separated by commas. Servers of a superuser need no entry.",
        &ALLOWED_ORIGINS,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"pg_finetune.failpoint",
        c"Step at which workers wait while somebody holds an advisory lock.",
        c"For crash tests; leave empty.",
        &FAILPOINT,
        GucContext::Suset,
        GucFlags::NO_SHOW_ALL,
    );
    // SAFETY: a plain call with a static string, in _PG_init on the main thread.
    unsafe { pgrx::pg_sys::MarkGUCPrefixReserved(c"pg_finetune".as_ptr()) };
}

/// Runs `body` with other values of settings, which end with it (or with the transaction that an error aborts). Settings
/// that nobody defined yet are taken as placeholders.
pub fn with_local<T>(settings: &[(&CStr, &CStr)], body: impl FnOnce() -> T) -> T {
    // SAFETY: plain calls with C strings on the main thread; the nest level is closed again right after `body`, and by
    // the end of the transaction if `body` raises.
    unsafe {
        let level = pgrx::pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            pgrx::pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pgrx::pg_sys::GucContext::PGC_USERSET,
                pgrx::pg_sys::GucSource::PGC_S_SESSION,
                pgrx::pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        let result = body();
        pgrx::pg_sys::AtEOXact_GUC(true, level);
        result
    }
}
