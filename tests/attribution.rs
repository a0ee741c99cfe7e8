//! What an experiment counts: which action belongs to which impression, and by which unit.

mod common;
use common::*;

use serde_json::Value;

fn with_models(db: &Database) -> Client {
    let mut admin = db.install("pgft");
    execute(
        &mut admin,
        "INSERT INTO model (id, base_model, provider, method) VALUES ('m1', 'base', 'builtin', 'contrastive');
         INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
             VALUES ('m1', 'base', 100, 1000, 42, 'passed', 'better')",
    );
    admin
}

/// An experiment that began 40 days ago.
fn begun(client: &mut Client, arguments: &str) {
    execute(
        client,
        &format!(
            "SELECT start_experiment('e', 'm1', seed => 'seed-1', planned_users => 1000{arguments});
             UPDATE experiment SET started_at = now() - interval '40 days'; UPDATE experiment_phase SET valid_from = now() - interval '40 days'"
        ),
    );
}

/// An item of every one of 400 users, shown `shown` ago and saved `after` that.
fn saved(client: &mut Client, item: &str, shown: &str, after: &str) {
    execute(
        client,
        &format!(
            "INSERT INTO model_performance_log (user_id, signal_id, model_variant, model_id, experiment, phase, user_action, relevance_score, shown_at, actioned_at)
             SELECT u::text, '{item}', a.variant, a.model_id, a.experiment, a.phase, 'saved', 0.9, t.shown, t.shown + interval '{after}'
             FROM generate_series(1, 400) u CROSS JOIN (SELECT now() - interval '{shown}') t (shown)
             CROSS JOIN LATERAL _assignment(u::text, t.shown) a"
        ),
    );
}

fn health(client: &mut Client) -> (String, Value) {
    let row = client.query_one("SELECT verdict, detail FROM experiment_health('e') WHERE check_name = 'outcomes'", &[]);
    let row = row.unwrap_or_else(|error| panic!("{}", explain(&error)));
    (row.get(0), row.get(1))
}

/// The save rate and how many items it is of, as every function that shows it says.
fn save_rate(client: &mut Client) -> (f64, i64) {
    let sql = "SELECT base_estimate, base_events + fine_tuned_events FROM experiment_results('e') WHERE metric = 'save_rate' LIMIT 1";
    let row = client.query_one(sql, &[]).unwrap();
    let (rate, items): (f64, i64) = (row.get(0), row.get(1));
    let daily = "SELECT base_estimate FROM experiment_effect_daily('e') ORDER BY day DESC LIMIT 1";
    assert_eq!(value::<f64>(client, daily), rate);
    (rate, items)
}

#[test]
fn an_action_counts_for_seven_days_after_its_impression() {
    let db = Server::shared().create_database("window");
    let mut admin = with_models(&db);
    begun(&mut admin, "");
    saved(&mut admin, "in time", "20 days", "6 days 23 hours");
    assert_eq!(save_rate(&mut admin), (1.0, 400));
    saved(&mut admin, "late", "20 days", "7 days 1 hour");
    assert_eq!(save_rate(&mut admin), (0.5, 800));
    saved(&mut admin, "seen before", "20 days", "-1 hour");
    saved(&mut admin, "young", "1 day", "1 hour");
    assert_eq!(save_rate(&mut admin), (0.5, 1600));
    let (verdict, detail) = health(&mut admin);
    assert_eq!(verdict, "alarm", "half of the actions count as none");
    assert_eq!(
        detail,
        serde_json::json!({"outcome_window": "7 days", "attribution": "impression", "outcomes": 1600, "before_exposure": 400,
                           "late": 400, "after_switch": 0, "without_time": 0})
    );
    // The figures beside say the same.
    let beside = "SELECT save_rate, pending FROM model_metrics('e') WHERE variant = 'base'";
    let row = admin.query_one(beside, &[]).unwrap();
    assert_eq!(row.get::<_, f64>(0), 0.5);
    let base: i64 = value(&mut admin, "SELECT users FROM model_metrics('e') WHERE variant = 'base'");
    assert_eq!(row.get::<_, i64>(1), 2 * base);
    // Another window, and only items whose window is over, are the analyst's choice.
    let asked = |window: &str| {
        format!("SELECT concat_ws(' ', base_estimate, base_events + fine_tuned_events) FROM experiment_results('e', outcome_window => '{window}', settled => true) WHERE metric = 'save_rate' LIMIT 1")
    };
    assert_eq!(value::<String>(&mut admin, &asked("7 days")), "0.3333333333333333 1200");
    assert_eq!(value::<String>(&mut admin, &asked("2 hours")), "0.25 1600");
    assert_eq!(value::<String>(&mut admin, &asked("8 days")), "0.6666666666666666 1200");
}

