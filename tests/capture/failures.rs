//! A capture that fails keeps what it missed, says so, and leaves the application alone.

use super::*;
use std::time::{Duration, Instant};

#[test]
fn faulty_rows_are_set_aside_and_the_others_captured() {
    let (db, mut sql) = application();
    execute(
        &mut sql,
        "
        CREATE TABLE raw (signal_id int PRIMARY KEY, user_id text DEFAULT 'u', chunk_content text DEFAULT 'text', \
        user_action text, embedding vector,
            relevance_score float8, propensity float8, shown_at timestamptz DEFAULT now());
        SELECT capture_signals('raw', via => 'raw')",
    );
    let (mut client, notices) = db.connect_collecting();
    execute(
        &mut client,
        "INSERT INTO raw VALUES
        (1, 'u', 'text', NULL, NULL, NULL, NULL, now()), (2, '', 'text', NULL, NULL, NULL, NULL, now()), (3, NULL, \
        'text', NULL, NULL, NULL, NULL, now()),
        (4, 'u', NULL, NULL, NULL, NULL, NULL, now()), (5, 'u', E' \n', NULL, NULL, NULL, NULL, now()), (6, 'u', \
        'text', 'liked', NULL, NULL, NULL, now()),
        (7, 'u', 'text', 'saved', '[0,0,0]', 1, 1, now()), (8, 'u', 'text', 'saved', '[1,2,3]', 'NaN', 1, now()),
        (9, 'u', 'text', 'saved', '[1,2,3]', '-Infinity', 1, now()), (10, 'u', 'text', 'saved', '[1,2,3]', 1, 0, \
        now()),
        (11, 'u', 'text', 'saved', '[1,2,3]', 1, 1, 'infinity'), (12, 'u', repeat('x', 300000), 'saved', '[1,2,3]', \
        1, 1, now()),
        (13, 'u', 'text', 'saved', '[1,2,3]', 1, 1, now())",
    );
    assert_eq!(points(&mut sql), ["1 - 0", "13 saved 0"]);
    let faults: Vec<String> = values(
        &mut sql,
        "SELECT format('%s %s', signal_ids, \
        error_message) FROM capture_failure WHERE error_code = '22023' ORDER BY signal_ids[1]::int",
    );
    let expected = [
        "{2,3} user_id is NULL or empty",
        "{4} chunk_content is NULL",
        "{5} chunk_content is blank",
        "{6} user_action is 'liked': expected saved, skipped, snipped or NULL",
        "{7} embedding is a zero vector or not finite",
        "{8,9} relevance_score is not finite",
        "{10} propensity is not in (0, 1]",
        "{11} shown_at or actioned_at is infinite",
        "{12} chunk_content is longer than pg_finetune.max_chunk_bytes = 262144",
    ];
    assert_eq!(faults, expected);
    let status: String = value(
        &mut sql,
        "SELECT concat_ws(' ', captured, open_failures, signals_behind, oversized) FROM capture_status",
    );
    assert_eq!(status, "2 9 11 1");
    assert_eq!(notices.lock().unwrap().len(), 1, "one warning a minute");
    execute(&mut client, "UPDATE raw SET relevance_score = relevance_score");
    assert_eq!(failures(&mut sql).len(), faults.len(), "each is kept once");
}

#[test]
fn abort_refuses_the_statement_and_says_which_row() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "SELECT capture_signals('signal', via => 'signal_for_training', on_error => 'abort'); \
        INSERT INTO signal (id) VALUES (1)",
    );
    assert_error!(
        sql,
        "INSERT INTO signal (id, user_action) VALUES (2, NULL), (3, 'liked')",
        "22023",
        "'liked'",
        "signal_id 3 of \"public.signal\""
    );
    execute(&mut sql, "ALTER TABLE chunk RENAME TO piece; DROP VIEW signal_for_training");
    assert_eq!(expect_error(&mut sql, "INSERT INTO signal (id) VALUES (4)").code, "42703");
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM signal"), 1);
    assert_eq!(failures(&mut sql), none());
}

/// What breaks a capture, what mends it, and what the failures and capture_status say meanwhile.
struct Break {
    damage: &'static str,
    repair: &'static str,
    code: &'static str,
    state: &'static str,
}

const BREAKS: [Break; 6] = [
    Break {
        damage: "ALTER VIEW signal_for_training RENAME COLUMN user_action TO action",
        repair: "ALTER VIEW signal_for_training RENAME COLUMN action TO user_action",
        code: "42703",
        state: "column gone: user_action",
    },
    Break {
        damage: "ALTER VIEW signal_for_training RENAME COLUMN signal_id TO sid",
        repair: "ALTER VIEW signal_for_training RENAME COLUMN sid TO signal_id",
        code: "42703",
        state: "column gone: signal_id",
    },
    Break {
        damage: "ALTER TABLE signal RENAME COLUMN id TO pk",
        repair: "ALTER TABLE signal RENAME COLUMN pk TO id",
        code: "42703",
        state: "column gone: id",
    },
    Break {
        damage: "ALTER TABLE model_performance_log ADD CONSTRAINT odd CHECK (signal_id = '0') NOT VALID",
        repair: "ALTER TABLE model_performance_log DROP CONSTRAINT odd",
        code: "23514",
        state: "capturing, with open failures",
    },
    Break {
        damage: "CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'boom'; END $$;
            CREATE TRIGGER boom BEFORE UPDATE OR DELETE ON training_data_point EXECUTE FUNCTION boom()",
        repair: "DROP FUNCTION boom() CASCADE",
        code: "P0001",
        state: "capturing, with open failures",
    },
    Break {
        damage: "UPDATE capture_source SET name = 'other'",
        repair: "UPDATE capture_source SET name = 'public.signal'",
        code: "42704",
        state: "function dropped: pg_finetune_capture_795f3202b17cb6bc3d4b771d8c6c9eaf",
    },
];

