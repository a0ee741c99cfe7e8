//! From captured signals to a judged model: dataset, job of the worker, gate.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use postgres::Client;

use crate::progress::Bar;

const POLL: Duration = Duration::from_millis(200);
/// Long after any worker would have come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the gate found out on listeners whom the model was never trained on.
pub struct Judgement {
    pub model: String,
    pub passed: bool,
    pub reason: String,
    pub listeners: i32,
    pub base_auc: f64,
    pub auc: f64,
    pub delta: f64,
    pub low: f64,
    pub high: f64,
    pub training_seconds: f64,
}

pub struct Dataset {
    pub examples: i64,
    pub users: i64,
}

pub fn freeze(client: &mut Client, name: &str, seed: u64) -> Result<Dataset> {
    // listeners have seen few passages each: a larger share than the default leaves enough to judge each by
    let create = "SELECT create_dataset($1, test_share => 0.3, seed => $2)::text";
    let id: String = client.query_one(create, &[&name, &(seed as i64)])?.get(0);
    let row = client.query_one("SELECT examples, users FROM dataset WHERE id = $1::text::uuid", &[&id])?;
    Ok(Dataset { examples: row.get(0), users: row.get(1) })
}

/// Submits the job and watches the worker until it is done.
pub fn train(client: &mut Client, dataset: &str, seed: u64) -> Result<Judgement> {
    let job: String = client.query_one("SELECT fine_tune($1, seed => $2)::text", &[&dataset, &(seed as i64)])?.get(0);
    let bar = Bar::new("training", 100);
    let submitted = Instant::now();
    loop {
        let row = client.query_one(
            "SELECT state, stage, progress, step, loss, outcome, started_at IS NULL FROM fine_tuning_jobs WHERE id = $1::text::uuid",
            &[&job],
        )?;
        let (state, stage): (&str, &str) = (row.get(0), row.get(1));
        let (step, loss): (i64, Option<f64>) = (row.get(3), row.get(4));
        let loss = loss.map(|loss| format!(", step {step}, loss {loss:.4}")).unwrap_or_default();
        bar.say(&format!("{state}: {stage}{loss}"));
        bar.set((100.0 * row.get::<_, f64>(2)) as u64);
        match state {
            "succeeded" => break,
            "failed" | "cancelled" | "expired" => {
                bail!("the job {state}: {}", row.get::<_, Option<&str>>(5).unwrap_or("no reason given"))
            }
            _ if row.get(6) && submitted.elapsed() > PATIENCE => {
                bail!("no worker took the job in a minute: SELECT * FROM worker_status()")
            }
            _ => thread::sleep(POLL),
        }
    }
    bar.done();
    judgement(client, &job)
}

fn judgement(client: &mut Client, job: &str) -> Result<Judgement> {
    let row = client.query_one(
        "SELECT e.model_id, e.verdict = 'passed', e.reason, e.users, e.base_auc, e.auc, e.auc_delta, e.auc_delta_low,
                e.auc_delta_high, extract(epoch FROM j.finished_at - j.started_at)::float8
         FROM fine_tuning_jobs j JOIN model_evaluation e ON e.model_id = j.model_id
         WHERE j.id = $1::text::uuid",
        &[&job],
    )?;
    let number = |column: usize| row.get::<_, Option<f64>>(column).unwrap_or(f64::NAN);
    Ok(Judgement {
        model: row.get(0),
        passed: row.get(1),
        reason: row.get(2),
        listeners: row.get(3),
        base_auc: number(4),
        auc: number(5),
        delta: number(6),
        low: number(7),
        high: number(8),
        training_seconds: number(9),
    })
}
