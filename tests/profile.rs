//! The profile that query vectors start from: always exactly what the data points say, whatever happened to them.

mod common;

use common::*;

/// Differences between the kept sums and sums computed anew.
const DRIFT: &str = "
    SELECT count(*) FROM (
        SELECT p.user_id, p.user_action, p.dimensions, sum(p.points) AS points, pgft._profile_total(p.total) AS total
        FROM user_profile p GROUP BY 1, 2, 3 HAVING sum(p.points) <> 0) kept
    FULL JOIN (
        SELECT p.user_id, p.user_action, vector_dims(p.embedding) AS dimensions, count(*) AS points, pgft._profile_total(p.embedding, 1) AS total
        FROM training_data_point p WHERE p.user_action IS NOT NULL AND p.embedding IS NOT NULL AND vector_norm(p.embedding) > 0
        GROUP BY 1, 2, 3) fresh USING (user_id, user_action, dimensions)
    WHERE (kept.points, kept.total) IS DISTINCT FROM (fresh.points, fresh.total)";

fn assert_exact(client: &mut Client, after: &str) {
    assert_eq!(value::<i64>(client, DRIFT), 0, "profiles drifted after {after}");
}

fn rows(client: &mut Client) -> i64 {
    value(client, "SELECT count(*) FROM user_profile")
}

#[test]
fn profiles_stay_exact_through_changed_minds_bulk_changes_and_forgetting() {
    let db = Server::shared().create_database("profile");
    let mut client = db.install("pgft");
    application(&mut client, 20);
    assert_exact(&mut client, "capture");
    assert!(rows(&mut client) <= 20 * 9, "folded: {} rows", rows(&mut client));
    for change in [
        "UPDATE signal SET user_action = 'skipped' WHERE user_action = 'saved' AND id % 3 = 0",
        "UPDATE signal SET user_action = 'snipped' WHERE id % 7 = 0",
        "UPDATE signal SET user_action = NULL WHERE id % 11 = 0",
        "UPDATE training_data_point SET embedding = (SELECT array_agg(random())::real[]::vector FROM generate_series(1, 8)) WHERE random() < 0.2",
        "UPDATE training_data_point SET embedding = NULL WHERE random() < 0.1",
        "UPDATE training_data_point SET user_id = 'user-1' WHERE user_id = 'user-2'",
        "UPDATE training_data_point SET surface = 'other'",
        "DELETE FROM training_data_point WHERE random() < 0.2",
        "INSERT INTO training_data_point (user_id, chunk_content, embedding, user_action)
         VALUES ('user-1', 'zero', '[0,0,0]', 'saved'), ('user-1', 'other model', '[1,2,3]', 'saved'), ('user-3', 'none', NULL, 'saved')",
        "SELECT forget_user('user-5')",
    ] {
        client.batch_execute(change).unwrap_or_else(|e| panic!("{change}: {}", explain(&e)));
        assert_exact(&mut client, change);
    }
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM user_profile WHERE user_id = 'user-5'"), 0);
    assert_eq!(value::<i64>(&mut client, "SELECT rebuild_profiles()"), 18, "without user 2 and user 5");
    assert_exact(&mut client, "rebuild_profiles");
    client.batch_execute("TRUNCATE training_data_point").unwrap();
    assert_eq!(rows(&mut client), 0);
}

#[test]
fn the_query_vector_is_the_mean_that_sql_computes() {
    let db = Server::shared().create_database("mean");
    let mut client = db.install("pgft");
    application(&mut client, 5);
    let distance = "
        SELECT max(user_query(u.id, 'base') <-> l2_normalize(u.mean)) FROM (
            SELECT p.user_id AS id, avg(l2_normalize(p.embedding)) AS mean FROM training_data_point p
            WHERE p.user_action IN ('saved', 'snipped') GROUP BY 1) u";
    assert!(value::<f64>(&mut client, distance) < 1e-6);
    // the embedding model was changed: what was saved last says which vectors are searched
    client.batch_execute("SELECT record_signal('user-1', 'new', 'new', 'saved', embedding => '[0,0,2]')").unwrap();
    assert_eq!(value::<String>(&mut client, "SELECT user_query('user-1')::text"), "[0,0,1]");
}

