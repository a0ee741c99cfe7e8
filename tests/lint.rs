//! Rules that every object of the extension keeps, asked from the catalog of a fresh installation.
//! Each query returns what breaks the rule.

mod common;

use common::*;
use std::sync::OnceLock;

/// Functions that refuse callers without a role in Rust; tests/roles.rs calls them all.
const CHECKED_IN_RUST: [&str; 11] = [
    "adapt",
    "assign_variant",
    "check_provider",
    "contrastive_triplets",
    "evaluate_model",
    "export_jsonl",
    "reembed",
    "relevance_score",
    "run_due_work",
    "triplet_plan",
    "user_query",
];

/// Functions whose result depends on nothing but their arguments: a distributed plan pushes them down.
const PURE: [&str; 1] = ["bucket"];

const CLASSES: [&str; 3] = ["data", "config", "state"];

/// Objects of the extension, and which class each table is of: that of the file which creates it.
const VIEWS: &str = "
    CREATE SCHEMA lint;
    CREATE VIEW lint.member AS
        SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS name
        FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
        WHERE e.extname = 'pg_finetune' AND d.deptype = 'e';
    CREATE VIEW lint.function AS
        SELECT p.*, p.oid::regprocedure::text AS name, l.lanname
        FROM pg_proc p JOIN lint.member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
        JOIN pg_language l ON l.oid = p.prolang;
    CREATE VIEW lint.relation AS
        SELECT c.*, c.oid::regclass::text AS name
        FROM pg_class c JOIN lint.member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid;
    CREATE TABLE lint.class (relation oid PRIMARY KEY, class text NOT NULL);
";

/// Connection to a database with the extension and the views above, made once for all tests here.
fn catalog() -> Client {
    static NAME: OnceLock<String> = OnceLock::new();
    let name = NAME.get_or_init(|| {
        let db = Server::shared().create_database("lint");
        let mut client = db.install("pgft");
        execute(&mut client, VIEWS);
        for class in CLASSES {
            for table in tables_of(class) {
                let sql = "INSERT INTO lint.class SELECT $1::text::regclass, $2";
                client.execute(sql, &[&table, &class]).unwrap_or_else(|e| panic!("{table}: {}", explain(&e)));
            }
        }
        let name = db.name.clone();
        std::mem::forget(db); // lives as long as the cluster
        name
    });
    let mut client = Server::shared().connect(name);
    execute(&mut client, "SET search_path = pgft, public");
    client
}

/// Tables that sql/tables_CLASS.sql creates.
fn tables_of(class: &str) -> Vec<String> {
    let text = read(&format!("sql/tables_{class}.sql"));
    let lines = text.lines().filter_map(|line| line.strip_prefix("CREATE TABLE "));
    lines.map(|rest| rest.split([' ', '(']).next().unwrap().to_string()).collect()
}

/// Fails with the rule and all that break it.
fn assert_none(rule: &str, query: &str) {
    let offenders: Vec<String> = values(&mut catalog(), query);
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn every_object_has_a_comment() {
    assert_none(
        "without COMMENT",
        "SELECT m.name FROM lint.member m
         WHERE obj_description(m.objid, m.classid::regclass::text::name) IS NULL
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = m.classid AND d.objid = m.objid
                           AND d.deptype IN ('a', 'i')) -- an identity column's sequence
         ORDER BY 1",
    );
}

#[test]
fn public_meets_a_check_of_roles() {
    // What is immutable reads no table: it is harmless.
    let checked = CHECKED_IN_RUST.map(|name| format!("'{name}'")).join(", ");
    assert_none(
        "PUBLIC may execute, and no role is asked for first",
        &format!(
            "SELECT f.name FROM lint.function f, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a
             WHERE a.grantee = 0 AND f.provolatile <> 'i' AND f.proname NOT IN ({checked}, '_require_role')
               AND NOT f.prosrc ~ format('^\\s*(#\\w+ \\w+\\s+)?(DECLARE\\M((?!\\mBEGIN\\M).)*)?BEGIN\\s+PERFORM pgft\\._require_role\\(''%s'', ', f.proname) ORDER BY 1"
        ),
    );
    assert_none(
        "PUBLIC may execute with the owner's rights",
        "SELECT f.name FROM lint.function f, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a
         WHERE a.grantee = 0 AND f.prosecdef ORDER BY 1",
    );
}

#[test]
fn functions_pin_their_search_path() {
    // A procedure that commits may not have a SET clause; it qualifies every name and operator instead.
    assert_none(
        "without SET search_path = pg_catalog, pg_temp",
        "SELECT f.name FROM lint.function f
         WHERE f.lanname IN ('sql', 'plpgsql') AND f.prosqlbody IS NULL
           AND NOT (f.prokind = 'p' AND f.prosrc ~* '\\m(commit|call)\\M')
           AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (f.proconfig), false)
         ORDER BY 1",
    );
    assert_none(
        "SECURITY DEFINER without a pinned search_path",
        "SELECT f.name FROM lint.function f
         WHERE f.prosecdef AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (f.proconfig), false) ORDER BY 1",
    );
}

#[test]
fn immutable_functions_are_parallel_safe() {
    assert_none(
        "IMMUTABLE but not PARALLEL SAFE",
        "SELECT f.name FROM lint.function f WHERE f.provolatile = 'i' AND f.proparallel <> 's' ORDER BY 1",
    );
    for name in PURE {
        assert_none(
            "pure but not IMMUTABLE",
            &format!("SELECT f.name FROM lint.function f WHERE f.proname = '{name}' AND f.provolatile <> 'i'"),
        );
    }
}

