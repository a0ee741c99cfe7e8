//! What follows from the numbers, by the rules of docs/experiments.md, "When to stop".

use super::text::{change, count};
use super::{Outcome, Report};

/// A test that did not see all days of the week is no test yet.
const FULL_DAYS: i64 = 7;

/// The next step in one or two sentences of plain text.
pub fn next_step(report: &Report, goal: &Outcome) -> String {
    let alarm = report.health.iter().any(|check| check.verdict == "alarm");
    let users = goal.base_users + goal.fine_tuned_users;
    if report.status == "stopped" {
        return match &report.shipped {
            Some(variant) => format!("Nothing is left to do: it has ended, and {variant} serves everybody."),
            None => "Nothing is left to do: it has ended, and what was deployed stayed.".into(),
        };
    }
    if alarm {
        return "Find the cause of the alarm first; no decision can rest on these numbers.".into();
    }
    match goal.verdict.as_str() {
        "proved" if report.days < FULL_DAYS => format!(
            "Let it run until it has seen all days of the week: {} so far, {FULL_DAYS} are needed.",
            days(report.days)
        ),
        "proved" => format!(
            "fineTuned may be shipped. What to promise is the near end of the interval: {}, not the {} seen.",
            change(near_end(goal)),
            change(goal.lift)
        ),
        "refuted" => "Keep base and end the test: it is ruled out that fineTuned is better.".into(),
        _ if users >= report.planned_users => format!(
            "Keep base and end the test: with all {} planned users no difference was found. It may still be anything from {} to {}.",
            count(report.planned_users),
            change(goal.lift_low),
            change(goal.lift_high)
        ),
        _ => format!(
            "Let it run: {} of {} planned users so far, after {}. Looking again at any time does no harm.",
            count(users),
            count(report.planned_users),
            days(report.days)
        ),
    }
}

fn days(n: i64) -> String {
    match n {
        1 => "1 full day".into(),
        n => format!("{n} full days"),
    }
}

/// The end of the lift's interval that lies nearer to no change.
fn near_end(goal: &Outcome) -> Option<f64> {
    let (low, high) = (goal.lift_low?, goal.lift_high?);
    Some(if low.abs() < high.abs() { low } else { high })
}
