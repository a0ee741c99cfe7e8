//! Protocol `openai`: OpenAI and the hosts that speak its dialect.

use std::fmt;

use serde::Deserialize;

#[derive(Debug, PartialEq)]
pub enum Error {
    Refused { status: u16, message: String },
    NotJson { status: u16, start: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { status, message } => {
                write!(f, "the provider answered {status}: {message}")
            }
            Self::NotJson { status, start } => {
                write!(f, "the provider answered {status} with something that is not its protocol: {start}")
            }
        }
    }
}

impl std::error::Error for Error {}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: RefusalBody,
}

#[derive(Deserialize)]
struct RefusalBody {
    message: String,
}

/// Address of the list of models.
pub fn models_url(base_url: &str) -> String {
    format!("{}/models", base_url.trim_end_matches('/'))
}

/// Names of the models in the answer to a GET of `models_url`.
///
/// # Errors
/// `Refused` with the provider's own words, `NotJson` with the start of what came instead.
pub fn parse_models(status: u16, body: &str) -> Result<Vec<String>, Error> {
    if status == 200 {
        if let Ok(list) = serde_json::from_str::<ModelList>(body) {
            return Ok(list.data.into_iter().map(|model| model.id).collect());
        }
    } else if let Ok(refusal) = serde_json::from_str::<Refusal>(body) {
        return Err(Error::Refused { status, message: refusal.error.message });
    }
    Err(Error::NotJson { status, start: body.chars().filter(|c| !c.is_control()).take(200).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_or_quoted() {
        assert_eq!(
            parse_models(200, r#"{"object":"list","data":[{"id":"a"},{"id":"b","x":1}]}"#),
            Ok(vec!["a".into(), "b".into()])
        );
        assert_eq!(
            parse_models(401, r#"{"error":{"message":"bad key"}}"#),
            Err(Error::Refused { status: 401, message: "bad key".into() })
        );
        let Err(Error::NotJson { status: 200, start }) = parse_models(200, "<html>\nhi") else { panic!() };
        assert_eq!(start, "<html>hi");
        assert_eq!(models_url("http://127.0.0.1:1/v1/"), "http://127.0.0.1:1/v1/models");
    }
}
