//! Providers of fine-tuning, without input or output: options, requests and answers as values.

// A protocol offers all it can; the worker asks for what it needs.
#![allow(dead_code)]

pub mod change;
pub mod embeddings;
pub mod fault;
pub mod lifecycle;
mod mishaps;
pub mod openai;
mod openai_jobs;
pub mod options;
pub mod protocol;
pub mod refusals;
pub mod secret;
pub mod state;
pub mod wire;

/// The protocol of that name.
pub fn by_name(name: &str) -> Option<&'static dyn protocol::Protocol> {
    match name {
        "openai" => Some(&openai_jobs::OpenAi),
        _ => None,
    }
}
