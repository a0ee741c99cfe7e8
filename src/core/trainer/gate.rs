//! The gate: whether a model may be shown to users, judged on newest actions of users it was never trained on.

use rand::RngExt;
use serde::Serialize;

use super::candidates::MIN_COVERAGE;
use super::error::Error;
use super::evaluate::{average, measure_queries, Coverage, Measures};
use super::panel::{Panel, Unit, MIN_GATE};
use super::progress::Watch;
use super::rng;
use super::store::Store;
use super::vectors::Rows;
use super::Adapter;

/// Newest shown items that a verdict needs.
pub(super) const MIN_RANKED: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verdict {
    #[serde(rename = "passed")]
    Passed,
    #[serde(rename = "refused")]
    Refused,
    #[serde(rename = "not enough data")]
    NotEnoughData,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::NotEnoughData => "not enough data",
        }
    }
}

/// A change relative to the base with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RelativeChange {
    pub change: f64,
    pub low: f64,
    pub high: f64,
}

/// The model beside the one it would replace, called base here, on the gate users; what could not be measured is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Evaluation {
    pub users: usize,
    pub examples: usize,
    pub base_auc: Option<f64>,
    pub auc: Option<f64>,
    pub auc_delta: Option<f64>,
    /// 90 % paired bootstrap interval over users.
    pub auc_delta_low: Option<f64>,
    pub auc_delta_high: Option<f64>,
    pub base_save_rate_10: Option<f64>,
    pub save_rate_10: Option<f64>,
    pub base_fpr_50: Option<f64>,
    pub fpr_50: Option<f64>,
    pub base_coverage_10: Option<f64>,
    pub coverage_10: Option<f64>,
    pub knn3_auc: Option<f64>,
    pub rocchio_auc: Option<f64>,
    pub popularity_auc: Option<f64>,
    /// Ranked items that no user had acted on in the training part, and how those are ranked.
    pub cold_examples: usize,
    pub cold_auc_delta: Option<f64>,
    pub cold_auc_delta_high: Option<f64>,
    pub save_rate_10_change: Option<RelativeChange>,
    pub fpr_50_change: Option<RelativeChange>,
}

/// One of the two models: the judging users and items in its space, and its way from a profile to a query.
pub(super) struct Side<'a> {
    pub panel: &'a Panel,
    /// The same users with only the items that training never saw.
    pub cold: &'a Panel,
    pub items: &'a Store,
    pub coverage: &'a Coverage,
    pub adapter: &'a Adapter,
}

impl Side<'_> {
    fn measure(&self, panel: &Panel, watch: &mut Watch<'_>) -> Result<(Rows, Vec<Measures>), Error> {
        let queries = panel.queries(self.adapter, watch)?;
        let measures = measure_queries(panel, self.items, &queries, watch)?;
        Ok((queries, measures))
    }
}

/// How a comparison is made. Both sides hold the same users and lists in the same order.
pub(super) struct Gate {
    pub draws: usize,
    pub seed: i64,
}

impl Gate {
    /// Compares two models; the baselines are left to the caller.
    pub fn evaluate(&self, base: &Side, model: &Side, watch: &mut Watch<'_>) -> Result<Evaluation, Error> {
        let mut out = Evaluation {
            users: base.panel.members.len(),
            examples: base.panel.ranked(),
            cold_examples: base.cold.ranked(),
            ..Evaluation::default()
        };
        if out.users == 0 {
            return Ok(out);
        }
        let (old_queries, old) = base.measure(base.panel, watch)?;
        let (new_queries, new) = model.measure(model.panel, watch)?;
        out.base_auc = Some(average(&old, |m| m.auc));
        out.auc = Some(average(&new, |m| m.auc));
        out.base_save_rate_10 = Some(average(&old, |m| m.save_rate_10));
        out.save_rate_10 = Some(average(&new, |m| m.save_rate_10));
        out.base_fpr_50 = Some(average(&old, |m| m.fpr_50));
        out.fpr_50 = Some(average(&new, |m| m.fpr_50));
        out.base_coverage_10 = Some(base.coverage.of(&old_queries, watch)?);
        out.coverage_10 = Some(model.coverage.of(&new_queries, watch)?);
        let bootstrap = Bootstrap::of(&old, &new, self.draws, self.seed, watch)?;
        out.auc_delta = out.auc.zip(out.base_auc).map(|(new, old)| new - old);
        out.auc_delta_low = Some(percentile(&bootstrap.auc_deltas, 0.05));
        out.auc_delta_high = Some(percentile(&bootstrap.auc_deltas, 0.95));
        out.save_rate_10_change = change(out.base_save_rate_10, out.save_rate_10, &bootstrap.save_rate_changes);
        out.fpr_50_change = change(out.base_fpr_50, out.fpr_50, &bootstrap.fpr_changes);
        self.evaluate_cold(base, model, &mut out, watch)?;
        Ok(out)
    }

