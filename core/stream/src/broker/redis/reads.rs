//! Reads: pages of histories, each read once for all that need it at the same time.
//!
//! When a node ends, its clients come to another one at once and recover the same channels. While
//! a history is read, further readers of it wait, and share the next read: a read that began before
//! a client subscribed may lack what was published in between. The publications of a page are
//! decoded once, so that all share their encodings too.
//!
//! A client that knows from elsewhere what the newest position is, and needs what follows its own,
//! takes a page whenever it was read ([`KeptPages`]): also from a read that began before it came.
//!
//! # Example
//! 5,000 clients recover `orders:1` since 40. The first one reads. The others come meanwhile, and
//! share the second read. One that recovers since 10 only has to be first in turn for another read.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

use super::{
    calls::Calls,
    error::RedisError,
    kept_pages::KeptPages,
    keys::KeyNames,
    record,
    script::{Script, ScriptCall},
};
use crate::{
    ChannelName, Epoch, Namespaces, Position, Publication, namespace::METADATA_TTL,
    publication::Seq,
};

/// Entries of a page at most.
const PAGE_ITEMS: usize = 10_000;

/// Bytes of a page at most, and one publication more.
pub(super) const PAGE_BYTES: usize = 1 << 20;

/// Entries that are read from the end in one step.
pub(super) const NEWEST_ITEMS: usize = 128;

/// The part of a history to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The newest entries, up to this many. 0 reads the position alone.
    Newest(usize),
    /// The entries after this one, oldest first.
    After(Seq),
}

/// The purpose of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To know what is there now.
    Present,
    /// To fill a tail with it, at this newest position that was delivered here. If there is more than
    /// a page, the page is kept.
    Tail(Position),
    /// To recover, while this was the newest position that was delivered here. The page may have been
    /// read before, and is kept.
    Recovery(Position),
}

impl Purpose {
    fn delivered(&self) -> Option<&Position> {
        match self {
            Self::Present => None,
            Self::Tail(newest) | Self::Recovery(newest) => Some(newest),
        }
    }
}

/// A page of a history.
#[derive(Debug)]
pub(super) struct Page {
    /// The newest position.
    pub(super) top: Position,
    /// The time of the read by the clock of Redis, in milliseconds since the Unix epoch.
    pub(super) now_ms: i64,
    /// The same moment by the clock of this node.
    pub(super) read_at: Instant,
    pub(super) publications: Vec<Arc<Publication>>,
    /// The write of the last publication.
    pub(super) mark: String,
    /// Whether nothing comes after the page.
    pub(super) is_end: bool,
    /// Up to here, its publications had been delivered by this node when it was read, and are the same
    /// as long as the epoch is: a server of Redis that loses them later is found out. 0 if not known.
    pub(super) delivered: Seq,
}

impl Page {
    /// The last publication that others may take later, or 0.
    pub(super) fn last_lasting(&self) -> Seq {
        let last = self.publications.last().map_or(0, |last| last.seq());
        last.min(self.delivered)
    }
}

#[derive(Debug)]
struct Reader {
    part: Part,
    bytes: usize,
    purpose: Purpose,
    /// Whether the read has to begin at its own part: one that began earlier did not reach it.
    is_exact: bool,
    reply: oneshot::Sender<Result<Arc<Page>, RedisError>>,
}

impl Reader {
    /// The part to read when its turn comes.
    fn part_to_read(&self, channel: &ChannelName, kept: &KeptPages) -> Part {
        match self.part {
            Part::After(seq) if self.is_recovery() && !self.is_exact => {
                Part::After(kept.beginning(channel, seq))
            }
            part => part,
        }
    }

    /// Whether a read of `part` may have all that is needed.
    fn may_share(&self, part: Part) -> bool {
        match (self.part, part) {
            (Part::Newest(0), _) => true,
            (Part::Newest(own), Part::Newest(read)) => own <= read,
            (Part::After(own), Part::After(read)) => own >= read,
            _ => false,
        }
    }

