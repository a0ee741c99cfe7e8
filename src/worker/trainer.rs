//! One training: claim, read the dataset, train without any transaction, save model and evaluation at once.
//! The same dataset, parameters and seed give the same model, so a crash anywhere is mended by starting again.

use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::JsonB;

use super::{dataset, failpoint, scheduled_evaluation};
use crate::core::trainer::{self, Adapter, Crew, Observer, Params, Progress, Stop};
use crate::pg::session::{Failure, Session};
use crate::pg::shared::shared;
use crate::pg::{adapters, process, settings, spi, threads};

/// How often progress is written and the lease renewed.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// A training process: one job, or the evaluation of its model, then gone.
pub fn main(database: u32) -> ! {
    process::install_signal_handlers();
    let job = process::extra();
    process::connect(Some(database));
    if shared().take_trainer_slot(database, settings::MAX_TRAINERS.get() as usize).is_some() {
        let session = Session::worker();
        if let Ok(Some(schema)) = session.transaction(spi::own_schema) {
            match job.strip_prefix(scheduled_evaluation::PREFIX) {
                Some(job) => {
                    process::report_activity(&format!("pg_finetune: evaluating the model of job {job}"));
                    scheduled_evaluation::run(&session, &schema, job);
                }
                None => {
                    process::report_activity(&format!("pg_finetune: training job {job}"));
                    run(&session, &schema, &job);
                }
            }
        }
    }
    shared().wake_launcher(); // it reaps the slot and announces this database
    process::exit(process::EXIT_DONE)
}

/// Trains a job to its end, whatever that is; every outcome is written to the job's row.
pub fn run(session: &Session, schema: &str, job: &str) {
    failpoint::reached(session, "due");
    let Ok(Some(claim)) = session.transaction(|| Claim::take(schema, job)) else {
        return;
    };
    failpoint::reached(session, "claimed");
    let mut run = Run { session, schema, claim, last_beat: Instant::now(), epoch: (String::new(), 0), end: None };
    let outcome = run.train();
    let written = match outcome {
        Ok(()) => Ok(()),
        Err(end) => run.record(end),
    };
    if let Err(failure) = written {
        log!("pg_finetune: job {job}: could not record its end: {} ({})", failure.message, failure.code);
    }
}

/// A job that this process holds, until its token is outdated.
struct Claim {
    job: String,
    token: i64,
    dataset: String,
    hyperparameters: JsonB,
    seed: i64,
    model: String,
}

impl Claim {
    fn take(schema: &str, job: &str) -> Option<Self> {
        let query = format!(
            "SELECT c.token, c.dataset_id::pg_catalog.text, c.hyperparameters, c.seed, c.model_id \
             FROM {schema}._claim_job($1::pg_catalog.uuid) c WHERE c.token IS NOT NULL"
        );
        Spi::connect_mut(|client| {
            let mut table = client.update(&query, None, &[job.into()])?;
            table
                .next()
                .map(|row| {
                    Ok::<_, pgrx::spi::Error>(Self {
                        job: job.to_owned(),
                        token: row.get(1)?.unwrap_or_default(),
                        dataset: row.get(2)?.unwrap_or_default(),
                        hyperparameters: row.get(3)?.unwrap_or(JsonB(serde_json::json!({}))),
                        seed: row.get(4)?.unwrap_or_default(),
                        model: row.get(5)?.unwrap_or_default(),
                    })
                })
                .transpose()
        })
        .unwrap_or_report()
    }
}

/// Why a training did not end in a model.
enum End {
    /// Another process holds the job now: nothing of ours may be written.
    Lost,
    Cancelled,
    Expired,
    /// Trying again would end the same way.
    Refused {
        code: &'static str,
        message: String,
        hint: &'static str,
    },
    /// May pass: tried again later.
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

struct Run<'a> {
    session: &'a Session,
    schema: &'a str,
    claim: Claim,
    last_beat: Instant,
    /// Stage and epoch last written to the job's history.
    epoch: (String, usize),
    /// Why the observer asked the trainer to stop.
    end: Option<End>,
}

