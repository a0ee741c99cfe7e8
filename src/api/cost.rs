//! C side of sql/prices.sql: what a training file would hold, without writing or sending one.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::Value;

use crate::core::dataset::export::Format;
use crate::core::dataset::Part;
use crate::pg::dataset_lines::Lines;
use crate::pg::dataset_rows::user_error;
use crate::pg::errors::UserError;
use crate::providers::fault::Fault;
use crate::providers::protocol::{Caps, FileView, JobView, Protocol, Server, Training};
use crate::providers::{self, tokens};

/// A training file that is only counted: its size, and the beginning that the tokenizer looks at.
struct Counted {
    view: FileView,
    sample: Vec<u8>,
}

#[pg_extern(sql = false, stable, strict)]
#[allow(clippy::type_complexity)]
fn count_training_tokens(
    dataset: &str,
    options: Vec<Option<String>>,
    model: &str,
    method: &str,
) -> Result<
    TableIterator<'static, (name!(training_rows, i64), name!(tokens, i64), name!(counted, String), name!(told, bool))>,
    ErrorReport,
> {
    let server = Server::of(options);
    let Some(protocol) = providers::by_name(&server.protocol) else {
        return Err(UserError::invalid(format!("protocol \"{}\" is not known in this version", server.protocol))
            .detail("docs/providers.md lists the protocols.")
            .hint("Use another provider.")
            .into());
    };
    let caps = protocol.caps(&server);
    let job = view(server, model, method, &caps)?;
    let format: Format = protocol.format(&job).map_err(refused)?.parse().map_err(user_error)?;
    let file = file(dataset, format, &job, protocol, &caps)?;
    let found = tokens::count(&job.server.protocol, model, &file.sample, file.view.bytes);
    Ok(TableIterator::once((file.view.rows as i64, found.tokens as i64, found.how, protocol.estimate(&job).is_some())))
}

/// A job as far as its file depends on it; without a method the protocol's first.
fn view(server: Server, model: &str, method: &str, caps: &Caps) -> Result<JobView, UserError> {
    let named = caps.methods.iter().copied().find(|known| known.name() == method);
    let known = || caps.methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ");
    let method = match method {
        "" => caps.methods.first().copied().unwrap_or(Training::Sft),
        _ => named.ok_or_else(|| {
            UserError::invalid(format!("method \"{method}\" is not known to protocol {}", server.protocol))
                .detail(format!("Its methods: {}.", known()))
                .hint("Leave method out for the first of them.")
        })?,
    };
    Ok(JobView { method, base_model: model.to_owned(), server, remote: Value::Null, ..JobView::default() })
}

/// The file that a job would upload: without what goes into its validation file.
fn file(
    dataset: &str,
    format: Format,
    job: &JobView,
    protocol: &dyn Protocol,
    caps: &Caps,
) -> Result<Counted, UserError> {
    if protocol.takes_validation(job) && caps.validation_share > 0.0 {
        let kept = count(dataset, format, Part::Kept { share: caps.validation_share })?;
        if kept.view.rows >= caps.min_rows {
            return Ok(kept);
        }
    }
    count(dataset, format, Part::Whole)
}

fn count(dataset: &str, format: Format, part: Part) -> Result<Counted, UserError> {
    let mut lines = Lines::open_part(dataset, format, part)?;
    let mut counted = Counted { view: FileView::default(), sample: Vec::new() };
    while let Some(batch) = lines.batch()? {
        check_for_interrupts!();
        for line in batch {
            counted.view.rows += 1;
            counted.view.bytes += line.len() as u64 + 1;
            if counted.sample.len() < tokens::SAMPLE {
                counted.sample.extend_from_slice(line.as_bytes());
                counted.sample.push(b'\n');
            }
        }
    }
    Ok(counted)
}

fn refused(fault: Fault) -> UserError {
    UserError::invalid(fault.to_string())
        .detail("The training file of such a job has no format.")
        .hint("Choose another method: docs/providers.md has a table.")
}
