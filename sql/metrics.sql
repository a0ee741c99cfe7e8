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

CREATE FUNCTION _refuse_scores(experiment text, since timestamptz, until timestamptz) RETURNS date
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    outside record;
BEGIN
    SELECT count(*) AS rows, min(l.relevance_score) AS lowest, max(l.relevance_score) AS highest INTO outside
    FROM @extschema@.model_performance_log l
    WHERE (_refuse_scores.experiment IS NULL OR l.experiment = _refuse_scores.experiment)
      AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
      AND l.relevance_score <> 'NaN' AND l.relevance_score NOT BETWEEN 0 AND 1;
    RAISE EXCEPTION USING
        ERRCODE = 'numeric_value_out_of_range',
        MESSAGE = format('%s relevance scores are not between 0 and 1', outside.rows),
        DETAIL = format('The lowest is %s, the highest %s.', outside.lowest, outside.highest),
        HINT = 'Scale relevance_score to 0..1 in the view given to capture_signals, then backfill_signals.';
END
$$;
COMMENT ON FUNCTION _refuse_scores IS 'pg_finetune private: says which scores are out of range; never returns its date';
REVOKE ALL ON FUNCTION _refuse_scores FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _refuse_scores TO finetune_analyst;

-- Inlined by the planner: one rule of what counts, for metrics, results and curves. An action without a time counts.
CREATE FUNCTION _attributed(user_action text, shown_at timestamptz, actioned_at timestamptz, ends timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN ends IS NULL THEN user_action
                WHEN actioned_at OPERATOR(pg_catalog.<) shown_at OR actioned_at OPERATOR(pg_catalog.>) ends THEN NULL
                ELSE user_action END;
END;
COMMENT ON FUNCTION _attributed IS 'pg_finetune private: the action, where it came after the item was shown and not after the end of its window; NULL = no window';
REVOKE ALL ON FUNCTION _attributed FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _attributed TO finetune_analyst;

CREATE FUNCTION _outcome_window(experiment text) RETURNS interval
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT e.outcome_window FROM @extschema@.experiment e WHERE e.name = _outcome_window.experiment);
END
$$;
COMMENT ON FUNCTION _outcome_window IS 'pg_finetune private: how long after an item was shown an action counts in an experiment; NULL without one';
REVOKE ALL ON FUNCTION _outcome_window FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _outcome_window TO finetune_analyst;

CREATE FUNCTION _draws_teams(experiment text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM @extschema@.experiment e WHERE e.name = _draws_teams.experiment AND e.unit = 'team_id');
END
$$;
COMMENT ON FUNCTION _draws_teams IS 'pg_finetune private: whether an experiment draws teams, so that statistics count teams instead of users';
REVOKE ALL ON FUNCTION _draws_teams FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _draws_teams TO finetune_analyst;

