//! How many tokens a training file holds: with the model's own tokenizer where there is one, else from its bytes.

use serde_json::Value;
use tiktoken_rs::tokenizer::{get_tokenizer, Tokenizer};
use tiktoken_rs::CoreBPE;

/// The tokenizer looks at so much of a file; what is beyond is taken to be alike.
pub const SAMPLE: usize = 1 << 20;
/// Marks around each message of a chat.
const PER_MESSAGE: u64 = 4;
/// Other vendors' advice for files whose tokenizer is not public.
const BYTES_PER_TOKEN: u64 = 4;
const BYTES_PER_TOKEN_BEDROCK: u64 = 6;

#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    pub tokens: u64,
    /// How: in the words that users read.
    pub how: String,
}

/// `sample`: the beginning of the file, of `bytes` in all.
pub fn count(protocol: &str, base_model: &str, sample: &[u8], bytes: u64) -> Counted {
    let sample = String::from_utf8_lossy(&sample[..sample.len().min(SAMPLE)]);
    let whole = sample.len() as u64 >= bytes;
    // A row that the sample cuts in two is left out.
    let rows = if whole { &sample } else { sample.rfind('\n').map_or("", |end| &sample[..=end]) };
    match tokenizer(base_model).filter(|_| !rows.is_empty()) {
        Some((name, bpe)) => {
            let counted: u64 = rows.lines().map(|row| of_row(&bpe, row)).sum();
            let tokens = if whole { counted } else { scaled(counted, rows.len() as u64, bytes) };
            let part = if whole { "" } else { " on the first megabyte, the rest taken to be alike" };
            Counted { tokens, how: format!("counted with {name}{part}") }
        }
        None => {
            let per_token = if protocol == "bedrock" { BYTES_PER_TOKEN_BEDROCK } else { BYTES_PER_TOKEN };
            Counted { tokens: bytes.div_ceil(per_token), how: format!("estimated as bytes / {per_token}") }
        }
    }
}

fn scaled(counted: u64, seen: u64, bytes: u64) -> u64 {
    (counted as f64 * bytes as f64 / seen as f64).ceil() as u64
}

/// The tokenizer of a model, by the name that its vendor gave it; other vendors' models have none here.
fn tokenizer(base_model: &str) -> Option<(&'static str, CoreBPE)> {
    let name = base_model.rsplit('/').next()?.trim_start_matches("ft:").split(':').next()?;
    let (name, bpe) = match get_tokenizer(name)? {
        Tokenizer::O200kHarmony => ("o200k_harmony", tiktoken_rs::o200k_harmony()),
        Tokenizer::O200kBase => ("o200k_base", tiktoken_rs::o200k_base()),
        Tokenizer::Cl100kBase => ("cl100k_base", tiktoken_rs::cl100k_base()),
        _ => return None,
    };
    Some((name, bpe.ok()?))
}

fn of_row(bpe: &CoreBPE, row: &str) -> u64 {
    match serde_json::from_str::<Value>(row) {
        Ok(value) => of_value(bpe, &value),
        Err(_) => bpe.encode_ordinary(row).len() as u64,
    }
}

/// What the model reads: texts, not the names of the fields around them.
fn of_value(bpe: &CoreBPE, value: &Value) -> u64 {
    match value {
        Value::String(text) => bpe.encode_ordinary(text).len() as u64,
        Value::Array(items) => items.iter().map(|item| of_value(bpe, item)).sum(),
        Value::Object(fields) => {
            let marks = if fields.contains_key("role") { PER_MESSAGE } else { 0 };
            let texts = fields.iter().filter(|(name, _)| *name != "role");
            marks + texts.map(|(_, value)| of_value(bpe, value)).sum::<u64>()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "{\"messages\":[{\"role\":\"user\",\"content\":\"tiktoken is great!\"}]}\n";

    #[test]
    fn a_real_tokenizer_counts_for_models_that_have_one() {
        // "tiktoken is great!" is 6 tokens in cl100k_base, as the tokenizer's own guide shows.
        let of = |model: &str| count("openai", model, ROW.as_bytes(), ROW.len() as u64);
        assert_eq!(of("gpt-3.5-turbo"), Counted { tokens: 6 + PER_MESSAGE, how: "counted with cl100k_base".into() });
        assert_eq!(of("gpt-4.1-mini-2025-04-14").how, "counted with o200k_base");
        assert_eq!(of("ft:gpt-4o-mini-2024-07-18:org:x:id").how, "counted with o200k_base");
        assert_eq!(of("openai/gpt-oss-20b").how, "counted with o200k_harmony");
    }

    #[test]
    fn others_are_estimated_and_say_so() {
        let of = |protocol: &str| count(protocol, "some-llama", ROW.as_bytes(), 1200);
        assert_eq!(of("together"), Counted { tokens: 300, how: "estimated as bytes / 4".into() });
        assert_eq!(of("bedrock"), Counted { tokens: 200, how: "estimated as bytes / 6".into() });
    }

    #[test]
    fn the_rest_of_a_large_file_is_taken_to_be_alike() {
        let rows = ROW.repeat(100);
        let all = count("openai", "gpt-4o", rows.as_bytes(), rows.len() as u64);
        let cut = &rows.as_bytes()[..rows.len() / 2 + 7];
        let part = count("openai", "gpt-4o", cut, rows.len() as u64);
        assert_eq!(part.tokens, all.tokens);
        assert!(part.how.contains("first megabyte"));
        assert_eq!(count("openai", "gpt-4o", b"", 0).tokens, 0);
        assert!(count("openai", "gpt-4o", &[0xff, 0xfe, b'{'], 3).tokens > 0, "odd bytes are no panic");
    }
}
