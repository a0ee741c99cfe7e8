//! Metrics, results and health of experiments, through SQL on a real server.

mod common;
use common::*;

use serde_json::Value;

fn vectors(file: &str) -> Value {
    serde_json::from_str(&read(&format!("tests/data/{file}"))).unwrap()
}

fn close(ours: Option<f64>, theirs: &Value, what: &str) {
    match (ours, theirs.as_f64()) {
        (Some(ours), Some(theirs)) => {
            assert!((ours - theirs).abs() <= 1e-9 * theirs.abs(), "{what}: {ours}, expected {theirs}")
        }
        (ours, theirs) => assert_eq!(ours, theirs, "{what}"),
    }
}

/// Model m1, tested in experiment e under a known seed.
fn with_experiment(db: &Database) -> Client {
    let mut admin = db.install("pgft");
    let sql = "INSERT INTO model (id, base_model, provider, method) VALUES ('m1', 'base', 'builtin', 'contrastive');
        INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
            VALUES ('m1', 'base', 100, 1000, 42, 'passed', 'better');
        SELECT start_experiment('e', 'm1', seed => 'seed-1', planned_users => 1000)";
    admin.batch_execute(sql).unwrap();
    admin
}

/// Ten items for each user in the variant assigned: about `saved_base` or `saved_new` of them saved, the last one pending.
fn log_items(client: &mut Client, users: i32, saved_base: i32, saved_new: i32) {
    let sql = format!(
        "INSERT INTO model_performance_log
             (user_id, signal_id, model_variant, model_id, experiment, phase, user_action, relevance_score, actioned_at)
         SELECT u::text, s::text, a.variant, a.model_id, a.experiment, a.phase, x.action, 0.9,
                CASE WHEN x.action IS NOT NULL THEN now() END
         FROM generate_series(1, {users}) u
         CROSS JOIN LATERAL _assignment(u::text, now()) a
         CROSS JOIN generate_series(1, 10) s
         CROSS JOIN LATERAL (SELECT CASE WHEN s <= (CASE a.variant WHEN 'base' THEN {saved_base} ELSE {saved_new} END) + u % 3 - 1
                                         THEN 'saved' WHEN s <= 9 THEN 'skipped' END) x (action)
         WHERE a.in_experiment"
    );
    client.batch_execute(&sql).unwrap();
}

#[test]
fn aggregates_agree_with_scikit_learn() {
    let db = Server::shared().create_database("aggregates");
    let mut admin = db.install("pgft");
    let file = vectors("metric-vectors.json");
    let rows = file["classification"].as_array().unwrap();
    for row in rows {
        let labels =
            |key: &str| -> Vec<bool> { row[key].as_array().unwrap().iter().map(|v| v.as_i64() == Some(1)).collect() };
        let sql = "SELECT precision_score(t, p), recall_score(t, p), f1_score(t, p) FROM unnest($1::bool[], $2::bool[]) x (t, p)";
        let scores = admin.query_one(sql, &[&labels("y_true"), &labels("y_pred")]).unwrap();
        for (column, metric) in ["precision", "recall", "f1"].into_iter().enumerate() {
            close(scores.get(column), &row[metric], &format!("{} {metric}", row["name"]));
        }
    }
    println!("scikit-learn: {} rows", rows.len());
    let undefined = "SELECT precision_score(NULL, true) IS NULL AND recall_score(true, NULL) IS NULL AND f1_score(false, false) IS NULL";
    assert!(value::<bool>(&mut admin, undefined));
    let nothing = "SELECT precision_score(true, true) IS NULL FROM generate_series(1, 0)";
    assert!(value::<bool>(&mut admin, nothing));
    for state in ["{1,2}", "{1,2,-1}", "{1,2,NULL}", "{}"] {
        assert_error!(admin, &format!("SELECT _confusion_step('{state}', true, true)"), "22023", "3 counts");
    }
    assert_error!(admin, "SELECT _confusion_step('{9223372036854775807,0,0}', true, true)", "22003", "64 bits");
}

