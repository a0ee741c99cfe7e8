//! How a model serves: query vectors, scores and adapted vectors. C side of sql/serving.sql and sql/profile.sql.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::profiles::Profile;
use crate::core::profile;
use crate::core::trainer::{lean, norm};
use crate::pg::adapters;
pub use crate::pg::adapters::Stored;
use crate::pg::errors::UserError;
use crate::pg::vector::Vector;
use crate::pg::{plans, relcache, roles, spaces, spi, statement};

/// Adapters that a backend keeps in memory, the last used first.
const KEPT_ADAPTERS: usize = 4;

/// What a statement has already worked out for a user: one query vector serves all its rows.
struct Remembered {
    user: String,
    /// None = the model of the user's variant.
    model: Option<String>,
    statement: (i64, u32),
    caller: pg_sys::Oid,
    served: Option<Rc<Served>>,
}

struct Served {
    query: Vec<f32>,
    model: Option<Rc<Stored>>,
}

/// Adapters as they were when their table was last seen to change.
#[derive(Default)]
struct Kept {
    generation: u64,
    models: Vec<(String, Rc<Stored>)>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
    static REMEMBERED: RefCell<Option<Remembered>> = const { RefCell::new(None) };
}

/// The vector to search with for a user under the user's variant; NULL when the user has saved nothing with a vector.
#[pg_extern(sql = false, stable, parallel_safe)]
fn user_query(user_id: Option<&str>) -> Result<Option<Vector>, ErrorReport> {
    roles::require("user_query", &["finetune_app"])?;
    query_vector(user_id, None)
}

/// The same under a model of the caller's choice.
#[pg_extern(sql = false, stable, parallel_safe)]
fn user_query_under(user_id: Option<&str>, model: Option<&str>) -> Result<Option<Vector>, ErrorReport> {
    roles::require("user_query", &["finetune_app"])?;
    match model {
        None => Ok(None),
        Some(_) => query_vector(user_id, model),
    }
}

fn query_vector(user_id: Option<&str>, model: Option<&str>) -> Result<Option<Vector>, ErrorReport> {
    let served = remembered(check_user_id(user_id)?, model)?;
    Ok(served.map(|served| Vector::from(served.query.clone())))
}

fn check_user_id(user_id: Option<&str>) -> Result<&str, UserError> {
    let hint = "Pass the application's user id as text; for visitors without one, skip the call.";
    match user_id {
        None => Err(UserError::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "user_id may not be NULL")
            .detail("Everything that is learned and served is keyed by user.")
            .hint(hint)),
        Some("") => Err(UserError::invalid("user_id may not be empty")
            .detail("An empty id would make all visitors without one the same user.")
            .hint(hint)),
        Some(user_id) => Ok(user_id),
    }
}

/// How relevant a vector is to a user under that user's variant, 0 to 1.
#[pg_extern(sql = false, stable, parallel_safe, strict)]
fn relevance_score(user_id: &str, embedding: Vector) -> Result<Option<f64>, ErrorReport> {
    roles::require("relevance_score", &["finetune_app"])?;
    let Some(served) = remembered(user_id, None)? else {
        return Ok(None);
    };
    let x = embedding.as_slice();
    check_dimensions("embedding", x.len(), served.query.len())?;
    Ok(cosine(x, &served.query).map(|cosine| match &served.model {
        Some(model) => model.adapter.score(cosine),
        None => (1.0 + cosine) / 2.0,
    }))
}

/// With a query of length 1; `None` for a vector without a direction.
pub fn cosine(x: &[f32], query: &[f32]) -> Option<f64> {
    let norm = norm(x);
    let dot = x.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (norm > 0.0).then(|| (dot / norm).clamp(-1.0, 1.0))
}

/// A vector taken through a model's matrix and bias, normalised.
#[pg_extern(sql = false, stable, parallel_safe, strict)]
fn adapt(embedding: Vector, model: &str) -> Result<Vector, ErrorReport> {
    roles::require("adapt", &["finetune_app"])?;
    Ok(adapted(embedding, model)?)
}

pub(super) fn adapted(embedding: Vector, model: &str) -> Result<Vector, UserError> {
    match stored(model)? {
        None => Ok(embedding),
        Some(model) => {
            check_dimensions("embedding", embedding.as_slice().len(), model.adapter.dim)?;
            Ok(Vector::from(model.adapter.adapt(embedding.as_slice())))
        }
    }
}

pub(super) fn check_dimensions(what: &str, found: usize, wanted: usize) -> Result<(), UserError> {
    if found == wanted {
        return Ok(());
    }
    Err(UserError::invalid(format!("{what} has {found} dimensions, this model works with {wanted}"))
        .detail("A model serves the vectors of the embedding model that it was trained on, and no others.")
        .hint("Pass vectors of the same embedding model, or train a new model on the new ones."))
}

fn remembered(user: &str, model: Option<&str>) -> Result<Option<Rc<Served>>, UserError> {
    let (statement, caller) = (statement::identity(), roles::caller());
    let fits = |r: &&Remembered| {
        r.statement == statement && r.caller == caller && r.user == user && r.model.as_deref() == model
    };
    if let Some(served) = REMEMBERED.with_borrow(|r| r.as_ref().filter(fits).map(|r| r.served.clone())) {
        return Ok(served);
    }
    let served = match model {
        Some(model) => serve(user, model)?,
        None => serve(user, &model_of(user)?)?,
    };
    let served = served.map(Rc::new);
    let model = model.map(str::to_owned);
    REMEMBERED.set(Some(Remembered { user: user.to_owned(), model, statement, caller, served: served.clone() }));
    Ok(served)
}

