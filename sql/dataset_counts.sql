-- Datasets, what the steps found: counts and warnings of the report.

CREATE FUNCTION _dataset_counts() RETURNS jsonb LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' AS $$
BEGIN
    RETURN (
        SELECT jsonb_build_object(
            'examples', coalesce(sum(u.examples), 0), 'users', count(*),
            'positives', coalesce(sum(u.positives), 0), 'negatives', coalesce(sum(u.examples - u.positives), 0),
            'mistakes', coalesce(sum(u.mistakes), 0),
            'train', jsonb_build_object('positives', coalesce(sum(u.train_positives), 0), 'negatives', coalesce(sum(u.train - u.train_positives), 0),
                                        'users', count(*) FILTER (WHERE u.train > 0), 'newest', max(u.newest_train)),
            'test', jsonb_build_object('positives', coalesce(sum(u.positives - u.train_positives), 0),
                                       'negatives', coalesce(sum(u.examples - u.train - u.positives + u.train_positives), 0),
                                       'users', count(*) FILTER (WHERE u.examples > u.train),
                                       -- such users can be judged: a profile from train, both kinds to rank in test
                                       'judgeable_users', count(*) FILTER (WHERE u.train_positives > 0 AND u.positives > u.train_positives
                                                                           AND u.examples - u.train > u.positives - u.train_positives),
                                       'older_than_own_train', coalesce(sum(u.out_of_order), 0), 'oldest', min(u.oldest_test)),
            'ignored', coalesce(sum(u.ignored), 0), 'largest_user', coalesce(max(u.examples), 0))
        FROM (SELECT e.user_id, count(*) AS examples, count(*) FILTER (WHERE e.label) AS positives,
                     count(*) FILTER (WHERE e.evidence = 'mistake') AS mistakes, count(*) FILTER (WHERE e.evidence = 'ignored') AS ignored,
                     max(e.newest_train) AS newest_train, min(e.actioned_at) FILTER (WHERE e.split = 'test') AS oldest_test,
                     count(*) FILTER (WHERE e.split = 'train') AS train,
                     count(*) FILTER (WHERE e.split = 'train' AND e.label) AS train_positives,
                     count(*) FILTER (WHERE e.split = 'test' AND e.actioned_at < e.newest_train) AS out_of_order
              FROM (SELECT x.user_id, x.label, x.evidence, x.split, x.actioned_at,
                           max(x.actioned_at) FILTER (WHERE x.split = 'train') OVER (PARTITION BY x.user_id) AS newest_train
                    FROM pg_temp.pg_finetune_frozen x) e
              GROUP BY e.user_id) u);
END
$$;
COMMENT ON FUNCTION _dataset_counts IS 'pg_finetune private: examples of a dataset by kind and side';
REVOKE ALL ON FUNCTION _dataset_counts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _dataset_counts TO finetune_admin;

-- What was looked at and left out, from the notes of the steps before.
CREATE FUNCTION _left_out_counts() RETURNS jsonb LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' AS $$
DECLARE
    reasons CONSTANT text[] := ARRAY['pending', 'no embedding', 'zero vector', 'other surface', 'other source', 'other user', 'other action', 'other score',
                                     'duplicate', 'conflict', 'user below minimum', 'over the cap', 'other side'];
BEGIN
    RETURN (
        WITH states AS (SELECT p.state, count(*) AS n, count(*) FILTER (WHERE p.conflict) AS conflicts FROM pg_temp.pg_finetune_point p GROUP BY p.state)
        SELECT jsonb_build_object(
            'points', (SELECT sum(s.n) FROM states s),
            'texts', (SELECT count(*) FROM (SELECT FROM pg_temp.pg_finetune_point p WHERE p.state = 'taken' GROUP BY p.text_key) t),
            'conflicting_texts', (SELECT coalesce(sum(s.conflicts), 0) FROM states s WHERE s.state IN ('taken', 'conflict')),
            'near_duplicates', (SELECT count(*) FROM pg_temp.pg_finetune_twin),
            'left_out', (SELECT jsonb_object_agg(CASE r.reason WHEN 'duplicate' THEN 'duplicates' ELSE replace(r.reason, ' ', '_') END, coalesce(s.n, 0))
                         FROM unnest(reasons) r (reason) LEFT JOIN states s ON s.state = r.reason)
                || jsonb_build_object('users_below_minimum', (SELECT count(DISTINCT p.user_id) FROM pg_temp.pg_finetune_point p WHERE p.state = 'user below minimum'))));