impl Run<'_> {
    fn train(&mut self) -> Result<(), End> {
        let params = self.params()?;
        let input = self.read(self.limit()?)?;
        let live = self.session.transaction(|| live_adapter(self.schema, input.dim))?;
        failpoint::reached(self.session, "dataset read");
        let outcome = match trainer::train(input, live.as_ref().map(|(_, adapter)| adapter), &params, self) {
            Ok(outcome) => outcome,
            Err(trainer::Error::Stopped) => return Err(self.end.take().unwrap_or(End::Cancelled)),
            Err(error @ trainer::Error::Disk(_)) => return Err(End::Failed(full(&error))),
            Err(error) => return Err(refusal(&error)),
        };
        failpoint::reached(self.session, "trained");
        let saved = self.session.transaction(|| save(self.schema, &self.claim, &outcome, live.map(|(id, _)| id)))?;
        failpoint::reached(self.session, "saved");
        if saved {
            Ok(())
        } else {
            Err(End::Lost)
        }
    }

    fn params(&self) -> Result<Params, End> {
        let mut object = self.claim.hyperparameters.0.clone();
        object["seed"] = serde_json::json!(self.claim.seed);
        Params::from_json(&object).map_err(|error| refusal(&error))
    }

    /// How many bytes of vectors may be in memory at one time; None = all of them, there are no more.
    fn limit(&self) -> Result<Option<usize>, Failure> {
        let bytes = self.session.transaction(|| vector_bytes(self.schema, &self.claim.dataset))?;
        let limit = i64::from(settings::TRAINING_MEMORY.get()) * 1024;
        if bytes <= limit {
            return Ok(None);
        }
        let told = format!(
            "vectors of {} MB, pg_finetune.training_memory is {} MB: they are read from a temporary file",
            bytes >> 20,
            limit >> 20
        );
        self.session
            .transaction(|| log_event(self.schema, &self.claim, &told, serde_json::json!({ "bytes": bytes })))?;
        Ok(Some(limit as usize))
    }

    fn read(&mut self, limit: Option<usize>) -> Result<trainer::Input, End> {
        let (session, schema, dataset) = (self.session, self.schema, self.claim.dataset.clone());
        let mut lost = None;
        let input = dataset::load_within(session, schema, &dataset, limit, || {
            check_for_interrupts!();
            let progress = Progress {
                stage: "reading the dataset",
                done: 0.0,
                step: 0,
                steps: 0,
                epoch: 0,
                loss: None,
                validation_auc: None,
            };
            if self.beat(&progress).is_err() {
                lost = self.end.take();
            }
            Ok(())
        })?;
        lost.map_or(Ok(input), Err)
    }

    /// Shows progress and renews the lease, at most every half second.
    fn beat(&mut self, progress: &Progress) -> Result<(), Stop> {
        let new_epoch = progress.loss.is_some() && self.epoch != (progress.stage.to_owned(), progress.epoch);
        if !new_epoch && self.last_beat.elapsed() < HEARTBEAT {
            return Ok(());
        }
        self.last_beat = Instant::now();
        let state = self.session.transaction(|| {
            if new_epoch {
                log_epoch(self.schema, &self.claim, progress);
            }
            heartbeat(self.schema, &self.claim, progress)
        });
        if new_epoch {
            self.epoch = (progress.stage.to_owned(), progress.epoch);
        }
        failpoint::reached(self.session, "training");
        let end = match state {
            Ok(state) if state == "held" => return Ok(()),
            Ok(state) if state == "lost" => End::Lost,
            Ok(state) if state == "expired" => End::Expired,
            Ok(_) => End::Cancelled,
            Err(failure) => End::Failed(failure),
        };
        self.end = Some(end);
        Err(Stop)
    }

    fn record(&self, end: End) -> Result<(), Failure> {
        let (state, stage, failure) = match end {
            End::Lost => return Ok(()),
            End::Failed(failure) => {
                return self.session.transaction(|| attempt_failed(self.schema, &self.claim, &failure))
            }
            End::Cancelled => ("cancelled", "cancelled", None),
            End::Expired => (
                "expired",
                "out of time",
                Some(("57014", "not done within its timeout".to_owned(), "Submit it with a longer timeout.")),
            ),
            End::Refused { code, message, hint } => ("failed", "refused", Some((code, message, hint))),
        };
        self.session.transaction(|| {
            let (code, message, hint) = match failure {
                Some((code, message, hint)) => (Some(code), Some(message), Some(hint)),
                None => (None, None, None),
            };
            let args = [
                self.claim.job.as_str().into(),
                self.claim.token.into(),
                state.into(),
                stage.into(),
                code.into(),
                message.into(),
                hint.into(),
            ];
            Spi::run_with_args(
                &format!("SELECT {}._end_job($1::pg_catalog.uuid, $2, $3, $4, $5, $6, $7)", self.schema),
                &args,
            )
            .unwrap_or_report();
        })
    }
}

