//! Writer: publishes what waits in a queue for one server, on a connection of its own.
//!
//! All batches of a round are one pipeline. A node that has lost the answer to a write repeats it
//! under the same number: the script then returns the first answer, and nothing is published twice.
//! It remembers as many answers of a node as a channel may have batches in a round, each in a slot.
//! A batch names the one before it on its channel, and the script refuses it as long as that one was
//! not done: so a channel keeps its order when an error hits a part of a pipeline alone.
//!
//! In a cluster, a write whose slot is moving goes to the server that has the keys of its channel
//! ([`asking`]). While each server has some, it waits, with those that follow it on its channel. Once the
//! slot has another server, the writer of that one repeats them, under the same numbers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidewire_proto::v1::ErrorCode;
use tidewire_redis::ServerAddress;
use tokio::time::Instant;

use super::{
    address::RedisOptions,
    asking::{self, Asking},
    calls::{RedisCommand, backoff},
    catch_up::{check_call, metadata_lifetime},
    connection::RedisConnection,
    error::RedisError,
    fences::Fences,
    health::{Link, LinkHealth},
    keys::KeyNames,
    moving::{Notices, Parked},
    owed::OwedEpochs,
    positions::{Positions, Top},
    queue::{Batch, Item, Queue, Receipt, Write},
    reads::fresh_lifetime,
    resp::Reply,
    route::{Place, Route},
    script::{Digests, Script, ScriptCall},
    server_id::ServerId,
    unavailable::Unavailable as _,
};
use crate::{Backoff, ChannelName, Class, Epoch, Namespaces, Position, StreamError};

/// Channels whose newest position a writer remembers, in each of two generations.
const REMEMBERED: usize = 32_768;

/// Time for which a write is compared with a server that this writer connects to anew. Longer than
/// sentinels usually take.
const LATELY: Duration = Duration::from_secs(60);

/// Channels that are compared at most.
const COMPARED: usize = 4_096;

/// Connections that end before batches are written one by one: one of them may be longer than Redis
/// takes (`client-query-buffer-limit`).
const CUTS_TOGETHER: usize = 3;

/// Connections that end before such a batch is given up. It would keep all others waiting for ever.
const CUTS_ALONE: usize = 6;

/// Bytes of a batch that may be given up. Redis takes smaller ones, whatever its limit.
const LARGE: usize = 1 << 20;

/// Publishes what waits in a queue for one place.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) options: RedisOptions,
    pub(super) keys: KeyNames,
    pub(super) route: Route,
    pub(super) place: Place,
    /// Name of this node and this writer, unlike all others.
    pub(super) node: Bytes,
    pub(super) link: Link,
    pub(super) idempotency_ms: Bytes,
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) health: Arc<LinkHealth>,
    pub(super) positions: Arc<Positions>,
    pub(super) queue: Arc<Queue>,
    /// The server of the connection. None if batches cannot name it.
    pub(super) server: Option<ServerId>,
    pub(super) owed: Arc<OwedEpochs>,
    pub(super) fences: Arc<Fences>,
    /// How many connections in a row ended while the same batches were written.
    pub(super) cuts: usize,
    /// Positions that all writers of the queue have written.
    pub(super) seen: Arc<Mutex<RecentPositions>>,
}

/// The newest publication that a writer has written on a channel.
#[derive(Debug)]
struct LastWrite {
    position: Position,
    /// Number of the write.
    number: u64,
    at: Instant,
}

/// The newest positions that a writer was given, of the channels that it wrote last.
#[derive(Debug, Default)]
pub(super) struct RecentPositions {
    newer: HashMap<ChannelName, LastWrite>,
    older: HashMap<ChannelName, LastWrite>,
}

impl RecentPositions {
    fn get(&self, channel: &ChannelName) -> Option<&Position> {
        let written = self.newer.get(channel).or_else(|| self.older.get(channel));
        written.map(|written| &written.position)
    }

