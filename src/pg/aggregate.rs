//! States of aggregates.
//!
//! `Given`/`Kept`: a Rust value behind a `bytea`. Postgres copies a by-reference state only when the transition function
//! returns another pointer, so a state that grows is kept as an expanded object, whose pointer stays; it is flattened when
//! it leaves the process (parallel workers, other nodes). `Tally`: a small `float8[]` that is added to in place.

use crate::core::metrics::{histogram::Histogram, labels::Labels, scores::Scores};
use crate::pg::errors::UserError;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys::panic::{pgrx_extern_c_guard, ErrorReport};
use pgrx::{impl_sql_translatable, pg_sys, PgLogLevel, PgSqlErrorCode};
use std::ffi::c_void;

/// A Rust value that can be an aggregate's state.
pub trait State: Clone + Default + 'static {
    /// Which aggregates keep it, for messages.
    const OF: &'static str;
    fn methods() -> &'static pg_sys::ExpandedObjectMethods;
    fn size(&mut self) -> usize;
    fn write(&mut self, out: &mut [u8]);
    fn read(bytes: &[u8]) -> Option<Self>;
    fn merge(&mut self, other: &Self) -> Result<(), UserError>;
}

/// A state as it comes in: ours, flat from another process, or anything that a user passed.
#[derive(Clone, Copy)]
pub struct Given(pg_sys::Datum);

/// A state as it goes out.
pub struct Kept(pg_sys::Datum);

impl_sql_translatable!(Given, "bytea");
impl_sql_translatable!(Kept, "bytea");

// SAFETY: only the datum is taken; what it points to is looked at when it is used.
unsafe impl<'fcx> ArgAbi<'fcx> for Given {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: pg_sys::Datum is Copy and any datum is one.
        unsafe { Given(raw_datum(arg)) }
    }
}

// SAFETY: the datum points to an object in the aggregate's memory, or in the caller's.
unsafe impl BoxRet for Kept {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

/// # Safety
/// The argument is not NULL.
unsafe fn raw_datum(arg: Arg<'_, '_>) -> pg_sys::Datum {
    let index = arg.index();
    // SAFETY: the call of this argument is alive, and has an argument at its index.
    unsafe {
        let call = <pg_sys::FunctionCallInfo as ArgAbi>::unbox_arg_unchecked(arg);
        (*call).args.as_slice((*call).nargs as usize)[index].value
    }
}

#[repr(C)]
struct Object<T> {
    header: pg_sys::ExpandedObjectHeader,
    value: T,
}

enum Found<T> {
    Ours { object: *mut Object<T>, writable: bool },
    Flat,
}

// varatt.h: first byte of a pointer to a value elsewhere, and the tags of expanded objects.
const EXTERNAL: u8 = if cfg!(target_endian = "little") { 0x01 } else { 0x80 };
const READ_ONLY: u8 = 2;
const READ_WRITE: u8 = 3;

fn find<T: State>(given: Given) -> Found<T> {
    // SAFETY: a bytea datum points to at least its header; only an expanded one has a second byte with these tags, and
    // then a header whose methods say whose it is.
    unsafe {
        let bytes = given.0.cast_mut_ptr::<u8>();
        if *bytes != EXTERNAL || !matches!(*bytes.add(1), READ_ONLY | READ_WRITE) {
            return Found::Flat;
        }
        let object = bytes.add(2).cast::<*mut Object<T>>().read_unaligned();
        if !std::ptr::eq((*object).header.eoh_methods, T::methods()) {
            return Found::Flat;
        }
        Found::Ours { object, writable: *bytes.add(1) == READ_WRITE }
    }
}

/// Changes a state and returns it, in place where that is allowed; None begins one.
pub fn update<T: State>(
    call: pg_sys::FunctionCallInfo,
    given: Option<Given>,
    body: impl FnOnce(&mut T) -> Result<(), UserError>,
) -> Result<Kept, UserError> {
    let object = match given.map(|given| (given, find::<T>(given))) {
        Some((_, Found::Ours { object, writable: true })) => object,
        // SAFETY: the object is alive as long as its datum is.
        Some((_, Found::Ours { object, .. })) => create(call, unsafe { (*object).value.clone() }),
        Some((given, Found::Flat)) => create(call, unflatten(given)?),
        None => create(call, T::default()),
    };
    // SAFETY: nobody else looks at it while this function runs.
    let object = unsafe { &mut *object };
    body(&mut object.value)?;
    Ok(Kept(pg_sys::Datum::from(object.header.eoh_rw_ptr.as_ptr())))
}

/// Looks into a state. `body` may put what is inside into another order, nothing else.
pub fn inspect<T: State, R>(given: Given, body: impl FnOnce(&mut T) -> R) -> Result<R, UserError> {
    match find::<T>(given) {
        // SAFETY: the object is alive as long as its datum is, and nobody else looks at it now.
        Found::Ours { object, .. } => Ok(body(unsafe { &mut (*object).value })),
        Found::Flat => Ok(body(&mut unflatten(given)?)),
    }
}

/// Adds the state of one group of rows to that of another.
pub fn combine<T: State>(
    call: pg_sys::FunctionCallInfo,
    state: Option<Given>,
    other: Option<Given>,
) -> Result<Option<Kept>, UserError> {
    let Some(other) = other else {
        return state.map(|state| update::<T>(call, Some(state), |_| Ok(()))).transpose();
    };
    inspect::<T, _>(other, |other| update::<T>(call, state, |state| state.merge(other)))?.map(Some)
}

fn unflatten<T: State>(given: Given) -> Result<T, UserError> {
    // SAFETY: the SQL declaration promises a bytea; detoasting yields its bytes, which are copied before they are freed.
    let value = unsafe {
        let original = given.0.cast_mut_ptr::<pg_sys::varlena>();
        let plain = pg_sys::pg_detoast_datum(original);
        let value = T::read(pgrx::varlena::varlena_to_byte_slice(plain));
        if !std::ptr::eq(plain, original) {
            pg_sys::pfree(plain.cast());
        }
        value
    };
    value.ok_or_else(|| {
        UserError::invalid(format!("that is no state of {}", T::OF))
            .detail("States are written and read by the aggregate itself, of the same version and kind of machine.")
            .hint("Call the aggregate.")
    })
}

/// The memory of the aggregate that calls, or the current one.
fn memory(call: pg_sys::FunctionCallInfo) -> pg_sys::MemoryContext {
    let mut context = std::ptr::null_mut();
    // SAFETY: the call is that of the running function; a context is written only when an aggregate calls.
    unsafe {
        match pg_sys::AggCheckCallContext(call, &mut context) {
            0 => pg_sys::CurrentMemoryContext,
            _ => context,
        }
    }
}

fn create<T: State>(call: pg_sys::FunctionCallInfo, value: T) -> *mut Object<T> {
    unsafe extern "C-unwind" fn drop_value<T>(value: *mut c_void) {
        // SAFETY: registered once for a value that was written, and called once, before its memory goes.
        unsafe { std::ptr::drop_in_place(value.cast::<T>()) }
    }
    // SAFETY: everything is allocated in the object's own context, in order: memory, header, value, then the callback
    // that drops the value with the context.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            memory(call),
            c"pg_finetune aggregate".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        let object = pg_sys::MemoryContextAlloc(context, size_of::<Object<T>>()).cast::<Object<T>>();
        let callback = pg_sys::MemoryContextAllocZero(context, size_of::<pg_sys::MemoryContextCallback>());
        let callback = callback.cast::<pg_sys::MemoryContextCallback>();
        pg_sys::EOH_init_header(&raw mut (*object).header, T::methods(), context);
        std::ptr::write(&raw mut (*object).value, value);
        (*callback).func = Some(drop_value::<T>);
        (*callback).arg = (&raw mut (*object).value).cast();
        pg_sys::MemoryContextRegisterResetCallback(context, callback);
        object
    }
}

