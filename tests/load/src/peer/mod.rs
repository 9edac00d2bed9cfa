//! The servers that stand beside the one under test, and only write bytes.

pub(crate) mod bare;

/// uWebSockets, the C++ server inside of Bun.
pub(crate) const BUN_SCRIPT: &str = include_str!("bun.js");
