//! Nobody gets more rights through a capture than they had.

use super::*;

/// Roles and tables of an application whose owner is no superuser.
struct Tenancy {
    db: Database<'static>,
    sql: Client,
    owner: String,
    writer: String,
}

fn tenancy() -> Tenancy {
    let (db, mut sql) = application();
    let owner = Server::shared().create_role("owner", &["finetune_admin"]);
    let writer = Server::shared().create_role("writer", &[]);
    execute(
        &mut sql,
        &format!(
            "
        CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shop TO {writer};
        SET ROLE {owner};
        CREATE TABLE shop.item (signal_id int PRIMARY KEY, user_id text DEFAULT 'u', \
        chunk_content text DEFAULT 'text', user_action text);
        CREATE VIEW shop.v AS SELECT * FROM shop.item;
        GRANT SELECT, INSERT, UPDATE, DELETE ON shop.item TO {writer};
        RESET ROLE"
        ),
    );
    Tenancy { db, sql, owner, writer }
}

#[test]
fn writers_need_no_right_on_our_tables() {
    let Tenancy { db, mut sql, owner, writer } = tenancy();
    execute(&mut db.connect_as(&owner), "SELECT pgft.capture_signals('shop.item', via => 'shop.v')");
    let mut client = db.connect_as(&writer);
    execute(
        &mut client,
        "INSERT INTO shop.item VALUES (1), (2); \
        UPDATE shop.item SET user_action = 'saved' WHERE signal_id = 1; DELETE FROM shop.item WHERE signal_id = 2",
    );
    assert_eq!(points(&mut sql), ["1 saved 0"]);
    assert_eq!(expect_error(&mut client, "SELECT 1 FROM pgft.training_data_point").code, "42501");
}

#[test]
fn the_generated_function_is_of_no_use_to_others() {
    let Tenancy { db, mut sql, owner, writer } = tenancy();
    execute(&mut db.connect_as(&owner), "SELECT pgft.capture_signals('shop.item', via => 'shop.v')");
    let function: String =
        value(&mut sql, "SELECT oid::regprocedure::text FROM pg_proc WHERE proname LIKE 'pg_finetune_capture%'");
    execute(&mut sql, &format!("CREATE SCHEMA AUTHORIZATION {writer}"));
    let mut client = db.connect_as(&writer);
    execute(&mut client, &format!("CREATE TABLE {writer}.mine (signal_id int)"));
    let planted = format!(
        "CREATE TRIGGER t AFTER INSERT ON {writer}.mine REFERENCING NEW TABLE AS new_rows FOR \
        EACH STATEMENT EXECUTE FUNCTION {function}"
    );
    assert_eq!(expect_error(&mut client, &planted).code, "42501");
    let facts: String = value(
        &mut sql,
        "SELECT concat_ws(' ', proowner::regrole, prosecdef, \
        proconfig[1]) FROM pg_proc WHERE proname LIKE 'pg_finetune_capture%'",
    );
    assert_eq!(facts, format!("{owner} t search_path=pg_catalog, pg_temp"));
}

#[test]
fn a_superuser_does_not_lend_its_rights_to_a_view() {
    let Tenancy { db, mut sql, owner, .. } = tenancy();
    assert_error!(
        sql,
        "SELECT capture_signals('shop.item', via => 'shop.v')",
        "42501",
        &format!("SET ROLE {owner}"),
        "is not yours to capture"
    );
    execute(&mut sql, "CREATE VIEW ours AS SELECT * FROM shop.item");
    assert_error!(sql, "SELECT capture_signals('shop.item', via => 'ours')", "42501", "\"shop.item\" is not yours");
    assert_error!(
        db.connect_as(&owner),
        "SELECT pgft.capture_signals('public.signal', \
        via => 'public.signal_for_training')",
        "42501",
        "lacks TRIGGER ON public.signal, SELECT ON public.signal, SELECT ON public.signal_for_training, \
            CREATE ON SCHEMA public"
    );
}

