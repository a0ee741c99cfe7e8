//! Protocol `fireworks`: Fireworks AI. Datasets and jobs carry names that we choose, so creating one twice is impossible.

use std::time::Duration;

use serde_json::{json, Value};

use super::fault::{json, json_once, not_protocol, Fault, Refusal};
use super::knobs::{self, Kind, Knob};
use super::openai::ended_before;
use super::protocol::{
    After, Caps, Estimate, Found, JobView, Poll, Protocol, RemoteError, RemoteJob, Server, Step, Training,
    VALIDATION_SHARE,
};
use super::read::{count, list, number, text, time};
use super::refusals;
use super::state::{self, Serving, State};
use super::wire::{encode, Answer, Auth, Body, FileSlice, Form, Request, Verb, Which};

pub struct Fireworks;

/// Larger ones would have to go to the vendor's storage by a signed address.
const LARGEST_WHOLE: u64 = 150 << 20;
const BETWEEN_CHECKS: Duration = Duration::from_secs(5);

const KNOBS: [Knob; 9] = [
    Knob::new("epochs", Kind::Int(1, 100)),
    Knob::new("learningRate", Kind::Number(1e-8, 1.0)),
    Knob::new("learningRateWarmupSteps", Kind::Int(0, 1_000_000)),
    Knob::new("loraRank", Kind::Int(1, 256)),
    Knob::new("maxContextLength", Kind::Int(128, 1_048_576)),
    Knob::new("batchSize", Kind::Int(1, 10_000_000)),
    Knob::new("gradientAccumulationSteps", Kind::Int(1, 1024)),
    Knob::new("earlyStop", Kind::Flag),
    Knob::new("evalAutoCarveout", Kind::Flag),
];
/// A dpo job takes its training parameters in an object of their own, and these not at all.
const NOT_IN_DPO: [&str; 2] = ["earlyStop", "evalAutoCarveout"];

fn account(server: &Server) -> String {
    format!("/accounts/{}", encode(server.option("account").unwrap_or_default()))
}

fn url(job: &JobView, path: &str) -> String {
    format!("{}{}{path}", job.server.base_url, account(&job.server))
}

fn request(verb: Verb, job: &JobView, path: &str) -> Request {
    Request::new(verb, url(job, path), Auth::Bearer)
}

/// Names are a-z, 0-9 and hyphens, at most 63.
fn our_id(job: &JobView) -> String {
    let key = job.run_key.to_ascii_lowercase();
    let fits = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    format!("pgft-{}", key.chars().filter(fits).take(50).collect::<String>())
}

fn dataset_id(job: &JobView, which: Which) -> String {
    let end = if which == Which::Train { "t" } else { "v" };
    format!("{}-{end}", our_id(job))
}

fn resource(job: &JobView, id: &str) -> String {
    format!("{}/{id}", account(&job.server).trim_start_matches('/'))
}

fn collection(job: &JobView) -> (&'static str, &'static str) {
    match job.method {
        Training::Dpo => ("/dpoJobs", "dpoJobId"),
        _ => ("/supervisedFineTuningJobs", "supervisedFineTuningJobId"),
    }
}

fn job_path(job: &JobView) -> String {
    let id = job.job_id.clone().unwrap_or_else(|| our_id(job));
    // Also when the whole resource name was kept: the last segment is the id.
    format!("{}/{}", collection(job).0, encode(id.rsplit('/').next().unwrap_or_default()))
}

enum Stage {
    Create(Which),
    Upload(Which),
    Check(Which),
    Done,
}

fn stage(job: &JobView) -> Stage {
    for which in [Some(Which::Train), job.validation.map(|_| Which::Validation)].into_iter().flatten() {
        match job.remembered(name(which)) {
            None => return Stage::Create(which),
            Some("created") => return Stage::Upload(which),
            Some("uploaded") => return Stage::Check(which),
            Some(_) => {}
        }
    }
    Stage::Done
}

fn name(which: Which) -> &'static str {
    if which == Which::Train {
        "train"
    } else {
        "validation"
    }
}

/// A job, to be created or to be priced.
fn body(job: &JobView) -> Value {
    let model = match knobs::suffix(job, 15) {
        Some(suffix) => format!("{}-{}", suffix.to_ascii_lowercase().replace('_', "-"), our_id(job)),
        None => our_id(job),
    };
    let model: String = model.chars().take(63).collect();
    let mut training = job.hyperparameters.clone();
    training.insert("baseModel".into(), job.base_model.clone().into());
    training.insert("outputModel".into(), resource(job, &format!("models/{}", model.trim_end_matches('-'))).into());
    let dataset = |which| resource(job, &format!("datasets/{}", dataset_id(job, which)));
    let mut body = json!({"dataset": dataset(Which::Train), "displayName": our_id(job)});
    if job.method == Training::Dpo {
        body["trainingConfig"] = training.into();
        return body;
    }
    if job.validation.is_some() {
        training.insert("evaluationDataset".into(), dataset(Which::Validation).into());
    }
    for (name, value) in training {
        body[name] = value;
    }
    body
}

