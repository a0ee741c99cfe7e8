-- Capture, the surface: attach, stop, backfill, status.

CREATE FUNCTION _require_capturable(relation regclass, via regclass) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong record;
BEGIN
    SELECT c.oid::regclass AS relation, k.kind, k.hint INTO wrong
    FROM pg_class c
    CROSS JOIN LATERAL (SELECT
        CASE WHEN c.oid = via AND c.relkind = 'v' AND c.relpersistence <> 't' AND via <> relation THEN NULL
             WHEN c.relpersistence = 't' THEN 'temporary'
             WHEN c.relkind = 'f' THEN 'a foreign table'
             WHEN c.relkind = 'v' THEN 'a view'
             WHEN c.relkind NOT IN ('r', 'p') THEN 'not a table'
             WHEN c.oid IN ('@extschema@.training_data_point'::regclass, '@extschema@.model_performance_log'::regclass,
                            '@extschema@.capture_failure'::regclass) THEN 'where captured signals go' END AS kind,
        CASE c.relkind
             WHEN 'f' THEN 'capture it in the database where the table lives, or call record_signal() from the application'
             WHEN 'v' THEN 'capture the table under the view, and name the view as via'
             ELSE 'capture a permanent table through a permanent view' END AS hint) k
    WHERE (c.oid = via OR c.oid IN (SELECT m FROM @extschema@._capture_members(relation) m)) AND k.kind IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('cannot capture "%s"', relation),
            DETAIL = format('"%s" is %s', wrong.relation, wrong.kind),
            HINT = wrong.hint;
    END IF;