#[test]
fn aggregates_run_in_parallel() {
    let db = Server::shared().create_database("parallel");
    let mut admin = db.install("pgft");
    let sql = "CREATE TABLE t AS SELECT i % 3 = 0 AS actual, i % 5 < 2 AS predicted FROM generate_series(1, 50000) i; ANALYZE t;
        SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0";
    admin.batch_execute(sql).unwrap();
    let score = "SELECT f1_score(actual, predicted) FROM t";
    let plan: Vec<String> = values(&mut admin, &format!("EXPLAIN {score}"));
    assert!(plan.iter().any(|line| line.contains("Partial Aggregate")), "{plan:?}");
    let parallel: f64 = value(&mut admin, score);
    admin.batch_execute("SET max_parallel_workers_per_gather = 0").unwrap();
    assert_eq!(value::<f64>(&mut admin, score), parallel);
}

#[test]
fn model_metrics_of_a_small_log_are_those_counted_by_hand() {
    let db = Server::shared().create_database("metrics");
    let mut admin = db.install("pgft");
    let file = vectors("metric-vectors.json");
    let shown: Vec<&Value> =
        file["event_log"]["log"].as_array().unwrap().iter().filter(|row| row["shown"] == true).collect();
    for row in &shown {
        let text = |key: &str| row[key].as_str().map(str::to_string);
        let action =
            text("outcome").map(|outcome| format!("{}{}", outcome, if outcome == "save" { "d" } else { "ped" }));
        let score = if row["score"] == "nan" { Some(f64::NAN) } else { row["score"].as_f64() };
        let sql = "INSERT INTO model_performance_log (user_id, signal_id, user_action, relevance_score, shown_at, actioned_at)
            VALUES ($1, $2, $3, $4, $5::text::timestamptz, $6::text::timestamptz)";
        admin
            .execute(sql, &[&text("user"), &text("item"), &action, &score, &text("shown_at"), &text("resolved_at")])
            .unwrap();
    }
    let expected = &file["event_log"]["expected"];
    let row = admin.query_one("SELECT * FROM model_metrics(positive => '{saved}')", &[]).unwrap();
    close(row.get("save_rate"), &expected["save_rate_over_shown"], "save rate");
    close(row.get("skip_rate"), &expected["skip_rate_over_shown"], "skip rate");
    close(row.get("snip_rate"), &expected["snip_rate_over_shown"], "snip rate");
    assert_eq!((row.get::<_, i64>("shown"), row.get::<_, i64>("pending")), (shown.len() as i64, 2));
    // Suggested are the scores of at least 0.5: 0.92 saved, 0.55 skipped, 0.71 snipped, 0.66 pending, 0.88 and 0.8 saved.
    let scores = [
        ("precision", 3.0 / 5.0),
        ("precision_pending_as_failure", 3.0 / 6.0),
        ("recall", 3.0 / 4.0),
        ("f1", 2.0 / 3.0),
    ];
    for (column, score) in scores.into_iter().chain([("false_suggestion_rate", 1.0 / 5.0)]) {
        close(row.get(column), &Value::from(score), column);
    }
    let distribution =
        ["very_low", "low", "medium", "high", "very_high", "unscored"].map(|bucket| row.get::<_, i64>(bucket));
    assert_eq!(distribution, [1, 2, 2, 2, 3, 1]);
    // In UTC two users on the first day and one on the second; four hours west all three on the first.
    close(row.get("daily_active_reviewers"), &Value::from(1.5), "reviewers");
    close(row.get("active_day_share"), &Value::from(3.0 / 6.0), "active days");
    let west = "SELECT daily_active_reviewers FROM model_metrics(time_zone => 'Etc/GMT+4')";
    assert_eq!(value::<f64>(&mut admin, west), 3.0);
    let with_snips = "SELECT \"precision\" FROM model_metrics()";
    assert_eq!(value::<f64>(&mut admin, with_snips), 0.8);
    assert_eq!(
        values::<i64>(
            &mut admin,
            "SELECT shown FROM model_metrics(since => '2026-09-01 12:00Z', until => '2026-09-01 20:00Z')"
        ),
        [3]
    );
}

