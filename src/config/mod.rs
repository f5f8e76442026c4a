//! Configuration: as written (YAML) and as checked.
//!
//! Everything past this module takes a [`Config`], which cannot be wrong in itself. A file's way, in the order of the
//! modules:
//!
//! ```text
//! text → yaml (values with their lines) → section (known keys) → read (one value, its range)
//!      → file, vip, dataplane (what values must hold between them) → checked, or every fault with its line
//! ```
//!
//! Whether an interface, a device or a program exists is found out when it is used, since a file may be checked on
//! another machine than the one it is for. Cores are checked where the file is to run ([`For::ThisMachine`]).
//! The key file is part of the configuration and is always read. Each key is described in `docs/configuration.md`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub mod checked;
mod dataplane;
mod fault;
mod file;
pub mod key;
mod read;
mod section;
pub mod units;
mod url;
mod vip;
mod yaml;

pub use checked::Config;
pub use fault::{Fault, Rejected};
pub use file::{CONTROL_SOCKET, ETHERTYPE};
pub use section::KEYS;
pub use vip::auto_mac;

use fault::Faults;

/// The most bytes of a configuration file.
const LONGEST: u64 = 1 << 20;

/// The machine that a file is checked for.
#[derive(Clone, Copy, Debug)]
pub enum For<'a> {
    /// Any: what depends on the machine is not checked.
    AnyMachine,
    /// One with these cores.
    ThisMachine {
        /// The cores that this process may run on, ascending.
        cores: &'a [usize],
    },
}

/// Reads and checks the file at `path` and the key file that it names.
///
/// # Errors
/// Every fault of the file.
pub fn load(path: &Path, machine: For) -> Result<Config, Rejected> {
    let reject = |faults| Rejected::new(path, faults);
    let text = text(path).map_err(|fault| reject(vec![fault]))?;
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&text, base, machine).map_err(reject)
}

/// Checks the text of a configuration file that lies in the directory `base`.
///
/// # Errors
/// Every fault of the text, in no order.
pub fn parse(text: &str, base: &Path, machine: For) -> Result<Config, Vec<Fault>> {
    let root = yaml::parse(text).map_err(|fault| vec![fault])?;
    let mut faults = Faults::default();
    let config = file::config(&root, base, machine, &mut faults);
    faults.result(config)
}

fn text(path: &Path) -> Result<String, Fault> {
    let unreadable = |why: std::io::Error| Fault {
        line: 0,
        what: format!("the file can not be read: {why}"),
        expected: "a YAML file".into(),
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Fault {
            line: 0,
            what: "the file is longer than 1 MiB".into(),
            expected: "a configuration file".into(),
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let right = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + right.iter().filter(|byte| **byte == b'\n').count();
        Fault { line, what: "the line is not UTF-8 text".into(), expected: "a YAML file in UTF-8".into() }
    })
}
