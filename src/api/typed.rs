//! Typed questions under a model. C side of sql/typed.sql.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::serving;
use crate::pg::errors::UserError;
use crate::pg::roles;
use crate::pg::vector::Vector;

/// A vector taken through a model as the task asks.
#[pg_extern(sql = false, stable, parallel_safe, strict)]
fn adapt_for(embedding: Vector, model: &str, task: &str) -> Result<Vector, ErrorReport> {
    roles::require("adapt", &["finetune_app"])?;
    match task {
        "profile" => Ok(serving::adapted(embedding, model)?),
        "query" => Ok(asked(embedding, model)?),
        other => Err(UserError::invalid(format!("task \"{other}\" is not known"))
            .detail("A model turns profiles and typed questions each in its own way.")
            .hint("Tasks: 'profile', 'query'.")
            .into()),
    }
}

/// A typed question's vector under the model of the user's variant.
#[pg_extern(sql = false, stable, parallel_safe, strict)]
fn typed_query(user_id: &str, query_embedding: Vector) -> Result<Vector, ErrorReport> {
    roles::require("user_query", &["finetune_app"])?;
    Ok(asked(query_embedding, &serving::model_of(user_id)?)?)
}

fn asked(embedding: Vector, model: &str) -> Result<Vector, UserError> {
    match serving::stored(model)? {
        None => Ok(embedding),
        Some(model) => {
            serving::check_dimensions("query_embedding", embedding.as_slice().len(), model.adapter.dim)?;
            Ok(Vector::from(model.adapter.adapt_typed(embedding.as_slice())))
        }
    }
}
