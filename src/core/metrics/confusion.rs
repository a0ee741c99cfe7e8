//! Two labels against two predictions: weighted counts and the ratios made of them.

/// What an undefined ratio becomes, as a number of the state: infinity stands for NULL.
pub const UNDEFINED_IS_NULL: f64 = f64::INFINITY;

/// Weights of true and false positives, false and true negatives, and the number of rows that could not be judged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Confusion {
    pub tp: f64,
    pub fp: f64,
    pub fn_: f64,
    pub tn: f64,
    pub ignored: f64,
}

impl Confusion {
    /// From the numbers of a state; None when they cannot be counts.
    pub fn from_numbers(numbers: &[f64]) -> Option<Self> {
        let &[tp, fp, fn_, tn, ignored] = numbers.get(..5)?.first_chunk()?;
        let counts = Self { tp, fp, fn_, tn, ignored };
        numbers[..5].iter().all(|n| *n >= 0.0 && n.is_finite()).then_some(counts)
    }

    /// Which number of a state a row adds its weight to.
    pub fn cell(actual: bool, predicted: bool) -> usize {
        match (actual, predicted) {
            (true, true) => 0,
            (false, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
        }
    }

    pub fn precision(&self) -> Option<f64> {
        share(self.tp, self.fp)
    }

    pub fn recall(&self) -> Option<f64> {
        share(self.tp, self.fn_)
    }

    /// Weighs recall `beta` times as much as precision. Undefined only when nothing was positive and nothing predicted so.
    pub fn f(&self, beta: f64) -> Option<f64> {
        let square = beta * beta;
        share((1.0 + square) * self.tp, square * self.fn_ + self.fp)
    }

    pub fn specificity(&self) -> Option<f64> {
        share(self.tn, self.fp)
    }

    pub fn accuracy(&self) -> Option<f64> {
        share(self.tp + self.tn, self.fp + self.fn_)
    }

    pub fn balanced_accuracy(&self) -> Option<f64> {
        Some((self.recall()? + self.specificity()?) / 2.0)
    }

    pub fn jaccard(&self) -> Option<f64> {
        share(self.tp, self.fp + self.fn_)
    }

    /// Matthews correlation of label and prediction; undefined when either has one value only.
    pub fn mcc(&self) -> Option<f64> {
        let margins = [self.tp + self.fp, self.tp + self.fn_, self.tn + self.fp, self.tn + self.fn_];
        // Roots first: the product of four large counts leaves the range in which f64 is exact.
        let scale: f64 = margins.into_iter().map(f64::sqrt).product();
        (scale > 0.0).then(|| (self.tp * self.tn - self.fp * self.fn_) / scale)
    }

    /// Cohen's kappa: agreement beyond that of chance.
    pub fn kappa(&self) -> Option<f64> {
        let chance = (self.tp + self.fp) * (self.fp + self.tn) + (self.tp + self.fn_) * (self.fn_ + self.tn);
        (chance > 0.0).then(|| 2.0 * (self.tp * self.tn - self.fn_ * self.fp) / chance)
    }
}

pub fn share(part: f64, rest: f64) -> Option<f64> {
    (part + rest > 0.0).then(|| part / (part + rest))
}

#[cfg(test)]
mod tests {
    use super::super::test_data::*;
    use super::*;

    fn count(row: &serde_json::Value) -> Confusion {
        let weights = row["sample_weight"].as_array();
        let mut counts = [0.0; 5];
        for (i, (actual, predicted)) in labels(&row["y_true"]).into_iter().zip(labels(&row["y_pred"])).enumerate() {
            counts[Confusion::cell(actual, predicted)] += weights.map_or(1.0, |w| w[i].as_f64().unwrap());
        }
        Confusion::from_numbers(&counts).unwrap()
    }

    #[test]
    fn vectors_of_scikit_learn() {
        let file = vectors("metric-vectors.json");
        for row in rows(&file["classification"]) {
            let c = count(row);
            let expect =
                |ours: Option<f64>, key: &str| assert_close(ours, &row[key], &format!("{} {key}", row["name"]));
            for (ours, key) in [(c.precision(), "precision"), (c.recall(), "recall"), (c.f(1.0), "f1")] {
                assert_close(ours, &row["by_zero_division"]["nan"][key], &format!("{} {key}", row["name"]));
            }
            expect(c.f(2.0).or(Some(0.0)), "f2_zero_division_0");
            expect(c.f(0.5).or(Some(0.0)), "f0_5_zero_division_0");
            expect(c.accuracy(), "accuracy");
            expect(c.balanced_accuracy(), "balanced_accuracy");
            expect(c.mcc().or(Some(0.0)), "mcc");
            expect(c.jaccard().or(Some(0.0)), "jaccard_zero_division_0");
            expect(c.kappa(), "cohen_kappa");
        }
        println!("classification: {} rows", rows(&file["classification"]).len());
    }

    #[test]
    fn large_counts_keep_their_correlation() {
        let many = Confusion { tp: 4e12, fp: 1e12, fn_: 1e12, tn: 4e12, ignored: 0.0 };
        assert!((many.mcc().unwrap() - 0.6).abs() < 1e-12);
        assert_eq!(Confusion::from_numbers(&[1.0, 2.0, 3.0, f64::NAN, 0.0]), None);
        assert_eq!(Confusion::from_numbers(&[1.0, 2.0]), None);
    }
}