#[test]
fn writers_of_one_user_do_not_wait_and_what_is_rolled_back_leaves_no_trace() {
    let db = Server::shared().create_database("writers");
    let mut first = db.install("pgft");
    let mut second = db.connect();
    second.batch_execute("SET search_path = pgft, public; SET lock_timeout = '1s'").unwrap();
    let save = |client: &mut Client, id: String| {
        let sql = format!("SELECT record_signal('ann', '{id}', 'text', 'saved', embedding => '[1,0]')");
        client.batch_execute(&sql).unwrap();
    };
    for round in 0..12 {
        first.batch_execute("BEGIN").unwrap();
        save(&mut first, format!("first {round}"));
        save(&mut second, format!("second {round}"));
        first.batch_execute(if round % 2 == 0 { "COMMIT" } else { "ROLLBACK" }).unwrap();
    }
    assert_exact(&mut first, "two writers");
    assert_eq!(value::<i64>(&mut first, "SELECT sum(points)::int8 FROM user_profile"), 18);
    first.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").unwrap();
    save(&mut first, "serializable".into());
    first.batch_execute("COMMIT").unwrap();
    assert_exact(&mut first, "a serializable writer");
}

#[test]
fn one_row_per_sum_is_the_rule_again_when_writers_met() {
    let db = Server::shared().create_database("met");
    let mut first = db.install("pgft");
    let mut second = db.connect();
    second.batch_execute("SET search_path = pgft, public; SET lock_timeout = '1s'").unwrap();
    let save = |client: &mut Client, id: &str| {
        client
            .batch_execute(&format!("SELECT record_signal('ann', '{id}', 'text', 'saved', embedding => '[1,0.3]')"))
            .unwrap();
    };
    save(&mut first, "a");
    first.batch_execute("BEGIN").unwrap();
    save(&mut first, "b");
    save(&mut second, "c");
    assert_eq!(rows(&mut second), 2, "the row is being changed: another one");
    first.batch_execute("COMMIT").unwrap();
    assert_exact(&mut first, "two rows of one sum");
    save(&mut second, "d");
    assert_eq!(rows(&mut second), 1);
    assert_exact(&mut first, "one row of both");
    second.batch_execute("DELETE FROM training_data_point").unwrap();
    assert_eq!(rows(&mut second), 0, "nothing is left of what came and went");
}

#[test]
fn what_is_undone_counts_nowhere() {
    let db = Server::shared().create_database("undone");
    let mut client = db.install("pgft");
    application(&mut client, 5);
    // A statement that fails half-way has told of rows whose profiles it never wrote.
    client
        .batch_execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.signal_id = '100' THEN RAISE 'no'; END IF; RETURN NULL; END $$;
             CREATE TRIGGER zz AFTER UPDATE ON training_data_point FOR EACH ROW EXECUTE FUNCTION refuse();
             DO $$ BEGIN
                 BEGIN UPDATE training_data_point SET user_action = 'snipped'; EXCEPTION WHEN raise_exception THEN NULL; END;
                 UPDATE training_data_point SET user_action = 'skipped' WHERE signal_id = '7';
             END $$;
             BEGIN; UPDATE training_data_point SET user_action = 'saved' WHERE signal_id = '8'; SAVEPOINT s;
             UPDATE training_data_point SET user_action = 'snipped' WHERE signal_id IN ('8', '9'); ROLLBACK TO s;
             UPDATE training_data_point SET user_action = 'snipped' WHERE signal_id = '10'; RELEASE s; COMMIT;
             DROP TRIGGER zz ON training_data_point",
        )
        .unwrap();
    assert_exact(&mut client, "undone statements and savepoints");
    client.batch_execute("BEGIN; UPDATE signal SET user_action = 'snipped'; ROLLBACK").unwrap();
    assert_exact(&mut client, "a transaction rolled back");
}

