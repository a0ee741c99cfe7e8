//! What happens to a frozen dataset outside the database: triplets for contrastive training, lines for providers.

pub mod export;
pub mod triplets;

use std::fmt;
use std::str::FromStr;

/// One frozen example, as `dataset_example` holds it.
#[derive(Debug, Clone, Default)]
pub struct Example {
    pub id: String,
    pub chunk_id: Option<String>,
    pub text: String,
    pub content_hash: Vec<u8>,
    pub vector: Vec<f32>,
    pub action: String,
    /// true = positive
    pub label: bool,
    pub evidence: String,
    pub weight: f64,
    pub split: String,
    pub relevance_score: Option<f64>,
    pub surface: Option<String>,
    pub session_id: Option<String>,
    pub context: Option<String>,
    /// ISO 8601, UTC
    pub actioned_at: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    Train,
    Test,
}

impl Split {
    pub const NAMES: [&'static str; 2] = ["train", "test"];

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Split {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Self, DatasetError> {
        match name {
            "train" => Ok(Self::Train),
            "test" => Ok(Self::Test),
            _ => Err(DatasetError::unknown("split", name, &Self::NAMES)),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum DatasetError {
    Unknown { what: &'static str, name: String, valid: Vec<&'static str> },
    PerPositive(i32),
    EmptyText { user_id: String, id: String, format: &'static str },
}

impl DatasetError {
    fn unknown(what: &'static str, name: &str, valid: &[&'static str]) -> Self {
        Self::Unknown { what, name: name.to_owned(), valid: valid.to_vec() }
    }

    /// The fact behind the message.
    pub fn detail(&self) -> String {
        match self {
            Self::Unknown { what, valid, .. } => format!("Valid for {what}: {}.", valid.join(", ")),
            Self::PerPositive(_) => "Between 1 and 16 negatives per positive are useful.".to_owned(),
            Self::EmptyText { user_id, id, .. } => {
                format!("Example \"{id}\" of user \"{user_id}\" has a chunk_content without a visible character.")
            }
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown { what, valid, .. } => format!("Call it with {what} => '{}', for example.", valid[0]),
            Self::PerPositive(_) => "Call it with per_positive => 4, the default.".to_owned(),
            Self::EmptyText { .. } => {
                "Fill or delete that row of training_data_point and create the dataset again, or export format => 'raw'.".to_owned()
            }
        }
    }
}

impl fmt::Display for DatasetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { what, name, .. } => write!(f, "{what} \"{name}\" is unknown"),
            Self::PerPositive(n) => write!(f, "per_positive is {n}"),
            Self::EmptyText { id, format, .. } => {
                write!(f, "example \"{id}\" has no text, which format \"{format}\" needs")
            }
        }
    }
}

impl std::error::Error for DatasetError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_splits_read_back() {
        for name in Split::NAMES {
            assert_eq!(name.parse::<Split>().map(Split::name), Ok(name));
        }
    }

    #[test]
    fn an_unknown_name_lists_the_valid_ones() {
        let error = "validation".parse::<Split>().unwrap_err();
        assert_eq!(error.to_string(), "split \"validation\" is unknown");
        assert_eq!(error.detail(), "Valid for split: train, test.");
    }
}
