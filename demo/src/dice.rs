//! Seeded randomness: one stream per purpose, so that a change in one place does not move the others.

use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use sha2::{Digest, Sha256};

pub type Dice = Xoshiro256PlusPlus;

pub fn stream(seed: u64, purpose: &str) -> Dice {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(purpose);
    Dice::from_seed(hash.finalize().into())
}

/// Standard normal (Box and Muller).
pub fn normal(dice: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - dice.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * dice.random::<f64>()).cos()
}

pub fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
