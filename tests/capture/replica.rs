//! Writes that somebody else decided on: a publisher, a restore, a session that replays.

use super::*;
use std::time::Duration;

/// "signal_id user_action" of every row of the application's table.
const ROWS: &str = "SELECT concat_ws(' ', id, coalesce(user_action, '-')) FROM public.signal ORDER BY id";

/// Subscribes a copy of the application to a publisher's; `options` are those of capture_signals().
fn subscribe<'a>(server: &'a Server, name: &str, publisher: &str, options: &str) -> (Database<'a>, Client) {
    let db = server.create_database(name);
    let mut sql = db.install("pgft");
    execute(&mut sql, APPLICATION);
    execute(&mut sql, &format!("SELECT capture_signals('signal', via => 'signal_for_training'{options})"));
    execute(&mut sql, &format!("CREATE SUBSCRIPTION {name} CONNECTION '{publisher}' PUBLICATION signals"));
    (db, sql)
}

#[test]
fn a_subscriber_captures_when_asked_and_only_then() {
    let publisher = Server::private(&[("wal_level", "logical")]);
    let subscriber = Server::private(&[]);
    let origin = publisher.create_database("origin");
    let mut writer = origin.connect();
    execute(&mut writer, "CREATE EXTENSION vector SCHEMA public");
    execute(&mut writer, APPLICATION);
    execute(&mut writer, "INSERT INTO signal (id) VALUES (1), (2); CREATE PUBLICATION signals FOR TABLE signal");
    let (_asked_db, mut asked) = subscribe(&subscriber, "asked", &origin.url(), ", on_replica => true");
    let (_silent_db, mut silent) = subscribe(&subscriber, "silent", &origin.url(), "");

    let both_show = |asked: &mut Client, silent: &mut Client, rows: &[&str]| {
        wait_until(Duration::from_secs(60), "both subscribers have applied it", || {
            values::<String>(asked, ROWS) == rows && values::<String>(silent, ROWS) == rows
        });
    };
    both_show(&mut asked, &mut silent, &["1 -", "2 -"]);
    assert_eq!(points(&mut asked), ["1 - 0", "2 - 0"], "the first copy of the table");
    execute(&mut writer, "UPDATE signal SET user_action = 'saved' WHERE id = 1; INSERT INTO signal (id) VALUES (3)");
    execute(
        &mut writer,
        "BEGIN; DELETE FROM signal WHERE id = 2; UPDATE signal SET user_action = 'skipped' WHERE id = 3",
    );
    execute(&mut writer, "COMMIT");
    both_show(&mut asked, &mut silent, &["1 saved", "3 skipped"]);
    assert_eq!(points(&mut asked), ["1 saved 0", "3 skipped 0"]);
    assert_eq!(failures(&mut asked), none());
    assert_eq!(points(&mut silent), none(), "the publisher is where it is captured");

    // Written here, it counts in both.
    for client in [&mut asked, &mut silent] {
        execute(client, "UPDATE signal SET user_action = 'snipped' WHERE id = 3");
        assert_eq!(points(client).last().unwrap().split(' ').nth(1), Some("snipped"));
        let name: String = value(client, "SELECT subname FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())");
        execute(client, &format!("DROP SUBSCRIPTION {name}"));
    }
}

#[test]
fn a_session_that_replays_captures_when_asked() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "SELECT capture_signals('signal', via => 'signal_for_training', on_replica => true);
         SET session_replication_role = replica;
         INSERT INTO signal (id) VALUES (1), (2); UPDATE signal SET user_action = 'saved' WHERE id = 1; DELETE FROM signal WHERE id = 2",
    );
    assert_eq!(points(&mut sql), ["1 saved 0"]);
    let off: f64 = value(&mut sql, "SELECT user_query('7') <-> l2_normalize('[1,1,2]'::vector)");
    assert!(off < 1e-6, "the profile follows: {off}");
    assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), "capturing");
    execute(&mut sql, "ALTER TABLE signal ENABLE TRIGGER pg_finetune_insert");
    assert_eq!(
        value::<String>(&mut sql, "SELECT state FROM capture_status"),
        "trigger missing or disabled: public.signal",
        "what was asked for is no longer done"
    );
}

#[test]
fn a_restore_under_live_triggers_doubles_nothing() {
    let (db, mut sql) = captured();
    execute(
        &mut sql,
        "INSERT INTO signal (id, user_id, user_action, actioned_at) SELECT i, i % 5, CASE i % 3 WHEN 0 THEN 'saved' WHEN 1 THEN 'skipped' END, now()
         FROM generate_series(1, 300) i",
    );
    let before = points(&mut sql);
    let server = Server::shared();
    let dump = run(server.program("pg_dump").args(["--data-only", "--table=public.signal", "--dbname", &db.url()]));
    let file = std::env::temp_dir().join(format!("{}.sql", db.name));
    std::fs::write(&file, dump).unwrap();
    // Once over what is captured already, once into a database that captured nothing yet.
    execute(&mut sql, "TRUNCATE signal");
    let fresh = server.create_database("fresh");
    let mut other = fresh.install("pgft");
    execute(&mut other, APPLICATION);
    execute(&mut other, "SELECT capture_signals('signal', via => 'signal_for_training')");
    for url in [db.url(), fresh.url()] {
        let file = file.to_str().unwrap();
        run(server.program("psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", &url, "-f", file]));
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(points(&mut sql), before);
    assert_eq!(points(&mut other), before);
    assert_eq!(failures(&mut sql), none());
    assert_eq!(failures(&mut other), none());
}
