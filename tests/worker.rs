//! Jobs and the worker: the ordinary way, control, and death at every step.

mod common;

use common::*;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn preloaded() -> Server {
    // What a job's row promises holds from its commit on, so commits must be durable.
    Server::private(&[("shared_preload_libraries", "pg_finetune"), ("synchronous_commit", "on")])
}

fn digest(client: &mut Client, job: &str) -> Vec<u8> {
    value(client, &format!("SELECT a.digest FROM adapter a JOIN model m ON m.id = a.model_id WHERE m.job_id = '{job}'"))
}

fn state(client: &mut Client, job: &str) -> String {
    value(client, &format!("SELECT state FROM fine_tuning_jobs WHERE id = '{job}'"))
}

#[test]
fn trains_without_preload_and_leaves_no_connection() {
    let server = Server::private(&[]);
    let db = server.create_database("plain");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    let job = submit(&mut client, "listeners");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");

    let row = client
        .query_one(
            "SELECT progress, loss, validation_auc, verdict, model_id, outcome, attempt FROM fine_tuning_jobs",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, f64>(0), row.get::<_, i32>(6)), (1.0, 1));
    assert!(row.get::<_, f64>(1) > 0.0 && row.get::<_, f64>(2) > 0.5);
    assert_eq!(row.get::<_, String>(3), "passed", "{}", row.get::<_, String>(5));
    assert_eq!(row.get::<_, String>(4), format!("listeners-1-{}", &job[..8]));
    assert!(value::<i64>(&mut client, "SELECT count(*) FROM fine_tuning_event WHERE data ? 'loss'") > 0);

    let ours = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_finetune%'";
    wait_until(PATIENCE, "all our processes left the database", || value::<i64>(&mut client, ours) == 0);
    let status = client
        .query_one("SELECT state, launcher_pid IS NOT NULL, preloaded, open_jobs FROM worker_status()", &[])
        .unwrap();
    assert_eq!((status.get::<_, String>(0).as_str(), status.get::<_, bool>(1)), ("idle", true));
    assert_eq!((status.get::<_, bool>(2), status.get::<_, i64>(3)), (false, 0));
}

#[test]
fn run_due_work_trains_in_the_callers_session() {
    let server = Server::private(&[("pg_finetune.max_trainers", "0"), ("shared_preload_libraries", "pg_finetune")]);
    let db = server.create_database("by_hand");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    let job = submit(&mut client, "listeners");
    let hint: Option<String> = value(&mut client, "SELECT hint FROM worker_status()");
    assert!(hint.unwrap_or_default().contains("run_due_work"), "says how the job can run");
    assert_eq!(state(&mut client, &job), "pending");
    client.batch_execute("CALL run_due_work()").unwrap();
    assert_eq!(state(&mut client, &job), "succeeded");

    let error = assert_error!(client, "BEGIN; CALL run_due_work()", "2D000", "transaction block");
    assert!(error.message.contains("run_due_work"));
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn death_at_every_step_ends_in_the_same_model() {
    let server = preloaded();
    let db = server.create_database("deaths");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    let reference = submit(&mut client, "listeners");
    assert_eq!(wait_for_job(&mut client, &reference), "succeeded");
    let expected = digest(&mut client, &reference);

    for step in ["due", "claimed", "dataset read", "training", "trained", "saved"] {
        failpoint(&mut client, step);
        client.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).unwrap();
        let job: String = value(&mut client, "SELECT fine_tune('listeners')::text");
        wait_until(PATIENCE, &format!("a worker stands at \"{step}\""), || frozen(&mut client).is_some());
        server.kill(frozen(&mut client).unwrap());
        server.wait_until_up();

        client = db.connect();
        client.batch_execute("SET search_path = pgft, public").unwrap();
        failpoint(&mut client, "");
        assert_eq!(wait_for_job(&mut client, &job), "succeeded", "killed at \"{step}\"");
        assert_eq!(digest(&mut client, &job), expected, "killed at \"{step}\"");
        let models: i64 = value(&mut client, &format!("SELECT count(*) FROM model WHERE job_id = '{job}'"));
        assert_eq!(models, 1, "killed at \"{step}\"");
    }
}

