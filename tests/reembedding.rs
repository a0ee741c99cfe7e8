//! A second column with vectors of another embedding model: filled in batches, searched by variant, dropped again.

mod common;

use common::*;
use serde_json::{json, Value};
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

const MODEL: &str = "moods-1-abc";

/// One server for all tests here, each with a database of its own.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::private(&[("pg_finetune.poll_interval", "40ms"), ("pg_finetune.http_timeout", "5s")]))
}

/// Where the key stands: written once, for a file that is being written is empty.
fn key_file() -> &'static str {
    static FILE: OnceLock<String> = OnceLock::new();
    FILE.get_or_init(|| server().secret(CANARY))
}

/// Vectors of five dimensions: what a text is about is the number in it, modulo four; one text is too long for the model.
fn vectors(path: &str, body: &Value) -> Option<(u16, Value)> {
    if path != "/v1/embeddings" {
        return None;
    }
    let texts: Vec<&str> = body["input"].as_array()?.iter().filter_map(Value::as_str).collect();
    if texts.iter().any(|text| text.contains("too long")) {
        return Some((
            400,
            json!({"error": {"message": "input is too long", "type": "invalid_request_error", "param": "input", "code": null}}),
        ));
    }
    let data: Vec<Value> =
        texts.iter().enumerate().map(|(index, text)| json!({"index": index, "embedding": vector(text)})).collect();
    Some((
        200,
        json!({"object": "list", "data": data, "usage": {"prompt_tokens": texts.len() * 10, "total_tokens": texts.len() * 10}}),
    ))
}

fn vector(text: &str) -> [f64; 5] {
    let number: usize = text.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_default();
    let mut vector = [0.0; 5];
    vector[number % 4] = 1.0;
    vector[4] = (number % 7) as f64 / 10.0;
    vector
}

/// The application with an embedding model of a provider that has passed the gate.
fn prepared(client: &mut Client) -> FakeProvider {
    let fake = FakeProvider::start();
    fake.serve_model(vectors);
    application(client, 30);
    provider(client, "host", &fake.url(), key_file());
    execute(
        client,
        &format!(
            "INSERT INTO model (id, base_model, provider, method, provider_model, dataset_id) VALUES ('{MODEL}', 'mini', 'host', 'contrastive', 'ft:mini', gen_random_uuid());
             INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason) VALUES ('{MODEL}', 'base', 30, 300, 1, 'passed', 'by hand');
             INSERT INTO provider_price (provider, base_model, usd_per_million_input_tokens, as_of, quoted_from) VALUES ('host', 'mini', 1000, '2026-11-01', 'test')"
        ),
    );
    fake
}

