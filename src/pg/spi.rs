//! Helpers for queries of our own tables.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

/// The namespace of this extension, or None where it is not installed.
pub fn own_namespace() -> Option<pg_sys::Oid> {
    // SAFETY: lookups of the catalogs inside a transaction; `true` makes a missing extension no error.
    let namespace = unsafe {
        let extension = pg_sys::get_extension_oid(c"pg_finetune".as_ptr(), true);
        if extension == pg_sys::InvalidOid {
            return None;
        }
        pg_sys::get_extension_schema(extension)
    };
    (namespace != pg_sys::InvalidOid).then_some(namespace)
}

/// The schema of this extension, quoted, or None where it is not installed.
pub fn own_schema() -> Option<String> {
    let namespace = own_namespace()?;
    // SAFETY: a lookup that returns a palloc'ed string, or NULL for a namespace that is gone.
    let name = unsafe {
        let name = pg_sys::get_namespace_name(namespace);
        (!name.is_null()).then(|| std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    name.map(quote_identifier)
}

/// The OID of one of the extension's tables.
pub fn own_table(name: &std::ffi::CStr) -> Option<pg_sys::Oid> {
    let namespace = own_namespace()?;
    // SAFETY: a catalog lookup by name; an unknown one gives InvalidOid.
    let table = unsafe { pg_sys::get_relname_relid(name.as_ptr(), namespace) };
    (table != pg_sys::InvalidOid).then_some(table)
}

/// The installed version of the extension's SQL side.
pub fn installed_version() -> Option<String> {
    Spi::get_one("SELECT extversion FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'pg_finetune'")
        .ok()
        .flatten()
}

/// First column of all rows of a query, which may write; without NULLs.
pub fn texts(query: &str, args: &[DatumWithOid]) -> Vec<String> {
    let read = Spi::connect_mut(|client| {
        client.update(query, None, args)?.map(|row| row.get::<String>(1)).collect::<Result<Vec<_>, _>>()
    });
    read.unwrap_or_report().into_iter().flatten().collect()
}
