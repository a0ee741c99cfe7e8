//! Datasets: what is frozen and what is left out, splits without leaks, refusals, triplets and export.

mod common;

use common::*;
use std::time::{Duration, Instant};

/// Functions of the test that write what users did.
const FIXTURE: &str = "
    CREATE FUNCTION act(who text, what text, action text, at int, vec vector DEFAULT NULL, score float8 DEFAULT NULL,
                        surface text DEFAULT NULL, words text DEFAULT NULL, session text DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
        INSERT INTO training_data_point (user_id, id, chunk_content, embedding, user_action, actioned_at, shown_at,
                                         relevance_score, surface, session_id)
        VALUES (who, what, coalesce(words, 'about ' || what),
                coalesce(vec, ('[1,' || hashtext(what) % 97 || ',' || hashtext(what || '!') % 89 || ']')::vector), action,
                CASE WHEN action IS NOT NULL THEN '2026-01-01'::timestamptz + at * interval '1 hour' END,
                '2026-01-01'::timestamptz + at * interval '1 hour', score, surface, session)
    $$;
    -- users u1.. each with texts of their own, every third skipped
    CREATE FUNCTION act_alone(users int, items int) RETURNS void LANGUAGE sql AS $$
        SELECT act('u' || u, 'u' || u || '-' || i, CASE WHEN i % 3 = 0 THEN 'skipped' WHEN i % 3 = 1 THEN 'saved' ELSE 'snipped' END, i)
        FROM generate_series(1, users) u, generate_series(1, items) i
    $$;
    -- all users see the same texts, each in an order of the user's own
    CREATE FUNCTION act_shared(users int, items int) RETURNS void LANGUAGE sql AS $$
        SELECT act('u' || u, 't' || i, CASE WHEN (u + i) % 3 = 0 THEN 'skipped' ELSE 'saved' END, (i * (2 * u + 1)) % 1009)
        FROM generate_series(1, users) u, generate_series(1, items) i
    $$;";

fn database(fixture: &str) -> (Database<'static>, Client) {
    let db = Server::shared().create_database("dataset");
    let mut client = db.install("pgft");
    client.batch_execute(FIXTURE).unwrap();
    client.batch_execute(fixture).unwrap();
    (db, client)
}

/// A number of the newest dataset's report, by its path.
fn reported(client: &mut Client, path: &str) -> i64 {
    value(client, &format!("SELECT (report #>> '{{{path}}}')::bigint FROM dataset ORDER BY created_at DESC LIMIT 1"))
}

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
fn no_text_stands_on_both_sides() {
    for split in ["time", "strict", "chunk"] {
        let (_db, mut client) = database("SELECT act_shared(30, 40);");
        client.execute("SELECT create_dataset('d', split => $1)", &[&split]).unwrap();
        let leaks: i64 = value(
            &mut client,
            "SELECT count(*) FROM (SELECT FROM dataset_example GROUP BY content_hash HAVING count(DISTINCT split) > 1) l",
        );
        assert_eq!(leaks, 0, "{split}");
        let share: f64 = value(
            &mut client,
            "SELECT (count(*) FILTER (WHERE split = 'test'))::float8 / count(*) FROM dataset_example",
        );
        assert!((0.12..=0.28).contains(&share), "{split}: {share}");
        let examples = reported(&mut client, "examples");
        let left_out = reported(&mut client, "left_out,other_side");
        assert_eq!(examples + left_out, 1200, "{split}");
        assert_eq!(left_out > 0, split == "strict", "{split}: {left_out}");
        if split == "strict" {
            assert_eq!(reported(&mut client, "test,older_than_own_train"), 0);
        }
    }
}

#[test]
fn history_cuts_every_user_and_says_what_that_means() {
    let (_db, mut client) = database("SELECT act_shared(30, 40); SELECT create_dataset('d', split => 'history');");
    let uneven: i64 = value(
        &mut client,
        "SELECT count(*) FROM (SELECT FROM dataset_example GROUP BY user_id
         HAVING count(*) FILTER (WHERE split = 'test') <> 8
             OR max(actioned_at) FILTER (WHERE split = 'train') >= min(actioned_at) FILTER (WHERE split = 'test')) u",
    );
    assert_eq!(uneven, 0);
    assert!(value::<bool>(&mut client, "SELECT report ->> 'warnings' ~ 'both sides' FROM dataset"));
}

