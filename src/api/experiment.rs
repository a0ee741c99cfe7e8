//! `bucket` and the bucket sets of arms; the rest of the topic is PL/pgSQL (sql/experiment.sql).

use crate::core::experiment::{allocation, hash};
use crate::pg::errors::UserError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn bucket(seed: &str, unit: &str, hash_version: i32) -> Result<i32, ErrorReport> {
    Ok(hash::bucket(seed, unit, hash_version).map_err(|e| {
        UserError::invalid(e.to_string())
            .detail("Version 2 is the default, version 1 is for imported experiments only.")
            .hint("Leave hash_version out.")
    })?)
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn allocate_buckets(weights: Array<f64>, coverage: f64) -> Result<Vec<String>, ErrorReport> {
    let weights: Option<Vec<f64>> = weights.iter().collect();
    let weights = weights.ok_or_else(|| refused("a weight is NULL".into()))?;
    let sets = allocation::allocate(&weights, coverage).map_err(|e| refused(e.to_string()))?;
    Ok(sets.iter().map(multirange).collect())
}

fn refused(message: String) -> UserError {
    UserError::invalid(message)
        .detail("Weights and coverage are shares between 0 and 1; the weights sum to 1.")
        .hint("weights => '{0.5,0.5}', coverage => 0.1 lets a tenth of all users in, half of them to each arm.")
}

/// A bucket set as the text of an int4multirange.
fn multirange(set: &allocation::BucketSet) -> String {
    let ranges: Vec<String> = set.iter().map(|(start, end)| format!("[{start},{end})")).collect();
    format!("{{{}}}", ranges.join(","))
}
