//! Two arms at one look: difference with Welch's t, and the lift on the scales on which it can be trusted.

use super::distribution::{student_quantile_above, student_two_sided};
use super::ratio::{Arm, Sums};

/// An estimate with its standard error.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    pub value: f64,
    pub se: f64,
}

pub fn difference(base: &Arm, other: &Arm) -> Estimate {
    Estimate { value: other.ratio - base.ratio, se: (other.variance + base.variance).sqrt() }
}

/// ln(R_other / R_base): the scale on which a lift errs as often upwards as downwards. None when an arm is at 0.
pub fn log_ratio(base: &Arm, other: &Arm) -> Option<Estimate> {
    (base.ratio > 0.0 && other.ratio > 0.0).then(|| Estimate {
        value: (other.ratio / base.ratio).ln(),
        se: (other.variance / other.ratio.powi(2) + base.variance / base.ratio.powi(2)).sqrt(),
    })
}

/// The lift with its delta-method standard error, to compare with other tools only: under no effect and with few events
/// its interval says "worse" far too often and "better" almost never.
pub fn relative(base: &Arm, other: &Arm) -> Option<Estimate> {
    let spread = || other.variance / base.ratio.powi(2) + base.variance * other.ratio.powi(2) / base.ratio.powi(4);
    (base.ratio != 0.0).then(|| Estimate { value: other.ratio / base.ratio - 1.0, se: spread().sqrt() })
}

/// Fieller's interval of the lift: the lifts that a test of `z` standard errors does not exclude. None when the base is
/// too noisy for a ratio.
pub fn fieller(base: &Arm, other: &Arm, z: f64) -> Option<(f64, f64)> {
    let (b, o) = (base.ratio, other.ratio);
    let a = b * b - z * z * base.variance;
    let c = o * o - z * z * other.variance;
    let root = (b * b * o * o - a * c).sqrt();
    (a > 0.0).then(|| ((b * o - root) / a - 1.0, (b * o + root) / a - 1.0))
}

/// Welch's degrees of freedom of two arms, each with the variance of its estimate and its users.
pub fn welch_freedom(base: (f64, f64), other: (f64, f64)) -> f64 {
    let spread = |(variance, users): (f64, f64)| variance.powi(2) / (users - 1.0);
    (base.0 + other.0).powi(2) / (spread(base) + spread(other))
}

/// Half-width and two-sided p of Welch's t test; None when nothing varies.
pub fn student_test(estimate: Estimate, base: (f64, f64), other: (f64, f64), alpha: f64) -> Option<(f64, f64)> {
    let freedom = welch_freedom(base, other);
    (freedom.is_finite() && freedom > 0.0).then(|| {
        let half = estimate.se * student_quantile_above(alpha / 2.0, freedom);
        (half, student_two_sided(estimate.value / estimate.se, freedom))
    })
}

/// Half-width and two-sided p of Welch's t test: right at one look planned in advance, and only there.
pub fn fixed_horizon(base: &Arm, other: &Arm, alpha: f64) -> Option<(f64, f64)> {
    student_test(difference(base, other), (base.variance, base.users), (other.variance, other.users), alpha)
}

/// z of the test that takes every event for a user of its own. Wrong where users bring several; shown as a warning.
pub fn event_level_z(base: &Sums, other: &Sums) -> Option<f64> {
    let [m, d] = [base.m + other.m, base.d + other.d].map(|sum| sum as f64);
    let pooled = m / d;
    let se = (pooled * (1.0 - pooled) * (1.0 / base.d as f64 + 1.0 / other.d as f64)).sqrt();
    let gap = other.ratio()? - base.ratio()?;
    (se > 0.0).then(|| gap / se)
}

#[cfg(test)]
mod tests {
    use super::super::distribution::{normal_quantile_above, normal_two_sided};
    use super::super::sequence::Sequence;
    use super::super::test_data::{close, close_to, fixture, fixture_arms, mean_arm, number, METRICS};
    use super::*;
    use serde_json::Value;

