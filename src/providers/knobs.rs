//! Hyperparameters and sizes, checked before anything is sent: each protocol has a table.

use serde_json::Value;

use super::fault::{Fault, Refusal};
use super::options::nearest;
use super::protocol::{Caps, JobView};
use super::wire::Which;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Int(i64, i64),
    Number(f64, f64),
    Flag,
    Word(&'static [&'static str]),
    /// Up to so many characters.
    Text(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knob {
    pub name: &'static str,
    pub kind: Kind,
    /// The word "auto" leaves the choice to the provider.
    pub auto: bool,
}

impl Knob {
    pub const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, auto: false }
    }

    pub const fn auto(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, auto: true }
    }

    fn takes(&self, value: &Value) -> bool {
        (self.auto && value == "auto")
            || match self.kind {
                Kind::Int(low, high) => value.as_i64().is_some_and(|n| (low..=high).contains(&n)),
                Kind::Number(low, high) => value.as_f64().is_some_and(|n| (low..=high).contains(&n)),
                Kind::Flag => value.is_boolean(),
                Kind::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
                Kind::Text(longest) => value.as_str().is_some_and(|t| !t.is_empty() && t.chars().count() <= longest),
            }
    }

    fn range(&self) -> String {
        let range = match self.kind {
            Kind::Int(low, high) => format!("a whole number from {low} to {high}"),
            Kind::Number(low, high) => format!("a number from {low} to {high}"),
            Kind::Flag => "true or false".into(),
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::Text(longest) => format!("text of 1 to {longest} characters"),
        };
        if self.auto {
            format!("{range}, or \"auto\"")
        } else {
            range
        }
    }
}

/// # Errors
/// The first hyperparameter that is unknown (with the nearest one) or out of range.
pub fn check(job: &JobView, knobs: &[Knob]) -> Result<(), Fault> {
    for (name, value) in &job.hyperparameters {
        let Some(knob) = knobs.iter().find(|knob| knob.name == name) else {
            let known: Vec<&'static str> = knobs.iter().map(|knob| knob.name).collect();
            let hint = nearest(&known, name).map(|n| format!("Perhaps you meant \"{n}\".")).unwrap_or_default();
            let message = format!("hyperparameter \"{name}\" is not known to this provider");
            return Err(Refusal::of(name, message, format!("{hint} Known: {}.", known.join(", ")).trim()));
        };
        if !knob.takes(value) {
            let message = format!("hyperparameter \"{name}\" does not fit");
            return Err(Refusal::of(name, message, format!("It takes {}.", knob.range())));
        }
    }
    Ok(())
}

/// # Errors
/// A method that the provider has not, too few or too many rows, a file that is too large.
pub fn limits(job: &JobView, caps: &Caps) -> Result<(), Fault> {
    if !caps.methods.contains(&job.method) {
        let methods: Vec<&str> = caps.methods.iter().map(|method| method.name()).collect();
        return Err(Refusal::of(
            "method",
            format!("this provider does not train by method \"{}\"", job.method.name()),
            format!("Its methods: {}. Provider builtin and your own trainer take contrastive.", methods.join(", ")),
        ));
    }
    let files = [Some((Which::Train, job.train)), job.validation.map(|file| (Which::Validation, file))];
    for (which, file) in files.into_iter().flatten() {
        if file.bytes > caps.max_file {
            return Err(Refusal::of(
                "dataset",
                format!("{} has {} bytes, this provider takes {}", job.filename(which), file.bytes, caps.max_file),
                "Build a smaller dataset, or one with shorter texts.",
            ));
        }
    }
    if !(caps.min_rows..=caps.max_rows).contains(&job.train.rows) {
        return Err(Refusal::of(
            "dataset",
            format!("{} training rows; this provider takes {} to {}", job.train.rows, caps.min_rows, caps.max_rows),
            "Build a dataset with another number of examples.",
        ));
    }
    Ok(())
}

/// The suffix as far as the provider takes it: a wish, never a reason to refuse a job.
pub fn suffix(job: &JobView, longest: usize) -> Option<String> {
    let fits = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_';
    let cut: String = job.suffix.as_deref()?.chars().filter(fits).take(longest).collect();
    Some(cut.trim_matches(['-', '_']).to_owned()).filter(|suffix| !suffix.is_empty())
}
