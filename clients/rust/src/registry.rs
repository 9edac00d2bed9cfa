//! Registry: the channels that the application subscribes to, and the position reached on each.
//!
//! The application changes it; the connection's task compares it with what the server knows, and
//! sends the difference ([`Registry::next_message`]). Nothing is queued for the task, so the
//! registry is as large as the application's own subscriptions.
//!
//! Example: the connection is lost after seq 41 of epoch `a` on `orders:7`. The next connection
//! subscribes with `since {a, 41}`. If the reply says `recovered`, 42 and later follow. If not, the
//! subscription yields a gap with the new position, and continues from there. A position is
//! replaced as a whole, so that the seq of one epoch never meets the name of another.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map},
    sync::Arc,
    time::Duration,
};

use tidewire_proto::v1::{
    ActiveSubscription, ChannelClass, ChannelSubscription, ClientMessage, Gap as WireGap, Position,
    PriceBatch, ServerMessage, SubscribeRequest, Subscribed, SubscriptionResult,
    UnsubscribeRequest, client_message, server_message::Data,
};
use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    error::{Error, ErrorKind},
    queue::{Notice, Publication, Sink},
    subscription::{Gap, GapReason, SubscribeOptions},
};

/// Name of the own user's channel before the server has told the user's id.
pub(crate) const OWN_USER: &str = "user:";

/// Channels in one message, so that it stays far below the server's limit.
const CHANNELS_PER_MESSAGE: usize = 100;

/// Bytes of a channel's name: the server's limit. A message with a name of any length could be over
/// the limit of messages, which ends the connection of all channels.
const MAX_CHANNEL_BYTES: usize = 255;

/// State of a channel on the present connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// To be requested.
    Unsent,
    /// Requested. Publications before the reply belong to an earlier subscription, or come again
    /// with the replay.
    Sent {
        /// Number of the request. Replies to earlier ones, before the channel was dropped and
        /// joined again, do not count.
        request: u64,
        with_position: bool,
    },
    Active,
    /// Refused for the moment.
    Refused {
        retry_at: Instant,
    },
}

/// A `subscribe` without a reply.
struct Request {
    names: Vec<Arc<str>>,
    sent_at: Instant,
}

struct Entry {
    /// The name as the server writes it.
    canonical: String,
    sinks: Vec<(u64, Arc<dyn Sink>)>,
    min_interval: Option<Duration>,
    class: Option<ChannelClass>,
    /// Whether its values may come in a batch.
    is_batched: bool,
    /// Where to resume.
    position: Option<Position>,
    /// The newest publication when a replay began.
    replay_until: u64,
    /// The newest value of a latest channel, for later subscriptions.
    latest: Option<Publication>,
    phase: Phase,
    backoff: Backoff,
}

impl Entry {
    fn new(channel: &str, options: SubscribeOptions) -> Self {
        Self {
            canonical: channel.to_owned(),
            sinks: Vec::new(),
            min_interval: options.min_interval,
            class: None,
            is_batched: true,
            position: options.since,
            replay_until: 0,
            latest: None,
            phase: Phase::Unsent,
            backoff: Backoff::default(),
        }
    }

    fn notify(&self, notice: &Notice) {
        for (_, sink) in &self.sinks {
            sink.notice(notice.clone());
        }
    }

    fn gap(&self, reason: GapReason) {
        self.notify(&Notice::Gap(Gap {
            channel: self.canonical.clone(),
            position: self.position.clone(),
            reason,
        }));
    }

    fn end(self, error: Option<&Error>) {
        for (_, sink) in self.sinks {
            sink.end(error.cloned());
        }
    }

    fn deliver(&mut self, data: Data, position: Option<Position>, timestamp: Option<i64>) {
        let seq = position.as_ref().map(|position| position.seq);
        let publication = Publication {
            data,
            is_replay: seq.is_some_and(|seq| seq <= self.replay_until),
            position,
            timestamp,
            class: self.class.unwrap_or(ChannelClass::History),
        };
        for (_, sink) in &self.sinks {
            sink.deliver(&publication);
        }
        if publication.class == ChannelClass::Latest {
            self.latest = Some(publication);
        }
    }
}

