-- Capture, the surface: attach, stop, backfill, status.

CREATE FUNCTION _capture_members(relation regclass) RETURNS SETOF regclass
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT relation UNION SELECT p.relid FROM pg_partition_tree(relation) p;
END
$$;
COMMENT ON FUNCTION _capture_members(regclass) IS 'A table and all its partitions: statements addressed to a partition fire only that partition''s triggers';
REVOKE ALL ON FUNCTION _capture_members(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_members(regclass) TO finetune_analyst;

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
          WHERE a.attrelid = '@extschema@.captured_signal'::regclass AND a.attnum > 0 AND NOT a.attisdropped) want
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

CREATE FUNCTION _capture_trigger_name(origin text) RETURNS name
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN 'pg_finetune_capture_' || md5(origin); -- a digest, because table names may take all 63 bytes
END
$$;
COMMENT ON FUNCTION _capture_trigger_name(text) IS 'Name of the trigger function that is generated for a captured table';
REVOKE ALL ON FUNCTION _capture_trigger_name(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_trigger_name(text) TO finetune_admin;

CREATE FUNCTION _capture_trigger_body(origin text, key name, on_error text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rescue text := CASE WHEN on_error = 'warn' THEN $rescue$
EXCEPTION WHEN OTHERS THEN -- the application's statement goes on, whatever happens here
    BEGIN
        PERFORM @extschema@._capture_failed(%2$L, TG_OP, coalesce(keys, '{}'), SQLSTATE, SQLERRM);
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'a failed capture could not be kept either: %%', SQLERRM;
    END;
    RETURN NULL;$rescue$ ELSE '' END;
BEGIN
    -- Keys leave the transition table as an array at once: no other query may see it (a distributed plan cannot).
    RETURN format($body$
DECLARE
    keys text[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(n.%1$I::text) INTO keys FROM new_rows n WHERE n.%1$I IS NOT NULL;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(o.%1$I::text) INTO keys FROM old_rows o WHERE o.%1$I IS NOT NULL;
    ELSE
        SELECT array_agg(t.key) INTO keys
        FROM (SELECT n.%1$I::text FROM new_rows n UNION SELECT o.%1$I::text FROM old_rows o) AS t (key) WHERE t.key IS NOT NULL;
    END IF;
    IF keys IS NOT NULL THEN
        PERFORM @extschema@._capture(%2$L, TG_OP, keys);
    END IF;
    RETURN NULL;$body$ || rescue || E'\nEND\n', key, origin);
END
$$;
COMMENT ON FUNCTION _capture_trigger_body(text, name, text) IS 'Source of the trigger function that is generated for a captured table';
REVOKE ALL ON FUNCTION _capture_trigger_body(text, name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _capture_trigger_body(text, name, text) TO finetune_admin;

CREATE FUNCTION _attach_triggers(src capture_source) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fn text := (SELECT format('%I.%I()', n.nspname, @extschema@._capture_trigger_name(src.name))
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = src.relation);
    member regclass;
    event record;
BEGIN
    IF to_regprocedure(fn) IS NOT NULL THEN -- left behind by a dropped table of the same name
        EXECUTE format('DROP FUNCTION %s', fn);
    END IF;
    -- SECURITY DEFINER = the attacher: whoever writes to the table needs no right on ours. A writer never waits long for us.
    EXECUTE format('CREATE FUNCTION %s RETURNS trigger LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp %s AS %L', fn, CASE WHEN src.on_error = 'warn' THEN 'SET lock_timeout = ''2s''' END,
        @extschema@._capture_trigger_body(src.name, src.key_column, src.on_error));
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', fn);
    EXECUTE format('ALTER FUNCTION %s DEPENDS ON EXTENSION pg_finetune', fn);
    EXECUTE format('COMMENT ON FUNCTION %s IS %L', fn, format('pg_finetune: captures changes of %s; stop_capturing() removes it', src.name));
    FOR member IN SELECT m FROM @extschema@._capture_members(src.relation) m LOOP
        FOR event IN SELECT * FROM (VALUES ('insert', 'NEW TABLE AS new_rows'), ('delete', 'OLD TABLE AS old_rows'),
                                           ('update', 'OLD TABLE AS old_rows NEW TABLE AS new_rows')) AS e (name, rows) LOOP
            EXECUTE format('CREATE TRIGGER pg_finetune_%1$s AFTER %1$s ON %2$s REFERENCING %3$s FOR EACH STATEMENT EXECUTE FUNCTION %4$s',
                           event.name, member, event.rows, fn);
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _attach_triggers(capture_source) IS 'Generates the trigger function beside the captured table, owned by the caller, and its three triggers on the table and each partition';
REVOKE ALL ON FUNCTION _attach_triggers(capture_source) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _attach_triggers(capture_source) TO finetune_admin;

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

CREATE FUNCTION capture_signals(relation regclass, via regclass, key name DEFAULT NULL, on_error text DEFAULT 'warn') RETURNS text
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
    PERFORM @extschema@._require_capturable(relation, via);
    PERFORM @extschema@._require_trust(relation, via);
    PERFORM @extschema@._require_rights(relation, via);
    DELETE FROM @extschema@.capture_source c
    WHERE c.name = capture_signals.relation::text AND NOT EXISTS (SELECT FROM pg_class k WHERE k.oid = c.relation); -- a dropped table of that name
    PERFORM @extschema@._refuse_second_capture(relation);

    src.name := relation::text;
    src.key_column := @extschema@._capture_key(relation, key);
    src.columns := @extschema@._mapping_columns(relation, via, src.key_column);
    INSERT INTO @extschema@.capture_source (name, relation, via, key_column, on_error, columns)
    VALUES (src.name, relation, via, src.key_column, on_error, src.columns)
    RETURNING * INTO src;
    -- Read one row as the trigger will, pinned search_path included: what would fail then, fails now.
    EXECUTE format('SELECT t.%I::text FROM %s t LIMIT 1', src.key_column, relation) INTO sample;
    PERFORM @extschema@._read_signals(via, src.columns, ARRAY[sample]);
    PERFORM @extschema@._attach_triggers(src);
    RETURN src.name;
END
$$;
COMMENT ON FUNCTION capture_signals(regclass, regclass, name, text) IS 'From now on every INSERT, UPDATE and DELETE on the table is mapped through the view into training_data_point and model_performance_log';
GRANT EXECUTE ON FUNCTION capture_signals(regclass, regclass, name, text) TO finetune_admin;

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

CREATE FUNCTION stop_capturing(relation regclass) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    src @extschema@.capture_source;
    fn regprocedure;
    doomed record;
BEGIN
    PERFORM @extschema@._require_role('stop_capturing', 'finetune_admin');
    src := @extschema@._capture_source_of(relation);
    FOR fn IN SELECT p.oid FROM pg_proc p
              WHERE p.proname = @extschema@._capture_trigger_name(src.name) AND pg_has_role(p.proowner, 'USAGE') LOOP
        FOR doomed IN SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_trigger t WHERE t.tgfoid = fn LOOP
            EXECUTE format('DROP TRIGGER %I ON %s', doomed.tgname, doomed.relation);
        END LOOP;
        EXECUTE format('DROP FUNCTION %s', fn);
    END LOOP;
    IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = src.relation AND t.tgname = 'pg_finetune_insert') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('the capture of "%s" is not yours to stop', src.name),
            DETAIL = format('its trigger function belongs to role "%s"', src.attached_by),
            HINT = format('SET ROLE %I', src.attached_by);
    END IF;
    DELETE FROM @extschema@.capture_source c WHERE c.name = src.name;
END
$$;
COMMENT ON FUNCTION stop_capturing(regclass) IS 'Removes the triggers and the generated function; what was captured stays';
GRANT EXECUTE ON FUNCTION stop_capturing(regclass) TO finetune_admin;

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
    FROM @extschema@._capture_members(src.relation) m
    WHERE (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = m AND t.tgenabled <> 'D'
           AND t.tgname IN ('pg_finetune_insert', 'pg_finetune_update', 'pg_finetune_delete')) < 3;
    IF lost IS NOT NULL THEN
        RETURN 'trigger missing or disabled: ' || lost;
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
       last.failed_at AS last_failed_at, last.error_code AS last_error_code, last.error_message AS last_error
FROM @extschema@.capture_source s
LEFT JOIN LATERAL (SELECT f.failed_at, f.error_code, f.error_message FROM @extschema@.capture_failure f
                   WHERE f.source OPERATOR(pg_catalog.=) s.name ORDER BY f.failed_at DESC LIMIT 1) last ON true;
COMMENT ON VIEW capture_status IS 'Each captured table: does capture work, how much has it caught, what failed last';
COMMENT ON COLUMN capture_status.state IS 'capturing, capturing with open failures, or what is broken: a column, a trigger, the view, the table';
COMMENT ON COLUMN capture_status.captured IS 'data points of this source';
COMMENT ON COLUMN capture_status.open_failures IS 'rows of capture_failure that backfill_signals() has not healed yet';
GRANT SELECT ON capture_status TO finetune_analyst;
