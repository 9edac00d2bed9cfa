//! Recovery: missed publications of a history channel, each once and in order, or a notice
//! that some are lost.
//!
//! A subscription is *live*, and publications go straight to the outbox; or it is *held*, and
//! they go to the buffer of its [`Hold`]. A hold has one of three reasons
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
//! in the buffer. It holds [`BUFFER`] publications, 7 to 134, or fewer: all buffers of a session
//! together hold half of the bytes of an outbox ([`HeldBytes`]), since a history may drop what a
//! buffer still has. Of 200, the others are left to
//! the history. When half of the outbox is free, the buffer is released, and the history
//! after 134 is read. If that has only 150 to 200 by then, `gap` reports that the channel is
//! at 200, and the subscription goes on from there.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use tidewire_proto::v1::{ChannelClass, SubscriptionResult, Visibility};
use tokio::time::Instant;

use super::{Session, Slot, state::State, subscriptions::Subscription};
use crate::{
    ChannelName, Class, Epoch, Namespace, Opening, Position, Publication, StreamError,
    broker::{History, PageLimit, Reach},
};

/// Publications that a hold buffers; a longer burst is read from the history.
const BUFFER: usize = 128;

/// Pause before a history is read again that had nothing new: a broker may be behind what it
/// delivered. Without the pause, a session could read without end and send nothing.
const REREAD_PAUSE: Duration = Duration::from_millis(50);

/// Options of a subscription beside the channel.
#[derive(Debug, Clone, Default)]
pub(super) struct SubscribeOptions {
    /// Position after which the client recovers.
    pub(super) since: Option<Position>,
    /// Least time between two values of a latest channel.
    pub(super) min_interval: Option<Duration>,
}

/// Progress of a client on one channel: its position, and its held publications.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Progress {
    /// The newest publication that the client has, or that the outbox has for it.
    position: Position,
    state: DeliveryState,
}

/// Where publications of a channel go.
#[derive(Debug)]
enum DeliveryState {
    /// To the outbox.
    Live,
    /// To the buffer of the hold.
    Held(Box<Hold>),
}

/// Backlog of a held subscription, and the condition that releases it.
#[derive(Debug)]
pub(super) struct Hold {
    condition: ReleaseCondition,
    /// The newest publication of the channel.
    newest: Position,
    /// Publications that need not be read from the history, oldest first, with their sizes.
    buffer: VecDeque<HeldPublication>,
}

/// A publication in a buffer, with its size in bytes as it is sent.
type HeldPublication = (usize, Arc<Publication>);

/// Bytes in all buffers of a session, and their bound.
#[derive(Debug)]
pub(super) struct HeldBytes {
    used: usize,
    limit: usize,
}

impl HeldBytes {
    /// Bytes in the buffers.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    fn has_room(&self, size: usize) -> bool {
        self.used + size <= self.limit
    }

    /// Bytes for which there is room.
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.used)
    }

    fn add(&mut self, size: usize) {
        self.used += size;
    }

    fn remove(&mut self, size: usize) {
        self.used = self.used.saturating_sub(size);
    }
}

/// When a held subscription is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReleaseCondition {
    /// When the reply or notice that announces the subscription is queued.
    Notice,
    /// When the client is in the foreground.
    Foreground,
    /// When the outbox has room.
    Room,
}

/// How a publication follows a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Succession {
    /// It is not newer.
    Repeat,
    /// It is the next one.
    Next,
    /// Others are missing between the two, or its epoch is another.
    Hole,
}

