//! Aggregates and ranking functions on a real server: vectors, parallel plans, arbitrary splits, and what is refused.

mod common;
use common::*;

use postgres::types::ToSql;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(&read("tests/data/metric-vectors.json")).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|v| v.as_f64().unwrap()).collect()
}

fn labels(value: &Value) -> Vec<bool> {
    list(value).iter().map(|v| v.as_i64() == Some(1)).collect()
}

/// A figure against a vector, in which "nan" and null mean undefined.
fn close(ours: Option<f64>, theirs: &Value, what: &str) {
    match (ours, theirs.as_f64()) {
        (Some(ours), Some(theirs)) => assert!((ours - theirs).abs() <= 1e-12, "{what}: {ours}, expected {theirs}"),
        (ours, theirs) => assert_eq!(ours, theirs, "{what}"),
    }
}

fn figure(client: &mut Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Option<f64> {
    client.query_one(sql, parameters).unwrap_or_else(|e| panic!("{sql}: {}", explain(&e))).get(0)
}

#[test]
fn labels_agree_with_scikit_learn() {
    let db = Server::shared().create_database("labels");
    let mut sql = db.install("pgft");
    let file = vectors();
    for row in list(&file["classification"]) {
        let (actual, predicted) = (labels(&row["y_true"]), labels(&row["y_pred"]));
        let weights =
            if row["sample_weight"].is_null() { vec![1.0; actual.len()] } else { numbers(&row["sample_weight"]) };
        let from = "FROM unnest($1::bool[], $2::bool[], $3::float8[]) x (t, p, w)";
        let all: &[&(dyn ToSql + Sync)] = &[&actual, &predicted, &weights];
        for (metric, name) in [("precision", "precision_score"), ("recall", "recall_score"), ("f1", "f1_score")] {
            let what = format!("{} {metric}", row["name"]);
            for choice in ["0", "1", "nan"] {
                let ours = figure(&mut sql, &format!("SELECT {name}(t, p, w, '{choice}') {from}"), all);
                let theirs = &row["by_zero_division"][choice][metric];
                close(ours.filter(|f| !f.is_nan()), theirs, &format!("{what} {choice}"));
                assert_eq!(ours.is_some_and(f64::is_nan), theirs == "nan", "{what} {choice}");
            }
            close(
                figure(&mut sql, &format!("SELECT {name}(t, p, w) {from}"), all),
                &row["by_zero_division"]["nan"][metric],
                &what,
            );
            if row["sample_weight"].is_null() {
                let plain = figure(&mut sql, &format!("SELECT {name}(t, p) {from} WHERE w = 1"), all);
                close(plain, &row["by_zero_division"]["nan"][metric], &what);
            }
        }
        let report =
            sql.query_one(&format!("SELECT (r).* FROM (SELECT binary_report(t, p, w, 0) r {from}) x"), all).unwrap();
        let columns = ["tp", "fp", "fn", "tn", "accuracy", "mcc"].map(|key| (key, key));
        let zeroed =
            [("f2", "f2_zero_division_0"), ("f0_5", "f0_5_zero_division_0"), ("jaccard", "jaccard_zero_division_0")];
        for (column, key) in columns.into_iter().chain(zeroed) {
            close(report.get(column), &row[key], &format!("{} {column}", row["name"]));
        }
        let report =
            sql.query_one(&format!("SELECT (r).* FROM (SELECT binary_report(t, p, w) r {from}) x"), all).unwrap();
        for (column, key) in [("balanced_accuracy", "balanced_accuracy"), ("kappa", "cohen_kappa")] {
            close(report.get(column), &row[key], &format!("{} {column}", row["name"]));
        }
    }
    println!("classification: {} rows", list(&file["classification"]).len());
}

#[test]
fn classes_agree_with_scikit_learn() {
    let db = Server::shared().create_database("classes");
    let mut sql = db.install("pgft");
    let file = vectors();
    let row = &file["multiclass"];
    let texts = |key: &str| list(&row[key]).iter().map(ToString::to_string).collect::<Vec<_>>();
    let report =
        "SELECT * FROM unnest((SELECT classification_report(t, p) FROM unnest($1::text[], $2::text[]) x (t, p)))";
    let (actual, predicted) = (texts("y_true"), texts("y_pred"));
    let classes = sql.query(report, &[&actual, &predicted]).unwrap();
    assert_eq!(classes.iter().map(|c| c.get::<_, String>("class")).collect::<Vec<_>>(), ["0", "1", "2"]);
    for (number, class) in classes.iter().enumerate() {
        for (measure, column) in ["precision", "recall", "f1"].into_iter().enumerate() {
            close(class.get(column), &row["per_class"][measure][number], column);
        }
        close(class.get("support"), &row["support"][number], "support");
    }
    let means = format!(
        "SELECT avg(\"precision\"), avg(recall), avg(f1), sum(f1 * support) / sum(support), sum(hits) / sum(support) FROM ({report}) r"
    );
    let means = sql.query_one(&means, &[&actual, &predicted]).unwrap();
    let expected = [&row["macro"][0], &row["macro"][1], &row["macro"][2], &row["weighted"][2], &row["micro"][0]];
    expected.into_iter().enumerate().for_each(|(column, theirs)| close(means.get(column), theirs, "mean"));
    let many = "SELECT classification_report(i::text, 'a') FROM generate_series(1, 1001) i";
    assert_error!(sql, many, "54000", "1000 classes");
}

#[test]
fn scores_agree_with_scikit_learn() {
    let db = Server::shared().create_database("ranked");
    let mut sql = db.install("pgft");
    let file = vectors();
    for row in list(&file["score_ranking"]) {
        let (actual, scores) = (labels(&row["y_true"]), numbers(&row["score"]));
        let weighted = !row["sample_weight"].is_null();
        let weights = if weighted { numbers(&row["sample_weight"]) } else { vec![1.0; actual.len()] };
        let all: &[&(dyn ToSql + Sync)] = &[&actual, &scores, &weights];
        let from = "FROM unnest($1::bool[], $2::float8[], $3::float8[]) x (t, s, w)";
        for arguments in if weighted { &["t, s, w"][..] } else { &["t, s", "t, s, w"] } {
            let from = if arguments.contains('w') { from.to_string() } else { format!("{from} WHERE w = 1") };
            let name = row["name"].to_string();
            close(figure(&mut sql, &format!("SELECT roc_auc({arguments}) {from}"), all), &row["roc_auc"], &name);
            let precision = figure(&mut sql, &format!("SELECT average_precision({arguments}) {from}"), all);
            close(precision.or(Some(0.0)), &row["average_precision"], &name); // 0 there, undefined here, without positives
            if !weighted && row["pr_curve"].is_object() {
                // Every threshold, from the highest; theirs begin with the lowest and end with an empty one.
                let table = sql
                    .query(&format!("SELECT * FROM unnest((SELECT threshold_table({arguments}) {from}))"), all)
                    .unwrap();
                let theirs = &row["pr_curve"];
                assert_eq!(table.len(), list(&theirs["thresholds"]).len(), "{name}");
                for (ours, place) in table.iter().zip((0..table.len()).rev()) {
                    close(ours.get("threshold"), &theirs["thresholds"][place], &name);
                    close(ours.get("precision"), &theirs["precision"][place], &name);
                    close(ours.get("recall"), &theirs["recall"][place], &name);
                }
                let fpr = |threshold: f64| {
                    table.iter().find(|r| r.get::<_, f64>("threshold") == threshold).unwrap().get("fpr")
                };
                let roc = &row["roc_curve"];
                for (place, threshold) in list(&roc["thresholds"]).iter().enumerate().filter(|(_, t)| t.is_f64()) {
                    close(fpr(threshold.as_f64().unwrap()), &roc["fpr"][place], &name);
                }
            }
        }
    }
    println!("score ranking: {} rows", list(&file["score_ranking"]).len());
}

#[test]
fn probabilities_agree_with_scikit_learn() {
    let db = Server::shared().create_database("calibration");
    let mut sql = db.install("pgft");
    let file = vectors();
    for row in list(&file["probabilistic"]) {
        let (actual, probabilities) = (labels(&row["y_true"]), numbers(&row["prob"]));
        let all: &[&(dyn ToSql + Sync)] = &[&actual, &probabilities];
        let from = "FROM unnest($1::bool[], $2::float8[]) x (t, p)";
        for (call, key) in [
            ("brier_score(t, p)", "brier"),
            ("log_loss(t, p)", "log_loss"),
            ("brier_score(t, p, 2)", "brier"),
            ("log_loss(t, p, 0.5)", "log_loss"),
            ("expected_calibration_error(t, p, 5)", "ece_5_equal_width"),
        ] {
            close(
                figure(&mut sql, &format!("SELECT {call} {from}"), all),
                &row[key],
                &format!("{} {call}", row["name"]),
            );
        }
        let bins =
            sql.query(&format!("SELECT * FROM unnest((SELECT calibration_table(t, p, 5) {from}))"), all).unwrap();
        let curve = &row["calibration_uniform_5"];
        assert_eq!(bins.len(), list(&curve["mean_predicted"]).len());
        for (place, bin) in bins.iter().enumerate() {
            close(bin.get("mean_probability"), &curve["mean_predicted"][place], "mean");
            close(bin.get("share_positive"), &curve["fraction_positive"][place], "share");
        }
    }
    for row in list(&file["psi"]) {
        let counts = |key: &str| list(&row[key]).iter().map(|n| n.as_i64().unwrap()).collect::<Vec<_>>();
        let index = "SELECT population_stability_index($1, $2)";
        close(figure(&mut sql, index, &[&counts("control_counts"), &counts("treatment_counts")]), &row["psi"], "psi");
    }
    println!("probabilistic: {} rows, psi: {} rows", list(&file["probabilistic"]).len(), list(&file["psi"]).len());
}

#[test]
fn lists_agree_with_trec_eval() {
    let db = Server::shared().create_database("trec");
    let mut sql = db.install("pgft");
    let file = vectors();
    for row in list(&file["ranking"]) {
        let [relevance, score] = ["relevance", "score"].map(|key| row[key].as_object().unwrap());
        let ids: Vec<String> =
            relevance.keys().chain(score.keys().filter(|id| !relevance.contains_key(*id))).cloned().collect();
        let of = |map: &serde_json::Map<String, Value>| {
            ids.iter().map(|id| map.get(id).and_then(Value::as_f64)).collect::<Vec<_>>()
        };
        let (relevance, score) = (of(relevance), of(score));
        let all: &[&(dyn ToSql + Sync)] = &[&relevance, &score, &ids];
        let trec = &row["trec_eval"];
        for (call, key) in [
            ("ndcg($1, $2, ties => 'id', ids => $3)", "ndcg"),
            ("ndcg($1, $2, 3, ties => 'id', ids => $3)", "ndcg_cut_3"),
            ("mrr($1, $2, 'id', $3)", "recip_rank"),
            ("recall_at($1, $2, 3, 'id', $3)", "recall_3"),
            ("precision_at($1, $2, 3, 'id', $3)", "P_3"),
            ("hit_at($1, $2, 3, 'id', $3)", "success_3"),
            ("average_precision_at($1, $2, ties => 'id', ids => $3)", "map"),
        ] {
            close(figure(&mut sql, &format!("SELECT {call}"), all), &trec[key], &format!("{} {key}", row["name"]));
        }
        if row.get("sklearn_ndcg_ties_averaged").is_some() {
            let ours = figure(&mut sql, "SELECT ndcg($1, $2)", &[&relevance, &score]);
            close(ours, &row["sklearn_ndcg_ties_averaged"], "ties averaged");
        }
        let exponential = figure(&mut sql, "SELECT ndcg($1, $2, gain => 'exponential', ties => 'id', ids => $3)", all);
        close(exponential, &row["ndcg_exp_gain_all"], "exponential gain");
    }
    println!("ranking: {} rows", list(&file["ranking"]).len());
    assert_eq!(figure(&mut sql, "SELECT ndcg(NULL, '{1}')", &[]), None);
    // What has no place in an order was not returned.
    assert_eq!(figure(&mut sql, "SELECT mrr('{1,0,1}', '{NaN,0.5,0.1}')", &[]), Some(0.5));
    for (call, part) in [
        ("ndcg('{1}', '{1,2}')", "1 relevances and 2 scores"),
        ("ndcg('{1}', '{1}', 0)", "k 0"),
        ("ndcg('{1}', '{1}', gain => 'cubic')", "cubic"),
        ("mrr('{1}', '{1}', 'random')", "random"),
        ("mrr('{1}', '{1}', 'id')", "ids"),
    ] {
        assert_error!(sql, &format!("SELECT {call}"), "22023", part);
    }
}

#[test]
fn the_event_log_counts_what_was_suggested() {
    let db = Server::shared().create_database("events");
    let mut sql = db.install("pgft");
    let file = vectors();
    let fixture = &file["event_log_fixture"];
    let events = "FROM jsonb_to_recordset($1) e (suggested boolean, shown boolean, outcome text)";
    let expected = &fixture["expected"];
    for (call, key) in [
        ("precision_score(outcome = 'save', suggested)", "precision_over_resolved_suggestions"),
        ("precision_score(coalesce(outcome = 'save', false), suggested)", "precision_counting_pending_as_not_saved"),
        ("recall_score(outcome = 'save', suggested)", "recall_saved_that_were_suggested"),
        ("f1_score(outcome = 'save', suggested)", "f1_from_counts"),
    ] {
        close(figure(&mut sql, &format!("SELECT {call} {events}"), &[&fixture["log"]]), &expected[key], key);
    }
    // Snips are no failures: the false suggestions are fewer than 1 - precision.
    let skipped = figure(
        &mut sql,
        &format!("SELECT false_suggestion_rate(outcome = 'skip', suggested) {events}"),
        &[&fixture["log"]],
    );
    close(skipped, &Value::from(3.0 / 7.0), "false suggestions");
    assert!(value::<bool>(&mut sql, "SELECT binary_label('a', '{a}', '{b}') AND NOT binary_label('b', '{a}', '{b}') AND binary_label(NULL, '{a}', '{b}') IS NULL"));
    assert_error!(sql, "SELECT binary_label('liked', '{saved,snipped}', '{skipped}')", "22023", "liked");
}

/// A table of scores with ties, weights, NULL, NaN and infinities.
const ROWS: &str = "
    CREATE TABLE t AS
    SELECT i, CASE WHEN i % 11 > 0 THEN hashint4(i) % 3 = 0 END AS actual,
           CASE WHEN i % 101 = 0 THEN 'NaN' WHEN i % 103 = 0 THEN 'Infinity' WHEN i % 13 > 0 THEN abs(hashint4(i + 7) % 1000) / 1000.0 END::float8 AS score,
           abs(hashint4(i + 9) % 5) / 2.0::float8 AS weight
    FROM generate_series(1, 40000) i;
    CREATE VIEW p AS SELECT i, actual, nullif(nullif(score, 'NaN'), 'Infinity') AS score, weight FROM t; ANALYZE t";

const CALLS: [&str; 20] = [
    "precision_score(actual, score > 0.5)",
    "recall_score(actual, score > 0.5, weight)",
    "f1_score(actual, score > 0.5, weight, 0)",
    "mcc(actual, score > 0.5)",
    "false_suggestion_rate(actual, score > 0.5)",
    "binary_report(actual, score > 0.5)",
    "classification_report(actual::text, (score > 0.5)::text, weight)",
    "roc_auc(actual, score)",
    "roc_auc(actual, score, weight)",
    "average_precision(actual, score)",
    "average_precision(actual, score, weight)",
    "score_report(actual, score)",
    "array_length(threshold_table(actual, score), 1)",
    "approx_roc_auc(actual, score)",
    "approx_average_precision(actual, score)",
    "approx_score_report(actual, score)",
    "brier_score(actual, score)",
    "log_loss(actual, score, weight)",
    "expected_calibration_error(actual, score, 7)",
    "calibration_table(actual, score)",
];

#[test]
fn aggregates_run_in_parallel_and_say_the_same() {
    let db = Server::shared().create_database("parallel");
    let mut sql = db.install("pgft");
    execute(&mut sql, ROWS);
    for call in CALLS {
        let query = format!("SELECT ({call})::text FROM p");
        execute(&mut sql, "SET max_parallel_workers_per_gather = 0");
        let alone: String = value(&mut sql, &query);
        execute(
            &mut sql,
            "SET max_parallel_workers_per_gather = 3; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
             SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off",
        );
        let plan: Vec<String> = values(&mut sql, &format!("EXPLAIN {query}"));
        assert!(plan.iter().any(|line| line.contains("Partial Aggregate")), "{call}: {plan:?}");
        let together: String = value(&mut sql, &query);
        assert_close_text(&alone, &together, call);
    }
}

/// Sums of doubles may differ in the last digits with the order of rows; everything else is the same.
fn assert_close_text(one: &str, other: &str, what: &str) {
    let parts = |text: &str| text.split(['(', ')', '{', '}', ',', '"', '\\']).map(str::to_string).collect::<Vec<_>>();
    let (a, b) = (parts(one), parts(other));
    assert_eq!(a.len(), b.len(), "{what}: {one} and {other}");
    for (a, b) in a.iter().zip(&b) {
        match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{what}: {one} and {other}"),
            _ => assert_eq!(a, b, "{what}"),
        }
    }
}

