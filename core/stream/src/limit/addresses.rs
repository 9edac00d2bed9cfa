//! Address limits: open connections and new connections per second of each address.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{
    LimitError, NetworkKey,
    bucket::{Rate, TokenBucket},
    semaphore::{KeyedPermit, KeyedSemaphore},
};
use crate::SharedClock;

/// Addresses with a bucket of their own. Further addresses share one bucket, so that
/// made-up addresses cannot fill the memory.
const MAX_ADDRESSES: usize = 100_000;

/// Below this number of addresses a sweep is not worth its time.
const MIN_SWEEP: usize = 1_024;

/// Milliseconds between sweeps while [`MAX_ADDRESSES`] are tracked, so that a flood of
/// addresses does not cause a sweep per connection.
const SWEEP_MS: i64 = 1_000;

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
    buckets: Mutex<AddressBuckets>,
}

/// The connection rate of each address. A full bucket is removed, since a new one is
/// full too.
#[derive(Debug, Default)]
struct AddressBuckets {
    by_network: HashMap<NetworkKey, TokenBucket>,
    /// Shared by the addresses beyond [`MAX_ADDRESSES`].
    overflow: TokenBucket,
    sweep_at: usize,
    swept_ms: i64,
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
        buckets.sweep(now_ms);
        let charged = buckets.bucket_of(key).take(rate, now_ms, 1);
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
        self.buckets.lock().by_network.len()
    }
}

impl AddressBuckets {
    fn bucket_of(&mut self, key: NetworkKey) -> &mut TokenBucket {
        if self.by_network.len() >= MAX_ADDRESSES && !self.by_network.contains_key(&key) {
            return &mut self.overflow;
        }
        self.by_network.entry(key).or_default()
    }

    /// Removes full buckets whenever their number has doubled, so that each new address
    /// pays for the sweep of two. At [`MAX_ADDRESSES`] it sweeps once per second.
    fn sweep(&mut self, now_ms: i64) {
        if self.by_network.len() < self.sweep_at.max(MIN_SWEEP) {
            return;
        }
        let is_soon = now_ms.abs_diff(self.swept_ms) < SWEEP_MS.unsigned_abs();
        if self.sweep_at >= MAX_ADDRESSES && is_soon {
            return;
        }
        self.swept_ms = now_ms;
        self.by_network.retain(|_, bucket| !bucket.is_full(now_ms));
        self.sweep_at = (self.by_network.len() * 2).min(MAX_ADDRESSES);
        self.by_network.shrink_to(self.sweep_at.max(MIN_SWEEP));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
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
        assert!(limits.tracked() <= MAX_ADDRESSES);
        clock.advance(60_000);
        for n in 0..3 {
            limits.admit(key(n)).unwrap();
        }
        assert!(limits.tracked() <= 3, "{}", limits.tracked());
    }
}
