//! Simulated listeners. Their tastes are hidden: nothing here is ever written to the database but what they do.

use rand::RngExt;
use rand::seq::IteratorRandom;

use crate::dice::{self, Dice, logistic, normal};
use crate::features::{Catalogue, Features, LEANING_COUNT, TONE_COUNT, TOPIC_COUNT};

/// Share of random passages that are kept (saved or snipped).
const KEPT_SHARE: f64 = 0.30;
const SNIP_SHARE: f64 = 0.15;
/// Each place further down the list costs attention and good will.
const POSITION_COST: f64 = 0.03;
const LOOKS_AT_FIRST: f64 = 0.98;
const LOOKS_AWAY_PER_POSITION: f64 = 0.005;
const WHIM: f64 = 0.3;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Action {
    Saved,
    Skipped,
    Snipped,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::Saved => "saved",
            Action::Skipped => "skipped",
            Action::Snipped => "snipped",
        }
    }
}

pub struct Listener {
    pub id: String,
    threshold: f64,
    topics: Vec<(usize, f64)>,
    tones: [f64; TONE_COUNT],
    leaning: (usize, f64),
    disliked_speakers: Vec<usize>,
}

impl Listener {
    fn draw(catalogue: &Catalogue, dice: &mut Dice) -> Self {
        let topic_count = dice.random_range(1..=3);
        let topics = (0..TOPIC_COUNT).sample(dice, topic_count);
        let mut listener = Self {
            id: uuid(dice),
            threshold: 0.0,
            topics: topics.into_iter().map(|topic| (topic, dice.random_range(3.0..5.0))).collect(),
            tones: std::array::from_fn(|_| 0.3 * normal(dice)),
            leaning: (dice.random_range(0..LEANING_COUNT), dice.random_range(0.9..1.5)),
            disliked_speakers: (0..catalogue.speakers).sample(dice, 4),
        };
        listener.threshold = listener.calibrated(catalogue, dice);
        listener
    }

    /// What the listener sees in a passage, before whim and position.
    pub fn likes(&self, features: &Features) -> f64 {
        let topics: f64 = self.topics.iter().map(|&(topic, weight)| weight * features.topics[topic]).sum();
        let tones: f64 = self.tones.iter().zip(features.tones).map(|(weight, tone)| weight * tone).sum();
        let leaning = self.leaning.1 * features.leanings[self.leaning.0];
        let disliked = f64::from(u8::from(self.disliked_speakers.contains(&features.speaker)));
        topics + tones + leaning - 1.5 * disliked
    }

    /// Threshold at which this listener would keep the wanted share of random passages.
    fn calibrated(&self, catalogue: &Catalogue, dice: &mut Dice) -> f64 {
        let sample: Vec<f64> =
            (0..300).map(|_| self.likes(&catalogue.passages[dice.random_range(0..catalogue.passages.len())])).collect();
        let kept =
            |threshold: f64| sample.iter().map(|likes| logistic(likes - threshold)).sum::<f64>() / sample.len() as f64;
        let (mut low, mut high) = (-10.0, 20.0);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if kept(middle) > KEPT_SHARE { low = middle } else { high = middle }
        }
        low
    }

    /// What happens to a passage at a place of a list; None = never looked at.
    pub fn decide(&self, features: &Features, position: usize, dice: &mut Dice) -> Option<Action> {
        if !dice.random_bool(LOOKS_AT_FIRST - LOOKS_AWAY_PER_POSITION * position as f64) {
            return None;
        }
        let utility = self.likes(features) - self.threshold - POSITION_COST * position as f64 + WHIM * normal(dice);
        Some(match (dice.random_bool(logistic(utility)), dice.random_bool(SNIP_SHARE)) {
            (false, _) => Action::Skipped,
            (true, false) => Action::Saved,
            (true, true) => Action::Snipped,
        })
    }
}

/// Listeners with tastes of their own; the same seed gives the same people.
pub fn gather(count: usize, catalogue: &Catalogue, seed: u64) -> Vec<Listener> {
    let mut dice = dice::stream(seed, "listeners");
    (0..count).map(|_| Listener::draw(catalogue, &mut dice)).collect()
}

pub fn uuid(dice: &mut Dice) -> String {
    let mut bytes: [u8; 16] = dice.random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let mut dice = dice::stream(7, "catalogue");
        let passages = (0..500).map(|i| Features {
            topics: std::array::from_fn(|_| if dice.random_bool(0.15) { dice.random() } else { 0.0 }),
            tones: std::array::from_fn(|_| normal(&mut dice)),
            leanings: std::array::from_fn(|_| normal(&mut dice)),
            speaker: i % 40,
        });
        Catalogue { passages: passages.collect(), speakers: 40 }
    }

    #[test]
    fn the_same_seed_gives_the_same_people() {
        let catalogue = catalogue();
        let ids = |seed| gather(3, &catalogue, seed).into_iter().map(|listener| listener.id).collect::<Vec<_>>();
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
        assert!(ids(1).iter().all(|id| id.len() == 36 && id.as_bytes()[14] == b'4'));
    }

    #[test]
    fn about_a_third_of_random_passages_is_kept() {
        let catalogue = catalogue();
        let mut dice = dice::stream(1, "actions");
        let (mut kept, mut resolved) = (0, 0);
        for listener in gather(100, &catalogue, 1) {
            for features in &catalogue.passages {
                let Some(action) = listener.decide(features, 1, &mut dice) else { continue };
                resolved += 1;
                kept += u32::from(action != Action::Skipped);
            }
        }
        let share = f64::from(kept) / f64::from(resolved);
        assert!((KEPT_SHARE - 0.03..KEPT_SHARE + 0.03).contains(&share), "{share}");
    }

    #[test]
    fn what_is_liked_is_kept_more_often() {
        let catalogue = catalogue();
        let mut dice = dice::stream(1, "actions");
        let listener = &gather(1, &catalogue, 1)[0];
        let mut order: Vec<&Features> = catalogue.passages.iter().collect();
        order.sort_by(|a, b| listener.likes(a).total_cmp(&listener.likes(b)));
        let mut kept = |features: &[&Features]| {
            features
                .iter()
                .filter(|f| matches!(listener.decide(f, 1, &mut dice), Some(Action::Saved | Action::Snipped)))
                .count()
        };
        assert!(kept(&order[400..]) > 2 * kept(&order[..100]));
    }
}
