use std::time::Duration;

use serde_json::json;

use super::change::{Change, Job, Outcome, Phase, Prepared};
use super::fault::{Fault, Refusal};
use super::lifecycle::{after, stop, Pace, LOOKS};
use super::protocol::{Checkpoint, Estimate, Lifecycle, Poll, RemoteJob};
use super::state::{Serving, State};

const PACE: Pace = Pace { poll: Duration::from_secs(10), roll: 0.5 };

fn job(phase: Phase, state: &str) -> Job {
    serde_json::from_value(json!({
        "id": "j", "token": 1, "phase": phase, "state": state, "provider": "host", "owner": "me", "base_url": "https://x", "dataset": "d:1",
        "dataset_name": "d", "base_model": "m", "method": "sft", "hyperparameters": {}, "seed": 42, "run_key": "r", "intent_at": 0, "age": 0.0,
        "looks": 0, "failures": 0, "failing_for": 0.0, "remote": {"file": "f"}, "remote_job_id": null, "duplicates": [], "raw_status": null,
        "cancel_requested": false, "past_deadline": false, "cancel_sent_for": null, "train_bytes": 1, "train_rows": 1, "train_tokens": 1,
        "validation_share": null, "validation_bytes": null, "validation_rows": null, "estimated_usd": null,
        "max_usd": null, "known_event": null, "provider_failures": 0
    }))
    .unwrap()
}

fn told(job: &Job, outcome: Outcome) -> Change {
    after(job, Ok(outcome), PACE)
}

fn failed(job: &Job, fault: Fault) -> Change {
    after(job, Err(fault), PACE)
}

fn retry() -> Fault {
    Fault::Retry { after: None, message: "no route".into() }
}

fn refusal() -> Refusal {
    Refusal { code: "c".into(), message: "no".into(), param: None, hint: "h".into() }
}

fn poll(state: Option<State>, raw: &str) -> Outcome {
    Outcome::Polled(Box::new(Poll { state, raw_status: raw.into(), ..Poll::default() }))
}

fn remote(id: &str, created_at: i64) -> RemoteJob {
    RemoteJob { id: id.into(), created_at: Some(created_at), raw_status: "running".into() }
}

#[test]
fn the_ordinary_way() {
    let written = Outcome::Prepared(Prepared { tokens: Some(3), ..Prepared::default() });
    assert_eq!(told(&job(Phase::Prepare, "pending"), written).phase, Some(Phase::Ask));
    assert_eq!(told(&job(Phase::Ask, "pending"), Outcome::Asked(Lifecycle::default())).phase, Some(Phase::Upload));
    assert_eq!(told(&job(Phase::Upload, "uploading"), Outcome::Uploaded(None)).phase, Some(Phase::Estimate));
    assert_eq!(told(&job(Phase::Estimate, "uploading"), Outcome::Priced(None)).phase, Some(Phase::Create));
    let created = told(&job(Phase::Create, "uploading"), Outcome::Created("id".into()));
    assert_eq!((created.phase, created.state, created.intent_over), (Some(Phase::Poll), Some("validating"), true));
    let running = told(&job(Phase::Poll, "queued"), poll(Some(State::Running), "running"));
    assert_eq!((running.phase, running.state), (Some(Phase::Events), Some("running")));
    let done = Poll {
        state: Some(State::Succeeded),
        model: Some("ft".into()),
        serving: Serving::NeedsDeploy,
        ..Poll::default()
    };
    let done = told(&job(Phase::Poll, "running"), Outcome::Polled(Box::new(done)));
    assert_eq!(
        (done.state, done.model.as_deref(), done.serving),
        (Some("succeeded"), Some("ft"), Some("needs_deploy"))
    );
    assert_eq!(
        told(&job(Phase::Events, "succeeded"), Outcome::Events(Default::default(), vec![])).phase,
        Some(Phase::Clean)
    );
    assert_eq!(told(&job(Phase::Clean, "succeeded"), Outcome::Cleaned(None)).phase, None);
}

#[test]
fn a_creation_without_an_answer_is_never_simply_repeated() {
    let create = job(Phase::Create, "uploading");
    for fault in [Fault::Ambiguous { message: "cut".into() }, Fault::NotProtocol { status: 200, start: "<".into() }] {
        let change = failed(&create, fault);
        assert_eq!((change.phase, change.intent_over), (Some(Phase::Find), false));
    }
    // Nothing left: it may be repeated.
    let unsent = failed(&create, retry());
    assert_eq!((unsent.phase, unsent.intent_over), (Some(Phase::Create), true));
    let throttled = failed(&create, Fault::Throttled { after: Some(Duration::from_secs(7)) });
    assert_eq!((throttled.phase, throttled.intent_over, throttled.failures), (Some(Phase::Create), true, 0));

    let mut find = job(Phase::Find, "uploading");
    for look in 0..LOOKS {
        find.looks = look;
        let change = told(&find, Outcome::Found(vec![]));
        let last = look + 1 == LOOKS;
        assert_eq!(change.phase, Some(if last { Phase::Upload } else { Phase::Find }), "look {look}");
        assert_eq!(change.intent_over, last);
        assert!(last || change.wait_ms == 30_000);
    }
    for fault in [retry(), Fault::Gone, Fault::Refused(refusal()), Fault::Auth(refusal())] {
        assert_eq!(failed(&find, fault.clone()).phase, Some(Phase::Find), "{fault:?}: no proof that it does not exist");
    }
    find.cancel_requested = true;
    assert_eq!(told(&find, Outcome::Found(vec![])).state, Some("cancelled"));
}

