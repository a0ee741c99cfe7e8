//! Functions over one ranked list (sql/ranking.sql) and over waiting times (sql/metrics.sql).

use crate::core::metrics::ranking::{Gain, Item, Ranking, Ties};
use crate::core::metrics::scores::Scores;
use crate::core::metrics::survival::{self, Wait};
use crate::pg::aggregate::{inspect, Given};
use crate::pg::errors::UserError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

#[pg_extern(sql = false, immutable, parallel_safe)]
fn ndcg(
    relevance: Option<Array<f64>>,
    score: Option<Array<f64>>,
    k: Option<i32>,
    gain: Option<&str>,
    ties: Option<&str>,
    ids: Option<Array<&str>>,
) -> Result<Option<f64>, ErrorReport> {
    let gain = match gain {
        Some("linear") | None => Gain::Linear,
        Some("exponential") => Gain::Exponential,
        Some(other) => return Err(unknown_choice("gain", other, "linear", "exponential").into()),
    };
    let k = checked_rank(k)?;
    Ok(ranking(relevance, score, ties, ids)?.map(|list| list.ndcg(k, gain)))
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn mrr(
    relevance: Option<Array<f64>>,
    score: Option<Array<f64>>,
    ties: Option<&str>,
    ids: Option<Array<&str>>,
) -> Result<Option<f64>, ErrorReport> {
    Ok(ranking(relevance, score, ties, ids)?.map(|list| list.reciprocal_rank()))
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn recall_at(
    relevance: Option<Array<f64>>,
    score: Option<Array<f64>>,
    k: Option<i32>,
    ties: Option<&str>,
    ids: Option<Array<&str>>,
) -> Result<Option<f64>, ErrorReport> {
    at_rank(relevance, score, k, ties, ids, Ranking::recall)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn precision_at(
    relevance: Option<Array<f64>>,
    score: Option<Array<f64>>,
    k: Option<i32>,
    ties: Option<&str>,
    ids: Option<Array<&str>>,
) -> Result<Option<f64>, ErrorReport> {
    at_rank(relevance, score, k, ties, ids, Ranking::precision)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn hit_at(
    relevance: Option<Array<f64>>,
    score: Option<Array<f64>>,
    k: Option<i32>,
    ties: Option<&str>,
    ids: Option<Array<&str>>,
) -> Result<Option<f64>, ErrorReport> {
    at_rank(relevance, score, k, ties, ids, Ranking::hit)
}

#[pg_extern(sql = false, immutable, parallel_safe)]
fn average_precision_at(
    relevance: Option<Array<f64>>,
    score: Option<Array<f64>>,
    k: Option<i32>,
    ties: Option<&str>,
    ids: Option<Array<&str>>,
) -> Result<Option<f64>, ErrorReport> {
    at_rank(relevance, score, k, ties, ids, Ranking::average_precision)
}

fn at_rank(
    relevance: Option<Array<f64>>,
    score: Option<Array<f64>>,
    k: Option<i32>,
    ties: Option<&str>,
    ids: Option<Array<&str>>,
    measure: fn(&Ranking, Option<usize>) -> f64,
) -> Result<Option<f64>, ErrorReport> {
    let k = checked_rank(k)?;
    Ok(ranking(relevance, score, ties, ids)?.map(|list| measure(&list, k)))
}

/// None without a list.
fn ranking(
    relevance: Option<Array<f64>>,
    score: Option<Array<f64>>,
    ties: Option<&str>,
    ids: Option<Array<&str>>,
) -> Result<Option<Ranking>, UserError> {
    let (Some(relevance), Some(score)) = (relevance, score) else { return Ok(None) };
    let ties = match (ties, &ids) {
        (Some("averaged") | None, _) => Ties::Averaged,
        (Some("id"), Some(_)) => Ties::Id,
        (Some("id"), None) => {
            return Err(UserError::invalid("ties => 'id' needs the ids")
                .detail("Items of equal score are then ranked by id, descending.")
                .hint("Pass ids => array_agg(id), in the order of the other arrays."))
        }
        (Some(other), _) => return Err(unknown_choice("ties", other, "averaged", "id")),
    };
    let names: Vec<&str> = ids.iter().flat_map(|ids| ids.iter()).map(Option::unwrap_or_default).collect();
    if relevance.len() != score.len() || ids.is_some() && names.len() != score.len() {
        return Err(UserError::invalid("relevance, score and ids do not belong together")
            .detail(format!("There are {} relevances and {} scores.", relevance.len(), score.len()))
            .hint("Each item has one of each: score NULL = not returned, relevance NULL = not judged."));
    }
    // A relevance that is no number would make every later sum none.
    let judged = |r: Option<f64>| r.filter(|r| r.is_finite()).unwrap_or(0.0);
    let items = relevance.iter().zip(score.iter()).enumerate().map(|(place, (relevance, score))| Item {
        relevance: judged(relevance),
        score: score.filter(|score| score.is_finite()),
        id: names.get(place).copied().unwrap_or_default(),
    });
    Ok(Some(Ranking::of(items.collect(), ties)))
}

fn checked_rank(k: Option<i32>) -> Result<Option<usize>, UserError> {
    match k {
        Some(k) if k < 1 => Err(UserError::invalid(format!("k {k} is no rank"))
            .detail("Ranks begin with 1.")
            .hint("Leave k out to take the whole list.")),
        k => Ok(k.map(|k| k as usize)),
    }
}

fn unknown_choice(what: &str, given: &str, one: &str, other: &str) -> UserError {
    UserError::invalid(format!("{what} \"{given}\" is not known"))
        .detail(format!("There are {one} and {other}."))
        .hint(format!("{what} => '{one}' is the default."))
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn survival_median(state: Given) -> Result<Option<f64>, ErrorReport> {
    Ok(inspect(state, survival::median)?)
}

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn survival_mean(state: Given, horizon: f64) -> Result<Option<f64>, ErrorReport> {
    Ok(inspect(state, |times: &mut Scores| survival::restricted_mean(times, horizon))?)
}

/// Intervals of median and mean.
#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn survival_intervals(
    users: Array<i32>,
    seconds: Array<f64>,
    ended: Array<bool>,
    horizon: f64,
    resamples: i32,
    seed: i64,
) -> Result<Vec<Option<f64>>, ErrorReport> {
    let rows = users.iter().zip(seconds.iter()).zip(ended.iter());
    let wait = |((user, time), ended): ((Option<i32>, Option<f64>), Option<bool>)| {
        Some(Wait { user: u32::try_from(user?).ok()?, time: time.filter(|t| t.is_finite())?, ended: ended? })
    };
    let waits = rows
        .map(wait)
        .collect::<Option<Vec<_>>>()
        .filter(|_| users.len() == seconds.len() && users.len() == ended.len());
    let waits = waits.ok_or_else(|| {
        UserError::invalid("users, seconds and ended do not belong together")
            .detail("Every wait has one of each, none NULL; users are numbered from 0.")
            .hint("Call time_to_process(), which passes them.")
    })?;
    let [median, mean] = survival::bootstrap(waits, horizon, resamples.max(0) as usize, seed as u64, || {
        pgrx::check_for_interrupts!();
    });
    Ok(vec![median.low, median.high, mean.low, mean.high])
}