/// The model that serves a user now.
pub fn model_of(user: &str) -> Result<String, UserError> {
    let query = format!("SELECT a.model_id FROM {}._assignment($1, pg_catalog.now()) a", own_schema()?);
    let model = plans::select(&query, &[plans::text()], &[user.into()], |rows| rows.first().get_one::<String>())?;
    Ok(model.unwrap_or_else(|| "base".to_owned()))
}

fn serve(user: &str, name: &str) -> Result<Option<Served>, UserError> {
    let Some(model) = weights(name)? else { return serve_elsewhere(user, name) };
    let Some(profile) = Profile::of(user, model.as_deref())? else {
        return Ok(None);
    };
    Ok(Some(Served { query: query_of(user, profile, name, model.as_deref())?, model }))
}

/// The vector to search with: one vector, the user's own negatives and direction included.
pub fn query_of(user: &str, profile: Profile, name: &str, model: Option<&Stored>) -> Result<Vec<f32>, UserError> {
    let Some(model) = model else { return Ok(unit(profile.saved)) };
    let mut query = model.adapter.query(&profile.saved, profile.skipped.as_deref());
    if model.has_heads {
        head(user, name)?.into_iter().for_each(|head| lean(&mut query, &head));
    }
    Ok(query)
}

/// A model whose vectors stand in a column of their own, or a chat model, which leaves the searching to another one.
fn serve_elsewhere(user: &str, model: &str) -> Result<Option<Served>, UserError> {
    let found = spaces::of(&own_schema()?, model)?;
    match found.instead {
        Some(other) => serve(user, &other),
        None if found.here => {
            let query = spaces::profile(&own_schema()?, model, user)?;
            Ok(query.map(|query| Served { query: query.as_slice().to_vec(), model: None }))
        }
        None => Err(no_weights(model)),
    }
}

/// The user's own direction under a model.
fn head(user: &str, model: &str) -> Result<Option<Vec<f32>>, UserError> {
    let query = format!("SELECT {}._adapter_head($1, $2)", own_schema()?);
    Ok(plans::select(&query, &[plans::text(), plans::text()], &[model.into(), user.into()], |rows| {
        rows.first().get_one::<Vec<f32>>()
    })?)
}

fn unit(mut v: Vec<f32>) -> Vec<f32> {
    let norm = norm(&v) as f32;
    if norm > 0.0 {
        v.iter_mut().for_each(|x| *x /= norm);
    }
    v
}

/// A model that was trained here; None for 'base', which has no weights.
pub fn stored(model: &str) -> Result<Option<Rc<Stored>>, UserError> {
    weights(model)?.ok_or_else(|| no_weights(model))
}

/// The same; None outside for a model whose weights are not here.
fn weights(model: &str) -> Result<Option<Option<Rc<Stored>>>, UserError> {
    if model == "base" {
        return Ok(Some(None));
    }
    let table = spi::own_table(c"adapter").ok_or_else(not_installed)?;
    let generation = relcache::generation(table);
    let kept = KEPT.with_borrow_mut(|kept| {
        if kept.generation != generation {
            *kept = Kept { generation, models: Vec::new() };
        }
        let place = kept.models.iter().position(|(id, _)| id == model)?;
        kept.models[..=place].rotate_right(1);
        Some(kept.models[0].1.clone())
    });
    if kept.is_some() {
        return Ok(Some(kept));
    }
    let Some(read) = adapters::read(&own_schema()?, model)?.map(Rc::new) else { return Ok(None) };
    KEPT.with_borrow_mut(|kept| {
        kept.models.insert(0, (model.to_owned(), read.clone()));
        kept.models.truncate(KEPT_ADAPTERS);
    });
    Ok(Some(Some(read)))
}

fn no_weights(model: &str) -> UserError {
    UserError::unknown(format!("model \"{model}\" does not exist or has no weights here"))
        .detail("Only 'base', models of the built-in trainer and re-embedded models serve inside the database.")
        .hint("SELECT id, provider FROM model; lists the models, CALL reembed(...) makes vectors of one that stands at a provider.")
}

/// Every backend reads adapters anew after this transaction.
#[pg_extern(sql = false, volatile, parallel_unsafe)]
fn forget_adapters() -> Result<(), ErrorReport> {
    relcache::invalidate(spi::own_table(c"adapter").ok_or_else(not_installed)?);
    Ok(())
}

/// A sum of unit vectors with one more or one less.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn profile_add(
    total: Option<&[u8]>,
    embedding: Option<Vector>,
    sign: Option<i32>,
) -> Result<Option<Vec<u8>>, ErrorReport> {
    let (Some(embedding), Some(sign)) = (embedding, sign) else {
        return Ok(total.map(<[u8]>::to_vec));
    };
    let sum = profile::add(total.unwrap_or_default().to_vec(), embedding.as_slice(), i64::from(sign));
    Ok(Some(sum.ok_or_else(mixed_dimensions)?))
}

/// The sum of two sums.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn profile_merge(total: Option<&[u8]>, other: Option<&[u8]>) -> Result<Option<Vec<u8>>, ErrorReport> {
    let Some(other) = other else {
        return Ok(total.map(<[u8]>::to_vec));
    };
    let sum = profile::merge(total.unwrap_or_default().to_vec(), other);
    Ok(Some(sum.ok_or_else(mixed_dimensions)?))
}

fn mixed_dimensions() -> UserError {
    UserError::invalid("vectors of different dimensions cannot be added up")
        .detail("A sum is kept for each number of dimensions.")
        .hint("GROUP BY vector_dims(embedding).")
}

pub fn own_schema() -> Result<String, UserError> {
    spi::own_schema().ok_or_else(not_installed)
}

fn not_installed() -> UserError {
    UserError::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, "extension pg_finetune is not installed in this database")
        .detail("Its library is loaded, its tables are not there.")
        .hint("CREATE EXTENSION pg_finetune CASCADE;")
}
