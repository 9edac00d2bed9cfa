//! Price engine: the aggregator and the tasks that drive it.
//!
//! Live, each connection's task feeds the aggregator; in a replay, a recording does. One more task
//! ticks it. All tasks and queries share the aggregator under a lock that is held for microseconds,
//! and never across an await.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use rustls::ClientConfig;
use tidewire_proto::v1::{MarketOverview, PriceUpdate, Source};
use tidewire_stream::{Publisher, SharedClock, redacted_url};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ConfigError, PriceConfig, PriceError, RecordedFrame, Recording, RecordingError,
    RecordingWriter, SourceClock, VenueKind,
    aggregate::{Aggregator, ListenerId, PriceGap, PriceObservation, PriceTick, SourceId},
    clock::EngineTime,
    config::{SourceConfig, SourceSpec, SupplySpec},
    recording::{RecordedSource, Replay, ReplaySpeed, ReplayStart, sample_supplies},
    source::{FrameSink, SourceTask},
    supervisor::reason,
    supply::SupplyTask,
    tls::tls_config,
};

/// The time between two ticks of the aggregator.
const TICK: Duration = Duration::from_millis(100);

/// The shortest time between two logged faults of ticks.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Frames that may wait for the recording's file. When the queue is full, the venues wait.
const RECORDER_QUEUE: usize = 1_024;

/// How often a recording is flushed, so that a crash loses no more than this.
const RECORDER_FLUSH: Duration = Duration::from_secs(1);

/// Prices of many venues as one. Cheap to clone.
#[derive(Clone)]
pub struct PriceEngine {
    aggregator: Arc<Mutex<Aggregator>>,
    clock: SharedClock,
    time: EngineTime,
    watchdog: Duration,
    supply: Option<SupplySpec>,
    tls: Arc<ClientConfig>,
    /// The connections, once [`connect`](Self::connect) was called.
    live: Arc<Mutex<Option<LiveConnections>>>,
}

/// The connections of all sources.
struct LiveConnections {
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Ends the connections of one source.
    cancellations: HashMap<SourceId, CancellationToken>,
    /// Sources added by a call: a reload of the configuration leaves them.
    added: HashSet<String>,
}

impl std::fmt::Debug for PriceEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PriceEngine").finish_non_exhaustive()
    }
}

/// Ticks that a panic ended. Without them, no price would become stale any more.
#[derive(Default)]
struct TickFaults {
    logged_at: Option<Instant>,
}

impl TickFaults {
    /// Counts a tick that panicked, and logs one a minute at most. The next tick goes on.
    fn note(&mut self, tick: std::thread::Result<()>) {
        let Err(panic) = tick else { return };
        metrics::counter!("tidewire_price_tick_faults_total").increment(1);
        if self.logged_at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        self.logged_at = Some(Instant::now());
        tracing::error!(
            reason = reason(&*panic),
            "a fault of this server ended a tick of the prices; the next one goes on"
        );
    }
}

/// Calls a listener for published prices as long as it exists.
#[derive(Debug)]
#[must_use = "the listener ends when this is dropped"]
pub struct PriceListener {
    /// The engine may end first.
    aggregator: Weak<Mutex<Aggregator>>,
    id: ListenerId,
}

impl Drop for PriceListener {
    fn drop(&mut self) {
        let Some(aggregator) = self.aggregator.upgrade() else {
            return;
        };
        let removed = aggregator.lock().remove_listener(self.id);
        // Without the lock: it may have the last handle of something large.
        drop(removed);
    }
}

impl PriceEngine {
    /// An engine that publishes through `publisher` and is not connected yet.
    ///
    /// # Errors
    /// Names the configuration key and what was expected.
    pub fn new(
        config: &PriceConfig,
        publisher: Arc<dyn Publisher>,
        clock: SharedClock,
    ) -> Result<Self, ConfigError> {
        let aggregator = Aggregator::new(config, publisher)?;
        Ok(Self {
            aggregator: Arc::new(Mutex::new(aggregator)),
            time: EngineTime::new(clock.clone()),
            clock,
            watchdog: config.watchdog,
            supply: config.supply_spec()?,
            tls: tls_config(config.ca_file.as_deref())?,
            live: Arc::default(),
        })
    }

