-- Vectors of another embedding model in a second column of the application's own table. Everything that touches that table
-- is written here as text and run by src/worker/reembedding.rs in the caller's session, with the caller's rights and path.

CREATE FUNCTION _own_the_table(relation regclass, action text) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    about record;
BEGIN
    SELECT c.relkind, c.relpersistence, pg_get_userbyid(c.relowner) AS owner, n.nspname, c.relname,
           pg_has_role(c.relowner, 'USAGE') AS owned, has_schema_privilege(n.oid, 'CREATE') AS may_create
    INTO about FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    IF about.relkind IS NULL OR about.relkind NOT IN ('r', 'p') OR about.relpersistence = 't' OR about.nspname IN ('pg_catalog', 'information_schema')
       OR EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_finetune'
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = relation AND d.refclassid = 'pg_extension'::regclass) THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('cannot %s "%s"', action, relation),
            DETAIL = 'It takes a permanent table of your own.',
            HINT = 'Name the table that holds the texts, not a view of it.';
    ELSIF NOT about.owned OR NOT about.may_create THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('role "%s" may not %s "%s"', current_user, action, relation),
            DETAIL = CASE WHEN about.owned THEN format('It lacks CREATE on schema "%s", where a trigger function goes.', about.nspname)
                          ELSE format('The table belongs to "%s".', about.owner) END,
            HINT = CASE WHEN about.owned THEN format('GRANT CREATE ON SCHEMA %I TO %I;', about.nspname, current_user)
                        ELSE format('GRANT finetune_admin TO %1$I; SET ROLE %1$I; and call it again.', about.owner) END;
    END IF;