#[test]
fn scores_fall_into_right_open_buckets_and_others_are_refused() {
    let db = Server::shared().create_database("scores");
    let mut admin = db.install("pgft");
    let file = vectors("metric-vectors.json");
    let rows = file["score_buckets"].as_array().unwrap();
    let columns = |name: &str| match name {
        "veryLow" => "very_low",
        "veryHigh" => "very_high",
        other => ["low", "medium", "high"].into_iter().find(|column| *column == other).unwrap(),
    };
    for row in rows {
        let sql = "INSERT INTO model_performance_log (user_id, signal_id, relevance_score) VALUES ('u', 's', $1::text::float8)";
        admin.execute(sql, &[&row[0].as_str()]).unwrap();
        let bucket = columns(row[1].as_str().unwrap());
        assert_eq!(value::<i64>(&mut admin, &format!("SELECT {bucket} FROM model_metrics()")), 1, "{row}");
        admin.batch_execute("TRUNCATE model_performance_log").unwrap();
    }
    println!("score buckets: {} rows", rows.len());
    admin
        .batch_execute("INSERT INTO model_performance_log (user_id, signal_id, relevance_score) VALUES ('u', 's', 87)")
        .unwrap();
    assert_error!(admin, "SELECT * FROM model_metrics()", "22003", "87");
    assert_error!(admin, "SELECT * FROM model_metrics(positive => '{liked}')", "22023", "liked");
    assert_error!(admin, "SELECT * FROM model_metrics('nope')", "42704", "nope");
}

#[test]
fn pending_items_are_censored_in_the_time_to_process() {
    let db = Server::shared().create_database("waiting");
    let mut admin = db.install("pgft");
    let file = vectors("stats-vectors.json");
    let km = &file["time_to_process_kaplan_meier"];
    let mut transaction = admin.transaction().unwrap(); // one now() for all
    let durations = km["durations_hours"].as_array().unwrap();
    for (item, (hours, cleared)) in durations.iter().zip(km["cleared"].as_array().unwrap()).enumerate() {
        let sql = "INSERT INTO model_performance_log (user_id, signal_id, user_action, shown_at, actioned_at)
            SELECT 'u', $1, CASE WHEN $3 THEN 'saved' END, now() - make_interval(secs => $2), CASE WHEN $3 THEN now() END";
        let seconds = hours.as_f64().unwrap() * 3600.0;
        transaction.execute(sql, &[&item.to_string(), &seconds, &(cleared == 1)]).unwrap();
    }
    let sql = "SELECT extract(epoch FROM time_to_process_median)::float8 / 3600, extract(epoch FROM time_to_process_mean)::float8 / 3600
        FROM model_metrics()";
    let row = transaction.query_one(sql, &[]).unwrap();
    assert!((row.get::<_, f64>(0) - km["median"].as_f64().unwrap()).abs() < 1e-6);
    assert!((row.get::<_, f64>(1) - km["restricted_mean_to_20h"].as_f64().unwrap()).abs() < 1e-6);
}

#[test]
fn an_experiment_without_data_has_no_numbers_but_reasons() {
    let db = Server::shared().create_database("empty");
    let mut admin = with_experiment(&db);
    let metrics = "SELECT variant FROM model_metrics('e') WHERE shown = 0 AND save_rate IS NULL AND \"precision\" IS NULL ORDER BY 1";
    assert_eq!(values::<String>(&mut admin, metrics), ["base", "fineTuned"]);
    let results = "SELECT count(*) FROM experiment_results('e')
        WHERE verdict = 'open' AND reason = 'no_events' AND base_estimate IS NULL AND difference IS NULL AND lift IS NULL";
    assert_eq!(value::<i64>(&mut admin, results), 7);
    let health = "SELECT DISTINCT verdict FROM experiment_health('e') ORDER BY 1";
    assert_eq!(values::<String>(&mut admin, health), ["not enough data", "ok"]);
    assert_error!(admin, "SELECT * FROM experiment_results('nope')", "42704", "nope");
    assert_error!(admin, "SELECT * FROM experiment_health('nope')", "42704", "nope");
    assert_error!(admin, "SELECT * FROM experiment_results('e', alpha => 0)", "22023", "alpha 0");
}

