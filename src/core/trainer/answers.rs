//! The gate for a chat model: its yes or no beside another model's, about the same items for the same users.

use rand::RngExt;
use serde::Serialize;

use super::error::Error;
use super::gate::{percentile, Verdict, MIN_RANKED};
use super::panel::MIN_GATE;
use super::params::Params;
use super::progress::{Observer, Watch};
use super::rng;
use crate::core::metrics::confusion::Confusion;

/// One item that a user saved or skipped, and what two models said about it; `None` = neither yes nor no.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    pub user: u32,
    pub saved: bool,
    pub base: Option<bool>,
    pub model: Option<bool>,
}

/// How one model did. An answer that is neither yes nor no counts as the wrong one.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sheet {
    pub rows: usize,
    pub tp: usize,
    pub fp: usize,
    #[serde(rename = "fn")]
    pub fn_: usize,
    pub tn: usize,
    pub unparseable: usize,
    pub precision: Option<f64>,
    pub recall: Option<f64>,
    pub f1: Option<f64>,
    pub accuracy: Option<f64>,
    pub false_suggestion_rate: Option<f64>,
}

/// Numbers of the verdict under the names of `model_evaluation`. The AUC of a yes or no is the mean of both kinds' shares
/// that were answered rightly: a model that says yes to everything has 0.5.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Answered {
    pub users: usize,
    pub examples: usize,
    pub base_auc: Option<f64>,
    pub auc: Option<f64>,
    pub auc_delta: Option<f64>,
    pub auc_delta_low: Option<f64>,
    pub auc_delta_high: Option<f64>,
    pub base_f1: Option<f64>,
    pub f1: Option<f64>,
    pub f1_delta: Option<f64>,
    /// 90 % paired bootstrap interval over users.
    pub f1_delta_low: Option<f64>,
    pub f1_delta_high: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AnswersCompared {
    pub answered: Answered,
    pub base: Sheet,
    pub model: Sheet,
    pub verdict: Verdict,
    pub reason: String,
}

/// Both models' counts for one user.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    base: Confusion,
    model: Confusion,
}

impl Pair {
    fn count(&mut self, row: &Judged) {
        add(&mut self.base, row.saved, row.base.unwrap_or(!row.saved));
        add(&mut self.model, row.saved, row.model.unwrap_or(!row.saved));
    }

    fn merge(&mut self, other: &Self) {
        for (sum, more) in [(&mut self.base, &other.base), (&mut self.model, &other.model)] {
            sum.tp += more.tp;
            sum.fp += more.fp;
            sum.fn_ += more.fn_;
            sum.tn += more.tn;
        }
    }

    fn delta(&self, of: fn(&Confusion) -> Option<f64>) -> Option<f64> {
        Some(of(&self.model)? - of(&self.base)?)
    }
}

fn add(counts: &mut Confusion, saved: bool, said: bool) {
    match (saved, said) {
        (true, true) => counts.tp += 1.0,
        (false, true) => counts.fp += 1.0,
        (true, false) => counts.fn_ += 1.0,
        (false, false) => counts.tn += 1.0,
    }
}

fn f1(counts: &Confusion) -> Option<f64> {
    counts.f(1.0)
}

fn sheet(counts: &Confusion, unparseable: usize) -> Sheet {
    Sheet {
        rows: (counts.tp + counts.fp + counts.fn_ + counts.tn) as usize,
        tp: counts.tp as usize,
        fp: counts.fp as usize,
        fn_: counts.fn_ as usize,
        tn: counts.tn as usize,
        unparseable,
        precision: counts.precision(),
        recall: counts.recall(),
        f1: f1(counts),
        accuracy: counts.accuracy(),
        false_suggestion_rate: counts.specificity().map(|right| 1.0 - right),
    }
}

