-- Capture, the quick way: one statement per captured table and operation, planned once per backend (src/api/capture.rs).
-- It takes what needs no judgement; keys that it does not return go through _capture().

CREATE FUNCTION _capture_note() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_note_wrapper';
COMMENT ON FUNCTION _capture_note() IS 'pg_finetune private: row trigger of captured tables: notes the key';
REVOKE ALL ON FUNCTION _capture_note() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_note() TO finetune_admin;

CREATE FUNCTION _capture_statement_end() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_statement_end_wrapper';
COMMENT ON FUNCTION _capture_statement_end() IS 'pg_finetune private: statement trigger of captured tables: hands the noted keys to the generated function';
REVOKE ALL ON FUNCTION _capture_statement_end() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_statement_end() TO finetune_admin;

CREATE FUNCTION _capture_operation() RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_operation_wrapper';
COMMENT ON FUNCTION _capture_operation() IS 'pg_finetune private: what the generated function is called for: INSERT, UPDATE or DELETE; NULL = a TRUNCATE';
REVOKE ALL ON FUNCTION _capture_operation() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_operation() TO finetune_admin;

CREATE FUNCTION _capture_keys() RETURNS text[]
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_keys_wrapper';
COMMENT ON FUNCTION _capture_keys() IS 'pg_finetune private: the keys that the generated function is called for';
REVOKE ALL ON FUNCTION _capture_keys() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_keys() TO finetune_admin;

