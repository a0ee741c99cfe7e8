//! Support functions of experiment_results and experiment_health (sql/results.sql, health.sql).

use crate::core::stats::distribution::normal_two_sided;
use crate::core::stats::margin::Claim;
use crate::core::stats::ratio::Sums;
use crate::core::stats::{compare, srm, Question};
use crate::pg::errors::UserError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Anyone may call a support function with any array.
pub fn not_negative<const N: usize>(array: Array<i64>, what: &str) -> Result<[i64; N], UserError> {
    array
        .iter()
        .collect::<Option<Vec<i64>>>()
        .filter(|numbers| numbers.iter().all(|&n| n >= 0))
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| {
            UserError::invalid(format!("{what} is {N} counts"))
                .detail("A count is neither negative nor NULL.")
                .hint("Call the aggregates and experiment_results(), which keep these arrays themselves.")
        })
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn compare_ratio(
    base: Array<i64>,
    new: Array<i64>,
    margin: f64,
    higher_is_better: bool,
    alpha: f64,
    planned_users: i32,
    hybrid: bool,
) -> Result<
    TableIterator<
        'static,
        (
            name!(base_estimate, Option<f64>),
            name!(new_estimate, Option<f64>),
            name!(difference, Option<f64>),
            name!(se, Option<f64>),
            name!(difference_low, Option<f64>),
            name!(difference_high, Option<f64>),
            name!(p_always, Option<f64>),
            name!(fixed_low, Option<f64>),
            name!(fixed_high, Option<f64>),
            name!(p_fixed, Option<f64>),
            name!(lift, Option<f64>),
            name!(lift_low, Option<f64>),
            name!(lift_high, Option<f64>),
            name!(lift_fixed_low, Option<f64>),
            name!(lift_fixed_high, Option<f64>),
            name!(design_effect, Option<f64>),
            name!(p_target, Option<f64>),
            name!(chance_to_win, Option<f64>),
            name!(expected_loss, Option<f64>),
            name!(event_z, Option<f64>),
            name!(event_p, Option<f64>),
            name!(verdict, String),
            name!(reason, Option<String>),
        ),
    >,
    ErrorReport,
> {
    check_alpha(alpha)?;
    let claim = if higher_is_better { Claim::AtLeast(margin) } else { Claim::AtMost(margin) };
    let question = Question { claim, alpha, planned_users: f64::from(planned_users.max(1)), hybrid };
    let answer = compare(&sums(base)?, &sums(new)?, &question);
    let compared = answer.compared;
    let fixed = compared.and_then(|c| c.fixed.map(|(half, p)| (c.difference - half, c.difference + half, p)));
    let lift = compared.and_then(|c| c.lift);
    let fixed_lift = compared.and_then(|c| c.fixed_lift);
    let belief = compared.and_then(|c| c.belief);
    let event_z = compared.and_then(|c| c.event_level_z);
    Ok(TableIterator::once((
        answer.base,
        answer.new,
        compared.map(|c| c.difference),
        compared.map(|c| c.se),
        compared.map(|c| c.difference - c.half_width),
        compared.map(|c| c.difference + c.half_width),
        compared.map(|c| c.p),
        fixed.map(|(low, _, _)| low),
        fixed.map(|(_, high, _)| high),
        fixed.map(|(_, _, p)| p),
        lift.map(|(value, _, _)| value),
        lift.map(|(_, low, _)| low),
        lift.map(|(_, _, high)| high),
        fixed_lift.map(|(low, _)| low),
        fixed_lift.map(|(_, high)| high),
        compared.and_then(|c| c.design_effect),
        compared.map(|c| c.claim_p),
        belief.map(|b| b.chance_to_win),
        belief.map(|b| b.loss_if_new_ships),
        event_z,
        event_z.map(normal_two_sided),
        answer.verdict.to_string(),
        answer.reason.map(|reason| reason.to_string()),
    )))
}

pub fn check_alpha(alpha: f64) -> Result<(), UserError> {
    match alpha > 0.0 && alpha < 1.0 {
        true => Ok(()),
        false => Err(UserError::invalid(format!("alpha {alpha} is not between 0 and 1"))
            .detail("alpha is the share of experiments without an effect in which an interval may be wrong.")
            .hint("alpha => 0.05 is usual.")),
    }
}

fn sums(array: Array<i64>) -> Result<Sums, UserError> {
    let [users, m, d, mm, dd, md, largest_d] = not_negative(array, "the sums of an arm")?;
    Ok(Sums { users, m, d, mm, dd, md, largest_d })
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn compare_split(
    observed: Array<i64>,
    weights: Array<f64>,
    arms: i32,
) -> Result<
    TableIterator<
        'static,
        (
            name!(chi_square, Option<f64>),
            name!(p, Option<f64>),
            name!(p_always, Option<f64>),
            name!(smallest_expected, Option<f64>),
        ),
    >,
    ErrorReport,
> {
    let observed: Option<Vec<i64>> = observed.iter().collect();
    let weights: Option<Vec<f64>> = weights.iter().collect();
    let (observed, weights) = observed
        .zip(weights)
        .filter(|(observed, weights)| arms > 0 && observed.len() == weights.len())
        .ok_or_else(|| {
            UserError::invalid("observed users and weights do not belong together")
                .detail("There is one number of users and one weight for each arm of each phase, none NULL.")
                .hint("Call experiment_health(), which passes both.")
        })?;
    let phases: Vec<_> = observed.chunks(arms as usize).zip(weights.chunks(arms as usize)).collect();
    let split = srm::over_phases(&phases);
    Ok(TableIterator::once((
        split.map(|s| s.chi_square),
        split.map(|s| s.p),
        split.map(|s| s.p_always),
        split.map(|s| s.smallest_expected),
    )))
}
