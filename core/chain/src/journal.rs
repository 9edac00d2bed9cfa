//! Journal: writes publications to the store before it publishes them.
//!
//! A server that is killed continues as if it had not been. The journal alone publishes on the
//! channels of chains, so it knows the `seq` that each publication will get. It stores the
//! publication with that `seq`, and in the same transaction the state that it follows from;
//! then it publishes. At a start it restores the histories of the channels. So nothing is
//! published that is not stored, nothing that is stored is left out, and nothing comes twice.
//!
//! One task handles all entries. It writes all that are queued in one transaction.
//!
//! Example: a block comes in at height 7 and one wallet update with it. The entry holds the
//! block's rows, `blocks:1` seq 7 and `wallet:0x…` seq 3. If the server is killed after the
//! transaction and before the publication, a client that resumes from seq 6 gets seq 7 from the
//! restored history.
//!
//! Where all servers share the channels, the broker has the histories and gives the positions: see
//! [`outbox`](crate::outbox).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_proto::{
    prost::Message as _,
    v1::{Block, Position as WirePosition, ServerMessage},
};
use tidewire_store::{Batch, SharedStore, StoreError, Table};
use tidewire_stream::{
    Backoff, ChannelName, DurablePublisher, Epoch, Event, Position, SharedClock, StoredPublication,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    interest::InterestRegistry,
    notice::{Notice, NoticeQueue},
    outbox::{LeftChannels, Outbox},
};

pub(crate) const JOURNAL: Table = Table("chain.journal");

/// Entries in the queue at most. Beyond, chains wait.
const QUEUE: usize = 64;

/// Publications that the store keeps at most, of all channels together.
const MAX_STORED: u64 = 100_000;

/// Publications in one read of the store.
pub(crate) const PAGE: usize = 1_000;

/// Pauses between attempts to write to a store that refuses.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// An atomic step of a chain: writes, then publications in their order.
#[derive(Default)]
pub(crate) struct JournalEntry {
    pub(crate) writes: Batch,
    /// Channels that begin a new epoch.
    pub(crate) renewed: Vec<ChannelName>,
    /// Channels to forget, unless they have followers again.
    pub(crate) forgotten: Vec<ChannelName>,
    pub(crate) publications: Vec<(ChannelName, Event)>,
    /// Notices to users, which are stored with the publications.
    pub(crate) notices: Vec<Notice>,
    /// The block that becomes readable with the publications.
    pub(crate) newest: Option<(NewestBlock, Block)>,
}

/// The newest block of a chain, as requests read it.
pub(crate) type NewestBlock = Arc<Mutex<Option<Block>>>;

impl JournalEntry {
    /// Whether the entry changes nothing.
    pub(crate) fn is_empty(&self) -> bool {
        let is_quiet = self.publications.is_empty() && self.notices.is_empty();
        self.writes.is_empty() && self.keeps_epochs() && is_quiet
    }

    /// Whether all channels continue in their epochs.
    fn keeps_epochs(&self) -> bool {
        self.renewed.is_empty() && self.forgotten.is_empty()
    }
}

struct AppendRequest {
    entry: JournalEntry,
    done: oneshot::Sender<()>,
}

/// A handle to the journal. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal(mpsc::Sender<AppendRequest>);

/// The journal has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal has stopped")]
pub(crate) struct JournalError;

impl Journal {
    /// A journal, and the task that runs it.
    pub(crate) fn new(
        store: Option<SharedStore>,
        publisher: Arc<dyn DurablePublisher>,
        interest: Arc<InterestRegistry>,
        clock: SharedClock,
        notices: NoticeQueue,
    ) -> (Self, JournalTask) {
        let (sender, requests) = mpsc::channel(QUEUE);
        // Without a store nothing is shared.
        let outbox = store
            .as_ref()
            .and_then(|store| Outbox::new(&publisher, store));
        let task = JournalTask {
            requests,
            outbox,
            store,
            publisher,
            interest,
            clock,
            notices,
            caught_up: watch::Sender::new(false),
            next: 0,
            oldest: 0,
        };
        (Self(sender), task)
    }

