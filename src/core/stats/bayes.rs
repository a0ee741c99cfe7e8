//! The Bayesian view of two arms: to be reported, never to act on. A chance to win looked at often is as easily fooled as a
//! fixed-horizon p value, of which it is another spelling when the prior is flat.

use super::distribution::{normal_above, normal_density};
use super::lift::Estimate;
use super::proportions::Share;
use statrs::function::gamma::ln_gamma;

/// Normal prior on an effect; None = flat.
pub type Prior = Option<Estimate>;

/// What is believed after the data, about `new` against `base`.
#[derive(Clone, Copy, Debug)]
pub struct Belief {
    pub mean: f64,
    pub sd: f64,
    pub chance_to_win: f64,
    /// What is lost on average, on the scale of the effect, by shipping one although the other is better.
    pub loss_if_new_ships: f64,
    pub loss_if_base_stays: f64,
}

pub fn belief(seen: Estimate, prior: Prior) -> Belief {
    let (mean, sd) = match prior {
        None => (seen.value, seen.se),
        Some(prior) => {
            let (weight, before) = (seen.se.powi(-2), prior.se.powi(-2));
            ((seen.value * weight + prior.value * before) / (weight + before), (weight + before).sqrt().recip())
        }
    };
    let z = mean / sd;
    Belief {
        mean,
        sd,
        chance_to_win: normal_above(-z),
        loss_if_new_ships: expected_excess(-z, sd),
        loss_if_base_stays: expected_excess(z, sd),
    }
}

/// E[max(X, 0)] for a normal X with mean z·sd.
fn expected_excess(z: f64, sd: f64) -> f64 {
    sd * (normal_density(z) + z * normal_above(-z))
}

/// Exact for shares of users, from uniform priors: (chance that new is better, expected loss of shipping new, of keeping base).
pub fn beta_binomial(base: Share, new: Share) -> (f64, f64, f64) {
    let posterior = |share: Share| (share.successes + 1.0, share.users - share.successes + 1.0);
    let (base, new) = (posterior(base), posterior(new));
    let mean = |(a, b): (f64, f64)| a / (a + b);
    let richer = |(a, b): (f64, f64)| (a + 1.0, b);
    let win = chance_above(new, base);
    let loss_if_new =
        mean(base) * (1.0 - chance_above(new, richer(base))) - mean(new) * (1.0 - chance_above(richer(new), base));
    let loss_if_base = mean(new) * chance_above(richer(new), base) - mean(base) * chance_above(new, richer(base));
    (win, loss_if_new, loss_if_base)
}

/// P(X > Y) for independent beta variables with whole parameters.
fn chance_above(x: (f64, f64), y: (f64, f64)) -> f64 {
    let ln_beta = |a: f64, b: f64| ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b);
    (0..x.0 as u64)
        .map(|i| i as f64)
        .map(|i| (ln_beta(y.0 + i, y.1 + x.1) - (x.1 + i).ln() - ln_beta(1.0 + i, x.1) - ln_beta(y.0, y.1)).exp())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::lift::relative;
    use super::super::ratio::Arm;
    use super::super::test_data::{close, close_to, fixture, integers, mean_arm, number};
    use super::*;

    #[test]
    fn normal_posteriors_match() {
        let file = fixture();
        let rows = file["bayes_gaussian"].as_array().unwrap();
        for row in rows {
            let [base, new]: [Arm; 2] = ["control", "treatment"].map(|arm| mean_arm(&row[arm]));
            let prior = &row["prior"];
            let before = Estimate { value: number(&prior["mean"]), se: number(&prior["variance"]).sqrt() };
            let b = belief(relative(&base, &new).unwrap(), (prior["proper"] == 1).then_some(before));
            let expected = &row["full_precision"];
            close(b.mean, &expected["mean"]);
            close(b.sd, &expected["sd"]);
            close(b.chance_to_win, &expected["chance_to_win"]);
            close(b.loss_if_new_ships, &expected["risk_treatment"]);
            close(b.loss_if_base_stays, &expected["risk_control"]);
        }
        println!("normal posterior: {} rows", rows.len());
    }

    #[test]
    fn exact_posteriors_match() {
        let file = fixture();
        let rows = file["bayes_beta_binomial_exact"].as_array().unwrap();
        for row in rows {
            let [base, new] = ["control", "treatment"].map(|arm| {
                let counts = integers(&row[arm]);
                Share { successes: counts[0] as f64, users: counts[1] as f64 }
            });
            let (win, loss_if_new, loss_if_base) = beta_binomial(base, new);
            close(win, &row["chance_to_win_treatment"]);
            // Losses are differences of nearly equal chances: absolute digits.
            for (ours, key) in
                [(loss_if_new, "expected_loss_choose_treatment"), (loss_if_base, "expected_loss_choose_control")]
            {
                assert!((ours - number(&row[key])).abs() < 1e-9, "{ours} {row}");
            }
        }
        println!("beta-binomial: {} rows", rows.len());
    }

    #[test]
    fn a_strong_prior_shrinks() {
        let seen = Estimate { value: 0.4, se: 0.1 };
        let b = belief(seen, Some(Estimate { value: 0.0, se: 0.1 }));
        close_to(b.mean, 0.2, 1e-12);
        assert!(b.chance_to_win < belief(seen, None).chance_to_win);
    }
}