#[test]
fn the_window_is_a_rule_of_the_experiment() {
    let db = Server::shared().create_database("rules");
    let mut admin = with_models(&db);
    begun(&mut admin, ", outcome_window => NULL");
    saved(&mut admin, "very late", "39 days", "30 days");
    assert_eq!(save_rate(&mut admin), (1.0, 400));
    assert_eq!(health(&mut admin).1["outcome_window"], Value::Null);
    execute(&mut admin, "SELECT stop_experiment('e')");
    for (arguments, part) in [
        ("outcome_window => '0'", "outcome_window is"),
        ("attribution => 'last_click'", "last_click"),
        ("attribution => NULL", "NULL"),
        ("unit => 'household_id'", "household_id"),
        ("unit => NULL", "NULL"),
    ] {
        assert_error!(admin, &format!("SELECT start_experiment('f', 'm1', {arguments})"), "22023", part);
    }
}

#[test]
fn a_window_may_begin_with_the_first_impression_of_a_user() {
    let db = Server::shared().create_database("first");
    let mut admin = with_models(&db);
    begun(&mut admin, ", attribution => 'first_exposure'");
    saved(&mut admin, "first", "20 days", "1 day");
    saved(&mut admin, "sixth day", "14 days", "12 hours");
    saved(&mut admin, "sixth day, late", "14 days", "2 days"); // eight days after the first impression
    saved(&mut admin, "tenth day", "10 days", "1 hour"); // is no item of the window
    assert_eq!(save_rate(&mut admin), (2.0 / 3.0, 1200));
    assert_eq!(health(&mut admin).1["late"], 800);
    // Users count once their own seven days are over.
    execute(
        &mut admin,
        "DELETE FROM model_performance_log;
         INSERT INTO model_performance_log (user_id, signal_id, model_variant, model_id, experiment, phase, user_action, shown_at, actioned_at)
         SELECT u::text, 's', a.variant, a.model_id, a.experiment, a.phase, 'saved', t.shown, t.shown
         FROM generate_series(1, 400) u CROSS JOIN LATERAL (SELECT now() - make_interval(days => 1 + u % 10)) t (shown)
         CROSS JOIN LATERAL _assignment(u::text, t.shown) a",
    );
    let settled = "SELECT base_users + fine_tuned_users FROM experiment_results('e', settled => true) LIMIT 1";
    assert_eq!(value::<i64>(&mut admin, settled), 160);
}

