-- Who may read and write tables and views. Functions carry their grants beside their definition.

DO $grants$
DECLARE
    relation regclass;
BEGIN
    FOR relation IN
        SELECT c.oid FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid OPERATOR(pg_catalog.=) c.oid
        JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid AND e.extname OPERATOR(pg_catalog.=) 'pg_finetune'
        WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
          AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'v']::"char"[])
    LOOP
        EXECUTE pg_catalog.format('GRANT SELECT ON %s TO finetune_analyst', relation);
        EXECUTE pg_catalog.format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO finetune_admin', relation);
    END LOOP;
END
$grants$;

GRANT USAGE ON ALL SEQUENCES IN SCHEMA @extschema@ TO finetune_admin;
GRANT SELECT ON experiment, experiment_phase, experiment_arm, experiment_pin, experiment_layer, experiment_holdout, model, deployment, reembedding TO finetune_app;
