//! Chat models as a filter before users: tuned at a provider, judged on held-out rows, tested on users.

mod common;

use common::*;
use serde_json::{json, Value};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

const TUNED: &str = "ft:small:org::x";

/// One server for all tests here, each with a database of its own.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        Server::private(&[
            ("shared_preload_libraries", "pg_finetune"),
            ("pg_finetune.poll_interval", "40ms"),
            ("pg_finetune.http_timeout", "5s"),
            ("max_worker_processes", "32"),
        ])
    })
}

/// Where the key stands: written once, for a file that is being written is empty.
fn key_file() -> &'static str {
    static FILE: OnceLock<String> = OnceLock::new();
    FILE.get_or_init(|| server().secret(CANARY))
}

/// How often, in a hundred, each model of the fake is right.
type Skill = Arc<Mutex<HashMap<&'static str, u64>>>;

/// The application with a dataset, a provider with prices, and a tuned model in the registry.
struct Prepared {
    _db: Database<'static>,
    client: Client,
    fake: FakeProvider,
    skill: Skill,
    model: String,
}

fn prepared(method: &str) -> Prepared {
    let (db, mut client, fake, skill) = with_dataset(server(), "listeners", ", test_share => 0.4");
    let job: String = value(
        &mut client,
        &format!(
            "SELECT fine_tune('listeners', provider => 'host', base_model => 'small', method => '{method}')::text"
        ),
    );
    assert_eq!(wait_for_job(&mut client, &job), "succeeded");
    let model = value(&mut client, &format!("SELECT model_id FROM fine_tuning_job WHERE id = '{job}'"));
    Prepared { _db: db, client, fake, skill, model }
}

fn with_dataset(
    server: &'static Server,
    dataset: &str,
    options: &str,
) -> (Database<'static>, Client, FakeProvider, Skill) {
    let fake = FakeProvider::start();
    let db = server.create_database("prefilter");
    let mut client = db.install("pgft");
    application(&mut client, 60);
    execute(
        &mut client,
        &format!(
            "UPDATE training_data_point SET reason = 'like the last one' WHERE user_action = 'saved';
             SELECT create_dataset('{dataset}'{options})"
        ),
    );
    provider(&mut client, "host", &fake.url(), key_file());
    execute(
        &mut client,
        "INSERT INTO provider_price (provider, base_model, usd_per_million_training_tokens, usd_per_million_input_tokens,
             usd_per_million_output_tokens, as_of, quoted_from)
         VALUES ('host', 'small', 25, 2, 8, '2026-11-01', 'test'), ('host', 'ft:small', NULL, 4, 16, '2026-11-01', 'test')",
    );
    let skill = chatting(&mut client, &fake, dataset);
    (db, client, fake, skill)
}

