//! Reference servers, which only write bytes.

pub(crate) mod bare;

/// uWebSockets, the C++ server in Bun.
pub(crate) const BUN_SCRIPT: &str = include_str!("bun.js");
