//! Users on whom models are compared: a profile from their earlier actions, and the later ones to be ranked.

use std::collections::BTreeMap;

use super::adapter::Adapter;
use super::error::Error;
use super::input::{Action, User};
use super::progress::Watch;
use super::rng;
use super::store::Store;
use super::vectors::{add_scaled, add_to, normalise, Rows};

/// Skipped items below which a user's negative direction is not used.
pub(super) const MIN_SKIPPED: usize = 5;
/// Share of the earlier actions that make the profile where no split was given.
const EARLIER: f64 = 0.7;

/// In the microseconds of an event's time.
const DAY: i64 = 86_400_000_000;

/// Rows that are near at one time, of one user's history.
pub(super) const SOME: usize = 1024;

/// What one user was shown on one surface, saved and skipped both.
#[derive(Debug, Clone)]
pub(super) struct List {
    pub items: Vec<u32>,
    pub saved: Vec<bool>,
    /// Row of the panel's anchors that it is ranked by.
    pub anchor: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Index into the users of the data.
    pub user: usize,
    /// The items of the profile.
    pub saved: Vec<u32>,
    pub skipped: Vec<u32>,
    pub lists: Vec<List>,
}

impl Member {
    /// Profile from the train part, ranked are the newest actions; a user without a train part is cut in two.
    pub fn newest(index: usize, user: &User, min_saved: usize) -> Option<Self> {
        match user.train.is_empty() {
            true => Self::cut(index, &user.test, min_saved),
            false => Self::new(index, &user.train, &user.test, min_saved),
        }
    }

    /// Both from the train part: the later ones of the saved and of the skipped are ranked.
    pub fn within_train(index: usize, user: &User, min_saved: usize) -> Option<Self> {
        Self::cut(index, &user.train, min_saved)
    }

    fn cut(index: usize, actions: &[Action], min_saved: usize) -> Option<Self> {
        let (mut earlier, mut later) = (Vec::new(), Vec::new());
        for saved in [true, false] {
            let kind: Vec<Action> = actions.iter().filter(|a| a.saved == saved).copied().collect();
            let (first, last) = kind.split_at((kind.len() as f64 * EARLIER) as usize);
            earlier.extend_from_slice(first);
            later.extend_from_slice(last);
        }
        Self::new(index, &earlier, &later, min_saved)
    }

    /// One member for each day of what is ranked.
    fn days(index: usize, profile: &[Action], ranked: &[Action], min_saved: usize) -> Vec<Self> {
        let mut days: BTreeMap<i64, Vec<Action>> = BTreeMap::new();
        for action in ranked {
            days.entry(action.at.div_euclid(DAY)).or_default().push(*action);
        }
        days.into_values().filter_map(|day| Self::new(index, profile, &day, min_saved)).collect()
    }

    fn new(user: usize, profile: &[Action], ranked: &[Action], min_saved: usize) -> Option<Self> {
        let (saved, skipped) = (User::saved(profile), User::skipped(profile));
        let mut surfaces: BTreeMap<u32, Vec<(u32, bool)>> = BTreeMap::new();
        for action in ranked {
            surfaces.entry(action.surface).or_default().push((action.item, action.saved));
        }
        let lists: Vec<List> = surfaces.into_values().filter_map(List::of_both_kinds).collect();
        (saved.len() >= min_saved && !lists.is_empty()).then_some(Self { user, saved, skipped, lists })
    }

    pub fn ranked(&self) -> usize {
        self.lists.iter().map(|list| list.items.len()).sum()
    }

    pub fn shown(&self) -> impl Iterator<Item = u32> + '_ {
        self.lists.iter().flat_map(|list| list.items.iter().copied())
    }
}

