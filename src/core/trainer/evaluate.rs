//! How well a model ranks what users were shown: per-user measures, coverage and two baselines.

use rand::seq::SliceRandom;

use super::error::Error;
use super::input::User;
use super::panel::{List, Panel, SOME};
use super::progress::Watch;
use super::rng;
use super::store::Store;
use super::vectors::{dot, product, Matrix, Rows};

/// How many are looked at first.
const TOP: usize = 10;
/// Users and items that coverage is measured on.
const MAX_COVERAGE_USERS: usize = 500;
const MAX_COVERAGE_ITEMS: usize = 5_000;

/// One user's measures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Measures {
    pub auc: f64,
    /// Share of saved among the ten ranked first.
    pub save_rate_10: f64,
    /// Share of the skipped ranked above the point where half of the saved are found.
    pub fpr_50: f64,
}

/// Probability that a saved item scores higher than a skipped one, ties counting half. Both kinds must be there.
pub(super) fn auc(scores: &[f32], saved: &[bool]) -> f64 {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize]));
    let (mut skipped_below, mut wins, mut pairs) = (0.0, 0.0, 0.0);
    for tied in order.chunk_by(|&a, &b| scores[a as usize] == scores[b as usize]) {
        let positives = tied.iter().filter(|&&i| saved[i as usize]).count() as f64;
        let negatives = tied.len() as f64 - positives;
        wins += positives * (skipped_below + negatives / 2.0);
        skipped_below += negatives;
        pairs += positives;
    }
    wins / (pairs * skipped_below)
}

fn measure_list(scores: &[f32], list: &List) -> Measures {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let positives = list.saved.iter().filter(|&&s| s).count();
    let negatives = scores.len() - positives;
    let top = TOP.min(scores.len());
    let hits = order[..top].iter().filter(|&&i| list.saved[i]).count();
    let (half, mut found, mut above) = (positives.div_ceil(2), 0, 0);
    for &index in &order {
        found += usize::from(list.saved[index]);
        above += usize::from(!list.saved[index]);
        if found == half {
            break;
        }
    }
    Measures {
        auc: auc(scores, &list.saved),
        save_rate_10: hits as f64 / top as f64,
        fpr_50: above as f64 / negatives as f64,
    }
}

