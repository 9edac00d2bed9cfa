//! Recovery: missed publications of a history channel, each once and in order, or a notice
//! that some are lost.
//!
//! A subscription is *live*, and publications go straight to the outbox; or it is *held*, and
//! they go to the buffer of its [`hold`]. A hold has one of three reasons
//! ([`ReleaseCondition`]). The reply or notice that announces the subscription is not queued
//! yet, the client is in the background, or the outbox is full. All three end in the same way:
//!
//! 1. **Hold.** Register with the hub, held. From here on nothing published is missed: it is
//!    in the buffer, or in the history that is read next.
//! 2. **Read.** Read the history after the client's position, as much as the outbox has room for.
//! 3. **Merge.** Put what was read before the buffer, and drop from the buffer what the
//!    history has too. Sequence numbers decide; nothing is compared by time.
//! 4. **Release.** Move from the buffer to the outbox what comes next in sequence, while there
//!    is room. At the newest publication the subscription is live. If the buffer does not
//!    have the next one, read again.
//!
//! If the history does not reach back to the position, a new subscription returns
//! `recovered: false`, and a running one queues `gap`.
//!
//! # Progress
//! A client that reads always catches up. Nothing is read before the outbox has room for the
//! publication that comes next, and an empty outbox has room for any: one that is larger than
//! the outbox travels alone. A read that brought nothing is not repeated before a pause.
//!
//! Where the engine has a [`MissedSummary`](crate::MissedSummary), one publication stands for many
//! that were read. It follows the position before the first of them.
//!
//! # Worked example
//! The channel has publications 1 to 5 of epoch `e`; the client had 3 when its link broke.
//!
//! | what happens                       | position | newest | buffer  | outbox         |
//! |------------------------------------|----------|--------|---------|----------------|
//! | `subscribe` since `(e, 3)`: hold   | unknown  | ?      |         |                |
//! | 6 is published                     | unknown  | 6      | 6       |                |
//! | the history after 3 is read: 4–6   | 3        | 6      | 4, 5, 6 |                |
//! | the reply is queued: release       | 6        | 6      |         | reply, 4, 5, 6 |
//!
//! Position and newest are equal: the subscription is live. 6 came twice and is sent once.
//! Later the client reads slowly, and 7 does not fit: the subscription is held again, with 7
//! in the buffer. It holds 128 publications, 7 to 134, or fewer: all buffers of a session
//! together hold half of the bytes of an outbox ([`HeldBytes`]), since a history may drop what a
//! buffer still has. Of 200, the others are left to
//! the history. When half of the outbox is free, the buffer is released, and the history
//! after 134 is read. If that has only 150 to 200 by then, `gap` reports that the channel is
//! at 200, and the subscription goes on from there.

mod hold;

