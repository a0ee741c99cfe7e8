//! What becomes of a job after each answer of its provider. Pure: every transition is tested without a server, and the
//! worker only carries requests out and writes changes down.

use std::time::Duration;

use serde_json::{json, Value};

pub use super::change::{Change, Job, Line, Outcome, Phase, Prepared, Problem};
use super::fault::{Fault, Refusal};
use super::mishaps;
use super::protocol::{Checkpoint, Estimate, EventPage, Lifecycle, Poll, RemoteJob};
use super::state::{Serving, State};

/// Searches without a hit before a job is taken as not created.
pub const LOOKS: i32 = 3;
/// Polls of a job that succeeded without naming its model before that is taken as final.
const POLLS_FOR_A_MODEL: i32 = 3;

/// Times that all others are multiples of, and the dice.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// First time between two polls.
    pub poll: Duration,
    /// 0 to 1: spreads what would come at once.
    pub roll: f64,
}

impl Pace {
    pub(super) fn spread(&self, wait: Duration) -> u64 {
        (wait.as_secs_f64() * 1000.0 * (0.75 + self.roll / 2.0)) as u64
    }

    /// A twentieth of the job's age: soon at first, later up to thirty times the first interval.
    fn next_poll(&self, job: &Job) -> u64 {
        let first = self.poll.as_secs_f64();
        self.spread(Duration::from_secs_f64((job.age / 20.0).clamp(first, first * 30.0)))
    }

    fn look(&self) -> u64 {
        (self.poll * 3).as_millis() as u64
    }

    pub(super) fn backoff(&self, failures: i32) -> Duration {
        let first = self.poll.as_secs_f64() / 10.0;
        Duration::from_secs_f64((first * 2f64.powi(failures.clamp(0, 20))).min(first * 300.0))
    }

    pub(super) fn long(&self) -> Duration {
        self.poll * 30
    }
}

/// The change after an answer, or after what came instead of one.
pub fn after(job: &Job, told: Result<Outcome, Fault>, pace: Pace) -> Change {
    let phase = job.phase_now();
    match told {
        Ok(outcome) => learned(job, outcome, pace),
        Err(fault) => mishaps::failed(job, phase, fault, pace),
    }
}

/// The end of a job that has to stop before anything irrevocable was sent; None: the provider has to be asked.
pub fn stop(job: &Job) -> Option<Change> {
    let before = matches!(job.phase, Phase::Prepare | Phase::Ask | Phase::Upload | Phase::Estimate | Phase::Create);
    (before && job.stopping()).then(|| stopped(job, "stopped before it was created at the provider"))
}

pub(super) fn next(phase: Phase) -> Change {
    Change { phase: Some(phase), ..Change::default() }
}

/// Where an ended job goes: tidy up at the provider what may have been left there.
pub(super) fn tidy(job: &Job) -> Option<Phase> {
    let untouched = matches!(job.phase, Phase::Prepare | Phase::Ask) && job.remote.is_none();
    (!untouched).then_some(Phase::Clean)
}

pub(super) fn end(job: &Job, state: State, stage: impl Into<String>) -> Change {
    Change {
        phase: tidy(job),
        state: Some(state.name()),
        stage: Some(stage.into()),
        intent_over: true,
        ..Change::default()
    }
}

pub(super) fn stopped(job: &Job, stage: &str) -> Change {
    if job.cancel_requested {
        return end(job, State::Cancelled, stage);
    }
    Change {
        problem: Some(Problem {
            code: "57014",
            message: format!("not done within its timeout; {stage}"),
            hint: "Call retry_job() or submit it with a longer timeout.".into(),
        }),
        ..end(job, State::Expired, "out of time")
    }
}

pub(super) fn refused(job: &Job, refusal: Refusal) -> Change {
    let named = [Some(refusal.code), refusal.param].into_iter().flatten().filter(|word| !word.is_empty());
    let named: Vec<String> = named.collect();
    let message = match named.is_empty() {
        true => refusal.message,
        false => format!("{} ({})", refusal.message, named.join(", ")),
    };
    Change {
        problem: Some(Problem { code: "HV00M", message, hint: refusal.hint }),
        ..end(job, State::Failed, "refused")
    }
}

