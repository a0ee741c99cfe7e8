-- Preconditions and roles. Runs first; everything after it may assume UTF8 and the three roles.

DO $preamble$
BEGIN
    IF pg_catalog.current_setting('server_encoding') OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = pg_catalog.format('pg_finetune needs a UTF8 database, this one is %s',
                                        pg_catalog.current_setting('server_encoding')),
            DETAIL = 'Variants are computed from the UTF-8 bytes of user ids: in another encoding the same user would get another variant.',
            HINT = 'CREATE DATABASE ... ENCODING ''UTF8'' TEMPLATE template0, and install pg_finetune there.';
    END IF;
END
$preamble$;

DO $roles$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['finetune_app', 'finetune_analyst', 'finetune_admin'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) role_name) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database of this server installs at the same moment
            END;
        END IF;
    END LOOP;
END
$roles$;

COMMENT ON ROLE finetune_app IS 'pg_finetune: may ask for variants and query vectors, and log signals';
COMMENT ON ROLE finetune_analyst IS 'pg_finetune: may read everything but other people''s job secrets, and call metric functions';
COMMENT ON ROLE finetune_admin IS 'pg_finetune: may attach captures, freeze datasets, run jobs, experiments and schedules';
GRANT finetune_app, finetune_analyst TO finetune_admin;

GRANT USAGE ON SCHEMA @extschema@ TO finetune_app, finetune_analyst, finetune_admin;
