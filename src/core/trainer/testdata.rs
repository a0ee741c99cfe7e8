//! Data for the tests: synthetic feedback with and without a signal, and real feedback where it is at hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};

use super::evaluate::{average, measure_queries};
use super::input::Data;
use super::panel::{Member, Panel};
use super::progress::Unobserved;
use super::progress::Watch;
use super::{rng, Adapter, Event, Input, Split};

pub const DIM: usize = 16;

/// How much of what synthetic users save follows from a taste that the plain mean cannot see.
#[derive(Clone, Copy)]
pub enum Signal {
    Planted,
    None,
}

fn gaussian(rng: &mut impl Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random::<f64>().max(1e-12), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Fourteen loud dimensions that nobody cares about and two quiet ones that decide.
pub fn synthetic(users: usize, signal: Signal, seed: i64) -> Input {
    let mut rng = rng::stream(seed, "synthetic");
    let (items, shown) = (1200, 40);
    let loud = |d: usize| if d < DIM - 2 { 1.0 } else { 0.5 };
    let mut input = Input {
        dim: DIM,
        items: (0..items * DIM).map(|i| (loud(i % DIM) * gaussian(&mut rng) + 0.3) as f32).collect(),
        item_keys: (0..items).map(|i| format!("item {i:05}")).collect(),
        user_names: (0..users).map(|i| format!("user {i:05}")).collect(),
        ..Input::default()
    };
    let all: Vec<u32> = (0..items as u32).collect();
    for user in 0..users as u32 {
        let taste = [gaussian(&mut rng), gaussian(&mut rng)];
        for (at, &item) in all.sample(&mut rng, shown).enumerate() {
            let decisive = &input.items[(item as usize + 1) * DIM - 2..][..2];
            let liking: f64 = decisive.iter().zip(taste).map(|(&v, t)| (f64::from(v) - 0.3) * t).sum();
            let saved = match signal {
                Signal::Planted => liking > 0.0,
                Signal::None => rng.random(),
            };
            let split = if at < shown * 3 / 4 { Split::Train } else { Split::Test };
            input.events.push(Event { user, item, saved, split, surface: 1, at: at as i64, weight: 1.0, query: None });
        }
    }
    input
}

/// Users who type five questions each, and save of what they are shown for one what goes with its quiet dimensions.
pub fn asking(users: usize, signal: Signal, seed: i64) -> Input {
    let mut input = synthetic(users, Signal::None, seed);
    let mut rng = rng::stream(seed, "asking");
    let questions = users * 5;
    input.queries.numbers = (0..questions * DIM).map(|_| gaussian(&mut rng) as f32).collect();
    input.queries.keys = (0..questions).map(|i| format!("question {i:05}")).collect();
    for (index, event) in input.events.iter_mut().enumerate() {
        let query = index / 8;
        event.query = Some(query as u32);
        if matches!(signal, Signal::Planted) {
            let quiet = |vectors: &[f32], row: usize| [vectors[(row + 1) * DIM - 2], vectors[(row + 1) * DIM - 1]];
            let (item, asked) = (quiet(&input.items, event.item as usize), quiet(&input.queries.numbers, query));
            event.saved = (item[0] - 0.3) * asked[0] + (item[1] - 0.3) * asked[1] > 0.0;
        }
    }
    input
}

/// One of the real data sets; `part` = train is the past, test the future.
pub struct Real {
    past: Input,
    all: Input,
}

/// Mean AUC, save rate of the top ten and false suggestions over users.
#[derive(Debug, Clone, Copy)]
pub struct Truth {
    pub auc: f64,
    pub save_rate_10: f64,
    pub fpr_50: f64,
}

impl Real {
    /// `None`, with a word on the test's output, where the data set is not at hand.
    pub fn load(name: &str) -> Option<Self> {
        let shared = std::env::var_os("PG_FINETUNE_SHARED")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
        let folder = shared.join("data/feedback").join(name);
        if !folder.is_dir() {
            eprintln!("skipped: 1 test on data set {name}, which is not at {}", folder.display());
            return None;
        }
        let (dim, items) = read_npy(&folder.join("embeddings.f16.npy"));
        let gzip = Command::new("gzip").arg("-dc").arg(folder.join("actions.csv.gz")).output().expect("gzip");
        let actions = String::from_utf8(gzip.stdout).expect("actions");
        let item_keys = (0..items.len() / dim).map(|i| format!("{i:06}")).collect();
        let mut all = Input { dim, items, item_keys, ..Input::default() };
        let mut users: BTreeMap<&str, u32> = BTreeMap::new();
        for line in actions.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let next = users.len() as u32;
            let user = *users.entry(fields[0]).or_insert(next);
            all.events.push(Event {
                user,
                item: fields[1].parse().expect("item"),
                saved: fields[2] == "saved",
                at: fields[3].replace('-', "").parse().unwrap_or(0),
                split: if fields[4] == "train" { Split::Train } else { Split::Test },
                surface: 0,
                weight: 1.0,
                query: None,
            });
        }
        all.user_names = vec![String::new(); users.len()];
        users.iter().for_each(|(name, &index)| all.user_names[index as usize] = (*name).to_owned());
        let mut past = all.clone();
        past.events.retain(|e| e.split == Split::Train);
        Some(Self { past, all })
    }

    /// The past alone, its last 30 % of each user's saved (by time) and skipped (by chance) as the test part.
    pub fn past(&self, seed: i64) -> Input {
        let mut past = self.past.clone();
        past.events.shuffle(&mut rng::stream(seed, "past"));
        past.events.sort_by_key(|e| (e.user, e.saved, if e.saved { e.at } else { 0 }));
        for kind in past.events.chunk_by_mut(|a, b| (a.user, a.saved) == (b.user, b.saved)) {
            let first = kind.len() * 7 / 10;
            kind[first..].iter_mut().for_each(|e| e.split = Split::Test);
        }
        past
    }

    /// On the future of all users, with profiles from the past.
    pub fn truth(&self, adapter: &Adapter) -> Truth {
        let mut observer = Unobserved;
        let watch = &mut Watch::new(&mut observer, None);
        let data = Data::new(self.all.clone(), 0, watch).expect("data");
        let two = |m: &Member, saved| m.lists[0].saved.iter().filter(|&&s| s == saved).count() >= 2;
        let enough = |m: &Member| two(m, true) && two(m, false);
        let members = data.users.iter().enumerate().filter_map(|(i, user)| Member::newest(i, user, 3)).filter(enough);
        let panel = Panel::new(members.collect(), &data.users, &data.items, watch).expect("panel");
        let queries = panel.queries(adapter, watch).expect("queries");
        let measures = measure_queries(&panel, &data.items, &queries, watch).expect("measures");
        Truth {
            auc: average(&measures, |m| m.auc),
            save_rate_10: average(&measures, |m| m.save_rate_10),
            fpr_50: average(&measures, |m| m.fpr_50),
        }
    }
}

/// Shape and numbers of a two-dimensional little-endian half-precision array.
fn read_npy(path: &Path) -> (usize, Vec<f32>) {
    let bytes = std::fs::read(path).expect("vectors");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = String::from_utf8_lossy(&bytes[10..header]).into_owned();
    assert!(text.contains("'<f2'") && text.contains("False"), "{text}");
    let dim = text.split("'shape': (").nth(1).and_then(|s| s.split([',', ')']).nth(1)).expect("shape");
    let numbers = bytes[header..].chunks_exact(2).map(|b| half(u16::from_le_bytes([b[0], b[1]])));
    (dim.trim().parse().expect("columns"), numbers.collect())
}

fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let size = if exponent == 0 {
        fraction / 1024.0 * 2f32.powi(-14)
    } else {
        (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15)
    };
    if sign == 1 {
        -size
    } else {
        size
    }
}
