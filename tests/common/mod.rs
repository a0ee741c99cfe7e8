//! What tests against a real server share. A test file says `mod common; use common::*;` and then
//!
//! ```ignore
//! let db = Server::shared().create_database("capture");   // dropped at the end of the test
//! let mut admin = db.install("pgft");                     // CREATE EXTENSION ... SCHEMA pgft; connection of the superuser
//! assert_error!(admin, "SELECT stop_experiment('x')", "42704", "experiment \"x\"");
//! ```
//!
//! `Server::shared()` has no preload and is there for all, its worker too: a test that does the worker's work itself takes
//! `Server::by_hand()`; a test that restarts, crashes or preloads takes
//! `Server::private(&[("shared_preload_libraries", "pg_finetune")])`.

// Each test file compiles this module and uses a part of it.
#![allow(dead_code, unused_imports, unused_macros)]

mod app;
mod chaos;
mod jobs;
mod provider;
mod repository;
mod server;

pub use app::*;
pub use chaos::*;
pub use jobs::*;
pub use postgres::{Client, GenericClient, NoTls};
pub use provider::*;
pub use repository::*;
pub use server::{run, Database, Notices, Server, Stop};

use postgres::types::FromSqlOwned;
use std::time::{Duration, Instant};

/// What a statement was refused with.
#[derive(Debug, Clone)]
pub struct SqlError {
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl From<postgres::Error> for SqlError {
    fn from(error: postgres::Error) -> Self {
        let error = match error.as_db_error() {
            Some(error) => error,
            None => panic!("not an error of the server: {error}"),
        };
        SqlError {
            code: error.code().code().to_string(),
            message: error.message().to_string(),
            detail: error.detail().map(str::to_string),
            hint: error.hint().map(str::to_string),
        }
    }
}

/// A client error in a few lines, with where in our SQL it happened.
pub fn explain(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!(
            "{} {}\n  DETAIL: {}\n  HINT: {}\n  CONTEXT: {}",
            error.code().code(),
            error.message(),
            error.detail().unwrap_or("none"),
            error.hint().unwrap_or("none"),
            error.where_().unwrap_or("none"),
        ),
        None => error.to_string(),
    }
}

/// Runs statements that must succeed.
pub fn execute(client: &mut impl GenericClient, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}:\n{}", explain(&error)));
}

/// Runs statements that must fail.
pub fn expect_error(client: &mut impl GenericClient, sql: &str) -> SqlError {
    match client.batch_execute(sql) {
        Ok(()) => panic!("was not refused: {sql}"),
        Err(error) => error.into(),
    }
}

/// `assert_error!(client, sql, code, part, ...)`: refused with this SQLSTATE, every part somewhere in message, DETAIL
/// or HINT, and with a DETAIL (the fact) and a HINT (what to do), as our own errors all have. Returns the `SqlError`.
#[macro_export]
macro_rules! assert_error {
    ($client:expr, $sql:expr, $code:expr $(, $part:expr)* $(,)?) => {{
        let error = $crate::common::expect_error(&mut $client, $sql);
        assert_eq!(error.code, $code, "{}: {error:#?}", $sql);
        assert!(error.detail.is_some(), "no DETAIL: {error:#?}");
        assert!(error.hint.is_some(), "no HINT: {error:#?}");
        $(assert!(format!("{error:?}").replace("\\\"", "\"").contains($part), "{:?} is not in {error:#?}", $part);)*
        error
    }};
}
pub use crate::assert_error;

/// First column of the one row that a query returns.
pub fn value<T: FromSqlOwned>(client: &mut impl GenericClient, sql: &str) -> T {
    match client.query_one(sql, &[]) {
        Ok(row) => row.get(0),
        Err(error) => panic!("{sql}:\n{}", explain(&error)),
    }
}

/// First column of all rows.
pub fn values<T: FromSqlOwned>(client: &mut impl GenericClient, sql: &str) -> Vec<T> {
    match client.query(sql, &[]) {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        Err(error) => panic!("{sql}:\n{}", explain(&error)),
    }
}

/// Asks ten times a second until it is so; panics with `what` when it is not in time.
pub fn wait_until(timeout: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < timeout, "waited {timeout:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// `name` as an SQL identifier.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
