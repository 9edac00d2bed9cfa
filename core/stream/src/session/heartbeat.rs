//! How good a connection is, and how often it has to give a sign of life.
//!
//! # The heartbeat
//! A client that hears nothing for its heartbeat asks for a sign of life. The heartbeat
//! is short while anything is going on, and longer the longer nothing is: see
//! [`Pulse::heartbeat`]. What counts is what the client was *told*, in `welcome`,
//! `visibility` and `pong`; when a heartbeat that was told becomes too long, the session
//! says so by itself.
//!
//! # The figures
//! The round trip is smoothed as TCP does it (RFC 6298, section 2: 7/8 of what was, 1/8
//! of what is), the jitter is RFC 3550's (section 6.4.1): 1/16 of the way towards the
//! difference of two neighbouring round trips. Round trips of 40, 56 and 40 ms give
//! jitters of none, 1 ms (16/16) and 1 + (16 − 1)/16 = 1.94 ms.
//!
//! There is one [`Pulse`] for each connection: it is kept small.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tidewire_proto::v1::{Pong, Visibility, server_message::Data};
use tokio::time::Instant;

use super::{Session, SessionCore, message, state::State};
use crate::StreamOptions;

/// Without a word of interest for so long, a connection is idle.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// And then, for so long, asleep.
const ASLEEP_AFTER: Duration = Duration::from_secs(300);

/// The heartbeat of an idle connection, in heartbeats of an active one.
const IDLE_FACTOR: u32 = 5;

/// A beat of an active client may be so late.
const BEAT_SLACK: Duration = Duration::from_secs(1);

/// An active client that missed its beat has so long to answer: as long as it gives the
/// server.
const SHORT_PATIENCE: Duration = Duration::from_millis(1_500);

/// Every other client has so long.
const LONG_PATIENCE: Duration = Duration::from_secs(10);

/// Whoever was silent for so long is asked in any case.
const SILENCE: Duration = Duration::from_secs(20);

/// How good a connection is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionQuality {
    /// The round trip, smoothed. None until it was measured; only a WebSocket's is.
    pub round_trip: Option<Duration>,
    /// How much it varies. None until it was measured twice.
    pub jitter: Option<Duration>,
    /// How often no sign of life came in time.
    pub missed_beats: u32,
    /// Bytes sent, without what TLS adds.
    pub bytes_sent: u64,
    /// Bytes received, likewise.
    pub bytes_received: u64,
}

/// Keep-alive timeouts: when a transport probes a silent client, and how long the client
/// has to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAliveTimeouts {
    /// Silence in both directions after which a client that sends pings has missed its
    /// heartbeat. None: the client sends no pings.
    pub heartbeat: Option<Duration>,
    /// Time to answer the probe that follows a missed heartbeat.
    pub heartbeat_probe: Duration,
    /// Silence of the client after which it is probed, whatever the server sends.
    pub silence: Duration,
    /// Time to answer that probe, and again the second one.
    pub silence_probe: Duration,
}

/// What a session knows of its link.
#[derive(Debug)]
pub(super) struct Pulse {
    /// When something of interest was last sent or asked for.
    active_at: Instant,
    /// The heartbeat that the client knows, in milliseconds.
    told_ms: u32,
    /// In microseconds.
    round_trip: u32,
    last_round_trip: u32,
    jitter: u32,
    missed: u32,
    /// Round trips measured; two are as good as more.
    samples: u8,
    /// Whether the client asks for signs of life by itself.
    beats: bool,
}

