//! The crash matrix: every step of a job at a provider × every way to die × every way for the provider to break off.
//! In each cell: I1 one job at the provider, I2 ended here or with a next step, I3 nothing captured is lost, I4 no transaction open while
//! something is waited for, I5 others' statements succeed, I6 the key nowhere, I7 no file left here or there, I8 a short log, I9 whole indexes.

mod common;

use common::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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

impl Cell<'_> {
    fn connect(&self) -> Client {
        let mut client = self.db.connect();
        execute(&mut client, "SET search_path = pgft, public");
        client
    }

    fn submit(&self, client: &mut Client, seed: usize) -> String {
        submit_to(client, "host", &format!(", seed => {seed}"))
    }

    /// I1 to I3 and I7 of a job that something happened to.
    fn holds(&self, job: &str, what: &str) {
        let mut client = self.connect();
        let next_step = "SELECT bool_and(phase IS NOT NULL AND due_at < now() + interval '1 hour') FROM fine_tuning_job WHERE finished_at IS NULL";
        assert_ne!(value::<Option<bool>>(&mut client, next_step), Some(false), "{what}: an open job has no next step");
        assert_eq!(wait_for_job(&mut client, job), "succeeded", "{what}: {}", history(&mut client, job));
        let run: String = value(&mut client, &format!("SELECT run_key::text FROM fine_tuning_job WHERE id = '{job}'"));
        let created = self.fake.jobs().into_iter().filter(|remote| remote.run == run).count();
        assert_eq!(created, 1, "{what}: jobs at the provider; {}", history(&mut client, job));
        let models = format!("SELECT count(*) FROM model WHERE job_id = '{job}'");
        assert_eq!(value::<i64>(&mut client, &models), 1, "{what}");
        wait_until(PATIENCE, &format!("{what}: all is tidied up"), || {
            value::<bool>(&mut client, &format!("SELECT phase IS NULL FROM fine_tuning_job WHERE id = '{job}'"))
        });
        let left: Vec<String> = self.fake.file_names().into_iter().filter(|name| name.contains(&run)).collect();
        assert_eq!(left, Vec::<String>::new(), "{what}: files at the provider");
        let left = "SELECT count(*) FROM pg_ls_dir('base/pgsql_tmp', true, false)";
        assert_eq!(value::<i64>(&mut client, left), 0, "{what}: files here");
        let lost = "SELECT (SELECT count(*) FROM signal WHERE user_action IS NOT NULL) - (SELECT count(*) FROM training_data_point WHERE user_action IS NOT NULL)";
        assert_eq!(value::<i64>(&mut client, lost), 0, "{what}: captured rows");
    }
}

/// A transaction of ours that is open for so long has waited for something: I4.
const OPEN_TOO_LONG: Duration = Duration::from_secs(1);

/// Ends the watch over transactions, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Transactions of workers that were open all the while between two looks; those frozen by a test do not count. Every statement of this
/// bystander has to succeed while the server is up (I5): an error that is not the end of its session is a panic.
fn open_transactions(db: &Database, over: &AtomicBool) -> Vec<String> {
    let ours = "SELECT concat_ws(' ', a.pid, a.xact_start, a.backend_type, a.query) FROM pg_stat_activity a
                WHERE a.backend_type LIKE 'pg_finetune%' AND a.datname = current_database() AND a.xact_start IS NOT NULL
                  AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND NOT l.granted)";
    let (mut found, mut first_seen) = (Vec::new(), HashMap::<String, Instant>::new());
    let mut session: Option<Client> = None;
    while !over.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(200));
        session = session.or_else(|| db.try_connect());
        let Some(client) = session.as_mut() else { continue };
        match client.query(ours, &[]) {
            Ok(rows) => {
                let now: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                first_seen.retain(|transaction, _| now.contains(transaction));
                for transaction in now {
                    let since = first_seen.entry(transaction.clone()).or_insert_with(Instant::now);
                    if since.elapsed() > OPEN_TOO_LONG && !found.contains(&transaction) {
                        found.push(transaction);
                    }
                }
            }
            Err(error) if client.is_closed() || error.code().is_some_and(|code| code.code().starts_with("57P")) => {
                (session, first_seen) = (None, HashMap::new());
            }
            Err(error) => panic!("a bystander's statement failed: {}", explain(&error)),
        }
    }
    found
}

/// Runs `body` with a server, a provider and a dataset. Meanwhile no transaction of ours stays open; afterwards the key is nowhere, the log
/// short, the indexes whole.
fn arena(body: impl FnOnce(&Cell)) {
    let (server, fake) = (jobs_server(&[]), FakeProvider::start());
    let (db, client) = prepared(&server, &fake.url());
    drop(client);
    let (began, over) = (Instant::now(), AtomicBool::new(false));
    let open = std::thread::scope(|scope| {
        let watch = scope.spawn(|| open_transactions(&db, &over));
        let ended = Over(&over);
        body(&Cell { server: &server, fake: &fake, db: &db });
        drop(ended);
        watch.join().expect("a bystander without errors")
    });
    assert!(open.is_empty(), "transactions that stayed open: {open:?}");
    let minutes = began.elapsed().as_secs() as usize / 60 + 1;
    let log = server.log();
    let ours: Vec<&str> = log.lines().filter(|line| line.contains(":  pg_finetune: ")).collect();
    assert!(ours.len() < 10 * minutes, "in {minutes} minutes: {}", ours.join("\n"));
    checks_its_indexes(&server, &db);
}

/// I9.
fn checks_its_indexes(server: &Server, db: &Database) {
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
                    let began = Instant::now();
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
