//! Chart: the forming candles of one symbol, one for each interval.
//!
//! Ticks come in the order of their times. A minute closes when a tick of a later one comes, or
//! [`GRACE_MS`] after its end: a price that was formed in the last moment may arrive after it. A
//! tick of a minute that is closed already is left out of all intervals, so that a longer candle is
//! always the sum of its minutes.

use super::{Candle, CandleInterval, CandleTick, MINUTE_MS};

/// Time after an interval's end for prices that were formed in it, in milliseconds.
pub(crate) const GRACE_MS: i64 = 2_000;

/// Number of intervals.
const INTERVALS: usize = CandleInterval::ALL.len();

/// Whether a tick counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TickOutcome {
    Counted,
    /// Its minute was closed already.
    Late,
}

/// The candles of one symbol that are not over.
#[derive(Debug, Default)]
pub(crate) struct Chart {
    forming: [Option<Candle>; INTERVALS],
    /// Which of them changed since they were published.
    is_changed: [bool; INTERVALS],
    /// The newest closed candle of each interval, if it is not published yet.
    closed: [Option<Candle>; INTERVALS],
    /// Closed minutes that nobody has taken yet.
    minutes: Vec<Candle>,
    /// Ticks before this time are late: it is the end of the newest closed candle.
    open_from_ms: i64,
}

impl Chart {
    /// A chart that goes on after a restart: with the closed minutes of the day that holds
    /// `now_ms`, a minute that was forming, and the end of the newest closed minute of all.
    pub(crate) fn restore(
        minutes: &[Candle],
        forming: Option<Candle>,
        closed_until_ms: i64,
        now_ms: i64,
    ) -> Self {
        let mut chart = Self::default();
        for minute in minutes.iter().chain(&forming) {
            chart.add_minute(minute);
        }
        if forming.is_none() {
            // It was closed already.
            chart.forming[0] = None;
        }
        chart.minutes.clear();
        chart.closed = [None; INTERVALS];
        chart.open_from_ms = chart.open_from_ms.max(closed_until_ms);
        chart.close_due(now_ms);
        chart
    }

    /// Adds a whole minute.
    fn add_minute(&mut self, minute: &Candle) {
        self.close_before(minute.start_ms);
        for (index, interval) in CandleInterval::ALL.into_iter().enumerate() {
            match &mut self.forming[index] {
                Some(forming) => forming.merge(minute),
                none => {
                    *none = Some(Candle {
                        start_ms: interval.start_of(minute.start_ms),
                        ..*minute
                    });
                }
            }
            self.is_changed[index] = true;
        }
    }

    /// Counts a tick.
    pub(crate) fn add(&mut self, tick: &CandleTick) -> TickOutcome {
        let start_ms = CandleInterval::Minute.start_of(tick.formed_ms);
        let forming_ms = self.forming[0].map_or(i64::MIN, |forming| forming.start_ms);
        if start_ms < self.open_from_ms.max(forming_ms) {
            return TickOutcome::Late;
        }
        // A tick is a minute of its own until it is merged.
        self.add_minute(&Candle::first(start_ms, tick));
        TickOutcome::Counted
    }

    /// Whether minutes are further ahead of the clock than this.
    pub(crate) fn is_ahead(&self, now_ms: i64, max_ahead_ms: i64) -> bool {
        let last_ms = now_ms + max_ahead_ms;
        let is_forming = self.forming[0].is_some_and(|forming| forming.start_ms > last_ms);
        is_forming || self.open_from_ms > last_ms + MINUTE_MS
    }

    /// Closes the candles whose time is over.
    pub(crate) fn close_due(&mut self, now_ms: i64) {
        let minute = CandleInterval::Minute.start_of(now_ms - GRACE_MS);
        self.close_before(minute);
    }

    /// Closes the candles that end at this start of a minute, or before.
    fn close_before(&mut self, minute_ms: i64) {
        for (index, interval) in CandleInterval::ALL.into_iter().enumerate() {
            let ends = |candle: &mut Candle| candle.start_ms + interval.length_ms() <= minute_ms;
            let Some(candle) = self.forming[index].take_if(ends) else {
                continue;
            };
            self.closed[index] = Some(candle);
            if interval == CandleInterval::Minute {
                self.minutes.push(candle);
            }
            self.open_from_ms = self
                .open_from_ms
                .max(candle.start_ms + interval.length_ms());
        }
    }

    /// The forming candle of an interval.
    pub(crate) fn forming(&self, interval: CandleInterval) -> Option<Candle> {
        self.forming[interval as usize]
    }

    /// Takes the closed minutes, oldest first.
    pub(crate) fn take_minutes(&mut self) -> Vec<Candle> {
        std::mem::take(&mut self.minutes)
    }

