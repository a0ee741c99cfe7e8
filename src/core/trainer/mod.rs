//! The built-in trainer: from what users saved and skipped to one matrix and one offset for the query side.
//!
//! | stage | module |
//! | --- | --- |
//! | hyperparameters, input in canonical order | `params`, `input` |
//! | who fits, who selects, who judges | `panel` |
//! | closed form: centring and shrunk whitening | `calibrate` |
//! | contrastive stage: examples, losses, gradients | `examples`, `loss`, `fit`, `adam` |
//! | choice among candidates, relevance scores | `candidates` |
//! | measures and verdict | `evaluate`, `gate` |
//! | what serves | `adapter` |
//!
//! Same input, seed and binary give the same bytes: one thread, fixed order of sums, one random stream per purpose.
//! Peak memory: the vectors, their image in one space, five d x d matrices and one batch; no list of pairs.

mod adam;
mod adapter;
mod calibrate;
mod candidates;
mod error;
mod evaluate;
mod examples;
mod fit;
mod gate;
mod input;
mod loss;
mod panel;
mod params;
mod progress;
mod rng;
#[cfg(test)]
mod testdata;
#[cfg(test)]
mod tests;
mod vectors;

pub use adapter::Adapter;
pub use candidates::{CandidateReport, TrainingReport};
pub use error::Error;
pub use examples::ExampleReport;
pub use fit::Epoch;
pub use gate::{Evaluation, RelativeChange, Verdict};
pub use input::{Event, Input, Split};
pub use loss::Loss;
pub use params::Params;
pub use progress::{Observer, Progress, Stop, Unobserved};

use std::rc::Rc;

use calibrate::{Folded, Moments, Space};
use candidates::{name, Candidate, Choice, Selection};
use evaluate::Coverage;
use examples::Examples;
use fit::Task;
use gate::Gate;
use input::Data;
use panel::{Panel, Roles, MIN_SELECTION};
use progress::Watch;
use vectors::{normalise, Rows};

/// A finished run. A refusal is a normal outcome: the adapter is there, but nobody should be shown its results.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub adapter: Adapter,
    pub chosen: String,
    pub candidates: Vec<CandidateReport>,
    pub evaluation: Evaluation,
    pub verdict: Verdict,
    pub reason: String,
    /// Seed, counts, candidates, losses and refusals; no durations, so that equal runs have equal reports.
    pub report: serde_json::Value,
}

/// Trains on the train part of some users, chooses on others, and judges on the newest actions of a third group.
pub fn train(input: Input, params: &Params, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    params.validate()?;
    let mut watch = Watch::new(observer, params.max_seconds);
    watch.stage("reading", 0.0)?;
    let data = Data::new(input, params.seed)?;
    let events = data.train_events + data.test_events;
    if events < params.min_events {
        return Err(Error::TooFewEvents { found: events, needed: params.min_events });
    }
    Run::new(&data, params, &mut watch)?.finish(&mut watch)
}

/// Everything that the stages share.
struct Run<'a> {
    data: &'a Data,
    params: &'a Params,
    moments: Moments,
    fit: Vec<usize>,
    selection: Panel,
    gate: Panel,
}

struct Trained {
    candidates: Vec<Candidate>,
    trainings: Vec<TrainingReport>,
    examples: ExampleReport,
    note: Option<String>,
}

impl<'a> Run<'a> {
    fn new(data: &'a Data, params: &'a Params, watch: &mut Watch<'_>) -> Result<Self, Error> {
        watch.stage("calibrating", 0.02)?;
        let sample = data.sample.as_ref().unwrap_or(&data.items);
        let moments = Moments::of(sample, params.calibration_rows, params.seed, watch)?;
        let roles = Roles::assign(&data.users, params.seed, params.min_user_saved);
        Ok(Self {
            data,
            params,
            moments,
            fit: roles.fit,
            selection: Panel::new(roles.selection, &data.items),
            gate: Panel::new(roles.gate, &data.items),
        })
    }

