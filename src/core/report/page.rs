//! The page: verdict first, then whether to believe it, then the figures.

use super::advice::next_step;
use super::figures::{self, chart_or_nothing, Figure};
use super::text::{chance, change, count, decimal, escaped, metric, percent, wait};
use super::{Error, Metrics, Outcome, Report};

const STYLE: &str = include_str!("style.css");

/// The whole page: no script, no request, nothing but itself.
pub fn html(report: &Report) -> Result<String, Error> {
    let figures: String = figures::all(report)?.iter().map(figure).collect();
    let name = escaped(&report.name);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Experiment {name}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         {}{}{}{}<section class=\"figures\" aria-label=\"Figures\">\n{figures}</section>\n{}{}{}</main>\n</body>\n</html>\n",
        header(report),
        verdict(report),
        trust(report),
        cards(report),
        results(report),
        health(report),
        footer(report),
    ))
}

fn header(report: &Report) -> String {
    let users: i64 = report.metrics.iter().map(|m| m.users).sum();
    let shown: i64 = report.metrics.iter().map(|m| m.shown).sum();
    let period = match &report.stopped {
        Some(stopped) => format!("{} to {}", escaped(&report.started), escaped(stopped)),
        None => format!("since {}", escaped(&report.started)),
    };
    let shipped = report.shipped.as_ref().map_or(String::new(), |variant| format!(" · shipped {}", escaped(variant)));
    format!(
        "<header>\n<p class=\"kicker\">A/B test · base against fineTuned</p>\n<h1>{} <span class=\"chip {status}\">{status}</span></h1>\n\
         <p class=\"sub\">{period}{shipped} · {} users · {} impressions</p>\n</header>\n",
        escaped(&report.name),
        count(users),
        count(shown),
        status = escaped(&report.status),
    )
}

/// The question that decides: the first of experiment_results.
fn goal(report: &Report) -> Option<&Outcome> {
    report.results.iter().find(|r| r.metric == "save_rate" && r.target == "better").or(report.results.first())
}

fn verdict(report: &Report) -> String {
    let Some(goal) = goal(report) else { return String::new() };
    let targets: String = report
        .results
        .iter()
        .filter(|r| r.target != "better")
        .map(|r| {
            format!(
                "<li><span class=\"chip {}\">{}</span> {} {}</li>\n",
                class(&r.verdict),
                escaped(&r.verdict),
                metric(&r.metric),
                escaped(&r.target)
            )
        })
        .collect();
    format!(
        "<section class=\"verdict {}\" aria-label=\"Verdict\">\n<p class=\"word\">{}</p>\n<p class=\"sentence\">{}</p>\n<p class=\"next\"><strong>Next:</strong> {}</p>\n<ul class=\"targets\">\n{targets}</ul>\n</section>\n",
        class(&goal.verdict),
        match goal.verdict.as_str() {
            "proved" => "fineTuned is better",
            "refuted" => "fineTuned is not better",
            _ => "Not decided yet",
        },
        escaped(&goal.sentence),
        escaped(&next_step(report, goal)),
    )
}

/// Class names that the style sheet knows.
fn class(verdict: &str) -> &'static str {
    match verdict {
        "proved" | "ok" => "good",
        "refuted" | "alarm" => "bad",
        _ => "open",
    }
}

fn trust(report: &Report) -> String {
    let alarms: Vec<String> =
        report.health.iter().filter(|c| c.verdict == "alarm").map(|c| escaped(&metric(&c.check_name))).collect();
    match alarms.is_empty() {
        true => String::new(),
        false => format!(
            "<section class=\"alarm\" role=\"alert\"><strong>Do not believe these numbers yet.</strong> Alarm: {}. See Health below.</section>\n",
            alarms.join(", ")
        ),
    }
}