#[test]
fn any_split_combines_to_the_whole() {
    let db = Server::shared().create_database("split");
    let mut sql = db.install("pgft");
    execute(&mut sql, ROWS);
    // Step, combine and final functions of every aggregate, as the catalog has them: a state per part, then combined.
    let aggregates =
        "SELECT DISTINCT a.aggtransfn::regproc::text, a.aggcombinefn::regproc::text, a.aggfinalfn::regproc::text,
               a.agginitval, a.aggtranstype::regtype::text, p.pronargs, p.proname::text
        FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid
        WHERE p.pronamespace = 'pgft'::regnamespace AND a.aggfinalfn <> 0 AND p.pronargs < 4 ORDER BY 7, 1";
    let all = sql.query(aggregates, &[]).unwrap();
    assert!(all.len() > 20, "{}", all.len());
    for row in all {
        let [step, combine, last] = [0, 1, 2].map(|column| row.get::<_, String>(column));
        let (start, state): (Option<String>, String) = (row.get(3), row.get(4));
        let start = start.map_or(String::new(), |start| format!(", INITCOND = '{start}'"));
        let arguments = match (step.trim_start_matches("pgft."), row.get::<_, i16>(5)) {
            ("_confusion_step", _) => ("boolean, boolean", "actual, score > 0.5"),
            ("_confusion_step_weighted", _) => ("boolean, boolean, float8", "actual, score > 0.5, weight"),
            ("_label_step", _) => ("text, text", "actual::text, (score > 0.5)::text"),
            ("_label_step_weighted", _) => ("text, text, float8", "actual::text, (score > 0.5)::text, weight"),
            ("_probability_step_bins", _) => ("boolean, float8, integer", "actual, score, 7"),
            (_, 2) => ("boolean, float8", "actual, score"),
            _ => ("boolean, float8, float8", "actual, score, weight"),
        };
        let make = format!(
            "CREATE AGGREGATE part({}) (SFUNC = {step}, STYPE = {state}{start});
             CREATE AGGREGATE whole({state}) (SFUNC = {combine}, STYPE = {state}{start}, FINALFUNC = {last})",
            arguments.0
        );
        execute(&mut sql, &make);
        let name: String = row.get(6);
        let mut results: Vec<String> = Vec::new();
        for parts in ["1", "i % 3", "hashint4(i) % 17", "CASE WHEN i < 5 THEN 0 ELSE 1 END"] {
            let query = format!(
                "SELECT whole(s ORDER BY h)::text FROM (SELECT {parts} AS h, part({}) AS s FROM p GROUP BY 1) x",
                arguments.1
            );
            results.push(value(&mut sql, &query));
        }
        results.iter().for_each(|other| assert_close_text(&results[0], other, &name));
        execute(&mut sql, &format!("DROP AGGREGATE part({}); DROP AGGREGATE whole({state})", arguments.0));
    }
}

