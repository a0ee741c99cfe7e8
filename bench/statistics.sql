-- experiment_results over a million log rows, against GROUP BY user by hand for one metric (the least that user-level statistics need)
CREATE EXTENSION pg_finetune CASCADE;
INSERT INTO model (id, base_model, provider, method) VALUES ('other', 'base', 'builtin', 'none');
INSERT INTO model_evaluation (model_id, against, users, examples, seed, verdict, reason)
VALUES ('other', 'base', 0, 0, 0, 'passed', 'registered for the benchmark');
SELECT start_experiment('bench', candidate => 'other', seed => 'bench') \g /dev/null
INSERT INTO model_performance_log (user_id, signal_id, model_variant, model_id, experiment, phase, user_action, relevance_score, shown_at, actioned_at)
SELECT u.id, i::text, u.variant, u.model_id, 'bench', 1, CASE WHEN (i * 7 + u.n) % 10 < 3 THEN 'saved' WHEN (i * 7 + u.n) % 10 < 9 THEN 'skipped' END,
       (i % 10) / 10.0, now() - interval '1 day', CASE WHEN (i * 7 + u.n) % 10 < 9 THEN now() END
FROM (SELECT n, 'user-' || n AS id, a.variant, a.model_id FROM generate_series(1, 50000) n CROSS JOIN LATERAL _assignment('user-' || n, now()) a) u
CROSS JOIN generate_series(1, 20) i;
VACUUM ANALYZE model_performance_log;
CREATE TABLE result (what text, seconds double precision);
CREATE PROCEDURE measure(what text, query text) LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz;
BEGIN
    EXECUTE query;
    started := clock_timestamp();
    EXECUTE query;
    INSERT INTO result VALUES (what, extract(epoch FROM clock_timestamp() - started));
END $$;
CALL measure('GROUP BY user by hand, one metric', $$
    SELECT variant, count(*), sum(m), sum(d), sum(m * m), sum(d * d), sum(m * d)
    FROM (SELECT user_id, min(model_variant) AS variant, count(*) AS d, count(*) FILTER (WHERE user_action = 'saved') AS m
          FROM model_performance_log WHERE experiment = 'bench' GROUP BY user_id HAVING count(DISTINCT model_variant) = 1) u GROUP BY variant$$);
CALL measure('experiment_results, ten claims on eight metrics', 'SELECT * FROM experiment_results(''bench'')');
CALL measure('experiment_results, settled within an hour', 'SELECT * FROM experiment_results(''bench'', outcome_window => ''1 hour'', settled => true)');
CALL measure('experiment_health', 'SELECT * FROM experiment_health(''bench'')');
CALL measure('plan_experiment', 'SELECT * FROM plan_experiment()');
SELECT what, round(seconds::numeric, 2) AS seconds, round((seconds / first_value(seconds) OVER ())::numeric, 2) AS ratio FROM result;
