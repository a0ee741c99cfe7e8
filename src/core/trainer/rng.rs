//! Random streams and hashes: one seed, one independent stream per purpose.

use rand::SeedableRng;
use rand_xoshiro::SplitMix64;
use sha2::{Digest, Sha256};

/// The stream of one purpose; streams of two purposes never share their numbers.
pub(super) fn stream(seed: i64, purpose: &str) -> SplitMix64 {
    SplitMix64::seed_from_u64(hash(seed, &[purpose]))
}

/// A number that depends on the seed and all parts, and on nothing else: the same on every machine.
pub(super) fn hash(seed: i64, parts: &[&str]) -> u64 {
    let mut digest = Sha256::new();
    digest.update(seed.to_le_bytes());
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    let bytes: [u8; 32] = digest.finalize().into();
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_repeat_and_differ_by_purpose() {
        let first = |seed, purpose| stream(seed, purpose).next_u64();
        assert_eq!(first(1, "batches"), first(1, "batches"));
        assert_ne!(first(1, "batches"), first(1, "bootstrap"));
        assert_ne!(first(1, "batches"), first(2, "batches"));
        assert_ne!(hash(1, &["ab", "c"]), hash(1, &["a", "bc"]));
    }
}
