//! Who may be in what: several candidates, new weights, layers, holdout, units; and the same draw elsewhere.

mod common;
use common::*;

use serde_json::Value;

const MODELS: &str = "
    INSERT INTO model (id, base_model, provider, method) VALUES
        ('m1', 'base', 'builtin', 'contrastive'), ('m2', 'base', 'builtin', 'contrastive');
    INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
        SELECT id, 'base', 100, 1000, 42, 'passed', 'better' FROM model WHERE id <> 'base';";

fn with_models(db: &Database) -> Client {
    let mut admin = db.install("pgft");
    admin.batch_execute(MODELS).unwrap();
    admin
}

#[test]
fn several_candidates_and_new_weights_move_as_few_users_as_can_be() {
    let db = Server::shared().create_database("arms");
    let mut admin = with_models(&db);
    let started = "SELECT start_experiment('e', candidates => '{m1,m2}', seed => 's')";
    assert_eq!(value::<String>(&mut admin, started), "e");
    let sizes = "SELECT string_agg(variant || ' ' || (SELECT sum(upper(r) - lower(r)) FROM unnest(buckets) r), ', ' ORDER BY ordinal)
        FROM experiment_arm WHERE phase = (SELECT max(phase) FROM experiment_phase)";
    assert_eq!(value::<String>(&mut admin, sizes), "base 3334, fineTuned 3333, fineTuned2 3333");
    // As many buckets change hands as must: those that shrinking arms give up.
    let moved = "SELECT (10000 - sum((SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(a.buckets * b.buckets) r)))::text
        FROM experiment_arm a JOIN experiment_arm b ON b.experiment = a.experiment AND b.variant = a.variant AND b.phase = a.phase + 1
        WHERE b.phase = (SELECT max(phase) FROM experiment_phase)";
    assert_eq!(value::<i32>(&mut admin, "SELECT alter_weights('e', '{0.5,0.25,0.25}')"), 2);
    assert_eq!(value::<String>(&mut admin, sizes), "base 5000, fineTuned 2500, fineTuned2 2500");
    assert_eq!(value::<String>(&mut admin, moved), "1666");
    let same = "SELECT count(*) FROM generate_series(1, 3000) i WHERE assign_variant(i) <> (explain_assignment(i::text)).variant";
    assert_eq!(value::<i64>(&mut admin, same), 0);
    // Less coverage lets users out and moves nobody; so does more, in.
    admin
        .batch_execute(
            "CREATE TABLE before AS SELECT i, (explain_assignment(i::text)).* FROM generate_series(1, 3000) i",
        )
        .unwrap();
    admin.batch_execute("SELECT set_coverage('e', 0.4)").unwrap();
    let switched = "SELECT count(*) FROM before b, explain_assignment(b.i::text) a WHERE a.in_experiment AND a.variant <> b.variant";
    assert_eq!(value::<i64>(&mut admin, switched), 0);
    assert_eq!(value::<String>(&mut admin, sizes), "base 2000, fineTuned 1000, fineTuned2 1000");
    assert_eq!(value::<i32>(&mut admin, "SELECT alter_weights('e', '{0.2,0.4,0.4}', 'ranges')"), 4);
    let ranges = "SELECT max((SELECT count(*) FROM unnest(buckets))) FROM experiment_arm WHERE phase = 4";
    assert_eq!(value::<i64>(&mut admin, ranges), 1);

    assert_error!(admin, "SELECT alter_weights('e', '{0.5,0.5}')", "22023", "needs 3 weights");
    assert_error!(admin, "SELECT alter_weights('e', '{0.5,0.3,0.3}')", "22023", "sum to 1.1");
    assert_error!(admin, "SELECT alter_weights('e', '{0.5,0.3,0.2}', 'other')", "22023", "mode 'other'");
    assert_error!(admin, "SELECT alter_weights('nope', '{1}')", "42704", "nope", "Known: e");
    assert_error!(
        admin,
        "UPDATE experiment_arm SET buckets = '{[0,10000)}' WHERE phase = 4 AND ordinal = 1",
        "23P01",
        "share buckets"
    );
    let beyond = expect_error(
        &mut admin,
        "UPDATE experiment_arm SET buckets = '{[9000,10001)}' WHERE phase = 4 AND ordinal = 2",
    );
    assert_eq!(beyond.code, "23514");
    assert_error!(admin, "SELECT stop_experiment('e', 'fineTuned3')", "22023", "base, fineTuned and fineTuned2");
    admin.batch_execute("SELECT stop_experiment('e', 'fineTuned2')").unwrap();
    assert_eq!(value::<String>(&mut admin, "SELECT assign_variant('u', 'e')"), "fineTuned2");
    assert_error!(admin, "SELECT alter_weights('e', '{1,0,0}')", "55000", "\"e\" is stopped");
}

