//! The key of a provider, from where its user mapping says that it stands. Errors name the place, never the content.

use std::fs::File;
use std::io::Read;

use crate::pg::foreign::Key;
use crate::providers::secret::Secret;

pub const HINT: &str = "Set it for the user that runs the server and, for an environment variable, restart the server.";
const LARGEST_FILE: u64 = 64 << 10;

/// # Errors
/// Where the key should be and what is wrong there.
pub fn reveal(key: &Key) -> Result<Secret, String> {
    let (found, place) = match key {
        Key::Value(secret) => return Ok(secret.clone()),
        Key::Env(name) => {
            (std::env::var(name).map_err(|_| "not set"), format!("environment variable {name} of the server"))
        }
        Key::File(path) => (read(path), format!("file {path} on the server")),
    };
    let text = found.map_err(|reason| format!("the key is missing: {place} is {reason}"))?;
    match text.trim() {
        "" => Err(format!("the key is missing: {place} is empty")),
        text => Ok(Secret::new(text)),
    }
}

fn read(path: &str) -> Result<String, &'static str> {
    let file = File::open(path).map_err(|_| "not there or not readable")?;
    let about = file.metadata().map_err(|_| "not readable")?;
    if !about.is_file() || about.len() > LARGEST_FILE {
        return Err("not an ordinary file of at most 64 kB");
    }
    let mut text = String::new();
    file.take(LARGEST_FILE).read_to_string(&mut text).map_err(|_| "not text")?;
    Ok(text)
}
