//! Tables with something about them: children, policies, several sources, options, very many rows.

use super::*;

#[test]
fn inheritance_children_count_like_their_parent() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "CREATE TABLE parent (id bigint PRIMARY KEY, user_id int DEFAULT 7, user_action text);
         CREATE TABLE child (extra text) INHERITS (parent);
         CREATE TABLE grandchild () INHERITS (child);
         CREATE VIEW family AS SELECT id AS signal_id, user_id, 'text'::text AS chunk_content, user_action FROM parent;
         SELECT capture_signals('parent', via => 'family');
         INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2), (3); INSERT INTO grandchild VALUES (4);
         UPDATE parent SET user_action = 'saved'; UPDATE child SET user_action = 'skipped' WHERE id = 3; DELETE FROM parent WHERE id = 2;
         UPDATE child SET extra = 'x'",
    );
    assert_eq!(points(&mut sql), ["1 saved 0", "3 skipped 1", "4 saved 0"]);
    execute(&mut sql, "CREATE TABLE late () INHERITS (parent); INSERT INTO late VALUES (5)");
    assert_eq!(points(&mut sql).len(), 3);
    let state: String = value(&mut sql, "SELECT state FROM capture_status");
    assert_eq!(state, "trigger missing or disabled: public.late");
    assert_eq!(value::<String>(&mut sql, "SELECT refresh_capture('parent')"), "capturing");
    execute(&mut sql, "UPDATE late SET user_action = 'snipped'");
    assert_eq!(points(&mut sql)[3], "5 snipped 0");
    assert_eq!(failures(&mut sql), none());
    execute(&mut sql, "SELECT stop_capturing('parent'); INSERT INTO grandchild VALUES (6)");
    assert_eq!(points(&mut sql).len(), 4);
}

#[test]
fn writes_within_a_query_count_each() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "WITH shown AS (INSERT INTO signal (id) SELECT i FROM generate_series(1, 4) i RETURNING id),
              more AS (INSERT INTO signal (id, user_action) SELECT id + 10, 'saved' FROM shown WHERE id > 2 RETURNING id)
         SELECT count(*) FROM more;
         WITH gone AS (DELETE FROM signal WHERE id = 1 RETURNING id),
              acted AS (UPDATE signal SET user_action = 'skipped' WHERE id IN (2, 13) RETURNING id)
         INSERT INTO signal (id, user_action) SELECT id + 20, 'snipped' FROM gone UNION ALL SELECT id + 20, 'saved' FROM acted",
    );
    assert_eq!(
        points(&mut sql),
        ["2 skipped 0", "3 - 0", "4 - 0", "13 skipped 1", "14 saved 0", "21 snipped 0", "22 saved 0", "33 saved 0"]
    );
    execute(&mut sql, "CREATE FUNCTION act(who bigint) RETURNS void LANGUAGE sql AS 'UPDATE signal SET user_action = ''snipped'' WHERE id = who'");
    execute(&mut sql, "SELECT act(id) FROM (VALUES (3), (4)) v (id)");
    assert_eq!(points(&mut sql)[1..3], ["3 snipped 0", "4 snipped 0"]);
    assert_eq!(failures(&mut sql), none());
}

#[test]
fn sources_with_the_same_ids_stay_apart() {
    let (_db, mut sql) = captured();
    execute(
        &mut sql,
        "CREATE TABLE clip (signal_id bigint PRIMARY KEY, user_id bigint DEFAULT 7, chunk_content text DEFAULT 'clip', user_action text);
         SELECT capture_signals('clip', via => 'clip');
         -- one statement that writes to both
         WITH signals AS (INSERT INTO signal (id) VALUES (1), (2) RETURNING id) INSERT INTO clip SELECT id FROM signals;
         UPDATE signal SET user_action = 'saved'; UPDATE clip SET user_action = 'skipped' WHERE signal_id = 1; DELETE FROM clip WHERE signal_id = 2",
    );
    let stored: Vec<String> = values(
        &mut sql,
        "SELECT concat_ws(' ', source, signal_id, user_action, chunk_content) FROM training_data_point ORDER BY source, signal_id",
    );
    assert_eq!(
        stored,
        ["public.clip 1 skipped clip", "public.signal 1 saved chunk 1", "public.signal 2 saved chunk 1"]
    );
    let status: Vec<String> = values(
        &mut sql,
        "SELECT concat_ws(' ', source, state, captured, open_failures) FROM capture_status ORDER BY 1",
    );
    assert_eq!(status, ["public.clip capturing 1 0", "public.signal capturing 2 0"]);
    execute(&mut sql, "SELECT stop_capturing('clip'); UPDATE clip SET user_action = 'saved'; UPDATE signal SET user_action = 'snipped'");
    let stored: Vec<String> =
        values(&mut sql, "SELECT source || ' ' || user_action FROM training_data_point ORDER BY source, signal_id");
    assert_eq!(stored, ["public.clip skipped", "public.signal snipped", "public.signal snipped"]);
}

