//! Triggers of captured tables: the keys of written rows are noted one by one, and handed over once per statement to
//! the function that runs as whoever attached the table. An UPDATE of other columns than the mapping's fires nothing.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};

use pgrx::prelude::*;

use super::errors::UserError;

/// Keys handed over at a time: bounds memory, whatever the size of the statement.
const BATCH: usize = 10_000;
/// Every captured table and partition has this trigger; its function is the one generated for the source.
const HOME_TRIGGER: &CStr = c"pg_finetune_truncate";

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::Insert => "INSERT",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        }
    }
}

/// Rows of one source that were written and are not yet captured.
pub struct Batch {
    source: CString,
    /// A relation that carries `HOME_TRIGGER`; invalid when the capture was torn down half-way.
    home: pg_sys::Oid,
    pub operation: Operation,
    pub keys: Vec<String>,
    /// The key column and the table that has no such column any more.
    pub lost_key: Option<(String, String)>,
}

thread_local! {
    static NOTED: RefCell<Vec<Batch>> = const { RefCell::new(Vec::new()) };
    /// The batch that the generated function is working on.
    static HANDED_OVER: RefCell<Option<Batch>> = const { RefCell::new(None) };
    static WATCHING: Cell<bool> = const { Cell::new(false) };
}

/// What the running generated function was called for; None when it is a TRUNCATE, or nobody's call.
pub fn handed_over<T>(look: impl FnOnce(&Batch) -> T) -> Option<T> {
    HANDED_OVER.with_borrow(|batch| batch.as_ref().map(look))
}

/// The table whose trigger fires.
pub fn relation(fcinfo: pg_sys::FunctionCallInfo) -> Result<pg_sys::Oid, UserError> {
    // SAFETY: a trigger's context is its TriggerData, whose relation is open during the call.
    unsafe { Ok((*trigger_data(fcinfo)?.tg_relation).rd_id) }
}

/// AFTER ROW: notes the key of the row, and at an UPDATE that changed it the old one too.
pub fn note(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), UserError> {
    // SAFETY: a trigger's context is its TriggerData, whose relation, trigger and tuples live during the call.
    let full = unsafe {
        let data = trigger_data(fcinfo)?;
        let trigger = &*data.tg_trigger;
        if trigger.tgnargs != 2 || data.tg_event & pg_sys::TRIGGER_EVENT_ROW == 0 {
            return Err(misplaced());
        }
        let source = CStr::from_ptr(*trigger.tgargs);
        let key = CStr::from_ptr(*trigger.tgargs.add(1));
        let descriptor = (*data.tg_relation).rd_att;
        let (operation, rows) = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => (Operation::Insert, [data.tg_trigtuple, std::ptr::null_mut()]),
            pg_sys::TRIGGER_EVENT_DELETE => (Operation::Delete, [data.tg_trigtuple, std::ptr::null_mut()]),
            _ if unchanged(data, trigger) => return Ok(()),
            _ => (Operation::Update, [data.tg_newtuple, data.tg_trigtuple]),
        };
        let column = pg_sys::SPI_fnumber(descriptor, key.as_ptr());
        let mut keys = [None, None];
        if column > 0 {
            for (key, row) in keys.iter_mut().zip(rows).filter(|(_, row)| !row.is_null()) {
                *key = text_of(row, descriptor, column);
            }
        }
        if keys[0] == keys[1] {
            keys[1] = None;
        }
        let known = NOTED.with_borrow(|noted| position(noted, source, operation));
        let place = match known {
            Some(place) => place,
            None => open_batch(source, operation, data.tg_relation),
        };
        NOTED
            .with_borrow_mut(|noted| {
                let batch = &mut noted[place];
                if column <= 0 && batch.lost_key.is_none() {
                    let table = CStr::from_ptr((*(*data.tg_relation).rd_rel).relname.data.as_ptr());
                    batch.lost_key = Some((key.to_string_lossy().into(), table.to_string_lossy().into()));
                }
                batch.keys.extend(keys.into_iter().flatten());
                (batch.keys.len() >= BATCH).then(|| noted.swap_remove(place))
            })
            .map(|batch| (batch, data.tg_relation))
    };
    if let Some((batch, relation)) = full {
        hand_over(batch, Some(relation));
    }
    Ok(())
}

/// AFTER STATEMENT: hands over what was noted.
pub fn end_of_statement(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), UserError> {
    // SAFETY: as in note().
    let relation = unsafe { trigger_data(fcinfo)?.tg_relation };
    hand_over_all(Some(relation));
    Ok(())
}

