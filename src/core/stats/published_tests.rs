//! Rows that other projects published. They stay in their files: read from ../shared/data when it is there.

use super::bayes::belief;
use super::cuped::{adjust, Moments};
use super::lift::{relative, Estimate};
use super::multiple::{self, Method};
use super::power::{power_of, smallest_lift, Errors};
use super::ratio::Arm;
use super::sequence::Sequence;
use super::test_data::{close_to, mean_arm, number, numbers};
use serde_json::Value;
use statrs::function::gamma::ln_gamma;

fn published() -> Option<Value> {
    crate::core::vectors::shared("ab-stats-vectors.json")
}

#[track_caller]
fn printed(ours: f64, theirs: &Value) {
    assert!((ours - number(theirs)).abs() <= 1.01e-5 * number(theirs).abs().max(1.0), "{ours}, expected {theirs}");
}

#[test]
fn published_rows_match_to_the_digits_printed() {
    let Some(file) = published() else { return };
    let mut rows = 0;
    for row in file["growthbook_means"].as_array().unwrap() {
        let expected = &row["published_expected"];
        if let (Some(se), None) = (expected["se"].as_f64(), row["control"]["proportion"].as_i64()) {
            let [base, new]: [Arm; 2] = ["control", "treatment"].map(|arm| mean_arm(&row[arm]));
            let absolute = row["name"].as_str().unwrap().contains("absolute");
            let seen = if absolute { super::lift::difference(&base, &new) } else { relative(&base, &new).unwrap() };
            printed(seen.value, &expected["point"]);
            assert!((seen.se - se).abs() < 1e-5);
            rows += 1;
        }
    }
    let risk = &file["bayes_gaussian"]["published_risk_vector"];
    let b = belief(Estimate { value: number(&risk["mu"]), se: number(&risk["sigma"]) }, None);
    close_to(b.loss_if_base_stays, number(&risk["risk"][0]), 1e-9);
    close_to(b.loss_if_new_ships, number(&risk["risk"][1]), 1e-9);
    for row in file["multiple_testing"].as_array().unwrap().iter().filter(|row| row["p"].is_null()) {
        for (key, method) in [("holm", Method::Holm), ("bh", Method::BenjaminiHochberg)] {
            let ours = multiple::adjust(&numbers(&row[key]["p"]), method);
            ours.iter().zip(row[key]["adjusted"].as_array().unwrap()).for_each(|(&ours, theirs)| printed(ours, theirs));
            rows += 1;
        }
    }
    println!("published: {} rows", rows + 1);
}

#[test]
fn published_sequential_split_tests_match() {
    let Some(file) = published() else { return };
    let mut looks = 0;
    for rows in ["published_unit_rows", "published_aggregate_rows"] {
        let rows = &file["srm"]["sequential"][rows];
        let (weights, mut prior) = (numbers(&rows["weights"]), numbers(&rows["dirichlet_alpha"]));
        let (mut log_other, mut log_promised) = (0.0, 0.0);
        for (batch, expected) in rows["data"].as_array().unwrap().iter().zip(rows["log_m1_log_m0"].as_array().unwrap())
        {
            let batch = numbers(batch);
            let users: f64 = batch.iter().sum();
            let orders = ln_gamma(users + 1.0) - batch.iter().map(|n| ln_gamma(n + 1.0)).sum::<f64>();
            let total: f64 = prior.iter().sum();
            log_promised += orders + batch.iter().zip(&weights).map(|(n, w)| n * w.ln()).sum::<f64>();
            log_other += orders + ln_gamma(total) - ln_gamma(total + users)
                + batch.iter().zip(&prior).map(|(n, a)| ln_gamma(a + n) - ln_gamma(*a)).sum::<f64>();
            prior.iter_mut().zip(&batch).for_each(|(a, n)| *a += n);
            close_to(log_other, number(&expected[0]), 1e-9);
            close_to(log_promised, number(&expected[1]), 1e-9);
            looks += 1;
        }
    }
    println!("published SRM: {looks} looks");
}

#[test]
fn published_power_matches() {
    let Some(file) = published() else { return };
    let published = &file["power"]["published_growthbook"];
    let mut rows = 0;
    let weeks = &published["weeks_1_to_9"];
    let users = number(&weeks["users_per_week"]) / number(&weeks["variations"]);
    let errors = Errors { alpha: number(&weeks["alpha"]), power: 0.8 };
    let clicks = &weeks["click_through_rate"];
    let revenue = &weeks["revenue"];
    let p = number(&clicks["p"]);
    for (metric, mean, variance) in
        [(clicks, p, p * (1.0 - p)), (revenue, number(&revenue["mean"]), number(&revenue["variance"]))]
    {
        for week in 0..9 {
            let n = users * (week as f64 + 1.0);
            printed(power_of(number(&metric["effect"]), mean, variance, n, 1.0, errors.alpha), &metric["power"][week]);
            printed(smallest_lift(mean, variance, n, 1.0, errors).unwrap(), &metric["mde"][week]);
            rows += 2;
        }
    }
    let m = &published["mean_metric"];
    let (mean, variance) = (number(&m["mean"]), number(&m["variance"]));
    let n = number(&m["n_total"]) / number(&m["variations"]);
    printed(power_of(number(&m["effect"]), mean, variance, n, 1.0, errors.alpha), &m["power"]);
    printed(smallest_lift(mean, variance, n, 1.0, errors).unwrap(), &m["mde_80"]);
    println!("published power: {} rows", rows + 2);
}

#[test]
fn published_cuped_matches() {
    let Some(file) = published() else { return };
    let row = &file["cuped"]["published_sequential_cuped"];
    let [base, new] = ["control", "treatment"].map(|arm| {
        let arm = &row[arm];
        let n = number(&arm["n"]);
        let sum = |side: &str| (number(&arm[side]["sum"]), number(&arm[side]["sum_squares"]));
        let ((y, yy), (x, xx)) = (sum("post"), sum("pre"));
        let central = |product: f64, a: f64, b: f64| (product - a * b / n) / (n - 1.0);
        Moments {
            users: n,
            y: y / n,
            x: x / n,
            var_y: central(yy, y, y),
            var_x: central(xx, x, x),
            covariance: central(number(&arm["post_pre_sum_of_products"]), y, x),
        }
    });
    let lift = adjust(&base, &new, 0.05).lift.unwrap();
    printed(lift.value, &row["published_expected"]["point"]);
    printed(lift.se, &row["published_expected"]["se"]);
    let users = base.users + new.users;
    let half = Sequence { users, planned_users: number(&row["n_star"]), alpha: 0.05 }.half_width(lift.se);
    // That engine drops a term of the gradient: its standard error differs in the sixth digit.
    close_to(lift.value - half, number(&row["published_expected"]["ci"][0]), 5e-5);
    close_to(lift.value + half, number(&row["published_expected"]["ci"][1]), 5e-5);
    println!("published CUPED: 1 row");
}
