//! C side of sql/capture.sql: the triggers of captured tables, and the quick way for the signals that need no judgement.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::api::profile_upkeep;
use crate::pg::catalog::is_trusted;
use crate::pg::errors::UserError;
use crate::pg::own_table::{self, OwnTable, Patience, Place, Setting};
use crate::pg::point_triggers;
use crate::pg::saved_plans::{Plan, Planning, Rows};
use crate::pg::spi::{own_schema, own_table};
use crate::pg::triggers::{self, Operation};
use crate::pg::{relcache, settings, statement};

/// CHECKs that the log and the data points are made with.
const CHECKS: [u16; 2] = [3, 2];
/// Columns of _known_signals_statement(): key, places in log and data points, whether something changed; then what to set.
const FIRST_SETTING: i32 = 5;

/// How many keys a statement is for. Up to ten a plan is kept; beyond, the number of keys decides how tables are joined.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Crowd {
    One,
    Few,
    Many,
}

impl Crowd {
    fn of(keys: &[String]) -> Self {
        match keys.len() {
            1 => Self::One,
            2..=10 => Self::Few,
            _ => Self::Many,
        }
    }
}

/// How to read capture_source, and what is kept of each source that this backend has written to.
struct Kept {
    /// The function of this installation of the extension: another one means other tables.
    installation: pg_sys::Oid,
    schema: String,
    /// capture_source, and its generation when rows of it were looked up last.
    table: pg_sys::Oid,
    generation: u64,
    log: pg_sys::Oid,
    points: pg_sys::Oid,
    look_up: Plan,
    rows: HashMap<String, Row>,
    sources: HashMap<(String, Operation, Crowd), Known>,
}

/// Version, table and view of a row of capture_source.
type Row = Vec<Option<String>>;

/// A plan, and the version of the source's row that it was made for. A view that was renamed makes the plan invalid.
struct Known {
    row: Row,
    plan: Plan,
}

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
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

/// AFTER STATEMENT on capture_source: every backend looks its rows up anew after this transaction.
#[pg_extern(sql = false)]
fn capture_source_changed(fcinfo: pg_sys::FunctionCallInfo) -> Result<i64, ErrorReport> {
    relcache::invalidate(triggers::relation(fcinfo)?);
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
    let Some(found) = kept.row(source) else { return Ok(None) };
    let [.., Some(relation), Some(via)] = found.as_slice() else { return Ok(None) };
    if !is_trusted(relation) || !is_trusted(via) {
        return Ok(None);
    }
    let crowd = Crowd::of(keys);
    let place = (source.to_owned(), operation, crowd);
    if kept.sources.get(&place).is_none_or(|known| known.row != found || !known.plan.is_valid()) {
        let plan = kept.plan(source, operation, crowd)?;
        kept.sources.insert(place.clone(), Known { row: found, plan });
    }
    let Some(known) = kept.sources.get_mut(&place) else { return Ok(None) };
    let (Some(keys), Some(limit)) = (keys.to_vec().into_datum(), settings::MAX_CHUNK_BYTES.get().into_datum()) else {
        return Ok(None);
    };
    let mut values = [keys, limit];
    match operation {
        Operation::Update => {
            let [Some(log), Some(points)] = [
                OwnTable::open(kept.log, CHECKS[0], &[]),
                OwnTable::open(kept.points, CHECKS[1], &[c"profile_note", c"profile_write", c"profile_truncate"]),
            ] else {
                return Ok(None);
            };
            let is_unclear = |rows: &Rows| crowd == Crowd::One && rows.count() > 1;
            let done = known.plan.read(&mut values, |rows| (!is_unclear(rows)).then(|| act(rows, &log, &points)));
            done.flatten().transpose()
        }
        _ => Ok(Some(known.plan.run(&mut values).into_iter().filter_map(|mut row| row.pop().flatten()).collect())),
    }
}

/// Writes new actions to the log and the data points: what _known_signals_statement() has found, in its order.
fn act(rows: &Rows, log: &OwnTable, points: &OwnTable) -> Result<Vec<String>, UserError> {
    let columns: Vec<(i32, [i32; 2])> = (FIRST_SETTING..=rows.columns())
        .map(|column| (column, [log, points].map(|table| table.column(&rows.name(column)))))
        .collect();
    let settings = |row: usize, table: usize| -> Vec<Setting> {
        let known = columns.iter().filter(|(_, numbers)| numbers[table] > 0);
        known.map(|(column, numbers)| (numbers[table], rows.value(row, *column))).collect()
    };
    let mut done = Vec::with_capacity(rows.count());
    for row in 0..rows.count() {
        pgrx::check_for_interrupts!();
        let (Some(key), Some(logged), Some(point)) = (rows.text(row, 1), rows.value(row, 2), rows.value(row, 3)) else {
            continue;
        };
        let mut noted = Ok(());
        // A row that somebody else has changed meanwhile is no longer at its place: its key goes the other way.
        let is_done = rows.value(row, 4).is_none()
            || log.update(Place::of(logged), &settings(row, 0), Patience::Wait, |_, _| {})
                && points.update(Place::of(point), &settings(row, 1), Patience::Wait, |old, new| {
                    noted = profile_upkeep::note(point_triggers::steps(old, new));
                });
        noted?;
        if is_done {
            done.push(key);
        }
    }
    own_table::next_command();
    profile_upkeep::write()?;
    Ok(done)
}

impl Kept {
    fn new(installation: pg_sys::Oid) -> Result<Self, UserError> {
        let schema = own_schema().ok_or_else(|| UserError::unknown("extension \"pg_finetune\" is not installed"))?;
        let query = format!(
            "SELECT c.xmin, c.ctid, c.relation::pg_catalog.oid, c.via::pg_catalog.oid \
             FROM {schema}.capture_source c WHERE c.name OPERATOR(pg_catalog.=) $1"
        );
        let look_up = Plan::new(&query, &[pg_sys::TEXTOID], Planning::Once)?;
        let [Some(table), Some(log), Some(points)] =
            [c"capture_source", c"model_performance_log", c"training_data_point"].map(own_table)
        else {
            return Err(UserError::unknown("a table of pg_finetune is gone"));
        };
        let (rows, sources) = (HashMap::new(), HashMap::new());
        Ok(Self { installation, schema, table, generation: 0, log, points, look_up, rows, sources })
    }

    /// The row of a source, looked up again when the table may have changed.
    fn row(&mut self, source: &str) -> Option<Row> {
        let generation = relcache::generation(self.table);
        if self.generation != generation {
            self.generation = generation;
            self.rows.clear();
        }
        if let Some(row) = self.rows.get(source) {
            return Some(row.clone());
        }
        let row = self.look_up.run(&mut [source.into_datum()?]).pop()?;
        if statement::sees_what_is_committed() {
            self.rows.insert(source.to_owned(), row.clone());
        }
        Some(row)
    }

    fn plan(&self, source: &str, operation: Operation, crowd: Crowd) -> Result<Plan, UserError> {
        let query = format!("SELECT {}._capture_statement($1, $2, $3)", self.schema);
        let text = Spi::get_one_with_args::<String>(
            &query,
            &[source.into(), operation.name().into(), (crowd == Crowd::One).into()],
        )?
        .ok_or_else(|| UserError::unknown(format!("capture source \"{source}\" does not exist")))?;
        let planning = if crowd == Crowd::Many { Planning::EachTime } else { Planning::Once };
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
