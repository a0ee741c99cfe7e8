-- Datasets: freeze what users did into versioned examples, list and drop them, stream triplets and JSON lines.
-- The rules (duplicates, conflicts, mistakes, split) are explained with figures in docs/datasets.md.

CREATE FUNCTION _check_dataset_parameters(
    name text, since timestamptz, until timestamptz, positive text[], min_examples integer,
    min_user_saved integer, min_user_skipped integer, test_share double precision, mistake_weight double precision, split text)
RETURNS void LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actions CONSTANT text[] := ARRAY['saved', 'skipped', 'snipped'];
    splits CONSTANT text[] := ARRAY['time', 'strict', 'chunk', 'history'];
    problem text;
    hint text;
BEGIN
    CASE
    WHEN name IS NULL OR name = '' OR strpos(name, ':') > 0 THEN
        problem := format('%s is no name for a dataset', coalesce(quote_literal(name), 'NULL'));
        hint := 'Take any text without a colon: ''name:version'' names one version.';
    WHEN positive IS NULL OR NOT positive <@ actions OR cardinality(positive) = 0 OR positive @> actions THEN
        problem := format('the positive actions are %s', coalesce(positive::text, 'NULL'));
        hint := format('Name one or two of %s; the others are negative.', array_to_string(actions, ', '));
    WHEN since >= until THEN
        problem := format('the window from %s until %s is empty', since, until);
        hint := 'since is the first moment taken, until the first one not taken any more.';
    WHEN test_share IS NULL OR test_share NOT BETWEEN 0 AND 0.9 THEN
        problem := format('test_share is %s', coalesce(test_share::text, 'NULL'));
        hint := 'Give a share from 0 to 0.9; 0.2 is the default.';
    WHEN mistake_weight IS NULL OR mistake_weight NOT BETWEEN 0.01 AND 100 THEN
        problem := format('mistake_weight is %s', coalesce(mistake_weight::text, 'NULL'));
        hint := 'Give a weight from 0.01 to 100; other examples weigh 1.';
    WHEN split IS NULL OR split <> ALL (splits) THEN
        problem := format('split is %s', coalesce(quote_literal(split), 'NULL'));
        hint := format('Choose one of %s.', array_to_string(splits, ', '));
    WHEN min_examples IS NULL OR min_examples < 2 OR min_user_saved IS NULL OR min_user_saved < 0
         OR min_user_skipped IS NULL OR min_user_skipped < 0 THEN
        problem := format('min_examples is %s, min_user_saved %s, min_user_skipped %s',
                          coalesce(min_examples::text, 'NULL'), coalesce(min_user_saved::text, 'NULL'), coalesce(min_user_skipped::text, 'NULL'));
        hint := 'min_examples is at least 2, the others at least 0.';
    ELSE
        RETURN;
    END CASE;
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'invalid parameter for create_dataset',
        DETAIL = format('Wrong: %s.', problem), HINT = hint;
END
$$;
COMMENT ON FUNCTION _check_dataset_parameters IS 'Private: refuses parameters of create_dataset that make no sense';
REVOKE ALL ON FUNCTION _check_dataset_parameters FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _check_dataset_parameters TO finetune_admin;

