//! Reads: pages of histories, each read once for all that need it at the same time.
//!
//! When a node ends, its clients come to another one at once and recover the same channels. While
//! a history is read, further readers of it wait, and share the next read: a read that began before
//! a client subscribed may lack what was published in between. The publications of a page are
//! decoded once, so that all share their encodings too.
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
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    calls::Calls,
    error::RedisError,
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

/// A page of a history.
#[derive(Debug)]
pub(super) struct Page {
    /// The newest position.
    pub(super) top: Position,
    /// The time of the read by the clock of Redis, in milliseconds since the Unix epoch.
    pub(super) now_ms: i64,
    pub(super) publications: Vec<Arc<Publication>>,
    /// The write of the last publication.
    pub(super) mark: String,
    /// Whether nothing comes after the page.
    pub(super) is_end: bool,
}

#[derive(Debug)]
struct Reader {
    part: Part,
    bytes: usize,
    reply: oneshot::Sender<Result<Arc<Page>, RedisError>>,
}

impl Reader {
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
}

/// Reads histories.
#[derive(Debug)]
pub(super) struct Reads {
    calls: Calls,
    keys: KeyNames,
    namespaces: Arc<Namespaces>,
    /// Those who wait for the next read of each channel that is being read.
    queues: Mutex<HashMap<ChannelName, VecDeque<Reader>>>,
    /// Sessions read from threads that may end before the read does.
    runtime: Handle,
    pages: metrics::Counter,
}

impl Reads {
    /// Reads whose tasks run on the current runtime.
    pub(super) fn new(calls: Calls, keys: KeyNames, namespaces: Arc<Namespaces>) -> Arc<Self> {
        Arc::new(Self {
            calls,
            keys,
            namespaces,
            queues: Mutex::default(),
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
        let (reply, page) = oneshot::channel();
        let waiting = Reader { part, bytes, reply };
        let is_first = {
            let mut queues = self.queues.lock();
            let is_first = !queues.contains_key(channel);
            queues
                .entry(channel.clone())
                .or_default()
                .push_back(waiting);
            is_first
        };
        if is_first {
            // A task of its own, since the first reader may give up.
            self.runtime.spawn(self.clone().serve(channel.clone()));
        }
        let ended = || RedisError::Connection("the read has ended".to_owned());
        page.await.map_err(|_| ended())?
    }

    /// Reads until nobody waits for the channel.
    async fn serve(self: Arc<Self>, channel: ChannelName) {
        loop {
            let (part, bytes, group) = {
                let mut queues = self.queues.lock();
                let Some(queue) = queues.get_mut(&channel) else {
                    return;
                };
                queue.retain(|one| !one.reply.is_closed());
                // The one that waits longest decides, so that each has its turn.
                let Some(part) = queue.front().map(|first| first.part) else {
                    queues.remove(&channel);
                    return;
                };
                let (group, others): (Vec<_>, Vec<_>) =
                    queue.drain(..).partition(|one| one.may_share(part));
                queue.extend(others);
                let bytes = group.iter().map(|one| one.bytes).max().unwrap_or(0);
                (part, bytes.min(PAGE_BYTES), group)
            };
            match self.read(&channel, part, bytes).await {
                Ok(page) => {
                    let page = Arc::new(page);
                    let mut unserved = Vec::new();
                    for one in group {
                        match one.is_served_by(&page) {
                            true => drop(one.reply.send(Ok(page.clone()))),
                            false => unserved.push(one),
                        }
                    }
                    if let Some(queue) = self.queues.lock().get_mut(&channel) {
                        for one in unserved.into_iter().rev() {
                            queue.push_front(one);
                        }
                    }
                }
                Err(error) => {
                    for one in group {
                        drop(one.reply.send(Err(error.clone())));
                    }
                }
            }
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
        publications,
        mark: last_mark,
    })
}
