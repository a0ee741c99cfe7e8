//! Every request against the vendors' own specifications, with Prism as judge: it answers 4xx to what they do not allow.

use serde_json::json;

use super::driver::*;
use crate::providers::fault::Fault;
use crate::providers::openai::OpenAi;
use crate::providers::openai_files::Sizes;
use crate::providers::protocol::{FileView, JobView, Protocol, Step, Training};
use crate::providers::wire::{Answer, Request};

fn prism(slice_name: &str) -> Option<Double> {
    let (folder, slice) = (tool("prism")?, slice(slice_name)?);
    let program = folder.join("node_modules/.bin/prism").display().to_string();
    Some(start("node", &[&program, "mock", &slice.display().to_string(), "-h", "127.0.0.1", "-p", "PORT"], &[]))
}

fn accepted(what: &str, answer: &Answer) {
    let violations = answer.header("sl-violations");
    let body = String::from_utf8_lossy(&answer.body);
    assert!(answer.ok() && violations.is_none(), "{what}: {} {body} {violations:?}", answer.status);
}

/// All requests of a job that is known at the provider, but for files and create.
fn questions(protocol: &dyn Protocol, job: &JobView) -> Vec<(&'static str, Request)> {
    let mut all = vec![
        ("find", protocol.find(job, None).unwrap()),
        ("find, next page", protocol.find(job, Some("ftjob-abc123")).unwrap()),
        ("poll", protocol.poll(job).unwrap()),
        ("cancel", protocol.cancel(job).unwrap()),
    ];
    all.extend(protocol.events(job, None).map(|request| ("events", request)));
    all.extend(protocol.events(job, Some("ftevent-1")).map(|request| ("events, next page", request)));
    all.extend(protocol.checkpoints(job).map(|request| ("checkpoints", request)));
    all
}

/// The reader of each answer: none may fail on what the specification shows as an example.
fn read(protocol: &dyn Protocol, job: &JobView, what: &str, answer: &Answer) -> Result<(), Fault> {
    match what {
        "create" => protocol.created(job, answer).map(drop),
        "find" | "find, next page" => protocol.found(job, answer).map(drop),
        "poll" => protocol.polled(job, answer).map(drop),
        "cancel" => protocol.cancelled(job, answer),
        "checkpoints" => protocol.read_checkpoints(job, answer).map(drop),
        _ => protocol.read_events(job, None, answer).map(drop),
    }
}

fn judge(sender: &Sender, protocol: &dyn Protocol, job: &mut JobView) {
    let create = sender.ask(&protocol.create(job).unwrap());
    accepted("create", &create);
    job.job_id = Some(protocol.created(job, &create).unwrap());
    for (what, request) in questions(protocol, job) {
        let answer = sender.ask(&request);
        accepted(what, &answer);
        read(protocol, job, what, &answer).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
    }
}

/// Legal oddities: random answers that the specification allows. Whatever comes, no reader may panic.
fn random_answers(sender: &Sender, protocol: &dyn Protocol, job: &JobView) {
    let odd = sender.with(&[("Prefer", "dynamic=true")]);
    for (what, request) in questions(protocol, job) {
        for _ in 0..2 {
            let _ = read(protocol, job, what, &odd.ask(&request));
        }
    }
}

#[test]
fn openai_takes_every_request() {
    let Some(prism) = prism("openai-finetuning-openapi.yaml") else { return };
    let sender = Sender::new("sk-test", rows(10));
    let options = [("protocol", "openai"), ("base_url", prism.url.as_str()), ("dialect", "openai")];
    let whole = protocol("openai");

    for method in [Training::Sft, Training::Dpo] {
        let mut job = job("run-1", &options, &sender);
        (job.method, job.validation) = (method, Some(job.train));
        job.hyperparameters =
            json!({"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5}).as_object().cloned().unwrap();
        if method == Training::Dpo {
            job.hyperparameters.insert("beta".into(), 0.1.into());
        }
        whole.validate(&JobView { train: FileView { rows: 10, ..job.train }, ..job.clone() }).unwrap();
        sender.upload(whole, &mut job).unwrap().iter().for_each(|answer| accepted("file", answer));
        judge(&sender, whole, &mut job);
        random_answers(&sender, whole, &job);
        sender.tidy_up(whole, &mut job).unwrap().iter().for_each(|answer| accepted("tidy up", answer));
    }

    let parts = OpenAi { sizes: Sizes { whole: 100, part: 400 } };
    let mut large = job("run-2", &options, &sender);
    let answers = sender.upload(&parts, &mut large).unwrap();
    assert!(answers.len() >= 4, "uploads, parts, complete: {}", answers.len());
    answers.iter().for_each(|answer| accepted("part", answer));

    // The judge does judge: what we would refuse ourselves is refused there, and read as a refusal.
    large.hyperparameters.insert("n_epochs".into(), 99.into());
    let answer = sender.ask(&whole.create(&large).unwrap());
    assert_eq!(answer.status, 422);
    assert!(matches!(whole.created(&large, &answer), Err(Fault::Refused(_))));
}

#[test]
fn cohere_takes_every_request() {
    let Some(prism) = prism("cohere-finetuning-openapi.yaml") else { return };
    let sender = Sender::new("key", "{\"query\":\"a\",\"relevant_passages\":[\"b\"],\"hard_negatives\":[\"c\"]}\n");
    let cohere = protocol("cohere");
    let mut job = JobView {
        method: Training::Contrastive,
        base_model: "english".into(),
        suffix: None,
        ..job("run-1", &[("protocol", "cohere"), ("base_url", &prism.url)], &sender)
    };
    job.hyperparameters =
        json!({"train_epochs": 2, "learning_rate": 0.01, "train_batch_size": 16}).as_object().cloned().unwrap();
    cohere.validate(&job).unwrap();

    let Step::Send(upload) = cohere.prepare(&job).unwrap() else { panic!() };
    let answer = sender.ask(&upload);
    accepted("dataset", &answer);
    job.remote = cohere.prepared(&job, &answer).unwrap().remote;
    let Step::Send(check) = cohere.prepare(&job).unwrap() else { panic!() };
    let answer = sender.ask(&check);
    accepted("dataset's state", &answer);
    judge(&sender, cohere, &mut job);
    random_answers(&sender, cohere, &job);
    sender.tidy_up(cohere, &mut job).unwrap().iter().for_each(|answer| accepted("tidy up", answer));

    let missing = cohere.polled(&job, &sender.with(&[("Prefer", "code=404")]).ask(&cohere.poll(&job).unwrap()));
    assert_eq!(missing, Err(Fault::Gone));
}
