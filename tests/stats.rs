//! Statistics for analysts, through SQL on a real server. The numbers themselves are held to their vectors in src/core/stats.

mod common;
use common::*;

use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(&read("tests/data/stats-vectors.json")).unwrap()
}

#[track_caller]
fn close(ours: Option<f64>, theirs: &Value) {
    match (ours, theirs.as_f64()) {
        (Some(ours), Some(theirs)) => {
            assert!((ours - theirs).abs() <= 1e-9 * theirs.abs().max(1e-3), "{ours}, expected {theirs}")
        }
        (ours, theirs) => assert_eq!(ours, theirs),
    }
}

fn integer(value: &Value) -> i64 {
    value.as_i64().unwrap()
}

#[test]
fn pure_functions_give_the_vectors_numbers() {
    let db = Server::shared().create_database("pure");
    let mut admin = db.install("pgft");
    let file = vectors();
    let mut rows = 0;
    for row in file["two_proportions"].as_array().unwrap() {
        let (base, new) = (&row["control"], &row["treatment"]);
        let counts = [&base[0], &base[1], &new[0], &new[1]].map(integer);
        let ours = admin
            .query_one(
                "SELECT * FROM compare_proportions($1, $2, $3, $4)",
                &[&counts[0], &counts[1], &counts[2], &counts[3]],
            )
            .unwrap();
        close(ours.get("difference"), &row["diff"]);
        close(ours.get("newcombe_low"), &row["newcombe_ci95_diff"][0]);
        close(ours.get("newcombe_high"), &row["newcombe_ci95_diff"][1]);
        close(ours.get("fine_tuned_low"), &row["wilson95_treatment"][0]);
        close(ours.get("p"), &row["pooled_p_two_sided"]);
        rows += 1;
    }
    for row in file["sequential"]["msprt_equivalence"].as_array().unwrap() {
        let sql = format!(
            "SELECT high - {0}, p FROM always_valid({0}, {1}, {2}, {3}, {4})",
            row["estimate"], row["se"], row["n_total"], row["n_star"], row["alpha"]
        );
        let ours = admin.query_one(&sql, &[]).unwrap();
        close(ours.get(0), &row["halfwidth"]);
        close(ours.get(1), &row["always_valid_p"]);
        rows += 1;
    }
    for row in file["multiple_testing"].as_array().unwrap() {
        let p: Vec<f64> = row["p"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
        for (method, key) in [("holm", "holm"), ("bh", "fdr_bh"), ("hommel", "hommel")] {
            let ours: Vec<f64> = admin.query_one("SELECT adjust_p_values($1, $2)", &[&p, &method]).unwrap().get(0);
            ours.iter().zip(row[key].as_array().unwrap()).for_each(|(&ours, theirs)| close(Some(ours), theirs));
            rows += 1;
        }
    }
    for row in file["power"]["sample_size_two_proportions"].as_array().unwrap() {
        let sql = format!(
            "SELECT users_per_arm FROM required_users({}, {}, alpha => {}, power => {})",
            row["baseline"], row["relative_lift"], row["alpha_two_sided"], row["power"]
        );
        assert_eq!(value::<i64>(&mut admin, &sql), integer(&row["n_per_arm"]), "{row}");
        rows += 1;
    }
    for row in file["power"]["sample_size_superiority_by_margin"].as_array().unwrap() {
        let sql = format!(
            "SELECT users_per_arm FROM required_users({}, {}, margin => {}, power => {})",
            row["baseline"], row["true_lift"], row["margin"], row["power"]
        );
        assert_eq!(value::<i64>(&mut admin, &sql), integer(&row["n_per_arm"]), "{row}");
        rows += 1;
    }
    for row in file["power"]["full_precision"].as_array().unwrap() {
        let sql = format!(
            "SELECT smallest_lift, power_of_lift, smallest_lift_always, power_of_lift_always FROM detectable_lift({}, {}, {}, {})",
            row["mu"], row["variance"], row["n_per_arm"], row["effect_for_power"]
        );
        let ours = admin.query_one(&sql, &[]).unwrap();
        close(ours.get(0), &row["mde_80"]);
        close(ours.get(1), &row["power"]);
        assert!(ours.get::<_, f64>(2) > ours.get(0) && ours.get::<_, f64>(3) < ours.get(1), "{row}");
        rows += 1;
    }
    let welch = &file["growthbook_means"][1];
    let arm = |arm: &str| {
        let arm = &welch[arm];
        format!("'{{{},{},{}}}'", arm["n"], arm["sum"], arm["sum_squares"])
    };
    let sql = format!("SELECT * FROM compare_means({}, {})", arm("control"), arm("treatment"));
    let ours = admin.query_one(&sql, &[]).unwrap();
    close(ours.get("difference"), &welch["full_precision"]["point"]);
    close(ours.get("fixed_low"), &welch["full_precision"]["ci"][0]);
    close(ours.get("p_fixed"), &welch["full_precision"]["p"]);
    println!("through SQL: {} rows", rows + 1);
}

#[test]
fn pure_functions_refuse_what_is_no_number_of_users() {
    let db = Server::shared().create_database("refused");
    let mut admin = db.install("pgft");
    assert_error!(admin, "SELECT * FROM compare_proportions(5, 4, 1, 4)", "22023", "5 of 4");
    assert_error!(admin, "SELECT * FROM compare_proportions(0, 0, 1, 4)", "22023", "0 of 0");
    assert_error!(admin, "SELECT * FROM compare_means('{1,2}', '{3,1,1}')", "22023", "sum of squares");
    assert_error!(admin, "SELECT * FROM compare_means('{1,2,4}', '{3,1,1}')", "22023", "two users");
    assert_error!(admin, "SELECT * FROM always_valid(1, 0, 10, 10)", "22023", "standard error");
    assert_error!(admin, "SELECT * FROM always_valid(1, 1, 10, 10, 1.5)", "22023", "alpha 1.5");
    assert_error!(admin, "SELECT adjust_p_values('{0.5,2}')", "22023", "between 0 and 1");
    assert_error!(admin, "SELECT adjust_p_values('{0.5}', 'lucky')", "22023", "lucky", "holm");
    assert_error!(admin, "SELECT * FROM required_users(0.3, 0.2, margin => 0.2)", "22023", "no number of users");
    assert_error!(admin, "SELECT * FROM required_users(1.3, 0.2)", "22023", "1.3");
    assert_error!(admin, "SELECT * FROM detectable_lift(0.3, 0, 100)", "22023", "no lift");
}

const MODEL: &str = "
    INSERT INTO model (id, base_model, provider, method) VALUES ('m1', 'base', 'builtin', 'contrastive'), ('m2', 'base', 'builtin', 'contrastive');
    INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
        VALUES ('m1', 'base', 100, 1000, 42, 'passed', 'better')";

fn with_experiment(db: &Database) -> Client {
    let mut admin = db.install("pgft");
    execute(&mut admin, MODEL);
    execute(&mut admin, "SELECT start_experiment('e', 'm1', seed => 'seed-1', planned_users => 1000)");
    admin
}

/// Users of the 84-user fixture as log rows; what each saved before stands before the experiment.
fn log_fixture(admin: &mut Client) {
    let file = vectors();
    for (variant, users) in [("base", "control_users"), ("fineTuned", "treatment_users")] {
        for (number, user) in file["delta_method"][users].as_array().unwrap().iter().enumerate() {
            let column = |i: usize| integer(&user[i]) as i32;
            let id = format!("{variant}-{number}");
            let sql = "INSERT INTO model_performance_log (user_id, signal_id, model_variant, experiment, phase, user_action, shown_at, actioned_at)
                SELECT $1, i::text, $2, 'e', 1, CASE WHEN i <= $4 THEN 'saved' ELSE 'skipped' END, now(), now() FROM generate_series(1, $3) i
                UNION ALL
                SELECT $1, 'before-' || i, 'base', NULL, NULL, CASE WHEN i <= $6 THEN 'saved' ELSE 'skipped' END,
                       now() - interval '2 days', now() - interval '1 day' FROM generate_series(1, $5) i";
            admin.execute(sql, &[&id, &variant, &column(0), &column(1), &column(2), &column(3)]).unwrap();
        }
    }
}

#[test]
fn the_past_is_taken_out_and_the_plain_result_stands_beside() {
    let db = Server::shared().create_database("cuped");
    let mut admin = with_experiment(&db);
    let nothing = admin.query_one("SELECT * FROM experiment_cuped('e')", &[]).unwrap();
    assert_eq!((nothing.get::<_, Option<f64>>("difference"), nothing.get::<_, i64>("users")), (None, 0));
    log_fixture(&mut admin);
    let file = vectors();
    let expected = &file["cuped"]["absolute"];
    let ours = admin.query_one("SELECT * FROM experiment_cuped('e', 'saves_per_user')", &[]).unwrap();
    // Here a user without a past counts as average; the vectors' users without one saved nothing.
    close(ours.get("unadjusted"), &expected["unadjusted"]["point"]);
    close(ours.get("unadjusted_se"), &expected["unadjusted"]["se"]);
    assert!(
        ours.get::<_, f64>("variance_reduction") > 0.0
            && ours.get::<_, f64>("se") < ours.get::<_, f64>("unadjusted_se")
    );
    assert!(ours.get::<_, f64>("difference_low") < ours.get::<_, f64>("fixed_low"));
    assert_eq!(ours.get::<_, i64>("users"), 84);
    let rate = admin.query_one("SELECT * FROM experiment_cuped('e')", &[]).unwrap();
    close(rate.get("unadjusted"), &file["delta_method"]["save_rate"]["absolute"]["diff"]);
    close(rate.get("unadjusted_se"), &file["delta_method"]["save_rate"]["absolute"]["se"]);
    assert_error!(admin, "SELECT * FROM experiment_cuped('e', 'precision')", "22023", "precision");
    assert_error!(admin, "SELECT * FROM experiment_cuped('nope')", "42704", "nope");
}

#[test]
fn an_event_level_test_stands_beside_as_a_warning() {
    let db = Server::shared().create_database("events");
    let mut admin = with_experiment(&db);
    log_fixture(&mut admin);
    let file = vectors();
    let expected = &file["delta_method"]["save_rate"];
    let sql = "SELECT * FROM experiment_results('e') WHERE metric = 'save_rate' AND target = 'better'";
    let ours = admin.query_one(sql, &[]).unwrap();
    close(ours.get("event_z"), &expected["naive_event_level_two_proportion"]["z"]);
    close(ours.get("event_p"), &expected["naive_event_level_two_proportion"]["p"]);
    close(ours.get("se"), &expected["absolute"]["se"]);
    close(ours.get("lift_fixed_low"), &expected["fieller_ci95_lift"][0]);
    assert!(
        ours.get::<_, f64>("event_p") < 1e-6
            && ours.get::<_, f64>("p_fixed") > 0.03
            && ours.get::<_, f64>("p_always") > 0.1
    );
    assert!((0.5..1.0).contains(&ours.get::<_, f64>("chance_to_win")));
    let holm = "SELECT bool_and(p_holm >= p_target) AND count(p_holm) = count(p_target) FROM experiment_results('e')";
    assert!(value::<bool>(&mut admin, holm));
}

#[test]
fn targets_margins_and_the_moment_are_the_analysts_choice() {
    let db = Server::shared().create_database("choice");
    let mut admin = with_experiment(&db);
    log_fixture(&mut admin);
    let claims = "SELECT target FROM experiment_results('e', targets => '{\"save_rate\": -0.05, \"skip_rate\": 0.055}')
        WHERE target <> 'better' ORDER BY 1";
    assert_eq!(values::<String>(&mut admin, claims), ["+5.5 %", "-5 %"]);
    let sentence =
        "SELECT sentence FROM experiment_results('e', targets => '{\"skip_rate\": 0.05}') WHERE target = '+5 %'";
    let sentence: String = value(&mut admin, sentence);
    assert!(sentence.contains("at most 5 % higher"), "{sentence}");
    for targets in ["{\"save_rate\": \"much\"}", "[]", "{\"save_rate\": -1}"] {
        let sql = format!("SELECT * FROM experiment_results('e', targets => '{targets}')");
        assert_error!(admin, &sql, "22023", "targets are metrics");
    }
    assert_error!(admin, "SELECT * FROM experiment_results('e', targets => '{\"joy\": 0.1}')", "22023", "joy");
    assert_error!(admin, "SELECT * FROM experiment_results('e', inference => 'tarot')", "22023", "tarot");
    let before = "SELECT DISTINCT reason FROM experiment_results('e', until => now() - interval '1 hour')";
    assert_eq!(values::<String>(&mut admin, before), ["no_events"]);
    let one_arm = "UPDATE model_performance_log SET experiment = NULL WHERE model_variant = 'fineTuned'";
    execute(&mut admin, one_arm);
    let reasons = "SELECT DISTINCT reason || verdict FROM experiment_results('e')";
    assert_eq!(values::<String>(&mut admin, reasons), ["no_eventsopen"]);
    let cuped = "SELECT difference IS NULL AND users = 40 FROM experiment_cuped('e')";
    assert!(value::<bool>(&mut admin, cuped));
    execute(&mut admin, "SELECT stop_experiment('e')");
    assert_eq!(values::<String>(&mut admin, reasons), ["no_eventsopen"]);
}

#[test]
fn a_plan_comes_from_what_users_did() {
    let db = Server::shared().create_database("plan");
    let mut admin = db.install("pgft");
    let empty: String = value(&mut admin, "SELECT sentence FROM plan_experiment()");
    assert!(empty.contains("says nothing"), "{empty}");
    // 2,000 users, 100 new ones a day, ten items each, of which 1 to 5 are saved: one user's items are alike.
    execute(
        &mut admin,
        "INSERT INTO model_performance_log (user_id, signal_id, user_action, relevance_score, shown_at)
         SELECT u::text, i::text, CASE WHEN i <= 1 + u % 5 THEN 'saved' ELSE 'skipped' END, 0.9, now() - interval '20 days' + make_interval(days => u / 100)
         FROM generate_series(1, 1999) u, generate_series(1, 10) i",
    );
    let plan = admin.query_one("SELECT * FROM plan_experiment(lift => 0.1)", &[]).unwrap();
    assert!((plan.get::<_, f64>("base_rate") - 0.3).abs() < 1e-3);
    // Variance of a user's rate is that of {1..5} / 10: 0.02; z's sum squared is 7.849.
    let users = 7.8489 * 2.0 * 0.02 / 0.03_f64.powi(2);
    assert!(
        (plan.get::<_, i64>("users_per_arm") as f64 - users).abs() < 0.02 * users,
        "{}",
        plan.get::<_, i64>("users_per_arm")
    );
    let planned: i64 = plan.get("planned_users");
    assert!((planned as f64 / (2.0 * users) - 1.9).abs() < 0.1, "{planned}");
    assert!((7..=30).contains(&plan.get::<_, i32>("days")), "{}", plan.get::<_, i32>("days"));
    assert!(plan.get::<_, f64>("design_effect") < 1.0, "users who all save a third differ less than coins");
    let sentence: String = plan.get("sentence");
    assert!(sentence.contains(&format!("plan with {planned} users")), "{sentence}");
    let larger = "SELECT days IS NULL AND sentence LIKE '%only 1999 were seen.' FROM plan_experiment(lift => 0.01)";
    assert!(value::<bool>(&mut admin, larger));
    assert_error!(admin, "SELECT * FROM plan_experiment('joy')", "22023", "joy");
    assert_error!(admin, "SELECT * FROM plan_experiment(power => 2)", "22023", "power");
}