use std::{
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use tidewire_proto::v1::{ChannelClass, ErrorCode, SubscriptionResult, Visibility};
use tokio::time::Instant;

pub(super) use hold::{HeldBytes, Progress, ReleaseCondition, Succession};

use super::{Session, Slot, state::State, subscriptions::Subscription};
use crate::{
    ChannelName, Class, Namespace, Opening, Position, Publication, StreamError,
    broker::{History, PageLimit, Reach},
    missed_summary::{Absence, condense},
};

/// Pause before a history is read again that had nothing new: a broker may be behind what it
/// delivered. Without the pause, a session could read without end and send nothing.
const REREAD_PAUSE: Duration = Duration::from_millis(50);

/// Pause before a history is read again while the broker cannot read it.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);

/// Part of an outbox that a summary may take, so that it is sent soon.
const SUMMARY_PART: usize = 4;

/// Options of a subscription beside the channel.
#[derive(Debug, Clone, Default)]
pub(super) struct SubscribeOptions {
    /// Position after which the client recovers.
    pub(super) since: Option<Position>,
    /// Least time between two values of a latest channel.
    pub(super) min_interval: Option<Duration>,
}

impl Subscription {
    /// Sets a new subscription to its position, and merges the history read with later
    /// publications.
    fn merge_history(
        &mut self,
        since: Option<Position>,
        history: History,
        size_of: impl Fn(&Publication) -> usize,
        held: &mut HeldBytes,
    ) {
        self.start_at(since.unwrap_or_else(|| Position {
            seq: match (self.class(), history.publications.first()) {
                (Class::History, Some(first)) => first.seq() - 1,
                _ => history.top.seq,
            },
            ..history.top.clone()
        }));
        if self.class() == Class::Latest {
            let newest = history.publications.into_iter().next_back();
            self.merge_latest(&history.top, newest);
            return;
        }
        let read = history.publications.into_iter();
        let read = read.map(|one| (size_of(&one), one)).collect();
        self.progress.merge(&history.top, read, held);
    }
}

/// Pending work of a session for its held subscriptions. The flags are hints: a search over
/// all subscriptions is skipped while they are down.
#[derive(Debug)]
pub(super) struct RecoveryQueue {
    /// Bytes in the buffers of the subscriptions.
    pub(super) held: HeldBytes,
    /// Whether a subscription may wait for its history to be read.
    may_have_ready: bool,
    /// Whether an expedited subscription may be among them.
    may_have_expedited: bool,
    /// Whether a history is being read beside the transport.
    is_reading: bool,
    /// Size of the publication that comes next and had no room, in bytes. Nothing is read
    /// before the outbox has room for it.
    wanted_room: usize,
    /// Time before which no history is read, since the last read had nothing new.
    paused_until: Option<Instant>,
    /// Index of the subscription that was read last: the next one has its turn first.
    last_read: usize,
}

/// How far a buffer was moved to the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainOutcome {
    /// The subscription is live, or has ended.
    CaughtUp,
    /// The outbox has no room for the next publication.
    NoRoom,
    /// The buffer does not have the next publication.
    Missing,
}

impl RecoveryQueue {
    /// Nothing to do, and buffers for up to `held_bytes` together.
    pub(super) fn new(held_bytes: usize) -> Self {
        Self {
            held: HeldBytes::new(held_bytes),
            may_have_ready: false,
            may_have_expedited: false,
            is_reading: false,
            wanted_room: 0,
            paused_until: None,
            last_read: 0,
        }
    }

    /// Notes a subscription that is released as soon as the outbox has room.
    pub(super) fn note_ready(&mut self) {
        self.may_have_ready = true;
    }

    /// Notes a subscription that is released before all others, whatever the room.
    pub(super) fn note_expedited(&mut self) {
        self.may_have_ready = true;
        self.may_have_expedited = true;
        self.paused_until = None;
    }

    /// Whether a history has to be read, now or after a pause.
    fn is_waiting(&self) -> bool {
        self.may_have_ready && !self.is_reading
    }

    /// Whether a history has to be read now.
    pub(super) fn has_work(&self, now: Instant) -> bool {
        self.is_waiting() && self.paused_until.is_none_or(|until| until <= now)
    }

    /// The end of a pause after which a history has to be read.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.paused_until.filter(|_| self.is_waiting())
    }
}

impl State {
    /// Sets a new subscription to its position, with what was read of its history.
    fn merge_history(&mut self, slot: Slot, since: Option<Position>, history: History) {
        let (outbox, held) = (&self.outbox, &mut self.recovery.held);
        if let Some(subscription) = self.subscriptions.get_mut(slot) {
            subscription.merge_history(since, history, |one| outbox.size_of(one), held);
        }
    }

    /// Releases a new subscription, whose reply or notice is queued now.
    pub(super) fn release_new(&mut self, slot: Slot, now: Instant) {
        let is_background = self.visibility == Visibility::Background;
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        if subscription.class() == Class::Latest {
            subscription.progress.set_live();
            if !is_background {
                self.queue_latest(slot, now);
            }
            return;
        }
        let pauses =
            is_background && subscription.pauses_in_background() && !subscription.is_expedited();
        if pauses {
            let (condition, held) = (ReleaseCondition::Foreground, &mut self.recovery.held);
            subscription.progress.hold_until(condition, held);
        } else {
            self.release(slot);
        }
    }

