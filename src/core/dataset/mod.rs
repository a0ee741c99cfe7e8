//! What happens to a frozen dataset outside the database: triplets for contrastive training, lines for providers.

pub mod export;
pub mod hash;
pub mod moment;
pub mod search;
pub mod template;
pub mod triplets;
pub mod twins;
pub mod verdict;

use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use hash::Hash;
use moment::Moment;
use sha2::{Digest, Sha256};

/// One frozen example: what triplets and questions are made of.
#[derive(Debug, Clone, Default)]
pub struct Example {
    /// shared with the rows that are made of them
    pub id: Rc<str>,
    pub text: Rc<str>,
    pub content_hash: Hash,
    pub vector: Vec<f32>,
    pub action: Rc<str>,
    /// true = positive
    pub label: bool,
    pub split: Split,
    pub surface: Option<Rc<str>>,
    pub context: Option<String>,
    /// what was said about the action
    pub reason: Option<String>,
    pub actioned_at: Moment,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Split {
    #[default]
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

/// What of the train side a training file holds: the texts held back for validation stand in no line of the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part {
    Whole,
    Kept { share: f64 },
    HeldBack { share: f64 },
}

impl Part {
    /// Whether a text of the train side may have lines of its own here. The same texts for every job of a dataset.
    pub fn takes(self, seed: i64, content_hash: &[u8]) -> bool {
        match self {
            Self::Whole => true,
            Self::Kept { share } => !held_back(share, seed, content_hash),
            Self::HeldBack { share } => held_back(share, seed, content_hash),
        }
    }

    /// Whether a text may stand in a line about another one.
    pub fn shows(self, seed: i64, content_hash: &[u8]) -> bool {
        matches!(self, Self::HeldBack { .. }) || self.takes(seed, content_hash)
    }
}

/// A draw by the text alone: copies of a text stay together, and one more text moves no other.
fn held_back(share: f64, seed: i64, content_hash: &[u8]) -> bool {
    let digest = Sha256::new().chain_update(b"validation").chain_update(seed.to_le_bytes()).chain_update(content_hash);
    let digest = digest.finalize();
    let draw = u64::from_le_bytes(std::array::from_fn(|i| digest[i]));
    (draw as f64) < share * u64::MAX as f64
}

#[derive(Debug, Clone, PartialEq)]
pub enum DatasetError {
    Unknown { what: &'static str, name: String, valid: Vec<&'static str> },
    Parameter { name: &'static str, value: String, valid: &'static str, example: &'static str },
    Window { negatives: usize, range_min: usize, range_max: usize },
    EmptyText { user_id: String, id: String, format: &'static str },
    Placeholder { field: String, found: String, valid: &'static str },
    Template { field: String, missing: &'static str },
}

impl DatasetError {
    fn unknown(what: &'static str, name: &str, valid: &[&'static str]) -> Self {
        Self::Unknown { what, name: name.to_owned(), valid: valid.to_vec() }
    }

    /// The fact behind the message.
    pub fn detail(&self) -> String {
        match self {
            Self::Unknown { what, valid, .. } => format!("Valid for {what}: {}.", valid.join(", ")),
            Self::Parameter { valid, .. } => format!("{valid}."),
            Self::Window { negatives, range_min, range_max } => format!(
                "{negatives} negatives are wanted from the ranks {range_min} to {range_max}, which hold {}.",
                range_max.saturating_sub(*range_min)
            ),
            Self::Placeholder { valid, .. } => format!("It may hold {valid}."),
            Self::Template { missing, .. } => format!("It must hold {missing}."),
            Self::EmptyText { user_id, id, .. } => {
                format!("Example \"{id}\" of user \"{user_id}\" has a chunk_content without a visible character.")
            }
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown { what, valid, .. } => format!("Call it with {what} => '{}', for example.", valid[0]),
            Self::Parameter { name, example, .. } => format!("Call it with {name} => {example}, for example."),
            Self::Window { negatives, range_min, .. } => {
                format!("Call it with range_max => {} or a smaller range_min.", range_min + 10 * negatives)
            }
            Self::Placeholder { field, .. } | Self::Template { field, .. } => {
                format!("SELECT set_export_template({field} => '...'); the words of before stay until then.")
            }
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
            Self::Parameter { name, value, .. } => write!(f, "{name} is {value}"),
            Self::Window { .. } => write!(f, "the window of ranks is too small"),
            Self::Placeholder { field, found, .. } => write!(f, "{field} has an unknown placeholder \"{found}\""),
            Self::Template { field, missing } => write!(f, "{field} lacks {missing}"),
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
    fn a_text_is_kept_or_held_back_and_never_shown_where_it_is_not_kept() {
        let (kept, held) = (Part::Kept { share: 0.1 }, Part::HeldBack { share: 0.1 });
        let texts = (0..10_000_u32).map(u32::to_le_bytes);
        let mut count = 0;
        for text in texts {
            assert_ne!(kept.takes(42, &text), held.takes(42, &text));
            assert_eq!(kept.shows(42, &text), kept.takes(42, &text));
            assert!(held.shows(42, &text) && Part::Whole.takes(42, &text));
            count += u32::from(held.takes(42, &text));
        }
        assert!((900..1100).contains(&count), "{count}");
        assert!((0..100_u32).all(|text| !Part::HeldBack { share: 0.0 }.takes(1, &text.to_le_bytes())));
    }

    #[test]
    fn an_unknown_name_lists_the_valid_ones() {
        let error = "validation".parse::<Split>().unwrap_err();
        assert_eq!(error.to_string(), "split \"validation\" is unknown");
        assert_eq!(error.detail(), "Valid for split: train, test.");
    }
}
