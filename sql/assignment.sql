-- Which variant and model each user gets, now and at any past moment.
-- Nothing is written per user: the variant is computed from the experiment's seed and the user's id.

CREATE FUNCTION bucket(seed text, unit text, hash_version integer DEFAULT 2, unit_encoding text DEFAULT 'utf8') RETURNS integer
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'bucket_wrapper';
COMMENT ON FUNCTION bucket IS 'Bucket (0..9999; hash version 1: 0..999) of a unit under a seed: the hash of GrowthBook''s SDKs';
GRANT EXECUTE ON FUNCTION bucket TO finetune_app, finetune_analyst;

CREATE TYPE assignment AS (
    variant       text,
    model_id      text,
    in_experiment boolean,
    experiment    text,
    phase         integer,
    bucket        integer,
    reason        text,
    buckets       int4multirange
);
COMMENT ON TYPE assignment IS 'What serves a user and why: no_unit, no_experiment, stopped, pinned, holdout, layer, coverage or assigned; only in_experiment rows are analysed';

CREATE FUNCTION _unknown_experiment(name text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'undefined_object',
        MESSAGE = format('experiment "%s" does not exist', name),
        DETAIL = coalesce(
            (SELECT 'Known: ' || string_agg(quote_ident(e.name), ', ' ORDER BY e.started_at DESC, e.name) || '.'
             FROM @extschema@.experiment e),
            'None was ever started.'),
        HINT = 'SELECT name, status, started_at FROM @extschema@.experiment; or start one with @extschema@.start_experiment(name, candidate).';
END
$$;
COMMENT ON FUNCTION _unknown_experiment IS 'Raises undefined_object for an experiment that was never started';
REVOKE ALL ON FUNCTION _unknown_experiment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _unknown_experiment TO finetune_app, finetune_analyst;

CREATE FUNCTION _place(seed text, unit text, hash_version integer, unit_encoding text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.bucket(seed, unit, hash_version, unit_encoding) * CASE hash_version WHEN 1 THEN 10 ELSE 1 END;
END
$$;
COMMENT ON FUNCTION _place IS 'pg_finetune private: the bucket of a unit on the scale of 0..9999 that sets are kept in, whatever the hash version';
REVOKE ALL ON FUNCTION _place FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _place TO finetune_app, finetune_analyst;

CREATE FUNCTION _resolve_assignment(user_id text, experiment text, at timestamptz) RETURNS @extschema@.assignment
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run record; -- the oldest experiment that ran at that time, in the phase of that time
    arm record;
    held record;
    result @extschema@.assignment;
BEGIN
    result.variant := 'base';
    result.in_experiment := false;
    IF user_id IS NULL OR user_id = '' THEN
        result.model_id := @extschema@.served_at(at);
        result.reason := 'no_unit';
        RETURN result;
    END IF;

    SELECT e.name, e.hash_version, e.unit_encoding, p.phase, p.seed, l.seed AS layer_seed, e.layer_buckets INTO run
    FROM @extschema@.experiment e
    JOIN @extschema@.experiment_phase p ON p.experiment = e.name
    LEFT JOIN @extschema@.experiment_layer l ON l.name = e.layer
    -- Who names no experiment has a user: experiments that draw teams are asked by name.
    WHERE (e.name = _resolve_assignment.experiment OR _resolve_assignment.experiment IS NULL AND e.unit = 'user_id')
      AND CASE WHEN at IS NULL THEN p.valid_to IS NULL
               ELSE p.valid_from <= at AND (p.valid_to IS NULL OR at < p.valid_to) END
    ORDER BY e.started_at, e.name
    LIMIT 1;
    IF FOUND THEN
        result.experiment := run.name;
        result.phase := run.phase;
        SELECT a.variant, a.model_id, a.buckets INTO arm
        FROM @extschema@.experiment_pin pin
        JOIN @extschema@.experiment_arm a ON a.experiment = pin.experiment AND a.phase = run.phase AND a.variant = pin.variant
        WHERE pin.user_id = _resolve_assignment.user_id AND pin.experiment = run.name AND (at IS NULL OR pin.pinned_at <= at);
        IF FOUND THEN
            result.variant := arm.variant;
            result.model_id := arm.model_id;
            result.buckets := arm.buckets;
            result.reason := 'pinned';
            RETURN result;
        END IF;
    END IF;

    SELECT h.model_id, h.buckets, @extschema@._place(h.seed, user_id, 2, 'utf8') AS place INTO held
    FROM @extschema@.experiment_holdout h
    WHERE CASE WHEN at IS NULL THEN h.valid_to IS NULL
               ELSE h.valid_from <= at AND (h.valid_to IS NULL OR at < h.valid_to) END
    ORDER BY h.period DESC LIMIT 1;
    IF held.place <@ held.buckets AND (run.name IS NOT NULL OR experiment IS NULL) THEN
        result.model_id := held.model_id;
        result.bucket := held.place;
        result.buckets := held.buckets;
        result.reason := 'holdout';
        RETURN result;
    END IF;
    IF run.name IS NULL THEN
        RETURN @extschema@._resolve_outside(experiment, at);
    END IF;

    IF run.layer_seed IS NOT NULL THEN
        result.bucket := @extschema@._place(run.layer_seed, user_id, 2, 'utf8');
        IF NOT result.bucket <@ run.layer_buckets THEN
            result.model_id := @extschema@.served_at(at);
            result.buckets := run.layer_buckets;
            result.reason := 'layer';
            RETURN result;
        END IF;
    END IF;
    result.bucket := @extschema@._place(run.seed, user_id, run.hash_version, run.unit_encoding);
    SELECT a.variant, a.model_id, a.buckets INTO arm
    FROM @extschema@.experiment_arm a
    WHERE a.experiment = run.name AND a.phase = run.phase AND result.bucket <@ a.buckets;
    IF NOT FOUND THEN
        result.model_id := @extschema@.served_at(at);
        result.reason := 'coverage';
        RETURN result;
    END IF;
    result.variant := arm.variant;
    result.model_id := arm.model_id;
    result.buckets := arm.buckets;
    result.in_experiment := true;
    result.reason := 'assigned';
    RETURN result;
END
$$;
COMMENT ON FUNCTION _resolve_assignment IS 'The rule in full, with reasons and for any time: experiment NULL = the oldest running one, at NULL = now. Writes nothing. assign_variant is the same rule, kept in memory';
REVOKE ALL ON FUNCTION _resolve_assignment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _resolve_assignment TO finetune_app, finetune_analyst;

CREATE FUNCTION _resolve_outside(experiment text, at timestamptz) RETURNS @extschema@.assignment
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known record;
    result @extschema@.assignment;
BEGIN
    result.variant := 'base';
    result.in_experiment := false;
    result.model_id := @extschema@.served_at(at);
    result.reason := 'no_experiment';
    IF experiment IS NULL THEN
        RETURN result;
    END IF;
    SELECT e.shipped_variant, e.stopped_at INTO known
    FROM @extschema@.experiment e WHERE e.name = _resolve_outside.experiment;
    IF NOT FOUND THEN
        PERFORM @extschema@._unknown_experiment(experiment);
    END IF;
    result.experiment := experiment;
    IF at IS NULL OR at >= known.stopped_at THEN
        result.variant := coalesce(known.shipped_variant, 'base');
        result.reason := 'stopped';
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION _resolve_outside IS 'What everybody gets when no experiment runs, or the named one is stopped or not yet started';
REVOKE ALL ON FUNCTION _resolve_outside FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _resolve_outside TO finetune_app, finetune_analyst;

CREATE FUNCTION _team_experiment(at timestamptz) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run record;
BEGIN
    -- An experiment that draws users comes first: it is what calls without a name mean, so what served.
    SELECT e.name, e.unit INTO run
    FROM @extschema@.experiment e
    JOIN @extschema@.experiment_phase p ON p.experiment = e.name
    WHERE CASE WHEN at IS NULL THEN p.valid_to IS NULL
               ELSE p.valid_from <= at AND (p.valid_to IS NULL OR at < p.valid_to) END
    ORDER BY e.unit = 'team_id', e.started_at, e.name
    LIMIT 1;
    RETURN CASE WHEN run.unit = 'team_id' THEN run.name END;
END
$$;
COMMENT ON FUNCTION _team_experiment IS 'pg_finetune private: the oldest experiment of that time that draws teams, where none drew users';
REVOKE ALL ON FUNCTION _team_experiment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _team_experiment TO finetune_app, finetune_analyst;

CREATE FUNCTION _assignment(user_id text, at timestamptz, team_id text DEFAULT NULL,
    OUT variant text, OUT model_id text, OUT in_experiment boolean, OUT experiment text, OUT phase integer)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run text := CASE WHEN team_id <> '' THEN @extschema@._team_experiment(at) END;
BEGIN
    -- Who is not in the experiment has no experiment here, so that a log filled from this row is right as it stands.
    SELECT a.variant, a.model_id, a.in_experiment,
           CASE WHEN a.in_experiment THEN a.experiment END, CASE WHEN a.in_experiment THEN a.phase END
    INTO variant, model_id, in_experiment, experiment, phase
    FROM @extschema@._resolve_assignment(CASE WHEN run IS NULL THEN user_id ELSE team_id END, run, at) a;
END
$$;
COMMENT ON FUNCTION _assignment IS 'What served that user at that time (NULL = now); experiment and phase only for who is in the experiment. team_id counts where only experiments that draw teams ran';
REVOKE ALL ON FUNCTION _assignment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _assignment TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id text) RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'assign_variant_text';
COMMENT ON FUNCTION assign_variant(text) IS 'Variant of a user in the oldest running experiment; base when none runs';
GRANT EXECUTE ON FUNCTION assign_variant(text) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id uuid) RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'assign_variant_uuid';
COMMENT ON FUNCTION assign_variant(uuid) IS 'Same as assign_variant(text), for lower-case hyphenated uuids';
GRANT EXECUTE ON FUNCTION assign_variant(uuid) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id bigint) RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'assign_variant_bigint';
COMMENT ON FUNCTION assign_variant(bigint) IS 'Same as assign_variant(text), for decimal integers';
GRANT EXECUTE ON FUNCTION assign_variant(bigint) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id text, experiment text) RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'assign_variant_text_named';
COMMENT ON FUNCTION assign_variant(text, text) IS 'Variant of a user in the named experiment; what was shipped (else base) once it is stopped';
GRANT EXECUTE ON FUNCTION assign_variant(text, text) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id uuid, experiment text) RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'assign_variant_uuid_named';
COMMENT ON FUNCTION assign_variant(uuid, text) IS 'Same as assign_variant(text, text), for lower-case hyphenated uuids';
GRANT EXECUTE ON FUNCTION assign_variant(uuid, text) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id bigint, experiment text) RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'assign_variant_bigint_named';
COMMENT ON FUNCTION assign_variant(bigint, text) IS 'Same as assign_variant(text, text), for decimal integers';
GRANT EXECUTE ON FUNCTION assign_variant(bigint, text) TO finetune_app, finetune_analyst;

