//! Hold: the position of one subscription, and the publications that are held back from it.
//!
//! Pure state: [`recovery`](super) reads histories and moves what a hold has to the outbox.

use std::{collections::VecDeque, sync::Arc};

use crate::{Epoch, Position, Publication};

/// Publications that a hold buffers; a longer burst is read from the history.
const BUFFER: usize = 128;

/// Progress of a client on one channel: its position, and its held publications.
#[derive(Debug)]
#[repr(C)]
pub(in crate::session) struct Progress {
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
struct Hold {
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
pub(in crate::session) struct HeldBytes {
    used: usize,
    limit: usize,
}

impl HeldBytes {
    /// Empty buffers, with room for `limit` bytes together.
    pub(in crate::session) fn new(limit: usize) -> Self {
        Self { used: 0, limit }
    }

    /// Bytes in the buffers.
    pub(in crate::session) fn used(&self) -> usize {
        self.used
    }

    fn has_room(&self, size: usize) -> bool {
        self.used + size <= self.limit
    }

    /// Bytes for which there is room.
    pub(in crate::session) fn room(&self) -> usize {
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
pub(in crate::session) enum ReleaseCondition {
    /// When the reply or notice that announces the subscription is queued.
    Notice,
    /// When the client is in the foreground.
    Foreground,
    /// When the outbox has room.
    Room,
}

/// How a publication follows a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Succession {
    /// It is not newer.
    Repeat,
    /// It is the next one.
    Next,
    /// Others are missing between the two, or its epoch is another.
    Hole,
}

impl Progress {
    /// A held subscription whose position is known when its history has been read.
    pub(in crate::session) fn unknown() -> Self {
        let unknown = Position {
            epoch: Epoch::new(""),
            seq: 0,
        };
        Self {
            position: unknown.clone(),
            state: DeliveryState::held(ReleaseCondition::Notice, unknown),
        }
    }

    /// Whether the position is known.
    pub(in crate::session) fn is_known(&self) -> bool {
        !self.position.epoch.as_str().is_empty()
    }

    pub(in crate::session) fn position(&self) -> &Position {
        &self.position
    }

    pub(in crate::session) fn is_live(&self) -> bool {
        matches!(self.state, DeliveryState::Live)
    }

