-- Datasets, second step: which points become examples. Three narrow temporary tables, without text or vector, so that sorts stay small:
-- pg_finetune_raw (every point of the window), pg_finetune_twin (texts that are near copies of another), pg_finetune_point (the verdicts).

CREATE FUNCTION _content_hash(chunk_content text, chunk_id text, id text) RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE COST 500 AS 'MODULE_PATHNAME', 'content_hash_wrapper';
COMMENT ON FUNCTION _content_hash IS 'pg_finetune private: sha256 of a text in Unicode form C with white space made single; without words the item''s key stands in';
REVOKE ALL ON FUNCTION _content_hash FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _content_hash TO finetune_analyst, finetune_admin;

CREATE FUNCTION _near_twins(query text, threshold double precision, OUT text_hash bytea, OUT twin_of bytea, OUT similarity double precision)
RETURNS SETOF record LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'near_twins_wrapper';
COMMENT ON FUNCTION _near_twins IS 'pg_finetune private: rows (bytea, vector) of a query that are nearer than a cosine to an earlier row that stays, with that row';
REVOKE ALL ON FUNCTION _near_twins FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _near_twins TO finetune_analyst, finetune_admin;

CREATE FUNCTION _drop_notes() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    note text;
BEGIN
    FOREACH note IN ARRAY ARRAY['pg_finetune_raw', 'pg_finetune_twin', 'pg_finetune_point', 'pg_finetune_test_text', 'pg_finetune_frozen'] LOOP
        IF to_regclass('pg_temp.' || note) IS NOT NULL THEN
            EXECUTE format('DROP TABLE pg_temp.%I', note);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _drop_notes IS 'pg_finetune private: drops the temporary tables of create_dataset, also those of an earlier call in the same transaction';
REVOKE ALL ON FUNCTION _drop_notes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _drop_notes TO finetune_admin;

-- The one read of text and vector before the copy. state: why a row is left out, or 'taken'.
CREATE FUNCTION _read_points(p jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    since CONSTANT timestamptz := p ->> 'since';
    until CONSTANT timestamptz := p ->> 'until';
    positive CONSTANT text[] := ARRAY(SELECT jsonb_array_elements_text(p -> 'positive'));
    surfaces CONSTANT text[] := CASE WHEN p ->> 'surfaces' IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(p -> 'surfaces')) END;
    users CONSTANT text[] := CASE WHEN p ->> 'users' IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(p -> 'users')) END;
    sources CONSTANT text[] := CASE WHEN p ->> 'sources' IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(p -> 'sources')) END;
    actions CONSTANT text[] := CASE WHEN p ->> 'actions' IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(p -> 'actions')) END;
    min_score CONSTANT double precision := p ->> 'min_score';
    max_score CONSTANT double precision := p ->> 'max_score';
    ignored_after CONSTANT interval := p ->> 'ignored_after';
    ignored_until CONSTANT timestamptz := (p ->> 'newest')::timestamptz - ignored_after;