fn info(message: impl Into<String>, data: Value) -> Line {
    Line { level: "info", message: message.into(), data: Some(data) }
}

pub(super) fn warning(message: impl Into<String>, data: Value) -> Line {
    Line { level: "warning", message: message.into(), data: Some(data) }
}

pub(super) fn learned(job: &Job, outcome: Outcome, pace: Pace) -> Change {
    match outcome {
        Outcome::Prepared(files) => prepared(job, files),
        Outcome::Asked(life) => asked(job, &life),
        Outcome::Uploaded(Some(after)) => Change {
            state: Some(job.state().then(Some(State::Uploading)).name()),
            stage: Some("uploading the training file".into()),
            wait_ms: after.wait.as_millis() as u64,
            remote: Some(after.remote),
            ..next(Phase::Upload)
        },
        Outcome::Uploaded(None) => Change { stage: Some("training file uploaded".into()), ..next(Phase::Estimate) },
        Outcome::Priced(estimate) => priced(job, estimate),
        Outcome::Created(id) => created(job, id, pace),
        Outcome::Found(jobs) => found(job, jobs, pace),
        Outcome::Polled(poll) => polled(job, *poll, pace),
        Outcome::Events(page, checkpoints) => events(job, page, checkpoints, pace),
        Outcome::Cancelled if job.phase == Phase::Dedupe => deduped(job),
        Outcome::Cancelled => Change {
            stage: Some("cancel sent to the provider".into()),
            cancel_sent: true,
            wait_ms: pace.spread(pace.poll) / 4,
            ..next(Phase::Poll)
        },
        Outcome::Cleaned(Some(after)) => {
            Change { remote: Some(after.remote), wait_ms: after.wait.as_millis() as u64, ..next(Phase::Clean) }
        }
        Outcome::Cleaned(None) => Change::default(),
    }
}

fn prepared(job: &Job, files: Prepared) -> Change {
    let facts = json!({
        "bytes": files.train.bytes, "rows": files.train.rows, "validation_rows": files.validation.map(|file| file.rows),
        "tokens": files.tokens, "tokens_are": files.how, "estimated_usd": files.usd,
    });
    let known = Change {
        train_bytes: Some(files.train.bytes),
        train_rows: Some(files.train.rows),
        train_tokens: files.tokens,
        validation_bytes: files.validation.map(|file| file.bytes),
        validation_rows: files.validation.map(|file| file.rows),
        estimated_usd: files.usd,
        ..Change::default()
    };
    let told_later = files.usd.is_none() && files.priced_later;
    if let Some(problem) = too_dear(job, files.usd, "by price table").filter(|_| !told_later) {
        return Change { problem: Some(problem), ..merge(end(job, State::Failed, "too dear"), known) };
    }
    Change {
        phase: Some(Phase::Ask),
        stage: Some("training file written".into()),
        lines: vec![info("training file written", facts)],
        ..known
    }
}

fn merge(end: Change, counts: Change) -> Change {
    Change { phase: end.phase, state: end.state, stage: end.stage, intent_over: end.intent_over, ..counts }
}

fn too_dear(job: &Job, usd: Option<f64>, source: &str) -> Option<Problem> {
    let limit = job.max_usd?;
    match usd {
        Some(usd) if usd <= limit => None,
        Some(usd) => Some(Problem {
            code: "53400",
            message: format!("the job is estimated at {usd:.2} USD ({source}), max_usd is {limit:.2}"),
            hint: "Raise max_usd, train fewer epochs or freeze a smaller dataset. Nothing was paid.".into(),
        }),
        None => Some(Problem {
            code: "55000",
            message: format!("max_usd is {limit:.2}, but nobody knows what the job costs"),
            hint: "Add a row to provider_price for this provider and base model, or leave max_usd out.".into(),
        }),
    }
}

fn asked(job: &Job, life: &Lifecycle) -> Change {
    if life.legacy {
        return refused(
            job,
            Refusal {
                code: "legacy_model".into(),
                message: format!("base model \"{}\" takes no new jobs", job.base_model),
                param: None,
                hint: "Choose a base model that the provider still trains.".into(),
            },
        );
    }
    let lines = life.shutdown.iter().map(|date| {
        warning(
            format!("base model \"{}\" is shut down on {date}, and every model trained on it", job.base_model),
            json!({"shutdown": date}),
        )
    });
    Change { lines: lines.collect(), ..next(Phase::Upload) }
}

