//! The contrastive stage: what is learned on top of a space, by Adam on analytic gradients.

use super::error::Error;
use super::evaluate::auc;
use super::examples::Examples;
use super::panel::Panel;
use super::params::Params;
use super::progress::Watch;
use super::residual::Residual;
use super::step::Trainer;
use super::store::Store;
use super::vectors::{add_scaled, dot, normalise, Rows, BLOCK};

/// Length of a residual that has left the neighbourhood of its start, in lengths of the identity of its dimension.
const MAX_NORM: f64 = 2.0;
/// Share of the first spread of scores below which all items look alike.
const MIN_SPREAD: f64 = 0.05;
/// Epochs with a validation AUC below one half after which nothing is kept.
const MAX_BELOW_CHANCE: usize = 3;
/// What a training run works on: everything in one space.
pub(super) struct Task<'a> {
    pub name: &'a str,
    pub items: &'a Store,
    /// What anchors are made of: the sum of each profile's saved vectors, or one vector for each query.
    pub sums: &'a Store,
    pub examples: &'a Examples,
    pub validation: &'a Panel,
    /// Unit anchors of the validation users' lists, as `List::anchor` counts them.
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
        let mut residual = Residual::new(self.items.dim(), self.params.seed);
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
        let limit = MAX_NORM * (self.items.dim() as f64).sqrt();
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
        let mut thin = vec![0.0; queries.len() * residual.rank];
        residual.apply(&self.validation_queries.data, &mut thin, &mut queries.data);
        queries.data.chunks_exact_mut(queries.dim).for_each(normalise);
        let (mut sum, mut count, mut first, mut second) = (0.0, 0.0, 0.0, 0.0);
        for member in &self.validation.members {
            watch.check()?;
            let items = self.items.near(member.shown(), watch)?;
            let (mut weighted, mut shown) = (0.0, 0.0);
            for list in &member.lists {
                let query = queries.row(list.anchor as usize);
                let scores: Vec<f32> = list.items.iter().map(|&i| dot(query, items.row(i))).collect();
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

/// The sum of the saved vectors of each profile.
pub(super) fn profile_sums(items: &Store, examples: &Examples, watch: &mut Watch<'_>) -> Result<Store, Error> {
    let profiles: Vec<u32> = (0..examples.profiles.len() as u32).collect();
    items.make(items.dim(), profiles.chunks(BLOCK), |block, out| {
        for (&profile, sum) in block.iter().zip(out.chunks_exact_mut(items.dim())) {
            let profile = &examples.profiles[profile as usize];
            let near = items.near(profile.iter().copied(), watch)?;
            profile.iter().for_each(|&item| add_scaled(sum, 1.0, near.row(item)));
        }
        watch.check()
    })
}

struct Validation {
    auc: f64,
    spread: f64,
}

#[cfg(test)]
mod tests {
    use super::super::input::Data;
    use super::super::loss::Loss;
    use super::super::panel::Member;
    use super::super::progress::Unobserved;
    use super::super::residual::{MAX_FULL, RANK};
    use super::super::rng;
    use super::super::testdata::{synthetic, Signal};
    use super::super::vectors::norm;
    use super::*;
    use rand::RngExt;

    /// Synthetic users with examples, and the same users to validate on.
    fn with_task<T>(params: &Params, run: impl FnOnce(&Task<'_>, &mut Watch<'_>) -> T) -> T {
        let mut observer = Unobserved;
        let watch = &mut Watch::new(&mut observer, None);
        let data = Data::new(synthetic(30, Signal::Planted, 5), 1, watch).unwrap();
        let everybody: Vec<usize> = (0..data.users.len()).collect();
        let examples = Examples::build(&data.users, &everybody, &data.items, params, watch).unwrap();
        let members = data.users.iter().enumerate().filter_map(|(i, user)| Member::within_train(i, user, 3));
        let validation = Panel::new(members.collect(), &data.users, &data.items, watch).unwrap();
        let identity = super::super::Adapter::identity(data.items.dim());
        let sums = profile_sums(&data.items, &examples, watch).unwrap();
        let task = Task {
            name: "trained raw",
            items: &data.items,
            sums: &sums,
            examples: &examples,
            validation: &validation,
            validation_queries: &validation.queries(&identity, watch).unwrap(),
            params,
            share: (0.0, 1.0),
        };
        run(&task, watch)
    }

    /// Loss with its penalty over a whole set of examples, in the state given.
    fn full_loss(task: &Task<'_>, trainer: &mut Trainer, residual: &Residual, watch: &mut Watch<'_>) -> f64 {
        let (mut sum, mut batches) = (0.0, 0.0);
        for chosen in (0..task.examples.len() as u32).collect::<Vec<_>>().chunks_exact(trainer.batch) {
            let vectors = task.vectors(chosen, watch).unwrap();
            sum += trainer.forward(task, residual, chosen, &vectors, watch).unwrap();
            batches += 1.0;
        }
        sum / batches + f64::from(task.params.lambda) * norm(&residual.parameters).powi(2)
    }

    #[test]
    fn gradients_of_both_forms_agree_with_central_differences() {
        for (loss, rank) in [(Loss::Softmax, 0), (Loss::Bpr, 0), (Loss::Softmax, 3), (Loss::Triplet, 3)] {
            let params = Params { loss, margin: 1.0, lambda: 0.1, ..Params::default() };
            with_task(&params, |task, watch| {
                let mut rng = rng::stream(1, "test");
                let count = if rank == 0 { 16 * 16 } else { 2 * 16 * rank };
                let parameters = (0..count).map(|_| rng.random::<f32>() * 0.2 - 0.1).collect();
                let mut residual = Residual { dim: 16, rank, parameters };
                let mut trainer = Trainer::new(task, &residual);
                let chosen: Vec<u32> = (0..trainer.batch as u32).collect();
                let vectors = task.vectors(&chosen, watch).unwrap();
                let mut at = |residual: &Residual| {
                    let data = trainer.forward(task, residual, &chosen, &vectors, watch).unwrap();
                    let mut gradient = vec![0.0; count];
                    residual
                        .gradient(&trainer.anchors, &mut trainer.thin, &trainer.pulls, &mut gradient, watch.crew)
                        .unwrap();
                    add_scaled(&mut gradient, 2.0 * params.lambda, &residual.parameters);
                    let penalty = f64::from(params.lambda) * norm(&residual.parameters).powi(2);
                    (data + penalty, gradient)
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
                    trainer.learn_at(learning_rate);
                    for epoch in 1..=200 {
                        trainer.epoch(&task, &mut residual, epoch, None, watch).unwrap();
                    }
                }
                full_loss(&task, &mut trainer, &residual, watch)
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
