//! What becomes an example: duplicates, conflicts, mistakes, weights, filters, refusals.

use crate::common::*;
use crate::*;

#[test]
fn freezes_and_counts_what_it_leaves_out() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         SELECT act('u1', 'pending', NULL, 1), act('u1', 'zero', 'saved', 1, '[0,0,0]'), act('once', 'x', 'saved', 1);
         SELECT act('u1', 'plain', 'saved', 1); UPDATE training_data_point SET embedding = NULL WHERE id = 'plain';",
    );
    client.execute("SELECT create_dataset('d')", &[]).unwrap();
    for (path, expected) in [
        ("points", 404),
        ("examples", 400),
        ("positives", 280),
        ("negatives", 120),
        ("users", 20),
        ("left_out,pending", 1),
        ("left_out,zero_vector", 1),
        ("left_out,no_embedding", 1),
        ("left_out,user_below_minimum", 1),
        ("left_out,users_below_minimum", 1),
    ] {
        assert_eq!(reported(&mut client, path), expected, "{path}");
    }
    let marked: i64 = value(
        &mut client,
        "SELECT count(*) FROM training_data_point p JOIN dataset_example e USING (user_id, id)
         WHERE p.used_for_training AND p.training_set_version = 1",
    );
    assert_eq!(marked, 400);
    let others: i64 = value(&mut client, "SELECT count(*) FROM training_data_point WHERE used_for_training");
    assert_eq!(others, 400);
    let row = client.query_one("SELECT name, version, examples, train + test, test FROM datasets", &[]).unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2), row.get(3)), ("d", 1, 400i64, 400i64));
    assert_eq!(row.get::<_, i64>(4), 80);
}

#[test]
fn copies_of_a_text_become_one_with_the_last_action() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         SELECT act('u1', 'first', 'saved', 1, words => E'the  same\\nwords'),
                act('u1', 'second', 'skipped', 50, words => ' the same words '),
                act('u1', 'third', 'skipped', 40, words => 'the same words');",
    );
    client.execute("SELECT create_dataset('d')", &[]).unwrap();
    let row = client
        .query_one(
            "SELECT id, user_action, label, shown_at < actioned_at, chunk_content FROM dataset_example
             WHERE user_id = 'u1' AND chunk_content ~ 'the +same'",
            &[],
        )
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), ("first", "skipped"));
    assert!(!row.get::<_, bool>(2) && row.get::<_, bool>(3));
    assert_eq!(row.get::<_, &str>(4), "the  same\nwords");
    assert_eq!(reported(&mut client, "left_out,duplicates"), 2);
    assert_eq!(reported(&mut client, "conflicting_texts"), 1);
    let marked: i64 = value(
        &mut client,
        "SELECT count(*) FROM training_data_point WHERE used_for_training AND id IN ('first', 'second', 'third')",
    );
    assert_eq!(marked, 3);
}

#[test]
fn mistakes_of_the_score_weigh_more() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         SELECT act('u1', 'wrong', 'skipped', 3, score => 0.6), act('u1', 'missed', 'saved', 4, score => 0.39),
                act('u1', 'right', 'saved', 5, score => 0.4), act('u1', 'fine', 'skipped', 6, score => 0.59);",
    );
    client.execute("SELECT create_dataset('d', mistake_weight => 3)", &[]).unwrap();
    let found: Vec<String> = values(
        &mut client,
        "SELECT concat_ws(' ', id, evidence, weight) FROM dataset_example WHERE relevance_score IS NOT NULL ORDER BY id",
    );
    assert_eq!(found, ["fine bad 1", "missed mistake 3", "right good 1", "wrong mistake 3"]);
}

