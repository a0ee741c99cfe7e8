//! Probabilities against what happened: Brier score, log loss, calibration in bins of equal width.
//!
//! The state is an array of numbers: {ignored, weight, squared errors, log losses} and, for every bin, {weight, weight of
//! the positive, sum of probabilities}.

pub const DEFAULT_BINS: usize = 10;
pub const MOST_BINS: usize = 1000;
const HEAD: usize = 4;
const PER_BIN: usize = 3;

/// Sums over rows.
pub struct Calibration<'a>(&'a [f64]);

pub struct Bin {
    pub number: usize,
    pub low: f64,
    pub high: f64,
    pub weight: f64,
    pub mean_probability: f64,
    pub share_positive: f64,
}

/// Numbers that a state of so many bins has.
pub fn numbers(bins: usize) -> usize {
    HEAD + PER_BIN * bins
}

/// Adds a row of this weight; the probability is between 0 and 1.
pub fn add(state: &mut [f64], positive: bool, probability: f64, weight: f64) {
    let bins = (state.len() - HEAD) / PER_BIN;
    let label = f64::from(u8::from(positive));
    // As scikit-learn: a certainty that was wrong costs 36, not infinity.
    let likelihood = if positive { probability } else { 1.0 - probability };
    state[1] += weight;
    state[2] += weight * (probability - label) * (probability - label);
    state[3] -= weight * likelihood.clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln();
    let bin = ((probability * bins as f64) as usize).min(bins - 1);
    let sums = &mut state[HEAD + PER_BIN * bin..][..PER_BIN];
    sums[0] += weight;
    sums[1] += weight * label;
    sums[2] += weight * probability;
}

impl<'a> Calibration<'a> {
    /// None when the numbers cannot be a state.
    pub fn of(state: &'a [f64]) -> Option<Self> {
        let bins = state.len().checked_sub(HEAD)?;
        let whole = bins > 0 && bins % PER_BIN == 0 && bins / PER_BIN <= MOST_BINS;
        (whole && state.iter().all(|n| n.is_finite() && *n >= 0.0)).then_some(Self(state))
    }

    pub fn brier(&self) -> Option<f64> {
        self.mean(self.0[2])
    }

    pub fn log_loss(&self) -> Option<f64> {
        self.mean(self.0[3])
    }

    /// Mean distance of promised and actual share over the bins, weighted by what is in them.
    pub fn expected_error(&self) -> Option<f64> {
        self.mean(self.bins().map(|b| b.weight * (b.share_positive - b.mean_probability).abs()).sum())
    }

    /// The largest of these distances.
    pub fn largest_error(&self) -> Option<f64> {
        self.bins().map(|b| (b.share_positive - b.mean_probability).abs()).max_by(f64::total_cmp)
    }

    /// Bins that hold anything.
    pub fn bins(&self) -> impl Iterator<Item = Bin> + '_ {
        let sums = &self.0[HEAD..];
        let width = PER_BIN as f64 / sums.len() as f64;
        let all = sums.chunks_exact(PER_BIN).enumerate().filter(|(_, bin)| bin[0] > 0.0);
        all.map(move |(number, bin)| Bin {
            number,
            low: number as f64 * width,
            high: (number + 1) as f64 * width,
            weight: bin[0],
            mean_probability: bin[2] / bin[0],
            share_positive: bin[1] / bin[0],
        })
    }

    fn mean(&self, sum: f64) -> Option<f64> {
        (self.0[1] > 0.0).then(|| sum / self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data as data;
    use super::*;

    #[test]
    fn vectors_of_scikit_learn() {
        let file = data::vectors("metric-vectors.json");
        for row in data::rows(&file["probabilistic"]) {
            let mut state = vec![0.0; numbers(5)];
            let probabilities = data::numbers(&row["prob"]);
            data::labels(&row["y_true"]).into_iter().zip(probabilities).for_each(|(y, p)| add(&mut state, y, p, 1.0));
            let sums = Calibration::of(&state).unwrap();
            let expect = |ours, key: &str| data::assert_close(ours, &row[key], &format!("{} {key}", row["name"]));
            expect(sums.brier(), "brier");
            expect(sums.log_loss(), "log_loss");
            expect(sums.expected_error(), "ece_5_equal_width");
            expect(sums.largest_error(), "mce_5_equal_width");
            let bins: Vec<_> = sums.bins().collect();
            let expected = data::rows(&row["bins"]);
            assert_eq!(bins.len(), expected.len());
            for (ours, theirs) in bins.iter().zip(expected) {
                let ours = [ours.number as f64, ours.weight, ours.share_positive, ours.mean_probability];
                ours.into_iter().zip(data::rows(theirs)).for_each(|(o, t)| data::assert_close(Some(o), t, "bin"));
            }
        }
        println!("probabilistic: {} rows", data::rows(&file["probabilistic"]).len());
    }

    #[test]
    fn nothing_is_undefined_and_foreign_numbers_are_no_state() {
        let state = vec![0.0; numbers(3)];
        let sums = Calibration::of(&state).unwrap();
        assert_eq!(
            (sums.brier(), sums.log_loss(), sums.expected_error(), sums.largest_error()),
            (None, None, None, None)
        );
        assert!(Calibration::of(&state[1..]).is_none() && Calibration::of(&[]).is_none());
        assert!(Calibration::of(&[f64::NAN; 7]).is_none());
    }

    /// Errors of a forecast: functions of Apache MADlib that an application computes in one line of SQL.
    #[test]
    fn the_published_forecast_errors_match() {
        let Some(file) = crate::core::vectors::shared("metric-vectors.json") else { return };
        let row = &file["madlib_published"];
        let (forecast, seen) = (data::numbers(&row["pred"]), data::numbers(&row["obs"]));
        let n = seen.len() as f64;
        let mean_of = |error: fn(f64, f64) -> f64| {
            forecast.iter().zip(&seen).map(|(&forecast, &seen)| error(forecast, seen)).sum::<f64>() / n
        };
        let mean = seen.iter().sum::<f64>() / n;
        let spread = seen.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
        let squared = mean_of(|forecast, seen| (forecast - seen).powi(2));
        let r2 = 1.0 - squared / spread;
        let errors = [
            ("mean_abs_error", mean_of(|forecast, seen| (forecast - seen).abs())),
            ("mean_abs_perc_error", mean_of(|forecast, seen| ((forecast - seen) / seen).abs())),
            ("mean_perc_error", mean_of(|forecast, seen| (forecast - seen) / seen)),
            ("mean_squared_error", squared),
            ("r2_score", r2),
            ("adjusted_r2_p3_n100", 1.0 - (1.0 - r2) * 99.0 / 96.0),
        ];
        for (name, ours) in errors {
            data::assert_close(Some(ours), &row[name], name);
        }
        println!("forecast errors: {} figures", errors.len());
    }
}
