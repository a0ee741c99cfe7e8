//! The contrastive stage: what is learned on top of a space, by Adam on analytic gradients.

use rand::seq::SliceRandom;
use rand::RngExt;

use super::adam::Adam;
use super::error::Error;
use super::evaluate::auc;
use super::examples::Examples;
use super::loss::Objective;
use super::panel::Panel;
use super::params::Params;
use super::progress::{Progress, Watch};
use super::rng;
use super::vectors::{add_scaled, dot, norm, normalise, product, wide, Matrix, Rows};

/// Dimensions up to which the residual is a full matrix; beyond, a product of two thin ones.
const MAX_FULL: usize = 1024;
const RANK: usize = 32;
/// Length of a residual that has left the neighbourhood of its start, in lengths of the identity of its dimension.
const MAX_NORM: f64 = 2.0;
/// Share of the first spread of scores below which all items look alike.
const MIN_SPREAD: f64 = 0.05;
/// Epochs with a validation AUC below one half after which nothing is kept.
const MAX_BELOW_CHANCE: usize = 3;
/// Profiles shorter than this have no direction left once the saved item itself is taken out.
const MIN_ANCHOR: f64 = 1e-6;

/// D of the score x . (q + D q), as parameters that start at zero effect.
#[derive(Clone)]
pub(super) struct Residual {
    dim: usize,
    /// 0 = full matrix, else D = U V' with both factors in `parameters`.
    rank: usize,
    pub parameters: Vec<f32>,
}

impl Residual {
    pub fn new(dim: usize, seed: i64) -> Self {
        if dim <= MAX_FULL {
            Self::full(dim)
        } else {
            Self::thin(dim, seed)
        }
    }

    pub fn full(dim: usize) -> Self {
        Self { dim, rank: 0, parameters: vec![0.0; dim * dim] }
    }

    /// U starts at zero, V at random: no effect, and a gradient that is not zero.
    pub fn thin(dim: usize, seed: i64) -> Self {
        let mut parameters = vec![0.0; 2 * dim * RANK];
        let (mut rng, scale) = (rng::stream(seed, "low rank"), (12.0 / dim as f64).sqrt());
        for v in &mut parameters[dim * RANK..] {
            *v = ((rng.random::<f64>() - 0.5) * scale) as f32;
        }
        Self { dim, rank: RANK, parameters }
    }

    /// U and V of the low-rank form.
    fn factors(&self) -> (Matrix<'_>, Matrix<'_>) {
        let (u, v) = self.parameters.split_at(self.dim * self.rank);
        (Matrix::new(u, self.dim, self.rank), Matrix::new(v, self.dim, self.rank))
    }

    /// z = q + D q for every row.
    pub fn apply(&self, q: &[f32], z: &mut [f32]) {
        let rows = q.len() / self.dim;
        let anchors = Matrix::new(q, rows, self.dim);
        z.copy_from_slice(q);
        if self.rank == 0 {
            let d = Matrix::new(&self.parameters, self.dim, self.dim);
            return product(1.0, anchors, d.transposed(), 1.0, z);
        }
        let (u, v) = self.factors();
        let mut thin = vec![0.0; rows * self.rank];
        product(1.0, anchors, v, 0.0, &mut thin);
        product(1.0, Matrix::new(&thin, rows, self.rank), u.transposed(), 1.0, z);
    }

    /// Gradient of the loss with respect to the parameters, from its gradient with respect to every z.
    pub fn gradient(&self, q: &[f32], gz: &[f32], lambda: f32, out: &mut [f32]) {
        let rows = q.len() / self.dim;
        let (anchors, pull) = (Matrix::new(q, rows, self.dim), Matrix::new(gz, rows, self.dim));
        out.copy_from_slice(&self.parameters);
        let decay = 2.0 * lambda;
        if self.rank == 0 {
            return product(1.0, pull.transposed(), anchors, decay, out);
        }
        let (u, v) = self.factors();
        let (out_u, out_v) = out.split_at_mut(self.dim * self.rank);
        let mut thin = vec![0.0; rows * self.rank];
        product(1.0, anchors, v, 0.0, &mut thin);
        product(1.0, pull.transposed(), Matrix::new(&thin, rows, self.rank), decay, out_u);
        product(1.0, pull, u, 0.0, &mut thin);
        product(1.0, anchors.transposed(), Matrix::new(&thin, rows, self.rank), decay, out_v);
    }