const VARLENA_HEADER: usize = size_of::<i32>();
/// memutils.h: what one value may have.
const MAX_SIZE: usize = 0x3fff_ffff;

unsafe extern "C-unwind" fn flat_size<T: State>(header: *mut pg_sys::ExpandedObjectHeader) -> pg_sys::Size {
    // SAFETY: these methods stand in the headers of `Object<T>` only. The guard turns the panic into an error.
    unsafe {
        pgrx_extern_c_guard(|| {
            let size = (*header.cast::<Object<T>>()).value.size() + VARLENA_HEADER;
            if size > MAX_SIZE {
                ErrorReport::from(too_large(T::OF, size)).report(PgLogLevel::ERROR);
            }
            size
        })
    }
}

unsafe extern "C-unwind" fn flatten<T: State>(
    header: *mut pg_sys::ExpandedObjectHeader,
    result: *mut c_void,
    size: pg_sys::Size,
) {
    // SAFETY: as above; the caller allocated the size that it was told.
    unsafe {
        pgrx_extern_c_guard(|| {
            pgrx::varlena::set_varsize_4b(result.cast(), size as i32);
            let out = std::slice::from_raw_parts_mut(result.cast::<u8>().add(VARLENA_HEADER), size - VARLENA_HEADER);
            (*header.cast::<Object<T>>()).value.write(out);
        })
    }
}

fn too_large(of: &str, size: usize) -> UserError {
    UserError::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("{of}: {size} bytes do not fit into one value"))
        .detail("Rows that parallel workers hand over are one value, of at most 1 GB: about 130 million different scores a worker.")
        .hint("Use approx_roc_auc or approx_average_precision, round the scores, or SET max_parallel_workers_per_gather = 0.")
}

/// No memory for another row.
fn full(of: &str) -> UserError {
    UserError::new(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, format!("{of}: not enough memory for all rows"))
        .detail("Exact figures keep every row: eight bytes each, twelve on average while the memory grows.")
        .hint("Use approx_roc_auc or approx_average_precision, or round the scores.")
}

macro_rules! methods {
    ($type:ty) => {
        fn methods() -> &'static pg_sys::ExpandedObjectMethods {
            static METHODS: pg_sys::ExpandedObjectMethods = pg_sys::ExpandedObjectMethods {
                get_flat_size: Some(flat_size::<$type>),
                flatten_into: Some(flatten::<$type>),
            };
            &METHODS
        }
    };
}

