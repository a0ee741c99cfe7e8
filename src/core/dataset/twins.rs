//! Near copies among many vectors without comparing all pairs.
//!
//! Every vector gets a sketch: on which side of 512 random planes it lies. The share of planes that part two vectors is
//! their angle over pi, so near copies agree in most bits, and almost surely in all bits of one of 32 short bands.
//! Only vectors that agree in a band become a pair, and only pairs whose whole sketches are close are compared exactly.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::SplitMix64;

use crate::core::trainer::vectors::{product, Matrix};

const BITS: usize = 512;
const WORDS: usize = BITS / 64;
const BAND: usize = 16;
/// A band shared by more than this many is no evidence; it is joined with the next one.
const CROWD: usize = 2_000;

type Sketch = [u64; WORDS];

/// Sketches in the order in which their vectors came: of two near copies the earlier one stays.
pub struct Sketches {
    dimensions: usize,
    planes: Vec<f32>,
    all: Vec<Sketch>,
}

impl Sketches {
    pub fn new(dimensions: usize) -> Self {
        let mut random = SplitMix64::seed_from_u64(42);
        // sums of uniform numbers are normal enough for a direction without preference
        let planes = (0..BITS * dimensions).map(|_| (0..4).map(|_| random.random::<f32>() - 0.5).sum()).collect();
        Self { dimensions, planes, all: Vec::new() }
    }

    /// Vectors one after the other, of any length but zero.
    pub fn add(&mut self, vectors: &[f32]) {
        let rows = vectors.len() / self.dimensions;
        let planes = Matrix::new(&self.planes, BITS, self.dimensions).transposed();
        let mut sides = vec![0.0; rows * BITS];
        product(1.0, Matrix::new(vectors, rows, self.dimensions), planes, 0.0, &mut sides);
        for side in sides.chunks(BITS) {
            let mut sketch = [0; WORDS];
            for (word, bits) in sketch.iter_mut().zip(side.chunks(64)) {
                *word = bits.iter().enumerate().fold(0, |w, (i, &x)| w | u64::from(x > 0.0) << i);
            }
            self.all.push(sketch);
        }
    }

    /// Pairs (earlier, later) that may be nearer than the threshold, sorted by the later one.
    pub fn pairs(&self, threshold: f64, check: &mut dyn FnMut()) -> Vec<(u32, u32)> {
        let share = threshold.acos() / std::f64::consts::PI;
        let spread = (BITS as f64 * share * (1.0 - share)).sqrt();
        let limit = (BITS as f64 * share + 4.0 * spread) as u32;
        let mut pairs = Vec::new();
        let mut first: HashMap<Sketch, u32> = HashMap::new();
        let mut leaders = Vec::new();
        for (i, sketch) in self.all.iter().enumerate() {
            match first.get(sketch) {
                Some(&leader) => pairs.push((leader, i as u32)),
                None => {
                    first.insert(*sketch, i as u32);
                    leaders.push(i as u32);
                }
            }
        }
        for band in 0..BITS / BAND {
            check();
            self.pairs_of_band(&leaders, band, 1, limit, &mut pairs, check);
        }
        pairs.sort_unstable_by_key(|&(earlier, later)| (later, earlier));
        pairs.dedup();
        pairs
    }

    fn pairs_of_band(
        &self,
        members: &[u32],
        band: usize,
        depth: usize,
        limit: u32,
        pairs: &mut Vec<(u32, u32)>,
        check: &mut dyn FnMut(),
    ) {
        let key = |i: u32| self.band(i, band);
        let mut sorted: Vec<u32> = members.to_vec();
        sorted.sort_unstable_by_key(|&i| (key(i), i));
        for group in sorted.chunk_by(|&a, &b| key(a) == key(b)) {
            if group.len() > CROWD && depth < 4 {
                check();
                self.pairs_of_band(group, (band + 1) % (BITS / BAND), depth + 1, limit, pairs, check);
                continue;
            }
            for (n, &a) in group.iter().enumerate() {
                for &b in &group[n + 1..] {
                    if self.distance(a, b) <= limit {
                        pairs.push((a, b));
                    }
                }
            }
        }
    }

