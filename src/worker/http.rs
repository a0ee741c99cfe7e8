//! One HTTP request, on a helper thread: bounded in time and size, to checked addresses only, never redirected, never
//! through a proxy. What leaves this file, as answer or as error, is free of the key.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::net::ToSocketAddrs;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use reqwest::blocking::multipart;
use reqwest::blocking::{Body, Client, RequestBuilder, Response};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, CONTENT_TYPE, LOCATION};
use reqwest::redirect::Policy as Redirects;
use reqwest::{Certificate, Method, Url};

use super::training_file::Files;
use crate::pg::settings;
use crate::providers::address::{self, Permit};
use crate::providers::auth;
use crate::providers::fault::Fault;
use crate::providers::protocol::Server;
use crate::providers::secret::Secret;
use crate::providers::wire::{self, Answer, FileSlice, Form, Request, Verb};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const LARGEST_ANSWER: usize = 8 << 20;
/// Slowest line for which an upload is in time.
const BYTES_PER_SECOND: u64 = 100_000;
/// How long an address stays resolved and a connection is kept for the next request.
const PINNED_FOR: Duration = Duration::from_secs(60);
const BOM: &[u8] = &[0xEF, 0xBB, 0xBF];

/// Settings as the main thread reads them: helper threads ask Postgres nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub limit: Duration,
    pub ca_file: Option<String>,
    /// Origins that may lie inside.
    pub allowed: String,
}

impl Policy {
    pub fn now() -> Self {
        let text = |setting: &settings::Text| setting.get().map(|text| text.to_string_lossy().into_owned());
        Self {
            limit: Duration::from_secs(settings::HTTP_TIMEOUT.get() as u64),
            ca_file: text(&settings::CA_FILE).filter(|file| !file.is_empty()),
            allowed: text(&settings::ALLOWED_ORIGINS).unwrap_or_default(),
        }
    }

    /// With what the owner of the server may name beyond the setting.
    pub fn trusting(mut self, server: &Server) -> Self {
        self.allowed = format!("{},{}", self.allowed, server.allowed());
        self
    }
}

/// What went wrong before an answer was there.
struct Trouble {
    /// Nothing of the request can have reached the provider's application.
    unsent: bool,
    message: String,
}

impl Trouble {
    fn before(message: impl Into<String>) -> Self {
        Self { unsent: true, message: message.into() }
    }

    fn after(message: impl Into<String>) -> Self {
        Self { unsent: false, message: message.into() }
    }
}

/// Sends a request with its key and reads the whole answer.
///
/// # Errors
/// `Ambiguous` for a request that is sent once and may have arrived, else `Retry`.
pub fn send(request: &Request, key: &Secret, files: Option<&Files>, policy: &Policy) -> Result<Answer, Fault> {
    exchange(request, key, files, policy).map_err(|trouble| {
        let message = key.scrub(&trouble.message);
        match request.once && !trouble.unsent {
            true => Fault::Ambiguous { message },
            false => Fault::Retry { after: None, message },
        }
    })
}

fn exchange(request: &Request, key: &Secret, files: Option<&Files>, policy: &Policy) -> Result<Answer, Trouble> {
    let url = Url::parse(&request.url).map_err(|e| Trouble::before(format!("the address is none: {e}")))?;
    let limit = policy.limit + Duration::from_secs(sent_bytes(request) / BYTES_PER_SECOND);
    let deadline = Instant::now() + limit;
    let permit = address::permit(&request.url, &policy.allowed)
        .map_err(|reason| Trouble::before(format!("the address is not used: {reason}")))?;
    let client = client(&url, &permit, policy)?;
    let origin = url.origin().ascii_serialization();
    let sent = build(&client, url, request, key, files)?.timeout(limit).send();
    let response = sent.map_err(|error| {
        // The body's reader only knows that nobody takes it; ask the connection itself why.
        let cause = if error.is_body() { client.head(origin).send().err() } else { None };
        let error = cause.filter(reqwest::Error::is_connect).unwrap_or(error);
        Trouble { unsent: error.is_connect() || error.is_builder(), message: words(error) }
    })?;
    if response.status().is_redirection() {
        let to = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or("nowhere");
        return Err(Trouble::after(format!(
            "a redirect ({}) to {to}, which is not followed",
            response.status().as_u16()
        )));
    }
    read(response, key, deadline)
}

fn sent_bytes(request: &Request) -> u64 {
    match &request.body {
        wire::Body::Multipart(form) => form.file.len,
        wire::Body::File(slice) => slice.len,
        _ => 0,
    }
}

/// A client whose connections go to addresses that were resolved and checked here, and to no others.
fn client(url: &Url, permit: &Permit, policy: &Policy) -> Result<Client, Trouble> {
    type Kept = HashMap<String, (Instant, Client)>;
    static KEPT: OnceLock<Mutex<Kept>> = OnceLock::new();
    let name = format!("{} {} {:?}", url.origin().ascii_serialization(), permit.allowed, policy.ca_file);
    let kept = KEPT.get_or_init(Mutex::default);
    if let Some((since, client)) = kept.lock().unwrap_or_else(|e| e.into_inner()).get(&name) {
        if since.elapsed() < PINNED_FOR {
            return Ok(client.clone());
        }
    }
    let client = pinned(permit, policy)?;
    kept.lock().unwrap_or_else(|e| e.into_inner()).insert(name, (Instant::now(), client.clone()));
    Ok(client)
}

