//! Background processes: how they are registered, connected, stopped and put to sleep.

use std::ffi::{c_char, c_int, CStr};
use std::time::Duration;

use pgrx::prelude::*;

/// Exit code that asks the postmaster for a restart after the restart time.
pub const EXIT_RESTART: i32 = 1;
/// Exit code that ends a process for good.
pub const EXIT_DONE: i32 = 0;

const RESTART_SECONDS: c_int = 1;

/// Registers the launcher with the postmaster; only while preloading.
pub fn register_launcher() {
    let mut worker = launcher();
    // SAFETY: called from _PG_init in the postmaster with a fully initialised struct.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
}

/// Starts a launcher from a backend of a server that does not preload the library; false = no free slot.
pub fn start_launcher() -> bool {
    register(launcher())
}

/// Starts the process that looks for databases.
pub fn start_sweeper() -> bool {
    register(worker(c"pg_finetune sweeper", c"pg_finetune_sweeper_main", 0, "", pg_sys::BGW_NEVER_RESTART, true))
}

/// Starts the short-lived worker of a database.
pub fn start_database_worker(database: u32) -> bool {
    register(worker(c"pg_finetune worker", c"pg_finetune_worker_main", database, "", pg_sys::BGW_NEVER_RESTART, true))
}

/// Starts a process that trains one job.
pub fn start_trainer(database: u32, job: &str) -> bool {
    register(worker(
        c"pg_finetune trainer",
        c"pg_finetune_trainer_main",
        database,
        job,
        pg_sys::BGW_NEVER_RESTART,
        true,
    ))
}

fn launcher() -> pg_sys::BackgroundWorker {
    worker(c"pg_finetune launcher", c"pg_finetune_launcher_main", 0, "", RESTART_SECONDS, false)
}

fn register(mut worker: pg_sys::BackgroundWorker) -> bool {
    // SAFETY: a fully initialised struct; no handle is asked for, so nothing is allocated (this runs after commit, too).
    unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, std::ptr::null_mut()) }
}

fn worker(
    name: &CStr,
    entry: &CStr,
    database: u32,
    extra: &str,
    restart: c_int,
    connects: bool,
) -> pg_sys::BackgroundWorker {
    let connection = if connects { pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION } else { 0 };
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | connection) as c_int,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: restart,
        bgw_main_arg: pg_sys::Datum::from(database),
        ..Default::default()
    };
    copy(&mut worker.bgw_name, name.to_bytes());
    copy(&mut worker.bgw_type, name.to_bytes());
    copy(&mut worker.bgw_library_name, b"pg_finetune");
    copy(&mut worker.bgw_function_name, entry.to_bytes());
    copy(&mut worker.bgw_extra, extra.as_bytes());
    worker
}

fn copy(field: &mut [c_char], text: &[u8]) {
    assert!(text.len() < field.len(), "text does not fit into a field of {} bytes", field.len());
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from as c_char;
    }
}

// Postgres' handlers themselves: pgrx's wrappers around them save a jump buffer, which has no place in a handler.
extern "C-unwind" {
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
    fn procsignal_sigusr1_handler(signal: c_int);
}

/// First thing in every process: Postgres' own handlers, so that a shutdown or a terminate is served at the next
/// interrupt check, whatever runs; SIGUSR1 must be served or DROP DATABASE anywhere in the server would hang.
pub fn install_signal_handlers() {
    // SAFETY: handlers of Postgres itself, installed on the main thread of a fresh background worker.
    unsafe {
        pg_sys::pqsignal_be(pg_sys::SIGTERM as c_int, Some(die));
        pg_sys::pqsignal_be(pg_sys::SIGHUP as c_int, Some(SignalHandlerForConfigReload));
        pg_sys::pqsignal_be(pg_sys::SIGUSR1 as c_int, Some(procsignal_sigusr1_handler));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Settings of a database or role must not reach workers: these win over both.
const PINNED: [(&CStr, &CStr); 12] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"statement_timeout", c"0"),
    (c"transaction_timeout", c"0"),
    (c"lock_timeout", c"10s"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"session_replication_role", c"origin"),
    (c"row_security", c"off"),
    (c"standard_conforming_strings", c"on"),
    (c"TimeZone", c"UTC"),
    (c"extra_float_digits", c"1"),
];

/// Connects to a database as the bootstrap superuser; None = to the shared catalogs only.
pub fn connect(database: Option<u32>) {
    // SAFETY: called once per process, before any transaction; names and values are static C strings.
    unsafe {
        for (name, value) in PINNED {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
        match database {
            Some(oid) => pg_sys::BackgroundWorkerInitializeConnectionByOid(oid.into(), pg_sys::InvalidOid, 0),
            None => pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0),
        }
    }
}

/// Text of this worker's registration (the job id of a trainer).
pub fn extra() -> String {
    // SAFETY: MyBgworkerEntry is set in every background worker; bgw_extra was written by `copy`, so it ends in a NUL.
    unsafe { CStr::from_ptr((*pg_sys::MyBgworkerEntry).bgw_extra.as_ptr()) }.to_string_lossy().into_owned()
}

/// Sleeps until the latch is set or the time is over, then serves interrupts and configuration reloads.
pub fn wait(timeout: Duration) {
    sleep(None, timeout);
}

/// The same, until there is something to read, too.
pub fn wait_also_for(socket: std::os::fd::RawFd, timeout: Duration) {
    sleep(Some(socket), timeout);
}

fn sleep(socket: Option<std::os::fd::RawFd>, timeout: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let readable = if socket.is_some() { pg_sys::WL_SOCKET_READABLE } else { 0 };
    // SAFETY: waiting on this process' own latch and on an open socket of its own, on the main thread.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            (events | readable) as c_int,
            socket.unwrap_or(pg_sys::PGINVALID_SOCKET),
            timeout.as_millis() as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts!();
    // SAFETY: the flag is only set by the SIGHUP handler; reloading is allowed outside transactions.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// What pg_stat_activity shows for this process.
pub fn report_activity(text: &str) {
    let Ok(text) = std::ffi::CString::new(text) else {
        return;
    };
    // SAFETY: Postgres copies the text.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
}

/// Ends this process.
pub fn exit(code: i32) -> ! {
    // SAFETY: the ordinary way out of a background worker; runs Postgres' clean-up.
    unsafe { pg_sys::proc_exit(code) };
    unreachable!("proc_exit does not return")
}

/// The database that this process is connected to.
pub fn database() -> u32 {
    // SAFETY: reads a global of this process.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// Now, in Postgres' microseconds.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Whether the server is a standby, or being upgraded by pg_upgrade: no work then.
pub fn read_only_server() -> bool {
    // SAFETY: two reads of server state.
    unsafe { pg_sys::RecoveryInProgress() || pg_sys::IsBinaryUpgrade }
}

/// Whether the library is being loaded through shared_preload_libraries.
pub fn preloading() -> bool {
    // SAFETY: a read of a flag of the postmaster.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade }
}

/// Bytes that this process has had in memory at most, what it touched of shared memory included.
pub fn peak_memory() -> u64 {
    // SAFETY: the call fills the struct, which is plain data.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    usage.ru_maxrss.max(0) as u64 * unit
}
