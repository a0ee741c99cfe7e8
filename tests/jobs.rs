//! Jobs at a provider: the ordinary way, control, money, rights, and that the key is found nowhere.

mod common;

use common::*;
use std::sync::OnceLock;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// One server for all tests here, each with a database of its own.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        Server::private(&[
            ("shared_preload_libraries", "pg_finetune"),
            ("synchronous_commit", "on"),
            ("pg_finetune.poll_interval", "40ms"),
            ("pg_finetune.http_timeout", "2s"),
            ("max_worker_processes", "32"),
        ])
    })
}

/// A database with the application, a dataset and the provider `host` with the canary as its key.
fn prepared(fake: &FakeProvider) -> (Database<'static>, Client) {
    let db = server().create_database("jobs");
    let mut client = db.install("pgft");
    application(&mut client, 60);
    execute(&mut client, "SELECT create_dataset('listeners')");
    provider(&mut client, "host", &fake.url(), &server().secret(CANARY));
    (db, client)
}

fn submit_to(client: &mut Client, provider: &str, more: &str) -> String {
    let sql = format!(
        "SELECT fine_tune('listeners', provider => '{provider}', base_model => 'small', method => 'sft'{more})::text"
    );
    value(client, &sql)
}

fn of(client: &mut Client, job: &str, column: &str) -> String {
    let sql = format!("SELECT COALESCE({column}::text, '') FROM fine_tuning_job WHERE id = '{job}'");
    value(client, &sql)
}

fn history(client: &mut Client, job: &str) -> String {
    let sql = format!("SELECT string_agg(concat_ws(' ', level, message, data), E'\\n' ORDER BY id) FROM fine_tuning_event WHERE job_id = '{job}'");
    value::<Option<String>>(client, &sql).unwrap_or_default()
}

fn until_running(client: &mut Client, job: &str) {
    wait_until(PATIENCE, "the job runs at the provider", || of(client, job, "state") == "running");
}

fn until_tidy(client: &mut Client, job: &str) {
    wait_until(PATIENCE, "all is tidied up", || of(client, job, "phase").is_empty());
}

#[test]
fn a_job_goes_through_and_leaves_nothing_behind() {
    let fake = FakeProvider::start();
    let (db, mut client) = prepared(&fake);
    execute(&mut client, "INSERT INTO provider_price (provider, base_model, usd_per_million_training_tokens, as_of, quoted_from) VALUES ('host', 'small', 25, '2026-11-01', 'test')");
    let job = submit_to(&mut client, "host", ", max_usd => 100");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded", "{}", history(&mut client, &job));

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

    until_tidy(&mut client, &job);
    assert_eq!(fake.files(), Vec::<String>::new(), "the file is deleted at the provider");
    assert_eq!(fake.count("POST /v1/fine_tuning/jobs "), 1);
    let upload = fake.seen().into_iter().find(|seen| seen.line.starts_with("POST /v1/files")).unwrap();
    assert_eq!(upload.authorization, format!("Bearer {CANARY}"));
    assert!(upload.body.contains("\"messages\""), "{}", &upload.body[..500]);
    let ours =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_finetune%' AND datname = current_database()";
    wait_until(PATIENCE, "the worker left the database", || value::<i64>(&mut client, ours) == 0);
    canary_is_nowhere(server(), &db);
}

#[test]
fn cancelled_at_every_stage() {
    let fake = FakeProvider::start();
    fake.behave(|manners| manners.polls = None);
    let (db, mut client) = prepared(&fake);
    execute(&mut client, "SELECT pause_worker()");
    let waiting = submit_to(&mut client, "host", "");
    assert_eq!(value::<String>(&mut client, &format!("SELECT cancel_job('{waiting}')")), "cancelled");
    execute(&mut client, "SELECT resume_worker()");

    let running = submit_to(&mut client, "host", "");
    until_running(&mut client, &running);
    execute(&mut client, &format!("SELECT cancel_job('{running}')"));
    assert_eq!(wait_for_job(&mut client, &running), "cancelled", "{}", history(&mut client, &running));
    assert_eq!(fake.jobs()[0].status, "cancelled", "there, too");
    assert_eq!(value::<String>(&mut client, &format!("SELECT cancel_job('{running}')")), "cancelled", "twice is once");

    // While the answer to its creation is lost.
    fake.next("POST /v1/fine_tuning/jobs ", Act::CloseAfter, 1);
    fake.next("GET /v1/fine_tuning/jobs?", Act::Answer(503, vec![], "busy".into()), 3);
    let lost = submit_to(&mut client, "host", "");
    wait_until(PATIENCE, "it is looked for", || of(&mut client, &lost, "phase") == "find");
    execute(&mut client, &format!("SELECT cancel_job('{lost}')"));
    assert_eq!(wait_for_job(&mut client, &lost), "cancelled", "{}", history(&mut client, &lost));
    assert!(fake.jobs().iter().all(|job| job.status == "cancelled"), "{:?}", fake.jobs());

    execute(&mut client, &format!("SELECT retry_job('{running}')"));
    fake.behave(|manners| manners.polls = Some(2));
    assert_eq!(wait_for_job(&mut client, &running), "succeeded");
    assert_eq!(fake.jobs().len(), 3, "a retry is a new job");
    canary_is_nowhere(server(), &db);
}

