//! What the trainer reads, and its canonical form: checked, normalised and in an order that does not depend on the reader's.

use super::error::Error;
use super::progress::Watch;
use super::rng;
use super::store::{Spilled, Store};
use super::vectors::{norm, Rows, BLOCK};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    Train,
    Test,
}

/// What one user did with one item that was shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Index into [`Input::user_names`].
    pub user: u32,
    /// Index into [`Input::item_keys`].
    pub item: u32,
    pub saved: bool,
    pub split: Split,
    /// Which list or screen showed it; 0 = unknown. Saved and skipped items are compared within one surface only.
    pub surface: u32,
    /// Microseconds since any fixed day.
    pub at: i64,
    /// How much the example counts in training; the profile is a plain mean, as when serving.
    pub weight: f32,
    /// What the user had asked for, an index into [`Input::queries`].
    pub query: Option<u32>,
}

/// Vectors with stable names; where they do not fit into memory the numbers are in the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Named {
    pub keys: Vec<String>,
    pub numbers: Vec<f32>,
    pub spilled: Option<Spilled>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Input {
    pub dim: usize,
    /// One vector of `dim` numbers per item.
    pub items: Vec<f32>,
    /// Stable names (a hash of the content, say): they fix the order of all sums.
    pub item_keys: Vec<String>,
    pub user_names: Vec<String>,
    pub events: Vec<Event>,
    /// Vectors that mean and covariance are taken from; `None` = the items.
    pub sample: Option<Vec<f32>>,
    /// The items' vectors where they do not fit into memory: `items` is empty then.
    pub spilled: Option<Spilled>,
    /// Vectors of typed questions.
    pub queries: Named,
}

/// An event without the user it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Action {
    pub item: u32,
    pub saved: bool,
    pub surface: u32,
    pub at: i64,
    pub weight: f32,
    pub query: Option<u32>,
}

/// One user's last action on each item, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct User {
    pub name: String,
    pub train: Vec<Action>,
    pub test: Vec<Action>,
}

impl User {
    /// Ties in time are broken by chance, not by what was saved or by the order of the items.
    fn sort_by_time<'k>(&mut self, seed: i64, key: impl Fn(u32) -> &'k str) {
        let tie = |a: &Action| rng::hash(seed, &["time", &self.name, key(a.item)]);
        self.train.sort_by_cached_key(|a| (a.at, tie(a)));
        self.test.sort_by_cached_key(|a| (a.at, tie(a)));
    }

    pub fn saved(actions: &[Action]) -> Vec<u32> {
        actions.iter().filter(|a| a.saved).map(|a| a.item).collect()
    }

    pub fn skipped(actions: &[Action]) -> Vec<u32> {
        actions.iter().filter(|a| !a.saved).map(|a| a.item).collect()
    }
}

/// The canonical form: unit vectors in order of their keys, users in order of their names.
pub(super) struct Data {
    pub items: Store,
    pub queries: Store,
    pub users: Vec<User>,
    pub sample: Option<Store>,
    pub train_events: usize,
    pub test_events: usize,
}

impl Data {
    pub fn new(input: Input, seed: i64, watch: &mut Watch<'_>) -> Result<Self, Error> {
        check_shape(&input)?;
        let Input { dim, items, item_keys, user_names, events, sample, spilled, queries } = input;
        let (item_order, query_order) = (order(&item_keys), order(&queries.keys));
        watch.check()?;
        let places = Places { item: inverse(&item_order), query: inverse(&query_order) };
        let mut users = group(events, &order(&user_names), &places, &user_names);
        for user in &mut users {
            watch.check()?;
            user.sort_by_time(seed, |item| &item_keys[item_order[item as usize] as usize]);
        }
        let item = |row: usize| item_keys[item_order[row] as usize].clone();
        let query = |row: usize| format!("query {}", queries.keys[query_order[row] as usize]);
        let sample = sample.map(|data| {
            let mut sample = Rows { dim, data };
            normalise_all(&mut sample, 0, |row| format!("row {row} of the sample"), watch)?;
            Ok::<_, Error>(Store::Memory(sample))
        });
        Ok(Self {
            items: canonical((dim, items, spilled), &item_order, item, watch)?,
            queries: canonical((dim, queries.numbers, queries.spilled), &query_order, query, watch)?,
            sample: sample.transpose()?,
            train_events: users.iter().map(|u| u.train.len()).sum(),
            test_events: users.iter().map(|u| u.test.len()).sum(),
            users,
        })
    }
}

