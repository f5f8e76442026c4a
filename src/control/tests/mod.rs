//! The core under a virtual clock: a few members on a bus that loses, delays, repeats and cuts, all from one seed.

mod auth;
mod election;
mod faults;
mod fuzz;
mod handover;
mod harness;
mod many;
mod names;
mod orphans;