/// What the provider cannot tell is what the price table says, if it does.
fn priced(job: &Job, estimate: Option<Estimate>) -> Change {
    let told = estimate.as_ref().and_then(|estimate| estimate.usd);
    let known = Change { estimated_usd: told, ..Change::default() };
    if estimate.is_some_and(|estimate| estimate.blocked) {
        let price = told.map(|usd| format!(" of {usd:.2} USD")).unwrap_or_default();
        let refusal = Refusal {
            code: "blocked".into(),
            message: format!("the provider says that this account may not start a job{price}"),
            param: None,
            hint: "Pay in or raise the limit at the provider, then SELECT retry_job(...).".into(),
        };
        return Change { estimated_usd: known.estimated_usd, ..refused(job, refusal) };
    }
    let source = if told.is_some() { "by the provider" } else { "by price table" };
    if let Some(problem) = too_dear(job, told.or(job.estimated_usd), source) {
        return Change { problem: Some(problem), ..merge(end(job, State::Failed, "too dear"), known) };
    }
    Change { phase: Some(Phase::Create), ..known }
}

fn created(job: &Job, id: String, pace: Pace) -> Change {
    Change {
        state: Some(job.state().then(Some(State::Validating)).name()),
        stage: Some("created at the provider".into()),
        wait_ms: pace.spread(pace.poll) / 4,
        intent_over: true,
        lines: vec![info("created at the provider", json!({"remote_job_id": id}))],
        remote_job_id: Some(id),
        ..next(Phase::Poll)
    }
}

fn found(job: &Job, mut jobs: Vec<RemoteJob>, pace: Pace) -> Change {
    jobs.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    jobs.dedup_by(|a, b| a.id == b.id);
    let mut ids = jobs.into_iter().map(|job| job.id);
    let Some(oldest) = ids.next() else {
        return not_found(job, pace);
    };
    let duplicates: Vec<String> = ids.collect();
    let mut lines = vec![warning(
        "its creation was not answered; found at the provider and adopted",
        json!({"remote_job_id": oldest}),
    )];
    if !duplicates.is_empty() {
        lines.push(warning(
            "created more than once: the oldest is kept, the others are cancelled",
            json!({"kept": oldest, "cancelled": duplicates}),
        ));
    }
    Change {
        phase: Some(if duplicates.is_empty() { Phase::Poll } else { Phase::Dedupe }),
        remote_job_id: Some(oldest),
        duplicates: Some(duplicates),
        lines,
        ..created(job, String::new(), pace)
    }
}

fn not_found(job: &Job, pace: Pace) -> Change {
    let looks = job.looks + 1;
    if looks < LOOKS {
        return Change {
            stage: Some(format!("its creation was not answered: looked for it, {looks} of {LOOKS} times")),
            looks: Some(looks),
            wait_ms: pace.look(),
            ..next(Phase::Find)
        };
    }
    if job.stopping() {
        return stopped(job, "not found at the provider");
    }
    Change {
        stage: Some("not found at the provider: created again".into()),
        looks: Some(0),
        intent_over: true,
        lines: vec![warning(
            "its creation was not answered and it is not at the provider: created again",
            json!({"looks": looks}),
        )],
        // What is uploaded already is not uploaded again; after a promotion it may be nothing.
        ..next(Phase::Upload)
    }
}

pub(super) fn deduped(job: &Job) -> Change {
    let rest: Vec<String> = job.duplicates.iter().skip(1).cloned().collect();
    Change {
        phase: Some(if rest.is_empty() { Phase::Poll } else { Phase::Dedupe }),
        lines: job
            .duplicates
            .first()
            .map(|id| warning("duplicate cancelled", json!({"remote_job_id": id})))
            .into_iter()
            .collect(),
        duplicates: Some(rest),
        ..Change::default()
    }
}