fn status(client: &mut Client) -> (String, f64, i64, i32) {
    let row = client.query_one("SELECT state, progress, done, failed FROM reembeddings", &[]).unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

fn call() -> String {
    format!("CALL reembed('chunk', '{MODEL}')")
}

#[test]
fn from_the_first_vector_to_users_and_back() {
    let db = server().create_database("whole");
    let mut client = db.install("pgft");
    let fake = prepared(&mut client);
    assert_error!(client, &format!("CALL reembed('chunk', '{MODEL}', max_usd => 'NaN')"), "22023", "positive limits");
    execute(&mut client, &format!("CALL reembed('chunk', '{MODEL}', max_rows => 100)"));
    assert_eq!(status(&mut client), ("stopped".into(), 0.1, 100, 0));
    assert_error!(
        client,
        &format!("SELECT start_experiment('e', '{MODEL}')"),
        "55000",
        "100 of 1000 rows",
        "CALL pgft.reembed"
    );
    execute(&mut client, &call());
    assert_eq!(status(&mut client), ("complete".into(), 1.0, 1000, 0));
    // 1,000 texts and a probe, ten tokens each, at a thousandth of a dollar.
    let row = client
        .query_one("SELECT tokens, usd::float8, column_name::text, dimensions, next_step FROM reembeddings", &[])
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, f64>(1)), (10_010, 10.01));
    assert_eq!((row.get::<_, &str>(2), row.get::<_, i32>(3)), ("embedding_moods_1_abc", 5));
    let index: String = row.get(4);
    assert!(index.starts_with("CREATE INDEX CONCURRENTLY ON pgft.chunk USING hnsw (embedding_moods_1_abc"), "{index}");
    execute(&mut client, &index);
    assert_eq!(value::<Option<String>>(&mut client, "SELECT next_step FROM reembeddings"), None);
    let wrong = "SELECT count(*) FROM chunk WHERE embedding_moods_1_abc::real[] <> ARRAY[(id % 4 = 0)::int, (id % 4 = 1)::int, (id % 4 = 2)::int, (id % 4 = 3)::int, (id % 7) / 10.0]::real[]";
    assert_eq!(value::<i64>(&mut client, wrong), 0);
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM chunk WHERE vector_dims(embedding) <> 8"),
        0,
        "the old column is as it was"
    );
    assert!(fake.count("POST /v1/embeddings") < 25);

    // By variant: each user searches the space of the model.
    execute(&mut client, &format!("SELECT start_experiment('e', '{MODEL}')"));
    let spaces =
        "SELECT DISTINCT m.variant || ' ' || coalesce(m.embedding_column, '-') || ' ' || vector_dims(user_query(u.id))
         FROM (SELECT 'user-' || i AS id FROM generate_series(1, 30) i) u, model_for(u.id) m ORDER BY 1";
    assert_eq!(values::<String>(&mut client, spaces), ["base - 8", "fineTuned embedding_moods_1_abc 5"]);
    let expected = "SELECT max(abs(1 - (user_query(u.id) <#> e.mean) * -1)) FROM (SELECT 'user-' || i AS id FROM generate_series(1, 30) i) u,
         LATERAL (SELECT l2_normalize(avg(l2_normalize(c.embedding_moods_1_abc))) AS mean FROM signal s JOIN chunk c ON c.id = s.chunk_id
                  WHERE s.user_id = u.id AND s.user_action = 'saved') e WHERE assign_variant(u.id) = 'fineTuned'";
    assert!(value::<f64>(&mut client, expected) < 1e-6);
    let user: String = value(
        &mut client,
        "SELECT 'user-' || min(i) FROM generate_series(1, 30) i WHERE assign_variant('user-' || i) = 'fineTuned'",
    );
    let found: Vec<i64> = values(
        &mut client,
        &format!("SELECT id FROM chunk ORDER BY embedding_moods_1_abc <=> (SELECT user_query('{user}')) LIMIT 10"),
    );
    assert_eq!(found.len(), 10);
    let score: f64 = value(
        &mut client,
        &format!("SELECT relevance_score('{user}', embedding_moods_1_abc) FROM chunk WHERE id = {}", found[0]),
    );
    assert!(score > 0.5 && score <= 1.0, "{score}");

    // The way back.
    let drop = format!("SELECT drop_reembedding('chunk', '{MODEL}')");
    assert_error!(client, &drop, "55006", "arm of experiment \"e\"");
    execute(&mut client, "SELECT stop_experiment('e', ship => 'base', reason => 'no')");
    execute(&mut client, &drop);
    let left = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'chunk'::regclass AND attname ~ '^embedding_' AND NOT attisdropped
         UNION ALL SELECT count(*) FROM pg_trigger WHERE tgrelid = 'chunk'::regclass AND NOT tgisinternal
         UNION ALL SELECT count(*) FROM pg_proc WHERE proname ~ '^pg_finetune_stale' UNION ALL SELECT count(*) FROM data_point_vector UNION ALL SELECT count(*) FROM reembeddings";
    assert_eq!(values::<i64>(&mut client, left), [0; 5]);
    assert_error!(client, &format!("SELECT user_query('user-1', '{MODEL}')"), "42704", "reembed");
}

#[test]
fn what_is_new_or_changed_is_taken_up_by_the_next_call() {
    let db = server().create_database("sweep");
    let mut client = db.install("pgft");
    let fake = prepared(&mut client);
    execute(&mut client, &call());
    let points: i64 = value(&mut client, "SELECT points FROM reembeddings");
    assert_eq!(
        points,
        value::<i64>(&mut client, "SELECT count(*) FROM training_data_point WHERE user_action = 'saved'")
    );
    execute(
        &mut client,
        "UPDATE chunk SET content = 'chunk 3 again' WHERE id = 1; UPDATE chunk SET content = content, embedding = embedding WHERE id = 2;
         INSERT INTO chunk VALUES (2001, 'chunk 2001', '[1,1,1,1,1,1,1,1]'), (2002, '   ', '[1,1,1,1,1,1,1,1]');
         INSERT INTO signal (user_id, chunk_id, user_action, actioned_at) VALUES ('newcomer', 2001, 'saved', now())",
    );
    assert_eq!(
        values::<i64>(&mut client, "SELECT id FROM chunk WHERE embedding_moods_1_abc IS NULL ORDER BY 1"),
        [1, 2001, 2002]
    );
    let nothing = format!("SELECT user_query('newcomer', '{MODEL}')::text");
    assert_eq!(value::<Option<String>>(&mut client, &nothing), None);
    let before = fake.count("POST /v1/embeddings");
    execute(&mut client, &call());
    assert_eq!(fake.count("POST /v1/embeddings") - before, 1, "one batch");
    assert_eq!(
        values::<i64>(&mut client, "SELECT id FROM chunk WHERE embedding_moods_1_abc IS NULL"),
        [2002],
        "without words there is no vector"
    );
    assert_eq!(
        value::<String>(&mut client, "SELECT embedding_moods_1_abc::text FROM chunk WHERE id = 1"),
        "[0,0,0,1,0.3]"
    );
    assert!(value::<Option<String>>(&mut client, &nothing).is_some());

    // A changed mind counts at once, a forgotten user is gone.
    execute(&mut client, "UPDATE signal SET user_action = 'skipped' WHERE user_id = 'newcomer'");
    assert_eq!(value::<Option<String>>(&mut client, &nothing), None);
    let removed: i64 =
        value(&mut client, "SELECT (forget_user('user-1') -> 'removed' ->> 'data_point_vector')::bigint");
    assert!(removed > 0);
}

