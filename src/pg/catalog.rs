//! Reads of shared catalogs in a process that is connected to no database.

use pgrx::prelude::*;

/// OIDs of the databases that accept connections, template0 and the like left out.
pub fn connectable_databases() -> Vec<u32> {
    let mut found = Vec::new();
    // SAFETY: the ordinary catalog scan of autovacuum's get_database_list(), inside a transaction; every tuple is
    // read before the scan goes on, and scan and relation are closed again.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if (*row).datallowconn && !(*row).datistemplate {
                found.push((*row).oid.to_u32());
            }
        }
        if let Some(end) = (*(*relation).rd_tableam).scan_end {
            end(scan);
        }
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    found
}
