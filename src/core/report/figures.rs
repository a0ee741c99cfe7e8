//! The figures of the page: each a chart, the sentence that says how to read it, and its numbers as a table.

use super::chart::{bars, framed, plot, range, Bars, Ink, Line, Plot, NARROW, WIDE};
use super::text::{count, decimal, escaped, percent, points};
use super::{Curve, Error, Report};

pub struct Figure {
    pub id: &'static str,
    pub title: String,
    pub note: String,
    pub chart: Option<String>,
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    pub wide: bool,
    pub legend: bool,
}

const NOTHING: &str = "Nothing to draw yet.";

fn ink(variant: &str) -> Ink {
    if variant == "base" {
        Ink::Base
    } else {
        Ink::New
    }
}

/// Charts draw two arms; tables list all.
fn drawn(variant: &str) -> bool {
    variant == "base" || variant == "fineTuned"
}

pub fn all(report: &Report) -> Result<Vec<Figure>, Error> {
    Ok(vec![
        effect(report)?,
        rates(report)?,
        scores(report)?,
        precision_recall(report)?,
        calibration(report)?,
        reviewers(report)?,
    ])
}

/// Days of a series, in order, and their short names on the axis.
fn axis(days: &[String]) -> impl Fn(f64) -> String + '_ {
    |x| {
        let day = days.get(x.round() as usize).filter(|_| (x - x.round()).abs() < 1e-6 && x >= 0.0);
        day.map_or(String::new(), |day| day.get(5..).unwrap_or(day).to_string())
    }
}

fn effect(report: &Report) -> Result<Figure, Error> {
    let days: Vec<String> = report.effect.iter().map(|e| e.day.clone()).collect();
    let all = report.effect.iter().enumerate();
    let known: Vec<(f64, f64, f64, f64)> =
        all.filter_map(|(x, e)| Some((x as f64, e.difference?, e.difference_low?, e.difference_high?))).collect();
    // The first days are so wide that nothing else could be seen: the axis fits the later ones.
    let from = known.len().min(known.len() / 5 + usize::from(known.len() > 3));
    let fitted = known.iter().skip(from).flat_map(|&(_, d, low, high)| [d, low, high]);
    let y = range(fitted.chain([0.0]));
    let clamp = |v: f64| v.clamp(y.0, y.1);
    let chart = match known.last() {
        None => None,
        Some(&(last, ..)) => Some(plot(&Plot {
            width: WIDE,
            x: (0.0, last.max(1.0)),
            y,
            x_label: &axis(&days),
            y_label: &|y| format!("{:+.1}", 100.0 * y),
            x_ticks: days.len().clamp(2, 12),
            lines: vec![Line {
                ink: Ink::New,
                points: known.iter().map(|&(x, d, ..)| (x, clamp(d))).collect(),
                dots: known.len() < 40,
            }],
            band: known.iter().map(|&(x, _, low, high)| (x, clamp(low), clamp(high))).collect(),
            rule: Some([(0.0, 0.0), (last.max(1.0), 0.0)]),
        })?),
    };
    let note = match report.effect.last() {
        Some(e) if e.difference.is_some() => format!(
            "Save rate of fineTuned minus that of base, in percentage points, from all items shown up to each day. Now {} ({} to {}). The band is a \
             confidence sequence: it holds on every day at once, however often somebody looks. As long as it holds 0, no difference is proved.",
            points(e.difference), points(e.difference_low), points(e.difference_high)
        ),
        _ => "Save rate of fineTuned minus that of base, in percentage points, with a band that holds on every day at once.".into(),
    };
    let row = |e: &super::Effect| {
        let shares = [e.difference, e.difference_low, e.difference_high].map(points);
        [vec![e.day.clone(), count(e.base_users), count(e.fine_tuned_users)], shares.to_vec()].concat()
    };
    Ok(Figure {
        id: "effect",
        title: "Effect over time".into(),
        note,
        chart: framed_chart(WIDE, "effect", "Effect over time", "Line with a band over days", chart),
        head: vec!["Day", "Users base", "Users fineTuned", "Difference", "Low", "High"],
        rows: report.effect.iter().map(row).collect(),
        wide: true,
        legend: false,
    })
}

