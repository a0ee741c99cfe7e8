//! C side of sql/rank_signals.sql.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::serving::own_schema;
use crate::core::trainer::{nearest_saved, MAX_SAVED};
use crate::pg::errors::UserError;
use crate::pg::plans;
use crate::pg::vector::Vector;

/// How close each of the vectors, one after the other, lies to single items that the user saved.
#[pg_extern(sql = false, stable, parallel_safe, strict)]
fn nearness(
    who: &str,
    positive: Array<&str>,
    vectors: Array<f32>,
    dimensions: i32,
) -> Result<Option<Vec<f32>>, ErrorReport> {
    let shown: Option<Vec<f32>> = vectors.iter().collect();
    let positive: Vec<String> = positive.iter().flatten().map(str::to_owned).collect();
    let saved = saved_vectors(who, positive, dimensions)?;
    Ok(shown.and_then(|shown| nearest_saved(shown, saved, dimensions.max(0) as usize)))
}

fn saved_vectors(who: &str, positive: Vec<String>, dimensions: i32) -> Result<Vec<f32>, UserError> {
    let query = format!("SELECT v FROM {}._saved_vectors($1, $2, $3, $4) v", own_schema()?);
    let types =
        [plans::text(), PgBuiltInOids::TEXTARRAYOID.oid(), PgBuiltInOids::INT4OID.oid(), PgBuiltInOids::INT4OID.oid()];
    let args = [who.into(), positive.into(), dimensions.into(), (MAX_SAVED as i32).into()];
    Ok(plans::select(&query, &types, &args, |rows| {
        let mut saved = Vec::new();
        for row in rows {
            if let Some(vector) = row.get::<Vector>(1)? {
                saved.extend_from_slice(vector.as_slice());
            }
        }
        Ok(saved)
    })?)
}
