//! Forgetting: which channels a memory broker drops, to make room for others or because nobody
//! uses them any more. The memory of the histories that stay is freed in `shares`.
//!
//! There may be a million channels. A sweep visits a part of them, and no pass holds the lock of
//! the table for longer than [`VISIT`] channels take: whoever publishes waits for it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use parking_lot::Mutex;
use tidewire_proto::v1::ErrorCode;

use super::{Channel, LocalDelivery, MemoryBroker};
use crate::{ChannelEpoch, ChannelName, StreamError, limit::ClientKey, namespace::METADATA_TTL};

/// Part of a full number of channels that is forgotten at once, so that the search for the idle
/// ones is paid for by many new channels.
const PART: usize = 64;

/// Sweeps that visit all channels of a large table, one after another. There is about one a second.
const SWEEPS: usize = 60;

/// Channels that a sweep visits at least.
const MIN_SWEEP: usize = 4_096;

/// Channels that a pass visits under one hold of the table's lock.
const VISIT: usize = 1_024;

/// Channels of a namespace that is almost full.
struct Crowd {
    /// Number of channels to forget.
    excess: usize,
    /// The channels, with the time of their last use.
    channels: Vec<(i64, ChannelName)>,
}

impl<D: LocalDelivery> MemoryBroker<D> {
    /// Makes room for another channel of a client: forgets those of its channels that have no
    /// subscriber and have not been used for longest.
    pub(super) fn make_room_of(&self, client: &ClientKey) -> Result<(), StreamError> {
        let most = self.limits.channels_per_client;
        let now_ms = self.clock.now_ms();
        let (candidates, is_full_search) = {
            let channels = self.channels.read();
            if most == 0 || channels.count_of(client) < most {
                return Ok(());
            }
            channels.candidates_of(client, now_ms)
        };
        if self.forget_oldest(candidates, most.div_ceil(PART)) == 0 {
            let full_at_ms = is_full_search.then_some(now_ms);
            self.channels.write().note_client_full(client, full_at_ms);
            return Err(StreamError::new(
                ErrorCode::ResourceExhausted,
                format!("this client made {most} channels, all in use, and may not make another"),
            ));
        }
        Ok(())
    }

    /// Makes room for another channel of a namespace. Sweeps do it ahead of time, unless very
    /// many channels are new.
    pub(super) fn make_room_in(&self, namespace: &str) -> Result<(), StreamError> {
        let Some(most) = self.namespaces.named(namespace).map(|one| one.max_channels) else {
            return Ok(());
        };
        let now_ms = self.clock.now_ms();
        let known = {
            let channels = self.channels.read();
            if channels.count(namespace) < most {
                return Ok(());
            }
            channels.candidates_in(namespace, now_ms)
        };
        let is_full_search = known.is_none();
        let candidates = known.unwrap_or_else(|| {
            let mut all = Vec::new();
            self.for_each(|name, channel| {
                if name.namespace() == namespace {
                    all.push((channel.lock().used_ms, name));
                }
            });
            all
        });
        if self.forget_oldest(candidates, most.div_ceil(PART)) == 0 {
            let full_at_ms = is_full_search.then_some(now_ms);
            self.channels.write().note_full(namespace, full_at_ms);
            return Err(StreamError::new(
                ErrorCode::ResourceExhausted,
                format!(
                    "namespace {namespace:?} has {most} channels, all in use, and no room for another"
                ),
            ));
        }
        Ok(())
    }

    /// Forgets those of `channels`, with the time of their last use, that have no subscriber,
    /// the oldest first and up to `count` of them. Returns how many.
    fn forget_oldest(&self, mut channels: Vec<(i64, ChannelName)>, count: usize) -> usize {
        channels.sort_unstable_by_key(|(used_ms, _)| *used_ms);
        let idle = channels.into_iter().filter(|(_, name)| {
            let is_active = matches!(self.namespaces.epoch(name), ChannelEpoch::Active(_));
            !is_active && !self.subscribers.has_subscribers(name)
        });
        let idle: Vec<_> = idle.take(count).collect();
        self.forget_unused(&idle)
    }

    /// Forgets channels that were not used after the given times. Returns how many.
    fn forget_unused(&self, channels: &[(i64, ChannelName)]) -> usize {
        // Before the channels are gone: none of them starts again in the epoch that it had.
        let namespaces: HashSet<_> = channels.iter().map(|(_, name)| name.namespace()).collect();
        for namespace in namespaces {
            self.fresh_epochs.change(namespace);
        }
        let mut count = 0;
        for (used_ms, name) in channels {
            // Another client may have come meanwhile.
            let is_forgotten = self.forget_if(name, |channel| {
                channel.used_ms <= *used_ms && !self.subscribers.has_subscribers(name)
            });
            count += usize::from(is_forgotten);
        }
        count
    }

