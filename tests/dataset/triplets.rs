//! Triplets: rules, reproducibility, mining with and without an index.

use crate::common::*;
use crate::*;

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
         SELECT act('few', 's1', 'saved', 1, '[1,70,38]'), act('few', 's2', 'saved', 2, '[1,39,69]'), act('few', 's3', 'saved', 3, '[9,50,50]'), act('few', 'n', 'skipped', 1, '[1,-95,60]');
         SELECT create_dataset('d', test_share => 0);",
    );
    let row = client
        .query_one(
            "SELECT count(*) FILTER (WHERE mined), count(*) FILTER (WHERE NOT mined),
                    count(*) FILTER (WHERE mined AND negative LIKE 'about u%')
             FROM contrastive_triplets('d', range_min => 0, range_max => 2000) WHERE user_id = 'few'",
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
    assert_error!(client, "SELECT contrastive_triplets('d', sampling => 'best')", "22023", "top, random");
    assert_error!(
        client,
        "SELECT contrastive_triplets('d', range_min => 48)",
        "22023",
        "which hold 2",
        "range_max => 88"
    );
    assert_error!(client, "SELECT contrastive_triplets('d', range_max => 5000)", "22023", "2000");
    assert_error!(client, "SELECT contrastive_triplets('d', max_per_user => 0)", "22023", "max_per_user");
    assert_error!(client, "SELECT export_jsonl('d', 'csv')", "22023", "openai_dpo");
}

/// 60 users with two or three saves each and no skip of their own: everything is mined.
const MINED: &str = "
    SELECT act('u' || u, 'u' || u || '-' || i, 'saved', i, (SELECT array_agg(sin(u * 7.3 + i * 0.4 + k * (1 + u % 7)) + 0.3 * cos(k * u)) FROM generate_series(1, 16) k)::real[]::vector)
    FROM generate_series(1, 60) u, generate_series(1, 2 + u % 2) i;
    SELECT act('u1', 'skip', 'skipped', 1, (SELECT array_agg(cos(k)) FROM generate_series(1, 16) k)::real[]::vector);
    SELECT create_dataset('d', test_share => 0, min_user_saved => 2, min_user_skipped => 0, min_examples => 10);";

