//! Why a training run ended without a model.

use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A hyperparameter is unknown, of the wrong type or out of its range.
    Parameter {
        name: String,
        reason: String,
    },
    /// The input contradicts itself: a caller's mistake, not the data's.
    Input(String),
    /// An item's vector cannot be used.
    Vector {
        item: String,
        reason: &'static str,
    },
    TooFewEvents {
        found: usize,
        needed: usize,
    },
    /// All saved or all skipped: nothing to tell apart.
    OneClass {
        events: usize,
        saved: bool,
    },
    /// Training left the ground it is safe on; the model in use stays.
    Diverged {
        candidate: String,
        reason: String,
    },
    TimeLimit {
        seconds: f64,
    },
    /// The file for vectors that do not fit into memory could not be written or read.
    Disk(String),
    /// The observer asked for it.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter { name, reason } => write!(f, "hyperparameter \"{name}\" {reason}"),
            Self::Input(reason) => f.write_str(reason),
            Self::Vector { item, reason } => write!(f, "vector of item \"{item}\" {reason}"),
            Self::TooFewEvents { found, needed } => {
                write!(f, "{found} saved and skipped items, at least {needed} are needed: {} more", needed - found)
            }
            Self::OneClass { events, saved } => {
                let (kind, other) = if *saved { ("saved", "skipped") } else { ("skipped", "saved") };
                write!(f, "all {events} items are {kind} and none is {other}: there is nothing to tell apart")
            }
            Self::Diverged { candidate, reason } => {
                write!(f, "training of candidate \"{candidate}\" was stopped: {reason}")
            }
            Self::TimeLimit { seconds } => {
                write!(f, "training took longer than hyperparameter \"max_seconds\" = {seconds} allows")
            }
            Self::Disk(reason) => write!(f, "vectors that do not fit into memory: {reason}"),
            Self::Stopped => f.write_str("training was stopped on request"),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error.to_string())
    }
}
