//! Jobs at providers. Each step: claim, with the intent committed → the request on a helper thread, no transaction open
//! → what the answer changed, written where the claim still holds. `providers::lifecycle` decides, this file carries out.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::Value;

use super::steps::{self, Sending};
use super::training_file::{Files, Trouble, Writing};
use super::{failpoint, http};
use crate::pg::foreign::{self, Provider};
use crate::pg::session::{Failure, Session};
use crate::pg::threads::Pool;
use crate::pg::{settings, spi};
use crate::providers::fault::{Fault, Refusal};
use crate::providers::lifecycle::{self, Change, Job, Outcome, Pace, Phase, Prepared};

/// Requests at one time, to all providers and to one.
const ALL: usize = 16;
const TO_ONE: usize = 4;
/// Shortest time between two requests to one provider: many due jobs make no burst.
const GAP: Duration = Duration::from_millis(20);
/// How often somebody who waits for this database is looked for while a request is under way.
const COURTESY: Duration = Duration::from_secs(1);
/// Files that are kept open for their upload.
const OPEN_FILES: usize = 8;

type Told = Result<Outcome, Fault>;

pub struct Jobs<'a> {
    session: &'a Session,
    schema: &'a str,
    pool: Pool<Told>,
    flights: HashMap<u64, Job>,
    waiting_to_write: VecDeque<(Job, Provider)>,
    writing: Option<(Job, Provider, Writing)>,
    files: HashMap<String, Files>,
    last_sent: HashMap<String, Instant>,
    last_beat: Instant,
    last_courtesy: Instant,
}

/// What a turn left.
#[derive(PartialEq)]
pub enum Turn {
    /// Requests are under way or files are being written.
    Busy,
    Idle,
    /// Somebody waits for this database: leave it.
    Leave,
}

impl<'a> Jobs<'a> {
    pub fn new(session: &'a Session, schema: &'a str) -> Result<Self, Failure> {
        let pool = Pool::new().map_err(|error| Failure {
            code: "53000".into(),
            message: format!("no socket for the helper threads: {error}"),
            detail: None,
            hint: None,
        })?;
        Ok(Self {
            session,
            schema,
            pool,
            flights: HashMap::new(),
            waiting_to_write: VecDeque::new(),
            writing: None,
            files: HashMap::new(),
            last_sent: HashMap::new(),
            last_beat: Instant::now(),
            last_courtesy: Instant::now(),
        })
    }

    /// Starts what is due, waits for up to `timeout` for an answer, writes down what came.
    pub fn turn(&mut self, timeout: Duration) -> Result<Turn, Failure> {
        let held_up = self.start_due()?;
        self.write_file()?;
        if self.idle() && !held_up {
            return Ok(Turn::Idle);
        }
        let wait = match self.writing.is_some() || held_up {
            true => {
                if held_up {
                    GAP
                } else {
                    Duration::ZERO
                }
            }
            false => timeout,
        };
        for (number, told) in self.pool.wait(wait) {
            let Some(job) = self.flights.remove(&number) else { continue };
            let told = told.unwrap_or_else(|| Err(retry("the helper thread broke down")));
            failpoint::reached(self.session, &format!("{} answered", name(job.phase_now())));
            self.settle(&job, told)?;
            failpoint::reached(self.session, &format!("{} settled", name(job.phase_now())));
        }
        self.beat()?;
        self.courtesy()
    }

    fn idle(&self) -> bool {
        self.pool.running() == 0 && self.writing.is_none() && self.waiting_to_write.is_empty()
    }

    /// Claims what is due and free; true when something due had to wait for its turn.
    fn start_due(&mut self) -> Result<bool, Failure> {
        loop {
            let open = self.flights.len() + self.waiting_to_write.len() + usize::from(self.writing.is_some());
            if open >= ALL {
                return Ok(false);
            }
            let (busy, recent) = self.busy();
            failpoint::reached(self.session, "due");
            let Some(job) = self.claim(&busy)? else {
                return Ok(!recent.is_empty() && self.any_due(&recent)?);
            };
            failpoint::reached(self.session, &format!("{} claimed", name(job.phase_now())));
            self.begin(job)?;
        }
    }

