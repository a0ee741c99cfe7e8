//! Several questions at once: p values adjusted so that a chance finding among them stays as rare as for one.

/// How to adjust. Holm and its kin keep the chance of any false finding, the last two the share of false ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Bonferroni,
    Holm,
    Hochberg,
    Hommel,
    BenjaminiHochberg,
    BenjaminiYekutieli,
}

impl Method {
    pub const NAMES: [(&'static str, Self); 6] = [
        ("holm", Self::Holm),
        ("bonferroni", Self::Bonferroni),
        ("hochberg", Self::Hochberg),
        ("hommel", Self::Hommel),
        ("bh", Self::BenjaminiHochberg),
        ("by", Self::BenjaminiYekutieli),
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, method)| method)
    }
}

/// Adjusted p values in the order given.
pub fn adjust(p: &[f64], method: Method) -> Vec<f64> {
    let n = p.len() as f64;
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let sorted: Vec<f64> = order.iter().map(|&i| p[i]).collect();
    let scaled = |factor: &dyn Fn(f64) -> f64| -> Vec<f64> {
        sorted.iter().enumerate().map(|(i, p)| p * factor(i as f64 + 1.0)).collect()
    };
    let harmonic: f64 = (1..=p.len()).map(|i| 1.0 / i as f64).sum();
    let adjusted = match method {
        Method::Bonferroni => scaled(&|_| n),
        Method::Holm => step_down(scaled(&|rank| n - rank + 1.0)),
        Method::Hochberg => step_up(scaled(&|rank| n - rank + 1.0)),
        Method::Hommel => hommel(&sorted),
        Method::BenjaminiHochberg => step_up(scaled(&|rank| n / rank)),
        Method::BenjaminiYekutieli => step_up(scaled(&|rank| n * harmonic / rank)),
    };
    let mut result = vec![0.0; p.len()];
    order.iter().zip(adjusted).for_each(|(&i, value)| result[i] = value.min(1.0));
    result
}

fn step_down(values: Vec<f64>) -> Vec<f64> {
    let largest = |so_far: &mut f64, value: f64| {
        *so_far = so_far.max(value);
        Some(*so_far)
    };
    values.into_iter().scan(0.0, largest).collect()
}

fn step_up(values: Vec<f64>) -> Vec<f64> {
    let smallest = |so_far: &mut f64, value: f64| {
        *so_far = so_far.min(value);
        Some(*so_far)
    };
    let mut result: Vec<f64> = values.into_iter().rev().scan(f64::INFINITY, smallest).collect();
    result.reverse();
    result
}

fn hommel(sorted: &[f64]) -> Vec<f64> {
    let n = sorted.len();
    let mut adjusted = sorted.to_vec();
    for size in (2..=n).rev() {
        // Simes' p of the largest `size` values.
        let simes = (1..=size)
            .map(|rank| size as f64 * sorted[n - size + rank - 1] / rank as f64)
            .fold(f64::INFINITY, f64::min);
        for (i, value) in adjusted.iter_mut().enumerate() {
            let bound = if i >= n - size { simes } else { simes.min(size as f64 * sorted[i]) };
            *value = value.max(bound);
        }
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{fixture, numbers};
    use super::*;

    #[test]
    fn adjusted_p_values_match() {
        let file = fixture();
        let rows = file["multiple_testing"].as_array().unwrap();
        let keys = ["holm", "bonferroni", "simes-hochberg", "hommel", "fdr_bh", "fdr_by"];
        for row in rows {
            for ((name, method), key) in Method::NAMES.into_iter().zip(keys) {
                let ours = adjust(&numbers(&row["p"]), method);
                for (ours, theirs) in ours.iter().zip(numbers(&row[key])) {
                    assert!((ours - theirs).abs() < 1e-12, "{name}: {ours}, expected {theirs} in {row}");
                }
            }
        }
        println!("multiple tests: {} rows of {} methods", rows.len(), keys.len());
        assert_eq!(adjust(&[], Method::Holm), Vec::<f64>::new());
        assert_eq!(Method::named("none"), None);
    }
}
