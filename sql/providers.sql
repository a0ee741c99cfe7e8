-- Providers are foreign servers, so that Postgres' own grants decide who may use them and who sees a key.

CREATE FUNCTION _validate_provider(options text[], catalog oid) RETURNS void
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'validate_provider_wrapper';
COMMENT ON FUNCTION _validate_provider(text[], oid) IS 'pg_finetune private: checks the options of CREATE SERVER and CREATE USER MAPPING by name, place and value; never prints a secret';
REVOKE ALL ON FUNCTION _validate_provider(text[], oid) FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER pg_finetune VALIDATOR _validate_provider;
COMMENT ON FOREIGN DATA WRAPPER pg_finetune IS 'providers of fine-tuning: CREATE SERVER name FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol ''openai'', base_url ''https://...'')';
GRANT USAGE ON FOREIGN DATA WRAPPER pg_finetune TO finetune_admin;

CREATE FUNCTION _provider_origin(options text[]) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'provider_origin_wrapper';
COMMENT ON FUNCTION _provider_origin(text[]) IS 'pg_finetune private: scheme, host and port of everything that a server with these options sends its key to';
REVOKE ALL ON FUNCTION _provider_origin(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _provider_origin(text[]) TO finetune_admin;

CREATE FUNCTION _check_key_origin(provider text, role text, origin text) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_owner  text := CASE WHEN EXISTS (SELECT 1 FROM pg_user_mappings m WHERE m.srvname = provider AND m.usename = role) THEN role ELSE 'public' END;
    v_origin text;
BEGIN
    SELECT k.origin INTO v_origin FROM @extschema@.key_origin k WHERE k.provider = _check_key_origin.provider AND k.owner = v_owner;
    IF v_origin IS DISTINCT FROM _check_key_origin.origin THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('the key of "%s" for provider "%s" was stored for %s, its address is now %s', v_owner, provider,
                             COALESCE(v_origin, 'a server of another name'), _check_key_origin.origin),
            DETAIL = 'A key is sent to no other scheme, host or port than the provider had when its user mapping was written.',
            HINT = format('If the key may go there, its owner says so: ALTER USER MAPPING FOR %s SERVER %I OPTIONS (SET ...); else ALTER SERVER back.',
                          CASE v_owner WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(v_owner) END, provider);
    END IF;
END $$;
COMMENT ON FUNCTION _check_key_origin(text, text, text) IS 'pg_finetune private: ERROR 42501 when the key that a role would use was stored for another scheme, host or port';
REVOKE ALL ON FUNCTION _check_key_origin(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_key_origin(text, text, text) TO finetune_admin;

CREATE FUNCTION _bind_key() RETURNS event_trigger
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.key_origin (provider, owner, origin)
    SELECT s.srvname, COALESCE(r.rolname, 'public'), @extschema@._provider_origin(s.srvoptions)
    FROM pg_event_trigger_ddl_commands() c
    JOIN pg_user_mapping m ON c.classid = 'pg_user_mapping'::regclass AND m.oid = c.objid
    JOIN pg_foreign_server s ON s.oid = m.umserver
    JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'pg_finetune'
    LEFT JOIN pg_roles r ON r.oid = m.umuser
    ON CONFLICT ON CONSTRAINT key_origin_pkey DO UPDATE SET origin = excluded.origin, stored_at = excluded.stored_at;
END $$;
COMMENT ON FUNCTION _bind_key() IS 'pg_finetune private: a key may go where its provider is at the moment in which the key is written';
REVOKE ALL ON FUNCTION _bind_key() FROM PUBLIC;

CREATE EVENT TRIGGER pg_finetune_key_origin ON ddl_command_end WHEN TAG IN ('CREATE USER MAPPING', 'ALTER USER MAPPING') EXECUTE FUNCTION _bind_key();
COMMENT ON EVENT TRIGGER pg_finetune_key_origin IS 'binds the key of a provider to the address that the provider has when the key is written';

CREATE PROCEDURE check_provider(provider text)
    LANGUAGE c AS 'MODULE_PATHNAME', 'check_provider_wrapper';
COMMENT ON PROCEDURE check_provider(text) IS 'Asks a provider for its list of models with the caller''s key and says in a NOTICE what came back; CALL it outside a transaction block';
GRANT EXECUTE ON PROCEDURE check_provider(text) TO finetune_admin;
