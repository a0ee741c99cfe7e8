-- Datasets: freeze what users did into versioned examples, list and drop them.
-- The rules (duplicates, conflicts, mistakes, weights, split) are explained with figures in docs/datasets.md.

CREATE FUNCTION _refuse_dimensions() RETURNS void LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text;
    kinds bigint;
BEGIN
    SELECT string_agg(format('%s dimensions: %s points', d.dims, d.n), ', ' ORDER BY d.n DESC, d.dims), count(*)
    INTO found, kinds
    FROM (SELECT p.dims, count(*) AS n FROM pg_temp.pg_finetune_raw p WHERE p.state = 'taken' GROUP BY p.dims) d;
    IF kinds > 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'data_exception', MESSAGE = 'embeddings of different dimensions cannot make one dataset',
            DETAIL = format('%s. The first of the fewest: %s.', found,
                (SELECT format('user "%s", point "%s"', r.user_id, r.id) FROM pg_temp.pg_finetune_raw r WHERE r.state = 'taken'
                 ORDER BY count(*) OVER (PARTITION BY r.dims), r.user_id, r.id LIMIT 1)),
            HINT = 'Embed them with one model, or set embedding to NULL where the old model made it: points without embedding are left out.';
    END IF;
END
$$;
COMMENT ON FUNCTION _refuse_dimensions IS 'pg_finetune private: refuses points whose vectors come from different models';
REVOKE ALL ON FUNCTION _refuse_dimensions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _refuse_dimensions TO finetune_admin;

CREATE FUNCTION _refuse_few_examples(min_examples integer, min_per_class integer)
RETURNS void LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    positives bigint;
    negatives bigint;
    missing text;
    left_out text;
BEGIN
    SELECT count(*) FILTER (WHERE p.label), count(*) FILTER (WHERE NOT p.label) INTO positives, negatives
    FROM pg_temp.pg_finetune_point p WHERE p.state = 'taken';
    missing := concat_ws(' and ',
        CASE WHEN positives + negatives < min_examples
             THEN format('%s more of any kind', min_examples - positives - negatives) END,
        CASE WHEN positives < min_per_class THEN format('at least %s positive', min_per_class) END,
        CASE WHEN negatives < min_per_class THEN format('at least %s negative', min_per_class) END);
    IF missing = '' THEN
        RETURN;
    END IF;
    SELECT string_agg(format('%s %s', l.n, l.state), ', ' ORDER BY l.state) INTO left_out
    FROM (SELECT p.state, count(*) AS n FROM pg_temp.pg_finetune_point p WHERE p.state <> 'taken' GROUP BY p.state) l;
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'not enough examples for a dataset',
        DETAIL = format('There are %s positive and %s negative examples, %s required; missing: %s. Left out: %s.',
                        positives, negatives, min_examples, missing, coalesce(left_out, 'nothing')),
        HINT = CASE WHEN positives + negatives > 0 AND positives * negatives = 0
                    THEN 'Record what was shown and skipped as well as what was saved: SELECT backfill_signals(...) takes what the application already has.'
                    ELSE 'Wait for more signals, widen since and until, or lower min_examples, min_per_class, min_user_saved and min_user_skipped; SELECT backfill_signals(...) takes what the application already has.' END;
END
$$;
COMMENT ON FUNCTION _refuse_few_examples IS 'pg_finetune private: refuses a dataset that is too small or has one class only, saying what is missing';
REVOKE ALL ON FUNCTION _refuse_few_examples FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _refuse_few_examples TO finetune_admin;