#[test]
fn the_same_points_and_seed_give_the_same_dataset() {
    let (_db, mut client) = database("SELECT act_shared(30, 40);");
    client
        .batch_execute(
            "BEGIN; SELECT create_dataset('d'); SELECT create_dataset('d'); COMMIT;
             UPDATE training_data_point SET quality_score = 1 WHERE hashtext(id) % 2 = 0;
             SELECT create_dataset('e'); SELECT create_dataset('f', seed => 7, split => 'chunk');
             SELECT create_dataset('g', seed => 8, split => 'chunk');
             SET effective_cache_size = 1; SELECT create_dataset('larger than memory');",
        )
        .unwrap();
    let digests: Vec<String> = values(&mut client, "SELECT encode(digest, 'hex') FROM dataset ORDER BY name, version");
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    assert_ne!(digests[3], digests[4]);
    assert_eq!(digests[0], digests[5], "in whichever order they are read");
    let versions: Vec<i32> = values(&mut client, "SELECT version FROM dataset ORDER BY name, version");
    assert_eq!(versions, [1, 2, 1, 1, 1, 1]);
}

#[test]
fn the_window_and_the_positive_set_are_kept() {
    let (_db, mut client) = database("SELECT act_alone(20, 30);");
    client
        .batch_execute(
            "SELECT create_dataset('w', since => '2026-01-01 05:00+00', until => '2026-01-01 15:00+00', min_examples => 10);
             SELECT create_dataset('p', positive => '{snipped}');",
        )
        .unwrap();
    let window: Vec<i64> = values(
        &mut client,
        "SELECT count(*) FROM dataset_example JOIN dataset d ON d.id = dataset_id WHERE name = 'w'
         UNION ALL SELECT count(*) FROM dataset_example JOIN dataset d ON d.id = dataset_id
                   WHERE name = 'w' AND actioned_at BETWEEN '2026-01-01 05:00+00' AND '2026-01-01 14:00+00'",
    );
    assert_eq!(window, [200, 200]);
    let labels: Vec<String> = values(
        &mut client,
        "SELECT DISTINCT user_action || ' ' || label FROM dataset_example JOIN dataset d ON d.id = dataset_id
         WHERE name = 'p' ORDER BY 1",
    );
    assert_eq!(labels, ["saved false", "skipped false", "snipped true"]);
}

#[test]
fn refuses_what_cannot_make_a_dataset_and_leaves_nothing_behind() {
    let (_db, mut client) = database("SELECT act_alone(5, 20);");
    assert_error!(
        client,
        "SELECT create_dataset('d')",
        "55000",
        "There are 70 positive and 30 negative examples, 300 required; missing: 200 more of any kind"
    );
    assert_error!(
        client,
        "SELECT create_dataset('d', positive => '{snipped}', since => '2026-01-01 02:00+00', until => '2026-01-01 03:00+00',
                               min_examples => 5, min_user_saved => 0, min_user_skipped => 0)",
        "55000",
        "5 positive and 0 negative",
        "at least 1 negative"
    );
    assert_error!(
        client,
        "SELECT create_dataset('d', min_examples => 10, min_per_class => 40)",
        "55000",
        "70 positive and 30 negative",
        "at least 40 negative"
    );
    client.batch_execute("SELECT act('u1', 'short', 'saved', 3, '[1,2]')").unwrap();
    assert_error!(
        client,
        "SELECT create_dataset('d', min_examples => 10)",
        "22000",
        "3 dimensions: 100 points, 2 dimensions: 1 points"
    );
    for (argument, part) in [
        ("positive => '{}'", "[]"),
        ("positive => '{saved,skipped,snipped}'", "the others are negative"),
        ("positive => '{liked}'", "liked"),
        ("test_share => 1", "0.9"),
        ("split => 'users'", "time, strict, chunk, user, history"),
        ("since => '2026-01-02', until => '2026-01-02'", "empty"),
        ("mistake_weight => 0", "mistake_weight"),
        ("min_examples => NULL", "min_examples"),
        ("min_per_class => 0", "min_per_class"),
    ] {
        assert_error!(client, &format!("SELECT create_dataset('d', {argument})"), "22023", part);
    }
    assert_error!(client, "SELECT create_dataset('a:1')", "22023", "colon");
    let left: i64 = value(
        &mut client,
        "SELECT (SELECT count(*) FROM dataset) + (SELECT count(*) FROM dataset_example)
              + (SELECT count(*) FROM training_data_point WHERE used_for_training)",
    );
    assert_eq!(left, 0);
}

