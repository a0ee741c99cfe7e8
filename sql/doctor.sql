-- What is wrong in this database, and the command that mends it: one function per place to look.

CREATE FUNCTION _doctor_worker() RETURNS TABLE (severity text, subject text, finding text, remedy text)
LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_status record;
    v_waits boolean;
BEGIN
    SELECT s.* INTO v_status FROM @extschema@.worker_status() s;
    v_waits := v_status.open_jobs > 0 OR EXISTS (SELECT FROM @extschema@.retraining_schedule s WHERE s.enabled);
    IF @extschema@._worker_obstacle() IS NOT NULL THEN
        RETURN QUERY SELECT CASE WHEN v_waits THEN 'error' ELSE 'warning' END, 'worker', v_status.state, v_status.hint;
    ELSIF pg_is_in_recovery() THEN
        RETURN;
    ELSIF v_waits AND v_status.launcher_pid IS NULL THEN
        RETURN QUERY SELECT 'error', 'worker', 'jobs or schedules wait, and no launcher runs', v_status.hint;
    ELSIF v_waits AND v_status.max_trainers = 0 THEN
        RETURN QUERY SELECT 'warning', 'worker', 'pg_finetune.max_trainers is 0: no background process trains',
                            'Call from a scheduler of your own: CALL run_due_work();';
    ELSIF v_waits AND NOT v_status.preloaded THEN
        RETURN QUERY SELECT 'warning', 'worker', 'after a restart of the server nothing runs before somebody submits a job',
                            'Add pg_finetune to shared_preload_libraries and restart the server.';
    END IF;
END
$$;
COMMENT ON FUNCTION _doctor_worker IS 'pg_finetune private: findings of doctor() about the worker';
REVOKE ALL ON FUNCTION _doctor_worker FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _doctor_worker TO finetune_analyst;