    /// Holds a subscription back that pauses while the client is in the background.
    pub(super) fn pause(&mut self, slot: Slot) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        if subscription.class() == Class::Latest || !subscription.pauses_in_background() {
            return;
        }
        if subscription.is_expedited() {
            // It pauses when it has caught up.
            return;
        }
        subscription.progress.pause(&mut self.recovery.held);
    }

    /// Goes on with a subscription when the client is in the foreground again.
    pub(super) fn unpause(&mut self, slot: Slot, now: Instant) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        if subscription.progress.is_live() {
            self.queue_latest(slot, now);
        } else if subscription
            .progress
            .is_held_until(ReleaseCondition::Foreground)
        {
            self.release(slot);
        }
    }

    /// Releases a held subscription as soon as there is room.
    fn release(&mut self, slot: Slot) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        let (condition, held) = (ReleaseCondition::Room, &mut self.recovery.held);
        if subscription.progress.hold_until(condition, held) {
            match subscription.is_expedited() {
                true => self.recovery.note_expedited(),
                false => self.recovery.note_ready(),
            }
            self.drain_buffer(slot);
        }
    }

    /// Notes that a channel begins a new epoch at `newest`, or that publications up to it did not
    /// come. The history is read; if it does not reach back, the client gets a gap.
    pub(super) fn start_new_epoch(&mut self, channel: &ChannelName, newest: &Position) {
        let Some(subscription) = self.subscriptions.on_mut(channel) else {
            return;
        };
        if subscription.class() == Class::Latest {
            // Its next value is the newest.
            return;
        }
        if subscription.progress.note_newest(newest) {
            self.recovery.note_ready();
        }
    }

    /// Moves to the outbox what the buffer has next. The subscription is live when nothing is
    /// missing any more.
    pub(super) fn drain_buffer(&mut self, slot: Slot) -> DrainOutcome {
        loop {
            let Some(subscription) = self.subscriptions.get_mut(slot) else {
                return DrainOutcome::CaughtUp;
            };
            let progress = &mut subscription.progress;
            let Some((size, next)) = progress.take_buffered(&mut self.recovery.held) else {
                let (is_live, is_expedited) = (progress.is_live(), subscription.is_expedited());
                if is_live && is_expedited {
                    self.end_expediting(slot);
                }
                return match is_live {
                    true => DrainOutcome::CaughtUp,
                    false => DrainOutcome::Missing,
                };
            };
            if let Err(next) = self.queue_missed(slot, next, size) {
                if let Some(subscription) = self.subscriptions.get_mut(slot) {
                    let held = &mut self.recovery.held;
                    subscription.progress.put_back((size, next), held);
                }
                return DrainOutcome::NoRoom;
            }
        }
    }

    /// Queues a publication that comes next on a held subscription. Returns it if there is no room
    /// for it.
    fn queue_missed(
        &mut self,
        slot: Slot,
        publication: Arc<Publication>,
        size: usize,
    ) -> Result<(), Arc<Publication>> {
        let is_expedited = |one: &mut Subscription| one.is_expedited();
        let is_expedited = self.subscriptions.get_mut(slot).is_some_and(is_expedited);
        let has_room = match is_expedited {
            true => self.make_room(size),
            false => self.outbox.has_room(size),
        };
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return Ok(());
        };
        if !has_room {
            // An expedited one, too, waits for room from here on.
            subscription.set_expedited(false);
            self.recovery.wanted_room = size;
            return Err(publication);
        }
        subscription.progress.advance(publication.position());
        match is_expedited {
            true => self.outbox.push_urgent(slot, publication, size),
            false => self.outbox.push_publication(slot, publication, size),
        }
        Ok(())
    }

    /// Queues a notice that publications are lost, and goes on from `newest`.
    fn queue_gap(&mut self, slot: Slot, newest: Position) {
        if let Some(subscription) = self.subscriptions.get_mut(slot) {
            subscription.skip_to(newest.clone());
            self.outbox.push_gap(slot, subscription.channel(), newest);
            if subscription.is_expedited() {
                self.outbox.expedite(slot);
            }
        }
    }

    /// A subscription that has to catch up now, if the outbox has room for what comes next.
    /// An empty outbox has room for any publication, so a client that reads always catches up.
    pub(super) fn next_to_read(&mut self, now: Instant) -> Option<Slot> {
        let may_read = self.recovery.has_work(now) && self.closing.is_none();
        if may_read && self.recovery.may_have_expedited {
            let is_expedited = |one: &Subscription| {
                one.is_expedited() && one.progress.is_held_until(ReleaseCondition::Room)
            };
            let mut all = self.subscriptions.iter();
            if let Some((slot, _)) = all.find(|(_, one)| is_expedited(one)) {
                self.recovery.paused_until = None;
                return Some(slot);
            }
            self.recovery.may_have_expedited = false;
        }
        let has_room =
            self.outbox.has_room_for_history() && self.outbox.has_room(self.recovery.wanted_room);
        if !may_read || !has_room {
            return None;
        }
        let is_ready = |one: &Subscription| one.progress.is_held_until(ReleaseCondition::Room);
        let mut first = None;
        let mut next = None;
        for (slot, _) in self.subscriptions.iter().filter(|(_, one)| is_ready(one)) {
            first.get_or_insert(slot);
            if slot.index() > self.recovery.last_read {
                next = Some(slot);
                break;
            }
        }
        let ready = next.or(first);
        self.recovery.may_have_ready = ready.is_some();
        self.recovery.wanted_room = 0;
        self.recovery.paused_until = None;
        self.recovery.last_read = ready?.index();
        ready
    }

    /// Channel and position of a subscription whose history has to be read, if the buffer
    /// does not have what comes next.
    fn missing_after(&mut self, slot: Slot) -> Option<(ChannelName, Position)> {
        if self.drain_buffer(slot) != DrainOutcome::Missing {
            return None;
        }
        let subscription = self.subscriptions.get_mut(slot)?;
        let position = subscription.progress.position().clone();
        Some((subscription.channel().clone(), position))
    }

    /// Queues the history read after `since`, as far as there is room for it.
    fn queue_history(&mut self, slot: Slot, since: &Position, history: History, now: Instant) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        if subscription.progress.position() != since {
            return;
        }
        subscription.progress.note_newest_held(&history.top);
        if history.reach == Reach::Lost {
            self.queue_gap(slot, history.top);
            self.drain_buffer(slot);
            return;
        }
        let has_nothing = history.publications.is_empty();
        for publication in history.publications {
            let size = self.outbox.size_of(&publication);
            if self.queue_missed(slot, publication, size).is_err() {
                return;
            }
        }
        if self.drain_buffer(slot) == DrainOutcome::Missing && has_nothing {
            self.recovery.paused_until = Some(now + REREAD_PAUSE);
        }
    }
}