/// Models that know the answers and are wrong as often as they are told, always about the same questions.
fn chatting(client: &mut Client, fake: &FakeProvider, dataset: &str) -> Skill {
    let lines: Vec<String> = values(client, &format!("SELECT export_jsonl('{dataset}', 'openai_chat', 'test')"));
    let mut answers = HashMap::new();
    for line in lines {
        let line: Value = serde_json::from_str(&line).unwrap();
        let content = |place: usize| line["messages"][place]["content"].as_str().unwrap().to_owned();
        answers.insert(content(1), content(2).starts_with("yes"));
    }
    let skill = Skill::default();
    skill.lock().unwrap().extend([("small", 60), (TUNED, 90)]);
    let known = skill.clone();
    fake.serve_model(move |path, body| {
        if path != "/v1/chat/completions" {
            return None;
        }
        let (model, question) = (body["model"].as_str()?, body["messages"][1]["content"].as_str()?);
        assert_eq!((body["temperature"].as_f64(), body["max_tokens"].as_u64()), (Some(0.0), Some(32)));
        let truth = *answers.get(question)?;
        let mut hasher = DefaultHasher::new();
        (model, question).hash(&mut hasher);
        let dice = hasher.finish() % 100;
        let right = dice < known.lock().unwrap().get(model).copied()?;
        let text = if dice == 50 { "It depends." } else if right == truth { "Yes, surely" } else { "no." };
        let usage = json!({"prompt_tokens": question.len() / 4, "completion_tokens": 3});
        Some((200, json!({"object": "chat.completion", "model": model, "choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})))
    });
    skill
}

fn gate(client: &mut Client, model: &str) -> (String, String) {
    let sql = "SELECT verdict, reason FROM model_evaluation WHERE model_id = $1 AND against = 'base'";
    let row = client.query_one(sql, &[&model]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn both_kinds_and_their_reasons_are_trained_on() {
    for (method, kept) in [("sft", "\"messages\""), ("dpo", "\"non_preferred_output\"")] {
        let Prepared { _db, mut client, fake, .. } = prepared(method);
        let upload = fake.seen().into_iter().find(|seen| seen.line.starts_with("POST /v1/files")).unwrap().body;
        for part in [kept, "\"yes: like the last one\"", "\"content\":\"no\""] {
            assert!(upload.contains(part), "{method}: {part} is not in {}", &upload[..2000]);
        }
        let create = fake.seen().into_iter().find(|seen| seen.line.starts_with("POST /v1/fine_tuning/jobs ")).unwrap();
        let wanted = if method == "sft" { "supervised" } else { "dpo" };
        assert!(create.body.contains(&format!("\"type\":\"{wanted}\"")), "{}", create.body);
        assert_eq!(value::<String>(&mut client, "SELECT method FROM model WHERE provider_model IS NOT NULL"), method);
    }
}

#[test]
fn a_better_model_passes_and_meets_users() {
    let Prepared { _db, mut client, fake, model, .. } = prepared("sft");
    let start = format!("SELECT start_experiment('filter', candidate => '{model}')");
    assert_error!(client, &start, "55000", "never evaluated", "evaluate_model");
    assert_error!(client, &format!("SELECT deploy_model('{model}')"), "55000", "never evaluated");
    execute(&mut client, &format!("CALL evaluate_model('{model}', max_usd => 10)"));
    let (verdict, reason) = gate(&mut client, &model);
    assert_eq!(verdict, "passed", "{reason}");
    assert!(reason.contains("F1"), "{reason}");

    let sheets = client
        .query(
            "SELECT role, rows, tp + fp + fn + tn, unparseable, precision, recall, f1, usd::float8, prompt_tokens FROM chat_evaluation ORDER BY role DESC",
            &[],
        )
        .unwrap();
    let held_out: i64 = value(&mut client, "SELECT count(*) FROM dataset_example WHERE split = 'test'");
    assert_eq!(sheets.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["model", "base"]);
    for sheet in &sheets {
        let rows = i64::from(sheet.get::<_, i32>(1));
        assert_eq!((rows, sheet.get::<_, i32>(2)), (held_out.min(1000), rows as i32));
        assert!(sheet.get::<_, i32>(3) > 0, "the fake says neither now and then");
    }
    let f1 = |row: usize| sheets[row].get::<_, f64>(6);
    assert!(f1(0) > 0.8 && f1(1) < 0.8 && f1(0) > f1(1), "{} {}", f1(0), f1(1));
    // Twice as dear a token, as many of them.
    let usd = |row: usize| sheets[row].get::<_, f64>(7);
    assert!((usd(0) / usd(1) - 2.0).abs() < 1e-9, "{} {}", usd(0), usd(1));
    assert_eq!(fake.count("POST /v1/chat/completions") as i64, 2 * held_out.min(1000));

    // The numbers can be computed again from what was kept.
    let again: f64 = value(
        &mut client,
        &format!("SELECT f1_score(e.label, coalesce(a.label, NOT e.label)) FROM chat_answer a JOIN dataset_example e
             ON e.user_id = a.user_id AND e.dataset_id = a.dataset_id AND e.id = a.example_id WHERE a.answered_by = '{TUNED}'"),
    );
    assert!((again - f1(0)).abs() < 1e-12);

    execute(&mut client, &start);
    let arms: Vec<String> = values(
        &mut client,
        "SELECT DISTINCT concat_ws(' ', m.variant, m.provider, m.provider_model) FROM generate_series(1, 100) i, model_for(i::text) m ORDER BY 1",
    );
    assert_eq!(arms, ["base builtin", &format!("fineTuned host {TUNED}")]);
    // Search goes on for everybody: a chat model has no vectors of its own.
    let searching = "SELECT count(user_query('user-' || i)) FROM generate_series(1, 60) i";
    assert_eq!(value::<i64>(&mut client, searching), 60);
    execute(&mut client, "SELECT stop_experiment('filter', ship => 'fineTuned', reason => 'it filters well')");
    assert_eq!(value::<String>(&mut client, "SELECT provider_model FROM model_for('user-1')"), TUNED);
    assert_eq!(
        value::<String>(&mut client, "SELECT user_query('user-1')::text"),
        value::<String>(&mut client, "SELECT user_query('user-1', 'base')::text")
    );
}

#[test]
fn a_worse_model_is_refused_and_the_live_one_is_a_judge_too() {
    let Prepared { _db, mut client, skill, fake, model } = prepared("sft");
    skill.lock().unwrap().insert(TUNED, 50);
    execute(&mut client, &format!("CALL evaluate_model('{model}')"));
    let (verdict, reason) = gate(&mut client, &model);
    assert_eq!(verdict, "refused", "{reason}");
    assert!(reason.contains("kept what serves") && reason.contains("not proved"), "{reason}");
    assert_error!(client, &format!("SELECT deploy_model('{model}')"), "55000", "refused");

    // Another one, better than the base but not than what is live by then.
    execute(
        &mut client,
        &format!("INSERT INTO model (id, base_model, provider, method, dataset_id, provider_model)
             SELECT n.id, 'small', 'host', 'sft', m.dataset_id, n.id FROM model m, (VALUES ('good'), ('fair')) n (id) WHERE m.id = '{model}'"),
    );
    skill.lock().unwrap().extend([("good", 95), ("fair", 80)]);
    let before = fake.count("POST /v1/chat/completions");
    execute(&mut client, "CALL evaluate_model('good')");
    let asked = fake.count("POST /v1/chat/completions") - before;
    let rows: i32 = value(&mut client, "SELECT rows FROM chat_evaluation WHERE role = 'base' LIMIT 1");
    assert_eq!(asked as i32, rows, "what the base model said is known already");
    execute(&mut client, "SELECT deploy_model('good')");
    execute(&mut client, "CALL evaluate_model('fair')");
    let verdicts: Vec<String> = values(
        &mut client,
        "SELECT against || ' ' || verdict FROM model_evaluation WHERE model_id = 'fair' ORDER BY 1",
    );
    assert_eq!(verdicts, ["base passed", "good refused"]);
    assert_error!(client, "SELECT deploy_model('fair')", "55000", "against \"good\"");
}

#[test]
fn money_ends_before_it_is_exceeded() {
    let Prepared { _db, mut client, fake, model, .. } = prepared("sft");
    execute(&mut client, &format!("CALL evaluate_model('{model}', max_texts => 40)"));
    let (verdict, reason) = gate(&mut client, &model);
    assert_eq!(verdict, "not enough data");
    assert!(reason.contains("40 of") && reason.contains("drawn by the seed"), "{reason}");
    let users: i64 = value(&mut client, "SELECT count(DISTINCT user_id) FROM chat_answer");
    assert_eq!(users, 40, "few rows are many users'");
    let spent: f64 = value(&mut client, "SELECT sum(usd)::float8 FROM chat_answer");

    let limit = spent * 3.0;
    execute(&mut client, &format!("CALL evaluate_model('{model}', max_usd => {limit:.9})"));
    let spent: f64 = value(&mut client, "SELECT sum(usd)::float8 FROM chat_answer");
    assert!(spent <= limit && spent > limit * 0.8, "{spent} of {limit}");
    let (_, reason) = gate(&mut client, &model);
    assert!(reason.contains("could exceed max_usd"), "{reason}");
    let asked = fake.count("POST /v1/chat/completions");
    execute(&mut client, &format!("CALL evaluate_model('{model}', max_usd => {limit:.9})"));
    assert_eq!(fake.count("POST /v1/chat/completions"), asked, "nothing is asked twice");

    execute(&mut client, "DELETE FROM provider_price WHERE base_model <> 'x'");
    let call = format!("CALL evaluate_model('{model}', max_usd => 1)");
    assert_error!(client, &call, "55000", "is not known", "INSERT INTO provider_price");
    assert_error!(client, &format!("CALL evaluate_model('{model}', max_usd => -1)"), "22023", "negative");
}

#[test]
fn an_evaluation_that_was_cut_goes_on_where_it_was() {
    let Prepared { _db, mut client, fake, model, .. } = prepared("sft");
    let rows: i64 = value(&mut client, "SELECT count(*) FROM dataset_example WHERE split = 'test'");
    // Asks for fewer, breaks connections, then refuses the key in the middle of everything.
    fake.next("POST /v1/chat/completions", Act::Answer(429, vec![("retry-after", "0".into())], "{}".into()), 3);
    fake.next("POST /v1/chat/completions", Act::CloseBefore, 2);
    fake.next("POST /v1/chat/completions", Act::Answer(503, vec![], "busy".into()), 2);
    execute(&mut client, &format!("CALL evaluate_model('{model}', max_texts => 50)"));
    assert_eq!(fake.left_of_script(), 0);
    assert_eq!(fake.count("POST /v1/chat/completions"), 100 + 7, "seven were asked again");
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM provider_health WHERE failures > 0 OR last_error IS NOT NULL"),
        0
    );

    fake.next(
        "POST /v1/chat/completions",
        Act::Answer(401, vec![], "{\"error\":{\"message\":\"expired\"}}".into()),
        1000,
    );
    let error = assert_error!(client, &format!("CALL evaluate_model('{model}')"), "HV00M", "expired");
    assert!(!format!("{error:?}").contains(CANARY));
    fake.forget_script();
    execute(&mut client, &format!("CALL evaluate_model('{model}')"));
    let answered: i64 = value(&mut client, "SELECT count(*) FROM chat_answer");
    assert_eq!(answered, 2 * rows.min(1000));
    assert_eq!(gate(&mut client, &model).0, "passed");

    // Whoever is forgotten is gone from the answers, too.
    let user: String = value(&mut client, "SELECT user_id FROM chat_answer ORDER BY 1 LIMIT 1");
    execute(&mut client, &format!("SELECT forget_user('{user}')"));
    assert_eq!(value::<i64>(&mut client, &format!("SELECT count(*) FROM chat_answer WHERE user_id = '{user}'")), 0);
    execute(&mut client, "SELECT drop_dataset('listeners', force => true)");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM chat_answer"), 0);
}

#[test]
fn no_transaction_is_open_while_the_model_thinks() {
    let Prepared { _db, mut client, fake, model, .. } = prepared("sft");
    fake.next("POST /v1/chat/completions", Act::HangBefore(Duration::from_secs(2)), 8);
    let mut other = _db.connect();
    let pid: i32 = value(&mut client, "SELECT pg_backend_pid()");
    let cancel = client.cancel_token();
    let call = format!("CALL evaluate_model('{model}')");
    let calling = std::thread::spawn(move || client.batch_execute(&call));
    wait_until(Duration::from_secs(20), "questions are asked", || fake.count("POST /v1/chat/completions") >= 8);
    let held = format!("SELECT backend_xmin::text FROM pg_stat_activity WHERE pid = {pid}");
    assert_eq!(value::<Option<String>>(&mut other, &held), None, "no snapshot is held");
    cancel.cancel_query(NoTls).unwrap();
    let error = calling.join().unwrap().unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
}

#[test]
fn what_cannot_be_judged_says_so() {
    let Prepared { _db, mut client, model, .. } = prepared("sft");
    execute(&mut client, "SELECT set_export_template('default', saved_answer => '{reason}')");
    assert_error!(client, &format!("CALL evaluate_model('{model}')"), "22023", "tell it from the other answer");
    assert_error!(client, "CALL evaluate_model('base')", "0A000", "does not answer at a provider");
    assert_error!(client, "CALL evaluate_model('nope')", "42704", "nope");
    let block = format!("BEGIN; CALL evaluate_model('{model}')");
    assert_error!(client, &block, "2D000", "outside BEGIN");
    execute(&mut client, "ROLLBACK");
}

#[test]
fn a_schedule_has_its_model_evaluated_by_the_worker() {
    let (_db, mut client, fake, _skill) = with_dataset(server(), "weekly", "");
    let schedule = |evaluate: bool| {
        format!("SELECT schedule_retraining('weekly', '0 0 1 1 *', provider => 'host', base_model => 'small', method => 'sft',
             max_usd => 20, min_first_examples => 0, min_new_examples => 0, coverage => 0.5, evaluate => {evaluate}), retrain_now('weekly')")
    };
    assert_error!(client, &schedule(true).replace("true", "NULL"), "22004", "schedule");
    let ended = |client: &mut Client, runs: i64| {
        let done = "SELECT count(*) FROM retraining_run WHERE state <> 'running'";
        wait_until(Duration::from_secs(60), "the run has ended", || value::<i64>(client, done) == runs);
        last_run(client)
    };
    execute(&mut client, &schedule(true));
    let (state, stage, reason) = ended(&mut client, 1);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "experiment"), "{reason}");
    let judged = "SELECT count(*) FROM chat_evaluation c JOIN retraining_run r ON r.model_id = c.model_id WHERE r.tries = 1 AND c.usd <= 20";
    assert_eq!(value::<i64>(&mut client, judged), 2);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM experiment WHERE status = 'running'"), 1);

    // A provider that does not answer is asked again later; the next process goes on where the first one was.
    execute(&mut client, "SELECT stop_experiment(name) FROM experiment");
    let refusal = Act::Answer(401, vec![], "{\"error\":{\"message\":\"expired\"}}".into());
    fake.next("POST /v1/chat/completions", refusal, 1000);
    execute(&mut client, "SELECT retrain_now('weekly')");
    wait_until(Duration::from_secs(60), "it is to be asked again", || {
        last_run(&mut client).2.starts_with("asked again")
    });
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("running", "evaluation"), "{reason}");
    assert!(reason.contains("expired") && !reason.contains(CANARY), "{reason}");
    let waits = "SELECT _next_evaluation() = retry_at AND _next_due_at() <= retry_at FROM retraining_run WHERE state = 'running' AND retry_at > now() AND tries = 1";
    assert!(value::<bool>(&mut client, waits));
    fake.forget_script();
    execute(&mut client, "UPDATE retraining_run SET retry_at = now() WHERE state = 'running'; SELECT _wake_worker()");
    let (state, stage, reason) = ended(&mut client, 2);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "experiment"), "{reason}");

    // After five times it is given up, with the command that goes on.
    execute(&mut client, "SELECT stop_experiment(name) FROM experiment WHERE status = 'running'");
    fake.next("POST /v1/chat/completions", Act::Answer(401, vec![], "{}".into()), 1000);
    execute(&mut client, "SELECT retrain_now('weekly')");
    wait_until(Duration::from_secs(60), "it is to be asked again", || {
        last_run(&mut client).2.starts_with("asked again")
    });
    execute(
        &mut client,
        "UPDATE retraining_run SET retry_at = now(), tries = 4 WHERE state = 'running'; SELECT _wake_worker()",
    );
    let (state, stage, reason) = ended(&mut client, 3);
    assert_eq!((state.as_str(), stage.as_str()), ("failed", "evaluation"), "{reason}");
    assert!(reason.contains("CALL evaluate_model("), "{reason}");
    fake.forget_script();

    // Without leave to ask nothing is asked.
    let asked = fake.count("POST /v1/chat/completions");
    execute(&mut client, &schedule(false));
    let (state, stage, reason) = ended(&mut client, 4);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "gate"), "{reason}");
    assert!(reason.contains("was not evaluated"), "{reason}");
    assert_eq!(fake.count("POST /v1/chat/completions"), asked);
}

