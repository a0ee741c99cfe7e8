//! Contrastive triplets of one user: anchor = another save, positive = a save, negative = a text that was not saved.
//!
//! A negative is first of all something the user was shown and skipped. Only where those run out does hard mining
//! take texts of other users, kept apart from likely positives by a margin (docs/datasets.md, "Triplets").

use std::collections::HashSet;
use std::str::FromStr;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::SplitMix64;
use sha2::{Digest, Sha256};

use super::{DatasetError, Example, Split};

/// A text this close to a save is the same text in other words: no negative.
const NEAR_DUPLICATE: f32 = 0.97;
/// Mined texts above this similarity to the anchor are likely positives.
const MAX_SCORE: f32 = 0.95;
/// Mined texts stay below the positive's similarity by this share of it.
const RELATIVE_MARGIN: f32 = 0.05;
/// The nearest texts are the likeliest false negatives: mining skips ten and draws from the forty after them.
const MINED_RANKS: std::ops::Range<usize> = 10..50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mining {
    /// The user's skips, those nearest to the anchor first, then mined texts.
    Hard,
    /// As `Hard`, but only what lies farther from the anchor than the positive.
    SemiHard,
    /// The user's skips, drawn by the seed.
    Random,
}

impl Mining {
    pub const NAMES: [&'static str; 3] = ["hard", "semi-hard", "random"];
}

impl FromStr for Mining {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Self, DatasetError> {
        match name {
            "hard" => Ok(Self::Hard),
            "semi-hard" => Ok(Self::SemiHard),
            "random" => Ok(Self::Random),
            _ => Err(DatasetError::unknown("mining", name, &Self::NAMES)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub per_positive: usize,
    pub mining: Mining,
    pub seed: i64,
}

impl Options {
    pub fn new(per_positive: i32, mining: Mining, seed: i64) -> Result<Self, DatasetError> {
        match usize::try_from(per_positive) {
            Ok(n @ 1..=16) => Ok(Self { per_positive: n, mining, seed }),
            _ => Err(DatasetError::PerPositive(per_positive)),
        }
    }
}

/// A text of somebody else's that may be mined.
#[derive(Debug, Clone)]
pub struct PoolText {
    pub id: String,
    pub text: String,
    pub content_hash: Vec<u8>,
    pub vector: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negative {
    /// index into the user's examples
    Own(usize),
    /// index into the pool
    Mined(usize),
}

/// One positive with its anchor and negatives, as indices into the user's examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub anchor: usize,
    pub positive: usize,
    pub negatives: Vec<Negative>,
}

/// What of one user's examples may stand in a triplet.
pub struct User {
    user_id: String,
    examples: Vec<Example>,
    saves: Vec<usize>,
    skips: Vec<usize>,
}

impl User {
    /// `examples` are all of the user's, of both sides: what was saved on the other side is no negative on this one.
    /// `check` is called between steps, so that the caller can be interrupted.
    pub fn new(user_id: String, mut examples: Vec<Example>, split: Split, check: &mut dyn FnMut()) -> Self {
        examples.sort_by(|a, b| a.id.cmp(&b.id));
        let of = |label: bool| (0..examples.len()).filter(|&i| examples[i].label == label).collect::<Vec<_>>();
        let here = |i: &usize| examples[*i].split == split.name();
        let all_saves = of(true);
        let saves: Vec<usize> = all_saves.iter().copied().filter(here).collect();
        let mut skips: Vec<usize> = of(false).into_iter().filter(here).collect();
        skips.retain(|&skip| {
            check();
            all_saves.iter().all(|&save| similarity(&examples[save].vector, &examples[skip].vector) <= NEAR_DUPLICATE)
        });
        Self { user_id, examples, saves, skips }
    }

    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    /// In the order of their ids; the indices of a `Group` point here.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// Positives that can have an anchor: none for users with a single save.
    pub fn positives(&self) -> &[usize] {
        if self.saves.len() > 1 {
            &self.saves
        } else {
            &[]
        }
    }

    /// Whether some positive may have too few skips of its own, so that `group` needs a pool.
    pub fn wants_pool(&self, options: &Options) -> bool {
        match options.mining {
            Mining::Random => false,
            Mining::SemiHard => !self.positives().is_empty(),
            Mining::Hard => self.positives().iter().any(|&p| self.skips_beside(p).count() < options.per_positive),
        }
    }

    /// The triplets of one positive; the same whatever else was asked before.
    pub fn group(&self, positive: usize, pool: &[PoolText], options: &Options) -> Group {
        let mut random = stream(options.seed, &["triplet", &self.user_id, &self.examples[positive].id]);
        let others: Vec<usize> = self.saves.iter().copied().filter(|&s| s != positive).collect();
        let anchor = others[random.random_range(0..others.len())];
        let mut negatives = self.own_negatives(anchor, positive, options, &mut random);
        if options.mining != Mining::Random && negatives.len() < options.per_positive {
            let missing = options.per_positive - negatives.len();
            negatives.extend(self.mined_negatives(anchor, positive, pool, missing, &mut random));
        }
        Group { anchor, positive, negatives }
    }

    /// Skips on the screen where the positive was saved: others would teach the screen.
    fn skips_beside(&self, positive: usize) -> impl Iterator<Item = usize> + '_ {
        let surface = &self.examples[positive].surface;
        self.skips.iter().copied().filter(move |&s| self.examples[s].surface == *surface)
    }

    fn own_negatives(
        &self,
        anchor: usize,
        positive: usize,
        options: &Options,
        random: &mut SplitMix64,
    ) -> Vec<Negative> {
        let mut skips: Vec<(f32, usize)> =
            self.skips_beside(positive).map(|s| (self.similarity(anchor, s), s)).collect();
        let bound = self.similarity(anchor, positive);
        match options.mining {
            Mining::Random => skips.shuffle(random),
            Mining::SemiHard => skips.retain(|&(score, _)| score < bound),
            Mining::Hard => {}
        }
        if options.mining != Mining::Random {
            skips.sort_by(|a, b| b.0.total_cmp(&a.0)); // stable: equal ones stay in the order of their ids
        }
        skips.into_iter().take(options.per_positive).map(|(_, s)| Negative::Own(s)).collect()
    }

    fn mined_negatives(
        &self,
        anchor: usize,
        positive: usize,
        pool: &[PoolText],
        n: usize,
        random: &mut SplitMix64,
    ) -> Vec<Negative> {
        let seen: HashSet<&[u8]> = self.examples.iter().map(|e| e.content_hash.as_slice()).collect();
        let anchor_vector = &self.examples[anchor].vector;
        let bound = mining_bound(self.similarity(anchor, positive));
        let mut found: Vec<(f32, usize)> = pool
            .iter()
            .enumerate()
            .filter(|(_, text)| !seen.contains(text.content_hash.as_slice()))
            .map(|(i, text)| (similarity(anchor_vector, &text.vector), i))
            .filter(|&(score, _)| score <= bound)
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| pool[a.1].content_hash.cmp(&pool[b.1].content_hash)));
        found.truncate(MINED_RANKS.end);
        found.retain(|&(_, i)| self.no_near_save(&pool[i].vector));
        let mut ranks = found.split_off(MINED_RANKS.start.min(found.len().saturating_sub(n)));
        ranks.shuffle(random);
        ranks.into_iter().take(n).map(|(_, i)| Negative::Mined(i)).collect()
    }

    fn no_near_save(&self, vector: &[f32]) -> bool {
        self.examples.iter().filter(|e| e.label).all(|save| similarity(&save.vector, vector) <= NEAR_DUPLICATE)
    }

    fn similarity(&self, a: usize, b: usize) -> f32 {
        similarity(&self.examples[a].vector, &self.examples[b].vector)
    }
}

/// The highest similarity to the anchor that a mined text may have. The margin is taken from the size of the
/// positive's similarity: `positive * 0.95` would let harder texts through where it is negative.
fn mining_bound(positive: f32) -> f32 {
    (positive - positive.abs() * RELATIVE_MARGIN).min(MAX_SCORE)
}

/// Cosine of two unit vectors.
fn similarity(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Scales to length one; the length is computed in f64, so that tiny vectors keep their direction.
pub fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// A random stream of its own for every (seed, purpose): one more user changes nothing for the others.
fn stream(seed: i64, purpose: &[&str]) -> SplitMix64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    for part in purpose {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    SplitMix64::from_seed(digest[..8].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
#[path = "triplets_tests.rs"]
mod tests;
