//! A text that many rows of a result hold: copied once, into each row.

use std::rc::Rc;

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::{impl_sql_translatable, pg_sys, IntoDatum};

pub struct SharedText(Rc<str>);

impl SharedText {
    pub fn of(text: &Rc<str>) -> Self {
        Self(text.clone())
    }
}

impl_sql_translatable!(SharedText, "text");

impl IntoDatum for SharedText {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.0.as_ref().into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

// SAFETY: the datum is palloc'ed in the caller's context.
unsafe impl BoxRet for SharedText {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: a datum made just above.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}
