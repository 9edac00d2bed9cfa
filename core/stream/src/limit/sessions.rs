//! Session limits: admits new sessions by their address and user.

use std::{net::IpAddr, sync::Arc};

use super::{
    AddressLimits, LimitError, LimitOptions, NetworkKey, SessionQuota, quota::QuotaSettings,
    semaphore::KeyedSemaphore,
};
use crate::{Identity, SharedClock, UserId};

/// The limits of all sessions of a server.
pub struct SessionLimits {
    addresses: AddressLimits,
    users: KeyedSemaphore<UserId>,
    settings: Arc<QuotaSettings>,
}

impl std::fmt::Debug for SessionLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionLimits")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl SessionLimits {
    /// Limits by `options`, without any sessions yet.
    #[must_use]
    pub fn new(options: LimitOptions, clock: SharedClock) -> Self {
        let users = KeyedSemaphore::default();
        Self {
            addresses: AddressLimits::new(
                options.connections_per_ip,
                options.handshakes_per_second,
                clock.clone(),
            ),
            settings: QuotaSettings::new(&options, users.clone(), clock),
            users,
        }
    }

    /// Admits a session and returns its quota.
    ///
    /// # Errors
    /// The address or the user has too many sessions, or the address opens them too fast.
    pub fn admit(
        &self,
        address: Option<IpAddr>,
        identity: &Identity,
    ) -> Result<SessionQuota, LimitError> {
        let network = address
            .map(|address| self.addresses.admit(NetworkKey::from(address)))
            .transpose()?;
        let quota = SessionQuota::new(self.settings.clone(), network);
        quota.assign(identity)?;
        Ok(quota)
    }

    /// The number of addresses and of users with open sessions. Tests check with it that
    /// ended sessions leave nothing behind.
    #[must_use]
    pub fn in_use(&self) -> (usize, usize) {
        (self.addresses.connected(), self.users.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualClock, Scope, identity::UserIdentity, limit::Verdict};

    fn user(name: &str) -> Identity {
        Identity::from(UserIdentity::new(UserId::new(name), i64::MAX))
    }

    fn ip(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn limits(options: LimitOptions) -> (Arc<ManualClock>, SessionLimits) {
        let clock = ManualClock::at(1_000_000);
        (clock.clone(), SessionLimits::new(options, clock))
    }

    #[test]
    fn sessions_are_counted_by_address_and_user() {
        let (_, limits) = limits(LimitOptions {
            connections_per_ip: 3,
            connections_per_user: 2,
            ..LimitOptions::default()
        });
        let first = limits.admit(ip(1), &user("ada")).unwrap();
        let second = limits.admit(ip(2), &user("ada")).unwrap();
        let error = limits.admit(ip(3), &user("ada")).unwrap_err();
        assert!(error.to_string().contains("this user has 2 connections"));
        // The refused session does not count for its address.
        let others: Vec<_> = (0..3)
            .map(|_| limits.admit(ip(3), &Identity::Anonymous).unwrap())
            .collect();
        let error = limits.admit(ip(3), &Identity::Anonymous).unwrap_err();
        assert!(error.to_string().contains("10.0.0.3 has 3 connections"));
        // A session may name its user later. It counts once.
        assert!(others[0].assign(&user("ada")).is_err());
        first.release();
        others[0].assign(&user("ada")).unwrap();
        others[0].assign(&user("ada")).unwrap();
        assert_eq!(limits.in_use(), (2, 1));
        drop((second, others));
        assert_eq!(limits.in_use(), (0, 0));
        // A released quota does not count again.
        first.assign(&user("ada")).unwrap();
        assert_eq!(limits.in_use(), (0, 0));
    }

    #[test]
    fn messages_over_the_rate_are_refused_and_a_flood_closes_the_session() {
        let (clock, limits) = limits(LimitOptions {
            messages_per_second: 20,
            ..LimitOptions::default()
        });
        let quota = limits.admit(ip(1), &Identity::Anonymous).unwrap();
        let mut verdicts: Vec<_> = (0..221).map(|_| quota.charge()).collect();
        assert_eq!(verdicts.pop(), Some(Verdict::Close));
        assert!(
            verdicts[..20]
                .iter()
                .all(|verdict| *verdict == Verdict::Pass)
        );
        let refused = Verdict::Refuse { retry_after_ms: 50 };
        assert!(verdicts[20..].iter().all(|verdict| *verdict == refused));
        clock.advance(50);
        assert_eq!(quota.charge(), Verdict::Pass);
    }

    #[test]
    fn a_client_slightly_over_the_rate_is_not_closed() {
        let (clock, limits) = limits(LimitOptions {
            messages_per_second: 100,
            ..LimitOptions::default()
        });
        let quota = limits.admit(ip(1), &Identity::Anonymous).unwrap();
        let mut passed = 0;
        // 125 messages a second for ten minutes.
        for _ in 0..75_000 {
            clock.advance(8);
            match quota.charge() {
                Verdict::Pass => passed += 1,
                Verdict::Refuse { .. } => {}
                Verdict::Close => panic!("closed"),
            }
        }
        assert!((59_000..61_000).contains(&passed), "{passed}");
    }

    #[test]
    fn bytes_are_charged_with_their_message() {
        let (clock, limits) = limits(LimitOptions {
            bytes_per_second: 1_000,
            ..LimitOptions::default()
        });
        let quota = limits.admit(ip(1), &Identity::Anonymous).unwrap();
        quota.record_received(600);
        assert_eq!(quota.charge(), Verdict::Pass);
        quota.record_received(300);
        quota.record_received(300);
        let refused = Verdict::Refuse {
            retry_after_ms: 200,
        };
        assert_eq!(quota.charge(), refused);
        clock.advance(200);
        quota.record_received(600);
        assert_eq!(quota.charge(), Verdict::Pass);
        // A message above a second's worth passes when the bucket is full.
        clock.advance(1_000);
        quota.record_received(5_000);
        assert_eq!(quota.charge(), Verdict::Pass);
        quota.record_received(9_000);
        assert!(matches!(quota.charge(), Verdict::Refuse { .. }));
        quota.record_received(9_000);
        assert_eq!(quota.charge(), Verdict::Close);
    }

    #[test]
    fn the_service_scope_is_exempt_from_rates() {
        let (_, limits) = limits(LimitOptions {
            messages_per_second: 1,
            ..LimitOptions::default()
        });
        let mut service = UserIdentity::new(UserId::new("backend"), i64::MAX);
        service.scopes.insert(Scope::Service);
        let quota = limits.admit(ip(1), &service.into()).unwrap();
        assert!((0..10_000).all(|_| quota.charge() == Verdict::Pass));
    }
}
