-- How long rows are kept. Deleted in batches, so that nobody waits and vacuum keeps up.

CREATE FUNCTION _retention_rules() RETURNS TABLE (relation text, ended text, keep interval, last_run_at timestamptz)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT d.relation, d.ended, CASE WHEN r.relation IS NULL OR r.set_by = 'default' THEN d.keep ELSE r.keep END, r.last_run_at
    FROM (VALUES ('capture_failure', 't.failed_at', interval '90 days'),
                 ('fine_tuning_event', 't.at', interval '1 year'),
                 ('shadow_score', 't.shown_at', interval '90 days'),
                 ('model_performance_log', 'greatest(t.shown_at, t.actioned_at)', NULL),
                 ('training_data_point', 'greatest(t.shown_at, t.actioned_at)', NULL),
                 ('satisfaction_survey', 't.answered_at', NULL)) AS d (relation, ended, keep)
    LEFT JOIN @extschema@.retention r ON r.relation = d.relation;
END
$$;
COMMENT ON FUNCTION _retention_rules() IS 'pg_finetune private: tables with a time to live, the time that counts, how long rows are kept (NULL = for ever)';
REVOKE ALL ON FUNCTION _retention_rules() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _retention_rules() TO finetune_analyst;

CREATE FUNCTION set_retention(relation text, keep interval) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('set_retention', 'finetune_admin');
    IF NOT EXISTS (SELECT FROM @extschema@._retention_rules() r WHERE r.relation = set_retention.relation) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('no retention can be set for %L', relation),
            DETAIL = (SELECT 'it can for ' || string_agg(r.relation, ', ' ORDER BY r.relation) FROM @extschema@._retention_rules() r),
            HINT = 'SELECT @extschema@.set_retention(''model_performance_log'', ''2 years'')';
    ELSIF keep <= interval '0' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('rows cannot be kept for %s', keep),
            DETAIL = 'a retention is a time above zero, or NULL to keep rows for ever',
            HINT = format('SELECT @extschema@.set_retention(%L, ''1 year'')', relation);
    END IF;
    INSERT INTO @extschema@.retention AS r (relation, keep) VALUES (relation, set_retention.keep)
    ON CONFLICT ON CONSTRAINT retention_pkey DO UPDATE SET keep = EXCLUDED.keep, set_by = EXCLUDED.set_by, last_run_at = NULL;
END
$$;
COMMENT ON FUNCTION set_retention(text, interval) IS 'How long rows of a table are kept, NULL = for ever; the worker deletes older ones in batches. Data points that a dataset learned from stay';
GRANT EXECUTE ON FUNCTION set_retention(text, interval) TO finetune_admin;

CREATE FUNCTION _apply_retention(batch int DEFAULT 5000) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule record;
    gone bigint;
    total bigint := 0;
BEGIN
    FOR rule IN SELECT * FROM @extschema@._retention_rules() r
                WHERE r.keep IS NOT NULL AND (r.last_run_at > now() - interval '1 hour') IS NOT TRUE LOOP
        EXECUTE format('DELETE FROM @extschema@.%1$I d WHERE d.ctid = ANY (ARRAY(SELECT t.ctid FROM @extschema@.%1$I t
            WHERE %2$s < now() - $1 %3$s LIMIT $2 FOR UPDATE SKIP LOCKED))', rule.relation, rule.ended,
            CASE rule.relation WHEN 'training_data_point' THEN 'AND NOT t.used_for_training' WHEN 'capture_failure' THEN 'AND t.healed_at IS NOT NULL' END)
        USING rule.keep, batch;
        GET DIAGNOSTICS gone = ROW_COUNT;
        total := total + gone;
        IF gone < batch THEN
            INSERT INTO @extschema@.retention (relation, keep, last_run_at, set_by) VALUES (rule.relation, rule.keep, now(), 'default')
            ON CONFLICT (relation) DO UPDATE SET last_run_at = now();
        END IF;
    END LOOP;
    RETURN total;
END
$$;
COMMENT ON FUNCTION _apply_retention(int) IS 'pg_finetune private: deletes one batch per table of what is older than its retention; returns how many rows went';
REVOKE ALL ON FUNCTION _apply_retention(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _apply_retention(int) TO finetune_admin;
