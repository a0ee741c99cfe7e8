//! Clusters (made by scripts/cluster.sh, which knows how to do it as root) and databases in them.

use super::{execute, explain, quoted};
use postgres::{Client, Config, NoTls};

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Messages that a connection got beside its results, "SEVERITY: text", in order.
pub type Notices = Arc<Mutex<Vec<String>>>;

/// How to stop a server: wait for sessions to end, end them, or pull the plug.
#[derive(Clone, Copy)]
pub enum Stop {
    Smart,
    Fast,
    Immediate,
}

pub struct Server {
    dir: PathBuf,
    config: Config,
    private: bool,
}

impl Server {
    /// The cluster that scripts/test.sh started for all test files; one for this file alone without it.
    pub fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var_os("PGFT_SHARED_CLUSTER") {
            Some(dir) => Server::at(PathBuf::from(dir), false),
            None => Server::launch(&[], false),
        })
    }

    /// A cluster for this file in which no worker can run: nothing happens there but by CALL run_due_work().
    pub fn by_hand() -> &'static Server {
        static BY_HAND: OnceLock<Server> = OnceLock::new();
        BY_HAND.get_or_init(|| Server::launch(&[("max_worker_processes", "0")], false))
    }

    /// A cluster for one test, with these settings on top of those of pgrx.toml; gone when dropped.
    pub fn private(settings: &[(&str, &str)]) -> Server {
        Server::launch(settings, true)
    }

    fn launch(settings: &[(&str, &str)], private: bool) -> Server {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own_process = std::process::id();
        let dir = PathBuf::from(format!("/tmp/pgft.{own_process}.{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        cluster(&dir, "create", &settings);
        // The script removes the cluster when this process is gone, even if it was killed.
        cluster(&dir, "start", &[&own_process.to_string()]);
        Server::at(dir, private)
    }

    fn at(dir: PathBuf, private: bool) -> Server {
        let mut config: Config = cluster(&dir, "url", &["postgres"]).trim().parse().expect("a connection string");
        config.connect_timeout(Duration::from_secs(10));
        Server { dir, config, private }
    }

    /// Connection string of a database for other programs (psql, pg_dump, SDKs); they connect as the superuser.
    pub fn url(&self, database: &str) -> String {
        cluster(&self.dir, "url", &[database]).trim().to_string()
    }

    /// Connects as the superuser.
    pub fn connect(&self, database: &str) -> Client {
        self.connect_as(database, "postgres")
    }

    pub fn connect_as(&self, database: &str, role: &str) -> Client {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            match self.try_connect(database, role) {
                Ok(client) => return client,
                // Not an answer, or "starting up": a server that a test has just killed is back in a moment.
                Err(error) if error.code().is_none_or(|code| code.code() == "57P03") && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => panic!("{database} as {role}: {}", explain(&error)),
            }
        }
    }

    pub fn try_connect(&self, database: &str, role: &str) -> Result<Client, postgres::Error> {
        self.config.clone().dbname(database).user(role).application_name("test").connect(NoTls)
    }

    /// Connects as the superuser and keeps what the server says beside results.
    pub fn connect_collecting(&self, database: &str) -> (Client, Notices) {
        let notices = Notices::default();
        let sink = notices.clone();
        let mut config = self.config.clone();
        config.dbname(database).notice_callback(move |notice| {
            sink.lock().unwrap().push(format!("{}: {}", notice.severity(), notice.message()));
        });
        (config.connect(NoTls).expect("a connection"), notices)
    }

    /// An empty UTF8 database; the name gets a number, so that tests may choose the same. Dropped at the end.
    pub fn create_database(&self, name: &str) -> Database<'_> {
        self.create_database_with(name, "TEMPLATE template0")
    }

    /// The same with other options of CREATE DATABASE.
    pub fn create_database_with(&self, name: &str, options: &str) -> Database<'_> {
        let name = numbered(name);
        let sql = format!("CREATE DATABASE {} {options}", quoted(&name));
        execute(&mut self.connect("postgres"), &sql);
        Database { server: self, name, holds_canary: AtomicBool::new(false) }
    }

    /// A login role of its own name for one test, member of these roles.
    pub fn create_role(&self, name: &str, member_of: &[&str]) -> String {
        let name = numbered(name);
        let member_of: String = member_of.iter().map(|role| format!("GRANT {} TO {name};", quoted(role))).collect();
        let sql = format!("CREATE ROLE {name} LOGIN; {member_of}");
        execute(&mut self.connect("postgres"), &sql);
        name
    }

    pub fn start(&self) {
        cluster(&self.dir, "start", &[]);
    }

    pub fn stop(&self, how: Stop) {
        let mode = match how {
            Stop::Smart => "smart",
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        cluster(&self.dir, "stop", &[mode]);
    }

    pub fn restart(&self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// kill -9 of one process of this server (a backend, a worker); the server then restarts all others by itself.
    /// Returns when the restart has cut all sessions: before that, a new one would be cut as well.
    pub fn kill(&self, pid: i32) {
        let mut witness = self.connect("postgres");
        run(Command::new("kill").args(["-9", &pid.to_string()]));
        super::wait_until(Duration::from_secs(30), "the restart cuts all sessions", || {
            witness.simple_query("SELECT 1").is_err()
        });
    }

    /// Waits until the server takes connections again, for instance after `kill`.
    pub fn wait_until_up(&self) {
        super::wait_until(Duration::from_secs(30), "the server is up again", || {
            self.try_connect("postgres", "postgres").is_ok_and(|mut client| client.simple_query("SELECT 1").is_ok())
        });
    }

    /// A running standby of this server; None when its programs are not there.
    pub fn standby(&self) -> Option<Server> {
        let dir = PathBuf::from(format!("{}.standby", self.dir.display()));
        let path = dir.to_str().expect("a path in UTF-8");
        let made = Command::new(super::repository("scripts/cluster.sh"))
            .arg("standby")
            .arg(&self.dir)
            .arg(path)
            .output()
            .ok()?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(said.contains("no pg_basebackup"), "{said}");
            return None;
        }
        cluster(&dir, "start", &[&std::process::id().to_string()]);
        Some(Server::at(dir, true))
    }

    /// Path of a file with this text that the server can read and its tables, dumps and logs do not hold.
    pub fn secret(&self, text: &str) -> String {
        self.file("secret", text)
    }

    /// Path of a file of this name beside the server's data.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, text).expect("a file that the server can read");
        path.to_str().expect("a path in UTF-8").to_string()
    }

    /// Everything that the server has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.join("log")).expect("the server's log")).into_owned()
    }

    /// A program of this server's installation, for instance pg_dump.
    pub fn program(&self, name: &str) -> Command {
        static BIN: OnceLock<String> = OnceLock::new();
        let bin = BIN.get_or_init(|| cluster(Path::new("/"), "bin", &[]).trim().to_string());
        Command::new(Path::new(bin).join(name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.private {
            cluster(&self.dir, "destroy", &[]);
        }
    }
}

pub struct Database<'a> {
    server: &'a Server,
    pub name: String,
    holds_canary: AtomicBool,
}

