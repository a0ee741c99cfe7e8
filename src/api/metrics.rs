//! Support functions of the aggregates over labels, scores and probabilities (sql/aggregates.sql, score_aggregates.sql).

use crate::core::metrics::confusion::{Confusion, UNDEFINED_IS_NULL};
use crate::core::metrics::histogram::{stability_index, Bounded, Histogram};
use crate::core::metrics::labels::Labels;
use crate::core::metrics::probability::{self, Calibration};
use crate::core::metrics::scores::Scores;
use crate::pg::aggregate::{add_score, combine, inspect, too_many_classes, update, Given, Kept, Tally};
use crate::pg::errors::UserError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::FunctionCallInfo;
use pgrx::prelude::*;

#[pg_extern(sql = false, immutable, parallel_safe)]
fn confusion_step(
    state: Tally,
    actual: Option<bool>,
    predicted: Option<bool>,
    call: FunctionCallInfo,
) -> Result<Tally, ErrorReport> {
    Ok(count(state, actual, predicted, Some(1.0), call)?)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn confusion_step_weighted(
    state: Tally,
    actual: Option<bool>,
    predicted: Option<bool>,
    weight: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Tally, ErrorReport> {
    Ok(count(state, actual, predicted, weight, call)?)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn confusion_step_chosen(
    state: Tally,
    actual: Option<bool>,
    predicted: Option<bool>,
    weight: Option<f64>,
    zero_division: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Tally, ErrorReport> {
    if let Some(number) = zero_division.filter(|n| *n != 0.0 && *n != 1.0 && !n.is_nan()) {
        return Err(UserError::invalid(format!("zero_division {number} is no answer to 0/0"))
            .detail("It is 0, 1, NaN, or NULL for undefined.")
            .hint("zero_division => NULL is what the shorter forms do.")
            .into());
    }
    let mut state = count(state, actual, predicted, weight, call)?;
    if let Some(answer) = state.numbers_mut().get_mut(5) {
        *answer = zero_division.unwrap_or(UNDEFINED_IS_NULL);
    }
    Ok(state)
}

fn count(
    state: Tally,
    actual: Option<bool>,
    predicted: Option<bool>,
    weight: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Tally, UserError> {
    let mut state = state.into_changed(call);
    let numbers = state.numbers_mut();
    if numbers.len() < 5 {
        return Err(no_counts());
    }
    match (actual, predicted, weight.map(checked_weight).transpose()?) {
        (Some(actual), Some(predicted), Some(weight)) => numbers[Confusion::cell(actual, predicted)] += weight,
        _ => numbers[4] += 1.0,
    }
    Ok(state)
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn confusion_combine(state: Tally, other: Tally, call: FunctionCallInfo) -> Result<Tally, ErrorReport> {
    let mut state = state.into_changed(call);
    let numbers = state.numbers_mut();
    if numbers.len() < 5 || numbers.len() != other.numbers().len() {
        return Err(no_counts().into());
    }
    numbers[..5].iter_mut().zip(other.numbers()).for_each(|(to, from)| *to += from);
    // A worker without rows has not seen what 0/0 is to be.
    if let Some(answer) = numbers.get_mut(5).filter(|answer| answer.is_infinite()) {
        *answer = other.numbers()[5];
    }
    Ok(state)
}

fn confusion(state: &Tally) -> Result<Confusion, UserError> {
    Confusion::from_numbers(state.numbers()).ok_or_else(no_counts)
}

fn no_counts() -> UserError {
    UserError::invalid("the state of precision_score and its siblings is five counts")
        .detail("A count is neither negative nor NULL.")
        .hint("Call the aggregates, which keep these arrays themselves.")
}

/// A ratio, or what the caller wants 0/0 to be.
fn ratio(state: Tally, of: fn(&Confusion) -> Option<f64>) -> Result<Option<f64>, ErrorReport> {
    let otherwise = state.numbers().get(5).copied().filter(|answer| *answer != UNDEFINED_IS_NULL);
    Ok(of(&confusion(&state)?).or(otherwise))
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn confusion_precision(state: Tally) -> Result<Option<f64>, ErrorReport> {
    ratio(state, Confusion::precision)
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn confusion_recall(state: Tally) -> Result<Option<f64>, ErrorReport> {
    ratio(state, Confusion::recall)
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn confusion_f1(state: Tally) -> Result<Option<f64>, ErrorReport> {
    ratio(state, |counts| counts.f(1.0))
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn confusion_mcc(state: Tally) -> Result<Option<f64>, ErrorReport> {
    ratio(state, Confusion::mcc)
}

/// Ratios that have no aggregate of their own, in the order of binary_report.
#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn confusion_ratios(state: Tally) -> Result<Vec<Option<f64>>, ErrorReport> {
    let otherwise = state.numbers().get(5).copied().filter(|answer| *answer != UNDEFINED_IS_NULL);
    let c = confusion(&state)?;
    let all = [
        c.precision(),
        c.recall(),
        c.f(1.0),
        c.f(2.0),
        c.f(0.5),
        c.specificity(),
        c.accuracy(),
        c.balanced_accuracy(),
        c.mcc(),
        c.jaccard(),
        c.kappa(),
    ];
    Ok(all.into_iter().map(|ratio| ratio.or(otherwise)).collect())
}

fn checked_weight(weight: f64) -> Result<f64, UserError> {
    if weight.is_finite() && weight >= 0.0 {
        return Ok(weight);
    }
    Err(UserError::new(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, format!("{weight} is no weight"))
        .detail("A weight is finite and not negative; a row with a NULL weight is left out.")
        .hint("Weigh by 1 / propensity, for instance, where propensity is above 0."))
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn score_step(
    state: Option<Given>,
    actual: Option<bool>,
    score: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Kept, ErrorReport> {
    Ok(update(call, state, |scores: &mut Scores| match (actual, score) {
        (Some(actual), Some(score)) => add_score(scores, actual, score, None),
        _ => {
            scores.ignored += 1;
            Ok(())
        }
    })?)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn score_step_weighted(
    state: Option<Given>,
    actual: Option<bool>,
    score: Option<f64>,
    weight: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Kept, ErrorReport> {
    Ok(update(call, state, |scores: &mut Scores| match (actual, score, weight.map(checked_weight).transpose()?) {
        (Some(actual), Some(score), Some(weight)) => add_score(scores, actual, score, Some(weight)),
        _ => {
            scores.ignored += 1;
            Ok(())
        }
    })?)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn score_combine(
    state: Option<Given>,
    other: Option<Given>,
    call: FunctionCallInfo,
) -> Result<Option<Kept>, ErrorReport> {
    Ok(combine::<Scores>(call, state, other)?)
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn score_auc(state: Given) -> Result<Option<f64>, ErrorReport> {
    Ok(inspect(state, Scores::roc_auc)?)
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn score_average_precision(state: Given) -> Result<Option<f64>, ErrorReport> {
    Ok(inspect(state, Scores::average_precision)?)
}

/// Weight of positives, of negatives, and rows that could not be ranked.
#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn score_counts(state: Given) -> Result<Vec<f64>, ErrorReport> {
    let counts = |scores: &mut Scores| (scores.totals(), scores.ignored as f64);
    let ((positives, negatives), ignored) = inspect(state, counts)?;
    Ok(vec![positives, negatives, ignored])
}

/// More rows than one array of them should have.
const MOST_THRESHOLDS: usize = 1_000_000;

/// For every threshold from the highest, or for about `points` of them, what is at or above it.
#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn score_thresholds(
    state: Given,
    points: i32,
) -> Result<TableIterator<'static, (name!(threshold, f64), name!(tp, f64), name!(fp, f64))>, ErrorReport> {
    let rows = inspect(state, |scores: &mut Scores| {
        let different = scores.steps().count();
        let every = if points > 0 { different.div_ceil(points as usize).max(1) } else { 1 };
        let (mut tp, mut fp) = (0.0, 0.0);
        let sums = scores.steps().rev().map(|step| {
            (tp, fp) = (tp + step.positive, fp + step.negative);
            (step.score(), tp, fp)
        });
        let kept = |place: usize| place.is_multiple_of(every) || place + 1 == different;
        let kept = sums.enumerate().filter(|(place, _)| kept(*place)).map(|(_, row)| row);
        kept.take(MOST_THRESHOLDS + 1).collect::<Vec<_>>()
    })?;
    if rows.len() > MOST_THRESHOLDS {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("threshold_table of more than {MOST_THRESHOLDS} different scores"),
        )
        .detail("It has a row for each.")
        .hint("Round the scores: threshold_table(actual, round(score::numeric, 3)).")
        .into());
    }
    Ok(TableIterator::new(rows))
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn histogram_step(
    state: Option<Given>,
    actual: Option<bool>,
    score: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Kept, ErrorReport> {
    Ok(update(call, state, |counts: &mut Histogram| match (actual, score) {
        (Some(actual), Some(score)) => {
            counts.add(actual, score).then_some(()).ok_or_else(|| out_of_range("score", score))
        }
        _ => {
            counts.ignored += 1;
            Ok(())
        }
    })?)
}

fn out_of_range(what: &str, number: f64) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        format!("{what} {number} is not between 0 and 1"),
    )
    .detail("Buckets and probabilities have that range.")
    .hint("Scale it, or use roc_auc and average_precision, which rank any finite numbers.")
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn histogram_combine(
    state: Option<Given>,
    other: Option<Given>,
    call: FunctionCallInfo,
) -> Result<Option<Kept>, ErrorReport> {
    Ok(combine::<Histogram>(call, state, other)?)
}

/// AUC, average precision, each with the most it can be off, then positives, negatives and ignored rows.
#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn histogram_figures(state: Given) -> Result<Vec<Option<f64>>, ErrorReport> {
    let bounded = |figure: Option<Bounded>| [figure.map(|f| f.value), figure.map(|f| f.error)];
    Ok(inspect(state, |counts: &mut Histogram| {
        let (positives, negatives) = counts.totals();
        let rows = [positives, negatives, counts.ignored].map(|n| Some(n as f64));
        [&bounded(counts.roc_auc())[..], &bounded(counts.average_precision()), &rows].concat()
    })?)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn label_step(
    state: Option<Given>,
    actual: Option<&str>,
    predicted: Option<&str>,
    call: FunctionCallInfo,
) -> Result<Kept, ErrorReport> {
    Ok(classify(state, actual, predicted, Some(1.0), call)?)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn label_step_weighted(
    state: Option<Given>,
    actual: Option<&str>,
    predicted: Option<&str>,
    weight: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Kept, ErrorReport> {
    Ok(classify(state, actual, predicted, weight, call)?)
}

fn classify(
    state: Option<Given>,
    actual: Option<&str>,
    predicted: Option<&str>,
    weight: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Kept, UserError> {
    update(call, state, |labels: &mut Labels| match (actual, predicted, weight.map(checked_weight).transpose()?) {
        (Some(actual), Some(predicted), Some(weight)) => {
            labels.add(actual, predicted, weight).map_err(|_| too_many_classes())
        }
        _ => {
            labels.ignored += 1;
            Ok(())
        }
    })
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn label_combine(
    state: Option<Given>,
    other: Option<Given>,
    call: FunctionCallInfo,
) -> Result<Option<Kept>, ErrorReport> {
    Ok(combine::<Labels>(call, state, other)?)
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn label_rows(
    state: Given,
) -> Result<
    TableIterator<
        'static,
        (
            name!(class, String),
            name!(precision, Option<f64>),
            name!(recall, Option<f64>),
            name!(f1, Option<f64>),
            name!(support, f64),
            name!(predicted, f64),
            name!(hits, f64),
        ),
    >,
    ErrorReport,
> {
    let classes = inspect(state, |labels: &mut Labels| labels.classes())?;
    Ok(TableIterator::new(classes.into_iter().map(|c| {
        let (precision, recall, f1) = (c.precision(), c.recall(), c.f1());
        (c.name, precision, recall, f1, c.support, c.predicted, c.hits)
    })))
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn probability_step(
    state: Option<Tally>,
    actual: Option<bool>,
    probability: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Tally, ErrorReport> {
    Ok(calibrate(state, actual, probability, Some(1.0), probability::DEFAULT_BINS, call)?)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn probability_step_weighted(
    state: Option<Tally>,
    actual: Option<bool>,
    probability: Option<f64>,
    weight: Option<f64>,
    call: FunctionCallInfo,
) -> Result<Tally, ErrorReport> {
    Ok(calibrate(state, actual, probability, weight, probability::DEFAULT_BINS, call)?)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn probability_step_bins(
    state: Option<Tally>,
    actual: Option<bool>,
    probability: Option<f64>,
    bins: Option<i32>,
    call: FunctionCallInfo,
) -> Result<Tally, ErrorReport> {
    let bins = bins.and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=probability::MOST_BINS).contains(n));
    let bins = bins.ok_or_else(|| {
        UserError::invalid("calibration needs a number of bins")
            .detail(format!("It is between 1 and {}.", probability::MOST_BINS))
            .hint("Leave it out for 10.")
    })?;
    Ok(calibrate(state, actual, probability, Some(1.0), bins, call)?)
}

fn calibrate(
    state: Option<Tally>,
    actual: Option<bool>,
    probability: Option<f64>,
    weight: Option<f64>,
    bins: usize,
    call: FunctionCallInfo,
) -> Result<Tally, UserError> {
    let numbers = probability::numbers(bins);
    let mut state = state.map_or_else(|| Tally::zeros(numbers), |state| state.into_changed(call));
    if state.numbers().len() != numbers {
        return Err(no_sums());
    }
    let weight = weight.map(checked_weight).transpose()?;
    match (actual, probability.filter(|p| !p.is_nan()), weight) {
        (Some(_), Some(p), Some(_)) if !(0.0..=1.0).contains(&p) => return Err(out_of_range("probability", p)),
        (Some(actual), Some(p), Some(weight)) => probability::add(state.numbers_mut(), actual, p, weight),
        _ => state.numbers_mut()[0] += 1.0,
    }
    Ok(state)
}

fn no_sums() -> UserError {
    UserError::invalid("that is no state of brier_score and its siblings")
        .detail(
            "It is an array of sums, as long as the number of bins says; the number of bins is the same for all rows.",
        )
        .hint("Call the aggregates, which keep these arrays themselves.")
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn probability_combine(
    state: Option<Tally>,
    other: Option<Tally>,
    call: FunctionCallInfo,
) -> Result<Option<Tally>, ErrorReport> {
    let (state, other) = match (state, other) {
        (Some(state), Some(other)) => (state, other),
        (state, other) => return Ok(state.or(other)),
    };
    let mut state = state.into_changed(call);
    if state.numbers().len() != other.numbers().len() {
        return Err(no_sums().into());
    }
    state.numbers_mut().iter_mut().zip(other.numbers()).for_each(|(to, from)| *to += from);
    Ok(Some(state))
}

/// Brier score, log loss, expected and largest calibration error.
#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn probability_figures(state: Tally) -> Result<Vec<Option<f64>>, ErrorReport> {
    let sums = Calibration::of(state.numbers()).ok_or_else(no_sums)?;
    Ok(vec![sums.brier(), sums.log_loss(), sums.expected_error(), sums.largest_error()])
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn probability_bins(
    state: Tally,
) -> Result<
    TableIterator<
        'static,
        (
            name!(bin, i32),
            name!(low, f64),
            name!(high, f64),
            name!(weight, f64),
            name!(mean_probability, f64),
            name!(share_positive, f64),
        ),
    >,
    ErrorReport,
> {
    let sums = Calibration::of(state.numbers()).ok_or_else(no_sums)?;
    let rows =
        sums.bins().map(|b| (b.number as i32 + 1, b.low, b.high, b.weight, b.mean_probability, b.share_positive));
    Ok(TableIterator::new(rows.collect::<Vec<_>>()))
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn population_stability_index(before: Array<i64>, after: Array<i64>) -> Result<Option<f64>, ErrorReport> {
    let counts = |array: Array<i64>| array.iter().collect::<Option<Vec<_>>>().filter(|all| all.iter().all(|n| *n >= 0));
    match (counts(before), counts(after)) {
        (Some(before), Some(after)) if before.len() == after.len() => Ok(stability_index(&before, &after)),
        _ => Err(UserError::invalid("two distributions cannot be compared")
            .detail("Each is an array of counts, both of the same buckets, none negative or NULL.")
            .hint("For instance population_stability_index('{10,20,40,20,10}', '{5,15,35,30,15}').")
            .into()),
    }
}
