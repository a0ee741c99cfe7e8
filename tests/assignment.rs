//! assign_variant(): the plan that each backend keeps is always what the tables say, whoever changes them and however
//! that ends.

mod common;
use common::*;

const MODELS: &str = "
    INSERT INTO model (id, base_model, provider, method) VALUES
        ('m1', 'base', 'builtin', 'contrastive'), ('m2', 'base', 'builtin', 'contrastive'), ('m3', 'base', 'builtin', 'contrastive');
    INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
        SELECT id, 'base', 100, 1000, 42, 'passed', 'better' FROM model WHERE id <> 'base';";

fn with_models(db: &Database) -> Client {
    let mut admin = db.install("pgft");
    admin.batch_execute(MODELS).unwrap();
    admin
}

fn session(db: &Database) -> Client {
    let mut client = Server::shared().connect(&db.name);
    execute(&mut client, "SET search_path = pgft, public");
    client
}

/// Users of 1 to 2,000 who get the candidate, as assign_variant says; the rule in full must say the same.
fn treated(client: &mut impl GenericClient) -> i64 {
    let sql = "SELECT count(*) FILTER (WHERE assign_variant(i) = 'fineTuned'),
            count(*) FILTER (WHERE assign_variant(i) <> (_resolve_assignment(i::text, NULL, NULL)).variant)
        FROM generate_series(1, 2000) i";
    let row = client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{}", explain(&error)));
    assert_eq!(row.get::<_, i64>(1), 0, "assign_variant and the rule in full disagree");
    row.get(0)
}

/// Everybody is treated, or nobody.
const ALL: &str = "SELECT start_experiment('e', 'm1', weights => '{0,1}')";
const NONE: &str = "SELECT set_coverage('e', 0)";

#[test]
fn what_others_commit_counts_from_the_next_statement_on() {
    let db = Server::shared().create_database("others");
    let (mut admin, mut app) = (with_models(&db), session(&db));
    assert_eq!(treated(&mut app), 0);
    execute(&mut admin, ALL);
    assert_eq!(treated(&mut app), 2000);

    // Also in the middle of a transaction, and not before the commit.
    let mut reading = app.transaction().unwrap();
    assert_eq!(treated(&mut reading), 2000);
    let mut writing = admin.transaction().unwrap();
    execute(&mut writing, NONE);
    assert_eq!((treated(&mut reading), treated(&mut writing)), (2000, 0));
    writing.commit().unwrap();
    assert_eq!(treated(&mut reading), 0);
    let prepared = reading.prepare("SELECT assign_variant($1::text)").unwrap();
    assert_eq!(reading.query_one(&prepared, &[&"7"]).unwrap().get::<_, String>(0), "base");
    execute(&mut admin, "SELECT set_coverage('e', 1)");
    assert_eq!(reading.query_one(&prepared, &[&"7"]).unwrap().get::<_, String>(0), "fineTuned");
    execute(&mut admin, "SELECT pin_user('7', 'e', 'base')");
    assert_eq!(treated(&mut reading), 1999);
    execute(&mut admin, "DELETE FROM experiment_pin");
    assert_eq!(reading.query_one(&prepared, &[&"7"]).unwrap().get::<_, String>(0), "fineTuned");
}

#[test]
fn a_repeatable_read_transaction_keeps_its_own_past() {
    let db = Server::shared().create_database("repeatable");
    let (mut admin, mut app) = (with_models(&db), session(&db));
    execute(&mut admin, ALL);
    let level = postgres::IsolationLevel::RepeatableRead;
    let mut past = app.build_transaction().isolation_level(level).read_only(true).start().unwrap();
    assert_eq!(treated(&mut past), 2000);
    execute(&mut admin, NONE);
    assert_eq!(treated(&mut past), 2000);
    // What else is read there is as old.
    assert_eq!(value::<i64>(&mut past, "SELECT count(*) FROM experiment_phase"), 1);
    assert_eq!(treated(&mut past), 2000);
    past.commit().unwrap();
    assert_eq!(treated(&mut app), 0);

    // A backend whose first look is through an old snapshot does not keep what it saw there.
    let mut fresh = session(&db);
    let mut past = fresh.build_transaction().isolation_level(level).start().unwrap();
    execute(&mut past, "SELECT count(*) FROM model");
    execute(&mut admin, "SELECT set_coverage('e', 1)");
    assert_eq!(treated(&mut past), 0);
    past.rollback().unwrap();
    assert_eq!(treated(&mut fresh), 2000);
}

