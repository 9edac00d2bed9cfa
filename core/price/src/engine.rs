//! The price engine: connections, a clock, and the book that they drive.

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_proto::v1::{ConnectionState, MarketOverview, PriceUpdate, Source};
use tidewire_stream::{Publisher, SharedClock};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ConfigError, PriceConfig, Recording, RecordingError, RecordingWriter, Symbol, SymbolError,
    VenueKind, book::Book, config::SourceConfig, recording::RecordedSource, source::SourceTask,
    symbol::nearest,
};

/// How often time passes in the book.
const TICK: Duration = Duration::from_millis(100);

/// How many frames may wait for the recording's file.
const RECORDER_QUEUE: usize = 10_000;

/// Prices from many venues as one answer. Cheap to clone.
#[derive(Clone)]
pub struct PriceEngine {
    book: Arc<Mutex<Book>>,
    clock: SharedClock,
    watchdog: Duration,
}

impl std::fmt::Debug for PriceEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PriceEngine").finish_non_exhaustive()
    }
}

/// Why there is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// The text is no symbol.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
    /// The symbol is not configured.
    #[error("there is no symbol {name:?}{hint}")]
    UnknownSymbol {
        /// What was asked for.
        name: String,
        /// The nearest one that there is.
        hint: String,
    },
    /// The symbol has no such source.
    #[error("{symbol} has no source {name:?}, expected one of {expected}")]
    UnknownSource {
        /// The symbol.
        symbol: String,
        /// What was asked for.
        name: String,
        /// What there is.
        expected: String,
    },
}

/// How fast a recording is replayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReplaySpeed {
    /// So many times as fast as it was recorded.
    Times(f64),
    /// As fast as possible.
    Maximum,
}

impl PriceEngine {
    /// An engine that publishes through `publisher` and is not connected yet.
    ///
    /// # Errors
    /// Names the key of the configuration and what was expected.
    pub fn new(
        config: &PriceConfig,
        publisher: Arc<dyn Publisher>,
        clock: SharedClock,
    ) -> Result<Self, ConfigError> {
        let book = Arc::new(Mutex::new(Book::new(config, publisher)?));
        Ok(Self {
            book,
            clock,
            watchdog: Duration::from_millis(config.watchdog_ms),
        })
    }

    /// Connects to all sources and lets time pass, in `tasks`, until cancelled.
    pub fn connect(&self, tasks: &TaskTracker, cancel: &CancellationToken) {
        self.spawn_sources(tasks, cancel, None);
        tasks.spawn(self.clone().pass_time(cancel.clone()));
    }

