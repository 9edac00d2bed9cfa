//! Clock steps: rows that a clock that was ahead put off are judged anew once it is set right.
//!
//! The planner looks at a row at its due time. One that a clock 12 hours ahead chose would hold the
//! row back for 12 hours more: quiet hours that have not begun, or a delay that has passed long ago.
//! Each row therefore has the time at which it was written. If the clock shows an earlier one, the
//! row moves to the present.
//!
//! All rows are read only where the clock went back, and once after a start: it may have gone back
//! while the server was down.

use std::sync::atomic::{AtomicI64, Ordering};

use tidewire_notification::{NotificationError, NotificationHub, Outgoing};
use tidewire_store::{Batch, SharedStore};

/// Rows of one read, and of one transaction.
const PAGE: usize = 1_000;

/// A step back that is none, in milliseconds: clocks are adjusted all the time.
const TOLERANCE_MS: i64 = 1_000;

/// Follows the clock of a planner.
#[derive(Debug)]
pub(super) struct ClockSteps {
    /// The latest time that was seen.
    latest_ms: AtomicI64,
    /// The longest time that a row waits.
    longest_ms: i64,
}

impl ClockSteps {
    /// Rows wait for `longest_ms` at most, by a right clock.
    pub(super) fn new(longest_ms: i64) -> Self {
        Self {
            latest_ms: AtomicI64::new(i64::MAX),
            longest_ms,
        }
    }

    /// If the clock went back since the last call, moves the rows that it put off before to the
    /// present. The first call looks at all rows.
    pub(super) async fn follow(
        &self,
        hub: &NotificationHub,
        store: &SharedStore,
        now_ms: i64,
    ) -> Result<(), NotificationError> {
        let latest_ms = self.latest_ms.load(Ordering::Relaxed);
        if now_ms.saturating_add(TOLERANCE_MS) >= latest_ms {
            self.latest_ms.fetch_max(now_ms, Ordering::Relaxed);
            return Ok(());
        }
        let mut last: Option<Outgoing> = None;
        loop {
            let rows = hub.outgoing_later(now_ms, last.as_ref(), PAGE).await?;
            let mut batch = Batch::new();
            for row in rows.iter().filter(|row| self.is_of_later(row, now_ms)) {
                row.remove(&mut batch);
                let due = Outgoing {
                    due_ms: now_ms,
                    written_ms: Some(now_ms),
                    ..row.clone()
                };
                due.put(&mut batch);
            }
            if !batch.is_empty() {
                store.commit(batch).await?;
            }
            if rows.len() < PAGE {
                break;
            }
            last = rows.into_iter().next_back();
        }
        self.latest_ms.store(now_ms, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a row got its due time by a clock that was ahead of `now_ms`.
    fn is_of_later(&self, row: &Outgoing, now_ms: i64) -> bool {
        match row.written_ms {
            Some(written_ms) => written_ms > now_ms,
            // Rows of earlier versions tell nothing but that.
            None => row.due_ms > now_ms.saturating_add(self.longest_ms),
        }
    }
}
