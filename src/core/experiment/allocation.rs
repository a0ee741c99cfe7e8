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

/// Number of buckets in a set.
pub fn size(set: &BucketSet) -> i32 {
    set.iter().map(|(start, end)| end - start).sum()
}

/// Sets of the wanted sizes that move as few buckets as possible: shrinking arms give up their highest buckets; what they
/// freed (lowest first), then what nobody had (lowest first), goes to growing arms in order.
pub fn reallocate(current: &[BucketSet], sizes: &[i32]) -> Vec<BucketSet> {
    let mut owner: Vec<Option<usize>> = vec![None; BUCKETS as usize];
    let mut freed = Vec::new();
    for (arm, set) in current.iter().enumerate() {
        let surplus = (size(set) - sizes.get(arm).copied().unwrap_or(0)).max(0) as usize;
        let buckets: Vec<usize> = set.iter().flat_map(|&(start, end)| start as usize..end as usize).collect();
        let (kept, given_up) = buckets.split_at(buckets.len() - surplus);
        kept.iter().for_each(|&bucket| owner[bucket] = Some(arm));
        freed.extend_from_slice(given_up);
    }
    freed.sort_unstable();
    let had = |bucket: &usize| current.iter().flatten().any(|&(start, end)| (start..end).contains(&(*bucket as i32)));
    let mut free =
        freed.into_iter().chain((0..owner.len()).filter(|bucket| !had(bucket))).collect::<Vec<_>>().into_iter();
    for (arm, &wanted) in sizes.iter().enumerate() {
        let missing = (wanted - current.get(arm).map_or(0, size)).max(0) as usize;
        free.by_ref().take(missing).for_each(|bucket| owner[bucket] = Some(arm));
    }
    let mut sets = vec![BucketSet::new(); sizes.len()];
    for (bucket, arm) in owner.into_iter().enumerate() {
        if let Some(arm) = arm {
            append(&mut sets[arm], bucket as i32);
        }
    }
    sets
}

/// Reads the text of an int4multirange, `{[0,5000),[6000,6500)}`; None when it is anything else.
pub fn parse(text: &str) -> Option<BucketSet> {
    let inside = text.strip_prefix('{')?.strip_suffix('}')?;
    if inside.is_empty() {
        return Some(BucketSet::new());
    }
    let ranges = inside.strip_prefix('[')?.strip_suffix(')')?.split("),[");
    ranges
        .map(|range| {
            let (start, end) = range.split_once(',')?;
            Some((start.parse().ok()?, end.parse().ok()?))
        })
        .collect()
}

/// A set of buckets as the text of an int4multirange.
pub fn format(set: &BucketSet) -> String {
    let ranges: Vec<String> = set.iter().map(|(start, end)| format!("[{start},{end})")).collect();
    format!("{{{}}}", ranges.join(","))
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
#[path = "allocation_tests.rs"]
mod tests;
