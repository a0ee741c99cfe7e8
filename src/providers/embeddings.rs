//! Vectors of texts from hosts that speak the OpenAI protocol: POST /embeddings.

use serde_json::{json, Value};

use super::dialect;
use super::fault::{self, Fault, Refusal};
use super::protocol::Server;
use super::wire::{Answer, Request, Verb};

/// Texts of one request: the answer stays small whatever the dimensions.
pub const BATCH: usize = 64;

/// Vectors, and what the provider counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    pub tokens: Option<u64>,
}

/// Asks for the vectors of at most `BATCH` texts under a model's name at the provider. Marked as sent once: what may have
/// been answered may have been billed.
///
/// # Errors
/// `Refused` for a protocol that has no embeddings.
pub fn request(server: &Server, model: &str, texts: &[String]) -> Result<Request, Fault> {
    if server.protocol != "openai" {
        return Err(Refusal::of(
            "protocol",
            format!("protocol \"{}\" has no embeddings", server.protocol),
            "Only hosts of protocol openai answer for embedding models.",
        ));
    }
    let url = format!("{}/embeddings", server.base_url);
    let body = json!({ "model": model, "input": texts, "encoding_format": "float" });
    Ok(Request::new(Verb::Post, url, dialect::of(server).auth.clone()).json(body).once())
}

/// One vector per text, in the texts' order, all of the same length.
///
/// # Errors
/// What the provider said instead; `NotProtocol` for vectors that are missing, of different lengths or not finite.
pub fn read(answer: &Answer, texts: usize) -> Result<Embedded, Fault> {
    let body = fault::json(answer)?;
    let mut vectors = vec![Vec::new(); texts];
    for item in body["data"].as_array().map_or(&[][..], Vec::as_slice) {
        let index = item["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        if let Some(place) = index.and_then(|index| vectors.get_mut(index)) {
            *place = numbers(&item["embedding"]);
        }
    }
    let dim = vectors.first().map_or(0, Vec::len);
    match dim > 0 && vectors.iter().all(|vector| vector.len() == dim && vector.iter().all(|v| v.is_finite())) {
        true => Ok(Embedded { vectors, tokens: tokens(&body["usage"]) }),
        false => Err(fault::not_protocol(answer)),
    }
}

fn tokens(usage: &Value) -> Option<u64> {
    usage["prompt_tokens"].as_u64().or_else(|| usage["total_tokens"].as_u64())
}

fn numbers(value: &Value) -> Vec<f32> {
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    items.iter().map(|number| number.as_f64().map_or(f32::NAN, |number| number as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.as_bytes().to_vec(), ..Answer::default() }
    }

    #[test]
    fn texts_are_asked_for_by_model() {
        let server = |protocol: &str| {
            Server::new([
                ("protocol".to_owned(), protocol.to_owned()),
                ("base_url".to_owned(), "http://h/v1/".to_owned()),
            ])
        };
        let request = request(&server("openai"), "ft:m", &["a".to_owned()]).unwrap();
        assert_eq!((request.url.as_str(), request.once), ("http://h/v1/embeddings", true));
        let refused = super::request(&server("fireworks"), "m", &[]).unwrap_err();
        assert!(refused.to_string().contains("has no embeddings"));
    }

    #[test]
    fn vectors_come_in_the_order_of_the_texts_or_not_at_all() {
        let good =
            r#"{"data":[{"index":1,"embedding":[3,4]},{"index":0,"embedding":[1,2.5]}],"usage":{"prompt_tokens":5}}"#;
        let vectors = vec![vec![1.0, 2.5], vec![3.0, 4.0]];
        assert_eq!(read(&answer(200, good), 2), Ok(Embedded { vectors, tokens: Some(5) }));
        for bad in [
            r#"{"data":[{"index":0,"embedding":[1,2]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1,2]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1,"x"]},{"index":1,"embedding":[1,2]}]}"#,
            r#"{"data":[{"index":0,"embedding":[]},{"index":1,"embedding":[]}]}"#,
            r#"{"data":{}}"#,
            "<html>",
        ] {
            assert!(matches!(read(&answer(200, bad), 2), Err(Fault::NotProtocol { .. })), "{bad}");
        }
        assert!(read(&answer(404, r#"{"error":{"message":"no such model"}}"#), 1).is_err());
    }
}
