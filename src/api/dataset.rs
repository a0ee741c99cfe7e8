//! Triplets and lines of frozen datasets, streamed with the examples of a few users in memory. C side of sql/dataset_export.sql.

use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

use crate::core::dataset::export::Format;
use crate::core::dataset::template::{check, Template};
use crate::core::dataset::triplets::{Mining, Options};
use crate::core::dataset::Split;
use crate::pg::dataset_lines::Lines;
use crate::pg::dataset_rows::{user_error, Source};
use crate::pg::dataset_search::Search;
use crate::pg::dataset_triplets::{Groups, Triplets};
use crate::pg::errors::UserError;
use crate::pg::roles;
use crate::pg::text::SharedText;

#[pg_extern(sql = false, stable)]
#[allow(clippy::type_complexity, clippy::too_many_arguments)]
fn contrastive_triplets(
    dataset: Option<&str>,
    per_positive: Option<i32>,
    mining: Option<&str>,
    split: Option<&str>,
    seed: Option<i64>,
    range_min: Option<i32>,
    range_max: Option<i32>,
    relative_margin: Option<f64>,
    absolute_margin: Option<f64>,
    max_score: Option<f64>,
    min_score: Option<f64>,
    sampling: Option<&str>,
    max_per_user: Option<i32>,
    own_skips: Option<bool>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(user_id, SharedText),
            name!(anchor_id, SharedText),
            name!(positive_id, SharedText),
            name!(negative_id, SharedText),
            name!(anchor, SharedText),
            name!(positive, SharedText),
            name!(negative, SharedText),
            name!(mined, bool),
        ),
    >,
    ErrorReport,
> {
    roles::require("contrastive_triplets", &["finetune_analyst"])?;
    let mining = mining.unwrap_or(Mining::NAMES[0]).parse().map_err(user_error)?;
    let number = |x: Option<f64>| x.map(|x| x as f32);
    let options = Options::new(per_positive.unwrap_or(4), mining, seed.unwrap_or(42))
        .and_then(|o| o.with_window(range_min.unwrap_or(0), range_max.unwrap_or(50)))
        .and_then(|o| o.with_cap(max_per_user))
        .map_err(user_error)?;
    let options = Options {
        relative_margin: number(relative_margin),
        absolute_margin: number(absolute_margin),
        max_score: number(max_score),
        min_score: number(min_score),
        sampling: sampling.unwrap_or("top").parse().map_err(user_error)?,
        own_skips: own_skips.unwrap_or(true),
        ..options
    };
    let source = Source::open(dataset.unwrap_or_default(), side(split.unwrap_or(Split::NAMES[0]))?)?;
    let mut groups = Groups::new(source, options);
    Ok(TableIterator::new(stream(move || Ok(groups.advance()?.map(|triplets| rows(&triplets))))))
}

#[pg_extern(sql = false, stable, strict)]
fn export_jsonl(
    dataset: &str,
    format: &str,
    split: &str,
    template: &str,
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    roles::require("export_jsonl", &["finetune_analyst"])?;
    let format: Format = format.parse().map_err(user_error)?;
    let mut lines = Lines::open(dataset, format, side(split)?, template)?;
    Ok(SetOfIterator::new(stream(move || lines.batch())))
}

#[pg_extern(sql = false, stable, strict)]
fn triplet_plan(dataset: &str, split: &str, range_max: i32) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    roles::require("triplet_plan", &["finetune_analyst"])?;
    let source = Source::open(dataset, side(split)?)?;
    let search = Search::new(&source, range_max.clamp(1, 2_000) as usize)?;
    Ok(SetOfIterator::new(search.describe(&source)?))
}

#[pg_extern(sql = false, immutable)]
fn default_template() -> TableIterator<
    'static,
    (
        name!(system_message, String),
        name!(user_message, String),
        name!(saved_answer, String),
        name!(skipped_answer, String),
    ),
> {
    let Template { system, user, saved, skipped } = Template::default();
    TableIterator::once((system, user, saved, skipped))
}

#[pg_extern(sql = false, immutable)]
fn check_template(field: Option<&str>, template: Option<&str>) -> Result<(), ErrorReport> {
    match template {
        Some(template) => Ok(check(field.unwrap_or_default(), template).map_err(user_error)?),
        None => Ok(()),
    }
}

fn side(name: &str) -> Result<Split, UserError> {
    name.parse().map_err(user_error)
}

type Row = (SharedText, SharedText, SharedText, SharedText, SharedText, SharedText, SharedText, bool);

fn rows(triplets: &Triplets) -> Vec<Row> {
    let Triplets { user, group, mined } = triplets;
    let share = SharedText::of;
    let example = |i: usize| &user.examples()[i];
    let (anchor, positive) = (example(group.anchor), example(group.positive));
    let own = group.own.iter().map(|&i| (&example(i).id, &example(i).text, false));
    own.chain(mined.iter().map(|m| (&m.id, &m.text, true)))
        .map(|(id, text, mined)| {
            let ids = (share(user.user_id()), share(&anchor.id), share(&positive.id), share(id));
            (ids.0, ids.1, ids.2, ids.3, share(&anchor.text), share(&positive.text), share(text), mined)
        })
        .collect()
}

/// Rows one by one from a source of batches, of which some may be empty; can be cancelled between any two batches.
fn stream<Row>(mut batch: impl FnMut() -> Result<Option<Vec<Row>>, UserError>) -> impl Iterator<Item = Row> {
    let mut rows = Vec::new().into_iter();
    std::iter::from_fn(move || loop {
        if let Some(row) = rows.next() {
            return Some(row);
        }
        check_for_interrupts!();
        rows = batch().map_err(ErrorReport::from).unwrap_or_report()?.into_iter();
    })
}
