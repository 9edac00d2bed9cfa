//! Who may open a session, by address and by user.

use std::net::IpAddr;

use super::{AddressLimits, Allowance, LimitError, LimitOptions, NetworkKey, count::Counts};
use crate::{Identity, SharedClock, UserId};

/// The limits of all sessions of a server.
#[derive(Debug)]
pub struct SessionLimits {
    options: LimitOptions,
    clock: SharedClock,
    addresses: AddressLimits,
    users: Counts<UserId>,
}

impl SessionLimits {
    /// No sessions yet.
    #[must_use]
    pub fn new(options: LimitOptions, clock: SharedClock) -> Self {
        Self {
            addresses: AddressLimits::new(
                options.connections_per_ip,
                options.handshakes_per_second,
                clock.clone(),
            ),
            options,
            clock,
            users: Counts::default(),
        }
    }

    /// Admits a session, if its address and its user have room.
    ///
    /// # Errors
    /// Too many are open, or too many came at once.
    pub fn admit(
        &self,
        address: Option<IpAddr>,
        identity: &Identity,
    ) -> Result<Allowance, LimitError> {
        let network = address
            .map(|address| self.addresses.admit(NetworkKey::from(address)))
            .transpose()?;
        let allowance = Allowance::new(
            self.clock.clone(),
            &self.options,
            self.users.clone(),
            network,
        );
        allowance.assign(identity)?;
        Ok(allowance)
    }

    /// How many addresses and users have open sessions. For tests of what is left.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.addresses.held(), self.users.keys())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        // The refused one left no trace at its address.
        let others: Vec<_> = (0..3)
            .map(|_| limits.admit(ip(3), &Identity::Anonymous).unwrap())
            .collect();
        let error = limits.admit(ip(3), &Identity::Anonymous).unwrap_err();
        assert!(error.to_string().contains("10.0.0.3 has 3 connections"));
        // A user can be known later; the same one is not counted twice.
        assert!(others[0].assign(&user("ada")).is_err());
        first.release();
        others[0].assign(&user("ada")).unwrap();
        others[0].assign(&user("ada")).unwrap();
        assert_eq!(limits.held(), (2, 1));
        drop((second, others));
        assert_eq!(limits.held(), (0, 0));
        // Released is released, whatever comes late.
        first.assign(&user("ada")).unwrap();
        assert_eq!(limits.held(), (0, 0));
    }

    #[test]
    fn messages_are_refused_and_a_flood_ends() {
        let (clock, limits) = limits(LimitOptions {
            messages_per_second: 20,
            ..LimitOptions::default()
        });
        let allowance = limits.admit(ip(1), &Identity::Anonymous).unwrap();
        let mut verdicts: Vec<_> = (0..221).map(|_| allowance.charge()).collect();
        assert_eq!(verdicts.pop(), Some(Verdict::Close));
        assert!(
            verdicts[..20]
                .iter()
                .all(|verdict| *verdict == Verdict::Pass)
        );
        let refused = Verdict::Refuse { retry_after_ms: 50 };
        assert!(verdicts[20..].iter().all(|verdict| *verdict == refused));
        clock.advance(50);
        assert_eq!(allowance.charge(), Verdict::Pass);
    }

    #[test]
    fn a_client_a_little_too_fast_is_not_closed() {
        let (clock, limits) = limits(LimitOptions {
            messages_per_second: 100,
            ..LimitOptions::default()
        });
        let allowance = limits.admit(ip(1), &Identity::Anonymous).unwrap();
        let mut passed = 0;
        // 125 a second for ten minutes.
        for _ in 0..75_000 {
            clock.advance(8);
            match allowance.charge() {
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
        let allowance = limits.admit(ip(1), &Identity::Anonymous).unwrap();
        allowance.received(600);
        assert_eq!(allowance.charge(), Verdict::Pass);
        allowance.received(300);
        allowance.received(300);
        let refused = Verdict::Refuse {
            retry_after_ms: 200,
        };
        assert_eq!(allowance.charge(), refused);
        clock.advance(200);
        allowance.received(600);
        assert_eq!(allowance.charge(), Verdict::Pass);
        // Larger than a second's worth: when there is a whole second's worth.
        clock.advance(1_000);
        allowance.received(5_000);
        assert_eq!(allowance.charge(), Verdict::Pass);
        allowance.received(9_000);
        assert!(matches!(allowance.charge(), Verdict::Refuse { .. }));
        allowance.received(9_000);
        assert_eq!(allowance.charge(), Verdict::Close);
    }

    #[test]
    fn back_ends_are_exempt_from_rates() {
        let (_, limits) = limits(LimitOptions {
            messages_per_second: 1,
            ..LimitOptions::default()
        });
        let mut service = UserIdentity::new(UserId::new("backend"), i64::MAX);
        service.scopes.insert(Scope::Service);
        let allowance = limits.admit(ip(1), &service.into()).unwrap();
        assert!((0..10_000).all(|_| allowance.charge() == Verdict::Pass));
    }
}
