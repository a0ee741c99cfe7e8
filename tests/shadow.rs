//! Shadow scoring: live impressions under the deployed model and under what served before, and the way back.

mod common;

use common::*;
use std::time::Duration;

/// A model that ranks everything the other way round, past the gate; and one that ranks as base does.
const MODELS: &str = "
    INSERT INTO model (id, base_model, provider, method, dimensions)
    VALUES ('bad', 'base', 'builtin', 'contrastive', 8), ('same', 'base', 'builtin', 'contrastive', 8);
    INSERT INTO adapter (model_id, dimensions, matrix, bias, digest)
    SELECT m.id, 8, (SELECT array_agg(CASE WHEN i % 9 = 0 THEN m.sign ELSE 0 END ORDER BY i) FROM generate_series(0, 63) i),
           array_fill(0::real, ARRAY[8]), ''
    FROM (VALUES ('bad', -1), ('same', 1)) m(id, sign)";

const LAST: &str = "SELECT model_id || ', ' || action || ', ' || deployed_by FROM deployment_history WHERE live";

fn with_models(db: &Database, users: u32) -> Client {
    let mut client = db.install("pgft");
    application(&mut client, users);
    execute(&mut client, MODELS);
    client
}

const DEPLOY: &str = "SELECT deploy_model($1, reason => 'a test', override => true)";

/// And a first look, from which on it is watched.
fn deploy(client: &mut Client, model: &str) {
    client.query(DEPLOY, &[&model]).unwrap_or_else(|error| panic!("{}", explain(&error)));
    execute(client, "CALL run_due_work()");
}

/// Shows every user some items now; they decide at once.
fn show(client: &mut Client, each: u32) {
    let sql = format!(
        "INSERT INTO signal (user_id, chunk_id) SELECT u.user_id, 1 + floor(random() * 1000)::int
         FROM (SELECT DISTINCT user_id FROM signal) u, generate_series(1, {each})"
    );
    execute(client, &sql);
    act(client);
}