    /// Providers that have enough requests under way, or had one a moment ago; the latter also by themselves.
    fn busy(&self) -> (Vec<String>, Vec<String>) {
        let mut under_way: HashMap<String, usize> = HashMap::new();
        for job in self.flights.values() {
            *under_way.entry(lane(job)).or_default() += 1;
        }
        let full = |lane: &String| {
            let failing = self.flights.values().any(|job| lane == &self::lane(job) && job.provider_failures > 0);
            under_way.get(lane).is_some_and(|n| *n >= TO_ONE || failing)
        };
        let full: Vec<String> = under_way.keys().filter(|lane| full(lane)).cloned().collect();
        let recent = self.last_sent.iter().filter(|(lane, at)| at.elapsed() < GAP && !full.contains(lane));
        let recent: Vec<String> = recent.map(|(lane, _)| lane.clone()).collect();
        (full.iter().chain(&recent).cloned().collect(), recent)
    }

    fn claim(&self, busy: &[String]) -> Result<Option<Job>, Failure> {
        let query = format!("SELECT {}._claim_provider_job($1)", self.schema);
        let claimed = self.session.transaction(AssertUnwindSafe(|| {
            Spi::connect_mut(|client| client.update(&query, None, &[busy.to_vec().into()])?.first().get_one::<JsonB>())
                .unwrap_or_report()
        }))?;
        claimed.map(|JsonB(job)| serde_json::from_value(job).map_err(|e| damaged(&e))).transpose()
    }

    /// Whether one of these has a job that is due.
    fn any_due(&self, lanes: &[String]) -> Result<bool, Failure> {
        let query = format!(
            "SELECT EXISTS (SELECT 1 FROM {0}.fine_tuning_job j WHERE j.phase IS NOT NULL \
               AND j.due_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() AND NOT {0}._is_held(j) \
               AND pg_catalog.format('%s/%s', j.provider, j.owner) OPERATOR(pg_catalog.=) ANY ($1) \
               AND NOT EXISTS (SELECT 1 FROM {0}.provider_health h WHERE h.provider OPERATOR(pg_catalog.=) j.provider \
                   AND h.owner OPERATOR(pg_catalog.=) j.owner AND h.retry_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()))",
            self.schema
        );
        self.session.transaction(AssertUnwindSafe(|| {
            Spi::connect(|client| client.select(&query, None, &[lanes.to_vec().into()])?.first().get_one::<bool>())
                .unwrap_or_report()
                .unwrap_or(false)
        }))
    }

    /// Takes a claimed job as far as its request, its file or its end.
    fn begin(&mut self, job: Job) -> Result<(), Failure> {
        if let Some(change) = lifecycle::stop(&job) {
            return self.write(&job, change);
        }
        let provider = match self.provider(&job) {
            Ok(provider) => provider,
            Err(fault) => return self.settle(&job, Err(fault)),
        };
        let needs_file = match job.phase {
            Phase::Prepare => true,
            Phase::Upload => !self.files.contains_key(&job.id),
            _ => false,
        };
        if needs_file {
            self.waiting_to_write.push_back((job, provider));
            return Ok(());
        }
        self.send(job, provider)
    }

    /// The provider as the owner of the job may use it, at the address where the job was submitted.
    fn provider(&self, job: &Job) -> Result<Provider, Fault> {
        let found = self.session.transaction(|| foreign::provider_of(&job.provider, &job.owner));
        let refusal = |code: &str, message: String, hint: String| {
            Fault::Auth(Refusal { code: code.to_owned(), message, param: None, hint })
        };
        let provider = found.map_err(|failure| {
            let hint = "GRANT USAGE ON FOREIGN SERVER, CREATE USER MAPPING, then SELECT retry_job(...).";
            refusal(&failure.code, failure.message, failure.hint.unwrap_or_else(|| hint.into()))
        })?;
        let provider = provider.ok_or_else(|| {
            let message = format!("provider \"{}\" does not exist any more", job.provider);
            refusal("42704", message, "Create it again, then SELECT retry_job(...).".into())
        })?;
        if provider.server.base_url.trim_end_matches('/') != job.base_url.trim_end_matches('/') {
            let message = format!("the address of provider \"{}\" is another one than at submit", job.provider);
            let hint = format!("Set it back to {}, or submit a new job.", job.base_url);
            return Err(refusal("55000", message, hint));
        }
        Ok(provider)
    }