#[test]
fn own_changes_count_at_once_and_are_gone_when_undone() {
    let db = Server::shared().create_database("own");
    let mut admin = with_models(&db);
    assert_eq!(treated(&mut admin), 0);
    let mut doubtful = admin.transaction().unwrap();
    execute(&mut doubtful, ALL);
    assert_eq!(treated(&mut doubtful), 2000);
    execute(&mut doubtful, &format!("SAVEPOINT s; {NONE}"));
    assert_eq!(treated(&mut doubtful), 0);
    execute(&mut doubtful, "ROLLBACK TO s");
    assert_eq!(treated(&mut doubtful), 2000);
    doubtful.rollback().unwrap();
    assert_eq!(treated(&mut admin), 0);

    // The same within one PL/pgSQL block, whose expressions are kept.
    let block = format!(
        "DO $$ DECLARE seen text := ''; BEGIN
            FOR i IN 1..3 LOOP
                seen := seen || assign_variant('u') || ' ';
                IF i = 1 THEN PERFORM ({all}); END IF;
                BEGIN
                    IF i = 2 THEN PERFORM ({none}); seen := seen || assign_variant('u') || ' '; RAISE 'undo'; END IF;
                EXCEPTION WHEN raise_exception THEN NULL;
                END;
            END LOOP;
            IF seen <> 'base fineTuned base fineTuned ' THEN RAISE 'saw %', seen; END IF;
        END $$",
        all = ALL.replacen("SELECT ", "pgft.", 1),
        none = NONE.replacen("SELECT ", "pgft.", 1),
    );
    execute(&mut admin, &block);
    assert_eq!(treated(&mut admin), 2000);
}

#[test]
fn one_statement_sees_one_state() {
    let db = Server::shared().create_database("statement");
    let mut admin = with_models(&db);
    execute(&mut admin, ALL);
    // The change is the statement's own: its other parts see what was before.
    let sql = format!(
        "WITH changed AS MATERIALIZED ({NONE} AS phase)
        SELECT count(*) FROM changed, generate_series(phase, phase + 999) i WHERE assign_variant(i) = 'fineTuned'"
    );
    assert_eq!(value::<i64>(&mut admin, &sql), 1000);
    assert_eq!(treated(&mut admin), 0);

    // Somebody else's change in the middle of a statement: half of the calls come after its commit.
    execute(&mut admin, "SELECT set_coverage('e', 1); SELECT pg_advisory_lock(1)");
    let (name, mut other) = (db.name.clone(), session(&db));
    let reading = std::thread::spawn(move || {
        let mut app = Server::shared().connect(&name);
        execute(&mut app, "SET search_path = pgft, public");
        let sql = "WITH before AS MATERIALIZED (SELECT i, assign_variant(i) AS variant FROM generate_series(1, 500) i),
                waited AS MATERIALIZED (SELECT count(*) AS n, pg_advisory_lock_shared(1) FROM before),
                looked AS MATERIALIZED (SELECT n, (SELECT count(*) FROM experiment_phase) FROM waited)
            SELECT count(*) FILTER (WHERE assign_variant(b.i) <> b.variant), min(l.n) FROM before b, looked l";
        let row = app.query_one(sql, &[]).unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1), treated(&mut app))
    });
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_until(std::time::Duration::from_secs(20), "the reader waits", || value::<i64>(&mut other, waiting) == 1);
    execute(&mut admin, NONE);
    execute(&mut admin, "SELECT pg_advisory_unlock(1)");
    assert_eq!(reading.join().unwrap(), (0, 500, 0));
}

