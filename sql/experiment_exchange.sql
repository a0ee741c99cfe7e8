-- Experiments as other systems describe them: out to GrowthBook's SDKs, in from a GrowthBook experiment.

CREATE FUNCTION export_growthbook(experiment text) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    exported jsonb;
BEGIN
    PERFORM @extschema@._require_role('export_growthbook', 'finetune_app', 'finetune_analyst');
    SELECT jsonb_build_object(
               'key', e.name, 'seed', p.seed, 'hashVersion', e.hash_version,
               'hashAttribute', CASE e.unit WHEN 'user_id' THEN 'id' ELSE e.unit END,
               'active', e.status = 'running', 'phase', p.phase::text,
               -- Coverage is in the ranges already. An arm of several ranges becomes several variations of one value.
               'variations', jsonb_agg(to_jsonb(a.variant) ORDER BY a.ordinal, r.start),
               'weights', jsonb_agg(to_jsonb(CASE WHEN r.start IS NOT DISTINCT FROM lower(a.buckets) THEN a.weight ELSE 0 END) ORDER BY a.ordinal, r.start),
               'ranges', jsonb_agg(jsonb_build_array(coalesce(r.start, 0) / 10000::float8, coalesce(r.finish, 0) / 10000::float8) ORDER BY a.ordinal, r.start),
               'meta', jsonb_agg(jsonb_build_object('key', a.variant, 'name', a.model_id) ORDER BY a.ordinal, r.start))
           || coalesce(@extschema@._growthbook_filters(e.name), '{}')
    INTO exported
    FROM @extschema@.experiment e
    JOIN @extschema@.experiment_phase p ON p.experiment = e.name
    JOIN @extschema@.experiment_arm a ON a.experiment = p.experiment AND a.phase = p.phase
    LEFT JOIN LATERAL (SELECT lower(x), upper(x) FROM unnest(a.buckets) x) r (start, finish) ON true
    WHERE e.name = export_growthbook.experiment
      AND p.phase = (SELECT max(l.phase) FROM @extschema@.experiment_phase l WHERE l.experiment = e.name)
    GROUP BY e.name, p.phase, p.seed;
    IF exported IS NULL THEN
        PERFORM @extschema@._unknown_experiment(experiment);
    END IF;
    RETURN exported;
END
$$;
COMMENT ON FUNCTION export_growthbook(text) IS 'The experiment as GrowthBook''s SDKs take it: they compute the same variant from the same user id (attribute "id")';
GRANT EXECUTE ON FUNCTION export_growthbook(text) TO finetune_app, finetune_analyst;

CREATE FUNCTION _growthbook_filters(experiment text) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT jsonb_build_object('filters', jsonb_agg(jsonb_build_object(
                   'seed', g.seed, 'hashVersion', 2, 'attribute', CASE e.unit WHEN 'user_id' THEN 'id' ELSE e.unit END,
                   'ranges', (SELECT coalesce(jsonb_agg(jsonb_build_array(lower(r) / 10000::float8, upper(r) / 10000::float8) ORDER BY r), '[]')
                              FROM unnest(g.inside) r))))
        FROM @extschema@.experiment e
        CROSS JOIN LATERAL (
            SELECT h.seed, '{[0,10000)}'::int4multirange - h.buckets FROM @extschema@.experiment_holdout h WHERE h.valid_to IS NULL
            UNION ALL
            SELECT l.seed, e.layer_buckets FROM @extschema@.experiment_layer l WHERE l.name = e.layer) g (seed, inside)
        WHERE e.name = _growthbook_filters.experiment
        HAVING count(*) > 0);
END
$$;
COMMENT ON FUNCTION _growthbook_filters IS 'pg_finetune private: holdout and layer as the SDKs'' filters';
REVOKE ALL ON FUNCTION _growthbook_filters FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _growthbook_filters TO finetune_app, finetune_analyst;

CREATE FUNCTION export_growthbook() RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('export_growthbook', 'finetune_app', 'finetune_analyst');
    RETURN (
        SELECT jsonb_build_object('features', coalesce(jsonb_object_agg(e.name,
                   jsonb_build_object('defaultValue', 'base', 'rules', jsonb_build_array(x - 'active'))), '{}'))
        FROM @extschema@.experiment e
        CROSS JOIN LATERAL @extschema@.export_growthbook(e.name) x
        WHERE e.status = 'running');
END
$$;
COMMENT ON FUNCTION export_growthbook() IS 'All running experiments as the features of a GrowthBook SDK; each feature''s value is the variant';
GRANT EXECUTE ON FUNCTION export_growthbook() TO finetune_app, finetune_analyst;

CREATE FUNCTION import_growthbook(definition jsonb, models text[], planned_users integer DEFAULT 5000) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    arms integer := jsonb_array_length(definition -> 'variations');
    unknown text;
    name text := definition ->> 'key';
    coverage double precision := coalesce((definition ->> 'coverage')::float8, 1);
    weights double precision[];
BEGIN
    PERFORM @extschema@._require_role('import_growthbook', 'finetune_admin');
    SELECT string_agg(k, ', ' ORDER BY k) INTO unknown FROM jsonb_object_keys(definition) k
    WHERE k NOT IN ('key', 'seed', 'hashVersion', 'hashAttribute', 'active', 'phase', 'coverage', 'variations', 'weights', 'meta', 'name', 'status');
    IF unknown IS NOT NULL OR arms IS NULL OR arms < 2 OR arms IS DISTINCT FROM cardinality(models) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('experiment "%s" cannot be imported', coalesce(name, 'without a key')),
            DETAIL = CASE WHEN unknown IS NOT NULL THEN format('What these mean here is not known: %s.', unknown)
                          ELSE format('It has %s variations, and there are %s models.', coalesce(arms, 0), coalesce(cardinality(models), 0)) END,
            HINT = 'Give key, variations and, as needed, seed, hashVersion, coverage, weights; and a model for each variation.';
    END IF;
    SELECT array_agg(w::float8 ORDER BY ordinal) INTO weights
    FROM jsonb_array_elements_text(definition -> 'weights') WITH ORDINALITY AS x (w, ordinal);
    weights := coalesce(weights, array_fill(1.0::float8 / arms, ARRAY[arms]));
    PERFORM @extschema@._check_new_experiment(name, coalesce(definition ->> 'seed', name), planned_users);
    PERFORM @extschema@._check_arms(models, weights, coverage);
    INSERT INTO @extschema@.experiment (name, seed, hash_version, planned_users)
    VALUES (name, coalesce(definition ->> 'seed', name), coalesce((definition ->> 'hashVersion')::smallint, 1), planned_users);
    PERFORM @extschema@._open_phase(name, 1, coalesce(definition ->> 'seed', name), coverage,
        ARRAY['base', 'fineTuned'] || (SELECT coalesce(array_agg('fineTuned' || i ORDER BY i), '{}') FROM generate_series(2, arms - 1) i),
        models, weights, @extschema@._allocate(weights, coverage));
    RETURN name;
END
$$;
COMMENT ON FUNCTION import_growthbook IS 'Goes on with a GrowthBook experiment (hash version 1 when it states none, as GrowthBook does): everybody keeps the variant they had. A model for each variation; returns its name';
GRANT EXECUTE ON FUNCTION import_growthbook TO finetune_admin;
