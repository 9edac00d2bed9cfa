//! Leaf state: the memory of one test, and how a value changes it.
//!
//! A test has one detector, or two if both directions count. A detector is unknown, off or on. A
//! test *rises* when a detector goes from off to on. A test of a moment does nothing else; the
//! first value only sets it. A test of a level also rises when its first value sets it on.

use rust_decimal::Decimal;
use tidewire_proto::v1::TransactionState;

use crate::{
    Test,
    key::{Side, boundary},
};

/// State of a detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detector {
    Unknown,
    Off,
    On,
}

/// State of a test: up to two detectors, of two bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LeafState(pub(crate) u8);

impl LeafState {
    pub(crate) const UNKNOWN: Self = Self(0);

    fn get(self, number: u32) -> Detector {
        match (self.0 >> (2 * number)) & 0b11 {
            0 => Detector::Unknown,
            1 => Detector::Off,
            _ => Detector::On,
        }
    }

    fn set(&mut self, number: u32, is_on: bool) {
        let bits = if is_on { 2 } else { 1 };
        self.0 = (self.0 & !(0b11 << (2 * number))) | (bits << (2 * number));
    }

    /// Sets the only detector of a test of one direction.
    pub(crate) fn set_one(&mut self, is_on: bool) {
        self.set(0, is_on);
    }

    /// Whether a value has set it.
    pub(crate) fn is_known(self) -> bool {
        self.0 & 0b11 != 0
    }

    /// Whether a detector is on.
    pub(crate) fn is_on(self) -> bool {
        self.get(0) == Detector::On || self.get(1) == Detector::On
    }
}

/// The change that a value makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) state: LeafState,
    /// Whether a detector went from off to on.
    pub(crate) passes: bool,
    /// Whether this is the first value, and it sets the test on.
    pub(crate) starts_on: bool,
}

/// One direction of a test: when it turns on, and when off. In between it keeps its state.
fn direction(turns_on: bool, turns_off: bool, before: Detector) -> bool {
    match before {
        Detector::On => !turns_off,
        Detector::Off | Detector::Unknown => turns_on,
    }
}

impl Test {
    /// Judges a value. `is_retraction` says whether a reorg takes back a transaction's state.
    pub(crate) fn step(&self, value: Decimal, before: LeafState, is_retraction: bool) -> Step {
        let mut state = before;
        let mut passes = false;
        let mut turn = |number: u32, turns_on: bool, turns_off: bool| {
            let detector = before.get(number);
            let is_on = direction(turns_on, turns_off, detector);
            passes |= is_on && detector == Detector::Off;
            state.set(number, is_on);
        };
        match *self {
            Self::Above(threshold) => {
                let is_true = value >= threshold;
                turn(0, is_true, !is_true);
            }
            Self::Below(threshold) => {
                let is_true = value <= threshold;
                turn(0, is_true, !is_true);
            }
            Self::CrossesUp {
                threshold,
                hysteresis,
            } => {
                turn(
                    0,
                    value >= threshold,
                    is_back_down(value, threshold, hysteresis),
                );
            }
            Self::CrossesDown {
                threshold,
                hysteresis,
            } => {
                turn(
                    0,
                    value <= threshold,
                    is_back_up(value, threshold, hysteresis),
                );
            }
            Self::CrossesEither {
                threshold,
                hysteresis,
            } => {
                turn(
                    0,
                    value >= threshold,
                    is_back_down(value, threshold, hysteresis),
                );
                turn(
                    1,
                    value <= threshold,
                    is_back_up(value, threshold, hysteresis),
                );
            }
            Self::Enters { low, high } => {
                let is_inside = (low..=high).contains(&value);
                turn(0, is_inside, !is_inside);
            }
            Self::Exits { low, high } => {
                let is_inside = (low..=high).contains(&value);
                turn(0, !is_inside, is_inside);
            }
            Self::TurnsPositive => turn(0, value > Decimal::ZERO, value <= Decimal::ZERO),
            Self::TurnsNegative => turn(0, value < Decimal::ZERO, value >= Decimal::ZERO),
            Self::TurnsEither => {
                turn(0, value > Decimal::ZERO, value <= Decimal::ZERO);
                turn(1, value < Decimal::ZERO, value >= Decimal::ZERO);
            }
            Self::Reaches(wanted) => {
                let is_reached = reaches(value, wanted);
                turn(0, is_reached, is_retraction && !is_reached);
            }
        }
        Step {
            state,
            passes,
            starts_on: !before.is_known() && state.is_on() && !self.is_crossing(),
        }
    }