#[test]
fn who_is_moved_by_new_weights_counts_until_then() {
    let db = Server::shared().create_database("moved");
    let mut admin = with_models(&db);
    begun(&mut admin, "");
    saved(&mut admin, "before", "20 days", "1 day");
    saved(&mut admin, "across", "12 days", "4 days"); // saved eight days ago, after the change below
                                                      // The weights changed ten days ago.
    execute(
        &mut admin,
        "SELECT alter_weights('e', '{0.2,0.8}');
         UPDATE experiment_phase SET valid_to = now() - interval '10 days' WHERE phase = 1;
         UPDATE experiment_phase SET valid_from = now() - interval '10 days' WHERE phase = 2",
    );
    saved(&mut admin, "after", "9 days", "1 hour");
    let moved = "SELECT count(*) FROM _exposed_users('e') WHERE switched_at IS NOT NULL AND NOT doubled";
    let moved: i64 = value(&mut admin, moved);
    assert!((80..160).contains(&moved), "{moved} of 400");
    let row = admin
        .query_one(
            "SELECT base_users, fine_tuned_users, base_events, fine_tuned_events, base_estimate, fine_tuned_estimate
             FROM experiment_results('e') WHERE metric = 'save_rate' LIMIT 1",
            &[],
        )
        .unwrap();
    let [base, new, base_items, new_items] = [0, 1, 2, 3].map(|column| row.get::<_, i64>(column));
    assert_eq!(base + new, 400, "nobody is lost");
    assert_eq!((base_items, new_items), (3 * base - moved, 3 * new), "what a moved user saw afterwards does not count");
    let [base_rate, new_rate] = [4, 5].map(|column| row.get::<_, f64>(column));
    assert_eq!(new_rate, 1.0);
    // Of a moved user's two items one was saved too late.
    assert!((base_rate - (base_items - moved) as f64 / base_items as f64).abs() < 1e-12, "{base_rate}");
    assert_eq!(save_rate(&mut admin).1, base_items + new_items);
    let (_, detail) = health(&mut admin);
    assert_eq!(detail["after_switch"], 2 * moved);
    let double = "SELECT verdict || ' ' || (detail ->> 'moved_between_phases') FROM experiment_health('e') WHERE check_name = 'double_exposure'";
    assert_eq!(value::<String>(&mut admin, double), format!("ok {moved}"));
    // Users of both splits are in one pot: an alarm says how to ask for those of the new one alone.
    let weights =
        "SELECT verdict || ' ' || (detail ->> 'from_phase') FROM experiment_health('e') WHERE check_name = 'weights'";
    assert_eq!(value::<Option<String>>(&mut admin, weights), None, "nobody came under the new split yet");
    execute(
        &mut admin,
        "INSERT INTO model_performance_log (user_id, signal_id, model_variant, model_id, experiment, phase, user_action, shown_at, actioned_at)
         SELECT 'new-' || u, 's', a.variant, a.model_id, a.experiment, a.phase, 'skipped', now() - interval '9 days', now() - interval '9 days'
         FROM generate_series(1, 100) u CROSS JOIN LATERAL _assignment('new-' || u, now() - interval '9 days') a",
    );
    assert_eq!(value::<String>(&mut admin, weights), "alarm 2");
    let newer = "SELECT base_users + fine_tuned_users || ' ' || base_estimate FROM experiment_results('e', from_phase => 2) WHERE metric = 'save_rate' LIMIT 1";
    assert_eq!(value::<String>(&mut admin, newer), "100 0");
    execute(&mut admin, "DELETE FROM model_performance_log WHERE user_id LIKE 'new-%'");
    // Two variants in one phase are another matter: that user is in neither arm.
    execute(&mut admin, "UPDATE model_performance_log SET model_variant = CASE model_variant WHEN 'base' THEN 'fineTuned' ELSE 'base' END WHERE user_id = '1' AND signal_id = 'before'");
    let users = "SELECT base_users + fine_tuned_users FROM experiment_results('e') LIMIT 1";
    assert_eq!(value::<i64>(&mut admin, users), 399);
}

/// A table of signals whose view has the team of each user: 40 teams of 5.
fn with_teams(db: &Database) -> Client {
    let mut admin = with_models(db);
    execute(
        &mut admin,
        "CREATE TABLE signal (id int PRIMARY KEY, user_id int, action text, at timestamptz);
         CREATE VIEW shown AS SELECT id AS signal_id, 'user-' || user_id AS user_id, 'team-' || user_id % 40 AS team_id, 'text ' || id AS chunk_content,
             action AS user_action, at AS actioned_at, 0.9::float8 AS relevance_score FROM signal;
         SELECT capture_signals('signal', via => 'shown')",
    );
    admin
}

