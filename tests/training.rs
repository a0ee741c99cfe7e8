//! The built-in trainer inside the server: wide vectors, little memory, several threads, a single user, typed questions.

mod common;

use common::*;

/// The model of a job that ran here and now.
fn train(client: &mut Client, dataset: &str, seed: i64, hyperparameters: &str) -> String {
    let sql = format!("SELECT fine_tune('{dataset}', seed => {seed}, hyperparameters => '{hyperparameters}')::text");
    let job: String = value(client, &sql);
    client.batch_execute("CALL run_due_work()").unwrap();
    let done = format!("SELECT COALESCE(model_id, state || ': ' || outcome) FROM fine_tuning_jobs WHERE id = '{job}'");
    value(client, &done)
}

fn of(client: &mut Client, model: &str, expression: &str) -> String {
    let sql = format!("SELECT ({expression})::text FROM adapter a JOIN model_evaluation e USING (model_id) WHERE model_id = '{model}'");
    value::<Option<String>>(client, &sql).unwrap_or_else(|| "NULL".into())
}

/// What the dimensions hold that nobody cares about.
const LOUD: &str = "1.5 * (random() - 0.45)";

/// Users who save what has more of the last two dimensions than not, among `items` items of `dimensions`, each shown
/// `shown` of them a minute apart. The other dimensions say nothing.
fn feedback(client: &mut Client, (dimensions, loud): (usize, &str), items: usize, users: usize, shown: usize) {
    client
        .batch_execute(&format!(
            "SELECT setseed(0.4);
             CREATE TABLE item AS SELECT i AS id, array_agg(CASE WHEN d > {dimensions} - 2 THEN random() - 0.45 ELSE {loud} END)::real[] AS v
             FROM generate_series(0, {items} - 1) i, generate_series(1, {dimensions}) d GROUP BY i ORDER BY i;
             ALTER TABLE item ADD COLUMN embedding halfvec({dimensions});
             UPDATE item SET embedding = v::vector::halfvec;
             INSERT INTO training_data_point (user_id, id, chunk_content, embedding, user_action, surface, shown_at, actioned_at)
             SELECT 'user-' || u, n, 'item ' || i.id, i.embedding::vector,
                    CASE WHEN i.v[{dimensions}] * (u % 3 - 1.1) + i.v[{dimensions} - 1] * (u % 5 - 1.7) > 0 THEN 'saved' ELSE 'skipped' END,
                    'list', t, t
             FROM generate_series(1, {users}) u CROSS JOIN generate_series(1, {shown}) n
             CROSS JOIN LATERAL (SELECT timestamptz '2026-01-01' + n * interval '2 hours') AS time (t)
             JOIN item i ON i.id = (u * 37 + n * 11) % {items}"
        ))
        .unwrap_or_else(|e| panic!("{}", explain(&e)));
}