-- One narrow row per data point of the window (no text, no vector), so that the sorts below stay small.
-- The whole window function work is partitioned by user_id. state: why a row is left out, or 'taken'.
CREATE FUNCTION _collect_points(
    since timestamptz, until timestamptz, positive text[], surfaces text[], min_user_saved integer, min_user_skipped integer)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('pg_temp.pg_finetune_point') IS NOT NULL THEN
        DROP TABLE pg_temp.pg_finetune_point; -- an earlier call in the same transaction
    END IF;
    CREATE TEMPORARY TABLE pg_finetune_point ON COMMIT DROP AS
    WITH point AS (
        SELECT p.user_id, p.id, p.user_action, p.user_action = ANY (positive) AS label, p.shown_at,
               coalesce(p.actioned_at, p.shown_at) AS at, p.relevance_score, p.surface, p.session_id,
               @extschema:vector@.vector_dims(p.embedding) AS dims,
               -- the same words are the same text: Unicode form and white space do not count; without words the item's key stands in
               sha256(convert_to(coalesce(
                   nullif(normalize(btrim(regexp_replace(p.chunk_content, '\s+', ' ', 'g')), NFC), ''),
                   'chunk ' || p.chunk_id, 'point ' || p.id), 'UTF8')) AS content_hash,
               CASE WHEN p.user_action IS NULL THEN 'pending'
                    WHEN p.embedding IS NULL THEN 'no embedding'
                    WHEN @extschema:vector@.vector_norm(p.embedding) = 0 THEN 'zero vector'
                    WHEN surfaces IS NOT NULL AND (p.surface IS NULL OR p.surface <> ALL (surfaces)) THEN 'other surface'
                    ELSE 'taken' END AS state
        FROM @extschema@.training_data_point p
        WHERE (since IS NULL OR coalesce(p.actioned_at, p.shown_at) >= since)
          AND (until IS NULL OR coalesce(p.actioned_at, p.shown_at) < until)
    ), copied AS (
        SELECT c.user_id, c.id, c.content_hash, c.dims, c.state, c.shown_at,
               row_number() OVER (texts ORDER BY c.shown_at, c.at, c.id) AS copy,
               first_value(c.user_action) OVER latest AS user_action, first_value(c.label) OVER latest AS label,
               first_value(c.at) OVER latest AS at, first_value(c.relevance_score) OVER latest AS relevance_score,
               first_value(c.surface) OVER latest AS surface, first_value(c.session_id) OVER latest AS session_id,
               bool_or(c.label) OVER texts AND NOT bool_and(c.label) OVER texts AS conflict
        FROM point c
        WINDOW texts AS (PARTITION BY c.user_id, c.content_hash, c.state),
               latest AS (texts ORDER BY c.at DESC, c.shown_at DESC, c.id DESC)
    ), counted AS (
        SELECT e.*,
               count(*) FILTER (WHERE e.state = 'taken' AND e.copy = 1 AND e.label) OVER users AS user_saved,
               count(*) FILTER (WHERE e.state = 'taken' AND e.copy = 1 AND NOT e.label) OVER users AS user_skipped
        FROM copied e
        WINDOW users AS (PARTITION BY e.user_id)
    ), judged AS (
        SELECT c.user_id, c.id, c.content_hash, c.dims, c.shown_at, c.copy, c.user_action, c.label, c.at,
               c.relevance_score, c.surface, c.session_id, c.conflict,
               CASE WHEN c.state <> 'taken' THEN c.state
                    WHEN c.user_saved < min_user_saved OR c.user_skipped < min_user_skipped THEN 'user below minimum'
                    WHEN c.copy > 1 THEN 'duplicate'
                    ELSE 'taken' END AS state
        FROM counted c
    )
    SELECT j.*,
           -- where in the user's own history the action stands, in ten-thousandths: integers, so that means are exact
           (10000 * (2 * row_number() OVER history - 1) / (2 * count(*) OVER (PARTITION BY j.user_id, j.state)))::integer AS place
    FROM judged j
    WINDOW history AS (PARTITION BY j.user_id, j.state ORDER BY j.at, j.shown_at, j.id);
    ANALYZE pg_temp.pg_finetune_point;
END
$$;
COMMENT ON FUNCTION _collect_points IS 'Private: notes for every data point of a window whether it becomes an example, in pg_temp.pg_finetune_point';
REVOKE ALL ON FUNCTION _collect_points FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _collect_points TO finetune_admin;

