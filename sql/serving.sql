-- How a model serves, inside the application's own queries and over its own HNSW index.

-- An application asks for vectors taken through a model; it reads no table.
CREATE FUNCTION _adapter(model text) RETURNS SETOF adapter
    LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT a.* FROM @extschema@.adapter a WHERE a.model_id = model;
END $$;
COMMENT ON FUNCTION _adapter(text) IS 'pg_finetune private: weights of a model, no row when it has none';
REVOKE ALL ON FUNCTION _adapter(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _adapter(text) TO finetune_app;

CREATE FUNCTION _profile_rows(who text) RETURNS SETOF user_profile
    LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 4 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT p.* FROM @extschema@.user_profile p WHERE p.user_id = who;
END $$;
COMMENT ON FUNCTION _profile_rows(text) IS 'pg_finetune private: what a user''s profile is the sum of';
REVOKE ALL ON FUNCTION _profile_rows(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_rows(text) TO finetune_app;

CREATE FUNCTION user_query(user_id text) RETURNS vector
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'user_query_wrapper';
COMMENT ON FUNCTION user_query(text) IS
    'The vector to search with for this user under the variant the user is in: ORDER BY embedding <=> user_query($1). Unit length; NULL while the user has saved nothing that has an embedding';
GRANT EXECUTE ON FUNCTION user_query(text) TO finetune_app;

CREATE FUNCTION user_query(user_id text, model text) RETURNS vector
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'user_query_under_wrapper';
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

CREATE FUNCTION _forget_adapters() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'forget_adapters_wrapper';
COMMENT ON FUNCTION _forget_adapters() IS 'pg_finetune private: tells every backend, at commit, that the adapters it keeps may be out of date';
REVOKE ALL ON FUNCTION _forget_adapters() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _forget_adapters() TO finetune_admin;

CREATE FUNCTION _adapter_changed() RETURNS trigger
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._forget_adapters();
    RETURN NULL;
END $$;
COMMENT ON FUNCTION _adapter_changed() IS 'pg_finetune private: adapters in memory follow their table';
REVOKE ALL ON FUNCTION _adapter_changed() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _adapter_changed() TO finetune_admin;

CREATE TRIGGER adapter_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON adapter
    FOR EACH STATEMENT EXECUTE FUNCTION _adapter_changed();
COMMENT ON TRIGGER adapter_changed ON adapter IS 'backends keep adapters in memory';
