//! Options of CREATE SERVER and CREATE USER MAPPING: one table says what exists, where, and what fits.

use std::fmt;

use super::{address, dialect};

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
    /// The only protocol that has it; empty: all have.
    protocol: &'static str,
    required: bool,
    check: fn(&str) -> Result<(), &'static str>,
}

const PROTOCOLS: [&str; 5] = ["openai", "together", "fireworks", "bedrock", "cohere"];

const fn server(name: &'static str, protocol: &'static str, required: bool, check: Check) -> Rule {
    Rule { name, place: Place::Server, superuser: false, protocol, required, check }
}

const fn mapping(name: &'static str, superuser: bool) -> Rule {
    Rule { name, place: Place::UserMapping, superuser, protocol: "", required: false, check: header_text }
}

type Check = fn(&str) -> Result<(), &'static str>;

const RULES: [Rule; 11] = [
    server("protocol", "", true, protocol),
    server("base_url", "", true, base_url),
    server("dialect", "openai", false, dialect),
    server("account", "fireworks", true, segment),
    server("region", "bedrock", true, segment),
    server("role_arn", "bedrock", true, role_arn),
    server("s3_uri", "bedrock", true, s3_uri),
    server("s3_url", "bedrock", false, base_url),
    mapping("api_key", false),
    mapping("api_key_env", true),
    mapping("api_key_file", true),
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
    let of = |wanted: &str| options.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let protocol = of("protocol").unwrap_or_default();
    for (name, value) in options {
        let rule =
            RULES.iter().find(|rule| rule.place == place && rule.name == name).ok_or_else(|| unknown(place, name))?;
        if rule.superuser && !superuser {
            return Err(Error::Superuser { name: name.clone() });
        }
        let refuse = |reason| Error::Value { name: name.clone(), reason };
        (rule.check)(value).map_err(refuse)?;
        if !rule.protocol.is_empty() && rule.protocol != protocol {
            return Err(refuse(OTHER_PROTOCOL));
        }
        if !superuser && name.ends_with("_url") {
            reachable(value).map_err(refuse)?;
        }
    }
    let missing = |rule: &&Rule| {
        let applies = rule.protocol.is_empty() || rule.protocol == protocol;
        rule.place == place && rule.required && applies && of(rule.name).is_none()
    };
    match RULES.iter().find(missing) {
        Some(rule) => Err(Error::Missing { name: rule.name }),
        None if place == Place::UserMapping && options.is_empty() => Err(Error::Missing { name: "api_key_env" }),
        None => Ok(()),
    }
}

const OTHER_PROTOCOL: &str =
    "no value with this protocol: dialect belongs to openai, account to fireworks, region, role_arn, s3_uri and s3_url to bedrock";

fn unknown(place: Place, name: &str) -> Error {
    let valid: Vec<&'static str> = RULES.iter().filter(|rule| rule.place == place).map(|rule| rule.name).collect();
    Error::Unknown { name: name.to_owned(), valid: valid.join(", "), nearest: nearest(&valid, name) }
}

/// The known name that a misspelt one probably means.
pub fn nearest(known: &[&'static str], name: &str) -> Option<&'static str> {
    let closest = known.iter().copied().min_by_key(|known| distance(known, name));
    closest.filter(|known| distance(known, name) <= 3)
}

fn protocol(value: &str) -> Result<(), &'static str> {
    PROTOCOLS.contains(&value).then_some(()).ok_or("one of openai, together, fireworks, bedrock, cohere")
}

fn dialect(value: &str) -> Result<(), &'static str> {
    dialect::NAMES.contains(&value).then_some(()).ok_or("one of openai, azure, mantle, trainer")
}

fn base_url(value: &str) -> Result<(), &'static str> {
    let url = address::parse(value)?;
    (url.query().is_none() && url.fragment().is_none()).then_some(()).ok_or("an address without ? and #")
}

/// What a role without superuser rights may name: https to the world, or this machine, where the superuser's
/// list of allowed origins has the last word.
fn reachable(value: &str) -> Result<(), &'static str> {
    let url = address::parse(value)?;
    let here = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    if here || address::permit(value, "").is_ok() {
        return Ok(());
    }
    Err("an https:// address outside (http:// only for 127.0.0.1 and localhost; others are a superuser's to set)")
}

fn segment(value: &str) -> Result<(), &'static str> {
    let fits =
        (1..=63).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    fits.then_some(()).ok_or("1 to 63 letters, digits, - and _")
}

fn role_arn(value: &str) -> Result<(), &'static str> {
    let fits = value.starts_with("arn:aws") && value.contains(":role/") && header_text(value).is_ok();
    fits.then_some(()).ok_or("the ARN of a role that may read and write s3_uri: arn:aws:iam::123456789012:role/NAME")
}

fn s3_uri(value: &str) -> Result<(), &'static str> {
    let bucket = value.strip_prefix("s3://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    let fits = (3..=63).contains(&bucket.len()) && bucket.bytes().all(letters) && !value.contains(['?', '#', '%']);
    (fits && header_text(value).is_ok()).then_some(()).ok_or("s3://BUCKET/FOLDER")
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

    #[test]
    fn each_protocol_has_its_own_options() {
        let bedrock = [
            ("protocol", "bedrock"),
            ("base_url", "https://bedrock.us-west-2.amazonaws.com"),
            ("region", "us-west-2"),
            ("role_arn", "arn:aws:iam::123456789012:role/tune"),
            ("s3_uri", "s3://my-bucket/folder"),
        ];
        check(Place::Server, &bedrock).unwrap();
        assert_eq!(check(Place::Server, &bedrock[..4]), Err(Error::Missing { name: "s3_uri" }));
        let fireworks = [("protocol", "fireworks"), ("base_url", "https://api.fireworks.ai/v1")];
        assert_eq!(check(Place::Server, &fireworks), Err(Error::Missing { name: "account" }));
        let openai = [("protocol", "openai"), ("base_url", "https://a.example"), ("region", "us-west-2")];
        assert!(matches!(check(Place::Server, &openai), Err(Error::Value { reason: OTHER_PROTOCOL, .. })));
        for bad in [("dialect", "klingon"), ("base_url", "https://a.example/?x")] {
            let options = [("protocol", "openai"), ("base_url", "https://a.example"), bad];
            assert!(matches!(check(Place::Server, &options), Err(Error::Value { .. })), "{bad:?}");
        }
        for bad in ["s3://b", "https://bucket", "s3://bucket/a b", "s3://Bucket/x"] {
            assert!(s3_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_inside_are_a_superusers() {
        let options = |url: &str| {
            let pairs = [("protocol", "openai"), ("base_url", url)];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        for url in ["http://10.0.0.1:8484/v1", "https://169.254.169.254", "https://167772161/"] {
            assert!(validate(Place::Server, &options(url), false).is_err(), "{url}");
            validate(Place::Server, &options(url), true).unwrap();
        }
        validate(Place::Server, &options("http://127.0.0.1:8484/v1"), false).unwrap();
        assert!(validate(Place::Server, &options("http://u:p@127.0.0.1/"), true).is_err());
    }
}
