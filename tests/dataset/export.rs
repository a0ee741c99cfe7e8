//! Lines of JSON, read back by the parsers of those who receive them.

use std::time::{Duration, Instant};

use crate::common::*;
use crate::*;

#[test]
fn every_line_of_an_export_is_json() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         UPDATE training_data_point SET chunk_content = E'say \\\"hi\\\"\\n\\t\\\\ 日本語 🦀 ' || id, podcast_title = 'Show';
         SELECT create_dataset('d');",
    );
    for (format, lines) in [("raw", 320), ("openai_chat", 320), ("openai_dpo", 320), ("anthropic", 320), ("pair", 240)]
    {
        let query = format!(
            "SELECT count(*), count(*) FILTER (WHERE l LIKE E'%\\n%'), count(*) FILTER (WHERE l::jsonb::text LIKE '%🦀%')
             FROM export_jsonl('d', '{format}') l"
        );
        let row = client.query_one(&query, &[]).unwrap();
        assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(2), "{format}");
        assert_eq!(row.get::<_, i64>(1), 0, "{format}");
        if format != "pair" {
            assert_eq!(row.get::<_, i64>(0), lines, "{format}");
        }
    }
    client
        .batch_execute(
            "UPDATE training_data_point SET chunk_content = ' ' WHERE id = 'u7-1'; SELECT create_dataset('empty')",
        )
        .unwrap();
    let error = assert_error!(client, "SELECT export_jsonl('empty', 'openai_chat')", "22000", "u7-1", "raw");
    assert!(error.message.contains("has no text"), "{error:?}");
    client.batch_execute("SELECT export_jsonl('empty', 'raw')").unwrap();
}

#[test]
fn streams_and_can_be_cancelled() {
    let (db, mut client) = database(
        "INSERT INTO training_data_point (user_id, id, chunk_content, embedding, user_action, actioned_at)
         SELECT 'u' || i / 200, 'p' || i, repeat('words ', 50) || i, ARRAY(SELECT sin(i * k) FROM generate_series(1, 64) k)::vector,
                CASE WHEN i % 2 = 0 THEN 'saved' ELSE 'skipped' END, '2026-01-01'::timestamptz + i * interval '1 minute'
         FROM generate_series(1, 60000) i;
         SELECT create_dataset('d'); ANALYZE;",
    );
    let all = Instant::now();
    let lines: i64 = value(&mut client, "SELECT count(*) FROM export_jsonl('d', 'triplet')");
    let all = all.elapsed();
    assert!(lines > 80_000, "{lines}");
    let few = Instant::now();
    for query in
        ["SELECT contrastive_triplets('d')", "SELECT export_jsonl('d', 'triplet')", "SELECT export_jsonl('d', 'raw')"]
    {
        assert_eq!(client.query(&format!("{query} LIMIT 5"), &[]).unwrap().len(), 5);
    }
    assert!(few.elapsed() < all / 2, "5 rows took {:?}, all of them {all:?}", few.elapsed());

    client.batch_execute("BEGIN; SELECT count(*) FROM export_jsonl('d', 'triplet')").unwrap();
    let kept: i64 = value(
        &mut client,
        "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts WHERE name = 'TopTransactionContext'",
    );
    assert!(kept < 1 << 20, "{kept} bytes wait for the end of the transaction");
    client.batch_execute("COMMIT").unwrap();

    let cancel = client.cancel_token();
    let url = db.url();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.cancel_query(NoTls).unwrap_or_else(|error| panic!("{url}: {error:?}"));
    });
    let start = Instant::now();
    let error = expect_error(&mut client, "SELECT count(*) FROM generate_series(1, 100), export_jsonl('d', 'triplet')");
    stopper.join().unwrap();
    assert_eq!(error.code, "57014");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM dataset"), 1);
}

/// The formats as files, written by the psql command of the documentation, in a folder that is removed again.
struct Exported(std::path::PathBuf);

