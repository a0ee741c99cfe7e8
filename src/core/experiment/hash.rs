//! GrowthBook's hash, so that any of its SDKs computes the same variant without asking the database.

use std::fmt;

/// Buckets of hash version 2: the smallest share an arm can have is one in ten thousand.
pub const BUCKETS: i32 = 10_000;
const BUCKETS_V1: i32 = 1_000;

#[derive(Debug, PartialEq, Eq)]
pub enum HashError {
    UnknownVersion(i32),
    UnknownEncoding(String),
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownVersion(version) => write!(f, "hash version {version} does not exist"),
            Self::UnknownEncoding(name) => write!(f, "unit encoding \"{name}\" does not exist"),
        }
    }
}

/// What of a non-ASCII id is hashed: its UTF-8 bytes (Rust, Go, PHP, Ruby) or its UTF-16 units (JavaScript).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    Utf16,
}

impl std::str::FromStr for Encoding {
    type Err = HashError;

    fn from_str(name: &str) -> Result<Self, HashError> {
        match name {
            "utf8" => Ok(Self::Utf8),
            "utf16" => Ok(Self::Utf16),
            other => Err(HashError::UnknownEncoding(other.to_owned())),
        }
    }
}

/// A seed, hashed as far as it can be without the unit.
#[derive(Debug)]
pub struct Seed {
    text: String,
    start: u32,
    version: i32,
    encoding: Encoding,
}

impl Seed {
    /// # Errors
    /// When there is no such version.
    pub fn new(text: &str, version: i32, encoding: Encoding) -> Result<Self, HashError> {
        if !(1..=2).contains(&version) {
            return Err(HashError::UnknownVersion(version));
        }
        Ok(Self { text: text.to_owned(), start: hash(FNV_OFFSET, text.as_bytes(), encoding), version, encoding })
    }

    /// The bucket of `unit`: 0..=9999 for version 2, 0..=999 for version 1.
    #[inline]
    pub fn bucket(&self, unit: &[u8]) -> i32 {
        if self.version == 2 {
            // The outer hash over the decimal text of the inner one is what makes experiments independent of each other.
            return (hash_decimal(hash(self.start, unit, self.encoding)) % BUCKETS as u32) as i32;
        }
        // Accepted for imports only: with similar seeds, one experiment's split predicts the next one's.
        let inner = hash(FNV_OFFSET, unit, self.encoding);
        (hash(inner, self.text.as_bytes(), self.encoding) % BUCKETS_V1 as u32) as i32
    }

    /// The bucket on the scale of 0..=9999 that sets of buckets are kept in, whatever the version.
    #[inline]
    pub fn place(&self, unit: &[u8]) -> i32 {
        let bucket = self.bucket(unit);
        if self.version == 2 {
            bucket
        } else {
            bucket * (BUCKETS / BUCKETS_V1)
        }
    }
}

const FNV_OFFSET: u32 = 2_166_136_261;
const FNV_PRIME: u32 = 16_777_619;

#[inline]
fn hash(start: u32, bytes: &[u8], encoding: Encoding) -> u32 {
    match encoding {
        Encoding::Utf8 => fnv1a32(start, bytes),
        Encoding::Utf16 => fnv1a32_utf16(start, bytes),
    }
}

#[inline]
fn fnv1a32(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(FNV_PRIME))
}

fn fnv1a32_utf16(start: u32, bytes: &[u8]) -> u32 {
    let text = String::from_utf8_lossy(bytes);
    text.encode_utf16().fold(start, |hash, unit| (hash ^ u32::from(unit)).wrapping_mul(FNV_PRIME))
}

/// The hash of a number's decimal text. Every digit is worked out by itself, so that a processor overlaps it with the
/// hash, which has to go digit by digit.
#[inline]
fn hash_decimal(number: u32) -> u32 {
    const POWERS: [u32; 10] = [1_000_000_000, 100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    let mut digits = [0; 10];
    for (digit, power) in digits.iter_mut().zip(POWERS) {
        *digit = b'0' + (number / power % 10) as u8;
    }
    let leading = POWERS.iter().take(9).take_while(|&&power| number < power).count();
    fnv1a32(FNV_OFFSET, &digits[leading..])
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{growthbook, vectors};
    use super::*;

    fn bucket(seed: &str, unit: &str, version: i32) -> Result<i32, HashError> {
        Ok(Seed::new(seed, version, Encoding::Utf8)?.bucket(unit.as_bytes()))
    }

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
            assert_eq!(hash_decimal(inner), outer, "{row}");
            assert_eq!(bucket(seed, id, 2), Ok(row["v2_bucket"].as_i64().unwrap() as i32), "{row}");
            assert_eq!(bucket(seed, id, 1), Ok(row["v1_bucket"].as_i64().unwrap() as i32), "{row}");
        }
        println!("hash intermediates: {} rows", rows.len());
    }

    #[test]
    fn non_ascii_ids_are_hashed_in_either_encoding() {
        let file = vectors("assignment-vectors.json");
        let rows = file["hash_v2_non_ascii"]["rows"].as_array().unwrap();
        for row in rows {
            let expected = row["utf8_bytes_bucket"].as_i64().unwrap() as i32;
            let (seed, id) = (row["seed"].as_str().unwrap(), row["id"].as_str().unwrap());
            assert_eq!(bucket(seed, id, 2), Ok(expected), "{row}");
            let utf16 = Seed::new(seed, 2, Encoding::Utf16).unwrap().bucket(id.as_bytes());
            assert_eq!(i64::from(utf16), row["utf16_code_units_bucket"].as_i64().unwrap(), "{row}");
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
                ["exp-1", "exp-2"].iter().all(|seed| bucket(seed, &unit, 2).unwrap() < BUCKETS / 2)
            })
            .count();
        assert!((24_400..25_600).contains(&both), "{both} of 100000, expected a quarter");
    }
}