-- Texts are split, not rows: that is what keeps a text on one side. split 'time' takes the texts that their readers
-- met last and keeps every row; 'strict' also leaves out the rows on the wrong side of their user's own cut; 'chunk'
-- draws texts. Only 'history' cuts every user's own rows and lets a text of several users stand on both sides.
CREATE FUNCTION _split_texts(test_share double precision, split text, seed bigint)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cut CONSTANT double precision := 10000 * (1 - test_share);
BEGIN
    IF to_regclass('pg_temp.pg_finetune_test_text') IS NOT NULL THEN
        DROP TABLE pg_temp.pg_finetune_test_text;
    END IF;
    CREATE TEMPORARY TABLE pg_finetune_test_text ON COMMIT DROP AS
    WITH texts AS (
        SELECT p.content_hash, count(*) AS n, count(*) FILTER (WHERE p.place > cut) AS newest,
               CASE split WHEN 'time' THEN avg(p.place)
                          WHEN 'strict' THEN avg((p.place > cut)::integer)
                          ELSE 0 END AS lateness,
               sha256(int8send(seed) || p.content_hash) AS draw
        FROM pg_temp.pg_finetune_point p
        WHERE p.state = 'taken'
        GROUP BY p.content_hash
    ), ranked AS (
        SELECT t.content_hash, t.n, t.newest, sum(t.n) OVER late AS n_so_far, sum(t.newest) OVER late AS newest_so_far,
               sum(t.n) OVER () AS n_all, sum(t.newest) OVER () AS newest_all
        FROM texts t
        WINDOW late AS (ORDER BY t.lateness DESC, t.draw ROWS UNBOUNDED PRECEDING)
    )
    SELECT r.content_hash
    FROM ranked r
    WHERE split <> 'history' AND CASE WHEN split = 'strict'
                          -- test rows kept, as a share of all rows kept, with half of this text counted
                          THEN r.newest > 0 AND r.newest_so_far - r.newest / 2.0
                               <= test_share * (r.n_all - r.newest_all - r.n_so_far + 2 * r.newest_so_far)
                          ELSE r.n_so_far - r.n / 2.0 <= test_share * r.n_all END;
    IF split = 'strict' THEN
        UPDATE pg_temp.pg_finetune_point p SET state = 'other side'
        WHERE p.state = 'taken'
          AND (p.place > cut) <> EXISTS (SELECT FROM pg_temp.pg_finetune_test_text t WHERE t.content_hash = p.content_hash);
    END IF;
    ANALYZE pg_temp.pg_finetune_test_text;
END
$$;
COMMENT ON FUNCTION _split_texts IS 'Private: chooses the texts of the test side, in pg_temp.pg_finetune_test_text';
REVOKE ALL ON FUNCTION _split_texts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _split_texts TO finetune_admin;

CREATE FUNCTION _refuse_dimensions() RETURNS void LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text;
    kinds bigint;
BEGIN
    SELECT string_agg(format('%s dimensions: %s points', d.dims, d.n), ', ' ORDER BY d.n DESC, d.dims), count(*)
    INTO found, kinds
    FROM (SELECT p.dims, count(*) AS n FROM pg_temp.pg_finetune_point p
          WHERE p.state IN ('taken', 'duplicate') GROUP BY p.dims) d;
    IF kinds > 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'data_exception', MESSAGE = 'embeddings of different dimensions cannot make one dataset',
            DETAIL = format('%s.', found),
            HINT = 'Embed them with one model, or set embedding to NULL where the old model made it: points without embedding are left out.';
    END IF;
END
$$;
COMMENT ON FUNCTION _refuse_dimensions IS 'Private: refuses points whose vectors come from different models';
REVOKE ALL ON FUNCTION _refuse_dimensions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _refuse_dimensions TO finetune_admin;

CREATE FUNCTION _refuse_few_examples(min_examples integer)
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
        CASE WHEN positives = 0 THEN 'at least 1 positive' END,
        CASE WHEN negatives = 0 THEN 'at least 1 negative' END);
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
                    ELSE 'Wait for more signals, widen since and until, or lower min_examples, min_user_saved and min_user_skipped; SELECT backfill_signals(...) takes what the application already has.' END;
END
$$;
COMMENT ON FUNCTION _refuse_few_examples IS 'Private: refuses a dataset that is too small or has one class only, saying what is missing';
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
COMMENT ON FUNCTION _compare_surfaces IS 'Private: how far positives and negatives come from the same surfaces and sessions; refuses less than half';
REVOKE ALL ON FUNCTION _compare_surfaces FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _compare_surfaces TO finetune_admin;

