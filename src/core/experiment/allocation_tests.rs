//! Held against our vectors and the SDKs' own cases.

use super::super::hash::{Encoding, Seed};
use super::super::test_data::{growthbook, numbers, pairs, vectors};
use super::*;
use serde_json::Value;

// Not ==: serde_json may read the last bit of a number differently.
fn assert_close(ours: &[(f64, f64)], theirs: &[(f64, f64)]) {
    let close = |(a, b): (&(f64, f64), &(f64, f64))| (a.0 - b.0).abs() < 1e-15 && (a.1 - b.1).abs() < 1e-15;
    assert!(ours.len() == theirs.len() && ours.iter().zip(theirs).all(close), "{ours:?}, expected {theirs:?}");
}

#[test]
fn even_split_and_reduced_coverage() {
    assert_eq!(allocate(&[0.5, 0.5], 1.0), Ok(vec![vec![(0, 5000)], vec![(5000, 10000)]]));
    assert_eq!(allocate(&[0.5, 0.5], 0.5), Ok(vec![vec![(0, 2500)], vec![(5000, 7500)]]));
    assert_eq!(allocate(&[0.5, 0.5], 0.0), Ok(vec![vec![], vec![]]));
    assert_eq!(allocate(&[0.0, 1.0], 1.0), Ok(vec![vec![], vec![(0, 10000)]]));
}

#[test]
fn more_coverage_moves_nobody() {
    let (small, large) = (allocate(&[0.5, 0.5], 0.1).unwrap(), allocate(&[0.5, 0.5], 0.5).unwrap());
    for (small, large) in small.iter().zip(&large) {
        assert!(small[0].0 == large[0].0 && small[0].1 <= large[0].1);
    }
}

#[test]
fn senseless_weights_are_refused() {
    assert_eq!(allocate(&[], 1.0), Err(AllocationError::NoWeights));
    assert_eq!(allocate(&[0.4, 0.5999], 1.0), Err(AllocationError::WeightSum(0.9999)));
    assert_eq!(allocate(&[-0.5, 1.5], 1.0), Err(AllocationError::Weight(-0.5)));
    assert!(matches!(allocate(&[f64::NAN, 1.0], 1.0), Err(AllocationError::Weight(w)) if w.is_nan()));
    assert_eq!(allocate(&[0.5, 0.5], 1.5), Err(AllocationError::Coverage(1.5)));
    assert!(matches!(allocate(&[0.5, 0.5], f64::NAN), Err(AllocationError::Coverage(_))));
    assert_eq!(AllocationError::WeightSum(0.9).to_string(), "weights sum to 0.9, not to 1");
}

#[test]
fn float_edges_fall_where_the_sdks_put_them() {
    let file = vectors("assignment-vectors.json");
    let rows = file["f64_boundaries"].as_array().unwrap();
    let mut allocated = 0;
    for row in rows {
        let (weights, coverage) = (numbers(&row["weights"]), row["coverage"].as_f64().unwrap());
        assert_close(&bucket_ranges(weights.len(), coverage, Some(&weights)), &pairs(&row["ranges"]));
        let Ok(sets) = allocate(&weights, coverage) else {
            continue;
        };
        let sizes: Vec<f64> = sets.iter().map(|set| f64::from(size(set))).collect();
        assert_eq!(sizes, numbers(&row["bucket_count_per_variant"]), "{row}");
        for run in pairs(&row["first_bucket_of_each_run"]) {
            let arm = sets.iter().position(|set| set.iter().any(|&(start, _)| f64::from(start) == run.0));
            assert_eq!(arm.map_or(-1.0, |arm| arm as f64), run.1, "{row}");
        }
        allocated += 1;
    }
    println!("float edges: {} rows, {allocated} allocated", rows.len());
}