#[test]
fn of_several_the_oldest_is_kept() {
    let found =
        told(&job(Phase::Find, "uploading"), Outcome::Found(vec![remote("b", 5), remote("a", 9), remote("b", 5)]));
    assert_eq!((found.phase, found.remote_job_id.as_deref()), (Some(Phase::Dedupe), Some("b")));
    assert_eq!(found.duplicates, Some(vec!["a".to_owned()]));
    let mut dedupe = job(Phase::Dedupe, "validating");
    dedupe.duplicates = vec!["a".into()];
    for change in [told(&dedupe, Outcome::Cancelled), failed(&dedupe, Fault::Gone)] {
        assert_eq!((change.phase, change.duplicates), (Some(Phase::Poll), Some(vec![])));
    }
    assert_eq!(failed(&dedupe, retry()).phase, Some(Phase::Dedupe));
}

#[test]
fn an_end_is_asked_for_there_first() {
    let mut running = job(Phase::Poll, "running");
    running.cancel_requested = true;
    assert_eq!(running.phase_now(), Phase::Cancel);
    let sent = told(&running, Outcome::Cancelled);
    assert!(sent.cancel_sent && sent.phase == Some(Phase::Poll) && sent.state.is_none());
    running.cancel_sent_for = Some(1.0);
    assert_eq!(running.phase_now(), Phase::Poll);
    let late = Poll { state: Some(State::Succeeded), model: Some("ft".into()), ..Poll::default() };
    assert_eq!(told(&running, Outcome::Polled(Box::new(late))).state, Some("succeeded"), "too late is a success");
    // Out of time, asked to cancel, still running a minute later.
    running.past_deadline = true;
    running.cancel_requested = false;
    assert_eq!(told(&running, poll(Some(State::Running), "running")).state, Some("running"));
    running.cancel_sent_for = Some(61.0);
    assert_eq!(told(&running, poll(Some(State::Running), "running")).state, Some("expired"));

    let mut waiting = job(Phase::Upload, "uploading");
    assert!(stop(&waiting).is_none());
    waiting.past_deadline = true;
    let stopped = stop(&waiting).unwrap();
    assert_eq!((stopped.state, stopped.phase), (Some("expired"), Some(Phase::Clean)));
    waiting.phase = Phase::Find;
    assert!(stop(&waiting).is_none(), "what may exist is looked for");
}

#[test]
fn limits_of_money_hold_before_anything_is_sent() {
    let mut prepare = job(Phase::Prepare, "pending");
    prepare.remote = None;
    prepare.max_usd = Some(1.0);
    let prepared = |usd, priced_later| {
        told(&prepare, Outcome::Prepared(Prepared { tokens: Some(1), usd, priced_later, ..Prepared::default() }))
    };
    let of = |usd| prepared(usd, false);
    assert_eq!(prepared(None, true).phase, Some(Phase::Ask), "the provider will tell");
    assert_eq!(prepared(Some(2.0), true).state, Some("failed"), "the table knows already");
    assert_eq!(of(Some(1.0)).phase, Some(Phase::Ask));
    for dear in [of(Some(1.01)), of(None)] {
        assert_eq!((dear.phase, dear.state), (None, Some("failed")));
    }
    let mut estimate = job(Phase::Estimate, "uploading");
    estimate.max_usd = Some(1.0);
    let by_provider =
        |usd, blocked| told(&estimate, Outcome::Priced(Some(Estimate { usd: Some(usd), tokens: None, blocked })));
    assert_eq!(by_provider(0.5, false).phase, Some(Phase::Create));
    assert_eq!(by_provider(2.0, false).state, Some("failed"));
    assert_eq!(by_provider(0.5, true).state, Some("failed"));
}

#[test]
fn a_key_that_fails_ends_what_costs_nothing_yet_and_waits_for_what_runs() {
    let ended = failed(&job(Phase::Create, "uploading"), Fault::Auth(refusal()));
    assert_eq!((ended.state, ended.provider_wait_ms), (Some("failed"), Some(300_000)));
    let running = failed(&job(Phase::Poll, "running"), Fault::Auth(refusal()));
    assert_eq!((running.state, running.phase), (None, Some(Phase::Poll)));
    assert!(running.wait_ms >= 225_000);
}

