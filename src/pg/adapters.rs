//! Adapters as they stand in the table.

use pgrx::prelude::*;

use crate::core::trainer::Adapter;

/// A model as it serves.
pub struct Stored {
    pub adapter: Adapter,
    /// Actions that make a user's profile.
    pub positive: Vec<String>,
}

/// The weights of a model; None when it has none.
///
/// # Errors
/// Of the query: the table is not as this library knows it.
pub fn read(schema: &str, model: &str) -> pgrx::spi::Result<Option<Stored>> {
    let query = format!(
        "SELECT a.dimensions, a.matrix, a.bias, a.gamma, a.score_scale, a.score_offset, a.positive \
         FROM {schema}._adapter($1) a"
    );
    Spi::connect(|client| {
        let mut rows = client.select(&query, Some(1), &[model.into()])?;
        let Some(row) = rows.next() else { return Ok(None) };
        let adapter = Adapter {
            dim: row.get::<i32>(1)?.unwrap_or_default() as usize,
            matrix: row.get(2)?.unwrap_or_default(),
            bias: row.get(3)?.unwrap_or_default(),
            gamma: row.get(4)?.unwrap_or_default(),
            score_scale: row.get(5)?.unwrap_or(1.0),
            score_offset: row.get(6)?.unwrap_or_default(),
        };
        Ok(Some(Stored { adapter, positive: row.get(7)?.unwrap_or_default() }))
    })
}
