//! C side of sql/retraining.sql.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::core::schedule::{self, Schedule};
use crate::pg::errors::UserError;

/// Seconds between 1970-01-01, where chrono begins, and 2000-01-01, where Postgres begins.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// The first tick of a cron text after an instant; NULL when there is none (31 February).
#[pg_extern(sql = false, immutable, parallel_safe, strict)]
fn next_tick(
    cron: &str,
    time_zone: &str,
    after: TimestampWithTimeZone,
) -> Result<Option<TimestampWithTimeZone>, ErrorReport> {
    let schedule = Schedule::parse(cron, time_zone).map_err(|e| ErrorReport::from(explain(&e)))?;
    let unix_seconds = pg_sys::TimestampTz::from(after).div_euclid(1_000_000) + POSTGRES_EPOCH;
    let tick = schedule.next_after(unix_seconds);
    Ok(tick.and_then(|at| TimestampWithTimeZone::try_from((at - POSTGRES_EPOCH) * 1_000_000).ok()))
}

fn explain(error: &schedule::Error) -> UserError {
    let hint = match error {
        schedule::Error::Cron { .. } => {
            "Five fields: minute hour day-of-month month day-of-week; '0 0 * * 0' is every Sunday at midnight."
        }
        schedule::Error::TimeZone { .. } => {
            "SELECT name FROM pg_timezone_names; lists them, for instance 'Europe/Berlin'."
        }
    };
    UserError::invalid(error.to_string()).detail(error.detail()).hint(hint)
}
