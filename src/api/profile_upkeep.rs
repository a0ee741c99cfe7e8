//! Profiles follow the data points: C side of the triggers in sql/profile.sql. Each written row adds to tallies in memory;
//! at the end of the statement, or when there are many, each is added to the user's row of user_profile.

use std::cell::RefCell;
use std::collections::btree_map::{BTreeMap, Entry};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::core::profile;
use crate::pg::errors::UserError;
use crate::pg::own_table::{self, OwnTable, Patience, Place, Row};
use crate::pg::point_triggers::{self, Ending, Step};
use crate::pg::spi::{own_schema, own_table};
use crate::pg::statement;

/// Bytes of tallies that are kept in memory at most.
const MANY: usize = 16 << 20;

/// A sum of vectors and how many they are.
struct Tally {
    points: i64,
    total: Vec<u8>,
}

impl Tally {
    fn is_nothing(&self) -> bool {
        self.points == 0 && self.total.iter().all(|&byte| byte == 0)
    }
}

/// User, action, dimensions.
type Sum = (String, String, usize);

/// Tallies of a savepoint: they go if it is undone.
struct Level {
    savepoint: u32,
    tallies: BTreeMap<Sum, Tally>,
}

/// A row of user_profile.
struct Stored {
    place: Place,
    action: String,
    dimensions: i32,
    tally: Tally,
}

thread_local! {
    static LEVELS: RefCell<Vec<Level>> = const { RefCell::new(Vec::new()) };
}

/// AFTER ROW: adds what changed to the tallies.
#[pg_extern(sql = false)]
fn profile_note(fcinfo: pg_sys::FunctionCallInfo) -> Result<i64, ErrorReport> {
    note(point_triggers::steps_of_trigger(fcinfo)?)?;
    Ok(0)
}

/// AFTER STATEMENT: the tallies go to the table.
#[pg_extern(sql = false)]
fn profile_write(_fcinfo: pg_sys::FunctionCallInfo) -> Result<i64, ErrorReport> {
    write()?;
    Ok(0)
}

/// Adds steps to the tallies.
pub fn note(steps: [Option<Step>; 2]) -> Result<(), UserError> {
    let mut are_many = false;
    for step in steps.into_iter().flatten() {
        are_many |= tally(step) >= MANY;
    }
    if are_many {
        write()?;
    }
    Ok(())
}

/// How many bytes the tallies have now.
fn tally(Step { user, action, vector, sign }: Step) -> usize {
    point_triggers::watch(transaction_ends);
    let vector = vector.as_slice();
    if vector.iter().all(|&v| v == 0.0) {
        return 0; // it has no direction
    }
    let savepoint = point_triggers::savepoint();
    LEVELS.with_borrow_mut(|levels| {
        if levels.last().is_none_or(|level| level.savepoint != savepoint) {
            levels.push(Level { savepoint, tallies: BTreeMap::new() });
        }
        let Some(Level { tallies, .. }) = levels.last_mut() else { return 0 };
        let tally_size = vector.len() * size_of::<i64>();
        let tally = match tallies.entry((user, action, vector.len())) {
            Entry::Vacant(place) => place.insert(Tally { points: 0, total: Vec::new() }),
            Entry::Occupied(place) => place.into_mut(),
        };
        tally.points += sign;
        tally.total = profile::add(std::mem::take(&mut tally.total), vector, sign).unwrap_or_default();
        tallies.len() * tally_size
    })
}

/// What was not written yet goes with a savepoint that is undone. Applied changes fire no statement trigger.
fn transaction_ends(ending: Ending) {
    match ending {
        Ending::AboutToCommit if LEVELS.with_borrow(Vec::is_empty) => {}
        Ending::AboutToCommit => {
            if let Err(error) = statement::with_snapshot(write) {
                ErrorReport::from(error).report(PgLogLevel::ERROR);
            }
        }
        Ending::All => LEVELS.with_borrow_mut(Vec::clear),
        Ending::Undone { id } => LEVELS.with_borrow_mut(|levels| levels.retain(|level| level.savepoint != id)),
        Ending::Kept { id, parent } => LEVELS.with_borrow_mut(|levels| {
            levels.iter_mut().filter(|level| level.savepoint == id).for_each(|level| level.savepoint = parent);
        }),
    }
}