#[test]
fn a_layer_shares_users_out_and_a_holdout_is_in_no_experiment() {
    let db = Server::shared().create_database("layers");
    let mut admin = with_models(&db);
    admin
        .batch_execute(
            "SELECT create_layer('home', seed => 'l'); SELECT create_layer('teams', unit => 'team_id');
             SELECT start_experiment('a', 'm1', layer => 'home', layer_share => 0.6);
             SELECT start_experiment('b', 'm2', layer => 'home', layer_share => 0.4)",
        )
        .unwrap();
    let both = "SELECT count(*) FILTER (WHERE (a).in_experiment AND (b).in_experiment), count(*) FILTER (WHERE (a).in_experiment OR (b).in_experiment)
        FROM (SELECT explain_assignment(i::text, 'a') AS a, explain_assignment(i::text, 'b') AS b FROM generate_series(1, 2000) i) x";
    let row = admin.query_one(both, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 2000));
    let reasons =
        "SELECT string_agg(DISTINCT reason, ' ') FROM generate_series(1, 500) i, explain_assignment(i::text, 'b')";
    assert_eq!(value::<String>(&mut admin, reasons), "assigned layer");
    let agree = "SELECT count(*) FROM generate_series(1, 2000) i, assign_variants(i::text) v
        WHERE v.variant <> assign_variant(i, v.experiment)";
    assert_eq!(value::<i64>(&mut admin, agree), 0);
    assert_error!(
        admin,
        "SELECT start_experiment('c', 'm1', layer => 'home', layer_share => 0.1)",
        "22023",
        "Free is 0 of it"
    );
    assert_error!(admin, "SELECT start_experiment('c', 'm1', layer => 'home')", "22023", "NULL");
    assert_error!(
        admin,
        "SELECT start_experiment('c', 'm1', layer => 'nope', layer_share => 0.1)",
        "42704",
        "create_layer"
    );
    assert_error!(
        admin,
        "SELECT start_experiment('c', 'm1', layer => 'teams', layer_share => 0.1)",
        "22023",
        "draws by \"team_id\""
    );
    assert_error!(admin, "SELECT create_layer('home')", "42710", "\"home\" already exists");
    assert_error!(admin, "SELECT create_layer('')", "22023", "name");
    // An experiment that draws teams is not meant when a user is asked for.
    admin.batch_execute("SELECT stop_experiment('a'); SELECT stop_experiment('b')").unwrap();
    admin.batch_execute("SELECT start_experiment('t', 'm1', weights => '{0,1}', unit => 'team_id', layer => 'teams', layer_share => 1)").unwrap();
    assert_eq!(value::<String>(&mut admin, "SELECT assign_variant('u') || assign_variant('u', 't')"), "basefineTuned");

    admin.batch_execute("SELECT start_experiment('all', 'm1', weights => '{0,1}')").unwrap();
    assert_eq!(value::<i32>(&mut admin, "SELECT set_holdout(0.05)"), 1);
    admin.batch_execute("SELECT deploy_model('m2')").unwrap();
    let held = "SELECT count(*) FROM generate_series(1, 4000) i WHERE assign_variant(i) = 'base'";
    let few: i64 = value(&mut admin, held);
    assert!((120..280).contains(&few), "{few} of 4000");
    let explained = "SELECT DISTINCT concat_ws(' ', variant, model_id, in_experiment, reason) FROM generate_series(1, 4000) i, explain_assignment(i::text) ORDER BY 1";
    assert_eq!(values::<String>(&mut admin, explained), ["base base f holdout", "fineTuned m1 t assigned"]);
    admin.batch_execute("CREATE TABLE held AS SELECT i FROM generate_series(1, 4000) i WHERE assign_variant(i) = 'base'; SELECT set_holdout(0.1)").unwrap();
    assert_eq!(value::<i64>(&mut admin, "SELECT count(*) FROM held WHERE assign_variant(i) <> 'base'"), 0);
    assert!(value::<i64>(&mut admin, held) > few);
    admin.batch_execute("SELECT set_holdout(0)").unwrap();
    assert_eq!(value::<i64>(&mut admin, held), 0);
    assert_error!(admin, "SELECT set_holdout(2)", "22023", "between 0 and 1");
    assert_error!(admin, "SELECT set_holdout(NULL)", "22023", "NULL");
    assert_error!(admin, "SELECT set_holdout(0.1, 'nope')", "42704", "nope");
}

