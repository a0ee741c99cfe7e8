//! Inference that stays valid however often somebody looks: asymptotic confidence sequences
//! (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024), the same as the normal-mixture SPRT.

use super::lift::Estimate;

/// A sequence over `users` users in all, tuned to be narrowest at `planned_users`.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    pub users: f64,
    pub planned_users: f64,
    pub alpha: f64,
}

impl Sequence {
    /// Two-sided: the true value leaves estimate ± this at any look ever with probability at most alpha.
    pub fn half_width(&self, se: f64) -> f64 {
        let (scaled, t) = self.time(self.rho(self.alpha));
        se * (2.0 * t / scaled * (t.sqrt() / self.alpha).ln()).sqrt()
    }

    /// One-sided: the true value lies below estimate - this (or, in the other direction, above estimate + this) at any
    /// look ever with probability at most alpha.
    pub fn half_width_above(&self, se: f64) -> f64 {
        let (scaled, t) = self.time(self.rho(2.0 * self.alpha));
        se * (2.0 * t / scaled * (t.sqrt() / (2.0 * self.alpha)).ln_1p()).sqrt()
    }

    /// Two-sided p, to be compared with alpha at any look.
    pub fn p(&self, estimate: Estimate) -> f64 {
        let (scaled, t) = self.time(self.rho(self.alpha));
        let log_evidence = scaled * z2(estimate) / (2.0 * t) - t.ln() / 2.0;
        (-log_evidence).exp().min(1.0)
    }

    /// One-sided p of the claim that the value is above 0.
    pub fn p_above(&self, estimate: Estimate) -> f64 {
        if estimate.value <= 0.0 {
            return 1.0;
        }
        // A one-sided sequence at alpha is tuned like a two-sided one at twice that.
        let (scaled, t) = self.time(self.rho(2.0 * self.alpha));
        let evidence = scaled * z2(estimate) / (2.0 * t);
        // ln(e^x - 1), written so that neither end overflows or cancels.
        let log_odds = evidence + (-(-evidence).exp_m1()).ln();
        (t.ln() / 2.0 - 2f64.ln() - log_odds).exp().min(1.0)
    }

    fn rho(&self, alpha: f64) -> f64 {
        let a = -2.0 * alpha.ln();
        ((a + a.ln_1p()) / self.planned_users).sqrt()
    }

    /// Nρ² and t = Nρ² + 1.
    fn time(&self, rho: f64) -> (f64, f64) {
        let scaled = self.users * rho * rho;
        (scaled, scaled + 1.0)
    }
}

fn z2(estimate: Estimate) -> f64 {
    (estimate.value / estimate.se).powi(2)
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{close, fixture, number};
    use super::*;

    fn sequence(row: &serde_json::Value, users: &str, alpha: &str) -> Sequence {
        Sequence { users: number(&row[users]), planned_users: number(&row["n_star"]), alpha: number(&row[alpha]) }
    }

    #[test]
    fn tuning_and_widths_match() {
        let file = fixture();
        let tuning = file["sequential"]["rho"].as_array().unwrap();
        for row in tuning {
            let alpha = number(&row["alpha"]);
            let s = Sequence { users: 1.0, planned_users: number(&row["n_star"]), alpha };
            close(s.rho(alpha), &row["rho_two_sided"]);
            close(s.rho(2.0 * alpha), &row["rho_one_sided"]);
        }
        let widths = file["sequential"]["halfwidth"].as_array().unwrap();
        for row in widths {
            let s = sequence(row, "n", "alpha");
            let se = (number(&row["variance_per_unit"]) / s.users).sqrt();
            close(s.half_width(se), &row["halfwidth_two_sided"]);
        }
        println!("sequences: {} tunings, {} widths", tuning.len(), widths.len());
    }

    #[test]
    fn p_values_match() {
        let file = fixture();
        let both = file["sequential"]["msprt_equivalence"].as_array().unwrap();
        for row in both {
            let s = sequence(row, "n_total", "alpha");
            let estimate = Estimate { value: number(&row["estimate"]), se: number(&row["se"]) };
            close(s.p(estimate), &row["always_valid_p"]);
            close(s.half_width(estimate.se), &row["halfwidth"]);
        }
        let above = file["sequential"]["one_sided_closed_form_p"].as_array().unwrap();
        for row in above {
            let s = sequence(row, "n_total", "alpha_for_rho");
            let estimate = Estimate { value: number(&row["estimate"]), se: number(&row["se"]) };
            close(s.p_above(estimate), &row["always_valid_p_greater"]);
        }
        println!("always-valid p: {} two-sided, {} one-sided", both.len(), above.len());
    }

    #[test]
    fn extreme_evidence_neither_overflows_nor_turns_into_nan() {
        let s = Sequence { users: 1e6, planned_users: 5000.0, alpha: 0.05 };
        for value in [1e-300, 1e-9, 0.5, 1e3] {
            let p = s.p_above(Estimate { value, se: 1e-3 });
            assert!((0.0..=1.0).contains(&p), "{value}: {p}");
        }
        assert_eq!(s.p_above(Estimate { value: -1.0, se: 1e-3 }), 1.0);
    }

    #[test]
    fn p_and_interval_agree() {
        let s = Sequence { users: 3000.0, planned_users: 5000.0, alpha: 0.05 };
        let edge = s.half_width(0.01);
        assert!(s.p(Estimate { value: edge * 0.999, se: 0.01 }) > 0.05);
        assert!(s.p(Estimate { value: edge * 1.001, se: 0.01 }) < 0.05);
    }
}
