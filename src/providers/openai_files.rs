//! Files of protocol `openai`: whole or in parts, waited for, deleted after the end.

use std::time::Duration;

use serde_json::{json, Value};

use super::dialect::Dialect;
use super::fault::{json, Fault, Refusal};
use super::protocol::{After, JobView, Step};
use super::read::{list, text};
use super::wire::{encode, Answer, Body, FileSlice, Form, Request, Verb, Which};

/// POST /files takes no more.
const LARGEST_WHOLE: u64 = 512 << 20;
/// The job reads the files itself and says what is wrong: waiting for "processed" is a courtesy.
const CHECKS: u64 = 24;
const BETWEEN_CHECKS: Duration = Duration::from_secs(5);
/// Pages of the list of files that are searched for strays.
const PAGES: u64 = 20;

/// From which size a file goes in parts, and how large those are.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub whole: u64,
    pub part: u64,
}

/// Where a file stands.
enum Stage {
    Send(Which),
    Open(Which),
    Part(Which, FileSlice),
    Complete(Which),
    Check(Which),
    Done,
}

fn name(which: Which) -> &'static str {
    if which == Which::Train {
        "train"
    } else {
        "validation"
    }
}

/// What is remembered of one file: id, ready, checks, upload, parts.
fn memory(job: &JobView, which: Which) -> Value {
    job.remote.get(name(which)).filter(|value| value.is_object()).cloned().unwrap_or_else(|| json!({}))
}

pub fn id(job: &JobView, which: Which) -> Option<String> {
    text(&memory(job, which), "/id")
}

fn stage(job: &JobView, dialect: &Dialect, sizes: Sizes) -> Stage {
    let files = [Some(Which::Train), job.validation.map(|_| Which::Validation)];
    for which in files.into_iter().flatten() {
        let memory = memory(job, which);
        if memory["ready"] == true {
            continue;
        }
        if memory.get("id").is_some() {
            return Stage::Check(which);
        }
        let bytes = job.file(which).bytes;
        let in_parts = dialect.uploads && bytes > sizes.whole && memory["no_uploads"] != true;
        if !in_parts {
            return Stage::Send(which);
        }
        if memory.get("upload").is_none() {
            return Stage::Open(which);
        }
        let offset = list(&memory, "/parts").len() as u64 * sizes.part;
        if offset >= bytes {
            return Stage::Complete(which);
        }
        return Stage::Part(which, FileSlice { which, offset, len: sizes.part.min(bytes - offset) });
    }
    Stage::Done
}

pub fn prepare(job: &JobView, dialect: &Dialect, sizes: Sizes) -> Step {
    let url = |path: String| format!("{}{path}", job.server.base_url);
    let post = |path: String| Request::new(Verb::Post, url(path), dialect.auth.clone());
    let form = |which, part, fields, file| {
        let bom = dialect.bom && part == "file";
        let content_type = "application/jsonl";
        Body::Multipart(Form { fields, part, filename: job.filename(which), content_type, bom, file })
    };
    let upload = |which| text(&memory(job, which), "/upload").map(|id| encode(&id)).unwrap_or_default();
    Step::Send(match stage(job, dialect, sizes) {
        Stage::Send(which) => {
            let whole = FileSlice { which, offset: 0, len: job.file(which).bytes };
            post("/files".into()).body(form(which, "file", vec![("purpose", "fine-tune".to_owned())], whole))
        }
        Stage::Open(which) => post("/uploads".into()).json(json!({
            "filename": job.filename(which),
            "purpose": "fine-tune",
            "bytes": job.file(which).bytes,
            "mime_type": "text/jsonl",
        })),
        Stage::Part(which, slice) => {
            post(format!("/uploads/{}/parts", upload(which))).body(form(which, "data", Vec::new(), slice))
        }
        Stage::Complete(which) => post(format!("/uploads/{}/complete", upload(which)))
            .json(json!({"part_ids": list(&memory(job, which), "/parts")})),
        Stage::Check(which) => {
            let id = id(job, which).unwrap_or_default();
            Request::new(Verb::Get, url(format!("/files/{}", encode(&id))), dialect.auth.clone())
        }
        Stage::Done => return Step::Done,
    })
}

