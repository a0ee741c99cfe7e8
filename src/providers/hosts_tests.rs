//! Together and Fireworks on answers as their SDKs describe them, and all readers on answers that nobody describes.

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::{json, Map, Value};

use super::by_name;
use super::fault::Fault;
use super::protocol::{FileView, JobView, Protocol, Server, Step, Training};
use super::state::{Serving, State};
use super::wire::{Answer, Body, Request, Verb};

const PROTOCOLS: [&str; 5] = ["openai", "together", "fireworks", "bedrock", "cohere"];

fn job(protocol: &str) -> JobView {
    let options = [
        ("protocol", protocol),
        ("base_url", "https://host/v1"),
        ("account", "me"),
        ("region", "us-west-2"),
        ("s3_uri", "s3://bucket/x"),
        ("role_arn", "arn:aws:iam::1:role/r"),
    ];
    JobView {
        run_key: "0b9f4c1e-aaaa-4bbb-8ccc-123456789012".into(),
        intent_at: 0,
        method: if protocol == "cohere" { Training::Contrastive } else { Training::Sft },
        base_model: "org/model".into(),
        hyperparameters: Map::new(),
        seed: Some(1),
        suffix: Some("my-set".into()),
        train: FileView { bytes: 1000, rows: 500 },
        validation: None,
        server: Server::new(options.map(|(n, v)| (n.to_owned(), v.to_owned()))),
        remote: Value::Null,
        job_id: Some("job-1".into()),
    }
}

fn ok(body: Value) -> Answer {
    Answer { status: 200, body: body.to_string().into(), at: 1000, ..Answer::default() }
}

fn status(status: u16, body: Value) -> Answer {
    Answer { status, ..ok(body) }
}

/// Runs the upload with the given answers; verb and path of each request.
fn upload(protocol: &dyn Protocol, job: &mut JobView, answers: &[Answer]) -> Vec<String> {
    let mut asked = Vec::new();
    let mut answers = answers.iter();
    while let Step::Send(request) = protocol.prepare(job).unwrap() {
        asked.push(format!("{} {}", request.verb.name(), request.url.trim_start_matches("https://host/v1")));
        job.remote = protocol.prepared(job, answers.next().unwrap()).unwrap().remote;
    }
    asked
}

fn body(request: Request) -> Value {
    let Body::Json(body) = request.body else { panic!() };
    body
}

#[test]
fn together_uploads_asks_the_price_and_creates() {
    let (together, mut view) = (by_name("together").unwrap(), job("together"));
    together.validate(&view).unwrap();
    let file = |ready: bool| ok(json!({"id": "file-1", "Processed": ready}));
    let asked = upload(together, &mut view, &[file(false), file(false), file(true)]);
    assert_eq!(asked, ["POST /files/upload", "GET /files/file-1", "GET /files/file-1"]);

    assert!(together.estimate(&view).unwrap().url.ends_with("/fine-tunes/estimate-price"));
    let price =
        ok(json!({"estimated_total_price": 4, "estimated_train_token_count": 50_319, "allowed_to_proceed": true}));
    let price = together.estimated(&view, &price).unwrap();
    assert_eq!((price.usd, price.tokens, price.blocked), (Some(4.0), Some(50_319), false), "dollars");
    let untold = ok(json!({"estimation_available": false, "allowed_to_proceed": true}));
    assert_eq!(together.estimated(&view, &untold).unwrap().usd, None);
    assert!(together.estimated(&view, &ok(json!({}))).is_err());

    view.hyperparameters = json!({"n_epochs": 2, "lora_r": 16}).as_object().cloned().unwrap();
    let create = together.create(&view).unwrap();
    assert!(create.once);
    let body = body(create);
    assert_eq!(
        (&body["training_file"], &body["n_epochs"], &body["batch_size"]),
        (&"file-1".into(), &2.into(), &"max".into())
    );
    assert_eq!(body["training_type"], json!({"type": "Lora", "lora_r": 16, "lora_alpha": 32}));
    assert!(body.get("lora_r").is_none() && body["suffix"].as_str().is_some_and(|suffix| suffix.len() <= 40));
}

