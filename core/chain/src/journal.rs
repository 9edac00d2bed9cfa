//! The journal: what is published of chains, kept before it is published, so that a
//! killed server goes on as if it had not been.
//!
//! It is the only one that publishes on the channels of chains, so it knows the place
//! that a publication will have: it stores publications with their places, and in the
//! same transaction what they follow from, and publishes after that. At a start it gives
//! the channels back what was stored. So nothing is published that is not kept, nothing
//! that is kept is left out, and nothing comes twice.
//!
//! Everything goes through one task, which takes all that waits into one transaction.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tidewire_proto::{
    prost::Message as _,
    v1::{Position as WirePosition, ServerMessage},
};
use tidewire_store::{Batch, SharedStore, StoreError, Table};
use tidewire_stream::{
    ChannelName, DurablePublisher, Epoch, Event, Position, SharedClock, StoredPublication,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::interest::InterestRegistry;

const JOURNAL: Table = Table("chain.journal");

/// How many entries may wait.
const QUEUE: usize = 64;

/// How many publications are kept, of all channels together.
const ENTRIES: u64 = 100_000;

/// How many publications are read from the store at once.
const PAGE: usize = 1_000;

/// What happens as a whole: writes, and then publications in their order.
#[derive(Default)]
pub(crate) struct JournalEntry {
    pub(crate) writes: Batch,
    /// Channels that begin anew, under another epoch.
    pub(crate) renewed: Vec<ChannelName>,
    /// Channels of what is followed no more, unless somebody came for it.
    pub(crate) forgotten: Vec<ChannelName>,
    pub(crate) publications: Vec<(ChannelName, Event)>,
}

impl JournalEntry {
    /// Whether nothing happens.
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.is_plain() && self.publications.is_empty()
    }

    /// Whether all channels go on.
    fn is_plain(&self) -> bool {
        self.renewed.is_empty() && self.forgotten.is_empty()
    }
}

struct AppendRequest {
    entry: JournalEntry,
    done: oneshot::Sender<()>,
}

/// The way into the journal. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal(mpsc::Sender<AppendRequest>);

/// The journal has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal has ended")]
pub(crate) struct JournalError;

impl Journal {
    /// A journal, and what runs it.
    pub(crate) fn new(
        store: Option<SharedStore>,
        publisher: Arc<dyn DurablePublisher>,
        interest: Arc<InterestRegistry>,
        clock: SharedClock,
    ) -> (Self, JournalTask) {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let task = JournalTask {
            jobs,
            store,
            publisher,
            interest,
            clock,
            next: 0,
            oldest: 0,
        };
        (Self(sender), task)
    }

    /// Keeps an entry, then publishes it. Done when both are.
    pub(crate) async fn enter(&self, entry: JournalEntry) -> Result<(), JournalError> {
        let (done, entered) = oneshot::channel();
        let job = AppendRequest { entry, done };
        self.0.send(job).await.map_err(|_| JournalError)?;
        entered.await.map_err(|_| JournalError)
    }
}

/// What runs the journal.
pub(crate) struct JournalTask {
    jobs: mpsc::Receiver<AppendRequest>,
    store: Option<SharedStore>,
    publisher: Arc<dyn DurablePublisher>,
    interest: Arc<InterestRegistry>,
    clock: SharedClock,
    /// The number of the next publication in the store, and of the first that is there.
    next: u64,
    oldest: u64,
}

