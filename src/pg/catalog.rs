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

/// Whether the owner of a relation is the current role or a member of it: then that owner gains nothing by being obeyed.
pub fn is_trusted(relation: &str) -> bool {
    let Ok(oid) = relation.parse::<u32>() else { return false };
    // SAFETY: a system cache entry is read while it is held, and released.
    unsafe {
        let entry = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(oid));
        if entry.is_null() {
            return false;
        }
        let owner = (*pg_sys::GETSTRUCT(entry).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(entry);
        pg_sys::is_member_of_role(owner, pg_sys::GetUserId())
    }
}

/// The function that is being called.
pub fn called_function(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Oid {
    // SAFETY: the function manager fills in which function it calls.
    unsafe { (*(*fcinfo).flinfo).fn_oid }
}