#[test]
fn the_draw_can_be_made_from_parameters_alone() {
    let db = Server::shared().create_database("pure");
    let mut admin = with_models(&db);
    admin
        .batch_execute(
            "SELECT create_layer('home'); SELECT set_holdout(0.1);
             SELECT start_experiment('e', candidates => '{m1,m2}', coverage => 0.5, unit_encoding => 'utf16', layer => 'home', layer_share => 0.7);
             SELECT alter_weights('e', '{0.5,0.3,0.2}');
             CREATE TABLE people AS SELECT i || 'é' AS id FROM generate_series(1, 2000) i",
        )
        .unwrap();
    let differing = "SELECT count(*) FILTER (WHERE a.in_experiment), count(*) FILTER (WHERE
            assign_pure(u.id, p.seed, p.variants, p.buckets, p.hash_version, p.unit_encoding, p.gate_seeds, p.gates)
            IS DISTINCT FROM CASE WHEN a.in_experiment THEN a.variant END OR a.variant <> assign_variant(u.id, 'e'))
        FROM people u, assignment_parameters('e') p, explain_assignment(u.id, 'e') a";
    let row = admin.query_one(differing, &[]).unwrap();
    assert!(row.get::<_, i64>(0) > 400);
    assert_eq!(row.get::<_, i64>(1), 0);
    assert_eq!(value::<Option<String>>(&mut admin, "SELECT assign_pure(NULL, 's', '{a}', '{\"{[0,10000)}\"}')"), None);
    assert_error!(admin, "SELECT assignment_parameters('nope')", "42704", "nope");
    assert_error!(admin, "SELECT bucket('s', 'u', 2, 'latin1')", "22023", "latin1");
}

#[test]
fn an_experiment_of_growthbook_goes_on_here() {
    let db = Server::shared().create_database("import");
    let mut admin = with_models(&db);
    admin
        .batch_execute("SELECT import_growthbook('{\"key\": \"old\", \"variations\": [0, 1], \"weights\": [0.4, 0.6], \"coverage\": 0.9}', '{base,m1}')")
        .unwrap();
    // Without a version GrowthBook means version 1, with the key as seed.
    let wrong = "SELECT count(*) FROM generate_series(1, 3000) i, LATERAL (SELECT bucket('old', i::text, 1) / 1000.0::float8) b (n)
        WHERE assign_variant(i) <> CASE WHEN n >= 0.4::float8 AND n < 0.4::float8 + 0.9::float8 * 0.6::float8 THEN 'fineTuned' ELSE 'base' END
           OR assign_variant(i) <> (explain_assignment(i::text)).variant";
    assert_eq!(value::<i64>(&mut admin, wrong), 0);
    let import = |definition: &str, models: &str| format!("SELECT import_growthbook('{definition}', '{models}')");
    assert_error!(
        admin,
        &import(r#"{"key": "x", "variations": [0, 1], "condition": {}}"#, "{base,m1}"),
        "22023",
        "condition"
    );
    assert_error!(admin, &import(r#"{"key": "x", "variations": [0, 1]}"#, "{base}"), "22023", "2 variations");
    assert_error!(
        admin,
        &import(r#"{"key": "x", "variations": [0, 1], "weights": [0.9, 0.2]}"#, "{base,m1}"),
        "22023",
        "sum to 1.1"
    );
}

#[test]
fn growthbooks_own_sdk_serves_the_same_variants() {
    let folder = std::process::Command::new(repository("scripts/growthbook.sh")).output().unwrap();
    if !folder.status.success() {
        println!("skipped: GrowthBook's SDK cannot be fetched: {}", String::from_utf8_lossy(&folder.stderr));
        return;
    }
    let db = Server::shared().create_database("sdk");
    let mut admin = with_models(&db);
    // One range a variant; several, behind a layer and a holdout.
    admin
        .batch_execute(
            "SELECT create_layer('home'); SELECT set_holdout(0.05);
             SELECT start_experiment('plain', 'm1', coverage => 0.8, weights => '{0.3,0.7}');
             SELECT start_experiment('sets', candidates => '{m1,m2}', layer => 'home', layer_share => 0.9);
             SELECT alter_weights('sets', '{0.5,0.3,0.2}')",
        )
        .unwrap();
    let features: Value = value(&mut admin, "SELECT export_growthbook() -> 'features'");
    for key in ["plain", "sets"] {
        let sql = format!(
            "SELECT id, assign_variant(id, '{key}') FROM (SELECT 'user-' || i FROM generate_series(1, 5000) i
            UNION ALL SELECT md5(i::text)::uuid::text FROM generate_series(1, 5000) i) x (id)"
        );
        let (ids, ours): (Vec<String>, Vec<String>) = admin
            .query(&sql, &[])
            .unwrap()
            .iter()
            .map(|row| (row.get::<_, String>(0), row.get::<_, String>(1)))
            .unzip();
        let given = serde_json::json!({"features": features, "key": key, "ids": ids});
        let file = std::env::temp_dir().join(format!("{}-{key}.json", db.name));
        std::fs::write(&file, given.to_string()).unwrap();
        let mut python = std::process::Command::new("python3");
        python.arg(repository("tests/growthbook_sdk.py")).stdin(std::fs::File::open(&file).unwrap());
        let answer = python.env("PYTHONPATH", String::from_utf8_lossy(&folder.stdout).trim()).output().unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        let theirs: Vec<String> = serde_json::from_slice(&answer.stdout).unwrap();
        let treated = ours.iter().filter(|variant| *variant != "base").count();
        assert!(treated > 3000, "{treated}");
        let differing = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs).count();
        assert_eq!((theirs.len(), differing), (10_000, 0), "{key}");
        println!("GrowthBook SDK, {key}: {} ids", theirs.len());
    }
}
