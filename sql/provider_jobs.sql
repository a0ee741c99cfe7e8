-- Jobs at providers: what the worker claims, what it writes down after each answer, and what it cost.
-- src/providers/lifecycle.rs decides; here nothing is written without the token of the claim.

CREATE FUNCTION _guard_owner() RETURNS trigger
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row   record := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    v_owner text := to_jsonb(v_row) ->> TG_ARGV[0];
BEGIN
    IF (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RETURN v_row;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_roles r WHERE r.rolname = v_owner) OR NOT pg_has_role(current_user, v_owner::name, 'MEMBER') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('role "%s" may not act for "%s"', current_user, v_owner),
            DETAIL = 'Jobs use the providers and keys of the role that owns them.',
            HINT = 'Leave the owner as it is; who wants a job of their own calls fine_tune().';
    END IF;
    RETURN v_row;
END $$;
COMMENT ON FUNCTION _guard_owner() IS 'pg_finetune private: nobody makes a row in the name of a role that they are no member of';
REVOKE ALL ON FUNCTION _guard_owner() FROM PUBLIC;

CREATE TRIGGER guard_owner BEFORE INSERT OR UPDATE OF owner, base_url, provider ON fine_tuning_job
    FOR EACH ROW EXECUTE FUNCTION _guard_owner('owner');
CREATE TRIGGER guard_owner BEFORE INSERT OR UPDATE OF created_by, provider ON retraining_schedule
    FOR EACH ROW EXECUTE FUNCTION _guard_owner('created_by');

CREATE TRIGGER guard_owner BEFORE INSERT OR UPDATE OR DELETE ON key_origin
    FOR EACH ROW EXECUTE FUNCTION _guard_owner('owner');

CREATE FUNCTION _claim_provider_job(busy text[]) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_job    @extschema@.fine_tuning_job;
    v_lost   boolean;
    v_stop   boolean;
BEGIN
    SELECT j.* INTO v_job FROM @extschema@.fine_tuning_job j
    WHERE j.phase IS NOT NULL AND j.due_at <= clock_timestamp() AND NOT @extschema@._is_held(j)
      AND format('%s/%s', j.provider, j.owner) <> ALL (busy)
      AND NOT EXISTS (SELECT 1 FROM @extschema@.provider_health h
                      WHERE h.provider = j.provider AND h.owner = j.owner AND h.retry_at > clock_timestamp())
    ORDER BY j.due_at, j.id LIMIT 1 FOR UPDATE OF j SKIP LOCKED;
    IF v_job IS NULL THEN
        RETURN NULL;
    END IF;
    v_stop := v_job.cancel_requested OR v_job.deadline_at < clock_timestamp();
    -- A request that left, or was about to, and whose answer nobody wrote down.
    v_lost := v_job.phase = 'create' AND v_job.intent_at IS NOT NULL;
    IF v_lost THEN
        PERFORM @extschema@._event(v_job.id, 'warning', 'what became of its creation is not known: looked for, not sent again',
                                   jsonb_build_object('intent_at', v_job.intent_at));
    END IF;
    UPDATE @extschema@.fine_tuning_job j
    SET token = nextval('@extschema@.fencing_token'), holder_pid = pg_backend_pid(),
        holder_started = (SELECT a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) a),
        lease_expires_at = clock_timestamp() + @extschema@._lease(),
        started_at = COALESCE(j.started_at, clock_timestamp()),
        phase = CASE WHEN v_lost THEN 'find' ELSE j.phase END,
        looks = CASE WHEN v_lost THEN 0 ELSE j.looks END,
        intent_at = CASE WHEN j.phase = 'create' AND j.intent_at IS NULL AND NOT v_stop THEN clock_timestamp() ELSE j.intent_at END
    WHERE j.id = v_job.id
    RETURNING j.* INTO v_job;
    RETURN (SELECT jsonb_build_object(
        'id', v_job.id, 'token', v_job.token, 'phase', v_job.phase, 'state', v_job.state, 'provider', v_job.provider, 'owner', v_job.owner,
        'base_url', v_job.base_url, 'dataset', d.name || ':' || d.version, 'dataset_name', d.name, 'base_model', v_job.base_model,
        'method', v_job.method, 'hyperparameters', v_job.hyperparameters, 'seed', v_job.seed, 'run_key', v_job.run_key,
        'intent_at', floor(extract(epoch FROM COALESCE(v_job.intent_at, v_job.created_at)))::bigint,
        'age', extract(epoch FROM clock_timestamp() - COALESCE(v_job.intent_at, v_job.created_at)),
        'looks', v_job.looks, 'failures', v_job.failures,
        'failing_for', COALESCE(extract(epoch FROM clock_timestamp() - v_job.failing_since), 0),
        'remote', v_job.remote, 'remote_job_id', v_job.remote_job_id, 'duplicates', to_jsonb(v_job.duplicates), 'raw_status', v_job.raw_status,
        'cancel_requested', v_job.cancel_requested, 'past_deadline', v_job.deadline_at < clock_timestamp(),
        'cancel_sent_for', extract(epoch FROM clock_timestamp() - v_job.cancel_sent_at),
        'train_bytes', v_job.train_bytes, 'train_rows', v_job.train_rows, 'train_tokens', v_job.train_tokens, 'max_usd', v_job.max_usd,
        'validation_share', v_job.validation_share, 'validation_bytes', v_job.validation_bytes, 'validation_rows', v_job.validation_rows,
        'estimated_usd', v_job.estimated_usd,
        'known_event', (SELECT e.data ->> 'remote_id' FROM @extschema@.fine_tuning_event e
                        WHERE e.job_id = v_job.id AND e.data ? 'remote_id' ORDER BY e.id DESC LIMIT 1),
        'provider_failures', COALESCE((SELECT h.failures FROM @extschema@.provider_health h
                                       WHERE h.provider = v_job.provider AND h.owner = v_job.owner), 0))
        FROM @extschema@.dataset d WHERE d.id = v_job.dataset_id);
