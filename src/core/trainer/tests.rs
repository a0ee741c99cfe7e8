//! The trainer as a whole: golden values, promises about determinism and refusals, synthetic and real feedback.

use rand::seq::SliceRandom;
use serde_json::Value;

use super::calibrate::{Moments, Space};
use super::loss::{Loss, Objective};
use super::progress::Unobserved;
use super::residual::{transposed, Residual};
use super::store::Store;
use super::testdata::{asking, synthetic, Real, Signal, Truth, DIM};
use super::vectors::{add_scaled, dot, Rows};
use super::*;

fn run(input: Input, params: &Params) -> Outcome {
    train(input, None, params, &mut Unobserved).unwrap()
}

fn print(name: &str, seed: i64, outcome: &Outcome, base: Truth, new: Truth, seconds: f64) {
    let e = &outcome.evaluation;
    eprintln!(
        "{name} seed {seed}: chosen {} | gate {} users, AUC {:+.4} (at least {:+.4}) -> {} | truth AUC {:.3} -> {:.3}, \
         save rate {:+.1} %, false suggestions {:+.1} % | {seconds:.1} s",
        outcome.chosen,
        e.users,
        e.auc_delta.unwrap_or(f64::NAN),
        e.auc_delta_low.unwrap_or(f64::NAN),
        outcome.verdict.as_str(),
        base.auc,
        new.auc,
        100.0 * (new.save_rate_10 / base.save_rate_10 - 1.0),
        100.0 * (new.fpr_50 / base.fpr_50 - 1.0),
    );
}

/// Seeds of the tests on real data; more of them when tables are wanted.
fn seeds() -> i64 {
    std::env::var("PG_FINETUNE_TEST_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

fn on_real(name: &str, check: impl Fn(&Outcome, Truth, Truth)) {
    let Some(real) = Real::load(name) else { return };
    let base = real.truth(&Adapter::identity(384));
    for seed in 0..seeds() {
        let input = real.past(seed);
        let start = std::time::Instant::now();
        let outcome = run(input, &Params { seed, ..Params::default() });
        let (seconds, new) = (start.elapsed().as_secs_f64(), real.truth(&outcome.adapter));
        print(name, seed, &outcome, base, new, seconds);
        check(&outcome, base, new);
    }
}

#[test]
fn polis() {
    on_real("polis", |outcome, base, new| {
        assert!((base.auc - 0.545).abs() < 0.002, "{base:?}");
        assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.reason);
        assert!(new.auc >= 0.74, "{new:?}");
        assert!(new.save_rate_10 > 1.2 * base.save_rate_10 && new.fpr_50 < 0.5 * base.fpr_50, "{new:?}");
    });
}

#[test]
fn stars() {
    on_real("stars", |outcome, base, new| {
        assert!((base.auc - 0.590).abs() < 0.002, "{base:?}");
        assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.reason);
        assert!(new.auc >= 0.67, "{new:?}");
        assert!(new.save_rate_10 > 1.5 * base.save_rate_10 && new.fpr_50 < 0.7 * base.fpr_50, "{new:?}");
    });
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/data/trainer-golden.json")).unwrap()
}

/// The numbers of a value, however deep its arrays.
fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        value => vec![value.as_f64().unwrap() as f32],
    }
}

/// Relative to the length of what is wanted.
fn assert_close(got: &[f32], want: &[f32], what: &str) {
    let difference: Vec<f32> = got.iter().zip(want).map(|(a, b)| a - b).collect();
    let error = vectors::norm(&difference) / vectors::norm(want);
    assert!(got.len() == want.len() && error < 1e-3, "{what}: relative error {error}");
}

