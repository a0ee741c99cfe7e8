//! Installing and removing: any schema, any search_path, with and without preload; dump and restore.

mod common;

use common::*;
use std::thread;

#[test]
fn works_at_once_in_the_default_schema() {
    let db = Server::shared().create_database("default");
    let mut client = db.connect();
    execute(&mut client, "CREATE EXTENSION pg_finetune CASCADE");
    assert_eq!(value::<String>(&mut client, "SELECT assign_variant('user-1')"), "base");
    assert_eq!(
        value::<String>(
            &mut client,
            "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
        ),
        "public"
    );
}

#[test]
fn works_in_a_schema_of_any_name() {
    let db = Server::shared().create_database("odd");
    let mut client = db.connect();
    execute(
        &mut client,
        "CREATE SCHEMA \"Vektoren & mehr\"; CREATE EXTENSION vector SCHEMA \"Vektoren & mehr\";
         CREATE SCHEMA \"Odd Schema ü\"; CREATE EXTENSION pg_finetune SCHEMA \"Odd Schema ü\";",
    );
    live(&mut client, "Odd Schema ü", "\"Vektoren & mehr\".vector");
}

#[test]
fn survives_a_hostile_search_path_of_the_role() {
    let server = Server::shared();
    let db = server.create_database("hostile_role");
    let role = server.create_role("hostile", &[]);
    prepare_hostile(&mut db.connect());
    execute(
        &mut db.connect(),
        &format!("ALTER ROLE {role} SUPERUSER; ALTER ROLE {role} SET search_path = {HOSTILE_PATH}"),
    );
    let mut client = db.connect_as(&role);
    install_hostile(&mut client);
    live(&mut client, "pgft", "public.vector");
}

#[test]
fn survives_a_hostile_search_path_of_the_database_with_preload() {
    let server = Server::private(&[("shared_preload_libraries", "pg_finetune")]);
    let db = server.create_database("hostile_database");
    prepare_hostile(&mut db.connect());
    execute(&mut db.connect(), &format!("ALTER DATABASE {} SET search_path = {HOSTILE_PATH}", db.name));
    let mut client = db.connect();
    install_hostile(&mut client);
    live(&mut client, "pgft", "public.vector");
    assert!(!server.log().contains("hostile object was used"), "{}", server.log());
}

#[test]
fn every_function_answers_nulls_with_a_proper_error() {
    let db = Server::shared().create_database("nulls");
    let mut client = db.install("pgft");
    // The database's own limit, so that it holds for what a function starts as well.
    execute(&mut client, "SET statement_timeout = '20s'");
    let calls: Vec<String> = values(&mut client, CALLS_WITH_NULLS);
    assert!(calls.len() > 40, "{calls:?}");
    let mut offenders = Vec::new();
    for call in calls {
        let Err(error) = client.batch_execute(&call) else { continue };
        let error = SqlError::from(error);
        let improper =
            error.code.starts_with("XX") || ["42883", "42703", "42P01", "P0001", "57014"].contains(&&*error.code);
        if improper || error.hint.is_none() {
            offenders.push(format!("{call}\n    {error:?}"));
        }
    }
    assert!(offenders.is_empty(), "{}", offenders.join("\n"));
}

/// A statement for each function of the surface that calls it with nothing but NULLs.
const CALLS_WITH_NULLS: &str = "
    SELECT CASE p.prokind WHEN 'p' THEN 'CALL ' WHEN 'a' THEN 'SELECT ' ELSE 'SELECT * FROM ' END || p.oid::regproc || '(' ||
           coalesce((SELECT string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY o)
                     FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a(t, o)), '') || ')'
    FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'pg_finetune'
    WHERE p.proname NOT LIKE '\\_%' AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
    ORDER BY 1";

