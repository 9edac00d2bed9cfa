//! Heartbeat: how often a client has to give a sign of life, and how good its link is.
//!
//! # The interval
//! A client sends a ping when it has received nothing for its heartbeat interval. The interval
//! is short while publications or commands pass, and longer the longer none do: see
//! [`Heartbeat::interval`]. The client uses the interval that it was last *announced*, in
//! `welcome`, `visibility` or `pong`. When a longer announced interval becomes too long, the
//! session sends a `pong` by itself.
//!
//! # The figures
//! The round trip is smoothed as TCP does it (RFC 6298, section 2: 7/8 of the old value, 1/8
//! of the new sample). The jitter is that of RFC 3550 (section 6.4.1): 1/16 of the way
//! towards the difference of two neighbouring round trips. Round trips of 40, 56 and 40 ms
//! give jitters of none, 1 ms (16/16) and 1 + (16 − 1)/16 = 1.94 ms.
//!
//! Every connection has one [`Heartbeat`], so it is small.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tidewire_proto::v1::{Pong, Visibility};
use tokio::time::Instant;

use crate::StreamOptions;

/// Time without a publication or a command after which a connection is idle.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// Time without a publication or a command after which a connection is asleep.
const ASLEEP_AFTER: Duration = Duration::from_secs(300);

/// Interval of an idle connection, in intervals of an active one.
const IDLE_FACTOR: u32 = 5;

/// Delay that a ping of an active client may have.
const PING_SLACK: Duration = Duration::from_secs(1);

/// Time to answer for an active client that missed its heartbeat: as long as the client
/// itself waits for the server.
const ACTIVE_PROBE: Duration = Duration::from_millis(1_500);

/// Time to answer for every other client.
const PROBE: Duration = Duration::from_secs(10);

/// Keep-alive of a sleeping client, in those of an active one: few wake-ups for a phone, and
/// still less than the 55 to 60 s after which load balancers cut.
const ASLEEP_KEEPALIVES: u32 = 2;

/// How good a connection is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionQuality {
    /// Round trip, smoothed. None until it was measured; only WebSockets measure it.
    pub round_trip: Option<Duration>,
    /// Variation of the round trip. None until it was measured twice.
    pub jitter: Option<Duration>,
    /// How often no sign of life came in time.
    pub missed_beats: u32,
    /// Bytes sent, without the bytes of TLS.
    pub bytes_sent: u64,
    /// Bytes received, without the bytes of TLS.
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
    /// Silence of the client after which it is probed, even while the server sends: dead links
    /// are found, and what is between the two does not take the connection for idle.
    pub silence: Duration,
    /// Time to answer that probe, and again the second one.
    pub silence_probe: Duration,
}

impl StreamOptions {
    /// Time within which a connection ends whose client is gone without a word: the silence of a
    /// sleeping client, and two probes.
    #[must_use]
    pub fn longest_silence(&self) -> Duration {
        self.keepalive * ASLEEP_KEEPALIVES + PROBE * 2
    }
}

/// Heartbeat and measurements of one connection.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// When a publication or a command last passed.
    active_at: Instant,
    /// Interval that the client was announced, in milliseconds.
    announced_ms: u32,
    /// Smoothed round trip, in microseconds.
    round_trip: u32,
    last_round_trip: u32,
    jitter: u32,
    missed: u32,
    /// Round trips measured, counted up to two.
    samples: u8,
    /// Whether the client sends pings.
    sends_pings: bool,
}

/// Bytes of a connection. Only its transport counts them, on one thread at a time.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    pub(super) fn add_sent(&self, bytes: usize) {
        add(&self.sent, bytes);
    }

    pub(super) fn add_received(&self, bytes: usize) {
        add(&self.received, bytes);
    }

    /// Bytes sent and bytes received.
    pub(super) fn totals(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.sent), load(&self.received))
    }
}