    /// Writes all that the sources say to a file until cancelled.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn record(
        &self,
        path: &Path,
        cancel: CancellationToken,
    ) -> Result<u64, RecordingError> {
        let sources = {
            let book = self.book.lock();
            let sources = book.sources.iter().map(|record| RecordedSource {
                name: record.spec.name.clone(),
                kind: record.spec.kind.name().to_owned(),
            });
            sources.collect()
        };
        let mut writer = RecordingWriter::create(path, sources, false)?;
        let (recorder, mut lines) = mpsc::channel(RECORDER_QUEUE);
        let tasks = TaskTracker::new();
        self.spawn_sources(&tasks, &cancel, Some(&recorder));
        drop(recorder);
        tasks.close();
        let mut count = 0;
        let mut flush = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => {
                        writer.write(&line)?;
                        count += 1;
                    }
                    None => break,
                },
                _ = flush.tick() => writer.flush()?,
            }
        }
        tasks.wait().await;
        writer.finish()?;
        Ok(count)
    }

    fn spawn_sources(
        &self,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
        recorder: Option<&mpsc::Sender<crate::Line>>,
    ) {
        let book = self.book.lock();
        for (index, record) in book.sources.iter().enumerate() {
            let mut names: Vec<_> = record.names.keys().cloned().collect();
            names.sort_unstable();
            if names.is_empty() {
                tracing::warn!(
                    source = record.spec.name,
                    "no configured symbol is traded there"
                );
                continue;
            }
            let task = SourceTask {
                index,
                spec: record.spec.clone(),
                names,
                book: self.book.clone(),
                clock: self.clock.clone(),
                watchdog: self.watchdog,
                recorder: recorder.cloned(),
            };
            tasks.spawn(task.run(cancel.clone()));
        }
    }

    async fn pass_time(self, cancel: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tick(),
                () = cancel.cancelled() => return,
            }
        }
    }

    fn tick(&self) {
        let now_ms = self.clock.now_ms();
        self.book.lock().tick(now_ms);
    }

    /// A configuration with the sources of a recording.
    #[must_use]
    pub fn replay_config(mut config: PriceConfig, recording: &Recording) -> PriceConfig {
        let sources = recording.head().sources.iter().filter_map(|source| {
            Some(SourceConfig {
                kind: VenueKind::from_name(&source.kind)?,
                name: Some(source.name.clone()),
                url: None,
                clock: crate::SourceClock::Arrival,
            })
        });
        config.source = sources.collect();
        config
    }

    /// Plays a recording into the engine, which must have been made with
    /// [`replay_config`](Self::replay_config). Times are moved so that it begins
    /// now. Gives the number of frames.
    pub async fn replay(
        &self,
        recording: Recording,
        speed: ReplaySpeed,
        cancel: &CancellationToken,
    ) -> u64 {
        let (started, started_ms) = (Instant::now(), self.clock.now_ms());
        let mut begins_ms = None;
        let mut count = 0;
        {
            let mut book = self.book.lock();
            book.is_sample = recording.head().sample;
            for source in 0..book.sources.len() {
                book.connected(source);
                book.sources[source].set_state(ConnectionState::Live);
            }
        }
        for line in recording {
            let offset_ms = line
                .time_ms
                .saturating_sub(*begins_ms.get_or_insert(line.time_ms))
                .max(0);
            if let ReplaySpeed::Times(times) = speed {
                let offset =
                    Duration::from_millis(u64::try_from(offset_ms).unwrap_or(0)).div_f64(times);
                tokio::select! {
                    () = sleep_until(started + offset) => {}
                    () = cancel.cancelled() => return count,
                }
            }
            let arrival_ms = match speed {
                ReplaySpeed::Times(_) => self.clock.now_ms(),
                ReplaySpeed::Maximum => started_ms.saturating_add(offset_ms),
            };
            self.book
                .lock()
                .take_frame(line.source, &line.frame, arrival_ms);
            count += 1;
            if count % 1_000 == 0 {
                // Others want to run too.
                tokio::task::yield_now().await;
                if cancel.is_cancelled() {
                    return count;
                }
            }
        }
        count
    }

    /// Lets time pass in the book, in `tasks`, until cancelled: for replays.
    pub fn run_clock(&self, tasks: &TaskTracker, cancel: &CancellationToken) {
        tasks.spawn(self.clone().pass_time(cancel.clone()));
    }

    /// The price of a symbol, with how it came about.
    ///
    /// # Errors
    /// The text is no symbol, or none that is configured.
    pub fn get_price(&self, symbol: &str) -> Result<PriceUpdate, PriceError> {
        let book = self.book.lock();
        let parsed = Symbol::parse(symbol)?;
        let found = book
            .symbol(&parsed)
            .ok_or_else(|| unknown_symbol(&book, symbol))?;
        Ok(book.explain(found, self.clock.now_ms()))
    }

    /// The market at a glance.
    #[must_use]
    pub fn overview(&self) -> MarketOverview {
        let book = self.book.lock();
        book.overview.show(&book.symbols, self.clock.now_ms())
    }

    /// The sources and how they do.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        let book = self.book.lock();
        let now_ms = self.clock.now_ms();
        book.sources
            .iter()
            .map(|record| record.show(now_ms, book.is_sample))
            .collect()
    }

    /// The age of each symbol's newest data, in milliseconds.
    #[must_use]
    pub fn ages_ms(&self) -> Vec<(String, i64)> {
        let book = self.book.lock();
        let now_ms = self.clock.now_ms();
        let newest = book.symbols.iter().filter_map(|symbol| {
            let arrival = symbol
                .quotes
                .iter()
                .map(|quote| quote.arrival_ms)
                .max()
                .filter(|arrival| *arrival > 0)?;
            Some((
                symbol.spec.symbol.as_str().to_owned(),
                now_ms.saturating_sub(arrival),
            ))
        });
        newest.collect()
    }

    /// Judges the part of a `prices:` channel after the colon: `SYMBOL`, or
    /// `SYMBOL@SOURCE`.
    ///
    /// # Errors
    /// Names what there is no such thing of, and the nearest that there is.
    pub fn check_channel(&self, rest: &str) -> Result<(), PriceError> {
        let book = self.book.lock();
        let (symbol, source) = match rest.split_once('@') {
            Some((symbol, source)) => (symbol, Some(source)),
            None => (rest, None),
        };
        let parsed = Symbol::parse(symbol)?;
        let found = book
            .symbol(&parsed)
            .ok_or_else(|| unknown_symbol(&book, symbol))?;
        let Some(source) = source else { return Ok(()) };
        let names: Vec<_> = found
            .quotes
            .iter()
            .map(|quote| book.sources[quote.source].spec.name.as_str())
            .collect();
        if names.contains(&source) {
            return Ok(());
        }
        Err(PriceError::UnknownSource {
            symbol: symbol.to_owned(),
            name: source.to_owned(),
            expected: names.join(", "),
        })
    }
}

fn unknown_symbol(book: &Book, name: &str) -> PriceError {
    let known = book
        .symbols
        .iter()
        .map(|symbol| symbol.spec.symbol.as_str());
    let hint = nearest(name, known)
        .map(|near| format!(", did you mean {near}?"))
        .unwrap_or_default();
    PriceError::UnknownSymbol {
        name: name.to_owned(),
        hint,
    }
}
