//! `CALL evaluate_model(model)`: the gate for an embedding model that stands at a provider. Reads the frozen dataset, asks the
//! provider for the vectors of its texts, compares, and writes the verdict; no transaction is open while anything is asked or computed.

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::JsonB;

use super::http::Policy;
use super::{dataset, provider_key, steps};
use crate::core::trainer::{compare_embeddings, sample_users, Comparison, Error, Observer, Params, Progress, Stop};
use crate::pg::errors::UserError;
use crate::pg::foreign::{self, Provider};
use crate::pg::session::{code_of, Failure, Session};
use crate::pg::spi;
use crate::pg::threads::run_beside;
use crate::providers::embeddings;
use crate::providers::fault::{Fault, Refusal};

/// What the row of the registry says.
struct Model {
    provider: String,
    provider_model: String,
    dataset: String,
    seed: i64,
}

/// Serves the session's interrupts while the comparison computes.
struct Interrupts;

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
pub fn evaluate(fcinfo: pg_sys::FunctionCallInfo, model: &str, max_texts: i32) -> Result<(String, String), UserError> {
    let session = Session::procedure(fcinfo, "evaluate_model()")?;
    let schema = session.transaction(spi::own_schema).map_err(failed)?.unwrap_or_default();
    let about = session.transaction(|| read_model(&schema, model)).map_err(failed)?;
    let name = about.provider.clone();
    let provider =
        session.transaction(|| foreign::provider(&name)).map_err(failed)?.ok_or_else(|| gone(&about.provider))?;

    let input = dataset::load(&session, &schema, &about.dataset, || {
        check_for_interrupts!();
        Ok(())
    })
    .map_err(failed)?;
    let input = sample_users(input, max_texts as usize, about.seed);
    let texts = session.transaction(|| read_texts(&schema, &about.dataset, &input.item_keys)).map_err(failed)?;
    let (dim, vectors) = embed(provider, &about.provider_model, texts)?;
    let params = Params { seed: about.seed, ..Params::default() };
    let comparison = compare_embeddings(input, dim, vectors, &params, &mut Interrupts).map_err(wrong)?;
    let told = (comparison.verdict.as_str().to_owned(), comparison.reason.clone());
    session.transaction(|| save(&schema, model, about.seed, &comparison)).map_err(failed)?;
    Ok(told)
}

fn read_model(schema: &str, model: &str) -> Model {
    let query = format!("SELECT e.provider, e.provider_model, e.dataset_id::pg_catalog.text, e.seed FROM {schema}._model_to_evaluate($1) e");
    Spi::connect(|client| {
        let row = client.select(&query, Some(1), &[model.into()])?.first();
        Ok::<_, pgrx::spi::Error>(Model {
            provider: row.get(1)?.unwrap_or_default(),
            provider_model: row.get(2)?.unwrap_or_default(),
            dataset: row.get(3)?.unwrap_or_default(),
            seed: row.get(4)?.unwrap_or_default(),
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

/// Length and vectors, one after the other. Batch by batch, so that the session can be cancelled between any two.
fn embed(provider: Provider, model: &str, texts: Vec<String>) -> Result<(usize, Vec<f32>), UserError> {
    let policy = Policy::now().trusting(&provider.server);
    let mut vectors = Vec::new();
    let mut dim = 0;
    for batch in texts.chunks(embeddings::BATCH) {
        check_for_interrupts!();
        let (server, key, policy) = (provider.server.clone(), provider.key.clone(), policy.clone());
        let (model, batch, count) = (model.to_owned(), batch.to_vec(), batch.len());
        let told = run_beside(move || {
            let key = provider_key::reveal(&key).map_err(|message| {
                Fault::Auth(Refusal { code: "key".into(), message, param: None, hint: provider_key::HINT.into() })
            })?;
            let answer = steps::ask(&embeddings::request(&server, &model, &batch)?, &key, &policy)?;
            embeddings::read(&answer, count)
        });
        let broken = || Err(Fault::Retry { after: None, message: "the helper thread broke down".into() });
        let found = told.unwrap_or_else(broken).map_err(|fault| refused(&provider.server.base_url, fault))?;
        dim = found[0].len();
        found.iter().for_each(|vector| vectors.extend_from_slice(vector));
    }
    Ok((dim, vectors))
}

fn save(schema: &str, model: &str, seed: i64, comparison: &Comparison) {
    let mut row = serde_json::to_value(&comparison.evaluation).unwrap_or_default();
    row["verdict"] = comparison.verdict.as_str().into();
    row["reason"] = comparison.reason.clone().into();
    row["seed"] = seed.into();
    let query = format!("SELECT {schema}._save_evaluation($1, $2)");
    Spi::connect_mut(|client| client.update(&query, None, &[model.into(), JsonB(row).into()]).map(|_| ()))
        .unwrap_or_report()
}

fn failed(failure: Failure) -> UserError {
    let code = code_of(&failure.code);
    let error = UserError::new(code, failure.message).detail("Nothing was written.");
    match failure.hint {
        Some(hint) => error.hint(hint),
        None => error.hint("Mend the cause and CALL evaluate_model() again."),
    }
}

fn gone(provider: &str) -> UserError {
    UserError::unknown(format!("provider \"{provider}\" does not exist"))
        .detail("The model was trained there; its vectors come from there.")
        .hint("CREATE SERVER ... FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'openai', base_url 'https://...');")
}

fn wrong(error: Error) -> UserError {
    UserError::new(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, error.to_string())
        .detail("The provider's vectors cannot be compared with those of the dataset.")
        .hint("CALL check_provider(...); asks the provider; the dataset's own vectors are in dataset_example.")
}

fn refused(address: &str, fault: Fault) -> UserError {
    let hint = match &fault {
        Fault::Auth(refusal) | Fault::Refused(refusal) if !refusal.hint.is_empty() => refusal.hint.clone(),
        _ => "CALL check_provider(...); asks the provider alone.".to_owned(),
    };
    UserError::new(PgSqlErrorCode::ERRCODE_FDW_UNABLE_TO_CREATE_REPLY, format!("no vectors from {address}: {fault}"))
        .detail("Nothing was written: a verdict takes all of them.")
        .hint(hint)
}