#[test]
fn failures_wait_longer_and_longer_and_are_told_once() {
    let mut poll = job(Phase::Poll, "running");
    let waits: Vec<u64> = (0..12)
        .map(|failures| {
            poll.failures = failures;
            let change = failed(&poll, retry());
            assert_eq!(change.lines.len(), usize::from(failures == 0));
            change.wait_ms
        })
        .collect();
    assert_eq!(waits[..4], [1_000, 2_000, 4_000, 8_000]);
    assert_eq!(waits[11], 300_000);
    poll.failures = 0;
    poll.provider_failures = 1;
    assert_eq!(failed(&poll, retry()).provider_wait_ms, Some(0), "twice is no pattern");
    poll.provider_failures = 2;
    assert!(failed(&poll, retry()).provider_wait_ms > Some(0));
    poll.age = 4_000.0;
    assert_eq!(told(&poll, super::lifecycle_tests::poll(Some(State::Running), "running")).wait_ms, 200_000);
}

#[test]
fn gone_is_believed_the_third_time() {
    let mut poll = job(Phase::Poll, "running");
    poll.failing_for = 100.0;
    assert_eq!(failed(&poll, Fault::Gone).looks, Some(1));
    poll.looks = 2;
    assert_eq!(failed(&poll, Fault::Gone).state, Some("expired"));
    poll.failing_for = 1.0;
    assert_eq!(failed(&poll, Fault::Gone).state, None);

    // Stopped by deleting it, as with hosts that have no cancel.
    (poll.failing_for, poll.cancel_sent_for, poll.cancel_requested) = (100.0, Some(100.0), true);
    let deleted = failed(&poll, Fault::Gone);
    assert_eq!((deleted.state, deleted.phase, deleted.problem), (Some("cancelled"), Some(Phase::Clean), None));
    (poll.cancel_requested, poll.past_deadline) = (false, true);
    assert_eq!(failed(&poll, Fault::Gone).state, Some("expired"), "nobody asked for its end but the clock");
}

#[test]
fn questions_that_need_no_answer_end_no_job() {
    let ask = job(Phase::Ask, "pending");
    for fault in [
        Fault::Gone,
        Fault::Refused(refusal()),
        Fault::Auth(refusal()),
        Fault::NotProtocol { status: 200, start: "<".into() },
    ] {
        let change = failed(&ask, fault.clone());
        assert_eq!((change.phase, change.state, change.problem), (Some(Phase::Upload), None, None), "{fault:?}");
    }
    assert_eq!(failed(&job(Phase::Upload, "uploading"), Fault::Auth(refusal())).state, Some("failed"));
    let dying = Lifecycle { shutdown: Some("2027-01-14".into()), legacy: false };
    let asked = told(&ask, Outcome::Asked(dying));
    assert!(asked.phase == Some(Phase::Upload) && asked.lines[0].message.contains("2027-01-14"), "{asked:?}");

    // A price that the provider does not tell is no reason to stop, but under a limit it has to be known.
    let mut estimate = job(Phase::Estimate, "uploading");
    let untold = |estimate: &Job| {
        [
            told(estimate, Outcome::Priced(None)),
            failed(estimate, Fault::Gone),
            failed(estimate, Fault::Refused(refusal())),
        ]
    };
    assert!(untold(&estimate).iter().all(|change| change.phase == Some(Phase::Create)));
    estimate.max_usd = Some(2.0);
    assert!(untold(&estimate).iter().all(|change| change.state == Some("failed")), "nobody knows");
    estimate.estimated_usd = Some(1.0);
    assert!(untold(&estimate).iter().all(|change| change.phase == Some(Phase::Create)), "the table knows");
}

#[test]
fn checkpoints_come_with_the_end() {
    let found = vec![Checkpoint { model: "ft:1".into(), step: Some(7), metrics: json!({"valid_loss": 0.5}) }];
    let change = told(&job(Phase::Events, "succeeded"), Outcome::Events(Default::default(), found.clone()));
    assert_eq!((change.phase, change.checkpoints), (Some(Phase::Clean), Some(found)));
    assert_eq!(told(&job(Phase::Events, "succeeded"), Outcome::Events(Default::default(), vec![])).checkpoints, None);
}

#[test]
fn what_cannot_be_deleted_is_said_and_not_taken_for_done() {
    let mut clean = job(Phase::Clean, "succeeded");
    clean.failures = 3;
    assert_eq!(failed(&clean, retry()).phase, Some(Phase::Clean));
    clean.failures = 4;
    let given_up = failed(&clean, retry());
    assert!(given_up.phase.is_none() && given_up.problem.is_some() && given_up.lines.len() == 1);
    assert_eq!(told(&clean, Outcome::Cleaned(None)).problem, None);
}

#[test]
fn words_of_tomorrow_change_nothing_and_are_told_once() {
    let mut running = job(Phase::Poll, "running");
    let first = told(&running, poll(None, "paused_by_moon"));
    assert_eq!((first.state, first.phase, first.lines.len()), (None, Some(Phase::Poll), 1));
    running.raw_status = Some("paused_by_moon".into());
    assert_eq!(told(&running, poll(None, "paused_by_moon")).lines.len(), 0);
    assert_eq!(told(&running, poll(Some(State::Queued), "queued")).state, Some("running"), "never backwards");
}
