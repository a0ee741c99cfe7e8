//! Assignment, experiments and deployments, through SQL on a real server.

mod common;
use common::*;

use serde_json::Value;

/// Models m1 and m2 that have passed the gate, and the start of experiment e with a known seed.
const MODELS: &str = "
    INSERT INTO model (id, base_model, provider, method) VALUES
        ('m1', 'base', 'builtin', 'contrastive'), ('m2', 'base', 'builtin', 'contrastive'),
        ('weak', 'base', 'builtin', 'contrastive'), ('outside', 'some-llm', 'trainer', 'sft');
    INSERT INTO adapter (model_id, dimensions, matrix, bias, digest)
        SELECT id, 1, '{1}', '{0}', '' FROM model WHERE provider = 'builtin' AND id <> 'base';
    INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason) VALUES
        ('m1', 'base', 100, 1000, 42, 'passed', 'better'), ('m2', 'base', 100, 1000, 42, 'passed', 'better'),
        ('weak', 'base', 100, 1000, 42, 'refused', 'auc is not higher');";

fn with_models(db: &Database) -> Client {
    let mut admin = db.install("pgft");
    admin.batch_execute(MODELS).unwrap();
    admin
}

fn vectors() -> Value {
    serde_json::from_str(&read("tests/data/assignment-vectors.json")).unwrap()
}

#[test]
fn bucket_is_growthbooks_hash() {
    let db = Server::shared().create_database("bucket");
    let mut admin = db.install("pgft");
    let file = vectors();
    let rows = file["hash_v2_intermediates"].as_array().unwrap();
    for row in rows {
        let (seed, id) = (row["seed"].as_str().unwrap(), row["id"].as_str().unwrap());
        let both = admin.query_one("SELECT bucket($1, $2), bucket($1, $2, 1)", &[&seed, &id]).unwrap();
        assert_eq!(i64::from(both.get::<_, i32>(0)), row["v2_bucket"].as_i64().unwrap(), "{row}");
        assert_eq!(i64::from(both.get::<_, i32>(1)), row["v1_bucket"].as_i64().unwrap(), "{row}");
    }
    println!("bucket: {} rows", rows.len());
    assert_eq!(value::<Option<i32>>(&mut admin, "SELECT bucket('s', NULL)"), None);
    assert_error!(admin, "SELECT bucket('s', 'u', 3)", "22023", "hash version 3");
    // Immutable, so an index may be built on it.
    admin.batch_execute("CREATE TABLE t (id text); CREATE INDEX ON t (bucket('s', id))").unwrap();
}

#[test]
fn everybody_gets_base_when_nothing_runs() {
    let db = Server::shared().create_database("nothing");
    let mut admin = db.install("pgft");
    let calls = ["'user-1'", "NULL", "''", "42", "gen_random_uuid()", "'user-1'::varchar"];
    for call in calls {
        assert_eq!(value::<String>(&mut admin, &format!("SELECT assign_variant({call})")), "base", "{call}");
    }
    let reason = "SELECT reason FROM explain_assignment('user-1')";
    assert_eq!(value::<String>(&mut admin, reason), "no_experiment");
    assert_eq!(value::<String>(&mut admin, "SELECT reason FROM explain_assignment('')"), "no_unit");
    assert_eq!(value::<String>(&mut admin, "SELECT served_at(now())"), "base");
    assert_error!(admin, "SELECT assign_variant('user-1', 'nope')", "42704", "nope", "None was ever started");
}

#[test]
fn half_of_the_users_get_the_candidate_whatever_the_type_of_their_id() {
    let db = Server::shared().create_database("split");
    let mut admin = with_models(&db);
    let started = "SELECT start_experiment('e', 'm1', seed => 'seed-1')";
    assert_eq!(value::<String>(&mut admin, started), "e");
    let expected = "SELECT count(*) FROM generate_series(1, 2000) i
        WHERE assign_variant(i::text) <> CASE WHEN bucket('seed-1', i::text) < 5000 THEN 'base' ELSE 'fineTuned' END";
    assert_eq!(value::<i64>(&mut admin, expected), 0);
    let treated = "SELECT count(*) FROM generate_series(1, 2000) i WHERE assign_variant(i) = 'fineTuned'";
    assert!((900..1100).contains(&value::<i64>(&mut admin, treated)));
    let same = "SELECT bool_and(assign_variant(i) = assign_variant(i::text, 'e') AND assign_variant(i, 'e') = assign_variant(i::text))
        FROM generate_series(1, 100) i";
    assert!(value::<bool>(&mut admin, same));
    let uuids = "SELECT bool_and(assign_variant(u) = assign_variant(u::text, 'e') AND assign_variant(u, 'e') = assign_variant(u::text))
        FROM (SELECT md5(i::text)::uuid FROM generate_series(1, 100) i) x (u)";
    assert!(value::<bool>(&mut admin, uuids));
    let models = "SELECT string_agg(DISTINCT variant || ' ' || model_id || ' ' || provider, ', ')
        FROM generate_series(1, 100) i, model_for(i::text)";
    assert_eq!(value::<String>(&mut admin, models), "base base builtin, fineTuned m1 builtin");
}

