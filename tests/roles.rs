//! Whoever lacks a role is told which one, by every function that an application, an analyst or an administrator calls.

mod common;

use common::*;

/// Every public function but those that only compute, as a call with some value for each argument.
const CALLS: &str = "
    SELECT p.proname::text, format('%s pgft.%I(%s)', CASE p.prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END, p.proname,
        (SELECT string_agg(format('%L::%s', CASE t.typname WHEN 'text' THEN 'x' WHEN 'name' THEN 'x' WHEN 'vector' THEN '[1,0]' WHEN 'jsonb' THEN '{}'
                    WHEN 'uuid' THEN '00000000-0000-0000-0000-000000000000' WHEN 'regclass' THEN 'pg_class' WHEN 'bool' THEN 'true'
                    WHEN 'timestamptz' THEN '2026-01-01' WHEN 'interval' THEN '1 day' ELSE CASE t.typcategory WHEN 'A' THEN '{}' ELSE '1' END END,
                  format_type(t.oid, NULL)), ', ' ORDER BY i)
         FROM unnest(p.proargtypes) WITH ORDINALITY a (type, i) JOIN pg_type t ON t.oid = a.type))
    FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
    JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    WHERE e.extname = 'pg_finetune' AND d.deptype = 'e' AND NOT starts_with(p.proname, '_') AND p.provolatile <> 'i'
    ORDER BY 1";

#[test]
fn a_stranger_reads_which_role_to_ask_for() {
    let db = Server::shared().create_database("roles");
    let mut admin = db.install("pgft");
    execute(&mut admin, "GRANT USAGE ON SCHEMA pgft TO PUBLIC; SET search_path = pgft, public");
    let stranger = Server::shared().create_role("stranger", &[]);
    let mut client = db.connect_as(&stranger);

    let calls: Vec<(String, String)> =
        admin.query(CALLS, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(calls.len() > 40, "{calls:?}");
    for (name, call) in calls {
        let member = format!("; {stranger} is not a member.");
        let error = assert_error!(
            client,
            &call,
            "42501",
            "It takes the role finetune_",
            &member,
            "Ask a superuser for: GRANT finetune_"
        );
        assert_eq!(error.message, format!("permission denied for function {name}"), "{call}");
    }
}

#[test]
fn the_hint_is_the_command_that_helps() {
    let server = Server::shared();
    let db = server.create_database("roles");
    let mut admin = db.install("pgft");
    execute(&mut admin, "GRANT USAGE ON SCHEMA pgft TO PUBLIC");
    let newcomer = server.create_role("newcomer", &[]);
    let mut client = db.connect_as(&newcomer);
    for call in ["SELECT pgft.model_for('ann')", "SELECT * FROM pgft.model_metrics()", "SELECT pgft.pause_worker()"] {
        let hint = expect_error(&mut client, call).hint.unwrap();
        execute(&mut admin, hint.strip_prefix("Ask a superuser for: ").expect(&hint));
        execute(&mut client, call);
    }
}
