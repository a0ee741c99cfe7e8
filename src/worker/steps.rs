//! One request of a job and the reading of its answer, as the protocol says: on a helper thread, without Postgres.

use std::os::unix::fs::FileExt;

use super::http::{self, Policy};
use super::provider_key;
use super::training_file::Written;
use crate::pg::foreign::{Key, Provider};
use crate::providers::fault::{Fault, Refusal};
use crate::providers::lifecycle::{Job, Outcome, Phase};
use crate::providers::protocol::{Caps, FileView, JobView, Protocol, Server, Step, Training};
use crate::providers::secret::Secret;
use crate::providers::tokens::{self, Counted};
use crate::providers::wire::{Answer, Request};

/// Pages of the provider's list that are searched for a lost job.
const PAGES: usize = 50;
/// Letters of the dataset's name in the model's.
const SUFFIX: usize = 18;

pub struct Sending {
    phase: Phase,
    view: JobView,
    duplicate: Option<String>,
    known_event: Option<String>,
    key: Key,
    file: Option<Written>,
    policy: Policy,
}

/// The protocol of a server; a server of another version's protocol is refused in words.
pub fn protocol(server: &Server) -> Result<&'static dyn Protocol, Fault> {
    crate::providers::by_name(&server.protocol).ok_or_else(|| {
        let message = format!("protocol \"{}\" cannot run jobs in this version", server.protocol);
        Refusal::of("protocol", message, "CREATE SERVER ... OPTIONS (protocol 'openai', ...) names one that can.")
    })
}

/// Whether the provider tells its own price once the file is there.
pub fn priced_later(server: &Server) -> Result<bool, Fault> {
    Ok(protocol(server)?.caps(server).price_api)
}

/// What the training file looks like and how large it may be.
pub fn file_format(job: &Job, server: &Server) -> Result<(&'static str, Caps), Fault> {
    let protocol = protocol(server)?;
    Ok((protocol.format(&view(job, server.clone())?)?, protocol.caps(server)))
}

/// Everything that can be known before anything is sent, and the tokens of one pass over the file.
pub fn check(job: &Job, server: &Server, written: &Written) -> Result<Option<Counted>, Fault> {
    let protocol = protocol(server)?;
    let view = JobView { train: written.view, ..view(job, server.clone())? };
    protocol.validate(&view)?;
    let mut sample = vec![0; tokens::SAMPLE.min(usize::try_from(written.view.bytes).unwrap_or(tokens::SAMPLE))];
    let unreadable =
        |error: std::io::Error| Fault::Retry { after: None, message: format!("the training file: {error}") };
    written.file.read_exact_at(&mut sample, 0).map_err(unreadable)?;
    Ok(Some(tokens::count(&server.protocol, &job.base_model, &sample, written.view.bytes)))
}

fn view(job: &Job, server: Server) -> Result<JobView, Fault> {
    let method = Training::parse(&job.method).ok_or_else(|| {
        Refusal::of("method", format!("method \"{}\" is not known", job.method), "Methods: sft, dpo, contrastive.")
    })?;
    Ok(JobView {
        run_key: job.run_key.clone(),
        intent_at: job.intent_at,
        method,
        base_model: job.base_model.clone(),
        hyperparameters: job.hyperparameters.as_object().cloned().unwrap_or_default(),
        seed: Some((job.seed & 0x7fff_ffff) as u32),
        suffix: Some(suffix(&job.dataset_name)).filter(|s| !s.is_empty()),
        train: FileView { bytes: job.train_bytes.unwrap_or_default(), rows: job.train_rows.unwrap_or_default() },
        validation: None,
        server,
        remote: job.remote.clone().unwrap_or_default(),
        job_id: job.remote_job_id.clone(),
    })
}

fn suffix(name: &str) -> String {
    let safe = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    safe.take(SUFFIX).collect::<String>().trim_matches('-').to_owned()
}

