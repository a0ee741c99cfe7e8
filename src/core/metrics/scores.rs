//! Rows of a score and which of two classes it belongs to, kept exactly: the state behind roc_auc, average_precision,
//! threshold_table and the Kaplan-Meier figures (where the score is a duration and the class says if it ended).
//!
//! A row costs eight bytes; equal scores are folded into one entry where there are few different ones.

const MAGIC: [u8; 8] = *b"PGFTsc1\0";
const FIRST_FOLD: usize = 1 << 20;
const SAMPLE: usize = 4096;

/// Weights of both classes at one score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    key: i64,
    pub positive: f64,
    pub negative: f64,
}

impl Step {
    /// Rows of weight 1 and weighted ones of one score.
    fn of(key: i64, positive: usize, negative: usize, weighted: &[Step]) -> Self {
        let none = Self { key, positive: positive as f64, negative: negative as f64 };
        weighted.iter().fold(none, |sum, s| Self {
            positive: sum.positive + s.positive,
            negative: sum.negative + s.negative,
            ..sum
        })
    }

    pub fn score(&self) -> f64 {
        from_key(self.key)
    }
}

#[derive(Clone, Debug)]
pub struct Scores {
    /// Rows of weight 1, as sortable keys.
    positive: Vec<i64>,
    negative: Vec<i64>,
    /// Rows with a weight, and folded ones.
    weighted: Vec<Step>,
    pub ignored: u64,
    sorted: bool,
    next_fold: usize,
}

/// Not enough memory for another row.
#[derive(Debug, PartialEq)]
pub struct Full;

impl Default for Scores {
    fn default() -> Self {
        Self {
            positive: Vec::new(),
            negative: Vec::new(),
            weighted: Vec::new(),
            ignored: 0,
            sorted: true,
            next_fold: FIRST_FOLD,
        }
    }
}

impl Scores {
    /// One row of weight 1. Scores that are no finite number cannot be ranked: they are counted and left out.
    pub fn add(&mut self, positive: bool, score: f64) -> Result<(), Full> {
        if !score.is_finite() {
            self.ignored += 1;
            return Ok(());
        }
        let rows = if positive { &mut self.positive } else { &mut self.negative };
        if rows.len() == rows.capacity() {
            rows.try_reserve(1).map_err(|_| Full)?;
        }
        rows.push(to_key(score));
        self.sorted = false;
        if self.positive.len() + self.negative.len() >= self.next_fold {
            self.fold()?;
        }
        Ok(())
    }

    /// One row whose weight is finite and not negative; without weight it tells nothing.
    pub fn add_weighted(&mut self, positive: bool, score: f64, weight: f64) -> Result<(), Full> {
        if !score.is_finite() {
            self.ignored += 1;
            return Ok(());
        }
        if weight > 0.0 {
            let (positive, negative) = if positive { (weight, 0.0) } else { (0.0, weight) };
            self.weighted.try_reserve(1).map_err(|_| Full)?;
            self.weighted.push(Step { key: to_key(score), positive, negative });
            self.sorted = false;
        }
        Ok(())
    }

    /// Adds all rows of another group.
    pub fn merge(&mut self, other: &Scores) -> Result<(), Full> {
        extend(&mut self.positive, &other.positive)?;
        extend(&mut self.negative, &other.negative)?;
        extend(&mut self.weighted, &other.weighted)?;
        self.ignored += other.ignored;
        self.sorted = false;
        Ok(())
    }

    /// Weights of positives and negatives.
    pub fn totals(&self) -> (f64, f64) {
        self.weighted.iter().fold((self.positive.len() as f64, self.negative.len() as f64), |(p, n), s| {
            (p + s.positive, n + s.negative)
        })
    }

    /// Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.
    pub fn roc_auc(&mut self) -> Option<f64> {
        let (positives, negatives) = self.totals();
        let (mut above, mut twice_won) = (0.0, 0.0);
        for step in self.steps().rev() {
            twice_won += step.negative * (2.0 * above + step.positive);
            above += step.positive;
        }
        (positives > 0.0 && negatives > 0.0).then(|| twice_won / (2.0 * positives * negatives))
    }

    /// Precision averaged over the steps of recall; equal scores make one step, nothing is interpolated.
    pub fn average_precision(&mut self) -> Option<f64> {
        let (positives, _) = self.totals();
        let (mut found, mut shown, mut sum) = (0.0, 0.0, 0.0);
        for step in self.steps().rev() {
            found += step.positive;
            shown += step.positive + step.negative;
            sum += step.positive * (found / shown);
        }
        (positives > 0.0).then(|| sum / positives)
    }

