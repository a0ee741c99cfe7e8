-- Who may take part at all: layers, which share users out among experiments, and the holdout, who are in none.

CREATE FUNCTION create_layer(name text, unit text DEFAULT 'user_id', seed text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('create_layer', 'finetune_admin');
    IF name IS NULL OR name = '' OR EXISTS (SELECT FROM @extschema@.experiment_layer l WHERE l.name = create_layer.name) THEN
        RAISE EXCEPTION USING
            ERRCODE = CASE WHEN name <> '' THEN 'duplicate_object' ELSE 'invalid_parameter_value' END,
            MESSAGE = CASE WHEN name <> '' THEN format('layer "%s" already exists', name) ELSE 'a layer needs a name' END,
            DETAIL = 'Experiments name the layer that they share users in.',
            HINT = 'SELECT name, unit FROM @extschema@.experiment_layer;';
    END IF;
    PERFORM @extschema@._check_counting(coalesce(unit, 'user_id'), NULL, 'impression');
    INSERT INTO @extschema@.experiment_layer (name, seed, unit)
    VALUES (name, coalesce(seed, replace(gen_random_uuid()::text, '-', '')), coalesce(unit, 'user_id'));
    RETURN name;
END
$$;
COMMENT ON FUNCTION create_layer IS 'Makes a group of experiments of which each user is in at most one; returns its name';
GRANT EXECUTE ON FUNCTION create_layer TO finetune_admin;

CREATE FUNCTION _layer_share(layer text, unit text, share double precision) RETURNS int4multirange
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    drawn text; -- what the layer draws
    free int4multirange;
    wanted integer := round(share * 10000);
    taken int4multirange := '{}';
    gap int4range;
BEGIN
    IF layer IS NULL THEN
        RETURN NULL;
    END IF;
    -- Two experiments that start at once must not get the same buckets.
    SELECT l.unit INTO drawn FROM @extschema@.experiment_layer l WHERE l.name = layer FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('layer "%s" does not exist', layer),
            DETAIL = 'A layer is made before the experiments that share its users.',
            HINT = format('SELECT @extschema@.create_layer(%L);', layer);
    ELSIF drawn IS DISTINCT FROM unit THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('layer "%s" draws by "%s", the experiment by "%s"', layer, drawn, unit),
            DETAIL = 'With different units, one user could be in two experiments of the layer.',
            HINT = format('Give unit => %L, or another layer.', drawn);
    END IF;
    SELECT '{[0,10000)}'::int4multirange - coalesce(range_agg(e.layer_buckets), '{}') INTO free
    FROM @extschema@.experiment e WHERE e.layer = _layer_share.layer AND e.status = 'running';
    IF wanted IS NULL OR wanted < 1 OR wanted > (SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(free) r) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('layer "%s" cannot give %s of its users', layer, coalesce(share::text, 'NULL')),
            DETAIL = format('Free is %s of it; each running experiment has a share of its own.',
                            (SELECT coalesce(sum(upper(r) - lower(r)), 0) / 10000.0 FROM unnest(free) r)::float8),
            HINT = 'Give layer_share => a share that is free, or stop another experiment of the layer.';
    END IF;
    FOR gap IN SELECT r FROM unnest(free) r ORDER BY r LOOP
        taken := taken + int4multirange(int4range(lower(gap), least(upper(gap), lower(gap) + wanted)));
        wanted := wanted - (least(upper(gap), lower(gap) + wanted) - lower(gap));
        EXIT WHEN wanted = 0;
    END LOOP;
    RETURN taken;
END
$$;
COMMENT ON FUNCTION _layer_share IS 'pg_finetune private: buckets of a layer that no running experiment has, lowest first';
REVOKE ALL ON FUNCTION _layer_share FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _layer_share TO finetune_admin;

CREATE FUNCTION set_holdout(share double precision, model text DEFAULT 'base') RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last record;
BEGIN
    PERFORM @extschema@._require_role('set_holdout', 'finetune_admin');
    IF share IS NULL OR NOT share BETWEEN 0 AND 1 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('holdout %s is not between 0 and 1', coalesce(share::text, 'NULL')),
            DETAIL = 'It is the share of all users who are in no experiment.',
            HINT = '0.01 to 0.05 is usual; 0 ends the holdout.';
    END IF;
    PERFORM @extschema@._require_model(model);
    LOCK TABLE @extschema@.experiment_holdout IN SHARE ROW EXCLUSIVE MODE;
    SELECT h.period, h.seed INTO last FROM @extschema@.experiment_holdout h ORDER BY h.period DESC LIMIT 1;
    UPDATE @extschema@.experiment_holdout h SET valid_to = greatest(now(), h.valid_from) WHERE h.valid_to IS NULL;
    -- The same seed for good: a larger holdout keeps who is in it.
    INSERT INTO @extschema@.experiment_holdout (period, seed, share, buckets, model_id)
    VALUES (coalesce(last.period, 0) + 1, coalesce(last.seed, replace(gen_random_uuid()::text, '-', '')), share,
            int4multirange(int4range(0, round(share * 10000)::integer)), model);
    RETURN coalesce(last.period, 0) + 1;
END
$$;
COMMENT ON FUNCTION set_holdout IS 'Keeps a share of all users out of every experiment and on one model, to see what all changes together bring; returns the number of the period';
GRANT EXECUTE ON FUNCTION set_holdout TO finetune_admin;