    /// Stores an entry, then publishes it. Returns after both, and on shared channels once it is stored:
    /// each of them is published on as soon as the broker takes it.
    ///
    /// # Errors
    /// The journal has stopped.
    pub(crate) async fn append(&self, entry: JournalEntry) -> Result<(), JournalError> {
        let (done, is_done) = oneshot::channel();
        let request = AppendRequest { entry, done };
        self.0.send(request).await.map_err(|_| JournalError)?;
        is_done.await.map_err(|_| JournalError)
    }
}

/// The task that runs the journal.
pub(crate) struct JournalTask {
    requests: mpsc::Receiver<AppendRequest>,
    /// Publications on shared channels. None if they are this server's own.
    outbox: Option<Outbox>,
    store: Option<SharedStore>,
    publisher: Arc<dyn DurablePublisher>,
    interest: Arc<InterestRegistry>,
    clock: SharedClock,
    notices: NoticeQueue,
    /// Whether what the owner before has stored is published, but for channels that are late.
    caught_up: watch::Sender<bool>,
    /// The number of the next publication in the store.
    next: u64,
    /// The number of the oldest publication in the store.
    oldest: u64,
}

impl JournalTask {
    /// Whether what the owner before has stored is published, but for channels that are late, now and later.
    pub(crate) fn caught_up(&self) -> watch::Receiver<bool> {
        self.caught_up.subscribe()
    }

    /// The channels on which the owner before has stored something that is not published yet.
    pub(crate) fn left(&self) -> Arc<LeftChannels> {
        let outbox = self.outbox.as_ref();
        outbox.map(Outbox::left).unwrap_or_default()
    }

