//! Sends requests of the protocols with an HTTP client of the test's own, and starts the servers that judge them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::blocking::{multipart, Client};
use serde_json::{Map, Value};

use crate::providers::fault::Fault;
use crate::providers::protocol::{FileView, JobView, Protocol, Server, Step, Training};
use crate::providers::secret::Secret;
use crate::providers::wire::{Answer, Body, FileSlice, Request};
use crate::providers::{auth, by_name};

const START_LIMIT: Duration = Duration::from_secs(60);

/// A server of others on a free port of this machine; ended by its process id.
pub struct Double {
    child: Child,
    pub url: String,
}

impl Drop for Double {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Folder of a tool that scripts/doubles.sh installs; None (and said so) where it is not there.
pub fn tool(section: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let state = ["PGFT_STATE", "PG_FINETUNE_CACHE"].iter().find_map(|name| std::env::var_os(name).map(PathBuf::from));
    let folder = state.unwrap_or_else(|| root.join(".pgft")).join("doubles").join(section);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is not there; scripts/doubles.sh installs it", folder.display());
    None
}

/// The vendors' specifications lie beside the repository, where there are any: not all may be passed on.
pub fn slice(name: &str) -> Option<PathBuf> {
    let folders =
        ["../shared/data", "../../shared/data"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let found = folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        println!("skipped: ../shared/data/{name} is not there");
    }
    found
}

/// Starts a program whose arguments hold PORT, and waits until it answers.
pub fn start(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Double {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = arguments.iter().map(|argument| argument.replace("PORT", &port.to_string()));
    let child = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let double = Double { child, url: format!("http://127.0.0.1:{port}") };
    let since = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(since.elapsed() < START_LIMIT, "{program} does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    double
}

/// What a request needs beside itself.
pub struct Sender {
    pub client: Client,
    pub key: Secret,
    pub file: Vec<u8>,
    /// Sent with every request: how a double is told to misbehave.
    pub extra: Vec<(&'static str, &'static str)>,
}

impl Sender {
    pub fn new(key: &str, file: impl Into<Vec<u8>>) -> Self {
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        Self { client, key: Secret::new(key), file: file.into(), extra: Vec::new() }
    }

    pub fn with(&self, extra: &[(&'static str, &'static str)]) -> Self {
        Self { client: self.client.clone(), key: self.key.clone(), file: self.file.clone(), extra: extra.to_vec() }
    }

    /// The answer, or None when the connection broke.
    pub fn send(&self, request: &Request) -> Option<Answer> {
        let slice = |s: &FileSlice| self.file[s.offset as usize..(s.offset + s.len) as usize].to_vec();
        let mut builder = self.client.request(request.verb.name().parse().unwrap(), &request.url);
        for (name, value) in auth::headers(request, &self.key, SystemTime::now()).unwrap() {
            builder = builder.header(name, value);
        }
        for (name, value) in request.headers.iter().map(|(n, v)| (*n, v.as_str())).chain(self.extra.iter().copied()) {
            builder = builder.header(name, value);
        }
        builder = match &request.body {
            Body::Empty => builder,
            Body::Json(value) => builder.json(value),
            Body::Text { content_type, text } => builder.header("content-type", *content_type).body(text.clone()),
            Body::File(part) => builder.body(slice(part)),
            Body::Multipart(form) => {
                let bytes = [if form.bom { &b"\xEF\xBB\xBF"[..] } else { b"" }, &slice(&form.file)].concat();
                let part = multipart::Part::bytes(bytes).file_name(form.filename.clone());
                let fields = form.fields.iter().fold(multipart::Form::new(), |all, (n, v)| all.text(*n, v.clone()));
                builder.multipart(fields.part(form.part, part.mime_str(form.content_type).unwrap()))
            }
        };
        let response = builder.send().ok()?;
        let status = response.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        Some(Answer { status, headers, body: response.bytes().ok()?.to_vec(), at })
    }

    pub fn ask(&self, request: &Request) -> Answer {
        self.send(request).expect("an answer")
    }

    /// Brings the file to the provider; waiting is left out.
    pub fn upload(&self, protocol: &dyn Protocol, job: &mut JobView) -> Result<Vec<Answer>, Fault> {
        let mut answers = Vec::new();
        while let Step::Send(request) = protocol.prepare(job)? {
            assert!(answers.len() < 100, "the upload does not end");
            let answer = self.ask(&request);
            job.remote = protocol.prepared(job, &answer)?.remote;
            answers.push(answer);
        }
        Ok(answers)
    }

    pub fn tidy_up(&self, protocol: &dyn Protocol, job: &mut JobView) -> Result<Vec<Answer>, Fault> {
        let mut answers = Vec::new();
        while let Step::Send(request) = protocol.cleanup(job)? {
            assert!(answers.len() < 100, "the clean-up does not end");
            let answer = self.ask(&request);
            job.remote = protocol.cleaned(job, &answer)?.remote;
            answers.push(answer);
        }
        Ok(answers)
    }
}

pub fn protocol(name: &str) -> &'static dyn Protocol {
    by_name(name).unwrap()
}

/// A job at this server; its file is `sender.file`.
pub fn job(run: &str, options: &[(&str, &str)], sender: &Sender) -> JobView {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    JobView {
        run_key: run.to_owned(),
        intent_at: 0,
        method: Training::Sft,
        base_model: "gpt-4o-mini".into(),
        hyperparameters: Map::new(),
        seed: Some(42),
        suffix: Some("cats".into()),
        train: FileView { bytes: sender.file.len() as u64, rows: 300 },
        validation: None,
        server: Server::new(options),
        remote: Value::Null,
        job_id: None,
    }
}

/// Rows that every chat provider takes.
pub fn rows(count: usize) -> String {
    let row = |n| {
        format!(
            "{{\"messages\":[{{\"role\":\"user\",\"content\":\"{n}?\"}},{{\"role\":\"assistant\",\"content\":\"yes\"}}]}}\n"
        )
    };
    (0..count).map(row).collect()
}