#[test]
fn refuses_saves_and_skips_from_different_places() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         UPDATE training_data_point SET surface = CASE WHEN user_action = 'skipped' THEN 'feed' ELSE 'search' END;",
    );
    assert_error!(client, "SELECT create_dataset('d')", "55000", "overlap by 0 %", "surfaces");
    client
        .batch_execute(
            "UPDATE training_data_point SET surface = 'feed' WHERE hashtext(id) % 2 = 0; SELECT create_dataset('d');",
        )
        .unwrap();
    client.batch_execute("SELECT create_dataset('one', surfaces => '{feed}', min_examples => 10)").unwrap();
    let surfaces: Vec<String> = values(
        &mut client,
        "SELECT DISTINCT surface FROM dataset_example JOIN dataset d ON d.id = dataset_id WHERE name = 'one'",
    );
    assert_eq!(surfaces, ["feed"]);
    client.batch_execute("UPDATE training_data_point SET surface = NULL, session_id = user_action").unwrap();
    assert_error!(client, "SELECT create_dataset('d')", "55000", "0 % of the sessions");
    client.batch_execute("UPDATE training_data_point SET session_id = NULL; SELECT create_dataset('d')").unwrap();
    let warned: bool = value(
        &mut client,
        "SELECT report ->> 'warnings' ~ 'no surface recorded' FROM dataset WHERE name = 'd' AND version = 2",
    );
    assert!(warned);
}

#[test]
fn names_resolve_and_unknown_ones_are_explained() {
    let (_db, mut client) = database("SELECT act_alone(20, 20);");
    assert_error!(client, "SELECT _dataset_id('d')", "42704", "no datasets yet", "create_dataset");
    client
        .batch_execute("SELECT create_dataset('d'); SELECT create_dataset('d'); SELECT create_dataset('other')")
        .unwrap();
    let same: bool = value(
        &mut client,
        "SELECT _dataset_id('d') = _dataset_id('d:2') AND _dataset_id('d:1') <> _dataset_id('d')
            AND _dataset_id((SELECT id::text FROM dataset WHERE name = 'd' AND version = 1)) = _dataset_id('d:1')",
    );
    assert!(same);
    assert_error!(client, "SELECT _dataset_id('d:3')", "42704", "d (versions 1, 2)", "other (version 1)");
    assert_error!(client, "SELECT export_jsonl('nothing')", "42704", "dataset \"nothing\"");
}

#[test]
fn drops_what_no_model_and_no_job_needs() {
    let (_db, mut client) = database("SELECT act_alone(20, 20);");
    client
        .batch_execute(
            "SELECT create_dataset('d'); SELECT create_dataset('d');
             INSERT INTO model (id, base_model, provider, method, dataset_id) VALUES ('m', 'base', 'builtin', 'contrastive', _dataset_id('d:1'));
             INSERT INTO fine_tuning_job (dataset_id, provider, base_model, method, seed, deadline_at)
             VALUES (_dataset_id('d:2'), 'builtin', 'base', 'contrastive', 1, now());",
        )
        .unwrap();
    assert_error!(client, "SELECT drop_dataset('d:1')", "2BP01", "Models: m");
    assert_error!(client, "SELECT drop_dataset('d:2')", "55006", "is pending");
    client.batch_execute("UPDATE fine_tuning_job SET state = 'failed'").unwrap();
    assert_eq!(value::<String>(&mut client, "SELECT drop_dataset('d')"), "d:2");
    assert_eq!(value::<String>(&mut client, "SELECT drop_dataset('d:1', force => true)"), "d:1");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM dataset_example"), 0);
}

