//! Queue of one subscription: bounded, so that a slow consumer costs neither memory nor the others.
//!
//! A latest channel keeps its newest value only. A history channel keeps up to `capacity` items;
//! when it is full, the oldest are dropped, and the consumer receives one [`Gap`] in their place,
//! with their number.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tidewire_proto::v1::{ChannelClass, Position, server_message::Data};

use crate::{
    error::Error,
    payload::Payload,
    subscription::{Event, Gap, GapReason, Message},
};

/// A publication, before it has the type of a subscription.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub(crate) data: Data,
    pub(crate) position: Option<Position>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) is_replay: bool,
    pub(crate) class: ChannelClass,
}

/// Receiver of a channel's events, of any payload.
pub(crate) trait Sink: Send + Sync {
    /// Queues a publication, if its payload fits.
    fn deliver(&self, publication: &Publication);
    /// Queues a gap or a refusal that is tried again.
    fn notice(&self, notice: Notice);
    /// Ends the stream: with an error, or because the client was closed.
    fn end(&self, error: Option<Error>);
}

/// An event that is no publication.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    Gap(Gap),
    Retry(Error),
}

/// Publications that a full queue dropped.
#[derive(Debug, Default)]
struct Dropped {
    count: u64,
    /// The position of the last one.
    up_to: Option<Position>,
}

/// End of a stream.
#[derive(Debug)]
enum End {
    /// The error is still to be yielded.
    Failed(Error),
    Finished,
}

#[derive(Debug)]
struct State<T> {
    events: VecDeque<Event<T>>,
    dropped: Option<Dropped>,
    end: Option<End>,
    waker: Option<Waker>,
}

/// A bounded queue between the connection and one subscription.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    channel: Arc<str>,
    capacity: usize,
    state: Mutex<State<T>>,
}

impl<T> Queue<T> {
    pub(crate) fn new(channel: Arc<str>, capacity: usize) -> Self {
        let state = State {
            events: VecDeque::new(),
            dropped: None,
            end: None,
            waker: None,
        };
        Self {
            channel,
            capacity,
            state: Mutex::new(state),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next event. `None` after the end.
    pub(crate) fn poll_next(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Event<T>, Error>>> {
        let mut state = self.state.lock();
        // They were older than all that is queued.
        if let Some(Dropped { count, up_to }) = state.dropped.take() {
            return Poll::Ready(Some(Ok(Event::Gap(Gap {
                channel: self.channel.to_string(),
                position: up_to,
                reason: GapReason::SlowConsumer { missed: count },
            }))));
        }
        if let Some(event) = state.events.pop_front() {
            return Poll::Ready(Some(Ok(event)));
        }
        match state.end.take() {
            Some(End::Failed(error)) => {
                state.end = Some(End::Finished);
                Poll::Ready(Some(Err(error)))
            }
            Some(End::Finished) => {
                state.end = Some(End::Finished);
                Poll::Ready(None)
            }
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> State<T> {
    /// Queues an event. The oldest leaves a full queue.
    fn push(&mut self, event: Event<T>, capacity: usize) {
        while self.events.len() >= capacity {
            let (count, up_to) = match self.events.pop_front() {
                Some(Event::Message(message)) => (1, message.position),
                // The gap that reports the drop stands for this one.
                Some(Event::Gap(gap)) => (0, gap.position),
                Some(Event::Retry(_)) => continue,
                None => break,
            };
            let dropped = self.dropped.get_or_insert_default();
            dropped.count += count;
            dropped.up_to = up_to;
        }
        self.events.push_back(event);
    }
}

impl<T: Payload> Sink for Queue<T> {
    fn deliver(&self, publication: &Publication) {
        let Some(data) = T::read(&publication.data) else {
            return;
        };
        let message = Event::Message(Message {
            data,
            position: publication.position.clone(),
            timestamp: publication.timestamp,
            is_replay: publication.is_replay,
        });
        self.change(|state| {
            if publication.class == ChannelClass::Latest {
                state.events.clear();
            }
            state.push(message, self.capacity);
        });
    }

    fn notice(&self, notice: Notice) {
        let event = match notice {
            Notice::Gap(gap) => Event::Gap(gap),
            Notice::Retry(error) => Event::Retry(error),
        };
        self.change(|state| state.push(event, self.capacity));
    }

    fn end(&self, error: Option<Error>) {
        self.change(|state| state.end = Some(error.map_or(End::Finished, End::Failed)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use bytes::Bytes;
    use futures::{FutureExt as _, future::poll_fn};

    use super::*;
    use crate::{error::ErrorKind, payload::Json};

    fn publication(seq: u64, class: ChannelClass) -> Publication {
        Publication {
            data: Data::Message(Bytes::from(seq.to_string())),
            position: Some(Position {
                epoch: "e".to_owned(),
                seq,
            }),
            timestamp: None,
            is_replay: false,
            class,
        }
    }

    /// All that is queued, as text.
    fn drain(queue: &Queue<Json>) -> Vec<String> {
        let next = || poll_fn(|context| queue.poll_next(context)).now_or_never();
        let texts = std::iter::from_fn(|| match next()?? {
            Ok(Event::Message(message)) => Some(message.data.parse::<u64>().unwrap().to_string()),
            Ok(Event::Gap(gap)) => Some(format!("{:?} up to {}", gap.reason, gap.position?.seq)),
            Ok(Event::Retry(error)) | Err(error) => Some(error.to_string()),
        });
        texts.collect()
    }

    #[test]
    fn a_full_history_drops_the_oldest_and_says_so() {
        let queue = Queue::new("orders:7".into(), 3);
        for seq in 1..=5 {
            queue.deliver(&publication(seq, ChannelClass::History));
        }
        let expected = ["SlowConsumer { missed: 2 } up to 2", "3", "4", "5"];
        assert_eq!(drain(&queue), expected);
        queue.deliver(&publication(6, ChannelClass::History));
        assert_eq!(drain(&queue), ["6"]);
    }

    #[test]
    fn a_latest_channel_keeps_its_newest_value() {
        let queue = Queue::new("prices:BTC-USD".into(), 3);
        for seq in 1..=5 {
            queue.deliver(&publication(seq, ChannelClass::Latest));
        }
        assert_eq!(drain(&queue), ["5"]);
    }

    #[test]
    fn an_error_follows_all_that_was_queued_and_ends_the_stream() {
        let queue = Queue::new("orders:7".into(), 3);
        queue.deliver(&publication(1, ChannelClass::History));
        queue.end(Some(Error::new(ErrorKind::NotFound, "no such channel")));
        queue.deliver(&publication(2, ChannelClass::History));
        assert_eq!(drain(&queue), ["1", "no such channel"]);
        let next = poll_fn(|context| queue.poll_next(context)).now_or_never();
        assert!(matches!(next, Some(None)), "{next:?}");
    }
}
