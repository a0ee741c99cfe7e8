//! Contrastive triplets of one user: anchor = another save, positive = a save, negative = a text that was not saved.
//!
//! A negative is first of all something the user was shown and skipped. Only where those run out does hard mining
//! take texts of other users, kept apart from likely positives by a margin (docs/datasets.md, "Triplets").

use std::collections::HashSet;
use std::rc::Rc;
use std::str::FromStr;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::SplitMix64;
use sha2::{Digest, Sha256};

use super::hash::Hash;
use super::search::Candidate;
use super::{DatasetError, Example, Split};
use crate::core::trainer::norm;
use crate::core::trainer::vectors::{product, Matrix};

/// A text this close to a save is the same text in other words: no negative.
const NEAR_DUPLICATE: f32 = 0.97;

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

/// Which of the ranks that remain are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    Top,
    Random,
}

impl Sampling {
    pub const NAMES: [&'static str; 2] = ["top", "random"];
}

impl FromStr for Sampling {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Self, DatasetError> {
        match name {
            "top" => Ok(Self::Top),
            "random" => Ok(Self::Random),
            _ => Err(DatasetError::unknown("sampling", name, &Self::NAMES)),
        }
    }
}

/// The words mean what they mean in `mine_hard_negatives` of sentence-transformers.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub per_positive: usize,
    pub mining: Mining,
    pub seed: i64,
    pub range_min: usize,
    pub range_max: usize,
    pub relative_margin: Option<f32>,
    pub absolute_margin: Option<f32>,
    pub max_score: Option<f32>,
    pub min_score: Option<f32>,
    pub sampling: Sampling,
    pub max_per_user: Option<usize>,
    pub own_skips: bool,
}

impl Options {
    /// The defaults, which hold back the ten nearest texts as likely positives.
    pub fn new(per_positive: i32, mining: Mining, seed: i64) -> Result<Self, DatasetError> {
        let Ok(per_positive @ 1..=16) = usize::try_from(per_positive) else {
            return Err(DatasetError::Parameter {
                name: "per_positive",
                value: per_positive.to_string(),
                valid: "Between 1 and 16 negatives per positive are useful",
                example: "4",
            });
        };
        Ok(Self {
            per_positive,
            mining,
            seed,
            range_min: 10,
            range_max: 50,
            relative_margin: Some(0.05),
            absolute_margin: None,
            max_score: Some(0.95),
            min_score: None,
            sampling: Sampling::Top,
            max_per_user: None,
            own_skips: true,
        })
    }

    pub fn with_window(self, range_min: i32, range_max: i32) -> Result<Self, DatasetError> {
        let (Ok(range_min), Ok(range_max @ 1..=2_000)) = (usize::try_from(range_min), usize::try_from(range_max))
        else {
            return Err(DatasetError::Parameter {
                name: "range_max",
                value: format!("{range_max}, range_min {range_min}"),
                valid: "Ranks count from 0, and at most 2000 texts are looked at",
                example: "50",
            });
        };
        if range_max < range_min + self.per_positive {
            return Err(DatasetError::Window { negatives: self.per_positive, range_min, range_max });
        }
        Ok(Self { range_min, range_max, ..self })
    }

    pub fn with_cap(self, max_per_user: Option<i32>) -> Result<Self, DatasetError> {
        let cap = max_per_user.map(|n| usize::try_from(n).unwrap_or_default());
        match cap {
            Some(0) => Err(DatasetError::Parameter {
                name: "max_per_user",
                value: max_per_user.unwrap_or_default().to_string(),
                valid: "At least one positive per user is needed",
                example: "12",
            }),
            max_per_user => Ok(Self { max_per_user, ..self }),
        }
    }

    /// Which of the candidates, nearest first, become negatives of an anchor whose farthest positive is at `worst`:
    /// margins first, then the window of ranks among what is left, as the library does. The whole window comes back
    /// in the order of preference, so that one that turns out to be a save in other words can be replaced.
    pub fn choose(&self, candidates: Vec<Candidate>, worst: f32, random: &mut SplitMix64) -> Vec<Candidate> {
        let mut left: Vec<Candidate> = candidates.into_iter().filter(|c| self.admits(c.score, worst)).collect();
        let mut window = left.split_off(self.range_min.min(left.len()));
        if self.sampling == Sampling::Random {
            window.shuffle(random);
        }
        window
    }