#[test]
fn roles_may_do_what_they_are_for() {
    let (db, mut client) = database("SELECT act_alone(20, 20); GRANT USAGE ON SCHEMA public TO PUBLIC;");
    let admin = Server::shared().create_role("dataset_admin", &["finetune_admin"]);
    let analyst = Server::shared().create_role("dataset_analyst", &["finetune_analyst"]);
    let app = Server::shared().create_role("dataset_app", &["finetune_app"]);
    db.connect_as(&admin).batch_execute("SELECT pgft.create_dataset('d'); SELECT pgft.drop_dataset('d')").unwrap();
    client.batch_execute("SELECT create_dataset('d')").unwrap();
    let mut reader = db.connect_as(&analyst);
    reader
        .batch_execute(
            "SELECT * FROM pgft.datasets; SELECT pgft.export_jsonl('d', 'raw'); SELECT pgft.contrastive_triplets('d')",
        )
        .unwrap();
    assert_eq!(expect_error(&mut reader, "SELECT pgft.create_dataset('x')").code, "42501");
    assert_eq!(expect_error(&mut db.connect_as(&app), "SELECT pgft.export_jsonl('d', 'raw')").code, "42501");
}

#[test]
fn filters_leave_out_and_are_counted() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         UPDATE training_data_point SET relevance_score = 0.5, source = CASE WHEN user_id = 'u2' THEN 'other' ELSE 'api' END;
         UPDATE training_data_point SET relevance_score = 0.1 WHERE user_id = 'u3';
         UPDATE training_data_point SET relevance_score = NULL WHERE id = 'u4-1';
         SELECT create_dataset('d', users => ARRAY(SELECT 'u' || i FROM generate_series(2, 9) i), sources => '{api}',
                               actions => '{saved,skipped}', min_score => 0.3, min_examples => 10);",
    );
    let users: Vec<String> = values(&mut client, "SELECT DISTINCT user_id FROM dataset_example ORDER BY 1");
    assert_eq!(users, ["u4", "u5", "u6", "u7", "u8", "u9"]);
    let actions: Vec<String> = values(&mut client, "SELECT DISTINCT user_action FROM dataset_example ORDER BY 1");
    assert_eq!(actions, ["saved", "skipped"]);
    for (path, expected) in [
        ("left_out,other_source", 20),
        ("left_out,other_user", 240),
        ("left_out,other_score", 14),
        ("left_out,other_action", 49),
        ("examples", 77),
    ] {
        assert_eq!(reported(&mut client, path), expected, "{path}");
    }
}

#[test]
fn a_cap_keeps_the_newest_of_both_kinds() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 9); SELECT act('heavy', 'h' || i, CASE WHEN i % 4 = 0 THEN 'skipped' ELSE 'saved' END, i) FROM generate_series(1, 400) i;
         SELECT create_dataset('open', min_examples => 10);
         SELECT create_dataset('d', max_per_user => 20, min_examples => 10);",
    );
    let row = client
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE label), min(actioned_at) > '2026-01-15' FROM dataset_example
             WHERE user_id = 'heavy' AND dataset_id = _dataset_id('d')",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, bool>(2)), (20, 15, true));
    assert_eq!(reported(&mut client, "left_out,over_the_cap"), 380);
    let untouched: i64 = value(
        &mut client,
        "SELECT count(*) FROM dataset_example WHERE user_id = 'u1' AND dataset_id = _dataset_id('d')",
    );
    assert_eq!(untouched, 9);
    let warned: bool =
        value(&mut client, "SELECT report ->> 'warnings' ~ 'max_per_user' FROM dataset WHERE name = 'open'");
    assert!(warned);
}

#[test]
fn conflicts_go_by_the_stated_rule() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         SELECT act('u1', 'c1', 'saved', 1, words => 'both ways'), act('u1', 'c2', 'skipped', 50, words => 'both ways');
         SELECT create_dataset(c, conflicts => c) FROM unnest('{latest,positive,negative,drop}'::text[]) c;",
    );
    let found: Vec<String> = values(
        &mut client,
        "SELECT name || ' ' || coalesce((SELECT id || ' ' || user_action FROM dataset_example WHERE dataset_id = d.id AND chunk_content = 'both ways'), 'none')
             || ' ' || (report ->> 'conflicting_texts') FROM dataset d ORDER BY name",
    );
    // c1 is the earliest copy and gives the row its id; the rule gives it the action
    assert_eq!(found, ["drop none 2", "latest c1 skipped 1", "negative c1 skipped 1", "positive c1 saved 1"]);
}