#[test]
fn trouble_is_survived_and_said() {
    let db = server().create_database("trouble");
    let mut client = db.install("pgft");
    let fake = prepared(&mut client);
    execute(&mut client, "UPDATE chunk SET content = 'this is too long 77' WHERE id = 77");
    fake.next("POST /v1/embeddings", Act::CloseAfter, 2);
    fake.next("POST /v1/embeddings", Act::Answer(429, vec![("retry-after", "0".into())], "{}".into()), 2);
    fake.next("POST /v1/embeddings", Act::Answer(502, vec![], "<html>".into()), 1);
    execute(&mut client, &call());
    assert_eq!(status(&mut client), ("complete".into(), 0.999, 999, 1));
    assert_eq!(value::<Vec<String>>(&mut client, "SELECT failed_keys FROM reembedding"), ["77"]);
    let before = fake.count("POST /v1/embeddings");
    execute(&mut client, &call());
    assert_eq!(fake.count("POST /v1/embeddings") - before, 0, "what is refused is not asked again");
    execute(&mut client, "UPDATE chunk SET content = 'chunk 77' WHERE id = 77");
    execute(&mut client, &format!("CALL reembed('chunk', '{MODEL}', retry_failed => true)"));
    assert_eq!(status(&mut client), ("complete".into(), 1.0, 1000, 0));

    // A refusal that is about everything marks no row.
    execute(&mut client, "UPDATE chunk SET embedding_moods_1_abc = NULL");
    fake.next(
        "POST /v1/embeddings",
        Act::Answer(400, vec![], "{\"error\":{\"message\":\"no such dimensions\"}}".into()),
        1000,
    );
    assert_error!(client, &call(), "HV00M", "no such dimensions");
    fake.forget_script();
    fake.next(
        "POST /v1/embeddings",
        Act::Answer(401, vec![], "{\"error\":{\"message\":\"expired {key}\"}}".into()),
        1000,
    );
    let error = assert_error!(client, &call(), "HV00M", "expired");
    assert!(!format!("{error:?}").contains(CANARY));
    fake.forget_script();
    let (state, _, _, failed) = status(&mut client);
    assert_eq!((state.as_str(), failed), ("stopped", 0));
    let told: String = value(&mut client, "SELECT last_error FROM reembeddings");
    assert!(told.contains("expired") && !told.contains(CANARY), "{told}");
    fake.serve_model(|path, body| {
        let (status, mut answer) = vectors(path, body)?;
        answer["data"].as_array_mut()?.iter_mut().for_each(|item| item["embedding"] = json!([1, 0]));
        Some((status, answer))
    });
    assert_error!(client, &call(), "22000", "2 dimensions, the column 5");
}

#[test]
fn money_is_not_overspent() {
    let db = server().create_database("money");
    let mut client = db.install("pgft");
    prepared(&mut client);
    execute(&mut client, &format!("CALL reembed('chunk', '{MODEL}', max_usd => 2)"));
    let row = client.query_one("SELECT state, usd::float8, last_error FROM reembeddings", &[]).unwrap();
    assert_eq!(row.get::<_, &str>(0), "stopped");
    let usd: f64 = row.get(1);
    assert!(usd <= 2.0 && usd > 1.8, "{usd}");
    assert!(row.get::<_, &str>(2).contains("max_usd"), "{}", row.get::<_, &str>(2));
    execute(&mut client, "DELETE FROM provider_price WHERE provider = 'host'");
    assert_error!(client, &format!("CALL reembed('chunk', '{MODEL}', max_usd => 2)"), "55000", "is not known");
}

