//! Contrastive examples: each saved item against items that the same user was shown on the same surface and skipped.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand::RngExt;
use rand_xoshiro::SplitMix64;

use super::error::Error;
use super::input::{Action, User};
use super::panel::SOME;
use super::params::Params;
use super::progress::Watch;
use super::rng;
use super::store::Store;
use super::vectors::dot;

/// A skipped item as close as this to one that the user saved is the same thing told twice, not a dislike.
const SAME_THING: f32 = 0.97;
/// Skipped items of one user and surface that are looked at.
const MAX_POOL: usize = 512;

/// Everything by index; the vectors stay where they are.
#[derive(Debug, Default)]
pub(super) struct Examples {
    /// Items per example: the saved one and its negatives.
    pub width: usize,
    pub items: Vec<u32>,
    /// Index into `profiles` of each example.
    pub profile: Vec<u32>,
    pub weights: Vec<f32>,
    /// A random number each, the same when other users come or go.
    pub ranks: Vec<u64>,
    /// Saved items of each user who has examples.
    pub profiles: Vec<Vec<u32>>,
    /// The saved item is part of its profile and to be taken out.
    pub without_itself: bool,
    pub report: ExampleReport,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, serde::Serialize)]
pub struct ExampleReport {
    pub users: usize,
    pub examples: usize,
    /// Saved items of users with a profile whose surface shows no skipped item of the same user.
    pub saved_without_skipped: usize,
    /// Skipped items left out because they nearly equal a saved one.
    pub near_duplicates: usize,
}

impl Examples {
    pub fn build(
        users: &[User],
        fit: &[usize],
        items: &Store,
        params: &Params,
        watch: &mut Watch<'_>,
    ) -> Result<Self, Error> {
        let width = 1 + params.negatives_per_positive;
        let mut examples = Self { width, without_itself: true, ..Self::default() };
        for &index in fit {
            watch.check()?;
            examples.add_user(&users[index], items, params, watch)?;
        }
        examples.cap(params);
        examples.report.users = examples.profiles.len();
        examples.report.examples = examples.len();
        Ok(examples)
    }

    pub fn len(&self) -> usize {
        self.profile.len()
    }

    pub fn example(&self, index: usize) -> &[u32] {
        &self.items[index * self.width..(index + 1) * self.width]
    }

    fn add_user(&mut self, user: &User, items: &Store, params: &Params, watch: &mut Watch<'_>) -> Result<(), Error> {
        let saved = User::saved(&user.train);
        if saved.len() < params.min_user_saved {
            return Ok(());
        }
        let mut rng = rng::stream(params.seed, &format!("examples {}", user.name));
        let mut pools: BTreeMap<u32, Vec<Action>> = BTreeMap::new();
        for action in user.train.iter().filter(|a| !a.saved) {
            pools.entry(action.surface).or_default().push(*action);
        }
        for pool in pools.values_mut() {
            self.only_unlike(pool, &saved, items, &mut rng, watch)?;
        }
        pools.retain(|_, pool| !pool.is_empty());
        let mut positives: Vec<&Action> = user.train.iter().filter(|a| a.saved).collect();
        let unpaired = positives.len();
        positives.retain(|a| pools.contains_key(&a.surface));
        self.report.saved_without_skipped += unpaired - positives.len();
        if positives.is_empty() {
            return Ok(());
        }
        positives.shuffle(&mut rng);
        positives.truncate(params.positives_per_user);
        for (index, positive) in positives.into_iter().enumerate() {
            self.ranks.push(rng::hash(params.seed, &["cap", &user.name, &index.to_string()]));
            let negatives = draw(&pools[&positive.surface], params.negatives_per_positive, &mut rng);
            self.items.push(positive.item);
            self.items.extend(negatives);
            self.profile.push(self.profiles.len() as u32);
            self.weights.push(positive.weight);
        }
        self.profiles.push(saved);
        Ok(())
    }

