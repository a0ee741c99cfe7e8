-- How a model serves, inside the application's own queries and over its own HNSW index.

CREATE FUNCTION _profile(user_id text, model text, dimensions integer, OUT saved real[], OUT skipped real[])
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_positive text[] := COALESCE(
        (SELECT d.positive FROM @extschema@.model m JOIN @extschema@.dataset d ON d.id = m.dataset_id WHERE m.id = model),
        ARRAY['saved', 'snipped']);
    v_dimensions integer := COALESCE(dimensions, (
        SELECT @extschema:vector@.vector_dims(p.embedding) FROM @extschema@.training_data_point p
        WHERE p.user_id = _profile.user_id AND p.user_action = ANY (v_positive) AND p.embedding IS NOT NULL
        ORDER BY p.actioned_at DESC NULLS LAST LIMIT 1));
BEGIN
    SELECT (@extschema:vector@.avg(@extschema:vector@.l2_normalize(p.embedding)) FILTER (WHERE p.user_action = ANY (v_positive)))::real[],
           CASE WHEN count(*) FILTER (WHERE NOT p.user_action = ANY (v_positive)) >= 5
                THEN (@extschema:vector@.avg(@extschema:vector@.l2_normalize(p.embedding)) FILTER (WHERE NOT p.user_action = ANY (v_positive)))::real[] END
    INTO saved, skipped
    FROM @extschema@.training_data_point p
    WHERE p.user_id = _profile.user_id AND p.user_action IS NOT NULL AND p.embedding IS NOT NULL
      AND @extschema:vector@.vector_dims(p.embedding) = v_dimensions
      AND @extschema:vector@.vector_norm(p.embedding) > 0;
END $$;
COMMENT ON FUNCTION _profile(text, text, integer) IS 'pg_finetune private: mean of the unit vectors a user saved, and of those skipped (NULL below five), of the model''s dimensions';
REVOKE ALL ON FUNCTION _profile(text, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile(text, text, integer) TO finetune_app;

-- An application asks for vectors taken through a model; it reads no table.
CREATE FUNCTION _adapter(model text) RETURNS SETOF adapter
    LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT a.* FROM @extschema@.adapter a WHERE a.model_id = model;
END $$;
COMMENT ON FUNCTION _adapter(text) IS 'pg_finetune private: weights of a model, no row when it has none';
REVOKE ALL ON FUNCTION _adapter(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _adapter(text) TO finetune_app;

CREATE FUNCTION _query_vector(user_id text, model text) RETURNS vector
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'query_vector_wrapper';
COMMENT ON FUNCTION _query_vector(text, text) IS 'pg_finetune private: query vector of a user under a model, unit length';
REVOKE ALL ON FUNCTION _query_vector(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _query_vector(text, text) TO finetune_app;

CREATE FUNCTION _check_user_id(user_id text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF user_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'user_id may not be NULL',
            DETAIL = 'Everything that is learned and served is keyed by user.',
            HINT = 'Pass the application''s user id as text; for visitors without one, skip the call.';
    END IF;
    IF user_id = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'user_id may not be empty',
            DETAIL = 'An empty id would make all visitors without one the same user.',
            HINT = 'Pass the application''s user id as text; for visitors without one, skip the call.';
    END IF;
END $$;
COMMENT ON FUNCTION _check_user_id(text) IS 'pg_finetune private: ERROR 22004 for NULL, 22023 for an empty user id';
REVOKE ALL ON FUNCTION _check_user_id(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_user_id(text) TO finetune_app, finetune_analyst, finetune_admin;

CREATE FUNCTION user_query(user_id text) RETURNS vector
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('user_query', 'finetune_app');
    PERFORM @extschema@._check_user_id(user_id);
    RETURN @extschema@._query_vector(user_id, (SELECT a.model_id FROM @extschema@._assignment(user_id, now()) a));
END $$;
COMMENT ON FUNCTION user_query(text) IS
    'The vector to search with for this user under the variant the user is in: ORDER BY embedding <=> user_query($1). Unit length; NULL while the user has saved nothing that has an embedding';
GRANT EXECUTE ON FUNCTION user_query(text) TO finetune_app;

CREATE FUNCTION user_query(user_id text, model text) RETURNS vector
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('user_query', 'finetune_app');
    PERFORM @extschema@._check_user_id(user_id);
    RETURN @extschema@._query_vector(user_id, model);
END $$;
COMMENT ON FUNCTION user_query(text, text) IS 'The same under a model of your choice, for comparing: ''base'' or an id of table model. ERROR 42704 for an unknown model';
GRANT EXECUTE ON FUNCTION user_query(text, text) TO finetune_app;

CREATE FUNCTION relevance_score(user_id text, embedding vector) RETURNS double precision
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'relevance_score_wrapper';
COMMENT ON FUNCTION relevance_score(text, vector) IS
    'How relevant an item is to a user under the user''s variant, 0 to 1: calibrated probability of a save for trained models, (1 + cosine) / 2 for base. NULL without a profile or for a zero vector';
GRANT EXECUTE ON FUNCTION relevance_score(text, vector) TO finetune_app;

CREATE FUNCTION adapt(embedding vector, model text) RETURNS vector
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'adapt_wrapper';
COMMENT ON FUNCTION adapt(vector, text) IS 'A vector taken through a model: matrix * v + bias, unit length; unchanged for ''base''. ERROR 42704 for an unknown model, 22023 for other dimensions';
GRANT EXECUTE ON FUNCTION adapt(vector, text) TO finetune_app;
