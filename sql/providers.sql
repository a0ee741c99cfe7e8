-- Providers are foreign servers, so that Postgres' own grants decide who may use them and who sees a key.

CREATE FUNCTION _validate_provider(options text[], catalog oid) RETURNS void
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'validate_provider_wrapper';
COMMENT ON FUNCTION _validate_provider(text[], oid) IS 'pg_finetune private: checks the options of CREATE SERVER and CREATE USER MAPPING by name, place and value; never prints a secret';
REVOKE ALL ON FUNCTION _validate_provider(text[], oid) FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER pg_finetune VALIDATOR _validate_provider;
COMMENT ON FOREIGN DATA WRAPPER pg_finetune IS 'providers of fine-tuning: CREATE SERVER name FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol ''openai'', base_url ''https://...'')';
GRANT USAGE ON FOREIGN DATA WRAPPER pg_finetune TO finetune_admin;

CREATE PROCEDURE check_provider(provider text)
    LANGUAGE c AS 'MODULE_PATHNAME', 'check_provider_wrapper';
COMMENT ON PROCEDURE check_provider(text) IS 'Asks a provider for its list of models with the caller''s key and says in a NOTICE what came back; CALL it outside a transaction block';
GRANT EXECUTE ON PROCEDURE check_provider(text) TO finetune_admin;
