//! Protocol `together`: Together AI. Uploads are whole, lists have neither filter nor pages, prices come before the start.

use std::time::Duration;

use serde_json::{json, Value};

use super::fault::{json, json_once, not_protocol, Fault, Refusal};
use super::knobs::{self, Kind, Knob};
use super::openai::ended_before;
use super::protocol::{
    After, Caps, Checkpoint, Estimate, Event, EventPage, Found, JobView, Poll, Protocol, RemoteError, RemoteJob,
    Server, Step, Training, VALIDATION_SHARE,
};
use super::read::{count, list, number, text, time};
use super::refusals;
use super::state::{self, Serving, State};
use super::wire::{encode, Answer, Auth, Body, FileSlice, Form, Request, Verb, Which};

pub struct Together;

/// Above it the vendor wants its own storage protocol.
const LARGEST_WHOLE: u64 = 5 << 30;
const BETWEEN_CHECKS: Duration = Duration::from_secs(5);
/// Prices of finished jobs come in billionths of a dollar, estimates in dollars.
const NANO: f64 = 1e-9;

const KNOBS: [Knob; 12] = [
    Knob::new("n_epochs", Kind::Int(1, 20)),
    Knob::new("n_checkpoints", Kind::Int(1, 10)),
    Knob::new("n_evals", Kind::Int(0, 100)),
    Knob::new("batch_size", Kind::Int(1, 1024)),
    Knob::new("learning_rate", Kind::Number(1e-8, 1.0)),
    Knob::new("warmup_ratio", Kind::Number(0.0, 1.0)),
    Knob::new("max_grad_norm", Kind::Number(0.0, 100.0)),
    Knob::new("weight_decay", Kind::Number(0.0, 10.0)),
    Knob::new("dpo_beta", Kind::Number(0.0, 10.0)),
    Knob::new("lora_r", Kind::Int(1, 256)),
    Knob::new("lora_alpha", Kind::Int(1, 512)),
    Knob::new("training_type", Kind::Word(&["Lora", "Full"])),
];
/// Stand inside another field of the body.
const INSIDE: [&str; 4] = ["dpo_beta", "lora_r", "lora_alpha", "training_type"];

fn url(job: &JobView, path: &str) -> String {
    format!("{}{path}", job.server.base_url)
}

fn get(job: &JobView, path: &str) -> Request {
    Request::new(Verb::Get, url(job, path), Auth::Bearer)
}

fn job_path(job: &JobView, rest: &str) -> Result<String, Fault> {
    Ok(format!("/fine-tunes/{}{rest}", encode(job.job_id.as_deref().ok_or(Fault::Gone)?)))
}

fn name(which: Which) -> &'static str {
    if which == Which::Train {
        "train"
    } else {
        "validation"
    }
}

/// Files in their order, with id and whether they are ready.
fn files(job: &JobView) -> Vec<(Which, Option<String>, bool)> {
    let of = |which| {
        let memory = job.remote.get(name(which)).cloned().unwrap_or_default();
        (which, text(&memory, "/id"), memory["ready"] == true)
    };
    [Some(Which::Train), job.validation.map(|_| Which::Validation)].into_iter().flatten().map(of).collect()
}

fn unready(job: &JobView) -> Option<(Which, Option<String>)> {
    files(job).into_iter().find(|(_, _, ready)| !ready).map(|(which, id, _)| (which, id))
}

fn file_id(job: &JobView, which: Which) -> Option<String> {
    files(job).into_iter().find(|(file, ..)| *file == which).and_then(|(_, id, _)| id)
}

/// What price and start have in common.
fn body(job: &JobView) -> Value {
    let knob = |name: &str| job.hyperparameters.get(name).cloned();
    let method = match job.method {
        Training::Dpo => json!({"method": "dpo", "dpo_beta": knob("dpo_beta").unwrap_or(json!(0.1))}),
        _ => json!({"method": "sft", "train_on_inputs": "auto"}),
    };
    let kind = match knob("training_type") {
        Some(full) if full == "Full" => json!({"type": "Full"}),
        _ => {
            let rank = knob("lora_r").and_then(|r| r.as_u64()).unwrap_or(8);
            json!({"type": "Lora", "lora_r": rank, "lora_alpha": knob("lora_alpha").unwrap_or(json!(2 * rank))})
        }
    };
    let mut body = json!({
        "model": job.base_model,
        "training_file": file_id(job, Which::Train),
        "n_epochs": knob("n_epochs").unwrap_or(json!(1)),
        "training_method": method,
        "training_type": kind,
    });
    if let Some(id) = file_id(job, Which::Validation) {
        body["validation_file"] = id.into();
        body["n_evals"] = knob("n_evals").unwrap_or(json!(1));
    }
    body
}

/// The vendor's own suffix carries our key as well: a second mark to find a lost job by.
fn suffix(job: &JobView) -> String {
    let key = || job.run_key.chars().filter(char::is_ascii_alphanumeric).take(12).collect::<String>();
    let wished = knobs::suffix(job, 40 - 13).map(|suffix| format!("{suffix}-")).unwrap_or_default();
    format!("{wished}{}", key())
}

