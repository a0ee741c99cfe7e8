//! SQL functions by topic; their declarations, comments and grants stand in sql/.

mod capture;
mod cost;
mod dataset;
mod dataset_freeze;
mod experiment;
mod jobs;
mod metrics;
mod profile_upkeep;
mod profiles;
mod providers;
mod ranking;
mod report;
mod rerank;
mod schedule;
mod serving;
mod shadow;
mod statistics;
mod stats;
mod typed;
