//! Whatever a frame holds: a reason, never a panic. The fuzz target `fuzz/fuzz_targets/heartbeat.rs` does the same for longer.
