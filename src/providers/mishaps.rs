//! What becomes of a job when its provider refuses, fails or keeps silent.

use std::time::Duration;

use serde_json::json;

use super::change::{Change, Job, Outcome, Phase, Problem};
use super::fault::{Fault, Refusal};
use super::lifecycle::{deduped, end, events, learned, next, refused, stopped, warning, Pace};
use super::protocol::EventPage;
use super::state::State;

/// Failed tries to tidy up, or to cancel a job that is out of time, before what is left is only named.
const LAST_TRIES: i32 = 5;
/// Polls of a job that is not there before it is taken as gone.
const GONE: i32 = 3;
/// Failures in a row from which on a provider is left alone, too, not only the job.
const CIRCUIT: i32 = 3;

pub(super) fn failed(job: &Job, phase: Phase, fault: Fault, pace: Pace) -> Change {
    match (phase, fault) {
        // Nothing is paid yet: a no is a no.
        (Phase::Prepare | Phase::Upload | Phase::Create, Fault::Refused(refusal)) => refused(job, refusal),
        (Phase::Prepare | Phase::Upload | Phase::Estimate | Phase::Create, Fault::Auth(refusal)) => {
            let wait = pace.long().as_millis() as u64;
            let message = refusal.message.clone();
            Change { provider_wait_ms: Some(wait), provider_error: Some(message), ..refused(job, refusal) }
        }
        // Not every host knows the questions, and not every key may ask them: what has to be known, the next request tells.
        (Phase::Ask, Fault::Gone | Fault::Refused(_) | Fault::Auth(_) | Fault::NotProtocol { .. }) => {
            next(Phase::Upload)
        }
        (Phase::Estimate, Fault::Gone | Fault::Refused(_) | Fault::NotProtocol { .. }) => {
            learned(job, Outcome::Priced(None), pace)
        }
        (Phase::Upload, Fault::Gone) => {
            Change { forget_remote: true, ..again(job, Phase::Upload, "the upload is gone: sent again", pace) }
        }
        (Phase::Create, Fault::Gone) => refused(
            job,
            Refusal {
                code: "not_found".into(),
                message: "the provider does not know the address, the file or the base model".into(),
                param: None,
                hint: "Check base_url and base_model, then SELECT retry_job(...).".into(),
            },
        ),
        (Phase::Create, Fault::Ambiguous { message }) => ambiguous(&message),
        (Phase::Create, Fault::NotProtocol { .. }) => ambiguous("the answer was not of the protocol"),
        (phase, Fault::Throttled { after }) => throttled(job, phase, after, pace),
        (Phase::Events, _) => events(job, EventPage::default(), Vec::new(), pace),
        // Once or twice it may be a copy of theirs that lags behind.
        (Phase::Poll, Fault::Gone) if job.looks + 1 < GONE || job.failing_for < (pace.poll * 6).as_secs_f64() => {
            Change { looks: Some(job.looks + 1), ..retry(job, phase, Fault::Gone, pace) }
        }
        // Where there is no cancel, a job is stopped by deleting it.
        (Phase::Poll, Fault::Gone) if job.cancel_sent_for.is_some() => stopped(job, "deleted at the provider"),
        (Phase::Poll, Fault::Gone) => Change {
            problem: Some(Problem {
                code: "HV00M",
                message: "the provider does not know the job any more".into(),
                hint: "Look into the provider's console, then SELECT retry_job(...).".into(),
            }),
            ..end(job, State::Expired, "gone at the provider")
        },
        // It has ended, or it cannot be: the next poll tells.
        (Phase::Cancel, Fault::Gone | Fault::Refused(_)) => learned(job, Outcome::Cancelled, pace),
        (Phase::Dedupe, Fault::Gone | Fault::Refused(_)) => deduped(job),
        (Phase::Clean, fault) if job.failures + 1 >= LAST_TRIES => Change {
            lines: vec![warning("files could not be deleted at the provider", json!({"remote": job.remote}))],
            problem: Some(Problem { code: "HV00N", message: fault.to_string(), hint: String::new() }),
            ..Change::default()
        },
        (Phase::Cancel | Phase::Find | Phase::Poll, fault) if job.past_deadline && job.failures + 1 >= LAST_TRIES => {
            let line = warning(
                "out of time, and the provider cannot be asked: a job may still run there, and cost",
                json!({"remote_job_id": job.remote_job_id, "run_key": job.run_key, "reason": fault.to_string()}),
            );
            Change { lines: vec![line], ..stopped(job, "the provider cannot be asked") }
        }
        (phase, fault) => retry(job, phase, fault, pace),
    }
}

fn ambiguous(message: &str) -> Change {
    Change {
        stage: Some("its creation was not answered: looked for at the provider".into()),
        looks: Some(0),
        lines: vec![warning("its creation was not answered: looked for, not sent again", json!({"reason": message}))],
        ..next(Phase::Find)
    }
}

fn throttled(job: &Job, phase: Phase, after: Option<Duration>, pace: Pace) -> Change {
    let wait = pace.spread(after.unwrap_or(pace.poll));
    Change {
        stage: Some("waiting: the provider asks for fewer requests".into()),
        wait_ms: wait,
        failures: job.failures,
        intent_over: phase == Phase::Create,
        provider_wait_ms: Some(after.map_or(wait, |after| after.as_millis() as u64)),
        provider_error: Some("asks for fewer requests (429)".into()),
        ..next(job.phase)
    }
}

fn again(job: &Job, phase: Phase, stage: &str, pace: Pace) -> Change {
    Change {
        stage: Some(stage.into()),
        failures: job.failures + 1,
        wait_ms: pace.spread(pace.backoff(job.failures)),
        ..next(phase)
    }
}

fn retry(job: &Job, phase: Phase, fault: Fault, pace: Pace) -> Change {
    let asked = match &fault {
        Fault::Retry { after, .. } => *after,
        _ => None,
    };
    let (text, hint) = match &fault {
        Fault::Auth(refusal) => (fault.to_string(), refusal.hint.clone()),
        _ => (fault.to_string(), "Tried again by itself; check the network and base_url if it stays.".to_owned()),
    };
    let wait = match &fault {
        Fault::Auth(_) => pace.long(),
        _ => asked.unwrap_or_default().max(pace.backoff(job.failures)),
    };
    let provider_failures = job.provider_failures + 1;
    let circuit = match provider_failures >= CIRCUIT {
        true => pace.backoff(provider_failures - CIRCUIT + 2),
        false => Duration::ZERO,
    };
    // One line for each run of failures, not for each failure.
    let lines = (job.failures == 0).then(|| warning(text.clone(), json!({"phase": phase})));
    Change {
        stage: Some(format!("waiting: {text}")),
        failures: job.failures + 1,
        wait_ms: pace.spread(wait),
        // Said before anything was sent, or about a question: nothing is in doubt.
        intent_over: phase == Phase::Create,
        problem: Some(Problem { code: "HV00N", message: text.clone(), hint }),
        lines: lines.into_iter().collect(),
        provider_wait_ms: Some(circuit.max(asked.unwrap_or_default()).as_millis() as u64),
        provider_failed: true,
        provider_error: Some(text),
        ..next(job.phase)
    }
}
