//! Progress of long steps: a bar on a terminal, a plain line every quarter elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub struct Bar {
    bar: ProgressBar,
    label: &'static str,
    started: Instant,
    plain: bool,
    quarter: AtomicU64,
}

impl Bar {
    pub fn new(label: &'static str, total: usize) -> Self {
        let plain = !std::io::stdout().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stdout() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target).with_message(label);
        let style = ProgressStyle::with_template("  {msg:<18} {bar:30} {pos}/{len} {elapsed} (ready in {eta})");
        bar.set_style(style.expect("the template is a constant"));
        Self { bar, label, started: Instant::now(), plain, quarter: AtomicU64::new(0) }
    }

    pub fn add(&self, n: usize) {
        self.bar.inc(n as u64);
        self.report();
    }

    pub fn set(&self, position: u64) {
        self.bar.set_position(position);
        self.report();
    }

    fn report(&self) {
        let (position, total) = (self.bar.position(), self.bar.length().unwrap_or(1).max(1));
        let quarter = 4 * position / total;
        if self.plain && quarter > self.quarter.fetch_max(quarter, Ordering::Relaxed) {
            println!("  {}: {position} of {total}, {:.0} s", self.label, self.started.elapsed().as_secs_f64());
        }
    }

    /// Says what is being done, where there is a bar to say it at.
    pub fn say(&self, message: &str) {
        self.bar.set_message(format!("{}: {message}", self.label));
    }

    pub fn done(&self) {
        self.bar.finish_and_clear();
        if !self.plain {
            println!("  {}: done in {:.0} s", self.label, self.started.elapsed().as_secs_f64());
        }
    }
}

/// Heading of a step.
pub fn step(number: usize, title: &str) {
    println!("\n{number}. {title}");
}
