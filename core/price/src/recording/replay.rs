//! Replay: plays a recording into the aggregator.
//!
//! Time in the aggregator is the recording's. It passes in the same ticks between the same frames
//! at any speed, so speed and machine do not change the publications.
//!
//! A recording can be played again and again. Each pass continues the time of the one before, and
//! [`passes`](super::passes) moves the trade numbers, so that the rate stays the same for ever.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{RecordedFrame, Recording, passes::Passes};
use crate::{
    LinkState, VenueKind,
    aggregate::{Aggregator, Provenance, SourceId},
    clock::EngineTime,
};

/// The time between two ticks, in microseconds of the recording.
const TICK_US: i64 = 100_000;

/// The most ticks for a gap between two frames. Of a longer gap the beginning is skipped, because
/// all prices are stale by then.
const MAX_TICKS_IN_GAP: i64 = 1_000;

/// How long time goes on after the last frame, in microseconds, so that the last market overview is
/// published.
const AFTER_US: i64 = 1_000_000;

/// Time between the last frame of a pass and the first of the next, in microseconds: about that
/// between two frames of a market with some trades. Also that to a line with a wrong time.
const PASS_GAP_US: i64 = 50_000;

/// How far the clock may be ahead of a replay at the recorded speed, in microseconds, when a pass
/// begins. Beyond, the computer has slept, and the pass begins at the clock's time.
const MAX_LAG_US: i64 = 5_000_000;

/// The longest step between the times of two lines, ahead and back, in microseconds. After a longer
/// one, a line has a wrong time, or the clock was set: it is played right after the line before.
const MAX_AHEAD_US: i64 = 3_600_000_000;
const MAX_BACK_US: i64 = 2_000_000;

/// The times that a recording may have, in microseconds since the Unix epoch: to the end of the year
/// 9999. Others count as the nearest of them, so that no sum of times leaves the range of numbers.
const TIMES_US: std::ops::RangeInclusive<i64> = 0..=253_402_300_799_999_999;

/// Frames played before the task yields, so that others run during a replay at full speed.
const FRAMES_BEFORE_YIELD: u64 = 1_000;

/// The speed of a replay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReplaySpeed {
    /// A multiple of the recorded speed.
    Times(f64),
    /// As fast as possible.
    Maximum,
}

/// Which times a replay publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayStart {
    /// It begins now, and all times are moved.
    Now,
    /// The recorded times: the same recording gives the same publications, to the byte.
    Recorded,
}

/// The state of one replay.
pub(crate) struct Replay {
    aggregator: Arc<Mutex<Aggregator>>,
    time: EngineTime,
    speed: ReplaySpeed,
    start: ReplayStart,
    sources: Vec<(SourceId, VenueKind)>,
    passes: Passes,
    /// When the first frame was played, and that moment in the aggregator's time.
    started: Instant,
    started_us: i64,
    /// The first frame of this pass, in the aggregator's time and in the recording's. After a step
    /// between two lines, the later one.
    pass_us: i64,
    begins_us: i64,
    /// The last frame, in the recording's time.
    recorded_us: i64,
    /// The last frame, in the aggregator's time.
    last_us: i64,
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
            passes: Passes::default(),
            started: Instant::now(),
            started_us: 0,
            pass_us: 0,
            begins_us: 0,
            recorded_us: 0,
            last_us: 0,
            ticked_us: 0,
        }
    }

    /// Plays all frames once, and counts them. A further call plays a further pass.
    pub(crate) async fn play(&mut self, recording: Recording, count: &mut u64) {
        for mut line in recording {
            line.time_us = line.time_us.clamp(*TIMES_US.start(), *TIMES_US.end());
            if *count == 0 {
                self.begin_pass(&line);
            }
            self.follow_steps(line.time_us);
            let offset_us = line.time_us.saturating_sub(self.begins_us).max(0);
            let arrival_us = self.pass_us.saturating_add(offset_us).min(*TIMES_US.end());
            self.pass(arrival_us).await;
            self.wait_until(arrival_us).await;
            self.time.set(arrival_us);
            self.take(&line, arrival_us);
            self.last_us = self.last_us.max(arrival_us);
            *count += 1;
            if count.is_multiple_of(FRAMES_BEFORE_YIELD) {
                yield_now().await;
            }
        }
        self.passes.end_pass();
    }

    /// Plays a line right after the one before, if its time is too far from that one's.
    fn follow_steps(&mut self, line_us: i64) {
        let step_us = line_us.saturating_sub(self.recorded_us);
        self.recorded_us = line_us;
        if !(-MAX_BACK_US..=MAX_AHEAD_US).contains(&step_us) {
            self.pass_us = self.last_us.saturating_add(PASS_GAP_US);
            self.begins_us = line_us;
        }
    }

    /// Lets the time go on a little, so that what the last frames changed is published.
    pub(crate) fn finish(&mut self) {
        let end_us = self.ticked_us.saturating_add(AFTER_US);
        while self.ticked_us < end_us {
            self.tick();
        }
    }

    /// Begins a pass: the first at its own time, each further one right after the one before.
    fn begin_pass(&mut self, first: &RecordedFrame) {
        self.begins_us = first.time_us;
        self.recorded_us = first.time_us;
        if self.passes.is_first() {
            self.begin(first);
            return;
        }
        self.pass_us = self.last_us.saturating_add(PASS_GAP_US);
        let clock_us = self.time.clock_us();
        let is_at_clock_speed = self.speed == ReplaySpeed::Times(1.0);
        let lag_us = clock_us.saturating_sub(self.pass_us);
        if is_at_clock_speed && self.start == ReplayStart::Now && lag_us > MAX_LAG_US {
            (self.pass_us, self.started_us) = (clock_us, clock_us);
            self.started = Instant::now();
        }
    }

    /// Starts the clock, and marks all sources as live.
    fn begin(&mut self, first: &RecordedFrame) {
        self.started_us = match self.start {
            ReplayStart::Now => self.time.now_us(),
            ReplayStart::Recorded => first.time_us,
        };
        (self.pass_us, self.last_us) = (self.started_us, self.started_us);
        self.ticked_us = self.started_us;
        self.started = Instant::now();
        let mut aggregator = self.aggregator.lock();
        for (source, _) in &self.sources {
            aggregator.set_link_state(*source, &LinkState::Connected, self.started_us);
            aggregator.set_link_state(*source, &LinkState::Live, self.started_us);
        }
    }

    /// Waits until the aggregator's time reaches `at_us`.
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
            // A time beyond the clock's range never comes.
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, line: &RecordedFrame, arrival_us: i64) {
        if let Some((source, kind)) = self.sources.get(line.source) {
            let mut parsed = kind.parse(&line.frame);
            let later_us = arrival_us.saturating_sub(line.time_us);
            for event in parsed.iter_mut().flatten() {
                self.passes.shift(line.source, event, later_us);
            }
            self.aggregator
                .lock()
                .apply_frame(*source, &parsed, arrival_us);
        }
    }

    /// Ticks the aggregator up to `now_us`.
    async fn pass(&mut self, now_us: i64) {
        let longest_us = MAX_TICKS_IN_GAP * TICK_US;
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
