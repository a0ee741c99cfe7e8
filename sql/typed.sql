-- Typed questions under a model, and the direction of each user's own where users are few.

CREATE FUNCTION _adapter_head(model text, who text) RETURNS real[]
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT h.head FROM @extschema@.adapter_head h WHERE h.user_id = who AND h.model_id = model);
END $$;
COMMENT ON FUNCTION _adapter_head(text, text) IS 'pg_finetune private: a user''s own direction under a model, NULL when there is none';
REVOKE ALL ON FUNCTION _adapter_head(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _adapter_head(text, text) TO finetune_app;

CREATE FUNCTION adapt(embedding vector, model text, task text) RETURNS vector
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'adapt_for_wrapper';
COMMENT ON FUNCTION adapt(vector, text, text) IS
    'A vector taken through a model for a task: ''profile'' as adapt(embedding, model) does, ''query'' as the vector of a typed question, which stays as it is unless the gate let a matrix of its own pass. ERROR 22023 for another task';
GRANT EXECUTE ON FUNCTION adapt(vector, text, text) TO finetune_app;

CREATE FUNCTION user_query(user_id text, query_embedding vector) RETURNS vector
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'typed_query_wrapper';
COMMENT ON FUNCTION user_query(text, vector) IS
    'The vector to search with for a question that this user typed, under the variant the user is in: ORDER BY embedding <=> user_query($1, $2)';
GRANT EXECUTE ON FUNCTION user_query(text, vector) TO finetune_app;