-- Saves from one screen and skips from another teach a model the screen, and such data fool the gate as well:
-- positives and negatives must come from the same surfaces, and where no surface is known from the same sessions.
CREATE FUNCTION _compare_surfaces(OUT surfaces bigint, OUT surface_overlap double precision, OUT sessions bigint, OUT session_overlap double precision)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT count(s.surface), sum(least(s.positive_share, s.negative_share)) INTO surfaces, surface_overlap
    FROM (SELECT p.surface,
                 count(*) FILTER (WHERE p.label) / sum(count(*) FILTER (WHERE p.label)) OVER () AS positive_share,
                 count(*) FILTER (WHERE NOT p.label) / sum(count(*) FILTER (WHERE NOT p.label)) OVER () AS negative_share
          FROM pg_temp.pg_finetune_point p WHERE p.state = 'taken' GROUP BY p.surface) s;
    SELECT count(*), avg(s.mixed::integer) FILTER (WHERE s.saved) INTO sessions, session_overlap
    FROM (SELECT bool_or(p.label) AS saved, bool_or(p.label) AND NOT bool_and(p.label) AS mixed
          FROM pg_temp.pg_finetune_point p WHERE p.state = 'taken' AND p.session_id IS NOT NULL
          GROUP BY p.user_id, p.session_id) s;
    IF surfaces > 0 AND surface_overlap < 0.5 OR surfaces = 0 AND session_overlap < 0.5 THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'positive and negative examples come from different places',
            DETAIL = CASE WHEN surfaces > 0
                THEN format('Their surfaces overlap by %s %%, at least 50 %% required: a model would learn the screen, not the taste.', round((100 * surface_overlap)::numeric))
                ELSE format('%s %% of the sessions with a positive example also have a negative one, at least 50 %% required.', round((100 * session_overlap)::numeric)) END,
            HINT = 'Freeze what one screen showed: create_dataset(..., surfaces => ''{feed}''), with surface recorded for both kinds.';
    END IF;
END
$$;
COMMENT ON FUNCTION _compare_surfaces IS 'pg_finetune private: how far positives and negatives come from the same surfaces and sessions; refuses less than half';
REVOKE ALL ON FUNCTION _compare_surfaces FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _compare_surfaces TO finetune_admin;

-- The wide rows, text and vector, are read here for the second and last time, each by its place, and written in the order of the notes.
-- OFFSET 0 and LIMIT keep that order of work; any other join would write the wide rows to disk first. A row that moved meanwhile is looked up by
-- its key.
CREATE FUNCTION _freeze_points(dataset_id uuid, p jsonb)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' AS $$
DECLARE
    mistake_weight CONSTANT double precision := p ->> 'mistake_weight';
    action_weight CONSTANT jsonb := jsonb_build_object('ignored', p -> 'ignored_weight') || coalesce(nullif(p -> 'action_weights', 'null'), '{}');
    plain CONSTANT boolean := nullif(p -> 'action_weights', 'null') IS NULL AND p ->> 'ignored_after' IS NULL;
    half_life CONSTANT double precision := extract(epoch FROM (p ->> 'half_life')::interval);
    newest CONSTANT timestamptz := p ->> 'newest';
    test_after CONSTANT double precision := CASE WHEN p ->> 'split' = 'history' THEN 10000 * (1 - (p ->> 'test_share')::double precision) END;
