//! The control plane: who is there (membership), who is active (election), and the shell that gives them time.

pub mod protocol;
pub mod socket;
