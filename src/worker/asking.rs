//! Questions to a provider in the name of a role: several at one time, each asked again as the provider wants it,
//! with the same regard for a provider in trouble that jobs have. No transaction is open while anything is waited for.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::json;

use super::http::Policy;
use super::{provider_key, steps};
use crate::pg::errors::UserError;
use crate::pg::foreign::{self, Key};
use crate::pg::session::{Failure, Session};
use crate::pg::threads::Pool;
use crate::pg::{process, settings};
use crate::providers::embeddings::{self, Embedded};
use crate::providers::fault::{Fault, Refusal};
use crate::providers::lifecycle::Pace;
use crate::providers::protocol::Server;
use crate::providers::wire::{Answer, Request};

/// Requests at one time.
const AT_ONCE: usize = 8;
/// Tries of one request before everything is given up, and how many may fail before others are told to keep away.
const TRIES: i32 = 6;
const CIRCUIT: i32 = 3;
/// Times that a provider may ask for fewer requests.
const THROTTLES: i32 = 100;
/// No provider makes a session wait longer for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What became of a request.
pub struct Told<T> {
    /// A fault is one that asking again would not change.
    pub answer: Result<T, Fault>,
    /// Tries that the provider may have carried out, and billed, without an answer that arrived.
    pub lost: u32,
}

/// What became of several, in their order; `error` is why some have no answer.
pub struct All<T> {
    pub told: Vec<Option<Told<T>>>,
    pub error: Option<UserError>,
}

/// A provider as a role may use it.
pub struct Asker<'a> {
    session: &'a Session,
    schema: &'a str,
    name: String,
    /// Whose rights and key are used.
    owner: String,
    pub server: Server,
    key: Key,
    policy: Policy,
}

/// A request that has no answer yet.
struct Waiting {
    place: usize,
    request: Request,
    tries: i32,
    throttles: i32,
    lost: u32,
}

impl Waiting {
    fn new((place, request): (usize, Request)) -> Self {
        Self { place, request, tries: 0, throttles: 0, lost: 0 }
    }

    /// Until when it is asked again; None = no more.
    fn again(&mut self, fault: &Fault) -> Option<Duration> {
        let pace = Pace { poll: Duration::from_millis(settings::POLL_INTERVAL.get() as u64), roll: rand::random() };
        let spread = |wait: Duration| Duration::from_millis(pace.spread(wait));
        match fault {
            Fault::Auth(_) => return None,
            Fault::Throttled { after } => {
                self.throttles += 1;
                return (self.throttles < THROTTLES).then(|| after.unwrap_or_default().max(spread(pace.poll)));
            }
            Fault::Ambiguous { .. } | Fault::NotProtocol { .. } => self.lost += 1,
            _ => {}
        }
        self.tries += 1;
        let asked = if let Fault::Retry { after: Some(after), .. } = fault { *after } else { Duration::ZERO };
        (self.tries < TRIES).then(|| asked.max(spread(pace.backoff(self.tries))))
    }
}

impl<'a> Asker<'a> {
    /// # Errors
    /// Postgres' own for a missing right or key; 42704 for a provider that is not there.
    pub fn open(session: &'a Session, schema: &'a str, name: &str, owner: &str) -> Result<Self, UserError> {
        let found = session.transaction(|| foreign::provider_of(name, owner)).map_err(failed)?;
        let provider = found.ok_or_else(|| gone(name))?;
        let policy = Policy::now().trusting(&provider.server);
        Ok(Self {
            session,
            schema,
            name: name.to_owned(),
            owner: owner.to_owned(),
            server: provider.server,
            key: provider.key,
            policy,
        })
    }

