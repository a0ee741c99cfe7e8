//! The report of an experiment: one page for people who look, from numbers that SQL computed.

mod advice;
mod chart;
mod figures;
mod page;
mod text;

use serde::Deserialize;
use std::collections::BTreeMap;

pub use page::html;

/// What `_report_data` assembles. Every number comes from the SQL functions named in it; nothing is computed here but positions.
#[derive(Debug, Deserialize)]
pub struct Report {
    pub name: String,
    pub status: String,
    pub started: String,
    pub stopped: Option<String>,
    pub shipped: Option<String>,
    pub generated: String,
    pub planned_users: i64,
    /// Full days since the start, or up to the end.
    pub days: i64,
    pub metrics: Vec<Metrics>,
    pub results: Vec<Outcome>,
    pub health: Vec<Check>,
    pub daily: Vec<Day>,
    pub effect: Vec<Effect>,
    pub curves: BTreeMap<String, Curve>,
}

/// A row of model_metrics.
#[derive(Debug, Deserialize)]
pub struct Metrics {
    pub variant: String,
    pub users: i64,
    pub shown: i64,
    pub pending: i64,
    pub save_rate: Option<f64>,
    pub skip_rate: Option<f64>,
    pub snip_rate: Option<f64>,
    pub precision: Option<f64>,
    pub recall: Option<f64>,
    pub f1: Option<f64>,
    pub false_suggestion_rate: Option<f64>,
    pub very_low: i64,
    pub low: i64,
    pub medium: i64,
    pub high: i64,
    pub very_high: i64,
    pub unscored: i64,
    pub daily_active_reviewers: Option<f64>,
    pub wait_median: Option<f64>,
    pub wait_mean: Option<f64>,
    pub average_satisfaction: Option<f64>,
}

/// A row of experiment_results.
#[derive(Debug, Deserialize)]
pub struct Outcome {
    pub metric: String,
    pub target: String,
    pub verdict: String,
    pub sentence: String,
    pub base_users: i64,
    pub fine_tuned_users: i64,
    pub lift: Option<f64>,
    pub lift_low: Option<f64>,
    pub lift_high: Option<f64>,
    pub p_always: Option<f64>,
    pub design_effect: Option<f64>,
}

/// A row of experiment_health.
#[derive(Debug, Deserialize)]
pub struct Check {
    pub check_name: String,
    pub verdict: String,
    pub value: Option<f64>,
    pub meaning: String,
}

/// A row of model_metrics_daily.
#[derive(Debug, Deserialize)]
pub struct Day {
    pub day: String,
    pub variant: String,
    pub active_reviewers: i64,
}

/// A row of experiment_effect_daily.
#[derive(Debug, Deserialize)]
pub struct Effect {
    pub day: String,
    pub base_users: i64,
    pub fine_tuned_users: i64,
    pub difference: Option<f64>,
    pub difference_low: Option<f64>,
    pub difference_high: Option<f64>,
}

/// What a variant's scores were worth.
#[derive(Debug, Deserialize)]
pub struct Curve {
    pub roc_auc: Option<f64>,
    pub average_precision: Option<f64>,
    pub calibration_error: Option<f64>,
    /// Recall and precision by threshold, from the highest.
    pub precision_recall: Vec<[Option<f64>; 2]>,
    /// Mean score, share of positives and items of each bin.
    pub calibration: Vec<[f64; 3]>,
}

/// What can go wrong with a page.
#[derive(Debug)]
pub enum Error {
    /// The data are not those of `_report_data`.
    Data(String),
    /// The chart library refused.
    Chart(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Data(what) => write!(f, "the data of the report: {what}"),
            Self::Chart(what) => write!(f, "a chart: {what}"),
        }
    }
}

impl Report {
    pub fn of(json: serde_json::Value) -> Result<Self, Error> {
        serde_json::from_value(json).map_err(|error| Error::Data(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
