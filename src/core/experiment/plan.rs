//! All experiments of a database in a form that answers for a unit in some tens of nanoseconds.

use super::allocation::{self, BucketSet};
use super::hash::{Encoding, HashError, Seed, BUCKETS};
use std::collections::HashMap;
use std::fmt;

/// Variant of everybody who is in no experiment; always number 0 of `Plan::variants`.
pub const BASE: &str = "base";

#[derive(Debug, PartialEq, Eq)]
pub enum PlanError {
    Hash(HashError),
    Buckets(String),
    TooManyVariants,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash(error) => error.fmt(f),
            Self::Buckets(text) => write!(f, "\"{text}\" is no set of buckets"),
            Self::TooManyVariants => write!(f, "more than {} variants", u16::MAX),
        }
    }
}

impl From<HashError> for PlanError {
    fn from(error: HashError) -> Self {
        Self::Hash(error)
    }
}

/// An experiment as it stands in the tables.
pub struct Definition<'a> {
    pub name: &'a str,
    /// None = stopped.
    pub seed: Option<&'a str>,
    pub hash_version: i32,
    pub encoding: &'a str,
    /// Whether a call that names no experiment may mean this one.
    pub by_user: bool,
    pub shipped: Option<&'a str>,
    /// Seed of its layer and its share of that layer's buckets.
    pub layer: Option<(&'a str, &'a str)>,
}

#[derive(Debug, Default)]
pub struct Plan {
    /// What can be answered; experiments refer to it by number.
    pub variants: Vec<String>,
    experiments: Vec<Experiment>,
    holdout: Option<Gate>,
    unnamed: Option<usize>,
}

#[derive(Debug)]
struct Experiment {
    name: String,
    split: Option<Split>,
    shipped: u16,
}

#[derive(Debug)]
struct Split {
    seed: Seed,
    layer: Option<Gate>,
    /// Number of the variant of each bucket; 0 outside the coverage.
    variants: Box<[u16]>,
    pins: HashMap<Box<[u8]>, u16>,
}

/// A part of all units, chosen by a seed of its own.
#[derive(Debug)]
struct Gate {
    seed: Seed,
    inside: Box<[bool]>,
}

impl Gate {
    fn new(seed: &str, buckets: &str) -> Result<Self, PlanError> {
        let mut inside = vec![false; BUCKETS as usize].into_boxed_slice();
        for bucket in members(&parse(buckets)?) {
            inside[bucket] = true;
        }
        Ok(Self { seed: Seed::new(seed, 2, Encoding::Utf8)?, inside })
    }

    #[inline]
    fn holds(&self, unit: &[u8]) -> bool {
        self.inside[self.seed.place(unit) as usize]
    }
}

fn parse(buckets: &str) -> Result<BucketSet, PlanError> {
    allocation::parse(buckets).ok_or_else(|| PlanError::Buckets(buckets.to_owned()))
}

fn members(set: &BucketSet) -> impl Iterator<Item = usize> + '_ {
    set.iter().flat_map(|&(start, end)| start.max(0) as usize..end.clamp(0, BUCKETS) as usize)
}

impl Plan {
    pub fn new() -> Self {
        Self { variants: vec![BASE.to_owned()], ..Self::default() }
    }

    /// # Errors
    /// When a set of buckets is not one.
    pub fn hold_out(&mut self, seed: &str, buckets: &str) -> Result<(), PlanError> {
        self.holdout = Some(Gate::new(seed, buckets)?);
        Ok(())
    }

    /// Adds an experiment; the oldest comes first.
    ///
    /// # Errors
    /// When its hash or a set of buckets is not known.
    pub fn add(&mut self, definition: &Definition) -> Result<(), PlanError> {
        let shipped = self.number(definition.shipped.unwrap_or(BASE))?;
        let split = match definition.seed {
            None => None,
            Some(seed) => Some(Split {
                seed: Seed::new(seed, definition.hash_version, definition.encoding.parse()?)?,
                layer: definition.layer.map(|(seed, buckets)| Gate::new(seed, buckets)).transpose()?,
                variants: vec![0; BUCKETS as usize].into_boxed_slice(),
                pins: HashMap::new(),
            }),
        };
        if split.is_some() && definition.by_user && self.unnamed.is_none() {
            self.unnamed = Some(self.experiments.len());
        }
        self.experiments.push(Experiment { name: definition.name.to_owned(), split, shipped });
        Ok(())
    }

    /// Gives buckets to a variant of the experiment added last.
    ///
    /// # Errors
    /// When it is no set of buckets.
    pub fn add_arm(&mut self, variant: &str, buckets: &str) -> Result<(), PlanError> {
        let (number, buckets) = (self.number(variant)?, parse(buckets)?);
        if let Some(split) = self.experiments.last_mut().and_then(|experiment| experiment.split.as_mut()) {
            members(&buckets).for_each(|bucket| split.variants[bucket] = number);
        }
        Ok(())
    }

