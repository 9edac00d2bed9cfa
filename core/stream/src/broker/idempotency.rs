//! Idempotency keys: the same key gives the same position.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use tidewire_proto::v1::ErrorCode;

use crate::{ChannelName, Event, Position, StreamError};

/// How many keys are remembered at once, the newest ones.
const MAX_KEYS: usize = 100_000;

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

type Key = (ChannelName, Box<str>);

/// The keys of the last minutes.
#[derive(Debug)]
pub(super) struct IdempotencyKeys {
    window_ms: i64,
    seen: HashMap<Key, Seen>,
    order: VecDeque<(i64, Key)>,
}

#[derive(Debug)]
struct Seen {
    body: u64,
    position: Position,
}

impl IdempotencyKeys {
    /// Keys that are remembered for `window`.
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window_ms: i64::try_from(window.as_millis()).unwrap_or(i64::MAX),
            seen: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The position that this key got before.
    ///
    /// # Errors
    /// The key is too long, or came with another body.
    pub(super) fn find(
        &mut self,
        channel: &ChannelName,
        key: &str,
        event: &Event,
        now_ms: i64,
    ) -> Result<Option<Position>, StreamError> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "the idempotency key is {} bytes long, expected 1 to {MAX_KEY_BYTES}",
                    key.len()
                ),
            ));
        }
        self.forget_before(now_ms.saturating_sub(self.window_ms));
        let Some(seen) = self.seen.get(&(channel.clone(), key.into())) else {
            return Ok(None);
        };
        if seen.body != fingerprint(event) {
            return Err(StreamError::new(
                ErrorCode::FailedPrecondition,
                format!("the idempotency key {key:?} was used on {channel} with other data"),
            ));
        }
        Ok(Some(seen.position.clone()))
    }

    /// Remembers the position that a key got.
    pub(super) fn remember(
        &mut self,
        channel: &ChannelName,
        key: &str,
        body: u64,
        position: Position,
        now_ms: i64,
    ) {
        let key: Key = (channel.clone(), key.into());
        self.order.push_back((now_ms, key.clone()));
        self.seen.insert(key, Seen { body, position });
        while self.order.len() > MAX_KEYS {
            self.forget_oldest();
        }
    }

    fn forget_before(&mut self, limit_ms: i64) {
        while self
            .order
            .front()
            .is_some_and(|(time_ms, _)| *time_ms < limit_ms)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.seen.remove(&key);
        }
    }
}

/// Tells bodies apart; it guards against mistakes, not against attacks.
pub(super) fn fingerprint(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (field, data) = tidewire_proto::json::proto_fragment(event);
    field.hash(&mut hasher);
    data.hash(&mut hasher);
    hasher.finish()
}
