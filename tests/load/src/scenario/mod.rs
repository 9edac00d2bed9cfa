//! Scenarios, one module each.

pub(crate) mod bars;
pub(crate) mod bytes;
pub(crate) mod drain;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod ramp;
pub(crate) mod slow;
pub(crate) mod soak;
