//! SQL functions by topic; their declarations, comments and grants stand in sql/.

mod dataset;
mod dataset_rows;
mod experiment;
mod jobs;
mod providers;
mod schedule;
mod serving;
mod stats;
