//! The price engine: the aggregator, and what drives it.
//!
//! Live, each source's task feeds it; in a replay, a recording does. A task lets
//! time pass. All of them, and those who ask, share the aggregator under a lock that
//! is held for microseconds and never across a wait.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::ClientConfig;
use tidewire_proto::v1::{MarketOverview, PriceUpdate, Source};
use tidewire_stream::{Publisher, SharedClock};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ConfigError, Line, PriceConfig, PriceError, Recording, RecordingError, RecordingWriter,
    SourceClock, VenueKind,
    aggregate::{Aggregator, PriceGap, PriceTick, SourceId},
    clock::EngineTime,
    config::{SourceConfig, SourceSpec, SupplySpec},
    recording::RecordedSource,
    replay::{Replay, ReplaySpeed, ReplayStart},
    source::{Feed, SourceTask, tls_config},
    supply::SupplyTask,
};

/// How often time passes in the aggregator.
const TICK: Duration = Duration::from_millis(100);

/// How many frames may wait for the recording's file. When they are, the venues wait.
const RECORDER_QUEUE: usize = 1_024;

/// How often a recording is made readable up to here.
const RECORDER_FLUSH: Duration = Duration::from_secs(1);

/// Prices from many venues as one answer. Cheap to clone.
#[derive(Clone)]
pub struct PriceEngine {
    aggregator: Arc<Mutex<Aggregator>>,
    clock: SharedClock,
    time: EngineTime,
    watchdog: Duration,
    supply: Option<SupplySpec>,
    tls: Arc<ClientConfig>,
    /// The connections, once they are asked for.
    fleet: Arc<Mutex<Option<Fleet>>>,
}

/// What keeps the connections of all sources.
struct Fleet {
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Ends those of one source.
    ends: HashMap<SourceId, CancellationToken>,
    /// Sources that were added since the start: a changed configuration leaves them.
    added: HashSet<String>,
}

