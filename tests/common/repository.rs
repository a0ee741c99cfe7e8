//! The repository's own files, for tests that hold them against each other.

use std::path::{Path, PathBuf};

/// Path of a file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Text of a file of this repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files under a folder whose name ends so, as paths from the repository's root.
pub fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![repository(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(repository("")).unwrap().to_str().unwrap().to_string();
            match path.is_dir() {
                true if !name.ends_with("target") && !name.contains("/.") => folders.push(path),
                false if name.ends_with(ending) => found.push(name),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// One value of a TOML file in the plain form that ours have (`key = value` lines under `[section]`); quotes and what
/// follows them (inline tables, comments) are cut off.
pub fn setting(file: &str, section: &str, key: &str) -> Option<String> {
    let text = read(file);
    let mut here = section.is_empty();
    for line in text.lines() {
        if line.starts_with('[') {
            here = line == format!("[{section}]");
        }
        match line.split_once('=') {
            Some((name, value)) if here && name.trim() == key => return Some(plain(value.trim())),
            _ => {}
        }
    }
    None
}

fn plain(value: &str) -> String {
    match value.strip_prefix(['"', '\'']) {
        Some(rest) => rest.split(['"', '\'']).next().unwrap().to_string(),
        None => value.to_string(),
    }
}
