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
fn model_metrics_of_a_small_log_are_those_counted_by_hand() {
    let db = Server::shared().create_database("metrics");
    let mut admin = db.install("pgft");
    let file = vectors("metric-vectors.json");
    let shown: Vec<&Value> =
        file["event_log_fixture"]["log"].as_array().unwrap().iter().filter(|row| row["shown"] == true).collect();
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
    let expected = &file["event_log_fixture"]["expected"];
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
    close(row.get("save_rate_resolved"), &expected["save_rate_over_resolved_shown"], "save rate over resolved");
    for (zone, key) in [("UTC", "daily_active_reviewers_utc"), ("Etc/GMT+4", "daily_active_reviewers_utc_minus_4")] {
        let sql = format!("SELECT day::text, active_reviewers, shown FROM model_metrics_daily(time_zone => '{zone}') WHERE active_reviewers > 0 ORDER BY day");
        let days = admin.query(&sql, &[]).unwrap();
        // The save of an item that was never shown is not in the log: it is the only act on the second day in the west.
        let counted =
            expected[key].as_object().unwrap().iter().filter(|(day, _)| zone == "UTC" || *day == "2026-09-01");
        let expected: Vec<_> = counted.map(|(day, users)| (day.clone(), users.as_i64().unwrap())).collect();
        let ours: Vec<(String, i64)> = days.iter().map(|day| (day.get(0), day.get(1))).collect();
        assert_eq!(ours, expected, "{zone}");
    }
    let daily = "SELECT sum(shown)::bigint FROM model_metrics_daily()";
    assert_eq!(value::<i64>(&mut admin, daily), shown.len() as i64);
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
    let rows = file["score_buckets"]["rows"].as_array().unwrap();
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
fn waiting_times_have_intervals_over_users_that_a_seed_repeats() {
    let db = Server::shared().create_database("intervals");
    let mut admin = with_experiment(&db);
    let sql = "INSERT INTO model_performance_log (user_id, signal_id, experiment, phase, model_variant, user_action, shown_at, actioned_at)
        SELECT u::text, s::text, 'e', 1, CASE WHEN u % 2 = 0 THEN 'base' ELSE 'fineTuned' END, 'saved', '2026-09-01Z',
               timestamptz '2026-09-01Z' + make_interval(mins => 10 + 10 * (u % 7) + s) FROM generate_series(1, 60) u, generate_series(1, 10) s";
    execute(&mut admin, sql);
    let sql = "SELECT variant || ' ' || median_low || ' ' || median_high || ' ' || mean_low || ' ' || mean_high FROM time_to_process('e'";
    let first: Vec<String> = values(&mut admin, &format!("{sql})"));
    assert_eq!(first.len(), 2);
    assert_eq!(first, values::<String>(&mut admin, &format!("{sql})")));
    assert_ne!(first, values::<String>(&mut admin, &format!("{sql}, seed => 5)")));
    let inside =
        "SELECT bool_and(median_low <= median AND median <= median_high AND mean_low < mean AND mean < mean_high
                      AND users = 30 AND resolved = 300 AND pending = 0) FROM time_to_process('e')";
    assert!(value::<bool>(&mut admin, inside));
    let same = "SELECT bool_and(t.median = m.time_to_process_median AND t.mean = m.time_to_process_mean)
        FROM time_to_process('e') t JOIN model_metrics('e') m USING (variant)";
    assert!(value::<bool>(&mut admin, same));
    assert_error!(admin, "SELECT * FROM time_to_process('nope')", "42704", "nope");
}