    fn admits(&self, score: f32, worst: f32) -> bool {
        // `worst * (1 - margin)` would let harder texts through where the similarity is negative
        self.relative_margin.is_none_or(|margin| score <= worst - worst.abs() * margin)
            && self.absolute_margin.is_none_or(|margin| score + margin <= worst)
            && self.max_score.is_none_or(|bound| score <= bound)
            && self.min_score.is_none_or(|bound| score >= bound)
            && (self.mining != Mining::SemiHard || score < worst)
    }
}

/// A text of somebody else's that was mined.
#[derive(Debug, Clone)]
pub struct MinedText {
    pub id: Rc<str>,
    pub text: Rc<str>,
    pub vector: Vec<f32>,
}

/// One positive with its anchor and the user's own negatives, as indices into the user's examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub anchor: usize,
    pub positive: usize,
    pub own: Vec<usize>,
    /// how many negatives are still to be mined
    pub missing: usize,
}

/// An anchor that needs mined negatives.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub anchor: usize,
    /// similarity of the farthest of its positives
    pub worst: f32,
}

/// What of one user's examples may stand in a triplet.
pub struct User {
    user_id: Rc<str>,
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
        let here = |i: &usize| examples[*i].split == split;
        let all_saves = of(true);
        let saves: Vec<usize> = all_saves.iter().copied().filter(here).collect();
        let skips: Vec<usize> = of(false).into_iter().filter(here).collect();
        let skips = apart_from(&examples, &all_saves, skips, check);
        Self { user_id: user_id.into(), examples, saves, skips }
    }

    pub fn user_id(&self) -> &Rc<str> {
        &self.user_id
    }

    /// In the order of their ids; the indices of a `Group` point here.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// Texts that are no candidates for this user.
    pub fn met(&self) -> HashSet<Hash> {
        self.examples.iter().map(|e| e.content_hash).collect()
    }

    /// Positives that can have an anchor, none for users with a single save; up to the cap, drawn by the seed.
    pub fn positives(&self, options: &Options) -> Vec<usize> {
        if self.saves.len() < 2 {
            return Vec::new();
        }
        let mut positives = self.saves.clone();
        if let Some(cap) = options.max_per_user.filter(|&cap| cap < positives.len()) {
            // each by a draw of its own: one more save changes little for the others
            positives.sort_by_cached_key(|&i| digest(options.seed, &["cap", &self.user_id, &self.examples[i].id]));
            positives.truncate(cap);
            positives.sort_unstable();
        }
        positives
    }

    /// The triplets of one positive with the user's own skips; the same whatever else was asked before.
    pub fn group(&self, positive: usize, options: &Options) -> Group {
        let mut random = self.stream(options.seed, positive);
        let others: Vec<usize> = self.saves.iter().copied().filter(|&s| s != positive).collect();
        let anchor = others[random.random_range(0..others.len())];
        let own = self.own_negatives(anchor, positive, options, &mut random);
        let missing = if options.mining == Mining::Random { 0 } else { options.per_positive - own.len() };
        Group { anchor, positive, own, missing }
    }

    /// The anchors for which something has to be mined. Several positives may share one; the farthest sets the margin.
    pub fn wanted(&self, groups: &[Group]) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for group in groups.iter().filter(|g| g.missing > 0) {
            if !wanted.iter().any(|w| w.anchor == group.anchor) {
                let paired = groups.iter().filter(|g| g.anchor == group.anchor);
                let worst = paired.map(|g| self.similarity(g.anchor, g.positive)).fold(f32::INFINITY, f32::min);
                wanted.push(Wanted { anchor: group.anchor, worst });
            }
        }
        wanted
    }

    /// A random stream of an example's own.
    pub fn stream(&self, seed: i64, example: usize) -> SplitMix64 {
        let digest = digest(seed, &["triplet", &self.user_id, &self.examples[example].id]);
        SplitMix64::from_seed(digest[..8].try_into().expect("a digest has 32 bytes"))
    }

    /// False for a save in other words, on either side.
    pub fn may_be_negative(&self, vector: &[f32]) -> bool {
        self.examples.iter().filter(|e| e.label).all(|save| similarity(&save.vector, vector) <= NEAR_DUPLICATE)
    }

    /// Frees what only the choice of own negatives needed.
    pub fn keep_only_saved_vectors(&mut self) {
        self.examples.iter_mut().filter(|e| !e.label).for_each(|e| e.vector = Vec::new());
    }

    /// Skips on the screen where the positive was saved: others would teach the screen.
    fn skips_beside(&self, positive: usize) -> impl Iterator<Item = usize> + '_ {
        let surface = &self.examples[positive].surface;
        self.skips.iter().copied().filter(move |&s| self.examples[s].surface == *surface)
    }

    fn own_negatives(&self, anchor: usize, positive: usize, options: &Options, random: &mut SplitMix64) -> Vec<usize> {
        if !options.own_skips {
            return Vec::new();
        }
        if options.mining == Mining::Random {
            let mut skips: Vec<usize> = self.skips_beside(positive).collect();
            let (drawn, _) = skips.partial_shuffle(random, options.per_positive);
            return drawn.to_vec();
        }
        let mut skips: Vec<(f32, usize)> =
            self.skips_beside(positive).map(|s| (self.similarity(anchor, s), s)).collect();
        if options.mining == Mining::SemiHard {
            let bound = self.similarity(anchor, positive);
            skips.retain(|&(score, _)| score < bound);
        }
        skips.sort_by(|a, b| b.0.total_cmp(&a.0)); // stable: equal ones stay in the order of their ids
        skips.into_iter().take(options.per_positive).map(|(_, s)| s).collect()
    }

    fn similarity(&self, a: usize, b: usize) -> f32 {
        similarity(&self.examples[a].vector, &self.examples[b].vector)
    }
}

