-- What the worker does to job rows, one transaction per function; who calls them stands in src/worker.

CREATE FUNCTION _launcher_pid() RETURNS integer
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'launcher_pid_wrapper';
COMMENT ON FUNCTION _launcher_pid() IS 'pg_finetune private: process id of the launcher, NULL when none runs';
REVOKE ALL ON FUNCTION _launcher_pid() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _launcher_pid() TO finetune_analyst, finetune_admin;

CREATE FUNCTION _busy_trainers() RETURNS integer
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'busy_trainers_wrapper';
COMMENT ON FUNCTION _busy_trainers() IS 'pg_finetune private: training processes in the whole server';
REVOKE ALL ON FUNCTION _busy_trainers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _busy_trainers() TO finetune_analyst, finetune_admin;

CREATE FUNCTION _worker_obstacle() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_here @extschema@.installation;
BEGIN
    SELECT i.* INTO v_here
    FROM @extschema@.installation i, pg_control_system() s, pg_database d
    WHERE d.datname = current_database() AND i.system_identifier = s.system_identifier AND i.database_oid = d.oid;
    IF v_here IS NULL OR (SELECT count(*) FROM @extschema@.installation) > 1 THEN
        RETURN 'this database is a copy that has not been adopted';
    END IF;
    RETURN CASE WHEN v_here.worker_paused THEN 'the worker is paused' END;
END $$;
COMMENT ON FUNCTION _worker_obstacle() IS 'pg_finetune private: why no work may be done in this database, NULL = it may';
REVOKE ALL ON FUNCTION _worker_obstacle() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _worker_obstacle() TO finetune_analyst, finetune_admin;

CREATE FUNCTION _lease() RETURNS interval
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN COALESCE(current_setting('pg_finetune.lease', true), '30s')::interval;
END $$;
COMMENT ON FUNCTION _lease() IS 'pg_finetune private: how long a holder may be silent';
REVOKE ALL ON FUNCTION _lease() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _lease() TO finetune_admin;

-- With the owner's rights: others do not see when a foreign process began.
CREATE FUNCTION _is_held(job @extschema@.fine_tuning_job) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN job.token IS NOT NULL AND job.lease_expires_at > clock_timestamp()
       AND EXISTS (SELECT 1 FROM pg_stat_get_activity(job.holder_pid) a WHERE a.backend_start = job.holder_started);
END $$;
COMMENT ON FUNCTION _is_held(fine_tuning_job) IS 'pg_finetune private: whether a live process holds this job under a lease that has not run out';
REVOKE ALL ON FUNCTION _is_held(fine_tuning_job) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _is_held(fine_tuning_job) TO finetune_analyst, finetune_admin;

