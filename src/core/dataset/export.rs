//! One line of JSON per example, in the shapes that providers and trainers read.
//!
//! Two families: formats made of single examples put a question to a judge ("would this listener save it?"), formats
//! made of triplets hold texts only. A text that a format cannot hold is an error that names it, never a gap.

use std::str::FromStr;

use serde::Serialize;

use super::moment::Moment;
use super::template::{fill, Template};
use super::triplets::{Group, MinedText, User};
use super::{DatasetError, Example, Split};

/// How many earlier saves describe the listener in a question.
const PROFILE: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Triplet,
    Pair,
    CohereRerank,
    OpenaiChat,
    OpenaiDpo,
    BedrockConverse,
    Anthropic,
    Raw,
}

impl Format {
    pub const NAMES: [&'static str; 8] =
        ["triplet", "pair", "cohere_rerank", "openai_chat", "openai_dpo", "bedrock_converse", "anthropic", "raw"];
    const ALL: [Self; 8] = [
        Self::Triplet,
        Self::Pair,
        Self::CohereRerank,
        Self::OpenaiChat,
        Self::OpenaiDpo,
        Self::BedrockConverse,
        Self::Anthropic,
        Self::Raw,
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Whether its lines come from triplets rather than from single examples.
    pub fn of_triplets(self) -> bool {
        matches!(self, Self::Triplet | Self::Pair | Self::CohereRerank)
    }
}

impl FromStr for Format {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Self, DatasetError> {
        let found = Self::ALL.into_iter().find(|f| f.name() == name);
        found.ok_or_else(|| DatasetError::unknown("format", name, &Self::NAMES))
    }
}

/// The lines of one positive with its negatives.
pub fn group_lines(
    format: Format,
    user: &User,
    mined: &[&MinedText],
    group: &Group,
) -> Result<Vec<String>, DatasetError> {
    let text = |i: usize| text_of(format, user.user_id(), &user.examples()[i]);
    let (anchor, positive) = (text(group.anchor)?, text(group.positive)?);
    let mut negatives = Vec::with_capacity(group.own.len() + mined.len());
    for &i in &group.own {
        negatives.push(text(i)?);
    }
    negatives.extend(mined.iter().map(|m| m.text.as_ref()));
    Ok(match format {
        Format::Triplet => negatives.iter().map(|negative| line(&TripletLine { anchor, positive, negative })).collect(),
        Format::Pair => vec![line(&PairLine { anchor, positive })],
        Format::CohereRerank => {
            vec![line(&RerankLine { query: anchor, relevant_passages: [positive], hard_negatives: &negatives })]
        }
        _ => Vec::new(),
    })
}

/// A user whose examples of one side become one line each, in one of the chat formats. The newest saves of the train side describe the listener
/// in every question: on the test side, too, the past explains what came later.
pub struct Listener {
    user_id: String,
    examples: Vec<Example>,
    lines: Vec<usize>,
    newest_saves: Vec<usize>,
}

impl Listener {
    pub fn new(user_id: String, examples: Vec<Example>, split: Split) -> Self {
        let indices =
            |wanted: &dyn Fn(&Example) -> bool| (0..examples.len()).filter(|&i| wanted(&examples[i])).collect();
        let lines = indices(&|e| e.split == split);
        let mut saves: Vec<usize> = indices(&|e| e.label && e.split == Split::Train && !e.text.trim().is_empty());
        let newest_first = |&a: &usize, &b: &usize| {
            let (a, b): (&Example, &Example) = (&examples[a], &examples[b]);
            b.actioned_at.cmp(&a.actioned_at).then_with(|| a.id.cmp(&b.id))
        };
        saves.sort_by(newest_first);
        saves.truncate(PROFILE + 1); // one more, for the question about one of them
        Self { user_id, examples, lines, newest_saves: saves }
    }

    /// Lines for these examples only; the others stay what is known of the listener.
    pub fn only(mut self, wanted: impl Fn(&Example) -> bool) -> Self {
        self.lines.retain(|&i| wanted(&self.examples[i]));
        self
    }

    /// Number of lines, one per example of the side.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// The `number`-th line.
    pub fn line(&self, format: Format, number: usize, words: &Template) -> Result<String, DatasetError> {
        let index = self.lines[number];
        let example = &self.examples[index];
        let question = self.question(format, index, words)?;
        let (answer, opposite) = (answer(words, example, example.label), answer(words, example, !example.label));
        let (system, user, assistant) =
            (message("system", &words.system), message("user", &question), message("assistant", &answer));
        Ok(match format {
            Format::OpenaiDpo => line(&PreferenceLine {
                input: PreferenceInput { messages: [system, user] },
                preferred_output: [assistant],
                non_preferred_output: [message("assistant", &opposite)],
            }),
            Format::BedrockConverse => line(&ConverseLine {
                schema_version: "bedrock-conversation-2024",
                system: [Block { text: &words.system }],
                messages: [user, assistant].map(|m| Blocks { role: m.role, content: [Block { text: m.content }] }),
            }),
            Format::Anthropic => line(&SystemChatLine { system: &words.system, messages: [user, assistant] }),
            _ => line(&ChatLine { messages: [system, user, assistant] }),
        })
    }

    /// The `number`-th example as a judge is asked about it, without the answer.
    pub fn asked(&self, number: usize, words: &Template) -> Result<Asked, DatasetError> {
        let index = self.lines[number];
        let example = &self.examples[index];
        let question = self.question(Format::OpenaiChat, index, words)?;
        Ok(Asked { id: example.id.to_string(), saved: example.label, question })
    }

    /// What the judge is asked: the listener's newest other saves, then the passage.
    fn question(&self, format: Format, index: usize, words: &Template) -> Result<String, DatasetError> {
        let example = &self.examples[index];
        let saves: Vec<String> = (self.newest_saves.iter().filter(|&&i| i != index).take(PROFILE))
            .map(|&save| format!("- {}", self.examples[save].text.trim()))
            .collect();
        let saves = if saves.is_empty() { "(nothing else yet)".to_owned() } else { saves.join("\n") };
        let context = example.context.as_ref().map_or(String::new(), |context| format!("[{context}]\n"));
        let text = text_of(format, &self.user_id, example)?;
        Ok(fill(&words.user, |name| match name {
            "saves" => Some(&saves),
            "context" => Some(&context),
            "text" => Some(text),
            _ => None,
        }))
    }
}

/// One example as a question, with what the user did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub id: String,
    pub saved: bool,
    pub question: String,
}

/// What the judge should say. The reason that the application recorded belongs to what the user did, not to its opposite.
fn answer(words: &Template, example: &Example, label: bool) -> String {
    let reason = match &example.reason {
        Some(reason) if label == example.label && !reason.trim().is_empty() => format!(": {}", reason.trim()),
        _ => String::new(),
    };
    let action = match (label == example.label, label) {
        (true, _) => example.action.as_ref(),
        (false, true) => "saved",
        (false, false) => "skipped",
    };
    fill(if label { &words.saved } else { &words.skipped }, |name| match name {
        "action" => Some(action),
        "reason" => Some(&reason),
        _ => None,
    })
}

fn text_of<'a>(format: Format, user_id: &str, example: &'a Example) -> Result<&'a str, DatasetError> {
    if example.text.trim().is_empty() {
        return Err(DatasetError::EmptyText {
            user_id: user_id.to_owned(),
            id: example.id.to_string(),
            format: format.name(),
        });
    }
    Ok(&example.text)
}

