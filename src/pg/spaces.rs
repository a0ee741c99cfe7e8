//! Models whose vectors stand in a column of their own: what user_query() starts from there.

use super::errors::UserError;
use super::plans;
use super::vector::Vector;

/// Where vectors of a model without weights come from.
pub struct Place {
    /// Its own column is filled.
    pub here: bool,
    /// The model to search under in its place.
    pub instead: Option<String>,
}

/// # Errors
/// Of the query.
pub fn of(schema: &str, model: &str) -> Result<Place, UserError> {
    let query = format!("SELECT v.here, v.instead FROM {schema}._vectors_of($1) v");
    let place = plans::select(&query, &[plans::text()], &[model.into()], |rows| {
        let row = rows.first();
        Ok(Place { here: row.get(1)?.unwrap_or_default(), instead: row.get(2)? })
    })?;
    Ok(place)
}

/// The unit vector to search with; None for a user who has saved nothing that has a vector of this model.
///
/// # Errors
/// Of the query.
pub fn profile(schema: &str, model: &str, user: &str) -> Result<Option<Vector>, UserError> {
    let query = format!("SELECT {schema}._profile_in($1, $2)");
    let types = [plans::text(), plans::text()];
    Ok(plans::select(&query, &types, &[model.into(), user.into()], |rows| rows.first().get_one::<Vector>())?)
}
