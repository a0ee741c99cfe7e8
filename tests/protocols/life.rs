//! Whole lives of jobs at aimock, a stateful OpenAI by others; its journal says what was received.

use serde_json::Value;

use super::driver::*;
use crate::providers::fault::Fault;
use crate::providers::protocol::{JobView, Protocol};
use crate::providers::state::{Serving, State};
use crate::providers::{chat, embeddings};

struct Aimock {
    double: Double,
    sender: Sender,
}

impl Aimock {
    fn start() -> Option<Self> {
        let folder = tool("aimock")?;
        let program = folder.join("node_modules/.bin/llmock").display().to_string();
        let fixtures = folder.join("fixtures").display().to_string();
        let double = start(
            "node",
            &[&program, "-h", "127.0.0.1", "-p", "PORT", "-f", &fixtures, "--log-level", "silent"],
            &[("AIMOCK_API_KEYS", "sk-good")],
        );
        Some(Self { double, sender: Sender::new("sk-good", rows(20)) })
    }

    fn job(&self, run: &str) -> JobView {
        let url = format!("{}/v1", self.double.url);
        job(run, &[("protocol", "openai"), ("base_url", &url), ("dialect", "openai")], &self.sender)
    }

    fn created(&self, run: &str) -> JobView {
        let (openai, mut job) = (protocol("openai"), self.job(run));
        self.sender.upload(openai, &mut job).unwrap();
        job.job_id = Some(openai.created(&job, &self.sender.ask(&openai.create(&job).unwrap())).unwrap());
        job
    }

    /// Requests to create a job that reached the server's own code, by run key.
    fn creates(&self, run: &str) -> usize {
        let url = format!("{}/__aimock/journal", self.double.url);
        let text = reqwest::blocking::Client::new().get(url).bearer_auth("sk-good").send().unwrap().text().unwrap();
        let journal: Vec<Value> = serde_json::from_str(&text).unwrap();
        let is_create = |entry: &&Value| {
            entry["method"] == "POST"
                && entry["path"] == "/v1/fine_tuning/jobs"
                && entry["response"]["chaosAction"].is_null()
                && entry["body"]["metadata"]["pgft_run"] == run
        };
        journal.iter().filter(is_create).count()
    }

    /// All jobs of the run that `find` sees, over all pages.
    fn found(&self, job: &JobView) -> (Vec<String>, usize) {
        let (openai, mut ids, mut page, mut pages) = (protocol("openai"), Vec::new(), None::<String>, 0);
        loop {
            let request = openai.find(job, page.as_deref()).unwrap();
            let found = openai.found(job, &self.sender.ask(&request)).unwrap();
            ids.extend(found.jobs.into_iter().map(|job| job.id));
            pages += 1;
            match found.next {
                Some(next) => page = Some(next),
                None => return (ids, pages),
            }
        }
    }
}

#[test]
fn a_job_lives_from_upload_to_model_and_is_tidied_up() {
    let Some(aimock) = Aimock::start() else { return };
    let openai = protocol("openai");
    let mut job = aimock.created("run-1");
    assert_eq!(aimock.creates("run-1"), 1);

    let mut state = State::Uploading;
    let last = loop {
        let poll = openai.polled(&job, &aimock.sender.ask(&openai.poll(&job).unwrap())).unwrap();
        let next = state.then(poll.state);
        assert!(next >= state || (state, next) == (State::Queued, State::Validating), "{state:?} to {next:?}");
        state = next;
        if state.ended() {
            break poll;
        }
    };
    assert_eq!((state, last.serving), (State::Succeeded, Serving::Ready));
    assert!(last.model.is_some_and(|model| model.starts_with("ft:gpt-4o-mini:")) && last.trained_tokens.is_some());

    let answer = aimock.sender.ask(&openai.events(&job, None).unwrap());
    let events = openai.read_events(&job, None, &answer).unwrap().events;
    assert!(events.len() >= 2 && events.iter().all(|event| event.at.is_some()), "{events:?}");
    let newest = events[0].id.clone();
    assert_eq!(openai.read_events(&job, Some(&newest), &answer).unwrap().next, None);

    let cancel = aimock.sender.ask(&openai.cancel(&job).unwrap());
    assert_eq!(cancel.status, 400);
    assert_eq!(openai.cancelled(&job, &cancel), Ok(()), "cancelling what has ended is a no-op");
    aimock.sender.tidy_up(openai, &mut job).unwrap();
    let mut again = JobView { remote: Value::Null, ..job };
    let asked = aimock.sender.tidy_up(openai, &mut again).unwrap();
    assert_eq!(asked.len(), 1, "the list shows no file of ours any more");
}