#[test]
fn a_table_with_more_on_it_is_kept_by_statements() {
    let db = Server::shared().create_database("more");
    let mut client = db.install("pgft");
    client
        .batch_execute(
            "ALTER TABLE user_profile ADD CONSTRAINT more CHECK (dimensions > 1);
             ALTER TABLE training_data_point ADD CONSTRAINT even CHECK (length(id) > 1);
             ALTER TABLE model_performance_log ENABLE ROW LEVEL SECURITY",
        )
        .unwrap();
    application(&mut client, 5);
    client.batch_execute("UPDATE signal SET user_action = 'snipped' WHERE id % 2 = 0").unwrap();
    assert_exact(&mut client, "captures into tables that are not as they were made");
    let differing = "SELECT count(*) FROM signal s JOIN training_data_point t ON t.signal_id = s.id::text JOIN model_performance_log l ON (l.user_id, l.source, l.signal_id) = (t.user_id, t.source, t.signal_id)
                     WHERE (t.user_action, l.user_action) IS DISTINCT FROM (s.user_action, s.user_action)";
    assert_eq!(value::<i64>(&mut client, differing), 0);
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM model_performance_log WHERE user_action = 'snipped'"),
        100
    );
}

#[test]
fn half_precision_vectors_are_served() {
    let db = Server::shared().create_database("half");
    let mut client = db.install("pgft");
    client
        .batch_execute(
            "CREATE TABLE item (id int PRIMARY KEY, embedding halfvec(2));
             INSERT INTO item VALUES (1, '[1,0]'), (2, '[0,1]'), (3, '[1,1]');
             CREATE INDEX ON item USING hnsw (embedding halfvec_cosine_ops);
             SELECT record_signal('ann', 'a', 'text', 'saved', embedding => i.embedding::vector) FROM item i WHERE id = 1;
             SET enable_seqscan = off",
        )
        .unwrap();
    let nearest = "SELECT id FROM item ORDER BY embedding <=> user_query('ann') LIMIT 2";
    assert_eq!(values::<i32>(&mut client, nearest), [1, 3]);
    let plan = values::<String>(&mut client, &format!("EXPLAIN {nearest}")).join("\n");
    assert!(plan.contains("Index Scan using item_embedding_idx"), "{plan}");
    let score: f64 = value(&mut client, "SELECT relevance_score('ann', embedding::vector) FROM item WHERE id = 1");
    assert!((score - 1.0).abs() < 1e-6, "{score}");
}

#[test]
fn adapters_in_memory_follow_their_table() {
    let db = Server::shared().create_database("follow");
    let mut client = db.install("pgft");
    let mut other = db.connect();
    other.batch_execute("SET search_path = pgft, public").unwrap();
    client
        .batch_execute(
            "SELECT record_signal('ann', 'a', 'text', 'saved', embedding => '[1,0]');
             INSERT INTO model (id, base_model, provider, method) VALUES ('m', 'base', 'builtin', 'contrastive');
             INSERT INTO adapter (model_id, dimensions, matrix, bias, digest) VALUES ('m', 2, '{0,1,1,0}', '{0,0}', '')",
        )
        .unwrap();
    let query = "SELECT user_query('ann', 'm')::text";
    assert_eq!(value::<String>(&mut other, query), "[0,1]");
    client.batch_execute("UPDATE adapter SET matrix = '{1,0,0,1}'").unwrap();
    assert_eq!(value::<String>(&mut other, query), "[1,0]");
    client.batch_execute("UPDATE adapter SET positive = '{snipped}'").unwrap();
    assert_eq!(value::<Option<String>>(&mut other, query), None, "saves do not count for it");
    client.batch_execute("DELETE FROM adapter").unwrap();
    assert_error!(other, "SELECT user_query('ann', 'm')", "42704", "\"m\"");
}