fn polled(job: &Job, poll: Poll, pace: Pace) -> Change {
    let mut change = Change {
        raw_status: Some(poll.raw_status.clone()),
        progress: poll.progress,
        step: poll.step,
        loss: poll.loss,
        trained_tokens: poll.trained_tokens,
        billed_usd: poll.billed_usd,
        looks: Some(0),
        wait_ms: pace.next_poll(job),
        ..next(Phase::Poll)
    };
    let Some(state) = poll.state else {
        let new = job.raw_status.as_deref() != Some(&poll.raw_status);
        if new {
            change.lines.push(warning(
                "the provider says a word that this version does not know: polled on",
                json!({"status": poll.raw_status}),
            ));
        }
        return give_up(job, pace).unwrap_or(change);
    };
    if !state.ended() {
        let state = job.state().then(Some(state));
        change.stage = Some(format!("{} at the provider", state.name()));
        change.state = Some(state.name());
        change.phase = Some(Phase::Events);
        return give_up(job, pace).unwrap_or(change);
    }
    let counts = Change { phase: Some(Phase::Events), wait_ms: 0, stage: None, ..change };
    match state {
        State::Succeeded => succeeded(job, poll, counts, pace),
        State::Cancelled if job.past_deadline && !job.cancel_requested => {
            with_end(counts, stopped(job, "cancelled at the provider"))
        }
        State::Cancelled => with_end(counts, end(job, State::Cancelled, "cancelled at the provider")),
        _ => {
            let error = poll.error.unwrap_or_default();
            let refusal = Refusal {
                message: if error.message.is_empty() { "the provider gives no reason".into() } else { error.message },
                code: error.code,
                param: error.param,
                hint: if error.hint.is_empty() {
                    "Correct what the provider names and submit the job again.".into()
                } else {
                    error.hint
                },
            };
            with_end(counts, Change { stage: Some("failed at the provider".into()), ..refused(job, refusal) })
        }
    }
}

fn with_end(counts: Change, end: Change) -> Change {
    Change { state: end.state, stage: end.stage, problem: end.problem, intent_over: true, ..counts }
}

fn succeeded(job: &Job, poll: Poll, counts: Change, pace: Pace) -> Change {
    if let Some(model) = poll.model.filter(|model| !model.is_empty()) {
        let stage = match poll.serving {
            Serving::NeedsDeploy => "trained; has to be deployed at the provider before it answers",
            _ => "trained",
        };
        let done = end(job, State::Succeeded, stage);
        return Change { model: Some(model), serving: Some(poll.serving.name()), ..with_end(counts, done) };
    }
    let looks = job.looks + 1;
    if looks < POLLS_FOR_A_MODEL {
        return Change {
            phase: Some(Phase::Poll),
            stage: Some("succeeded, the model is not named yet".into()),
            looks: Some(looks),
            wait_ms: pace.spread(pace.poll),
            ..counts
        };
    }
    let refusal = Refusal {
        code: "no_model".into(),
        message: "the provider says succeeded, but names no model".into(),
        param: None,
        hint: "Look for the job at the provider: its id stands in fine_tuning_jobs.remote_job_id.".into(),
    };
    with_end(counts, refused(job, refusal))
}

/// The end of a job that is out of time, although the provider was asked to cancel it and does not say that it did.
fn give_up(job: &Job, pace: Pace) -> Option<Change> {
    let asked_for = job.cancel_sent_for?;
    let long_ago = asked_for > (pace.poll * 6).as_secs_f64();
    (job.past_deadline && long_ago).then(|| {
        let line = warning(
            "the provider was asked to cancel it and does not say that it did",
            json!({"remote_job_id": job.remote_job_id}),
        );
        Change { lines: vec![line], ..stopped(job, "the provider was asked to cancel it") }
    })
}

pub(super) fn events(job: &Job, page: EventPage, checkpoints: Vec<Checkpoint>, pace: Pace) -> Change {
    let lines = page.events.into_iter().rev().map(|event| {
        json!({"id": event.id, "at": event.at, "level": event.level, "message": event.message, "data": event.data,
               "step": event.step, "loss": event.loss})
    });
    let remote_events = lines.collect();
    match job.state().ended() {
        true => {
            let checkpoints = Some(checkpoints).filter(|found| !found.is_empty());
            Change { phase: tidy(job), remote_events, checkpoints, ..Change::default() }
        }
        false => Change { remote_events, wait_ms: pace.next_poll(job), ..next(Phase::Poll) },
    }
}
