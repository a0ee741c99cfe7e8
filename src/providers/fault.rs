//! What can be wrong with an answer, and what to do then.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::refusals;
use super::wire::Answer;

/// No provider makes a job wait longer than this for its next try.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How much of an unreadable answer is quoted.
const QUOTED: usize = 200;

#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Nothing was done (or it was a question): try again, counted as a failure.
    Retry { after: Option<Duration>, message: String },
    /// Too many requests: try again, not counted as a failure.
    Throttled { after: Option<Duration> },
    /// The provider may have done it: never sent again, `find` decides.
    Ambiguous { message: String },
    /// The key does not open this door: the job ends, the hint says what to check.
    Auth(Refusal),
    /// Said no; asking again gives the same answer.
    Refused(Refusal),
    /// What was asked for is not there.
    Gone,
    /// Not the protocol that the server option names: a login page, a proxy, half an answer. Tried again like `Retry`.
    NotProtocol { status: u16, start: String },
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    /// The field or hyperparameter that it is about.
    pub param: Option<String>,
    /// What works instead.
    pub hint: String,
}

impl Refusal {
    /// One of ours, before anything is sent.
    pub fn of(param: &str, message: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault::Refused(Self {
            code: "not_sent".into(),
            message: message.into(),
            param: Some(param.to_owned()).filter(|p| !p.is_empty()),
            hint: hint.into(),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry { message, .. } => f.write_str(message),
            Self::Throttled { .. } => f.write_str("the provider asks for fewer requests"),
            Self::Ambiguous { message } => write!(f, "it is not known whether the provider did it: {message}"),
            Self::Auth(refusal) => write!(f, "the provider does not accept the key: {}", refusal.message),
            Self::Refused(refusal) => f.write_str(&refusal.message),
            Self::Gone => f.write_str("the provider does not know it (any more)"),
            Self::NotProtocol { status, start } => {
                write!(f, "the provider answered {status} with something that is not its protocol: {start}")
            }
        }
    }
}

impl std::error::Error for Fault {}

/// The JSON of a good answer, or what is wrong with it.
///
/// # Errors
/// See `refused`; `NotProtocol` for a good status without JSON.
pub fn json(answer: &Answer) -> Result<Value, Fault> {
    if !answer.ok() {
        return Err(refused(answer));
    }
    match serde_json::from_slice(&answer.body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(not_protocol(answer)),
    }
}

/// As `json`, for the answer to a request that was sent once: whatever leaves the outcome open is `Ambiguous`.
///
/// # Errors
/// As `json`.
pub fn json_once(answer: &Answer) -> Result<Value, Fault> {
    json(answer).map_err(|fault| match fault {
        // A gateway's 503 with Retry-After says nothing about what stands behind it.
        Fault::Retry { message, .. } => Fault::Ambiguous { message },
        Fault::NotProtocol { .. } => Fault::Ambiguous { message: fault.to_string() },
        other => other,
    })
}

pub fn not_protocol(answer: &Answer) -> Fault {
    Fault::NotProtocol { status: answer.status, start: quote(&answer.body) }
}

/// What a status that is not 2xx means.
pub fn refused(answer: &Answer) -> Fault {
    let words = refusals::read(&answer.body, answer.header("x-amzn-errortype"));
    let message = match &words {
        Some(words) => format!("the provider answered {}: {}", answer.status, words.message),
        None => format!("the provider answered {}: {}", answer.status, quote(&answer.body)),
    };
    let words = words.unwrap_or_else(|| Refusal { message: quote(&answer.body), ..Refusal::default() });
    let asked_again = answer.header("x-should-retry");
    match answer.status {
        _ if refusals::is_final(&words) => Fault::Refused(refusals::in_plain_words(answer.status, words)),
        429 | 400 if answer.status == 429 || words.code == "ThrottlingException" => {
            Fault::Throttled { after: wait(answer) }
        }
        _ if asked_again == Some("true") => Fault::Retry { after: wait(answer), message },
        401 | 403 => Fault::Auth(refusals::in_plain_words(answer.status, words)),
        404 | 410 => Fault::Gone,
        408 | 425 | 500..=599 => Fault::Retry { after: wait(answer), message },
        // 409 of a create is "this name is taken", perhaps by ourselves: `created` decides.
        400..=499 => Fault::Refused(refusals::in_plain_words(answer.status, words)),
        _ => not_protocol(answer),
    }
}

/// How long the provider asks us to wait: Retry-After in seconds or as a date, or retry-after-ms; ten minutes at most.
pub fn wait(answer: &Answer) -> Option<Duration> {
    let milliseconds = answer.header("retry-after-ms").and_then(|v| v.trim().parse::<f64>().ok()).map(|ms| ms / 1000.0);
    let seconds = milliseconds.or_else(|| {
        let value = answer.header("retry-after")?.trim();
        value.parse::<f64>().ok().or_else(|| {
            let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
            Some(date.timestamp().saturating_sub(answer.at) as f64)
        })
    })?;
    let seconds = if seconds.is_finite() { seconds.clamp(0.0, LONGEST_WAIT.as_secs_f64()) } else { return None };
    Some(Duration::from_secs_f64(seconds))
}

fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * QUOTED)]).into_owned();
    let start: String = text.chars().filter(|c| !c.is_control()).take(QUOTED).collect();
    if start.is_empty() {
        "an empty answer".to_owned()
    } else {
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        let headers = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        Answer { status, headers, body: body.into(), at: 784_111_777 }
    }

    #[test]
    fn waits_are_read_in_every_form_and_capped() {
        let of = |name, value| wait(&answer(429, &[(name, value)], ""));
        assert_eq!(of("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(of("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(of("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(of("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("retry-after-ms", "1500"), Some(Duration::from_millis(1500)));
        assert_eq!(of("retry-after", "86400"), Some(LONGEST_WAIT));
        for odd in ["soon", "NaN", "inf", ""] {
            assert_eq!(of("retry-after", odd), None, "{odd}");
        }
        assert_eq!(of("retry-after", "-3"), Some(Duration::ZERO));
    }

    #[test]
    fn statuses_are_told_apart() {
        let of = |status, body| refused(&answer(status, &[], body));
        assert!(matches!(of(429, "{}"), Fault::Throttled { .. }));
        assert!(matches!(of(400, r#"{"__type":"ThrottlingException","message":"slow"}"#), Fault::Throttled { .. }));
        let broke = r#"{"error":{"message":"You exceeded your quota","code":"insufficient_quota"}}"#;
        assert!(matches!(of(429, broke), Fault::Refused(_)), "waiting does not fill an account");
        assert!(matches!(of(401, r#"{"error":{"message":"bad key"}}"#), Fault::Auth(_)));
        assert!(matches!(of(404, ""), Fault::Gone));
        assert!(matches!(of(503, "<html>"), Fault::Retry { .. }));
        assert!(matches!(of(422, r#"{"message":"no"}"#), Fault::Refused(r) if r.message == "no"));
        assert!(matches!(of(302, ""), Fault::NotProtocol { status: 302, .. }));
        let asked = answer(409, &[("x-should-retry", "true")], "{}");
        assert!(matches!(refused(&asked), Fault::Retry { .. }));
    }

    #[test]
    fn what_was_sent_once_is_ambiguous_unless_refused() {
        let of = |status, body| json_once(&answer(status, &[], body));
        assert!(matches!(of(500, ""), Err(Fault::Ambiguous { .. })));
        assert!(matches!(of(200, "{\"id\":\"ftj"), Err(Fault::Ambiguous { .. })));
        assert!(matches!(of(302, ""), Err(Fault::Ambiguous { .. })));
        assert!(matches!(of(429, ""), Err(Fault::Throttled { .. })));
        assert!(matches!(of(400, r#"{"error":{"message":"no"}}"#), Err(Fault::Refused(_))));
        assert_eq!(of(200, r#"{"id":"x"}"#), Ok(serde_json::json!({"id": "x"})));
    }
}
