//! Texts near to anchors: by an index of pgvector where the planner takes one, else by exact search over all texts.

use std::collections::HashSet;
use std::ffi::CString;
use std::sync::Arc;

use pgrx::prelude::*;

use super::cursor::Cursor;
use super::dataset_rows::Source;
use super::errors::UserError;
use super::row::Row;
use super::settings::with_local;
use super::threads::each_beside;
use crate::core::dataset::hash::Hash;
use crate::core::dataset::search::{Block, Candidate, Met, Place, Searcher};
use crate::core::dataset::triplets::normalise;

/// Texts read and compared at once.
const BLOCK: usize = 1_024;
/// Rows asked of an index at once.
const INDEX_ROWS: usize = 64;

/// An anchor's unit vector and the texts that its user has met.
pub struct Anchor {
    pub vector: Vec<f32>,
    pub met: Met,
}

/// How candidates are found.
pub struct Search {
    index: Option<String>,
    plan: Vec<String>,
    keep: usize,
    nearest: String,
}

impl Search {
    /// `keep` candidates per anchor.
    pub fn new(source: &Source, keep: usize) -> Result<Self, UserError> {
        let nearest = nearest_query(source)?;
        let mut search = Self { index: None, plan: Vec::new(), keep, nearest };
        let indexes = vector_indexes(source)?;
        if !indexes.is_empty() {
            search.plan = search.within_settings(|| explain(&search.nearest, source.dimensions, keep))?;
            search.index = indexes
                .into_iter()
                .find(|name| search.plan.iter().any(|line| line.contains(&format!("using {name} "))));
        }
        Ok(search)
    }

    /// In words: what would be done, and the plan of one look-up.
    pub fn describe(&self, source: &Source) -> Result<Vec<String>, UserError> {
        if let Some(index) = &self.index {
            let mut lines = vec![format!("mined negatives: index {index}, one look-up per anchor")];
            lines.extend(self.plan.iter().map(|line| format!("  {line}")));
            return Ok(lines);
        }
        let query = format!(
            "SELECT pg_catalog.count(DISTINCT e.content_hash) FROM {}.dataset_example e \
             WHERE e.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid AND e.split OPERATOR(pg_catalog.=) $2",
            source.schema
        );
        let args = [source.dataset.as_str().into(), source.split().name().into()];
        let texts: Vec<i64> = source.rows(&query, &args, |row| row.count(1).unwrap_or_default())?;
        let mut lines = vec![format!(
            "mined negatives: exact search over {} texts, {} threads; no index of dataset_example serves this dataset",
            texts.first().copied().unwrap_or_default(),
            threads()?
        )];
        lines.push(format!(
            "an index that would: CREATE INDEX ON {}.dataset_example USING hnsw ((embedding::vector({})) vector_cosine_ops) WHERE dataset_id = '{}' AND split = '{}';",
            source.schema, source.dimensions, source.dataset, source.split().name()
        ));
        Ok(lines)
    }

    /// The candidates of every anchor, nearest first.
    pub fn candidates(&self, source: &Source, anchors: &[Anchor]) -> Result<Vec<Vec<Candidate>>, UserError> {
        if self.index.is_some() {
            return self.within_settings(|| anchors.iter().map(|anchor| self.by_index(anchor)).collect());
        }
        self.by_exact_search(source, anchors)
    }

    fn by_exact_search(&self, source: &Source, anchors: &[Anchor]) -> Result<Vec<Vec<Candidate>>, UserError> {
        let share = anchors.len().div_ceil(threads()?).max(1);
        let mut searchers: Vec<Searcher> = (anchors.chunks(share))
            .map(|some| {
                let mut searcher = Searcher::new(source.dimensions, self.keep);
                some.iter().for_each(|anchor| searcher.add(&anchor.vector, anchor.met.clone()));
                searcher
            })
            .collect();
        let mut cursor = Cursor::open(&texts_query(source), &[])?;
        loop {
            let mut vectors = Vec::with_capacity(BLOCK * source.dimensions);
            let places = cursor.fetch(BLOCK, |row| {
                let start = vectors.len();
                vectors.extend_from_slice(row.vector(4).unwrap_or_default());
                normalise(&mut vectors[start..]);
                Arc::new(place(row))
            })?;
            if places.is_empty() {
                cursor.close()?;
                return Ok(searchers.into_iter().flat_map(Searcher::finish).collect());
            }
            let block = Block { vectors, places };
            check_for_interrupts!();
            if !each_beside(&mut searchers, |searcher| searcher.visit(&block)) {
                return Err(UserError::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES, "a search thread failed")
                    .detail("The operating system may be short of threads or memory.")
                    .hint("SET max_parallel_workers_per_gather = 0; then the search uses no thread of its own."));
            }
        }
    }

    fn by_index(&self, anchor: &Anchor) -> Result<Vec<Candidate>, UserError> {
        check_for_interrupts!();
        let mut cursor = Cursor::open(&self.nearest, &[anchor.vector.clone().into()])?;
        let mut found: Vec<Candidate> = Vec::with_capacity(self.keep);
        let mut taken: HashSet<Hash> = HashSet::new();
        while found.len() < self.keep {
            let rows = cursor.fetch(INDEX_ROWS, |row| (place(row), row.number(4).unwrap_or_default()))?;
            if rows.is_empty() {
                break;
            }
            for (place, score) in rows {
                if !anchor.met.contains(&place.hash) && taken.insert(place.hash) {
                    found.push(Candidate { score: score as f32, place: Arc::new(place) });
                }
            }
        }
        cursor.close()?;
        found.sort_by(|a, b| b.cmp(a));
        found.truncate(self.keep);
        Ok(found)
    }

    /// An index must go on until enough texts are found, however many of them the user has met.
    fn within_settings<T>(&self, body: impl FnOnce() -> T) -> T {
        let width = CString::new((2 * self.keep).clamp(100, 1_000).to_string()).unwrap_or_default();
        let settings = [
            (c"hnsw.ef_search", width.as_c_str()),
            (c"hnsw.iterative_scan", c"strict_order"),
            (c"ivfflat.iterative_scan", c"relaxed_order"),
        ];
        with_local(&settings, body)
    }
}

