//! One epoch of the contrastive stage: batches of examples in random order, their gradients and the optimiser's steps.

use rand::seq::SliceRandom;

use super::adam::Adam;
use super::error::Error;
use super::fit::{Epoch, Task};
use super::loss::Objective;
use super::params::Params;
use super::progress::{Progress, Watch};
use super::residual::Residual;
use super::rng;
use super::store::Near;
use super::vectors::{add_scaled, dot, norm, normalise, TILE};

/// Profiles shorter than this have no direction left once the saved item itself is taken out.
const MIN_ANCHOR: f64 = 1e-6;

/// Buffers of one batch and the optimiser: all memory that training needs beside the vectors that are near.
pub(super) struct Trainer {
    order: Vec<u32>,
    rng: rand_xoshiro::SplitMix64,
    adam: Adam,
    pub batch: usize,
    pub anchors: Vec<f32>,
    /// V'q of each anchor, where the residual is of low rank.
    pub thin: Vec<f32>,
    pub queries: Vec<f32>,
    pub pulls: Vec<f32>,
    losses: Vec<f64>,
    gradient: Vec<f32>,
}

/// What examples are made of, at hand.
pub(super) struct Vectors<'a> {
    items: Near<'a>,
    sums: Near<'a>,
}

/// Some examples of a batch and their rows of the buffers.
struct Part<'a> {
    chosen: &'a [u32],
    anchors: &'a mut [f32],
    thin: &'a mut [f32],
    queries: &'a mut [f32],
    pulls: &'a mut [f32],
    losses: &'a mut [f64],
}

impl Trainer {
    pub fn new(task: &Task<'_>, residual: &Residual) -> Self {
        let (dim, examples) = (task.items.dim(), task.examples);
        let batch = match examples.len() {
            count if count < 2048 => (count / 8).max(16).min(task.params.batch_size),
            _ => task.params.batch_size,
        }
        .min(examples.len());
        Self {
            order: (0..examples.len() as u32).collect(),
            rng: rng::stream(task.params.seed, &format!("batches {}", task.name)),
            adam: Adam::new(task.params.learning_rate, residual.parameters.len()),
            batch,
            anchors: vec![0.0; batch * dim],
            thin: vec![0.0; batch * residual.rank],
            queries: vec![0.0; batch * dim],
            pulls: vec![0.0; batch * dim],
            losses: vec![0.0; batch],
            gradient: vec![0.0; residual.parameters.len()],
        }
    }

    #[cfg(test)]
    pub fn learn_at(&mut self, rate: f32) {
        self.adam = Adam::new(rate, self.gradient.len());
    }

