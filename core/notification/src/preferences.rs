//! Preferences of a user: checks, and quiet hours.
//!
//! Minimum priority and muted types act in `counts`: they are a view on the inbox. Quiet hours,
//! the digest and the delivery channels act on the delivery outside of the application; the hub
//! stores and checks them.
//!
//! # Quiet hours
//! They are wall-clock times of an IANA time zone, from `start` to before `end`, over midnight if
//! `end` is earlier. On the day of a clock change they keep their wall-clock times, so a night
//! is an hour shorter or longer. Hours that end within an hour that the clock repeats hold twice:
//! before their end, and again after the clock was set back, until it shows their end once more.
//! Hours that end within an hour that the clock leaves out end when it is left out.

use jiff::{Timestamp, civil::Time, tz::TimeZone};
use smallvec::SmallVec;
use tidewire_proto::v1::{DeliveryFilter, Notification, NotificationType, Preferences, Priority};

use crate::{
    NotificationError,
    config::DAY_MS,
    counts::Visibility,
    kind::{Class, KindRegistry},
};

/// Clock changes of a zone within a day at most, and one more.
const MAX_CHANGES: usize = 8;

/// Daily hours without delivery.
#[derive(Debug, Clone)]
pub struct QuietHours {
    start: Time,
    end: Time,
    zone: TimeZone,
}

impl QuietHours {
    /// Reads the quiet hours of the wire.
    ///
    /// # Errors
    /// A time or the zone is malformed, or the hours are empty.
    pub fn parse(hours: &tidewire_proto::v1::QuietHours) -> Result<Self, NotificationError> {
        let start = parse_time("quietHours.start", &hours.start)?;
        let end = parse_time("quietHours.end", &hours.end)?;
        if start == end {
            let problem = format!(
                "{:?} is also `quietHours.start`, expected another time",
                hours.end
            );
            return Err(NotificationError::invalid("quietHours.end", problem));
        }
        let zone = TimeZone::get(&hours.time_zone).map_err(|_| {
            let given = match hours.time_zone.as_str() {
                "" => "missing".to_owned(),
                name => format!("{name:?}"),
            };
            let problem = format!("{given}, expected an IANA time zone like Europe/Vienna");
            NotificationError::invalid("quietHours.timeZone", problem)
        })?;
        Ok(Self { start, end, zone })
    }

    /// Whether a time, in milliseconds since the Unix epoch, is in the quiet hours.
    #[must_use]
    pub fn is_quiet(&self, now_ms: i64) -> bool {
        let Ok(now) = Timestamp::from_millisecond(now_ms) else {
            return false;
        };
        let time = now.to_zoned_datetime(self.zone.clone()).time();
        match self.start < self.end {
            true => self.start <= time && time < self.end,
            false => self.start <= time || time < self.end,
        }
    }

    /// The first moment after `now_ms` at which quiet hours do not hold, in milliseconds since the
    /// Unix epoch. None if they do not hold at `now_ms`.
    #[must_use]
    pub fn end_ms(&self, now_ms: i64) -> Option<i64> {
        let mut from_ms = now_ms;
        // Each turn ends at a clock change of the zone, or with the result, a day later at most.
        for _ in 0..MAX_CHANGES {
            if !self.is_quiet(from_ms) {
                return (from_ms > now_ms).then_some(from_ms);
            }
            let from = Timestamp::from_millisecond(from_ms).ok()?;
            let time = from.to_zoned_datetime(self.zone.clone()).time();
            let left_ms = (time_ms(self.end) - time_ms(time)).rem_euclid(DAY_MS);
            let end_ms = from_ms.checked_add(left_ms)?;
            let change = self.zone.following(from).next();
            let change_ms = change.map(|change| change.timestamp().as_millisecond());
            match change_ms.filter(|change_ms| *change_ms <= end_ms) {
                Some(change_ms) => from_ms = change_ms,
                None => return Some(end_ms),
            }
        }
        Some(from_ms)
    }
}

/// A time of day in milliseconds.
fn time_ms(time: Time) -> i64 {
    let minutes = i64::from(time.hour()) * 60 + i64::from(time.minute());
    (minutes * 60 + i64::from(time.second())) * 1_000 + i64::from(time.millisecond())
}

