//! Protocol `cohere`: datasets and finetuned models. The vendor retired the service on 2025-09-15: hosts that still
//! speak it, and the vendor's refusal, are served.

use std::time::Duration;

use serde_json::{json, Value};

use super::fault::{json, json_once, not_protocol, Fault, Refusal};
use super::knobs::{self, Kind, Knob};
use super::openai::{ended_before, SKEW};
use super::protocol::{
    After, Caps, Event, EventPage, Found, JobView, Poll, Protocol, RemoteError, RemoteJob, Server, Step, Training,
};
use super::read::{list, text, time};
use super::refusals;
use super::state::{self, Serving, State};
use super::wire::{encode, Answer, Auth, Body, FileSlice, Form, Request, Verb, Which};

pub struct Cohere;

const BETWEEN_CHECKS: Duration = Duration::from_secs(5);
const KNOBS: [Knob; 5] = [
    Knob::new("train_epochs", Kind::Int(1, 10)),
    Knob::new("learning_rate", Kind::Number(5e-5, 0.1)),
    Knob::new("train_batch_size", Kind::Int(2, 16)),
    Knob::new("early_stopping_threshold", Kind::Number(0.001, 0.1)),
    Knob::new("early_stopping_patience", Kind::Int(0, 10)),
];
const MODELS: &str = "/v1/finetuning/finetuned-models";

fn request(verb: Verb, job: &JobView, path: &str) -> Request {
    Request::new(verb, format!("{}{path}", job.server.base_url), Auth::Bearer)
}

fn our_name(job: &JobView) -> String {
    format!("pgft-{}", job.run_key)
}

fn job_path(job: &JobView, rest: &str) -> Result<String, Fault> {
    Ok(format!("{MODELS}/{}{rest}", encode(job.job_id.as_deref().ok_or(Fault::Gone)?)))
}

/// One dataset holds both files.
fn upload(job: &JobView) -> Request {
    let path = format!("/v1/datasets?name={}&type=reranker-finetune-input", encode(&job.filename(Which::Train)));
    let form = Form {
        fields: Vec::new(),
        part: "data",
        filename: job.filename(Which::Train),
        content_type: "application/jsonl",
        bom: false,
        file: FileSlice { which: Which::Train, offset: 0, len: job.train.bytes },
    };
    request(Verb::Post, job, &path).body(Body::Multipart(form))
}

impl Protocol for Cohere {
    fn caps(&self, _server: &Server) -> Caps {
        Caps {
            max_file: 10 << 30,
            min_rows: 256,
            max_rows: u64::MAX,
            methods: &[Training::Contrastive],
            metadata: false,
            client_job_id: false,
            cancel: true,
            events: true,
            checkpoints: false,
            price_api: false,
            max_validation_rows: 0,
            validation_share: 0.0,
        }
    }

