//! One HTTP request, on a helper thread: bounded in time and size, never redirected, never through a proxy.

use std::io::Read;
use std::time::Duration;

use reqwest::blocking::Client;
use reqwest::header::{HeaderValue, AUTHORIZATION};
use reqwest::redirect::Policy;

use crate::pg::threads::run_beside;
use crate::providers::secret::Secret;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const TOTAL_LIMIT: Duration = Duration::from_secs(30);
const LARGEST_ANSWER: u64 = 8 * 1024 * 1024;

pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// GET with a bearer key; the error text never holds the key.
///
/// # Errors
/// What went wrong, in words.
pub fn get(url: String, key: Secret) -> Result<Answer, String> {
    let mask = key.clone();
    let answer = run_beside(move || send(&url, &key)).unwrap_or_else(|| Err("the HTTP thread died".to_owned()));
    match answer {
        Ok(Answer { status, body }) => Ok(Answer { status, body: mask.scrub(&body) }),
        Err(reason) => Err(mask.scrub(&reason)),
    }
}

fn send(url: &str, key: &Secret) -> Result<Answer, String> {
    let client = Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .timeout(TOTAL_LIMIT)
        .redirect(Policy::none())
        .no_proxy()
        .user_agent(concat!("pg_finetune/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(words)?;
    let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.reveal()))
        .map_err(|_| "the key holds characters that no header can carry".to_owned())?;
    authorization.set_sensitive(true);
    let response = client.get(url).header(AUTHORIZATION, authorization).send().map_err(words)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    response.take(LARGEST_ANSWER).read_to_end(&mut body).map_err(|e| e.to_string())?;
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
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