impl Session {
    /// Subscribes to a channel, held until [`State::release_new`]: registers with the hub, then
    /// reads position and history, so that nothing is missed between the two. There is no slot
    /// if the session is subscribed already. A subscription whose history cannot be read, or
    /// whose caller is cancelled, is ended.
    pub(super) async fn subscribe_held(
        &self,
        channel: ChannelName,
        namespace: &Namespace,
        options: SubscribeOptions,
    ) -> Result<(Option<Slot>, SubscriptionResult), StreamError> {
        // A refused subscription activates nothing, and leaves the one before.
        self.check_room(&self.core().state.lock(), &channel)?;
        // Before the position is read: its epoch is that of the engine's work.
        let caller = self.caller();
        let namespaces = self.core().context.namespaces();
        namespaces.activate(&channel, &caller).await?;
        let subscription = Subscription::new(channel.clone(), namespace, options.min_interval);
        let replaces = options.since.is_some() || options.min_interval.is_some();
        let slot = self.register(&channel, subscription, replaces)?;
        let unread = UnreadSubscription {
            session: self,
            slot,
        };
        let context = &self.core().context;
        let summary = namespaces.summary(&channel);
        let held_room = self.core().state.lock().recovery.held.room();
        let (since, page) = match &options.since {
            _ if opens_with_newest(namespace, &options) => (None, PageLimit::NEWEST),
            None => (None, PageLimit::NOTHING),
            // What the buffers have no room for is read when it can be sent. A summary is short.
            since => match (held_room, summary) {
                (0, _) => (since.as_ref(), PageLimit::NOTHING),
                (_, Some(_)) => (since.as_ref(), PageLimit::ALL),
                (room, None) => (since.as_ref(), PageLimit::bytes(room)),
            },
        };
        if let Some(joined) = context.broker().join(&channel) {
            joined.await?;
        }
        if namespace.is_personal() {
            // So that nothing is left out for a user who is away for a moment.
            context.broker().touch(&channel);
        }
        let mut history = context.broker().recover(&channel, since, page).await?;
        let max_bytes = held_room.min(context.options().outbox_bytes / SUMMARY_PART);
        history.publications = condense(summary, history.publications, Absence::Away, max_bytes);
        let recovered = namespace.class == Class::History
            && options.since.is_some()
            && history.reach == Reach::Complete;
        let position = match slot {
            Some(_) => history.top.clone(),
            // The reply leaves before what waits in the outbox: it must not be ahead of that.
            None => self
                .sent_position(&channel)
                .unwrap_or_else(|| Position::start(history.top.epoch.clone())),
        };
        if let Some(slot) = slot {
            let since = options.since.filter(|_| recovered);
            self.core().state.lock().merge_history(slot, since, history);
        }
        unread.note_read();
        let result = SubscriptionResult {
            channel: channel.as_str().to_owned(),
            epoch: position.epoch.as_str().to_owned(),
            seq: position.seq,
            recovered,
            error: None,
            class: Some(ChannelClass::from(namespace.class).into()),
            batched: Some(namespace.batched),
        };
        Ok((slot, result))
    }

