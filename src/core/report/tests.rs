use super::*;
use serde_json::json;

fn metrics(variant: &str, saved: f64) -> serde_json::Value {
    json!({"variant": variant, "users": 1200, "shown": 24_000, "pending": 2400, "save_rate": saved, "skip_rate": 0.8 - saved, "snip_rate": 0.1,
           "precision": 0.61, "recall": 0.7, "f1": 0.65, "false_suggestion_rate": 0.2, "very_low": 10, "low": 20, "medium": 30, "high": 25,
           "very_high": 15, "unscored": 3, "daily_active_reviewers": 51.2, "wait_median": 4000.0, "wait_mean": 90_000.0, "average_satisfaction": null})
}

fn report() -> serde_json::Value {
    let effect: Vec<_> = (1..=9)
        .map(|d| json!({"day": format!("2026-09-0{d}"), "base_users": 10 * d, "fine_tuned_users": 11 * d, "difference": 0.01, "difference_low": -0.1 / f64::from(d), "difference_high": 0.12}))
        .collect();
    let curve = json!({"roc_auc": 0.7, "average_precision": 0.6, "calibration_error": 0.1, "precision_recall": [[0.1, 0.9], [1.0, 0.5], [null, null]], "calibration": [[0.1, 0.2, 10.0], [0.9, 0.8, 5.0]]});
    json!({"name": "<b>night & day</b>", "status": "running", "started": "2026-09-01", "stopped": null, "shipped": null, "generated": "2026-09-10",
           "planned_users": 5000, "days": 9, "metrics": [metrics("base", 0.3), metrics("fineTuned", 0.4)],
           "results": [{"metric": "save_rate", "target": "better", "verdict": "proved", "sentence": "save rate: more", "base_users": 600, "fine_tuned_users": 601,
                        "lift": 0.33, "lift_low": 0.1, "lift_high": 0.5, "p_always": 0.001, "design_effect": 2.5}],
           "health": [{"check_name": "split", "verdict": "alarm", "value": 0.0001, "meaning": "p of the split"}],
           "daily": [{"day": "2026-09-01", "variant": "base", "active_reviewers": 5}, {"day": "2026-09-02", "variant": "fineTuned", "active_reviewers": 7}],
           "effect": effect, "curves": {"base": curve, "fineTuned": curve}})
}

#[test]
fn a_page_is_whole_and_safe() {
    let page = html(&Report::of(report()).unwrap()).unwrap();
    assert!(page.contains("&lt;b&gt;night &amp; day") && !page.contains("<b>night"));
    assert!(!page.contains("<script") && !page.contains("http") && !page.contains("url("));
    assert_eq!(page.matches("<svg").count(), 6);
    assert_eq!(page.matches("role=\"img\"").count(), 6);
    assert_eq!(page.matches("<details>").count(), 6);
    assert!(page.contains("fineTuned is better") && page.contains("Do not believe these numbers yet"));
    // Every colour is one of the style sheet's.
    assert!(!page.contains("=\"#0"), "a placeholder colour is left");
    for open in ["<figure", "<section", "<table", "<svg"] {
        assert_eq!(
            page.matches(&format!("{open} ")).count() + page.matches(&format!("{open}>")).count(),
            page.matches(&open.replace('<', "</")).count(),
            "{open}"
        );
    }
}

/// What the page advises, after these changes of a healthy report whose goal is proved.
fn advised(changes: &[(&str, serde_json::Value)]) -> String {
    let mut data = report();
    data["health"] = json!([]);
    for (path, value) in changes {
        *data.pointer_mut(path).unwrap() = value.clone();
    }
    let page = html(&Report::of(data).unwrap()).unwrap();
    let rest = page.split("<strong>Next:</strong> ").nth(1).unwrap();
    rest.split("</p>").next().unwrap().to_string()
}

#[test]
fn the_next_step_follows_the_rules_of_stopping() {
    assert!(html(&Report::of(report()).unwrap()).unwrap().contains("Find the cause of the alarm first"));
    assert!(advised(&[])
        .contains("may be shipped. What to promise is the near end of the interval: +10.0 %, not the +33.0 %"));
    assert!(advised(&[("/days", json!(3))]).contains("3 full days so far, 7 are needed"));
    assert!(
        advised(&[("/results/0/verdict", json!("refuted"))]).starts_with("Keep base and end the test: it is ruled out")
    );
    let open = ("/results/0/verdict", json!("open"));
    assert!(advised(std::slice::from_ref(&open)).starts_with("Let it run: 1,201 of 5,000 planned users"));
    assert!(advised(&[open, ("/planned_users", json!(1200))]).contains("may still be anything from +10.0 % to +50.0 %"));
    let stopped = ("/status", json!("stopped"));
    assert!(advised(std::slice::from_ref(&stopped)).contains("what was deployed stayed"));
    assert!(advised(&[stopped, ("/shipped", json!("fineTuned"))]).contains("fineTuned serves everybody"));
}

#[test]
fn an_empty_experiment_has_a_page_too() {
    let mut data = report();
    for list in ["metrics", "results", "health", "daily", "effect"] {
        data[list] = json!([]);
    }
    data["curves"] = json!({});
    let page = html(&Report::of(data).unwrap()).unwrap();
    assert_eq!(page.matches("Nothing to draw yet.").count(), 6);
    assert!(Report::of(json!({"name": 1})).is_err());
}

#[test]
fn numbers_read_well() {
    use super::text::*;
    assert_eq!((count(1_234_567).as_str(), count(-1000).as_str(), count(7).as_str()), ("1,234,567", "−1,000", "7"));
    assert_eq!(
        (percent(Some(0.1234)).as_str(), change(Some(0.05)).as_str(), percent(None).as_str()),
        ("12.3 %", "+5.0 %", "–")
    );
    assert_eq!(
        [Some(30.0), Some(600.0), Some(7200.0), Some(200_000.0)].map(wait),
        ["30 s", "10 min", "2.0 h", "2.3 days"]
    );
}