CREATE FUNCTION _end_job(job uuid, token bigint, state text, stage text,
                         error_code text DEFAULT NULL, error_message text DEFAULT NULL, error_hint text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.fine_tuning_job j
    SET state = _end_job.state, stage = _end_job.stage, finished_at = clock_timestamp(),
        token = NULL, holder_pid = NULL, holder_started = NULL, lease_expires_at = NULL,
        progress = CASE WHEN _end_job.state = 'succeeded' THEN 1 ELSE j.progress END,
        error_code = _end_job.error_code, error_message = _end_job.error_message, error_hint = _end_job.error_hint
    WHERE j.id = job AND j.token IS NOT DISTINCT FROM _end_job.token AND @extschema@._job_is_open(j.state);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM @extschema@._event(job, CASE state WHEN 'succeeded' THEN 'info' WHEN 'cancelled' THEN 'info' ELSE 'error' END,
                               COALESCE(error_message, stage));
    RETURN true;
END $$;
COMMENT ON FUNCTION _end_job(uuid, bigint, text, text, text, text, text) IS 'pg_finetune private: final state of a job, if the caller''s token still holds it';
REVOKE ALL ON FUNCTION _end_job(uuid, bigint, text, text, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _end_job(uuid, bigint, text, text, text, text, text) TO finetune_admin;

CREATE FUNCTION _end_overdue_jobs() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_job @extschema@.fine_tuning_job;
BEGIN
    FOR v_job IN
        SELECT j.* FROM @extschema@.fine_tuning_job j
        WHERE j.phase IS NULL AND @extschema@._job_is_open(j.state) AND NOT @extschema@._is_held(j)
          AND (j.cancel_requested OR j.deadline_at < clock_timestamp() OR j.attempt >= j.max_attempts)
        FOR UPDATE SKIP LOCKED
    LOOP
        IF v_job.cancel_requested THEN
            PERFORM @extschema@._end_job(v_job.id, v_job.token, 'cancelled', 'cancelled');
        ELSIF v_job.deadline_at < clock_timestamp() THEN
            PERFORM @extschema@._end_job(v_job.id, v_job.token, 'expired', 'out of time', '57014',
                format('not done by %s', v_job.deadline_at), 'Call retry_job() or submit it with a longer timeout.');
        ELSE
            PERFORM @extschema@._end_job(v_job.id, v_job.token, 'failed', 'given up', COALESCE(v_job.error_code, '57P01'),
                format('given up after %s attempts; last: %s', v_job.attempt,
                       COALESCE(v_job.error_message, 'the process died (see the server''s log)')),
                'Mend the cause and call retry_job().');
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION _end_overdue_jobs() IS 'pg_finetune private: ends jobs that nobody holds and that were cancelled, ran out of time or out of attempts';
REVOKE ALL ON FUNCTION _end_overdue_jobs() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _end_overdue_jobs() TO finetune_admin;

CREATE FUNCTION _due_jobs(by_hand boolean) RETURNS SETOF uuid
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT j.id FROM @extschema@.fine_tuning_job j
        WHERE j.phase IS NULL AND @extschema@._job_is_open(j.state) AND NOT @extschema@._is_held(j)
          AND (j.due_at <= clock_timestamp() OR by_hand AND j.error_code IS NULL)
        ORDER BY j.due_at, j.created_at LIMIT 100;
END $$;
COMMENT ON FUNCTION _due_jobs(boolean) IS 'pg_finetune private: jobs to start now, oldest first; by hand also those that only wait for a process of their own';
REVOKE ALL ON FUNCTION _due_jobs(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _due_jobs(boolean) TO finetune_admin;

CREATE FUNCTION _postpone_job(job uuid, stage text, delay interval) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.fine_tuning_job j SET stage = _postpone_job.stage, due_at = clock_timestamp() + delay
    WHERE j.id = job AND @extschema@._job_is_open(j.state) AND NOT @extschema@._is_held(j);
END $$;
COMMENT ON FUNCTION _postpone_job(uuid, text, interval) IS 'pg_finetune private: not before now + delay, and why';
REVOKE ALL ON FUNCTION _postpone_job(uuid, text, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _postpone_job(uuid, text, interval) TO finetune_admin;

CREATE FUNCTION _claim_job(job uuid, OUT token bigint, OUT dataset_id uuid, OUT hyperparameters jsonb, OUT seed bigint, OUT model_id text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_job @extschema@.fine_tuning_job;
BEGIN
    SELECT j.* INTO v_job FROM @extschema@.fine_tuning_job j
    WHERE j.id = job AND j.phase IS NULL AND @extschema@._job_is_open(j.state) AND NOT j.cancel_requested AND j.attempt < j.max_attempts
    FOR UPDATE SKIP LOCKED;
    IF v_job IS NULL OR @extschema@._is_held(v_job) THEN
        RETURN;
    END IF;
    UPDATE @extschema@.fine_tuning_job j
    SET token = nextval('@extschema@.fencing_token'), state = 'running', stage = 'starting', attempt = j.attempt + 1, due_at = clock_timestamp(),
        holder_pid = pg_backend_pid(),
        holder_started = (SELECT a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) a),
        lease_expires_at = clock_timestamp() + @extschema@._lease(),
        started_at = COALESCE(j.started_at, clock_timestamp())
    WHERE j.id = job
    RETURNING j.token, j.dataset_id, j.hyperparameters, j.seed INTO token, dataset_id, hyperparameters, seed;
    SELECT format('%s-%s-%s', d.name, d.version, left(job::text, 8)) INTO model_id
    FROM @extschema@.dataset d WHERE d.id = v_job.dataset_id;
    PERFORM @extschema@._event(job, 'info', format('attempt %s began', v_job.attempt + 1), jsonb_build_object('token', token));
END $$;
COMMENT ON FUNCTION _claim_job(uuid) IS 'pg_finetune private: takes a job for this process; token NULL = somebody else has it, or it has ended';
REVOKE ALL ON FUNCTION _claim_job(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _claim_job(uuid) TO finetune_admin;

CREATE FUNCTION _heartbeat(job uuid, token bigint, stage text, progress double precision, step bigint, steps bigint,
                           loss double precision, validation_auc double precision) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_job @extschema@.fine_tuning_job;
BEGIN
    UPDATE @extschema@.fine_tuning_job j
    SET lease_expires_at = clock_timestamp() + @extschema@._lease(),
        stage = _heartbeat.stage, progress = LEAST(GREATEST(_heartbeat.progress, 0), 1), step = _heartbeat.step, steps = _heartbeat.steps,
        loss = COALESCE(_heartbeat.loss, j.loss), validation_auc = COALESCE(_heartbeat.validation_auc, j.validation_auc)
    WHERE j.id = job AND j.token = _heartbeat.token AND @extschema@._job_is_open(j.state)
    RETURNING j.* INTO v_job;
    RETURN CASE WHEN v_job IS NULL THEN 'lost'
                WHEN v_job.cancel_requested THEN 'cancelled'
                WHEN v_job.deadline_at < clock_timestamp() THEN 'expired'
                ELSE 'held' END;
END $$;
COMMENT ON FUNCTION _heartbeat(uuid, bigint, text, double precision, bigint, bigint, double precision, double precision) IS
    'pg_finetune private: renews the lease and shows progress; returns held, lost (another process took over), cancelled or expired';
REVOKE ALL ON FUNCTION _heartbeat(uuid, bigint, text, double precision, bigint, bigint, double precision, double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _heartbeat(uuid, bigint, text, double precision, bigint, bigint, double precision, double precision) TO finetune_admin;

CREATE FUNCTION _attempt_failed(job uuid, token bigint, error_code text, error_message text, error_hint text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.fine_tuning_job j
    SET state = 'pending', stage = 'waiting to try again', token = NULL, holder_pid = NULL, holder_started = NULL, lease_expires_at = NULL,
        due_at = clock_timestamp() + LEAST(interval '5 s' * power(3, j.attempt - 1), interval '5 min') * (0.75 + random() / 2),
        error_code = _attempt_failed.error_code, error_message = _attempt_failed.error_message, error_hint = _attempt_failed.error_hint
    WHERE j.id = job AND j.token = _attempt_failed.token AND @extschema@._job_is_open(j.state);
    IF FOUND THEN
        PERFORM @extschema@._event(job, 'warning', error_message, jsonb_build_object('sqlstate', error_code));
    END IF;
END $$;
COMMENT ON FUNCTION _attempt_failed(uuid, bigint, text, text, text) IS 'pg_finetune private: gives a job back after an error that may pass, to be tried again later and later';
REVOKE ALL ON FUNCTION _attempt_failed(uuid, bigint, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _attempt_failed(uuid, bigint, text, text, text) TO finetune_admin;

CREATE FUNCTION _save_model(job uuid, token bigint, model_id text, adapter jsonb, matrix real[], bias real[], digest bytea, evaluations jsonb,
                            typed_matrix real[], typed_bias real[], heads integer) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_job @extschema@.fine_tuning_job;
    v_evaluation jsonb;
    v_gate record;
BEGIN
    SELECT j.* INTO v_job FROM @extschema@.fine_tuning_job j
    WHERE j.id = job AND j.token = _save_model.token AND @extschema@._job_is_open(j.state) FOR UPDATE;
    IF v_job IS NULL THEN
        RETURN false;
    END IF;
    INSERT INTO @extschema@.model (id, base_model, provider, method, dimensions, dataset_id, job_id)
    VALUES (model_id, v_job.base_model, v_job.provider, v_job.method, (adapter ->> 'dimensions')::int, v_job.dataset_id, job);
    INSERT INTO @extschema@.adapter (model_id, dimensions, matrix, bias, typed_matrix, typed_bias, heads, gamma, score_scale, score_offset, positive, digest, report,
        knn3_weight, popularity_weight)
    VALUES (model_id, (adapter ->> 'dimensions')::int, matrix, bias, typed_matrix, typed_bias, heads, (adapter ->> 'gamma')::real,
            (adapter ->> 'score_scale')::double precision, (adapter ->> 'score_offset')::double precision,
            (SELECT d.positive FROM @extschema@.dataset d WHERE d.id = v_job.dataset_id), digest, adapter -> 'report',
            COALESCE((adapter #>> '{report,second_stage,knn3}')::double precision, 0),
            COALESCE((adapter #>> '{report,second_stage,popularity}')::double precision, 0));
    PERFORM @extschema@._save_popularity(model_id);
    FOR v_evaluation IN SELECT e FROM jsonb_array_elements(evaluations) e LOOP
        INSERT INTO @extschema@.model_evaluation
        SELECT r.* FROM jsonb_populate_record(NULL::@extschema@.model_evaluation,
            v_evaluation || jsonb_build_object('model_id', model_id, 'evaluated_at', clock_timestamp(), 'seed', v_job.seed)) r;
    END LOOP;
    SELECT g.* INTO v_gate FROM @extschema@._gate(model_id) g;
    UPDATE @extschema@.fine_tuning_job j SET model_id = _save_model.model_id WHERE j.id = job;
    RETURN @extschema@._end_job(job, token, 'succeeded', format('trained; gate: %s', v_gate.verdict));
END $$;
COMMENT ON FUNCTION _save_model(uuid, bigint, text, jsonb, real[], real[], bytea, jsonb, real[], real[], integer) IS 'pg_finetune private: registers the model, its weights and its evaluations and ends the job, all or nothing; false = the caller lost the job';
REVOKE ALL ON FUNCTION _save_model(uuid, bigint, text, jsonb, real[], real[], bytea, jsonb, real[], real[], integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _save_model(uuid, bigint, text, jsonb, real[], real[], bytea, jsonb, real[], real[], integer) TO finetune_admin;

CREATE FUNCTION _save_head(model text, who text, head real[]) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT @extschema@._is_forgotten(who) THEN
        INSERT INTO @extschema@.adapter_head (user_id, model_id, head) VALUES (who, model, head);
    END IF;
END $$;
COMMENT ON FUNCTION _save_head(text, text, real[]) IS 'pg_finetune private: a user''s own direction under a model, unless the user was forgotten meanwhile';
REVOKE ALL ON FUNCTION _save_head(text, text, real[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _save_head(text, text, real[]) TO finetune_admin;

CREATE FUNCTION _next_due_at(with_jobs boolean DEFAULT true) RETURNS timestamptz
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN LEAST(
        (SELECT min(CASE WHEN @extschema@._is_held(j) THEN j.lease_expires_at ELSE LEAST(j.due_at, j.deadline_at) END)
         FROM @extschema@.fine_tuning_job j WHERE with_jobs AND j.phase IS NULL AND @extschema@._job_is_open(j.state)),
        @extschema@._next_provider_step(),
        @extschema@._next_erasure(),
        @extschema@._next_rollout_look(),
        @extschema@._next_shadow_look(),
        CASE WHEN with_jobs THEN @extschema@._next_evaluation() END,
        (SELECT min(s.next_due_at) FROM @extschema@.retraining_schedule s WHERE s.enabled));
END $$;
COMMENT ON FUNCTION _next_due_at(boolean) IS 'pg_finetune private: when something will be due by itself, NULL = never; without jobs where no process may train them';
REVOKE ALL ON FUNCTION _next_due_at(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _next_due_at(boolean) TO finetune_analyst, finetune_admin;

CREATE PROCEDURE run_due_work()
    LANGUAGE c AS 'MODULE_PATHNAME', 'run_due_work_wrapper';
COMMENT ON PROCEDURE run_due_work() IS 'One round of the worker in this session, training included: for servers that allow no background worker, and for pg_cron. CALL it outside a transaction block; it commits after every step';
GRANT EXECUTE ON PROCEDURE run_due_work() TO finetune_admin;

-- With the owner's rights: that setting is not for everybody to read.
CREATE FUNCTION _is_preloaded() RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN current_setting('shared_preload_libraries') ~ '\mpg_finetune\M';
END $$;
COMMENT ON FUNCTION _is_preloaded() IS 'pg_finetune private: whether the library is in shared_preload_libraries';
REVOKE ALL ON FUNCTION _is_preloaded() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _is_preloaded() TO finetune_analyst;

CREATE FUNCTION worker_status(
    OUT state text, OUT launcher_pid integer, OUT preloaded boolean, OUT busy_trainers integer, OUT max_trainers integer,
    OUT open_jobs bigint, OUT running_jobs bigint, OUT provider_jobs bigint, OUT waiting_for text, OUT next_due_at timestamptz, OUT hint text)
    LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_obstacle text;
BEGIN
    PERFORM @extschema@._require_role('worker_status', 'finetune_analyst');
    v_obstacle := @extschema@._worker_obstacle();
    launcher_pid := @extschema@._launcher_pid();
    busy_trainers := @extschema@._busy_trainers();
    max_trainers := current_setting('pg_finetune.max_trainers')::int;
    preloaded := @extschema@._is_preloaded();
    SELECT count(*), count(*) FILTER (WHERE j.phase IS NULL AND @extschema@._is_held(j)), count(j.phase) INTO open_jobs, running_jobs, provider_jobs
    FROM @extschema@.fine_tuning_job j WHERE @extschema@._job_is_open(j.state);
    SELECT string_agg(format('%s until %s: %s', h.provider, to_char(h.retry_at, 'HH24:MI:SS'), h.last_error), '; ' ORDER BY h.provider, h.owner)
    INTO waiting_for FROM @extschema@.provider_health h WHERE h.retry_at > clock_timestamp();
    next_due_at := @extschema@._next_due_at();
    state := CASE WHEN v_obstacle IS NOT NULL THEN v_obstacle
                  WHEN pg_is_in_recovery() THEN 'this server is a standby'
                  WHEN running_jobs > 0 THEN 'training'
                  WHEN provider_jobs > 0 AND waiting_for IS NULL THEN 'watching jobs at providers'
                  WHEN open_jobs > 0 THEN 'waiting'
                  ELSE 'idle' END;
    hint := CASE WHEN v_obstacle LIKE '%adopted' THEN 'SELECT adopt_database(); lets it work here.'
                 WHEN v_obstacle IS NOT NULL THEN 'SELECT resume_worker(); lets it work again.'
                 WHEN pg_is_in_recovery() THEN 'Work goes on after a promotion.'
                 WHEN launcher_pid IS NULL AND NOT preloaded
                     THEN 'No launcher runs: it starts with the next job or schedule, or add pg_finetune to shared_preload_libraries and restart the server.'
                 WHEN launcher_pid IS NULL THEN 'No launcher runs although the library is preloaded: look into the server''s log, and at max_worker_processes.'
                 WHEN waiting_for IS NOT NULL THEN 'A provider does not answer as it should: CALL check_provider(...) shows more.'
                 WHEN max_trainers = 0 THEN 'pg_finetune.max_trainers is 0: jobs only run by CALL run_due_work().'
                 WHEN open_jobs > running_jobs + provider_jobs AND busy_trainers >= max_trainers
                     THEN 'All training processes are busy: pg_finetune.max_trainers allows ' || max_trainers || '.'
                 ELSE @extschema@._shadow_hint() END;
END $$;
COMMENT ON FUNCTION worker_status() IS 'One row: what the worker does in this database, what it waits for and the command that would help';
GRANT EXECUTE ON FUNCTION worker_status() TO finetune_analyst, finetune_admin;

CREATE FUNCTION pause_worker() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('pause_worker', 'finetune_admin');
    UPDATE @extschema@.installation SET worker_paused = true;
END $$;
COMMENT ON FUNCTION pause_worker() IS 'No new job, schedule or rollout step begins in this database until resume_worker(); a job that trains goes on (cancel_job stops it)';
GRANT EXECUTE ON FUNCTION pause_worker() TO finetune_admin;

CREATE FUNCTION resume_worker() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('resume_worker', 'finetune_admin');
    UPDATE @extschema@.installation SET worker_paused = false;
    PERFORM @extschema@._wake_worker();
END $$;
COMMENT ON FUNCTION resume_worker() IS 'Undoes pause_worker()';
GRANT EXECUTE ON FUNCTION resume_worker() TO finetune_admin;

CREATE FUNCTION _adopt_database() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._look_before_sending();
    DELETE FROM @extschema@.installation;
    INSERT INTO @extschema@.installation (system_identifier, database_oid)
    SELECT s.system_identifier, d.oid FROM pg_control_system() s, pg_database d WHERE d.datname = current_database();
    PERFORM @extschema@._wake_worker();
END $$;
COMMENT ON FUNCTION _adopt_database() IS 'pg_finetune private: adopt_database with the owner''s rights';
REVOKE ALL ON FUNCTION _adopt_database() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _adopt_database() TO finetune_admin;

CREATE FUNCTION adopt_database() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('adopt_database', 'finetune_admin');
    PERFORM @extschema@._adopt_database();
END $$;
COMMENT ON FUNCTION adopt_database() IS 'Says that this restored or cloned database is the one that goes on: open jobs and schedules run here from now on; jobs that the original may have sent to a provider are looked for there before anything is sent';
GRANT EXECUTE ON FUNCTION adopt_database() TO finetune_admin;
