-- What user_query() starts from: sums of what each user saved and skipped, kept up to date by triggers on the data points.
-- Writers only add rows and never wait for each other; a user's many rows are folded into one per action from time to time.

CREATE FUNCTION _profile_add(total bytea, embedding vector, sign integer) RETURNS bytea
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'profile_add_wrapper';
COMMENT ON FUNCTION _profile_add(bytea, vector, integer) IS 'pg_finetune private: a sum of unit vectors with one more (sign 1) or one less (-1); ERROR 22023 for other dimensions';
REVOKE ALL ON FUNCTION _profile_add(bytea, vector, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_add(bytea, vector, integer) TO finetune_admin;

CREATE FUNCTION _profile_merge(total bytea, other bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'profile_merge_wrapper';
COMMENT ON FUNCTION _profile_merge(bytea, bytea) IS 'pg_finetune private: the sum of two sums';
REVOKE ALL ON FUNCTION _profile_merge(bytea, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_merge(bytea, bytea) TO finetune_admin;

CREATE AGGREGATE _profile_total(vector, integer) (SFUNC = _profile_add, STYPE = bytea, COMBINEFUNC = _profile_merge, PARALLEL = SAFE);
COMMENT ON AGGREGATE _profile_total(vector, integer) IS 'pg_finetune private: sum of unit vectors in fixed point, each times its sign';
REVOKE ALL ON FUNCTION _profile_total(vector, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_total(vector, integer) TO finetune_admin;

CREATE AGGREGATE _profile_total(bytea) (SFUNC = _profile_merge, STYPE = bytea, COMBINEFUNC = _profile_merge, PARALLEL = SAFE);
COMMENT ON AGGREGATE _profile_total(bytea) IS 'pg_finetune private: sum of such sums';
REVOKE ALL ON FUNCTION _profile_total(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_total(bytea) TO finetune_admin;

CREATE FUNCTION _fold_profile(who text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Rows that somebody else is folding are left to them: their sum is the same. Above read committed, a row that is
    -- gone since the snapshot would be an error, and tidiness is no reason for one.
    IF current_setting('transaction_isolation') <> 'read committed'
       OR (SELECT count(*) FROM @extschema@.user_profile p WHERE p.user_id = who) <= 8 THEN
        RETURN;
    END IF;
    WITH gone AS (
        DELETE FROM @extschema@.user_profile p
        WHERE p.user_id = who
          AND p.id IN (SELECT q.id FROM @extschema@.user_profile q WHERE q.user_id = who FOR UPDATE SKIP LOCKED)
        RETURNING p.*
    ), folded AS (
        SELECT g.user_action, g.dimensions, sum(g.points) AS points, @extschema@._profile_total(g.total) AS total
        FROM gone g GROUP BY g.user_action, g.dimensions
    )
    INSERT INTO @extschema@.user_profile (user_id, user_action, dimensions, points, total)
    SELECT who, f.user_action, f.dimensions, f.points, f.total FROM folded f
    WHERE f.points <> 0 OR f.total <> decode(repeat('00', length(f.total)), 'hex');
END $$;
COMMENT ON FUNCTION _fold_profile(text) IS 'pg_finetune private: makes one row per action of a user''s many';
REVOKE ALL ON FUNCTION _fold_profile(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _fold_profile(text) TO finetune_admin;

CREATE FUNCTION _profile_rows_changed() RETURNS trigger
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part record;
    sign CONSTANT integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    -- One query reads the transition table and another one writes: a distributed plan cannot do both at once.
    FOR part IN
        SELECT c.user_id, c.user_action, @extschema:vector@.vector_dims(c.embedding) AS dimensions,
               sign * count(*) AS points, @extschema@._profile_total(c.embedding, sign) AS total
        FROM changed_rows c
        WHERE c.user_action IS NOT NULL AND c.embedding IS NOT NULL AND @extschema:vector@.vector_norm(c.embedding) > 0
        GROUP BY 1, 2, 3
    LOOP
        INSERT INTO @extschema@.user_profile (user_id, user_action, dimensions, points, total)
        VALUES (part.user_id, part.user_action, part.dimensions, part.points, part.total);
        PERFORM @extschema@._fold_profile(part.user_id);
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION _profile_rows_changed() IS 'pg_finetune private: brings user_profile in line with data points that came or went';
REVOKE ALL ON FUNCTION _profile_rows_changed() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_rows_changed() TO finetune_admin;

CREATE FUNCTION _profile_row_changed() RETURNS trigger
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.user_profile (user_id, user_action, dimensions, points, total)
    SELECT c.user_id, c.user_action, @extschema:vector@.vector_dims(c.embedding), sum(c.sign), @extschema@._profile_total(c.embedding, c.sign)
    FROM (VALUES (OLD.user_id, OLD.user_action, OLD.embedding, -1), (NEW.user_id, NEW.user_action, NEW.embedding, 1))
         c(user_id, user_action, embedding, sign)
    WHERE c.user_action IS NOT NULL AND c.embedding IS NOT NULL AND @extschema:vector@.vector_norm(c.embedding) > 0
    GROUP BY 1, 2, 3;
    PERFORM @extschema@._fold_profile(NEW.user_id);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION _profile_row_changed() IS 'pg_finetune private: brings user_profile in line with a data point whose action or vector changed';
REVOKE ALL ON FUNCTION _profile_row_changed() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_row_changed() TO finetune_admin;

CREATE FUNCTION _keeps_profiles() RETURNS boolean
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'keeps_profiles_wrapper';
COMMENT ON FUNCTION _keeps_profiles() IS 'pg_finetune private: whether the running statement is that of capture, which adds to profiles by itself, many rows at once';
REVOKE ALL ON FUNCTION _keeps_profiles() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _keeps_profiles() TO finetune_admin;

CREATE FUNCTION _fold_profiles(users text[]) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who text;
BEGIN
    FOR who IN SELECT p.user_id FROM @extschema@.user_profile p WHERE p.user_id = ANY (users) GROUP BY p.user_id HAVING count(*) > 8 LOOP
        PERFORM @extschema@._fold_profile(who);
    END LOOP;
END $$;
COMMENT ON FUNCTION _fold_profiles(text[]) IS 'pg_finetune private: the same for those of these users who have many rows';
REVOKE ALL ON FUNCTION _fold_profiles(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _fold_profiles(text[]) TO finetune_admin;

CREATE FUNCTION _profile_truncated() RETURNS trigger
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @extschema@.user_profile;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION _profile_truncated() IS 'pg_finetune private: no data points, no profiles';
REVOKE ALL ON FUNCTION _profile_truncated() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_truncated() TO finetune_admin;

CREATE TRIGGER profile_insert AFTER INSERT ON training_data_point
    REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION _profile_rows_changed();
COMMENT ON TRIGGER profile_insert ON training_data_point IS 'keeps user_profile';
CREATE TRIGGER profile_delete AFTER DELETE ON training_data_point
    REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION _profile_rows_changed();
COMMENT ON TRIGGER profile_delete ON training_data_point IS 'keeps user_profile';
-- By row and only where it matters: create_dataset() marks a million rows in one statement.
CREATE TRIGGER profile_update AFTER UPDATE OF user_id, user_action, embedding ON training_data_point FOR EACH ROW
    WHEN ((OLD.user_id IS DISTINCT FROM NEW.user_id OR OLD.user_action IS DISTINCT FROM NEW.user_action
           OR OLD.embedding IS DISTINCT FROM NEW.embedding) AND NOT _keeps_profiles())
    EXECUTE FUNCTION _profile_row_changed();
COMMENT ON TRIGGER profile_update ON training_data_point IS 'keeps user_profile';
CREATE TRIGGER profile_truncate AFTER TRUNCATE ON training_data_point FOR EACH STATEMENT EXECUTE FUNCTION _profile_truncated();
COMMENT ON TRIGGER profile_truncate ON training_data_point IS 'keeps user_profile';

CREATE FUNCTION rebuild_profiles() RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    users bigint;
BEGIN
    PERFORM @extschema@._require_role('rebuild_profiles', 'finetune_admin');
    LOCK TABLE @extschema@.training_data_point IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM @extschema@.user_profile;
    INSERT INTO @extschema@.user_profile (user_id, user_action, dimensions, points, total)
    SELECT p.user_id, p.user_action, @extschema:vector@.vector_dims(p.embedding), count(*), @extschema@._profile_total(p.embedding, 1)
    FROM @extschema@.training_data_point p
    WHERE p.user_action IS NOT NULL AND p.embedding IS NOT NULL AND @extschema:vector@.vector_norm(p.embedding) > 0
    GROUP BY 1, 2, 3;
    SELECT count(DISTINCT p.user_id) INTO users FROM @extschema@.user_profile p;
    RETURN users;
END $$;
COMMENT ON FUNCTION rebuild_profiles() IS 'Computes every user''s profile anew from the data points, for databases that were filled with triggers off (pg_restore --disable-triggers, logical replication); returns how many users have one';
GRANT EXECUTE ON FUNCTION rebuild_profiles() TO finetune_admin;

CREATE FUNCTION _last_dimensions(who text) RETURNS integer
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT @extschema:vector@.vector_dims(p.embedding) FROM @extschema@.training_data_point p
            WHERE p.user_id = who AND p.user_action IN ('saved', 'snipped') AND p.embedding IS NOT NULL
              AND @extschema:vector@.vector_norm(p.embedding) > 0
            ORDER BY p.actioned_at DESC NULLS LAST LIMIT 1);
END $$;
COMMENT ON FUNCTION _last_dimensions(text) IS 'pg_finetune private: dimensions of the vector a user saved last: the embedding model in use';
REVOKE ALL ON FUNCTION _last_dimensions(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _last_dimensions(text) TO finetune_app;