#[test]
fn together_bills_in_billionths_and_is_found_by_its_file() {
    let (together, mut view) = (by_name("together").unwrap(), job("together"));
    view.remote = json!({"train": {"id": "file-1", "ready": true}});
    let done = json!({"status": "completed", "model_output_name": "me/m", "token_count": 50_319, "total_price": 4_000_000_000_i64});
    let poll = together.polled(&view, &ok(done)).unwrap();
    assert_eq!((poll.state, poll.serving), (Some(State::Succeeded), Serving::NeedsDeploy));
    assert_eq!((poll.billed_usd, poll.trained_tokens), (Some(4.0), Some(50_319)));
    let running = json!({"status": "running", "total_price": 0, "progress": {"seconds_remaining": 60}});
    let poll = together.polled(&view, &ok(running)).unwrap();
    assert_eq!((poll.billed_usd, poll.eta), (None, Some(1060)));
    let list = json!({"data": [{"id": "a", "training_file": "other"}, {"id": "b", "training_file": "file-1"}]});
    assert_eq!(together.found(&view, &ok(list)).unwrap().jobs[0].id, "b");
}

#[test]
fn fireworks_names_everything_itself() {
    let (fireworks, mut view) = (by_name("fireworks").unwrap(), job("fireworks"));
    fireworks.validate(&view).unwrap();
    let (taken, uploading, ready) =
        (status(409, json!({"message": "exists"})), ok(json!({"state": "UPLOADING"})), ok(json!({"state": "READY"})));
    let asked = upload(fireworks, &mut view, &[taken, ok(json!({})), uploading, ready]);
    let name = "/accounts/me/datasets/pgft-0b9f4c1e-aaaa-4bbb-8ccc-123456789012-t";
    let [upload, get] = [format!("POST {name}:upload"), format!("GET {name}")];
    assert_eq!(asked, ["POST /accounts/me/datasets", &upload, &get, &get]);

    let create = fireworks.create(&view).unwrap();
    assert!(create.url.ends_with("?supervisedFineTuningJobId=pgft-0b9f4c1e-aaaa-4bbb-8ccc-123456789012"));
    let model = body(create)["outputModel"].as_str().unwrap().to_owned();
    assert!(model.rsplit('/').next().is_some_and(|id| id.len() <= 63 && id.starts_with("my-set-")), "{model}");
    let taken = fireworks.created(&view, &status(409, json!({"message": "exists"})));
    assert!(matches!(taken, Err(Fault::Ambiguous { .. })), "perhaps by ourselves");
    assert_eq!(fireworks.found(&view, &status(404, json!({}))).unwrap().jobs, []);

    view.method = Training::Dpo;
    view.hyperparameters = json!({"epochs": 2}).as_object().cloned().unwrap();
    let dpo = fireworks.create(&view).unwrap();
    assert!(dpo.url.contains("/dpoJobs?dpoJobId="));
    assert_eq!(body(dpo)["trainingConfig"]["epochs"], 2);
    view.hyperparameters.insert("earlyStop".into(), true.into());
    assert!(fireworks.validate(&view).is_err());
}

#[test]
fn a_key_is_bound_to_every_place_that_it_opens() {
    let origins = |options: &[(&str, &str)]| {
        Server::new(options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))).origins()
    };
    assert_eq!(
        origins(&[("protocol", "openai"), ("base_url", "https://API.example.com:443/v1")]),
        "https://api.example.com"
    );
    let amazon = [("protocol", "bedrock"), ("base_url", "https://b.example"), ("region", "us-west-2")];
    assert_eq!(origins(&amazon), "https://b.example https://s3.us-west-2.amazonaws.com");
    let own = [amazon.as_slice(), &[("s3_url", "http://127.0.0.1:9000")]].concat();
    assert_eq!(origins(&own), "https://b.example http://127.0.0.1:9000");
}

