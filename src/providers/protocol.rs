//! The one interface of all protocols, without input or output: each question is a request to send and a reader of its
//! answer. What a protocol has to remember between two requests it puts into `remote`, which the worker commits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::fault::Fault;
use super::state::{Serving, State};
use super::wire::{Answer, Request, Which};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Training {
    #[default]
    Sft,
    Dpo,
    Contrastive,
}

impl Training {
    pub const NAMES: [&'static str; 3] = ["sft", "dpo", "contrastive"];

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Sft, Self::Dpo, Self::Contrastive].into_iter().find(|training| training.name() == name)
    }

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Options of the foreign server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Server {
    pub protocol: String,
    /// Without the slash at its end.
    pub base_url: String,
    options: BTreeMap<String, String>,
    /// The server belongs to a superuser: its addresses may lie inside (`address`).
    pub of_superuser: bool,
}

impl Server {
    /// Options as Postgres keeps them: name=value.
    pub fn of(options: Vec<Option<String>>) -> Self {
        let pairs = options.into_iter().flatten();
        Self::new(pairs.filter_map(|option| option.split_once('=').map(|(name, value)| (name.into(), value.into()))))
    }

    pub fn new(options: impl IntoIterator<Item = (String, String)>) -> Self {
        let options: BTreeMap<String, String> = options.into_iter().collect();
        let of = |name: &str| options.get(name).cloned().unwrap_or_default();
        Self {
            protocol: of("protocol"),
            base_url: of("base_url").trim_end_matches('/').to_owned(),
            options,
            of_superuser: false,
        }
    }

    /// Origins that this server may reach although they lie inside.
    pub fn allowed(&self) -> String {
        let urls = ["base_url", "s3_url"].iter().filter(|_| self.of_superuser).filter_map(|name| self.option(name));
        urls.filter_map(super::address::origin).collect::<Vec<_>>().join(",")
    }

    /// Everything that the key is sent to or signs for: what it is bound to.
    pub fn origins(&self) -> String {
        let amazon = self.option("region").filter(|_| self.protocol == "bedrock");
        let storage = amazon.map(|region| {
            self.option("s3_url").map_or_else(|| format!("https://s3.{region}.amazonaws.com"), str::to_owned)
        });
        let urls = [Some(self.base_url.clone()), storage];
        urls.into_iter().flatten().filter_map(|url| super::address::origin(&url)).collect::<Vec<_>>().join(" ")
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }
}

/// One of the job's private local files.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FileView {
    pub bytes: u64,
    pub rows: u64,
}

/// Everything a protocol may know of a job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobView {
    /// Made by us, unique for ever (a uuid): name, token, metadata and file names at the provider carry it.
    pub run_key: String,
    /// Seconds since 1970 at which the intent to create was committed; the search for a lost job goes back to it.
    pub intent_at: i64,
    pub method: Training,
    pub base_model: String,
    pub hyperparameters: Map<String, Value>,
    pub seed: Option<u32>,
    pub suffix: Option<String>,
    pub train: FileView,
    pub validation: Option<FileView>,
    pub server: Server,
    /// The protocol's own memory: file ids, parts of an upload. Null at first; committed after every step.
    pub remote: Value,
    /// Name of the job at the provider once it is known.
    pub job_id: Option<String>,
}

impl JobView {
    pub fn file(&self, which: Which) -> FileView {
        match which {
            Which::Train => self.train,
            Which::Validation => self.validation.unwrap_or_default(),
        }
    }

    /// The same at every try: files that were left behind are found by it.
    pub fn filename(&self, which: Which) -> String {
        let kind = if which == Which::Train { "train" } else { "validation" };
        format!("pgft-{}-{kind}.jsonl", self.run_key)
    }

    pub fn remembered(&self, name: &str) -> Option<&str> {
        self.remote.get(name)?.as_str()
    }

    /// `remote` with one value set.
    pub fn remember(&self, name: &str, value: impl Into<Value>) -> Value {
        let mut remote = self.remote.as_object().cloned().unwrap_or_default();
        remote.insert(name.to_owned(), value.into());
        Value::Object(remote)
    }
}

/// What a provider can do and what it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Caps {
    /// Bytes of one file.
    pub max_file: u64,
    pub min_rows: u64,
    pub max_rows: u64,
    pub methods: &'static [Training],
    /// Jobs carry our key as metadata.
    pub metadata: bool,
    /// We name the job: creating it twice is impossible.
    pub client_job_id: bool,
    pub cancel: bool,
    pub events: bool,
    pub checkpoints: bool,
    /// The provider computes a price before the start.
    pub price_api: bool,
    /// Rows of a validation file beside the training file; 0 where none is taken.
    pub max_validation_rows: u64,
    /// Share of the texts that is held back for it unless the job says otherwise.
    pub validation_share: f64,
}

/// What most hosts get.
pub const VALIDATION_SHARE: f64 = 0.1;

/// Next step of a chain of requests.
// One at a time, and sent at once: a box would only hide it.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Send(Request),
    Done,
}

/// What a step has changed: committed before the next one, which may start after `wait`.
#[derive(Debug, Clone, PartialEq)]
pub struct After {
    pub remote: Value,
    pub wait: Duration,
}

impl After {
    pub fn now(remote: Value) -> Self {
        Self { remote, wait: Duration::ZERO }
    }
}

