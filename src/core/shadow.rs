//! Shadow scoring: on the same live impressions, does the deployed model rank worse than what served before it?
//!
//! What is shown was picked by one of the two, and a model cannot tell apart what it has picked itself: plain AUC on such a list
//! favours the rival, whoever that is. So they are compared where they disagree: among items of equal mean score, is saved more
//! often what the deployed model likes better? A selection by either score, or by both, leaves that answer as it is.

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

/// A model's score of an item, and the standard deviation of its scores over all kinds of items for the same user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    pub value: f64,
    pub spread: f64,
}

/// What one user did with one item, and how both models scored it before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impression {
    pub user: i32,
    pub surface: i32,
    pub day: i32,
    pub saved: bool,
    pub score: Score,
    pub earlier: Score,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub impressions: usize,
    /// What is resampled: "users", or the "days" of a few.
    pub unit: &'static str,
    pub units: usize,
    pub auc: f64,
    pub earlier_auc: f64,
    /// How much more often an item is saved for each standard deviation by which the deployed model scores it above the
    /// other one, at equal mean score; below 0 the other one is right where they disagree.
    pub gain: f64,
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
    let mut usable = WINDOWS.into_iter().filter(|&window| window <= newest_first.len());
    let (window, unit, measured) = usable.find_map(|window| {
        let seen = &newest_first[..window];
        let enough = |unit, of: fn(&Impression) -> (i32, i32)| {
            let measured = measure(seen, of);
            (measured.len() >= MIN_UNITS).then_some((window, unit, measured))
        };
        enough("users", |i| (i.user, 0)).or_else(|| enough("days", |i| (i.day, i.user)))
    })?;
    let mean = |of: fn(&Measured) -> f64| measured.iter().map(of).sum::<f64>() / measured.len() as f64;
    let sums: Vec<Sums> = measured.iter().map(|m| m.sums).collect();
    let (low, high) = interval(&sums, level, seed, pause);
    Some(Comparison {
        impressions: window,
        unit,
        units: measured.len(),
        auc: mean(|m| m.auc),
        earlier_auc: mean(|m| m.earlier_auc),
        gain: sums.iter().fold(Sums::default(), Sums::plus).gain(),
        low,
        high,
    })
}

struct Measured {
    auc: f64,
    earlier_auc: f64,
    sums: Sums,
}

/// Products of what the models agree on (the sum of both scores, a), what they differ in (d) and the outcome (y), each
/// less its mean in the list.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    aa: f64,
    ad: f64,
    dd: f64,
    ay: f64,
    dy: f64,
}

impl Sums {
    /// Of one list; nothing where a model scores all items alike.
    fn of(list: &[&Impression]) -> Self {
        let size = list.len() as f64;
        let mean = |of: &dyn Fn(&Impression) -> f64| list.iter().map(|i| of(i)).sum::<f64>() / size;
        let (spread, earlier_spread) = (mean(&|i| i.score.spread), mean(&|i| i.earlier.spread));
        if spread <= 0.0 || earlier_spread <= 0.0 {
            return Self::default();
        }
        let (center, earlier_center) = (mean(&|i| i.score.value), mean(&|i| i.earlier.value));
        let saved = |i: &Impression| f64::from(u8::from(i.saved));
        let share = mean(&saved);
        list.iter().fold(Self::default(), |sums, i| {
            let now = (i.score.value - center) / spread;
            let before = (i.earlier.value - earlier_center) / earlier_spread;
            let (a, d, y) = (now + before, now - before, saved(i) - share);
            sums.plus(&Self { aa: a * a, ad: a * d, dd: d * d, ay: a * y, dy: d * y })
        })
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            aa: self.aa + other.aa,
            ad: self.ad + other.ad,
            dd: self.dd + other.dd,
            ay: self.ay + other.ay,
            dy: self.dy + other.dy,
        }
    }

    /// Slope of the outcome along what the models differ in, at equal agreement. The little that is added keeps models that
    /// always agree, or never, from dividing by rounding errors.
    fn gain(&self) -> f64 {
        let little = 1e-4 * (self.aa + self.dd);
        let (aa, dd) = (self.aa + little, self.dd + little);
        let determinant = aa * dd - self.ad * self.ad;
        if determinant > 0.0 {
            (self.dy * aa - self.ay * self.ad) / determinant
        } else {
            0.0
        }
    }
}