#[test]
fn wide_vectors_train_within_little_memory_and_serve_over_an_index() {
    let db = Server::by_hand().create_database("wide");
    let mut client = db.install("pgft");
    // all vectors point into one corner, which the plain mean does not see past
    feedback(&mut client, (3072, "0.3 * (random() - 0.2)"), 150, 60, 40);
    client.batch_execute("SELECT create_dataset('wide', split => 'history', test_share => 0.3)").unwrap();
    let little = r#"{"epochs": 2, "shrinkages": [1.0], "bootstrap_draws": 200}"#;
    let model = train(&mut client, "wide", 1, little);
    let digest = of(&mut client, &model, "a.digest");
    assert_eq!(of(&mut client, &model, "a.dimensions"), "3072", "{model}");
    assert_eq!(of(&mut client, &model, "e.verdict"), "passed", "{}", of(&mut client, &model, "e.reason"));
    let tried = of(&mut client, &model, "jsonb_path_query_array(a.report, '$.candidates[*].name')");
    assert!(tried.contains("\"trained centred\"") && tried.contains("\"closed centred\""), "{tried}");

    client.batch_execute("SET pg_finetune.training_memory = '1MB'; SET pg_finetune.training_threads = 2").unwrap();
    let again = train(&mut client, "wide", 1, little);
    assert_eq!(of(&mut client, &again, "a.digest"), digest, "memory and threads are no part of the result");
    let told: String = value(&mut client, "SELECT message FROM fine_tuning_event WHERE message LIKE 'vectors of%'");
    assert!(told.contains("pg_finetune.training_memory is 1 MB"), "{told}");

    client
        .batch_execute("CREATE INDEX ON item USING hnsw (embedding halfvec_cosine_ops); SET enable_seqscan = off")
        .unwrap();
    let nearest =
        format!("SELECT id FROM item ORDER BY embedding <=> (SELECT user_query('user-7', '{model}'))::halfvec LIMIT 5");
    assert_eq!(values::<i32>(&mut client, &nearest).len(), 5);
    let plan = values::<String>(&mut client, &format!("EXPLAIN {nearest}")).join("\n");
    assert!(plan.contains("Index Scan using item_embedding_idx"), "{plan}");
}

#[test]
fn a_single_user_has_a_direction_that_goes_with_the_user() {
    let db = Server::by_hand().create_database("single");
    let mut client = db.install("pgft");
    feedback(&mut client, (16, LOUD), 1200, 1, 1200);
    client.batch_execute("SELECT create_dataset('mine', split => 'history', test_share => 0.3)").unwrap();
    let model = train(&mut client, "mine", 1, "{}");
    assert_eq!(of(&mut client, &model, "e.verdict"), "passed", "{}", of(&mut client, &model, "a.report"));
    let chosen = of(&mut client, &model, "a.report ->> 'chosen'");
    assert!(chosen.ends_with("with heads"), "{chosen}");
    assert!(of(&mut client, &model, "e.reason").contains("days"));

    let query = format!("SELECT user_query('user-1', '{model}')::text");
    let own: String = value(&mut client, &query);
    let plain = format!("SELECT adapt(user_query('user-1', 'base'), '{model}')::text");
    assert_ne!(own, value::<String>(&mut client, &plain), "half of it is the user's own");
    let leaning = "SELECT abs(1 - vector_norm(v) ^ 2) < 1e-5 FROM (SELECT h.head::vector AS v FROM adapter_head h) x";
    assert!(value::<bool>(&mut client, leaning));
    // a training that comes after compares with it as it serves
    client.batch_execute(&format!("SELECT deploy_model('{model}', reason => 'first')")).unwrap();
    let second = train(&mut client, "mine", 1, "{}");
    let against = format!("SELECT reason FROM model_evaluation WHERE model_id = '{second}' AND against = '{model}'");
    assert!(value::<String>(&mut client, &against).contains("the live model is the same"));

    client.batch_execute("SELECT forget_user('user-1')").unwrap();
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM adapter_head"), 0);
    assert_eq!(value::<Option<String>>(&mut client, &query), None);
}

