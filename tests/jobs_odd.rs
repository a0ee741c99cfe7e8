//! Odd answers of providers: what is not the protocol, what is too much, what is a lie, and who else suffers from it.

mod common;

use common::*;
use std::sync::OnceLock;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| jobs_server(&[("max_worker_processes", "32")]))
}

fn submit_seed(client: &mut Client, provider: &str, seed: u32) -> String {
    submit_to(client, provider, &format!(", seed => {seed}"))
}

fn events(client: &mut Client, job: &str, like: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM fine_tuning_event WHERE job_id = '{job}' AND concat_ws(' ', message, data) LIKE '%{like}%'");
    value(client, &sql)
}

fn json(status: u16, body: &str) -> Act {
    Act::Answer(status, vec![("content-type", "application/json".into())], body.into())
}

#[test]
fn polls_survive_everything() {
    let fake = FakeProvider::start();
    fake.behave(|manners| manners.polls = None);
    let (_db, mut client) = prepared(server(), &fake.url());
    let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let odd = [
        json(200, "<html><body>Please log in</body></html>"),
        json(200, ""),
        json(200, "[]"),
        json(200, "{\"id\": 7, \"status\": {\"a\": 1}}"),
        json(200, &nested),
        json(200, "{\"status\": \"running\", \"error\": {\"message\": \"a\\u0000b \\ud800\", \"code\": 1e400}}"),
        json(500, "{\"error\": {\"message\": \"wrong key {key}\"}}"),
        json(401, "{\"error\": {\"message\": \"is {key} your key?\"}}"),
        json(404, "{}"),
        Act::Answer(302, vec![("location", "http://169.254.169.254/latest/{key}".into())], String::new()),
        Act::Cut(60),
        Act::Endless,
        Act::Drip(Duration::from_millis(50)),
        Act::TooShort,
        Act::Answer(200, vec![("content-encoding", "gzip".into())], "not gzip".into()),
    ];
    let jobs: Vec<String> = (0..odd.len() as u32).map(|seed| submit_seed(&mut client, "host", seed)).collect();
    wait_until(PATIENCE, "all run", || {
        value::<i64>(&mut client, "SELECT count(*) FROM fine_tuning_job WHERE state = 'running'") == odd.len() as i64
    });
    // The state itself is asked for: what goes wrong with a job's events leaves no line, and only a first failure does.
    let state_of_one = format!("GET /v1/fine_tuning/jobs/{} ", fake.jobs()[0].id);
    fake.next(&state_of_one, json(500, "{\"error\": {\"message\": \"wrong key {key}\"}}"), 1);
    wait_until(PATIENCE, "one was answered with the key", || fake.left_of_script() == 0);
    for act in &odd {
        fake.next("GET /v1/fine_tuning/jobs/", act.clone(), 1);
    }
    wait_until(PATIENCE, "all were answered oddly", || fake.left_of_script() == 0);
    let status: String = value(&mut client, "SELECT concat_ws(' ', state, waiting_for, hint) FROM worker_status()");
    assert!(!status.contains(CANARY), "{status}");
    fake.behave(|manners| manners.polls = Some(1));
    for job in &jobs {
        assert_eq!(wait_for_job(&mut client, job), "succeeded");
    }
    assert_eq!(fake.jobs().len(), odd.len());
    let masked = "SELECT count(*) FROM fine_tuning_event WHERE message LIKE '%********%'";
    assert!(value::<i64>(&mut client, masked) > 0, "the echo is shown without the key");
    wait_until(PATIENCE, "all is tidied up", || {
        value::<bool>(&mut client, "SELECT bool_and(phase IS NULL) FROM fine_tuning_job")
    });
}

#[test]
fn words_waits_and_missing_models() {
    let fake = FakeProvider::start();
    fake.behave(|manners| (manners.polls, manners.word) = (None, Some("paused_by_moon".into())));
    let (_db, mut client) = prepared(server(), &fake.url());
    let job = submit_seed(&mut client, "host", 1);
    wait_until(PATIENCE, "it was polled some times", || fake.count("GET /v1/fine_tuning/jobs/") > 6);
    assert_eq!(of(&mut client, &job, "raw_status"), "paused_by_moon");
    assert_eq!(events(&mut client, &job, "paused_by_moon"), 1, "said once");

    // Too many requests: waits as asked, is no failure.
    fake.next("GET /v1/fine_tuning/jobs/", Act::Answer(429, vec![("retry-after", "1".into())], "{}".into()), 1);
    wait_until(PATIENCE, "it waits", || of(&mut client, &job, "stage").contains("fewer requests"));
    assert_eq!((of(&mut client, &job, "failures"), of(&mut client, &job, "state")), ("0".into(), "queued".into()));
    let failures = "SELECT COALESCE(max(failures), 0) FROM provider_health";
    assert_eq!(value::<i32>(&mut client, failures), 0);
    let waiting: Option<String> = value(&mut client, "SELECT waiting_for FROM worker_status()");
    assert!(waiting.unwrap_or_default().contains("fewer requests"));

    fake.behave(|manners| (manners.polls, manners.model) = (Some(1), None));
    assert_eq!(wait_for_job(&mut client, &job), "failed");
    assert!(of(&mut client, &job, "error_message").contains("names no model"));
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM model WHERE provider = 'host'"), 0);

    fake.behave(|manners| (manners.polls, manners.ends_as) = (Some(1), "failed"));
    let job = submit_seed(&mut client, "host", 2);
    assert_eq!(wait_for_job(&mut client, &job), "failed");
    assert!(of(&mut client, &job, "error_message").contains("line 3 is no JSON"));
    wait_until(PATIENCE, "the user's data is deleted there", || fake.files().is_empty());
}