END $$;
COMMENT ON FUNCTION _own_the_table(regclass, text) IS 'pg_finetune private: refuses what is no table of the caller';
REVOKE ALL ON FUNCTION _own_the_table(regclass, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _own_the_table(regclass, text) TO finetune_admin;

CREATE FUNCTION _embedding_column(model text) RETURNS name
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    readable text := 'embedding_' || lower(regexp_replace(model, '[^A-Za-z0-9]+', '_', 'g'));
BEGIN
    RETURN CASE WHEN length(readable) <= 63 THEN readable ELSE left(readable, 54) || '_' || left(md5(model), 8) END;
END $$;
COMMENT ON FUNCTION _embedding_column(text) IS 'pg_finetune private: the column for a model''s vectors where nobody names one';
REVOKE ALL ON FUNCTION _embedding_column(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _embedding_column(text) TO finetune_admin;

CREATE FUNCTION _table_key(relation regclass, OUT name name, OUT type text)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT a.attname, format_type(a.atttypid, -1) INTO name, type
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = relation AND i.indisprimary AND i.indnkeyatts = 1
      AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'smallint'::regtype, 'integer'::regtype, 'bigint'::regtype);
    IF name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_table_definition',
            MESSAGE = format('"%s" has no primary key of one column that names its rows', relation),
            DETAIL = 'Rows are taken in the order of a key of type text, varchar, uuid, smallint, integer or bigint.',
            HINT = format('ALTER TABLE %s ADD PRIMARY KEY (...);', relation);
    END IF;
END $$;
COMMENT ON FUNCTION _table_key(regclass) IS 'pg_finetune private: primary key of a table and its type';
REVOKE ALL ON FUNCTION _table_key(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _table_key(regclass) TO finetune_admin;

CREATE FUNCTION _check_embedding_columns(relation regclass, model text, content name, column_name name) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = content AND a.attnum > 0 AND NOT a.attisdropped
                   AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_column',
            MESSAGE = format('"%s" has no column "%s" with texts', relation, content),
            DETAIL = 'What is embedded is one column of type text or varchar.',
            HINT = format('CALL @extschema@.reembed(%L, %L, content => ''...'');', relation, model);
    END IF;
    SELECT r.relation, r.column_name INTO other FROM @extschema@.reembedding r
    WHERE r.model_id = model AND r.relation <> _check_embedding_columns.relation AND r.column_name <> _check_embedding_columns.column_name LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('vectors of model "%s" stand in a column "%s" already', model, other.column_name),
            DETAIL = format('That column is of %s; one name for all tables is what model_for() tells.', other.relation),
            HINT = format('CALL @extschema@.reembed(%L, %L, into_column => %L);', relation, model, other.column_name);
    END IF;
    IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = column_name AND NOT a.attisdropped)
       AND NOT EXISTS (SELECT FROM @extschema@.reembedding r WHERE r.model_id = model AND r.relation = _check_embedding_columns.relation
                       AND r.column_name = _check_embedding_columns.column_name) THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_column',
            MESSAGE = format('"%s" has a column "%s" already', relation, column_name),
            DETAIL = 'It was not made for this model, so nothing is written into it.',
            HINT = format('CALL @extschema@.reembed(%L, %L, into_column => ''...'');', relation, model);
    END IF;
END $$;
COMMENT ON FUNCTION _check_embedding_columns(regclass, text, name, name) IS 'pg_finetune private: refuses a column without texts, and a target that belongs to something else';
REVOKE ALL ON FUNCTION _check_embedding_columns(regclass, text, name, name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_embedding_columns(regclass, text, name, name) TO finetune_admin;

-- With the owner's rights: others do not see when a foreign process began.
CREATE FUNCTION _is_reembedding(job reembedding) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A session that was cancelled lives on: what has said nothing for ten minutes is not at work.
    RETURN job.holder_pid IS NOT NULL AND job.state = 'running' AND job.changed_at > clock_timestamp() - interval '10 minutes'
       AND EXISTS (SELECT 1 FROM pg_stat_get_activity(job.holder_pid) a WHERE a.backend_start = job.holder_started);
END $$;
COMMENT ON FUNCTION _is_reembedding(reembedding) IS 'pg_finetune private: whether a live session is at work on it';
REVOKE ALL ON FUNCTION _is_reembedding(reembedding) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _is_reembedding(reembedding) TO finetune_analyst, finetune_admin;

CREATE FUNCTION _begin_reembedding(relation regclass, model text, content name, into_column name, retry_failed boolean) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_model @extschema@.model;
    v_row   @extschema@.reembedding;
    v_key   record;
    v_column name;
    v_ready boolean;
BEGIN
    PERFORM @extschema@._require_model(model);
    SELECT m.* INTO v_model FROM @extschema@.model m WHERE m.id = model;
    IF v_model.provider_model IS NULL OR v_model.method <> 'contrastive' THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('model "%s" makes no vectors at a provider', model),
            DETAIL = 'Models of the built-in trainer work on the vectors that are stored already; a chat model has none.',
            HINT = 'SELECT id, provider FROM @extschema@.model WHERE provider_model IS NOT NULL AND method = ''contrastive''; lists those that do.';
    END IF;
    PERFORM @extschema@._own_the_table(relation, 're-embed');
    PERFORM @extschema@._check_provider_use(v_model.provider, current_user);
    SELECT k.* INTO v_key FROM @extschema@._table_key(relation) k;
    SELECT r.* INTO v_row FROM @extschema@.reembedding r WHERE r.model_id = model AND r.relation = _begin_reembedding.relation FOR UPDATE;
    v_column := COALESCE(into_column, v_row.column_name,
        (SELECT min(r.column_name::text) FROM @extschema@.reembedding r WHERE r.model_id = model), @extschema@._embedding_column(model));
    PERFORM @extschema@._check_embedding_columns(relation, model, content, v_column);
    IF v_row.holder_pid <> pg_backend_pid() AND @extschema@._is_reembedding(v_row) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use',
            MESSAGE = format('"%s" is being re-embedded for model "%s"', relation, model),
            DETAIL = format('Process %s is at work, begun by %s.', v_row.holder_pid, v_row.started_by),
            HINT = format('SELECT pg_cancel_backend(%s); ends it; what it has written stays.', v_row.holder_pid);
    END IF;
    -- Then nothing has to be altered, and a sweep locks no more than its rows.
    v_ready := v_row.dimensions IS NOT NULL AND v_row.content_column = content
        AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = v_column AND NOT a.attisdropped)
        AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = @extschema@._stale_name(v_row));
    INSERT INTO @extschema@.reembedding AS r (model_id, relation, key_column, content_column, column_name, holder_pid, holder_started)
    VALUES (model, relation, v_key.name, content, v_column, pg_backend_pid(), (SELECT a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) a))
    ON CONFLICT ON CONSTRAINT reembedding_pkey DO UPDATE
    SET state = 'running', key_column = excluded.key_column, content_column = excluded.content_column, last_error = NULL, holder_pid = excluded.holder_pid,
        holder_started = excluded.holder_started, changed_at = clock_timestamp(), started_by = current_user,
        failed_keys = CASE WHEN retry_failed THEN '{}' ELSE r.failed_keys END
    RETURNING r.* INTO v_row;
    RETURN jsonb_build_object('provider', v_model.provider, 'name', v_model.provider_model, 'dimensions', v_row.dimensions,
        'failed_keys', to_jsonb(v_row.failed_keys), 'ready', v_ready,
        'price', (SELECT p.input FROM @extschema@._token_price(v_model.provider, v_model.provider_model, v_model.base_model) p))
        || @extschema@._reembedding_statements(v_row, v_key.type);
