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
        if self.0.is_empty() {
            text.to_owned()
        } else {
            text.replace(&self.0, MASK)
        }
    }
}

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
        assert_eq!(Secret::new("").scrub("nothing"), "nothing");
    }
}
