//! Protocol `bedrock`: Amazon's native one. Files go to the customer's own S3 bucket (`bedrock_files`), jobs are named by us.

use serde_json::{json, Map, Value};

use super::bedrock_files as files;
use super::fault::{json, json_once, not_protocol, Fault};
use super::knobs::{self, Kind, Knob};
use super::openai::ended_before;
use super::protocol::{
    After, Caps, Found, JobView, Lifecycle, Poll, Protocol, RemoteError, RemoteJob, Server, Step, Training,
};
use super::read::{day, list, number, text, time};
use super::refusals;
use super::state::{self, Serving, State};
use super::wire::{encode, Answer, Auth, Request, Verb, Which};

pub struct Bedrock {
    /// From which size a file goes in parts of that size.
    pub part: u64,
}

pub static BEDROCK: Bedrock = Bedrock { part: 64 << 20 };

/// Which of them a model takes differs by family: the vendor says so. All travel as text.
const KNOBS: [Knob; 7] = [
    Knob::new("epochCount", Kind::Int(1, 10)),
    Knob::new("batchSize", Kind::Int(1, 256)),
    Knob::new("learningRate", Kind::Number(1e-7, 0.1)),
    Knob::new("learningRateMultiplier", Kind::Number(0.1, 2.0)),
    Knob::new("learningRateWarmupSteps", Kind::Int(0, 250)),
    Knob::new("earlyStoppingThreshold", Kind::Number(0.0, 0.1)),
    Knob::new("earlyStoppingPatience", Kind::Int(1, 10)),
];

/// Name, token and model name at once: the same create twice gives the same job.
pub fn our_name(job: &JobView) -> String {
    format!("pgft-{}", job.run_key)
}

fn control(verb: Verb, server: &Server, path: &str) -> Request {
    let region = server.option("region").unwrap_or_default().to_owned();
    Request::new(verb, format!("{}{path}", server.base_url), Auth::SigV4 { service: "bedrock", region })
}

fn job_path(job: &JobView, rest: &str) -> String {
    let name = job.job_id.clone().unwrap_or_else(|| our_name(job));
    format!("/model-customization-jobs/{}{rest}", encode(&name))
}

fn state_of(value: &Value, raw_status: &str) -> Option<State> {
    let sub = |name: &str| text(value, &format!("/statusDetails/{name}/status"));
    let training = sub("trainingDetails");
    let open = |name: &str| sub(name).is_some_and(|word| word != "Completed");
    match raw_status {
        "InProgress" if open("validationDetails") || open("dataProcessingDetails") => Some(State::Validating),
        "InProgress" if training.as_deref() == Some("NotStarted") => Some(State::Queued),
        _ => state::map(state::BEDROCK, raw_status),
    }
}

impl Protocol for Bedrock {
    fn caps(&self, _server: &Server) -> Caps {
        Caps {
            max_file: 10 << 30,
            min_rows: 32,
            max_rows: 10_000,
            methods: &[Training::Sft],
            metadata: false,
            client_job_id: true,
            cancel: true,
            events: false,
            checkpoints: false,
            price_api: false,
            max_validation_rows: 1_000,
            // Which models take one differs: asked for, not assumed.
            validation_share: 0.0,
        }
    }

