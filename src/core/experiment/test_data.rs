//! Test vectors: our own in tests/data, GrowthBook's SDK cases (third-party, not copied) when they are at hand.

pub use crate::core::vectors::shared;
use serde_json::Value;
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn parse(path: PathBuf) -> Value {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file of tests/data.
pub fn vectors(file: &str) -> Value {
    parse(root().join("tests/data").join(file))
}

/// GrowthBook's cases, or None with a line that says what was skipped.
pub fn growthbook(sections: &str) -> Option<Value> {
    let cases = shared("growthbook-cases.json");
    if cases.is_none() {
        println!("skipped: {sections}");
    }
    cases
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

pub fn pairs(value: &Value) -> Vec<(f64, f64)> {
    value.as_array().unwrap().iter().map(numbers).map(|pair| (pair[0], pair[1])).collect()
}
