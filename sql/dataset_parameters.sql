-- Datasets, first step: the parameters of create_dataset as one object, checked as a whole. The same object stands in the report.

CREATE FUNCTION _parameter_problem(p jsonb, OUT problem text, OUT hint text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actions CONSTANT jsonb := '["saved", "skipped", "snipped"]';
    -- name, smallest, largest, may be left out, what it is
    numbers CONSTANT jsonb := '[["min_examples", 2, 1e15, false, "a number of examples"], ["min_per_class", 1, 1e15, false, "a number of examples of each kind"], ["min_user_saved", 0, 1e15, false, "a number of positives"],
        ["min_user_skipped", 0, 1e15, false, "a number of negatives"], ["max_per_user", 2, 1e15, true, "a number of examples"],
        ["test_share", 0, 0.9, false, "a share of the examples"], ["mistake_weight", 0.01, 100, false, "a weight; other examples weigh 1"],
        ["ignored_weight", 0.001, 100, false, "a weight; other examples weigh 1"], ["near_duplicates", 0.8, 0.9999, true, "a cosine similarity"]]';
    choices CONSTANT jsonb := '{"split": ["time", "strict", "chunk", "user", "history"], "conflicts": ["latest", "drop", "positive", "negative"],
        "keep": ["earliest", "latest"]}';
    item record;
BEGIN
    IF coalesce(p ->> 'name', '') = '' OR strpos(p ->> 'name', ':') + strpos(p ->> 'name', '@') > 0 THEN
        problem := format('%s is no name for a dataset', coalesce(quote_literal(p ->> 'name'), 'NULL'));
        hint := 'Take any text without colon and @: ''name:version'' names one version, ''name@2026-01-31'' that of a day.';
    ELSIF jsonb_typeof(p -> 'positive') IS DISTINCT FROM 'array' OR NOT p -> 'positive' <@ actions OR p -> 'positive' = '[]' OR p -> 'positive' @> actions THEN
        problem := format('the positive actions are %s', coalesce(p ->> 'positive', 'NULL'));
        hint := 'Name one or two of saved, skipped, snipped; the others are negative.';
    ELSIF (p ->> 'since')::timestamptz >= (p ->> 'until')::timestamptz THEN
        problem := format('the window from %s until %s is empty', p ->> 'since', p ->> 'until');
        hint := 'since is the first moment taken, until the first one not taken any more.';
    ELSIF NOT coalesce(nullif(p -> 'actions', 'null'), actions) <@ actions THEN
        problem := format('actions is %s', p ->> 'actions');
        hint := 'Name some of saved, skipped, snipped, or leave it out to take all.';
    ELSIF (p ->> 'min_score')::double precision > (p ->> 'max_score')::double precision THEN
        problem := format('no score is at least %s and at most %s', p ->> 'min_score', p ->> 'max_score');
        hint := 'min_score is the lowest relevance_score taken, max_score the highest.';
    ELSIF NOT coalesce((p ->> 'half_life')::interval > '0', true) OR NOT coalesce((p ->> 'ignored_after')::interval > '0', true) THEN
        problem := format('half_life is %s, ignored_after %s', p ->> 'half_life', p ->> 'ignored_after');
        hint := 'Give an interval above zero, ''90 days'' for example, or leave it out.';
    ELSE
        SELECT format('%s is %s', n ->> 0, coalesce(p ->> (n ->> 0), 'NULL')), format('Give %s from %s to %s.', n ->> 4, n ->> 1, n ->> 2)
        INTO problem, hint FROM jsonb_array_elements(numbers) n
        WHERE NOT coalesce((p ->> (n ->> 0))::double precision BETWEEN (n ->> 1)::double precision AND (n ->> 2)::double precision, (n ->> 3)::boolean)
        LIMIT 1;
        IF NOT FOUND THEN
            SELECT format('%s is %s', c.key, coalesce(quote_literal(p ->> c.key), 'NULL')),
                   format('Choose one of %s.', (SELECT string_agg(x, ', ') FROM jsonb_array_elements_text(c.value) x))
            INTO problem, hint FROM jsonb_each(choices) c WHERE NOT coalesce(c.value ? (p ->> c.key), false) ORDER BY c.key LIMIT 1;
        END IF;
        IF problem IS NULL THEN
            FOR item IN SELECT w.key, w.value FROM jsonb_each(coalesce(nullif(p -> 'action_weights', 'null'), '{}')) w LOOP
                IF NOT actions ? item.key OR jsonb_typeof(item.value) <> 'number' OR NOT (item.value)::double precision BETWEEN 0.001 AND 100 THEN
                    problem := format('action_weights gives "%s" the weight %s', item.key, item.value);
                    hint := 'Give saved, skipped or snipped a number from 0.001 to 100: ''{"snipped": 1.5}''.';
                    EXIT;
                END IF;
            END LOOP;
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION _parameter_problem IS 'pg_finetune private: what makes no sense in the parameters of create_dataset, or NULL';
REVOKE ALL ON FUNCTION _parameter_problem FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _parameter_problem TO finetune_admin;

CREATE FUNCTION _check_dataset_parameters(parameters jsonb)
RETURNS void LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found record;
BEGIN
    SELECT * INTO found FROM @extschema@._parameter_problem(parameters);
    IF found.problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'invalid parameter for create_dataset',
            DETAIL = format('Wrong: %s.', found.problem), HINT = found.hint;
    END IF;
END
$$;
COMMENT ON FUNCTION _check_dataset_parameters IS 'pg_finetune private: refuses parameters of create_dataset that make no sense';
REVOKE ALL ON FUNCTION _check_dataset_parameters FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_dataset_parameters TO finetune_admin;