#[test]
fn an_evaluation_by_hand_is_the_same_and_holds_nothing_open() {
    let (db, mut client, fake, _skill) = with_dataset(Server::by_hand(), "weekly", "");
    execute(
        &mut client,
        "SELECT schedule_retraining('weekly', '0 0 1 1 *', provider => 'host',
        base_model => 'small', method => 'sft', min_first_examples => 10, evaluate => true)",
    );
    let run = "INSERT INTO fine_tuning_job (id, dataset_id, provider, base_model, method, seed, state, owner, model_id, deadline_at)
        SELECT 'aaaaaaaa-0000-0000-0000-000000000001', id, 'host', 'small', 'sft', 1, 'succeeded', current_user, 'm', now() FROM dataset;
        INSERT INTO model (id, base_model, provider, method, dataset_id, provider_model, job_id)
        SELECT 'm', 'small', 'host', 'sft', id, 'ft:small:org::x', 'aaaaaaaa-0000-0000-0000-000000000001' FROM dataset;
        INSERT INTO retraining_run (schedule, due_at, state, stage, job_id) VALUES ('weekly', now(), 'running', 'training', 'aaaaaaaa-0000-0000-0000-000000000001')";
    execute(&mut client, run);
    fake.next("POST /v1/chat/completions", Act::HangBefore(Duration::from_secs(2)), 8);
    let mut other = db.connect();
    let pid: i32 = value(&mut client, "SELECT pg_backend_pid()");
    let held = format!("SELECT backend_xmin::text FROM pg_stat_activity WHERE pid = {pid}");
    let calling = std::thread::spawn(move || {
        execute(&mut client, "CALL run_due_work()");
        client
    });
    wait_until(Duration::from_secs(20), "questions are asked", || fake.count("POST /v1/chat/completions") >= 8);
    assert_eq!(value::<Option<String>>(&mut other, &held), None, "no snapshot is held");
    let mut client = calling.join().unwrap();
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "experiment"), "{reason}");
}

