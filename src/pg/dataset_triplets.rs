//! The triplets of one side of a dataset, in the order of users and positives.
//!
//! Users are planned until enough anchors need mined negatives to make a search worth while; the first batch is
//! small, so that the first rows come soon. What is held at a time is bounded, whatever the size of the dataset.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use pgrx::prelude::*;

use super::dataset_rows::{unit_vector, Source, Users};
use super::dataset_search::{Anchor, Search};
use super::errors::UserError;
use crate::core::dataset::search::{Candidate, Place};
use crate::core::dataset::triplets::{Group, MinedText, Options, User, Wanted};

const FIRST_ANCHORS: usize = 256;
const ANCHORS: usize = 16_384;
/// Texts and vectors of the users of one batch.
const BATCH_BYTES: usize = 96 << 20;
/// Anchors whose mined texts are read at once.
const ANCHORS_READ: usize = 1_024;

/// One positive with all its negatives.
pub struct Triplets {
    pub user: Rc<User>,
    pub group: Group,
    pub mined: Vec<Rc<MinedText>>,
}

struct Planned {
    user: User,
    groups: Vec<Group>,
    wanted: Vec<Wanted>,
    found: Vec<Vec<Candidate>>,
}

pub struct Groups {
    users: Users,
    options: Options,
    search: Option<Search>,
    anchors: usize,
    planned: VecDeque<Planned>,
    ready: VecDeque<Triplets>,
}

impl Groups {
    pub fn new(source: Source, options: Options) -> Self {
        let (planned, ready) = (VecDeque::new(), VecDeque::new());
        Self { users: Users::with_vectors(source), options, search: None, anchors: FIRST_ANCHORS, planned, ready }
    }

    pub fn advance(&mut self) -> Result<Option<Triplets>, UserError> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(Some(next));
            }
            if self.planned.is_empty() && !self.plan()? {
                return Ok(None);
            }
            self.finish_some()?;
        }
    }

    /// Plans the next users and searches for what they lack; false at the end.
    fn plan(&mut self) -> Result<bool, UserError> {
        let (mut anchors, mut bytes) = (0, 0);
        while anchors < self.anchors && bytes < BATCH_BYTES {
            let Some((user, examples)) = self.users.advance()? else { break };
            bytes += examples.iter().map(|e| e.text.len() + 4 * e.vector.len() + 200).sum::<usize>();
            let mut user = User::new(user, examples, self.users.source().split(), &mut || {
                check_for_interrupts!();
            });
            let source = self.users.source();
            let positives = user.positives(&self.options).into_iter();
            let positives = positives.filter(|&p| source.takes(&user.examples()[p]));
            let groups: Vec<Group> = positives.map(|p| user.group(p, &self.options)).collect();
            let wanted = user.wanted(&groups);
            user.keep_only_saved_vectors();
            anchors += wanted.len();
            self.planned.push_back(Planned { user, groups, wanted, found: Vec::new() });
            if anchors == 0 {
                return Ok(true); // nothing to search for: no reason to wait
            }
        }
        if anchors > 0 {
            self.search()?;
            self.anchors = ANCHORS;
        }
        Ok(!self.planned.is_empty())
    }

    fn search(&mut self) -> Result<(), UserError> {
        let source = self.users.source();
        if self.search.is_none() {
            self.search = Some(Search::new(source, self.options.range_max)?);
        }
        let mut anchors = Vec::new();
        for planned in &self.planned {
            let met = Arc::new(planned.user.met());
            let vector = |w: &Wanted| planned.user.examples()[w.anchor].vector.clone();
            anchors.extend(planned.wanted.iter().map(|w| Anchor { vector: vector(w), met: met.clone() }));
        }
        if let Some(search) = &self.search {
            let mut found = search.candidates(source, &anchors)?.into_iter();
            for planned in &mut self.planned {
                planned.found = found.by_ref().take(planned.wanted.len()).collect();
            }
        }
        Ok(())
    }

    /// Chooses among the candidates of the next users and reads the texts.
    fn finish_some(&mut self) -> Result<(), UserError> {
        let mut users = Vec::new();
        let mut choices = Vec::new();
        while let Some(Planned { user, groups, wanted, found }) = self.planned.pop_front() {
            for (wanted, found) in wanted.into_iter().zip(found) {
                let mut random = user.stream(self.options.seed, wanted.anchor);
                let window = self.options.choose(found, wanted.worst, &mut random).into_iter();
                choices.push(Choice { user: users.len(), anchor: wanted.anchor, window, taken: Vec::new() });
            }
            users.push((user, groups));
            if choices.len() >= ANCHORS_READ || choices.is_empty() {
                break;
            }
        }
        take_texts(self.users.source(), &users, &mut choices, self.options.per_positive)?;
        let mut choices = choices.into_iter().peekable();
        for (number, (user, groups)) in users.into_iter().enumerate() {
            let mut mined = HashMap::new();
            while let Some(choice) = choices.next_if(|choice| choice.user == number) {
                mined.insert(choice.anchor, choice.taken);
            }
            let user = Rc::new(user);
            for group in groups {
                let texts = mined.get(&group.anchor).map_or(&[][..], Vec::as_slice);
                let mined = texts.iter().take(group.missing).cloned().collect();
                self.ready.push_back(Triplets { user: user.clone(), group, mined });
            }
        }
        Ok(())
    }
}

