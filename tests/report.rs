//! report_html: in a real browser, light and dark, with the numbers that SQL has.

mod common;
use common::*;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Fourteen days of a test in which fineTuned helps, and a second experiment without a log.
fn with_experiments(db: &Database) -> Client {
    let mut admin = db.install("pgft");
    let sql = "INSERT INTO model (id, base_model, provider, method) VALUES ('m1', 'base', 'builtin', 'contrastive');
        INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
            VALUES ('m1', 'base', 100, 1000, 42, 'passed', 'better');
        SELECT start_experiment('weekly <test>', 'm1', seed => 'seed-1', planned_users => 1000);
        UPDATE experiment SET started_at = '2026-09-01Z'; UPDATE experiment_phase SET valid_from = '2026-09-01Z';
        SELECT setseed(0.5);
        INSERT INTO model_performance_log
            (user_id, signal_id, model_variant, model_id, experiment, phase, user_action, relevance_score, shown_at, actioned_at)
        SELECT u::text, s::text, a.variant, a.model_id, a.experiment, a.phase, x.action, r.score, t.shown,
               CASE WHEN x.action IS NOT NULL THEN t.shown + interval '1 minute' * (5 + 300 * random()) END
        FROM generate_series(1, 900) u
        CROSS JOIN generate_series(1, 12) s
        CROSS JOIN LATERAL (SELECT timestamptz '2026-09-01 06:00Z' + interval '1 day' * ((u * 7 + s * 5) % 14) + interval '1 minute' * (u % 600)) t (shown)
        CROSS JOIN LATERAL _assignment(u::text, t.shown) a
        CROSS JOIN LATERAL (SELECT least(greatest(0.5 + (random() + random() - 1) * 0.6 + CASE a.variant WHEN 'base' THEN 0 ELSE 0.08 END, 0), 1) WHERE u + s > 0) r (score)
        CROSS JOIN LATERAL (SELECT CASE WHEN (u + s) % 17 = 0 THEN NULL
            WHEN random() < 0.15 + 0.45 * r.score * CASE a.variant WHEN 'base' THEN 1 ELSE 1.3 END THEN CASE WHEN random() < 0.15 THEN 'snipped' ELSE 'saved' END
            ELSE 'skipped' END WHERE u + s > 0) x (action)
        WHERE a.in_experiment;
        INSERT INTO satisfaction_survey (user_id, experiment, variant, score, answered_at)
        SELECT u::text, 'weekly <test>', a.variant, 3 + u % 3 - CASE WHEN a.variant = 'base' AND u % 2 = 0 THEN 1 ELSE 0 END, '2026-09-09Z'
        FROM generate_series(1, 60) u CROSS JOIN LATERAL _assignment(u::text, now()) a;
        SELECT start_experiment('empty', 'm1', seed => 'seed-2', planned_users => 1000)";
    execute(&mut admin, sql);
    admin
}

#[test]
fn the_effect_over_time_ends_where_the_results_are() {
    let db = Server::shared().create_database("effect");
    let mut admin = with_experiments(&db);
    for metric in ["save_rate", "skip_rate", "snip_rate", "precision", "false_suggestion_rate"] {
        let same = format!(
            "SELECT abs(e.difference - r.difference) < 1e-12 AND abs(e.difference_low - r.difference_low) < 1e-12
                AND abs(e.difference_high - r.difference_high) < 1e-12 AND e.base_users + e.fine_tuned_users = r.base_users + r.fine_tuned_users
             FROM (SELECT * FROM experiment_effect_daily('weekly <test>', '{metric}') ORDER BY day DESC LIMIT 1) e,
                  experiment_results('weekly <test>') r WHERE r.metric = '{metric}' AND r.target = 'better'"
        );
        assert!(value::<bool>(&mut admin, &same), "{metric}");
    }
    // An interval of a day counts what was shown up to it and nothing later.
    let early =
        "SELECT difference, difference_low FROM experiment_effect_daily('weekly <test>') WHERE day = '2026-09-04'";
    let before = admin.query_one(early, &[]).unwrap();
    execute(&mut admin, "DELETE FROM model_performance_log WHERE shown_at >= '2026-09-05Z'");
    let after = admin.query_one(early, &[]).unwrap();
    assert_eq!((before.get::<_, f64>(0), before.get::<_, f64>(1)), (after.get(0), after.get(1)));
    assert_eq!(value::<i64>(&mut admin, "SELECT count(*) FROM experiment_effect_daily('empty')"), 0);
    assert_error!(admin, "SELECT * FROM experiment_effect_daily('weekly <test>', 'clicks')", "22023", "clicks");
    assert_error!(admin, "SELECT * FROM experiment_effect_daily('nope')", "42704", "nope");
    assert_error!(admin, "SELECT report_html('nope')", "42704", "nope");
    assert_error!(admin, "SELECT _report_page('{}')", "22023", "no data of a report");
}

