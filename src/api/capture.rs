//! C side of sql/capture.sql: the triggers of captured tables, and the quick way for the signals that need no judgement.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::catalog::is_trusted;
use crate::pg::errors::UserError;
use crate::pg::saved_plans::{Plan, Planning};
use crate::pg::settings;
use crate::pg::spi::own_schema;
use crate::pg::triggers::{self, Operation};

/// Up to this many keys a plan is kept; beyond, the number of keys decides how tables are joined.
const FEW: usize = 10;
/// Small statements between two looks whether a profile has many rows by now.
const FOLD_EVERY: u32 = 8;

/// How to read capture_source, and what is kept of each source that this backend has written to.
struct Kept {
    /// The function of this installation of the extension: another one means other tables.
    installation: pg_sys::Oid,
    schema: String,
    look_up: Plan,
    fold: Plan,
    /// Statements since somebody's profile was last looked at.
    unfolded: u32,
    sources: HashMap<(String, Operation, bool), Known>,
}

/// A plan, and the version of the source's row that it was made for. A view that was renamed makes the plan invalid.
struct Known {
    row: Vec<Option<String>>,
    plan: Plan,
}

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
    /// Whether the statement that runs adds to profiles by itself.
    static KEEPS_PROFILES: Cell<bool> = const { Cell::new(false) };
}

#[pg_extern(sql = false)]
fn capture_note(fcinfo: pg_sys::FunctionCallInfo) -> Result<i64, ErrorReport> {
    triggers::note(fcinfo)?;
    Ok(0)
}

#[pg_extern(sql = false)]
fn capture_statement_end(fcinfo: pg_sys::FunctionCallInfo) -> Result<i64, ErrorReport> {
    triggers::end_of_statement(fcinfo)?;
    Ok(0)
}

/// INSERT, UPDATE or DELETE while keys are handed over; NULL in any other call.
#[pg_extern(sql = false, stable)]
fn capture_operation() -> Option<&'static str> {
    triggers::handed_over(|batch| batch.operation.name())
}

/// The keys that are handed over.
#[pg_extern(sql = false, stable)]
fn capture_keys() -> Option<Vec<String>> {
    triggers::handed_over(|batch| batch.keys.clone())
}

#[pg_extern(sql = false, stable, parallel_safe)]
fn max_chunk_bytes() -> i32 {
    settings::MAX_CHUNK_BYTES.get()
}

/// Captures what one statement can: new impressions, and new actions on known ones. Returns the keys of all others.
#[pg_extern(sql = false)]
fn capture_known(source: &str, fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<Vec<String>>, ErrorReport> {
    let Some((operation, keys, lost_key)) =
        triggers::handed_over(|batch| (batch.operation, distinct(&batch.keys), batch.lost_key.clone()))
    else {
        return Ok(None);
    };
    if let Some((column, table)) = lost_key {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{column}\" of \"{table}\" is gone"),
        )
        .detail("It was the key of the table when the capture was attached.")
        .hint("Rename it back, or stop_capturing() and attach anew; then backfill_signals().")
        .into());
    }
    if operation == Operation::Delete || keys.is_empty() {
        return Ok((!keys.is_empty()).then_some(keys));
    }
    let installation = crate::pg::catalog::called_function(fcinfo);
    // Taken out while in use: a view or a trigger may write to another captured table meanwhile.
    let mut kept = PutBack(KEPT.take());
    let done = Spi::connect_mut(|_| capture(&mut kept.0, installation, source, operation, &keys))?;
    Ok(match done {
        Some(done) if done.len() == keys.len() => None,
        Some(done) => {
            let done: HashSet<String> = done.into_iter().collect();
            Some(keys.into_iter().filter(|key| !done.contains(key)).collect())
        }
        None => Some(keys),
    })
}

struct PutBack(Option<Kept>);

impl Drop for PutBack {
    fn drop(&mut self) {
        KEPT.set(self.0.take());
    }
}

