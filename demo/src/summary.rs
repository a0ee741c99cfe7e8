//! What came out, in under ten lines.

use crate::learn::{Dataset, Judgement};
use crate::trial::Outcome;

pub struct Summary<'a> {
    pub seconds: f64,
    pub passages: usize,
    pub listeners: usize,
    pub dataset: &'a Dataset,
    pub judgement: &'a Judgement,
    /// None = the gate refused the model, so nobody was shown its results.
    pub outcome: Option<&'a Outcome>,
    pub next_training: &'a str,
}

impl Summary<'_> {
    pub fn print(&self) {
        println!("\nSummary after {:.0} s", self.seconds);
        println!("  input      {} real passages and vectors; {} simulated listeners", self.passages, self.listeners);
        println!("  trained    {}", self.training());
        println!("  gate       {}", self.gate());
        if let Some(outcome) = self.outcome {
            println!("  A/B test   {}", outcome.change("save_rate"));
            println!("             {}", outcome.change("false_suggestion_rate"));
            println!("  newcomers  {}", outcome.newcomers());
        }
        println!("  live       {}; next training {}", self.live(), self.next_training);
    }

    fn training(&self) -> String {
        let Judgement { model, training_seconds, .. } = self.judgement;
        format!(
            "{model} on {} actions of {} listeners, {training_seconds:.1} s",
            self.dataset.examples, self.dataset.users
        )
    }

    fn gate(&self) -> String {
        let j = self.judgement;
        format!(
            "{} on {} listeners held out: AUC {:.3} with base, {:.3} with the model: {:+.3} (90 % interval {:+.3} to {:+.3})",
            if j.passed { "passed" } else { "refused" },
            j.listeners,
            j.base_auc,
            j.auc,
            j.delta,
            j.low,
            j.high,
        )
    }

    fn live(&self) -> String {
        match self.outcome {
            None => format!("kept base, because {}", self.judgement.reason),
            Some(outcome) if outcome.live == self.judgement.model => format!("{}, shipped", outcome.live),
            Some(_) => "kept base, because the save rate is not proved to be higher".to_owned(),
        }
    }
}
