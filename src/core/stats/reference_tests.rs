//! Error rates that were simulated for the specification, found again: exactly where the sums can be written out, by
//! simulations of our own where not.

use super::distribution::normal_quantile_above;
use super::sequence::Sequence;
use super::test_data::number;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::Value;
use statrs::function::gamma::ln_gamma;

fn rates() -> Option<Value> {
    let file = crate::core::vectors::shared("ab-stats-vectors.json")?;
    Some(file["simulated_false_positive_rates_alpha_0.05"].clone())
}

#[track_caller]
fn near(ours: f64, theirs: &Value, tolerance: f64) {
    assert!((ours - number(theirs)).abs() < tolerance, "{ours}, simulated {theirs}");
}

/// Chances of each number of successes, where they are not too small to matter.
fn binomial(n: usize, p: f64) -> Vec<(f64, f64)> {
    let chance = |k: f64| {
        let n = n as f64;
        (ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0) + k * p.ln() + (n - k) * (1.0 - p).ln()).exp()
    };
    (0..=n).map(|k| (k as f64 / n as f64, chance(k as f64))).filter(|(_, chance)| *chance > 1e-10).collect()
}

/// Sums `what` over both arms' shares, weighed by how likely they are.
fn expected<const N: usize>(n: usize, base: f64, new: f64, what: impl Fn(f64, f64) -> [f64; N]) -> [f64; N] {
    let (base, new) = (binomial(n, base), binomial(n, new));
    let mut sums = [0.0; N];
    for &(b, chance_b) in &base {
        for &(t, chance_t) in &new {
            let values = what(b, t);
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += chance_b * chance_t * value);
        }
    }
    sums
}

#[test]
fn the_scale_of_a_test_decides_in_which_direction_it_errs() {
    let Some(rates) = rates() else { return };
    let rows = rates["tail_asymmetry_of_scale_no_effect_two_sided_0.05"].as_array().unwrap();
    let z = normal_quantile_above(0.025);
    for row in rows {
        let n = number(&row["n_per_arm"]);
        let p = number(&row["p"]);
        let found: [f64; 6] = expected(n as usize, p, p, |b, t| {
            let (vb, vt) = (b * (1.0 - b) / n, t * (1.0 - t) / n);
            let relative = (t / b - 1.0) / (vt / (b * b) + vb * t * t / b.powi(4)).sqrt();
            let absolute = (t - b) / (vb + vt).sqrt();
            let log = (t / b).ln() / (vt / (t * t) + vb / (b * b)).sqrt();
            [relative < -z, relative > z, absolute < -z, absolute > z, log < -z, log > z].map(f64::from)
        });
        for (pair, scale) in found.chunks(2).zip(["relative_delta", "absolute", "log_ratio"]) {
            near(pair[0], &row[scale]["declared_worse"], 2e-3);
            near(pair[1], &row[scale]["declared_better"], 2e-3);
        }
    }
    println!("scales: {} rows of 3", rows.len());
}

#[test]
fn a_point_estimate_beyond_the_target_is_no_proof_of_it() {
    let Some(rates) = rates() else { return };
    let rows = rates["promotion_rules"].as_array().unwrap();
    let z = normal_quantile_above(0.025);
    for row in rows {
        let (n, base) = (number(&row["n_per_arm"]), number(&row["baseline"]));
        let new = base * (1.0 + number(&row["true_lift"]));
        let [naive, contrast, lift] = expected(n as usize, base, new, |b, t| {
            let (vb, vt) = (b * (1.0 - b) / n, t * (1.0 - t) / n);
            let says_yes = f64::from(t / b - 1.0 >= 0.2 && ((t - b) / (vb + vt).sqrt()).abs() > z);
            let proved = f64::from((t - 1.2 * b) / (vt + 1.44 * vb).sqrt() > z);
            [says_yes, proved, says_yes * (t / b - 1.0)]
        });
        near(naive, &row["rule_point_estimate_ge_20pct_and_p_lt_0.05"], 3e-3);
        near(contrast, &row["rule_contrast_margin_20pct_one_sided_0.025"], 3e-3);
        near(lift / naive, &row["mean_estimated_lift_given_naive_rule"], 3e-3);
    }
    println!("promotion rules: {} rows", rows.len());
}

/// Two draws from a standard normal distribution.
fn normals(rng: &mut Xoshiro256PlusPlus) -> [f64; 2] {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
    [radius * cos, radius * sin]
}

