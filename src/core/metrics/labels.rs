//! Any number of classes: how often each was meant and each was predicted, and the report made of that.

use std::collections::{BTreeMap, HashMap};

const MAGIC: [u8; 8] = *b"PGFTla1\0";
pub const MOST_CLASSES: usize = 1000;

/// Weight of every pair of actual and predicted class.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    numbers: HashMap<Box<str>, u32>,
    cells: HashMap<(u32, u32), f64>,
    pub ignored: u64,
}

/// More classes than a report makes sense for.
#[derive(Debug, PartialEq)]
pub struct TooMany;

#[derive(Debug, PartialEq)]
pub struct Class {
    pub name: String,
    pub hits: f64,
    pub support: f64,
    pub predicted: f64,
}

impl Class {
    pub fn precision(&self) -> Option<f64> {
        (self.predicted > 0.0).then(|| self.hits / self.predicted)
    }

    pub fn recall(&self) -> Option<f64> {
        (self.support > 0.0).then(|| self.hits / self.support)
    }

    pub fn f1(&self) -> Option<f64> {
        let sum = self.support + self.predicted;
        (sum > 0.0).then(|| 2.0 * self.hits / sum)
    }
}

impl Labels {
    pub fn add(&mut self, actual: &str, predicted: &str, weight: f64) -> Result<(), TooMany> {
        let cell = (self.number(actual)?, self.number(predicted)?);
        *self.cells.entry(cell).or_default() += weight;
        Ok(())
    }

    fn number(&mut self, class: &str) -> Result<u32, TooMany> {
        if let Some(number) = self.numbers.get(class) {
            return Ok(*number);
        }
        if self.numbers.len() >= MOST_CLASSES {
            return Err(TooMany);
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(class.into(), number);
        Ok(number)
    }

    pub fn merge(&mut self, other: &Labels) -> Result<(), TooMany> {
        self.ignored += other.ignored;
        other.sorted().into_iter().try_for_each(|((actual, predicted), weight)| self.add(actual, predicted, weight))
    }

    /// Every class that was meant or predicted, by name.
    pub fn classes(&self) -> Vec<Class> {
        let mut classes = BTreeMap::new();
        for ((actual, predicted), weight) in self.sorted() {
            classes.entry(actual).or_insert([0.0; 3])[1] += weight;
            classes.entry(predicted).or_insert([0.0; 3])[2] += weight;
            if actual == predicted {
                classes.entry(actual).or_insert([0.0; 3])[0] += weight;
            }
        }
        let class = |(name, [hits, support, predicted]): (&str, [f64; 3])| Class {
            name: name.into(),
            hits,
            support,
            predicted,
        };
        classes.into_iter().map(class).collect()
    }

    /// Cells in an order that does not depend on that of the rows.
    fn sorted(&self) -> BTreeMap<(&str, &str), f64> {
        let names: HashMap<u32, &str> = self.numbers.iter().map(|(name, number)| (*number, &**name)).collect();
        let name = |number: u32| names.get(&number).copied().unwrap_or_default();
        self.cells.iter().map(|(&(actual, predicted), &weight)| ((name(actual), name(predicted)), weight)).collect()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.ignored.to_ne_bytes());
        for ((actual, predicted), weight) in self.sorted() {
            for name in [actual, predicted] {
                bytes.extend((name.len() as u64).to_ne_bytes());
                bytes.extend(name.as_bytes());
            }
            bytes.extend(weight.to_ne_bytes());
        }
        bytes
    }

    /// None when the bytes are not what `to_bytes` made.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&MAGIC)?;
        let mut labels = Self { ignored: u64::from_ne_bytes(take(&mut rest, 8)?.try_into().ok()?), ..Self::default() };
        while !rest.is_empty() {
            let [actual, predicted] = [name(&mut rest)?, name(&mut rest)?];
            let weight = f64::from_ne_bytes(take(&mut rest, 8)?.try_into().ok()?);
            (weight >= 0.0).then_some(())?;
            labels.add(actual, predicted, weight).ok()?;
        }
        Some(labels)
    }
}

fn name<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = u64::from_ne_bytes(take(rest, 8)?.try_into().ok()?);
    std::str::from_utf8(take(rest, usize::try_from(length).ok()?)?).ok()
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::super::test_data::*;
    use super::*;

    #[test]
    fn vector_of_scikit_learn_whole_and_split() {
        let file = vectors("metric-vectors.json");
        let row = &file["multiclass"];
        let [actual, predicted] =
            ["y_true", "y_pred"].map(|key| rows(&row[key]).iter().map(ToString::to_string).collect::<Vec<_>>());
        for cut in 0..=actual.len() {
            let mut parts = [Labels::default(), Labels::default()];
            for (i, (a, p)) in actual.iter().zip(&predicted).enumerate() {
                parts[usize::from(i >= cut)].add(a, p, 1.0).unwrap();
            }
            let [mut all, other] = parts;
            all.merge(&Labels::read(&other.to_bytes()).unwrap()).unwrap();
            let classes = all.classes();
            for (number, class) in classes.iter().enumerate() {
                for (measure, ours) in [class.precision(), class.recall(), class.f1()].into_iter().enumerate() {
                    assert_close(ours, &row["per_class"][measure][number], &class.name);
                }
                assert_close(Some(class.support), &row["support"][number], "support");
            }
            assert_eq!(classes.len(), 3);
        }
    }

    #[test]
    fn classes_are_limited_and_foreign_bytes_not_read() {
        let mut many = Labels::default();
        let all = (0..=MOST_CLASSES).try_for_each(|class| many.add(&class.to_string(), "0", 1.0));
        assert_eq!(all, Err(TooMany));
        let mut bytes = many.to_bytes();
        assert_eq!(Labels::read(&bytes).unwrap().classes(), many.classes());
        bytes.pop();
        assert!(Labels::read(&bytes).is_none() && Labels::read(b"x").is_none());
    }
}
