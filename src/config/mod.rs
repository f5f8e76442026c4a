//! Configuration: as written (YAML) and as checked.
//!
//! Everything past this module takes a [`Config`], which cannot be wrong in itself.

pub mod checked;

pub use checked::Config;
