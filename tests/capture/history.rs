//! import_history, the tombstones of forget_user, and retention.

use super::*;

#[test]
fn past_actions_come_in_once_and_faulty_ones_are_named() {
    let (db, mut sql) = application();
    execute(
        &mut sql,
        "CREATE TABLE past (user_id uuid, chunk_content text, user_action text, actioned_at timestamptz, embedding vector(3));
        INSERT INTO past SELECT md5((i % 7)::text)::uuid, 'text ' || i, CASE WHEN i % 2 = 0 THEN 'saved' ELSE 'skipped' END,
            '2026-01-01Z'::timestamptz + i * interval '1 hour', ARRAY[1, i, 2]::real[]::vector FROM generate_series(1, 2500) i;
        INSERT INTO past VALUES (md5('x')::uuid, 'odd', 'liked', '2026-01-01Z'), (NULL, 'nobody', 'saved', '2026-01-01Z')",
    );
    let (mut client, notices) = db.connect_collecting();
    execute(&mut client, "SET search_path = pgft, public");
    assert_eq!(value::<i64>(&mut client, "SELECT import_history('past')"), 2500);
    assert!(notices.lock().unwrap().iter().any(|n| n.contains("2 rows were set aside")));
    assert_eq!(value::<i64>(&mut sql, "SELECT import_history('past')"), 0, "the same rows again are the same signals");
    let wrong: i64 = value(
        &mut sql,
        "SELECT count(*) FROM past p FULL JOIN training_data_point t ON t.user_id = p.user_id::text AND t.chunk_content = p.chunk_content
         WHERE (t.user_action, t.actioned_at, t.shown_at, t.source) IS DISTINCT FROM (p.user_action, p.actioned_at, p.actioned_at, 'public.past')
           AND p.user_action <> 'liked' AND p.user_id IS NOT NULL",
    );
    assert_eq!(wrong, 0);
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM model_performance_log"), 2500);
    let faults: Vec<String> =
        values(&mut sql, "SELECT operation || ' ' || error_message FROM capture_failure ORDER BY 1");
    assert!(faults[0].starts_with("IMPORT user_action is 'liked'"), "{faults:?}");
    assert_eq!(faults[1], "IMPORT user_id is NULL or empty");
}

#[test]
fn json_lines_come_in_and_the_line_that_is_wrong_is_named() {
    let (_db, mut sql) = application();
    let lines = "{\"user_id\": \"u\", \"chunk_content\": \"naïve ☃ \\\"quoted\\\"\", \"user_action\": \"saved\", \"embedding\": [1, 2.5, -3], \
        \"shown_at\": \"2026-01-02T03:04:05Z\"}\r\n\n\
        {\"signal_id\": \"own\", \"user_id\": \"u\", \"chunk_content\": \"b\", \"user_action\": null, \"unknown\": 1}\n";
    let imported: i64 = sql.query_one("SELECT import_history_jsonl($1)", &[&lines]).unwrap().get(0);
    assert_eq!(imported, 2);
    let point: String = value(
        &mut sql,
        "SELECT concat_ws('|', source, chunk_content, user_action, embedding, actioned_at AT TIME ZONE 'UTC') FROM training_data_point WHERE signal_id <> 'own'",
    );
    assert_eq!(point, "history|naïve ☃ \"quoted\"|saved|[1,2.5,-3]|2026-01-02 03:04:05");
    let again: i64 = sql.query_one("SELECT import_history_jsonl($1)", &[&lines]).unwrap().get(0);
    assert_eq!(again, 0);
    for wrong in [
        "nonsense",
        "[1]",
        "{\"user_id\": \"u\", \"shown_at\": \"yesterday evening\"}",
        "{\"user_id\": \"u\", \"embedding\": \"x\"}",
    ] {
        let query = format!("SELECT import_history_jsonl(E'{{\"user_id\":\"u\",\"chunk_content\":\"c\"}}\\n{wrong}')");
        assert_error!(sql, &query, "22P02", "line 2 cannot be imported");
    }
    assert_eq!(points(&mut sql).len(), 2, "all or nothing");
}

#[test]
fn an_import_says_what_its_table_lacks_and_keeps_to_its_own_name() {
    let (_db, mut sql) = captured();
    execute(&mut sql, "CREATE TABLE bare (who text, chunk_content jsonb)");
    assert_error!(
        sql,
        "SELECT import_history('bare')",
        "42703",
        "column \"user_id\" is missing",
        "column \"chunk_content\" is jsonb"
    );
    assert_error!(
        sql,
        "SELECT import_history('signal_for_training', 'public.signal')",
        "42710",
        "backfill_signals('public.signal')"
    );
    assert_error!(sql, "SELECT import_history('signal_for_training', 'api')", "22023", "record_signal");
    execute(&mut sql, "INSERT INTO signal (id) VALUES (1)");
    assert_eq!(value::<i64>(&mut sql, "SELECT import_history('signal_for_training', 'copy')"), 1);
}

