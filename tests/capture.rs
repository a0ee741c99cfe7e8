//! Capture: application tables become training data, without ever standing in the application's way.

mod common;

#[path = "capture/attach.rs"]
mod attach;
#[path = "capture/failures.rs"]
mod failures;
#[path = "capture/history.rs"]
mod history;
#[path = "capture/people.rs"]
mod people;
#[path = "capture/replica.rs"]
mod replica;
#[path = "capture/security.rs"]
mod security;
#[path = "capture/tables.rs"]
mod tables;
#[path = "capture/upkeep.rs"]
mod upkeep;
#[path = "capture/writes.rs"]
mod writes;

use common::*;

/// A small application: signals about chunks, and the view that maps them.
const APPLICATION: &str = "
    SET search_path = public, pgft;
    CREATE TABLE public.chunk (id bigint PRIMARY KEY, content text, embedding vector(3));
    INSERT INTO chunk SELECT i, 'chunk ' || i, ARRAY[i, 1, 2]::real[]::vector FROM generate_series(1, 9) i;
    CREATE TABLE public.signal (
        id bigint PRIMARY KEY, user_id bigint NOT NULL DEFAULT 7, chunk_id bigint DEFAULT 1, user_action text,
        actioned_at timestamptz, shown_at timestamptz DEFAULT now(), score real, hidden boolean DEFAULT false);
    CREATE VIEW public.signal_for_training AS
        SELECT s.id AS signal_id, s.user_id, s.chunk_id, c.content AS chunk_content, c.embedding, s.user_action,
               s.actioned_at, s.shown_at, s.score AS relevance_score, 'home'::text AS surface
        FROM public.signal s JOIN public.chunk c ON c.id = s.chunk_id WHERE NOT s.hidden;";

/// A database with the application in it, not yet captured; the connection is the superuser's.
fn application() -> (Database<'static>, Client) {
    let db = Server::shared().create_database("capture");
    let mut sql = db.install("pgft");
    execute(&mut sql, APPLICATION);
    (db, sql)
}

/// The same, captured.
fn captured() -> (Database<'static>, Client) {
    let (db, mut sql) = application();
    execute(&mut sql, "SELECT capture_signals('signal', via => 'signal_for_training')");
    (db, sql)
}

/// "signal_id user_action changes" of every data point.
fn points(sql: &mut impl GenericClient) -> Vec<String> {
    values(
        sql,
        "SELECT concat_ws(' ', signal_id, coalesce(user_action, '-'), \
        changes) FROM pgft.training_data_point ORDER BY length(signal_id), signal_id",
    )
}

/// "signal_id user_action" of every row of the log.
fn log(sql: &mut impl GenericClient) -> Vec<String> {
    values(
        sql,
        "SELECT concat_ws(' ', signal_id, coalesce(user_action, \
        '-')) FROM pgft.model_performance_log ORDER BY length(signal_id), signal_id",
    )
}

/// "operation code signal ids" of every failure that is not healed.
fn failures(sql: &mut impl GenericClient) -> Vec<String> {
    values(
        sql,
        "SELECT concat_ws(' ', operation, error_code, \
        signal_ids::text) FROM pgft.capture_failure WHERE healed_at IS NULL ORDER BY id",
    )
}

fn none() -> Vec<String> {
    Vec::new()
}
