//! Protocol `openai`: OpenAI and the hosts that speak its dialect (`dialect`). Files stand in `openai_files`.

use serde_json::{json, Map, Value};

use super::dialect::{self, Dialect, TRAINER, TRAINING_TYPE};
use super::fault::{json, json_once, Fault, Refusal};
use super::knobs;
use super::openai_files::{self as files, Sizes};
use super::protocol::{
    After, Caps, Checkpoint, Event, EventPage, Found, JobView, Lifecycle, Poll, Protocol, RemoteError, RemoteJob,
    Server, Step, Training,
};
use super::read::{count, day, list, number, text, time};
use super::refusals;
use super::state::{self, Serving, State};
use super::wire::{encode, Answer, Request, Verb, Which};

/// Lists are read back to so many seconds before the intent: clocks differ.
pub const SKEW: i64 = 600;

pub struct OpenAi {
    pub sizes: Sizes,
}

/// One part costs one repetition when the connection breaks; the provider takes 64 MB at most.
pub static OPENAI: OpenAi = OpenAi { sizes: Sizes { whole: 128 << 20, part: 64 << 20 } };

fn jobs_url(job: &JobView, rest: &str) -> String {
    format!("{}/fine_tuning/jobs{rest}", job.server.base_url)
}

fn job_url(job: &JobView, rest: &str) -> Result<String, Fault> {
    let id = job.job_id.as_deref().ok_or(Fault::Gone)?;
    Ok(jobs_url(job, &format!("/{}{rest}", encode(id))))
}

fn get(job: &JobView, url: String) -> Request {
    Request::new(Verb::Get, url, dialect::of(&job.server).auth.clone())
}

/// Hyperparameters that any host knows stand in the body, the trainer's own in the metadata.
fn body(job: &JobView, dialect: &Dialect) -> Value {
    let own = |name: &str| dialect.name == "trainer" && TRAINER.iter().any(|knob| knob.name == name);
    let beside = |name: &str| name == TRAINING_TYPE.name;
    let (kind, standard): (&str, Map<String, Value>) = (
        if job.method == Training::Dpo { "dpo" } else { "supervised" },
        job.hyperparameters
            .iter()
            .filter(|(n, _)| !own(n) && !beside(n))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect(),
    );
    let mut body = json!({
        "model": job.base_model,
        "training_file": files::id(job, Which::Train),
        "method": {"type": kind, kind: {"hyperparameters": standard}},
    });
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    set("validation_file", job.validation.and_then(|_| files::id(job, Which::Validation)).map(Value::from));
    set("seed", job.seed.map(Value::from));
    set("suffix", knobs::suffix(job, dialect.suffix).map(Value::from));
    set(TRAINING_TYPE.name, job.hyperparameters.get(TRAINING_TYPE.name).cloned());
    if dialect.metadata {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let own = job.hyperparameters.iter().filter(|(name, _)| own(name));
        let mut metadata: Map<String, Value> = own.map(|(n, v)| (format!("pgft_{n}"), text(v).into())).collect();
        metadata.insert("pgft_run".into(), job.run_key.clone().into());
        set("metadata", Some(metadata.into()));
    }
    body
}

impl Protocol for OpenAi {
    fn caps(&self, server: &Server) -> Caps {
        dialect::of(server).caps()
    }

