//! Truths: of one test, and of conditions of several.

use tidewire_alert::{Condition, Decimal, Test};
use tidewire_proto::v1::TransactionState;

pub(crate) fn is_true(test: &Test, number: Decimal) -> [Option<bool>; 2] {
    let zero = Decimal::ZERO;
    match test {
        Test::Above(t)
        | Test::StaysAbove { threshold: t, .. }
        | Test::CrossesUp { threshold: t, .. } => [Some(number >= *t), None],
        Test::Below(t)
        | Test::StaysBelow { threshold: t, .. }
        | Test::CrossesDown { threshold: t, .. } => [Some(number <= *t), None],
        Test::CrossesEither { threshold: t, .. } => [Some(number >= *t), Some(number <= *t)],
        Test::Enters { low, high } => [Some(*low <= number && number <= *high), None],
        Test::Exits { low, high } => [Some(number < *low || number > *high), None],
        Test::TurnsPositive => [Some(number > zero), None],
        Test::TurnsNegative => [Some(number < zero), None],
        Test::TurnsEither => [Some(number > zero), Some(number < zero)],
        Test::Reaches(wanted) => {
            let chain = [
                TransactionState::Pending,
                TransactionState::Confirming,
                TransactionState::Confirmed,
                TransactionState::Finalized,
            ];
            let state = TransactionState::try_from(i32::try_from(number).unwrap()).unwrap();
            let place = |state: &TransactionState| chain.iter().position(|one| one == state);
            let is_later = place(&state)
                .zip(place(wanted))
                .is_some_and(|(is, wanted)| is >= wanted);
            [Some(state == *wanted || is_later), None]
        }
    }
}

/// Whether a direction that is on goes back.
pub(crate) fn is_back(test: &Test, direction: usize, number: Decimal, is_retraction: bool) -> bool {
    let is_false = is_true(test, number)[direction] == Some(false);
    match (test, direction) {
        (
            Test::StaysAbove {
                threshold,
                hysteresis,
            },
            _,
        )
        | (
            Test::CrossesUp {
                threshold,
                hysteresis,
            },
            _,
        )
        | (
            Test::CrossesEither {
                threshold,
                hysteresis,
            },
            0,
        ) => is_false && threshold - number >= *hysteresis,
        (
            Test::StaysBelow {
                threshold,
                hysteresis,
            },
            _,
        )
        | (
            Test::CrossesDown {
                threshold,
                hysteresis,
            },
            _,
        )
        | (
            Test::CrossesEither {
                threshold,
                hysteresis,
            },
            _,
        ) => is_false && number - threshold >= *hysteresis,
        (Test::Reaches(wanted), _) => is_false && is_undone(*wanted, number, is_retraction),
        _ => is_false,
    }
}

/// The table of `docs/alerts.md`: the states after which a fire of a transaction is retracted.
fn is_undone(wanted: TransactionState, number: Decimal, is_retraction: bool) -> bool {
    use TransactionState as State;
    let state = State::try_from(i32::try_from(number).unwrap()).unwrap();
    let success = [State::Confirming, State::Confirmed, State::Finalized];
    let others = [State::Replaced, State::Cancelled];
    if [State::Pending, State::Dropped].contains(&wanted) {
        return false;
    }
    if [State::Pending, State::Unknown].contains(&state) {
        return is_retraction;
    }
    let group = |state: State| match state {
        _ if success.contains(&state) => 0,
        _ if others.contains(&state) => 1,
        State::Failed => 2,
        _ => 3,
    };
    is_retraction || group(wanted) != group(state)
}

pub(crate) fn is_crossing(test: &Test) -> bool {
    !matches!(
        test,
        Test::Above(_)
            | Test::Below(_)
            | Test::StaysAbove { .. }
            | Test::StaysBelow { .. }
            | Test::Reaches(_)
    )
}

pub(crate) fn tree(
    condition: &Condition,
    leaves: &mut impl Iterator<Item = Option<bool>>,
) -> Option<bool> {
    match condition {
        Condition::Leaf(_) => leaves.next().unwrap(),
        Condition::All(all) => {
            let truths: Vec<_> = all.iter().map(|one| tree(one, leaves)).collect();
            if truths.contains(&Some(false)) {
                Some(false)
            } else if truths.contains(&None) {
                None
            } else {
                Some(true)
            }
        }
        Condition::Any(any) => {
            let truths: Vec<_> = any.iter().map(|one| tree(one, leaves)).collect();
            if truths.contains(&Some(true)) {
                Some(true)
            } else if truths.contains(&None) {
                None
            } else {
                Some(false)
            }
        }
    }
}
