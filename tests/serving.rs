//! Query vectors and scores, inside the application's own queries.

mod common;

use common::*;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A model that swaps the two axes, registered by hand: what it must do can be said in one line.
const SWAP: &str = "
    INSERT INTO model (id, base_model, provider, method, dimensions) VALUES ('swap', 'base', 'builtin', 'contrastive', 2);
    INSERT INTO adapter (model_id, dimensions, matrix, bias, score_scale, score_offset, digest)
    VALUES ('swap', 2, '{0,1,1,0}', '{0,0}', 4, -1, '')";

fn with_saves(client: &mut Client, saves: &[(&str, &str)]) {
    for (user, vector) in saves {
        let sql = format!(
            "SELECT record_signal('{user}', md5(random()::text), 'text {vector}', 'saved', embedding => '{vector}')"
        );
        client.batch_execute(&sql).unwrap();
    }
}

#[test]
fn the_index_of_the_application_serves_the_query() {
    let db = Server::shared().create_database("index");
    let mut client = db.install("pgft");
    application(&mut client, 20);
    client.batch_execute("CREATE INDEX ON chunk USING hnsw (embedding vector_cosine_ops); ANALYZE chunk").unwrap();
    let plan = values::<String>(
        &mut client,
        "EXPLAIN SELECT id FROM chunk ORDER BY embedding <=> user_query('user-1') LIMIT 10",
    )
    .join("\n");
    assert!(plan.contains("Index Scan using chunk_embedding_idx"), "{plan}");
    assert!(plan.contains("Order By: (embedding <=> user_query"), "{plan}");
    client.batch_execute("SET enable_seqscan = off").unwrap();
    let rows = client.query("SELECT id FROM chunk ORDER BY embedding <=> user_query('user-1') LIMIT 10", &[]).unwrap();
    assert_eq!(rows.len(), 10);
}

/// Mean share of the true ten nearest that the index finds, over all users.
fn recall(client: &mut Client, model: &str, ef_search: u32) -> f64 {
    let nearest = |settings: &str, table: &str| {
        format!(
            "SET LOCAL hnsw.ef_search = {ef_search}; {settings}; CREATE TEMP TABLE {table} AS
             SELECT u.id AS user_id, c.id FROM (SELECT 'user-' || i AS id FROM generate_series(1, 20) i) u
             CROSS JOIN LATERAL (SELECT c.id FROM chunk c ORDER BY c.embedding <=> (SELECT user_query(u.id, '{model}')) LIMIT 10) c;"
        )
    };
    execute(client, "BEGIN");
    execute(client, &nearest("SET LOCAL enable_seqscan = off", "by_index"));
    execute(client, &nearest("SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = on", "exact"));
    let found = value(client, "SELECT (count(*) / 200.0)::float8 FROM by_index JOIN exact USING (user_id, id)");
    execute(client, "ROLLBACK");
    found
}

#[test]
fn the_index_finds_what_plain_and_adapted_queries_are_nearest_to() {
    let db = Server::shared().create_database("recall");
    let mut client = db.install("pgft");
    application(&mut client, 20);
    // stretches four of the eight directions and turns the others round: far outside the cloud of stored vectors
    execute(
        &mut client,
        "CREATE INDEX ON chunk USING hnsw (embedding vector_cosine_ops); ANALYZE chunk;
         INSERT INTO model (id, base_model, provider, method, dimensions) VALUES ('far', 'base', 'builtin', 'contrastive', 8);
         INSERT INTO adapter (model_id, dimensions, matrix, bias, digest)
         SELECT 'far', 8, array_agg(CASE WHEN i % 9 <> 0 THEN 0 WHEN i < 32 THEN 3 ELSE -1 END ORDER BY i), array_fill(0.1::real, ARRAY[8]), ''
         FROM generate_series(0, 63) i",
    );
    for model in ["base", "far"] {
        let plan = format!(
            "EXPLAIN SELECT id FROM chunk ORDER BY embedding <=> (SELECT user_query('user-1', '{model}')) LIMIT 10"
        );
        let plan = values::<String>(&mut client, &plan).join("\n");
        assert!(plan.contains("Index Scan using chunk_embedding_idx"), "{plan}");
        let found = recall(&mut client, model, 100);
        assert!(found >= 0.95, "{model}: {found}");
    }
}