BEGIN
    CREATE TEMPORARY TABLE pg_finetune_frozen (user_id text, label boolean, evidence text, split text, actioned_at timestamptz, hash bytea) ON COMMIT DROP;
    WITH frozen AS (
        INSERT INTO @extschema@.dataset_example AS x
            (user_id, dataset_id, id, chunk_id, chunk_content, content_hash, twin_of, embedding, query_embedding, user_action, label, evidence, weight, split,
             relevance_score, surface, session_id, context, reason, shown_at, actioned_at)
        SELECT e.user_id, _freeze_points.dataset_id, e.id, w.chunk_id, w.chunk_content, e.content_hash, nullif(e.text_key, e.content_hash), w.embedding, w.query_embedding,
               e.user_action, e.label, e.evidence,
               -- an action's weight, more for a mistake, half of it for every half_life that has passed
               greatest(1e-6, CASE WHEN plain THEN 1 ELSE coalesce((action_weight ->> e.user_action)::double precision, 1) END
                              * CASE e.evidence WHEN 'mistake' THEN mistake_weight ELSE 1 END
                              * CASE WHEN half_life IS NULL THEN 1
                                     ELSE 0.5 ^ least(60, greatest(0, extract(epoch FROM newest - e.at)::double precision / half_life)) END),
               e.split, e.relevance_score, e.surface, e.session_id,
               nullif(concat_ws(' · ', nullif(w.podcast_title, ''), nullif(w.episode_title, ''), nullif(w.speaker_name, '')), ''),
               w.reason, e.shown_at, e.at
        FROM (SELECT n.*,
                     CASE WHEN n.user_action = 'ignored' THEN 'ignored'
                          WHEN NOT n.label AND n.relevance_score >= 0.6 OR n.label AND n.relevance_score < 0.4 THEN 'mistake'
                          WHEN n.label THEN 'good' ELSE 'bad' END AS evidence,
                     CASE WHEN t.text_key IS NOT NULL OR n.place > test_after THEN 'test' ELSE 'train' END AS split
              FROM pg_temp.pg_finetune_point n LEFT JOIN pg_temp.pg_finetune_test_text t USING (text_key)
              WHERE n.state = 'taken' OFFSET 0) e
        CROSS JOIN LATERAL (SELECT d.* FROM @extschema@.training_data_point d WHERE d.ctid = e.tid AND d.user_id = e.user_id AND d.id = e.id
                            UNION ALL
                            SELECT d.* FROM @extschema@.training_data_point d WHERE d.user_id = e.user_id AND d.id = e.id
                            LIMIT 1) w
        RETURNING x.user_id, x.label, x.evidence, x.split, x.actioned_at,
            @extschema@._example_hash(x.user_id, x.id, x.chunk_content, x.embedding, x.user_action, x.label, x.evidence, x.weight, x.split,
                                      x.query_embedding, x.surface, x.context, x.reason)
    )
    INSERT INTO pg_temp.pg_finetune_frozen SELECT f.* FROM frozen f;
END
$$;
COMMENT ON FUNCTION _freeze_points IS 'pg_finetune private: copies the chosen points into dataset_example, and notes what was copied in pg_temp.pg_finetune_frozen';
REVOKE ALL ON FUNCTION _freeze_points FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _freeze_points TO finetune_admin;

-- Last of all steps: from here to the commit, captured changes of these points wait. Rows are found by their place, in the order in which
-- they lie (a plain = would tempt the planner to an index of the key, a tenth as fast); the few that moved since, by their key.
CREATE FUNCTION _mark_points(training_set_version integer)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB'
SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    -- copies of a frozen text decided its label, so they count as used too
    used bigint := count(*) FROM pg_temp.pg_finetune_point n WHERE n.state IN ('taken', 'duplicate');
    marked bigint;
BEGIN
    UPDATE @extschema@.training_data_point p
    SET used_for_training = true, training_set_version = _mark_points.training_set_version
    FROM (SELECT n.tid, n.user_id, n.id FROM pg_temp.pg_finetune_point n WHERE n.state IN ('taken', 'duplicate') ORDER BY n.tid OFFSET 0) n
    WHERE p.ctid = n.tid AND p.user_id IS NOT DISTINCT FROM n.user_id AND p.id IS NOT DISTINCT FROM n.id;
    GET DIAGNOSTICS marked = ROW_COUNT;
    IF marked < used THEN
        UPDATE @extschema@.training_data_point p
        SET used_for_training = true, training_set_version = _mark_points.training_set_version
        FROM pg_temp.pg_finetune_point n
        WHERE n.state IN ('taken', 'duplicate') AND p.user_id = n.user_id AND p.id = n.id
          AND (NOT p.used_for_training OR p.training_set_version IS DISTINCT FROM _mark_points.training_set_version);
    END IF;
END
$$;
COMMENT ON FUNCTION _mark_points IS 'pg_finetune private: marks the points behind a dataset as used';
REVOKE ALL ON FUNCTION _mark_points FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _mark_points TO finetune_admin;

CREATE FUNCTION _example_hash(user_id text, id text, chunk_content text, embedding @extschema:vector@.vector, user_action text, label boolean,
    evidence text, weight double precision, split text, query_embedding @extschema:vector@.vector, surface text, context text, reason text)
RETURNS bytea LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'example_hash_wrapper';
COMMENT ON FUNCTION _example_hash IS 'pg_finetune private: sha256 over one frozen example, text and vectors included';
REVOKE ALL ON FUNCTION _example_hash FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _example_hash TO finetune_analyst, finetune_admin;