/// Jobs of ours on one page of the provider's list, and the next page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    pub jobs: Vec<RemoteJob>,
    pub next: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RemoteJob {
    pub id: String,
    pub created_at: Option<i64>,
    pub raw_status: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Poll {
    /// None: a word that this version does not know. Stay, log it once, keep polling.
    pub state: Option<State>,
    pub raw_status: String,
    pub model: Option<String>,
    pub serving: Serving,
    pub trained_tokens: Option<u64>,
    pub billed_usd: Option<f64>,
    pub error: Option<RemoteError>,
    /// 0 to 1.
    pub progress: Option<f64>,
    pub step: Option<u64>,
    pub loss: Option<f64>,
    /// Seconds since 1970.
    pub eta: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RemoteError {
    pub code: String,
    pub message: String,
    pub param: Option<String>,
    /// What works instead, where we know it; may be empty.
    pub hint: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Event {
    /// Unique in the job: keep each once.
    pub id: String,
    /// Seconds since 1970.
    pub at: Option<i64>,
    /// info, warning or error.
    pub level: String,
    pub message: String,
    pub data: Option<Value>,
    pub step: Option<u64>,
    pub loss: Option<f64>,
}

/// Newest first. `next` is None where the rest is known already.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventPage {
    pub events: Vec<Event>,
    pub next: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Checkpoint {
    pub model: String,
    pub step: Option<u64>,
    pub metrics: Value,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    /// None: the provider cannot tell.
    pub usd: Option<f64>,
    pub tokens: Option<u64>,
    /// The provider says that the account may not start it.
    pub blocked: bool,
}

/// What is known of a base model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lifecycle {
    /// YYYY-MM-DD: with it every model trained on it goes.
    pub shutdown: Option<String>,
    /// No new job is taken for it any more.
    pub legacy: bool,
}

/// Order of calls: `format`, `validate`, then `prepare`/`prepared` until Done, `estimate` where there is one, `create`,
/// `poll`, and after the end `cleanup`/`cleaned` until Done. A reader gets the same `JobView` as the maker of its request.
pub trait Protocol: Sync {
    fn caps(&self, server: &Server) -> Caps;

    /// Name of the training file's format (core::dataset::export).
    fn format(&self, job: &JobView) -> Result<&'static str, Fault>;

    /// Whether a job of this kind may have a validation file.
    fn takes_validation(&self, job: &JobView) -> bool {
        self.caps(&job.server).max_validation_rows > 0
    }

    /// Everything that can be known before anything is sent.
    fn validate(&self, job: &JobView) -> Result<(), Fault>;

    /// Brings the files to the provider. May be repeated: a file sent twice costs nothing and `cleanup` finds it.
    fn prepare(&self, job: &JobView) -> Result<Step, Fault>;
    fn prepared(&self, job: &JobView, answer: &Answer) -> Result<After, Fault>;

    /// The one request that costs money: `once` is set.
    fn create(&self, job: &JobView) -> Result<Request, Fault>;
    /// The job's id. `Ambiguous` unless the answer leaves no doubt.
    fn created(&self, job: &JobView, answer: &Answer) -> Result<String, Fault>;

    /// Looks for jobs of this run, whatever became of the answer to `create`.
    fn find(&self, job: &JobView, page: Option<&str>) -> Result<Request, Fault>;
    fn found(&self, job: &JobView, answer: &Answer) -> Result<Found, Fault>;

    fn poll(&self, job: &JobView) -> Result<Request, Fault>;
    fn polled(&self, job: &JobView, answer: &Answer) -> Result<Poll, Fault>;

    fn cancel(&self, job: &JobView) -> Result<Request, Fault>;
    /// Ok also when the job had ended before: the next poll tells.
    fn cancelled(&self, job: &JobView, answer: &Answer) -> Result<(), Fault>;

    /// Deletes what was uploaded, found by id or by our file name.
    fn cleanup(&self, job: &JobView) -> Result<Step, Fault>;
    fn cleaned(&self, job: &JobView, answer: &Answer) -> Result<After, Fault>;

    fn events(&self, _job: &JobView, _page: Option<&str>) -> Option<Request> {
        None
    }
    /// `known`: id of the newest event that is kept already.
    fn read_events(&self, _job: &JobView, _known: Option<&str>, _answer: &Answer) -> Result<EventPage, Fault> {
        Ok(EventPage::default())
    }

    fn checkpoints(&self, _job: &JobView) -> Option<Request> {
        None
    }
    fn read_checkpoints(&self, _job: &JobView, _answer: &Answer) -> Result<Vec<Checkpoint>, Fault> {
        Ok(Vec::new())
    }

    /// The provider's own price, asked after the files are there and before `create`.
    fn estimate(&self, _job: &JobView) -> Option<Request> {
        None
    }
    fn estimated(&self, _job: &JobView, _answer: &Answer) -> Result<Estimate, Fault> {
        Ok(Estimate::default())
    }

    /// When the base model is shut down, where the provider says so.
    fn base_model(&self, _job: &JobView) -> Option<Request> {
        None
    }
    fn lifecycle(&self, _job: &JobView, _answer: &Answer) -> Result<Lifecycle, Fault> {
        Ok(Lifecycle::default())
    }

    /// A question that costs nothing and shows whether address and key are right.
    fn models(&self, server: &Server) -> Result<Request, Fault>;
    fn read_models(&self, answer: &Answer) -> Result<Vec<String>, Fault>;
}
