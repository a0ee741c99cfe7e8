-- The life of an experiment: start, more coverage, pins, stop, export.

CREATE FUNCTION _allocate(weights double precision[], coverage double precision) RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'allocate_buckets_wrapper';
COMMENT ON FUNCTION _allocate IS 'Bucket set of each arm, as the text of an int4multirange, in the SDKs'' own arithmetic';
REVOKE ALL ON FUNCTION _allocate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _allocate TO finetune_admin;

CREATE FUNCTION _reallocate(current text[], weights double precision[], coverage double precision) RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'reallocate_buckets_wrapper';
COMMENT ON FUNCTION _reallocate IS 'pg_finetune private: sets of the sizes that weights and coverage ask for, made from the current ones by moving as few buckets as possible';
REVOKE ALL ON FUNCTION _reallocate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _reallocate TO finetune_admin;

CREATE FUNCTION _open_phase(experiment text, phase integer, seed text, coverage double precision,
    variants text[], models text[], weights double precision[], buckets text[], allocation text DEFAULT 'ranges') RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO @extschema@.experiment_phase (experiment, phase, seed, coverage, allocation)
    VALUES (experiment, phase, seed, coverage, allocation);
    INSERT INTO @extschema@.experiment_arm (experiment, phase, ordinal, variant, model_id, weight, buckets)
    SELECT _open_phase.experiment, _open_phase.phase, ordinal - 1, arm.variant, arm.model, arm.weight, arm.buckets::int4multirange
    FROM unnest(variants, models, weights, buckets) WITH ORDINALITY AS arm (variant, model, weight, buckets, ordinal);
END
$$;
COMMENT ON FUNCTION _open_phase IS 'Writes a phase and its arms with their buckets';
REVOKE ALL ON FUNCTION _open_phase FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _open_phase TO finetune_admin;

CREATE FUNCTION _check_arm() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    other text;
BEGIN
    SELECT a.variant INTO other FROM @extschema@.experiment_arm a
    WHERE a.experiment = NEW.experiment AND a.phase = NEW.phase AND a.variant <> NEW.variant AND a.buckets && NEW.buckets
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'exclusion_violation',
            MESSAGE = format('variants "%s" and "%s" of experiment "%s" share buckets', NEW.variant, other, NEW.experiment),
            DETAIL = 'A user whose bucket is in both would be in two variants.',
            HINT = 'Let @extschema@.start_experiment and @extschema@.alter_weights make the sets.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _check_arm() IS 'pg_finetune private: the sets of the arms of one phase have no bucket in common';
REVOKE ALL ON FUNCTION _check_arm() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_arm() TO finetune_admin;
CREATE TRIGGER disjoint AFTER INSERT OR UPDATE ON experiment_arm FOR EACH ROW EXECUTE FUNCTION _check_arm();

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

CREATE FUNCTION _check_arms(models text[], weights double precision[], coverage double precision) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tested text;
BEGIN
    FOREACH tested IN ARRAY models LOOP
        PERFORM @extschema@._require_model(tested);
        IF array_length(array_positions(models, tested), 1) > 1 THEN
            RAISE EXCEPTION USING
                ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('model "%s" cannot be tested against itself', tested),
                DETAIL = format('Without base => candidates are tested against the live model, which is "%s".',
                                @extschema@.served_at(NULL)),
                HINT = 'Give base => or another candidate.';
        END IF;
    END LOOP;
    FOREACH tested IN ARRAY models[2:] LOOP
        IF tested <> 'base' THEN
            PERFORM @extschema@._require_passed_gate(tested);
        END IF;
    END LOOP;
    IF weights IS NULL OR cardinality(weights) <> cardinality(models) OR coverage IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('an experiment with %s variants needs %s weights and a coverage', cardinality(models),
                             CASE cardinality(models) WHEN 2 THEN 'two' ELSE cardinality(models)::text END),
            DETAIL = format('The weights are %L, the coverage is %s.', weights, coalesce(coverage::text, 'NULL')),
            HINT = 'weights => ''{0.5,0.5}'' (base, fineTuned), coverage => 1 for all users.';
    END IF;
END
$$;
COMMENT ON FUNCTION _check_arms IS 'Refuses models that may not meet in an experiment, and another number of weights than of models';
REVOKE ALL ON FUNCTION _check_arms FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_arms TO finetune_admin;

