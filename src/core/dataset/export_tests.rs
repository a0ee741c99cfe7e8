use rand::{RngExt, SeedableRng};
use rand_xoshiro::SplitMix64;
use serde_json::{json, Value};

use super::*;

const AWKWARD: &str = "line one\nline \"two\"\t\\ naïve 日本語 🦀 \u{2028}\u{7}";

fn example(id: &str, label: bool, text: &str, day: i64) -> Example {
    Example {
        id: id.into(),
        text: text.into(),
        label,
        action: if label { "saved" } else { "skipped" }.into(),
        actioned_at: Moment::since_2000(day * 86_400_000_000),
        ..Example::default()
    }
}

fn examples() -> Vec<Example> {
    vec![
        example("a", true, "older save", 1),
        example("b", true, AWKWARD, 2),
        example("c", false, "a skip", 3),
        example("d", false, " \n", 4),
    ]
}

fn user() -> User {
    User::new("u".to_owned(), examples(), Split::Train, &mut || {})
}

fn listener(examples: Vec<Example>) -> Listener {
    Listener::new("u".to_owned(), examples, Split::Train)
}

fn group(own: Vec<usize>) -> Group {
    Group { anchor: 0, positive: 1, own, missing: 0 }
}

fn words() -> Template {
    Template::default()
}

fn parsed(line: &str) -> Value {
    assert!(!line.contains('\n'), "a line break in a line: {line}");
    serde_json::from_str(line).unwrap()
}

#[test]
fn names_of_formats_read_back() {
    for name in Format::NAMES {
        assert_eq!(name.parse::<Format>().map(Format::name), Ok(name));
    }
    let error = "parquet".parse::<Format>().unwrap_err();
    assert_eq!(error.to_string(), "format \"parquet\" is unknown");
    assert!(error.detail().ends_with("anthropic, raw."));
}

/// Whether a text comes back from a line of every format as it went in.
fn assert_survives(text: &str) {
    let mut examples = examples();
    examples[1].text = text.into();
    let user = User::new("u".to_owned(), examples.clone(), Split::Train, &mut || {});
    for name in Format::NAMES {
        let format: Format = name.parse().unwrap();
        let line = if format == Format::Raw {
            RawLine { text, reason: Some(text), ..raw() }.line()
        } else if format.of_triplets() {
            group_lines(format, &user, &[], &group(vec![2])).unwrap().remove(0)
        } else {
            listener(examples.clone()).line(format, 1, &words()).unwrap()
        };
        assert!(line.chars().all(|c| c >= ' '), "{name}: a control character outside an escape");
        let value = parsed(&line);
        let mut strings = Vec::new();
        collect(&value, &mut strings);
        assert!(strings.iter().any(|s| s.ends_with(text)), "{name}: {value}");
    }
}

fn raw() -> RawLine<'static> {
    RawLine {
        user_id: "u",
        id: "a",
        chunk_id: None,
        text: "words",
        context: None,
        action: "saved",
        label: true,
        reason: None,
        evidence: "good",
        weight: 1.5,
        split: "train",
        relevance_score: Some(0.25),
        surface: None,
        session_id: Some("s"),
        actioned_at: Moment::since_2000(0),
    }
}

#[test]
fn awkward_text_comes_back_unchanged_from_every_format() {
    assert_survives(AWKWARD);
}

