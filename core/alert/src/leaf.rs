//! Leaf state: the memory of one test, and how a value changes it.
//!
//! A test has one detector, or two if both directions count. A detector is unknown, off or on. A
//! test *rises* when a detector goes from off to on. A test of a moment does nothing else; the
//! first value only sets it. A test of a level also rises when its first value sets it on.
//!
//! A detector that is on may be *marked*: it rose with the newest passage of the rule, which fired
//! or was deferred. A deferred passage of a moment stands as long as a marked detector is on.

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

/// Bits of a detector that is on and marked.
const MARKED: u8 = 3;

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
        let bits = match (is_on, (self.0 >> (2 * number)) & 0b11) {
            (true, MARKED) => MARKED,
            (true, _) => 2,
            (false, _) => 1,
        };
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

    /// Whether a detector is on that rose with the newest passage.
    pub(crate) const fn is_marked(self) -> bool {
        self.0 & 0b11 == MARKED || (self.0 >> 2) & 0b11 == MARKED
    }

    /// Marks the detectors that rose, by their bits in `risen`.
    pub(crate) fn mark(&mut self, risen: u8) {
        for number in 0..2 {
            if risen & (1 << number) != 0 && self.get(number) == Detector::On {
                self.0 |= MARKED << (2 * number);
            }
        }
    }

    /// Removes all marks.
    pub(crate) fn unmark(&mut self) {
        for number in 0..2 {
            if (self.0 >> (2 * number)) & 0b11 == MARKED {
                self.0 &= !(1 << (2 * number));
            }
        }
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
    /// Whether a reorg took back a transaction's state that was reached.
    pub(crate) takes_back: bool,
    /// The detectors that rose: bit 0 for the first, bit 1 for the second.
    pub(crate) risen: u8,
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
        let mut risen = 0;
        let is_level = !self.is_crossing();
        let mut turn = |number: u32, turns_on: bool, turns_off: bool| {
            let detector = before.get(number);
            let is_on = direction(turns_on, turns_off, detector);
            passes |= is_on && detector == Detector::Off;
            let rises = match detector {
                Detector::Unknown => is_level,
                Detector::Off => true,
                Detector::On => false,
            };
            risen |= u8::from(is_on && rises) << number;
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
            Self::StaysAbove {
                threshold,
                hysteresis,
            }
            | Self::CrossesUp {
                threshold,
                hysteresis,
            } => {
                turn(
                    0,
                    value >= threshold,
                    is_back_down(value, threshold, hysteresis),
                );
            }
            Self::StaysBelow {
                threshold,
                hysteresis,
            }
            | Self::CrossesDown {
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
                let is_undone = is_undone(value, wanted, is_retraction);
                turn(0, is_reached, !is_reached && is_undone);
            }
        }
        Step {
            state,
            passes,
            starts_on: !before.is_known() && state.is_on() && !self.is_crossing(),
            takes_back: matches!(self, Self::Reaches(_)) && before.is_on() && !state.is_on(),
            risen,
        }
    }

    /// Whether the test is true by the value alone, without hysteresis.
    pub(crate) fn is_true(&self, value: Decimal) -> bool {
        match *self {
            Self::Above(threshold)
            | Self::StaysAbove { threshold, .. }
            | Self::CrossesUp { threshold, .. } => value >= threshold,
            Self::Below(threshold)
            | Self::StaysBelow { threshold, .. }
            | Self::CrossesDown { threshold, .. } => value <= threshold,
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
            Self::StaysAbove {
                threshold,
                hysteresis,
            }
            | Self::CrossesUp {
                threshold,
                hysteresis,
            } => {
                add(threshold, Side::Before);
                if !hysteresis.is_zero() {
                    add(threshold - hysteresis, Side::After);
                }
            }
            Self::StaysBelow {
                threshold,
                hysteresis,
            }
            | Self::CrossesDown {
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

/// The state of a transaction with this number.
fn transaction_state(number: Decimal) -> Option<TransactionState> {
    let number = i32::try_from(number).ok()?;
    TransactionState::try_from(number).ok()
}

/// Whether a state that was reached did not stay: a reorg removed the block that made it so. While
/// this server is away it sees no reorg, but a state that excludes the wanted one says the same.
/// Pending says it only of a reorg that was seen: a node that is called anew may report it for a
/// moment. That a transaction was pending or dropped is not undone by what follows.
fn is_undone(number: Decimal, wanted: TransactionState, is_retraction: bool) -> bool {
    use TransactionState as State;
    let Some(state) = transaction_state(number) else {
        return is_retraction;
    };
    let excludes = match wanted {
        State::Unspecified | State::Unknown | State::Pending | State::Dropped => return false,
        State::Confirming | State::Confirmed | State::Finalized => matches!(
            state,
            State::Failed | State::Replaced | State::Cancelled | State::Dropped
        ),
        State::Failed => !matches!(
            state,
            State::Unspecified | State::Unknown | State::Pending | State::Failed
        ),
        // A replacement may turn out to be a cancellation.
        State::Replaced | State::Cancelled => matches!(
            state,
            State::Confirming
                | State::Confirmed
                | State::Finalized
                | State::Failed
                | State::Dropped
        ),
    };
    is_retraction || excludes
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
    transaction_state(number).is_some_and(|state| {
        state == wanted
            || matches!((rank(state), rank(wanted)), (Some(is), Some(wanted)) if is >= wanted)
    })
}