#[test]
fn a_forgotten_user_does_not_come_back_until_readmitted() {
    let (_db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id, user_id) VALUES (1, 7), (2, 8); SELECT forget_user('7')");
    execute(
        &mut sql,
        "SELECT backfill_signals('signal'); UPDATE signal SET user_action = 'saved'; INSERT INTO signal (id, user_id) VALUES (3, 7), (4, 8);
        SELECT record_signal('7', 's', 'text', 'saved'); SELECT record_satisfaction('7', 4);
        SELECT import_history('signal_for_training', 'copy')",
    );
    assert_eq!(points(&mut sql), ["2 saved 0", "2 saved 0", "4 - 0", "4 - 0"]);
    for table in ["model_performance_log", "satisfaction_survey", "user_profile"] {
        assert_eq!(value::<i64>(&mut sql, &format!("SELECT count(*) FROM {table} WHERE user_id = '7'")), 0, "{table}");
    }
    assert_eq!(failures(&mut sql), none());
    assert_eq!(
        value::<i64>(
            &mut sql,
            "SELECT count(*) FROM forgotten_user f WHERE f::text LIKE '%7%' AND length(user_hash) <> 32"
        ),
        0
    );
    assert!(value::<bool>(&mut sql, "SELECT readmit_user('7')"));
    assert!(!value::<bool>(&mut sql, "SELECT readmit_user('7')"));
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal')"), 2);
}

#[test]
fn forgetting_stops_jobs_and_asks_for_files_at_providers_to_be_deleted() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO dataset (id, name, version, positive, seed, examples, users, report, digest)
            VALUES ('00000000-0000-0000-0000-000000000001', 'weekly', 1, '{saved}', 1, 1, 1, '{}', '');
        INSERT INTO dataset_example (user_id, dataset_id, id, chunk_content, content_hash, user_action, label, evidence, split, shown_at, actioned_at)
            VALUES ('7', '00000000-0000-0000-0000-000000000001', 'x', 'text', '', 'saved', true, 'good', 'train', now(), now());
        SELECT pause_worker();
        INSERT INTO fine_tuning_job (id, dataset_id, provider, base_model, method, seed, state, started_at, deadline_at) VALUES
            ('00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-000000000001', 'far', 'a', 'sft', 1, 'running', now(), now() + interval '1 day'),
            ('00000000-0000-0000-0000-00000000000b', '00000000-0000-0000-0000-000000000001', 'far', 'b', 'sft', 1, 'succeeded', now(), now()),
            ('00000000-0000-0000-0000-00000000000c', '00000000-0000-0000-0000-000000000001', 'builtin', 'c', 'contrastive', 1, 'pending', NULL, now() + interval '1 day')",
    );
    let receipt: serde_json::Value = value(&mut sql, "SELECT forget_user('7')");
    let job = |letter: char| format!("00000000-0000-0000-0000-00000000000{letter}");
    assert_eq!(receipt["jobs_stopped"], serde_json::json!([job('a'), job('c')]));
    assert_eq!(receipt["erasure_requests"].as_array().unwrap().len(), 2);
    let asked: Vec<String> =
        values(&mut sql, "SELECT job_id || ' ' || provider FROM erasure_request WHERE done_at IS NULL ORDER BY 1");
    assert_eq!(asked, [format!("{} far", job('a')), format!("{} far", job('b'))]);
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM fine_tuning_job WHERE cancel_requested"), 2);
}

#[test]
fn old_rows_go_in_batches_and_only_where_told() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO signal (id, shown_at) SELECT i, now() - i * interval '1 day' FROM generate_series(1, 40) i;
        UPDATE training_data_point SET used_for_training = true WHERE signal_id = '39';
        INSERT INTO capture_failure (source, operation, signal_ids, error_code, error_message, failed_at, healed_at) VALUES
            ('s', 'UPDATE', '{1}', '22023', 'healed long ago', now() - interval '1 year', now() - interval '1 year'),
            ('s', 'UPDATE', '{2}', '22023', 'still open', now() - interval '1 year', NULL)",
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT _apply_retention()"), 1, "only healed failures, unless told");
    assert_eq!(values::<String>(&mut sql, "SELECT error_message FROM capture_failure"), ["still open"]);
    execute(
        &mut sql,
        "SELECT set_retention('training_data_point', '30 days'), set_retention('model_performance_log', '20 days')",
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT _apply_retention(8)"), 16);
    while value::<i64>(&mut sql, "SELECT _apply_retention(8)") > 0 {}
    assert_eq!(
        value::<i64>(&mut sql, "SELECT count(*) FROM training_data_point"),
        31 - 1,
        "one that a dataset learned from stays"
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM model_performance_log"), 20 - 1);
    execute(
        &mut sql,
        "INSERT INTO model_performance_log (user_id, signal_id, shown_at) VALUES ('u', 's', '2020-01-01Z')",
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT _apply_retention()"), 0, "looked at less than an hour ago");
    execute(&mut sql, "SELECT set_retention('model_performance_log', NULL)");
    assert_eq!(value::<i64>(&mut sql, "SELECT _apply_retention()"), 0, "kept for ever");
    execute(&mut sql, "SELECT set_retention('model_performance_log', '1 year')");
    execute(&mut sql, "CALL run_due_work()");
    assert_eq!(
        value::<i64>(&mut sql, "SELECT count(*) FROM model_performance_log WHERE signal_id = 's'"),
        0,
        "by the worker's round"
    );
    assert_error!(sql, "SELECT set_retention('model', '1 year')", "22023", "model_performance_log");
    assert_error!(sql, "SELECT set_retention('capture_failure', '0')", "22023", "above zero");
}
