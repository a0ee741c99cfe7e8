//! One request of a job and the reading of its answer, as the protocol says: on a helper thread, without Postgres.

use std::os::unix::fs::FileExt;

use super::http::{self, Policy};
use super::provider_key;
use super::training_file::{Files, Plan};
use crate::pg::foreign::{Key, Provider};
use crate::providers::fault::{Fault, Refusal};
use crate::providers::lifecycle::{Job, Outcome, Phase};
use crate::providers::protocol::{FileView, JobView, Protocol, Server, Step, Training};
use crate::providers::secret::Secret;
use crate::providers::tokens::{self, Counted};
use crate::providers::wire::{Answer, Request};

/// Pages of the provider's list that are searched for a lost job.
const PAGES: usize = 50;
/// Letters of the dataset's name in the model's.
const SUFFIX: usize = 18;

pub struct Sending {
    phase: Phase,
    /// The job has ended here.
    ended: bool,
    view: JobView,
    duplicate: Option<String>,
    known_event: Option<String>,
    key: Key,
    files: Option<Files>,
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

/// What the job's files look like and how large they may be. Written again, they are what they were.
pub fn plan(job: &Job, server: &Server) -> Result<Plan, Fault> {
    let protocol = protocol(server)?;
    let (view, caps) = (view(job, server.clone())?, protocol.caps(server));
    let takes = protocol.takes_validation(&view);
    if !takes && job.validation_share.is_some_and(|share| share > 0.0) {
        let message = "this provider takes no validation file for such a job";
        return Err(Refusal::of("validation", message, "Leave it out, or give validation => 0."));
    }
    let share = job.validation_share.unwrap_or(caps.validation_share);
    let wanted = takes && share > 0.0 && (job.phase == Phase::Prepare || job.validation().is_some());
    Ok(Plan { dataset: job.dataset.clone(), format: protocol.format(&view)?, caps, held_back: wanted.then_some(share) })
}

/// Everything that can be known before anything is sent, and the tokens of one pass over the file.
pub fn check(job: &Job, server: &Server, files: &Files) -> Result<Option<Counted>, Fault> {
    let protocol = protocol(server)?;
    let written = &files.train;
    let validation = files.validation.as_ref().map(|written| written.view);
    let view = JobView { train: written.view, validation, ..view(job, server.clone())? };
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
        validation: job.validation(),
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
    pub fn new(job: &Job, provider: Provider, files: Option<Files>, policy: Policy) -> Result<Self, Fault> {
        let policy = policy.trusting(&provider.server);
        Ok(Self {
            phase: job.phase_now(),
            ended: job.state().ended(),
            view: view(job, provider.server)?,
            duplicate: job.duplicates.first().cloned(),
            known_event: job.known_event.clone(),
            key: provider.key,
            files,
            policy,
        })
    }

    /// Asks and reads the answer.
    pub fn perform(mut self) -> Result<Outcome, Fault> {
        let protocol = protocol(&self.view.server)?;
        let key = provider_key::reveal(&self.key).map_err(|message| {
            Fault::Auth(Refusal { code: "key".into(), message, param: None, hint: provider_key::HINT.into() })
        })?;
        let send = |request: &Request| http::send(request, &key, self.files.as_ref(), &self.policy);
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
            Phase::Events => {
                let page = match protocol.events(view, None) {
                    Some(request) => protocol.read_events(view, self.known_event.as_deref(), &send(&request)?)?,
                    None => Default::default(),
                };
                // They come with the end; a host without them has no other meaning for the question.
                let checkpoints = match protocol.checkpoints(view).filter(|_| self.ended) {
                    Some(request) => send(&request).and_then(|answer| protocol.read_checkpoints(view, &answer)),
                    None => Ok(Vec::new()),
                };
                Ok(Outcome::Events(page, checkpoints.unwrap_or_default()))
            }
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