impl Observer for Run<'_> {
    fn check(&mut self) -> Result<(), Stop> {
        check_for_interrupts!();
        Ok(())
    }

    fn progress(&mut self, progress: Progress<'_>) -> Result<(), Stop> {
        check_for_interrupts!();
        self.beat(&progress)
    }

    fn crew(&self) -> Crew {
        Crew { threads: settings::TRAINING_THREADS.get() as usize, beside: threads::each_number_beside }
    }
}

/// The disk may have room again later.
fn full(error: &trainer::Error) -> Failure {
    Failure {
        code: "58030".into(),
        message: error.to_string(),
        detail: None,
        hint: Some(
            "Look at the space of base/pgsql_tmp in the data directory, or raise pg_finetune.training_memory.".into(),
        ),
    }
}

fn refusal(error: &trainer::Error) -> End {
    let (code, hint) = match error {
        trainer::Error::Parameter { .. } => ("22023", "docs/training.md lists the hyperparameters and their ranges."),
        trainer::Error::TooFewEvents { .. } => {
            ("55000", "Wait for more saves and skips, or widen the window of create_dataset().")
        }
        trainer::Error::OneClass { .. } => (
            "55000",
            "Capture what was shown and skipped as well as what was saved; backfill_signals() takes what is there.",
        ),
        trainer::Error::TimeLimit { .. } => ("57014", "Raise the hyperparameter max_seconds or leave it out."),
        trainer::Error::Diverged { .. } => ("22000", "Try a smaller learning_rate; the model in use stays."),
        _ => ("22000", "Look at the dataset's report: SELECT report FROM datasets;"),
    };
    End::Refused { code, message: error.to_string(), hint }
}

/// The vectors and their image in one calibrated space, and those of typed questions, four bytes a number.
fn vector_bytes(schema: &str, dataset: &str) -> i64 {
    let query = format!(
        "SELECT ((2 OPERATOR(pg_catalog.*) pg_catalog.count(DISTINCT e.content_hash) OPERATOR(pg_catalog.+) pg_catalog.count(e.query_embedding)) \
         OPERATOR(pg_catalog.*) 4 OPERATOR(pg_catalog.*) pg_catalog.max(d.dimensions))::pg_catalog.int8 \
         FROM {schema}.dataset d JOIN {schema}.dataset_example e ON e.dataset_id OPERATOR(pg_catalog.=) d.id \
         WHERE d.id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid"
    );
    Spi::get_one_with_args::<i64>(&query, &[dataset.into()]).unwrap_or_report().unwrap_or(0)
}

fn log_epoch(schema: &str, claim: &Claim, progress: &Progress) {
    let data = serde_json::json!({
        "epoch": progress.epoch, "step": progress.step, "loss": progress.loss, "validation_auc": progress.validation_auc
    });
    log_event(schema, claim, progress.stage, data);
}

/// A line in the job's history.
fn log_event(schema: &str, claim: &Claim, message: &str, data: serde_json::Value) {
    let args = [claim.job.as_str().into(), message.into(), JsonB(data).into()];
    Spi::run_with_args(&format!("SELECT {schema}._event($1::pg_catalog.uuid, 'info', $2, $3)"), &args)
        .unwrap_or_report();
}

