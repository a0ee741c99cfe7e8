//! GrowthBook's hash, so that any of its SDKs computes the same variant without asking the database.

use std::fmt;

/// Buckets of hash version 2: the smallest share an arm can have is one in ten thousand.
pub const BUCKETS: i32 = 10_000;
const BUCKETS_V1: i32 = 1_000;

#[derive(Debug, PartialEq, Eq)]
pub struct UnknownVersion(pub i32);

impl fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hash version {} does not exist", self.0)
    }
}

/// The bucket of `unit` under `seed`: 0..=9999 for version 2, 0..=999 for version 1.
pub fn bucket(seed: &str, unit: &str, version: i32) -> Result<i32, UnknownVersion> {
    match version {
        1 => Ok(bucket_v1(seed, unit)),
        2 => Ok(bucket_v2(seed, unit)),
        other => Err(UnknownVersion(other)),
    }
}

/// Accepted for imported experiments only: with similar seeds, one experiment's split predicts the next one's.
fn bucket_v1(seed: &str, unit: &str) -> i32 {
    let hash = fnv1a32(fnv1a32(FNV_OFFSET, unit.as_bytes()), seed.as_bytes());
    (hash % BUCKETS_V1 as u32) as i32
}

/// The outer hash over the decimal text of the inner one is what makes experiments independent of each other.
fn bucket_v2(seed: &str, unit: &str) -> i32 {
    let inner = fnv1a32(fnv1a32(FNV_OFFSET, seed.as_bytes()), unit.as_bytes());
    let mut digits = [0; 10];
    let outer = fnv1a32(FNV_OFFSET, decimal(inner, &mut digits));
    (outer % BUCKETS as u32) as i32
}

const FNV_OFFSET: u32 = 2_166_136_261;
const FNV_PRIME: u32 = 16_777_619;

fn fnv1a32(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(FNV_PRIME))
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{growthbook, vectors};
    use super::*;

    #[test]
    fn fnv1a32_matches_published_values() {
        let file = vectors("assignment-vectors.json");
        let rows = file["fnv1a32"].as_array().unwrap();
        for row in rows {
            let hash = fnv1a32(FNV_OFFSET, row["utf8"].as_str().unwrap().as_bytes());
            assert_eq!(format!("{hash:08x}"), row["hex"].as_str().unwrap(), "{row}");
        }
        println!("fnv1a32: {} rows", rows.len());
    }

    #[test]
    fn every_step_of_both_versions_matches() {
        let file = vectors("assignment-vectors.json");
        let rows = file["hash_v2_intermediates"].as_array().unwrap();
        for row in rows {
            let (seed, id) = (row["seed"].as_str().unwrap(), row["id"].as_str().unwrap());
            let inner = fnv1a32(fnv1a32(FNV_OFFSET, seed.as_bytes()), id.as_bytes());
            let outer = fnv1a32(FNV_OFFSET, inner.to_string().as_bytes());
            assert_eq!(u64::from(inner), row["inner_u32"].as_u64().unwrap(), "{row}");
            assert_eq!(u64::from(outer), row["outer_u32"].as_u64().unwrap(), "{row}");
            assert_eq!(bucket(seed, id, 2), Ok(row["v2_bucket"].as_i64().unwrap() as i32), "{row}");
            assert_eq!(bucket(seed, id, 1), Ok(row["v1_bucket"].as_i64().unwrap() as i32), "{row}");
        }
        println!("hash intermediates: {} rows", rows.len());
    }

    #[test]
    fn non_ascii_ids_are_hashed_as_utf8() {
        let file = vectors("assignment-vectors.json");
        let rows = file["hash_v2_non_ascii"]["rows"].as_array().unwrap();
        for row in rows {
            let expected = row["utf8_bytes_bucket"].as_i64().unwrap() as i32;
            assert_eq!(bucket(row["seed"].as_str().unwrap(), row["id"].as_str().unwrap(), 2), Ok(expected), "{row}");
        }
        println!("non-ASCII ids: {} rows", rows.len());
    }

    #[test]
    fn agrees_with_the_sdk_cases() {
        let Some(file) = growthbook("hash") else {
            return;
        };
        let rows = file["hash"].as_array().unwrap();
        for row in rows {
            let version = row[2].as_i64().unwrap() as i32;
            let buckets = if version == 1 { BUCKETS_V1 } else { BUCKETS };
            let n = bucket(row[0].as_str().unwrap(), row[1].as_str().unwrap(), version)
                .ok()
                .map(|b| f64::from(b) / f64::from(buckets));
            assert_eq!(n, row[3].as_f64(), "{row}");
        }
        println!("GrowthBook hash: {} rows", rows.len());
    }

    #[test]
    fn version_1_carries_the_old_namespaces() {
        let Some(file) = growthbook("inNamespace") else {
            return;
        };
        let rows = file["inNamespace"].as_array().unwrap();
        for row in rows {
            let seed = format!("__{}", row[2][0].as_str().unwrap());
            let n = f64::from(bucket(&seed, row[1].as_str().unwrap(), 1).unwrap()) / f64::from(BUCKETS_V1);
            let inside = n >= row[2][1].as_f64().unwrap() && n < row[2][2].as_f64().unwrap();
            assert_eq!(inside, row[3].as_bool().unwrap(), "{row}");
        }
        println!("GrowthBook inNamespace: {} rows", rows.len());
    }

    #[test]
    fn two_experiments_split_independently() {
        let both = (0..100_000)
            .filter(|i| {
                let unit = i.to_string();
                bucket_v2("exp-1", &unit) < BUCKETS / 2 && bucket_v2("exp-2", &unit) < BUCKETS / 2
            })
            .count();
        assert!((24_400..25_600).contains(&both), "{both} of 100000, expected a quarter");
    }
}
