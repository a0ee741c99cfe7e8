-- The optional second stage: candidates by the application's own index, then a closer look at each of them.

CREATE FUNCTION _save_popularity(model text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.chunk_popularity (model_id, chunk_id, saved, shown)
    SELECT model, e.chunk_id, count(*) FILTER (WHERE e.label), count(*)
    FROM @extschema@.dataset_example e
    WHERE e.dataset_id = (SELECT m.dataset_id FROM @extschema@.model m WHERE m.id = model) AND e.split = 'train' AND e.chunk_id IS NOT NULL
      AND EXISTS (SELECT FROM @extschema@.adapter a WHERE a.model_id = model AND a.popularity_weight <> 0)
    GROUP BY e.chunk_id;
END
$$;
COMMENT ON FUNCTION _save_popularity IS 'pg_finetune private: counts of a model''s dataset, where its second stage uses them';
REVOKE ALL ON FUNCTION _save_popularity FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _save_popularity TO finetune_admin;

-- With the owner's rights: an application may not read which tables are captured. It learns names, which every catalog shows.
CREATE FUNCTION _mapped_vectors() RETURNS TABLE (relation regclass, embedding name)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT DISTINCT a.attrelid::regclass, a.attname
    FROM @extschema@.capture_source c
    JOIN pg_rewrite r ON r.ev_class = c.via
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE 'embedding' = ANY (c.columns) AND a.atttypid IN ('@extschema:vector@.vector'::regtype, '@extschema:vector@.halfvec'::regtype);
END
$$;
COMMENT ON FUNCTION _mapped_vectors IS 'pg_finetune private: columns of vectors that the mappings of captured tables read';
REVOKE ALL ON FUNCTION _mapped_vectors FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _mapped_vectors TO finetune_app;

CREATE FUNCTION _items_to_rank(INOUT items regclass, INOUT id_column name, INOUT embedding_column name, OUT type text, OUT dimensions integer)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_items text;
    matches bigint;
    wrong text;
BEGIN
    IF items IS NULL THEN
        SELECT count(*), string_agg(format('%s.%I', i.relation, i.embedding), ', ' ORDER BY i.relation::text, i.embedding), min(i.relation::oid)::regclass
        INTO matches, found_items, items
        FROM @extschema@._mapped_vectors() i WHERE embedding_column IS NULL OR i.embedding = embedding_column;
        IF matches <> 1 THEN
            RAISE EXCEPTION USING
                ERRCODE = CASE WHEN matches = 0 THEN 'undefined_object' ELSE 'ambiguous_parameter' END,
                MESSAGE = 'rank_signals() does not know which table holds the items',
                DETAIL = CASE WHEN matches = 0 THEN 'No mapping of a captured table reads a column of vectors.' ELSE format('Mappings read %s.', found_items) END,
                HINT = 'SELECT * FROM @extschema@.rank_signals(user_id, items => ''chunk'', id_column => ''id'', embedding_column => ''embedding'');';
        END IF;
        SELECT i.embedding INTO embedding_column FROM @extschema@._mapped_vectors() i
        WHERE i.relation = items AND (embedding_column IS NULL OR i.embedding = embedding_column);
    END IF;
    IF id_column IS NULL THEN
        SELECT a.attname INTO id_column FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = items AND i.indisprimary AND i.indnkeyatts = 1;
    END IF;
    SELECT count(*), min(a.attname::text) INTO matches, found_items FROM pg_attribute a
    WHERE a.attrelid = items AND a.attnum > 0 AND NOT a.attisdropped AND (embedding_column IS NULL OR a.attname = embedding_column)
      AND a.atttypid IN ('@extschema:vector@.vector'::regtype, '@extschema:vector@.halfvec'::regtype);
    embedding_column := coalesce(embedding_column, found_items);
    wrong := CASE
        WHEN matches = 0 THEN format('It has no column %sof type vector or halfvec.', coalesce(quote_ident(embedding_column) || ' ', ''))
        WHEN matches > 1 THEN format('It has %s columns of vectors.', matches)
        WHEN id_column IS NULL THEN 'It has no primary key of one column.'
        WHEN NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = items AND a.attname = id_column AND a.attnum > 0 AND NOT a.attisdropped)
            THEN format('It has no column %I.', id_column) END;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('rank_signals() cannot read items from "%s"', items),
            DETAIL = wrong,
            HINT = format('SELECT * FROM @extschema@.rank_signals(user_id, items => %L, id_column => ''...'', embedding_column => ''...'');', items);
    END IF;
    SELECT CASE a.atttypid WHEN '@extschema:vector@.halfvec'::regtype THEN '@extschema:vector@.halfvec' ELSE '@extschema:vector@.vector' END, nullif(a.atttypmod, -1)
    INTO type, dimensions FROM pg_attribute a WHERE a.attrelid = items AND a.attname = embedding_column;
