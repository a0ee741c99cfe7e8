-- What serves users outside experiments: an append-only log, its history, and the way back.

CREATE FUNCTION served_at(at timestamptz) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@._require_role('served_at', 'finetune_app', 'finetune_analyst');
    RETURN coalesce(
        (SELECT d.model_id FROM @extschema@.deployment d
         WHERE served_at.at IS NULL OR d.deployed_at <= served_at.at
         ORDER BY d.id DESC LIMIT 1),
        'base');
END
$$;
COMMENT ON FUNCTION served_at IS 'Model that served users outside experiments at that moment (NULL = now)';
GRANT EXECUTE ON FUNCTION served_at TO finetune_app, finetune_analyst;

CREATE VIEW deployment_history AS
SELECT d.id, d.model_id, d.action, d.reason, d.experiment, d.deployed_by, d.deployed_at,
       pg_catalog.lead(d.deployed_at) OVER later AS served_until,
       pg_catalog.lead(d.id) OVER later IS NULL AS live, d.overridden
FROM @extschema@.deployment d
WINDOW later AS (ORDER BY d.id)
ORDER BY d.id;
COMMENT ON VIEW deployment_history IS 'What served users outside experiments, from when to when, by whom and why; before the first row: base';
GRANT SELECT ON deployment_history TO finetune_app, finetune_analyst, finetune_admin;

CREATE FUNCTION _require_model(model text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM @extschema@.model m WHERE m.id = _require_model.model) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('model "%s" does not exist', model),
            DETAIL = 'Models come from fine-tuning jobs; "base" is always there.',
            HINT = 'See them with: SELECT id, provider, created_at FROM @extschema@.model ORDER BY created_at;';
    END IF;
END
$$;
COMMENT ON FUNCTION _require_model IS 'Refuses a model that is not registered';
REVOKE ALL ON FUNCTION _require_model FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_model TO finetune_admin;

