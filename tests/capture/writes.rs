//! What counts: every way of writing to a table, each signal once, the last action wins.

use super::*;
use std::io::Write;

#[test]
fn an_impression_becomes_a_point_and_a_log_row() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_id, chunk_id, score, shown_at) VALUES (1, 7, 3, 0.5, '2026-01-02 03:04:05Z')",
    );
    let point: String = value(
        &mut sql,
        "SELECT concat_ws('|', user_id, id, source, signal_id, chunk_id, chunk_content, embedding,
        coalesce(user_action, '-'), coalesce(actioned_at::text, '-'), relevance_score, surface, model_variant, \
        model_id,
        shown_at AT TIME ZONE 'UTC', changes, used_for_training) FROM training_data_point",
    );
    assert_eq!(
        point,
        "7|public.signal:1|public.signal|1|3|chunk 3|[3,1,2]|-|-|0.5|home|base|base|2026-01-02 03:04:05|0|f"
    );
    let logged: String = value(
        &mut sql,
        "SELECT concat_ws('|', user_id, source, signal_id, model_variant, model_id,
        coalesce(experiment, '-'), coalesce(user_action, '-'), relevance_score, surface) FROM model_performance_log",
    );
    assert_eq!(logged, "7|public.signal|1|base|base|-|-|0.5|home");
}

#[test]
fn the_last_action_wins_and_a_changed_mind_is_counted() {
    let (_db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id) VALUES (1); UPDATE signal SET user_action = 'saved'");
    assert_eq!(points(&mut sql), ["1 saved 0"]);
    execute(&mut sql, "UPDATE signal SET user_action = 'skipped'");
    assert_eq!(points(&mut sql), ["1 skipped 1"]);
    execute(&mut sql, "UPDATE signal SET user_action = NULL");
    assert_eq!(points(&mut sql), ["1 - 2"]);
    assert_eq!(log(&mut sql), ["1 -"]);
    assert!(value::<bool>(&mut sql, "SELECT actioned_at IS NULL FROM training_data_point"));
    execute(&mut sql, "UPDATE signal SET user_action = 'snipped'");
    assert_eq!(points(&mut sql), ["1 snipped 2"]);
    assert_eq!(log(&mut sql), ["1 snipped"]);
}

#[test]
fn the_same_write_again_changes_nothing() {
    let (_db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id, user_action) SELECT i, 'saved' FROM generate_series(1, 3) i");
    let before: Vec<String> = values(&mut sql, "SELECT t::text FROM training_data_point t ORDER BY id");
    let versions: Vec<String> = values(&mut sql, "SELECT xmin::text || ctid FROM training_data_point ORDER BY id");
    execute(&mut sql, "UPDATE signal SET user_action = 'saved'; UPDATE signal SET id = id");
    assert_eq!(values::<String>(&mut sql, "SELECT t::text FROM training_data_point t ORDER BY id"), before);
    let again: Vec<String> = values(&mut sql, "SELECT xmin::text || ctid FROM training_data_point ORDER BY id");
    assert_eq!(again, versions, "the rows were written although nothing changed");
}

#[test]
fn an_older_action_does_not_replace_a_newer_one() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_action, actioned_at) VALUES (1, 'saved', '2026-05-02Z');
                       UPDATE signal SET user_action = 'skipped', actioned_at = '2026-05-01Z'",
    );
    assert_eq!(points(&mut sql), ["1 saved 0"]);
    execute(&mut sql, "UPDATE signal SET user_action = 'snipped', actioned_at = '2026-05-03Z'");
    assert_eq!(points(&mut sql), ["1 snipped 1"]);
}

#[test]
fn a_view_with_several_actions_per_signal_gives_the_newest() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "
        CREATE TABLE action (signal_id bigint REFERENCES signal, what text, at timestamptz);
        CREATE VIEW acted AS SELECT s.id AS signal_id, s.user_id, 'text'::text AS chunk_content, \
        a.what AS user_action, a.at AS actioned_at
            FROM signal s LEFT JOIN action a ON a.signal_id = s.id;
        SELECT capture_signals('signal', via => 'acted');
        INSERT INTO signal (id) VALUES (1);
        INSERT INTO action VALUES (1, 'saved', '2026-05-01Z'), (1, 'skipped', '2026-05-03Z'), (1, 'snipped', \
        '2026-05-02Z');
        UPDATE signal SET user_id = 8",
    );
    assert_eq!(points(&mut sql), ["1 skipped 0"]);
}

