//! Where a connection's frames go: to the aggregator, and into a recording.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tidewire_stream::SharedClock;
use tokio::sync::mpsc;

use super::LinkState;
use crate::{
    Line,
    aggregate::{Aggregator, SourceId},
    clock::now_us,
    venue::{VenueEvent, VenueKind},
};

/// Takes the frames of one source. The aggregator's lock is held for the few
/// microseconds that a frame takes, and while it is taken the socket is not read: a
/// venue that is faster than this server is slowed down by TCP, and no frame is lost.
pub(crate) struct Feed {
    source: SourceId,
    /// Which of the source's connections it is.
    link: usize,
    kind: VenueKind,
    aggregator: Arc<Mutex<Aggregator>>,
    clock: SharedClock,
    recorder: Option<mpsc::Sender<Line>>,
    is_live: AtomicBool,
}

/// What a frame means to its connection.
#[derive(Debug)]
pub(super) enum Meaning {
    Nothing,
    /// The connection is not mute.
    Data,
    Ack,
    Refusal(String),
    /// The venue is about to close it.
    Shutdown,
}

impl Feed {
    /// The way of a source's frames; `recorder` takes every one of them too.
    pub(crate) fn new(
        (source, link): (SourceId, usize),
        kind: VenueKind,
        aggregator: Arc<Mutex<Aggregator>>,
        clock: SharedClock,
        recorder: Option<mpsc::Sender<Line>>,
    ) -> Self {
        Self {
            source,
            link,
            kind,
            aggregator,
            clock,
            recorder,
            is_live: AtomicBool::new(false),
        }
    }

    pub(super) fn kind(&self) -> VenueKind {
        self.kind
    }

    /// How the connection does from now on.
    pub(super) fn link(&self, state: &LinkState) {
        self.is_live
            .store(*state == LinkState::Live, Ordering::Relaxed);
        self.aggregator
            .lock()
            .link_of(self.source, self.link, state, now_us(&*self.clock));
    }

    /// Whether data came since the connection was set up.
    pub(super) fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Relaxed)
    }

    pub(super) async fn take(&self, frame: &[u8]) -> Meaning {
        let arrival_us = now_us(&*self.clock);
        if let Some(recorder) = &self.recorder {
            let line = Line {
                time_us: arrival_us,
                source: self.source.index,
                frame: frame.to_vec(),
            };
            // The recorder has ended: so will this task.
            let _ = recorder.send(line).await;
        }
        let parsed = self.kind.parse(frame);
        self.aggregator
            .lock()
            .apply_frame(self.source, &parsed, arrival_us);
        let Ok(events) = parsed else {
            return Meaning::Nothing;
        };
        if events.iter().any(VenueEvent::is_data) {
            if !self.is_live() {
                self.link(&LinkState::Live);
            }
            return Meaning::Data;
        }
        match events.into_iter().next() {
            Some(VenueEvent::Ack) => Meaning::Ack,
            Some(VenueEvent::Shutdown) => Meaning::Shutdown,
            Some(VenueEvent::Error(reason)) => Meaning::Refusal(reason),
            _ => Meaning::Nothing,
        }
    }
}
