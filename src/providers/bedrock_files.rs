//! Files of protocol `bedrock`: objects in the customer's S3 bucket, whole or in parts.

use serde_json::{json, Value};

use super::fault::{not_protocol, refused, Fault};
use super::protocol::{After, JobView, Step};
use super::read::{list, text};
use super::wire::{encode, Answer, Auth, Body, FileSlice, Request, Verb, Which};

enum Stage {
    Whole(Which),
    Open(Which),
    Part(Which, usize, FileSlice),
    Complete(Which),
    Done,
}

fn folder(job: &JobView) -> &str {
    job.server.option("s3_uri").unwrap_or_default().trim_end_matches('/')
}

pub fn uri(job: &JobView, file: &str) -> String {
    format!("{}/{file}", folder(job))
}

/// Path style: it takes buckets with dots and hosts that only speak the protocol.
fn object(verb: Verb, job: &JobView, which: Which, query: &str) -> Request {
    let region = job.server.option("region").unwrap_or_default().to_owned();
    let host = job.server.option("s3_url").map(str::to_owned);
    let host = host.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let path = uri(job, &job.filename(which));
    let path: Vec<String> = path.trim_start_matches("s3://").split('/').map(encode).collect();
    let url = format!("{}/{}{query}", host.trim_end_matches('/'), path.join("/"));
    Request::new(verb, url, Auth::SigV4 { service: "s3", region })
}

fn name(which: Which) -> &'static str {
    if which == Which::Train {
        "train"
    } else {
        "validation"
    }
}

fn memory(job: &JobView, which: Which) -> Value {
    job.remote.get(name(which)).filter(|value| value.is_object()).cloned().unwrap_or_else(|| json!({}))
}

fn files(job: &JobView) -> Vec<Which> {
    [Some(Which::Train), job.validation.map(|_| Which::Validation)].into_iter().flatten().collect()
}

fn stage(job: &JobView, part: u64) -> Stage {
    for which in files(job) {
        let memory = memory(job, which);
        let bytes = job.file(which).bytes;
        if memory["ready"] == true {
            continue;
        }
        if bytes <= part {
            return Stage::Whole(which);
        }
        if memory.get("upload").is_none() {
            return Stage::Open(which);
        }
        let done = list(&memory, "/parts").len();
        let offset = done as u64 * part;
        if offset >= bytes {
            return Stage::Complete(which);
        }
        return Stage::Part(which, done + 1, FileSlice { which, offset, len: part.min(bytes - offset) });
    }
    Stage::Done
}

fn upload_id(job: &JobView, which: Which) -> String {
    encode(&text(&memory(job, which), "/upload").unwrap_or_default())
}

pub fn prepare(job: &JobView, part: u64) -> Step {
    Step::Send(match stage(job, part) {
        Stage::Whole(which) => {
            let whole = FileSlice { which, offset: 0, len: job.file(which).bytes };
            object(Verb::Put, job, which, "").body(Body::File(whole))
        }
        Stage::Open(which) => object(Verb::Post, job, which, "?uploads="),
        Stage::Part(which, number, slice) => {
            let query = format!("?partNumber={number}&uploadId={}", upload_id(job, which));
            object(Verb::Put, job, which, &query).body(Body::File(slice))
        }
        Stage::Complete(which) => {
            let memory = memory(job, which);
            let parts = list(&memory, "/parts").iter().enumerate().map(|(at, etag)| {
                let etag = etag.as_str().unwrap_or_default().replace('&', "&amp;").replace('<', "&lt;");
                format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", at + 1)
            });
            let text = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.collect::<String>());
            let query = format!("?uploadId={}", upload_id(job, which));
            object(Verb::Post, job, which, &query).body(Body::Text { content_type: "application/xml", text })
        }
        Stage::Done => return Step::Done,
    })
}

pub fn prepared(job: &JobView, part: u64, answer: &Answer) -> Result<After, Fault> {
    let stage = stage(job, part);
    let set = |which: Which, value: Value| Ok(After::now(job.remember(name(which), value)));
    if !answer.ok() {
        return match stage {
            // The upload is gone: begin again, once.
            Stage::Part(which, ..) | Stage::Complete(which)
                if answer.status == 404 && memory(job, which)["begun_again"] != true =>
            {
                set(which, json!({"begun_again": true}))
            }
            _ => Err(xml_fault(answer)),
        };
    }
    match stage {
        Stage::Whole(which) => set(which, json!({"ready": true})),
        Stage::Open(which) => {
            let id = tag(&answer.body, "UploadId").ok_or_else(|| not_protocol(answer))?;
            let mut memory = memory(job, which);
            memory["upload"] = id.into();
            set(which, memory)
        }
        Stage::Part(which, ..) => {
            let etag = answer.header("etag").ok_or_else(|| not_protocol(answer))?.to_owned();
            let mut memory = memory(job, which);
            let parts: Vec<Value> = list(&memory, "/parts").iter().cloned().chain([Value::from(etag)]).collect();
            memory["parts"] = parts.into();
            set(which, memory)
        }
        // Errors of this one come with status 200.
        Stage::Complete(which) => match tag(&answer.body, "ETag") {
            Some(_) => set(which, json!({"ready": true})),
            None => Err(xml_fault(&Answer { status: 500, ..answer.clone() })),
        },
        Stage::Done => Ok(After::now(job.remote.clone())),
    }
}

/// S3 answers in XML: its code and message become the JSON that every other reader knows.
fn xml_fault(answer: &Answer) -> Fault {
    let Some(message) = tag(&answer.body, "Message") else { return refused(answer) };
    let code = tag(&answer.body, "Code").unwrap_or_default();
    let body = json!({"message": message, "code": code}).to_string().into_bytes();
    let status = if answer.status == 404 && code == "NoSuchBucket" { 400 } else { answer.status };
    refused(&Answer { status, body, ..answer.clone() })
}

/// Text of the first element of that name. S3's answers are flat, and nothing else in them is used.
fn tag(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let from = text.find(&format!("<{name}>"))? + name.len() + 2;
    let end = text.get(from..)?.find(&format!("</{name}>"))?;
    let inner = text.get(from..from + end)?.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">");
    Some(inner.replace("&amp;", "&")).filter(|inner| !inner.is_empty())
}

/// Requests of the end: unfinished uploads are given up (they cost storage), objects deleted.
fn last(job: &JobView) -> Vec<Request> {
    let of = |which| {
        let upload = memory(job, which).get("upload").is_some();
        let query = format!("?uploadId={}", upload_id(job, which));
        let abort = upload.then(|| object(Verb::Delete, job, which, &query));
        abort.into_iter().chain([object(Verb::Delete, job, which, "")])
    };
    files(job).into_iter().flat_map(of).collect()
}

pub fn cleanup(job: &JobView) -> Step {
    let done = job.remote["clean"].as_u64().unwrap_or(0) as usize;
    last(job).into_iter().nth(done).map_or(Step::Done, Step::Send)
}

pub fn cleaned(job: &JobView, answer: &Answer) -> Result<After, Fault> {
    if !answer.ok() && answer.status != 404 {
        return Err(xml_fault(answer));
    }
    Ok(After::now(job.remember("clean", job.remote["clean"].as_u64().unwrap_or(0) + 1)))
}
