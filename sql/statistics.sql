-- Statistics for analysts: pure functions of numbers, a plan from the log, and CUPED.

CREATE FUNCTION compare_proportions(base_successes bigint, base_users bigint, fine_tuned_successes bigint, fine_tuned_users bigint,
    alpha double precision DEFAULT 0.05)
RETURNS TABLE (base_share double precision, base_low double precision, base_high double precision,
    fine_tuned_share double precision, fine_tuned_low double precision, fine_tuned_high double precision,
    difference double precision, newcombe_low double precision, newcombe_high double precision,
    score_low double precision, score_high double precision,
    lift double precision, lift_low double precision, lift_high double precision,
    lift_log_low double precision, lift_log_high double precision,
    base_exact_low double precision, base_exact_high double precision,
    fine_tuned_exact_low double precision, fine_tuned_exact_high double precision,
    z double precision, p double precision, fisher_p double precision, chance_to_win double precision, expected_loss double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'compare_proportions_wrapper';
COMMENT ON FUNCTION compare_proportions IS 'Two shares of users, each user counted once, at one look: Wilson, exact, Newcombe and score intervals, Fisher''s test, and the exact chance that fineTuned is better from uniform priors';
REVOKE ALL ON FUNCTION compare_proportions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION compare_proportions TO finetune_analyst;

CREATE FUNCTION compare_means(base double precision[], fine_tuned double precision[], alpha double precision DEFAULT 0.05,
    planned_users integer DEFAULT 5000)
RETURNS TABLE (base_mean double precision, fine_tuned_mean double precision, difference double precision, se double precision,
    difference_low double precision, difference_high double precision, p_always double precision,
    fixed_low double precision, fixed_high double precision, p_fixed double precision,
    lift double precision, lift_se_delta double precision, lift_low double precision, lift_high double precision,
    chance_to_win double precision, expected_loss double precision, expected_loss_of_base double precision,
    believed_lift double precision, believed_lift_sd double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'compare_means_wrapper';
COMMENT ON FUNCTION compare_means IS 'Two means over users, each arm given as {users, sum, sum of squares}: always-valid interval, Welch''s test, Fieller''s interval of the lift, chance to win from the prior N(0, 0.3^2) on the lift';
REVOKE ALL ON FUNCTION compare_means FROM PUBLIC;
GRANT EXECUTE ON FUNCTION compare_means TO finetune_analyst;

CREATE FUNCTION always_valid(estimate double precision, se double precision, users bigint, planned_users bigint,
    alpha double precision DEFAULT 0.05)
RETURNS TABLE (low double precision, high double precision, p double precision, lower_bound double precision, p_above_zero double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'always_valid_wrapper';
COMMENT ON FUNCTION always_valid IS 'Confidence sequence of an estimate of your own: two-sided interval and p, one-sided bound and p, right however often one looks';
REVOKE ALL ON FUNCTION always_valid FROM PUBLIC;
GRANT EXECUTE ON FUNCTION always_valid TO finetune_analyst;

CREATE FUNCTION adjust_p_values(p double precision[], method text DEFAULT 'holm') RETURNS double precision[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'adjust_p_values_wrapper';
COMMENT ON FUNCTION adjust_p_values IS 'p values of several questions, adjusted: holm, bonferroni, hochberg, hommel to decide; bh, by to explore';
REVOKE ALL ON FUNCTION adjust_p_values FROM PUBLIC;
GRANT EXECUTE ON FUNCTION adjust_p_values TO finetune_analyst;

CREATE FUNCTION required_users(base_rate double precision, lift double precision, margin double precision DEFAULT 0,
    alpha double precision DEFAULT 0.05, power double precision DEFAULT 0.8, variance double precision DEFAULT NULL,
    OUT users_per_arm bigint, OUT planned_users bigint, OUT price_of_looking double precision)
RETURNS SETOF record
LANGUAGE c IMMUTABLE PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'required_users_wrapper';
COMMENT ON FUNCTION required_users IS 'Users needed to prove a lift beyond a margin: users_per_arm at one planned look, planned_users both arms together when looking at any time. variance per user for metrics of several events, NULL = one yes or no per user';
REVOKE ALL ON FUNCTION required_users FROM PUBLIC;
GRANT EXECUTE ON FUNCTION required_users TO finetune_analyst;

CREATE FUNCTION detectable_lift(mean double precision, variance double precision, users_per_arm bigint, lift double precision DEFAULT 0.2,
    alpha double precision DEFAULT 0.05, power double precision DEFAULT 0.8,
    OUT smallest_lift double precision, OUT smallest_lift_always double precision,
    OUT power_of_lift double precision, OUT power_of_lift_always double precision)
RETURNS SETOF record
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'detectable_lift_wrapper';
COMMENT ON FUNCTION detectable_lift IS 'What so many users can show: the smallest lift found with the wanted power (NULL = none) and the power to find a given one, at one planned look and when looking at any time';
REVOKE ALL ON FUNCTION detectable_lift FROM PUBLIC;
GRANT EXECUTE ON FUNCTION detectable_lift TO finetune_analyst;

CREATE FUNCTION plan_experiment(metric text DEFAULT 'save_rate', lift double precision DEFAULT 0.2, margin double precision DEFAULT 0,
    alpha double precision DEFAULT 0.05, power double precision DEFAULT 0.8, lookback interval DEFAULT '28 days',
    threshold double precision DEFAULT 0.5, positive text[] DEFAULT '{saved,snipped}', unit text DEFAULT 'user_id',
    OUT base_rate double precision, OUT users_seen bigint, OUT events_per_user double precision, OUT variance_per_user double precision,
    OUT design_effect double precision, OUT users_per_arm bigint, OUT planned_users bigint, OUT days integer, OUT sentence text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    since timestamptz := now() - lookback;
    s numeric[];
    needed record;
BEGIN
    PERFORM @extschema@._require_role('plan_experiment', 'finetune_analyst');
    PERFORM @extschema@._higher_is_better(metric);
    PERFORM @extschema@._check_actions(positive);
    PERFORM @extschema@._check_counting(unit, NULL, 'impression');
    SELECT ARRAY[count(*), sum(r.m), sum(r.d), sum(r.m * r.m), sum(r.d * r.d), sum(r.m * r.d)] INTO s
    FROM (
        SELECT count(*) AS shown,
               count(*) FILTER (WHERE l.user_action = 'saved') AS saved,
               count(*) FILTER (WHERE l.user_action = 'skipped') AS skipped,
               count(*) FILTER (WHERE l.user_action = 'snipped') AS snipped,
               count(*) FILTER (WHERE l.user_action = ANY (positive)) AS positives,
               count(l.user_action) FILTER (WHERE l.relevance_score >= threshold AND l.relevance_score <> 'NaN') AS resolved,
               count(*) FILTER (WHERE l.relevance_score >= threshold AND l.relevance_score <> 'NaN' AND l.user_action = ANY (positive)) AS hits,
               count(*) FILTER (WHERE l.relevance_score >= threshold AND l.relevance_score <> 'NaN' AND l.user_action = 'skipped') AS misses
        FROM @extschema@.model_performance_log l
        WHERE l.shown_at >= since AND (unit = 'user_id' OR l.team_id IS NOT NULL)
        GROUP BY CASE unit WHEN 'user_id' THEN l.user_id ELSE l.team_id END) u
    CROSS JOIN LATERAL @extschema@._metric_counts(u.shown, u.saved, u.skipped, u.snipped, u.positives, u.resolved, u.hits, u.misses) r
    WHERE r.metric = plan_experiment.metric;
    users_seen := s[1];
    IF coalesce(s[1], 0) < 2 OR coalesce(s[3], 0) = 0 OR s[2] = 0 THEN
        sentence := format('The log of the last %s says nothing about the %s: plan after some weeks of capture.', lookback, replace(metric, '_', ' '));
        RETURN;
    END IF;
    base_rate := s[2] / s[3];
    events_per_user := s[3] / s[1];
    -- n / (n - 1) * sum (M - R D)^2 / mean(D)^2 / n: the variance of one user's share of the estimate.
    variance_per_user := s[1] / (s[1] - 1) * (s[4] - 2 * s[2] / s[3] * s[6] + (s[2] / s[3]) ^ 2 * s[5]) * s[1] / s[3] ^ 2;
    IF variance_per_user <= 0 THEN
        sentence := format('All users did the same in the last %s: nothing varies, so nothing can be planned.', lookback);
        RETURN;
    END IF;
    design_effect := CASE WHEN base_rate < 1 THEN variance_per_user / s[1]::float8 / (base_rate * (1 - base_rate) / s[3]::float8) END;
    SELECT * INTO needed FROM @extschema@.required_users(base_rate, lift, margin, alpha, power, variance_per_user);
    users_per_arm := needed.users_per_arm;
    planned_users := needed.planned_users;
    -- Users who come back count once: on which day of the window had that many been seen?
    SELECT d.day INTO days
    FROM (SELECT extract(day FROM f.first_shown - since)::integer + 1 AS day, sum(count(*)) OVER (ORDER BY extract(day FROM f.first_shown - since)::integer + 1) AS so_far
          FROM (SELECT min(l.shown_at) AS first_shown FROM @extschema@.model_performance_log l
                WHERE l.shown_at >= since AND (unit = 'user_id' OR l.team_id IS NOT NULL)
                GROUP BY CASE unit WHEN 'user_id' THEN l.user_id ELSE l.team_id END) f
          GROUP BY 1) d
    WHERE d.so_far >= needed.planned_users
    ORDER BY d.day LIMIT 1;
    sentence := format('To prove a %s %s better%s, plan with %s users, both variants together%s.', replace(metric, '_', ' '),
        to_char(abs(100 * lift), 'FM999990.0') || ' %',
        CASE WHEN margin <> 0 THEN format(' than base by more than %s %%', to_char(abs(100 * margin), 'FM999990.0')) ELSE '' END,
        planned_users,
        CASE WHEN days IS NULL THEN format('; in the last %s only %s were seen', lookback, users_seen)
             ELSE format(': as many as were seen within %s days', days) END);
END
$$;
COMMENT ON FUNCTION plan_experiment IS 'How many users and days an experiment takes, from what users did lately: several events per user and users who come back are accounted for';
GRANT EXECUTE ON FUNCTION plan_experiment TO finetune_analyst;

CREATE FUNCTION _compare_adjusted(base bigint[], fine_tuned bigint[], alpha double precision)
RETURNS TABLE (theta double precision, difference double precision, se double precision, fixed_low double precision, fixed_high double precision,
    p_fixed double precision, unadjusted double precision, unadjusted_se double precision, variance_reduction double precision,
    lift double precision, lift_se double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'compare_adjusted_wrapper';
COMMENT ON FUNCTION _compare_adjusted IS 'CUPED: each arm is {users, M, D, MM, DD, MD after, P, Q, PP, QQ, PQ before, MP, MQ, DP, DQ}, sums over users';
REVOKE ALL ON FUNCTION _compare_adjusted FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _compare_adjusted TO finetune_analyst;

CREATE FUNCTION _paired_sums(experiment text, metric text, pre_period interval)
RETURNS TABLE (variant text, sums bigint[], with_past bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    rules @extschema@.experiment;
BEGIN
    SELECT e.* INTO rules FROM @extschema@.experiment e WHERE e.name = _paired_sums.experiment;
    RETURN QUERY
    WITH users AS MATERIALIZED (
        SELECT u.* FROM @extschema@._exposed_users(_paired_sums.experiment) u WHERE NOT u.doubled
    ), item AS (
        SELECT u.unit_id, u.variant, l.shown_at >= u.first_shown AS after,
               CASE WHEN l.shown_at < u.first_shown THEN l.user_action
                    ELSE @extschema@._attributed(l.user_action, l.shown_at, l.actioned_at, least(
                        CASE rules.attribution WHEN 'impression' THEN l.shown_at ELSE u.first_shown END + rules.outcome_window, u.switched_at)) END AS action
        FROM users u
        JOIN @extschema@.model_performance_log l ON CASE rules.unit WHEN 'user_id' THEN l.user_id ELSE l.team_id END = u.unit_id
        WHERE l.experiment = _paired_sums.experiment AND l.shown_at >= u.first_shown AND (u.switched_at IS NULL OR l.shown_at < u.switched_at)
              AND (rules.attribution = 'impression' OR l.shown_at <= u.first_shown + rules.outcome_window)
           OR l.shown_at < u.first_shown AND l.shown_at >= u.first_shown - pre_period
              AND (l.actioned_at IS NULL OR l.actioned_at < u.first_shown)
    ), counted AS (
        SELECT i.unit_id, i.variant, i.after, count(*) AS shown,
               count(*) FILTER (WHERE i.action = 'saved') AS saved,
               count(*) FILTER (WHERE i.action = 'skipped') AS skipped,
               count(*) FILTER (WHERE i.action = 'snipped') AS snipped
        FROM item i
        GROUP BY i.unit_id, i.variant, i.after
    ), per_user AS (
        SELECT c.unit_id, c.variant,
               coalesce(sum(r.m) FILTER (WHERE c.after), 0) AS m, coalesce(sum(r.d) FILTER (WHERE c.after), 0) AS d,
               coalesce(sum(r.m) FILTER (WHERE NOT c.after), 0) AS p, coalesce(sum(r.d) FILTER (WHERE NOT c.after), 0) AS q
        FROM counted c
        CROSS JOIN LATERAL @extschema@._metric_counts(c.shown, c.saved, c.skipped, c.snipped, 0, 0, 0, 0) r
        WHERE r.metric = _paired_sums.metric
        GROUP BY c.unit_id, c.variant
    )
    SELECT u.variant,
           ARRAY[count(*), sum(u.m), sum(u.d), sum(u.m * u.m), sum(u.d * u.d), sum(u.m * u.d),
                 sum(u.p), sum(u.q), sum(u.p * u.p), sum(u.q * u.q), sum(u.p * u.q),
                 sum(u.m * u.p), sum(u.m * u.q), sum(u.d * u.p), sum(u.d * u.q)]::bigint[],
           count(*) FILTER (WHERE u.q > 0)
    FROM per_user u
    GROUP BY u.variant;
END
$$;
COMMENT ON FUNCTION _paired_sums IS 'Sums over users of a metric in the experiment and before each user''s first impression in it';
REVOKE ALL ON FUNCTION _paired_sums FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _paired_sums TO finetune_analyst;

CREATE FUNCTION experiment_cuped(experiment text, metric text DEFAULT 'save_rate', pre_period interval DEFAULT '14 days',
    alpha double precision DEFAULT 0.05, variant text DEFAULT 'fineTuned',
    OUT difference double precision, OUT se double precision, OUT difference_low double precision, OUT difference_high double precision,
    OUT p_always double precision, OUT fixed_low double precision, OUT fixed_high double precision, OUT p_fixed double precision,
    OUT unadjusted double precision, OUT unadjusted_se double precision, OUT variance_reduction double precision,
    OUT lift double precision, OUT lift_se double precision, OUT theta double precision, OUT users bigint, OUT users_with_past bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    arms record;
    adjusted record;
    planned integer;
BEGIN
    PERFORM @extschema@._require_role('experiment_cuped', 'finetune_analyst');
    PERFORM @extschema@._require_experiment(experiment);
    IF metric IS NULL OR metric <> ALL (ARRAY['save_rate', 'skip_rate', 'snip_rate', 'saves_per_user']) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('metric "%s" cannot be adjusted by the past', coalesce(metric, 'NULL')),
            DETAIL = 'That takes a metric which also exists before the experiment: save_rate, skip_rate, snip_rate or saves_per_user.',
            HINT = 'SELECT * FROM @extschema@.experiment_results(experiment) has the others without adjustment.';
    END IF;
    SELECT (array_agg(p.sums) FILTER (WHERE p.variant = 'base'))[1:1] AS base,
           (array_agg(p.sums) FILTER (WHERE p.variant = experiment_cuped.variant))[1:1] AS fine_tuned,
           sum(p.sums[1]) AS users, sum(p.with_past) AS with_past
    INTO arms FROM @extschema@._paired_sums(experiment, metric, pre_period) p
    WHERE p.variant IN ('base', experiment_cuped.variant);
    users := coalesce(arms.users, 0);
    users_with_past := coalesce(arms.with_past, 0);
    IF arms.base IS NULL OR arms.fine_tuned IS NULL THEN
        RETURN;
    END IF;
    SELECT e.planned_users INTO planned FROM @extschema@.experiment e WHERE e.name = experiment_cuped.experiment;
    SELECT c.* INTO adjusted FROM @extschema@._compare_adjusted(
        ARRAY(SELECT unnest(arms.base)), ARRAY(SELECT unnest(arms.fine_tuned)), alpha) c;
    difference := adjusted.difference;
    se := adjusted.se;
    fixed_low := adjusted.fixed_low;
    fixed_high := adjusted.fixed_high;
    p_fixed := adjusted.p_fixed;
    unadjusted := adjusted.unadjusted;
    unadjusted_se := adjusted.unadjusted_se;
    variance_reduction := adjusted.variance_reduction;
    lift := adjusted.lift;
    lift_se := adjusted.lift_se;
    theta := adjusted.theta;
    IF se > 0 THEN
        SELECT v.low, v.high, v.p INTO difference_low, difference_high, p_always
        FROM @extschema@.always_valid(difference, se, users, planned, alpha) v;
    END IF;
END
$$;
COMMENT ON FUNCTION experiment_cuped IS 'The difference with what users did before the experiment taken out (CUPED), beside the one without, and how much of the variance that explained. Users without a past count as average';
GRANT EXECUTE ON FUNCTION experiment_cuped TO finetune_analyst;
