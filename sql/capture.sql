-- Capture, the machinery: application table -> generated trigger -> _capture() -> model_performance_log and training_data_point.
-- One rule for every write: the view is the truth. For each touched key, what the view shows is stored,
-- and a data point that the view no longer shows is removed unless a dataset has learned from it.
-- All of it runs with the rights of whoever attached the table, never with the extension owner's:
-- a view is somebody's code.
-- Generated functions in users' schemas call _capture() and _capture_failed(): an upgrade keeps these two signatures.

-- What a view may hand over: the column names and types here are the mapping contract that capture_signals() checks.
CREATE TYPE captured_signal AS (
    signal_id       text,
    user_id         text,
    chunk_content   text,
    user_action     text,
    chunk_id        text,
    embedding       @extschema:vector@.vector,
    query_embedding @extschema:vector@.vector,
    actioned_at     timestamptz,
    relevance_score double precision,
    quality_score   double precision,
    episode_title   text,
    podcast_title   text,
    speaker_name    text,
    reason          text,
    surface         text,
    session_id      text,
    team_id         text,
    model_variant   text,
    model_id        text,
    position        integer,
    propensity      double precision,
    shown_at        timestamptz,
    chunk_bytes     integer
);
COMMENT ON TYPE captured_signal IS 'One signal as read through the view of a captured table; the first four columns are required of a view, the others are taken when it has them; chunk_bytes is measured';

-- DELETE, changed keys and capture_status find points by signal, not by user.
CREATE INDEX training_data_point_signal ON training_data_point (source, signal_id);
CREATE INDEX capture_failure_source ON capture_failure (source, failed_at);

CREATE FUNCTION _require_trust(relation regclass, via regclass) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stranger record;
BEGIN
    SELECT c.oid::regclass AS relation, pg_get_userbyid(c.relowner) AS owner INTO stranger
    FROM pg_class c
    WHERE c.oid IN (relation, via) AND NOT pg_has_role(c.relowner, current_user, 'MEMBER')
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('"%s" is not yours to capture', stranger.relation),
            DETAIL = format('capture evaluates the view with the rights of role "%s", and the owner "%s" could change what it evaluates', current_user, stranger.owner),
            HINT = format('GRANT finetune_admin TO %1$I; SET ROLE %1$I; then call it again, or make one role the owner of both', stranger.owner);
    END IF;
