-- Datasets, third step: the sides. Texts are split, not rows: that is what keeps a text on one side.

-- 'time' takes the texts that their readers met last and keeps every row; 'strict' also leaves out the rows on the wrong side of their
-- user's own cut; 'chunk' draws texts; 'user' draws users and leaves out what they share with the other side. Only 'history' cuts every
-- user's own rows and lets a text of several users stand on both sides.
CREATE FUNCTION _split_texts(test_share double precision, split text, seed bigint)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' AS $$
DECLARE
    cut CONSTANT double precision := 10000 * (1 - test_share);
    examples double precision;
    newest_examples double precision;
BEGIN
    SELECT count(*), count(*) FILTER (WHERE p.place > cut) INTO examples, newest_examples FROM pg_temp.pg_finetune_point p WHERE p.state = 'taken';
    CREATE TEMPORARY TABLE pg_finetune_test_text ON COMMIT DROP AS
    WITH texts AS (
        SELECT p.text_key, count(*)::double precision AS n, (count(*) FILTER (WHERE p.place > cut))::double precision AS newest,
               CASE split WHEN 'time' THEN sum(p.place)::double precision / count(*)
                          WHEN 'strict' THEN (count(*) FILTER (WHERE p.place > cut))::double precision / count(*)
                          ELSE 0 END AS lateness,
               sha256(int8send(seed) || p.text_key) AS draw
        FROM pg_temp.pg_finetune_point p
        WHERE p.state = 'taken' AND split NOT IN ('history', 'user') AND test_share > 0
        GROUP BY p.text_key
    ), ranked AS (
        SELECT t.text_key, t.n, t.newest, sum(t.n) OVER late AS n_so_far, sum(t.newest) OVER late AS newest_so_far
        FROM texts t
        WINDOW late AS (ORDER BY t.lateness DESC, t.draw ROWS UNBOUNDED PRECEDING)
    )
    SELECT r.text_key
    FROM ranked r
    WHERE CASE WHEN split = 'strict'
                    -- test rows kept, as a share of all rows kept, with half of this text counted
               THEN r.newest > 0 AND r.newest_so_far - r.newest / 2
                    <= test_share * (examples - newest_examples - r.n_so_far + 2 * r.newest_so_far)
               ELSE r.n_so_far - r.n / 2 <= test_share * examples END;
    IF split = 'user' THEN
        PERFORM @extschema@._split_users(test_share, seed);
    ELSIF split = 'strict' THEN
        UPDATE pg_temp.pg_finetune_point p SET state = 'other side'
        WHERE p.state = 'taken'
          AND (p.place > cut) <> EXISTS (SELECT FROM pg_temp.pg_finetune_test_text t WHERE t.text_key = p.text_key);
    END IF;
    ANALYZE pg_temp.pg_finetune_test_text;
END
$$;
COMMENT ON FUNCTION _split_texts IS 'pg_finetune private: chooses the texts of the test side, in pg_temp.pg_finetune_test_text';
REVOKE ALL ON FUNCTION _split_texts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _split_texts TO finetune_admin;

-- Users are drawn up to the wanted share of rows. A text that users of both sides met is drawn for one side, and the other side's rows go.
CREATE FUNCTION _split_users(test_share double precision, seed bigint)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    drawn CONSTANT bigint := floor(test_share * 4294967296);
BEGIN
    WITH side AS (
        SELECT u.user_id, sum(u.n) OVER (ORDER BY u.draw ROWS UNBOUNDED PRECEDING) - u.n / 2.0 <= test_share * sum(u.n) OVER () AS test
        FROM (SELECT p.user_id, count(*) AS n, sha256(int8send(seed) || convert_to(p.user_id, 'UTF8')) AS draw
              FROM pg_temp.pg_finetune_point p WHERE p.state = 'taken' GROUP BY p.user_id) u
    ), texts AS (
        SELECT p.text_key, CASE WHEN bool_and(s.test) = bool_or(s.test) THEN bool_or(s.test)
                                ELSE ('x' || encode(substr(sha256(int8send(seed) || p.text_key), 1, 4), 'hex'))::bit(32)::bigint < drawn END AS test
        FROM pg_temp.pg_finetune_point p JOIN side s USING (user_id) WHERE p.state = 'taken' GROUP BY p.text_key
    ), moved AS (
        UPDATE pg_temp.pg_finetune_point p SET state = 'other side'
        FROM side s, texts t WHERE p.state = 'taken' AND s.user_id = p.user_id AND t.text_key = p.text_key AND s.test <> t.test
    )
    INSERT INTO pg_temp.pg_finetune_test_text SELECT t.text_key FROM texts t WHERE t.test;