    /// Position up to which the client was sent the publications of a channel, once the
    /// channel's history has been read.
    #[must_use]
    pub fn sent_position(&self, channel: &ChannelName) -> Option<Position> {
        let state = self.core().state.lock();
        state.subscriptions.on(channel)?.sent()
    }

    /// Adds a subscription to the session and the hub. If it `replaces` another one to the
    /// channel, it inherits the grant of an operator. None if the session is subscribed already
    /// otherwise, or is about to end: its subscription would be left behind.
    fn register(
        &self,
        channel: &ChannelName,
        mut subscription: Subscription,
        replaces: bool,
    ) -> Result<Option<Slot>, StreamError> {
        let core = self.core();
        let (slot, replaced) = {
            let mut state = core.state.lock();
            if state.closing.is_some() {
                return Ok(None);
            }
            self.check_room(&state, channel)?;
            let replaced = replaces.then(|| state.unsubscribe(channel)).flatten();
            if state.subscriptions.contains(channel) {
                return Ok(None);
            }
            if replaced.as_ref().is_some_and(Subscription::is_granted) {
                subscription.grant();
            }
            (state.subscriptions.insert(subscription), replaced)
        };
        if let Some(key) = replaced.and_then(|replaced| replaced.hub_key()) {
            self.remove_from_hub(channel, key);
        }
        let key = core.context.hub().add(channel, Arc::clone(&self.0), slot);
        if let Some(subscription) = core.state.lock().subscriptions.get_mut(slot) {
            subscription.set_hub_key(key);
            return Ok(Some(slot));
        }
        // The session ended meanwhile.
        self.remove_from_hub(channel, key);
        Ok(None)
    }

    /// Reads the missed publications of a held subscription, as far as there is room for them.
    async fn read_history(&self, slot: Slot) {
        let core = self.core();
        let missing = core.state.lock().missing_after(slot);
        let Some((channel, since)) = missing else {
            return;
        };
        let page = PageLimit::bytes(core.context.options().outbox_bytes);
        let broker = core.context.broker();
        let read = broker.recover(&channel, Some(&since), page).await;
        let read = read.map(|mut history| {
            let summary = core.context.namespaces().summary(&channel);
            let (missed, max_bytes) = (history.publications, page.bytes / SUMMARY_PART);
            history.publications = condense(summary, missed, Absence::Behind, max_bytes);
            history
        });
        let mut state = core.state.lock();
        match read {
            Ok(history) => state.queue_history(slot, &since, history, Instant::now()),
            Err(error) if error.code() == ErrorCode::Unavailable => {
                // Nothing is lost yet: it is read when the broker works again.
                state.recovery.paused_until = Some(Instant::now() + UNAVAILABLE_PAUSE);
                state.recovery.note_ready();
            }
            Err(error) => {
                tracing::warn!(%channel, %error, "cannot read a history; the client gets a gap");
                let subscription = state.subscriptions.get_mut(slot);
                let newest = subscription.and_then(|one| one.progress.newest_held());
                if let Some(newest) = newest.cloned() {
                    state.queue_gap(slot, newest);
                }
            }
        }
    }