fn cards(report: &Report) -> String {
    let of = |variant: &str| report.metrics.iter().find(|m| m.variant == variant);
    let (Some(base), Some(new)) = (of("base"), of("fineTuned")) else { return String::new() };
    let lift = |metric: &str| {
        let row = report.results.iter().find(|r| r.metric == metric && r.target == "better");
        row.filter(|r| r.lift.is_some()).map_or(String::new(), |r| {
            format!("{} <span>({} to {})</span>", change(r.lift), change(r.lift_low), change(r.lift_high))
        })
    };
    type Cell = fn(&Metrics) -> String;
    let all: [(&str, Cell, String); 8] = [
        ("Save rate", |m| percent(m.save_rate), lift("save_rate")),
        ("False suggestions", |m| percent(m.false_suggestion_rate), lift("false_suggestion_rate")),
        ("Precision", |m| percent(m.precision), lift("precision")),
        ("Recall", |m| percent(m.recall), String::new()),
        ("F1", |m| decimal(m.f1, 3), String::new()),
        ("Reviewers a day", |m| decimal(m.daily_active_reviewers, 1), String::new()),
        (
            "Time to process",
            |m| format!("{} <small>median, {} mean</small>", wait(m.wait_median), wait(m.wait_mean)),
            String::new(),
        ),
        ("Satisfaction, 1 to 5", |m| decimal(m.average_satisfaction, 2), String::new()),
    ];
    let cards: String = all
        .iter()
        .map(|(title, cell, lift)| {
            let lift = if lift.is_empty() { String::new() } else { format!("<p class=\"lift\">{lift}</p>") };
            format!(
                "<article class=\"card\"><h3>{title}</h3><dl><div class=\"new\"><dt>fineTuned</dt><dd>{}</dd></div>\
                 <div class=\"base\"><dt>base</dt><dd>{}</dd></div></dl>{lift}</article>\n",
                cell(new),
                cell(base)
            )
        })
        .collect();
    format!("<section class=\"cards\" aria-label=\"Key figures\">\n{cards}</section>\n")
}

fn figure(figure: &Figure) -> String {
    let legend = match figure.legend {
        true => "<p class=\"legend\" aria-hidden=\"true\"><span class=\"key base\"></span>base <span class=\"key new\"></span>fineTuned</p>",
        false => "",
    };
    let numbers = match figure.rows.is_empty() {
        true => String::new(),
        false => format!(
            "<details><summary>Numbers</summary>{}</details>\n",
            table(&figure.title, &figure.head, &figure.rows)
        ),
    };
    format!(
        "<figure id=\"{}\"{}>\n<figcaption><h2>{}</h2>{legend}<p>{}</p></figcaption>\n{}\n{numbers}</figure>\n",
        figure.id,
        if figure.wide { " class=\"wide\"" } else { "" },
        escaped(&figure.title),
        figure.note,
        chart_or_nothing(figure),
    )
}

/// Cells are HTML already.
fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let head: String = head.iter().map(|cell| format!("<th scope=\"col\">{cell}</th>")).collect();
    let row = |cells: &Vec<String>| -> String {
        format!("<tr>{}</tr>", cells.iter().map(|cell| format!("<td>{cell}</td>")).collect::<String>())
    };
    let rows: String = rows.iter().map(row).collect();
    format!("<div class=\"scroll\"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>")
}

fn chip(verdict: &str) -> String {
    format!("<span class=\"chip {}\">{}</span>", class(verdict), escaped(verdict))
}

fn results(report: &Report) -> String {
    let row = |r: &Outcome| {
        vec![
            chip(&r.verdict),
            escaped(&r.sentence),
            match r.lift {
                Some(_) => {
                    format!("{} <small>({} to {})</small>", change(r.lift), change(r.lift_low), change(r.lift_high))
                }
                None => decimal(None, 0),
            },
            chance(r.p_always),
            decimal(r.design_effect, 1),
        ]
    };
    let users = goal(report).map_or(0, |g| g.base_users + g.fine_tuned_users);
    format!(
        "<section class=\"panel\" id=\"results\">\n<h2>Results</h2>\n<p>{} users count, {} were planned. Intervals and p hold however often somebody looks. \
         The design effect says how much less the events of one user tell than as many of different users.</p>\n{}</section>\n",
        count(users),
        count(report.planned_users),
        table("Results", &["Verdict", "In words", "Relative change", "p", "Design effect"], &report.results.iter().map(row).collect::<Vec<_>>())
    )
}

fn health(report: &Report) -> String {
    let value = |v: Option<f64>| match v {
        Some(v) if v.fract() == 0.0 => count(v as i64),
        v => decimal(v, 4),
    };
    let rows: Vec<_> = report
        .health
        .iter()
        .map(|c| vec![chip(&c.verdict), escaped(&metric(&c.check_name)), value(c.value), escaped(&c.meaning)])
        .collect();
    format!(
        "<section class=\"panel\" id=\"health\">\n<h2>Health</h2>\n<p>Whether the numbers above may be believed.</p>\n{}</section>\n",
        table("Health", &["Verdict", "Check", "Value", "Meaning"], &rows)
    )
}

fn footer(report: &Report) -> String {
    format!(
        "<footer><p>Made by pg_finetune on {}. Suggested means a relevance score of at least 0.5; kept means saved or snipped; undefined figures are shown as –. \
         Every number is what model_metrics, experiment_results and experiment_health return.</p></footer>\n",
        escaped(&report.generated)
    )
}