#[test]
fn typed_questions_are_captured_and_get_a_matrix_of_their_own() {
    let db = Server::by_hand().create_database("typed");
    let mut client = db.install("pgft");
    feedback(&mut client, (8, LOUD), 600, 250, 40);
    // five questions of each user; saved is what goes with the question's last two dimensions
    client
        .batch_execute(
            "CREATE TABLE question AS SELECT 'user-' || u AS user_id, q, array_agg(random() - 0.5)::real[] AS v
             FROM generate_series(1, 250) u, generate_series(0, 4) q, generate_series(1, 8) d GROUP BY u, q ORDER BY u, q;
             ALTER TABLE question ADD PRIMARY KEY (user_id, q);
             CREATE TABLE shown (id text PRIMARY KEY, user_id text, item int, question int, user_action text, at timestamptz);
             INSERT INTO shown SELECT p.user_id || '/' || p.id, p.user_id, split_part(p.chunk_content, ' ', 2)::int, (p.id::int - 1) / 8, p.user_action, p.actioned_at
             FROM training_data_point p;
             TRUNCATE training_data_point;
             UPDATE shown s SET user_action = CASE WHEN (i.v[7] - 0.05) * q.v[7] + (i.v[8] - 0.05) * q.v[8] > 0 THEN 'saved' ELSE 'skipped' END
             FROM item i, question q WHERE i.id = s.item AND q.user_id = s.user_id AND q.q = s.question;
             ALTER TABLE item ADD PRIMARY KEY (id);
             ANALYZE;
             CREATE VIEW mapping AS
             SELECT s.id AS signal_id, s.user_id, 'item ' || s.item AS chunk_content, i.embedding, q.v::vector AS query_embedding,
                    s.user_action, s.at AS shown_at, s.at AS actioned_at, 'search'::text AS surface
             FROM shown s JOIN item i ON i.id = s.item JOIN question q ON q.user_id = s.user_id AND q.q = s.question;
             SELECT capture_signals('shown', via => 'mapping');
             SELECT backfill_signals('shown');
             SELECT create_dataset('asked', split => 'history', test_share => 0.4)",
        )
        .unwrap_or_else(|e| panic!("{}", explain(&e)));
    let captured = "SELECT count(*) FROM dataset_example WHERE vector_dims(query_embedding) = 8";
    assert_eq!(value::<i64>(&mut client, captured), 10_000);
    let model = train(&mut client, "asked", 1, "{}");
    let report = of(&mut client, &model, "a.report -> 'typed_questions'");
    assert_eq!(of(&mut client, &model, "a.report -> 'typed_questions' ->> 'verdict'"), "passed", "{report}");
    assert_eq!(of(&mut client, &model, "e.verdict"), "passed", "{}", of(&mut client, &model, "e.reason"));

    let asked = "'[1,1,1,1,1,1,1,1]'";
    let turned: String = value(&mut client, &format!("SELECT adapt({asked}, '{model}', task => 'query')::text"));
    assert_ne!(turned, value::<String>(&mut client, &format!("SELECT adapt({asked}, '{model}')::text")));
    let of_user = format!("SELECT user_query('user-3', query_embedding => {asked})::text");
    assert_eq!(value::<String>(&mut client, &of_user), "[1,1,1,1,1,1,1,1]", "base leaves it alone");
    client.batch_execute(&format!("SELECT deploy_model('{model}', reason => 'first')")).unwrap();
    assert_eq!(value::<String>(&mut client, &of_user), turned);
    assert_eq!(
        value::<String>(&mut client, &format!("SELECT adapt({asked}, 'base', 'query')::text")),
        "[1,1,1,1,1,1,1,1]"
    );
    assert_error!(client, &format!("SELECT adapt({asked}, '{model}', 'prayer')"), "22023", "prayer", "'query'");
    assert_error!(client, &format!("SELECT adapt('[1,2]', '{model}', 'query')"), "22023", "2 dimensions");

    let zero = "INSERT INTO question VALUES ('user-1', 9, '{0,0,0,0,0,0,0,0}');
                INSERT INTO shown VALUES ('new', 'user-1', 1, 9, 'saved', now())";
    client.batch_execute(zero).unwrap_or_else(|e| panic!("{}", explain(&e)));
    let fault: String = value(&mut client, "SELECT error_message FROM capture_failure LIMIT 1");
    assert!(fault.contains("query_embedding is a zero vector"), "{fault}");

    let told =
        "SELECT record_signal('user-1', 'told', 'text', 'saved', embedding => '[1,2]', query_embedding => '[3,4]')";
    client.batch_execute(told).unwrap_or_else(|e| panic!("{}", explain(&e)));
    let stored = "SELECT query_embedding::text FROM training_data_point WHERE signal_id = 'told'";
    assert_eq!(value::<String>(&mut client, stored), "[3,4]");
}
