-- Jobs: submitting, watching, cancelling. What the worker does with them stands in worker.sql.

CREATE FUNCTION _check_hyperparameters(provider text, method text, hyperparameters jsonb) RETURNS void
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_hyperparameters_wrapper';
COMMENT ON FUNCTION _check_hyperparameters(text, text, jsonb) IS 'pg_finetune private: ERROR 22023 that names the parameter and its range when one does not fit';
REVOKE ALL ON FUNCTION _check_hyperparameters(text, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_hyperparameters(text, text, jsonb) TO finetune_admin;

CREATE FUNCTION _wake_worker() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'wake_worker_wrapper';
COMMENT ON FUNCTION _wake_worker() IS 'pg_finetune private: the worker looks at this database when the current transaction commits';
REVOKE ALL ON FUNCTION _wake_worker() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _wake_worker() TO finetune_admin;

CREATE FUNCTION _job_is_open(state text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN state NOT IN ('succeeded', 'failed', 'cancelled', 'expired');
COMMENT ON FUNCTION _job_is_open(text) IS 'pg_finetune private: whether a job in this state can still change';
REVOKE ALL ON FUNCTION _job_is_open(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _job_is_open(text) TO finetune_app, finetune_analyst, finetune_admin;

CREATE FUNCTION _event(job uuid, level text, message text, data jsonb DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.fine_tuning_event (job_id, level, message, data) VALUES (job, level, message, data);
END $$;
COMMENT ON FUNCTION _event(uuid, text, text, jsonb) IS 'pg_finetune private: one line in the history of a job';
REVOKE ALL ON FUNCTION _event(uuid, text, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _event(uuid, text, text, jsonb) TO finetune_admin;

CREATE FUNCTION _check_provider_can_train(provider text, base_model text, method text) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    protocol text;
BEGIN
    IF provider <> 'builtin' THEN
        SELECT o.option_value INTO protocol
        FROM pg_foreign_server s
        JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'pg_finetune'
        CROSS JOIN LATERAL pg_options_to_table(s.srvoptions) o
        WHERE s.srvname = provider AND o.option_name = 'protocol';
        IF protocol IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'undefined_object',
                MESSAGE = format('provider "%s" does not exist', provider),
                DETAIL = format('Known providers: %s.', (
                    SELECT string_agg(quote_ident(p.name), ', ' ORDER BY p.name <> 'builtin', p.name)
                    FROM (SELECT 'builtin' UNION ALL
                          SELECT s.srvname::text FROM pg_foreign_server s
                          JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'pg_finetune') p(name))),
                HINT = 'Use provider => ''builtin'', or CREATE SERVER ... FOREIGN DATA WRAPPER pg_finetune first.';
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('provider "%s" cannot run jobs in this version', provider),
            DETAIL = format('Its protocol is %s; this version trains with the built-in trainer only.', protocol),
            HINT = 'Use provider => ''builtin'', or write the training file with export_jsonl() and start the job at the provider yourself.';
    END IF;
    IF base_model IS DISTINCT FROM 'base' THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('base model "%s" is not known to the built-in trainer', base_model),
            DETAIL = 'The built-in trainer starts from the embeddings that the application stored: base_model ''base''.',
            HINT = 'Call fine_tune(..., base_model => ''base'').';
    END IF;
    IF method IS DISTINCT FROM 'contrastive' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('method "%s" is not known to the built-in trainer', method),
            DETAIL = 'Methods of the built-in trainer: contrastive.',
            HINT = 'Call fine_tune(..., method => ''contrastive'').';
    END IF;
END $$;
COMMENT ON FUNCTION _check_provider_can_train(text, text, text) IS 'pg_finetune private: ERROR with a hint unless the provider exists and trains this model by this method';
REVOKE ALL ON FUNCTION _check_provider_can_train(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_provider_can_train(text, text, text) TO finetune_admin;

CREATE FUNCTION fine_tune(
    dataset         text,
    provider        text DEFAULT 'builtin',
    base_model      text DEFAULT 'base',
    method          text DEFAULT 'contrastive',
    hyperparameters jsonb DEFAULT '{}',
    seed            bigint DEFAULT 42,
    timeout         interval DEFAULT '24 hours'
) RETURNS uuid
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_dataset uuid := @extschema@._dataset_id(dataset);
    v_job     uuid;
BEGIN
    IF provider IS NULL OR hyperparameters IS NULL OR seed IS NULL OR timeout IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'provider, hyperparameters, seed and timeout may not be NULL',
            DETAIL = 'Each has a default that is used when the argument is left out.',
            HINT = 'Call SELECT fine_tune(''' || dataset || '''); and name only what differs.';
    END IF;
    IF timeout <= interval '0' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('timeout must be positive, not %s', timeout),
            DETAIL = 'A job that is not done by then ends as expired.',
            HINT = 'Leave it out for the default of 24 hours.';
    END IF;
    PERFORM @extschema@._check_provider_can_train(provider, base_model, method);
    PERFORM @extschema@._check_hyperparameters(provider, method, hyperparameters);

    INSERT INTO @extschema@.fine_tuning_job (dataset_id, provider, base_model, method, hyperparameters, seed, deadline_at)
    VALUES (v_dataset, provider, base_model, method, hyperparameters, seed, now() + timeout)
    ON CONFLICT DO NOTHING
    RETURNING id INTO v_job;
    IF v_job IS NULL THEN
        SELECT j.id INTO v_job FROM @extschema@.fine_tuning_job j
        WHERE j.dataset_id = v_dataset AND j.provider = fine_tune.provider AND j.base_model = fine_tune.base_model
          AND j.method = fine_tune.method AND j.hyperparameters = fine_tune.hyperparameters AND j.seed = fine_tune.seed
          AND @extschema@._job_is_open(j.state);
        RAISE NOTICE 'the same job is already open: %', v_job;
        RETURN v_job;
    END IF;
    PERFORM @extschema@._event(v_job, 'info', format('submitted by %s', current_user),
                               jsonb_build_object('dataset', dataset, 'provider', provider, 'seed', seed));
    PERFORM @extschema@._wake_worker();
    RETURN v_job;
END $$;
COMMENT ON FUNCTION fine_tune(text, text, text, text, jsonb, bigint, interval) IS
    'Submits a job that trains a model on a dataset (''name'' = its newest version, or ''name:version'') and returns its id at once; the worker starts it when the transaction commits. The same job submitted again while open returns the first one''s id';
REVOKE ALL ON FUNCTION fine_tune(text, text, text, text, jsonb, bigint, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fine_tune(text, text, text, text, jsonb, bigint, interval) TO finetune_admin;

CREATE FUNCTION _job_state(job uuid) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_state text;
BEGIN
    SELECT j.state INTO v_state FROM @extschema@.fine_tuning_job j WHERE j.id = job;
    IF v_state IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('job "%s" does not exist', job),
            DETAIL = format('There are %s jobs.', (SELECT count(*) FROM @extschema@.fine_tuning_job)),
            HINT = 'SELECT id, state FROM fine_tuning_jobs ORDER BY created_at DESC; lists them.';
    END IF;
    RETURN v_state;
END $$;
COMMENT ON FUNCTION _job_state(uuid) IS 'pg_finetune private: state of a job, ERROR 42704 when there is none';
REVOKE ALL ON FUNCTION _job_state(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _job_state(uuid) TO finetune_analyst, finetune_admin;

CREATE FUNCTION cancel_job(job uuid) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_state text := @extschema@._job_state(job);
BEGIN
    UPDATE @extschema@.fine_tuning_job j
    SET cancel_requested = true,
        state       = CASE WHEN j.token IS NULL THEN 'cancelled' ELSE j.state END,
        stage       = CASE WHEN j.token IS NULL THEN 'cancelled before it began' ELSE j.stage END,
        finished_at = CASE WHEN j.token IS NULL THEN now() END
    WHERE j.id = job AND @extschema@._job_is_open(j.state)
    RETURNING j.state INTO v_state;
    IF NOT FOUND THEN
        RAISE NOTICE 'job % has already ended: %', job, @extschema@._job_state(job);
        RETURN @extschema@._job_state(job);
    END IF;
    PERFORM @extschema@._event(job, 'info', format('cancel asked for by %s', current_user));
    PERFORM @extschema@._wake_worker();
    RETURN v_state;
END $$;
COMMENT ON FUNCTION cancel_job(uuid) IS 'Stops a job: one that waits ends at once, one that trains within a second or so. Returns the state after the call; a job that has ended stays as it is';
REVOKE ALL ON FUNCTION cancel_job(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cancel_job(uuid) TO finetune_admin;

CREATE FUNCTION retry_job(job uuid) RETURNS uuid
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_state text := @extschema@._job_state(job);
BEGIN
    UPDATE @extschema@.fine_tuning_job j
    SET state = 'pending', stage = 'waiting for a worker', progress = 0, step = 0, loss = NULL, validation_auc = NULL,
        attempt = 0, token = NULL, cancel_requested = false, due_at = now(),
        deadline_at = now() + (j.deadline_at - j.created_at),
        error_code = NULL, error_message = NULL, error_hint = NULL, started_at = NULL, finished_at = NULL
    WHERE j.id = job AND j.state IN ('failed', 'cancelled', 'expired');
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('job "%s" cannot be retried', job),
            DETAIL = format('It is %s; failed, cancelled and expired jobs can be retried.', v_state),
            HINT = 'Submit a new one with fine_tune().';
    END IF;
    PERFORM @extschema@._event(job, 'info', format('retried by %s', current_user));
    PERFORM @extschema@._wake_worker();
    RETURN job;
END $$;
COMMENT ON FUNCTION retry_job(uuid) IS 'Runs a failed, cancelled or expired job again, with the same dataset, parameters and seed';
REVOKE ALL ON FUNCTION retry_job(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION retry_job(uuid) TO finetune_admin;

-- A procedure that commits may not pin its search_path, so everything in it is qualified.
CREATE PROCEDURE wait_for_job(job uuid, INOUT state text DEFAULT NULL, timeout interval DEFAULT '24 hours')
    LANGUAGE plpgsql AS $$
DECLARE
    v_until pg_catalog.timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) timeout;
BEGIN
    LOOP
        state := @extschema@._job_state(job);
        EXIT WHEN NOT @extschema@._job_is_open(state);
        IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) v_until THEN
            RAISE EXCEPTION USING ERRCODE = 'query_canceled',
                MESSAGE = pg_catalog.format('job "%s" is still %s after %s', job, state, timeout),
                DETAIL = 'The job goes on; only the waiting has ended.',
                HINT = 'SELECT * FROM worker_status(); says what it waits for.';
        END IF;
        COMMIT; -- a new snapshot, and none held while asleep
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
    IF state OPERATOR(pg_catalog.<>) 'succeeded' THEN
        RAISE NOTICE 'job % %: %', job, state,
            (SELECT pg_catalog.concat_ws(' ', j.error_message, j.error_hint) FROM @extschema@.fine_tuning_job j WHERE j.id OPERATOR(pg_catalog.=) job);
    END IF;
END $$;
COMMENT ON PROCEDURE wait_for_job(uuid, text, interval) IS 'Returns when the job has ended, with its final state; CALL it outside a transaction block. ERROR 57014 after timeout';
REVOKE ALL ON PROCEDURE wait_for_job(uuid, text, interval) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE wait_for_job(uuid, text, interval) TO finetune_analyst, finetune_admin;

CREATE VIEW fine_tuning_jobs AS
SELECT j.id,
       d.name AS dataset,
       d.version AS dataset_version,
       j.provider, j.method, j.state, j.stage, j.progress, j.step, j.steps, j.loss, j.validation_auc,
       CASE WHEN j.state OPERATOR(pg_catalog.=) 'running' AND j.progress OPERATOR(pg_catalog.>) 0.01::double precision
            THEN (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) j.started_at)
                 OPERATOR(pg_catalog.*) ((1::double precision OPERATOR(pg_catalog.-) j.progress) OPERATOR(pg_catalog./) j.progress)
       END AS eta,
       0::numeric AS cost_usd,
       j.model_id,
       g.verdict,
       COALESCE(j.error_message, g.reason) AS outcome,
       j.error_code, j.error_hint, j.attempt, j.seed, j.owner, j.created_at, j.started_at, j.finished_at
FROM @extschema@.fine_tuning_job j
JOIN @extschema@.dataset d ON d.id OPERATOR(pg_catalog.=) j.dataset_id
LEFT JOIN LATERAL @extschema@._gate(j.model_id) g ON true;
COMMENT ON VIEW fine_tuning_jobs IS 'All jobs with state, progress (0-1), step, loss, estimated time left, cost, gate verdict and what became of them';
