//! The optimiser.

use super::vectors::{norm, wide};

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
/// Gradients longer than this are shortened to it.
const MAX_GRADIENT: f64 = 1.0;

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

    pub fn step(&mut self, parameters: &mut [f32], gradient: &[f32]) {
        let length = wide(|| norm(gradient));
        let shorten = if length > MAX_GRADIENT { (MAX_GRADIENT / length) as f32 } else { 1.0 };
        self.steps = self.steps.saturating_add(1);
        let rate = self.learning_rate / (1.0 - BETA_1.powi(self.steps));
        let second_correction = 1.0 / (1.0 - BETA_2.powi(self.steps));
        let state = self.first.iter_mut().zip(&mut self.second);
        let all = parameters.iter_mut().zip(gradient).zip(state);
        wide(|| {
            for ((p, &g), (m, v)) in all {
                let g = g * shorten;
                *m += (1.0 - BETA_1) * (g - *m);
                *v += (1.0 - BETA_2) * (g * g - *v);
                *p -= rate * *m / ((*v * second_correction).sqrt() + EPSILON);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_step_has_the_size_of_the_learning_rate_whatever_the_gradient() {
        for scale in [1e-3f32, 0.5, 1e4] {
            let mut parameters = [1.0f32, 1.0];
            Adam::new(0.01, 2).step(&mut parameters, &[scale, -scale]);
            assert!((parameters[0] - 0.99).abs() < 1e-4 && (parameters[1] - 1.01).abs() < 1e-4);
        }
    }

    #[test]
    fn finds_the_minimum_of_a_parabola() {
        let (mut adam, mut x) = (Adam::new(0.05, 1), [3.0f32]);
        for _ in 0..500 {
            let gradient = [2.0 * (x[0] - 1.0)];
            adam.step(&mut x, &gradient);
        }
        assert!((x[0] - 1.0).abs() < 1e-2);
    }
}