#[test]
fn recall_is_weighted_by_how_likely_an_item_was_shown() {
    let db = Server::shared().create_database("propensity");
    let mut admin = db.install("pgft");
    let file = vectors("metric-vectors.json");
    let ips = &file["ips_recall"];
    let list = |key: &str| ips[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    let sql = "INSERT INTO model_performance_log (user_id, signal_id, user_action, relevance_score, propensity)
        SELECT 'u', i::text, CASE WHEN saved = 1 THEN 'saved' ELSE 'skipped' END, CASE WHEN suggested = 1 THEN 0.9 ELSE 0.1 END, p
        FROM unnest($1::float8[], $2::float8[], $3::float8[]) WITH ORDINALITY x (saved, suggested, p, i)";
    let columns = [list("saved"), list("suggested"), list("probability_of_being_shown")];
    admin.execute(sql, &[&columns[0], &columns[1], &columns[2]]).unwrap();
    let row = admin.query_one("SELECT * FROM model_metrics()", &[]).unwrap();
    close(row.get("recall"), &ips["naive_recall_on_shown"], "naive recall");
    close(row.get("recall_ips"), &ips["ips_recall"], "weighted recall");
    close(row.get("precision"), &ips["precision_unchanged"], "precision");
    // An unknown propensity among the positives: no weighted recall rather than one of other items.
    execute(&mut admin, "UPDATE model_performance_log SET propensity = NULL WHERE signal_id = '1'");
    assert_eq!(value::<Option<f64>>(&mut admin, "SELECT recall_ips FROM model_metrics()"), None);
}

#[test]
fn lists_are_ranked_per_user() {
    let db = Server::shared().create_database("lists");
    let mut admin = db.install("pgft");
    // u1 finds what it saves on the second rank of two, u2 on the first; u3 saves nothing.
    let sql = "INSERT INTO model_performance_log (user_id, signal_id, user_action, relevance_score) VALUES
        ('u1', 'a', 'skipped', 0.9), ('u1', 'b', 'saved', 0.5), ('u2', 'a', 'snipped', 0.8), ('u2', 'b', 'skipped', 0.1),
        ('u3', 'a', 'skipped', 0.8), ('u3', 'b', NULL, 0.9)";
    execute(&mut admin, sql);
    let row = admin.query_one("SELECT * FROM ranking_metrics(k => 1)", &[]).unwrap();
    assert_eq!((row.get::<_, i64>("users"), row.get::<_, i64>("users_without_relevant")), (3, 1));
    let expected = [
        ("ndcg", 1.0 / 3.0),
        ("mrr", 0.5),
        ("recall", 1.0 / 3.0),
        ("precision", 1.0 / 3.0),
        ("hit", 1.0 / 3.0),
        ("map", 0.5),
    ];
    for (column, figure) in expected {
        close(row.get(column), &Value::from(figure), column);
    }
}

#[test]
fn views_show_what_the_functions_count() {
    let server = Server::shared();
    let db = server.create_database("views");
    let mut admin = with_experiment(&db);
    log_items(&mut admin, 40, 4, 4);
    let mut analyst = db.connect_as(&server.create_role("bi", &["finetune_analyst"]));
    execute(&mut analyst, "SET search_path = pgft, public");
    let rows = "SELECT count(*) FROM (SELECT m.* FROM model_metrics('e') m EXCEPT
        SELECT o.variant, o.users, o.shown, o.resolved, o.pending, o.saved, o.skipped, o.snipped, o.save_rate, o.skip_rate, o.snip_rate,
               o.save_rate_resolved, o.precision, o.precision_pending_as_failure, o.recall, o.recall_ips, o.f1, o.false_suggestion_rate,
               o.very_low, o.low, o.medium, o.high, o.very_high, o.unscored, o.mean_score, o.daily_active_reviewers, o.active_day_share,
               o.time_to_process_median, o.time_to_process_mean, o.average_satisfaction FROM model_overview o WHERE o.experiment = 'e') d";
    assert_eq!(value::<i64>(&mut analyst, rows), 0);
    let shown = "SELECT sum(shown)::bigint FROM experiment_daily WHERE experiment = 'e'";
    assert_eq!(
        value::<i64>(&mut analyst, shown),
        value::<i64>(&mut analyst, "SELECT sum(shown)::bigint FROM model_metrics('e')")
    );
}

#[test]
fn an_experiment_without_data_has_no_numbers_but_reasons() {
    let db = Server::shared().create_database("empty");
    let mut admin = with_experiment(&db);
    let metrics = "SELECT variant FROM model_metrics('e') WHERE shown = 0 AND save_rate IS NULL AND \"precision\" IS NULL ORDER BY 1";
    assert_eq!(values::<String>(&mut admin, metrics), ["base", "fineTuned"]);
    let results = "SELECT count(*) FROM experiment_results('e')
        WHERE verdict = 'open' AND reason = 'no_events' AND base_estimate IS NULL AND difference IS NULL AND lift IS NULL";
    assert_eq!(value::<i64>(&mut admin, results), 10);
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
        "recall better: open",
        "f1 better: proved",
        "skip_rate better: proved",
        "snip_rate better: open",
        "saves_per_user better: proved",
    ];
    assert_eq!(verdicts, expected);
    let sentence: String = value(&mut admin, "SELECT sentence FROM experiment_results('e') WHERE target = '+20 %'");
    assert!(sentence.contains("That it is at least 20 % higher is proved."), "{sentence}");
    admin.batch_execute("TRUNCATE model_performance_log").unwrap();
    log_items(&mut admin, 1000, 4, 4);
    let refuted = "SELECT verdict FROM experiment_results('e') WHERE target = '+20 %'";
    assert_eq!(value::<String>(&mut admin, refuted), "refuted");
    // Items younger than the window are not counted yet.
    let young = "SELECT DISTINCT reason FROM experiment_results('e', settled => true)";
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
