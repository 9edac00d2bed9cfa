//! Payment limits: keep strangers from filling a user's inbox.
//!
//! Anybody can pay anybody. Coins and listed tokens cost the payer something, so each payment
//! has a notification of its own, up to [`SINGLE_PER_HOUR`] for a user; further ones replace each
//! other and none is lost. Anybody can make a token, so payments of other tokens always replace each
//! other, and only [`UNLISTED_PER_DAY`] are notified at all.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::Grouping;

/// Payments of coins and listed tokens in an hour, of one user, that have notifications of their
/// own.
const SINGLE_PER_HOUR: u32 = 100;

/// Payments of other tokens in a day, of one user, that are notified.
const UNLISTED_PER_DAY: u32 = 10;

/// Users that are counted at most. Beyond, users without a count are treated as if theirs were
/// used up.
const MAX_USERS: usize = 100_000;

const HOUR_MS: i64 = 60 * 60 * 1_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Payments of a user in the current hour and day.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    hour: i64,
    single: u32,
    day: i64,
    unlisted: u32,
}

/// The payments of users on all chains. Cheap to clone. A restart begins anew.
#[derive(Debug, Clone, Default)]
pub(crate) struct PaymentLimits(Arc<Mutex<HashMap<String, Counts>>>);

impl PaymentLimits {
    /// How a payment is notified. None if it is not.
    pub(super) fn admit(&self, user: &str, is_listed: bool, now_ms: i64) -> Option<Grouping> {
        let (hour, day) = (now_ms.div_euclid(HOUR_MS), now_ms.div_euclid(DAY_MS));
        let mut users = self.0.lock();
        if users.len() >= MAX_USERS && !users.contains_key(user) {
            users.retain(|_, counts| counts.day == day);
            if users.len() >= MAX_USERS {
                return is_listed.then_some(Grouping::Grouped);
            }
        }
        let counts = users.entry(user.to_owned()).or_default();
        if counts.hour != hour {
            (counts.hour, counts.single) = (hour, 0);
        }
        if counts.day != day {
            (counts.day, counts.unlisted) = (day, 0);
        }
        let (count, most, admitted, beyond) = match is_listed {
            true => (
                &mut counts.single,
                SINGLE_PER_HOUR,
                Grouping::Single,
                Some(Grouping::Grouped),
            ),
            false => (
                &mut counts.unlisted,
                UNLISTED_PER_DAY,
                Grouping::Grouped,
                None,
            ),
        };
        if *count >= most {
            return beyond;
        }
        *count += 1;
        Some(admitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_beyond_the_limit_replace_each_other_until_the_next_hour() {
        let limits = PaymentLimits::default();
        for _ in 0..SINGLE_PER_HOUR {
            assert_eq!(limits.admit("ada", true, 5), Some(Grouping::Single));
        }
        assert_eq!(limits.admit("ada", true, 5), Some(Grouping::Grouped));
        assert_eq!(limits.admit("bob", true, 5), Some(Grouping::Single));
        assert_eq!(limits.admit("ada", true, HOUR_MS), Some(Grouping::Single));
    }

    #[test]
    fn tokens_that_are_not_listed_are_notified_ten_times_a_day() {
        let limits = PaymentLimits::default();
        for _ in 0..UNLISTED_PER_DAY {
            assert_eq!(limits.admit("ada", false, 5), Some(Grouping::Grouped));
        }
        assert_eq!(limits.admit("ada", false, HOUR_MS), None);
        assert_eq!(limits.admit("ada", true, HOUR_MS), Some(Grouping::Single));
        assert_eq!(limits.admit("ada", false, DAY_MS), Some(Grouping::Grouped));
    }

    #[test]
    fn the_users_that_are_counted_are_bounded() {
        let limits = PaymentLimits::default();
        for user in 0..MAX_USERS {
            limits.admit(&user.to_string(), true, 5);
        }
        assert_eq!(limits.admit("ada", true, 5), Some(Grouping::Grouped));
        assert_eq!(limits.admit("ada", false, 5), None);
        assert_eq!(limits.admit("ada", true, DAY_MS), Some(Grouping::Single));
        assert_eq!(limits.0.lock().len(), 1);
    }
}
