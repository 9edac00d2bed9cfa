//! Playing a recording into the aggregator.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_stream::SharedClock;
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};

use crate::{
    Line, Recording, VenueKind,
    aggregate::{Aggregator, Provenance, SourceId},
    clock::now_us,
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

/// Plays one recording.
pub(crate) struct Replay {
    aggregator: Arc<Mutex<Aggregator>>,
    clock: SharedClock,
    speed: ReplaySpeed,
    sources: Vec<(SourceId, VenueKind)>,
    started: Instant,
    started_us: i64,
    /// The time of the first frame.
    begins_us: Option<i64>,
    ticked_us: i64,
}

impl Replay {
    /// Makes ready: all sources of the recording are as good as connected.
    pub(crate) fn new(
        aggregator: Arc<Mutex<Aggregator>>,
        clock: SharedClock,
        recording: &Recording,
        speed: ReplaySpeed,
    ) -> Self {
        let started_us = now_us(&*clock);
        let sources = {
            let mut aggregator = aggregator.lock();
            aggregator.set_provenance(if recording.head().sample {
                Provenance::Sample
            } else {
                Provenance::Market
            });
            let ids: Vec<_> = aggregator.source_ids().collect();
            for id in &ids {
                aggregator.link(*id, &LinkState::Connected, started_us);
                aggregator.link(*id, &LinkState::Live, started_us);
            }
            let with_kind = |id| (id, aggregator.spec(id).kind);
            ids.into_iter().map(with_kind).collect()
        };
        Self {
            aggregator,
            clock,
            speed,
            sources,
            started: Instant::now(),
            started_us,
            begins_us: None,
            ticked_us: started_us,
        }
    }

    /// Plays all of it, counting the frames.
    pub(crate) async fn play(mut self, recording: Recording, count: &mut u64) {
        for line in recording {
            let arrival_us = self.wait_for(&line).await;
            self.take(&line, arrival_us);
            *count += 1;
            if count.is_multiple_of(TURN) {
                yield_now().await;
            }
        }
        self.pass(self.ticked_us.saturating_add(AFTER_US));
    }

    /// Waits until the frame is due. Gives the time at which it arrives.
    async fn wait_for(&mut self, line: &Line) -> i64 {
        let begins_us = *self.begins_us.get_or_insert(line.time_us);
        let offset_us = line.time_us.saturating_sub(begins_us).max(0);
        let times = match self.speed {
            ReplaySpeed::Maximum => return self.started_us.saturating_add(offset_us),
            ReplaySpeed::Times(times) => times,
        };
        let offset = Duration::from_micros(offset_us.unsigned_abs()).as_secs_f64() / times;
        let due = Duration::try_from_secs_f64(offset)
            .ok()
            .and_then(|offset| self.started.checked_add(offset));
        match due {
            Some(due) => sleep_until(due).await,
            // Beyond all times: it never comes.
            None => std::future::pending().await,
        }
        now_us(&*self.clock)
    }

    fn take(&mut self, line: &Line, arrival_us: i64) {
        self.pass(arrival_us);
        if let Some((source, kind)) = self.sources.get(line.source) {
            let parsed = kind.parse(&line.frame);
            self.aggregator
                .lock()
                .apply_frame(*source, &parsed, arrival_us);
        }
    }

    /// Lets time pass up to `now_us`.
    fn pass(&mut self, now_us: i64) {
        let longest_us = TICKS_A_GAP * TICK_US;
        self.ticked_us = self.ticked_us.max(now_us.saturating_sub(longest_us));
        while now_us.saturating_sub(self.ticked_us) >= TICK_US {
            self.ticked_us += TICK_US;
            self.aggregator.lock().tick(self.ticked_us);
        }
    }
}