#[test]
fn truncate_removes_points_only_where_asked_and_never_what_was_learned_from() {
    for (option, left) in [("keep", vec!["1 saved 0", "2 saved 0", "3 - 0"]), ("remove", vec!["2 saved 0"])] {
        let (_db, mut sql) = application();
        execute(
            &mut sql,
            &format!(
                "SELECT capture_signals('signal', via => 'signal_for_training', on_truncate => '{option}');
                 INSERT INTO signal (id, user_action) VALUES (1, 'saved'), (2, 'saved'), (3, NULL);
                 UPDATE training_data_point SET used_for_training = true, training_set_version = 1 WHERE signal_id = '2';
                 SELECT record_signal('u', 's', 'text', 'saved'); TRUNCATE signal"
            ),
        );
        let captured: Vec<String> = points(&mut sql).into_iter().filter(|point| point != "s saved 0").collect();
        assert_eq!(captured, left, "{option}");
        assert_eq!(log(&mut sql).len(), 4, "{option}: what was shown was shown");
        assert_eq!(points(&mut sql).len(), left.len() + 1, "{option}: the API's own stays");
    }
    let (_db, mut sql) = application();
    assert_error!(
        sql,
        "SELECT capture_signals('signal', via => 'signal_for_training', on_truncate => 'drop')",
        "22023",
        "'keep'",
        "'remove'"
    );
}

#[test]
fn vectors_are_left_where_they_are_when_told() {
    let (_db, mut sql) = application();
    execute(
        &mut sql,
        "INSERT INTO signal (id) VALUES (1);
         SELECT capture_signals('signal', via => 'signal_for_training', snapshot_embeddings => false);
         INSERT INTO signal (id, user_action) VALUES (2, 'saved'); UPDATE signal SET user_action = 'snipped' WHERE id = 2;
         SELECT backfill_signals('signal'); SELECT refresh_capture('signal'); UPDATE signal SET user_action = 'saved'",
    );
    assert_eq!(points(&mut sql), ["1 saved 0", "2 saved 1"].map(|p| p.replace("2 saved 1", "2 saved 2")));
    assert_eq!(value::<i64>(&mut sql, "SELECT count(embedding) FROM training_data_point"), 0);
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM user_profile"), 0);
    assert_eq!(failures(&mut sql), none());
    assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), "capturing");
}

/// An application whose users see their own rows only; `force` binds the owner, too. Returns two of its users.
fn guarded(policy: &str, force: bool) -> (Database<'static>, Client, String, [String; 2]) {
    let (db, mut sql) = application();
    let owner = Server::shared().create_role("guard", &["finetune_admin"]);
    let users = ["ann", "bob"].map(|name| Server::shared().create_role(name, &[]));
    execute(
        &mut sql,
        &format!(
            "CREATE SCHEMA shop AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE shop.item (signal_id int PRIMARY KEY, user_id text DEFAULT CURRENT_USER, chunk_content text DEFAULT 'text', user_action text);
             ALTER TABLE shop.item ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON shop.item USING ({policy});
             CREATE VIEW shop.v AS SELECT * FROM shop.item;
             GRANT USAGE ON SCHEMA shop TO {0}, {1}; GRANT SELECT, INSERT, UPDATE, DELETE ON shop.item TO {0}, {1}; RESET ROLE",
            users[0], users[1]
        ),
    );
    if force {
        execute(&mut sql, "ALTER TABLE shop.item FORCE ROW LEVEL SECURITY");
    }
    (db, sql, owner, users)
}

/// "user signal_id user_action" of every data point, users by their place.
fn whose(sql: &mut Client, users: &[String; 2]) -> Vec<String> {
    let rows: Vec<String> = values(
        sql,
        "SELECT concat_ws(' ', user_id, signal_id, coalesce(user_action, '-')) FROM training_data_point ORDER BY signal_id",
    );
    rows.iter().map(|row| row.replace(&users[0], "ann").replace(&users[1], "bob")).collect()
}

