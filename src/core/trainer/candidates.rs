//! The models that are tried, and which of them is taken to the gate.

use std::rc::Rc;

use serde::Serialize;

use super::adapter::{Adapter, Heads};
use super::error::Error;
use super::evaluate::{average, measure_queries, scores, Coverage, Measures};
use super::fit::Epoch;
use super::panel::Panel;
use super::progress::Watch;
use super::store::Store;

/// Standard errors by which the base must be beaten to go on to the gate: one-sided 5 %, the gate's own bar.
pub(super) const PROVED: f64 = 1.645;

/// Share of the base's coverage that a model must keep: one that shows everybody the same is no personal one.
pub(super) const MIN_COVERAGE: f64 = 0.8;

pub(super) struct Candidate {
    /// `None` = the raw space.
    pub shrinkage: Option<f64>,
    pub trained: bool,
    pub gamma: f32,
    /// With a direction of each user's own.
    pub own: bool,
    /// Without gamma: the same for all gammas.
    pub folded: Rc<Adapter>,
}

/// How a candidate did on the selection users.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateReport {
    pub name: String,
    /// `None` = vectors as they are; 1 = centred; less = centred and whitened.
    pub shrinkage: Option<f64>,
    pub trained: bool,
    pub gamma: f32,
    /// With a direction of each user's own.
    pub own: bool,
    pub auc: Option<f64>,
    pub coverage_10: Option<f64>,
    /// Why it could not be chosen.
    pub refused: Option<String>,
}

/// What became of the contrastive stage in one space.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingReport {
    pub name: String,
    pub best_epoch: usize,
    pub epochs: Vec<Epoch>,
}

pub(super) fn name(shrinkage: Option<f64>, trained: bool, gamma: f32) -> String {
    let stage = if trained { "trained" } else { "closed" };
    let name = match shrinkage {
        None if !trained => "identity".to_owned(),
        None => format!("{stage} raw"),
        Some(1.0) => format!("{stage} centred"),
        Some(shrinkage) => format!("{stage} {shrinkage}"),
    };
    if gamma == 0.0 {
        name
    } else {
        format!("{name} gamma {gamma}")
    }
}

impl Candidate {
    pub fn name(&self) -> String {
        let name = name(self.shrinkage, self.trained, self.gamma);
        match self.own {
            true => format!("{name} with heads"),
            false => name,
        }
    }

    /// `heads` are used if this candidate has any.
    pub fn adapter(&self, heads: &Heads) -> Adapter {
        let heads = if self.own { heads.clone() } else { Heads::default() };
        Adapter { gamma: self.gamma, heads, ..(*self.folded).clone() }
    }

    pub fn is_base(&self) -> bool {
        self.is_plain(None, false)
    }

    fn is_plain(&self, shrinkage: Option<f64>, trained: bool) -> bool {
        self.shrinkage == shrinkage && self.trained == trained && self.gamma == 0.0 && !self.own
    }

    fn report(&self) -> CandidateReport {
        CandidateReport {
            name: self.name(),
            shrinkage: self.shrinkage,
            trained: self.trained,
            gamma: self.gamma,
            own: self.own,
            auc: None,
            coverage_10: None,
            refused: None,
        }
    }
}

pub(super) struct Choice {
    pub chosen: usize,
    pub reports: Vec<CandidateReport>,
}

/// Without enough users to choose on: the closed form, which needs no events.
pub(super) fn by_default(candidates: &[Candidate], shrinkage: Option<f64>) -> Choice {
    Choice {
        chosen: candidates.iter().position(|c| c.is_plain(shrinkage, false)).unwrap_or(0),
        reports: candidates.iter().map(Candidate::report).collect(),
    }
}