#[test]
fn a_broken_mapping_leaves_the_application_alone_and_heals() {
    for Break { damage, repair, code, state } in BREAKS {
        let (_db, mut sql) = captured();
        execute(&mut sql, "INSERT INTO signal (id, user_id) VALUES (1, 7), (2, 7), (3, 8)");
        execute(&mut sql, damage);
        execute(
            &mut sql,
            "UPDATE signal SET user_action = 'saved' WHERE user_id = 7; DELETE FROM signal WHERE user_id = 8",
        );
        assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), state, "{damage}");
        assert_eq!(values::<String>(&mut sql, "SELECT DISTINCT error_code FROM capture_failure"), [code], "{damage}");
        execute(&mut sql, repair);
        execute(&mut sql, "SELECT backfill_signals('signal')");
        assert_eq!(points(&mut sql), ["1 saved 0", "2 saved 0"], "{damage}");
        assert_eq!(failures(&mut sql), none(), "{damage}");
        assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), "capturing");
    }
}

#[test]
fn a_replaced_view_is_mended_by_attaching_anew() {
    let (_db, mut sql) = captured();
    let view: String = value(&mut sql, "SELECT pg_get_viewdef('signal_for_training')");
    execute(
        &mut sql,
        "DROP VIEW signal_for_training; INSERT INTO signal (id) VALUES (1); UPDATE signal SET user_action = 'saved'",
    );
    assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), "view dropped");
    assert_eq!(failures(&mut sql).len(), 2);
    execute(
        &mut sql,
        &format!(
            "CREATE VIEW signal_for_training AS {view}; SELECT stop_capturing('signal');
        SELECT capture_signals('signal', via => 'signal_for_training'); SELECT backfill_signals('signal')"
        ),
    );
    assert_eq!(failures(&mut sql), none());
    assert_eq!(points(&mut sql), ["1 saved 0"]);
}

#[test]
fn even_a_lost_failure_table_does_not_break_the_application() {
    let (db, mut sql) = captured();
    execute(
        &mut sql,
        "ALTER TABLE pgft.capture_failure RENAME TO nowhere; ALTER TABLE pgft.training_data_point RENAME TO elsewhere",
    );
    let (mut client, notices) = db.connect_collecting();
    execute(&mut client, "INSERT INTO signal (id) VALUES (1)");
    assert!(notices.lock().unwrap()[0].contains("could not be kept either"));
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM signal"), 1);
}

#[test]
fn a_cancelled_statement_is_cancelled() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "CREATE VIEW slow AS SELECT id AS signal_id, user_id, \
        'text' || pg_sleep(30) AS chunk_content, user_action FROM signal;
        SELECT capture_signals('signal', via => 'slow'); SET statement_timeout = '300ms'",
    );
    let start = Instant::now();
    assert_eq!(expect_error(&mut sql, "INSERT INTO signal (id) VALUES (1)").code, "57014");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_writer_waits_two_seconds_for_us_and_no_longer() {
    let (db, mut sql) = captured();
    let mut other = db.connect();
    execute(&mut other, "BEGIN; LOCK TABLE pgft.training_data_point");
    let start = Instant::now();
    execute(&mut sql, "INSERT INTO signal (id) VALUES (1)");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(failures(&mut sql), ["INSERT 55P03 {1}"]);
    execute(&mut other, "ROLLBACK");
    assert_eq!(value::<i64>(&mut sql, "SELECT backfill_signals('signal')"), 1);
    assert_eq!(failures(&mut sql), none());
}

#[test]
fn what_a_view_needs_beyond_the_pinned_path_fails_when_attaching() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "
        CREATE FUNCTION clean(id bigint) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT content FROM \
        chunk WHERE chunk.id = clean.id); END $$;
        CREATE VIEW needy AS SELECT id AS signal_id, user_id, clean(chunk_id) AS chunk_content, \
        user_action FROM signal;
        INSERT INTO signal (id) VALUES (1)",
    );
    assert_eq!(expect_error(&mut sql, "SELECT capture_signals('signal', via => 'needy')").code, "42P01");
    execute(
        &mut sql,
        "ALTER FUNCTION clean(bigint) SET search_path = public; \
        SELECT capture_signals('signal', via => 'needy'); SELECT backfill_signals('signal')",
    );
    assert_eq!(points(&mut sql), ["1 - 0"]);
}
