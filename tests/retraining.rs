//! Schedules and the runs that they leave behind.

mod common;

use common::*;
use std::time::Duration;

fn last_run(client: &mut Client) -> (String, String, String) {
    let row = client
        .query_one("SELECT state, stage, COALESCE(reason, '') FROM retraining_run ORDER BY due_at DESC LIMIT 1", &[])
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// A tick by hand, and the work that follows from it.
fn tick(client: &mut Client, schedule: &str) {
    client
        .batch_execute(&format!(
            "UPDATE retraining_schedule SET next_due_at = clock_timestamp() WHERE name = '{schedule}'"
        ))
        .unwrap();
    client.batch_execute("CALL run_due_work()").unwrap();
    // A worker may have been quicker to take the job than this session.
    wait_until(Duration::from_secs(60), "the run has ended", || {
        value::<i64>(client, "SELECT count(*) FROM retraining_run WHERE state = 'running'") == 0
    });
}

#[test]
fn from_tick_to_experiment() {
    let server = Server::private(&[("shared_preload_libraries", "pg_finetune")]);
    let db = server.create_database("weekly");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    client
        .batch_execute(
            "SELECT schedule_retraining('weekly', '0 0 * * 0', coverage => 0.5); SELECT retrain_now('weekly')",
        )
        .unwrap();
    wait_until(Duration::from_secs(60), "the run has ended", || {
        client.query("SELECT 1 FROM retraining_run WHERE state <> 'running'", &[]).unwrap().len() == 1
    });
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "experiment"), "{reason}");
    let coverage: f64 = value(
        &mut client,
        "SELECT p.coverage FROM experiment_phase p JOIN retraining_run r ON r.experiment = p.experiment",
    );
    assert_eq!(coverage, 0.5);
    let complete = "SELECT count(*) FROM retraining_run r JOIN dataset d ON d.id = r.dataset_id JOIN fine_tuning_job j ON j.id = r.job_id
                    JOIN model m ON m.id = r.model_id JOIN experiment e ON e.name = r.experiment";
    assert_eq!(value::<i64>(&mut client, complete), 1, "every step can be followed");

    client.batch_execute("SELECT retrain_now('weekly')").unwrap();
    wait_until(Duration::from_secs(60), "the second run has ended", || {
        client.query("SELECT 1 FROM retraining_run WHERE state <> 'running'", &[]).unwrap().len() == 2
    });
    let (state, _, reason) = last_run(&mut client);
    assert_eq!(state, "skipped");
    assert!(reason.starts_with("0 new examples, 100 wanted"), "{reason}");
}

#[test]
fn the_next_model_has_to_beat_the_live_one() {
    let db = Server::shared().create_database("live");
    let mut client = db.install("pgft");
    application(&mut client, 200);
    client.batch_execute("SELECT schedule_retraining('yearly', '0 0 1 1 *')").unwrap();
    tick(&mut client, "yearly");
    let first: String = value(&mut client, "SELECT model_id FROM retraining_run");
    client.batch_execute("SELECT stop_experiment(experiment, ship => 'fineTuned') FROM retraining_run").unwrap();
    let shown = "INSERT INTO signal (user_id, chunk_id) SELECT 'user-' || u, u FROM generate_series(1, 200) u";
    client.batch_execute(shown).unwrap();
    act(&mut client);
    tick(&mut client, "yearly");
    let second: String = value(&mut client, "SELECT model_id FROM retraining_run ORDER BY due_at DESC LIMIT 1");
    let against: Vec<String> = values(
        &mut client,
        &format!("SELECT against FROM model_evaluation WHERE model_id = '{second}' ORDER BY against = 'base'"),
    );
    assert_eq!(against, [first, "base".to_string()]);
    let (state, _, reason) = last_run(&mut client);
    assert_eq!(state, "ran", "{reason}");
}

