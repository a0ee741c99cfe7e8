//! How a model serves: query vectors, scores and adapted vectors. C side of sql/serving.sql.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::core::trainer::Adapter;
use crate::pg::adapters;
use crate::pg::errors::UserError;
use crate::pg::roles;
use crate::pg::spi::own_schema;
use crate::pg::vector::Vector;

/// Adapters never change once written, so a backend may keep the last ones without being told of changes.
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
    adapter: Option<Rc<Adapter>>,
}

thread_local! {
    static ADAPTERS: RefCell<Vec<(String, Rc<Adapter>)>> = const { RefCell::new(Vec::new()) };
    static REMEMBERED: RefCell<Option<Remembered>> = const { RefCell::new(None) };
}

/// The vector to search with for a user under a model; NULL when the user has saved nothing with a vector.
#[pg_extern(sql = false, stable, parallel_safe, strict)]
fn query_vector(user_id: &str, model: &str) -> Result<Option<Vector>, ErrorReport> {
    let served = remembered(user_id, Some(model))?;
    Ok(served.map(|served| Vector::from(served.query.clone())))
}

/// How relevant a vector is to a user under that user's variant, 0 to 1.
#[pg_extern(sql = false, stable, parallel_safe, strict)]
fn relevance_score(user_id: &str, embedding: Vector) -> Result<Option<f64>, ErrorReport> {
    let Some(served) = remembered(user_id, None)? else {
        return Ok(None);
    };
    let x = embedding.as_slice();
    check_dimensions("embedding", x.len(), served.query.len())?;
    let norm = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    if norm == 0.0 {
        return Ok(None);
    }
    let dot = x.iter().zip(&served.query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = (dot / norm).clamp(-1.0, 1.0);
    Ok(Some(match &served.adapter {
        Some(adapter) => adapter.score(cosine),
        None => (1.0 + cosine) / 2.0,
    }))
}

/// A vector taken through a model's matrix and bias, normalised.
#[pg_extern(sql = false, stable, parallel_safe, strict)]
fn adapt(embedding: Vector, model: &str) -> Result<Vector, ErrorReport> {
    roles::require("adapt", &["finetune_app"])?;
    match adapter(model)? {
        None => Ok(embedding),
        Some(adapter) => {
            check_dimensions("embedding", embedding.as_slice().len(), adapter.dim)?;
            Ok(Vector::from(adapter.adapt(embedding.as_slice())))
        }
    }
}

fn check_dimensions(what: &str, found: usize, wanted: usize) -> Result<(), UserError> {
    if found == wanted {
        return Ok(());
    }
    Err(UserError::invalid(format!("{what} has {found} dimensions, this model works with {wanted}"))
        .detail("A model serves the vectors of the embedding model that it was trained on, and no others.")
        .hint("Pass vectors of the same embedding model, or train a new model on the new ones."))
}

fn remembered(user: &str, model: Option<&str>) -> Result<Option<Rc<Served>>, UserError> {
    let (statement, caller) = (crate::pg::statement::identity(), roles::caller());
    let fits = |r: &&Remembered| {
        r.statement == statement && r.caller == caller && r.user == user && r.model.as_deref() == model
    };
    if let Some(served) = REMEMBERED.with_borrow(|r| r.as_ref().filter(fits).map(|r| r.served.clone())) {
        return Ok(served);
    }
    let served = match model {
        Some(model) => serve(user, model)?,
        None => {
            roles::require("relevance_score", &["finetune_app"])?;
            serve(user, &model_of(user)?)?
        }
    };
    let served = served.map(Rc::new);
    let model = model.map(str::to_owned);
    REMEMBERED.set(Some(Remembered { user: user.to_owned(), model, statement, caller, served: served.clone() }));
    Ok(served)
}

/// The model that serves a user now.
fn model_of(user: &str) -> Result<String, UserError> {
    let query = format!("SELECT a.model_id FROM {}._assignment($1, pg_catalog.now()) a", schema()?);
    let model = Spi::connect(|client| client.select(&query, Some(1), &[user.into()])?.first().get_one::<String>())?;
    Ok(model.unwrap_or_else(|| "base".to_owned()))
}

fn serve(user: &str, model: &str) -> Result<Option<Served>, UserError> {
    let adapter = adapter(model)?;
    let Some(profile) = Profile::of(user, model, adapter.as_ref().map(|a| a.dim))? else {
        return Ok(None);
    };
    let query = match &adapter {
        Some(adapter) => adapter.query(&profile.saved, profile.skipped.as_deref()),
        None => unit(profile.saved),
    };
    Ok(Some(Served { query, adapter }))
}

fn unit(mut v: Vec<f32>) -> Vec<f32> {
    let norm = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
    if norm > 0.0 {
        v.iter_mut().for_each(|x| *x /= norm);
    }
    v
}

/// Mean of the unit vectors that a user saved, and of those skipped when there are enough of them.
struct Profile {
    saved: Vec<f32>,
    skipped: Option<Vec<f32>>,
}

impl Profile {
    fn of(user: &str, model: &str, dimensions: Option<usize>) -> Result<Option<Self>, UserError> {
        let schema = schema()?;
        let query = format!("SELECT p.saved, p.skipped FROM {schema}._profile($1, $2, $3) p");
        let dimensions = dimensions.map(|d| d as i32);
        Spi::connect(|client| {
            let mut rows = client.select(&query, Some(1), &[user.into(), model.into(), dimensions.into()])?;
            let Some(row) = rows.next() else {
                return Ok(None);
            };
            let saved: Option<Vec<f32>> = row.get(1)?;
            let skipped: Option<Vec<f32>> = row.get(2)?;
            Ok::<_, pgrx::spi::Error>(saved.map(|saved| Self { saved, skipped }))
        })
        .map_err(UserError::from)
    }
}

/// The adapter of a model; None for 'base', which has none.
fn adapter(model: &str) -> Result<Option<Rc<Adapter>>, UserError> {
    if model == "base" {
        return Ok(None);
    }
    let kept = ADAPTERS.with_borrow(|kept| kept.iter().find(|(id, _)| id == model).map(|(_, adapter)| adapter.clone()));
    if kept.is_some() {
        return Ok(kept);
    }
    let adapter = Rc::new(read_adapter(model)?);
    ADAPTERS.with_borrow_mut(|kept| {
        kept.insert(0, (model.to_owned(), adapter.clone()));
        kept.truncate(KEPT_ADAPTERS);
    });
    Ok(Some(adapter))
}

fn read_adapter(model: &str) -> Result<Adapter, UserError> {
    adapters::read(&schema()?, model)?.ok_or_else(|| {
        UserError::unknown(format!("model \"{model}\" does not exist or has no weights here"))
            .detail("Only 'base' and models of the built-in trainer serve inside the database.")
            .hint("SELECT id, provider FROM model; lists the models, model_for(user_id) says which one a user gets.")
    })
}

fn schema() -> Result<String, UserError> {
    own_schema().ok_or_else(|| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "extension pg_finetune is not installed in this database",
        )
        .detail("Its library is loaded, its tables are not there.")
        .hint("CREATE EXTENSION pg_finetune CASCADE;")
    })
}
