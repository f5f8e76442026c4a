//! Binds the installed DPDK: finds it through pkg-config, compiles the shims, generates the declarations.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// The oldest DPDK that has the names used here (`RTE_ETH_*`, `rte_thread_register`, `--main-lcore`).
const OLDEST: &str = "21.11";

const MISSING: &str = "baton's DPDK ports need DPDK's development files, version 21.11 or later.\n\
    Install them (Debian, Ubuntu: apt-get install libdpdk-dev libnuma-dev pkg-config clang libclang-dev),\n\
    or build without DPDK: --no-default-features";

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/shim.c");
    println!("cargo:rerun-if-changed=src/shim.h");
    for variable in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let dpdk = pkg_config::Config::new()
        .atleast_version(OLDEST)
        .cargo_metadata(false)
        .probe("libdpdk")
        .map_err(|reason| format!("{reason}\n\n{MISSING}"))?;
    // pkg-config's library does not report what is neither a path nor a define, such as `-include rte_config.h` and
    // `-march`, on which the inline functions depend.
    let flags = flags("libdpdk")?;

    let mut shim = cc::Build::new();
    shim.file("src/shim.c").define("_GNU_SOURCE", None);
    for flag in &flags {
        shim.flag(flag);
    }
    shim.try_compile("baton_dpdk_shim").map_err(|reason| format!("src/shim.c: {reason}"))?;

    bind(&flags)?;
    link(&dpdk);
    Ok(())
}

/// What `pkg-config --cflags` says, flag by flag.
fn flags(library: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = std::process::Command::new(program).args(["--cflags", library]).output()?;
    if !output.status.success() {
        return Err(format!("{MISSING}\n\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.split_ascii_whitespace().map(str::to_owned).collect())
}

fn bind(flags: &[String]) -> Result<(), Box<dyn Error>> {
    let mut builder = bindgen::Builder::default()
        .header("src/shim.h")
        .clang_arg("-D_GNU_SOURCE")
        .clang_args(flags)
        .allowlist_function("_?rte_(eth|eal|pktmbuf|mempool|strerror|errno|socket|thread|lcore|version).*")
        .allowlist_function("numa_node_of_cpu")
        .allowlist_type("rte_(eth_(conf|dev_info|stats|link)|ether_addr|mempool|cpuset_t)")
        .allowlist_var("RTE_MBUF_DEFAULT_BUF_SIZE|RTE_PKTMBUF_HEADROOM")
        // Written by hand in lib.rs, which says why.
        .blocklist_type("rte_mbuf")
        .blocklist_item("rte_eth_rx_mq_mode")
        .blocklist_function("rte_eal_init|rte_thread_set_affinity|rte_eth_dev_configure")
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .derive_copy(true)
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(false)
        .formatter(bindgen::Formatter::None);
    // bindgen aligns no packed struct (rust-lang/rust-bindgen#1538); nobody looks into these.
    for kind in ["rte_arp_ipv4", "rte_arp_hdr", "rte_l2tpv2_combined_msg_hdr", "rte_gtp_psc_generic_hdr"] {
        builder = builder.opaque_type(kind);
    }
    let bindings = builder.generate().map_err(|reason| format!("bindgen: {reason}"))?;
    bindings.write_to_file(PathBuf::from(env::var("OUT_DIR")?).join("bindings.rs"))?;
    Ok(())
}

/// Links the few libraries that are called by name. EAL loads the drivers itself, as plugins, where DPDK is shared.
fn link(dpdk: &pkg_config::Library) {
    for path in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for library in ["rte_eal", "rte_ethdev", "rte_mempool", "rte_mbuf", "rte_ring", "numa"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
}
