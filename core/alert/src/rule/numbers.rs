//! Numbers, directions and hashes of conditions, checked.

use rust_decimal::Decimal;
use tidewire_proto::v1::{self, CrossDirection};

use super::{Outcome, Test, parse::missing};
use crate::RuleError;

/// The test for a change in percent: a positive one is a rise, a negative one a fall.
pub(super) fn change(percent: f64, field: &str) -> Outcome<Test> {
    let percent = number(percent, field)?;
    if percent.is_zero() {
        return Err(RuleError::new(
            field,
            "0 or missing, expected a rise above 0 or a fall below 0",
        ));
    }
    if percent < -Decimal::ONE_HUNDRED {
        let problem = format!("{percent}, expected a fall of at most 100 percent");
        return Err(RuleError::new(field, problem));
    }
    Ok(match percent.is_sign_positive() {
        true => Test::Above(percent),
        false => Test::Below(percent),
    })
}

pub(super) fn gwei(gwei: f64, field: &str) -> Outcome<Decimal> {
    let gwei = number(gwei, field)?;
    if gwei > Decimal::ZERO {
        return Ok(gwei);
    }
    let problem = match gwei.is_zero() {
        true => "0 or missing, expected gwei above 0".to_owned(),
        false => format!("{gwei}, expected gwei above 0"),
    };
    Err(RuleError::new(field, problem))
}

/// The decimal that a person wrote: the shortest one that the double stands for.
pub(super) fn number(value: f64, field: &str) -> Outcome<Decimal> {
    if !value.is_finite() {
        return Err(RuleError::new(
            field,
            format!("{value}, expected a finite number"),
        ));
    }
    let text = format!("{value}");
    exact(&text, field)
}

pub(super) fn decimal(value: Option<&v1::Decimal>, field: &str) -> Outcome<Decimal> {
    let value = value.ok_or_else(|| missing(field, "a number"))?;
    let canonical = v1::Decimal::parse(&value.value);
    let canonical = canonical.map_err(|error| RuleError::new(field, error.to_string()))?;
    exact(&canonical.value, field)
}

pub(super) fn exact(text: &str, field: &str) -> Outcome<Decimal> {
    let parsed = Decimal::from_str_exact(text).map(|value| value.normalize());
    parsed.map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        let problem = format!("{shown} cannot be kept exactly, expected at most 28 digits");
        RuleError::new(field, problem)
    })
}

pub(super) fn direction(number: i32, field: &str) -> Outcome<CrossDirection> {
    CrossDirection::try_from(number).map_err(|_| {
        RuleError::new(
            format!("{field}.direction"),
            format!("unknown direction {number}, expected up, down or either"),
        )
    })
}

/// A transaction's hash in lower case.
pub(super) fn hash(text: &str, field: &str) -> Outcome<Box<str>> {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase().into());
    }
    Err(RuleError::new(
        field,
        "not a hash, expected 0x and 64 hexadecimal digits",
    ))
}
