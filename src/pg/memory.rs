//! Memory contexts for reads that would otherwise keep what they detoast until the transaction ends.

use pgrx::PgMemoryContexts;

/// Runs `body` with a memory context of its own as the current one, and frees that context. pgrx detoasts values into
/// the parent of the current context: SPI's own has the transaction's as parent, which would keep every vector.
/// `body` must return values of Rust's own.
pub fn in_own_context<T>(name: &'static str, body: impl FnOnce() -> T) -> T {
    let mut outer = PgMemoryContexts::new(name);
    // SAFETY: what Postgres allocates in there is not used after `body`, whose result owns its memory.
    unsafe { outer.switch_to(|_| body()) }
}