    #[test]
    fn difference_and_log_lift_match() {
        let file = fixture();
        for metric in METRICS {
            let sums = fixture_arms(metric).map(|(sums, _)| sums);
            let arms = sums.map(|sums| sums.arm().unwrap());
            let expected = &file["delta_method"][metric];
            let d = difference(&arms[0], &arms[1]);
            close(d.value, &expected["absolute"]["diff"]);
            close(d.se, &expected["absolute"]["se"]);
            let (half, p) = fixed_horizon(&arms[0], &arms[1], 0.05).unwrap();
            close(d.value - half, &expected["absolute_welch"]["ci95"][0]);
            close(d.value + half, &expected["absolute_welch"]["ci95"][1]);
            close(p, &expected["absolute_welch"]["p"]);
            let log = log_ratio(&arms[0], &arms[1]).unwrap();
            close(log.value, &expected["relative_log"]["log_ratio"]);
            close(log.se, &expected["relative_log"]["se"]);
            close(log.value.exp_m1(), &expected["relative"]["lift"]);
            let z = normal_quantile_above(0.025);
            close((log.value + z * log.se).exp_m1(), &expected["relative_log"]["ci95_lift"][1]);
            let lift = relative(&arms[0], &arms[1]).unwrap();
            close(lift.value, &expected["relative"]["lift"]);
            close(lift.se, &expected["relative"]["se"]);
            let (low, high) = fieller(&arms[0], &arms[1], z).unwrap();
            close(low, &expected["fieller_ci95_lift"][0]);
            close(high, &expected["fieller_ci95_lift"][1]);
            if let Some(naive) = expected["naive_event_level_two_proportion"].as_object() {
                let z = event_level_z(&sums[0], &sums[1]).unwrap();
                close(z, &naive["z"]);
                close(normal_two_sided(z), &naive["p"]);
            }
        }
        println!("two arms: {} metrics", METRICS.len());
    }

    #[test]
    fn tails_keep_their_precision_and_nothing_divides_by_zero() {
        let arm = |ratio, variance| Arm { users: 1000.0, ratio, variance, naive_variance: variance };
        let (_, p) = fixed_horizon(&arm(0.2, 1e-4), &arm(0.5, 1e-4), 0.05).unwrap();
        assert!(p > 0.0 && p < 1e-80, "{p}");
        assert!(fixed_horizon(&arm(0.0, 0.0), &arm(0.0, 0.0), 0.05).is_none());
        assert!(log_ratio(&arm(0.0, 0.0), &arm(0.5, 1e-4)).is_none());
    }

    /// One end of an interval; the other tool writes inf for an open one.
    #[track_caller]
    fn end(ours: f64, theirs: &Value) {
        match theirs.as_f64() {
            Some(_) => close(ours, theirs),
            None => assert!(theirs.is_string(), "{theirs}"),
        }
    }

    #[test]
    fn means_match_another_engine() {
        let file = fixture();
        let rows = file["growthbook_means"].as_array().unwrap();
        for row in rows {
            let name = row["name"].as_str().unwrap();
            let [base, new] = ["control", "treatment"].map(|arm| mean_arm(&row[arm]));
            let seen = if name.contains("absolute") { difference(&base, &new) } else { relative(&base, &new).unwrap() };
            let expected = &row["full_precision"];
            close(seen.value, &expected["point"]);
            close(seen.se, &expected["se"]);
            let one_sided = name.contains("one_sided");
            if !name.starts_with("sequential") {
                let alpha = if one_sided { 0.1 } else { 0.05 };
                let freedom = welch_freedom((base.variance, base.users), (new.variance, new.users));
                let half = seen.se * student_quantile_above(alpha / 2.0, freedom);
                end(seen.value - half, &expected["ci"][0]);
                end(seen.value + half, &expected["ci"][1]);
                let two_sided = student_two_sided(seen.value / seen.se, freedom);
                let p = match one_sided {
                    false => two_sided,
                    true if name.contains("greater") => two_sided / 2.0,
                    true => 1.0 - two_sided / 2.0,
                };
                close_to(p, number(&expected["p"]), 1e-9);
                continue;
            }
            let digits = |part: &str| part.strip_prefix('N').and_then(|n| n.parse::<f64>().ok());
            let planned_users = name.split('_').find_map(digits).unwrap_or(5000.0);
            let sequence = Sequence { users: base.users + new.users, planned_users, alpha: 0.05 };
            let half = if one_sided { sequence.half_width_above(seen.se) } else { sequence.half_width(seen.se) };
            end(seen.value - half, &expected["ci"][0]);
            end(seen.value + half, &expected["ci"][1]);
            let p = number(&expected["p"]);
            match one_sided {
                // Its bisection returns 0.4999 for everything above, and the step after the root.
                true if p == 0.4999 => assert!(name.contains("lesser") || sequence.p_above(seen) > 0.4999),
                true => assert!((sequence.p_above(seen) - p).abs() < 5e-4),
                false => close_to(sequence.p(seen), p, 1e-9),
            }
        }
        println!("means: {} rows", rows.len());
    }
}
