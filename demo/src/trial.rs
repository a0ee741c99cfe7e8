//! The A/B test: half of the listeners under base, half under the fine-tuned model, and what came of it.

use anyhow::{Context, Result};
use postgres::Client;

use crate::dice::{self, normal};
use crate::listeners::Listener;

pub const NAME: &str = "demo";

const METRICS: &str = r#"
    SELECT line.label, max(line.value) FILTER (WHERE m.variant = 'base'), max(line.value) FILTER (WHERE m.variant = 'fineTuned')
    FROM model_metrics($1) m
    CROSS JOIN LATERAL (VALUES
        (1, 'listeners', m.users::text),
        (2, 'passages shown', m.shown::text),
        (3, 'save rate', to_char(100 * m.save_rate, '990.0 "%"')),
        (4, 'skip rate', to_char(100 * m.skip_rate, '990.0 "%"')),
        (5, 'snip rate', to_char(100 * m.snip_rate, '990.0 "%"')),
        (6, 'precision', to_char(m.precision, '0.000')),
        (7, 'recall', to_char(m.recall, '0.000')),
        (8, 'F1', to_char(m.f1, '0.000')),
        (9, 'false suggestions', to_char(100 * m.false_suggestion_rate, '990.0 "%"')),
        (10, 'scores in fifths', concat_ws(' / ', m.very_low, m.low, m.medium, m.high, m.very_high)),
        (11, 'active a day', to_char(m.daily_active_reviewers, '99990')),
        (12, 'time to process', to_char(extract(epoch FROM m.time_to_process_median), '99990 "s"')),
        (13, 'satisfaction', to_char(m.average_satisfaction, '0.00'))) line (place, label, value)
    GROUP BY line.place, line.label ORDER BY line.place"#;

/// Starts the test between base and the model; `planned` = listeners at which a decision is expected.
pub fn start(client: &mut Client, model: &str, seed: u64, planned: usize) -> Result<()> {
    client.execute(
        "SELECT start_experiment($1, candidate => $2, weights => '{0.5,0.5}', seed => $3, planned_users => $4)",
        &[&NAME, &model, &format!("demo {seed}"), &(planned as i32)],
    )?;
    Ok(())
}

/// Listeners per variant, as an application would ask for it.
pub fn split(client: &mut Client) -> Result<String> {
    let question = "SELECT string_agg(n || ' ' || variant, ', ' ORDER BY variant)
                    FROM (SELECT assign_variant(id) AS variant, count(*) AS n FROM listener GROUP BY 1) AS assigned";
    Ok(client.query_one(question, &[])?.get(0))
}

/// Every fourth listener answers "how well did these suggestions fit?"; who kept more is happier.
pub fn survey(client: &mut Client, listeners: &[Listener], seed: u64) -> Result<()> {
    let mut dice = dice::stream(seed, "survey");
    let kept = client.prepare(
        "SELECT avg((user_action IN ('saved', 'snipped'))::integer)::float8
         FROM model_performance_log WHERE user_id = $1 AND experiment = $2",
    )?;
    let answer = client.prepare("SELECT record_satisfaction($1, $2)")?;
    for listener in listeners.iter().step_by(4) {
        let share: Option<f64> = client.query_one(&kept, &[&listener.id, &NAME])?.get(0);
        let score = 1.5 + 4.0 * share.unwrap_or(0.5) + 0.5 * normal(&mut dice);
        client.execute(&answer, &[&listener.id, &(score.round().clamp(1.0, 5.0) as i32)])?;
    }
    Ok(())
}

pub fn print_metrics(client: &mut Client) -> Result<()> {
    println!("  {:<18} {:>24} {:>24}", "", "base", "fineTuned");
    for row in client.query(METRICS, &[&NAME])? {
        let value = |column: usize| row.get::<_, Option<&str>>(column).unwrap_or("-").trim().to_owned();
        println!("  {:<18} {:>24} {:>24}", row.get::<_, &str>(0), value(1), value(2));
    }
    Ok(())
}