/// AUC and sums of every unit that has lists of both kinds: within one user and surface, as the gate does. `of` names the
/// unit first, and what else tells its lists apart.
fn measure(seen: &[Impression], of: fn(&Impression) -> (i32, i32)) -> Vec<Measured> {
    let mut units: BTreeMap<i32, BTreeMap<(i32, i32), Vec<&Impression>>> = BTreeMap::new();
    for impression in seen {
        let (unit, part) = of(impression);
        units.entry(unit).or_default().entry((part, impression.surface)).or_default().push(impression);
    }
    let measured = units.into_values().filter_map(|lists| {
        let (mut weight, mut auc, mut earlier_auc, mut sums) = (0.0, 0.0, 0.0, Sums::default());
        for list in lists.into_values() {
            let areas = (area(&list, |i| i.score.value), area(&list, |i| i.earlier.value));
            let (Some(now), Some(before)) = areas else { continue };
            let share = list.len() as f64;
            (weight, auc, earlier_auc) = (weight + share, auc + share * now, earlier_auc + share * before);
            sums = sums.plus(&Sums::of(&list));
        }
        (weight > 0.0).then(|| Measured { auc: auc / weight, earlier_auc: earlier_auc / weight, sums })
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

/// Quantiles of the gain over units drawn with replacement.
fn interval(sums: &[Sums], level: f64, seed: u64, mut pause: impl FnMut()) -> (f64, f64) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let units = sums.len();
    let mut gains: Vec<f64> = (0..DRAWS)
        .map(|_| {
            pause();
            // multiplication instead of remainder: no bias that could be seen, and the same on every machine
            let draw = |rng: &mut Xoshiro256PlusPlus| ((u128::from(rng.next_u64()) * units as u128) >> 64) as usize;
            (0..units).fold(Sums::default(), |all, _| all.plus(&sums[draw(&mut rng)])).gain()
        })
        .collect();
    gains.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| gains[((DRAWS - 1) as f64 * share).round() as usize];
    (at(level), at(1.0 - level))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items to show something of.
    const POOL: usize = 200;

    /// Items have a worth to each user that both models see through noise of their own. Shown is what the deployed model
    /// likes best, or any; saved is about half of it.
    fn shown(users: i32, each: usize, noise: [f64; 2], picked: bool, seed: u64) -> Vec<Impression> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut uniform = move || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let normal = |uniform: &mut dyn FnMut() -> f64| (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let mut out = Vec::new();
        for user in 0..users {
            let mut items: Vec<[f64; 3]> = (0..POOL)
                .map(|_| {
                    let worth = normal(&mut uniform);
                    let mut seen = |noise: f64| worth + noise * normal(&mut uniform);
                    [worth, seen(noise[0]), seen(noise[1])]
                })
                .collect();
            let spread = |of: usize| {
                let mean = items.iter().map(|i| i[of]).sum::<f64>() / POOL as f64;
                (items.iter().map(|i| (i[of] - mean).powi(2)).sum::<f64>() / POOL as f64).sqrt()
            };
            let (spread, earlier_spread) = (spread(1), spread(2));
            if picked {
                items.sort_by(|a, b| b[1].total_cmp(&a[1]));
            }
            let usual = items[..each].iter().map(|i| i[0]).sum::<f64>() / each as f64;
            for (day, item) in items[..each].iter().enumerate() {
                let saved = uniform() < 1.0 / (1.0 + (-2.0 * (item[0] - usual)).exp());
                let score = Score { value: item[1], spread };
                let earlier = Score { value: item[2], spread: earlier_spread };
                out.push(Impression { user, surface: 0, day: day as i32, saved, score, earlier });
            }
        }
        out
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
        let worse = of(&shown(50, 10, [3.0, 0.1], false, 1), 1);
        assert_eq!((worse.impressions, worse.unit), (500, "users"));
        assert!(worse.units >= 40 && worse.auc < worse.earlier_auc, "{worse:?}");
        assert!(worse.high < 0.0 && worse.low < worse.gain && worse.gain < worse.high, "{worse:?}");
        let better = of(&shown(50, 10, [0.1, 3.0], false, 1), 1);
        assert!(better.low > 0.0, "{better:?}");
        let later = of(&shown(50, 10, [3.0, 0.1], false, 1), 5);
        assert!(later.high > worse.high && later.low < worse.low, "a later look is more careful");
    }

    #[test]
    fn equal_models_are_rolled_back_about_as_often_as_the_level_says_whoever_picked_the_items() {
        for picked in [false, true] {
            let all: Vec<Comparison> = (0..100).map(|seed| of(&shown(50, 10, [1.0, 1.0], picked, seed), 1)).collect();
            let wrong = all.iter().filter(|c| c.high < 0.0).count();
            // 2.5 % of 100; ten or more have a chance below one in a thousand
            assert!(wrong < 10, "{wrong} of 100, picked: {picked}");
            let by_auc = all.iter().filter(|c| c.auc < c.earlier_auc).count();
            assert!(!picked || by_auc > 80, "plain AUC favours the rival of who picked: {by_auc} of 100");
        }
        let better = (0..40).filter(|&seed| of(&shown(50, 10, [0.6, 1.0], true, seed), 1).high < 0.0).count();
        assert!(better <= 2, "{better} of 40");
    }

    #[test]
    fn models_that_always_agree_or_never_are_compared_as_well() {
        let with = |earlier: fn(Score) -> Score| {
            let same = shown(50, 10, [0.1, 0.1], false, 2);
            of(&same.iter().map(|i| Impression { earlier: earlier(i.score), ..*i }).collect::<Vec<_>>(), 1)
        };
        let same = with(|score| score);
        assert_eq!((same.gain, same.low, same.high), (0.0, 0.0, 0.0));
        let contrary = with(|score| Score { value: -score.value, ..score });
        assert!(contrary.low > 0.0 && contrary.auc > 0.5, "{contrary:?}");
    }

    #[test]
    fn where_users_are_few_days_are_drawn_and_where_both_are_the_window_grows() {
        let mut alone = shown(1, 40, [3.0, 0.1], false, 3);
        (0..15).for_each(|n| alone.extend(shown(1, 40, [3.0, 0.1], false, 10 + n)));
        alone.iter_mut().enumerate().for_each(|(n, i)| i.day = n as i32 / 10);
        let alone = of(&alone, 1);
        assert_eq!((alone.unit, alone.impressions), ("days", 500));
        assert!(alone.units >= 40 && alone.high < 0.0, "{alone:?}");
        // one item a user in the first 500, so that nobody has both kinds there
        let same_day = |i: Impression| Impression { day: 0, ..i };
        let mut sparse: Vec<Impression> = shown(600, 1, [3.0, 0.1], false, 4).into_iter().map(same_day).collect();
        assert_eq!(compare(&sparse, 0.025, 1, || ()), None);
        sparse.extend(shown(60, 10, [3.0, 0.1], false, 5).into_iter().map(same_day));
        let wider = of(&sparse, 1);
        assert_eq!((wider.impressions, wider.unit), (1_000, "users"));
    }

    #[test]
    fn surfaces_are_kept_apart_and_a_seed_repeats() {
        let mut trap = shown(50, 10, [1.0, 1.0], false, 6);
        trap.iter_mut().for_each(|i| i.surface = i32::from(i.saved));
        assert_eq!(compare(&trap, 0.025, 1, || ()), None, "saves of one screen against skips of another");
        let seen = shown(50, 10, [1.0, 0.5], false, 8);
        assert_eq!(of(&seen, 3), of(&seen, 3));
        assert!(compare(&seen[..499], 0.025, 1, || ()).is_none(), "not yet");
    }

    /// Whether the interval of the difference of AUC lies below 0.
    fn below_by_auc(seen: &[Impression]) -> bool {
        let gaps: Vec<f64> = measure(seen, |i| (i.user, 0)).iter().map(|m| m.auc - m.earlier_auc).collect();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut draw = || (0..gaps.len()).map(|_| gaps[rng.next_u64() as usize % gaps.len()]).sum::<f64>();
        let mut sums: Vec<f64> = (0..2_000).map(|_| draw()).collect();
        sums.sort_unstable_by(f64::total_cmp);
        sums[1_949] < 0.0
    }

    #[test]
    #[ignore = "a simulation"]
    fn who_is_taken_back() {
        println!("rolled back of 200 at the first look, 50 users x 10 items    by gain   by difference of AUC");
        for (what, noise) in
            [("better", [0.7, 1.0]), ("as good", [1.0, 1.0]), ("worse", [1.5, 1.0]), ("much worse", [3.0, 1.0])]
        {
            for (picked, how) in [(true, "picked by it"), (false, "shown at random")] {
                let all: Vec<_> = (0..200).map(|seed| shown(50, 10, noise, picked, seed)).collect();
                let by_gain = all.iter().filter(|seen| of(seen, 1).high < 0.0).count();
                let by_auc = all.iter().filter(|seen| below_by_auc(seen)).count();
                println!("{what:>12}, {how:<30} {by_gain:>20} {by_auc:>22}");
            }
        }
    }
}