#[test]
fn validation_files_go_where_each_host_takes_them() {
    let with = |protocol: &str| JobView { validation: Some(FileView { bytes: 10, rows: 5 }), ..job(protocol) };
    let (fireworks, mut view) = (by_name("fireworks").unwrap(), with("fireworks"));
    let ready = || ok(json!({"state": "READY"}));
    let asked =
        upload(fireworks, &mut view, &[ok(json!({})), ok(json!({})), ready(), ok(json!({})), ok(json!({})), ready()]);
    assert!(asked[4].ends_with("-v:upload"), "{asked:?}");
    let evaluation = body(fireworks.create(&view).unwrap())["evaluationDataset"].clone();
    assert!(evaluation.as_str().is_some_and(|name| name.ends_with("-v")), "{evaluation}");
    assert!(fireworks.takes_validation(&view));
    assert!(!fireworks.takes_validation(&JobView { method: Training::Dpo, ..view }));

    let (together, mut view) = (by_name("together").unwrap(), with("together"));
    let Step::Send(first) = together.prepare(&view).unwrap() else { panic!() };
    view.remote = together.prepared(&view, &ok(json!({"id": "t", "Processed": true}))).unwrap().remote;
    let Step::Send(second) = together.prepare(&view).unwrap() else { panic!() };
    let purpose = |request: Request| match request.body {
        Body::Multipart(form) => form.fields[0].1.clone(),
        _ => panic!(),
    };
    assert_eq!((purpose(first), purpose(second)), ("fine-tune".to_owned(), "eval".to_owned()));
    view.remote = together.prepared(&view, &ok(json!({"id": "v", "Processed": true}))).unwrap().remote;
    let made = body(together.create(&view).unwrap());
    assert_eq!((&made["training_file"], &made["validation_file"]), (&"t".into(), &"v".into()));

    let bedrock = by_name("bedrock").unwrap();
    let made = body(bedrock.create(&with("bedrock")).unwrap());
    assert!(made["validationDataConfig"]["validators"][0]["s3Uri"]
        .as_str()
        .is_some_and(|uri| uri.contains("validation")));
    assert_eq!(bedrock.caps(&view.server).validation_share, 0.0, "not every model takes one");
    assert!(!by_name("cohere").unwrap().takes_validation(&with("cohere")));
    let mantle = Server::new([("dialect".to_owned(), "mantle".to_owned())]);
    assert_eq!(by_name("openai").unwrap().caps(&mantle).max_validation_rows, 0);
}

#[test]
fn fireworks_prices_supervised_jobs_before_they_start() {
    let (fireworks, mut view) = (by_name("fireworks").unwrap(), job("fireworks"));
    let request = fireworks.estimate(&view).unwrap();
    assert!(request.url.ends_with("/accounts/me/supervisedFineTuningJobs:estimateCost") && !request.once);
    assert_eq!(body(request)["baseModel"], "org/model", "the job as it would be created");
    let price = |body: Value| fireworks.estimated(&view, &ok(body)).unwrap().usd;
    assert_eq!(
        price(json!({"estimatedCost": {"currencyCode": "USD", "units": "2", "nanos": 250_000_000}})),
        Some(2.25)
    );
    assert_eq!(price(json!({"estimatedCost": {"currencyCode": "EUR", "units": "2"}})), None);
    assert_eq!(price(json!({})), None);
    view.method = Training::Dpo;
    assert_eq!(fireworks.estimate(&view), None);
}

#[test]
fn fireworks_tells_states_costs_and_has_no_cancel() {
    let (fireworks, view) = (by_name("fireworks").unwrap(), job("fireworks"));
    let poll = |body: Value| fireworks.polled(&view, &ok(body)).unwrap();
    let done = poll(json!({"state": "JOB_STATE_COMPLETED", "outputModel": "accounts/me/models/m",
        "estimatedCost": {"currencyCode": "USD", "units": "1", "nanos": 500_000_000}}));
    assert_eq!((done.state, done.billed_usd), (Some(State::Succeeded), Some(1.5)));
    let running = poll(json!({"state": "JOB_STATE_RUNNING", "jobProgress": {"percent": 40}}));
    assert_eq!((running.state, running.progress, running.model), (Some(State::Running), Some(0.4), None));
    assert_eq!(poll(json!({"state": "JOB_STATE_DANCING"})).state, None);
    assert_eq!(fireworks.cancel(&view).unwrap().verb, Verb::Delete);
}

