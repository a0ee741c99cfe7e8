//! Vectors computed with scikit-learn and trec_eval, read from ../shared/data where that is present.

use serde_json::Value;

/// A vector file, or None with a word that the test was skipped.
pub fn shared(file: &str) -> Option<Value> {
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = [manifest.join("tests/data"), manifest.join("../shared/data")].map(|folder| folder.join(file));
    let text = found.iter().find_map(|path| std::fs::read_to_string(path).ok());
    if text.is_none() {
        println!("skipped: no {file}");
    }
    text.map(|text| serde_json::from_str(&text).unwrap())
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