    /// Restores the interest registry and the histories of all channels.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn restore(&mut self) -> Result<(), StoreError> {
        let Some(store) = self.store.clone() else {
            return Ok(());
        };
        self.interest.restore(&*store, self.clock.now_ms()).await?;
        self.notices.restore(&*store).await?;
        if let Some(outbox) = &mut self.outbox {
            return outbox.restore().await;
        }
        let mut restored_channels = HashSet::new();
        let mut channels: HashMap<String, (String, Vec<StoredPublication>)> = HashMap::new();
        let (mut after, mut is_first) = (None, true);
        loop {
            let page = store.scan(JOURNAL, Vec::new(), after, PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                let Ok(number) = <[u8; 8]>::try_from(key.as_slice()).map(u64::from_be_bytes) else {
                    continue;
                };
                if std::mem::take(&mut is_first) {
                    self.oldest = number;
                }
                self.next = number + 1;
                let Some((channel, epoch, publication)) = decode(&value) else {
                    tracing::warn!(number, "a stored publication is unreadable");
                    continue;
                };
                let (last_epoch, publications) = channels.entry(channel).or_default();
                let follows = publications
                    .last()
                    .is_none_or(|last| last.seq + 1 == publication.seq);
                if *last_epoch != epoch || !follows {
                    publications.clear();
                    *last_epoch = epoch;
                }
                publications.push(publication);
            }
            if is_last {
                break;
            }
        }
        for (name, (epoch, publications)) in channels {
            let Ok(channel) = ChannelName::parse(&name) else {
                continue;
            };
            let epoch = Epoch::new(&epoch);
            // The channel was forgotten, or its epoch was renewed.
            if InterestRegistry::manages(&channel)
                && self.interest.epoch(&channel).as_ref() != Some(&epoch)
            {
                continue;
            }
            let restored = self.publisher.restore(&channel, epoch, publications).await;
            match restored {
                Ok(()) => drop(restored_channels.insert(channel)),
                Err(error) => {
                    tracing::error!(%channel, %error, "the history of a channel is not restored");
                }
            }
        }
        self.interest.renew_lost(&restored_channels);
        Ok(())
    }

    /// Runs until cancelled, then handles the entries that are queued. Ends with the term of a shared
    /// store.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        // The next owner goes on.
        let _ = self.run_term(cancel).await;
    }

    async fn run_term(&mut self, cancel: CancellationToken) -> Result<(), JournalError> {
        match &mut self.outbox {
            Some(outbox) => outbox.begin(),
            None => drop(self.caught_up.send_replace(true)),
        }
        let mut queued = Vec::new();
        loop {
            self.follow_outbox(queued.is_empty()).await?;
            if queued.is_empty() {
                let mut has_room = self.outbox.as_mut().is_none_or(Outbox::has_room);
                has_room |= self.requests.is_closed();
                tokio::select! {
                    biased;
                    count = self.requests.recv_many(&mut queued, QUEUE), if has_room => if count == 0 {
                        self.handle(Vec::new()).await?;
                        if let Some(outbox) = &mut self.outbox {
                            outbox.end().await?;
                        }
                        return self.clear_outbox().await;
                    },
                    () = cancel.cancelled(), if !self.requests.is_closed() => {
                        self.requests.close();
                        continue;
                    }
                    () = changed(&mut self.outbox) => continue,
                }
            }
            let group = queued.drain(..group_len(&queued)).collect();
            self.handle(group).await?;
        }
    }

    /// Notes what has been published on shared channels, and goes on with them.
    async fn follow_outbox(&mut self, is_idle: bool) -> Result<(), JournalError> {
        let Some(outbox) = &mut self.outbox else {
            return Ok(());
        };
        outbox.go_on()?;
        if outbox.is_caught_up() {
            self.caught_up
                .send_if_modified(|is_caught_up| !std::mem::replace(is_caught_up, true));
        }
        let is_due = is_idle && self.requests.is_empty() && outbox.is_removal_due();
        match is_due {
            true => self.clear_outbox().await,
            false => Ok(()),
        }
    }

    /// Removes what is published from the outbox: soon, since the broker forgets the keys.
    async fn clear_outbox(&mut self) -> Result<(), JournalError> {
        let mut writes = Batch::new();
        if let Some(outbox) = &mut self.outbox {
            outbox.stage_removal(&mut writes);
        }
        match writes.is_empty() {
            true => Ok(()),
            false => self.commit(writes).await,
        }
    }

    async fn handle(&mut self, group: Vec<AppendRequest>) -> Result<(), JournalError> {
        let mut writes = Batch::new();
        let mut publications = Vec::new();
        let mut newest = Vec::new();
        let mut notices = Vec::new();
        let mut done = Vec::with_capacity(group.len());
        let (mut has_renewed, mut renewed) = (false, Vec::new());
        for request in group {
            has_renewed |= !request.entry.renewed.is_empty();
            for channel in request.entry.renewed {
                self.interest.renew(&channel);
                match &self.outbox {
                    Some(_) => renewed.push(channel),
                    None => self.renew(&channel).await,
                }
            }
            for channel in request.entry.forgotten {
                if !self.interest.forget(&channel) {
                    continue;
                }
                match &self.outbox {
                    // The next subscriber finds another epoch.
                    Some(_) => renewed.push(channel),
                    None => self.forget(&channel).await,
                }
            }
            writes.extend(request.entry.writes);
            publications.extend(request.entry.publications);
            newest.extend(request.entry.newest);
            notices.extend(request.entry.notices);
            done.push(request.done);
        }
        publications.retain(|(channel, _)| self.interest.mark_published(channel));
        let mut rows = Vec::new();
        match &mut self.outbox {
            Some(outbox) => {
                let publications = std::mem::take(&mut publications);
                rows = outbox.stage(&mut writes, renewed, publications, self.clock.now_ms());
            }
            None => self.stage(&mut writes, &publications).await,
        }
        if self.store.is_some() {
            self.notices.stage(&mut writes, &notices);
        }
        self.interest.stage(&mut writes, has_renewed);
        self.commit(writes).await?;
        if !notices.is_empty() {
            self.notices.wake();
        }
        // Set first, so that a client that receives the block can read it.
        for (cell, block) in newest {
            *cell.lock() = Some(block);
        }
        for (channel, event) in publications {
            self.publisher.publish(&channel, event);
        }
        if let Some(outbox) = &mut self.outbox {
            outbox.publish(rows);
        }
        for done in done {
            // The caller may have timed out; the entry is stored and published all the same.
            let _ = done.send(());
        }
        Ok(())
    }

    /// Begins a new epoch of a channel of this server.
    async fn renew(&self, channel: &ChannelName) {
        if let Err(error) = self.publisher.start_new_epoch(channel).await {
            tracing::error!(%channel, %error, "a channel's epoch is not renewed, so subscribers see no gap");
        }
    }

    /// Forgets a channel of this server.
    async fn forget(&self, channel: &ChannelName) {
        if let Err(error) = self.publisher.forget(channel).await {
            tracing::error!(%channel, %error, "a channel is not forgotten");
        }
    }

    /// Checks that the store of a term can still be written.
    fn check_term(&self) -> Result<(), JournalError> {
        match &self.store {
            Some(store) if store.has_ended() => Err(JournalError),
            _ => Ok(()),
        }
    }

    /// Adds the writes that store publications and delete the oldest.
    async fn stage(&mut self, writes: &mut Batch, publications: &[(ChannelName, Event)]) {
        if self.store.is_none() || publications.is_empty() {
            return;
        }
        let now_ms = self.clock.now_ms();
        let mut tops: HashMap<&ChannelName, Position> = HashMap::new();
        for (channel, event) in publications {
            let top = match tops.get(channel) {
                Some(top) => top.clone(),
                None => match self.publisher.position(channel).await {
                    Ok(top) => top,
                    Err(error) => {
                        tracing::error!(%channel, %error, "a publication is not stored");
                        continue;
                    }
                },
            };
            let position = Position {
                seq: top.seq + 1,
                ..top
            };
            let value = encode(channel, &position, now_ms, Some(event));
            writes.put(JOURNAL, self.next.to_be_bytes(), value);
            self.next += 1;
            tops.insert(channel, position);
        }
        let oldest = self.next.saturating_sub(MAX_STORED);
        if oldest > self.oldest {
            writes.delete_range(JOURNAL, self.oldest.to_be_bytes(), oldest.to_be_bytes());
            self.oldest = oldest;
        }
    }

    /// Writes, and retries until the store accepts: an entry that is not stored is not published.
    ///
    /// # Errors
    /// The term of the store is over.
    async fn commit(&self, writes: Batch) -> Result<(), JournalError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
        while let Err(error) = store.commit(writes.clone()).await {
            self.check_term()?;
            tracing::error!(%error, "the store refuses a write; chains wait until it accepts");
            sleep(backoff.next_pause()).await;
        }
        Ok(())
    }
}

