//! How a long run stays interruptible and tells how far it is.

use std::time::{Duration, Instant};

use super::crew::Crew;
use super::error::Error;

/// The observer's wish to end the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress<'a> {
    pub stage: &'a str,
    /// Share of the whole run that is done, 0 to 1.
    pub done: f64,
    pub step: u64,
    /// Steps of this stage if training does not end early.
    pub steps: u64,
    pub epoch: usize,
    pub loss: Option<f64>,
    pub validation_auc: Option<f64>,
}

/// Whoever watches a run: called often enough (every few milliseconds of work) to serve a process's interrupts.
pub trait Observer {
    fn check(&mut self) -> Result<(), Stop>;
    fn progress(&mut self, progress: Progress<'_>) -> Result<(), Stop>;

    /// Who computes.
    fn crew(&self) -> Crew {
        Crew::alone()
    }
}

/// For tests that only want the result.
#[cfg(test)]
pub struct Unobserved;

#[cfg(test)]
impl Observer for Unobserved {
    fn check(&mut self) -> Result<(), Stop> {
        Ok(())
    }

    fn progress(&mut self, _: Progress<'_>) -> Result<(), Stop> {
        Ok(())
    }
}

/// An observer with a deadline: what the stages of a run are handed.
pub(super) struct Watch<'a> {
    observer: &'a mut dyn Observer,
    limit: Option<(Instant, f64)>,
    pub crew: Crew,
}

impl<'a> Watch<'a> {
    pub fn new(observer: &'a mut dyn Observer, max_seconds: Option<f64>) -> Self {
        let limit = max_seconds.map(|seconds| (Instant::now() + Duration::from_secs_f64(seconds), seconds));
        let crew = observer.crew();
        Self { observer, limit, crew }
    }

    pub fn check(&mut self) -> Result<(), Error> {
        match self.limit {
            Some((deadline, seconds)) if Instant::now() > deadline => Err(Error::TimeLimit { seconds }),
            _ => self.observer.check().map_err(|Stop| Error::Stopped),
        }
    }

    pub fn progress(&mut self, progress: Progress<'_>) -> Result<(), Error> {
        self.observer.progress(progress).map_err(|Stop| Error::Stopped)
    }

    pub fn stage(&mut self, stage: &str, done: f64) -> Result<(), Error> {
        self.progress(Progress { stage, done, step: 0, steps: 0, epoch: 0, loss: None, validation_auc: None })
    }
}