    /// Asks, and asks again, until every request is answered or there is no use in going on.
    ///
    /// # Errors
    /// Of this database; what is wrong with the provider stands in the result, beside the answers that came.
    pub fn ask<T: Send + 'static>(
        &self,
        requests: Vec<Request>,
        read: impl Fn(usize, &Answer) -> Result<T, Fault> + Send + Sync + Clone + 'static,
    ) -> Result<All<T>, UserError> {
        let mut all = All { told: requests.iter().map(|_| None).collect(), error: None };
        let mut waiting: Vec<Waiting> = requests.into_iter().enumerate().map(Waiting::new).collect();
        let mut troubled = false;
        while !waiting.is_empty() && all.error.is_none() {
            self.wait_for_its_turn()?;
            let rest = waiting.split_off(AT_ONCE.min(waiting.len()));
            let (mut again, mut worst): (Vec<Waiting>, Option<(Fault, Duration, i32)>) = (Vec::new(), None);
            for (mut asked, answer) in self.round(waiting, &read)? {
                let fault = match answer {
                    Ok(_) | Err(Fault::Refused(_) | Fault::Gone) => {
                        all.told[asked.place] = Some(Told { answer, lost: asked.lost });
                        continue;
                    }
                    Err(fault) => fault,
                };
                match asked.again(&fault) {
                    Some(pause) if worst.as_ref().is_none_or(|(_, longest, _)| pause > *longest) => {
                        worst = Some((fault, pause, asked.tries));
                    }
                    Some(_) => {}
                    None => all.error = Some(refused(&self.server.base_url, fault)),
                }
                again.push(asked);
            }
            again.extend(rest);
            waiting = again;
            if let Some((fault, pause, tries)) = worst.filter(|_| all.error.is_none()) {
                troubled = true;
                self.note(Some((&fault, pause, tries)))?;
                wait(pause);
            }
        }
        if troubled && all.error.is_none() {
            self.note(None)?;
        }
        Ok(all)
    }

    /// Vectors of texts, `embeddings::BATCH` of them a request.
    ///
    /// # Errors
    /// As `ask`; a protocol without embeddings.
    pub fn embed(&self, model: &str, texts: &[String]) -> Result<All<Embedded>, UserError> {
        let batches = texts.chunks(embeddings::BATCH);
        let sizes: Vec<usize> = batches.clone().map(<[String]>::len).collect();
        let requests: Result<Vec<Request>, Fault> =
            batches.map(|batch| embeddings::request(&self.server, model, batch)).collect();
        let requests = requests.map_err(|fault| refused(&self.server.base_url, fault))?;
        self.ask(requests, move |place, answer| embeddings::read(answer, sizes[place]))
    }

    /// Some requests at the same time, each with its answer.
    fn round<T: Send + 'static>(
        &self,
        requests: Vec<Waiting>,
        read: &(impl Fn(usize, &Answer) -> Result<T, Fault> + Send + Sync + Clone + 'static),
    ) -> Result<Vec<(Waiting, Result<T, Fault>)>, UserError> {
        let mut pool = Pool::new().map_err(|error| no_thread(&error))?;
        let mut flying = HashMap::new();
        for asked in requests {
            let (request, key, policy, read) =
                (asked.request.clone(), self.key.clone(), self.policy.clone(), read.clone());
            let place = asked.place;
            let work = move || exchange(&request, &key, &policy, |answer| read(place, answer));
            flying.insert(pool.start(work).map_err(|error| no_thread(&error))?, asked);
        }
        let mut answered = Vec::new();
        while pool.running() > 0 {
            for (number, answer) in pool.wait(Duration::from_secs(1)) {
                let broken = || Err(Fault::Retry { after: None, message: "the helper thread broke down".into() });
                if let Some(asked) = flying.remove(&number) {
                    answered.push((asked, answer.unwrap_or_else(broken)));
                }
            }
        }
        Ok(answered)
    }

    /// While the provider is left alone, so is it here.
    fn wait_for_its_turn(&self) -> Result<(), UserError> {
        let query = format!(
            "SELECT (EXTRACT(epoch FROM h.retry_at OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8 \
             FROM {}.provider_health h WHERE h.provider OPERATOR(pg_catalog.=) $1 AND h.owner OPERATOR(pg_catalog.=) $2 \
               AND h.retry_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
            self.schema
        );
        let left = self.session.transaction(AssertUnwindSafe(|| {
            Spi::connect(|client| {
                client
                    .select(&query, Some(1), &[self.name.as_str().into(), self.owner.as_str().into()])?
                    .map(|row| row.get::<i64>(1))
                    .next()
                    .transpose()
            })
            .unwrap_or_report()
            .flatten()
        }));
        if let Some(left) = left.map_err(failed)? {
            wait(Duration::from_millis(left.max(0) as u64).min(LONGEST_WAIT));
        }
        Ok(())
    }

    /// Tells others of this role how the provider does.
    fn note(&self, trouble: Option<(&Fault, Duration, i32)>) -> Result<(), UserError> {
        let change = match trouble {
            None => json!({}),
            Some((fault, pause, tries)) => {
                let throttled = matches!(fault, Fault::Throttled { .. });
                let wait = if throttled || tries >= CIRCUIT { pause.as_millis() as u64 } else { 0 };
                json!({"provider_wait_ms": wait, "provider_failed": !throttled, "provider_error": fault.to_string()})
            }
        };
        let query = format!("SELECT {}._note_health($1, $2, $3)", self.schema);
        self.session
            .transaction(AssertUnwindSafe(|| {
                Spi::run_with_args(
                    &query,
                    &[self.name.as_str().into(), self.owner.as_str().into(), JsonB(change).into()],
                )
                .unwrap_or_report();
            }))
            .map_err(failed)
    }
}

