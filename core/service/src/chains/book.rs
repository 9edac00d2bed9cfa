//! Interest book: the channels of one chain that clients of this node follow, and what the owner of the
//! chain knows of them.
//!
//! The node tells the owner about its interest in a *session*: numbered updates, one under way at a time.
//! An update whose answer is lost is sent again under its number, and the owner applies it once. An owner
//! that does not know the session, for example a new one, says so. The node then begins another session,
//! in which it sends its whole interest again: new subscriptions at once, transactions before filters and
//! wallets, and the rest evenly spread.
//!
//! The book has no clock and no connection of its own: time and answers come in, updates go out.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tidewire_proto::v1::{ErrorCode, EventFilter};
use tidewire_stream::{ChannelName, StreamError};
use tokio::{sync::oneshot, time::Instant};

use super::wire::{Follower, InterestAnswer, InterestUpdate};

/// New subscriptions in one update, and channels that it removes, at most.
const NEW: usize = 1_000;

/// Channels that are sent again in one update: one of so many parts of all, within these bounds. With a
/// pause in between, 100,000 channels take ten seconds.
const RENEWED_PARTS: usize = 200;
const RENEWED: (usize, usize) = (100, 2_000);

/// Pause between two updates with channels that are sent again.
const RENEWAL_PAUSE: Duration = Duration::from_millis(50);

/// The same after the owner had no room for one.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// Longest time without an update. The owner forgets a node after [`LEASE`](super::nodes::LEASE).
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Time for which a channel without a subscriber stays in the book: a subscription may be on its way.
const IDLE: Duration = Duration::from_secs(60);

/// Subscriptions that wait for the owner at most.
const MAX_WAITING: usize = 65_536;

/// Where a subscription hears whether the owner follows the channel.
pub(super) type Verdict = oneshot::Receiver<Result<(), StreamError>>;

/// The interest of this node in one chain.
#[derive(Debug, Default)]
pub(super) struct InterestBook {
    session: u64,
    /// The number of the next update.
    number: u64,
    items: HashMap<ChannelName, Item>,
    /// New subscriptions, in their order.
    waiting: VecDeque<PendingFollower>,
    /// Channels that the owner has to hear of again.
    renewals: VecDeque<ChannelName>,
    /// Channels that the owner need not follow for this node any more.
    removed: Vec<ChannelName>,
    /// The update whose answer is not known.
    under_way: Option<PendingUpdate>,
    /// When the next channels may be sent again, and when an update is due in any case.
    renew_at: Option<Instant>,
    heartbeat_at: Option<Instant>,
}

#[derive(Debug)]
struct Item {
    follower: Follower,
    /// Whether the owner knows it in this session.
    is_registered: bool,
    /// When it was first found without a subscriber.
    idle_since: Option<Instant>,
}

#[derive(Debug)]
struct PendingFollower {
    channel: ChannelName,
    follower: Follower,
    verdict: oneshot::Sender<Result<(), StreamError>>,
}

#[derive(Debug)]
struct PendingUpdate {
    update: InterestUpdate,
    added: Vec<Addition>,
}

/// A channel in an update.
#[derive(Debug)]
enum Addition {
    New(PendingFollower),
    Again(ChannelName),
}

/// The next step of the task that sends updates.
#[derive(Debug, PartialEq)]
pub(super) enum NextStep {
    /// Send this update to the owner, and hand in its answer.
    Send(InterestUpdate),
    /// Nothing until then, unless something changes.
    Wait(Instant),
}

impl InterestBook {
    /// Adds a subscription. None if the channel is in the book already. The owner hears of a transaction
    /// with each subscription: its watch may have ended with a state that another look can change.
    ///
    /// # Errors
    /// Too many wait for the owner.
    pub(super) fn add(
        &mut self,
        channel: &ChannelName,
        follower: Follower,
    ) -> Result<Option<Verdict>, StreamError> {
        if let Some(item) = self.items.get_mut(channel) {
            item.idle_since = None;
            if channel.namespace() != "tx" {
                return Ok(None);
            }
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.retain(|one| !one.verdict.is_closed());
        }
        if self.waiting.len() >= MAX_WAITING {
            let text =
                format!("{MAX_WAITING} subscriptions wait for the owner of the chain already");
            return Err(StreamError::new(ErrorCode::ResourceExhausted, text));
        }
        let (verdict, heard) = oneshot::channel();
        self.waiting.push_back(PendingFollower {
            channel: channel.clone(),
            follower,
            verdict,
        });
        Ok(Some(heard))
    }