#[test]
fn row_security_hides_rows_from_users_and_not_from_capture() {
    let (db, mut sql, owner, users) = guarded("user_id = CURRENT_USER", false);
    execute(&mut db.connect_as(&owner), "SELECT pgft.capture_signals('shop.item', via => 'shop.v')");
    let [mut ann, mut bob] = users.each_ref().map(|user| db.connect_as(user));
    execute(&mut ann, "INSERT INTO shop.item (signal_id) VALUES (1), (2)");
    execute(&mut bob, "INSERT INTO shop.item (signal_id) VALUES (3); UPDATE shop.item SET user_action = 'saved'");
    execute(
        &mut ann,
        "UPDATE shop.item SET user_action = 'skipped' WHERE signal_id <> 2; DELETE FROM shop.item WHERE signal_id >= 2",
    );
    assert_eq!(whose(&mut sql, &users), ["ann 1 skipped", "bob 3 saved"]);
    assert_eq!(value::<i64>(&mut bob, "SELECT count(*) FROM shop.item"), 1, "bob still sees his own only");
    assert_eq!(expect_error(&mut bob, "SELECT FROM pgft.training_data_point").code, "42501");
    assert_eq!(failures(&mut sql), none());
}

#[test]
fn forced_row_security_by_a_setting_lets_capture_see_what_the_statement_wrote() {
    let (db, mut sql, owner, users) = guarded("user_id = current_setting('app.who', true)", true);
    execute(&mut db.connect_as(&owner), "SELECT pgft.capture_signals('shop.item', via => 'shop.v')");
    for (number, user) in users.iter().enumerate() {
        let mut client = db.connect_as(user);
        execute(
            &mut client,
            &format!("SET app.who = '{user}'; INSERT INTO shop.item (signal_id) VALUES ({number}); UPDATE shop.item SET user_action = 'saved'"),
        );
    }
    assert_eq!(whose(&mut sql, &users), ["ann 0 saved", "bob 1 saved"]);
    assert_eq!(failures(&mut sql), none());
}

#[test]
fn policies_that_bind_the_one_who_attaches_are_mentioned() {
    let (db, mut sql, owner, users) = guarded("user_id = CURRENT_USER", true);
    let (mut client, notices) = db.connect_collecting();
    execute(&mut client, &format!("SET ROLE {owner}; SELECT pgft.capture_signals('shop.item', via => 'shop.v')"));
    let said = notices.lock().unwrap().join("\n");
    assert!(said.contains(&format!("row security of shop.item applies to role \"{owner}\"")), "{said}");
    execute(&mut db.connect_as(&users[0]), "INSERT INTO shop.item (signal_id) VALUES (1)");
    assert_eq!(whose(&mut sql, &users), none(), "what the policies hide from the owner is not there for capture");
}

/// Memory that this connection's process has had at most, in kB, shared memory included from the beginning.
fn peak(sql: &mut Client) -> i64 {
    value(sql, "SELECT substring(pg_read_file('/proc/self/status') FROM 'VmPeak:\\s*(\\d+) kB')::int8")
}

#[test]
fn memory_does_not_grow_with_the_rows_of_a_statement() {
    let (_db, mut sql) = captured();
    let statements = |first: u32, last: u32| {
        [
            format!("INSERT INTO signal (id, user_id, chunk_id) SELECT i, i % 500, 1 + i % 9 FROM generate_series({first}, {last}) i"),
            format!("UPDATE signal SET user_action = 'saved' WHERE id >= {first}"),
            format!("UPDATE signal SET user_action = 'skipped' WHERE id >= {first}"),
        ]
    };
    // Of caches and plans, which 15,000 rows fill as well as any number.
    for statement in statements(1, 15_000) {
        execute(&mut sql, &statement);
    }
    for statement in statements(100_001, 250_000) {
        let before = peak(&mut sql);
        execute(&mut sql, &statement);
        let grown = peak(&mut sql) - before;
        assert!(grown < 32 * 1024, "{statement}: {grown} kB more for ten times the rows");
    }
    let stored: i64 =
        value(&mut sql, "SELECT count(*) FROM training_data_point WHERE user_action = 'skipped' AND changes = 1");
    assert_eq!(stored, 165_000);
    assert_eq!(failures(&mut sql), none());
}
