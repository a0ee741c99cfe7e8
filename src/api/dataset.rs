//! Triplets and lines of frozen datasets, streamed with the examples of a few users in memory. C side of sql/dataset.sql.

use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

use crate::core::dataset::export::Format;
use crate::core::dataset::triplets::{Group, Negative, Options};
use crate::pg::dataset_rows::{user_error, Groups, Lines, Source};
use crate::pg::errors::UserError;
use crate::pg::roles;

#[pg_extern(sql = false, stable, strict)]
#[allow(clippy::type_complexity)]
fn contrastive_triplets(
    dataset: &str,
    per_positive: i32,
    mining: &str,
    split: &str,
    seed: i64,
) -> Result<
    TableIterator<
        'static,
        (
            name!(user_id, String),
            name!(anchor_id, String),
            name!(positive_id, String),
            name!(negative_id, String),
            name!(anchor, String),
            name!(positive, String),
            name!(negative, String),
            name!(mined, bool),
        ),
    >,
    ErrorReport,
> {
    roles::require("contrastive_triplets", &["finetune_analyst"])?;
    let options = Options::new(per_positive, mining.parse().map_err(user_error)?, seed).map_err(user_error)?;
    let source = Source::open(dataset, split.parse().map_err(user_error)?)?;
    let mut groups = Groups::new(source, options);
    Ok(TableIterator::new(stream(move || {
        let Some(group) = groups.advance()? else { return Ok(None) };
        Ok(Some(group.negatives.iter().map(|&negative| triplet(&groups, &group, negative)).collect()))
    })))
}

#[pg_extern(sql = false, stable, strict)]
fn export_jsonl(dataset: &str, format: &str, split: &str) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    roles::require("export_jsonl", &["finetune_analyst"])?;
    let format: Format = format.parse().map_err(user_error)?;
    let mut lines = Lines::open(dataset, format, split.parse().map_err(user_error)?)?;
    Ok(SetOfIterator::new(stream(move || lines.batch())))
}

type Triplet = (String, String, String, String, String, String, String, bool);

fn triplet(groups: &Groups, group: &Group, negative: Negative) -> Triplet {
    let (user, pool) = (groups.user(), groups.pool());
    let example = |i: usize| &user.examples()[i];
    let (anchor, positive) = (example(group.anchor), example(group.positive));
    let (id, text, mined) = match negative {
        Negative::Own(i) => (&example(i).id, &example(i).text, false),
        Negative::Mined(i) => (&pool[i].id, &pool[i].text, true),
    };
    (
        user.user_id().to_owned(),
        anchor.id.clone(),
        positive.id.clone(),
        id.clone(),
        anchor.text.clone(),
        positive.text.clone(),
        text.clone(),
        mined,
    )
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
