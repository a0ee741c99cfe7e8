//! The gate for a chat model that stands at a provider: it, the model it was tuned from and the live chat model answer the
//! same held-out questions. Answers are kept as they come, so an evaluation that was cut short goes on where it was.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::{json, Value};
use sha2::{Digest, Sha256};

use super::asking::{failed, refused, All, Asker};
use super::evaluation::{self, Interrupts, Model};
use crate::core::dataset::export::Listener;
use crate::core::dataset::template::Template;
use crate::core::dataset::verdict::Reader;
use crate::core::dataset::Split;
use crate::core::trainer::{compare_answers, AnswersCompared, Judged, Sheet};
use crate::pg::dataset_rows::{user_error, Source, Users};
use crate::pg::errors::UserError;
use crate::pg::session::Session;
use crate::providers::chat::{self, Reply};
use crate::providers::wire::Request;

/// Rows that are asked about between two commits.
const CHUNK: usize = 8;
/// Characters of an answer that are kept.
const KEPT: usize = 200;

/// Who answers.
struct Contestant {
    /// 'model', 'base' or 'live'.
    role: String,
    /// The model of the registry that the verdict is against; None for the model itself.
    against: Option<String>,
    provider: String,
    name: String,
    /// USD per million tokens read and written.
    price: Option<(f64, f64)>,
}

/// One held-out example.
struct Row {
    user: String,
    id: String,
    saved: bool,
    question: String,
    hash: Vec<u8>,
}

/// What a contestant said about a row.
#[derive(Clone, Copy)]
struct Said {
    label: Option<bool>,
    prompt_tokens: i64,
    completion_tokens: i64,
    usd: Option<f64>,
}

/// One evaluation under way.
struct Evaluation<'a> {
    session: &'a Session,
    schema: &'a str,
    model: &'a Model,
    contestants: Vec<Contestant>,
    askers: BTreeMap<String, Asker<'a>>,
    words: Template,
    reader: Reader,
    rows: Vec<Row>,
    /// By contestant and row.
    said: HashMap<(usize, usize), Said>,
    spent: f64,
    max_usd: Option<f64>,
}

/// The verdict and its reason, where several verdicts are written the first that did not pass.
pub fn evaluate(
    session: &Session,
    schema: &str,
    owner: &str,
    model: &Model,
    max_rows: usize,
    max_usd: Option<f64>,
) -> Result<(String, String), UserError> {
    let contestants = session.transaction(|| contestants(schema, &model.id)).map_err(failed)?;
    if let (Some(_), Some(unpriced)) = (max_usd, contestants.iter().find(|c| c.price.is_none())) {
        return Err(no_price(unpriced));
    }
    let (words, rows, all_rows) = questions(session, model, max_rows)?;
    let reader = Reader::new(&words).map_err(user_error)?;
    let mut askers = BTreeMap::new();
    for contestant in &contestants {
        if !askers.contains_key(&contestant.provider) {
            askers.insert(contestant.provider.clone(), Asker::open(session, schema, &contestant.provider, owner)?);
        }
    }
    let mut evaluation = Evaluation {
        session,
        schema,
        model,
        contestants,
        askers,
        words,
        reader,
        rows,
        said: HashMap::new(),
        spent: 0.0,
        max_usd,
    };
    evaluation.recall()?;
    let asked = evaluation.ask_all()?;
    let limit = evaluation.limit(asked, all_rows);
    evaluation.judge(asked, limit.as_deref())
}

