-- The gate for embedding models that stand at a provider. Who computes the verdict stands in src/worker/evaluation.rs.

CREATE FUNCTION _model_to_evaluate(model text, OUT provider text, OUT provider_model text, OUT dataset_id uuid, OUT seed bigint)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_model(model);
    SELECT m.provider, m.provider_model, m.dataset_id, j.seed INTO provider, provider_model, dataset_id, seed
    FROM @extschema@.model m LEFT JOIN @extschema@.fine_tuning_job j ON j.id = m.job_id
    WHERE m.id = model AND m.method = 'contrastive';
    IF provider_model IS NULL OR dataset_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('model "%s" is no embedding model of a provider', model),
            DETAIL = 'Models of the built-in trainer are judged when they are trained; a chat model has no vectors.',
            HINT = format('SELECT * FROM @extschema@.model_evaluation WHERE model_id = %L;', model);
    END IF;
    seed := COALESCE(seed, 42);
END $$;
COMMENT ON FUNCTION _model_to_evaluate(text) IS 'pg_finetune private: where the vectors of a model come from and on what it is judged; ERROR 0A000 for a model without';
REVOKE ALL ON FUNCTION _model_to_evaluate(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _model_to_evaluate(text) TO finetune_admin;

CREATE FUNCTION _texts(dataset uuid, hashes text[]) RETURNS TABLE (content text)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT e.chunk_content FROM unnest(hashes) WITH ORDINALITY h (hash, place)
        JOIN (SELECT DISTINCT ON (x.content_hash) x.content_hash, x.chunk_content FROM @extschema@.dataset_example x
              WHERE x.dataset_id = dataset ORDER BY x.content_hash) e ON e.content_hash = decode(h.hash, 'hex')
        ORDER BY h.place;
END $$;
COMMENT ON FUNCTION _texts(uuid, text[]) IS 'pg_finetune private: texts of a dataset by the hex of their hash, in the given order';
REVOKE ALL ON FUNCTION _texts(uuid, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _texts(uuid, text[]) TO finetune_admin;

CREATE FUNCTION _save_evaluation(model text, evaluation jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @extschema@.model_evaluation v WHERE v.model_id = model AND v.against = 'base';
    INSERT INTO @extschema@.model_evaluation
    SELECT r.* FROM jsonb_populate_record(NULL::@extschema@.model_evaluation,
        evaluation || jsonb_build_object('model_id', model, 'against', 'base', 'evaluated_at', clock_timestamp())) r;
END $$;
COMMENT ON FUNCTION _save_evaluation(text, jsonb) IS 'pg_finetune private: the verdict of evaluate_model(), in place of an earlier one';
REVOKE ALL ON FUNCTION _save_evaluation(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _save_evaluation(text, jsonb) TO finetune_admin;

CREATE PROCEDURE evaluate_model(model text, max_texts integer DEFAULT 20000)
    LANGUAGE c AS 'MODULE_PATHNAME', 'evaluate_model_wrapper';
COMMENT ON PROCEDURE evaluate_model(text, integer) IS
    'The gate for an embedding model that stands at a provider: asks there for the vectors of the dataset''s texts (at most max_texts, of whole users), compares them with the stored ones on newest actions, writes model_evaluation and says the verdict. CALL it outside a transaction block';
GRANT EXECUTE ON PROCEDURE evaluate_model(text, integer) TO finetune_admin;