    fn note(&mut self, channel: &ChannelName, written: LastWrite) {
        if let Some(known) = self.newer.get_mut(channel) {
            known.position.advance(&written.position);
            (known.number, known.at) = (written.number, written.at);
            return;
        }
        if self.newer.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(channel.clone(), written);
    }

    /// The channels that were written lately.
    fn lately(&self) -> impl Iterator<Item = (&ChannelName, &LastWrite)> {
        let all = self.newer.iter();
        all.filter(|(_, written)| written.at.elapsed() < LATELY)
            .take(COMPARED)
    }
}

impl Writer {
    /// A writer of the same queue for a place.
    pub(super) fn at(&self, place: Place) -> Self {
        let link = match &self.link {
            Link::Publishing(_, index) => Link::Publishing(place.clone(), *index),
            other => other.clone(),
        };
        Self {
            place,
            link,
            ..self.clone()
        }
    }

    /// Publishes until the place has no channels any more, or until it is aborted.
    pub(super) async fn run(mut self) {
        let (mut writes, mut parked) = (Vec::new(), Parked::default());
        let mut backoff = backoff();
        loop {
            self.hand_over(&mut writes, &mut parked);
            if self.route.is_gone(&self.place) {
                if writes.is_empty() && parked.writes.is_empty() {
                    return;
                }
                // It was not yet gone a moment ago.
                continue;
            }
            let version = self.options.sentinels.version();
            let written = self.connect_and_write(&mut writes, &mut parked, &mut backoff);
            let Err(error) = written.await;
            if !self.route.is_gone(&self.place) {
                self.health.fail(self.link.clone(), &error);
                let pause = backoff.next_pause();
                tokio::select! {
                    () = self.options.sentinels.pause(version, pause) => {}
                    // Another server has what this one had.
                    () = self.route.gone(&self.place) => {}
                }
            }
        }
    }

    /// Gives the channels back that are at another place by now.
    fn hand_over(&self, writes: &mut Vec<Write>, parked: &mut Parked) {
        if !self.route.is_cluster() {
            return;
        }
        let is_elsewhere = |write: &mut Write| self.route.of(&write.batch.channel) != self.place;
        let mut others: Vec<_> = writes.extract_if(.., is_elsewhere).collect();
        others.extend(parked.writes.extract_if(.., is_elsewhere));
        if !others.is_empty() {
            self.queue.give_back([], others);
        }
    }