#[test]
fn learned_and_negative_directions_make_one_query_vector() {
    let db = Server::shared().create_database("gamma");
    let mut client = db.install("pgft");
    with_saves(&mut client, &[("ann", "[1,0]"), ("ann", "[3,4]")]);
    let skip = |client: &mut Client, n: i32| {
        let sql = format!("SELECT record_signal('ann', 'skip {n}', 'text', 'skipped', embedding => '[0,{n}]')");
        execute(client, &sql);
    };
    client.batch_execute(SWAP).unwrap();
    execute(&mut client, "UPDATE adapter SET gamma = 0.5");
    (1..=4).for_each(|n| skip(&mut client, n));
    let query = "SELECT user_query('ann', 'swap')::text";
    // q+ = (0.8, 0.4); the matrix swaps it
    let swapped = "SELECT l2_normalize('[0.4,0.8]'::vector)";
    let same = |client: &mut Client, expected: &str| {
        let distance: f64 = value(client, &format!("SELECT ({query})::vector <-> ({expected})"));
        assert!(distance < 1e-6, "{distance}");
    };
    same(&mut client, swapped);
    // from the fifth on: u(A q+) + gamma u(q+ - q-), where q- = (0, 1)
    skip(&mut client, 5);
    let away = "l2_normalize('[0.8,-0.6]'::vector) * '[0.5,0.5]'::vector";
    same(&mut client, &format!("SELECT l2_normalize(l2_normalize('[0.4,0.8]'::vector) + {away})"));
    let plan =
        "EXPLAIN (COSTS off) SELECT id FROM item ORDER BY embedding <=> (SELECT user_query('ann', 'swap')) LIMIT 1";
    execute(
        &mut client,
        "CREATE TABLE item (id int, embedding vector(2)); CREATE INDEX ON item USING hnsw (embedding vector_cosine_ops);
         SET enable_seqscan = off",
    );
    assert!(values::<String>(&mut client, plan).join("\n").contains("Index Scan using item_embedding_idx"));
}

#[test]
fn a_standby_serves_what_the_primary_does() {
    let server = Server::private(&[("wal_level", "replica"), ("max_wal_senders", "4"), ("hot_standby", "on")]);
    let db = server.create_database("standby");
    let mut client = db.install("pgft");
    application(&mut client, 20);
    execute(&mut client, "CREATE INDEX ON chunk USING hnsw (embedding vector_cosine_ops)");
    let Some(standby) = server.standby() else {
        eprintln!("skipped: this installation of PostgreSQL has no pg_basebackup");
        return;
    };
    let mut reader = standby.connect(&db.name);
    execute(&mut reader, "SET search_path = pgft, public");
    let served =
        "SELECT user_query('user-1')::text || coalesce(user_query('user-2')::text, ' none ') || relevance_score('user-1', (SELECT embedding FROM chunk WHERE id = 1))
                         || assign_variant('user-1') || (SELECT string_agg(chunk_id, ' ') FROM rank_signals('user-1'))";
    let expected: String = value(&mut client, served);
    wait_until(PATIENCE, "the standby has it all", || {
        reader.query_one(served, &[]).is_ok_and(|row| row.get::<_, String>(0) == expected)
    });
    // what is kept in memory there follows, too: profiles, what is deployed, and weights that change
    execute(
        &mut client,
        "INSERT INTO model (id, base_model, provider, method, dimensions) VALUES ('m', 'base', 'builtin', 'contrastive', 8);
         INSERT INTO adapter (model_id, dimensions, matrix, bias, digest)
         SELECT 'm', 8, array_agg((i % 9 = 0)::int ORDER BY i), array_fill(0.5::real, ARRAY[8]), '' FROM generate_series(0, 63) i;
         INSERT INTO deployment (model_id, action) VALUES ('m', 'deploy')",
    );
    for change in [
        "UPDATE signal SET user_action = 'saved' WHERE user_id = 'user-1' AND id % 3 = 0",
        "UPDATE adapter SET bias = array_fill(0.1::real, ARRAY[8])",
        "SELECT forget_user('user-2')",
    ] {
        execute(&mut client, change);
        let expected: String = value(&mut client, served);
        wait_until(PATIENCE, "the standby serves the same", || value::<String>(&mut reader, served) == expected);
    }
    assert_eq!(value::<Option<String>>(&mut reader, "SELECT user_query('user-2')::text"), None);
    assert_eq!(value::<String>(&mut reader, "SELECT state FROM worker_status()"), "this server is a standby");
}

#[test]
fn base_is_the_mean_of_the_saved_unit_vectors() {
    let db = Server::shared().create_database("base");
    let mut client = db.install("pgft");
    with_saves(&mut client, &[("ann", "[10,0]"), ("ann", "[0,1]")]);
    assert_eq!(value::<String>(&mut client, "SELECT user_query('ann')::text"), "[0.70710677,0.70710677]");
    let score: f64 = value(&mut client, "SELECT relevance_score('ann', '[-3,-3]')");
    assert!(score.abs() < 1e-6, "the opposite direction scores 0, not {score}");
    assert_eq!(value::<Option<String>>(&mut client, "SELECT user_query('bob')::text"), None, "no profile yet");
    assert_eq!(value::<Option<f64>>(&mut client, "SELECT relevance_score('bob', '[1,0]')"), None);
    assert_eq!(
        value::<Option<f64>>(&mut client, "SELECT relevance_score('ann', '[0,0]')"),
        None,
        "a zero vector has no direction"
    );
    assert_eq!(value::<String>(&mut client, "SELECT adapt('[3,4]', 'base')::text"), "[3,4]");
}