#[test]
fn aggregates_combine_and_keep_a_plain_state() {
    assert_none(
        "aggregate that cannot be split over processes or nodes",
        "SELECT f.name FROM lint.function f JOIN pg_aggregate a ON a.aggfnoid = f.oid
         WHERE a.aggtranstype = 'internal'::regtype OR a.aggcombinefn = 0 OR f.proparallel <> 's' ORDER BY 1",
    );
}

#[test]
fn sql_functions_leave_data_tables_alone() {
    // With parameters, a distributed planner refuses to inline such a function: PL/pgSQL is for them.
    assert_none(
        "LANGUAGE sql with parameters over a data table",
        "SELECT f.name || ': ' || c.relation::regclass FROM lint.function f JOIN lint.class c ON c.class = 'data'
         WHERE f.lanname = 'sql' AND f.pronargs > 0 AND f.prokind = 'f'
           AND pg_get_functiondef(f.oid) ~ ('\\m' || c.relation::regclass || '\\M') ORDER BY 1",
    );
}

#[test]
fn tables_and_sequences_are_dumped() {
    assert_none(
        "without pg_extension_config_dump",
        "SELECT r.name FROM lint.relation r, pg_extension e
         WHERE e.extname = 'pg_finetune' AND r.relkind IN ('r', 'p', 'S') AND NOT r.oid = ANY (e.extconfig) ORDER BY 1",
    );
}

#[test]
fn relations_are_not_for_public() {
    assert_none(
        "PUBLIC has rights on",
        "SELECT r.name FROM lint.relation r,
             aclexplode(coalesce(r.relacl, acldefault(CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", r.relowner))) a
         WHERE a.grantee = 0 ORDER BY 1",
    );
}

#[test]
fn roles_have_their_rights() {
    assert_none(
        "an analyst cannot read",
        "SELECT r.name FROM lint.relation r, pg_roles a
         WHERE a.rolname ~ 'finetune_analyst$' AND r.relkind IN ('r', 'v', 'm')
           AND NOT has_table_privilege(a.oid, r.oid, 'SELECT') ORDER BY 1",
    );
    assert_none(
        "an admin cannot change",
        "SELECT r.name || ': ' || p FROM lint.relation r, pg_roles a, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
         WHERE a.rolname ~ 'finetune_admin$' AND r.relkind = 'r' AND NOT has_table_privilege(a.oid, r.oid, p) ORDER BY 1",
    );
    assert_none(
        "an application may write directly, or read what users did",
        "SELECT r.name FROM lint.relation r LEFT JOIN lint.class c ON c.relation = r.oid, pg_roles a
         WHERE a.rolname ~ 'finetune_app$' AND r.relkind = 'r'
           AND (has_table_privilege(a.oid, r.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
                OR c.class = 'data' AND has_table_privilege(a.oid, r.oid, 'SELECT')) ORDER BY 1",
    );
}

#[test]
fn every_table_is_of_one_class() {
    assert_none(
        "created outside sql/tables_{data,config,state}.sql",
        "SELECT r.name FROM lint.relation r
         WHERE r.relkind IN ('r', 'p') AND r.oid NOT IN (SELECT relation FROM lint.class) ORDER BY 1",
    );
}

#[test]
fn data_tables_are_keyed_by_user() {
    assert_none(
        "data table whose user_id is not text NOT NULL",
        "SELECT c.relation::regclass::text FROM lint.class c
         WHERE c.class = 'data' AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.relation
             AND a.attname = 'user_id' AND a.atttypid = 'text'::regtype AND a.attnotnull) ORDER BY 1",
    );
    assert_none(
        "data table without a primary key",
        "SELECT c.relation::regclass::text FROM lint.class c
         WHERE c.class = 'data' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.relation AND i.indisprimary)",
    );
    assert_none(
        "unique index that user_id does not lead",
        "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN lint.class c ON c.relation = i.indrelid
         LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
         WHERE c.class = 'data' AND i.indisunique AND a.attname IS DISTINCT FROM 'user_id' ORDER BY 1",
    );
    assert_none(
        "data table with a sequence",
        "SELECT c.relation::regclass || '.' || a.attname FROM lint.class c JOIN pg_attribute a ON a.attrelid = c.relation
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE c.class = 'data' AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) ~ 'nextval') ORDER BY 1",
    );
}

#[test]
fn foreign_keys_stay_in_their_class() {
    // State of this node may refer to configuration, which every node has; nothing else crosses.
    assert_none(
        "foreign key that leaves its class",
        "SELECT k.conrelid::regclass || ' -> ' || k.confrelid::regclass FROM pg_constraint k
         JOIN lint.class a ON a.relation = k.conrelid JOIN lint.class b ON b.relation = k.confrelid
         WHERE k.contype = 'f' AND a.class <> b.class AND (a.class, b.class) <> ('state', 'config') ORDER BY 1",
    );
    assert_none(
        "foreign key among data tables without user_id",
        "SELECT k.conname::text FROM pg_constraint k JOIN lint.class a ON a.relation = k.conrelid AND a.class = 'data'
         WHERE k.contype = 'f' AND NOT EXISTS (SELECT FROM pg_attribute u WHERE u.attrelid = k.conrelid
             AND u.attname = 'user_id' AND u.attnum = ANY (k.conkey)) ORDER BY 1",
    );
}