-- The wide rows, text and vector, are read once here and go straight into the dataset.
CREATE FUNCTION _freeze_points(dataset_id uuid, mistake_weight double precision, test_after double precision)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.dataset_example
        (user_id, dataset_id, id, chunk_id, chunk_content, content_hash, embedding, user_action, label, evidence, weight, split,
         relevance_score, surface, session_id, context, shown_at, actioned_at)
    SELECT e.user_id, _freeze_points.dataset_id, e.id, p.chunk_id, p.chunk_content, e.content_hash, p.embedding, e.user_action, e.label,
           e.evidence, CASE e.evidence WHEN 'mistake' THEN mistake_weight ELSE 1 END, e.split,
           e.relevance_score, e.surface, e.session_id,
           nullif(concat_ws(' · ', nullif(p.podcast_title, ''), nullif(p.episode_title, ''), nullif(p.speaker_name, '')), ''),
           e.shown_at, e.at
    FROM (SELECT n.*,
                 CASE WHEN NOT n.label AND n.relevance_score >= 0.6 OR n.label AND n.relevance_score < 0.4 THEN 'mistake'
                      WHEN n.label THEN 'good' ELSE 'bad' END AS evidence,
                 CASE WHEN t.content_hash IS NOT NULL OR n.place > test_after THEN 'test' ELSE 'train' END AS split
          FROM pg_temp.pg_finetune_point n LEFT JOIN pg_temp.pg_finetune_test_text t USING (content_hash)
          WHERE n.state = 'taken') e
    JOIN @extschema@.training_data_point p ON p.user_id = e.user_id AND p.id = e.id;
END
$$;
COMMENT ON FUNCTION _freeze_points IS 'Private: copies the chosen points into dataset_example';
REVOKE ALL ON FUNCTION _freeze_points FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _freeze_points TO finetune_admin;

-- Last of all steps: from here to the commit, captured changes of these points wait.
CREATE FUNCTION _mark_points(training_set_version integer)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- copies of a frozen text decided its label, so they count as used too
    UPDATE @extschema@.training_data_point p
    SET used_for_training = true, training_set_version = _mark_points.training_set_version
    FROM pg_temp.pg_finetune_point n
    WHERE p.user_id = n.user_id AND p.id = n.id AND n.state IN ('taken', 'duplicate');
END
$$;
COMMENT ON FUNCTION _mark_points IS 'Private: marks the points behind a dataset as used';
REVOKE ALL ON FUNCTION _mark_points FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _mark_points TO finetune_admin;

CREATE FUNCTION _dataset_digest(dataset_id uuid) RETURNS bytea LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- per user first: one string over everything would hit the 1 GB limit of a value
    RETURN (SELECT sha256(coalesce(string_agg(u.digest, ''::bytea ORDER BY u.user_id COLLATE "C"), ''::bytea))
            FROM (SELECT e.user_id, sha256(convert_to(string_agg(
                             jsonb_build_array(e.user_id, e.id, e.label, e.split)::text, E'\n' ORDER BY e.id COLLATE "C"), 'UTF8')) AS digest
                  FROM @extschema@.dataset_example e WHERE e.dataset_id = _dataset_digest.dataset_id GROUP BY e.user_id) u);
END
$$;
COMMENT ON FUNCTION _dataset_digest IS 'Private: sha256 over the sorted example ids, labels and splits';
REVOKE ALL ON FUNCTION _dataset_digest FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _dataset_digest TO finetune_admin;

