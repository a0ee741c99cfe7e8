//! Helpers for queries of our own tables.

use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

/// The schema of this extension, quoted, or None where it is not installed.
pub fn own_schema() -> Option<String> {
    Spi::connect(|client| {
        client
            .select(
                "SELECT n.nspname::pg_catalog.text FROM pg_catalog.pg_extension e \
                 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
                 WHERE e.extname OPERATOR(pg_catalog.=) 'pg_finetune'",
                Some(1),
                &[],
            )
            .ok()?
            .first()
            .get_one::<String>()
            .ok()?
    })
    .map(quote_identifier)
}

/// The installed version of the extension's SQL side.
pub fn installed_version() -> Option<String> {
    Spi::get_one("SELECT extversion FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'pg_finetune'")
        .ok()
        .flatten()
}