BEGIN
    CREATE TEMPORARY TABLE pg_finetune_raw ON COMMIT DROP AS
    SELECT p.ctid AS tid, p.user_id, p.id, coalesce(p.user_action, CASE WHEN p.shown_at <= ignored_until THEN 'ignored' END) AS user_action,
           coalesce(p.user_action = ANY (positive), false) AS label, p.shown_at,
           coalesce(p.actioned_at, CASE WHEN p.user_action IS NULL AND p.shown_at <= ignored_until THEN p.shown_at + ignored_after END, p.shown_at) AS at,
           p.relevance_score, p.surface, p.session_id, @extschema:vector@.vector_dims(p.embedding) AS dims,
           @extschema@._content_hash(p.chunk_content, p.chunk_id, p.id) AS content_hash,
           CASE WHEN p.user_action IS NULL AND NOT coalesce(p.shown_at <= ignored_until, false) THEN 'pending'
                WHEN p.embedding IS NULL THEN 'no embedding'
                WHEN @extschema:vector@.vector_norm(p.embedding) = 0 THEN 'zero vector'
                WHEN surfaces IS NOT NULL AND (p.surface IS NULL OR p.surface <> ALL (surfaces)) THEN 'other surface'
                WHEN p.source <> ALL (sources) THEN 'other source'
                WHEN p.user_id <> ALL (users) THEN 'other user'
                WHEN p.user_action <> ALL (actions) THEN 'other action'
                WHEN (min_score IS NOT NULL OR max_score IS NOT NULL) AND NOT coalesce(p.relevance_score BETWEEN
                     coalesce(min_score, '-infinity') AND coalesce(max_score, 'infinity'), false) THEN 'other score'
                ELSE 'taken' END AS state
    FROM @extschema@.training_data_point p
    WHERE (since IS NULL OR coalesce(p.actioned_at, p.shown_at) >= since)
      AND (until IS NULL OR coalesce(p.actioned_at, p.shown_at) < until);
END
$$;
COMMENT ON FUNCTION _read_points IS 'pg_finetune private: one narrow row per data point of the window, in pg_temp.pg_finetune_raw';
REVOKE ALL ON FUNCTION _read_points FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _read_points TO finetune_admin;

