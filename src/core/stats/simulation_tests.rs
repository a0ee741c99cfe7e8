//! Tests of two equal models, looked at every day: how often is a winner found where there is none?
//! A few here; as many as PG_FINETUNE_SIMULATIONS says in bench/simulation.sh.

use super::distribution::normal_two_sided;
use super::lift::event_level_z;
use super::ratio::Sums;
use super::rollout::{decide, Decision, Measure, Settings, Snapshot};
use super::{compare, Question};
use crate::core::stats::margin::Claim;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const DAYS: usize = 30;
const NEW_USERS_PER_DAY: usize = 30;
/// Half of the users save 5 %, half 55 % of what they see: events of one user are alike (intraclass correlation 0.3).
const TASTES: [f64; 2] = [0.05, 0.55];

/// Events of one user so far.
#[derive(Clone, Copy, Default)]
struct User {
    taste: f64,
    saved: i64,
    shown: i64,
}

fn one_day(arm: &mut Vec<User>, rng: &mut Xoshiro256PlusPlus) {
    for _ in 0..NEW_USERS_PER_DAY {
        arm.push(User { taste: TASTES[usize::from(rng.random::<bool>())], ..User::default() });
    }
    for user in arm {
        let events = (rng.random::<f64>() * 7.0) as i64; // three on average
        user.shown += events;
        user.saved += (0..events).filter(|_| rng.random::<f64>() < user.taste).count() as i64;
    }
}

fn sums(arm: &[User]) -> Sums {
    let sum = |f: fn(&User) -> i64| arm.iter().map(f).sum();
    Sums {
        users: arm.len() as i64,
        m: sum(|u| u.saved),
        d: sum(|u| u.shown),
        mm: sum(|u| u.saved * u.saved),
        dd: sum(|u| u.shown * u.shown),
        md: sum(|u| u.saved * u.shown),
        largest_d: arm.iter().map(|u| u.shown).max().unwrap_or(0),
    }
}

fn snapshot(day: usize, base: &Sums, new: &Sums, hybrid: bool) -> Snapshot {
    let row = |s: &Sums| [s.users, s.m, s.d, s.mm, s.dd, s.md, s.largest_d];
    Snapshot {
        settings: Settings {
            steps: vec![1.0],
            min_users: 0,
            min_hours: 0.0,
            min_days: 0.0,
            max_days: 1e6,
            planned_users: (DAYS * NEW_USERS_PER_DAY * 2) as i64,
            alpha: 0.05,
            guardrail_alpha: 0.01,
            hybrid,
        },
        coverage: 1.0,
        days: day as f64,
        hours_in_step: 1e3,
        users_in_step: base.users,
        users: [base.users, new.users],
        base_is_live: true,
        alarms: vec![],
        goal: Measure {
            metric: "save_rate".into(),
            margin: 0.0,
            higher_is_better: true,
            base: row(base),
            fine_tuned: row(new),
        },
        guardrails: vec![Measure {
            metric: "skip_rate".into(),
            margin: 0.0,
            higher_is_better: true,
            base: row(base),
            fine_tuned: row(new),
        }],
    }
}

/// What one experiment without an effect led to within its days.
#[derive(Default)]
struct Found {
    promoted: bool,
    promoted_by_hybrid: bool,
    rolled_back: bool,
    always_valid: bool,
    events: bool,
    fixed: bool,
}

fn experiment(seed: u64) -> Found {
    let rng = &mut Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut base, mut new) = (vec![], vec![]);
    let mut found = Found::default();
    for day in 1..=DAYS {
        one_day(&mut base, rng);
        one_day(&mut new, rng);
        let (b, n) = (sums(&base), sums(&new));
        let look = decide(&snapshot(day, &b, &n, false)).decision;
        found.promoted |= look == Decision::Promote && !found.rolled_back;
        found.rolled_back |= look == Decision::RollBack && !found.promoted;
        found.promoted_by_hybrid |= decide(&snapshot(day, &b, &n, true)).decision == Decision::Promote;
        let question = Question {
            claim: Claim::AtLeast(0.0),
            alpha: 0.05,
            planned_users: (DAYS * NEW_USERS_PER_DAY * 2) as f64,
            hybrid: false,
        };
        if let Some(c) = compare(&b, &n, &question).compared {
            found.always_valid |= c.p < 0.05;
            found.fixed |= c.fixed.is_some_and(|(_, p)| p < 0.05);
        }
        found.events |= event_level_z(&b, &n).is_some_and(|z| normal_two_sided(z) < 0.05);
    }
    found
}

#[test]
fn equal_models_are_hardly_ever_told_apart_however_often_one_looks() {
    let runs: u64 = std::env::var("PG_FINETUNE_SIMULATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let all: Vec<Found> = (0..runs).map(|run| experiment(20_260_922 + run)).collect();
    let share = |f: fn(&Found) -> bool| all.iter().filter(|found| f(found)).count() as f64 / runs as f64;
    // One-sided at 0.025, with room for the chance of a small number of runs (three standard errors).
    let bound = |alpha: f64| alpha + 3.0 * (alpha * (1.0 - alpha) / runs as f64).sqrt();
    let (promoted, hybrid, rolled_back) =
        (share(|f| f.promoted), share(|f| f.promoted_by_hybrid), share(|f| f.rolled_back));
    let (always, fixed, events) = (share(|f| f.always_valid), share(|f| f.fixed), share(|f| f.events));
    println!(
        "{runs} experiments without an effect, {DAYS} daily looks, {NEW_USERS_PER_DAY} new users per arm and day:"
    );
    println!(
        "  promoted {:.2} %, promoted (hybrid) {:.2} %, rolled back {:.2} %",
        100.0 * promoted,
        100.0 * hybrid,
        100.0 * rolled_back
    );
    println!("  some look significant at 0.05: always-valid {:.2} %", 100.0 * always);
    println!("  fixed horizon, users {:.1} %, fixed horizon, events {:.1} %", 100.0 * fixed, 100.0 * events);
    assert!(promoted <= bound(0.025) && hybrid <= bound(0.025) && rolled_back <= bound(0.01));
    assert!(always <= bound(0.05));
    assert!(fixed > 0.05 && events > 0.3, "the simulation must show what goes wrong otherwise: {fixed} {events}");
}