#[test]
fn an_experiment_may_draw_teams_and_counts_by_them() {
    let db = Server::shared().create_database("teams");
    let mut admin = with_teams(&db);
    execute(&mut admin, "SELECT start_experiment('t', 'm1', seed => 's', unit => 'team_id', planned_users => 40)");
    // All items of a team stand and fall together: in odd teams everything is saved.
    execute(
        &mut admin,
        "INSERT INTO signal SELECT i, i % 200, CASE WHEN i % 40 % 2 = 1 THEN 'saved' ELSE 'skipped' END, now() FROM generate_series(0, 1999) i",
    );
    let drawn = "SELECT count(*) FILTER (WHERE experiment = 't' AND model_variant = assign_variant(team_id, 't')), count(DISTINCT team_id),
        count(DISTINCT team_id || model_variant) FROM model_performance_log";
    let row = admin.query_one(drawn, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (2000, 40, 40));
    let results = "SELECT base_users + fine_tuned_users AS units, base_events + fine_tuned_events AS events, se, design_effect FROM experiment_results('t') WHERE metric = 'save_rate' LIMIT 1";
    let row = admin.query_one(results, &[]).unwrap();
    assert_eq!((row.get::<_, i64>("units"), row.get::<_, i64>("events")), (40, 2000));
    assert!(row.get::<_, f64>("design_effect") > 20.0, "2,000 events of 40 teams are worth about 40");
    let alarms: Vec<String> =
        values(&mut admin, "SELECT check_name FROM experiment_health('t') WHERE verdict = 'alarm'");
    assert!(alarms.is_empty(), "{alarms:?}");
    let users = "SELECT value FROM experiment_health('t') WHERE check_name = 'users'";
    assert_eq!(value::<f64>(&mut admin, users), 40.0);
    let users = "SELECT sum(users)::bigint FROM model_metrics('t')";
    assert_eq!(value::<i64>(&mut admin, users), 200, "people are still people");
    assert_eq!(value::<i64>(&mut admin, "SELECT users FROM experiment_cuped('t')"), 40);
    assert_eq!(value::<i64>(&mut admin, "SELECT sum(users)::bigint FROM time_to_process('t')"), 40);
    // Ranked for people, judged by teams: all five of a team have the same list, so that they are worth one.
    execute(&mut admin, "UPDATE model_performance_log SET relevance_score = 0.5");
    let ranked = "SELECT r.users, r.ndcg_se, s.se FROM ranking_metrics('t') r JOIN (
        SELECT model_variant AS variant, stddev_samp(saved) / sqrt(count(*)) AS se
        FROM (SELECT model_variant, team_id, avg((user_action = 'saved')::int)::float8 AS saved FROM model_performance_log GROUP BY 1, 2) t GROUP BY 1) s USING (variant)";
    let rows = admin.query(ranked, &[]).unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).sum::<i64>(), 200);
    for row in rows {
        let (found, wanted) = (row.get::<_, f64>(1), row.get::<_, f64>(2));
        assert!((found - wanted).abs() < 1e-9, "{found} {wanted}");
    }
    let daily = "SELECT base_users + fine_tuned_users FROM experiment_effect_daily('t') ORDER BY day DESC LIMIT 1";
    assert_eq!(value::<i64>(&mut admin, daily), 40);
    assert_eq!(value::<i64>(&mut admin, "SELECT users_seen FROM plan_experiment(unit => 'team_id')"), 40);
    assert_eq!(value::<i64>(&mut admin, "SELECT users_seen FROM plan_experiment()"), 200);
    // A rollout counts teams as well.
    execute(&mut admin, "SELECT start_rollout('t', steps => '{1}'); SELECT evaluate_rollout('t')");
    let step: Value = value(&mut admin, "SELECT inputs FROM rollout_decision");
    let arms: i64 = step["users"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).sum();
    assert_eq!(arms, 40);
    assert!(step["users_in_step"].as_i64().unwrap() <= 20);
    // Somebody moves to another team: what was shown keeps the team of its time, and a pin takes a whole team out.
    execute(&mut admin, "UPDATE signal SET user_id = user_id + 1, action = 'snipped' WHERE id = 0; SELECT pin_user('team-3', 't', 'base')");
    let units = "SELECT base_users + fine_tuned_users FROM experiment_results('t') LIMIT 1";
    assert_eq!(value::<i64>(&mut admin, units), 39);
}