impl State for Scores {
    const OF: &'static str = "roc_auc, average_precision and threshold_table";
    methods!(Scores);

    fn size(&mut self) -> usize {
        Scores::size(self)
    }

    fn write(&mut self, out: &mut [u8]) {
        Scores::write(self, out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Scores::read(bytes)
    }

    fn merge(&mut self, other: &Self) -> Result<(), UserError> {
        Scores::merge(self, other).map_err(|_| full(Self::OF))
    }
}

impl State for Histogram {
    const OF: &'static str = "approx_roc_auc and approx_average_precision";
    methods!(Histogram);

    fn size(&mut self) -> usize {
        Histogram::size()
    }

    fn write(&mut self, out: &mut [u8]) {
        Histogram::write(self, out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Histogram::read(bytes)
    }

    fn merge(&mut self, other: &Self) -> Result<(), UserError> {
        Histogram::merge(self, other);
        Ok(())
    }
}

impl State for Labels {
    const OF: &'static str = "classification_report";
    methods!(Labels);

    fn size(&mut self) -> usize {
        self.to_bytes().len()
    }

    fn write(&mut self, out: &mut [u8]) {
        out.copy_from_slice(&self.to_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Labels::read(bytes)
    }

    fn merge(&mut self, other: &Self) -> Result<(), UserError> {
        Labels::merge(self, other).map_err(|_| too_many_classes())
    }
}

pub fn too_many_classes() -> UserError {
    let most = crate::core::metrics::labels::MOST_CLASSES;
    UserError::new(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!("classification_report of more than {most} classes"),
    )
    .detail("Labels are names of classes; it looks as if these were values of another kind.")
    .hint("For a score against two classes use threshold_table(actual, score).")
}

/// Adds one row to the scores.
pub fn add_score(state: &mut Scores, actual: bool, score: f64, weight: Option<f64>) -> Result<(), UserError> {
    let added = match weight {
        None => state.add(actual, score),
        Some(weight) => state.add_weighted(actual, score, weight),
    };
    added.map_err(|_| full(Scores::OF))
}

/// A `float8[]` without NULLs; anything else has no numbers.
pub struct Tally(*mut pg_sys::ArrayType);

impl_sql_translatable!(Tally, "double precision[]");

// SAFETY: the SQL declaration promises a float8[].
unsafe impl<'fcx> ArgAbi<'fcx> for Tally {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: an array datum is a varlena, detoasting leaves a plain one as it is.
        unsafe { Tally(pg_sys::pg_detoast_datum(raw_datum(arg).cast_mut_ptr()).cast()) }
    }
}

// SAFETY: the array is palloc'ed, in the aggregate's memory or the caller's.
unsafe impl BoxRet for Tally {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(pg_sys::Datum::from(self.0)) }
    }
}

impl Tally {
    /// Header of an array of one dimension: ArrayType, its length, its lower bound.
    const HEADER: usize = size_of::<pg_sys::ArrayType>() + 2 * size_of::<i32>();

    /// That many zeros.
    pub fn zeros(length: usize) -> Self {
        let size = Self::HEADER + length * size_of::<f64>();
        // SAFETY: the memory is large enough for header and numbers, aligned to 8 and zeroed.
        unsafe {
            let array = pg_sys::palloc0(size).cast::<pg_sys::ArrayType>();
            pgrx::varlena::set_varsize_4b(array.cast(), size as i32);
            (*array).ndim = 1;
            (*array).elemtype = pg_sys::FLOAT8OID;
            let bounds = array.add(1).cast::<i32>();
            bounds.write(length as i32);
            bounds.add(1).write(1);
            Self(array)
        }
    }

    /// Itself when an aggregate calls, whose state it then is; else a copy.
    pub fn into_changed(self, call: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: the call is that of the running function.
        if unsafe { pg_sys::AggCheckCallContext(call, std::ptr::null_mut()) } != 0 {
            return self;
        }
        let mut copy = Self::zeros(self.numbers().len());
        copy.numbers_mut().copy_from_slice(self.numbers());
        copy
    }

    fn length(&self) -> usize {
        // SAFETY: an array has its header; one of one dimension has a length behind it.
        unsafe {
            let array = &*self.0;
            let plain = array.ndim == 1 && array.dataoffset == 0 && array.elemtype == pg_sys::FLOAT8OID;
            if plain {
                self.0.add(1).cast::<i32>().read().max(0) as usize
            } else {
                0
            }
        }
    }

    pub fn numbers(&self) -> &[f64] {
        // SAFETY: that many numbers follow the header, which leaves them aligned.
        unsafe { std::slice::from_raw_parts(self.0.cast::<u8>().add(Self::HEADER).cast(), self.length()) }
    }

    pub fn numbers_mut(&mut self) -> &mut [f64] {
        // SAFETY: as above, and the array is ours to change.
        unsafe { std::slice::from_raw_parts_mut(self.0.cast::<u8>().add(Self::HEADER).cast(), self.length()) }
    }
}
