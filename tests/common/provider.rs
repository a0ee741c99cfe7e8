//! A fake provider on loopback that speaks the openai protocol with a memory, plain or with real TLS, and misbehaves
//! when a test tells it to.

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The key that must be found nowhere.
pub const CANARY: &str = "sk-canary-5d1f0b7e";

/// What happens to a request instead of an ordinary answer.
#[derive(Clone, Debug)]
pub enum Act {
    /// This answer; nothing is done.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection closes before anything is done.
    CloseBefore,
    /// It is done, but the connection closes without an answer.
    CloseAfter,
    /// It is done; so many bytes of the answer come, then the connection closes.
    Cut(usize),
    /// It is done; the answer comes a byte at a time with this pause.
    Drip(Duration),
    /// It is done; the answer promises more bytes than come.
    TooShort,
    /// It is done, then nothing comes for so long.
    HangAfter(Duration),
    /// Nothing is done, and nothing comes for so long.
    HangBefore(Duration),
    /// An answer without end.
    Endless,
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub authorization: String,
    pub body: String,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub struct FakeJob {
    pub id: String,
    pub run: String,
    pub file: String,
    pub status: String,
    polls: u32,
    created_at: u64,
}

/// How jobs go here.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Polls until a job has succeeded; None = it runs until a test says otherwise.
    pub polls: Option<u32>,
    pub model: Option<String>,
    pub ends_as: &'static str,
    pub word: Option<String>,
    pub shutdown: Option<String>,
    /// Models that it keeps from the course of a training.
    pub checkpoints: Vec<Value>,
    /// A cancelled job is not there any more: hosts without a cancel are told to delete it.
    pub forgets_cancelled: bool,
}

#[derive(Default)]
struct Memory {
    seen: Vec<Seen>,
    script: Vec<(String, Act, u32)>,
    jobs: Vec<FakeJob>,
    files: BTreeMap<String, (String, u64)>,
    next: u64,
    manners: Option<Manners>,
}

#[derive(Clone)]
pub struct FakeProvider {
    memory: Arc<Mutex<Memory>>,
    pub port: u16,
    scheme: &'static str,
}