/// Calls every reader; none may panic, whatever the answer.
fn read_all(protocol: &dyn Protocol, job: &JobView, answer: &Answer) {
    let _ = protocol.prepared(job, answer);
    let _ = protocol.created(job, answer);
    let _ = protocol.found(job, answer);
    let _ = protocol.polled(job, answer);
    let _ = protocol.cancelled(job, answer);
    let _ = protocol.cleaned(job, answer);
    let _ = protocol.read_events(job, Some("e"), answer);
    let _ = protocol.read_checkpoints(job, answer);
    let _ = protocol.estimated(job, answer);
    let _ = protocol.lifecycle(job, answer);
    let _ = protocol.read_models(answer);
}

/// Calls every maker of requests: what a strange answer left in the memory may not panic either.
fn ask_all(protocol: &dyn Protocol, job: &JobView) {
    let _ = protocol.format(job);
    let _ = protocol.validate(job);
    let _ = protocol.prepare(job);
    let _ = protocol.create(job);
    let _ = protocol.find(job, Some("p"));
    let _ = protocol.poll(job);
    let _ = protocol.cancel(job);
    let _ = protocol.cleanup(job);
    let _ = protocol.estimate(job);
    let _ = protocol.base_model(job);
}

fn strange(rng: &mut Xoshiro256PlusPlus, depth: u32) -> Value {
    const NAMES: [&str; 24] = [
        "id",
        "data",
        "status",
        "state",
        "error",
        "message",
        "code",
        "created_at",
        "has_more",
        "name",
        "train",
        "clean",
        "parts",
        "upload",
        "ids",
        "checks",
        "ready",
        "listed",
        "progress",
        "estimatedCost",
        "events",
        "finetuned_model",
        "total_price",
        "metadata",
    ];
    match rng.random_range(0..if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => rng.random::<bool>().into(),
        2 => rng.random::<i64>().into(),
        3 => json!(f64::from_bits(rng.random::<u64>())),
        4 => NAMES[rng.random_range(0..NAMES.len())].into(),
        5 => ["", "\u{0}\u{202e}é", "2026-13-45T99:99:99Z", "-1e400", "JOB_STATE_", "STATUS_READY"]
            [rng.random_range(0..6)]
        .into(),
        6 => (0..rng.random_range(0..4)).map(|_| strange(rng, depth - 1)).collect(),
        _ => {
            let fields = 0..rng.random_range(0..8);
            let field = |_| (NAMES[rng.random_range(0..NAMES.len())].to_owned(), strange(rng, depth - 1));
            Value::Object(fields.map(field).collect())
        }
    }
}

#[test]
fn no_answer_and_no_memory_makes_a_protocol_panic() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    for round in 0..4000_usize {
        let name = PROTOCOLS[round % PROTOCOLS.len()];
        let (protocol, mut view) = (by_name(name).unwrap(), job(name));
        let mut answer = ok(strange(&mut rng, 4));
        answer.status = [200, 201, 204, 302, 400, 401, 404, 409, 429, 500, 0, 999][rng.random_range(0..12)];
        answer.at = [0, i64::MAX, i64::MIN, 1_795_000_000][rng.random_range(0..4)];
        answer.headers = vec![("retry-after".into(), ["1", "-1", "1e999", "soon"][rng.random_range(0..4)].into())];
        if round % 3 == 0 {
            // Cut anywhere, also within a character; or no text at all.
            let bytes: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
            let cut = rng.random_range(0..=answer.body.len());
            answer.body.truncate(cut);
            answer.body.extend(bytes);
        }
        read_all(protocol, &view, &answer);
        view.remote = strange(&mut rng, 4);
        view.job_id = None;
        read_all(protocol, &view, &answer);
        ask_all(protocol, &view);
        if let Ok(after) = protocol.prepared(&view, &answer) {
            view.remote = after.remote;
            ask_all(protocol, &view);
        }
    }
}