#[test]
fn a_terminated_trainer_is_followed_by_another() {
    let server = preloaded();
    let db = server.create_database("terminated");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    failpoint(&mut client, "training");
    client.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).unwrap();
    let job = submit(&mut client, "listeners");
    wait_until(PATIENCE, "the trainer stands", || frozen(&mut client).is_some());
    let first = frozen(&mut client).unwrap();
    failpoint(&mut client, "");
    client.batch_execute(&format!("SELECT pg_terminate_backend({first}), pg_advisory_unlock({LOCK})")).unwrap();
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    assert_eq!(value::<i32>(&mut client, &format!("SELECT attempt FROM fine_tuning_jobs WHERE id = '{job}'")), 2);
}

#[test]
fn the_launcher_comes_back_when_it_is_ended() {
    let server = preloaded();
    let db = server.create_database("launcher");
    let mut client = db.install("pgft");
    let pid = "SELECT COALESCE(launcher_pid, 0) FROM worker_status()";
    wait_until(PATIENCE, "the launcher runs", || value::<i32>(&mut client, pid) > 0);
    let first: i32 = value(&mut client, pid);
    run(std::process::Command::new("kill").args(["-TERM", &first.to_string()]));
    wait_until(PATIENCE, "another launcher runs", || ![0, first].contains(&value::<i32>(&mut client, pid)));
    application(&mut client, 200);
    let job = submit(&mut client, "listeners");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
}

#[test]
fn a_holder_that_lost_its_lease_writes_nothing() {
    let server = preloaded();
    let db = server.create_database("fenced");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    failpoint(&mut client, "trained");
    client.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).unwrap();
    let job = submit(&mut client, "listeners");
    wait_until(PATIENCE, "the trainer stands", || frozen(&mut client).is_some());
    // What another process does when the lease has run out.
    client
        .batch_execute(&format!("UPDATE fine_tuning_job SET lease_expires_at = '-infinity' WHERE id = '{job}'"))
        .unwrap();
    let token: i64 = value(&mut client, &format!("SELECT token FROM _claim_job('{job}')"));
    client.batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})")).unwrap();
    wait_until(PATIENCE, "the first trainer gave up", || {
        value::<i64>(&mut client, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_finetune trainer'")
            == 0
    });
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM model WHERE id <> 'base'"), 0);
    assert_eq!(value::<i64>(&mut client, &format!("SELECT token FROM fine_tuning_job WHERE id = '{job}'")), token);
}

#[test]
fn cancel_before_and_while_training() {
    let server = preloaded();
    let db = server.create_database("cancelled");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    client.batch_execute("SELECT pause_worker()").unwrap();
    let waiting = submit(&mut client, "listeners");
    assert_eq!(value::<String>(&mut client, &format!("SELECT cancel_job('{waiting}')")), "cancelled");
    assert_eq!(value::<String>(&mut client, &format!("SELECT cancel_job('{waiting}')")), "cancelled", "twice is once");
    client.batch_execute("SELECT resume_worker()").unwrap();

    failpoint(&mut client, "training");
    client.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).unwrap();
    let job: String = value(&mut client, "SELECT fine_tune('listeners')::text");
    wait_until(PATIENCE, "the trainer stands", || frozen(&mut client).is_some());
    client.batch_execute(&format!("SELECT cancel_job('{job}'), pg_advisory_unlock({LOCK})")).unwrap();
    assert_eq!(wait_for_job(&mut client, &job), "cancelled");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM model WHERE id <> 'base'"), 0);

    failpoint(&mut client, "");
    client.batch_execute(&format!("SELECT retry_job('{job}')")).unwrap();
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    assert_error!(client, &format!("SELECT retry_job('{job}')"), "55000", "succeeded");
}