    fn format(&self, job: &JobView) -> Result<&'static str, Fault> {
        Ok(match job.method {
            Training::Sft => "openai_chat",
            Training::Dpo => "openai_dpo",
            Training::Contrastive if job.hyperparameters.get("task").is_some_and(|task| task == "rerank") => {
                "cohere_rerank"
            }
            Training::Contrastive => "triplet",
        })
    }

    fn validate(&self, job: &JobView) -> Result<(), Fault> {
        let dialect = dialect::of(&job.server);
        knobs::limits(job, &dialect.caps())?;
        knobs::check(job, &dialect.knobs(job))
    }

    fn prepare(&self, job: &JobView) -> Result<Step, Fault> {
        Ok(files::prepare(job, dialect::of(&job.server), self.sizes))
    }

    fn prepared(&self, job: &JobView, answer: &Answer) -> Result<After, Fault> {
        files::prepared(job, dialect::of(&job.server), self.sizes, answer)
    }

    fn create(&self, job: &JobView) -> Result<Request, Fault> {
        let dialect = dialect::of(&job.server);
        if files::id(job, Which::Train).is_none() {
            return Err(Refusal::of(
                "training_file",
                "the training file is not at the provider",
                "SELECT retry_job(...);",
            ));
        }
        let request = Request::new(Verb::Post, jobs_url(job, ""), dialect.auth.clone()).json(body(job, dialect)).once();
        Ok(if dialect.idempotency { request.header("idempotency-key", job.run_key.clone()) } else { request })
    }

    fn created(&self, job: &JobView, answer: &Answer) -> Result<String, Fault> {
        let value = json_once(answer).map_err(|fault| match fault {
            // Only a closed door says this to a create of a key that could upload.
            Fault::Auth(refusal) if answer.status == 403 && dialect::of(&job.server).name == "openai" => {
                Fault::Refused(refusals::closed_openai(refusal))
            }
            other => other,
        })?;
        text(&value, "/id").ok_or_else(|| Fault::Ambiguous { message: "the answer to create names no job".into() })
    }

    fn find(&self, job: &JobView, page: Option<&str>) -> Result<Request, Fault> {
        let filter = match dialect::of(&job.server).metadata {
            true => format!("&metadata%5Bpgft_run%5D={}", encode(&job.run_key)),
            false => String::new(),
        };
        let after = page.map(|id| format!("&after={}", encode(id))).unwrap_or_default();
        Ok(get(job, jobs_url(job, &format!("?limit=100{filter}{after}"))))
    }

    fn found(&self, job: &JobView, answer: &Answer) -> Result<Found, Fault> {
        let page = json(answer)?;
        let jobs = list(&page, "/data");
        let file = files::id(job, Which::Train);
        // Hosts may ignore the filter: compared here in any case.
        let ours = |found: &&Value| {
            text(found, "/metadata/pgft_run").as_ref() == Some(&job.run_key)
                || (file.is_some() && text(found, "/training_file") == file)
        };
        let remote = |found: &Value| {
            Some(RemoteJob {
                id: text(found, "/id")?,
                created_at: time(found, "/created_at"),
                raw_status: text(found, "/status").unwrap_or_default(),
            })
        };
        let last = jobs.last().filter(|_| page["has_more"] == true);
        let older = |last: &&Value| time(last, "/created_at").is_none_or(|at| at >= job.intent_at - SKEW);
        Ok(Found {
            jobs: jobs.iter().filter(ours).filter_map(remote).collect(),
            next: last.filter(older).and_then(|last| text(last, "/id")),
        })
    }

    fn poll(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(get(job, job_url(job, "")?))
    }

    fn polled(&self, job: &JobView, answer: &Answer) -> Result<Poll, Fault> {
        let value = json(answer)?;
        let Some(raw_status) = text(&value, "/status") else {
            return Err(Fault::NotProtocol { status: answer.status, start: "no status in the answer".into() });
        };
        let state = state::map(state::OPENAI, &raw_status);
        let error = text(&value, "/error/message").map(|message| {
            refusals::of_job(RemoteError {
                code: text(&value, "/error/code").unwrap_or_default(),
                message,
                param: text(&value, "/error/param"),
                hint: String::new(),
            })
        });
        Ok(Poll {
            model: text(&value, "/fine_tuned_model"),
            serving: if state == Some(State::Succeeded) { dialect::of(&job.server).serving } else { Serving::None },
            trained_tokens: count(&value, "/trained_tokens"),
            eta: time(&value, "/estimated_finish"),
            state,
            raw_status,
            error,
            ..Poll::default()
        })
    }

    fn cancel(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(Request::new(Verb::Post, job_url(job, "/cancel")?, dialect::of(&job.server).auth.clone()))
    }

    fn cancelled(&self, _job: &JobView, answer: &Answer) -> Result<(), Fault> {
        ended_before(json(answer))
    }

    fn cleanup(&self, job: &JobView) -> Result<Step, Fault> {
        Ok(files::cleanup(job, dialect::of(&job.server)))
    }

    fn cleaned(&self, job: &JobView, answer: &Answer) -> Result<After, Fault> {
        files::cleaned(job, answer)
    }

    fn events(&self, job: &JobView, page: Option<&str>) -> Option<Request> {
        let after = page.map(|id| format!("&after={}", encode(id))).unwrap_or_default();
        Some(get(job, job_url(job, &format!("/events?limit=100{after}")).ok()?))
    }

    fn read_events(&self, _job: &JobView, known: Option<&str>, answer: &Answer) -> Result<EventPage, Fault> {
        let page = json(answer)?;
        let events: Vec<Event> = list(&page, "/data").iter().filter_map(event).collect();
        let met = events.iter().any(|event| Some(event.id.as_str()) == known);
        let next = events.last().filter(|_| page["has_more"] == true && !met).map(|event| event.id.clone());
        Ok(EventPage { events, next })
    }

    fn checkpoints(&self, job: &JobView) -> Option<Request> {
        if !dialect::of(&job.server).checkpoints {
            return None;
        }
        Some(get(job, job_url(job, "/checkpoints?limit=100").ok()?))
    }

    fn read_checkpoints(&self, _job: &JobView, answer: &Answer) -> Result<Vec<Checkpoint>, Fault> {
        let checkpoint = |value: &Value| {
            Some(Checkpoint {
                model: text(value, "/fine_tuned_model_checkpoint")?,
                step: count(value, "/step_number"),
                metrics: value.get("metrics").cloned().unwrap_or_default(),
            })
        };
        Ok(list(&json(answer)?, "/data").iter().filter_map(checkpoint).collect())
    }

    fn base_model(&self, job: &JobView) -> Option<Request> {
        Some(get(job, format!("{}/models/{}", job.server.base_url, encode(&job.base_model))))
    }

    fn lifecycle(&self, _job: &JobView, answer: &Answer) -> Result<Lifecycle, Fault> {
        Ok(Lifecycle { shutdown: day(&json(answer)?, "/shutdown_date"), legacy: false })
    }

    fn models(&self, server: &Server) -> Result<Request, Fault> {
        Ok(Request::new(Verb::Get, format!("{}/models", server.base_url), dialect::of(server).auth.clone()))
    }

    fn read_models(&self, answer: &Answer) -> Result<Vec<String>, Fault> {
        let value = json(answer)?;
        if !value["data"].is_array() {
            return Err(super::fault::not_protocol(answer));
        }
        Ok(list(&value, "/data").iter().filter_map(|model| text(model, "/id")).collect())
    }
}

fn event(value: &Value) -> Option<Event> {
    let level = text(value, "/level").unwrap_or_default();
    Some(Event {
        id: text(value, "/id")?,
        at: time(value, "/created_at"),
        level: if level == "warn" { "warning".into() } else { level },
        message: text(value, "/message").unwrap_or_default(),
        step: count(value, "/data/step"),
        loss: number(value, "/data/train_loss"),
        data: value.get("data").filter(|data| data.is_object()).cloned(),
    })
}

/// Cancelling what has ended is a no-op: 400, 404 and 409 leave it to the next poll.
pub fn ended_before(answer: Result<Value, Fault>) -> Result<(), Fault> {
    match answer {
        Ok(_) | Err(Fault::Gone | Fault::Refused(_)) => Ok(()),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