    /// Leaves what may serve as a negative: some of the skipped, but nothing that nearly equals a saved item.
    pub fn only_unlike(
        &mut self,
        pool: &mut Vec<Action>,
        saved: &[u32],
        items: &Store,
        rng: &mut SplitMix64,
        watch: &mut Watch<'_>,
    ) -> Result<(), Error> {
        pool.shuffle(rng);
        pool.truncate(MAX_POOL);
        let before = pool.len();
        let skipped = items.near(pool.iter().map(|skip| skip.item), watch)?;
        for some in saved.chunks(SOME) {
            let near = items.near(some.iter().copied(), watch)?;
            pool.retain(|skip| {
                let vector = skipped.row(skip.item);
                some.iter().all(|&s| dot(vector, near.row(s)) <= SAME_THING)
            });
        }
        self.report.near_duplicates += before - pool.len();
        Ok(())
    }

    /// Keeps the examples with the smallest ranks, so that a few more users change few of those kept.
    pub fn cap(&mut self, params: &Params) {
        if self.len() <= params.max_examples {
            return;
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&index| (self.ranks[index], index));
        order.truncate(params.max_examples);
        order.sort_unstable();
        self.items = order.iter().flat_map(|&i| self.example(i).to_vec()).collect();
        self.profile = order.iter().map(|&i| self.profile[i]).collect();
        self.weights = order.iter().map(|&i| self.weights[i]).collect();
    }
}

/// `count` items by weight, without repetition while there are enough.
pub(super) fn draw(pool: &[Action], count: usize, rng: &mut SplitMix64) -> Vec<u32> {
    let mut left: Vec<&Action> = pool.iter().collect();
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count {
        if left.is_empty() {
            left = pool.iter().collect();
        }
        let total: f32 = left.iter().map(|a| a.weight).sum();
        let mut point = rng.random::<f32>() * total;
        let hit = left.iter().position(|a| {
            point -= a.weight;
            point < 0.0
        });
        drawn.push(left.swap_remove(hit.unwrap_or(left.len() - 1)).item);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::super::vectors::Rows;
    use super::*;

    fn action(item: u32, saved: bool, surface: u32) -> Action {
        Action { item, saved, surface, at: 0, weight: 1.0, query: None }
    }

    fn build(train: Vec<Action>, params: &Params) -> Examples {
        let users = [User { name: "adam".into(), train, test: Vec::new() }];
        let mut items = Rows::zeros(10, 10);
        (0..10).for_each(|i| items.row_mut(i)[i % 9] = 1.0);
        let items = Store::Memory(items);
        Examples::build(&users, &[0], &items, params, &mut Watch::new(&mut Unobserved, None)).unwrap()
    }

    #[test]
    fn a_save_meets_only_skips_of_its_surface() {
        let saves = [action(0, true, 1), action(1, true, 2), action(2, true, 3)];
        let skips = [action(3, false, 1), action(4, false, 1), action(5, false, 2)];
        let examples = build([saves, skips].concat(), &Params::default());
        assert_eq!(examples.len(), 2);
        assert_eq!(examples.report.saved_without_skipped, 1);
        for index in 0..examples.len() {
            let allowed: &[u32] = if examples.example(index)[0] == 0 { &[3, 4] } else { &[5] };
            assert!(examples.example(index)[1..].iter().all(|item| allowed.contains(item)));
        }
        assert_eq!(examples.profiles, [[0, 1, 2]]);
    }

    #[test]
    fn near_duplicates_of_saved_items_are_no_negatives() {
        let train = vec![action(0, true, 0), action(1, true, 0), action(2, true, 0), action(9, false, 0)];
        let examples = build(train, &Params::default());
        assert_eq!((examples.len(), examples.report.near_duplicates), (0, 1));
    }

    #[test]
    fn users_without_a_profile_and_examples_over_the_cap_are_left_out() {
        let few = vec![action(0, true, 0), action(1, true, 0), action(3, false, 0)];
        assert_eq!(build(few.clone(), &Params::default()).len(), 0);
        let many = [few, vec![action(2, true, 0), action(4, true, 0)]].concat();
        assert_eq!(build(many.clone(), &Params::default()).len(), 4);
        assert_eq!(build(many, &Params { max_examples: 3, ..Params::default() }).len(), 3);
    }
}