#[test]
fn actions_age_and_mistakes_have_their_weights() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         SELECT act('u1', 'new', 'saved', 1000), act('u1', 'snip', 'snipped', 1000), act('u1', 'old', 'saved', 1000 - 240),
                act('u1', 'wrong', 'skipped', 1000 - 480, score => 0.9);
         SELECT create_dataset('d', action_weights => '{\"snipped\": 1.5}', half_life => '10 days', mistake_weight => 3);",
    );
    let found: Vec<String> = values(
        &mut client,
        "SELECT id || ' ' || weight FROM dataset_example WHERE id IN ('new', 'snip', 'old', 'wrong') ORDER BY id",
    );
    assert_eq!(found, ["new 1", "old 0.5", "snip 1.5", "wrong 0.75"]);
    for (argument, part) in [
        ("action_weights => '{\"liked\": 1}'", "liked"),
        ("action_weights => '{\"saved\": 0}'", "0.001"),
        ("half_life => '-1 day'", "above zero"),
        ("conflicts => 'ask'", "latest, drop, positive, negative"),
        ("near_duplicates => 0.5", "near_duplicates is 0.5"),
        ("min_score => 0.5, max_score => 0.4", "min_score"),
        ("max_per_user => 1", "max_per_user"),
        ("keep => NULL", "earliest, latest"),
    ] {
        assert_error!(client, &format!("SELECT create_dataset('x', {argument})"), "22023", part);
    }
}

#[test]
fn what_was_shown_and_ignored_is_a_weak_negative_on_demand() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         SELECT act('u1', 'ignored', NULL, 1), act('u1', 'fresh', NULL, 1000), act('u1', 'last', 'saved', 1001),
                act('u1', 'seen', NULL, 2, words => 'a text'), act('u1', 'judged', 'saved', 1, words => 'a text');
         SELECT create_dataset('strict'); SELECT create_dataset('d', ignored_after => '14 days');",
    );
    let found = client
        .query(
            "SELECT id, user_action, label, evidence, weight FROM dataset_example
             WHERE dataset_id = _dataset_id('d') AND (evidence = 'ignored' OR chunk_content = 'a text') ORDER BY id",
            &[],
        )
        .unwrap();
    let rows: Vec<(&str, &str, bool, &str, f64)> =
        found.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3), r.get(4))).collect();
    // a real action on a copy of the text says more than having ignored it
    assert_eq!(rows, [("ignored", "ignored", false, "ignored", 0.25), ("judged", "saved", true, "good", 1.0)]);
    assert_eq!(reported(&mut client, "left_out,pending"), 1);
    let none: i64 = value(
        &mut client,
        "SELECT count(*) FROM dataset_example WHERE dataset_id = _dataset_id('strict') AND evidence = 'ignored'",
    );
    assert_eq!(none, 0);
}

/// Texts in other words: their vectors are 5 degrees from one another.
const NEAR: &str = "
    CREATE FUNCTION near(step int) RETURNS vector LANGUAGE sql AS
    $$ SELECT ARRAY[cosd(5 * step) * 100, sind(5 * step) * 100, 0]::vector $$;
    SELECT act_alone(20, 20);
    SELECT act('u1', 'first', 'saved', 10, near(0)), act('u1', 'second', 'skipped', 20, near(1)), act('u2', 'third', 'saved', 30, near(2));";

#[test]
fn near_copies_are_one_text() {
    let (_db, mut client) = database(&format!(
        "{NEAR} SELECT create_dataset('plain'); SELECT create_dataset('d', near_duplicates => 0.98); \
         SELECT create_dataset('latest', near_duplicates => 0.98, keep => 'latest');"
    ));
    let mut kept = |name: &str| -> Vec<String> {
        values(
            &mut client,
            &format!(
                "SELECT concat_ws(' ', user_id, id, user_action, split) FROM dataset_example
                 WHERE dataset_id = _dataset_id('{name}') AND id IN ('first', 'second', 'third') ORDER BY 1"
            ),
        )
    };
    assert_eq!(kept("plain").len(), 3);
    let one = kept("d");
    assert_eq!(one.len(), 2, "{one:?}");
    assert!(one[0].starts_with("u1 first skipped") && one[1].starts_with("u2 third saved"), "{one:?}");
    assert_eq!(one[0].rsplit(' ').next(), one[1].rsplit(' ').next(), "near copies stand on one side: {one:?}");
    assert!(kept("latest")[0].starts_with("u1 second skipped"));
    assert!(value::<bool>(
        &mut client,
        "SELECT (report ->> 'near_duplicates')::int >= 2 FROM dataset WHERE name = 'd'"
    ));
}