#[test]
fn refuses_other_encodings() {
    let db = Server::shared().create_database_with("latin1", "TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
    let mut client = db.connect();
    assert_error!(client, "CREATE EXTENSION pg_finetune CASCADE", "0A000", "LATIN1", "UTF8");
}

#[test]
fn two_databases_install_at_the_same_moment() {
    let server = Server::private(&[]);
    let databases: Vec<_> = (0..4).map(|_| server.create_database("together")).collect();
    thread::scope(|scope| {
        for db in &databases {
            scope.spawn(|| drop(db.install("pgft")));
        }
    });
}

#[test]
fn leaves_nothing_behind() {
    let db = Server::shared().create_database("drop");
    let mut client = db.install("pgft");
    execute(&mut client, "DROP EXTENSION pg_finetune");
    let left = "SELECT relname::text FROM pg_class WHERE relnamespace = 'pgft'::regnamespace
                UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'pgft'::regnamespace
                UNION ALL SELECT typname::text FROM pg_type WHERE typnamespace = 'pgft'::regnamespace
                UNION ALL SELECT evtname::text FROM pg_event_trigger UNION ALL SELECT fdwname::text FROM pg_foreign_data_wrapper";
    assert_eq!(values::<String>(&mut client, left), Vec::<String>::new());
    execute(&mut client, "CREATE EXTENSION pg_finetune SCHEMA pgft");
}

#[test]
fn dump_and_restore_keep_every_row() {
    let server = Server::shared();
    let (from, to) = (server.create_database("dumped"), server.create_database("restored"));
    let mut source = from.install("pgft");
    live(&mut source, "pgft", "public.vector");
    from.restore_into(&to);

    let mut target = to.connect();
    execute(&mut source, "SET search_path = public");
    let tables: Vec<String> = values(&mut source, OWN_TABLES);
    assert!(tables.len() > 15, "{tables:?}");
    for table in tables {
        let rows = format!("SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM ({table}) t");
        let (before, after): (String, String) = (value(&mut source, &rows), value(&mut target, &rows));
        assert_eq!(after, before, "{table}");
    }
    // The capture goes on where it was, the worker does not: two copies must not train or pay for the same job.
    execute(&mut target, &format!("INSERT INTO app.signal VALUES {}", signals(400..420)));
    assert_eq!(value::<i64>(&mut target, "SELECT count(*) FROM pgft.capture_failure"), 0);
    assert_eq!(
        value::<i64>(&mut target, "SELECT count(*) FROM pgft.training_data_point WHERE signal_id ~ '^4\\d\\d$'"),
        18,
        "twenty less the two of user-2, who was forgotten and stays so in the copy"
    );
}

/// Queries for all that a dump takes of our tables and sequences. A restored database adds its own row to installation.
const OWN_TABLES: &str = "
    SELECT CASE relkind WHEN 'r' THEN 'SELECT * FROM ' ELSE 'SELECT last_value, is_called FROM ' END || c.oid::regclass
           || ' ' || condition
    FROM pg_extension e, unnest(e.extconfig, e.extcondition) u(relation, condition) JOIN pg_class c ON c.oid = u.relation
    WHERE e.extname = 'pg_finetune' AND relname <> 'installation' ORDER BY 1";

/// First columns of what a query returns, as text; asks nothing of the catalog, as `values` would.
fn texts(client: &mut Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}:\n{}", explain(&error)));
    let rows = messages.iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_string()),
        _ => None,
    });
    rows.collect()
}

/// One round through the surface, from captured signals to a trained model, with names in full and no operator.
fn live(client: &mut Client, schema: &str, vector: &str) {
    let s = quoted(schema);
    assert_eq!(texts(client, &format!("SELECT {s}.assign_variant('user-1')")), ["base"]);
    execute(
        client,
        &format!(
            "CREATE SCHEMA app;
             CREATE TABLE app.signal (id bigint PRIMARY KEY, user_id pg_catalog.text, content pg_catalog.text,
                                      action pg_catalog.text, embedding {vector});
             CREATE VIEW app.mapping AS SELECT id AS signal_id, user_id, content AS chunk_content, embedding,
                 action AS user_action FROM app.signal;"
        ),
    );
    let insert = |ids: std::ops::Range<i32>| format!("INSERT INTO app.signal VALUES {}", signals(ids));
    execute(client, &insert(0..60));
    execute(client, &format!("SELECT {s}.capture_signals('app.signal', via => 'app.mapping')"));
    assert_eq!(texts(client, &format!("SELECT {s}.backfill_signals('app.signal')")), ["60"]);
    execute(client, &insert(60..400));
    execute(client, "TRUNCATE app.signal; ");
    execute(client, &insert(0..400));
    assert_eq!(texts(client, &format!("SELECT signal_ids FROM {s}.capture_failure")), Vec::<String>::new());
    assert_eq!(texts(client, &format!("SELECT id FROM {s}.training_data_point")).len(), 400);

    execute(client, &format!("SELECT {s}.create_dataset('picks', min_user_saved => 2)"));
    assert!(!texts(client, &format!("SELECT user_id FROM {s}.contrastive_triplets('picks')")).is_empty());
    assert!(!texts(client, &format!("SELECT * FROM {s}.export_jsonl('picks')")).is_empty());
    let job = texts(client, &format!("SELECT {s}.fine_tune('picks')")).remove(0);
    execute(client, &format!("CALL {s}.run_due_work()"));
    execute(
        client,
        &format!("SET statement_timeout = '120s'; CALL {s}.wait_for_job('{job}'); RESET statement_timeout"),
    );
    assert_eq!(texts(client, &format!("SELECT state FROM {s}.fine_tuning_jobs")), ["succeeded"]);

    execute(client, &format!("SELECT {s}.model_metrics()"));
    execute(client, &format!("SELECT {s}.worker_status()"));
    execute(client, &format!("SELECT {s}.user_query('user-1')"));
    execute(client, &format!("SELECT {s}.record_satisfaction('user-1', 4)"));
    execute(client, &format!("SELECT {s}.record_signal('user-1', 'own-1', 'a text', 'saved')"));
    execute(client, &format!("SELECT {s}.schedule_retraining('weekly')"));
    execute(client, &format!("SELECT {s}.forget_user('user-2')"));
}

