//! One ranked list against what was relevant: nDCG, reciprocal rank, recall, precision, hit and average precision.
//!
//! Among equal scores no order is better than another: what is returned is the mean over all of them, in closed form,
//! unless ids break the ties as trec_eval does.

/// What items of equal score are ranked by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ties {
    Averaged,
    /// Id descending, as trec_eval.
    Id,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gain {
    Linear,
    /// 2^relevance - 1
    Exponential,
}

/// Items in order; those of one group stand at the same place.
pub struct Ranking {
    groups: Vec<Vec<f64>>,
    /// Relevance of all judged items, best first; also of those that were never returned.
    ideal: Vec<f64>,
}

pub struct Item<'a> {
    pub relevance: f64,
    /// None: judged, but not returned.
    pub score: Option<f64>,
    pub id: &'a str,
}

impl Ranking {
    pub fn of(mut items: Vec<Item>, ties: Ties) -> Self {
        let mut ideal: Vec<f64> = items.iter().map(|item| item.relevance).filter(|r| *r > 0.0).collect();
        ideal.sort_unstable_by(|a, b| b.total_cmp(a));
        items.retain(|item| item.score.is_some());
        items.sort_by(|a, b| {
            let by_score = b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal);
            by_score.then_with(|| if ties == Ties::Id { b.id.cmp(a.id) } else { std::cmp::Ordering::Equal })
        });
        let together = |a: &Item, b: &Item| ties == Ties::Averaged && a.score == b.score;
        let groups = items.chunk_by(together).map(|group| group.iter().map(|item| item.relevance).collect()).collect();
        Self { groups, ideal }
    }

    /// Groups with the number of items before each.
    fn groups(&self) -> impl Iterator<Item = (usize, &[f64])> {
        self.groups.iter().scan(0, |before, group| {
            let start = *before;
            *before += group.len();
            Some((start, group.as_slice()))
        })
    }

    /// Discounted gain up to rank k, as a share of the best order's; 0 without a relevant item.
    pub fn ndcg(&self, k: Option<usize>, gain: Gain) -> f64 {
        let gain = |relevance: f64| match gain {
            _ if relevance <= 0.0 => 0.0,
            Gain::Linear => relevance,
            Gain::Exponential => relevance.exp2() - 1.0,
        };
        let last = k.unwrap_or(usize::MAX);
        let discount = |ranks: std::ops::Range<usize>| ranks.map(|rank| 1.0 / (rank as f64 + 2.0).log2()).sum::<f64>();
        let found: f64 = self
            .groups()
            .map(|(start, group)| {
                let mean = group.iter().map(|r| gain(*r)).sum::<f64>() / group.len() as f64;
                mean * discount(start.min(last)..(start + group.len()).min(last))
            })
            .sum();
        let best: f64 =
            self.ideal.iter().take(last).enumerate().map(|(rank, r)| gain(*r) * discount(rank..rank + 1)).sum();
        if best > 0.0 {
            found / best
        } else {
            0.0
        }
    }

    /// 1 / rank of the first relevant item; 0 when none was returned.
    pub fn reciprocal_rank(&self) -> f64 {
        let first =
            self.groups().map(|(start, group)| (start, group.len(), relevant(group))).find(|(_, _, hits)| *hits > 0);
        let Some((start, size, hits)) = first else { return 0.0 };
        // The first of `hits` in `size` places is at place i with the chance that none before was one, and this one is.
        let (mut none_yet, mut sum) = (1.0, 0.0);
        for place in 0..=size - hits {
            let chance = hits as f64 / (size - place) as f64;
            sum += none_yet * chance / (start + place + 1) as f64;
            none_yet *= 1.0 - chance;
        }
        sum
    }

    /// Relevant items among the first k.
    fn hits(&self, k: Option<usize>) -> f64 {
        let last = k.unwrap_or(usize::MAX);
        let shares = self.groups().map(|(start, group)| {
            let places = group.len().min(last.saturating_sub(start));
            relevant(group) as f64 * places as f64 / group.len() as f64
        });
        shares.sum()
    }

    /// Share of the relevant that is among the first k; 0 without a relevant item.
    pub fn recall(&self, k: Option<usize>) -> f64 {
        if self.ideal.is_empty() {
            0.0
        } else {
            self.hits(k) / self.ideal.len() as f64
        }
    }

    /// Share of k that is relevant, also when fewer were returned; without k, of what was returned.
    pub fn precision(&self, k: Option<usize>) -> f64 {
        let shown = k.unwrap_or_else(|| self.groups.iter().map(Vec::len).sum());
        if shown == 0 {
            0.0
        } else {
            self.hits(k) / shown as f64
        }
    }

    /// Whether a relevant item is among the first k; the chance of it where ties leave that open.
    pub fn hit(&self, k: Option<usize>) -> f64 {
        let last = k.unwrap_or(usize::MAX);
        let mut none = 1.0;
        for (start, group) in self.groups() {
            let places = group.len().min(last.saturating_sub(start));
            let hits = relevant(group);
            // Of `places` drawn from the group none is relevant.
            none *= (0..places)
                .map(|i| (group.len() - hits).saturating_sub(i) as f64 / (group.len() - i) as f64)
                .product::<f64>();
        }
        1.0 - none
    }

    /// Precision at each relevant item up to rank k, averaged over all relevant items; 0 without one.
    pub fn average_precision(&self, k: Option<usize>) -> f64 {
        let last = k.unwrap_or(usize::MAX);
        let (mut found, mut sum) = (0.0, 0.0);
        for (start, group) in self.groups() {
            let (size, hits) = (group.len() as f64, relevant(group) as f64);
            // An item is relevant with chance hits / size; then those before it in the group are with (hits - 1) / (size - 1).
            let others = if group.len() > 1 { (hits - 1.0) / (size - 1.0) } else { 0.0 };
            for place in 0..group.len().min(last.saturating_sub(start)) {
                sum += hits / size * (found + 1.0 + place as f64 * others) / (start + place + 1) as f64;
            }
            found += hits;
        }
        if self.ideal.is_empty() {
            0.0
        } else {
            sum / self.ideal.len() as f64
        }
    }
}

