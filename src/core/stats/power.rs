//! How many users an experiment needs, and what a number of users can show.

use super::distribution::{normal_above, normal_quantile_above};

/// Error rates of a plan: alpha two-sided, power the chance to find what is there.
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    pub alpha: f64,
    pub power: f64,
}

impl Errors {
    /// Quantiles whose sum is the distance, in standard errors, between "nothing" and the effect looked for.
    fn quantiles(&self) -> (f64, f64) {
        (normal_quantile_above(self.alpha / 2.0), normal_quantile_above(1.0 - self.power))
    }
}

/// An always-valid interval is about 1.55 times as wide as the fixed one where it is narrowest.
pub const SEQUENCE_WIDTH: f64 = 1.55;

/// Users per arm to tell two shares of users apart.
pub fn two_shares(base: f64, new: f64, errors: Errors) -> f64 {
    let (a, b) = errors.quantiles();
    let mean = (base + new) / 2.0;
    let spread = a * (2.0 * mean * (1.0 - mean)).sqrt() + b * (base * (1.0 - base) + new * (1.0 - new)).sqrt();
    (spread / (new - base)).powi(2)
}

/// Users per arm to prove that new is beyond (1 + margin) times base when it is (1 + lift) times base, each with a variance
/// per user. One-sided at half of alpha.
pub fn beyond_margin(base: f64, variance: (f64, f64), margin: f64, lift: f64, errors: Errors) -> f64 {
    let (a, b) = errors.quantiles();
    let spread = variance.1 + (1.0 + margin).powi(2) * variance.0;
    (a + b).powi(2) * spread / (base * (lift - margin)).powi(2)
}

/// How many more users a decision at any look takes than one planned look, when it falls at the planned number.
pub fn price_of_looking(errors: Errors) -> f64 {
    let (a, b) = errors.quantiles();
    ((SEQUENCE_WIDTH * a + b) / (a + b)).powi(2)
}

/// Smallest lift of a mean found with the wanted power; None when no lift is large enough to be.
pub fn smallest_lift(mean: f64, variance: f64, users_per_arm: f64, width: f64, errors: Errors) -> Option<f64> {
    let (a, b) = errors.quantiles();
    let c = (width * a + b).powi(2) * variance / (users_per_arm * mean * mean);
    (c < 1.0).then(|| (1.0 + (1.0 - (1.0 - c).powi(2)).sqrt()) / (1.0 - c) - 1.0)
}

/// Chance to find a lift of a mean, in either direction.
pub fn power_of(lift: f64, mean: f64, variance: f64, users_per_arm: f64, width: f64, alpha: f64) -> f64 {
    let z = width * normal_quantile_above(alpha / 2.0);
    let se = (variance / users_per_arm / (mean * mean) * (1.0 + (1.0 + lift).powi(2))).sqrt();
    normal_above(z - lift / se) + normal_above(z + lift / se)
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{close_to, fixture, number};
    use super::*;

    #[test]
    fn sample_sizes_match() {
        let file = fixture();
        let power = &file["power"];
        let rows = power["sample_size_two_proportions"].as_array().unwrap();
        for row in rows {
            let base = number(&row["baseline"]);
            let errors = Errors { alpha: number(&row["alpha_two_sided"]), power: number(&row["power"]) };
            let users = two_shares(base, base * (1.0 + number(&row["relative_lift"])), errors);
            close_to(users, number(&row["n_per_arm_exact"]), 1e-9);
            assert_eq!(users.ceil(), number(&row["n_per_arm"]));
        }
        let margins = power["sample_size_superiority_by_margin"].as_array().unwrap();
        for row in margins {
            let (base, margin, lift) = (number(&row["baseline"]), number(&row["margin"]), number(&row["true_lift"]));
            let errors = Errors { alpha: 2.0 * number(&row["alpha_one_sided"]), power: number(&row["power"]) };
            let variance = |p: f64| p * (1.0 - p);
            let users = beyond_margin(base, (variance(base), variance(base * (1.0 + lift))), margin, lift, errors);
            close_to(users, number(&row["n_per_arm_exact"]), 1e-9);
        }
        println!("sample size: {} rows, by margin {} rows", rows.len(), margins.len());
    }

    #[test]
    fn power_and_smallest_lift_match() {
        let file = fixture();
        let rows = file["power"]["full_precision"].as_array().unwrap();
        for row in rows {
            let n = |key: &str| number(&row[key]);
            let (mean, variance, users) = (n("mu"), n("variance"), n("n_per_arm"));
            close_to(power_of(n("effect_for_power"), mean, variance, users, 1.0, n("alpha")), n("power"), 1e-9);
            let errors = Errors { alpha: n("alpha"), power: 0.8 };
            close_to(smallest_lift(mean, variance, users, 1.0, errors).unwrap(), n("mde_80"), 1e-9);
        }
        println!("power: {} rows", rows.len());
        let errors = Errors { alpha: 0.05, power: 0.8 };
        assert_eq!(smallest_lift(0.1, 10.0, 10.0, 1.0, errors), None);
        let price = price_of_looking(errors);
        assert!((1.8..2.0).contains(&price), "{price}");
    }
}