CREATE FUNCTION _digest_of(query text) RETURNS bytea
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'digest_of_wrapper';
COMMENT ON FUNCTION _digest_of IS 'pg_finetune private: sha256 over the hashes that a query returns, in its order';
REVOKE ALL ON FUNCTION _digest_of FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _digest_of TO finetune_analyst, finetune_admin;

CREATE FUNCTION dataset_digest(dataset text) RETURNS bytea LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' AS $$
BEGIN
    PERFORM @extschema@._require_role('dataset_digest', 'finetune_analyst');
    RETURN @extschema@._digest_of(format(
        'SELECT @extschema@._example_hash(x.user_id, x.id, x.chunk_content, x.embedding, x.user_action, x.label, x.evidence, x.weight, x.split,
                                          x.query_embedding, x.surface, x.context, x.reason)
         FROM @extschema@.dataset_example x WHERE x.dataset_id = %L ORDER BY 1', @extschema@._dataset_id(dataset)));
END
$$;
COMMENT ON FUNCTION dataset_digest IS 'sha256 over all frozen examples as they stand now: texts, vectors, questions, labels, weights, sides, surfaces, titles and reasons, but no times; equal to dataset.digest as long as nothing was changed or forgotten';
GRANT EXECUTE ON FUNCTION dataset_digest TO finetune_analyst, finetune_admin;

CREATE FUNCTION create_dataset(
    name text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, positive text[] DEFAULT '{saved,snipped}',
    min_examples integer DEFAULT 300, min_user_saved integer DEFAULT 3, min_user_skipped integer DEFAULT 1,
    test_share double precision DEFAULT 0.2, seed bigint DEFAULT 42, mistake_weight double precision DEFAULT 2,
    surfaces text[] DEFAULT NULL, split text DEFAULT 'time', users text[] DEFAULT NULL, sources text[] DEFAULT NULL,
    actions text[] DEFAULT NULL, min_score double precision DEFAULT NULL, max_score double precision DEFAULT NULL,
    max_per_user integer DEFAULT NULL, near_duplicates double precision DEFAULT NULL, keep text DEFAULT 'earliest',
    conflicts text DEFAULT 'latest', action_weights jsonb DEFAULT NULL, half_life interval DEFAULT NULL,
    ignored_after interval DEFAULT NULL, ignored_weight double precision DEFAULT 0.25, min_per_class integer DEFAULT 1)
RETURNS uuid LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_id CONSTANT uuid := gen_random_uuid();
    new_version integer;
    report jsonb;
    parameters jsonb := jsonb_build_object('name', name, 'since', since, 'until', until, 'positive', positive, 'min_examples', min_examples,
        'min_user_saved', min_user_saved, 'min_user_skipped', min_user_skipped, 'test_share', test_share, 'seed', seed, 'mistake_weight', mistake_weight,
        'surfaces', surfaces, 'split', split, 'users', users, 'sources', sources, 'actions', actions, 'min_score', min_score, 'max_score', max_score,
        'max_per_user', max_per_user, 'near_duplicates', near_duplicates, 'keep', keep, 'conflicts', conflicts, 'action_weights', action_weights,
        'half_life', half_life, 'ignored_after', ignored_after, 'ignored_weight', ignored_weight, 'min_per_class', min_per_class);
BEGIN
    PERFORM @extschema@._require_role('create_dataset', 'finetune_admin');
    PERFORM @extschema@._check_dataset_parameters(parameters);
    -- one at a time: versions are counted up, and two could mark the same points in opposite orders
    PERFORM pg_advisory_xact_lock(hashtextextended('pg_finetune create_dataset', 0));
    IF half_life IS NOT NULL OR ignored_after IS NOT NULL THEN
        -- "now" is the newest moment in the data, not the clock: the same points give the same dataset on any day
        parameters := parameters || jsonb_build_object('newest', coalesce(until, (SELECT max(coalesce(p.actioned_at, p.shown_at)) FROM @extschema@.training_data_point p)));
    END IF;
    PERFORM @extschema@._drop_notes();
    PERFORM @extschema@._read_points(parameters);
    PERFORM @extschema@._refuse_dimensions();
    PERFORM @extschema@._find_twins(near_duplicates, keep);
    PERFORM @extschema@._judge_points(parameters);
    PERFORM @extschema@._split_texts(test_share, split, seed);
    PERFORM @extschema@._refuse_few_examples(min_examples, min_per_class);
    report := to_jsonb(s) FROM @extschema@._compare_surfaces() s;

    SELECT coalesce(max(d.version), 0) + 1 INTO new_version FROM @extschema@.dataset d WHERE d.name = create_dataset.name;
    PERFORM @extschema@._freeze_points(new_id, parameters);
    report := report || @extschema@._left_out_counts() || @extschema@._dataset_counts() || jsonb_build_object('parameters', parameters);
    report := report || jsonb_build_object('warnings', @extschema@._dataset_warnings(report));
    INSERT INTO @extschema@.dataset (id, name, version, dimensions, positive, split_at, seed, examples, users, report, digest)
    VALUES (new_id, create_dataset.name, new_version,
            (SELECT p.dims FROM pg_temp.pg_finetune_point p WHERE p.state = 'taken' LIMIT 1), positive,
            -- the moment that parts train from test, where one moment does so for all users
            CASE WHEN (report #>> '{test,oldest}')::timestamptz > (report #>> '{train,newest}')::timestamptz THEN (report #>> '{test,oldest}')::timestamptz END,
            seed, (report ->> 'examples')::bigint, (report ->> 'users')::bigint, report,
            @extschema@._digest_of('SELECT f.hash FROM pg_temp.pg_finetune_frozen f ORDER BY f.hash'));
    PERFORM @extschema@._mark_points(new_version);
    PERFORM @extschema@._drop_notes();
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION create_dataset IS 'Freezes the last action of each user on each text as a new version of a dataset, split into train and test without a text on both sides; dataset_report() says what was left out and why';
GRANT EXECUTE ON FUNCTION create_dataset TO finetune_admin;

CREATE FUNCTION _dataset_id(dataset text) RETURNS uuid LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts CONSTANT text[] := regexp_match(dataset, '^([^:@]+)(?::(\d{1,9}))?(?:@(.+))?$');
    moment timestamptz;
    found uuid;
    known text;
BEGIN
    IF parts[3] IS NOT NULL THEN
        IF NOT pg_input_is_valid(parts[3], 'timestamptz') THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('dataset "%s" names no moment', dataset),
                DETAIL = format('"%s" is no date and no time.', parts[3]), HINT = format('Name the version of a day as ''%s@2026-01-31''.', parts[1]);
        END IF;
        -- a day means its end
        moment := parts[3]::timestamptz + CASE WHEN parts[3] ~ '^\d{4}-\d{2}-\d{2}$' THEN interval '1 day' ELSE '0' END;
    END IF;
    SELECT d.id INTO found FROM @extschema@.dataset d
    WHERE d.name = parts[1] AND (parts[2] IS NULL OR d.version = parts[2]::integer) AND (moment IS NULL OR d.created_at <= moment)
       OR d.id::text = dataset
    ORDER BY d.version DESC LIMIT 1;
    IF found IS NOT NULL THEN
        RETURN found;
    END IF;
    SELECT string_agg(format('%s (%s)', k.name, k.versions), ', ' ORDER BY k.name) INTO known
    FROM (SELECT d.name, CASE WHEN count(*) = 1 THEN 'version ' ELSE 'versions ' END || string_agg(d.version::text, ', ' ORDER BY d.version) AS versions
          FROM @extschema@.dataset d GROUP BY d.name ORDER BY max(d.created_at) DESC LIMIT 10) k;
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('dataset "%s" does not exist', dataset),
        DETAIL = coalesce('Newest datasets: ' || known || '.', 'There are no datasets yet.'),
        HINT = CASE WHEN known IS NULL THEN 'SELECT create_dataset(''first'');' ELSE 'Name one of them, or one version of it as ''name:version''; SELECT * FROM datasets; lists all.' END;
END
$$;
COMMENT ON FUNCTION _dataset_id IS 'pg_finetune private: the id of ''name'' (latest version), ''name:version'', ''name@moment'' or an id written as text';
REVOKE ALL ON FUNCTION _dataset_id FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _dataset_id TO finetune_analyst, finetune_admin;

CREATE FUNCTION drop_dataset(dataset text, force boolean DEFAULT false)
RETURNS text LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old @extschema@.dataset;
    models text;
BEGIN
    PERFORM @extschema@._require_role('drop_dataset', 'finetune_admin');
    SELECT d.* INTO old FROM @extschema@.dataset d WHERE d.id = @extschema@._dataset_id(dataset) FOR UPDATE;
    IF EXISTS (SELECT FROM @extschema@.fine_tuning_job j WHERE j.dataset_id = old.id
               AND j.state NOT IN ('succeeded', 'failed', 'cancelled', 'expired')) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = format('a job is running on dataset "%s:%s"', old.name, old.version),
            DETAIL = (SELECT format('Job %s is %s.', j.id, j.state) FROM @extschema@.fine_tuning_job j WHERE j.dataset_id = old.id
                      AND j.state NOT IN ('succeeded', 'failed', 'cancelled', 'expired') ORDER BY j.created_at LIMIT 1),
            HINT = 'Wait for it (CALL wait_for_job) or stop it (SELECT cancel_job).';
    END IF;
    SELECT string_agg(m.id, ', ' ORDER BY m.created_at, m.id) INTO models FROM @extschema@.model m WHERE m.dataset_id = old.id;
    IF models IS NOT NULL AND force IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
            MESSAGE = format('cannot drop dataset "%s:%s": models were trained on it', old.name, old.version),
            DETAIL = format('Models: %s.', models),
            HINT = format('SELECT drop_dataset(%L, force => true); drops it all the same: nobody can then say what these models were trained on.', old.name || ':' || old.version);
    END IF;
    DELETE FROM @extschema@.dataset_example e WHERE e.dataset_id = old.id;
    DELETE FROM @extschema@.chat_answer a WHERE a.dataset_id = old.id;
    DELETE FROM @extschema@.fine_tuning_job j WHERE j.dataset_id = old.id;
    DELETE FROM @extschema@.dataset d WHERE d.id = old.id;
    RETURN old.name || ':' || old.version;
END
$$;
COMMENT ON FUNCTION drop_dataset IS 'Removes one version of a dataset, its examples and finished jobs; refuses when models were trained on it, unless forced';
GRANT EXECUTE ON FUNCTION drop_dataset TO finetune_admin;

CREATE VIEW datasets AS
SELECT d.name, d.version, d.examples, d.users,
       (d.report OPERATOR(pg_catalog.->>) 'positives')::bigint AS positives,
       (d.report OPERATOR(pg_catalog.->>) 'negatives')::bigint AS negatives,
       (d.report OPERATOR(pg_catalog.#>>) '{train,positives}')::bigint OPERATOR(pg_catalog.+) (d.report OPERATOR(pg_catalog.#>>) '{train,negatives}')::bigint AS train,
       (d.report OPERATOR(pg_catalog.#>>) '{test,positives}')::bigint OPERATOR(pg_catalog.+) (d.report OPERATOR(pg_catalog.#>>) '{test,negatives}')::bigint AS test,
       d.created_at,
       pg_catalog.lead(d.created_at) OVER (PARTITION BY d.name ORDER BY d.version) AS replaced_at,
       ARRAY(SELECT m.id FROM @extschema@.model m WHERE m.dataset_id OPERATOR(pg_catalog.=) d.id ORDER BY m.created_at, m.id) AS models,
       ARRAY(SELECT pg_catalog.jsonb_array_elements_text(d.report OPERATOR(pg_catalog.->) 'warnings')) AS warnings,
       d.id
FROM @extschema@.dataset d;
COMMENT ON VIEW datasets IS 'Frozen datasets in short, with the models trained on each and the time in which each was the latest; dataset_report(name) gives the whole account';
