//! Reading candles: stored hours and those of memory, merged to an interval.

use std::collections::BTreeMap;

use tidewire_proto::v1;
use tidewire_store::{SharedStore, StoreError};

use super::{
    Candle, CandleInterval, Candles, CandlesError, DAY_MS, HOUR_MS, Progress, codec,
    engine::{DAYS, MAX_AHEAD_MS, Recent, TABLE, hour_key},
    merge_minutes,
};

/// Candles of a page by default.
const DEFAULT_LIMIT: u32 = 100;

/// Candles of a page at most.
pub(crate) const MAX_LIMIT: u32 = 1_000;

/// A page to read.
struct Page {
    interval: CandleInterval,
    limit: usize,
    /// The first time that is kept.
    oldest_ms: i64,
    now_ms: i64,
}

impl Candles {
    /// Days of minutes that a page of candles is made of, at least: the cost of reading it.
    #[must_use]
    pub fn days_of_page(interval: &str, limit: Option<u32>) -> usize {
        let length_ms = CandleInterval::from_name(interval).map_or(0, CandleInterval::length_ms);
        let span_ms = length_ms * i64::from(limit.unwrap_or(DEFAULT_LIMIT));
        let days = (span_ms / DAY_MS + 1).min(DAYS + 1);
        usize::try_from(days).unwrap_or(1)
    }

    /// The candles of a symbol, oldest first, the forming one included: those that start at
    /// `since_ms` or later, from there on, else the newest.
    ///
    /// # Errors
    /// The symbol, the interval or the limit is unknown, or the store cannot be read.
    pub async fn get(
        &self,
        symbol: &str,
        interval: &str,
        since_ms: Option<i64>,
        limit: Option<u32>,
    ) -> Result<Vec<v1::Candle>, CandlesError> {
        let known = CandleInterval::from_name(interval);
        let interval = known.ok_or_else(|| CandlesError::Interval(interval.to_owned()))?;
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(CandlesError::Limit(limit));
        }
        // Memory first: an hour that is not there any more is in the store.
        let (recent, store, now_ms) = self.recent(symbol, interval)?;
        let page = Page {
            interval,
            limit: limit as usize,
            oldest_ms: CandleInterval::Day.start_of(now_ms) - DAYS * DAY_MS,
            now_ms,
        };
        let mut candles = match since_ms {
            Some(since_ms) => page.forward(&store, &recent, since_ms).await?,
            None => page.backward(&store, &recent).await?,
        };
        let name = recent.symbol.as_str();
        let forming_ms = recent.forming.map_or(i64::MAX, |forming| forming.start_ms);
        // The forming candle holds the forming minute as well.
        candles.retain(|candle| candle.start_ms < forming_ms);
        let has_room = candles.len() < page.limit || since_ms.is_none();
        let is_wanted = |forming: &Candle| {
            since_ms.is_none_or(|since_ms| forming.start_ms >= since_ms) && has_room
        };
        let forming = recent.forming.filter(is_wanted);
        // Its forming candle is left out with the minutes that are ahead.
        let is_over = |candle: &Candle| {
            !recent.is_ahead || candle.start_ms + page.interval.length_ms() <= page.now_ms
        };
        let closed = candles.into_iter().map(|candle| match is_over(&candle) {
            true => (candle, Progress::Closed),
            false => (candle, Progress::Forming),
        });
        let all = closed.chain(forming.map(|forming| (forming, Progress::Forming)));
        let is_sample = self.is_sample();
        let messages = all.map(|(candle, progress)| v1::Candle {
            sample: is_sample,
            ..candle.to_proto(name, interval, progress)
        });
        let mut messages: Vec<_> = messages.collect();
        let surplus = messages.len().saturating_sub(page.limit);
        match since_ms {
            Some(_) => messages.truncate(page.limit),
            None => drop(messages.drain(..surplus)),
        }
        Ok(messages)
    }
}

impl Page {
    /// Reads days from `since_ms` on until the page is full.
    async fn forward(
        &self,
        store: &SharedStore,
        recent: &Recent,
        since_ms: i64,
    ) -> Result<Vec<Candle>, StoreError> {
        let since_ms = since_ms.max(self.oldest_ms);
        // The first candle that starts at this time or later.
        let before = self.interval.start_of(since_ms.saturating_sub(1));
        let first_ms = before
            .saturating_add(self.interval.length_ms())
            .max(self.oldest_ms);
        let mut day_ms = CandleInterval::Day.start_of(first_ms);
        let mut candles = Vec::new();
        while day_ms <= self.now_ms && candles.len() <= self.limit {
            let mut minutes = self.day(store, recent, day_ms).await?;
            minutes.retain(|minute| minute.start_ms >= first_ms);
            candles.extend(merge_minutes(&minutes, self.interval));
            day_ms += DAY_MS;
        }
        Ok(candles)
    }

    /// Reads days back from now until the page is full.
    async fn backward(
        &self,
        store: &SharedStore,
        recent: &Recent,
    ) -> Result<Vec<Candle>, StoreError> {
        let mut day_ms = CandleInterval::Day.start_of(self.now_ms);
        let mut days = Vec::new();
        let mut count = 0;
        while day_ms >= self.oldest_ms && count <= self.limit {
            let minutes = self.day(store, recent, day_ms).await?;
            let candles = merge_minutes(&minutes, self.interval);
            count += candles.len();
            days.push(candles);
            day_ms -= DAY_MS;
        }
        Ok(days.into_iter().rev().flatten().collect())
    }

    /// The closed minutes of a day, without those that are ahead of the clock.
    async fn day(
        &self,
        store: &SharedStore,
        recent: &Recent,
        day_ms: i64,
    ) -> Result<Vec<Candle>, StoreError> {
        let starts: Vec<i64> = (0..DAY_MS / HOUR_MS)
            .map(|hour| day_ms + hour * HOUR_MS)
            .collect();
        let name = recent.symbol.as_str();
        let keys = starts.iter().map(|start| (TABLE, hour_key(name, *start)));
        let records = store.get_many(keys.collect()).await?;
        let mut hours: BTreeMap<i64, Vec<Candle>> = BTreeMap::new();
        for (start, record) in starts.into_iter().zip(records) {
            let stored = || record.and_then(|record| codec::decode(&record, start));
            let minutes = recent.hours.get(&start).cloned().or_else(stored);
            hours.insert(start, minutes.unwrap_or_default());
        }
        // Saved since memory was read: it is in the forming candle.
        let last_ms = self.now_ms + MAX_AHEAD_MS;
        let end_ms = recent
            .forming_minute
            .map_or(last_ms + 1, |forming| forming.start_ms.min(last_ms + 1));
        let minutes = hours.into_values().flatten();
        Ok(minutes.filter(|minute| minute.start_ms < end_ms).collect())
    }
}
