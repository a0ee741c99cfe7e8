//! Rollouts from the first step to their end, through SQL on a real server. The table of decisions stands in src/core/stats/rollout.rs.

mod common;
use common::*;

/// Experiment e at 2 % whose rollout steps at once when there are users, with the last look long ago.
fn with_rollout(db: &Database, rules: &str) -> Client {
    let mut admin = db.install("pgft");
    execute(
        &mut admin,
        &format!(
            "INSERT INTO model (id, base_model, provider, method) VALUES ('m1', 'base', 'builtin', 'contrastive'), ('m2', 'base', 'outside', 'sft');
             INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
                 VALUES ('m1', 'base', 100, 1000, 42, 'passed', 'better');
             SELECT start_experiment('e', 'm1', coverage => 0.5, seed => 'seed-1', planned_users => 2000);
             SELECT start_rollout('e', steps => '{{0.5,1}}', min_hours => 0, outcome_window => NULL{rules})"
        ),
    );
    admin
}

/// Ten items for users `from` to `to`, saved and skipped as their arm's users do.
fn log_items(client: &mut Client, from: i32, to: i32, saved_base: i32, saved_new: i32) {
    execute(
        client,
        &format!(
            "INSERT INTO model_performance_log
                 (user_id, signal_id, model_variant, model_id, experiment, phase, user_action, relevance_score, actioned_at)
             SELECT u::text, s::text, a.variant, a.model_id, a.experiment, a.phase,
                    CASE WHEN s <= (CASE a.variant WHEN 'base' THEN {saved_base} ELSE {saved_new} END) + u % 3 - 1 THEN 'saved' ELSE 'skipped' END,
                    0.9, now()
             FROM generate_series({from}, {to}) u
             CROSS JOIN LATERAL _assignment(u::text, now()) a
             CROSS JOIN generate_series(1, 10) s
             WHERE a.in_experiment"
        ),
    );
}

/// As if the experiment had begun so many days ago.
fn age(client: &mut Client, days: i32) {
    execute(client, &format!("UPDATE experiment SET started_at = started_at - make_interval(days => {days})"));
}

fn look(client: &mut Client) -> (String, String) {
    let row = client.query_one("SELECT decision, reason FROM evaluate_rollout('e')", &[]);
    let row = row.unwrap_or_else(|error| panic!("{}", explain(&error)));
    (row.get(0), row.get(1))
}

