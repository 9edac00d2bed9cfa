//! How many connections an address may have, and how fast it may open them.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{
    LimitError, NetworkKey,
    bucket::{Bucket, Rate},
    count::{Counts, Place},
};
use crate::SharedClock;

/// So many addresses are told apart; those beyond share one bucket.
const MAX_ADDRESSES: usize = 100_000;

/// Fewer addresses are not swept.
const MIN_SWEEP: usize = 1_024;

/// While there is no room, the addresses are swept so often, in milliseconds.
const SWEEP_MS: i64 = 1_000;

/// Who finds all places taken may ask again after so many milliseconds.
pub(super) const RETRY_COUNT_MS: u32 = 5_000;

/// What holds for each address.
#[derive(Debug)]
pub struct AddressLimits {
    connections: u32,
    per_second: u32,
    rate: Option<Rate>,
    clock: SharedClock,
    open: Counts<NetworkKey>,
    buckets: Mutex<Buckets>,
}

/// How fast each address came. A bucket that is full again is forgotten.
#[derive(Debug, Default)]
struct Buckets {
    by_network: HashMap<NetworkKey, Bucket>,
    /// Of those that found no place.
    others: Bucket,
    sweep_at: usize,
    swept_ms: i64,
}

impl AddressLimits {
    /// So many connections of each address, and so many new ones a second; 0 for
    /// any number.
    #[must_use]
    pub fn new(connections: u32, per_second: u32, clock: SharedClock) -> Self {
        Self {
            connections,
            per_second,
            rate: (per_second > 0).then(|| Rate::per_second(per_second, per_second)),
            clock,
            open: Counts::default(),
            buckets: Mutex::default(),
        }
    }

    /// Admits a connection.
    ///
    /// # Errors
    /// Its address has too many, or opened too many a moment ago.
    pub fn admit(&self, key: NetworkKey) -> Result<Place<NetworkKey>, LimitError> {
        self.arrive(key)?;
        let limit = self.connections;
        self.open.take(&key, limit).ok_or_else(|| {
            LimitError::new(
                format!("{key} has {limit} connections already, and may not have more"),
                RETRY_COUNT_MS,
            )
        })
    }

    fn arrive(&self, key: NetworkKey) -> Result<(), LimitError> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let now_ms = self.clock.now_ms();
        let mut buckets = self.buckets.lock();
        buckets.sweep(now_ms);
        let taken = buckets.of(key).take(rate, now_ms, 1);
        taken.map_err(|retry_after_ms| {
            LimitError::new(
                format!(
                    "{key} connects more than {} times a second",
                    self.per_second
                ),
                retry_after_ms,
            )
        })
    }

    /// How many addresses have a connection.
    #[must_use]
    pub fn held(&self) -> usize {
        self.open.keys()
    }

    /// How many addresses are remembered for their rate.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.buckets.lock().by_network.len()
    }
}

impl Buckets {
    fn of(&mut self, key: NetworkKey) -> &mut Bucket {
        if self.by_network.len() >= MAX_ADDRESSES && !self.by_network.contains_key(&key) {
            return &mut self.others;
        }
        self.by_network.entry(key).or_default()
    }

    /// Forgets full buckets whenever their number has doubled: so an arrival pays
    /// for the sweep of two. While there is no room, once a second.
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
    fn addresses_come_at_a_rate_and_are_forgotten() {
        let clock = ManualClock::at(0);
        let limits = AddressLimits::new(0, 2, clock.clone());
        let key = |n: u32| NetworkKey::from(IpAddr::from(n.to_be_bytes()));
        assert!(limits.admit(key(1)).is_ok() && limits.admit(key(1)).is_ok());
        assert_eq!(limits.admit(key(1)).unwrap_err().retry_after_ms(), 500);
        assert!(limits.admit(key(2)).is_ok());
        for n in 0..300_000 {
            let _ = limits.admit(key(n));
        }
        assert!(limits.remembered() <= MAX_ADDRESSES);
        clock.advance(60_000);
        for n in 0..3 {
            limits.admit(key(n)).unwrap();
        }
        assert!(limits.remembered() <= 3, "{}", limits.remembered());
    }
}
