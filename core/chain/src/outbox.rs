//! Outbox: publications on channels that all servers share, stored until they are published.
//!
//! The broker keeps the histories of such channels and gives the positions. The journal therefore
//! stores each publication as a row, in the transaction of the state that it follows from, publishes
//! it under a key, and removes the row. If the server is killed in between, the next owner of the chain
//! finds the row and publishes it under the same key: the broker knows the key of one that was
//! published already. A new epoch that a channel begins is a row, too.
//!
//! A row names the term in which it was stored. Term and number are the key, so that no other
//! publication has it, even if the store loses its newest rows.
//!
//! Each channel has its rows in order, and waits for no other one: see [`lanes`]. Rows are removed as they
//! are published, those of a channel that waits stay.

mod lanes;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_proto::{
    prost::Message as _,
    v1::{Position as WirePosition, ServerMessage},
};
use tidewire_store::{Batch, SharedStore, StoreError};
use tidewire_stream::{ChannelName, DurablePublisher, Epoch, Event, Position};
use tokio::time::{Instant, timeout_at};

use self::lanes::{Body, LATE, Lanes, Step};
use crate::journal::{JOURNAL, JournalError, PAGE, encode};

/// Publications that may wait. Beyond, chains wait.
const MOST_WAITING: usize = 100_000;

/// Time after which published rows are removed, although others are being published: soon, since the
/// broker forgets the keys.
const REMOVAL: Duration = Duration::from_millis(200);

/// Time for which the publication of rows is waited for at the end. The next owner publishes the others.
const END: Duration = Duration::from_millis(300);

/// The channels with rows of the owner before that are not published yet.
#[derive(Debug, Default)]
pub(crate) struct LeftChannels(Mutex<HashSet<ChannelName>>);

impl LeftChannels {
    pub(crate) fn contains(&self, channel: &ChannelName) -> bool {
        self.0.lock().contains(channel)
    }
}

/// A stored row.
#[derive(Debug)]
struct StoredRow {
    channel: String,
    term: String,
    /// None if the channel begins a new epoch.
    event: Option<Event>,
}

impl StoredRow {
    fn decode(value: &[u8]) -> Option<Self> {
        let mut rest = value;
        let position = WirePosition::decode_length_delimited(&mut rest).ok()?;
        let message = ServerMessage::decode(rest).ok()?;
        Some(Self {
            channel: message.channel?,
            term: position.epoch,
            event: message.data,
        })
    }
}

/// The rows of one engine. It is part of the journal's task.
pub(crate) struct Outbox {
    store: SharedStore,
    term: String,
    /// The number of the next row.
    next: u64,
    /// The number of the first row of this term.
    first: u64,
    began: Instant,
    left: Arc<LeftChannels>,
    lanes: Lanes,
    /// Rows that are done, and still stored.
    done: BTreeSet<u64>,
    removal: Option<Instant>,
    /// Whether the log says that chains wait.
    is_full: bool,
}

impl Outbox {
    /// The outbox of an engine that this server owns. None if the engine is the server's own.
    pub(crate) fn new(publisher: &Arc<dyn DurablePublisher>, store: &SharedStore) -> Option<Self> {
        Some(Self {
            term: publisher.term()?.to_owned(),
            store: store.clone(),
            next: 0,
            first: 0,
            began: Instant::now(),
            left: Arc::default(),
            lanes: Lanes::new(publisher.clone(), store.clone()),
            done: BTreeSet::new(),
            removal: None,
            is_full: false,
        })
    }

    pub(crate) fn left(&self) -> Arc<LeftChannels> {
        self.left.clone()
    }

