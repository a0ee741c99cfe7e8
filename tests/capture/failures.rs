//! A capture that fails keeps what it missed, says so, and leaves the application alone.

use super::*;
use std::time::{Duration, Instant};

#[test]
fn faulty_rows_are_set_aside_and_the_others_captured() {
    let (db, mut sql) = application();
    sql.batch_execute("
        CREATE TABLE raw (signal_id int PRIMARY KEY, user_id text DEFAULT 'u', chunk_content text DEFAULT 'text', user_action text, embedding vector,
            relevance_score float8, propensity float8, shown_at timestamptz DEFAULT now());
        SELECT capture_signals('raw', via => 'raw')").unwrap();
    let (mut client, notices) = db.connect_collecting();
    client.batch_execute("INSERT INTO raw VALUES
        (1, 'u', 'text', NULL, NULL, NULL, NULL, now()), (2, '', 'text', NULL, NULL, NULL, NULL, now()), (3, NULL, 'text', NULL, NULL, NULL, NULL, now()),
        (4, 'u', NULL, NULL, NULL, NULL, NULL, now()), (5, 'u', E' \n', NULL, NULL, NULL, NULL, now()), (6, 'u', 'text', 'liked', NULL, NULL, NULL, now()),
        (7, 'u', 'text', 'saved', '[0,0,0]', 1, 1, now()), (8, 'u', 'text', 'saved', '[1,2,3]', 'NaN', 1, now()),
        (9, 'u', 'text', 'saved', '[1,2,3]', '-Infinity', 1, now()), (10, 'u', 'text', 'saved', '[1,2,3]', 1, 0, now()),
        (11, 'u', 'text', 'saved', '[1,2,3]', 1, 1, 'infinity'), (12, 'u', repeat('x', 300000), 'saved', '[1,2,3]', 1, 1, now()),
        (13, 'u', 'text', 'saved', '[1,2,3]', 1, 1, now())").unwrap();
    assert_eq!(points(&mut sql), ["1 - 0", "13 saved 0"]);
    let faults: Vec<String> = values(&mut sql, "SELECT format('%s %s', signal_ids, error_message) FROM capture_failure WHERE error_code = '22023' ORDER BY signal_ids[1]::int");
    assert_eq!(
        faults,
        [
            "{2,3} user_id is NULL or empty",
            "{4,12} chunk_content is NULL or longer than 256 kB",
            "{5} chunk_content is blank",
            "{6} user_action is 'liked': expected saved, skipped, snipped or NULL",
            "{7} embedding is a zero vector or not finite",
            "{8,9} relevance_score is not finite",
            "{10} propensity is not in (0, 1]",
            "{11} shown_at or actioned_at is infinite"
        ]
    );
    assert_eq!(notices.lock().unwrap().len(), 1, "one warning a minute");
    client.batch_execute("UPDATE raw SET relevance_score = relevance_score").unwrap();
    assert_eq!(failures(&mut sql).len(), faults.len(), "each is kept once");
}

#[test]
fn abort_refuses_the_statement_and_says_which_row() {
    let (_db, mut sql) = application();
    sql.batch_execute("SELECT capture_signals('signal', via => 'signal_for_training', on_error => 'abort'); INSERT INTO signal (id) VALUES (1)").unwrap();
    assert_error!(
        sql,
        "INSERT INTO signal (id, user_action) VALUES (2, NULL), (3, 'liked')",
        "22023",
        "'liked'",
        "signal_id 3 of \"public.signal\""
    );
    sql.batch_execute("ALTER TABLE chunk RENAME TO piece; DROP VIEW signal_for_training").unwrap();
    assert_eq!(expect_error(&mut sql, "INSERT INTO signal (id) VALUES (4)").code, "42703");
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM signal"), 1);
    assert_eq!(failures(&mut sql), none());
}

/// Each of these breaks the capture; the application must not notice, and once mended nothing is lost.
#[test]
fn a_broken_mapping_leaves_the_application_alone_and_heals() {
    let cases = [
        ("ALTER VIEW signal_for_training RENAME COLUMN user_action TO action", "ALTER VIEW signal_for_training RENAME COLUMN action TO user_action", "42703", "column gone: user_action"),
        ("ALTER VIEW signal_for_training RENAME COLUMN signal_id TO sid", "ALTER VIEW signal_for_training RENAME COLUMN sid TO signal_id", "42703", "column gone: signal_id"),
        ("ALTER TABLE signal RENAME COLUMN id TO pk", "ALTER TABLE signal RENAME COLUMN pk TO id", "42703", "column gone: id"),
        ("ALTER TABLE pgft.training_data_point RENAME TO elsewhere", "ALTER TABLE pgft.elsewhere RENAME TO training_data_point", "42P01", ""),
        ("ALTER TABLE pgft.model_performance_log ADD CHECK (signal_id = '0') NOT VALID", "ALTER TABLE pgft.model_performance_log DROP CONSTRAINT model_performance_log_signal_id_check", "23514", "capturing, with open failures"),
        ("CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'boom'; END $$; CREATE TRIGGER boom BEFORE INSERT OR UPDATE ON pgft.training_data_point EXECUTE FUNCTION boom()",
         "DROP FUNCTION boom() CASCADE", "P0001", "capturing, with open failures"),
        ("UPDATE pgft.capture_source SET name = 'other'", "UPDATE pgft.capture_source SET name = 'public.signal'", "42704", "capturing"),
    ];
    for (damage, repair, code, state) in cases {
        let (_db, mut sql) = captured();
        sql.batch_execute("INSERT INTO signal (id) VALUES (1), (2), (3)").unwrap();
        sql.batch_execute(damage).unwrap();
        if !state.is_empty() && code == "42703" {
            assert_eq!(value::<String>(&mut sql, "SELECT state FROM pgft.capture_status"), state, "{damage}");
        }
        sql.batch_execute("INSERT INTO signal (user_id, chunk_id) SELECT 1, 1 WHERE false; UPDATE signal SET user_action = 'saved' WHERE user_id = 7; DELETE FROM signal WHERE score IS NULL AND chunk_id = 1 AND ctid = (SELECT max(ctid) FROM signal)")
            .unwrap_or_else(|error| panic!("{damage}: {error:?}"));
        assert_eq!(
            values::<String>(&mut sql, "SELECT DISTINCT error_code FROM pgft.capture_failure"),
            [code],
            "{damage}"
        );
        sql.batch_execute(repair).unwrap();
        sql.batch_execute("SELECT backfill_signals('signal')").unwrap_or_else(|error| panic!("{repair}: {error:?}"));
        assert_eq!(failures(&mut sql), none(), "{damage}");
        assert_eq!(value::<String>(&mut sql, "SELECT state FROM pgft.capture_status"), "capturing");
        let kept = if code == "42703" && damage.contains(" id TO") {
            vec!["1 saved 0", "2 saved 0", "3 - 0"]
        } else {
            vec!["1 saved 0", "2 saved 0"]
        };
        assert_eq!(points(&mut sql), kept, "{damage}");
    }
}

#[test]
fn a_replaced_view_is_mended_by_attaching_anew() {
    let (_db, mut sql) = captured();
    let view: String = value(&mut sql, "SELECT pg_get_viewdef('signal_for_training')");
    sql.batch_execute(
        "DROP VIEW signal_for_training; INSERT INTO signal (id) VALUES (1); UPDATE signal SET user_action = 'saved'",
    )
    .unwrap();
    assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), "view dropped");
    assert_eq!(failures(&mut sql).len(), 2);
    sql.batch_execute(&format!(
        "CREATE VIEW signal_for_training AS {view}; SELECT stop_capturing('signal');
        SELECT capture_signals('signal', via => 'signal_for_training'); SELECT backfill_signals('signal')"
    ))
    .unwrap();
    assert_eq!(failures(&mut sql), none());
    assert_eq!(points(&mut sql), ["1 saved 0"]);
}

