//! Rows of a score counted in equal buckets of 0 to 1: AUC and average precision of logs too large to be sorted, with the
//! most that they can be off; and the distance of two distributions.

pub const BUCKETS: usize = 8192;
const MAGIC: [u8; 8] = *b"PGFThi1\0";

#[derive(Clone, Debug)]
pub struct Histogram {
    positive: Vec<u64>,
    negative: Vec<u64>,
    pub ignored: u64,
}

/// A figure and the most by which it can differ from the exact one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounded {
    pub value: f64,
    pub error: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { positive: vec![0; BUCKETS], negative: vec![0; BUCKETS], ignored: 0 }
    }
}

impl Histogram {
    /// False when the score is not between 0 and 1. NaN is ignored and counted.
    pub fn add(&mut self, positive: bool, score: f64) -> bool {
        if score.is_nan() {
            self.ignored += 1;
            return true;
        }
        if !(0.0..=1.0).contains(&score) {
            return false;
        }
        let bucket = ((score * BUCKETS as f64) as usize).min(BUCKETS - 1);
        let counts = if positive { &mut self.positive } else { &mut self.negative };
        counts[bucket] += 1;
        true
    }

    pub fn merge(&mut self, other: &Histogram) {
        self.ignored += other.ignored;
        for (to, from) in [(&mut self.positive, &other.positive), (&mut self.negative, &other.negative)] {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
    }

    pub fn totals(&self) -> (u64, u64) {
        (self.positive.iter().sum(), self.negative.iter().sum())
    }

    /// Pairs inside a bucket count half: all of them won or all lost is the most it can be off.
    pub fn roc_auc(&self) -> Option<Bounded> {
        let (positives, negatives) = self.totals();
        let pairs = positives as f64 * negatives as f64;
        let (mut above, mut won, mut tied) = (0.0, 0.0, 0.0);
        for (&p, &n) in self.positive.iter().zip(&self.negative).rev() {
            won += n as f64 * above;
            tied += n as f64 * p as f64;
            above += p as f64;
        }
        (pairs > 0.0).then(|| Bounded { value: (won + tied / 2.0) / pairs, error: tied / 2.0 / pairs })
    }

    /// Between the order of each bucket that is best and the one that is worst.
    pub fn average_precision(&self) -> Option<Bounded> {
        let positives = self.totals().0 as f64;
        let (mut found, mut shown, mut best, mut worst) = (0.0, 0.0, 0.0, 0.0);
        for (&p, &n) in self.positive.iter().zip(&self.negative).rev() {
            let (p, n) = (p as f64, n as f64);
            best += sum_of_precisions(found, shown, p);
            worst += sum_of_precisions(found, shown + n, p);
            found += p;
            shown += p + n;
        }
        let value = (best + worst) / 2.0 / positives;
        (positives > 0.0).then(|| Bounded { value, error: (best - worst) / 2.0 / positives })
    }

    pub fn size() -> usize {
        MAGIC.len() + 8 * (2 * BUCKETS + 1)
    }

    pub fn write(&self, out: &mut [u8]) {
        let numbers = self.positive.iter().chain(&self.negative).chain([&self.ignored]);
        let (magic, rest) = out.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        rest.chunks_exact_mut(8).zip(numbers).for_each(|(place, number)| place.copy_from_slice(&number.to_ne_bytes()));
    }

    pub fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC).filter(|_| bytes.len() == Self::size())?;
        let mut numbers = rest.chunks_exact(8).map(|b| b.try_into().map(u64::from_ne_bytes).unwrap_or_default());
        let positive = numbers.by_ref().take(BUCKETS).collect();
        let negative = numbers.by_ref().take(BUCKETS).collect();
        Some(Self { positive, negative, ignored: numbers.next()? })
    }
}