/// The view of a superuser's capture comes into the hands of another role: it must not run any more.
#[test]
fn rights_are_checked_again_at_every_write() {
    let Tenancy { db, mut sql, owner, .. } = tenancy();
    execute(
        &mut sql,
        &format!(
            "SELECT capture_signals('signal', via => 'signal_for_training'); \
        ALTER VIEW signal_for_training OWNER TO {owner};
        GRANT SELECT ON signal, chunk TO {owner}; INSERT INTO signal (id) VALUES (1)"
        ),
    );
    assert_eq!(failures(&mut sql), ["INSERT 42501 {1}"]);
    assert_error!(sql, "SELECT backfill_signals('signal')", "42501", "is not yours to capture");
    execute(&mut sql, "ALTER VIEW signal_for_training OWNER TO postgres; SELECT backfill_signals('signal')");
    assert_eq!(points(&mut sql), ["1 - 0"]);

    execute(
        &mut db.connect_as(&owner),
        "
        CREATE FUNCTION shop.steal() RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE CURRENT_USER \
        SUPERUSER'; RETURN 'text'; END $$;
        CREATE VIEW shop.evil AS SELECT 2::bigint AS signal_id, 1 AS user_id, shop.steal() AS chunk_content, \
        NULL::text AS user_action;
        UPDATE pgft.capture_source SET via = 'shop.evil'",
    );
    execute(&mut sql, "INSERT INTO signal (id) VALUES (2)");
    assert_eq!(failures(&mut sql), ["INSERT 42501 {2}"], "an admin who points a capture elsewhere gains nothing");
}

#[test]
fn an_owner_who_loses_the_role_loses_the_capture() {
    let Tenancy { db, mut sql, owner, writer } = tenancy();
    execute(&mut db.connect_as(&owner), "SELECT pgft.capture_signals('shop.item', via => 'shop.v')");
    execute(&mut sql, &format!("REVOKE finetune_admin FROM {owner}"));
    execute(&mut db.connect_as(&writer), "INSERT INTO shop.item VALUES (1)");
    assert_eq!(points(&mut sql), none());
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM shop.item"), 1);
    let state = "SELECT state FROM capture_status";
    assert_eq!(value::<String>(&mut sql, state), format!("role lacks finetune_admin: {owner}"));
    execute(&mut sql, &format!("GRANT finetune_admin TO {owner}; ALTER VIEW shop.v OWNER TO {writer}"));
    assert_eq!(value::<String>(&mut sql, state), format!("owner is not {owner}: shop.v"));
    execute(&mut sql, &format!("ALTER VIEW shop.v OWNER TO {owner}"));
    assert_eq!(value::<String>(&mut sql, state), "capturing");
}

#[test]
fn only_admins_attach_and_only_the_attacher_stops() {
    let Tenancy { db, mut sql, owner, writer } = tenancy();
    for role in ["finetune_app", "finetune_analyst"] {
        let other = Server::shared().create_role("other", &[role]);
        assert_eq!(
            expect_error(&mut db.connect_as(&other), "SELECT pgft.capture_signals('shop.item', via => 'shop.v')").code,
            "42501"
        );
    }
    assert_eq!(expect_error(&mut db.connect_as(&writer), "SELECT pgft.stop_capturing('shop.item')").code, "42501");
    execute(&mut db.connect_as(&owner), "SELECT pgft.capture_signals('shop.item', via => 'shop.v')");
    let rival = Server::shared().create_role("rival", &["finetune_admin"]);
    execute(&mut sql, &format!("GRANT USAGE ON SCHEMA shop TO {rival}"));
    assert_error!(db.connect_as(&rival), "SELECT pgft.stop_capturing('shop.item')", "42501", &owner);
    assert_eq!(value::<String>(&mut sql, "SELECT state FROM capture_status"), "capturing");
    execute(&mut db.connect_as(&owner), "SELECT pgft.stop_capturing('shop.item')");
}

