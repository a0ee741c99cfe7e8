//! The lines of an export, in batches of which each may be read in a transaction of its own.

use super::dataset_rows::{user_error, Source, Users};
use super::dataset_triplets::{Groups, Triplets};
use super::errors::UserError;
use crate::core::dataset::export::{group_lines, Format, Listener};
use crate::core::dataset::template::Template;
use crate::core::dataset::triplets::{Mining, Options};
use crate::core::dataset::{Part, Split};

/// Negatives per positive in the lines of formats made of triplets.
const EXPORT_PER_POSITIVE: i32 = 4;

pub struct Lines {
    format: Format,
    words: Template,
    from: From,
}

// One per export.
#[allow(clippy::large_enum_variant)]
enum From {
    Rows { source: Source, after: Option<(String, String)>, ended: bool },
    Groups(Box<Groups>),
    Users { users: Users, split: Split, current: Option<(Listener, usize)> },
}

impl Lines {
    /// `template` names the words of the chat formats.
    pub fn open(dataset: &str, format: Format, split: Split, template: &str) -> Result<Self, UserError> {
        Self::of(Source::open(dataset, split)?, format, template)
    }

    /// Those of one part of the train side.
    pub fn open_part(dataset: &str, format: Format, part: Part) -> Result<Self, UserError> {
        Self::of(Source::open(dataset, Split::Train)?.only(part), format, "default")
    }

    fn of(source: Source, format: Format, template: &str) -> Result<Self, UserError> {
        let split = source.split();
        let words = source.template(template)?;
        let from = if format == Format::Raw {
            From::Rows { source, after: None, ended: false }
        } else if format.of_triplets() {
            // a pair has no negative to mine
            let mining = if format == Format::Pair { Mining::Random } else { Mining::Hard };
            let options = Options::new(EXPORT_PER_POSITIVE, mining, source.seed()).map_err(user_error)?;
            From::Groups(Box::new(Groups::new(source, options)))
        } else {
            From::Users { users: Users::without_vectors(source), split, current: None }
        };
        Ok(Self { format, words, from })
    }

    /// Some lines, or none yet; None at the end.
    pub fn batch(&mut self) -> Result<Option<Vec<String>>, UserError> {
        match &mut self.from {
            From::Rows { ended: true, .. } => Ok(None),
            From::Rows { source, after, ended } => {
                let (lines, last) = source.raw_lines(after.as_ref())?;
                *ended = last.0.is_empty();
                *after = Some(last);
                Ok(Some(lines))
            }
            From::Groups(groups) => {
                let Some(Triplets { user, group, mined }) = groups.advance()? else { return Ok(None) };
                let mined: Vec<_> = mined.iter().map(AsRef::as_ref).collect();
                group_lines(self.format, &user, &mined, &group).map(Some).map_err(user_error)
            }
            From::Users { users, split, current } => {
                if current.as_ref().is_none_or(|(listener, next)| *next == listener.lines()) {
                    let Some((user_id, examples)) = users.advance()? else { return Ok(None) };
                    let source = users.source();
                    let listener = Listener::new(user_id, examples, *split).only(|example| source.takes(example));
                    *current = Some((listener, 0));
                }
                let Some((listener, next)) = current.as_mut().filter(|(listener, next)| *next < listener.lines())
                else {
                    return Ok(Some(Vec::new()));
                };
                *next += 1;
                Ok(Some(vec![listener.line(self.format, *next - 1, &self.words).map_err(user_error)?]))
            }
        }
    }
}
