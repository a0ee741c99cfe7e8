//! The documentation is run as printed, and its reference tables are held against the catalog.
//!
//! Every ```` ```sql ```` block of README.md, then every ```` ```sql run ```` block of docs/*.md, in one database, by psql.

mod common;

use common::*;
use std::collections::BTreeSet;

#[test]
fn the_printed_sql_runs() {
    // Its own cluster, for the roles that the page creates; no preload, as on the page.
    let server = Server::private(&[]);
    let db = server.create_database("readme");
    run_page(&server, &db, "README.md", "```sql");

    let mut client = db.connect();
    let verdicts: Vec<String> = values(&mut client, "SELECT verdict FROM fine_tuning_jobs");
    assert_eq!(verdicts, ["passed"], "the page's sample data train a model that passes the gate");
    let rates: Vec<f64> = values(&mut client, "SELECT save_rate FROM model_metrics('first') ORDER BY variant");
    assert!(rates[0] < rates[1], "save rates of base and fineTuned: {rates:?}");

    for page in files("docs", ".md") {
        run_page(&server, &db, &page, "```sql run");
    }
}

#[test]
fn the_loop_fits_into_twenty_lines() {
    let page = read("README.md");
    let block = page.split("The loop itself:").nth(1).and_then(|rest| rest.split("```").nth(1)).expect("the loop");
    assert!(block.trim().lines().count() <= 20 + 1, "{block}"); // and the fence's own word
}

#[test]
fn reference_tables_list_what_there_is() {
    let db = Server::shared().create_database("reference");
    let mut client = db.install("pgft");
    execute(&mut client, "SELECT worker_status()"); // loads the library, so that its settings are known

    let functions = "SELECT DISTINCT p.proname::text FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
         JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
         WHERE e.extname = 'pg_finetune' AND d.deptype = 'e' AND NOT starts_with(p.proname, '_')";
    assert_same(&mut client, "Functions", functions);

    let relations = "SELECT c.relname::text FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
         JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
         WHERE e.extname = 'pg_finetune' AND d.deptype = 'e' AND c.relkind IN ('r', 'v')";
    assert_same(&mut client, "Tables and views", relations);

    assert_same(&mut client, "Roles", "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, 'finetune_')");
    assert_same(&mut client, "Settings", "SELECT name FROM pg_settings WHERE starts_with(name, 'pg_finetune.')");
}

#[test]
fn reference_tables_tell_roles_and_defaults() {
    let db = Server::shared().create_database("reference");
    let mut client = db.install("pgft");
    execute(&mut client, "SELECT worker_status()");

    for row in rows("Functions") {
        let audience = row.last().unwrap();
        for role in ["app", "analyst", "admin"] {
            let may = role == "admin" || audience.contains(role);
            for name in names(&row[0]) {
                let wrong: Vec<String> = values(
                    &mut client,
                    &format!(
                        "SELECT oid::regprocedure::text FROM pg_proc WHERE proname = '{name}' AND pronamespace = 'pgft'::regnamespace
                         AND NOT {may} = EXISTS (SELECT FROM aclexplode(proacl) a
                             WHERE a.privilege_type = 'EXECUTE' AND a.grantee <> 0 AND pg_has_role('finetune_{role}', a.grantee, 'USAGE'))"
                    ),
                );
                assert!(wrong.is_empty(), "README says \"{audience}\" for {wrong:?}; {role}: {may}");
            }
        }
    }
    for row in rows("Settings") {
        let name = &names(&row[0])[0];
        assert_eq!(value::<String>(&mut client, &format!("SELECT current_setting('{name}')")), row[1], "{name}");
    }
}

#[test]
fn links_lead_somewhere() {
    let mut pages = files("docs", ".md");
    pages.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(str::to_string));
    let mut dead = Vec::new();
    for page in pages {
        let folder = repository(&page).parent().unwrap().to_path_buf();
        let text = read(&page);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { repository(&page) } else { folder.join(file) };
            let text = std::fs::read_to_string(&path);
            let found = text.is_ok_and(|text| anchor.is_empty() || text.lines().any(|line| is_heading(line, anchor)));
            if !found {
                dead.push(format!("{page}: {target}"));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere:\n  {}", dead.join("\n  "));
}

/// Runs the blocks that begin with this fence; psql names the page and the line of what fails.
fn run_page(server: &Server, db: &Database, page: &str, fence: &str) {
    let script = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(page.replace('/', "."));
    std::fs::write(&script, printed_sql(page, fence)).unwrap();
    let mut psql = server.program("psql");
    psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file"]).arg(script).arg(db.url());
    run(&mut psql);
}

/// SQL of a page with all other lines blank, so that lines keep their numbers.
fn printed_sql(page: &str, fence: &str) -> String {
    let mut inside = false;
    let mut sql = String::new();
    for line in read(page).lines() {
        let is_fence = line.starts_with("```");
        if inside && !is_fence {
            sql.push_str(line);
        }
        if is_fence {
            inside = !inside && line.trim_end() == fence;
        }
        sql.push('\n');
    }
    sql
}

/// Rows of the README's table under a heading, as cells; rows that name nothing (in backticks) are left out.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let page = read("README.md");
    let section = page.split(&format!("### {heading}\n")).nth(1).unwrap_or_else(|| panic!("no section {heading}"));
    let lines = section.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `"));
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect()).collect()
}

/// What a cell names in backticks, without arguments.
fn names(cell: &str) -> Vec<String> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.map(|name| name.split('(').next().unwrap().to_string()).collect()
}

fn assert_same(client: &mut Client, heading: &str, query: &str) {
    let listed: BTreeSet<String> = rows(heading).iter().flat_map(|row| names(&row[0])).collect();
    let existing: BTreeSet<String> = values(client, query).into_iter().collect();
    let gone: Vec<_> = listed.difference(&existing).collect();
    let unlisted: Vec<_> = existing.difference(&listed).collect();
    assert!(gone.is_empty() && unlisted.is_empty(), "README, {heading}: gone {gone:?}, not listed {unlisted:?}");
}

/// Whether a line is the heading that an anchor leads to.
fn is_heading(line: &str, anchor: &str) -> bool {
    let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    let kept: String = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect();
    line.starts_with('#') && kept == anchor
}
