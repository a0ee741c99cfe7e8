//! `bucket` and the bucket sets of arms; assign_variant stands in pg/assignment.rs, the rest of the topic is PL/pgSQL
//! (sql/assignment.sql, sql/experiment.sql).

use crate::core::experiment::{allocation, hash};
use crate::pg::errors::UserError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn bucket(seed: &str, unit: &str, hash_version: i32, unit_encoding: &str) -> Result<i32, ErrorReport> {
    let seed = unit_encoding.parse().and_then(|encoding| hash::Seed::new(seed, hash_version, encoding));
    let seed = seed.map_err(|e| {
        UserError::invalid(e.to_string())
            .detail(
                "Version 2 is the default, version 1 is for imported experiments only; encodings are utf8 and utf16.",
            )
            .hint("Leave hash_version and unit_encoding out.")
    })?;
    Ok(seed.bucket(unit.as_bytes()))
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn allocate_buckets(weights: Array<f64>, coverage: f64) -> Result<Vec<String>, ErrorReport> {
    Ok(allocate(weights, coverage)?.iter().map(allocation::format).collect())
}

/// Sets for new weights or another coverage that move as few buckets as possible.
#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn reallocate_buckets(current: Array<&str>, weights: Array<f64>, coverage: f64) -> Result<Vec<String>, ErrorReport> {
    let current: Option<Vec<_>> = current.iter().map(|set| allocation::parse(set?)).collect();
    let current = current.ok_or_else(|| {
        UserError::invalid("a set of buckets cannot be read")
            .detail("A set is the text of an int4multirange over 0 to 9999.")
            .hint("SELECT variant, buckets FROM experiment_arm; shows the sets of all phases.")
    })?;
    let sizes: Vec<i32> = allocate(weights, coverage)?.iter().map(allocation::size).collect();
    Ok(allocation::reallocate(&current, &sizes).iter().map(allocation::format).collect())
}

fn allocate(weights: Array<f64>, coverage: f64) -> Result<Vec<allocation::BucketSet>, UserError> {
    let weights: Option<Vec<f64>> = weights.iter().collect();
    let weights = weights.ok_or_else(|| refused("a weight is NULL".into()))?;
    allocation::allocate(&weights, coverage).map_err(|e| refused(e.to_string()))
}

fn refused(message: String) -> UserError {
    UserError::invalid(message)
        .detail("Weights and coverage are shares between 0 and 1; the weights sum to 1.")
        .hint("weights => '{0.5,0.5}', coverage => 0.1 lets a tenth of all users in, half of them to each arm.")
}
