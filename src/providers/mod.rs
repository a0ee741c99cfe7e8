//! Providers of fine-tuning, without input or output: options, requests and answers as values.

pub mod openai;
pub mod options;
pub mod secret;
