//! One state machine for all providers: their words are kept as text and mapped by tables.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Pending,
    Uploading,
    Validating,
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Expired,
}

impl State {
    const NAMES: [&'static str; 9] =
        ["pending", "uploading", "validating", "queued", "running", "succeeded", "failed", "cancelled", "expired"];
    const ALL: [Self; 9] = [
        Self::Pending,
        Self::Uploading,
        Self::Validating,
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    pub fn ended(self) -> bool {
        self >= Self::Succeeded
    }

    /// The state after hearing `next`: never backwards but between validating and queued, and an end is the end.
    pub fn then(self, next: Option<Self>) -> Self {
        match next {
            Some(next) if !self.ended() && (next > self || (self, next) == (Self::Queued, Self::Validating)) => next,
            _ => self,
        }
    }
}

/// Whether the model of a job that succeeded answers yet: training and serving are two things.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Serving {
    #[default]
    None,
    NeedsDeploy,
    Ready,
}

impl Serving {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NeedsDeploy => "needs_deploy",
            Self::Ready => "ready",
        }
    }
}

type Words = &'static [(&'static str, State)];

/// OpenAI, Azure, Bedrock mantle, our own trainer. "paused" stands in the spec's example, not in its list.
pub const OPENAI: Words = &[
    ("validating_files", State::Validating),
    ("queued", State::Queued),
    ("running", State::Running),
    ("paused", State::Running),
    ("succeeded", State::Succeeded),
    ("failed", State::Failed),
    ("cancelled", State::Cancelled),
];

pub const TOGETHER: Words = &[
    ("pending", State::Queued),
    ("queued", State::Queued),
    ("running", State::Running),
    ("compressing", State::Running),
    ("uploading", State::Running),
    ("cancel_requested", State::Running),
    ("completed", State::Succeeded),
    ("error", State::Failed),
    ("user_error", State::Failed),
    ("cancelled", State::Cancelled),
];

/// Without the prefix JOB_STATE_.
pub const FIREWORKS: Words = &[
    ("UNSPECIFIED", State::Queued),
    ("CREATING", State::Queued),
    ("PENDING", State::Queued),
    ("RE_QUEUEING", State::Queued),
    ("VALIDATING", State::Validating),
    ("CREATING_INPUT_DATASET", State::Validating),
    ("RUNNING", State::Running),
    ("WRITING_RESULTS", State::Running),
    ("IDLE", State::Running),
    ("PAUSED", State::Running),
    ("CANCELLING", State::Running),
    ("COMPLETED", State::Succeeded),
    ("EARLY_STOPPED", State::Succeeded),
    ("FAILED", State::Failed),
    ("FAILED_CLEANING_UP", State::Failed),
    ("CANCELLED", State::Cancelled),
    ("DELETING", State::Cancelled),
    ("DELETING_CLEANING_UP", State::Cancelled),
    ("EXPIRED", State::Expired),
];

/// InProgress is told apart by the sub-statuses.
pub const BEDROCK: Words = &[
    ("InProgress", State::Running),
    ("Stopping", State::Running),
    ("Completed", State::Succeeded),
    ("Failed", State::Failed),
    ("Stopped", State::Cancelled),
];

/// Without the prefix STATUS_.
pub const COHERE: Words = &[
    ("UNSPECIFIED", State::Queued),
    ("QUEUED", State::Queued),
    ("FINETUNING", State::Running),
    ("DEPLOYING_API", State::Running),
    ("PAUSED", State::Running),
    ("READY", State::Succeeded),
    ("TEMPORARILY_OFFLINE", State::Succeeded),
    ("FAILED", State::Failed),
    ("DELETED", State::Cancelled),
];

/// None for a word that the table does not know.
pub fn map(words: Words, raw: &str) -> Option<State> {
    words.iter().find(|(word, _)| *word == raw).map(|(_, state)| *state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_the_end_and_nothing_goes_back() {
        assert_eq!(State::Running.then(Some(State::Queued)), State::Running);
        assert_eq!(State::Queued.then(Some(State::Validating)), State::Validating);
        assert_eq!(State::Validating.then(Some(State::Queued)), State::Queued);
        assert_eq!(State::Running.then(None), State::Running, "an unknown word changes nothing");
        for end in [State::Succeeded, State::Failed, State::Cancelled, State::Expired] {
            for next in State::ALL {
                assert_eq!(end.then(Some(next)), end);
            }
        }
    }

    #[test]
    fn names_come_back() {
        for state in State::ALL {
            assert_eq!(State::parse(state.name()), Some(state));
        }
        assert_eq!(State::parse("Running"), None);
    }

    #[test]
    fn each_table_ends_in_both_ways_and_no_word_stands_twice() {
        for words in [OPENAI, TOGETHER, FIREWORKS, BEDROCK, COHERE] {
            for end in [State::Succeeded, State::Failed, State::Cancelled] {
                assert!(words.iter().any(|(_, state)| *state == end), "{words:?}");
            }
            assert!(words.iter().all(|(word, state)| map(words, word) == Some(*state)), "{words:?}");
            assert_eq!(map(words, "a word of tomorrow"), None);
        }
    }
}
