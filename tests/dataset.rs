//! Datasets: what is frozen and what is left out, splits without leaks, refusals, triplets and export.

mod common;

#[path = "dataset/export.rs"]
mod export;
#[path = "dataset/freeze.rs"]
mod freeze;
#[path = "dataset/report.rs"]
mod report;
#[path = "dataset/split.rs"]
mod split;
#[path = "dataset/triplets.rs"]
mod triplets;

use common::*;

/// Functions of the test that write what users did.
const FIXTURE: &str = "
    CREATE FUNCTION act(who text, what text, action text, at int, vec vector DEFAULT NULL, score float8 DEFAULT NULL,
                        surface text DEFAULT NULL, words text DEFAULT NULL, session text DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
        INSERT INTO training_data_point (user_id, id, chunk_content, embedding, user_action, actioned_at, shown_at,
                                         relevance_score, surface, session_id)
        VALUES (who, what, coalesce(words, 'about ' || what),
                coalesce(vec, ('[1,' || hashtext(what) % 97 || ',' || hashtext(what || '!') % 89 || ']')::vector), action,
                CASE WHEN action IS NOT NULL THEN '2026-01-01'::timestamptz + at * interval '1 hour' END,
                '2026-01-01'::timestamptz + at * interval '1 hour', score, surface, session)
    $$;
    -- users u1.. each with texts of their own, every third skipped
    CREATE FUNCTION act_alone(users int, items int) RETURNS void LANGUAGE sql AS $$
        SELECT act('u' || u, 'u' || u || '-' || i, CASE WHEN i % 3 = 0 THEN 'skipped' WHEN i % 3 = 1 THEN 'saved' ELSE 'snipped' END, i)
        FROM generate_series(1, users) u, generate_series(1, items) i
    $$;
    -- all users see the same texts, each in an order of the user's own
    CREATE FUNCTION act_shared(users int, items int) RETURNS void LANGUAGE sql AS $$
        SELECT act('u' || u, 't' || i, CASE WHEN (u + i) % 3 = 0 THEN 'skipped' ELSE 'saved' END, (i * (2 * u + 1)) % 1009)
        FROM generate_series(1, users) u, generate_series(1, items) i
    $$;";

fn database(fixture: &str) -> (Database<'static>, Client) {
    let db = Server::shared().create_database("dataset");
    let mut client = db.install("pgft");
    client.batch_execute(FIXTURE).unwrap();
    client.batch_execute(fixture).unwrap();
    (db, client)
}

/// A number of the newest dataset's report, by its path. (Datasets of one transaction are of one age.)
fn reported(client: &mut Client, path: &str) -> i64 {
    value(
        client,
        &format!("SELECT (report #>> '{{{path}}}')::bigint FROM dataset ORDER BY created_at DESC, ctid DESC LIMIT 1"),
    )
}