    fn format(&self, _job: &JobView) -> Result<&'static str, Fault> {
        Ok("bedrock_converse")
    }

    fn validate(&self, job: &JobView) -> Result<(), Fault> {
        knobs::limits(job, &self.caps(&job.server))?;
        knobs::check(job, &KNOBS)
    }

    fn prepare(&self, job: &JobView) -> Result<Step, Fault> {
        Ok(files::prepare(job, self.part))
    }

    fn prepared(&self, job: &JobView, answer: &Answer) -> Result<After, Fault> {
        files::prepared(job, self.part, answer)
    }

    fn create(&self, job: &JobView) -> Result<Request, Fault> {
        let words = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let knobs: Map<String, Value> =
            job.hyperparameters.iter().map(|(name, value)| (name.clone(), words(value).into())).collect();
        let model = match knobs::suffix(job, 20) {
            Some(suffix) => format!("{}-{}", suffix.replace('_', "-"), job.run_key),
            None => our_name(job),
        };
        let mut body = json!({
            "jobName": our_name(job),
            "customModelName": model,
            "roleArn": job.server.option("role_arn"),
            "baseModelIdentifier": job.base_model,
            "customizationType": "FINE_TUNING",
            "clientRequestToken": job.run_key,
            "trainingDataConfig": {"s3Uri": files::uri(job, &job.filename(Which::Train))},
            "outputDataConfig": {"s3Uri": files::uri(job, &format!("pgft-{}-out/", job.run_key))},
            "hyperParameters": knobs,
        });
        if job.validation.is_some() {
            let uri = files::uri(job, &job.filename(Which::Validation));
            body["validationDataConfig"] = json!({"validators": [{"s3Uri": uri}]});
        }
        Ok(control(Verb::Post, &job.server, "/model-customization-jobs").json(body).once())
    }

    fn created(&self, job: &JobView, answer: &Answer) -> Result<String, Fault> {
        match json_once(answer) {
            // The name is taken: by ourselves, when an answer was lost.
            Err(Fault::Refused(refusal))
                if ["ConflictException", "ResourceInUseException"].contains(&refusal.code.as_str()) =>
            {
                Err(Fault::Ambiguous { message: refusal.message })
            }
            Err(fault) => Err(fault),
            Ok(value) if text(&value, "/jobArn").is_some() => Ok(our_name(job)),
            Ok(_) => Err(Fault::Ambiguous { message: "the answer to create names no job".into() }),
        }
    }

    fn find(&self, job: &JobView, _page: Option<&str>) -> Result<Request, Fault> {
        let by_name = JobView { job_id: None, ..job.clone() };
        Ok(control(Verb::Get, &job.server, &job_path(&by_name, "")))
    }

    fn found(&self, job: &JobView, answer: &Answer) -> Result<Found, Fault> {
        let value = match json(answer) {
            Err(Fault::Gone) => return Ok(Found::default()),
            Err(Fault::Refused(refusal)) if refusal.code == "ResourceNotFoundException" => return Ok(Found::default()),
            other => other?,
        };
        if text(&value, "/jobName") != Some(our_name(job)) {
            return Err(not_protocol(answer));
        }
        let found = RemoteJob {
            id: our_name(job),
            created_at: time(&value, "/creationTime"),
            raw_status: text(&value, "/status").unwrap_or_default(),
        };
        Ok(Found { jobs: vec![found], next: None })
    }

    fn poll(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(control(Verb::Get, &job.server, &job_path(job, "")))
    }

    fn polled(&self, _job: &JobView, answer: &Answer) -> Result<Poll, Fault> {
        let value = json(answer)?;
        let Some(raw_status) = text(&value, "/status") else { return Err(not_protocol(answer)) };
        let state = state_of(&value, &raw_status);
        // failureMessage may stand there from the start: read at the end only.
        let error = (state == Some(State::Failed)).then(|| {
            refusals::of_job(RemoteError {
                code: raw_status.clone(),
                message: text(&value, "/failureMessage").unwrap_or_else(|| "the provider gives no reason".into()),
                ..RemoteError::default()
            })
        });
        let good = state == Some(State::Succeeded);
        Ok(Poll {
            model: text(&value, "/outputModelArn").filter(|_| good),
            serving: if good { Serving::NeedsDeploy } else { Serving::None },
            loss: number(&value, "/trainingMetrics/trainingLoss"),
            state,
            raw_status,
            error,
            ..Poll::default()
        })
    }

    fn cancel(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(control(Verb::Post, &job.server, &job_path(job, "/stop")))
    }

    fn cancelled(&self, _job: &JobView, answer: &Answer) -> Result<(), Fault> {
        if answer.ok() {
            return Ok(());
        }
        ended_before(json(answer))
    }

    fn cleanup(&self, job: &JobView) -> Result<Step, Fault> {
        Ok(files::cleanup(job))
    }

    fn cleaned(&self, job: &JobView, answer: &Answer) -> Result<After, Fault> {
        files::cleaned(job, answer)
    }

    fn base_model(&self, job: &JobView) -> Option<Request> {
        let path = format!("/foundation-models/{}", encode(&job.base_model));
        Some(control(Verb::Get, &job.server, &path))
    }

    fn lifecycle(&self, _job: &JobView, answer: &Answer) -> Result<Lifecycle, Fault> {
        let value = json(answer)?;
        Ok(Lifecycle {
            shutdown: day(&value, "/modelDetails/modelLifecycle/endOfLifeTime"),
            legacy: text(&value, "/modelDetails/modelLifecycle/status").as_deref() == Some("LEGACY"),
        })
    }

    fn models(&self, server: &Server) -> Result<Request, Fault> {
        Ok(control(Verb::Get, server, "/foundation-models?byCustomizationType=FINE_TUNING"))
    }

    fn read_models(&self, answer: &Answer) -> Result<Vec<String>, Fault> {
        Ok(list(&json(answer)?, "/modelSummaries").iter().filter_map(|model| text(model, "/modelId")).collect())
    }
}
