use super::*;
use crate::providers::protocol::FileView;
use crate::providers::wire::Body;

fn job(dialect: &str) -> JobView {
    let options = [("protocol", "openai"), ("base_url", "https://host/v1/"), ("dialect", dialect)];
    JobView {
        run_key: "r1".into(),
        intent_at: 10_000,
        method: if dialect == "trainer" { Training::Contrastive } else { Training::Sft },
        base_model: "a/b".into(),
        hyperparameters: Map::new(),
        seed: Some(7),
        suffix: None,
        train: FileView { bytes: 100, rows: 10 },
        validation: None,
        server: Server::new(options.map(|(n, v)| (n.to_owned(), v.to_owned()))),
        remote: Value::Null,
        job_id: None,
    }
}

fn ok(body: Value) -> Answer {
    Answer { status: 200, body: body.to_string().into(), ..Answer::default() }
}

fn status(status: u16, body: &str) -> Answer {
    Answer { status, body: body.into(), ..Answer::default() }
}

fn sent(step: Step) -> Request {
    let Step::Send(request) = step else { panic!("nothing to send") };
    request
}

/// Runs `prepare` to its end with the given answers and returns the paths that were asked.
fn upload(protocol: &OpenAi, job: &mut JobView, answers: &[Answer]) -> Vec<String> {
    let mut answers = answers.iter();
    let mut asked = Vec::new();
    while let Step::Send(request) = protocol.prepare(job).unwrap() {
        asked.push(format!("{} {}", request.verb.name(), request.url.trim_start_matches("https://host/v1")));
        job.remote = protocol.prepared(job, answers.next().expect("an answer for each request")).unwrap().remote;
    }
    asked
}

#[test]
fn a_small_file_goes_whole_and_is_waited_for() {
    let mut view = job("openai");
    let file = |status: &str| ok(json!({"id": "file-1", "status": status}));
    let asked = upload(&OPENAI, &mut view, &[file("uploaded"), file("uploaded"), file("processed")]);
    assert_eq!(asked, ["POST /files", "GET /files/file-1", "GET /files/file-1"]);
    let create = OPENAI.create(&view).unwrap();
    assert!(create.once);
    let Body::Json(body) = create.body else { panic!() };
    assert_eq!(
        body,
        json!({
            "model": "a/b", "training_file": "file-1", "seed": 7, "metadata": {"pgft_run": "r1"},
            "method": {"type": "supervised", "supervised": {"hyperparameters": {}}},
        })
    );
}

#[test]
fn a_large_file_goes_in_parts_and_begins_again_once() {
    let protocol = OpenAi { sizes: Sizes { whole: 50, part: 40 } };
    let mut view = job("openai");
    let id = |id: &str| ok(json!({"id": id}));
    let done = ok(json!({"id": "u2", "file": {"id": "file-1", "status": "processed"}}));
    let answers = [id("u1"), id("p"), status(404, "{}"), id("u2"), id("p1"), id("p2"), id("p3"), done];
    let asked = upload(&protocol, &mut view, &answers);
    let u2 = "POST /uploads/u2/parts";
    let u1 = "POST /uploads/u1/parts";
    assert_eq!(asked, ["POST /uploads", u1, u1, "POST /uploads", u2, u2, u2, "POST /uploads/u2/complete"]);
    assert_eq!(files::id(&view, Which::Train), Some("file-1".into()));

    let mut view = job("openai");
    let asked = upload(&protocol, &mut view, &[status(404, ""), ok(json!({"id": "f", "status": "processed"}))]);
    assert_eq!(asked, ["POST /uploads", "POST /files"], "a host without /uploads");
}

#[test]
fn azure_wants_its_own_header_and_mark() {
    let request = sent(OPENAI.prepare(&job("azure")).unwrap());
    assert_eq!(request.auth, crate::providers::wire::Auth::Header("api-key"));
    let Body::Multipart(form) = request.body else { panic!() };
    assert!(form.bom && form.filename == "pgft-r1-train.jsonl");
}