#[test]
fn a_new_installation_starts_from_nothing() {
    let db = Server::shared().create_database("again");
    let (mut admin, mut app) = (with_models(&db), session(&db));
    execute(&mut admin, ALL);
    assert_eq!(treated(&mut app), 2000);
    let mut doubtful = admin.transaction().unwrap();
    execute(&mut doubtful, "DROP EXTENSION pg_finetune; CREATE EXTENSION pg_finetune SCHEMA pgft");
    assert_eq!(treated(&mut doubtful), 0);
    doubtful.rollback().unwrap();
    assert_eq!(treated(&mut admin), 2000);
    execute(&mut admin, "DROP EXTENSION pg_finetune; CREATE EXTENSION pg_finetune SCHEMA pgft");
    assert_eq!((treated(&mut admin), treated(&mut app)), (0, 0));
    execute(&mut admin, MODELS);
    execute(&mut admin, ALL);
    assert_eq!((treated(&mut admin), treated(&mut app)), (2000, 2000));
}

#[test]
fn parallel_workers_see_what_their_leader_sees() {
    let db = Server::shared().create_database("workers");
    let mut admin = with_models(&db);
    execute(
        &mut admin,
        "CREATE TABLE people AS SELECT i FROM generate_series(1, 5000) i; ANALYZE people;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET parallel_leader_participation = off",
    );
    let mut doubtful = admin.transaction().unwrap();
    execute(&mut doubtful, ALL);
    let sql = "SELECT count(*) FILTER (WHERE assign_variant(i) = 'fineTuned') FROM people";
    let plan: Vec<String> = values(&mut doubtful, &format!("EXPLAIN {sql}"));
    assert!(plan.iter().any(|line| line.contains("Partial Aggregate")), "{plan:?}");
    assert_eq!(value::<i64>(&mut doubtful, sql), 5000);
    doubtful.rollback().unwrap();
    assert_eq!(value::<i64>(&mut admin, sql), 0);
    execute(&mut admin, "SET parallel_leader_participation = on");
    execute(&mut admin, ALL);
    assert_eq!(value::<i64>(&mut admin, sql), 5000);
}

#[test]
fn ids_of_every_kind_and_length_are_read() {
    let db = Server::shared().create_database("ids");
    let mut admin = with_models(&db);
    execute(&mut admin, "SELECT start_experiment('e', 'm1', seed => 's')");
    // Short, long, packed in the table, stored outside it, and not ASCII.
    execute(
        &mut admin,
        "CREATE TABLE ids (id text);
         INSERT INTO ids SELECT 'u' || i FROM generate_series(1, 200) i;
         INSERT INTO ids SELECT repeat('abc' || i, 60) FROM generate_series(1, 50) i;
         INSERT INTO ids SELECT repeat('packed' || i, 2000) FROM generate_series(1, 10) i;
         INSERT INTO ids SELECT (SELECT string_agg(md5(n::text), '') FROM generate_series(i, i + 900) n) FROM generate_series(1, 10) i;
         INSERT INTO ids VALUES ('é'), ('日本'), ('😀'), (' '), ('')",
    );
    let wrong =
        "SELECT count(*) FROM ids WHERE ARRAY[assign_variant(id), assign_variant(id, 'e'), assign_variant(id, NULL)]
        <> array_fill(CASE WHEN id = '' OR bucket('s', id) < 5000 THEN 'base' ELSE 'fineTuned' END, ARRAY[3])";
    assert_eq!(value::<i64>(&mut admin, wrong), 0);
    let numbers = "SELECT count(*) FROM unnest('{0,-1,7,9223372036854775807,-9223372036854775808}'::bigint[]) i
        WHERE assign_variant(i) <> assign_variant(i::text) OR assign_variant(i, 'e') <> assign_variant(i::text, 'e')";
    assert_eq!(value::<i64>(&mut admin, numbers), 0);
    let nothing = "SELECT assign_variant(NULL::uuid) || assign_variant(NULL::bigint, 'e') || assign_variant(NULL, 'e')";
    assert_eq!(value::<String>(&mut admin, nothing), "basebasebase");
    // Answers may be kept, changed into other values and sorted.
    let kept = "SELECT count(DISTINCT upper(assign_variant(id)) || x) FROM ids, (SELECT array_agg(assign_variant(id))::text FROM ids) y (x)";
    assert_eq!(value::<i64>(&mut admin, kept), 2);
    assert_error!(admin, "SELECT assign_variant('u', 'nope')", "42704", "nope", "Known: e");
    assert_error!(admin, "SELECT assign_variant('u', repeat('long name ', 1000))", "42704", "Known: e");
}

