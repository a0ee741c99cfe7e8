-- Datasets, outside: triplets for contrastive training, JSON lines for trainers and providers, the words of the chat formats.

CREATE FUNCTION contrastive_triplets(
    dataset text, per_positive integer DEFAULT 4, mining text DEFAULT 'hard', split text DEFAULT 'train', seed bigint DEFAULT 42,
    range_min integer DEFAULT 10, range_max integer DEFAULT 50, relative_margin double precision DEFAULT 0.05,
    absolute_margin double precision DEFAULT NULL, max_score double precision DEFAULT 0.95, min_score double precision DEFAULT NULL,
    sampling text DEFAULT 'top', max_per_user integer DEFAULT NULL, own_skips boolean DEFAULT true,
    OUT user_id text, OUT anchor_id text, OUT positive_id text, OUT negative_id text,
    OUT anchor text, OUT positive text, OUT negative text, OUT mined boolean)
RETURNS SETOF record LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100000 AS 'MODULE_PATHNAME', 'contrastive_triplets_wrapper';
COMMENT ON FUNCTION contrastive_triplets IS 'Triplets of texts: anchor = another save of the same user, positive = a save, negative = a skip of the same user and surface or (mined) a text of others; SELECT contrastive_triplets(...) streams, in FROM Postgres gathers all rows first. The built-in trainer does not use them: its anchors are whole profiles, which have no text';
GRANT EXECUTE ON FUNCTION contrastive_triplets TO finetune_analyst, finetune_admin;

CREATE FUNCTION triplet_plan(dataset text, split text DEFAULT 'train', range_max integer DEFAULT 50)
RETURNS SETOF text LANGUAGE c STABLE STRICT PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'triplet_plan_wrapper';
COMMENT ON FUNCTION triplet_plan IS 'How contrastive_triplets() would look for mined negatives: by which index, or by exact search over how many texts, with the plan of one look-up';
GRANT EXECUTE ON FUNCTION triplet_plan TO finetune_analyst, finetune_admin;

CREATE FUNCTION export_jsonl(dataset text, format text DEFAULT 'triplet', split text DEFAULT 'train', template text DEFAULT 'default')
RETURNS SETOF text LANGUAGE c STABLE STRICT PARALLEL UNSAFE ROWS 100000 AS 'MODULE_PATHNAME', 'export_jsonl_wrapper';
COMMENT ON FUNCTION export_jsonl IS 'A dataset as lines of JSON for trainers and providers; formats: triplet, pair, cohere_rerank, openai_chat, openai_dpo, bedrock_converse, anthropic, raw. Streams in the select list; docs/datasets.md shows how to write it to a file';
GRANT EXECUTE ON FUNCTION export_jsonl TO finetune_analyst, finetune_admin;

CREATE FUNCTION _default_template(OUT system_message text, OUT user_message text, OUT saved_answer text, OUT skipped_answer text)
RETURNS SETOF record LANGUAGE c IMMUTABLE PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', 'default_template_wrapper';
COMMENT ON FUNCTION _default_template IS 'pg_finetune private: the built-in words of the chat formats';
REVOKE ALL ON FUNCTION _default_template FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _default_template TO finetune_analyst, finetune_admin;

CREATE FUNCTION _check_template(field text, template text) RETURNS void
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_template_wrapper';
COMMENT ON FUNCTION _check_template IS 'pg_finetune private: refuses a template with an unknown placeholder or without what it must hold';
REVOKE ALL ON FUNCTION _check_template FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_template TO finetune_admin;

CREATE FUNCTION set_export_template(name text DEFAULT 'default', system_message text DEFAULT NULL, user_message text DEFAULT NULL,
    saved_answer text DEFAULT NULL, skipped_answer text DEFAULT NULL)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('set_export_template', 'finetune_admin');
    IF coalesce(name, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an export template needs a name',
            DETAIL = 'The words called ''default'' serve wherever no other name is given.', HINT = 'SELECT set_export_template(''default'', ...);';
    END IF;
    PERFORM @extschema@._check_template('system_message', system_message), @extschema@._check_template('user_message', user_message),
            @extschema@._check_template('saved_answer', saved_answer), @extschema@._check_template('skipped_answer', skipped_answer);
    INSERT INTO @extschema@.export_template AS t (name, system_message, user_message, saved_answer, skipped_answer)
    SELECT set_export_template.name, coalesce(set_export_template.system_message, d.system_message), coalesce(set_export_template.user_message, d.user_message),
           coalesce(set_export_template.saved_answer, d.saved_answer), coalesce(set_export_template.skipped_answer, d.skipped_answer)
    FROM @extschema@._default_template() d
    ON CONFLICT ON CONSTRAINT export_template_pkey DO UPDATE SET
        system_message = coalesce(set_export_template.system_message, t.system_message), user_message = coalesce(set_export_template.user_message, t.user_message),
        saved_answer = coalesce(set_export_template.saved_answer, t.saved_answer), skipped_answer = coalesce(set_export_template.skipped_answer, t.skipped_answer);
END
$$;
COMMENT ON FUNCTION set_export_template IS 'Sets the words of the chat formats; what is left out stays as it is. Placeholders: {saves} {context} {text} in user_message, {action} {reason} in the answers. DELETE FROM export_template brings the built-in words back';
GRANT EXECUTE ON FUNCTION set_export_template TO finetune_admin;