    async fn connect_and_write(
        &mut self,
        writes: &mut Vec<Write>,
        parked: &mut Parked,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, RedisError> {
        let master = self.place.master();
        let mut connection = RedisConnection::open_master(&self.options, master).await?;
        let mut digests = Digests::load(&mut connection).await?;
        self.server = ServerId::ask(&mut connection, &self.route).await?;
        if writes.is_empty() {
            self.health.recover(&self.link);
            backoff.reset();
        }
        let (mut pipeline, mut asking) = (Vec::new(), Asking::default());
        let mut is_compared = false;
        loop {
            connection.check_master()?;
            self.hand_over(writes, parked);
            if !is_compared {
                is_compared = self.compare(&mut connection, &digests).await?;
            }
            if writes.is_empty() {
                tokio::select! {
                    () = self.queue.ready(&self.place) => {}
                    () = parked.due() => {}
                    // The newest writes are compared with the next server, even if nothing follows.
                    error = connection.ended() => return Err(error),
                }
                *writes = parked.take_due();
                if writes.is_empty() {
                    *writes = self.queue.take(&self.place);
                }
                if writes.is_empty() {
                    // All senders have given up.
                    continue;
                }
            }
            pipeline.clear();
            let later = match self.cuts >= CUTS_TOGETHER {
                true => writes.split_off(1),
                false => Vec::new(),
            };
            for call in self.calls(writes) {
                digests.encode(&mut pipeline, &call);
            }
            let asked = Instant::now();
            let exchanged = async {
                connection.check_master()?;
                let replies = connection.exchange(&pipeline, writes.len()).await?;
                connection.confirm_master(&self.options, asked).await?;
                Ok::<_, RedisError>(replies)
            };
            let replies = match exchanged.await {
                Ok(replies) => replies,
                Err(error) => {
                    let mut channels = self.note_cut(writes, pipeline.len(), &error);
                    writes.extend(later);
                    for write in &*writes {
                        channels.remove(&write.batch.channel);
                    }
                    self.queue.give_back(channels, Vec::new());
                    return Err(error);
                }
            };
            self.cuts = match later.is_empty() {
                true => 0,
                // The one that Redis has no room for is among the others.
                false => CUTS_TOGETHER,
            };
            let (mut again, mut fault, mut is_unknown) = (Vec::new(), None, false);
            let (mut channels, mut moving) = (HashSet::new(), HashMap::new());
            for (write, reply) in writes.drain(..).zip(replies) {
                let channel = write.batch.channel.clone();
                let (unfinished, error) = self.finish(write, reply);
                again.extend(unfinished);
                match error {
                    Some(error) if error.is_redirection() => {
                        // That of its first write.
                        let target = || asking::target(&error, &self.place);
                        moving.entry(channel.clone()).or_insert_with(target);
                    }
                    Some(error) => {
                        is_unknown |= error.is_unknown_script();
                        fault = Some(error);
                    }
                    None => {}
                }
                channels.insert(channel);
            }
            *writes = again;
            writes.extend(later);
            let notices = self.ask(&mut asking, writes, &moving).await;
            parked.park(writes, &moving);
            for write in writes.iter().chain(&parked.writes) {
                channels.remove(&write.batch.channel);
            }
            self.queue.give_back(channels, Vec::new());
            if notices.count > 0 {
                connection
                    .exchange(&notices.pipeline, notices.count)
                    .await?;
            }
            match fault {
                None => {
                    self.health.recover(&self.link);
                    backoff.reset();
                }
                Some(_) if is_unknown => digests = Digests::load(&mut connection).await?,
                Some(error) if error.is_transient() => return Err(error),
                Some(error) => {
                    // The connection works. Nobody may publish for long, so the next probe finds out
                    // whether writes work again.
                    self.health.recover(&self.link);
                    backoff.reset();
                    self.health.fail(Link::Writes(self.place.clone()), &error);
                }
            }
        }
    }

    /// Notes that a connection ended while batches of so many bytes were written. Gives up a batch that
    /// ended many of them alone, and returns its channel.
    fn note_cut(
        &mut self,
        writes: &mut Vec<Write>,
        bytes: usize,
        error: &RedisError,
    ) -> HashSet<ChannelName> {
        let mut channels = HashSet::new();
        if !matches!(error, RedisError::Connection(_)) {
            return channels;
        }
        self.cuts += 1;
        if self.cuts < CUTS_ALONE || bytes < LARGE || writes.len() != 1 {
            return channels;
        }
        self.cuts = 0;
        for mut write in writes.drain(..) {
            channels.insert(write.batch.channel.clone());
            let text = format!(
                "nothing was published: Redis ended {CUTS_ALONE} connections that sent these {bytes} bytes: raise its `client-query-buffer-limit`, or publish less at once"
            );
            let error = StreamError::new(ErrorCode::ResourceExhausted, text);
            self.refuse(&mut write.batch, &error);
        }
        channels
    }

    /// Compares what this writer was acknowledged lately with the server, which may have lost it.
    /// Perhaps no client of this node has seen it, and others have published more since: then nobody
    /// else finds out. Returns false if the server refuses writes, and with them another epoch.
    ///
    /// # Errors
    /// The connection broke, or the server has no scripts.
    async fn compare(
        &self,
        connection: &mut RedisConnection,
        digests: &Digests,
    ) -> Result<bool, RedisError> {
        let (mut pipeline, mut count) = (Vec::new(), 0);
        let node = String::from_utf8_lossy(&self.node);
        for (channel, written) in self.seen.lock().lately() {
            let namespace = self.namespaces.get(channel);
            let is_here = self.route.of(channel) == self.place;
            let Some(namespace) = namespace.filter(|_| is_here) else {
                continue;
            };
            let seen = Top {
                position: written.position.clone(),
                mark: format!("{node}:{}", written.number),
            };
            let call = check_call(&self.keys, channel, Some(&seen), namespace, "read");
            digests.encode(&mut pipeline, &call);
            count += 1;
        }
        let mut is_compared = true;
        for reply in connection.exchange(&pipeline, count).await? {
            let Reply::Error(text) = reply else {
                continue;
            };
            match RedisError::Refused(text) {
                error if error.refuses_writes() || error.is_redirection() => is_compared = false,
                error if error.is_transient() || error.is_unknown_script() => return Err(error),
                error => tracing::warn!(%error, "a channel cannot be compared with Redis"),
            }
        }
        Ok(is_compared)
    }

    /// Has the servers that slots are on their way to carry out the writes of channels whose keys they
    /// have. Those that are left in `writes` are to be tried again. Returns notices for the subscribers,
    /// which are still at the server of before.
    async fn ask(
        &mut self,
        asking: &mut Asking,
        writes: &mut Vec<Write>,
        moving: &HashMap<ChannelName, Option<ServerAddress>>,
    ) -> Notices {
        let mut notices = Notices::default();
        let targets: HashSet<_> = moving.values().flatten().collect();
        for target in targets {
            // All writes of a channel: the first of them decides where it is.
            let is_there = |write: &mut Write| {
                let known = moving.get(&write.batch.channel);
                known.is_some_and(|known| known.as_ref() == Some(target))
            };
            let asked: Vec<_> = writes.extract_if(.., is_there).collect();
            let calls: Vec<_> = self.calls(&asked).map(RedisCommand::Script).collect();
            let replies = asking.exchange(&self.options, target, &calls).await;
            let Ok(Some(replies)) = replies else {
                writes.extend(asked);
                continue;
            };
            for (write, reply) in asked.into_iter().zip(replies) {
                let channel = write.batch.channel.clone();
                match self.finish(write, reply) {
                    (None, None) => notices.add(&self.keys.shard_channel(&channel)),
                    (unfinished, _) => writes.extend(unfinished),
                }
            }
        }
        notices
    }

    /// The calls that publish batches, each after the one before it on its channel.
    fn calls(&self, writes: &[Write]) -> impl Iterator<Item = ScriptCall> {
        let mut before = HashMap::new();
        writes.iter().map(move |write| {
            let previous = before.insert(&write.batch.channel, write);
            self.call(write, previous)
        })
    }

    /// The call that publishes a batch, after the `previous` one of its channel in the pipeline.
    fn call(&self, write: &Write, previous: Option<&Write>) -> ScriptCall {
        let batch = &write.batch;
        let channel = &batch.channel;
        let namespace = self.namespaces.get(channel);
        let (size, history_ms) = match namespace {
            Some(one) if one.class == Class::History => {
                (one.history_size, one.history_ttl.as_millis())
            }
            _ => (1, crate::namespace::METADATA_TTL.as_millis()),
        };
        let seen = self.seen(channel);
        let (epoch, seq) = match &seen {
            Some(seen) => (seen.epoch.as_str(), seen.seq),
            None => ("", 0),
        };
        let copied = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let keyed = batch.items.iter().enumerate();
        let keyed = keyed.filter_map(|(index, item)| Some((index, item.key.as_ref()?)));
        let mut arguments = Vec::from(self.keys.of(channel));
        arguments.extend(keyed.clone().map(|(_, key)| key.name.clone()));
        let fence = batch.fence();
        arguments.extend(fence.map(|fence| self.keys.lease(channel, &fence.lease)));
        let keys = arguments.len();
        arguments.extend([
            self.keys.shard_channel(channel),
            self.node.clone(),
            write.number.to_string().into(),
            copied(epoch),
            seq.to_string().into(),
            copied(Epoch::random().as_str()),
            size.to_string().into(),
            history_ms.to_string().into(),
            namespace.map_or_else(|| "90000000".into(), metadata_lifetime),
            fresh_lifetime(),
            self.idempotency_ms.clone(),
            Bytes::from_static(batch.mode().as_bytes()),
            batch.slot.to_string().into(),
            previous.map_or_else(Bytes::new, |one| one.batch.slot.to_string().into()),
            previous.map_or_else(Bytes::new, |one| one.number.to_string().into()),
            fence.map_or_else(Bytes::new, |fence| copied(&fence.term)),
            self.keys.fresh(channel),
            // The script asks for the id: it may run on the server that the slot is on its way to.
            Bytes::from_static(match self.server {
                Some(_) => b"named",
                None => b"",
            }),
            batch.items.len().to_string().into(),
        ]);
        arguments.extend(batch.items.iter().map(|item| item.payload.clone()));
        for (index, key) in keyed {
            arguments.push((index + 1).to_string().into());
            arguments.push(key.fingerprint.clone());
        }
        ScriptCall {
            script: Script::Publish,
            keys,
            arguments,
        }
    }

    /// The newest position of a channel that this node knows of.
    fn seen(&self, channel: &ChannelName) -> Option<Position> {
        let written = self.seen.lock().get(channel).cloned();
        match (self.positions.top(channel), written) {
            (Some(top), Some(written)) if top.epoch == written.epoch && written.seq > top.seq => {
                Some(written)
            }
            (Some(top), _) => Some(top),
            (None, written) => written,
        }
    }

    /// Tells the senders of a batch that it was refused.
    fn refuse(&self, batch: &mut Batch, error: &StreamError) {
        let channel = &batch.channel;
        for item in std::mem::take(&mut batch.items) {
            match item.reply {
                Some(reply) => drop(reply.send(Err(error.clone()))),
                None => self.owed.lose(channel, error),
            }
        }
    }

    /// Tells the senders of a batch what became of it. Returns the batch if it is to be written again,
    /// and the error if there was one. A batch that is published may have one too: that of pub/sub.
    fn finish(&mut self, write: Write, reply: Reply) -> (Option<Write>, Option<RedisError>) {
        let answer = match reply {
            Reply::Error(text) => Err(RedisError::Refused(text)),
            reply => reply.string(),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.is_unknown_script() || error.is_transient() => {
                return (Some(write), Some(error));
            }
            Err(error) => {
                let mut batch = write.batch;
                self.refuse(&mut batch, &error.unavailable("nothing was published"));
                return (None, Some(error));
            }
        };
        if answer == "early" {
            return (Some(write), None);
        }
        // It is published, and pub/sub was refused: the nodes find it when they compare their positions.
        let (answer, unheard) = match answer.split_once('\n') {
            Some((answer, error)) => (answer, Some(RedisError::Refused(error.to_owned()))),
            None => (&*answer, None),
        };
        let mut batch = write.batch;
        match answer {
            "unknown" => return (None, None),
            "fenced" => {
                note_fenced(&batch);
                if let Some(fence) = batch.fence() {
                    self.fences.look_into(&batch.channel, fence);
                }
                let text = "nothing was published: the lease of this node's engine is not in force in Redis: another node owns the engine by now, or Redis has lost the lease";
                let error = StreamError::new(ErrorCode::Unavailable, text);
                // The others are counted, and the next owner publishes in their place.
                batch.items.retain(|item| item.reply.is_some());
                self.refuse(&mut batch, &error);
                return (None, None);
            }
            "full" => {
                let text = "this client made as many channels as it may, and may not make another";
                self.refuse(
                    &mut batch,
                    &StreamError::new(ErrorCode::ResourceExhausted, text),
                );
                return (None, None);
            }
            _ => {}
        }
        let Some(outcomes) = outcomes(answer, batch.items.len()) else {
            let error = RedisError::Protocol(format!("{answer:?} came, expected positions"));
            self.refuse(
                &mut batch,
                &error.unavailable("it is not known whether this was published"),
            );
            return (None, Some(error));
        };
        let items = std::mem::take(&mut batch.items);
        let mut newest = None;
        for (Item { reply, key, .. }, outcome) in items.into_iter().zip(outcomes) {
            if let Outcome::Published(written) = &outcome {
                newest = Some(written.position.clone());
            }
            if let Some(reply) = reply {
                let outcome = match outcome {
                    Outcome::Published(written) | Outcome::Repeated(written) => Ok(written),
                    Outcome::OtherBody => Err(other_body(&batch.channel, key.is_some())),
                };
                // One that gave up needs no answer.
                let _ = reply.send(outcome);
            }
        }
        if let Some(position) = newest {
            let (number, at) = (write.number, Instant::now());
            let written = LastWrite {
                position,
                number,
                at,
            };
            self.seen.lock().note(&batch.channel, written);
        }
        (None, unheard)
    }
}

/// Logs and counts publications of an engine that another node owns by now.
fn note_fenced(batch: &Batch) {
    let (channel, count) = (&batch.channel, batch.items.len());
    metrics::counter!("tidewire_broker_fenced_publications_total").increment(count as u64);
    let term = batch.fence().map(|fence| &*fence.term);
    tracing::warn!(
        %channel,
        count,
        term,
        "publications are refused: the lease of their engine is not that of this node in Redis any more: another node has it, or Redis has lost it"
    );
}

fn other_body(channel: &ChannelName, has_key: bool) -> StreamError {
    debug_assert!(
        has_key,
        "only a publication with a key can be refused for it"
    );
    StreamError::new(
        ErrorCode::FailedPrecondition,
        format!("the idempotency key was used on {channel} with other data"),
    )
}

/// The outcome of one publication of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Published(Receipt),
    /// The idempotency key was used before.
    Repeated(Receipt),
    /// The idempotency key was used with another body.
    OtherBody,
}