fn check_shape(input: &Input) -> Result<(), Error> {
    let wrong = |reason: String| Err(Error::Input(reason));
    let (dim, items, users) = (input.dim, input.item_keys.len(), input.user_names.len());
    let numbers = |memory: &[f32], file: &Option<Spilled>| file.as_ref().map_or(memory.len(), Spilled::numbers);
    let (found, queries) = (numbers(&input.items, &input.spilled), input.queries.keys.len());
    if dim == 0 || items == 0 || found != dim * items {
        return wrong(format!("{items} items of {dim} dimensions come with {found} numbers"));
    }
    let found = numbers(&input.queries.numbers, &input.queries.spilled);
    if found != dim * queries {
        return wrong(format!("{queries} queries of {dim} dimensions come with {found} numbers"));
    }
    if input.sample.as_ref().is_some_and(|sample| sample.is_empty() || sample.len() % dim != 0) {
        return wrong(format!("the sample does not consist of vectors of {dim} dimensions"));
    }
    for event in &input.events {
        if event.user as usize >= users || event.item as usize >= items {
            return wrong(format!("an event names user {} of {users} and item {} of {items}", event.user, event.item));
        }
        if event.query.is_some_and(|query| query as usize >= queries) {
            return wrong(format!("an event names query {:?} of {queries}", event.query));
        }
        if !(event.weight.is_finite() && event.weight > 0.0) {
            return wrong(format!("an event has weight {}, weights are positive", event.weight));
        }
    }
    Ok(())
}

/// Indices of the names in ascending order.
fn order(names: &[String]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..names.len() as u32).collect();
    order.sort_by(|&a, &b| names[a as usize].cmp(&names[b as usize]));
    order
}

/// Unit vectors in the order given.
fn canonical(
    (dim, numbers, spilled): (usize, Vec<f32>, Option<Spilled>),
    order: &[u32],
    name: impl Fn(usize) -> String,
    watch: &mut Watch<'_>,
) -> Result<Store, Error> {
    if let Some(rows) = spilled {
        let raw = Store::File { dim, rows };
        let mut first = 0;
        return raw.make(dim, order.chunks(BLOCK), |block, out| {
            let mut rows = raw.gather(block, watch)?;
            normalise_all(&mut rows, first, &name, watch)?;
            first += block.len();
            out.copy_from_slice(&rows.data);
            Ok(())
        });
    }
    let mut rows = Rows { dim, data: numbers };
    if !order.is_sorted() {
        rows = rows.gather(order.iter().copied());
    }
    normalise_all(&mut rows, 0, name, watch)?;
    Ok(Store::Memory(rows))
}

