//! Who calls. The same check as `_require_role` in sql/roles.sql, for functions written here.

use std::ffi::CString;

use pgrx::{pg_sys, PgSqlErrorCode};

use super::errors::UserError;

/// Refuses a caller without any of these roles.
///
/// # Errors
/// 42501 with the role to ask for, in the words of `_require_role`.
pub fn require(function: &str, roles: &[&str]) -> Result<(), UserError> {
    let caller = caller();
    if roles.iter().any(|role| is_member(caller, role)) {
        return Ok(());
    }
    let caller = name_of(caller);
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("permission denied for function {function}"),
    )
    .detail(format!("It takes the role {}; {caller} is not a member.", roles.join(" or ")))
    .hint(format!("Ask a superuser for: GRANT {} TO {caller};", roles[0])))
}

/// The user whose rights count now.
pub fn caller() -> pg_sys::Oid {
    // SAFETY: reads a plain variable of this backend.
    unsafe { pg_sys::GetUserId() }
}

fn is_member(caller: pg_sys::Oid, role: &str) -> bool {
    let Ok(role) = CString::new(role) else { return false };
    // SAFETY: the name ends with a NUL and outlives the call; a missing role gives InvalidOid, and nobody is a member of it but superusers.
    unsafe {
        let role = pg_sys::get_role_oid(role.as_ptr(), true);
        pg_sys::has_privs_of_role(caller, role)
    }
}

fn name_of(role: pg_sys::Oid) -> String {
    // SAFETY: the name is allocated in the current memory context and copied before it goes; quote_identifier takes any C string.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            return role.to_u32().to_string();
        }
        std::ffi::CStr::from_ptr(pg_sys::quote_identifier(name)).to_string_lossy().into_owned()
    }
}
