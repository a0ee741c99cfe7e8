//! Plans that a backend keeps from one statement to the next.

use std::ffi::{c_int, CStr, CString};

use pgrx::prelude::*;

use super::errors::UserError;

/// A saved plan; freed with its owner.
pub struct Plan {
    plan: pg_sys::SPIPlanPtr,
    planning: Planning,
    fresh: bool,
}

/// How often a plan is made: once for all calls, or for each call's own values.
#[derive(Clone, Copy, PartialEq)]
pub enum Planning {
    Once,
    EachTime,
}

impl Plan {
    pub fn new(text: &str, types: &[pg_sys::Oid], planning: Planning) -> Result<Self, UserError> {
        let source = CString::new(text).map_err(|_| UserError::invalid("a query holds a zero byte"))?;
        let option = match planning {
            Planning::Once => pg_sys::CURSOR_OPT_GENERIC_PLAN,
            Planning::EachTime => pg_sys::CURSOR_OPT_CUSTOM_PLAN,
        };
        let mut types = types.to_vec();
        // SAFETY: inside an SPI connection; source and types live during the call; keepplan makes it outlive us.
        unsafe {
            let plan =
                pg_sys::SPI_prepare_cursor(source.as_ptr(), types.len() as c_int, types.as_mut_ptr(), option as c_int);
            if plan.is_null() {
                return Err(UserError::invalid("a query could not be prepared").detail(text.to_owned()));
            }
            pg_sys::SPI_keepplan(plan);
            Ok(Self { plan, planning, fresh: true })
        }
    }

    /// False after a change of a table, view or function in it.
    pub fn is_valid(&self) -> bool {
        // SAFETY: a saved plan of ours.
        unsafe { pg_sys::SPI_plan_is_valid(self.plan) }
    }

    /// All rows, each column as text.
    pub fn run(&mut self, values: &mut [pg_sys::Datum]) -> Vec<Vec<Option<String>>> {
        self.read(values, |rows| {
            let columns = 1..=rows.columns();
            (0..rows.count()).map(|row| columns.clone().map(|column| rows.text(row, column)).collect()).collect()
        })
        .unwrap_or_default()
    }

    /// Shows what the plan returns; None for a statement that returns nothing.
    pub fn read<T>(&mut self, values: &mut [pg_sys::Datum], look: impl FnOnce(&Rows) -> T) -> Option<T> {
        // SAFETY: inside an SPI connection; the values fit the types of the plan; results are freed after the look.
        unsafe {
            let level = self.prefer_indexes();
            pg_sys::SPI_execute_plan(self.plan, values.as_mut_ptr(), std::ptr::null(), false, 0);
            if let Some(level) = level {
                pg_sys::AtEOXact_GUC(true, level);
            }
            let table = pg_sys::SPI_tuptable;
            if table.is_null() {
                return None;
            }
            let result = look(&Rows { table });
            pg_sys::SPI_freetuptable(table);
            Some(result)
        }
    }

    /// A plan made while tables are small must do when they are large. Only when a plan is made: settings cost time.
    unsafe fn prefer_indexes(&mut self) -> Option<c_int> {
        // SAFETY: the nest level is left in run(), or by the abort of the transaction around it.
        unsafe {
            if self.planning == Planning::EachTime || !self.fresh && self.is_valid() {
                return None;
            }
            self.fresh = false;
            let level = pg_sys::NewGUCNestLevel();
            for name in [c"enable_seqscan", c"enable_hashjoin", c"enable_mergejoin"] {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    c"off".as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Some(level)
        }
    }
}

/// The rows that a plan returned; rows count from 0, columns from 1.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
}

impl Rows {
    pub fn count(&self) -> usize {
        // SAFETY: SPI's table of results, which read() frees after the look.
        unsafe { (*self.table).numvals as usize }
    }

    pub fn columns(&self) -> i32 {
        // SAFETY: as above.
        unsafe { (*(*self.table).tupdesc).natts }
    }

    pub fn name(&self, column: i32) -> CString {
        // SAFETY: as above; SPI copies the name.
        unsafe { CStr::from_ptr(pg_sys::SPI_fname((*self.table).tupdesc, column)).to_owned() }
    }

    pub fn value(&self, row: usize, column: i32) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: as above; the row is one of count().
        let value = unsafe {
            let tuple = *(*self.table).vals.add(row);
            pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, column, &mut is_null)
        };
        (!is_null).then_some(value)
    }

    pub fn text(&self, row: usize, column: i32) -> Option<String> {
        // SAFETY: as above; the text is copied.
        unsafe {
            let text = pg_sys::SPI_getvalue(*(*self.table).vals.add(row), (*self.table).tupdesc, column);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made and kept by new(), used by nobody else.
        unsafe { pg_sys::SPI_freeplan(self.plan) };
    }
}