    /// Takes what is to be published of an interval: a closed candle, and a forming one.
    pub(crate) fn take_changes(
        &mut self,
        interval: CandleInterval,
    ) -> (Option<Candle>, Option<Candle>) {
        let index = interval as usize;
        let closed = self.closed[index].take();
        let is_changed = std::mem::take(&mut self.is_changed[index]);
        (closed, self.forming[index].filter(|_| is_changed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use proptest::prelude::*;
    use rust_decimal::Decimal;

    use super::*;
    use crate::candle::merge_minutes;

    fn tick(formed_ms: i64, price: i64, traded: Option<i64>) -> CandleTick {
        CandleTick {
            price: Decimal::new(price, 2),
            formed_ms,
            traded: traded.map(|traded| Decimal::new(traded, 3)),
            sources: 2,
        }
    }

    /// The candles of all ticks, computed from the ticks alone.
    fn naive(ticks: &[CandleTick], interval: CandleInterval) -> Vec<Candle> {
        let mut starts: Vec<_> = ticks
            .iter()
            .map(|tick| tick.formed_ms.div_euclid(interval.length_ms()) * interval.length_ms())
            .collect();
        starts.dedup();
        let candles = starts.into_iter().map(|start_ms| {
            let end_ms = start_ms + interval.length_ms();
            let inside: Vec<_> = ticks
                .iter()
                .filter(|tick| (start_ms..end_ms).contains(&tick.formed_ms))
                .collect();
            let prices = || inside.iter().map(|tick| tick.price);
            let volumes: Vec<_> = inside.iter().filter_map(|tick| tick.traded).collect();
            Candle {
                start_ms,
                open: prices().next().unwrap(),
                high: prices().max().unwrap(),
                low: prices().min().unwrap(),
                close: prices().next_back().unwrap(),
                volume: (!volumes.is_empty()).then(|| volumes.iter().sum()),
                sources: 2,
            }
        });
        candles.collect()
    }

    proptest! {
        #[test]
        fn candles_are_those_of_the_naive_model(
            steps in prop::collection::vec(
                (0..200_000_i64, 1..100_000_i64, prop::option::of(0..1_000_i64), any::<bool>()),
                1..200,
            ),
            restart in 0..200_usize,
        ) {
            let (mut chart, mut now_ms) = (Chart::default(), 1_790_000_000_000);
            let (mut counted, mut minutes) = (Vec::new(), Vec::new());
            let mut published: [Vec<Candle>; 4] = Default::default();
            for (number, (pause_ms, price, traded, closes)) in steps.into_iter().enumerate() {
                now_ms += pause_ms;
                // The clock may be ahead of the tick by its transit time.
                if closes {
                    chart.close_due(now_ms + 500);
                }
                let tick = tick(now_ms, price, traded);
                prop_assert_eq!(chart.add(&tick), TickOutcome::Counted);
                counted.push(tick);
                for interval in CandleInterval::ALL {
                    let (closed, forming) = chart.take_changes(interval);
                    published[interval as usize].extend(closed);
                    prop_assert_eq!(forming, chart.forming(interval));
                }
                minutes.extend(chart.take_minutes());
                if number == restart {
                    let day_ms = CandleInterval::Day.start_of(now_ms);
                    let today: Vec<_> = minutes.iter().filter(|one| one.start_ms >= day_ms).copied().collect();
                    let forming = chart.forming(CandleInterval::Minute);
                    let until = minutes.last().map_or(0, |last| last.start_ms + 60_000);
                    chart = Chart::restore(&today, forming, until, now_ms);
                    minutes.extend(chart.take_minutes());
                }
            }
            for interval in CandleInterval::ALL {
                let expected = naive(&counted, interval);
                let mut all = minutes.clone();
                all.extend(chart.forming(CandleInterval::Minute));
                prop_assert_eq!(&merge_minutes(&all, interval), &expected);
                prop_assert_eq!(chart.forming(interval), expected.last().copied());
                // Each closed candle is published once.
                prop_assert_eq!(&published[interval as usize], &expected[..expected.len() - 1]);
            }
        }
    }

    #[test]
    fn a_minute_closes_after_its_grace_and_once() {
        let mut chart = Chart::default();
        chart.add(&tick(59_000, 100, Some(5)));
        chart.close_due(61_999);
        assert!(chart.take_changes(CandleInterval::Minute).0.is_none());
        // Formed in the minute, and late by its way.
        assert_eq!(chart.add(&tick(59_999, 90, None)), TickOutcome::Counted);
        chart.close_due(62_000);
        let (closed, forming) = chart.take_changes(CandleInterval::Minute);
        let closed = closed.unwrap();
        assert_eq!(
            (closed.close, closed.low),
            (Decimal::new(90, 2), Decimal::new(90, 2))
        );
        assert_eq!(forming, None);
        chart.close_due(70_000);
        assert_eq!(chart.take_changes(CandleInterval::Minute), (None, None));
        assert_eq!(chart.add(&tick(59_999, 80, None)), TickOutcome::Late);
        // The hour goes on, and the late price is not in it either.
        assert_eq!(
            chart.forming(CandleInterval::Hour).unwrap().low,
            Decimal::new(90, 2)
        );
    }

    #[test]
    fn a_minute_that_was_forming_at_a_crash_is_closed_after_it() {
        let mut chart = Chart::default();
        chart.add(&tick(10_000, 100, Some(5)));
        let forming = chart.forming(CandleInterval::Minute);
        let mut restored = Chart::restore(&[], forming, 0, 30_000);
        restored.add(&tick(31_000, 120, Some(1)));
        assert_eq!(
            restored.forming(CandleInterval::Minute).unwrap().volume,
            Some(Decimal::new(6, 3))
        );
        let mut later = Chart::restore(&[], forming, 0, 600_000);
        assert_eq!(later.take_minutes(), [forming.unwrap()]);
        assert_eq!(
            later.forming(CandleInterval::Hour).map(|hour| hour.open),
            Some(Decimal::new(100, 2))
        );
        assert_eq!(later.forming(CandleInterval::FiveMinutes), None);
    }
}