impl Exported {
    fn write(db: &Database, formats: &[&str], split: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pgft.export.{}.{split}.{}", std::process::id(), formats.len()));
        std::fs::create_dir_all(&folder).unwrap();
        for format in formats {
            let copy = format!(
                r"\copy (SELECT pgft.export_jsonl('d', '{format}', '{split}')) TO '{}' WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')",
                folder.join(format!("{format}.jsonl")).display()
            );
            run(Server::shared().program("psql").args(["-X", "-q", "-c", &copy, &db.url()]));
        }
        Self(folder)
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const AWKWARD: &str = "SELECT act_alone(20, 20);
    UPDATE training_data_point SET chunk_content = E'say \\\"hi\\\", C:\\\\temp\\n\\t 日本語 🦀 \\u2028 e\\u0301 \\x7f ' || id, podcast_title = 'Show \"1\"',
        reason = CASE WHEN user_action = 'skipped' THEN 'too long' END;
    SELECT create_dataset('d');";

#[test]
fn the_receivers_own_parsers_read_every_format() {
    let (db, _client) = database(AWKWARD);
    let python = match std::process::Command::new("scripts/judges.sh").output() {
        Ok(found) if found.status.success() => String::from_utf8(found.stdout).unwrap().trim().to_owned(),
        other => {
            println!("skipped: the receivers' programs could not be installed: {other:?}");
            return;
        }
    };
    let formats =
        ["triplet", "pair", "cohere_rerank", "openai_chat", "openai_dpo", "bedrock_converse", "anthropic", "raw"];
    // a file to train on, and one to validate with
    for split in ["train", "test"] {
        let exported = Exported::write(&db, &formats, split);
        let said = run(std::process::Command::new(&python)
            .arg("tests/judges/read_back.py")
            .arg(&exported.0)
            .env("HF_DATASETS_OFFLINE", "1"));
        assert!(said.contains("read back"), "{split}: {said}");
    }
}

#[test]
fn files_hold_the_lines_as_they_are() {
    let (db, mut client) = database(AWKWARD);
    let exported = Exported::write(&db, &["openai_chat", "raw"], "train");
    for format in ["openai_chat", "raw"] {
        let lines: Vec<String> = values(&mut client, &format!("SELECT export_jsonl('d', '{format}')"));
        let file = std::fs::read_to_string(exported.0.join(format!("{format}.jsonl"))).unwrap();
        assert!(lines.len() > 100 && file.lines().eq(lines.iter().map(String::as_str)), "{format}");
    }
    // the server writes the same; and both sides together are the whole dataset
    client
        .batch_execute(
            "CREATE TEMP TABLE line (line text);
             INSERT INTO line SELECT export_jsonl('d', 'raw', 'train') UNION ALL SELECT export_jsonl('d', 'raw', 'test');",
        )
        .unwrap();
    let row = client
        .query_one(
            "SELECT count(*), count(DISTINCT (l.line::jsonb ->> 'user_id', l.line::jsonb ->> 'id')),
                    count(*) FILTER (WHERE l.line::jsonb ->> 'split' = 'test'), (SELECT count(*) FROM dataset_example) FROM line l",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (400, 400));
    assert_eq!((row.get::<_, i64>(2), row.get::<_, i64>(3)), (80, 400));
}

#[test]
fn every_character_of_unicode_comes_back_from_the_server() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         CREATE TABLE part AS SELECT row_number() OVER () AS n, t FROM (
             SELECT 'x' || string_agg(chr(c), '' ORDER BY c) || 'y' AS t FROM generate_series(1, 1114111) c WHERE c NOT BETWEEN 55296 AND 57343 GROUP BY c / 6000) p;
         UPDATE training_data_point p SET chunk_content = part.t FROM part WHERE p.id = 'u' || (1 + part.n % 20) || '-' || (1 + part.n / 20);
         SELECT create_dataset('d', test_share => 0);",
    );
    let row = client
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE l::jsonb ->> 'text' IN (SELECT t FROM part)), (SELECT count(*) FROM part)
             FROM export_jsonl('d', 'raw') l WHERE length(l) > 2000",
            &[],
        )
        .unwrap();
    let (lines, same, parts): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert!(lines == same && lines == parts && parts > 180, "{lines} lines, {same} the same, {parts} parts");
}

#[test]
fn the_words_of_the_chat_formats_are_edited_in_sql() {
    let (_db, mut client) = database(AWKWARD);
    client
        .batch_execute(
            "SELECT set_export_template(system_message => 'Be brief.', skipped_answer => 'pass{reason}');
             SELECT set_export_template('json', saved_answer => '{\"save\": \"{action}\"}');",
        )
        .unwrap();
    let answers: Vec<String> = values(
        &mut client,
        "SELECT DISTINCT l::jsonb #>> '{messages,2,content}' FROM export_jsonl('d', 'openai_chat') l WHERE l::jsonb #>> '{messages,0,content}' = 'Be brief.' ORDER BY 1",
    );
    assert_eq!(answers, ["pass: too long", "yes"]);
    let answers: Vec<String> = values(
        &mut client,
        "SELECT DISTINCT l::jsonb #>> '{messages,2,content}' FROM export_jsonl('d', 'openai_chat', template => 'json') l ORDER BY 1",
    );
    assert_eq!(answers, ["no: too long", "{\"save\": \"saved\"}", "{\"save\": \"snipped\"}"]);
    assert_error!(client, "SELECT set_export_template(user_message => 'Save it?')", "22023", "{text}");
    assert_error!(
        client,
        "SELECT set_export_template(user_message => '{text} {title}')",
        "22023",
        "{title}",
        "{saves}"
    );
    assert_error!(
        client,
        "SELECT export_jsonl('d', 'openai_chat', template => 'mine')",
        "42704",
        "set_export_template('mine'"
    );
}
