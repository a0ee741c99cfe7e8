//! A small application whose users have a taste that can be learned.

use super::{execute, value};
use postgres::Client;

/// Chunks with vectors of 8 dimensions, `users` x 40 signals with saves and skips over 25 days, oldest first, captured.
/// Everybody's vectors share a large common part; each user likes one of four hidden directions.
pub fn application(client: &mut Client, users: u32) {
    let sql = "
        SELECT setseed(0.25);
        CREATE TABLE chunk (id bigint PRIMARY KEY, content text NOT NULL, embedding vector(8) NOT NULL);
        INSERT INTO chunk
        SELECT i, 'chunk ' || i || ' ' || md5(i::text),
               (SELECT array_agg(0.4 + random() - 0.5) FROM generate_series(1, 8) WHERE i = i)::real[]::vector
        FROM generate_series(1, 1000) i;
        CREATE TABLE signal (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            user_id text NOT NULL, chunk_id bigint NOT NULL REFERENCES chunk,
            user_action text, actioned_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(),
            relevance_score double precision, surface text NOT NULL DEFAULT 'feed');
        CREATE VIEW signal_for_training AS
        SELECT s.id AS signal_id, s.user_id, s.chunk_id, c.content AS chunk_content, c.embedding, s.user_action, s.actioned_at,
               s.created_at AS shown_at, s.relevance_score, s.surface
        FROM signal s JOIN chunk c ON c.id = s.chunk_id;
        CREATE FUNCTION likes(user_id text, embedding vector) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
            SELECT ((embedding::real[])[1 + abs(hashtext(user_id)) % 4] - 0.4) * 8 > 0.8 $$;
        SELECT capture_signals('signal', via => 'signal_for_training')";
    execute(client, sql);
    let shown = format!(
        "INSERT INTO signal (user_id, chunk_id, created_at)
         SELECT 'user-' || u, 1 + floor(random() * 1000)::int, now() - interval '30 days' + random() * interval '25 days'
         FROM generate_series(1, {users}) u, generate_series(1, 40)"
    );
    execute(client, &shown);
    act(client);
}

/// Every pending signal gets the action that fits its user's taste, an hour after it was shown.
pub fn act(client: &mut Client) {
    let sql = "
        UPDATE signal s
        SET user_action = CASE WHEN likes(s.user_id, c.embedding) THEN 'saved' ELSE 'skipped' END,
            actioned_at = s.created_at + interval '1 hour'
        FROM chunk c WHERE c.id = s.chunk_id AND s.user_action IS NULL";
    execute(client, sql);
}

/// Freezes dataset `name` and submits a job; returns the job's id.
pub fn submit(client: &mut Client, name: &str) -> String {
    execute(client, &format!("SELECT create_dataset('{name}')"));
    value(client, &format!("SELECT fine_tune('{name}')::text"))
}

/// Waits for a job and returns its final state.
pub fn wait_for_job(client: &mut Client, job: &str) -> String {
    value(client, &format!("CALL wait_for_job('{job}', timeout => '60 s')"))
}
