//! Jobs at a provider: the ordinary way, control, money, rights, and that the key is found nowhere.

mod common;

use common::*;
use std::sync::OnceLock;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// One server for all tests here, each with a database of its own.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| jobs_server(&[("max_worker_processes", "32")]))
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
    let (_db, mut client) = prepared(server(), &fake.url());
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
    assert_eq!(fake.files(), Vec::<String>::new(), "the files are deleted at the provider");
    assert_eq!(fake.count("POST /v1/fine_tuning/jobs "), 1);
    let upload = fake.seen().into_iter().find(|seen| seen.line.starts_with("POST /v1/files")).unwrap();
    assert_eq!(upload.authorization, format!("Bearer {CANARY}"));
    assert!(upload.body.contains("\"messages\""), "{}", &upload.body[..500]);
    let ours =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_finetune%' AND datname = current_database()";
    wait_until(PATIENCE, "the worker left the database", || value::<i64>(&mut client, ours) == 0);
}

#[test]
fn cancelled_at_every_stage() {
    let fake = FakeProvider::start();
    fake.behave(|manners| manners.polls = None);
    let (_db, mut client) = prepared(server(), &fake.url());
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
}

#[test]
fn where_cancelling_is_deleting_the_job_ends_cancelled() {
    let fake = FakeProvider::start();
    fake.behave(|manners| (manners.polls, manners.forgets_cancelled) = (None, true));
    let (_db, mut client) = prepared(server(), &fake.url());
    let job = submit_to(&mut client, "host", "");
    until_running(&mut client, &job);
    execute(&mut client, &format!("SELECT cancel_job('{job}')"));
    assert_eq!(wait_for_job(&mut client, &job), "cancelled", "{}", history(&mut client, &job));
    assert_eq!((fake.jobs().len(), of(&mut client, &job, "error_code")), (0, String::new()));
}

/// Chat lines of an upload: the text that each asks about, which comes last, and the whole line.
fn lines(upload: &Seen) -> Vec<(String, String)> {
    let rows = upload.body.lines().filter(|line| line.starts_with("{\"messages\""));
    let asked = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let question = row["messages"][1]["content"].as_str().unwrap().to_string();
        let text = question.rfind("chunk ").map(|at| question[at..].split_whitespace().nth(1).unwrap().to_string());
        (text.unwrap(), line.to_string())
    };
    rows.map(asked).collect()
}

#[test]
fn a_part_of_the_texts_is_held_back_for_validation_and_checkpoints_are_kept() {
    let fake = FakeProvider::start();
    let kept = serde_json::json!({"id": "c1", "fine_tuned_model_checkpoint": "ft:small:org::x:ckpt-step-7", "step_number": 7, "metrics": {"valid_loss": 0.5}});
    fake.behave(|manners| manners.checkpoints = vec![kept]);
    let (_db, mut client) = prepared(server(), &fake.url());
    let job = submit_to(&mut client, "host", ", validation => 0.2");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded", "{}", history(&mut client, &job));
    until_tidy(&mut client, &job);
    let uploads: Vec<Seen> = fake.seen().into_iter().filter(|seen| seen.line.starts_with("POST /v1/files")).collect();
    let create = fake.seen().into_iter().find(|seen| seen.line.starts_with("POST /v1/fine_tuning/jobs ")).unwrap();
    let create: serde_json::Value = serde_json::from_str(&create.body).unwrap();
    assert_eq!((&create["training_file"], &create["validation_file"]), (&"file-1".into(), &"file-2".into()));
    assert_eq!(fake.files(), Vec::<String>::new(), "both are deleted");

    let (train, validation) = (lines(&uploads[0]), lines(&uploads[1]));
    assert!(train.len() > 2 * validation.len() && !validation.is_empty(), "{} {}", train.len(), validation.len());
    for (text, _) in &validation {
        let named = format!("chunk {text} ");
        assert!(!train.iter().any(|(_, line)| line.contains(&named)), "text {text} stands in both files");
    }
    let row = client.query_one("SELECT train_rows, validation_rows, checkpoints FROM fine_tuning_jobs", &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (train.len() as i64, validation.len() as i64));
    let whole: i64 = value(&mut client, "SELECT count(*) FROM dataset_example WHERE split = 'train'");
    assert_eq!(train.len() as i64 + validation.len() as i64, whole, "no example is lost");
    let checkpoints: serde_json::Value = row.get(2);
    assert_eq!((&checkpoints[0]["model"], &checkpoints[0]["step"]), (&"ft:small:org::x:ckpt-step-7".into(), &7.into()));

    let job = submit_to(&mut client, "host", ", validation => 0, seed => 2");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    assert_eq!(of(&mut client, &job, "train_rows"), whole.to_string());
    assert_error!(client, "SELECT fine_tune('listeners', validation => 0.6)", "22023", "0 to 0.5");
    execute(&mut client, "CREATE SERVER cohere FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'cohere', base_url 'http://127.0.0.1:1'); CREATE USER MAPPING FOR PUBLIC SERVER cohere OPTIONS (api_key 'k')");
    let job: String = value(
        &mut client,
        "SELECT fine_tune('listeners', provider => 'cohere', base_model => 'english', validation => 0.1)::text",
    );
    assert_eq!(wait_for_job(&mut client, &job), "failed");
    assert!(of(&mut client, &job, "error_message").contains("takes no validation file"));
}