#[test]
fn an_impression_belongs_to_what_served_it() {
    let db = Server::shared().create_database("both");
    let mut admin = with_teams(&db);
    execute(&mut admin, "SELECT start_experiment('t', 'm1', unit => 'team_id')");
    execute(&mut admin, "INSERT INTO signal VALUES (1, 1)");
    // Calls without a name mean the experiment that draws users, and so does the log.
    execute(&mut admin, "SELECT start_experiment('u', 'm1'); INSERT INTO signal VALUES (2, 2)");
    execute(&mut admin, "SELECT record_signal('user-9', 'by hand', 'text', 'saved', team_id => 'team-9')");
    let served = "SELECT bool_and(m.model_id = a.model_id AND m.variant = a.variant AND m.variant = assign_variant(u::text)) AND count(DISTINCT m.variant) = 2
        FROM generate_series(1, 50) u, model_for(u::text, 'team-' || u) m, _assignment(u::text, NULL, 'team-' || u) a";
    assert!(value::<bool>(&mut admin, served));
    execute(&mut admin, "SELECT stop_experiment('u'); INSERT INTO signal VALUES (3, 3)");
    assert!(value::<bool>(&mut admin, &served.replace("assign_variant(u::text)", "assign_variant('team-' || u, 't')")));
    execute(&mut admin, "SELECT record_signal('user-9', 'later', 'text', 'saved', team_id => 'team-9'), record_satisfaction('user-9', 5, team_id => 'team-9')");
    let logged = "SELECT string_agg(signal_id || ' ' || coalesce(experiment, '-'), ', ' ORDER BY signal_id) FROM model_performance_log";
    assert_eq!(value::<String>(&mut admin, logged), "1 t, 2 u, 3 t, by hand u, later t");
    assert_eq!(value::<String>(&mut admin, "SELECT experiment FROM satisfaction_survey"), "t");
    // Without a team there is nothing to draw.
    execute(&mut admin, "SELECT record_signal('user-9', 'alone', 'text', 'saved', propensity => 0.25)");
    assert_error!(
        admin,
        "SELECT record_signal('user-9', 'never', 'text', propensity => 0)",
        "22023",
        "propensity is not in (0, 1]"
    );
    let alone =
        "SELECT coalesce(experiment, '-') || model_variant || propensity FROM model_performance_log WHERE signal_id = 'alone'";
    assert_eq!(value::<String>(&mut admin, alone), "-base0.25");
}

#[test]
fn what_is_acted_on_was_shown_no_later() {
    let db = Server::shared().create_database("unknown");
    let mut admin = with_teams(&db);
    execute(&mut admin, "SELECT start_experiment('u', 'm1')");
    // The view does not say when an item was shown: no later than when it was saved, so before the experiment.
    execute(&mut admin, "INSERT INTO signal VALUES (1, 1, 'saved', now() - interval '3 days'), (2, 2, 'saved', now() + interval '1 hour')");
    let logged = "SELECT string_agg(concat_ws(' ', signal_id, shown_at <= actioned_at, experiment), ', ' ORDER BY signal_id) FROM model_performance_log";
    assert_eq!(value::<String>(&mut admin, logged), "1 t, 2 t u");
}
