//! Adapters as they stand in the table.

use pgrx::prelude::*;

use crate::core::trainer::{Adapter, Heads, Pair};

/// A model as it serves.
pub struct Stored {
    pub adapter: Adapter,
    /// Actions that make a user's profile.
    pub positive: Vec<String>,
    /// Some users have a direction of their own.
    pub has_heads: bool,
}

/// The weights of a model; None when it has none.
///
/// # Errors
/// Of the query: the table is not as this library knows it.
pub fn read(schema: &str, model: &str) -> pgrx::spi::Result<Option<Stored>> {
    let query = format!(
        "SELECT a.dimensions, a.matrix, a.bias, a.gamma, a.score_scale, a.score_offset, a.positive, \
                a.typed_matrix, a.typed_bias, a.heads \
         FROM {schema}._adapter($1) a"
    );
    Spi::connect(|client| {
        let mut rows = client.select(&query, Some(1), &[model.into()])?;
        let Some(row) = rows.next() else { return Ok(None) };
        let typed: (Option<Vec<f32>>, Option<Vec<f32>>) = (row.get(8)?, row.get(9)?);
        let adapter = Adapter {
            dim: row.get::<i32>(1)?.unwrap_or_default() as usize,
            matrix: row.get(2)?.unwrap_or_default(),
            bias: row.get(3)?.unwrap_or_default(),
            gamma: row.get(4)?.unwrap_or_default(),
            score_scale: row.get(5)?.unwrap_or(1.0),
            score_offset: row.get(6)?.unwrap_or_default(),
            heads: Heads::default(),
            typed: typed.0.zip(typed.1).map(|(matrix, bias)| Pair { matrix, bias }),
        };
        let has_heads = row.get::<i32>(10)?.unwrap_or_default() > 0;
        Ok(Some(Stored { adapter, positive: row.get(7)?.unwrap_or_default(), has_heads }))
    })
}

/// All users' own directions under a model, for a training that compares with it.
///
/// # Errors
/// Of the query: the table is not as this library knows it.
pub fn heads(schema: &str, model: &str) -> pgrx::spi::Result<Heads> {
    let query =
        format!("SELECT h.user_id, h.head FROM {schema}.adapter_head h WHERE h.model_id OPERATOR(pg_catalog.=) $1");
    Spi::connect(|client| {
        let rows = client.select(&query, None, &[model.into()])?;
        let heads = rows
            .map(|row| Ok::<_, pgrx::spi::Error>((row.get(1)?.unwrap_or_default(), row.get(2)?.unwrap_or_default())));
        Ok(Heads::new(heads.collect::<Result<_, _>>()?))
    })
}