#[test]
fn an_adapter_turns_the_query_and_calibrates_the_score() {
    let db = Server::shared().create_database("adapter");
    let mut client = db.install("pgft");
    with_saves(&mut client, &[("ann", "[1,0]")]);
    client.batch_execute(SWAP).unwrap();
    assert_eq!(value::<String>(&mut client, "SELECT user_query('ann', 'swap')::text"), "[0,1]");
    assert_eq!(value::<String>(&mut client, "SELECT adapt('[3,4]', 'swap')::text"), "[0.8,0.6]");
    client.batch_execute("INSERT INTO deployment (model_id, action) VALUES ('swap', 'deploy')").unwrap();
    let score: f64 = value(&mut client, "SELECT relevance_score('ann', '[0,5]')");
    assert!((score - 1.0 / (1.0 + (-3.0f64).exp())).abs() < 1e-6, "{score}");
    assert_eq!(value::<String>(&mut client, "SELECT model_id FROM model_for('ann')"), "swap");
}

#[test]
fn one_statement_sees_one_profile_and_the_next_the_new_one() {
    let db = Server::shared().create_database("fresh");
    let mut client = db.install("pgft");
    with_saves(&mut client, &[("ann", "[1,0]")]);
    let score = "SELECT relevance_score('ann', '[0,1]')";
    assert!((value::<f64>(&mut client, score) - 0.5).abs() < 1e-6);
    with_saves(&mut client, &[("ann", "[0,1]")]);
    assert!(value::<f64>(&mut client, score) > 0.8);
    client.batch_execute("BEGIN").unwrap();
    with_saves(&mut client, &[("ann", "[0,1]"), ("ann", "[0,1]"), ("ann", "[0,1]")]);
    assert!(value::<f64>(&mut client, score) > 0.9, "inside a transaction, too");
    client.batch_execute("ROLLBACK").unwrap();
    assert!(value::<f64>(&mut client, score) < 0.9);
}

#[test]
fn an_application_role_is_served_without_rights_on_the_data() {
    let server = Server::shared();
    let db = server.create_database("role");
    let mut admin = db.install("pgft");
    with_saves(&mut admin, &[("ann", "[1,0]")]);
    let app = server.create_role("app", &["finetune_app"]);
    let stranger = server.create_role("stranger", &[]);
    let mut client = db.connect_as(&app);
    client.batch_execute("SET search_path = pgft, public").unwrap();
    assert_eq!(value::<String>(&mut client, "SELECT user_query('ann')::text"), "[1,0]");
    assert_eq!(value::<String>(&mut client, "SELECT assign_variant('ann')"), "base");
    assert_eq!(expect_error(&mut client, "SELECT * FROM training_data_point").code, "42501");
    assert_eq!(expect_error(&mut client, "SELECT fine_tune('x')").code, "42501");
    let mut client = db.connect_as(&stranger);
    assert_eq!(expect_error(&mut client, "SELECT pgft.user_query('ann')").code, "42501");
}

#[test]
fn refusals() {
    let db = Server::shared().create_database("bad");
    let mut client = db.install("pgft");
    with_saves(&mut client, &[("ann", "[1,0]")]);
    assert_error!(client, "SELECT user_query(NULL)", "22004", "user_id");
    assert_error!(client, "SELECT user_query('')", "22023", "user_id");
    assert_error!(client, "SELECT user_query('ann', 'nope')", "42704", "nope");
    assert_error!(client, "SELECT adapt('[1,0]', 'nope')", "42704", "nope");
    assert_error!(client, "SELECT relevance_score('ann', '[1,0,0]')", "22023", "3 dimensions", "2");
    client.batch_execute(SWAP).unwrap();
    assert_error!(client, "SELECT adapt('[1,0,0]', 'swap')", "22023", "3 dimensions");
}

#[test]
fn the_gate_is_overridden_only_with_a_reason_that_stays() {
    let db = Server::shared().create_database("override");
    let mut client = db.install("pgft");
    client.batch_execute(SWAP).unwrap();
    assert_error!(client, "SELECT deploy_model('swap')", "55000", "never evaluated");
    assert_error!(
        client,
        "SELECT deploy_model('swap', override => true)",
        "22023",
        "takes a reason",
        "never evaluated"
    );
    assert_error!(client, "SELECT deploy_model('swap', reason => ' ', override => true)", "22023", "takes a reason");
    client
        .batch_execute(
            "INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
             VALUES ('swap', 'base', 30, 300, 1, 'refused', 'more false suggestions');
             SELECT deploy_model('swap', reason => 'for the demonstration', override => true)",
        )
        .unwrap();
    let kept = "SELECT reason || ' / ' || overridden FROM deployment_history WHERE live";
    let words = "for the demonstration / refused, against \"base\": more false suggestions";
    assert_eq!(value::<String>(&mut client, kept), words);
    client
        .batch_execute("UPDATE model_evaluation SET verdict = 'passed'; SELECT deploy_model('swap', override => true)")
        .unwrap();
    assert_eq!(value::<Option<String>>(&mut client, "SELECT overridden FROM deployment_history WHERE live"), None);
}