/// Writes the tallies of the savepoint that is open; those of outer ones belong to statements that are not through.
pub fn write() -> Result<(), UserError> {
    if LEVELS.with_borrow(Vec::is_empty) {
        return Ok(());
    }
    let savepoint = point_triggers::savepoint();
    let levels: Vec<Level> =
        LEVELS.with_borrow_mut(|levels| levels.extract_if(.., |level| level.savepoint == savepoint).collect());
    let profiles = own_table(c"user_profile").and_then(|table| OwnTable::open(table, 0, &[]));
    for Level { tallies, .. } in levels {
        match &profiles {
            Some(profiles) => add_below_the_executor(profiles, tallies),
            None => add_by_statements(tallies)?,
        }
    }
    Ok(())
}

/// One row per sum is the rule. A writer never waits: where somebody else holds that row, another one is added, and whoever
/// comes next makes one of them.
fn add_below_the_executor(profiles: &OwnTable, tallies: BTreeMap<Sum, Tally>) {
    let (mut owner, mut stored) = (None, Vec::new());
    for ((user, action, dimensions), mut tally) in tallies {
        pgrx::check_for_interrupts!();
        let dimensions = dimensions as i32;
        if owner.as_ref() != Some(&user) {
            stored = rows_of(profiles, &user);
            owner = Some(user.clone());
        }
        let mut fitting = stored.iter().filter(|row| row.action == action && row.dimensions == dimensions);
        let first = fitting.next();
        for surplus in fitting.filter(|row| profiles.delete(row.place)) {
            tally = sum(&tally, &surplus.tally);
        }
        if tally.is_nothing() {
            continue;
        }
        let is_added = first.is_some_and(|row| {
            let whole = sum(&tally, &row.tally);
            if whole.is_nothing() {
                return profiles.delete(row.place);
            }
            let Tally { points, total } = whole;
            let set = [(c"points", points.into_datum()), (c"total", total.into_datum())];
            let set = set.map(|(name, value)| (profiles.column(name), value));
            profiles.update(row.place, &set, Patience::Leave, |_, _| {})
        });
        if !is_added {
            let set = [
                (c"user_id", user.into_datum()),
                (c"id", Some(own_table::random_uuid())),
                (c"user_action", action.into_datum()),
                (c"dimensions", dimensions.into_datum()),
                (c"points", tally.points.into_datum()),
                (c"total", tally.total.into_datum()),
            ];
            profiles.insert(&set.map(|(name, value)| (profiles.column(name), value)));
        }
    }
    own_table::next_command();
}

fn rows_of(profiles: &OwnTable, user: &str) -> Vec<Stored> {
    let mut rows = Vec::new();
    let mut see = |row: &Row| {
        let tally = Tally { points: row.get(c"points")?, total: row.get(c"total")? };
        let (action, dimensions) = (row.get(c"user_action")?, row.get(c"dimensions")?);
        rows.push(Stored { place: row.place(), action, dimensions, tally });
        Some(())
    };
    if let Some(user) = user.into_datum() {
        profiles.of_user(user, |row| {
            see(row);
        });
    }
    rows
}

fn sum(one: &Tally, other: &Tally) -> Tally {
    let total = profile::merge(one.total.clone(), &other.total).unwrap_or_default();
    Tally { points: one.points + other.points, total }
}

/// For a table that is no longer as it was made: distributed, with triggers or constraints of somebody's own.
fn add_by_statements(tallies: BTreeMap<Sum, Tally>) -> Result<(), UserError> {
    let schema = own_schema().ok_or_else(|| UserError::unknown("extension \"pg_finetune\" is not installed"))?;
    let query = format!("SELECT {schema}._add_to_profile($1, $2, $3, $4, $5)");
    for ((user, action, dimensions), Tally { points, total }) in tallies {
        let values = [user.into(), action.into(), (dimensions as i32).into(), points.into(), total.into()];
        Spi::run_with_args(&query, &values)?;
    }
    Ok(())
}