END
$$;
COMMENT ON FUNCTION _left_out_counts IS 'pg_finetune private: points of the window by the reason why they did not become examples';
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
        CASE WHEN (report ->> 'largest_user')::double precision > 0.2 * (report ->> 'examples')::double precision AND (report ->> 'users')::bigint > 5
             THEN format('one user made %s of the %s examples: max_per_user keeps heavy users from owning the model', report ->> 'largest_user', report ->> 'examples') END,
        CASE WHEN (report ->> 'ignored')::double precision > 0.5 * (report ->> 'negatives')::double precision
             THEN 'more than half of the negatives were only ignored: weak evidence' END,
        CASE WHEN (report ->> 'conflicting_texts')::double precision > 0.05 * (report ->> 'examples')::double precision
             THEN format('%s texts were judged both ways by the same user: see conflicts', report ->> 'conflicting_texts') END,
        CASE WHEN balance < 0.02 OR balance > 0.98
             THEN format('%s %% of the examples are positive: little to tell apart', round((100 * balance)::numeric, 1)) END,
        CASE WHEN (report ->> 'examples')::bigint < 1000
             THEN 'fewer than 1000 examples: expect the closed form or no change at all' END,
        CASE WHEN report #>> '{parameters,split}' = 'history'
             THEN 'a text that several users met may stand on both sides: the gate judges texts that the model knows' END,
        CASE WHEN report #>> '{parameters,split}' = 'user'
             THEN 'the users of the test side have no train examples: for trainers that know texts only, the built-in one cannot judge them'
             WHEN judgeable < 134
             -- the gate asks for 20 users and draws 15 % of all
             THEN format('%s users can be judged on the test side: the gate may answer "not enough data"', judgeable) END], NULL);
END
$$;
COMMENT ON FUNCTION _dataset_warnings IS 'pg_finetune private: what a reader of a dataset''s report should worry about';
REVOKE ALL ON FUNCTION _dataset_warnings FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _dataset_warnings TO finetune_admin;


