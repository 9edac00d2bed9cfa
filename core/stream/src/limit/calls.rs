//! Call limits: message and byte rates of clients that call RPCs, without a session.
//!
//! The rates are those of a session. They hold for a user over all connections, or for an
//! address where there is no token. The `service` scope is exempt. A call that finds its bucket
//! empty is refused, and never closes a connection: others may share it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    ClientKey, LimitError, LimitOptions,
    bucket::{Rate, TokenBucket},
    keyed::{Entry, KeyedBuckets},
};
use crate::{Caller, Scope, SharedClock};

/// The limits of all calls of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallLimits(Arc<SharedLimits>);

#[derive(Debug)]
struct SharedLimits {
    messages: Option<Rate>,
    bytes: Option<Rate>,
    clock: SharedClock,
    clients: Mutex<KeyedBuckets<ClientKey, CallBuckets>>,
}

#[derive(Debug, Default)]
struct CallBuckets {
    messages: TokenBucket,
    bytes: TokenBucket,
}

impl Entry for CallBuckets {
    fn is_full(&self, now_ms: i64) -> bool {
        self.messages.is_full(now_ms) && self.bytes.is_full(now_ms)
    }
}

impl CallLimits {
    /// Limits by the rates of `options`.
    #[must_use]
    pub fn new(options: &LimitOptions, clock: SharedClock) -> Self {
        let rate =
            |per_second: u32| (per_second > 0).then(|| Rate::per_second(per_second, per_second));
        Self(Arc::new(SharedLimits {
            messages: rate(options.messages_per_second),
            bytes: rate(options.bytes_per_second),
            clock,
            clients: Mutex::default(),
        }))
    }

    /// Charges a call of `bytes` bytes, and returns the quota for what the call contains.
    ///
    /// # Errors
    /// The client calls more often, or sends more bytes, than it may.
    pub fn charge(&self, caller: &Caller, bytes: usize) -> Result<CallQuota, LimitError> {
        let limits = &*self.0;
        let is_exempt = caller.identity.has(Scope::Service);
        if is_exempt || (limits.messages.is_none() && limits.bytes.is_none()) {
            return Ok(CallQuota(None));
        }
        let key = ClientKey::from(caller);
        let now_ms = limits.clock.now_ms();
        let mut clients = limits.clients.lock();
        let buckets = clients.of(key.clone(), now_ms);
        let take = |bucket: &mut TokenBucket, rate: Option<Rate>, amount: u64| match rate {
            Some(rate) => bucket.take(rate, now_ms, amount),
            None => Ok(()),
        };
        take(&mut buckets.messages, limits.messages, 1)
            .and_then(|()| take(&mut buckets.bytes, limits.bytes, bytes as u64))
            .map_err(|retry_after_ms| {
                let refusal = "this client sends more than it may: slow down";
                LimitError::new(refusal.to_owned(), retry_after_ms)
            })?;
        Ok(CallQuota(Some((self.clone(), key))))
    }

    /// The number of clients whose calls are counted.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.0.clients.lock().len()
    }
}

/// The quota of one call, for what it contains beside itself.
#[derive(Debug, Clone)]
pub struct CallQuota(Option<(CallLimits, ClientKey)>);

impl CallQuota {
    /// Charges further messages of the call, after the fact: later calls wait for them. So a
    /// call is served as a whole, and a client that packs many messages into one is no faster.
    pub fn charge_messages(&self, messages: usize) {
        let Some((limits, key)) = &self.0 else {
            return;
        };
        let Some(rate) = limits.0.messages else {
            return;
        };
        let now_ms = limits.0.clock.now_ms();
        let mut clients = limits.0.clients.lock();
        let buckets = clients.of(key.clone(), now_ms);
        buckets.messages.overdraw(rate, now_ms, messages as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, ManualClock, UserId, identity::UserIdentity};

    fn limits(messages: u32, bytes: u32) -> (CallLimits, Arc<ManualClock>) {
        let clock = ManualClock::at(0);
        let options = LimitOptions {
            messages_per_second: messages,
            bytes_per_second: bytes,
            ..LimitOptions::default()
        };
        (CallLimits::new(&options, clock.clone()), clock)
    }

    fn anonymous(last: u8) -> Caller {
        Caller {
            address: Some([10, 0, 0, last].into()),
            ..Caller::from(Identity::Anonymous)
        }
    }

    fn user(name: &str, scope: Option<Scope>) -> Caller {
        let identity = UserIdentity {
            scopes: scope.into_iter().collect(),
            ..UserIdentity::new(UserId::new(name), i64::MAX)
        };
        Caller {
            address: Some([10, 0, 0, 1].into()),
            ..Caller::from(Identity::from(identity))
        }
    }

    #[test]
    fn each_client_has_its_own_rates() {
        let (limits, clock) = limits(2, 0);
        for caller in [
            anonymous(1),
            anonymous(2),
            user("ada", None),
            user("bob", None),
        ] {
            for _ in 0..2 {
                limits.charge(&caller, 9).unwrap();
            }
            let refused = limits.charge(&caller, 9).unwrap_err();
            assert_eq!(refused.retry_after_ms(), 500);
        }
        clock.set(500);
        limits.charge(&anonymous(1), 9).unwrap();
        assert!(limits.charge(&anonymous(1), 9).is_err());
        let service = user("backend", Some(Scope::Service));
        for _ in 0..10 {
            limits.charge(&service, 9).unwrap().charge_messages(1_000);
        }
    }

    #[test]
    fn bytes_are_limited() {
        let (limits, clock) = limits(0, 1_000);
        limits.charge(&anonymous(1), 900).unwrap();
        assert!(limits.charge(&anonymous(1), 900).is_err());
        clock.set(800);
        limits.charge(&anonymous(1), 900).unwrap();
    }

    #[test]
    fn later_calls_wait_for_the_messages_of_a_batch() {
        let (limits, clock) = limits(10, 0);
        let ada = user("ada", None);
        limits.charge(&ada, 1).unwrap().charge_messages(99);
        assert_eq!(limits.charge(&ada, 1).unwrap_err().retry_after_ms(), 9_100);
        clock.set(9_100);
        limits.charge(&ada, 1).unwrap();
        clock.set(30_000);
        limits.charge(&anonymous(1), 1).unwrap();
        assert!(limits.tracked() <= 2);
    }
}
