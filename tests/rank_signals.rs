//! The second stage: candidates by the application's own index and rights, then a closer look at each.

mod common;

use common::*;

/// A model with weights for the second stage: the plain mean, as base, and no dataset but the counts given here.
const MODEL: &str = "
    INSERT INTO model (id, base_model, provider, method, dimensions) VALUES ('two', 'base', 'builtin', 'contrastive', 8);
    INSERT INTO adapter (model_id, dimensions, matrix, bias, knn3_weight, popularity_weight, digest, report)
    SELECT 'two', 8, array_agg((i % 9 = 0)::int ORDER BY i), array_fill(0::real, ARRAY[8]), 0.8, 0.3, '',
           '{\"second_stage\": {\"reason\": \"second stage: by hand\"}}'
    FROM generate_series(0, 63) i;
    INSERT INTO chunk_popularity SELECT 'two', i, i % 5, 4 + i % 5 FROM generate_series(1, 1000, 2) i;
    INSERT INTO deployment (model_id, action) VALUES ('two', 'deploy')";

fn with_index(name: &str) -> (Database<'static>, Client) {
    let db = Server::shared().create_database(name);
    let mut client = db.install("pgft");
    application(&mut client, 20);
    execute(&mut client, "CREATE INDEX ON chunk USING hnsw (embedding vector_cosine_ops); ANALYZE chunk");
    (db, client)
}

#[test]
fn without_weights_it_is_the_order_of_the_vector_and_says_so() {
    let (_db, mut client) = with_index("plain");
    let exact = "SELECT id::text FROM chunk ORDER BY embedding <=> (SELECT user_query('user-1')) LIMIT 10";
    let nearest: Vec<String> = values(&mut client, exact);
    assert_eq!(values::<String>(&mut client, "SELECT chunk_id FROM rank_signals('user-1')"), nearest);
    let row = client.query_one("SELECT * FROM rank_signals('user-1', 1)", &[]).unwrap();
    assert_eq!(row.get::<_, i32>("rank"), 1);
    assert_eq!(row.get::<_, f64>("score"), row.get::<_, f64>("similarity"));
    assert_eq!((row.get::<_, Option<f64>>("knn3"), row.get::<_, Option<f64>>("popularity")), (None, None));
    let basis: String = row.get("basis");
    assert_eq!(basis, "vector order: no weights were ever chosen for a second stage (model \"base\")");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM rank_signals('nobody')"), 0, "no profile, no rows");
}

#[test]
fn the_parts_of_the_score_are_what_they_are_called() {
    let (_db, mut client) = with_index("parts");
    execute(&mut client, MODEL);
    // the same in plain SQL, over everything that is a candidate
    let expected = "
        SELECT c.id::text, 1 - (c.embedding <=> user_query('user-1')) AS similarity, near.knn3,
               CASE WHEN c.id % 2 = 1 THEN (c.id % 5 + 1) / (4.0::float8 + c.id % 5 + 2) ELSE 0.5 END AS popularity
        FROM chunk c CROSS JOIN LATERAL (
            SELECT avg(s.similarity) AS knn3 FROM (
                SELECT 1 - (p.embedding <=> c.embedding) AS similarity FROM training_data_point p
                WHERE p.user_id = 'user-1' AND p.user_action = 'saved' ORDER BY 1 DESC LIMIT 3) s) near
        ORDER BY 2 DESC LIMIT 1000";
    let differences = format!(
        "SELECT count(*) FROM ({expected}) e FULL JOIN rank_signals('user-1', 1000, candidates => 1000) r ON r.chunk_id = e.id
         WHERE (abs(r.similarity - e.similarity) < 1e-5 AND abs(r.knn3 - e.knn3) < 1e-5 AND abs(r.popularity - e.popularity) < 1e-9
                AND abs(r.score - (e.similarity + 0.8 * e.knn3 + 0.3 * e.popularity)) < 1e-4) IS NOT TRUE"
    );
    // exactly all of them: without the index, which may leave some out
    execute(&mut client, "SET enable_indexscan = off");
    assert_eq!(value::<i64>(&mut client, &differences), 0);
    execute(&mut client, "RESET enable_indexscan");
    let ordered = "SELECT bool_and(score <= before OR before IS NULL) AND min(rank) = 1 AND max(rank) = 10
                   FROM (SELECT *, lag(score) OVER (ORDER BY rank) AS before FROM rank_signals('user-1')) t";
    assert!(value::<bool>(&mut client, ordered));
    let basis: String = value(&mut client, "SELECT DISTINCT basis FROM rank_signals('user-1')");
    assert_eq!(basis, "second stage: by hand (model \"two\")");
}

#[test]
fn candidates_come_from_the_index_and_none_is_lost_to_a_narrow_search() {
    let (_db, mut client) = with_index("hnsw");
    let scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'chunk_embedding_idx'";
    execute(&mut client, "SET enable_seqscan = off");
    let before: i64 = value(&mut client, scans);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM rank_signals('user-1', 200)"), 200, "ef_search is 40");
    execute(&mut client, "SELECT pg_stat_force_next_flush()");
    assert_eq!(value::<i64>(&mut client, scans), before + 1);
    assert_eq!(value::<String>(&mut client, "SHOW hnsw.ef_search"), "40", "the caller's setting is what it was");
}