#[test]
fn texts_of_ones_own_are_split_by_time() {
    let (_db, mut client) = database("SELECT act_alone(20, 20);");
    client.execute("SELECT create_dataset('d')", &[]).unwrap();
    let mixed: i64 = value(
        &mut client,
        "SELECT count(*) FROM (SELECT FROM dataset_example GROUP BY user_id
         HAVING max(actioned_at) FILTER (WHERE split = 'train') >= min(actioned_at) FILTER (WHERE split = 'test')
             OR count(*) FILTER (WHERE split = 'test') <> 4) m",
    );
    assert_eq!(mixed, 0);
    let moment: bool = value(
        &mut client,
        "SELECT d.split_at = (SELECT min(actioned_at) FROM dataset_example WHERE split = 'test') FROM dataset d",
    );
    assert!(moment);
}

#[test]
fn the_same_points_and_seed_give_the_same_dataset() {
    let (_db, mut client) = database("SELECT act_shared(30, 40);");
    client
        .batch_execute(
            "BEGIN; SELECT create_dataset('d'); SELECT create_dataset('d'); COMMIT;
             UPDATE training_data_point SET quality_score = 1 WHERE hashtext(id) % 2 = 0;
             SELECT create_dataset('e'); SELECT create_dataset('f', seed => 7, split => 'chunk');
             SELECT create_dataset('g', seed => 8, split => 'chunk');",
        )
        .unwrap();
    let digests: Vec<String> = values(&mut client, "SELECT encode(digest, 'hex') FROM dataset ORDER BY name, version");
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    assert_ne!(digests[3], digests[4]);
    let versions: Vec<i32> = values(&mut client, "SELECT version FROM dataset ORDER BY name, version");
    assert_eq!(versions, [1, 2, 1, 1, 1]);
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
    client.batch_execute("SELECT act('u1', 'short', 'saved', 3, '[1,2]')").unwrap();
    assert_error!(
        client,
        "SELECT create_dataset('d', min_examples => 10)",
        "22000",
        "3 dimensions: 100 points, 2 dimensions: 1 points"
    );
    for (argument, part) in [
        ("positive => '{}'", "{}"),
        ("positive => '{saved,skipped,snipped}'", "the others are negative"),
        ("positive => '{liked}'", "{liked}"),
        ("test_share => 1", "0.9"),
        ("split => 'users'", "time, strict, chunk, history"),
        ("since => '2026-01-02', until => '2026-01-02'", "empty"),
        ("mistake_weight => 0", "mistake_weight"),
        ("min_examples => NULL", "min_examples"),
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
fn triplets_are_reproducible_and_keep_their_rules() {
    let (_db, mut client) = database("SELECT act_shared(30, 40); SELECT create_dataset('d');");
    let all = |seed: i32| {
        format!(
            "SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM contrastive_triplets('d', seed => {seed}) t"
        )
    };
    let first: String = value(&mut client, &all(1));
    assert_eq!(first, value::<String>(&mut client, &all(1)));
    assert_ne!(first, value::<String>(&mut client, &all(2)));
    let broken: i64 = value(
        &mut client,
        "SELECT count(*) FROM contrastive_triplets('d', 16, 'hard') t
         JOIN dataset_example a ON (a.user_id, a.id) = (t.user_id, t.anchor_id)
         JOIN dataset_example p ON (p.user_id, p.id) = (t.user_id, t.positive_id)
         LEFT JOIN dataset_example n ON (n.user_id, n.id) = (t.user_id, t.negative_id) AND NOT t.mined
         WHERE NOT a.label OR NOT p.label OR n.label OR a.id = p.id OR NOT t.mined AND n.id IS NULL
            OR 'test' IN (a.split, p.split, n.split)
            OR t.mined AND EXISTS (SELECT FROM dataset_example s WHERE s.user_id = t.user_id AND s.chunk_content = t.negative)",
    );
    assert_eq!(broken, 0);
    let counts = client
        .query_one(
            "SELECT count(*) FILTER (WHERE mined), max(n) FROM (
                 SELECT t.mined, count(*) OVER (PARTITION BY user_id, positive_id) AS n FROM contrastive_triplets('d', 16) t) c",
            &[],
        )
        .unwrap();
    assert!(counts.get::<_, i64>(1) <= 16);
    let mined_at_random: i64 =
        value(&mut client, "SELECT count(*) FROM contrastive_triplets('d', 16, 'random') WHERE mined");
    assert_eq!(mined_at_random, 0);
    let test_side: i64 = value(
        &mut client,
        "SELECT count(*) FROM contrastive_triplets('d', split => 'test') t JOIN dataset_example p
         ON (p.user_id, p.id) = (t.user_id, t.positive_id) WHERE p.split <> 'test'",
    );
    assert_eq!(test_side, 0);
}

#[test]
fn mining_fills_up_with_texts_of_others() {
    // a user with two saves and a single skip among users with many texts
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         SELECT act('few', 's1', 'saved', 1), act('few', 's2', 'saved', 2), act('few', 's3', 'saved', 3), act('few', 'n', 'skipped', 1);
         SELECT create_dataset('d', test_share => 0);",
    );
    let row = client
        .query_one(
            "SELECT count(*) FILTER (WHERE mined), count(*) FILTER (WHERE NOT mined),
                    count(*) FILTER (WHERE mined AND negative LIKE 'about u%')
             FROM contrastive_triplets('d') WHERE user_id = 'few'",
            &[],
        )
        .unwrap();
    let (mined, own, foreign): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(own, 3);
    assert!(mined > 0 && mined == foreign, "{mined} {foreign}");
}

