//! The words of the chat formats: a question about a listener and a passage, and an answer for either kind.
//!
//! Placeholders stand in braces. What is put in is never looked at again, so a text may hold braces of its own.

use super::DatasetError;

const USER: &str = "{saves}, {context} and {text}";
const ANSWER: &str = "{action} and {reason}";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub system: String,
    pub user: String,
    pub saved: String,
    pub skipped: String,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            system: "You judge whether a listener would save a passage, from what the same listener saved before. \
                     Answer yes or no."
                .to_owned(),
            user: "This listener saved:\n{saves}\n\nWould this listener save the following passage?\n{context}{text}"
                .to_owned(),
            saved: "yes{reason}".to_owned(),
            skipped: "no{reason}".to_owned(),
        }
    }
}

/// Refuses words that could not be filled in.
pub fn check(field: &str, template: &str) -> Result<(), DatasetError> {
    let lacks = |missing| Err(DatasetError::Template { field: field.to_owned(), missing });
    if template.trim().is_empty() {
        return lacks("visible characters");
    }
    if field == "user_message" && !template.contains("{text}") {
        return lacks("the placeholder {text}");
    }
    let valid: &[&str] = match field {
        "user_message" => &["saves", "context", "text"],
        "saved_answer" | "skipped_answer" => &["action", "reason"],
        _ => &[],
    };
    let mut unknown = None;
    fill(template, |name| {
        if !valid.contains(&name) {
            unknown.get_or_insert(format!("{{{name}}}"));
        }
        Some("")
    });
    match unknown {
        None => Ok(()),
        Some(found) => Err(DatasetError::Placeholder {
            field: field.to_owned(),
            found,
            valid: match valid.first() {
                Some(&"saves") => USER,
                Some(_) => ANSWER,
                None => "no placeholder",
            },
        }),
    }
}

/// The template with its placeholders replaced; `{word}` that `value` does not know stays as it is.
pub fn fill<'a>(template: &str, mut value: impl FnMut(&str) -> Option<&'a str>) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        let name_end = rest[start + 1..].find(|c: char| !c.is_ascii_lowercase() && c != '_').map(|n| start + 1 + n);
        let known = name_end
            .filter(|&end| end > start + 1 && rest[end..].starts_with('}'))
            .and_then(|end| value(&rest[start + 1..end]).map(|text| (text, end + 1)));
        match known {
            Some((text, end)) => {
                filled.push_str(text);
                rest = &rest[end..];
            }
            None => {
                filled.push('{');
                rest = &rest[start + 1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        let filled = fill("{a} and {b}{", |name| match name {
            "a" => Some("{b}"),
            "b" => Some("x"),
            _ => None,
        });
        assert_eq!(filled, "{b} and x{");
        assert_eq!(fill("{\"answer\": \"{a}\"} {Z} {}", |_| Some("v")), "{\"answer\": \"v\"} {Z} {}");
    }

    #[test]
    fn the_built_in_words_pass_their_own_check() {
        let words = Template::default();
        for (field, text) in [
            ("system_message", &words.system),
            ("user_message", &words.user),
            ("saved_answer", &words.saved),
            ("skipped_answer", &words.skipped),
        ] {
            assert_eq!(check(field, text), Ok(()));
        }
    }

    #[test]
    fn unknown_and_missing_placeholders_are_named() {
        let error = check("user_message", "{text} {title}").unwrap_err();
        assert_eq!(error.to_string(), "user_message has an unknown placeholder \"{title}\"");
        assert_eq!(error.detail(), "It may hold {saves}, {context} and {text}.");
        assert_eq!(
            check("user_message", "Save it?").unwrap_err().to_string(),
            "user_message lacks the placeholder {text}"
        );
        assert!(check("saved_answer", " ").is_err());
        assert!(check("system_message", "{text}").is_err());
        assert!(check("skipped_answer", "{\"save\": false}").is_ok());
    }
}