impl FakeProvider {
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// With TLS; the certificate of its authority is returned as PEM.
    pub fn start_tls(host: &str) -> (Self, String) {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![host.to_string()]).unwrap().signed_by(&key, &issuer).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .unwrap();
        (Self::listen(Some(Arc::new(config))), pem)
    }

    fn listen(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let memory = Arc::new(Mutex::new(Memory::default()));
        let manners = Manners {
            polls: Some(3),
            model: Some("ft:small:org::x".into()),
            ends_as: "succeeded",
            word: None,
            shutdown: None,
            checkpoints: Vec::new(),
            forgets_cancelled: false,
        };
        memory.lock().unwrap().manners = Some(manners);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let fake = Self { memory, port, scheme };
        let serving = fake.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (fake, tls) = (serving.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    Some(config) => fake.serve(StreamOwned::new(ServerConnection::new(config).unwrap(), stream)),
                    None => fake.serve(stream),
                });
            }
        });
        fake
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}/v1", self.scheme, self.port)
    }

    pub fn url_of(&self, host: &str) -> String {
        format!("{}://{host}:{}/v1", self.scheme, self.port)
    }

    /// The next `times` requests whose line begins so are treated like that.
    pub fn next(&self, line: &str, act: Act, times: u32) {
        self.memory.lock().unwrap().script.push((line.to_string(), act, times));
    }

    pub fn forget_script(&self) {
        self.memory.lock().unwrap().script.clear();
    }

    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(self.memory.lock().unwrap().manners.as_mut().unwrap());
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.memory.lock().unwrap().seen.clone()
    }

    pub fn count(&self, line: &str) -> usize {
        self.memory.lock().unwrap().seen.iter().filter(|seen| seen.line.starts_with(line)).count()
    }

    pub fn jobs(&self) -> Vec<FakeJob> {
        self.memory.lock().unwrap().jobs.clone()
    }

    pub fn files(&self) -> Vec<String> {
        self.memory.lock().unwrap().files.keys().cloned().collect()
    }

    pub fn file_names(&self) -> Vec<String> {
        self.memory.lock().unwrap().files.values().map(|(name, _)| name.clone()).collect()
    }

    /// How many requests still get something else than an ordinary answer.
    pub fn left_of_script(&self) -> u32 {
        self.memory.lock().unwrap().script.iter().map(|(_, _, times)| times).sum()
    }

    pub fn finish(&self, id: &str) {
        let mut memory = self.memory.lock().unwrap();
        let ends_as = memory.manners.as_ref().unwrap().ends_as;
        memory.jobs.iter_mut().filter(|job| job.id == id).for_each(|job| job.status = ends_as.into());
    }

    /// A second job of the same run, as if a request had been sent twice.
    pub fn duplicate(&self, run: &str) {
        let mut memory = self.memory.lock().unwrap();
        memory.next += 1;
        let id = format!("ftjob-{}", memory.next);
        memory.jobs.push(FakeJob {
            id,
            run: run.into(),
            file: "file-0".into(),
            status: "running".into(),
            polls: 0,
            created_at: now(),
        });
    }

    fn serve(&self, mut stream: impl Read + Write + Lingering) {
        let Some((line, authorization, body, bytes)) = receive(&mut stream) else { return };
        self.memory.lock().unwrap().seen.push(Seen {
            line: line.clone(),
            authorization: authorization.clone(),
            body: String::from_utf8_lossy(&body).into_owned(),
            bytes,
        });
        let act = self.take_act(&line);
        match act {
            Some(Act::Answer(status, headers, text)) => {
                let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let text = text.replace("{key}", authorization.trim_start_matches("Bearer "));
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{text}",
                    text.len()
                );
            }
            Some(Act::CloseBefore) => {}
            Some(Act::HangBefore(time)) => std::thread::sleep(time),
            Some(Act::Endless) => {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
                while stream.write_all(&[b' '; 65536]).is_ok() {}
            }
            other => self.obey(&mut stream, &line, &body, bytes, other),
        }
        let _ = stream.flush();
        stream.finish();
    }

    fn take_act(&self, line: &str) -> Option<Act> {
        let mut memory = self.memory.lock().unwrap();
        let position =
            memory.script.iter().position(|(start, _, times)| *times > 0 && line.starts_with(start.as_str()))?;
        memory.script[position].2 -= 1;
        Some(memory.script[position].1.clone())
    }

    /// Does what was asked, then answers, in one of the bad ways perhaps.
    fn obey(&self, stream: &mut impl Write, line: &str, body: &[u8], bytes: u64, act: Option<Act>) {
        let (status, answer) = self.memory.lock().unwrap().answer(line, body, bytes);
        let text = answer.to_string();
        let head = |length: usize| {
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")
        };
        let whole = format!("{}{text}", head(text.len()));
        let _ = match act {
            Some(Act::CloseAfter) => Ok(()),
            Some(Act::Cut(n)) => stream.write_all(&whole.as_bytes()[..n.min(whole.len())]),
            Some(Act::TooShort) => write!(stream, "{}{text}", head(text.len() + 100)),
            Some(Act::HangAfter(time)) => {
                std::thread::sleep(time);
                Ok(())
            }
            Some(Act::Drip(pause)) => whole.bytes().try_for_each(|byte| {
                std::thread::sleep(pause);
                stream.write_all(&[byte]).and_then(|()| stream.flush())
            }),
            _ => stream.write_all(whole.as_bytes()),
        };
    }
}

