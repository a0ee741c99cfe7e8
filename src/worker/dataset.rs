//! Reads a frozen dataset in batches, each in a short transaction, into what the trainer takes.

use std::collections::HashMap;

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

use crate::core::trainer::{Event, Input, Split};
use crate::pg::session::{Failure, Session};

const BATCH: i64 = 2_000;

/// One example as it stands in the table.
struct Row {
    user: String,
    id: String,
    text: Vec<u8>,
    embedding: Vec<f32>,
    saved: bool,
    test: bool,
    surface: String,
    at: i64,
    weight: f64,
}

/// Numbers for names, in order of first appearance.
#[derive(Default)]
struct Numbers<K>(HashMap<K, u32>);

impl<K: std::hash::Hash + Eq> Numbers<K> {
    /// The number of a name, and whether it is new.
    fn number(&mut self, name: K) -> (u32, bool) {
        let next = self.0.len() as u32;
        let number = *self.0.entry(name).or_insert(next);
        (number, number == next)
    }
}

/// Examples in the order of user and id. `each_batch` is called between the transactions.
///
/// # Errors
/// What a query or `each_batch` failed with.
pub fn load(
    session: &Session,
    schema: &str,
    dataset: &str,
    mut each_batch: impl FnMut() -> Result<(), Failure>,
) -> Result<Input, Failure> {
    let mut input = Input {
        dim: 0,
        items: Vec::new(),
        item_keys: Vec::new(),
        user_names: Vec::new(),
        events: Vec::new(),
        sample: None,
    };
    let (mut users, mut items, mut surfaces) = (Numbers::default(), Numbers::default(), Numbers::default());
    surfaces.number(String::new()); // 0 = not recorded
    let mut after: Option<(String, String)> = None;
    loop {
        let rows = session.transaction(|| batch(schema, dataset, after.as_ref()))?;
        let Some(last) = rows.last() else {
            return Ok(input);
        };
        after = Some((last.user.clone(), last.id.clone()));
        for row in rows {
            let (user, new_user) = users.number(row.user.clone());
            if new_user {
                input.user_names.push(row.user);
            }
            let key = row.text.iter().map(|byte| format!("{byte:02x}")).collect();
            let (item, new_item) = items.number(row.text);
            if new_item {
                input.dim = row.embedding.len();
                input.items.extend_from_slice(&row.embedding);
                input.item_keys.push(key);
            }
            let split = if row.test { Split::Test } else { Split::Train };
            let surface = surfaces.number(row.surface).0;
            input.events.push(Event {
                user,
                item,
                saved: row.saved,
                split,
                surface,
                at: row.at,
                weight: row.weight as f32,
            });
        }
        each_batch()?;
    }
}

fn batch(schema: &str, dataset: &str, after: Option<&(String, String)>) -> Vec<Row> {
    let (user, id) = after.map_or((None, None), |(user, id)| (Some(user.as_str()), Some(id.as_str())));
    let query = format!(
        "SELECT e.user_id, e.id, e.content_hash, e.embedding::pg_catalog.float4[], e.label, \
                e.split OPERATOR(pg_catalog.=) 'test', COALESCE(e.surface, ''), \
                (EXTRACT(epoch FROM e.actioned_at) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, e.weight \
         FROM {schema}.dataset_example e \
         WHERE e.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid \
           AND ($2::pg_catalog.text IS NULL OR ROW(e.user_id, e.id) OPERATOR(pg_catalog.>) ROW($2, $3)) \
         ORDER BY e.user_id, e.id LIMIT $4"
    );
    Spi::connect(|client| {
        let table = client.select(&query, None, &[dataset.into(), user.into(), id.into(), BATCH.into()])?;
        table
            .map(|row| {
                Ok::<_, pgrx::spi::Error>(Row {
                    user: row.get(1)?.unwrap_or_default(),
                    id: row.get(2)?.unwrap_or_default(),
                    text: row.get(3)?.unwrap_or_default(),
                    embedding: row.get(4)?.unwrap_or_default(),
                    saved: row.get(5)?.unwrap_or_default(),
                    test: row.get(6)?.unwrap_or_default(),
                    surface: row.get(7)?.unwrap_or_default(),
                    at: row.get(8)?.unwrap_or_default(),
                    weight: row.get(9)?.unwrap_or(1.0),
                })
            })
            .collect::<Result<Vec<_>, _>>()
    })
    .unwrap_or_report()
}
