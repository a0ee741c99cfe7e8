//! Exact search for the texts nearest to many anchors at once: blocks of texts go by, every anchor keeps its best.
//!
//! Memory does not grow with the number of texts. The work is a matrix product per block, so that the processor's
//! vector units do it; only scores that beat an anchor's worst kept one are looked at singly.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;

use multiversion::multiversion;

use super::hash::Hash;
use crate::core::trainer::vectors::{product, Matrix};

/// Anchors multiplied at once: enough that laying out a block for the product is a small part of it, few enough that their
/// scores stay in the processor's cache.
const TILE: usize = 1_024;

/// Where a text stands: one example that has it.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub hash: Hash,
    pub user_id: String,
    pub id: String,
}

/// A text and its cosine to an anchor.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub score: f32,
    pub place: Arc<Place>,
}

impl Ord for Candidate {
    /// The nearer one is greater; among equals the one with the smaller hash, so that the order of reading says nothing.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.place.hash.cmp(&self.place.hash))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Texts that go by together, their unit vectors one after the other.
pub struct Block {
    pub vectors: Vec<f32>,
    pub places: Vec<Arc<Place>>,
}

/// Texts that are no candidates for a user: those the user has met.
pub type Met = Arc<HashSet<Hash>>;

struct Anchor {
    met: Met,
    best: BinaryHeap<Reverse<Candidate>>,
}

impl Anchor {
    /// What a score must reach to matter.
    fn bar(&self, keep: usize) -> f32 {
        match self.best.peek() {
            Some(Reverse(worst)) if self.best.len() == keep => worst.score,
            _ => f32::NEG_INFINITY,
        }
    }

    fn offer(&mut self, score: f32, place: &Arc<Place>, keep: usize) {
        if self.met.contains(&place.hash) {
            return;
        }
        self.best.push(Reverse(Candidate { score, place: place.clone() }));
        if self.best.len() > keep {
            self.best.pop();
        }
    }
}

/// Some anchors and the best texts for each so far; several searchers can look at one block at the same time.
pub struct Searcher {
    keep: usize,
    dimensions: usize,
    vectors: Vec<f32>,
    anchors: Vec<Anchor>,
    scores: Vec<f32>,
}

impl Searcher {
    pub fn new(dimensions: usize, keep: usize) -> Self {
        Self { keep, dimensions, vectors: Vec::new(), anchors: Vec::new(), scores: Vec::new() }
    }

    /// `vector` has length one.
    pub fn add(&mut self, vector: &[f32], met: Met) {
        assert_eq!(vector.len(), self.dimensions);
        self.vectors.extend_from_slice(vector);
        self.anchors.push(Anchor { met, best: BinaryHeap::with_capacity(self.keep + 1) });
    }

    pub fn visit(&mut self, block: &Block) {
        let (texts, d) = (block.places.len(), self.dimensions);
        let columns = Matrix::new(&block.vectors, texts, d).transposed();
        for (tile, anchors) in self.anchors.chunks_mut(TILE).enumerate() {
            self.scores.resize(anchors.len() * texts, 0.0);
            let rows = &self.vectors[tile * TILE * d..][..anchors.len() * d];
            product(1.0, Matrix::new(rows, anchors.len(), d), columns, 0.0, &mut self.scores);
            for (anchor, scores) in anchors.iter_mut().zip(self.scores.chunks(texts)) {
                offer_all(anchor, scores, &block.places, self.keep);
            }
        }
    }

    /// The candidates of every anchor, in the order in which the anchors were added, nearest first.
    pub fn finish(self) -> Vec<Vec<Candidate>> {
        self.anchors.into_iter().map(|a| a.best.into_sorted_vec().into_iter().map(|Reverse(c)| c).collect()).collect()
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn offer_all(anchor: &mut Anchor, scores: &[f32], places: &[Arc<Place>], keep: usize) {
    const STEP: usize = 64;
    let mut bar = anchor.bar(keep);
    for (chunk, places) in scores.chunks(STEP).zip(places.chunks(STEP)) {
        // most chunks hold nothing: one pass without a branch says so
        let some = chunk.iter().fold(0u32, |n, &score| n + u32::from(score >= bar));
        if some > 0 {
            for (&score, place) in chunk.iter().zip(places) {
                if score >= bar {
                    anchor.offer(score, place, keep);
                    bar = anchor.bar(keep);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_xoshiro::SplitMix64;

    fn unit(random: &mut SplitMix64, d: usize) -> Vec<f32> {
        let mut v: Vec<f32> = (0..d).map(|_| random.random::<f32>() - 0.5).collect();
        super::super::triplets::normalise(&mut v);
        v
    }

    fn place(i: usize) -> Arc<Place> {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(i as u64).to_be_bytes());
        Arc::new(Place { hash, user_id: "u".to_owned(), id: i.to_string() })
    }

    #[test]
    fn finds_what_looking_at_all_pairs_finds() {
        let (d, texts, anchors, keep) = (24, 500, 150, 7);
        let mut random = SplitMix64::seed_from_u64(1);
        let corpus: Vec<Vec<f32>> = (0..texts).map(|_| unit(&mut random, d)).collect();
        let wanted: Vec<Vec<f32>> = (0..anchors).map(|_| unit(&mut random, d)).collect();
        let met: Met = Arc::new((0..texts).step_by(5).map(|i| place(i).hash).collect());
        let mut searcher = Searcher::new(d, keep);
        wanted.iter().for_each(|w| searcher.add(w, met.clone()));
        for (start, block) in corpus.chunks(64).enumerate() {
            searcher.visit(&Block {
                vectors: block.concat(),
                places: (0..block.len()).map(|i| place(start * 64 + i)).collect(),
            });
        }
        for (found, anchor) in searcher.finish().iter().zip(&wanted) {
            let mut all: Vec<(f32, usize)> = (0..texts)
                .filter(|i| i % 5 != 0)
                .map(|i| (corpus[i].iter().zip(anchor).map(|(x, y)| x * y).sum(), i))
                .collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            let ids: Vec<String> = found.iter().map(|c| c.place.id.clone()).collect();
            let expected: Vec<String> = all[..keep].iter().map(|(_, i)| i.to_string()).collect();
            assert_eq!(ids, expected);
        }
    }

    #[test]
    fn the_order_of_blocks_does_not_matter_even_among_equals() {
        let found = |order: &[usize]| {
            let mut searcher = Searcher::new(2, 3);
            searcher.add(&[1.0, 0.0], Met::default());
            for &i in order {
                let block = Block { vectors: vec![0.6, 0.8], places: vec![place(i)] };
                searcher.visit(&block);
            }
            searcher.finish().remove(0).iter().map(|c| c.place.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found(&[4, 2, 1, 3, 0]), ["0", "1", "2"]);
        assert_eq!(found(&[0, 1, 2, 3, 4]), ["0", "1", "2"]);
    }
}
