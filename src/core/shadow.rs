//! Shadow scoring: on the same live impressions, does the deployed model rank worse than what served before it?

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::metrics::scores::Scores;

/// Impressions that a verdict looks back on; the next larger one where too few users have both kinds among them.
pub const WINDOWS: [usize; 4] = [500, 1_000, 2_000, 4_000];
/// Users, or days, that a verdict needs.
pub const MIN_UNITS: usize = 20;
/// Error rate of all looks at one deployment together, and the least that one of them gets.
const ERROR_RATE: f64 = 0.05;
const LEAST: f64 = 0.000_5;
/// Ten times as many as the least error rate has to see.
const DRAWS: usize = 20_000;

/// What one user did with one item, and how both models scored it before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impression {
    pub user: i32,
    pub surface: i32,
    pub day: i32,
    pub saved: bool,
    pub score: f64,
    pub earlier: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub impressions: usize,
    /// What is resampled: "users", or the "days" of a few.
    pub unit: &'static str,
    pub units: usize,
    pub auc: f64,
    pub earlier_auc: f64,
    pub difference: f64,
    pub low: f64,
    pub high: f64,
}

/// Chance that the look of this number rolls back a model that is as good as what served before. A twentieth is shared
/// out among all looks, most of it to the first: who looks for ever at 5 % rolls everything back in the end.
#[must_use]
pub fn level(look: i32) -> f64 {
    let look = f64::from(look.max(1));
    (ERROR_RATE / (look * (look + 1.0))).max(LEAST)
}

/// Paired over users, or over days where users are few. `newest_first` is cut to the smallest window that has enough
/// of either; `None` when none has.
#[must_use]
pub fn compare(newest_first: &[Impression], level: f64, seed: u64, pause: impl FnMut()) -> Option<Comparison> {
    let usable = WINDOWS.iter().filter(|&&window| window <= newest_first.len());
    let (window, unit, measured) = usable.into_iter().find_map(|&window| {
        let seen = &newest_first[..window];
        let enough = |unit, of: fn(&Impression) -> (i32, i32)| {
            let measured = measure(seen, of);
            (measured.len() >= MIN_UNITS).then_some((window, unit, measured))
        };
        enough("users", |i| (i.user, 0)).or_else(|| enough("days", |i| (i.day, i.user)))
    })?;
    let mean = |of: fn(&Measured) -> f64| measured.iter().map(of).sum::<f64>() / measured.len() as f64;
    let (auc, earlier_auc) = (mean(|m| m.auc), mean(|m| m.earlier_auc));
    let gaps: Vec<f64> = measured.iter().map(|m| m.auc - m.earlier_auc).collect();
    let (low, high) = interval(&gaps, level, seed, pause);
    Some(Comparison {
        impressions: window,
        unit,
        units: measured.len(),
        auc,
        earlier_auc,
        difference: auc - earlier_auc,
        low,
        high,
    })
}

struct Measured {
    auc: f64,
    earlier_auc: f64,
}

/// Both AUC of every unit that has lists of both kinds: within one user and surface, as the gate does. `of` names the
/// unit first, and what else tells its lists apart.
fn measure(seen: &[Impression], of: fn(&Impression) -> (i32, i32)) -> Vec<Measured> {
    let mut units: BTreeMap<i32, BTreeMap<(i32, i32), Vec<&Impression>>> = BTreeMap::new();
    for impression in seen {
        let (unit, part) = of(impression);
        units.entry(unit).or_default().entry((part, impression.surface)).or_default().push(impression);
    }
    let measured = units.into_values().filter_map(|lists| {
        let (mut weight, mut auc, mut earlier_auc) = (0.0, 0.0, 0.0);
        for list in lists.into_values() {
            let (Some(now), Some(before)) = (area(&list, |i| i.score), area(&list, |i| i.earlier)) else { continue };
            let share = list.len() as f64;
            (weight, auc, earlier_auc) = (weight + share, auc + share * now, earlier_auc + share * before);
        }
        (weight > 0.0).then(|| Measured { auc: auc / weight, earlier_auc: earlier_auc / weight })
    });
    measured.collect()
}

/// Chance that a saved one scores above a skipped one; `None` without both kinds.
fn area(list: &[&Impression], score: fn(&Impression) -> f64) -> Option<f64> {
    let mut scores = Scores::default();
    for impression in list {
        scores.add(impression.saved, score(impression)).ok()?;
    }
    scores.roc_auc()
}