    /// Length of D, without making it: |U V'|^2 = tr(U'U V'V).
    fn length(&self) -> f64 {
        if self.rank == 0 {
            return norm(&self.parameters);
        }
        let (u, v) = self.factors();
        let (mut uu, mut vv) = (vec![0.0; self.rank * self.rank], vec![0.0; self.rank * self.rank]);
        product(1.0, u.transposed(), u, 0.0, &mut uu);
        product(1.0, v.transposed(), v, 0.0, &mut vv);
        uu.iter().zip(&vv).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>().max(0.0).sqrt()
    }

    /// D itself.
    pub fn dense(&self) -> Vec<f32> {
        if self.rank == 0 {
            return self.parameters.clone();
        }
        let (u, v) = self.factors();
        let mut dense = vec![0.0; self.dim * self.dim];
        product(1.0, u, v.transposed(), 0.0, &mut dense);
        dense
    }
}

/// What a training run works on: everything in one space.
pub(super) struct Task<'a> {
    pub name: &'a str,
    pub items: &'a Rows,
    pub examples: &'a Examples,
    pub validation: &'a Panel,
    /// Unit profiles of the validation users.
    pub validation_queries: &'a Rows,
    pub params: &'a Params,
    /// Part of the whole run that this training is.
    pub share: (f64, f64),
}

#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Epoch {
    pub loss: f64,
    pub validation_auc: f64,
}

pub(super) struct Fitted {
    /// The best state seen; `None` = the untrained start.
    pub residual: Option<Residual>,
    pub history: Vec<Epoch>,
    pub best_epoch: usize,
}

impl Task<'_> {
    /// Trains until the validation AUC stops rising.
    pub fn fit(&self, watch: &mut Watch<'_>) -> Result<Fitted, Error> {
        let mut residual = Residual::new(self.items.dim, self.params.seed);
        let mut trainer = Trainer::new(self, &residual);
        let start = self.validate(&residual, watch)?;
        let (mut best, mut best_auc, mut best_epoch) = (residual.clone(), start.auc, 0);
        let (mut history, mut below_chance) = (Vec::new(), 0);
        for epoch in 1..=self.params.epochs {
            let loss = trainer.epoch(self, &mut residual, epoch, history.last().copied(), watch)?;
            self.check_state(&residual, loss)?;
            let now = self.validate(&residual, watch)?;
            if now.spread < MIN_SPREAD * start.spread {
                return Err(self.diverged("its scores no longer tell items apart".into()));
            }
            history.push(Epoch { loss, validation_auc: now.auc });
            below_chance = if now.auc < 0.5 { below_chance + 1 } else { 0 };
            if below_chance >= MAX_BELOW_CHANCE {
                best_epoch = 0;
                break;
            }
            if now.auc > best_auc + 1e-5 {
                (best, best_auc, best_epoch) = (residual.clone(), now.auc, epoch);
            } else if epoch - best_epoch >= self.params.patience {
                break;
            }
        }
        Ok(Fitted { residual: (best_epoch > 0).then_some(best), history, best_epoch })
    }

    fn check_state(&self, residual: &Residual, loss: f64) -> Result<(), Error> {
        let length = residual.length();
        if !loss.is_finite() || !length.is_finite() {
            return Err(self.diverged("loss or weights are not finite; a smaller learning_rate may help".into()));
        }
        let limit = MAX_NORM * (self.items.dim as f64).sqrt();
        if length > limit {
            return Err(self.diverged(format!(
                "weights moved by {length:.1}, more than {limit:.1}; a smaller learning_rate or a larger lambda may help"
            )));
        }
        Ok(())
    }

    fn diverged(&self, reason: String) -> Error {
        Error::Diverged { candidate: self.name.to_owned(), reason }
    }

    /// Mean AUC over the validation users, and the spread of their scores.
    fn validate(&self, residual: &Residual, watch: &mut Watch<'_>) -> Result<Validation, Error> {
        watch.check()?;
        let mut queries = self.validation_queries.clone();
        residual.apply(&self.validation_queries.data, &mut queries.data);
        let (mut sum, mut count, mut first, mut second) = (0.0, 0.0, 0.0, 0.0);
        for (index, member) in self.validation.members.iter().enumerate() {
            watch.check()?;
            let query = queries.row_mut(index);
            normalise(query);
            let (mut weighted, mut shown) = (0.0, 0.0);
            for list in &member.lists {
                let scores: Vec<f32> = list.items.iter().map(|&i| dot(query, self.items.row(i as usize))).collect();
                for &score in &scores {
                    first += f64::from(score);
                    second += f64::from(score).powi(2);
                }
                weighted += auc(&scores, &list.saved) * scores.len() as f64;
                shown += scores.len() as f64;
            }
            sum += weighted / shown;
            count += shown;
        }
        let mean = first / count;
        let spread = (second / count - mean * mean).max(0.0).sqrt();
        Ok(Validation { auc: sum / self.validation.members.len() as f64, spread })
    }
}