#[test]
fn thirty_looks_find_what_is_not_there_but_with_a_sequence() {
    let Some(rates) = rates() else { return };
    let peeking = &rates["peeking_30_looks_200_users_per_arm_per_look"];
    let planned = [400.0, 4000.0, 12000.0];
    let (fixed, statsig) = (normal_quantile_above(0.025), 3.584_515_359_748_673_6);
    let rng = &mut Xoshiro256PlusPlus::seed_from_u64(30);
    let (simulations, mut counts) = (40_000, [0.0; 6]);
    for _ in 0..simulations {
        let (mut sum, mut found) = (0.0, [false; 6]);
        let steps: Vec<f64> = (0..15).flat_map(|_| normals(rng)).collect();
        for (look, step) in (1..=30).zip(steps) {
            sum += step;
            let z = (sum / f64::from(look).sqrt()).abs();
            found[0] = z > fixed;
            found[1] |= z > fixed;
            found[5] |= z > statsig;
            for (found, planned_users) in found[2..5].iter_mut().zip(planned) {
                let users = 400.0 * f64::from(look);
                *found |= z > Sequence { users, planned_users, alpha: 0.05 }.half_width(1.0);
            }
        }
        counts.iter_mut().zip(found).for_each(|(count, found)| *count += f64::from(found));
    }
    let keys = [
        "one_look_at_end",
        "fixed_z_every_look",
        "confidence_sequence_nstar_400",
        "confidence_sequence_nstar_4000",
        "confidence_sequence_nstar_12000",
        "statsig_formula_as_documented",
    ];
    for (count, key) in counts.into_iter().zip(keys) {
        let ours = count / f64::from(simulations);
        println!("  {key}: {ours:.4}, simulated {}", peeking[key]);
        near(ours, &peeking[key], if number(&peeking[key]) > 0.1 { 0.012 } else { 0.005 });
    }
    println!("thirty looks: {} rates", keys.len());
}

#[test]
fn looking_after_every_ten_users_is_no_different() {
    let Some(rates) = rates() else { return };
    let rates = &rates["continuous_peeking_every_10_users_p_0.1_to_4000_per_arm"];
    let (starts, z) = ([10, 50, 100, 500], normal_quantile_above(0.025));
    let rng = &mut Xoshiro256PlusPlus::seed_from_u64(10);
    let (simulations, mut counts) = (2_000, [[0.0; 2]; 4]);
    for _ in 0..simulations {
        let (mut saved, mut found) = ([0.0, 0.0], [[false; 2]; 4]);
        for look in 1..=400 {
            let users = f64::from(look) * 10.0;
            saved.iter_mut().for_each(|s| *s += (0..10).filter(|_| rng.random::<f64>() < 0.1).count() as f64);
            let variance: f64 = saved.iter().map(|s| s / users * (1.0 - s / users) / users).sum();
            let score = (saved[1] - saved[0]).abs() / users / variance.sqrt();
            let edge = Sequence { users: 2.0 * users, planned_users: 5000.0, alpha: 0.05 }.half_width(1.0);
            for (found, _) in found.iter_mut().zip(starts).filter(|(_, start)| look * 10 >= *start) {
                found[0] |= score > edge;
                found[1] |= score > z;
            }
        }
        for (counts, found) in counts.iter_mut().zip(found) {
            counts.iter_mut().zip(found).for_each(|(count, found)| *count += f64::from(found));
        }
    }
    for (counts, start) in counts.iter().zip(starts) {
        let row = &rates[format!("start_at_{start}_users_per_arm")];
        let [sequence, fixed] = counts.map(|count| count / f64::from(simulations));
        println!("  from {start} users an arm: sequence {sequence:.4}, fixed {fixed:.3}; simulated {row}");
        near(sequence, &row["confidence_sequence"], 0.012);
        near(fixed, &row["fixed_z"], 0.05);
    }
    println!("every ten users: {} rows", starts.len());
}

/// One arm of users with several events each: events by user, and a taste that is alike within a user.
fn clustered(users: usize, rng: &mut Xoshiro256PlusPlus) -> Vec<(f64, f64)> {
    (0..users)
        .map(|_| {
            // Two tastes around 0.3 whose variance is a tenth of p (1 - p): intraclass correlation 0.1.
            let taste = 0.3 + if rng.random::<bool>() { 1.0 } else { -1.0 } * (0.1 * 0.3 * 0.7_f64).sqrt();
            let events = (1.0 + (1.0 - rng.random::<f64>()).ln() / (15.0 / 16.0_f64).ln()).floor(); // 16 on average
            ((0..events as usize).filter(|_| rng.random::<f64>() < taste).count() as f64, events)
        })
        .collect()
}

