//! Benchmarks of jobs at providers against the fake one: `bench/run.sh` runs them.

mod common;

use common::*;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(600);

fn prepared<'a>(server: &'a Server, fake: &FakeProvider) -> (Database<'a>, Client) {
    let db = server.create_database("bench");
    let mut client = db.install("pgft");
    application(&mut client, 60);
    provider(&mut client, "host", &fake.url(), &server.secret(CANARY));
    (db, client)
}

fn submit_to(client: &mut Client, seed: u32) -> String {
    let sql = format!(
        "SELECT fine_tune('listeners', provider => 'host', base_model => 'small', method => 'sft', seed => {seed}, validation => 0)::text"
    );
    value(client, &sql)
}

fn worker(client: &mut Client) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_finetune worker' LIMIT 1";
    client.query_opt(sql, &[]).unwrap().map(|row| row.get(0))
}

/// Kilobytes of a process' own memory.
fn memory(pid: i32) -> Option<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Hundredths of a second of processor time.
fn cpu(pid: i32) -> i64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<i64>().unwrap() + fields[12].parse::<i64>().unwrap()
}

#[test]
#[ignore = "a benchmark"]
fn idle() {
    let server = Server::private(&[("shared_preload_libraries", "pg_finetune"), ("pg_finetune.poll_interval", "40ms")]);
    let fake = FakeProvider::start();
    let (db, mut client) = prepared(&server, &fake);
    execute(&mut client, "SELECT create_dataset('listeners')");
    let job = submit_to(&mut client, 1);
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    wait_until(PATIENCE, "the worker left", || worker(&mut client).is_none());
    let launcher: i32 = value(&mut client, "SELECT launcher_pid FROM worker_status()");
    drop(client);
    let mut other = server.connect("postgres");
    let transactions =
        format!("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{}'", db.name);
    std::thread::sleep(Duration::from_secs(2)); // until the statistics are there
    let (before, used) = (value::<i64>(&mut other, &transactions), cpu(launcher));
    std::thread::sleep(Duration::from_secs(60));
    let after: i64 = value(&mut other, &transactions);
    println!(
        "idle, one minute: {} transactions in the database, {} ms of processor time",
        after - before,
        (cpu(launcher) - used) * 10
    );
}

#[test]
#[ignore = "a benchmark"]
fn two_hundred_open_jobs() {
    const JOBS: u32 = 200;
    let server = Server::private(&[("shared_preload_libraries", "pg_finetune"), ("pg_finetune.poll_interval", "2s")]);
    let fake = FakeProvider::start();
    fake.behave(|manners| manners.polls = None);
    let (_db, mut client) = prepared(&server, &fake);
    execute(&mut client, "SELECT create_dataset('listeners')");
    let began = Instant::now();
    for seed in 0..JOBS {
        submit_to(&mut client, seed);
    }
    let running = "SELECT count(*) FROM fine_tuning_job WHERE state = 'running'";
    wait_until(PATIENCE, "all run", || value::<i64>(&mut client, running) == i64::from(JOBS));
    println!("{JOBS} jobs uploaded, created and running after {:.1} s", began.elapsed().as_secs_f64());
    let polls = || fake.count("GET /v1/fine_tuning/jobs/ftjob");
    let (mut busiest, before, watched) = (0, polls(), Instant::now());
    while watched.elapsed() < Duration::from_secs(20) {
        let count = polls();
        std::thread::sleep(Duration::from_millis(250));
        busiest = busiest.max(polls() - count);
    }
    let rate = (polls() - before) as f64 / watched.elapsed().as_secs_f64();
    println!("polls and events: {rate:.0} requests/s, {} in the busiest quarter of a second", busiest);
    let kept = worker(&mut client).and_then(memory).unwrap_or_default();
    println!("memory of the worker: {:.1} MB", kept as f64 / 1024.0);
    let done = value::<f64>(&mut client, "SELECT extract(epoch FROM clock_timestamp())::float8");
    fake.jobs().iter().for_each(|job| fake.finish(&job.id));
    let open = "SELECT count(*) FROM fine_tuning_job WHERE state <> 'succeeded'";
    wait_until(PATIENCE, "all have succeeded", || value::<i64>(&mut client, open) == 0);
    let row = client
        .query_one(
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY d), max(d) FROM (SELECT extract(epoch FROM finished_at)::float8 - $1 d FROM fine_tuning_job) t",
            &[&done],
        )
        .unwrap();
    println!(
        "the provider's \"succeeded\" stands here after {:.1} s (median), {:.1} s (last)",
        row.get::<_, f64>(0),
        row.get::<_, f64>(1)
    );
}

#[test]
#[ignore = "a benchmark"]
fn a_large_training_file() {
    let server =
        Server::private(&[("shared_preload_libraries", "pg_finetune"), ("pg_finetune.poll_interval", "200ms")]);
    let fake = FakeProvider::start();
    let (_db, mut client) = prepared(&server, &fake);
    // Texts of 36 kB; a line holds up to six of them.
    execute(&mut client, "UPDATE training_data_point SET chunk_content = chunk_content || repeat(' ' || chunk_content, 800); SELECT create_dataset('listeners')");
    let copied = server.file("copy.jsonl", "");
    run(std::process::Command::new("chmod").args(["666", &copied]));
    let began = Instant::now();
    execute(&mut client, &format!("COPY (SELECT export_jsonl('listeners', 'openai_chat')) TO '{copied}'"));
    let copy = began.elapsed().as_secs_f64();
    let job = submit_to(&mut client, 1);
    let (mut idle, mut peak) = (0, 0);
    wait_until(PATIENCE, "it is uploaded", || {
        for _ in 0..10 {
            if let Some(now) = worker(&mut client).and_then(memory) {
                idle = if idle == 0 { now } else { idle };
                peak = peak.max(now);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        !fake.jobs().is_empty()
    });
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    let row = client
        .query_one(
            "SELECT j.train_bytes::float8 / 1e6, extract(epoch FROM w.at - j.started_at)::float8, extract(epoch FROM c.at - w.at)::float8
             FROM fine_tuning_job j
             JOIN fine_tuning_event w ON w.job_id = j.id AND w.message = 'training file written'
             JOIN fine_tuning_event c ON c.job_id = j.id AND c.message = 'created at the provider'",
            &[],
        )
        .unwrap();
    let (megabytes, written, sent) = (row.get::<_, f64>(0), row.get::<_, f64>(1), row.get::<_, f64>(2));
    println!("training file of {megabytes:.0} MB: written in {written:.1} s ({:.0} MB/s), COPY takes {copy:.1} s: {:.2} times as long", megabytes / written, written / copy);
    println!("uploaded in {sent:.1} s ({:.0} MB/s)", megabytes / sent);
    println!("memory of the worker: {:.1} MB over idle", (peak - idle) as f64 / 1024.0);
    assert!(peak - idle < 64 * 1024, "over 64 MB");
}
