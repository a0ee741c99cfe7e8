//! The built-in trainer: from what users saved and skipped to one matrix and one offset for the query side.
//!
//! | stage | module |
//! | --- | --- |
//! | hyperparameters, input in canonical order | `params`, `input` |
//! | who fits, who selects, who judges | `panel` |
//! | closed form: centring and shrunk whitening | `calibrate` |
//! | contrastive stage: examples, losses, gradients | `examples`, `loss`, `fit`, `residual`, `step`, `adam` |
//! | a direction of each user's own, where users are few | `heads` |
//! | a matrix of its own for typed questions | `typed` |
//! | choice among candidates, relevance scores | `candidates` |
//! | measures and verdict | `evaluate`, `gate`; for other vectors `embeddings`, for chat models `answers` |
//! | what serves | `adapter`; weights of the second stage `rerank` |
//! | the order of all this | `run` |
//!
//! Same input, seed and binary give the same bytes: a fixed order of sums whoever computes them (`crew`), wherever the
//! vectors lie (`store`), and one random stream per purpose.
//! Peak memory: the vectors and their image in one space, or as much of both as the limit allows; a matrix for every
//! candidate and five more; one batch; no list of pairs.

mod adam;
mod adapter;
mod answers;
#[cfg(test)]
mod bench;
mod calibrate;
mod candidates;
mod crew;
mod embeddings;
mod error;
mod evaluate;
mod examples;
mod fit;
mod gate;
mod heads;
mod input;
mod loss;
mod panel;
mod params;
mod progress;
mod rerank;
mod residual;
mod rng;
mod run;
mod step;
mod store;
#[cfg(test)]
mod testdata;
#[cfg(test)]
mod tests;
mod typed;
pub(crate) mod vectors;

pub use adapter::{lean, Adapter, Heads, Pair};
pub use answers::{compare_answers, AnswersCompared, Judged, Sheet};
pub use candidates::CandidateReport;
pub use crew::Crew;
pub use embeddings::{compare_embeddings, sample_users};
pub use error::Error;
pub use gate::{Evaluation, Verdict};
pub use input::{Event, Input, Named, Split};
pub use params::Params;
pub use progress::{Observer, Progress, Stop};
pub use rerank::{nearest_saved, MAX_SAVED};
pub use store::Spilling;
pub use vectors::norm;

use input::Data;
use progress::Watch;
use run::Run;

/// A finished run. A refusal is a normal outcome: the adapter is there, but nobody should be shown its results.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub adapter: Adapter,
    pub chosen: String,
    pub candidates: Vec<CandidateReport>,
    /// Beside the plain mean of what each user saved.
    pub evaluation: Evaluation,
    pub verdict: Verdict,
    pub reason: String,
    /// Beside the live model, where one was given.
    pub against_live: Option<Comparison>,
    /// Seed, counts, candidates, losses and refusals; no durations, so that equal runs have equal reports.
    pub report: serde_json::Value,
}

/// A model beside one that it would replace.
#[derive(Debug, Clone)]
pub struct Comparison {
    pub evaluation: Evaluation,
    pub verdict: Verdict,
    pub reason: String,
}

/// Trains on the train part of some users, chooses on others, and judges on the newest actions of a third group,
/// beside the plain mean of what each user saved and beside the live model, where there is one. The live model may have
/// been trained on the users who judge here: the comparison then favours it, never the new one.
///
/// # Errors
/// A parameter or input that cannot be used, too few events, a run that left safe ground, or the observer's stop.
pub fn train(
    input: Input,
    live: Option<&Adapter>,
    params: &Params,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    params.validate()?;
    let mut watch = Watch::new(observer, params.max_seconds);
    watch.stage("reading", 0.0)?;
    if let Some(live) = live.filter(|live| live.dim != input.dim) {
        let reason = format!("the live model has {} dimensions, the items have {}", live.dim, input.dim);
        return Err(Error::Input(reason));
    }
    let data = Data::new(input, params.seed, &mut watch)?;
    let events = data.train_events + data.test_events;
    if events < params.min_events {
        return Err(Error::TooFewEvents { found: events, needed: params.min_events });
    }
    let mut actions = data.users.iter().flat_map(|user| user.train.iter().chain(&user.test));
    let saved = actions.next().is_some_and(|first| first.saved);
    if actions.all(|action| action.saved == saved) {
        return Err(Error::OneClass { events, saved });
    }
    Run::new(&data, params, &mut watch)?.finish(live, &mut watch)
}
