-- What applications and people say directly: signals without a table, satisfaction, and the wish to be forgotten.

CREATE FUNCTION _require_user(user_id text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF user_id IS NULL OR user_id = '' THEN
        RAISE EXCEPTION USING
            ERRCODE = CASE WHEN user_id IS NULL THEN 'null_value_not_allowed' ELSE 'invalid_parameter_value' END,
            MESSAGE = CASE WHEN user_id IS NULL THEN 'user_id is NULL' ELSE 'user_id is empty' END,
            DETAIL = 'signals and answers belong to somebody',
            HINT = 'give everybody, also people without an account, a stable id of their own';
    END IF;
END
$$;
COMMENT ON FUNCTION _require_user(text) IS 'Refuses a missing user id';
REVOKE ALL ON FUNCTION _require_user(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_user(text) TO finetune_app;

CREATE FUNCTION _record_signal(user_id text, signal_id text, chunk_content text, user_action text DEFAULT NULL,
    embedding @extschema:vector@.vector DEFAULT NULL, chunk_id text DEFAULT NULL, surface text DEFAULT NULL,
    relevance_score double precision DEFAULT NULL, "position" int DEFAULT NULL, session_id text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    signal @extschema@.captured_signal;
    wrong text;
BEGIN
    PERFORM @extschema@._require_user(user_id);
    IF signal_id IS NULL OR chunk_content IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'signal_id or chunk_content is NULL',
            DETAIL = 'signal_id names what was shown to whom, chunk_content is its text',
            HINT = 'SELECT @extschema@.record_signal(user_id, signal_id, chunk_content, user_action => ''saved'')';
    END IF;
    signal.user_id := user_id;
    signal.signal_id := signal_id;
    signal.chunk_content := chunk_content;
    signal.chunk_bytes := octet_length(chunk_content);
    signal.user_action := user_action;
    signal.embedding := embedding;
    signal.chunk_id := chunk_id;
    signal.surface := surface;
    signal.relevance_score := relevance_score;
    signal.position := "position";
    signal.session_id := session_id;
    SELECT f.fault INTO wrong FROM @extschema@._signal_faults(ARRAY[signal]) f;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'signal cannot be recorded', DETAIL = wrong,
            HINT = 'user_action is ''saved'', ''skipped'', ''snipped'', or NULL while the user has not decided';
    END IF;
    PERFORM @extschema@._log_signals('api', ARRAY[signal], false);
    PERFORM @extschema@._point_signals('api', ARRAY[signal]);
END
$$;
COMMENT ON FUNCTION _record_signal IS 'pg_finetune private: record_signal with the owner''s rights';
REVOKE ALL ON FUNCTION _record_signal FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _record_signal TO finetune_app;

CREATE FUNCTION record_signal(user_id text, signal_id text, chunk_content text, user_action text DEFAULT NULL,
    embedding @extschema:vector@.vector DEFAULT NULL, chunk_id text DEFAULT NULL, surface text DEFAULT NULL,
    relevance_score double precision DEFAULT NULL, "position" int DEFAULT NULL, session_id text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('record_signal', 'finetune_app');
    PERFORM @extschema@._record_signal(user_id, signal_id, chunk_content, user_action, embedding, chunk_id, surface, relevance_score,
                                       "position", session_id);
END
$$;
COMMENT ON FUNCTION record_signal IS 'For applications without a table to capture: one call when an item is shown, one more with the same signal_id when the user acts; the last action wins';
GRANT EXECUTE ON FUNCTION record_signal TO finetune_app;

CREATE FUNCTION _record_satisfaction(user_id text, score int, comment text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    served record;
    answer uuid := gen_random_uuid();
BEGIN
    PERFORM @extschema@._require_user(user_id);
    IF score IS NULL OR score NOT BETWEEN 1 AND 5 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('score is %s', coalesce(score::text, 'NULL')),
            DETAIL = 'satisfaction is measured from 1 (not at all) to 5 (very well)', HINT = 'map the answer to 1..5, or record nothing';
    END IF;
    SELECT * INTO served FROM @extschema@._assignment(user_id, now());
    INSERT INTO @extschema@.satisfaction_survey (user_id, id, experiment, variant, score, comment)
    VALUES (_record_satisfaction.user_id, answer, CASE WHEN served.in_experiment THEN served.experiment END,
            coalesce(served.variant, 'base'), _record_satisfaction.score, _record_satisfaction.comment);
    RETURN answer;
END
$$;
COMMENT ON FUNCTION _record_satisfaction IS 'pg_finetune private: record_satisfaction with the owner''s rights';
REVOKE ALL ON FUNCTION _record_satisfaction FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _record_satisfaction TO finetune_app;

CREATE FUNCTION record_satisfaction(user_id text, score int, comment text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('record_satisfaction', 'finetune_app');
    RETURN @extschema@._record_satisfaction(user_id, score, comment);
END
$$;
COMMENT ON FUNCTION record_satisfaction IS 'Keeps one answer to "how well did these suggestions fit?" (1 to 5) with the variant that serves the user now; returns its id';
GRANT EXECUTE ON FUNCTION record_satisfaction TO finetune_app;

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

CREATE FUNCTION forget_user(user_id text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    receipt jsonb;
    removed jsonb;
    rows bigint;
    place text;
BEGIN
    PERFORM @extschema@._require_role('forget_user', 'finetune_admin');
    PERFORM @extschema@._require_user(user_id);
    receipt := @extschema@._traces_of_user(user_id);
    removed := jsonb_build_object('capture_failure', @extschema@._forget_failures(user_id));
    FOREACH place IN ARRAY ARRAY['training_data_point', 'user_profile', 'dataset_example', 'model_performance_log', 'satisfaction_survey', 'experiment_pin'] LOOP
        EXECUTE format('DELETE FROM @extschema@.%I t WHERE t.user_id = $1', place) USING user_id;
        GET DIAGNOSTICS rows = ROW_COUNT;
        removed := removed || jsonb_build_object(place, rows);
    END LOOP;
    RETURN receipt || jsonb_build_object('removed', removed, 'forgotten_at', now());
END
$$;
COMMENT ON FUNCTION forget_user(text) IS 'Removes a person from data points, datasets, logs, surveys, pins and failures; the receipt counts what went and names the models and providers that learned from them';
GRANT EXECUTE ON FUNCTION forget_user(text) TO finetune_admin;
