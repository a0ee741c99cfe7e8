-- Rollouts: more coverage step by step, back when a guardrail breaks, on when the goal is proved. What to do is decided by a pure function
-- (src/core/stats/rollout.rs) of one snapshot of numbers; the snapshot is stored with the decision.

CREATE FUNCTION _decide_rollout(inputs jsonb) RETURNS TABLE (decision text, reason text, next_coverage double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'decide_rollout_wrapper';
COMMENT ON FUNCTION _decide_rollout IS 'pg_finetune private: what the numbers of one look at an experiment call for';
REVOKE ALL ON FUNCTION _decide_rollout FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _decide_rollout TO finetune_analyst;

CREATE FUNCTION _check_rollout(steps double precision[], goal text, guardrails jsonb, check_every interval, max_days double precision) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF steps IS NULL OR cardinality(steps) = 0 OR array_position(steps, NULL) IS NOT NULL
       OR EXISTS (SELECT FROM unnest(steps) WITH ORDINALITY s (step, place) WHERE s.step <= 0 OR s.step > 1 OR s.step <= steps[s.place - 1]) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'the steps of a rollout are rising coverages',
            DETAIL = format('These are %s; each lies above 0, up to 1, and above the one before.', coalesce(steps::text, 'NULL')),
            HINT = 'steps => ''{0.02,0.1,0.2,0.5,1}'' is usual.';
    END IF;
    PERFORM @extschema@._higher_is_better(goal);
    PERFORM @extschema@._claims(guardrails); -- the same shape as targets
    IF goal IS NULL OR check_every IS NULL OR check_every < interval '1 minute' OR max_days IS NULL OR NOT max_days > 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a rollout needs a goal, a pace and an end',
            DETAIL = format('The goal is %s, check_every %s, max_days %s.', coalesce(goal, 'NULL'), coalesce(check_every::text, 'NULL'),
                            coalesce(max_days::text, 'NULL')),
            HINT = 'Leave them out for save_rate, one look an hour (a minute is the least), 60 days.';
    END IF;
END
$$;
COMMENT ON FUNCTION _check_rollout IS 'pg_finetune private: refuses rules that make no rollout';
REVOKE ALL ON FUNCTION _check_rollout FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_rollout TO finetune_admin;

CREATE FUNCTION _check_rollout_numbers(alpha double precision, guardrail_alpha double precision, min_users integer, min_hours double precision,
    min_days double precision, inference text, outcome_window interval) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF alpha <= 0 OR alpha >= 1 OR guardrail_alpha <= 0 OR guardrail_alpha >= 1 OR min_users < 0 OR min_hours < 0 OR min_days < 0
       OR outcome_window <= interval '0' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a number of the rollout is out of range',
            DETAIL = format('alpha %s and guardrail_alpha %s lie between 0 and 1; min_users %s, min_hours %s and min_days %s are not negative; outcome_window %s is longer than nothing.',
                            coalesce(alpha, 0.05), coalesce(guardrail_alpha, 0.01), coalesce(min_users, 100), coalesce(min_hours, 24), coalesce(min_days, 7),
                            coalesce(outcome_window::text, 'NULL')),
            HINT = 'Leave them out for 0.05, 0.01, 100 users, 24 hours, 7 days and a window of 7 days.';
    END IF;
    PERFORM @extschema@._is_hybrid(coalesce(inference, 'sequence'));
END
$$;
COMMENT ON FUNCTION _check_rollout_numbers IS 'pg_finetune private: refuses numbers out of range; NULL = not said';
REVOKE ALL ON FUNCTION _check_rollout_numbers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_rollout_numbers TO finetune_admin;

CREATE FUNCTION start_rollout(experiment text, steps double precision[] DEFAULT '{0.02,0.1,0.2,0.5,1}',
    goal text DEFAULT 'save_rate', margin double precision DEFAULT 0, guardrails jsonb DEFAULT '{"false_suggestion_rate": 0}',
    alpha double precision DEFAULT 0.05, guardrail_alpha double precision DEFAULT 0.01, inference text DEFAULT 'sequence',
    outcome_window interval DEFAULT '7 days', min_users integer DEFAULT 100, min_hours double precision DEFAULT 24,
    min_days double precision DEFAULT 7, max_days double precision DEFAULT 60, auto_rollback boolean DEFAULT true,
    auto_promote boolean DEFAULT false, ship_inconclusive boolean DEFAULT false, check_every interval DEFAULT '1 hour') RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('start_rollout', 'finetune_admin');
    PERFORM @extschema@._check_rollout(steps, goal, guardrails, check_every, max_days);
    PERFORM @extschema@._is_hybrid(inference);
    PERFORM @extschema@._check_rollout_numbers(alpha, guardrail_alpha, min_users, min_hours, min_days, inference, outcome_window);
    PERFORM @extschema@._lock_running_experiment(experiment);
    IF EXISTS (SELECT FROM @extschema@.rollout r WHERE r.experiment = start_rollout.experiment) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = format('experiment "%s" already has a rollout', experiment),
            DETAIL = 'Its rules cannot change while it runs: what was decided under them must stay replayable.',
            HINT = 'SELECT @extschema@.pause_rollout(experiment), and decide by hand with @extschema@.stop_experiment(name, ship).';
    END IF;
    INSERT INTO @extschema@.rollout (experiment, steps, goal, margin, guardrails, alpha, guardrail_alpha, inference, outcome_window,
        min_users, min_hours, min_days, max_days, auto_rollback, auto_promote, ship_inconclusive, check_every)
    VALUES (experiment, steps, goal, margin, guardrails, alpha, guardrail_alpha, inference, outcome_window,
        min_users, min_hours, min_days, max_days, auto_rollback, auto_promote, ship_inconclusive, check_every);
    PERFORM @extschema@._wake_worker();
    RETURN experiment;
END
$$;
COMMENT ON FUNCTION start_rollout IS 'Lets the worker raise the coverage of a running experiment step by step, roll it back when a guardrail is proved worse, and say (or, with auto_promote, do) when the goal is proved';
GRANT EXECUTE ON FUNCTION start_rollout TO finetune_admin;

CREATE FUNCTION _rollout_options() RETURNS text[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Columns of the table and parameters of start_rollout() have the same names.
    RETURN (SELECT p.proargnames[2:] FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE p.proname = 'start_rollout' AND p.oid = '@extschema@.start_rollout'::regproc);
END
$$;
COMMENT ON FUNCTION _rollout_options IS 'pg_finetune private: names of what can be said about a rollout';
REVOKE ALL ON FUNCTION _rollout_options FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _rollout_options TO finetune_admin;

CREATE FUNCTION _read_rollout(options jsonb) RETURNS rollout
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unknown text;
    rules @extschema@.rollout;
BEGIN
    IF jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'the rules of a rollout are a JSON object',
            DETAIL = format('These are of type %s.', jsonb_typeof(options)),
            HINT = 'rollout => ''{"auto_promote": true}''; ''{}'' takes the defaults of start_rollout().';
    END IF;
    SELECT string_agg(quote_literal(k), ', ' ORDER BY k) INTO unknown FROM jsonb_object_keys(options) k WHERE k <> ALL (@extschema@._rollout_options());
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('a rollout has no %s', unknown),
            DETAIL = format('It takes %s.', array_to_string(@extschema@._rollout_options(), ', ')),
            HINT = 'They are the parameters of @extschema@.start_rollout().';
    END IF;
    BEGIN
        rules := jsonb_populate_record(NULL::@extschema@.rollout, options);
    EXCEPTION WHEN data_exception OR invalid_text_representation THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the rules of a rollout cannot be read', DETAIL = SQLERRM,
            HINT = 'rollout => ''{"steps": [0.1, 1], "goal": "save_rate", "auto_promote": true, "check_every": "1 hour"}''.';
    END;
    IF options IS NOT NULL THEN
        PERFORM @extschema@._check_rollout(
            CASE WHEN options ? 'steps' THEN rules.steps ELSE '{1}' END, CASE WHEN options ? 'goal' THEN rules.goal ELSE 'save_rate' END,
            CASE WHEN options ? 'guardrails' THEN rules.guardrails ELSE '{}' END,
            CASE WHEN options ? 'check_every' THEN rules.check_every ELSE interval '1 hour' END,
            CASE WHEN options ? 'max_days' THEN rules.max_days ELSE 60 END);
        PERFORM @extschema@._check_rollout_numbers(rules.alpha, rules.guardrail_alpha, rules.min_users, rules.min_hours, rules.min_days,
                                                   rules.inference, rules.outcome_window);
    END IF;
    RETURN rules;
END
$$;
COMMENT ON FUNCTION _read_rollout IS 'pg_finetune private: rules of a rollout from JSON; refuses what start_rollout() would refuse';
REVOKE ALL ON FUNCTION _read_rollout FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _read_rollout TO finetune_admin;

CREATE FUNCTION _start_rollout_from(experiment text, options jsonb) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules @extschema@.rollout := @extschema@._read_rollout(options);
    named text := (SELECT string_agg(format(', %1$I => ($2).%1$I', k), '' ORDER BY k) FROM jsonb_object_keys(options) k);
    started text;
BEGIN
    -- What is not said keeps the defaults of start_rollout().
    EXECUTE format('SELECT @extschema@.start_rollout($1%s)', named) INTO started USING experiment, rules;
    RETURN started;
END
$$;
COMMENT ON FUNCTION _start_rollout_from IS 'pg_finetune private: start_rollout() with rules from JSON';
REVOKE ALL ON FUNCTION _start_rollout_from FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _start_rollout_from TO finetune_admin;

CREATE FUNCTION _first_step(options jsonb) RETURNS double precision
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((@extschema@._read_rollout(options)).steps[1], 0.02);
END
$$;
COMMENT ON FUNCTION _first_step IS 'pg_finetune private: coverage at which a rollout with these rules begins';
REVOKE ALL ON FUNCTION _first_step FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _first_step TO finetune_admin;

CREATE FUNCTION _rollout_measure(metric text, margin double precision, sums jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN jsonb_build_object('metric', metric, 'margin', margin, 'higher_is_better', @extschema@._higher_is_better(metric),
        'base', coalesce(sums -> (metric || ' base'), '[0,0,0,0,0,0,0]'),
        'fine_tuned', coalesce(sums -> (metric || ' fineTuned'), '[0,0,0,0,0,0,0]'));
END
$$;
COMMENT ON FUNCTION _rollout_measure IS 'pg_finetune private: a metric of both arms as it stands in the inputs of a decision';
REVOKE ALL ON FUNCTION _rollout_measure FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _rollout_measure TO finetune_admin;

CREATE FUNCTION _rollout_inputs(rules rollout) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run record;
    seen record;
    goal_sums jsonb;
    guardrail_sums jsonb;
BEGIN
    SELECT e.planned_users, e.unit, e.started_at, p.phase, p.coverage, p.valid_from, a.model_id AS base_model INTO run
    FROM @extschema@.experiment e
    JOIN @extschema@.experiment_phase p ON p.experiment = e.name
    JOIN @extschema@.experiment_arm a ON a.experiment = p.experiment AND a.phase = p.phase AND a.variant = 'base'
    WHERE e.name = rules.experiment
    ORDER BY p.phase DESC LIMIT 1;
    SELECT coalesce(jsonb_object_agg(s.metric || ' ' || s.variant, to_jsonb(s.sums)), '{}') INTO goal_sums
    FROM @extschema@._ratio_sums(rules.experiment, 0.5, ARRAY['saved', 'snipped'], rules.outcome_window, rules.outcome_window IS NOT NULL) s;
    SELECT coalesce(jsonb_object_agg(s.metric || ' ' || s.variant, to_jsonb(s.sums)), '{}') INTO guardrail_sums
    FROM @extschema@._ratio_sums(rules.experiment, 0.5, ARRAY['saved', 'snipped']) s;
    SELECT count(*) FILTER (WHERE u.variant = 'base') AS base, count(*) FILTER (WHERE u.variant = 'fineTuned') AS fine_tuned INTO seen
    FROM @extschema@._exposed_users(rules.experiment) u;
    RETURN jsonb_build_object(
        'settings', jsonb_build_object('steps', rules.steps, 'min_users', rules.min_users, 'min_hours', rules.min_hours,
            'min_days', rules.min_days, 'max_days', rules.max_days, 'planned_users', run.planned_users,
            'alpha', rules.alpha, 'guardrail_alpha', rules.guardrail_alpha, 'hybrid', rules.inference = 'hybrid'),
        'coverage', run.coverage,
        'days', extract(epoch FROM now() - run.started_at)::float8 / 86400,
        'hours_in_step', extract(epoch FROM now() - run.valid_from)::float8 / 3600,
        'users_in_step', (SELECT CASE WHEN count(*) < 2 THEN 0 ELSE min(v.users) END
                          FROM (SELECT count(DISTINCT CASE WHEN run.unit = 'team_id' THEN l.team_id ELSE l.user_id END) AS users FROM @extschema@.model_performance_log l
                                WHERE l.experiment = rules.experiment AND l.phase = run.phase AND l.model_variant IN ('base', 'fineTuned')
                                GROUP BY l.model_variant) v),
        'users', jsonb_build_array(seen.base, seen.fine_tuned),
        'base_is_live', @extschema@.served_at(NULL) = run.base_model,
        'alarms', (SELECT coalesce(jsonb_agg(h.check_name ORDER BY h.check_name), '[]') FROM @extschema@.experiment_health(rules.experiment) h
                   WHERE h.verdict = 'alarm' AND h.check_name IN ('split', 'leak', 'double_exposure', 'served')),
        'goal', @extschema@._rollout_measure(rules.goal, rules.margin, goal_sums),
        'guardrails', (SELECT coalesce(jsonb_agg(@extschema@._rollout_measure(g.key, g.value::float8, guardrail_sums) ORDER BY g.key), '[]')
                       FROM jsonb_each_text(rules.guardrails) g));
END
$$;
COMMENT ON FUNCTION _rollout_inputs IS 'pg_finetune private: everything that a decision on a rollout depends on, as of now';
REVOKE ALL ON FUNCTION _rollout_inputs FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _rollout_inputs TO finetune_admin;

CREATE FUNCTION _record_decision(experiment text, decision text, reason text, inputs jsonb, acted boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    decision_id bigint;
BEGIN
    INSERT INTO @extschema@.rollout_decision (experiment, decision, reason, inputs, acted)
    VALUES (experiment, decision, reason, inputs, acted) RETURNING id INTO decision_id;
    RETURN decision_id;
END
$$;
COMMENT ON FUNCTION _record_decision IS 'pg_finetune private: appends one row to the log of decisions';
REVOKE ALL ON FUNCTION _record_decision FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _record_decision TO finetune_admin;

CREATE FUNCTION _carry_out(rules rollout, decision text, reason text, inputs jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ship text := CASE WHEN decision = 'promote' OR decision = 'inconclusive' AND rules.ship_inconclusive AND rules.auto_promote
                           AND (inputs ->> 'base_is_live')::boolean THEN 'fineTuned' END;
    acts boolean := CASE WHEN ship IS NULL THEN rules.auto_rollback ELSE rules.auto_promote END;
    decision_id bigint;
BEGIN
    IF NOT acts THEN
        decision_id := @extschema@._record_decision(rules.experiment, decision, reason, inputs, false);
    ELSE
        -- Without a shipped variant what is deployed stays, whoever deployed it.
        PERFORM @extschema@._end_experiment(rules.experiment, ship, reason, inputs);
        SELECT max(d.id) INTO decision_id FROM @extschema@.rollout_decision d WHERE d.experiment = rules.experiment;
        UPDATE @extschema@.rollout_decision d SET decision = _carry_out.decision WHERE d.id = decision_id;
    END IF;
    UPDATE @extschema@.rollout r SET state = CASE WHEN acts THEN 'done' ELSE 'decided' END WHERE r.experiment = rules.experiment;
    RETURN decision_id;
END
$$;
COMMENT ON FUNCTION _carry_out IS 'pg_finetune private: a final decision: done where the rollout may act, else left to a person; no later look changes it';
REVOKE ALL ON FUNCTION _carry_out FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _carry_out TO finetune_admin;

CREATE FUNCTION _evaluate(rules rollout) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    inputs jsonb := @extschema@._rollout_inputs(rules);
    outcome record;
BEGIN
    SELECT d.* INTO outcome FROM @extschema@._decide_rollout(inputs) d;
    PERFORM @extschema@._note_run(rules.experiment, format('%s: %s', outcome.decision, outcome.reason));
    UPDATE @extschema@.rollout r SET next_due_at = clock_timestamp() + r.check_every WHERE r.experiment = rules.experiment;
    IF outcome.decision IN ('promote', 'roll_back', 'inconclusive') THEN
        RETURN @extschema@._carry_out(rules, outcome.decision, outcome.reason, inputs);
    END IF;
    IF outcome.next_coverage IS NOT NULL THEN
        PERFORM @extschema@.set_coverage(rules.experiment, outcome.next_coverage);
    END IF;
    RETURN @extschema@._record_decision(rules.experiment, outcome.decision, outcome.reason, inputs, true);
END
$$;
COMMENT ON FUNCTION _evaluate IS 'pg_finetune private: looks at a rollout, decides, acts and writes it down; the caller holds its lock';
REVOKE ALL ON FUNCTION _evaluate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _evaluate TO finetune_admin;

CREATE FUNCTION _rollout_lock(experiment text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN hashtextextended('pg_finetune rollout ' || experiment, 0); END $$;
COMMENT ON FUNCTION _rollout_lock IS 'pg_finetune private: key of the advisory lock that keeps two evaluators apart';
REVOKE ALL ON FUNCTION _rollout_lock FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _rollout_lock TO finetune_admin;

CREATE FUNCTION evaluate_rollout(experiment text) RETURNS rollout_decision
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules @extschema@.rollout;
    decision_id bigint;
    taken @extschema@.rollout_decision;
BEGIN
    PERFORM @extschema@._require_role('evaluate_rollout', 'finetune_admin');
    PERFORM pg_advisory_xact_lock(@extschema@._rollout_lock(experiment));
    rules := @extschema@._require_rollout(experiment, 'running');
    decision_id := @extschema@._evaluate(rules);
    SELECT d.* INTO taken FROM @extschema@.rollout_decision d WHERE d.id = decision_id;
    RETURN taken;
END
$$;
COMMENT ON FUNCTION evaluate_rollout IS 'Looks at a rollout now instead of at its next time, acts like the worker and returns the decision';
GRANT EXECUTE ON FUNCTION evaluate_rollout TO finetune_admin;

CREATE FUNCTION _evaluate_rollouts() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules @extschema@.rollout;
BEGIN
    FOR rules IN
        SELECT r.* FROM @extschema@.rollout r JOIN @extschema@.experiment e ON e.name = r.experiment
        WHERE r.state = 'running' AND e.status = 'running' AND r.next_due_at <= clock_timestamp()
        ORDER BY r.next_due_at
    LOOP
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(@extschema@._rollout_lock(rules.experiment));
        BEGIN
            PERFORM @extschema@._evaluate(@extschema@._require_rollout(rules.experiment, 'running'));
        EXCEPTION WHEN OTHERS THEN -- what cannot be judged is held, and holds up no other rollout
            PERFORM @extschema@._record_decision(rules.experiment, 'hold', SQLERRM, jsonb_build_object('error', SQLERRM, 'sqlstate', SQLSTATE), true);
            UPDATE @extschema@.rollout r SET next_due_at = clock_timestamp() + r.check_every WHERE r.experiment = rules.experiment;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _evaluate_rollouts IS 'pg_finetune private: the worker''s look at all rollouts that are due';
REVOKE ALL ON FUNCTION _evaluate_rollouts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _evaluate_rollouts TO finetune_admin;

CREATE FUNCTION _next_rollout_look() RETURNS timestamptz
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT min(r.next_due_at) FROM @extschema@.rollout r JOIN @extschema@.experiment e ON e.name = r.experiment
            WHERE r.state = 'running' AND e.status = 'running');
END
$$;
COMMENT ON FUNCTION _next_rollout_look IS 'pg_finetune private: when the next rollout is due, NULL = never';
REVOKE ALL ON FUNCTION _next_rollout_look FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _next_rollout_look TO finetune_analyst;

CREATE FUNCTION _require_rollout(experiment text, state text) RETURNS rollout
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules @extschema@.rollout;
    status text;
BEGIN
    PERFORM @extschema@._require_experiment(experiment);
    SELECT e.status INTO status FROM @extschema@.experiment e WHERE e.name = _require_rollout.experiment;
    SELECT r.* INTO rules FROM @extschema@.rollout r WHERE r.experiment = _require_rollout.experiment FOR UPDATE;
    IF rules.experiment IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('experiment "%s" has no rollout', experiment),
            DETAIL = 'It runs at the coverage it was given until a person ends it.',
            HINT = 'SELECT @extschema@.start_rollout(experiment);';
    ELSIF status = 'stopped' OR rules.state <> state THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('the rollout of experiment "%s" is %s', experiment, CASE WHEN status = 'stopped' THEN 'over' ELSE rules.state END),
            DETAIL = format('That takes one which is %s; a decision that was reached stays.', state),
            HINT = CASE WHEN status = 'stopped' THEN 'SELECT * FROM @extschema@.rollout_decision ORDER BY id DESC; shows how it ended.'
                        WHEN rules.state = 'paused' THEN 'SELECT @extschema@.resume_rollout(experiment);'
                        WHEN rules.state = 'decided' THEN 'SELECT @extschema@.stop_experiment(name, ship) carries a decision out.'
                        ELSE 'SELECT @extschema@.pause_rollout(experiment);' END;
    END IF;
    RETURN rules;
END
$$;
COMMENT ON FUNCTION _require_rollout IS 'pg_finetune private: locks a rollout that is in this state';
REVOKE ALL ON FUNCTION _require_rollout FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_rollout TO finetune_admin;

CREATE FUNCTION pause_rollout(experiment text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('pause_rollout', 'finetune_admin');
    PERFORM @extschema@._require_rollout(experiment, 'running');
    UPDATE @extschema@.rollout r SET state = 'paused' WHERE r.experiment = pause_rollout.experiment;
END
$$;
COMMENT ON FUNCTION pause_rollout IS 'Nothing is decided until resume_rollout(); the experiment itself goes on at its coverage';
GRANT EXECUTE ON FUNCTION pause_rollout TO finetune_admin;

CREATE FUNCTION resume_rollout(experiment text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('resume_rollout', 'finetune_admin');
    PERFORM @extschema@._require_rollout(experiment, 'paused');
    UPDATE @extschema@.rollout r SET state = 'running', next_due_at = now() WHERE r.experiment = resume_rollout.experiment;
    PERFORM @extschema@._wake_worker();
END
$$;
COMMENT ON FUNCTION resume_rollout IS 'Undoes pause_rollout()';
GRANT EXECUTE ON FUNCTION resume_rollout TO finetune_admin;

CREATE FUNCTION replay_decision(id bigint, OUT decision text, OUT reason text, OUT replayed text, OUT replayed_reason text, OUT same boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    taken @extschema@.rollout_decision;
BEGIN
    PERFORM @extschema@._require_role('replay_decision', 'finetune_analyst');
    SELECT d.* INTO taken FROM @extschema@.rollout_decision d WHERE d.id = replay_decision.id;
    IF taken.id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('there is no decision %s', coalesce(id::text, 'NULL')),
            DETAIL = 'Decisions are numbered in the order in which they were taken.',
            HINT = 'SELECT id, experiment, decision, reason FROM @extschema@.rollout_decision ORDER BY id;';
    END IF;
    decision := taken.decision;
    reason := taken.reason;
    SELECT d.decision, d.reason INTO replayed, replayed_reason FROM @extschema@._decide_rollout(taken.inputs) d;
    same := decision = replayed AND reason = replayed_reason;
END
$$;
COMMENT ON FUNCTION replay_decision IS 'Takes a decision of a rollout again from the numbers stored with it: the same inputs must give the same decision';
GRANT EXECUTE ON FUNCTION replay_decision TO finetune_analyst;

CREATE VIEW rollout_status AS
SELECT r.experiment, CASE WHEN e.status OPERATOR(pg_catalog.=) 'stopped' THEN 'over' ELSE r.state END AS state, p.coverage, r.goal,
       d.decision, d.reason, d.acted, d.decided_at,
       CASE WHEN r.state OPERATOR(pg_catalog.=) 'running' AND e.status OPERATOR(pg_catalog.=) 'running' THEN r.next_due_at END AS next_look_at,
       r.auto_rollback, r.auto_promote
FROM @extschema@.rollout r
JOIN @extschema@.experiment e ON e.name OPERATOR(pg_catalog.=) r.experiment
LEFT JOIN LATERAL (SELECT p.coverage FROM @extschema@.experiment_phase p WHERE p.experiment OPERATOR(pg_catalog.=) r.experiment
                   ORDER BY p.phase DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (SELECT d.* FROM @extschema@.rollout_decision d WHERE d.experiment OPERATOR(pg_catalog.=) r.experiment
                   ORDER BY d.id DESC LIMIT 1) d ON true;
COMMENT ON VIEW rollout_status IS 'One row per rollout: its coverage, the last decision with its reason, and when the next look is due';
