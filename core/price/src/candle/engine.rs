//! Candles of all symbols: formed from the engine's ticks, published, saved and read.
//!
//! A record of the store holds the minutes of one symbol and one hour. The hour's record is written
//! again each time that a minute closes. The forming minute has a record of its own, written once a
//! second while it changes. A crash therefore loses the ticks of the last second.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_proto::v1::server_message::Data;
use tidewire_store::{Batch, SharedStore, StoreError, Table};
use tidewire_stream::{ChannelName, Publisher};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    Candle, CandleInterval, CandleTick, DAY_MS, HOUR_MS, MINUTE_MS, Progress,
    chart::{Chart, TickOutcome},
    codec,
};
use crate::{
    PriceEngine, PriceError, Symbol, aggregate::PriceObservation, error::unknown_symbol,
    supervisor::restart_on_panic,
};

/// Time between two publications of a forming candle.
const PUBLISH: Duration = Duration::from_millis(250);

/// Publications between two writes: a crash loses about a second.
const PUBLICATIONS_A_WRITE: u32 = 4;

/// Whole days for which minutes are kept, beside the present one.
pub(crate) const DAYS: i64 = 30;

/// How far a minute may be ahead of the clock, which may be set back a little. One that is further
/// ahead was formed by a clock that was wrong, and stands in the way of those of the right one.
pub(super) const MAX_AHEAD_MS: i64 = MINUTE_MS;

/// Hours of a symbol that wait for a store that fails. Beyond, the oldest are lost.
const MAX_UNSAVED_HOURS: usize = 24;

/// The same of a recording, whose days may pass within a second: those of all days that are kept.
const MAX_RECORDED_HOURS: usize = 31 * 24;

pub(super) const TABLE: Table = Table("candles");

/// First byte of the keys of forming minutes. The symbol follows.
const FORMING: u8 = 0;

/// First byte of the keys of hours. The symbol, a zero, and the hour since the Unix epoch follow.
const HOUR: u8 = 1;

/// Why candles cannot be returned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CandlesError {
    /// There is no such symbol.
    #[error(transparent)]
    Symbol(#[from] PriceError),
    /// There is no such interval.
    #[error("`interval` is {0:?}, expected one of 1m, 5m, 1h, 1d")]
    Interval(String),
    /// The page is too large.
    #[error("`limit` is {0}, expected 1 to {max}", max = super::reading::MAX_LIMIT)]
    Limit(u32),
    /// The store cannot be read.
    #[error("candles cannot be read: {0}")]
    Store(#[from] StoreError),
}

/// The key of an hour's record.
pub(super) fn hour_key(symbol: &str, hour_ms: i64) -> Vec<u8> {
    let hour = u32::try_from(hour_ms.div_euclid(HOUR_MS)).unwrap_or(0);
    let mut key = vec![HOUR];
    key.extend_from_slice(symbol.as_bytes());
    key.push(0);
    key.extend_from_slice(&hour.to_be_bytes());
    key
}

fn forming_key(symbol: &str) -> Vec<u8> {
    [&[FORMING], symbol.as_bytes()].concat()
}

/// The minutes of one hour.
#[derive(Debug, Default)]
struct HourState {
    minutes: Vec<Candle>,
    /// How many of them the store has.
    saved: usize,
}

/// The candles of one symbol.
struct Series {
    symbol: Symbol,
    channels: [ChannelName; 4],
    chart: Chart,
    /// The newest hour, and those that are not saved.
    hours: BTreeMap<i64, HourState>,
    /// The forming minute as it was saved.
    saved_forming: Option<Candle>,
}

impl Series {
    /// Takes the closed minutes of the chart. Up to `most` hours wait to be saved.
    fn collect_minutes(&mut self, most: usize) {
        for minute in self.chart.take_minutes() {
            let hour_ms = CandleInterval::Hour.start_of(minute.start_ms);
            self.hours.entry(hour_ms).or_default().minutes.push(minute);
        }
        while self.hours.len() > most {
            self.hours.pop_first();
        }
    }
}

/// The part of a write that belongs to one series.
struct Written {
    series: usize,
    hours: Vec<(i64, usize)>,
    forming: Option<Candle>,
}

/// The candles of all symbols. Cheap to clone.
#[derive(Clone)]
pub struct Candles(Arc<Inner>);

struct Inner {
    series: Mutex<Vec<Series>>,
    by_symbol: HashMap<Symbol, usize>,
    prices: PriceEngine,
    store: SharedStore,
    publisher: Arc<dyn Publisher>,
    /// Whether the prices are made up.
    is_sample: AtomicBool,
    /// Whether the prices are of a recording, of which days may pass between two writes.
    is_recording: AtomicBool,
}

impl Inner {
    /// Hours of a symbol that wait for the store.
    fn most_unsaved(&self) -> usize {
        match self.is_recording.load(Ordering::Relaxed) {
            true => MAX_RECORDED_HOURS,
            false => MAX_UNSAVED_HOURS,
        }
    }
}

/// The result of loading a symbol.
struct Loaded {
    /// The newest minute.
    newest_ms: i64,
    /// The removals of minutes that are ahead of the clock.
    ahead: Batch,
}

impl std::fmt::Debug for Candles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candles").finish_non_exhaustive()
    }
}

