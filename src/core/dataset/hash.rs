//! What a text and a frozen example are known by.

use sha2::{Digest, Sha256};
use unicode_normalization::{is_nfc_quick, IsNormalized, UnicodeNormalization};

pub type Hash = [u8; 32];

/// The same words are the same text: Unicode form and white space do not count; without words the item's key stands in.
pub fn content_hash(text: Option<&str>, chunk_id: Option<&str>, id: &str) -> Hash {
    let mut words = String::with_capacity(text.map_or(0, str::len));
    for word in text.unwrap_or_default().split_whitespace() {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    if words.is_empty() {
        words = match chunk_id {
            Some(chunk) => format!("chunk {chunk}"),
            None => format!("point {id}"),
        };
    }
    if !words.is_ascii() && is_nfc_quick(words.chars()) != IsNormalized::Yes {
        words = words.nfc().collect();
    }
    Sha256::digest(words.as_bytes()).into()
}

/// Numbers of a vector that are hashed at once.
const NUMBERS: usize = 256;

/// One frozen example as its dataset's digest sees it.
pub struct Frozen<'a> {
    pub user_id: &'a str,
    pub id: &'a str,
    pub text: &'a str,
    pub vector: &'a [f32],
    /// of the question that it was shown for; empty = none
    pub query_vector: &'a [f32],
    pub surface: &'a str,
    pub context: &'a str,
    pub reason: &'a str,
    pub action: &'a str,
    pub label: bool,
    pub evidence: &'a str,
    pub weight: f64,
    pub split: &'a str,
}

impl Frozen<'_> {
    /// Every part with its length before it, so that no two examples read alike.
    pub fn hash(&self) -> Hash {
        let mut hash = Sha256::new();
        let parts = [self.user_id, self.id, self.text, self.action, self.evidence, self.split];
        for part in parts.into_iter().chain([self.surface, self.context, self.reason]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update([u8::from(self.label)]);
        hash.update(self.weight.to_bits().to_be_bytes());
        let mut bytes = [0; 4 * NUMBERS];
        for vector in [self.vector, self.query_vector] {
            hash.update((vector.len() as u64).to_be_bytes());
            for numbers in vector.chunks(NUMBERS) {
                bytes.chunks_exact_mut(4).zip(numbers).for_each(|(to, x)| to.copy_from_slice(&x.to_le_bytes()));
                hash.update(&bytes[..4 * numbers.len()]);
            }
        }
        hash.finalize().into()
    }
}

/// A hash over the hashes of all examples; they come sorted, so that the order of rows says nothing.
#[derive(Default)]
pub struct Whole(Sha256);

impl Whole {
    pub fn add(&mut self, hash: &[u8]) {
        self.0.update(hash);
    }

    pub fn finish(self) -> Hash {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_unicode_form_do_not_count() {
        let hash = |text| content_hash(Some(text), None, "x");
        assert_eq!(hash("the  same\nwords "), hash(" the same\u{a0}words"));
        assert_eq!(hash("caf\u{e9}"), hash("cafe\u{301}"));
        assert_ne!(hash("Words"), hash("words"));
    }

    #[test]
    fn items_without_words_are_told_apart_by_their_key() {
        let chunk = content_hash(Some(" \t"), Some("7"), "a");
        assert_eq!(chunk, content_hash(None, Some("7"), "b"));
        assert_ne!(chunk, content_hash(None, None, "7"));
    }

    #[test]
    fn every_part_of_an_example_counts() {
        let plain = Frozen {
            user_id: "u",
            id: "i",
            text: "t",
            vector: &[1.0, 2.0],
            query_vector: &[],
            surface: "",
            context: "",
            reason: "",
            action: "saved",
            label: true,
            evidence: "good",
            weight: 1.0,
            split: "train",
        };
        let variants = [
            Frozen { user_id: "ui", id: "", ..plain },
            Frozen { text: "T", ..plain },
            Frozen { vector: &[1.0, 2.5], ..plain },
            Frozen { vector: &[1.0; 257], ..plain },
            Frozen { vector: &[1.0; 258], ..plain },
            Frozen { vector: &[1.0], query_vector: &[2.0], ..plain },
            Frozen { surface: "s", ..plain },
            Frozen { context: "s", ..plain },
            Frozen { reason: "s", ..plain },
            Frozen { label: false, ..plain },
            Frozen { weight: 2.0, ..plain },
            Frozen { split: "test", ..plain },
        ];
        let hashes: std::collections::HashSet<Hash> = variants.iter().chain([&plain]).map(Frozen::hash).collect();
        assert_eq!(hashes.len(), variants.len() + 1);
    }
}
