//! Rows of tables of ours, read and written below the executor, the way catalogs are: of a planned UPDATE of one row nine
//! tenths are preparations. Only for tables that are as the extension made them; others go the planned way.

use std::ffi::CStr;

use pgrx::prelude::*;

/// An open table, locked for writing until the end of the transaction.
pub struct OwnTable {
    relation: pg_sys::Relation,
}

/// A row as it stands in memory.
pub struct Row {
    pub(super) tuple: pg_sys::HeapTuple,
    pub(super) descriptor: pg_sys::TupleDesc,
}

/// Where a version of a row stands.
#[derive(Clone, Copy)]
pub struct Place(pg_sys::ItemPointerData);

/// A column's number and its new value.
pub type Setting = (i32, Option<pg_sys::Datum>);

/// What to do about a row that another transaction is changing.
#[derive(Clone, Copy, PartialEq)]
pub enum Patience {
    Wait,
    Leave,
}

impl Place {
    /// A value of type tid.
    pub fn of(value: pg_sys::Datum) -> Self {
        // SAFETY: a tid is passed by reference; it is copied.
        Self(unsafe { *value.cast_mut_ptr::<pg_sys::ItemPointerData>() })
    }
}

impl Row {
    pub fn get<T: FromDatum>(&self, column: &CStr) -> Option<T> {
        let mut is_null = false;
        // SAFETY: the tuple is of this descriptor and lives as long as the row is lent.
        unsafe {
            let number = pg_sys::SPI_fnumber(self.descriptor, column.as_ptr());
            let value = pg_sys::SPI_getbinval(self.tuple, self.descriptor, number, &mut is_null);
            T::from_datum(value, is_null)
        }
    }

    pub fn place(&self) -> Place {
        // SAFETY: a tuple read from a table.
        Place(unsafe { (*self.tuple).t_self })
    }
}

