//! Keep-alive: finds dead clients with pings, and measures the round trip.
//!
//! The session sets the intervals ([`KeepAliveTimeouts`]). A client that sends heartbeats is pinged
//! when it misses one while nothing is written to it. While data is written, the kernel
//! finds a dead link (`TCP_USER_TIMEOUT`). Any client is pinged after a long silence
//! (`[server] keepalive`), before load balancers take the connection for idle. A
//! client that sends heartbeats is also pinged together with a reply, every 20 s at most.
//! That measures the round trip without waking an idle radio.
//!
//! Example: a heartbeat is due every 3 s, and the patience is 1.5 s. The last bytes arrive
//! at 0 s. The ping leaves at 3 s. Without any bytes until 4.5 s, the connection is closed.

use std::time::Duration;

use tidewire_stream::KeepAliveTimeouts;
use tokio::time::Instant;

/// The shortest time between pings for the round trip alone.
const MEASURE_INTERVAL: Duration = Duration::from_secs(20);

/// Delay of a check above which the server was busy. The pong may then be unread, so the
/// client has more time.
const LATE_CHECK: Duration = Duration::from_millis(500);

/// The keep-alive state of one connection.
pub(super) struct KeepAlive {
    /// When bytes were last read.
    read_at: Instant,
    /// When a message was last written.
    written_at: Instant,
    /// When the last ping was sent.
    pinged_at: Option<Instant>,
    next_check: Instant,
    ping: PingState,
}

/// The state of the last ping.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PingState {
    /// Answered, or none was sent.
    Idle,
    /// Not answered yet, with this number of retries left.
    Pending { retries: u8 },
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeepAliveAction {
    /// Do nothing.
    Wait,
    /// Send a ping.
    Ping,
    /// Send another ping, because the last one was not answered.
    PingAgain,
    /// Close the connection, because the client is dead.
    Close,
}

impl KeepAlive {
    /// The state of a connection that opens now.
    pub(super) fn new(now: Instant, timeouts: KeepAliveTimeouts) -> Self {
        Self {
            read_at: now,
            written_at: now,
            pinged_at: None,
            next_check: now + timeouts.silence,
            ping: PingState::Idle,
        }
    }

    /// The time of the next check.
    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Records that bytes were read.
    pub(super) fn record_read(&mut self, now: Instant) {
        self.read_at = now;
    }

    /// Records that a message was written.
    pub(super) fn record_write(&mut self, now: Instant) {
        self.written_at = now;
    }

    /// Records a pong and returns the round trip. `None` if no ping is pending.
    pub(super) fn record_pong(&mut self, now: Instant) -> Option<Duration> {
        if self.ping == PingState::Idle {
            return None;
        }
        self.ping = PingState::Idle;
        let pinged_at = self.pinged_at?;
        Some(now.saturating_duration_since(pinged_at))
    }

    /// Records that the client sent messages, and schedules the next check. True if a
    /// ping should measure the round trip now.
    pub(super) fn record_commands(&mut self, now: Instant, timeouts: KeepAliveTimeouts) -> bool {
        let is_measured = self
            .pinged_at
            .is_some_and(|pinged_at| now < pinged_at + MEASURE_INTERVAL);
        match timeouts.heartbeat {
            Some(beat) if !is_measured => {
                self.start_ping(now, beat, 1);
                true
            }
            _ => {
                if self.ping == PingState::Idle {
                    self.next_check = self.due(timeouts).0;
                }
                false
            }
        }
    }

    /// Checks the connection, at `next_check` or later.
    pub(super) fn check(&mut self, now: Instant, timeouts: KeepAliveTimeouts) -> KeepAliveAction {
        let is_silent = self
            .pinged_at
            .is_some_and(|pinged_at| self.read_at <= pinged_at);
        let (due, is_urgent) = self.due(timeouts);
        match self.ping {
            PingState::Pending { .. } if is_silent && now > self.next_check + LATE_CHECK => {
                // The pong may have arrived and be unread.
                self.next_check = now + timeouts.heartbeat_probe;
                KeepAliveAction::Wait
            }
            PingState::Pending { retries: 0 } if is_silent => KeepAliveAction::Close,
            PingState::Pending { retries } if is_silent => {
                match is_urgent && due <= now {
                    true => self.start_ping(now, timeouts.heartbeat_probe, 0),
                    false => self.start_ping(now, timeouts.silence_probe, retries - 1),
                }
                KeepAliveAction::PingAgain
            }
            PingState::Pending { .. } | PingState::Idle => {
                self.ping = PingState::Idle;
                self.next_check = due;
                if due > now {
                    return KeepAliveAction::Wait;
                }
                match is_urgent {
                    true => self.start_ping(now, timeouts.heartbeat_probe, 0),
                    false => self.start_ping(now, timeouts.silence_probe, 1),
                }
                KeepAliveAction::Ping
            }
        }
    }

    fn start_ping(&mut self, now: Instant, patience: Duration, retries: u8) {
        self.pinged_at = Some(now);
        self.ping = PingState::Pending { retries };
        self.next_check = now + patience;
    }