#[test]
fn an_application_asks_in_a_read_only_transaction_and_in_parallel() {
    let server = Server::shared();
    let db = server.create_database("readonly");
    let mut admin = with_models(&db);
    admin.batch_execute("SELECT start_experiment('e', 'm1')").unwrap();
    let schema = "ALTER DATABASE {} SET search_path = pgft, public";
    admin.batch_execute(&schema.replace("{}", &quoted(&db.name))).unwrap();
    let role = server.create_role("shop", &["finetune_app"]);
    let mut app = db.connect_as(&role);
    let mut reading = app.build_transaction().read_only(true).start().unwrap();
    let variant: String = value(&mut reading, "SELECT assign_variant('user-1')");
    assert_eq!(value::<String>(&mut reading, "SELECT variant FROM explain_assignment('user-1')"), variant);
    reading.rollback().unwrap();
    let refused =
        ["SELECT start_experiment('f', 'm1')", "SELECT deploy_model('m1')", "SELECT * FROM experiment_results('e')"];
    for sql in refused {
        assert_eq!(expect_error(&mut app, sql).code, "42501", "{sql}");
    }

    admin
        .batch_execute(
            "CREATE TABLE people AS SELECT i::text AS id FROM generate_series(1, 5000) i; ANALYZE people;
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
        )
        .unwrap();
    let counts = "SELECT count(*) FILTER (WHERE assign_variant(id) = 'fineTuned') FROM people";
    let plan: Vec<String> = values(&mut admin, &format!("EXPLAIN {counts}"));
    assert!(plan.iter().any(|line| line.contains("Partial Aggregate")), "{plan:?}");
    let parallel: i64 = value(&mut admin, counts);
    admin.batch_execute("SET max_parallel_workers_per_gather = 0").unwrap();
    assert_eq!(value::<i64>(&mut admin, counts), parallel);
}

#[test]
fn what_must_not_be_tested_is_refused() {
    let db = Server::shared().create_database("refused");
    let mut admin = with_models(&db);
    let refused = [
        ("'e', 'nope'", "42704", "model \"nope\" does not exist"),
        ("'e', 'm1', base => 'nope'", "42704", "model \"nope\""),
        ("'e', 'weak'", "55000", "auc is not higher"),
        ("'e', 'outside'", "55000", "never evaluated"),
        ("'e', 'base'", "22023", "against itself"),
        ("'e', 'm1', weights => '{0.5,0.4}'", "22023", "sum to 0.9"),
        ("'e', 'm1', weights => '{1.5,-0.5}'", "22023", "between 0 and 1"),
        ("'e', 'm1', weights => '{0.5,NULL}'", "22023", "NULL"),
        ("'e', 'm1', weights => '{0.5,0.3,0.2}'", "22023", "two weights"),
        ("'e', 'm1', coverage => 1.1", "22023", "coverage 1.1"),
        ("'e', 'm1', coverage => NULL", "22023", "coverage"),
        ("'e', 'm1', coverage => 'NaN'", "22023", "coverage NaN"),
        ("'e', 'm1', planned_users => 0", "22023", "planned_users"),
        ("'', 'm1'", "22023", "name"),
        ("NULL, 'm1'", "22023", "name"),
    ];
    for (arguments, code, part) in refused {
        assert_error!(admin, &format!("SELECT start_experiment({arguments})"), code, part);
    }
    assert_eq!(value::<i64>(&mut admin, "SELECT count(*) FROM experiment"), 0);
    admin.batch_execute("SELECT start_experiment('e', 'm1', seed => 's')").unwrap();
    assert_error!(admin, "SELECT start_experiment('e', 'm2')", "42710", "\"e\" already exists");
    assert_error!(admin, "SELECT start_experiment('f', 'm2', seed => 's')", "42710", "seed of experiment \"e\"");
}

