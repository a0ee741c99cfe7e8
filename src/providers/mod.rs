//! Providers of fine-tuning, without input or output: options, requests and answers as values.

// A protocol offers all it can; the worker asks for what it needs.
#![allow(dead_code)]

pub mod fault;
pub mod openai;
pub mod options;
pub mod protocol;
pub mod refusals;
pub mod secret;
pub mod state;
pub mod wire;