    /// Whether a page has what is needed.
    fn is_served_by(&self, page: &Page) -> bool {
        match self.part {
            Part::Newest(_) => true,
            Part::After(own) => {
                let last = page.publications.last();
                page.is_end || last.is_none_or(|last| last.seq() > own)
            }
        }
    }

    /// Whether a page of `part` that was read before has what is needed.
    fn may_take(&self, part: Part, page: &Page) -> bool {
        match self.part {
            Part::After(own) => {
                self.is_recovery() && self.may_share(part) && page.last_lasting() > own
            }
            Part::Newest(_) => false,
        }
    }

    fn is_recovery(&self) -> bool {
        matches!(self.purpose, Purpose::Recovery(_))
    }

    /// Whether its page is kept for others.
    fn keeps(&self, page: &Page) -> bool {
        match self.purpose {
            Purpose::Present => false,
            Purpose::Tail(_) => !page.is_end,
            Purpose::Recovery(_) => true,
        }
    }
}

/// Readers of the same page.
#[derive(Debug)]
struct Group {
    part: Part,
    bytes: usize,
    readers: Vec<Reader>,
}

impl Group {
    /// The newest seq of an epoch that was delivered here before the read.
    fn delivered(&self, epoch: &Epoch) -> Seq {
        let known = self
            .readers
            .iter()
            .filter_map(|one| one.purpose.delivered());
        let of_epoch = known.filter(|position| position.epoch == *epoch);
        of_epoch.map(|position| position.seq).max().unwrap_or(0)
    }
}

/// Readers, and what was read.
#[derive(Debug)]
struct Shared {
    /// Those who wait for the next read of each channel that is being read.
    queues: HashMap<ChannelName, VecDeque<Reader>>,
    kept: KeptPages,
}

/// Reads histories.
#[derive(Debug)]
pub(super) struct Reads {
    calls: Calls,
    keys: KeyNames,
    namespaces: Arc<Namespaces>,
    shared: Mutex<Shared>,
    /// Sessions read from threads that may end before the read does.
    runtime: Handle,
    pages: metrics::Counter,
}