/// Adds without a locked instruction: a counter has one writer.
fn add(counter: &AtomicU64, bytes: usize) {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before.wrapping_add(bytes as u64), Ordering::Relaxed);
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            active_at: now,
            announced_ms: 0,
            round_trip: 0,
            last_round_trip: 0,
            jitter: 0,
            missed: 0,
            samples: 0,
            sends_pings: false,
        }
    }

    /// Notes that a publication, a command or a change of visibility passed.
    pub(super) fn note_activity(&mut self, now: Instant) {
        self.active_at = now;
    }

    /// Notes that the client sends pings.
    pub(super) fn note_ping(&mut self) {
        self.sends_pings = true;
    }

    /// Notes that no sign of life came in time.
    pub(super) fn note_missed(&mut self) {
        self.missed = self.missed.saturating_add(1);
    }

    /// Interval that the client was announced, in milliseconds.
    pub(super) fn announced_ms(&self) -> u32 {
        self.announced_ms
    }

    /// Notes the interval that the client is about to be announced.
    pub(super) fn announce(&mut self, interval_ms: u32) {
        self.announced_ms = interval_ms;
    }

    /// The interval as it should be now. For a minute after the last activity it is that of an
    /// active connection, and five times that for the next four minutes. Then, and in the
    /// background, it is the background's.
    pub(super) fn interval(
        &self,
        now: Instant,
        visibility: Visibility,
        options: &StreamOptions,
    ) -> Duration {
        let asleep = options.heartbeat_background.max(options.heartbeat);
        if self.is_asleep(now, visibility) {
            asleep
        } else if now.saturating_duration_since(self.active_at) >= IDLE_AFTER {
            (options.heartbeat * IDLE_FACTOR).min(asleep)
        } else {
            options.heartbeat
        }
    }

    /// Whether the client is in the background, or has been idle for long.
    fn is_asleep(&self, now: Instant, visibility: Visibility) -> bool {
        let idle_for = now.saturating_duration_since(self.active_at);
        visibility == Visibility::Background || idle_for >= ASLEEP_AFTER
    }

    /// When the client's silence is worth a probe.
    ///
    /// A client that sends pings is held to the interval that it was announced: its heartbeat
    /// is missed when the ping is a second late, or, in the background and idle, an interval
    /// late. Every client is probed after the keep-alive's silence, and in the background, or
    /// asleep, after twice as much: so a sleeping phone that sends its beats is not woken.
    pub(super) fn timeouts(
        &self,
        now: Instant,
        visibility: Visibility,
        options: &StreamOptions,
    ) -> KeepAliveTimeouts {
        let announced = Duration::from_millis(self.announced_ms.into());
        let (slack, heartbeat_probe) = if announced <= options.heartbeat {
            (PING_SLACK, ACTIVE_PROBE)
        } else {
            (announced, PROBE)
        };
        KeepAliveTimeouts {
            heartbeat: self.sends_pings.then(|| announced + slack),
            heartbeat_probe,
            silence: match self.is_asleep(now, visibility) {
                true => options.keepalive * ASLEEP_KEEPALIVES,
                false => options.keepalive,
            },
            silence_probe: PROBE,
        }
    }

    /// A pong that answers a ping with this `t`, as far as the heartbeat knows it.
    pub(super) fn pong(&self, t: Option<f64>, server_time: i64) -> Pong {
        let in_ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        Pong {
            t,
            server_time,
            heartbeat_ms: self.announced_ms,
            rtt_ms: self.round_trip().map(in_ms),
            jitter_ms: self.jitter().map(in_ms),
        }
    }

    /// Quality of a connection with this traffic.
    pub(super) fn quality(&self, traffic: &Traffic) -> ConnectionQuality {
        let (bytes_sent, bytes_received) = traffic.totals();
        ConnectionQuality {
            round_trip: self.round_trip(),
            jitter: self.jitter(),
            missed_beats: self.missed,
            bytes_sent,
            bytes_received,
        }
    }

    pub(super) fn record_round_trip(&mut self, round_trip: Duration) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn round_trip_and_jitter_are_smoothed_as_in_the_example() {
        let mut heartbeat = Heartbeat::new(Instant::now());
        assert_eq!((heartbeat.round_trip(), heartbeat.jitter()), (None, None));
        heartbeat.record_round_trip(ms(40));
        assert_eq!(
            (heartbeat.round_trip(), heartbeat.jitter()),
            (Some(ms(40)), None)
        );
        heartbeat.record_round_trip(ms(56));
        assert_eq!(heartbeat.round_trip(), Some(ms(42)));
        assert_eq!(heartbeat.jitter(), Some(ms(1)));
        heartbeat.record_round_trip(ms(40));
        assert_eq!(heartbeat.jitter(), Some(Duration::from_micros(1_937)));
        // A round trip beyond the range counts as the longest one.
        heartbeat.record_round_trip(Duration::MAX);
        assert!(heartbeat.round_trip() < Some(Duration::from_micros(u32::MAX.into())));
    }

    #[test]
    fn the_interval_grows_while_the_connection_is_idle() {
        let start = Instant::now();
        let heartbeat = Heartbeat::new(start);
        let options = StreamOptions::default();
        let after = |secs: u64, visibility| {
            let now = start + Duration::from_secs(secs);
            heartbeat.interval(now, visibility, &options).as_secs()
        };
        for (secs, expected) in [(0, 2), (59, 2), (60, 10), (299, 10), (300, 30), (9_999, 30)] {
            assert_eq!(after(secs, Visibility::Active), expected, "after {secs} s");
        }
        assert_eq!(after(0, Visibility::Background), 30);
    }

    #[test]
    fn its_memory_is_small() {
        assert!(size_of::<Heartbeat>() + size_of::<Traffic>() <= 64);
    }
}
