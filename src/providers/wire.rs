//! What goes over the wire, as values: the executor owns sockets, files and keys.

use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    Post,
    Put,
    Delete,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// How the executor puts the key on a request; `auth::headers` turns it into headers.
#[derive(Debug, Clone, PartialEq)]
pub enum Auth {
    /// The address itself is the secret (a signed one) or nothing is: the key is not sent.
    None,
    Bearer,
    Header(&'static str),
    SigV4 {
        service: &'static str,
        region: String,
    },
}

/// Which of the job's private local files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Train,
    Validation,
}

/// A part of such a file, streamed from disk: nothing is ever whole in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSlice {
    pub which: Which,
    pub offset: u64,
    pub len: u64,
}

/// multipart/form-data: text fields first, then one file. Its length is always declared, never chunked.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    pub fields: Vec<(&'static str, String)>,
    /// Name of the file's part.
    pub part: &'static str,
    pub filename: String,
    pub content_type: &'static str,
    /// Three bytes that say "UTF-8" stand before the file.
    pub bom: bool,
    pub file: FileSlice,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Empty,
    Json(Value),
    Text {
        content_type: &'static str,
        text: String,
    },
    Multipart(Form),
    /// The bytes alone, with Content-Length.
    File(FileSlice),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub verb: Verb,
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
    pub auth: Auth,
    /// Never sent a second time: when its outcome is not known, `Fault::Ambiguous`, and `find` decides.
    /// A connection that failed before the first byte left is no outcome: that may be tried again.
    pub once: bool,
}

impl Request {
    pub fn new(verb: Verb, url: impl Into<String>, auth: Auth) -> Self {
        Self { verb, url: url.into(), headers: Vec::new(), body: Body::Empty, auth, once: false }
    }

    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    pub fn json(self, body: Value) -> Self {
        self.body(Body::Json(body))
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

/// What came back. Redirects are not followed; the body is capped and already scrubbed of the key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Seconds since 1970 at which it came.
    pub at: i64,
}

impl Answer {
    pub fn ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// Text that is safe as one segment of a path or one value of a query.
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        assert_eq!(encode("ft:a/b é"), "ft%3Aa%2Fb%20%C3%A9");
        assert_eq!(encode("a-b._~9"), "a-b._~9");
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let answer = Answer { headers: vec![("etag".into(), "x".into())], ..Answer::default() };
        assert_eq!(answer.header("ETag"), Some("x"));
        assert_eq!(answer.header("Location"), None);
    }
}
