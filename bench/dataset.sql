-- create_dataset against a plain copy of the same rows, random triplets against a bare join, export_jsonl against row_to_json: processor time
CREATE EXTENSION pg_finetune CASCADE;
\if :{?points} \else \set points 1000000 \endif
SELECT setseed(0.5);
CREATE TABLE vectors AS SELECT i AS n, (SELECT array_agg((random() - 0.5)::real) FROM generate_series(1, 384) WHERE i = i)::vector AS v FROM generate_series(0, 4999) i;
INSERT INTO training_data_point (user_id, id, source, signal_id, chunk_id, chunk_content, embedding, user_action, actioned_at, shown_at, relevance_score, surface)
SELECT 'user-' || i % (:points / 100), 'signal:' || i, 'signal', i::text, 'chunk-' || i, repeat('some words of passage ' || i || ' ', 18), v,
       CASE WHEN i / (:points / 100) % 3 = 0 THEN 'saved' ELSE 'skipped' END, t, t, random(), 'feed'
FROM (SELECT i, '2026-01-01'::timestamptz + (i::bigint * 7919 % 1000003) * interval '10 s' AS t FROM generate_series(1, :points) i) s
JOIN vectors ON n = (i::bigint * 7919 + i / (:points / 100)) % 5000; -- a user's are all different
VACUUM ANALYZE training_data_point;
CREATE TABLE plain (LIKE dataset_example INCLUDING ALL);
CREATE TABLE result (what text, ours double precision, plain double precision, unit text, ours_wall double precision, plain_wall double precision);
-- Seconds that this server process has been on a processor: other work on the machine does not count, nor does waiting for a disk.
CREATE FUNCTION on_cpu() RETURNS double precision LANGUAGE sql VOLATILE AS
$$ SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::double precision / 1e9 $$;

CREATE PROCEDURE measure(what text, plain text, ours text, unit text, rows_of text) LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz;
    before double precision;
    seconds double precision[] := '{}';
    wall double precision[] := '{}';
    size double precision;
    query text;
BEGIN
    FOREACH query IN ARRAY ARRAY[plain, ours] LOOP
        COMMIT;
        CHECKPOINT;
        started := clock_timestamp();
        before := on_cpu();
        EXECUTE query;
        seconds := seconds || on_cpu() - before;
        wall := wall || extract(epoch FROM clock_timestamp() - started)::double precision;
    END LOOP;
    IF rows_of IS NOT NULL THEN
        EXECUTE rows_of INTO size;
        -- a rate: more is better
        INSERT INTO result VALUES (what, size / seconds[2], size / seconds[1], unit, wall[2], wall[1]);
    ELSE
        INSERT INTO result VALUES (what, seconds[2], seconds[1], unit, wall[2], wall[1]);
    END IF;
END $$;

SET jit = off;
SET max_parallel_workers_per_gather = 0;
CALL measure('create_dataset: ' || :points || ' points x 384 d, against INSERT ... SELECT of the same rows',
    'INSERT INTO plain (user_id, dataset_id, id, chunk_id, chunk_content, content_hash, twin_of, embedding, user_action, label, evidence, weight, split,
            relevance_score, surface, session_id, context, reason, shown_at, actioned_at)
     SELECT user_id, gen_random_uuid(), id, chunk_id, chunk_content, sha256(''x''), NULL, embedding, user_action, user_action = ''saved'',
            ''good'', 1, ''train'', relevance_score, surface, session_id, NULL, NULL, shown_at, actioned_at FROM training_data_point',
    'SELECT create_dataset(''d'')', 's', NULL);
SELECT split_part(line, ':', 1) AS backend, btrim(split_part(line, ':', 2)) AS peak
FROM regexp_split_to_table(pg_read_file('/proc/self/status'), E'\n') line WHERE line ~ '^(VmHWM|RssAnon)';
DROP TABLE plain;
ANALYZE dataset_example;

-- a bare join of as many rows with as many texts: what it costs to build and hand over such rows at all
CREATE TABLE texts AS SELECT row_number() OVER () AS n, user_id, id, chunk_content FROM dataset_example WHERE split = 'train';
CREATE INDEX ON texts (n);
VACUUM ANALYZE texts;
SELECT count(*) AS examples, 4 * count(*) FILTER (WHERE label) AS triplets FROM dataset_example WHERE split = 'train' \gset
CALL measure('contrastive_triplets: ' || :triplets || ' random ones, against a generate_series join of the same width',
    format('SELECT count(t) FROM (SELECT ROW(a.user_id, a.id, p.id, n.id, a.chunk_content, p.chunk_content, n.chunk_content, false) AS t
            FROM generate_series(1, %s) i JOIN texts a ON a.n = 1 + i %% %s JOIN texts p ON p.n = 1 + i * 7 %% %2$s JOIN texts n ON n.n = 1 + i * 13 %% %2$s OFFSET 0) x',
           :triplets, :examples),
    'SELECT count(t) FROM (SELECT contrastive_triplets(''d'', 4, ''random'') AS t OFFSET 0) x', 's', NULL);
DROP TABLE texts;
SELECT count(*) AS "triplets made" FROM contrastive_triplets('d', 4, 'random');

CALL measure('export_jsonl: raw, against row_to_json of the same columns',
    'COPY (SELECT row_to_json(r) FROM (SELECT user_id, id, chunk_id, chunk_content AS text, context, user_action AS action, label, reason, evidence, weight, split,
            relevance_score, surface, session_id, actioned_at FROM dataset_example WHERE split = ''train'') r) TO ''/dev/null''',
    'COPY (SELECT export_jsonl(''d'', ''raw'')) TO ''/dev/null''', 'MB/s',
    'SELECT sum(octet_length(row_to_json(r)::text)) / 1e6 FROM (SELECT user_id, id, chunk_id, chunk_content AS text, context, user_action AS action, label, reason,
            evidence, weight, split, relevance_score, surface, session_id, actioned_at FROM dataset_example WHERE split = ''train'') r');
SELECT what, round(ours::numeric, 2) AS ours, round(plain::numeric, 2) AS plain, unit, round((ours / plain)::numeric, 2) AS ratio,
       round(ours_wall::numeric, 1) AS ours_wall_s, round(plain_wall::numeric, 1) AS plain_wall_s FROM result;
