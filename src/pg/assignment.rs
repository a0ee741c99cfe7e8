//! assign_variant(): called once per row, so it asks a plan that each backend keeps, and nothing else.
//!
//! The plan is read from the tables on first use. A trigger on those tables sends a relcache invalidation with every
//! change, within its transaction: other backends forget the plan when the change is committed, the changing one at the
//! end of its statement and again when it, or its subtransaction, is undone. See docs/experiments.md, "What a
//! transaction sees".

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, CStr, CString};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};

use pgrx::prelude::*;
use pgrx::varlena::{set_varsize_4b, vardata_any, varlena_to_byte_slice, varsize_any_exhdr};

use crate::core::experiment::plan::{Definition, Plan, PlanError};
use crate::core::experiment::unit::{bigint_text, uuid_text, Buffer, TEXT_OF_UUID};
use crate::pg::errors::UserError;
use crate::pg::roles;

/// Tables that a plan is made of.
const TABLES: [&CStr; 6] = [
    c"experiment",
    c"experiment_phase",
    c"experiment_arm",
    c"experiment_pin",
    c"experiment_layer",
    c"experiment_holdout",
];

/// A plan with its variants as values that can be returned as they are.
struct Kept {
    plan: Plan,
    texts: Vec<*mut pg_sys::varlena>,
}

/// What a snapshot sees, as far as two moments of one backend can differ.
#[derive(Clone, Copy, PartialEq)]
struct Sight {
    xmin: pg_sys::TransactionId,
    xmax: pg_sys::TransactionId,
    running: (u32, i32),
    command: pg_sys::CommandId,
    changes: u64,
}

/// The plan that is valid now, or null: the one thing the fast path looks at.
static CURRENT: AtomicPtr<Kept> = AtomicPtr::new(ptr::null_mut());
/// Counts the invalidations, so that one which arrives while a plan is read is not missed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What CURRENT points to.
    static OWNED: RefCell<Option<Box<Kept>>> = const { RefCell::new(None) };
    /// A plan for one snapshot that no longer, or not yet, is what everybody sees.
    static PASSING: RefCell<Option<(Sight, Box<Kept>)>> = const { RefCell::new(None) };
    static OIDS: Cell<[pg_sys::Oid; TABLES.len()]> = const { Cell::new([pg_sys::InvalidOid; TABLES.len()]) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    /// Every variant ever answered here: a result may outlive the plan it came from, so none is ever freed.
    static TEXTS: RefCell<Vec<(String, *mut pg_sys::varlena)>> = const { RefCell::new(Vec::new()) };
}

/// Called for every relcache message: touches no catalog and cannot fail.
unsafe extern "C-unwind" fn forget(_: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || OIDS.get().contains(&relation) {
        CURRENT.store(ptr::null_mut(), Relaxed);
        CHANGES.store(CHANGES.load(Relaxed).wrapping_add(1), Relaxed);
    }
}

/// The type of an id.
#[derive(Clone, Copy)]
#[repr(C)]
enum Unit {
    Text,
    Uuid,
    Bigint,
}

/// The bytes of a text that is stored plainly; None for one that has to be fetched or unpacked first.
#[inline]
unsafe fn plain<'a>(datum: pg_sys::Datum) -> Option<&'a [u8]> {
    let value: *const pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: the caller says that it is the datum of a text; both forms are read through their own header.
    unsafe {
        (!pgrx::varlena::varatt_is_4b_c(value) && !pgrx::varlena::varatt_is_1b_e(value))
            .then(|| std::slice::from_raw_parts(vardata_any(value).cast(), varsize_any_exhdr(value)))
    }
}

/// Bytes of the unit, empty for NULL; None when only the slow path can read them.
#[inline]
unsafe fn unit<'a>(argument: &pg_sys::NullableDatum, kind: Unit, buffer: &'a mut Buffer) -> Option<&'a [u8]> {
    if argument.isnull {
        return Some(b"");
    }
    match kind {
        // SAFETY: the function's declaration says that the argument is of this type.
        Unit::Text => unsafe { plain(argument.value) },
        // SAFETY: a uuid is a pointer to 16 bytes.
        Unit::Uuid => Some(uuid_text(unsafe { &*argument.value.cast_mut_ptr::<[u8; 16]>() }, buffer)),
        Unit::Bigint => Some(bigint_text(argument.value.value() as i64, buffer)),
    }
}

