-- Prices as quoted at a date: rows to begin with. A row for a server by its own name comes before these.

CREATE FUNCTION _price_row(provider text, base_model text) RETURNS provider_price
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN (SELECT p
            FROM @extschema@.provider_price p
            LEFT JOIN pg_foreign_server s ON s.srvname = _price_row.provider
            LEFT JOIN LATERAL (SELECT o.option_value AS host FROM pg_options_to_table(s.srvoptions) o WHERE o.option_name = 'base_url') u ON true
            WHERE (p.provider = _price_row.provider OR u.host LIKE '%//' || p.provider || '/%')
              AND (p.base_model = _price_row.base_model
                   OR p.provider <> _price_row.provider AND _price_row.base_model LIKE p.base_model || '-20%')
            ORDER BY p.provider = _price_row.provider DESC, length(p.base_model) DESC LIMIT 1);
COMMENT ON FUNCTION _price_row(text, text) IS 'pg_finetune private: the row of provider_price that counts: one of the server''s own name, else of its host; dated versions of a model cost what the model costs';
REVOKE ALL ON FUNCTION _price_row(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _price_row(text, text) TO finetune_analyst, finetune_admin;

CREATE FUNCTION _price(provider text, base_model text) RETURNS numeric
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN (@extschema@._price_row(provider, base_model)).usd_per_million_training_tokens;
COMMENT ON FUNCTION _price(text, text) IS 'pg_finetune private: USD per million training tokens from provider_price, NULL = not known';
REVOKE ALL ON FUNCTION _price(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _price(text, text) TO finetune_analyst, finetune_admin;

CREATE FUNCTION _default_epochs(protocol text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE protocol WHEN 'openai' THEN 3 WHEN 'bedrock' THEN 2 ELSE 1 END;
COMMENT ON FUNCTION _default_epochs(text) IS 'pg_finetune private: passes over the training file that a provider makes unless told otherwise';
REVOKE ALL ON FUNCTION _default_epochs(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _default_epochs(text) TO finetune_analyst, finetune_admin;

CREATE FUNCTION _count_training_tokens(dataset text, options text[], model text, method text,
    OUT training_rows bigint, OUT tokens bigint, OUT counted text, OUT told boolean)
RETURNS SETOF record LANGUAGE c STABLE STRICT PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'count_training_tokens_wrapper';
COMMENT ON FUNCTION _count_training_tokens(text, text[], text, text) IS 'pg_finetune private: rows and tokens of the training file that a job would upload, how they were counted, and whether the provider tells a price of its own before the start';
REVOKE ALL ON FUNCTION _count_training_tokens(text, text[], text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _count_training_tokens(text, text[], text, text) TO finetune_analyst, finetune_admin;

CREATE FUNCTION estimate_cost(
    dataset text, provider text DEFAULT 'builtin', model text DEFAULT 'base', INOUT epochs integer DEFAULT NULL, method text DEFAULT NULL,
    OUT training_rows bigint, OUT tokens bigint, OUT counted text, OUT usd_per_million_tokens numeric, OUT usd numeric, OUT note text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_dataset  text;
    v_protocol text;
    v_price    @extschema@.provider_price;
    v_told     boolean;
BEGIN
    PERFORM @extschema@._require_role('estimate_cost', 'finetune_analyst');
    IF epochs < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('epochs must be 1 or more, not %s', epochs),
            DETAIL = 'They are passes over the training file, and each is paid for.', HINT = 'Leave it out for the number that the provider chooses.';
    END IF;
    SELECT d.name || ':' || d.version INTO v_dataset FROM @extschema@.dataset d WHERE d.id = @extschema@._dataset_id(estimate_cost.dataset);
    IF provider = 'builtin' THEN
        usd := 0;
        note := 'the built-in trainer costs nothing but processor time of this server';
        RETURN;
    END IF;
    v_protocol := @extschema@._protocol_of(provider);
    epochs := COALESCE(epochs, @extschema@._default_epochs(v_protocol));
    SELECT c.training_rows, c.tokens, c.counted, c.told INTO training_rows, tokens, counted, v_told
    FROM pg_foreign_server s
    CROSS JOIN LATERAL @extschema@._count_training_tokens(v_dataset, s.srvoptions, model, COALESCE(estimate_cost.method, '')) c
    WHERE s.srvname = provider;
    v_price := @extschema@._price_row(provider, model);
    usd_per_million_tokens := v_price.usd_per_million_training_tokens;
    usd := round(tokens::numeric * epochs * usd_per_million_tokens / 1000000, 4);
    note := concat_ws('; ',
        CASE WHEN usd IS NULL THEN format('not known: no row of provider_price names model "%s" for provider "%s"', model, provider)
             ELSE format('price as of %s, quoted from: %s', v_price.as_of, v_price.quoted_from) END,
        CASE WHEN v_told THEN 'the provider tells its own price once it has the file, before the start: max_usd is held against that' END);
END $$;
COMMENT ON FUNCTION estimate_cost(text, text, text, integer, text) IS
    'What a job would cost before it is submitted: tokens of its training file x epochs x provider_price; usd is NULL, with the reason in note, where nobody knows. Sends nothing';
GRANT EXECUTE ON FUNCTION estimate_cost(text, text, text, integer, text) TO finetune_analyst, finetune_admin;

INSERT INTO provider_price (provider, base_model, usd_per_million_training_tokens, as_of, quoted_from) VALUES
    ('api.openai.com', 'gpt-4.1',      25,   '2026-11-22', 'two public cost scripts of 2026; not confirmed by the vendor'),
    ('api.openai.com', 'gpt-4.1-mini',  5,   '2026-11-22', 'two public cost scripts of 2026; not confirmed by the vendor'),
    ('api.openai.com', 'gpt-4.1-nano',  1.5, '2026-11-22', 'two public cost scripts of 2026; not confirmed by the vendor'),
    ('api.openai.com', 'gpt-4o',       25,   '2026-11-22', 'a public cost script of 2026; not confirmed by the vendor');
