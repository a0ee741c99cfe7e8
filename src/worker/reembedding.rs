//! `CALL reembed(table, model)`: vectors of another embedding model in a second column of the application's table. Runs in the
//! caller's session, so everything that touches that table has the caller's rights and search_path; each batch is a
//! transaction, and none is open while the provider is asked.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::{json, Value};

use super::asking::{self, failed, refused, Asker, Told};
use crate::pg::errors::UserError;
use crate::pg::session::Session;
use crate::pg::spi;
use crate::providers::embeddings::{Embedded, BATCH};
use crate::providers::fault::Fault;

/// Texts that are read and asked about between two commits of progress.
const CHUNK: i64 = 4 * BATCH as i64;
/// Saved data points that one transaction looks at.
const POINTS: i64 = 5_000;
/// Rows that the provider may refuse before something else must be wrong.
const MOST_FAILED: usize = 1_000;
/// Passes over rows that were locked, or whose text changed, while their vectors were on the way.
const PASSES: usize = 5;
/// What is asked for to learn how long the vectors are, and whether a refusal is about a text or about everything.
const PROBE: &str = "dimensions";

/// What a caller wants, beside the table and the model.
pub struct Wish {
    pub content: String,
    pub into_column: Option<String>,
    pub max_rows: Option<i64>,
    pub max_usd: Option<f64>,
    pub retry_failed: bool,
}

/// One row's text on its way.
#[derive(Clone)]
struct Text {
    key: String,
    content: String,
    hash: Vec<u8>,
}

struct Reembedding<'a> {
    session: &'a Session,
    schema: &'a str,
    relation: pg_sys::Oid,
    model: &'a str,
    /// Facts and statements of `_begin_reembedding`.
    plan: Value,
    asker: Asker<'a>,
    dimensions: usize,
    /// USD per million tokens.
    price: Option<f64>,
    left_usd: Option<f64>,
    left_rows: i64,
    failed: Vec<String>,
    stored: i64,
    /// Vectors of this pass that could not be written.
    missed: i64,
}

/// What was done, and what stopped it.
pub fn reembed(
    fcinfo: pg_sys::FunctionCallInfo,
    relation: pg_sys::Oid,
    model: &str,
    wish: &Wish,
) -> Result<String, UserError> {
    let session = Session::procedure(fcinfo, "reembed()")?;
    let schema = session.transaction(spi::own_schema).map_err(failed)?.unwrap_or_default();
    let plan = session.transaction(AssertUnwindSafe(|| begin(&schema, relation, model, wish))).map_err(failed)?;
    let outcome = open(&session, &schema, relation, model, wish, plan).and_then(|mut work| work.run());
    let change = match &outcome {
        Ok((told, true)) => json!({"state": "complete", "told": told}),
        Ok((told, false)) => json!({"state": "stopped", "error": told}),
        Err(error) => json!({"state": "stopped", "error": error.message()}),
    };
    session.transaction(AssertUnwindSafe(|| note(&schema, relation, model, change))).map_err(failed)?;
    outcome.map(|(told, _)| told)
}

fn open<'a>(
    session: &'a Session,
    schema: &'a str,
    relation: pg_sys::Oid,
    model: &'a str,
    wish: &Wish,
    plan: Value,
) -> Result<Reembedding<'a>, UserError> {
    let price = plan["price"].as_f64();
    let provider = plan["provider"].as_str().unwrap_or_default().to_owned();
    if wish.max_usd.is_some() && price.is_none() {
        return Err(no_price(&provider, plan["name"].as_str().unwrap_or_default()));
    }
    let caller = session.transaction(asking::current_role).map_err(failed)?;
    let failed = plan["failed_keys"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Reembedding {
        session,
        schema,
        relation,
        model,
        asker: Asker::open(session, schema, &provider, &caller)?,
        dimensions: plan["dimensions"].as_u64().unwrap_or_default() as usize,
        price,
        left_usd: wish.max_usd,
        left_rows: wish.max_rows.unwrap_or(i64::MAX),
        failed: failed.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect(),
        stored: 0,
        missed: 0,
        plan,
    })
}

