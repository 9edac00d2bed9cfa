//! Periods of idempotency keys: the days under which a table has keys.
//!
//! An engine stores its idempotency keys by the day on which they were used, so that it can remove
//! a day as a whole: a row's key is the day since the Unix epoch, in four bytes, then the hash of
//! the key. A key is looked up under every day that the table has, which are two or three. It is
//! therefore found whatever the clock shows meanwhile.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::{Key, SharedStore, StoreError, Table};

/// The periods that a table has.
#[derive(Debug, Default)]
pub struct KeyPeriods(Mutex<BTreeSet<u32>>);

impl KeyPeriods {
    /// Reads the periods of a table: one row of each.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn load(store: &SharedStore, table: Table) -> Result<Self, StoreError> {
        let mut periods = BTreeSet::new();
        let mut after: Option<Key> = None;
        loop {
            let rows = store.scan(table, Key::new(), after.take(), 1).await?;
            let first = rows.first().and_then(|(key, _)| key.first_chunk());
            let Some(period) = first.map(|bytes| u32::from_be_bytes(*bytes)) else {
                break;
            };
            periods.insert(period);
            // Hashes are shorter than this.
            after = Some([period.to_be_bytes().as_slice(), &[u8::MAX; 64]].concat());
        }
        Ok(Self(Mutex::new(periods)))
    }

    /// Adds a period, before a row of it is stored.
    pub fn insert(&self, period: u32) {
        self.0.lock().insert(period);
    }

    /// All periods.
    #[must_use]
    pub fn all(&self) -> Vec<u32> {
        self.0.lock().iter().copied().collect()
    }

    /// Removes the periods before this one, after their rows.
    pub fn remove_before(&self, first: u32) {
        let mut periods = self.0.lock();
        *periods = periods.split_off(&first);
    }
}
