//! The optimiser.

use multiversion::multiversion;

use super::crew::Crew;
use super::error::Error;
use super::vectors::{add_scaled, norm};

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
/// Gradients longer than this are shortened to it.
const MAX_GRADIENT: f64 = 1.0;
/// Numbers whose squares are summed by themselves, so that several threads sum in the same order as one.
const CHUNK: usize = 1 << 14;

/// Adam with its gradient clipped by its length over all parameters; no schedule.
pub(super) struct Adam {
    learning_rate: f32,
    steps: i32,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Adam {
    pub fn new(learning_rate: f32, parameters: usize) -> Self {
        Self { learning_rate, steps: 0, first: vec![0.0; parameters], second: vec![0.0; parameters] }
    }

    /// One step along the gradient and the decay, `decay` times the parameters; the gradient is used up.
    pub fn step(&mut self, parameters: &mut [f32], gradient: &mut [f32], decay: f32, crew: Crew) -> Result<(), Error> {
        let share = crew.share(gradient.len(), CHUNK);
        let mut squares = vec![0.0; gradient.len().div_ceil(CHUNK)];
        let parts = gradient.chunks_mut(share).zip(parameters.chunks(share)).zip(squares.chunks_mut(share / CHUNK));
        crew.each(parts.collect(), |((gradient, parameters), squares)| {
            for ((gradient, parameters), square) in
                gradient.chunks_mut(CHUNK).zip(parameters.chunks(CHUNK)).zip(squares)
            {
                add_scaled(gradient, decay, parameters);
                *square = norm(gradient).powi(2);
            }
        })?;
        let length = squares.iter().sum::<f64>().sqrt();
        let shorten = if length > MAX_GRADIENT { (MAX_GRADIENT / length) as f32 } else { 1.0 };
        self.steps = self.steps.saturating_add(1);
        let rate = self.learning_rate / (1.0 - BETA_1.powi(self.steps));
        let correction = 1.0 / (1.0 - BETA_2.powi(self.steps));
        let state = self.first.chunks_mut(share).zip(self.second.chunks_mut(share));
        let parts = parameters.chunks_mut(share).zip(gradient.chunks(share)).zip(state);
        crew.each(parts.collect(), |((parameters, gradient), (first, second))| {
            update(parameters, gradient, (first, second), (shorten, rate, correction));
        })
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn update(
    parameters: &mut [f32],
    gradient: &[f32],
    (first, second): (&mut [f32], &mut [f32]),
    (shorten, rate, correction): (f32, f32, f32),
) {
    for ((p, &g), (m, v)) in parameters.iter_mut().zip(gradient).zip(first.iter_mut().zip(second)) {
        let g = g * shorten;
        *m += (1.0 - BETA_1) * (g - *m);
        *v += (1.0 - BETA_2) * (g * g - *v);
        *p -= rate * *m / ((*v * correction).sqrt() + EPSILON);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_step_has_the_size_of_the_learning_rate_whatever_the_gradient() {
        for scale in [1e-3f32, 0.5, 1e4] {
            let mut parameters = [1.0f32, 1.0];
            Adam::new(0.01, 2).step(&mut parameters, &mut [scale, -scale], 0.0, Crew::alone()).unwrap();
            assert!((parameters[0] - 0.99).abs() < 1e-4 && (parameters[1] - 1.01).abs() < 1e-4);
        }
    }

    #[test]
    fn finds_the_minimum_of_a_parabola() {
        let (mut adam, mut x) = (Adam::new(0.05, 1), [3.0f32]);
        for _ in 0..500 {
            let mut gradient = [2.0 * (x[0] - 1.0)];
            adam.step(&mut x, &mut gradient, 0.0, Crew::alone()).unwrap();
        }
        assert!((x[0] - 1.0).abs() < 1e-2);
    }
}