impl Reembedding<'_> {
    /// What was done, and whether all of it.
    fn run(&mut self) -> Result<(String, bool), UserError> {
        self.prepare()?;
        let mut stop = self.embed_rows()?;
        for _ in 1..PASSES {
            if stop.is_some() || self.missed == 0 {
                break;
            }
            self.missed = 0;
            stop = self.embed_rows()?;
        }
        if stop.is_none() && self.missed > 0 {
            stop = Some(format!("{} rows are locked or change all the time", self.missed));
        }
        let points = self.fill_profiles()?;
        let (rows, done) = self.count()?;
        let told = format!(
            "{} vectors written, {done} of {rows} rows have one{}; {points} saved items added to profiles",
            self.stored,
            match self.failed.len() {
                0 => String::new(),
                refused => format!(", {refused} are refused by the provider"),
            }
        );
        Ok(match stop {
            Some(stop) => (format!("{told}; stopped: {stop}"), false),
            // What came or changed since is for the next call: it has been complete.
            None => (told, true),
        })
    }

    /// The column, as long as the model's vectors, and the trigger that empties it when a text changes.
    fn prepare(&mut self) -> Result<(), UserError> {
        if self.plan["ready"] == true {
            return self.count().map(drop);
        }
        let all = self.asker.embed(self.name(), &[PROBE.to_owned()])?;
        let mut vectors = self.embedded(all.told.into_iter().next().flatten(), PROBE.len(), all.error)?.vectors;
        let dimensions = vectors.pop().map_or(0, |vector| vector.len());
        if self.dimensions != 0 && self.dimensions != dimensions {
            return Err(other_dimensions(self.dimensions, dimensions));
        }
        self.dimensions = dimensions;
        let add_column = self.statement("add_column").replace("%s", &dimensions.to_string());
        let statements =
            [add_column, self.statement("add_function").to_owned(), self.statement("add_trigger").to_owned()];
        self.session
            .transaction(AssertUnwindSafe(|| {
                // Who reads the table would queue behind a lock that waits.
                Spi::run("SELECT pg_catalog.set_config('lock_timeout', '5s', true)").unwrap_or_report();
                statements.iter().for_each(|statement| Spi::run(statement).unwrap_or_report());
            }))
            .map_err(failed)?;
        self.note(json!({ "dimensions": dimensions }))?;
        self.count().map(drop)
    }

    /// Embeds row after row in the order of the key; Some = why it stopped before the end.
    fn embed_rows(&mut self) -> Result<Option<String>, UserError> {
        let mut after: Option<String> = None;
        loop {
            check_for_interrupts!();
            let mut texts = self.batch(after.as_deref())?;
            let Some(last) = texts.last() else { return Ok(None) };
            let last = last.key.clone();
            if self.left_rows <= 0 {
                return Ok(Some("max_rows is reached".to_owned()));
            }
            texts.truncate(usize::try_from(self.left_rows).unwrap_or(usize::MAX));
            let affordable = self.affordable(&texts);
            if affordable == 0 {
                return Ok(Some(format!(
                    "the next text could exceed max_usd ({:.6} left)",
                    self.left_usd.unwrap_or_default()
                )));
            }
            let whole = affordable == texts.len();
            texts.truncate(affordable);
            after = Some(if whole { last } else { texts[affordable - 1].key.clone() });
            self.left_rows -= texts.len() as i64;
            self.embed_some(&texts)?;
        }
    }

    /// How many of these texts the money is enough for, whatever their tokens.
    fn affordable(&self, texts: &[Text]) -> usize {
        let Some(left) = self.left_usd else { return texts.len() };
        let mut most = 0.0;
        texts
            .iter()
            .take_while(|text| {
                most += self.cost(text.content.len() as u64);
                most <= left
            })
            .count()
    }

    fn cost(&self, tokens: u64) -> f64 {
        self.price.unwrap_or_default() * tokens as f64 / 1e6
    }

    /// Asks for vectors and stores them; a batch that is refused is asked about in halves, down to the text it is for.
    fn embed_some(&mut self, texts: &[Text]) -> Result<(), UserError> {
        let contents: Vec<String> = texts.iter().map(|text| text.content.clone()).collect();
        let all = self.asker.embed(self.name(), &contents)?;
        let mut halves: Vec<&[Text]> = Vec::new();
        for (batch, told) in texts.chunks(BATCH).zip(all.told) {
            match told {
                Some(Told { answer: Err(Fault::Refused(refusal)), .. }) => {
                    self.refused_for_its_text(Fault::Refused(refusal))?;
                    match batch {
                        [text] => self.give_up(text)?,
                        _ => halves.extend([&batch[..batch.len() / 2], &batch[batch.len() / 2..]]),
                    }
                }
                Some(told) => {
                    let bytes = batch.iter().map(|text| text.content.len()).sum();
                    let embedded = self.embedded(Some(told), bytes, None)?;
                    self.store(batch, &embedded.vectors)?;
                }
                None => {}
            }
        }
        if let Some(error) = all.error {
            return Err(error);
        }
        halves.into_iter().try_for_each(|half| self.embed_some(half))
    }

    /// An answer's vectors, booked: with the provider's own count, else the most that it can have been.
    fn embedded(
        &mut self,
        told: Option<Told<Embedded>>,
        bytes: usize,
        error: Option<UserError>,
    ) -> Result<Embedded, UserError> {
        if let Some(error) = error {
            return Err(error);
        }
        let told = told.ok_or_else(|| refused(&self.asker.server.base_url, Fault::Gone))?;
        let embedded = told.answer.map_err(|fault| refused(&self.asker.server.base_url, fault))?;
        let tokens = embedded.tokens.unwrap_or(bytes as u64) + u64::from(told.lost) * bytes as u64;
        let usd = self.cost(tokens);
        self.left_usd = self.left_usd.map(|left| left - usd);
        self.note(json!({"tokens": tokens, "usd": self.price.map(|_| usd)}))?;
        Ok(embedded)
    }

    /// A refusal of a harmless text as well is about the model or the account, not about the texts.
    fn refused_for_its_text(&mut self, fault: Fault) -> Result<(), UserError> {
        let all = self.asker.embed(self.name(), &[PROBE.to_owned()])?;
        match all.told.into_iter().next().flatten() {
            Some(Told { answer: Ok(_), .. }) => Ok(()),
            _ => Err(refused(&self.asker.server.base_url, fault)),
        }
    }

    fn give_up(&mut self, text: &Text) -> Result<(), UserError> {
        self.failed.push(text.key.clone());
        if self.failed.len() > MOST_FAILED {
            return Err(too_many_failed());
        }
        self.note(json!({ "failed_keys": [text.key] }))
    }

    fn store(&mut self, texts: &[Text], vectors: &[Vec<f32>]) -> Result<(), UserError> {
        if let Some(odd) = vectors.iter().find(|vector| vector.len() != self.dimensions) {
            return Err(other_dimensions(self.dimensions, odd.len()));
        }
        let keys: Vec<&str> = texts.iter().map(|text| text.key.as_str()).collect();
        let hashes: Vec<&[u8]> = texts.iter().map(|text| text.hash.as_slice()).collect();
        let vectors: Vec<String> = vectors.iter().map(|vector| written(vector)).collect();
        let query = self.statement("store").to_owned();
        let stored = self.session.transaction(AssertUnwindSafe(|| {
            let args = [keys.into(), hashes.into(), vectors.into()];
            Spi::connect_mut(|client| client.update(&query, None, &args)?.first().get_one::<i64>()).unwrap_or_report()
        }));
        let stored = stored.map_err(failed)?.unwrap_or_default();
        self.stored += stored;
        self.missed += texts.len() as i64 - stored;
        Ok(())
    }

    fn batch(&self, after: Option<&str>) -> Result<Vec<Text>, UserError> {
        let query = self.statement("batch");
        let read = self.session.transaction(AssertUnwindSafe(|| {
            let args = [after.into(), self.failed.clone().into(), CHUNK.into()];
            Spi::connect(|client| {
                let rows = client.select(query, None, &args)?.map(|row| {
                    Ok::<_, pgrx::spi::Error>(Text {
                        key: row.get(1)?.unwrap_or_default(),
                        content: row.get(2)?.unwrap_or_default(),
                        hash: row.get(3)?.unwrap_or_default(),
                    })
                });
                rows.collect::<Result<Vec<_>, _>>()
            })
            .unwrap_or_report()
        }));
        read.map_err(failed)
    }

    /// Rows with a text, and those that have a vector.
    fn count(&self) -> Result<(i64, i64), UserError> {
        let query = self.statement("count");
        let counted = self.session.transaction(AssertUnwindSafe(|| {
            let (rows, done) = Spi::get_two::<i64, i64>(query).unwrap_or_report();
            (rows.unwrap_or_default(), done.unwrap_or_default())
        }));
        let (rows, done) = counted.map_err(failed)?;
        self.note(json!({"rows": rows, "done": done}))?;
        Ok((rows, done))
    }

    /// Vectors of what users saved, so that their profiles exist in the model's space, too.
    fn fill_profiles(&self) -> Result<i64, UserError> {
        let query = self.statement("points");
        let (mut all, mut after) = (0, (String::new(), String::new()));
        loop {
            check_for_interrupts!();
            let step = self.session.transaction(AssertUnwindSafe(|| {
                let args = [self.model.into(), after.0.as_str().into(), after.1.as_str().into(), POINTS.into()];
                Spi::connect_mut(|client| {
                    let mut rows = client.update(query, None, &args)?;
                    let Some(row) = rows.next() else { return Ok::<_, pgrx::spi::Error>(None) };
                    Ok(Some((row.get::<i64>(1)?.unwrap_or_default(), row.get::<String>(2)?, row.get::<String>(3)?)))
                })
                .unwrap_or_report()
            }));
            let Some((points, user, id)) = step.map_err(failed)? else { break };
            all += points;
            after = (user.unwrap_or_default(), id.unwrap_or_default());
        }
        self.note(json!({ "points": all }))?;
        Ok(all)
    }

    fn name(&self) -> &str {
        self.plan["name"].as_str().unwrap_or_default()
    }

    fn statement(&self, name: &str) -> &str {
        self.plan[name].as_str().unwrap_or_default()
    }

    fn note(&self, change: Value) -> Result<(), UserError> {
        self.session
            .transaction(AssertUnwindSafe(|| note(self.schema, self.relation, self.model, change)))
            .map_err(failed)
    }
}