    fn finish(&self, watch: &mut Watch<'_>) -> Result<Outcome, Error> {
        let trained = self.candidates(watch)?;
        watch.stage("selecting", 0.85)?;
        let choice = self.choose(&trained.candidates, watch)?;
        let chosen = &trained.candidates[choice.chosen];
        watch.stage("evaluating", 0.93)?;
        let mut adapter = chosen.adapter();
        let evaluation = self.evaluate(&adapter, watch)?;
        let (verdict, reason) = gate::judge(&evaluation, self.data.users.len(), chosen.is_base());
        if !self.selection.members.is_empty() {
            (adapter.score_scale, adapter.score_offset) =
                candidates::calibrate_scores(&adapter, &self.selection, &self.data.items);
        }
        watch.stage("done", 1.0)?;
        Ok(Outcome {
            report: self.report(&trained, &choice, &evaluation, verdict, &reason),
            adapter,
            chosen: chosen.name(),
            candidates: choice.reports,
            evaluation,
            verdict,
            reason,
        })
    }

    fn can_select(&self) -> bool {
        self.selection.members.len() >= MIN_SELECTION
    }

    /// Why only the closed form is tried, if so.
    fn training_refusal(&self, examples: &Examples) -> Option<String> {
        let (found, needed) = (self.data.train_events, self.params.min_events_training);
        if found < needed {
            return Some(format!("{found} events in the training part, {needed} are needed to train; only the closed form was tried"));
        }
        if !self.can_select() {
            let users = self.selection.members.len();
            return Some(format!("{users} users to select on, {MIN_SELECTION} are needed to train; only the closed form was tried"));
        }
        (examples.len() == 0).then(|| {
            "no user to train on has both saved and skipped items of one surface; only the closed form was tried".into()
        })
    }

    /// The spaces that so many rows allow, the raw one first.
    fn shrinkages(&self) -> Vec<Option<f64>> {
        let enough = |s: &&f64| self.moments.rows >= 1000 || **s >= self.moments.default_shrinkage();
        std::iter::once(None).chain(self.params.shrinkages.iter().filter(enough).map(|&s| Some(s))).collect()
    }

    /// The one of them that is taken where nothing speaks for another.
    fn default_shrinkage(&self) -> Option<f64> {
        let wanted = self.moments.default_shrinkage();
        let known = self.shrinkages().into_iter().flatten();
        known.min_by(|a, b| (a - wanted).abs().total_cmp(&(b - wanted).abs()))
    }

    fn candidates(&self, watch: &mut Watch<'_>) -> Result<Trained, Error> {
        let examples = Examples::build(&self.data.users, &self.fit, &self.data.items, self.params, watch)?;
        let note = self.training_refusal(&examples);
        let identity = Rc::new(Adapter::identity(self.moments.dim()));
        let mut candidates = vec![Candidate { shrinkage: None, trained: false, gamma: 0.0, folded: identity }];
        let mut trainings = Vec::new();
        let shrinkages = self.shrinkages();
        for (index, &shrinkage) in shrinkages.iter().enumerate() {
            let space = match shrinkage {
                None => Space::raw(self.moments.dim()),
                Some(s) => Space::shrunk(&self.moments, s, watch)?,
            };
            self.add(&mut candidates, shrinkage, false, space.fold(None));
            if note.is_some() {
                continue;
            }
            let part = |i: usize| 0.05 + 0.8 * i as f64 / shrinkages.len() as f64;
            let (residual, report) = self.train_in(&space, shrinkage, &examples, (part(index), part(index + 1)), watch)?;
            if let Some(residual) = residual {
                self.add(&mut candidates, shrinkage, true, space.fold(Some(&residual)));
            }
            trainings.push(report);
        }
        Ok(Trained { candidates, trainings, examples: examples.report, note })
    }

    /// One candidate for every gamma; the base is there already.
    fn add(&self, candidates: &mut Vec<Candidate>, shrinkage: Option<f64>, trained: bool, folded: Folded) {
        let Folded { matrix, bias } = folded;
        let folded = Rc::new(Adapter { matrix, bias, ..Adapter::without_weights(self.moments.dim()) });
        for &gamma in &self.params.gammas {
            let candidate = Candidate { shrinkage, trained, gamma, folded: folded.clone() };
            if !candidate.is_base() {
                candidates.push(candidate);
            }
        }
    }

