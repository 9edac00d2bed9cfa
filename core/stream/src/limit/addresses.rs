//! Address limits: open connections and new connections per second of each address.

use parking_lot::Mutex;

use super::{
    LimitError, NetworkKey,
    bucket::{Rate, TokenBucket},
    keyed::{Entry, KeyedBuckets},
    semaphore::{KeyedPermit, KeyedSemaphore},
};
use crate::SharedClock;

/// Milliseconds after which a client may try again when its connections are in use.
pub(super) const RETRY_COUNT_MS: u32 = 5_000;

/// The limits of each address.
#[derive(Debug)]
pub struct AddressLimits {
    connections: u32,
    per_second: u32,
    rate: Option<Rate>,
    clock: SharedClock,
    open: KeyedSemaphore<NetworkKey>,
    buckets: Mutex<KeyedBuckets<NetworkKey, TokenBucket>>,
}

impl Entry for TokenBucket {
    fn is_full(&self, now_ms: i64) -> bool {
        Self::is_full(self, now_ms)
    }
}

impl AddressLimits {
    /// Limits each address to `connections` open connections and `per_second` new ones
    /// per second. 0 means no limit.
    #[must_use]
    pub fn new(connections: u32, per_second: u32, clock: SharedClock) -> Self {
        Self {
            connections,
            per_second,
            rate: (per_second > 0).then(|| Rate::per_second(per_second, per_second)),
            clock,
            open: KeyedSemaphore::default(),
            buckets: Mutex::default(),
        }
    }

    /// Admits a connection. The permit counts it until it is dropped.
    ///
    /// # Errors
    /// The address has too many connections open, or opened too many within a second.
    pub fn admit(&self, key: NetworkKey) -> Result<KeyedPermit<NetworkKey>, LimitError> {
        self.charge(key)?;
        let limit = self.connections;
        self.open.try_acquire(&key, limit).ok_or_else(|| {
            LimitError::new(
                format!("{key} has {limit} connections already, and may not have more"),
                RETRY_COUNT_MS,
            )
        })
    }

    fn charge(&self, key: NetworkKey) -> Result<(), LimitError> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let now_ms = self.clock.now_ms();
        let mut buckets = self.buckets.lock();
        let charged = buckets.of(key, now_ms).take(rate, now_ms, 1);
        charged.map_err(|retry_after_ms| {
            LimitError::new(
                format!(
                    "{key} connects more than {} times a second",
                    self.per_second
                ),
                retry_after_ms,
            )
        })
    }

    /// The number of addresses with an open connection.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.open.keys()
    }

    /// The number of addresses with a bucket of their own.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.buckets.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{super::keyed::MAX_KEYS, *};
    use crate::ManualClock;

    #[test]
    fn each_address_has_its_rate_and_idle_addresses_are_removed() {
        let clock = ManualClock::at(0);
        let limits = AddressLimits::new(0, 2, clock.clone());
        let key = |n: u32| NetworkKey::from(IpAddr::from(n.to_be_bytes()));
        assert!(limits.admit(key(1)).is_ok() && limits.admit(key(1)).is_ok());
        assert_eq!(limits.admit(key(1)).unwrap_err().retry_after_ms(), 500);
        assert!(limits.admit(key(2)).is_ok());
        for n in 0..300_000 {
            let _ = limits.admit(key(n));
        }
        assert!(limits.tracked() <= MAX_KEYS);
        clock.advance(60_000);
        for n in 0..3 {
            limits.admit(key(n)).unwrap();
        }
        assert!(limits.tracked() <= 3, "{}", limits.tracked());
    }
}
