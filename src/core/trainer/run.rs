//! One run from the canonical data to a verdict.

use std::rc::Rc;

use super::adapter::{Adapter, Heads};
use super::calibrate::{Folded, Moments, Space};
use super::candidates::{self, name, Candidate, Choice, Selection, TrainingReport};
use super::error::Error;
use super::evaluate::{self, Coverage};
use super::examples::{ExampleReport, Examples};
use super::fit::{profile_sums, Task};
use super::gate::{self, Evaluation, Gate, Side, Verdict};
use super::heads;
use super::input::{Data, User};
use super::panel::{self, Panel, Roles, Unit, MIN_SELECTION};
use super::params::Params;
use super::progress::Watch;
use super::rerank::{self, SecondStage};
use super::store::Store;
use super::typed::{self, TypedReport};
use super::vectors::{normalise, Rows};
use super::{Comparison, Outcome};

/// Everything that the stages share.
pub(super) struct Run<'a> {
    data: &'a Data,
    params: &'a Params,
    moments: Moments,
    fit: Vec<usize>,
    selection: Panel,
    gate: Panel,
    unit: Unit,
    /// From what the selection knows of its users, and from all that the gate's profiles hold; where users are few.
    heads: [Heads; 2],
}

/// The candidates and how they came to be.
struct Trained {
    candidates: Vec<Candidate>,
    trainings: Vec<TrainingReport>,
    examples: ExampleReport,
    note: Option<String>,
}

impl<'a> Run<'a> {
    pub fn new(data: &'a Data, params: &'a Params, watch: &mut Watch<'_>) -> Result<Self, Error> {
        watch.stage("calibrating", 0.02)?;
        let sample = data.sample.as_ref().unwrap_or(&data.items);
        let moments = Moments::of(sample, params.calibration_rows, params.seed, watch)?;
        let roles = Roles::assign(&data.users, params.seed, params.min_user_saved);
        let panel = |members, watch: &mut Watch<'_>| Panel::new(members, &data.users, &data.items, watch);
        let (selection, gate) = (panel(roles.selection, watch)?, panel(roles.gate, watch)?);
        let heads = match roles.unit {
            Unit::Users => Default::default(),
            Unit::Days => {
                [heads::of_panel(&selection, &data.items, watch)?, heads::of_panel(&gate, &data.items, watch)?]
            }
        };
        Ok(Self { data, params, moments, fit: roles.fit, selection, gate, unit: roles.unit, heads })
    }

    /// Candidates, choice, verdict.
    pub fn finish(&self, live: Option<&Adapter>, watch: &mut Watch<'_>) -> Result<Outcome, Error> {
        let trained = self.candidates(watch)?;
        let (pair, typed) = typed::train(self.data, self.params, (0.80, 0.85), watch)?;
        watch.stage("selecting", 0.85)?;
        let choice = self.choose(&trained.candidates, watch)?;
        let chosen = &trained.candidates[choice.chosen];
        let mut adapter = chosen.adapter(&self.heads[1]);
        adapter.typed = pair;
        if !adapter.is_finite() {
            return Err(Error::Diverged { candidate: chosen.name(), reason: "its weights are not finite".into() });
        }
        // who ranks in which order is not touched by it, so the judging users may serve where nobody else is
        let (panel, heads) = match self.selection.members.is_empty() {
            true => (&self.gate, &self.heads[1]),
            false => (&self.selection, &self.heads[0]),
        };
        (adapter.score_scale, adapter.score_offset) =
            candidates::calibrate_scores(&chosen.adapter(heads), panel, &self.data.items, watch)?;
        watch.stage("evaluating", 0.93)?;
        let unchanged = "kept base: no candidate ranked clearly better than the plain mean of what each user saved";
        let base = Adapter::identity(self.moments.dim());
        let mut against_base = self.compare(&base, &adapter, chosen.is_base().then_some(unchanged), watch)?;
        if let (true, Some(typed), Verdict::Refused) = (adapter.typed.is_some(), &typed, against_base.verdict) {
            if chosen.is_base() {
                let reason = format!("profiles stay as they are, typed questions do not: it {}", typed.reason);
                against_base = Comparison { verdict: Verdict::Passed, reason, ..against_base };
            }
        }
        let unchanged = |live: &Adapter| {
            (live.digest() == adapter.digest()).then_some("kept what serves: the live model is the same")
        };
        let against_live = live.map(|live| self.compare(live, &adapter, unchanged(live), watch)).transpose()?;
        let second_stage = self.second_stage(&adapter, watch)?;
        watch.stage("done", 1.0)?;
        let Comparison { evaluation, verdict, reason } = against_base;
        let mut report = self.report(&trained, &choice, &typed, &evaluation, verdict, &reason);
        report["second_stage"] = serde_json::json!(second_stage);
        Ok(Outcome {
            report,
            adapter,
            chosen: chosen.name(),
            candidates: choice.reports,
            evaluation,
            verdict,
            reason,
            against_live,
        })
    }

