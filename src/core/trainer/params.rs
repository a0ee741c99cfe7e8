//! Hyperparameters: their defaults, names and ranges.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::loss::Loss;

/// Everything that can be tuned. The defaults were chosen on real feedback data and rarely need a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Every random choice follows from it.
    pub seed: i64,
    pub loss: Loss,
    /// Distance that the triplet loss asks for between a saved and a skipped item.
    pub margin: f32,
    /// Temperature of the softmax and bpr losses.
    pub tau: f32,
    /// Weight of the squared norm of what is learned.
    pub lambda: f32,
    pub learning_rate: f32,
    pub batch_size: usize,
    pub epochs: usize,
    /// Epochs without a better validation AUC before training ends.
    pub patience: usize,
    pub negatives_per_positive: usize,
    pub positives_per_user: usize,
    /// A user with fewer saved items has no profile to learn from.
    pub min_user_saved: usize,
    pub max_examples: usize,
    /// Shrinkages of the closed form that are tried; 1 = centring only.
    pub shrinkages: Vec<f64>,
    /// Weights of the user's own negative direction that are tried.
    pub gammas: Vec<f32>,
    /// Rows that the mean and covariance are estimated from.
    pub calibration_rows: usize,
    /// Events below which nothing is trained at all.
    pub min_events: usize,
    /// Events below which only the closed form is tried.
    pub min_events_training: usize,
    pub bootstrap_draws: usize,
    pub max_seconds: Option<f64>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            seed: 42,
            loss: Loss::Softmax,
            margin: 0.1,
            tau: 0.1,
            lambda: 1e-3,
            learning_rate: 1e-3,
            batch_size: 256,
            epochs: 20,
            patience: 3,
            negatives_per_positive: 4,
            positives_per_user: 12,
            min_user_saved: 3,
            max_examples: 1_000_000,
            shrinkages: vec![1.0, 0.9, 0.7],
            gammas: vec![0.0, 1.0],
            calibration_rows: 20_000,
            min_events: 300,
            min_events_training: 1_000,
            bootstrap_draws: 2_000,
            max_seconds: None,
        }
    }
}

impl Params {
    /// Reads a JSON object; names it does not hold keep their defaults.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, Error> {
        let object = value.as_object().ok_or_else(|| parameter("hyperparameters", "must be a JSON object"))?;
        for (name, field) in object {
            let alone = serde_json::json!({ name: field });
            serde_json::from_value::<Self>(alone)
                .map_err(|error| parameter(name, &format!("is not valid: {error}")))?;
        }
        let params: Self =
            serde_json::from_value(value.clone()).map_err(|error| parameter("hyperparameters", &error.to_string()))?;
        params.validate()?;
        Ok(params)
    }

    pub fn validate(&self) -> Result<(), Error> {
        within("margin", self.margin, 0.0..=2.0)?;
        within("tau", self.tau, 0.001..=10.0)?;
        within("lambda", self.lambda, 0.0..=1.0)?;
        within("learning_rate", self.learning_rate, 1e-6..=1.0)?;
        within("batch_size", self.batch_size, 1..=4_096)?;
        within("epochs", self.epochs, 1..=1_000)?;
        within("patience", self.patience, 1..=1_000)?;
        within("negatives_per_positive", self.negatives_per_positive, 1..=16)?;
        within("positives_per_user", self.positives_per_user, 1..=40)?;
        within("min_user_saved", self.min_user_saved, 2..=1_000)?;
        within("max_examples", self.max_examples, 1..=10_000_000)?;
        within("calibration_rows", self.calibration_rows, 1..=1_000_000)?;
        within("bootstrap_draws", self.bootstrap_draws, 100..=100_000)?;
        for &shrinkage in &self.shrinkages {
            within("shrinkages", shrinkage, 0.01..=1.0)?;
        }
        for &gamma in &self.gammas {
            within("gammas", gamma, 0.0..=10.0)?;
        }
        if self.gammas.is_empty() || self.gammas.len() > 8 || self.shrinkages.len() > 8 {
            return Err(parameter(
                "gammas",
                "and \"shrinkages\" must hold at most 8 values each, \"gammas\" at least one",
            ));
        }
        if let Some(seconds) = self.max_seconds {
            within("max_seconds", seconds, 0.001..=31_536_000.0)?;
        }
        Ok(())
    }
}

fn within<T: PartialOrd + Display>(name: &str, value: T, range: RangeInclusive<T>) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(parameter(name, &format!("is {value}, it must lie between {} and {}", range.start(), range.end())))
}

fn parameter(name: &str, reason: &str) -> Error {
    Error::Parameter { name: name.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_an_object_and_keeps_the_other_defaults() {
        let params = Params::from_json(&json!({"epochs": 3, "loss": "bpr"})).unwrap();
        assert_eq!(params, Params { epochs: 3, loss: Loss::Bpr, ..Params::default() });
        assert_eq!(Params::from_json(&json!({})).unwrap(), Params::default());
    }

    #[test]
    fn errors_name_the_parameter_and_its_range() {
        let message = |value| Params::from_json(&value).unwrap_err().to_string();
        assert_eq!(message(json!({"epochs": 0})), "hyperparameter \"epochs\" is 0, it must lie between 1 and 1000");
        assert!(message(json!({"epochs": "many"})).contains("\"epochs\" is not valid: invalid type"));
        assert!(message(json!({"learning_speed": 1})).contains("\"learning_speed\""));
        assert!(message(json!({"tau": null})).contains("\"tau\""));
        assert!(message(json!({"gammas": [11]})).contains("between 0 and 10"));
        assert!(message(json!([1])).contains("JSON object"));
    }
}