#[test]
fn the_page_opens_and_shows_what_sql_says() {
    let db = Server::shared().create_database("report");
    let mut admin = with_experiments(&db);
    let mut page: String = value(&mut admin, "SELECT report_html('weekly <test>')");
    let sql = "SELECT (SELECT jsonb_object_agg(variant, jsonb_build_array(to_char(100 * save_rate, 'FM990.0'), to_char(100 * false_suggestion_rate, 'FM990.0'),
                          to_char(100 * \"precision\", 'FM990.0'), to_char(100 * recall, 'FM990.0'), to_char(f1, 'FM0.000'),
                          to_char(daily_active_reviewers, 'FM9990.0'), to_char(average_satisfaction, 'FM0.00'))) FROM model_metrics('weekly <test>'))";
    let expected: Value = value(&mut admin, sql);
    let sentences: Vec<String> = values(&mut admin, "SELECT sentence FROM experiment_results('weekly <test>')");
    let empty: String = value(&mut admin, "SELECT report_html('empty')");
    let Some(browser) = Browser::new() else { return };
    for (name, width) in [("wide", 1280), ("narrow", 480)] {
        for scheme in ["light", "dark"] {
            let seen = browser.open(&format!("{name}-{scheme}"), &page, width, scheme == "dark");
            assert_eq!(seen["overlaps"], Value::Array(vec![]), "{name} {scheme}");
            assert_eq!(seen["outside"], Value::Array(vec![]), "{name} {scheme}");
            assert_eq!(seen["charts"], 6, "{name} {scheme}");
            assert!(seen["contrast"].as_f64().unwrap() >= 4.5, "{name} {scheme}: {seen}");
            assert_eq!(seen["dark"].as_bool(), Some(scheme == "dark"));
            for variant in ["base", "fineTuned"] {
                for number in expected[variant].as_array().unwrap() {
                    let cards = seen["cards"][variant].as_array().unwrap();
                    let there = cards.iter().any(|text| text.as_str().unwrap().trim_end_matches(" %") == number);
                    assert!(there, "{variant}: {number} is not among {cards:?}");
                }
            }
            let rows: Vec<&str> = seen["sentences"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
            assert_eq!(rows, sentences);
            assert_eq!(seen["title"], "Experiment weekly <test>");
        }
    }
    // The tables beside the charts hold the numbers of the functions.
    let daily: Vec<String> = values(
        &mut admin,
        "SELECT format('%s|%s|%s', day, variant, active_reviewers) FROM model_metrics_daily('weekly <test>')",
    );
    let effect: Vec<String> = values(
        &mut admin,
        "SELECT concat_ws('|', day, base_users, fine_tuned_users, to_char(100 * difference, 'FMSG990.00'), to_char(100 * difference_low, 'FMSG990.00'),
                          to_char(100 * difference_high, 'FMSG990.00')) FROM experiment_effect_daily('weekly <test>')",
    );
    let seen = browser.open("tables", &page, 1280, false);
    assert_eq!(seen["tables"]["reviewers"], Value::from(daily));
    assert_eq!(seen["tables"]["effect"], Value::from(effect));
    let seen = browser.open("empty", &empty, 1280, false);
    assert_eq!((&seen["charts"], &seen["overlaps"]), (&Value::from(0), &Value::Array(vec![])));
    // The check itself sees what it is there for.
    page = page.replace(
        "</main>",
        "<p style=\"position: absolute; top: 60px; left: 40px; width: 900px\">over everything</p></main>",
    );
    assert_ne!(browser.open("spoilt", &page, 1280, false)["overlaps"], Value::Array(vec![]));
}

/// Asks the page, from inside, what a person would see; runs in the browser only, the page itself has no script.
const INSPECTOR: &str = include_str!("report/inspector.js");

struct Browser {
    program: PathBuf,
    folder: PathBuf,
}

impl Browser {
    fn new() -> Option<Self> {
        let found = Command::new(repository("scripts/chromium.sh")).output().expect("scripts/chromium.sh");
        if !found.status.success() {
            println!("skipped: {}", String::from_utf8_lossy(&found.stderr).trim().replace('\n', "; "));
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
        std::fs::create_dir_all(&folder).unwrap();
        Some(Self { program: String::from_utf8(found.stdout).unwrap().trim().into(), folder })
    }

    /// Opens a page, keeps a screenshot, and returns what the inspector saw.
    fn open(&self, name: &str, page: &str, width: u32, dark: bool) -> Value {
        let file = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        std::fs::write(file("html"), page).unwrap();
        std::fs::write(
            file("inspected.html"),
            page.replace("</body>", &format!("<script>{INSPECTOR}</script></body>")),
        )
        .unwrap();
        let mut screenshot = self.command(width, dark);
        run(screenshot.arg(format!("--screenshot={}", file("png").display())).arg(file("html")));
        assert!(std::fs::metadata(file("png")).unwrap().len() > 10_000, "an empty picture");
        let dom = run(self.command(width, dark).arg("--dump-dom").arg(file("inspected.html")));
        let found =
            dom.split("<pre id=\"inspected\">").nth(1).and_then(|rest| rest.split("</pre>").next()).expect("an answer");
        serde_json::from_str(&found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).unwrap()
    }

    fn command(&self, width: u32, dark: bool) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]);
        command.arg(format!("--user-data-dir={}", self.folder.join("profile").display()));
        command.arg(format!("--window-size={width},{}", if width > 1000 { 3000 } else { 6200 }));
        if dark {
            command.arg("--blink-settings=preferredColorScheme=0");
        } else {
            command.arg("--blink-settings=preferredColorScheme=1");
        }
        command
    }
}