END $$;
COMMENT ON FUNCTION _begin_reembedding(regclass, text, name, name, boolean) IS 'pg_finetune private: checks everything, takes the work for this session, and says what to run';
REVOKE ALL ON FUNCTION _begin_reembedding(regclass, text, name, name, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _begin_reembedding(regclass, text, name, name, boolean) TO finetune_admin;

CREATE FUNCTION _stale_name(job reembedding) RETURNS name
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN 'pg_finetune_stale_' || left(md5(job.column_name), 12);
END $$;
COMMENT ON FUNCTION _stale_name(reembedding) IS 'pg_finetune private: the trigger, and its function beside the table, that empties the column when a text changes';
REVOKE ALL ON FUNCTION _stale_name(reembedding) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _stale_name(reembedding) TO finetune_admin;

CREATE FUNCTION _reembedding_statements(job reembedding, key_type text) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_key     text := format('t.%I', job.key_column);
    v_text    text := format('t.%I::pg_catalog.text', job.content_column);
    v_hash    text := format('pg_catalog.sha256(pg_catalog.convert_to(%s, ''UTF8''))', v_text);
    v_wanted  text := format('%s OPERATOR(pg_catalog.~) ''\S''', v_text);
    v_schema  name := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = job.relation);
    v_stale   name := @extschema@._stale_name(job);
    -- A chunk_id of another table need not be of this key's type.
    v_foreign text := CASE WHEN key_type IN ('smallint', 'integer', 'bigint')
            THEN 'CASE WHEN p.chunk_id OPERATOR(pg_catalog.~) ''^-?[0-9]{1,18}$'' THEN p.chunk_id::pg_catalog.int8 END'
        WHEN key_type = 'uuid'
            THEN 'CASE WHEN p.chunk_id OPERATOR(pg_catalog.~*) ''^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'' THEN p.chunk_id::pg_catalog.uuid END'
        ELSE 'p.chunk_id' END;