#[test]
fn events_of_one_user_are_no_independent_evidence() {
    let Some(rates) = rates() else { return };
    let expected = &rates["user_clustering_300_users_per_arm_mean_16_events_icc_0.1"];
    let (z, rng) = (normal_quantile_above(0.025), &mut Xoshiro256PlusPlus::seed_from_u64(16));
    let (simulations, mut naive, mut by_user) = (3_000, 0.0, 0.0);
    for _ in 0..simulations {
        let arms = [clustered(300, rng), clustered(300, rng)].map(|arm| {
            let (m, d) = arm.iter().fold((0.0, 0.0), |(m, d), user| (m + user.0, d + user.1));
            let squares: f64 = arm.iter().map(|user| (user.0 - m / d * user.1).powi(2)).sum();
            (m / d, m / d * (1.0 - m / d) / d, squares * 300.0 / 299.0 / (d * d))
        });
        let difference = (arms[1].0 - arms[0].0).abs();
        naive += f64::from(difference > z * (arms[0].1 + arms[1].1).sqrt());
        by_user += f64::from(difference > z * (arms[0].2 + arms[1].2).sqrt());
    }
    let [naive, by_user] = [naive, by_user].map(|count: f64| count / f64::from(simulations));
    println!("events as users: {naive:.3} by event, {by_user:.3} by user; simulated {expected}");
    // How their events were spread over users is not said: the naive rate depends on it, the right one does not.
    near(naive, &expected["naive_event_level"], 0.06);
    near(by_user, &expected["delta_method"], 0.015);
}

#[test]
fn users_who_come_back_do_not_break_the_sequence() {
    let Some(rates) = rates() else { return };
    let rng = &mut Xoshiro256PlusPlus::seed_from_u64(7);
    for (key, window) in
        [("open_ended_accumulating_events", None), ("fixed_7_day_window_completed_users_only", Some(7))]
    {
        let (simulations, mut sequence, mut fixed) = (600, 0.0, 0.0);
        for _ in 0..simulations {
            let (by_sequence, by_fixed) = thirty_days(window, rng);
            sequence += f64::from(by_sequence);
            fixed += f64::from(by_fixed);
        }
        let [sequence, fixed] = [sequence, fixed].map(|count: f64| count / f64::from(simulations));
        let row = &rates["longitudinal_users"][key];
        println!("  {key}: sequence {sequence:.4}, fixed {fixed:.3}; simulated {row}");
        near(sequence, &row["confidence_sequence"], 0.02);
        // Their users' activity is spread in another way.
        near(fixed, &row["fixed_z_every_day"], 0.1);
    }
    println!("returning users: 2 rows of 2");
}

/// Thirty days of 40 new users per arm and day: whether a sequence, or a fixed test, ever found a difference. With a window
/// only users count whose first so many days are over, and only those days.
fn thirty_days(window: Option<usize>, rng: &mut Xoshiro256PlusPlus) -> (bool, bool) {
    let z = normal_quantile_above(0.025);
    let mut arms = [Vec::<(usize, f64, f64, f64)>::new(), Vec::new()]; // day of arrival, taste, saved, shown
    let mut found = (false, false);
    for day in 0..30 {
        for arm in &mut arms {
            arm.extend((0..40).map(|_| {
                let taste = 0.3 + if rng.random::<bool>() { 1.0 } else { -1.0 } * (0.3 * 0.3 * 0.7_f64).sqrt();
                (day, taste, 0.0, 0.0)
            }));
            for user in arm.iter_mut().filter(|user| window.is_none_or(|window| day < user.0 + window)) {
                let events = (rng.random::<f64>() * 7.0).floor(); // three on average
                user.2 += (0..events as usize).filter(|_| rng.random::<f64>() < user.1).count() as f64;
                user.3 += events;
            }
        }
        let seen = arms.each_ref().map(|arm| {
            let users: Vec<_> = arm.iter().filter(|u| window.is_none_or(|window| day + 1 >= u.0 + window)).collect();
            let (m, d) = users.iter().fold((0.0, 0.0), |(m, d), user| (m + user.2, d + user.3));
            let n = users.len() as f64;
            let squares: f64 = users.iter().map(|user| (user.2 - m / d * user.3).powi(2)).sum();
            (m / d, squares * n / (n - 1.0) / (d * d), n)
        });
        if seen[0].2 < 2.0 {
            continue;
        }
        let score = (seen[1].0 - seen[0].0).abs() / (seen[0].1 + seen[1].1).sqrt();
        let sequence = Sequence { users: seen[0].2 + seen[1].2, planned_users: 2400.0, alpha: 0.05 };
        found.0 |= score > sequence.half_width(1.0);
        found.1 |= score > z;
    }
    found
}