END
$$;
COMMENT ON FUNCTION _items_to_rank IS 'pg_finetune private: table and columns of the items: those asked for, else what the mapping of the captured table reads';
REVOKE ALL ON FUNCTION _items_to_rank FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _items_to_rank TO finetune_app;

CREATE FUNCTION _nearness(who text, positive text[], vectors real[], dimensions integer) RETURNS real[]
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'nearness_wrapper';
COMMENT ON FUNCTION _nearness IS 'pg_finetune private: mean similarity of each vector to the three closest of the items that a user saved last; NULL without any';
REVOKE ALL ON FUNCTION _nearness FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _nearness TO finetune_admin;

CREATE FUNCTION _saved_vectors(who text, positive text[], dimensions integer, newest integer) RETURNS SETOF vector
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 200 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT p.embedding FROM @extschema@.training_data_point p
    WHERE p.user_id = who AND p.user_action = ANY (positive) AND p.embedding IS NOT NULL
      AND @extschema:vector@.vector_dims(p.embedding) = dimensions AND @extschema:vector@.vector_norm(p.embedding) > 0
    ORDER BY p.actioned_at DESC NULLS LAST, p.id LIMIT newest;
END
$$;
COMMENT ON FUNCTION _saved_vectors IS 'pg_finetune private: what a user saved last';
REVOKE ALL ON FUNCTION _saved_vectors FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _saved_vectors TO finetune_admin;

