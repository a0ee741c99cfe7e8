//! Foreign servers and user mappings of the wrapper `pg_finetune`, read as the current user.

use std::ffi::{CStr, CString};

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

use super::spi;
use crate::providers::options::Place;
use crate::providers::protocol::Server;
use crate::providers::secret::Secret;

/// A provider as CREATE SERVER and CREATE USER MAPPING describe it.
pub struct Provider {
    pub server: Server,
    pub key: Key,
}

/// Where the key stands.
#[derive(Clone)]
pub enum Key {
    Value(Secret),
    Env(String),
    File(String),
}

/// The provider with the key of the current user; None when there is no such server.
/// Raises Postgres' own errors for a missing user mapping or a missing right to use the server.
pub fn provider(name: &str) -> Option<Provider> {
    // SAFETY: reads who the current user is.
    of_user(name, unsafe { pg_sys::GetUserId() })
}

/// The same for a role by name; raises Postgres' own error when there is no such role.
pub fn provider_of(name: &str, role: &str) -> Option<Provider> {
    let role = CString::new(role).ok()?;
    // SAFETY: a catalog look-up inside a transaction.
    of_user(name, unsafe { pg_sys::get_role_oid(role.as_ptr(), false) })
}

fn of_user(name: &str, user: pg_sys::Oid) -> Option<Provider> {
    let name = CString::new(name).ok()?;
    // SAFETY: catalog look-ups inside a transaction; the results live in the current memory context and are copied.
    unsafe {
        let server = pg_sys::GetForeignServerByName(name.as_ptr(), true);
        if server.is_null() || !is_ours((*server).fdwid) {
            return None;
        }
        let right =
            pg_sys::object_aclcheck(pg_sys::ForeignServerRelationId, (*server).serverid, user, pg_sys::ACL_USAGE as _);
        if right != pg_sys::AclResult::ACLCHECK_OK {
            pg_sys::aclcheck_error(right, pg_sys::ObjectType::OBJECT_FOREIGN_SERVER, name.as_ptr());
        }
        let mapping = pg_sys::GetUserMapping(user, (*server).serverid);
        let of_superuser = pg_sys::superuser_arg((*server).owner);
        let mut described = Server::new(options((*server).options));
        described.of_superuser = of_superuser;
        let role = CStr::from_ptr(pg_sys::GetUserNameFromId(user, false)).to_string_lossy();
        check_origin(&name.to_string_lossy(), &role, &described.origins());
        Some(Provider { server: described, key: key(options((*mapping).options)) })
    }
}

/// Raises an error unless the role's key was stored for these origins: whoever owns the server may have moved it since.
fn check_origin(provider: &str, role: &str, origins: &str) {
    let Some(schema) = spi::own_schema() else { return };
    let query = format!("SELECT {schema}._check_key_origin($1, $2, $3)");
    Spi::run_with_args(&query, &[provider.into(), role.into(), origins.into()]).unwrap_or_report();
}

fn key(options: Vec<(String, String)>) -> Key {
    options.into_iter().fold(Key::Value(Secret::new("")), |found, (name, value)| match name.as_str() {
        "api_key" => Key::Value(Secret::new(value)),
        "api_key_env" => Key::Env(value),
        "api_key_file" => Key::File(value),
        _ => found,
    })
}

unsafe fn is_ours(wrapper: pg_sys::Oid) -> bool {
    // SAFETY: the wrapper of an existing server exists; its name is a C string.
    unsafe { CStr::from_ptr((*pg_sys::GetForeignDataWrapper(wrapper)).fdwname) == c"pg_finetune" }
}

unsafe fn options(list: *mut pg_sys::List) -> Vec<(String, String)> {
    // SAFETY: a list of DefElem with string values, as the catalogs return it.
    unsafe {
        pgrx::PgList::<pg_sys::DefElem>::from_pg(list)
            .iter_ptr()
            .map(|element| {
                let text = |p: *const std::ffi::c_char| CStr::from_ptr(p).to_string_lossy().into_owned();
                (text((*element).defname), text(pg_sys::defGetString(element)))
            })
            .collect()
    }
}

/// The kind of object whose options are validated.
pub fn place(catalog: pg_sys::Oid) -> Place {
    match catalog {
        pg_sys::ForeignServerRelationId => Place::Server,
        pg_sys::UserMappingRelationId => Place::UserMapping,
        pg_sys::ForeignTableRelationId => Place::ForeignTable,
        _ => Place::Wrapper,
    }
}

pub fn is_superuser() -> bool {
    // SAFETY: a look-up of the current user.
    unsafe { pg_sys::superuser() }
}