    /// Reads the rows that the owner before left.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn restore(&mut self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.store.scan(JOURNAL, Vec::new(), after, PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                let Ok(number) = <[u8; 8]>::try_from(key.as_slice()).map(u64::from_be_bytes) else {
                    continue;
                };
                self.next = number + 1;
                let row = StoredRow::decode(&value)
                    .and_then(|row| Some((ChannelName::parse(&row.channel).ok()?, row)));
                let Some((channel, row)) = row else {
                    tracing::warn!(number, "a stored publication is unreadable");
                    self.done.insert(number);
                    continue;
                };
                self.left.0.lock().insert(channel.clone());
                let step = match row.event {
                    Some(event) => {
                        let key = key_of(&row.term, number);
                        Step::publication(number, value.len(), Body { event, key })
                    }
                    None => Step::renewal(number),
                };
                self.lanes.push(&channel, step);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Begins to publish what the owner before left.
    pub(crate) fn begin(&mut self) {
        (self.first, self.began) = (self.next, Instant::now());
        let count = self.lanes.pending();
        if count > 0 {
            tracing::info!(count, "publishes what the owner before has stored");
        }
        self.lanes.start();
    }

    /// Whether what the owner before left is published. Channels that are late are in
    /// [`LeftChannels`]: the others do not wait for them.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.began.elapsed() >= LATE || self.left.0.lock().is_empty()
    }

    /// Adds the writes that store new epochs and publications, and remove rows that are done.
    pub(crate) fn stage(
        &mut self,
        writes: &mut Batch,
        renewed: Vec<ChannelName>,
        publications: Vec<(ChannelName, Event)>,
        now_ms: i64,
    ) -> Vec<(ChannelName, Step)> {
        self.stage_removal(writes);
        let mut rows = Vec::with_capacity(renewed.len() + publications.len());
        for channel in renewed {
            if self.lanes.is_to_be_renewed(&channel) {
                continue;
            }
            let position = self.take_number();
            let value = encode(&channel, &position, now_ms, None);
            writes.put(JOURNAL, position.seq.to_be_bytes(), value);
            rows.push((channel, Step::renewal(position.seq)));
        }
        for (channel, event) in publications {
            let position = self.take_number();
            let value = encode(&channel, &position, now_ms, Some(&event));
            let (number, bytes) = (position.seq, value.len());
            writes.put(JOURNAL, number.to_be_bytes(), value);
            let key = key_of(&self.term, number);
            rows.push((
                channel,
                Step::publication(number, bytes, Body { event, key }),
            ));
        }
        rows
    }

    /// The term and the number of the next row.
    fn take_number(&mut self) -> Position {
        let seq = self.next;
        self.next += 1;
        Position {
            epoch: Epoch::new(&self.term),
            seq,
        }
    }

    /// Adds the writes that remove rows that are done.
    pub(crate) fn stage_removal(&mut self, writes: &mut Batch) {
        self.removal = None;
        let mut numbers = std::mem::take(&mut self.done).into_iter().peekable();
        while let Some(from) = numbers.next() {
            let mut to = from + 1;
            while numbers.next_if_eq(&to).is_some() {
                to += 1;
            }
            match to - from {
                1 => writes.delete(JOURNAL, from.to_be_bytes()),
                _ => writes.delete_range(JOURNAL, from.to_be_bytes(), to.to_be_bytes()),
            }
        }
    }

    /// Whether rows should be removed now, given that nothing else is to be stored.
    pub(crate) fn is_removal_due(&self) -> bool {
        let is_time = self.removal.is_some_and(|at| at <= Instant::now());
        !self.done.is_empty() && (is_time || self.lanes.is_quiet())
    }

    /// Publishes stored rows: those of a channel in their order, and channels beside each other.
    pub(crate) fn publish(&mut self, rows: Vec<(ChannelName, Step)>) {
        for (channel, step) in rows {
            self.lanes.push(&channel, step);
        }
        self.lanes.start();
    }

    /// Whether more may be stored.
    pub(crate) fn has_room(&mut self) -> bool {
        let is_full = self.lanes.pending() >= MOST_WAITING;
        if is_full && !self.is_full {
            tracing::error!(
                count = self.lanes.pending(),
                "a chain waits: too many of its publications are not published"
            );
        }
        self.is_full = is_full;
        !is_full
    }

    /// Waits until something may have changed.
    pub(crate) async fn changed(&mut self) {
        let left = (!self.is_caught_up()).then(|| self.began + LATE);
        let removal = self.removal.filter(|_| !self.done.is_empty());
        match left.into_iter().chain(removal).min() {
            // It may come at the time at which something is due.
            Some(at) => drop(timeout_at(at, self.lanes.changed()).await),
            None => self.lanes.changed().await,
        }
    }

    /// Notes what has been published, and goes on.
    ///
    /// # Errors
    /// The term is over. The next owner publishes the others.
    pub(crate) fn go_on(&mut self) -> Result<(), JournalError> {
        let done = self.lanes.go_on();
        if self.lanes.take_refused() && self.store.has_ended() {
            return Err(JournalError);
        }
        if done.is_empty() {
            return Ok(());
        }
        self.done.extend(done);
        self.removal.get_or_insert_with(|| Instant::now() + REMOVAL);
        let mut left = self.left.0.lock();
        left.retain(|channel| {
            let oldest = self.lanes.oldest(channel);
            oldest.is_some_and(|number| number < self.first)
        });
        Ok(())
    }

    /// Waits a moment for what is being published.
    ///
    /// # Errors
    /// The term is over.
    pub(crate) async fn end(&mut self) -> Result<(), JournalError> {
        let until = Instant::now() + END;
        loop {
            self.go_on()?;
            let is_done = self.lanes.is_empty();
            if is_done || timeout_at(until, self.lanes.changed()).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The key of a row. A key has 255 bytes at most, and a term about thirty.
fn key_of(term: &str, number: u64) -> String {
    format!("{term}:{number}")
}

#[cfg(test)]
mod tests;
