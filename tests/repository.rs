//! Rules that the files of this repository keep.

mod common;

use common::*;

/// All text that people write here; what is generated or a fixture has no limit of length.
fn sources() -> Vec<String> {
    let folders = ["src", "sql", "tests", "scripts", "demo", "trainer", "bench"];
    let endings = [".rs", ".sql", ".sh", ".py"];
    let all = folders.iter().flat_map(|folder| endings.iter().flat_map(move |ending| files(folder, ending)));
    all.chain(["build.rs".to_string(), "Makefile".to_string()]).collect()
}

fn assert_no(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn pure_code_knows_no_postgres() {
    let named = |text: &str| text.contains("pgrx") || text.contains("pg_sys");
    let pure = [files("src/core", ".rs"), files("src/providers", ".rs")].concat();
    assert!(!pure.is_empty());
    assert_no("names pgrx or pg_sys", pure.into_iter().filter(|file| named(&read(file))).collect());
}

#[test]
fn files_are_short() {
    let long = |file: &String| read(file).lines().count() >= 500;
    assert_no("500 lines or more", sources().into_iter().filter(long).collect());
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not name them.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["to", "do!("], ["unimple", "mented!("]].map(|parts| parts.concat());
    let unfinished = |file: &String| marks.iter().any(|mark| read(file).contains(mark));
    assert_no("unfinished", sources().into_iter().filter(unfinished).collect());
}

#[test]
fn sql_functions_say_what_they_are() {
    let mut offenders = Vec::new();
    for file in files("sql", ".sql") {
        for statement in statements(&read(&file)) {
            let words: Vec<&str> = statement.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let is_function = words.starts_with(&["CREATE", "FUNCTION"])
                || words.starts_with(&["CREATE", "OR", "REPLACE", "FUNCTION"]);
            let volatility = ["IMMUTABLE", "STABLE", "VOLATILE"].iter().any(|word| words.contains(word));
            if is_function && !(volatility && words.contains(&"PARALLEL")) {
                offenders.push(format!("{file}: {}", statement.lines().next().unwrap()));
            }
        }
    }
    assert_no("CREATE FUNCTION without volatility or PARALLEL", offenders);
}

#[test]
fn upgrade_scripts_do_not_change_tables_in_place() {
    // On a coordinator those run on the workers as well, in the middle of ALTER EXTENSION.
    let bare = ["ALTER TABLE", "CREATE INDEX", "CREATE UNIQUE INDEX", "UPDATE ", "DELETE "];
    let mut offenders = Vec::new();
    for file in files("sql", ".sql").into_iter().filter(|file| file.matches("--").count() == 2) {
        let found = statements(&read(&file)).into_iter().filter(|s| bare.iter().any(|start| s.starts_with(start)));
        offenders.extend(found.map(|statement| format!("{file}: {statement}")));
    }
    assert_no("upgrade script", offenders);
}

#[test]
fn pgrx_toml_agrees_with_cargo_and_control_file() {
    let version = setting("pgrx.toml", "pgrx", "version").unwrap();
    assert_eq!(setting("Cargo.toml", "dependencies", "pgrx"), Some(format!("={version}")));
    assert!(read("Cargo.lock").contains(&format!("name = \"pgrx\"\nversion = \"{version}\"\n")));

    let majors = setting("pgrx.toml", "postgres", "majors").unwrap();
    let majors: Vec<&str> = majors.trim_matches(['[', ']']).split(", ").collect();
    for (position, major) in majors.iter().enumerate() {
        let feature = setting("pgrx.toml", &format!("postgres.{major}"), "feature").unwrap();
        assert_eq!(feature, format!("pg{major}"));
        assert!(setting("Cargo.toml", "features", &feature).is_some(), "Cargo.toml has no feature {feature}");
        if position == 0 {
            assert_eq!(setting("Cargo.toml", "features", "default"), Some(format!("[\"{feature}\"]")));
        }
    }
    let cargo = read("Cargo.toml");
    let features = cargo.lines().filter(|line| line.starts_with("pg") && line.contains("= [\"pgrx/pg"));
    assert_eq!(features.count(), majors.len(), "Cargo.toml and pgrx.toml list other versions of PostgreSQL");

    let control = |key: &str| setting("pg_finetune.control", "", key);
    assert_eq!(control("default_version").as_deref(), Some("@CARGO_VERSION@"));
    assert_eq!(control("module_pathname").as_deref(), Some("$libdir/pg_finetune"));
    assert_eq!(control("requires").as_deref(), Some("vector"));
    assert_eq!(control("relocatable").as_deref(), Some("false"));
    assert_eq!(control("schema"), None, "the user chooses the schema");
    assert_eq!(setting("Cargo.toml", "package", "name").as_deref(), Some("pg_finetune"));
    assert_eq!(setting("pgrx.toml", "demo", "preload").as_deref(), Some("pg_finetune"));
}

/// Statements of an SQL file without comments and without what stands between quotes or dollar signs.
fn statements(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = match next {
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '\'' => closing(rest, "'"),
            '$' => match rest[1..].find('$') {
                Some(end) if rest[1..=end].chars().all(|c| c.is_alphanumeric() || c == '_') => {
                    closing(rest, &rest[..end + 2])
                }
                _ => 0,
            },
            _ => 0,
        };
        if skipped == 0 {
            match next {
                ';' => found.push(String::new()),
                _ => found.last_mut().unwrap().push(next),
            }
        }
        rest = &rest[skipped.max(next.len_utf8())..];
    }
    found.iter().map(|statement| statement.trim().to_string()).filter(|s| !s.is_empty()).collect()
}

/// Length of the quoted text at the start, both quotes included.
fn closing(text: &str, quote: &str) -> usize {
    let body = &text[quote.len()..];
    body.find(quote).map_or(text.len(), |end| end + 2 * quote.len())
}
