//! Vectors computed with scikit-learn and trec_eval.

use serde_json::Value;

/// The whole file where it is at hand, else our copy, which lacks the rows of other projects.
pub fn vectors(file: &str) -> Value {
    crate::core::vectors::shared(file).unwrap_or_else(|| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    })
}

pub fn rows(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

pub fn labels(value: &Value) -> Vec<bool> {
    rows(value).iter().map(|v| v.as_i64() == Some(1)).collect()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    rows(value).iter().map(|v| v.as_f64().unwrap()).collect()
}

/// "nan" and null mean undefined.
#[track_caller]
pub fn assert_close(ours: Option<f64>, theirs: &Value, what: &str) {
    match (ours, theirs.as_f64()) {
        (Some(ours), Some(theirs)) => assert!((ours - theirs).abs() <= 1e-12, "{what}: {ours}, expected {theirs}"),
        (ours, theirs) => assert_eq!(ours, theirs, "{what}"),
    }
}
