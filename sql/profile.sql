-- What user_query() starts from: sums of what each user saved and skipped, kept up to date by triggers on the data points.
-- One row per user, action and dimensions is the rule. Writers never wait for each other: who finds that row being changed adds
-- another one, and the next writer makes one of the two (src/api/profile_upkeep.rs).

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

CREATE FUNCTION _add_to_profile(who text, action text, dimensions integer, points bigint, total bytea) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.user_profile (user_id, user_action, dimensions, points, total) VALUES (who, action, dimensions, points, total);
    PERFORM @extschema@._fold_profile(who);
END $$;
COMMENT ON FUNCTION _add_to_profile(text, text, integer, bigint, bytea) IS 'pg_finetune private: the way of the triggers where user_profile is not as it was made: distributed, or with more on it';
REVOKE ALL ON FUNCTION _add_to_profile(text, text, integer, bigint, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _add_to_profile(text, text, integer, bigint, bytea) TO finetune_admin;

CREATE FUNCTION _profile_note() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'profile_note_wrapper';
COMMENT ON FUNCTION _profile_note() IS 'pg_finetune private: row trigger of data points: notes what the written row adds to a profile and takes away';
REVOKE ALL ON FUNCTION _profile_note() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_note() TO finetune_admin;

CREATE FUNCTION _profile_write() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'profile_write_wrapper';
COMMENT ON FUNCTION _profile_write() IS 'pg_finetune private: statement trigger of data points: adds what was noted to the profiles';
REVOKE ALL ON FUNCTION _profile_write() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_write() TO finetune_admin;

CREATE FUNCTION _profile_truncated() RETURNS trigger
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @extschema@.user_profile;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION _profile_truncated() IS 'pg_finetune private: no data points, no profiles';
REVOKE ALL ON FUNCTION _profile_truncated() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _profile_truncated() TO finetune_admin;

-- Without a WHEN clause, which is parsed anew for each statement. create_dataset() marks a million rows and fires none of these.
CREATE TRIGGER profile_note AFTER INSERT OR DELETE OR UPDATE OF user_id, user_action, embedding ON training_data_point
    FOR EACH ROW EXECUTE FUNCTION _profile_note();
COMMENT ON TRIGGER profile_note ON training_data_point IS 'keeps user_profile';
CREATE TRIGGER profile_write AFTER INSERT OR DELETE OR UPDATE OF user_id, user_action, embedding ON training_data_point
    FOR EACH STATEMENT EXECUTE FUNCTION _profile_write();
COMMENT ON TRIGGER profile_write ON training_data_point IS 'keeps user_profile';
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