#[test]
fn out_of_time_it_is_cancelled_there_and_a_retry_takes_it_up_again() {
    let fake = FakeProvider::start();
    fake.behave(|manners| manners.polls = None);
    let (_db, mut client) = prepared(&fake);
    let job = submit_to(&mut client, "host", ", timeout => '3 s'");
    assert_eq!(wait_for_job(&mut client, &job), "expired", "{}", history(&mut client, &job));
    assert_eq!(fake.jobs()[0].status, "cancelled");
    assert_eq!(of(&mut client, &job, "error_code"), "57014");

    // The provider is gone when time is over: the job ends all the same, and says what may go on there.
    let job = submit_to(&mut client, "host", ", timeout => '3 s', seed => 2");
    until_running(&mut client, &job);
    fake.next("", Act::CloseBefore, 1000);
    assert_eq!(wait_for_job(&mut client, &job), "expired");
    assert!(history(&mut client, &job).contains("may still run there"), "{}", history(&mut client, &job));
    fake.forget_script();
    fake.behave(|manners| manners.polls = Some(1));
    execute(&mut client, &format!("SELECT retry_job('{job}')"));
    assert_eq!(wait_for_job(&mut client, &job), "succeeded", "{}", history(&mut client, &job));
    assert_eq!(fake.jobs().len(), 2, "taken up again, not paid for again");
}

#[test]
fn a_pause_sends_nothing() {
    let fake = FakeProvider::start();
    let (_db, mut client) = prepared(&fake);
    execute(&mut client, "SELECT pause_worker()");
    let job = submit_to(&mut client, "host", "");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(fake.seen().len(), 0);
    assert_error!(client, "CALL run_due_work()", "55000", "paused");
    execute(&mut client, "SELECT resume_worker()");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
}

#[test]
fn money_is_looked_at_before_anything_is_sent() {
    let fake = FakeProvider::start();
    let (_db, mut client) = prepared(&fake);
    let unknown = submit_to(&mut client, "host", ", max_usd => 5");
    assert_eq!(wait_for_job(&mut client, &unknown), "failed");
    assert!(of(&mut client, &unknown, "error_hint").contains("provider_price"));
    execute(&mut client, "INSERT INTO provider_price (provider, base_model, usd_per_million_training_tokens, as_of, quoted_from) VALUES ('host', 'small', 25, '2026-11-01', 'test')");
    let dear = submit_to(&mut client, "host", ", max_usd => 0.01");
    assert_eq!(wait_for_job(&mut client, &dear), "failed");
    assert_eq!(of(&mut client, &dear, "error_code"), "53400");
    assert!(of(&mut client, &dear, "error_message").contains("max_usd is 0.01"));
    assert_eq!(fake.seen().len(), 0, "nothing was sent");
    assert_error!(client, "SELECT fine_tune('listeners', max_usd => -1)", "22023", "max_usd");

    fake.behave(|manners| manners.shutdown = Some("2027-01-14".into()));
    let doomed = submit_to(&mut client, "host", "");
    assert_eq!(wait_for_job(&mut client, &doomed), "succeeded");
    assert!(history(&mut client, &doomed).contains("shut down on 2027-01-14"), "{}", history(&mut client, &doomed));
}

#[test]
fn what_is_lost_is_looked_for_and_what_is_double_is_cancelled() {
    let fake = FakeProvider::start();
    let (_db, mut client) = prepared(&fake);
    // Not done, not answered: three looks, then once more.
    fake.next("POST /v1/fine_tuning/jobs ", Act::CloseBefore, 1);
    let job = submit_to(&mut client, "host", "");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded", "{}", history(&mut client, &job));
    let lines: Vec<String> =
        fake.seen().into_iter().map(|seen| seen.line).filter(|line| line.contains("/fine_tuning/jobs")).collect();
    let position = |start: &str| lines.iter().positions_of(start);
    let (creates, looks) = (position("POST /v1/fine_tuning/jobs "), position("GET /v1/fine_tuning/jobs?"));
    assert_eq!(creates.len(), 2);
    let between = looks.iter().filter(|look| **look > creates[0] && **look < creates[1]).count();
    assert!(between >= 3, "{lines:?}");

    // Done twice: the oldest is kept.
    fake.next("POST /v1/fine_tuning/jobs ", Act::HangAfter(Duration::from_secs(3)), 1);
    let job = submit_to(&mut client, "host", ", seed => 2");
    wait_until(PATIENCE, "it is created", || fake.jobs().len() == 2);
    let first = fake.jobs()[1].clone();
    fake.duplicate(&first.run);
    assert_eq!(wait_for_job(&mut client, &job), "succeeded", "{}", history(&mut client, &job));
    assert_eq!(of(&mut client, &job, "remote_job_id"), first.id);
    assert_eq!(fake.jobs()[2].status, "cancelled");
    assert!(history(&mut client, &job).contains("created more than once"));
}