/// Quantiles of the mean over units drawn with replacement.
fn interval(gaps: &[f64], level: f64, seed: u64, mut pause: impl FnMut()) -> (f64, f64) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let units = gaps.len();
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| {
            pause();
            // multiplication instead of remainder: no bias that could be seen, and the same on every machine
            let draw = |rng: &mut Xoshiro256PlusPlus| ((u128::from(rng.next_u64()) * units as u128) >> 64) as usize;
            (0..units).map(|_| gaps[draw(&mut rng)]).sum::<f64>() / units as f64
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| means[((DRAWS - 1) as f64 * share).round() as usize];
    (at(level), at(1.0 - level))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users who save every third item; a model of some skill adds that much to the score of what is saved.
    fn shown(users: i32, each: i32, skill: f64, earlier_skill: f64, seed: u64) -> Vec<Impression> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut noise = move || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let all = (0..users).flat_map(|user| (0..each).map(move |n| (user, n)));
        all.map(|(user, n)| {
            let saved = (user + n) % 3 == 0;
            let score = |skill: f64, noise: f64| noise + if saved { skill } else { 0.0 };
            let (score, earlier) = (score(skill, noise()), score(earlier_skill, noise()));
            Impression { user, surface: 0, day: n, saved, score, earlier }
        })
        .collect()
    }

    fn of(impressions: &[Impression], look: i32) -> Comparison {
        compare(impressions, level(look), 7, || ()).unwrap()
    }

    #[test]
    fn the_error_rate_is_shared_out_among_the_looks() {
        assert!((level(1) - 0.025).abs() < 1e-12 && level(2) < level(1));
        assert!((1..10).map(level).sum::<f64>() < ERROR_RATE);
        assert_eq!(level(1_000), LEAST);
        assert_eq!(level(0), level(1));
    }

    #[test]
    fn a_worse_model_is_told_from_a_better_one() {
        let worse = of(&shown(50, 10, 0.0, 0.3, 1), 1);
        assert_eq!((worse.impressions, worse.unit, worse.units), (500, "users", 50));
        assert!(worse.high < 0.0 && worse.low < worse.difference && worse.difference < worse.high, "{worse:?}");
        assert!((worse.difference - (worse.auc - worse.earlier_auc)).abs() < 1e-12);
        let better = of(&shown(50, 10, 0.3, 0.0, 1), 1);
        assert!(better.low > 0.0, "{better:?}");
        let later = of(&shown(50, 10, 0.0, 0.3, 1), 5);
        assert!(later.high > worse.high && later.low < worse.low, "a later look is more careful");
    }

    #[test]
    fn equal_models_are_rolled_back_about_as_often_as_the_level_says() {
        let below = |seed| of(&shown(50, 10, 0.1, 0.1, seed), 1).high < 0.0;
        let wrong = (0..200).filter(|&seed| below(seed)).count();
        // 2.5 % of 200 are 5; more than 13 have a chance below one in a thousand
        assert!(wrong <= 13, "{wrong} of 200");
    }

    #[test]
    fn where_users_are_few_days_are_drawn_and_where_both_are_the_window_grows() {
        let alone = of(&shown(5, 100, 0.0, 0.5, 3), 1);
        assert_eq!((alone.unit, alone.units, alone.impressions), ("days", 100, 500));
        assert!(alone.high < 0.0);
        // one item a user in the first 500, so that nobody has both kinds there
        let mut sparse = shown(600, 1, 0.0, 0.3, 4);
        sparse.iter_mut().for_each(|i| i.day = 0);
        assert_eq!(compare(&sparse, 0.025, 1, || ()), None);
        sparse.extend(shown(60, 10, 0.0, 0.3, 5).into_iter().map(|i| Impression { day: 0, ..i }));
        let wider = of(&sparse, 1);
        assert_eq!((wider.impressions, wider.unit), (1_000, "users"));
    }

    #[test]
    fn surfaces_are_kept_apart_and_a_seed_repeats() {
        let mut trap = shown(50, 10, 0.0, 0.0, 6);
        trap.iter_mut().for_each(|i| i.surface = i32::from(i.saved));
        assert_eq!(compare(&trap, 0.025, 1, || ()), None, "saves of one screen against skips of another");
        let seen = shown(50, 10, 0.1, 0.2, 8);
        assert_eq!(of(&seen, 3), of(&seen, 3));
        assert!(compare(&seen[..499], 0.025, 1, || ()).is_none(), "not yet");
    }
}
