//! The second stage: what nearness to single saved items and other users' saves add to the order by one vector.
//! score = cosine + a · (mean similarity to the three closest saved items) + b · (share of others who saved the item).

use serde::Serialize;

use super::adapter::Adapter;
use super::candidates::{ahead, PROVED};
use super::error::Error;
use super::evaluate::{auc, save_rates, scores};
use super::input::User;
use super::panel::{Panel, Unit, MIN_SELECTION};
use super::progress::Watch;
use super::store::Store;
use super::vectors::{normalise, product, Matrix, Rows};

/// Weights that are tried, in units of each part's spread within a list beside that of the cosine; the simplest first.
const GRID: [f64; 6] = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0];
/// Saved items that nearness looks at, the last ones: bounds the work for heavy users.
pub const MAX_SAVED: usize = 1_000;
/// Saved items whose similarities are averaged.
const NEAREST: usize = 3;

/// The weights, how they did where they were chosen and where nothing was chosen, and why there are none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct SecondStage {
    pub knn3: f64,
    pub popularity: f64,
    pub users: usize,
    pub vector_auc: Option<f64>,
    pub auc: Option<f64>,
    pub judges_vector_auc: Option<f64>,
    pub judges_auc: Option<f64>,
    pub reason: String,
}

/// The parts of the score of one list, each entry cosine, nearness, popularity.
struct Parts {
    saved: Vec<bool>,
    entries: Vec<[f32; 3]>,
}

/// Chosen on the users who select; kept when clearly ahead of the plain order there and not behind it on the judges.
pub(super) fn fit(
    selection: (&Panel, Unit),
    judges: &Panel,
    items: &Store,
    others: &[&User],
    adapter: &Adapter,
    watch: &mut Watch<'_>,
) -> Result<SecondStage, Error> {
    let (selection, unit) = selection;
    let members = selection.members.len();
    let mut out = SecondStage { users: members, ..SecondStage::default() };
    if members < MIN_SELECTION {
        out.reason =
            format!("vector order: {members} {} to choose weights on, {MIN_SELECTION} are needed", unit.name());
        return Ok(out);
    }
    let rates = save_rates(items.len(), others.iter().copied());
    let chosen_on = parts(selection, items, &rates, adapter, watch)?;
    let spreads = spreads(&chosen_on);
    let weight = |z: f64, part: usize| if spreads[part] > 0.0 { z * spreads[0] / spreads[part] } else { 0.0 };
    let plain = aucs(&chosen_on, [0.0; 2]);
    let mut best = ([0.0; 2], plain.clone());
    for z in GRID.iter().flat_map(|&a| GRID.iter().map(move |&b| [a, b])) {
        watch.check()?;
        let weights = [weight(z[0], 1), weight(z[1], 2)];
        let measured = aucs(&chosen_on, weights);
        if mean(&measured) > mean(&best.1) {
            best = (weights, measured);
        }
    }
    let (weights, measured) = best;
    (out.vector_auc, out.auc) = (Some(mean(&plain)), Some(mean(&measured)));
    if !ahead(&measured, &plain, PROVED) {
        out.reason = "vector order: no second stage ranked clearly better than one vector".into();
        return Ok(out);
    }
    let judged = parts(judges, items, &rates, adapter, watch)?;
    let (before, after) = (aucs(&judged, [0.0; 2]), aucs(&judged, weights));
    (out.judges_vector_auc, out.judges_auc) = (Some(mean(&before)), Some(mean(&after)));
    if !judged.is_empty() && mean(&after) < mean(&before) {
        out.reason = "vector order: what ranked better for some users ranked worse for others".into();
        return Ok(out);
    }
    [out.knn3, out.popularity] = weights;
    out.reason = format!(
        "second stage: AUC {:.4} to {:.4} for {members} {} it was chosen on",
        mean(&plain),
        mean(&measured),
        unit.name()
    );
    Ok(out)
}

