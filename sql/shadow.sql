-- Shadow scoring: a sample of what is shown under a deployed model is scored by it and by what served before. A look is four steps, each a
-- transaction of its own (src/worker/database.rs): draw, score in batches, compare, and, when the model is worse, roll back.

-- Deleted after so long without a decision of the user; at most so many wait at one time.
CREATE FUNCTION _shadow_limits(OUT waits interval, OUT waiting integer, OUT drawn integer, OUT per_user integer, OUT newest integer, OUT every interval)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    waits := '7 days'; waiting := 5000; drawn := 1000; per_user := 50; newest := 20000; every := '1 hour';
END
$$;
COMMENT ON FUNCTION _shadow_limits IS 'pg_finetune private: bounds of one look at live impressions';
REVOKE ALL ON FUNCTION _shadow_limits FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _shadow_limits TO finetune_analyst, finetune_admin;

CREATE FUNCTION _has_query(model text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN model = 'base' OR EXISTS (SELECT FROM @extschema@.adapter a WHERE a.model_id = model);
END
$$;
COMMENT ON FUNCTION _has_query IS 'pg_finetune private: whether a model ranks inside the database, so that it can be scored here';
REVOKE ALL ON FUNCTION _has_query FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _has_query TO finetune_analyst, finetune_admin;

CREATE FUNCTION _watched_deployment() RETURNS deployment
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    live @extschema@.deployment;
BEGIN
    SELECT d.* INTO live FROM @extschema@.deployment d ORDER BY d.id DESC LIMIT 1;
    RETURN CASE WHEN live.model_id <> 'base' AND @extschema@._has_query(live.model_id) THEN live END;
END
$$;
COMMENT ON FUNCTION _watched_deployment IS 'pg_finetune private: what is live, when it is a model that can be compared with what served before; else NULL';
REVOKE ALL ON FUNCTION _watched_deployment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _watched_deployment TO finetune_analyst, finetune_admin;

CREATE FUNCTION _watch(live deployment) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    earlier text := (@extschema@._earlier_live_models())[1];
BEGIN
    INSERT INTO @extschema@.shadow_look (deployment_id, model_id, earlier_model_id)
    VALUES (live.id, live.model_id, CASE WHEN @extschema@._has_query(earlier) THEN earlier ELSE 'base' END)
    ON CONFLICT (deployment_id) DO NOTHING;
END
$$;
COMMENT ON FUNCTION _watch IS 'pg_finetune private: begins to watch a deployment, beside what served before or, where that has no vectors here, base';
REVOKE ALL ON FUNCTION _watch FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _watch TO finetune_admin;

CREATE FUNCTION _draw_impressions(watched shadow_look, since timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bounds record;
    room bigint;
    drawn bigint;
BEGIN
    SELECT b.* INTO bounds FROM @extschema@._shadow_limits() b;
    DELETE FROM @extschema@.shadow_score s
    WHERE s.deployment_id = watched.deployment_id AND s.scored_at IS NULL AND s.shown_at < now() - bounds.waits;
    SELECT least(bounds.drawn, bounds.waiting - count(*)) INTO room FROM @extschema@.shadow_score s
    WHERE s.deployment_id = watched.deployment_id AND s.scored_at IS NULL;
    -- Drawn when shown, whatever comes of it: who decides quickly is no fair sample. The same users again and again, so that
    -- what one user saved can be compared with what the same user skipped.
    INSERT INTO @extschema@.shadow_score (user_id, deployment_id, source, signal_id, surface, shown_at)
    SELECT n.user_id, watched.deployment_id, n.source, n.signal_id, n.surface, n.shown_at
    FROM (SELECT l.*, row_number() OVER (PARTITION BY l.user_id ORDER BY hashtextextended(l.signal_id, watched.deployment_id), l.signal_id) AS place
          FROM (SELECT p.user_id, p.source, p.signal_id, p.surface, p.shown_at FROM @extschema@.model_performance_log p
                WHERE p.experiment IS NULL AND p.phase IS NULL AND p.shown_at >= since
                ORDER BY p.experiment DESC, p.phase DESC, p.shown_at DESC LIMIT bounds.newest) l) n
    WHERE n.place <= bounds.per_user
      AND NOT EXISTS (SELECT FROM @extschema@.shadow_score k WHERE k.user_id = n.user_id AND k.deployment_id = watched.deployment_id
                      AND k.source = n.source AND k.signal_id = n.signal_id)
    ORDER BY hashtextextended(n.user_id, watched.deployment_id), n.user_id, n.place LIMIT greatest(room, 0)
    ON CONFLICT (user_id, deployment_id, source, signal_id) DO NOTHING;
    GET DIAGNOSTICS drawn = ROW_COUNT;
    RETURN drawn;
END
$$;
COMMENT ON FUNCTION _draw_impressions IS 'pg_finetune private: a bounded sample of what users outside experiments were shown since then; seeded by the deployment';
REVOKE ALL ON FUNCTION _draw_impressions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _draw_impressions TO finetune_admin;

CREATE FUNCTION _begin_shadow_look(by_hand boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    live @extschema@.deployment := @extschema@._watched_deployment();
    watched @extschema@.shadow_look;
BEGIN
    IF live.id IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM @extschema@._watch(live);
    SELECT w.* INTO watched FROM @extschema@.shadow_look w
    WHERE w.deployment_id = live.id AND (by_hand OR w.next_due_at <= clock_timestamp()) FOR UPDATE;
    IF watched.deployment_id IS NULL THEN
        RETURN NULL;
    END IF;
    -- A little back: rows of transactions that were open at the last look carry earlier times.
    PERFORM @extschema@._draw_impressions(watched, greatest(live.deployed_at, watched.looked_at - interval '5 minutes'));
    UPDATE @extschema@.shadow_look w
    SET looked_at = clock_timestamp(), next_due_at = clock_timestamp() + (SELECT b.every FROM @extschema@._shadow_limits() b)
    WHERE w.deployment_id = live.id;
    RETURN live.id;
END
$$;
COMMENT ON FUNCTION _begin_shadow_look IS 'pg_finetune private: draws impressions of what is live, when a look is due or asked for by hand; returns the deployment, NULL = nothing to look at';
REVOKE ALL ON FUNCTION _begin_shadow_look FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _begin_shadow_look TO finetune_admin;

CREATE FUNCTION _profile_rows_before(who text, origin text, signal text, moment timestamptz)
RETURNS TABLE (user_action text, dimensions integer, points bigint, total bytea)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 4 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT p.user_action, p.dimensions, p.points, p.total FROM @extschema@.user_profile p WHERE p.user_id = who
    UNION ALL
    SELECT t.user_action, @extschema:vector@.vector_dims(t.embedding), -count(*), @extschema@._profile_total(t.embedding, -1)
    FROM @extschema@.training_data_point t
    WHERE t.user_id = who AND (t.actioned_at >= moment OR t.source = origin AND t.signal_id = signal)
      AND t.user_action IS NOT NULL AND t.embedding IS NOT NULL AND @extschema:vector@.vector_norm(t.embedding) > 0
    GROUP BY 1, 2;
END
$$;
COMMENT ON FUNCTION _profile_rows_before IS 'pg_finetune private: what a user''s profile was the sum of before an item was shown: later actions and the one on the item itself are taken away, exactly';
REVOKE ALL ON FUNCTION _profile_rows_before FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_rows_before TO finetune_admin;

CREATE FUNCTION _shadow_reference(deployment bigint) RETURNS real[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rows real := (SELECT greatest(c.reltuples, 1) FROM pg_class c WHERE c.oid = '@extschema@.training_data_point'::regclass);
    sample real[];
    length integer;
BEGIN
    -- Of the vectors in use now; a hundred are enough for a standard deviation.
    SELECT a.dimensions INTO length FROM @extschema@.adapter a JOIN @extschema@.shadow_look w ON w.model_id = a.model_id
    WHERE w.deployment_id = deployment;
    SELECT array_agg(v.x) INTO sample
    FROM (SELECT p.embedding::real[] AS x FROM @extschema@.training_data_point p TABLESAMPLE SYSTEM (least(100, 50000 / rows)) REPEATABLE (deployment)
          WHERE @extschema:vector@.vector_dims(p.embedding) = length LIMIT 100) v;
    RETURN sample;
END
$$;
COMMENT ON FUNCTION _shadow_reference IS 'pg_finetune private: vectors of a hundred items that anybody was shown at any time, one after the other';
REVOKE ALL ON FUNCTION _shadow_reference FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _shadow_reference TO finetune_admin;

CREATE FUNCTION _shadow_scores(who text, origin text, signal text, shown_at timestamptz, embedding vector, model text, earlier text, reference real[])
RETURNS double precision[]
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'shadow_scores_wrapper';
COMMENT ON FUNCTION _shadow_scores IS 'pg_finetune private: cosines of an item with the query vectors of two models, each followed by the spread of such cosines over the reference, from the profile as it was before the item was shown; NULL without one';
REVOKE ALL ON FUNCTION _shadow_scores FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _shadow_scores TO finetune_admin;

CREATE FUNCTION _score_shadows(deployment bigint, batch integer, OUT seen integer, OUT scored integer, OUT unscored integer)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    watched @extschema@.shadow_look;
    shown record;
    scores double precision[];
    reference real[] := @extschema@._shadow_reference(deployment);
BEGIN
    seen := 0;
    scored := 0;
    unscored := 0;
    SELECT w.* INTO STRICT watched FROM @extschema@.shadow_look w WHERE w.deployment_id = deployment;
    FOR shown IN
        SELECT s.user_id, s.source, s.signal_id, s.shown_at, l.user_action
        FROM @extschema@.shadow_score s
        JOIN @extschema@.model_performance_log l ON l.user_id = s.user_id AND l.source = s.source AND l.signal_id = s.signal_id
        WHERE s.deployment_id = deployment AND s.scored_at IS NULL AND l.user_action IS NOT NULL
        LIMIT batch
    LOOP
        scores := (SELECT @extschema@._shadow_scores(p.user_id, p.source, p.signal_id, shown.shown_at, p.embedding, watched.model_id,
                                                      watched.earlier_model_id, reference)
                   FROM @extschema@.training_data_point p
                   WHERE p.user_id = shown.user_id AND p.source = shown.source AND p.signal_id = shown.signal_id);
        UPDATE @extschema@.shadow_score s
        SET scored_at = clock_timestamp(), score = scores[1], spread = scores[2], earlier_score = scores[3], earlier_spread = scores[4],
            saved = shown.user_action = ANY (SELECT unnest(a.positive) FROM @extschema@.adapter a WHERE a.model_id = watched.model_id)
        WHERE s.user_id = shown.user_id AND s.deployment_id = deployment AND s.source = shown.source AND s.signal_id = shown.signal_id
          AND s.scored_at IS NULL;
        seen := seen + 1;
        IF FOUND THEN -- somebody else may look at the same time
            scored := scored + (scores IS NOT NULL)::integer;
            unscored := unscored + (scores IS NULL)::integer;
        END IF;
    END LOOP;
    UPDATE @extschema@.shadow_look w SET scored = w.scored + _score_shadows.scored, unscored = w.unscored + _score_shadows.unscored
    WHERE w.deployment_id = deployment AND seen > 0;
END
$$;
COMMENT ON FUNCTION _score_shadows IS 'pg_finetune private: scores one batch of drawn impressions that users have decided on; returns how many, and how many had a profile';
REVOKE ALL ON FUNCTION _score_shadows FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _score_shadows TO finetune_admin;

CREATE FUNCTION _shadow_level(look integer) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'shadow_level_wrapper';
COMMENT ON FUNCTION _shadow_level IS 'pg_finetune private: error rate of one look, so that all looks together stay below 5 %';
REVOKE ALL ON FUNCTION _shadow_level FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _shadow_level TO finetune_admin;

CREATE FUNCTION _compare_shadow(users integer[], surfaces integer[], days integer[], saved boolean[], scores double precision[],
    spreads double precision[], earlier double precision[], earlier_spreads double precision[], level double precision, seed bigint)
RETURNS TABLE (impressions integer, unit text, units integer, auc double precision, earlier_auc double precision, gain double precision,
    low double precision, high double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', 'compare_shadow_wrapper';
COMMENT ON FUNCTION _compare_shadow IS 'pg_finetune private: who is right where two models disagree on impressions, newest first, with the bootstrap interval over users or days, and the AUC of both; no row = too few of either';
REVOKE ALL ON FUNCTION _compare_shadow FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _compare_shadow TO finetune_admin;

CREATE FUNCTION _compare_shadows(watched shadow_look) RETURNS shadow_look
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    level double precision := @extschema@._shadow_level(watched.looks + 1);
    c record;
BEGIN
    SELECT k.* INTO c
    FROM (SELECT array_agg(n.number ORDER BY n.place) AS users, array_agg(n.surface ORDER BY n.place) AS surfaces,
                 array_agg(n.day ORDER BY n.place) AS days, array_agg(n.saved ORDER BY n.place) AS saved,
                 array_agg(n.score ORDER BY n.place) AS scores, array_agg(n.spread ORDER BY n.place) AS spreads,
                 array_agg(n.earlier_score ORDER BY n.place) AS earlier, array_agg(n.earlier_spread ORDER BY n.place) AS earlier_spreads
          FROM (SELECT w.place, w.saved, w.score::float8, w.spread::float8, w.earlier_score::float8, w.earlier_spread::float8, (w.shown_at AT TIME ZONE 'UTC')::date - date '2000-01-01' AS day,
                       dense_rank() OVER (ORDER BY w.user_id COLLATE "C")::integer AS number,
                       dense_rank() OVER (ORDER BY w.surface COLLATE "C")::integer AS surface
                FROM (SELECT s.*, row_number() OVER (ORDER BY s.shown_at DESC, s.user_id COLLATE "C", s.source COLLATE "C", s.signal_id COLLATE "C") AS place
                      FROM @extschema@.shadow_score s
                      WHERE s.deployment_id = watched.deployment_id AND s.score IS NOT NULL AND s.earlier_score IS NOT NULL
                      ORDER BY s.shown_at DESC, s.user_id COLLATE "C", s.source COLLATE "C", s.signal_id COLLATE "C" LIMIT 4000) w) n) a
    CROSS JOIN LATERAL @extschema@._compare_shadow(a.users, a.surfaces, a.days, a.saved, a.scores, a.spreads, a.earlier, a.earlier_spreads, level, watched.deployment_id + watched.looks) k;
    watched.compared := watched.scored;
    IF c.units IS NULL THEN
        watched.state := 'collecting';
        watched.reason := format('too few users among the %s scored impressions both saved and skipped something on one surface: 20 are needed, or 20 days', watched.scored);
        RETURN watched;
    END IF;
    watched.looks := watched.looks + 1;
    watched.confidence := 1 - 2 * level;
    watched.impressions := c.impressions;
    watched.unit := c.unit;
    watched.units := c.units;
    watched.auc := c.auc;
    watched.earlier_auc := c.earlier_auc;
    watched.gain := c.gain;
    watched.gain_low := c.low;
    watched.gain_high := c.high;
    watched.state := CASE WHEN c.high < 0 THEN 'worse' ELSE 'no worse' END;
    watched.reason := format('on the last %s live impressions (%s %s) "%s" ranks %s "%s": where they disagree, each standard deviation '
                             || 'that it scores an item higher goes with %s points of the save rate [%s, %s]; AUC %s against %s',
        c.impressions, c.units, c.unit, watched.model_id,
        CASE WHEN c.high < 0 THEN 'worse than' WHEN c.low > 0 THEN 'better than' ELSE 'neither clearly better nor worse than' END,
        watched.earlier_model_id, to_char(100 * c.gain, 'SFM990.0'), to_char(100 * c.low, 'SFM990.0'), to_char(100 * c.high, 'SFM990.0'),
        to_char(c.auc, 'FM0.000'), to_char(c.earlier_auc, 'FM0.000'));
    RETURN watched;
END
$$;
COMMENT ON FUNCTION _compare_shadows IS 'pg_finetune private: the verdict on the newest scored impressions; changes nothing';
REVOKE ALL ON FUNCTION _compare_shadows FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _compare_shadows TO finetune_admin;

CREATE FUNCTION _finish_shadow_look(deployment bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    watched @extschema@.shadow_look;
    live @extschema@.deployment;
BEGIN
    SELECT w.* INTO STRICT watched FROM @extschema@.shadow_look w WHERE w.deployment_id = deployment FOR UPDATE;
    IF watched.scored < 500 THEN
        watched.state := 'collecting';
        watched.reason := format('%s of 500 live impressions are scored', watched.scored);
    ELSIF watched.scored >= watched.compared + 100 OR watched.looks = 0 THEN
        watched := @extschema@._compare_shadows(watched);
    END IF;
    IF watched.state = 'worse' AND watched.auto_rollback AND current_setting('pg_finetune.auto_rollback')::boolean THEN
        LOCK TABLE @extschema@.deployment IN SHARE ROW EXCLUSIVE MODE;
        live := @extschema@._watched_deployment();
        IF live.id = deployment THEN -- nobody was quicker
            PERFORM @extschema@._record_deployment(watched.earlier_model_id, 'rollback',
                format('rolled back to "%s": %s', watched.earlier_model_id, watched.reason), NULL, NULL, 'pg_finetune worker');
            watched.state := 'rolled back';
            RAISE LOG 'pg_finetune: rolled back to "%": %', watched.earlier_model_id, watched.reason;
            RAISE NOTICE 'rolled back to "%": %', watched.earlier_model_id, watched.reason;
        END IF;
    END IF;
    UPDATE @extschema@.shadow_look w
    SET state = watched.state, reason = watched.reason, compared = watched.compared, looks = watched.looks, impressions = watched.impressions,
        unit = watched.unit, units = watched.units, auc = watched.auc, earlier_auc = watched.earlier_auc, gain = watched.gain,
        gain_low = watched.gain_low, gain_high = watched.gain_high, confidence = watched.confidence
    WHERE w.deployment_id = deployment;
END
$$;
COMMENT ON FUNCTION _finish_shadow_look IS 'pg_finetune private: compares once 500 impressions are scored and then after every 100 more, and rolls back what is worse';
REVOKE ALL ON FUNCTION _finish_shadow_look FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _finish_shadow_look TO finetune_admin;

CREATE FUNCTION _shadow_failed(deployment bigint, message text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.shadow_look w SET state = 'failed', reason = message WHERE w.deployment_id = deployment;
END
$$;
COMMENT ON FUNCTION _shadow_failed IS 'pg_finetune private: why a look could not be finished; the next one is tried at its time';
REVOKE ALL ON FUNCTION _shadow_failed FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _shadow_failed TO finetune_admin;

CREATE FUNCTION _next_shadow_look() RETURNS timestamptz
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    live @extschema@.deployment := @extschema@._watched_deployment();
BEGIN
    RETURN CASE WHEN live.id IS NOT NULL THEN
        coalesce((SELECT w.next_due_at FROM @extschema@.shadow_look w WHERE w.deployment_id = live.id), live.deployed_at) END;
END
$$;
COMMENT ON FUNCTION _next_shadow_look IS 'pg_finetune private: when what is live is looked at next, NULL = never';
REVOKE ALL ON FUNCTION _next_shadow_look FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _next_shadow_look TO finetune_analyst, finetune_admin;

CREATE FUNCTION set_auto_rollback(enabled boolean) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    live @extschema@.deployment;
BEGIN
    PERFORM @extschema@._require_role('set_auto_rollback', 'finetune_admin');
    live := @extschema@._watched_deployment();
    IF enabled IS NULL OR live.id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = CASE WHEN enabled IS NULL THEN 'null_value_not_allowed' ELSE 'object_not_in_prerequisite_state' END,
            MESSAGE = CASE WHEN enabled IS NULL THEN 'enabled is NULL' ELSE 'no deployed model is watched' END,
            DETAIL = CASE WHEN enabled IS NULL THEN 'It says whether what is live now may be rolled back by the worker.'
                          ELSE format('"%s" is live, and a model is watched only when it was trained here.', @extschema@.served_at(NULL)) END,
            HINT = CASE WHEN enabled IS NULL THEN 'SELECT @extschema@.set_auto_rollback(false);'
                        ELSE 'For everything that will ever be deployed: ALTER DATABASE ... SET pg_finetune.auto_rollback = off;' END;
    END IF;
    PERFORM @extschema@._watch(live);
    UPDATE @extschema@.shadow_look w SET auto_rollback = enabled WHERE w.deployment_id = live.id;
    RETURN live.model_id;
END
$$;
COMMENT ON FUNCTION set_auto_rollback IS 'Whether the worker may roll back what is live now when it ranks worse on live impressions than what served before; returns the model. It holds for this deployment, the next one begins with true';
GRANT EXECUTE ON FUNCTION set_auto_rollback TO finetune_admin;

CREATE VIEW shadow_status AS
SELECT w.deployment_id, w.model_id, w.earlier_model_id, h.live, w.state, w.scored, w.unscored,
       (SELECT pg_catalog.count(*) FROM @extschema@.shadow_score s
        WHERE s.deployment_id OPERATOR(pg_catalog.=) w.deployment_id AND s.scored_at IS NULL) AS pending,
       w.looks, w.impressions, w.unit, w.units, w.gain, w.gain_low, w.gain_high, w.confidence, w.auc, w.earlier_auc,
       w.auto_rollback, w.looked_at, CASE WHEN h.live THEN w.next_due_at END AS next_look_at, w.reason
FROM @extschema@.shadow_look w
JOIN @extschema@.deployment_history h ON h.id OPERATOR(pg_catalog.=) w.deployment_id
ORDER BY w.deployment_id DESC;
COMMENT ON VIEW shadow_status IS 'One row per deployed model, the latest first: how it ranks live impressions beside what served before, and what followed';

CREATE FUNCTION _shadow_hint() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT CASE
        WHEN s.live AND s.state = 'worse' THEN format('The live model ranks worse than "%s" did: SELECT reason FROM shadow_status; and SELECT rollback_model();', s.earlier_model_id)
        WHEN s.live AND s.state = 'failed' THEN 'The live model could not be compared with what served before: SELECT reason FROM shadow_status;'
        WHEN s.state = 'rolled back' AND d.live THEN 'The last deployment was rolled back by the worker: SELECT reason FROM deployment_history WHERE live;' END
        FROM @extschema@.shadow_status s
        LEFT JOIN @extschema@.deployment_history d ON d.live AND d.deployed_by = 'pg_finetune worker' AND d.deployed_at > now() - interval '7 days'
        ORDER BY s.deployment_id DESC LIMIT 1);
END
$$;
COMMENT ON FUNCTION _shadow_hint IS 'pg_finetune private: what worker_status() says about the live model, if anything';
REVOKE ALL ON FUNCTION _shadow_hint FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _shadow_hint TO finetune_analyst, finetune_admin;

CREATE FUNCTION _doctor_shadow() RETURNS TABLE (severity text, subject text, finding text, remedy text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT CASE s.state WHEN 'worse' THEN 'error' ELSE 'warning' END, 'deployment ' || s.model_id,
           CASE s.state WHEN 'failed' THEN 'cannot be compared with what served before: ' ELSE '' END || s.reason,
           CASE s.state WHEN 'worse' THEN 'SELECT rollback_model(reason => ''ranks worse on live impressions'');'
                        WHEN 'failed' THEN 'Mend it, then: CALL run_due_work();'
                        ELSE 'It was rolled back. Train anew on what users did since: create_dataset(), then fine_tune().' END
    FROM (SELECT x.* FROM @extschema@.shadow_status x ORDER BY x.deployment_id DESC LIMIT 1) s
    WHERE s.live AND s.state IN ('worse', 'failed')
       OR s.state = 'rolled back' AND EXISTS (SELECT FROM @extschema@.deployment_history d
              WHERE d.live AND d.deployed_by = 'pg_finetune worker' AND d.deployed_at > now() - interval '7 days');
END
$$;
COMMENT ON FUNCTION _doctor_shadow IS 'pg_finetune private: findings of doctor() about how the live model ranks';
REVOKE ALL ON FUNCTION _doctor_shadow FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _doctor_shadow TO finetune_analyst;