CREATE FUNCTION _check_counting(unit text, outcome_window interval, attribution text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF unit IS NULL OR unit <> ALL (ARRAY['user_id', 'team_id']) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unit %L cannot be drawn', unit),
            DETAIL = 'An experiment draws users (user_id) or teams (team_id, a column of the view of the captured table).',
            HINT = 'Leave unit out for users; for households or classes, call their id team_id in the view.';
    ELSIF outcome_window <= interval '0' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('outcome_window is %s', outcome_window),
            DETAIL = 'It is how long after an item was shown an action still counts.',
            HINT = 'Leave it out for 7 days; NULL counts any action.';
    ELSIF attribution IS NULL OR attribution <> ALL (ARRAY['impression', 'first_exposure']) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('attribution %L does not exist', attribution),
            DETAIL = 'impression: the window of an item begins when it is shown; first_exposure: one window for all items, from the first.',
            HINT = 'Leave attribution out for impression.';
    END IF;
END
$$;
COMMENT ON FUNCTION _check_counting IS 'pg_finetune private: refuses a unit, window or attribution that is none';
REVOKE ALL ON FUNCTION _check_counting FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_counting TO finetune_admin;

CREATE FUNCTION start_experiment(name text, candidates text[], base text DEFAULT NULL, coverage double precision DEFAULT 1,
    weights double precision[] DEFAULT NULL, seed text DEFAULT NULL, planned_users integer DEFAULT 5000,
    unit text DEFAULT 'user_id', unit_encoding text DEFAULT 'utf8', layer text DEFAULT NULL, layer_share double precision DEFAULT NULL,
    outcome_window interval DEFAULT '7 days', attribution text DEFAULT 'impression') RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    models text[];
    arms integer;
BEGIN
    PERFORM @extschema@._require_role('start_experiment', 'finetune_admin');
    models := coalesce(base, @extschema@.served_at(NULL)) || candidates;
    arms := cardinality(models);
    seed := coalesce(seed, replace(gen_random_uuid()::text, '-', ''));
    weights := coalesce(weights, array_fill(1.0::float8 / arms, ARRAY[arms]));
    PERFORM @extschema@._check_new_experiment(name, seed, planned_users);
    IF arms < 2 OR array_position(candidates, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'an experiment needs a candidate',
            DETAIL = format('The candidates are %L.', candidates),
            HINT = 'Give the id of one or more models: SELECT id FROM @extschema@.model;';
    END IF;
    PERFORM @extschema@._check_arms(models, weights, coverage);
    PERFORM @extschema@._check_counting(unit, outcome_window, attribution);
    INSERT INTO @extschema@.experiment (name, seed, planned_users, unit, unit_encoding, outcome_window, attribution, layer, layer_buckets)
    VALUES (name, seed, planned_users, unit, unit_encoding, coalesce(outcome_window, 'infinity'), attribution, layer,
            @extschema@._layer_share(layer, unit, layer_share));
    PERFORM @extschema@._open_phase(name, 1, seed, coverage,
        ARRAY['base', 'fineTuned'] || (SELECT coalesce(array_agg('fineTuned' || i ORDER BY i), '{}') FROM generate_series(2, arms - 1) i),
        models, weights, @extschema@._allocate(weights, coverage));
    RETURN name;
END
$$;
COMMENT ON FUNCTION start_experiment(text, text[], text, double precision, double precision[], text, integer, text, text, text, double precision, interval, text) IS
    'Starts a test of several candidates (variants fineTuned, fineTuned2, ...) against the live model (variant base), with equal weights unless given; returns its name';
GRANT EXECUTE ON FUNCTION start_experiment(text, text[], text, double precision, double precision[], text, integer, text, text, text, double precision, interval, text) TO finetune_admin;

CREATE FUNCTION start_experiment(name text, candidate text, base text DEFAULT NULL, coverage double precision DEFAULT 1,
    weights double precision[] DEFAULT '{0.5,0.5}', seed text DEFAULT NULL, planned_users integer DEFAULT 5000,
    unit text DEFAULT 'user_id', unit_encoding text DEFAULT 'utf8', layer text DEFAULT NULL, layer_share double precision DEFAULT NULL,
    outcome_window interval DEFAULT '7 days', attribution text DEFAULT 'impression') RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('start_experiment', 'finetune_admin');
    RETURN @extschema@.start_experiment(name, ARRAY[candidate], base, coverage, coalesce(weights, '{}'), seed, planned_users,
                                        unit, unit_encoding, layer, layer_share, outcome_window, attribution);
END
$$;
COMMENT ON FUNCTION start_experiment(text, text, text, double precision, double precision[], text, integer, text, text, text, double precision, interval, text) IS
    'Starts an A/B test of a candidate (variant fineTuned) against the live model (variant base); returns its name';
GRANT EXECUTE ON FUNCTION start_experiment(text, text, text, double precision, double precision[], text, integer, text, text, text, double precision, interval, text) TO finetune_admin;

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

CREATE FUNCTION _next_phase(experiment text, current_phase integer, new_weights double precision[], new_coverage double precision, mode text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old record;
BEGIN
    SELECT p.seed, p.allocation, p.coverage, array_agg(a.variant ORDER BY a.ordinal) AS variants, array_agg(a.model_id ORDER BY a.ordinal) AS models,
           array_agg(a.weight ORDER BY a.ordinal) AS weights, array_agg(a.buckets::text ORDER BY a.ordinal) AS buckets
    INTO old
    FROM @extschema@.experiment_phase p
    JOIN @extschema@.experiment_arm a ON a.experiment = p.experiment AND a.phase = p.phase
    WHERE p.experiment = _next_phase.experiment AND p.phase = current_phase
    GROUP BY p.seed, p.allocation, p.coverage;
    new_weights := coalesce(new_weights, old.weights);
    new_coverage := coalesce(new_coverage, old.coverage);
    -- Sets that are no ranges any more stay so: making ranges of them would move users.
    mode := coalesce(mode, old.allocation);
    PERFORM @extschema@._close_phase(experiment, current_phase);
    PERFORM @extschema@._open_phase(experiment, current_phase + 1, old.seed, new_coverage, old.variants, old.models, new_weights,
        CASE mode WHEN 'minimal' THEN @extschema@._reallocate(old.buckets, new_weights, new_coverage)
                  ELSE @extschema@._allocate(new_weights, new_coverage) END, mode);
END
$$;
COMMENT ON FUNCTION _next_phase IS 'pg_finetune private: ends the current phase and opens the next one with what is given, else as it was';
REVOKE ALL ON FUNCTION _next_phase FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _next_phase TO finetune_admin;

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
    PERFORM @extschema@._next_phase(experiment, current_phase, NULL, coverage, NULL);
    RETURN current_phase + 1;
END
$$;
COMMENT ON FUNCTION set_coverage IS 'Lets more or fewer users into a running experiment at unchanged weights; returns the number of the new phase';
GRANT EXECUTE ON FUNCTION set_coverage TO finetune_admin;

CREATE FUNCTION alter_weights(experiment text, weights double precision[], mode text DEFAULT 'minimal') RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    current_phase integer;
    arms integer;
BEGIN
    PERFORM @extschema@._require_role('alter_weights', 'finetune_admin');
    current_phase := @extschema@._lock_running_experiment(experiment);
    SELECT count(*) INTO arms FROM @extschema@.experiment_arm a
    WHERE a.experiment = alter_weights.experiment AND a.phase = current_phase;
    IF weights IS NULL OR cardinality(weights) <> arms THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('experiment "%s" needs %s weights', experiment, arms),
            DETAIL = format('The weights are %L.', weights),
            HINT = 'One weight for each variant, base first; together they are 1.';
    END IF;
    IF mode IS NULL OR mode NOT IN ('minimal', 'ranges') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('mode %L does not exist', mode),
            DETAIL = 'minimal moves as few users as possible, ranges gives each variant one range of buckets.',
            HINT = 'Leave mode out for minimal.';
    END IF;
    PERFORM @extschema@._next_phase(experiment, current_phase, weights, NULL, mode);
    RETURN current_phase + 1;
END
$$;
COMMENT ON FUNCTION alter_weights IS 'Changes the weights of a running experiment in a new phase; minimal moves as few users as possible, ranges rebuilds one range a variant. Users who moved saw both variants. Returns the number of the phase';
GRANT EXECUTE ON FUNCTION alter_weights TO finetune_admin;

CREATE FUNCTION _variants(experiment text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    variants text[];
BEGIN
    SELECT array_agg(a.variant ORDER BY a.ordinal) INTO variants FROM @extschema@.experiment_arm a
    WHERE a.experiment = _variants.experiment AND a.phase = 1;
    RETURN array_to_string(variants[:cardinality(variants) - 1], ', ') || ' and ' || variants[cardinality(variants)];
END
$$;
COMMENT ON FUNCTION _variants IS 'pg_finetune private: the variants of an experiment, for messages';
REVOKE ALL ON FUNCTION _variants FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _variants TO finetune_admin;

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
                DETAIL = format('Its variants are %s.', @extschema@._variants(name)),
                HINT = 'Leave ship out to keep what is deployed.';
        END IF;
    END IF;
    PERFORM @extschema@._close_phase(name, last_phase);
    UPDATE @extschema@.experiment e
    SET status = 'stopped', stopped_at = greatest(now(), e.started_at), shipped_variant = ship
    WHERE e.name = _end_experiment.name;
    INSERT INTO @extschema@.rollout_decision (experiment, decision, reason, inputs)
    VALUES (name, CASE WHEN ship IS NULL THEN 'inconclusive' WHEN ship = 'base' THEN 'roll_back' ELSE 'promote' END,
            coalesce(reason, 'stopped by hand'), inputs);
    IF shipped_model IS NOT NULL THEN
        PERFORM @extschema@._record_deployment(shipped_model, 'deploy', reason, name);
    END IF;
    PERFORM @extschema@._end_run_of(name, ship, reason);
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
            DETAIL = format('A pin needs a user id and one of the variants %s.', @extschema@._variants(experiment)),
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