/// Candles of a symbol in memory: saved hours may be missing, and all others are whole.
pub(super) struct Recent {
    pub(super) symbol: Symbol,
    pub(super) hours: BTreeMap<i64, Vec<Candle>>,
    pub(super) forming_minute: Option<Candle>,
    pub(super) forming: Option<Candle>,
    /// Whether the clock was set back, and the minutes that are ahead of it are not yet removed.
    /// They are left out here, and with them the forming candles, which may hold some.
    pub(super) is_ahead: bool,
}

impl Candles {
    /// The candles of the engine's symbols, kept in this store. Call [`load`](Self::load) before
    /// prices come.
    #[must_use]
    pub fn new(prices: &PriceEngine, publisher: Arc<dyn Publisher>, store: SharedStore) -> Self {
        let mut all = Vec::new();
        let mut by_symbol = HashMap::new();
        for name in prices.symbols() {
            let channel = |interval: CandleInterval| {
                ChannelName::parse(&format!("candles:{name}:{}", interval.name()))
            };
            let [one, five, hour, day] = CandleInterval::ALL.map(channel);
            // The names of symbols are parts of channels already.
            let (Ok(symbol), Ok(one), Ok(five), Ok(hour), Ok(day)) =
                (Symbol::parse(&name), one, five, hour, day)
            else {
                continue;
            };
            by_symbol.insert(symbol.clone(), all.len());
            all.push(Series {
                symbol,
                channels: [one, five, hour, day],
                chart: Chart::default(),
                hours: BTreeMap::new(),
                saved_forming: None,
            });
        }
        let candles = Self(Arc::new(Inner {
            series: Mutex::new(all),
            by_symbol,
            prices: prices.clone(),
            store,
            publisher,
            is_sample: AtomicBool::new(false),
            is_recording: AtomicBool::new(false),
        }));
        // The engine keeps its listeners, and the candles keep the engine.
        let listener = Arc::downgrade(&candles.0);
        prices.on_observation(move |tick| {
            if let Some(inner) = listener.upgrade() {
                Self(inner).add(tick);
            }
        });
        candles
    }

    /// Keeps what a recording brings until it is saved, up to all days that are kept.
    pub fn keep_recording(&self) {
        self.0.is_recording.store(true, Ordering::Relaxed);
    }

    /// Labels all candles as sample data.
    pub fn label_as_sample(&self) {
        self.0.is_sample.store(true, Ordering::Relaxed);
    }

    /// The label of all candles.
    pub(super) fn is_sample(&self) -> bool {
        self.0.is_sample.load(Ordering::Relaxed)
    }

    /// Counts a computed price.
    pub(super) fn add(&self, tick: &PriceObservation<'_>) {
        let Some(index) = self.0.by_symbol.get(tick.symbol) else {
            return;
        };
        let candle_tick = CandleTick {
            price: tick.price,
            // Times of prices do not go back with a clock that was set back.
            formed_ms: tick.formed_us.div_euclid(1_000).min(self.now_ms()),
            traded: tick.traded,
            sources: tick.sources,
        };
        let outcome = self.0.series.lock()[*index].chart.add(&candle_tick);
        if outcome == TickOutcome::Late {
            metrics::counter!("tidewire_candle_late_ticks_total").increment(1);
        }
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.0.prices.now_us().div_euclid(1_000)
    }