#[test]
fn agrees_with_the_sdk_cases() {
    let Some(file) = growthbook("getBucketRange, chooseVariation, getEqualWeights") else {
        return;
    };
    let ranges = file["getBucketRange"].as_array().unwrap();
    for row in ranges {
        let input = &row[1];
        let weights = input[2].as_array().map(|_| numbers(&input[2]));
        let result = bucket_ranges(input[0].as_u64().unwrap() as usize, input[1].as_f64().unwrap(), weights.as_deref());
        assert_close(&result, &pairs(&row[2]));
    }
    let choices = file["chooseVariation"].as_array().unwrap();
    for row in choices {
        let chosen = choose_variation(row[1].as_f64().unwrap(), &pairs(&row[2]));
        assert_eq!(chosen.map_or(-1, |arm| arm as i64), row[3].as_i64().unwrap(), "{row}");
    }
    let equal = file["getEqualWeights"].as_array().unwrap();
    for row in equal {
        let weights = equal_weights(row[0].as_i64().unwrap().max(0) as usize);
        let expected = numbers(&row[1]);
        assert_eq!(weights.len(), expected.len(), "{row}");
        assert!(weights.iter().zip(&expected).all(|(ours, theirs)| (ours - theirs).abs() < 1e-8), "{row}");
    }
    println!("GrowthBook ranges: {} rows, choices: {}, equal weights: {}", ranges.len(), choices.len(), equal.len());
}

fn sets(value: &Value) -> Vec<BucketSet> {
    let set = |set: &Value| pairs(set).into_iter().map(|(start, end)| (start as i32, end as i32)).collect();
    value.as_array().unwrap().iter().map(set).collect()
}

#[test]
fn reallocation_moves_as_little_as_the_reference() {
    let file = vectors("assignment-vectors.json");
    let rows = file["minimal_reallocation_reference"]["examples"].as_array().unwrap();
    for row in rows {
        let sizes: Vec<i32> = numbers(&row["target_counts"]).into_iter().map(|size| size as i32).collect();
        let (from, to) = (sets(&row["current"]), reallocate(&sets(&row["current"]), &sizes));
        assert_eq!(to, sets(&row["result"]), "{row}");
        assert_eq!(moved(&from, &to), ["switched", "left", "entered"].map(|key| row[key].as_i64().unwrap()), "{row}");
    }
    println!("minimal reallocation: {} rows", rows.len());
}

/// Buckets that changed arm, left and entered.
fn moved(from: &[BucketSet], to: &[BucketSet]) -> [i64; 3] {
    let arm = |sets: &[BucketSet], bucket: i32| {
        sets.iter().position(|set| set.iter().any(|&(start, end)| (start..end).contains(&bucket)))
    };
    let mut counts = [0; 3];
    for bucket in 0..BUCKETS {
        match (arm(from, bucket), arm(to, bucket)) {
            (Some(a), Some(b)) if a != b => counts[0] += 1,
            (Some(_), None) => counts[1] += 1,
            (None, Some(_)) => counts[2] += 1,
            _ => {}
        }
    }
    counts
}

#[test]
fn movement_is_what_was_computed() {
    let file = vectors("assignment-vectors.json");
    let rows = file["movement_when_config_changes_of_10000_buckets"].as_array().unwrap();
    for row in rows {
        let side =
            |key: &str| allocate(&numbers(&row[key]["weights"]), row[key]["coverage"].as_f64().unwrap()).unwrap();
        let (from, to) = (side("from"), side("to"));
        let expected = ["switched_variant", "left_experiment", "entered_experiment"];
        assert_eq!(moved(&from, &to), expected.map(|key| row[key].as_i64().unwrap()), "{row}");
        if let Some(minimum) = row["minimum_possible_switches_same_coverage"].as_i64() {
            let sizes: Vec<i32> = to.iter().map(size).collect();
            // Sizes are whole buckets: rounding may add one.
            assert!(moved(&from, &reallocate(&from, &sizes))[0] - minimum <= 1, "{row}");
        }
    }
    println!("movement: {} rows", rows.len());
}

#[test]
fn a_rollout_is_half_open() {
    let file = vectors("assignment-vectors.json");
    let rows = file["rollout_coverage_bucket_counts"].as_array().unwrap();
    for row in rows {
        let sets = allocate(&[1.0], row["coverage"].as_f64().unwrap()).unwrap();
        assert_eq!(i64::from(size(&sets[0])), row["half_open"].as_i64().unwrap(), "{row}");
    }
    println!("rollouts: {} rows", rows.len());
}