impl Progress {
    /// A held subscription whose position is known when its history has been read.
    pub(super) fn unknown() -> Self {
        let unknown = Position {
            epoch: Epoch::new(""),
            seq: 0,
        };
        Self {
            position: unknown.clone(),
            state: DeliveryState::held(ReleaseCondition::Notice, unknown),
        }
    }

    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, DeliveryState::Live)
    }

    /// How `next` follows the position.
    pub(super) fn succession(&self, next: &Position) -> Succession {
        if next.epoch != self.position.epoch {
            Succession::Hole
        } else if next.seq <= self.position.seq {
            Succession::Repeat
        } else if next.seq == self.position.seq + 1 {
            Succession::Next
        } else {
            Succession::Hole
        }
    }

    /// Moves the position on.
    pub(super) fn advance(&mut self, to: &Position) {
        self.position.advance(to);
    }

    pub(super) fn start_at(&mut self, position: Position) {
        self.position = position;
    }

    /// Holds a live subscription back from `publication` on, of `size` bytes, until the outbox
    /// has room.
    pub(super) fn hold_from(
        &mut self,
        publication: &Arc<Publication>,
        size: usize,
        held: &mut HeldBytes,
    ) {
        let newest = publication.position().clone();
        self.state = DeliveryState::held(ReleaseCondition::Room, newest);
        if let Some(hold) = self.hold_mut() {
            hold.buffer(publication, size, held);
        }
    }

    /// Buffers a publication of a held subscription, and returns its release condition.
    pub(super) fn buffer(
        &mut self,
        publication: &Arc<Publication>,
        size: usize,
        held: &mut HeldBytes,
    ) -> Option<ReleaseCondition> {
        let hold = self.hold_mut()?;
        hold.buffer(publication, size, held);
        Some(hold.condition)
    }

    /// Empties the buffer of a held subscription.
    pub(super) fn clear_buffer(&mut self, held: &mut HeldBytes) {
        if let Some(hold) = self.hold_mut() {
            hold.clear(held);
        }
    }

    /// Makes a latest channel live: it has a pending value instead of a buffer.
    fn set_live(&mut self) {
        self.state = DeliveryState::Live;
    }

    fn hold(&self) -> Option<&Hold> {
        match &self.state {
            DeliveryState::Live => None,
            DeliveryState::Held(hold) => Some(hold),
        }
    }

    fn hold_mut(&mut self) -> Option<&mut Hold> {
        match &mut self.state {
            DeliveryState::Live => None,
            DeliveryState::Held(hold) => Some(hold),
        }
    }

    fn is_held_until(&self, condition: ReleaseCondition) -> bool {
        self.hold().is_some_and(|hold| hold.condition == condition)
    }

    /// Takes the next publication from the buffer. None if the buffer does not have it, or
    /// if the client has caught up: then the subscription is live.
    fn take_buffered(&mut self, held: &mut HeldBytes) -> Option<HeldPublication> {
        let DeliveryState::Held(hold) = &mut self.state else {
            return None;
        };
        if hold.newest.epoch == self.position.epoch && hold.newest.seq <= self.position.seq {
            hold.clear(held);
            self.state = DeliveryState::Live;
            return None;
        }
        hold.take_after(&self.position, held)
    }

    /// Puts a publication back that has no room.
    fn put_back(&mut self, publication: HeldPublication, held: &mut HeldBytes) {
        if let Some(hold) = self.hold_mut() {
            held.add(publication.0);
            hold.buffer.push_front(publication);
        }
    }
}

impl DeliveryState {
    fn held(condition: ReleaseCondition, newest: Position) -> Self {
        Self::Held(Box::new(Hold {
            condition,
            newest,
            buffer: VecDeque::new(),
        }))
    }
}

impl Hold {
    /// Notes a publication of `size` bytes that cannot be sent yet.
    fn buffer(&mut self, publication: &Arc<Publication>, size: usize, held: &mut HeldBytes) {
        if publication.position().epoch != self.newest.epoch {
            self.clear(held);
        }
        self.note_newest(publication.position());
        if self.condition == ReleaseCondition::Foreground {
            return;
        }
        // A full buffer holds the oldest, which are needed first; the history has the newest.
        if self.buffer.len() < BUFFER && held.has_room(size) {
            held.add(size);
            self.buffer.push_back((size, publication.clone()));
        }
    }