    fn can_select(&self) -> bool {
        self.selection.members.len() >= MIN_SELECTION
    }

    /// Why only the closed form is tried, if so.
    fn training_refusal(&self, examples: &Examples) -> Option<String> {
        if self.unit == Unit::Days {
            let (found, needed) = (self.data.users.len(), super::panel::MIN_USERS);
            return Some(format!(
                "{found} users, {needed} are needed to train on some and judge on others: {} more; only the closed form and \
                 a direction of each user's own were tried, on days set aside",
                needed - found
            ));
        }
        let (found, needed) = (self.data.train_events, self.params.min_events_training);
        if found < needed {
            return Some(format!(
                "{found} events in the training part, {needed} are needed to train: {} more; only the closed form was tried",
                needed - found
            ));
        }
        if !self.can_select() {
            let users = self.selection.members.len();
            return Some(format!(
                "{users} users to select on, {MIN_SELECTION} are needed to train; only the closed form was tried"
            ));
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
        let mut candidates =
            vec![Candidate { shrinkage: None, trained: false, gamma: 0.0, own: false, folded: identity }];
        let mut trainings = Vec::new();
        let shrinkages = self.shrinkages();
        for (index, &shrinkage) in shrinkages.iter().enumerate() {
            let space = match shrinkage {
                None => Space::raw(self.moments.dim()),
                Some(s) => Space::shrunk(&self.moments, s, watch)?,
            };
            self.add(&mut candidates, shrinkage, false, space.fold(None, watch)?);
            if note.is_some() {
                continue;
            }
            let part = |i: usize| 0.05 + 0.75 * i as f64 / shrinkages.len() as f64;
            let (folded, report) =
                self.train_in(&space, shrinkage, &examples, (part(index), part(index + 1)), watch)?;
            if let Some(folded) = folded {
                self.add(&mut candidates, shrinkage, true, folded);
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
            let candidate = Candidate { shrinkage, trained, gamma, own: false, folded: folded.clone() };
            if !candidate.is_base() {
                candidates.push(candidate);
            }
        }
        if !self.heads[0].is_empty() {
            candidates.push(Candidate { shrinkage, trained, gamma: 0.0, own: true, folded });
        }
    }

    /// The contrastive stage in one space; no model when the untrained start stayed best.
    fn train_in(
        &self,
        space: &Space,
        shrinkage: Option<f64>,
        examples: &Examples,
        share: (f64, f64),
        watch: &mut Watch<'_>,
    ) -> Result<(Option<Folded>, TrainingReport), Error> {
        let name = name(shrinkage, true, 0.0);
        let moved = space.transform(&self.data.items, watch)?;
        let items = moved.as_ref().unwrap_or(&self.data.items);
        let validation_queries = self.profiles(items, watch)?;
        let fitted = Task {
            name: &name,
            items,
            sums: &profile_sums(items, examples, watch)?,
            examples,
            validation: &self.selection,
            validation_queries: &validation_queries,
            params: self.params,
            share,
        }
        .fit(watch)?;
        let residual = fitted.residual.map(|residual| residual.dense());
        let folded = residual.map(|residual| space.fold(Some(&residual), watch)).transpose()?;
        Ok((folded, TrainingReport { name, best_epoch: fitted.best_epoch, epochs: fitted.history }))
    }

    /// Unit profiles of the selection users in a space.
    fn profiles(&self, items: &Store, watch: &mut Watch<'_>) -> Result<Rows, Error> {
        let mut rows = Rows::zeros(self.selection.members.len(), items.dim());
        for (index, member) in self.selection.members.iter().enumerate() {
            rows.row_mut(index).copy_from_slice(&panel::mean(items, &member.saved, watch)?);
            normalise(rows.row_mut(index));
        }
        Ok(rows)
    }

    fn second_stage(&self, adapter: &Adapter, watch: &mut Watch<'_>) -> Result<SecondStage, Error> {
        let others: Vec<&User> = self.fit.iter().map(|&index| &self.data.users[index]).collect();
        rerank::fit((&self.selection, self.unit), &self.gate, &self.data.items, &others, adapter, watch)
    }

    fn choose(&self, candidates: &[Candidate], watch: &mut Watch<'_>) -> Result<Choice, Error> {
        if !self.can_select() {
            return Ok(candidates::by_default(candidates, self.default_shrinkage()));
        }
        let mut coverage = |panel| Coverage::new(panel, &self.data.items, self.params.seed, watch);
        let covered = [coverage(&self.selection)?, coverage(&self.gate)?];
        Selection {
            panel: &self.selection,
            items: &self.data.items,
            heads: &self.heads[0],
            covered: [(&self.selection, &covered[0]), (&self.gate, &covered[1])],
            default_shrinkage: self.default_shrinkage(),
        }
        .choose(candidates, watch)
    }

    /// Users whose actions training or choosing has seen.
    fn known_users(&self) -> impl Iterator<Item = &User> {
        let selection = self.selection.members.iter().map(|member| member.user);
        self.fit.iter().copied().chain(selection).map(|index| &self.data.users[index])
    }

    fn compare(
        &self,
        base: &Adapter,
        model: &Adapter,
        unchanged: Option<&str>,
        watch: &mut Watch<'_>,
    ) -> Result<Comparison, Error> {
        let (items, seed) = (&self.data.items, self.params.seed);
        let mut seen = vec![false; items.len()];
        self.known_users().flat_map(|user| &user.train).for_each(|action| seen[action.item as usize] = true);
        let cold = self.gate.filtered(|item| !seen[item as usize]);
        let coverage = Coverage::new(&self.gate, items, seed, watch)?;
        let side = |adapter| Side { panel: &self.gate, cold: &cold, items, coverage: &coverage, adapter };
        let gate = Gate { draws: self.params.bootstrap_draws, seed };
        let mut evaluation = gate.evaluate(&side(base), &side(model), watch)?;
        if evaluation.users > 0 {
            self.measure_baselines(&mut evaluation, watch)?;
        }
        let (verdict, reason) = gate::judge(&evaluation, self.unit, unchanged);
        Ok(Comparison { evaluation, verdict, reason })
    }

    /// What needs no model: the nearest saved items, saved less skipped, and what others saved.
    fn measure_baselines(&self, evaluation: &mut Evaluation, watch: &mut Watch<'_>) -> Result<(), Error> {
        let items = &self.data.items;
        let nearest = evaluate::measure(&self.gate, watch, |member, list, watch| {
            evaluate::nearest_three(items, &self.gate.members[member].saved, list, watch)
        })?;
        let rates = evaluate::save_rates(items.len(), self.known_users());
        let popular = evaluate::measure(&self.gate, watch, |_, list, _| {
            Ok(list.items.iter().map(|&item| rates[item as usize]).collect())
        })?;
        let rocchio = evaluate::measure_queries(&self.gate, items, &self.gate.rocchio(), watch)?;
        evaluation.rocchio_auc = Some(evaluate::average(&rocchio, |m| m.auc));
        evaluation.knn3_auc = Some(evaluate::average(&nearest, |m| m.auc));
        evaluation.popularity_auc = Some(evaluate::average(&popular, |m| m.auc));
        Ok(())
    }

    fn report(
        &self,
        trained: &Trained,
        choice: &Choice,
        typed: &Option<TypedReport>,
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
                "set_aside": self.unit.name(),
            },
            "examples": trained.examples,
            "candidates": choice.reports,
            "chosen": choice.reports[choice.chosen].name,
            "trainings": trained.trainings,
            "typed_questions": typed,
            "note": trained.note,
            "warning": warning,
            "evaluation": evaluation,
            "verdict": verdict,
            "reason": reason,
        })
    }
}