/// Every decision taken again from its stored numbers comes out the same.
fn assert_replays(client: &mut Client) {
    let different =
        "SELECT count(*) FILTER (WHERE same IS NOT TRUE), count(*) FROM rollout_decision d, replay_decision(d.id)";
    let row = client.query_one(different, &[]).unwrap();
    let (different, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(different == 0 && all > 0, "{different} of {all} decisions do not replay");
    println!("replayed: {all} decisions");
}

fn coverage(client: &mut Client) -> f64 {
    value(client, "SELECT coverage FROM rollout_status WHERE experiment = 'e'")
}

#[test]
fn coverage_rises_and_proof_promotes() {
    let db = Server::by_hand().create_database("promote");
    let mut admin = with_rollout(&db, ", auto_promote => true");
    assert_eq!(look(&mut admin).0, "hold");
    log_items(&mut admin, 1, 1000, 3, 5);
    assert_eq!(look(&mut admin), ("continue".into(), "coverage goes from 0.5 to 1".into()));
    assert_eq!(coverage(&mut admin), 1.0);
    log_items(&mut admin, 1001, 1600, 3, 5);
    let (decision, reason) = look(&mut admin);
    assert_eq!((decision.as_str(), reason.as_str()), ("continue", "fewer than 7 days have passed"));
    age(&mut admin, 7);
    assert_eq!(look(&mut admin), ("promote".into(), "save_rate is proved better".into()));
    assert_eq!(value::<String>(&mut admin, "SELECT served_at(NULL)"), "m1");
    let ended = "SELECT status || ' ' || shipped_variant || ' ' || state FROM experiment e JOIN rollout r ON r.experiment = e.name";
    assert_eq!(value::<String>(&mut admin, ended), "stopped fineTuned done");
    let why = "SELECT reason FROM deployment_history WHERE live AND experiment = 'e'";
    assert_eq!(value::<String>(&mut admin, why), "save_rate is proved better");
    assert_replays(&mut admin);
    assert_error!(admin, "SELECT evaluate_rollout('e')", "55000", "is over");
    // What was promoted can be taken back.
    assert_eq!(value::<String>(&mut admin, "SELECT rollback_model()"), "base");
}

#[test]
fn a_broken_guardrail_rolls_back_and_stays_so() {
    let db = Server::by_hand().create_database("rollback");
    let mut admin = with_rollout(&db, "");
    log_items(&mut admin, 1, 1000, 5, 3);
    assert_eq!(look(&mut admin), ("roll_back".into(), "false_suggestion_rate is proved worse than allowed".into()));
    assert_eq!(value::<String>(&mut admin, "SELECT served_at(NULL)"), "base");
    assert_eq!(value::<i64>(&mut admin, "SELECT count(*) FROM deployment"), 0);
    assert_eq!(value::<String>(&mut admin, "SELECT state FROM rollout_status"), "over");
    // Better numbers later change nothing: the worker's round looks away.
    execute(
        &mut admin,
        "UPDATE model_performance_log SET user_action = 'saved'; UPDATE rollout SET next_due_at = now()",
    );
    execute(&mut admin, "SELECT _evaluate_rollouts()");
    assert_eq!(value::<i64>(&mut admin, "SELECT count(*) FROM rollout_decision"), 1);
    assert_replays(&mut admin);
}

#[test]
fn without_leave_to_act_a_verdict_waits_for_a_person() {
    let db = Server::by_hand().create_database("verdict");
    let mut admin = with_rollout(&db, "");
    execute(&mut admin, "SELECT set_coverage('e', 1)");
    log_items(&mut admin, 1, 1000, 3, 5);
    age(&mut admin, 8);
    assert_eq!(look(&mut admin).0, "promote");
    let status = "SELECT state || ' ' || decision || ' ' || acted FROM rollout_status";
    assert_eq!(value::<String>(&mut admin, status), "decided promote false");
    assert_eq!(value::<String>(&mut admin, "SELECT served_at(NULL) || ' ' || status FROM experiment"), "base running");
    assert_error!(admin, "SELECT evaluate_rollout('e')", "55000", "decided", "stop_experiment");
    execute(&mut admin, "UPDATE rollout SET next_due_at = now(); SELECT _evaluate_rollouts()");
    assert_eq!(value::<i64>(&mut admin, "SELECT count(*) FROM rollout_decision"), 1);
    execute(&mut admin, "SELECT stop_experiment('e', ship => 'fineTuned')");
    assert_eq!(value::<String>(&mut admin, "SELECT served_at(NULL)"), "m1");
}

#[test]
fn alarms_hold_and_a_person_is_not_overruled() {
    let db = Server::by_hand().create_database("hold");
    let mut admin = with_rollout(&db, ", auto_promote => true");
    execute(&mut admin, "SELECT set_coverage('e', 1)");
    log_items(&mut admin, 1, 1500, 5, 3); // bad enough to roll back
    execute(&mut admin, "DELETE FROM model_performance_log WHERE model_variant = 'base' AND user_id::int % 3 = 0");
    assert_eq!(look(&mut admin), ("hold".into(), "health alarms: split".into()));
    execute(&mut admin, "DELETE FROM model_performance_log");
    log_items(&mut admin, 1, 1000, 3, 5);
    age(&mut admin, 8);
    execute(&mut admin, "SELECT deploy_model('m2', 'by hand')");
    let (decision, reason) = look(&mut admin);
    assert_eq!(decision, "hold");
    assert!(reason.contains("a person has to choose"), "{reason}");
    assert_eq!(value::<String>(&mut admin, "SELECT served_at(NULL)"), "m2");
    assert_replays(&mut admin);
}

#[test]
fn without_proof_base_stays() {
    let db = Server::by_hand().create_database("inconclusive");
    let mut admin = with_rollout(&db, ", auto_promote => true");
    execute(&mut admin, "SELECT set_coverage('e', 1)");
    log_items(&mut admin, 1, 1900, 4, 4);
    age(&mut admin, 8);
    assert_eq!(look(&mut admin).0, "continue");
    log_items(&mut admin, 1901, 2000, 4, 4);
    let (decision, reason) = look(&mut admin);
    assert_eq!(decision, "inconclusive");
    assert!(reason.contains("planned_users are reached"), "{reason}");
    let ended = "SELECT served_at(NULL) || ' ' || status || coalesce(shipped_variant, ' nothing') FROM experiment";
    assert_eq!(value::<String>(&mut admin, ended), "base stopped nothing");
    assert_replays(&mut admin);
}

#[test]
fn the_worker_looks_when_it_is_time_and_only_one_evaluator_acts() {
    let db = Server::by_hand().create_database("tick");
    let mut admin = with_rollout(&db, "");
    log_items(&mut admin, 1, 1000, 3, 4);
    let due = "SELECT next_look_at = _next_rollout_look() AND next_look_at = _next_due_at() FROM rollout_status";
    let count = "SELECT count(*) FROM rollout_decision";
    let before: i64 = value(&mut admin, count);
    execute(&mut admin, "UPDATE rollout SET next_due_at = now() - interval '1 minute'");
    let mut other = db.connect();
    execute(&mut other, "SET search_path = pgft, public; BEGIN; SELECT pg_advisory_xact_lock(_rollout_lock('e'))");
    execute(&mut admin, "SELECT _evaluate_rollouts()");
    assert_eq!(value::<i64>(&mut admin, count), before, "another evaluator holds the lock");
    execute(&mut other, "COMMIT");
    execute(&mut admin, "CALL run_due_work()");
    let after: i64 = value(&mut admin, count);
    assert!(after > before);
    assert!(value::<bool>(&mut admin, due));
    execute(&mut admin, "CALL run_due_work()");
    assert_eq!(value::<i64>(&mut admin, count), after, "not due again yet");
    // Paused: nothing is looked at; and nothing that cannot be judged is acted on.
    execute(&mut admin, "SELECT pause_rollout('e'); UPDATE rollout SET next_due_at = now() - interval '1 minute'");
    execute(&mut admin, "CALL run_due_work()");
    assert_eq!(value::<i64>(&mut admin, count), after);
    assert_error!(admin, "SELECT evaluate_rollout('e')", "55000", "paused", "resume_rollout");
    execute(&mut admin, "SELECT resume_rollout('e')");
    assert_error!(admin, "SELECT resume_rollout('e')", "55000", "running");
}

#[test]
fn rules_that_make_no_rollout_are_refused() {
    let db = Server::by_hand().create_database("rules");
    let mut admin = with_rollout(&db, "");
    assert_error!(admin, "SELECT start_rollout('e')", "42710", "already has a rollout");
    assert_error!(admin, "SELECT start_rollout('nope')", "42704", "nope");
    assert_error!(admin, "SELECT evaluate_rollout('nope')", "42704", "nope");
    for steps in ["{}", "{0.5,0.1}", "{0,1}", "{0.5,1.5}", "{NULL}"] {
        assert_error!(admin, &format!("SELECT start_rollout('e', steps => '{steps}')"), "22023", "rising coverages");
    }
    assert_error!(admin, "SELECT start_rollout('e', goal => 'joy')", "22023", "joy");
    assert_error!(admin, "SELECT start_rollout('e', guardrails => '{\"joy\": 0}')", "22023", "joy");
    assert_error!(admin, "SELECT start_rollout('e', check_every => '1 second')", "22023", "a pace");
    assert_error!(admin, "SELECT replay_decision(77)", "42704", "no decision 77");
    execute(&mut admin, "SELECT stop_experiment('e')");
    assert_error!(
        admin,
        "SELECT * FROM replay_decision((SELECT max(id) FROM rollout_decision))",
        "22023",
        "hold no numbers"
    );
    execute(&mut admin, "SELECT start_experiment('f', 'm1')");
    assert_error!(admin, "SELECT evaluate_rollout('f')", "42704", "has no rollout", "start_rollout");
}
