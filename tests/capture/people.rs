//! record_signal, record_satisfaction and forget_user.

use super::*;

#[test]
fn record_signal_works_like_a_captured_table() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "SELECT record_signal('u', 's', 'text', embedding => '[1,2,3]', relevance_score => 0.5, \
        surface => 'home', \"position\" => 2, session_id => 'x', chunk_id => 'c')",
    );
    assert_eq!(points(&mut sql), ["s - 0"]);
    execute(&mut sql, "SELECT record_signal('u', 's', 'text', 'saved')");
    execute(&mut sql, "SELECT record_signal('u', 's', 'text', 'saved')");
    execute(&mut sql, "SELECT record_signal('u', 's', 'text')");
    assert_eq!(points(&mut sql), ["s saved 0"], "showing it again does not undo the action");
    execute(&mut sql, "SELECT record_signal('u', 's', 'text', 'skipped')");
    assert_eq!(points(&mut sql), ["s skipped 1"]);
    let point: String = value(
        &mut sql,
        "SELECT concat_ws('|', id, source, embedding, relevance_score, surface, \
        position, session_id, chunk_id, model_variant) FROM training_data_point",
    );
    assert_eq!(point, "api:s|api|[1,2,3]|0.5|home|2|x|c|base");
    assert_eq!(log(&mut sql), ["s skipped"]);
}

#[test]
fn record_signal_refuses_what_cannot_be_learned_from() {
    let (_db, mut sql) = application();
    assert_error!(sql, "SELECT record_signal(NULL, 's', 'text')", "22004", "user_id is NULL");
    assert_error!(sql, "SELECT record_signal('', 's', 'text')", "22023", "user_id is empty");
    assert_error!(sql, "SELECT record_signal('u', NULL, 'text')", "22004", "signal_id");
    assert_error!(sql, "SELECT record_signal('u', 's', NULL)", "22004", "chunk_content");
    assert_error!(sql, "SELECT record_signal('u', '', 'text')", "22023", "signal_id is NULL or empty");
    assert_error!(sql, "SELECT record_signal('u', 's', ' ')", "22023", "blank");
    assert_error!(
        sql,
        "SELECT record_signal('u', 's', 'text', 'liked')",
        "22023",
        "'liked'",
        "'saved', 'skipped', 'snipped'"
    );
    assert_error!(sql, "SELECT record_signal('u', 's', 'text', 'saved', '[0,0]')", "22023", "zero vector");
    assert_error!(sql, "SELECT record_signal('u', 's', 'text', relevance_score => 'NaN')", "22023", "relevance_score");
    assert_eq!(points(&mut sql), none());
}

#[test]
fn applications_record_without_reading() {
    let (db, mut sql) = application();
    let app = Server::shared().create_role("app", &["finetune_app"]);
    let mut client = db.connect_as(&app);
    execute(&mut client, "SELECT pgft.record_signal('u', 's', 'text', 'saved')");
    execute(&mut client, "SELECT pgft.record_satisfaction('u', 5)");
    for forbidden in [
        "SELECT * FROM pgft.training_data_point",
        "INSERT INTO pgft.model_performance_log (user_id, signal_id) VALUES ('a', 'b')",
        "SELECT pgft.forget_user('u')",
        "SELECT pgft.capture_signals('signal', 'signal')",
        "SELECT pgft._capture('x', 'INSERT', '{1}')",
    ] {
        assert_eq!(expect_error(&mut client, forbidden).code, "42501", "{forbidden}");
    }
    assert_eq!(points(&mut sql), ["s saved 0"]);
}

#[test]
fn satisfaction_is_a_number_from_one_to_five() {
    let (_db, mut sql) = application();
    let id: uuid::Uuid = value(&mut sql, "SELECT record_satisfaction('u', 4, 'nice')");
    let answer: String = value(
        &mut sql,
        &format!("SELECT concat_ws('|', user_id, variant, score, comment) FROM satisfaction_survey WHERE id = '{id}'"),
    );
    assert_eq!(answer, "u|base|4|nice");
    for score in ["0", "6", "NULL", "-1"] {
        assert_error!(sql, &format!("SELECT record_satisfaction('u', {score})"), "22023", "score is");
    }
    assert_error!(sql, "SELECT record_satisfaction(NULL, 3)", "22004");
    assert_error!(sql, "SELECT record_satisfaction('', 3)", "22023");
}

