//! Clock mark: the time that the server saw last, in the store, so that the next start notices a clock
//! that is far ahead.

use std::{sync::Arc, time::Duration};

use tidewire_store::{Batch, SharedStore, StoreError, Table};
use tidewire_stream::{ClockMark, GuardedClock};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

const TABLE: Table = Table("clock");

const KEY: &[u8] = b"mark";

/// Time between two writes. A start doubts a step of more than a day, so an old mark suffices.
const INTERVAL: Duration = Duration::from_secs(10 * 60);

/// Resumes the clock from the mark of the last process. A store without one changes nothing.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn resume(store: &SharedStore, clock: &GuardedClock) -> Result<(), StoreError> {
    let mark = store.get(TABLE, KEY.to_vec()).await?;
    if let Some(mark) = mark.as_deref().and_then(decode) {
        clock.resume(mark);
    }
    Ok(())
}

/// Writes the mark from time to time until cancelled, and then once more.
pub(crate) async fn run(clock: Arc<GuardedClock>, store: SharedStore, cancel: CancellationToken) {
    let mut ticks = interval(INTERVAL);
    loop {
        let ticked = cancel.run_until_cancelled(ticks.tick()).await;
        let mut batch = Batch::new();
        batch.put(TABLE, KEY, encode(clock.mark()));
        // A store that fails is reported by others, and an old mark does no harm.
        if let Err(error) = store.commit(batch).await {
            tracing::debug!(%error, "the mark of the clock is written later");
        }
        if ticked.is_none() {
            return;
        }
    }
}

fn encode(mark: ClockMark) -> Vec<u8> {
    let doubted = mark.doubted_ms.to_be_bytes();
    [mark.retention_ms.to_be_bytes(), doubted].concat()
}

fn decode(bytes: &[u8]) -> Option<ClockMark> {
    let (retention, doubted) = bytes.split_first_chunk()?;
    Some(ClockMark {
        retention_ms: i64::from_be_bytes(*retention),
        doubted_ms: u64::from_be_bytes(doubted.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_decode_to_what_was_encoded() {
        let mark = ClockMark {
            retention_ms: 1_750_000_000_000,
            doubted_ms: 7,
        };
        assert_eq!(decode(&encode(mark)), Some(mark));
        assert_eq!(decode(&[1; 15]), None);
    }
}
