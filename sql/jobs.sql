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

CREATE FUNCTION _check_provider_job(options text[], method text, hyperparameters jsonb) RETURNS void
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_provider_job_wrapper';
COMMENT ON FUNCTION _check_provider_job(text[], text, jsonb) IS 'pg_finetune private: ERROR 22023 when a protocol does not train by this method';
REVOKE ALL ON FUNCTION _check_provider_job(text[], text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_provider_job(text[], text, jsonb) TO finetune_admin;

CREATE FUNCTION _provider_server(provider text, OUT protocol text, OUT base_url text)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT max(o.option_value) FILTER (WHERE o.option_name = 'protocol'), max(o.option_value) FILTER (WHERE o.option_name = 'base_url')
    INTO protocol, base_url
    FROM pg_foreign_server s
    JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'pg_finetune'
    CROSS JOIN LATERAL pg_options_to_table(s.srvoptions) o
    WHERE s.srvname = provider;
END $$;
COMMENT ON FUNCTION _provider_server(text) IS 'pg_finetune private: protocol and address of a provider, NULL when there is no such server';
REVOKE ALL ON FUNCTION _provider_server(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _provider_server(text) TO finetune_analyst, finetune_admin;

CREATE FUNCTION _protocol_of(provider text) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_protocol text := (SELECT s.protocol FROM @extschema@._provider_server(provider) s);
BEGIN
    IF v_protocol IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('provider "%s" does not exist', provider),
            DETAIL = format('Known providers: %s.', (
                SELECT string_agg(quote_ident(p.name), ', ' ORDER BY p.name <> 'builtin', p.name)
                FROM (SELECT 'builtin' UNION ALL
                      SELECT s.srvname::text FROM pg_foreign_server s
                      JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'pg_finetune') p(name))),
            HINT = 'Use provider => ''builtin'', or CREATE SERVER ... FOREIGN DATA WRAPPER pg_finetune first.';
    END IF;
    RETURN v_protocol;
END $$;
COMMENT ON FUNCTION _protocol_of(text) IS 'pg_finetune private: protocol of a provider, ERROR 42704 when there is no such server';
REVOKE ALL ON FUNCTION _protocol_of(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _protocol_of(text) TO finetune_analyst, finetune_admin;

CREATE FUNCTION _check_provider_use(provider text, owner text) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_server_privilege(owner::name, provider, 'USAGE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('role "%s" may not use provider "%s"', owner, provider),
            DETAIL = 'Jobs use a provider with the rights of the role that owns them.',
            HINT = format('GRANT USAGE ON FOREIGN SERVER %I TO %I;', provider, owner);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_user_mappings m WHERE m.srvname = provider AND (m.umuser = 0 OR m.usename = owner)) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" has no key for provider "%s"', owner, provider),
            DETAIL = 'The key of a provider stands in the user mapping of the role that owns the job, or of PUBLIC.',
            HINT = format('CREATE USER MAPPING FOR %I SERVER %I OPTIONS (api_key_env ''...'');', owner, provider);
    END IF;
    PERFORM @extschema@._check_key_origin(provider, owner,
        (SELECT @extschema@._provider_origin(s.srvoptions) FROM pg_foreign_server s WHERE s.srvname = provider));
END $$;
COMMENT ON FUNCTION _check_provider_use(text, text) IS 'pg_finetune private: ERROR unless the role may use the provider and has a key for it';
REVOKE ALL ON FUNCTION _check_provider_use(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_provider_use(text, text) TO finetune_admin;

CREATE FUNCTION _check_provider_can_train(provider text, base_model text, method text, owner text DEFAULT current_user) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF provider <> 'builtin' THEN
        PERFORM @extschema@._protocol_of(provider);
        PERFORM @extschema@._check_provider_use(provider, owner);
        IF base_model IS NULL OR base_model IN ('', 'base') THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('provider "%s" needs the name of a base model', provider),
                DETAIL = 'The default, ''base'', is the built-in trainer''s word for the embeddings that the application stored.',
                HINT = format('CALL check_provider(%L); names the models that the provider offers.', provider);
        END IF;
        RETURN;
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
COMMENT ON FUNCTION _check_provider_can_train(text, text, text, text) IS 'pg_finetune private: ERROR with a hint unless the provider exists, the role may use it and it trains this model by this method';
REVOKE ALL ON FUNCTION _check_provider_can_train(text, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_provider_can_train(text, text, text, text) TO finetune_admin;

CREATE FUNCTION _check_parameters(provider text, method text, hyperparameters jsonb) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF provider = 'builtin' THEN
        PERFORM @extschema@._check_hyperparameters(provider, method, hyperparameters);
    ELSE
        PERFORM @extschema@._check_provider_job((SELECT s.srvoptions FROM pg_foreign_server s WHERE s.srvname = provider), COALESCE(method, ''), hyperparameters);
    END IF;
END $$;
COMMENT ON FUNCTION _check_parameters(text, text, jsonb) IS 'pg_finetune private: ERROR 22023 when method or hyperparameters do not fit the provider';
REVOKE ALL ON FUNCTION _check_parameters(text, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_parameters(text, text, jsonb) TO finetune_admin;

CREATE FUNCTION _submit_job(owner text, dataset text, provider text, base_model text, method text, hyperparameters jsonb, seed bigint,
                            timeout interval, max_usd numeric, validation double precision DEFAULT NULL) RETURNS uuid
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_dataset uuid := @extschema@._dataset_id(dataset);
    v_job     uuid;
BEGIN
    PERFORM @extschema@._check_provider_can_train(provider, base_model, method, owner);
    PERFORM @extschema@._check_parameters(provider, method, hyperparameters);
    INSERT INTO @extschema@.fine_tuning_job
        (dataset_id, provider, base_model, method, hyperparameters, seed, deadline_at, owner, max_usd, validation_share, phase, base_url)
    VALUES (v_dataset, provider, base_model, method, hyperparameters, seed, now() + timeout, owner, max_usd, validation,
            CASE WHEN provider <> 'builtin' THEN 'prepare' END, (SELECT s.base_url FROM @extschema@._provider_server(provider) s))
    ON CONFLICT DO NOTHING
    RETURNING id INTO v_job;
    IF v_job IS NULL THEN
        SELECT j.id INTO v_job FROM @extschema@.fine_tuning_job j
        WHERE j.dataset_id = v_dataset AND j.provider = _submit_job.provider AND j.base_model = _submit_job.base_model
          AND j.method = _submit_job.method AND j.hyperparameters = _submit_job.hyperparameters AND j.seed = _submit_job.seed
          AND @extschema@._job_is_open(j.state);
        RAISE NOTICE 'the same job is already open: %', v_job;
        RETURN v_job;
    END IF;
    PERFORM @extschema@._event(v_job, 'info', format('submitted by %s', owner),
                               jsonb_build_object('dataset', dataset, 'provider', provider, 'seed', seed));
    PERFORM @extschema@._wake_worker();
    RETURN v_job;
END $$;
COMMENT ON FUNCTION _submit_job(text, text, text, text, text, jsonb, bigint, interval, numeric, double precision) IS 'pg_finetune private: checks and writes a job in the name of a role';
REVOKE ALL ON FUNCTION _submit_job(text, text, text, text, text, jsonb, bigint, interval, numeric, double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _submit_job(text, text, text, text, text, jsonb, bigint, interval, numeric, double precision) TO finetune_admin;

CREATE FUNCTION fine_tune(
    dataset         text,
    provider        text DEFAULT 'builtin',
    base_model      text DEFAULT 'base',
    method          text DEFAULT 'contrastive',
    hyperparameters jsonb DEFAULT '{}',
    seed            bigint DEFAULT 42,
    timeout         interval DEFAULT '24 hours',
    max_usd         numeric DEFAULT NULL,
    validation      double precision DEFAULT NULL
) RETURNS uuid
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('fine_tune', 'finetune_admin');
    IF provider IS NULL OR hyperparameters IS NULL OR seed IS NULL OR timeout IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'provider, hyperparameters, seed and timeout may not be NULL',
            DETAIL = 'Each has a default that is used when the argument is left out.',
            HINT = format('Call SELECT fine_tune(%L); and name only what differs.', COALESCE(dataset, 'name'));
    END IF;
    IF timeout <= interval '0' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('timeout must be positive, not %s', timeout),
            DETAIL = 'A job that is not done by then ends as expired.',
            HINT = 'Leave it out for the default of 24 hours.';
    END IF;
    IF max_usd < 0 OR max_usd = 'NaN' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('max_usd must be 0 or more, not %s', max_usd),
            DETAIL = 'A job that is estimated to cost more ends before anything is uploaded.',
            HINT = 'Leave it out for no limit.';
    END IF;
    IF NOT validation BETWEEN 0 AND 0.5 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('validation must be from 0 to 0.5, not %s', validation),
            DETAIL = 'It is the share of the train side''s texts that a provider gets as validation file and does not train on.',
            HINT = 'Leave it out for the default of the provider, give 0 for no validation file.';
    END IF;
    RETURN @extschema@._submit_job(current_user, dataset, provider, base_model, method, hyperparameters, seed, timeout, max_usd, validation);
END $$;
COMMENT ON FUNCTION fine_tune(text, text, text, text, jsonb, bigint, interval, numeric, double precision) IS
    'Submits a job that trains a model on a dataset (''name'' = its newest version, or ''name:version'') and returns its id at once; the worker starts it when the transaction commits. At a provider (name of a foreign server) a job estimated above max_usd ends before anything is uploaded, and validation => 0.1 holds a tenth of the texts back for its validation file. The same job submitted again while open returns the first one''s id';
GRANT EXECUTE ON FUNCTION fine_tune(text, text, text, text, jsonb, bigint, interval, numeric, double precision) TO finetune_admin;

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
    v_state text;
BEGIN
    PERFORM @extschema@._require_role('cancel_job', 'finetune_admin');
    v_state := @extschema@._job_state(job);
    UPDATE @extschema@.fine_tuning_job j
    SET cancel_requested = true,
        state       = CASE WHEN w.waits THEN 'cancelled' ELSE j.state END,
        stage       = CASE WHEN w.waits THEN 'cancelled before it began' ELSE j.stage END,
        finished_at = CASE WHEN w.waits THEN now() END,
        phase       = CASE WHEN NOT w.waits THEN j.phase END,
        due_at      = CASE WHEN j.phase IS NULL THEN j.due_at ELSE now() END
    FROM (SELECT i.id, i.token IS NULL AND COALESCE(i.phase, 'prepare') = 'prepare' AS waits
          FROM @extschema@.fine_tuning_job i WHERE i.id = cancel_job.job FOR UPDATE) w
    WHERE j.id = w.id AND @extschema@._job_is_open(j.state)
    RETURNING j.state INTO v_state;
    IF NOT FOUND THEN
        RAISE NOTICE 'job % has already ended: %', job, @extschema@._job_state(job);
        RETURN @extschema@._job_state(job);
    END IF;
    PERFORM @extschema@._event(job, 'info', format('cancel asked for by %s', current_user));
    PERFORM @extschema@._wake_worker();
    RETURN v_state;
END $$;
COMMENT ON FUNCTION cancel_job(uuid) IS 'Stops a job: one that waits ends at once, one that trains here within a second or so, one at a provider when the provider says so. Returns the state after the call; a job that has ended stays as it is';
GRANT EXECUTE ON FUNCTION cancel_job(uuid) TO finetune_admin;

CREATE FUNCTION retry_job(job uuid) RETURNS uuid
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_state text;
BEGIN
    PERFORM @extschema@._require_role('retry_job', 'finetune_admin');
    v_state := @extschema@._job_state(job);
    UPDATE @extschema@.fine_tuning_job j
    SET state = 'pending', stage = 'waiting for a worker', progress = 0, step = 0, loss = NULL, validation_auc = NULL,
        attempt = 0, token = NULL, cancel_requested = false, due_at = now(),
        deadline_at = now() + (j.deadline_at - j.created_at),
        phase = CASE WHEN j.provider <> 'builtin' THEN CASE WHEN r.same_run AND j.remote_job_id IS NOT NULL THEN 'poll'
                                                            WHEN r.same_run THEN 'find' ELSE 'prepare' END END,
        run_key = CASE WHEN r.same_run THEN j.run_key ELSE gen_random_uuid() END,
        intent_at = CASE WHEN r.same_run THEN j.intent_at END,
        remote = CASE WHEN r.same_run THEN j.remote END,
        remote_job_id = CASE WHEN r.same_run THEN j.remote_job_id END,
        raw_status = CASE WHEN r.same_run THEN j.raw_status END,
        looks = 0, failures = 0, failing_since = NULL, cancel_sent_at = NULL, duplicates = '{}', serving_state = 'none',
        billed_usd = NULL, trained_tokens = NULL, checkpoints = NULL,
        validation_bytes = CASE WHEN r.same_run THEN j.validation_bytes END, validation_rows = CASE WHEN r.same_run THEN j.validation_rows END,
        error_code = NULL, error_message = NULL, error_hint = NULL, started_at = NULL, finished_at = NULL
    FROM (-- Not known to have ended there, although it has here: taken up again, not paid for again.
          SELECT i.id, i.state = 'expired' AND i.intent_at IS NOT NULL AS same_run
          FROM @extschema@.fine_tuning_job i WHERE i.id = retry_job.job FOR UPDATE) r
    WHERE j.id = r.id AND j.state IN ('failed', 'cancelled', 'expired');
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
COMMENT ON FUNCTION retry_job(uuid) IS 'Runs a failed, cancelled or expired job again, with the same dataset, parameters and seed; one that may still run at its provider is taken up there instead';
GRANT EXECUTE ON FUNCTION retry_job(uuid) TO finetune_admin;

-- A procedure that commits may not pin its search_path, so everything in it is qualified.
CREATE PROCEDURE wait_for_job(job uuid, INOUT state text DEFAULT NULL, timeout interval DEFAULT '24 hours')
    LANGUAGE plpgsql AS $$
DECLARE
    v_until pg_catalog.timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) timeout;
BEGIN
    PERFORM @extschema@._require_role('wait_for_job', 'finetune_analyst');
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
       CASE WHEN j.provider OPERATOR(pg_catalog.=) 'builtin' THEN 0::numeric ELSE j.billed_usd END AS cost_usd,
       j.model_id,
       g.verdict,
       COALESCE(j.error_message, g.reason) AS outcome,
       j.error_code, j.error_hint, j.attempt, j.seed, j.owner, j.created_at, j.started_at, j.finished_at,
       j.base_model, j.raw_status, j.remote_job_id, j.serving_state, j.estimated_usd, j.max_usd,
       j.train_rows, j.validation_rows, j.checkpoints
FROM @extschema@.fine_tuning_job j
JOIN @extschema@.dataset d ON d.id OPERATOR(pg_catalog.=) j.dataset_id
LEFT JOIN LATERAL @extschema@._gate(j.model_id) g ON true;
COMMENT ON VIEW fine_tuning_jobs IS 'All jobs with state, progress (0-1), step, loss, estimated time left, cost, gate verdict and what became of them';
