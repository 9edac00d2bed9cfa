//! Decimal arithmetic: how quotients are rounded, and how numbers go on the wire.
//!
//! Sums and products are exact as far as 28 digits go. Only a division rounds, so two servers
//! that saw the same trades publish the same digits.

use rust_decimal::Decimal;
use tidewire_proto::v1;

/// Significant digits of a quotient.
pub(crate) const DIGITS: u32 = 18;

/// A quotient, rounded to [`DIGITS`]. `None` on division by zero or overflow.
pub(crate) fn divide(dividend: Decimal, divisor: Decimal) -> Option<Decimal> {
    round(dividend.checked_div(divisor)?)
}

/// A value rounded to [`DIGITS`].
pub(crate) fn round(value: Decimal) -> Option<Decimal> {
    value.round_sf(DIGITS).map(|value| value.normalize())
}

/// A number in the protocol's canonical notation, without trailing zeros.
pub(crate) fn to_wire(value: Decimal) -> v1::Decimal {
    v1::Decimal {
        value: value.normalize().to_string(),
    }
}
