//! Playing a recording into the aggregator.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};

use crate::{
    Line, Recording, VenueKind,
    aggregate::{Aggregator, Provenance, SourceId},
    clock::EngineTime,
    source::LinkState,
};

/// How often time passes in a replay, in microseconds of the recording.
const TICK_US: i64 = 100_000;

/// A gap in a recording is gone through in so many ticks at most; of a longer one,
/// the beginning is left out. Prices are stale by then.
const TICKS_A_GAP: i64 = 1_000;

/// Time passes once more after the last frame, for the overview that it changed.
const AFTER_US: i64 = 1_000_000;

/// Others want to run too: a replay at full speed lets them, after so many frames.
const TURN: u64 = 1_000;

/// How fast a recording is replayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReplaySpeed {
    /// So many times as fast as it was recorded.
    Times(f64),
    /// As fast as possible.
    Maximum,
}

/// When a replay takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayStart {
    /// It begins now: all times are moved.
    Now,
    /// When it was recorded: the same recording says the same, to the byte.
    Recorded,
}

/// Plays one recording. Time in the aggregator is that of the recording, whatever the
/// speed: it passes in the same steps between the same frames, so that speed and machine
/// change nothing of what is said.
pub(crate) struct Replay {
    aggregator: Arc<Mutex<Aggregator>>,
    time: EngineTime,
    speed: ReplaySpeed,
    start: ReplayStart,
    sources: Vec<(SourceId, VenueKind)>,
    /// When the first frame was played.
    started: Instant,
    /// The time then, in the aggregator and in the recording.
    started_us: i64,
    begins_us: i64,
    ticked_us: i64,
}

impl Replay {
    pub(crate) fn new(
        aggregator: Arc<Mutex<Aggregator>>,
        time: EngineTime,
        recording: &Recording,
        (speed, start): (ReplaySpeed, ReplayStart),
    ) -> Self {
        let sources = {
            let mut aggregator = aggregator.lock();
            aggregator.set_provenance(if recording.head().sample {
                Provenance::Sample
            } else {
                Provenance::Market
            });
            let ids: Vec<_> = aggregator.source_ids().collect();
            let with_kind = |id| (id, aggregator.spec(id).kind);
            ids.into_iter().map(with_kind).collect()
        };
        Self {
            aggregator,
            time,
            speed,
            start,
            sources,
            started: Instant::now(),
            started_us: 0,
            begins_us: 0,
            ticked_us: 0,
        }
    }

    /// Plays all of it, counting the frames.
    pub(crate) async fn play(mut self, recording: Recording, count: &mut u64) {
        for line in recording {
            if *count == 0 {
                self.begin(&line);
            }
            let offset_us = line.time_us.saturating_sub(self.begins_us).max(0);
            let arrival_us = self.started_us.saturating_add(offset_us);
            self.pass(arrival_us).await;
            self.wait_until(arrival_us).await;
            self.time.set(arrival_us);
            self.take(&line, arrival_us);
            *count += 1;
            if count.is_multiple_of(TURN) {
                yield_now().await;
            }
        }
        let end_us = self.ticked_us.saturating_add(AFTER_US);
        while self.ticked_us < end_us {
            self.tick();
        }
    }

    /// All sources are as good as connected.
    fn begin(&mut self, first: &Line) {
        self.begins_us = first.time_us;
        self.started_us = match self.start {
            ReplayStart::Now => self.time.now_us(),
            ReplayStart::Recorded => first.time_us,
        };
        self.ticked_us = self.started_us;
        self.started = Instant::now();
        let mut aggregator = self.aggregator.lock();
        for (source, _) in &self.sources {
            aggregator.link(*source, &LinkState::Connected, self.started_us);
            aggregator.link(*source, &LinkState::Live, self.started_us);
        }
    }

    /// Waits until a time of the aggregator has come.
    async fn wait_until(&self, at_us: i64) {
        let ReplaySpeed::Times(times) = self.speed else {
            return;
        };
        let offset_us = at_us.saturating_sub(self.started_us).max(0);
        let offset = Duration::from_micros(offset_us.unsigned_abs()).as_secs_f64() / times;
        let due = Duration::try_from_secs_f64(offset)
            .ok()
            .and_then(|offset| self.started.checked_add(offset));
        match due {
            Some(due) => sleep_until(due).await,
            // Beyond all times: it never comes.
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, line: &Line, arrival_us: i64) {
        if let Some((source, kind)) = self.sources.get(line.source) {
            let parsed = kind.parse(&line.frame);
            self.aggregator
                .lock()
                .apply_frame(*source, &parsed, arrival_us);
        }
    }

    /// Lets time pass up to `now_us`.
    async fn pass(&mut self, now_us: i64) {
        let longest_us = TICKS_A_GAP * TICK_US;
        self.ticked_us = self.ticked_us.max(now_us.saturating_sub(longest_us));
        while now_us.saturating_sub(self.ticked_us) >= TICK_US {
            self.wait_until(self.ticked_us.saturating_add(TICK_US))
                .await;
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.ticked_us += TICK_US;
        self.time.set(self.ticked_us);
        self.aggregator.lock().tick(self.ticked_us);
    }
}
