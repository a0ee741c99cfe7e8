//! The gate for a model that makes other vectors: the same users, items and lists, in two spaces.

use std::collections::HashSet;

use super::adapter::Adapter;
use super::error::Error;
use super::evaluate::{self, Coverage};
use super::gate::{self, Gate, Side};
use super::input::{Data, Event, Input};
use super::panel::{Member, Panel, Unit, MIN_GATE};
use super::params::Params;
use super::progress::{Observer, Watch};
use super::rng;
use super::Comparison;

/// Whole users, in an order that the seed shuffles, until their items would be more than `limit`; without the items that
/// nobody is left for. For models that cost by the text.
pub fn sample_users(mut input: Input, limit: usize, seed: i64) -> Input {
    let mut order: Vec<u32> = (0..input.user_names.len() as u32).collect();
    order.sort_by_cached_key(|&user| rng::hash(seed, &["sample", &input.user_names[user as usize]]));
    let mut of_user: Vec<Vec<u32>> = vec![Vec::new(); order.len()];
    input.events.iter().for_each(|event| of_user[event.user as usize].push(event.item));
    let (mut items, mut users) = (HashSet::new(), HashSet::new());
    for user in order {
        let new: HashSet<u32> = of_user[user as usize].iter().filter(|&item| !items.contains(item)).copied().collect();
        if items.len() + new.len() > limit {
            break;
        }
        items.extend(new);
        users.insert(user);
    }
    input.events.retain(|event| users.contains(&event.user));
    only_items(input, &items)
}

fn only_items(input: Input, kept: &HashSet<u32>) -> Input {
    let mut place = vec![0u32; input.item_keys.len()];
    let (mut items, mut item_keys) = (Vec::new(), Vec::new());
    for (index, key) in input.item_keys.iter().enumerate().filter(|&(index, _)| kept.contains(&(index as u32))) {
        place[index] = item_keys.len() as u32;
        items.extend_from_slice(&input.items[index * input.dim..(index + 1) * input.dim]);
        item_keys.push(key.clone());
    }
    let events = input.events.iter().map(|e| Event { item: place[e.item as usize], ..*e }).collect();
    Input { items, item_keys, events, ..input }
}

/// A space with its judging users.
struct Space {
    data: Data,
    panel: Panel,
    cold: Panel,
    coverage: Coverage,
    identity: Adapter,
    /// The judges are users of whom the training part holds nothing.
    apart: bool,
}

impl Space {
    fn new(input: Input, params: &Params, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let data = Data::new(input, params.seed, watch)?;
        let users = data.users.iter().enumerate();
        let mut members: Vec<Member> =
            users.filter_map(|(index, user)| Member::newest(index, user, params.min_user_saved)).collect();
        let strangers = |member: &Member| data.users[member.user].train.is_empty();
        let apart = members.iter().filter(|member| strangers(member)).count() >= MIN_GATE;
        members.retain(|member| strangers(member) || !apart);
        let panel = Panel::new(members, &data.users, &data.items, watch)?;
        let mut seen = vec![false; data.items.len()];
        data.users.iter().flat_map(|user| &user.train).for_each(|action| seen[action.item as usize] = true);
        let cold = panel.filtered(|item| !seen[item as usize]);
        let coverage = Coverage::new(&panel, &data.items, params.seed, watch)?;
        let identity = Adapter::identity(data.items.dim());
        Ok(Self { data, panel, cold, coverage, identity, apart })
    }

    fn side(&self) -> Side<'_> {
        Side {
            panel: &self.panel,
            cold: &self.cold,
            items: &self.data.items,
            coverage: &self.coverage,
            adapter: &self.identity,
        }
    }
}

/// Compares the vectors of another embedding model (`vectors`, one of `dim` numbers per item of `input`, in its order) with
/// those of `input`, each with the plain mean of what a user saved as the query. Ranked are the newest actions only. Where the
/// dataset keeps enough users apart (`split => 'user'`), these judge alone; otherwise the users may have taken part in the
/// training, their newest actions have not, and the reason says so.
///
/// # Errors
/// Vectors that cannot be used, or the observer's stop.
pub fn compare_embeddings(
    input: Input,
    dim: usize,
    vectors: Vec<f32>,
    params: &Params,
    observer: &mut dyn Observer,
) -> Result<Comparison, Error> {
    let mut watch = Watch::new(observer, params.max_seconds);
    let other = Input { dim, items: vectors, ..input.clone() };
    let (before, after) = (Space::new(input, params, &mut watch)?, Space::new(other, params, &mut watch)?);
    let gate = Gate { draws: params.bootstrap_draws, seed: params.seed };
    let mut evaluation = gate.evaluate(&before.side(), &after.side(), &mut watch)?;
    if evaluation.users > 0 {
        (evaluation.knn3_auc, evaluation.popularity_auc) = baselines(&before, &mut watch)?;
    }
    let (verdict, reason) = gate::judge(&evaluation, Unit::Users, None);
    let reason = match before.apart {
        true => reason,
        false => reason.replace("users it was not trained on", "users, on their newest actions"),
    };
    Ok(Comparison { evaluation, verdict, reason })
}

