-- The report of an experiment: effect over time, and one page for people who look. All numbers are those of the functions named here.

CREATE FUNCTION experiment_effect_daily(experiment text, metric text DEFAULT 'save_rate', alpha double precision DEFAULT 0.05,
    threshold double precision DEFAULT 0.5, positive text[] DEFAULT '{saved,snipped}', time_zone text DEFAULT 'UTC')
RETURNS TABLE (day date, base_users bigint, fine_tuned_users bigint, base_estimate double precision, fine_tuned_estimate double precision,
    difference double precision, difference_low double precision, difference_high double precision, p_always double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    rules @extschema@.experiment;
BEGIN
    PERFORM @extschema@._require_role('experiment_effect_daily', 'finetune_analyst');
    PERFORM @extschema@._require_experiment(experiment_effect_daily.experiment);
    PERFORM @extschema@._check_actions(positive);
    IF experiment_effect_daily.metric IS NULL
       OR experiment_effect_daily.metric <> ALL ('{save_rate,skip_rate,snip_rate,precision,false_suggestion_rate}') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('metric %L is not known', experiment_effect_daily.metric),
            DETAIL = 'There are save_rate, skip_rate, snip_rate, precision and false_suggestion_rate.',
            HINT = 'metric => ''save_rate'' is the default.';
    END IF;
    SELECT e.* INTO rules FROM @extschema@.experiment e WHERE e.name = experiment_effect_daily.experiment;
    RETURN QUERY
    WITH item AS (
        -- What counts is what _ratio_sums() counts.
        SELECT u.unit_id, l.model_variant AS variant, (l.shown_at AT TIME ZONE time_zone)::date AS day, l.relevance_score,
               @extschema@._attributed(l.user_action, l.shown_at, l.actioned_at, least(w.ends, u.switched_at)) AS action
        FROM @extschema@.model_performance_log l
        JOIN @extschema@._exposed_users(experiment_effect_daily.experiment) u
            ON u.unit_id = CASE rules.unit WHEN 'user_id' THEN l.user_id ELSE l.team_id END
        CROSS JOIN LATERAL (SELECT CASE rules.attribution WHEN 'impression' THEN l.shown_at ELSE u.first_shown END + rules.outcome_window) w (ends)
        WHERE l.experiment = experiment_effect_daily.experiment AND l.model_variant IN ('base', 'fineTuned')
          AND NOT u.doubled AND (u.switched_at IS NULL OR l.shown_at < u.switched_at) AND l.shown_at <= w.ends
    ), counted AS (
        SELECT i.variant, i.unit_id, i.day, count(*) AS d,
               count(*) FILTER (WHERE CASE experiment_effect_daily.metric
                   WHEN 'save_rate' THEN i.action = 'saved' WHEN 'skip_rate' THEN i.action = 'skipped'
                   WHEN 'snip_rate' THEN i.action = 'snipped' WHEN 'precision' THEN i.action = ANY (positive)
                   ELSE i.action = 'skipped' END) AS m
        FROM item i
        WHERE experiment_effect_daily.metric = ANY ('{save_rate,skip_rate,snip_rate}')
           OR i.action IS NOT NULL AND i.relevance_score >= threshold AND i.relevance_score <> 'NaN'
        GROUP BY i.variant, i.unit_id, i.day
    ), so_far AS (
        SELECT c.*, sum(c.m) OVER w AS all_m, sum(c.d) OVER w AS all_d, row_number() OVER w AS place
        FROM counted c WINDOW w AS (PARTITION BY c.variant, c.unit_id ORDER BY c.day)
    ), added AS (
        -- What the day adds to the sums over users: squares grow by the difference of the squares.
        SELECT s.variant, s.day, count(*) FILTER (WHERE s.place = 1) AS users, sum(s.m) AS m, sum(s.d) AS d,
               sum(s.all_m * s.all_m - (s.all_m - s.m) * (s.all_m - s.m)) AS mm,
               sum(s.all_d * s.all_d - (s.all_d - s.d) * (s.all_d - s.d)) AS dd,
               sum(s.all_m * s.all_d - (s.all_m - s.m) * (s.all_d - s.d)) AS md, max(s.all_d) AS largest
        FROM so_far s
        GROUP BY s.variant, s.day
    ), sums AS (
        SELECT v.variant, d.day, ARRAY[coalesce(sum(a.users) OVER w, 0), coalesce(sum(a.m) OVER w, 0), coalesce(sum(a.d) OVER w, 0),
                                       coalesce(sum(a.mm) OVER w, 0), coalesce(sum(a.dd) OVER w, 0), coalesce(sum(a.md) OVER w, 0),
                                       coalesce(max(a.largest) OVER w, 0)]::bigint[] AS sums
        FROM (SELECT DISTINCT x.day FROM added x) d
        CROSS JOIN (VALUES ('base'), ('fineTuned')) v (variant)
        LEFT JOIN added a ON a.day = d.day AND a.variant = v.variant
        WINDOW w AS (PARTITION BY v.variant ORDER BY d.day)
    ), arms AS (
        SELECT s.day, coalesce(max(s.sums) FILTER (WHERE s.variant = 'base'), array_fill(0::bigint, ARRAY[7])) AS base,
               coalesce(max(s.sums) FILTER (WHERE s.variant = 'fineTuned'), array_fill(0::bigint, ARRAY[7])) AS fine_tuned
        FROM sums s
        GROUP BY s.day
    )
    SELECT a.day, a.base[1], a.fine_tuned[1], c.base_estimate, c.fine_tuned_estimate,
           c.difference, c.difference_low, c.difference_high, c.p_always
    FROM arms a
    JOIN @extschema@.experiment e ON e.name = experiment_effect_daily.experiment
    CROSS JOIN LATERAL @extschema@._compare_ratio(a.base, a.fine_tuned, 0.0::float8,
        experiment_effect_daily.metric NOT IN ('skip_rate', 'false_suggestion_rate'), alpha, e.planned_users) c
    ORDER BY a.day;
END
$$;
COMMENT ON FUNCTION experiment_effect_daily IS 'The difference between fineTuned and base from all items shown up to each day, with the confidence sequence: an interval that holds on every day at once. The last day is what experiment_results says';
GRANT EXECUTE ON FUNCTION experiment_effect_daily TO finetune_analyst;

CREATE FUNCTION _report_curves(experiment text) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    counted_for interval := @extschema@._outcome_window(experiment);
BEGIN
    RETURN (
        SELECT coalesce(jsonb_object_agg(v.variant, jsonb_build_object(
            'roc_auc', @extschema@._score_auc(v.scores), 'average_precision', @extschema@._score_average_precision(v.scores),
            'calibration_error', v.calibration_error,
            'precision_recall', coalesce((SELECT jsonb_agg(jsonb_build_array(t.recall, t."precision") ORDER BY t.threshold DESC)
                                          FROM unnest(@extschema@._threshold_rows(v.scores, 200)) t), '[]'),
            'calibration', coalesce((SELECT jsonb_agg(jsonb_build_array(b.mean_probability, b.share_positive, b.weight) ORDER BY b.bin)
                                     FROM unnest(v.bins) b), '[]'))), '{}')
        FROM (SELECT l.model_variant AS variant, @extschema@._scores(k.kept, l.relevance_score) AS scores,
                     @extschema@.calibration_table(k.kept, l.relevance_score) AS bins,
                     @extschema@.expected_calibration_error(k.kept, l.relevance_score) AS calibration_error
              FROM @extschema@.model_performance_log l
              CROSS JOIN LATERAL (SELECT @extschema@._attributed(l.user_action, l.shown_at, l.actioned_at, l.shown_at + counted_for)
                                         = ANY ('{saved,snipped}')) k (kept)
              WHERE l.experiment = _report_curves.experiment
              GROUP BY l.model_variant) v);
END
$$;
COMMENT ON FUNCTION _report_curves IS 'pg_finetune private: precision over recall and calibration per variant';
REVOKE ALL ON FUNCTION _report_curves FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _report_curves TO finetune_analyst;

CREATE FUNCTION _report_data(experiment text) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT jsonb_build_object(
            'name', e.name, 'status', e.status, 'planned_users', e.planned_users, 'shipped', e.shipped_variant,
            'started', to_char(e.started_at AT TIME ZONE 'UTC', 'FMDD FMMonth YYYY'),
            'stopped', to_char(e.stopped_at AT TIME ZONE 'UTC', 'FMDD FMMonth YYYY'),
            'days', floor(extract(epoch FROM coalesce(e.stopped_at, now()) - e.started_at) / 86400)::bigint,
            'generated', to_char(now() AT TIME ZONE 'UTC', 'FMDD FMMonth YYYY, HH24:MI "UTC"'),
            'metrics', (SELECT coalesce(jsonb_agg(to_jsonb(m) || jsonb_build_object(
                            'wait_median', extract(epoch FROM m.time_to_process_median)::float8,
                            'wait_mean', extract(epoch FROM m.time_to_process_mean)::float8) ORDER BY m.variant), '[]')
                        FROM @extschema@.model_metrics(e.name) m),
            'results', (SELECT coalesce(jsonb_agg(to_jsonb(r) ORDER BY r.ordinality), '[]')
                        FROM @extschema@.experiment_results(e.name) WITH ORDINALITY r),
            'health', (SELECT coalesce(jsonb_agg(to_jsonb(h) ORDER BY h.ordinality), '[]')
                       FROM @extschema@.experiment_health(e.name) WITH ORDINALITY h),
            'daily', (SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.day, d.variant), '[]') FROM @extschema@.model_metrics_daily(e.name) d),
            'effect', (SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY f.day), '[]') FROM @extschema@.experiment_effect_daily(e.name) f),
            'curves', @extschema@._report_curves(e.name))
        FROM @extschema@.experiment e WHERE e.name = _report_data.experiment);
END
$$;
COMMENT ON FUNCTION _report_data IS 'pg_finetune private: what the functions say about an experiment, for the page';
REVOKE ALL ON FUNCTION _report_data FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _report_data TO finetune_analyst;

CREATE FUNCTION _report_page(data jsonb) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'report_page_wrapper';
COMMENT ON FUNCTION _report_page IS 'pg_finetune private: lays out a page';
REVOKE ALL ON FUNCTION _report_page FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _report_page TO finetune_analyst;

CREATE FUNCTION report_html(experiment text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('report_html', 'finetune_analyst');
    PERFORM @extschema@._require_experiment(experiment);
    RETURN @extschema@._report_page(@extschema@._report_data(experiment));
END
$$;
COMMENT ON FUNCTION report_html IS 'One self-contained page about an experiment: verdict, key figures, effect over time, outcomes, scores, precision and recall, calibration, reviewers, health. No script, light and dark.';
GRANT EXECUTE ON FUNCTION report_html TO finetune_analyst;