#[test]
fn what_cannot_be_judged_is_left_out_and_counted() {
    let db = Server::shared().create_database("unjudged");
    let mut sql = db.install("pgft");
    execute(&mut sql, ROWS);
    let unusable = "SELECT count(*) FROM t WHERE actual IS NULL OR score IS NULL OR score IN ('NaN', 'Infinity')";
    let ignored: i64 = value(&mut sql, unusable);
    assert!(ignored > 4000);
    assert_eq!(value::<f64>(&mut sql, "SELECT (score_report(actual, score)).ignored FROM t"), ignored as f64);
    let clean = "SELECT roc_auc(actual, score) FROM t WHERE actual IS NOT NULL AND score IS NOT NULL AND score NOT IN ('NaN', 'Infinity')";
    assert_eq!(value::<f64>(&mut sql, "SELECT roc_auc(actual, score) FROM t"), value::<f64>(&mut sql, clean));
    let nulls =
        "SELECT (binary_report(a, p)).ignored FROM (VALUES (true, NULL::boolean), (NULL, true), (true, true)) t (a, p)";
    assert_eq!(value::<f64>(&mut sql, nulls), 2.0);
    // Nothing at all, weights of nothing, one class: undefined.
    for call in [
        "precision_score(true, true)",
        "roc_auc(true, 1)",
        "average_precision(true, 1)",
        "brier_score(true, 1)",
        "approx_roc_auc(true, 1)",
    ] {
        assert_eq!(figure(&mut sql, &format!("SELECT {call} FROM generate_series(1, 0)"), &[]), None, "{call}");
    }
    for call in [
        "precision_score(true, true, 0)",
        "roc_auc(i = 1, i, 0)",
        "roc_auc(true, i)",
        "average_precision(false, i)",
        "log_loss(true, 0.5, 0)",
    ] {
        assert_eq!(figure(&mut sql, &format!("SELECT {call} FROM generate_series(1, 2) i"), &[]), None, "{call}");
    }
    // The approximate forms lie within the error that they state.
    let near = "SELECT abs((a).roc_auc - e.roc_auc) <= (a).roc_auc_error AND abs((a).average_precision - e.average_precision) <= (a).average_precision_error
        FROM (SELECT approx_score_report(actual, score) a, roc_auc(actual, score), average_precision(actual, score) FROM p) e";
    assert!(value::<bool>(&mut sql, near));
}