CREATE FUNCTION explain_assignment(user_id text, experiment text DEFAULT NULL) RETURNS @extschema@.assignment
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('explain_assignment', 'finetune_app', 'finetune_analyst');
    RETURN @extschema@._resolve_assignment(user_id, experiment, NULL);
END
$$;
COMMENT ON FUNCTION explain_assignment IS 'Variant of a user with the bucket, phase and reason behind it';
GRANT EXECUTE ON FUNCTION explain_assignment TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variants(user_id text)
RETURNS TABLE (experiment text, variant text, model_id text, in_experiment boolean, phase integer, reason text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('assign_variants', 'finetune_app', 'finetune_analyst');
    RETURN QUERY
    SELECT e.name, a.variant, a.model_id, a.in_experiment, a.phase, a.reason
    FROM @extschema@.experiment e
    CROSS JOIN LATERAL @extschema@._resolve_assignment(assign_variants.user_id, e.name, NULL) a
    WHERE e.status = 'running'
    ORDER BY e.started_at, e.name;
END
$$;
COMMENT ON FUNCTION assign_variants IS 'Variant of a user in every running experiment, oldest first';
GRANT EXECUTE ON FUNCTION assign_variants TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_pure(user_id text, seed text, variants text[], buckets int4multirange[], hash_version integer DEFAULT 2,
    unit_encoding text DEFAULT 'utf8', gate_seeds text[] DEFAULT '{}', gates int4multirange[] DEFAULT '{}') RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place integer;
BEGIN
    IF coalesce(user_id, '') = '' THEN
        RETURN NULL;
    END IF;
    FOR i IN 1 .. coalesce(cardinality(gates), 0) LOOP
        IF NOT @extschema@.bucket(gate_seeds[i], user_id) <@ gates[i] THEN
            RETURN NULL;
        END IF;
    END LOOP;
    place := @extschema@._place(seed, user_id, hash_version, unit_encoding);
    FOR i IN 1 .. coalesce(cardinality(buckets), 0) LOOP
        IF place <@ buckets[i] THEN
            RETURN variants[i];
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION assign_pure IS 'The draw alone, from parameters and without a look at any table: for sets and for distributed queries. NULL = not in the experiment. assignment_parameters() gives the parameters; pins are not considered';
GRANT EXECUTE ON FUNCTION assign_pure TO finetune_app, finetune_analyst;

CREATE FUNCTION assignment_parameters(experiment text)
RETURNS TABLE (seed text, variants text[], models text[], buckets int4multirange[], hash_version integer, unit_encoding text,
    gate_seeds text[], gates int4multirange[])
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1 SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM @extschema@._require_role('assignment_parameters', 'finetune_app', 'finetune_analyst');
    IF NOT EXISTS (SELECT FROM @extschema@.experiment e WHERE e.name = assignment_parameters.experiment) THEN
        PERFORM @extschema@._unknown_experiment(assignment_parameters.experiment);
    END IF;
    RETURN QUERY
    SELECT p.seed, array_agg(a.variant ORDER BY a.ordinal), array_agg(a.model_id ORDER BY a.ordinal),
           array_agg(a.buckets ORDER BY a.ordinal), e.hash_version::integer, e.unit_encoding, g.seeds, g.gates
    FROM @extschema@.experiment e
    JOIN @extschema@.experiment_phase p ON p.experiment = e.name AND p.valid_to IS NULL
    JOIN @extschema@.experiment_arm a ON a.experiment = p.experiment AND a.phase = p.phase
    CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(x.seed), '{}') AS seeds, coalesce(array_agg(x.inside), '{}') AS gates
        FROM (SELECT h.seed, '{[0,10000)}'::int4multirange - h.buckets FROM @extschema@.experiment_holdout h WHERE h.valid_to IS NULL
              UNION ALL
              SELECT l.seed, e.layer_buckets FROM @extschema@.experiment_layer l WHERE l.name = e.layer) x (seed, inside)) g
    WHERE e.name = assignment_parameters.experiment
    GROUP BY p.seed, e.hash_version, e.unit_encoding, g.seeds, g.gates;
