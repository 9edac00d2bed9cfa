//! Shares of clients: how many channels each client of this node made in Redis.
//!
//! Redis forgets a channel by itself, a day after its last use, and does not tell. A client's count
//! therefore covers the last day, and each node counts for itself.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{limit::ClientKey, namespace::METADATA_TTL};

/// Clients that are counted at most: beyond, the counts of all begin anew.
const CLIENTS: usize = 100_000;

/// Channels that clients made.
#[derive(Debug)]
pub(super) struct ClientShares {
    /// 0 means no limit.
    most: usize,
    made: Mutex<HashMap<ClientKey, Count>>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    channels: usize,
}

impl ClientShares {
    /// No channels yet, of up to `most` for each client.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            made: Mutex::default(),
        }
    }

    /// Whether a client may make another channel.
    pub(super) fn has_room(&self, client: &ClientKey) -> bool {
        let made = self.made.lock();
        self.most == 0
            || made.get(client).is_none_or(|count| {
                count.channels < self.most || count.since.elapsed() >= METADATA_TTL
            })
    }

    /// Counts a channel that a client made.
    pub(super) fn note_new_channel(&self, client: &ClientKey) {
        if self.most == 0 {
            return;
        }
        let mut made = self.made.lock();
        if let Some(count) = made.get_mut(client)
            && count.since.elapsed() < METADATA_TTL
        {
            count.channels += 1;
            return;
        }
        if made.len() >= CLIENTS {
            made.clear();
        }
        let first = Count {
            since: Instant::now(),
            channels: 1,
        };
        made.insert(client.clone(), first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_makes_as_many_channels_a_day_as_it_may() {
        let shares = ClientShares::new(2);
        let client = ClientKey::Unknown;
        for _ in 0..2 {
            assert!(shares.has_room(&client));
            shares.note_new_channel(&client);
        }
        assert!(!shares.has_room(&client));
        tokio::time::advance(METADATA_TTL).await;
        assert!(shares.has_room(&client));
        shares.note_new_channel(&client);
        assert!(shares.has_room(&client));
    }
}
