//! Backfill, status, and life with DROP EXTENSION, dump and restore.

use super::*;

#[test]
fn backfill_takes_what_was_there_before_in_batches_and_once() {
    let (db, mut sql) = application();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_id, user_action, shown_at) SELECT i, i % 10, \
        CASE WHEN i % 3 = 0 THEN 'saved' END, '2026-01-01Z'::timestamptz + i * interval '1 minute'
        FROM generate_series(1, 2500) i; SELECT capture_signals('signal', via => 'signal_for_training')",
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal', 700)"), 2500);
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal', 1)"), 0);
    let wrong: i64 = value(
        &mut sql,
        "SELECT count(*) FROM signal s FULL JOIN training_data_point t ON t.signal_id \
        = s.id::text AND t.user_id = s.user_id::text
        WHERE (t.user_action, t.shown_at) IS DISTINCT FROM (s.user_action, s.shown_at)
           OR t.actioned_at IS DISTINCT FROM CASE WHEN s.user_action IS NOT NULL THEN s.shown_at END",
    );
    assert_eq!(wrong, 0, "an old action without a time of its own counts from when it was shown");
    execute(
        &mut sql,
        "SET session_replication_role = replica; \
        UPDATE signal SET user_action = 'skipped' WHERE id = 3; RESET session_replication_role",
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal')"), 1, "a missed change is caught up");
    assert!(value::<bool>(
        &mut sql,
        "SELECT changes = 1 AND actioned_at > '2026-02-01Z' FROM training_data_point WHERE signal_id = '3'"
    ));
    drop(db);
}

#[test]
fn backfill_in_batches_lets_writers_through() {
    let (db, mut sql) = application();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_action) SELECT i, CASE WHEN i = 2000 THEN 'liked' END FROM generate_series(1, \
            2000) i;
         SELECT capture_signals('signal', via => 'signal_for_training')",
    );
    std::thread::scope(|scope| {
        let backfill =
            scope.spawn(|| execute(&mut db.connect(), "CALL pgft.backfill_signals_in_batches('signal', 50)"));
        while !backfill.is_finished() {
            execute(&mut sql, "UPDATE signal SET user_action = 'saved' WHERE id IN (1, 1000, 1999)");
        }
    });
    assert_eq!(failures(&mut sql), ["BACKFILL 22023 {2000}"]);
    let saved: Vec<String> =
        values(&mut sql, "SELECT signal_id FROM training_data_point WHERE user_action = 'saved' ORDER BY 1");
    assert_eq!(saved, ["1", "1000", "1999"]);
    execute(&mut sql, "UPDATE signal SET user_action = 'saved' WHERE id = 2000");
    execute(&mut sql, "CALL backfill_signals_in_batches('signal')");
    assert_eq!(failures(&mut sql), none());
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal')"), 0);
}

#[test]
fn backfill_orders_text_and_uuid_keys_as_the_table_does() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "
        CREATE TABLE words (signal_id text PRIMARY KEY, user_id text DEFAULT 'u', \
        chunk_content text DEFAULT 'text', user_action text);
        INSERT INTO words SELECT chr(65 + i % 26) || CASE WHEN i % 2 = 0 THEN 'é' ELSE 'z' END || i FROM \
        generate_series(1, 300) i;
        CREATE TABLE uuids (signal_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text DEFAULT 'u', \
        chunk_content text DEFAULT 'text', user_action text);
        INSERT INTO uuids (user_id) SELECT 'u' FROM generate_series(1, 300);
        SELECT capture_signals('words', via => 'words'); SELECT capture_signals('uuids', via => 'uuids')",
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('words', 7)"), 300);
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('uuids', 7)"), 300);
}

#[test]
fn backfill_sets_bad_rows_aside_and_heals_them_later() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_action) VALUES (1, 'saved'), (2, 'liked'), (3, 'loved'); \
        SELECT capture_signals('signal', via => 'signal_for_training', on_error => 'abort')",
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal')"), 1);
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal')"), 0);
    assert_eq!(failures(&mut sql), ["BACKFILL 22023 {2}", "BACKFILL 22023 {3}"]);
    execute(&mut sql, "UPDATE signal SET user_action = 'saved' WHERE id = 2");
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal')"), 0, "the UPDATE captured it already");
    assert_eq!(failures(&mut sql), ["BACKFILL 22023 {3}"]);
    assert_eq!(value::<i64>(&mut sql, "SELECT open_failures FROM capture_status"), 1);
}