/// Statements on a partition that was attached later, and the apply worker, fire no statement trigger of ours: what they
/// left is handed over at the end of their transaction.
fn hand_over_all(current: Option<pg_sys::Relation>) {
    while let Some(batch) = NOTED.with_borrow_mut(Vec::pop) {
        hand_over(batch, current);
    }
}

fn position(noted: &[Batch], source: &CStr, operation: Operation) -> Option<usize> {
    noted.iter().position(|batch| batch.operation == operation && batch.source.as_c_str() == source)
}

pub(super) unsafe fn trigger_data<'a>(fcinfo: pg_sys::FunctionCallInfo) -> Result<&'a pg_sys::TriggerData, UserError> {
    // SAFETY: the function manager's call info; a trigger manager says so in the context's node tag.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return Err(misplaced());
        }
        Ok(&*context.cast::<pg_sys::TriggerData>())
    }
}

fn misplaced() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        "this trigger function is only for triggers that capture_signals() makes",
    )
    .detail("It wants to be called by a trigger with the arguments that capture_signals() gives it.")
    .hint("SELECT capture_signals('<table>', via => '<view>')")
}

/// Whether the columns that the trigger is for (all, if it has no list) are the same bytes in the old and the new row.
unsafe fn unchanged(data: &pg_sys::TriggerData, trigger: &pg_sys::Trigger) -> bool {
    // SAFETY: both tuples are of the trigger's relation; tgattr has tgnattr columns of it.
    unsafe {
        let descriptor = (*data.tg_relation).rd_att;
        let same = |column: i32| {
            let (mut old_is_null, mut new_is_null) = (false, false);
            let old = pg_sys::SPI_getbinval(data.tg_trigtuple, descriptor, column, &mut old_is_null);
            let new = pg_sys::SPI_getbinval(data.tg_newtuple, descriptor, column, &mut new_is_null);
            if old_is_null || new_is_null {
                return old_is_null == new_is_null;
            }
            let kind = pg_sys::TupleDescAttr(descriptor, column - 1);
            match ((*kind).attbyval, (*kind).attlen) {
                (true, _) => old == new,
                (false, length) => bytes_of(old, length) == bytes_of(new, length),
            }
        };
        match trigger.tgnattr {
            0 => (1..=(*descriptor).natts).all(same),
            listed => std::slice::from_raw_parts(trigger.tgattr, listed as usize).iter().all(|c| same(i32::from(*c))),
        }
    }
}

/// The bytes of a value passed by reference, as they are stored: two toasted values are the same if it is the same toast.
pub(super) unsafe fn bytes_of<'a>(value: pg_sys::Datum, length: i16) -> &'a [u8] {
    // SAFETY: the value is of a type of this length, -1 = varlena, -2 = C string, and lives as long as its tuple.
    unsafe {
        let start = value.cast_mut_ptr::<u8>();
        match length {
            -1 => std::slice::from_raw_parts(start, pgrx::varsize_any(start.cast())),
            -2 => CStr::from_ptr(start.cast()).to_bytes(),
            length => std::slice::from_raw_parts(start, length as usize),
        }
    }
}

unsafe fn text_of(row: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc, column: i32) -> Option<String> {
    // SAFETY: row and descriptor belong together, and column is one of it; the text is copied.
    unsafe {
        let type_of_key = pg_sys::SPI_gettypeid(descriptor, column);
        if type_of_key == pg_sys::INT8OID || type_of_key == pg_sys::INT4OID {
            let mut is_null = false;
            let value = pg_sys::SPI_getbinval(row, descriptor, column, &mut is_null);
            let number = match type_of_key {
                pg_sys::INT8OID => value.value() as i64,
                _ => i64::from(value.value() as i32),
            };
            return (!is_null).then(|| number.to_string());
        }
        let text = pg_sys::SPI_getvalue(row, descriptor, column);
        if text.is_null() {
            return None;
        }
        let bytes = CStr::from_ptr(text).to_string_lossy();
        // A cast to text strips the padding of char(n), its output function does not.
        let stripped = match pg_sys::getBaseType(type_of_key) {
            pg_sys::BPCHAROID => bytes.trim_end_matches(' '),
            _ => &bytes,
        };
        Some(stripped.to_owned())
    }
}

/// A new batch; finds where its generated function is.
unsafe fn open_batch(source: &CStr, operation: Operation, relation: pg_sys::Relation) -> usize {
    if !WATCHING.replace(true) {
        // SAFETY: registered once for the life of this process; the callback is a function of this library.
        unsafe { pg_sys::RegisterXactCallback(Some(transaction_ends), std::ptr::null_mut()) };
    }
    // SAFETY: relation is open.
    let home = unsafe {
        match home_trigger(relation) {
            Some(_) => (*relation).rd_id,
            None => home_of_partition((*relation).rd_id),
        }
    };
    let batch = Batch { source: source.to_owned(), home, operation, keys: Vec::new(), lost_key: None };
    NOTED.with_borrow_mut(|noted| {
        noted.push(batch);
        noted.len() - 1
    })
}