#[test]
fn results_respect_that_events_of_one_user_are_not_independent() {
    let db = Server::shared().create_database("delta");
    let mut admin = with_experiment(&db);
    let file = vectors("stats-vectors.json");
    let method = &file["delta_method"];
    for (variant, users) in [("base", "control_users"), ("fineTuned", "treatment_users")] {
        for (number, user) in method[users].as_array().unwrap().iter().enumerate() {
            let sql = "INSERT INTO model_performance_log (user_id, signal_id, model_variant, experiment, phase, user_action)
                SELECT $1, i::text, $2, 'e', 1, CASE WHEN i <= $4 THEN 'saved' ELSE 'skipped' END FROM generate_series(1, $3) i";
            let [shown, saved] = [0, 1].map(|column| user[column].as_i64().unwrap() as i32);
            admin.execute(sql, &[&format!("{variant}-{number}"), &variant, &shown, &saved]).unwrap();
        }
    }
    let save_rate = &method["save_rate"];
    let row = admin
        .query_one("SELECT * FROM experiment_results('e') WHERE metric = 'save_rate' AND target = 'better'", &[])
        .unwrap();
    close(row.get("base_estimate"), &save_rate["control"]["ratio"], "base");
    close(row.get("fine_tuned_estimate"), &save_rate["treatment"]["ratio"], "fineTuned");
    close(row.get("difference"), &save_rate["absolute"]["diff"], "difference");
    close(row.get("fixed_low"), &save_rate["absolute_welch"]["ci95"][0], "low");
    close(row.get("fixed_high"), &save_rate["absolute_welch"]["ci95"][1], "high");
    close(row.get("p_fixed"), &save_rate["absolute_welch"]["p"], "p");
    close(row.get("lift"), &save_rate["relative"]["lift"], "lift");
    assert!(row.get::<_, f64>("design_effect") > 6.0);
    assert!(row.get::<_, f64>("difference_low") < row.get("fixed_low"));
    assert_eq!((row.get("verdict"), row.get("reason")), ("open", Some("too_few_users")));
}

#[test]
fn targets_are_proved_refuted_or_open_and_said_in_words() {
    let db = Server::shared().create_database("targets");
    let mut admin = with_experiment(&db);
    log_items(&mut admin, 1000, 3, 5);
    let verdicts: Vec<String> =
        values(&mut admin, "SELECT metric || ' ' || target || ': ' || verdict FROM experiment_results('e')");
    let expected = [
        "save_rate better: proved",
        "save_rate +20 %: proved",
        "false_suggestion_rate better: proved",
        "false_suggestion_rate -30 %: proved",
        "precision better: proved",
        "skip_rate better: proved",
        "snip_rate better: open",
    ];
    assert_eq!(verdicts, expected);
    let sentence: String = value(&mut admin, "SELECT sentence FROM experiment_results('e') WHERE target = '+20 %'");
    assert!(sentence.contains("That it is at least 20 % higher is proved."), "{sentence}");
    admin.batch_execute("TRUNCATE model_performance_log").unwrap();
    log_items(&mut admin, 1000, 4, 4);
    let refuted = "SELECT verdict FROM experiment_results('e') WHERE target = '+20 %'";
    assert_eq!(value::<String>(&mut admin, refuted), "refuted");
    // Items younger than the window are not counted yet.
    let young = "SELECT DISTINCT reason FROM experiment_results('e', outcome_window => '7 days')";
    assert_eq!(values::<String>(&mut admin, young), ["no_events"]);
}

