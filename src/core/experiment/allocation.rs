//! From weights and coverage to the set of buckets of each arm, in GrowthBook's own arithmetic.

use super::hash::BUCKETS;
use std::fmt;

/// Half-open ranges of buckets, ascending and apart from each other.
pub type BucketSet = Vec<(i32, i32)>;

const WEIGHT_TOLERANCE: f64 = 1e-9;

#[derive(Debug, PartialEq)]
pub enum AllocationError {
    NoWeights,
    Weight(f64),
    WeightSum(f64),
    Coverage(f64),
}

impl fmt::Display for AllocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWeights => write!(f, "no weights given"),
            Self::Weight(weight) => write!(f, "weight {weight} is not between 0 and 1"),
            Self::WeightSum(sum) => write!(f, "weights sum to {sum}, not to 1"),
            Self::Coverage(coverage) => write!(f, "coverage {coverage} is not between 0 and 1"),
        }
    }
}

/// The buckets of each arm. Unlike an SDK in production, a database refuses weights that make no sense.
pub fn allocate(weights: &[f64], coverage: f64) -> Result<Vec<BucketSet>, AllocationError> {
    check(weights, coverage)?;
    let ranges = bucket_ranges(weights.len(), coverage, Some(weights));
    let mut sets = vec![BucketSet::new(); weights.len()];
    for bucket in 0..BUCKETS {
        // Asking for each bucket reproduces the SDKs at float edges: 0.1 + 0.2 puts bucket 3000 into the second arm.
        if let Some(arm) = choose_variation(f64::from(bucket) / f64::from(BUCKETS), &ranges) {
            append(&mut sets[arm], bucket);
        }
    }
    Ok(sets)
}

fn check(weights: &[f64], coverage: f64) -> Result<(), AllocationError> {
    if weights.is_empty() {
        return Err(AllocationError::NoWeights);
    }
    if let Some(&weight) = weights.iter().find(|w| !(0.0..=1.0).contains(*w)) {
        return Err(AllocationError::Weight(weight));
    }
    let sum: f64 = weights.iter().sum();
    if (sum - 1.0).abs() > WEIGHT_TOLERANCE {
        return Err(AllocationError::WeightSum(sum));
    }
    if !(0.0..=1.0).contains(&coverage) {
        return Err(AllocationError::Coverage(coverage));
    }
    Ok(())
}

fn append(set: &mut BucketSet, bucket: i32) {
    match set.last_mut() {
        Some((_, end)) if *end == bucket => *end += 1,
        _ => set.push((bucket, bucket + 1)),
    }
}

/// `getBucketRanges` of the SDKs: full coverage fixes where each range starts, coverage shrinks its end.
fn bucket_ranges(variations: usize, coverage: f64, weights: Option<&[f64]>) -> Vec<(f64, f64)> {
    let coverage = coverage.clamp(0.0, 1.0);
    let weights = match weights {
        Some(given) if given.len() == variations && (0.99..=1.01).contains(&given.iter().sum::<f64>()) => {
            given.to_vec()
        }
        _ => equal_weights(variations),
    };
    let mut cumulative = 0.0;
    weights
        .iter()
        .map(|weight| {
            let start = cumulative;
            cumulative += weight;
            (start, start + coverage * weight)
        })
        .collect()
}

fn equal_weights(variations: usize) -> Vec<f64> {
    vec![1.0 / variations as f64; variations]
}

/// `chooseVariation` of the SDKs: the first range that holds `n`.
fn choose_variation(n: f64, ranges: &[(f64, f64)]) -> Option<usize> {
    ranges.iter().position(|&(start, end)| n >= start && n < end)
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{growthbook, numbers, pairs, vectors};
    use super::*;

    fn size(set: &BucketSet) -> i32 {
        set.iter().map(|(start, end)| end - start).sum()
    }

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
            let result =
                bucket_ranges(input[0].as_u64().unwrap() as usize, input[1].as_f64().unwrap(), weights.as_deref());
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
        println!(
            "GrowthBook ranges: {} rows, choices: {}, equal weights: {}",
            ranges.len(),
            choices.len(),
            equal.len()
        );
    }
}
