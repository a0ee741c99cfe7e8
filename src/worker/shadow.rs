//! A look at live impressions: draw, score in batches, compare. Each step is a transaction of its own, so that no snapshot
//! lives longer than one batch.

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

use super::failpoint;
use crate::pg::session::{Failure, Session};

/// Impressions scored in one transaction.
const BATCH: i32 = 200;

/// When one is due, or asked for by hand. What cannot be compared is written down and holds up nothing else.
pub fn look(session: &Session, schema: &str, by_hand: bool) -> Result<(), Failure> {
    let begin = format!("SELECT {schema}._begin_shadow_look($1)");
    let begun = session.transaction(|| Spi::get_one_with_args::<i64>(&begin, &[by_hand.into()]).unwrap_or_report())?;
    let Some(deployment) = begun else { return Ok(()) };
    let Err(failure) = finish(session, schema, deployment) else { return Ok(()) };
    let failed = format!("SELECT {schema}._shadow_failed($1, $2)");
    let args = [deployment.into(), failure.message.as_str().into()];
    session.transaction(|| Spi::run_with_args(&failed, &args).unwrap_or_report())
}

fn finish(session: &Session, schema: &str, deployment: i64) -> Result<(), Failure> {
    let score = format!("SELECT s.seen FROM {schema}._score_shadows($1, $2) s");
    loop {
        check_for_interrupts!();
        let args = [deployment.into(), BATCH.into()];
        let scored =
            session.transaction(|| Spi::get_one_with_args::<i32>(&score, &args).unwrap_or_report())?.unwrap_or(0);
        failpoint::reached(session, "shadows scored");
        if scored < BATCH {
            break;
        }
    }
    let finish = format!("SELECT {schema}._finish_shadow_look($1)");
    session.transaction(|| Spi::run_with_args(&finish, &[deployment.into()]).unwrap_or_report())
}
