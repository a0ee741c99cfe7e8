//! Providers of fine-tuning, without input or output: options, requests and answers as values.

// A protocol offers all it can; the worker asks for what it needs.
#![allow(dead_code)]

pub mod address;
pub mod auth;
pub mod bedrock;
mod bedrock_files;
pub mod change;
pub mod chat;
pub mod cohere;
pub mod dialect;
pub mod embeddings;
pub mod fault;
pub mod fireworks;
#[cfg(test)]
mod hosts_tests;
pub mod knobs;
pub mod lifecycle;
#[cfg(test)]
mod lifecycle_tests;
mod mishaps;
pub mod openai;
pub mod openai_files;
pub mod options;
pub mod protocol;
mod read;
pub mod refusals;
pub mod secret;
pub mod state;
pub mod together;
pub mod tokens;
pub mod wire;

/// The protocol of that name.
pub fn by_name(name: &str) -> Option<&'static dyn protocol::Protocol> {
    match name {
        "openai" => Some(&openai::OPENAI),
        "together" => Some(&together::Together),
        "fireworks" => Some(&fireworks::Fireworks),
        "bedrock" => Some(&bedrock::BEDROCK),
        "cohere" => Some(&cohere::Cohere),
        _ => None,
    }
}