trait Positions {
    fn positions_of(self, start: &str) -> Vec<usize>;
}

impl<'a, I: Iterator<Item = &'a String>> Positions for I {
    fn positions_of(self, start: &str) -> Vec<usize> {
        self.enumerate().filter(|(_, line)| line.starts_with(start)).map(|(i, _)| i).collect()
    }
}

#[test]
fn rights_are_those_of_the_owner_at_submit_and_at_each_call() {
    let fake = FakeProvider::start();
    fake.behave(|manners| manners.polls = None);
    let (db, mut client) = prepared(&fake);
    let role = server().create_role("ml", &["finetune_admin"]);
    execute(&mut client, &format!("GRANT USAGE ON SCHEMA pgft, public TO {role}"));
    let mut ml = db.connect_as(&role);
    execute(&mut ml, "SET search_path = pgft, public");
    let call = "SELECT fine_tune('listeners', provider => 'host', base_model => 'small', method => 'sft')";
    assert_error!(ml, call, "42501", "GRANT USAGE ON FOREIGN SERVER");
    execute(&mut client, &format!("GRANT USAGE ON FOREIGN SERVER host TO {role}"));
    assert_error!(ml, call, "42704", "CREATE USER MAPPING");
    execute(&mut ml, &format!("CREATE USER MAPPING FOR {role} SERVER host OPTIONS (api_key 'sk-of-ml')"));
    let forged =
        "INSERT INTO fine_tuning_job (dataset_id, provider, base_model, method, seed, deadline_at, owner, phase)
                  SELECT id, 'host', 'small', 'sft', 1, now() + '1 day', 'postgres', 'prepare' FROM dataset";
    assert_error!(ml, forged, "42501", "may not act for \"postgres\"");
    assert_error!(ml, "SELECT fine_tune('listeners', provider => 'host')", "22023", "base model");
    assert_error!(
        ml,
        "SELECT fine_tune('listeners', provider => 'host', base_model => 'small', method => 'x')",
        "22023",
        "sft"
    );

    let job = submit_to(&mut ml, "host", "");
    until_running(&mut client, &job);
    assert!(fake.seen().iter().all(|seen| seen.authorization == "Bearer sk-of-ml"), "the owner's key");
    // A job that runs is not given up when a right or a key is missing for a while.
    execute(&mut client, &format!("REVOKE USAGE ON FOREIGN SERVER host FROM {role}"));
    wait_until(PATIENCE, "it says so", || of(&mut client, &job, "stage").contains("permission denied"));
    let late = submit_to(&mut client, "host", ", seed => 3"); // others are not held up
    until_running(&mut client, &late);
    execute(&mut client, &format!("GRANT USAGE ON FOREIGN SERVER host TO {role}"));
    fake.behave(|manners| manners.polls = Some(1));
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");

    // A key never goes to another address than the job's.
    let other = FakeProvider::start();
    execute(&mut client, "SELECT pause_worker()");
    let job = submit_to(&mut client, "host", ", seed => 4");
    execute(
        &mut client,
        &format!("ALTER SERVER host OPTIONS (SET base_url '{}'); SELECT resume_worker()", other.url()),
    );
    assert_eq!(wait_for_job(&mut client, &job), "failed");
    assert!(of(&mut client, &job, "error_message").contains("address"));
    assert_eq!(other.seen().len(), 0);
}

#[test]
fn run_due_work_serves_jobs_at_providers_too() {
    let fake = FakeProvider::start();
    fake.behave(|manners| manners.polls = Some(1));
    let (_db, mut client) = prepared(&fake);
    execute(&mut client, "SELECT pause_worker()");
    let job = submit_to(&mut client, "host", "");
    execute(&mut client, "UPDATE installation SET worker_paused = false");
    wait_until(PATIENCE, "rounds in this session end the job", || {
        execute(&mut client, "CALL run_due_work()");
        of(&mut client, &job, "state") == "succeeded"
    });
    assert_eq!(fake.jobs().len(), 1);
}