fn message<'a>(role: &'static str, content: &'a str) -> Message<'a> {
    Message { role, content }
}

fn line(row: &impl Serialize) -> String {
    let mut line = Vec::with_capacity(1 << 10);
    serde_json::to_writer(&mut line, row).expect("strings and finite numbers always become JSON");
    String::from_utf8(line).expect("JSON of strings is a string")
}

/// Field order is column order for the trainers that read these: anchor, positive, negative.
#[derive(Serialize)]
struct TripletLine<'a> {
    anchor: &'a str,
    positive: &'a str,
    negative: &'a str,
}

#[derive(Serialize)]
struct PairLine<'a> {
    anchor: &'a str,
    positive: &'a str,
}

#[derive(Serialize)]
struct RerankLine<'a> {
    query: &'a str,
    relevant_passages: [&'a str; 1],
    hard_negatives: &'a [&'a str],
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct ChatLine<'a> {
    messages: [Message<'a>; 3],
}

#[derive(Serialize)]
struct SystemChatLine<'a> {
    system: &'a str,
    messages: [Message<'a>; 2],
}

#[derive(Serialize)]
struct PreferenceLine<'a> {
    input: PreferenceInput<'a>,
    preferred_output: [Message<'a>; 1],
    non_preferred_output: [Message<'a>; 1],
}

#[derive(Serialize)]
struct PreferenceInput<'a> {
    messages: [Message<'a>; 2],
}

#[derive(Serialize)]
struct ConverseLine<'a> {
    #[serde(rename = "schemaVersion")]
    schema_version: &'static str,
    system: [Block<'a>; 1],
    messages: [Blocks<'a>; 2],
}

#[derive(Serialize)]
struct Blocks<'a> {
    role: &'static str,
    content: [Block<'a>; 1],
}

#[derive(Serialize)]
struct Block<'a> {
    text: &'a str,
}

/// The raw format: every column of an example but the vector.
pub struct RawLine<'a> {
    pub user_id: &'a str,
    pub id: &'a str,
    pub chunk_id: Option<&'a str>,
    pub text: &'a str,
    pub context: Option<&'a str>,
    pub action: &'a str,
    pub label: bool,
    pub reason: Option<&'a str>,
    pub evidence: &'a str,
    pub weight: f64,
    pub split: &'a str,
    pub relevance_score: Option<f64>,
    pub surface: Option<&'a str>,
    pub session_id: Option<&'a str>,
    pub actioned_at: Moment,
}

impl RawLine<'_> {
    /// The names need no escapes: written as they are, they cost nothing.
    pub fn line(&self) -> String {
        let mut line = Vec::with_capacity(self.text.len() + self.text.len() / 8 + 512);
        field(&mut line, "{\"user_id\":", self.user_id);
        field(&mut line, ",\"id\":", self.id);
        field(&mut line, ",\"chunk_id\":", self.chunk_id);
        field(&mut line, ",\"text\":", self.text);
        field(&mut line, ",\"context\":", self.context);
        field(&mut line, ",\"action\":", self.action);
        field(&mut line, ",\"label\":", self.label);
        field(&mut line, ",\"reason\":", self.reason);
        field(&mut line, ",\"evidence\":", self.evidence);
        field(&mut line, ",\"weight\":", self.weight);
        field(&mut line, ",\"split\":", self.split);
        field(&mut line, ",\"relevance_score\":", self.relevance_score);
        field(&mut line, ",\"surface\":", self.surface);
        field(&mut line, ",\"session_id\":", self.session_id);
        field(&mut line, ",\"actioned_at\":", self.actioned_at);
        line.push(b'}');
        String::from_utf8(line).expect("JSON of strings is a string")
    }
}

fn field(line: &mut Vec<u8>, name: &str, value: impl Serialize) {
    line.extend_from_slice(name.as_bytes());
    serde_json::to_writer(line, &value).expect("strings and finite numbers always become JSON");
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
