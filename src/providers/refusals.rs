//! What providers say when they refuse, in plain words and with what works instead.

use serde_json::Value;

use super::fault::Refusal;
use super::protocol::RemoteError;

const CLOSED_OPENAI: &str = "OpenAI closed fine-tuning to new organisations on 2026-05-07, on 2026-07-02 to those that do not use their tuned models, and takes no job at all after 2027-01-06. Use provider => 'builtin', your own trainer, Azure, Together, Fireworks or Bedrock.";
const CLOSED_COHERE: &str =
    "Cohere ended fine-tuning on 2025-09-15. Use provider => 'builtin' or your own trainer for ranking, Together or Fireworks for chat.";
const LEGACY_BEDROCK: &str = "Amazon takes no new job for a model in its Legacy state. Nova and Llama 3.x are taken: aws bedrock list-foundation-models --by-customization-type FINE_TUNING names them.";
const NO_MONEY: &str =
    "Waiting does not help: raise the account's limit or pay in at the provider, then SELECT retry_job(...).";
const KEY: &str = "Check the key (ALTER USER MAPPING ... OPTIONS), its rights at the provider and base_url, then SELECT retry_job(...).";
const PLAIN: &str = "Correct what the provider names and submit the job again.";

/// Word in code or message (lower case), whether waiting can never help, and the hint.
const KNOWN: [(&str, bool, &str); 12] = [
    ("training_not_available", true, CLOSED_OPENAI),
    ("not available for your organization", true, CLOSED_OPENAI),
    ("fine-tuning is no longer", true, CLOSED_OPENAI),
    ("fine-tuning has been deprecated", true, CLOSED_COHERE),
    ("finetuning is deprecated", true, CLOSED_COHERE),
    ("finetuning has been retired", true, CLOSED_COHERE),
    ("legacy", true, LEGACY_BEDROCK),
    ("end of its life", true, LEGACY_BEDROCK),
    ("insufficient_quota", true, NO_MONEY),
    ("billing_hard_limit_reached", true, NO_MONEY),
    ("insufficient funds", true, NO_MONEY),
    ("credit limit", true, NO_MONEY),
];

/// Code, message and parameter of an error body in any of the providers' forms; None when it is none of them.
pub fn read(body: &[u8], amazon: Option<&str>) -> Option<Refusal> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let error = match value.get("error") {
        Some(inner @ Value::Object(_)) => inner,
        _ => &value,
    };
    let text = |names: &[&str]| names.iter().find_map(|name| word(error.get(*name)));
    // Together and gateways put the whole message into "error"; FastAPI into "detail".
    let message = text(&["message", "Message", "detail", "error", "title"])?;
    let amazon = amazon.map(|name| name.split(':').next().unwrap_or_default().to_owned());
    let code = amazon.or_else(|| text(&["code", "status", "__type", "type"])).unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default().to_owned();
    Some(Refusal { code, message, param: text(&["param"]), hint: String::new() })
}

fn word(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(short(text)),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Providers echo whole rows of training data: a message of ours stays short.
fn short(text: &str) -> String {
    const LONGEST: usize = 500;
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(LONGEST).collect()
}

fn known(refusal: &Refusal) -> Option<&'static (&'static str, bool, &'static str)> {
    let text = format!("{} {}", refusal.code, refusal.message).to_lowercase();
    KNOWN.iter().find(|(mark, _, _)| text.contains(mark))
}

/// Whether it is a no for good, whatever the status says.
pub fn is_final(refusal: &Refusal) -> bool {
    known(refusal).is_some_and(|(_, is_final, _)| *is_final)
}

pub fn in_plain_words(status: u16, mut refusal: Refusal) -> Refusal {
    let otherwise = if matches!(status, 401 | 403) { KEY } else { PLAIN };
    refusal.hint = known(&refusal).map_or(otherwise, |(_, _, hint)| hint).to_owned();
    refusal
}

/// A 403 of OpenAI to "create a job": its new customers hear nothing clearer.
pub fn closed_openai(refusal: Refusal) -> Refusal {
    Refusal { hint: CLOSED_OPENAI.to_owned(), ..refusal }
}

/// The error of a job that failed, with a hint where its words are known.
pub fn of_job(error: RemoteError) -> RemoteError {
    let words = Refusal { code: error.code.clone(), message: error.message.clone(), ..Refusal::default() };
    let hint = known(&words).map_or("", |(_, _, hint)| hint).to_owned();
    RemoteError { message: short(&error.message), hint, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_error_is_read() {
        let of = |body: &str| read(body.as_bytes(), None).map(|r| (r.code, r.message));
        let pair = |code: &str, message: &str| Some((code.to_owned(), message.to_owned()));
        assert_eq!(of(r#"{"error":{"message":"m","type":"t","param":"p","code":"c"}}"#), pair("c", "m"));
        assert_eq!(of(r#"{"error":{"message":"m","type":"t","code":null}}"#), pair("t", "m"));
        assert_eq!(of(r#"{"message":"m","id":"x"}"#), pair("", "m"));
        assert_eq!(of(r#"{"error":"m"}"#), pair("", "m"));
        assert_eq!(of(r#"{"code":5,"message":"m","details":[]}"#), pair("5", "m"));
        assert_eq!(of(r#"{"__type":"com.amazon#Throttled","Message":"m"}"#), pair("Throttled", "m"));
        assert_eq!(of("<html>"), None);
        assert_eq!(of("[]"), None);
        let named = read(br#"{"message":"m"}"#, Some("ValidationException:http://x"));
        assert_eq!(named.map(|r| r.code), Some("ValidationException".into()));
    }

    #[test]
    fn closed_doors_name_another_one() {
        let no = |code: &str, message: &str| {
            let refusal = Refusal { code: code.into(), message: message.into(), ..Refusal::default() };
            assert!(is_final(&refusal), "{code} {message}");
            in_plain_words(403, refusal).hint
        };
        assert!(no("training_not_available", "Fine-tuning is not available").contains("Azure"));
        assert!(no("", "Finetuning is deprecated").contains("2025-09-15"));
        assert!(no("ValidationException", "The model is in LEGACY state").contains("Nova"));
        assert!(no("insufficient_quota", "You exceeded").contains("Waiting does not help"));
        let plain = in_plain_words(400, Refusal::default());
        assert!(plain.hint.contains("submit the job again"));
        assert!(in_plain_words(401, Refusal::default()).hint.contains("USER MAPPING"));
    }
}