fn parse_time(field: &str, text: &str) -> Result<Time, NotificationError> {
    let read = || {
        let (hour, minute) = text.split_once(':').filter(|_| text.len() == 5)?;
        let number = |digits: &str| {
            let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<i8>().ok())?
        };
        Time::new(number(hour)?, number(minute)?, 0, 0).ok()
    };
    read().ok_or_else(|| {
        let given = match text {
            "" => "missing".to_owned(),
            _ => format!("{text:?}"),
        };
        NotificationError::invalid(
            field,
            format!("{given}, expected HH:MM from 00:00 to 23:59"),
        )
    })
}

/// Checks preferences, and returns the classes that they show.
pub(crate) fn check(
    kinds: &KindRegistry,
    preferences: &Preferences,
) -> Result<Visibility, NotificationError> {
    if let Some(hours) = &preferences.quiet_hours {
        QuietHours::parse(hours)?;
    }
    if let Some(channels) = &preferences.channels {
        let filters = [
            ("push", &channels.push),
            ("email", &channels.email),
            ("webhook", &channels.webhook),
        ];
        for (name, filter) in filters {
            let Some(filter) = filter else { continue };
            check_filter(kinds, &format!("channels.{name}."), filter)?;
        }
    }
    let filter = DeliveryFilter {
        min_priority: preferences.min_priority,
        muted_types: preferences.muted_types.clone(),
        custom_muted_types: preferences.custom_muted_types.clone(),
        ..DeliveryFilter::default()
    };
    check_filter(kinds, "", &filter)
}

fn check_filter(
    kinds: &KindRegistry,
    path: &str,
    filter: &DeliveryFilter,
) -> Result<Visibility, NotificationError> {
    let min_priority = match filter.min_priority {
        None => 0,
        Some(number) => match Priority::try_from(number) {
            Ok(priority) => priority as u8,
            Err(_) => {
                let problem = format!("{number}, expected one of low, medium, high, urgent");
                return Err(NotificationError::invalid(
                    format!("{path}minPriority"),
                    problem,
                ));
            }
        },
    };
    let field = format!("{path}mutedTypes");
    let mut muted: SmallVec<_> = kinds
        .find_all(&field, &filter.muted_types, &filter.custom_muted_types)?
        .into();
    muted.sort_unstable();
    muted.dedup();
    Ok(Visibility {
        min_priority,
        muted,
    })
}

/// The classes that a delivery channel delivers to a user.
pub(crate) fn filter(kinds: &KindRegistry, filter: &DeliveryFilter) -> Visibility {
    // It was checked when it was set. A type that is not configured any more mutes nothing.
    check_filter(kinds, "", filter).unwrap_or_default()
}