/// Those that are none of the saves in other words. Some of both are laid out at a time: a user may have many.
fn apart_from(examples: &[Example], saves: &[usize], mut skips: Vec<usize>, check: &mut dyn FnMut()) -> Vec<usize> {
    const AT_ONCE: usize = 256;
    let dimensions = examples.iter().map(|e| e.vector.len()).max().unwrap_or_default();
    if dimensions == 0 {
        return skips;
    }
    let rows = |of: &[usize]| {
        let mut rows = vec![0.0; of.len() * dimensions];
        for (row, &i) in rows.chunks_mut(dimensions).zip(of) {
            row[..examples[i].vector.len()].copy_from_slice(&examples[i].vector);
        }
        rows
    };
    for saves in saves.chunks(AT_ONCE) {
        let saved = rows(saves);
        let saved = Matrix::new(&saved, saves.len(), dimensions).transposed();
        let mut apart = Vec::with_capacity(skips.len());
        for skips in skips.chunks(AT_ONCE) {
            check();
            let skipped = rows(skips);
            let mut scores = vec![0.0; skips.len() * saves.len()];
            product(1.0, Matrix::new(&skipped, skips.len(), dimensions), saved, 0.0, &mut scores);
            let scores = skips.iter().zip(scores.chunks(saves.len()));
            let scores = scores.filter(|(_, scores)| scores.iter().all(|&s| s <= NEAR_DUPLICATE));
            apart.extend(scores.map(|(&skip, _)| skip));
        }
        skips = apart;
    }
    skips
}

/// Cosine of two unit vectors.
pub fn similarity(a: &[f32], b: &[f32]) -> f32 {
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
    let length = norm(vector);
    if length > 0.0 {
        let scale = 1.0 / length;
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
    }
}

/// Of its own for every (seed, purpose): one more user changes nothing for the others.
fn digest(seed: i64, purpose: &[&str]) -> Hash {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    for part in purpose {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
#[path = "triplets_tests.rs"]
mod tests;