/// The number of queued entries that share the next transaction.
///
/// An entry that renews or forgets a channel has a transaction of its own: `seq` is counted from
/// what the channel has published.
fn group_len(queued: &[AppendRequest]) -> usize {
    let is_alone = |request: &AppendRequest| !request.entry.keeps_epochs();
    queued
        .iter()
        .position(is_alone)
        .unwrap_or(queued.len())
        .max(1)
}

/// Waits until something may have changed about the publications on shared channels.
async fn changed(outbox: &mut Option<Outbox>) {
    match outbox {
        Some(outbox) => outbox.changed().await,
        None => std::future::pending().await,
    }
}

/// Encodes a publication: its position, then the message with its channel and time. Without an event, the
/// channel begins a new epoch.
pub(crate) fn encode(
    channel: &ChannelName,
    position: &Position,
    time_ms: i64,
    event: Option<&Event>,
) -> Vec<u8> {
    let wire_position = WirePosition {
        epoch: position.epoch.as_str().to_owned(),
        seq: position.seq,
    };
    let message = ServerMessage {
        channel: Some(channel.as_str().to_owned()),
        seq: Some(position.seq),
        timestamp: Some(time_ms),
        data: event.cloned(),
        ..ServerMessage::default()
    };
    let mut value = wire_position.encode_length_delimited_to_vec();
    value.extend(message.encode_to_vec());
    value
}

/// Decodes a publication: its channel, its epoch and itself.
pub(crate) fn decode(value: &[u8]) -> Option<(String, String, StoredPublication)> {
    let mut rest = value;
    let position = WirePosition::decode_length_delimited(&mut rest).ok()?;
    let message = ServerMessage::decode(rest).ok()?;
    let publication = StoredPublication {
        seq: position.seq,
        time_ms: message.timestamp?,
        event: message.data?,
    };
    Some((message.channel?, position.epoch, publication))
}