CREATE FUNCTION _gate(model text, OUT verdict text, OUT reason text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT v.verdict, format('against "%s": %s', v.against, v.reason) INTO verdict, reason
    FROM @extschema@.model_evaluation v
    WHERE v.model_id = _gate.model
    ORDER BY v.verdict = 'passed', v.against = 'base', v.against LIMIT 1;
END
$$;
COMMENT ON FUNCTION _gate IS 'pg_finetune private: verdict on a model: passed when every comparison was, else the first that was not; NULL = never evaluated';
REVOKE ALL ON FUNCTION _gate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _gate TO finetune_analyst, finetune_admin;

CREATE FUNCTION _require_passed_gate(model text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gate record;
BEGIN
    SELECT g.* INTO gate FROM @extschema@._gate(model) g;
    IF gate.verdict IS DISTINCT FROM 'passed' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('model "%s" has not passed the gate', model),
            DETAIL = coalesce('Its evaluation: ' || gate.verdict || ', ' || gate.reason || '.', 'It was never evaluated.'),
            HINT = CASE WHEN gate.verdict IS NULL THEN format('CALL @extschema@.evaluate_model(%L); judges a model that stands at a provider.', model)
                        ELSE format('See what was measured with: SELECT * FROM @extschema@.model_evaluation WHERE model_id = %L;', model) END;
    END IF;
END
$$;
COMMENT ON FUNCTION _require_passed_gate IS 'Refuses a model without a passed evaluation: no user may see it';
REVOKE ALL ON FUNCTION _require_passed_gate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _require_passed_gate TO finetune_admin;

CREATE FUNCTION _is_judged(model text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM @extschema@.adapter a WHERE a.model_id = model)
        OR EXISTS (SELECT FROM @extschema@.model m WHERE m.id = model AND m.provider_model IS NOT NULL AND m.method = 'contrastive');
END
$$;
COMMENT ON FUNCTION _is_judged IS 'pg_finetune private: whether the gate can judge a model: it works on vectors, here or at a provider. A chat model at a provider does not';
REVOKE ALL ON FUNCTION _is_judged FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _is_judged TO finetune_admin;

CREATE FUNCTION _overridden_gate(model text, reason text, override boolean) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gate record;
BEGIN
    SELECT g.* INTO gate FROM @extschema@._gate(model) g;
    IF override IS NOT TRUE OR gate.verdict = 'passed' THEN
        RETURN NULL;
    END IF;
    IF btrim(coalesce(reason, '')) = '' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('overriding the gate for model "%s" takes a reason', model),
            DETAIL = coalesce('Its evaluation: ' || gate.verdict || ', ' || gate.reason || '.', 'It was never evaluated.'),
            HINT = format('SELECT @extschema@.deploy_model(%L, reason => ''...'', override => true); keeps it in deployment_history.', model);
    END IF;
    RETURN coalesce(gate.verdict || ', ' || gate.reason, 'never evaluated');
END
$$;
COMMENT ON FUNCTION _overridden_gate IS 'pg_finetune private: the verdict that is overridden, NULL when none is; refuses without a reason';
REVOKE ALL ON FUNCTION _overridden_gate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _overridden_gate TO finetune_admin;

CREATE FUNCTION _record_deployment(model text, action text, reason text, experiment text, overridden text DEFAULT NULL,
    actor text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deployment_id bigint;
    others text;
BEGIN
    -- One writer at a time, so that ids and times agree about what came last.
    LOCK TABLE @extschema@.deployment IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO @extschema@.deployment (model_id, action, reason, experiment, overridden, deployed_by)
    VALUES (model, action, reason, experiment, overridden, coalesce(actor, current_user))
    RETURNING id INTO deployment_id;
    PERFORM @extschema@._wake_worker(); -- what was deployed is watched from now on
    SELECT string_agg(quote_ident(e.name), ', ' ORDER BY e.name) INTO others
    FROM @extschema@.experiment e WHERE e.status = 'running';
    IF others IS NOT NULL THEN
        RAISE NOTICE USING
            MESSAGE = format('users in running experiments keep the models of their arms: %s', others),
            HINT = 'SELECT @extschema@.stop_experiment(name) gives them the deployed model.';
    END IF;
    RETURN deployment_id;
END
$$;
COMMENT ON FUNCTION _record_deployment IS 'Appends one row to the deployment log; actor NULL = the current role';
REVOKE ALL ON FUNCTION _record_deployment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _record_deployment TO finetune_admin;

CREATE FUNCTION deploy_model(model text, reason text DEFAULT NULL, override boolean DEFAULT false) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    overridden text;
BEGIN
    PERFORM @extschema@._require_role('deploy_model', 'finetune_admin');
    PERFORM @extschema@._require_model(model);
    IF @extschema@._is_judged(model) THEN
        overridden := @extschema@._overridden_gate(model, reason, override);
        IF overridden IS NULL THEN
            PERFORM @extschema@._require_passed_gate(model);
        END IF;
    END IF;
    RETURN @extschema@._record_deployment(model, 'deploy', reason, NULL, overridden);
END
$$;
COMMENT ON FUNCTION deploy_model IS 'Makes a model serve everybody outside experiments; returns the id of the deployment. override => true takes one that has not passed the gate, and keeps the verdict and the reason given in the log';
GRANT EXECUTE ON FUNCTION deploy_model TO finetune_admin;

CREATE FUNCTION _earlier_live_models() RETURNS text[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    live text[] := ARRAY['base']; -- what served, oldest first; a rollback takes back what came after its target
    earlier text[] := ARRAY[]::text[];
    step record;
    position integer;
BEGIN
    FOR step IN SELECT d.model_id, d.action FROM @extschema@.deployment d ORDER BY d.id LOOP
        IF step.action = 'rollback' THEN
            LOOP
                live := trim_array(live, 1);
                EXIT WHEN cardinality(live) = 0 OR live[cardinality(live)] = step.model_id;
            END LOOP;
        END IF;
        IF cardinality(live) = 0 OR live[cardinality(live)] <> step.model_id THEN
            live := live || step.model_id;
        END IF;
    END LOOP;
    FOR position IN REVERSE cardinality(live) - 1 .. 1 LOOP
        IF live[position] <> ALL (earlier || live[cardinality(live)]) THEN
            earlier := earlier || live[position];
        END IF;
    END LOOP;
    RETURN earlier;
END
$$;
COMMENT ON FUNCTION _earlier_live_models IS 'Distinct models that served before the live one, latest first: where rollback_model can go';
REVOKE ALL ON FUNCTION _earlier_live_models FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _earlier_live_models TO finetune_admin;

CREATE FUNCTION rollback_model(steps integer DEFAULT 1, reason text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    earlier text[];
BEGIN
    PERFORM @extschema@._require_role('rollback_model', 'finetune_admin');
    LOCK TABLE @extschema@.deployment IN SHARE ROW EXCLUSIVE MODE;
    earlier := @extschema@._earlier_live_models();
    IF steps IS NULL OR steps NOT BETWEEN 1 AND cardinality(earlier) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('cannot roll back by %s', coalesce(steps::text, 'NULL')),
            DETAIL = CASE cardinality(earlier)
                         WHEN 0 THEN format('"%s" is live and nothing else served before it.', @extschema@.served_at(NULL))
                         ELSE format('Before "%s" served, latest first: %s.',
                                     @extschema@.served_at(NULL), array_to_string(earlier, ', '))
                     END,
            HINT = 'SELECT * FROM @extschema@.deployment_history;';
    END IF;
    PERFORM @extschema@._record_deployment(earlier[steps], 'rollback', reason, NULL);
    RETURN earlier[steps];
END
$$;
COMMENT ON FUNCTION rollback_model IS 'Goes back to the model that served that many changes ago; returns the model now live';
GRANT EXECUTE ON FUNCTION rollback_model TO finetune_admin;
