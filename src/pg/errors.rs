//! Errors that users see: SQLSTATE, message, DETAIL (the fact) and HINT (the next command).

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::PgSqlErrorCode;

use super::session::{self, Failure};

/// An error on its way to a user; becomes an `ErrorReport` at the edge.
#[derive(Debug)]
pub struct UserError {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl UserError {
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None }
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn failure(self) -> Failure {
        Failure {
            code: session::sqlstate(self.code as i32),
            message: self.message,
            detail: self.detail,
            hint: self.hint,
        }
    }

    /// 22023: an argument whose value makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
    }

    /// 42704: a name that nothing answers to.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, message)
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<UserError> for ErrorReport {
    #[track_caller]
    fn from(e: UserError) -> Self {
        let mut report = ErrorReport::new(e.code, e.message, "pg_finetune");
        if let Some(detail) = e.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = e.hint {
            report = report.set_hint(hint);
        }
        report
    }
}

impl From<Failure> for UserError {
    fn from(failure: Failure) -> Self {
        let Failure { code, message, detail, hint } = failure;
        Self { code: session::code_of(&code), message, detail, hint }
    }
}

impl From<pgrx::spi::Error> for UserError {
    fn from(e: pgrx::spi::Error) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("query of pg_finetune's own tables failed: {e}"))
            .hint("The extension's objects may have been altered: compare with a fresh CREATE EXTENSION.")
    }
}