    /// Every different score, from the lowest; from both ends.
    pub fn steps(&mut self) -> Steps<'_> {
        if !self.sorted {
            self.positive.sort_unstable();
            self.negative.sort_unstable();
            // Stable, so that weights of one score are always added in the same order.
            self.weighted.sort_by_key(|step| step.key);
            self.sorted = true;
        }
        Steps { positive: &self.positive, negative: &self.negative, weighted: &self.weighted }
    }

    /// Puts rows of equal score together where that saves memory; what a sample shows decides, so that the rows of
    /// continuous scores are not sorted again and again.
    fn fold(&mut self) -> Result<(), Full> {
        let rows = self.positive.len() + self.negative.len();
        let larger = if self.positive.len() > self.negative.len() { &self.positive } else { &self.negative };
        let mut sample: Vec<i64> = larger.iter().step_by((larger.len() / SAMPLE).max(1)).copied().collect();
        sample.sort_unstable();
        let rows_of_sample = sample.len();
        sample.dedup();
        if sample.len() * 2 > rows_of_sample {
            self.next_fold = rows.saturating_mul(2);
            return Ok(());
        }
        let mut folded = Vec::new();
        for step in self.steps() {
            folded.try_reserve(1).map_err(|_| Full)?;
            folded.push(step);
        }
        self.next_fold = FIRST_FOLD.max(2 * folded.len());
        self.weighted = folded;
        self.positive.clear();
        self.negative.clear();
        Ok(())
    }

    /// Bytes that `write` needs.
    pub fn size(&self) -> usize {
        size(self.positive.len(), self.negative.len(), self.weighted.len())
    }

    pub fn write(&self, out: &mut [u8]) {
        let counts = [self.positive.len(), self.negative.len(), self.weighted.len()].map(|n| n as u64);
        let head = counts.into_iter().chain([self.ignored]).map(u64::to_ne_bytes);
        let keys = self.positive.iter().chain(&self.negative).map(|key| key.to_ne_bytes());
        let steps = self
            .weighted
            .iter()
            .flat_map(|step| [step.key.to_ne_bytes(), step.positive.to_ne_bytes(), step.negative.to_ne_bytes()]);
        let (magic, rest) = out.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        for (place, number) in rest.chunks_exact_mut(8).zip(head.chain(keys).chain(steps)) {
            place.copy_from_slice(&number);
        }
    }

    /// None when the bytes are not what `write` wrote.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let mut numbers = rest.chunks_exact(8).map(|b| b.try_into().map(i64::from_ne_bytes).unwrap_or_default());
        let mut count = || numbers.next().and_then(|n| usize::try_from(n).ok());
        let (positive, negative, weighted, ignored) = (count()?, count()?, count()?, count()?);
        let rows = positive.checked_add(negative)?.checked_add(weighted.checked_mul(3)?)?;
        if rows.checked_add(4)?.checked_mul(8)? != rest.len() {
            return None;
        }
        let mut scores = Self { ignored: ignored as u64, sorted: false, ..Self::default() };
        scores.positive = numbers.by_ref().take(positive).collect();
        scores.negative = numbers.by_ref().take(negative).collect();
        while let (Some(key), Some(positive), Some(negative)) = (numbers.next(), numbers.next(), numbers.next()) {
            let [positive, negative] = [positive, negative].map(|bits| f64::from_bits(bits as u64));
            scores.weighted.push(Step { key, positive, negative });
        }
        let weights_are_sane = scores.weighted.iter().all(|s| s.positive >= 0.0 && s.negative >= 0.0);
        weights_are_sane.then_some(scores)
    }
}

fn size(positive: usize, negative: usize, weighted: usize) -> usize {
    MAGIC.len() + 8 * (4 + positive + negative + 3 * weighted)
}

fn extend<T: Copy>(to: &mut Vec<T>, from: &[T]) -> Result<(), Full> {
    to.try_reserve(from.len()).map_err(|_| Full)?;
    to.extend_from_slice(from);
    Ok(())
}

/// Keys order as the scores do; minus zero is zero.
fn to_key(score: f64) -> i64 {
    let bits = (score + 0.0).to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn from_key(key: i64) -> f64 {
    f64::from_bits((key ^ (((key >> 63) as u64) >> 1) as i64) as u64)
}

/// The different scores with the weights of both classes.
pub struct Steps<'a> {
    positive: &'a [i64],
    negative: &'a [i64],
    weighted: &'a [Step],
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let ends = [self.positive.first(), self.negative.first(), self.weighted.first().map(|s| &s.key)];
        let key = *ends.into_iter().flatten().min()?;
        let same = |keys: &[i64]| keys.iter().take_while(|k| **k == key).count();
        let (positive, rest) = self.positive.split_at(same(self.positive));
        self.positive = rest;
        let (negative, rest) = self.negative.split_at(same(self.negative));
        self.negative = rest;
        let (weighted, rest) = self.weighted.split_at(self.weighted.iter().take_while(|s| s.key == key).count());
        self.weighted = rest;
        Some(Step::of(key, positive.len(), negative.len(), weighted))
    }
}