#[test]
fn losses_and_gradients_have_their_golden_values() {
    let golden = golden();
    let field = |name: &str| numbers(&golden[name]);
    let (dim, lambda) = (6, golden["lambda_"].as_f64().unwrap());
    let items = Rows { dim, data: field("items") };
    let (anchors, weights, bias) = (field("anchors"), field("weights"), field("b"));
    let candidates: Vec<usize> = field("candidates").iter().map(|&i| i as usize).collect();
    let width = candidates.len() / weights.len();
    let mut residual = Residual::new(dim, 0);
    residual.parameters = transposed(&field("D"), dim);
    let penalty = lambda * (vectors::norm(&residual.parameters).powi(2) + vectors::norm(&bias).powi(2));
    for (name, loss) in [("softmax", Loss::Softmax), ("bpr", Loss::Bpr), ("triplet", Loss::Triplet)] {
        let mut queries = anchors.clone();
        residual.apply(&anchors, &mut [], &mut queries);
        queries.chunks_exact_mut(dim).for_each(|query| add_scaled(query, 1.0, &bias));
        let query_of = |i: usize| &queries[i / width * dim..][..dim];
        let mut scores: Vec<f32> =
            candidates.iter().enumerate().map(|(i, &item)| dot(query_of(i), items.row(item))).collect();
        let objective = Objective { loss, tau: 0.1, margin: 0.1 };
        let found = objective.backward(&mut scores, width, &weights) + penalty;
        let want = &golden["losses"][name];
        assert!((found / want["loss"].as_f64().unwrap() - 1.0).abs() < 1e-4, "{name}: {found}");
        let mut pulls = vec![0.0; queries.len()];
        for (i, (&item, &gradient)) in candidates.iter().zip(&scores).enumerate() {
            add_scaled(&mut pulls[i / width * dim..][..dim], gradient, items.row(item));
        }
        let mut gradient = vec![0.0; dim * dim];
        residual.gradient(&anchors, &mut [], &pulls, &mut gradient, Crew::alone()).unwrap();
        add_scaled(&mut gradient, 2.0 * lambda as f32, &residual.parameters);
        assert_close(&transposed(&gradient, dim), &numbers(&want["grad_D"]), name);
    }
}

#[test]
fn the_closed_form_has_its_golden_values() {
    let golden = &golden();
    let items = Store::Memory(Rows { dim: 6, data: numbers(&golden["items"]) });
    let mut observer = Unobserved;
    let watch = &mut Watch::new(&mut observer, None);
    let moments = Moments::of(&items, 100, 1, watch).unwrap();
    let folded = Space::shrunk(&moments, 0.7, watch).unwrap().fold(None, watch).unwrap();
    let want = &golden["closed_form"];
    let single = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    assert_close(&single(&moments.mean), &numbers(&want["mean"]), "mean");
    assert_close(&single(&moments.covariance), &numbers(&want["cov"]), "covariance");
    assert_close(&folded.matrix, &numbers(&want["A"]), "matrix");
    assert_close(&folded.bias, &numbers(&want["offset"]), "offset");
}

/// The same feedback as another reader might hand it over.
fn in_another_order(input: &Input) -> Input {
    let mut rng = rng::stream(9, "another order");
    let mut shuffled = |count: usize| {
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut rng);
        order
    };
    let (items, users) = (shuffled(input.item_keys.len()), shuffled(input.user_names.len()));
    let place = |order: &[usize], old: u32| order.iter().position(|&i| i == old as usize).unwrap() as u32;
    let (item_place, user_place): (Vec<u32>, Vec<u32>) = (
        (0..items.len() as u32).map(|old| place(&items, old)).collect(),
        (0..users.len() as u32).map(|old| place(&users, old)).collect(),
    );
    let mut events: Vec<Event> = input
        .events
        .iter()
        .map(|e| Event { item: item_place[e.item as usize], user: user_place[e.user as usize], ..*e })
        .collect();
    events.reverse();
    Input {
        items: items.iter().flat_map(|&i| input.items[i * input.dim..][..input.dim].to_vec()).collect(),
        item_keys: items.iter().map(|&i| input.item_keys[i].clone()).collect(),
        user_names: users.iter().map(|&i| input.user_names[i].clone()).collect(),
        events,
        ..input.clone()
    }
}

#[test]
fn same_input_and_seed_give_the_same_bytes_in_any_order() {
    let input = synthetic(80, Signal::Planted, 3);
    let first = run(input.clone(), &Params::default());
    for again in [input.clone(), in_another_order(&input)] {
        let again = run(again, &Params::default());
        assert_eq!(first.adapter, again.adapter);
        assert_eq!(first.adapter.digest(), again.adapter.digest());
        assert_eq!(first.report, again.report);
    }
    let other = run(input, &Params { seed: 43, ..Params::default() });
    assert_ne!(first.report["evaluation"], other.report["evaluation"]);
}