/// The window of one anchor and what was taken from it.
struct Choice {
    user: usize,
    anchor: usize,
    window: std::vec::IntoIter<Candidate>,
    taken: Vec<Rc<MinedText>>,
}

/// Takes the first texts of every window that are no save of the user in other words; each round reads as many texts
/// as are still missing, and then four times as many.
fn take_texts(
    source: &Source,
    users: &[(User, Vec<Group>)],
    choices: &mut [Choice],
    wanted: usize,
) -> Result<(), UserError> {
    let mut reserve = 1;
    loop {
        check_for_interrupts!();
        let round: Vec<(usize, Vec<Candidate>)> = (choices.iter_mut().enumerate())
            .filter(|(_, choice)| choice.taken.len() < wanted && choice.window.len() > 0)
            .map(|(i, choice)| (i, choice.window.by_ref().take(reserve * (wanted - choice.taken.len())).collect()))
            .collect();
        if round.is_empty() {
            return Ok(());
        }
        let texts = read_texts(source, round.iter().flat_map(|(_, some)| some).map(|c| &c.place))?;
        for (i, some) in round {
            let choice = &mut choices[i];
            let found = some.iter().filter_map(|c| texts.get(&c.place.hash));
            let good = found.filter(|text| users[choice.user].0.may_be_negative(&text.vector));
            choice.taken.extend(good.take(wanted - choice.taken.len()).cloned());
        }
        reserve = 4;
    }
}

type Texts = HashMap<[u8; 32], Rc<MinedText>>;

/// Texts without a visible character are left out: they are no negatives.
fn read_texts<'a>(source: &Source, places: impl Iterator<Item = &'a Arc<Place>>) -> Result<Texts, UserError> {
    let distinct: HashMap<_, _> = places.map(|place| (place.hash, place)).collect();
    if distinct.is_empty() {
        return Ok(Texts::new());
    }
    let of = |key: &dyn Fn(&Place) -> &str| distinct.values().map(|p| key(p).to_owned()).collect::<Vec<String>>();
    let query = format!(
        "SELECT e.content_hash, e.id, e.chunk_content, e.embedding \
         FROM ROWS FROM (pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.text[])) k (user_id, id) \
         CROSS JOIN LATERAL (SELECT x.content_hash, x.id, x.chunk_content, x.embedding FROM {}.dataset_example x \
                             WHERE x.user_id OPERATOR(pg_catalog.=) k.user_id AND x.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid \
                               AND x.id OPERATOR(pg_catalog.=) k.id OFFSET 0) e",
        source.schema
    );
    let args = [source.dataset.as_str().into(), of(&|p| &p.user_id).into(), of(&|p| &p.id).into()];
    let rows: Vec<(Option<[u8; 32]>, MinedText)> = source.rows(&query, &args, |row| {
        let text = |column| row.text(column).unwrap_or_default().into();
        let hash = row.bytes(1).and_then(|hash| hash.try_into().ok());
        (hash, MinedText { id: text(2), text: text(3), vector: unit_vector(row.vector(4)) })
    })?;
    let visible = rows.into_iter().filter_map(|(hash, mined)| Some((hash?, mined)));
    let visible = visible.filter(|(hash, mined)| !mined.text.trim().is_empty() && source.shows(hash));
    Ok(visible.map(|(hash, mined)| (hash, Rc::new(mined))).collect())
}