/// The channels of one client.
#[derive(Default)]
pub(crate) struct Registry {
    entries: HashMap<Arc<str>, Entry>,
    /// Two names stand for one channel if the application wrote it in two ways.
    by_canonical: HashMap<String, Vec<Arc<str>>>,
    /// Channels to request.
    unsent: BTreeSet<Arc<str>>,
    /// Refused channels that are tried again.
    refused: BTreeSet<Arc<str>>,
    /// Channels that the server knows and nobody needs.
    unneeded: BTreeSet<String>,
    /// Requests without a reply, by their number, which is the `id` of their message.
    requests: BTreeMap<u64, Request>,
    /// User of the connection.
    user: Option<String>,
    last_id: u64,
    /// Set when the client is closed.
    closed: Option<Option<Error>>,
}

impl Registry {
    /// Whether nobody subscribes to anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the client is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Adds a subscription, and returns its number.
    pub(crate) fn join(
        &mut self,
        channel: &Arc<str>,
        sink: Arc<dyn Sink>,
        options: SubscribeOptions,
    ) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        if let Some(error) = &self.closed {
            sink.end(error.clone());
            return id;
        }
        if channel.len() > MAX_CHANNEL_BYTES {
            let text = format!(
                "the channel's name has {} bytes, expected {MAX_CHANNEL_BYTES} at most",
                channel.len()
            );
            sink.end(Some(Error::new(ErrorKind::InvalidArgument, text)));
            return id;
        }
        match self.entries.entry(channel.clone()) {
            hash_map::Entry::Occupied(_) if options.since.is_some() => {
                let text = format!(
                    "{channel} has a subscription already, expected none with `since`: read the \
                     history instead"
                );
                sink.end(Some(Error::new(ErrorKind::FailedPrecondition, text)));
            }
            hash_map::Entry::Occupied(mut entry) => {
                let entry = entry.get_mut();
                // The server sends it once for each connection.
                if let Some(latest) = &entry.latest {
                    sink.deliver(latest);
                }
                entry.sinks.push((id, sink));
            }
            hash_map::Entry::Vacant(vacant) => {
                let entry = vacant.insert(Entry::new(channel, options));
                entry.sinks.push((id, sink));
                self.unsent.insert(channel.clone());
                let names = self.by_canonical.entry(channel.to_string());
                names.or_default().push(channel.clone());
            }
        }
        id
    }

    /// Removes a subscription. The channel's last one unsubscribes.
    pub(crate) fn leave(&mut self, channel: &Arc<str>, id: u64) {
        let Some(entry) = self.entries.get_mut(channel) else {
            return;
        };
        let before = entry.sinks.len();
        entry.sinks.retain(|(other, _)| *other != id);
        if entry.sinks.is_empty() && before > 0 {
            self.remove(channel);
        }
    }

    /// Removes a channel. The server is told if it knows it.
    fn remove(&mut self, channel: &Arc<str>) -> Option<Entry> {
        let entry = self.entries.remove(channel)?;
        self.unsent.remove(channel);
        self.refused.remove(channel);
        let is_last = self.unindex(&entry.canonical, channel);
        let is_known = matches!(entry.phase, Phase::Sent { .. } | Phase::Active);
        // The user's channel is the server's own subscription.
        if is_last && is_known && **channel != *OWN_USER {
            self.unneeded.insert(entry.canonical.clone());
        }
        Some(entry)
    }

    /// Removes a name from the index. Returns whether it was the last of its channel.
    fn unindex(&mut self, canonical: &str, channel: &Arc<str>) -> bool {
        let Some(names) = self.by_canonical.get_mut(canonical) else {
            return true;
        };
        names.retain(|name| name != channel);
        let is_last = names.is_empty();
        if is_last {
            self.by_canonical.remove(canonical);
        }
        is_last
    }

    fn rename(&mut self, channel: &Arc<str>, canonical: &str) {
        let Some(entry) = self.entries.get_mut(channel) else {
            return;
        };
        if entry.canonical == canonical {
            return;
        }
        let old = std::mem::replace(&mut entry.canonical, canonical.to_owned());
        self.unindex(&old, channel);
        let names = self.by_canonical.entry(canonical.to_owned());
        names.or_default().push(channel.clone());
    }

    /// Ends all subscriptions, and those to come.
    pub(crate) fn close(&mut self, error: Option<Error>) {
        if self.closed.is_some() {
            return;
        }
        self.on_disconnect();
        for (_, entry) in self.entries.drain() {
            entry.end(error.as_ref());
        }
        self.by_canonical.clear();
        self.unsent.clear();
        self.refused.clear();
        self.closed = Some(error);
    }

    /// Begins a connection: all channels are to be requested, from where they are.
    pub(crate) fn on_connect(&mut self, user: Option<String>, active: &[ActiveSubscription]) {
        let own = user.as_ref().map(|user| format!("{OWN_USER}{user}"));
        let own_name: Arc<str> = OWN_USER.into();
        if let Some(canonical) = &own
            && let Some(entry) = self.entries.get_mut(&own_name)
            && entry.canonical != *canonical
        {
            // The positions of another user mean nothing here.
            entry.position = None;
            self.rename(&own_name, canonical);
        }
        self.user = user;
        for active in active {
            let names = self.by_canonical.get(&active.channel);
            for name in names.into_iter().flatten() {
                let Some(entry) = self.entries.get_mut(name) else {
                    continue;
                };
                // With a position it resumes: its reply is still to come.
                if entry.position.is_none() {
                    entry.position = Some(Position {
                        epoch: active.epoch.clone(),
                        seq: active.seq,
                    });
                    entry.class = Some(ChannelClass::History);
                    entry.phase = Phase::Active;
                    self.unsent.remove(name);
                }
            }
        }
    }

    /// Forgets what the lost connection knew.
    pub(crate) fn on_disconnect(&mut self) {
        self.requests.clear();
        self.unneeded.clear();
        self.refused.clear();
        for (name, entry) in &mut self.entries {
            entry.phase = Phase::Unsent;
            self.unsent.insert(name.clone());
        }
    }

    /// The next time at which a refused channel is tried again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        let times = self.refused.iter().filter_map(|name| {
            match self.entries.get(name).map(|entry| entry.phase) {
                Some(Phase::Refused { retry_at }) => Some(retry_at),
                _ => None,
            }
        });
        times.min()
    }

    /// Whether [`next_message`](Self::next_message) has something to send.
    pub(crate) fn has_message(&self, now: Instant) -> bool {
        !self.unneeded.is_empty()
            || !self.unsent.is_empty()
            || self.next_retry().is_some_and(|at| at <= now)
    }

    /// The next message to the server.
    pub(crate) fn next_message(&mut self, now: Instant) -> Option<ClientMessage> {
        if !self.unneeded.is_empty() {
            let mut channels = Vec::new();
            while channels.len() < CHANNELS_PER_MESSAGE
                && let Some(channel) = self.unneeded.pop_first()
            {
                channels.push(channel);
            }
            return Some(ClientMessage {
                id: None,
                data: Some(client_message::Data::Unsubscribe(UnsubscribeRequest {
                    channels,
                })),
            });
        }
        self.requeue_refused(now);
        self.last_id += 1;
        let request = self.last_id;
        let mut names = Vec::new();
        let mut channels = Vec::new();
        while channels.len() < CHANNELS_PER_MESSAGE
            && let Some(name) = self.unsent.pop_first()
        {
            if *name == *OWN_USER && self.user.is_none() {
                let text = "the connection has no user: the channel of a user needs a token";
                let error = Error::new(ErrorKind::Unauthenticated, text);
                if let Some(entry) = self.remove(&name) {
                    entry.end(Some(&error));
                }
                continue;
            }
            if *name == *OWN_USER
                && let Some(user) = &self.user
            {
                let canonical = format!("{OWN_USER}{user}");
                self.rename(&name, &canonical);
            }
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            // A latest channel has no replay: it sends its newest value.
            let since = entry
                .position
                .clone()
                .filter(|_| entry.class != Some(ChannelClass::Latest));
            entry.phase = Phase::Sent {
                request,
                with_position: since.is_some(),
            };
            let interval = entry.min_interval.map(|interval| interval.as_millis());
            channels.push(ChannelSubscription {
                channel: entry.canonical.clone(),
                since,
                min_interval_ms: interval.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)),
            });
            names.push(name);
        }
        if channels.is_empty() {
            return None;
        }
        let sent_at = now;
        self.requests.insert(request, Request { names, sent_at });
        Some(ClientMessage {
            id: Some(request.to_string()),
            data: Some(client_message::Data::Subscribe(SubscribeRequest {
                channels,
            })),
        })
    }

    fn requeue_refused(&mut self, now: Instant) {
        let entries = &self.entries;
        let unsent = &mut self.unsent;
        self.refused.retain(|name| {
            let phase = entries.get(name).map(|entry| entry.phase);
            let is_due = matches!(phase, Some(Phase::Refused { retry_at }) if retry_at <= now);
            if is_due {
                unsent.insert(name.clone());
            }
            !is_due && phase.is_some()
        });
    }

    /// When the oldest request without a reply was sent.
    pub(crate) fn oldest_request(&self) -> Option<Instant> {
        let (_, oldest) = self.requests.first_key_value()?;
        Some(oldest.sent_at)
    }

    /// Removes a request. Returns it with its number, unless no request has this `id`.
    fn take_request(&mut self, id: Option<&str>) -> Option<(u64, Vec<Arc<str>>)> {
        let number = id?.parse().ok()?;
        let request = self.requests.remove(&number)?;
        Some((number, request.names))
    }

    /// Applies a message of the server. Those about no channel are the session's.
    pub(crate) fn apply(&mut self, message: ServerMessage, now: Instant) {
        let ServerMessage {
            id,
            channel,
            seq,
            timestamp,
            data: Some(data),
        } = message
        else {
            return;
        };
        match data {
            Data::Subscribed(subscribed) => self.finish_request(id.as_deref(), subscribed, now),
            Data::Error(error) => {
                let Some((request, names)) = self.take_request(id.as_deref()) else {
                    return;
                };
                let error = Error::from(error);
                for name in names {
                    if self.awaits(&name, request).is_some() {
                        self.refuse(&name, error.clone(), now);
                    }
                }
            }
            // A reply has an `id`. A push ends subscriptions.
            Data::Unsubscribed(unsubscribed) if unsubscribed.reason.is_some() => {
                let reason = unsubscribed.reason.unwrap_or_default();
                let error = Error::new(ErrorKind::Unsubscribed, reason);
                for channel in unsubscribed.channels {
                    self.end_channel(&channel, &error);
                }
            }
            Data::Gap(gap) => self.apply_gap(&gap),
            Data::PriceBatch(batch) => self.deliver_batch(batch, timestamp),
            data => {
                if let Some(channel) = channel {
                    self.deliver(&channel, &data, seq, timestamp);
                }
            }
        }
    }

    /// Ends the subscriptions that the server ended. One that was requested since gets a reply of
    /// its own.
    fn end_channel(&mut self, channel: &str, error: &Error) {
        let names = self.by_canonical.get(channel).cloned();
        let mut has_ended = false;
        for name in names.into_iter().flatten() {
            let phase = self.entries.get(&name).map(|entry| entry.phase);
            if phase == Some(Phase::Active)
                && let Some(entry) = self.remove(&name)
            {
                entry.end(Some(error));
                has_ended = true;
            }
        }
        // One that was dropped before its reply is still to be unsubscribed.
        if has_ended {
            self.unneeded.remove(channel);
        }
    }

    /// Whether a channel awaits the reply to this request, and whether it resumes with it.
    fn awaits(&self, name: &Arc<str>, number: u64) -> Option<bool> {
        match self.entries.get(name)?.phase {
            Phase::Sent {
                request,
                with_position,
            } if request == number => Some(with_position),
            _ => None,
        }
    }

    fn finish_request(&mut self, id: Option<&str>, subscribed: Subscribed, now: Instant) {
        let Some((request, names)) = self.take_request(id) else {
            return;
        };
        let mut dropped = Vec::new();
        for (name, result) in names.into_iter().zip(subscribed.channels) {
            let Some(with_position) = self.awaits(&name, request) else {
                dropped.push((name, result.channel));
                continue;
            };
            match result.error {
                Some(error) => self.refuse(&name, error.into(), now),
                None => self.confirm(&name, result, with_position),
            }
        }
        for (name, canonical) in dropped {
            self.request_again(&name, &canonical);
        }
    }

    /// Requests the other names of a channel again. One of its names was dropped before the server
    /// told that it stands for the same channel, which the server then unsubscribed.
    fn request_again(&mut self, dropped: &Arc<str>, canonical: &str) {
        for name in self.by_canonical.get(canonical).into_iter().flatten() {
            if name != dropped
                && let Some(entry) = self.entries.get_mut(name)
                && entry.phase == Phase::Active
            {
                entry.phase = Phase::Unsent;
                self.unsent.insert(name.clone());
            }
        }
    }

    fn confirm(&mut self, name: &Arc<str>, result: SubscriptionResult, with_position: bool) {
        self.rename(name, &result.channel);
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.phase = Phase::Active;
        entry.backoff.reset();
        if let Some(class) = result.class.and_then(|class| class.try_into().ok()) {
            entry.class = Some(class);
        }
        entry.is_batched = result.batched.unwrap_or(entry.is_batched);
        entry.replay_until = 0;
        if with_position && result.recovered {
            entry.replay_until = result.seq;
            return;
        }
        let position = Position {
            epoch: result.epoch,
            seq: result.seq,
        };
        let has_moved = entry.position.replace(position) != entry.position;
        // The newest value of a latest channel follows, so that nothing is missed on one.
        if with_position && has_moved && entry.class != Some(ChannelClass::Latest) {
            entry.gap(GapReason::Server);
        }
    }

    fn refuse(&mut self, name: &Arc<str>, error: Error, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if !error.is_transient() {
            entry.phase = Phase::Unsent;
            if let Some(entry) = self.remove(name) {
                entry.end(Some(&error));
            }
            return;
        }
        let retry_at = now + entry.backoff.next(error.retry_after());
        entry.phase = Phase::Refused { retry_at };
        entry.notify(&Notice::Retry(error));
        self.refused.insert(name.clone());
    }

    fn apply_gap(&mut self, gap: &WireGap) {
        for name in self.by_canonical.get(&gap.channel).into_iter().flatten() {
            let Some(entry) = self.entries.get_mut(name) else {
                continue;
            };
            if matches!(entry.phase, Phase::Unsent | Phase::Refused { .. }) {
                continue;
            }
            entry.position = Some(Position {
                epoch: gap.epoch.clone(),
                seq: gap.seq,
            });
            entry.replay_until = 0;
            entry.gap(GapReason::Server);
        }
    }

    fn deliver(&mut self, channel: &str, data: &Data, seq: Option<u64>, timestamp: Option<i64>) {
        let Some(names) = self.by_canonical.get(channel) else {
            return;
        };
        for name in names {
            let Some(entry) = self.entries.get_mut(name) else {
                continue;
            };
            if entry.phase != Phase::Active {
                continue;
            }
            let mut position = None;
            if let Some(seq) = seq
                && let Some(reached) = &mut entry.position
            {
                if seq <= reached.seq && entry.class != Some(ChannelClass::Latest) {
                    continue;
                }
                reached.seq = reached.seq.max(seq);
                position = Some(Position {
                    epoch: reached.epoch.clone(),
                    seq,
                });
            }
            entry.deliver(data.clone(), position, timestamp);
        }
    }

    /// Delivers each price to the channel that it would have come on alone.
    fn deliver_batch(&mut self, batch: PriceBatch, timestamp: Option<i64>) {
        for update in batch.updates {
            let channel = match update.source.as_str() {
                "aggregate" => format!("prices:{}", update.symbol),
                source => format!("prices:{}@{source}", update.symbol),
            };
            let timestamp = timestamp.unwrap_or(batch.timestamp);
            for name in self.by_canonical.get(&channel).into_iter().flatten() {
                let Some(entry) = self.entries.get_mut(name) else {
                    continue;
                };
                if entry.phase == Phase::Active && entry.is_batched {
                    entry.class = Some(ChannelClass::Latest);
                    entry.deliver(Data::Price(update.clone()), None, Some(timestamp));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "registry/tests.rs"]
mod tests;