#[test]
fn rows_in_use_are_not_waited_for() {
    let db = server().create_database("locks");
    let mut client = db.install("pgft");
    prepared(&mut client);
    execute(&mut client, &format!("CALL reembed('chunk', '{MODEL}', max_rows => 10)"));
    let mut other = db.connect();
    execute(&mut other, "SET search_path = pgft, public");
    execute(&mut other, "BEGIN; UPDATE chunk SET embedding = embedding WHERE id IN (500, 600)");
    execute(&mut client, &call());
    let (state, _, done, _) = status(&mut client);
    assert_eq!((state.as_str(), done), ("stopped", 998));
    assert!(value::<String>(&mut client, "SELECT last_error FROM reembeddings").contains("2 rows are locked"));
    execute(&mut other, "COMMIT");
    execute(&mut client, &call());
    assert_eq!(status(&mut client), ("complete".into(), 1.0, 1000, 0));
}

#[test]
fn cancelled_it_goes_on_and_two_at_once_it_does_not() {
    let db = server().create_database("cancelled");
    let mut client = db.install("pgft");
    let fake = prepared(&mut client);
    execute(&mut client, &format!("CALL reembed('chunk', '{MODEL}', max_rows => 64)"));
    fake.next("POST /v1/embeddings", Act::HangBefore(Duration::from_secs(3)), 1);
    let cancel = client.cancel_token();
    let asked = fake.count("POST /v1/embeddings");
    let pid: i32 = value(&mut client, "SELECT pg_backend_pid()");
    let calling = std::thread::spawn(move || {
        let error = client.batch_execute(&call()).unwrap_err();
        (client, error.code().unwrap().code().to_string())
    });
    wait_until(Duration::from_secs(20), "it asks", || fake.count("POST /v1/embeddings") > asked);
    let mut other = db.connect();
    execute(&mut other, "SET search_path = pgft, public");
    assert_eq!(status(&mut other).0, "running");
    let held = format!("SELECT backend_xmin::text FROM pg_stat_activity WHERE pid = {pid}");
    assert_eq!(value::<Option<String>>(&mut other, &held), None, "no snapshot is held");
    assert_error!(other, &call(), "55006", "is being re-embedded");
    cancel.cancel_query(NoTls).unwrap();
    let (client, code) = calling.join().unwrap();
    assert_eq!(code, "57014");
    drop(client);
    wait_until(Duration::from_secs(20), "the session has ended", || status(&mut other).0 == "interrupted");
    execute(&mut other, &call());
    assert_eq!(status(&mut other), ("complete".into(), 1.0, 1000, 0));
}

