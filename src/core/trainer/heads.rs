//! A direction of each user's own, where there are too few users to learn from each other: ridge regression of what was
//! saved (+1) and skipped (-1) on the vectors, both kinds weighted alike. In closed form, and from nobody else's actions.

use std::collections::BTreeMap;

use super::adapter::Heads;
use super::calibrate::{add_squares, centre, inverse_factor};
use super::error::Error;
use super::panel::{self, Panel, MIN_SKIPPED};
use super::progress::Watch;
use super::store::Store;
use super::vectors::{normalise, BLOCK};

/// Weight of the squared length of a direction, when each kind weighs one.
const LAMBDA: f64 = 0.03;

/// One for each user of a panel who skipped enough, from the actions that make the profile.
pub(super) fn of_panel(panel: &Panel, items: &Store, watch: &mut Watch<'_>) -> Result<Heads, Error> {
    let mut heads = BTreeMap::new();
    for (member, name) in panel.members.iter().zip(&panel.names) {
        if member.skipped.len() >= MIN_SKIPPED && !heads.contains_key(name) {
            heads.insert(name.clone(), head(&member.saved, &member.skipped, items, watch)?);
        }
    }
    Ok(Heads::new(heads))
}

/// (sum of w (x - m)(x - m)' + lambda I)^-1 (m+ - m-), of length 1, where m+ and m- are the means of the two kinds, m lies
/// half-way and each kind's weights w add up to one.
fn head(saved: &[u32], skipped: &[u32], items: &Store, watch: &mut Watch<'_>) -> Result<Vec<f32>, Error> {
    let dim = items.dim();
    let (liked, disliked) = (panel::mean(items, saved, watch)?, panel::mean(items, skipped, watch)?);
    let pairs = liked.iter().zip(&disliked).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let (middle, apart): (Vec<f64>, Vec<f64>) = pairs.map(|(a, b)| ((a + b) / 2.0, a - b)).unzip();
    let (mut products, mut scatter) = (vec![0.0; dim * dim], vec![0.0; dim * dim]);
    for kind in [saved, skipped] {
        let weight = (1.0 / kind.len() as f64).sqrt() as f32;
        for block in kind.chunks(BLOCK) {
            watch.check()?;
            let mut rows = items.gather(block, watch)?;
            centre(&mut rows.data, &middle);
            rows.data.iter_mut().for_each(|v| *v *= weight);
            add_squares(rows.as_matrix(), &mut products, &mut scatter, watch.crew)?;
        }
    }
    (0..dim).for_each(|i| scatter[i * dim + i] += LAMBDA);
    let inverse = inverse_factor(scatter, dim, watch)?;
    let half: Vec<f64> =
        inverse.chunks_exact(dim).map(|row| row.iter().zip(&apart).map(|(l, b)| l * b).sum()).collect();
    let mut head = vec![0.0f64; dim];
    for (row, half) in inverse.chunks_exact(dim).zip(half) {
        head.iter_mut().zip(row).for_each(|(h, l)| *h += l * half);
    }
    let mut head: Vec<f32> = head.into_iter().map(|h| h as f32).collect();
    normalise(&mut head);
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::super::vectors::{dot, Rows};
    use super::*;

    #[test]
    fn the_direction_solves_the_normal_equations_and_looks_past_what_both_kinds_share() {
        let mut observer = Unobserved;
        let watch = &mut Watch::new(&mut observer, None);
        // the first coordinate is loud in both kinds, the second tells them apart
        let vectors = [[3.0f32, 0.2], [-3.0, 0.3], [2.0, 0.25], [-2.0, 0.25], [3.0, -0.2], [-3.0, -0.3]];
        let items = Store::Memory(Rows { dim: 2, data: vectors.concat() });
        let (saved, skipped) = ([0, 1, 2, 3], [4, 5]);
        let found = head(&saved, &skipped, &items, watch).unwrap();
        assert!(found[1] > 0.99, "{found:?}");
        let middle = [0.0, 0.0];
        let mut left = [0.0f64; 2];
        for (kind, weight) in [(&saved[..], 0.25), (&skipped[..], 0.5)] {
            for &item in kind {
                let x: Vec<f64> = vectors[item as usize].iter().zip(middle).map(|(&v, m)| f64::from(v) - m).collect();
                let score = x[0] * f64::from(found[0]) + x[1] * f64::from(found[1]);
                left.iter_mut().zip(&x).for_each(|(l, x)| *l += weight * score * x);
            }
        }
        left.iter_mut().zip(&found).for_each(|(l, &h)| *l += LAMBDA * f64::from(h));
        // what is left points from the mean of the skipped to that of the saved: (0, 0.5)
        assert!(left[0].abs() < 1e-6 * left[1] && left[1] > 0.0, "{left:?}");
        assert!(dot(&found, &vectors[0]) > dot(&found, &vectors[5]));
    }
}