impl List {
    /// Sorted by item, so that equal scores are not decided by what was saved; `None` unless both kinds are there.
    pub fn of_both_kinds(mut shown: Vec<(u32, bool)>) -> Option<Self> {
        shown.sort_unstable();
        let (items, saved): (Vec<_>, Vec<_>) = shown.into_iter().unzip();
        (saved.contains(&true) && saved.contains(&false)).then_some(Self { items, saved, anchor: 0 })
    }
}

#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub members: Vec<Member>,
    /// The user of each anchor.
    pub names: Vec<String>,
    /// What each anchor is made of: the mean of a user's saved vectors, or the vector of a query.
    anchors: Rows,
    /// A row of zeros for those who skipped too little.
    skipped_means: Rows,
}

impl Panel {
    /// Every member has one anchor, the profile.
    pub fn new(mut members: Vec<Member>, users: &[User], items: &Store, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let dim = items.dim();
        let (mut anchors, mut skipped_means) = (Rows::zeros(members.len(), dim), Rows::zeros(members.len(), dim));
        for (index, member) in members.iter_mut().enumerate() {
            anchors.row_mut(index).copy_from_slice(&mean(items, &member.saved, watch)?);
            if member.skipped.len() >= MIN_SKIPPED {
                skipped_means.row_mut(index).copy_from_slice(&mean(items, &member.skipped, watch)?);
            }
            member.lists.iter_mut().for_each(|list| list.anchor = index as u32);
        }
        let names = members.iter().map(|member| users[member.user].name.clone()).collect();
        Ok(Self { members, names, anchors, skipped_means })
    }

    /// Lists whose anchors are known already: typed questions.
    pub fn of_queries(members: Vec<Member>, anchors: Rows) -> Self {
        let skipped_means = Rows::zeros(anchors.len(), anchors.dim);
        Self { members, names: vec![String::new(); anchors.len()], anchors, skipped_means }
    }

    #[cfg(test)]
    pub fn nobody(dim: usize) -> Self {
        Self::of_queries(Vec::new(), Rows::zeros(0, dim))
    }

    pub fn anchors(&self) -> usize {
        self.anchors.len()
    }

    /// One query vector per anchor.
    pub fn queries(&self, adapter: &Adapter, watch: &mut Watch<'_>) -> Result<Rows, Error> {
        adapter.queries(&self.anchors, &self.skipped_means, &self.names, watch)
    }

    /// The plainest use of both kinds: the mean of the saved less the mean of the skipped.
    pub fn rocchio(&self) -> Rows {
        let mut queries = self.anchors.clone();
        for index in 0..queries.len() {
            let query = queries.row_mut(index);
            add_scaled(query, -1.0, self.skipped_means.row(index));
            normalise(query);
        }
        queries
    }

    /// The same users with only those ranked items that `keep` holds for.
    pub fn filtered(&self, keep: impl Fn(u32) -> bool) -> Self {
        let members = self.members.iter().filter_map(|member| {
            let kept = |list: &List| {
                let shown = list.items.iter().copied().zip(list.saved.iter().copied());
                let kept = List::of_both_kinds(shown.filter(|&(item, _)| keep(item)).collect())?;
                Some(List { anchor: list.anchor, ..kept })
            };
            let lists: Vec<List> = member.lists.iter().filter_map(kept).collect();
            (!lists.is_empty()).then(|| Member { lists, ..member.clone() })
        });
        Self { members: members.collect(), ..self.clone() }
    }

    pub fn ranked(&self) -> usize {
        self.members.iter().map(Member::ranked).sum()
    }
}

/// Of unit vectors, with sums in double precision.
pub(super) fn mean(items: &Store, indices: &[u32], watch: &mut Watch<'_>) -> Result<Vec<f32>, Error> {
    let mut sum = vec![0.0f64; items.dim()];
    for some in indices.chunks(SOME) {
        let near = items.near(some.iter().copied(), watch)?;
        some.iter().for_each(|&index| add_to(&mut sum, near.row(index)));
    }
    Ok(sum.iter().map(|s| (s / indices.len().max(1) as f64) as f32).collect())
}