fn heartbeat(schema: &str, claim: &Claim, p: &Progress) -> String {
    let args = [
        claim.job.as_str().into(),
        claim.token.into(),
        p.stage.into(),
        p.done.into(),
        (p.step as i64).into(),
        (p.steps as i64).into(),
        p.loss.into(),
        p.validation_auc.into(),
    ];
    let query = format!("SELECT {schema}._heartbeat($1::pg_catalog.uuid, $2, $3, $4, $5, $6, $7, $8)");
    Spi::get_one_with_args(&query, &args).unwrap_or_report().unwrap_or_default()
}

fn attempt_failed(schema: &str, claim: &Claim, failure: &Failure) {
    let args = [
        claim.job.as_str().into(),
        claim.token.into(),
        failure.code.as_str().into(),
        failure.message.as_str().into(),
        failure.hint.as_deref().into(),
    ];
    Spi::run_with_args(&format!("SELECT {schema}._attempt_failed($1::pg_catalog.uuid, $2, $3, $4, $5)"), &args)
        .unwrap_or_report();
}

/// What serves outside experiments, if it is a model of this trainer for vectors of this size.
fn live_adapter(schema: &str, dimensions: usize) -> Option<(String, Adapter)> {
    let query = format!("SELECT d.model_id FROM {schema}.deployment d ORDER BY d.id DESC LIMIT 1");
    let mut rows = Spi::connect(|client| {
        client.select(&query, None, &[])?.map(|row| row.get::<String>(1)).collect::<Result<Vec<_>, _>>()
    })
    .unwrap_or_report();
    let live = rows.pop().flatten().filter(|id| id != "base")?;
    let mut adapter = adapters::read(schema, &live).unwrap_or_report()?.adapter;
    adapter.heads = adapters::heads(schema, &live).unwrap_or_report();
    (adapter.dim == dimensions).then_some((live, adapter))
}

fn save(schema: &str, claim: &Claim, outcome: &trainer::Outcome, live: Option<String>) -> bool {
    let adapter = &outcome.adapter;
    let facts = serde_json::json!({
        "dimensions": adapter.dim, "gamma": adapter.gamma, "score_scale": adapter.score_scale,
        "score_offset": adapter.score_offset, "report": outcome.report,
    });
    let mut evaluations = vec![evaluation("base", &outcome.evaluation, outcome.verdict, &outcome.reason)];
    if let (Some(live), Some(c)) = (live, &outcome.against_live) {
        evaluations.push(evaluation(&live, &c.evaluation, c.verdict, &c.reason));
    }
    let (typed_matrix, typed_bias) = adapter.typed.clone().map(|typed| (typed.matrix, typed.bias)).unzip();
    let args = [
        claim.job.as_str().into(),
        claim.token.into(),
        claim.model.as_str().into(),
        JsonB(facts).into(),
        adapter.matrix.clone().into(),
        adapter.bias.clone().into(),
        adapter.digest().to_vec().into(),
        JsonB(evaluations.into()).into(),
        typed_matrix.into(),
        typed_bias.into(),
        (adapter.heads.len() as i32).into(),
    ];
    let query = format!("SELECT {schema}._save_model($1::pg_catalog.uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
    let saved = Spi::get_one_with_args(&query, &args).unwrap_or_report().unwrap_or(false);
    for (user, head) in adapter.heads.iter().filter(|_| saved) {
        let args = [claim.model.as_str().into(), user.as_str().into(), head.clone().into()];
        Spi::run_with_args(&format!("SELECT {schema}._save_head($1, $2, $3)"), &args).unwrap_or_report();
    }
    if saved {
        let chosen = format!("chose {} among {} candidates", outcome.chosen, outcome.candidates.len());
        log_event(schema, claim, &chosen, serde_json::json!(outcome.candidates));
        let peak = format!("at most {} MB of memory in this process", process::peak_memory() >> 20);
        log_event(schema, claim, &peak, serde_json::json!({ "bytes": process::peak_memory() }));
    }
    saved
}

/// A row of model_evaluation.
fn evaluation(
    against: &str,
    measured: &trainer::Evaluation,
    verdict: trainer::Verdict,
    reason: &str,
) -> serde_json::Value {
    let mut row = serde_json::json!(measured);
    row["against"] = against.into();
    row["verdict"] = verdict.as_str().into();
    row["reason"] = reason.into();
    row
}