END
$$;
COMMENT ON FUNCTION _split_users IS 'pg_finetune private: draws the users of the test side for split => ''user''';
REVOKE ALL ON FUNCTION _split_users FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _split_users TO finetune_admin;

CREATE FUNCTION dataset_leaks(dataset text, near double precision DEFAULT NULL,
    OUT leak text, OUT user_id text, OUT id text, OUT other_user_id text, OUT other_id text, OUT similarity double precision)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    wanted uuid;
    split text;
BEGIN
    PERFORM @extschema@._require_role('dataset_leaks', 'finetune_analyst');
    wanted := @extschema@._dataset_id(dataset);
    split := (SELECT d.report #>> '{parameters,split}' FROM @extschema@.dataset d WHERE d.id = wanted);
    IF near NOT BETWEEN 0.8 AND 0.9999 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'invalid parameter for dataset_leaks',
            DETAIL = format('Wrong: near is %s.', near), HINT = 'Give a cosine similarity from 0.8 to 0.9999, 0.97 for example.';
    END IF;
    RETURN QUERY
    WITH side AS (SELECT coalesce(e.twin_of, e.content_hash) AS text_key, e.split, e.user_id, e.id
                  FROM @extschema@.dataset_example e WHERE e.dataset_id = wanted),
         both_sides AS (SELECT s.text_key, min(ARRAY[s.user_id, s.id]) FILTER (WHERE s.split = 'train') AS train
                        FROM side s GROUP BY s.text_key HAVING min(s.split) <> max(s.split))
    SELECT 'text on both sides', s.user_id, s.id, b.train[1], b.train[2], 1::double precision
    FROM both_sides b JOIN side s ON s.text_key = b.text_key AND s.split = 'test';
    IF split IN ('strict', 'history') THEN
        RETURN QUERY
        SELECT 'older than the user''s newest train example', e.user_id, e.id, e.user_id, e.newest[2], NULL::double precision
        FROM (SELECT x.user_id, x.id, x.split, x.actioned_at,
                     max(ARRAY[to_char(x.actioned_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), x.id])
                         FILTER (WHERE x.split = 'train') OVER (PARTITION BY x.user_id) AS newest,
                     max(x.actioned_at) FILTER (WHERE x.split = 'train') OVER (PARTITION BY x.user_id) AS newest_at
              FROM @extschema@.dataset_example x WHERE x.dataset_id = wanted) e
        WHERE e.split = 'test' AND e.actioned_at < e.newest_at;
    ELSIF split = 'user' THEN
        RETURN QUERY
        SELECT 'user on both sides', e.user_id, min(e.id) FILTER (WHERE e.split = 'test'), e.user_id, min(e.id) FILTER (WHERE e.split = 'train'), NULL::double precision
        FROM @extschema@.dataset_example e WHERE e.dataset_id = wanted
        GROUP BY e.user_id HAVING min(e.split) <> max(e.split);
    END IF;
    IF near IS NOT NULL THEN
        RETURN QUERY
        WITH texts AS (SELECT e.content_hash, e.split, min(ARRAY[e.user_id, e.id]) AS row
                       FROM @extschema@.dataset_example e WHERE e.dataset_id = wanted GROUP BY e.content_hash, e.split)
        SELECT 'near copy on both sides', t.row[1], t.row[2], o.row[1], o.row[2], n.similarity
        FROM @extschema@._near_twins(format(
                 'SELECT DISTINCT ON (e.content_hash) e.content_hash, e.embedding FROM @extschema@.dataset_example e WHERE e.dataset_id = %L
                  ORDER BY e.content_hash, e.user_id, e.id', wanted), near) n
        JOIN texts t ON t.content_hash = n.text_hash
        JOIN texts o ON o.content_hash = n.twin_of AND o.split <> t.split;
    END IF;
END
$$;
COMMENT ON FUNCTION dataset_leaks IS 'Proof that nothing stands on both sides of a dataset, or the offenders: texts (with near => 0.97 also near copies), users for split user, order in time for splits strict and history; no row = no leak';
GRANT EXECUTE ON FUNCTION dataset_leaks TO finetune_analyst, finetune_admin;