/// Compares two models on the rows that both answered. `limit` says why there are no more rows, if something stopped them.
///
/// # Errors
/// The observer's stop.
pub fn compare_answers(
    rows: &[Judged],
    seed: i64,
    limit: Option<&str>,
    observer: &mut dyn Observer,
) -> Result<AnswersCompared, Error> {
    let mut watch = Watch::new(observer, None);
    let (users, all) = by_user(rows);
    let counted = |of: fn(&Judged) -> Option<bool>| rows.iter().filter(|row| of(row).is_none()).count();
    let (base, model) = (sheet(&all.base, counted(|r| r.base)), sheet(&all.model, counted(|r| r.model)));
    let mut answered = Answered {
        users: users.len(),
        examples: rows.len(),
        base_auc: all.base.balanced_accuracy(),
        auc: all.model.balanced_accuracy(),
        auc_delta: all.delta(Confusion::balanced_accuracy),
        base_f1: base.f1,
        f1: model.f1,
        f1_delta: all.delta(f1),
        ..Answered::default()
    };
    let [f1_deltas, auc_deltas] = bootstrap(&users, seed, &mut watch)?;
    (answered.f1_delta_low, answered.f1_delta_high) = interval(&f1_deltas);
    (answered.auc_delta_low, answered.auc_delta_high) = interval(&auc_deltas);
    let (verdict, reason) = judge(&answered, &base, &model, limit);
    Ok(AnswersCompared { answered, base, model, verdict, reason })
}

fn by_user(rows: &[Judged]) -> (Vec<Pair>, Pair) {
    let mut users = std::collections::BTreeMap::<u32, Pair>::new();
    let mut all = Pair::default();
    for row in rows {
        users.entry(row.user).or_default().count(row);
        all.count(row);
    }
    (users.into_values().collect(), all)
}

/// Sorted differences of F1 and of AUC over users drawn with replacement.
fn bootstrap(users: &[Pair], seed: i64, watch: &mut Watch<'_>) -> Result<[Vec<f64>; 2], Error> {
    let mut rng = rng::stream(seed, "bootstrap of answers");
    let mut deltas = [Vec::new(), Vec::new()];
    if users.is_empty() {
        return Ok(deltas);
    }
    for _ in 0..Params::default().bootstrap_draws {
        watch.check()?;
        let mut drawn = Pair::default();
        (0..users.len()).for_each(|_| drawn.merge(&users[rng.random_range(0..users.len())]));
        deltas[0].extend(drawn.delta(f1));
        deltas[1].extend(drawn.delta(Confusion::balanced_accuracy));
    }
    deltas.iter_mut().for_each(|list| list.sort_unstable_by(f64::total_cmp));
    Ok(deltas)
}

fn interval(sorted: &[f64]) -> (Option<f64>, Option<f64>) {
    match sorted.is_empty() {
        true => (None, None),
        false => (Some(percentile(sorted, 0.05)), Some(percentile(sorted, 0.95))),
    }
}

/// A number that is missing is a refusal.
fn judge(answered: &Answered, base: &Sheet, model: &Sheet, limit: Option<&str>) -> (Verdict, String) {
    let stopped = limit.map_or(String::new(), |limit| format!("; {limit}"));
    if let Some(reason) = too_little(answered, base) {
        return (Verdict::NotEnoughData, reason + &stopped);
    }
    let number = |value: Option<f64>| value.map_or("unknown".to_owned(), |v| format!("{v:.4}"));
    let positive = |value: Option<f64>| value.is_some_and(|v| v > 0.0);
    let mut failures = Vec::new();
    if !positive(answered.f1_delta_low) {
        failures.push(format!(
            "better answers are not proved: F1 {} to {}, lower bound of the difference {}",
            number(base.f1),
            number(model.f1),
            number(answered.f1_delta_low)
        ));
    }
    if !positive(answered.auc_delta_low) {
        failures.push(format!(
            "it does not tell saved from skipped better: balanced accuracy {} to {}, lower bound of the difference {}",
            number(answered.base_auc),
            number(answered.auc),
            number(answered.auc_delta_low)
        ));
    }
    let counts = format!("{} rows of {} users", answered.examples, answered.users);
    match failures.is_empty() {
        true => {
            let reason = format!(
                "answers better on {counts}: F1 {} to {} (difference at least {}), precision {} to {}, recall {} to {}, \
                 answers that are neither yes nor no {} to {}{stopped}",
                number(base.f1),
                number(model.f1),
                number(answered.f1_delta_low),
                number(base.precision),
                number(model.precision),
                number(base.recall),
                number(model.recall),
                base.unparseable,
                model.unparseable
            );
            (Verdict::Passed, reason)
        }
        false => (Verdict::Refused, format!("kept what serves, on {counts}: {}{stopped}", failures.join("; "))),
    }
}

