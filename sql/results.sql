-- What an experiment has shown so far. The user is the unit of every number: events of one user are not independent.
-- Statistics are computed in Rust (src/core/stats) from exact sums.

CREATE FUNCTION _compare_ratio(base bigint[], fine_tuned bigint[], margin double precision, higher_is_better boolean,
    alpha double precision, planned_users integer, hybrid boolean DEFAULT false)
RETURNS TABLE (base_estimate double precision, fine_tuned_estimate double precision,
    difference double precision, se double precision, difference_low double precision, difference_high double precision,
    p_always double precision, fixed_low double precision, fixed_high double precision, p_fixed double precision,
    lift double precision, lift_low double precision, lift_high double precision,
    lift_fixed_low double precision, lift_fixed_high double precision,
    design_effect double precision, p_target double precision, chance_to_win double precision, expected_loss double precision,
    event_z double precision, event_p double precision, verdict text, reason text)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'compare_ratio_wrapper';
COMMENT ON FUNCTION _compare_ratio IS 'Compares two ratios of sums over users: each arm is {users, sum M, sum D, sum M*M, sum D*D, sum M*D, largest D}';
REVOKE ALL ON FUNCTION _compare_ratio FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _compare_ratio TO finetune_analyst;

CREATE FUNCTION _exposed_users(experiment text, until timestamptz DEFAULT NULL)
RETURNS TABLE (unit_id text, variant text, first_shown timestamptz, phase integer, doubled boolean, switched_at timestamptz)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    by_team boolean := @extschema@._draws_teams(experiment);
BEGIN
    RETURN QUERY
    WITH seen AS (
        SELECT CASE WHEN by_team THEN l.team_id ELSE l.user_id END AS unit_id, l.model_variant AS variant, coalesce(l.phase, 1) AS phase,
               min(l.shown_at) AS first_shown
        FROM @extschema@.model_performance_log l
        WHERE l.experiment = _exposed_users.experiment AND (until IS NULL OR l.shown_at <= until)
        GROUP BY 1, 2, 3
    ), unit AS (
        SELECT s.unit_id, (array_agg(s.variant ORDER BY s.first_shown, s.variant))[1] AS variant, min(s.first_shown) AS first_shown,
               (array_agg(s.phase ORDER BY s.first_shown, s.phase))[1] AS phase, count(*) > count(DISTINCT s.phase) AS doubled,
               array_agg(s.variant) AS variants, array_agg(s.first_shown) AS times
        FROM seen s
        WHERE s.unit_id IS NOT NULL
          AND NOT EXISTS (SELECT FROM @extschema@.experiment_pin p WHERE p.user_id = s.unit_id AND p.experiment = _exposed_users.experiment)
        GROUP BY s.unit_id
    )
    SELECT u.unit_id, u.variant, u.first_shown, u.phase, u.doubled,
           CASE WHEN cardinality(u.variants) > 1 THEN
               (SELECT min(x.time) FROM unnest(u.variants, u.times) x (variant, time) WHERE x.variant <> u.variant) END
    FROM unit u;
END
$$;
COMMENT ON FUNCTION _exposed_users IS 'Users (or teams) of an experiment with their first variant and phase; doubled = saw two variants in one phase; switched_at = first impression of another variant. Pinned testers left out';
REVOKE ALL ON FUNCTION _exposed_users FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _exposed_users TO finetune_analyst;

