//! C side of sql/shadow.sql.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::profiles::{Profile, Shown};
use super::serving::{cosine, query_of, stored};
use crate::core::shadow::{self, Impression};
use crate::pg::errors::UserError;
use crate::pg::vector::Vector;

/// How two models score an item for a user as both were before it was shown; NULL when there was no profile yet.
#[pg_extern(sql = false, stable, strict)]
fn shadow_scores(
    who: &str,
    source: &str,
    signal: &str,
    shown_at: TimestampWithTimeZone,
    embedding: Vector,
    model: &str,
    earlier: &str,
) -> Result<Option<Vec<f64>>, ErrorReport> {
    let shown = Shown { source, signal, at: shown_at };
    let x = embedding.as_slice();
    let score = |model: &str| -> Result<Option<f64>, UserError> {
        let model = stored(model)?;
        if model.as_ref().is_some_and(|model| model.adapter.dim != x.len()) {
            return Ok(None);
        }
        let profile = Profile::before(who, &shown, x.len(), model.as_deref())?;
        Ok(profile.and_then(|profile| cosine(x, &query_of(profile, model.as_deref()))))
    };
    let (Some(now), Some(before)) = (score(model)?, score(earlier)?) else { return Ok(None) };
    Ok(Some(vec![now, before]))
}

/// What one look has to show before the model is rolled back.
#[pg_extern(sql = false, immutable, parallel_safe, strict)]
fn shadow_level(look: i32) -> f64 {
    shadow::level(look)
}

/// No row: too few users or days have both kinds.
#[pg_extern(sql = false, immutable, parallel_safe, strict)]
#[allow(clippy::type_complexity)]
fn compare_shadow(
    users: Array<i32>,
    surfaces: Array<i32>,
    days: Array<i32>,
    saved: Array<bool>,
    scores: Array<f64>,
    earlier: Array<f64>,
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
        name!(difference, f64),
        name!(low, f64),
        name!(high, f64),
    ),
> {
    let both = scores.iter().zip(earlier.iter());
    let where_and_when = users.iter().zip(surfaces.iter()).zip(days.iter());
    let shown = where_and_when.zip(saved.iter()).zip(both);
    let newest_first: Vec<Impression> = shown
        .filter_map(|((((user, surface), day), saved), (score, earlier))| {
            Some(Impression {
                user: user?,
                surface: surface?,
                day: day?,
                saved: saved?,
                score: score?,
                earlier: earlier?,
            })
        })
        .collect();
    let compared = shadow::compare(&newest_first, level.clamp(0.0, 0.5), seed.cast_unsigned(), || {
        check_for_interrupts!();
    });
    TableIterator::new(compared.map(|c| {
        (c.impressions as i32, c.unit.to_owned(), c.units as i32, c.auc, c.earlier_auc, c.difference, c.low, c.high)
    }))
}