/// Whether preferences that were checked show a notification of the server.
pub(crate) fn shows(preferences: &Preferences, notification: &Notification) -> bool {
    let is_exempt = notification.priority() == Priority::Urgent
        || notification.r#type() == NotificationType::SecurityWarning;
    let is_muted = match notification.custom_type.as_str() {
        "" => preferences.muted_types.contains(&notification.r#type),
        name => preferences
            .custom_muted_types
            .iter()
            .any(|muted| muted == name),
    };
    is_exempt || (notification.priority >= preferences.min_priority.unwrap_or(0) && !is_muted)
}

/// Whether quiet hours hold a notification back. Urgent ones and security warnings are exempt.
#[must_use]
pub fn is_held_back(hours: &QuietHours, class: Class, now_ms: i64) -> bool {
    !class.is_exempt() && hours.is_quiet(now_ms)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn hours(start: &str, end: &str, zone: &str) -> Result<QuietHours, NotificationError> {
        QuietHours::parse(&tidewire_proto::v1::QuietHours {
            start: start.to_owned(),
            end: end.to_owned(),
            time_zone: zone.to_owned(),
        })
    }

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn quiet_hours_of_new_york_keep_their_wall_clock_times_over_both_clock_changes() {
        let night = hours("22:00", "07:00", "America/New_York").unwrap();
        // Summer time: UTC−4.
        assert!(!night.is_quiet(ms("2025-07-01T01:59:59Z")));
        assert!(night.is_quiet(ms("2025-07-01T02:00:00Z")));
        assert!(night.is_quiet(ms("2025-07-01T10:59:59Z")));
        assert!(!night.is_quiet(ms("2025-07-01T11:00:00Z")));
        // The clock goes back in the night to 2 November: the night has an hour more.
        let start = ms("2025-11-02T02:00:00Z");
        assert!(!night.is_quiet(start - 1) && night.is_quiet(start));
        let end = ms("2025-11-02T12:00:00Z");
        assert!(night.is_quiet(end - 1) && !night.is_quiet(end));
        assert_eq!(
            (night.end_ms(start), night.end_ms(end - 1)),
            (Some(end), Some(end))
        );
        assert_eq!(end - start, 10 * 3_600_000);
        // The clock goes forward in the night to 8 March: the night has an hour less.
        let start = ms("2026-03-08T03:00:00Z");
        let end = ms("2026-03-08T11:00:00Z");
        assert!(!night.is_quiet(start - 1) && night.is_quiet(start));
        assert!(night.is_quiet(end - 1) && !night.is_quiet(end));
        assert_eq!((night.end_ms(start), night.end_ms(end)), (Some(end), None));
    }

    #[test]
    fn hours_that_end_in_the_gap_or_in_the_repeated_hour() {
        // 02:30 does not exist on 8 March 2026: the clock goes from 02:00 to 03:00.
        let night = hours("22:00", "02:30", "America/New_York").unwrap();
        assert_eq!(
            night.end_ms(ms("2026-03-08T03:00:00Z")),
            Some(ms("2026-03-08T07:00:00Z"))
        );
        // 01:30 comes twice on 1 November 2026, and so do the minutes before it.
        let night = hours("22:00", "01:30", "America/New_York").unwrap();
        for (now, end) in [
            ("2026-11-01T02:00:00Z", Some("2026-11-01T05:30:00Z")),
            ("2026-11-01T05:29:59.999Z", Some("2026-11-01T05:30:00Z")),
            ("2026-11-01T05:30:00Z", None),
            ("2026-11-01T06:00:00Z", Some("2026-11-01T06:30:00Z")),
            ("2026-11-01T06:29:40Z", Some("2026-11-01T06:30:00Z")),
            ("2026-11-01T06:30:00Z", None),
        ] {
            assert_eq!(night.end_ms(ms(now)), end.map(ms), "{now}");
        }
    }

    #[test]
    fn hours_end_at_the_first_moment_that_is_not_quiet_around_all_clock_changes() {
        const MINUTE_MS: i64 = 60_000;
        let zones = [
            "America/New_York",
            "Europe/Berlin",
            "Europe/Dublin",
            "Africa/Casablanca",
            "Africa/Cairo",
            // Half an hour, and three quarters beside the hour.
            "Australia/Lord_Howe",
            "Pacific/Chatham",
            // At midnight.
            "America/Havana",
            "America/Santiago",
            "Asia/Beirut",
            "America/St_Johns",
            // Two hours.
            "Antarctica/Troll",
            "Asia/Kolkata",
        ];
        let spans = [
            ("22:00", "07:00"),
            ("22:00", "01:30"),
            ("01:10", "01:30"),
            ("22:00", "02:30"),
            ("02:15", "02:45"),
            ("23:30", "00:15"),
            ("00:00", "23:59"),
            ("02:30", "01:30"),
            ("03:00", "02:00"),
        ];
        for zone in zones {
            let tz = TimeZone::get(zone).unwrap();
            let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let changes = tz.following(start).map(|change| change.timestamp());
            let changes: Vec<_> = changes.take(2).chain([start]).collect();
            for (from, to) in spans {
                let hours = hours(from, to, zone).unwrap();
                for change in &changes {
                    let change_ms = change.as_millisecond();
                    // Backwards, so that the next moment that is not quiet is known. Hours and
                    // changes begin and end at whole minutes.
                    let mut end_ms = None;
                    for minute in (-6 * 60..30 * 60).rev() {
                        let now_ms = change_ms + minute * MINUTE_MS;
                        let is_quiet = hours.is_quiet(now_ms);
                        if !is_quiet {
                            end_ms = Some(now_ms);
                            assert_eq!(hours.end_ms(now_ms), None, "{zone} {from} {to} {now_ms}");
                        } else if minute < 6 * 60 {
                            for now_ms in [now_ms, now_ms + 17_345] {
                                let found = hours.end_ms(now_ms);
                                assert_eq!(found, end_ms, "{zone} {from} {to} {now_ms}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn hours_within_a_day_and_a_zone_without_changes() {
        let noon = hours("12:00", "13:30", "UTC").unwrap();
        assert!(!noon.is_quiet(ms("2025-01-01T11:59:59Z")));
        assert!(noon.is_quiet(ms("2025-01-01T12:00:00Z")));
        assert!(!noon.is_quiet(ms("2025-01-01T13:30:00Z")));
        assert_eq!(
            noon.end_ms(ms("2025-01-01T12:10:00Z")),
            Some(ms("2025-01-01T13:30:00Z"))
        );
        let half = hours("00:00", "06:00", "Asia/Kolkata").unwrap();
        assert!(
            half.is_quiet(ms("2025-01-01T18:30:00Z")) && !half.is_quiet(ms("2025-01-01T18:29:00Z"))
        );
    }

    #[test]
    fn a_notification_is_shown_where_its_class_is() {
        let custom = ["order".to_owned(), "refund".to_owned()];
        let (kinds, _) = KindRegistry::new(HashMap::new(), &custom).unwrap();
        let types = [(1, ""), (6, ""), (8, ""), (0, "order"), (0, "refund")];
        let mut tested = 0;
        for min_priority in [None, Some(1), Some(2), Some(3), Some(4)] {
            for (muted_types, custom_muted_types) in [
                (vec![], vec![]),
                (vec![1, 6], vec!["order".to_owned()]),
                (vec![8], custom.to_vec()),
            ] {
                let preferences = Preferences {
                    min_priority,
                    muted_types,
                    custom_muted_types,
                    ..Preferences::default()
                };
                let visibility = check(&kinds, &preferences).unwrap();
                for (number, name) in types {
                    for priority in 1..=4 {
                        let kind = kinds.find("type", number, name).unwrap();
                        let class = Class::new(kind, Priority::try_from(priority).unwrap());
                        let one = Notification {
                            r#type: number,
                            custom_type: name.to_owned(),
                            priority,
                            ..Notification::default()
                        };
                        let is_shown = shows(&preferences, &one);
                        assert_eq!(is_shown, visibility.shows(class), "{preferences:?} {one:?}");
                        tested += 1;
                    }
                }
            }
        }
        assert_eq!(tested, 300);
    }

    #[test]
    fn bad_hours_name_the_field() {
        let refusal = |start, end, zone| hours(start, end, zone).unwrap_err().to_string();
        for bad in [
            "24:00", "7:00", "07:60", "0700", "ab:cd", "+1:00", "07:00:00",
        ] {
            assert_eq!(
                refusal(bad, "07:00", "UTC"),
                format!("`quietHours.start`: {bad:?}, expected HH:MM from 00:00 to 23:59")
            );
        }
        assert_eq!(
            refusal("", "07:00", "UTC"),
            "`quietHours.start`: missing, expected HH:MM from 00:00 to 23:59"
        );
        assert!(refusal("07:00", "x", "UTC").starts_with("`quietHours.end`"));
        assert!(refusal("07:00", "07:00", "UTC").starts_with("`quietHours.end`"));
        for zone in [
            "",
            "Mars/Olympus",
            "+02:00",
            "EST5EDT,M3.2.0,M11.1.0",
            "../../etc/passwd",
        ] {
            assert!(
                refusal("07:00", "08:00", zone).starts_with("`quietHours.timeZone`"),
                "{zone}"
            );
        }
    }

    #[test]
    fn urgent_ones_and_security_warnings_are_never_held_back() {
        let always = hours("00:00", "23:59", "UTC").unwrap();
        let class = |kind, priority| Class::new(crate::kind::Kind(kind), priority);
        assert!(is_held_back(&always, class(1, Priority::High), 0));
        assert!(!is_held_back(&always, class(1, Priority::Urgent), 0));
        assert!(!is_held_back(&always, class(6, Priority::Low), 0));
    }
}