impl OwnTable {
    /// None when somebody has given the table more than it was made with, which only the executor obeys: CHECKs, triggers
    /// (these are ours), rules, policies, children, another storage; or has turned triggers off.
    pub fn open(table: pg_sys::Oid, checks: u16, triggers: &[&CStr]) -> Option<Self> {
        // SAFETY: the relation is opened and its cache entry read while it is open.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
            let opened = Self { relation };
            let class = &*(*relation).rd_rel;
            let constraints = (*(*relation).rd_att).constr;
            let is_as_made = class.relkind == pg_sys::RELKIND_RELATION as i8 as std::ffi::c_char
                && class.relam == pg_sys::HEAP_TABLE_AM_OID
                && !(class.relhasrules || class.relrowsecurity || class.relhassubclass || class.relispartition)
                && checks == if constraints.is_null() { 0 } else { (*constraints).num_check }
                && opened.has_triggers(triggers)
                && pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_ORIGIN as i32;
            if is_as_made {
                pg_sys::CheckCmdReplicaIdentity(relation, pg_sys::CmdType::CMD_UPDATE);
            }
            is_as_made.then_some(opened)
        }
    }

    fn has_triggers(&self, names: &[&CStr]) -> bool {
        // SAFETY: the relation cache's trigger list, of the length that it states.
        unsafe {
            let list = (*self.relation).trigdesc;
            if list.is_null() {
                return names.is_empty();
            }
            let triggers = std::slice::from_raw_parts((*list).triggers, (*list).numtriggers as usize);
            triggers.len() == names.len()
                && triggers.iter().all(|t| {
                    t.tgenabled == pg_sys::TRIGGER_FIRES_ON_ORIGIN as std::ffi::c_char
                        && names.contains(&CStr::from_ptr(t.tgname))
                })
        }
    }

    pub fn column(&self, name: &CStr) -> i32 {
        // SAFETY: a lookup by name in the descriptor of an open relation; what is not there gives a number below one.
        unsafe { pg_sys::SPI_fnumber((*self.relation).rd_att, name.as_ptr()) }
    }

    /// Changes a row, and shows it before and after. False when somebody else has changed it, or is about to.
    pub fn update(&self, place: Place, set: &[Setting], patience: Patience, mut seen: impl FnMut(&Row, &Row)) -> bool {
        let columns: Vec<i32> = set.iter().map(|(column, _)| *column).collect();
        let values: Vec<pg_sys::Datum> = set.iter().map(|(_, v)| v.unwrap_or(pg_sys::Datum::null())).collect();
        let nulls: Vec<bool> = set.iter().map(|(_, value)| value.is_none()).collect();
        // SAFETY: the old version is pinned while it is used; it was visible to a snapshot of this transaction, so that its
        // place was not given away. The new one is freed after use.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let mut old = pg_sys::HeapTupleData { t_self: place.0, ..Default::default() };
            let (any, mut buffer) = (&raw mut pg_sys::SnapshotAnyData, 0);
            if !pg_sys::heap_fetch(self.relation, any, &mut old, &mut buffer, false) {
                return false;
            }
            let new = pg_sys::heap_modify_tuple_by_cols(
                &mut old,
                descriptor,
                columns.len() as i32,
                columns.as_ptr(),
                values.as_ptr(),
                nulls.as_ptr(),
            );
            let (mut failure, mut lock, mut indexes) = Default::default();
            let outcome = pg_sys::heap_update(
                self.relation,
                &mut old.t_self,
                new,
                pg_sys::GetCurrentCommandId(true),
                std::ptr::null_mut(),
                patience == Patience::Wait,
                &mut failure,
                &mut lock,
                &mut indexes,
            );
            let done = outcome == pg_sys::TM_Result::TM_Ok;
            if done {
                if indexes != pg_sys::TU_UpdateIndexes::TU_None {
                    self.index(new, true, indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing);
                }
                seen(&Row { tuple: &mut old, descriptor }, &Row { tuple: new, descriptor });
            }
            pg_sys::heap_freetuple(new);
            pg_sys::ReleaseBuffer(buffer);
            done
        }
    }

    /// Deletes a row, unless somebody else has changed it or is about to.
    pub fn delete(&self, mut place: Place) -> bool {
        let mut failure = Default::default();
        // SAFETY: as in update().
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            let crosscheck = std::ptr::null_mut();
            let outcome =
                pg_sys::heap_delete(self.relation, &mut place.0, command, crosscheck, false, &mut failure, false);
            outcome == pg_sys::TM_Result::TM_Ok
        }
    }

    pub fn insert(&self, set: &[Setting]) {
        // SAFETY: the arrays have a place for each column, and numbers come from column().
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let mut values = vec![pg_sys::Datum::null(); (*descriptor).natts as usize];
            let mut nulls = vec![true; values.len()];
            for (column, value) in set {
                let place = (*column - 1) as usize;
                nulls[place] = value.is_none();
                values[place] = value.unwrap_or(pg_sys::Datum::null());
            }
            let tuple = pg_sys::heap_form_tuple(descriptor, values.as_ptr(), nulls.as_ptr());
            pg_sys::heap_insert(self.relation, tuple, pg_sys::GetCurrentCommandId(true), 0, std::ptr::null_mut());
            self.index(tuple, false, false);
            pg_sys::heap_freetuple(tuple);
        }
    }

    unsafe fn index(&self, tuple: pg_sys::HeapTuple, is_update: bool, only_summarizing: bool) {
        // SAFETY: the steps of CatalogIndexInsert() and of logical replication: all that is made here is freed here.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let mut target = pg_sys::ResultRelInfo { type_: pg_sys::NodeTag::T_ResultRelInfo, ..Default::default() };
            pg_sys::InitResultRelInfo(&mut target, self.relation, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(&mut target, false);
            let slot = pg_sys::MakeSingleTupleTableSlot((*self.relation).rd_att, &raw const pg_sys::TTSOpsHeapTuple);
            pg_sys::ExecStoreHeapTuple(tuple, slot, false);
            let (conflict, arbiters) = (std::ptr::null_mut(), std::ptr::null_mut());
            pg_sys::ExecInsertIndexTuples(
                &mut target,
                slot,
                state,
                is_update,
                false,
                conflict,
                arbiters,
                only_summarizing,
            );
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::ExecCloseIndices(&mut target);
            pg_sys::FreeExecutorState(state);
        }
    }

    /// Shows the rows of a user, by the primary key: all that is committed by now, and what this transaction wrote. Rows
    /// that others are changing may be missed.
    pub fn of_user(&self, user: pg_sys::Datum, mut see: impl FnMut(&Row)) {
        // SAFETY: the scan is closed again; a row is lent until the next one is fetched.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let column = self.column(c"user_id");
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyEntryInitialize(
                &mut key,
                0,
                column as pg_sys::AttrNumber,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::InvalidOid,
                (*pg_sys::TupleDescAttr(descriptor, column - 1)).attcollation,
                pg_sys::Oid::from(pg_sys::F_TEXTEQ),
                user,
            );
            let index = pg_sys::RelationGetPrimaryKeyIndex(self.relation, false);
            let snapshot = &raw mut pg_sys::SnapshotSelfData;
            let scan = pg_sys::systable_beginscan(self.relation, index, true, snapshot, 1, &mut key);
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                see(&Row { tuple, descriptor });
            }
            pg_sys::systable_endscan(scan);
        }
    }
}

impl Drop for OwnTable {
    fn drop(&mut self) {
        // When an error passes, Postgres closes it.
        if !std::thread::panicking() {
            // SAFETY: opened by open(); the lock stays to the end of the transaction.
            unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as i32) };
        }
    }
}

/// Makes what was written here visible to the next command.
pub fn next_command() {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// A random uuid, as Postgres makes them.
pub fn random_uuid() -> pg_sys::Datum {
    // SAFETY: a function of Postgres without arguments.
    unsafe { pg_sys::OidFunctionCall0Coll(pg_sys::Oid::from(pg_sys::F_GEN_RANDOM_UUID), pg_sys::InvalidOid) }
}