struct Text {
    user: String,
    id: String,
    vector: Vec<f32>,
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn texts(client: &mut Client) -> Vec<Text> {
    let rows =
        client.query("SELECT user_id, id, embedding::real[] FROM dataset_example ORDER BY user_id, id", &[]).unwrap();
    rows.iter().map(|row| Text { user: row.get(0), id: row.get(1), vector: row.get(2) }).collect()
}

/// What `mine_hard_negatives` documents and does: the nearest range_max + max_positives texts of the corpus; of these the
/// positives go, then what breaks a margin, set by the worst positive; then the ranks from range_min on.
fn library_negatives(
    anchor: &Text,
    positives: &[&Text],
    corpus: &[Text],
    window: (usize, usize),
    n: usize,
    margins: (f32, f32),
) -> Vec<String> {
    let max_positives = 3;
    let mut ranked: Vec<(f32, &Text)> = corpus.iter().map(|t| (cosine(&anchor.vector, &t.vector), t)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.truncate(window.1 + max_positives);
    let worst = positives.iter().map(|p| cosine(&anchor.vector, &p.vector)).fold(f32::INFINITY, f32::min);
    let threshold = worst - worst.abs() * margins.0;
    let left = ranked.into_iter().filter(|(score, t)| {
        // the anchor itself is in this corpus, and nothing that the user met is a negative: our first difference
        t.user != anchor.user && *score <= threshold && score + margins.1 <= worst
    });
    // our second difference: neither is a text that nearly equals one of the user's saves
    let saves: Vec<&Text> = corpus.iter().filter(|t| t.user == anchor.user && t.id != "skip").collect();
    let no_save = |t: &Text| saves.iter().all(|save| cosine(&save.vector, &t.vector) <= 0.97);
    left.map(|(_, t)| t).skip(window.0).filter(|t| no_save(t)).take(n).map(|t| t.id.clone()).collect()
}

#[test]
fn mined_negatives_are_those_of_sentence_transformers() {
    let (_db, mut client) = database(MINED);
    let all = texts(&mut client);
    let of = |user: &str, id: &str| all.iter().find(|t| t.user == user && t.id == id).unwrap();
    for (range_min, n, relative, absolute) in [(0, 3, 0.05, 0.0), (2, 4, 0.0, 0.0), (1, 2, 0.2, 0.0), (0, 3, 0.05, 0.1)]
    {
        let call = |margins: &str, per_positive: i32| {
            format!(
                "SELECT user_id, anchor_id, positive_id, negative_id FROM contrastive_triplets('d', {per_positive}, own_skips => false,
                 range_min => {range_min}, range_max => 60, max_score => NULL, {margins})"
            )
        };
        let pairs = client.query(&call("relative_margin => NULL", 1), &[]).unwrap();
        assert_eq!(pairs.len(), 150, "every save has an anchor");
        let margins = format!("relative_margin => {relative}, absolute_margin => {absolute}");
        let mut found: std::collections::HashMap<(String, String, String), Vec<String>> = Default::default();
        for row in client.query(&call(&margins, n), &[]).unwrap() {
            found.entry((row.get(0), row.get(1), row.get(2))).or_default().push(row.get(3));
        }
        let mut some = 0;
        for pair in &pairs {
            let (user, anchor, positive): (&str, &str, &str) = (pair.get(0), pair.get(1), pair.get(2));
            let positives: Vec<&Text> =
                (pairs.iter().filter(|p| p.get::<_, &str>(0) == user && p.get::<_, &str>(1) == anchor))
                    .map(|p| of(user, p.get(2)))
                    .collect();
            let expected = library_negatives(
                of(user, anchor),
                &positives,
                &all,
                (range_min, 60),
                n as usize,
                (relative, absolute),
            );
            let key = (user.to_owned(), anchor.to_owned(), positive.to_owned());
            let ours = found.remove(&key).unwrap_or_default();
            some += ours.len();
            assert_eq!(ours, expected, "{key:?}, range_min {range_min}, margins {relative} and {absolute}");
        }
        assert!(some > 100, "{some} negatives are too few to say anything");
    }
}

/// Users with two saves each: what the library may choose and what we may choose is then the same, but for near copies of
/// saves, which these vectors have none of. Names are row numbers, as the program asks for them.
const PAIRS: &str = "
    SELECT act('u' || i / 2, i::text, 'saved', i, (SELECT array_agg(sin(i / 2 * 7.3 + i % 2 * 0.9 + k * (1 + i / 2 % 7)) + cos(k * i * 0.7)) FROM generate_series(1, 16) k)::real[]::vector)
    FROM generate_series(0, 119) i;
    SELECT act('u0', '120', 'skipped', 1, (SELECT array_agg(cos(k)) FROM generate_series(1, 16) k)::real[]::vector);
    SELECT create_dataset('d', test_share => 0, min_user_saved => 2, min_user_skipped => 0, min_examples => 10);";

/// A Python with sentence-transformers: that of the self-hosted trainer.
fn python() -> std::process::Command {
    let mut python = std::process::Command::new(repository("scripts/trainer.sh"));
    python.arg("run");
    python
}

#[test]
fn the_library_itself_mines_the_same_negatives() {
    let installed = python().args(["-c", ""]).output().unwrap();
    if !installed.status.success() {
        println!("skipped: the packages of the trainer could not be installed: {installed:?}");
        return;
    }
    let (_db, mut client) = database(PAIRS);
    let near: i64 = value(
        &mut client,
        "SELECT count(*) FROM dataset_example a JOIN dataset_example b ON a.id < b.id WHERE 1 - (a.embedding <=> b.embedding) > 0.97",
    );
    assert_eq!(near, 0);
    let folder = std::env::temp_dir().join(format!("pgft.mining.{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let rows = |client: &mut Client, query: &str| values::<String>(client, query).join("\n");
    let vectors = rows(&mut client, "SELECT format('%s,\"%s\"', id, embedding) FROM dataset_example ORDER BY id::int");
    let pairs = rows(
        &mut client,
        "SELECT a.id || ',' || p.id FROM dataset_example a JOIN dataset_example p USING (user_id) WHERE a.label AND p.label AND a.id <> p.id ORDER BY 1",
    );
    std::fs::write(folder.join("vectors.csv"), vectors).unwrap();
    std::fs::write(folder.join("pairs.csv"), pairs).unwrap();
    let mut all = 0;
    for (ours, theirs) in [
        ("3, range_min => 0, range_max => 200, max_score => NULL", "\"num_negatives\": 3, \"range_max\": 200, \"relative_margin\": 0.05"),
        (
            "4, range_min => 2, range_max => 200, relative_margin => NULL, absolute_margin => 0.1, max_score => NULL",
            "\"num_negatives\": 4, \"range_min\": 2, \"range_max\": 200, \"absolute_margin\": 0.1",
        ),
        (
            "2, range_min => 1, range_max => 200, relative_margin => 0.2, max_score => 0.3, min_score => -0.2",
            "\"num_negatives\": 2, \"range_min\": 1, \"range_max\": 200, \"relative_margin\": 0.2, \"max_score\": 0.3, \"min_score\": -0.2",
        ),
        (
            "4, range_min => 3, range_max => 8, relative_margin => NULL",
            // there the anchor itself, which is in the corpus, takes one of the places
            "\"num_negatives\": 4, \"range_min\": 3, \"range_max\": 9, \"max_score\": 0.95",
        ),
    ] {
        let library = [repository("bench/mining/library.py").into_os_string(), folder.clone().into(), format!("{{{theirs}}}").into()];
        run(python().args(library));
        let file = std::fs::read_to_string(folder.join("library.csv")).unwrap();
        let mut library: Vec<&str> = file.lines().collect();
        let query = format!("SELECT concat_ws(',', anchor_id, positive_id, negative_id) FROM contrastive_triplets('d', {ours}, own_skips => false)");
        let mut mined = values::<String>(&mut client, &query);
        library.sort_unstable();
        mined.sort_unstable();
        assert_eq!(mined, library, "{theirs}");
        all += mined.len();
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(all > 500, "{all} negatives are too few to say anything");
}

#[test]
fn an_index_serves_where_there_is_one_and_the_plan_says_so() {
    let (_db, mut client) = database(MINED);
    let plan: Vec<String> = values(&mut client, "SELECT triplet_plan('d')");
    assert!(plan[0].contains("exact search over 151 texts"), "{plan:?}");
    let triplets = "SELECT concat_ws(' ', user_id, anchor_id, positive_id, negative_id) FROM contrastive_triplets('d', own_skips => false, range_min => 0, range_max => 20)";
    let exact: Vec<String> = values(&mut client, triplets);
    assert!(exact.len() > 100);
    // the hint is a command that works
    client.batch_execute(plan[1].split_once(": ").unwrap().1).unwrap();
    client.batch_execute("ANALYZE dataset_example; SET enable_seqscan = off; SET enable_sort = off").unwrap();
    let plan: Vec<String> = values(&mut client, "SELECT triplet_plan('d')");
    assert!(plan[0].contains("index dataset_example_embedding_idx"), "{plan:?}");
    assert!(plan.iter().any(|line| line.contains("Index Scan using dataset_example_embedding_idx")), "{plan:?}");
    let indexed: Vec<String> = values(&mut client, triplets);
    let same = indexed.iter().filter(|row| exact.contains(row)).count();
    assert!(same * 10 >= exact.len() * 9, "{same} of {}", exact.len());
    let settings: Vec<String> = values(&mut client, "SELECT current_setting('hnsw.ef_search')");
    assert_eq!(settings, ["40"], "the session keeps its own");
}

#[test]
fn what_a_user_saved_in_other_words_is_never_a_negative() {
    // u1's third save has a near twin that u2 was shown and skipped, and a copy of its text that u3 skipped
    let (_db, mut client) = database(&format!(
        "{MINED} SELECT act('u2', 'twin', 'skipped', 5, (SELECT (embedding::real[])[:15] || 0.001::real FROM training_data_point WHERE id = 'u1-3')::real[]::vector),
                        act('u3', 'copy', 'skipped', 5, words => 'about u1-2', vec => (SELECT embedding FROM training_data_point WHERE id = 'u4-1'));
         UPDATE training_data_point SET embedding = (SELECT (embedding::real[])[:15] || 0::real FROM training_data_point WHERE id = 'u1-3')::real[]::vector WHERE id = 'u1-3';
         SELECT create_dataset('d', test_share => 0, min_user_saved => 2, min_user_skipped => 0, min_examples => 10);"
    ));
    let all = "FROM contrastive_triplets('d', 16, own_skips => false, range_min => 0, range_max => 200, relative_margin => NULL, max_score => NULL)";
    let negatives: i64 = value(&mut client, &format!("SELECT count(*) {all} WHERE user_id = 'u1'"));
    assert!(negatives > 20);
    let wrong: i64 = value(
        &mut client,
        &format!(
            "SELECT count(*) {all} WHERE user_id = 'u1' AND negative IN ('about twin', 'about u1-2', 'about u1-3')"
        ),
    );
    assert_eq!(wrong, 0);
    let others: i64 =
        value(&mut client, &format!("SELECT count(*) {all} WHERE user_id <> 'u1' AND negative = 'about twin'"));
    assert!(others > 0, "for others the twin is a text like any other");
}

#[test]
fn a_cursor_reads_triplets_as_they_come() {
    let (_db, mut client) = database("SELECT act_shared(30, 40); SELECT create_dataset('d');");
    client.batch_execute("BEGIN; DECLARE c NO SCROLL CURSOR FOR SELECT contrastive_triplets('d')").unwrap();
    let first: i64 = client.query("FETCH 10 FROM c", &[]).unwrap().len() as i64;
    let rest: i64 = client.query("FETCH ALL FROM c", &[]).unwrap().len() as i64;
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(first + rest, value::<i64>(&mut client, "SELECT count(*) FROM contrastive_triplets('d')"));
}

#[test]
fn one_user_has_no_more_positives_than_the_cap() {
    let (_db, mut client) = database("SELECT act_shared(30, 40); SELECT create_dataset('d');");
    let most: i64 = value(
        &mut client,
        "SELECT max(n) FROM (SELECT count(DISTINCT positive_id) AS n FROM contrastive_triplets('d', max_per_user => 5) GROUP BY user_id) u",
    );
    assert_eq!(most, 5);
}