    /// One pass over the examples in random order, without the last incomplete batch; returns the mean loss. What does
    /// not fit into memory is read in the same order, some batches at a time: the limit is no part of the result.
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
        let batches = order.len() / self.batch;
        let window = (task.items.window() / (self.batch * (1 + task.examples.width))).clamp(1, batches);
        let (mut total, mut done) = (0.0, 0);
        for some in order[..batches * self.batch].chunks(window * self.batch) {
            let vectors = task.vectors(some, watch)?;
            for chosen in some.chunks_exact(self.batch) {
                watch.check()?;
                total += self.step(task, residual, chosen, &vectors, watch)?;
                done += 1;
                self.tell(task, (epoch, batches, done), total, last, watch)?;
            }
        }
        self.order = order;
        Ok(total / batches as f64)
    }

    fn tell(
        &self,
        task: &Task<'_>,
        (epoch, batches, done): (usize, usize, usize),
        total: f64,
        last: Option<Epoch>,
        watch: &mut Watch<'_>,
    ) -> Result<(), Error> {
        let (step, steps) = (((epoch - 1) * batches + done) as u64, (task.params.epochs * batches) as u64);
        let (from, to) = task.share;
        watch.progress(Progress {
            stage: task.name,
            done: from + (to - from) * step as f64 / steps as f64,
            step,
            steps,
            epoch,
            loss: Some(total / done as f64),
            validation_auc: last.map(|epoch| epoch.validation_auc),
        })
    }

    fn step(
        &mut self,
        task: &Task<'_>,
        residual: &mut Residual,
        chosen: &[u32],
        vectors: &Vectors<'_>,
        watch: &Watch<'_>,
    ) -> Result<f64, Error> {
        let loss = self.forward(task, residual, chosen, vectors, watch)?;
        residual.gradient(&self.anchors, &mut self.thin, &self.pulls, &mut self.gradient, watch.crew)?;
        self.adam.step(&mut residual.parameters, &mut self.gradient, 2.0 * task.params.lambda, watch.crew)?;
        Ok(loss)
    }

    /// Mean loss of a batch, and its pull on every query.
    pub fn forward(
        &mut self,
        task: &Task<'_>,
        residual: &Residual,
        chosen: &[u32],
        vectors: &Vectors<'_>,
        watch: &Watch<'_>,
    ) -> Result<f64, Error> {
        let dim = task.items.dim();
        let total: f64 = chosen.iter().map(|&index| f64::from(task.examples.weights[index as usize])).sum();
        let share = watch.crew.share(chosen.len(), TILE);
        let buffers = self.anchors.chunks_mut(share * dim).zip(self.queries.chunks_mut(share * dim));
        let buffers = buffers.zip(self.pulls.chunks_mut(share * dim)).zip(self.losses.chunks_mut(share));
        let mut rest = self.thin.as_mut_slice();
        let parts = chosen.chunks(share).zip(buffers).map(|(chosen, (((anchors, queries), pulls), losses))| {
            let thin = rest.split_off_mut(..chosen.len() * residual.rank).unwrap_or_default();
            Part { chosen, anchors, thin, queries, pulls, losses }
        });
        watch.crew.each(parts.collect(), |mut part| {
            part.anchor(task, vectors);
            residual.apply(part.anchors, part.thin, part.queries);
            part.pull(task, vectors, total);
        })?;
        Ok(self.losses.iter().sum::<f64>() / total)
    }
}

impl Task<'_> {
    /// Everything that these examples are made of.
    pub fn vectors(&self, chosen: &[u32], watch: &mut Watch<'_>) -> Result<Vectors<'_>, Error> {
        let examples = self.examples;
        let items = chosen.iter().flat_map(|&index| examples.example(index as usize).iter().copied());
        let profiles = chosen.iter().map(|&index| examples.profile[index as usize]);
        Ok(Vectors { items: self.items.near(items, watch)?, sums: self.sums.near(profiles, watch)? })
    }
}

impl Part<'_> {
    /// The sum of the user's other saved items, as a unit vector.
    fn anchor(&mut self, task: &Task<'_>, vectors: &Vectors<'_>) {
        let examples = task.examples;
        for (&index, anchor) in self.chosen.iter().zip(self.anchors.chunks_exact_mut(task.items.dim())) {
            let index = index as usize;
            anchor.copy_from_slice(vectors.sums.row(examples.profile[index]));
            if examples.without_itself {
                add_scaled(anchor, -1.0, vectors.items.row(examples.example(index)[0]));
            }
            match norm(anchor) < MIN_ANCHOR {
                true => anchor.fill(0.0),
                false => normalise(anchor),
            }
        }
    }

    /// Loss of each example and the pull of its scores' gradients on its query, one after the other: the vectors are
    /// still close when they are needed again.
    fn pull(&mut self, task: &Task<'_>, vectors: &Vectors<'_>, total: f64) {
        let (dim, examples) = (task.items.dim(), task.examples);
        let Params { loss, tau, margin, .. } = *task.params;
        let objective = Objective { loss, tau, margin };
        let mut scores = vec![0.0; examples.width];
        let rows = self.queries.chunks_exact(dim).zip(self.pulls.chunks_exact_mut(dim)).zip(&mut *self.losses);
        for (&index, ((query, pull), loss)) in self.chosen.iter().zip(rows) {
            let (items, weight) = (examples.example(index as usize), examples.weights[index as usize]);
            for (&item, score) in items.iter().zip(&mut scores) {
                *score = dot(query, vectors.items.row(item));
            }
            *loss = objective.one(&mut scores) * f64::from(weight);
            let share = (f64::from(weight) / total) as f32;
            pull.fill(0.0);
            for (&item, gradient) in items.iter().zip(&scores) {
                add_scaled(pull, gradient * share, vectors.items.row(item));
            }
        }
    }
}
