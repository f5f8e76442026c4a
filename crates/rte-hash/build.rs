//! Compiles the one function that knows a C structure, and links DPDK's hash library.

use std::env;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=src/shim.c");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!(
                "{reason}\nthis bench needs DPDK's development files (Debian, Ubuntu: apt-get install libdpdk-dev pkg-config)"
            );
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Box<dyn std::error::Error>> {
    let dpdk = pkg_config::Config::new().cargo_metadata(false).probe("libdpdk")?;
    // pkg-config's library does not report what is neither a path nor a define, such as `-include rte_config.h`.
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let flags = String::from_utf8(Command::new(program).args(["--cflags", "libdpdk"]).output()?.stdout)?;
    let mut shim = cc::Build::new();
    shim.file("src/shim.c");
    for flag in flags.split_ascii_whitespace() {
        shim.flag(flag);
    }
    shim.try_compile("rte_hash_shim")?;
    for path in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for library in ["rte_hash", "rte_eal"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    Ok(())
}
