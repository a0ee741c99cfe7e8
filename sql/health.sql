-- Whether the numbers of an experiment may be believed: split, leaks, double exposure, what was served, pending items.

CREATE FUNCTION _compare_split(observed bigint[], weights double precision[], arms integer)
RETURNS TABLE (chi_square double precision, p double precision, p_always double precision, smallest_expected double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'compare_split_wrapper';
COMMENT ON FUNCTION _compare_split IS 'Sample ratio mismatch over phases of so many arms each: chi-square test and a test that may be looked at any time';
REVOKE ALL ON FUNCTION _compare_split FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _compare_split TO finetune_analyst;

CREATE FUNCTION _health_split(experiment text)
RETURNS TABLE (check_name text, verdict text, value double precision, detail jsonb, meaning text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH exposed AS (
        SELECT coalesce(u.phase, 1) AS phase, u.variant, count(*) AS users
        FROM @extschema@._exposed_users(_health_split.experiment) u
        GROUP BY coalesce(u.phase, 1), u.variant
    ), arms AS (
        -- Each user in the phase of the first impression, against the split of that phase: phases may differ in weights.
        SELECT p.phase, v.variant, coalesce(x.users, 0) AS users,
               coalesce((SELECT sum(upper(r) - lower(r)) FROM @extschema@.experiment_arm a, unnest(a.buckets) r
                         WHERE a.experiment = p.experiment AND a.phase = p.phase AND a.variant = v.variant), 0)::float8 AS buckets
        FROM @extschema@.experiment_phase p
        CROSS JOIN (SELECT DISTINCT a.variant FROM @extschema@.experiment_arm a WHERE a.experiment = _health_split.experiment) v
        LEFT JOIN exposed x ON x.phase = p.phase AND x.variant = v.variant
        WHERE p.experiment = _health_split.experiment
    ), expected AS (
        SELECT a.*, sum(a.users) OVER phase * a.buckets / nullif(sum(a.buckets) OVER phase, 0) AS expected
        FROM arms a WINDOW phase AS (PARTITION BY a.phase)
    ), totals AS (
        SELECT jsonb_object_agg(t.variant, jsonb_build_object('users', t.users, 'expected', round(t.expected::numeric, 1))) AS detail
        FROM (SELECT e.variant, sum(e.users) AS users, sum(e.expected) AS expected FROM expected e GROUP BY e.variant) t
    )
    SELECT 'split',
           CASE WHEN c.smallest_expected IS NULL OR c.smallest_expected < 5 THEN 'not enough data'
                WHEN least(c.p, c.p_always) < 0.001 THEN 'alarm' ELSE 'ok' END,
           c.p, t.detail || jsonb_build_object('chi_square', c.chi_square, 'p_always', c.p_always),
           'p of a sample ratio mismatch. Below 0.001 users are lost or gained in one arm: do not believe the results before the cause is found.'
    FROM totals t
    CROSS JOIN (SELECT array_agg(e.users ORDER BY e.phase, e.variant) AS observed, array_agg(e.buckets ORDER BY e.phase, e.variant) AS weights,
                       count(DISTINCT e.variant)::integer AS arms FROM expected e) x
    CROSS JOIN LATERAL @extschema@._compare_split(x.observed, x.weights, x.arms) c;
END
$$;
COMMENT ON FUNCTION _health_split IS 'Users per arm against the promised split';
REVOKE ALL ON FUNCTION _health_split FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _health_split TO finetune_analyst;

CREATE FUNCTION _health_weights(experiment text)
RETURNS TABLE (check_name text, verdict text, value double precision, detail jsonb, meaning text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    splits record;
BEGIN
    -- The splits under which users came, each with the first of its phases.
    SELECT count(*) AS number, max(s.first_phase) AS newest INTO splits
    FROM (SELECT min(w.phase) AS first_phase
          FROM (SELECT a.phase, array_agg(a.weight ORDER BY a.ordinal) AS weights FROM @extschema@.experiment_arm a
                WHERE a.experiment = _health_weights.experiment GROUP BY a.phase) w
          JOIN (SELECT DISTINCT u.phase FROM @extschema@._exposed_users(_health_weights.experiment) u) came ON came.phase = w.phase
          GROUP BY w.weights) s;
    RETURN QUERY SELECT 'weights', CASE WHEN splits.number > 1 THEN 'alarm' ELSE 'ok' END, splits.number::float8,
        jsonb_build_object('from_phase', CASE WHEN splits.number > 1 THEN splits.newest END),
        'Different weights under which users came. More than one: early and late users are unevenly spread over the variants, which alone may look '
        || 'like an effect. Ask experiment_results with from_phase.';
END
$$;
COMMENT ON FUNCTION _health_weights IS 'Whether users of phases with different weights are pooled';
REVOKE ALL ON FUNCTION _health_weights FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _health_weights TO finetune_analyst;

CREATE FUNCTION _health_exposure(experiment text)
RETURNS TABLE (check_name text, verdict text, value double precision, detail jsonb, meaning text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    exposed record;
BEGIN
    SELECT count(*) AS users,
           count(*) FILTER (WHERE u.doubled) AS doubly,
           count(*) FILTER (WHERE NOT u.doubled AND u.switched_at IS NOT NULL) AS moved,
           count(*) FILTER (WHERE NOT EXISTS (
               SELECT FROM @extschema@.experiment_arm a
               WHERE a.experiment = _health_exposure.experiment AND a.variant = u.variant AND NOT isempty(a.buckets))) AS leaked,
           abs(extract(epoch FROM min(u.first_shown) FILTER (WHERE u.variant = 'base')
                                - min(u.first_shown) FILTER (WHERE u.variant = 'fineTuned'))) / 86400 AS days_apart
    INTO exposed
    FROM @extschema@._exposed_users(_health_exposure.experiment) u;
    RETURN QUERY VALUES
        ('users', CASE WHEN exposed.users = 0 THEN 'not enough data' ELSE 'ok' END, exposed.users::float8, NULL::jsonb,
         'Users in the experiment who were shown something. None: log impressions through capture_signals or record_signal.'),
        ('leak', CASE WHEN exposed.leaked > 0 THEN 'alarm' ELSE 'ok' END, exposed.leaked::float8, NULL,
         'Users logged in a variant that no bucket leads to: the application serves something assign_variant never said.'),
        ('double_exposure',
         CASE WHEN exposed.users = 0 THEN 'not enough data' WHEN exposed.doubly > 0.01 * exposed.users THEN 'alarm' ELSE 'ok' END,
         exposed.doubly::float8 / nullif(exposed.users, 0), jsonb_build_object('users', exposed.doubly, 'moved_between_phases', exposed.moved),
         'Share of users who saw two variants in one phase; they are left out of the results. Above 1 % the user id is not stable. '
         || 'Who was moved by new weights counts until then.'),
        ('start',
         CASE WHEN exposed.days_apart IS NULL THEN 'not enough data' WHEN exposed.days_apart > 1 THEN 'alarm' ELSE 'ok' END,
         exposed.days_apart::float8, NULL,
         'Days between the first exposures of the arms. More than one: an arm was switched on late.');
END
$$;
COMMENT ON FUNCTION _health_exposure IS 'Leaks, users who saw both variants, arms that began at different times';
REVOKE ALL ON FUNCTION _health_exposure FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _health_exposure TO finetune_analyst;

CREATE FUNCTION _health_served(experiment text)
RETURNS TABLE (check_name text, verdict text, value double precision, detail jsonb, meaning text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    by_team boolean := @extschema@._draws_teams(experiment);
    rules @extschema@.experiment;
    by_bucket_alone boolean;
BEGIN
    SELECT e.* INTO rules FROM @extschema@.experiment e WHERE e.name = _health_served.experiment;
    by_bucket_alone := rules.layer IS NULL AND NOT EXISTS (SELECT FROM @extschema@.experiment_holdout)
        AND NOT EXISTS (SELECT FROM @extschema@.experiment_pin p WHERE p.experiment = rules.name);
    RETURN QUERY
    WITH served AS (
        -- A user's assignment is constant within a phase: one look each is enough.
        SELECT CASE WHEN by_team THEN l.team_id ELSE l.user_id END AS unit_id, l.phase, l.model_variant, l.model_id,
               min(l.shown_at) AS shown_at, count(*) AS items
        FROM @extschema@.model_performance_log l
        WHERE l.experiment = _health_served.experiment
        GROUP BY 1, l.phase, l.model_variant, l.model_id
    ), unclear AS MATERIALIZED (
        -- The rule in full is for whom the bucket of that phase does not explain: it is ten times as much work.
        SELECT s.* FROM served s
        WHERE NOT (by_bucket_alone AND EXISTS (
            SELECT FROM @extschema@.experiment_phase p JOIN @extschema@.experiment_arm a ON a.experiment = p.experiment AND a.phase = p.phase
            WHERE p.experiment = rules.name AND p.phase = s.phase AND p.valid_from <= s.shown_at AND (p.valid_to IS NULL OR s.shown_at < p.valid_to)
              AND a.variant = s.model_variant AND coalesce(s.model_id, a.model_id) = a.model_id
              AND @extschema@._place(p.seed, s.unit_id, rules.hash_version, rules.unit_encoding) <@ a.buckets))
    ), wrong AS (
        SELECT s.*, a.variant AS assigned, a.model_id AS assigned_model
        FROM unclear s
        CROSS JOIN LATERAL @extschema@._resolve_assignment(s.unit_id, _health_served.experiment, s.shown_at) a
        WHERE (a.variant, a.in_experiment) IS DISTINCT FROM (s.model_variant, true)
           OR (s.model_id IS NOT NULL AND s.model_id <> a.model_id)
    )
    SELECT 'served', CASE WHEN count(*) > 0 THEN 'alarm' ELSE 'ok' END, coalesce(sum(w.items), 0)::float8,
           (SELECT to_jsonb(f) FROM (SELECT x.unit_id AS user_id, x.shown_at, x.model_variant AS served, x.model_id AS served_model,
                                            x.assigned, x.assigned_model
                                     FROM wrong x ORDER BY x.shown_at, x.unit_id LIMIT 1) f),
           'Items whose logged variant or model is not what was assigned at that time; the first is shown. Any: label and model disagree somewhere.'
    FROM wrong w;
END
$$;
COMMENT ON FUNCTION _health_served IS 'Recomputes every assignment and compares it with what the log says was served';
REVOKE ALL ON FUNCTION _health_served FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _health_served TO finetune_analyst;

CREATE FUNCTION _health_pending(experiment text)
RETURNS TABLE (check_name text, verdict text, value double precision, detail jsonb, meaning text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH arms AS (
        SELECT l.model_variant AS variant, count(*) AS shown, count(*) - count(l.user_action) AS pending
        FROM @extschema@.model_performance_log l
        WHERE l.experiment = _health_pending.experiment
        GROUP BY l.model_variant
    )
    SELECT 'pending',
           CASE WHEN coalesce(min(a.shown), 0) < 100 THEN 'not enough data'
                WHEN max(a.pending::float8 / a.shown) - min(a.pending::float8 / a.shown) > 0.1 THEN 'alarm' ELSE 'ok' END,
           sum(a.pending)::float8 / sum(a.shown),
           jsonb_object_agg(a.variant, a.pending::float8 / a.shown),
           'Share of shown items nobody acted on yet. More than ten points apart: one arm''s outcomes come later, compare with outcome_window.'
    FROM arms a;
END
$$;
COMMENT ON FUNCTION _health_pending IS 'Share of items without an outcome, per variant';
REVOKE ALL ON FUNCTION _health_pending FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _health_pending TO finetune_analyst;

CREATE FUNCTION _health_outcomes(experiment text)
RETURNS TABLE (check_name text, verdict text, value double precision, detail jsonb, meaning text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    rules @extschema@.experiment;
    bounded boolean;
    seen record;
BEGIN
    SELECT e.* INTO rules FROM @extschema@.experiment e WHERE e.name = _health_outcomes.experiment;
    bounded := @extschema@._is_bounded(experiment, rules.attribution);
    SELECT count(*) AS outcomes,
           count(*) FILTER (WHERE l.actioned_at < l.shown_at) AS before_exposure,
           count(*) FILTER (WHERE l.actioned_at >= l.shown_at AND l.actioned_at > w.ends) AS late,
           count(*) FILTER (WHERE l.actioned_at >= l.shown_at AND l.actioned_at <= w.ends AND l.actioned_at > b.switched_at) AS after_switch,
           count(*) FILTER (WHERE l.actioned_at IS NULL) AS untimed
    INTO seen
    FROM @extschema@.model_performance_log l
    LEFT JOIN @extschema@._exposed_users(rules.name) b
        ON bounded AND b.unit_id = CASE rules.unit WHEN 'user_id' THEN l.user_id ELSE l.team_id END
    CROSS JOIN LATERAL (SELECT CASE rules.attribution WHEN 'impression' THEN l.shown_at ELSE b.first_shown END + rules.outcome_window) w (ends)
    WHERE l.experiment = rules.name AND l.user_action IS NOT NULL;
    RETURN QUERY
    SELECT 'outcomes',
           CASE WHEN seen.outcomes < 100 THEN 'not enough data'
                WHEN seen.before_exposure + seen.late + seen.after_switch > 0.1 * seen.outcomes THEN 'alarm' ELSE 'ok' END,
           (seen.before_exposure + seen.late + seen.after_switch)::float8 / nullif(seen.outcomes, 0),
           jsonb_build_object('outcome_window', CASE WHEN isfinite(rules.outcome_window) THEN rules.outcome_window::text END,
               'attribution', rules.attribution, 'outcomes', seen.outcomes, 'before_exposure', seen.before_exposure, 'late', seen.late,
               'after_switch', seen.after_switch, 'without_time', seen.untimed),
           'Share of actions that count as none: from before the item was shown, later than the outcome window, or after new weights moved the user. '
           || 'More than 10 %: the window is short for these users, or clocks disagree.';
END
$$;
COMMENT ON FUNCTION _health_outcomes IS 'Actions that are not attributed to the experiment, and why';
REVOKE ALL ON FUNCTION _health_outcomes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _health_outcomes TO finetune_analyst;

CREATE FUNCTION experiment_health(experiment text)
RETURNS TABLE (check_name text, verdict text, value double precision, detail jsonb, meaning text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM @extschema@._require_role('experiment_health', 'finetune_analyst');
    PERFORM @extschema@._require_experiment(experiment_health.experiment);
    RETURN QUERY
    SELECT * FROM @extschema@._health_exposure(experiment_health.experiment)
    UNION ALL SELECT * FROM @extschema@._health_split(experiment_health.experiment)
    UNION ALL SELECT * FROM @extschema@._health_weights(experiment_health.experiment)
    UNION ALL SELECT * FROM @extschema@._health_served(experiment_health.experiment)
    UNION ALL SELECT * FROM @extschema@._health_pending(experiment_health.experiment)
    UNION ALL SELECT * FROM @extschema@._health_outcomes(experiment_health.experiment);
END
$$;
COMMENT ON FUNCTION experiment_health IS 'Whether the results may be believed: one row per check, verdict ok, alarm or not enough data, and what it means';
GRANT EXECUTE ON FUNCTION experiment_health TO finetune_analyst;
