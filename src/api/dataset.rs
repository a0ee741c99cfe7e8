//! Triplets and lines of frozen datasets, streamed with the examples of a few users in memory. C side of sql/dataset.sql.

use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

use crate::core::dataset::export::{group_lines, Format, Listener};
use crate::core::dataset::triplets::{Group, Mining, Negative, Options};
use crate::core::dataset::DatasetError;
use crate::pg::errors::UserError;

use super::dataset_rows::{Groups, Source, Users};

/// Negatives per positive in the lines of formats made of triplets.
const EXPORT_PER_POSITIVE: i32 = 4;

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
    let format: Format = format.parse().map_err(user_error)?;
    let source = Source::open(dataset, split.parse().map_err(user_error)?)?;
    if format.of_triplets() {
        let options = Options::new(EXPORT_PER_POSITIVE, Mining::Hard, source.seed()).map_err(user_error)?;
        let mut groups = Groups::new(source, options);
        return Ok(SetOfIterator::new(stream(move || {
            let Some(group) = groups.advance()? else { return Ok(None) };
            Ok(Some(group_lines(format, groups.user(), groups.pool(), &group).map_err(user_error)?))
        })));
    }
    let split = source.split();
    let mut users = Users::without_vectors(source);
    let mut current: Option<(Listener, usize)> = None;
    Ok(SetOfIterator::new(stream(move || {
        if current.as_ref().is_none_or(|(listener, next)| *next == listener.lines()) {
            let Some((user_id, examples)) = users.advance()? else { return Ok(None) };
            current = Some((Listener::new(user_id, examples, split), 0));
        }
        let Some((listener, next)) = current.as_mut().filter(|(listener, next)| *next < listener.lines()) else {
            return Ok(Some(Vec::new()));
        };
        *next += 1;
        Ok(Some(vec![listener.line(format, *next - 1).map_err(user_error)?]))
    })))
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

fn user_error(error: DatasetError) -> UserError {
    let code = match error {
        DatasetError::Unknown { .. } | DatasetError::PerPositive(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        DatasetError::EmptyText { .. } => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
    };
    UserError::new(code, error.to_string()).detail(error.detail()).hint(error.hint())
}
