//! Two shares of users, each user counted once: intervals that are right for small counts, too.

use super::distribution::{beta_quantile, bisect, normal_quantile_above};
use statrs::function::gamma::ln_gamma;

pub type Interval = (f64, f64);

/// `successes` of `users`.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub successes: f64,
    pub users: f64,
}

impl Share {
    pub fn estimate(&self) -> f64 {
        self.successes / self.users
    }

    fn variance(&self) -> f64 {
        self.estimate() * (1.0 - self.estimate()) / self.users
    }

    pub fn wilson(&self, alpha: f64) -> Interval {
        let z2 = normal_quantile_above(alpha / 2.0).powi(2);
        let (p, n) = (self.estimate(), self.users);
        let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = (z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n))).sqrt() / (1.0 + z2 / n);
        ((centre - half).max(0.0), (centre + half).min(1.0))
    }

    /// Clopper and Pearson's: never too short, so the one to quote when all users of an arm did the same.
    pub fn exact(&self, alpha: f64) -> Interval {
        let failures = self.users - self.successes;
        let low = || beta_quantile(alpha / 2.0, self.successes, failures + 1.0);
        let high = || beta_quantile(1.0 - alpha / 2.0, self.successes + 1.0, failures);
        (if self.successes > 0.0 { low() } else { 0.0 }, if failures > 0.0 { high() } else { 1.0 })
    }
}

/// Difference `new - base` from the Wilson intervals of both (Newcombe's method 10).
pub fn newcombe(base: Share, new: Share, alpha: f64) -> Interval {
    let (p, q) = (base.estimate(), new.estimate());
    let ((base_low, base_high), (new_low, new_high)) = (base.wilson(alpha), new.wilson(alpha));
    let d = q - p;
    (d - (q - new_low).hypot(base_high - p), d + (new_high - q).hypot(p - base_low))
}

/// Two-sided score interval of the difference (Miettinen and Nurminen).
pub fn score_difference(base: Share, new: Share, alpha: f64) -> Interval {
    let z = normal_quantile_above(alpha / 2.0);
    let d = new.estimate() - base.estimate();
    let score = |delta: f64| {
        let p = constrained_difference(base, new, delta);
        score(d - delta, base, new, p, p + delta, 1.0)
    };
    (bisect(-1.0, d, |delta| score(delta) > z), bisect(d, 1.0, |delta| score(delta) > -z))
}

/// Two-sided score interval of the lift new / base - 1 (Miettinen and Nurminen); None when base has no success, and
/// no upper end when it is not bounded.
pub fn score_lift(base: Share, new: Share, alpha: f64) -> Option<Interval> {
    if base.successes == 0.0 {
        return None;
    }
    let z = normal_quantile_above(alpha / 2.0);
    let (p, q) = (base.estimate(), new.estimate());
    let score = |ratio: f64| {
        let restricted = constrained_ratio(base, new, ratio);
        score(q - ratio * p, base, new, restricted, ratio * restricted, ratio)
    };
    let ratio = q / p;
    let low = if new.successes > 0.0 { bisect(0.0, ratio, |r| score(r) > z) } else { 0.0 };
    let mut beyond = ratio.max(1.0) * 2.0;
    while score(beyond) > -z && beyond < 1e12 {
        beyond *= 2.0;
    }
    Some((low - 1.0, bisect(ratio, beyond, |r| score(r) > -z) - 1.0))
}

fn score(distance: f64, base: Share, new: Share, p: f64, q: f64, ratio: f64) -> f64 {
    let users = base.users + new.users;
    let variance = q * (1.0 - q) / new.users + ratio * ratio * p * (1.0 - p) / base.users;
    match distance == 0.0 {
        true => 0.0,
        false => distance / (variance * users / (users - 1.0)).max(1e-300).sqrt(),
    }
}

/// The base share that makes both counts likeliest when new - base is `delta`: the root of the likelihood's derivative.
fn constrained_difference(base: Share, new: Share, delta: f64) -> f64 {
    let (low, high) = ((-delta).max(0.0), (1.0 - delta).min(1.0));
    bisect(low, high, |p| slope(base, p) + slope(new, p + delta) > 0.0)
}

fn constrained_ratio(base: Share, new: Share, ratio: f64) -> f64 {
    bisect(0.0, (1.0 / ratio).min(1.0), |p| slope(base, p) + ratio * slope(new, ratio * p) > 0.0)
}