#[test]
fn unknown_choices_list_the_valid_ones() {
    let (_db, mut client) = database("SELECT act_alone(20, 20); SELECT create_dataset('d');");
    assert_error!(client, "SELECT contrastive_triplets('d', mining => 'x')", "22023", "hard, semi-hard, random");
    assert_error!(client, "SELECT contrastive_triplets('d', split => 'x')", "22023", "train, test");
    assert_error!(client, "SELECT contrastive_triplets('d', per_positive => 0)", "22023", "1 and 16");
    assert_error!(client, "SELECT export_jsonl('d', 'csv')", "22023", "openai_dpo");
}

#[test]
fn every_line_of_an_export_is_json() {
    let (_db, mut client) = database(
        "SELECT act_alone(20, 20);
         UPDATE training_data_point SET chunk_content = E'say \\\"hi\\\"\\n\\t\\\\ 日本語 🦀 ' || id, podcast_title = 'Show';
         SELECT create_dataset('d');",
    );
    for (format, lines) in [("raw", 320), ("openai_chat", 320), ("openai_dpo", 320), ("anthropic", 320), ("pair", 240)]
    {
        let query = format!(
            "SELECT count(*), count(*) FILTER (WHERE l LIKE E'%\\n%'), count(*) FILTER (WHERE l::jsonb::text LIKE '%🦀%')
             FROM export_jsonl('d', '{format}') l"
        );
        let row = client.query_one(&query, &[]).unwrap();
        assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(2), "{format}");
        assert_eq!(row.get::<_, i64>(1), 0, "{format}");
        if format != "pair" {
            assert_eq!(row.get::<_, i64>(0), lines, "{format}");
        }
    }
    client
        .batch_execute(
            "UPDATE training_data_point SET chunk_content = ' ' WHERE id = 'u7-1'; SELECT create_dataset('empty')",
        )
        .unwrap();
    let error = assert_error!(client, "SELECT export_jsonl('empty', 'openai_chat')", "22000", "u7-1", "raw");
    assert!(error.message.contains("has no text"), "{error:?}");
    client.batch_execute("SELECT export_jsonl('empty', 'raw')").unwrap();
}

#[test]
fn streams_and_can_be_cancelled() {
    let (db, mut client) = database(
        "INSERT INTO training_data_point (user_id, id, chunk_content, embedding, user_action, actioned_at)
         SELECT 'u' || i / 200, 'p' || i, repeat('words ', 50) || i, ARRAY(SELECT sin(i * k) FROM generate_series(1, 64) k)::vector,
                CASE WHEN i % 2 = 0 THEN 'saved' ELSE 'skipped' END, '2026-01-01'::timestamptz + i * interval '1 minute'
         FROM generate_series(1, 60000) i;
         SELECT create_dataset('d'); ANALYZE;",
    );
    let all = Instant::now();
    let lines: i64 = value(&mut client, "SELECT count(*) FROM export_jsonl('d', 'triplet')");
    let all = all.elapsed();
    assert!(lines > 80_000, "{lines}");
    let few = Instant::now();
    for query in
        ["SELECT contrastive_triplets('d')", "SELECT export_jsonl('d', 'triplet')", "SELECT export_jsonl('d', 'raw')"]
    {
        assert_eq!(client.query(&format!("{query} LIMIT 5"), &[]).unwrap().len(), 5);
    }
    assert!(few.elapsed() < all / 2, "5 rows took {:?}, all of them {all:?}", few.elapsed());

    client.batch_execute("BEGIN; SELECT count(*) FROM export_jsonl('d', 'triplet')").unwrap();
    let kept: i64 = value(
        &mut client,
        "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts WHERE name = 'TopTransactionContext'",
    );
    assert!(kept < 1 << 20, "{kept} bytes wait for the end of the transaction");
    client.batch_execute("COMMIT").unwrap();

    let cancel = client.cancel_token();
    let url = db.url();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.cancel_query(NoTls).unwrap_or_else(|error| panic!("{url}: {error:?}"));
    });
    let start = Instant::now();
    let error = expect_error(&mut client, "SELECT count(*) FROM generate_series(1, 100), export_jsonl('d', 'triplet')");
    stopper.join().unwrap();
    assert_eq!(error.code, "57014");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM dataset"), 1);
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
