-- Prices as quoted at a date: rows to begin with. A row for a server by its own name comes before these.

CREATE FUNCTION _price(provider text, base_model text) RETURNS numeric
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN (SELECT p.usd_per_million_training_tokens
            FROM @extschema@.provider_price p
            LEFT JOIN pg_foreign_server s ON s.srvname = _price.provider
            LEFT JOIN LATERAL (SELECT o.option_value AS host FROM pg_options_to_table(s.srvoptions) o WHERE o.option_name = 'base_url') u ON true
            WHERE p.usd_per_million_training_tokens IS NOT NULL AND (p.provider = _price.provider OR u.host LIKE '%//' || p.provider || '/%')
              AND (p.base_model = _price.base_model
                   OR p.provider <> _price.provider AND _price.base_model LIKE p.base_model || '-20%')
            ORDER BY p.provider = _price.provider DESC, length(p.base_model) DESC LIMIT 1);
COMMENT ON FUNCTION _price(text, text) IS 'pg_finetune private: USD per million training tokens from provider_price: a row of the server''s own name, else of its host; dated versions of a model cost what the model costs';
REVOKE ALL ON FUNCTION _price(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _price(text, text) TO finetune_analyst, finetune_admin;

INSERT INTO provider_price (provider, base_model, usd_per_million_training_tokens, as_of, quoted_from) VALUES
    ('api.openai.com', 'gpt-4.1',      25,   '2026-11-22', 'two public cost scripts of 2026; not confirmed by the vendor'),
    ('api.openai.com', 'gpt-4.1-mini',  5,   '2026-11-22', 'two public cost scripts of 2026; not confirmed by the vendor'),
    ('api.openai.com', 'gpt-4.1-nano',  1.5, '2026-11-22', 'two public cost scripts of 2026; not confirmed by the vendor'),
    ('api.openai.com', 'gpt-4o',       25,   '2026-11-22', 'a public cost script of 2026; not confirmed by the vendor');
