//! A key in a type that cannot be printed.

use std::fmt;

#[derive(Clone, PartialEq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The key itself, for the one place that puts it into a header.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Text that came from outside, with the key (a provider may echo it) masked.
    pub fn scrub(&self, text: &str) -> String {
        // A key may be several in one (auth.rs): each is masked, too.
        let parts = self.0.split([':', ',']).filter(|part| part.len() >= SHORTEST_PART);
        let whole = Some(self.0.as_str()).filter(|key| !key.is_empty());
        whole.into_iter().chain(parts).fold(text.to_owned(), |text, part| text.replace(part, MASK))
    }
}

/// Shorter parts are words that stand in any text.
const SHORTEST_PART: usize = 8;
const MASK: &str = "********";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_prints() {
        let key = Secret::new("sk-canary");
        assert_eq!(format!("{key:?}"), MASK);
        assert_eq!(key.scrub("bad key sk-canary, sk-canary"), "bad key ********, ********");
        let pair = Secret::new("AKIDEXAMPLE:wJalrXUtnFEMI:token");
        assert_eq!(pair.scrub("no user AKIDEXAMPLE, wJalrXUtnFEMI, token"), "no user ********, ********, token");
        assert_eq!(Secret::new("").scrub("nothing"), "nothing");
    }
}
