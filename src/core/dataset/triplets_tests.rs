use super::*;

fn example(id: &str, label: bool, vector: &[f32]) -> Example {
    let mut vector = vector.to_vec();
    normalise(&mut vector);
    Example {
        id: id.to_owned(),
        text: format!("text {id}"),
        content_hash: id.as_bytes().to_vec(),
        vector,
        label,
        split: "train".to_owned(),
        ..Example::default()
    }
}

fn pool_text(id: &str, vector: &[f32]) -> PoolText {
    let e = example(id, false, vector);
    PoolText { id: e.id, text: e.text, content_hash: e.content_hash, vector: e.vector }
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

fn all_groups(user: &User, pool: &[PoolText], options: &Options) -> Vec<Group> {
    user.positives().iter().map(|&p| user.group(p, pool, options)).collect()
}

/// Ids of the negatives of one positive.
fn negatives(user: &User, positive: &str, pool: &[PoolText], options: &Options) -> Vec<String> {
    let index = user.examples().iter().position(|e| e.id == positive).unwrap();
    let name = |negative: &Negative| match *negative {
        Negative::Own(i) => user.examples()[i].id.clone(),
        Negative::Mined(i) => pool[i].id.clone(),
    };
    user.group(index, pool, options).negatives.iter().map(name).collect()
}

#[test]
fn the_same_seed_draws_the_same_and_another_does_not() {
    let examples: Vec<Example> = (0..40)
        .map(|i| example(&format!("e{i:02}"), i % 3 == 0, &[i as f32, 40.0 - i as f32, (i * i % 7) as f32]))
        .collect();
    let user = user(&examples);
    let groups = |seed| all_groups(&user, &[], &options(4, Mining::Random, seed));
    assert_eq!(groups(1), groups(1));
    assert_ne!(groups(1), groups(2));
}

#[test]
fn the_order_of_the_rows_does_not_matter() {
    let examples = fan();
    let mut reversed = examples.clone();
    reversed.reverse();
    let wanted = options(3, Mining::Random, 7);
    assert_eq!(all_groups(&user(&examples), &[], &wanted), all_groups(&user(&reversed), &[], &wanted));
}

#[test]
fn a_single_save_has_no_anchor() {
    let examples = vec![example("s", true, &[1.0, 0.0]), example("n", false, &[0.0, 1.0])];
    assert!(user(&examples).positives().is_empty());
}

#[test]
fn anchors_are_other_saves() {
    let user = user(&fan());
    for group in all_groups(&user, &[], &options(2, Mining::Hard, 3)) {
        assert_ne!(group.anchor, group.positive);
        assert!(user.examples()[group.anchor].label && user.examples()[group.positive].label);
    }
}

#[test]
fn hard_takes_the_nearest_skips_first() {
    let user = user(&fan());
    assert_eq!(negatives(&user, "s1", &[], &options(3, Mining::Hard, 3)), ["n1", "n2", "n3"]);
}

#[test]
fn semi_hard_leaves_out_what_is_nearer_than_the_positive() {
    let user = user(&[
        example("s1", true, &[1.0, 0.0]),
        example("s2", true, &[0.5, 0.9]),
        example("near", false, &[0.8, 0.5]),
        example("far", false, &[-0.5, 0.9]),
    ]);
    assert_eq!(negatives(&user, "s2", &[], &options(2, Mining::Hard, 3)), ["near", "far"]);
    assert_eq!(negatives(&user, "s2", &[], &options(2, Mining::SemiHard, 3)), ["far"]);
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
    examples[2].split = "test".to_owned();
    let user = user(&examples);
    assert_eq!(user.positives().len(), 2);
    assert_eq!(negatives(&user, "s1", &[], &options(4, Mining::Random, 1)), ["other"]);
}

#[test]
fn negatives_come_from_the_positives_surface() {
    let mut examples = fan();
    for e in &mut examples {
        e.surface = Some(if e.id == "n5" { "search" } else { "feed" }.to_owned());
    }
    let found = negatives(&user(&examples), "s1", &[], &options(16, Mining::Hard, 1));
    assert_eq!(found, ["n1", "n2", "n3", "n4", "n6"]);
}

#[test]
fn mining_fills_up_and_keeps_its_distance() {
    let user =
        user(&[example("s1", true, &[1.0, 0.0]), example("s2", true, &[0.8, 0.6]), example("n", false, &[0.0, 1.0])]);
    let pool = [
        pool_text("s1", &[-1.0, 0.0]),   // the user's own text, under another vector
        pool_text("close", &[0.9, 0.1]), // nearer to the anchor than the positive
        pool_text("fine", &[0.3, -0.9]),
        pool_text("far", &[-0.9, -0.1]),
    ];
    let wanted = options(4, Mining::Hard, 5);
    assert!(user.wants_pool(&wanted));
    let mut found = negatives(&user, "s2", &pool, &wanted);
    assert_eq!(found.remove(0), "n");
    found.sort();
    assert_eq!(found, ["far", "fine"]);
}

#[test]
fn random_mining_never_takes_other_peoples_texts() {
    let examples =
        vec![example("s1", true, &[1.0, 0.0]), example("s2", true, &[0.8, 0.6]), example("n", false, &[0.0, 1.0])];
    let user = user(&examples);
    let wanted = options(4, Mining::Random, 5);
    assert!(!user.wants_pool(&wanted));
    assert_eq!(negatives(&user, "s1", &[pool_text("x", &[-1.0, 0.0])], &wanted), ["n"]);
}

#[test]
fn the_margin_shrinks_a_negative_bound_further() {
    assert!(mining_bound(-0.4) < -0.4);
    assert!(mining_bound(0.4) < 0.4);
    assert!(mining_bound(1.0) <= MAX_SCORE);
}

#[test]
fn unknown_mining_and_senseless_counts_are_refused() {
    assert_eq!("harder".parse::<Mining>().unwrap_err().detail(), "Valid for mining: hard, semi-hard, random.");
    assert!(Options::new(0, Mining::Hard, 1).is_err());
    assert!(Options::new(17, Mining::Hard, 1).is_err());
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
