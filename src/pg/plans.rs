//! Queries that this backend has planned already: planning costs more than most of ours take to run.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, Result, SpiTupleTable};

thread_local! {
    static PLANS: RefCell<HashMap<String, Rc<OwnedPreparedStatement>>> = RefCell::new(HashMap::new());
}

/// Runs a query that reads, planned once per backend and text; Postgres plans it anew when its tables change.
///
/// # Errors
/// Of the query, or of `read`.
pub fn select<'a, R>(
    query: &str,
    types: &[PgOid],
    args: &[DatumWithOid<'a>],
    read: impl FnOnce(SpiTupleTable<'_>) -> Result<R>,
) -> Result<R> {
    Spi::connect(|client| {
        let known = PLANS.with_borrow(|plans| plans.get(query).cloned());
        let plan = match known {
            Some(plan) => plan,
            None => {
                let plan = Rc::new(client.prepare(query, types)?.keep());
                PLANS.with_borrow_mut(|plans| plans.insert(query.to_owned(), plan.clone()));
                plan
            }
        };
        read(client.select(&*plan, None, args)?)
    })
}

/// `text`, the type of nearly every argument.
pub fn text() -> PgOid {
    PgBuiltInOids::TEXTOID.oid()
}
