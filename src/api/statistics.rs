//! Statistics for analysts and for the rollout machine (sql/statistics.sql, rollout.sql): each is a pure function.

use super::stats::{check_alpha, not_negative};
use crate::core::stats::bayes::{self, belief};
use crate::core::stats::cuped::{self, PairedSums};
use crate::core::stats::distribution::normal_two_sided;
use crate::core::stats::lift::{self, Estimate};
use crate::core::stats::multiple::{self, Method};
use crate::core::stats::power::{self, Errors, SEQUENCE_WIDTH};
use crate::core::stats::proportions::{self, Share};
use crate::core::stats::ratio::Arm;
use crate::core::stats::rollout::{self, Snapshot};
use crate::core::stats::sequence::Sequence;
use crate::core::stats::PRIOR_OF_LIFT;
use crate::pg::errors::UserError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::JsonB;

type Ends = (Option<f64>, Option<f64>);

fn ends(interval: Option<(f64, f64)>) -> Ends {
    (interval.map(|i| i.0), interval.map(|i| i.1))
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn compare_proportions(
    base_successes: i64,
    base_users: i64,
    new_successes: i64,
    new_users: i64,
    alpha: f64,
) -> Result<
    TableIterator<
        'static,
        (
            name!(base_share, f64),
            name!(base_low, f64),
            name!(base_high, f64),
            name!(new_share, f64),
            name!(new_low, f64),
            name!(new_high, f64),
            name!(difference, f64),
            name!(newcombe_low, f64),
            name!(newcombe_high, f64),
            name!(score_low, f64),
            name!(score_high, f64),
            name!(lift, Option<f64>),
            name!(lift_low, Option<f64>),
            name!(lift_high, Option<f64>),
            name!(lift_log_low, Option<f64>),
            name!(lift_log_high, Option<f64>),
            name!(base_exact_low, f64),
            name!(base_exact_high, f64),
            name!(new_exact_low, f64),
            name!(new_exact_high, f64),
            name!(z, Option<f64>),
            name!(p, Option<f64>),
            name!(fisher_p, f64),
            name!(chance_to_win, f64),
            name!(expected_loss, f64),
        ),
    >,
    ErrorReport,
> {
    check_alpha(alpha)?;
    let base = share(base_successes, base_users)?;
    let new = share(new_successes, new_users)?;
    let (base_wilson, new_wilson) = (base.wilson(alpha), new.wilson(alpha));
    let (newcombe, score) = (proportions::newcombe(base, new, alpha), proportions::score_difference(base, new, alpha));
    let (lift_low, lift_high) = ends(proportions::score_lift(base, new, alpha));
    let log = ends(proportions::log_lift(base, new, alpha));
    let (base_exact, new_exact) = (base.exact(alpha), new.exact(alpha));
    let z = proportions::pooled_z(base, new);
    let (chance_to_win, expected_loss, _) = bayes::beta_binomial(base, new);
    Ok(TableIterator::once((
        base.estimate(),
        base_wilson.0,
        base_wilson.1,
        new.estimate(),
        new_wilson.0,
        new_wilson.1,
        new.estimate() - base.estimate(),
        newcombe.0,
        newcombe.1,
        score.0,
        score.1,
        (base_successes > 0).then(|| new.estimate() / base.estimate() - 1.0),
        lift_low,
        lift_high,
        log.0,
        log.1,
        base_exact.0,
        base_exact.1,
        new_exact.0,
        new_exact.1,
        z,
        z.map(normal_two_sided),
        proportions::fisher(base, new),
        chance_to_win,
        expected_loss,
    )))
}

fn share(successes: i64, users: i64) -> Result<Share, UserError> {
    match users > 0 && (0..=users).contains(&successes) {
        true => Ok(Share { successes: successes as f64, users: users as f64 }),
        false => Err(UserError::invalid(format!("{successes} of {users} users is no share"))
            .detail("Each user counts once: there is at least one, and as many successes at most.")
            .hint("For several events per user call compare_means() or experiment_results().")),
    }
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn compare_means(
    base: Array<f64>,
    new: Array<f64>,
    alpha: f64,
    planned_users: i32,
) -> Result<
    TableIterator<
        'static,
        (
            name!(base_mean, f64),
            name!(new_mean, f64),
            name!(difference, f64),
            name!(se, f64),
            name!(difference_low, f64),
            name!(difference_high, f64),
            name!(p_always, f64),
            name!(fixed_low, Option<f64>),
            name!(fixed_high, Option<f64>),
            name!(p_fixed, Option<f64>),
            name!(lift, Option<f64>),
            name!(lift_se_delta, Option<f64>),
            name!(lift_low, Option<f64>),
            name!(lift_high, Option<f64>),
            name!(chance_to_win, Option<f64>),
            name!(expected_loss, Option<f64>),
            name!(expected_loss_of_base, Option<f64>),
            name!(believed_lift, Option<f64>),
            name!(believed_lift_sd, Option<f64>),
        ),
    >,
    ErrorReport,
> {
    check_alpha(alpha)?;
    let (base, new) = (mean(base)?, mean(new)?);
    let difference = lift::difference(&base, &new);
    let fixed = lift::fixed_horizon(&base, &new, alpha);
    let relative = lift::relative(&base, &new);
    let z = crate::core::stats::distribution::normal_quantile_above(alpha / 2.0);
    let (lift_low, lift_high) = ends(lift::fieller(&base, &new, z));
    let belief = relative.filter(|lift| lift.se > 0.0).map(|lift| belief(lift, Some(PRIOR_OF_LIFT)));
    let sequence = Sequence { users: base.users + new.users, planned_users: f64::from(planned_users.max(1)), alpha };
    let half = sequence.half_width(difference.se);
    Ok(TableIterator::once((
        base.ratio,
        new.ratio,
        difference.value,
        difference.se,
        difference.value - half,
        difference.value + half,
        if difference.se > 0.0 { sequence.p(difference) } else { 1.0 },
        fixed.map(|(half, _)| difference.value - half),
        fixed.map(|(half, _)| difference.value + half),
        fixed.map(|(_, p)| p),
        relative.map(|lift| lift.value),
        relative.map(|lift| lift.se),
        lift_low,
        lift_high,
        belief.map(|b| b.chance_to_win),
        belief.map(|b| b.loss_if_new_ships),
        belief.map(|b| b.loss_if_base_stays),
        belief.map(|b| b.mean),
        belief.map(|b| b.sd),
    )))
}

fn mean(array: Array<f64>) -> Result<Arm, UserError> {
    let numbers: Option<Vec<f64>> = array.iter().collect();
    let arm = match numbers.as_deref() {
        Some([users, sum, squares]) if sum.is_finite() && squares.is_finite() => {
            Arm::of_mean(*users, *sum, *squares).ok()
        }
        _ => None,
    };
    arm.ok_or_else(|| {
        UserError::invalid("an arm is its users, the sum and the sum of squares")
            .detail("There are three finite numbers, and at least two users.")
            .hint("ARRAY[count(*), sum(x), sum(x * x)] over one row per user.")
    })
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn always_valid(
    estimate: f64,
    se: f64,
    users: i64,
    planned_users: i64,
    alpha: f64,
) -> Result<
    TableIterator<
        'static,
        (name!(low, f64), name!(high, f64), name!(p, f64), name!(lower_bound, f64), name!(p_above_zero, f64)),
    >,
    ErrorReport,
> {
    check_alpha(alpha)?;
    if !(se > 0.0 && se.is_finite() && estimate.is_finite() && users > 0 && planned_users > 0) {
        return Err(UserError::invalid("an estimate, its standard error and numbers of users are needed")
            .detail(format!("The estimate is {estimate}, se {se}, users {users}, planned_users {planned_users}."))
            .hint("se and both numbers of users are above 0.")
            .into());
    }
    let sequence = Sequence { users: users as f64, planned_users: planned_users as f64, alpha };
    let half = sequence.half_width(se);
    let seen = Estimate { value: estimate, se };
    Ok(TableIterator::once((
        estimate - half,
        estimate + half,
        sequence.p(seen),
        estimate - sequence.half_width_above(se),
        sequence.p_above(seen),
    )))
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn adjust_p_values(p: Array<f64>, method: &str) -> Result<Vec<f64>, ErrorReport> {
    let known = Method::NAMES.map(|(name, _)| name).join(", ");
    let method = Method::named(method).ok_or_else(|| {
        UserError::invalid(format!("no method \"{method}\" to adjust p values"))
            .detail(format!("There are {known}."))
            .hint("'holm' for decisions, 'bh' for exploring.")
    })?;
    let values: Option<Vec<f64>> = p.iter().collect();
    let values = values.filter(|values| values.iter().all(|p| (0.0..=1.0).contains(p))).ok_or_else(|| {
        UserError::invalid("a p value lies between 0 and 1")
            .detail("One of them is NULL, NaN or outside.")
            .hint("Leave out what has no p value: array_agg(p) FILTER (WHERE p IS NOT NULL).")
    })?;
    Ok(multiple::adjust(&values, method))
}

/// Users per arm at one look; with a variance per user for metrics of several events.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn required_users(
    base_rate: Option<f64>,
    lift: Option<f64>,
    margin: Option<f64>,
    alpha: Option<f64>,
    power: Option<f64>,
    variance: Option<f64>,
) -> Result<
    TableIterator<'static, (name!(users_per_arm, i64), name!(planned_users, i64), name!(price_of_looking, f64))>,
    ErrorReport,
> {
    let (Some(base_rate), Some(lift), Some(margin), Some(alpha), Some(power)) = (base_rate, lift, margin, alpha, power)
    else {
        return Ok(TableIterator::new(None));
    };
    check_alpha(alpha)?;
    let sound = base_rate > 0.0
        && (0.0..1.0).contains(&power)
        && power > alpha / 2.0
        && lift.is_finite()
        && lift != margin
        && lift > -1.0
        && variance.map_or(base_rate < 1.0 && base_rate * (1.0 + lift) < 1.0, |v| v > 0.0 && v.is_finite());
    if !sound {
        return Err(UserError::invalid("no number of users answers that")
            .detail(format!("The base rate is {base_rate}, the lift {lift}, the margin {margin}, the power {power}."))
            .hint("Rates lie between 0 and 1, the lift is not the margin, power => 0.8 is usual.")
            .into());
    }
    let errors = Errors { alpha, power };
    let binomial = |p: f64| p * (1.0 - p);
    let users = match variance {
        None if margin == 0.0 => power::two_shares(base_rate, base_rate * (1.0 + lift), errors),
        None => {
            let spread = (binomial(base_rate), binomial(base_rate * (1.0 + lift)));
            power::beyond_margin(base_rate, spread, margin, lift, errors)
        }
        Some(variance) => power::beyond_margin(base_rate, (variance, variance), margin, lift, errors),
    };
    let price = power::price_of_looking(errors);
    Ok(TableIterator::new(Some((users.ceil() as i64, (2.0 * users * price).ceil() as i64, price))))
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn detectable_lift(
    mean: f64,
    variance: f64,
    users_per_arm: i64,
    lift: f64,
    alpha: f64,
    power: f64,
) -> Result<
    TableIterator<
        'static,
        (
            name!(smallest_lift, Option<f64>),
            name!(smallest_lift_always, Option<f64>),
            name!(power_of_lift, f64),
            name!(power_of_lift_always, f64),
        ),
    >,
    ErrorReport,
> {
    check_alpha(alpha)?;
    let sound =
        mean > 0.0 && variance > 0.0 && variance.is_finite() && users_per_arm > 1 && lift > -1.0 && lift.is_finite();
    if !(sound && power > alpha / 2.0 && power < 1.0) {
        return Err(UserError::invalid("no lift answers that")
            .detail(format!("The mean is {mean}, its variance {variance}, users per arm {users_per_arm}, the lift {lift}, the power {power}."))
            .hint("Mean and variance per user are above 0: a share p of users has the variance p * (1 - p).")
            .into());
    }
    let users = users_per_arm as f64;
    let smallest = |width| power::smallest_lift(mean, variance, users, width, Errors { alpha, power });
    let found = |width| power::power_of(lift, mean, variance, users, width, alpha);
    Ok(TableIterator::once((smallest(1.0), smallest(SEQUENCE_WIDTH), found(1.0), found(SEQUENCE_WIDTH))))
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn compare_adjusted(
    base: Array<i64>,
    new: Array<i64>,
    alpha: f64,
) -> Result<
    TableIterator<
        'static,
        (
            name!(theta, Option<f64>),
            name!(difference, Option<f64>),
            name!(se, Option<f64>),
            name!(fixed_low, Option<f64>),
            name!(fixed_high, Option<f64>),
            name!(p_fixed, Option<f64>),
            name!(unadjusted, Option<f64>),
            name!(unadjusted_se, Option<f64>),
            name!(variance_reduction, Option<f64>),
            name!(lift, Option<f64>),
            name!(lift_se, Option<f64>),
        ),
    >,
    ErrorReport,
> {
    check_alpha(alpha)?;
    let moments = cuped::moments(&paired(base)?, &paired(new)?);
    let a = moments.map(|(base, new)| cuped::adjust(&base, &new, alpha)).filter(|a| a.plain.se > 0.0);
    let lift = a.and_then(|a| a.lift);
    let fixed = a.and_then(|a| a.fixed.map(|(half, p)| (a.adjusted.value - half, a.adjusted.value + half, p)));
    Ok(TableIterator::once((
        a.map(|a| a.theta),
        a.map(|a| a.adjusted.value),
        a.map(|a| a.adjusted.se),
        fixed.map(|(low, _, _)| low),
        fixed.map(|(_, high, _)| high),
        fixed.map(|(_, _, p)| p),
        a.map(|a| a.plain.value),
        a.map(|a| a.plain.se),
        a.map(|a| a.variance_reduction),
        lift.map(|lift| lift.value),
        lift.map(|lift| lift.se),
    )))
}

fn paired(array: Array<i64>) -> Result<PairedSums, UserError> {
    let [users, m, d, mm, dd, md, p, q, pp, qq, pq, mp, mq, dp, dq] =
        not_negative(array, "the sums of an arm before and after")?;
    Ok(PairedSums { users, after: [m, d, mm, dd, md], before: [p, q, pp, qq, pq], cross: [mp, mq, dp, dq] })
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn decide_rollout(
    inputs: JsonB,
) -> Result<
    TableIterator<'static, (name!(decision, String), name!(reason, String), name!(next_coverage, Option<f64>))>,
    ErrorReport,
> {
    let look: Snapshot = serde_json::from_value(inputs.0).map_err(|error| {
        UserError::invalid("these are not the inputs of a rollout decision")
            .detail(error.to_string())
            .hint("Rows of rollout_decision that a person's call wrote hold no numbers to decide on again.")
    })?;
    let outcome = rollout::decide(&look);
    Ok(TableIterator::once((outcome.decision.to_string(), outcome.reason, outcome.next_coverage)))
}
