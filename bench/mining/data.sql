-- 2,000 topics; every text is a topic and noise. 2,000 users like three topics each and saved ten texts of them; the other 180,000 texts
-- were shown to people who skipped them. Whether a text is to somebody's liking is known here: its topic tells.
SET client_min_messages = warning;
CREATE EXTENSION pg_finetune CASCADE;
SELECT setseed(0.5);
CREATE FUNCTION noise(seed bigint) RETURNS vector LANGUAGE sql VOLATILE AS
    $$ SELECT array_agg((random() + random() + random() - 1.5)::real)::vector FROM generate_series(1, 384) WHERE seed = seed $$;
CREATE TABLE topic AS SELECT i AS topic, noise(i) AS v FROM generate_series(0, 1999) i;
CREATE TABLE passage AS SELECT i AS passage, i % 2000 AS topic, l2_normalize(v + noise(i)) AS v FROM generate_series(0, 199999) i JOIN topic ON topic = i % 2000;
CREATE TABLE likes AS SELECT 'u' || u AS user_id, (u * 7 + k * 641) % 2000 AS topic FROM generate_series(0, 1999) u, generate_series(0, 2) k;
-- three users like each topic; each saves texts of its own there: ten in all
CREATE TABLE saved AS
SELECT 'u' || u AS user_id, (u * 7 + n % 3 * 641) % 2000 + 2000 * (n % 3 * 30 + n / 3) AS passage FROM generate_series(0, 1999) u, generate_series(0, 9) n;
INSERT INTO training_data_point (user_id, id, chunk_content, embedding, user_action, actioned_at, shown_at)
SELECT coalesce(s.user_id, 'b' || p.passage % 1800), p.passage::text, 'passage ' || p.passage, p.v, CASE WHEN s.user_id IS NULL THEN 'skipped' ELSE 'saved' END,
       '2026-01-01'::timestamptz + p.passage * interval '1 minute', '2026-01-01'
FROM passage p LEFT JOIN saved s USING (passage);
SELECT create_dataset('mining', test_share => 0, min_user_saved => 0, min_user_skipped => 0) \g /dev/null
ANALYZE;