/// The answer, when a plan is at hand and every argument lies there plainly.
#[inline]
unsafe fn fast(fcinfo: pg_sys::FunctionCallInfo, kind: Unit, named: bool) -> Option<pg_sys::Datum> {
    // SAFETY: Postgres passes as many arguments as the function is declared with; the plan lives until it is
    // replaced, which only the slow path does.
    unsafe {
        let kept = CURRENT.load(Relaxed).as_ref()?;
        // Each statement's first call goes the slow way, to show a role and to hear of what others committed.
        if (*(*fcinfo).flinfo).fn_extra.is_null() {
            return None;
        }
        let arguments = (*fcinfo).args.as_ptr();
        let mut buffer = [0; TEXT_OF_UUID];
        let unit = unit(&*arguments, kind, &mut buffer)?;
        let variant = if named && !(*arguments.add(1)).isnull {
            kept.plan.named(plain((*arguments.add(1)).value)?, unit)?
        } else {
            kept.plan.unnamed(unit)
        };
        Some(pg_sys::Datum::from(kept.texts[variant]))
    }
}

/// Everything else: asks for the role, reads messages and tables, unpacks arguments, raises errors.
#[pg_guard]
unsafe extern "C-unwind" fn slow(fcinfo: pg_sys::FunctionCallInfo, kind: Unit, named: bool) -> pg_sys::Datum {
    static SEEN: u8 = 0;
    // SAFETY: fcinfo comes from the function manager; fn_extra is this function's own and only ever compared with null.
    unsafe {
        let function = (*fcinfo).flinfo;
        if (*function).fn_extra.is_null() {
            if let Err(refused) = roles::require("assign_variant", &["finetune_app", "finetune_analyst"]) {
                raise(refused);
            }
            pg_sys::AcceptInvalidationMessages();
            (*function).fn_extra = ptr::addr_of!(SEEN).cast_mut().cast();
        }
        let arguments = (*fcinfo).args.as_ptr();
        let mut buffer = [0; TEXT_OF_UUID];
        let unit = match unit(&*arguments, kind, &mut buffer) {
            Some(unit) => unit,
            None => unpacked((*arguments).value),
        };
        let name = (named && !(*arguments.add(1)).isnull).then(|| unpacked((*arguments.add(1)).value));
        let schema = Schema::of((*function).fn_oid);
        let found = with_plan(&schema, |kept| {
            let variant = name.map_or(Some(kept.plan.unnamed(unit)), |name| kept.plan.named(name, unit));
            variant.map(|variant| kept.texts[variant])
        });
        match found {
            Some(text) => pg_sys::Datum::from(text),
            None => {
                schema.raise_unknown(&String::from_utf8_lossy(name.unwrap_or_default()));
                pg_sys::Datum::from(text_of(crate::core::experiment::plan::BASE))
            }
        }
    }
}

unsafe fn unpacked<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: a text; what is unpacked lives in the caller's memory context, longer than this call.
    unsafe { varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr())) }
}

fn raise(error: UserError) {
    pgrx::pg_sys::panic::ErrorReport::from(error).report(PgLogLevel::ERROR);
}

/// Where the extension's tables are: in the schema of its functions.
struct Schema {
    oid: pg_sys::Oid,
    quoted: String,
}

impl Schema {
    fn of(function: pg_sys::Oid) -> Self {
        // SAFETY: two lookups in the catalog cache; the function is running, so its schema exists.
        unsafe {
            let oid = pg_sys::get_func_namespace(function);
            let name = pg_sys::get_namespace_name(oid);
            let quoted = CStr::from_ptr(pg_sys::quote_identifier(name)).to_string_lossy().into_owned();
            Self { oid, quoted }
        }
    }