    fn clear(&mut self, held: &mut HeldBytes) {
        for (size, _) in self.buffer.drain(..) {
            held.remove(size);
        }
    }

    /// Notes the newest publication of the channel. One that was under way before a history
    /// was read does not take it back.
    fn note_newest(&mut self, newest: &Position) {
        if self.newest.epoch != newest.epoch || self.newest.seq < newest.seq {
            self.newest = newest.clone();
        }
    }

    /// Puts the publications of a history read before those in the buffer, as many as there is
    /// room for: the history has the others.
    fn merge(&mut self, read: Vec<HeldPublication>, held: &mut HeldBytes) {
        let Some(last) = read.last().map(|(_, one)| one.position().clone()) else {
            return;
        };
        let later = std::mem::take(&mut self.buffer);
        for (size, _) in &later {
            held.remove(*size);
        }
        let is_later =
            |one: &Publication| one.position().epoch == last.epoch && one.seq() > last.seq;
        let later = later.into_iter().filter(|(_, one)| is_later(one));
        for (size, publication) in read.into_iter().chain(later) {
            if !held.has_room(size) {
                return;
            }
            held.add(size);
            self.buffer.push_back((size, publication));
        }
    }

    /// Takes the publication that follows `position`, if the buffer has it.
    fn take_after(&mut self, position: &Position, held: &mut HeldBytes) -> Option<HeldPublication> {
        let is_behind =
            |one: &Publication| one.position().epoch != position.epoch || one.seq() <= position.seq;
        while let Some((size, one)) = self.buffer.front() {
            let is_next = !is_behind(one) && one.seq() == position.seq + 1;
            if !is_next && !is_behind(one) {
                return None;
            }
            held.remove(*size);
            let first = self.buffer.pop_front();
            if is_next {
                return first;
            }
        }
        None
    }
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
        let Some(hold) = self.progress.hold_mut() else {
            return;
        };
        let is_unknown = hold.newest.epoch.as_str().is_empty();
        if is_unknown || hold.newest.epoch == history.top.epoch {
            hold.note_newest(&history.top);
        }
        let read = history.publications.into_iter();
        let read = read.map(|one| (size_of(&one), one)).collect();
        hold.merge(read, held);
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
enum DrainOutcome {
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
            held: HeldBytes {
                used: 0,
                limit: held_bytes,
            },
            may_have_ready: false,
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
        let pauses = is_background && subscription.pauses_in_background();
        match subscription.progress.hold_mut() {
            Some(hold) if pauses => {
                hold.condition = ReleaseCondition::Foreground;
                hold.clear(&mut self.recovery.held);
            }
            _ => self.release(slot),
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
        let progress = &mut subscription.progress;
        match &mut progress.state {
            DeliveryState::Live => {
                let newest = progress.position.clone();
                progress.state = DeliveryState::held(ReleaseCondition::Foreground, newest);
            }
            DeliveryState::Held(hold) if hold.condition == ReleaseCondition::Room => {
                hold.condition = ReleaseCondition::Foreground;
                // The client may be away for long: the history keeps what it can.
                hold.clear(&mut self.recovery.held);
            }
            DeliveryState::Held(_) => {}
        }
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
        if let Some(hold) = subscription.progress.hold_mut() {
            hold.condition = ReleaseCondition::Room;
            self.recovery.note_ready();
            self.drain_buffer(slot);
        }
    }

    /// Notes that a channel begins a new epoch at `newest`. The history is read, and does not
    /// reach back: the client gets a gap.
    pub(super) fn start_new_epoch(&mut self, channel: &ChannelName, newest: &Position) {
        let Some(subscription) = self.subscriptions.on_mut(channel) else {
            return;
        };
        let progress = &mut subscription.progress;
        match &mut progress.state {
            DeliveryState::Held(hold) => hold.note_newest(newest),
            DeliveryState::Live if progress.position.epoch == newest.epoch => return,
            state @ DeliveryState::Live => {
                *state = DeliveryState::held(ReleaseCondition::Room, newest.clone());
            }
        }
        self.recovery.note_ready();
    }