#[test]
fn the_trainer_gets_its_knobs_as_metadata_and_a_key_against_doubles() {
    let mut view = job("trainer");
    view.hyperparameters = json!({"n_epochs": 2, "warmup": 0.1, "loss": "mnrl"}).as_object().cloned().unwrap();
    OPENAI.validate(&view).unwrap();
    view.remote = json!({"train": {"id": "f", "ready": true}});
    let create = OPENAI.create(&view).unwrap();
    assert_eq!(create.headers, [("idempotency-key", "r1".to_owned())]);
    let Body::Json(body) = create.body else { panic!() };
    assert_eq!(body["metadata"], json!({"pgft_run": "r1", "pgft_warmup": "0.1", "pgft_loss": "mnrl"}));
    assert_eq!(body["method"]["supervised"]["hyperparameters"], json!({"n_epochs": 2}));
    assert_eq!(OPENAI.format(&view), Ok("triplet"));
    view.hyperparameters.insert("task".into(), "rerank".into());
    assert_eq!(OPENAI.format(&view), Ok("cohere_rerank"));
}

#[test]
fn what_cannot_work_is_refused_before_it_is_sent() {
    let refused = |change: fn(&mut JobView)| {
        let mut view = job("openai");
        change(&mut view);
        let Err(Fault::Refused(refusal)) = OPENAI.validate(&view) else { panic!("accepted") };
        (refusal.param.unwrap_or_default(), refusal.hint)
    };
    assert_eq!(refused(|j| j.train.rows = 9).0, "dataset");
    assert_eq!(refused(|j| j.train.bytes = 9 << 30).0, "dataset");
    assert!(refused(|j| j.method = Training::Contrastive).1.contains("builtin"));
    let epochs = |value: Value| move |j: &mut JobView| drop(j.hyperparameters.insert("n_epochs".into(), value));
    for bad in [json!(0), json!(51), json!("many"), json!(1.5), Value::Null] {
        let mut view = job("openai");
        epochs(bad)(&mut view);
        assert!(OPENAI.validate(&view).is_err());
    }
    assert!(refused(|j| drop(j.hyperparameters.insert("n_epoch".into(), 1.into()))).1.contains("n_epochs"));
    let suffix = |dialect: &str| {
        let mut view = job(dialect);
        view.suffix = Some(format!("a b-{}", "x".repeat(99)));
        view.remote = json!({"train": {"id": "f", "ready": true}});
        let Body::Json(body) = OPENAI.create(&view).unwrap().body else { panic!() };
        body["suffix"].as_str().map(str::len)
    };
    assert_eq!((suffix("openai"), suffix("azure"), suffix("mantle")), (Some(64), Some(40), None));
}

