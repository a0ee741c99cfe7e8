//! Schedules and the runs that they leave behind.

mod common;

use common::*;
use std::time::Duration;

/// A tick by hand, and the work that follows from it.
fn tick(client: &mut Client, schedule: &str) {
    client
        .batch_execute(&format!(
            "UPDATE retraining_schedule SET next_due_at = clock_timestamp() WHERE name = '{schedule}'"
        ))
        .unwrap();
    client.batch_execute("CALL run_due_work()").unwrap();
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

/// Ten items for users `from` to `to` of the running experiment, saved as their arm's users do.
fn log_items(client: &mut Client, from: i32, to: i32, saved_base: i32, saved_new: i32) {
    execute(
        client,
        &format!(
            "INSERT INTO model_performance_log
                 (user_id, signal_id, model_variant, model_id, experiment, phase, user_action, relevance_score, actioned_at)
             SELECT 'visitor-' || u, s::text, a.variant, a.model_id, a.experiment, a.phase,
                    CASE WHEN s <= (CASE a.variant WHEN 'base' THEN {saved_base} ELSE {saved_new} END) + u % 3 - 1 THEN 'saved' ELSE 'skipped' END,
                    0.9, now()
             FROM generate_series({from}, {to}) u CROSS JOIN LATERAL _assignment('visitor-' || u, now()) a CROSS JOIN generate_series(1, 10) s
             WHERE a.in_experiment"
        ),
    );
}

/// One look of the rollout, by the worker's round.
fn look(client: &mut Client) {
    execute(client, "UPDATE rollout SET next_due_at = clock_timestamp()");
    execute(client, "CALL run_due_work()");
}

const SCHEDULE: &str = "SELECT schedule_retraining('yearly', '0 0 1 1 *', planned_users => 2000, rollout =>
    '{\"auto_promote\": true, \"steps\": [0.5, 1], \"min_hours\": 0, \"min_days\": 0, \"outcome_window\": null}')";

/// Up to the experiment of a model that passed the gate.
fn rolling_out(db: &Database) -> Client {
    let mut client = db.install("pgft");
    application(&mut client, 200);
    execute(&mut client, SCHEDULE);
    execute(&mut client, "UPDATE retraining_schedule SET next_due_at = clock_timestamp()");
    wait_until(Duration::from_secs(60), "the model is in its experiment", || {
        execute(&mut client, "CALL run_due_work()");
        value::<i64>(&mut client, "SELECT count(*) FROM rollout") == 1
    });
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("running", "rollout"), "{reason}");
    client
}

#[test]
fn from_tick_to_promotion_without_a_person() {
    let db = Server::by_hand().create_database("promoted");
    let mut client = rolling_out(&db);
    let begun = "SELECT p.coverage || ' of ' || e.planned_users FROM experiment e JOIN experiment_phase p ON p.experiment = e.name";
    assert_eq!(value::<String>(&mut client, begun), "0.5 of 2000");
    // A tick in the meantime waits for this run.
    execute(&mut client, "UPDATE retraining_schedule SET next_due_at = clock_timestamp()");
    execute(&mut client, "CALL run_due_work()");
    let (state, _, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), reason.as_str()), ("skipped", "the run before it was still under way"));
    log_items(&mut client, 1, 1000, 3, 5);
    look(&mut client);
    let shown = "SELECT reason FROM retraining_run WHERE state = 'running'";
    assert_eq!(value::<String>(&mut client, shown), "continue: coverage goes from 0.5 to 1");
    log_items(&mut client, 1001, 1600, 3, 5);
    look(&mut client);
    let ended = "SELECT concat_ws(' | ', r.state, r.stage, r.reason = format('model %s serves everybody: save_rate is proved better', r.model_id), r.model_id = served_at(NULL))
        FROM retraining_run r WHERE r.experiment IS NOT NULL";
    assert_eq!(value::<String>(&mut client, ended), "ran | promoted | t | t");
    // Every step is a row, and each decision can be taken again.
    let steps = "SELECT string_agg(decision, ' ' ORDER BY id) || ' ' || bool_and(d.acted AND (replay_decision(d.id)).same) FROM rollout_decision d WHERE decision <> 'hold'";
    assert_eq!(value::<String>(&mut client, steps), "continue promote true");
    let complete = "SELECT count(*) FROM retraining_run r JOIN dataset d ON d.id = r.dataset_id JOIN fine_tuning_job j ON j.id = r.job_id
        JOIN model_evaluation v ON v.model_id = r.model_id AND v.verdict = 'passed' JOIN experiment e ON e.name = r.experiment AND e.shipped_variant = 'fineTuned'
        JOIN deployment p ON p.experiment = r.experiment AND p.model_id = r.model_id";
    assert_eq!(value::<i64>(&mut client, complete), 1, "every step can be followed");
}

