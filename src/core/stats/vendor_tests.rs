//! Rows about how other systems compute the same things, each from its own formula: what is ours is held to it, what is
//! not shows that the row was understood.

use super::bayes::belief;
use super::distribution::{bisect, normal_above, normal_quantile_above, student_quantile_above, student_two_sided};
use super::lift::{difference, relative, welch_freedom, Estimate};
use super::power::{power_of, smallest_lift, Errors};
use super::sequence::Sequence;
use super::test_data::{close_to, fixture, integers, mean_arm, number, numbers};
use serde_json::Value;
use statrs::function::gamma::gamma_ur;

fn file() -> Option<Value> {
    crate::core::vectors::shared("ab-stats-vectors.json")
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// -2 ln alpha, of which every tuning is made.
fn surprise(alpha: f64) -> f64 {
    -2.0 * alpha.ln()
}

#[test]
fn tunings_of_others_match() {
    let Some(file) = file() else { return };
    let sequential = &file["sequential"];
    for row in rows(&sequential["rho"]) {
        let (alpha, planned) = (number(&row["alpha"]), number(&row["n_star"]));
        let code = ((surprise(alpha) + surprise(alpha).ln() + 1.0) / planned).sqrt();
        close_to(code, number(&row["rho_tensorzero_code"]), 1e-9);
        // The exact tuning is the lower branch of Lambert's function: x = ln(1 + x) - 2 ln alpha.
        let exact = (0..200).fold(surprise(alpha), |x: f64, _| x.ln_1p() + surprise(alpha));
        close_to((exact / planned).sqrt(), number(&row["rho_exact_lambert"]), 1e-9);
    }
    let widths = rows(&sequential["halfwidth"]);
    for row in widths {
        let n = number(&row["n"]);
        let sequence = Sequence { users: n, planned_users: number(&row["n_star"]), alpha: number(&row["alpha"]) };
        let se = (number(&row["variance_per_unit"]) / n).sqrt();
        let fixed = normal_quantile_above(sequence.alpha / 2.0) * se;
        close_to(sequence.half_width_above(se), number(&row["halfwidth_one_sided"]), 1e-9);
        close_to(fixed, number(&row["fixed_horizon_halfwidth"]), 1e-9);
        close_to(sequence.half_width(se) / fixed, number(&row["ratio"]), 1e-9);
    }
    // The sequence is the mixture SPRT with a normal prior of variance tau2.
    let mixtures = rows(&sequential["msprt_equivalence"]);
    for row in mixtures {
        let (estimate, variance, tau2) = (number(&row["estimate"]), number(&row["se"]).powi(2), number(&row["tau2"]));
        let log =
            estimate.powi(2) * tau2 / (2.0 * variance * (variance + tau2)) + 0.5 * (variance / (variance + tau2)).ln();
        close_to(log, number(&row["log_e_value"]), 1e-9);
        close_to((-log).exp().min(1.0), number(&row["always_valid_p"]), 1e-9);
        close_to(number(&row["rho"]).powi(2) * variance * number(&row["n_total"]), tau2, 1e-9);
    }
    println!(
        "tunings: {} rows, widths: {}, mixtures: {}",
        rows(&sequential["rho"]).len(),
        widths.len(),
        mixtures.len()
    );
}

#[test]
fn sequential_tests_of_two_vendors_match() {
    let Some(file) = file() else { return };
    let variants = rows(&file["sequential"]["vendor_variants"]);
    for row in variants {
        let alpha = number(&row["alpha"]);
        if row["tau"].is_number() {
            let n = |key: &str| number(&row[key]);
            let variance = n("var_t") / n("n_t") + n("var_c") / n("n_c");
            let z = normal_quantile_above(alpha / 2.0);
            let tau = z * z * (n("var_t") + n("var_c")) / (n("n_t") + n("n_c"));
            let both = variance + tau;
            close_to(variance, n("V"), 1e-9);
            close_to(tau, n("tau"), 1e-9);
            close_to((both / tau * (surprise(alpha / 2.0) + (both / variance).ln())).sqrt(), n("z_star"), 1e-9);
        } else {
            // Tuned for 100 users of variance 1: the variance stands within the square root, too.
            let rho2 = (surprise(alpha) + surprise(alpha).ln() + 1.0) / 100.0;
            let n = number(&row["n"]);
            let t = n * number(&row["variance"]) * rho2 + 1.0;
            close_to(rho2.sqrt(), number(&row["rho"]), 1e-9);
            let half = (2.0 * t / (n * n * rho2) * (t.sqrt() / alpha).ln()).sqrt();
            close_to(half, number(&row["halfwidth"]), 1e-9);
        }
    }
    println!("vendors' sequential tests: {} rows", variants.len());
}

#[test]
fn an_arm_without_weight_hides_a_leak_from_one_vendor() {
    let Some(file) = file() else { return };
    let zero = rows(&file["srm"]["zero_weight_arm"]);
    for row in zero {
        let seen = integers(&row["observed"]);
        let weights = numbers(&row["weights"]);
        let users: f64 = seen.iter().sum::<i64>() as f64;
        let chi_square: f64 = seen
            .iter()
            .zip(&weights)
            .filter(|(_, weight)| **weight > 0.0)
            .map(|(&n, weight)| (n as f64 - users * weight).powi(2) / (users * weight))
            .sum();
        let p = if chi_square > 0.0 { gamma_ur((seen.len() - 1) as f64 / 2.0, chi_square / 2.0) } else { 1.0 };
        close_to(p, number(&row["growthbook_p_df_counts_zero_arm"]), 1e-9);
    }
    println!("arms without weight: {} rows", zero.len());
}

#[test]
fn other_estimates_of_the_variance_match() {
    let Some(file) = file() else { return };
    let method = &file["delta_method"];
    let ours = fixture();
    let mut arms = 0;
    for (metric, expected) in method.as_object().unwrap().iter().filter(|(_, value)| value["control"].is_object()) {
        let short = ["save_rate", "recall", "f1", "skip_share"].into_iter().find(|m| metric.starts_with(m)).unwrap();
        let mut clusters = 0.0; // users without an event are in no cluster
        for (arm, users) in [("control", "control_users"), ("treatment", "treatment_users")] {
            let rows: Vec<(f64, f64)> = rows(&ours["delta_method"][users]).iter().map(|u| pair(short, u)).collect();
            let n = rows.len() as f64;
            let (m, d) = rows.iter().fold((0.0, 0.0), |(m, d), row| (m + row.0, d + row.1));
            clusters += rows.iter().filter(|row| row.1 > 0.0).count() as f64;
            let squares = rows.iter().map(|row| (row.0 - m / d * row.1).powi(2)).sum::<f64>();
            let left_out: Vec<f64> = rows.iter().map(|row| (m - row.0) / (d - row.1)).collect();
            let mean = left_out.iter().sum::<f64>() / n;
            let jackknife = (n - 1.0) / n * left_out.iter().map(|r| (r - mean).powi(2)).sum::<f64>();
            close_to(squares / d / d, number(&expected[arm]["variance_cr0"]), 1e-9);
            close_to(jackknife, number(&expected[arm]["variance_jackknife"]), 1e-9);
            let ddof1 = number(&expected[arm]["variance_of_ratio_delta_ddof1"]);
            close_to(squares / d / d * n / (n - 1.0), ddof1, 1e-9);
            close_to(ddof1.sqrt(), number(&expected[arm]["se_delta"]), 1e-9);
            arms += 1;
        }
        if let Some(cluster) = expected["statsmodels_ols_cluster"].as_object() {
            let cr0 = ["control", "treatment"].map(|arm| number(&expected[arm]["variance_cr0"]));
            close_to((cr0[0] + cr0[1]).sqrt(), number(&cluster["se_cr0"]), 1e-9);
            // CR1: all users of both arms, all events, two coefficients.
            let events = number(&expected["control"]["sum_d"]) + number(&expected["treatment"]["sum_d"]);
            let factor = clusters / (clusters - 1.0) * (events - 1.0) / (events - 2.0);
            close_to((factor * (cr0[0] + cr0[1])).sqrt(), number(&cluster["se_cr1"]), 1e-7);
        }
    }
    assert_eq!(arms, 8);
    println!("variances: {arms} arms");
}

fn pair(metric: &str, user: &Value) -> (f64, f64) {
    let column = |i: usize| number(&user[i]);
    let (shown, saved, missed) = (column(0), column(1), column(4));
    match metric {
        "save_rate" => (saved, shown),
        "recall" => (saved, saved + missed),
        "f1" => (2.0 * saved, shown + saved + missed),
        _ => (shown - saved, shown),
    }
}

#[track_caller]
fn printed(ours: f64, theirs: &Value) {
    match theirs.as_f64() {
        Some(theirs) => assert!((ours - theirs).abs() <= 1.01e-5 * theirs.abs().max(1.0), "{ours}, expected {theirs}"),
        None => assert!(theirs.is_string(), "{theirs}"), // an open end
    }
}

#[test]
fn published_intervals_and_p_values_match() {
    let Some(file) = file() else { return };
    let mut checked = 0;
    for row in rows(&file["growthbook_means"]).iter().filter(|row| row["published_expected"].is_object()) {
        let name = row["name"].as_str().unwrap();
        let expected = &row["published_expected"];
        let [base, new] = ["control", "treatment"].map(|arm| mean_arm(&row[arm]));
        let seen = if name.contains("absolute") { difference(&base, &new) } else { relative(&base, &new).unwrap() };
        let one_sided = name.contains("one_sided");
        let (half, p) = if name.starts_with("sequential") {
            let planned = if name.ends_with("N1000") { 1000.0 } else { 5000.0 };
            let sequence = Sequence { users: base.users + new.users, planned_users: planned, alpha: 0.05 };
            match one_sided {
                true => (sequence.half_width_above(seen.se), sequence.p_above(seen)),
                false => (sequence.half_width(seen.se), sequence.p(seen)),
            }
        } else {
            let freedom = welch_freedom((base.variance, base.users), (new.variance, new.users));
            let both = student_two_sided(seen.value / seen.se, freedom);
            let p = match (one_sided, name.contains("greater")) {
                (false, _) => both,
                (true, true) => both / 2.0,
                (true, false) => 1.0 - both / 2.0,
            };
            (seen.se * student_quantile_above(if one_sided { 0.05 } else { 0.025 }, freedom), p)
        };
        printed(seen.value - half, &expected["ci"][0]);
        printed(seen.value + half, &expected["ci"][1]);
        if !(one_sided && name.starts_with("sequential")) {
            printed(p, &expected["p"]);
        } else if number(&expected["p"]) < 0.4999 {
            assert!((p - number(&expected["p"])).abs() < 5e-4, "{name}: {p}"); // the step after their root
        }
        checked += 1;
    }
    for row in rows(&file["bayes_gaussian"]["rows"]).iter().filter(|row| row["published_expected"].is_object()) {
        let expected = &row["published_expected"];
        let [base, new] = ["control", "treatment"].map(|arm| mean_arm(&row[arm]));
        let prior = &row["prior"];
        let before = Estimate { value: number(&prior["mean"]), se: number(&prior["variance"]).sqrt() };
        let seen = relative(&base, &new).unwrap();
        let b = belief(seen, (prior["proper"] == 1).then_some(before));
        let half = normal_quantile_above(0.025) * b.sd;
        for (ours, theirs) in [
            (b.mean, &expected["mean"]),
            (b.sd, &expected["sd"]),
            (b.chance_to_win, &expected["ctw"]),
            (b.mean - half, &expected["ci"][0]),
            (b.mean + half, &expected["ci"][1]),
            (b.loss_if_base_stays, &expected["risk"][0]),
            (b.loss_if_new_ships, &expected["risk"][1]),
        ] {
            printed(ours, theirs);
        }
        checked += 1;
    }
    println!("published intervals: {checked} rows");
}

/// Variance of a difference of means, or of a lift: arms as (variance, mean, users).
fn variance_of(a: (f64, f64, f64), b: (f64, f64, f64), of_lift: bool) -> f64 {
    match of_lift {
        true => b.0 / (a.1.powi(2) * b.2) + a.0 * b.1.powi(2) / (a.1.powi(4) * a.2),
        false => b.0 / b.2 + a.0 / a.2,
    }
}

#[test]
fn published_power_of_sequences_matches() {
    let Some(file) = file() else { return };
    let published = &file["power"]["published_growthbook"];
    let v = &published["frequentist_variance_relative"];
    let arm = |x: &str| (number(&v[format!("var_{x}")]), number(&v[format!("mean_{x}")]), number(&v[format!("n_{x}")]));
    printed(variance_of(arm("a"), arm("b"), true), &v["relative_true"]);
    printed(variance_of(arm("a"), arm("b"), false), &v["relative_false"]);
    // They widen the standard error itself by the sequence's price, so the noise of the estimate, too.
    let m = &published["mean_metric"];
    let n = number(&m["n_total"]) / number(&m["variations"]);
    let errors = Errors { alpha: number(&m["alpha"]), power: 0.8 };
    let sequence = Sequence { users: 2.0 * n, planned_users: 5000.0, alpha: errors.alpha };
    let width = sequence.half_width(1.0) / normal_quantile_above(errors.alpha / 2.0);
    let (mean, variance) = (number(&m["mean"]), number(&m["variance"]) * width * width);
    printed(power_of(number(&m["effect"]), mean, variance, n, 1.0, errors.alpha), &m["sequential_5000_power"]);
    printed(smallest_lift(mean, variance, n, 1.0, errors).unwrap(), &m["sequential_5000_mde_80"]);
    println!("published sequential power: 2 rows, variances: 2");
}

/// How many times as many users again are needed, as their search finds it.
#[test]
fn published_scaling_in_the_middle_of_an_experiment_matches() {
    let Some(file) = file() else { return };
    let row = &file["power"]["published_growthbook_midexperiment_scaling"];
    let [base, new] = ["control", "treatment"].map(|arm| mean_arm(&row[arm]));
    let variance = relative(&base, &new).unwrap().se.powi(2);
    let (effect, users) = (number(&row["target_mde"]), base.users + new.users);
    let z = normal_quantile_above(0.025);
    let fixed = |more: f64| z * (variance / (1.0 + more)).sqrt();
    let sequence = |more: f64| {
        let total = users * (1.0 + more);
        Sequence { users: total, planned_users: 5000.0, alpha: 0.05 }.half_width((variance * users / total).sqrt())
    };
    let found = |half: &dyn Fn(f64) -> f64| {
        scaling(row, |more| {
            let se = (variance / (1.0 + more)).sqrt();
            normal_above((half(more) - effect) / se) + normal_above((half(more) + effect) / se)
        })
    };
    let (mean, prior) = (0.05, 0.001);
    let bayesian = scaling(row, |more| {
        let v = variance / (1.0 + more);
        let edge = v * (1.0 / prior + 1.0 / v).sqrt() * z;
        let shift = v * mean / prior;
        normal_above((edge - shift - effect) / v.sqrt()) + normal_above((edge + shift + effect) / v.sqrt())
    });
    let published = ["frequentist", "sequential_5000", "bayesian_prior_0.05_0.001"];
    for (ours, key) in [found(&fixed), found(&sequence), bayesian].into_iter().zip(published) {
        // Their search ends when the power is within 1e-5, which leaves the fourth digit open.
        close_to(ours, number(&row[key]), 2e-4);
    }
    println!("published scaling: 3 rows");
}

fn scaling(row: &Value, power: impl Fn(f64) -> f64) -> f64 {
    bisect(0.0, 1000.0, |more| power(more) < number(&row["power"]))
}