#[test]
fn the_digest_covers_what_is_frozen() {
    let (_db, mut client) = database("SELECT act_alone(20, 20); SELECT create_dataset('d');");
    let whole = |client: &mut Client| value::<bool>(client, "SELECT dataset_digest('d') = digest FROM dataset");
    assert!(whole(&mut client));
    for change in [
        "chunk_content = chunk_content || '.'",
        "weight = 7",
        "split = CASE split WHEN 'train' THEN 'test' ELSE 'train' END",
        "embedding = '[1,2,4]'",
        "query_embedding = '[1,2,4]'",
        "surface = 'elsewhere'",
        "context = 'a title'",
        "reason = 'for the record'",
        "evidence = 'mistake'",
    ] {
        let mut change_one = client.transaction().unwrap();
        change_one.batch_execute(&format!("UPDATE dataset_example SET {change} WHERE id = 'u3-4'")).unwrap();
        assert!(!value::<bool>(&mut change_one, "SELECT dataset_digest('d') = digest FROM dataset"), "{change}");
        change_one.rollback().unwrap();
    }
    assert!(whole(&mut client));
}

#[test]
fn points_that_change_meanwhile_are_frozen_all_the_same() {
    let (_db, mut client) = database("SELECT act_alone(20, 20); SELECT _drop_notes();");
    let parameters = "jsonb_build_object('positive', '[\"saved\"]'::jsonb, 'min_user_saved', 0, 'min_user_skipped', 0, 'keep', 'earliest',
        'conflicts', 'latest', 'split', 'time', 'mistake_weight', 2, 'ignored_weight', 1)";
    let mut transaction = client.transaction().unwrap();
    transaction
        .batch_execute(&format!(
            "SELECT _read_points({parameters}), _find_twins(NULL, 'earliest'), _judge_points({parameters}), _split_texts(0.2, 'time', 1);
             UPDATE training_data_point SET quality_score = 1 WHERE user_id = 'u1';
             SELECT _freeze_points('11111111-0000-0000-0000-000000000000', {parameters});
             UPDATE training_data_point SET quality_score = 2 WHERE user_id = 'u2'; SELECT _mark_points(7);"
        ))
        .unwrap();
    let row = transaction
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE user_id = 'u1'),
                    (SELECT count(*) FROM training_data_point WHERE used_for_training AND training_set_version = 7) FROM dataset_example",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (400, 20, 400));
}

#[test]
fn a_captured_reason_is_frozen_with_the_action() {
    let (_db, mut client) = database(
        "CREATE TABLE signal (id bigint PRIMARY KEY, user_id text, user_action text, why text);
         CREATE VIEW seen AS SELECT id AS signal_id, user_id, user_action, why AS reason, 'text ' || id AS chunk_content,
             ARRAY[1, id, id % 7]::real[]::vector AS embedding FROM signal;
         SELECT capture_signals('signal', via => 'seen');
         INSERT INTO signal SELECT i, 'u' || i % 20, CASE WHEN i % 3 = 0 THEN 'saved' END, NULL FROM generate_series(1, 400) i;
         UPDATE signal SET user_action = 'skipped', why = 'too long' WHERE user_action IS NULL;
         UPDATE signal SET user_action = 'saved', why = NULL WHERE id = 1;
         SELECT create_dataset('d');",
    );
    let reasons: Vec<String> = values(
        &mut client,
        "SELECT DISTINCT concat_ws(' ', user_action, coalesce(reason, 'without')) FROM dataset_example ORDER BY 1",
    );
    assert_eq!(reasons, ["saved without", "skipped too long"]);
}
