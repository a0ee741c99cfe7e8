//! Two arms at one look: difference with Welch's t, and the lift on the log scale.

use super::ratio::Arm;
use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::function::beta::beta_reg;

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

/// Half-width and two-sided p of Welch's t test: right at one look planned in advance, and only there.
pub fn fixed_horizon(base: &Arm, other: &Arm, alpha: f64) -> Option<(f64, f64)> {
    let Estimate { value, se } = difference(base, other);
    let spread = |arm: &Arm| arm.variance.powi(2) / (arm.users - 1.0);
    let freedom = se.powi(4) / (spread(base) + spread(other));
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let t = value / se;
    let p = beta_reg(freedom / 2.0, 0.5, freedom / (freedom + t * t));
    Some((se * student.inverse_cdf(1.0 - alpha / 2.0), p))
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{close, fixture, fixture_arms, METRICS};
    use super::*;

    #[test]
    fn difference_and_log_lift_match() {
        let file = fixture();
        for metric in METRICS {
            let arms = fixture_arms(metric).map(|(sums, _)| sums.arm().unwrap());
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
}
