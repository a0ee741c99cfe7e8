-- assign_variant(user_id) and the hash alone, against hashtextextended(user_id, 0) % 2
CREATE EXTENSION pg_finetune CASCADE;
-- A second model, registered by hand: only its name matters here.
INSERT INTO model (id, base_model, provider, method) VALUES ('other', 'base', 'builtin', 'none');
INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
VALUES ('other', 'base', 0, 0, 0, 'passed', 'registered for the benchmark');
SELECT start_experiment('bench', candidate => 'other', seed => 'bench') \g /dev/null
CREATE TABLE users AS SELECT 'user-' || i AS id FROM generate_series(1, 100000) i;
CREATE TABLE result (what text, us_per_call double precision);
CREATE PROCEDURE measure(what text, query text) LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz;
BEGIN
    EXECUTE query;
    started := clock_timestamp();
    EXECUTE query;
    INSERT INTO result VALUES (what, extract(epoch FROM clock_timestamp() - started) * 1e6 / 100000);
END $$;
CALL measure('hashtextextended(user_id, 0) % 2', 'SELECT count(hashtextextended(id, 0) % 2) FROM users');
CALL measure('bucket(seed, user_id)', 'SELECT count(bucket(''bench'', id)) FROM users');
CALL measure('assign_variant(user_id)', 'SELECT count(assign_variant(id)) FROM users');
SELECT what, round(us_per_call::numeric, 3) AS us_per_call, round((us_per_call / min(us_per_call) OVER ())::numeric, 1) AS ratio FROM result ORDER BY 2;
