//! The part of OpenAI's protocol that a job cannot do without: one file, one job.

use super::fault::*;
use super::protocol::*;
use super::state::{self, Serving};
use super::wire::*;
use serde_json::{json, Value};
pub struct OpenAi;
fn url(j: &JobView, p: &str) -> String {
    format!("{}{p}", j.server.base_url)
}
fn text(v: &Value, n: &str) -> Option<String> {
    v.get(n)?.as_str().map(str::to_owned)
}
impl Protocol for OpenAi {
    fn caps(&self, _: &Server) -> Caps {
        Caps {
            max_file: 512 << 20,
            min_rows: 1,
            max_rows: 1 << 40,
            methods: &[Training::Sft, Training::Dpo, Training::Contrastive],
            metadata: true,
            client_job_id: false,
            cancel: true,
            events: true,
            checkpoints: false,
            price_api: false,
        }
    }
    fn format(&self, job: &JobView) -> Result<&'static str, Fault> {
        Ok(match job.method {
            Training::Sft => "openai_chat",
            Training::Dpo => "openai_dpo",
            Training::Contrastive => "triplet",
        })
    }
    fn validate(&self, _: &JobView) -> Result<(), Fault> {
        Ok(())
    }
    fn prepare(&self, job: &JobView) -> Result<Step, Fault> {
        if job.remembered("file").is_some() {
            return Ok(Step::Done);
        }
        Ok(Step::Send(Request::new(Verb::Post, url(job, "/files"), Auth::Bearer).body(Body::Multipart(Form {
            fields: vec![("purpose", "fine-tune".into())],
            part: "file",
            filename: job.filename(Which::Train),
            content_type: "application/jsonl",
            bom: false,
            file: FileSlice { which: Which::Train, offset: 0, len: job.train.bytes },
        }))))
    }
    fn prepared(&self, job: &JobView, a: &Answer) -> Result<After, Fault> {
        let v = json(a)?;
        Ok(After::now(job.remember("file", text(&v, "id").unwrap_or_default())))
    }
    fn create(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(Request::new(Verb::Post, url(job, "/fine_tuning/jobs"), Auth::Bearer).json(json!({"model": job.base_model, "training_file": job.remembered("file"), "metadata": {"pgft_run": job.run_key}})).once())
    }
    fn created(&self, _: &JobView, a: &Answer) -> Result<String, Fault> {
        let v = json_once(a)?;
        text(&v, "id").ok_or(Fault::Ambiguous { message: "no id".into() })
    }
    fn find(&self, job: &JobView, page: Option<&str>) -> Result<Request, Fault> {
        let after = page.map(|p| format!("&after={p}")).unwrap_or_default();
        Ok(Request::new(Verb::Get, url(job, &format!("/fine_tuning/jobs?limit=100{after}")), Auth::Bearer))
    }
    fn found(&self, job: &JobView, a: &Answer) -> Result<Found, Fault> {
        let v = json(a)?;
        let data = v["data"].as_array().cloned().unwrap_or_default();
        let jobs = data
            .iter()
            .filter(|j| j["metadata"]["pgft_run"] == job.run_key.as_str())
            .map(|j| RemoteJob {
                id: text(j, "id").unwrap_or_default(),
                created_at: j["created_at"].as_i64(),
                raw_status: text(j, "status").unwrap_or_default(),
            })
            .collect();
        let next = v["has_more"].as_bool().unwrap_or(false).then(|| data.last().and_then(|j| text(j, "id"))).flatten();
        Ok(Found { jobs, next })
    }
    fn poll(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(Request::new(
            Verb::Get,
            url(job, &format!("/fine_tuning/jobs/{}", encode(job.job_id.as_deref().unwrap_or_default()))),
            Auth::Bearer,
        ))
    }
    fn polled(&self, _: &JobView, a: &Answer) -> Result<Poll, Fault> {
        let v = json(a)?;
        let raw = text(&v, "status").unwrap_or_default();
        let error = v.get("error").filter(|e| e.is_object()).map(|e| RemoteError {
            code: text(e, "code").unwrap_or_default(),
            message: text(e, "message").unwrap_or_default(),
            param: None,
            hint: String::new(),
        });
        Ok(Poll {
            state: state::map(state::OPENAI, &raw),
            raw_status: raw,
            model: text(&v, "fine_tuned_model"),
            serving: Serving::Ready,
            trained_tokens: v["trained_tokens"].as_u64(),
            error,
            ..Poll::default()
        })
    }
    fn cancel(&self, job: &JobView) -> Result<Request, Fault> {
        Ok(Request::new(
            Verb::Post,
            url(job, &format!("/fine_tuning/jobs/{}/cancel", encode(job.job_id.as_deref().unwrap_or_default()))),
            Auth::Bearer,
        ))
    }
    fn cancelled(&self, _: &JobView, a: &Answer) -> Result<(), Fault> {
        json(a).map(|_| ())
    }
    fn cleanup(&self, job: &JobView) -> Result<Step, Fault> {
        let Some(strays) = job.remote.get("strays").and_then(Value::as_array) else {
            let list = url(job, "/files?purpose=fine-tune");
            return Ok(Step::Send(Request::new(Verb::Get, list, Auth::Bearer)));
        };
        Ok(match strays.first().and_then(Value::as_str) {
            Some(id) => {
                Step::Send(Request::new(Verb::Delete, url(job, &format!("/files/{}", encode(id))), Auth::Bearer))
            }
            None => Step::Done,
        })
    }
    fn cleaned(&self, job: &JobView, a: &Answer) -> Result<After, Fault> {
        if let Some(strays) = job.remote.get("strays").and_then(Value::as_array) {
            return match json(a) {
                Ok(_) | Err(Fault::Gone) => Ok(After::now(job.remember("strays", strays[1..].to_vec()))),
                Err(fault) => Err(fault),
            };
        }
        let listed = json(a)?;
        let ours = job.filename(Which::Train);
        let files = listed["data"].as_array().cloned().unwrap_or_default();
        let strays: Vec<Value> =
            files.iter().filter(|f| f["filename"] == ours.as_str()).map(|f| f["id"].clone()).collect();
        Ok(After::now(job.remember("strays", strays)))
    }
    fn models(&self, s: &Server) -> Result<Request, Fault> {
        Ok(Request::new(Verb::Get, format!("{}/models", s.base_url), Auth::Bearer))
    }
    fn read_models(&self, a: &Answer) -> Result<Vec<String>, Fault> {
        let v = json(a)?;
        Ok(v["data"].as_array().ok_or_else(|| not_protocol(a))?.iter().filter_map(|m| text(m, "id")).collect())
    }
}