/// Bytes of a connection. Counted by its transport alone, in one place at a time.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// Bytes sent and bytes received.
    pub(super) fn totals(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.sent), load(&self.received))
    }
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            active_at: now,
            told_ms: 0,
            round_trip: 0,
            last_round_trip: 0,
            jitter: 0,
            missed: 0,
            samples: 0,
            beats: false,
        }
    }

    /// Notes that someone looks, or just did. The reply tells the heartbeat.
    pub(super) fn woken(&mut self, now: Instant) {
        self.active_at = now;
    }

    /// The heartbeat as it should be: the active one for a minute after the last word of
    /// interest, five times that for the four minutes that follow, and then, as in the
    /// background, the background's.
    fn heartbeat(&self, now: Instant, visibility: Visibility, options: &StreamOptions) -> Duration {
        let idle_for = now.saturating_duration_since(self.active_at);
        let asleep = options.heartbeat_background.max(options.heartbeat);
        if visibility == Visibility::Background || idle_for >= ASLEEP_AFTER {
            asleep
        } else if idle_for >= IDLE_AFTER {
            (options.heartbeat * IDLE_FACTOR).min(asleep)
        } else {
            options.heartbeat
        }
    }

    /// Notes a round trip.
    fn record_round_trip(&mut self, round_trip: Duration) {
        let sample = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
        if self.samples == 0 {
            self.round_trip = sample;
        } else {
            self.round_trip = towards(self.round_trip, sample, 8);
            let difference = sample.abs_diff(self.last_round_trip);
            self.jitter = towards(self.jitter, difference, 16);
        }
        self.last_round_trip = sample;
        self.samples = (self.samples + 1).min(2);
    }

    fn round_trip(&self) -> Option<Duration> {
        (self.samples > 0).then(|| Duration::from_micros(self.round_trip.into()))
    }

    fn jitter(&self) -> Option<Duration> {
        (self.samples > 1).then(|| Duration::from_micros(self.jitter.into()))
    }
}

/// One part in `parts` of the way from `value` to `sample`.
fn towards(value: u32, sample: u32, parts: i64) -> u32 {
    let (value, sample) = (i64::from(value), i64::from(sample));
    // Between the two, and so in range.
    u32::try_from(value + (sample - value) / parts).unwrap_or(u32::MAX)
}

impl SessionCore {
    /// What the heartbeat should be, in milliseconds.
    fn due_heartbeat_ms(&self, state: &State, now: Instant) -> u32 {
        let options = self.stream.options();
        let heartbeat = state.pulse.heartbeat(now, state.visibility, options);
        let asked = self.arrival.heartbeat.unwrap_or_default();
        u32::try_from(heartbeat.max(asked).as_millis()).unwrap_or(u32::MAX)
    }

    /// Notes that something of interest is sent or was asked for. A client that was told
    /// a longer heartbeat than it has now is told.
    pub(super) fn touch(&self, state: &mut State, now: Instant) {
        state.pulse.active_at = now;
        if u128::from(state.pulse.told_ms) <= self.stream.options().heartbeat.as_millis() {
            return;
        }
        let heartbeat_ms = self.due_heartbeat_ms(state, now);
        if heartbeat_ms < state.pulse.told_ms {
            let pong = self.pong(state, None, now);
            state.send(message(Data::Pong(pong)));
        }
    }

    fn pong(&self, state: &mut State, t: Option<f64>, now: Instant) -> Pong {
        state.pulse.told_ms = self.due_heartbeat_ms(state, now);
        Pong {
            t,
            server_time: self.stream.clock().now_ms(),
            heartbeat_ms: state.pulse.told_ms,
            rtt_ms: state.pulse.round_trip().map(in_ms),
            jitter_ms: state.pulse.jitter().map(in_ms),
        }
    }
}

fn in_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

impl Session {
    /// Answers a ping, and notes that the client sends them.
    pub fn answer_ping(&self, t: Option<f64>) -> Pong {
        let mut state = self.core().state.lock();
        state.pulse.beats = true;
        self.core().pong(&mut state, t, Instant::now())
    }

    /// Notes that the client asked for something.
    pub fn record_activity(&self) {
        let is_told = {
            let mut state = self.core().state.lock();
            let before = state.pulse.told_ms;
            self.core().touch(&mut state, Instant::now());
            state.pulse.told_ms != before
        };
        if is_told {
            self.0.mark();
        }
    }

    /// The heartbeat that the client was told, in milliseconds: after so much silence it
    /// asks for a sign of life, or on SSE is given one.
    #[must_use]
    pub fn heartbeat_ms(&self) -> u32 {
        self.core().state.lock().pulse.told_ms
    }

    /// The heartbeat as it is now, which the client is about to be told.
    pub(super) fn tell_heartbeat_ms(&self) -> u32 {
        let mut state = self.core().state.lock();
        state.pulse.told_ms = self.core().due_heartbeat_ms(&state, Instant::now());
        state.pulse.told_ms
    }

