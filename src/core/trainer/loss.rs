//! The three losses on the scores of one saved and k skipped items, with their gradients.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Cross-entropy of the saved item among all: the listwise, contrastive loss.
    Softmax,
    /// Bayesian personalised ranking: logistic loss of each saved-skipped pair.
    Bpr,
    /// Hinge: each skipped item at least a margin below the saved one.
    Triplet,
}

/// A loss with its constants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Objective {
    pub loss: Loss,
    pub tau: f32,
    pub margin: f32,
}

impl Objective {
    /// Loss of one example, the saved item's score first; the scores become their gradients.
    pub fn one(&self, scores: &mut [f32]) -> f64 {
        match self.loss {
            Loss::Softmax => softmax(scores, self.tau),
            Loss::Bpr => bpr(scores, self.tau),
            Loss::Triplet => triplet(scores, self.margin),
        }
    }

    /// Mean loss of examples of `width` scores each; the scores become their gradients.
    #[cfg(test)]
    pub fn backward(&self, scores: &mut [f32], width: usize, weights: &[f32]) -> f64 {
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let mut loss = 0.0;
        for (scores, &weight) in scores.chunks_exact_mut(width).zip(weights) {
            let one = self.one(scores);
            let share = (f64::from(weight) / total) as f32;
            scores.iter_mut().for_each(|g| *g *= share);
            loss += one * f64::from(weight);
        }
        loss / total
    }
}

fn softmax(scores: &mut [f32], tau: f32) -> f64 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let first = (scores[0] - highest) / tau;
    let mut sum = 0.0;
    for s in scores.iter_mut() {
        *s = ((*s - highest) / tau).exp();
        sum += *s;
    }
    scores.iter_mut().for_each(|s| *s /= sum * tau);
    scores[0] -= 1.0 / tau;
    f64::from(sum.ln() - first)
}

fn bpr(scores: &mut [f32], tau: f32) -> f64 {
    let (saved, skipped) = scores.split_first_mut().expect("a saved item");
    let k = skipped.len() as f32;
    let (mut loss, mut pull) = (0.0, 0.0);
    for s in skipped {
        let gap = (*saved - *s) / tau;
        loss += f64::from((-gap.abs()).exp().ln_1p() - gap.min(0.0));
        *s = 1.0 / ((1.0 + gap.exp()) * k * tau);
        pull += *s;
    }
    *saved = -pull;
    loss / f64::from(k)
}

fn triplet(scores: &mut [f32], margin: f32) -> f64 {
    let (saved, skipped) = scores.split_first_mut().expect("a saved item");
    let k = skipped.len() as f32;
    let (mut loss, mut pull) = (0.0, 0.0);
    for s in skipped {
        let lack = margin - *saved + *s;
        loss += f64::from(lack.max(0.0));
        *s = if lack > 0.0 { 1.0 / k } else { 0.0 };
        pull += *s;
    }
    *saved = -pull;
    loss / f64::from(k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses() -> [Objective; 3] {
        [Loss::Softmax, Loss::Bpr, Loss::Triplet].map(|loss| Objective { loss, tau: 0.5, margin: 0.3 })
    }

    #[test]
    fn gradients_agree_with_central_differences() {
        let (scores, weights, width) = ([0.3f32, 0.1, 0.5, -0.2, 0.4, 0.7], [1.0f32, 2.5], 3);
        for objective in losses() {
            let mut gradient = scores;
            objective.backward(&mut gradient, width, &weights);
            for i in 0..scores.len() {
                let at = |step: f32| {
                    let mut moved = scores;
                    moved[i] += step;
                    objective.backward(&mut moved, width, &weights)
                };
                let numeric = (at(1e-3) - at(-1e-3)) / 2e-3;
                assert!((numeric - f64::from(gradient[i])).abs() < 1e-3, "{objective:?}, score {i}");
            }
        }
    }

    #[test]
    fn extreme_scores_stay_finite() {
        for objective in losses() {
            for saved in [-1e4f32, 1e4] {
                let mut scores = [saved, 0.0, 3.0];
                let loss = objective.backward(&mut scores, 3, &[1.0]);
                assert!(loss.is_finite() && scores.iter().all(|g| g.is_finite()), "{objective:?}");
            }
        }
    }
}
