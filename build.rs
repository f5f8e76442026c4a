//! The feature `loom` sets `cfg(loom)` for this package alone. `RUSTFLAGS` would set it for every crate below, and all of
//! them would be built once more for the model tests.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_LOOM").is_some() {
        println!("cargo::rustc-cfg=loom");
    }
}
