//! Tally: counts and latencies of deliveries.

use crate::{
    histogram::Histogram,
    mark::{Ledger, Marks},
};

/// Counts deliveries as they are read.
pub(crate) struct Tally {
    marks: Marks,
    pub(crate) ledger: Ledger,
    /// Last number of each connection on each channel, plus one.
    seen: Vec<u32>,
    channels: usize,
    /// Whether arrivals count.
    pub(crate) is_open: bool,
    /// Numbers of the messages that count.
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) counts: Counts,
    /// Time from the sending write to the receiving read, in nanoseconds.
    pub(crate) latency: Histogram,
}

/// Counts of a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Deliveries during the window, and their bytes.
    pub(crate) arrived: u64,
    pub(crate) bytes: u64,
    pub(crate) reads: u64,
    /// Deliveries of messages sent during the window, each counted once.
    pub(crate) delivered: u64,
    /// Duplicate deliveries, and deliveries after a newer one.
    pub(crate) disorder: u64,
    /// All deliveries of the run.
    pub(crate) ever: u64,
}

impl Tally {
    pub(crate) fn new(marks: Marks, ledger: Ledger, connections: usize) -> Self {
        let channels = ledger.subscribers.len();
        Self {
            marks,
            seen: vec![0; connections * channels],
            channels,
            ledger,
            is_open: false,
            first: 0,
            last: 0,
            counts: Counts::default(),
            latency: Histogram::default(),
        }
    }

    /// Opens a window: messages sent and received from now on count.
    pub(crate) fn open(&mut self) {
        self.latency.clear();
        self.counts = Counts {
            ever: self.counts.ever,
            ..Counts::default()
        };
        self.first = self.ledger.next();
        self.last = u32::MAX;
        self.ledger.messages = 0;
        self.ledger.expected = 0;
        self.ledger.counts = true;
        self.is_open = true;
    }

    /// Closes the window. Its messages still count when they arrive later.
    pub(crate) fn close(&mut self) {
        self.last = self.ledger.next();
        self.ledger.counts = false;
        self.is_open = false;
    }

    /// Whether every counted message has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.counts.delivered >= self.ledger.expected
    }

    /// Counts a read.
    pub(crate) fn read(&mut self, bytes: usize) {
        if self.is_open {
            self.counts.reads += 1;
            self.counts.bytes += bytes as u64;
        }
    }

    /// Length of a mark, in bytes.
    pub(crate) fn mark_length(&self) -> usize {
        self.marks.length()
    }

    /// Counts the deliveries in bytes read by a connection. Returns how many bytes were
    /// consumed.
    pub(crate) fn scan(&mut self, connection: usize, bytes: &[u8], now: u64) -> usize {
        let Self {
            marks,
            ledger,
            seen,
            counts,
            latency,
            ..
        } = self;
        let seen = &mut seen[connection * self.channels..][..self.channels];
        marks.each(bytes, |number| {
            counts.ever += 1;
            if self.is_open {
                counts.arrived += 1;
            }
            let Some(sent) = ledger.find(number) else {
                return;
            };
            let seen = &mut seen[usize::from(sent.channel)];
            if number < *seen {
                counts.disorder += 1;
                return;
            }
            *seen = number + 1;
            if number >= self.first && number < self.last {
                counts.delivered += 1;
                latency.record(now.saturating_sub(sent.at));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::{MarkKind, text};

    #[test]
    fn only_what_was_sent_in_the_window_counts() {
        let ledger = Ledger::new(vec![2]);
        let mut tally = Tally::new(Marks::new(MarkKind::Text), ledger, 2);
        let before = tally.ledger.enter(0).unwrap();
        tally.open();
        let within = tally.ledger.enter(0).unwrap();
        tally.scan(0, text(before).as_bytes(), u64::MAX);
        tally.scan(0, text(within).as_bytes(), u64::MAX);
        tally.close();
        tally.ledger.enter(0).unwrap();
        assert!(!tally.is_complete());
        tally.scan(1, text(within).as_bytes(), u64::MAX);
        tally.scan(1, text(before).as_bytes(), u64::MAX);
        tally.scan(1, text(within).as_bytes(), u64::MAX);
        assert!(tally.is_complete());
        let counts = tally.counts;
        assert_eq!((counts.arrived, counts.delivered), (2, 2));
        assert_eq!((counts.disorder, counts.ever), (2, 5));
    }
}