/// Derivative of one arm's log likelihood; terms without a count are left out, they have no pole.
fn slope(share: Share, p: f64) -> f64 {
    let failures = share.users - share.successes;
    let up = if share.successes > 0.0 { share.successes / p } else { 0.0 };
    let down = if failures > 0.0 { failures / (1.0 - p) } else { 0.0 };
    up - down
}

/// z of the ordinary test with a pooled share; None when nobody or everybody succeeded.
pub fn pooled_z(base: Share, new: Share) -> Option<f64> {
    let pooled = (base.successes + new.successes) / (base.users + new.users);
    let se = (pooled * (1.0 - pooled) * (1.0 / base.users + 1.0 / new.users)).sqrt();
    (se > 0.0).then(|| (new.estimate() - base.estimate()) / se)
}

/// Fisher's exact test, two-sided: all tables at most as likely as the one seen.
pub fn fisher(base: Share, new: Share) -> f64 {
    let successes = base.successes + new.successes;
    let log_choose = |n: f64, k: f64| ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0);
    let log_p = |k: f64| log_choose(base.users, k) + log_choose(new.users, successes - k);
    let seen = log_p(base.successes);
    let (first, last) = ((successes - new.users).max(0.0) as u64, successes.min(base.users) as u64);
    let (mut likely, mut all) = (0.0, 0.0);
    for k in first..=last {
        let log_ratio = log_p(k as f64) - seen;
        all += log_ratio.exp();
        if log_ratio <= 1e-7 {
            likely += log_ratio.exp();
        }
    }
    likely / all
}

/// Lift with the log interval of Katz; None when an arm has no success.
pub fn log_lift(base: Share, new: Share, alpha: f64) -> Option<Interval> {
    let (p, q) = (base.estimate(), new.estimate());
    let half = normal_quantile_above(alpha / 2.0) * (new.variance() / (q * q) + base.variance() / (p * p)).sqrt();
    (p > 0.0 && q > 0.0).then(|| (((q / p).ln() - half).exp_m1(), ((q / p).ln() + half).exp_m1()))
}

#[cfg(test)]
mod tests {
    use super::super::distribution::normal_two_sided;
    use super::super::test_data::{close_to, fixture, integers, number};
    use super::*;
    use serde_json::Value;

    #[track_caller]
    fn ends(ours: Interval, theirs: &Value, tolerance: f64) {
        for (ours, theirs) in [(ours.0, &theirs[0]), (ours.1, &theirs[1])] {
            let theirs = theirs.as_f64().unwrap_or(f64::INFINITY);
            assert!(ours == theirs || (ours - theirs).abs() <= tolerance, "{ours}, expected {theirs}");
        }
    }

    #[test]
    fn two_proportions_match() {
        let file = fixture();
        let rows = file["two_proportions"].as_array().unwrap();
        for row in rows {
            let share = |arm: &str| {
                let counts = integers(&row[arm]);
                Share { successes: counts[0] as f64, users: counts[1] as f64 }
            };
            let (base, new) = (share("control"), share("treatment"));
            ends(base.wilson(0.05), &row["wilson95_control"], 1e-9);
            ends(new.wilson(0.05), &row["wilson95_treatment"], 1e-9);
            ends(new.exact(0.05), &row["clopper_pearson95_treatment"], 1e-9);
            ends(newcombe(base, new, 0.05), &row["newcombe_ci95_diff"], 1e-9);
            ends(score_difference(base, new, 0.05), &row["miettinen_nurminen_ci95_diff"], 1e-7);
            close_to(fisher(base, new), number(&row["fisher_p_two_sided"]), 1e-8);
            match row["pooled_z"].as_f64() {
                Some(z) => {
                    close_to(pooled_z(base, new).unwrap(), z, 1e-9);
                    close_to(normal_two_sided(z), number(&row["pooled_p_two_sided"]), 1e-9);
                }
                None => assert_eq!(pooled_z(base, new), None, "{row}"),
            }
            match row["score_ci95_lift"].as_array() {
                Some(_) => ends(score_lift(base, new, 0.05).unwrap(), &row["score_ci95_lift"], 1e-7),
                None => assert_eq!(base.successes, 0.0, "{row}"),
            }
            match row["katz_log_ci95_lift"].as_array() {
                Some(_) => ends(log_lift(base, new, 0.05).unwrap(), &row["katz_log_ci95_lift"], 1e-9),
                None => assert_eq!(log_lift(base, new, 0.05), None, "{row}"),
            }
        }
        println!("two proportions: {} rows", rows.len());
    }
}