fn begin(schema: &str, relation: pg_sys::Oid, model: &str, wish: &Wish) -> Value {
    let query = format!(
        "SELECT {schema}._begin_reembedding($1::pg_catalog.regclass, $2, $3::pg_catalog.name, $4::pg_catalog.name, $5)"
    );
    let args = [
        relation.into(),
        model.into(),
        wish.content.as_str().into(),
        wish.into_column.as_deref().into(),
        wish.retry_failed.into(),
    ];
    Spi::get_one_with_args::<JsonB>(&query, &args).unwrap_or_report().map_or(Value::Null, |plan| plan.0)
}

fn note(schema: &str, relation: pg_sys::Oid, model: &str, change: Value) {
    let query = format!("SELECT {schema}._note_reembedding($1::pg_catalog.regclass, $2, $3)");
    Spi::run_with_args(&query, &[relation.into(), model.into(), JsonB(change).into()]).unwrap_or_report();
}

/// As pgvector reads it; the shortest digits that give the same number again.
fn written(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", numbers.join(","))
}

fn other_dimensions(before: usize, now: usize) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        format!("the model's vectors have {now} dimensions, the column {before}"),
    )
    .detail("Vectors of two models do not belong into one column.")
    .hint("SELECT drop_reembedding(...); and CALL reembed(...) again, if the model was replaced under its name.")
}

fn too_many_failed() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        format!("the provider refuses more than {MOST_FAILED} texts of this table"),
    )
    .detail("Their keys stand in reembedding.failed_keys; all other texts are tried as before.")
    .hint(
        "Look at one of these texts: most models take a limited length. Then CALL reembed(..., retry_failed => true);",
    )
}

fn no_price(provider: &str, name: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("what vectors of \"{name}\" cost at \"{provider}\" is not known"),
    )
    .detail("max_usd needs a price of the tokens read; nothing was asked.")
    .hint(format!(
        "INSERT INTO provider_price (provider, base_model, usd_per_million_input_tokens, as_of, quoted_from) VALUES ('{provider}', '{name}', ..., CURRENT_DATE, '...');"
    ))
}
