//! Whether the other end of a WebSocket is still there, and how far away.
//!
//! When it is asked is the session's to say ([`KeepAliveTimeouts`]): a client that beats by itself
//! is asked as soon as it misses a beat while nothing is sent to it, since the kernel
//! notices a link that takes nothing (`TCP_USER_TIMEOUT`). Whoever says nothing for long
//! is asked in any case, and whoever beats is asked along with a reply now and then, for
//! the round trip: that wakes nobody.

use std::time::Duration;

use tidewire_stream::KeepAliveTimeouts;
use tokio::time::Instant;

/// The round trip is measured this often at most, beside what is asked anyway.
const MEASURE_EVERY: Duration = Duration::from_secs(20);

/// A look that comes later than this says more about the server than about the peer.
const LATE: Duration = Duration::from_millis(500);

/// What is known of the peer.
pub(super) struct Peer {
    /// When it gave its last sign of life.
    heard: Instant,
    /// When it was last sent a message.
    wrote: Instant,
    /// When it was last asked for a sign of life.
    asked: Option<Instant>,
    next_check: Instant,
    question: Question,
}

/// What became of the last question.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    /// It was answered, or not needed.
    Settled,
    /// It is open, and may be asked so many times more.
    Open { more: u8 },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing.
    Wait,
    /// Ask.
    Ask,
    /// Ask once more: there was no answer.
    AskAgain,
    /// There is nobody.
    GiveUp,
}

impl Peer {
    /// A peer that is there now, and is looked after from `next_check` on.
    pub(super) fn new(now: Instant, timeouts: KeepAliveTimeouts) -> Self {
        Self {
            heard: now,
            wrote: now,
            asked: None,
            next_check: now + timeouts.silence,
            question: Question::Settled,
        }
    }

    /// When to look at it next.
    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Notes a sign of life.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Notes that it was sent a message.
    pub(super) fn wrote(&mut self, now: Instant) {
        self.wrote = now;
    }