    /// The contrastive stage in one space; no residual when the untrained start stayed best.
    fn train_in(
        &self,
        space: &Space,
        shrinkage: Option<f64>,
        examples: &Examples,
        share: (f64, f64),
        watch: &mut Watch<'_>,
    ) -> Result<(Option<Vec<f32>>, TrainingReport), Error> {
        let name = name(shrinkage, true, 0.0);
        let moved = space.transform(&self.data.items, watch)?;
        let items = moved.as_ref().unwrap_or(&self.data.items);
        let validation_queries = self.profiles(items);
        let fitted = Task {
            name: &name,
            items,
            examples,
            validation: &self.selection,
            validation_queries: &validation_queries,
            params: self.params,
            share,
        }
        .fit(watch)?;
        let residual = (fitted.best_epoch > 0).then(|| fitted.residual.dense());
        Ok((residual, TrainingReport { name, best_epoch: fitted.best_epoch, epochs: fitted.history }))
    }

    /// Unit profiles of the selection users in a space.
    fn profiles(&self, items: &Rows) -> Rows {
        let mut rows = Rows::zeros(self.selection.members.len(), items.dim);
        for (index, member) in self.selection.members.iter().enumerate() {
            rows.row_mut(index).copy_from_slice(&vectors::mean(items, &member.saved));
            normalise(rows.row_mut(index));
        }
        rows
    }

    fn choose(&self, candidates: &[Candidate], watch: &mut Watch<'_>) -> Result<Choice, Error> {
        if !self.can_select() {
            return Ok(candidates::by_default(candidates, self.default_shrinkage()));
        }
        let coverage = |panel| Coverage::new(panel, &self.data.items, self.params.seed);
        Selection {
            panel: &self.selection,
            items: &self.data.items,
            covered: [(&self.selection, &coverage(&self.selection)), (&self.gate, &coverage(&self.gate))],
            default_shrinkage: self.default_shrinkage(),
        }
        .choose(candidates, watch)
    }

    fn evaluate(&self, adapter: &Adapter, watch: &mut Watch<'_>) -> Result<Evaluation, Error> {
        let (items, seed) = (&self.data.items, self.params.seed);
        let others = || self.fit.iter().copied().chain(self.selection.members.iter().map(|m| m.user));
        let mut seen = vec![false; items.len()];
        for user in others() {
            self.data.users[user].train.iter().for_each(|action| seen[action.item as usize] = true);
        }
        let cold = self.gate.filtered(items, |item| !seen[item as usize]);
        let coverage = Coverage::new(&self.gate, items, seed);
        let gate = Gate { panel: &self.gate, cold: &cold, items, coverage: &coverage, draws: self.params.bootstrap_draws, seed };
        let mut evaluation = gate.evaluate(&Adapter::identity(items.dim), adapter, watch)?;
        if evaluation.users > 0 {
            let nearest = evaluate::measure(&self.gate, watch, |member, list| {
                evaluate::nearest_three(items, &self.gate.members[member].saved, list)
            })?;
            let rates = evaluate::save_rates(items.len(), others().map(|user| &self.data.users[user]));
            let popular = evaluate::measure(&self.gate, watch, |_, list| {
                list.items.iter().map(|&item| rates[item as usize]).collect()
            })?;
            evaluation.knn3_auc = Some(evaluate::average(&nearest, |m| m.auc));
            evaluation.popularity_auc = Some(evaluate::average(&popular, |m| m.auc));
        }
        Ok(evaluation)
    }

    fn report(
        &self,
        trained: &Trained,
        choice: &Choice,
        evaluation: &Evaluation,
        verdict: Verdict,
        reason: &str,
    ) -> serde_json::Value {
        let surfaces = self.data.users.iter().flat_map(|user| user.train.iter().chain(&user.test));
        let warning = surfaces.into_iter().all(|action| action.surface == 0).then_some(
            "no event names its surface: if saved and skipped items came from different screens, the model learned the screen",
        );
        serde_json::json!({
            "parameters": self.params,
            "counts": {
                "items": self.data.items.len(),
                "users": self.data.users.len(),
                "train_events": self.data.train_events,
                "test_events": self.data.test_events,
                "calibration_rows": self.moments.rows,
                "fit_users": self.fit.len(),
                "selection_users": self.selection.members.len(),
                "gate_users": self.gate.members.len(),
            },
            "examples": trained.examples,
            "candidates": choice.reports,
            "chosen": choice.reports[choice.chosen].name,
            "trainings": trained.trainings,
            "note": trained.note,
            "warning": warning,
            "evaluation": evaluation,
            "verdict": verdict,
            "reason": reason,
        })
    }
}
