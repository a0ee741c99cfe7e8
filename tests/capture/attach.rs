//! Attaching: everything that is wrong is said now, and in one error, never at write time.

use super::*;

#[test]
fn all_missing_and_mistyped_columns_stand_in_one_error() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "CREATE VIEW bad AS SELECT id AS signal_id, shown_at::timestamp AS shown_at, \
        true AS relevance_score, '{}'::jsonb AS embedding, user_id FROM signal",
    );
    let error =
        assert_error!(sql, "SELECT capture_signals('signal', via => 'bad')", "42703",
        "column \"chunk_content\" is missing", "column \"user_action\" is missing",
        "column \"embedding\" is jsonb: expected public.vector, \
            public.halfvec", "column \"relevance_score\" is boolean",
        "column \"shown_at\" is timestamp without time zone", "write shown_at AT TIME ZONE 'UTC' AS shown_at",
        "CREATE VIEW signal_for_training AS SELECT t.id AS signal_id, t.user_id, <chunk_content> AS chunk_content, \
            t.user_action FROM public.signal t");
    assert!(!error.detail.unwrap().contains("\"user_id\""));

    execute(
        &mut sql,
        "CREATE VIEW mistyped AS SELECT id AS signal_id, user_id, 'x'::text AS chunk_content, \
        1.5 AS user_action FROM signal",
    );
    assert_error!(
        sql,
        "SELECT capture_signals('signal', via => 'mistyped')",
        "42804",
        "column \"user_action\" is numeric"
    );
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM capture_source"), 0);
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'signal'::regclass"), 0);
}

#[test]
fn ignored_columns_and_a_missing_surface_are_mentioned() {
    let (db, mut sql) = application();
    execute(
        &mut sql,
        "CREATE VIEW wide AS SELECT id AS signal_id, user_id, 'x'::text AS chunk_content, \
        user_action, hidden, '[1]'::vector AS \"Other Vector\" FROM signal",
    );
    let (mut client, notices) = db.connect_collecting();
    execute(&mut client, "SELECT pgft.capture_signals('signal', via => 'wide')");
    let notices = notices.lock().unwrap().join("\n");
    assert!(notices.contains("not captured: hidden, \"Other Vector\""), "{notices}");
    assert!(notices.contains("no column \"surface\""), "{notices}");
    assert!(!notices.contains("different types"), "{notices}");
    assert_eq!(
        value::<Vec<String>>(&mut sql, "SELECT columns FROM capture_source"),
        ["signal_id", "user_id", "chunk_content", "user_action"]
    );
}

#[test]
fn a_key_that_the_view_casts_is_mentioned_and_works() {
    let (db, mut sql) = application();
    execute(
        &mut sql,
        "CREATE VIEW cast_key AS SELECT id::text AS signal_id, user_id, 'x'::text AS chunk_content, \
        user_action FROM signal",
    );
    let (mut client, notices) = db.connect_collecting();
    execute(
        &mut client,
        "SELECT pgft.capture_signals('signal', via => 'cast_key'); INSERT INTO signal (id) VALUES (1)",
    );
    assert!(notices.lock().unwrap().iter().any(|notice| notice.contains("are of different types")));
    assert_eq!(points(&mut sql), ["1 - 0"]);
}

#[test]
fn the_key_is_the_primary_key_or_the_one_named() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "
        CREATE TABLE keyless (signal_id int, user_id text, chunk_content text, user_action text, \"when\" date);
        CREATE TABLE two_keys (signal_id int, user_id text, chunk_content text, user_action text, \
        PRIMARY KEY (signal_id, user_id))",
    );
    assert_error!(
        sql,
        "SELECT capture_signals('keyless', via => 'keyless')",
        "42P16",
        "no primary key of one column",
        "key => "
    );
    assert_error!(
        sql,
        "SELECT capture_signals('two_keys', via => 'two_keys')",
        "42P16",
        "no primary key of one column"
    );
    assert_error!(
        sql,
        "SELECT capture_signals('keyless', via => 'keyless', key => 'nope')",
        "42703",
        "column \"nope\""
    );
    assert_error!(sql, "SELECT capture_signals('keyless', via => 'keyless', key => 'when')", "42804", "date");
    execute(
        &mut sql,
        "SELECT capture_signals('keyless', via => 'keyless', key => 'signal_id'); \
        INSERT INTO keyless VALUES (1, 'u', 'text', 'saved'), (NULL, 'u', 'text', NULL)",
    );
    assert_eq!(points(&mut sql), ["1 saved 0"]);
}

#[test]
fn what_cannot_be_captured_is_refused_with_a_way_out() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "
        CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER far FOREIGN DATA WRAPPER nothing; \
        CREATE FOREIGN TABLE far_signal (id int) SERVER far;
        CREATE TABLE mixed (id int, day int) PARTITION BY RANGE (day); \
        CREATE FOREIGN TABLE mixed_1 PARTITION OF mixed FOR VALUES FROM (0) TO (9) SERVER far;
        CREATE MATERIALIZED VIEW stale AS SELECT * FROM signal_for_training; \
        CREATE TEMP TABLE fleeting (id int PRIMARY KEY);
        CREATE TEMP VIEW gone_soon AS SELECT * FROM signal_for_training",
    );
    let mut refuse = |table: &str, via: &str, part: &str| {
        assert_error!(sql, &format!("SELECT capture_signals('{table}', via => '{via}')"), "42809", part);
    };
    refuse("far_signal", "signal_for_training", "a foreign table");
    refuse("mixed", "signal_for_training", "\"public.mixed_1\" is a foreign table");
    refuse("signal_for_training", "signal_for_training", "capture the table under the view");
    refuse("stale", "signal_for_training", "not a table");
    refuse("signal", "stale", "not a table");
    refuse("fleeting", "signal_for_training", "temporary");
    refuse("signal", "gone_soon", "temporary");
    refuse("training_data_point", "training_data_point", "where captured signals go");
}