#[test]
fn a_standby_answers_from_what_it_has_replayed() {
    let primary = Server::private(&[]);
    let db = primary.create_database("followed");
    let mut admin = with_models(&db);
    execute(&mut admin, ALL);
    let Some(standby) = primary.standby() else {
        println!("skipped: this server has no pg_basebackup");
        return;
    };
    let mut witness = standby.connect("postgres");
    let mut replayed = |admin: &mut Client| {
        let sent: String = value(admin, "SELECT pg_current_wal_insert_lsn()::text");
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{sent}'");
        wait_until(std::time::Duration::from_secs(60), "the standby has replayed", || value(&mut witness, &there));
    };
    replayed(&mut admin);
    let mut app = standby.connect(&db.name);
    execute(&mut app, "SET search_path = pgft, public");
    assert!(value::<bool>(&mut app, "SELECT pg_is_in_recovery()"));
    assert_eq!(treated(&mut app), 2000);

    // The plan that this connection keeps is thrown away by what the primary commits, and by nothing that it undoes.
    let mut undone = admin.transaction().unwrap();
    execute(&mut undone, NONE);
    undone.rollback().unwrap();
    replayed(&mut admin);
    assert_eq!(treated(&mut app), 2000);
    execute(&mut admin, NONE);
    replayed(&mut admin);
    assert_eq!(treated(&mut app), 0);
    execute(&mut admin, "SELECT set_coverage('e', 1); SELECT pin_user('7', 'e', 'base')");
    replayed(&mut admin);
    assert_eq!(treated(&mut app), 1999);

    // Within a read-only transaction from its next statement on; in an older snapshot not at all.
    let mut reading = app.build_transaction().read_only(true).start().unwrap();
    assert_eq!(treated(&mut reading), 1999);
    execute(&mut admin, NONE);
    replayed(&mut admin);
    assert_eq!(treated(&mut reading), 0);
    reading.commit().unwrap();
    let level = postgres::IsolationLevel::RepeatableRead;
    let mut past = app.build_transaction().isolation_level(level).read_only(true).start().unwrap();
    assert_eq!(treated(&mut past), 0);
    execute(&mut admin, "DELETE FROM experiment_pin; SELECT set_coverage('e', 1)");
    replayed(&mut admin);
    assert_eq!(treated(&mut past), 0);
    past.commit().unwrap();
    assert_eq!(treated(&mut app), 2000);
    // What writes nothing works there as well.
    let named =
        "SELECT assign_variant(i, 'e') = (explain_assignment(i::text, 'e')).variant FROM generate_series(1, 9) i";
    assert!(values::<bool>(&mut app, named).into_iter().all(|same| same));
    let draw = "SELECT count(*) FROM assignment_parameters('e') p WHERE assign_pure('u', p.seed, p.variants, p.buckets) = 'fineTuned'";
    assert_eq!(value::<i64>(&mut app, draw), 1);
}