CREATE AGGREGATE _merged_scores(state bytea) (
    SFUNC = @extschema@._score_combine, STYPE = bytea, COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE _merged_scores(bytea) IS 'pg_finetune private: puts states of _scores together';
GRANT EXECUTE ON FUNCTION _merged_scores(bytea) TO finetune_analyst;

CREATE FUNCTION _impressions(experiment text, since timestamptz, until timestamptz, threshold double precision, positive text[],
    day_zone text)
RETURNS TABLE (variant text, day date, shown bigint, resolved bigint, saved bigint, skipped bigint, snipped bigint,
    suggested bigint, suggested_resolved bigint, suggested_skipped bigint, tp bigint, fn bigint, recall_ips double precision,
    very_low bigint, low bigint, medium bigint, high bigint, very_high bigint, unscored bigint, mean_score double precision,
    waits bytea, longest_wait double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    counted_for interval := @extschema@._outcome_window(experiment);
BEGIN
    -- Few different combinations of action, suggestion and bucket: counting those costs one count a row instead of twenty. They are told
    -- apart by booleans, which the planner knows to have two values each: of a score it expects as many groups as rows, and sorts them.
    RETURN QUERY
    WITH combination AS (
        SELECT l.model_variant AS variant,
               CASE WHEN day_zone IS NOT NULL THEN (l.shown_at AT TIME ZONE day_zone)::date END AS day,
               a.action = 'saved' AS saved, a.action = 'skipped' AS skipped, coalesce(s.score >= threshold, false) AS suggested,
               s.score < 0.2 AS below_2, s.score < 0.4 AS below_4, s.score < 0.6 AS below_6, s.score < 0.8 AS below_8,
               s.score >= 0 AND s.score <= 1 AS inside,
               count(*) AS items, sum(s.score) AS score,
               count(*) FILTER (WHERE l.propensity > 0 AND l.propensity <= 1) AS known,
               sum(1 / l.propensity) FILTER (WHERE l.propensity > 0 AND l.propensity <= 1) AS ips,
               @extschema@._scores(w.ended, w.seconds) AS waits, max(w.seconds) FILTER (WHERE w.ended IS NOT NULL) AS longest
        FROM @extschema@.model_performance_log l
        -- Postgres sorts NaN above every number; it is no suggestion.
        CROSS JOIN LATERAL (SELECT nullif(l.relevance_score, 'NaN')) s (score)
        CROSS JOIN LATERAL (SELECT @extschema@._attributed(l.user_action, l.shown_at, l.actioned_at, l.shown_at + counted_for)) a (action)
        -- What is still pending has waited so far; an action without a time tells nothing about the wait.
        CROSS JOIN LATERAL (
            SELECT CASE WHEN l.user_action IS NULL THEN false WHEN l.actioned_at IS NOT NULL THEN true END,
                   greatest(date_part('epoch', CASE WHEN l.user_action IS NULL THEN now() ELSE l.actioned_at END - l.shown_at), 0)
        ) w (ended, seconds)
        WHERE (_impressions.experiment IS NULL OR l.experiment = _impressions.experiment)
          AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    ), named AS (
        SELECT c.*, CASE WHEN c.saved THEN 'saved' WHEN c.skipped THEN 'skipped' WHEN NOT c.skipped THEN 'snipped' END AS action,
               CASE WHEN NOT c.inside THEN 9 WHEN c.below_2 THEN 1 WHEN c.below_4 THEN 2 WHEN c.below_6 THEN 3 WHEN c.below_8 THEN 4
                    WHEN NOT c.below_8 THEN 5 END AS bucket
        FROM combination c
    ), judged AS (
        SELECT n.*, coalesce(n.action = ANY (positive), false) AS hit FROM named n
    ), summed AS (
        SELECT j.variant, j.day, sum(j.items)::bigint AS shown, sum(j.items) FILTER (WHERE j.action IS NOT NULL) AS resolved,
               sum(j.items) FILTER (WHERE j.action = 'saved') AS saved,
               sum(j.items) FILTER (WHERE j.action = 'skipped') AS skipped,
               sum(j.items) FILTER (WHERE j.action = 'snipped') AS snipped,
               sum(j.items) FILTER (WHERE j.suggested) AS suggested,
               sum(j.items) FILTER (WHERE j.suggested AND j.action IS NOT NULL) AS suggested_resolved,
               sum(j.items) FILTER (WHERE j.suggested AND j.action = 'skipped') AS suggested_skipped,
               sum(j.items) FILTER (WHERE j.suggested AND j.hit) AS tp,
               sum(j.items) FILTER (WHERE NOT j.suggested AND j.hit) AS fn,
               -- With one unknown propensity among the positives the weighted recall would be of other items.
               CASE WHEN sum(j.items - j.known) FILTER (WHERE j.hit) = 0
                    THEN coalesce(sum(j.ips) FILTER (WHERE j.hit AND j.suggested), 0) / sum(j.ips) FILTER (WHERE j.hit) END AS recall_ips,
               sum(j.items) FILTER (WHERE j.bucket = 1) AS very_low, sum(j.items) FILTER (WHERE j.bucket = 2) AS low,
               sum(j.items) FILTER (WHERE j.bucket = 3) AS medium, sum(j.items) FILTER (WHERE j.bucket = 4) AS high,
               sum(j.items) FILTER (WHERE j.bucket = 5) AS very_high, sum(j.items) FILTER (WHERE j.bucket IS NULL) AS unscored,
               sum(j.items) FILTER (WHERE j.bucket = 9) AS outside,
               sum(j.score) / nullif(sum(j.items) FILTER (WHERE j.bucket IS NOT NULL), 0) AS mean_score,
               @extschema@._merged_scores(j.waits) AS waits, max(j.longest) AS longest
        FROM judged j
        GROUP BY j.variant, j.day
    )
    SELECT s.variant, CASE WHEN s.outside > 0 THEN @extschema@._refuse_scores(_impressions.experiment, since, until) ELSE s.day END,
           s.shown, coalesce(s.resolved, 0)::bigint,
           coalesce(s.saved, 0)::bigint, coalesce(s.skipped, 0)::bigint, coalesce(s.snipped, 0)::bigint,
           coalesce(s.suggested, 0)::bigint, coalesce(s.suggested_resolved, 0)::bigint, coalesce(s.suggested_skipped, 0)::bigint,
           coalesce(s.tp, 0)::bigint, coalesce(s.fn, 0)::bigint, s.recall_ips,
           coalesce(s.very_low, 0)::bigint, coalesce(s.low, 0)::bigint, coalesce(s.medium, 0)::bigint, coalesce(s.high, 0)::bigint,
           coalesce(s.very_high, 0)::bigint, coalesce(s.unscored, 0)::bigint, s.mean_score, s.waits, s.longest
    FROM summed s;
END
$$;
COMMENT ON FUNCTION _impressions IS 'pg_finetune private: counts of outcomes, scores in five buckets and waiting times per variant, and per day of day_zone unless that is NULL; suggested = scored at or above the threshold';
REVOKE ALL ON FUNCTION _impressions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _impressions TO finetune_analyst;

CREATE FUNCTION _engagement(experiment text, since timestamptz, until timestamptz, time_zone text)
RETURNS TABLE (variant text, users bigint, daily_active_reviewers double precision, active_day_share double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET hash_mem_multiplier = 16
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH seen AS (
        SELECT l.model_variant AS variant, l.user_id, l.shown_at, greatest(l.shown_at, l.actioned_at) AS last_seen,
               -- A day counts when the user resolved something on it.
               CASE WHEN l.user_action IS NOT NULL THEN (l.actioned_at AT TIME ZONE time_zone)::date - DATE '0001-01-01' END AS day
        FROM @extschema@.model_performance_log l
        WHERE (_engagement.experiment IS NULL OR l.experiment = _engagement.experiment)
          AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
    ), weeks AS (
        -- Days as bits, 64 a row: no sort to tell which are different.
        SELECT s.variant, s.user_id, min(s.shown_at) AS first_shown, max(s.last_seen) AS last_seen, bit_or(1::bigint << (s.day % 64)) AS days
        FROM seen s
        GROUP BY s.variant, s.user_id, s.day / 64
    ), per_user AS (
        SELECT w.variant, w.user_id, (min(w.first_shown) AT TIME ZONE time_zone)::date AS first_day,
               (max(w.last_seen) AT TIME ZONE time_zone)::date AS last_day,
               coalesce(sum(bit_count(w.days::bit(64))), 0) AS active_days
        FROM weeks w
        GROUP BY w.variant, w.user_id
    ), per_variant AS (
        SELECT u.variant, count(*) AS users, sum(u.active_days)::float8 AS active_days,
               sum(u.first_day - DATE '0001-01-01')::float8 AS first_days, min(u.first_day) AS first_day, max(u.last_day) AS last_day
        FROM per_user u
        GROUP BY u.variant
    ), period AS (
        -- One period for all variants: a variant without users on a day has none on that day.
        SELECT min(v.first_day) AS first_day, max(v.last_day) AS last_day FROM per_variant v
    )
    SELECT v.variant, v.users, v.active_days / (p.last_day - p.first_day + 1),
           v.active_days / (v.users * (p.last_day - DATE '0001-01-01' + 1) - v.first_days)
    FROM per_variant v CROSS JOIN period p;
END
$$;
COMMENT ON FUNCTION _engagement IS 'pg_finetune private: distinct users, those per day who resolved something, and the share of user-days since first exposure on which they did';
REVOKE ALL ON FUNCTION _engagement FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _engagement TO finetune_analyst;

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
    save_rate double precision, skip_rate double precision, snip_rate double precision, save_rate_resolved double precision,
    "precision" double precision, precision_pending_as_failure double precision, recall double precision, recall_ips double precision,
    f1 double precision, false_suggestion_rate double precision,
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
        SELECT * FROM @extschema@._impressions(model_metrics.experiment, since, until, threshold, positive, NULL)
    ), horizon AS (
        -- Means are comparable only up to a time that every variant was watched for.
        SELECT min(c.longest_wait) AS seconds FROM c
    ), v AS (
        SELECT c.variant FROM c
        UNION SELECT a.variant FROM @extschema@.experiment_arm a WHERE a.experiment = model_metrics.experiment
    )
    SELECT v.variant, coalesce(e.users, 0), coalesce(c.shown, 0), coalesce(c.resolved, 0), coalesce(c.shown - c.resolved, 0),
           coalesce(c.saved, 0), coalesce(c.skipped, 0), coalesce(c.snipped, 0),
           c.saved::float8 / c.shown, c.skipped::float8 / c.shown, c.snipped::float8 / c.shown, c.saved::float8 / nullif(c.resolved, 0),
           c.tp::float8 / nullif(c.suggested_resolved, 0), c.tp::float8 / nullif(c.suggested, 0),
           c.tp::float8 / nullif(c.tp + c.fn, 0), c.recall_ips, 2 * c.tp::float8 / nullif(c.tp + c.suggested_resolved + c.fn, 0),
           c.suggested_skipped::float8 / nullif(c.suggested_resolved, 0),
           coalesce(c.very_low, 0), coalesce(c.low, 0), coalesce(c.medium, 0), coalesce(c.high, 0), coalesce(c.very_high, 0),
           coalesce(c.unscored, 0), c.mean_score, e.daily_active_reviewers, e.active_day_share,
           make_interval(secs => @extschema@._survival_median(c.waits)),
           make_interval(secs => @extschema@._survival_mean(c.waits, h.seconds)), a.average_satisfaction
    FROM v
    CROSS JOIN horizon h
    LEFT JOIN c ON c.variant = v.variant
    LEFT JOIN @extschema@._engagement(model_metrics.experiment, since, until, time_zone) e ON e.variant = v.variant
    LEFT JOIN @extschema@._satisfaction(model_metrics.experiment, since, until) a ON a.variant = v.variant
    ORDER BY v.variant;
END
$$;
COMMENT ON FUNCTION model_metrics IS 'Everything per variant: rates over shown, precision and recall of suggestions (score >= threshold), score distribution, engagement, time to process, satisfaction';
GRANT EXECUTE ON FUNCTION model_metrics TO finetune_analyst;
