//! What create_dataset cannot do in SQL, or not fast enough: hashes of texts and examples, near copies among vectors.

use std::collections::HashMap;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::core::dataset::hash;
use crate::core::dataset::triplets::similarity;
use crate::core::dataset::twins::{twins, Sketches};
use crate::pg::cursor::Cursor;
use crate::pg::dataset_rows::unit_vector;
use crate::pg::errors::UserError;
use crate::pg::vector::Vector;

const ROWS: usize = 1_024;

#[pg_extern(sql = false, immutable, parallel_safe)]
fn content_hash(chunk_content: Option<&str>, chunk_id: Option<&str>, id: Option<&str>) -> Vec<u8> {
    hash::content_hash(chunk_content, chunk_id, id.unwrap_or_default()).to_vec()
}

#[pg_extern(sql = false, immutable, parallel_safe)]
#[allow(clippy::too_many_arguments)]
fn example_hash(
    user_id: Option<&str>,
    id: Option<&str>,
    chunk_content: Option<&str>,
    embedding: Option<Vector>,
    user_action: Option<&str>,
    label: Option<bool>,
    evidence: Option<&str>,
    weight: Option<f64>,
    split: Option<&str>,
    query_embedding: Option<Vector>,
    surface: Option<&str>,
    context: Option<&str>,
    reason: Option<&str>,
) -> Vec<u8> {
    let example = hash::Frozen {
        user_id: user_id.unwrap_or_default(),
        id: id.unwrap_or_default(),
        text: chunk_content.unwrap_or_default(),
        vector: embedding.as_ref().map(Vector::as_slice).unwrap_or_default(),
        query_vector: query_embedding.as_ref().map(Vector::as_slice).unwrap_or_default(),
        surface: surface.unwrap_or_default(),
        context: context.unwrap_or_default(),
        reason: reason.unwrap_or_default(),
        action: user_action.unwrap_or_default(),
        label: label.unwrap_or_default(),
        evidence: evidence.unwrap_or_default(),
        weight: weight.unwrap_or_default(),
        split: split.unwrap_or_default(),
    };
    example.hash().to_vec()
}

#[pg_extern(sql = false)]
fn digest_of(query: &str) -> Result<Vec<u8>, ErrorReport> {
    let mut whole = hash::Whole::default();
    let mut cursor = Cursor::open(query, &[]).map_err(UserError::from)?;
    while !cursor.fetch(ROWS, |row| whole.add(row.bytes(1).unwrap_or_default())).map_err(UserError::from)?.is_empty() {
        check_for_interrupts!();
    }
    cursor.close().map_err(UserError::from)?;
    Ok(whole.finish().to_vec())
}

/// The query is read twice: for the sketches of all vectors, then for the vectors that have a possible twin.
#[pg_extern(sql = false)]
fn near_twins(
    query: &str,
    threshold: f64,
) -> Result<
    TableIterator<'static, (name!(text_hash, Vec<u8>), name!(twin_of, Vec<u8>), name!(similarity, f64))>,
    ErrorReport,
> {
    let mut hashes: Vec<Vec<u8>> = Vec::new();
    let mut sketches: Option<Sketches> = None;
    each_row(query, |rows| {
        let dimensions = rows.first().map_or(0, |(_, vector)| vector.len());
        let (names, vectors): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        hashes.extend(names);
        sketches.get_or_insert_with(|| Sketches::new(dimensions)).add(&vectors.concat());
    })?;
    let Some(sketches) = sketches else { return Ok(TableIterator::new(Vec::new())) };
    let pairs = sketches.pairs(threshold, &mut || {
        check_for_interrupts!();
    });
    let numbers: HashMap<&[u8], u32> = hashes.iter().enumerate().map(|(i, h)| (h.as_slice(), i as u32)).collect();
    let mut vectors: HashMap<u32, Vec<f32>> =
        pairs.iter().flat_map(|&(a, b)| [(a, Vec::new()), (b, Vec::new())]).collect();
    each_row(query, |rows| {
        for (hash, vector) in rows {
            if let Some(slot) = numbers.get(hash.as_slice()).and_then(|i| vectors.get_mut(i)) {
                *slot = vector;
            }
        }
    })?;
    let found = twins(&pairs, threshold as f32, |a, b| similarity(&vectors[&a], &vectors[&b]));
    let rows: Vec<_> = found
        .into_iter()
        .map(|(copy, original, score)| {
            (hashes[copy as usize].clone(), hashes[original as usize].clone(), f64::from(score))
        })
        .collect();
    Ok(TableIterator::new(rows))
}

fn each_row(query: &str, mut body: impl FnMut(Vec<(Vec<u8>, Vec<f32>)>)) -> Result<(), UserError> {
    let mut cursor = Cursor::open(query, &[])?;
    loop {
        check_for_interrupts!();
        let rows = cursor.fetch(ROWS, |row| (row.bytes(1).unwrap_or_default().to_vec(), unit_vector(row.vector(2))))?;
        if rows.is_empty() {
            return Ok(cursor.close()?);
        }
        body(rows);
    }
}
