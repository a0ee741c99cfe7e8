-- Metrics over time, waiting times with intervals, ranked lists, and views for BI tools.

CREATE FUNCTION model_metrics_daily(experiment text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    threshold double precision DEFAULT 0.5, positive text[] DEFAULT '{saved,snipped}', time_zone text DEFAULT 'UTC')
RETURNS TABLE (day date, variant text, shown bigint, resolved bigint, pending bigint, saved bigint, skipped bigint, snipped bigint,
    save_rate double precision, skip_rate double precision, snip_rate double precision,
    "precision" double precision, recall double precision, f1 double precision, false_suggestion_rate double precision,
    very_low bigint, low bigint, medium bigint, high bigint, very_high bigint, unscored bigint, mean_score double precision,
    active_reviewers bigint, time_to_process_median interval, average_satisfaction double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM @extschema@._require_role('model_metrics_daily', 'finetune_analyst');
    PERFORM @extschema@._check_actions(positive);
    IF model_metrics_daily.experiment IS NOT NULL THEN
        PERFORM @extschema@._require_experiment(model_metrics_daily.experiment);
    END IF;
    RETURN QUERY
    WITH c AS (
        SELECT * FROM @extschema@._impressions(model_metrics_daily.experiment, since, until, threshold, positive, time_zone)
    ), reviewer AS (
        SELECT (l.actioned_at AT TIME ZONE time_zone)::date AS day, l.model_variant AS variant, count(DISTINCT l.user_id) AS users
        FROM @extschema@.model_performance_log l
        WHERE (model_metrics_daily.experiment IS NULL OR l.experiment = model_metrics_daily.experiment)
          AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
          AND l.user_action IS NOT NULL AND l.actioned_at IS NOT NULL
        GROUP BY 1, 2
    ), answer AS (
        SELECT (s.answered_at AT TIME ZONE time_zone)::date AS day, s.variant, avg(s.score)::float8 AS satisfaction
        FROM @extschema@.satisfaction_survey s
        WHERE (model_metrics_daily.experiment IS NULL OR s.experiment = model_metrics_daily.experiment)
          AND (since IS NULL OR s.answered_at >= since) AND (until IS NULL OR s.answered_at < until)
        GROUP BY 1, 2
    ), keys AS (
        SELECT c.day, c.variant FROM c UNION SELECT r.day, r.variant FROM reviewer r UNION SELECT a.day, a.variant FROM answer a
    )
    SELECT k.day, k.variant, coalesce(c.shown, 0), coalesce(c.resolved, 0), coalesce(c.shown - c.resolved, 0),
           coalesce(c.saved, 0), coalesce(c.skipped, 0), coalesce(c.snipped, 0),
           c.saved::float8 / c.shown, c.skipped::float8 / c.shown, c.snipped::float8 / c.shown,
           c.tp::float8 / nullif(c.suggested_resolved, 0), c.tp::float8 / nullif(c.tp + c.fn, 0),
           2 * c.tp::float8 / nullif(c.tp + c.suggested_resolved + c.fn, 0), c.suggested_skipped::float8 / nullif(c.suggested_resolved, 0),
           coalesce(c.very_low, 0), coalesce(c.low, 0), coalesce(c.medium, 0), coalesce(c.high, 0), coalesce(c.very_high, 0),
           coalesce(c.unscored, 0), c.mean_score, coalesce(r.users, 0),
           make_interval(secs => @extschema@._survival_median(c.waits)), a.satisfaction
    FROM keys k
    LEFT JOIN c ON c.day = k.day AND c.variant = k.variant
    LEFT JOIN reviewer r ON r.day = k.day AND r.variant = k.variant
    LEFT JOIN answer a ON a.day = k.day AND a.variant IS NOT DISTINCT FROM k.variant
    ORDER BY k.day, k.variant;
END
$$;
COMMENT ON FUNCTION model_metrics_daily IS 'model_metrics per day of time_zone: impressions by the day they were shown, reviewers by the day they acted, satisfaction by the day of the answer';
GRANT EXECUTE ON FUNCTION model_metrics_daily TO finetune_analyst;

CREATE FUNCTION time_to_process(experiment text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    resamples integer DEFAULT 200, seed bigint DEFAULT NULL)
RETURNS TABLE (variant text, users bigint, resolved bigint, pending bigint, median interval, median_low interval, median_high interval,
    mean interval, mean_low interval, mean_high interval, horizon interval)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    chosen bigint := seed;
    by_team boolean;
BEGIN
    PERFORM @extschema@._require_role('time_to_process', 'finetune_analyst');
    by_team := @extschema@._draws_teams(experiment);
    IF time_to_process.experiment IS NOT NULL THEN
        PERFORM @extschema@._require_experiment(time_to_process.experiment);
        chosen := coalesce(seed, (SELECT hashtextextended(e.seed, 0) FROM @extschema@.experiment e WHERE e.name = time_to_process.experiment));
    END IF;
    RETURN QUERY
    WITH wait AS (
        SELECT l.model_variant AS variant, CASE WHEN by_team THEN l.team_id ELSE l.user_id END AS unit_id, l.user_action IS NOT NULL AS ended,
               greatest(date_part('epoch', CASE WHEN l.user_action IS NULL THEN now() ELSE l.actioned_at END - l.shown_at), 0) AS seconds
        FROM @extschema@.model_performance_log l
        WHERE (time_to_process.experiment IS NULL OR l.experiment = time_to_process.experiment)
          AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
          AND (l.user_action IS NULL OR l.actioned_at IS NOT NULL)
    ), numbered AS (
        SELECT w.*, (dense_rank() OVER (PARTITION BY w.variant ORDER BY w.unit_id COLLATE "C"))::integer - 1 AS number FROM wait w
    ), arm AS (
        SELECT n.variant, max(n.number)::bigint + 1 AS users, count(*) FILTER (WHERE n.ended) AS resolved,
               count(*) FILTER (WHERE NOT n.ended) AS pending, max(n.seconds) AS longest,
               @extschema@._scores(n.ended, n.seconds) AS waits,
               array_agg(n.number) AS numbers, array_agg(n.seconds) AS seconds, array_agg(n.ended) AS ended
        FROM numbered n
        GROUP BY n.variant
    ), common AS (
        -- Means are comparable only up to a time that every variant was watched for.
        SELECT min(a.longest) AS horizon FROM arm a
    ), resampled AS (
        SELECT a.*, c.horizon, @extschema@._survival_intervals(a.numbers, a.seconds, a.ended, c.horizon, resamples, coalesce(chosen, 0)) AS i
        FROM arm a CROSS JOIN common c
    )
    SELECT r.variant, r.users, r.resolved, r.pending,
           make_interval(secs => @extschema@._survival_median(r.waits)), make_interval(secs => r.i[1]), make_interval(secs => r.i[2]),
           make_interval(secs => @extschema@._survival_mean(r.waits, r.horizon)), make_interval(secs => r.i[3]),
           make_interval(secs => r.i[4]), make_interval(secs => r.horizon)
    FROM resampled r
    ORDER BY r.variant;
END
$$;
COMMENT ON FUNCTION time_to_process IS 'Kaplan-Meier median and restricted mean (up to horizon) of the time from shown to resolved, pending items counted as still waiting, with 95 % intervals from resampled users; seed: that of the experiment unless given';
GRANT EXECUTE ON FUNCTION time_to_process TO finetune_analyst;

CREATE FUNCTION ranking_metrics(experiment text DEFAULT NULL, k integer DEFAULT 10, since timestamptz DEFAULT NULL,
    until timestamptz DEFAULT NULL, positive text[] DEFAULT '{saved,snipped}')
RETURNS TABLE (variant text, users bigint, users_without_relevant bigint, ndcg double precision, ndcg_se double precision,
    mrr double precision, recall double precision, "precision" double precision, hit double precision, map double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    counted_for interval;
    by_team boolean;
BEGIN
    PERFORM @extschema@._require_role('ranking_metrics', 'finetune_analyst');
    PERFORM @extschema@._check_actions(positive);
    IF ranking_metrics.experiment IS NOT NULL THEN
        PERFORM @extschema@._require_experiment(ranking_metrics.experiment);
    END IF;
    counted_for := @extschema@._outcome_window(experiment);
    by_team := @extschema@._draws_teams(experiment);
    RETURN QUERY
    WITH list AS (
        SELECT l.model_variant AS variant, CASE WHEN by_team THEN l.team_id ELSE l.user_id END AS unit_id, array_agg((a.action = ANY (positive))::integer::float8) AS relevance,
               array_agg(l.relevance_score) AS score, bool_or(a.action = ANY (positive)) AS any_relevant
        FROM @extschema@.model_performance_log l
        CROSS JOIN LATERAL (SELECT @extschema@._attributed(l.user_action, l.shown_at, l.actioned_at, l.shown_at + counted_for)) a (action)
        WHERE (ranking_metrics.experiment IS NULL OR l.experiment = ranking_metrics.experiment)
          AND (since IS NULL OR l.shown_at >= since) AND (until IS NULL OR l.shown_at < until)
          AND a.action IS NOT NULL
        GROUP BY l.model_variant, unit_id, l.user_id
    ), measured AS (
        SELECT l.variant, l.unit_id, l.any_relevant, @extschema@.ndcg(l.relevance, l.score, ranking_metrics.k) AS ndcg,
               @extschema@.mrr(l.relevance, l.score) AS mrr, @extschema@.recall_at(l.relevance, l.score, ranking_metrics.k) AS recall,
               @extschema@.precision_at(l.relevance, l.score, ranking_metrics.k) AS hits,
               @extschema@.hit_at(l.relevance, l.score, ranking_metrics.k) AS hit,
               @extschema@.average_precision_at(l.relevance, l.score) AS average_precision
        FROM list l
    ), mean AS (
        SELECT m.variant, count(*) AS users, count(*) FILTER (WHERE NOT m.any_relevant) AS without, avg(m.ndcg) AS ndcg, avg(m.mrr) AS mrr,
               avg(m.recall) AS recall, avg(m.hits) AS hits, avg(m.hit) AS hit, avg(m.average_precision) AS average_precision
        FROM measured m
        GROUP BY m.variant
    ), deviation AS (
        SELECT m.variant, m.unit_id, sum(m.ndcg - mean.ndcg) AS total FROM measured m JOIN mean USING (variant) GROUP BY m.variant, m.unit_id
    ), error AS (
        -- Of a mean over users of whom those of a unit go together; of single users it is their standard error.
        SELECT d.variant, sqrt(sum(d.total ^ 2) * count(*) / nullif(count(*) - 1, 0)) AS total FROM deviation d GROUP BY d.variant
    )
    SELECT m.variant, m.users, m.without, m.ndcg, e.total / m.users, m.mrr, m.recall, m.hits, m.hit, m.average_precision
    FROM mean m JOIN error e USING (variant)
    ORDER BY m.variant;
END
$$;
COMMENT ON FUNCTION ranking_metrics IS 'How well relevance_score ranks what each user resolved: means over users per variant; ndcg_se = standard error over users, or over teams where the experiment draws teams; users without a relevant item count as 0 and are told';
GRANT EXECUTE ON FUNCTION ranking_metrics TO finetune_analyst;

CREATE VIEW model_overview AS
SELECT e.name AS experiment, e.status, e.started_at, e.stopped_at, e.shipped_variant, m.*
FROM experiment e CROSS JOIN LATERAL model_metrics(e.name) m;
COMMENT ON VIEW model_overview IS 'For BI tools: model_metrics of every experiment, one row per variant. A condition on experiment computes that one only';

CREATE VIEW experiment_daily AS
SELECT e.name AS experiment, d.*
FROM experiment e CROSS JOIN LATERAL model_metrics_daily(e.name) d;
COMMENT ON VIEW experiment_daily IS 'For BI tools: model_metrics_daily of every experiment in UTC days, one row per day and variant. A condition on experiment computes that one only';