/// Whom candidates are compared on.
pub(super) struct Selection<'a> {
    pub panel: &'a Panel,
    pub items: &'a Store,
    /// From the actions that make these users' profiles.
    pub heads: &'a Heads,
    /// Users and items on which coverage must be kept. It needs no labels, so the gate's users may be among them: what
    /// the gate would refuse for its coverage need not be chosen.
    pub covered: [(&'a Panel, &'a Coverage); 2],
    pub default_shrinkage: Option<f64>,
}

impl Selection<'_> {
    /// The best mean AUC among those that keep the base's coverage; within one standard error of it the closed form,
    /// then the trained one, of the default shrinkage. The first candidate is the base: it stays unless clearly
    /// beaten, so that chance alone seldom reaches the gate.
    pub fn choose(&self, candidates: &[Candidate], watch: &mut Watch<'_>) -> Result<Choice, Error> {
        let (mut reports, mut aucs) = (Vec::new(), Vec::new());
        let mut base_coverage = [0.0; 2];
        for (index, candidate) in candidates.iter().enumerate() {
            let adapter = candidate.adapter(self.heads);
            let measures = self.measure(&adapter, watch)?;
            let coverage = self.coverage(&adapter, watch)?;
            if index == 0 {
                base_coverage = coverage;
            }
            let lost = coverage.into_iter().zip(base_coverage).find(|(now, base)| *now < MIN_COVERAGE * base);
            reports.push(CandidateReport {
                auc: Some(average(&measures, |m| m.auc)),
                coverage_10: Some(coverage[0]),
                refused: lost
                    .map(|(now, base)| format!("shows too few different items: coverage {now:.3}, base has {base:.3}")),
                ..candidate.report()
            });
            aucs.push(measures.iter().map(|m| m.auc).collect::<Vec<f64>>());
        }
        let best = best_of(&reports);
        let simple = |trained| {
            let fits = |c: &Candidate| c.is_plain(self.default_shrinkage, trained);
            candidates.iter().position(fits).filter(|&i| reports[i].refused.is_none())
        };
        let close = |&index: &usize| !ahead(&aucs[best], &aucs[index], 1.0);
        let chosen = [simple(false), simple(true)].into_iter().flatten().find(close).unwrap_or(best);
        let proved = ahead(&aucs[chosen], &aucs[0], PROVED);
        Ok(Choice { chosen: if proved { chosen } else { 0 }, reports })
    }

    fn measure(&self, adapter: &Adapter, watch: &mut Watch<'_>) -> Result<Vec<Measures>, Error> {
        let queries = self.panel.queries(adapter, watch)?;
        measure_queries(self.panel, self.items, &queries, watch)
    }

    fn coverage(&self, adapter: &Adapter, watch: &mut Watch<'_>) -> Result<[f64; 2], Error> {
        let mut of = |(panel, coverage): (&Panel, &Coverage)| coverage.of(&panel.queries(adapter, watch)?, watch);
        Ok([of(self.covered[0])?, of(self.covered[1])?])
    }
}

fn best_of(reports: &[CandidateReport]) -> usize {
    let mut best = 0;
    for (index, report) in reports.iter().enumerate() {
        if report.refused.is_none() && report.auc > reports[best].auc {
            best = index;
        }
    }
    best
}

/// Whether one is better by more than so many standard errors, paired over users.
pub(super) fn ahead(better: &[f64], worse: &[f64], standard_errors: f64) -> bool {
    let count = better.len() as f64;
    let gaps: Vec<f64> = better.iter().zip(worse).map(|(b, w)| b - w).collect();
    let mean = gaps.iter().sum::<f64>() / count;
    let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (count - 1.0);
    mean > standard_errors * (variance / count).sqrt()
}

/// Scale and offset that turn a cosine into the probability of a save: a logistic fit on what the users did.
pub(super) fn calibrate_scores(
    adapter: &Adapter,
    panel: &Panel,
    items: &Store,
    watch: &mut Watch<'_>,
) -> Result<(f64, f64), Error> {
    let queries = panel.queries(adapter, watch)?;
    let mut points: Vec<(f64, bool)> = Vec::new();
    for member in &panel.members {
        for list in &member.lists {
            let cosines = scores(items, &queries, list, watch)?.into_iter().map(f64::from);
            points.extend(cosines.zip(list.saved.iter().copied()));
        }
    }
    Ok(logistic(&points))
}