impl Database<'_> {
    /// pgvector in `public` and pg_finetune in `schema`; the superuser's connection, with both in its search_path.
    pub fn install(&self, schema: &str) -> Client {
        let schema = quoted(schema);
        let mut client = self.connect();
        let sql = format!(
            "CREATE EXTENSION IF NOT EXISTS vector SCHEMA public; CREATE SCHEMA IF NOT EXISTS {schema}; \
             CREATE EXTENSION pg_finetune SCHEMA {schema}; SET search_path = {schema}, public"
        );
        execute(&mut client, &sql);
        client
    }

    /// A key was used here: when the test is over, it is looked for everywhere.
    pub fn look_for_canary(&self) {
        self.holds_canary.store(true, Ordering::Relaxed);
    }

    pub fn connect(&self) -> Client {
        self.server.connect(&self.name)
    }

    /// None where a test has dropped the database or stopped its server.
    pub fn try_connect(&self) -> Option<Client> {
        self.server.try_connect(&self.name, "postgres").ok()
    }

    pub fn connect_as(&self, role: &str) -> Client {
        self.server.connect_as(&self.name, role)
    }

    pub fn connect_collecting(&self) -> (Client, Notices) {
        self.server.connect_collecting(&self.name)
    }

    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Restores a dump of this database into another one.
    pub fn restore_into(&self, to: &Database) {
        let file = std::env::temp_dir().join(format!("{}.dump", self.name));
        run(self.server.program("pg_dump").args(["--format=custom", "--file"]).arg(&file).arg(self.url()));
        run(to.server.program("pg_restore").args(["--exit-on-error", "--dbname", &to.url()]).arg(&file));
        std::fs::remove_file(&file).expect("a dump to remove");
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if self.holds_canary.load(Ordering::Relaxed) && !std::thread::panicking() {
            super::canary_is_nowhere(self.server, self);
        }
        // A test may have stopped its server.
        if let Ok(mut client) = self.server.try_connect("postgres", "postgres") {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(&self.name)));
        }
    }
}

/// Runs a program to its end; panics with what it said when it failed.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

fn cluster(dir: &Path, action: &str, arguments: &[&str]) -> String {
    run(Command::new(super::repository("scripts/cluster.sh")).arg(action).arg(dir).args(arguments))
}

/// Unique on a server that several test processes share.
fn numbered(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
