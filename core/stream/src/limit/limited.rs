//! Whoever carries an [`Allowance`].

use super::Allowance;
use crate::Session;

/// Carries an allowance.
pub trait Limited {
    /// It, if there is one.
    fn allowance(&self) -> Option<&Allowance>;
}

/// Sessions carry none yet: nothing holds them to a rate.
impl Limited for Session {
    fn allowance(&self) -> Option<&Allowance> {
        None
    }
}