fn framed_chart(width: u32, id: &str, title: &str, what: &str, chart: Option<String>) -> Option<String> {
    let description = format!("{what}. The numbers follow as a table.");
    chart.map(|inside| framed(width, id, title, &description, &inside))
}

fn rates(report: &Report) -> Result<Figure, Error> {
    let of = |m: &super::Metrics| vec![m.save_rate, m.snip_rate, m.skip_rate, share(m.pending, m.shown)];
    let rows = |m: &super::Metrics| {
        [vec![escaped(&m.variant), count(m.shown)], of(m).into_iter().map(percent).collect()].concat()
    };
    grouped(
        report,
        (
            "rates",
            "What users did",
            "Share of the shown items that were saved, snipped, skipped, or wait for an answer.",
        ),
        &["saved", "snipped", "skipped", "pending"],
        of,
        (vec!["Variant", "Shown", "Saved", "Snipped", "Skipped", "Pending"], report.metrics.iter().map(rows).collect()),
    )
}

fn scores(report: &Report) -> Result<Figure, Error> {
    let counts = |m: &super::Metrics| [m.very_low, m.low, m.medium, m.high, m.very_high];
    let of = |m: &super::Metrics| {
        let all = counts(m).iter().sum();
        counts(m).iter().map(|&n| share(n, all)).collect()
    };
    let rows = |m: &super::Metrics| {
        [vec![escaped(&m.variant)], counts(m).into_iter().chain([m.unscored]).map(count).collect()].concat()
    };
    grouped(
        report,
        ("scores", "Relevance scores", "Share of the scored items in five equal steps from 0 to 1. Scores of two models compare only where both are calibrated."),
        &["0 – 0.2", "0.2 – 0.4", "0.4 – 0.6", "0.6 – 0.8", "0.8 – 1"],
        of,
        (vec!["Variant", "below 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1", "No score"], report.metrics.iter().map(rows).collect()),
    )
}

fn share(part: i64, all: i64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}