#[test]
fn even_a_lost_failure_table_does_not_break_the_application() {
    let (db, mut sql) = captured();
    sql.batch_execute(
        "ALTER TABLE pgft.capture_failure RENAME TO nowhere; ALTER TABLE pgft.training_data_point RENAME TO elsewhere",
    )
    .unwrap();
    let (mut client, notices) = db.connect_collecting();
    client.batch_execute("INSERT INTO signal (id) VALUES (1)").unwrap();
    assert!(notices.lock().unwrap()[0].contains("could not be kept either"));
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM signal"), 1);
}

#[test]
fn a_cancelled_statement_is_cancelled() {
    let (_db, mut sql) = application();
    sql.batch_execute("CREATE VIEW slow AS SELECT id AS signal_id, user_id, 'text' || pg_sleep(30) AS chunk_content, user_action FROM signal;
        SELECT capture_signals('signal', via => 'slow'); SET statement_timeout = '300ms'").unwrap();
    let start = Instant::now();
    assert_eq!(expect_error(&mut sql, "INSERT INTO signal (id) VALUES (1)").code, "57014");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_writer_waits_two_seconds_for_us_and_no_longer() {
    let (db, mut sql) = captured();
    let mut other = db.connect();
    other.batch_execute("BEGIN; LOCK TABLE pgft.training_data_point").unwrap();
    let start = Instant::now();
    sql.batch_execute("INSERT INTO signal (id) VALUES (1)").unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(failures(&mut sql), ["INSERT 55P03 {1}"]);
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal')"), 1);
    assert_eq!(failures(&mut sql), none());
}

#[test]
fn what_a_view_needs_beyond_the_pinned_path_fails_when_attaching() {
    let (_db, mut sql) = application();
    sql.batch_execute("
        CREATE FUNCTION clean(id bigint) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT content FROM chunk WHERE chunk.id = clean.id); END $$;
        CREATE VIEW needy AS SELECT id AS signal_id, user_id, clean(chunk_id) AS chunk_content, user_action FROM signal;
        INSERT INTO signal (id) VALUES (1)").unwrap();
    assert_eq!(expect_error(&mut sql, "SELECT capture_signals('signal', via => 'needy')").code, "42P01");
    sql.batch_execute("ALTER FUNCTION clean(bigint) SET search_path = public; SELECT capture_signals('signal', via => 'needy'); SELECT backfill_signals('signal')").unwrap();
    assert_eq!(points(&mut sql), ["1 - 0"]);
}