impl Memory {
    fn answer(&mut self, line: &str, body: &[u8], bytes: u64) -> (u16, Value) {
        let mut words = line.split(' ');
        let (verb, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        match (verb, parts.as_slice()) {
            ("GET", ["models"]) => (200, json!({"object": "list", "data": [{"id": "small"}, {"id": "big"}]})),
            ("GET", ["models", id]) => {
                (200, json!({"id": id, "object": "model", "shutdown_date": self.manners.as_ref().unwrap().shutdown}))
            }
            ("POST", ["files"]) => self.take_file(body, bytes),
            ("GET", ["files"]) => {
                let files = self.files.iter().map(|(id, (name, bytes))| file(id, name, *bytes));
                (200, json!({"object": "list", "data": files.collect::<Vec<_>>(), "has_more": false}))
            }
            ("GET", ["files", id]) => match self.files.get(*id) {
                Some((name, bytes)) => (200, file(id, name, *bytes)),
                None => no_such(),
            },
            ("DELETE", ["files", id]) => match self.files.remove(*id) {
                Some(_) => (200, json!({"id": id, "object": "file", "deleted": true})),
                None => no_such(),
            },
            ("POST", ["fine_tuning", "jobs"]) => self.create(body),
            ("GET", ["fine_tuning", "jobs"]) => self.list(query),
            ("GET", ["fine_tuning", "jobs", id]) => self.poll(id),
            ("GET", ["fine_tuning", "jobs", _, "events"]) => {
                (200, json!({"object": "list", "data": [], "has_more": false}))
            }
            ("GET", ["fine_tuning", "jobs", _, "checkpoints"]) => {
                let kept = &self.manners.as_ref().unwrap().checkpoints;
                (200, json!({"object": "list", "data": kept, "has_more": false}))
            }
            ("POST", ["fine_tuning", "jobs", id, "cancel"]) => self.cancel(id),
            _ => no_such(),
        }
    }

    fn take_file(&mut self, body: &[u8], bytes: u64) -> (u16, Value) {
        let text = String::from_utf8_lossy(body);
        let name =
            text.split("filename=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("none").to_string();
        self.next += 1;
        let id = format!("file-{}", self.next);
        self.files.insert(id.clone(), (name.clone(), bytes));
        (200, file(&id, &name, bytes))
    }

    fn create(&mut self, body: &[u8]) -> (u16, Value) {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        if !self.files.contains_key(&text(&asked["training_file"])) {
            return (
                400,
                json!({"error": {"message": "no such training file", "type": "invalid_request_error", "param": "training_file", "code": "invalid_file"}}),
            );
        }
        self.next += 1;
        let job = FakeJob {
            id: format!("ftjob-{}", self.next),
            run: text(&asked["metadata"]["pgft_run"]),
            file: text(&asked["training_file"]),
            status: "validating_files".into(),
            polls: 0,
            created_at: now(),
        };
        self.jobs.push(job.clone());
        (200, self.describe(&job))
    }

    fn list(&self, query: &str) -> (u16, Value) {
        let after = query.split('&').find_map(|pair| pair.strip_prefix("after="));
        let newest_first: Vec<&FakeJob> = self.jobs.iter().rev().collect();
        let from = after.and_then(|id| newest_first.iter().position(|job| job.id == id)).map_or(0, |i| i + 1);
        let page: Vec<Value> = newest_first.iter().skip(from).take(20).map(|job| self.describe(job)).collect();
        let has_more = newest_first.len() > from + 20;
        (200, json!({"object": "list", "data": page, "has_more": has_more}))
    }

    fn poll(&mut self, id: &str) -> (u16, Value) {
        let manners = self.manners.clone().unwrap();
        let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) else { return no_such() };
        if !["succeeded", "failed", "cancelled"].contains(&job.status.as_str()) {
            job.polls += 1;
            job.status = match (job.polls, manners.polls) {
                (n, Some(polls)) if n >= polls => manners.ends_as.into(),
                (1, _) => "queued".into(),
                _ => manners.word.unwrap_or("running".into()),
            };
        }
        let job = job.clone();
        (200, self.describe(&job))
    }

    fn cancel(&mut self, id: &str) -> (u16, Value) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) else { return no_such() };
        if ["succeeded", "failed", "cancelled"].contains(&job.status.as_str()) {
            return (
                400,
                json!({"error": {"message": "Job has already completed", "type": "invalid_request_error", "param": null, "code": null}}),
            );
        }
        job.status = "cancelled".into();
        let job = job.clone();
        if self.manners.as_ref().unwrap().forgets_cancelled {
            self.jobs.retain(|other| other.id != job.id);
        }
        (200, self.describe(&job))
    }

    fn describe(&self, job: &FakeJob) -> Value {
        let manners = self.manners.as_ref().unwrap();
        let model = manners.model.clone().filter(|_| job.status == "succeeded");
        let error = (job.status == "failed").then(
            || json!({"code": "invalid_training_file", "message": "line 3 is no JSON", "param": "training_file"}),
        );
        json!({
            "id": job.id, "object": "fine_tuning.job", "created_at": job.created_at, "status": job.status, "model": "small",
            "fine_tuned_model": model, "training_file": job.file, "validation_file": null, "result_files": [], "seed": 42,
            "organization_id": "org", "hyperparameters": {"n_epochs": 3}, "metadata": {"pgft_run": job.run}, "error": error,
            "finished_at": null, "trained_tokens": (job.status == "succeeded").then_some(4_000_000)
        })
    }
}

fn file(id: &str, name: &str, bytes: u64) -> Value {
    json!({"id": id, "object": "file", "bytes": bytes, "created_at": now(), "filename": name, "purpose": "fine-tune", "status": "processed"})
}

fn no_such() -> (u16, Value) {
    (
        404,
        json!({"error": {"message": "No such object", "type": "invalid_request_error", "param": null, "code": "not_found"}}),
    )
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// First line, Authorization, the start of the body, and how long all of it was.
fn receive(stream: &mut impl Read) -> Option<(String, String, Vec<u8>, u64)> {
    const KEPT: usize = 2 << 20;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        let found = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
        found.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_string()).unwrap_or_default()
    };
    let mut left: u64 = header("content-length").parse().unwrap_or(0);
    let (bytes, mut body, mut piece) = (left, Vec::new(), vec![0; 64 << 10]);
    while left > 0 {
        let n = stream.read(&mut piece).ok().filter(|n| *n > 0)?;
        left = left.saturating_sub(n as u64);
        let room = KEPT - body.len();
        body.extend_from_slice(&piece[..n.min(room)]);
    }
    Some((head.lines().next()?.to_string(), header("authorization"), body, bytes))
}

/// TLS says goodbye before it closes.
pub trait Lingering {
    fn finish(&mut self);
}

impl Lingering for TcpStream {
    fn finish(&mut self) {}
}

impl Lingering for StreamOwned<ServerConnection, TcpStream> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
    }
}