fn grouped(
    report: &Report,
    (id, title, note): (&'static str, &str, &str),
    groups: &[&str],
    of: impl Fn(&super::Metrics) -> Vec<Option<f64>>,
    (head, rows): (Vec<&'static str>, Vec<Vec<String>>),
) -> Result<Figure, Error> {
    let series: Vec<(Ink, Vec<f64>)> = report
        .metrics
        .iter()
        .filter(|m| drawn(&m.variant))
        .filter_map(|m| Some((ink(&m.variant), of(m).into_iter().collect::<Option<Vec<_>>>()?)))
        .collect();
    let tallest = series.iter().flat_map(|(_, heights)| heights).fold(0.0, |a: f64, b| a.max(*b));
    let chart = match tallest > 0.0 {
        true => {
            Some(bars(&Bars { groups, series, top: (tallest * 1.15).min(1.1) }, &|y| format!("{:.0} %", 100.0 * y))?)
        }
        false => None,
    };
    let chart = framed_chart(NARROW, id, title, "Bars by variant", chart);
    Ok(Figure { id, title: title.into(), note: note.into(), chart, head, rows, wide: false, legend: true })
}

fn precision_recall(report: &Report) -> Result<Figure, Error> {
    let points = |curve: &Curve| -> Vec<(f64, f64)> {
        curve.precision_recall.iter().filter_map(|[recall, precision]| Some(((*recall)?, (*precision)?))).collect()
    };
    let lines = curves(report, points, false);
    let note = "How many of the suggestions were kept, against how many of the kept were suggested, for every threshold of the score. Only items that users saw and answered.";
    let row = |(variant, curve): (&String, &Curve)| {
        vec![
            escaped(variant),
            decimal(curve.average_precision, 3),
            decimal(curve.roc_auc, 3),
            decimal(curve.calibration_error, 3),
        ]
    };
    Ok(Figure {
        id: "precision-recall",
        title: "Precision and recall".into(),
        note: note.into(),
        chart: unit_square(
            "precision-recall",
            "Precision and recall",
            "Precision over recall, by variant",
            lines,
            None,
        )?,
        head: vec!["Variant", "Average precision", "ROC AUC", "Calibration error"],
        rows: report.curves.iter().map(row).collect(),
        wide: false,
        legend: true,
    })
}

fn calibration(report: &Report) -> Result<Figure, Error> {
    let points = |curve: &Curve| curve.calibration.iter().map(|&[mean, share, _]| (mean, share)).collect::<Vec<_>>();
    let lines = curves(report, points, true);
    let note = "Share of items kept, against the score that promised it, in ten steps. On the straight line the score is the chance itself.";
    let row = |(variant, curve): (&String, &Curve)| {
        let bins = curve.calibration.iter();
        bins.map(|&[mean, share, items]| {
            vec![escaped(variant), decimal(Some(mean), 3), percent(Some(share)), count(items as i64)]
        })
        .collect::<Vec<_>>()
    };
    Ok(Figure {
        id: "calibration",
        title: "Calibration".into(),
        note: note.into(),
        chart: unit_square(
            "calibration",
            "Calibration",
            "Share kept over score, by variant",
            lines,
            Some([(0.0, 0.0), (1.0, 1.0)]),
        )?,
        head: vec!["Variant", "Mean score", "Kept", "Items"],
        rows: report.curves.iter().flat_map(row).collect(),
        wide: false,
        legend: true,
    })
}

fn curves(report: &Report, points: impl Fn(&Curve) -> Vec<(f64, f64)>, dots: bool) -> Vec<Line> {
    let drawn = report.curves.iter().filter(|(variant, _)| drawn(variant));
    let lines = drawn.map(|(variant, curve)| Line { ink: ink(variant), points: points(curve), dots });
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn unit_square(
    id: &str,
    title: &str,
    what: &str,
    lines: Vec<Line>,
    rule: Option<[(f64, f64); 2]>,
) -> Result<Option<String>, Error> {
    if lines.is_empty() {
        return Ok(None);
    }
    let label = |v: f64| format!("{v:.1}");
    let chart = plot(&Plot {
        width: NARROW,
        x: (0.0, 1.0),
        y: (0.0, 1.0),
        x_label: &label,
        y_label: &label,
        x_ticks: 6,
        lines,
        band: Vec::new(),
        rule,
    })?;
    Ok(framed_chart(NARROW, id, title, what, Some(chart)))
}

fn reviewers(report: &Report) -> Result<Figure, Error> {
    let mut days: Vec<String> = report.daily.iter().map(|d| d.day.clone()).collect();
    days.sort_unstable();
    days.dedup();
    let at = |day: &str| days.iter().position(|d| d == day).unwrap_or_default() as f64;
    let line = |variant: &str| Line {
        ink: ink(variant),
        points: report
            .daily
            .iter()
            .filter(|d| d.variant == variant)
            .map(|d| (at(&d.day), d.active_reviewers as f64))
            .collect(),
        dots: days.len() < 40,
    };
    let lines: Vec<Line> = ["base", "fineTuned"].into_iter().map(line).filter(|l| !l.points.is_empty()).collect();
    let most = report.daily.iter().map(|d| d.active_reviewers).max().unwrap_or(0);
    let chart = match lines.is_empty() {
        true => None,
        false => Some(plot(&Plot {
            width: WIDE,
            x: (0.0, (days.len() as f64 - 1.0).max(1.0)),
            y: (0.0, most as f64 * 1.1 + 1.0),
            x_label: &axis(&days),
            y_label: &|y| count(y.round() as i64),
            x_ticks: days.len().clamp(2, 12),
            lines,
            band: Vec::new(),
            rule: None,
        })?),
    };
    let row = |day: &super::Day| vec![day.day.clone(), escaped(&day.variant), count(day.active_reviewers)];
    Ok(Figure {
        id: "reviewers",
        title: "Daily reviewers".into(),
        note: "Different users who saved, skipped or snipped something on that day (UTC).".into(),
        chart: framed_chart(WIDE, "reviewers", "Daily reviewers", "Lines over days, by variant", chart),
        head: vec!["Day", "Variant", "Reviewers"],
        rows: report.daily.iter().map(row).collect(),
        wide: true,
        legend: true,
    })
}

/// Chart, or a word that there is none yet.
pub fn chart_or_nothing(figure: &Figure) -> String {
    figure.chart.clone().unwrap_or_else(|| format!("<p class=\"nothing\">{NOTHING}</p>"))
}