END
$$;
COMMENT ON FUNCTION assignment_parameters IS 'What assign_pure needs to know of a running experiment, in one row; none once it is stopped. Holdout and layer are gates';
GRANT EXECUTE ON FUNCTION assignment_parameters TO finetune_app, finetune_analyst;

CREATE FUNCTION model_for(user_id text, team_id text DEFAULT NULL) RETURNS TABLE (variant text, model_id text, provider text, provider_model text, embedding_column name)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1 SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('model_for', 'finetune_app', 'finetune_analyst');
    RETURN QUERY
    SELECT a.variant, a.model_id, m.provider, m.provider_model,
           (SELECT min(r.column_name::text)::name FROM @extschema@.reembedding r WHERE r.model_id = a.model_id AND r.completed_at IS NOT NULL)
    FROM @extschema@._assignment(model_for.user_id, NULL, model_for.team_id) a
    LEFT JOIN @extschema@.model m ON m.id = a.model_id;
END
$$;
COMMENT ON FUNCTION model_for IS 'Variant, model and provider of a user, and the model''s name there, for applications that call a provider themselves or search under user_query(user_id, model_id); team_id counts as it does in the log: where only experiments that draw teams run; embedding_column is the column to search where the model was re-embedded, NULL = the application''s own';
GRANT EXECUTE ON FUNCTION model_for TO finetune_app, finetune_analyst;

CREATE FUNCTION _experiment_changed() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'experiment_changed';
COMMENT ON FUNCTION _experiment_changed() IS 'pg_finetune private: makes every backend forget what assign_variant keeps, when this transaction commits';
REVOKE ALL ON FUNCTION _experiment_changed() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _experiment_changed() TO finetune_admin;

-- ALWAYS: changes that replication applies count, too.
DO $triggers$
DECLARE
    config text;
BEGIN
    FOREACH config IN ARRAY ARRAY['experiment', 'experiment_phase', 'experiment_arm', 'experiment_pin', 'experiment_layer', 'experiment_holdout'] LOOP
        EXECUTE pg_catalog.format(
            'CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION _experiment_changed()', config);
        EXECUTE pg_catalog.format('ALTER TABLE %I ENABLE ALWAYS TRIGGER changed', config);
    END LOOP;
END
$triggers$;
