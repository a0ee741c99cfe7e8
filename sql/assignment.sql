-- Which variant and model each user gets, now and at any past moment.
-- Nothing is written per user: the variant is computed from the experiment's seed and the user's id.

CREATE FUNCTION bucket(seed text, unit text, hash_version integer DEFAULT 2) RETURNS integer
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
    reason        text
);
COMMENT ON TYPE assignment IS 'What serves a user and why: no_unit, no_experiment, stopped, pinned, coverage or assigned; only in_experiment rows are analysed';

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

CREATE FUNCTION _resolve_assignment(user_id text, experiment text, at timestamptz) RETURNS @extschema@.assignment
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run record; -- the oldest experiment that ran at that time, in the phase of that time
    arm record;
    result @extschema@.assignment;
BEGIN
    result.variant := 'base';
    result.in_experiment := false;
    IF user_id IS NULL OR user_id = '' THEN
        result.model_id := @extschema@.served_at(at);
        result.reason := 'no_unit';
        RETURN result;
    END IF;

    SELECT e.name, e.hash_version, p.phase, p.seed INTO run
    FROM @extschema@.experiment e
    JOIN @extschema@.experiment_phase p ON p.experiment = e.name
    WHERE (_resolve_assignment.experiment IS NULL OR e.name = _resolve_assignment.experiment)
      AND CASE WHEN at IS NULL THEN p.valid_to IS NULL
               ELSE p.valid_from <= at AND (p.valid_to IS NULL OR at < p.valid_to) END
    ORDER BY e.started_at, e.name
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN @extschema@._resolve_outside(experiment, at);
    END IF;
    result.experiment := run.name;
    result.phase := run.phase;
    result.bucket := @extschema@.bucket(run.seed, user_id, run.hash_version);

    SELECT a.variant, a.model_id, pin.user_id IS NOT NULL AS pinned INTO arm
    FROM @extschema@.experiment_arm a
    LEFT JOIN @extschema@.experiment_pin pin
        ON pin.user_id = _resolve_assignment.user_id AND pin.experiment = a.experiment AND pin.variant = a.variant
        AND (at IS NULL OR pin.pinned_at <= at)
    WHERE a.experiment = run.name AND a.phase = run.phase
      AND (pin.user_id IS NOT NULL OR result.bucket <@ a.buckets)
    ORDER BY pin.user_id NULLS LAST
    LIMIT 1;
    IF NOT FOUND THEN
        result.model_id := @extschema@.served_at(at);
        result.reason := 'coverage';
        RETURN result;
    END IF;
    result.variant := arm.variant;
    result.model_id := arm.model_id;
    result.in_experiment := NOT arm.pinned;
    result.reason := CASE WHEN arm.pinned THEN 'pinned' ELSE 'assigned' END;
    RETURN result;
END
$$;
COMMENT ON FUNCTION _resolve_assignment IS 'The one place that decides: experiment NULL = the oldest running one, at NULL = now. Writes nothing';
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

CREATE FUNCTION _assignment(user_id text, at timestamptz,
    OUT variant text, OUT model_id text, OUT in_experiment boolean, OUT experiment text, OUT phase integer)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Who is not in the experiment has no experiment here, so that a log filled from this row is right as it stands.
    SELECT a.variant, a.model_id, a.in_experiment,
           CASE WHEN a.in_experiment THEN a.experiment END, CASE WHEN a.in_experiment THEN a.phase END
    INTO variant, model_id, in_experiment, experiment, phase
    FROM @extschema@._resolve_assignment(user_id, NULL, at) a;
END
$$;
COMMENT ON FUNCTION _assignment IS 'What served that user at that time (NULL = now); experiment and phase only for users in the experiment';
REVOKE ALL ON FUNCTION _assignment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _assignment TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('assign_variant', 'finetune_app', 'finetune_analyst');
    RETURN (@extschema@._resolve_assignment(user_id, NULL, NULL)).variant;
END
$$;
COMMENT ON FUNCTION assign_variant(text) IS 'Variant of a user in the oldest running experiment; base when none runs';
GRANT EXECUTE ON FUNCTION assign_variant(text) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id uuid) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('assign_variant', 'finetune_app', 'finetune_analyst');
    RETURN (@extschema@._resolve_assignment(user_id::text, NULL, NULL)).variant;
END
$$;
COMMENT ON FUNCTION assign_variant(uuid) IS 'Same as assign_variant(text), for lower-case hyphenated uuids';
GRANT EXECUTE ON FUNCTION assign_variant(uuid) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id bigint) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('assign_variant', 'finetune_app', 'finetune_analyst');
    RETURN (@extschema@._resolve_assignment(user_id::text, NULL, NULL)).variant;
END
$$;
COMMENT ON FUNCTION assign_variant(bigint) IS 'Same as assign_variant(text), for decimal integers';
GRANT EXECUTE ON FUNCTION assign_variant(bigint) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id text, experiment text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('assign_variant', 'finetune_app', 'finetune_analyst');
    RETURN (@extschema@._resolve_assignment(user_id, experiment, NULL)).variant;
END
$$;
COMMENT ON FUNCTION assign_variant(text, text) IS 'Variant of a user in the named experiment; what was shipped (else base) once it is stopped';
GRANT EXECUTE ON FUNCTION assign_variant(text, text) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id uuid, experiment text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('assign_variant', 'finetune_app', 'finetune_analyst');
    RETURN (@extschema@._resolve_assignment(user_id::text, experiment, NULL)).variant;
END
$$;
COMMENT ON FUNCTION assign_variant(uuid, text) IS 'Same as assign_variant(text, text), for lower-case hyphenated uuids';
GRANT EXECUTE ON FUNCTION assign_variant(uuid, text) TO finetune_app, finetune_analyst;

CREATE FUNCTION assign_variant(user_id bigint, experiment text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('assign_variant', 'finetune_app', 'finetune_analyst');
    RETURN (@extschema@._resolve_assignment(user_id::text, experiment, NULL)).variant;
END
$$;
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

CREATE FUNCTION model_for(user_id text) RETURNS TABLE (variant text, model_id text, provider text, provider_model text)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1 SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('model_for', 'finetune_app', 'finetune_analyst');
    RETURN QUERY
    SELECT a.variant, a.model_id, m.provider, m.provider_model
    FROM @extschema@._resolve_assignment(model_for.user_id, NULL, NULL) a
    LEFT JOIN @extschema@.model m ON m.id = a.model_id;
END
$$;
COMMENT ON FUNCTION model_for IS 'Variant, model and provider of a user, and the model''s name there, for applications that call a provider themselves';
GRANT EXECUTE ON FUNCTION model_for TO finetune_app, finetune_analyst;
