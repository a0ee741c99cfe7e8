//! What other systems hash, held against their rows: an import that goes on with their users starts from these formulas.

use super::test_data::shared;
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

fn vectors() -> Option<Value> {
    shared("assignment-extra-vectors.json")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The first `N` bytes of a digest as a number, the highest byte first.
fn leading<const N: usize>(digest: &[u8]) -> u64 {
    digest[..N].iter().fold(0, |number, &byte| (number << 8) | u64::from(byte))
}

/// LaunchDarkly: 15 hexadecimal digits of SHA-1 as a share.
fn launchdarkly(row: &Value) -> f64 {
    let prefix = match row["seed"].as_i64() {
        Some(seed) => seed.to_string(),
        None => format!("{}.{}", text(&row["key"]), text(&row["salt"])),
    };
    let digest = Sha1::digest(format!("{prefix}.{}", text(&row["id"])));
    (leading::<8>(&digest) >> 4) as f64 / ((1_u64 << 60) - 1) as f64
}

/// flagd: murmur3 times all weights, the upper 32 bits; the first variant that cumulates above it.
fn flagd<'a>(key: &str, variants: &'a [Value]) -> &'a str {
    let weight = |variant: &Value| variant[1].as_u64().unwrap();
    let total: u64 = variants.iter().map(weight).sum();
    let hash = murmur3::murmur3_32(&mut key.as_bytes(), 0).unwrap();
    let place = (u64::from(hash) * total) >> 32;
    let mut so_far = 0;
    let chosen = variants.iter().find(|variant| {
        so_far += weight(variant);
        so_far > place
    });
    text(&chosen.unwrap()[0])
}

#[test]
fn other_vendors_buckets_match() {
    let Some(file) = vectors() else { return };
    let rows = |name: &str| file[name]["rows"].as_array().unwrap().clone();
    let (dark, statsig, flags, zero) =
        (rows("launchdarkly_sha1"), rows("statsig_sha256"), rows("flagd_murmur3"), rows("tensorzero_sha256"));
    for row in &dark {
        assert!((launchdarkly(row) - row["bucket"].as_f64().unwrap()).abs() < 1e-15, "{row}");
    }
    for row in &statsig {
        let parts: Vec<&str> = row["parts"].as_array().unwrap().iter().map(text).collect();
        let number = leading::<8>(&Sha256::digest(parts.join(".")));
        assert_eq!(number.to_string(), text(&row["u64"]), "{row}");
        assert_eq!(number % 10_000, row["mod10000"].as_u64().unwrap(), "{row}");
    }
    for row in &flags {
        assert_eq!(flagd(text(&row[0]), row[1].as_array().unwrap()), text(&row[2]), "{row}");
    }
    for row in &zero {
        let episode = u128::from_str_radix(&text(&row["episode"]).replace('-', ""), 16).unwrap().to_be_bytes();
        let digest = Sha256::new().chain_update(text(&row["function"])).chain_update(episode).finalize();
        let share = leading::<4>(&digest) as f64 / (1_u64 << 32) as f64;
        assert!((share - row["value"].as_f64().unwrap()).abs() < 1e-15, "{row}");
    }
    println!(
        "LaunchDarkly: {} rows, Statsig: {}, flagd: {}, TensorZero: {}",
        dark.len(),
        statsig.len(),
        flags.len(),
        zero.len()
    );
}

#[test]
fn a_seed_and_an_id_that_join_to_the_same_text_share_a_bucket() {
    let Some(file) = vectors() else { return };
    let rows = file["hash_v2_concatenation_collision"].as_array().unwrap();
    for row in rows {
        for side in ["a", "b"] {
            let seed = super::hash::Seed::new(text(&row[side][0]), 2, super::hash::Encoding::Utf8).unwrap();
            let bucket = seed.bucket(text(&row[side][1]).as_bytes());
            assert_eq!(i64::from(bucket), row["same_bucket"].as_i64().unwrap(), "{row}");
        }
    }
    println!("shared buckets: {} rows", rows.len());
}
