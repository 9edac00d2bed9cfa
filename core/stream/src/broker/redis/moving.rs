//! Moving: writes of a slot that is on its way to another server of a cluster.

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{queue::Write, resp};
use crate::ChannelName;

/// Time after which a write whose slot is moving is tried again.
const MOVING: Duration = Duration::from_millis(20);

/// Writes whose slot is moving, in the order of each channel.
#[derive(Debug, Default)]
pub(super) struct Parked {
    pub(super) writes: Vec<Write>,
    /// When they are tried again.
    until: Option<Instant>,
}

/// Commands that have subscribers compare a channel, on the server that hands its slot over.
#[derive(Debug, Default)]
pub(super) struct Notices {
    pub(super) pipeline: Vec<u8>,
    pub(super) count: usize,
}

impl Notices {
    pub(super) fn add(&mut self, shard_channel: &[u8]) {
        resp::encode(&mut self.pipeline, &[&b"SPUBLISH"[..], shard_channel, b""]);
        self.count += 1;
    }
}

impl Parked {
    /// Parks the writes of these channels.
    pub(super) fn park<T>(&mut self, writes: &mut Vec<Write>, channels: &HashMap<ChannelName, T>) {
        if channels.is_empty() {
            return;
        }
        let is_moving = |write: &mut Write| channels.contains_key(&write.batch.channel);
        self.writes.extend(writes.extract_if(.., is_moving));
        if !self.writes.is_empty() {
            self.until.get_or_insert_with(|| Instant::now() + MOVING);
        }
    }

    /// Waits until it is time to try them again: for ever if there are none.
    pub(super) async fn due(&self) {
        match self.until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Takes those that are due.
    pub(super) fn take_due(&mut self) -> Vec<Write> {
        match self.until.take_if(|until| *until <= Instant::now()) {
            Some(_) => std::mem::take(&mut self.writes),
            None => Vec::new(),
        }
    }
}