#[test]
fn wrong_arguments_are_refused() {
    let (_db, mut sql) = application();
    assert_error!(
        sql,
        "SELECT capture_signals('signal', via => 'signal_for_training', on_error => 'ignore')",
        "22023",
        "'warn'",
        "'abort'"
    );
    assert_error!(sql, "SELECT capture_signals('signal', via => NULL)", "22023");
    assert_error!(sql, "SELECT stop_capturing('signal')", "42704", "is not captured");
    assert_error!(sql, "SELECT backfill_signals('signal')", "42704", "is not captured");
    execute(&mut sql, "SELECT capture_signals('signal', via => 'signal_for_training')");
    assert_error!(sql, "SELECT backfill_signals('signal', 0)", "22023", "batch is 0");
}

#[test]
fn a_second_capture_is_refused_and_a_stopped_one_may_start_again() {
    let (_db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id) VALUES (1)");
    assert_error!(
        sql,
        "SELECT capture_signals('signal', via => 'signal_for_training')",
        "42710",
        "stop_capturing('public.signal')"
    );
    execute(&mut sql, "SELECT stop_capturing('signal'); INSERT INTO signal (id) VALUES (2)");
    assert_eq!(points(&mut sql), ["1 - 0"]);
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM pg_proc WHERE proname LIKE 'pg_finetune_capture%'"), 0);
    assert_eq!(
        value::<i64>(
            &mut sql,
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'signal'::regclass AND NOT tgisinternal"
        ),
        0
    );
    execute(
        &mut sql,
        "SELECT capture_signals('signal', via => 'signal_for_training'); UPDATE signal SET user_action = 'saved'",
    );
    assert_eq!(points(&mut sql), ["1 saved 0", "2 saved 0"]);
}

#[test]
fn a_partition_is_not_captured_twice() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "
        CREATE TABLE part (signal_id int, user_id int, chunk_content text, user_action text, \
        PRIMARY KEY (signal_id)) PARTITION BY RANGE (signal_id);
        CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
        SELECT capture_signals('part', via => 'part')",
    );
    assert_error!(sql, "SELECT capture_signals('part_1', via => 'part_1')", "42710", "part_1");
    execute(&mut sql, "SELECT stop_capturing('part'); SELECT capture_signals('part_1', via => 'part_1')");
    assert_error!(sql, "SELECT capture_signals('part', via => 'part')", "42710", "part_1");
}

#[test]
fn a_dropped_table_makes_room_for_its_successor() {
    let (_db, mut sql) = captured();
    execute(&mut sql, "INSERT INTO signal (id) VALUES (1); DROP TABLE signal CASCADE");
    assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), "table dropped");
    execute(
        &mut sql,
        &APPLICATION.replace("CREATE TABLE public.chunk", "DROP TABLE chunk CASCADE; CREATE TABLE public.chunk"),
    );
    execute(
        &mut sql,
        "SELECT capture_signals('signal', via => 'signal_for_training'); INSERT INTO signal (id) VALUES (2)",
    );
    assert_eq!(points(&mut sql), ["1 - 0", "2 - 0"]);
}

#[test]
fn nasty_names_are_only_names() {
    let (_db, mut sql) = application();
    let long = "x".repeat(63);
    let nasty = [
        "Signal",
        "a\"b",
        "it's",
        "$$; DROP TABLE signal; --",
        "%s %I",
        "{}",
        "two\nlines",
        "select",
        "Ünïcødé",
        "api",
        &long,
    ];
    for (number, name) in nasty.iter().enumerate() {
        let schema = quoted(&format!("{}{number}", name.chars().take(30).collect::<String>()));
        let (table, view, column) = (
            format!("{schema}.{}", quoted(name)),
            format!("{schema}.{}", quoted(&format!("v{}", name.chars().skip(1).collect::<String>()))),
            quoted(name),
        );
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        execute(
            &mut sql,
            &format!(
                "
            CREATE SCHEMA {schema}; CREATE TABLE {table} ({column} text PRIMARY KEY, who text);
            CREATE VIEW {view} AS SELECT {column} AS signal_id, who AS user_id, 'text'::text AS chunk_content, \
            NULL::text AS user_action FROM {table};
            SELECT capture_signals({t}, via => {v});
            INSERT INTO {table} VALUES ({n}, 'user {number}'); UPDATE {table} SET {column} = {column} || '!';
            SELECT stop_capturing({t}); SELECT capture_signals({t}, via => {v}, on_error => 'abort');
            SELECT backfill_signals({t}); UPDATE {table} SET {column} = {column} || '!'",
                t = literal(&table),
                v = literal(&view),
                n = literal(name)
            ),
        );
        assert_eq!(
            value::<String>(
                &mut sql,
                &format!("SELECT signal_id FROM training_data_point WHERE user_id = 'user {number}'")
            ),
            format!("{name}!!")
        );
    }
    assert_eq!(failures(&mut sql), none());
    assert_eq!(
        value::<i64>(&mut sql, "SELECT count(*) FROM capture_status WHERE state = 'capturing'"),
        nasty.len() as i64
    );
}