impl DoubleEndedIterator for Steps<'_> {
    fn next_back(&mut self) -> Option<Step> {
        let ends = [self.positive.last(), self.negative.last(), self.weighted.last().map(|s| &s.key)];
        let key = *ends.into_iter().flatten().max()?;
        let others = |keys: &[i64]| keys.len() - keys.iter().rev().take_while(|k| **k == key).count();
        let (rest, positive) = self.positive.split_at(others(self.positive));
        self.positive = rest;
        let (rest, negative) = self.negative.split_at(others(self.negative));
        self.negative = rest;
        let same = self.weighted.iter().rev().take_while(|s| s.key == key).count();
        let (rest, weighted) = self.weighted.split_at(self.weighted.len() - same);
        self.weighted = rest;
        Some(Step::of(key, positive.len(), negative.len(), weighted))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::*;
    use super::*;

    fn scores(rows: &[(bool, f64)]) -> Scores {
        let mut all = Scores::default();
        rows.iter().for_each(|&(label, score)| all.add(label, score).unwrap());
        all
    }

    fn of_vector(row: &serde_json::Value) -> Scores {
        let mut all = Scores::default();
        let weights = row["sample_weight"].as_array();
        for (i, (label, score)) in labels(&row["y_true"]).into_iter().zip(numbers(&row["score"])).enumerate() {
            match weights {
                None => all.add(label, score).unwrap(),
                Some(weights) => all.add_weighted(label, score, weights[i].as_f64().unwrap()).unwrap(),
            }
        }
        all
    }

    #[test]
    fn vectors_of_scikit_learn() {
        let file = vectors("metric-vectors.json");
        for row in rows(&file["score_ranking"]) {
            let mut all = of_vector(row);
            assert_close(all.roc_auc(), &row["roc_auc"], &format!("{} auc", row["name"]));
            // No positives: 0 there, undefined here.
            let ap = all.average_precision().or(Some(0.0));
            assert_close(ap, &row["average_precision"], &format!("{} ap", row["name"]));
        }
        println!("score ranking: {} rows", rows(&file["score_ranking"]).len());
    }

    /// Scores with many ties from a plain linear congruence.
    fn sample(rows: usize, levels: u64) -> Vec<(bool, f64)> {
        let mut state = 7u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        (0..rows).map(|_| (next() % 3 == 0, (next() % levels) as f64 / levels as f64 - 0.5)).collect()
    }

    #[test]
    fn any_split_gives_the_same_as_the_whole() {
        for levels in [1, 2, 7, 100, 1 << 30] {
            let rows = sample(1000, levels);
            let mut whole = scores(&rows);
            for cut in [0, 1, 13, 500, 999, 1000] {
                let mut parts = scores(&rows[cut..]);
                let mut bytes = vec![0; parts.size()];
                parts.write(&mut bytes);
                parts = scores(&rows[..cut]);
                parts.merge(&Scores::read(&bytes).unwrap()).unwrap();
                assert_eq!(parts.roc_auc(), whole.roc_auc());
                assert_eq!(parts.average_precision(), whole.average_precision());
                assert_eq!(parts.steps().collect::<Vec<_>>(), whole.steps().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn folding_changes_no_result_and_bounds_the_memory() {
        let rows = sample(FIRST_FOLD + 5, 100);
        let mut folded = scores(&rows);
        assert!(folded.size() < 10_000, "{} bytes", folded.size());
        let mut plain = Scores { next_fold: usize::MAX, ..Scores::default() };
        rows.iter().for_each(|&(label, score)| plain.add(label, score).unwrap());
        assert_eq!(folded.roc_auc(), plain.roc_auc());
        assert!((folded.average_precision().unwrap() - plain.average_precision().unwrap()).abs() < 1e-12);
        assert_eq!(folded.totals(), plain.totals());
    }

    #[test]
    fn what_cannot_be_ranked_is_counted_and_left_out() {
        let mut all =
            scores(&[(true, f64::NAN), (false, f64::INFINITY), (true, f64::NEG_INFINITY), (true, 0.0), (false, -0.0)]);
        assert_eq!((all.ignored, all.roc_auc()), (3, Some(0.5)));
        all.add_weighted(true, 0.7, 0.0).unwrap();
        assert_eq!(all.steps().count(), 1);
        assert_eq!(all.steps().map(|s| s.score()).collect::<Vec<_>>(), [0.0]);
    }

    #[test]
    fn foreign_bytes_are_not_read() {
        let mut bytes = vec![0; 8 * 6];
        scores(&[(true, 1.0)]).write(&mut bytes);
        assert!(Scores::read(&bytes).is_some());
        assert!(Scores::read(&bytes[..47]).is_none());
        bytes[8] = 2;
        assert!(Scores::read(&bytes).is_none());
        bytes[15] = 255;
        assert!(Scores::read(&bytes).is_none());
        assert!(Scores::read(b"").is_none());
    }
}