CREATE FUNCTION _dataset_counts(dataset_id uuid) RETURNS jsonb LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT jsonb_build_object(
            'examples', coalesce(sum(u.examples), 0), 'users', count(*),
            'positives', coalesce(sum(u.positives), 0), 'negatives', coalesce(sum(u.examples - u.positives), 0),
            'mistakes', coalesce(sum(u.mistakes), 0),
            'train', jsonb_build_object('positives', coalesce(sum(u.train_positives), 0), 'negatives', coalesce(sum(u.train - u.train_positives), 0),
                                        'users', count(*) FILTER (WHERE u.train > 0)),
            'test', jsonb_build_object('positives', coalesce(sum(u.positives - u.train_positives), 0),
                                       'negatives', coalesce(sum(u.examples - u.train - u.positives + u.train_positives), 0),
                                       'users', count(*) FILTER (WHERE u.examples > u.train),
                                       -- such users can be judged: a profile from train, both kinds to rank in test
                                       'judgeable_users', count(*) FILTER (WHERE u.train_positives > 0 AND u.positives > u.train_positives
                                                                           AND u.examples - u.train > u.positives - u.train_positives),
                                       'older_than_own_train', coalesce(sum(u.out_of_order), 0)))
        FROM (SELECT e.user_id, count(*) AS examples, count(*) FILTER (WHERE e.label) AS positives,
                     count(*) FILTER (WHERE e.evidence = 'mistake') AS mistakes,
                     count(*) FILTER (WHERE e.split = 'train') AS train,
                     count(*) FILTER (WHERE e.split = 'train' AND e.label) AS train_positives,
                     count(*) FILTER (WHERE e.split = 'test' AND e.actioned_at < e.newest_train) AS out_of_order
              FROM (SELECT x.user_id, x.label, x.evidence, x.split, x.actioned_at,
                           max(x.actioned_at) FILTER (WHERE x.split = 'train') OVER (PARTITION BY x.user_id) AS newest_train
                    FROM @extschema@.dataset_example x WHERE x.dataset_id = _dataset_counts.dataset_id) e
              GROUP BY e.user_id) u);
END
$$;
COMMENT ON FUNCTION _dataset_counts IS 'Private: examples of a dataset by kind and side';
REVOKE ALL ON FUNCTION _dataset_counts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _dataset_counts TO finetune_admin;

-- What was looked at and left out, from the notes of _collect_points and _split_texts.
CREATE FUNCTION _left_out_counts() RETURNS jsonb LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT jsonb_build_object(
            'points', count(*), 'texts', count(DISTINCT p.content_hash) FILTER (WHERE p.state = 'taken'),
            'conflicting_texts', count(*) FILTER (WHERE p.conflict AND p.state = 'taken'),
            'left_out', jsonb_build_object(
                'pending', count(*) FILTER (WHERE p.state = 'pending'), 'no_embedding', count(*) FILTER (WHERE p.state = 'no embedding'),
                'zero_vector', count(*) FILTER (WHERE p.state = 'zero vector'), 'other_surface', count(*) FILTER (WHERE p.state = 'other surface'),
                'duplicates', count(*) FILTER (WHERE p.state = 'duplicate'), 'other_side', count(*) FILTER (WHERE p.state = 'other side'),
                'user_below_minimum', count(*) FILTER (WHERE p.state = 'user below minimum'),
                'users_below_minimum', count(DISTINCT p.user_id) FILTER (WHERE p.state = 'user below minimum')))
        FROM pg_temp.pg_finetune_point p);
END
$$;
COMMENT ON FUNCTION _left_out_counts IS 'Private: points of the window by the reason why they did not become examples';
REVOKE ALL ON FUNCTION _left_out_counts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _left_out_counts TO finetune_admin;

