-- The gate for models that stand at a provider. Who computes the verdict stands in src/worker/evaluation.rs and chat_evaluation.rs.

CREATE FUNCTION _model_to_evaluate(model text, OUT provider text, OUT provider_model text, OUT method text, OUT dataset_id uuid, OUT seed bigint)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_model(model);
    SELECT m.provider, m.provider_model, m.method, m.dataset_id, j.seed INTO provider, provider_model, method, dataset_id, seed
    FROM @extschema@.model m LEFT JOIN @extschema@.fine_tuning_job j ON j.id = m.job_id
    WHERE m.id = model AND m.method IN ('contrastive', 'sft', 'dpo');
    IF provider_model IS NULL OR dataset_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('model "%s" does not answer at a provider', model),
            DETAIL = 'Models of the built-in trainer are judged when they are trained; others need a name at their provider and a dataset to be judged on.',
            HINT = format('SELECT * FROM @extschema@.model_evaluation WHERE model_id = %L;', model);
    END IF;
    seed := COALESCE(seed, 42);
END $$;
COMMENT ON FUNCTION _model_to_evaluate(text) IS 'pg_finetune private: where a model answers and on what it is judged; ERROR 0A000 for a model that does not';
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

CREATE FUNCTION _save_evaluation(model text, against text, evaluation jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @extschema@.model_evaluation v WHERE v.model_id = model AND v.against = _save_evaluation.against;
    INSERT INTO @extschema@.model_evaluation
    SELECT r.* FROM jsonb_populate_record(NULL::@extschema@.model_evaluation,
        evaluation || jsonb_build_object('model_id', model, 'against', against, 'evaluated_at', clock_timestamp())) r;
END $$;
COMMENT ON FUNCTION _save_evaluation(text, text, jsonb) IS 'pg_finetune private: a verdict of evaluate_model(), in place of an earlier one';
REVOKE ALL ON FUNCTION _save_evaluation(text, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _save_evaluation(text, text, jsonb) TO finetune_admin;

CREATE FUNCTION _token_price(provider text, model text, tuned_from text, OUT input numeric, OUT output numeric)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT p.usd_per_million_input_tokens, p.usd_per_million_output_tokens INTO input, output
    FROM @extschema@.provider_price p
    LEFT JOIN pg_foreign_server s ON s.srvname = _token_price.provider
    LEFT JOIN LATERAL (SELECT o.option_value AS host FROM pg_options_to_table(s.srvoptions) o WHERE o.option_name = 'base_url') u ON true
    WHERE (p.provider = _token_price.provider OR u.host LIKE '%//' || p.provider || '/%')
      AND p.usd_per_million_input_tokens IS NOT NULL
      AND (p.base_model IN (model, 'ft:' || tuned_from, tuned_from)
           OR p.provider <> _token_price.provider AND COALESCE(tuned_from, model) LIKE p.base_model || '-20%')
    ORDER BY p.provider = _token_price.provider DESC, p.base_model = model DESC, p.base_model = 'ft:' || tuned_from DESC NULLS LAST, length(p.base_model) DESC
    LIMIT 1;
END $$;
COMMENT ON FUNCTION _token_price(text, text, text) IS 'pg_finetune private: USD per million tokens read and written: a row of the server''s own name, else of its host; of the model, else of ft:BASE, else of what it was tuned from';
REVOKE ALL ON FUNCTION _token_price(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _token_price(text, text, text) TO finetune_admin;

CREATE FUNCTION _chat_contestants(model text) RETURNS TABLE (role text, against text, provider text, answered_by text, input numeric, output numeric)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT c.role, c.against, c.provider, c.answered_by, p.input, p.output
        FROM @extschema@.model m
        LEFT JOIN @extschema@.model live ON live.id = @extschema@.served_at(NULL) AND live.id <> m.id
             AND live.method IN ('sft', 'dpo') AND live.provider_model IS NOT NULL
        CROSS JOIN LATERAL (VALUES (1, 'model', NULL, m.provider, m.provider_model, m.base_model),
                                   (2, 'base', 'base', m.provider, m.base_model, NULL),
                                   (3, 'live', live.id, live.provider, live.provider_model, live.base_model))
             c (place, role, against, provider, answered_by, tuned_from)
        CROSS JOIN LATERAL @extschema@._token_price(c.provider, c.answered_by, c.tuned_from) p
        WHERE m.id = model AND c.answered_by IS NOT NULL
        ORDER BY c.place;
END $$;
COMMENT ON FUNCTION _chat_contestants(text) IS 'pg_finetune private: a chat model, what it was tuned from, and the chat model that serves, with what their tokens cost';
REVOKE ALL ON FUNCTION _chat_contestants(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _chat_contestants(text) TO finetune_admin;

CREATE FUNCTION _known_answers(dataset uuid, provider text, answered_by text, users text[], examples text[]) RETURNS SETOF chat_answer
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT a.* FROM ROWS FROM (unnest(users), unnest(examples)) w (user_id, example_id)
        JOIN @extschema@.chat_answer a ON a.user_id = w.user_id AND a.example_id = w.example_id AND a.dataset_id = dataset
             AND a.provider = _known_answers.provider AND a.answered_by = _known_answers.answered_by;
END $$;
COMMENT ON FUNCTION _known_answers(uuid, text, text, text[], text[]) IS 'pg_finetune private: what a model has answered about these examples before';
REVOKE ALL ON FUNCTION _known_answers(uuid, text, text, text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _known_answers(uuid, text, text, text[], text[]) TO finetune_admin;

CREATE FUNCTION _keep_answers(dataset uuid, answers jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.chat_answer AS a
    SELECT r.* FROM jsonb_array_elements(answers) e
    CROSS JOIN LATERAL jsonb_populate_record(NULL::@extschema@.chat_answer,
        e || jsonb_build_object('dataset_id', dataset, 'answered_at', clock_timestamp())) r
    -- Somebody may have been forgotten while the question was under way.
    WHERE NOT @extschema@._is_forgotten(r.user_id)
    ON CONFLICT ON CONSTRAINT chat_answer_pkey DO UPDATE
    SET question = excluded.question, label = excluded.label, answer = excluded.answer, prompt_tokens = excluded.prompt_tokens,
        completion_tokens = excluded.completion_tokens, usd = excluded.usd, answered_at = excluded.answered_at;
END $$;
COMMENT ON FUNCTION _keep_answers(uuid, jsonb) IS 'pg_finetune private: writes answers down as they come';
REVOKE ALL ON FUNCTION _keep_answers(uuid, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _keep_answers(uuid, jsonb) TO finetune_admin;

CREATE FUNCTION _save_chat_evaluation(model text, sheet jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @extschema@.chat_evaluation v WHERE v.model_id = model AND v.role = sheet ->> 'role';
    INSERT INTO @extschema@.chat_evaluation
    SELECT r.* FROM jsonb_populate_record(NULL::@extschema@.chat_evaluation,
        sheet || jsonb_build_object('model_id', model, 'evaluated_at', clock_timestamp())) r;
END $$;
COMMENT ON FUNCTION _save_chat_evaluation(text, jsonb) IS 'pg_finetune private: counts behind a verdict on a chat model, in place of earlier ones';
REVOKE ALL ON FUNCTION _save_chat_evaluation(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _save_chat_evaluation(text, jsonb) TO finetune_admin;

CREATE PROCEDURE evaluate_model(model text, max_texts integer DEFAULT NULL, max_usd numeric DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'evaluate_model_wrapper';
COMMENT ON PROCEDURE evaluate_model(text, integer, numeric) IS
    'The gate for a model that stands at a provider. An embedding model is asked for the vectors of the dataset''s texts (at most max_texts, 20,000 unless given, of whole users), which are compared with the stored ones; a chat model and the one it was tuned from are asked about held-out rows (at most max_texts, 1,000 unless given) and stop before max_usd is exceeded. Writes model_evaluation and says the verdict; called again it goes on where it was. CALL it outside a transaction block';
GRANT EXECUTE ON PROCEDURE evaluate_model(text, integer, numeric) TO finetune_admin;
