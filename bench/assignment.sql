-- assign_variant(user_id) over 1 million users, against hashtextextended(user_id, 0) % 2
CREATE EXTENSION pg_finetune CASCADE;
-- A second model, registered by hand: only its name matters here.
INSERT INTO model (id, base_model, provider, method) VALUES ('other', 'base', 'builtin', 'none');
INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
VALUES ('other', 'base', 0, 0, 0, 'passed', 'registered for the benchmark');
SELECT start_experiment('bench', candidate => 'other', seed => 'bench') \g /dev/null
CREATE TABLE users AS SELECT 'user-' || i AS id, md5(i::text)::uuid AS uuid, i::bigint AS number FROM generate_series(1, 1000000) i;
VACUUM ANALYZE users;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE result (what text, us_per_call double precision);
-- The best of five: the others had to wait for the machine.
CREATE PROCEDURE measure(what text, query text) LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz;
    best double precision;
BEGIN
    FOR i IN 1..5 LOOP
        started := clock_timestamp();
        EXECUTE query;
        best := least(best, extract(epoch FROM clock_timestamp() - started) * 1e6 / 1000000);
    END LOOP;
    INSERT INTO result VALUES (what, best);
END $$;
CALL measure('hashtextextended(user_id, 0) % 2', 'SELECT count(hashtextextended(id, 0) % 2) FROM users');
CALL measure('assign_variant(user_id)', 'SELECT count(assign_variant(id)) FROM users');
CALL measure('assign_variant(user_id, experiment)', 'SELECT count(assign_variant(id, ''bench'')) FROM users');
CALL measure('assign_variant(uuid)', 'SELECT count(assign_variant(uuid)) FROM users');
CALL measure('assign_variant(bigint)', 'SELECT count(assign_variant(number)) FROM users');
CALL measure('bucket(seed, user_id)', 'SELECT count(bucket(''bench'', id)) FROM users');
SELECT what, round(us_per_call::numeric, 3) AS us_per_call,
       round((us_per_call / (SELECT us_per_call FROM result WHERE what LIKE 'hashtext%'))::numeric, 2) AS ratio
FROM result ORDER BY 2;
-- The same experiment in GrowthBook's Python SDK, one evaluation a user as an application does it.
SELECT export_growthbook() AS features \gset
SELECT us_per_call AS ours FROM result WHERE what = 'assign_variant(user_id)' \gset
\setenv FEATURES :features
\setenv OURS :ours
\! PYTHONPATH=$("$PGFT_ROOT"/scripts/growthbook.sh) python3 "$PGFT_ROOT"/bench/assignment/sdk.py