impl Reads {
    /// Reads whose tasks run on the current runtime, on a node whose histories may have
    /// `history_bytes`.
    pub(super) fn new(
        calls: Calls,
        keys: KeyNames,
        namespaces: Arc<Namespaces>,
        history_bytes: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            calls,
            keys,
            namespaces,
            shared: Mutex::new(Shared {
                queues: HashMap::new(),
                kept: KeptPages::new(history_bytes),
            }),
            runtime: Handle::current(),
            pages: metrics::counter!("tidewire_broker_history_reads_total"),
        })
    }

    /// Reads a page, of about `bytes` at most.
    ///
    /// # Errors
    /// Redis did not answer in time, or refused.
    pub(super) async fn page(
        self: &Arc<Self>,
        channel: &ChannelName,
        part: Part,
        bytes: usize,
    ) -> Result<Arc<Page>, RedisError> {
        self.page_for(Purpose::Present, channel, part, bytes).await
    }

    /// Reads a page for a purpose.
    ///
    /// # Errors
    /// Redis did not answer in time, or refused.
    pub(super) async fn page_for(
        self: &Arc<Self>,
        purpose: Purpose,
        channel: &ChannelName,
        part: Part,
        bytes: usize,
    ) -> Result<Arc<Page>, RedisError> {
        let page = self.enqueue(&mut self.shared.lock(), purpose, channel, part, bytes);
        received(page).await
    }

    /// A page that has publications after `since`, if the history has. It may have been read before;
    /// otherwise, it is read for a client that has room for `bytes`, while `newest` is the newest position
    /// that was delivered here.
    ///
    /// # Errors
    /// Redis did not answer in time, or refused.
    pub(super) async fn following(
        self: &Arc<Self>,
        channel: &ChannelName,
        since: &Position,
        newest: Position,
        bytes: usize,
    ) -> Result<Arc<Page>, RedisError> {
        let page = {
            let mut shared = self.shared.lock();
            if let Some(page) = shared.kept.find(channel, since) {
                return Ok(page);
            }
            // Under the same lock: a read that ends has kept its page by then.
            let bytes = shared.kept.page_bytes(bytes);
            let part = Part::After(since.seq);
            let purpose = Purpose::Recovery(newest);
            self.enqueue(&mut shared, purpose, channel, part, bytes)
        };
        received(page).await
    }

    /// A page that has publications after `since`, if one is kept.
    pub(super) fn kept(&self, channel: &ChannelName, since: &Position) -> Option<Arc<Page>> {
        self.shared.lock().kept.find(channel, since)
    }

    /// Memory of the pages that are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.shared.lock().kept.bytes()
    }

    /// Drops the pages that nobody uses any more.
    pub(super) fn sweep(&self) {
        self.shared.lock().kept.sweep();
    }

    /// Adds a reader, and begins to read the channel if nobody does.
    fn enqueue(
        self: &Arc<Self>,
        shared: &mut Shared,
        purpose: Purpose,
        channel: &ChannelName,
        part: Part,
        bytes: usize,
    ) -> oneshot::Receiver<Result<Arc<Page>, RedisError>> {
        let (reply, page) = oneshot::channel();
        let is_first = !shared.queues.contains_key(channel);
        let queue = shared.queues.entry(channel.clone()).or_default();
        queue.push_back(Reader {
            part,
            bytes,
            purpose,
            is_exact: false,
            reply,
        });
        if is_first {
            // A task of its own, since the first reader may give up.
            self.runtime.spawn(self.clone().serve(channel.clone()));
        }
        page
    }

    /// Reads until nobody waits for the channel.
    async fn serve(self: Arc<Self>, channel: ChannelName) {
        while let Some(group) = self.next_group(&channel) {
            match self.read(&channel, group.part, group.bytes).await {
                Ok(mut page) => {
                    page.delivered = group.delivered(&page.top.epoch);
                    self.hand_out(&channel, &Arc::new(page), group);
                }
                Err(error) => {
                    for one in group.readers {
                        drop(one.reply.send(Err(error.clone())));
                    }
                }
            }
        }
    }

    /// Takes those who share the next read. None if nobody waits any more.
    fn next_group(&self, channel: &ChannelName) -> Option<Group> {
        let mut shared = self.shared.lock();
        let Shared { queues, kept } = &mut *shared;
        let queue = queues.get_mut(channel)?;
        queue.retain(|one| !one.reply.is_closed());
        // The one that waits longest decides, so that each has its turn.
        let Some(first) = queue.front() else {
            queues.remove(channel);
            return None;
        };
        let part = first.part_to_read(channel, kept);
        let (readers, others): (Vec<_>, Vec<_>) =
            queue.drain(..).partition(|one| one.may_share(part));
        queue.extend(others);
        let bytes = readers.iter().map(|one| one.bytes).max().unwrap_or(0);
        Some(Group {
            part,
            bytes: bytes.min(PAGE_BYTES),
            readers,
        })
    }

    /// Gives a page to those who can use it. The others wait for the next one.
    fn hand_out(&self, channel: &ChannelName, page: &Arc<Page>, group: Group) {
        let Group { part, readers, .. } = group;
        let (mut served, unserved): (Vec<_>, Vec<_>) =
            readers.into_iter().partition(|one| one.is_served_by(page));
        {
            let mut shared = self.shared.lock();
            let Shared { queues, kept } = &mut *shared;
            if let Some(queue) = queues.get_mut(channel) {
                let (late, others): (Vec<_>, Vec<_>) =
                    queue.drain(..).partition(|one| one.may_take(part, page));
                served.extend(late);
                let unserved = unserved.into_iter().map(|one| Reader {
                    is_exact: true,
                    ..one
                });
                queue.extend(unserved.chain(others));
            }
            if let Part::After(after) = part
                && served.iter().any(|one| one.keeps(page))
            {
                kept.keep(channel, after, page);
            }
        }
        for one in served {
            drop(one.reply.send(Ok(page.clone())));
        }
    }

    async fn read(
        &self,
        channel: &ChannelName,
        part: Part,
        bytes: usize,
    ) -> Result<Page, RedisError> {
        self.pages.increment(1);
        let (after, items) = match part {
            Part::Newest(items) => ("newest".to_owned(), items.min(NEWEST_ITEMS)),
            Part::After(seq) => (seq.to_string(), PAGE_ITEMS),
        };
        let is_personal = self
            .namespaces
            .get(channel)
            .is_some_and(|one| one.is_personal());
        let mut arguments = Vec::from(self.keys.of(channel));
        arguments.extend([
            after.into(),
            items.to_string().into(),
            bytes.max(1).to_string().into(),
            Bytes::copy_from_slice(Epoch::random().as_str().as_bytes()),
            fresh_lifetime(),
            Bytes::from_static(if is_personal { b"personal" } else { b"" }),
            self.keys.fresh(channel),
        ]);
        let call = ScriptCall {
            script: Script::History,
            keys: 3,
            arguments,
        };
        let reply = self.calls.read(call).await?.array()?;
        page(channel, part, reply)
    }
}