    fn raise_unknown(&self, experiment: &str) {
        let query = format!("SELECT {}._unknown_experiment($1)", self.quoted);
        let raised = Spi::connect(|client| client.select(&query, Some(1), &[experiment.into()]).map(|_| ()));
        if let Err(error) = raised {
            raise(UserError::from(error));
        }
    }
}

/// The snapshot of the running query; a caller without one gets the transaction's.
fn in_snapshot<T>(body: impl FnOnce(pg_sys::Snapshot) -> T) -> T {
    // SAFETY: pushed and popped in pairs; after an error Postgres unwinds its snapshots by itself.
    unsafe {
        if pg_sys::ActiveSnapshotSet() {
            return body(pg_sys::GetActiveSnapshot());
        }
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = body(pg_sys::GetActiveSnapshot());
        pg_sys::PopActiveSnapshot();
        result
    }
}

unsafe fn sight(snapshot: pg_sys::Snapshot) -> Sight {
    // SAFETY: the caller passes a valid MVCC snapshot.
    let s = unsafe { &*snapshot };
    Sight {
        xmin: s.xmin,
        xmax: s.xmax,
        running: (s.xcnt, s.subxcnt),
        command: s.curcid,
        changes: CHANGES.load(Relaxed),
    }
}

/// Asks the plan that this statement's snapshot sees, reading it if need be.
fn with_plan<T>(schema: &Schema, ask: impl Fn(&Kept) -> T) -> T {
    // SAFETY: CURRENT points into OWNED, which only the line below replaces.
    if let Some(kept) = unsafe { CURRENT.load(Relaxed).as_ref() } {
        return ask(kept);
    }
    in_snapshot(|snapshot| {
        // SAFETY: the active snapshot.
        let seen = unsafe { sight(snapshot) };
        let passing =
            PASSING.with_borrow(|p| p.as_ref().filter(|(sight, _)| *sight == seen).map(|(_, kept)| ask(kept)));
        if let Some(answer) = passing {
            return answer;
        }
        let (kept, lasting) = load(schema, snapshot);
        let answer = ask(&kept);
        if lasting {
            OWNED.with_borrow_mut(|owned| {
                let kept = owned.insert(kept);
                CURRENT.store(&raw mut **kept, Relaxed);
            });
        } else {
            // SAFETY: still the active snapshot; reading may have brought messages, which are in the plan already.
            PASSING.set(Some((unsafe { sight(snapshot) }, kept)));
        }
        answer
    })
}

/// The plan as the snapshot sees it, and whether later statements may use it, too: it has to be what a snapshot of this
/// moment sees. Without that, a plan read by an old snapshot would stay when its invalidation has already gone by.
fn load(schema: &Schema, snapshot: pg_sys::Snapshot) -> (Box<Kept>, bool) {
    watch(schema);
    let before = CHANGES.load(Relaxed);
    let rows = Rows::read(schema, snapshot);
    // SAFETY: plain reads of this process's state; GetLatestSnapshot is not allowed in parallel mode and not called there.
    let newest = unsafe {
        if pg_sys::ParallelWorkerNumber >= 0 {
            true // a parallel worker ends with its statement
        } else if pg_sys::IsInParallelMode() {
            false
        } else {
            let latest = pg_sys::GetLatestSnapshot();
            sight(latest) == sight(snapshot) || Rows::read(schema, latest) == rows
        }
    };
    let plan = rows.plan().unwrap_or_else(|error| {
        let error = UserError::invalid(format!("the experiments cannot be read: {error}"))
            .detail("A row of experiment, experiment_arm or experiment_holdout was written by hand.")
            .hint("Mend the row, or end the experiment with stop_experiment(name).");
        raise(error);
        Plan::new()
    });
    let texts = plan.variants.iter().map(|variant| text_of(variant)).collect();
    (Box::new(Kept { plan, texts }), newest && before == CHANGES.load(Relaxed))
}

/// Makes the callback listen to the tables as they are now: DROP and CREATE EXTENSION give them other numbers.
fn watch(schema: &Schema) {
    // SAFETY: lookups in the catalog cache; the callback is registered once in a process, there is no way back.
    OIDS.set(TABLES.map(|table| unsafe { pg_sys::get_relname_relid(table.as_ptr(), schema.oid) }));
    if !REGISTERED.replace(true) {
        // SAFETY: as above.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::from(0)) };
    }
}