CREATE FUNCTION _dataset_warnings(report jsonb) RETURNS text[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    balance CONSTANT double precision := (report ->> 'positives')::double precision / nullif((report ->> 'examples')::double precision, 0);
    judgeable CONSTANT bigint := report #>> '{test,judgeable_users}';
BEGIN
    RETURN array_remove(ARRAY[
        CASE WHEN (report ->> 'surfaces')::bigint = 0
             THEN 'no surface recorded: nobody can tell whether saves and skips come from the same screen' END,
        CASE WHEN (report ->> 'surfaces')::bigint > 0 AND (report ->> 'session_overlap')::double precision < 0.5
             THEN 'fewer than half of the sessions with a positive example also have a negative one' END,
        CASE WHEN balance < 0.02 OR balance > 0.98
             THEN format('%s %% of the examples are positive: little to tell apart', round((100 * balance)::numeric, 1)) END,
        CASE WHEN (report ->> 'examples')::bigint < 1000
             THEN 'fewer than 1000 examples: expect the closed form or no change at all' END,
        CASE WHEN report #>> '{parameters,split}' = 'history'
             THEN 'a text that several users met may stand on both sides: the gate judges texts that the model knows' END,
        CASE WHEN judgeable < 134
             -- the gate asks for 20 users and draws 15 % of all
             THEN format('%s users can be judged on the test side: the gate may answer "not enough data"', judgeable) END], NULL);
END
$$;
COMMENT ON FUNCTION _dataset_warnings IS 'Private: what a reader of a dataset''s report should worry about';
REVOKE ALL ON FUNCTION _dataset_warnings FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _dataset_warnings TO finetune_admin;

CREATE FUNCTION create_dataset(
    name text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, positive text[] DEFAULT '{saved,snipped}',
    min_examples integer DEFAULT 300, min_user_saved integer DEFAULT 3, min_user_skipped integer DEFAULT 1,
    test_share double precision DEFAULT 0.2, seed bigint DEFAULT 42, mistake_weight double precision DEFAULT 2,
    surfaces text[] DEFAULT NULL, split text DEFAULT 'time')
RETURNS uuid LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_id CONSTANT uuid := gen_random_uuid();
    new_version integer;
    report jsonb;
BEGIN
    PERFORM @extschema@._require_role('create_dataset', 'finetune_admin');
    PERFORM @extschema@._check_dataset_parameters(create_dataset.name, since, until, positive, min_examples,
        min_user_saved, min_user_skipped, test_share, mistake_weight, split);
    -- one at a time: versions are counted up, and two could mark the same points in opposite orders
    PERFORM pg_advisory_xact_lock(hashtextextended('pg_finetune create_dataset', 0));
    PERFORM @extschema@._collect_points(since, until, positive, surfaces, min_user_saved, min_user_skipped);
    PERFORM @extschema@._refuse_dimensions();
    PERFORM @extschema@._split_texts(test_share, split, seed);
    PERFORM @extschema@._refuse_few_examples(min_examples);
    report := to_jsonb(s) FROM @extschema@._compare_surfaces() s;

    SELECT coalesce(max(d.version), 0) + 1 INTO new_version FROM @extschema@.dataset d WHERE d.name = create_dataset.name;
    PERFORM @extschema@._freeze_points(new_id, mistake_weight, CASE WHEN split = 'history' THEN 10000 * (1 - test_share) END);

    report := report || @extschema@._left_out_counts() || @extschema@._dataset_counts(new_id) || jsonb_build_object('parameters', jsonb_build_object(
        'since', since, 'until', until, 'positive', positive, 'min_examples', min_examples, 'min_user_saved', min_user_saved,
        'min_user_skipped', min_user_skipped, 'test_share', test_share, 'seed', seed, 'mistake_weight', mistake_weight,
        'surfaces', surfaces, 'split', split));
    report := report || jsonb_build_object('warnings', @extschema@._dataset_warnings(report));
    INSERT INTO @extschema@.dataset (id, name, version, dimensions, positive, split_at, seed, examples, users, report, digest)
    VALUES (new_id, create_dataset.name, new_version,
            (SELECT p.dims FROM pg_temp.pg_finetune_point p WHERE p.state = 'taken' LIMIT 1), positive,
            -- the moment that parts train from test, where one moment does so for all users
            (SELECT min(e.actioned_at) FILTER (WHERE e.split = 'test') FROM @extschema@.dataset_example e WHERE e.dataset_id = new_id
             HAVING min(e.actioned_at) FILTER (WHERE e.split = 'test') > max(e.actioned_at) FILTER (WHERE e.split = 'train')), seed, (report ->> 'examples')::bigint, (report ->> 'users')::bigint,
            report, @extschema@._dataset_digest(new_id));
    PERFORM @extschema@._mark_points(new_version);
    DROP TABLE pg_temp.pg_finetune_point, pg_temp.pg_finetune_test_text;
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION create_dataset IS 'Freezes the last action of each user on each text as a new version of a dataset, split into train and test without a text on both sides; the row in dataset says what was left out and why';
GRANT EXECUTE ON FUNCTION create_dataset TO finetune_admin;

CREATE FUNCTION _dataset_id(dataset text) RETURNS uuid LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts CONSTANT text[] := regexp_match(dataset, '^([^:]+)(?::(\d{1,9}))?$');
    found uuid;
    known text;
BEGIN
    SELECT d.id INTO found FROM @extschema@.dataset d
    WHERE d.name = parts[1] AND (parts[2] IS NULL OR d.version = parts[2]::integer)
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
COMMENT ON FUNCTION _dataset_id IS 'Private: the id of ''name'' (latest version), ''name:version'' or an id written as text';
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
    DELETE FROM @extschema@.fine_tuning_job j WHERE j.dataset_id = old.id;
    DELETE FROM @extschema@.dataset d WHERE d.id = old.id;
    RETURN old.name || ':' || old.version;
END
$$;
COMMENT ON FUNCTION drop_dataset IS 'Removes one version of a dataset, its examples and finished jobs; refuses when models were trained on it, unless forced';
GRANT EXECUTE ON FUNCTION drop_dataset TO finetune_admin;

CREATE FUNCTION contrastive_triplets(
    dataset text, per_positive integer DEFAULT 4, mining text DEFAULT 'hard', split text DEFAULT 'train', seed bigint DEFAULT 42,
    OUT user_id text, OUT anchor_id text, OUT positive_id text, OUT negative_id text,
    OUT anchor text, OUT positive text, OUT negative text, OUT mined boolean)
RETURNS SETOF record LANGUAGE c STABLE STRICT PARALLEL UNSAFE ROWS 100000 AS 'MODULE_PATHNAME', 'contrastive_triplets_wrapper';
COMMENT ON FUNCTION contrastive_triplets IS 'Triplets of texts: anchor = another save of the same user, positive = a save, negative = a skip of the same user and surface or (mined) a text of others; SELECT contrastive_triplets(...) streams, in FROM Postgres gathers all rows first. The built-in trainer does not use them: its anchors are whole profiles, which have no text';
GRANT EXECUTE ON FUNCTION contrastive_triplets TO finetune_analyst, finetune_admin;

CREATE FUNCTION export_jsonl(dataset text, format text DEFAULT 'triplet', split text DEFAULT 'train')
RETURNS SETOF text LANGUAGE c STABLE STRICT PARALLEL UNSAFE ROWS 100000 AS 'MODULE_PATHNAME', 'export_jsonl_wrapper';
COMMENT ON FUNCTION export_jsonl IS 'A dataset as lines of JSON for trainers and providers; formats: triplet, pair, cohere_rerank, openai_chat, openai_dpo, bedrock_converse, anthropic, raw. COPY (SELECT export_jsonl(...)) TO streams them';
GRANT EXECUTE ON FUNCTION export_jsonl TO finetune_analyst, finetune_admin;

CREATE VIEW datasets AS
SELECT d.name, d.version, d.examples, d.users,
       (d.report OPERATOR(pg_catalog.->>) 'positives')::bigint AS positives,
       (d.report OPERATOR(pg_catalog.->>) 'negatives')::bigint AS negatives,
       (d.report OPERATOR(pg_catalog.#>>) '{train,positives}')::bigint OPERATOR(pg_catalog.+) (d.report OPERATOR(pg_catalog.#>>) '{train,negatives}')::bigint AS train,
       (d.report OPERATOR(pg_catalog.#>>) '{test,positives}')::bigint OPERATOR(pg_catalog.+) (d.report OPERATOR(pg_catalog.#>>) '{test,negatives}')::bigint AS test,
       d.created_at,
       ARRAY(SELECT m.id FROM @extschema@.model m WHERE m.dataset_id OPERATOR(pg_catalog.=) d.id ORDER BY m.created_at, m.id) AS models,
       ARRAY(SELECT pg_catalog.jsonb_array_elements_text(d.report OPERATOR(pg_catalog.->) 'warnings')) AS warnings,
       d.id
FROM @extschema@.dataset d;
COMMENT ON VIEW datasets IS 'Frozen datasets in short, with the models trained on each; the whole account of what was left out is in dataset.report';
