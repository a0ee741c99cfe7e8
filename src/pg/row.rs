//! Rows of a query, each taken apart once and read where it lies: pgrx's own way looks for every column from the start
//! of the row and copies a text three times, which is most of the time of an export.

use pgrx::prelude::*;
use pgrx::spi::SpiTupleTable;
use pgrx::{FromDatum, PgMemoryContexts};

use super::vector::numbers_of;

/// One row; columns count from 1. What it hands out ends with the row.
pub struct Row<'a> {
    types: &'a [pg_sys::Oid],
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl<'a> Row<'a> {
    pub fn text(&self, column: usize) -> Option<&'a str> {
        self.value(column, |of| of == pg_sys::TEXTOID)
    }

    pub fn bytes(&self, column: usize) -> Option<&'a [u8]> {
        self.value(column, |of| of == pg_sys::BYTEAOID)
    }

    pub fn number(&self, column: usize) -> Option<f64> {
        self.value(column, |of| of == pg_sys::FLOAT8OID)
    }

    pub fn count(&self, column: usize) -> Option<i64> {
        self.value(column, |of| of == pg_sys::INT8OID)
    }

    pub fn truth(&self, column: usize) -> Option<bool> {
        self.value(column, |of| of == pg_sys::BOOLOID)
    }

    /// Microseconds since 2000, as Postgres counts.
    pub fn moment(&self, column: usize) -> Option<i64> {
        self.value(column, |of| of == pg_sys::TIMESTAMPTZOID)
    }

    /// A vector of pgvector's; its type has another number in every database.
    pub fn vector(&self, column: usize) -> Option<&'a [f32]> {
        let datum = self.datum(column, |of| of.to_u32() >= pg_sys::FirstNormalObjectId)?;
        // SAFETY: of the types that are not built in, our queries name only pgvector's vector.
        Some(unsafe { numbers_of(datum) })
    }

    fn value<T: FromDatum>(&self, column: usize, fits: impl Fn(pg_sys::Oid) -> bool) -> Option<T> {
        let datum = self.datum(column, fits)?;
        // SAFETY: the type was compared; what is detoasted lives in the row's own memory context.
        unsafe { T::from_polymorphic_datum(datum, false, self.types[column - 1]) }
    }

    fn datum(&self, column: usize, fits: impl Fn(pg_sys::Oid) -> bool) -> Option<pg_sys::Datum> {
        assert!(fits(self.types[column - 1]), "column {column} is of another type");
        (!self.nulls[column - 1]).then_some(self.values[column - 1])
    }
}

/// Reads the rows of the query that SPI ran last, of which `_table` is the proof. What a row needs in memory, detoasted
/// texts and vectors for instance, is gone before the next one; `read` returns values of Rust's own.
pub fn read_all<T, Rows: FromIterator<T>>(_table: SpiTupleTable<'_>, mut read: impl FnMut(&Row<'_>) -> T) -> Rows {
    let mut context = PgMemoryContexts::new("row");
    // SAFETY: SPI_tuptable is the table that is given up here, and lives until the SPI connection ends, which outlasts this call.
    // A tuple has as many columns as its descriptor; nothing of a row is used after the reset that follows it.
    unsafe {
        let Some(table) = pg_sys::SPI_tuptable.as_ref() else { return std::iter::empty().collect() };
        let columns = (*table.tupdesc).natts;
        let types: Vec<_> = (1..=columns).map(|n| pg_sys::SPI_gettypeid(table.tupdesc, n)).collect();
        let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); types.len()], vec![true; types.len()]);
        (0..table.numvals as usize)
            .map(|n| {
                pg_sys::heap_deform_tuple(*table.vals.add(n), table.tupdesc, values.as_mut_ptr(), nulls.as_mut_ptr());
                let row = Row { types: &types, values: &values, nulls: &nulls };
                let value = context.switch_to(|_| read(&row));
                context.reset();
                value
            })
            .collect()
    }
}