/// Users by what they are for: nobody judges what was fitted or chosen on them.
pub(super) struct Roles {
    pub fit: Vec<usize>,
    pub selection: Vec<Member>,
    pub gate: Vec<Member>,
    pub unit: Unit,
}

/// What is resampled and set aside: users, or the days of those few that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Users,
    Days,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Days => "days",
        }
    }
}

/// Users below which nobody can be set aside.
pub(super) const MIN_USERS: usize = 16;
/// Users that a choice between candidates needs.
pub(super) const MIN_SELECTION: usize = 8;
/// Users that a verdict needs.
pub(super) const MIN_GATE: usize = 20;
const SHARE: f64 = 0.15;
/// More users than these make no verdict better, only slower.
const MAX_SELECTION: usize = 2_000;
const MAX_GATE: usize = 5_000;

impl Roles {
    /// By hash of the user's name: 15 % judge, 15 % select, the others fit. Where users are few, a verdict and then a
    /// choice come first. Only users who can judge or select are set aside.
    pub fn assign(users: &[User], seed: i64, min_saved: usize) -> Self {
        let mut queue: Vec<usize> = (0..users.len()).collect();
        queue.sort_by_cached_key(|&index| (rng::hash(seed, &["role", &users[index].name]), index));
        if users.len() < MIN_USERS {
            return Self::by_day(users, min_saved);
        }
        let share = (users.len() as f64 * SHARE).round() as usize;
        let gate_size = share.max(MIN_GATE).min(users.len() - MIN_SELECTION).min(MAX_GATE);
        let selection_size = share.clamp(MIN_SELECTION, MAX_SELECTION);
        let gate = take(&mut queue, gate_size, |index| Member::newest(index, &users[index], min_saved));
        let selection = take(&mut queue, selection_size, |index| Member::within_train(index, &users[index], min_saved));
        queue.sort_unstable();
        Self { fit: queue, selection, gate, unit: Unit::Users }
    }

    /// Nobody can be set aside, but time can: the newest days judge, the last days before them select, and nothing is
    /// fitted that would need other users.
    fn by_day(users: &[User], min_saved: usize) -> Self {
        let (mut selection, mut gate) = (Vec::new(), Vec::new());
        for (index, user) in users.iter().enumerate() {
            let (earlier, later) = user.train.split_at((user.train.len() as f64 * EARLIER) as usize);
            selection.extend(Member::days(index, earlier, later, min_saved));
            gate.extend(Member::days(index, &user.train, &user.test, min_saved));
        }
        Self { fit: Vec::new(), selection, gate, unit: Unit::Days }
    }
}