fn parts(
    panel: &Panel,
    items: &Store,
    rates: &[f32],
    adapter: &Adapter,
    watch: &mut Watch<'_>,
) -> Result<Vec<Vec<Parts>>, Error> {
    let queries = panel.queries(adapter, watch)?;
    let mut all = Vec::with_capacity(panel.members.len());
    for member in &panel.members {
        watch.check()?;
        let last = &member.saved[member.saved.len().saturating_sub(MAX_SAVED)..];
        let saved = items.gather(last, watch)?;
        let mut of_member = Vec::with_capacity(member.lists.len());
        for list in &member.lists {
            let cosines = scores(items, &queries, list, watch)?;
            let shown = items.gather(&list.items, watch)?;
            let near = nearness(&shown.data, &saved.data, items.dim());
            let popular = list.items.iter().map(|&item| rates[item as usize]);
            let entries = cosines.into_iter().zip(near).zip(popular).map(|((c, n), p)| [c, n, p]).collect();
            of_member.push(Parts { saved: list.saved.clone(), entries });
        }
        all.push(of_member);
    }
    Ok(all)
}

/// Standard deviation of each part within the lists: what moves an order.
fn spreads(members: &[Vec<Parts>]) -> [f64; 3] {
    let (mut squares, mut count) = ([0.0; 3], 0.0);
    for list in members.iter().flatten() {
        let size = list.entries.len() as f64;
        count += size;
        for (part, sum) in squares.iter_mut().enumerate() {
            let center = list.entries.iter().map(|e| f64::from(e[part])).sum::<f64>() / size;
            *sum += list.entries.iter().map(|e| (f64::from(e[part]) - center).powi(2)).sum::<f64>();
        }
    }
    squares.map(|sum| if count > 0.0 { (sum / count).sqrt() } else { 0.0 })
}

/// AUC of every member, lists by their size.
fn aucs(members: &[Vec<Parts>], [knn3, popularity]: [f64; 2]) -> Vec<f64> {
    let of_list = |list: &Parts| {
        let score = |e: &[f32; 3]| (f64::from(e[0]) + knn3 * f64::from(e[1]) + popularity * f64::from(e[2])) as f32;
        auc(&list.entries.iter().map(score).collect::<Vec<f32>>(), &list.saved)
    };
    let of_member = |lists: &Vec<Parts>| {
        let size: f64 = lists.iter().map(|l| l.entries.len() as f64).sum();
        lists.iter().map(|l| l.entries.len() as f64 / size * of_list(l)).sum()
    };
    members.iter().map(of_member).collect()
}

fn mean(aucs: &[f64]) -> f64 {
    aucs.iter().sum::<f64>() / aucs.len() as f64
}

/// Mean similarity of each of the shown vectors to the three closest of the saved ones. Both are rows of unit length.
fn nearness(shown: &[f32], saved: &[f32], dim: usize) -> Vec<f32> {
    let (rows, columns) = (shown.len() / dim, saved.len() / dim);
    let mut similarities = vec![0.0; rows * columns];
    let saved = Matrix::new(saved, columns, dim).transposed();
    product(1.0, Matrix::new(shown, rows, dim), saved, 0.0, &mut similarities);
    let known = columns.min(NEAREST);
    similarities
        .chunks_exact_mut(columns.max(1))
        .map(|row| {
            row.select_nth_unstable_by(known - 1, |a, b| b.total_cmp(a));
            row[..known].sort_unstable_by(f32::total_cmp);
            row[..known].iter().sum::<f32>() / known as f32
        })
        .collect()
}

/// The same for vectors of any length but zero, as applications store them; `None` without saved ones.
pub fn nearest_saved(shown: Vec<f32>, saved: Vec<f32>, dim: usize) -> Option<Vec<f32>> {
    if dim == 0 || saved.is_empty() || !shown.len().is_multiple_of(dim) || !saved.len().is_multiple_of(dim) {
        return None;
    }
    let unit = |data: Vec<f32>| {
        let mut rows = Rows { dim, data };
        (0..rows.len()).for_each(|row| normalise(rows.row_mut(row)));
        rows.data
    };
    Some(nearness(&unit(shown), &unit(saved), dim))
}

#[cfg(test)]
mod tests {
    use super::super::panel::Member;
    use super::super::progress::Unobserved;
    use super::*;
    use crate::core::trainer::input::Action;

    #[test]
    fn nearness_is_the_mean_of_the_three_closest() {
        let saved = vec![2.0, 0.0, 0.0, 3.0, 0.6, 0.8, -1.0, 0.0];
        let near = nearest_saved(vec![5.0, 0.0, 0.0, -1.0], saved, 2).unwrap();
        assert!((near[0] - (1.0 + 0.6 + 0.0) / 3.0).abs() < 1e-6, "{near:?}");
        assert!((near[1] - (0.0 + 0.0 - 0.8) / 3.0).abs() < 1e-6, "{near:?}");
        assert_eq!(nearest_saved(vec![1.0, 0.0], vec![0.0, 2.0], 2), Some(vec![0.0]), "of one there is one");
        assert_eq!(nearest_saved(vec![1.0, 0.0], vec![], 2), None);
    }

