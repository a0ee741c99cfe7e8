//! From triplets in Postgres to a model that answers: the worker trains through the self-hosted trainer, with real weights.

mod common;

use common::*;
use serde_json::{json, Value};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const KEY: &str = "canary-key-of-the-trainer";
const THINGS: [&str; 12] = [
    "cat on the sofa",
    "ship in the harbour",
    "tree by the road",
    "song of the north",
    "clock on the wall",
    "bread in the oven",
    "horse in the field",
    "letter in the drawer",
    "lamp over the table",
    "train at the station",
    "coat on the hook",
    "bell of the church",
];
const MOODS: [&str; 6] = ["old", "grey", "small", "loud", "warm", "broken"];

/// The trainer as `make trainer` starts it, on a free port with data of its own.
struct Trainer {
    process: Child,
    url: String,
    http: reqwest::blocking::Client,
    data: PathBuf,
}

impl Drop for Trainer {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

impl Trainer {
    fn start() -> Self {
        let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("trainer.{}", std::process::id()));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(repository("scripts/trainer.sh"))
            .args(["serve", "--port", &port.to_string(), "--data"])
            .arg(&data)
            .env("PG_FINETUNE_TRAINER_KEY", KEY)
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::null())
            .spawn()
            .expect("scripts/trainer.sh");
        let http = reqwest::blocking::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        let url = format!("http://127.0.0.1:{port}/v1");
        let trainer = Self { process, url, http, data };
        let health = trainer.url.replace("/v1", "/healthz");
        wait_until(Duration::from_secs(120), "the trainer answers", || trainer.http.get(&health).send().is_ok());
        trainer
    }

    /// Unit vectors of texts under a model, as any client asks for them.
    fn embed(&self, model: &str, texts: &[String]) -> Vec<Vec<f64>> {
        let body = json!({"model": model, "input": texts, "encoding_format": "float"});
        let answer = self.http.post(format!("{}/embeddings", self.url)).bearer_auth(KEY).json(&body).send().unwrap();
        let answer: Value = answer.error_for_status().unwrap().json().unwrap();
        let vector = |item: &Value| item["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        answer["data"].as_array().unwrap().iter().map(vector).collect()
    }
}

#[test]
fn the_worker_trains_judges_and_deploys_a_real_model() {
    let trainer = Trainer::start();
    let db = Server::shared().create_database("self_hosted");
    let mut client = db.install("pgft");
    moods(&mut client, &trainer);
    let server = format!(
        "CREATE SERVER trainer FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'openai', base_url '{}');
         CREATE USER MAPPING FOR CURRENT_USER SERVER trainer OPTIONS (api_key '{KEY}');
         SELECT create_dataset('moods')",
        trainer.url
    );
    execute(&mut client, &server);
    execute(&mut client, "CALL check_provider('trainer')");
    let sql = "SELECT fine_tune('moods', provider => 'trainer', base_model => 'all-MiniLM-L6-v2', method => 'contrastive',
                   hyperparameters => '{\"n_epochs\": 1, \"batch_size\": 16, \"learning_rate_multiplier\": 3, \"max_seq_length\": 16}')::text";
    let job: String = value(&mut client, sql);
    let state: String = value(&mut client, &format!("CALL wait_for_job('{job}', timeout => '600 s')"));
    let told: Option<String> =
        value(&mut client, &format!("SELECT error_message FROM fine_tuning_job WHERE id = '{job}'"));
    assert_eq!(state, "succeeded", "{told:?}");
    let progress: f64 = value(&mut client, &format!("SELECT progress FROM fine_tuning_job WHERE id = '{job}'"));
    assert_eq!(progress, 1.0);

    let model: String = value(&mut client, &format!("SELECT model_id FROM fine_tuning_job WHERE id = '{job}'"));
    let deploy = format!("SELECT deploy_model('{model}', 'a try')");
    assert_error!(client, &deploy, "55000", "evaluat");
    execute(&mut client, &format!("CALL evaluate_model('{model}')"));
    let gate = client
        .query_one("SELECT verdict, reason, base_auc, auc FROM model_evaluation WHERE against = 'base'", &[])
        .unwrap();
    assert_eq!(gate.get::<_, String>(0), "passed", "{}", gate.get::<_, String>(1));
    assert!(gate.get::<_, f64>(3) > gate.get::<_, f64>(2));
    execute(&mut client, &deploy);

    let served = client.query_one("SELECT model_id, provider, provider_model FROM model_for('user-1')", &[]).unwrap();
    assert_eq!((served.get::<_, String>(0), served.get::<_, String>(1)), (model, "trainer".to_owned()));
    let vectors = trainer.embed(&served.get::<_, String>(2), &["The old cat on the sofa.".to_owned()]);
    assert_eq!(vectors[0].len(), 384);
    let keys = format!("SELECT count(*) FROM fine_tuning_job j WHERE to_jsonb(j)::text ~ '{KEY}'");
    assert_eq!(value::<i64>(&mut client, &keys), 0);
}

/// An application whose users like one mood each, whatever the thing: the base model sees things first.
fn moods(client: &mut Client, trainer: &Trainer) {
    let texts: Vec<String> =
        MOODS.iter().flat_map(|mood| THINGS.iter().map(move |thing| format!("The {mood} {thing}."))).collect();
    execute(
        client,
        "CREATE TABLE item (id int PRIMARY KEY, content text NOT NULL, embedding vector(384) NOT NULL);
         CREATE TABLE signal (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id text NOT NULL, item_id int NOT NULL REFERENCES item,
                              user_action text, actioned_at timestamptz, created_at timestamptz NOT NULL);
         CREATE VIEW shown AS SELECT s.id AS signal_id, s.user_id, i.id AS chunk_id, i.content AS chunk_content, i.embedding, s.user_action,
                                     s.actioned_at, s.created_at AS shown_at, 'list'::text AS surface FROM signal s JOIN item i ON i.id = s.item_id;
         SELECT capture_signals('signal', via => 'shown')",
    );
    for (id, (text, vector)) in texts.iter().zip(trainer.embed("all-MiniLM-L6-v2", &texts)).enumerate() {
        let vector = format!("{vector:?}");
        client.execute("INSERT INTO item VALUES ($1, $2, $3::text::vector)", &[&(id as i32), text, &vector]).unwrap();
    }
    // 40 shown items a user, a third of them of the liked mood, in an order that depends on nothing but the numbers.
    execute(
        client,
        "INSERT INTO signal (user_id, item_id, user_action, actioned_at, created_at)
         SELECT 'user-' || u, i, CASE WHEN i / 12 = u % 6 THEN 'saved' ELSE 'skipped' END, at + interval '1 hour', at
         FROM (SELECT u, n, CASE WHEN n % 3 = 0 THEN (u % 6) * 12 + (n / 3 + u) % 12
                                 ELSE ((u % 6 + 1 + n % 5) % 6) * 12 + (n * 5 + u) % 12 END AS i,
                      timestamptz '2026-01-01' + n * interval '6 hours' + u * interval '1 minute' AS at
               FROM generate_series(1, 30) u, generate_series(0, 39) n) s",
    );
}
