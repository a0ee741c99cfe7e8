//! Answers of chat models: POST /chat/completions, in the shape that all hosts have taken over from OpenAI.

use serde_json::{json, Value};

use super::dialect;
use super::fault::{self, Fault, Refusal};
use super::protocol::Server;
use super::wire::{Answer, Auth, Request, Verb};

/// Tokens of an answer: its first word is what counts, the reason behind it may be cut.
pub const LONGEST_ANSWER: u64 = 32;
/// Marks around each message of a chat, and before the answer.
const MARKS: u64 = 8;

/// What a model said, and what the provider counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    pub text: String,
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
}

/// Asks a model one question. Marked as sent once: what may have been answered may have been billed.
///
/// # Errors
/// `Refused` for a protocol without chat.
pub fn request(server: &Server, model: &str, system: &str, question: &str) -> Result<Request, Fault> {
    let (base_url, auth, limit) = match server.protocol.as_str() {
        "openai" => {
            let dialect = dialect::of(server);
            let newer = matches!(dialect.name, "openai" | "azure");
            let limit = if newer { "max_completion_tokens" } else { "max_tokens" };
            (server.base_url.clone(), dialect.auth.clone(), limit)
        }
        "together" => (server.base_url.clone(), Auth::Bearer, "max_tokens"),
        // Models are made at one address and asked at another.
        "fireworks" => (inference(&server.base_url), Auth::Bearer, "max_tokens"),
        other => {
            return Err(Refusal::of(
                "protocol",
                format!("protocol \"{other}\" has no chat that this version speaks"),
                "Declare the host's OpenAI-compatible address as a server of protocol openai, and register the model there.",
            ))
        }
    };
    let mut body = json!({
        "model": model,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
        "temperature": 0,
    });
    body[limit] = LONGEST_ANSWER.into();
    Ok(Request::new(Verb::Post, format!("{base_url}/chat/completions"), auth).json(body).once())
}

fn inference(base_url: &str) -> String {
    match base_url.strip_suffix("/v1") {
        Some(host) if !host.ends_with("/inference") => format!("{host}/inference/v1"),
        _ => base_url.to_owned(),
    }
}

/// # Errors
/// What the provider said instead of an answer.
pub fn read(answer: &Answer) -> Result<Reply, Fault> {
    let body = fault::json(answer)?;
    let message = &body["choices"][0]["message"];
    let text = match &message["content"] {
        Value::String(text) => text.clone(),
        // A refusal, or all of the answer's tokens spent on thinking.
        Value::Null if message.is_object() => String::new(),
        _ => return Err(fault::not_protocol(answer)),
    };
    let count = |name: &str| body["usage"][name].as_u64();
    Ok(Reply { text, prompt_tokens: count("prompt_tokens"), completion_tokens: count("completion_tokens") })
}

/// A number of tokens that no tokenizer over bytes exceeds: what a question may cost at most.
pub fn most_tokens(system: &str, question: &str) -> u64 {
    (system.len() + question.len()) as u64 + 2 * MARKS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::wire::Body;

    fn server(protocol: &str, base_url: &str) -> Server {
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Server::new([option("protocol", protocol), option("base_url", base_url)])
    }

    #[test]
    fn each_host_is_asked_where_and_how_it_answers() {
        let of = |protocol: &str, base_url: &str| request(&server(protocol, base_url), "m", "s", "q").unwrap();
        let azure = of("openai", "https://a.openai.azure.com/openai/v1");
        assert_eq!(azure.url, "https://a.openai.azure.com/openai/v1/chat/completions");
        assert_eq!(azure.auth, Auth::Header("api-key"));
        assert_eq!(of("fireworks", "https://f/v1").url, "https://f/inference/v1/chat/completions");
        assert_eq!(of("together", "https://t/v1").url, "https://t/v1/chat/completions");
        let limit = |request: &Request| match &request.body {
            Body::Json(body) => (body["max_tokens"].as_u64(), body["max_completion_tokens"].as_u64()),
            _ => (None, None),
        };
        assert_eq!(limit(&azure), (None, Some(LONGEST_ANSWER)));
        assert_eq!(limit(&of("openai", "http://127.0.0.1/v1")), (Some(LONGEST_ANSWER), None));
        assert!(azure.once, "an answer that was lost may have been billed");
        let refused = request(&server("bedrock", "https://b"), "m", "s", "q").unwrap_err();
        assert!(refused.to_string().contains("no chat"), "{refused}");
    }

    #[test]
    fn answers_are_read_with_their_counts() {
        let of = |status, body: &str| read(&Answer { status, body: body.into(), ..Answer::default() });
        let good = r#"{"choices":[{"message":{"role":"assistant","content":"yes: new"}}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
        let reply = Reply { text: "yes: new".into(), prompt_tokens: Some(7), completion_tokens: Some(2) };
        assert_eq!(of(200, good), Ok(reply));
        let silent = of(200, r#"{"choices":[{"message":{"content":null,"refusal":"no"}}]}"#).unwrap();
        assert_eq!(silent, Reply::default());
        for bad in ["{}", r#"{"choices":[]}"#, r#"{"choices":[{"message":{"content":[1]}}]}"#, "<html>"] {
            assert!(matches!(of(200, bad), Err(Fault::NotProtocol { .. })), "{bad}");
        }
        assert!(matches!(of(429, "{}"), Err(Fault::Throttled { .. })));
    }
}