pub fn prepared(job: &JobView, dialect: &Dialect, sizes: Sizes, answer: &Answer) -> Result<After, Fault> {
    let with = |which: Which, change: &dyn Fn(&mut Value)| {
        let mut memory = memory(job, which);
        change(&mut memory);
        job.remember(name(which), memory)
    };
    let missing = |what: &str| Fault::NotProtocol { status: answer.status, start: format!("no {what} in the answer") };
    let stage = stage(job, dialect, sizes);
    let value = match (json(answer), &stage) {
        // A host that speaks the dialect without /uploads.
        (Err(Fault::Gone), Stage::Open(which)) if job.file(*which).bytes <= LARGEST_WHOLE => {
            return Ok(After::now(with(*which, &|memory| memory["no_uploads"] = true.into())));
        }
        // An upload lives for an hour: begin again.
        (Err(Fault::Gone | Fault::Refused(_)), Stage::Part(which, _) | Stage::Complete(which))
            if memory(job, *which)["begun_again"] != true =>
        {
            return Ok(After::now(with(*which, &|memory| *memory = json!({"begun_again": true}))));
        }
        // The file is not there any more (or not yet): it is sent again.
        (Err(Fault::Gone), Stage::Check(which)) if memory(job, *which)["begun_again"] != true => {
            let again = with(*which, &|memory| *memory = json!({"begun_again": true}));
            return Ok(After { remote: again, wait: BETWEEN_CHECKS });
        }
        (result, _) => result?,
    };
    match stage {
        Stage::Done => Ok(After::now(job.remote.clone())),
        Stage::Open(which) => {
            let id = text(&value, "/id").ok_or_else(|| missing("upload id"))?;
            Ok(After::now(with(which, &|memory| memory["upload"] = id.clone().into())))
        }
        Stage::Part(which, _) => {
            let id = text(&value, "/id").ok_or_else(|| missing("part id"))?;
            let parts: Vec<Value> =
                list(&memory(job, which), "/parts").iter().cloned().chain([Value::from(id)]).collect();
            Ok(After::now(with(which, &|memory| memory["parts"] = parts.clone().into())))
        }
        Stage::Send(which) | Stage::Complete(which) | Stage::Check(which) => {
            let file = value.get("file").filter(|file| file.is_object()).unwrap_or(&value);
            let id = text(file, "/id").ok_or_else(|| missing("file id"))?;
            let status = text(file, "/status").unwrap_or_default();
            if status == "error" || status == "deleted" {
                let details = text(file, "/status_details").unwrap_or_else(|| status.clone());
                let message = format!("the provider refuses {}: {details}", job.filename(which));
                return Err(Refusal::of("dataset", message, "Look at the rows: export_jsonl() writes the same file."));
            }
            let checks = memory(job, which)["checks"].as_u64().unwrap_or(0) + 1;
            let ready = status == "processed" || checks >= CHECKS;
            let remote = with(which, &|memory| *memory = json!({"id": id, "ready": ready, "checks": checks}));
            Ok(After { remote, wait: if ready { Duration::ZERO } else { BETWEEN_CHECKS } })
        }
    }
}

/// Ids to delete: what is remembered first, then what the list of files shows under our names.
pub fn cleanup(job: &JobView, dialect: &Dialect) -> Step {
    let url = |path: &str| format!("{}{path}", job.server.base_url);
    let clean = job.remote.get("clean").cloned().unwrap_or_else(|| json!({}));
    if clean["listed"] != true {
        let after = text(&clean, "/after").map(|id| format!("&after={}", encode(&id))).unwrap_or_default();
        let path = format!("/files?purpose=fine-tune&limit=1000{after}");
        return Step::Send(Request::new(Verb::Get, url(&path), dialect.auth.clone()));
    }
    match list(&clean, "/ids").first().and_then(Value::as_str) {
        Some(id) => {
            let path = format!("/files/{}", encode(id));
            Step::Send(Request::new(Verb::Delete, url(&path), dialect.auth.clone()))
        }
        None => Step::Done,
    }
}

pub fn cleaned(job: &JobView, answer: &Answer) -> Result<After, Fault> {
    let clean = job.remote.get("clean").cloned().unwrap_or_else(|| json!({}));
    let mut ids: Vec<String> = list(&clean, "/ids").iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
    let done = |clean: Value| Ok(After::now(job.remember("clean", clean)));
    if clean["listed"] == true {
        match json(answer) {
            Ok(_) | Err(Fault::Gone) => {}
            Err(fault) => return Err(fault),
        }
        return done(json!({"listed": true, "ids": ids.get(1..).unwrap_or_default()}));
    }
    let page = json(answer)?;
    let names = [job.filename(Which::Train), job.filename(Which::Validation)];
    let ours = |file: &&Value| names.iter().any(|name| text(file, "/filename").as_ref() == Some(name));
    ids.extend(list(&page, "/data").iter().filter(ours).filter_map(|file| text(file, "/id")));
    ids.extend([Which::Train, Which::Validation].into_iter().filter_map(|which| id(job, which)));
    ids.sort();
    ids.dedup();
    let pages = clean["pages"].as_u64().unwrap_or(0) + 1;
    let last = list(&page, "/data").last().and_then(|file| text(file, "/id"));
    match last.filter(|last| page["has_more"] == true && pages < PAGES && text(&clean, "/after").as_ref() != Some(last))
    {
        Some(last) => done(json!({"ids": ids, "after": last, "pages": pages})),
        None => done(json!({"ids": ids, "listed": true})),
    }
}