    /// How `next` follows the position.
    pub(in crate::session) fn succession(&self, next: &Position) -> Succession {
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
    pub(in crate::session) fn advance(&mut self, to: &Position) {
        self.position.advance(to);
    }

    pub(in crate::session) fn start_at(&mut self, position: Position) {
        self.position = position;
    }

    /// Holds a live subscription back from `publication` on, of `size` bytes, until the outbox
    /// has room.
    pub(in crate::session) fn hold_from(
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
    pub(in crate::session) fn buffer(
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
    pub(in crate::session) fn clear_buffer(&mut self, held: &mut HeldBytes) {
        if let Some(hold) = self.hold_mut() {
            hold.clear(held);
        }
    }

    /// Makes a latest channel live: it has a pending value instead of a buffer.
    pub(in crate::session) fn set_live(&mut self) {
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

    pub(in crate::session) fn is_held_until(&self, condition: ReleaseCondition) -> bool {
        self.hold().is_some_and(|hold| hold.condition == condition)
    }

    /// Takes the next publication from the buffer. None if the buffer does not have it, or
    /// if the client has caught up: then the subscription is live.
    pub(in crate::session) fn take_buffered(
        &mut self,
        held: &mut HeldBytes,
    ) -> Option<HeldPublication> {
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

    /// Goes back to `position`: what follows it was queued and is not any more. The subscription
    /// is held until there is room, and reads the history from there.
    pub(in crate::session) fn go_back_to(&mut self, position: &Position) {
        if let DeliveryState::Live = self.state {
            let newest = self.position.clone();
            self.state = DeliveryState::held(ReleaseCondition::Room, newest);
        }
        self.position.advance(position);
    }

    /// Holds the subscription until the client is in the foreground, if it is live or waits for
    /// room. The client may be away for long: the history keeps what it can.
    pub(in crate::session) fn pause(&mut self, held: &mut HeldBytes) {
        match &self.state {
            DeliveryState::Live => {
                let newest = self.position.clone();
                self.state = DeliveryState::held(ReleaseCondition::Foreground, newest);
            }
            DeliveryState::Held(hold) if hold.condition == ReleaseCondition::Room => {
                self.hold_until(ReleaseCondition::Foreground, held);
            }
            DeliveryState::Held(_) => {}
        }
    }

    /// Sets what a held subscription waits for. Only one that waits for room keeps its buffer.
    /// Returns whether the subscription is held.
    pub(in crate::session) fn hold_until(
        &mut self,
        condition: ReleaseCondition,
        held: &mut HeldBytes,
    ) -> bool {
        let Some(hold) = self.hold_mut() else {
            return false;
        };
        hold.condition = condition;
        if condition == ReleaseCondition::Foreground {
            hold.clear(held);
        }
        true
    }

    /// Notes the newest publication of the channel. A live subscription that does not have it, or
    /// is of another epoch, is held until there is room. Returns whether the subscription is held.
    pub(in crate::session) fn note_newest(&mut self, newest: &Position) -> bool {
        match &mut self.state {
            DeliveryState::Held(hold) => hold.note_newest(newest),
            DeliveryState::Live
                if self.position.epoch == newest.epoch && self.position.seq >= newest.seq =>
            {
                return false;
            }
            state @ DeliveryState::Live => {
                *state = DeliveryState::held(ReleaseCondition::Room, newest.clone());
            }
        }
        true
    }

    /// The newest publication of the channel, while the subscription is held.
    pub(in crate::session) fn newest_held(&self) -> Option<&Position> {
        self.hold().map(|hold| &hold.newest)
    }

    /// Notes the newest publication of the channel, if the subscription is held.
    pub(in crate::session) fn note_newest_held(&mut self, newest: &Position) {
        if let Some(hold) = self.hold_mut() {
            hold.note_newest(newest);
        }
    }

    /// Puts what was read of a history, whose newest position is `top`, before the buffer.
    pub(in crate::session) fn merge(
        &mut self,
        top: &Position,
        read: Vec<HeldPublication>,
        held: &mut HeldBytes,
    ) {
        let Some(hold) = self.hold_mut() else {
            return;
        };
        let is_unknown = hold.newest.epoch.as_str().is_empty();
        if is_unknown || hold.newest.epoch == top.epoch {
            hold.note_newest(top);
        }
        hold.merge(read, held);
    }

    /// Puts a publication back that has no room.
    pub(in crate::session) fn put_back(
        &mut self,
        publication: HeldPublication,
        held: &mut HeldBytes,
    ) {
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
            let is_next = !is_behind(one) && one.after() == position.seq;
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
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChannelName, Event};

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
        let mut held = HeldBytes::new(1_000);
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
        let mut held = HeldBytes::new(1_000);
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
    fn a_newest_position_that_did_not_come_holds_a_live_subscription() {
        let mut held = HeldBytes::new(10);
        let mut progress = Progress::unknown();
        progress.start_at(position(3));
        progress.note_newest_held(&position(3));
        assert!(drain(&mut progress, &mut held).is_empty());
        assert!(progress.is_live());
        assert!(!progress.note_newest(&position(3)) && progress.is_live());
        assert!(progress.note_newest(&position(5)) && !progress.is_live());
        progress.merge(
            &position(5),
            (4..=5).map(|seq| (1, publication(seq))).collect(),
            &mut held,
        );
        assert_eq!(drain(&mut progress, &mut held), [4, 5]);
        assert!(progress.is_live());
    }

    #[test]
    fn all_buffers_of_a_session_share_a_bound() {
        let mut held = HeldBytes::new(5);
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