struct Validation {
    auc: f64,
    spread: f64,
}

/// Buffers of one batch and the optimiser: all memory that training needs beside the vectors.
pub(super) struct Trainer {
    /// Sum of the saved vectors of each profile.
    sums: Rows,
    order: Vec<u32>,
    rng: rand_xoshiro::SplitMix64,
    adam: Adam,
    batch: usize,
    anchors: Vec<f32>,
    queries: Vec<f32>,
    pulls: Vec<f32>,
    scores: Vec<f32>,
    weights: Vec<f32>,
    gradient: Vec<f32>,
}

impl Trainer {
    pub fn new(task: &Task<'_>, residual: &Residual) -> Self {
        let (dim, examples) = (task.items.dim, task.examples);
        let mut sums = Rows::zeros(examples.profiles.len(), dim);
        for (index, profile) in examples.profiles.iter().enumerate() {
            let sum = sums.row_mut(index);
            profile.iter().for_each(|&item| add_scaled(sum, 1.0, task.items.row(item as usize)));
        }
        let batch = match examples.len() {
            count if count < 2048 => (count / 8).max(16).min(task.params.batch_size),
            _ => task.params.batch_size,
        }
        .min(examples.len());
        Self {
            sums,
            order: (0..examples.len() as u32).collect(),
            rng: rng::stream(task.params.seed, &format!("batches {}", task.name)),
            adam: Adam::new(task.params.learning_rate, residual.parameters.len()),
            batch,
            anchors: vec![0.0; batch * dim],
            queries: vec![0.0; batch * dim],
            pulls: vec![0.0; batch * dim],
            scores: vec![0.0; examples.width],
            weights: vec![0.0; batch],
            gradient: vec![0.0; residual.parameters.len()],
        }
    }

    /// One pass over the examples in random order, without the last incomplete batch; returns the mean loss.
    pub fn epoch(
        &mut self,
        task: &Task<'_>,
        residual: &mut Residual,
        epoch: usize,
        last: Option<Epoch>,
        watch: &mut Watch<'_>,
    ) -> Result<f64, Error> {
        let mut order = std::mem::take(&mut self.order);
        order.shuffle(&mut self.rng);
        let (batches, mut total) = (order.len() / self.batch, 0.0);
        for (index, chosen) in order.chunks_exact(self.batch).enumerate() {
            watch.check()?;
            total += self.step(task, residual, chosen);
            let step = ((epoch - 1) * batches + index + 1) as u64;
            let steps = (task.params.epochs * batches) as u64;
            let (from, to) = task.share;
            watch.progress(Progress {
                stage: task.name,
                done: from + (to - from) * step as f64 / steps as f64,
                step,
                steps,
                epoch,
                loss: Some(total / (index + 1) as f64),
                validation_auc: last.map(|epoch| epoch.validation_auc),
            })?;
        }
        self.order = order;
        Ok(total / batches as f64)
    }

    fn step(&mut self, task: &Task<'_>, residual: &mut Residual, chosen: &[u32]) -> f64 {
        wide(|| self.anchor(task, chosen));
        residual.apply(&self.anchors, &mut self.queries);
        let Params { loss, tau, margin, lambda, .. } = *task.params;
        let loss = wide(|| self.pull(task, Objective { loss, tau, margin }, chosen));
        residual.gradient(&self.anchors, &self.pulls, lambda, &mut self.gradient);
        self.adam.step(&mut residual.parameters, &self.gradient);
        loss
    }