    /// When the client's silence is worth a question now.
    ///
    /// Whoever beats is held to what it was told: it has missed its beat when it is a
    /// second late, or in the background, and idle, as long again. Nobody else is asked
    /// before 20 seconds of silence, and in the background, or long idle, before twice
    /// its heartbeat: a sleeping phone is not woken for what it says by itself.
    #[must_use]
    pub fn keep_alive_timeouts(&self, now: Instant) -> KeepAliveTimeouts {
        let core = self.core();
        let options = core.stream.options();
        let state = core.state.lock();
        let told = Duration::from_millis(state.pulse.told_ms.into());
        let heartbeat = state.pulse.heartbeat(now, state.visibility, options);
        let is_active = told <= options.heartbeat;
        let (slack, heartbeat_probe) = if is_active {
            (BEAT_SLACK, SHORT_PATIENCE)
        } else {
            (told, LONG_PATIENCE)
        };
        KeepAliveTimeouts {
            heartbeat: state.pulse.beats.then(|| told + slack),
            heartbeat_probe,
            silence: SILENCE.max(heartbeat * 2),
            silence_probe: LONG_PATIENCE,
        }
    }

    /// Notes a round trip to the client and back.
    pub fn record_round_trip(&self, round_trip: Duration) {
        self.core().state.lock().pulse.record_round_trip(round_trip);
        self.core().stream.note_round_trip(round_trip);
    }

    /// Notes that no sign of life came in time.
    pub fn record_missed_heartbeat(&self) {
        let mut state = self.core().state.lock();
        state.pulse.missed = state.pulse.missed.saturating_add(1);
        drop(state);
        self.core().stream.note_missed_beat();
    }

    /// Counts bytes that were sent. Called by whoever writes, and by one at a time.
    pub fn record_sent(&self, bytes: usize) {
        count(&self.core().traffic.sent, bytes);
    }

    /// Counts bytes that were received. Called by whoever reads, and by one at a time.
    pub fn record_received(&self, bytes: usize) {
        count(&self.core().traffic.received, bytes);
    }

    /// Bytes sent and bytes received.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        self.core().traffic.totals()
    }

    /// How good the connection is.
    #[must_use]
    pub fn quality(&self) -> ConnectionQuality {
        let (bytes_sent, bytes_received) = self.core().traffic.totals();
        let state = self.core().state.lock();
        ConnectionQuality {
            round_trip: state.pulse.round_trip(),
            jitter: state.pulse.jitter(),
            missed_beats: state.pulse.missed,
            bytes_sent,
            bytes_received,
        }
    }
}

/// There is one writer: it takes no locked instruction.
fn count(counter: &AtomicU64, bytes: usize) {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before.wrapping_add(bytes as u64), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_figures_are_smoothed_as_the_example_says() {
        let mut pulse = Pulse::new(Instant::now());
        assert_eq!((pulse.round_trip(), pulse.jitter()), (None, None));
        pulse.record_round_trip(ms(40));
        assert_eq!((pulse.round_trip(), pulse.jitter()), (Some(ms(40)), None));
        pulse.record_round_trip(ms(56));
        assert_eq!(pulse.round_trip(), Some(ms(42)));
        assert_eq!(pulse.jitter(), Some(ms(1)));
        pulse.record_round_trip(ms(40));
        assert_eq!(pulse.jitter(), Some(Duration::from_micros(1_937)));
        // What cannot be held is the most that can.
        pulse.record_round_trip(Duration::MAX);
        assert!(pulse.round_trip() < Some(Duration::from_micros(u32::MAX.into())));
    }

    #[test]
    fn the_heartbeat_grows_with_the_silence() {
        let start = Instant::now();
        let pulse = Pulse::new(start);
        let options = StreamOptions::default();
        let after = |secs: u64, visibility| {
            let now = start + Duration::from_secs(secs);
            pulse.heartbeat(now, visibility, &options).as_secs()
        };
        for (secs, expected) in [(0, 2), (59, 2), (60, 10), (299, 10), (300, 30), (9_999, 30)] {
            assert_eq!(after(secs, Visibility::Active), expected, "after {secs} s");
        }
        assert_eq!(after(0, Visibility::Background), 30);
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Pulse>() + size_of::<Traffic>() <= 64);
    }
}
