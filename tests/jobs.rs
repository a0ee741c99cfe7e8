//! Jobs at a provider: the ordinary way, control, money, odd answers, and that the key is found nowhere.

mod common;

use common::*;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

fn server() -> Server {
    Server::private(&[
        ("shared_preload_libraries", "pg_finetune"),
        ("synchronous_commit", "on"),
        ("pg_finetune.poll_interval", "40ms"),
        ("pg_finetune.http_timeout", "2s"),
    ])
}

/// A database with the application, a dataset and the provider `host` with the canary as its key.
fn prepared<'a>(server: &'a Server, fake: &FakeProvider) -> (Database<'a>, Client) {
    let db = server.create_database("jobs");
    let mut client = db.install("pgft");
    application(&mut client, 60);
    execute(&mut client, "SELECT create_dataset('listeners')");
    provider(&mut client, "host", &fake.url(), &server.secret(CANARY));
    (db, client)
}

fn submit_to(client: &mut Client, more: &str) -> String {
    value(
        client,
        &format!(
            "SELECT fine_tune('listeners', provider => 'host', base_model => 'small', method => 'sft'{more})::text"
        ),
    )
}

#[test]
fn a_job_goes_through_and_leaves_nothing_behind() {
    let (server, fake) = (server(), FakeProvider::start());
    let (db, mut client) = prepared(&server, &fake);
    execute(&mut client, "INSERT INTO provider_price VALUES ('host', 'small', 25, '2026-11-01', 'test')");
    let job = submit_to(&mut client, "");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");

    let row = client
        .query_one(
            "SELECT raw_status, remote_job_id, serving_state, cost_usd::float8, estimated_usd::float8, progress, model_id FROM fine_tuning_jobs",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("succeeded", fake.jobs()[0].id.as_str()));
    assert_eq!((row.get::<_, &str>(2), row.get::<_, f64>(3), row.get::<_, f64>(5)), ("ready", 100.0, 1.0));
    assert!(row.get::<_, f64>(4) > 0.0);
    let model: String = row.get(6);
    let registered = client.query_one("SELECT provider, provider_model FROM model WHERE id = $1", &[&model]).unwrap();
    assert_eq!((registered.get::<_, &str>(0), registered.get::<_, &str>(1)), ("host", "ft:small:org::x"));
    assert_eq!(value::<f64>(&mut client, "SELECT billed_usd::float8 FROM fine_tuning_cost"), 100.0);

    wait_until(PATIENCE, "the file is deleted at the provider", || fake.files().is_empty());
    assert_eq!(fake.count("POST /v1/fine_tuning/jobs "), 1);
    let upload = fake.seen().into_iter().find(|seen| seen.line.starts_with("POST /v1/files")).unwrap();
    assert_eq!(upload.authorization, format!("Bearer {CANARY}"));
    assert!(upload.body.contains("\"messages\""), "{}", &upload.body[..500]);
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_finetune%'";
    wait_until(PATIENCE, "the worker left the database", || value::<i64>(&mut client, ours) == 0);
    canary_is_nowhere(&server, &db);
}