#[test]
fn a_capture_survives_renaming_and_settings() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "SET quote_all_identifiers = on; SET plpgsql.extra_errors = 'all'; SET standard_conforming_strings = off;
         SET transform_null_equals = on; SET array_nulls = off; SET DateStyle = 'German'; \
         SET extra_float_digits = -15",
    );
    execute(&mut sql, "SELECT capture_signals('signal', via => 'signal_for_training')");
    execute(
        &mut sql,
        "CREATE SCHEMA elsewhere; ALTER TABLE signal RENAME TO \"Sig\\nal\"; \
        ALTER TABLE \"Sig\\nal\" SET SCHEMA elsewhere",
    );
    execute(&mut sql, "ALTER VIEW signal_for_training RENAME TO renamed");
    execute(
        &mut sql,
        "INSERT INTO elsewhere.\"Sig\\nal\" (id, score) VALUES (1, 0.1); \
        UPDATE elsewhere.\"Sig\\nal\" SET user_action = 'saved'",
    );
    assert_eq!(points(&mut sql), ["1 saved 0"]);
    assert_eq!(
        value::<String>(&mut sql, "SELECT source || ' ' || state FROM capture_status"),
        "public.signal capturing"
    );
    execute(&mut sql, "SELECT backfill_signals(relation) FROM capture_source");
    assert_eq!(failures(&mut sql), none());
    execute(&mut sql, "SELECT stop_capturing(relation) FROM capture_source");
}

#[test]
fn status_tells_what_is_wrong() {
    let (db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id, user_action) VALUES (1, NULL), (2, 'liked')");
    let status: String = value(
        &mut sql,
        "SELECT concat_ws('|', source, relation, via, key_column, on_error, state, \
        captured, open_failures, last_error_code) FROM capture_status",
    );
    assert_eq!(status, "public.signal|signal|signal_for_training|id|warn|capturing, with open failures|1|1|22023");
    execute(&mut sql, "ALTER TABLE signal DISABLE TRIGGER pg_finetune_update");
    assert_eq!(
        value::<String>(&mut sql, "SELECT state FROM capture_status"),
        "trigger missing or disabled: public.signal"
    );
    let reasons: serde_json::Value = value(&mut sql, "SELECT reasons FROM capture_status");
    assert_eq!(reasons, serde_json::json!({"user_action is 'liked': expected saved, skipped, snipped or NULL": 1}));
    let analyst = Server::shared().create_role("analyst", &["finetune_analyst"]);
    assert_eq!(value::<i64>(&mut db.connect_as(&analyst), "SELECT captured FROM pgft.capture_status"), 1);
}

#[test]
fn drop_extension_asks_first_and_leaves_the_application_whole() {
    let (_db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id) VALUES (1)");
    let error = expect_error(&mut sql, "DROP EXTENSION pg_finetune");
    assert_eq!(error.code, "2BP01");
    assert!(error.detail.unwrap().contains("trigger pg_finetune_insert on table signal"));
    execute(
        &mut sql,
        "DROP EXTENSION pg_finetune CASCADE; INSERT INTO signal (id) VALUES (2); \
        UPDATE signal SET user_action = 'saved'",
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM signal_for_training WHERE user_action = 'saved'"), 2);
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM pg_proc WHERE proname LIKE 'pg_finetune_capture%'"), 0);
}

#[test]
fn a_restored_dump_captures_on() {
    let (db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id, user_action) VALUES (1, NULL), (2, 'liked'), (3, 'saved')");
    let copy = Server::shared().create_database("restored");
    let dump = run(Server::shared().program("pg_dump").args(["--dbname", &db.url()]));
    let file = std::env::temp_dir().join(format!("{}.sql", copy.name));
    std::fs::write(&file, dump).unwrap();
    run(Server::shared().program("psql").args([
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "--dbname",
        &copy.url(),
        "-f",
        file.to_str().unwrap(),
    ]));
    std::fs::remove_file(&file).unwrap();
    let mut restored = copy.connect();
    assert_eq!(points(&mut restored), points(&mut sql));
    execute(
        &mut restored,
        "SET search_path = pgft, public; INSERT INTO signal (id) VALUES (4); \
        UPDATE signal SET user_action = 'skipped' WHERE id IN (2, 3); SELECT backfill_signals('signal')",
    );
    assert_eq!(points(&mut restored), ["1 - 0", "2 skipped 0", "3 skipped 1", "4 - 0"]);
    assert_eq!(failures(&mut restored), none());
    assert_eq!(value::<String>(&mut restored, "SELECT state FROM capture_status"), "capturing");
    assert_eq!(expect_error(&mut restored, "DROP EXTENSION pg_finetune").code, "2BP01");
    execute(&mut restored, "SELECT stop_capturing('signal')");
}
