//! Pure logic: knows no Postgres, tested by plain `cargo test`.

pub mod dataset;
pub mod experiment;
pub mod metrics;
pub mod profile;
pub mod report;
pub mod schedule;
pub mod shadow;
pub mod stats;
pub mod trainer;

#[cfg(test)]
mod vectors;
