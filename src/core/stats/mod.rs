//! Statistics of A/B tests. Unit of everything is the user: events of one user are not independent.

pub mod bayes;
pub mod cuped;
pub mod distribution;
pub mod lift;
pub mod margin;
pub mod multiple;
pub mod power;
pub mod proportions;
pub mod ratio;
pub mod rollout;
pub mod sequence;
pub mod srm;

#[cfg(test)]
mod published_tests;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod test_data;
#[cfg(test)]
mod vendor_tests;

use bayes::Belief;
use lift::Estimate;
use margin::{Claim, Verdict};
use ratio::{Arm, Reason, Sums};
use sequence::Sequence;

/// What is asked of two arms.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub claim: Claim,
    /// Error rate of the two-sided intervals; the claim is judged at half of it in each direction.
    pub alpha: f64,
    /// Users in all at which a decision was expected when the experiment started.
    pub planned_users: f64,
    /// Spend half of alpha on one ordinary test at the planned number of users.
    pub hybrid: bool,
}

/// What is believed of a lift before any data: most changes do little.
pub const PRIOR_OF_LIFT: Estimate = Estimate { value: 0.0, se: 0.3 };

/// The answer: every undefined number is None, and `reason` says why.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub base: Option<f64>,
    pub new: Option<f64>,
    pub compared: Option<Compared>,
    pub verdict: Verdict,
    pub reason: Option<Reason>,
}

/// Numbers that exist once both arms have some variance.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    pub difference: f64,
    pub se: f64,
    /// Always-valid half-width and p of the difference.
    pub half_width: f64,
    pub p: f64,
    /// The same at one look planned in advance.
    pub fixed: Option<(f64, f64)>,
    /// Lift with its always-valid interval (built on the log scale).
    pub lift: Option<(f64, f64, f64)>,
    /// Fieller's interval of the lift at one look.
    pub fixed_lift: Option<(f64, f64)>,
    /// The test that takes every event for a user of its own: a warning, not a result.
    pub event_level_z: Option<f64>,
    /// Of the lift, from `PRIOR_OF_LIFT`; the side that the claim calls better is the one that wins.
    pub belief: Option<Belief>,
    /// None of what may happen more than once per unit.
    pub design_effect: Option<f64>,
    pub claim_p: f64,
    verdict: Verdict,
}

pub fn compare(base: &Sums, new: &Sums, question: &Question) -> Answer {
    let doubt = base.doubt().into_iter().chain(new.doubt()).min();
    let compared = compared(base, new, question);
    Answer {
        base: base.ratio(),
        new: new.ratio(),
        compared,
        verdict: match (compared, doubt) {
            (Some(compared), None) => compared.verdict,
            _ => Verdict::Open,
        },
        reason: doubt,
    }
}

fn compared(base_sums: &Sums, new_sums: &Sums, question: &Question) -> Option<Compared> {
    let (base, new) = (base_sums.arm().ok()?, new_sums.arm().ok()?);
    let difference = lift::difference(&base, &new);
    if difference.se == 0.0 {
        return None;
    }
    let two_sided =
        Sequence { users: base.users + new.users, planned_users: question.planned_users, alpha: question.alpha };
    let one_sided = Sequence { alpha: question.alpha / 2.0, ..two_sided };
    let contrast = margin::contrast(&base, &new, question.claim);
    let judge = if question.hybrid { margin::judge_hybrid } else { margin::judge };
    let (verdict, claim_p) = judge(contrast, &one_sided);
    let z = distribution::normal_quantile_above(question.alpha / 2.0);
    Some(Compared {
        difference: difference.value,
        se: difference.se,
        half_width: two_sided.half_width(difference.se),
        p: two_sided.p(difference),
        fixed: lift::fixed_horizon(&base, &new, question.alpha),
        lift: lift::log_ratio(&base, &new).map(|log| {
            let half = two_sided.half_width(log.se);
            let [value, low, high] = [log.value, log.value - half, log.value + half].map(f64::exp_m1);
            (value, low, high)
        }),
        fixed_lift: lift::fieller(&base, &new, z),
        event_level_z: lift::event_level_z(base_sums, new_sums),
        belief: belief(&base, &new, question.claim),
        design_effect: Some(base.naive_variance + new.naive_variance)
            .filter(|naive| *naive > 0.0 && base.naive_variance >= 0.0 && new.naive_variance >= 0.0)
            .map(|naive| difference.se.powi(2) / naive),
        claim_p,
        verdict,
    })
}

/// On the lift, turned round when lower is better.
fn belief(base: &Arm, new: &Arm, claim: Claim) -> Option<Belief> {
    let lift = lift::relative(base, new)?;
    let sign = if matches!(claim, Claim::AtLeast(_)) { 1.0 } else { -1.0 };
    Some(bayes::belief(Estimate { value: sign * lift.value, ..lift }, Some(PRIOR_OF_LIFT)))
}

#[cfg(test)]
mod tests {
    use super::test_data::sums_of_users;
    use super::*;

    const BETTER: Question = Question { claim: Claim::AtLeast(0.0), alpha: 0.05, planned_users: 400.0, hybrid: false };

    /// `users` users with ten events each, of which 1 to 2 * `mean` - 1 count.
    fn arm(users: i64, mean: i64) -> Sums {
        let rows: Vec<_> = (0..users).map(|user| (1 + user % (2 * mean - 1), 10)).collect();
        sums_of_users(&rows)
    }

    #[test]
    fn a_clear_win_is_proved_and_its_numbers_fit_together() {
        let answer = compare(&arm(400, 3), &arm(400, 5), &BETTER);
        let c = answer.compared.unwrap();
        assert_eq!((answer.verdict, answer.reason), (Verdict::Proved, None));
        assert_eq!(answer.base, Some(0.3));
        assert!(c.difference - c.half_width > 0.0 && c.p < 0.05 && c.claim_p < 0.025);
        let (lift, low, high) = c.lift.unwrap();
        assert!(low > 0.0 && low < lift && lift < high);
        let (fixed_half, fixed_p) = c.fixed.unwrap();
        assert!(fixed_half < c.half_width && fixed_p < 0.05);
    }

    #[test]
    fn few_users_prove_nothing_but_see_their_numbers() {
        let answer = compare(&arm(50, 2), &arm(50, 5), &BETTER);
        assert_eq!((answer.verdict, answer.reason), (Verdict::Open, Some(Reason::TooFewUsers)));
        assert!(answer.compared.is_some());
    }

    #[test]
    fn nothing_shown_is_no_number_at_all() {
        let answer = compare(&arm(200, 3), &sums_of_users(&[]), &BETTER);
        assert_eq!((answer.verdict, answer.reason), (Verdict::Open, Some(Reason::NoEvents)));
        assert!(answer.compared.is_none() && answer.new.is_none());
        let constant = sums_of_users(&[(0, 10); 200]);
        let answer = compare(&constant, &constant, &BETTER);
        assert_eq!(answer.reason, Some(Reason::ZeroVariance));
        assert!(answer.compared.is_none());
    }
}
