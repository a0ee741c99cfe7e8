//! The demo: real texts and vectors, simulated listeners, from capture to A/B test and rollout.

mod database;
mod dice;
mod embed;
mod features;
mod feed;
mod learn;
mod listeners;
mod options;
mod progress;
mod summary;
mod texts;
mod trial;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use features::Catalogue;
use feed::{Feed, Visit};
use listeners::Listener;
use options::{Options, USAGE};
use progress::{Bar, step};
use summary::Summary;
use texts::Speech;
use trial::Outcome;

const DATASET: &str = "listening";
const LISTS_IN_PERIOD_1: usize = 5;
const LISTS_IN_PERIOD_2: usize = 2;
const DAYS_BETWEEN_LISTS: f64 = 3.0;

fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args().skip(1)).and_then(|options| match options {
        Some(options) => run(&options),
        None => {
            println!("{USAGE}");
            Ok(())
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Content {
    speeches: Vec<Speech>,
    vectors: Vec<Vec<f32>>,
    catalogue: Catalogue,
}

fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let content = prepare(options)?;
    let mut listeners = listeners::gather(options.listeners + options.listeners / 9, &content.catalogue, options.seed);
    let newcomers = listeners.split_off(options.listeners);

    step(2, "Application: schema app, content, and one view that tells pg_finetune about it");
    let mut client = database::open(&options.database_url)?;
    database::load(&mut client, &content.speeches, &content.vectors)?;
    client.execute("SELECT capture_signals('app.signal', via => 'app.signal_for_training')", &[])?;
    let mut feed = Feed::open(&mut client, &content.catalogue, dice::stream(options.seed, "period 1"))?;

    period_1(&mut feed, &listeners)?;

    step(4, "Training: dataset frozen, job done by the worker, model judged on listeners it has not seen");
    let dataset = learn::freeze(feed.client(), DATASET, options.seed)?;
    println!("  dataset \"{DATASET}\": {} examples of {} listeners", dataset.examples, dataset.users);
    let judgement = learn::train(feed.client(), DATASET, options.seed)?;
    println!("  gate: {}", judgement.reason);

    let outcome = judgement
        .passed
        .then(|| period_2(&mut feed, &listeners, &newcomers, &judgement.model, options.seed))
        .transpose()?;
    let schedule = "SELECT to_char(schedule_retraining('weekly') AT TIME ZONE 'UTC', 'Dy YYYY-MM-DD HH24:MI \"UTC\"')";
    let next_training: String = feed.client().query_one(schedule, &[])?.get(0);

    let summary = Summary {
        seconds: started.elapsed().as_secs_f64(),
        passages: content.vectors.len(),
        listeners: listeners.len() + newcomers.len(),
        dataset: &dataset,
        judgement: &judgement,
        outcome: outcome.as_ref(),
        next_training: &next_training,
    };
    summary.print();
    Ok(())
}

fn prepare(options: &Options) -> Result<Content> {
    step(1, &format!("Real input: texts and their vectors (seed {})", options.seed));
    let speeches = texts::read(&options.texts)?;
    let passages: Vec<&str> = speeches.iter().flat_map(|speech| &speech.passages).map(String::as_str).collect();
    println!("  {} addresses, {} passages", speeches.len(), passages.len());
    let vectors = embed::embed_all(&passages, &options.model, &options.cache)?;
    let catalogue = features::describe(&speeches, &vectors, options.seed);
    Ok(Content { speeches, vectors, catalogue })
}

/// Half of each list from the ranking under base, half at random.
fn period_1(feed: &mut Feed, listeners: &[Listener]) -> Result<()> {
    step(3, &format!("Period 1: {} simulated listeners under base", listeners.len()));
    let first = LISTS_IN_PERIOD_1 as f64 * DAYS_BETWEEN_LISTS;
    feed.sign_up(listeners, first)?;
    let bar = Bar::new("period 1", LISTS_IN_PERIOD_1 * listeners.len());
    for list in 0..LISTS_IN_PERIOD_1 {
        let days_ago = first - list as f64 * DAYS_BETWEEN_LISTS;
        feed.visit(listeners, &Visit { surface: "feed", ranked: 6, random: 6, days_ago }, &bar)?;
    }
    bar.done();
    Ok(())
}

/// The best under each listener's variant; newcomers first show their taste on random passages.
fn period_2(
    feed: &mut Feed,
    listeners: &[Listener],
    newcomers: &[Listener],
    model: &str,
    seed: u64,
) -> Result<Outcome> {
    step(5, "Period 2: half of the listeners under base, half under the fine-tuned model");
    let all = listeners.len() + newcomers.len();
    let bar = Bar::new("period 2", newcomers.len() + LISTS_IN_PERIOD_2 * all);
    feed.sign_up(newcomers, 0.0)?;
    feed.visit(newcomers, &Visit { surface: "welcome", ranked: 0, random: 20, days_ago: 0.0 }, &bar)?;

    trial::start(feed.client(), model, seed, all)?;
    for _ in 0..LISTS_IN_PERIOD_2 {
        for group in [listeners, newcomers] {
            feed.visit(group, &Visit { surface: "feed", ranked: 10, random: 0, days_ago: 0.0 }, &bar)?;
        }
    }
    bar.done();
    println!("  assigned: {}", trial::split(feed.client())?);
    trial::survey(feed.client(), listeners, seed)?;

    step(6, "Verdict");
    trial::print_metrics(feed.client())?;
    for complaint in trial::complaints(feed.client())? {
        println!("  health: {complaint}");
    }
    let outcome = trial::decide(feed.client(), newcomers)?;
    for finding in &outcome.findings {
        println!("  {}", finding.sentence);
    }
    Ok(outcome)
}