/// Rows of ten users who each save one of two kinds of items and skip the other.
fn signals(ids: std::ops::Range<i32>) -> String {
    let row = |id: i32| {
        let (user, kind, noise) = (id % 10, id / 10 % 2, f64::from(id * 37 % 101) / 300.0);
        let action = if (user + kind) % 2 == 0 { "saved" } else { "skipped" };
        let (x, y) = if kind == 0 { (1.0, noise) } else { (noise, 1.0) };
        format!("({id}, 'user-{user}', 'item {id}', '{action}', '[{x},{y},{noise},0.5]')")
    };
    ids.map(row).collect::<Vec<_>>().join(", ")
}

const HOSTILE_PATH: &str = "evil, pg_catalog, public";

/// A schema in which every function and operator of pg_catalog, and the usual types, exist once more and raise.
fn prepare_hostile(client: &mut Client) {
    execute(
        client,
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.never() RETURNS boolean LANGUAGE plpgsql AS
             $$BEGIN RAISE 'a hostile object was used' USING ERRCODE = 'EV666'; END$$;
         DO $$
         DECLARE
             made record;
         BEGIN
             FOR made IN
                 SELECT format('CREATE FUNCTION evil.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS $f$BEGIN PERFORM evil.never(); END$f$',
                               p.proname, pg_get_function_identity_arguments(p.oid), CASE WHEN p.proretset THEN 'SETOF' END,
                               format_type(p.prorettype, NULL)) AS function
                 FROM pg_proc p
                 WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.proargmodes IS NULL
                   AND NOT EXISTS (SELECT FROM unnest(p.proargtypes || p.prorettype) t JOIN pg_type y ON y.oid = t
                                   WHERE y.typtype = 'p')
             LOOP
                 EXECUTE made.function;
             END LOOP;
             FOR made IN
                 SELECT format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.%I)', o.oprname,
                               format_type(o.oprleft, NULL), format_type(o.oprright, NULL), p.proname) AS operator
                 FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode
                 JOIN pg_proc e ON e.proname = p.proname AND e.proargtypes = p.proargtypes
                 WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b'
                   AND e.pronamespace = 'evil'::regnamespace
             LOOP
                 EXECUTE made.operator;
             END LOOP;
             FOR made IN
                 SELECT format('CREATE DOMAIN evil.%I AS pg_catalog.%I CHECK (evil.never())', t, t) AS type
                 FROM unnest(ARRAY['text', 'name', 'uuid', 'jsonb', 'regclass', 'timestamptz', 'int8', 'float8']) t
             LOOP
                 EXECUTE made.type;
             END LOOP;
         END
         $$;",
    );
}

/// Installs in a session with the hostile path, then hides our own relations behind hostile ones of the same names.
fn install_hostile(client: &mut Client) {
    execute(
        client,
        "CREATE SCHEMA pgft; CREATE EXTENSION vector SCHEMA public; CREATE EXTENSION pg_finetune SCHEMA pgft",
    );
    let hide = "SET search_path = pg_catalog;
                DO $$
                DECLARE
                    hidden name;
                BEGIN
                    FOR hidden IN SELECT relname FROM pg_class WHERE relnamespace = 'pgft'::regnamespace AND relkind IN ('r', 'v') LOOP
                        EXECUTE format('CREATE VIEW evil.%I AS SELECT evil.never()', hidden);
                    END LOOP;
                END
                $$;
                RESET search_path";
    execute(client, hide);
    assert_eq!(expect_error(client, "SELECT lower('A')").code, "EV666");
}