    /// Adds a channel that the owner will hear of as soon as there is one.
    pub(super) fn add_later(&mut self, channel: &ChannelName, follower: Follower) {
        if self.items.contains_key(channel) {
            return;
        }
        let item = Item {
            follower,
            is_registered: false,
            idle_since: None,
        };
        self.items.insert(channel.clone(), item);
        self.renewals.push_back(channel.clone());
    }

    /// Whether a channel is in the book.
    pub(super) fn contains(&self, channel: &ChannelName) -> bool {
        self.items.contains_key(channel)
    }

    /// The channels in the book.
    pub(super) fn channels(&self) -> impl Iterator<Item = &ChannelName> {
        self.items.keys()
    }

    /// Notes whether a channel has subscribers now. Removes it after a time without one.
    pub(super) fn check(&mut self, channel: &ChannelName, is_used: bool, now: Instant) {
        let Some(item) = self.items.get_mut(channel) else {
            return;
        };
        match (is_used, item.idle_since) {
            (true, _) => item.idle_since = None,
            (false, None) => item.idle_since = Some(now),
            (false, Some(since)) if now >= since + IDLE => self.remove(channel),
            (false, Some(_)) => {}
        }
    }

    /// Removes a channel.
    pub(super) fn remove(&mut self, channel: &ChannelName) {
        if self.items.remove(channel).is_some() {
            self.removed.push(channel.clone());
        }
    }

    /// Has the next update be sent at once, if one can be: the owner may be another one.
    pub(super) fn hasten(&mut self) {
        self.heartbeat_at = None;
    }

    /// The next update, as from `node`, or the time until which there is none. An update that was not
    /// answered comes again.
    pub(super) fn next_step(&mut self, node: &str, now: Instant) -> NextStep {
        if let Some(under_way) = &self.under_way {
            return NextStep::Send(under_way.update.clone());
        }
        if self.session == 0 {
            self.begin_session();
        }
        let is_due = |at: Option<Instant>| at.is_none_or(|at| now >= at);
        let may_renew = !self.renewals.is_empty() && is_due(self.renew_at);
        let has_news = !self.waiting.is_empty() || !self.removed.is_empty();
        // Without any interest, an owner need not know this node.
        let has_to_last = !self.items.is_empty() && is_due(self.heartbeat_at);
        if !(has_news || may_renew || has_to_last) {
            let renewal = self.renew_at.filter(|_| !self.renewals.is_empty());
            let heartbeat = self.heartbeat_at.filter(|at| *at > now);
            let heartbeat = heartbeat.unwrap_or(now + HEARTBEAT);
            return NextStep::Wait(renewal.map_or(heartbeat, |at| at.min(heartbeat)));
        }
        let added = self.take_added(may_renew, now);
        let is_added = |channel: &ChannelName| {
            let mut added = added.iter();
            added.any(|one| matches!(one, Addition::New(new) if new.channel == *channel))
        };
        let count = self.removed.len().min(NEW);
        let mut removed: Vec<_> = self.removed.drain(..count).collect();
        // Subscribed to again.
        removed.retain(|channel| !self.items.contains_key(channel) && !is_added(channel));
        let followers = added.iter().map(|one| match one {
            Addition::New(new) => new.follower.clone(),
            Addition::Again(channel) => match self.items.get(channel) {
                Some(item) => item.follower.clone(),
                None => Follower::default(),
            },
        });
        let update = InterestUpdate {
            node: node.to_owned(),
            session: self.session,
            number: self.number,
            removed: removed
                .iter()
                .map(|channel| channel.as_str().to_owned())
                .collect(),
            added: followers.collect(),
        };
        self.under_way = Some(PendingUpdate {
            update: update.clone(),
            added,
        });
        NextStep::Send(update)
    }