impl Evaluation<'_> {
    /// What was answered before, to the same questions.
    fn recall(&mut self) -> Result<(), UserError> {
        let query = format!(
            "SELECT a.user_id, a.example_id, a.question, a.label, a.prompt_tokens, a.completion_tokens, a.usd::pg_catalog.float8 \
             FROM {}._known_answers($1::pg_catalog.uuid, $2, $3, $4, $5) a",
            self.schema
        );
        let places: HashMap<(&str, &str), usize> =
            self.rows.iter().enumerate().map(|(place, row)| ((row.user.as_str(), row.id.as_str()), place)).collect();
        let users: Vec<&str> = self.rows.iter().map(|row| row.user.as_str()).collect();
        let ids: Vec<&str> = self.rows.iter().map(|row| row.id.as_str()).collect();
        for (number, contestant) in self.contestants.iter().enumerate() {
            let known = self.session.transaction(AssertUnwindSafe(|| {
                let args = [
                    self.model.dataset.as_str().into(),
                    contestant.provider.as_str().into(),
                    contestant.name.as_str().into(),
                    users.clone().into(),
                    ids.clone().into(),
                ];
                Spi::connect(|client| {
                    let found = client.select(&query, None, &args)?.map(|row| {
                        let said = Said {
                            label: row.get(4)?,
                            prompt_tokens: row.get(5)?.unwrap_or_default(),
                            completion_tokens: row.get(6)?.unwrap_or_default(),
                            usd: row.get(7)?,
                        };
                        let key =
                            (row.get::<String>(1)?.unwrap_or_default(), row.get::<String>(2)?.unwrap_or_default());
                        Ok::<_, pgrx::spi::Error>((key, row.get::<Vec<u8>>(3)?.unwrap_or_default(), said))
                    });
                    found.collect::<Result<Vec<_>, _>>()
                })
                .unwrap_or_report()
            }));
            for ((user, id), hash, said) in known.map_err(failed)? {
                let place = places.get(&(user.as_str(), id.as_str())).copied();
                if let Some(place) = place.filter(|&place| self.rows[place].hash == hash) {
                    self.spent += said.usd.unwrap_or_default();
                    self.said.insert((number, place), said);
                }
            }
        }
        Ok(())
    }

    /// Asks about row after row until all are answered or the money is used up; returns how many rows are.
    fn ask_all(&mut self) -> Result<usize, UserError> {
        let mut place = 0;
        while place < self.rows.len() {
            check_for_interrupts!();
            let mut end = (place + CHUNK).min(self.rows.len());
            while end > place && !self.affordable(&self.missing(place..end)) {
                end = place + (end - place) / 2;
            }
            if end == place {
                break;
            }
            self.ask_some(&self.missing(place..end))?;
            place = end;
        }
        Ok(place)
    }

    /// Contestants and rows without an answer.
    fn missing(&self, rows: std::ops::Range<usize>) -> Vec<(usize, usize)> {
        let all = rows.flat_map(|row| (0..self.contestants.len()).map(move |contestant| (contestant, row)));
        all.filter(|key| !self.said.contains_key(key)).collect()
    }

    fn affordable(&self, questions: &[(usize, usize)]) -> bool {
        let most: f64 = questions.iter().map(|&(contestant, row)| self.most(contestant, row)).sum();
        questions.is_empty() || self.max_usd.is_none_or(|limit| self.spent + most <= limit)
    }

    /// What a question costs at most.
    fn most(&self, contestant: usize, row: usize) -> f64 {
        let tokens = chat::most_tokens(&self.words.system, &self.rows[row].question);
        self.contestants[contestant].cost(tokens, chat::LONGEST_ANSWER).unwrap_or_default()
    }

    /// Asks each provider its questions and writes the answers down.
    fn ask_some(&mut self, questions: &[(usize, usize)]) -> Result<(), UserError> {
        let mut by_provider: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
        for &(contestant, row) in questions {
            by_provider.entry(self.contestants[contestant].provider.clone()).or_default().push((contestant, row));
        }
        for (provider, questions) in by_provider {
            let asker = &self.askers[&provider];
            let requests: Result<Vec<Request>, _> = questions
                .iter()
                .map(|&(contestant, row)| {
                    let name = &self.contestants[contestant].name;
                    chat::request(&asker.server, name, &self.words.system, &self.rows[row].question)
                })
                .collect();
            let requests = requests.map_err(|fault| refused(&asker.server.base_url, fault))?;
            let address = asker.server.base_url.clone();
            let all = asker.ask(requests, |_, answer| chat::read(answer))?;
            self.keep(&questions, all, &address)?;
        }
        Ok(())
    }

    /// Writes answers down; then says why some are missing, if some are.
    fn keep(&mut self, questions: &[(usize, usize)], all: All<Reply>, address: &str) -> Result<(), UserError> {
        let mut error = all.error;
        let mut written = Vec::new();
        for (&(contestant, row), told) in questions.iter().zip(all.told) {
            let Some(told) = told else { continue };
            let lost = f64::from(told.lost) * self.most(contestant, row);
            self.spent += lost;
            match told.answer {
                Ok(reply) => {
                    let said = self.said_in(contestant, row, &reply, lost);
                    written.push(self.written(contestant, row, said, &reply.text));
                    self.spent += said.usd.unwrap_or_default() - lost;
                    self.said.insert((contestant, row), said);
                }
                Err(fault) => error = error.or(Some(refused(address, fault))),
            }
        }
        let query = format!("SELECT {}._keep_answers($1::pg_catalog.uuid, $2)", self.schema);
        self.session
            .transaction(AssertUnwindSafe(|| {
                let args = [self.model.dataset.as_str().into(), JsonB(Value::Array(written)).into()];
                Spi::run_with_args(&query, &args).unwrap_or_report();
            }))
            .map_err(failed)?;
        error.map_or(Ok(()), Err)
    }

    /// With the provider's own counts, else the most that it can have been.
    fn said_in(&self, contestant: usize, row: usize, reply: &Reply, lost: f64) -> Said {
        let most = chat::most_tokens(&self.words.system, &self.rows[row].question);
        let (prompt, completion) =
            (reply.prompt_tokens.unwrap_or(most), reply.completion_tokens.unwrap_or(chat::LONGEST_ANSWER));
        Said {
            label: self.reader.read(&reply.text),
            prompt_tokens: prompt as i64,
            completion_tokens: completion as i64,
            usd: self.contestants[contestant].cost(prompt, completion).map(|usd| usd + lost),
        }
    }

    fn written(&self, contestant: usize, row: usize, said: Said, text: &str) -> Value {
        let (by, about) = (&self.contestants[contestant], &self.rows[row]);
        let start: String = text.chars().filter(|c| *c != '\0').take(KEPT).collect();
        json!({
            "user_id": about.user, "example_id": about.id, "provider": by.provider, "answered_by": by.name,
            "question": format!("\\x{}", hex(&about.hash)), "label": said.label, "answer": start,
            "prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens, "usd": said.usd,
        })
    }

    /// Why not all held-out rows were asked about.
    fn limit(&self, asked: usize, all_rows: usize) -> Option<String> {
        if asked < self.rows.len() {
            return Some(format!(
                "stopped after {asked} of {} rows: the next could exceed max_usd = {} ({:.4} spent)",
                self.rows.len(),
                self.max_usd.unwrap_or_default(),
                self.spent
            ));
        }
        (asked < all_rows).then(|| format!("{asked} of {all_rows} held-out rows, drawn by the seed"))
    }

    /// Compares, writes all verdicts down and returns the one that counts.
    fn judge(&self, asked: usize, limit: Option<&str>) -> Result<(String, String), UserError> {
        let mut verdict = None;
        for (number, other) in self.contestants.iter().enumerate().filter(|(_, c)| c.against.is_some()) {
            let compared = compare_answers(&self.judged(number, asked), self.model.seed, limit, &mut Interrupts)
                .map_err(|error| UserError::new(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, error.to_string()))?;
            self.write(number, other, &compared)?;
            let told = (compared.verdict.as_str().to_owned(), compared.reason);
            if verdict.as_ref().is_none_or(|(worst, _): &(String, String)| worst == "passed") {
                verdict = Some(told);
            }
        }
        Ok(verdict.unwrap_or_default())
    }

    fn judged(&self, base: usize, asked: usize) -> Vec<Judged> {
        let mut users: HashMap<&str, u32> = HashMap::new();
        let mut judged = Vec::with_capacity(asked);
        for (place, row) in self.rows.iter().enumerate().take(asked) {
            let next = users.len() as u32;
            let user = *users.entry(&row.user).or_insert(next);
            let label = |contestant: usize| self.said.get(&(contestant, place)).and_then(|said| said.label);
            judged.push(Judged { user, saved: row.saved, base: label(base), model: label(0) });
        }
        judged
    }

    fn write(&self, number: usize, other: &Contestant, compared: &AnswersCompared) -> Result<(), UserError> {
        let mut row = serde_json::to_value(&compared.answered).unwrap_or_default();
        row["verdict"] = compared.verdict.as_str().into();
        row["reason"] = compared.reason.clone().into();
        row["seed"] = self.model.seed.into();
        let against = other.against.as_deref().unwrap_or_default();
        evaluation::save(self.session, self.schema, &self.model.id, against, row).map_err(failed)?;
        for (contestant, sheet) in [(0, &compared.model), (number, &compared.base)] {
            self.write_sheet(contestant, sheet)?;
        }
        Ok(())
    }

    fn write_sheet(&self, contestant: usize, sheet: &Sheet) -> Result<(), UserError> {
        let by = &self.contestants[contestant];
        let theirs = || self.said.iter().filter(|((who, _), _)| *who == contestant).map(|(_, said)| said);
        let mut row = serde_json::to_value(sheet).unwrap_or_default();
        row["role"] = by.role.clone().into();
        row["provider"] = by.provider.clone().into();
        row["answered_by"] = by.name.clone().into();
        row["prompt_tokens"] = theirs().map(|said| said.prompt_tokens).sum::<i64>().into();
        row["completion_tokens"] = theirs().map(|said| said.completion_tokens).sum::<i64>().into();
        row["usd"] = by.price.map(|_| theirs().filter_map(|said| said.usd).sum::<f64>()).into();
        let query = format!("SELECT {}._save_chat_evaluation($1, $2)", self.schema);
        self.session
            .transaction(AssertUnwindSafe(|| {
                Spi::run_with_args(&query, &[self.model.id.as_str().into(), JsonB(row).into()]).unwrap_or_report();
            }))
            .map_err(failed)
    }
}

