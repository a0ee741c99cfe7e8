-- The life of an experiment: start, more coverage, pins, stop, export.

CREATE FUNCTION _allocate(weights double precision[], coverage double precision) RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'allocate_buckets_wrapper';
COMMENT ON FUNCTION _allocate IS 'Bucket set of each arm, as the text of an int4multirange, in the SDKs'' own arithmetic';
REVOKE ALL ON FUNCTION _allocate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _allocate TO finetune_admin;

CREATE FUNCTION _open_phase(experiment text, phase integer, seed text, coverage double precision,
    variants text[], models text[], weights double precision[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    buckets text[] := @extschema@._allocate(weights, coverage);
BEGIN
    INSERT INTO @extschema@.experiment_phase (experiment, phase, seed, coverage)
    VALUES (experiment, phase, seed, coverage);
    INSERT INTO @extschema@.experiment_arm (experiment, phase, ordinal, variant, model_id, weight, buckets)
    SELECT _open_phase.experiment, _open_phase.phase, ordinal - 1, arm.variant, arm.model, arm.weight, arm.buckets::int4multirange
    FROM unnest(variants, models, weights, buckets) WITH ORDINALITY AS arm (variant, model, weight, buckets, ordinal);
END
$$;
COMMENT ON FUNCTION _open_phase IS 'Writes a phase and its arms with the buckets that weights and coverage give them';
REVOKE ALL ON FUNCTION _open_phase FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _open_phase TO finetune_admin;

CREATE FUNCTION _check_new_experiment(name text, seed text, planned_users integer) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    reused_by text;
BEGIN
    IF name IS NULL OR name = '' OR planned_users IS NULL OR planned_users < 1 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'an experiment needs a name and a number of planned users',
            DETAIL = format('The name is %L, planned_users is %s.', name, coalesce(planned_users::text, 'NULL')),
            HINT = 'planned_users is the number of users at which you expect to decide; leave it out for 5000.';
    END IF;
    IF EXISTS (SELECT FROM @extschema@.experiment e WHERE e.name = _check_new_experiment.name) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = format('experiment "%s" already exists', name),
            DETAIL = 'Names stay taken after an experiment has stopped, so that its results can always be read.',
            HINT = 'Choose another name.';
    END IF;
    SELECT e.name INTO reused_by FROM @extschema@.experiment e WHERE e.seed = _check_new_experiment.seed;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = format('seed of experiment "%s" cannot be used again', reused_by),
            DETAIL = 'The same users would share an arm in both experiments.',
            HINT = 'Leave seed out to get a random one.';
    END IF;
END
$$;
COMMENT ON FUNCTION _check_new_experiment IS 'Refuses a name or seed that is taken';
REVOKE ALL ON FUNCTION _check_new_experiment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_new_experiment TO finetune_admin;

CREATE FUNCTION _check_arms(base text, candidate text, weights double precision[], coverage double precision) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_model(base);
    PERFORM @extschema@._require_model(candidate);
    IF candidate = base THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('model "%s" cannot be tested against itself', candidate),
            DETAIL = format('Without base => the candidate is tested against the live model, which is "%s".',
                            @extschema@.served_at(NULL)),
            HINT = 'Give base => or another candidate.';
    END IF;
    IF candidate <> 'base' THEN
        PERFORM @extschema@._require_passed_gate(candidate);
    END IF;
    IF weights IS NULL OR cardinality(weights) <> 2 OR coverage IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'an experiment needs two weights and a coverage',
            DETAIL = format('The weights are %L, the coverage is %s.', weights, coalesce(coverage::text, 'NULL')),
            HINT = 'weights => ''{0.5,0.5}'' (base, fineTuned), coverage => 1 for all users.';
    END IF;
END
$$;
COMMENT ON FUNCTION _check_arms IS 'Refuses models that may not meet in an experiment, and anything but two weights';
REVOKE ALL ON FUNCTION _check_arms FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_arms TO finetune_admin;

CREATE FUNCTION start_experiment(name text, candidate text, base text DEFAULT NULL, coverage double precision DEFAULT 1,
    weights double precision[] DEFAULT '{0.5,0.5}', seed text DEFAULT NULL, planned_users integer DEFAULT 5000) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('start_experiment', 'finetune_admin');
    base := coalesce(base, @extschema@.served_at(NULL));
    seed := coalesce(seed, replace(gen_random_uuid()::text, '-', ''));
    PERFORM @extschema@._check_new_experiment(name, seed, planned_users);
    PERFORM @extschema@._check_arms(base, candidate, weights, coverage);
    INSERT INTO @extschema@.experiment (name, seed, planned_users) VALUES (name, seed, planned_users);
    PERFORM @extschema@._open_phase(name, 1, seed, coverage, ARRAY['base', 'fineTuned'], ARRAY[base, candidate], weights);
    RETURN name;
END
$$;
COMMENT ON FUNCTION start_experiment IS 'Starts an A/B test of a candidate (variant fineTuned) against the live model (variant base); returns its name';
GRANT EXECUTE ON FUNCTION start_experiment TO finetune_admin;

CREATE FUNCTION _lock_running_experiment(name text) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run record;
BEGIN
    SELECT e.status, e.stopped_at,
           (SELECT max(p.phase) FROM @extschema@.experiment_phase p WHERE p.experiment = e.name) AS phase
    INTO run
    FROM @extschema@.experiment e WHERE e.name = _lock_running_experiment.name FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM @extschema@._unknown_experiment(name);
    END IF;
    IF run.status = 'stopped' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('experiment "%s" is stopped', name),
            DETAIL = format('It was stopped at %s.', run.stopped_at),
            HINT = 'Start a new one under another name with @extschema@.start_experiment(name, candidate).';
    END IF;
    RETURN run.phase;
END
$$;
COMMENT ON FUNCTION _lock_running_experiment IS 'Locks a running experiment for change and returns its current phase';
REVOKE ALL ON FUNCTION _lock_running_experiment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _lock_running_experiment TO finetune_admin;

CREATE FUNCTION _close_phase(experiment text, phase integer) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A transaction that began before the phase did must not end it before its beginning.
    UPDATE @extschema@.experiment_phase p SET valid_to = greatest(now(), p.valid_from)
    WHERE p.experiment = _close_phase.experiment AND p.phase = _close_phase.phase;
END
$$;
COMMENT ON FUNCTION _close_phase IS 'Ends a phase now';
REVOKE ALL ON FUNCTION _close_phase FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _close_phase TO finetune_admin;

CREATE FUNCTION set_coverage(experiment text, coverage double precision) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    current_phase integer;
BEGIN
    PERFORM @extschema@._require_role('set_coverage', 'finetune_admin');
    current_phase := @extschema@._lock_running_experiment(experiment);
    IF coverage IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'coverage is NULL',
            DETAIL = 'NULL is neither nobody (0) nor everybody (1).',
            HINT = 'Give a share between 0 and 1.';
    END IF;
    PERFORM @extschema@._close_phase(experiment, current_phase);
    -- Same seed and weights: users only enter or leave, nobody changes arm, and phases may be analysed together.
    PERFORM @extschema@._open_phase(set_coverage.experiment, current_phase + 1, p.seed, set_coverage.coverage,
                                    array_agg(a.variant ORDER BY a.ordinal), array_agg(a.model_id ORDER BY a.ordinal),
                                    array_agg(a.weight ORDER BY a.ordinal))
    FROM @extschema@.experiment_phase p
    JOIN @extschema@.experiment_arm a ON a.experiment = p.experiment AND a.phase = p.phase
    WHERE p.experiment = set_coverage.experiment AND p.phase = current_phase
    GROUP BY p.seed;
    RETURN current_phase + 1;
END
$$;
COMMENT ON FUNCTION set_coverage IS 'Lets more or fewer users into a running experiment at unchanged weights; returns the number of the new phase';
GRANT EXECUTE ON FUNCTION set_coverage TO finetune_admin;

CREATE FUNCTION _end_experiment(name text, ship text, reason text, inputs jsonb) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last_phase integer := @extschema@._lock_running_experiment(name);
    shipped_model text;
BEGIN
    IF ship IS NOT NULL THEN
        SELECT a.model_id INTO shipped_model FROM @extschema@.experiment_arm a
        WHERE a.experiment = _end_experiment.name AND a.phase = last_phase AND a.variant = ship;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING
                ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('experiment "%s" has no variant "%s"', name, ship),
                DETAIL = 'Its variants are base and fineTuned.',
                HINT = 'Leave ship out to keep what is deployed.';
        END IF;
    END IF;
    PERFORM @extschema@._close_phase(name, last_phase);
    UPDATE @extschema@.experiment e
    SET status = 'stopped', stopped_at = greatest(now(), e.started_at), shipped_variant = ship
    WHERE e.name = _end_experiment.name;
    INSERT INTO @extschema@.rollout_decision (experiment, decision, reason, inputs)
    VALUES (name, CASE ship WHEN 'fineTuned' THEN 'promote' WHEN 'base' THEN 'roll_back' ELSE 'inconclusive' END,
            coalesce(reason, 'stopped by hand'), inputs);
    IF shipped_model IS NOT NULL THEN
        PERFORM @extschema@._record_deployment(shipped_model, 'deploy', reason, name);
    END IF;
    RETURN name;
END
$$;
COMMENT ON FUNCTION _end_experiment IS 'Stops an experiment, deploys what it ships and records the decision with the numbers it was taken on';
REVOKE ALL ON FUNCTION _end_experiment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _end_experiment TO finetune_admin;

CREATE FUNCTION stop_experiment(name text, ship text DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('stop_experiment', 'finetune_admin');
    RETURN @extschema@._end_experiment(name, ship, reason,
        jsonb_build_object('called', 'stop_experiment', 'ship', ship));
END
$$;
COMMENT ON FUNCTION stop_experiment IS 'Stops an experiment; ship names the variant whose model is deployed to everybody, without it the deployed model stays';
GRANT EXECUTE ON FUNCTION stop_experiment TO finetune_admin;

CREATE FUNCTION pin_user(user_id text, experiment text, variant text, reason text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('pin_user', 'finetune_admin');
    PERFORM @extschema@._lock_running_experiment(experiment);
    IF user_id IS NULL OR user_id = '' OR NOT EXISTS (
        SELECT FROM @extschema@.experiment_arm a WHERE a.experiment = pin_user.experiment AND a.variant = pin_user.variant) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('cannot pin user "%s" to variant "%s" of experiment "%s"', user_id, variant, experiment),
            DETAIL = 'A pin needs a user id and one of the variants base and fineTuned.',
            HINT = 'SELECT @extschema@.explain_assignment(user_id, experiment) says what a user gets.';
    END IF;
    INSERT INTO @extschema@.experiment_pin AS pin (user_id, experiment, variant, reason)
    VALUES (user_id, experiment, variant, reason)
    ON CONFLICT ON CONSTRAINT experiment_pin_pkey DO UPDATE
    SET variant = excluded.variant, reason = excluded.reason, pinned_at = excluded.pinned_at;
END
$$;
COMMENT ON FUNCTION pin_user IS 'Gives a tester a chosen variant whatever the bucket; pinned users are left out of the analysis';
GRANT EXECUTE ON FUNCTION pin_user TO finetune_admin;

CREATE FUNCTION export_growthbook(experiment text) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    exported jsonb;
BEGIN
    PERFORM @extschema@._require_role('export_growthbook', 'finetune_app', 'finetune_analyst');
    SELECT jsonb_build_object(
               'key', e.name, 'seed', p.seed, 'hashVersion', e.hash_version, 'hashAttribute', 'id',
               'active', e.status = 'running', 'phase', p.phase::text, 'coverage', p.coverage,
               'variations', jsonb_agg(to_jsonb(a.variant) ORDER BY a.ordinal),
               'weights', jsonb_agg(to_jsonb(a.weight) ORDER BY a.ordinal),
               -- An arm is one range by construction; its ends are bucket / 10000 in the arithmetic of the SDKs.
               'ranges', jsonb_agg(jsonb_build_array(coalesce(lower(a.buckets), 0) / 10000::float8,
                                                     coalesce(upper(a.buckets), 0) / 10000::float8) ORDER BY a.ordinal),
               'meta', jsonb_agg(jsonb_build_object('key', a.variant, 'name', a.model_id) ORDER BY a.ordinal))
    INTO exported
    FROM @extschema@.experiment e
    JOIN @extschema@.experiment_phase p ON p.experiment = e.name
    JOIN @extschema@.experiment_arm a ON a.experiment = p.experiment AND a.phase = p.phase
    WHERE e.name = export_growthbook.experiment
    GROUP BY e.name, p.phase, p.seed, p.coverage
    ORDER BY p.phase DESC
    LIMIT 1;
    IF exported IS NULL THEN
        PERFORM @extschema@._unknown_experiment(experiment);
    END IF;
    RETURN exported;
END
$$;
COMMENT ON FUNCTION export_growthbook IS 'The experiment as GrowthBook''s SDKs take it: they compute the same variant from the same user id';
GRANT EXECUTE ON FUNCTION export_growthbook TO finetune_app, finetune_analyst;
