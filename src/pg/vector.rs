//! pgvector's `vector` as argument and result of functions.
//!
//! On disk (pgvector `src/vector.h`): varlena header, int16 dim, int16 unused (zero), dim × float4.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::{impl_sql_translatable, pg_sys, FromDatum, IntoDatum};

const MAX_DIMENSIONS: usize = 16_000;

#[repr(C)]
struct Header {
    varlena: i32,
    dim: i16,
    unused: i16,
}

/// An owned vector of finite numbers.
#[derive(Debug, Clone)]
pub struct Vector(pub pgvector::Vector);

impl Vector {
    pub fn as_slice(&self) -> &[f32] {
        self.0.as_slice()
    }
}

/// The numbers of a vector where they lie, or in a detoasted copy in the current memory context.
///
/// # Safety
/// `datum` is a vector of pgvector's; the caller keeps it, and the context, for as long as the numbers are used.
pub(super) unsafe fn numbers_of<'a>(datum: pg_sys::Datum) -> &'a [f32] {
    // SAFETY: detoasting yields an aligned header of four bytes, and pgvector guarantees that `dim` floats follow it.
    unsafe {
        let header = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<Header>();
        std::slice::from_raw_parts(header.add(1).cast::<f32>(), (*header).dim.max(0) as usize)
    }
}

impl From<Vec<f32>> for Vector {
    fn from(values: Vec<f32>) -> Self {
        Self(pgvector::Vector::from(values))
    }
}

impl_sql_translatable!(Vector, "vector");

impl FromDatum for Vector {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the SQL declaration promises a vector datum. The copy is taken before the detoasted value is freed.
        unsafe {
            let original = datum.cast_mut_ptr::<pg_sys::varlena>();
            let plain = pg_sys::pg_detoast_datum(original);
            let values = numbers_of(pg_sys::Datum::from(plain)).to_vec();
            if !std::ptr::eq(plain, original) {
                pg_sys::pfree(plain.cast());
            }
            Some(Self::from(values))
        }
    }
}

impl IntoDatum for Vector {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let values = self.as_slice();
        assert!((1..=MAX_DIMENSIONS).contains(&values.len()), "a vector has 1 to {MAX_DIMENSIONS} dimensions");
        let size = size_of::<Header>() + size_of_val(values);
        // SAFETY: palloc returns at least `size` aligned bytes; header and floats are written in full.
        unsafe {
            let header = pg_sys::palloc0(size).cast::<Header>();
            pgrx::varlena::set_varsize_4b(header.cast(), size as i32);
            (*header).dim = values.len() as i16;
            std::ptr::copy_nonoverlapping(values.as_ptr(), header.add(1).cast::<f32>(), values.len());
            Some(pg_sys::Datum::from(header))
        }
    }

    /// Unknown here: vectors are never SPI parameters (pass `real[]` and cast in SQL).
    fn type_oid() -> pg_sys::Oid {
        pg_sys::InvalidOid
    }

    fn is_compatible_with(_: pg_sys::Oid) -> bool {
        true
    }
}

// SAFETY: unboxing goes through `from_datum`, which copies.
unsafe impl<'fcx> ArgAbi<'fcx> for Vector {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        let index = arg.index();
        // SAFETY: the caller hands over a datum of the declared type.
        unsafe { arg.unbox_arg_using_from_datum().unwrap_or_else(|| panic!("argument {index} must not be null")) }
    }
}

// SAFETY: the datum is palloc'ed in the caller's context.
unsafe impl BoxRet for Vector {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: a datum made just above.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}