/// AUC of the three nearest saved items and of what others saved.
fn baselines(space: &Space, watch: &mut Watch<'_>) -> Result<(Option<f64>, Option<f64>), Error> {
    let items = &space.data.items;
    let nearest = evaluate::measure(&space.panel, watch, |member, list, watch| {
        evaluate::nearest_three(items, &space.panel.members[member].saved, list, watch)
    })?;
    let rates = evaluate::save_rates(items.len(), space.data.users.iter());
    let popular = evaluate::measure(&space.panel, watch, |_, list, _| {
        Ok(list.items.iter().map(|&item| rates[item as usize]).collect())
    })?;
    Ok((Some(evaluate::average(&nearest, |m| m.auc)), Some(evaluate::average(&popular, |m| m.auc))))
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::super::{Split, Verdict};
    use super::*;

    /// 40 users who save items of their own side; `clear` says whether the vectors show the sides.
    fn input(clear: bool) -> Input {
        let items = 60u32;
        let side = |i: u32| match clear {
            true => 0.5 - (i % 2) as f32,
            false => (i as f32 * 5.3).sin(),
        };
        let vector = |i: u32| [side(i), (i as f32 * 7.7).sin(), (i as f32 * 3.1).cos(), (i as f32 * 1.9).sin()];
        let event = |user: u32, n: u32| {
            let item = (user * 7 + n * 11) % items;
            let split = if n < 12 { Split::Train } else { Split::Test };
            Event {
                user,
                item,
                saved: item % 2 == user % 2,
                split,
                surface: 0,
                at: i64::from(n),
                weight: 1.0,
                query: None,
            }
        };
        Input {
            dim: 4,
            items: (0..items).flat_map(vector).collect(),
            item_keys: (0..items).map(|i| format!("{i:03}")).collect(),
            user_names: (0..40).map(|u| format!("u{u:02}")).collect(),
            events: (0..40).flat_map(|user| (0..24).map(move |n| event(user, n))).collect(),
            ..Input::default()
        }
    }

    #[test]
    fn the_space_that_shows_the_taste_wins_and_only_that() {
        let params = Params::default();
        let (clear, vague) = (input(true), input(false));
        let better = compare_embeddings(vague.clone(), 4, clear.items.clone(), &params, &mut Unobserved).unwrap();
        assert_eq!(better.verdict, Verdict::Passed, "{}", better.reason);
        assert!(better.evaluation.auc.unwrap() > 0.8 && better.reason.contains("on their newest actions"));
        let worse = compare_embeddings(clear.clone(), 4, vague.items, &params, &mut Unobserved).unwrap();
        assert_eq!(worse.verdict, Verdict::Refused);
        let same = compare_embeddings(clear.clone(), 4, clear.items, &params, &mut Unobserved).unwrap();
        assert_eq!((same.verdict, same.evaluation.auc_delta), (Verdict::Refused, Some(0.0)));
    }

    #[test]
    fn users_whom_the_training_part_does_not_hold_judge_alone_where_there_are_enough() {
        let (mut vague, clear) = (input(false), input(true));
        vague.events.iter_mut().filter(|event| event.user < 25).for_each(|event| event.split = Split::Test);
        let told =
            compare_embeddings(vague.clone(), 4, clear.items.clone(), &Params::default(), &mut Unobserved).unwrap();
        assert_eq!(told.evaluation.users, 25);
        assert!(told.reason.contains("users it was not trained on"), "{}", told.reason);
        vague.events.iter_mut().filter(|event| event.user > 5).for_each(|event| {
            event.split = if event.at < 12 { Split::Train } else { Split::Test };
        });
        let mixed = compare_embeddings(vague, 4, clear.items, &Params::default(), &mut Unobserved).unwrap();
        assert_eq!(mixed.evaluation.users, 40);
    }

    #[test]
    fn a_sample_keeps_whole_users_and_their_items() {
        let all = input(true);
        assert_eq!(sample_users(all.clone(), 60, 1), all);
        let some = sample_users(all.clone(), 40, 1);
        let users: HashSet<u32> = some.events.iter().map(|e| e.user).collect();
        assert!(!users.is_empty() && users.len() < 40 && some.item_keys.len() <= 40);
        assert_eq!(some.items.len(), 4 * some.item_keys.len());
        assert_eq!(some.events.len(), all.events.iter().filter(|e| users.contains(&e.user)).count());
        assert!(some.events.iter().all(|e| (e.item as usize) < some.item_keys.len()));
        assert!(sample_users(all, 3, 1).events.is_empty());
    }

    #[test]
    fn vectors_of_the_wrong_number_are_refused() {
        let error = compare_embeddings(input(true), 3, vec![1.0; 9], &Params::default(), &mut Unobserved).unwrap_err();
        assert!(error.to_string().contains("60 items of 3 dimensions"), "{error}");
    }
}