#[test]
fn texts_of_a_forgotten_user_are_deleted_at_the_provider() {
    let fake = FakeProvider::start();
    let (_db, mut client) = prepared(server(), &fake.url());
    // Ended, but its file could not be deleted.
    fake.next("DELETE /v1/files", Act::Answer(500, vec![], "no".into()), 10_000);
    let ended = submit_to(&mut client, "host", "");
    assert_eq!(wait_for_job(&mut client, &ended), "succeeded");
    until_tidy(&mut client, &ended);
    assert!(history(&mut client, &ended).contains("could not be deleted") && !fake.files().is_empty());
    fake.behave(|manners| manners.polls = None);
    let running = submit_to(&mut client, "host", ", seed => 2");
    until_running(&mut client, &running);
    execute(&mut client, "SELECT pause_worker()");
    let waiting = submit_to(&mut client, "host", ", seed => 3");
    execute(&mut client, "SELECT forget_user('user-1'), resume_worker()");
    for job in [&running, &waiting] {
        assert_eq!(wait_for_job(&mut client, job), "cancelled", "{}", history(&mut client, job));
    }
    let open = |client: &mut Client| {
        value::<i64>(
            client,
            "SELECT count(*) FROM erasure_request WHERE done_at IS NULL AND tries > 0 AND last_error IS NOT NULL",
        )
    };
    wait_until(PATIENCE, "deleting was tried and failed", || open(&mut client) >= 1);
    assert!(!fake.files().is_empty());
    let later = "SELECT bool_and(retry_at > now() + interval '10 min') FROM erasure_request WHERE tries > 0";
    assert!(value::<bool>(&mut client, later), "tried again, but not at once");

    fake.forget_script();
    execute(&mut client, "UPDATE erasure_request SET retry_at = now() WHERE done_at IS NULL");
    wait_until(PATIENCE, "all files are deleted there", || {
        execute(&mut client, "CALL run_due_work()");
        value::<i64>(&mut client, "SELECT count(*) FROM erasure_request WHERE done_at IS NULL") == 0
    });
    assert_eq!(fake.files(), Vec::<String>::new());
    let outcomes: Vec<String> =
        values(&mut client, "SELECT DISTINCT outcome FROM erasure_request WHERE last_error IS NULL");
    assert_eq!(outcomes, ["the provider has no file of this job any more"]);
    assert_eq!(of(&mut client, &ended, "state"), "succeeded", "what has ended stays as it was");
    let again = "SELECT jsonb_array_length(forget_user('user-2') -> 'erasure_requests')";
    assert!(value::<i32>(&mut client, again) >= 2, "the next one asks again");
    wait_until(PATIENCE, "nothing is left to delete, and that is seen", || {
        value::<i64>(&mut client, "SELECT count(*) FROM erasure_request WHERE done_at IS NULL") == 0
    });
}

