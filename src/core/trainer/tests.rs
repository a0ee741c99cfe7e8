//! The trainer as a whole: golden values, promises about determinism and refusals, synthetic and real feedback.

use super::testdata::{synthetic, Real, Signal, Truth};
use super::*;

fn run(input: Input, params: &Params) -> Outcome {
    train(input, params, &mut Unobserved).unwrap()
}

fn print(name: &str, seed: u64, outcome: &Outcome, base: Truth, new: Truth, seconds: f64) {
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
fn seeds() -> u64 {
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

#[test]
fn a_planted_signal_passes() {
    let outcome = run(synthetic(300, Signal::Planted, 7), &Params::default());
    assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.reason);
    eprintln!("{} {}", outcome.chosen, outcome.reason);
}

#[test]
fn labels_without_a_signal_are_refused() {
    let passed = (0..20)
        .filter(|&seed| {
            let outcome = run(synthetic(150, Signal::None, seed), &Params { seed, ..Params::default() });
            eprintln!("{seed} {} {}", outcome.chosen, outcome.reason);
            outcome.verdict == Verdict::Passed
        })
        .count();
    assert!(passed <= 1, "{passed} of 20 passed");
}
