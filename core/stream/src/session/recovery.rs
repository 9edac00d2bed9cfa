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
//! in the buffer. It holds [`BUFFER`] publications, 7 to 134; of 200, the others are left to
//! the history. When half of the outbox is free, the buffer is released, and the history
//! after 134 is read. If that has only 150 to 200 by then, `gap` reports that the channel is
//! at 200, and the subscription goes on from there.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tidewire_proto::v1::{ChannelClass, SubscriptionResult, Visibility};
use tokio::time::Instant;

use super::{Session, Slot, state::State, subscriptions::Subscription};
use crate::{
    ChannelName, Class, Epoch, Namespace, Opening, Position, Publication, StreamError,
    broker::{History, PageLimit, Reach},
};

/// Publications that a hold buffers; a longer burst is read from the history. They are shared
/// with the history, so one costs a pointer.
const BUFFER: usize = 128;

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
    /// Publications that need not be read from the history, oldest first.
    buffer: VecDeque<Arc<Publication>>,
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

    /// Holds a live subscription back from `publication` on, until the outbox has room.
    pub(super) fn hold_from(&mut self, publication: &Arc<Publication>) {
        let newest = publication.position().clone();
        self.state = DeliveryState::held(ReleaseCondition::Room, newest);
        if let Some(hold) = self.hold_mut() {
            hold.buffer(publication);
        }
    }

    /// Buffers a publication of a held subscription, and returns its release condition. None
    /// for a live one.
    pub(super) fn buffer(&mut self, publication: &Arc<Publication>) -> Option<ReleaseCondition> {
        let hold = self.hold_mut()?;
        hold.buffer(publication);
        Some(hold.condition)
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
    fn take_buffered(&mut self) -> Option<Arc<Publication>> {
        let DeliveryState::Held(hold) = &mut self.state else {
            return None;
        };
        if hold.newest.epoch == self.position.epoch && hold.newest.seq <= self.position.seq {
            self.state = DeliveryState::Live;
            return None;
        }
        hold.take_after(&self.position)
    }

    /// Puts a publication back that has no room.
    fn put_back(&mut self, publication: Arc<Publication>) {
        if let Some(hold) = self.hold_mut() {
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
    /// Notes a publication that cannot be sent yet.
    fn buffer(&mut self, publication: &Arc<Publication>) {
        if publication.position().epoch != self.newest.epoch {
            self.buffer.clear();
        }
        self.note_newest(publication.position());
        if self.condition == ReleaseCondition::Foreground {
            return;
        }
        // A full buffer holds the oldest, which are needed first; the history has the newest.
        if self.buffer.len() < BUFFER {
            self.buffer.push_back(publication.clone());
        }
    }

    /// Notes the newest publication of the channel. One that was under way before a history
    /// was read does not take it back.
    fn note_newest(&mut self, newest: &Position) {
        if self.newest.epoch != newest.epoch || self.newest.seq < newest.seq {
            self.newest = newest.clone();
        }
    }

    /// Puts the publications of a history read before those in the buffer.
    fn merge(&mut self, read: Vec<Arc<Publication>>) {
        let Some(last) = read.last().map(|one| one.position().clone()) else {
            return;
        };
        self.buffer
            .retain(|one| one.position().epoch == last.epoch && one.seq() > last.seq);
        for publication in read.into_iter().rev() {
            self.buffer.push_front(publication);
        }
    }

    /// Takes the publication that follows `position`, if the buffer has it.
    fn take_after(&mut self, position: &Position) -> Option<Arc<Publication>> {
        let is_behind = |one: &Arc<Publication>| {
            one.position().epoch != position.epoch || one.seq() <= position.seq
        };
        while self.buffer.front().is_some_and(is_behind) {
            self.buffer.pop_front();
        }
        let front = self.buffer.front();
        let is_next = front.is_some_and(|one| one.seq() == position.seq + 1);
        if is_next {
            self.buffer.pop_front()
        } else {
            None
        }
    }
}

impl Subscription {
    /// Sets a new subscription to its position, and merges the history read with later
    /// publications.
    fn merge_history(&mut self, since: Option<Position>, history: History) {
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
        hold.merge(history.publications);
    }
}

/// Pending work of a session for its held subscriptions. The flags are hints: a search over
/// all subscriptions is skipped while they are down.
#[derive(Debug, Default)]
pub(super) struct RecoveryQueue {
    /// Whether a subscription may wait for its history to be read.
    may_have_ready: bool,
    /// Whether a history is being read beside the transport.
    is_reading: bool,
}

impl RecoveryQueue {
    /// Notes a subscription that is released as soon as the outbox has room.
    pub(super) fn note_ready(&mut self) {
        self.may_have_ready = true;
    }

    /// Whether a history has to be read now.
    pub(super) fn has_work(&self) -> bool {
        self.may_have_ready && !self.is_reading
    }
}

impl State {
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
            Some(hold) if pauses => hold.condition = ReleaseCondition::Foreground,
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
    fn drain_buffer(&mut self, slot: Slot) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        let progress = &mut subscription.progress;
        while let Some(next) = progress.take_buffered() {
            let size = self.outbox.size_of(&next);
            if !self.outbox.has_room(size) {
                progress.put_back(next);
                return;
            }
            progress.advance(next.position());
            self.outbox.push_publication(slot, next, size);
        }
    }

    /// Queues a notice that publications are lost, and goes on from `newest`.
    fn queue_gap(&mut self, slot: Slot, newest: Position) {
        if let Some(subscription) = self.subscriptions.get_mut(slot) {
            subscription.progress.start_at(newest.clone());
            self.outbox.push_gap(slot, subscription.channel(), newest);
        }
    }

    /// A subscription whose history has to be read now, if the outbox has room.
    pub(super) fn next_to_read(&mut self) -> Option<Slot> {
        let may_read = self.recovery.has_work() && self.closing.is_none();
        if !may_read || !self.outbox.has_room_for_history() {
            return None;
        }
        let is_ready = |one: &Subscription| one.progress.is_held_until(ReleaseCondition::Room);
        let mut all = self.subscriptions.iter();
        let ready = all.find(|(_, one)| is_ready(one)).map(|(slot, _)| slot);
        self.recovery.may_have_ready = ready.is_some();
        ready
    }

    /// Channel and position of a subscription whose history has to be read, if the buffer
    /// does not have what comes next.
    fn missing_after(&mut self, slot: Slot) -> Option<(ChannelName, Position)> {
        self.drain_buffer(slot);
        let subscription = self.subscriptions.get_mut(slot)?;
        let progress = &subscription.progress;
        (!progress.is_live()).then(|| (subscription.channel().clone(), progress.position().clone()))
    }

    /// Queues the history read after `since`, as far as there is room for it.
    fn queue_history(&mut self, slot: Slot, since: &Position, history: History) {
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
        for publication in history.publications {
            let size = self.outbox.size_of(&publication);
            if !self.outbox.has_room(size) {
                return;
            }
            subscription.progress.advance(publication.position());
            self.outbox.push_publication(slot, publication, size);
        }
        self.drain_buffer(slot);
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
            since => (
                since.as_ref(),
                PageLimit::bytes(context.options().outbox_bytes),
            ),
        };
        let history = context.broker().history(&channel, since, page).await?;
        let recovered = namespace.class == Class::History
            && options.since.is_some()
            && history.reach == Reach::Complete;
        let newest = history.top.clone();
        if let Some(slot) = slot
            && let Some(subscription) = self.core().state.lock().subscriptions.get_mut(slot)
        {
            subscription.merge_history(options.since.filter(|_| recovered), history);
        }
        unread.note_read();
        let result = SubscriptionResult {
            channel: channel.as_str().to_owned(),
            epoch: newest.epoch.as_str().to_owned(),
            seq: newest.seq,
            recovered,
            error: None,
            class: Some(ChannelClass::from(namespace.class).into()),
            batched: Some(namespace.batched),
        };
        Ok((slot, result))
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
    pub(super) async fn read_history(&self, slot: Slot) {
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
            Ok(history) => state.queue_history(slot, &since, history),
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

    /// Reads a history beside a sink, which never waits.
    pub(super) fn read_history_aside(&self, slot: Slot) {
        self.core().state.lock().recovery.is_reading = true;
        let session = self.clone();
        tokio::spawn(async move {
            session.read_history(slot).await;
            session.core().state.lock().recovery.is_reading = false;
            session.0.mark_dirty();
        });
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
    fn drain(progress: &mut Progress) -> Vec<u64> {
        let mut drained = Vec::new();
        while let Some(next) = progress.take_buffered() {
            progress.advance(next.position());
            drained.push(next.seq());
        }
        drained
    }

    #[test]
    fn recovery_goes_as_in_the_example() {
        let mut progress = Progress::unknown();
        progress.buffer(&publication(6));
        progress.start_at(position(3));
        let hold = progress.hold_mut().unwrap();
        hold.merge((4..=6).map(publication).collect());
        assert_eq!(drain(&mut progress), [4, 5, 6]);
        assert!(progress.is_live());

        progress.hold_from(&publication(7));
        for seq in 8..=200 {
            progress.buffer(&publication(seq));
        }
        assert_eq!(drain(&mut progress), (7..=134).collect::<Vec<_>>());
        assert!(!progress.is_live(), "the rest is read from the history");
        assert_eq!(
            progress.succession(&position(150)),
            Succession::Hole,
            "135 to 149 are missing"
        );
    }

    #[test]
    fn a_new_epoch_empties_the_buffer() {
        let mut progress = Progress::unknown();
        progress.start_at(position(1));
        progress.buffer(&publication(2));
        let other = Position {
            epoch: Epoch::new("f"),
            seq: 1,
        };
        let channel = ChannelName::parse("orders:1").unwrap();
        let first = Publication::new(channel, other.clone(), 0, Event::Message("1".into()));
        progress.buffer(&first);
        assert_eq!(drain(&mut progress), [0; 0], "nothing follows position 1");
        progress.start_at(Position::start(other.epoch));
        assert_eq!(drain(&mut progress), [0; 0]);
        assert!(
            !progress.is_live(),
            "the new epoch is read from the history"
        );
    }
}