    /// When the next ping is due, and whether it uses the short patience of a heartbeat.
    fn due(&self, timeouts: KeepAliveTimeouts) -> (Instant, bool) {
        let silent = self.read_at + timeouts.silence;
        match timeouts
            .heartbeat
            .map(|beat| self.read_at.max(self.written_at) + beat)
        {
            Some(beat) if beat <= silent => {
                (beat, timeouts.heartbeat_probe < timeouts.silence_probe)
            }
            _ => (silent, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEATS: KeepAliveTimeouts = KeepAliveTimeouts {
        heartbeat: Some(Duration::from_secs(3)),
        heartbeat_probe: Duration::from_millis(1_500),
        silence: Duration::from_secs(20),
        silence_probe: Duration::from_secs(10),
    };
    const SILENT: KeepAliveTimeouts = KeepAliveTimeouts {
        heartbeat: None,
        ..BEATS
    };

    /// Checks until there is something to do. Returns the milliseconds since `start` and
    /// the action. The client sends nothing; `writes` is the time between writes to it.
    fn next(
        keep_alive: &mut KeepAlive,
        start: Instant,
        timeouts: KeepAliveTimeouts,
        writes: Option<Duration>,
    ) -> (u128, KeepAliveAction) {
        loop {
            let now = keep_alive.next_check();
            if let Some(every) = writes {
                keep_alive.record_write(now.checked_sub(every).unwrap());
            }
            match keep_alive.check(now, timeouts) {
                KeepAliveAction::Wait => {}
                check => return ((now - start).as_millis(), check),
            }
        }
    }

    #[test]
    fn a_missed_heartbeat_closes_the_connection_within_five_seconds() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(start, BEATS);
        assert!(
            keep_alive.record_commands(start, BEATS),
            "the round trip is measured"
        );
        let rtt = Duration::from_millis(30);
        assert_eq!(keep_alive.record_pong(start + rtt), Some(rtt));
        keep_alive.record_read(start + rtt);
        assert!(
            !keep_alive.record_commands(start + rtt, BEATS),
            "it was measured just now"
        );
        let start = start + rtt;
        assert_eq!(
            next(&mut keep_alive, start, BEATS, None),
            (3_000, KeepAliveAction::Ping)
        );
        assert_eq!(
            next(&mut keep_alive, start, BEATS, None),
            (4_500, KeepAliveAction::Close)
        );

        // A ping shortly before does not delay this.
        let mut keep_alive = KeepAlive::new(start, BEATS);
        assert!(keep_alive.record_commands(start, BEATS));
        assert_eq!(
            next(&mut keep_alive, start, BEATS, None),
            (3_000, KeepAliveAction::PingAgain)
        );
        assert_eq!(
            next(&mut keep_alive, start, BEATS, None),
            (4_500, KeepAliveAction::Close)
        );
    }

    #[test]
    fn a_sleeping_client_is_pinged_late_and_gets_time() {
        let start = Instant::now();
        let timeouts = KeepAliveTimeouts {
            heartbeat: Some(Duration::from_secs(60)),
            heartbeat_probe: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            ..BEATS
        };
        let mut keep_alive = KeepAlive::new(start, timeouts);
        assert_eq!(
            next(&mut keep_alive, start, timeouts, None),
            (60_000, KeepAliveAction::Ping)
        );
        assert_eq!(
            next(&mut keep_alive, start, timeouts, None),
            (70_000, KeepAliveAction::PingAgain)
        );
        assert_eq!(
            next(&mut keep_alive, start, timeouts, None),
            (80_000, KeepAliveAction::Close)
        );
    }

    #[test]
    fn a_client_that_is_written_to_is_pinged_later() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(start, BEATS);
        let often = Some(Duration::from_millis(100));
        assert_eq!(
            next(&mut keep_alive, start, BEATS, often),
            (20_000, KeepAliveAction::Ping)
        );
        assert_eq!(
            next(&mut keep_alive, start, BEATS, often),
            (30_000, KeepAliveAction::PingAgain)
        );
        assert_eq!(
            next(&mut keep_alive, start, BEATS, often),
            (40_000, KeepAliveAction::Close)
        );
    }

    #[test]
    fn a_client_without_heartbeats_is_pinged_after_a_long_silence() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(start, SILENT);
        assert!(!keep_alive.record_commands(start, SILENT));
        assert_eq!(
            next(&mut keep_alive, start, SILENT, None),
            (20_000, KeepAliveAction::Ping)
        );
        // Any bytes count as an answer.
        keep_alive.record_read(start + Duration::from_secs(21));
        assert_eq!(
            next(&mut keep_alive, start, SILENT, None),
            (41_000, KeepAliveAction::Ping)
        );
    }

    #[test]
    fn a_late_check_gives_the_client_more_time() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(start, BEATS);
        assert_eq!(
            keep_alive.check(start + Duration::from_secs(3), BEATS),
            KeepAliveAction::Ping
        );
        let late = start + Duration::from_secs(60);
        assert_eq!(keep_alive.check(late, BEATS), KeepAliveAction::Wait);
        assert_eq!(keep_alive.next_check(), late + BEATS.heartbeat_probe);
        assert_eq!(
            keep_alive.check(keep_alive.next_check(), BEATS),
            KeepAliveAction::Close
        );
    }
}