    fn send(&mut self, job: Job, provider: Provider) -> Result<(), Failure> {
        let files = self.files.get(&job.id).cloned();
        self.last_sent.insert(lane(&job), Instant::now());
        let sending = match Sending::new(&job, provider, files, http::Policy::now()) {
            Ok(sending) => sending,
            Err(fault) => return self.settle(&job, Err(fault)),
        };
        match self.pool.start(move || sending.perform()) {
            Ok(number) => {
                self.flights.insert(number, job);
                Ok(())
            }
            Err(error) => self.settle(&job, Err(retry(&format!("no helper thread: {error}")))),
        }
    }

    /// One batch of the file that is being written, or the beginning of the next one.
    fn write_file(&mut self) -> Result<(), Failure> {
        if self.writing.is_none() {
            let Some((job, provider)) = self.waiting_to_write.pop_front() else { return Ok(()) };
            match self.begin_file(&job, &provider) {
                Ok(writing) => self.writing = Some((job, provider, writing)),
                Err(trouble) => return self.not_written(&job, trouble),
            }
        }
        let Some((job, provider, mut writing)) = self.writing.take() else { return Ok(()) };
        match writing.advance(self.session) {
            Ok(None) => {
                self.writing = Some((job, provider, writing));
                Ok(())
            }
            Ok(Some(files)) => self.file_written(job, provider, files),
            Err(trouble) => self.not_written(&job, trouble),
        }
    }

    fn begin_file(&self, job: &Job, provider: &Provider) -> Result<Writing, Trouble> {
        Writing::begin(self.session, steps::plan(job, &provider.server).map_err(Trouble::Refused)?)
    }

    fn file_written(&mut self, job: Job, provider: Provider, files: Files) -> Result<(), Failure> {
        failpoint::reached(self.session, "file written");
        if job.phase == Phase::Prepare {
            let told = self.prepared(&job, &provider, &files);
            if self.files.len() < OPEN_FILES {
                self.files.insert(job.id.clone(), files);
            }
            return self.settle(&job, told);
        }
        let (train, validation) = (files.train.view, files.validation.as_ref().map(|written| written.view));
        if (job.train_bytes, job.train_rows, job.validation()) != (Some(train.bytes), Some(train.rows), validation) {
            // The dataset is not what it was when limits and cost were checked.
            let message = "the dataset has changed while it was being uploaded";
            return self
                .settle(&job, Err(Refusal::of("training_file", message, "Freeze a new dataset and submit it.")));
        }
        self.files.insert(job.id.clone(), files);
        self.send(job, provider)
    }

    /// Limits, tokens and price of files that are written.
    fn prepared(&self, job: &Job, provider: &Provider, files: &Files) -> Told {
        let counted = steps::check(job, &provider.server, files)?;
        let tokens = counted.as_ref().map(|counted| counted.tokens);
        Ok(Outcome::Prepared(Prepared {
            train: files.train.view,
            validation: files.validation.as_ref().map(|written| written.view),
            tokens,
            how: counted.map(|counted| counted.how),
            usd: self.estimate(job, tokens).map_err(|failure| retry(&failure.message))?,
            priced_later: steps::priced_later(&provider.server)?,
        }))
    }

    /// What the price table says.
    fn estimate(&self, job: &Job, tokens: Option<u64>) -> Result<Option<f64>, Failure> {
        let query = format!("SELECT {}._estimate_usd($1::pg_catalog.uuid, $2)::pg_catalog.float8", self.schema);
        let Some(tokens) = tokens else { return Ok(None) };
        self.session.transaction(AssertUnwindSafe(|| {
            Spi::connect(|client| {
                client.select(&query, None, &[job.id.as_str().into(), (tokens as i64).into()])?.first().get_one::<f64>()
            })
            .unwrap_or_report()
        }))
    }

    fn not_written(&mut self, job: &Job, trouble: Trouble) -> Result<(), Failure> {
        match trouble {
            Trouble::Refused(fault) => self.settle(job, Err(fault)),
            Trouble::Failed(failure) => self.failed_here(job, &failure),
        }
    }

    /// Writes down what an answer changed.
    fn settle(&mut self, job: &Job, told: Told) -> Result<(), Failure> {
        let pace = Pace { poll: Duration::from_millis(settings::POLL_INTERVAL.get() as u64), roll: rand::random() };
        let change = lifecycle::after(job, told, pace);
        self.write(job, change)
    }

