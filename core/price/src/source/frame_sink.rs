//! Frame sink: passes a connection's frames to the aggregator and into a recording.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tidewire_stream::SharedClock;
use tokio::sync::mpsc;

use crate::{
    LinkState, RecordedFrame,
    aggregate::{Aggregator, SourceId},
    clock::now_us,
    venue::{Refusal, VenueEvent, VenueKind},
};

/// The frames' way from one connection. Each frame holds the aggregator's lock for a few
/// microseconds. The socket is not read meanwhile, so TCP slows down a venue that is faster than
/// this server, and no frame is lost.
pub(crate) struct FrameSink {
    source: SourceId,
    /// The index of the connection among the source's.
    link: usize,
    kind: VenueKind,
    aggregator: Arc<Mutex<Aggregator>>,
    clock: SharedClock,
    recorder: Option<mpsc::Sender<RecordedFrame>>,
    is_live: AtomicBool,
}

/// A frame's meaning for its connection.
#[derive(Debug)]
pub(super) enum FrameOutcome {
    Nothing,
    /// Market data: the connection is not mute.
    Data,
    Ack(Option<u64>),
    Refusal(Refusal),
    /// The venue will close the connection soon.
    Shutdown,
}

impl FrameSink {
    /// A sink for one connection of a source. `recorder` receives every frame too.
    pub(crate) fn new(
        (source, link): (SourceId, usize),
        kind: VenueKind,
        aggregator: Arc<Mutex<Aggregator>>,
        clock: SharedClock,
        recorder: Option<mpsc::Sender<RecordedFrame>>,
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

    /// Reports the state of the connection to the aggregator.
    pub(super) fn set_link_state(&self, state: &LinkState) {
        self.is_live
            .store(*state == LinkState::Live, Ordering::Relaxed);
        self.aggregator.lock().set_link_state_of(
            self.source,
            self.link,
            state,
            now_us(&*self.clock),
        );
    }

    /// Reports the markets that the venue refuses, by its own names.
    pub(super) fn record_refused(&self, names: &[String], refusal: &Refusal) {
        if !names.is_empty() {
            let mut aggregator = self.aggregator.lock();
            aggregator.record_refused(self.source, names, &refusal.reason);
        }
    }

    /// Whether data arrived on this connection.
    pub(super) fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Relaxed)
    }

    pub(super) async fn accept(&self, frame: &[u8]) -> FrameOutcome {
        let mut arrival_us = now_us(&*self.clock);
        if let Some(recorder) = &self.recorder {
            let line = RecordedFrame {
                time_us: arrival_us,
                source: self.source.index,
                frame: frame.to_vec(),
            };
            // A closed recorder ends this task too.
            let _ = recorder.send(line).await;
            // A wait for the file must not look like a clock that was set back.
            arrival_us = now_us(&*self.clock);
        }
        let parsed = self.kind.parse(frame);
        self.aggregator
            .lock()
            .apply_frame(self.source, &parsed, arrival_us);
        let Ok(events) = parsed else {
            return FrameOutcome::Nothing;
        };
        if events.iter().any(VenueEvent::is_data) {
            if !self.is_live() {
                self.set_link_state(&LinkState::Live);
            }
            return FrameOutcome::Data;
        }
        match events.into_iter().next() {
            Some(VenueEvent::Ack(id)) => FrameOutcome::Ack(id),
            Some(VenueEvent::Shutdown) => FrameOutcome::Shutdown,
            Some(VenueEvent::Error(refusal)) => FrameOutcome::Refusal(refusal),
            _ => FrameOutcome::Nothing,
        }
    }
}