    /// Items on a circle; users have two tastes far apart, so that the mean of what they saved points between them.
    fn circle() -> Store {
        let angle = |i: usize| i as f32 / 120.0 * std::f32::consts::TAU;
        Store::Memory(Rows { dim: 2, data: (0..120).flat_map(|i| [angle(i).cos(), angle(i).sin()]).collect() })
    }

    fn panel(items: &Store, likes: impl Fn(usize, u32) -> bool) -> Panel {
        let user = |n: usize| {
            let all: Vec<u32> = (0..120).filter(|i| (*i as usize + n).is_multiple_of(2)).collect();
            let action = |item: &u32| Action {
                item: *item,
                saved: likes(n, *item),
                surface: 0,
                at: 0,
                weight: 1.0,
                query: None,
            };
            let (earlier, later): (Vec<u32>, Vec<u32>) = all.iter().partition(|i| *i % 4 < 2);
            let part = |items: &[u32]| items.iter().map(action).collect();
            User { name: n.to_string(), train: part(&earlier), test: part(&later) }
        };
        let users: Vec<User> = (0..20).map(user).collect();
        let members = users.iter().enumerate().filter_map(|(n, user)| Member::newest(n, user, 3)).collect();
        let mut observer = Unobserved;
        Panel::new(members, &users, items, &mut Watch::new(&mut observer, None)).unwrap()
    }

    fn fitted(selection: &Panel, judges: &Panel, items: &Store, others: &[&User]) -> SecondStage {
        let identity = Adapter::identity(2);
        let mut observer = Unobserved;
        let watch = &mut Watch::new(&mut observer, None);
        fit((selection, Unit::Users), judges, items, others, &identity, watch).unwrap()
    }

    #[test]
    fn two_tastes_give_nearness_a_weight_and_one_does_not() {
        let items = circle();
        let two = |n: usize, item: u32| [0, 50].iter().any(|at| (item as usize + n * 7 + at) % 120 < 14);
        let chosen = fitted(&panel(&items, two), &panel(&items, two), &items, &[]);
        assert!(chosen.knn3 > 0.0 && chosen.auc > chosen.vector_auc, "{chosen:?}");
        assert_eq!(chosen.popularity, 0.0, "nobody else saved anything");
        assert!(chosen.judges_auc >= chosen.judges_vector_auc && chosen.reason.starts_with("second stage"));

        let one = |n: usize, item: u32| (item as usize + n * 7) % 120 < 40;
        let plain = fitted(&panel(&items, one), &panel(&items, one), &items, &[]);
        assert_eq!((plain.knn3, plain.popularity), (0.0, 0.0), "{plain:?}");
        assert!(plain.reason.starts_with("vector order"));
    }

    #[test]
    fn what_others_saved_counts_where_all_like_the_same() {
        let items = circle();
        let known = |_: usize, item: u32| item % 12 < 4;
        let action = |item| Action { item, saved: known(0, item), surface: 0, at: 0, weight: 1.0, query: None };
        let other = User { train: (0..120).map(action).collect(), ..User::default() };
        let chosen = fitted(&panel(&items, known), &panel(&items, known), &items, &[&other; 9]);
        assert!(chosen.popularity > 0.0 && chosen.auc > Some(0.95), "{chosen:?}");
    }

    #[test]
    fn weights_that_the_judges_contradict_are_dropped_and_few_users_give_none() {
        let items = circle();
        let two = |n: usize, item: u32| [0, 50].iter().any(|at| (item as usize + n * 7 + at) % 120 < 14);
        let contrary = |n: usize, item: u32| {
            let earlier = item % 4 < 2;
            two(n, item) == earlier
        };
        let dropped = fitted(&panel(&items, two), &panel(&items, contrary), &items, &[]);
        assert_eq!((dropped.knn3, dropped.popularity), (0.0, 0.0), "{dropped:?}");
        assert!(dropped.reason.contains("worse for others"), "{dropped:?}");

        let mut few = panel(&items, two);
        few.members.truncate(3);
        let none = fitted(&few, &few, &items, &[]);
        assert_eq!((none.knn3, none.auc), (0.0, None));
        assert!(none.reason.contains("3 users to choose weights on, 8 are needed"), "{none:?}");
    }
}
