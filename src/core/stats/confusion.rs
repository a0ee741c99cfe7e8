//! Precision, recall and F1 from counts: undefined is None, never 0.

/// True positives, false positives and false negatives; what is neither needs no count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    pub tp: i64,
    pub fp: i64,
    pub fn_: i64,
}

impl Confusion {
    pub fn step(self, actual: bool, predicted: bool) -> Option<Self> {
        let one = |yes: bool| i64::from(yes);
        self.combine(Self {
            tp: one(actual && predicted),
            fp: one(!actual && predicted),
            fn_: one(actual && !predicted),
        })
    }

    /// None when a count leaves 64 bits.
    pub fn combine(self, other: Self) -> Option<Self> {
        Some(Self {
            tp: self.tp.checked_add(other.tp)?,
            fp: self.fp.checked_add(other.fp)?,
            fn_: self.fn_.checked_add(other.fn_)?,
        })
    }

    pub fn precision(self) -> Option<f64> {
        share(self.tp as f64, self.fp as f64)
    }

    pub fn recall(self) -> Option<f64> {
        share(self.tp as f64, self.fn_ as f64)
    }

    pub fn f1(self) -> Option<f64> {
        share(2.0 * self.tp as f64, self.fp as f64 + self.fn_ as f64)
    }
}

fn share(part: f64, rest: f64) -> Option<f64> {
    (part + rest > 0.0).then(|| part / (part + rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rows: &[(bool, bool)]) -> Confusion {
        rows.iter().fold(Confusion::default(), |c, &(actual, predicted)| c.step(actual, predicted).unwrap())
    }

    #[test]
    fn ordinary_counts() {
        let c = count(&[(true, true), (true, true), (false, true), (true, false), (false, false)]);
        assert_eq!(c, Confusion { tp: 2, fp: 1, fn_: 1 });
        assert_eq!((c.precision(), c.recall(), c.f1()), (Some(2.0 / 3.0), Some(2.0 / 3.0), Some(2.0 / 3.0)));
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(count(&[]).f1(), None);
        let nothing_predicted = count(&[(true, false), (false, false)]);
        assert_eq!((nothing_predicted.precision(), nothing_predicted.recall()), (None, Some(0.0)));
        assert_eq!(nothing_predicted.f1(), Some(0.0));
        assert_eq!(count(&[(false, true)]).recall(), None);
    }

    #[test]
    fn order_of_combining_does_not_matter_and_overflow_is_seen() {
        let rows = [(true, true), (false, true), (true, false), (true, true)];
        let parts = count(&rows[..1]).combine(count(&rows[1..]));
        assert_eq!(parts, Some(count(&rows)));
        let full = Confusion { tp: i64::MAX, ..Confusion::default() };
        assert_eq!(full.step(true, true), None);
    }
}