#[test]
fn a_lost_job_is_found_by_our_key_or_by_its_file() {
    let mut view = job("openai");
    view.remote = json!({"train": {"id": "file-1", "ready": true}});
    let url = OPENAI.find(&view, Some("j9")).unwrap().url;
    assert_eq!(url, "https://host/v1/fine_tuning/jobs?limit=100&metadata%5Bpgft_run%5D=r1&after=j9");
    let page = |created: i64| {
        ok(json!({"has_more": true, "data": [
            {"id": "a", "training_file": "other", "created_at": 10_500},
            {"id": "b", "training_file": "file-1", "created_at": 10_400, "status": "queued"},
            {"id": "c", "metadata": {"pgft_run": "r1"}, "created_at": created}]}))
    };
    let found = OPENAI.found(&view, &page(10_300)).unwrap();
    assert_eq!(found.jobs.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(found.next.as_deref(), Some("c"));
    assert_eq!(OPENAI.found(&view, &page(10_000 - SKEW - 1)).unwrap().next, None, "older than the intent");
}

#[test]
fn create_is_ambiguous_unless_the_answer_leaves_no_doubt() {
    let view = job("openai");
    let of = |answer: Answer| OPENAI.created(&view, &answer);
    assert_eq!(of(ok(json!({"id": "ftjob-1"}))), Ok("ftjob-1".into()));
    for doubt in [ok(json!({"object": "job"})), status(500, ""), status(200, "{\"id\":"), status(504, "<html>")] {
        assert!(matches!(of(doubt), Err(Fault::Ambiguous { .. })));
    }
    let closed = of(status(403, r#"{"error":{"message":"You do not have permission","code":null}}"#));
    assert!(matches!(closed, Err(Fault::Refused(refusal)) if refusal.hint.contains("2026-05-07")));
    assert!(matches!(of(status(401, "{}")), Err(Fault::Auth(_))));
}

#[test]
fn statuses_are_text_and_unknown_ones_keep_polling() {
    let mut view = job("azure");
    view.job_id = Some("j/1".into());
    assert_eq!(OPENAI.poll(&view).unwrap().url, "https://host/v1/fine_tuning/jobs/j%2F1");
    let of = |body: Value| OPENAI.polled(&view, &ok(body)).unwrap();
    let good = of(json!({"status": "succeeded", "fine_tuned_model": "ft:x", "trained_tokens": 5, "error": null}));
    assert_eq!((good.state, good.model.as_deref()), (Some(State::Succeeded), Some("ft:x")));
    assert_eq!((good.serving, good.trained_tokens), (Serving::NeedsDeploy, Some(5)));
    let odd = of(json!({"status": "resting"}));
    assert_eq!((odd.state, odd.raw_status.as_str()), (None, "resting"));
    let bad = of(json!({"status": "failed", "error": {"code": "training_not_available", "message": "no"}}));
    assert!(bad.error.is_some_and(|error| error.hint.contains("Azure")));
    assert_eq!(OPENAI.polled(&view, &status(404, "{}")), Err(Fault::Gone));
    assert!(matches!(OPENAI.polled(&view, &ok(json!({}))), Err(Fault::NotProtocol { .. })));
    assert_eq!(OPENAI.cancelled(&view, &status(400, r#"{"error":{"message":"done"}}"#)), Ok(()));
}

#[test]
fn events_are_read_back_to_the_known_one() {
    let view = job("openai");
    let page = ok(json!({"has_more": true, "data": [
        {"id": "e3", "created_at": 3, "level": "warn", "message": "m", "data": {"step": 4, "train_loss": 0.5}},
        {"id": "e2", "created_at": 2, "level": "info", "message": "m"}]}));
    let new = OPENAI.read_events(&view, None, &page).unwrap();
    assert_eq!((new.events[0].level.as_str(), new.events[0].step, new.events[0].loss), ("warning", Some(4), Some(0.5)));
    assert_eq!(new.next.as_deref(), Some("e2"));
    assert_eq!(OPENAI.read_events(&view, Some("e2"), &page).unwrap().next, None);
}

#[test]
fn files_are_deleted_by_id_and_by_name() {
    let mut view = job("openai");
    view.remote = json!({"train": {"id": "file-1", "ready": true}});
    let listed = ok(json!({"has_more": false, "data": [
        {"id": "file-9", "filename": "pgft-r1-train.jsonl"}, {"id": "file-8", "filename": "pgft-other-train.jsonl"}]}));
    let answers = [listed, status(404, "{}"), ok(json!({"deleted": true}))];
    let mut asked = Vec::new();
    for answer in &answers {
        let request = sent(OPENAI.cleanup(&view).unwrap());
        asked.push(format!("{} {}", request.verb.name(), request.url.trim_start_matches("https://host/v1")));
        view.remote = OPENAI.cleaned(&view, answer).unwrap().remote;
    }
    assert_eq!(asked, ["GET /files?purpose=fine-tune&limit=1000", "DELETE /files/file-1", "DELETE /files/file-9"]);
    assert_eq!(OPENAI.cleanup(&view), Ok(Step::Done));
}

#[test]
fn shutdown_dates_are_read() {
    let view = job("openai");
    assert_eq!(OPENAI.base_model(&view).unwrap().url, "https://host/v1/models/a%2Fb");
    let of = |body: Value| OPENAI.lifecycle(&view, &ok(body)).unwrap().shutdown;
    assert_eq!(of(json!({"id": "x", "shutdown_date": "2027-01-14"})), Some("2027-01-14".into()));
    assert_eq!(of(json!({"id": "x", "shutdown_date": null})), None);
}
