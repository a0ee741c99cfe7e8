//! `CALL evaluate_model(model)`: the gate for a model that stands at a provider. An embedding model is asked for the vectors
//! of the frozen dataset's texts, a chat model (`chat_evaluation`) for its answers; no transaction is open while anything is
//! asked or computed.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::JsonB;

use super::asking::{self, failed, Asker};
use super::{chat_evaluation, dataset};
use crate::core::trainer::{compare_embeddings, sample_users, Comparison, Error, Observer, Params, Progress, Stop};
use crate::pg::errors::UserError;
use crate::pg::session::{Failure, Session};
use crate::pg::spi;

/// Texts of a comparison of embeddings, and rows of one of answers, unless the caller says otherwise.
const MAX_TEXTS: i32 = 20_000;
const MAX_ROWS: i32 = 1_000;

/// What the row of the registry says.
pub struct Model {
    pub id: String,
    pub provider: String,
    pub name: String,
    pub method: String,
    pub dataset: String,
    pub seed: i64,
}

/// Serves the session's interrupts while the comparison computes.
pub struct Interrupts;

impl Observer for Interrupts {
    fn check(&mut self) -> Result<(), Stop> {
        check_for_interrupts!();
        Ok(())
    }

    fn progress(&mut self, _: Progress<'_>) -> Result<(), Stop> {
        self.check()
    }
}

/// The verdict and its reason.
pub fn evaluate(
    fcinfo: pg_sys::FunctionCallInfo,
    model: &str,
    max_texts: Option<i32>,
    max_usd: Option<f64>,
) -> Result<(String, String), UserError> {
    let session = Session::procedure(fcinfo, "evaluate_model()")?;
    let schema = session.transaction(spi::own_schema).map_err(failed)?.unwrap_or_default();
    let caller = session.transaction(asking::current_role).map_err(failed)?;
    judge(&session, &schema, &caller, model, max_texts, max_usd)
}

/// The same in any session, with the rights and the key of a role.
pub fn judge(
    session: &Session,
    schema: &str,
    owner: &str,
    model: &str,
    max_texts: Option<i32>,
    max_usd: Option<f64>,
) -> Result<(String, String), UserError> {
    let about = session.transaction(|| read_model(schema, model)).map_err(failed)?;
    if about.method != "contrastive" {
        let max_rows = max_texts.unwrap_or(MAX_ROWS) as usize;
        return chat_evaluation::evaluate(session, schema, owner, &about, max_rows, max_usd);
    }
    if max_usd.is_some() {
        return Err(UserError::invalid("max_usd is for chat models")
            .detail("The vectors of an embedding model are asked for once per text; max_texts limits them.")
            .hint("CALL evaluate_model('...', max_texts => 20000);"));
    }
    let asker = Asker::open(session, schema, &about.provider, owner)?;
    let input = dataset::load(session, schema, &about.dataset, || {
        check_for_interrupts!();
        Ok(())
    })
    .map_err(failed)?;
    let input = sample_users(input, max_texts.unwrap_or(MAX_TEXTS) as usize, about.seed);
    let texts = session.transaction(|| read_texts(schema, &about.dataset, &input.item_keys)).map_err(failed)?;
    let (dim, vectors) = embed(&asker, &about.name, &texts)?;
    let params = Params { seed: about.seed, ..Params::default() };
    let comparison = compare_embeddings(input, dim, vectors, &params, &mut Interrupts).map_err(wrong)?;
    let told = (comparison.verdict.as_str().to_owned(), comparison.reason.clone());
    save(session, schema, model, "base", row_of(&comparison, about.seed)).map_err(failed)?;
    Ok(told)
}

fn read_model(schema: &str, model: &str) -> Model {
    let query = format!(
        "SELECT e.provider, e.provider_model, e.method, e.dataset_id::pg_catalog.text, e.seed FROM {schema}._model_to_evaluate($1) e"
    );
    Spi::connect(|client| {
        let row = client.select(&query, Some(1), &[model.into()])?.first();
        Ok::<_, pgrx::spi::Error>(Model {
            id: model.to_owned(),
            provider: row.get(1)?.unwrap_or_default(),
            name: row.get(2)?.unwrap_or_default(),
            method: row.get(3)?.unwrap_or_default(),
            dataset: row.get(4)?.unwrap_or_default(),
            seed: row.get(5)?.unwrap_or_default(),
        })
    })
    .unwrap_or_report()
}

fn read_texts(schema: &str, dataset: &str, keys: &[String]) -> Vec<String> {
    let query = format!("SELECT t.content FROM {schema}._texts($1::pg_catalog.uuid, $2) t");
    Spi::connect(|client| {
        let table = client.select(&query, None, &[dataset.into(), keys.to_vec().into()])?;
        table.map(|row| Ok::<_, pgrx::spi::Error>(row.get(1)?.unwrap_or_default())).collect::<Result<Vec<String>, _>>()
    })
    .unwrap_or_report()
}

/// Length and vectors, one after the other: all of them, for a verdict takes all.
fn embed(asker: &Asker<'_>, model: &str, texts: &[String]) -> Result<(usize, Vec<f32>), UserError> {
    let all = asker.embed(model, texts)?;
    if let Some(error) = all.error {
        return Err(error);
    }
    let (mut dim, mut vectors) = (0, Vec::new());
    for told in all.told.into_iter().flatten() {
        let found = told.answer.map_err(|fault| asking::refused(&asker.server.base_url, fault))?.vectors;
        dim = found[0].len();
        found.iter().for_each(|vector| vectors.extend_from_slice(vector));
    }
    Ok((dim, vectors))
}

/// A row of model_evaluation.
fn row_of(comparison: &Comparison, seed: i64) -> serde_json::Value {
    let mut row = serde_json::to_value(&comparison.evaluation).unwrap_or_default();
    row["verdict"] = comparison.verdict.as_str().into();
    row["reason"] = comparison.reason.clone().into();
    row["seed"] = seed.into();
    row
}

/// The verdict beside one model, in place of an earlier one.
pub fn save(
    session: &Session,
    schema: &str,
    model: &str,
    against: &str,
    row: serde_json::Value,
) -> Result<(), Failure> {
    let query = format!("SELECT {schema}._save_evaluation($1, $2, $3)");
    session.transaction(AssertUnwindSafe(|| {
        let args = [model.into(), against.into(), JsonB(row).into()];
        Spi::connect_mut(|client| client.update(&query, None, &args).map(|_| ())).unwrap_or_report()
    }))
}

fn wrong(error: Error) -> UserError {
    UserError::new(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, error.to_string())
        .detail("The provider's vectors cannot be compared with those of the dataset.")
        .hint("CALL check_provider(...); asks the provider; the dataset's own vectors are in dataset_example.")
}