#[test]
fn what_arrives_later_is_added_and_what_served_stays() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO chunk VALUES (10, 'not embedded yet', NULL); INSERT INTO signal (id, chunk_id) VALUES (1, 10)",
    );
    assert!(value::<bool>(&mut sql, "SELECT embedding IS NULL AND relevance_score IS NULL FROM training_data_point"));
    let shown: String = value(&mut sql, "SELECT shown_at::text FROM training_data_point");
    execute(
        &mut sql,
        "UPDATE chunk SET embedding = '[1,2,3]' WHERE id = 10; UPDATE signal SET score = 0.25, shown_at = now()",
    );
    assert!(value::<bool>(
        &mut sql,
        "SELECT embedding = '[1,2,3]' AND relevance_score = 0.25 FROM training_data_point"
    ));
    assert_eq!(value::<String>(&mut sql, "SELECT shown_at::text FROM training_data_point"), shown);
    assert_eq!(value::<f64>(&mut sql, "SELECT relevance_score FROM model_performance_log"), 0.25);
}

#[test]
fn a_model_named_by_the_view_is_taken_as_it_is() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "
        ALTER TABLE signal ADD model_variant text, ADD model_id text;
        CREATE VIEW served AS SELECT id AS signal_id, user_id, 'text'::text AS chunk_content, user_action, \
        model_variant, model_id FROM signal;
        SELECT capture_signals('signal', via => 'served');
        INSERT INTO signal (id, model_variant, model_id) VALUES (1, 'fineTuned', 'm-7'), (2, 'fineTuned', NULL), \
        (3, NULL, NULL)",
    );
    let served: Vec<String> = values(
        &mut sql,
        "SELECT concat_ws(' ', model_variant, coalesce(model_id, '-')) FROM model_performance_log ORDER BY signal_id",
    );
    assert_eq!(served, ["fineTuned m-7", "fineTuned -", "base base"]);
}

#[test]
fn an_impression_belongs_to_what_served_it_then() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO model (id, base_model, provider, method) VALUES ('m-1', 'base', 'builtin', 'contrastive');
         INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason) VALUES ('m-1', \
         'base', 9, 9, 1, 'passed', 'better');
         SELECT start_experiment('trial', 'm-1', seed => 'seed');
         INSERT INTO signal (id, user_id, shown_at) SELECT i, i, now() FROM generate_series(1, 40) i;
         INSERT INTO signal (id, user_id, shown_at) VALUES (99, 1, '2020-01-01Z');
         SELECT record_signal('1', 's', 'text'); SELECT record_satisfaction('1', 4)",
    );
    let served: String = value(
        &mut sql,
        "SELECT concat_ws(' ', count(*), count(DISTINCT model_variant), \
        bool_and(model_variant = assign_variant(user_id)),
        bool_and(model_id = CASE model_variant WHEN 'base' THEN 'base' ELSE 'm-1' END), \
        bool_and(experiment = 'trial' AND phase = 1))
        FROM model_performance_log WHERE signal_id <> '99'",
    );
    assert_eq!(served, "41 2 t t t");
    let before: String = value(
        &mut sql,
        "SELECT concat_ws(' ', model_variant, model_id, coalesce(experiment, \
        '-')) FROM model_performance_log WHERE signal_id = '99'",
    );
    assert_eq!(before, "base base -", "shown before the experiment began");
    let survey: String =
        value(&mut sql, "SELECT concat_ws(' ', experiment, variant = assign_variant('1')) FROM satisfaction_survey");
    assert_eq!(survey, "trial t");
    let variants: Vec<String> =
        values(&mut sql, "SELECT model_variant FROM model_performance_log ORDER BY user_id, signal_id");
    execute(
        &mut sql,
        "SELECT stop_experiment('trial', 'base'); UPDATE signal SET user_action = 'saved'; \
        SELECT backfill_signals('signal')",
    );
    assert_eq!(
        values::<String>(&mut sql, "SELECT model_variant FROM model_performance_log ORDER BY user_id, signal_id"),
        variants
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM training_data_point WHERE user_action = 'saved'"), 41);
}

#[test]
fn copy_counts() {
    let (_db, mut sql) = captured();
    let mut copy = sql.copy_in("COPY signal (id, user_action) FROM STDIN").unwrap();
    copy.write_all(b"1\tsaved\n2\t\\N\n").unwrap();
    copy.finish().unwrap();
    assert_eq!(points(&mut sql), ["1 saved 0", "2 - 0"]);
}

#[test]
fn upserts_and_merges_count() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO signal (id) VALUES (1), (2), (3);
        INSERT INTO signal (id, user_action) VALUES (1, 'saved'), (4, \
        'saved') ON CONFLICT (id) DO UPDATE SET user_action = 'skipped';
        MERGE INTO signal s USING (VALUES (2), (3), (5)) v (id) ON s.id = v.id
            WHEN MATCHED AND s.id = 3 THEN DELETE
            WHEN MATCHED THEN UPDATE SET user_action = 'snipped'
            WHEN NOT MATCHED THEN INSERT (id, user_action) VALUES (v.id, 'saved')",
    );
    assert_eq!(points(&mut sql), ["1 skipped 0", "2 snipped 0", "4 saved 0", "5 saved 0"]);
}

