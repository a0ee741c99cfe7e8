//! C side of sql/shadow.sql.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::profiles::{Profile, Shown};
use super::serving::{cosine, query_of, stored};
use crate::core::shadow::{self, Impression, Score};
use crate::pg::errors::UserError;
use crate::pg::vector::Vector;

/// How two models score an item for a user as both were before it was shown, and how far each scores items of all kinds apart:
/// score, spread, earlier score, earlier spread. NULL when there was no profile yet.
#[pg_extern(sql = false, stable, strict)]
#[allow(clippy::too_many_arguments)]
fn shadow_scores(
    who: &str,
    source: &str,
    signal: &str,
    shown_at: TimestampWithTimeZone,
    embedding: Vector,
    model: &str,
    earlier: &str,
    reference: Array<f32>,
) -> Result<Option<Vec<f64>>, ErrorReport> {
    let shown = Shown { source, signal, at: shown_at };
    let x = embedding.as_slice();
    let reference: Vec<f32> = reference.iter().flatten().collect();
    let score = |name: &str| -> Result<Option<[f64; 2]>, UserError> {
        let model = stored(name)?;
        if model.as_ref().is_some_and(|model| model.adapter.dim != x.len()) {
            return Ok(None);
        }
        let Some(profile) = Profile::before(who, &shown, x.len(), model.as_deref())? else { return Ok(None) };
        let query = query_of(who, profile, name, model.as_deref())?;
        let all: Vec<f64> = reference.chunks_exact(x.len()).filter_map(|y| cosine(y, &query)).collect();
        Ok(cosine(x, &query).map(|cosine| [cosine, deviation(&all)]))
    };
    let (Some(now), Some(before)) = (score(model)?, score(earlier)?) else { return Ok(None) };
    Ok(Some([now, before].concat()))
}

fn deviation(values: &[f64]) -> f64 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt()
}

/// What one look has to show before the model is rolled back.
#[pg_extern(sql = false, immutable, parallel_safe, strict)]
fn shadow_level(look: i32) -> f64 {
    shadow::level(look)
}

/// No row: too few users or days have both kinds.
#[pg_extern(sql = false, immutable, parallel_safe, strict)]
#[allow(clippy::type_complexity, clippy::too_many_arguments)]
fn compare_shadow(
    users: Array<i32>,
    surfaces: Array<i32>,
    days: Array<i32>,
    saved: Array<bool>,
    scores: Array<f64>,
    spreads: Array<f64>,
    earlier: Array<f64>,
    earlier_spreads: Array<f64>,
    level: f64,
    seed: i64,
) -> TableIterator<
    'static,
    (
        name!(impressions, i32),
        name!(unit, String),
        name!(units, i32),
        name!(auc, f64),
        name!(earlier_auc, f64),
        name!(gain, f64),
        name!(low, f64),
        name!(high, f64),
    ),
> {
    let score = |(value, spread): (Option<f64>, Option<f64>)| Some(Score { value: value?, spread: spread? });
    let now = scores.iter().zip(spreads.iter()).map(score);
    let before = earlier.iter().zip(earlier_spreads.iter()).map(score);
    let shown = users.iter().zip(surfaces.iter()).zip(days.iter()).zip(saved.iter()).zip(now.zip(before));
    let newest_first: Vec<Impression> = shown
        .filter_map(|((((user, surface), day), saved), (score, earlier))| {
            let (user, surface, day, saved) = (user?, surface?, day?, saved?);
            Some(Impression { user, surface, day, saved, score: score?, earlier: earlier? })
        })
        .collect();
    let compared = shadow::compare(&newest_first, level.clamp(0.0, 0.5), seed.cast_unsigned(), || {
        check_for_interrupts!();
    });
    TableIterator::new(compared.map(|c| {
        (c.impressions as i32, c.unit.to_owned(), c.units as i32, c.auc, c.earlier_auc, c.gain, c.low, c.high)
    }))
}