/// Measures of every member; `score` gives the scores of one list of a member.
pub(super) fn measure(
    panel: &Panel,
    watch: &mut Watch<'_>,
    mut score: impl FnMut(usize, &List, &mut Watch<'_>) -> Result<Vec<f32>, Error>,
) -> Result<Vec<Measures>, Error> {
    let mut out = Vec::with_capacity(panel.members.len());
    for (index, member) in panel.members.iter().enumerate() {
        watch.check()?;
        let mut sum = Measures::default();
        let ranked = member.ranked() as f64;
        for list in &member.lists {
            let (share, one) = (list.items.len() as f64 / ranked, measure_list(&score(index, list, watch)?, list));
            sum.auc += share * one.auc;
            sum.save_rate_10 += share * one.save_rate_10;
            sum.fpr_50 += share * one.fpr_50;
        }
        out.push(sum);
    }
    Ok(out)
}

/// With one query vector per anchor: cosine with every item.
pub(super) fn measure_queries(
    panel: &Panel,
    items: &Store,
    queries: &Rows,
    watch: &mut Watch<'_>,
) -> Result<Vec<Measures>, Error> {
    measure(panel, watch, |_, list, watch| scores(items, queries, list, watch))
}

pub(super) fn scores(items: &Store, queries: &Rows, list: &List, watch: &mut Watch<'_>) -> Result<Vec<f32>, Error> {
    let (near, query) = (items.near(list.items.iter().copied(), watch)?, queries.row(list.anchor as usize));
    Ok(list.items.iter().map(|&item| dot(query, near.row(item))).collect())
}

pub(super) fn average(measures: &[Measures], of: impl Fn(&Measures) -> f64) -> f64 {
    measures.iter().map(of).sum::<f64>() / measures.len() as f64
}

/// Distinct items in the top tens of the members' anchors, as a share of what could be there.
pub(super) struct Coverage {
    anchors: Vec<u32>,
    pool: Rows,
}

impl Coverage {
    /// The pool is what the members were shown; both are sampled where there are many.
    pub fn new(panel: &Panel, items: &Store, seed: i64, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let mut rng = rng::stream(seed, "coverage");
        let mut draw = |mut all: Vec<u32>, limit: usize| {
            all.shuffle(&mut rng);
            all.truncate(limit);
            all.sort_unstable();
            all
        };
        let anchors = draw((0..panel.anchors() as u32).collect(), MAX_COVERAGE_USERS);
        let mut shown: Vec<u32> = panel.members.iter().flat_map(|member| member.shown()).collect();
        shown.sort_unstable();
        shown.dedup();
        let pool = items.gather(&draw(shown, MAX_COVERAGE_ITEMS), watch)?;
        Ok(Self { anchors, pool })
    }

    pub fn of(&self, queries: &Rows, watch: &mut Watch<'_>) -> Result<f64, Error> {
        let (pool, dim) = (self.pool.len(), self.pool.dim);
        let mut seen = vec![false; pool];
        let top = TOP.min(pool);
        for block in self.anchors.chunks(64) {
            watch.check()?;
            let asked = queries.gather(block.iter().copied());
            let mut scores = vec![0.0; block.len() * pool];
            let items = Matrix::new(&self.pool.data, pool, dim).transposed();
            product(1.0, asked.as_matrix(), items, 0.0, &mut scores);
            for row in scores.chunks_exact(pool) {
                let mut order: Vec<u32> = (0..pool as u32).collect();
                let by_score = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
                if top < pool {
                    order.select_nth_unstable_by(top - 1, by_score);
                }
                order[..top].iter().for_each(|&item| seen[item as usize] = true);
            }
        }
        let distinct = seen.iter().filter(|&&s| s).count();
        Ok(distinct as f64 / pool.min(top * self.anchors.len()).max(1) as f64)
    }
}

/// Mean similarity to the three closest saved items: a stronger baseline than the mean for people of many interests.
pub(super) fn nearest_three(
    items: &Store,
    saved: &[u32],
    list: &List,
    watch: &mut Watch<'_>,
) -> Result<Vec<f32>, Error> {
    let shown = items.near(list.items.iter().copied(), watch)?;
    let mut best = vec![[f32::NEG_INFINITY; 3]; list.items.len()];
    for some in saved.chunks(SOME) {
        let near = items.near(some.iter().copied(), watch)?;
        for (&item, best) in list.items.iter().zip(&mut best) {
            for &other in some {
                let similarity = dot(shown.row(item), near.row(other));
                if similarity > best[2] {
                    best[2] = similarity;
                    best.sort_unstable_by(|a, b| b.total_cmp(a));
                }
            }
        }
    }
    let known = saved.len().min(3);
    Ok(best.into_iter().map(|best| best[..known].iter().sum::<f32>() / known as f32).collect())
}

/// Share of others who saved each item, smoothed: what ranks well without looking at any text.
pub(super) fn save_rates<'a>(items: usize, others: impl Iterator<Item = &'a User>) -> Vec<f32> {
    let mut counts = vec![(1.0f32, 2.0f32); items];
    for user in others {
        for action in &user.train {
            let (saved, shown) = &mut counts[action.item as usize];
            *saved += f32::from(u8::from(action.saved));
            *shown += 1.0;
        }
    }
    counts.into_iter().map(|(saved, shown)| saved / shown).collect()
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::*;

    fn list(saved: &[bool]) -> List {
        List { items: (0..saved.len() as u32).collect(), saved: saved.to_vec(), anchor: 0 }
    }

    #[test]
    fn auc_counts_pairs_and_halves_ties() {
        assert_eq!(auc(&[0.9, 0.1, 0.5], &[true, false, true]), 1.0);
        assert_eq!(auc(&[0.5, 0.5], &[true, false]), 0.5);
        assert_eq!(auc(&[0.1, 0.9, 0.5, 0.1], &[true, false, true, false]), 0.375);
    }

    #[test]
    fn list_measures_follow_their_definitions() {
        let saved: Vec<bool> = (0..20).map(|i| i % 4 == 1).collect();
        let scores: Vec<f32> = (0..20).map(|i| -(i as f32)).collect();
        let measures = measure_list(&scores, &list(&saved));
        // saved stand at ranks 2, 6, 10, 14, 18: three in the top ten, the third of five below seven skipped ones
        assert_eq!((measures.save_rate_10, measures.fpr_50), (0.3, 7.0 / 15.0));
        let short = measure_list(&[0.2, 0.9, 0.1], &list(&[true, false, false]));
        assert_eq!((short.save_rate_10, short.fpr_50), (1.0 / 3.0, 0.5));
    }

    #[test]
    fn nearest_three_and_save_rates() {
        let items = Store::Memory(Rows { dim: 2, data: vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8] });
        let mut observer = Unobserved;
        let watch = &mut Watch::new(&mut observer, None);
        let scores = nearest_three(&items, &[0, 1, 2, 2], &list(&[true, false]), watch).unwrap();
        assert!((scores[0] - (1.0 + 0.6 + 0.6) / 3.0).abs() < 1e-6);
        let action =
            |item, saved| super::super::input::Action { item, saved, surface: 0, at: 0, weight: 1.0, query: None };
        let user = User { train: vec![action(0, true), action(1, false)], ..User::default() };
        assert_eq!(save_rates(3, [&user].into_iter()), [2.0 / 3.0, 1.0 / 3.0, 0.5]);
    }
}
