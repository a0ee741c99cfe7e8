//! What a chat model's answer says: yes or no, in the words of the template that it was trained with.

use super::template::{fill, Template};
use super::DatasetError;

/// Actions that an answer may name.
const SAVED: [&str; 2] = ["saved", "snipped"];
const SKIPPED: [&str; 2] = ["skipped", "ignored"];

/// How either answer begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    saved: Vec<String>,
    skipped: Vec<String>,
}

impl Reader {
    /// # Errors
    /// Answers that cannot be told apart once their reasons are left out.
    pub fn new(words: &Template) -> Result<Self, DatasetError> {
        let reader = Self { saved: forms(&words.saved, SAVED), skipped: forms(&words.skipped, SKIPPED) };
        let alike = reader.saved.iter().any(|form| form.is_empty() || reader.skipped.contains(form));
        if alike || reader.skipped.iter().any(String::is_empty) {
            let missing = "words before its reason that tell it from the other answer";
            return Err(DatasetError::Template { field: "saved_answer".to_owned(), missing });
        }
        Ok(reader)
    }

    /// Some(true) = would save; None = neither.
    pub fn read(&self, answer: &str) -> Option<bool> {
        let answer = plain(answer);
        let longest = |forms: &[String]| {
            forms.iter().filter(|form| begins(&answer, form)).map(String::len).max().unwrap_or_default()
        };
        let (saved, skipped) = (longest(&self.saved), longest(&self.skipped));
        (saved != skipped).then_some(saved > skipped)
    }
}

fn forms(template: &str, actions: [&str; 2]) -> Vec<String> {
    let mut forms: Vec<String> = actions
        .iter()
        .map(|action| {
            plain(&fill(template, |name| match name {
                "action" => Some(action),
                "reason" => Some(""),
                _ => None,
            }))
        })
        .collect();
    forms.dedup();
    forms
}

/// Lower case, single spaces, without the quotes and marks that models like to put around a word.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let marks = |c: char| c.is_whitespace() || "\"'`*_.,:;!-".contains(c);
    words.join(" ").to_lowercase().trim_matches(marks).to_owned()
}

/// Whole words only: "nothing" does not begin with "no".
fn begins(answer: &str, form: &str) -> bool {
    answer.strip_prefix(form).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_words_are_read_in_every_dress() {
        let reader = Reader::new(&Template::default()).unwrap();
        for yes in ["yes", "Yes.", " YES: it is about harbours", "**Yes**, surely", "\"yes\"", "yes\nno"] {
            assert_eq!(reader.read(yes), Some(true), "{yes}");
        }
        for no in ["no", "No: heard before", "no, although yes", "'No'"] {
            assert_eq!(reader.read(no), Some(false), "{no}");
        }
        for neither in ["", "nothing", "I would say yes", "maybe", "yesterday", "!"] {
            assert_eq!(reader.read(neither), None, "{neither}");
        }
    }

    #[test]
    fn other_words_are_read_as_they_were_written() {
        let of = |saved: &str, skipped: &str| {
            Reader::new(&Template { saved: saved.into(), skipped: skipped.into(), ..Template::default() })
        };
        let json = of("{\"save\": true}", "{\"save\": false}").unwrap();
        assert_eq!(json.read("{\"save\": true}"), Some(true));
        assert_eq!(json.read("{\"save\":  false}"), Some(false));
        let actions = of("{action}{reason}", "{action}{reason}").unwrap();
        assert_eq!((actions.read("snipped: short"), actions.read("Skipped")), (Some(true), Some(false)));
        let longer = of("yes", "yes but no").unwrap();
        assert_eq!((longer.read("yes but no"), longer.read("yes but")), (Some(false), Some(true)));
        for (saved, skipped) in [("ok{reason}", "ok{reason}"), ("{reason}", "no"), ("yes", "{reason}")] {
            let error = of(saved, skipped).unwrap_err();
            assert!(error.to_string().contains("tell it from the other"), "{error}");
        }
    }
}
