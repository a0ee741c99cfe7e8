//! Options of CREATE SERVER and CREATE USER MAPPING: one table says what exists, where, and what fits.

use std::fmt;

/// Where an option stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    Wrapper,
    Server,
    UserMapping,
    ForeignTable,
}

struct Rule {
    name: &'static str,
    place: Place,
    /// Points outside the database: only a superuser may set it.
    superuser: bool,
    check: fn(&str) -> Result<(), &'static str>,
}

const PROTOCOLS: [&str; 5] = ["openai", "together", "fireworks", "bedrock", "cohere"];

const RULES: [Rule; 5] = [
    Rule { name: "protocol", place: Place::Server, superuser: false, check: protocol },
    Rule { name: "base_url", place: Place::Server, superuser: false, check: base_url },
    Rule { name: "api_key", place: Place::UserMapping, superuser: false, check: header_text },
    Rule { name: "api_key_env", place: Place::UserMapping, superuser: true, check: header_text },
    Rule { name: "api_key_file", place: Place::UserMapping, superuser: true, check: header_text },
];

#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    Unknown {
        name: String,
        valid: String,
        nearest: Option<&'static str>,
    },
    Missing {
        name: &'static str,
    },
    /// Never carries the value: it may be a key that was typed into the wrong option.
    Value {
        name: String,
        reason: &'static str,
    },
    Superuser {
        name: String,
    },
    ForeignTable,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, .. } => write!(f, "option \"{name}\" is not known here"),
            Self::Missing { name } => write!(f, "option \"{name}\" is missing"),
            Self::Value { name, .. } => {
                write!(f, "option \"{name}\" has a value that does not fit")
            }
            Self::Superuser { name } => write!(f, "only a superuser may set option \"{name}\""),
            Self::ForeignTable => f.write_str("providers have no foreign tables"),
        }
    }
}

impl std::error::Error for Error {}

/// Checks the complete options of one object.
///
/// # Errors
/// The first rule that is broken.
pub fn validate(place: Place, options: &[(String, String)], superuser: bool) -> Result<(), Error> {
    if place == Place::ForeignTable {
        return Err(Error::ForeignTable);
    }
    for (name, value) in options {
        let rule =
            RULES.iter().find(|rule| rule.place == place && rule.name == name).ok_or_else(|| unknown(place, name))?;
        if rule.superuser && !superuser {
            return Err(Error::Superuser { name: name.clone() });
        }
        (rule.check)(value).map_err(|reason| Error::Value { name: name.clone(), reason })?;
    }
    let has = |wanted: &str| options.iter().any(|(name, _)| name == wanted);
    match place {
        Place::Server if !has("protocol") => Err(Error::Missing { name: "protocol" }),
        Place::Server if !has("base_url") => Err(Error::Missing { name: "base_url" }),
        Place::UserMapping if options.is_empty() => Err(Error::Missing { name: "api_key_env" }),
        _ => Ok(()),
    }
}

fn unknown(place: Place, name: &str) -> Error {
    let valid: Vec<&'static str> = RULES.iter().filter(|rule| rule.place == place).map(|rule| rule.name).collect();
    let nearest =
        valid.iter().copied().min_by_key(|known| distance(known, name)).filter(|known| distance(known, name) <= 3);
    Error::Unknown { name: name.to_owned(), valid: valid.join(", "), nearest }
}

fn protocol(value: &str) -> Result<(), &'static str> {
    PROTOCOLS.contains(&value).then_some(()).ok_or("one of openai, together, fireworks, bedrock, cohere")
}

fn base_url(value: &str) -> Result<(), &'static str> {
    let rest = value
        .strip_prefix("https://")
        .or_else(|| value.strip_prefix("http://127.0.0.1"))
        .or_else(|| value.strip_prefix("http://localhost"));
    match rest {
        None => Err("an https:// address (http:// only for 127.0.0.1 and localhost)"),
        Some(rest) if rest.contains('@') => Err("an address without a user name in it"),
        Some(_) if value.chars().any(|c| c.is_whitespace() || c.is_control()) => Err("an address without blanks"),
        Some(_) => Ok(()),
    }
}

fn header_text(value: &str) -> Result<(), &'static str> {
    let fits = !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic());
    fits.then_some(()).ok_or("printable ASCII without blanks and line ends")
}

/// Levenshtein distance, for names of a few letters.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(place: Place, options: &[(&str, &str)]) -> Result<(), Error> {
        let options: Vec<_> = options.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        validate(place, &options, false)
    }

    #[test]
    fn a_whole_server_passes() {
        check(Place::Server, &[("protocol", "openai"), ("base_url", "https://api.example.com/v1")]).unwrap();
        check(Place::Server, &[("protocol", "openai"), ("base_url", "http://127.0.0.1:8484/v1")]).unwrap();
        check(Place::UserMapping, &[("api_key", "sk-1")]).unwrap();
    }

    #[test]
    fn near_misses_are_named() {
        let Err(Error::Unknown { nearest, .. }) = check(Place::Server, &[("protcol", "openai")]) else { panic!() };
        assert_eq!(nearest, Some("protocol"));
        let Err(Error::Unknown { nearest, .. }) = check(Place::Server, &[("api_key", "sk-1")]) else {
            panic!("a key never stands in a server")
        };
        assert_eq!(nearest, None);
    }

    #[test]
    fn values_are_checked_and_not_repeated() {
        for url in ["ftp://x", "http://example.com", "https://user:pass@example.com", "https://a b"] {
            let error = check(Place::Server, &[("protocol", "openai"), ("base_url", url)]).unwrap_err();
            assert!(matches!(error, Error::Value { .. }) && !error.to_string().contains(url), "{url}");
        }
        assert!(check(Place::UserMapping, &[("api_key", "sk\r\nX: y")]).is_err());
        assert!(check(Place::Server, &[("protocol", "smtp"), ("base_url", "https://a")]).is_err());
        assert_eq!(check(Place::Server, &[("protocol", "openai")]), Err(Error::Missing { name: "base_url" }));
        assert_eq!(
            check(Place::UserMapping, &[("api_key_file", "/x")]),
            Err(Error::Superuser { name: "api_key_file".into() })
        );
        assert_eq!(check(Place::ForeignTable, &[]), Err(Error::ForeignTable));
    }
}