END
$$;
COMMENT ON FUNCTION _require_capturable(regclass, regclass) IS 'Refuses what cannot carry statement triggers with transition tables, or would capture itself';
REVOKE ALL ON FUNCTION _require_capturable(regclass, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_capturable(regclass, regclass) TO finetune_admin;

CREATE FUNCTION _require_rights(relation regclass, via regclass) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema regnamespace := (SELECT c.relnamespace FROM pg_class c WHERE c.oid = relation);
    lacking text;
BEGIN
    SELECT string_agg(w.what, ', ') INTO lacking
    FROM (VALUES (format('TRIGGER ON %s', relation), has_table_privilege(relation, 'TRIGGER')),
                 (format('SELECT ON %s', relation), has_table_privilege(relation, 'SELECT')),
                 (format('SELECT ON %s', via), has_table_privilege(via, 'SELECT')),
                 (format('CREATE ON SCHEMA %s', schema), has_schema_privilege(schema::oid, 'CREATE'))) AS w (what, held)
    WHERE NOT w.held;
    IF lacking IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('role "%s" may not capture "%s"', current_user, relation),
            DETAIL = format('it lacks %s', lacking),
            HINT = format('SET ROLE to the owner of the table, or GRANT these to %I', current_user);
    END IF;
END
$$;
COMMENT ON FUNCTION _require_rights(regclass, regclass) IS 'Refuses a caller who may not put triggers on the table, read the view, or create a function beside the table';
REVOKE ALL ON FUNCTION _require_rights(regclass, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_rights(regclass, regclass) TO finetune_admin;

CREATE FUNCTION _capture_key(relation regclass, key name) RETURNS name
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col record;
BEGIN
    SELECT a.attname, t.oid::regtype AS type INTO col
    FROM pg_attribute a
    JOIN pg_type d ON d.oid = a.atttypid
    JOIN pg_type t ON t.oid = coalesce(nullif(d.typbasetype, 0), d.oid)
    WHERE a.attrelid = relation AND a.attnum > 0
      AND (a.attname = key OR (key IS NULL AND EXISTS (
           SELECT FROM pg_index i WHERE i.indrelid = relation AND i.indisprimary AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)));
    IF NOT FOUND AND key IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_table_definition',
            MESSAGE = format('"%s" has no primary key of one column', relation),
            DETAIL = 'capture needs one column that names each row and that the view shows as signal_id',
            HINT = format('SELECT @extschema@.capture_signals(%L, via => ..., key => ''<unique column>'')', relation);
    ELSIF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_column',
            MESSAGE = format('column "%s" of "%s" does not exist', key, relation),
            DETAIL = 'capture needs one column that names each row and that the view shows as signal_id',
            HINT = format('SELECT attname FROM pg_attribute WHERE attrelid = %L::regclass AND attnum > 0', relation);
    ELSIF col.type NOT IN ('text'::regtype, 'varchar', 'bpchar', 'uuid', 'smallint', 'integer', 'bigint') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'datatype_mismatch',
            MESSAGE = format('column "%s" of "%s" cannot be the key', col.attname, relation),
            DETAIL = format('it is of type %s', col.type),
            HINT = 'name a text, varchar, uuid, integer or bigint column as key';
    END IF;
    RETURN col.attname;
END
$$;
COMMENT ON FUNCTION _capture_key(regclass, name) IS 'The column that identifies rows of a captured table: the one asked for, or the primary key';
REVOKE ALL ON FUNCTION _capture_key(regclass, name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_key(regclass, name) TO finetune_admin;

CREATE FUNCTION _mapping(via regclass) RETURNS TABLE (name name, required boolean, type text, accepted text, fits boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT coalesce(want.attname, have.attname), want.attname IS NOT NULL AND want.attnum <= 4, format_type(have.atttypid, have.atttypmod),
           array_to_string(k.types, ', ') || CASE WHEN base.oid = 'timestamp'::regtype AND want.atttypid = 'timestamptz'::regtype
               THEN format(' (write %I AT TIME ZONE ''UTC'' AS %1$I)', want.attname) ELSE '' END,
           CASE WHEN want.attname IS NOT NULL THEN base.oid = ANY (k.types) OR (base.typtype = 'e' AND want.attname = 'user_action') END
    FROM (SELECT * FROM pg_attribute a
          WHERE a.attrelid = '@extschema@.captured_signal'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'chunk_bytes') want
    FULL JOIN (SELECT * FROM pg_attribute a WHERE a.attrelid = via AND a.attnum > 0 AND NOT a.attisdropped) have USING (attname)
    LEFT JOIN pg_type declared ON declared.oid = have.atttypid
    LEFT JOIN pg_type base ON base.oid = coalesce(nullif(declared.typbasetype, 0), declared.oid)
    CROSS JOIN LATERAL (SELECT CASE want.atttypid
        WHEN 'text'::regtype THEN '{text,varchar,bpchar,uuid,smallint,integer,bigint}'::regtype[]
        WHEN 'double precision'::regtype THEN '{real,float8,numeric,smallint,integer,bigint}'
        WHEN 'integer'::regtype THEN '{smallint,integer,bigint}'
        WHEN 'timestamptz'::regtype THEN '{timestamptz}'
        ELSE ARRAY['@extschema:vector@.vector'::regtype, '@extschema:vector@.halfvec'] END AS types) k
    ORDER BY want.attnum, have.attnum;
END
$$;
COMMENT ON FUNCTION _mapping(regclass) IS 'Columns of a view beside those wanted: type NULL = the view lacks it, fits NULL = nobody wants it';
REVOKE ALL ON FUNCTION _mapping(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _mapping(regclass) TO finetune_admin;

CREATE FUNCTION _mention_mapping(relation regclass, via regclass, key name, columns text[], ignored text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    types text[] := ARRAY(SELECT format_type(a.atttypid, NULL) FROM pg_attribute a
                          WHERE (a.attrelid, a.attname) IN ((relation, key), (via, 'signal_id')));
BEGIN
    IF ignored IS NOT NULL AND via <> relation THEN
        RAISE NOTICE USING MESSAGE = format('columns of "%s" that are not captured: %s', via, ignored);
    END IF;
    IF 'surface' <> ALL (columns) THEN
        RAISE NOTICE USING MESSAGE = format('"%s" has no column "surface"', via),
            DETAIL = 'if signals come from several screens or lists, the dataset report will warn';
    END IF;
    IF row_security_active(relation) THEN
        RAISE NOTICE USING MESSAGE = format('row security of %s applies to role "%s"', relation, current_user),
            DETAIL = 'what its policies hide from that role at the moment of a write is not captured',
            HINT = 'attach as a role that they do not bind: the owner without FORCE ROW LEVEL SECURITY, or one with BYPASSRLS';
    END IF;
    IF types[1] <> types[2] THEN
        RAISE NOTICE USING MESSAGE = format('signal_id of "%s" and key of "%s" are of different types', via, relation),
            DETAIL = 'each capture then reads the whole view instead of an index',
            HINT = 'show the key in the view as it is, without a cast';
    END IF;
END
$$;
COMMENT ON FUNCTION _mention_mapping(regclass, regclass, name, text[], text) IS 'Says what is not wrong with a mapping but may surprise';
REVOKE ALL ON FUNCTION _mention_mapping(regclass, regclass, name, text[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _mention_mapping(regclass, regclass, name, text[], text) TO finetune_admin;

CREATE FUNCTION _mapping_columns(relation regclass, via regclass, key name) RETURNS text[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text;
    mistyped text;
    template text;
    columns text[];
    ignored text;
BEGIN
    SELECT string_agg(format('column "%s" is missing: expected %s', m.name, m.accepted), E'\n') FILTER (WHERE m.required AND m.type IS NULL),
           string_agg(format('column "%s" is %s: expected %s', m.name, m.type, m.accepted), E'\n') FILTER (WHERE NOT m.fits),
           string_agg(CASE WHEN m.name = 'signal_id' THEN format('t.%I AS signal_id', key)
                           WHEN a.attname IS NULL THEN format('<%s> AS %1$s', m.name)
                           ELSE format('t.%I', m.name) END, ', ') FILTER (WHERE m.required),
           array_agg(m.name::text) FILTER (WHERE m.fits),
           string_agg(quote_ident(m.name), ', ') FILTER (WHERE m.fits IS NULL AND m.type IS NOT NULL)
    INTO missing, mistyped, template, columns, ignored
    FROM @extschema@._mapping(via) m
    LEFT JOIN pg_attribute a ON a.attrelid = relation AND a.attname = m.name AND a.attnum > 0;
    IF missing IS NOT NULL OR mistyped IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = CASE WHEN missing IS NOT NULL THEN '42703' ELSE '42804' END,
            MESSAGE = format('"%s" cannot be captured through "%s"', relation, via),
            DETAIL = concat_ws(E'\n', missing, mistyped),
            HINT = format('CREATE VIEW signal_for_training AS SELECT %s FROM %s t', template, relation);
    END IF;
    PERFORM @extschema@._mention_mapping(relation, via, key, columns, ignored);
    RETURN columns;
END
$$;
COMMENT ON FUNCTION _mapping_columns(regclass, regclass, name) IS 'Columns of the view that will be taken; everything that is wrong with the view in one error';
REVOKE ALL ON FUNCTION _mapping_columns(regclass, regclass, name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _mapping_columns(regclass, regclass, name) TO finetune_admin;

CREATE FUNCTION _refuse_second_capture(candidate regclass) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    taken regclass;
BEGIN
    SELECT t.tgrelid INTO taken
    FROM pg_trigger t
    WHERE t.tgname = 'pg_finetune_insert' AND t.tgrelid IN (SELECT m FROM @extschema@._capture_members(candidate) m)
    UNION ALL
    SELECT c.relation FROM @extschema@.capture_source c WHERE c.relation = candidate OR c.name = candidate::text
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = format('"%s" is already captured', taken),
            DETAIL = 'a second capture would store every signal twice',
            HINT = format('SELECT @extschema@.stop_capturing(%L) first; what was captured stays', taken);
    END IF;
END
$$;
COMMENT ON FUNCTION _refuse_second_capture(regclass) IS 'Refuses a table that is captured already: itself, one of its partitions, or another one under its name';
REVOKE ALL ON FUNCTION _refuse_second_capture(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _refuse_second_capture(regclass) TO finetune_admin;

CREATE FUNCTION capture_signals(relation regclass, via regclass, key name DEFAULT NULL, on_error text DEFAULT 'warn',
    on_truncate text DEFAULT 'keep', on_replica boolean DEFAULT false, snapshot_embeddings boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
DECLARE
    src @extschema@.capture_source;
    sample text;
BEGIN
    PERFORM @extschema@._require_role('capture_signals', 'finetune_admin');
    IF relation IS NULL OR via IS NULL OR on_error IS NULL OR on_error NOT IN ('warn', 'abort') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('cannot capture "%s" through "%s" with on_error %L', relation, via, on_error),
            DETAIL = 'on_error is ''warn'' (set failed rows aside) or ''abort'' (fail the statement)',
            HINT = 'SELECT @extschema@.capture_signals(''<table>'', via => ''<view>'')';
    END IF;
    IF on_truncate IS NULL OR on_truncate NOT IN ('keep', 'remove') OR on_replica IS NULL OR snapshot_embeddings IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('on_truncate is %L, on_replica %L, snapshot_embeddings %L', on_truncate, on_replica, snapshot_embeddings),
            DETAIL = 'on_truncate is ''keep'' or ''remove'', the other two are true or false',
            HINT = 'leave them out to get ''keep'', false and true';
    END IF;
    PERFORM @extschema@._require_capturable(relation, via);
    PERFORM @extschema@._require_trust(relation, via);
    PERFORM @extschema@._require_rights(relation, via);
    DELETE FROM @extschema@.capture_source c
    WHERE c.name = capture_signals.relation::text AND NOT EXISTS (SELECT FROM pg_class k WHERE k.oid = c.relation); -- a dropped table of that name
    PERFORM @extschema@._refuse_second_capture(relation);

    src.name := relation::text;
    src.key_column := @extschema@._capture_key(relation, key);
    src.columns := @extschema@._mapping_columns(relation, via, src.key_column);
    IF NOT snapshot_embeddings THEN
        src.columns := array_remove(array_remove(src.columns, 'embedding'), 'query_embedding');
    END IF;
    INSERT INTO @extschema@.capture_source (name, relation, via, key_column, on_error, columns, on_truncate, on_replica, snapshot_embeddings)
    VALUES (src.name, relation, via, src.key_column, on_error, src.columns, on_truncate, on_replica, snapshot_embeddings)
    RETURNING * INTO src;
    -- Read one row as the trigger will, pinned search_path included: what would fail then, fails now.
    EXECUTE format('SELECT t.%I::text FROM %s t LIMIT 1', src.key_column, relation) INTO sample;
    PERFORM @extschema@._read_signals(via, src.columns, ARRAY[sample]);
    PERFORM @extschema@._attach_triggers(src);
    RETURN src.name;
END
$$;
COMMENT ON FUNCTION capture_signals(regclass, regclass, name, text, text, boolean, boolean) IS 'From now on every INSERT, UPDATE and DELETE on the table is mapped through the view into training_data_point and model_performance_log';
GRANT EXECUTE ON FUNCTION capture_signals(regclass, regclass, name, text, text, boolean, boolean) TO finetune_admin;

CREATE FUNCTION _capture_source_of(captured regclass) RETURNS capture_source
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    src @extschema@.capture_source;
BEGIN
    SELECT * INTO src FROM @extschema@.capture_source c WHERE c.relation = captured;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('"%s" is not captured', captured),
            DETAIL = coalesce((SELECT 'captured: ' || string_agg(c.name, ', ' ORDER BY c.name) FROM @extschema@.capture_source c), 'no table is captured'),
            HINT = format('SELECT @extschema@.capture_signals(%L, via => ...)', captured);
    END IF;
    RETURN src;
END
$$;
COMMENT ON FUNCTION _capture_source_of(regclass) IS 'How a table is captured; an error when it is not';
REVOKE ALL ON FUNCTION _capture_source_of(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_source_of(regclass) TO finetune_admin;

CREATE FUNCTION _capture_functions(src capture_source) RETURNS TABLE (fn regprocedure, owner oid)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT p.oid::regprocedure, p.proowner FROM pg_proc p WHERE p.proname = @extschema@._capture_trigger_name(src.name);
END
$$;
COMMENT ON FUNCTION _capture_functions(capture_source) IS 'The function generated for a source, wherever its schema is by now';
REVOKE ALL ON FUNCTION _capture_functions(capture_source) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_functions(capture_source) TO finetune_admin, finetune_analyst;

CREATE FUNCTION _require_attacher(src capture_source) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other oid := (SELECT f.owner FROM @extschema@._capture_functions(src) f WHERE NOT pg_has_role(f.owner, 'USAGE') LIMIT 1);
BEGIN
    IF other IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('the capture of "%s" is not yours to change', src.name),
            DETAIL = format('its trigger function belongs to role "%s"', pg_get_userbyid(other)),
            HINT = format('SET ROLE %I', pg_get_userbyid(other));
    END IF;
END
$$;
COMMENT ON FUNCTION _require_attacher(capture_source) IS 'Refuses who is not, or is no member of, the role that attached the source';
REVOKE ALL ON FUNCTION _require_attacher(capture_source) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_attacher(capture_source) TO finetune_admin;

CREATE FUNCTION stop_capturing(relation regclass) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    src @extschema@.capture_source;
    argument bytea;
    fn regprocedure;
    doomed record;
BEGIN
    PERFORM @extschema@._require_role('stop_capturing', 'finetune_admin');
    src := @extschema@._capture_source_of(relation);
    argument := convert_to(src.name, 'UTF8') || decode('00', 'hex');
    PERFORM @extschema@._require_attacher(src);
    FOR doomed IN
        SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_trigger t
        WHERE t.tgparentid = 0 AND starts_with(t.tgname::text, 'pg_finetune_') AND substr(t.tgargs, 1, length(argument)) = argument
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', doomed.tgname, doomed.relation);
    END LOOP;
    FOR fn IN SELECT f.fn FROM @extschema@._capture_functions(src) f LOOP
        EXECUTE format('DROP FUNCTION %s', fn);
    END LOOP;
    DELETE FROM @extschema@.capture_source c WHERE c.name = src.name;
END
$$;
COMMENT ON FUNCTION stop_capturing(regclass) IS 'Removes the triggers and the generated function; what was captured stays';
GRANT EXECUTE ON FUNCTION stop_capturing(regclass) TO finetune_admin;

CREATE FUNCTION refresh_capture(relation regclass) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
DECLARE
    src @extschema@.capture_source;
    v_columns text[];
    member record;
    fn text;
BEGIN
    PERFORM @extschema@._require_role('refresh_capture', 'finetune_admin');
    src := @extschema@._capture_source_of(relation);
    PERFORM @extschema@._require_attacher(src);
    PERFORM @extschema@._require_capturable(src.relation, src.via);
    PERFORM @extschema@._require_trust(src.relation, src.via);
    v_columns := @extschema@._mapping_columns(src.relation, src.via, @extschema@._capture_key(src.relation, src.key_column));
    UPDATE @extschema@.capture_source c
    SET columns = CASE WHEN c.snapshot_embeddings THEN v_columns ELSE array_remove(array_remove(v_columns, 'embedding'), 'query_embedding') END
    WHERE c.name = src.name RETURNING * INTO src;
    FOR member IN SELECT t.tgrelid::regclass AS relation, t.tgname FROM pg_trigger t
                  WHERE t.tgrelid IN (SELECT m FROM @extschema@._capture_members(src.relation) m) AND t.tgparentid = 0
                    AND t.tgname IN ('pg_finetune_update', 'pg_finetune_statement') LOOP -- the columns they look at may be others now
        EXECUTE format('DROP TRIGGER %I ON %s', member.tgname, member.relation);
    END LOOP;
    SELECT format('%I.%I', n.nspname, p.proname) INTO fn
    FROM @extschema@._capture_functions(src) f JOIN pg_proc p ON p.oid = f.fn JOIN pg_namespace n ON n.oid = p.pronamespace LIMIT 1;
    PERFORM @extschema@._create_capture_triggers(src, fn);
    RETURN @extschema@._capture_state(src);
END
$$;
COMMENT ON FUNCTION refresh_capture(regclass) IS 'After a change of the view or of the table''s partitions and children: takes the view''s columns as they are now and puts triggers where they are missing; returns the state';
GRANT EXECUTE ON FUNCTION refresh_capture(regclass) TO finetune_admin;

CREATE FUNCTION backfill_signals(relation regclass, batch int DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    src @extschema@.capture_source;
    failures bigint[];
    page record;
    last text;
    total bigint := 0;
    faulty text[] := '{}';
BEGIN
    PERFORM @extschema@._require_role('backfill_signals', 'finetune_admin');
    src := @extschema@._capture_source_of(relation);
    failures := @extschema@._open_failures(src.name);
    LOOP
        SELECT * INTO page FROM @extschema@._backfill_page(src, last, batch);
        EXIT WHEN page.last IS NULL;
        last := page.last;
        total := total + page.written;
        faulty := faulty || page.faulty;
    END LOOP;
    RETURN total + @extschema@._heal_failures(src.name, failures, faulty);
END
$$;
COMMENT ON FUNCTION backfill_signals(regclass, int) IS 'Captures what a captured table holds already, and heals capture_failure; returns rows new or changed, so a second call returns 0';
GRANT EXECUTE ON FUNCTION backfill_signals(regclass, int) TO finetune_admin;

CREATE PROCEDURE backfill_signals_in_batches(relation regclass, batch int DEFAULT 1000)
LANGUAGE plpgsql AS $$
DECLARE
    src @extschema@.capture_source;
    failures pg_catalog.int8[];
    page record;
    last pg_catalog.text;
    faulty pg_catalog.text[] := '{}';
BEGIN
    PERFORM @extschema@._require_role('backfill_signals_in_batches', 'finetune_admin');
    src := @extschema@._capture_source_of(relation);
    failures := @extschema@._open_failures(src.name);
    LOOP
        SELECT * INTO page FROM @extschema@._backfill_page(src, last, batch);
        EXIT WHEN page.last IS NULL;
        last := page.last;
        faulty := pg_catalog.array_cat(faulty, page.faulty);
        COMMIT;
    END LOOP;
    PERFORM @extschema@._heal_failures(src.name, failures, faulty);
END
$$;
COMMENT ON PROCEDURE backfill_signals_in_batches(regclass, int) IS 'backfill_signals() for tables in use: commits after each batch, so that no writer waits for the whole of it';
GRANT EXECUTE ON PROCEDURE backfill_signals_in_batches(regclass, int) TO finetune_admin;

CREATE FUNCTION _capture_state(src capture_source) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lost text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = src.relation) THEN
        RETURN 'table dropped';
    ELSIF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = src.via) THEN
        RETURN 'view dropped';
    END IF;
    SELECT string_agg(quote_ident(w.name), ', ') INTO lost
    FROM (SELECT src.via AS relation, unnest(src.columns) AS name UNION ALL SELECT src.relation, src.key_column) w
    WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = w.relation AND a.attname = w.name AND a.attnum > 0);
    IF lost IS NOT NULL THEN
        RETURN 'column gone: ' || lost;
    END IF;
    SELECT string_agg(m::text, ', ') INTO lost
    FROM @extschema@._capture_members(src.relation) m JOIN pg_class c ON c.oid = m
    CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE t.tgname IN ('pg_finetune_insert', 'pg_finetune_update', 'pg_finetune_delete')) AS of_rows,
                               count(*) FILTER (WHERE t.tgname = 'pg_finetune_statement') AS of_statements
                        FROM pg_trigger t WHERE t.tgrelid = m AND t.tgenabled = CASE WHEN src.on_replica THEN 'A' ELSE 'O' END) has
    WHERE has.of_rows < 3 OR has.of_statements < 1 AND NOT c.relispartition;
    IF lost IS NOT NULL THEN
        RETURN 'trigger missing or disabled: ' || lost;
    END IF;
    SELECT CASE WHEN f.owner IS NULL THEN 'function dropped: ' || @extschema@._capture_trigger_name(src.name)
                WHEN NOT has_function_privilege(f.owner, '@extschema@._capture(text, text, text[])', 'EXECUTE')
                    THEN format('role lacks finetune_admin: %I', pg_get_userbyid(f.owner))
                WHEN f.stranger IS NOT NULL THEN format('owner is not %I: %s', pg_get_userbyid(f.owner), f.stranger) END
    INTO lost
    FROM (VALUES (1)) one LEFT JOIN LATERAL (
        SELECT p.owner, (SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c
                         WHERE c.oid IN (src.relation, src.via) AND NOT pg_has_role(c.relowner, p.owner, 'MEMBER')) AS stranger
        FROM @extschema@._capture_functions(src) p LIMIT 1) f ON true;
    IF lost IS NOT NULL THEN
        RETURN lost;
    END IF;
    RETURN CASE WHEN EXISTS (SELECT FROM @extschema@.capture_failure f WHERE f.source = src.name AND f.healed_at IS NULL)
                THEN 'capturing, with open failures' ELSE 'capturing' END;
END
$$;
COMMENT ON FUNCTION _capture_state(capture_source) IS 'In words: is this source captured, and if not, why';
REVOKE ALL ON FUNCTION _capture_state(capture_source) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_state(capture_source) TO finetune_analyst;

CREATE VIEW capture_status AS
SELECT s.name AS source, s.relation, s.via, s.key_column, s.on_error, s.attached_at, s.attached_by,
       @extschema@._capture_state(s) AS state,
       (SELECT pg_catalog.count(*) FROM @extschema@.training_data_point t WHERE t.source OPERATOR(pg_catalog.=) s.name) AS captured,
       (SELECT pg_catalog.count(*) FROM @extschema@.capture_failure f
        WHERE f.source OPERATOR(pg_catalog.=) s.name AND f.healed_at IS NULL) AS open_failures,
       (SELECT coalesce(pg_catalog.sum(pg_catalog.cardinality(f.signal_ids)), 0) FROM @extschema@.capture_failure f
        WHERE f.source OPERATOR(pg_catalog.=) s.name AND f.healed_at IS NULL)::pg_catalog.int8 AS signals_behind,
       (SELECT coalesce(pg_catalog.sum(pg_catalog.cardinality(f.signal_ids)), 0) FROM @extschema@.capture_failure f
        WHERE f.source OPERATOR(pg_catalog.=) s.name AND f.healed_at IS NULL
          AND pg_catalog.starts_with(f.error_message, 'chunk_content is longer'))::pg_catalog.int8 AS oversized,
       (SELECT pg_catalog.jsonb_object_agg(r.error_message, r.signals)
        FROM (SELECT f.error_message, pg_catalog.sum(pg_catalog.cardinality(f.signal_ids)) AS signals FROM @extschema@.capture_failure f
              WHERE f.source OPERATOR(pg_catalog.=) s.name AND f.healed_at IS NULL GROUP BY f.error_message) r) AS reasons,
       last.failed_at AS last_failed_at, last.error_code AS last_error_code, last.error_message AS last_error
FROM @extschema@.capture_source s
LEFT JOIN LATERAL (SELECT f.failed_at, f.error_code, f.error_message FROM @extschema@.capture_failure f
                   WHERE f.source OPERATOR(pg_catalog.=) s.name ORDER BY f.failed_at DESC LIMIT 1) last ON true;
COMMENT ON VIEW capture_status IS 'Each captured table: does capture work, how much has it caught, what failed last';
COMMENT ON COLUMN capture_status.state IS 'capturing, capturing with open failures, or what is broken: a column, a trigger, the view, the table';
COMMENT ON COLUMN capture_status.captured IS 'data points of this source';
COMMENT ON COLUMN capture_status.signals_behind IS 'the lag: signals in open failures, which a backfill would bring; captures happen in the writer''s statement, so nothing else waits';
COMMENT ON COLUMN capture_status.reasons IS 'why: each reason of an open failure with its number of signals; NULL = none';
COMMENT ON COLUMN capture_status.oversized IS 'how many of those are too long (pg_finetune.max_chunk_bytes)';
COMMENT ON COLUMN capture_status.open_failures IS 'rows of capture_failure that backfill_signals() has not healed yet';
GRANT SELECT ON capture_status TO finetune_analyst;
