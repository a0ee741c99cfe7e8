-- Metrics per variant: what was shown, what users did with it, how the scores lay, how engaged and satisfied users were.
-- Undefined is NULL, never 0.

CREATE FUNCTION _require_experiment(name text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM @extschema@.experiment e WHERE e.name = _require_experiment.name) THEN
        PERFORM @extschema@._unknown_experiment(name);
    END IF;
END
$$;
COMMENT ON FUNCTION _require_experiment IS 'Refuses an experiment that was never started';
REVOKE ALL ON FUNCTION _require_experiment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_experiment TO finetune_analyst;

CREATE FUNCTION _check_actions(positive text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF positive IS NULL OR array_position(positive, NULL) IS NOT NULL
       OR NOT positive <@ ARRAY['saved', 'skipped', 'snipped'] THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('positive %L names something that is no action', positive),
            DETAIL = 'Actions are saved, skipped and snipped.',
            HINT = 'positive => ''{saved,snipped}'' is the default.';
    END IF;
END
$$;
COMMENT ON FUNCTION _check_actions IS 'Refuses a set of positive actions that holds anything but actions';
REVOKE ALL ON FUNCTION _check_actions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_actions TO finetune_analyst;

CREATE FUNCTION _outcome_counts(experiment text, since timestamptz, until timestamptz, threshold double precision, positive text[])
RETURNS TABLE (variant text, users bigint, shown bigint, resolved bigint, saved bigint, skipped bigint, snipped bigint,
    suggested bigint, suggested_resolved bigint, suggested_skipped bigint, tp bigint, fn bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT l.model_variant, count(DISTINCT l.user_id), count(*), count(l.user_action),
           count(*) FILTER (WHERE l.user_action = 'saved'),
           count(*) FILTER (WHERE l.user_action = 'skipped'),
           count(*) FILTER (WHERE l.user_action = 'snipped'),
           count(*) FILTER (WHERE s.suggested),
           count(l.user_action) FILTER (WHERE s.suggested),
           count(*) FILTER (WHERE s.suggested AND l.user_action = 'skipped'),
           count(*) FILTER (WHERE s.suggested AND l.user_action = ANY (positive)),
           count(*) FILTER (WHERE NOT s.suggested AND l.user_action = ANY (positive))
    FROM @extschema@.model_performance_log l
    -- Postgres sorts NaN above every number; it is no suggestion.
    CROSS JOIN LATERAL (SELECT coalesce(l.relevance_score >= threshold AND l.relevance_score <> 'NaN', false)) s (suggested)
    WHERE (_outcome_counts.experiment IS NULL OR l.experiment = _outcome_counts.experiment)
      AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
    GROUP BY l.model_variant;
END
$$;
COMMENT ON FUNCTION _outcome_counts IS 'Counts of outcomes per variant; suggested = scored at or above the threshold';
REVOKE ALL ON FUNCTION _outcome_counts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _outcome_counts TO finetune_analyst;

CREATE FUNCTION _score_distribution(experiment text, since timestamptz, until timestamptz)
RETURNS TABLE (variant text, very_low bigint, low bigint, medium bigint, high bigint, very_high bigint, unscored bigint,
    mean_score double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    outside record;
BEGIN
    SELECT count(*) AS rows, min(l.relevance_score) AS lowest, max(l.relevance_score) AS highest INTO outside
    FROM @extschema@.model_performance_log l
    WHERE (_score_distribution.experiment IS NULL OR l.experiment = _score_distribution.experiment)
      AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
      AND l.relevance_score <> 'NaN' AND l.relevance_score NOT BETWEEN 0 AND 1;
    IF outside.rows > 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'numeric_value_out_of_range',
            MESSAGE = format('%s relevance scores are not between 0 and 1', outside.rows),
            DETAIL = format('The lowest is %s, the highest %s.', outside.lowest, outside.highest),
            HINT = 'Scale relevance_score to 0..1 in the view given to capture_signals, then backfill_signals.';
    END IF;

    RETURN QUERY
    SELECT l.model_variant,
           count(*) FILTER (WHERE b.bucket = 1), count(*) FILTER (WHERE b.bucket = 2), count(*) FILTER (WHERE b.bucket = 3),
           count(*) FILTER (WHERE b.bucket = 4), count(*) FILTER (WHERE b.bucket = 5), count(*) FILTER (WHERE b.bucket IS NULL),
           avg(l.relevance_score) FILTER (WHERE b.bucket IS NOT NULL)
    FROM @extschema@.model_performance_log l
    CROSS JOIN LATERAL (SELECT CASE WHEN l.relevance_score < 0.2 THEN 1 WHEN l.relevance_score < 0.4 THEN 2
                                    WHEN l.relevance_score < 0.6 THEN 3 WHEN l.relevance_score < 0.8 THEN 4
                                    WHEN l.relevance_score <= 1 THEN 5 END) b (bucket)
    WHERE (_score_distribution.experiment IS NULL OR l.experiment = _score_distribution.experiment)
      AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
    GROUP BY l.model_variant;
END
$$;
COMMENT ON FUNCTION _score_distribution IS 'Scores per variant in five equal buckets (right-open, 1.0 in the last); no score and NaN are unscored';
REVOKE ALL ON FUNCTION _score_distribution FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _score_distribution TO finetune_analyst;

CREATE FUNCTION _engagement(experiment text, since timestamptz, until timestamptz, time_zone text)
RETURNS TABLE (variant text, daily_active_reviewers double precision, active_day_share double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH per_user AS (
        SELECT l.model_variant AS variant, l.user_id,
               (min(l.shown_at) AT TIME ZONE time_zone)::date AS first_day,
               (max(greatest(l.shown_at, l.actioned_at)) AT TIME ZONE time_zone)::date AS last_day,
               -- A day counts when the user resolved something on it.
               count(DISTINCT (l.actioned_at AT TIME ZONE time_zone)::date) FILTER (WHERE l.user_action IS NOT NULL) AS active_days
        FROM @extschema@.model_performance_log l
        WHERE (_engagement.experiment IS NULL OR l.experiment = _engagement.experiment)
          AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
        GROUP BY l.model_variant, l.user_id
    ), period AS (
        -- One period for all variants: a variant without users on a day has none on that day.
        SELECT min(first_day) AS first_day, max(last_day) AS last_day FROM per_user
    )
    SELECT u.variant,
           sum(u.active_days)::float8 / (min(p.last_day) - min(p.first_day) + 1),
           sum(u.active_days)::float8 / sum(p.last_day - u.first_day + 1)
    FROM per_user u CROSS JOIN period p
    GROUP BY u.variant;
END
$$;
COMMENT ON FUNCTION _engagement IS 'Distinct users per day who resolved something, and the share of user-days since first exposure on which they did';
REVOKE ALL ON FUNCTION _engagement FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _engagement TO finetune_analyst;

CREATE FUNCTION _time_to_process(experiment text, since timestamptz, until timestamptz)
RETURNS TABLE (variant text, median interval, mean interval)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    -- Kaplan-Meier: an item still pending has waited so far, which the mean of the resolved ones would leave out.
    RETURN QUERY
    WITH waited AS (
        SELECT l.model_variant AS variant,
               greatest(extract(epoch FROM coalesce(l.actioned_at, now()) - l.shown_at)::float8, 0) AS seconds,
               count(*) FILTER (WHERE l.user_action IS NOT NULL) AS resolved, count(*) AS items
        FROM @extschema@.model_performance_log l
        WHERE (_time_to_process.experiment IS NULL OR l.experiment = _time_to_process.experiment)
          AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
          AND (l.user_action IS NULL OR l.actioned_at IS NOT NULL)
        GROUP BY 1, 2
    ), at_risk AS (
        SELECT w.*, sum(items) OVER (PARTITION BY variant ORDER BY seconds DESC) AS at_risk FROM waited w
    ), survival AS (
        SELECT variant, seconds,
               exp(sum(CASE WHEN resolved < at_risk THEN ln((at_risk - resolved)::float8 / at_risk::float8)
                            ELSE '-infinity' END) OVER (PARTITION BY variant ORDER BY seconds)) AS pending
        FROM at_risk
    ), steps AS (
        SELECT variant, seconds, pending,
               lag(pending, 1, 1::float8) OVER w AS pending_before, lag(seconds, 1, 0::float8) OVER w AS seconds_before
        FROM survival WINDOW w AS (PARTITION BY variant ORDER BY seconds)
    ), horizon AS (
        -- Means are comparable only up to a time that every variant was watched for.
        SELECT min(longest) AS seconds FROM (SELECT max(seconds) AS longest FROM steps GROUP BY variant) v
    )
    SELECT s.variant,
           make_interval(secs => min(s.seconds) FILTER (WHERE s.pending <= 0.5 + 1e-12)),
           make_interval(secs => sum(s.pending_before * (least(s.seconds, h.seconds) - least(s.seconds_before, h.seconds))))
    FROM steps s CROSS JOIN horizon h
    GROUP BY s.variant;
END
$$;
COMMENT ON FUNCTION _time_to_process IS 'Median and restricted mean of the time from shown to resolved per variant, pending items right-censored';
REVOKE ALL ON FUNCTION _time_to_process FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _time_to_process TO finetune_analyst;

CREATE FUNCTION _satisfaction(experiment text, since timestamptz, until timestamptz)
RETURNS TABLE (variant text, average_satisfaction double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT s.variant, avg(s.score)::float8
    FROM @extschema@.satisfaction_survey s
    WHERE (_satisfaction.experiment IS NULL OR s.experiment = _satisfaction.experiment)
      AND (since IS NULL OR s.answered_at >= since) AND (until IS NULL OR s.answered_at < until)
    GROUP BY s.variant;
END
$$;
COMMENT ON FUNCTION _satisfaction IS 'Mean survey score (1 to 5) per variant';
REVOKE ALL ON FUNCTION _satisfaction FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _satisfaction TO finetune_analyst;

CREATE FUNCTION model_metrics(experiment text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    threshold double precision DEFAULT 0.5, positive text[] DEFAULT '{saved,snipped}', time_zone text DEFAULT 'UTC')
RETURNS TABLE (variant text, users bigint, shown bigint, resolved bigint, pending bigint, saved bigint, skipped bigint, snipped bigint,
    save_rate double precision, skip_rate double precision, snip_rate double precision,
    "precision" double precision, precision_pending_as_failure double precision, recall double precision, f1 double precision,
    false_suggestion_rate double precision,
    very_low bigint, low bigint, medium bigint, high bigint, very_high bigint, unscored bigint, mean_score double precision,
    daily_active_reviewers double precision, active_day_share double precision,
    time_to_process_median interval, time_to_process_mean interval, average_satisfaction double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM @extschema@._require_role('model_metrics', 'finetune_analyst');
    PERFORM @extschema@._check_actions(positive);
    IF model_metrics.experiment IS NOT NULL THEN
        PERFORM @extschema@._require_experiment(model_metrics.experiment);
    END IF;
    RETURN QUERY
    WITH c AS (
        SELECT * FROM @extschema@._outcome_counts(model_metrics.experiment, since, until, threshold, positive)
    ), v AS (
        SELECT c.variant FROM c
        UNION SELECT a.variant FROM @extschema@.experiment_arm a WHERE a.experiment = model_metrics.experiment
    )
    SELECT v.variant, coalesce(c.users, 0), coalesce(c.shown, 0), coalesce(c.resolved, 0), coalesce(c.shown - c.resolved, 0),
           coalesce(c.saved, 0), coalesce(c.skipped, 0), coalesce(c.snipped, 0),
           c.saved::float8 / c.shown, c.skipped::float8 / c.shown, c.snipped::float8 / c.shown,
           c.tp::float8 / nullif(c.suggested_resolved, 0), c.tp::float8 / nullif(c.suggested, 0),
           c.tp::float8 / nullif(c.tp + c.fn, 0), 2 * c.tp::float8 / nullif(c.tp + c.suggested_resolved + c.fn, 0),
           c.suggested_skipped::float8 / nullif(c.suggested_resolved, 0),
           coalesce(s.very_low, 0), coalesce(s.low, 0), coalesce(s.medium, 0), coalesce(s.high, 0), coalesce(s.very_high, 0),
           coalesce(s.unscored, 0), s.mean_score,
           e.daily_active_reviewers, e.active_day_share, t.median, t.mean, a.average_satisfaction
    FROM v
    LEFT JOIN c ON c.variant = v.variant
    LEFT JOIN @extschema@._score_distribution(model_metrics.experiment, since, until) s ON s.variant = v.variant
    LEFT JOIN @extschema@._engagement(model_metrics.experiment, since, until, time_zone) e ON e.variant = v.variant
    LEFT JOIN @extschema@._time_to_process(model_metrics.experiment, since, until) t ON t.variant = v.variant
    LEFT JOIN @extschema@._satisfaction(model_metrics.experiment, since, until) a ON a.variant = v.variant
    ORDER BY v.variant;
END
$$;
COMMENT ON FUNCTION model_metrics IS 'Everything per variant: rates over shown, precision and recall of suggestions (score >= threshold), score distribution, engagement, time to process, satisfaction';
GRANT EXECUTE ON FUNCTION model_metrics TO finetune_analyst;