const EVIL: &str = "
    CREATE SCHEMA evil;
    CREATE TABLE evil.caught (what text);
    CREATE FUNCTION evil.spring(what text) RETURNS void LANGUAGE sql AS $$ INSERT INTO evil.caught VALUES (what) $$;
    CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.spring('=') ; SELECT true $$;
    CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
    CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
    CREATE FUNCTION evil.cat(text, text) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('||'); SELECT 'evil' $$;
    CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.cat);
    CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.spring('now'); \
    SELECT '2000-01-01Z'::timestamptz $$;
    CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS $$ SELECT \
    evil.spring('format'); SELECT 'evil' $$;
    CREATE FUNCTION evil.coalesce_text(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('coalesce') ; \
    SELECT 'evil' $$;
    CREATE FUNCTION evil.md5(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('md5'); SELECT 'evil' $$;
    CREATE FUNCTION evil.array_agg(text) RETURNS text[] LANGUAGE sql AS $$ SELECT evil.spring('array_agg'); \
    SELECT '{evil}'::text[] $$;
    CREATE FUNCTION evil.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS $$ SELECT evil.spring('unnest'); \
    SELECT 'evil' $$;
    CREATE FUNCTION evil.cardinality(text[]) RETURNS int LANGUAGE sql AS $$ SELECT evil.spring('cardinality'); \
    SELECT 1 $$;
    CREATE FUNCTION evil.octet_length(text) RETURNS int LANGUAGE sql AS $$ SELECT evil.spring('octet_length'); \
    SELECT 1 $$;
    CREATE FUNCTION evil.vector_norm(public.vector) RETURNS float8 LANGUAGE sql AS $$ SELECT \
    evil.spring('vector_norm'); SELECT 1::float8 $$;
    CREATE TABLE evil.training_data_point (LIKE pgft.training_data_point);
    CREATE TABLE evil.model_performance_log (LIKE pgft.model_performance_log);
    CREATE TABLE evil.capture_failure (LIKE pgft.capture_failure);
    CREATE TABLE evil.pg_class (oid oid);
    GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC;";

#[test]
fn a_hostile_search_path_changes_nothing() {
    let Tenancy { db, mut sql, owner, writer } = tenancy();
    execute(&mut sql, EVIL);
    let path = "SET search_path = evil, pg_catalog, public, pgft; \
        CREATE TEMP TABLE training_data_point (user_id text); CREATE TEMP TABLE pg_proc (oid oid);";
    let mut attacher = db.connect_as(&owner);
    execute(&mut attacher, path);
    execute(
        &mut attacher,
        "SELECT pgft.capture_signals('shop.item'::regclass, via => 'shop.v'::regclass); \
        SELECT pgft.backfill_signals('shop.item')",
    );
    let mut client = db.connect_as(&writer);
    execute(&mut client, path);
    execute(
        &mut client,
        "INSERT INTO shop.item VALUES (1, 'u', 'text', 'saved'), (2, 'u', 'text', 'liked'), (3, \
        'u', 'text', 'saved'); UPDATE shop.item SET user_action = 'skipped' WHERE signal_id OPERATOR(pg_catalog.=) \
        1; DELETE FROM shop.item WHERE signal_id OPERATOR(pg_catalog.=) 3",
    );
    execute(&mut attacher, "CALL pgft.backfill_signals_in_batches('shop.item')");
    execute(
        &mut attacher,
        "SELECT pgft.backfill_signals('shop.item'); \
        SELECT pgft.record_signal('u', 's', 'text', 'saved', '[1,2]'); SELECT pgft.record_satisfaction('u', 3); \
        SELECT * FROM pgft.capture_status; SELECT pgft.forget_user('nobody'); \
        SELECT pgft.stop_capturing('shop.item')",
    );
    assert_eq!(points(&mut sql), ["1 skipped 1", "s saved 0"]);
    assert_eq!(failures(&mut sql), ["INSERT 22023 {2}"]);
    assert_eq!(values::<String>(&mut sql, "SELECT DISTINCT what FROM evil.caught"), none());
    assert_eq!(value::<i64>(&mut sql, "SELECT count(*) FROM evil.training_data_point"), 0);
}

#[test]
fn two_functions_lend_the_rights_of_the_extension() {
    let (_db, mut sql) = application();
    let lent: Vec<String> = values(
        &mut sql,
        "SELECT p.proname::text FROM pg_proc p
         WHERE p.pronamespace = 'pgft'::regnamespace AND p.prosecdef
           AND p.proname ~ '(capture|signal|satisfaction|forget|_mapping)' ORDER BY 1",
    );
    assert_eq!(lent, ["_record_satisfaction", "_record_signal"]);
}