/// A text that lives as long as the process.
fn text_of(variant: &str) -> *mut pg_sys::varlena {
    TEXTS.with_borrow_mut(|texts| {
        if let Some((_, text)) = texts.iter().find(|(known, _)| known == variant) {
            return *text;
        }
        // SAFETY: as much memory as is written, in a context that is never reset.
        let text = unsafe {
            let size = pg_sys::VARHDRSZ + variant.len();
            let text: *mut pg_sys::varlena = pg_sys::MemoryContextAlloc(pg_sys::TopMemoryContext, size).cast();
            set_varsize_4b(text, size as i32);
            ptr::copy_nonoverlapping(variant.as_ptr(), text.cast::<u8>().add(pg_sys::VARHDRSZ), variant.len());
            text
        };
        texts.push((variant.to_owned(), text));
        text
    })
}

type Row = Vec<Option<String>>;

/// The tables' rows as text: two readings are compared before they are understood.
#[derive(PartialEq)]
struct Rows {
    arms: Vec<Row>,
    pins: Vec<Row>,
    holdout: Vec<Row>,
}

impl Rows {
    fn read(schema: &Schema, snapshot: pg_sys::Snapshot) -> Self {
        let s = &schema.quoted;
        let arms = format!(
            "SELECT e.name, p.seed, e.hash_version, e.unit_encoding, e.unit OPERATOR(pg_catalog.=) 'user_id', \
                    e.shipped_variant, l.seed, e.layer_buckets, a.variant, a.buckets \
             FROM {s}.experiment e \
             LEFT JOIN {s}.experiment_phase p ON p.experiment OPERATOR(pg_catalog.=) e.name AND p.valid_to IS NULL \
             LEFT JOIN {s}.experiment_arm a ON a.experiment OPERATOR(pg_catalog.=) e.name AND a.phase OPERATOR(pg_catalog.=) p.phase \
             LEFT JOIN {s}.experiment_layer l ON l.name OPERATOR(pg_catalog.=) e.layer \
             ORDER BY p.phase IS NULL, e.started_at, e.name, a.ordinal"
        );
        let pins = format!(
            "SELECT t.experiment, t.user_id, t.variant FROM {s}.experiment_pin t \
             JOIN {s}.experiment_phase p ON p.experiment OPERATOR(pg_catalog.=) t.experiment AND p.valid_to IS NULL \
             JOIN {s}.experiment_arm a ON a.experiment OPERATOR(pg_catalog.=) p.experiment \
                  AND a.phase OPERATOR(pg_catalog.=) p.phase AND a.variant OPERATOR(pg_catalog.=) t.variant \
             ORDER BY t.experiment, t.user_id"
        );
        let holdout = format!("SELECT h.seed, h.buckets FROM {s}.experiment_holdout h WHERE h.valid_to IS NULL");
        // SAFETY: pushed and popped in pairs; after an error Postgres unwinds its snapshots by itself.
        unsafe { pg_sys::PushActiveSnapshot(snapshot) };
        let rows = Self { arms: select(&arms), pins: select(&pins), holdout: select(&holdout) };
        // SAFETY: see above.
        unsafe { pg_sys::PopActiveSnapshot() };
        rows
    }

    fn plan(&self) -> Result<Plan, PlanError> {
        fn text(row: &Row, at: usize) -> Option<&str> {
            row.get(at).and_then(|value| value.as_deref())
        }
        let mut plan = Plan::new();
        if let Some(row) = self.holdout.first() {
            plan.hold_out(text(row, 0).unwrap_or_default(), text(row, 1).unwrap_or_default())?;
        }
        let mut before = None;
        for row in &self.arms {
            let name = text(row, 0).unwrap_or_default();
            if before != Some(name) {
                plan.add(&Definition {
                    name,
                    seed: text(row, 1),
                    hash_version: text(row, 2).and_then(|version| version.parse().ok()).unwrap_or_default(),
                    encoding: text(row, 3).unwrap_or_default(),
                    by_user: text(row, 4) == Some("t"),
                    shipped: text(row, 5),
                    layer: text(row, 6).zip(text(row, 7)),
                })?;
                before = Some(name);
            }
            if let Some((variant, buckets)) = text(row, 8).zip(text(row, 9)) {
                plan.add_arm(variant, buckets)?;
            }
        }
        for row in &self.pins {
            let [experiment, unit, variant] = [0, 1, 2].map(|at| text(row, at).unwrap_or_default());
            plan.pin(experiment, unit, variant)?;
        }
        Ok(plan)
    }
}