CREATE FUNCTION _popularity(who text, model text, ids text[]) RETURNS double precision[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Smoothed as in training. What the user did with an item says nothing about others.
    RETURN (
        WITH own AS (
            SELECT e.chunk_id, count(*) FILTER (WHERE e.label) AS saved, count(*) AS shown
            FROM @extschema@.dataset_example e
            WHERE e.user_id = who AND e.dataset_id = (SELECT m.dataset_id FROM @extschema@.model m WHERE m.id = model) AND e.split = 'train'
            GROUP BY e.chunk_id)
        SELECT array_agg((c.saved + 1.0::float8) / (greatest(c.shown, c.saved) + 2) ORDER BY c.place)
        FROM (SELECT i.place, greatest(coalesce(p.saved, 0) - coalesce(o.saved, 0), 0) AS saved, coalesce(p.shown, 0) - coalesce(o.shown, 0) AS shown
              FROM unnest(ids) WITH ORDINALITY i (id, place)
              LEFT JOIN @extschema@.chunk_popularity p ON p.model_id = model AND p.chunk_id = i.id
              LEFT JOIN own o ON o.chunk_id = p.chunk_id) c);
END
$$;
COMMENT ON FUNCTION _popularity IS 'pg_finetune private: share of others who saved each item, in the model''s dataset; one half for what nobody was shown';
REVOKE ALL ON FUNCTION _popularity FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _popularity TO finetune_admin;

-- With the owner's rights: it reads what the user and others saved, and gives away no more than scores.
CREATE FUNCTION _second_stage(who text, ids text[], vectors real[], OUT knn3 real[], OUT popularity double precision[],
    OUT knn3_weight double precision, OUT popularity_weight double precision, OUT basis text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    model text := (SELECT a.model_id FROM @extschema@._assignment(who, now()) a);
    weights record;
BEGIN
    SELECT a.knn3_weight, a.popularity_weight, a.positive, a.report #>> '{second_stage,reason}' AS reason INTO weights
    FROM @extschema@.adapter a WHERE a.model_id = model;
    knn3_weight := coalesce(weights.knn3_weight, 0);
    popularity_weight := coalesce(weights.popularity_weight, 0);
    basis := format('%s (model "%s")', coalesce(weights.reason, 'vector order: no weights were ever chosen for a second stage'), model);
    IF knn3_weight <> 0 THEN
        knn3 := @extschema@._nearness(who, weights.positive, vectors, cardinality(vectors) / cardinality(ids));
    END IF;
    IF popularity_weight <> 0 THEN
        popularity := @extschema@._popularity(who, model, ids);
    END IF;
END
$$;
COMMENT ON FUNCTION _second_stage IS 'pg_finetune private: the parts of the score that are not the cosine, and how much each counts under the user''s model';
REVOKE ALL ON FUNCTION _second_stage FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _second_stage TO finetune_app;

CREATE FUNCTION _check_rank(k integer, candidates integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (k BETWEEN 1 AND candidates AND candidates BETWEEN 1 AND 1000) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('cannot take %s of %s candidates', coalesce(k::text, 'NULL'), coalesce(candidates::text, 'NULL')),
            DETAIL = 'k lies between 1 and candidates, candidates between 1 and 1000.',
            HINT = 'SELECT * FROM @extschema@.rank_signals(user_id, k => 10, candidates => 200);';
    END IF;
END
$$;
COMMENT ON FUNCTION _check_rank IS 'pg_finetune private: refuses numbers that rank nothing';
REVOKE ALL ON FUNCTION _check_rank FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_rank TO finetune_app;

-- The items are read with the caller's rights, row by row where policies say so: the scan goes on until enough rows may be seen.
CREATE FUNCTION rank_signals(user_id text, k integer DEFAULT 10, items regclass DEFAULT NULL, id_column name DEFAULT NULL,
    embedding_column name DEFAULT NULL, candidates integer DEFAULT 200)
RETURNS TABLE (chunk_id text, rank integer, score double precision, similarity double precision, knn3 double precision,
    popularity double precision, basis text)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 10
SET search_path = pg_catalog, pg_temp SET hnsw.ef_search = 200 SET hnsw.iterative_scan = relaxed_order SET ivfflat.iterative_scan = relaxed_order
AS $$
DECLARE
    query @extschema:vector@.vector;
    source record;
    found_items record;
    second record;
BEGIN
    PERFORM @extschema@._require_role('rank_signals', 'finetune_app');
    PERFORM @extschema@._require_user(user_id);
    PERFORM @extschema@._check_rank(k, candidates);
    SELECT s.* INTO source FROM @extschema@._items_to_rank(items, id_column, embedding_column) s;
    query := @extschema@.user_query(user_id);
    IF query IS NULL THEN
        RETURN;
    ELSIF @extschema:vector@.vector_dims(query) <> source.dimensions THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('items of "%s" have %s dimensions, the query vector of this user has %s', source.items, source.dimensions, @extschema:vector@.vector_dims(query)),
            DETAIL = 'A model serves the vectors of the embedding model that it was trained on, and no others.',
            HINT = 'Name the column whose vectors users saved as embedding_column, or train a new model on the new ones.';
    END IF;
    EXECUTE format('SELECT array_agg(c.id) AS ids, array_agg(c.similarity) AS similarities, array_agg(c.vector) AS vectors
        FROM (SELECT t.%1$I::text AS id, 1 - (t.%2$I OPERATOR(%5$s.<=>) $1::%3$s) AS similarity, t.%2$I::real[] AS vector
              FROM %4$s t ORDER BY t.%2$I OPERATOR(%5$s.<=>) $1::%3$s LIMIT $2) c
        WHERE c.similarity BETWEEN -2 AND 2', source.id_column, source.embedding_column, source.type, source.items, '@extschema:vector@')
    INTO found_items USING query, candidates;
    IF found_items.ids IS NULL THEN
        RETURN;
    END IF;
    SELECT s.* INTO second FROM @extschema@._second_stage(user_id, found_items.ids, found_items.vectors) s;
    RETURN QUERY
    SELECT o.id, (row_number() OVER (ORDER BY o.score DESC, o.id COLLATE "C"))::integer, o.score, o.similarity, o.knn3::float8, o.popularity, second.basis
    FROM (SELECT p.*, p.similarity + second.knn3_weight * coalesce(p.knn3, 0) + second.popularity_weight * coalesce(p.popularity, 0) AS score
          FROM unnest(found_items.ids, found_items.similarities, second.knn3, second.popularity) p (id, similarity, knn3, popularity)) o
    ORDER BY o.score DESC, o.id COLLATE "C" LIMIT k;
END
$$;
COMMENT ON FUNCTION rank_signals IS 'The k best items for a user in two stages: candidates by the index of your table of items (found through the captured mapping, or named), then similarity to the three closest saved items and the share of others who saved the item, with weights chosen when the model was trained; basis says how, or why the order is that of the vector alone. No row without a profile';
GRANT EXECUTE ON FUNCTION rank_signals TO finetune_app;