    fn evaluate_cold(
        &self,
        base: &Side,
        model: &Side,
        out: &mut Evaluation,
        watch: &mut Watch<'_>,
    ) -> Result<(), Error> {
        if base.cold.members.is_empty() {
            return Ok(());
        }
        let ((_, old), (_, new)) = (base.measure(base.cold, watch)?, model.measure(model.cold, watch)?);
        out.cold_auc_delta = Some(average(&new, |m| m.auc) - average(&old, |m| m.auc));
        if base.cold.members.len() >= 2 {
            let bootstrap = Bootstrap::of(&old, &new, self.draws, self.seed, watch)?;
            out.cold_auc_delta_high = Some(percentile(&bootstrap.auc_deltas, 0.95));
        }
        Ok(())
    }
}

/// Changes of the means over users drawn with replacement, each list sorted.
struct Bootstrap {
    auc_deltas: Vec<f64>,
    save_rate_changes: Vec<f64>,
    fpr_changes: Vec<f64>,
}

impl Bootstrap {
    fn of(old: &[Measures], new: &[Measures], draws: usize, seed: i64, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let mut rng = rng::stream(seed, "bootstrap");
        let users = old.len();
        let mut out = Self { auc_deltas: Vec::new(), save_rate_changes: Vec::new(), fpr_changes: Vec::new() };
        for _ in 0..draws {
            watch.check()?;
            let (mut before, mut after) = (Measures::default(), Measures::default());
            for _ in 0..users {
                let user = rng.random_range(0..users);
                before.add(&old[user]);
                after.add(&new[user]);
            }
            out.auc_deltas.push((after.auc - before.auc) / users as f64);
            out.save_rate_changes.push(relative(before.save_rate_10, after.save_rate_10));
            out.fpr_changes.push(relative(before.fpr_50, after.fpr_50));
        }
        for list in [&mut out.auc_deltas, &mut out.save_rate_changes, &mut out.fpr_changes] {
            list.retain(|v| v.is_finite());
            list.sort_unstable_by(f64::total_cmp);
        }
        Ok(out)
    }
}

impl Measures {
    fn add(&mut self, other: &Self) {
        self.auc += other.auc;
        self.save_rate_10 += other.save_rate_10;
        self.fpr_50 += other.fpr_50;
    }
}

fn relative(before: f64, after: f64) -> f64 {
    (after - before) / before
}

fn change(before: Option<f64>, after: Option<f64>, draws: &[f64]) -> Option<RelativeChange> {
    let change = relative(before?, after?);
    let known = change.is_finite() && !draws.is_empty();
    known.then(|| RelativeChange { change, low: percentile(draws, 0.025), high: percentile(draws, 0.975) })
}

/// Of a sorted list, between its two nearest values.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + part * (sorted[above] - sorted[below])
}

/// Verdict and reason. A number that is missing is a refusal, but for cold items: there may be none. `unchanged` says
/// why there is nothing to prove.
pub(super) fn judge(evaluation: &Evaluation, unit: Unit, unchanged: Option<&str>) -> (Verdict, String) {
    if let Some(reason) = too_little(evaluation, unit) {
        return (Verdict::NotEnoughData, reason);
    }
    if let Some(reason) = unchanged {
        return (Verdict::Refused, reason.to_owned());
    }
    let failures = failures(evaluation);
    if failures.is_empty() {
        return (Verdict::Passed, summary(evaluation, unit));
    }
    (Verdict::Refused, format!("kept what serves: {}", failures.join("; ")))
}

fn too_little(evaluation: &Evaluation, unit: Unit) -> Option<String> {
    let (found, unit) = (evaluation.users, unit.name());
    if found < MIN_GATE {
        return Some(format!(
            "{found} {unit} set aside for the verdict have both saved and skipped items among the newest, at least {MIN_GATE} \
             are needed: {} more",
            MIN_GATE - found
        ));
    }
    (evaluation.examples < MIN_RANKED).then(|| {
        format!(
            "the {found} {unit} set aside for the verdict have {} newest items, at least {MIN_RANKED} are needed: {} more",
            evaluation.examples,
            MIN_RANKED - evaluation.examples
        )
    })
}