    fn format(&self, _job: &JobView) -> Result<&'static str, Fault> {
        Ok("cohere_rerank")
    }

    fn validate(&self, job: &JobView) -> Result<(), Fault> {
        knobs::limits(job, &self.caps(&job.server))?;
        if job.validation.is_some() {
            let hint = "Leave the validation part out: the vendor splits one off itself.";
            return Err(Refusal::of("dataset", "this protocol takes one file", hint));
        }
        knobs::check(job, &KNOBS)
    }

    fn prepare(&self, job: &JobView) -> Result<Step, Fault> {
        Ok(match job.remembered("dataset") {
            _ if job.remote["ready"] == true => Step::Done,
            None => Step::Send(upload(job)),
            Some(id) => Step::Send(request(Verb::Get, job, &format!("/v1/datasets/{}", encode(id)))),
        })
    }

    fn prepared(&self, job: &JobView, answer: &Answer) -> Result<After, Fault> {
        let value = json(answer)?;
        if job.remembered("dataset").is_none() {
            let Some(id) = text(&value, "/id") else { return Err(not_protocol(answer)) };
            return Ok(After { remote: job.remember("dataset", id), wait: BETWEEN_CHECKS });
        }
        match text(&value, "/dataset/validation_status").as_deref() {
            Some("validated") => Ok(After::now(job.remember("ready", true))),
            Some(word @ ("failed" | "skipped")) => {
                let reason = text(&value, "/dataset/validation_error").unwrap_or_else(|| word.to_owned());
                let message = format!("the provider refuses {}: {reason}", job.filename(Which::Train));
                Err(Refusal::of("dataset", message, "Look at the rows: export_jsonl() writes the same file."))
            }
            Some(_) => Ok(After { remote: job.remote.clone(), wait: BETWEEN_CHECKS }),
            None => Err(not_protocol(answer)),
        }
    }

    fn create(&self, job: &JobView) -> Result<Request, Fault> {
        let mut settings = json!({
            "base_model": {"base_type": "BASE_TYPE_RERANK", "name": job.base_model},
            "dataset_id": job.remembered("dataset"),
        });
        if !job.hyperparameters.is_empty() {
            settings["hyperparameters"] = job.hyperparameters.clone().into();
        }
        Ok(request(Verb::Post, job, MODELS).json(json!({"name": our_name(job), "settings": settings})).once())
    }

    fn created(&self, _job: &JobView, answer: &Answer) -> Result<String, Fault> {
        let value = json_once(answer)?;
        let id = text(&value, "/finetuned_model/id");
        id.ok_or_else(|| Fault::Ambiguous { message: "the answer to create names no job".into() })
    }

    fn find(&self, job: &JobView, page: Option<&str>) -> Result<Request, Fault> {
        let token = page.map(|token| format!("&page_token={}", encode(token))).unwrap_or_default();
        Ok(request(Verb::Get, job, &format!("{MODELS}?page_size=50{token}")))
    }

    fn found(&self, job: &JobView, answer: &Answer) -> Result<Found, Fault> {
        let page = json(answer)?;
        let models = list(&page, "/finetuned_models");
        let dataset = job.remembered("dataset");
        let ours = |found: &&Value| {
            text(found, "/name") == Some(our_name(job))
                || (dataset.is_some() && text(found, "/settings/dataset_id").as_deref() == dataset)
        };
        let remote = |found: &Value| {
            Some(RemoteJob {
                id: text(found, "/id")?,
                created_at: time(found, "/created_at"),
                raw_status: text(found, "/status").unwrap_or_default(),
            })
        };
        let recent = |found: &Value| time(found, "/created_at").is_none_or(|at| at >= job.intent_at - SKEW);
        Ok(Found {
            jobs: models.iter().filter(ours).filter_map(remote).collect(),
            next: text(&page, "/next_page_token").filter(|_| models.last().is_some_and(recent)),
        })
    }

    fn poll(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(request(Verb::Get, job, &job_path(job, "")?))
    }

    fn polled(&self, _job: &JobView, answer: &Answer) -> Result<Poll, Fault> {
        let value = json(answer)?;
        let Some(raw_status) = text(&value, "/finetuned_model/status") else { return Err(not_protocol(answer)) };
        let state = state::map(state::COHERE, raw_status.trim_start_matches("STATUS_"));
        let error = (state == Some(State::Failed)).then(|| {
            let message = "the provider gives no reason; its events may".into();
            refusals::of_job(RemoteError { code: raw_status.clone(), message, ..RemoteError::default() })
        });
        let id = text(&value, "/finetuned_model/id");
        Ok(Poll {
            model: id.filter(|_| state == Some(State::Succeeded)).map(|id| format!("{id}-ft")),
            serving: if raw_status == "STATUS_READY" { Serving::Ready } else { Serving::None },
            state,
            raw_status,
            error,
            ..Poll::default()
        })
    }

    /// There is no cancel: deleting the model stops it.
    fn cancel(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(request(Verb::Delete, job, &job_path(job, "")?))
    }

    fn cancelled(&self, _job: &JobView, answer: &Answer) -> Result<(), Fault> {
        ended_before(json(answer))
    }

    fn cleanup(&self, job: &JobView) -> Result<Step, Fault> {
        let clean = job.remote.get("clean").cloned().unwrap_or_default();
        Ok(match list(&clean, "/ids").first().and_then(Value::as_str) {
            _ if clean["listed"] != true => Step::Send(request(Verb::Get, job, "/v1/datasets?limit=100")),
            Some(id) => Step::Send(request(Verb::Delete, job, &format!("/v1/datasets/{}", encode(id)))),
            None => Step::Done,
        })
    }

    fn cleaned(&self, job: &JobView, answer: &Answer) -> Result<After, Fault> {
        let clean = job.remote.get("clean").cloned().unwrap_or_default();
        let done = |ids: Vec<String>| Ok(After::now(job.remember("clean", json!({"listed": true, "ids": ids}))));
        if clean["listed"] == true {
            ended_before(json(answer))?;
            return done(list(&clean, "/ids").iter().skip(1).filter_map(|id| text(id, "")).collect());
        }
        let page = json(answer)?;
        let name = job.filename(Which::Train);
        let ours = |set: &&Value| text(set, "/name").as_ref() == Some(&name);
        let listed = list(&page, "/datasets").iter().filter(ours).filter_map(|set| text(set, "/id"));
        let mut ids: Vec<String> = listed.chain(job.remembered("dataset").map(str::to_owned)).collect();
        ids.sort();
        ids.dedup();
        done(ids)
    }

    fn events(&self, job: &JobView, page: Option<&str>) -> Option<Request> {
        let token = page.map(|token| format!("&page_token={}", encode(token))).unwrap_or_default();
        Some(request(Verb::Get, job, &job_path(job, &format!("/events?page_size=50{token}")).ok()?))
    }

    fn read_events(&self, _job: &JobView, known: Option<&str>, answer: &Answer) -> Result<EventPage, Fault> {
        let page = json(answer)?;
        let event = |value: &Value| {
            let status = text(value, "/status")?;
            let at = time(value, "/created_at");
            let id = format!("{status} {}", at.unwrap_or_default());
            let message = format!("status {status}");
            Some(Event { id, at, level: "info".into(), message, ..Event::default() })
        };
        let events: Vec<Event> = list(&page, "/events").iter().filter_map(event).collect();
        let met = events.iter().any(|event| Some(event.id.as_str()) == known);
        let next = text(&page, "/next_page_token").filter(|_| !met && !events.is_empty());
        Ok(EventPage { events, next })
    }

    fn models(&self, server: &Server) -> Result<Request, Fault> {
        Ok(Request::new(Verb::Get, format!("{}{MODELS}?page_size=50", server.base_url), Auth::Bearer))
    }

    fn read_models(&self, answer: &Answer) -> Result<Vec<String>, Fault> {
        Ok(list(&json(answer)?, "/finetuned_models").iter().filter_map(|model| text(model, "/id")).collect())
    }
}
