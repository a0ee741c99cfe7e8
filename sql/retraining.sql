-- Again next week: schedules, and the steps of each run. Every step is one transaction of the worker, so it survives a crash.

CREATE FUNCTION _next_tick(cron text, time_zone text, after timestamptz) RETURNS timestamptz
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'next_tick_wrapper';
COMMENT ON FUNCTION _next_tick(text, text, timestamptz) IS 'pg_finetune private: first tick of a cron text strictly after an instant, NULL = never';
REVOKE ALL ON FUNCTION _next_tick(text, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _next_tick(text, text, timestamptz) TO finetune_admin;

CREATE FUNCTION schedule_retraining(
    name               text,
    cron               text DEFAULT '0 0 * * 0',
    time_zone          text DEFAULT 'UTC',
    min_new_examples   integer DEFAULT 100,
    min_first_examples integer DEFAULT 1000,
    provider           text DEFAULT 'builtin',
    base_model         text DEFAULT 'base',
    method             text DEFAULT 'contrastive',
    hyperparameters    jsonb DEFAULT '{}',
    coverage           double precision DEFAULT 1,
    max_usd            numeric DEFAULT NULL,
    rollout            jsonb DEFAULT NULL,
    planned_users      integer DEFAULT 5000,
    evaluate           boolean DEFAULT false
) RETURNS timestamptz
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_next timestamptz;
BEGIN
    PERFORM @extschema@._require_role('schedule_retraining', 'finetune_admin');
    IF name IS NULL OR name = '' OR cron IS NULL OR time_zone IS NULL OR min_new_examples IS NULL OR min_first_examples IS NULL
       OR hyperparameters IS NULL OR coverage IS NULL OR planned_users IS NULL OR evaluate IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'a schedule needs a name, and none of its settings may be NULL',
            DETAIL = 'Only the name has no default; max_usd and rollout may be left out.',
            HINT = 'SELECT schedule_retraining(''weekly'');';
    END IF;
    IF min_new_examples < 0 OR min_first_examples < 0 OR NOT (coverage > 0 AND coverage <= 1) OR planned_users < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a setting of the schedule is out of range',
            DETAIL = format('min_new_examples %s and min_first_examples %s must be 0 or more, coverage %s above 0 and at most 1, planned_users %s 1 or more.',
                            min_new_examples, min_first_examples, coverage, planned_users),
            HINT = 'Leave a setting out for its default.';
    END IF;
    PERFORM @extschema@._check_provider_can_train(provider, base_model, method);
    PERFORM @extschema@._check_parameters(provider, method, hyperparameters);
    IF max_usd < 0 OR max_usd = 'NaN' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('max_usd must be 0 or more, not %s', max_usd),
            DETAIL = 'It holds for each job of the schedule, and for each evaluation of a chat model.',
            HINT = 'Leave it out for no limit.';
    END IF;
    PERFORM @extschema@._read_rollout(rollout);
    v_next := @extschema@._next_tick(cron, time_zone, now());
    IF v_next IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('cron schedule "%s" never comes due', cron),
            DETAIL = 'No day matches it.',
            HINT = 'Five fields: minute hour day-of-month month day-of-week; ''0 0 * * 0'' is every Sunday at midnight.';
    END IF;
    INSERT INTO @extschema@.retraining_schedule AS s
        (name, cron, time_zone, min_new_examples, min_first_examples, provider, base_model, method, hyperparameters, coverage, max_usd, rollout,
         planned_users, evaluate, next_due_at)
    VALUES (name, cron, time_zone, min_new_examples, min_first_examples, provider, base_model, method, hyperparameters, coverage, max_usd, rollout,
            planned_users, evaluate, v_next)
    ON CONFLICT ON CONSTRAINT retraining_schedule_pkey DO UPDATE
    SET cron = excluded.cron, time_zone = excluded.time_zone, min_new_examples = excluded.min_new_examples,
        min_first_examples = excluded.min_first_examples, provider = excluded.provider, base_model = excluded.base_model,
        method = excluded.method, hyperparameters = excluded.hyperparameters, coverage = excluded.coverage, max_usd = excluded.max_usd,
        rollout = excluded.rollout, planned_users = excluded.planned_users, evaluate = excluded.evaluate, created_by = excluded.created_by,
        next_due_at = excluded.next_due_at, enabled = true;
    PERFORM @extschema@._wake_worker();
    RETURN v_next;
END $$;
COMMENT ON FUNCTION schedule_retraining(text, text, text, integer, integer, text, text, text, jsonb, double precision, numeric, jsonb, integer, boolean) IS
    'Retrains by the clock: dataset, job, gate, experiment and, with rollout => rules of start_rollout() as JSON, ramp and promotion. evaluate => true has the worker ask the provider of a model that stands there, for the gate (a chat model for at most max_usd). Returns the first tick; the same name again changes the schedule. Each tick leaves a row in retraining_run';
GRANT EXECUTE ON FUNCTION schedule_retraining(text, text, text, integer, integer, text, text, text, jsonb, double precision, numeric, jsonb, integer, boolean) TO finetune_admin;

CREATE FUNCTION _check_schedule(name text) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM @extschema@.retraining_schedule s WHERE s.name = _check_schedule.name) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('schedule "%s" does not exist', name),
            DETAIL = format('Schedules: %s.', COALESCE((SELECT string_agg(s.name, ', ' ORDER BY s.name) FROM @extschema@.retraining_schedule s), 'none')),
            HINT = 'SELECT * FROM retraining_schedule; lists them.';
    END IF;
