//! Runs the unit tests of the pure half, which stand beside the code: they need no server.

// Included whole; the tests use a part of it.
#![allow(dead_code, unused_imports)]

#[path = "../src/core/mod.rs"]
mod core;
#[path = "../src/providers/mod.rs"]
mod providers;