unsafe fn home_trigger(relation: pg_sys::Relation) -> Option<*mut pg_sys::Trigger> {
    // SAFETY: the relation cache's trigger list, of the length that it states.
    unsafe {
        let list = (*relation).trigdesc;
        if list.is_null() {
            return None;
        }
        let triggers = std::slice::from_raw_parts_mut((*list).triggers, (*list).numtriggers as usize);
        triggers.iter_mut().find(|t| CStr::from_ptr(t.tgname) == HOME_TRIGGER).map(|t| t as *mut _)
    }
}

/// A partition attached after its parent was captured has the parent's row triggers only.
fn home_of_partition(partition: pg_sys::Oid) -> pg_sys::Oid {
    let query = "SELECT t.tgrelid FROM pg_catalog.pg_partition_ancestors($1) a JOIN pg_catalog.pg_trigger t \
                 ON t.tgrelid OPERATOR(pg_catalog.=) a.relid::pg_catalog.oid AND t.tgname OPERATOR(pg_catalog.=) 'pg_finetune_truncate' LIMIT 1";
    Spi::connect(|client| client.select(query, Some(1), &[partition.into()])?.first().get_one::<pg_sys::Oid>())
        .ok()
        .flatten()
        .unwrap_or(pg_sys::InvalidOid)
}

/// Puts back what an outer call is working on, also when the inner one fails.
struct Outer(Option<Batch>);

impl Drop for Outer {
    fn drop(&mut self) {
        HANDED_OVER.set(self.0.take());
    }
}

/// What is captured of a replayed write is a write of this server's own: the triggers of our tables must see it.
struct Role(i32);

impl Role {
    fn origin() -> Self {
        // SAFETY: a setting of this process, put back when dropped.
        unsafe {
            let before = pg_sys::SessionReplicationRole;
            pg_sys::SessionReplicationRole = pg_sys::SESSION_REPLICATION_ROLE_ORIGIN as i32;
            Self(before)
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::SessionReplicationRole = self.0 };
    }
}

/// Calls the generated function as a trigger, so that it runs with its owner's rights and settings.
fn hand_over(batch: Batch, current: Option<pg_sys::Relation>) {
    // SAFETY: the relation is open (the current one, or opened and locked here) while its trigger is used; call data live
    // on the stack for the call, which runs under pgrx's guard because it is a C function that may raise.
    unsafe {
        let here = current.filter(|relation| {
            home_trigger(*relation)
                .is_some_and(|t| (*t).tgnargs > 0 && CStr::from_ptr(*(*t).tgargs) == batch.source.as_c_str())
        });
        let opened = match here {
            Some(_) => std::ptr::null_mut(),
            None => pg_sys::try_relation_open(batch.home, pg_sys::AccessShareLock as i32),
        };
        let relation = here.unwrap_or(opened);
        if relation.is_null() {
            return;
        }
        if let Some(trigger) = home_trigger(relation) {
            let mut trigger = *trigger; // the relation cache may be rebuilt while the function runs
            let mut data = pg_sys::TriggerData {
                type_: pg_sys::NodeTag::T_TriggerData,
                tg_event: pg_sys::TRIGGER_EVENT_TRUNCATE | pg_sys::TRIGGER_EVENT_AFTER,
                tg_relation: relation,
                tg_trigger: &mut trigger,
                ..Default::default()
            };
            let mut function = pg_sys::FmgrInfo::default();
            pg_sys::fmgr_info(trigger.tgfoid, &mut function);
            let mut call = pg_sys::FunctionCallInfoBaseData {
                flinfo: &mut function,
                context: std::ptr::from_mut(&mut data).cast(),
                ..Default::default()
            };
            let _outer = Outer(HANDED_OVER.replace(Some(batch)));
            let _role = Role::origin();
            if let Some(code) = function.fn_addr {
                pg_sys::ffi::pg_guard_ffi_boundary(|| code(&mut call));
            }
        }
        if !opened.is_null() {
            pg_sys::relation_close(opened, pg_sys::NoLock as i32);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    if NOTED.with_borrow(Vec::is_empty) {
        return;
    }
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT | pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => {
            super::statement::with_snapshot(|| hand_over_all(None));
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PARALLEL_ABORT => {
            NOTED.with_borrow_mut(Vec::clear);
        }
        _ => {}
    }
}