    fn write(&mut self, job: &Job, change: Change) -> Result<(), Failure> {
        if !matches!(change.phase, Some(Phase::Ask | Phase::Upload | Phase::Prepare)) {
            self.files.remove(&job.id);
        }
        let query = format!("SELECT {}._settle($1::pg_catalog.uuid, $2, $3)", self.schema);
        let change = storable(serde_json::to_value(change).unwrap_or_default());
        let written = self.session.transaction(AssertUnwindSafe(|| {
            let args = [job.id.as_str().into(), job.token.into(), JsonB(change).into()];
            Spi::get_one_with_args::<bool>(&query, &args).unwrap_or_report();
        }));
        match written {
            Ok(()) => Ok(()),
            Err(failure) => self.failed_here(job, &failure),
        }
    }

    /// A failure in this database: of the job, unless the extension itself has gone.
    fn failed_here(&mut self, job: &Job, failure: &Failure) -> Result<(), Failure> {
        self.files.remove(&job.id);
        self.session.transaction(AssertUnwindSafe(|| {
            if spi::own_schema().as_deref() != Some(self.schema) {
                return;
            }
            let args = [
                job.id.as_str().into(),
                job.token.into(),
                failure.code.as_str().into(),
                failure.message.as_str().into(),
                failure.hint.as_deref().into(),
            ];
            let query = format!("SELECT {}._provider_step_failed($1::pg_catalog.uuid, $2, $3, $4, $5)", self.schema);
            Spi::run_with_args(&query, &args).unwrap_or_report();
        }))
    }

    /// Renews the leases of everything under way, well before they run out.
    fn beat(&mut self) -> Result<(), Failure> {
        let lease = Duration::from_secs(settings::LEASE.get() as u64);
        if self.last_beat.elapsed() < lease / 4 {
            return Ok(());
        }
        self.last_beat = Instant::now();
        self.renew(&format!("{} s", lease.as_secs()))
    }

    fn renew(&self, by: &str) -> Result<(), Failure> {
        let waiting = self.waiting_to_write.iter().map(|(job, _)| job.token);
        let writing = self.writing.iter().map(|(job, _, _)| job.token);
        let tokens: Vec<i64> = self.flights.values().map(|job| job.token).chain(waiting).chain(writing).collect();
        if tokens.is_empty() {
            return Ok(());
        }
        let query = format!("SELECT {}._renew_leases($1, $2::pg_catalog.interval)", self.schema);
        self.session.transaction(AssertUnwindSafe(|| {
            Spi::run_with_args(&query, &[tokens.into(), by.into()]).unwrap_or_report()
        }))
    }

    /// A request may take half a minute, DROP DATABASE waits five seconds.
    fn courtesy(&mut self) -> Result<Turn, Failure> {
        if self.idle() || !self.session.is_worker() || self.last_courtesy.elapsed() < COURTESY {
            return Ok(Turn::Busy);
        }
        self.last_courtesy = Instant::now();
        let query = format!("SELECT {}._somebody_waits_for_this_database()", self.schema);
        let awaited = self.session.transaction(AssertUnwindSafe(|| {
            if spi::own_schema().as_deref() != Some(self.schema) {
                return None; // dropped: nothing to do here any more
            }
            Spi::get_one::<bool>(&query).unwrap_or_report()
        }))?;
        if awaited == Some(true) {
            self.renew("0 s")?;
        }
        Ok(if awaited == Some(false) { Turn::Busy } else { Turn::Leave })
    }
}

fn lane(job: &Job) -> String {
    format!("{}/{}", job.provider, job.owner)
}

fn name(phase: Phase) -> String {
    serde_json::to_value(phase).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn retry(message: &str) -> Fault {
    Fault::Retry { after: None, message: message.to_owned() }
}

fn damaged(error: &serde_json::Error) -> Failure {
    Failure { code: "22000".into(), message: format!("the job's row is damaged: {error}"), detail: None, hint: None }
}

/// jsonb takes no NUL character; providers may send one.
fn storable(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => Value::Array(items.into_iter().map(storable).collect()),
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(name, value)| (name.replace('\0', "\u{fffd}"), storable(value))).collect(),
        ),
        other => other,
    }
}