#[test]
fn the_same_job_twice_is_one_job() {
    let db = Server::shared().create_database("twice");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    client.batch_execute("SELECT pause_worker()").unwrap();
    let first = submit(&mut client, "listeners");
    assert_eq!(value::<String>(&mut client, "SELECT fine_tune('listeners')::text"), first);
    let other: String = value(&mut client, "SELECT fine_tune('listeners', seed => 43)::text");
    assert_ne!(other, first);
}

#[test]
fn a_copy_of_the_database_stays_silent_until_adopted() {
    let server = preloaded();
    let db = server.create_database("original");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    client.batch_execute("SELECT pause_worker()").unwrap();
    let job = submit(&mut client, "listeners");
    drop(client);

    let copy = server.create_database_with("copy", &format!("TEMPLATE {}", quoted(&db.name)));
    let mut client = copy.connect();
    // Only the original stays paused, or it would do the job before it is copied.
    client.batch_execute("SET search_path = pgft, public; UPDATE installation SET worker_paused = false").unwrap();
    assert!(value::<String>(&mut client, "SELECT state FROM worker_status()").contains("not been adopted"));
    assert_error!(client, "CALL run_due_work()", "55000", "adopted");
    assert_eq!(state(&mut client, &job), "pending");
    client.batch_execute("SELECT adopt_database()").unwrap();
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
}

#[test]
fn databases_can_be_dropped_and_copied_and_the_server_stopped() {
    let server = preloaded();
    let db = server.create_database("guest");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    let job = submit(&mut client, "listeners");
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    client.batch_execute("DROP EXTENSION pg_finetune CASCADE").unwrap();
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM signal"), 8_000, "the application's data stays");
    client.batch_execute("INSERT INTO signal (user_id, chunk_id) VALUES ('user-1', 1)").unwrap();
    drop(client);
    let mut client = server.connect("postgres");
    client.batch_execute("SET statement_timeout = '20 s'").unwrap();
    client.batch_execute(&format!("CREATE DATABASE second TEMPLATE {}", quoted(&db.name))).unwrap();
    client.batch_execute("DROP DATABASE second").unwrap();
    drop(client);
    server.restart();
    let mut client = server.connect("postgres");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pg_database WHERE datname = 'second'"), 0);
}

#[test]
fn refusals() {
    let db = Server::shared().create_database("refusals");
    let mut client = db.install("pgft");
    application(&mut client, 60);
    client.batch_execute("SELECT pause_worker(); SELECT create_dataset('listeners')").unwrap();
    let nobody = "00000000-0000-0000-0000-000000000000";
    assert_error!(client, "SELECT fine_tune('nope')", "42704", "nope", "listeners");
    assert_error!(client, "SELECT fine_tune('listeners', provider => 'nope')", "42704", "nope", "builtin");
    assert_error!(client, "SELECT fine_tune('listeners', base_model => 'nope')", "42704", "nope");
    assert_error!(client, "SELECT fine_tune('listeners', method => 'dpo')", "22023", "contrastive");
    assert_error!(client, "SELECT fine_tune('listeners', hyperparameters => '{\"epoch\": 3}')", "22023", "epoch");
    assert_error!(client, "SELECT fine_tune('listeners', hyperparameters => '{\"epochs\": -1}')", "22023", "epochs");
    assert_error!(client, "SELECT fine_tune('listeners', hyperparameters => '[]')", "22023", "object");
    assert_error!(client, "SELECT fine_tune('listeners', hyperparameters => NULL)", "22004", "hyperparameters");
    assert_error!(client, "SELECT fine_tune('listeners', timeout => '-1 s')", "22023", "timeout");
    assert_error!(client, &format!("SELECT cancel_job('{nobody}')"), "42704", nobody);
    assert_error!(client, &format!("SELECT retry_job('{nobody}')"), "42704", nobody);
    assert_error!(client, &format!("CALL wait_for_job('{nobody}')"), "42704", nobody);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM fine_tuning_job"), 0, "nothing half done");
}