#[test]
fn a_window_may_ask_again_and_again() {
    let db = Server::shared().create_database("windows");
    let mut sql = db.install("pgft");
    let query = "SELECT bool_and(w IS NOT DISTINCT FROM (SELECT roc_auc(y, s) FROM (VALUES (1, true, 0.9), (2, false, 0.8), (3, true, 0.7), (4, false, 0.1)) u (i, y, s) WHERE u.i <= x.i))
        FROM (SELECT i, roc_auc(y, s) OVER (ORDER BY i) AS w FROM (VALUES (1, true, 0.9), (2, false, 0.8), (3, true, 0.7), (4, false, 0.1)) t (i, y, s)) x";
    assert!(value::<bool>(&mut sql, query));
}

#[test]
fn bad_input_is_refused() {
    let db = Server::shared().create_database("refused");
    let mut sql = db.install("pgft");
    for (call, code, part) in [
        ("precision_score(true, true, -1)", "22003", "-1 is no weight"),
        ("roc_auc(true, 0.5, 'NaN')", "22003", "NaN is no weight"),
        ("f1_score(true, true, 1, 0.5)", "22023", "zero_division 0.5"),
        ("brier_score(true, 1.5)", "22003", "probability 1.5"),
        ("approx_roc_auc(true, -0.5)", "22003", "score -0.5"),
        ("expected_calibration_error(true, 0.5, 0)", "22023", "between 1 and 1000"),
        ("_confusion_precision('{1,2}')", "22023", "five counts"),
        ("_confusion_step('{1,2,NULL,3,4}', true, true)", "22023", "five counts"),
        ("_confusion_precision('{1,2,-1,0,0}')", "22023", "five counts"),
        ("_score_auc('\\x00')", "22023", "no state"),
        ("_score_step('\\x00', true, 1)", "22023", "no state"),
        ("_histogram_figures('\\x00')", "22023", "no state"),
        ("_label_rows('\\x00')", "22023", "no state"),
        ("_probability_figures('{1}')", "22023", "no state"),
        ("population_stability_index('{1,2}', '{1}')", "22023", "cannot be compared"),
        ("_survival_intervals('{1}', '{1,2}', '{true}', 1, 10, 1)", "22023", "belong together"),
    ] {
        assert_error!(sql, &format!("SELECT {call}"), code, part);
    }
    let large = "SELECT threshold_table(i % 2 = 0, i) FROM generate_series(1, 1000001) i";
    assert_error!(sql, large, "54000", "Round the scores");
}