    /// Starts the connections to all sources, the supply source's task and the clock in `tasks`,
    /// until cancelled.
    pub fn connect(&self, tasks: &TaskTracker, cancel: &CancellationToken) {
        let cancellations = self.spawn_sources(tasks, cancel, None);
        *self.live.lock() = Some(LiveConnections {
            tasks: tasks.clone(),
            cancel: cancel.clone(),
            cancellations,
            added: HashSet::new(),
        });
        if let Some(spec) = self.supply.clone() {
            let task = SupplyTask {
                spec,
                tls: self.tls.clone(),
                aggregator: self.aggregator.clone(),
                clock: self.clock.clone(),
            };
            tasks.spawn(task.run(cancel.clone()));
        }
        self.run_clock(tasks, cancel);
    }

    /// Adds a source and connects to it.
    ///
    /// # Errors
    /// The source is invalid, or the engine plays a recording.
    pub fn add_source(&self, source: &SourceConfig) -> Result<Source, ConfigError> {
        let spec = source.spec()?;
        let mut live = self.live.lock();
        let live = live.as_mut().ok_or(ConfigError::NotConnected)?;
        let name = spec.name.clone();
        let id = self.connect_source(live, spec)?;
        live.added.insert(name);
        let added = self.aggregator.lock().show_source(id, self.now_us());
        tracing::info!(source = added.name, url = added.url, "source added");
        Ok(added)
    }

    /// Removes a source and closes its connections. Prices that only it provided become stale.
    ///
    /// # Errors
    /// There is no such source, or the engine plays a recording.
    pub fn remove_source(&self, name: &str) -> Result<(), ConfigError> {
        let mut live = self.live.lock();
        let live = live.as_mut().ok_or(ConfigError::NotConnected)?;
        self.disconnect_source(live, name)?;
        tracing::info!(source = name, "source removed");
        Ok(())
    }

    /// Applies the sources of a configuration that was read again. Sources that are not in it are
    /// removed, except those from [`add_source`](Self::add_source); changed ones reconnect. A
    /// faulty configuration changes nothing.
    ///
    /// # Errors
    /// Names the configuration key and what was expected.
    pub fn reload_sources(&self, config: &PriceConfig) -> Result<(), ConfigError> {
        let wanted = config.sources()?;
        let mut live = self.live.lock();
        let live = live.as_mut().ok_or(ConfigError::NotConnected)?;
        let now: Vec<SourceSpec> = {
            let aggregator = self.aggregator.lock();
            let ids = aggregator.source_ids();
            ids.map(|id| aggregator.spec(id).clone()).collect()
        };
        for spec in &now {
            if !wanted.contains(spec) && !live.added.contains(&spec.name) {
                self.disconnect_source(live, &spec.name)?;
                tracing::info!(source = spec.name, "source removed");
            }
        }
        for spec in wanted {
            let is_there = self.aggregator.lock().source(&spec.name).is_some();
            if !is_there {
                let url = redacted_url(&spec.url);
                tracing::info!(source = spec.name, url, "source added");
                self.connect_source(live, spec)?;
            }
        }
        Ok(())
    }

    fn connect_source(
        &self,
        live: &mut LiveConnections,
        spec: SourceSpec,
    ) -> Result<SourceId, ConfigError> {
        let mut aggregator = self.aggregator.lock();
        let id = aggregator.add_source(spec)?;
        let end = live.cancel.child_token();
        self.spawn_source(&aggregator, id, &live.tasks, &end, None);
        live.cancellations.insert(id, end);
        Ok(id)
    }

    fn disconnect_source(&self, live: &mut LiveConnections, name: &str) -> Result<(), ConfigError> {
        let id = self.aggregator.lock().remove_source(name, self.now_us())?;
        if let Some(end) = live.cancellations.remove(&id) {
            end.cancel();
        }
        live.added.remove(name);
        Ok(())
    }