fn relevant(group: &[f64]) -> usize {
    group.iter().filter(|relevance| **relevance > 0.0).count()
}

#[cfg(test)]
mod tests {
    use super::super::test_data::*;
    use super::*;

    /// All items that were judged or returned.
    fn items(row: &serde_json::Value) -> Vec<Item<'_>> {
        let [relevance, score] = ["relevance", "score"].map(|key| row[key].as_object().unwrap());
        let ids: std::collections::BTreeSet<&String> = relevance.keys().chain(score.keys()).collect();
        let item = |id: &'_ String| {
            (relevance.get(id).map_or(0.0, |r| r.as_f64().unwrap()), score.get(id).map(|s| s.as_f64().unwrap()))
        };
        ids.into_iter().map(|id| Item { relevance: item(id).0, score: item(id).1, id }).collect()
    }

    #[test]
    fn vectors_of_trec_eval_and_scikit_learn() {
        let file = vectors("metric-vectors.json");
        for row in rows(&file["ranking"]) {
            let by_id = Ranking::of(items(row), Ties::Id);
            let trec = |ours: f64, key: &str| {
                assert_close(Some(ours), &row["trec_eval"][key], &format!("{} {key}", row["name"]))
            };
            trec(by_id.average_precision(None), "map");
            trec(by_id.reciprocal_rank(), "recip_rank");
            trec(by_id.precision(Some(3)), "P_3");
            trec(by_id.recall(Some(3)), "recall_3");
            trec(by_id.ndcg(None, Gain::Linear), "ndcg");
            trec(by_id.ndcg(Some(3), Gain::Linear), "ndcg_cut_3");
            trec(by_id.hit(Some(3)), "success_3");
            assert_close(Some(by_id.ndcg(None, Gain::Exponential)), &row["ndcg_exp_gain_all"], "exponential gain");
            if row.get("sklearn_ndcg_ties_averaged").is_some() {
                let averaged = Ranking::of(items(row), Ties::Averaged);
                assert_close(
                    Some(averaged.ndcg(None, Gain::Linear)),
                    &row["sklearn_ndcg_ties_averaged"],
                    "ties averaged",
                );
                assert_close(
                    Some(averaged.ndcg(Some(3), Gain::Linear)),
                    &row["sklearn_ndcg_at_3"],
                    "ties averaged at 3",
                );
            }
        }
        println!("ranking: {} rows", rows(&file["ranking"]).len());
    }

    /// Every order of five tied items, two of them relevant, after one that is not.
    #[test]
    fn averages_over_ties_are_those_over_all_orders() {
        let relevance = [1.0, 0.0, 1.0, 0.0, 0.0];
        let mut sums = [0.0; 6];
        let mut orders = 0.0;
        for code in 0..5u32.pow(5) {
            let order: Vec<usize> = (0..5).map(|digit| (code / 5u32.pow(digit) % 5) as usize).collect();
            if (0..5).any(|i| !order.contains(&i)) {
                continue;
            }
            let first = Item { relevance: 0.0, score: Some(9.0), id: "" };
            let tied = order.iter().enumerate().map(|(place, &i)| Item {
                relevance: relevance[i],
                score: Some(-(place as f64)),
                id: "",
            });
            let list = Ranking::of([first].into_iter().chain(tied).collect(), Ties::Averaged);
            measures(&list).into_iter().zip(&mut sums).for_each(|(measure, sum)| *sum += measure);
            orders += 1.0;
        }
        let scores = [9.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let items = [0.0].iter().chain(&relevance).zip(scores).map(|(&relevance, s)| Item {
            relevance,
            score: Some(s),
            id: "",
        });
        for (ours, sum) in measures(&Ranking::of(items.collect(), Ties::Averaged)).into_iter().zip(sums) {
            assert!((ours - sum / orders).abs() < 1e-12, "{ours}, over all orders {}", sum / orders);
        }
    }

    fn measures(list: &Ranking) -> [f64; 6] {
        let k = Some(3);
        [
            list.ndcg(k, Gain::Linear),
            list.reciprocal_rank(),
            list.recall(k),
            list.precision(k),
            list.hit(k),
            list.average_precision(k),
        ]
    }
}