#[test]
fn the_callers_rights_decide_what_is_read() {
    let (db, mut client) = with_index("rights");
    execute(&mut client, MODEL);
    let server = Server::shared();
    let app = server.create_role("app", &["finetune_app"]);
    let mut reader = db.connect_as(&app);
    execute(&mut reader, "SET search_path = pgft, public; SET enable_seqscan = off");
    let refused = expect_error(&mut reader, "SELECT * FROM rank_signals('user-1')");
    assert_eq!((refused.code.as_str(), refused.message.as_str()), ("42501", "permission denied for table chunk"));
    execute(
        &mut client,
        &format!(
            "GRANT SELECT ON chunk TO {app}; ALTER TABLE chunk ENABLE ROW LEVEL SECURITY;
             CREATE POLICY half ON chunk TO {app} USING (id % 2 = 0)"
        ),
    );
    let seen: Vec<String> = values(&mut reader, "SELECT chunk_id FROM rank_signals('user-1', 200)");
    assert_eq!(seen.len(), 200, "the search goes on until so many may be seen");
    assert!(seen.iter().all(|id| id.parse::<i64>().unwrap() % 2 == 0));
    assert_eq!(expect_error(&mut reader, "SELECT * FROM training_data_point").code, "42501");
    assert_eq!(expect_error(&mut reader, "SELECT _saved_vectors('user-1', '{saved}', 8, 3)").code, "42501");
}

#[test]
fn items_are_found_through_the_mapping_or_named() {
    let (_db, mut client) = with_index("items");
    let first = "SELECT chunk_id FROM rank_signals('user-1', 1, items => 'odd.\"My Items; --\"', id_column => 'the \"id\"', embedding_column => 'Vec 8')";
    execute(
        &mut client,
        "CREATE SCHEMA odd;
         CREATE TABLE odd.\"My Items; --\" (\"the \"\"id\"\"\" uuid, \"Vec 8\" halfvec(8), other vector(3));
         INSERT INTO odd.\"My Items; --\" SELECT md5(id::text)::uuid, embedding::halfvec, '[1,2,3]' FROM chunk;
         CREATE INDEX ON odd.\"My Items; --\" USING hnsw (\"Vec 8\" halfvec_cosine_ops)",
    );
    let by_mapping: String = value(&mut client, "SELECT md5(chunk_id)::uuid::text FROM rank_signals('user-1', 1)");
    assert_eq!(value::<String>(&mut client, first), by_mapping);
    let named = |rest: &str| format!("SELECT * FROM rank_signals('user-1', items => 'odd.\"My Items; --\"'{rest})");
    assert_error!(client, &named(""), "22023", "2 columns of vectors");
    assert_error!(client, &named(", embedding_column => 'Vec 8'"), "22023", "no primary key");
    assert_error!(client, &named(", embedding_column => 'none'"), "22023", "no column \"none\" of type");
    assert_error!(client, &named(", embedding_column => 'Vec 8', id_column => 'x; y'"), "22023", "\"x; y\"");
    assert_error!(
        client,
        &named(", embedding_column => 'other', id_column => 'the \"id\"'"),
        "22023",
        "have 3 dimensions",
        "has 8"
    );
    for (arguments, part) in [
        ("0", "cannot take 0 of 200"),
        ("NULL", "NULL of 200"),
        ("300", "300 of 200"),
        ("5, candidates => 2000", "5 of 2000"),
    ] {
        assert_error!(client, &format!("SELECT * FROM rank_signals('user-1', {arguments})"), "22023", part);
    }
    assert_error!(client, "SELECT * FROM rank_signals(NULL)", "22004", "user_id");
    execute(&mut client, "SELECT stop_capturing('signal')");
    assert_error!(client, "SELECT * FROM rank_signals('user-1')", "42704", "No mapping", "items => 'chunk'");
    let by_key = "SELECT count(*) FROM rank_signals('user-1', items => 'chunk')";
    assert_eq!(value::<i64>(&mut client, by_key), 10);
}

#[test]
fn a_trained_model_says_how_its_second_stage_was_chosen() {
    let db = Server::shared().create_database("trained");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    let job = submit(&mut client, "listeners");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    let row = client
        .query_one(
            "SELECT knn3_weight, popularity_weight, (report #>> '{second_stage,knn3}')::float8, report #>> '{second_stage,reason}',
                    (report #>> '{second_stage,users}')::int, (SELECT count(*) FROM chunk_popularity)
             FROM adapter",
            &[],
        )
        .unwrap();
    assert_eq!(row.get::<_, f64>(0), row.get::<_, f64>(2));
    let reason: String = row.get(3);
    assert!(reason.starts_with("vector order: ") || reason.starts_with("second stage: AUC "), "{reason}");
    assert!(row.get::<_, i32>(4) >= 8);
    assert_eq!(row.get::<_, i64>(5) > 0, row.get::<_, f64>(1) != 0.0, "counts are kept where they are used");
    execute(&mut client, "SELECT deploy_model((SELECT model_id FROM adapter))");
    let basis: String = value(&mut client, "SELECT DISTINCT basis FROM rank_signals('user-1')");
    assert!(basis.starts_with(&reason), "{basis}");
}
