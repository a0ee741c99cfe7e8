-- user_query() against the mean computed in SQL, and KNN with it against KNN with a vector at hand (10,000 users x 240 saves, 384 dimensions)
\if :{?users} \else \set users 10000 \endif
CREATE EXTENSION pg_finetune CASCADE;
CREATE TABLE chunk (id int PRIMARY KEY, embedding vector(384) NOT NULL);
SELECT setseed(0.5) \g /dev/null
INSERT INTO chunk
SELECT i, (SELECT array_agg(random() - 0.4) FROM generate_series(1, 384) WHERE i = i)::real[]::vector FROM generate_series(1, 20000) i;
CREATE INDEX ON chunk USING hnsw (embedding vector_cosine_ops);
\timing on
\echo 'data points, with their profiles:'
INSERT INTO training_data_point (user_id, id, chunk_content, embedding, user_action, actioned_at)
SELECT 'user-' || u, s::text, 'text', c.embedding, 'saved', now()
FROM generate_series(1, :users) u CROSS JOIN generate_series(1, 240) s
JOIN chunk c ON c.id = 1 + (u * 7919 + s * 104729) % 20000;
\timing off
VACUUM ANALYZE;
-- A model for 384 dimensions, full matrix, so that its product is paid for.
INSERT INTO model (id, base_model, provider, method, dimensions) VALUES ('full', 'base', 'builtin', 'contrastive', 384);
INSERT INTO adapter (model_id, dimensions, matrix, bias, digest)
SELECT 'full', 384, array_agg((random() - 0.5 + CASE WHEN i % 385 = 0 THEN 5 ELSE 0 END)::real ORDER BY i), array_fill(0.01::real, ARRAY[384]), ''
FROM generate_series(0, 384 * 384 - 1) i;
INSERT INTO deployment (model_id, action) VALUES ('full', 'deploy');

CREATE FUNCTION timed(what text, statement text, calls int, users int) RETURNS TABLE (call text, p50_us numeric, p99_us numeric)
LANGUAGE plpgsql AS $$
DECLARE
    begun timestamptz;
    took double precision[];
    dummy text;
BEGIN
    FOR i IN 1 .. calls LOOP
        begun := clock_timestamp();
        EXECUTE statement INTO dummy USING 'user-' || 1 + (i * 7919) % users;
        took := took || extract(epoch FROM clock_timestamp() - begun)::float8 * 1e6;
    END LOOP;
    RETURN QUERY SELECT what, round(percentile_cont(0.5) WITHIN GROUP (ORDER BY t)::numeric, 1), round(percentile_cont(0.99) WITHIN GROUP (ORDER BY t)::numeric, 1)
                 FROM unnest(took[10:]) t;
END $$;
CREATE TEMP TABLE result AS
SELECT 1 AS place, * FROM timed('the mean in SQL', 'SELECT avg(l2_normalize(embedding)) FROM training_data_point WHERE user_id = $1 AND user_action IN (''saved'', ''snipped'')', 1000, :users)
UNION ALL SELECT 2, * FROM timed('user_query(user, ''base'')', 'SELECT user_query($1, ''base'')', 1000, :users)
UNION ALL SELECT 3, * FROM timed('user_query(user), a trained model', 'SELECT user_query($1)', 1000, :users)
UNION ALL SELECT 4, * FROM timed('nothing', 'SELECT $1', 1000, :users);
SELECT call, p50_us, p99_us, round((SELECT p50_us FROM result WHERE place = 1) / p50_us, 1) AS times_faster_p50,
       round((SELECT p99_us FROM result WHERE place = 1) / p99_us, 1) AS times_faster_p99
FROM result ORDER BY place;

-- KNN, ten neighbours by index: the vector at hand as a literal against user_query() in place.
SET hnsw.ef_search = 100;
CREATE TEMP TABLE query AS SELECT 'user-' || u AS user_id, user_query('user-' || u) AS vector FROM generate_series(1, least(1000, :users)) u;
CREATE FUNCTION knn(kind text, calls int) RETURNS TABLE (call text, p50_us numeric, p99_us numeric)
LANGUAGE plpgsql AS $$
DECLARE
    q record;
    begun timestamptz;
    took double precision[];
    dummy int[];
BEGIN
    FOR q IN SELECT * FROM query LIMIT calls LOOP
        begun := clock_timestamp();
        IF kind = 'rank_signals' THEN
            EXECUTE 'SELECT array_agg(chunk_id) FROM rank_signals($1, 10, ''chunk'')' INTO dummy USING q.user_id;
        ELSIF kind = 'vector' THEN
            EXECUTE 'SELECT array_agg(id) FROM (SELECT id FROM chunk ORDER BY embedding <=> $1 LIMIT 10) t' INTO dummy USING q.vector;
        ELSE
            EXECUTE 'SELECT array_agg(id) FROM (SELECT id FROM chunk ORDER BY embedding <=> (SELECT user_query($1)) LIMIT 10) t' INTO dummy USING q.user_id;
        END IF;
        took := took || extract(epoch FROM clock_timestamp() - begun)::float8 * 1e6;
    END LOOP;
    RETURN QUERY SELECT kind, round(percentile_cont(0.5) WITHIN GROUP (ORDER BY t)::numeric, 1), round(percentile_cont(0.99) WITHIN GROUP (ORDER BY t)::numeric, 1)
                 FROM unnest(took[10:]) t;
END $$;
SELECT knn('vector', 300) AS warm \gset
CREATE TEMP TABLE knn_result AS SELECT * FROM knn('vector', 1000) UNION ALL SELECT * FROM knn('user_query', 1000);
SELECT call AS knn_with, p50_us, p99_us, round(p50_us / (SELECT p50_us FROM knn_result WHERE call = 'vector'), 2) AS ratio FROM knn_result;
-- Two stages: 200 candidates, each beside the user's 240 saved items and the counts of others.
UPDATE adapter SET knn3_weight = 0.5, popularity_weight = 0.2;
INSERT INTO chunk_popularity SELECT 'full', i, i % 7, 7 + i % 3 FROM generate_series(1, 20000) i;
SELECT knn('rank_signals', 20) AS warm \gset
SELECT call AS two_stages, p50_us, p99_us FROM knn('rank_signals', 300);