/// Moves the first users of the queue that are fit for it into a role.
pub(super) fn take(queue: &mut Vec<usize>, size: usize, role: impl Fn(usize) -> Option<Member>) -> Vec<Member> {
    let mut taken: Vec<Member> = Vec::new();
    queue.retain(|&index| {
        let member = if taken.len() < size { role(index) } else { None };
        let stays = member.is_none();
        taken.extend(member);
        stays
    });
    taken.sort_by_key(|member| member.user);
    taken
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::*;

    fn action(item: u32, saved: bool, surface: u32) -> Action {
        Action { item, saved, surface, at: i64::from(item), weight: 1.0, query: None }
    }

    fn user(train: u32, test: u32) -> User {
        let actions = |from: u32, count: u32| (from..from + count).map(|i| action(i, i % 2 == 0, 0)).collect();
        User { name: format!("user {train} {test}"), train: actions(0, train), test: actions(train, test) }
    }

    #[test]
    fn newest_actions_are_ranked_with_a_profile_of_older_ones() {
        let member = Member::newest(0, &user(10, 4), 3).unwrap();
        assert_eq!((member.saved.as_slice(), member.skipped.len()), ([0, 2, 4, 6, 8].as_slice(), 5));
        assert_eq!((member.lists[0].items.as_slice(), member.ranked()), ([10, 11, 12, 13].as_slice(), 4));
        assert!(Member::newest(0, &user(10, 1), 3).is_none());
        assert!(Member::newest(0, &user(4, 4), 3).is_none());
    }

    #[test]
    fn without_a_split_the_later_part_of_each_kind_is_ranked() {
        for member in [Member::within_train(0, &user(20, 0), 3), Member::newest(0, &user(0, 20), 3)] {
            let member = member.unwrap();
            assert_eq!((member.saved.len(), member.skipped.len()), (7, 7));
            assert_eq!(member.lists[0].items, [14, 15, 16, 17, 18, 19]);
        }
    }

    #[test]
    fn saves_of_one_surface_are_not_ranked_against_skips_of_another() {
        let ranked = [action(20, true, 1), action(21, false, 2), action(22, true, 3), action(23, false, 3)];
        let trap = User { test: ranked[..2].to_vec(), ..user(10, 0) };
        assert!(Member::newest(0, &trap, 3).is_none());
        let mixed = User { test: ranked.to_vec(), ..user(10, 0) };
        let member = Member::newest(0, &mixed, 3).unwrap();
        assert_eq!(member.lists.iter().map(|l| l.items.clone()).collect::<Vec<_>>(), [[22, 23]]);
    }

    #[test]
    fn roles_are_disjoint_and_a_verdict_comes_first() {
        let many = |count: u32| (0..count).map(|i| User { name: format!("{i}"), ..user(20, 6) }).collect::<Vec<_>>();
        for (count, gate, selection) in [(16, 8, 8), (28, 20, 8), (72, 20, 11), (1000, 150, 150)] {
            let roles = Roles::assign(&many(count), 1, 3);
            assert_eq!((roles.gate.len(), roles.selection.len()), (gate, selection), "{count} users");
            let members = roles.gate.iter().chain(&roles.selection).map(|m| m.user);
            let mut all: Vec<usize> = members.chain(roles.fit).collect();
            let expected = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), expected);
        }
        let gate = |seed| Roles::assign(&many(100), seed, 3).gate.iter().map(|m| m.user).collect::<Vec<_>>();
        assert_eq!(gate(1), gate(1));
        assert_ne!(gate(1), gate(2));
    }

    #[test]
    fn of_few_users_the_days_are_set_aside() {
        let by_day =
            |item: u32| Action { at: i64::from(item / 4) * DAY + 5, ..action(item, item.is_multiple_of(2), 0) };
        let alone =
            User { name: "ann".into(), train: (0..80).map(by_day).collect(), test: (80..101).map(by_day).collect() };
        let roles = Roles::assign(&[alone], 1, 3);
        assert_eq!((roles.unit, roles.fit.len()), (Unit::Days, 0));
        // the last day of the newest has a saved item and no skipped one
        assert_eq!((roles.gate.len(), roles.selection.len()), (5, 6));
        assert_eq!((roles.gate[0].saved.len(), roles.gate[0].lists[0].items.len()), (40, 4));
        assert!(roles.selection.iter().all(|day| day.saved.len() == 28 && day.lists[0].items[0] >= 56));
    }

    #[test]
    fn who_skipped_too_little_has_no_negative_direction() {
        let mut observer = Unobserved;
        let watch = &mut Watch::new(&mut observer, None);
        let items = Store::Memory(Rows { dim: 2, data: (0..60).map(|i| i as f32).collect() });
        let users = [user(20, 6), user(8, 6)];
        let members = users.iter().filter_map(|u| Member::newest(0, u, 3)).collect();
        let panel = Panel::new(members, &users, &items, watch).unwrap();
        assert!(panel.skipped_means.row(0)[0] > 0.0);
        assert_eq!(panel.skipped_means.row(1), [0.0, 0.0]);
        assert_eq!(panel.filtered(|item| item >= 20).members.len(), 1);
    }
}
