//! Sample ratio mismatch: are the users of the arms as many as the split promises?

use statrs::function::gamma::{gamma_ur, ln_gamma};

/// Strength of the prior of the sequential test, as if so many users had split as promised.
const PRIOR_USERS: f64 = 10_000.0;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    pub chi_square: f64,
    pub degrees: i32,
    /// Right for one look.
    pub p: f64,
    /// Dirichlet-multinomial test (Lindon and Malek): right however often somebody looks.
    pub p_always: f64,
    pub smallest_expected: f64,
}

/// Chi-square is not to be trusted where fewer users are expected.
const MIN_EXPECTED: f64 = 5.0;

fn smallest_expected((observed, weights): &(&[i64], &[f64])) -> f64 {
    let used = || observed.iter().zip(weights.iter()).filter(|(_, &weight)| weight > 0.0);
    let users: i64 = used().map(|(users, _)| users).sum();
    let total: f64 = used().map(|(_, weight)| weight).sum();
    used().map(|(_, weight)| users as f64 * weight / total).fold(f64::INFINITY, f64::min)
}

/// Of one phase: users by arm and the weights promised to them. None with fewer than two arms that should have users, or
/// no users. Arms of weight 0 are left out: a user there is a leak, which a test of the others' proportions would hide.
#[cfg(test)]
pub fn mismatch(observed: &[i64], weights: &[f64]) -> Option<Mismatch> {
    over_phases(&[(observed, weights)])
}

/// Over all phases of an experiment: each is tested against its own split, chi-squares and evidence add up.
pub fn over_phases(phases: &[(&[i64], &[f64])]) -> Option<Mismatch> {
    let (large, small): (Vec<_>, Vec<_>) = phases.iter().partition(|phase| smallest_expected(phase) >= MIN_EXPECTED);
    // A phase of a few users says nothing, and must not keep the others from being judged.
    let phases = if large.is_empty() { small } else { large };
    let (mut chi_square, mut degrees, mut log_evidence, mut smallest_expected) = (0.0, 0, 0.0, f64::INFINITY);
    for (observed, weights) in phases {
        let arms: Vec<(f64, f64)> = observed
            .iter()
            .zip(weights.iter())
            .filter(|(_, &weight)| weight > 0.0)
            .map(|(&users, &weight)| (users as f64, weight))
            .collect();
        let users: f64 = arms.iter().map(|(users, _)| users).sum();
        let total_weight: f64 = arms.iter().map(|(_, weight)| weight).sum();
        if arms.len() < 2 || users == 0.0 {
            continue;
        }
        for &(seen, weight) in &arms {
            let expected = users * weight / total_weight;
            chi_square += (seen - expected).powi(2) / expected;
            smallest_expected = expected.min(smallest_expected);
        }
        degrees += arms.len() as i32 - 1;
        log_evidence += log_bayes_factor(&arms, users, total_weight, PRIOR_USERS);
    }
    (degrees > 0).then(|| Mismatch {
        chi_square,
        degrees,
        p: if chi_square > 0.0 { gamma_ur(f64::from(degrees) / 2.0, chi_square / 2.0) } else { 1.0 },
        p_always: (-log_evidence).exp().min(1.0),
        smallest_expected,
    })
}

/// Evidence for "some other split" over the promised one; the order in which users came does not matter.
fn log_bayes_factor(arms: &[(f64, f64)], users: f64, total_weight: f64, prior_users: f64) -> f64 {
    let promised: f64 = arms.iter().map(|(n, weight)| n * (weight / total_weight).ln()).sum();
    let other: f64 = arms
        .iter()
        .map(|&(n, weight)| {
            let prior = prior_users * weight / total_weight;
            ln_gamma(prior + n) - ln_gamma(prior)
        })
        .sum();
    other + ln_gamma(prior_users) - ln_gamma(prior_users + users) - promised
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{close, close_to, fixture, integers, number, numbers};
    use super::*;

    #[test]
    fn chi_square_matches() {
        let file = fixture();
        let rows = file["srm"]["chi_square"].as_array().unwrap();
        for row in rows {
            let m = mismatch(&integers(&row["observed"]), &numbers(&row["weights"])).unwrap();
            close(m.chi_square, &row["chi2"]);
            close(m.p, &row["p"]);
            close(m.smallest_expected, &row["min_expected"]);
            assert_eq!(i64::from(m.degrees), row["df"].as_i64().unwrap(), "{row}");
        }
        println!("chi-square: {} rows", rows.len());
    }

    #[test]
    fn sequential_test_matches_after_every_batch() {
        let file = fixture();
        let mut looks = 0;
        for row in file["srm"]["sequential"]["rows"].as_array().unwrap() {
            let weights = numbers(&row["weights"]);
            let mut total = vec![0; weights.len()];
            for (batch, step) in row["batches"].as_array().unwrap().iter().zip(row["steps"].as_array().unwrap()) {
                total.iter_mut().zip(integers(batch)).for_each(|(sum, n)| *sum += n);
                let m = mismatch(&total, &weights).unwrap();
                // The reference keeps the smallest p so far; these rows never rise again.
                close_to(m.p_always, number(&step["log_bayes_factor"]).max(0.0).exp().recip(), 1e-7);
                looks += 1;
            }
        }
        println!("sequential SRM: {looks} looks");
    }

    #[test]
    fn arms_without_weight_are_left_out() {
        let m = mismatch(&[500, 498, 2], &[0.5, 0.5, 0.0]).unwrap();
        assert_eq!(m.degrees, 1);
        assert_eq!(mismatch(&[7, 0], &[1.0, 0.0]), None);
        assert_eq!(mismatch(&[0, 0], &[0.5, 0.5]), None);
        let file = fixture();
        for row in file["srm"]["zero_weight_arm"].as_array().unwrap() {
            let m = mismatch(&integers(&row["observed"]), &numbers(&row["weights"])).unwrap();
            assert_eq!(m.degrees, 1, "{row}");
        }
    }

    #[test]
    fn phases_add_up_and_do_not_hide_each_other() {
        let half: &[f64] = &[0.5, 0.5];
        let one = mismatch(&[700, 300], half).unwrap();
        let both = over_phases(&[(&[700, 300], half), (&[300, 700], half)]).unwrap();
        assert_eq!((both.degrees, both.chi_square), (2, 2.0 * one.chi_square));
        assert!(both.p < one.p && both.p_always < 1e-3, "{both:?}");
        assert_eq!(over_phases(&[(&[700, 300], half), (&[0, 0], half)]), Some(one));
        // Different splits, each kept: no alarm, although 450 to 850 would be one for either split alone.
        let kept = over_phases(&[(&[250, 250], half), (&[200, 600], &[0.25, 0.75])]).unwrap();
        assert_eq!(kept.p, 1.0);
        assert_eq!(over_phases(&[]), None);
        assert_eq!(over_phases(&[(&[700, 300], half), (&[3, 0], half)]), Some(one));
    }
}