fn pinned(permit: &Permit, policy: &Policy) -> Result<Client, Trouble> {
    let host = permit.host.as_str();
    let resolved = (host, permit.port)
        .to_socket_addrs()
        .map_err(|e| Trouble::before(format!("{host} has no address: {e}")))?
        .collect();
    let addresses = permit
        .addresses(resolved)
        .map_err(|reason| Trouble::before(format!("the address of {host} is not used: {reason}")))?;
    let mut builder = Client::builder()
        .connect_timeout(CONNECT_LIMIT.min(policy.limit))
        .redirect(Redirects::none())
        .no_proxy()
        .resolve_to_addrs(host, &addresses)
        .user_agent(concat!("pg_finetune/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &policy.ca_file {
        for certificate in authorities(path)? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|error| Trouble::before(words(error)))
}

fn authorities(path: &str) -> Result<Vec<Certificate>, Trouble> {
    let named = |reason: String| Trouble::before(format!("pg_finetune.ca_file \"{path}\": {reason}"));
    let text = std::fs::read(path).map_err(|e| named(e.to_string()))?;
    Certificate::from_pem_bundle(&text).map_err(|e| named(e.to_string()))
}

fn build(
    client: &Client,
    url: Url,
    request: &Request,
    key: &Secret,
    files: Option<&Files>,
) -> Result<RequestBuilder, Trouble> {
    let method = match request.verb {
        Verb::Get => Method::GET,
        Verb::Post => Method::POST,
        Verb::Put => Method::PUT,
        Verb::Delete => Method::DELETE,
    };
    let mut headers = HeaderMap::new();
    for (name, value) in authorized(request, key)? {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| Trouble::before("a header has no proper name"))?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| {
            Trouble::before("the key, or a header made of it, holds characters that no header can carry")
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let builder = client.request(method, url).headers(headers);
    Ok(match &request.body {
        wire::Body::Empty => builder,
        wire::Body::Json(value) => builder.json(value),
        wire::Body::Text { content_type, text } => builder.header(CONTENT_TYPE, *content_type).body(text.clone()),
        wire::Body::Multipart(form) => builder.multipart(multipart(form, files)?),
        wire::Body::File(slice) => builder.body(Body::sized(Slice::of(slice, files)?, slice.len)),
    })
}

/// The request's headers with the key among them.
fn authorized(request: &Request, key: &Secret) -> Result<Vec<(String, String)>, Trouble> {
    let mut headers: Vec<_> = request.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    headers.extend(auth::headers(request, key, SystemTime::now()).map_err(Trouble::before)?);
    Ok(headers)
}

fn multipart(form: &Form, files: Option<&Files>) -> Result<multipart::Form, Trouble> {
    let bom = if form.bom { BOM } else { &[] };
    let content = Cursor::new(bom).chain(Slice::of(&form.file, files)?);
    let part = multipart::Part::reader_with_length(content, form.file.len + bom.len() as u64)
        .file_name(form.filename.clone())
        .mime_str(form.content_type)
        .map_err(|error| Trouble::before(words(error)))?;
    let fields = form.fields.iter().fold(multipart::Form::new(), |all, (name, value)| all.text(*name, value.clone()));
    Ok(fields.part(form.part, part))
}

/// A part of one of the job's files, read as it is sent.
struct Slice {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Slice {
    fn of(slice: &FileSlice, files: Option<&Files>) -> Result<Self, Trouble> {
        let file = files.and_then(|files| files.get(slice.which));
        let file = file.ok_or_else(|| Trouble::before("the file to upload is not there"))?.clone();
        Ok(Self { file, at: slice.offset, left: slice.len })
    }
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The answer, as long as it is in time and not too large.
fn read(mut response: Response, key: &Secret, deadline: Instant) -> Result<Answer, Trouble> {
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.as_str().to_owned(), key.scrub(&String::from_utf8_lossy(value.as_bytes()))));
    let headers = headers.collect();
    let mut body = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        let n = response.read(&mut piece).map_err(|e| Trouble::after(format!("the answer was cut: {e}")))?;
        if n == 0 {
            break;
        }
        if body.len() + n > LARGEST_ANSWER {
            return Err(Trouble::after(format!("the answer is larger than {} MB", LARGEST_ANSWER >> 20)));
        }
        if Instant::now() > deadline {
            return Err(Trouble::after("the answer did not end in time"));
        }
        body.extend_from_slice(&piece[..n]);
    }
    let body = match String::from_utf8(body) {
        Ok(text) => key.scrub(&text).into_bytes(),
        Err(odd) => key.scrub(&String::from_utf8_lossy(odd.as_bytes())).into_bytes(),
    };
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    Ok(Answer { status, headers, body, at })
}

/// An error with its causes; reqwest's own text stops at the outermost.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
