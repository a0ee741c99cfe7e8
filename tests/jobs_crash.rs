//! The crash matrix: every step of a job at a provider × every way to die × every way for the provider to break off.
//! After each cell: one job at the provider, ended here, nothing left on disk or there, the key nowhere.

mod common;

use common::*;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Before a request leaves, after it was answered but before that is written down, and after that.
const STEPS: [&str; 13] = [
    "due",
    "prepare claimed",
    "file written",
    "upload claimed",
    "upload answered",
    "upload settled",
    "create claimed",
    "create answered",
    "create settled",
    "poll claimed",
    "poll answered",
    "events answered",
    "clean answered",
];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Death {
    Kill,
    Terminate,
    Immediate,
    Fast,
}

struct Cell<'a> {
    server: &'a Server,
    fake: &'a FakeProvider,
    db: &'a Database<'a>,
}

fn server() -> Server {
    Server::private(&[
        ("shared_preload_libraries", "pg_finetune"),
        ("synchronous_commit", "on"),
        ("pg_finetune.poll_interval", "40ms"),
        ("pg_finetune.http_timeout", "2s"),
    ])
}

impl Cell<'_> {
    fn connect(&self) -> Client {
        let mut client = self.db.connect();
        execute(&mut client, "SET search_path = pgft, public");
        client
    }

    fn submit(&self, client: &mut Client, seed: usize) -> String {
        let sql = format!("SELECT fine_tune('listeners', provider => 'host', base_model => 'small', method => 'sft', seed => {seed})::text");
        value(client, &sql)
    }

    /// I1 to I7 of a job that something happened to.
    fn holds(&self, job: &str, what: &str) {
        let mut client = self.connect();
        assert_eq!(wait_for_job(&mut client, job), "succeeded", "{what}: {}", self.history(&mut client, job));
        let run: String = value(&mut client, &format!("SELECT run_key::text FROM fine_tuning_job WHERE id = '{job}'"));
        let created = self.fake.jobs().into_iter().filter(|remote| remote.run == run).count();
        assert_eq!(created, 1, "{what}: jobs at the provider; {}", self.history(&mut client, job));
        let models = format!("SELECT count(*) FROM model WHERE job_id = '{job}'");
        assert_eq!(value::<i64>(&mut client, &models), 1, "{what}");
        wait_until(PATIENCE, &format!("{what}: all is tidied up"), || {
            value::<bool>(&mut client, &format!("SELECT phase IS NULL FROM fine_tuning_job WHERE id = '{job}'"))
        });
        let uploaded: String = format!("pgft-{run}-train.jsonl");
        assert!(!self.fake.file_names().contains(&uploaded), "{what}: file at the provider");
        let left = "SELECT count(*) FROM pg_ls_dir('base/pgsql_tmp', true, false)";
        assert_eq!(value::<i64>(&mut client, left), 0, "{what}: files here");
        let lost = "SELECT (SELECT count(*) FROM signal WHERE user_action IS NOT NULL) - (SELECT count(*) FROM training_data_point WHERE user_action IS NOT NULL)";
        assert_eq!(value::<i64>(&mut client, lost), 0, "{what}: captured rows");
    }

    fn history(&self, client: &mut Client, job: &str) -> String {
        let sql = format!(
            "SELECT string_agg(concat_ws(' ', message, data), E'\\n') FROM fine_tuning_event WHERE job_id = '{job}'"
        );
        value::<Option<String>>(client, &sql).unwrap_or_default()
    }
}

