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