/// One row of experiment_results.
pub struct Finding {
    metric: String,
    target: String,
    verdict: String,
    pub sentence: String,
    base: f64,
    fine_tuned: f64,
    lift: f64,
    lift_low: f64,
    lift_high: f64,
}

/// What the test showed and what was done about it.
pub struct Outcome {
    pub findings: Vec<Finding>,
    /// Variant, listeners and save rate of those who joined after the model was trained.
    newcomers: Vec<(String, i64, f64)>,
    pub live: String,
}

/// Ends the test: the model is shipped when its save rate is proved to be higher, else base stays.
pub fn decide(client: &mut Client, newcomers: &[Listener]) -> Result<Outcome> {
    let findings = findings(client)?;
    let newcomers = save_rates(client, newcomers)?;
    let better = find(&findings, "save_rate", "better").context("no result for the save rate")?;
    let ship = (better.verdict == "proved").then_some("fineTuned");
    client.execute("SELECT stop_experiment($1, ship => $2, reason => $3)", &[&NAME, &ship, &better.sentence])?;
    let live = client.query_one("SELECT served_at(now())", &[])?.get(0);
    Ok(Outcome { findings, newcomers, live })
}

fn findings(client: &mut Client) -> Result<Vec<Finding>> {
    let rows = client.query(
        "SELECT metric, target, verdict, sentence, base_estimate, fine_tuned_estimate, lift, lift_low, lift_high FROM experiment_results($1)",
        &[&NAME],
    )?;
    let findings = rows.iter().map(|row| {
        let number = |column: usize| row.get::<_, Option<f64>>(column).unwrap_or(f64::NAN);
        Finding {
            metric: row.get(0),
            target: row.get(1),
            verdict: row.get(2),
            sentence: row.get(3),
            base: number(4),
            fine_tuned: number(5),
            lift: number(6),
            lift_low: number(7),
            lift_high: number(8),
        }
    });
    Ok(findings.collect())
}

fn find<'a>(findings: &'a [Finding], metric: &str, target: &str) -> Option<&'a Finding> {
    findings.iter().find(|finding| finding.metric == metric && finding.target == target)
}

fn save_rates(client: &mut Client, listeners: &[Listener]) -> Result<Vec<(String, i64, f64)>> {
    let ids: Vec<&str> = listeners.iter().map(|listener| listener.id.as_str()).collect();
    let rows = client.query(
        "SELECT model_variant, count(DISTINCT user_id), avg((user_action IS NOT DISTINCT FROM 'saved')::integer)::float8
         FROM model_performance_log WHERE experiment = $1 AND user_id = ANY ($2)
         GROUP BY model_variant ORDER BY model_variant",
        &[&NAME, &ids],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// Checks of the experiment that did not pass.
pub fn complaints(client: &mut Client) -> Result<Vec<String>> {
    let question =
        "SELECT check_name || ' ' || verdict || ': ' || meaning FROM experiment_health($1) WHERE verdict <> 'ok'";
    Ok(client.query(question, &[&NAME])?.iter().map(|row| row.get(0)).collect())
}

impl Outcome {
    /// A metric in one line: both rates, lift with its interval, and the target that was set for it.
    pub fn change(&self, metric: &str) -> String {
        let findings = || self.findings.iter().filter(|finding| finding.metric == metric);
        let Some(first) = findings().next() else { return format!("no result for {metric}") };
        let targets: Vec<String> = findings().map(|f| format!("{} {}", f.target, f.verdict)).collect();
        format!(
            "{} {:.1} % with base, {:.1} % with the model: {:+.1} % (95 % interval {:+.1} to {:+.1} %); {}",
            metric.replace("_rate", " rate").replace('_', " "),
            100.0 * first.base,
            100.0 * first.fine_tuned,
            100.0 * first.lift,
            100.0 * first.lift_low,
            100.0 * first.lift_high,
            targets.join(", "),
        )
    }

    pub fn newcomers(&self) -> String {
        let rates: Vec<String> = self
            .newcomers
            .iter()
            .map(|(variant, n, rate)| format!("{:.1} % with {variant} ({n} listeners)", 100.0 * rate))
            .collect();
        format!("who joined after the training saved {}", rates.join(", "))
    }
}