    fn band(&self, i: u32, band: usize) -> u16 {
        (self.all[i as usize][band * BAND / 64] >> (band * BAND % 64)) as u16
    }

    fn distance(&self, a: u32, b: u32) -> u32 {
        let (a, b) = (&self.all[a as usize], &self.all[b as usize]);
        a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones()).sum()
    }
}

/// Which vectors are near copies of an earlier one that stays: (vector, the one that stays, cosine). `pairs` are sorted
/// by the later one; a vector that is itself a copy is nobody's original.
pub fn twins(pairs: &[(u32, u32)], threshold: f32, cosine: impl Fn(u32, u32) -> f32) -> Vec<(u32, u32, f32)> {
    let mut found: Vec<(u32, u32, f32)> = Vec::new();
    let mut copies = std::collections::HashSet::new();
    for group in pairs.chunk_by(|a, b| a.1 == b.1) {
        let nearest = group
            .iter()
            .filter(|(earlier, _)| !copies.contains(earlier))
            .map(|&(earlier, later)| (cosine(earlier, later), earlier))
            .filter(|&(score, _)| score >= threshold)
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        if let Some((score, earlier)) = nearest {
            copies.insert(group[0].1);
            found.push((group[0].1, earlier, score));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::triplets::{normalise, similarity};
    use super::*;

    /// Vectors of which every fifth is a near copy of the one before it.
    fn vectors(n: usize, d: usize, noise: f32) -> Vec<Vec<f32>> {
        let mut random = SplitMix64::seed_from_u64(7);
        let mut all: Vec<Vec<f32>> = Vec::new();
        for i in 0..n {
            let mut v: Vec<f32> = (0..d).map(|_| random.random::<f32>() - 0.5).collect();
            if i % 5 == 4 {
                v.iter_mut().zip(&all[i - 1]).for_each(|(x, y)| *x = noise * *x / (d as f32 / 12.0).sqrt() + y);
            }
            normalise(&mut v);
            all.push(v);
        }
        all
    }

    fn found(all: &[Vec<f32>], threshold: f64) -> Vec<(u32, u32, f32)> {
        let mut sketches = Sketches::new(all[0].len());
        all.chunks(100).for_each(|some| sketches.add(&some.concat()));
        let pairs = sketches.pairs(threshold, &mut || {});
        twins(&pairs, threshold as f32, |a, b| similarity(&all[a as usize], &all[b as usize]))
    }

    #[test]
    fn finds_what_comparing_all_pairs_finds() {
        let all = vectors(1_000, 48, 0.2);
        let mut expected = Vec::new();
        for later in 0..all.len() {
            for earlier in 0..later {
                if similarity(&all[earlier], &all[later]) >= 0.97 {
                    expected.push((later as u32, earlier as u32));
                }
            }
        }
        assert_eq!(expected.len(), 200);
        assert_eq!(found(&all, 0.97).iter().map(|&(l, e, _)| (l, e)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_farther_stays() {
        assert!(found(&vectors(500, 48, 0.5), 0.97).is_empty());
    }

    #[test]
    fn a_crowd_of_equal_vectors_has_one_original() {
        let all = vec![vec![0.6, 0.8]; 5_000];
        let twins = found(&all, 0.97);
        assert_eq!(twins.len(), 4_999);
        assert!(twins.iter().all(|&(_, original, _)| original == 0));
    }

    #[test]
    fn a_copy_is_nobodys_original() {
        // a - b - c in steps of 10 degrees: b copies a, c is too far from a and stays
        let at = |degrees: f32| vec![degrees.to_radians().cos(), degrees.to_radians().sin()];
        let all = [at(0.0), at(10.0), at(20.0)];
        let twins = twins(&[(0, 1), (0, 2), (1, 2)], 0.97, |a, b| similarity(&all[a as usize], &all[b as usize]));
        assert_eq!(twins.iter().map(|t| (t.0, t.1)).collect::<Vec<_>>(), [(1, 0)]);
    }
}
