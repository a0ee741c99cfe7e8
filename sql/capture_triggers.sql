-- Capture, the triggers: row triggers note keys, a statement trigger hands them to a function generated beside the table,
-- which runs as whoever attached it.

CREATE FUNCTION _capture_members(relation regclass) RETURNS SETOF regclass
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE member (oid) AS (
        SELECT relation::oid UNION SELECT i.inhrelid FROM member m JOIN pg_inherits i ON i.inhparent = m.oid)
    SELECT m.oid::regclass FROM member m;
END
$$;
COMMENT ON FUNCTION _capture_members(regclass) IS 'A table, its partitions and its inheritance children: each has triggers of its own';
REVOKE ALL ON FUNCTION _capture_members(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_members(regclass) TO finetune_analyst;

CREATE FUNCTION _capture_trigger_name(origin text) RETURNS name
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN 'pg_finetune_capture_' || md5(origin); -- a digest, because table names may take all 63 bytes
END
$$;
COMMENT ON FUNCTION _capture_trigger_name(text) IS 'Name of the trigger function that is generated for a captured table';
REVOKE ALL ON FUNCTION _capture_trigger_name(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_trigger_name(text) TO finetune_admin, finetune_analyst;

CREATE FUNCTION _capture_trigger_body(origin text, on_error text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rescue text := CASE WHEN on_error = 'warn' THEN $rescue$
EXCEPTION WHEN OTHERS THEN -- the application's statement goes on, whatever happens here
    BEGIN
        PERFORM @extschema@._capture_failed(%1$L, coalesce(operation, TG_OP), coalesce(@extschema@._capture_keys(), '{}'), SQLSTATE, SQLERRM);
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'a failed capture could not be kept either: %%', SQLERRM;
    END;
    RETURN NULL;$rescue$ ELSE '' END;
BEGIN
    RETURN format($body$
DECLARE
    operation text;
    others text[];
BEGIN
    operation := @extschema@._capture_operation();
    IF operation IS NULL THEN
        PERFORM @extschema@._capture_truncate(%1$L);
    ELSE
        others := @extschema@._capture_known(%1$L);
        IF others IS NOT NULL THEN
            PERFORM @extschema@._capture(%1$L, operation, others);
        END IF;
    END IF;
    RETURN NULL;$body$ || rescue || E'\nEND\n', origin);
END
$$;
COMMENT ON FUNCTION _capture_trigger_body(text, text) IS 'Source of the trigger function that is generated for a captured table';
REVOKE ALL ON FUNCTION _capture_trigger_body(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_trigger_body(text, text) TO finetune_admin;

CREATE FUNCTION _mapped_columns(src capture_source) RETURNS name[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mapped name[];
BEGIN
    IF src.via = src.relation THEN
        RETURN ARRAY(SELECT c::name FROM unnest(src.columns || src.key_column::text) c GROUP BY c ORDER BY c);
    END IF;
    WITH RECURSIVE seen (oid) AS (
        SELECT src.via::oid
        UNION
        SELECT d.refobjid FROM seen v JOIN pg_rewrite r ON r.ev_class = v.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
        JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'v'
    ), rule AS (
        SELECT r.oid, r.ev_action::text ~ ':varattno 0 ' AS whole_row FROM seen v JOIN pg_rewrite r ON r.ev_class = v.oid
    )
    SELECT CASE WHEN NOT (SELECT bool_or(w.whole_row) FROM rule w) THEN array_agg(DISTINCT a.attname) FILTER (WHERE a.attnum > 0) END
    INTO mapped
    FROM rule w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = src.relation
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid;
    RETURN CASE WHEN src.key_column = ANY (mapped) THEN mapped ELSE mapped || src.key_column END;
END
$$;
COMMENT ON FUNCTION _mapped_columns(capture_source) IS 'Columns of a captured table that its view looks at, views under it included; NULL = cannot be told, so all';
REVOKE ALL ON FUNCTION _mapped_columns(capture_source) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _mapped_columns(capture_source) TO finetune_admin;

CREATE FUNCTION _update_event(src capture_source) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mapped name[] := @extschema@._mapped_columns(src);
BEGIN
    -- A BEFORE trigger may set columns that the statement does not name: then every UPDATE is looked at.
    IF mapped IS NULL OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid IN (SELECT m FROM @extschema@._capture_members(src.relation) m)
                                 AND t.tgtype & 19 = 19) THEN
        RETURN 'UPDATE';
    END IF;
    RETURN 'UPDATE OF ' || (SELECT string_agg(quote_ident(m), ', ') FROM unnest(mapped) m);
END
$$;
COMMENT ON FUNCTION _update_event(capture_source) IS 'Event of the update trigger: an UPDATE of columns that the view does not look at is none of our business';
REVOKE ALL ON FUNCTION _update_event(capture_source) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _update_event(capture_source) TO finetune_admin;

CREATE FUNCTION _create_capture_trigger(src capture_source, member regclass, name text, timing text, call text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = member AND t.tgname = _create_capture_trigger.name) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s %s', name, timing, member, call);
    IF src.on_replica THEN
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', member, name);
    END IF;
END
$$;
COMMENT ON FUNCTION _create_capture_trigger(capture_source, regclass, text, text, text) IS 'Puts one trigger on a table, unless it is there';
REVOKE ALL ON FUNCTION _create_capture_trigger(capture_source, regclass, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _create_capture_trigger(capture_source, regclass, text, text, text) TO finetune_admin;

CREATE FUNCTION _create_capture_triggers(src capture_source, fn text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    note text := format('EXECUTE FUNCTION @extschema@._capture_note(%L, %L)', src.name, src.key_column);
    member record;
BEGIN
    -- Parents first: their row triggers reach the partitions by themselves, also those to come.
    FOR member IN
        SELECT m AS relation, c.relispartition AND m <> src.relation AS follows
        FROM @extschema@._capture_members(src.relation) m JOIN pg_class c ON c.oid = m ORDER BY m <> src.relation, 2, 1
    LOOP
        IF NOT member.follows THEN
            PERFORM @extschema@._create_capture_trigger(src, member.relation, 'pg_finetune_insert', 'INSERT', 'FOR EACH ROW ' || note);
            PERFORM @extschema@._create_capture_trigger(src, member.relation, 'pg_finetune_delete', 'DELETE', 'FOR EACH ROW ' || note);
            PERFORM @extschema@._create_capture_trigger(src, member.relation, 'pg_finetune_update', @extschema@._update_event(src),
                'FOR EACH ROW ' || note);
        END IF;
        PERFORM @extschema@._create_capture_trigger(src, member.relation, 'pg_finetune_statement',
            'INSERT OR DELETE OR ' || @extschema@._update_event(src), format('FOR EACH STATEMENT EXECUTE FUNCTION @extschema@._capture_statement_end(%L)', src.name));
        PERFORM @extschema@._create_capture_trigger(src, member.relation, 'pg_finetune_truncate', 'TRUNCATE',
            format('FOR EACH STATEMENT EXECUTE FUNCTION %s(%L)', fn, src.name));
    END LOOP;
END
$$;
COMMENT ON FUNCTION _create_capture_triggers(capture_source, text) IS 'Puts the triggers on a captured table, its partitions and its children, where they are missing';
REVOKE ALL ON FUNCTION _create_capture_triggers(capture_source, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _create_capture_triggers(capture_source, text) TO finetune_admin;

CREATE FUNCTION _attach_triggers(src capture_source) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fn text := (SELECT format('%I.%I', n.nspname, @extschema@._capture_trigger_name(src.name))
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = src.relation);
BEGIN
    IF to_regprocedure(fn || '()') IS NOT NULL THEN -- left behind by a dropped table of the same name
        EXECUTE format('DROP FUNCTION %s()', fn);
    END IF;
    -- SECURITY DEFINER = the attacher: whoever writes to the table needs no right on ours. A writer never waits long for us.
    EXECUTE format('CREATE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp %s AS %L', fn, CASE WHEN src.on_error = 'warn' THEN 'SET lock_timeout = ''2s''' END,
        @extschema@._capture_trigger_body(src.name, src.on_error));
    EXECUTE format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', fn);
    EXECUTE format('ALTER FUNCTION %s() DEPENDS ON EXTENSION pg_finetune', fn);
    EXECUTE format('COMMENT ON FUNCTION %s() IS %L', fn, format('pg_finetune: captures changes of %s; stop_capturing() removes it', src.name));
    PERFORM @extschema@._create_capture_triggers(src, fn);
END
$$;
COMMENT ON FUNCTION _attach_triggers(capture_source) IS 'Generates the trigger function beside the captured table, owned by the caller, and the triggers that call it';
REVOKE ALL ON FUNCTION _attach_triggers(capture_source) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _attach_triggers(capture_source) TO finetune_admin;

CREATE FUNCTION _capture_truncate(origin text) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys text[];
    pages bigint := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM @extschema@.capture_source c WHERE c.name = origin AND c.on_truncate = 'remove') THEN
        RETURN 0;
    END IF;
    FOR keys IN
        SELECT array_agg(p.signal_id)
        FROM (SELECT t.signal_id, row_number() OVER () / 10000 AS page FROM @extschema@.training_data_point t
              WHERE t.source = origin AND NOT t.used_for_training) p
        GROUP BY p.page
    LOOP
        PERFORM @extschema@._capture(origin, 'TRUNCATE', keys);
        pages := pages + 1;
    END LOOP;
    RETURN pages;
END
$$;
COMMENT ON FUNCTION _capture_truncate(text) IS 'After a TRUNCATE, where the source says on_truncate => remove: removes data points that the view no longer shows';
REVOKE ALL ON FUNCTION _capture_truncate(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_truncate(text) TO finetune_admin;