fn too_little(answered: &Answered, sheet: &Sheet) -> Option<String> {
    let (users, rows) = (answered.users, answered.examples);
    let (saved, skipped) = (sheet.tp + sheet.fn_, sheet.fp + sheet.tn);
    if users < MIN_GATE {
        return Some(format!(
            "{users} users have answered rows, at least {MIN_GATE} are needed: {} more",
            MIN_GATE - users
        ));
    }
    if rows < MIN_RANKED {
        return Some(format!("{rows} rows are answered, at least {MIN_RANKED} are needed: {} more", MIN_RANKED - rows));
    }
    (saved == 0 || skipped == 0).then(|| format!("all {rows} rows are of one kind: {saved} saved, {skipped} skipped"))
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::*;

    /// 30 users x 10 rows, every second one saved; each model is wrong wherever its number divides the row's.
    fn rows(base_wrong: u32, model_wrong: u32) -> Vec<Judged> {
        let row = |n: u32| {
            let saved = n.is_multiple_of(2);
            let said = |wrong: u32| Some(if (n * 7).is_multiple_of(wrong) { !saved } else { saved });
            Judged { user: n / 10, saved, base: said(base_wrong), model: said(model_wrong) }
        };
        (0..300).map(row).collect()
    }

    fn compare(rows: &[Judged]) -> AnswersCompared {
        compare_answers(rows, 7, None, &mut Unobserved).unwrap()
    }

    #[test]
    fn the_better_model_passes_and_only_that() {
        let better = compare(&rows(3, 11));
        assert_eq!(better.verdict, Verdict::Passed, "{}", better.reason);
        assert_eq!((better.answered.users, better.answered.examples), (30, 300));
        assert!(better.answered.f1 > better.answered.base_f1 && better.answered.f1_delta_low > Some(0.0));
        assert_eq!(compare(&rows(11, 3)).verdict, Verdict::Refused);
        let same = compare(&rows(5, 5));
        assert_eq!((same.verdict, same.answered.f1_delta), (Verdict::Refused, Some(0.0)));
        assert_eq!(compare(&rows(3, 11)), better, "the same seed gives the same verdict");
    }

    #[test]
    fn counts_are_those_of_the_answers() {
        let mut rows = rows(3, 11);
        rows[0].model = None;
        let compared = compare(&rows);
        let model = &compared.model;
        assert_eq!((model.rows, model.unparseable, compared.base.unparseable), (300, 1, 0));
        assert_eq!(model.tp + model.fn_, 150);
        assert_eq!(model.fp + model.tn, 150);
        let precision = model.tp as f64 / (model.tp + model.fp) as f64;
        assert!((model.precision.unwrap() - precision).abs() < 1e-12);
    }

    #[test]
    fn saying_yes_to_everything_is_no_way_through() {
        let mut rows = rows(2, 11);
        // The base model is right about every skipped item and half of the saved ones; F1 alone would be fooled.
        rows.iter_mut().for_each(|row| {
            row.base = Some(row.saved && row.user % 3 == 0);
            row.model = Some(true);
        });
        let fooled = compare(&rows);
        assert!(fooled.answered.f1_delta_low > Some(0.0), "{:?}", fooled.answered);
        assert_eq!(fooled.verdict, Verdict::Refused, "{}", fooled.reason);
        assert!(fooled.reason.contains("tell saved from skipped"), "{}", fooled.reason);
    }

    #[test]
    fn silence_is_wrong_whatever_was_right() {
        let mut rows = rows(3, 11);
        rows.iter_mut().for_each(|row| row.model = None);
        let silent = compare(&rows);
        assert_eq!((silent.model.tp, silent.model.tn, silent.model.unparseable), (0, 0, 300));
        assert_eq!(silent.verdict, Verdict::Refused);
    }

    #[test]
    fn too_little_says_how_much_and_why() {
        let rows = rows(3, 11);
        let limited = compare_answers(&rows[..150], 7, Some("stopped at max_usd"), &mut Unobserved).unwrap();
        assert_eq!(limited.verdict, Verdict::NotEnoughData);
        assert!(
            limited.reason.starts_with("15 users") && limited.reason.ends_with("; stopped at max_usd"),
            "{}",
            limited.reason
        );
        let one_kind: Vec<Judged> = (0..600).map(|n| Judged { user: n / 10, saved: true, ..rows[0] }).collect();
        assert!(compare(&one_kind).reason.contains("of one kind"));
        assert_eq!(compare(&[]).verdict, Verdict::NotEnoughData);
    }
}
