//! Vectors of tests/data/stats-vectors.json (computed with scipy and statsmodels) as sums and expectations.

use super::ratio::{Arm, Sums};
use serde_json::Value;

pub const METRICS: [&str; 4] = ["save_rate", "recall", "f1", "skip_share"];

pub fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stats-vectors.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect(path)).expect(path)
}

/// Sums and expectations of both arms of the 84-user fixture.
pub fn fixture_arms(metric: &str) -> [(Sums, Value); 2] {
    let file = fixture();
    let method = &file["delta_method"];
    [("control", "control_users"), ("treatment", "treatment_users")].map(|(arm, users)| {
        let pairs: Vec<_> = method[users].as_array().unwrap().iter().map(|row| pair(metric, &integers(row))).collect();
        (sums_of_users(&pairs), method[metric][arm].clone())
    })
}

/// Numerator and denominator of one user: columns shown, saved, saved before, shown before, saved but not shown.
fn pair(metric: &str, user: &[i64]) -> (i64, i64) {
    let (shown, saved, missed) = (user[0], user[1], user[4]);
    match metric {
        "save_rate" => (saved, shown),
        "recall" => (saved, saved + missed),
        "f1" => (2 * saved, shown + saved + missed),
        _ => (shown - saved, shown),
    }
}

/// Arms of a decision fixture, whose numerators are fractions: counted in thousandths to stay integers.
pub fn decision_arms(row: &Value) -> [Sums; 2] {
    ["control", "treatment"].map(|arm| {
        let arm = &row[arm];
        let scaled = |key: &str, scale: f64| (number(&arm[key]) * scale).round() as i64;
        Sums {
            users: scaled("users", 1.0),
            m: scaled("sum_m", 1e3),
            d: scaled("sum_d", 1.0),
            mm: scaled("sum_m2", 1e6),
            dd: scaled("sum_d2", 1.0),
            md: scaled("sum_md", 1e3),
            largest_d: 0,
        }
    })
}

pub fn sums_of_users(users: &[(i64, i64)]) -> Sums {
    let sum = |f: fn(i64, i64) -> i64| users.iter().map(|&(m, d)| f(m, d)).sum();
    Sums {
        users: users.len() as i64,
        m: sum(|m, _| m),
        d: sum(|_, d| d),
        mm: sum(|m, _| m * m),
        dd: sum(|_, d| d * d),
        md: sum(|m, d| m * d),
        largest_d: users.iter().map(|&(_, d)| d).max().unwrap_or(0),
    }
}

/// An arm given by n, sum and, unless it is a share of users, the sum of squares.
pub fn mean_arm(arm: &Value) -> Arm {
    let (users, sum, squares) = (number(&arm["n"]), number(&arm["sum"]), arm["sum_squares"].as_f64());
    let mut mean = Arm::of_mean(users, sum, squares.unwrap_or(sum)).unwrap();
    if squares.is_none() {
        mean.variance *= (users - 1.0) / users; // the reference divides by n for shares, we by n - 1 everywhere
    }
    mean
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

pub fn integers(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect()
}

#[track_caller]
pub fn close(ours: f64, theirs: &Value) {
    close_to(ours, number(theirs), 1e-9);
}

#[track_caller]
pub fn close_to(ours: f64, theirs: f64, tolerance: f64) {
    assert!((ours - theirs).abs() <= tolerance * theirs.abs().max(1e-300), "{ours}, expected {theirs}");
}