#[test]
fn a_candidate_that_is_worse_is_taken_back_without_a_person() {
    let db = Server::by_hand().create_database("kept");
    let mut client = rolling_out(&db);
    log_items(&mut client, 1, 1000, 5, 3);
    look(&mut client);
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "kept"), "{reason}");
    assert!(reason.starts_with("kept what serves: false_suggestion_rate is proved worse"), "{reason}");
    assert_eq!(value::<String>(&mut client, "SELECT served_at(NULL)"), "base");
}

#[test]
fn a_person_may_end_what_a_schedule_began() {
    let db = Server::by_hand().create_database("byhand");
    let mut client = rolling_out(&db);
    execute(&mut client, "SELECT unschedule_retraining('yearly'); SELECT stop_experiment(name, 'fineTuned', 'seen enough') FROM experiment");
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "promoted"));
    assert!(reason.ends_with("serves everybody: seen enough"), "{reason}");
}

#[test]
fn the_next_model_has_to_beat_the_live_one() {
    let db = Server::by_hand().create_database("live");
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
    let db = Server::by_hand().create_database("reasons");
    let mut client = db.install("pgft");
    application(&mut client, 20);
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
    let db = Server::by_hand().create_database("damaged");
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
    let db = Server::by_hand().create_database("missed");
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
fn vectors_of_a_provider_reach_users_only_once_they_are_there() {
    let db = Server::by_hand().create_database("vectors");
    let mut client = db.install("pgft");
    application(&mut client, 20);
    execute(
        &mut client,
        "SELECT create_dataset('listeners');
         INSERT INTO fine_tuning_job (id, dataset_id, provider, base_model, method, seed, state, owner, model_id, deadline_at)
         SELECT 'aaaaaaaa-0000-0000-0000-000000000001', id, 'host', 'mini', 'contrastive', 1, 'succeeded', current_user, 'm', now() FROM dataset;
         INSERT INTO model (id, base_model, provider, method, provider_model) VALUES ('m', 'mini', 'host', 'contrastive', 'ft:mini');
         INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason) VALUES ('m', 'base', 30, 300, 1, 'passed', 'better');
         INSERT INTO retraining_run (schedule, due_at, state, stage, job_id) VALUES ('weekly', now(), 'running', 'training', 'aaaaaaaa-0000-0000-0000-000000000001')",
    );
    execute(&mut client, "CALL run_due_work()");
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "gate"), "{reason}");
    assert!(reason.contains("CALL reembed(..., 'm'), then start_experiment(..., 'm')"), "{reason}");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM experiment"), 0);
}

#[test]
fn refusals() {
    let db = Server::by_hand().create_database("cron");
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
    for (rollout, part) in [
        ("[]", "a JSON object"),
        ("{\"nope\": 1}", "'nope'"),
        ("{\"goal\": \"joy\"}", "joy"),
        ("{\"steps\": [1, 0.5]}", "rising coverages"),
        ("{\"steps\": \"all\"}", "cannot be read"),
        ("{\"alpha\": 5}", "out of range"),
        ("{\"inference\": \"tarot\"}", "tarot"),
        ("{\"guardrails\": {\"joy\": 0}}", "joy"),
    ] {
        assert_error!(client, &format!("SELECT schedule_retraining('weekly', rollout => '{rollout}')"), "22023", part);
    }
    assert_error!(client, "SELECT schedule_retraining('weekly', planned_users => 0)", "22023", "planned_users");
    assert_error!(client, "SELECT schedule_retraining('')", "22004", "name");
    assert_error!(client, "SELECT unschedule_retraining('nope')", "42704", "nope");
    assert_error!(client, "SELECT retrain_now('nope')", "42704", "nope");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM retraining_schedule"), 0, "nothing half done");
}