/// The input with its vectors in a file, of which `limit` bytes may be in memory.
fn spilled(mut input: Input, limit: usize) -> Input {
    let to_file = |numbers: &mut Vec<f32>| {
        let mut out = Spilling::begin(&std::env::temp_dir(), limit).unwrap();
        out.push(&std::mem::take(numbers)).unwrap();
        Some(out.done().unwrap())
    };
    input.spilled = to_file(&mut input.items);
    input.queries.spilled = to_file(&mut input.queries.numbers);
    input
}

/// Computes with several threads.
struct Together(usize);

impl Observer for Together {
    fn check(&mut self) -> Result<(), Stop> {
        Ok(())
    }

    fn progress(&mut self, _: Progress<'_>) -> Result<(), Stop> {
        Ok(())
    }

    fn crew(&self) -> Crew {
        Crew::together(self.0)
    }
}

#[test]
fn neither_the_memory_nor_the_threads_are_part_of_the_result() {
    for input in [asking(90, Signal::Planted, 3), synthetic(10, Signal::Planted, 3)] {
        let first = run(input.clone(), &Params::default());
        for limit in [1, 1 << 14] {
            let again = run(spilled(input.clone(), limit), &Params::default());
            assert_eq!((&first.adapter, &first.report), (&again.adapter, &again.report));
        }
        for threads in [2, 3, 7] {
            let again = train(input.clone(), None, &Params::default(), &mut Together(threads)).unwrap();
            assert_eq!((&first.adapter, &first.report), (&again.adapter, &again.report));
        }
    }
    let Some(real) = Real::load("polis") else { return };
    let (input, params) = (real.past(1), Params { epochs: 2, shrinkages: vec![0.7], ..Params::default() });
    let first = run(input.clone(), &params);
    let small = train(spilled(input, 1 << 20), None, &params, &mut Together(2)).unwrap();
    assert_eq!(first.adapter.digest(), small.adapter.digest());
}

#[test]
fn typed_questions_get_a_matrix_of_their_own_where_it_is_better() {
    let planted = run(asking(500, Signal::Planted, 5), &Params::default());
    let report = &planted.report["typed_questions"];
    let typed = planted.adapter.typed.as_ref().unwrap_or_else(|| panic!("{report}"));
    assert!(typed.matrix.len() == DIM * DIM && report["verdict"] == "passed", "{report}");
    assert_eq!((planted.verdict, planted.adapter.is_identity()), (Verdict::Passed, true), "{}", planted.reason);
    assert!(planted.reason.contains("typed questions"), "{}", planted.reason);
    let passed = (0..10).filter(|&seed| {
        let params = Params { seed, ..Params::default() };
        run(asking(200, Signal::None, seed), &params).adapter.typed.is_some()
    });
    assert!(passed.count() <= 1);
    let few = run(asking(30, Signal::Planted, 5), &Params::default());
    let reason = few.report["typed_questions"]["reason"].as_str().unwrap();
    assert!(few.adapter.typed.is_none() && reason.contains("are needed"), "{reason}");
    assert_eq!(run(synthetic(60, Signal::Planted, 5), &Params::default()).report["typed_questions"], Value::Null);
}

#[test]
fn a_planted_signal_passes() {
    let outcome = run(synthetic(300, Signal::Planted, 7), &Params::default());
    assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.reason);
    let e = &outcome.evaluation;
    assert!(outcome.chosen.starts_with("trained") && e.auc > e.knn3_auc && e.auc > e.popularity_auc, "{outcome:?}");
    let scores = [-1.0, 0.0, 1.0].map(|cosine| outcome.adapter.score(cosine));
    assert!(scores.is_sorted() && scores[0] < scores[2] && scores.iter().all(|s| (0.0..=1.0).contains(s)));
}