CREATE FUNCTION _is_bounded(experiment text, attribution text, from_phase integer DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Who switches without a change of the sets saw two variants in one phase: that is seen in passing.
    RETURN attribution = 'first_exposure' OR from_phase IS NOT NULL OR EXISTS (
        SELECT FROM @extschema@.experiment_arm a JOIN @extschema@.experiment_arm b ON b.experiment = a.experiment
        WHERE a.experiment = _is_bounded.experiment AND b.phase > a.phase AND b.variant <> a.variant AND a.buckets && b.buckets);
END
$$;
COMMENT ON FUNCTION _is_bounded IS 'pg_finetune private: whether what counts depends on when a user (or team) came or switched, which takes a look at the log before the one that counts';
REVOKE ALL ON FUNCTION _is_bounded FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _is_bounded TO finetune_analyst;

-- Inlined by the planner: one definition of each metric, for results, plans and CUPED.
CREATE FUNCTION _metric_counts(shown bigint, saved bigint, skipped bigint, snipped bigint, positives bigint,
    resolved bigint, hits bigint, misses bigint)
RETURNS TABLE (metric text, m bigint, d bigint)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 8
BEGIN ATOMIC
    SELECT r.metric, r.m, r.d
    FROM (VALUES ('save_rate', saved, shown), ('skip_rate', skipped, shown), ('snip_rate', snipped, shown),
                 ('precision', hits, resolved), ('false_suggestion_rate', misses, resolved),
                 ('recall', hits, positives), ('f1', 2 * hits, resolved + positives),
                 ('saves_per_user', saved, 1::bigint)) r (metric, m, d);
END;
COMMENT ON FUNCTION _metric_counts IS 'Numerator and denominator of one user for every metric: M counts what happened, D how often it could have';
REVOKE ALL ON FUNCTION _metric_counts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _metric_counts TO finetune_analyst;

CREATE FUNCTION _higher_is_better(metric text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF metric = ANY (ARRAY['save_rate', 'snip_rate', 'precision', 'recall', 'f1', 'saves_per_user']) THEN
        RETURN true;
    ELSIF metric = ANY (ARRAY['skip_rate', 'false_suggestion_rate']) THEN
        RETURN false;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'invalid_parameter_value',
        MESSAGE = format('no metric "%s" to decide by', metric),
        DETAIL = 'There are save_rate, skip_rate, snip_rate, precision, false_suggestion_rate, recall, f1 and saves_per_user.',
        HINT = 'SELECT * FROM @extschema@.model_metrics(experiment) shows all that is counted.';
END
$$;
COMMENT ON FUNCTION _higher_is_better IS 'Whether more of a metric is good; refuses what is none';
REVOKE ALL ON FUNCTION _higher_is_better FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _higher_is_better TO finetune_analyst;

CREATE FUNCTION _ratio_sums(experiment text, threshold double precision, positive text[], outcome_window interval DEFAULT NULL,
    settled boolean DEFAULT false, until timestamptz DEFAULT NULL, from_phase integer DEFAULT NULL)
RETURNS TABLE (metric text, variant text, sums bigint[])
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    rules @extschema@.experiment;
    bounded boolean;
BEGIN
    SELECT e.* INTO rules FROM @extschema@.experiment e WHERE e.name = _ratio_sums.experiment;
    rules.outcome_window := coalesce(_ratio_sums.outcome_window, rules.outcome_window);
    -- Planned anew for each call: where nobody is bounded, the planner drops the join.
    bounded := @extschema@._is_bounded(experiment, rules.attribution, from_phase);
    RETURN QUERY
    WITH seen AS (
        SELECT u.unit_id, l.model_variant AS variant,
               (NOT settled OR w.ends <= least(coalesce(until, now()), b.switched_at)) AND l.shown_at <= w.ends AS counts,
               coalesce(l.relevance_score >= threshold AND l.relevance_score <> 'NaN', false) AS suggested,
               CASE WHEN until IS NULL OR l.actioned_at <= until
                    THEN @extschema@._attributed(l.user_action, l.shown_at, l.actioned_at, least(w.ends, b.switched_at)) END AS action
        FROM @extschema@.model_performance_log l
        CROSS JOIN LATERAL (SELECT CASE WHEN rules.unit = 'team_id' THEN l.team_id ELSE l.user_id END) u (unit_id)
        LEFT JOIN @extschema@._exposed_users(_ratio_sums.experiment, until) b ON bounded AND b.unit_id = u.unit_id
        CROSS JOIN LATERAL (SELECT CASE rules.attribution WHEN 'impression' THEN l.shown_at ELSE b.first_shown END + rules.outcome_window) w (ends)
        WHERE l.experiment = _ratio_sums.experiment AND (until IS NULL OR l.shown_at <= until)
          AND (NOT bounded OR b.doubled IS NOT TRUE AND (b.switched_at IS NULL OR l.shown_at < b.switched_at)
               AND (from_phase IS NULL OR b.phase >= from_phase))
    ), per_variant AS (
        -- The one pass over the log; all that follows is per user.
        SELECT s.unit_id, s.variant, count(*) FILTER (WHERE s.counts) AS shown,
               count(*) FILTER (WHERE s.counts AND s.action = 'saved') AS saved,
               count(*) FILTER (WHERE s.counts AND s.action = 'skipped') AS skipped,
               count(*) FILTER (WHERE s.counts AND s.action = 'snipped') AS snipped,
               count(*) FILTER (WHERE s.counts AND s.action = ANY (positive)) AS positives,
               count(s.action) FILTER (WHERE s.counts AND s.suggested) AS resolved,
               count(*) FILTER (WHERE s.counts AND s.suggested AND s.action = ANY (positive)) AS hits,
               count(*) FILTER (WHERE s.counts AND s.suggested AND s.action = 'skipped') AS misses
        FROM seen s
        GROUP BY s.unit_id, s.variant
    ), per_unit AS (
        SELECT v.unit_id, min(v.variant) AS variant, min(v.shown) AS shown, min(v.saved) AS saved, min(v.skipped) AS skipped,
               min(v.snipped) AS snipped, min(v.positives) AS positives, min(v.resolved) AS resolved, min(v.hits) AS hits,
               min(v.misses) AS misses
        FROM per_variant v
        GROUP BY v.unit_id
        HAVING count(*) = 1 -- who saw both arms is dropped from both
    )
    SELECT r.metric, u.variant,
           ARRAY[count(*), sum(r.m), sum(r.d), sum(r.m * r.m), sum(r.d * r.d), sum(r.m * r.d), max(r.d)]::bigint[]
    FROM per_unit u
    CROSS JOIN LATERAL @extschema@._metric_counts(u.shown, u.saved, u.skipped, u.snipped, u.positives, u.resolved, u.hits, u.misses) r
    WHERE u.shown > 0 AND u.unit_id IS NOT NULL
      AND NOT EXISTS (SELECT FROM @extschema@.experiment_pin p WHERE p.user_id = u.unit_id AND p.experiment = _ratio_sums.experiment)
    GROUP BY r.metric, u.variant;
END
$$;
COMMENT ON FUNCTION _ratio_sums IS 'Sufficient statistics of each metric and variant over users (or teams), in whole numbers and one pass over the log. outcome_window NULL = that of the experiment; settled = only items whose window is over';
REVOKE ALL ON FUNCTION _ratio_sums FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _ratio_sums TO finetune_analyst;

CREATE FUNCTION _percent(share double precision) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN to_char(100 * share, 'FM999999990.0') || ' %'; END $$;
COMMENT ON FUNCTION _percent IS 'A share as a percentage with one decimal';
REVOKE ALL ON FUNCTION _percent FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _percent TO finetune_analyst;

CREATE FUNCTION _result_sentence(metric text, claim text, verdict text, reason text,
    base double precision, fine_tuned double precision, lift double precision) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    label text := CASE metric WHEN 'false_suggestion_rate' THEN 'false suggestions' ELSE replace(metric, '_', ' ') END;
    doubt text := CASE reason
        WHEN 'no_events' THEN 'an arm has nothing to count yet'
        WHEN 'too_few_users' THEN 'an arm has fewer than 100 users'
        WHEN 'zero_variance' THEN 'all users of an arm did the same'
        WHEN 'too_few_events' THEN 'it happened, or did not happen, fewer than 5 times in an arm'
        WHEN 'too_concentrated' THEN 'one user makes up more than a tenth of an arm' END;
    is_share boolean := metric <> 'saves_per_user';
BEGIN
    label := upper(left(label, 1)) || substr(label, 2);
    IF base IS NULL OR fine_tuned IS NULL THEN
        RETURN format('%s cannot be compared: %s.', label, doubt);
    END IF;
    RETURN format('%s: %s with fineTuned, %s with base%s. That it is %s is %s.', label,
        CASE WHEN is_share THEN @extschema@._percent(fine_tuned) ELSE to_char(fine_tuned, 'FM999999990.00') END,
        CASE WHEN is_share THEN @extschema@._percent(base) ELSE to_char(base, 'FM999999990.00') END,
        CASE WHEN lift > 0 THEN ' (+' || @extschema@._percent(lift) || ')' ELSE ' (' || @extschema@._percent(lift) || ')' END,
        claim,
        CASE WHEN verdict <> 'open' THEN verdict
             WHEN doubt IS NOT NULL THEN 'open: ' || doubt
             ELSE 'neither proved nor refuted yet' END);
END
$$;
COMMENT ON FUNCTION _result_sentence IS 'One result in plain words';
REVOKE ALL ON FUNCTION _result_sentence FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _result_sentence TO finetune_analyst;

CREATE FUNCTION _claims(targets jsonb)
RETURNS TABLE (ordinal integer, metric text, target text, claim text, margin double precision, higher_is_better boolean)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF targets IS NULL OR jsonb_typeof(targets) <> 'object'
       OR EXISTS (SELECT FROM jsonb_each(targets) t WHERE jsonb_typeof(t.value) <> 'number' OR (t.value #>> '{}')::numeric <= -1) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'targets are metrics and the lift wanted of each',
            DETAIL = format('These are %s.', coalesce(targets::text, 'NULL')),
            HINT = 'For 20 % more saves and 30 % fewer false suggestions: ''{"save_rate": 0.2, "false_suggestion_rate": -0.3}''.';
    END IF;
    PERFORM @extschema@._higher_is_better(t.key) FROM jsonb_each(targets) t;
    RETURN QUERY
    WITH known AS (
        SELECT k.metric, k.place::integer AS place, @extschema@._higher_is_better(k.metric) AS up
        FROM unnest(ARRAY['save_rate', 'false_suggestion_rate', 'precision', 'recall', 'f1', 'skip_rate', 'snip_rate', 'saves_per_user'])
             WITH ORDINALITY k (metric, place)
    )
    SELECT 2 * k.place, k.metric, 'better', CASE WHEN k.up THEN 'higher' ELSE 'lower' END, 0.0::float8, k.up FROM known k
    UNION ALL
    SELECT 2 * k.place + 1, k.metric, rtrim(to_char(100 * t.value::float8, 'FMSG999990.99'), '.') || ' %',
           CASE WHEN k.up = (t.value::float8 > 0) THEN 'at least ' ELSE 'at most ' END
               || rtrim(to_char(abs(100 * t.value::float8), 'FM999990.99'), '.') || ' % '
               || CASE WHEN t.value::float8 > 0 THEN 'higher' ELSE 'lower' END,
           t.value::float8, k.up
    FROM jsonb_each_text(targets) t JOIN known k ON k.metric = t.key
    WHERE t.value::float8 <> 0;
END
$$;
COMMENT ON FUNCTION _claims IS 'What is asked of an experiment: that each metric is better, and that the targets are reached';
REVOKE ALL ON FUNCTION _claims FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _claims TO finetune_analyst;

CREATE FUNCTION _is_hybrid(inference text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF inference IS NULL OR inference <> ALL (ARRAY['sequence', 'hybrid']) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('no inference "%s"', coalesce(inference, 'NULL')),
            DETAIL = 'There are sequence (right at any look) and hybrid (half of alpha for any look, half for one at planned_users).',
            HINT = 'Leave inference out for sequence.';
    END IF;
    RETURN inference = 'hybrid';
END
$$;
COMMENT ON FUNCTION _is_hybrid IS 'Whether half of alpha is kept for the planned end';
REVOKE ALL ON FUNCTION _is_hybrid FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _is_hybrid TO finetune_analyst;

CREATE FUNCTION experiment_results(experiment text, alpha double precision DEFAULT 0.05, threshold double precision DEFAULT 0.5,
    positive text[] DEFAULT '{saved,snipped}', outcome_window interval DEFAULT NULL,
    targets jsonb DEFAULT '{"save_rate": 0.2, "false_suggestion_rate": -0.3}', inference text DEFAULT 'sequence',
    variant text DEFAULT 'fineTuned', until timestamptz DEFAULT NULL, settled boolean DEFAULT false,
    from_phase integer DEFAULT NULL)
RETURNS TABLE (metric text, target text, verdict text, reason text, sentence text,
    base_users bigint, fine_tuned_users bigint, base_events bigint, fine_tuned_events bigint,
    base_estimate double precision, fine_tuned_estimate double precision,
    difference double precision, se double precision, difference_low double precision, difference_high double precision,
    p_always double precision, lift double precision, lift_low double precision, lift_high double precision,
    p_target double precision, p_holm double precision, design_effect double precision,
    chance_to_win double precision, expected_loss double precision,
    fixed_low double precision, fixed_high double precision, p_fixed double precision,
    lift_fixed_low double precision, lift_fixed_high double precision, planned_users integer, planned_users_reached boolean,
    event_z double precision, event_p double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    hybrid boolean;
BEGIN
    PERFORM @extschema@._require_role('experiment_results', 'finetune_analyst');
    PERFORM @extschema@._require_experiment(experiment_results.experiment);
    PERFORM @extschema@._check_actions(positive);
    hybrid := @extschema@._is_hybrid(inference);
    RETURN QUERY
    WITH sums AS MATERIALIZED (
        SELECT * FROM @extschema@._ratio_sums(experiment_results.experiment, threshold, positive, outcome_window, settled, until, from_phase)
    ), arms AS (
        SELECT q.*, e.planned_users,
               coalesce((SELECT s.sums FROM sums s WHERE s.metric = q.metric AND s.variant = 'base'), nothing) AS base,
               coalesce((SELECT s.sums FROM sums s WHERE s.metric = q.metric AND s.variant = experiment_results.variant), nothing) AS fine_tuned
        FROM @extschema@._claims(targets) q
        CROSS JOIN (VALUES (array_fill(0::bigint, ARRAY[7]))) z (nothing)
        JOIN @extschema@.experiment e ON e.name = experiment_results.experiment
    ), compared AS MATERIALIZED (
        SELECT a.ordinal, a.metric, a.target, a.claim, a.base, a.fine_tuned, a.planned_users, c.*
        FROM arms a
        CROSS JOIN LATERAL @extschema@._compare_ratio(a.base, a.fine_tuned, a.margin, a.higher_is_better, alpha, a.planned_users, hybrid) c
    ), holm AS (
        SELECT h.ordinal, h.p
        FROM (SELECT array_agg(c.ordinal ORDER BY c.ordinal) AS ordinals, array_agg(c.p_target ORDER BY c.ordinal) AS p
              FROM compared c WHERE c.p_target IS NOT NULL) x,
             unnest(x.ordinals, @extschema@.adjust_p_values(x.p)) h (ordinal, p)
    )
    SELECT c.metric, c.target, c.verdict, c.reason,
           @extschema@._result_sentence(c.metric, c.claim, c.verdict, c.reason, c.base_estimate, c.fine_tuned_estimate, c.lift),
           c.base[1], c.fine_tuned[1], c.base[3], c.fine_tuned[3], c.base_estimate, c.fine_tuned_estimate,
           c.difference, c.se, c.difference_low, c.difference_high, c.p_always, c.lift, c.lift_low, c.lift_high, c.p_target, h.p,
           c.design_effect, c.chance_to_win, c.expected_loss, c.fixed_low, c.fixed_high, c.p_fixed, c.lift_fixed_low, c.lift_fixed_high,
           c.planned_users, c.base[1] + c.fine_tuned[1] >= c.planned_users, c.event_z, c.event_p
    FROM compared c LEFT JOIN holm h ON h.ordinal = c.ordinal
    ORDER BY c.ordinal;
END
$$;
COMMENT ON FUNCTION experiment_results IS 'One row per metric and target: estimates, difference and lift with intervals that hold however often one looks, and the verdict proved, refuted or open. fixed_* and p_fixed hold at one look at planned_users only, event_* are wrong where users bring several events. outcome_window: how long after an impression an action counts, NULL = as the experiment says; settled counts only items whose window is over, from_phase only users who came in that phase or later';
GRANT EXECUTE ON FUNCTION experiment_results TO finetune_analyst;
