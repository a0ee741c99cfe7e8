//! A job as the worker claims it, what an answer can tell, and the change that is written down.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::protocol::{After, Checkpoint, Estimate, EventPage, FileView, Lifecycle, Poll, RemoteJob};
use super::state::State;

/// The request that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Write the training file, count, compare with limits: nothing is sent.
    Prepare,
    Ask,
    Upload,
    Estimate,
    Create,
    Find,
    Dedupe,
    Poll,
    Events,
    Cancel,
    Clean,
}

/// A job as the worker claims it.
#[derive(Debug, Clone, Deserialize)]
pub struct Job {
    pub id: String,
    pub token: i64,
    pub phase: Phase,
    pub state: String,
    pub provider: String,
    pub owner: String,
    pub base_url: String,
    pub dataset: String,
    pub dataset_name: String,
    pub base_model: String,
    pub method: String,
    pub hyperparameters: Value,
    pub seed: i64,
    pub run_key: String,
    pub intent_at: i64,
    /// Seconds since the intent.
    pub age: f64,
    pub looks: i32,
    pub failures: i32,
    pub failing_for: f64,
    pub remote: Option<Value>,
    pub remote_job_id: Option<String>,
    pub duplicates: Vec<String>,
    pub raw_status: Option<String>,
    pub cancel_requested: bool,
    pub past_deadline: bool,
    /// Seconds since the provider was asked to cancel.
    pub cancel_sent_for: Option<f64>,
    pub train_bytes: Option<u64>,
    pub train_rows: Option<u64>,
    pub train_tokens: Option<u64>,
    /// Share of the texts held back for a validation file; None leaves it to the protocol.
    pub validation_share: Option<f64>,
    pub validation_bytes: Option<u64>,
    pub validation_rows: Option<u64>,
    pub estimated_usd: Option<f64>,
    pub max_usd: Option<f64>,
    pub known_event: Option<String>,
    pub provider_failures: i32,
}

impl Job {
    pub fn state(&self) -> State {
        State::parse(&self.state).unwrap_or(State::Pending)
    }

    /// The validation file as it was written first; None: there is none.
    pub fn validation(&self) -> Option<FileView> {
        self.validation_bytes.zip(self.validation_rows).map(|(bytes, rows)| FileView { bytes, rows })
    }

    pub fn stopping(&self) -> bool {
        self.cancel_requested || self.past_deadline
    }

    /// What is asked instead when the job has to stop: None where the answer to `phase` decides.
    pub fn phase_now(&self) -> Phase {
        match self.phase {
            Phase::Poll | Phase::Events
                if self.stopping() && self.cancel_sent_for.is_none() && !self.state().ended() =>
            {
                Phase::Cancel
            }
            phase => phase,
        }
    }
}

/// Files that are written, and what is known of the price.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prepared {
    pub train: FileView,
    pub validation: Option<FileView>,
    pub tokens: Option<u64>,
    /// How the tokens were counted.
    pub how: Option<String>,
    pub usd: Option<f64>,
    /// The provider will tell a price once it has the files.
    pub priced_later: bool,
}

/// What an answer told.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Prepared(Prepared),
    Asked(Lifecycle),
    Uploaded(Option<After>),
    Priced(Option<Estimate>),
    Created(String),
    Found(Vec<RemoteJob>),
    Polled(Box<Poll>),
    Events(EventPage, Vec<Checkpoint>),
    Cancelled,
    Cleaned(Option<After>),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub level: &'static str,
    pub message: String,
    pub data: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    pub code: &'static str,
    pub message: String,
    pub hint: String,
}

/// What is written into the job's row; None leaves a column as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Change {
    pub phase: Option<Phase>,
    pub state: Option<&'static str>,
    pub stage: Option<String>,
    pub wait_ms: u64,
    pub remote: Option<Value>,
    /// The protocol begins anew.
    pub forget_remote: bool,
    pub remote_job_id: Option<String>,
    pub duplicates: Option<Vec<String>>,
    pub raw_status: Option<String>,
    /// The answer to the creating request is known: no need to look for it.
    pub intent_over: bool,
    pub looks: Option<i32>,
    pub failures: i32,
    pub cancel_sent: bool,
    pub train_bytes: Option<u64>,
    pub train_rows: Option<u64>,
    pub train_tokens: Option<u64>,
    pub validation_bytes: Option<u64>,
    pub validation_rows: Option<u64>,
    pub trained_tokens: Option<u64>,
    pub estimated_usd: Option<f64>,
    pub billed_usd: Option<f64>,
    pub progress: Option<f64>,
    pub step: Option<u64>,
    pub loss: Option<f64>,
    pub model: Option<String>,
    pub serving: Option<&'static str>,
    pub problem: Option<Problem>,
    pub lines: Vec<Line>,
    pub remote_events: Vec<Value>,
    pub checkpoints: Option<Vec<Checkpoint>>,
    /// Nothing goes to this provider for so long; None: it works.
    pub provider_wait_ms: Option<u64>,
    /// Whether that counts as a failure of the provider.
    pub provider_failed: bool,
    pub provider_error: Option<String>,
}
