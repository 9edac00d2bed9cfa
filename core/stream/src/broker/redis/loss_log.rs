//! Loss log: one line for many publications that are lost in a row.
//!
//! Engines publish thousands of values a second, of which a full Redis takes none.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{ChannelName, StreamError};

/// Time between two lines.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

/// Kind of what is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Publications that subscribers miss.
    Publication,
    /// Values in whose place a newer one comes.
    Superseded,
}

/// The publications that were lost since the last line.
#[derive(Debug)]
pub(super) struct LossLog {
    loss: Loss,
    losses: Mutex<Losses>,
}

#[derive(Debug, Default)]
struct Losses {
    count: u64,
    newest: Option<(ChannelName, StreamError)>,
    logged_at: Option<Instant>,
}

impl Losses {
    /// The count and the newest one, if a line is due.
    fn due(&mut self) -> Option<(u64, ChannelName, StreamError)> {
        if self.logged_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        let (channel, error) = self.newest.take()?;
        self.logged_at = Some(Instant::now());
        Some((std::mem::take(&mut self.count), channel, error))
    }
}

impl LossLog {
    pub(super) fn new(loss: Loss) -> Self {
        Self {
            loss,
            losses: Mutex::default(),
        }
    }

    /// Notes a loss. The first one is logged at once.
    pub(super) fn note(&self, channel: &ChannelName, error: &StreamError) {
        let mut losses = self.losses.lock();
        losses.count += 1;
        losses.newest = Some((channel.clone(), error.clone()));
        drop(losses);
        self.log();
    }

    /// Logs what was lost since the last line, if that is long ago.
    pub(super) fn log(&self) {
        let due = self.losses.lock().due();
        let Some((count, channel, error)) = due else {
            return;
        };
        match self.loss {
            Loss::Publication => {
                tracing::error!(count, %channel, %error, "lost publications of engines");
            }
            Loss::Superseded => {
                tracing::info!(
                    count, %channel, %error,
                    "values were not published: later ones take their place"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::ErrorCode;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn losses_in_a_row_are_one_line() {
        let log = LossLog::new(Loss::Publication);
        let channel = ChannelName::user("ann").unwrap();
        let error = StreamError::new(ErrorCode::Unavailable, "full");
        log.note(&channel, &error);
        assert_eq!(log.losses.lock().count, 0);
        for _ in 0..7 {
            log.note(&channel, &error);
        }
        log.log();
        assert_eq!(log.losses.lock().count, 7);
        tokio::time::advance(PAUSE).await;
        let due = log.losses.lock().due();
        assert_eq!(due, Some((7, channel, error)));
        assert_eq!(log.losses.lock().due(), None);
    }
}
