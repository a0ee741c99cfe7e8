//! Protocols against servers that others wrote: Prism with the vendors' specifications, aimock, moto.

// The pure half is included whole; the tests use a part of it.
#![allow(dead_code, unused_imports)]

#[path = "../src/providers/mod.rs"]
mod providers;

#[path = "protocols/amazon.rs"]
mod amazon;
#[path = "protocols/driver.rs"]
mod driver;
#[path = "protocols/life.rs"]
mod life;
#[path = "protocols/spec.rs"]
mod spec;
