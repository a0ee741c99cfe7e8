//! What tests of jobs at providers share: a server, a database with a dataset and a provider, and the proof at the end of
//! every test that the key is nowhere.

use super::{application, execute, run, value, values, Client, Database, Server, CANARY};

/// A server for jobs at providers: quick polls, and statistics of statements where the server has them.
pub fn jobs_server(more: &[(&str, &str)]) -> Server {
    let settings = [
        ("shared_preload_libraries", preload()),
        ("synchronous_commit", "on"),
        ("pg_finetune.poll_interval", "40ms"),
        ("pg_finetune.http_timeout", "2s"),
    ];
    Server::private(&[&settings, more].concat())
}

/// Together with pg_stat_statements, which keeps the text of statements.
fn preload() -> &'static str {
    let config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
    let folder = run(std::process::Command::new(config).arg("--pkglibdir"));
    match std::path::Path::new(folder.trim()).join("pg_stat_statements.so").is_file() {
        true => "pg_finetune,pg_stat_statements",
        false => {
            println!("skipped: this server has no pg_stat_statements, where the key is looked for");
            "pg_finetune"
        }
    }
}

/// A database with the application, a dataset and the provider `host` with the canary as its key.
pub fn prepared<'a>(server: &'a Server, url: &str) -> (Database<'a>, Client) {
    let db = server.create_database("jobs");
    let mut client = db.install("pgft");
    let counted = "SELECT current_setting('shared_preload_libraries') LIKE '%pg_stat_statements%'";
    if value::<bool>(&mut client, counted) {
        execute(&mut client, "CREATE EXTENSION pg_stat_statements SCHEMA public");
    }
    application(&mut client, 60);
    execute(&mut client, "SELECT create_dataset('listeners')");
    provider(&mut client, "host", url, &server.secret(CANARY));
    db.look_for_canary();
    (db, client)
}

/// Declares a provider of the openai protocol whose key stands in a file.
pub fn provider(client: &mut Client, name: &str, url: &str, key_file: &str) {
    let sql = format!(
        "CREATE SERVER {name} FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'openai', base_url '{url}');
         CREATE USER MAPPING FOR CURRENT_USER SERVER {name} OPTIONS (api_key_file '{key_file}')"
    );
    execute(client, &sql);
}

/// Submits a job at a provider; `more` are further arguments.
pub fn submit_to(client: &mut Client, provider: &str, more: &str) -> String {
    let sql = format!(
        "SELECT fine_tune('listeners', provider => '{provider}', base_model => 'small', method => 'sft'{more})::text"
    );
    value(client, &sql)
}

/// One column of a job as text, '' for NULL.
pub fn of(client: &mut Client, job: &str, column: &str) -> String {
    value(client, &format!("SELECT COALESCE({column}::text, '') FROM fine_tuning_job WHERE id = '{job}'"))
}

/// What happened to a job, a line for each event.
pub fn history(client: &mut Client, job: &str) -> String {
    let sql = format!("SELECT string_agg(concat_ws(' ', level, message, data), E'\\n' ORDER BY id) FROM fine_tuning_event WHERE job_id = '{job}'");
    value::<Option<String>>(client, &sql).unwrap_or_default()
}

/// The key stands in no log, table, view, dump, statistic or process title.
pub fn canary_is_nowhere(server: &Server, db: &Database) {
    assert!(!server.log().contains(CANARY), "in the server's log");
    let Some(mut client) = db.try_connect() else { return };
    let relations: Vec<String> = values(
        &mut client,
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'v', 'm') AND n.nspname IN ('pgft', 'public', 'pg_catalog')
           AND c.relname NOT IN ('pg_statistic', 'pg_largeobject') ORDER BY 1",
    );
    for relation in ["pg_stat_activity", "pg_user_mapping", "pg_settings"] {
        assert!(relations.iter().any(|name| name == relation), "{relation} was not looked into");
    }
    for relation in relations {
        let sql = format!("SELECT count(*) FROM {relation} t WHERE t::text LIKE '%' || $1 || '%'");
        // A few catalog views need an extension or an argument that is not there.
        let Ok(row) = client.query_one(&sql, &[&CANARY]) else { continue };
        assert_eq!(row.get::<_, i64>(0), 0, "in {relation}");
    }
    let dump = run(server.program("pg_dump").arg(db.url()));
    assert!(!dump.contains(CANARY), "in the dump");
}

/// State, stage and reason of the newest run of a schedule.
pub fn last_run(client: &mut Client) -> (String, String, String) {
    let sql = "SELECT state, stage, COALESCE(reason, '') FROM retraining_run ORDER BY due_at DESC LIMIT 1";
    let row = client.query_one(sql, &[]).unwrap();
    (row.get(0), row.get(1), row.get(2))
}