    /// Notes the answer to a question, and says how long it took. None if there was
    /// no question.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Duration> {
        if self.question == Question::Settled {
            return None;
        }
        self.question = Question::Settled;
        let asked = self.asked?;
        Some(now.saturating_duration_since(asked))
    }

    /// After it spoke: sees to the next look, and says whether to measure the round
    /// trip on this occasion.
    pub(super) fn spoke(&mut self, now: Instant, timeouts: KeepAliveTimeouts) -> bool {
        let is_measured = self.asked.is_some_and(|asked| now < asked + MEASURE_EVERY);
        match timeouts.heartbeat {
            Some(beat) if !is_measured => {
                self.ask(now, beat, 1);
                true
            }
            _ => {
                if self.question == Question::Settled {
                    self.next_check = self.due(timeouts).0;
                }
                false
            }
        }
    }

    /// Looks at it, at `next_check` or later.
    pub(super) fn check(&mut self, now: Instant, timeouts: KeepAliveTimeouts) -> Check {
        let is_silent = self.asked.is_some_and(|asked| self.heard <= asked);
        let (due, is_urgent) = self.due(timeouts);
        match self.question {
            Question::Open { .. } if is_silent && now > self.next_check + LATE => {
                // Its answer may lie here unread.
                self.next_check = now + timeouts.heartbeat_probe;
                Check::Wait
            }
            Question::Open { more: 0 } if is_silent => Check::GiveUp,
            Question::Open { more } if is_silent => {
                match is_urgent && due <= now {
                    true => self.ask(now, timeouts.heartbeat_probe, 0),
                    false => self.ask(now, timeouts.silence_probe, more - 1),
                }
                Check::AskAgain
            }
            Question::Open { .. } | Question::Settled => {
                self.question = Question::Settled;
                self.next_check = due;
                if due > now {
                    return Check::Wait;
                }
                match is_urgent {
                    true => self.ask(now, timeouts.heartbeat_probe, 0),
                    false => self.ask(now, timeouts.silence_probe, 1),
                }
                Check::Ask
            }
        }
    }

    fn ask(&mut self, now: Instant, patience: Duration, more: u8) {
        self.asked = Some(now);
        self.question = Question::Open { more };
        self.next_check = now + patience;
    }

    /// When its silence is worth a question, and whether the answer is urgent then.
    fn due(&self, timeouts: KeepAliveTimeouts) -> (Instant, bool) {
        let silent = self.heard + timeouts.silence;
        match timeouts
            .heartbeat
            .map(|beat| self.heard.max(self.wrote) + beat)
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

    /// Looks until there is something to do, and says after how many milliseconds. The
    /// peer says nothing; `writes` says how often it is written to.
    fn next(
        peer: &mut Peer,
        start: Instant,
        timeouts: KeepAliveTimeouts,
        writes: Option<Duration>,
    ) -> (u128, Check) {
        loop {
            let now = peer.next_check();
            if let Some(every) = writes {
                peer.wrote(now.checked_sub(every).unwrap());
            }
            match peer.check(now, timeouts) {
                Check::Wait => {}
                check => return ((now - start).as_millis(), check),
            }
        }
    }

    #[test]
    fn whoever_misses_a_beat_is_found_within_five_seconds() {
        let start = Instant::now();
        let mut peer = Peer::new(start, BEATS);
        assert!(peer.spoke(start, BEATS), "the round trip is measured");
        let rtt = Duration::from_millis(30);
        assert_eq!(peer.answered(start + rtt), Some(rtt));
        peer.heard(start + rtt);
        assert!(!peer.spoke(start + rtt, BEATS), "it was measured just now");
        let start = start + rtt;
        assert_eq!(next(&mut peer, start, BEATS, None), (3_000, Check::Ask));
        assert_eq!(next(&mut peer, start, BEATS, None), (4_500, Check::GiveUp));

        // Whether or not it was asked shortly before.
        let mut peer = Peer::new(start, BEATS);
        assert!(peer.spoke(start, BEATS));
        assert_eq!(
            next(&mut peer, start, BEATS, None),
            (3_000, Check::AskAgain)
        );
        assert_eq!(next(&mut peer, start, BEATS, None), (4_500, Check::GiveUp));
    }

    #[test]
    fn whoever_sleeps_is_asked_late_and_given_time() {
        let start = Instant::now();
        let timeouts = KeepAliveTimeouts {
            heartbeat: Some(Duration::from_secs(60)),
            heartbeat_probe: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            ..BEATS
        };
        let mut peer = Peer::new(start, timeouts);
        assert_eq!(next(&mut peer, start, timeouts, None), (60_000, Check::Ask));
        assert_eq!(
            next(&mut peer, start, timeouts, None),
            (70_000, Check::AskAgain)
        );
        assert_eq!(
            next(&mut peer, start, timeouts, None),
            (80_000, Check::GiveUp)
        );
    }

    #[test]
    fn whoever_is_written_to_is_left_alone_for_longer() {
        let start = Instant::now();
        let mut peer = Peer::new(start, BEATS);
        let often = Some(Duration::from_millis(100));
        assert_eq!(next(&mut peer, start, BEATS, often), (20_000, Check::Ask));
        assert_eq!(
            next(&mut peer, start, BEATS, often),
            (30_000, Check::AskAgain)
        );
        assert_eq!(
            next(&mut peer, start, BEATS, often),
            (40_000, Check::GiveUp)
        );
    }

    #[test]
    fn whoever_does_not_beat_is_asked_after_a_long_silence() {
        let start = Instant::now();
        let mut peer = Peer::new(start, SILENT);
        assert!(!peer.spoke(start, SILENT));
        assert_eq!(next(&mut peer, start, SILENT, None), (20_000, Check::Ask));
        // Any sign of life will do.
        peer.heard(start + Duration::from_secs(21));
        assert_eq!(next(&mut peer, start, SILENT, None), (41_000, Check::Ask));
    }

    #[test]
    fn a_server_that_was_held_up_blames_nobody() {
        let start = Instant::now();
        let mut peer = Peer::new(start, BEATS);
        assert_eq!(
            peer.check(start + Duration::from_secs(3), BEATS),
            Check::Ask
        );
        let late = start + Duration::from_secs(60);
        assert_eq!(peer.check(late, BEATS), Check::Wait);
        assert_eq!(peer.next_check(), late + BEATS.heartbeat_probe);
        assert_eq!(peer.check(peer.next_check(), BEATS), Check::GiveUp);
    }
}