CREATE FUNCTION _capture_known(source text) RETURNS text[]
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_known_wrapper';
COMMENT ON FUNCTION _capture_known(text) IS 'pg_finetune private: captures new impressions and new actions of the keys handed over; returns the keys of all others, NULL = none';
REVOKE ALL ON FUNCTION _capture_known(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_known(text) TO finetune_admin;

CREATE FUNCTION _capture_source_changed() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_source_changed_wrapper';
COMMENT ON FUNCTION _capture_source_changed() IS 'pg_finetune private: tells every backend, at commit, that what it keeps of capture_source may be out of date';
REVOKE ALL ON FUNCTION _capture_source_changed() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_source_changed() TO finetune_admin;

CREATE TRIGGER capture_source_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON capture_source
    FOR EACH STATEMENT EXECUTE FUNCTION _capture_source_changed();
COMMENT ON TRIGGER capture_source_changed ON capture_source IS 'backends keep its rows in memory';

CREATE FUNCTION _max_chunk_bytes() RETURNS integer
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'max_chunk_bytes_wrapper';
COMMENT ON FUNCTION _max_chunk_bytes() IS 'pg_finetune private: the setting pg_finetune.max_chunk_bytes';
REVOKE ALL ON FUNCTION _max_chunk_bytes() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _max_chunk_bytes() TO finetune_app, finetune_admin;

CREATE FUNCTION _signals_subquery(src capture_source) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fields text;
    key_type text := (SELECT format_type(a.atttypid, -1) FROM pg_attribute a WHERE a.attrelid = src.via AND a.attname = 'signal_id');
BEGIN
    SELECT string_agg(CASE WHEN a.attname = 'chunk_bytes' THEN 'octet_length(v.chunk_content::text)'
                           WHEN a.attname = ANY (src.columns) THEN format('v.%I::%s', a.attname, a.atttypid::regtype)
                           ELSE format('NULL::%s', a.atttypid::regtype) END || format(' AS %I', a.attname), ', ' ORDER BY a.attnum)
    INTO fields
    FROM pg_attribute a
    WHERE a.attrelid = '@extschema@.captured_signal'::regclass AND a.attnum > 0 AND NOT a.attisdropped;
    -- One row per user and signal, the newest action; byte order, which is also the order of locks.
    RETURN format('SELECT DISTINCT ON (v.user_id::text COLLATE "C", v.signal_id::text COLLATE "C") %s FROM %s v
        WHERE v.signal_id = ANY ($1::%s[]) ORDER BY v.user_id::text COLLATE "C", v.signal_id::text COLLATE "C"%s',
        fields, src.via, coalesce(key_type, 'text'), CASE WHEN 'actioned_at' = ANY (src.columns) THEN ', v.actioned_at DESC NULLS LAST' END);
END
$$;
COMMENT ON FUNCTION _signals_subquery(capture_source) IS 'pg_finetune private: SELECT of what a view shows for the keys in $1';
REVOKE ALL ON FUNCTION _signals_subquery(capture_source) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _signals_subquery(capture_source) TO finetune_admin;

CREATE FUNCTION _new_signals_statement(src capture_source) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    faultless text := $faults$s.user_id <> '' AND s.signal_id <> '' AND s.chunk_bytes <= $2 AND btrim(s.chunk_content, E' \t\r\n') <> ''
        AND (s.user_action IS NULL OR s.user_action IN ('saved', 'skipped', 'snipped'))$faults$;
BEGIN
    SELECT concat_ws(' AND ', faultless, string_agg(f.rule, ' AND ')) INTO faultless
    FROM (VALUES ('embedding', '(s.embedding IS NULL OR @extschema:vector@.vector_norm(s.embedding) > 0 AND @extschema:vector@.vector_norm(s.embedding) < ''Infinity'')'),
                 ('query_embedding', '(s.query_embedding IS NULL OR @extschema:vector@.vector_norm(s.query_embedding) > 0 AND @extschema:vector@.vector_norm(s.query_embedding) < ''Infinity'')'),
                 ('relevance_score', '(abs(s.relevance_score) < ''Infinity'') IS NOT FALSE'),
                 ('quality_score', '(abs(s.quality_score) < ''Infinity'') IS NOT FALSE'),
                 ('propensity', '(s.propensity > 0 AND s.propensity <= 1) IS NOT FALSE'),
                 ('shown_at', 'isfinite(s.shown_at) IS NOT FALSE'),
                 ('actioned_at', 'isfinite(s.actioned_at) IS NOT FALSE')) AS f (col, rule)
    WHERE f.col = ANY (src.columns);
    RETURN format($statement$
        WITH s AS MATERIALIZED (%1$s),
        fresh AS MATERIALIZED (
            SELECT s.*, a.in_experiment, a.experiment, a.phase,
                   coalesce(s.model_variant, a.variant, 'base') AS served_variant,
                   coalesce(s.model_id, CASE WHEN coalesce(s.model_variant, a.variant) = a.variant THEN a.model_id END) AS served_model,
                   CASE WHEN s.user_action IS NOT NULL THEN coalesce(s.actioned_at, now()) END AS acted_at
            FROM (SELECT s.* FROM s WHERE %2$s
                  AND NOT EXISTS (SELECT FROM @extschema@.forgotten_user f WHERE f.user_hash = sha256(convert_to(s.user_id, 'UTF8')))
                  AND NOT EXISTS (SELECT FROM @extschema@.model_performance_log l
                                  WHERE l.user_id = s.user_id AND l.source = %3$L AND l.signal_id = s.signal_id) OFFSET 0) s
            LEFT JOIN LATERAL @extschema@._assignment(s.user_id, coalesce(s.shown_at, least(s.actioned_at, now())), s.team_id) a ON true),
        logged AS (
            INSERT INTO @extschema@.model_performance_log (user_id, source, signal_id, team_id, model_variant, model_id, experiment, phase,
                user_action, relevance_score, surface, session_id, position, propensity, shown_at, actioned_at)
            SELECT f.user_id, %3$L, f.signal_id, nullif(f.team_id, ''), f.served_variant, f.served_model, CASE WHEN f.in_experiment THEN f.experiment END,
                CASE WHEN f.in_experiment THEN f.phase END, f.user_action, f.relevance_score, f.surface, f.session_id, f.position,
                f.propensity, coalesce(f.shown_at, least(f.actioned_at, now())), f.acted_at
            FROM fresh f
            ON CONFLICT (user_id, source, signal_id) DO NOTHING)
        INSERT INTO @extschema@.training_data_point (user_id, id, source, signal_id, chunk_id, chunk_content, embedding, query_embedding, user_action,
            actioned_at, relevance_score, quality_score, episode_title, podcast_title, speaker_name, reason, surface, session_id,
            model_variant, model_id, position, propensity, shown_at)
        SELECT f.user_id, %3$L || ':' || f.signal_id, %3$L, f.signal_id, f.chunk_id, f.chunk_content, f.embedding, f.query_embedding, f.user_action,
            f.acted_at, f.relevance_score, f.quality_score, f.episode_title, f.podcast_title, f.speaker_name, f.reason, f.surface, f.session_id,
            f.served_variant, f.served_model, f.position, f.propensity, coalesce(f.shown_at, least(f.actioned_at, now()))
        FROM fresh f
        ON CONFLICT (user_id, source, signal_id) DO NOTHING
        RETURNING signal_id$statement$, @extschema@._signals_subquery(src), faultless, src.name);
END
$$;
COMMENT ON FUNCTION _new_signals_statement(capture_source) IS 'pg_finetune private: INSERT of faultless signals that the log does not know';
REVOKE ALL ON FUNCTION _new_signals_statement(capture_source) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _new_signals_statement(capture_source) TO finetune_admin;

CREATE FUNCTION _known_signals_statement(src capture_source, sole boolean) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key_type text := (SELECT format_type(a.atttypid, -1) FROM pg_attribute a WHERE a.attrelid = src.via AND a.attname = 'signal_id');
    timed boolean := 'actioned_at' = ANY (src.columns);
    -- Context of the serving: a later NULL does not erase it. What was shown: a difference is for _capture() to judge.
    served text[] := ARRAY(SELECT c FROM unnest(ARRAY['relevance_score', 'surface', 'session_id', 'position', 'propensity']) c WHERE c = ANY (src.columns));
    shown text[] := ARRAY(SELECT c FROM unnest(ARRAY['chunk_id', 'quality_score', 'episode_title', 'podcast_title', 'speaker_name']) c WHERE c = ANY (src.columns));
    acted_at text := format('CASE WHEN s.user_action IS NULL THEN NULL %s WHEN s.user_action = s.logged_action THEN s.logged_at ELSE now() END',
        CASE WHEN timed THEN 'WHEN s.actioned_at IS NOT NULL THEN s.actioned_at' END);
    sound text := (SELECT string_agg(f.rule, '') FROM (VALUES
        ('relevance_score', ' AND (abs(s.relevance_score) < ''Infinity'') IS NOT FALSE'),
        ('propensity', ' AND (s.propensity > 0 AND s.propensity <= 1) IS NOT FALSE'),
        ('actioned_at', ' AND isfinite(s.actioned_at) IS NOT FALSE AND (s.user_action IS NOT NULL AND s.actioned_at < s.logged_at) IS NOT TRUE')) AS f (col, rule)
        WHERE f.col = ANY (src.columns));
BEGIN
    -- A point of another user comes first, and is not the same. A vector that is there is not compared: fetching it costs more
    -- than all the rest. No place where it is not for us; column 4 is NULL where there is nothing to write.
    -- OFFSET 0: our tables are looked into by their indexes, however the view is joined; hashing them whole, with their texts,
    -- costs twice as much. A single key needs neither that nor an order; then more than one row is for others to judge.
    RETURN format($statement$
        SELECT s.signal_id, CASE WHEN s.same AND (s.user_action IS NULL OR s.user_action IN ('saved', 'skipped', 'snipped'))%9$s THEN s.log_place END,
               s.point_place,
               nullif(s.user_action IS DISTINCT FROM s.logged_action OR s.user_action IS DISTINCT FROM s.stored_action
                      OR s.logged_at IS DISTINCT FROM %7$s%10$s, false),
               s.user_action, %7$s AS actioned_at%8$s,
               s.changes + (s.user_action IS DISTINCT FROM s.stored_action AND s.stored_action IS NOT NULL)::int AS changes,
               s.used_for_training AND s.user_action IS NOT DISTINCT FROM s.stored_action AS used_for_training
        FROM (
            SELECT %12$s v.signal_id::text AS signal_id, v.user_action::text AS user_action%1$s,
                   l.ctid AS log_place, l.user_action AS logged_action, l.actioned_at AS logged_at%11$s,
                   t.ctid AS point_place, t.user_action AS stored_action, t.changes, t.used_for_training,
                   t.user_id = v.user_id::text AND t.chunk_content = v.chunk_content::text%2$s AS same
            FROM %3$s v
            JOIN LATERAL (SELECT p.ctid, p.* FROM @extschema@.training_data_point p WHERE p.source = %4$L AND p.signal_id = v.signal_id::text%13$s) t ON true
            LEFT JOIN LATERAL (SELECT p.ctid, p.* FROM @extschema@.model_performance_log p
                WHERE p.user_id = v.user_id::text AND p.source = %4$L AND p.signal_id = v.signal_id::text%13$s) l ON true
            WHERE v.signal_id = ANY ($1::%5$s[])
            %6$s) s$statement$,
        concat(CASE WHEN timed THEN ', v.actioned_at::timestamptz AS actioned_at' END,
            (SELECT coalesce(string_agg(format(', v.%1$I::%2$s AS %1$I', c, a.atttypid::regtype), ''), '') FROM unnest(served) c
                JOIN pg_attribute a ON a.attrelid = '@extschema@.captured_signal'::regclass AND a.attname = c)),
        concat((SELECT string_agg(format(' AND (v.%1$I IS NULL OR t.%1$I = v.%1$I::%2$s)', c, a.atttypid::regtype), '') FROM unnest(shown) c
         JOIN pg_attribute a ON a.attrelid = '@extschema@.captured_signal'::regclass AND a.attname = c),
            CASE WHEN 'embedding' = ANY (src.columns) THEN ' AND (v.embedding IS NULL OR t.embedding IS NOT NULL)' END,
            CASE WHEN 'query_embedding' = ANY (src.columns) THEN ' AND (v.query_embedding IS NULL OR t.query_embedding IS NOT NULL)' END,
            CASE WHEN 'reason' = ANY (src.columns) THEN ' AND t.reason IS NOT DISTINCT FROM v.reason::text' END),
        src.via, src.name, coalesce(key_type, 'text'),
        CASE WHEN NOT sole THEN format('ORDER BY v.user_id::text COLLATE "C", v.signal_id::text COLLATE "C"%s, t.user_id = v.user_id::text',
            CASE WHEN timed THEN ', v.actioned_at DESC NULLS LAST' END) END, acted_at,
        (SELECT string_agg(format(', coalesce(s.%1$I, s.%2$I) AS %1$I', c, 'logged_' || c), '') FROM unnest(served) c), sound,
        (SELECT string_agg(format(' OR s.%2$I IS DISTINCT FROM coalesce(s.%1$I, s.%2$I)', c, 'logged_' || c), '') FROM unnest(served) c),
        (SELECT string_agg(format(', l.%I AS %I', c, 'logged_' || c), '') FROM unnest(served) c),
        CASE WHEN NOT sole THEN 'DISTINCT ON (v.user_id::text COLLATE "C", v.signal_id::text COLLATE "C")' END,
        CASE WHEN NOT sole THEN ' OFFSET 0' END);
END
$$;
COMMENT ON FUNCTION _known_signals_statement(capture_source, boolean) IS 'pg_finetune private: SELECT of known signals that show nothing new but an action or serving context, and what to write of them where';
REVOKE ALL ON FUNCTION _known_signals_statement(capture_source, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _known_signals_statement(capture_source, boolean) TO finetune_admin;

CREATE FUNCTION _capture_statement(origin text, operation text, sole boolean) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    src @extschema@.capture_source;
BEGIN
    SELECT * INTO src FROM @extschema@.capture_source c WHERE c.name = origin;
    RETURN CASE WHEN src.name IS NULL THEN NULL
                WHEN operation = 'INSERT' THEN @extschema@._new_signals_statement(src)
                ELSE @extschema@._known_signals_statement(src, sole) END;
END
$$;
COMMENT ON FUNCTION _capture_statement(text, text, boolean) IS 'pg_finetune private: the statement that captures keys ($1) of a source, made for one key or for any number; $2 = longest chunk';
REVOKE ALL ON FUNCTION _capture_statement(text, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_statement(text, text, boolean) TO finetune_admin;