impl JournalTask {
    /// Gives the channels back what was kept of them.
    pub(crate) async fn restore(&mut self) -> Result<(), StoreError> {
        let Some(store) = self.store.clone() else {
            return Ok(());
        };
        self.interest.restore(&*store, self.clock.now_ms()).await?;
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
                let Some((channel, epoch, kept)) = read(&value) else {
                    tracing::warn!(number, "a publication in the store cannot be read");
                    continue;
                };
                let (known, publications) = channels.entry(channel).or_default();
                let follows = publications
                    .last()
                    .is_none_or(|last| last.seq + 1 == kept.seq);
                if *known != epoch || !follows {
                    publications.clear();
                    *known = epoch;
                }
                publications.push(kept);
            }
            if is_last {
                break;
            }
        }
        for (name, (epoch, kept)) in channels {
            let Ok(channel) = ChannelName::parse(&name) else {
                continue;
            };
            let epoch = Epoch::new(&epoch);
            // What is followed no more, or began anew with nothing said since, does not go on.
            if InterestRegistry::knows(&channel)
                && self.interest.epoch(&channel).as_ref() != Some(&epoch)
            {
                continue;
            }
            let restored = self.publisher.restore(&channel, epoch, kept).await;
            match restored {
                Ok(()) => drop(restored_channels.insert(channel)),
                Err(error) => {
                    tracing::error!(%channel, %error, "a channel cannot go on from what was kept");
                }
            }
        }
        self.interest.renew_lost(&restored_channels);
        Ok(())
    }

    /// Runs until cancelled, and then until all that was entered has happened.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut waiting = Vec::new();
        loop {
            if waiting.is_empty() {
                tokio::select! {
                    biased;
                    count = self.jobs.recv_many(&mut waiting, QUEUE) => if count == 0 {
                        return self.enter(Vec::new()).await;
                    },
                    () = cancel.cancelled(), if !self.jobs.is_closed() => {
                        self.jobs.close();
                        continue;
                    }
                }
            }
            let group = waiting.drain(..group(&waiting)).collect();
            self.enter(group).await;
        }
    }

    async fn enter(&mut self, jobs: Vec<AppendRequest>) {
        let mut writes = Batch::new();
        let mut publications = Vec::new();
        let mut done = Vec::with_capacity(jobs.len());
        let mut has_renewed = false;
        for job in jobs {
            has_renewed |= !job.entry.renewed.is_empty();
            for channel in &job.entry.renewed {
                self.interest.renew(channel);
                if let Err(error) = self.publisher.start_new_epoch(channel).await {
                    tracing::error!(%channel, %error, "nobody is told of a gap");
                }
            }
            for channel in &job.entry.forgotten {
                if self.interest.forget(channel)
                    && let Err(error) = self.publisher.forget(channel).await
                {
                    tracing::error!(%channel, %error, "a channel is not forgotten");
                }
            }
            writes.extend(job.entry.writes);
            publications.extend(job.entry.publications);
            done.push(job.done);
        }
        publications.retain(|(channel, _)| self.interest.told(channel));
        self.keep(&mut writes, &publications).await;
        self.interest.keep(&mut writes, has_renewed);
        self.commit(writes).await;
        for (channel, event) in publications {
            self.publisher.publish(&channel, event);
        }
        for done in done {
            // Who entered it may have gone; it happened.
            let _ = done.send(());
        }
    }

    /// Adds the writes that keep publications, and that forget old ones.
    async fn keep(&mut self, writes: &mut Batch, publications: &[(ChannelName, Event)]) {
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
                        tracing::error!(%channel, %error, "a publication is not kept");
                        continue;
                    }
                },
            };
            let place = Position {
                seq: top.seq + 1,
                ..top
            };
            let value = write(channel, &place, now_ms, event);
            writes.put(JOURNAL, self.next.to_be_bytes(), value);
            self.next += 1;
            tops.insert(channel, place);
        }
        let oldest = self.next.saturating_sub(ENTRIES);
        if oldest > self.oldest {
            writes.delete_range(JOURNAL, self.oldest.to_be_bytes(), oldest.to_be_bytes());
            self.oldest = oldest;
        }
    }

    /// Writes until it is written: what is not kept is not published.
    async fn commit(&self, writes: Batch) {
        let Some(store) = &self.store else {
            return;
        };
        let mut pause = Duration::from_millis(100);
        while let Err(error) = store.commit(writes.clone()).await {
            tracing::error!(%error, "chains stand still until the store can be written");
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

/// How many of the first jobs share a transaction. One that begins a channel anew is
/// alone: places are counted from what is published.
fn group(jobs: &[AppendRequest]) -> usize {
    let is_alone = |job: &AppendRequest| !job.entry.is_plain();
    jobs.iter().position(is_alone).unwrap_or(jobs.len()).max(1)
}

/// A publication as it is kept: the message that clients get, with its channel, its
/// number and its time, and before it the epoch.
fn write(channel: &ChannelName, place: &Position, time_ms: i64, event: &Event) -> Vec<u8> {
    let position = WirePosition {
        epoch: place.epoch.as_str().to_owned(),
        seq: place.seq,
    };
    let message = ServerMessage {
        channel: Some(channel.as_str().to_owned()),
        seq: Some(place.seq),
        timestamp: Some(time_ms),
        data: Some(event.clone()),
        ..ServerMessage::default()
    };
    let mut value = position.encode_length_delimited_to_vec();
    value.extend(message.encode_to_vec());
    value
}

fn read(value: &[u8]) -> Option<(String, String, StoredPublication)> {
    let mut rest = value;
    let position = WirePosition::decode_length_delimited(&mut rest).ok()?;
    let message = ServerMessage::decode(rest).ok()?;
    let kept = StoredPublication {
        seq: position.seq,
        time_ms: message.timestamp?,
        event: message.data?,
    };
    Some((message.channel?, position.epoch, kept))
}
