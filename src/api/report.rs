//! report_html (sql/report.sql).

use crate::core::report::{html, Error, Report};
use crate::pg::errors::UserError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::JsonB;

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn report_page(data: JsonB) -> Result<String, ErrorReport> {
    let page = Report::of(data.0).and_then(|report| html(&report));
    Ok(page.map_err(|error| explain(&error))?)
}

fn explain(error: &Error) -> UserError {
    match error {
        Error::Data(_) => UserError::invalid("that is no data of a report")
            .detail(error.to_string())
            .hint("Call report_html(experiment), which assembles them."),
        Error::Chart(_) => {
            UserError::new(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "a figure cannot be drawn")
                .detail(error.to_string())
                .hint("The numbers are in model_metrics, experiment_results and experiment_effect_daily.")
        }
    }
}
