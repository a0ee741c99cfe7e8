//! Kaplan-Meier: how long things take when some have not ended yet. Events are the positive rows of `Scores`, those still
//! waiting the negative ones; the score is the time.

use super::scores::Scores;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// A share of exactly one half may be a rounding error above it.
const HALF: f64 = 0.5 + 1e-12;

/// Time by which half have ended; None while more than half wait.
pub fn median(times: &mut Scores) -> Option<f64> {
    let mut left = times.totals().0 + times.totals().1;
    let mut waiting = 1.0;
    for step in times.steps() {
        waiting *= 1.0 - step.positive / left;
        left -= step.positive + step.negative;
        if waiting <= HALF {
            return Some(step.score());
        }
    }
    None
}

/// Mean time up to the horizon: the area under the share that still waits.
pub fn restricted_mean(times: &mut Scores, horizon: f64) -> Option<f64> {
    let mut left = times.totals().0 + times.totals().1;
    if left <= 0.0 {
        return None;
    }
    let (mut waiting, mut before, mut area) = (1.0, 0.0, 0.0);
    for step in times.steps().take_while(|step| step.score() < horizon) {
        area += waiting * (step.score() - before);
        before = step.score();
        waiting *= 1.0 - step.positive / left;
        left -= step.positive + step.negative;
    }
    Some(area + waiting * (horizon - before))
}

/// One wait of one user.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    pub user: u32,
    pub time: f64,
    pub ended: bool,
}

/// Median and restricted mean with intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// 95 % intervals of median and restricted mean from resampling users: the waits of one user are not independent.
/// A bound of the median is None when it lies beyond what was watched.
pub fn bootstrap(
    mut waits: Vec<Wait>,
    horizon: f64,
    resamples: usize,
    seed: u64,
    mut pause: impl FnMut(),
) -> [Interval; 2] {
    let users = waits.iter().map(|wait| wait.user as usize + 1).max().unwrap_or(0);
    if users < 2 || resamples < 2 {
        return [Interval::default(); 2];
    }
    waits.sort_unstable_by(|a, b| a.time.total_cmp(&b.time));
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut medians, mut means) = (Vec::with_capacity(resamples), Vec::with_capacity(resamples));
    let mut drawn = vec![0.0; users];
    for _ in 0..resamples {
        pause();
        drawn.fill(0.0);
        for _ in 0..users {
            // Multiplication instead of remainder: no bias that could be seen, and the same on every machine.
            drawn[((u128::from(rng.next_u64()) * users as u128) >> 64) as usize] += 1.0;
        }
        let (median, mean) = resample(&waits, &drawn, horizon);
        medians.push(median.unwrap_or(f64::INFINITY));
        means.push(mean);
    }
    [medians, means].map(|mut values| {
        values.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| Some(values[((resamples - 1) as f64 * share).round() as usize]).filter(|v| v.is_finite());
        Interval { low: at(0.025), high: at(0.975) }
    })
}

/// Median and restricted mean when each user counts as often as drawn.
fn resample(waits: &[Wait], drawn: &[f64], horizon: f64) -> (Option<f64>, f64) {
    let mut left: f64 = waits.iter().map(|wait| drawn[wait.user as usize]).sum();
    let (mut waiting, mut before, mut area, mut median) = (1.0, 0.0, 0.0, None);
    for together in waits.chunk_by(|a, b| a.time == b.time) {
        let time = together[0].time;
        area += waiting * (time.min(horizon) - before);
        before = time.min(horizon);
        let count =
            |ended: bool| together.iter().filter(|w| w.ended == ended).map(|w| drawn[w.user as usize]).sum::<f64>();
        let (ended, censored) = (count(true), count(false));
        if left > 0.0 {
            waiting *= 1.0 - ended / left;
        }
        left -= ended + censored;
        if waiting <= HALF && median.is_none() {
            median = Some(time);
        }
    }
    (median, area + waiting * (horizon - before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits() -> Vec<Wait> {
        (0..400).map(|i| Wait { user: i / 10, time: f64::from(i * 37 % 101), ended: i % 4 != 0 }).collect()
    }

    fn times(waits: &[Wait]) -> Scores {
        let mut times = Scores::default();
        waits.iter().for_each(|w| times.add(w.ended, w.time).unwrap());
        times
    }

    #[test]
    fn vector() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stats-vectors.json");
        let file: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let km = &file["time_to_process_kaplan_meier"];
        let mut times = Scores::default();
        for (hours, ended) in km["durations_hours"].as_array().unwrap().iter().zip(km["cleared"].as_array().unwrap()) {
            times.add(ended == 1, hours.as_f64().unwrap()).unwrap();
        }
        assert_eq!(median(&mut times), km["median"].as_f64());
        let mean = restricted_mean(&mut times, 20.0).unwrap();
        assert!((mean - km["restricted_mean_to_20h"].as_f64().unwrap()).abs() < 1e-12);
    }

    #[test]
    fn everyone_drawn_once_is_the_estimate_itself() {
        let mut sorted = waits();
        sorted.sort_unstable_by(|a, b| a.time.total_cmp(&b.time));
        let (middle, mean) = resample(&sorted, &[1.0; 40], 80.0);
        assert_eq!(middle, median(&mut times(&waits())));
        assert!((mean - restricted_mean(&mut times(&waits()), 80.0).unwrap()).abs() < 1e-9);
    }

    #[test]
    fn intervals_hold_the_estimate_and_depend_on_the_seed_alone() {
        let [middle, mean] = bootstrap(waits(), 80.0, 200, 7, || ());
        let estimate = median(&mut times(&waits())).unwrap();
        assert!(middle.low.unwrap() <= estimate && estimate <= middle.high.unwrap(), "{middle:?}");
        let estimate = restricted_mean(&mut times(&waits()), 80.0).unwrap();
        assert!(mean.low.unwrap() < estimate && estimate < mean.high.unwrap(), "{mean:?}");
        assert_eq!([middle, mean], bootstrap(waits(), 80.0, 200, 7, || ()));
        assert_ne!([middle, mean], bootstrap(waits(), 80.0, 200, 8, || ()));
        assert_eq!(bootstrap(Vec::new(), 1.0, 200, 7, || ()), [Interval::default(); 2]);
    }

    #[test]
    fn nothing_ended_has_no_median() {
        let mut pending = times(&[Wait { user: 0, time: 3.0, ended: false }]);
        assert_eq!((median(&mut pending), restricted_mean(&mut pending, 3.0)), (None, Some(3.0)));
        assert_eq!((median(&mut Scores::default()), restricted_mean(&mut Scores::default(), 3.0)), (None, None));
    }
}