    /// By how much the clock is ahead of the time by which ages are judged, in milliseconds.
    pub(crate) fn doubted_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        now_ms.saturating_sub(self.clock.retention_ms()).max(0)
    }

    /// Notes that there is a record of this time.
    pub(crate) fn witness(&self, stored_ms: i64) {
        self.clock.witness(stored_ms);
    }

    /// Ticks the aggregator, in `tasks`, until cancelled. [`connect`](Self::connect) includes this;
    /// a replay needs it separately.
    pub fn run_clock(&self, tasks: &TaskTracker, cancel: &CancellationToken) {
        let (engine, cancel) = (self.clone(), cancel.clone());
        tasks.spawn(async move {
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut faults = TickFaults::default();
            while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
                if !engine.time.is_playing() {
                    let tick = || engine.aggregator.lock().tick(engine.now_us());
                    faults.note(catch_unwind(AssertUnwindSafe(tick)));
                }
            }
        });
    }

    fn spawn_sources(
        &self,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
        recorder: Option<&mpsc::Sender<RecordedFrame>>,
    ) -> HashMap<SourceId, CancellationToken> {
        let aggregator = self.aggregator.lock();
        for symbol in aggregator.symbols_without_source() {
            tracing::warn!(%symbol, "no configured source trades this symbol, so it has no price");
        }
        let cancellations = aggregator.source_ids().map(|id| {
            let end = cancel.child_token();
            self.spawn_source(&aggregator, id, tasks, &end, recorder);
            (id, end)
        });
        cancellations.collect()
    }

    /// Starts as many connections as the source's symbols need.
    fn spawn_source(
        &self,
        aggregator: &Aggregator,
        id: SourceId,
        tasks: &TaskTracker,
        end: &CancellationToken,
        recorder: Option<&mpsc::Sender<RecordedFrame>>,
    ) {
        let spec = aggregator.spec(id);
        let links = aggregator.venue_names(id);
        if links.is_empty() {
            tracing::warn!(
                source = spec.name,
                "the source trades none of the configured symbols"
            );
        }
        let mut delay = Duration::ZERO;
        for (link, names) in links.into_iter().enumerate() {
            let sink = FrameSink::new(
                (id, link),
                spec.kind,
                self.aggregator.clone(),
                self.clock.clone(),
                recorder.cloned(),
            );
            let task = SourceTask {
                spec: spec.clone(),
                names,
                watchdog: self.watchdog,
                delay,
                tls: self.tls.clone(),
                sink,
            };
            delay += spec.kind.limits().connect_spacing;
            tasks.spawn(task.run(end.clone()));
        }
    }

    /// Connects to all sources and writes all frames to a file, until cancelled. Returns the number
    /// of frames.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn record(
        &self,
        mut writer: RecordingWriter,
        cancel: CancellationToken,
    ) -> Result<u64, RecordingError> {
        let (recorder, mut lines) = mpsc::channel(RECORDER_QUEUE);
        let tasks = TaskTracker::new();
        // Ends the sources with this function, also when it returns early.
        let halt = cancel.child_token();
        let _halt_at_the_end = halt.clone().drop_guard();
        self.spawn_sources(&tasks, &halt, Some(&recorder));
        drop(recorder);
        let mut count = 0;
        let mut flush = interval(RECORDER_FLUSH);
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
        writer.finish()?;
        Ok(count)
    }

    /// Creates a recording of the engine's sources, for [`record`](Self::record).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn recording(&self, path: &Path) -> Result<RecordingWriter, RecordingError> {
        RecordingWriter::create(path, self.recorded_sources())
    }

    fn recorded_sources(&self) -> Vec<RecordedSource> {
        let aggregator = self.aggregator.lock();
        let specs = aggregator.source_ids().map(|id| aggregator.spec(id));
        let sources = specs.map(|spec| RecordedSource {
            name: spec.name.clone(),
            kind: spec.kind.name().to_owned(),
        });
        sources.collect()
    }

    /// A configuration with the sources of a recording, with prices stamped by arrival. `ids` and
    /// `contracts` come from the configured source of the same name and kind.
    #[must_use]
    pub fn replay_config(mut config: PriceConfig, recording: &Recording) -> PriceConfig {
        let configured = std::mem::take(&mut config.source);
        let sources = recording.head().sources.iter().filter_map(|source| {
            let kind = VenueKind::from_name(&source.kind)?;
            let same = configured
                .iter()
                .find(|own| own.kind == kind && own.known_name() == source.name);
            Some(SourceConfig {
                name: Some(source.name.clone()),
                clock: SourceClock::Arrival,
                ..same.cloned().unwrap_or_else(|| SourceConfig::new(kind))
            })
        });
        config.source = sources.collect();
        let has_supplies = !config.supply.is_empty() || config.supply_source.is_some();
        if recording.head().sample && !has_supplies {
            config.supply = sample_supplies(&config.symbols);
        }
        config
    }

    /// Plays a recording into the engine, which must have been built with
    /// [`replay_config`](Self::replay_config). The same recording gives the same publications at
    /// any speed. With [`ReplayStart::Now`], times are moved so that it begins now. Returns the
    /// number of frames.
    pub async fn replay(
        &self,
        recording: Recording,
        speed: ReplaySpeed,
        start: ReplayStart,
        cancel: &CancellationToken,
    ) -> u64 {
        let mut played = 0;
        let end = |frames| {
            played = frames;
            None
        };
        self.replay_again(recording, speed, start, cancel, end)
            .await;
        played
    }

    /// Plays a recording like [`replay`](Self::replay). After each pass, `next` gets its number of
    /// frames and returns the same recording, opened again, or None at the end. Passes follow each
    /// other without a gap: times and trade numbers rise, so the rate of publications stays the
    /// same.
    pub async fn replay_again(
        &self,
        recording: Recording,
        speed: ReplaySpeed,
        start: ReplayStart,
        cancel: &CancellationToken,
        mut next: impl FnMut(u64) -> Option<Recording>,
    ) {
        let (aggregator, time) = (self.aggregator.clone(), self.time.clone());
        let mut replay = Replay::new(aggregator, time, &recording, (speed, start));
        self.time.set_playing(true);
        let mut pass = Some(recording);
        while let Some(recording) = pass {
            let mut count = 0;
            let playing = replay.play(recording, &mut count);
            let is_whole = cancel.run_until_cancelled(playing).await.is_some();
            pass = next(count).filter(|_| is_whole);
            if is_whole && pass.is_none() {
                replay.finish();
            }
            // A short recording at full speed leaves other tasks their turn.
            tokio::task::yield_now().await;
        }
        self.time.set_playing(false);
    }

    /// Calls `listener` with the last price of each `prices:{SYMBOL}`, then with each as it is
    /// published, until the returned value is dropped. The engine waits meanwhile: the listener must
    /// be quick, and must not call the engine.
    pub fn on_price(
        &self,
        listener: impl Fn(&PriceTick<'_>) + Send + Sync + 'static,
    ) -> PriceListener {
        let id = self.aggregator.lock().on_price(Box::new(listener));
        PriceListener {
            aggregator: Arc::downgrade(&self.aggregator),
            id,
        }
    }

    /// Calls `observer` with each computed price of a symbol. The rules of
    /// [`on_price`](Self::on_price) apply.
    pub(crate) fn on_observation(
        &self,
        observer: impl Fn(&PriceObservation<'_>) + Send + Sync + 'static,
    ) {
        self.aggregator.lock().on_observation(Box::new(observer));
    }

    /// Calls `listener` with each gap in the numbers of a venue's trades. The rules of
    /// [`on_price`](Self::on_price) apply.
    pub fn on_gap(&self, listener: impl Fn(&PriceGap<'_>) + Send + Sync + 'static) {
        self.aggregator.lock().on_gap(Box::new(listener));
    }

    /// The price of a symbol, with its method and the detail of each source.
    ///
    /// # Errors
    /// The text is no symbol, or the symbol is not configured.
    pub fn get_price(&self, symbol: &str) -> Result<PriceUpdate, PriceError> {
        self.aggregator.lock().price(symbol, self.now_us())
    }

    /// The market overview.
    #[must_use]
    pub fn overview(&self) -> MarketOverview {
        self.aggregator.lock().overview(self.now_us())
    }

    /// The status of each source.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        self.aggregator.lock().sources(self.now_us())
    }

    /// The configured symbols.
    #[must_use]
    pub fn symbols(&self) -> Vec<String> {
        self.aggregator.lock().symbol_names()
    }

    /// The age of each symbol's newest data, in milliseconds.
    #[must_use]
    pub fn ages_ms(&self) -> Vec<(String, i64)> {
        self.aggregator.lock().ages_ms(self.now_us())
    }

    /// The symbols without any data so far, each with the silence after which a source is stale.
    #[must_use]
    pub fn unheard(&self) -> Vec<(String, Duration)> {
        self.aggregator.lock().unheard()
    }

    /// Checks the part of a `prices:` channel after the colon: `SYMBOL`, or `SYMBOL@SOURCE`.
    ///
    /// # Errors
    /// Names the unknown symbol or source, and the nearest known one.
    pub fn check_channel(&self, rest: &str) -> Result<(), PriceError> {
        self.aggregator.lock().check_channel(rest)
    }

    /// The engine's time: the clock's, or that of a recording.
    pub(crate) fn now_us(&self) -> i64 {
        self.time.now_us()
    }
}
