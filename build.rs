//! Keeps the section that `cargo pgrx` reads the SQL objects from. cargo-pgrx would do it with a compiler flag, which would
//! have every dependency compiled once for the extension and once more for its tests.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("macos") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,--no-gc-sections");
    }
}