#[test]
fn a_forgotten_user_is_nowhere_and_the_receipt_says_where_they_were() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "
        INSERT INTO signal (id, user_id, user_action) VALUES (1, 7, 'saved'), (2, 7, NULL), (3, 8, 'saved'), (4, 8, \
        NULL);
        UPDATE signal SET user_action = 'liked' WHERE id IN (2, 4);
        SELECT record_signal('7', 's', 'text', 'saved'); SELECT record_satisfaction('7', 5);
        INSERT INTO dataset (id, name, version, positive, seed, examples, users, report, digest)
            VALUES ('00000000-0000-0000-0000-000000000001', 'weekly', 3, '{saved}', 1, 2, 2, '{}', '');
        INSERT INTO dataset_example (user_id, dataset_id, id, chunk_content, content_hash, user_action, label, \
        evidence, split, shown_at, actioned_at)
            SELECT u, '00000000-0000-0000-0000-000000000001', 'x', 'text', '', 'saved', true, 'good', 'train', \
            now(), now() FROM unnest('{7,8}'::text[]) u;
        INSERT INTO model (id, base_model, provider, method, dataset_id) VALUES ('m-1', 'base', 'far', \
        'contrastive', '00000000-0000-0000-0000-000000000001'), ('m-2', 'base', 'builtin', 'contrastive', NULL);
        INSERT INTO fine_tuning_job (id, dataset_id, provider, base_model, method, seed, started_at, deadline_at)
            VALUES ('00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-000000000001', 'far', 'base', \
            'contrastive', 1, now(), now())",
    );
    let receipt: serde_json::Value = value(&mut sql, "SELECT forget_user('7')");
    assert_eq!(receipt["captured_from"], serde_json::json!(["api", "public.signal"]));
    assert_eq!(receipt["datasets"], serde_json::json!(["weekly:3"]));
    assert_eq!(receipt["models"], serde_json::json!(["m-1"]));
    assert_eq!(
        receipt["sent_to"],
        serde_json::json!([{"provider": "far", "job": "00000000-0000-0000-0000-00000000000a"}])
    );
    assert_eq!(
        receipt["removed"],
        serde_json::json!({"training_data_point": 3, "model_performance_log": 3, "dataset_example": 1,
        "satisfaction_survey": 1, "experiment_pin": 0, "capture_failure": 1, "user_profile": 1, "shadow_score": 0, "adapter_head": 0, "data_point_vector": 0, "chat_answer": 0})
    );
    for table in
        ["training_data_point", "model_performance_log", "dataset_example", "satisfaction_survey", "experiment_pin"]
    {
        assert_eq!(value::<i64>(&mut sql, &format!("SELECT count(*) FROM {table} WHERE user_id = '7'")), 0, "{table}");
    }
    assert_eq!(failures(&mut sql), ["UPDATE 22023 {4}"], "others' failures stay");
    assert_eq!(points(&mut sql), ["3 saved 0", "4 - 0"]);
    let again: serde_json::Value = value(&mut sql, "SELECT forget_user('7')");
    assert_eq!(again["removed"]["training_data_point"], 0);
    assert_error!(sql, "SELECT forget_user(NULL)", "22004");
    assert_error!(sql, "SELECT forget_user('')", "22023");
}

#[test]
fn what_is_being_stored_while_a_user_is_forgotten_goes_too() {
    let (db, mut sql) = captured();
    let [mut writer, mut other] = [db.connect(), db.connect()];
    execute(
        &mut writer,
        "BEGIN; INSERT INTO signal (id, user_id) VALUES (1, 7), (2, 8); SELECT pgft.record_signal('7', 's', 'text')",
    );
    std::thread::scope(|scope| {
        let forgetting = scope.spawn(|| value::<serde_json::Value>(&mut db.connect(), "SELECT pgft.forget_user('7')"));
        wait_until(std::time::Duration::from_secs(20), "forget_user waits for the writer", || {
            value::<bool>(
                &mut sql,
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%forget_user%')",
            )
        });
        execute(&mut other, "INSERT INTO signal (id, user_id) VALUES (3, 8)");
        assert_eq!(points(&mut other), ["3 - 0"], "captures go on while it waits");
        assert!(!forgetting.is_finished());
        execute(&mut writer, "COMMIT");
        let receipt = forgetting.join().unwrap();
        assert_eq!(receipt["removed"]["training_data_point"], 2);
        assert_eq!(receipt["removed"]["model_performance_log"], 2);
    });
    assert_eq!(points(&mut sql), ["2 - 0", "3 - 0"]);
    execute(&mut sql, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_error!(sql, "SELECT forget_user('8')", "25000", "repeatable read", "BEGIN ISOLATION LEVEL READ COMMITTED");
}

#[test]
fn no_table_keyed_by_user_is_overlooked() {
    let (_db, mut sql) = application();
    let overlooked: Vec<String> = values(
        &mut sql,
        "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'pgft'::regnamespace AND c.relkind IN ('r', 'p') AND a.attname = 'user_id'
           AND NOT (SELECT p.prosrc FROM pg_proc p WHERE p.oid = 'pgft._delete_rows_of'::regproc) ~ format('''%s''', c.relname)",
    );
    assert_eq!(overlooked, none());
}