/// Runs `body` with a server, a provider and a dataset; afterwards the key is nowhere, the log short, the indexes whole.
fn arena(body: impl FnOnce(&Cell)) {
    let (server, fake) = (server(), FakeProvider::start());
    let db = server.create_database("crash");
    let mut client = db.install("pgft");
    application(&mut client, 60);
    execute(&mut client, "SELECT create_dataset('listeners')");
    provider(&mut client, "host", &fake.url(), &server.secret(CANARY));
    drop(client);
    let began = std::time::Instant::now();
    body(&Cell { server: &server, fake: &fake, db: &db });
    let minutes = began.elapsed().as_secs() as usize / 60 + 1;
    let log = server.log();
    let ours: Vec<&str> = log.lines().filter(|line| line.contains("LOG:  pg_finetune: ")).collect();
    assert!(ours.len() < 10 * minutes, "in {minutes} minutes: {}", ours.join("\n"));
    canary_is_nowhere(&server, &db);
    let url = db.url();
    let part =
        |name: &str| url.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)).unwrap_or_default().to_string();
    let place = [("PGHOST", part("host=")), ("PGPORT", part("port=")), ("PGUSER", part("user="))];
    let checked = server.program("pg_amcheck").envs(place).args(["--install-missing", "--database", &db.name]).output();
    match checked {
        Ok(checked) => {
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()))
        }
        Err(_) => println!("skipped: this server has no pg_amcheck"),
    }
}

fn die_at_every_step(death: Death) {
    arena(|cell| {
        let mut bystander = cell.connect();
        for (seed, step) in STEPS.into_iter().enumerate() {
            let what = format!("{death:?} at \"{step}\"");
            let mut client = cell.connect();
            let mut job = String::new();
            let pid = freeze(&mut client, step, |client| job = cell.submit(client, seed));
            match death {
                Death::Kill => {
                    cell.server.kill(pid);
                    cell.server.wait_until_up();
                }
                Death::Terminate => {
                    execute(&mut client, &format!("SELECT pg_terminate_backend({pid}), pg_advisory_unlock({LOCK})"));
                    execute(&mut bystander, "SELECT 1"); // nobody else notices
                }
                Death::Immediate | Death::Fast => {
                    let began = std::time::Instant::now();
                    cell.server.stop(if death == Death::Fast { Stop::Fast } else { Stop::Immediate });
                    assert!(began.elapsed() < Duration::from_secs(5), "{what}: the server did not stop");
                    cell.server.start();
                }
            }
            drop(client);
            cell.holds(&job, &what);
        }
        println!("{} cells", STEPS.len());
    });
}

#[test]
fn killed_at_every_step() {
    die_at_every_step(Death::Kill);
}

#[test]
fn terminated_at_every_step() {
    die_at_every_step(Death::Terminate);
}

#[test]
fn stopped_at_once_at_every_step() {
    die_at_every_step(Death::Immediate);
}

#[test]
fn stopped_at_every_step() {
    die_at_every_step(Death::Fast);
}

#[test]
fn the_provider_breaks_off_at_every_request() {
    let requests = [
        "GET /v1/models",
        "POST /v1/files",
        "POST /v1/fine_tuning/jobs ",
        "GET /v1/fine_tuning/jobs/",
        "DELETE /v1/files",
    ];
    let acts = [
        Act::CloseBefore,
        Act::CloseAfter,
        Act::Cut(20),
        Act::Cut(150),
        Act::TooShort,
        Act::HangAfter(Duration::from_secs(4)),
    ];
    arena(|cell| {
        let mut client = cell.connect();
        let mut seed = 100;
        for request in requests {
            // All at once, so that it does not take long: each job gets one or several of them, or none.
            let mut jobs = Vec::new();
            for act in &acts {
                seed += 1;
                cell.fake.next(request, act.clone(), 1);
                jobs.push(cell.submit(&mut client, seed));
            }
            jobs.iter().for_each(|job| cell.holds(job, &format!("cut off at \"{request}\"")));
            assert_eq!(cell.fake.left_of_script(), 0, "{request}");
        }
        // The answer to the creation is lost, and so is what the search for it finds, for a while.
        cell.fake.next("POST /v1/fine_tuning/jobs ", Act::CloseAfter, 1);
        cell.fake.next("GET /v1/fine_tuning/jobs?", Act::Answer(503, vec![], "busy".into()), 4);
        let job = cell.submit(&mut client, 99);
        cell.holds(&job, "lost, and the list does not answer");
        println!("{} cells", requests.len() * acts.len() + 1);
    });
}