    /// Whether the test is true by the value alone, without hysteresis.
    pub(crate) fn is_true(&self, value: Decimal) -> bool {
        match *self {
            Self::Above(threshold) | Self::CrossesUp { threshold, .. } => value >= threshold,
            Self::Below(threshold) | Self::CrossesDown { threshold, .. } => value <= threshold,
            Self::CrossesEither { .. } => true,
            Self::Enters { low, high } => (low..=high).contains(&value),
            Self::Exits { low, high } => !(low..=high).contains(&value),
            Self::TurnsPositive => value > Decimal::ZERO,
            Self::TurnsNegative => value < Decimal::ZERO,
            Self::TurnsEither => !value.is_zero(),
            Self::Reaches(wanted) => reaches(value, wanted),
        }
    }

    /// The boundaries at which the test may change, as keys. The flag says whether one of them is
    /// of a long decimal.
    pub(crate) fn boundaries(&self) -> (smallvec::SmallVec<[i64; 4]>, bool) {
        let mut keys = smallvec::SmallVec::new();
        let mut has_long = false;
        let mut add = |threshold: Decimal, side: Side| {
            let (key, is_long) = boundary(threshold, side);
            has_long |= is_long;
            if !keys.contains(&key) {
                keys.push(key);
            }
        };
        match *self {
            Self::Above(threshold) => add(threshold, Side::Before),
            Self::Below(threshold) => add(threshold, Side::After),
            Self::CrossesUp {
                threshold,
                hysteresis,
            } => {
                add(threshold, Side::Before);
                if !hysteresis.is_zero() {
                    add(threshold - hysteresis, Side::After);
                }
            }
            Self::CrossesDown {
                threshold,
                hysteresis,
            } => {
                add(threshold, Side::After);
                if !hysteresis.is_zero() {
                    add(threshold + hysteresis, Side::Before);
                }
            }
            Self::CrossesEither {
                threshold,
                hysteresis,
            } => {
                add(threshold, Side::Before);
                add(threshold, Side::After);
                if !hysteresis.is_zero() {
                    add(threshold - hysteresis, Side::After);
                    add(threshold + hysteresis, Side::Before);
                }
            }
            Self::Enters { low, high } | Self::Exits { low, high } => {
                add(low, Side::Before);
                add(high, Side::After);
            }
            Self::TurnsPositive => add(Decimal::ZERO, Side::After),
            Self::TurnsNegative => add(Decimal::ZERO, Side::Before),
            Self::TurnsEither => {
                add(Decimal::ZERO, Side::Before);
                add(Decimal::ZERO, Side::After);
            }
            // Each state of a transaction touches all of its rules, which are few.
            Self::Reaches(_) => add(Decimal::ZERO, Side::Before),
        }
        (keys, has_long)
    }
}

/// Whether a value moved back below a threshold, by at least the hysteresis.
fn is_back_down(value: Decimal, threshold: Decimal, hysteresis: Decimal) -> bool {
    value < threshold && value <= threshold - hysteresis
}

/// Whether a value moved back above a threshold, by at least the hysteresis.
fn is_back_up(value: Decimal, threshold: Decimal, hysteresis: Decimal) -> bool {
    value > threshold && value >= threshold + hysteresis
}

/// Whether a transaction in the state with this number has reached the wanted one. States of a
/// successful transaction follow one another; the others are reached by themselves alone.
fn reaches(number: Decimal, wanted: TransactionState) -> bool {
    let rank = |state: TransactionState| match state {
        TransactionState::Pending => Some(1),
        TransactionState::Confirming => Some(2),
        TransactionState::Confirmed => Some(3),
        TransactionState::Finalized => Some(4),
        _ => None,
    };
    let state = i32::try_from(number).ok();
    let state = state.and_then(|number| TransactionState::try_from(number).ok());
    state.is_some_and(|state| {
        state == wanted
            || matches!((rank(state), rank(wanted)), (Some(is), Some(wanted)) if is >= wanted)
    })
}