/// The vendor's own figure in dollars; other currencies are none.
fn dollars(value: &Value) -> Option<f64> {
    let units = number(value, "/estimatedCost/units");
    let nanos = number(value, "/estimatedCost/nanos");
    let known = text(value, "/estimatedCost/currencyCode").is_none_or(|currency| currency == "USD");
    let cost =
        (units.is_some() || nanos.is_some()).then(|| units.unwrap_or_default() + nanos.unwrap_or_default() * 1e-9);
    cost.filter(|cost| known && *cost >= 0.0)
}

impl Protocol for Fireworks {
    fn caps(&self, _server: &Server) -> Caps {
        Caps {
            max_file: LARGEST_WHOLE,
            min_rows: 3,
            max_rows: 3_000_000,
            methods: &[Training::Sft, Training::Dpo],
            metadata: false,
            client_job_id: true,
            cancel: true,
            events: false,
            checkpoints: false,
            // Of supervised jobs; what cannot be told is held against max_usd as unknown.
            price_api: true,
            max_validation_rows: 3_000_000,
            validation_share: VALIDATION_SHARE,
        }
    }

    fn format(&self, job: &JobView) -> Result<&'static str, Fault> {
        Ok(if job.method == Training::Dpo { "openai_dpo" } else { "openai_chat" })
    }

    /// A dpo job has no field for it.
    fn takes_validation(&self, job: &JobView) -> bool {
        job.method != Training::Dpo
    }

    fn validate(&self, job: &JobView) -> Result<(), Fault> {
        knobs::limits(job, &self.caps(&job.server))?;
        knobs::check(job, &KNOBS)?;
        match job.hyperparameters.keys().find(|name| job.method == Training::Dpo && NOT_IN_DPO.contains(&name.as_str()))
        {
            Some(name) => Err(Refusal::of(name, format!("method dpo takes no {name}"), "Leave it out.")),
            None => Ok(()),
        }
    }

    fn prepare(&self, job: &JobView) -> Result<Step, Fault> {
        Ok(Step::Send(match stage(job) {
            Stage::Create(which) => request(Verb::Post, job, "/datasets").json(json!({
                "datasetId": dataset_id(job, which),
                "dataset": {
                    "displayName": job.filename(which),
                    "format": "CHAT",
                    "exampleCount": job.file(which).rows.to_string(),
                    "userUploaded": {},
                },
            })),
            Stage::Upload(which) => {
                let form = Form {
                    fields: Vec::new(),
                    part: "file",
                    filename: job.filename(which),
                    content_type: "application/jsonl",
                    bom: false,
                    file: FileSlice { which, offset: 0, len: job.file(which).bytes },
                };
                let path = format!("/datasets/{}:upload", dataset_id(job, which));
                request(Verb::Post, job, &path).body(Body::Multipart(form))
            }
            Stage::Check(which) => request(Verb::Get, job, &format!("/datasets/{}", dataset_id(job, which))),
            Stage::Done => return Ok(Step::Done),
        }))
    }

    fn prepared(&self, job: &JobView, answer: &Answer) -> Result<After, Fault> {
        let stage = stage(job);
        let value = match (json(answer), &stage) {
            // Ours from a try whose answer was lost.
            (Err(Fault::Refused(_)), Stage::Create(_)) if answer.status == 409 => Value::Null,
            (Err(Fault::NotProtocol { .. }), Stage::Upload(_)) if answer.ok() => Value::Null,
            (result, _) => result?,
        };
        let to = |which, word: &str| job.remember(name(which), word);
        match stage {
            Stage::Create(which) => Ok(After::now(to(which, "created"))),
            Stage::Upload(which) => Ok(After::now(to(which, "uploaded"))),
            Stage::Check(which) => {
                let state = text(&value, "/state").unwrap_or_default();
                let code = text(&value, "/status/code").unwrap_or_default();
                if !matches!(code.as_str(), "" | "OK" | "CODE_UNSPECIFIED") {
                    let reason = text(&value, "/status/message").unwrap_or(code);
                    let message = format!("the provider refuses {}: {reason}", job.filename(which));
                    return Err(Refusal::of(
                        "dataset",
                        message,
                        "Look at the rows: export_jsonl() writes the same file.",
                    ));
                }
                match state.as_str() {
                    "READY" => Ok(After::now(to(which, "ready"))),
                    _ => Ok(After { remote: job.remote.clone(), wait: BETWEEN_CHECKS }),
                }
            }
            Stage::Done => Ok(After::now(job.remote.clone())),
        }
    }

    fn create(&self, job: &JobView) -> Result<Request, Fault> {
        let (path, parameter) = collection(job);
        Ok(request(Verb::Post, job, &format!("{path}?{parameter}={}", our_id(job))).json(body(job)).once())
    }

    fn created(&self, job: &JobView, answer: &Answer) -> Result<String, Fault> {
        match json_once(answer) {
            Err(Fault::Refused(refusal)) if answer.status == 409 => Err(Fault::Ambiguous { message: refusal.message }),
            Err(fault) => Err(fault),
            Ok(value) if text(&value, "/name").is_some_and(|name| name.ends_with(&our_id(job))) => Ok(our_id(job)),
            Ok(_) => Err(Fault::Ambiguous { message: "the answer to create names no job of ours".into() }),
        }
    }

    fn find(&self, job: &JobView, _page: Option<&str>) -> Result<Request, Fault> {
        let by_name = format!("{}/{}", collection(job).0, our_id(job));
        Ok(request(Verb::Get, job, &by_name))
    }

    fn found(&self, job: &JobView, answer: &Answer) -> Result<Found, Fault> {
        let value = match json(answer) {
            Err(Fault::Gone) => return Ok(Found::default()),
            other => other?,
        };
        if !text(&value, "/name").is_some_and(|name| name.ends_with(&our_id(job))) {
            return Err(not_protocol(answer));
        }
        let found = RemoteJob {
            id: our_id(job),
            created_at: time(&value, "/createTime"),
            raw_status: text(&value, "/state").unwrap_or_default(),
        };
        Ok(Found { jobs: vec![found], next: None })
    }

    fn poll(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(request(Verb::Get, job, &job_path(job)))
    }

    fn polled(&self, _job: &JobView, answer: &Answer) -> Result<Poll, Fault> {
        let value = json(answer)?;
        let Some(raw_status) = text(&value, "/state") else { return Err(not_protocol(answer)) };
        let state = state::map(state::FIREWORKS, raw_status.trim_start_matches("JOB_STATE_"));
        let good = state == Some(State::Succeeded);
        let error = (state == Some(State::Failed)).then(|| {
            refusals::of_job(RemoteError {
                code: text(&value, "/status/code").unwrap_or_default(),
                message: text(&value, "/status/message").unwrap_or_else(|| "the provider gives no reason".into()),
                ..RemoteError::default()
            })
        });
        let model = ["/outputModel", "/trainingConfig/outputModel"].iter().find_map(|place| text(&value, place));
        Ok(Poll {
            model: model.filter(|_| good),
            serving: if good { Serving::NeedsDeploy } else { Serving::None },
            trained_tokens: count(&value, "/jobProgress/inputTokens").filter(|_| good),
            // There is no other figure for what was billed.
            billed_usd: dollars(&value).filter(|_| good),
            progress: number(&value, "/jobProgress/percent").map(|percent| (percent / 100.0).clamp(0.0, 1.0)),
            state,
            raw_status,
            error,
            ..Poll::default()
        })
    }

    /// There is no :cancel for these jobs: deleting one stops it.
    fn cancel(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(request(Verb::Delete, job, &job_path(job)))
    }

    fn cancelled(&self, _job: &JobView, answer: &Answer) -> Result<(), Fault> {
        ended_before(json(answer))
    }

    fn cleanup(&self, job: &JobView) -> Result<Step, Fault> {
        let deleted = job.remote["clean"].as_u64().unwrap_or(0) as usize;
        let files = [Some(Which::Train), job.validation.map(|_| Which::Validation)];
        Ok(match files.into_iter().flatten().nth(deleted) {
            Some(which) => Step::Send(request(Verb::Delete, job, &format!("/datasets/{}", dataset_id(job, which)))),
            None => Step::Done,
        })
    }

    fn cleaned(&self, job: &JobView, answer: &Answer) -> Result<After, Fault> {
        ended_before(json(answer))?;
        Ok(After::now(job.remember("clean", job.remote["clean"].as_u64().unwrap_or(0) + 1)))
    }

    /// Only supervised jobs are priced beforehand.
    fn estimate(&self, job: &JobView) -> Option<Request> {
        let supervised = job.method != Training::Dpo;
        supervised.then(|| request(Verb::Post, job, "/supervisedFineTuningJobs:estimateCost").json(body(job)))
    }

    fn estimated(&self, _job: &JobView, answer: &Answer) -> Result<Estimate, Fault> {
        Ok(Estimate { usd: dollars(&json(answer)?), ..Estimate::default() })
    }

    fn models(&self, server: &Server) -> Result<Request, Fault> {
        let url = format!("{}{}/models?pageSize=50", server.base_url, account(server));
        Ok(Request::new(Verb::Get, url, Auth::Bearer))
    }

    fn read_models(&self, answer: &Answer) -> Result<Vec<String>, Fault> {
        Ok(list(&json(answer)?, "/models").iter().filter_map(|model| text(model, "/name")).collect())
    }
}