END
$$;
COMMENT ON FUNCTION _require_trust(regclass, regclass) IS 'Refuses a table or view whose owner is not the current role or a member of it: otherwise that owner would get the current role''s rights';
REVOKE ALL ON FUNCTION _require_trust(regclass, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_trust(regclass, regclass) TO finetune_admin;

CREATE FUNCTION _read_signals(via regclass, columns text[], keys text[]) RETURNS captured_signal[]
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fields text;
    key_type text;
    signals @extschema@.captured_signal[];
BEGIN
    -- A text beyond the limit is no chunk; it is cut out here, before an array of a thousand of them is built.
    SELECT string_agg(CASE
               WHEN a.attname = 'chunk_bytes' THEN 'octet_length(v.chunk_content::text)'
               WHEN a.attname <> ALL (columns) THEN 'NULL'
               WHEN a.attname = 'chunk_content' THEN format('CASE WHEN octet_length(v.chunk_content::text) <= %s THEN v.chunk_content::text END', @extschema@._max_chunk_bytes())
               ELSE format('v.%I::%s', a.attname, a.atttypid::regtype) END, ', ' ORDER BY a.attnum)
    INTO STRICT fields
    FROM pg_attribute a
    WHERE a.attrelid = '@extschema@.captured_signal'::regclass AND a.attnum > 0 AND NOT a.attisdropped;

    SELECT format_type(a.atttypid, -1) INTO key_type
    FROM pg_attribute a WHERE a.attrelid = via AND a.attname = 'signal_id';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_column',
            MESSAGE = format('column "signal_id" of "%s" is gone', via),
            DETAIL = 'it was there when the capture was attached',
            HINT = 'put it back with CREATE OR REPLACE VIEW, or stop_capturing() and attach anew';
    END IF;

    EXECUTE format('SELECT array_agg(ROW(%s)::@extschema@.captured_signal) FROM %s v WHERE v.signal_id = ANY ($1::%s[])',
                   fields, via, key_type)
    INTO signals USING keys;
    RETURN coalesce(@extschema@._without_forgotten(signals), '{}');
END
$$;
COMMENT ON FUNCTION _read_signals(regclass, text[], text[]) IS 'What a view shows for these signal ids';
REVOKE ALL ON FUNCTION _read_signals(regclass, text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _read_signals(regclass, text[], text[]) TO finetune_admin;

CREATE FUNCTION _signal_faults(signals captured_signal[]) RETURNS TABLE (signal_id text, fault text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    longest integer := @extschema@._max_chunk_bytes();
BEGIN
    RETURN QUERY
    SELECT s.signal_id, f.fault
    FROM unnest(signals) s
    CROSS JOIN LATERAL (SELECT CASE
        WHEN coalesce(s.user_id, '') = '' THEN 'user_id is NULL or empty'
        WHEN coalesce(s.signal_id, '') = '' THEN 'signal_id is NULL or empty'
        WHEN s.chunk_bytes > longest THEN format('chunk_content is longer than pg_finetune.max_chunk_bytes = %s', longest)
        WHEN s.chunk_content IS NULL THEN 'chunk_content is NULL'
        WHEN btrim(s.chunk_content, E' \t\r\n') = '' THEN 'chunk_content is blank'
        WHEN s.user_action NOT IN ('saved', 'skipped', 'snipped')
            THEN format('user_action is %L: expected saved, skipped, snipped or NULL', left(s.user_action, 60))
        -- NaN sorts above everything, so this refuses NaN, Infinity and the zero vector alike
        WHEN NOT (@extschema:vector@.vector_norm(s.embedding) > 0 AND @extschema:vector@.vector_norm(s.embedding) < 'Infinity')
            THEN 'embedding is a zero vector or not finite'
        WHEN NOT (@extschema:vector@.vector_norm(s.query_embedding) > 0 AND @extschema:vector@.vector_norm(s.query_embedding) < 'Infinity')
            THEN 'query_embedding is a zero vector or not finite'
        WHEN abs(s.relevance_score) >= 'Infinity' THEN 'relevance_score is not finite'
        WHEN abs(s.quality_score) >= 'Infinity' THEN 'quality_score is not finite'
        WHEN NOT (s.propensity > 0 AND s.propensity <= 1) THEN 'propensity is not in (0, 1]'
        WHEN NOT isfinite(s.shown_at) OR NOT isfinite(s.actioned_at) THEN 'shown_at or actioned_at is infinite'
        END) AS f (fault)
    WHERE f.fault IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _signal_faults(captured_signal[]) IS 'Signals that must not be stored, and why';
REVOKE ALL ON FUNCTION _signal_faults(captured_signal[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _signal_faults(captured_signal[]) TO finetune_admin;

CREATE FUNCTION _log_signals(origin text, signals captured_signal[], replay boolean, only_lock boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    untimed boolean; -- an action without a time of its own gets that of its first sight, and keeps it when written again
BEGIN
    FOR untimed IN SELECT DISTINCT s.user_action IS NOT NULL AND s.actioned_at IS NULL FROM unnest(signals) s LOOP
        INSERT INTO @extschema@.model_performance_log AS l (user_id, source, signal_id, team_id, model_variant, model_id, experiment, phase,
            user_action, relevance_score, surface, session_id, position, propensity, shown_at, actioned_at)
        SELECT DISTINCT ON (s.user_id, s.signal_id) s.user_id, origin, s.signal_id, nullif(s.team_id, ''), coalesce(s.model_variant, a.variant, 'base'),
            coalesce(s.model_id, CASE WHEN coalesce(s.model_variant, a.variant) = a.variant THEN a.model_id END),
            CASE WHEN a.in_experiment THEN a.experiment END, CASE WHEN a.in_experiment THEN a.phase END,
            s.user_action, s.relevance_score, s.surface, s.session_id, s.position, s.propensity, coalesce(s.shown_at, least(s.actioned_at, now())),
            CASE WHEN s.user_action IS NOT NULL THEN coalesce(s.actioned_at, CASE WHEN replay THEN s.shown_at END, now()) END
        FROM unnest(signals) s -- nothing is acted on before it is shown
        -- What is logged already keeps its variant; OFFSET 0 makes the planner look there first, before it asks for an assignment.
        LEFT JOIN LATERAL (SELECT * FROM @extschema@._assignment(s.user_id, coalesce(s.shown_at, least(s.actioned_at, now())), s.team_id)
                           WHERE NOT EXISTS (SELECT FROM @extschema@.model_performance_log k
                                             WHERE k.user_id = s.user_id AND k.source = origin AND k.signal_id = s.signal_id)
                           OFFSET 0) a ON true
        WHERE (s.user_action IS NOT NULL AND s.actioned_at IS NULL) = untimed
        ORDER BY s.user_id, s.signal_id, s.actioned_at DESC NULLS LAST
        -- Variant and shown_at stay as they were: what served an impression does not change with what came of it.
        ON CONFLICT (user_id, source, signal_id) DO UPDATE SET
            user_action = EXCLUDED.user_action,
            actioned_at = CASE
                WHEN NOT untimed THEN EXCLUDED.actioned_at
                WHEN EXCLUDED.user_action IS NOT DISTINCT FROM l.user_action THEN l.actioned_at
                ELSE now() END,
            relevance_score = coalesce(EXCLUDED.relevance_score, l.relevance_score),
            surface = coalesce(EXCLUDED.surface, l.surface),
            session_id = coalesce(EXCLUDED.session_id, l.session_id),
            position = coalesce(EXCLUDED.position, l.position),
            propensity = coalesce(EXCLUDED.propensity, l.propensity)
        WHERE NOT only_lock AND (untimed OR (EXCLUDED.actioned_at < l.actioned_at) IS NOT TRUE)
          AND (EXCLUDED.user_action IS NOT NULL OR origin <> 'api') -- an impression reported late does not undo an action
          AND ((EXCLUDED.user_action, coalesce(EXCLUDED.relevance_score, l.relevance_score), coalesce(EXCLUDED.surface, l.surface),
                coalesce(EXCLUDED.session_id, l.session_id), coalesce(EXCLUDED.position, l.position), coalesce(EXCLUDED.propensity, l.propensity))
               IS DISTINCT FROM (l.user_action, l.relevance_score, l.surface, l.session_id, l.position, l.propensity)
               OR (NOT untimed AND EXCLUDED.actioned_at IS DISTINCT FROM l.actioned_at));
    END LOOP;
END
$$;
COMMENT ON FUNCTION _log_signals(text, captured_signal[], boolean, boolean) IS 'Upsert into model_performance_log: the last action wins, the same once more changes nothing. replay = these are not happening now; only_lock = adds what is missing and locks the rest';
REVOKE ALL ON FUNCTION _log_signals(text, captured_signal[], boolean, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _log_signals(text, captured_signal[], boolean, boolean) TO finetune_admin;

CREATE FUNCTION _point_signals(origin text, signals captured_signal[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    written bigint;
BEGIN
    -- The log has just decided which action counts and when it was taken, so both are read from there.
    INSERT INTO @extschema@.training_data_point AS t (user_id, id, source, signal_id, chunk_id, chunk_content, embedding, query_embedding, user_action,
        actioned_at, relevance_score, quality_score, episode_title, podcast_title, speaker_name, reason, surface, session_id,
        model_variant, model_id, position, propensity, shown_at)
    SELECT DISTINCT ON (s.user_id, s.signal_id) s.user_id, origin || ':' || s.signal_id, origin, s.signal_id, s.chunk_id, s.chunk_content,
        s.embedding, s.query_embedding, l.user_action, l.actioned_at, l.relevance_score, s.quality_score, s.episode_title, s.podcast_title, s.speaker_name, s.reason,
        l.surface, l.session_id, l.model_variant, l.model_id, l.position, l.propensity, l.shown_at
    FROM unnest(signals) s
    JOIN @extschema@.model_performance_log l ON l.user_id = s.user_id AND l.source = origin AND l.signal_id = s.signal_id
    ORDER BY s.user_id, s.signal_id, s.actioned_at DESC NULLS LAST
    ON CONFLICT (user_id, source, signal_id) DO UPDATE SET
        chunk_id = coalesce(EXCLUDED.chunk_id, t.chunk_id),
        chunk_content = EXCLUDED.chunk_content,
        embedding = coalesce(EXCLUDED.embedding, t.embedding),
        query_embedding = coalesce(EXCLUDED.query_embedding, t.query_embedding),
        user_action = EXCLUDED.user_action,
        actioned_at = EXCLUDED.actioned_at,
        relevance_score = EXCLUDED.relevance_score,
        quality_score = coalesce(EXCLUDED.quality_score, t.quality_score),
        episode_title = coalesce(EXCLUDED.episode_title, t.episode_title),
        podcast_title = coalesce(EXCLUDED.podcast_title, t.podcast_title),
        speaker_name = coalesce(EXCLUDED.speaker_name, t.speaker_name),
        -- a reason belongs to the action it was given for
        reason = CASE WHEN t.user_action IS DISTINCT FROM EXCLUDED.user_action THEN EXCLUDED.reason ELSE coalesce(EXCLUDED.reason, t.reason) END,
        surface = EXCLUDED.surface,
        session_id = EXCLUDED.session_id,
        position = EXCLUDED.position,
        propensity = EXCLUDED.propensity,
        changes = t.changes + (t.user_action IS NOT NULL AND t.user_action IS DISTINCT FROM EXCLUDED.user_action)::int,
        -- a changed mind is news, even if a dataset learned from the old one
        used_for_training = t.used_for_training AND t.user_action IS NOT DISTINCT FROM EXCLUDED.user_action
    WHERE (coalesce(EXCLUDED.chunk_id, t.chunk_id), EXCLUDED.chunk_content, EXCLUDED.user_action, EXCLUDED.actioned_at,
           EXCLUDED.relevance_score, coalesce(EXCLUDED.quality_score, t.quality_score), coalesce(EXCLUDED.episode_title, t.episode_title),
           coalesce(EXCLUDED.podcast_title, t.podcast_title), coalesce(EXCLUDED.speaker_name, t.speaker_name),
           coalesce(EXCLUDED.reason, t.reason), EXCLUDED.surface, EXCLUDED.session_id, EXCLUDED.position, EXCLUDED.propensity)
          IS DISTINCT FROM (t.chunk_id, t.chunk_content, t.user_action, t.actioned_at, t.relevance_score, t.quality_score, t.episode_title,
           t.podcast_title, t.speaker_name, t.reason, t.surface, t.session_id, t.position, t.propensity)
       OR (EXCLUDED.embedding IS NOT NULL
           AND (t.embedding IS NULL OR t.embedding OPERATOR(@extschema:vector@.<>) EXCLUDED.embedding))
       OR (EXCLUDED.query_embedding IS NOT NULL
           AND (t.query_embedding IS NULL OR t.query_embedding OPERATOR(@extschema:vector@.<>) EXCLUDED.query_embedding));
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END
$$;
COMMENT ON FUNCTION _point_signals(text, captured_signal[]) IS 'Upsert into training_data_point of signals that are in the log already; returns how many rows were new or changed';
REVOKE ALL ON FUNCTION _point_signals(text, captured_signal[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _point_signals(text, captured_signal[]) TO finetune_admin;

CREATE FUNCTION _capture_failed(origin text, operation text, keys text[], code text, message text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    quiet boolean := EXISTS (SELECT FROM @extschema@.capture_failure f
                             WHERE f.source = origin AND f.failed_at > clock_timestamp() - interval '1 minute');
BEGIN
    INSERT INTO @extschema@.capture_failure (source, operation, signal_ids, error_code, error_message)
    SELECT origin, operation, keys[first : first + 9999], code, message
    FROM generate_series(1, greatest(cardinality(keys), 1), 10000) first;
    IF NOT quiet THEN -- once a minute and table: a broken mapping under load must not flood the log
        RAISE WARNING USING
            ERRCODE = code,
            MESSAGE = format('%s of "%s" not captured: %s', operation, origin, message),
            DETAIL = format('%s signal ids are kept in capture_failure', cardinality(keys)),
            HINT = format('mend the rows or the view, then SELECT @extschema@.backfill_signals(%L)', origin);
    END IF;
END
$$;
COMMENT ON FUNCTION _capture_failed(text, text, text[], text, text) IS 'Keeps the ids of signals that could not be captured, and warns at most once a minute';
REVOKE ALL ON FUNCTION _capture_failed(text, text, text[], text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_failed(text, text, text[], text, text) TO finetune_admin;

CREATE FUNCTION _set_faulty_aside(origin text, operation text, signals captured_signal[], strict boolean) RETURNS text[]
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    faulty text[] := '{}';
    same record;
    fresh text[];
BEGIN
    FOR same IN SELECT f.fault, array_agg(f.signal_id) AS ids FROM @extschema@._signal_faults(signals) f GROUP BY f.fault LOOP
        IF strict THEN
            RAISE EXCEPTION USING
                ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('signal cannot be captured: %s', same.fault),
                DETAIL = format('signal_id %s of "%s"', array_to_string(same.ids[1:10], ', '), origin),
                HINT = format('mend the row, or capture "%s" with on_error => ''warn'' to set such rows aside', origin);
        END IF;
        faulty := faulty || same.ids;
        fresh := ARRAY(SELECT unnest(same.ids) EXCEPT SELECT unnest(f.signal_ids) FROM @extschema@.capture_failure f
                       WHERE f.source = origin AND f.healed_at IS NULL AND f.error_message = same.fault ORDER BY 1);
        IF cardinality(fresh) > 0 THEN
            PERFORM @extschema@._capture_failed(origin, operation, fresh, '22023', same.fault);
        END IF;
    END LOOP;
    RETURN faulty;
END
$$;
COMMENT ON FUNCTION _set_faulty_aside(text, text, captured_signal[], boolean) IS 'Keeps signals that must not be stored in capture_failure, each once, and returns their ids; strict = refuses the statement instead';
REVOKE ALL ON FUNCTION _set_faulty_aside(text, text, captured_signal[], boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _set_faulty_aside(text, text, captured_signal[], boolean) TO finetune_admin;

CREATE FUNCTION _remove_vanished(origin text, keys text[], signals captured_signal[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @extschema@.training_data_point t
    WHERE t.source = origin AND t.signal_id = ANY (keys) AND NOT t.used_for_training
      AND (t.user_id, t.signal_id) NOT IN (SELECT s.user_id, s.signal_id FROM unnest(signals) s WHERE s.user_id IS NOT NULL);
END
$$;
COMMENT ON FUNCTION _remove_vanished(text, text[], captured_signal[]) IS 'Removes data points that the view no longer shows and no dataset has learned from; the log keeps what was shown';
REVOKE ALL ON FUNCTION _remove_vanished(text, text[], captured_signal[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _remove_vanished(text, text[], captured_signal[]) TO finetune_admin;

CREATE FUNCTION _capture(origin text, operation text, keys text[], OUT written bigint, OUT faulty text[])
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = auto AS $$
DECLARE
    src @extschema@.capture_source;
    replay boolean := operation = 'BACKFILL';
    part text[];
    signals @extschema@.captured_signal[];
    bad text[];
BEGIN
    SELECT * INTO src FROM @extschema@.capture_source c WHERE c.name = origin;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('capture source "%s" does not exist', origin),
            DETAIL = 'its row in capture_source is gone, its triggers are not',
            HINT = format('attach it anew: SELECT @extschema@.capture_signals(%L, via => ...)', origin);
    END IF;
    PERFORM @extschema@._require_trust(src.relation, src.via);
    written := 0;
    faulty := '{}';
    IF cardinality(keys) > 100 THEN -- a plan made for tables still empty would not do for tables that this call fills
        PERFORM set_config('plan_cache_mode', 'force_custom_plan', true);
    END IF;
    -- A thousand at a time bounds memory, whatever the size of the statement.
    FOR part IN SELECT array_agg(k.key) FROM unnest(keys) WITH ORDINALITY AS k (key, n) GROUP BY (k.n - 1) / 1000 LOOP
        signals := @extschema@._read_signals(src.via, src.columns, part);
        IF replay THEN -- between reading and writing somebody may act: lock what is there, then look again
            bad := ARRAY(SELECT f.signal_id FROM @extschema@._signal_faults(signals) f);
            PERFORM @extschema@._log_signals(origin, ARRAY(SELECT s FROM unnest(signals) s WHERE s.signal_id <> ALL (bad)), true, only_lock => true);
            signals := @extschema@._read_signals(src.via, src.columns, part);
        END IF;
        IF operation <> 'INSERT' THEN
            PERFORM @extschema@._remove_vanished(origin, part, signals);
        END IF;
        bad := @extschema@._set_faulty_aside(origin, operation, signals, src.on_error = 'abort' AND NOT replay);
        IF cardinality(bad) > 0 THEN
            signals := ARRAY(SELECT s FROM unnest(signals) s WHERE s.signal_id NOT IN (SELECT unnest(bad)));
            faulty := faulty || bad;
        END IF;
        PERFORM @extschema@._log_signals(origin, signals, replay);
        written := written + @extschema@._point_signals(origin, signals);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _capture(text, text, text[]) IS 'Brings data points and log in line with what the view shows for these keys; called by the generated triggers and by backfill_signals()';
REVOKE ALL ON FUNCTION _capture(text, text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture(text, text, text[]) TO finetune_admin;

CREATE FUNCTION _next_keys(src capture_source, after text, batch int) RETURNS text[]
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys text[];
    type text := (SELECT format_type(a.atttypid, -1) FROM pg_attribute a WHERE a.attrelid = src.relation AND a.attname = src.key_column);
BEGIN
    EXECUTE format('SELECT array_agg(p.key::text ORDER BY p.key) FROM (SELECT t.%1$I AS key FROM %2$s t WHERE %3$s ORDER BY t.%1$I LIMIT $2) p',
                   src.key_column, src.relation,
                   CASE WHEN after IS NULL THEN format('t.%I IS NOT NULL', src.key_column) ELSE format('t.%I > $1::%s', src.key_column, type) END)
    INTO keys USING after, batch;
    RETURN keys;
END
$$;
COMMENT ON FUNCTION _next_keys(capture_source, text, int) IS 'The next page of keys of a captured table in key order; NULL = no more';
REVOKE ALL ON FUNCTION _next_keys(capture_source, text, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _next_keys(capture_source, text, int) TO finetune_admin;

CREATE FUNCTION _backfill_page(src capture_source, after text, batch int, OUT last text, OUT written bigint, OUT faulty text[])
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys text[];
BEGIN
    IF batch IS NULL OR batch < 1 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('batch is %s', coalesce(batch::text, 'NULL')),
            DETAIL = 'it is the number of rows read at a time, at least 1',
            HINT = format('SELECT @extschema@.backfill_signals(%L, batch => 10000)', src.name);
    END IF;
    keys := @extschema@._next_keys(src, after, batch);
    last := keys[cardinality(keys)];
    SELECT c.written, c.faulty INTO written, faulty FROM @extschema@._capture(src.name, 'BACKFILL', coalesce(keys, '{}')) c;
END
$$;
COMMENT ON FUNCTION _backfill_page(capture_source, text, int) IS 'Captures one page of a table in key order; last = NULL when there was none';
REVOKE ALL ON FUNCTION _backfill_page(capture_source, text, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _backfill_page(capture_source, text, int) TO finetune_admin;

CREATE FUNCTION _open_failures(origin text) RETURNS bigint[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(SELECT f.id FROM @extschema@.capture_failure f WHERE f.source = origin AND f.healed_at IS NULL);
END
$$;
COMMENT ON FUNCTION _open_failures(text) IS 'Failures of a source that a backfill starting now is to heal';
REVOKE ALL ON FUNCTION _open_failures(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _open_failures(text) TO finetune_admin;

CREATE FUNCTION _heal_failures(origin text, failures bigint[], faulty text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    written bigint := 0;
    keys text[];
BEGIN
    -- Failures name rows that are deleted by now; where one could not even read its keys, any point may be of such a row.
    FOR keys IN
        SELECT f.signal_ids FROM @extschema@.capture_failure f WHERE f.id = ANY (failures)
        UNION ALL
        SELECT array_agg(p.signal_id)
        FROM (SELECT t.signal_id, row_number() OVER () / 10000 AS page FROM @extschema@.training_data_point t
              WHERE t.source = origin AND NOT t.used_for_training
                AND EXISTS (SELECT FROM @extschema@.capture_failure f WHERE f.id = ANY (failures) AND f.signal_ids = '{}')) p
        GROUP BY p.page
    LOOP
        written := written + (SELECT c.written FROM @extschema@._capture(origin, 'BACKFILL', keys) c);
    END LOOP;
    UPDATE @extschema@.capture_failure f
    SET signal_ids = coalesce(nullif(still.ids, '{}'), f.signal_ids),
        healed_at = CASE WHEN still.ids = '{}' THEN clock_timestamp() END
    FROM (SELECT g.id, ARRAY(SELECT i FROM unnest(g.signal_ids) i WHERE g.error_code = '22023' AND i IN (SELECT unnest(faulty))) AS ids
          FROM @extschema@.capture_failure g WHERE g.id = ANY (failures)) still
    WHERE f.id = still.id;
    IF cardinality(faulty) > 0 THEN
        RAISE NOTICE USING MESSAGE = format('%s signals of "%s" were set aside', cardinality(faulty), origin),
            HINT = format('SELECT * FROM @extschema@.capture_failure WHERE source = %L AND healed_at IS NULL', origin);
    END IF;
    RETURN written;
END
$$;
COMMENT ON FUNCTION _heal_failures(text, bigint[], text[]) IS 'End of a backfill: closes failures whose signals are captured by now, and narrows the others to the signals that are still faulty';
REVOKE ALL ON FUNCTION _heal_failures(text, bigint[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _heal_failures(text, bigint[], text[]) TO finetune_admin;