/// Newton's method with smoothed targets (Platt); a falling curve is replaced by a flat one.
fn logistic(points: &[(f64, bool)]) -> (f64, f64) {
    let positives = points.iter().filter(|p| p.1).count() as f64;
    let negatives = points.len() as f64 - positives;
    let targets = ((positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0));
    let prior = ((positives + 1.0) / (negatives + 1.0)).ln();
    let (mut scale, mut offset) = (0.0f64, prior);
    for _ in 0..100 {
        let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-6, 0.0, 1e-6);
        for &(x, saved) in points {
            let p = 1.0 / (1.0 + (-(scale * x + offset)).exp());
            let gap = p - if saved { targets.0 } else { targets.1 };
            let curve = p * (1.0 - p);
            ga += gap * x;
            gb += gap;
            haa += curve * x * x;
            hab += curve * x;
            hbb += curve;
        }
        let determinant = haa * hbb - hab * hab;
        let step = ((hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant);
        let size = step.0.abs().max(step.1.abs());
        if !size.is_finite() {
            return (0.0, prior);
        }
        // far from the optimum full steps may overshoot
        let damping = (20.0 / size).min(1.0);
        scale -= damping * step.0;
        offset -= damping * step.1;
        if size < 1e-9 {
            break;
        }
    }
    if scale > 0.0 && offset.is_finite() {
        (scale, offset)
    } else {
        (0.0, prior)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logistic_fit_recovers_a_curve() {
        // at each cosine x the share of saves is 1 / (1 + exp(-(4 x - 1)))
        let mut points = Vec::new();
        for step in -10..=10 {
            let x = f64::from(step) / 10.0;
            let saves = (1000.0 / (1.0 + (-(4.0 * x - 1.0)).exp())).round() as usize;
            points.extend((0..1000).map(|i| (x, i < saves)));
        }
        let (scale, offset) = logistic(&points);
        assert!((scale - 4.0).abs() < 0.05 && (offset + 1.0).abs() < 0.05, "{scale} {offset}");
    }

    #[test]
    fn logistic_fit_stays_sane_without_signal_or_with_perfect_separation() {
        let falling: Vec<_> = (0..100).map(|i| (f64::from(i) / 100.0, i < 50)).collect();
        assert_eq!(logistic(&falling).0, 0.0);
        let separable: Vec<_> = (0..100).map(|i| (f64::from(i) / 100.0, i >= 50)).collect();
        let (scale, offset) = logistic(&separable);
        assert!(scale > 10.0 && scale.is_finite() && offset.is_finite());
        assert_eq!(logistic(&[]), (0.0, 0.0));
    }

    #[test]
    fn the_simpler_one_is_kept_unless_clearly_beaten() {
        assert!(!ahead(&[0.6, 0.5, 0.7], &[0.5, 0.6, 0.65], 1.0));
        assert!(ahead(&[0.7, 0.71, 0.69], &[0.5, 0.52, 0.51], 1.0));
        assert!(!ahead(&[0.5, 0.5], &[0.5, 0.5], 1.0));
        let (better, worse) = ([0.6, 0.5, 0.7, 0.6], [0.5, 0.5, 0.6, 0.62]);
        assert!(ahead(&better, &worse, 1.0) && !ahead(&better, &worse, PROVED));
    }

    #[test]
    fn names_tell_candidates_apart() {
        let names =
            [name(None, false, 0.0), name(None, true, 0.0), name(Some(1.0), false, 0.0), name(Some(0.7), true, 1.0)];
        assert_eq!(names, ["identity", "trained raw", "closed centred", "trained 0.7 gamma 1"]);
    }
}
