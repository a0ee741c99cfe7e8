-- What an experiment has shown so far, and whether it may be believed. The user is the unit of every number: events of one
-- user are not independent. Statistics are computed in Rust (src/core/stats) from exact sums.

CREATE FUNCTION _compare_ratio(base bigint[], fine_tuned bigint[], margin double precision, higher_is_better boolean,
    alpha double precision, planned_users integer)
RETURNS TABLE (base_estimate double precision, fine_tuned_estimate double precision,
    difference double precision, difference_low double precision, difference_high double precision, p_always double precision,
    fixed_low double precision, fixed_high double precision, p_fixed double precision,
    lift double precision, lift_low double precision, lift_high double precision,
    design_effect double precision, p_target double precision, verdict text, reason text)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'compare_ratio_wrapper';
COMMENT ON FUNCTION _compare_ratio IS 'Compares two ratios of sums over users: each arm is {users, sum M, sum D, sum M*M, sum D*D, sum M*D, largest D}';
REVOKE ALL ON FUNCTION _compare_ratio FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _compare_ratio TO finetune_analyst;

CREATE FUNCTION _compare_split(observed bigint[], weights double precision[])
RETURNS TABLE (chi_square double precision, p double precision, p_always double precision, smallest_expected double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'compare_split_wrapper';
COMMENT ON FUNCTION _compare_split IS 'Sample ratio mismatch: chi-square test and a test that may be looked at any time';
REVOKE ALL ON FUNCTION _compare_split FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _compare_split TO finetune_analyst;

CREATE FUNCTION _exposed_users(experiment text) RETURNS TABLE (user_id text, variant text, variants integer, first_shown timestamptz)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT l.user_id, (array_agg(l.model_variant ORDER BY l.shown_at, l.model_variant))[1],
           count(DISTINCT l.model_variant)::integer, min(l.shown_at)
    FROM @extschema@.model_performance_log l
    WHERE l.experiment = _exposed_users.experiment
      AND NOT EXISTS (SELECT FROM @extschema@.experiment_pin p WHERE p.user_id = l.user_id AND p.experiment = l.experiment)
    GROUP BY l.user_id;
END
$$;
COMMENT ON FUNCTION _exposed_users IS 'Users of an experiment with their first variant and how many they saw; pinned testers left out';
REVOKE ALL ON FUNCTION _exposed_users FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _exposed_users TO finetune_analyst;

CREATE FUNCTION _ratio_sums(experiment text, threshold double precision, positive text[], outcome_window interval)
RETURNS TABLE (metric text, variant text, sums bigint[])
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH seen AS (
        SELECT l.user_id, l.model_variant AS variant,
               coalesce(l.relevance_score >= threshold AND l.relevance_score <> 'NaN', false) AS suggested,
               CASE WHEN outcome_window IS NULL OR l.actioned_at <= l.shown_at + outcome_window THEN l.user_action END AS action
        FROM @extschema@.model_performance_log l
        WHERE l.experiment = _ratio_sums.experiment
          AND (outcome_window IS NULL OR l.shown_at + outcome_window <= now())
    ), per_user AS (
        SELECT s.variant, s.user_id, count(*) AS shown,
               count(*) FILTER (WHERE s.action = 'saved') AS saved,
               count(*) FILTER (WHERE s.action = 'skipped') AS skipped,
               count(*) FILTER (WHERE s.action = 'snipped') AS snipped,
               count(s.action) FILTER (WHERE s.suggested) AS resolved,
               count(*) FILTER (WHERE s.suggested AND s.action = ANY (positive)) AS hits,
               count(*) FILTER (WHERE s.suggested AND s.action = 'skipped') AS misses
        FROM seen s
        JOIN @extschema@._exposed_users(_ratio_sums.experiment) u ON u.user_id = s.user_id
        WHERE u.variants = 1 -- who saw both arms is dropped from both
        GROUP BY s.variant, s.user_id
    )
    SELECT r.metric, u.variant,
           ARRAY[count(*), sum(r.m), sum(r.d), sum(r.m * r.m), sum(r.d * r.d), sum(r.m * r.d), max(r.d)]::bigint[]
    FROM per_user u
    CROSS JOIN LATERAL (VALUES
        ('save_rate', u.saved, u.shown),
        ('skip_rate', u.skipped, u.shown),
        ('snip_rate', u.snipped, u.shown),
        ('precision', u.hits, u.resolved),
        ('false_suggestion_rate', u.misses, u.resolved)) r (metric, m, d)
    GROUP BY r.metric, u.variant;
END
$$;
COMMENT ON FUNCTION _ratio_sums IS 'Sufficient statistics of each metric and variant over users: M counts what happened, D how often it could have';
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
BEGIN
    IF base IS NULL OR fine_tuned IS NULL THEN
        RETURN format('%s cannot be compared: %s.', label, doubt);
    END IF;
    RETURN format('%s: %s with fineTuned, %s with base%s. That it is %s is %s.',
        label, @extschema@._percent(fine_tuned), @extschema@._percent(base),
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

CREATE FUNCTION experiment_results(experiment text, alpha double precision DEFAULT 0.05, threshold double precision DEFAULT 0.5,
    positive text[] DEFAULT '{saved,snipped}', outcome_window interval DEFAULT NULL)
RETURNS TABLE (metric text, target text, verdict text, reason text, sentence text,
    base_users bigint, fine_tuned_users bigint, base_events bigint, fine_tuned_events bigint,
    base_estimate double precision, fine_tuned_estimate double precision,
    difference double precision, difference_low double precision, difference_high double precision, p_always double precision,
    lift double precision, lift_low double precision, lift_high double precision, p_target double precision,
    design_effect double precision,
    fixed_low double precision, fixed_high double precision, p_fixed double precision, planned_users integer, planned_users_reached boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM @extschema@._require_role('experiment_results', 'finetune_analyst');
    PERFORM @extschema@._require_experiment(experiment_results.experiment);
    PERFORM @extschema@._check_actions(positive);
    RETURN QUERY
    WITH sums AS MATERIALIZED (
        SELECT * FROM @extschema@._ratio_sums(experiment_results.experiment, threshold, positive, outcome_window)
    ), asked (ordinal, metric, target, claim, margin, higher_is_better) AS (VALUES
        (1, 'save_rate', 'better', 'higher', 0.0::float8, true),
        (2, 'save_rate', '+20 %', 'at least 20 % higher', 0.2, true),
        (3, 'false_suggestion_rate', 'better', 'lower', 0.0, false),
        (4, 'false_suggestion_rate', '-30 %', 'at least 30 % lower', -0.3, false),
        (5, 'precision', 'better', 'higher', 0.0, true),
        (6, 'skip_rate', 'better', 'lower', 0.0, false),
        (7, 'snip_rate', 'better', 'higher', 0.0, true)
    ), arms AS (
        SELECT q.*, e.planned_users,
               coalesce((SELECT s.sums FROM sums s WHERE s.metric = q.metric AND s.variant = 'base'), nothing) AS base,
               coalesce((SELECT s.sums FROM sums s WHERE s.metric = q.metric AND s.variant = 'fineTuned'), nothing) AS fine_tuned
        FROM asked q
        CROSS JOIN (VALUES (array_fill(0::bigint, ARRAY[7]))) z (nothing)
        JOIN @extschema@.experiment e ON e.name = experiment_results.experiment
    )
    SELECT a.metric, a.target, c.verdict, c.reason,
           @extschema@._result_sentence(a.metric, a.claim, c.verdict, c.reason, c.base_estimate, c.fine_tuned_estimate, c.lift),
           a.base[1], a.fine_tuned[1], a.base[3], a.fine_tuned[3], c.base_estimate, c.fine_tuned_estimate,
           c.difference, c.difference_low, c.difference_high, c.p_always, c.lift, c.lift_low, c.lift_high, c.p_target,
           c.design_effect, c.fixed_low, c.fixed_high, c.p_fixed, a.planned_users, a.base[1] + a.fine_tuned[1] >= a.planned_users
    FROM arms a
    CROSS JOIN LATERAL @extschema@._compare_ratio(a.base, a.fine_tuned, a.margin, a.higher_is_better, alpha, a.planned_users) c
    ORDER BY a.ordinal;
END
$$;
COMMENT ON FUNCTION experiment_results IS 'One row per metric and target: estimates, difference and lift with intervals that hold however often one looks, and the verdict proved, refuted or open. fixed_* and p_fixed hold at one look at planned_users only. outcome_window counts only items shown at least that long ago';
GRANT EXECUTE ON FUNCTION experiment_results TO finetune_analyst;