impl Protocol for Together {
    fn caps(&self, _server: &Server) -> Caps {
        Caps {
            max_file: LARGEST_WHOLE,
            min_rows: 1,
            max_rows: u64::MAX,
            methods: &[Training::Sft, Training::Dpo],
            metadata: false,
            client_job_id: false,
            cancel: true,
            events: true,
            checkpoints: true,
            price_api: true,
            max_validation_rows: u64::MAX,
            validation_share: VALIDATION_SHARE,
        }
    }

    fn format(&self, job: &JobView) -> Result<&'static str, Fault> {
        Ok(if job.method == Training::Dpo { "openai_dpo" } else { "openai_chat" })
    }

    fn validate(&self, job: &JobView) -> Result<(), Fault> {
        knobs::limits(job, &self.caps(&job.server))?;
        knobs::check(job, &KNOBS)
    }

    fn prepare(&self, job: &JobView) -> Result<Step, Fault> {
        Ok(match unready(job) {
            None => Step::Done,
            Some((_, Some(id))) => Step::Send(get(job, &format!("/files/{}", encode(&id)))),
            Some((which, None)) => {
                let purpose = if which == Which::Train { "fine-tune" } else { "eval" };
                let form = Form {
                    fields: vec![
                        ("purpose", purpose.into()),
                        ("file_name", job.filename(which)),
                        ("file_type", "jsonl".into()),
                    ],
                    part: "file",
                    filename: job.filename(which),
                    content_type: "application/jsonl",
                    bom: false,
                    file: FileSlice { which, offset: 0, len: job.file(which).bytes },
                };
                let request = Request::new(Verb::Post, url(job, "/files/upload"), Auth::Bearer);
                Step::Send(request.body(Body::Multipart(form)))
            }
        })
    }

    fn prepared(&self, job: &JobView, answer: &Answer) -> Result<After, Fault> {
        let value = json(answer)?;
        let Some((which, _)) = unready(job) else { return Ok(After::now(job.remote.clone())) };
        let Some(id) = text(&value, "/id") else { return Err(not_protocol(answer)) };
        if let Some(reason) = text(&value, "/validation_report/message").filter(|_| value["is_valid"] == false) {
            let message = format!("the provider refuses {}: {reason}", job.filename(which));
            return Err(Refusal::of("dataset", message, "Look at the rows: export_jsonl() writes the same file."));
        }
        let ready = value["Processed"] == true;
        let remote = job.remember(name(which), json!({"id": id, "ready": ready}));
        Ok(After { remote, wait: if ready { Duration::ZERO } else { BETWEEN_CHECKS } })
    }

    fn create(&self, job: &JobView) -> Result<Request, Fault> {
        let mut body = body(job);
        let flat = job.hyperparameters.iter().filter(|(name, _)| !INSIDE.contains(&name.as_str()));
        for (name, value) in flat {
            body[name.as_str()] = value.clone();
        }
        // Said to be optional, refused when missing.
        if body.get("batch_size").is_none() {
            body["batch_size"] = "max".into();
        }
        body["suffix"] = suffix(job).into();
        if let Some(seed) = job.seed {
            body["random_seed"] = seed.into();
        }
        Ok(Request::new(Verb::Post, url(job, "/fine-tunes"), Auth::Bearer).json(body).once())
    }

    fn created(&self, _job: &JobView, answer: &Answer) -> Result<String, Fault> {
        let value = json_once(answer)?;
        text(&value, "/id").ok_or_else(|| Fault::Ambiguous { message: "the answer to create names no job".into() })
    }

    fn find(&self, job: &JobView, _page: Option<&str>) -> Result<Request, Fault> {
        Ok(get(job, "/fine-tunes"))
    }

    fn found(&self, job: &JobView, answer: &Answer) -> Result<Found, Fault> {
        let page = json(answer)?;
        let file = file_id(job, Which::Train);
        let mark = suffix(job);
        let ours = |found: &&Value| {
            let by_file = file.is_some() && text(found, "/training_file") == file;
            let by_name = || text(found, "/model_output_name").is_some_and(|name| name.contains(&mark));
            by_file || by_name()
        };
        let remote = |found: &Value| {
            Some(RemoteJob {
                id: text(found, "/id")?,
                created_at: time(found, "/created_at"),
                raw_status: text(found, "/status").unwrap_or_default(),
            })
        };
        Ok(Found { jobs: list(&page, "/data").iter().filter(ours).filter_map(remote).collect(), next: None })
    }

    fn poll(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(get(job, &job_path(job, "")?))
    }

    fn polled(&self, _job: &JobView, answer: &Answer) -> Result<Poll, Fault> {
        let value = json(answer)?;
        let Some(raw_status) = text(&value, "/status") else { return Err(not_protocol(answer)) };
        let state = state::map(state::TOGETHER, &raw_status);
        let last_word = || list(&value, "/events").iter().rev().find_map(|event| text(event, "/message"));
        let error = (state == Some(State::Failed)).then(|| {
            refusals::of_job(RemoteError {
                code: raw_status.clone(),
                message: last_word().unwrap_or_else(|| "the provider gives no reason".into()),
                ..RemoteError::default()
            })
        });
        let ended = state.is_some_and(State::ended);
        let done = count(&value, "/steps_completed").zip(count(&value, "/total_steps").filter(|total| *total > 0));
        Ok(Poll {
            model: text(&value, "/model_output_name").filter(|_| state == Some(State::Succeeded)),
            serving: if state == Some(State::Succeeded) { Serving::NeedsDeploy } else { Serving::None },
            trained_tokens: count(&value, "/token_count").filter(|_| ended),
            billed_usd: number(&value, "/total_price").filter(|_| ended).map(|nano| nano * NANO),
            progress: done.map(|(done, total)| (done as f64 / total as f64).min(1.0)),
            step: done.map(|(done, _)| done),
            eta: count(&value, "/progress/seconds_remaining").map(|left| answer.at.saturating_add(left as i64)),
            state,
            raw_status,
            error,
            ..Poll::default()
        })
    }

    fn cancel(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(Request::new(Verb::Post, url(job, &job_path(job, "/cancel")?), Auth::Bearer))
    }

    fn cancelled(&self, _job: &JobView, answer: &Answer) -> Result<(), Fault> {
        ended_before(json(answer))
    }

    fn cleanup(&self, job: &JobView) -> Result<Step, Fault> {
        let clean = job.remote.get("clean").cloned().unwrap_or_default();
        Ok(match list(&clean, "/ids").first().and_then(Value::as_str) {
            _ if clean["listed"] != true => Step::Send(get(job, "/files")),
            Some(id) => {
                Step::Send(Request::new(Verb::Delete, url(job, &format!("/files/{}", encode(id))), Auth::Bearer))
            }
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
        let names = [job.filename(Which::Train), job.filename(Which::Validation)];
        let ours = |file: &&Value| names.iter().any(|name| text(file, "/filename").as_ref() == Some(name));
        let listed = list(&page, "/data").iter().filter(ours).filter_map(|file| text(file, "/id"));
        let mut ids: Vec<String> = listed.chain(files(job).into_iter().filter_map(|(_, id, _)| id)).collect();
        ids.sort();
        ids.dedup();
        done(ids)
    }

    fn events(&self, job: &JobView, _page: Option<&str>) -> Option<Request> {
        Some(get(job, &job_path(job, "/events").ok()?))
    }

    fn read_events(&self, _job: &JobView, _known: Option<&str>, answer: &Answer) -> Result<EventPage, Fault> {
        let page = json(answer)?;
        let event = |(number, value): (usize, &Value)| Event {
            // Events have a hash at best: their place in the whole list is as unique.
            id: text(value, "/hash").unwrap_or_else(|| format!("{number}")),
            at: time(value, "/created_at"),
            level: text(value, "/level").filter(|level| level != "null").unwrap_or_else(|| "info".into()),
            message: text(value, "/message").unwrap_or_default(),
            step: count(value, "/step"),
            ..Event::default()
        };
        Ok(EventPage { events: list(&page, "/data").iter().enumerate().map(event).rev().collect(), next: None })
    }

    fn checkpoints(&self, job: &JobView) -> Option<Request> {
        Some(get(job, &job_path(job, "/checkpoints").ok()?))
    }

    fn read_checkpoints(&self, _job: &JobView, answer: &Answer) -> Result<Vec<Checkpoint>, Fault> {
        let checkpoint = |value: &Value| {
            Some(Checkpoint { model: text(value, "/path")?, step: count(value, "/step"), metrics: Value::Null })
        };
        Ok(list(&json(answer)?, "/data").iter().filter_map(checkpoint).collect())
    }

    fn estimate(&self, job: &JobView) -> Option<Request> {
        Some(Request::new(Verb::Post, url(job, "/fine-tunes/estimate-price"), Auth::Bearer).json(body(job)))
    }

    fn estimated(&self, _job: &JobView, answer: &Answer) -> Result<Estimate, Fault> {
        let value = json(answer)?;
        let usd = number(&value, "/estimated_total_price");
        if usd.is_none() && value["estimation_available"] != false {
            return Err(not_protocol(answer));
        }
        Ok(Estimate {
            usd,
            tokens: count(&value, "/estimated_train_token_count"),
            blocked: value["allowed_to_proceed"] == false,
        })
    }

    fn models(&self, server: &Server) -> Result<Request, Fault> {
        Ok(Request::new(Verb::Get, format!("{}/models", server.base_url), Auth::Bearer))
    }

    fn read_models(&self, answer: &Answer) -> Result<Vec<String>, Fault> {
        // A bare list, unlike everything else here.
        match serde_json::from_slice::<Value>(&answer.body) {
            Ok(Value::Array(models)) if answer.ok() => Ok(models.iter().filter_map(|m| text(m, "/id")).collect()),
            _ => Ok(list(&json(answer)?, "/data").iter().filter_map(|m| text(m, "/id")).collect()),
        }
    }
}