    /// Moves to the outbox what the buffer has next. The subscription is live when nothing is
    /// missing any more.
    fn drain_buffer(&mut self, slot: Slot) -> DrainOutcome {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return DrainOutcome::CaughtUp;
        };
        let progress = &mut subscription.progress;
        let held = &mut self.recovery.held;
        while let Some((size, next)) = progress.take_buffered(held) {
            if !self.outbox.has_room(size) {
                progress.put_back((size, next), held);
                self.recovery.wanted_room = size;
                return DrainOutcome::NoRoom;
            }
            progress.advance(next.position());
            self.outbox.push_publication(slot, next, size);
        }
        if progress.is_live() {
            DrainOutcome::CaughtUp
        } else {
            DrainOutcome::Missing
        }
    }

    /// Queues a notice that publications are lost, and goes on from `newest`.
    fn queue_gap(&mut self, slot: Slot, newest: Position) {
        if let Some(subscription) = self.subscriptions.get_mut(slot) {
            subscription.skip_to(newest.clone());
            self.outbox.push_gap(slot, subscription.channel(), newest);
        }
    }

    /// A subscription that has to catch up now, if the outbox has room for what comes next.
    /// An empty outbox has room for any publication, so a client that reads always catches up.
    pub(super) fn next_to_read(&mut self, now: Instant) -> Option<Slot> {
        let may_read = self.recovery.has_work(now) && self.closing.is_none();
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
        if let Some(hold) = subscription.progress.hold_mut() {
            hold.note_newest(&history.top);
        }
        if history.reach == Reach::Lost {
            self.queue_gap(slot, history.top);
            self.drain_buffer(slot);
            return;
        }
        let has_nothing = history.publications.is_empty();
        for publication in history.publications {
            let size = self.outbox.size_of(&publication);
            if !self.outbox.has_room(size) {
                self.recovery.wanted_room = size;
                return;
            }
            subscription.progress.advance(publication.position());
            self.outbox.push_publication(slot, publication, size);
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
        self.core().context.namespaces().activate(&channel)?;
        if options.since.is_some() || options.min_interval.is_some() {
            self.unsubscribe_from(&channel);
        }
        let subscription = Subscription::new(channel.clone(), namespace, options.min_interval);
        let slot = self.register(&channel, subscription)?;
        let unread = UnreadSubscription {
            session: self,
            slot,
        };
        let context = &self.core().context;
        let (since, page) = match &options.since {
            _ if opens_with_newest(namespace, &options) => (None, PageLimit::NEWEST),
            None => (None, PageLimit::NOTHING),
            // What the buffers have no room for is read when it can be sent.
            since => match self.core().state.lock().recovery.held.room() {
                0 => (since.as_ref(), PageLimit::NOTHING),
                room => (since.as_ref(), PageLimit::bytes(room)),
            },
        };
        let history = context.broker().history(&channel, since, page).await?;
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
    fn sent_position(&self, channel: &ChannelName) -> Option<Position> {
        let state = self.core().state.lock();
        let sent = state.subscriptions.on(channel)?.sent();
        (!sent.epoch.as_str().is_empty()).then_some(sent)
    }

    /// Adds a subscription to the session and the hub. None if the session is subscribed
    /// already, or is about to end: its subscription would be left behind.
    fn register(
        &self,
        channel: &ChannelName,
        subscription: Subscription,
    ) -> Result<Option<Slot>, StreamError> {
        let core = self.core();
        let slot = {
            let mut state = core.state.lock();
            if state.closing.is_some() || state.subscriptions.contains(channel) {
                return Ok(None);
            }
            self.check_room(&state, channel)?;
            state.subscriptions.insert(subscription)
        };
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
        let read = broker.history(&channel, Some(&since), page).await;
        let mut state = core.state.lock();
        match read {
            Ok(history) => state.queue_history(slot, &since, history, Instant::now()),
            Err(error) => {
                tracing::warn!(%channel, %error, "cannot read a history; the client gets a gap");
                let subscription = state.subscriptions.get_mut(slot);
                let hold = subscription.and_then(|one| one.progress.hold_mut());
                if let Some(newest) = hold.map(|hold| hold.newest.clone()) {
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
    use crate::Event;

    fn publication(seq: u64) -> Arc<Publication> {
        let channel = ChannelName::parse("orders:1").unwrap();
        let event = Event::Message("1".into());
        Publication::new(channel, position(seq), 0, event)
    }

    fn position(seq: u64) -> Position {
        Position {
            epoch: Epoch::new("e"),
            seq,
        }
    }

    /// Moves the buffer to the outbox, and returns the sequence numbers.
    fn drain(progress: &mut Progress, held: &mut HeldBytes) -> Vec<u64> {
        let mut drained = Vec::new();
        while let Some((_, next)) = progress.take_buffered(held) {
            progress.advance(next.position());
            drained.push(next.seq());
        }
        drained
    }

    #[test]
    fn recovery_goes_as_in_the_example() {
        let mut held = RecoveryQueue::new(1_000).held;
        let mut progress = Progress::unknown();
        progress.buffer(&publication(6), 1, &mut held);
        progress.start_at(position(3));
        let hold = progress.hold_mut().unwrap();
        hold.merge(
            (4..=6).map(|seq| (1, publication(seq))).collect(),
            &mut held,
        );
        assert_eq!(drain(&mut progress, &mut held), [4, 5, 6]);
        assert!(progress.is_live());

        progress.hold_from(&publication(7), 1, &mut held);
        for seq in 8..=200 {
            progress.buffer(&publication(seq), 1, &mut held);
        }
        assert_eq!(
            drain(&mut progress, &mut held),
            (7..=134).collect::<Vec<_>>()
        );
        assert!(!progress.is_live(), "the rest is read from the history");
        assert_eq!(
            progress.succession(&position(150)),
            Succession::Hole,
            "135 to 149 are missing"
        );
    }

    #[test]
    fn a_new_epoch_empties_the_buffer() {
        let mut held = RecoveryQueue::new(1_000).held;
        let mut progress = Progress::unknown();
        progress.start_at(position(1));
        progress.buffer(&publication(2), 1, &mut held);
        let other = Position {
            epoch: Epoch::new("f"),
            seq: 1,
        };
        let channel = ChannelName::parse("orders:1").unwrap();
        let first = Publication::new(channel, other.clone(), 0, Event::Message("1".into()));
        progress.buffer(&first, 1, &mut held);
        assert_eq!(
            drain(&mut progress, &mut held),
            [0; 0],
            "nothing follows position 1"
        );
        progress.start_at(Position::start(other.epoch));
        assert_eq!(drain(&mut progress, &mut held), [0; 0]);
        assert!(
            !progress.is_live(),
            "the new epoch is read from the history"
        );
    }

    #[test]
    fn all_buffers_of_a_session_share_a_bound() {
        let mut held = RecoveryQueue::new(5).held;
        let mut all: Vec<_> = (0..4).map(|_| Progress::unknown()).collect();
        for progress in &mut all {
            progress.start_at(position(0));
            for seq in 1..=2 {
                progress.buffer(&publication(seq), 1, &mut held);
            }
        }
        assert_eq!(held.used(), 5);
        let lengths = all.iter_mut().map(|one| drain(one, &mut held).len());
        assert_eq!(lengths.collect::<Vec<_>>(), [2, 2, 1, 0]);
        assert_eq!(held.used(), 0);
        let hold = all[3].hold_mut().unwrap();
        hold.merge(
            (1..=9).map(|seq| (1, publication(seq))).collect(),
            &mut held,
        );
        assert_eq!((held.used(), held.room()), (5, 0));
        all[3].clear_buffer(&mut held);
        assert_eq!(held.used(), 0);
    }
}