    /// Loads the present day of each symbol. Removes minutes that are ahead of the clock.
    ///
    /// # Errors
    /// The store cannot be read, or such minutes cannot be removed.
    pub async fn load(&self) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let symbols: Vec<Symbol> = {
            let series = self.0.series.lock();
            series.iter().map(|series| series.symbol.clone()).collect()
        };
        let mut newest_ms = 0;
        let mut ahead: Vec<&str> = Vec::new();
        for (index, symbol) in symbols.iter().enumerate() {
            let loaded = self.load_symbol(index, symbol, now_ms).await?;
            newest_ms = newest_ms.max(loaded.newest_ms);
            if !loaded.ahead.is_empty() {
                self.0.store.commit(loaded.ahead).await?;
                ahead.push(symbol.as_str());
            }
        }
        if !ahead.is_empty() {
            let symbols = ahead.len();
            tracing::warn!(
                symbols,
                first = ahead[0],
                "candles that were ahead of the clock are removed: the clock was set back, or was wrong when they were formed"
            );
        }
        if newest_ms > 0 {
            self.0.prices.witness(newest_ms);
        }
        Ok(())
    }

    async fn load_symbol(
        &self,
        index: usize,
        symbol: &Symbol,
        now_ms: i64,
    ) -> Result<Loaded, StoreError> {
        let name = symbol.as_str();
        let is_ahead = |minute: &Candle| minute.start_ms > now_ms + MAX_AHEAD_MS;
        let mut ahead = Batch::new();
        let forming = self.0.store.get(TABLE, forming_key(name)).await?;
        let mut forming = forming.as_deref().and_then(decode_forming);
        if forming.take_if(|forming| is_ahead(forming)).is_some() {
            ahead.delete(TABLE, forming_key(name));
        }
        let last_ms = i64::from(u32::MAX) * HOUR_MS;
        let present_ms = CandleInterval::Hour.start_of(now_ms + MAX_AHEAD_MS);
        let newest_of_all = self.newest_hour(name, last_ms).await?;
        let mut newest = match newest_of_all {
            Some((hour_ms, _)) if hour_ms > present_ms => {
                let after = hour_key(name, present_ms + HOUR_MS);
                ahead.delete_range(TABLE, after, hour_key(name, last_ms));
                self.newest_hour(name, present_ms).await?
            }
            newest => newest,
        };
        if let Some((hour_ms, minutes)) = &mut newest
            && minutes.iter().any(is_ahead)
        {
            minutes.retain(|minute| !is_ahead(minute));
            let key = hour_key(name, *hour_ms);
            match minutes.is_empty() {
                true => ahead.delete(TABLE, key),
                false => ahead.put(TABLE, key, codec::encode(minutes)),
            }
        }
        let newest = newest.filter(|(_, minutes)| !minutes.is_empty());
        let closed_until_ms = newest.as_ref().and_then(|(_, minutes)| minutes.last());
        let closed_until_ms = closed_until_ms.map_or(0, |last| last.start_ms + MINUTE_MS);
        let day_ms = CandleInterval::Day.start_of(now_ms);
        let starts: Vec<i64> = (0..DAY_MS / HOUR_MS)
            .map(|hour| day_ms + hour * HOUR_MS)
            .collect();
        let keys = starts.iter().map(|start| (TABLE, hour_key(name, *start)));
        let records = self.0.store.get_many(keys.collect()).await?;
        let mut today = Vec::new();
        for (start, record) in starts.into_iter().zip(records) {
            let minutes = record.and_then(|record| codec::decode(&record, start));
            today.extend(minutes.into_iter().flatten());
        }
        today.retain(|minute| !is_ahead(minute));
        // A part of its hour already: the server was killed before it removed the record.
        let forming = forming.filter(|forming| forming.start_ms >= closed_until_ms);
        let mut all = self.0.series.lock();
        let series = &mut all[index];
        series.chart = Chart::restore(&today, forming, closed_until_ms, now_ms);
        // A minute may still be added to it.
        series.hours = newest
            .map(|(hour_ms, minutes)| {
                let saved = minutes.len();
                (hour_ms, HourState { minutes, saved })
            })
            .into_iter()
            .collect();
        series.saved_forming = forming;
        series.collect_minutes(self.0.most_unsaved());
        let forming_ms = forming.map_or(0, |forming| forming.start_ms);
        Ok(Loaded {
            newest_ms: forming_ms.max(closed_until_ms),
            ahead,
        })
    }

    /// The newest stored hour of a symbol that is not later than this one.
    async fn newest_hour(
        &self,
        symbol: &str,
        until_ms: i64,
    ) -> Result<Option<(i64, Vec<Candle>)>, StoreError> {
        let last = hour_key(symbol, until_ms);
        let found = self.0.store.get_floor(TABLE, vec![last.clone()]).await?;
        let prefix = &last[..last.len() - 4];
        let newest = found
            .into_iter()
            .flatten()
            .next()
            .and_then(|(key, record)| {
                let hour = key.strip_prefix(prefix)?.try_into().ok()?;
                let hour_ms = i64::from(u32::from_be_bytes(hour)) * HOUR_MS;
                Some((hour_ms, codec::decode(&record, hour_ms)?))
            });
        Ok(newest)
    }

    /// Whether a chart is so far ahead of the clock that the prices of now are late.
    pub(super) fn is_ahead_of_clock(&self) -> bool {
        let now_ms = self.now_ms();
        let all = self.0.series.lock();
        all.iter()
            .any(|series| series.chart.is_ahead(now_ms, MAX_AHEAD_MS))
    }

    /// Goes on at the time to which the clock was set back.
    pub(super) async fn go_back(&self) -> Result<(), StoreError> {
        // What is not ahead is kept.
        self.save().await?;
        self.load().await
    }

    /// The first day that is kept.
    pub(super) fn oldest_ms(&self) -> i64 {
        let now_ms = self.now_ms() - self.0.prices.doubted_ms();
        CandleInterval::Day.start_of(now_ms) - DAYS * DAY_MS
    }

    /// Publishes and saves until cancelled, and then saves once more.
    pub async fn run(self, cancel: CancellationToken) {
        restart_on_panic("candles", || self.publish_and_save(&cancel), |_| {}).await;
    }

    async fn publish_and_save(&self, cancel: &CancellationToken) {
        let mut ticks = interval(PUBLISH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pruned_hour = 0;
        let mut count = 0_u32;
        let mut failure: Option<StoreError> = None;
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            let mut result = match self.is_ahead_of_clock() {
                true => self.go_back().await,
                false => Ok(()),
            };
            self.publish();
            count = count.wrapping_add(1);
            if !count.is_multiple_of(PUBLICATIONS_A_WRITE) {
                continue;
            }
            let hour = self.now_ms().div_euclid(HOUR_MS);
            if result.is_ok() {
                result = self.save().await;
            }
            if result.is_ok() && pruned_hour != hour {
                result = self.prune().await;
                pruned_hour = hour;
            }
            match result {
                Ok(()) if failure.take().is_some() => tracing::info!("candles are saved again"),
                Ok(()) => {}
                Err(error) => {
                    if failure.as_ref() != Some(&error) {
                        tracing::error!(%error, "candles cannot be saved");
                    }
                    failure = Some(error);
                }
            }
        }
        if let Err(error) = self.save().await {
            tracing::error!(%error, "the last candles are not saved");
        }
    }

    /// Closes what is over, and publishes what changed.
    pub(crate) fn publish(&self) {
        let (now_ms, is_sample) = (self.now_ms(), self.is_sample());
        let mut messages = Vec::new();
        for series in self.0.series.lock().iter_mut() {
            series.chart.close_due(now_ms);
            let symbol = series.symbol.as_str();
            for (interval, channel) in CandleInterval::ALL.into_iter().zip(&series.channels) {
                let (closed, forming) = series.chart.take_changes(interval);
                let closed = closed.map(|candle| (candle, Progress::Closed));
                let forming = forming.map(|candle| (candle, Progress::Forming));
                messages.extend(closed.into_iter().chain(forming).map(|(candle, progress)| {
                    let mut message = candle.to_proto(symbol, interval, progress);
                    message.sample = is_sample;
                    (channel.clone(), message)
                }));
            }
        }
        for (channel, candle) in messages {
            self.0.publisher.publish(&channel, Data::Candle(candle));
        }
    }

    /// Saves what the store does not have.
    ///
    /// # Errors
    /// The store cannot be written. The next call tries again.
    pub(crate) async fn save(&self) -> Result<(), StoreError> {
        let (batch, written) = self.unsaved();
        if batch.is_empty() {
            return Ok(());
        }
        self.0.store.commit(batch).await?;
        metrics::counter!("tidewire_candle_saves_total").increment(1);
        let mut all = self.0.series.lock();
        for Written {
            series,
            hours,
            forming,
        } in written
        {
            let series = &mut all[series];
            series.saved_forming = forming;
            for (hour_ms, saved) in hours {
                if let Some(hour) = series.hours.get_mut(&hour_ms) {
                    hour.saved = saved;
                }
            }
            let newest = series.hours.keys().next_back().copied();
            let is_kept = |hour_ms: &i64, hour: &mut HourState| {
                Some(*hour_ms) == newest || hour.saved < hour.minutes.len()
            };
            series.hours.retain(is_kept);
        }
        Ok(())
    }

    fn unsaved(&self) -> (Batch, Vec<Written>) {
        let mut batch = Batch::new();
        let mut written = Vec::new();
        for (index, series) in self.0.series.lock().iter_mut().enumerate() {
            series.collect_minutes(self.0.most_unsaved());
            let name = series.symbol.as_str();
            let mut hours = Vec::new();
            for (hour_ms, hour) in &series.hours {
                if hour.saved < hour.minutes.len() {
                    batch.put(
                        TABLE,
                        hour_key(name, *hour_ms),
                        codec::encode(&hour.minutes),
                    );
                    hours.push((*hour_ms, hour.minutes.len()));
                }
            }
            let forming = series.chart.forming(CandleInterval::Minute);
            let is_changed = forming != series.saved_forming;
            match forming.filter(|_| is_changed) {
                Some(forming) => batch.put(TABLE, forming_key(name), encode_forming(&forming)),
                None if is_changed => batch.delete(TABLE, forming_key(name)),
                None => {}
            }
            if is_changed || !hours.is_empty() {
                written.push(Written {
                    series: index,
                    hours,
                    forming,
                });
            }
        }
        (batch, written)
    }

    /// Removes the days that are over, also of symbols that are not configured any more.
    pub(super) async fn prune(&self) -> Result<(), StoreError> {
        let oldest_ms = self.oldest_ms();
        let mut batch = Batch::new();
        let mut after = None;
        loop {
            let next = self.0.store.scan(TABLE, vec![HOUR], after, 1).await?;
            let Some((key, _)) = next.first() else { break };
            // A zero and the four bytes of the hour follow the symbol.
            let symbol = key.get(1..key.len().saturating_sub(5));
            let Some(symbol) = symbol.and_then(|symbol| std::str::from_utf8(symbol).ok()) else {
                break;
            };
            batch.delete_range(TABLE, hour_key(symbol, 0), hour_key(symbol, oldest_ms));
            after = Some(hour_key(symbol, i64::from(u32::MAX) * HOUR_MS));
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.0.store.commit(batch).await
    }

    fn index(&self, symbol: &str) -> Result<usize, PriceError> {
        let known = || self.0.by_symbol.keys().map(Symbol::as_str);
        let index = self.0.by_symbol.get(&Symbol::parse(symbol)?);
        index
            .copied()
            .ok_or_else(|| unknown_symbol(symbol, known()))
    }

    /// The candles of memory, and the store.
    pub(super) fn recent(
        &self,
        symbol: &str,
        interval: CandleInterval,
    ) -> Result<(Recent, SharedStore, i64), PriceError> {
        let index = self.index(symbol)?;
        let now_ms = self.now_ms();
        let mut all = self.0.series.lock();
        let series = &mut all[index];
        series.chart.close_due(now_ms);
        series.collect_minutes(self.0.most_unsaved());
        let is_ahead = series.chart.is_ahead(now_ms, MAX_AHEAD_MS);
        let forming = |interval| series.chart.forming(interval).filter(|_| !is_ahead);
        let hours = series.hours.iter();
        let recent = Recent {
            symbol: series.symbol.clone(),
            hours: hours
                .map(|(start, hour)| (*start, hour.minutes.clone()))
                .collect(),
            forming_minute: forming(CandleInterval::Minute),
            forming: forming(interval),
            is_ahead,
        };
        Ok((recent, self.0.store.clone(), now_ms))
    }

    /// Checks the part of a `candles:` channel after the colon: `SYMBOL:INTERVAL`.
    ///
    /// # Errors
    /// Names the unknown symbol or interval, and what was expected.
    pub(crate) fn check_channel(&self, rest: &str) -> Result<(), CandlesError> {
        let (symbol, interval) = rest.split_once(':').unwrap_or((rest, ""));
        self.index(symbol)?;
        match CandleInterval::from_name(interval) {
            Some(_) => Ok(()),
            None => Err(CandlesError::Interval(interval.to_owned())),
        }
    }
}

/// The record of a forming minute: its hour, and the minute.
fn encode_forming(minute: &Candle) -> Vec<u8> {
    let hour_ms = CandleInterval::Hour.start_of(minute.start_ms);
    let mut bytes = hour_ms.to_be_bytes().to_vec();
    bytes.extend(codec::encode(std::slice::from_ref(minute)));
    bytes
}

fn decode_forming(bytes: &[u8]) -> Option<Candle> {
    let (hour_ms, minute) = bytes.split_first_chunk()?;
    let minutes = codec::decode(minute, i64::from_be_bytes(*hour_ms))?;
    minutes.first().copied()
}