    /// Forgets a channel if that is right. Returns whether it did.
    fn forget_if(&self, name: &ChannelName, is_right: impl FnOnce(&Channel) -> bool) -> bool {
        let mut table = self.channels.write();
        let Some(channel) = table.get(name).cloned() else {
            return false;
        };
        let mut channel = channel.lock();
        if !is_right(&channel) {
            return false;
        }
        channel.drop_all();
        channel.forgotten = true;
        table.remove(name);
        true
    }

    /// Namespaces that are almost full, so that they have room for new channels until the next
    /// sweep.
    fn crowded_namespaces(&self) -> HashMap<Box<str>, Crowd> {
        let channels = self.channels.read();
        let crowded = channels.counts().filter_map(|(name, count)| {
            let most = self.namespaces.named(name)?.max_channels;
            // A small namespace makes room when it needs it. A large one makes room for many new
            // channels: each time all of its channels are looked at.
            let part = most / PART;
            let is_crowded = part > 0 && count > most - part / 2;
            let crowd = Crowd {
                excess: count.checked_sub(most - part).filter(|_| is_crowded)?,
                channels: Vec::new(),
            };
            Some((name.into(), crowd))
        });
        crowded.collect()
    }

    /// Forgets the channels of a namespace without history and subscribers. Returns the others.
    pub(super) fn forget_quiet_in(&self, namespace: &str) -> Vec<ChannelName> {
        let now_ms = self.clock.now_ms();
        let (mut quiet, mut others) = (Vec::new(), Vec::new());
        self.for_each(|name, channel| {
            if name.namespace() != namespace {
                return;
            }
            let mut channel = channel.lock();
            self.trim(&name, &mut channel, now_ms);
            match channel.log.is_empty() && !self.subscribers.has_subscribers(&name) {
                true => quiet.push(name),
                false => others.push(name),
            }
        });
        if quiet.is_empty() {
            return others;
        }
        // Before the channels are gone: none of them starts again in the epoch that it had.
        self.fresh_epochs.change(namespace);
        for name in quiet {
            let is_forgotten = self.forget_if(&name, |channel| {
                channel.log.is_empty() && !self.subscribers.has_subscribers(&name)
            });
            if !is_forgotten {
                others.push(name);
            }
        }
        others
    }

    /// Visits a part of the channels, from a place of the table on. A channel whose place changes
    /// meanwhile may be left out.
    fn for_part(
        &self,
        from: usize,
        count: usize,
        mut each: impl FnMut(ChannelName, Arc<Mutex<Channel>>),
    ) {
        let end = from.saturating_add(count);
        for from in (from..end).step_by(VISIT) {
            let part: Vec<_> = {
                let channels = self.channels.read();
                let part = channels.part(from, VISIT.min(end - from));
                part.map(|(name, channel)| (name.clone(), channel.clone()))
                    .collect()
            };
            for (name, channel) in part {
                each(name, channel);
            }
        }
    }

    /// Visits all channels.
    pub(super) fn for_each(&self, each: impl FnMut(ChannelName, Arc<Mutex<Channel>>)) {
        let count = self.channels.read().len();
        self.for_part(0, count, each);
    }

    /// Visits the next part of the channels. Drops what is too old in them, and forgets those that
    /// were idle for long. Then makes room in namespaces that are almost full.
    pub(super) fn sweep_next(&self) {
        let now_ms = self.clock.retention_ms();
        let idle_ms = i64::try_from(METADATA_TTL.as_millis()).unwrap_or(i64::MAX);
        let mut idle = Vec::new();
        let mut look_at = |name: ChannelName, channel: Arc<Mutex<Channel>>| {
            let mut channel = channel.lock();
            self.trim(&name, &mut channel, now_ms);
            if channel.used_ms.saturating_add(idle_ms) >= now_ms {
                return;
            }
            // Only idle channels are looked up among the subscribers.
            if self.subscribers.has_subscribers(&name) {
                channel.used_ms = now_ms;
                return;
            }
            // A channel that its engine still follows keeps its epoch.
            if !matches!(self.namespaces.epoch(&name), ChannelEpoch::Active(_)) {
                idle.push((channel.used_ms, name));
            }
        };
        let total = self.channels.read().len();
        let count = total.div_ceil(SWEEPS).max(MIN_SWEEP).min(total);
        // One sweep runs at a time; two would visit the same part.
        let from = self.swept.load(Ordering::Relaxed);
        let from = if from < total { from } else { 0 };
        let first = count.min(total - from);
        self.for_part(from, first, &mut look_at);
        self.for_part(0, count - first, &mut look_at);
        self.swept
            .store((from + count) % total.max(1), Ordering::Relaxed);
        self.forget_unused(&idle);
        self.relieve_crowded();
        self.free_memory();
    }

    /// Makes room in namespaces that are almost full.
    fn relieve_crowded(&self) {
        let mut crowded = self.crowded_namespaces();
        if crowded.is_empty() {
            return;
        }
        self.for_each(|name, channel| {
            if let Some(crowd) = crowded.get_mut(name.namespace()) {
                crowd.channels.push((channel.lock().used_ms, name));
            }
        });
        for crowd in crowded.into_values() {
            self.forget_oldest(crowd.channels, crowd.excess);
        }
    }
}