BEGIN
    RETURN jsonb_build_object(
    'add_column', format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS %I @extschema:vector@.vector(', job.relation, job.column_name) || '%s)',
    'add_function', format('CREATE OR REPLACE FUNCTION %I.%I() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS %L', v_schema, v_stale,
        format('BEGIN NEW.%I := NULL; RETURN NEW; END', job.column_name)),
    'add_trigger', format('CREATE OR REPLACE TRIGGER %I BEFORE UPDATE OF %3$I ON %2$s FOR EACH ROW WHEN (OLD.%3$I IS DISTINCT FROM NEW.%3$I) EXECUTE FUNCTION %4$I.%1$I()',
        v_stale, job.relation, job.content_column, v_schema),
    'count', format('SELECT pg_catalog.count(*), pg_catalog.count(t.%I) FROM %s t WHERE %s', job.column_name, job.relation, v_wanted),
    'batch', format('SELECT %1$s::pg_catalog.text, %2$s, %3$s FROM %4$s t WHERE t.%5$I IS NULL AND %6$s AND ($1 IS NULL OR %1$s OPERATOR(pg_catalog.>) $1::pg_catalog.text::%7$s) '
        'AND %1$s::pg_catalog.text OPERATOR(pg_catalog.<>) ALL ($2) ORDER BY %1$s LIMIT $3', v_key, v_text, v_hash, job.relation, job.column_name, v_wanted, key_type),
    -- Rows that somebody else has locked are left for the next round: who waits for nobody is in no deadlock.
    'store', format('WITH new AS MATERIALIZED (SELECT n.key::%1$s AS key, n.hash, n.vector::@extschema:vector@.vector AS vector '
        'FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.bytea[]), pg_catalog.unnest($3::pg_catalog.text[])) n (key, hash, vector)), '
        'free AS MATERIALIZED (SELECT %2$s AS key, n.vector FROM %3$s t JOIN new n ON %2$s OPERATOR(pg_catalog.=) n.key '
        'WHERE t.%4$I IS NULL AND %5$s OPERATOR(pg_catalog.=) n.hash ORDER BY %2$s FOR NO KEY UPDATE OF t SKIP LOCKED), '
        'done AS (UPDATE %3$s t SET %4$I = f.vector FROM free f WHERE %2$s OPERATOR(pg_catalog.=) f.key RETURNING 1) SELECT pg_catalog.count(*) FROM done',
        key_type, v_key, job.relation, job.column_name, v_hash),
    'points', format('WITH wanted AS MATERIALIZED (SELECT p.user_id, p.id, %1$s AS key FROM @extschema@.training_data_point p '
        'WHERE p.user_action OPERATOR(pg_catalog.=) ANY (ARRAY[''saved'', ''snipped'']) AND p.chunk_id IS NOT NULL '
        'AND ROW(p.user_id, p.id) OPERATOR(pg_catalog.>) ROW($2, $3) AND NOT EXISTS (SELECT FROM @extschema@.data_point_vector v '
        'WHERE v.user_id OPERATOR(pg_catalog.=) p.user_id AND v.id OPERATOR(pg_catalog.=) p.id AND v.model_id OPERATOR(pg_catalog.=) $1) '
        'ORDER BY p.user_id, p.id LIMIT $4), '
        'done AS (INSERT INTO @extschema@.data_point_vector (user_id, id, model_id, embedding) '
        'SELECT w.user_id, w.id, $1, t.%2$I::@extschema:vector@.vector FROM wanted w JOIN %3$s t ON %4$s OPERATOR(pg_catalog.=) w.key WHERE t.%2$I IS NOT NULL ON CONFLICT DO NOTHING RETURNING 1), '
        'last AS (SELECT w.user_id, w.id FROM wanted w ORDER BY w.user_id DESC, w.id DESC LIMIT 1) '
        'SELECT (SELECT pg_catalog.count(*) FROM done), l.user_id, l.id FROM last l', v_foreign, job.column_name, job.relation, v_key));