impl Contestant {
    fn cost(&self, prompt_tokens: u64, completion_tokens: u64) -> Option<f64> {
        let (read, written) = self.price?;
        Some((prompt_tokens as f64 * read + completion_tokens as f64 * written) / 1e6)
    }
}

/// The model itself first.
fn contestants(schema: &str, model: &str) -> Vec<Contestant> {
    let query = format!(
        "SELECT c.role, c.against, c.provider, c.answered_by, c.input::pg_catalog.float8, c.output::pg_catalog.float8 \
         FROM {schema}._chat_contestants($1) c"
    );
    Spi::connect(|client| {
        let rows = client.select(&query, None, &[model.into()])?.map(|row| {
            Ok::<_, pgrx::spi::Error>(Contestant {
                role: row.get(1)?.unwrap_or_default(),
                against: row.get(2)?,
                provider: row.get(3)?.unwrap_or_default(),
                name: row.get(4)?.unwrap_or_default(),
                price: row.get::<f64>(5)?.zip(row.get::<f64>(6)?),
            })
        });
        rows.collect::<Result<Vec<_>, _>>()
    })
    .unwrap_or_report()
}

/// The template, at most `max_rows` held-out questions, and how many there are. Drawn by the seed: first one of each user,
/// then a second of each, so that few rows still are many users'.
fn questions(session: &Session, model: &Model, max_rows: usize) -> Result<(Template, Vec<Row>, usize), UserError> {
    let opened = session.transaction(AssertUnwindSafe(|| -> Result<(Template, Source), UserError> {
        let source = Source::open(&model.dataset, Split::Test)?;
        Ok((source.template("default")?, source))
    }));
    let (words, source) = opened.map_err(failed)??;
    let mut users = Users::without_vectors(source);
    let mut kept: BTreeMap<(usize, [u8; 32]), Row> = BTreeMap::new();
    let mut all_rows = 0;
    while let Some((user, examples)) = session.transaction(AssertUnwindSafe(|| users.advance())).map_err(failed)?? {
        check_for_interrupts!();
        let listener = Listener::new(user.clone(), examples, Split::Test);
        let mut rows = Vec::with_capacity(listener.lines());
        for number in 0..listener.lines() {
            let asked = listener.asked(number, &words).map_err(user_error)?;
            rows.push((draw(model.seed, &user, &asked.id), asked));
        }
        all_rows += rows.len();
        rows.sort_by_key(|(draw, _)| *draw);
        let of_user = draw(model.seed, &user, "");
        for (rank, (_, asked)) in rows.into_iter().enumerate() {
            let full = kept.len() >= max_rows;
            if full && kept.last_key_value().is_some_and(|(last, _)| (rank, of_user) > *last) {
                break;
            }
            let hash =
                Sha256::new().chain_update(&words.system).chain_update([0]).chain_update(&asked.question).finalize();
            let row = Row {
                user: user.clone(),
                id: asked.id,
                saved: asked.saved,
                question: asked.question,
                hash: hash.to_vec(),
            };
            kept.insert((rank, of_user), row);
            if full {
                kept.pop_last();
            }
        }
    }
    Ok((words, kept.into_values().collect(), all_rows))
}

/// A place in the order that depends on the seed and the names alone.
fn draw(seed: i64, user: &str, example: &str) -> [u8; 32] {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update((user.len() as u64).to_le_bytes());
    digest.chain_update(user).chain_update(example).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn no_price(contestant: &Contestant) -> UserError {
    let Contestant { provider, name, .. } = contestant;
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("what answers of \"{name}\" cost at \"{provider}\" is not known"),
    )
    .detail("max_usd needs a price of the tokens read and of the tokens written; nothing was asked.")
    .hint(format!(
        "INSERT INTO provider_price (provider, base_model, usd_per_million_input_tokens, usd_per_million_output_tokens, as_of, quoted_from) \
         VALUES ('{provider}', '{name}', ..., ..., CURRENT_DATE, '...');"
    ))
}
