-- The wish to be forgotten: everything of a person goes, a tombstone keeps it from coming back, a receipt says what is left to do.

CREATE FUNCTION _user_hash(who text) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN sha256(convert_to(who, 'UTF8'));
END
$$;
COMMENT ON FUNCTION _user_hash(text) IS 'pg_finetune private: what a tombstone keeps of a user id';
REVOKE ALL ON FUNCTION _user_hash(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _user_hash(text) TO finetune_admin;

CREATE FUNCTION _is_forgotten(who text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM @extschema@.forgotten_user f WHERE f.user_hash = @extschema@._user_hash(who));
END
$$;
COMMENT ON FUNCTION _is_forgotten(text) IS 'pg_finetune private: whether a tombstone keeps this user out';
REVOKE ALL ON FUNCTION _is_forgotten(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _is_forgotten(text) TO finetune_admin;

CREATE FUNCTION _without_forgotten(signals captured_signal[]) RETURNS captured_signal[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM @extschema@.forgotten_user) THEN
        RETURN signals;
    END IF;
    RETURN ARRAY(SELECT s FROM unnest(signals) s
                 WHERE NOT EXISTS (SELECT FROM @extschema@.forgotten_user f WHERE f.user_hash = sha256(convert_to(s.user_id, 'UTF8'))));
END
$$;
COMMENT ON FUNCTION _without_forgotten(captured_signal[]) IS 'pg_finetune private: signals but those of forgotten users';
REVOKE ALL ON FUNCTION _without_forgotten(captured_signal[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _without_forgotten(captured_signal[]) TO finetune_admin;

CREATE FUNCTION _traces_of_user(who text) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    datasets uuid[] := ARRAY(SELECT DISTINCT e.dataset_id FROM @extschema@.dataset_example e WHERE e.user_id = who);
BEGIN
    RETURN jsonb_build_object(
        'user_id', who,
        'captured_from', (SELECT coalesce(jsonb_agg(DISTINCT l.source), '[]') FROM @extschema@.model_performance_log l WHERE l.user_id = who),
        'datasets', (SELECT coalesce(jsonb_agg(d.name || ':' || d.version ORDER BY d.name, d.version), '[]')
                     FROM @extschema@.dataset d WHERE d.id = ANY (datasets)),
        'models', (SELECT coalesce(jsonb_agg(m.id ORDER BY m.id), '[]') FROM @extschema@.model m WHERE m.dataset_id = ANY (datasets)),
        'sent_to', (SELECT coalesce(jsonb_agg(jsonb_build_object('provider', j.provider, 'job', j.id) ORDER BY j.created_at), '[]')
                    FROM @extschema@.fine_tuning_job j
                    WHERE j.dataset_id = ANY (datasets) AND j.provider <> 'builtin' AND j.started_at IS NOT NULL));
END
$$;
COMMENT ON FUNCTION _traces_of_user(text) IS 'Where a person left traces that deletion alone does not reach: models trained on them, providers that got their texts';
REVOKE ALL ON FUNCTION _traces_of_user(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _traces_of_user(text) TO finetune_admin;

CREATE FUNCTION _forget_failures(who text) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    narrowed bigint;
    emptied bigint[];
BEGIN
    WITH theirs AS (
        SELECT l.source, array_agg(l.signal_id) AS ids FROM @extschema@.model_performance_log l WHERE l.user_id = who GROUP BY l.source
    ), changed AS (
        UPDATE @extschema@.capture_failure f
        SET signal_ids = ARRAY(SELECT i FROM unnest(f.signal_ids) i WHERE i <> ALL (t.ids))
        FROM theirs t WHERE t.source = f.source AND f.signal_ids && t.ids
        RETURNING f.id, f.signal_ids)
    SELECT count(*), array_agg(c.id) FILTER (WHERE c.signal_ids = '{}') INTO narrowed, emptied FROM changed c;
    DELETE FROM @extschema@.capture_failure f WHERE f.id = ANY (emptied);
    RETURN narrowed;
END
$$;
COMMENT ON FUNCTION _forget_failures(text) IS 'Takes the signals of a person, as the log knows them, out of capture_failure';
REVOKE ALL ON FUNCTION _forget_failures(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _forget_failures(text) TO finetune_admin;

CREATE FUNCTION _stop_jobs_with(who text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stopped jsonb;
    requested jsonb;
BEGIN
    WITH theirs AS (
        SELECT j.id, j.provider, j.started_at, @extschema@._job_is_open(j.state) AS open
        FROM @extschema@.fine_tuning_job j
        WHERE j.dataset_id IN (SELECT e.dataset_id FROM @extschema@.dataset_example e WHERE e.user_id = who)
    ), stop AS (
        UPDATE @extschema@.fine_tuning_job j SET cancel_requested = true, due_at = CASE WHEN j.phase IS NULL THEN j.due_at ELSE now() END
        FROM theirs t WHERE j.id = t.id AND t.open RETURNING j.id
    ), request AS (
        INSERT INTO @extschema@.erasure_request (job_id, provider)
        SELECT t.id, t.provider FROM theirs t WHERE t.provider <> 'builtin' AND t.started_at IS NOT NULL
        ON CONFLICT (job_id) WHERE done_at IS NULL DO NOTHING
        RETURNING id
    )
    SELECT (SELECT coalesce(jsonb_agg(s.id ORDER BY s.id), '[]') FROM stop s), (SELECT coalesce(jsonb_agg(r.id ORDER BY r.id), '[]') FROM request r)
    INTO stopped, requested;
    IF stopped <> '[]' OR requested <> '[]' THEN
        PERFORM @extschema@._wake_worker();
    END IF;
    RETURN jsonb_build_object('jobs_stopped', stopped, 'erasure_requests', requested);
END
$$;
COMMENT ON FUNCTION _stop_jobs_with(text) IS 'pg_finetune private: cancels jobs that would still train on a person, and asks for their files at providers to be deleted';
REVOKE ALL ON FUNCTION _stop_jobs_with(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _stop_jobs_with(text) TO finetune_admin;

CREATE FUNCTION _delete_rows_of(who text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed jsonb := jsonb_build_object('capture_failure', @extschema@._forget_failures(who));
    profiles CONSTANT bigint := (SELECT count(*) FROM @extschema@.user_profile p WHERE p.user_id = who);
    rows bigint;
    place text;
BEGIN
    FOREACH place IN ARRAY ARRAY['training_data_point', 'user_profile', 'data_point_vector', 'chat_answer', 'adapter_head', 'dataset_example', 'model_performance_log', 'shadow_score', 'satisfaction_survey', 'experiment_pin'] LOOP
        EXECUTE format('DELETE FROM @extschema@.%I t WHERE t.user_id = $1', place) USING who;
        GET DIAGNOSTICS rows = ROW_COUNT;
        removed := removed || jsonb_build_object(place, rows);
    END LOOP;
    RETURN removed || jsonb_build_object('user_profile', profiles); -- which went with the data points
END
$$;
COMMENT ON FUNCTION _delete_rows_of(text) IS 'pg_finetune private: deletes a person from every table; returns how many rows went from each';
REVOKE ALL ON FUNCTION _delete_rows_of(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _delete_rows_of(text) TO finetune_admin;

CREATE FUNCTION _bar_captures() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    deadline CONSTANT timestamptz := clock_timestamp() + interval '30 seconds';
BEGIN
    -- Whoever stores a new signal has read this table and keeps his lock to the end. Asked for again and again, not queued
    -- for: behind a queued lock every other capture would wait, too.
    LOOP
        BEGIN
            LOCK TABLE @extschema@.forgotten_user IN ACCESS EXCLUSIVE MODE NOWAIT;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > deadline THEN
                RAISE EXCEPTION USING ERRCODE = 'lock_not_available', MESSAGE = 'signals are being stored by other transactions',
                    DETAIL = 'they have been open for 30 seconds, and what they store is not yet there to be deleted',
                    HINT = 'end the oldest of SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start, then call it again';
            END IF;
        END;
        PERFORM pg_sleep(0.02);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _bar_captures() IS 'pg_finetune private: waits until no open transaction has stored a new signal, and keeps others from it until this one ends';
REVOKE ALL ON FUNCTION _bar_captures() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _bar_captures() TO finetune_admin;

CREATE FUNCTION forget_user(user_id text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    receipt jsonb;
    removed jsonb;
    late jsonb;
BEGIN
    PERFORM @extschema@._require_role('forget_user', 'finetune_admin');
    PERFORM @extschema@._require_user(user_id);
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_transaction_state',
            MESSAGE = format('a user cannot be forgotten in a %s transaction', current_setting('transaction_isolation')),
            DETAIL = 'it would not see what others have stored since it began',
            HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED; SELECT @extschema@.forget_user(...); COMMIT';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('pg_finetune create_dataset', 0)); -- what is being frozen can be deleted afterwards
    receipt := @extschema@._traces_of_user(user_id) || @extschema@._stop_jobs_with(user_id);
    -- Most of it while captures go on; then the little that came meanwhile, under the lock that lets the stone be seen in time.
    removed := @extschema@._delete_rows_of(user_id);
    PERFORM @extschema@._bar_captures();
    INSERT INTO @extschema@.forgotten_user (user_hash) VALUES (@extschema@._user_hash(user_id)) ON CONFLICT (user_hash) DO NOTHING;
    late := @extschema@._delete_rows_of(user_id);
    SELECT jsonb_object_agg(r.key, r.value::bigint + (late ->> r.key)::bigint) INTO removed FROM jsonb_each_text(removed) r;
    RETURN receipt || jsonb_build_object('removed', removed, 'forgotten_at', now(), 'receipt_id', gen_random_uuid());
END
$$;
COMMENT ON FUNCTION forget_user(text) IS 'Removes a person from data points, profiles, datasets, logs, surveys, pins and failures and keeps them out from now on; stops jobs that would train on them. The receipt counts what went and names the models and providers that learned from them';
GRANT EXECUTE ON FUNCTION forget_user(text) TO finetune_admin;

CREATE FUNCTION readmit_user(user_id text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('readmit_user', 'finetune_admin');
    PERFORM @extschema@._require_user(user_id);
    DELETE FROM @extschema@.forgotten_user f WHERE f.user_hash = @extschema@._user_hash(user_id);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION readmit_user(text) IS 'A forgotten user is back and agrees: signals are captured again from now on; false = was not forgotten';
GRANT EXECUTE ON FUNCTION readmit_user(text) TO finetune_admin;