#[test]
fn an_evaluation_whose_process_dies_is_taken_up_by_the_next() {
    let (_db, mut client, fake, _skill) = with_dataset(server(), "weekly", "");
    fake.next("POST /v1/chat/completions", Act::HangBefore(Duration::from_secs(60)), 8);
    execute(
        &mut client,
        "SELECT schedule_retraining('weekly', '0 0 1 1 *', provider => 'host', base_model => 'small', method => 'sft',
             min_first_examples => 0, evaluate => true), retrain_now('weekly')",
    );
    wait_until(Duration::from_secs(60), "questions are asked", || fake.count("POST /v1/chat/completions") >= 8);
    let ours = "FROM pg_stat_activity WHERE backend_type = 'pg_finetune trainer' AND datname = current_database()";
    assert_eq!(
        value::<i64>(&mut client, &format!("SELECT count(*) - count(backend_xmin) {ours}")),
        1,
        "no snapshot is held"
    );
    assert!(value::<bool>(&mut client, &format!("SELECT pg_terminate_backend(pid) {ours}")));
    wait_until(Duration::from_secs(10), "it ends at once", || {
        value::<i64>(&mut client, &format!("SELECT count(*) {ours}")) == 0
    });
    let held =
        "SELECT tries = 1 AND retry_at > now() + interval '50 minutes' FROM retraining_run WHERE stage = 'evaluation'";
    assert!(value::<bool>(&mut client, held), "whoever holds it is waited for");
    execute(&mut client, "UPDATE retraining_run SET retry_at = now(); SELECT _wake_worker()");
    wait_until(Duration::from_secs(60), "the run has ended", || last_run(&mut client).0 != "running");
    let (state, stage, reason) = last_run(&mut client);
    assert_eq!((state.as_str(), stage.as_str()), ("ran", "experiment"), "{reason}");
    assert_eq!(value::<i32>(&mut client, "SELECT tries FROM retraining_run"), 2);
    // Five deaths are enough.
    execute(
        &mut client,
        "UPDATE retraining_run SET state = 'running', stage = 'evaluation', tries = 5, retry_at = now(); SELECT _wake_worker()",
    );
    wait_until(Duration::from_secs(60), "it is given up", || last_run(&mut client).0 == "failed");
    assert!(last_run(&mut client).2.contains("five processes died"), "{}", last_run(&mut client).2);
}