#[test]
fn a_live_model_has_to_be_beaten_too() {
    let (input, params) = (synthetic(300, Signal::Planted, 7), Params::default());
    let first = run(input.clone(), &params);
    let against =
        |live: &Adapter| train(input.clone(), Some(live), &params, &mut Unobserved).unwrap().against_live.unwrap();
    let same = against(&first.adapter);
    assert_eq!(
        (same.verdict, same.reason.as_str()),
        (Verdict::Refused, "kept what serves: the live model is the same")
    );
    assert_eq!(same.evaluation.auc_delta, Some(0.0));
    let base = against(&Adapter::identity(DIM));
    assert_eq!((base.verdict, base.evaluation), (Verdict::Passed, first.evaluation));
    let wrong = train(input.clone(), Some(&Adapter::identity(3)), &params, &mut Unobserved);
    assert!(wrong.unwrap_err().to_string().contains("3 dimensions"));
}

#[test]
fn labels_without_a_signal_are_refused() {
    let passed = (0..20)
        .filter(|&seed| {
            let outcome = run(synthetic(150, Signal::None, seed), &Params { seed, ..Params::default() });
            outcome.verdict == Verdict::Passed
        })
        .count();
    assert!(passed <= 1, "{passed} of 20 passed");
}

#[test]
fn shuffled_labels_of_real_feedback_are_refused() {
    let Some(real) = Real::load("polis") else { return };
    for seed in 0..seeds() {
        let mut input = real.past(seed);
        let mut labels: Vec<bool> = input.events.iter().map(|e| e.saved).collect();
        labels.shuffle(&mut rng::stream(seed, "labels"));
        input.events.iter_mut().zip(labels).for_each(|(event, saved)| event.saved = saved);
        let outcome = run(input, &Params { seed, ..Params::default() });
        eprintln!("shuffled polis seed {seed}: {} {}: {}", outcome.chosen, outcome.verdict.as_str(), outcome.reason);
        assert_eq!(outcome.verdict, Verdict::Refused);
    }
}

#[test]
fn little_data_is_answered_with_less() {
    let few = |users, params: &Params| train(synthetic(users, Signal::Planted, 7), None, params, &mut Unobserved);
    let default = Params::default();
    assert_eq!(few(7, &default).unwrap_err(), Error::TooFewEvents { found: 280, needed: 300 });

    let few_users = few(10, &default).unwrap();
    assert_eq!(
        (few_users.verdict, few_users.report["counts"]["set_aside"].as_str()),
        (Verdict::NotEnoughData, Some("days"))
    );
    assert!(
        few_users.reason.starts_with("10 days set aside") && few_users.reason.ends_with("10 more"),
        "{}",
        few_users.reason
    );
    assert!(few_users.report["note"].as_str().unwrap().starts_with("10 users, 16 are needed"));

    let closed = few(30, &default).unwrap();
    assert!(closed.report["note"].as_str().unwrap().starts_with("900 events in the training part, 1000 are needed"));
    assert!(closed.candidates.iter().all(|c| !c.trained) && closed.evaluation.users == 20);

    let narrow = few(60, &Params { shrinkages: vec![], gammas: vec![0.0], epochs: 1, ..default }).unwrap();
    let names: Vec<_> = narrow.candidates.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["identity", "trained raw"]);
}

/// One user who sees twelve new items a day for a hundred days.
fn diary(signal: Signal) -> Input {
    let mut input = synthetic(30, signal, 7);
    for (index, event) in input.events.iter_mut().enumerate() {
        let day = index / 12;
        (event.user, event.item, event.at) = (0, index as u32, day as i64 * 86_400_000_000);
        event.split = if day < 70 { Split::Train } else { Split::Test };
        if matches!(signal, Signal::Planted) {
            event.saved = input.items[index * DIM + DIM - 1] > 0.3;
        }
    }
    input.user_names.truncate(1);
    input
}

