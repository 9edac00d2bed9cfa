//! Outage of a chain: why it stands still.

use std::fmt;

/// Why a chain stands still: too few of its endpoints return usable results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainOutage {
    /// The endpoints that respond, and have a head that can be followed.
    pub responding: usize,
    /// The endpoints that must agree.
    pub required: usize,
}

impl fmt::Display for ChainOutage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            responding,
            required,
        } = self;
        match responding {
            0 => f.write_str("none of its endpoints returns usable results"),
            1 => write!(f, "1 of {required} endpoints that must agree responds"),
            _ => write!(
                f,
                "{responding} of {required} endpoints that must agree respond"
            ),
        }
    }
}
