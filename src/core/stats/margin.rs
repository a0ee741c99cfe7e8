//! "Better by at least so much": a linear contrast of the two arms, answered proved, refuted or open.

use super::distribution::normal_above;
use super::lift::Estimate;
use super::ratio::Arm;
use super::sequence::Sequence;
use std::fmt;

/// What is claimed of the new arm: R_new against (1 + margin) · R_base.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Claim {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Proved,
    Refuted,
    Open,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proved => "proved",
            Self::Refuted => "refuted",
            Self::Open => "open",
        })
    }
}

/// R_new - (1 + margin) R_base, signed so that the claim says "above 0". Needs no variance of a ratio of ratios.
pub fn contrast(base: &Arm, new: &Arm, claim: Claim) -> Estimate {
    let (margin, sign) = match claim {
        Claim::AtLeast(margin) => (margin, 1.0),
        Claim::AtMost(margin) => (margin, -1.0),
    };
    Estimate {
        value: sign * (new.ratio - (1.0 + margin) * base.ratio),
        se: (new.variance + (1.0 + margin).powi(2) * base.variance).sqrt(),
    }
}

/// The verdict with its one-sided p. The two directions are two claims, each at the sequence's alpha.
pub fn judge(contrast: Estimate, sequence: &Sequence) -> (Verdict, f64) {
    let p = sequence.p_above(contrast);
    let against = sequence.p_above(Estimate { value: -contrast.value, ..contrast });
    (verdict(p < sequence.alpha, against < sequence.alpha), p)
}

/// Half of alpha for the sequence at any look, the other half for one ordinary test at the planned number of users: an
/// early end where the effect is large, full power at the planned one.
pub fn judge_hybrid(contrast: Estimate, sequence: &Sequence) -> (Verdict, f64) {
    let half = Sequence { alpha: sequence.alpha / 2.0, ..*sequence };
    let (early, p) = judge(contrast, &half);
    let z = contrast.value / contrast.se;
    if early != Verdict::Open || sequence.users < sequence.planned_users {
        return (early, (2.0 * p).min(1.0));
    }
    let p = (2.0 * p.min(normal_above(z))).min(1.0);
    (verdict(normal_above(z) < half.alpha, normal_above(-z) < half.alpha), p)
}

fn verdict(proved: bool, refuted: bool) -> Verdict {
    match (proved, refuted) {
        (true, _) => Verdict::Proved,
        (false, true) => Verdict::Refuted,
        (false, false) => Verdict::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{close, decision_arms, fixture, fixture_arms, number, METRICS};
    use super::*;

    #[test]
    fn decisions_match() {
        let file = fixture();
        let rows = file["decision_fixtures"]["rows"].as_array().unwrap();
        for row in rows {
            let margin = number(&row["margin"]);
            let (claim, sign) = match row["direction"].as_str().unwrap() {
                "increase" => (Claim::AtLeast(margin), 1.0),
                _ => (Claim::AtMost(margin), -1.0),
            };
            // The fixtures count in thousandths, see decision_arms.
            let [base, new] = decision_arms(row).map(|sums| sums.arm().unwrap());
            let c = contrast(&base, &new, claim);
            close(sign * c.value / 1000.0, &row["contrast"]);
            close(c.se / 1000.0, &row["se"]);
            let sequence = Sequence {
                users: base.users + new.users,
                planned_users: number(&row["n_star"]),
                alpha: number(&row["alpha"]),
            };
            let (verdict, p) = judge(c, &sequence);
            close(p, &row["always_valid_one_sided_p"]);
            close(normal_above(c.value / c.se), &row["fixed_horizon_one_sided_p"]);
            let bound = (c.value - sequence.half_width_above(c.se)) / 1000.0;
            close(sign * bound, &row["always_valid_one_sided_bound_of_contrast"]);
            assert_eq!(verdict == Verdict::Proved, row["proved"].as_bool().unwrap(), "{row}");
        }
        println!("decisions: {} rows", rows.len());
    }

    #[test]
    fn contrasts_match() {
        let file = fixture();
        let mut rows = 0;
        for metric in METRICS {
            let [base, new] = fixture_arms(metric).map(|(sums, _)| sums.arm().unwrap());
            for row in file["delta_method"][metric]["margin_contrast"].as_array().unwrap() {
                let c = contrast(&base, &new, Claim::AtLeast(number(&row["margin"])));
                close(c.value, &row["contrast"]);
                close(c.se, &row["se"]);
                close(normal_above(c.value / c.se), &row["p_treatment_exceeds_margin"]);
                close(normal_above(-c.value / c.se), &row["p_treatment_below_margin"]);
                rows += 1;
            }
        }
        println!("margins: {rows} rows");
    }

    #[test]
    fn a_hybrid_is_stricter_early_and_stronger_at_the_planned_end() {
        let at = |users| Sequence { users, planned_users: 5000.0, alpha: 0.025 };
        let effect = |z: f64| Estimate { value: z, se: 1.0 };
        assert_eq!(judge_hybrid(effect(2.5), &at(4999.0)).0, Verdict::Open);
        assert_eq!(judge_hybrid(effect(2.5), &at(5000.0)).0, Verdict::Proved);
        assert_eq!(judge(effect(2.5), &at(5000.0)).0, Verdict::Open);
        assert_eq!(judge_hybrid(effect(-2.5), &at(5000.0)).0, Verdict::Refuted);
        assert_eq!(judge_hybrid(effect(6.0), &at(1000.0)).0, Verdict::Proved);
        assert_eq!(judge_hybrid(effect(1.0), &at(9000.0)).0, Verdict::Open);
    }

    #[test]
    fn the_opposite_of_a_proved_claim_is_refuted() {
        let arm = |ratio| Arm { users: 5000.0, ratio, variance: 1e-5, naive_variance: 1e-5 };
        let sequence = Sequence { users: 10_000.0, planned_users: 5000.0, alpha: 0.025 };
        let verdict = |claim| judge(contrast(&arm(0.3), &arm(0.36), claim), &sequence).0;
        assert_eq!(verdict(Claim::AtLeast(0.0)), Verdict::Proved);
        assert_eq!(verdict(Claim::AtMost(0.0)), Verdict::Refuted);
        assert_eq!(verdict(Claim::AtLeast(0.2)), Verdict::Open);
        assert_eq!(verdict(Claim::AtLeast(0.5)), Verdict::Refuted);
        assert_eq!(Verdict::Open.to_string(), "open");
    }
}