#[test]
fn statements_without_rows_and_rolled_back_ones_leave_nothing() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "UPDATE signal SET user_action = 'saved'; DELETE FROM signal; \
        INSERT INTO signal (id) SELECT 1 WHERE false;
        BEGIN; INSERT INTO signal (id) VALUES (1); SAVEPOINT s; INSERT INTO signal (id) VALUES (2); ROLLBACK TO s; \
        COMMIT;
        BEGIN; INSERT INTO signal (id) VALUES (3); ROLLBACK",
    );
    assert_eq!(points(&mut sql), ["1 - 0"]);
    assert_eq!(failures(&mut sql), none());
}

#[test]
fn one_statement_of_many_rows_is_captured_whole() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_id) SELECT i, i % 50 FROM generate_series(1, 12345) i; \
        UPDATE signal SET user_action = 'saved'",
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM training_data_point WHERE user_action = 'saved'"), 12345);
    assert_eq!(
        value::<i64>(
            &mut sql,
            "SELECT count(*) FROM model_performance_log WHERE user_action = \
        'saved'"
        ),
        12345
    );
}

#[test]
fn a_deleted_row_takes_its_point_unless_a_dataset_learned_from_it() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_action) VALUES (1, NULL), (2, 'saved'), (3, 'saved');
        UPDATE training_data_point SET used_for_training = true, training_set_version = 1 WHERE signal_id = '3';
        DELETE FROM signal",
    );
    assert_eq!(points(&mut sql), ["3 saved 0"]);
    assert_eq!(log(&mut sql), ["1 -", "2 saved", "3 saved"], "what was shown was shown");
}

#[test]
fn rows_that_the_view_no_longer_shows_go_like_deleted_ones() {
    let (_db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id) VALUES (1), (2); UPDATE signal SET hidden = true WHERE id = 1");
    assert_eq!(points(&mut sql), ["2 - 0"]);
}

#[test]
fn changed_keys_and_users_are_followed() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_id) VALUES (1, 7), (2, 7); \
        UPDATE signal SET id = id + 10 WHERE id = 1; UPDATE signal SET user_id = 8 WHERE id = 2",
    );
    assert_eq!(
        values::<String>(&mut sql, "SELECT user_id || ' ' || signal_id FROM training_data_point ORDER BY 1"),
        ["7 11", "8 2"]
    );
}

#[test]
fn a_changed_mind_after_training_is_new_evidence() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_action) VALUES (1, 'saved'), (2, 'saved');
        UPDATE training_data_point SET used_for_training = true, training_set_version = 4;
        UPDATE signal SET score = 1; UPDATE signal SET user_action = 'skipped' WHERE id = 1",
    );
    let used: Vec<String> = values(
        &mut sql,
        "SELECT concat_ws(' ', signal_id, used_for_training, training_set_version) FROM training_data_point ORDER \
            BY 1",
    );
    assert_eq!(used, ["1 f 4", "2 t 4"]);
}

#[test]
fn partitions_count_once_however_they_are_written() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "
        CREATE TABLE part (id bigint, day int, user_action text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
        CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (day);
        CREATE TABLE part_2a PARTITION OF part_2 FOR VALUES FROM (10) TO (20);
        CREATE VIEW part_v AS SELECT id AS signal_id, day AS user_id, 'text'::text AS chunk_content, \
        user_action FROM part;
        SELECT capture_signals('part', via => 'part_v', key => 'id');
        INSERT INTO part VALUES (1, 1), (2, 11); INSERT INTO part_1 VALUES (3, 2); \
        INSERT INTO part_2 VALUES (4, 12); INSERT INTO part_2a VALUES (5, 13);
        UPDATE part SET user_action = 'saved'; UPDATE part_2a SET user_action = 'skipped' WHERE id = 5; \
        UPDATE part SET day = 14 WHERE id = 1;
        DELETE FROM part_1 WHERE id = 3",
    );
    assert_eq!(points(&mut sql), ["1 saved 0", "2 saved 0", "4 saved 0", "5 skipped 1"]);
    assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), "capturing");

    execute(
        &mut sql,
        "CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (20) TO (30); INSERT INTO part VALUES (6, 21);
        CREATE TABLE part_4 (LIKE part INCLUDING ALL); INSERT INTO part_4 VALUES (8, 31); \
        ALTER TABLE part ATTACH PARTITION part_4 FOR VALUES FROM (30) TO (40);",
    );
    execute(&mut sql, "INSERT INTO part_3 VALUES (7, 22)");
    execute(&mut sql, "UPDATE part_4 SET user_action = 'snipped'");
    assert_eq!(points(&mut sql)[4..], ["6 - 0", "7 - 0", "8 snipped 0"], "new partitions count, also when named");
    assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), "capturing");
    execute(&mut sql, "BEGIN; INSERT INTO part_3 VALUES (9, 23); ROLLBACK; DELETE FROM part_3");
    assert_eq!(points(&mut sql).len(), 5);
    assert_eq!(failures(&mut sql), none());
    execute(&mut sql, "ALTER TABLE part DETACH PARTITION part_3; SELECT stop_capturing('part')");
}