/// Sum of (found + i) / (shown + i) for i from 1 to `positives`: what that many hits in a row add.
fn sum_of_precisions(found: f64, shown: f64, positives: f64) -> f64 {
    // 1 - (shown - found) / (shown + i): a difference of harmonic numbers, exact up to rounding.
    positives - (shown - found) * (harmonic(shown + positives) - harmonic(shown))
}

/// 1 + 1/2 + ... + 1/n; the asymptotic series is exact to 1e-16 from n = 32 on.
fn harmonic(n: f64) -> f64 {
    if n < 32.0 {
        return (1..=n as u32).map(|i| 1.0 / f64::from(i)).sum();
    }
    let square = n * n;
    const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
    n.ln() + EULER_GAMMA + 0.5 / n - (1.0 - (0.1 - 1.0 / (21.0 * square)) / square) / (12.0 * square)
}

/// Population stability index of two counted distributions; a share of nothing counts as one in ten thousand.
pub fn stability_index(before: &[i64], after: &[i64]) -> Option<f64> {
    const LEAST: f64 = 1e-4;
    let [all_before, all_after] = [before, after].map(|counts| counts.iter().map(|&n| n as f64).sum::<f64>());
    let share = |count: i64, all: f64| (count as f64 / all).max(LEAST);
    let sum = before.iter().zip(after).map(|(&b, &a)| {
        let (b, a) = (share(b, all_before), share(a, all_after));
        (a - b) * (a / b).ln()
    });
    (all_before > 0.0 && all_after > 0.0).then(|| sum.sum())
}

#[cfg(test)]
mod tests {
    use super::super::scores::Scores;
    use super::super::test_data::*;
    use super::*;

    #[test]
    fn the_error_stated_holds() {
        let (mut exact, mut near) = (Scores::default(), Histogram::default());
        let mut state = 11u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let score = (state >> 11) as f64 / (1u64 << 53) as f64;
            let positive = (state >> 7) % 100 < (score * 60.0) as u64;
            exact.add(positive, score).unwrap();
            assert!(near.add(positive, score));
        }
        for (exact, near) in [
            (exact.roc_auc().unwrap(), near.roc_auc().unwrap()),
            (exact.average_precision().unwrap(), near.average_precision().unwrap()),
        ] {
            assert!((exact - near.value).abs() <= near.error, "{exact} {near:?}");
            assert!(near.error < 1e-3, "{near:?}");
        }
    }

    #[test]
    fn harmonic_numbers_join() {
        let direct: f64 = (1..=1000).map(|i| 1.0 / f64::from(i)).sum();
        assert!((harmonic(1000.0) - direct).abs() < 1e-13);
        assert!((harmonic(32.0) - harmonic(31.0) - 1.0 / 32.0).abs() < 1e-13);
    }

    #[test]
    fn scores_out_of_range_are_not_counted() {
        let mut counts = Histogram::default();
        assert!(!counts.add(true, 1.01) && !counts.add(true, -0.1) && !counts.add(true, f64::INFINITY));
        assert!(counts.add(true, 1.0) && counts.add(false, 0.0) && counts.add(true, f64::NAN));
        assert_eq!((counts.roc_auc(), counts.ignored), (Some(Bounded { value: 1.0, error: 0.0 }), 1));
        let mut bytes = vec![0; Histogram::size()];
        counts.write(&mut bytes);
        let mut twice = Histogram::read(&bytes).unwrap();
        twice.merge(&counts);
        assert_eq!((twice.totals(), twice.ignored), ((2, 2), 2));
        assert!(Histogram::read(&bytes[1..]).is_none());
    }

    #[test]
    fn stability_vectors() {
        let file = vectors("metric-vectors.json");
        for row in rows(&file["psi"]) {
            let counts = |key: &str| rows(&row[key]).iter().map(|n| n.as_i64().unwrap()).collect::<Vec<_>>();
            let index = stability_index(&counts("control_counts"), &counts("treatment_counts"));
            assert_close(index, &row["psi"], "psi");
        }
        assert_eq!(stability_index(&[0, 0], &[1, 2]), None);
    }
}