    /// Takes what the next update adds.
    fn take_added(&mut self, may_renew: bool, now: Instant) -> Vec<Addition> {
        let count = self.waiting.len().min(NEW);
        let waiting = self.waiting.drain(..count);
        let mut added: Vec<_> = waiting
            .filter(|one| !one.verdict.is_closed())
            .map(Addition::New)
            .collect();
        if may_renew {
            let (least, most) = RENEWED;
            let mut room = (self.items.len() / RENEWED_PARTS).clamp(least, most);
            while room > 0
                && let Some(channel) = self.renewals.pop_front()
            {
                let item = self.items.get(&channel);
                if item.is_some_and(|item| !item.is_registered) {
                    added.push(Addition::Again(channel));
                    room -= 1;
                }
            }
            self.renew_at = Some(now + RENEWAL_PAUSE);
        }
        added
    }

    /// Takes the answer to the update that is under way. Returns the channels that the owner does not
    /// follow any more, although clients of this node do, with the reason.
    pub(super) fn take_answer(
        &mut self,
        answer: InterestAnswer,
        now: Instant,
    ) -> Vec<(ChannelName, StreamError)> {
        let Some(PendingUpdate { added, .. }) = self.under_way.take() else {
            return Vec::new();
        };
        if !answer.is_in_step {
            self.put_back(added);
            self.begin_session();
            return Vec::new();
        }
        self.number += 1;
        self.heartbeat_at = Some(now + HEARTBEAT);
        let mut refusals: HashMap<u32, StreamError> = answer
            .refusals
            .iter()
            .map(|refusal| (refusal.index, refusal.error()))
            .collect();
        let mut filters: HashMap<u32, EventFilter> = answer
            .filters
            .into_iter()
            .filter_map(|known| Some((known.index, known.filter?)))
            .collect();
        let mut lost = Vec::new();
        for (index, one) in (0..).zip(added) {
            let (refusal, filter) = (refusals.remove(&index), filters.remove(&index));
            match one {
                Addition::New(new) => self.settle_new(new, refusal, filter),
                Addition::Again(channel) => {
                    lost.extend(self.settle_again(channel, refusal, filter, now));
                }
            }
        }
        lost
    }

    fn settle_new(
        &mut self,
        new: PendingFollower,
        refusal: Option<StreamError>,
        filter: Option<EventFilter>,
    ) {
        let PendingFollower {
            channel,
            mut follower,
            verdict,
        } = new;
        if let Some(error) = refusal {
            let _ = verdict.send(Err(error));
            return;
        }
        follower.filter = follower.filter.or(filter);
        let item = self.items.entry(channel).or_insert(Item {
            follower,
            is_registered: true,
            idle_since: None,
        });
        // It may have been added by another subscription, whose turn was before.
        item.is_registered = true;
        item.idle_since = None;
        let _ = verdict.send(Ok(()));
    }

    fn settle_again(
        &mut self,
        channel: ChannelName,
        refusal: Option<StreamError>,
        filter: Option<EventFilter>,
        now: Instant,
    ) -> Option<(ChannelName, StreamError)> {
        let item = self.items.get_mut(&channel)?;
        let Some(error) = refusal else {
            item.is_registered = true;
            if item.follower.filter.is_none() {
                item.follower.filter = filter;
            }
            return None;
        };
        match error.code() {
            // The owner has no room at present.
            ErrorCode::Unavailable | ErrorCode::ResourceExhausted => {
                self.renewals.push_back(channel);
                self.renew_at = Some(now + REFUSAL_PAUSE);
                None
            }
            _ => {
                self.items.remove(&channel);
                Some((channel, error))
            }
        }
    }

    /// Puts back what an update added that was not carried out.
    fn put_back(&mut self, added: Vec<Addition>) {
        for one in added.into_iter().rev() {
            if let Addition::New(new) = one {
                self.waiting.push_front(new);
            }
        }
    }

    /// Begins a session, in which the owner hears of everything again.
    fn begin_session(&mut self) {
        self.session += 1;
        self.number = 0;
        self.removed.clear();
        (self.renew_at, self.heartbeat_at) = (None, None);
        for item in self.items.values_mut() {
            item.is_registered = false;
        }
        let mut channels: Vec<_> = self.items.keys().cloned().collect();
        // Wallets and filters are in the store of the chain, and transactions are not.
        channels.sort_by_key(|channel| match channel.namespace() {
            "tx" => 0,
            "events" => 1,
            _ => 2,
        });
        self.renewals = channels.into();
    }
}