    /// The sum of the user's other saved items, as a unit vector.
    #[inline(always)]
    fn anchor(&mut self, task: &Task<'_>, chosen: &[u32]) {
        let (dim, examples) = (task.items.dim, task.examples);
        for (&index, (anchor, weight)) in chosen.iter().zip(self.anchors.chunks_exact_mut(dim).zip(&mut self.weights)) {
            let (index, positive) = (index as usize, examples.example(index as usize)[0] as usize);
            anchor.copy_from_slice(self.sums.row(examples.profile[index] as usize));
            add_scaled(anchor, -1.0, task.items.row(positive));
            match norm(anchor) < MIN_ANCHOR {
                true => anchor.fill(0.0),
                false => normalise(anchor),
            }
            *weight = examples.weights[index];
        }
    }

    /// Mean loss of the batch and the pull of its scores' gradients on each query, example by example: the vectors are
    /// still close when they are needed again.
    #[inline(always)]
    fn pull(&mut self, task: &Task<'_>, objective: Objective, chosen: &[u32]) -> f64 {
        let (dim, examples) = (task.items.dim, task.examples);
        let total: f64 = self.weights.iter().map(|&w| f64::from(w)).sum();
        let mut loss = 0.0;
        let vectors = self.queries.chunks_exact(dim).zip(self.pulls.chunks_exact_mut(dim));
        for ((&index, &weight), (query, pull)) in chosen.iter().zip(&self.weights).zip(vectors) {
            let items = examples.example(index as usize);
            for (&item, score) in items.iter().zip(&mut self.scores) {
                *score = dot(query, task.items.row(item as usize));
            }
            loss += objective.one(&mut self.scores) * f64::from(weight);
            let share = (f64::from(weight) / total) as f32;
            pull.fill(0.0);
            for (&item, gradient) in items.iter().zip(&self.scores) {
                add_scaled(pull, gradient * share, task.items.row(item as usize));
            }
        }
        loss / total
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::Data;
    use super::super::loss::Loss;
    use super::super::panel::Member;
    use super::super::progress::Unobserved;
    use super::super::testdata::{synthetic, Signal};
    use super::*;

    /// Synthetic users with examples, and the same users to validate on.
    fn with_task<T>(params: &Params, run: impl FnOnce(&Task<'_>, &mut Watch<'_>) -> T) -> T {
        let mut observer = Unobserved;
        let watch = &mut Watch::new(&mut observer, None);
        let data = Data::new(synthetic(30, Signal::Planted, 5), 1, watch).unwrap();
        let everybody: Vec<usize> = (0..data.users.len()).collect();
        let examples = Examples::build(&data.users, &everybody, &data.items, params, watch).unwrap();
        let members = data.users.iter().enumerate().filter_map(|(i, user)| Member::within_train(i, user, 3));
        let validation = Panel::new(members.collect(), &data.items);
        let identity = super::super::Adapter::identity(data.items.dim);
        let task = Task {
            name: "trained raw",
            items: &data.items,
            examples: &examples,
            validation: &validation,
            validation_queries: &validation.queries(&identity, watch).unwrap(),
            params,
            share: (0.0, 1.0),
        };
        run(&task, watch)
    }

    /// Loss with its penalty over a whole set of examples, in the state given.
    fn full_loss(task: &Task<'_>, trainer: &mut Trainer, residual: &Residual) -> f64 {
        let Params { loss, tau, margin, lambda, .. } = *task.params;
        let (mut sum, mut batches) = (0.0, 0.0);
        for chosen in (0..task.examples.len() as u32).collect::<Vec<_>>().chunks_exact(trainer.batch) {
            trainer.anchor(task, chosen);
            residual.apply(&trainer.anchors, &mut trainer.queries);
            sum += trainer.pull(task, Objective { loss, tau, margin }, chosen);
            batches += 1.0;
        }
        sum / batches + f64::from(lambda) * norm(&residual.parameters).powi(2)
    }

    #[test]
    fn gradients_of_both_forms_agree_with_central_differences() {
        for (loss, rank) in [(Loss::Softmax, 0), (Loss::Bpr, 0), (Loss::Softmax, 3), (Loss::Triplet, 3)] {
            let params = Params { loss, margin: 1.0, lambda: 0.1, ..Params::default() };
            with_task(&params, |task, _| {
                let mut rng = rng::stream(1, "test");
                let count = if rank == 0 { 16 * 16 } else { 2 * 16 * rank };
                let parameters = (0..count).map(|_| rng.random::<f32>() * 0.2 - 0.1).collect();
                let mut residual = Residual { dim: 16, rank, parameters };
                let mut trainer = Trainer::new(task, &residual);
                let chosen: Vec<u32> = (0..trainer.batch as u32).collect();
                let mut at = |residual: &Residual| {
                    trainer.anchor(task, &chosen);
                    residual.apply(&trainer.anchors, &mut trainer.queries);
                    let objective = Objective { loss, tau: params.tau, margin: params.margin };
                    let data = trainer.pull(task, objective, &chosen);
                    residual.gradient(&trainer.anchors, &trainer.pulls, params.lambda, &mut trainer.gradient);
                    let penalty = f64::from(params.lambda) * norm(&residual.parameters).powi(2);
                    (data + penalty, trainer.gradient.clone())
                };
                let (_, gradient) = at(&residual);
                let size = norm(&gradient);
                for index in (0..count).step_by(7) {
                    let middle = residual.parameters[index];
                    let mut moved = |step: f32| {
                        residual.parameters[index] = middle + step;
                        at(&residual).0
                    };
                    let numeric = (moved(2e-3) - moved(-2e-3)) / 4e-3;
                    residual.parameters[index] = middle;
                    assert!((numeric - f64::from(gradient[index])).abs() < 2e-3 * size, "{loss:?} rank {rank}");
                }
            });
        }
    }

    #[test]
    fn the_problem_is_convex_so_that_two_seeds_meet() {
        let reached = [1, 2].map(|seed| {
            let fixed = Params { lambda: 1e-2, ..Params::default() };
            // the examples of both runs are the same; only the order of the batches differs
            with_task(&fixed, |task, watch| {
                let params = Params { seed, ..fixed.clone() };
                let task = Task { params: &params, ..*task };
                let mut residual = Residual::new(16, seed);
                let mut trainer = Trainer::new(&task, &residual);
                for learning_rate in [3e-3, 3e-4, 3e-5] {
                    trainer.adam = Adam::new(learning_rate, residual.parameters.len());
                    for epoch in 1..=200 {
                        trainer.epoch(&task, &mut residual, epoch, None, watch).unwrap();
                    }
                }
                full_loss(&task, &mut trainer, &residual)
            })
        });
        assert!((reached[0] - reached[1]).abs() < 1e-4, "{reached:?}");
    }

    #[test]
    fn training_improves_on_the_start_and_low_rank_starts_at_it() {
        let params = Params::default();
        with_task(&params, |task, watch| {
            let start = task.validate(&Residual::new(16, 1), watch).unwrap().auc;
            let fitted = task.fit(watch).unwrap();
            assert!(fitted.best_epoch > 0);
            assert!(fitted.history[fitted.best_epoch - 1].validation_auc > start);
        });
        let thin = Residual::new(MAX_FULL + 1, 1);
        assert_eq!((thin.rank, thin.parameters.len()), (RANK, 2 * RANK * (MAX_FULL + 1)));
        assert!(norm(&thin.parameters) > 1.0 && norm(&thin.dense()) == 0.0 && thin.length() == 0.0);
        let mut moved = Residual::thin(40, 1);
        moved.parameters[..40 * RANK].iter_mut().enumerate().for_each(|(i, p)| *p = (i % 5) as f32);
        assert!((moved.length() / norm(&moved.dense()) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn runs_that_leave_safe_ground_are_stopped_with_a_reason() {
        let reason = |params: Params| with_task(&params, |task, watch| task.fit(watch).err().map(|e| e.to_string()));
        let far = reason(Params { learning_rate: 1.0, ..Params::default() }).unwrap();
        assert!(far.contains("\"trained raw\"") && far.contains("weights moved by"), "{far}");
        let params = Params::default();
        with_task(&params, |task, _| {
            let broken = Residual { dim: 16, rank: 0, parameters: vec![f32::NAN; 256] };
            assert!(task.check_state(&broken, 1.0).unwrap_err().to_string().contains("not finite"));
            assert!(task.check_state(&Residual::new(16, 1), f64::NAN).is_err());
        });
    }
}