#[test]
fn a_table_may_be_its_own_mapping() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "
        CREATE TYPE action AS ENUM ('saved', 'skipped', 'snipped'); CREATE DOMAIN person AS uuid;
        CREATE TABLE own (signal_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), \
        user_id person DEFAULT gen_random_uuid(), chunk_content varchar(200),
            user_action action, embedding halfvec(3), relevance_score numeric, position smallint);
        SELECT capture_signals('own', via => 'own');
        INSERT INTO own (chunk_content, user_action, embedding, relevance_score, position) VALUES ('text', \
        'snipped', '[1,2,3]', 0.75, 3)",
    );
    let point: String = value(
        &mut sql,
        "SELECT concat_ws(' ', t.user_id = o.user_id::text AND t.signal_id = o.signal_id::text, t.chunk_content,
        t.user_action, t.embedding, t.relevance_score, t.position) FROM training_data_point t, own o",
    );
    assert_eq!(point, "t text snipped [1,2,3] 0.75 3");
}

#[test]
fn keys_may_be_padded_or_of_a_domain() {
    let (_db, mut sql) = application();
    execute(&mut sql, "CREATE DOMAIN code AS text CHECK (value <> '')");
    for (table, key) in
        [("padded", "char(8)"), ("constrained", "code"), ("small", "smallint"), ("varied", "varchar(8)")]
    {
        execute(
            &mut sql,
            &format!(
                "CREATE TABLE {table} (signal_id {key} PRIMARY KEY, user_id text, chunk_content text, \
                    user_action text);
                 SELECT capture_signals('{table}', via => '{table}');
                 INSERT INTO {table} VALUES ('12', 'u', 'text', NULL), ('123', 'u', 'text', NULL);
                 UPDATE {table} SET user_action = 'saved'; DELETE FROM {table} WHERE signal_id = '12';
                 SELECT backfill_signals('{table}', 1)"
            ),
        );
        assert_eq!(points(&mut sql), ["123 saved 0"], "{key}");
        execute(&mut sql, "DELETE FROM training_data_point");
    }
}

#[test]
fn the_same_signal_from_many_sessions_is_one_row() {
    let (db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id) VALUES (1), (2)");
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let db = &db;
            scope.spawn(move || {
                let mut client = db.connect();
                for round in 0..20 {
                    let action = ["saved", "skipped", "snipped"][(worker + round) % 3];
                    execute(
                        &mut client,
                        &format!(
                            "UPDATE signal SET user_action = '{action}', \
                                actioned_at = clock_timestamp() WHERE id = {}",
                            1 + round % 2
                        ),
                    );
                }
            });
        }
    });
    let differing: i64 = value(
        &mut sql,
        "SELECT count(*) FROM signal s FULL JOIN training_data_point t ON t.signal_id = s.id::text
        WHERE t.user_action IS DISTINCT FROM s.user_action OR t.actioned_at IS DISTINCT FROM s.actioned_at",
    );
    assert_eq!(differing, 0);
    assert_eq!(failures(&mut sql), none());
}

/// The quick way is only for tables as they are made: whoever adds a CHECK or a trigger to them is told here.
#[test]
fn new_actions_go_the_quick_way() {
    let (_db, mut sql) = captured();
    execute(&mut sql, "SET track_functions = 'all'; INSERT INTO signal (id) VALUES (1), (2)");
    execute(
        &mut sql,
        "BEGIN; UPDATE signal SET user_action = 'saved'; UPDATE signal SET user_action = 'skipped' WHERE id = 2",
    );
    let slow = "SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_xact_user_functions WHERE schemaname = 'pgft' AND funcname IN ('_capture', '_add_to_profile')";
    assert_eq!(value::<i64>(&mut sql, slow), 0);
    execute(&mut sql, "COMMIT");
    assert_eq!(points(&mut sql), ["1 saved 0", "2 skipped 1"]);
}