#[test]
fn a_running_job_is_cancelled_and_a_wrong_key_is_told() {
    let Some(aimock) = Aimock::start() else { return };
    let (openai, job) = (protocol("openai"), aimock.created("run-1"));
    assert_eq!(openai.cancelled(&job, &aimock.sender.ask(&openai.cancel(&job).unwrap())), Ok(()));
    let poll = openai.polled(&job, &aimock.sender.ask(&openai.poll(&job).unwrap())).unwrap();
    assert_eq!(poll.state, Some(State::Cancelled));

    let stranger = Sender::new("sk-wrong", rows(20));
    let answer = stranger.ask(&openai.poll(&job).unwrap());
    assert!(matches!(openai.polled(&job, &answer), Err(Fault::Auth(_))), "{}", answer.status);
    let unknown = JobView { job_id: Some("ftjob-none".into()), ..job };
    assert_eq!(openai.polled(&unknown, &aimock.sender.ask(&openai.poll(&unknown).unwrap())), Err(Fault::Gone));
}

#[test]
fn a_chat_is_answered_and_an_unknown_key_told() {
    let Some(aimock) = Aimock::start() else { return };
    let server = aimock.job("run-1").server;
    let request = chat::request(&server, "gpt-4o-mini", "Answer with one word.", "hi").unwrap();
    let reply = chat::read(&aimock.sender.ask(&request)).unwrap();
    assert_eq!(reply.text, "yo", "as scripts/doubles.sh wrote it");
    assert!(reply.prompt_tokens.is_some() && reply.completion_tokens.is_some(), "{reply:?}");
    let throttled = aimock.sender.with(&[("x-aimock-chaos-ratelimit", "1")]).ask(&request);
    assert!(matches!(chat::read(&throttled), Err(Fault::Throttled { .. })), "{}", throttled.status);
    let stranger = Sender::new("sk-wrong", rows(20)).ask(&request);
    assert!(matches!(chat::read(&stranger), Err(Fault::Auth(_))), "{}", stranger.status);

    let texts = ["a ship".to_owned(), "a tree".to_owned()];
    let request = embeddings::request(&server, "text-embedding-3-small", &texts).unwrap();
    let embedded = embeddings::read(&aimock.sender.ask(&request), texts.len()).unwrap();
    assert_eq!(embedded.vectors.len(), 2);
    assert_ne!(embedded.vectors[0], embedded.vectors[1]);
}

#[test]
fn a_lost_job_is_found_on_the_second_page() {
    let Some(aimock) = Aimock::start() else { return };
    let mine = aimock.created("mine");
    let openai = protocol("openai");
    let mut other = aimock.job("other");
    other.remote = mine.remember("train", serde_json::json!({"id": "file-other", "ready": true}));
    for _ in 0..101 {
        openai.created(&other, &aimock.sender.ask(&openai.create(&other).unwrap())).unwrap();
    }
    let (ids, pages) = aimock.found(&mine);
    assert_eq!(ids, [mine.job_id.clone().unwrap()], "the host ignores our filter: compared here");
    assert_eq!(pages, 2);
}

#[test]
fn whatever_goes_wrong_a_job_is_created_once() {
    let Some(aimock) = Aimock::start() else { return };
    let openai = protocol("openai");
    for chaos in ["ratelimit", "malformed", "drop", "disconnect"] {
        let header = match chaos {
            "ratelimit" => "x-aimock-chaos-ratelimit",
            "malformed" => "x-aimock-chaos-malformed",
            "drop" => "x-aimock-chaos-drop",
            _ => "x-aimock-chaos-disconnect",
        };
        let broken = aimock.sender.with(&[(header, "1")]);
        let mut job = aimock.job(chaos);
        aimock.sender.upload(openai, &mut job).unwrap();
        let request = openai.create(&job).unwrap();
        assert!(request.once);
        let told = match broken.send(&request) {
            Some(answer) => openai.created(&job, &answer).unwrap_err(),
            // What the executor makes of a connection that broke after the request was sent.
            None => Fault::Ambiguous { message: "disconnected".into() },
        };
        match (chaos, &told) {
            ("ratelimit", Fault::Throttled { after }) => assert_eq!(after.map(|wait| wait.as_secs()), Some(1)),
            ("malformed" | "drop" | "disconnect", Fault::Ambiguous { .. }) => {}
            _ => panic!("{chaos}: {told:?}"),
        }
        assert!(aimock.found(&job).0.is_empty(), "{chaos}: nothing was created, so nothing is found");
        let id = openai.created(&job, &aimock.sender.ask(&request)).unwrap();
        assert_eq!(aimock.found(&job).0, [id], "{chaos}");
        assert_eq!(aimock.creates(chaos), 1, "{chaos}");

        // Questions are asked again: none is taken for an end of the job.
        job.job_id = aimock.found(&job).0.pop();
        let poll = broken.send(&openai.poll(&job).unwrap()).map(|answer| openai.polled(&job, &answer));
        let harmless =
            matches!(poll, None | Some(Err(Fault::Throttled { .. } | Fault::Retry { .. } | Fault::NotProtocol { .. })));
        assert!(harmless, "{chaos}: {poll:?}");
    }
}