fn failures(e: &Evaluation) -> Vec<String> {
    let mut out = Vec::new();
    let number = |value: Option<f64>| value.map_or("unknown".to_owned(), |v| format!("{v:.4}"));
    if !e.auc_delta_low.is_some_and(|low| low > 0.0) {
        let (base, auc, low) = (number(e.base_auc), number(e.auc), number(e.auc_delta_low));
        out.push(format!("better ranking is not proved: AUC {base} to {auc}, lower bound of the difference {low}"));
    }
    if !e.fpr_50.zip(e.base_fpr_50).is_some_and(|(new, old)| new <= old) {
        out.push(format!("more false suggestions: {} to {}", number(e.base_fpr_50), number(e.fpr_50)));
    }
    if !e.coverage_10.zip(e.base_coverage_10).is_some_and(|(new, old)| new >= MIN_COVERAGE * old) {
        let (base, now) = (number(e.base_coverage_10), number(e.coverage_10));
        out.push(format!("too few different items in users' top ten: coverage {base} to {now}"));
    }
    if e.cold_auc_delta_high.is_some_and(|high| high < 0.0) {
        let (delta, high) = (number(e.cold_auc_delta), number(e.cold_auc_delta_high));
        out.push(format!("items new to the model are ranked worse: AUC {delta}, at best {high}"));
    }
    out
}

fn summary(e: &Evaluation, unit: Unit) -> String {
    let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
    format!(
        "ranks better for {} {} it was not trained on: AUC {:.4} to {:.4} (difference at least {:.4}), \
         save rate in the top ten {:.3} to {:.3}, false suggestions {:.3} to {:.3}",
        e.users,
        unit.name(),
        number(e.base_auc),
        number(e.auc),
        number(e.auc_delta_low),
        number(e.base_save_rate_10),
        number(e.save_rate_10),
        number(e.base_fpr_50),
        number(e.fpr_50),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Evaluation {
        Evaluation {
            users: 30,
            examples: 600,
            base_auc: Some(0.5),
            auc: Some(0.6),
            auc_delta: Some(0.1),
            auc_delta_low: Some(0.05),
            base_save_rate_10: Some(0.4),
            save_rate_10: Some(0.5),
            base_fpr_50: Some(0.4),
            fpr_50: Some(0.3),
            base_coverage_10: Some(0.5),
            coverage_10: Some(0.4),
            ..Evaluation::default()
        }
    }

    #[test]
    fn every_condition_can_refuse_and_says_why() {
        let verdict = |change: fn(&mut Evaluation)| {
            let mut evaluation = good();
            change(&mut evaluation);
            judge(&evaluation, Unit::Users, None)
        };
        assert_eq!(verdict(|_| ()).0, Verdict::Passed);
        for (change, word) in [
            ((|e| e.auc_delta_low = Some(0.0)) as fn(&mut Evaluation), "not proved"),
            (|e| e.auc_delta_low = None, "unknown"),
            (|e| e.fpr_50 = Some(0.41), "false suggestions"),
            (|e| e.coverage_10 = Some(0.39), "coverage 0.5000 to 0.3900"),
            (|e| e.cold_auc_delta_high = Some(-0.01), "new to the model"),
        ] {
            let (verdict, reason) = verdict(change);
            assert_eq!(verdict, Verdict::Refused);
            assert!(reason.contains(word), "{reason}");
        }
        assert_eq!(judge(&good(), Unit::Users, Some("same")), (Verdict::Refused, "same".to_owned()));
    }

    #[test]
    fn too_little_data_says_how_much_is_there_and_needed() {
        let of = |evaluation, unit| judge(&evaluation, unit, None);
        let (verdict, reason) = of(Evaluation { users: 19, ..good() }, Unit::Days);
        assert_eq!(verdict, Verdict::NotEnoughData);
        assert!(reason.starts_with("19 days") && reason.ends_with("at least 20 are needed: 1 more"), "{reason}");
        let (verdict, reason) = of(Evaluation { examples: 150, ..good() }, Unit::Users);
        assert_eq!(verdict, Verdict::NotEnoughData);
        assert!(reason.ends_with("150 newest items, at least 200 are needed: 50 more"), "{reason}");
    }

    #[test]
    fn percentiles_interpolate() {
        assert_eq!(percentile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.5), 3.0);
        assert_eq!(percentile(&[0.0, 10.0], 0.05), 0.5);
        assert_eq!(percentile(&[7.0], 0.95), 7.0);
    }
}