#[test]
fn reasons_for_not_running() {
    let db = Server::shared().create_database("reasons");
    let mut client = db.install("pgft");
    application(&mut client, 20);
    // Far from due, so that only this session works on it.
    client.batch_execute("SELECT schedule_retraining('yearly', '0 0 1 1 *')").unwrap();
    tick(&mut client, "yearly");
    let (state, _, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), reason.as_str()), ("skipped", "800 new examples, 1000 wanted for the first run"));

    client.batch_execute("UPDATE training_data_point SET user_action = 'saved' WHERE user_action = 'skipped'").unwrap();
    client.batch_execute("SELECT schedule_retraining('yearly', '0 0 1 1 *', min_first_examples => 10)").unwrap();
    tick(&mut client, "yearly");
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("skipped", "dataset"), "{reason}");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM dataset"), 0, "nothing half done");
}

#[test]
fn a_damaged_schedule_does_not_stop_the_others() {
    let db = Server::shared().create_database("damaged");
    let mut client = db.install("pgft");
    client
        .batch_execute("SELECT schedule_retraining('bad', '0 0 1 1 *'), schedule_retraining('good', '0 0 1 1 *')")
        .unwrap();
    client.batch_execute("UPDATE retraining_schedule SET cron = 'nonsense' WHERE name = 'bad'").unwrap();
    client.batch_execute("UPDATE retraining_schedule SET next_due_at = clock_timestamp()").unwrap();
    client.batch_execute("CALL run_due_work()").unwrap();
    let runs: Vec<String> = values(&mut client, "SELECT schedule || ' ' || state FROM retraining_run ORDER BY 1");
    assert_eq!(runs, ["bad failed", "good skipped"]);
    let reason: String = value(&mut client, "SELECT reason FROM retraining_run WHERE schedule = 'bad'");
    assert!(reason.contains("nonsense") && reason.contains("switched off"), "{reason}");
    assert!(!value::<bool>(&mut client, "SELECT enabled FROM retraining_schedule WHERE name = 'bad'"));
}

#[test]
fn missed_ticks_are_written_down_and_caught_up_once() {
    let db = Server::shared().create_database("missed");
    let mut client = db.install("pgft");
    client.batch_execute("SELECT schedule_retraining('hourly', '0 * * * *')").unwrap();
    let past = "UPDATE retraining_schedule SET next_due_at = date_trunc('hour', now()) - interval '3 hours'";
    client.batch_execute(past).unwrap();
    client.batch_execute("CALL run_due_work()").unwrap();
    let states: Vec<String> = values(&mut client, "SELECT state FROM retraining_run ORDER BY due_at");
    assert_eq!(states, ["missed", "missed", "missed", "skipped"]);
    assert!(value::<bool>(&mut client, "SELECT next_due_at > now() FROM retraining_schedule"));
    client.batch_execute("CALL run_due_work()").unwrap();
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM retraining_run"), 4, "no tick runs twice");
}

#[test]
fn refusals() {
    let db = Server::shared().create_database("cron");
    let mut client = db.install("pgft");
    for wrong in ["whenever", "61 * * * *", "* * * *", "* * * * * *", ""] {
        assert_error!(
            client,
            &format!("SELECT schedule_retraining('weekly', '{wrong}')"),
            "22023",
            "cron",
            "Five fields"
        );
    }
    assert_error!(client, "SELECT schedule_retraining('weekly', '0 0 31 2 *')", "22023", "never");
    assert_error!(client, "SELECT schedule_retraining('weekly', time_zone => 'Mars/Olympus')", "22023", "Mars/Olympus");
    assert_error!(client, "SELECT schedule_retraining('weekly', provider => 'nope')", "42704", "nope");
    assert_error!(client, "SELECT schedule_retraining('weekly', coverage => 0)", "22023", "coverage");
    assert_error!(client, "SELECT schedule_retraining('')", "22004", "name");
    assert_error!(client, "SELECT unschedule_retraining('nope')", "42704", "nope");
    assert_error!(client, "SELECT retrain_now('nope')", "42704", "nope");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM retraining_schedule"), 0, "nothing half done");
}