#[test]
fn users_of_both_arms_and_pinned_users_are_left_out() {
    let db = Server::shared().create_database("leftout");
    let mut admin = with_experiment(&db);
    log_items(&mut admin, 400, 4, 4);
    let users = "SELECT base_users + fine_tuned_users FROM experiment_results('e') LIMIT 1";
    assert_eq!(value::<i64>(&mut admin, users), 400);
    let sql = "UPDATE model_performance_log SET model_variant = 'base' WHERE user_id IN ('1', '2', '3', '4', '5', '6') AND signal_id = '1';
        UPDATE model_performance_log SET model_variant = 'fineTuned' WHERE user_id IN ('1', '2', '3', '4', '5', '6') AND signal_id = '2';
        SELECT pin_user('7', 'e', 'base')";
    admin.batch_execute(sql).unwrap();
    assert_eq!(value::<i64>(&mut admin, users), 393);
    let alarms = "SELECT check_name FROM experiment_health('e') WHERE verdict = 'alarm' ORDER BY 1";
    assert_eq!(values::<String>(&mut admin, alarms), ["double_exposure", "served"]);
}

#[test]
fn health_sees_lost_users_leaks_and_wrong_labels() {
    let db = Server::shared().create_database("health");
    let mut admin = with_experiment(&db);
    log_items(&mut admin, 1000, 4, 4);
    let alarms = "SELECT check_name FROM experiment_health('e') WHERE verdict = 'alarm' ORDER BY 1";
    assert_eq!(values::<String>(&mut admin, alarms), [""; 0]);
    admin
        .batch_execute("BEGIN; DELETE FROM model_performance_log WHERE model_variant = 'base' AND user_id::int % 3 = 0")
        .unwrap();
    assert_eq!(values::<String>(&mut admin, alarms), ["split"]);
    admin.batch_execute("ROLLBACK; BEGIN; UPDATE model_performance_log SET model_id = 'm1' WHERE user_id = (SELECT min(user_id) FROM model_performance_log WHERE model_variant = 'base')").unwrap();
    assert_eq!(values::<String>(&mut admin, alarms), ["served"]);
    let found: Value = value(&mut admin, "SELECT detail FROM experiment_health('e') WHERE check_name = 'served'");
    assert_eq!((found["served_model"].as_str(), found["assigned_model"].as_str()), (Some("m1"), Some("base")));
    admin
        .batch_execute("ROLLBACK; BEGIN; UPDATE model_performance_log SET model_variant = 'other' WHERE user_id = '5'")
        .unwrap();
    assert_eq!(values::<String>(&mut admin, alarms), ["leak", "served"]);
    admin
        .batch_execute(
            "ROLLBACK; BEGIN; UPDATE model_performance_log SET user_action = NULL WHERE model_variant = 'base'",
        )
        .unwrap();
    assert_eq!(values::<String>(&mut admin, alarms), ["pending"]);
}

#[test]
fn analysts_may_ask_and_applications_may_not() {
    let server = Server::shared();
    let db = server.create_database("roles");
    let mut admin = with_experiment(&db);
    log_items(&mut admin, 50, 4, 4);
    admin.batch_execute(&format!("ALTER DATABASE {} SET search_path = pgft, public", quoted(&db.name))).unwrap();
    let questions = [
        "SELECT * FROM model_metrics('e')",
        "SELECT * FROM experiment_results('e')",
        "SELECT * FROM experiment_health('e')",
        "SELECT f1_score(user_action = 'saved', relevance_score > 0.5) FROM model_performance_log",
    ];
    let mut analyst = db.connect_as(&server.create_role("analyst", &["finetune_analyst"]));
    let mut app = db.connect_as(&server.create_role("shop", &["finetune_app"]));
    for question in questions {
        analyst.query(question, &[]).unwrap_or_else(|error| panic!("{question}: {error:?}"));
        assert_eq!(expect_error(&mut app, question).code, "42501", "{question}");
    }
}