/// Every text of the side once, in the order in which the rows lie.
fn texts_query(source: &Source) -> String {
    format!(
        "SELECT w.content_hash, w.user_id, w.id, w.embedding FROM (SELECT d.tid FROM \
             (SELECT DISTINCT ON (x.content_hash) x.ctid AS tid FROM {0}.dataset_example x \
              WHERE x.dataset_id OPERATOR(pg_catalog.=) '{1}'::pg_catalog.uuid AND x.split OPERATOR(pg_catalog.=) '{2}' \
              ORDER BY x.content_hash, x.user_id, x.id) d ORDER BY d.tid) t \
         CROSS JOIN LATERAL (SELECT e.content_hash, e.user_id, e.id, e.embedding FROM {0}.dataset_example e \
                             WHERE e.ctid OPERATOR(pg_catalog.=) t.tid OFFSET 0) w",
        source.schema,
        source.dataset,
        source.split().name()
    )
}

/// The texts of the side by their nearness to $1. Dataset and side stand in the text, so that a partial index can serve.
fn nearest_query(source: &Source) -> Result<String, UserError> {
    let query = "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e \
                 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
                 WHERE e.extname OPERATOR(pg_catalog.=) 'vector'";
    let found: Vec<String> = source.rows(query, &[], |row| row.text(1).unwrap_or_default().to_owned())?;
    let vector = found.first().map_or("public", String::as_str);
    let distance =
        format!("e.embedding::{vector}.vector({0}) OPERATOR({vector}.<=>) $1::{vector}.vector({0})", source.dimensions);
    Ok(format!(
        "SELECT e.content_hash, e.user_id, e.id, 1 OPERATOR(pg_catalog.-) ({distance}) FROM {}.dataset_example e \
         WHERE e.dataset_id OPERATOR(pg_catalog.=) '{}'::pg_catalog.uuid AND e.split OPERATOR(pg_catalog.=) '{}' ORDER BY {distance}",
        source.schema,
        source.dataset,
        source.split().name()
    ))
}

fn vector_indexes(source: &Source) -> Result<Vec<String>, UserError> {
    let query = format!(
        "SELECT pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid \
         JOIN pg_catalog.pg_am a ON a.oid OPERATOR(pg_catalog.=) c.relam \
         WHERE i.indrelid OPERATOR(pg_catalog.=) '{}.dataset_example'::pg_catalog.regclass AND i.indisvalid \
           AND a.amname OPERATOR(pg_catalog.=) ANY (ARRAY['hnsw', 'ivfflat']::pg_catalog.name[])",
        source.schema
    );
    source.rows(&query, &[], |row| row.text(1).unwrap_or_default().to_owned())
}

fn explain(query: &str, dimensions: usize, keep: usize) -> Result<Vec<String>, UserError> {
    let query = format!("EXPLAIN (COSTS OFF) {query} LIMIT {keep}");
    let mut probe = vec![0.0f32; dimensions];
    probe[0] = 1.0;
    let probe = format!("'{:?}'", probe);
    let query = query.replace("$1", &probe);
    // to SPI every EXPLAIN is a command that may write
    Spi::connect_mut(|client| {
        client
            .update(&query, None, &[])?
            .map(|row| Ok(row.get(1)?.unwrap_or_default()))
            .collect::<Result<_, pgrx::spi::Error>>()
    })
    .map_err(UserError::from)
}

fn place(row: &Row<'_>) -> Place {
    let text = |column| row.text(column).unwrap_or_default().to_owned();
    Place { hash: row.bytes(1).unwrap_or_default().try_into().unwrap_or_default(), user_id: text(2), id: text(3) }
}

/// As many as a parallel query of this session might use, at most one a core.
fn threads() -> Result<usize, UserError> {
    let query = "SELECT pg_catalog.current_setting('max_parallel_workers_per_gather')::pg_catalog.int8";
    let allowed = Spi::connect(|client| client.select(query, None, &[])?.first().get_one::<i64>())?.unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok((1 + allowed.max(0) as usize).min(cores))
}
