//! doctor(): silent where all is well; otherwise says what is wrong, and what it says to do mends it.

mod common;

use common::*;

/// (severity, subject, finding, remedy) of every row.
fn findings(client: &mut Client) -> Vec<[String; 4]> {
    let rows = client.query("SELECT severity, subject, finding, remedy FROM doctor()", &[]);
    let rows = rows.unwrap_or_else(|error| panic!("{}", explain(&error)));
    rows.iter().map(|row| std::array::from_fn(|column| row.get(column))).collect()
}

/// The one finding about a subject.
fn about(client: &mut Client, subject: &str) -> [String; 4] {
    let all = findings(client);
    let mut found: Vec<_> = all.iter().filter(|finding| finding[1].starts_with(subject)).cloned().collect();
    assert_eq!(found.len(), 1, "about {subject}: {all:#?}");
    found.remove(0)
}

#[test]
fn a_healthy_database_has_no_findings() {
    let db = Server::shared().create_database("healthy");
    let mut client = db.install("pgft");
    assert_eq!(findings(&mut client), Vec::<[String; 4]>::new());
    application(&mut client, 20);
    assert_eq!(findings(&mut client), Vec::<[String; 4]>::new());
}

#[test]
fn a_paused_worker_is_an_error_once_work_waits() {
    let db = Server::shared().create_database("paused");
    let mut client = db.install("pgft");
    execute(&mut client, "SELECT pause_worker()");
    assert_eq!(about(&mut client, "worker")[0], "warning");
    execute(&mut client, "SELECT schedule_retraining('weekly')");
    let [severity, _, finding, remedy] = about(&mut client, "worker");
    assert_eq!((severity.as_str(), finding.as_str()), ("error", "the worker is paused"));
    assert!(remedy.contains("resume_worker()"), "{remedy}");
    execute(&mut client, "SELECT resume_worker()");
    assert!(findings(&mut client).iter().all(|finding| finding[2] != "the worker is paused"));
}

#[test]
fn a_broken_capture_is_named_with_its_cure() {
    let db = Server::shared().create_database("broken");
    let mut client = db.install("pgft");
    application(&mut client, 20);
    execute(&mut client, "ALTER TABLE signal DISABLE TRIGGER pg_finetune_update");
    let [severity, _, finding, remedy] = about(&mut client, "capture of pgft.signal");
    assert_eq!(severity, "error");
    assert!(finding.contains("trigger missing or disabled"), "{finding}");
    assert!(remedy.contains("refresh_capture('pgft.signal')"), "{remedy}");
    execute(&mut client, "ALTER TABLE signal ENABLE TRIGGER pg_finetune_update; SELECT refresh_capture('signal')");
    assert_eq!(findings(&mut client), Vec::<[String; 4]>::new());
}

#[test]
fn a_failed_job_is_shown_until_it_is_tried_again() {
    let db = Server::shared().create_database("failed");
    let mut client = db.install("pgft");
    application(&mut client, 20);
    execute(&mut client, "SELECT pause_worker()");
    let job = submit(&mut client, "listeners");
    let failed = "UPDATE fine_tuning_job SET state = 'failed', finished_at = clock_timestamp(),
                  error_code = '58030', error_message = 'the disk is full', error_hint = 'Make room.'";
    execute(&mut client, failed);
    let [severity, subject, finding, remedy] = about(&mut client, "job");
    assert_eq!((severity.as_str(), subject), ("error", format!("job {job}")));
    assert_eq!(finding, "failed: the disk is full");
    assert_eq!(remedy, format!("Make room. SELECT retry_job('{job}');"));
    execute(&mut client, &format!("SELECT retry_job('{job}')"));
    assert!(findings(&mut client).iter().all(|finding| !finding[1].starts_with("job")));
}

#[test]
fn an_overridden_gate_and_a_narrow_search_are_warnings() {
    let db = Server::shared().create_database("narrow");
    let mut client = db.install("pgft");
    application(&mut client, 20);
    let deployed = "
        INSERT INTO model (id, base_model, provider, method, dimensions) VALUES ('swap', 'base', 'builtin', 'contrastive', 2);
        INSERT INTO adapter (model_id, dimensions, matrix, bias, score_scale, score_offset, digest)
        VALUES ('swap', 2, '{0,1,1,0}', '{0,0}', 4, -1, '');
        SELECT deploy_model('swap', 'a trial', override => true)";
    execute(&mut client, deployed);
    let [severity, _, finding, _] = about(&mut client, "model swap");
    assert_eq!(severity, "warning");
    assert!(finding.ends_with(": a trial"), "{finding}");

    execute(&mut client, "CREATE INDEX ON chunk USING hnsw (embedding vector_cosine_ops)");
    let [_, _, finding, remedy] = about(&mut client, "search");
    assert!(finding.starts_with("hnsw.ef_search is 40"), "{finding}");
    execute(&mut client, &remedy);
    let mut later = db.connect();
    execute(&mut later, "SET search_path = pgft, public");
    assert!(findings(&mut later).iter().all(|finding| finding[1] != "search"), "the remedy holds for new sessions");
}

#[test]
fn an_alarm_of_an_experiment_is_an_error() {
    let db = Server::shared().create_database("alarm");
    let mut client = db.install("pgft");
    let leak = "
        INSERT INTO model (id, base_model, provider, method) VALUES ('next', 'base', 'builtin', 'contrastive');
        INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
        VALUES ('next', 'base', 100, 1000, 42, 'passed', 'by hand');
        SELECT start_experiment('first', candidate => 'next');
        SELECT record_signal('user-' || u, 'item', 'text') FROM generate_series(1, 40) u;
        UPDATE model_performance_log SET model_variant = 'base', model_id = 'next'";
    execute(&mut client, leak);
    let all = findings(&mut client);
    let alarm = all.iter().find(|finding| finding[1] == "experiment first").unwrap_or_else(|| panic!("{all:#?}"));
    assert_eq!((alarm[0].as_str(), alarm[3].as_str()), ("error", "SELECT * FROM experiment_health('first');"));
}