/// The page that a reader waits for.
async fn received(
    page: oneshot::Receiver<Result<Arc<Page>, RedisError>>,
) -> Result<Arc<Page>, RedisError> {
    let ended = || RedisError::Connection("the read has ended".to_owned());
    page.await.map_err(|_| ended())?
}

/// How long channels that are published on first share an epoch: less than metadata are stored, so
/// that a channel that was forgotten never starts in its earlier epoch.
pub(super) fn fresh_lifetime() -> Bytes {
    (METADATA_TTL.as_millis() / 2).to_string().into()
}

/// Reads the answer of the script.
fn page(
    channel: &ChannelName,
    part: Part,
    reply: Vec<super::resp::Reply>,
) -> Result<Page, RedisError> {
    let malformed =
        |what: &str| RedisError::Protocol(format!("the history of {channel} has {what}"));
    let mut parts = reply.into_iter();
    let mut text = || parts.next().map(super::resp::Reply::text).transpose();
    let missing = || malformed("no position");
    let epoch = text()?.ok_or_else(missing)?;
    let epoch = std::str::from_utf8(&epoch).map_err(|_| malformed("a malformed epoch"))?;
    let epoch = Epoch::new(epoch);
    let mut number = || -> Result<u64, RedisError> {
        let text = text()?.ok_or_else(missing)?;
        let number = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.parse().ok());
        number.ok_or_else(|| malformed("a malformed number"))
    };
    let top = Position {
        seq: number()?,
        epoch,
    };
    let now_ms = i64::try_from(number()?).unwrap_or(i64::MAX);
    let (mut publications, mut last_mark) = (Vec::new(), String::new());
    while let Some(id) = text()? {
        let (payload, mark) = (text()?.ok_or_else(missing)?, text()?.ok_or_else(missing)?);
        let (Some(seq), Some((time_ms, mark))) =
            (record::entry_seq(&id), record::entry_mark(&mark))
        else {
            return Err(malformed("an entry that is not ours"));
        };
        let position = Position {
            epoch: top.epoch.clone(),
            seq,
        };
        match record::decode(channel, position, time_ms, &payload) {
            Some(publication) => publications.push(publication),
            // It leaves a hole, and clients a gap.
            None => tracing::warn!(%channel, seq, "a publication in Redis cannot be read"),
        }
        mark.clone_into(&mut last_mark);
    }
    let last = publications.last();
    Ok(Page {
        is_end: match part {
            Part::Newest(_) => true,
            Part::After(_) => last.is_none_or(|last| last.seq() >= top.seq),
        },
        top,
        now_ms,
        read_at: Instant::now(),
        delivered: 0,
        publications,
        mark: last_mark,
    })
}
