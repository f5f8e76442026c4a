//! Raises a member: ports, table, threads, pinning.

use crate::config::Config;

/// Why a member could not be raised, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The parts are not joined yet.
    #[error("this build can not run a member yet")]
    NotBuilt,
}

/// Runs a member until it is told to end.
///
/// # Errors
/// It cannot be raised, or fails.
pub fn run(_config: Config) -> Result<(), Error> {
    Err(Error::NotBuilt)
}