-- Near copies get the identity of the copy that stays: from here on they are the same text, for duplicates and for the split alike.
CREATE FUNCTION _find_twins(near double precision, keep text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CREATE TEMPORARY TABLE pg_finetune_twin (text_hash bytea PRIMARY KEY, twin_of bytea NOT NULL, similarity double precision) ON COMMIT DROP;
    IF near IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO pg_temp.pg_finetune_twin
    SELECT t.* FROM @extschema@._near_twins(format(
        'SELECT t.content_hash, p.embedding FROM (SELECT DISTINCT ON (r.content_hash) r.content_hash, r.user_id, r.id, r.shown_at
             FROM pg_temp.pg_finetune_raw r WHERE r.state = ''taken'' ORDER BY r.content_hash, r.shown_at %1$s, r.user_id, r.id) t
         JOIN @extschema@.training_data_point p ON p.user_id = t.user_id AND p.id = t.id
         ORDER BY t.shown_at %1$s, t.content_hash', CASE keep WHEN 'latest' THEN 'DESC' ELSE 'ASC' END), near) t;
END
$$;
COMMENT ON FUNCTION _find_twins IS 'pg_finetune private: texts that are near copies of one that stays, in pg_temp.pg_finetune_twin';
REVOKE ALL ON FUNCTION _find_twins FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _find_twins TO finetune_admin;

-- All window functions are partitioned by user_id. The last action on a text counts, or what `conflicts` says where labels differ.
CREATE FUNCTION _judge_points(p jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' AS $$
DECLARE
    conflicts CONSTANT text := p ->> 'conflicts';
    earliest CONSTANT boolean := p ->> 'keep' = 'earliest';
    min_saved CONSTANT bigint := p ->> 'min_user_saved';
    min_skipped CONSTANT bigint := p ->> 'min_user_skipped';
    max_per_user CONSTANT bigint := p ->> 'max_per_user';
BEGIN
    CREATE TEMPORARY TABLE pg_finetune_point ON COMMIT DROP AS
    WITH texts AS (
        SELECT r.*, coalesce(t.twin_of, r.content_hash) AS text_key,
               -- of several copies the one with the wanted label first, then the last action; a shown item that was ignored says least
               CASE WHEN r.user_action = 'ignored' THEN 2 WHEN conflicts = 'positive' AND NOT r.label OR conflicts = 'negative' AND r.label THEN 1 ELSE 0 END AS rank
        FROM pg_temp.pg_finetune_raw r LEFT JOIN pg_temp.pg_finetune_twin t ON t.text_hash = r.content_hash
    ), copied AS (
        SELECT c.tid, c.user_id, c.id, c.content_hash, c.text_key, c.dims, c.shown_at, c.state,
               row_number() OVER (texts ORDER BY CASE WHEN earliest THEN c.shown_at END, CASE WHEN earliest THEN c.at END, c.shown_at DESC, c.at DESC, c.id) AS copy,
               first_value(c.user_action) OVER latest AS user_action, first_value(c.label) OVER latest AS label,
               first_value(c.at) OVER latest AS at, first_value(c.relevance_score) OVER latest AS relevance_score,
               first_value(c.surface) OVER latest AS surface, first_value(c.session_id) OVER latest AS session_id,
               bool_or(c.label) OVER texts AND bool_or(NOT c.label AND c.user_action <> 'ignored') OVER texts AS conflict
        FROM texts c
        WINDOW texts AS (PARTITION BY c.user_id, c.text_key, c.state),
               latest AS (texts ORDER BY c.rank, c.at DESC, c.shown_at DESC, c.id DESC)
    ), counted AS (
        SELECT e.*,
               count(*) FILTER (WHERE e.state = 'taken' AND e.copy = 1 AND e.label) OVER users AS user_saved,
               count(*) FILTER (WHERE e.state = 'taken' AND e.copy = 1 AND NOT e.label AND e.user_action <> 'ignored') OVER users AS user_skipped,
               CASE WHEN max_per_user IS NOT NULL THEN row_number() OVER (PARTITION BY e.user_id, e.state, e.copy = 1, e.label ORDER BY e.at DESC, e.id) END AS newest
        FROM copied e
        WINDOW users AS (PARTITION BY e.user_id)
    ), judged AS (
        SELECT c.tid, c.user_id, c.id, c.content_hash, c.text_key, c.dims, c.shown_at, c.copy, c.user_action, c.label, c.at,
               c.relevance_score, c.surface, c.session_id, c.conflict,
               CASE WHEN c.state <> 'taken' THEN c.state
                    WHEN c.conflict AND conflicts = 'drop' THEN 'conflict'
                    WHEN c.user_saved < min_saved OR c.user_skipped < min_skipped THEN 'user below minimum'
                    WHEN c.copy > 1 THEN 'duplicate'
                    -- both kinds keep their share of what a user may have
                    WHEN c.newest > greatest(1, round(max_per_user::numeric * CASE WHEN c.label THEN c.user_saved ELSE c.user_skipped END
                                                      / greatest(max_per_user, c.user_saved + c.user_skipped))) THEN 'over the cap'
                    ELSE 'taken' END AS state
        FROM counted c
    )
    SELECT j.*,
           -- where in the user's own history the action stands, in ten-thousandths: integers, so that means are exact
           (10000 * (2 * row_number() OVER history - 1) / (2 * count(*) OVER (PARTITION BY j.user_id, j.state)))::integer AS place
    FROM judged j
    WINDOW history AS (PARTITION BY j.user_id, j.state ORDER BY j.at, j.shown_at, j.id);
    -- Points are frozen in the order of these notes: user after user, as everything later reads them. Where the points are more than
    -- memory holds, in the order in which they lie, or each would cost a read of the disk.
    IF pg_table_size('@extschema@.training_data_point') > pg_size_bytes(current_setting('effective_cache_size')) THEN
        ALTER TABLE pg_temp.pg_finetune_point RENAME TO pg_finetune_scattered;
        CREATE TEMPORARY TABLE pg_finetune_point ON COMMIT DROP AS SELECT s.* FROM pg_temp.pg_finetune_scattered s ORDER BY s.tid;
        DROP TABLE pg_temp.pg_finetune_scattered;
    END IF;
    ANALYZE pg_temp.pg_finetune_point;
END
$$;
COMMENT ON FUNCTION _judge_points IS 'pg_finetune private: notes for every data point of a window whether it becomes an example, in pg_temp.pg_finetune_point';
REVOKE ALL ON FUNCTION _judge_points FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _judge_points TO finetune_admin;