END $$;
COMMENT ON FUNCTION _check_schedule(text) IS 'pg_finetune private: ERROR 42704 unless there is a schedule of that name';
REVOKE ALL ON FUNCTION _check_schedule(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_schedule(text) TO finetune_admin;

CREATE FUNCTION unschedule_retraining(name text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('unschedule_retraining', 'finetune_admin');
    PERFORM @extschema@._check_schedule(name);
    DELETE FROM @extschema@.retraining_schedule s WHERE s.name = unschedule_retraining.name;
END $$;
COMMENT ON FUNCTION unschedule_retraining(text) IS 'Ends a schedule; a run that is under way ends by itself, its rows stay';
GRANT EXECUTE ON FUNCTION unschedule_retraining(text) TO finetune_admin;

CREATE FUNCTION retrain_now(name text) RETURNS timestamptz
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require_role('retrain_now', 'finetune_admin');
    PERFORM @extschema@._check_schedule(name);
    UPDATE @extschema@.retraining_schedule s SET next_due_at = clock_timestamp(), enabled = true WHERE s.name = retrain_now.name;
    PERFORM @extschema@._wake_worker();
    RETURN clock_timestamp();
END $$;
COMMENT ON FUNCTION retrain_now(text) IS 'A tick of a schedule at once, by the same rules; the rhythm goes on afterwards';
GRANT EXECUTE ON FUNCTION retrain_now(text) TO finetune_admin;

CREATE FUNCTION _end_run(schedule text, due_at timestamptz, state text, stage text, reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.retraining_run r
    SET state = _end_run.state, stage = _end_run.stage, reason = _end_run.reason, finished_at = clock_timestamp()
    WHERE r.schedule = _end_run.schedule AND r.due_at = _end_run.due_at;
END $$;
COMMENT ON FUNCTION _end_run(text, timestamptz, text, text, text) IS 'pg_finetune private: final state of a run and why';
REVOKE ALL ON FUNCTION _end_run(text, timestamptz, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _end_run(text, timestamptz, text, text, text) TO finetune_admin;

CREATE FUNCTION _note_run(experiment text, note text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.retraining_run r SET reason = note WHERE r.experiment = _note_run.experiment AND r.state = 'running';
END $$;
COMMENT ON FUNCTION _note_run(text, text) IS 'pg_finetune private: what a rollout says, for the run that waits for it';
REVOKE ALL ON FUNCTION _note_run(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _note_run(text, text) TO finetune_admin;

CREATE FUNCTION _end_run_of(experiment text, shipped text, reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._end_run(r.schedule, r.due_at, 'ran', CASE WHEN shipped <> 'base' THEN 'promoted' ELSE 'kept' END,
        CASE WHEN shipped <> 'base' THEN format('model %s serves everybody: ', r.model_id) ELSE 'kept what serves: ' END || coalesce(_end_run_of.reason, 'stopped by hand'))
    FROM @extschema@.retraining_run r WHERE r.experiment = _end_run_of.experiment AND r.state = 'running';
END $$;
COMMENT ON FUNCTION _end_run_of(text, text, text) IS 'pg_finetune private: ends the run that waits for an experiment which has ended';
REVOKE ALL ON FUNCTION _end_run_of(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _end_run_of(text, text, text) TO finetune_admin;

CREATE FUNCTION _take_tick(schedule @extschema@.retraining_schedule) RETURNS timestamptz
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_due  timestamptz := schedule.next_due_at;
    v_next timestamptz;
    v_missed integer := 0;
BEGIN
    LOOP
        v_next := @extschema@._next_tick(schedule.cron, schedule.time_zone, v_due);
        EXIT WHEN v_next IS NULL OR v_next > clock_timestamp();
        -- Older than the newest due tick: written down, caught up once by the newest. A year of minutes is not written out.
        IF v_missed < 1000 THEN
            INSERT INTO @extschema@.retraining_run (schedule, due_at, state, stage, reason, finished_at)
            VALUES (schedule.name, v_due, 'missed', 'missed', 'the worker was not at work then; the next tick caught up', clock_timestamp())
            ON CONFLICT ON CONSTRAINT retraining_run_pkey DO NOTHING;
            v_missed := v_missed + 1;
            v_due := v_next;
        ELSE
            v_due := clock_timestamp();
        END IF;
    END LOOP;
    UPDATE @extschema@.retraining_schedule s SET next_due_at = COALESCE(v_next, 'infinity'), enabled = v_next IS NOT NULL
    WHERE s.name = schedule.name;
    RETURN v_due;
END $$;
COMMENT ON FUNCTION _take_tick(retraining_schedule) IS 'pg_finetune private: moves a schedule on to its next future tick, writes missed ones down and returns the tick to run';
REVOKE ALL ON FUNCTION _take_tick(retraining_schedule) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _take_tick(retraining_schedule) TO finetune_admin;

CREATE FUNCTION _begin_run(schedule @extschema@.retraining_schedule, due_at timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_new     bigint := (SELECT count(*) FROM @extschema@.training_data_point p WHERE NOT p.used_for_training AND p.user_action IS NOT NULL);
    v_first   boolean := NOT EXISTS (SELECT 1 FROM @extschema@.retraining_run r WHERE r.schedule = schedule.name AND r.model_id IS NOT NULL);
    v_wanted  integer := CASE WHEN v_first THEN schedule.min_first_examples ELSE schedule.min_new_examples END;
    v_dataset uuid;
    v_job     uuid;
    v_message text;
    v_detail  text;
BEGIN
    INSERT INTO @extschema@.retraining_run (schedule, due_at, state, stage, new_examples)
    VALUES (schedule.name, due_at, 'running', 'dataset', v_new)
    ON CONFLICT ON CONSTRAINT retraining_run_pkey DO NOTHING;
    IF NOT FOUND THEN
        RETURN; -- this tick has its row: never two runs for one due time
    END IF;
    IF EXISTS (SELECT 1 FROM @extschema@.retraining_run r WHERE r.schedule = schedule.name AND r.state = 'running' AND r.due_at <> _begin_run.due_at) THEN
        PERFORM @extschema@._end_run(schedule.name, due_at, 'skipped', 'skipped', 'the run before it was still under way');
        RETURN;
    END IF;
    IF v_new < v_wanted THEN
        PERFORM @extschema@._end_run(schedule.name, due_at, 'skipped', 'skipped',
            format('%s new examples, %s wanted%s', v_new, v_wanted, CASE WHEN v_first THEN ' for the first run' ELSE '' END));
        RETURN;
    END IF;
    BEGIN
        v_dataset := @extschema@.create_dataset(schedule.name);
        v_job := @extschema@._submit_job(schedule.created_by,
            (SELECT d.name || ':' || d.version FROM @extschema@.dataset d WHERE d.id = v_dataset),
            schedule.provider, schedule.base_model, schedule.method, schedule.hyperparameters, 42, interval '24 hours', schedule.max_usd);
        UPDATE @extschema@.retraining_run r SET stage = 'training', dataset_id = v_dataset, job_id = v_job
        WHERE r.schedule = schedule.name AND r.due_at = _begin_run.due_at;
    EXCEPTION WHEN OTHERS THEN
        -- A refusal (too few examples, one class only) is a normal outcome; anything else is a failure.
        GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL;
        PERFORM @extschema@._end_run(schedule.name, due_at, CASE WHEN SQLSTATE = '55000' THEN 'skipped' ELSE 'failed' END,
                                     'dataset', concat_ws('; ', v_message, NULLIF(v_detail, '')));
    END;
END $$;
COMMENT ON FUNCTION _begin_run(retraining_schedule, timestamptz) IS 'pg_finetune private: dataset and job of one tick, or the reason why not';
REVOKE ALL ON FUNCTION _begin_run(retraining_schedule, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _begin_run(retraining_schedule, timestamptz) TO finetune_admin;

CREATE FUNCTION _continue_run(run @extschema@.retraining_run) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_job        @extschema@.fine_tuning_job;
    v_gate       record;
    v_running    text;
    v_experiment text := format('%s-%s', run.schedule, to_char(run.due_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISS'));
    v_schedule   @extschema@.retraining_schedule;
BEGIN
    SELECT j.* INTO v_job FROM @extschema@.fine_tuning_job j WHERE j.id = run.job_id;
    IF @extschema@._job_is_open(v_job.state) THEN
        RETURN;
    END IF;
    IF v_job.state IS DISTINCT FROM 'succeeded' THEN
        PERFORM @extschema@._end_run(run.schedule, run.due_at, 'failed', 'training',
            COALESCE('job ' || v_job.state || COALESCE(': ' || v_job.error_message, ''), 'its job is gone'));
        RETURN;
    END IF;
    UPDATE @extschema@.retraining_run r SET model_id = v_job.model_id WHERE r.schedule = run.schedule AND r.due_at = run.due_at;
    SELECT s.* INTO v_schedule FROM @extschema@.retraining_schedule s WHERE s.name = run.schedule;
    SELECT g.* INTO v_gate FROM @extschema@._gate(v_job.model_id) g;
    IF v_gate.verdict IS NULL AND v_schedule.evaluate AND v_job.provider <> 'builtin' THEN
        UPDATE @extschema@.retraining_run r SET stage = 'evaluation', retry_at = clock_timestamp(), reason = format('model %s is to be asked at "%s"', v_job.model_id, v_job.provider)
        WHERE r.schedule = run.schedule AND r.due_at = run.due_at;
        RETURN;
    END IF;
    IF v_gate.verdict IS DISTINCT FROM 'passed' THEN
        PERFORM @extschema@._end_run(run.schedule, run.due_at, 'ran', 'gate', 'kept what serves, because ' || COALESCE(v_gate.reason, 'the model was not evaluated'));
        RETURN;
    END IF;
    SELECT e.name INTO v_running FROM @extschema@.experiment e WHERE e.status = 'running' ORDER BY e.started_at, e.name LIMIT 1;
    IF v_running IS NOT NULL THEN
        PERFORM @extschema@._end_run(run.schedule, run.due_at, 'ran', 'gate',
            format('model %s passed the gate; experiment %s still runs, start the next one by hand', v_job.model_id, v_running));
        RETURN;
    END IF;
    IF v_job.provider <> 'builtin' AND v_job.method = 'contrastive' THEN
        PERFORM @extschema@._end_run(run.schedule, run.due_at, 'ran', 'gate',
            format('model %1$s passed the gate, but your tables have none of its vectors: CALL reembed(..., %1$L), then start_experiment(..., %1$L)', v_job.model_id));
        RETURN;
    END IF;
    PERFORM @extschema@.start_experiment(v_experiment, v_job.model_id, planned_users => COALESCE(v_schedule.planned_users, 5000),
        coverage => LEAST(COALESCE(v_schedule.coverage, 1), CASE WHEN v_schedule.rollout IS NOT NULL THEN @extschema@._first_step(v_schedule.rollout) END));
    UPDATE @extschema@.retraining_run r SET experiment = v_experiment WHERE r.schedule = run.schedule AND r.due_at = run.due_at;
    IF v_schedule.rollout IS NOT NULL THEN
        -- The run goes on until the experiment ends, whoever ends it.
        PERFORM @extschema@._start_rollout_from(v_experiment, v_schedule.rollout);
        UPDATE @extschema@.retraining_run r SET stage = 'rollout', reason = format('model %s is being rolled out in experiment %s', v_job.model_id, v_experiment)
        WHERE r.schedule = run.schedule AND r.due_at = run.due_at;
        RETURN;
    END IF;
    PERFORM @extschema@._end_run(run.schedule, run.due_at, 'ran', 'experiment', format('model %s is being compared in experiment %s', v_job.model_id, v_experiment));
END $$;
COMMENT ON FUNCTION _continue_run(retraining_run) IS 'pg_finetune private: once the job of a run has ended: gate, then experiment, or the reason why not';
REVOKE ALL ON FUNCTION _continue_run(retraining_run) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _continue_run(retraining_run) TO finetune_admin;

CREATE FUNCTION _due_evaluations() RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT r.job_id FROM @extschema@.retraining_run r
        WHERE r.state = 'running' AND r.stage = 'evaluation' AND r.retry_at <= clock_timestamp() AND r.tries < 5 ORDER BY r.retry_at;
END $$;
COMMENT ON FUNCTION _due_evaluations() IS 'pg_finetune private: jobs of schedules whose models a provider is to be asked about now';
REVOKE ALL ON FUNCTION _due_evaluations() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _due_evaluations() TO finetune_admin;

CREATE FUNCTION _next_evaluation() RETURNS timestamptz
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT min(r.retry_at) FROM @extschema@.retraining_run r WHERE r.state = 'running' AND r.stage = 'evaluation');
END $$;
COMMENT ON FUNCTION _next_evaluation() IS 'pg_finetune private: when a provider is to be asked about a model of a schedule, NULL = never';
REVOKE ALL ON FUNCTION _next_evaluation() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _next_evaluation() TO finetune_analyst, finetune_admin;

CREATE FUNCTION _postpone_evaluation(job uuid, delay interval) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.retraining_run r SET retry_at = clock_timestamp() + delay
    WHERE r.job_id = job AND r.state = 'running' AND r.stage = 'evaluation' AND r.retry_at <= clock_timestamp();
END $$;
COMMENT ON FUNCTION _postpone_evaluation(uuid, interval) IS 'pg_finetune private: leaves an evaluation to the process that was started for it, or until one is free';
REVOKE ALL ON FUNCTION _postpone_evaluation(uuid, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _postpone_evaluation(uuid, interval) TO finetune_admin;

CREATE FUNCTION _claim_evaluation(job uuid, OUT token integer, OUT model text, OUT owner text, OUT max_usd numeric)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- An hour is the lease: whoever holds the evaluation and is not heard of by then has died.
    UPDATE @extschema@.retraining_run r
    SET tries = r.tries + 1, retry_at = clock_timestamp() + interval '1 hour', reason = format('"%s" is asked about model %s', j.provider, r.model_id)
    FROM @extschema@.fine_tuning_job j
    WHERE r.job_id = job AND j.id = job AND r.state = 'running' AND r.stage = 'evaluation' AND r.retry_at <= clock_timestamp() + interval '15 seconds'
    RETURNING r.tries, r.model_id, j.owner, CASE WHEN j.method <> 'contrastive' THEN j.max_usd END INTO token, model, owner, max_usd;
END $$;
COMMENT ON FUNCTION _claim_evaluation(uuid) IS 'pg_finetune private: takes an evaluation whose time has come, NULL = somebody else has it';
REVOKE ALL ON FUNCTION _claim_evaluation(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _claim_evaluation(uuid) TO finetune_admin;

CREATE FUNCTION _end_evaluation(job uuid, token integer, error text, may_pass boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run @extschema@.retraining_run;
    v_again timestamptz := clock_timestamp() + interval '1 minute' * 2 ^ (token - 1);
BEGIN
    SELECT r.* INTO run FROM @extschema@.retraining_run r
    WHERE r.job_id = job AND r.state = 'running' AND r.stage = 'evaluation' AND r.tries = token FOR UPDATE;
    IF NOT FOUND THEN
        RETURN; -- another process holds it now
    END IF;
    IF error IS NOT NULL AND (may_pass IS NOT TRUE OR token >= 5) THEN
        PERFORM @extschema@._end_run(run.schedule, run.due_at, 'failed', 'evaluation', format('%s (CALL evaluate_model(%L) goes on where it was)', error, run.model_id));
        RETURN;
    END IF;
    UPDATE @extschema@.retraining_run r
    SET retry_at = CASE WHEN error IS NOT NULL THEN v_again END,
        reason = CASE WHEN error IS NOT NULL THEN format('asked again at %s: %s', to_char(v_again, 'HH24:MI:SS'), error) END
    WHERE r.schedule = run.schedule AND r.due_at = run.due_at;
    PERFORM @extschema@._wake_worker();
END $$;
COMMENT ON FUNCTION _end_evaluation(uuid, integer, text, boolean) IS 'pg_finetune private: what became of an evaluation: on to the gate, again later (five times), or failed';
REVOKE ALL ON FUNCTION _end_evaluation(uuid, integer, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _end_evaluation(uuid, integer, text, boolean) TO finetune_admin;

CREATE FUNCTION _advance_retraining() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_schedule @extschema@.retraining_schedule;
    v_run      @extschema@.retraining_run;
BEGIN
    FOR v_run IN
        SELECT r.* FROM @extschema@.retraining_run r
        WHERE r.state = 'running' AND (r.stage = 'training' OR r.stage = 'evaluation' AND r.retry_at IS NULL) FOR UPDATE SKIP LOCKED
    LOOP
        BEGIN
            PERFORM @extschema@._continue_run(v_run);
        EXCEPTION WHEN OTHERS THEN
            PERFORM @extschema@._end_run(v_run.schedule, v_run.due_at, 'failed', v_run.stage, SQLERRM);
        END;
    END LOOP;
    -- Whoever held it five times has died: it would take the next one with it.
    PERFORM @extschema@._end_run(r.schedule, r.due_at, 'failed', 'evaluation', format('five processes died over it (CALL evaluate_model(%L) goes on where it was)', r.model_id))
    FROM @extschema@.retraining_run r WHERE r.state = 'running' AND r.stage = 'evaluation' AND r.tries >= 5 AND r.retry_at <= clock_timestamp();
    FOR v_schedule IN
        SELECT s.* FROM @extschema@.retraining_schedule s WHERE s.enabled AND s.next_due_at <= clock_timestamp()
        ORDER BY s.next_due_at, s.name FOR UPDATE SKIP LOCKED
    LOOP
        BEGIN
            PERFORM @extschema@._begin_run(v_schedule, @extschema@._take_tick(v_schedule));
        EXCEPTION WHEN OTHERS THEN
            -- A schedule that cannot be read (edited by hand) must not stop the others, nor fail again every few seconds.
            UPDATE @extschema@.retraining_schedule s SET enabled = false WHERE s.name = v_schedule.name;
            INSERT INTO @extschema@.retraining_run (schedule, due_at, state, stage, reason, finished_at)
            VALUES (v_schedule.name, v_schedule.next_due_at, 'failed', 'tick', SQLERRM || '; the schedule is switched off', clock_timestamp())
            ON CONFLICT ON CONSTRAINT retraining_run_pkey DO NOTHING;
        END;
    END LOOP;
END $$;
COMMENT ON FUNCTION _advance_retraining() IS 'pg_finetune private: one step of every run and schedule that has one to take';
REVOKE ALL ON FUNCTION _advance_retraining() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _advance_retraining() TO finetune_admin;
