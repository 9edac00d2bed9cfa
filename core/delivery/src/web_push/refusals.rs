//! Refusals: tells a wrong key of this server from subscriptions that are at fault themselves.
//!
//! A push service returns 401 or 403 when it does not accept this server's VAPID key. Anybody may
//! register an endpoint that does so, on a server of their own too. So refusals are counted for
//! each origin and by different users: the key is wrong for an origin if endpoints of [`USERS`]
//! users refuse there, and none accepted in between.
//!
//! From then on one request a minute goes to the endpoints that may be at fault, which are those
//! of the users whose endpoints refused. An endpoint that accepted before, and one of any other
//! user, is sent to as ever. So strangers hold up themselves alone, and the first endpoint that
//! accepts ends it. If the key is wrong indeed, each user costs one request.

use std::{collections::HashSet, num::NonZeroUsize};

use lru::LruCache;
use tidewire_stream::UserId;

use crate::Outcome;

/// Users whose endpoints refuse, without one that accepts, from which the key is wrong.
const USERS: usize = 3;

/// Users of one origin who are told apart. Beyond them, everybody waits for the probe.
const MAX_USERS: usize = 1_000;

/// Origins whose refusals are known. The one that refused longest ago is forgotten first.
const MAX_ORIGINS: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// Registrations that are known to have accepted a message.
const MAX_ACCEPTED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Time between two probes while the key is wrong, in milliseconds.
const PROBE_INTERVAL_MS: i64 = 60_000;

/// An endpoint, as far as refusals tell endpoints apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoint<'a> {
    /// Scheme, host and port of the push service.
    pub(super) origin: &'a str,
    /// Id of the registration.
    pub(super) registration: &'a str,
    /// The user who registered it.
    pub(super) user: &'a UserId,
}

/// The refusals of all origins.
#[derive(Debug)]
pub(super) struct Refusals {
    origins: LruCache<String, Episode>,
    accepted: LruCache<String, ()>,
}

/// The refusals of one origin since an endpoint last accepted.
#[derive(Debug)]
struct Episode {
    users: HashSet<UserId>,
    /// The time of the newest probe.
    probed_ms: i64,
}

impl Episode {
    fn is_misconfigured(&self) -> bool {
        self.users.len() >= USERS
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            origins: LruCache::new(MAX_ORIGINS),
            accepted: LruCache::new(MAX_ACCEPTED),
        }
    }
}

impl Refusals {
    /// Whether a request may be sent now.
    pub(super) fn may_send(&mut self, endpoint: Endpoint<'_>, now_ms: i64) -> bool {
        let Some(episode) = self.origins.peek_mut(endpoint.origin) else {
            return true;
        };
        let is_innocent = !episode.users.contains(endpoint.user) && episode.users.len() < MAX_USERS;
        if !episode.is_misconfigured()
            || is_innocent
            || self.accepted.contains(endpoint.registration)
        {
            return true;
        }
        // The clock may have been set back.
        let since = now_ms.saturating_sub(episode.probed_ms);
        let may_probe = !(0..PROBE_INTERVAL_MS).contains(&since);
        if may_probe {
            episode.probed_ms = now_ms;
        }
        may_probe
    }

    /// The outcome of a request that was not sent.
    pub(super) fn held_up(origin: &str) -> Outcome {
        Outcome::Misconfigured {
            reason: format!("the push endpoints of {origin} refuse this server"),
        }
    }

    /// Records a refusal, and returns its outcome.
    pub(super) fn refuse(
        &mut self,
        endpoint: Endpoint<'_>,
        reason: String,
        now_ms: i64,
    ) -> Outcome {
        self.accepted.pop(endpoint.registration);
        let origin = endpoint.origin;
        let episode = self
            .origins
            .get_or_insert_mut(origin.to_owned(), || Episode {
                users: HashSet::new(),
                probed_ms: now_ms,
            });
        if episode.users.len() < MAX_USERS {
            episode.users.insert(endpoint.user.clone());
        }
        match episode.is_misconfigured() {
            true => Outcome::Misconfigured {
                reason: format!(
                    "the push endpoints of {origin} refuse this server, expected another delivery.push.vapid_private_key or subject: {reason}"
                ),
            },
            false => Outcome::Paused { reason },
        }
    }