impl std::fmt::Debug for PriceEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PriceEngine").finish_non_exhaustive()
    }
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
        let aggregator = Aggregator::new(config, publisher)?;
        Ok(Self {
            aggregator: Arc::new(Mutex::new(aggregator)),
            time: EngineTime::new(clock.clone()),
            clock,
            watchdog: config.watchdog,
            supply: config.supply_spec()?,
            tls: tls_config(config.ca_file.as_deref())?,
            fleet: Arc::default(),
        })
    }

    /// Connects to all sources, asks for supplies and lets time pass, in `tasks`, until cancelled.
    pub fn connect(&self, tasks: &TaskTracker, cancel: &CancellationToken) {
        let ends = self.spawn_sources(tasks, cancel, None);
        *self.fleet.lock() = Some(Fleet {
            tasks: tasks.clone(),
            cancel: cancel.clone(),
            ends,
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
    /// Says what is wrong with it, or that the engine plays a recording.
    pub fn add_source(&self, source: &SourceConfig) -> Result<Source, ConfigError> {
        let spec = source.spec()?;
        let mut fleet = self.fleet.lock();
        let fleet = fleet.as_mut().ok_or(ConfigError::NotConnected)?;
        let name = spec.name.clone();
        let id = self.join(fleet, spec)?;
        fleet.added.insert(name);
        let added = self.aggregator.lock().show_source(id, self.now_us());
        tracing::info!(source = added.name, url = added.url, "source added");
        Ok(added)
    }

    /// Removes a source and leaves its venue. What only it told grows stale.
    ///
    /// # Errors
    /// There is no such source, or the engine plays a recording.
    pub fn remove_source(&self, name: &str) -> Result<(), ConfigError> {
        let mut fleet = self.fleet.lock();
        let fleet = fleet.as_mut().ok_or(ConfigError::NotConnected)?;
        self.leave(fleet, name)?;
        tracing::info!(source = name, "source removed");
        Ok(())
    }

    /// Has the sources be those of a configuration that was read again: others are
    /// removed, except those that [`add_source`](Self::add_source) added, and changed
    /// ones are connected to anew. Nothing is changed if it has a fault.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn reload_sources(&self, config: &PriceConfig) -> Result<(), ConfigError> {
        let wanted = config.sources()?;
        let mut fleet = self.fleet.lock();
        let fleet = fleet.as_mut().ok_or(ConfigError::NotConnected)?;
        let now: Vec<SourceSpec> = {
            let aggregator = self.aggregator.lock();
            let ids = aggregator.source_ids();
            ids.map(|id| aggregator.spec(id).clone()).collect()
        };
        for spec in &now {
            if !wanted.contains(spec) && !fleet.added.contains(&spec.name) {
                self.leave(fleet, &spec.name)?;
                tracing::info!(source = spec.name, "source removed");
            }
        }
        for spec in wanted {
            let is_there = self.aggregator.lock().source(&spec.name).is_some();
            if !is_there {
                tracing::info!(source = spec.name, url = spec.url, "source added");
                self.join(fleet, spec)?;
            }
        }
        Ok(())
    }

    fn join(&self, fleet: &mut Fleet, spec: SourceSpec) -> Result<SourceId, ConfigError> {
        let mut aggregator = self.aggregator.lock();
        let id = aggregator.add_source(spec)?;
        let end = fleet.cancel.child_token();
        self.spawn_source(&aggregator, id, &fleet.tasks, &end, None);
        fleet.ends.insert(id, end);
        Ok(id)
    }

    fn leave(&self, fleet: &mut Fleet, name: &str) -> Result<(), ConfigError> {
        let id = self.aggregator.lock().remove_source(name, self.now_us())?;
        if let Some(end) = fleet.ends.remove(&id) {
            end.cancel();
        }
        fleet.added.remove(name);
        Ok(())
    }

    /// Lets time pass, in `tasks`, until cancelled. [`connect`](Self::connect) does
    /// so too; a replay needs it besides.
    pub fn run_clock(&self, tasks: &TaskTracker, cancel: &CancellationToken) {
        let (engine, cancel) = (self.clone(), cancel.clone());
        tasks.spawn(async move {
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
                if !engine.time.is_playing() {
                    engine.aggregator.lock().tick(engine.now_us());
                }
            }
        });
    }

    fn spawn_sources(
        &self,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
        recorder: Option<&mpsc::Sender<Line>>,
    ) -> HashMap<SourceId, CancellationToken> {
        let aggregator = self.aggregator.lock();
        for symbol in aggregator.unserved() {
            tracing::warn!(%symbol, "no configured source trades this symbol: it has no price");
        }
        let ends = aggregator.source_ids().map(|id| {
            let end = cancel.child_token();
            self.spawn_source(&aggregator, id, tasks, &end, recorder);
            (id, end)
        });
        ends.collect()
    }

    /// Connects to a source, by as many connections as its symbols take.
    fn spawn_source(
        &self,
        aggregator: &Aggregator,
        id: SourceId,
        tasks: &TaskTracker,
        end: &CancellationToken,
        recorder: Option<&mpsc::Sender<Line>>,
    ) {
        let spec = aggregator.spec(id);
        let links = aggregator.venue_names(id);
        if links.is_empty() {
            tracing::warn!(source = spec.name, "no configured symbol is traded there");
        }
        let mut delay = Duration::ZERO;
        for (link, names) in links.into_iter().enumerate() {
            let feed = Feed::new(
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
                feed,
            };
            delay += spec.kind.limits().connect_spacing;
            tasks.spawn(task.run(end.clone()));
        }
    }

    /// Connects to all sources and writes all that they say to a file, until
    /// cancelled. Gives the number of frames.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn record(
        &self,
        path: &Path,
        cancel: CancellationToken,
    ) -> Result<u64, RecordingError> {
        let sources = self.recorded_sources();
        let mut writer = RecordingWriter::create(path, sources)?;
        let (recorder, mut lines) = mpsc::channel(RECORDER_QUEUE);
        let tasks = TaskTracker::new();
        // Ends the sources with this function, however it ends.
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

    fn recorded_sources(&self) -> Vec<RecordedSource> {
        let aggregator = self.aggregator.lock();
        let specs = aggregator.source_ids().map(|id| aggregator.spec(id));
        let sources = specs.map(|spec| RecordedSource {
            name: spec.name.clone(),
            kind: spec.kind.name().to_owned(),
        });
        sources.collect()
    }

    /// A configuration with the sources of a recording, stamped by arrival. What the venue
    /// names its markets, and what its contracts are worth, is as for the source of this name
    /// and kind.
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
        config
    }

    /// Plays a recording into the engine, which must have been made with
    /// [`replay_config`](Self::replay_config). The same recording gives the same
    /// publications, at any speed; their times are moved so that it begins now, if
    /// `start` says so. Gives the number of frames.
    pub async fn replay(
        &self,
        recording: Recording,
        speed: ReplaySpeed,
        start: ReplayStart,
        cancel: &CancellationToken,
    ) -> u64 {
        let (aggregator, time) = (self.aggregator.clone(), self.time.clone());
        let replay = Replay::new(aggregator, time, &recording, (speed, start));
        let mut count = 0;
        self.time.set_playing(true);
        let playing = replay.play(recording, &mut count);
        cancel.run_until_cancelled(playing).await;
        self.time.set_playing(false);
        count
    }

    /// Has `listener` told each price of `prices:{SYMBOL}` as it is published. It is called
    /// while the engine waits: it is to be quick, and must not ask the engine.
    pub fn on_price(&self, listener: impl Fn(&PriceTick<'_>) + Send + Sync + 'static) {
        self.aggregator.lock().on_price(Box::new(listener));
    }

    /// Has `listener` told of trades that a venue numbered and that never came, as that
    /// shows. It is called like that of [`on_price`](Self::on_price).
    pub fn on_gap(&self, listener: impl Fn(&PriceGap<'_>) + Send + Sync + 'static) {
        self.aggregator.lock().on_gap(Box::new(listener));
    }

    /// The price of a symbol, with how it came about.
    ///
    /// # Errors
    /// The text is no symbol, or none that is configured.
    pub fn get_price(&self, symbol: &str) -> Result<PriceUpdate, PriceError> {
        self.aggregator.lock().price(symbol, self.now_us())
    }

    /// The market at a glance.
    #[must_use]
    pub fn overview(&self) -> MarketOverview {
        self.aggregator.lock().overview(self.now_us())
    }

    /// The sources and how they do.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        self.aggregator.lock().sources(self.now_us())
    }

    /// The age of each symbol's newest data, in milliseconds.
    #[must_use]
    pub fn ages_ms(&self) -> Vec<(String, i64)> {
        self.aggregator.lock().ages_ms(self.now_us())
    }

    /// Judges the part of a `prices:` channel after the colon: `SYMBOL`, or
    /// `SYMBOL@SOURCE`.
    ///
    /// # Errors
    /// Names what there is no such thing of, and the nearest that there is.
    pub fn check_channel(&self, rest: &str) -> Result<(), PriceError> {
        self.aggregator.lock().check_channel(rest)
    }

    fn now_us(&self) -> i64 {
        self.time.now_us()
    }
}