/// On a helper thread.
fn exchange<T>(
    request: &Request,
    key: &Key,
    policy: &Policy,
    read: impl Fn(&Answer) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let key = provider_key::reveal(key).map_err(|message| {
        Fault::Auth(Refusal { code: "key".into(), message, param: None, hint: provider_key::HINT.into() })
    })?;
    read(&steps::ask(request, &key, policy)?)
}

/// Who has called.
pub fn current_role() -> String {
    Spi::get_one("SELECT CURRENT_USER::pg_catalog.text").unwrap_or_report().unwrap_or_default()
}

/// Sleeps, serving interrupts.
fn wait(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        process::wait(left.clamp(Duration::from_millis(1), Duration::from_secs(1)));
    }
}

/// What a transaction of ours failed with, for the user who called.
pub fn failed(failure: Failure) -> UserError {
    let detail = failure.detail.unwrap_or_else(|| "What was done before is kept; this step was not.".into());
    let hint = failure.hint.unwrap_or_else(|| "Mend the cause and CALL it again: it goes on where it was.".into());
    Failure { detail: Some(detail), hint: Some(hint), ..failure }.into()
}

fn gone(provider: &str) -> UserError {
    UserError::unknown(format!("provider \"{provider}\" does not exist"))
        .detail("The model stands there, and is asked there.")
        .hint("CREATE SERVER ... FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'openai', base_url 'https://...');")
}

/// Why there is no answer, in the provider's words.
pub fn refused(address: &str, fault: Fault) -> UserError {
    let hint = match &fault {
        Fault::Auth(refusal) | Fault::Refused(refusal) if !refusal.hint.is_empty() => refusal.hint.clone(),
        Fault::Gone => "The model may have been deleted there, or wait for a deployment: CALL check_provider(...) lists what answers.".to_owned(),
        _ => "CALL check_provider(...); asks the provider alone. Then CALL this again: it goes on where it was.".to_owned(),
    };
    UserError::new(PgSqlErrorCode::ERRCODE_FDW_UNABLE_TO_CREATE_REPLY, format!("no answer from {address}: {fault}"))
        .detail("What was answered before is kept.")
        .hint(hint)
}

fn no_thread(error: &std::io::Error) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        "no thread can be started for requests to the provider",
    )
    .detail(error.to_string())
    .hint("Look at the limits of processes and open files of the server's user.")
}