#[test]
fn what_a_job_would_cost_is_told_before_it_is_submitted() {
    let fake = FakeProvider::start();
    let (_db, mut client) = prepared(server(), &fake.url());
    let told = |client: &mut Client, arguments: &str| {
        let sql =
            format!("SELECT tokens, epochs, counted, usd::float8, note FROM estimate_cost('listeners', {arguments})");
        let row = client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{}", explain(&error)));
        let (tokens, epochs): (Option<i64>, Option<i32>) = (row.get(0), row.get(1));
        (tokens, epochs, row.get::<_, Option<String>>(2), row.get::<_, Option<f64>>(3), row.get::<_, String>(4))
    };
    assert_eq!(told(&mut client, "'builtin'").3, Some(0.0));
    let unknown = told(&mut client, "'host', 'small'");
    assert!(unknown.3.is_none() && unknown.4.contains("no row of provider_price names model \"small\""), "{unknown:?}");
    execute(&mut client, "INSERT INTO provider_price (provider, base_model, usd_per_million_training_tokens, as_of, quoted_from) VALUES ('host', 'gpt-4o-mini', 25, '2026-11-01', 'a contract')");
    let (tokens, epochs, counted, usd, note) = told(&mut client, "'host', 'gpt-4o-mini', 2, 'sft'");
    let exact = tokens.unwrap() as f64 * 2.0 * 25.0 / 1e6;
    assert!((usd.unwrap() - exact).abs() < 1e-4 && epochs == Some(2), "{usd:?} {exact}");
    assert!(counted.unwrap().contains("o200k_base") && note.contains("2026-11-01, quoted from: a contract"));
    assert_eq!(told(&mut client, "'host', 'gpt-4o-mini'").1, Some(3), "the protocol's own number");
    execute(&mut client, "CREATE SERVER together FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'together', base_url 'https://api.together.xyz/v1')");
    let together = told(&mut client, "'together', 'a-llama'");
    assert!(
        together.3.is_none() && together.4.contains("tells its own price") && together.1 == Some(1),
        "{together:?}"
    );
    assert_eq!(fake.seen().len(), 0, "nothing is sent");

    // A job counts the same.
    let job: String = value(&mut client, "SELECT fine_tune('listeners', provider => 'host', base_model => 'gpt-4o-mini', method => 'sft', hyperparameters => '{\"n_epochs\": 2}')::text");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    let of_job: f64 =
        value(&mut client, &format!("SELECT estimated_usd::float8 FROM fine_tuning_job WHERE id = '{job}'"));
    assert!((of_job - exact).abs() < 1e-6, "{of_job} {exact}");
    assert_error!(client, "SELECT estimate_cost('listeners', 'nobody')", "42704", "nobody");
    assert_error!(client, "SELECT estimate_cost('nothing')", "42704", "nothing");
    assert_error!(client, "SELECT estimate_cost('listeners', 'host', 'small', 0)", "22023", "epochs");
    assert_error!(client, "SELECT estimate_cost('listeners', 'host', 'small', method => 'magic')", "22023", "magic");
}

#[test]
fn a_schedule_keeps_to_its_limit_of_money() {
    let fake = FakeProvider::start();
    let (_db, mut client) = prepared(server(), &fake.url());
    execute(&mut client, "INSERT INTO provider_price (provider, base_model, usd_per_million_training_tokens, as_of, quoted_from) VALUES ('host', 'small', 25, '2026-11-01', 'test')");
    let schedule = |limit: &str| {
        format!("SELECT schedule_retraining('yearly', '0 0 1 1 *', provider => 'host', base_model => 'small', method => 'sft', min_new_examples => 0, min_first_examples => 0, max_usd => {limit}), retrain_now('yearly')")
    };
    let ended = |client: &mut Client, runs: i64| {
        wait_until(PATIENCE, "the run has ended", || {
            value::<i64>(client, "SELECT count(*) FROM retraining_run WHERE state <> 'running'") == runs
        });
        let last = "SELECT concat_ws(' ', state, reason) FROM retraining_run ORDER BY due_at DESC LIMIT 1";
        value::<String>(client, last)
    };
    execute(&mut client, &schedule("0.01"));
    let run = ended(&mut client, 1);
    assert!(run.starts_with("failed") && run.contains("max_usd is 0.01"), "{run}");
    assert_eq!(fake.seen().len(), 0, "nothing was sent");
    execute(&mut client, &schedule("1000"));
    let run = ended(&mut client, 2);
    assert!(run.starts_with("ran"), "{run}");
    assert_eq!(fake.jobs().len(), 1);
    assert_error!(client, "SELECT schedule_retraining('x', max_usd => -1)", "22023", "max_usd");
}

#[test]
fn a_key_that_may_not_ask_for_models_may_train() {
    let fake = FakeProvider::start();
    let (_db, mut client) = prepared(server(), &fake.url());
    let no = r#"{"error": {"message": "missing scope: api.model.read", "type": "invalid_request_error"}}"#;
    fake.next("GET /v1/models/", Act::Answer(403, vec![("content-type", "application/json".into())], no.into()), 1);
    let job = submit_to(&mut client, "host", "");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded", "{}", history(&mut client, &job));
    assert_eq!(fake.left_of_script(), 0);
}

#[test]
fn out_of_time_it_is_cancelled_there_and_a_retry_takes_it_up_again() {
    let fake = FakeProvider::start();
    fake.behave(|manners| manners.polls = None);
    let (_db, mut client) = prepared(server(), &fake.url());
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
    let (_db, mut client) = prepared(server(), &fake.url());
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
    let (_db, mut client) = prepared(server(), &fake.url());
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
    let (_db, mut client) = prepared(server(), &fake.url());
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
    let (db, mut client) = prepared(server(), &fake.url());
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
    let (_db, mut client) = prepared(server(), &fake.url());
    execute(&mut client, "SELECT pause_worker()");
    let job = submit_to(&mut client, "host", "");
    execute(&mut client, "UPDATE installation SET worker_paused = false");
    wait_until(PATIENCE, "rounds in this session end the job", || {
        execute(&mut client, "CALL run_due_work()");
        of(&mut client, &job, "state") == "succeeded"
    });
    assert_eq!(fake.jobs().len(), 1);
}