/// `first` is the number of the first row.
fn normalise_all(
    rows: &mut Rows,
    first: usize,
    name: impl Fn(usize) -> String,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    for index in 0..rows.len() {
        if index % BLOCK == 0 {
            watch.check()?;
        }
        let row = rows.row_mut(index);
        let length = norm(row);
        if !length.is_finite() || length < 1e-30 {
            let reason = if length.is_finite() { "is zero: it has no direction" } else { "is not finite" };
            return Err(Error::Vector { item: name(first + index), reason });
        }
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
    Ok(())
}

/// Where items and queries stand in the canonical order.
struct Places {
    item: Vec<u32>,
    query: Vec<u32>,
}

fn group(events: Vec<Event>, user_order: &[u32], places: &Places, user_names: &[String]) -> Vec<User> {
    let user_place = inverse(user_order);
    let mut sorted: Vec<(u32, Split, Action)> = events
        .into_iter()
        .map(|e| {
            let action = Action {
                item: places.item[e.item as usize],
                saved: e.saved,
                surface: e.surface,
                at: e.at,
                weight: e.weight,
                query: e.query.map(|query| places.query[query as usize]),
            };
            (user_place[e.user as usize], e.split, action)
        })
        .collect();
    // The whole event is the key, so that equal keys are equal events and the reader's order cannot matter.
    sorted.sort_by_key(|&(user, split, a)| {
        (user, a.item, a.at, split == Split::Test, a.saved, a.surface, a.weight.to_bits(), a.query)
    });
    let mut users: Vec<User> =
        user_order.iter().map(|&index| User { name: user_names[index as usize].clone(), ..User::default() }).collect();
    for (index, &(user, split, action)) in sorted.iter().enumerate() {
        // A changed mind counts once, by its last state: an item skipped first and saved later is never a negative.
        if sorted.get(index + 1).is_some_and(|next| next.0 == user && next.2.item == action.item) {
            continue;
        }
        match split {
            Split::Train => users[user as usize].train.push(action),
            Split::Test => users[user as usize].test.push(action),
        }
    }
    users
}

fn inverse(order: &[u32]) -> Vec<u32> {
    let mut place = vec![0; order.len()];
    for (new, &old) in order.iter().enumerate() {
        place[old as usize] = new as u32;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::*;

    fn data(input: Input) -> Result<Data, Error> {
        Data::new(input, 1, &mut Watch::new(&mut Unobserved, None))
    }

    fn input() -> Input {
        let event = |user, item, saved, at| Event {
            user,
            item,
            saved,
            split: Split::Train,
            surface: 0,
            at,
            weight: 1.0,
            query: None,
        };
        Input {
            dim: 2,
            items: vec![0.0, 2.0, 3.0, 0.0],
            item_keys: vec!["b".into(), "a".into()],
            user_names: vec!["zoe".into(), "adam".into()],
            events: vec![event(0, 0, true, 5), event(0, 0, false, 3), event(1, 1, true, 1), event(0, 1, false, 9)],
            ..Input::default()
        }
    }

    #[test]
    fn order_is_canonical_and_the_last_action_counts() {
        let data = data(input()).unwrap();
        let all = data.items.gather(&[0, 1], &mut Watch::new(&mut Unobserved, None)).unwrap();
        assert_eq!(all.data, [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(data.users.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), ["adam", "zoe"]);
        let zoe: Vec<_> = data.users[1].train.iter().map(|a| (a.item, a.saved)).collect();
        assert_eq!(zoe, [(1, true), (0, false)]);
        assert_eq!((data.train_events, data.test_events), (3, 0));
    }

    #[test]
    fn bad_input_is_named() {
        let message = |change: fn(&mut Input)| {
            let mut bad = input();
            change(&mut bad);
            data(bad).err().unwrap().to_string()
        };
        assert_eq!(message(|i| i.items[2] = 0.0), "vector of item \"a\" is zero: it has no direction");
        assert_eq!(message(|i| i.items[0] = f32::NAN), "vector of item \"b\" is not finite");
        assert!(message(|i| i.events[0].item = 7).contains("item 7 of 2"));
        assert!(message(|i| i.events[0].weight = 0.0).contains("weight 0"));
        assert!(message(|i| i.dim = 3).contains("2 items of 3 dimensions"));
        assert!(message(|i| i.sample = Some(vec![1.0])).contains("sample"));
        assert!(message(|i| i.events[0].query = Some(0)).contains("query Some(0) of 0"));
        assert!(message(|i| i.queries.numbers = vec![1.0]).contains("0 queries of 2 dimensions come with 1 numbers"));
    }
}
