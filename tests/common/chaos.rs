//! Freezing and killing workers at named steps.

use super::{execute, value, wait_until, Client};
use std::time::Duration;

/// Keys of the advisory lock that freezes a worker at a failpoint (src/worker/failpoint.rs).
pub const LOCK: &str = "1885824628, 1";
const PATIENCE: Duration = Duration::from_secs(60);

/// Sets or clears the failpoint for workers that start from now on.
pub fn failpoint(client: &mut Client, step: &str) {
    execute(client, &format!("ALTER SYSTEM SET pg_finetune.failpoint = '{step}'"));
    execute(client, "SELECT pg_reload_conf()");
    wait_until(PATIENCE, "the failpoint is set", || {
        let mut fresh = value::<String>(
            client,
            "SELECT COALESCE(max(setting), '') FROM pg_file_settings WHERE name = 'pg_finetune.failpoint'",
        );
        fresh.retain(|c| c != '\'');
        fresh == step
    });
}

/// Pid of the worker that waits at the failpoint.
pub fn frozen(client: &mut Client) -> Option<i32> {
    let sql = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1885824628 AND NOT granted LIMIT 1";
    client.query_opt(sql, &[]).unwrap().map(|row| row.get(0))
}

/// Freezes the next worker that comes to `step`, does what makes it come there, and returns its pid.
pub fn freeze(client: &mut Client, step: &str, then: impl FnOnce(&mut Client)) -> i32 {
    failpoint(client, step);
    execute(client, &format!("SELECT pg_advisory_lock({LOCK})"));
    then(client);
    wait_until(PATIENCE, &format!("a worker stands at \"{step}\""), || frozen(client).is_some());
    let pid = frozen(client).unwrap();
    failpoint(client, "");
    pid
}