/// Reads the answer of the script to a batch of `count` publications.
fn outcomes(answer: &str, count: usize) -> Option<Vec<Outcome>> {
    let mut words = answer.split(' ');
    let (is_new, epoch) = (words.next()? == "1", Epoch::new(words.next()?));
    let mut next = words.next()?.parse::<u64>().ok()?;
    let mut written = |epoch: &Epoch| {
        let seq = next;
        next = next.saturating_add(1);
        Outcome::Published(Receipt {
            position: Position {
                epoch: epoch.clone(),
                seq,
            },
            is_new,
        })
    };
    let words: Vec<_> = words.collect();
    if words.is_empty() {
        return Some((0..count).map(|_| written(&epoch)).collect());
    }
    let outcomes = words.iter().map(|word| match *word {
        "+" => Some(written(&epoch)),
        "!" => Some(Outcome::OtherBody),
        known => {
            let (epoch, seq) = known.split_once(':')?;
            Some(Outcome::Repeated(Receipt {
                position: Position {
                    epoch: Epoch::new(epoch),
                    seq: seq.parse().ok()?,
                },
                is_new: false,
            }))
        }
    });
    let outcomes: Vec<_> = outcomes.collect::<Option<_>>()?;
    (outcomes.len() == count).then_some(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(epoch: &str, seq: u64, is_new: bool) -> Receipt {
        Receipt {
            position: Position {
                epoch: Epoch::new(epoch),
                seq,
            },
            is_new,
        }
    }

    #[test]
    fn an_answer_has_an_outcome_for_each_publication() {
        let published = |seq| Outcome::Published(written("e", seq, true));
        assert_eq!(
            outcomes("1 e 9007199254740993", 2),
            Some(vec![
                published(9_007_199_254_740_993),
                published(9_007_199_254_740_994)
            ])
        );
        assert_eq!(
            outcomes("1 e 5 + d:3 ! +", 4),
            Some(vec![
                published(5),
                Outcome::Repeated(written("d", 3, false)),
                Outcome::OtherBody,
                published(6)
            ])
        );
        assert_eq!(outcomes("1 e 5 +", 2), None);
        assert_eq!(outcomes("OK", 1), None);
    }
}