#[test]
fn more_coverage_moves_nobody_and_the_past_can_be_asked() {
    let db = Server::shared().create_database("coverage");
    let mut admin = with_models(&db);
    admin.batch_execute("SELECT start_experiment('e', 'm1', coverage => 0.1)").unwrap();
    admin
        .batch_execute(
            "CREATE TABLE before AS SELECT i, a.* FROM generate_series(1, 3000) i, _assignment(i::text, now()) a",
        )
        .unwrap();
    let inside: i64 = value(&mut admin, "SELECT count(*) FROM before WHERE in_experiment");
    assert!((200..400).contains(&inside), "{inside} of 3000");
    let outside = "SELECT bool_and(variant = 'base' AND experiment IS NULL) FROM before WHERE NOT in_experiment";
    assert!(value::<bool>(&mut admin, outside));

    assert_eq!(value::<i32>(&mut admin, "SELECT set_coverage('e', 0.5)"), 2);
    let moved = "SELECT count(*) FROM before b WHERE b.in_experiment AND assign_variant(b.i::text) <> b.variant";
    assert_eq!(value::<i64>(&mut admin, moved), 0);
    let now_inside =
        "SELECT count(*) FROM before b, _assignment(b.i::text, now()) a WHERE a.in_experiment AND a.phase = 2";
    assert!((1300..1700).contains(&value::<i64>(&mut admin, now_inside)));
    let past = "SELECT count(*) FROM before b, experiment_phase p, _assignment(b.i::text, p.valid_from) a
        WHERE p.phase = 1 AND (a.variant, a.in_experiment, a.phase) IS DISTINCT FROM (b.variant, b.in_experiment, b.phase)";
    assert_eq!(value::<i64>(&mut admin, past), 0);
    let earlier =
        "SELECT count(*) FROM before b, _assignment(b.i::text, now() - interval '1 day') a WHERE a.in_experiment";
    assert_eq!(value::<i64>(&mut admin, earlier), 0);
    assert_error!(admin, "SELECT set_coverage('e', NULL)", "22023", "NULL");
    assert_error!(admin, "SELECT set_coverage('e', 2)", "22023", "coverage 2");
    assert_error!(admin, "SELECT set_coverage('nope', 1)", "42704", "nope", "Known: e");
}

#[test]
fn pinned_testers_get_their_variant_and_are_not_analysed() {
    let db = Server::shared().create_database("pins");
    let mut admin = with_models(&db);
    admin.batch_execute("SELECT start_experiment('e', 'm1', coverage => 0)").unwrap();
    assert_eq!(value::<String>(&mut admin, "SELECT reason FROM explain_assignment('tess')"), "coverage");
    admin
        .batch_execute("SELECT pin_user('tess', 'e', 'base'); SELECT pin_user('tess', 'e', 'fineTuned', 'tester')")
        .unwrap();
    let row = admin
        .query_one("SELECT variant, model_id, in_experiment, reason FROM explain_assignment('tess')", &[])
        .unwrap();
    assert_eq!((row.get("variant"), row.get("model_id"), row.get("reason")), ("fineTuned", "m1", "pinned"));
    assert!(!row.get::<_, bool>("in_experiment"));
    assert_error!(admin, "SELECT pin_user('tess', 'e', 'nope')", "22023", "nope");
    assert_error!(admin, "SELECT pin_user('', 'e', 'base')", "22023", "user id");
    assert_error!(admin, "SELECT pin_user('tess', 'nope', 'base')", "42704", "nope");
}

#[test]
fn the_oldest_of_two_running_experiments_answers_when_none_is_named() {
    let db = Server::shared().create_database("two");
    let mut admin = with_models(&db);
    admin.batch_execute("SELECT start_experiment('z-first', 'm1')").unwrap();
    admin.batch_execute("SELECT start_experiment('a-second', 'm2')").unwrap();
    let named = "SELECT DISTINCT experiment FROM generate_series(1, 50) i, explain_assignment(i::text)";
    assert_eq!(values::<String>(&mut admin, named), ["z-first"]);
    let second =
        "SELECT DISTINCT model_id FROM generate_series(1, 50) i, explain_assignment(i::text, 'a-second') ORDER BY 1";
    assert_eq!(values::<String>(&mut admin, second), ["base", "m2"]);
    admin.batch_execute("SELECT stop_experiment('z-first')").unwrap();
    assert_eq!(values::<String>(&mut admin, named), ["a-second"]);
}