impl Sending {
    pub fn new(job: &Job, provider: Provider, file: Option<Written>, policy: Policy) -> Result<Self, Fault> {
        let policy = policy.trusting(&provider.server);
        Ok(Self {
            phase: job.phase_now(),
            view: view(job, provider.server)?,
            duplicate: job.duplicates.first().cloned(),
            known_event: job.known_event.clone(),
            key: provider.key,
            file,
            policy,
        })
    }

    /// Asks and reads the answer.
    pub fn perform(mut self) -> Result<Outcome, Fault> {
        let protocol = protocol(&self.view.server)?;
        let key = provider_key::reveal(&self.key).map_err(|message| {
            Fault::Auth(Refusal { code: "key".into(), message, param: None, hint: provider_key::HINT.into() })
        })?;
        let send = |request: &Request| http::send(request, &key, self.file.as_ref().map(|f| &f.file), &self.policy);
        let view = &self.view;
        match self.phase {
            Phase::Prepare => Ok(Outcome::Uploaded(None)),
            Phase::Ask => match protocol.base_model(view) {
                Some(request) => Ok(Outcome::Asked(protocol.lifecycle(view, &send(&request)?)?)),
                None => Ok(Outcome::Asked(Default::default())),
            },
            Phase::Upload => match protocol.prepare(view)? {
                Step::Send(request) => Ok(Outcome::Uploaded(Some(protocol.prepared(view, &send(&request)?)?))),
                Step::Done => Ok(Outcome::Uploaded(None)),
            },
            Phase::Estimate => match protocol.estimate(view) {
                Some(request) => Ok(Outcome::Priced(Some(protocol.estimated(view, &send(&request)?)?))),
                None => Ok(Outcome::Priced(None)),
            },
            Phase::Create => Ok(Outcome::Created(protocol.created(view, &send(&protocol.create(view)?)?)?)),
            Phase::Find => find(protocol, view, send),
            Phase::Poll => Ok(Outcome::Polled(Box::new(protocol.polled(view, &send(&protocol.poll(view)?)?)?))),
            Phase::Events => match protocol.events(view, None) {
                Some(request) => {
                    let answer = send(&request)?;
                    Ok(Outcome::Events(protocol.read_events(view, self.known_event.as_deref(), &answer)?))
                }
                None => Ok(Outcome::Events(Default::default())),
            },
            Phase::Dedupe | Phase::Cancel => {
                let mut view = self.view.clone();
                if self.phase == Phase::Dedupe {
                    view.job_id = self.duplicate.take();
                }
                protocol.cancelled(&view, &send(&protocol.cancel(&view)?)?)?;
                Ok(Outcome::Cancelled)
            }
            Phase::Clean => match protocol.cleanup(view)? {
                Step::Send(request) => Ok(Outcome::Cleaned(Some(protocol.cleaned(view, &send(&request)?)?))),
                Step::Done => Ok(Outcome::Cleaned(None)),
            },
        }
    }
}

/// All jobs of this run, over all pages of the provider's list.
fn find(
    protocol: &dyn Protocol,
    view: &JobView,
    send: impl Fn(&Request) -> Result<Answer, Fault>,
) -> Result<Outcome, Fault> {
    let mut jobs = Vec::new();
    let mut page: Option<String> = None;
    for _ in 0..PAGES {
        let found = protocol.found(view, &send(&protocol.find(view, page.as_deref())?)?)?;
        jobs.extend(found.jobs);
        if found.next.is_none() || found.next == page {
            return Ok(Outcome::Found(jobs));
        }
        page = found.next;
    }
    if jobs.is_empty() {
        return Err(Fault::Retry {
            after: None,
            message: format!("the provider's list of jobs has more than {PAGES} pages"),
        });
    }
    Ok(Outcome::Found(jobs))
}

/// A question outside any job, for `check_provider`.
pub fn ask(request: &Request, key: &Secret, policy: &Policy) -> Result<Answer, Fault> {
    http::send(request, key, None, policy)
}