END $$;
COMMENT ON FUNCTION _claim_provider_job(text[]) IS 'pg_finetune private: takes one job whose next request to its provider is due, NULL = none; the intent to create one is committed with the claim. busy: provider/owner pairs to leave out';
REVOKE ALL ON FUNCTION _claim_provider_job(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _claim_provider_job(text[]) TO finetune_admin;

CREATE FUNCTION _renew_leases(tokens bigint[], by interval) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.fine_tuning_job j SET lease_expires_at = clock_timestamp() + by
    WHERE j.phase IS NOT NULL AND j.token = ANY (tokens);
END $$;
COMMENT ON FUNCTION _renew_leases(bigint[], interval) IS 'pg_finetune private: these claims are still at work, or, by 0, are given up';
REVOKE ALL ON FUNCTION _renew_leases(bigint[], interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _renew_leases(bigint[], interval) TO finetune_admin;

CREATE FUNCTION _note_health(provider text, owner text, change jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF change ->> 'provider_wait_ms' IS NULL THEN
        UPDATE @extschema@.provider_health h SET failures = 0, retry_at = '-infinity', last_error = NULL, changed_at = clock_timestamp()
        WHERE h.provider = _note_health.provider AND h.owner = _note_health.owner AND (h.failures > 0 OR h.last_error IS NOT NULL);
        RETURN;
    END IF;
    INSERT INTO @extschema@.provider_health AS h (provider, owner, failures, retry_at, last_error)
    VALUES (provider, owner, (change ->> 'provider_failed')::boolean::int,
            clock_timestamp() + (change ->> 'provider_wait_ms')::bigint * interval '1 ms', change ->> 'provider_error')
    ON CONFLICT ON CONSTRAINT provider_health_pkey DO UPDATE
    SET failures = h.failures + excluded.failures, retry_at = GREATEST(h.retry_at, excluded.retry_at),
        last_error = excluded.last_error, changed_at = clock_timestamp();
END $$;
COMMENT ON FUNCTION _note_health(text, text, jsonb) IS 'pg_finetune private: whether a provider works, and until when it is left alone';
REVOKE ALL ON FUNCTION _note_health(text, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _note_health(text, text, jsonb) TO finetune_admin;

CREATE FUNCTION _register_provider_model(job @extschema@.fine_tuning_job, provider_model text) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_model text;
BEGIN
    SELECT format('%s-%s-%s', d.name, d.version, left(job.run_key::text, 8)) INTO v_model FROM @extschema@.dataset d WHERE d.id = job.dataset_id;
    INSERT INTO @extschema@.model (id, base_model, provider, method, dataset_id, job_id, provider_model)
    VALUES (v_model, job.base_model, job.provider, job.method, job.dataset_id, job.id, provider_model);
    RETURN v_model;
END $$;
COMMENT ON FUNCTION _register_provider_model(fine_tuning_job, text) IS 'pg_finetune private: a row of the registry for a model that stands at its provider';
REVOKE ALL ON FUNCTION _register_provider_model(fine_tuning_job, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _register_provider_model(fine_tuning_job, text) TO finetune_admin;

CREATE FUNCTION _note_erasure(job uuid, problem text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.erasure_request e
    SET last_error = problem,
        done_at = CASE WHEN problem IS NULL THEN clock_timestamp() END,
        outcome = CASE WHEN problem IS NULL THEN 'the provider has no file of this job any more' END
    WHERE e.job_id = job AND e.done_at IS NULL;
END $$;
COMMENT ON FUNCTION _note_erasure(uuid, text) IS 'pg_finetune private: the files of a job are deleted at its provider, or the reason why they may still be there';
REVOKE ALL ON FUNCTION _note_erasure(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _note_erasure(uuid, text) TO finetune_admin;

CREATE FUNCTION _settle(job uuid, token bigint, change jsonb) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_job   @extschema@.fine_tuning_job;
    c       record;
    v_open  boolean;
    v_ends  boolean;
    v_model text;
BEGIN
    SELECT j.* INTO v_job FROM @extschema@.fine_tuning_job j
    WHERE j.id = job AND j.token = _settle.token AND j.phase IS NOT NULL FOR UPDATE;
    IF v_job IS NULL THEN
        RETURN false;
    END IF;
    SELECT r.* INTO c FROM jsonb_to_record(jsonb_strip_nulls(change)) r (
        phase text, state text, stage text, wait_ms bigint, remote jsonb, forget_remote boolean, remote_job_id text, duplicates jsonb, raw_status text, intent_over boolean,
        looks int, failures int, cancel_sent boolean, train_bytes bigint, train_rows bigint, train_tokens bigint, trained_tokens bigint,
        validation_bytes bigint, validation_rows bigint, checkpoints jsonb,
        estimated_usd numeric, billed_usd numeric, progress double precision, step bigint, loss double precision, model text, serving text,
        problem jsonb, lines jsonb, remote_events jsonb);
    v_open := @extschema@._job_is_open(v_job.state);
    v_ends := v_open AND c.state IS NOT NULL AND NOT @extschema@._job_is_open(c.state);
    IF v_ends AND c.model IS NOT NULL THEN
        v_model := @extschema@._register_provider_model(v_job, c.model);
    END IF;
    UPDATE @extschema@.fine_tuning_job j
    SET phase = c.phase, token = NULL, holder_pid = NULL, holder_started = NULL, lease_expires_at = NULL,
        state = CASE WHEN v_open THEN COALESCE(c.state, j.state) ELSE j.state END,
        stage = CASE WHEN v_open THEN COALESCE(c.stage, j.stage) ELSE j.stage END,
        due_at = clock_timestamp() + CASE WHEN v_open AND j.cancel_requested AND j.cancel_sent_at IS NULL AND c.failures = 0 THEN 0 ELSE c.wait_ms END * interval '1 ms',
        remote = CASE WHEN c.forget_remote THEN NULL ELSE COALESCE(c.remote, j.remote) END,
        remote_job_id = COALESCE(c.remote_job_id, j.remote_job_id),
        duplicates = CASE WHEN jsonb_typeof(c.duplicates) = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(c.duplicates)) ELSE j.duplicates END,
        raw_status = COALESCE(c.raw_status, j.raw_status),
        intent_at = CASE WHEN c.intent_over AND c.remote_job_id IS NULL AND j.remote_job_id IS NULL THEN NULL ELSE j.intent_at END,
        looks = COALESCE(c.looks, j.looks), failures = c.failures,
        failing_since = CASE WHEN c.failures > 0 THEN COALESCE(j.failing_since, clock_timestamp()) END,
        cancel_sent_at = CASE WHEN c.cancel_sent THEN COALESCE(j.cancel_sent_at, clock_timestamp()) ELSE j.cancel_sent_at END,
        train_bytes = COALESCE(c.train_bytes, j.train_bytes), train_rows = COALESCE(c.train_rows, j.train_rows),
        train_tokens = COALESCE(c.train_tokens, j.train_tokens), trained_tokens = COALESCE(c.trained_tokens, j.trained_tokens),
        validation_bytes = COALESCE(c.validation_bytes, j.validation_bytes), validation_rows = COALESCE(c.validation_rows, j.validation_rows),
        checkpoints = COALESCE(c.checkpoints, j.checkpoints),
        estimated_usd = COALESCE(c.estimated_usd, j.estimated_usd), billed_usd = COALESCE(c.billed_usd, j.billed_usd),
        progress = CASE WHEN v_ends AND c.state = 'succeeded' THEN 1 WHEN c.progress IS NULL THEN j.progress ELSE LEAST(GREATEST(c.progress, 0), 1) END,
        step = COALESCE(c.step, j.step), loss = COALESCE(c.loss, j.loss),
        model_id = COALESCE(v_model, j.model_id), serving_state = COALESCE(c.serving, j.serving_state),
        error_code = CASE WHEN v_open THEN c.problem ->> 'code' ELSE j.error_code END,
        error_message = CASE WHEN v_open THEN c.problem ->> 'message' ELSE j.error_message END,
        error_hint = CASE WHEN v_open THEN NULLIF(c.problem ->> 'hint', '') ELSE j.error_hint END,
        attempt = 0,
        finished_at = CASE WHEN v_ends THEN clock_timestamp() ELSE j.finished_at END
    WHERE j.id = job;
    PERFORM @extschema@._note_health(v_job.provider, v_job.owner, change);
    INSERT INTO @extschema@.fine_tuning_event (job_id, level, message, data)
    SELECT job, l ->> 'level', l ->> 'message', NULLIF(l -> 'data', 'null') FROM jsonb_array_elements(c.lines) l;
    INSERT INTO @extschema@.fine_tuning_event (job_id, level, message, data)
    SELECT job, CASE WHEN l ->> 'level' IN ('info', 'warning', 'error') THEN l ->> 'level' ELSE 'info' END, left(l ->> 'message', 1000),
           jsonb_strip_nulls(jsonb_build_object('remote_id', l -> 'id', 'remote_at', l -> 'at', 'step', l -> 'step', 'loss', l -> 'loss', 'data', l -> 'data'))
    FROM jsonb_array_elements(c.remote_events) l;
    IF v_job.phase = 'clean' AND c.phase IS NULL THEN
        PERFORM @extschema@._note_erasure(job, c.problem ->> 'message');
    END IF;
    IF v_ends THEN
        PERFORM @extschema@._event(job, CASE WHEN c.state IN ('succeeded', 'cancelled') THEN 'info' ELSE 'error' END,
            COALESCE(c.problem ->> 'message', c.stage, c.state), CASE WHEN v_model IS NOT NULL THEN jsonb_build_object('model', v_model, 'provider_model', c.model) END);
        PERFORM @extschema@._book_cost(job);
        -- Whatever waits for its end, the run of a schedule for example, goes on at once.
        PERFORM @extschema@._wake_worker();
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION _settle(uuid, bigint, jsonb) IS 'pg_finetune private: writes what an answer changed, if the caller''s token still holds the job; false = it does not';
REVOKE ALL ON FUNCTION _settle(uuid, bigint, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _settle(uuid, bigint, jsonb) TO finetune_admin;

CREATE FUNCTION _book_cost(job uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.fine_tuning_job j
    SET billed_usd = COALESCE(j.billed_usd,
        j.trained_tokens * @extschema@._price(j.provider, j.base_model) / 1000000)
    WHERE j.id = job AND j.trained_tokens IS NOT NULL;
END $$;
COMMENT ON FUNCTION _book_cost(uuid) IS 'pg_finetune private: what a job cost: as billed by its provider, else the tokens it counted at the price of provider_price';
REVOKE ALL ON FUNCTION _book_cost(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _book_cost(uuid) TO finetune_admin;

CREATE FUNCTION _estimate_usd(job uuid, tokens bigint) RETURNS numeric
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT tokens * COALESCE((SELECT e.value::numeric FROM jsonb_each_text(j.hyperparameters) e
                                      WHERE e.key IN ('n_epochs', 'epochs', 'epochCount', 'train_epochs') AND e.value ~ '^[0-9]+$' LIMIT 1),
                                     @extschema@._default_epochs((SELECT s.protocol FROM @extschema@._provider_server(j.provider) s)))
                   * @extschema@._price(j.provider, j.base_model) / 1000000
            FROM @extschema@.fine_tuning_job j
            WHERE j.id = job);
END $$;
COMMENT ON FUNCTION _estimate_usd(uuid, bigint) IS 'pg_finetune private: tokens of the training file x epochs (the protocol''s own number unless named) x price of provider_price, NULL without a price';
REVOKE ALL ON FUNCTION _estimate_usd(uuid, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _estimate_usd(uuid, bigint) TO finetune_admin;

CREATE FUNCTION _provider_step_failed(job uuid, token bigint, error_code text, error_message text, error_hint text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_job @extschema@.fine_tuning_job;
BEGIN
    UPDATE @extschema@.fine_tuning_job j
    SET attempt = j.attempt + 1, token = NULL, holder_pid = NULL, holder_started = NULL, lease_expires_at = NULL,
        due_at = clock_timestamp() + LEAST(interval '5 s' * power(3, j.attempt), interval '5 min') * (0.75 + random() / 2),
        stage = 'waiting to try again',
        error_code = _provider_step_failed.error_code, error_message = _provider_step_failed.error_message, error_hint = _provider_step_failed.error_hint
    WHERE j.id = job AND j.token = _provider_step_failed.token AND j.phase IS NOT NULL
    RETURNING j.* INTO v_job;
    IF v_job IS NULL THEN
        RETURN;
    END IF;
    PERFORM @extschema@._event(job, 'warning', error_message, jsonb_build_object('sqlstate', error_code, 'phase', v_job.phase));
    IF v_job.attempt >= v_job.max_attempts THEN
        UPDATE @extschema@.fine_tuning_job j
        SET phase = CASE WHEN j.remote_job_id IS NOT NULL AND @extschema@._job_is_open(j.state) THEN j.phase END, attempt = 0,
            due_at = clock_timestamp() + interval '5 min'
        WHERE j.id = job;
        -- A job that runs at a provider is watched on: it costs money there.
        IF v_job.remote_job_id IS NULL AND @extschema@._job_is_open(v_job.state) THEN
            PERFORM @extschema@._end_job(job, NULL, 'failed', 'given up', error_code, error_message, COALESCE(error_hint, 'Mend the cause and call retry_job().'));
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION _provider_step_failed(uuid, bigint, text, text, text) IS 'pg_finetune private: a step that failed in this database, not at the provider: tried again later and later';
REVOKE ALL ON FUNCTION _provider_step_failed(uuid, bigint, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _provider_step_failed(uuid, bigint, text, text, text) TO finetune_admin;

CREATE FUNCTION _next_provider_step() RETURNS timestamptz
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT min(CASE WHEN @extschema@._is_held(j) THEN j.lease_expires_at ELSE GREATEST(j.due_at, h.retry_at) END)
            FROM @extschema@.fine_tuning_job j
            LEFT JOIN @extschema@.provider_health h ON h.provider = j.provider AND h.owner = j.owner
            WHERE j.phase IS NOT NULL);
END $$;
COMMENT ON FUNCTION _next_provider_step() IS 'pg_finetune private: when the next request to a provider is due, NULL = never';
REVOKE ALL ON FUNCTION _next_provider_step() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _next_provider_step() TO finetune_analyst, finetune_admin;

CREATE FUNCTION _begin_erasures() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH due AS (
        SELECT e.id, e.job_id FROM @extschema@.erasure_request e
        JOIN @extschema@.fine_tuning_job j ON j.id = e.job_id
        WHERE e.done_at IS NULL AND e.retry_at <= clock_timestamp() AND j.phase IS NULL AND NOT @extschema@._job_is_open(j.state)
        FOR UPDATE OF j SKIP LOCKED
    ), begun AS (
        UPDATE @extschema@.erasure_request e
        SET tries = e.tries + 1, retry_at = clock_timestamp() + LEAST(interval '30 min' * power(2, LEAST(e.tries, 10)), interval '1 day')
        FROM due d WHERE e.id = d.id
    )
    UPDATE @extschema@.fine_tuning_job j
    SET phase = 'clean', remote = CASE WHEN jsonb_typeof(j.remote) = 'object' THEN j.remote - 'clean' END,
        token = NULL, failures = 0, failing_since = NULL, attempt = 0, due_at = clock_timestamp()
    FROM due d WHERE j.id = d.job_id;
END $$;
COMMENT ON FUNCTION _begin_erasures() IS 'pg_finetune private: sends jobs whose files hold texts of a forgotten user back to the step that deletes them at the provider';
REVOKE ALL ON FUNCTION _begin_erasures() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _begin_erasures() TO finetune_admin;

CREATE FUNCTION _next_erasure() RETURNS timestamptz
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT min(e.retry_at) FROM @extschema@.erasure_request e
            JOIN @extschema@.fine_tuning_job j ON j.id = e.job_id
            WHERE e.done_at IS NULL AND j.phase IS NULL AND NOT @extschema@._job_is_open(j.state));
END $$;
COMMENT ON FUNCTION _next_erasure() IS 'pg_finetune private: when files of a forgotten user are to be deleted at a provider next, NULL = never';
REVOKE ALL ON FUNCTION _next_erasure() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _next_erasure() TO finetune_analyst, finetune_admin;

CREATE FUNCTION _look_before_sending() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.fine_tuning_job j
    SET phase = 'find', looks = 0, intent_at = COALESCE(j.intent_at, j.created_at)
    WHERE j.phase IN ('ask', 'upload', 'estimate', 'create') AND @extschema@._job_is_open(j.state);
END $$;
COMMENT ON FUNCTION _look_before_sending() IS 'pg_finetune private: after a promotion or an adoption, jobs that may have been created are looked for first';
REVOKE ALL ON FUNCTION _look_before_sending() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _look_before_sending() TO finetune_admin;

CREATE FUNCTION _note_timeline() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_now text := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
    v_before text;
BEGIN
    SELECT i.timeline INTO v_before FROM @extschema@.installation i;
    IF v_before IS DISTINCT FROM v_now THEN
        IF v_before IS NOT NULL THEN
            PERFORM @extschema@._look_before_sending();
        END IF;
        UPDATE @extschema@.installation SET timeline = v_now;
    END IF;
END $$;
COMMENT ON FUNCTION _note_timeline() IS 'pg_finetune private: notices that this server was promoted or restored since the worker''s last look';
REVOKE ALL ON FUNCTION _note_timeline() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _note_timeline() TO finetune_admin;

CREATE FUNCTION _somebody_waits_for_this_database() RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (
        SELECT 1 FROM pg_locks l
        WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.mode IN ('ShareLock', 'AccessExclusiveLock')
          AND l.objid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()));
END $$;
COMMENT ON FUNCTION _somebody_waits_for_this_database() IS 'pg_finetune private: whether DROP DATABASE, CREATE DATABASE ... TEMPLATE or a rename waits for this database to be left';
REVOKE ALL ON FUNCTION _somebody_waits_for_this_database() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _somebody_waits_for_this_database() TO finetune_admin;

CREATE FUNCTION _name_running_jobs() RETURNS event_trigger
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_jobs text;
BEGIN
    IF current_query() !~* '\mpg_finetune\M' THEN
        RETURN;
    END IF;
    SELECT string_agg(format('%s at %s', j.remote_job_id, j.provider), ', ') INTO v_jobs
    FROM @extschema@.fine_tuning_job j WHERE j.remote_job_id IS NOT NULL AND @extschema@._job_is_open(j.state);
    IF v_jobs IS NOT NULL THEN
        RAISE NOTICE USING MESSAGE = format('jobs go on at their providers, and cost there: %s', v_jobs),
            HINT = 'To stop them, cancel_job() and wait for the end before DROP EXTENSION.';
    END IF;
EXCEPTION WHEN OTHERS THEN
    NULL; -- a notice is no reason to keep an extension
END $$;
COMMENT ON FUNCTION _name_running_jobs() IS 'pg_finetune private: before DROP EXTENSION, names the jobs that go on at providers';
REVOKE ALL ON FUNCTION _name_running_jobs() FROM PUBLIC;

CREATE EVENT TRIGGER pg_finetune_running_jobs ON ddl_command_start WHEN TAG IN ('DROP EXTENSION') EXECUTE FUNCTION _name_running_jobs();
COMMENT ON EVENT TRIGGER pg_finetune_running_jobs IS 'DROP EXTENSION pg_finetune names the jobs that go on at providers';

CREATE VIEW fine_tuning_cost AS
SELECT j.id AS job_id, d.name AS dataset, d.version AS dataset_version, j.provider, j.base_model, j.method, j.state, j.owner,
       j.train_rows, j.train_tokens, j.max_usd,
       pg_catalog.round(j.estimated_usd, 4) AS estimated_usd, j.trained_tokens, pg_catalog.round(j.billed_usd, 4) AS billed_usd,
       pg_catalog.date_trunc('month', j.created_at) AS month, j.created_at
FROM @extschema@.fine_tuning_job j JOIN @extschema@.dataset d ON d.id OPERATOR(pg_catalog.=) j.dataset_id
WHERE j.provider OPERATOR(pg_catalog.<>) 'builtin';
COMMENT ON VIEW fine_tuning_cost IS 'What jobs at providers were estimated to cost and what was billed; NULL = not known';
