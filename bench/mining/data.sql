-- 16,667 topics in 100 fields, 12 texts each; every text is its field, its topic and noise. 2,000 users like one topic each and saved ten texts
-- of it; the other 180,000 texts were shown to people who skipped them. Whether a text is to somebody's liking is known here: its topic tells.
SET client_min_messages = warning;
CREATE EXTENSION pg_finetune CASCADE;
SELECT setseed(0.5);
CREATE FUNCTION noise(seed bigint) RETURNS vector LANGUAGE sql VOLATILE AS
    $$ SELECT l2_normalize(array_agg((random() + random() + random() - 1.5)::real)::vector) FROM generate_series(1, 384) WHERE seed = seed $$;
CREATE FUNCTION times(v vector, by real) RETURNS vector LANGUAGE sql IMMUTABLE AS $$ SELECT v * array_fill(by, ARRAY[384])::vector $$;
CREATE TABLE field AS SELECT i AS field, noise(i) AS v FROM generate_series(0, 99) i;
CREATE TABLE topic AS SELECT i AS topic, field.v + noise(i) AS v FROM generate_series(0, 16666) i JOIN field ON field = i % 100;
CREATE TABLE passage AS SELECT i AS passage, topic, l2_normalize(v + times(noise(i), 0.8)) AS v FROM generate_series(0, 199999) i JOIN topic ON topic = i % 16667;
CREATE TABLE likes AS SELECT 'u' || u AS user_id, u AS topic FROM generate_series(0, 1999) u;
CREATE TABLE saved AS SELECT 'u' || u AS user_id, u + 16667 * n AS passage FROM generate_series(0, 1999) u, generate_series(0, 9) n;
INSERT INTO training_data_point (user_id, id, chunk_content, embedding, user_action, actioned_at, shown_at)
SELECT coalesce(s.user_id, 'b' || p.passage % 1800), p.passage::text, 'passage ' || p.passage, p.v, CASE WHEN s.user_id IS NULL THEN 'skipped' ELSE 'saved' END,
       '2026-01-01'::timestamptz + p.passage * interval '1 minute', '2026-01-01'
FROM passage p LEFT JOIN saved s USING (passage);
SELECT create_dataset('mining', test_share => 0, min_user_saved => 0, min_user_skipped => 0) \g /dev/null
ANALYZE;