/// The keys captured; None when the slow way has to say what is wrong.
fn capture(
    kept: &mut Option<Kept>,
    installation: pg_sys::Oid,
    source: &str,
    operation: Operation,
    keys: &[String],
) -> Result<Option<Vec<String>>, UserError> {
    if kept.as_ref().is_none_or(|kept| kept.installation != installation) {
        *kept = Some(Kept::new(installation)?);
    }
    let Some(kept) = kept else { return Ok(None) };
    let Some(name) = source.into_datum() else { return Ok(None) };
    let Some(found) = kept.look_up.run(&mut [name]).pop() else { return Ok(None) };
    let [.., Some(relation), Some(via)] = found.as_slice() else { return Ok(None) };
    if !is_trusted(relation) || !is_trusted(via) {
        return Ok(None);
    }
    let few = keys.len() <= FEW;
    let place = (source.to_owned(), operation, few);
    if kept.sources.get(&place).is_none_or(|known| known.row != found || !known.plan.is_valid()) {
        let plan = kept.plan(source, operation, few)?;
        kept.sources.insert(place.clone(), Known { row: found, plan });
    }
    let Some(known) = kept.sources.get_mut(&place) else { return Ok(None) };
    let (Some(keys), Some(limit)) = (keys.to_vec().into_datum(), settings::MAX_CHUNK_BYTES.get().into_datum()) else {
        return Ok(None);
    };
    let rows = {
        let _keeping = KeepsProfiles::new(operation == Operation::Update);
        known.plan.run(&mut [keys, limit])
    };
    let mut done = Vec::with_capacity(rows.len());
    let mut users = HashSet::new();
    for mut row in rows {
        users.extend(row.drain(1..).flatten());
        done.extend(row.pop().flatten());
    }
    kept.fold_profiles(users, few);
    Ok(Some(done))
}

/// Says so while it lives.
struct KeepsProfiles(bool);

impl KeepsProfiles {
    fn new(keeps: bool) -> Self {
        Self(KEEPS_PROFILES.replace(keeps))
    }
}

impl Drop for KeepsProfiles {
    fn drop(&mut self) {
        KEEPS_PROFILES.set(self.0);
    }
}

#[pg_extern(sql = false, stable)]
fn keeps_profiles() -> bool {
    KEEPS_PROFILES.get()
}

impl Kept {
    fn new(installation: pg_sys::Oid) -> Result<Self, UserError> {
        let schema = own_schema().ok_or_else(|| UserError::unknown("extension \"pg_finetune\" is not installed"))?;
        let query = format!(
            "SELECT c.xmin, c.ctid, c.relation::pg_catalog.oid, c.via::pg_catalog.oid \
             FROM {schema}.capture_source c WHERE c.name OPERATOR(pg_catalog.=) $1"
        );
        let look_up = Plan::new(&query, &[pg_sys::TEXTOID], Planning::Once)?;
        let fold = Plan::new(&format!("SELECT {schema}._fold_profiles($1)"), &[pg_sys::TEXTARRAYOID], Planning::Once)?;
        Ok(Self { installation, schema, look_up, fold, unfolded: 0, sources: HashMap::new() })
    }

    /// Each statement adds a row per user and action; many rows of one user are made one, not at every small statement.
    fn fold_profiles(&mut self, users: HashSet<String>, few: bool) {
        self.unfolded += 1;
        if users.is_empty() || few && self.unfolded < FOLD_EVERY {
            return;
        }
        self.unfolded = 0;
        if let Some(users) = users.into_iter().collect::<Vec<_>>().into_datum() {
            self.fold.run(&mut [users]);
        }
    }

    fn plan(&self, source: &str, operation: Operation, few: bool) -> Result<Plan, UserError> {
        let query = format!("SELECT {}._capture_statement($1, $2)", self.schema);
        let text = Spi::get_one_with_args::<String>(&query, &[source.into(), operation.name().into()])?
            .ok_or_else(|| UserError::unknown(format!("capture source \"{source}\" does not exist")))?;
        let planning = if few { Planning::Once } else { Planning::EachTime };
        Plan::new(&text, &[pg_sys::TEXTARRAYOID, pg_sys::INT4OID], planning)
    }
}

fn distinct(keys: &[String]) -> Vec<String> {
    if keys.len() == 1 {
        return keys.to_vec();
    }
    let mut seen = HashSet::with_capacity(keys.len());
    keys.iter().filter(|key| seen.insert(key.as_str())).cloned().collect()
}
