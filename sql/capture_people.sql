-- What applications and people say directly: signals without a table, and satisfaction.

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
    relevance_score double precision DEFAULT NULL, "position" int DEFAULT NULL, session_id text DEFAULT NULL, team_id text DEFAULT NULL,
    propensity double precision DEFAULT NULL, query_embedding @extschema:vector@.vector DEFAULT NULL) RETURNS void
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
    signal.team_id := team_id;
    signal.propensity := propensity;
    signal.query_embedding := query_embedding;
    SELECT f.fault INTO wrong FROM @extschema@._signal_faults(ARRAY[signal]) f;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'signal cannot be recorded', DETAIL = wrong,
            HINT = 'user_action is ''saved'', ''skipped'', ''snipped'', or NULL while the user has not decided';
    END IF;
    IF @extschema@._is_forgotten(user_id) THEN
        RETURN;
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
    relevance_score double precision DEFAULT NULL, "position" int DEFAULT NULL, session_id text DEFAULT NULL, team_id text DEFAULT NULL,
    propensity double precision DEFAULT NULL, query_embedding @extschema:vector@.vector DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('record_signal', 'finetune_app');
    PERFORM @extschema@._record_signal(user_id, signal_id, chunk_content, user_action, embedding, chunk_id, surface, relevance_score,
                                       "position", session_id, team_id, propensity, query_embedding);
END
$$;
COMMENT ON FUNCTION record_signal IS 'For applications without a table to capture: one call when an item is shown, one more with the same signal_id when the user acts; the last action wins';
GRANT EXECUTE ON FUNCTION record_signal TO finetune_app;

CREATE FUNCTION _record_satisfaction(user_id text, score int, comment text DEFAULT NULL, team_id text DEFAULT NULL) RETURNS uuid
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
    IF @extschema@._is_forgotten(user_id) THEN
        RETURN NULL;
    END IF;
    SELECT * INTO served FROM @extschema@._assignment(user_id, now(), team_id);
    INSERT INTO @extschema@.satisfaction_survey (user_id, id, experiment, variant, score, comment)
    VALUES (_record_satisfaction.user_id, answer, CASE WHEN served.in_experiment THEN served.experiment END,
            coalesce(served.variant, 'base'), _record_satisfaction.score, _record_satisfaction.comment);
    RETURN answer;
END
$$;
COMMENT ON FUNCTION _record_satisfaction IS 'pg_finetune private: record_satisfaction with the owner''s rights';
REVOKE ALL ON FUNCTION _record_satisfaction FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _record_satisfaction TO finetune_app;

CREATE FUNCTION record_satisfaction(user_id text, score int, comment text DEFAULT NULL, team_id text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('record_satisfaction', 'finetune_app');
    RETURN @extschema@._record_satisfaction(user_id, score, comment, team_id);
END
$$;
COMMENT ON FUNCTION record_satisfaction IS 'Keeps one answer to "how well did these suggestions fit?" (1 to 5) with the variant that serves the user now; returns its id';
GRANT EXECUTE ON FUNCTION record_satisfaction TO finetune_app;
