//! Protocol `bedrock` against moto, Amazon by others: S3 and the creation of jobs with signatures checked.
//!
//! moto refuses even its own client's signed GETs for Bedrock, so these are asked where signatures are not checked.

use serde_json::Value;

use super::driver::*;
use crate::providers::bedrock::Bedrock;
use crate::providers::fault::Fault;
use crate::providers::protocol::{JobView, Protocol};
use crate::providers::state::State;
use crate::providers::wire::{Auth, Request, Verb};

/// The smallest part that S3 takes.
const PART: u64 = 5 << 20;

fn moto(checked: bool) -> Option<Double> {
    let folder = tool("moto")?.display().to_string();
    let code = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])";
    let mut environment = vec![("PYTHONPATH", folder.as_str())];
    if checked {
        // So many requests pass before keys are asked for: those that make the first key.
        environment.push(("INITIAL_NO_AUTH_ACTION_COUNT", "3"));
    }
    Some(start("python3", &["-c", code, "PORT"], &environment))
}

/// A user with all rights; its key as our options take it.
fn key(moto: &Double) -> String {
    let iam = |form: &[(&str, &str)]| {
        let client = reqwest::blocking::Client::new();
        let credential = "AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/iam/aws4_request";
        let body = form.iter().map(|(name, value)| format!("{name}={}", crate::providers::wire::encode(value)));
        let request = client.post(&moto.url).header("authorization", credential);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.body(body.collect::<Vec<_>>().join("&")).send().unwrap().text().unwrap()
    };
    let version = ("Version", "2010-05-08");
    iam(&[("Action", "CreateUser"), version, ("UserName", "tuner")]);
    let made = iam(&[("Action", "CreateAccessKey"), version, ("UserName", "tuner")]);
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
    let name = ("PolicyName", "all");
    iam(&[("Action", "PutUserPolicy"), version, ("UserName", "tuner"), name, ("PolicyDocument", policy)]);
    let tag = |name: &str| made.split(&format!("<{name}>")).nth(1).unwrap().split('<').next().unwrap().to_owned();
    format!("{}:{}", tag("AccessKeyId"), tag("SecretAccessKey"))
}

fn bedrock_job(moto: &Double, sender: &Sender, run: &str) -> JobView {
    let options = [
        ("protocol", "bedrock"),
        ("base_url", moto.url.as_str()),
        ("region", "us-west-2"),
        ("role_arn", "arn:aws:iam::123456789012:role/tune"),
        ("s3_uri", "s3://my-bucket/tuning set"),
        ("s3_url", moto.url.as_str()),
    ];
    let base_model = "amazon.nova-lite-v1:0".into();
    JobView { base_model, ..job(run, &options, sender) }
}

fn bucket(moto: &Double, sender: &Sender) {
    let auth = Auth::SigV4 { service: "s3", region: "us-west-2".into() };
    let place =
        "<CreateBucketConfiguration><LocationConstraint>us-west-2</LocationConstraint></CreateBucketConfiguration>";
    let body = crate::providers::wire::Body::Text { content_type: "application/xml", text: place.into() };
    let answer = sender.ask(&Request::new(Verb::Put, format!("{}/my-bucket", moto.url), auth).body(body));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

fn object(moto: &Double, sender: &Sender, run: &str) -> (u16, Vec<u8>) {
    let auth = Auth::SigV4 { service: "s3", region: "us-west-2".into() };
    let url = format!("{}/my-bucket/tuning%20set/pgft-{run}-train.jsonl", moto.url);
    let answer = sender.ask(&Request::new(Verb::Get, url, auth));
    (answer.status, answer.body)
}

#[test]
fn amazon_checks_our_signatures() {
    let Some(moto) = moto(true) else { return };
    let bedrock = Bedrock { part: PART };
    let key = key(&moto);
    let sender = Sender::new(&key, rows(100_000));
    assert!(sender.file.len() as u64 > PART, "goes in two parts");
    bucket(&moto, &sender);

    let mut large = bedrock_job(&moto, &sender, "run-1");
    assert_eq!(sender.upload(&bedrock, &mut large).unwrap().len(), 4, "open, two parts, complete");
    assert!(object(&moto, &sender, "run-1") == (200, sender.file.clone()), "every byte arrived");

    let small = Sender { file: rows(50).into(), ..sender.with(&[]) };
    let mut job = bedrock_job(&moto, &small, "run-2");
    job.hyperparameters.insert("epochCount".into(), 2.into());
    assert_eq!(small.upload(&bedrock, &mut job).unwrap().len(), 1);
    assert!(object(&moto, &small, "run-2") == (200, small.file.clone()));

    let create = bedrock.create(&job).unwrap();
    assert_eq!(bedrock.created(&job, &small.ask(&create)), Ok("pgft-run-2".into()));
    let again = bedrock.created(&job, &small.ask(&create));
    assert!(matches!(again, Err(Fault::Ambiguous { .. })), "the name is taken by ourselves: {again:?}");

    let forger = Sender::new(&format!("{}:wrong", key.split(':').next().unwrap()), small.file.clone());
    let stranger = Sender::new("AKIANOBODYNOBODYNOBO:wrong", small.file.clone());
    for bad in [forger, stranger] {
        let mut job = bedrock_job(&moto, &bad, "run-3");
        assert!(matches!(bad.upload(&bedrock, &mut job), Err(Fault::Auth(_))));
        let told = bedrock.created(&job, &bad.ask(&bedrock.create(&job).unwrap()));
        assert!(matches!(told, Err(Fault::Auth(_) | Fault::Refused(_))), "{told:?}");
    }

    small.tidy_up(&bedrock, &mut job).unwrap();
    assert_eq!(object(&moto, &small, "run-2").0, 404);
}

#[test]
fn a_job_at_amazon_is_found_polled_and_stopped_by_its_name() {
    let Some(moto) = moto(false) else { return };
    let bedrock = protocol("bedrock");
    let sender = Sender::new("AKIDEXAMPLE:secret", rows(50));
    bucket(&moto, &sender);
    let mut job = bedrock_job(&moto, &sender, "run-1");
    bedrock.validate(&job).unwrap();
    let find = |job: &JobView| bedrock.found(job, &sender.ask(&bedrock.find(job, None).unwrap())).unwrap().jobs;
    assert!(find(&job).is_empty());
    sender.upload(bedrock, &mut job).unwrap();
    let name = bedrock.created(&job, &sender.ask(&bedrock.create(&job).unwrap())).unwrap();
    assert_eq!(find(&job).iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), [name.as_str()]);

    job.job_id = Some(name);
    let poll = |job: &JobView| bedrock.polled(job, &sender.ask(&bedrock.poll(job).unwrap())).unwrap();
    let running = poll(&job);
    assert_eq!((running.state, running.error), (Some(State::Running), None), "no error before the end");
    assert_eq!(bedrock.cancelled(&job, &sender.ask(&bedrock.cancel(&job).unwrap())), Ok(()));
    assert_eq!(poll(&job).state, Some(State::Cancelled));
    let gone = JobView { job_id: Some("pgft-none".into()), ..job.clone() };
    let answer = sender.ask(&bedrock.poll(&gone).unwrap());
    assert!(bedrock.polled(&gone, &answer).is_err());
    sender.tidy_up(bedrock, &mut job).unwrap();
    assert_eq!(job.remote["clean"], Value::from(1));
}