    /// Records that an endpoint accepted a message: its origin accepts the key.
    pub(super) fn accept(&mut self, endpoint: Endpoint<'_>) {
        self.origins.pop(endpoint.origin);
        self.accepted.put(endpoint.registration.to_owned(), ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(refusals: &mut Refusals, origin: &str, user: &str, now_ms: i64) -> Outcome {
        let user = UserId::new(user);
        let registration = format!("{origin} of {user:?}");
        let endpoint = Endpoint {
            origin,
            registration: &registration,
            user: &user,
        };
        refusals.refuse(endpoint, "HTTP status 403".to_owned(), now_ms)
    }

    fn may_send(refusals: &mut Refusals, registration: &str, user: &str, now_ms: i64) -> bool {
        let user = UserId::new(user);
        let endpoint = Endpoint {
            origin: "https://push.example.com",
            registration,
            user: &user,
        };
        refusals.may_send(endpoint, now_ms)
    }

    #[test]
    fn refusals_count_for_each_origin_and_by_different_users() {
        let origin = "https://push.example.com";
        let mut refusals = Refusals::default();
        // One user is at fault, however many endpoints refuse.
        for now_ms in 0..10 {
            let outcome = refuse(&mut refusals, origin, "eve", now_ms);
            assert!(matches!(outcome, Outcome::Paused { .. }));
        }
        for user in ["mallory", "trudy", "oscar"] {
            let outcome = refuse(&mut refusals, "https://other.example", user, 10);
            let is_third = user == "oscar";
            assert_eq!(matches!(outcome, Outcome::Misconfigured { .. }), is_third);
        }
        refuse(&mut refusals, origin, "mallory", 10);
        assert!(may_send(&mut refusals, "e", "eve", 11));
        let Outcome::Misconfigured { reason } = refuse(&mut refusals, origin, "trudy", 10) else {
            panic!("three users' endpoints refuse");
        };
        assert!(reason.contains("vapid_private_key"), "{reason}");
    }

    #[test]
    fn those_who_refused_wait_for_a_probe_and_nobody_else() {
        let origin = "https://push.example.com";
        let mut refusals = Refusals::default();
        let eve = UserId::new("eve");
        let accepting = Endpoint {
            origin,
            registration: "good",
            user: &eve,
        };
        refusals.accept(accepting);
        for user in ["eve", "mallory", "trudy"] {
            refuse(&mut refusals, origin, user, 1_000);
        }
        // One a minute.
        assert!(!may_send(&mut refusals, "e", "eve", 60_999));
        assert!(may_send(&mut refusals, "e", "eve", 61_000));
        assert!(!may_send(&mut refusals, "t", "trudy", 61_001));
        assert!(
            may_send(&mut refusals, "t", "trudy", 0),
            "the clock was set back"
        );
        // All others, and an endpoint that accepted before.
        for now_ms in [1, 2] {
            assert!(may_send(&mut refusals, "a", "ada", now_ms));
            assert!(may_send(&mut refusals, "good", "eve", now_ms));
        }
        refusals.accept(accepting);
        assert!(may_send(&mut refusals, "t", "trudy", 1));
        // An endpoint that refuses is no longer one that accepted.
        for user in ["eve", "mallory", "trudy"] {
            refuse(&mut refusals, origin, user, 1_000);
        }
        let refusing = Endpoint {
            origin,
            registration: "good",
            user: &eve,
        };
        refusals.refuse(refusing, String::new(), 1_000);
        assert!(!may_send(&mut refusals, "good", "eve", 1_001));
    }

    #[test]
    fn origins_and_users_have_a_bound() {
        let mut refusals = Refusals::default();
        for number in 0..MAX_ORIGINS.get() + 10 {
            refuse(&mut refusals, &format!("https://{number}"), "eve", 1);
        }
        assert_eq!(refusals.origins.len(), MAX_ORIGINS.get());
        for number in 0..MAX_USERS + 10 {
            refuse(
                &mut refusals,
                "https://push.example.com",
                &number.to_string(),
                1,
            );
        }
        let episode = refusals.origins.peek("https://push.example.com").unwrap();
        assert_eq!(episode.users.len(), MAX_USERS);
        assert!(!may_send(&mut refusals, "a", "ada", 2));
        assert!(may_send(&mut refusals, "a", "ada", 60_001));
    }
}
