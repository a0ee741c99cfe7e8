//! The account of a dataset, and which version a name means.

use crate::common::*;
use crate::*;

#[test]
fn tells_what_there_is_and_what_was_left_out() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         SELECT act('u1', 'pending', NULL, 1), act('once', 'x', 'saved', 1),
                act('u1', 'c1', 'saved', 1, words => 'both ways'), act('u1', 'c2', 'skipped', 50, words => 'both ways');
         UPDATE training_data_point SET changes = 2 WHERE id = 'u1-1';
         SELECT create_dataset('d');",
    );
    let mut told = |topic: &str, item: &str| -> String {
        value(
            &mut client,
            &format!("SELECT coalesce(value::text, 'NULL') FROM dataset_report('d') WHERE topic = '{topic}' AND item = '{item}'"),
        )
    };
    for (topic, item, expected) in [
        ("counts", "points of the window", "404"),
        ("users", "users", "20"),
        ("label noise", "texts judged both ways by one user", "1"),
        ("label noise", "changed minds", "1"),
        ("leakage", "offenders", "0"),
        ("left out", "pending", "1"),
        ("left out", "user below minimum", "1"),
        ("left out", "users below minimum", "1"),
    ] {
        assert_eq!(told(topic, item), expected, "{topic}, {item}");
    }
    let tokens: Vec<String> =
        values(&mut client, "SELECT item FROM dataset_report('d') WHERE topic = 'tokens' AND value > 0 ORDER BY 1");
    let formats =
        ["anthropic", "bedrock_converse", "cohere_rerank", "openai_chat", "openai_dpo", "pair", "raw", "triplet"];
    assert_eq!(tokens, formats);
    let labelled: bool =
        value(&mut client, "SELECT bool_and(note ~ 'estimate') FROM dataset_report('d') WHERE topic = 'tokens'");
    assert!(labelled);
    let warnings: i64 = value(&mut client, "SELECT count(*) FROM dataset_report('d') WHERE topic = 'warnings'");
    assert!(warnings >= 2);
}

#[test]
fn tells_leaks_that_came_later() {
    let (_db, mut client) = database(
        "SELECT act_shared(30, 40); SELECT create_dataset('d');
         UPDATE dataset_example SET split = 'test' WHERE user_id = 'u3' AND split = 'train' AND id = (SELECT min(id) FROM dataset_example WHERE split = 'train');",
    );
    let note: String = value(&mut client, "SELECT note FROM dataset_report('d') WHERE topic = 'leakage' AND value > 0");
    assert!(note.contains("user \"u3\"") && note.contains("dataset_leaks('d:1')"), "{note}");
}

/// The estimate may be rough, not wrong: near the bytes that come out, divided by four. Formats made of triplets count
/// four negatives per positive, which not every user has.
#[test]
fn estimates_of_tokens_are_near_what_comes_out() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20); UPDATE training_data_point SET chunk_content = repeat(chunk_content || ' ', 20); SELECT create_dataset('d');",
    );
    let of_questions = ["openai_chat", "openai_dpo", "bedrock_converse", "anthropic"];
    for format in of_questions.into_iter().chain(["triplet", "pair", "cohere_rerank"]) {
        let ratio: f64 = value(
            &mut client,
            &format!(
                "SELECT ((SELECT value FROM dataset_report('d') WHERE topic = 'tokens' AND item = '{format}')
                         / (SELECT sum(octet_length(l)) / 4.0 FROM export_jsonl('d', '{format}') l))::float8"
            ),
        );
        let most = if of_questions.contains(&format) { 2.0 } else { 4.0 };
        assert!((0.5..=most).contains(&ratio), "{format}: {ratio}");
    }
}

#[test]
fn a_day_names_the_version_that_was_the_latest_then() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20); SELECT create_dataset('d'); SELECT create_dataset('d');
         UPDATE dataset SET created_at = CASE version WHEN 1 THEN '2026-03-01 12:00+00' ELSE '2026-03-08 12:00+00' END::timestamptz;",
    );
    let mut version = |name: &str| -> i32 {
        value(&mut client, &format!("SELECT version FROM dataset WHERE id = _dataset_id('{name}')"))
    };
    assert_eq!(version("d@2026-03-01"), 1, "a day means its end");
    assert_eq!(version("d@2026-03-08 11:00+00"), 1);
    assert_eq!(version("d@2026-03-08"), 2);
    assert_eq!(version("d"), 2);
    assert_error!(client, "SELECT _dataset_id('d@2026-02-01')", "42704", "versions 1, 2");
    assert_error!(client, "SELECT _dataset_id('d@yesterdayish')", "22023", "yesterdayish");
    let replaced: bool =
        value(&mut client, "SELECT replaced_at = '2026-03-08 12:00+00' FROM datasets WHERE version = 1");
    assert!(replaced);
}