#[test]
fn a_raw_line_holds_every_column() {
    let expected = json!({"user_id": "u", "id": "a", "chunk_id": null, "text": "words", "context": null, "action": "saved", "label": true,
        "reason": null, "evidence": "good", "weight": 1.5, "split": "train", "relevance_score": 0.25, "surface": null, "session_id": "s",
        "actioned_at": "2000-01-01T00:00:00.000000Z"});
    assert_eq!(parsed(&raw().line()), expected);
    assert!(RawLine { relevance_score: Some(f64::NAN), ..raw() }.line().contains(r#""relevance_score":null"#));
}

fn collect(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(s) => into.push(s.clone()),
        Value::Array(a) => a.iter().for_each(|v| collect(v, into)),
        Value::Object(o) => o.values().for_each(|v| collect(v, into)),
        _ => {}
    }
}

#[test]
fn triplet_lines_keep_the_order_of_their_columns() {
    let mined = MinedText { id: "x".into(), text: "elsewhere".into(), vector: vec![] };
    let lines = group_lines(Format::Triplet, &user(), &[&mined], &group(vec![2])).unwrap();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with(r#"{"anchor":"older save","positive":"line one\nline"#), "{}", lines[0]);
    assert!(lines[1].ends_with(r#","negative":"elsewhere"}"#), "{}", lines[1]);
}

#[test]
fn a_rerank_line_holds_all_negatives() {
    let lines = group_lines(Format::CohereRerank, &user(), &[], &group(vec![2])).unwrap();
    let value = parsed(&lines[0]);
    assert_eq!(value["query"], "older save");
    assert_eq!(value["relevant_passages"], json!([AWKWARD]));
    assert_eq!(value["hard_negatives"], json!(["a skip"]));
}

#[test]
fn a_judge_is_asked_in_the_words_of_the_export() {
    let listener = listener(examples());
    let words = Template::default();
    for number in 0..3 {
        let line: Value = serde_json::from_str(&listener.line(Format::OpenaiChat, number, &words).unwrap()).unwrap();
        let asked = listener.asked(number, &words).unwrap();
        assert_eq!(asked.question, line["messages"][1]["content"].as_str().unwrap());
        assert_eq!((asked.id.as_str(), asked.saved), (["a", "b", "c"][number], number < 2));
    }
    assert!(listener.asked(3, &words).is_err(), "a text without words");
}

#[test]
fn chat_asks_about_the_passage_and_never_shows_it_as_saved() {
    let value = parsed(&listener(examples()).line(Format::OpenaiChat, 1, &words()).unwrap());
    let messages = value["messages"].as_array().unwrap();
    let roles: Vec<_> = messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    assert_eq!(messages[2]["content"], "yes");
    let question = messages[1]["content"].as_str().unwrap();
    assert_eq!(question.matches("naïve").count(), 1);
    assert!(question.starts_with("This listener saved:\n- older save\n\n"));
}

#[test]
fn a_profile_holds_the_newest_saves_of_the_train_side() {
    let mut all: Vec<Example> = (1..=7).map(|i| example(&format!("s{i}"), true, &format!("save {i}"), i)).collect();
    all[6].split = Split::Test;
    all.push(example("n", false, "the passage", 8));
    let line = listener(all.clone()).line(Format::OpenaiChat, 6, &words()).unwrap();
    assert!(line.contains(r"- save 6\n- save 5\n- save 4\n- save 3\n- save 2\n\n"), "{line}");
    assert!(!line.contains("save 7") && !line.contains("save 1"));
    assert!(line.contains(r#""content":"no""#));

    let test = Listener::new("u".to_owned(), all, Split::Test);
    assert_eq!(test.lines(), 1);
    let line = test.line(Format::OpenaiChat, 0, &words()).unwrap();
    assert!(line.contains(r"- save 2\n\n") && line.contains(r"passage?\nsave 7"), "{line}");
}

#[test]
fn preference_lines_have_one_assistant_message_a_side() {
    let value = parsed(&listener(examples()).line(Format::OpenaiDpo, 2, &words()).unwrap());
    assert_eq!(value["preferred_output"], json!([{"role": "assistant", "content": "no"}]));
    assert_eq!(value["non_preferred_output"], json!([{"role": "assistant", "content": "yes"}]));
    assert_eq!(value["input"]["messages"].as_array().unwrap().len(), 2);
    assert_eq!(value.as_object().unwrap().len(), 3);
}

#[test]
fn bedrock_and_anthropic_lines_alternate_user_and_assistant() {
    let bedrock = parsed(&listener(examples()).line(Format::BedrockConverse, 2, &words()).unwrap());
    assert_eq!(bedrock["schemaVersion"], "bedrock-conversation-2024");
    assert_eq!(bedrock["messages"][1]["content"][0]["text"], "no");
    let anthropic = parsed(&listener(examples()).line(Format::Anthropic, 2, &words()).unwrap());
    assert_eq!(anthropic["messages"][0]["role"], "user");
    assert_eq!(anthropic["system"], words().system);
}

#[test]
fn a_text_that_cannot_be_held_is_named() {
    let examples = examples();
    let expected = DatasetError::EmptyText { user_id: "u".into(), id: "d".into(), format: "openai_chat" };
    assert_eq!(listener(examples.clone()).line(Format::OpenaiChat, 3, &words()), Err(expected));
    let error = group_lines(Format::Triplet, &user(), &[], &group(vec![3])).unwrap_err();
    assert_eq!(error.to_string(), "example \"d\" has no text, which format \"triplet\" needs");
}

#[test]
fn the_context_stands_before_the_passage() {
    let mut examples = examples();
    examples[2].context = Some("Show · Episode · Speaker".to_owned());
    let value = parsed(&listener(examples.clone()).line(Format::OpenaiChat, 2, &words()).unwrap());
    assert!(value["messages"][1]["content"].as_str().unwrap().ends_with("[Show · Episode · Speaker]\na skip"));
}

#[test]
fn the_words_are_the_templates() {
    let words = Template {
        system: "Judge.".into(),
        user: "{text} | {context}| {saves}".into(),
        saved: "{\"save\": true, \"how\": \"{action}\"}".into(),
        skipped: "pass{reason}".into(),
    };
    let mut examples = examples();
    examples[2].text = "a {saves} in braces".into();
    examples[2].reason = Some(" too long ".into());
    examples[1].action = "snipped".into();
    let value = parsed(&listener(examples.clone()).line(Format::OpenaiChat, 2, &words).unwrap());
    assert_eq!(value["messages"][0]["content"], "Judge.");
    let question = value["messages"][1]["content"].as_str().unwrap();
    assert!(question.starts_with("a {saves} in braces | | - line one"), "{question}");
    assert_eq!(value["messages"][2]["content"], "pass: too long");
    let value = parsed(&listener(examples).line(Format::OpenaiDpo, 1, &words).unwrap());
    assert_eq!(value["preferred_output"][0]["content"], r#"{"save": true, "how": "snipped"}"#);
    assert_eq!(value["non_preferred_output"][0]["content"], "pass", "the reason belongs to what was done");
}

#[test]
fn every_character_of_unicode_survives_every_format() {
    let all: Vec<char> = (1..=0x10_FFFF).filter_map(char::from_u32).collect();
    for some in all.chunks(20_000) {
        assert_survives(&std::iter::once('x').chain(some.iter().copied()).chain(['y']).collect::<String>());
    }
}

#[test]
fn texts_of_any_characters_in_any_order_survive_every_format() {
    const CHOSEN: [char; 16] = [
        '"',
        '\\',
        '/',
        '{',
        '}',
        'u',
        '0',
        '\n',
        '\r',
        '\t',
        '\u{1}',
        '\u{7f}',
        '\u{2028}',
        '\u{301}',
        '\u{fffe}',
        '\u{1f980}',
    ];
    let mut random = SplitMix64::seed_from_u64(7);
    for _ in 0..500 {
        let length = random.random_range(0..40);
        let text: String = (0..length)
            .map(|_| match random.random_range(0..3) {
                0 => CHOSEN[random.random_range(0..CHOSEN.len())],
                1 => char::from(random.random_range(1..128u8)),
                _ => char::from_u32(random.random_range(1..0x11_0000)).unwrap_or('\u{d7ff}'),
            })
            .collect();
        assert_survives(&format!("x{text}y"));
    }
}