#[test]
fn it_takes_the_table_s_owner_and_quotes_every_name() {
    let db = server().create_database("owner");
    let mut admin = db.install("pgft");
    prepared(&mut admin);
    let owner = server().create_role("owner", &["finetune_admin"]);
    execute(
        &mut admin,
        &format!(
            "GRANT USAGE ON SCHEMA pgft TO PUBLIC; GRANT USAGE ON FOREIGN SERVER host TO {owner};
             CREATE USER MAPPING FOR {owner} SERVER host OPTIONS (api_key 'sk-of-the-owner');
             CREATE SCHEMA \"My \"\"Schema\" AUTHORIZATION {owner}"
        ),
    );
    let mut client = db.connect_as(&owner);
    execute(
        &mut client,
        "SET search_path = \"My \"\"Schema\", pgft, public;
         CREATE TABLE \"Ch'unk; --\" (\"the \"\"key\" uuid PRIMARY KEY DEFAULT gen_random_uuid(), \"Content $$\" varchar NOT NULL);
         INSERT INTO \"Ch'unk; --\" (\"Content $$\") SELECT 'text ' || i FROM generate_series(1, 70) i;
         CREATE TABLE audit (n int);
         CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (1); RETURN NULL; END $$;
         CREATE TRIGGER audit AFTER UPDATE ON \"Ch'unk; --\" FOR EACH ROW EXECUTE FUNCTION audit()",
    );
    let own = "'\"Ch''unk; --\"'";
    execute(
        &mut client,
        &format!("CALL reembed({own}, '{MODEL}', content => 'Content $$', into_column => 'second \"vector')"),
    );
    let filled = "SELECT count(\"second \"\"vector\") FROM \"Ch'unk; --\"";
    assert_eq!(value::<i64>(&mut client, filled), 70);
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM audit"),
        70,
        "the owner's triggers run under the owner's search_path"
    );
    execute(&mut client, "UPDATE \"Ch'unk; --\" SET \"Content $$\" = 'text 5'");
    assert!(value::<i64>(&mut client, filled) < 70);
    execute(&mut client, &format!("SELECT drop_reembedding({own}, '{MODEL}')"));

    let refused = |client: &mut Client, call: &str, code: &str, part: &str| {
        let error = expect_error(client, call);
        assert!(error.code == code && format!("{error:?}").replace("\\\"", "\"").contains(part), "{call}: {error:?}");
    };
    let other = format!("CALL reembed('pgft.chunk', '{MODEL}')");
    refused(&mut client, &other, "42501", "may not re-embed");
    refused(&mut client, &format!("SELECT drop_reembedding('pgft.chunk', '{MODEL}')"), "42704", "was not re-embedded");
    refused(&mut client, &format!("CALL reembed({own}, '{MODEL}', content => 'nope')"), "42703", "no column \"nope\"");
    refused(&mut client, &format!("CALL reembed({own}, 'base')"), "0A000", "makes no vectors");
    refused(
        &mut client,
        &format!("CALL reembed({own}, '{MODEL}', content => 'Content $$', into_column => 'the \"key')"),
        "42701",
        "already",
    );
    refused(&mut client, &format!("CALL reembed('audit', '{MODEL}')"), "42P16", "primary key");
    refused(&mut client, &format!("CALL reembed('pgft.model', '{MODEL}')"), "42809", "cannot re-embed");
    refused(&mut client, &format!("BEGIN; CALL reembed({own}, '{MODEL}')"), "2D000", "outside BEGIN");
}

#[test]
fn a_schedule_has_vectors_judged_and_names_what_is_left_to_do() {
    let db = Server::by_hand().create_database("scheduled");
    let mut client = db.install("pgft");
    application(&mut client, 150);
    // A model that leaves out what all texts have in common.
    let rows = client.query("SELECT content, embedding::real[] FROM chunk", &[]).unwrap();
    let known: HashMap<String, Vec<f32>> = rows
        .iter()
        .map(|row| (row.get(0), row.get::<_, Vec<f32>>(1).into_iter().map(|number| number - 0.4).collect()))
        .collect();
    let fake = FakeProvider::start();
    fake.serve_model(move |path, body| {
        let texts = (path == "/v1/embeddings").then(|| body["input"].as_array())??;
        let data: Option<Vec<Value>> = texts
            .iter()
            .enumerate()
            .map(|(index, text)| Some(json!({"index": index, "embedding": known.get(text.as_str()?)?})))
            .collect();
        Some((200, json!({"object": "list", "data": data?, "usage": {"prompt_tokens": 1, "total_tokens": 1}})))
    });
    provider(&mut client, "host", &fake.url(), key_file());
    execute(
        &mut client,
        "SELECT create_dataset('weekly');
         INSERT INTO fine_tuning_job (id, dataset_id, provider, base_model, method, seed, state, owner, model_id, max_usd, deadline_at)
         SELECT 'aaaaaaaa-0000-0000-0000-000000000001', id, 'host', 'mini', 'contrastive', 1, 'succeeded', current_user, 'm', 1, now() FROM dataset;
         INSERT INTO model (id, base_model, provider, method, dataset_id, provider_model, job_id)
         SELECT 'm', 'mini', 'host', 'contrastive', id, 'ft:mini', 'aaaaaaaa-0000-0000-0000-000000000001' FROM dataset;
         INSERT INTO retraining_run (schedule, due_at, state, stage, job_id, model_id, retry_at)
         VALUES ('weekly', now(), 'running', 'evaluation', 'aaaaaaaa-0000-0000-0000-000000000001', 'm', now())",
    );
    execute(&mut client, "CALL run_due_work()");
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "gate"), "{reason}");
    assert!(reason.starts_with("model m passed the gate") && reason.contains("CALL reembed(..., 'm')"), "{reason}");
    let judged =
        "SELECT verdict || ' ' || (auc > base_auc) FROM model_evaluation WHERE model_id = 'm' AND against = 'base'";
    assert_eq!(value::<String>(&mut client, judged), "passed true");
    let asked = fake.count("POST /v1/embeddings");
    execute(&mut client, "CALL run_due_work()");
    assert!(asked > 0 && fake.count("POST /v1/embeddings") == asked, "once is enough");
}
