-- Past actions from a plain table or from JSON lines, so that there is a first model on the first day.

CREATE FUNCTION _import_signals(origin text, signals captured_signal[], OUT written bigint, OUT faulty bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad text[] := @extschema@._set_faulty_aside(origin, 'IMPORT', signals, false);
    good @extschema@.captured_signal[] := @extschema@._without_forgotten(
        ARRAY(SELECT s FROM unnest(signals) s WHERE NOT EXISTS (SELECT FROM unnest(bad) b WHERE b IS NOT DISTINCT FROM s.signal_id)));
BEGIN
    PERFORM @extschema@._log_signals(origin, good, true);
    written := @extschema@._point_signals(origin, good);
    faulty := cardinality(bad);
END
$$;
COMMENT ON FUNCTION _import_signals(text, captured_signal[]) IS 'pg_finetune private: stores a page of past signals; what is faulty is set aside';
REVOKE ALL ON FUNCTION _import_signals(text, captured_signal[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _import_signals(text, captured_signal[]) TO finetune_admin;

CREATE FUNCTION _require_import_name(origin text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(origin, '') IN ('', 'api') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('the import cannot be called %L', origin),
            DETAIL = 'the name becomes training_data_point.source; ''api'' is that of record_signal()', HINT = 'source => ''history''';
    ELSIF EXISTS (SELECT FROM @extschema@.capture_source c WHERE c.name = origin) THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = format('"%s" is a captured table', origin),
            DETAIL = 'its triggers decide what is stored under that name',
            HINT = format('SELECT @extschema@.backfill_signals(%L), or import under another name: source => ''history''', origin);
    END IF;
END
$$;
COMMENT ON FUNCTION _require_import_name(text) IS 'pg_finetune private: refuses a source name that belongs to somebody else';
REVOKE ALL ON FUNCTION _require_import_name(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_import_name(text) TO finetune_admin;

CREATE FUNCTION _report_import(origin text, faulty bigint) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF faulty > 0 THEN
        RAISE NOTICE USING MESSAGE = format('%s rows were set aside', faulty),
            HINT = format('SELECT signal_ids, error_message FROM @extschema@.capture_failure WHERE source = %L AND healed_at IS NULL', origin);
    END IF;
END
$$;
COMMENT ON FUNCTION _report_import(text, bigint) IS 'pg_finetune private: says where the rows stand that could not be imported';
REVOKE ALL ON FUNCTION _report_import(text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _report_import(text, bigint) TO finetune_admin;

CREATE FUNCTION _import_query(relation regclass, columns text[]) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fields text;
    shown text := CASE WHEN 'shown_at' = ANY (columns) THEN 't.shown_at' WHEN 'actioned_at' = ANY (columns) THEN 't.actioned_at' END;
BEGIN
    SELECT string_agg(CASE
        WHEN a.attname = 'chunk_bytes' THEN 'octet_length(t.chunk_content::text)'
        WHEN a.attname = 'shown_at' AND shown IS NOT NULL THEN shown || '::timestamptz'
        WHEN a.attname = 'chunk_content' THEN format('CASE WHEN octet_length(t.chunk_content::text) <= %s THEN t.chunk_content::text END', @extschema@._max_chunk_bytes())
        WHEN a.attname = ANY (columns) THEN format('t.%I::%s', a.attname, a.atttypid::regtype)
        -- Without an id of its own a row is known by what it says: importing the same file again adds nothing.
        WHEN a.attname = 'signal_id' THEN format('md5(concat_ws(E''\\x1f'', t.user_id, t.chunk_content, extract(epoch FROM %s)))', coalesce(shown, 'NULL::timestamptz'))
        ELSE 'NULL' END, ', ' ORDER BY a.attnum)
    INTO fields
    FROM pg_attribute a
    WHERE a.attrelid = '@extschema@.captured_signal'::regclass AND a.attnum > 0 AND NOT a.attisdropped;
    RETURN format('SELECT array_agg(p.signal) FROM (SELECT ROW(%s)::@extschema@.captured_signal AS signal, (row_number() OVER () - 1) / 1000 AS page
                   FROM %s t) p GROUP BY p.page', fields, relation);
END
$$;
COMMENT ON FUNCTION _import_query(regclass, text[]) IS 'pg_finetune private: SELECT of a table of past actions, a thousand signals a row';
REVOKE ALL ON FUNCTION _import_query(regclass, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _import_query(regclass, text[]) TO finetune_admin;

CREATE FUNCTION import_history(relation regclass, source text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
DECLARE
    origin text := coalesce(source, relation::text);
    wrong text;
    columns text[];
    signals @extschema@.captured_signal[];
    part record;
    total bigint := 0;
    faulty bigint := 0;
BEGIN
    PERFORM @extschema@._require_role('import_history', 'finetune_admin');
    PERFORM @extschema@._require_import_name(origin);
    SELECT string_agg(CASE WHEN m.type IS NULL THEN format('column "%s" is missing: expected %s', m.name, m.accepted)
                           ELSE format('column "%s" is %s: expected %s', m.name, m.type, m.accepted) END, E'\n')
               FILTER (WHERE m.required AND m.name <> 'signal_id' AND m.type IS NULL OR NOT m.fits),
           array_agg(m.name::text) FILTER (WHERE m.fits)
    INTO wrong, columns FROM @extschema@._mapping(relation) m;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_column', MESSAGE = format('"%s" cannot be imported', relation), DETAIL = wrong,
            HINT = format('CREATE VIEW history AS SELECT <user> AS user_id, <text> AS chunk_content, <action> AS user_action FROM %s; and import that', relation);
    END IF;
    FOR signals IN EXECUTE @extschema@._import_query(relation, columns) LOOP
        SELECT * INTO part FROM @extschema@._import_signals(origin, signals);
        total := total + part.written;
        faulty := faulty + part.faulty;
    END LOOP;
    PERFORM @extschema@._report_import(origin, faulty);
    RETURN total;
END
$$;
COMMENT ON FUNCTION import_history(regclass, text) IS 'Takes past actions from a table or view with user_id, chunk_content and user_action once, without triggers; returns rows new or changed, so a second call returns 0';
GRANT EXECUTE ON FUNCTION import_history(regclass, text) TO finetune_admin;

CREATE FUNCTION _signal_of_line(line text, number bigint) RETURNS captured_signal
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item jsonb;
    signal @extschema@.captured_signal;
    vector text;
BEGIN
    BEGIN
        item := line::jsonb;
        IF jsonb_typeof(item) <> 'object' THEN
            RAISE EXCEPTION 'it is no JSON object';
        END IF;
        FOREACH vector IN ARRAY ARRAY['embedding', 'query_embedding'] LOOP
            IF jsonb_typeof(item -> vector) = 'array' THEN -- a vector is written like an array, in quotes
                item := jsonb_set(item, ARRAY[vector], to_jsonb((item -> vector)::text));
            END IF;
        END LOOP;
        signal := jsonb_populate_record(NULL::@extschema@.captured_signal, item);
    EXCEPTION WHEN data_exception OR raise_exception OR program_limit_exceeded THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_text_representation', MESSAGE = format('line %s cannot be imported', number), DETAIL = SQLERRM,
            HINT = '{"user_id": "u1", "chunk_content": "the text", "user_action": "saved", "shown_at": "2026-01-02T03:04:05Z"}';
    END;
    signal.shown_at := coalesce(signal.shown_at, signal.actioned_at);
    signal.signal_id := coalesce(signal.signal_id, md5(concat_ws(E'\x1f', signal.user_id, signal.chunk_content, extract(epoch FROM signal.shown_at))));
    signal.chunk_bytes := octet_length(signal.chunk_content);
    RETURN signal;
END
$$;
COMMENT ON FUNCTION _signal_of_line(text, bigint) IS 'pg_finetune private: a signal from one line of JSON, or an error that names the line';
REVOKE ALL ON FUNCTION _signal_of_line(text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _signal_of_line(text, bigint) TO finetune_admin;

CREATE FUNCTION import_history_jsonl(lines text, source text DEFAULT 'history') RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    signals @extschema@.captured_signal[];
    part record;
    total bigint := 0;
    faulty bigint := 0;
BEGIN
    PERFORM @extschema@._require_role('import_history_jsonl', 'finetune_admin');
    PERFORM @extschema@._require_import_name(source);
    FOR signals IN
        SELECT array_agg(@extschema@._signal_of_line(l.line, l.number))
        FROM regexp_split_to_table(lines, E'\r?\n') WITH ORDINALITY AS l (line, number)
        WHERE btrim(l.line) <> '' GROUP BY (l.number - 1) / 1000
    LOOP
        SELECT * INTO part FROM @extschema@._import_signals(source, signals);
        total := total + part.written;
        faulty := faulty + part.faulty;
    END LOOP;
    PERFORM @extschema@._report_import(source, faulty);
    RETURN total;
END
$$;
COMMENT ON FUNCTION import_history_jsonl(text, text) IS 'The same from JSON lines: one object per line with the columns of the mapping as keys; a line that is no such object is named';
GRANT EXECUTE ON FUNCTION import_history_jsonl(text, text) TO finetune_admin;