/// All rows of a query under the active snapshot, as text. pgrx's own `select` takes a newer snapshot where the
/// transaction has written.
fn select(query: &str) -> Vec<Row> {
    let Ok(query) = CString::new(query) else { return Vec::new() };
    // SAFETY: SPI is left as it was found; values are copied before that. After an error Postgres cleans SPI up.
    unsafe {
        pg_sys::SPI_connect();
        pg_sys::SPI_execute(query.as_ptr(), true, 0);
        let (table, count) = (pg_sys::SPI_tuptable, pg_sys::SPI_processed as usize);
        let mut rows = Vec::with_capacity(count);
        if !table.is_null() {
            let columns = (*(*table).tupdesc).natts;
            for at in 0..count {
                let tuple = *(*table).vals.add(at);
                rows.push((1..=columns).map(|column| column_text(tuple, (*table).tupdesc, column)).collect());
            }
        }
        pg_sys::SPI_finish();
        rows
    }
}

unsafe fn column_text(tuple: pg_sys::HeapTuple, columns: pg_sys::TupleDesc, column: c_int) -> Option<String> {
    // SAFETY: the caller holds the result table that both belong to.
    let value: *mut c_char = unsafe { pg_sys::SPI_getvalue(tuple, columns, column) };
    // SAFETY: null for NULL, else a string in SPI's memory.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value).to_string_lossy().into_owned() })
}

/// The C functions of sql/assignment.sql. They are not guarded by pgrx, whose guard costs as much as the work: `fast` calls
/// nothing of Postgres and cannot panic on what it is given, and `slow` has a guard of its own.
macro_rules! assign_variant {
    ($($name:ident, $info:ident, $kind:expr, $named:expr;)*) => {$(
        #[no_mangle]
        pub extern "C-unwind" fn $info() -> &'static pg_sys::Pg_finfo_record {
            const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        /// # Safety
        /// Called by Postgres' function manager only.
        #[no_mangle]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: fcinfo is what the function manager made for this declaration.
            unsafe { fast(fcinfo, $kind, $named).unwrap_or_else(|| slow(fcinfo, $kind, $named)) }
        }
    )*};
}

assign_variant! {
    assign_variant_text, pg_finfo_assign_variant_text, Unit::Text, false;
    assign_variant_uuid, pg_finfo_assign_variant_uuid, Unit::Uuid, false;
    assign_variant_bigint, pg_finfo_assign_variant_bigint, Unit::Bigint, false;
    assign_variant_text_named, pg_finfo_assign_variant_text_named, Unit::Text, true;
    assign_variant_uuid_named, pg_finfo_assign_variant_uuid_named, Unit::Uuid, true;
    assign_variant_bigint_named, pg_finfo_assign_variant_bigint_named, Unit::Bigint, true;
}

/// Tells every backend, this one included, that a table of experiments has changed; the trigger on each of them.
#[no_mangle]
pub extern "C-unwind" fn pg_finfo_experiment_changed() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// # Safety
/// Called by Postgres' function manager only.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn experiment_changed(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: called as a trigger, the context is the trigger's data, whose relation is open.
    unsafe {
        if pgrx::trigger_support::called_as_trigger(fcinfo) {
            let data: *mut pg_sys::TriggerData = (*fcinfo).context.cast();
            pg_sys::CacheInvalidateRelcacheByRelid((*(*data).tg_relation).rd_id);
        }
    }
    pg_sys::Datum::from(0)
}