    /// Gives a unit a variant whatever its bucket.
    ///
    /// # Errors
    /// When there are more variants than numbers.
    pub fn pin(&mut self, experiment: &str, unit: &str, variant: &str) -> Result<(), PlanError> {
        let number = self.number(variant)?;
        let found = self.experiments.iter_mut().find(|e| e.name == experiment).and_then(|e| e.split.as_mut());
        if let Some(split) = found {
            split.pins.insert(unit.as_bytes().into(), number);
        }
        Ok(())
    }

    fn number(&mut self, variant: &str) -> Result<u16, PlanError> {
        let known = self.variants.iter().position(|v| v == variant).unwrap_or_else(|| {
            self.variants.push(variant.to_owned());
            self.variants.len() - 1
        });
        u16::try_from(known).map_err(|_| PlanError::TooManyVariants)
    }

    /// Number of the variant of a unit in the oldest running experiment that splits by user.
    #[inline]
    pub fn unnamed(&self, unit: &[u8]) -> usize {
        match self.unnamed {
            Some(experiment) => self.variant(&self.experiments[experiment], unit),
            None => 0,
        }
    }

    /// The same for the named experiment; None when there is none of that name.
    #[inline]
    pub fn named(&self, name: &[u8], unit: &[u8]) -> Option<usize> {
        let experiment = self.experiments.iter().find(|e| e.name.as_bytes() == name)?;
        Some(self.variant(experiment, unit))
    }

    #[inline]
    fn variant(&self, experiment: &Experiment, unit: &[u8]) -> usize {
        if unit.is_empty() {
            return 0;
        }
        let Some(split) = &experiment.split else {
            return usize::from(experiment.shipped);
        };
        if !split.pins.is_empty() {
            if let Some(&pinned) = split.pins.get(unit) {
                return usize::from(pinned);
            }
        }
        let outside = self.holdout.as_ref().is_some_and(|holdout| holdout.holds(unit))
            || split.layer.as_ref().is_some_and(|layer| !layer.holds(unit));
        if outside {
            return 0;
        }
        usize::from(split.variants[split.seed.place(unit) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(layer: Option<(&str, &str)>) -> Plan {
        let mut plan = Plan::new();
        let running = Definition {
            name: "e",
            seed: Some("s"),
            hash_version: 2,
            encoding: "utf8",
            by_user: true,
            shipped: None,
            layer,
        };
        plan.add(&Definition { name: "old", seed: None, shipped: Some("fineTuned"), ..running }).unwrap();
        plan.add(&Definition { name: "team", by_user: false, ..running }).unwrap();
        plan.add(&running).unwrap();
        plan.add_arm("base", "{[0,4000)}").unwrap();
        plan.add_arm("fineTuned", "{[4000,7000),[9000,9500)}").unwrap();
        plan
    }

    #[test]
    fn every_bucket_gets_its_variant() {
        let plan = plan(None);
        let seed = Seed::new("s", 2, Encoding::Utf8).unwrap();
        for unit in (0..5000).map(|i| i.to_string()) {
            let bucket = seed.place(unit.as_bytes());
            let treated = (4000..7000).contains(&bucket) || (9000..9500).contains(&bucket);
            let variant = &plan.variants[plan.unnamed(unit.as_bytes())];
            assert_eq!(variant == "fineTuned", treated, "{unit} in {bucket}");
            assert_eq!(plan.named(b"e", unit.as_bytes()), Some(plan.unnamed(unit.as_bytes())));
        }
    }

    #[test]
    fn stopped_ones_ship_and_unknown_ones_are_none() {
        let plan = plan(None);
        assert_eq!(plan.named(b"old", b"u").map(|v| plan.variants[v].as_str()), Some("fineTuned"));
        assert_eq!(plan.named(b"old", b""), Some(0));
        assert_eq!(plan.named(b"nope", b"u"), None);
        assert_eq!(Plan::new().unnamed(b"u"), 0);
    }

    #[test]
    fn holdout_comes_before_layer_and_a_pin_before_both() {
        let mut held = plan(None);
        held.hold_out("h", "{[0,10000)}").unwrap();
        held.pin("e", "tess", "fineTuned").unwrap();
        assert!((0..1000).all(|i| held.unnamed(i.to_string().as_bytes()) == 0));
        assert_eq!(held.variants[held.unnamed(b"tess")], "fineTuned");
        let layered = plan(Some(("l", "{[0,2000)}")));
        let gate = Seed::new("l", 2, Encoding::Utf8).unwrap();
        let units: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
        let treated = |u: &&String| layered.unnamed(u.as_bytes()) != 0;
        assert!(units.iter().filter(treated).all(|u| gate.place(u.as_bytes()) < 2000));
        assert!(units.iter().filter(treated).count() > 100);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let mut plan = plan(None);
        assert_eq!(plan.add_arm("x", "(1,2]"), Err(PlanError::Buckets("(1,2]".into())));
        let odd = Definition {
            name: "o",
            seed: Some("s"),
            hash_version: 3,
            encoding: "utf8",
            by_user: true,
            shipped: None,
            layer: None,
        };
        assert_eq!(plan.add(&odd), Err(PlanError::Hash(HashError::UnknownVersion(3))));
    }
}