fn status(client: &mut Client, model: &str) -> (String, String) {
    let sql = format!("SELECT state, reason FROM shadow_status WHERE model_id = '{model}'");
    let row = client.query_one(&sql, &[]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn a_model_that_ranks_worse_is_rolled_back_with_a_sentence() {
    let db = Server::by_hand().create_database("worse");
    let mut client = with_models(&db, 60);
    deploy(&mut client, "bad");
    show(&mut client, 5);
    execute(&mut client, "CALL run_due_work()");
    assert_eq!(value::<String>(&mut client, LAST), "bad, deploy, postgres", "300 are too few");
    assert_eq!(status(&mut client, "bad"), ("collecting".into(), "300 of 500 live impressions are scored".into()));

    show(&mut client, 5);
    execute(&mut client, "CALL run_due_work()");
    assert_eq!(value::<String>(&mut client, LAST), "base, rollback, pg_finetune worker");
    let reason: String = value(&mut client, "SELECT reason FROM deployment_history WHERE live");
    assert!(reason.starts_with("rolled back to \"base\": on the last 500 live impressions ("), "{reason}");
    assert!(reason.contains("users) \"bad\" ranks worse than \"base\": where they disagree"), "{reason}");
    let (state, told) = status(&mut client, "bad");
    assert_eq!(state, "rolled back");
    assert!(reason.ends_with(&told), "{told}");
    let figures = "SELECT auc < earlier_auc AND gain_high < 0 AND gain_low < gain AND units >= 20 AND looks = 1
                          AND confidence = 0.95 AND NOT live AND next_look_at IS NULL AND scored = 600 AND pending = 0
                   FROM shadow_status WHERE model_id = 'bad'";
    assert!(value::<bool>(&mut client, figures));
    let hint: String = value(&mut client, "SELECT _shadow_hint()");
    assert!(hint.contains("rolled back by the worker"), "{hint}");
    let found = "SELECT finding FROM doctor() WHERE subject = 'deployment bad' AND severity = 'warning' AND remedy ~ 'rolled back'";
    assert_eq!(value::<String>(&mut client, found), told);
    // base serves: nothing is watched, and nothing more happens
    execute(&mut client, "CALL run_due_work()");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM deployment"), 2);
}

#[test]
fn what_ranks_as_well_stays_and_a_rollback_goes_to_what_served_before() {
    let db = Server::by_hand().create_database("as_well");
    let mut client = with_models(&db, 60);
    deploy(&mut client, "same");
    show(&mut client, 10);
    execute(&mut client, "CALL run_due_work()");
    let (state, reason) = status(&mut client, "same");
    assert_eq!(state, "no worse", "{reason}");
    assert!(reason.contains("neither clearly better nor worse than \"base\""), "{reason}");
    let nothing = "SELECT abs(gain) < 1e-3 AND gain_low <= gain AND gain <= gain_high AND abs(auc - earlier_auc) < 1e-3 FROM shadow_status";
    assert!(value::<bool>(&mut client, nothing), "{reason}");
    assert_eq!(value::<String>(&mut client, LAST), "same, deploy, postgres");

    deploy(&mut client, "bad");
    show(&mut client, 10);
    execute(&mut client, "CALL run_due_work()");
    assert_eq!(value::<String>(&mut client, LAST), "same, rollback, pg_finetune worker");
    // it is watched again, beside what served before it, on what is shown from now on
    execute(&mut client, "CALL run_due_work()");
    let watched = "SELECT earlier_model_id || ' ' || scored FROM shadow_status WHERE live";
    assert_eq!(value::<String>(&mut client, watched), "base 0");
}

#[test]
fn a_person_or_a_setting_can_keep_the_worker_from_rolling_back() {
    let db = Server::by_hand().create_database("kept");
    let mut client = with_models(&db, 60);
    assert_error!(client, "SELECT set_auto_rollback(false)", "55000", "\"base\" is live");
    assert_error!(client, "SELECT set_auto_rollback(NULL)", "22004", "enabled");
    deploy(&mut client, "bad");
    assert_eq!(value::<String>(&mut client, "SELECT set_auto_rollback(false)"), "bad");
    show(&mut client, 10);
    execute(&mut client, "CALL run_due_work()");
    assert_eq!(status(&mut client, "bad").0, "worse");
    assert_eq!(value::<String>(&mut client, LAST), "bad, deploy, postgres");
    let hint: String = value(&mut client, "SELECT _shadow_hint()");
    assert!(hint.contains("ranks worse than \"base\""), "{hint}");

    let mends = "SELECT remedy FROM doctor() WHERE subject = 'deployment bad' AND severity = 'error'";
    assert!(value::<String>(&mut client, mends).starts_with("SELECT rollback_model("));

    execute(&mut client, "SELECT set_auto_rollback(true); SET pg_finetune.auto_rollback = off");
    execute(&mut client, "CALL run_due_work()");
    assert_eq!(value::<String>(&mut client, LAST), "bad, deploy, postgres");
    execute(&mut client, "RESET pg_finetune.auto_rollback");
    execute(&mut client, "CALL run_due_work()");
    assert_eq!(value::<String>(&mut client, LAST), "base, rollback, pg_finetune worker");
}

#[test]
fn scores_come_from_the_profile_as_it_was_before_the_item_was_shown() {
    let db = Server::by_hand().create_database("leak");
    let mut client = db.install("pgft");
    execute(
        &mut client,
        "CREATE FUNCTION acted(signal text, action text, vector vector, ago interval) RETURNS void LANGUAGE sql AS $$
             INSERT INTO training_data_point (user_id, id, source, signal_id, chunk_content, embedding, user_action, shown_at, actioned_at)
             VALUES ('ann', signal, 'test', signal, signal, vector, action, now() - ago - interval '1 minute', now() - ago) $$;
         SELECT acted('a', 'saved', '[1,2,0]', '5 days'), acted('b', 'snipped', '[3,0,1]', '4 days'), acted('c', 'skipped', '[0,1,1]', '4 days')",
    );
    let before: String = value(&mut client, "SELECT user_query('ann', 'base')::text");
    execute(
        &mut client,
        "SELECT acted('item', 'saved', '[-1,4,2]', '3 days'), acted('later', 'saved', '[-2,5,1]', '2 days'),
                acted('changed', 'skipped', '[0,0,7]', '1 day');
         UPDATE training_data_point SET user_action = 'saved' WHERE signal_id = 'changed'",
    );
    let scores = |moment: &str| {
        format!("SELECT _shadow_scores('ann', 'test', 'item', {moment}, '[-1,4,2]', 'base', 'base', '{{1,0,0,0,1,0}}')")
    };
    let shown = "(SELECT shown_at FROM training_data_point WHERE signal_id = 'item')";
    let cosine: f64 = value(&mut client, &format!("SELECT 1 - ('[-1,4,2]'::vector <=> '{before}')"));
    let found: Vec<f64> = value(&mut client, &scores(shown));
    assert!((found[0] - cosine).abs() < 1e-6 && found[..2] == found[2..], "{found:?} for {cosine}");
    // of two items, the standard deviation is half of what lies between them
    let apart: f64 = value(
        &mut client,
        &format!("SELECT abs(('[1,0,0]'::vector <=> '{before}') - ('[0,1,0]'::vector <=> '{before}')) / 2"),
    );
    assert!((found[1] - apart).abs() < 1e-6, "{found:?}, {apart}");
    // its own outcome never counts, whatever the clocks say
    let late: Vec<f64> = value(&mut client, &scores("now()"));
    let with_it: f64 = value(&mut client, "SELECT 1 - ('[-1,4,2]'::vector <=> user_query('ann', 'base'))");
    execute(&mut client, "DELETE FROM training_data_point WHERE signal_id = 'item'");
    let without: f64 = value(&mut client, "SELECT 1 - ('[-1,4,2]'::vector <=> user_query('ann', 'base'))");
    assert!((late[0] - without).abs() < 1e-6 && late[0] < with_it, "{late:?}: {without}, not {with_it}");
    assert_eq!(value::<Option<Vec<f64>>>(&mut client, &scores("now() - interval '10 days'")), None, "no profile then");
}

#[test]
fn the_sample_is_bounded_keeps_to_its_users_and_forgets_them() {
    let db = Server::by_hand().create_database("bounds");
    let mut client = with_models(&db, 60);
    deploy(&mut client, "same");
    execute(
        &mut client,
        "INSERT INTO signal (user_id, chunk_id) SELECT 'user-' || (i % 60), 1 + i % 1000 FROM generate_series(1, 4000) i;
         INSERT INTO signal (user_id, chunk_id) SELECT 'crawler', 1 + i % 1000 FROM generate_series(1, 500) i;
         INSERT INTO signal (user_id, chunk_id) SELECT 'ann', 1",
    );
    execute(&mut client, "CALL run_due_work()");
    let most = "SELECT max(n)::int8 FROM (SELECT count(*) AS n FROM shadow_score GROUP BY user_id) t";
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM shadow_score"), 1000);
    assert!(value::<i64>(&mut client, most) <= 50);
    execute(&mut client, "CALL run_due_work()");
    assert!(value::<i64>(&mut client, "SELECT count(*) FROM shadow_score") <= 2000);
    assert_eq!(value::<i64>(&mut client, "SELECT pending FROM shadow_status"), 2000);

    let drawn: String = value(&mut client, "SELECT min(user_id) FROM shadow_score");
    let receipt: String = value(&mut client, &format!("SELECT forget_user('{drawn}') #>> '{{removed,shadow_score}}'"));
    assert_ne!(receipt, "0");
    let theirs = format!("SELECT count(*) FROM shadow_score WHERE user_id = '{drawn}'");
    assert_eq!(value::<i64>(&mut client, &theirs), 0);
    // who never decides makes room again
    execute(&mut client, "UPDATE shadow_score SET shown_at = shown_at - interval '8 days'");
    execute(&mut client, "CALL run_due_work()");
    let old = "SELECT count(*) FROM shadow_score WHERE shown_at < now() - interval '7 days'";
    assert_eq!(value::<i64>(&mut client, old), 0);
    execute(&mut client, "SELECT set_retention('shadow_score', '1 day')");
}

#[test]
fn the_worker_looks_by_itself() {
    let server = Server::private(&[("shared_preload_libraries", "pg_finetune")]);
    let db = server.create_database("alone");
    let mut client = with_models(&db, 60);
    client.query(DEPLOY, &[&"bad"]).unwrap();
    let patience = Duration::from_secs(60);
    wait_until(patience, "a first look", || {
        value::<i64>(&mut client, "SELECT count(*) FROM shadow_status WHERE looked_at IS NOT NULL") == 1
    });
    show(&mut client, 10);
    execute(&mut client, "UPDATE shadow_look SET next_due_at = now(); SELECT resume_worker()");
    wait_until(patience, "the rollback", || value::<String>(&mut client, LAST) == "base, rollback, pg_finetune worker");
    let hint: String = value(&mut client, "SELECT hint FROM worker_status()");
    assert!(hint.contains("rolled back by the worker"), "{hint}");
    assert!(server.log().contains("pg_finetune: rolled back to \"base\": on the last 500 live impressions"));
}