#[test]
fn refusals_are_final_and_say_what_works_instead() {
    let fake = FakeProvider::start();
    let (_db, mut client) = prepared(server(), &fake.url());
    let closed = r#"{"error": {"message": "Fine-tuning is not available", "code": "training_not_available", "type": "invalid_request_error"}}"#;
    fake.next("POST /v1/fine_tuning/jobs ", json(403, closed), 1);
    let job = submit_seed(&mut client, "host", 1);
    assert_eq!(wait_for_job(&mut client, &job), "failed");
    assert!(of(&mut client, &job, "error_hint").contains("builtin"), "{}", of(&mut client, &job, "error_hint"));
    assert_eq!(fake.count("POST /v1/fine_tuning/jobs "), 1, "asked once");
    wait_until(PATIENCE, "the user's data is deleted there", || fake.files().is_empty());

    // A revoked key ends the job that meets it; the others wait and go on with a new one.
    fake.next("POST /v1/files", json(401, r#"{"error": {"message": "Incorrect API key provided: {key}"}}"#), 1);
    let refused = submit_seed(&mut client, "host", 2);
    assert_eq!(wait_for_job(&mut client, &refused), "failed");
    assert!(of(&mut client, &refused, "error_message").contains("********"));
    let other = submit_seed(&mut client, "host", 3);
    assert_eq!(wait_for_job(&mut client, &other), "succeeded");

    // A damaged row fails alone.
    execute(&mut client, "SELECT pause_worker()");
    let damaged = submit_seed(&mut client, "host", 4);
    execute(&mut client, &format!("UPDATE fine_tuning_job SET max_attempts = 1, method = 'none' WHERE id = '{damaged}'; SELECT resume_worker()"));
    let whole = submit_seed(&mut client, "host", 5);
    assert_eq!(wait_for_job(&mut client, &whole), "succeeded");
    assert_eq!(wait_for_job(&mut client, &damaged), "failed");
}

#[test]
fn a_broken_provider_delays_only_itself() {
    let (fake, broken) = (FakeProvider::start(), FakeProvider::start());
    broken.next("", Act::HangBefore(Duration::from_secs(4)), 10_000);
    let (_db, mut client) = prepared(server(), &fake.url());
    provider(&mut client, "broken", &broken.url(), &server().secret(CANARY));
    provider(&mut client, "nobody", "http://127.0.0.1:1/v1", &server().secret(CANARY));
    for seed in 0..10 {
        submit_seed(&mut client, "broken", seed);
        submit_seed(&mut client, "nobody", seed);
    }
    let before = server().log().matches("LOG:  pg_finetune: ").count();
    let jobs: Vec<String> = (0..10).map(|seed| submit_seed(&mut client, "host", seed)).collect();
    for job in jobs {
        assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    }
    assert_eq!(
        value::<i64>(
            &mut client,
            "SELECT count(*) FROM fine_tuning_job WHERE provider = 'host' AND state <> 'succeeded'"
        ),
        0
    );
    wait_until(PATIENCE, "the others are left alone", || {
        value::<i64>(&mut client, "SELECT count(*) FROM provider_health WHERE failures >= 3") == 2
    });
    assert!(server().log().matches("LOG:  pg_finetune: ").count() - before < 10, "{}", server().log());
    // One line of history for a run of failures, not one for each.
    let lines =
        "SELECT max(n) FROM (SELECT count(*) n FROM fine_tuning_event WHERE level = 'warning' GROUP BY job_id) t";
    assert!(value::<i64>(&mut client, lines) <= 2);
    execute(
        &mut client,
        "SELECT count(cancel_job(id)) FROM fine_tuning_job WHERE provider <> 'host' AND finished_at IS NULL",
    );
}

#[test]
fn tls_is_checked() {
    let server = jobs_server(&[]);
    let (fake, authority) = FakeProvider::start_tls("localhost");
    let (_db, mut client) = prepared(&server, &fake.url_of("localhost"));
    let job = submit_seed(&mut client, "host", 1);
    wait_until(PATIENCE, "an unknown authority is refused", || !of(&mut client, &job, "error_message").is_empty());
    let refused = of(&mut client, &job, "error_message");
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    assert_eq!(fake.seen().len(), 0, "nothing was said to it");
    let file = server.file("authority.pem", &authority);
    execute(&mut client, &format!("ALTER SYSTEM SET pg_finetune.ca_file = '{file}'"));
    execute(&mut client, "SELECT pg_reload_conf()");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");

    // The right authority, the wrong name.
    let (other, authority) = FakeProvider::start_tls("elsewhere.example");
    provider(&mut client, "other", &other.url_of("localhost"), &server.secret(CANARY));
    server.file("authority.pem", &authority);
    let job = submit_seed(&mut client, "other", 1);
    wait_until(PATIENCE, "another name is refused", || !of(&mut client, &job, "error_message").is_empty());
    let refused = of(&mut client, &job, "error_message");
    assert!(refused.contains("not valid for name"), "{refused}");
    assert_eq!(other.seen().len(), 0);
}
