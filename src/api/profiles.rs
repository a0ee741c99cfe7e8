//! A user's profile as it stands in user_profile, or as it was before an item was shown.

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

use super::serving::{own_schema, Stored};
use crate::core::profile;
use crate::pg::errors::UserError;
use crate::pg::plans;

/// Skipped items below which a user has no negative direction, as in training.
const MIN_SKIPPED: i64 = 5;
/// What makes the profile under `base`.
const POSITIVE: [&str; 2] = ["saved", "snipped"];

/// Mean of the unit vectors that a user saved, and of those skipped when there are enough of them.
pub struct Profile {
    pub saved: Vec<f32>,
    pub skipped: Option<Vec<f32>>,
}

/// An item that was shown to a user.
pub struct Shown<'a> {
    pub source: &'a str,
    pub signal: &'a str,
    pub at: TimestampWithTimeZone,
}

/// Sum of one user's vectors of one kind and dimension.
struct Sum {
    positive: bool,
    dimensions: i32,
    points: i64,
    total: Vec<u8>,
}

impl Profile {
    /// As it stands now.
    pub fn of(user: &str, model: Option<&Stored>) -> Result<Option<Self>, UserError> {
        let sums = Self::sums("_profile_rows($1)", &[plans::text()], &[user.into()], model)?;
        let dimensions = match model {
            Some(model) => Some(model.adapter.dim as i32),
            None => dimensions(user, &sums)?,
        };
        Ok(dimensions.and_then(|dimensions| Self::from(&sums, dimensions)))
    }

    /// Without what the user has done since an item was shown, and so without what became of it.
    pub fn before(
        user: &str,
        shown: &Shown,
        dimensions: usize,
        model: Option<&Stored>,
    ) -> Result<Option<Self>, UserError> {
        let types = [plans::text(), plans::text(), plans::text(), PgBuiltInOids::TIMESTAMPTZOID.oid()];
        let args = [user.into(), shown.source.into(), shown.signal.into(), shown.at.into()];
        let sums = Self::sums("_profile_rows_before($1, $2, $3, $4)", &types, &args, model)?;
        Ok(Self::from(&sums, dimensions as i32))
    }

    fn from(sums: &[Sum], dimensions: i32) -> Option<Self> {
        let mean = |positive: bool, least: i64| {
            let fits = |sum: &&Sum| sum.positive == positive && sum.dimensions == dimensions && sum.points >= least;
            sums.iter().find(fits).map(|sum| profile::mean(&sum.total, sum.points))
        };
        mean(true, 1).map(|saved| Self { saved, skipped: mean(false, MIN_SKIPPED) })
    }

    /// What the rows of a user's profile add up to.
    fn sums(
        rows: &str,
        types: &[PgOid],
        args: &[DatumWithOid<'_>],
        model: Option<&Stored>,
    ) -> Result<Vec<Sum>, UserError> {
        let query = format!("SELECT p.user_action, p.dimensions, p.points, p.total FROM {}.{rows} p", own_schema()?);
        let is_positive = |action: &str| match model {
            Some(model) => model.positive.iter().any(|positive| positive == action),
            None => POSITIVE.contains(&action),
        };
        let mut sums: Vec<Sum> = Vec::new();
        plans::select(&query, types, args, |rows| {
            for row in rows {
                let positive = is_positive(row.get::<&str>(1)?.unwrap_or_default());
                let dimensions = row.get(2)?.unwrap_or_default();
                let points: i64 = row.get(3)?.unwrap_or_default();
                let total = row.get::<&[u8]>(4)?.unwrap_or_default();
                match sums.iter_mut().find(|sum| sum.positive == positive && sum.dimensions == dimensions) {
                    Some(sum) => {
                        sum.points += points;
                        sum.total = profile::merge(std::mem::take(&mut sum.total), total).unwrap_or_default();
                    }
                    None => sums.push(Sum { positive, dimensions, points, total: total.to_vec() }),
                }
            }
            Ok(())
        })?;
        Ok(sums)
    }
}

/// Of the vectors that `base` serves: those of the last saved, where a user has saved vectors of several embedding models.
fn dimensions(user: &str, sums: &[Sum]) -> Result<Option<i32>, UserError> {
    let mut saved = sums.iter().filter(|sum| sum.positive && sum.points > 0);
    let first = saved.next().map(|sum| sum.dimensions);
    if saved.next().is_none() {
        return Ok(first);
    }
    let query = format!("SELECT {}._last_dimensions($1)", own_schema()?);
    Ok(plans::select(&query, &[plans::text()], &[user.into()], |rows| rows.first().get_one())?)
}