#[test]
fn a_single_user_is_judged_by_days() {
    let passed = run(diary(Signal::Planted), &Params::default());
    assert_eq!(passed.verdict, Verdict::Passed, "{}", passed.reason);
    assert!(passed.reason.starts_with("ranks better for 30 days"), "{}", passed.reason);
    assert!(passed.candidates.iter().all(|c| !c.trained) && passed.chosen != "identity");
    let own = passed.candidates.iter().filter(|c| c.own);
    let best =
        |own: bool| passed.candidates.iter().filter(|c| c.own == own).map(|c| c.auc.unwrap()).fold(0.0, f64::max);
    assert!(own.count() == 4 && best(true) > best(false), "{:?}", passed.candidates);
    assert!(
        passed.chosen.ends_with("with heads") && passed.adapter.heads.contains_key("user 00000"),
        "{}",
        passed.chosen
    );
    let noise = run(diary(Signal::None), &Params::default());
    assert_eq!(noise.verdict, Verdict::Refused, "{}", noise.reason);
    assert!(noise.reason.starts_with("kept "), "{}", noise.reason);
}

#[test]
fn what_holds_nothing_to_learn_is_refused_in_words() {
    let refused = |change: fn(&mut Input)| {
        let mut input = synthetic(20, Signal::Planted, 7);
        change(&mut input);
        train(input, None, &Params::default(), &mut Unobserved).unwrap_err().to_string()
    };
    let all_saved = refused(|input| input.events.iter_mut().for_each(|e| e.saved = true));
    assert!(all_saved.contains("are saved and none is skipped"), "{all_saved}");
    let all_skipped = refused(|input| input.events.iter_mut().for_each(|e| e.saved = false));
    assert!(all_skipped.contains("are skipped and none is saved"), "{all_skipped}");
    let alike = refused(|input| input.items.iter_mut().for_each(|v| *v = 1.0));
    assert!(alike.contains("do not differ"), "{alike}");
    let few = refused(|input| input.events.truncate(250));
    assert_eq!(few, "250 saved and skipped items, at least 300 are needed: 50 more");
}

#[test]
fn saves_and_skips_of_different_screens_teach_nothing() {
    let mut input = synthetic(100, Signal::Planted, 7);
    input.events.iter_mut().for_each(|event| event.surface = if event.saved { 1 } else { 2 });
    let outcome = run(input, &Params::default());
    assert_eq!((outcome.verdict, outcome.evaluation.users), (Verdict::NotEnoughData, 0));
    assert!(outcome.report["note"].as_str().unwrap().contains("users to select on"));
    assert_eq!(outcome.report["examples"]["examples"], 0);
    assert_eq!(outcome.report["warning"], Value::Null);
}

#[derive(Default)]
struct Watcher {
    checks: usize,
    stop_after: Option<usize>,
    done: Vec<f64>,
    stages: Vec<String>,
}

impl Observer for Watcher {
    fn check(&mut self) -> Result<(), Stop> {
        self.checks += 1;
        if self.stop_after.is_some_and(|limit| self.checks > limit) {
            Err(Stop)
        } else {
            Ok(())
        }
    }

    fn progress(&mut self, progress: Progress<'_>) -> Result<(), Stop> {
        self.done.push(progress.done);
        if self.stages.last().is_none_or(|last| last != progress.stage) {
            self.stages.push(progress.stage.to_owned());
        }
        Ok(())
    }
}

#[test]
fn a_run_tells_its_progress_and_can_be_stopped_anywhere() {
    let input = synthetic(80, Signal::Planted, 3);
    let mut watcher = Watcher::default();
    train(input.clone(), None, &Params::default(), &mut watcher).unwrap();
    assert!(watcher.done.is_sorted() && watcher.done.first() == Some(&0.0) && watcher.done.last() == Some(&1.0));
    let stages = [
        "reading",
        "calibrating",
        "trained raw",
        "trained centred",
        "trained 0.9",
        "trained 0.7",
        "selecting",
        "evaluating",
        "done",
    ];
    assert_eq!(watcher.stages, stages);
    for part in 0..10 {
        let mut stopping = Watcher { stop_after: Some(watcher.checks * part / 10), ..Watcher::default() };
        assert_eq!(train(input.clone(), None, &Params::default(), &mut stopping).unwrap_err(), Error::Stopped);
    }
    let hurried = Params { max_seconds: Some(0.001), ..Params::default() };
    assert_eq!(train(input, None, &hurried, &mut Unobserved).unwrap_err(), Error::TimeLimit { seconds: 0.001 });
}