CREATE FUNCTION _doctor_capture() RETURNS TABLE (severity text, subject text, finding text, remedy text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT CASE WHEN c.broken THEN 'error' ELSE 'warning' END, 'capture of ' || c.source,
           CASE WHEN c.broken THEN c.state
                ELSE format('%s signals are not captured, %s of them too long; last: %s', c.behind, c.oversized, c.last_error) END,
           CASE WHEN c.state = 'table dropped' OR c.state = 'view dropped'
                THEN format('SELECT stop_capturing(%L);', c.source)
                WHEN c.broken
                THEN format('Mend it, then: SELECT refresh_capture(%1$L); SELECT backfill_signals(%1$L);', c.source)
                ELSE format('Mend the cause, then: SELECT backfill_signals(%L);', c.source) END
    FROM (SELECT s.source, s.state, s.state NOT LIKE 'capturing%' AS broken, s.signals_behind AS behind, s.oversized, s.last_error, s.open_failures
          FROM @extschema@.capture_status s) c
    WHERE c.broken OR c.open_failures > 0;
    RETURN QUERY
    SELECT 'warning', 'capture of ' || p.source, 'no signal says on which surface it was shown: a model may learn the screen, not the taste',
           format('Add a column "surface" to the view, then: SELECT refresh_capture(%L);', p.source)
    FROM (SELECT s.name AS source FROM @extschema@.capture_source s
          WHERE NOT 'surface' = ANY (s.columns)) p;
END
$$;
COMMENT ON FUNCTION _doctor_capture IS 'pg_finetune private: findings of doctor() about captured tables';
REVOKE ALL ON FUNCTION _doctor_capture FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _doctor_capture TO finetune_analyst;

CREATE FUNCTION _doctor_jobs() RETURNS TABLE (severity text, subject text, finding text, remedy text)
LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT 'error', 'job ' || j.id, format('%s: %s', j.state, j.error_message),
           format('%s SELECT retry_job(%L);', j.error_hint, j.id)
    FROM @extschema@.fine_tuning_job j
    WHERE j.state IN ('failed', 'expired') AND j.finished_at > clock_timestamp() - interval '7 days'
      AND NOT EXISTS (SELECT FROM @extschema@.fine_tuning_job later
                      WHERE later.dataset_id = j.dataset_id AND later.provider = j.provider AND later.created_at > j.created_at)
    ORDER BY j.finished_at DESC LIMIT 10;
    RETURN QUERY
    SELECT 'warning', 'job ' || j.id, format('has waited since %s: %s', j.due_at, COALESCE(j.error_message, j.stage)), 'SELECT * FROM worker_status();'
    FROM @extschema@.fine_tuning_job j
    WHERE @extschema@._job_is_open(j.state) AND NOT @extschema@._is_held(j) AND j.due_at < clock_timestamp() - interval '10 minutes'
    ORDER BY j.due_at LIMIT 10;
    RETURN QUERY
    SELECT 'error', 'provider ' || h.provider, format('left alone until %s for %s after %s failures: %s', h.retry_at, h.owner, h.failures, h.last_error),
           format('CALL check_provider(%L);', h.provider)
    FROM @extschema@.provider_health h WHERE h.retry_at > clock_timestamp();
    RETURN QUERY
    SELECT 'error', 'erasure ' || r.id, format('texts of a forgotten user are still at %s, asked for at %s', r.provider, r.requested_at),
           format('CALL check_provider(%L);', r.provider)
    FROM @extschema@.erasure_request r WHERE r.done_at IS NULL AND r.requested_at < clock_timestamp() - interval '1 day';
END
$$;
COMMENT ON FUNCTION _doctor_jobs IS 'pg_finetune private: findings of doctor() about jobs, providers and erasures';
REVOKE ALL ON FUNCTION _doctor_jobs FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _doctor_jobs TO finetune_analyst;

CREATE FUNCTION _doctor_schedules() RETURNS TABLE (severity text, subject text, finding text, remedy text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT CASE last.state WHEN 'failed' THEN 'error' ELSE 'warning' END, 'schedule ' || s.name,
           format('the run of %s %s: %s', last.due_at, last.state, COALESCE(last.reason, last.stage)),
           format('SELECT retrain_now(%L);', s.name)
    FROM @extschema@.retraining_schedule s
    CROSS JOIN LATERAL (SELECT r.* FROM @extschema@.retraining_run r WHERE r.schedule = s.name ORDER BY r.due_at DESC LIMIT 1) last
    WHERE s.enabled AND last.state IN ('failed', 'missed');
    RETURN QUERY
    SELECT 'error', 'schedule ' || s.name, format('due since %s', s.next_due_at), 'SELECT * FROM worker_status();'
    FROM @extschema@.retraining_schedule s
    WHERE s.enabled AND s.next_due_at < now() - interval '15 minutes' AND NOT pg_is_in_recovery();
END
$$;
COMMENT ON FUNCTION _doctor_schedules IS 'pg_finetune private: findings of doctor() about retraining';
REVOKE ALL ON FUNCTION _doctor_schedules FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _doctor_schedules TO finetune_analyst;

CREATE FUNCTION _doctor_experiments() RETURNS TABLE (severity text, subject text, finding text, remedy text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT 'error', 'experiment ' || e.name, format('%s: %s', h.check_name, h.meaning), format('SELECT * FROM experiment_health(%L);', e.name)
    FROM @extschema@.experiment e CROSS JOIN LATERAL @extschema@.experiment_health(e.name) h
    WHERE e.status = 'running' AND h.verdict = 'alarm';
    RETURN QUERY
    SELECT 'warning', 'experiment ' || e.name, 'nothing was shown in it for a day', 'Log what users are shown: capture_signals() or record_signal().'
    FROM @extschema@.experiment e
    WHERE e.status = 'running'
      AND (SELECT min(p.valid_from) FROM @extschema@.experiment_phase p WHERE p.experiment = e.name) < now() - interval '1 day'
      AND NOT EXISTS (SELECT FROM @extschema@.model_performance_log l
                      WHERE l.experiment = e.name AND l.shown_at > now() - interval '1 day');
    RETURN QUERY
    SELECT 'warning', 'rollout ' || r.experiment, format('%s since %s: %s', r.decision, r.decided_at, r.reason),
           format('SELECT * FROM experiment_health(%L);', r.experiment)
    FROM @extschema@.rollout_status r WHERE r.state = 'running' AND r.decision = 'hold';
END
$$;
COMMENT ON FUNCTION _doctor_experiments IS 'pg_finetune private: findings of doctor() about experiments and rollouts';
REVOKE ALL ON FUNCTION _doctor_experiments FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _doctor_experiments TO finetune_analyst;

CREATE FUNCTION _doctor_serving() RETURNS TABLE (severity text, subject text, finding text, remedy text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT 'warning', 'model ' || d.model_id, format('serves against the gate''s verdict "%s": %s', d.overridden, d.reason),
           'SELECT rollback_model(reason => ''the gate refused it'');'
    FROM (SELECT x.* FROM @extschema@.deployment x ORDER BY x.id DESC LIMIT 1) d WHERE d.overridden IS NOT NULL;
    -- The setting is known once pgvector is loaded. What counts is what a new session would have: this one may have set its own.
    PERFORM '[1]'::@extschema:vector@.vector;
    RETURN QUERY
    SELECT 'warning', 'search', format('hnsw.ef_search is %s: a learned query finds fewer of its neighbours than it should', e.reset_val),
           format('ALTER DATABASE %I SET hnsw.ef_search = 100;', current_database())
    FROM pg_settings e
    WHERE e.name = 'hnsw.ef_search' AND e.reset_val::int < 100
      AND EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam AND a.amname = 'hnsw')
      AND (EXISTS (SELECT FROM @extschema@.experiment x WHERE x.status = 'running')
           OR (SELECT x.model_id FROM @extschema@.deployment x ORDER BY x.id DESC LIMIT 1) <> 'base');
END
$$;
COMMENT ON FUNCTION _doctor_serving IS 'pg_finetune private: findings of doctor() about what serves';
REVOKE ALL ON FUNCTION _doctor_serving FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _doctor_serving TO finetune_analyst;

CREATE FUNCTION doctor() RETURNS TABLE (severity text, subject text, finding text, remedy text)
LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('doctor', 'finetune_analyst');
    RETURN QUERY
    SELECT f.* FROM (
        SELECT * FROM @extschema@._doctor_worker()
        UNION ALL SELECT * FROM @extschema@._doctor_capture()
        UNION ALL SELECT * FROM @extschema@._doctor_jobs()
        UNION ALL SELECT * FROM @extschema@._doctor_schedules()
        UNION ALL SELECT * FROM @extschema@._doctor_experiments()
        UNION ALL SELECT * FROM @extschema@._doctor_serving()
        UNION ALL SELECT * FROM @extschema@._doctor_shadow()
    ) f
    ORDER BY f.severity, f.subject, f.finding;
END
$$;
COMMENT ON FUNCTION doctor IS 'What is wrong here, errors first, each with the command that mends it; no row = nothing found. Severity is error (something does not happen that should) or warning';
GRANT EXECUTE ON FUNCTION doctor TO finetune_analyst, finetune_admin;
