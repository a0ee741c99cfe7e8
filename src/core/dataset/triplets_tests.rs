use std::sync::Arc;

use super::super::search::Place;
use super::*;

fn example(id: &str, label: bool, vector: &[f32]) -> Example {
    let mut vector = vector.to_vec();
    normalise(&mut vector);
    Example {
        id: id.into(),
        text: format!("text {id}").into(),
        content_hash: hash(id),
        vector,
        label,
        ..Example::default()
    }
}

fn hash(id: &str) -> Hash {
    let mut hash = [0; 32];
    hash[..id.len()].copy_from_slice(id.as_bytes());
    hash
}

/// Candidates as a search returns them: nearest first, without what the user has met.
fn candidates(user: &User, anchor: &[f32], pool: &[(&str, &[f32])]) -> Vec<Candidate> {
    let met = user.met();
    let mut found: Vec<Candidate> = (pool.iter().filter(|(id, _)| !met.contains(&hash(id))))
        .map(|(id, vector)| {
            let mut vector = vector.to_vec();
            normalise(&mut vector);
            let place = Place { hash: hash(id), user_id: "other".to_owned(), id: id.to_string() };
            Candidate { score: similarity(anchor, &vector), place: Arc::new(place) }
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found
}

fn chosen(options: &Options, scores: &[f32], worst: f32) -> Vec<f32> {
    let candidate = |(i, &score): (usize, &f32)| Candidate {
        score,
        place: Arc::new(Place { hash: hash(&i.to_string()), user_id: String::new(), id: i.to_string() }),
    };
    let mut random = SplitMix64::seed_from_u64(1);
    options
        .choose(scores.iter().enumerate().map(candidate).collect(), worst, &mut random)
        .iter()
        .map(|c| c.score)
        .collect()
}

fn user(examples: &[Example]) -> User {
    User::new("u".to_owned(), examples.to_vec(), Split::Train, &mut || {})
}

fn options(per_positive: i32, mining: Mining, seed: i64) -> Options {
    Options::new(per_positive, mining, seed).unwrap()
}

/// Two saves and skips at growing angles from them.
fn fan() -> Vec<Example> {
    let mut examples = vec![example("s1", true, &[1.0, 0.0]), example("s2", true, &[0.9, 0.3])];
    for i in 1..=6 {
        let angle = 0.25 * i as f32 + 0.4;
        examples.push(example(&format!("n{i}"), false, &[angle.cos(), angle.sin()]));
    }
    examples
}

fn all_groups(user: &User, options: &Options) -> Vec<Group> {
    user.positives(options).into_iter().map(|p| user.group(p, options)).collect()
}

/// Ids of the own negatives of one positive.
fn negatives(user: &User, positive: &str, options: &Options) -> Vec<String> {
    let index = user.examples().iter().position(|e| *e.id == *positive).unwrap();
    user.group(index, options).own.iter().map(|&i| user.examples()[i].id.to_string()).collect()
}

#[test]
fn the_same_seed_draws_the_same_and_another_does_not() {
    let examples: Vec<Example> = (0..40)
        .map(|i| example(&format!("e{i:02}"), i % 3 == 0, &[i as f32, 40.0 - i as f32, (i * i % 7) as f32]))
        .collect();
    let user = user(&examples);
    let groups = |seed| all_groups(&user, &options(4, Mining::Random, seed));
    assert_eq!(groups(1), groups(1));
    assert_ne!(groups(1), groups(2));
}

#[test]
fn the_order_of_the_rows_does_not_matter() {
    let examples = fan();
    let mut reversed = examples.clone();
    reversed.reverse();
    let wanted = options(3, Mining::Random, 7);
    assert_eq!(all_groups(&user(&examples), &wanted), all_groups(&user(&reversed), &wanted));
}

#[test]
fn a_single_save_has_no_anchor() {
    let examples = vec![example("s", true, &[1.0, 0.0]), example("n", false, &[0.0, 1.0])];
    assert!(user(&examples).positives(&options(4, Mining::Hard, 1)).is_empty());
}

#[test]
fn anchors_are_other_saves() {
    let user = user(&fan());
    for group in all_groups(&user, &options(2, Mining::Hard, 3)) {
        assert_ne!(group.anchor, group.positive);
        assert!(user.examples()[group.anchor].label && user.examples()[group.positive].label);
    }
}

#[test]
fn hard_takes_the_nearest_skips_first() {
    let user = user(&fan());
    assert_eq!(negatives(&user, "s1", &options(3, Mining::Hard, 3)), ["n1", "n2", "n3"]);
}

#[test]
fn semi_hard_leaves_out_what_is_nearer_than_the_positive() {
    let user = user(&[
        example("s1", true, &[1.0, 0.0]),
        example("s2", true, &[0.5, 0.9]),
        example("near", false, &[0.8, 0.5]),
        example("far", false, &[-0.5, 0.9]),
    ]);
    assert_eq!(negatives(&user, "s2", &options(2, Mining::Hard, 3)), ["near", "far"]);
    assert_eq!(negatives(&user, "s2", &options(2, Mining::SemiHard, 3)), ["far"]);
}

#[test]
fn a_skip_that_nearly_equals_a_save_is_no_negative_even_across_sides() {
    let mut examples = [
        example("s1", true, &[1.0, 0.0, 0.0]),
        example("s2", true, &[0.0, 1.0, 0.0]),
        example("s3", true, &[0.0, 0.0, 1.0]),
        example("twin", false, &[0.01, 0.0, 1.0]),
        example("other", false, &[1.0, 1.0, 1.0]),
    ];
    examples[2].split = Split::Test;
    let user = user(&examples);
    assert_eq!(user.positives(&options(4, Mining::Hard, 1)).len(), 2);
    assert_eq!(negatives(&user, "s1", &options(4, Mining::Random, 1)), ["other"]);
}

#[test]
fn negatives_come_from_the_positives_surface() {
    let mut examples = fan();
    for e in &mut examples {
        e.surface = Some(if *e.id == *"n5" { "search" } else { "feed" }.into());
    }
    let found = negatives(&user(&examples), "s1", &options(16, Mining::Hard, 1));
    assert_eq!(found, ["n1", "n2", "n3", "n4", "n6"]);
}

#[test]
fn mining_fills_up_and_keeps_its_distance() {
    let user =
        user(&[example("s1", true, &[1.0, 0.0]), example("s2", true, &[0.8, 0.6]), example("n", false, &[0.0, 1.0])]);
    let pool: [(&str, &[f32]); 4] = [
        ("s1", &[-1.0, 0.0]),   // the user's own text, under another vector
        ("close", &[0.9, 0.1]), // nearer to the anchor than the positive
        ("fine", &[0.3, -0.9]),
        ("far", &[-0.9, -0.1]),
    ];
    let wanted = Options { range_min: 0, ..options(4, Mining::Hard, 5) };
    let groups = all_groups(&user, &wanted);
    assert!(groups.iter().all(|g| g.own.len() == 1 && g.missing == 3));
    let anchors = user.wanted(&groups);
    assert_eq!(anchors.len(), 2);
    assert!((anchors[0].worst - 0.8).abs() < 1e-6);
    let found = candidates(&user, &user.examples()[anchors[0].anchor].vector, &pool);
    let mut ids: Vec<String> = wanted
        .choose(found, anchors[0].worst, &mut user.stream(5, anchors[0].anchor))
        .iter()
        .map(|c| c.place.id.clone())
        .collect();
    ids.sort();
    assert_eq!(ids, ["far", "fine"]);
}

#[test]
fn random_mining_never_takes_other_peoples_texts() {
    let user =
        user(&[example("s1", true, &[1.0, 0.0]), example("s2", true, &[0.8, 0.6]), example("n", false, &[0.0, 1.0])]);
    let groups = all_groups(&user, &options(4, Mining::Random, 5));
    assert!(groups.iter().all(|g| g.missing == 0));
    assert!(user.wanted(&groups).is_empty());
}

#[test]
fn the_farthest_positive_of_an_anchor_sets_its_margin() {
    // three saves: one of them is the anchor of at least two others under some seed
    let user = user(&[
        example("a", true, &[1.0, 0.0]),
        example("b", true, &[0.9, 0.4]),
        example("c", true, &[0.3, 0.95]),
        example("d", true, &[0.1, 1.0]),
    ]);
    let mut shared = 0;
    for seed in 0..20 {
        let groups = all_groups(&user, &options(1, Mining::Hard, seed));
        for wanted in user.wanted(&groups) {
            let paired: Vec<f32> = (groups.iter().filter(|g| g.anchor == wanted.anchor))
                .map(|g| similarity(&user.examples()[g.anchor].vector, &user.examples()[g.positive].vector))
                .collect();
            shared += usize::from(paired.len() > 1);
            assert_eq!(wanted.worst, paired.iter().copied().fold(f32::INFINITY, f32::min));
        }
    }
    assert!(shared > 0);
}

#[test]
fn margins_come_first_and_ranks_count_what_is_left() {
    let scores = [0.99, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4];
    let base =
        Options { range_min: 1, range_max: 7, relative_margin: None, max_score: None, ..options(2, Mining::Hard, 1) };
    let first = |options: Options, worst| chosen(&options, &scores, worst)[..2].to_vec();
    assert_eq!(first(base, 0.85), [0.9, 0.8], "no margin: the nearest but range_min");
    assert_eq!(
        first(Options { absolute_margin: Some(0.1), ..base }, 0.85),
        [0.6, 0.5],
        "0.7 is the first that is far enough"
    );
    assert_eq!(first(Options { relative_margin: Some(0.1), ..base }, 0.9), [0.7, 0.6], "0.9 - 0.09 = 0.81");
    assert_eq!(first(Options { max_score: Some(0.7), ..base }, 0.9), [0.6, 0.5]);
    assert_eq!(first(Options { mining: Mining::SemiHard, ..base }, 0.8), [0.6, 0.5], "0.8 is not farther than 0.8");
    assert_eq!(chosen(&Options { min_score: Some(0.85), ..base }, &scores, 0.9), [0.9]);
    let margin = Options { relative_margin: Some(0.5), range_min: 0, ..base };
    assert_eq!(chosen(&margin, &[-0.4, -0.5, -0.7, -0.8], -0.4)[0], -0.7, "-0.4 - 0.2, not -0.4 x 0.5");
}

#[test]
fn random_sampling_stays_in_the_window() {
    let scores: Vec<f32> = (0..30).map(|i| 0.9 - 0.02 * i as f32).collect();
    let sampled = Options {
        sampling: Sampling::Random,
        range_min: 5,
        range_max: 30,
        relative_margin: None,
        max_score: None,
        ..options(3, Mining::Hard, 1)
    };
    let found = chosen(&sampled, &scores, 1.0);
    assert!(found.iter().all(|&score| score <= 0.81) && found[..3] != [0.8, 0.78, 0.76], "{found:?}");
}

#[test]
fn a_cap_draws_positives_and_one_more_save_changes_little() {
    let examples: Vec<Example> = (0..30).map(|i| example(&format!("s{i:02}"), true, &[1.0, i as f32])).collect();
    let capped = options(1, Mining::Hard, 1).with_cap(Some(10)).unwrap();
    let ids = |examples: &[Example]| {
        let user = user(examples);
        user.positives(&capped).iter().map(|&i| user.examples()[i].id.clone()).collect::<Vec<_>>()
    };
    let (fewer, all) = (ids(&examples[..29]), ids(&examples));
    assert_eq!(all.len(), 10);
    assert!(fewer.iter().filter(|id| all.contains(id)).count() >= 9);
    assert!(options(1, Mining::Hard, 1).with_cap(Some(0)).is_err());
}

#[test]
fn unknown_mining_and_senseless_counts_are_refused() {
    assert_eq!("harder".parse::<Mining>().unwrap_err().detail(), "Valid for mining: hard, semi-hard, random.");
    assert!(Options::new(0, Mining::Hard, 1).is_err());
    assert!(Options::new(17, Mining::Hard, 1).is_err());
    let error = options(4, Mining::Hard, 1).with_window(48, 50).unwrap_err();
    assert_eq!(error.detail(), "4 negatives are wanted from the ranks 48 to 50, which hold 2.");
    assert!(options(4, Mining::Hard, 1).with_window(-1, 50).is_err());
    assert!(options(4, Mining::Hard, 1).with_window(0, 3_000).is_err());
}

#[test]
fn similarity_is_the_cosine_of_unit_vectors() {
    let mut a: Vec<f32> = (0..19).map(|i| i as f32).collect();
    normalise(&mut a);
    assert!((similarity(&a, &a) - 1.0).abs() < 1e-6);
    let mut tiny = vec![3e-30, 4e-30];
    normalise(&mut tiny);
    assert_eq!(tiny, [0.6, 0.8]);
}