/// The plain `run` rows: those that need nothing but what an experiment here has. Left out are conditions on attributes,
/// prerequisites, addresses of pages and the SDK's own switches.
#[test]
fn agrees_with_the_sdk_runs() {
    let Some(file) = growthbook("run") else {
        return;
    };
    let of_experiment = [
        "key",
        "variations",
        "weights",
        "coverage",
        "ranges",
        "seed",
        "hashVersion",
        "namespace",
        "hashAttribute",
        "active",
        "force",
        "filters",
    ];
    let rows = file["run"].as_array().unwrap();
    let mut checked = 0;
    for row in rows {
        let (context, experiment) = (row[1].as_object().unwrap(), row[2].as_object().unwrap());
        let known = |key: &String| matches!(key.as_str(), "attributes" | "forcedVariations");
        if !context.keys().all(known) || !experiment.keys().all(|key| of_experiment.contains(&key.as_str())) {
            continue;
        }
        let (arm, inside) = run(experiment, context);
        assert_eq!(experiment["variations"][arm], row[3], "{row}");
        assert_eq!(inside, row[4].as_bool().unwrap(), "{row}");
        checked += 1;
    }
    assert!(checked >= 56, "{checked}");
    println!("GrowthBook run: {checked} of {} rows", rows.len());
}

type Fields = serde_json::Map<String, Value>;

/// The place of a unit under a seed, 0 to 1.
fn place(seed: &str, unit: &str, version: i64) -> f64 {
    let bucket = Seed::new(seed, version as i32, Encoding::Utf8).unwrap().bucket(unit.as_bytes());
    f64::from(bucket) / if version == 1 { 1_000.0 } else { 10_000.0 }
}

/// Variation, and whether the unit is in the experiment; the questions in the order in which they are asked here.
fn run(experiment: &Fields, context: &Fields) -> (usize, bool) {
    let number = |key: &str, otherwise: i64| experiment.get(key).map_or(otherwise, |value| value.as_i64().unwrap());
    let text = |key: &str| experiment.get(key).and_then(Value::as_str);
    let arms = experiment["variations"].as_array().unwrap().len();
    let key = text("key").unwrap();
    if let Some(pinned) = context.get("forcedVariations").and_then(|pins| pins[key].as_u64()) {
        return (pinned as usize, true);
    }
    let attribute = |name: &str| context.get("attributes").and_then(|all| all[name].as_str()).unwrap_or_default();
    let unit = attribute(text("hashAttribute").unwrap_or("id"));
    if arms < 2 || unit.is_empty() || experiment.get("active") == Some(&Value::from(false)) {
        return (0, false);
    }
    let gates = experiment.get("filters").and_then(Value::as_array);
    let inside = |gate: &Value| {
        let unit = attribute(gate["attribute"].as_str().unwrap_or("id"));
        choose_variation(place(gate["seed"].as_str().unwrap(), unit, 2), &pairs(&gate["ranges"])).is_some()
    };
    if !gates.is_none_or(|gates| gates.iter().all(inside)) {
        return (0, false);
    }
    if let (None, Some(namespace)) = (gates, experiment.get("namespace")) {
        let n = place(&format!("__{}", namespace[0].as_str().unwrap()), unit, 1);
        if !(namespace[1].as_f64().unwrap()..namespace[2].as_f64().unwrap()).contains(&n) {
            return (0, false);
        }
    }
    let n = place(text("seed").unwrap_or(key), unit, number("hashVersion", 1));
    let coverage = experiment.get("coverage").map_or(1.0, |coverage| coverage.as_f64().unwrap());
    let ranges = match experiment.get("ranges") {
        Some(ranges) => pairs(ranges),
        None => bucket_ranges(arms, coverage, experiment.get("weights").map(numbers).as_deref()),
    };
    let drawn = choose_variation(n, &ranges);
    // A variation forced on all comes after the coverage.
    let chosen = drawn.and_then(|drawn| match number("force", -1) {
        forced if experiment.contains_key("force") => usize::try_from(forced).ok().filter(|forced| *forced < arms),
        _ => Some(drawn),
    });
    (chosen.unwrap_or(0), chosen.is_some())
}

#[test]
fn sets_survive_their_text() {
    for set in [vec![], vec![(0, 5000)], vec![(0, 1), (7, 10_000)]] {
        assert_eq!(parse(&format(&set)), Some(set));
    }
    for text in ["", "{", "empty", "{[1]}", "{[a,2)}", "{(1,2]}"] {
        assert_eq!(parse(text), None, "{text}");
    }
}
