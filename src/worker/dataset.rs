//! Reads a frozen dataset in batches, each in a short transaction, into what the trainer takes.

use std::collections::HashMap;

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use sha2::{Digest, Sha256};

use super::training_file;
use crate::core::trainer::{Event, Input, Named, Spilling, Split};
use crate::pg::session::{Failure, Session};

const BATCH: i64 = 2_000;

/// One example as it stands in the table.
struct Row {
    user: String,
    id: String,
    text: Vec<u8>,
    embedding: Vec<f32>,
    query: Option<Vec<f32>>,
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

/// Vectors as they come: in memory, or in a file.
enum Sink {
    Memory(Vec<f32>),
    File(Spilling),
}

impl Sink {
    /// `limit`: bytes of vectors that may be in memory; None = all of them.
    fn new(limit: Option<usize>) -> Result<Self, Failure> {
        let Some(limit) = limit else { return Ok(Self::Memory(Vec::new())) };
        let file = training_file::folder().and_then(|folder| Spilling::begin(folder, limit));
        Ok(Self::File(file.map_err(|error| disk(&error))?))
    }

    fn push(&mut self, vector: &[f32]) -> Result<(), Failure> {
        match self {
            Self::Memory(numbers) => {
                numbers.extend_from_slice(vector);
                Ok(())
            }
            Self::File(file) => file.push(vector).map_err(|error| disk(&error)),
        }
    }

    fn done(self, keys: Vec<String>) -> Result<Named, Failure> {
        Ok(match self {
            Self::Memory(numbers) => Named { keys, numbers, spilled: None },
            Self::File(file) => {
                let spilled = Some(file.done().map_err(|error| disk(&error))?);
                Named { keys, numbers: Vec::new(), spilled }
            }
        })
    }
}

/// What was read so far.
struct Reading {
    input: Input,
    items: Sink,
    queries: Sink,
    query_keys: Vec<String>,
    user_numbers: Numbers<String>,
    item_numbers: Numbers<Vec<u8>>,
    query_numbers: Numbers<[u8; 32]>,
    surfaces: Numbers<String>,
}

impl Reading {
    fn new(limit: Option<usize>) -> Result<Self, Failure> {
        let mut surfaces = Numbers::default();
        surfaces.number(String::new()); // 0 = not recorded
        Ok(Self {
            input: Input::default(),
            items: Sink::new(limit)?,
            queries: Sink::new(limit)?,
            query_keys: Vec::new(),
            user_numbers: Numbers::default(),
            item_numbers: Numbers::default(),
            query_numbers: Numbers::default(),
            surfaces,
        })
    }

    fn add(&mut self, row: Row) -> Result<(), Failure> {
        let (user, new_user) = self.user_numbers.number(row.user.clone());
        if new_user {
            self.input.user_names.push(row.user);
        }
        let key = hex(&row.text);
        let (item, new_item) = self.item_numbers.number(row.text);
        if new_item {
            self.input.dim = row.embedding.len();
            self.items.push(&row.embedding)?;
            self.input.item_keys.push(key);
        }
        let query = row.query.map(|query| self.query(&query)).transpose()?;
        self.input.events.push(Event {
            user,
            item,
            saved: row.saved,
            split: if row.test { Split::Test } else { Split::Train },
            surface: self.surfaces.number(row.surface).0,
            at: row.at,
            weight: row.weight as f32,
            query,
        });
        Ok(())
    }

    /// The number of a question: the same vector is the same question.
    fn query(&mut self, query: &[f32]) -> Result<u32, Failure> {
        let mut digest = Sha256::new();
        query.iter().for_each(|number| digest.update(number.to_le_bytes()));
        let key: [u8; 32] = digest.finalize().into();
        let (number, new) = self.query_numbers.number(key);
        if new {
            self.queries.push(query)?;
            self.query_keys.push(hex(&key));
        }
        Ok(number)
    }

    fn done(self) -> Result<Input, Failure> {
        let Self { mut input, items, queries, query_keys, .. } = self;
        let items = items.done(Vec::new())?;
        (input.items, input.spilled) = (items.numbers, items.spilled);
        input.queries = queries.done(query_keys)?;
        Ok(input)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn disk(error: &std::io::Error) -> Failure {
    Failure {
        code: "58030".into(),
        message: format!("vectors that do not fit into memory could not be written: {error}"),
        detail: None,
        hint: Some(
            "Look at the space of base/pgsql_tmp in the data directory, or raise pg_finetune.training_memory.".into(),
        ),
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
    each_batch: impl FnMut() -> Result<(), Failure>,
) -> Result<Input, Failure> {
    load_within(session, schema, dataset, None, each_batch)
}

/// The same with vectors in a file, of which only so many bytes will be in memory at one time.
///
/// # Errors
/// What a query or `each_batch` failed with, or a full disk.
pub fn load_within(
    session: &Session,
    schema: &str,
    dataset: &str,
    limit: Option<usize>,
    mut each_batch: impl FnMut() -> Result<(), Failure>,
) -> Result<Input, Failure> {
    let mut reading = Reading::new(limit)?;
    let mut after: Option<(String, String)> = None;
    loop {
        let rows = session.transaction(|| batch(schema, dataset, after.as_ref()))?;
        let Some(last) = rows.last() else {
            return reading.done();
        };
        after = Some((last.user.clone(), last.id.clone()));
        rows.into_iter().try_for_each(|row| reading.add(row))?;
        each_batch()?;
    }
}

fn batch(schema: &str, dataset: &str, after: Option<&(String, String)>) -> Vec<Row> {
    let (user, id) = after.map_or((None, None), |(user, id)| (Some(user.as_str()), Some(id.as_str())));
    let query = format!(
        "SELECT e.user_id, e.id, e.content_hash, e.embedding::pg_catalog.float4[], e.label, \
                e.split OPERATOR(pg_catalog.=) 'test', COALESCE(e.surface, ''), \
                (EXTRACT(epoch FROM e.actioned_at) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, e.weight, \
                e.query_embedding::pg_catalog.float4[] \
         FROM {schema}.dataset_example e \
         WHERE e.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid \
           AND ($2::pg_catalog.text IS NULL OR ROW(e.user_id, e.id) OPERATOR(pg_catalog.>) ROW($2, $3)) \
         ORDER BY e.user_id, e.id LIMIT $4"
    );
    Spi::connect(|client| {
        let table = client.select(&query, None, &[dataset.into(), user.into(), id.into(), BATCH.into()])?;
        table
            .map(|row| {
                let embedding: Vec<f32> = row.get(4)?.unwrap_or_default();
                let query: Option<Vec<f32>> = row.get(10)?;
                Ok::<_, pgrx::spi::Error>(Row {
                    // a question in another space cannot be compared with the items
                    query: query.filter(|query| query.len() == embedding.len()),
                    user: row.get(1)?.unwrap_or_default(),
                    id: row.get(2)?.unwrap_or_default(),
                    text: row.get(3)?.unwrap_or_default(),
                    embedding,
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
