//! Adaptor to Postgres: everything unsafe, and everything that knows a Datum, lives here.

pub mod adapters;
pub mod aggregate;
pub mod assignment;
pub mod catalog;
pub mod cursor;
pub mod dataset_lines;
pub mod dataset_rows;
pub mod dataset_search;
pub mod dataset_triplets;
pub mod errors;
pub mod foreign;
pub mod plans;
pub mod process;
pub mod relcache;
pub mod roles;
pub mod row;
pub mod saved_plans;
pub mod session;
pub mod settings;
pub mod shared;
pub mod spi;
pub mod statement;
pub mod threads;
pub mod triggers;
pub mod vector;
pub mod wake;