CREATE FUNCTION dataset_report(dataset text, OUT topic text, OUT item text, OUT value numeric, OUT note text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
    wanted uuid;
    d @extschema@.dataset;
    r jsonb;
BEGIN
    PERFORM @extschema@._require_role('dataset_report', 'finetune_analyst');
    wanted := @extschema@._dataset_id(dataset);
    SELECT x.* INTO d FROM @extschema@.dataset x WHERE x.id = wanted;
    r := d.report;
    RETURN QUERY
    SELECT * FROM (VALUES
        ('counts', 'examples', (r ->> 'examples')::numeric, format('%s:%s of %s, digest %s', d.name, d.version, d.created_at, left(encode(d.digest, 'hex'), 16))),
        ('counts', 'points of the window', (r ->> 'points')::numeric, NULL),
        ('counts', 'different texts', (r ->> 'texts')::numeric, NULL),
        ('counts', 'train', (r #>> '{train,positives}')::numeric + (r #>> '{train,negatives}')::numeric, format('split %s', r #>> '{parameters,split}')),
        ('counts', 'test', (r #>> '{test,positives}')::numeric + (r #>> '{test,negatives}')::numeric, NULL),
        ('balance', 'positives', (r ->> 'positives')::numeric, NULL),
        ('balance', 'negatives', (r ->> 'negatives')::numeric, format('%s of them only ignored', coalesce(r ->> 'ignored', '0'))),
        ('balance', 'mistakes', (r ->> 'mistakes')::numeric, 'the score said the opposite'),
        ('balance', 'share of positives', round((r ->> 'positives')::numeric / nullif((r ->> 'examples')::numeric, 0), 4), NULL),
        ('users', 'users', (r ->> 'users')::numeric, NULL),
        ('users', 'examples of the largest user', (r ->> 'largest_user')::numeric, NULL),
        ('users', 'users that can be judged', (r #>> '{test,judgeable_users}')::numeric, 'a save to train on, a save and a skip to test on'),
        ('duplicates', 'copies joined', (r #>> '{left_out,duplicates}')::numeric, 'of the same user and text'),
        ('duplicates', 'texts that are near copies', (r ->> 'near_duplicates')::numeric, coalesce('cosine of at least ' || (r #>> '{parameters,near_duplicates}'), 'not looked for: near_duplicates => 0.97')),
        ('label noise', 'texts judged both ways by one user', (r ->> 'conflicting_texts')::numeric, format('conflicts => %L', r #>> '{parameters,conflicts}')),
        ('label noise', 'share of mistakes', round((r ->> 'mistakes')::numeric / nullif((r ->> 'examples')::numeric, 0), 4), NULL),
        ('label noise', 'overlap of surfaces', round((r ->> 'surface_overlap')::numeric, 4), 'of positives and negatives; below 0.5 is refused')) v;
    RETURN QUERY SELECT 'label noise', 'changed minds', count(*)::numeric, 'points behind this version whose user took the action back'
    FROM @extschema@.training_data_point p WHERE p.training_set_version = d.version AND p.changes > 0
        AND EXISTS (SELECT FROM @extschema@.dataset_example e WHERE e.user_id = p.user_id AND e.dataset_id = wanted AND e.id = p.id);
    RETURN QUERY SELECT 'leakage', l.leak, count(*)::numeric, format('the first: user "%s", example "%s"; SELECT * FROM dataset_leaks(%L);', min(l.user_id), min(l.id), d.name || ':' || d.version)
    FROM @extschema@.dataset_leaks(wanted::text) l GROUP BY l.leak;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'leakage', 'offenders', 0::numeric, 'checked now on all examples';
    END IF;
    RETURN QUERY SELECT 'left out', replace(o.key, '_', ' '), o.value::numeric, NULL::text
    FROM jsonb_each_text(r -> 'left_out') o WHERE o.value <> '0' ORDER BY 2;
    RETURN QUERY SELECT 'tokens', t.format, round(t.bytes / 4), 'estimate for one pass over the train side: bytes / 4; estimate_cost() counts with the model''s own tokenizer'
    FROM (SELECT count(*) AS n, count(*) FILTER (WHERE e.label) AS saves, sum(octet_length(e.chunk_content)) AS bytes, avg(octet_length(e.chunk_content)) AS mean
          FROM @extschema@.dataset_example e WHERE e.dataset_id = wanted AND e.split = 'train') s
    CROSS JOIN LATERAL (VALUES ('openai_chat', s.bytes + s.n * (5 * s.mean + 220)), ('openai_dpo', s.bytes + s.n * (5 * s.mean + 240)),
        ('bedrock_converse', s.bytes + s.n * (5 * s.mean + 260)), ('anthropic', s.bytes + s.n * (5 * s.mean + 210)),
        ('triplet', s.saves * 12 * s.mean), ('pair', s.saves * 2 * s.mean), ('cohere_rerank', s.saves * 6 * s.mean), ('raw', s.bytes + s.n * 320)) t (format, bytes);
    RETURN QUERY SELECT 'warnings', w.warning, NULL::numeric, NULL::text FROM jsonb_array_elements_text(r -> 'warnings') w (warning);
END
$$;
COMMENT ON FUNCTION dataset_report IS 'The account of a dataset: counts, balance, users, duplicates, label noise, leakage (checked anew), what was left out and why, estimated tokens per export format, warnings';
GRANT EXECUTE ON FUNCTION dataset_report TO finetune_analyst, finetune_admin;
