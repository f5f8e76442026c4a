//! The host side: what baton sets in this machine's kernel, and what it learns from it.
//!
//! [`HostSide`] makes the TAP interface and everything about it that lets the kernel serve a VIP through baton and
//! through nothing else, also while baton is dead; it undoes all of it at a clean exit. [`Sockets`] asks the kernel
//! which connections it has, and [`Destroyed`] hears of their end: the kernel is the truth, the table is a cache.
//!
//! All of this is the control thread's; no worker calls it. What is set and why is told in `docs/host.md`.

mod destroyed;
mod ethtool;
mod guard;
mod journal;
mod kernel;
mod losses;
mod netlink;
mod plan;
mod route;
mod scheduling;
mod setup;
mod sockets;
mod sysctl;
mod tap;
mod truth;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

pub use destroyed::{Destroyed, Ending};
pub use losses::TapLosses;
pub use plan::{HostPlan, RULE_PRIORITY, TapPlan, VipPlan, WirePlan, table};
pub use route::Interface;
pub use scheduling::urgent;
pub use setup::HostSide;
pub use sockets::{Listing, Socket, Sockets, State};
pub use tap::{attach as attach_tap, offer_offloads};
pub use truth::HostKernel;

/// Why the host side cannot be set up or undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process lacks CAP_NET_ADMIN.
    #[error("setting up the host side needs CAP_NET_ADMIN; expected to run as root or with that capability")]
    NotPermitted,
    /// There is no such interface.
    #[error("there is no interface {name}")]
    NoSuchInterface {
        /// Its name.
        name: String,
    },
    /// The TAP's name belongs to an interface that baton did not make.
    #[error(
        "the interface {name} exists and is not baton's; expected another name under `host`, or the interface gone"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another process holds the TAP open.
    #[error("another process holds the TAP interface {name} open; expected one member for it")]
    TapInUse {
        /// Its name.
        name: String,
    },
    /// The VIP is an address of another interface.
    #[error("{address} is an address of the interface with index {index} already; expected it on none")]
    AddressElsewhere {
        /// The VIP.
        address: Ipv4Addr,
        /// The interface's index.
        index: u32,
    },
    /// Another process uses the same journal.
    #[error("another baton is running with {}; expected a `control.socket` of its own for each", .journal.display())]
    Busy {
        /// The journal.
        journal: PathBuf,
    },
    /// The journal cannot be read or written.
    #[error("the journal {}: {source}", .path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
}

impl Error {
    fn kernel(what: impl ToString) -> impl Fn(io::Error) -> Error {
        let what = what.to_string();
        move |source| Error::Kernel { what: what.clone(), source }
    }
}

/// Facts about an interface of this machine, in the calling thread's network namespace; `None` if there is none of
/// this name.
pub fn interface(name: &str) -> Result<Option<Interface>, Error> {
    let failed = Error::kernel(format!("reading the interface {name}"));
    route::Rtnetlink::open().and_then(|mut rtnetlink| rtnetlink.interface(name)).map_err(failed)
}
