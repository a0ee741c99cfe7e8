//! Users on whom models are compared: a profile from their earlier actions, and the later ones to be ranked.

use std::collections::BTreeMap;

use super::input::{Action, User};
use super::rng;
use super::vectors::{mean, Rows};

/// Skipped items below which a user's negative direction is not used.
const MIN_SKIPPED: usize = 5;
/// Share of the earlier actions that make the profile where no split was given.
const EARLIER: f64 = 0.7;

/// What one user was shown on one surface, saved and skipped both.
#[derive(Debug, Clone)]
pub(super) struct List {
    pub items: Vec<u32>,
    pub saved: Vec<bool>,
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
}

impl List {
    /// Sorted by item, so that equal scores are not decided by what was saved; `None` unless both kinds are there.
    fn of_both_kinds(mut shown: Vec<(u32, bool)>) -> Option<Self> {
        shown.sort_unstable();
        let (items, saved): (Vec<_>, Vec<_>) = shown.into_iter().unzip();
        (saved.contains(&true) && saved.contains(&false)).then_some(Self { items, saved })
    }
}

#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub members: Vec<Member>,
    pub saved_means: Rows,
    /// A row of zeros for those who skipped too little.
    pub skipped_means: Rows,
}

impl Panel {
    pub fn new(members: Vec<Member>, items: &Rows) -> Self {
        let (mut saved_means, mut skipped_means) =
            (Rows::zeros(members.len(), items.dim), Rows::zeros(members.len(), items.dim));
        for (index, member) in members.iter().enumerate() {
            saved_means.row_mut(index).copy_from_slice(&mean(items, &member.saved));
            if member.skipped.len() >= MIN_SKIPPED {
                skipped_means.row_mut(index).copy_from_slice(&mean(items, &member.skipped));
            }
        }
        Self { members, saved_means, skipped_means }
    }

    /// The same users with only those ranked items that `keep` holds for.
    pub fn filtered(&self, items: &Rows, keep: impl Fn(u32) -> bool) -> Self {
        let members = self.members.iter().filter_map(|member| {
            let kept = |list: &List| {
                let shown = list.items.iter().copied().zip(list.saved.iter().copied());
                List::of_both_kinds(shown.filter(|&(item, _)| keep(item)).collect())
            };
            let lists: Vec<List> = member.lists.iter().filter_map(kept).collect();
            (!lists.is_empty()).then(|| Member { lists, ..member.clone() })
        });
        Self::new(members.collect(), items)
    }

    pub fn ranked(&self) -> usize {
        self.members.iter().map(Member::ranked).sum()
    }
}

/// Users by what they are for: nobody judges what was fitted or chosen on them.
pub(super) struct Roles {
    pub fit: Vec<usize>,
    pub selection: Vec<Member>,
    pub gate: Vec<Member>,
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
    pub fn assign(users: &[User], seed: u64, min_saved: usize) -> Self {
        let mut queue: Vec<usize> = (0..users.len()).collect();
        queue.sort_by_cached_key(|&index| (rng::hash(seed, &["role", &users[index].name]), index));
        if users.len() < MIN_USERS {
            let gate = queue.iter().filter_map(|&index| Member::newest(index, &users[index], min_saved)).collect();
            return Self { fit: Vec::new(), selection: Vec::new(), gate };
        }
        let share = (users.len() as f64 * SHARE).round() as usize;
        let gate_size = share.max(MIN_GATE).min(users.len() - MIN_SELECTION).min(MAX_GATE);
        let selection_size = share.max(MIN_SELECTION).min(MAX_SELECTION);
        let gate = take(&mut queue, gate_size, |index| Member::newest(index, &users[index], min_saved));
        let selection = take(&mut queue, selection_size, |index| Member::within_train(index, &users[index], min_saved));
        queue.sort_unstable();
        Self { fit: queue, selection, gate }
    }
}

/// Moves the first users of the queue that are fit for it into a role.
fn take(queue: &mut Vec<usize>, size: usize, role: impl Fn(usize) -> Option<Member>) -> Vec<Member> {
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