    /// Reads a history beside the transport, which sends queued messages meanwhile. A sink is
    /// never kept from other sockets; a transport that waits for messages has its history at
    /// once if the broker does not wait.
    pub(super) fn read_history_aside(&self, slot: Slot) {
        self.core().state.lock().recovery.is_reading = true;
        let guard = ReadingGuard(self.clone());
        let mut read = Box::pin(async move {
            let reading = guard;
            reading.0.read_history(slot).await;
        });
        let is_sink = self.core().sink.get().is_some();
        let mut now = Context::from_waker(Waker::noop());
        if is_sink || read.as_mut().poll(&mut now).is_pending() {
            tokio::spawn(read);
        }
    }
}

/// The read of a history. Its end lets the session read the next one, however it ends.
struct ReadingGuard(Session);

impl Drop for ReadingGuard {
    fn drop(&mut self) {
        self.0.core().state.lock().recovery.is_reading = false;
        self.0.0.mark_dirty();
    }
}

/// A new subscription whose history is not read yet. Nothing would release it, so dropping
/// this ends it.
struct UnreadSubscription<'a> {
    session: &'a Session,
    slot: Option<Slot>,
}

impl UnreadSubscription<'_> {
    fn note_read(mut self) {
        self.slot = None;
    }
}

impl Drop for UnreadSubscription<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.session.end_subscription(slot);
        }
    }
}

/// Whether a subscription begins with the newest publication.
fn opens_with_newest(namespace: &Namespace, options: &SubscribeOptions) -> bool {
    match namespace.class {
        Class::Latest => true,
        Class::History => options.since.is_none() && namespace.opening == Opening::Newest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AnonymousPolicy, Authenticator, ConnectionInfo, Encoding, Identity, ManualClock,
        Namespaces, ShardId, StreamCore, StreamOptions, Transport,
    };

    #[tokio::test]
    async fn a_position_is_announced_once_the_history_has_been_read() {
        let clock = ManualClock::at(0);
        let policy = AnonymousPolicy::Read;
        let authenticator = Authenticator::hs256(&[7; 32], policy, clock.clone()).unwrap();
        let mut namespaces = Namespaces::built_in();
        namespaces.add(Namespace::history("orders")).unwrap();
        let options = StreamOptions::default();
        let stream = StreamCore::in_memory(namespaces, authenticator, clock, options);
        let info = ConnectionInfo {
            caller: Identity::Anonymous.into(),
            transport: Transport::new("test"),
            post_key: None,
            encoding: Encoding::Json,
            heartbeat: None,
            quota: None,
            shard: ShardId::CALLER,
        };
        let connection = stream.connect(info).await;
        let name = |number: u32| ChannelName::parse(&format!("orders:{number}")).unwrap();
        let namespace = Namespace::history("orders");
        let read = |channel| {
            let options = SubscribeOptions::default();
            connection.subscribe_held(channel, &namespace, options)
        };
        read(name(1)).await.unwrap();
        // The history of the second channel is being read.
        let unread = Subscription::new(name(2), &namespace, None);
        connection.register(&name(2), unread, false).unwrap();
        let announced = connection.subscriptions();
        let names: Vec<_> = announced.iter().map(|one| one.channel.as_str()).collect();
        assert_eq!(names, ["orders:1"]);
        assert!(announced.iter().all(|one| !one.epoch.is_empty()));
        assert_eq!(connection.delivered_positions(), None);
        connection.unsubscribe_from(&name(2));
        read(name(2)).await.unwrap();
        assert_eq!(connection.subscriptions().len(), 2);
        assert_eq!(connection.delivered_positions().unwrap().len(), 2);
    }
}