END $$;
COMMENT ON FUNCTION _reembedding_statements(reembedding, text) IS 'pg_finetune private: the statements that touch the application''s table, with its names quoted';
REVOKE ALL ON FUNCTION _reembedding_statements(reembedding, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _reembedding_statements(reembedding, text) TO finetune_admin;

CREATE FUNCTION _note_reembedding(relation regclass, model text, change jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.reembedding r
    SET dimensions = COALESCE((change ->> 'dimensions')::integer, r.dimensions), rows = COALESCE((change ->> 'rows')::bigint, r.rows),
        done = COALESCE((change ->> 'done')::bigint, r.done), points = r.points + COALESCE((change ->> 'points')::bigint, 0),
        tokens = r.tokens + COALESCE((change ->> 'tokens')::bigint, 0),
        usd = CASE WHEN change ->> 'usd' IS NULL THEN r.usd ELSE COALESCE(r.usd, 0) + (change ->> 'usd')::numeric END,
        failed_keys = r.failed_keys || ARRAY(SELECT jsonb_array_elements_text(COALESCE(change -> 'failed_keys', '[]'))),
        state = COALESCE(change ->> 'state', r.state), last_error = COALESCE(change ->> 'error', r.last_error),
        holder_pid = CASE WHEN change ? 'state' THEN NULL ELSE r.holder_pid END,
        completed_at = CASE WHEN change ->> 'state' = 'complete' THEN COALESCE(r.completed_at, clock_timestamp()) ELSE r.completed_at END,
        changed_at = clock_timestamp()
    WHERE r.model_id = model AND r.relation = _note_reembedding.relation;
END $$;
COMMENT ON FUNCTION _note_reembedding(regclass, text, jsonb) IS 'pg_finetune private: how far it is';
REVOKE ALL ON FUNCTION _note_reembedding(regclass, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _note_reembedding(regclass, text, jsonb) TO finetune_admin;

CREATE FUNCTION _require_reembedded(model text) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    open @extschema@.reembedding;
BEGIN
    SELECT r.* INTO open FROM @extschema@.reembedding r WHERE r.model_id = model AND r.completed_at IS NULL ORDER BY r.relation::text LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('"%s" is not re-embedded for model "%s" yet', open.relation, model),
            DETAIL = format('%s of %s rows have a vector in column "%s": who searched there would miss the others.', open.done, COALESCE(open.rows::text, '?'), open.column_name),
            HINT = format('CALL @extschema@.reembed(%L, %L); goes on where it was.', open.relation, model);
    END IF;
END $$;
COMMENT ON FUNCTION _require_reembedded(text) IS 'pg_finetune private: refuses a model whose vectors are still being made';
REVOKE ALL ON FUNCTION _require_reembedded(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_reembedded(text) TO finetune_admin;

CREATE PROCEDURE reembed(relation regclass, model text, content name DEFAULT 'content', max_rows bigint DEFAULT NULL, max_usd numeric DEFAULT NULL,
                         into_column name DEFAULT NULL, retry_failed boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'reembed_wrapper';
COMMENT ON PROCEDURE reembed(regclass, text, name, bigint, numeric, name, boolean) IS
    'Fills a second column of your table with vectors of an embedding model that stands at a provider, in batches with the caller''s rights, then the profiles of users who saved something. Called again it takes up what is new, changed or was left; max_rows and max_usd limit one call. CALL it outside a transaction block';
GRANT EXECUTE ON PROCEDURE reembed(regclass, text, name, bigint, numeric, name, boolean) TO finetune_admin;

CREATE FUNCTION drop_reembedding(relation regclass, model text, force boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    v_row @extschema@.reembedding;
    v_use text;
    v_schema name := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation);
BEGIN
    PERFORM @extschema@._require_role('drop_reembedding', 'finetune_admin');
    SELECT r.* INTO v_row FROM @extschema@.reembedding r WHERE r.model_id = model AND r.relation = drop_reembedding.relation FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('"%s" was not re-embedded for model "%s"', relation, model),
            DETAIL = 'There is no second column of ours to drop.',
            HINT = 'SELECT relation, model_id, column_name FROM @extschema@.reembeddings;';
    END IF;
    v_use := CASE WHEN @extschema@.served_at(NULL) = model THEN 'it serves everybody outside experiments'
                  ELSE (SELECT format('it is an arm of experiment "%s"', min(a.experiment)) FROM @extschema@.experiment_arm a
                        JOIN @extschema@.experiment_phase p ON p.experiment = a.experiment AND p.phase = a.phase AND p.valid_to IS NULL
                        WHERE a.model_id = model HAVING count(*) > 0) END;
    IF v_use IS NOT NULL AND force IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use',
            MESSAGE = format('vectors of model "%s" are in use', model),
            DETAIL = format('%s: users of this model search the column "%s".', v_use, v_row.column_name),
            HINT = 'SELECT @extschema@.rollback_model(); or stop_experiment(...) first; force => true drops them all the same.';
    END IF;
    IF v_schema IS NOT NULL THEN
        PERFORM @extschema@._own_the_table(relation, 'drop a column of');
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', @extschema@._stale_name(v_row), relation);
        EXECUTE format('ALTER TABLE %s DROP COLUMN IF EXISTS %I', relation, v_row.column_name);
        BEGIN
            EXECUTE format('DROP FUNCTION IF EXISTS %I.%I()', v_schema, @extschema@._stale_name(v_row));
        EXCEPTION WHEN dependent_objects_still_exist THEN
            NULL; -- another table of this schema has a column of this name
        END;
    END IF;
    DELETE FROM @extschema@.reembedding r WHERE r.model_id = model AND r.relation = drop_reembedding.relation;
    IF NOT EXISTS (SELECT FROM @extschema@.reembedding r WHERE r.model_id = model) THEN
        DELETE FROM @extschema@.data_point_vector v WHERE v.model_id = model;
    END IF;
END $$;
COMMENT ON FUNCTION drop_reembedding(regclass, text, boolean) IS 'The way back: drops the second column with its index, trigger and profiles; refuses while users search it, unless forced';
GRANT EXECUTE ON FUNCTION drop_reembedding(regclass, text, boolean) TO finetune_admin;

CREATE FUNCTION _reembedding_next_step(job reembedding) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_indexed boolean := EXISTS (SELECT FROM pg_index i WHERE i.indrelid = job.relation AND i.indisvalid
                                 AND pg_get_indexdef(i.indexrelid) ~ format('\m(hnsw|ivfflat)\M.*\m%s\M', job.column_name));
BEGIN
    RETURN CASE
        WHEN NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = job.relation) THEN format('SELECT @extschema@.drop_reembedding(%L, %L);', job.relation::oid::text, job.model_id)
        WHEN @extschema@._is_reembedding(job) THEN NULL
        WHEN job.completed_at IS NULL THEN format('CALL @extschema@.reembed(%L, %L, content => %L);', job.relation, job.model_id, job.content_column)
        WHEN NOT v_indexed AND job.dimensions <= 2000
            THEN format('CREATE INDEX CONCURRENTLY ON %s USING hnsw (%I vector_cosine_ops);', job.relation, job.column_name)
        WHEN NOT v_indexed AND job.dimensions <= 4000
            THEN format('CREATE INDEX CONCURRENTLY ON %s USING hnsw ((%I::halfvec(%s)) halfvec_cosine_ops);', job.relation, job.column_name, job.dimensions)
        WHEN NOT EXISTS (SELECT FROM @extschema@.model_evaluation v WHERE v.model_id = job.model_id) THEN format('CALL @extschema@.evaluate_model(%L);', job.model_id)
    END;
END $$;
COMMENT ON FUNCTION _reembedding_next_step(reembedding) IS 'pg_finetune private: the statement that a re-embedding waits for, NULL = none';
REVOKE ALL ON FUNCTION _reembedding_next_step(reembedding) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _reembedding_next_step(reembedding) TO finetune_analyst, finetune_admin;

CREATE VIEW reembeddings AS
SELECT r.model_id, r.relation, r.column_name, r.dimensions,
       CASE WHEN r.state OPERATOR(pg_catalog.=) 'running' AND NOT @extschema@._is_reembedding(r) THEN 'interrupted' ELSE r.state END AS state,
       CASE WHEN r.rows OPERATOR(pg_catalog.>) 0 THEN LEAST(r.done::double precision OPERATOR(pg_catalog./) r.rows::double precision, 1) END AS progress,
       r.done, r.rows, pg_catalog.cardinality(r.failed_keys) AS failed, r.points, r.tokens, pg_catalog.round(r.usd, 6) AS usd, r.last_error,
       @extschema@._reembedding_next_step(r) AS next_step, r.started_by, r.started_at, r.changed_at, r.completed_at
FROM @extschema@.reembedding r;
COMMENT ON VIEW reembeddings IS 'Second columns of vectors under another model: how far each is (0 to 1), what it cost, and the statement that comes next';

CREATE FUNCTION _vectors_of(model text, OUT here boolean, OUT instead text)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    here := EXISTS (SELECT FROM @extschema@.reembedding r WHERE r.model_id = model AND r.completed_at IS NOT NULL);
    -- A chat model looks at what was found: vectors are searched under the model that served before it.
    IF NOT here AND EXISTS (SELECT FROM @extschema@.model m WHERE m.id = model AND m.method IN ('sft', 'dpo')) THEN
        instead := COALESCE((SELECT d.model_id FROM @extschema@.deployment d JOIN @extschema@.model m ON m.id = d.model_id
                             WHERE m.method NOT IN ('sft', 'dpo') ORDER BY d.id DESC LIMIT 1), 'base');
    END IF;
END $$;
COMMENT ON FUNCTION _vectors_of(text) IS 'pg_finetune private: of a model without weights: whether its vectors stand here, and for a chat model the model whose vectors are searched';
REVOKE ALL ON FUNCTION _vectors_of(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _vectors_of(text) TO finetune_app;

CREATE FUNCTION _profile_in(model text, who text) RETURNS vector
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT @extschema:vector@.l2_normalize(@extschema:vector@.avg(@extschema:vector@.l2_normalize(v.embedding)))
            FROM @extschema@.data_point_vector v
            JOIN @extschema@.training_data_point p ON p.user_id = v.user_id AND p.id = v.id
            WHERE v.user_id = who AND v.model_id = model AND p.user_action IN ('saved', 'snipped') AND @extschema:vector@.vector_norm(v.embedding) > 0);
END $$;
COMMENT ON FUNCTION _profile_in(text, text) IS 'pg_finetune private: mean of the unit vectors, under a re-embedded model, of what a user saved';
REVOKE ALL ON FUNCTION _profile_in(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_in(text, text) TO finetune_app;