#[test]
fn a_stopped_experiment_ships_what_it_is_told() {
    let db = Server::shared().create_database("stop");
    let mut admin = with_models(&db);
    admin.batch_execute("SELECT start_experiment('won', 'm1'); SELECT start_experiment('open', 'm2')").unwrap();
    assert_error!(admin, "SELECT stop_experiment('won', 'fineTune')", "22023", "fineTune", "base and fineTuned");
    admin
        .batch_execute("SELECT stop_experiment('won', 'fineTuned', 'better'); SELECT stop_experiment('open')")
        .unwrap();
    assert_error!(admin, "SELECT stop_experiment('won')", "55000", "\"won\" is stopped");
    assert_error!(admin, "SELECT stop_experiment('nope')", "42704", "nope");
    assert_eq!(value::<String>(&mut admin, "SELECT assign_variant('u', 'won')"), "fineTuned");
    assert_eq!(value::<String>(&mut admin, "SELECT assign_variant('u', 'open')"), "base");
    assert_eq!(value::<String>(&mut admin, "SELECT reason FROM explain_assignment('u', 'won')"), "stopped");
    assert_eq!(value::<String>(&mut admin, "SELECT model_id FROM model_for('u')"), "m1");
    let logged = "SELECT action || ' ' || reason || ' ' || experiment FROM deployment_history WHERE live";
    assert_eq!(value::<String>(&mut admin, logged), "deploy better won");
    let decisions = "SELECT experiment || ': ' || decision || ', ' || reason FROM rollout_decision ORDER BY id";
    assert_eq!(
        values::<String>(&mut admin, decisions),
        ["won: promote, better", "open: inconclusive, stopped by hand"]
    );
}

#[test]
fn deployments_go_back_through_what_served_before() {
    let db = Server::shared().create_database("deploy");
    let mut admin = with_models(&db);
    assert_error!(admin, "SELECT deploy_model('nope')", "42704", "nope");
    assert_error!(admin, "SELECT deploy_model('weak')", "55000", "auc is not higher");
    assert_error!(admin, "SELECT rollback_model()", "22023", "nothing else served before it");
    admin
        .batch_execute("SELECT deploy_model('m1'); SELECT deploy_model('outside'); SELECT deploy_model('outside')")
        .unwrap();
    assert_eq!(value::<String>(&mut admin, "SELECT rollback_model(reason => 'too dear')"), "m1");
    assert_eq!(value::<String>(&mut admin, "SELECT rollback_model()"), "base");
    assert_error!(admin, "SELECT rollback_model()", "22023", "nothing else served");
    admin.batch_execute("SELECT deploy_model('m2'); SELECT deploy_model('m1'); SELECT deploy_model('base')").unwrap();
    assert_error!(admin, "SELECT rollback_model(3)", "22023", "m1, m2");
    assert_error!(admin, "SELECT rollback_model(0)", "22023", "by 0");
    assert_error!(admin, "SELECT rollback_model(NULL)", "22023", "by NULL");
    assert_eq!(value::<String>(&mut admin, "SELECT rollback_model(2)"), "m2");
    let log: Vec<String> = values(&mut admin, "SELECT action || ' ' || model_id FROM deployment_history ORDER BY id");
    let expected = [
        "deploy m1",
        "deploy outside",
        "deploy outside",
        "rollback m1",
        "rollback base",
        "deploy m2",
        "deploy m1",
        "deploy base",
        "rollback m2",
    ];
    assert_eq!(log, expected);
    let past = "SELECT bool_and(served_at(deployed_at) = model_id) FROM deployment_history";
    assert!(value::<bool>(&mut admin, past));
    assert_eq!(value::<String>(&mut admin, "SELECT served_at('2000-01-01')"), "base");
}

#[test]
fn export_gives_the_sdks_the_same_variants() {
    let db = Server::shared().create_database("export");
    let mut admin = with_models(&db);
    admin
        .batch_execute("SELECT start_experiment('e', 'm1', coverage => 0.3, weights => '{0.9,0.1}', seed => 's')")
        .unwrap();
    let exported: Value = value(&mut admin, "SELECT export_growthbook('e')");
    assert_eq!((&exported["seed"], &exported["hashVersion"]), (&Value::from("s"), &Value::from(2)));
    let differing =
        "SELECT count(*) FROM (SELECT export_growthbook('e') -> 'ranges') x (r), generate_series(1, 2000) i,
            LATERAL (SELECT bucket('s', i::text) / 10000.0) b (n), explain_assignment(i::text) a
        WHERE a.variant || a.in_experiment <> CASE
            WHEN n >= (r -> 0 ->> 0)::float8 AND n < (r -> 0 ->> 1)::float8 THEN 'basetrue'
            WHEN n >= (r -> 1 ->> 0)::float8 AND n < (r -> 1 ->> 1)::float8 THEN 'fineTunedtrue'
            ELSE 'basefalse' END";
    assert_eq!(value::<i64>(&mut admin, differing), 0);
    assert_error!(admin, "SELECT export_growthbook('nope')", "42704", "nope");
}
