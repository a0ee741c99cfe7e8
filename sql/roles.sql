-- Who may call what. PUBLIC may execute the functions that begin with this check and no others: whoever lacks the role then reads which
-- one, not only "permission denied". What such a function may touch is still up to the caller's rights on the tables.

CREATE FUNCTION _require_role(function text, VARIADIC roles text[]) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY roles LOOP
        IF pg_has_role(current_user, role, 'USAGE') THEN
            RETURN;
        END IF;
    END LOOP;
    RAISE EXCEPTION USING
        ERRCODE = 'insufficient_privilege',
        MESSAGE = format('permission denied for function %s', function),
        DETAIL = format('It takes the role %s; %I is not a member.', array_to_string(roles, ' or '), current_user),
        HINT = format('Ask a superuser for: GRANT %I TO %I;', roles[1], current_user);
END
$$;
COMMENT ON FUNCTION _require_role IS 'pg_finetune private: refuses callers without any of these roles, and says which one to ask for';
