//! The wiring: engines to the streaming core, the core to the adapters, and the
//! life of the server from start to drain.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tidewire_adapters::{
    AdminAccess, Doors, Gateway, GatewayOptions, OriginPolicy, Services,
    websocket::deflate::Compressor,
};
use tidewire_chain::ChainEngine;
use tidewire_price::{PriceEngine, Recording, ReplaySpeed, ReplayStart};
use tidewire_proto::v1::ErrorCode;
use tidewire_service::{AdminRpc, PriceRpc, RevocationStore, StreamRpc, WatchRpc, chain_error};
use tidewire_store::{EmbeddedStore, SharedStore};
use tidewire_stream::{
    ChannelName, DurablePublisher, Epoch, Event, Namespace, Namespaces, Position, PublishRight,
    Publisher, SharedClock, StoredPublication, StreamCore, StreamError, SystemClock,
    broker::BrokerFuture,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::OnceCell,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Config, histories, security, telemetry};

/// How often old histories are forgotten.
const SWEEP: Duration = Duration::from_secs(1);

/// How often it is looked for what nobody follows any more: at all of it.
const SLOW_SWEEP: Duration = Duration::from_secs(10);

/// Where prices come from.
pub(crate) enum Feed {
    /// The venues.
    Live,
    /// A recording, over and over if asked for.
    Replay {
        open: Box<dyn Fn() -> anyhow::Result<Recording> + Send>,
        speed: ReplaySpeed,
        start: ReplayStart,
        repeat: Repeat,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Once,
    Forever,
}

/// Runs the server until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config, feed: Feed) -> anyhow::Result<()> {
    let handle = telemetry::init_metrics()?;
    for key in config.not_built() {
        tracing::warn!(
            key,
            "this key is set, and its part of the server is not built yet"
        );
    }
    let clock: SharedClock = Arc::new(SystemClock);
    let (tasks, stop, halt) = (
        TaskTracker::new(),
        CancellationToken::new(),
        CancellationToken::new(),
    );

    let publisher = Arc::new(LatePublisher::default());
    let (price_config, first) = match &feed {
        Feed::Live => (config.prices.clone(), None),
        Feed::Replay { open, .. } => {
            let recording = open()?;
            (
                PriceEngine::replay_config(config.prices.clone(), &recording),
                Some(recording),
            )
        }
    };
    let prices = PriceEngine::new(&price_config, publisher.clone(), clock.clone())?;
    let store = open_store(&config, &feed)?;
    let chains = ChainEngine::new(
        &config.chain,
        publisher.clone(),
        clock.clone(),
        store.clone(),
    )?;
    let (authenticator, remote_keys) = security::authenticator(&config, clock.clone())?;
    if let Some(remote) = remote_keys {
        security::keep_keys(remote, &tasks, &halt).await;
    }
    let admission = security::admission(&config, clock.clone())?;
    let tls = security::tls(&config.server, &tasks, &halt)?;
    let namespaces = namespaces(&config, &prices, &chains)?;
    let stream = StreamCore::in_memory(namespaces, authenticator, clock, config.stream_options());
    publisher.connect(stream.clone());

    // Before the server says that it listens: from then on it can be asked to stop.
    let stop_signal = StopSignal::new()?;
    let listener = std::net::TcpListener::bind(config.server.listen)
        .with_context(|| format!("cannot listen on {}", config.server.listen))?;
    let address = listener.local_addr()?;
    let admin = AdminAccess::for_listener(address.ip());
    let revocations = RevocationStore::new(stream.clone(), store.clone());
    let watches = WatchRpc::new(stream.clone(), chains.clone());
    let gateway = Gateway::new(
        stream.clone(),
        Services {
            stream: StreamRpc::new(stream.clone()),
            price: PriceRpc::new(prices.clone(), admin),
            watch: watches.clone(),
            admin: AdminRpc::new(stream.clone(), admin, revocations.clone()),
        },
        Doors {
            origins: OriginPolicy::new(config.server.allowed_origins.clone(), address.ip()),
            admission: admission.clone(),
        },
        GatewayOptions {
            frame_bytes: config.limits.frame_bytes,
            admin,
            compression: config.server.compression.then(Compressor::default),
        },
        Arc::new(telemetry::ServerProbes {
            handle: handle.clone(),
            stream: stream.clone(),
            prices: prices.clone(),
            stopping: stop.clone(),
        }),
        tasks.clone(),
    );
    revocations
        .load()
        .await
        .context("what was kept of revocations cannot be read")?;
    // Before anyone can ask to go on from where it was.
    chains
        .start(&tasks, &halt)
        .await
        .context("what was kept of chains cannot be read")?;
    if let Some(store) = &store {
        histories::load(&**store, &stream)
            .await
            .context("what was kept of histories cannot be read")?;
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!(
        "Tidewire {} listens on {scheme}://{address}",
        env!("CARGO_PKG_VERSION")
    );

    if matches!(feed, Feed::Live) {
        let hang_ups = signal(SignalKind::hangup())?;
        tasks.spawn(reload(
            config.file.clone(),
            prices.clone(),
            hang_ups,
            halt.clone(),
        ));
    }
    start_feed(feed, first, &prices, &tasks, &halt);
    tasks.spawn(sweep(stream.clone(), handle, halt.clone()));
    tasks.spawn(sweep_watches(watches, halt.clone()));
    let threads = tidewire_adapters::serve(&listener, &gateway, tls, &stop)
        .context("the server's threads cannot start")?;

    stop_signal.received().await;
    tracing::info!(
        connections = gateway.connections(),
        "stopping: clients are sent away"
    );
    stop.cancel();
    let cut_at = tokio::time::Instant::now() + config.server.drain;
    stream.drain(config.server.drain).await;
    halt.cancel();
    tasks.close();
    if tokio::time::timeout_at(cut_at, tasks.wait()).await.is_err() {
        tracing::warn!(
            tasks = tasks.len(),
            "some connections did not end in time and are cut"
        );
    }
    threads.end();
    if let Some(store) = &store
        && let Err(error) = histories::save(&**store, &stream).await
    {
        tracing::error!(%error, "histories are not saved: clients will read their state again");
    }
    tracing::info!("stopped");
    Ok(())
}

fn start_feed(
    feed: Feed,
    first: Option<Recording>,
    prices: &PriceEngine,
    tasks: &TaskTracker,
    halt: &CancellationToken,
) {
    let (open, speed, start, repeat) = match feed {
        Feed::Live => return prices.connect(tasks, halt),
        Feed::Replay {
            open,
            speed,
            start,
            repeat,
        } => (open, speed, start, repeat),
    };
    prices.run_clock(tasks, halt);
    let (prices, halt) = (prices.clone(), halt.clone());
    tasks.spawn(async move {
        let mut next = first;
        while let Some(recording) = next.take() {
            let sample = recording.head().sample;
            if sample {
                tracing::warn!("replaying sample data: these are not market prices");
            }
            let frames = prices.replay(recording, speed, start, &halt).await;
            tracing::info!(frames, "the replay has ended");
            if repeat == Repeat::Forever && !halt.is_cancelled() && frames > 0 {
                next = open()
                    .inspect_err(
                        |error| tracing::error!(%error, "the recording cannot be read again"),
                    )
                    .ok();
            }
        }
    });
}

/// The store. A replay keeps nothing. Chains cannot be without it; all else can.
fn open_store(config: &Config, feed: &Feed) -> anyhow::Result<Option<SharedStore>> {
    if config.chain.is_empty() && matches!(feed, Feed::Replay { .. }) {
        return Ok(None);
    }
    match EmbeddedStore::open(&config.store.path) {
        Ok(store) => Ok(Some(Arc::new(store))),
        Err(error) if config.chain.is_empty() => {
            tracing::warn!(%error, "there is no store: histories and revocations will not outlive this server");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads the configuration again on SIGHUP, for the sources of prices.
async fn reload(
    file: Option<PathBuf>,
    prices: PriceEngine,
    mut hang_ups: Signal,
    halt: CancellationToken,
) {
    while let Some(Some(())) = halt.run_until_cancelled(hang_ups.recv()).await {
        let reloaded = Config::load(file.as_ref())
            .and_then(|config| Ok(prices.reload_sources(&config.prices)?));
        match reloaded {
            Ok(()) => tracing::info!("the configuration was read again: sources are as it says"),
            Err(error) => tracing::error!(%error, "the configuration is not taken"),
        }
    }
}

/// Stores what is followed, and forgets what nobody follows any more. Beside the other sweep:
/// a chain that stands still holds this one up.
async fn sweep_watches(watches: WatchRpc, halt: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP);
    let mut slow_ticks = tokio::time::interval(SLOW_SWEEP);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if halt.run_until_cancelled(watches.keep_followed()).await.is_none() {
                    return;
                }
            }
            _ = slow_ticks.tick() => {
                if halt.run_until_cancelled(watches.sweep_followed()).await.is_none() {
                    return;
                }
            }
            () = halt.cancelled() => return,
        }
    }
}

/// Forgets what is too old, and has what histograms were given counted: it is kept one
/// by one till then.
async fn sweep(stream: Arc<StreamCore>, metrics: PrometheusHandle, halt: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                stream.sweep();
                metrics.run_upkeep();
            }
            () = halt.cancelled() => return,
        }
    }
}

/// SIGTERM and SIGINT, from the moment it exists.
pub(crate) struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn received(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn namespaces(
    config: &Config,
    prices: &PriceEngine,
    chains: &ChainEngine,
) -> anyhow::Result<Namespaces> {
    let mut all = Namespaces::built_in();
    for namespace in &config.namespace {
        if Namespaces::is_built_in(namespace.name()) {
            let access = namespace.access_alone().with_context(|| {
                format!(
                    "namespace {:?} is built in: only its `access` can be set",
                    namespace.name()
                )
            })?;
            all.restrict(namespace.name(), access)
                .context("namespace")?;
        } else {
            all.add(namespace.namespace()).context("namespace")?;
        }
    }
    if config.server.listen.ip().is_loopback()
        && config
            .namespace
            .iter()
            .all(|own| own.namespace().name != "demo")
    {
        all.add(Namespace {
            publish: PublishRight::Public,
            ..Namespace::history("demo")
        })?;
    }
    let prices = prices.clone();
    all.check_with(
        "prices",
        Box::new(move |rest| {
            prices
                .check_channel(rest)
                .map_err(|error| StreamError::new(ErrorCode::NotFound, error.to_string()))
        }),
    );
    all.check_with(
        "market",
        Box::new(|rest| match rest {
            "overview" => Ok(()),
            _ => Err(StreamError::new(
                ErrorCode::NotFound,
                "there is no such channel, expected market:overview",
            )),
        }),
    );
    let engine = chains.clone();
    all.check_with(
        "blocks",
        Box::new(move |rest| {
            let checked = engine.check_blocks_channel(rest);
            checked.map_err(|error| chain_error(&error))
        }),
    );
    follow_with(&mut all, chains);
    let engine = chains.clone();
    all.check_with(
        "tx",
        Box::new(move |rest| {
            let checked = engine.follow_transaction(rest);
            checked.map_err(|error| chain_error(&error))
        }),
    );
    Ok(all)
}

/// What chains follow for as long as it is wanted, and whose wallets are whose.
fn follow_with(all: &mut Namespaces, chains: &ChainEngine) {
    let engine = chains.clone();
    all.check_with(
        "events",
        Box::new(move |rest| {
            let checked = engine.check_events_channel(rest);
            checked.map_err(|error| chain_error(&error))
        }),
    );
    let engine = chains.clone();
    all.begin_with("events", Box::new(move |rest| engine.events_epoch(rest)));
    let engine = chains.clone();
    all.check_with(
        "wallet",
        Box::new(move |rest| {
            let followed = engine.follow_wallet(rest);
            followed.map_err(|error| chain_error(&error))
        }),
    );
    let engine = chains.clone();
    all.begin_with("wallet", Box::new(move |rest| engine.wallet_epoch(rest)));
    let engine = chains.clone();
    all.own_with(
        "wallet",
        Box::new(move |user, rest| engine.owns_wallet(user, rest)),
    );
}

/// Engines exist before what they publish to, which asks them what they know.
#[derive(Default)]
struct LatePublisher(OnceCell<Arc<StreamCore>>);

impl LatePublisher {
    fn connect(&self, stream: Arc<StreamCore>) {
        // Called once; engines say nothing before they are started.
        let _ = self.0.set(stream);
    }

    fn stream(&self) -> Result<&Arc<StreamCore>, StreamError> {
        let missing = || StreamError::new(ErrorCode::Unavailable, "the server is about to start");
        self.0.get().ok_or_else(missing)
    }
}

impl DurablePublisher for LatePublisher {
    fn position<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, Position> {
        Box::pin(async move { self.stream()?.position(channel).await })
    }

    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        kept: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()> {
        Box::pin(async move { self.stream()?.restore(channel, epoch, kept).await })
    }

    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        Box::pin(async move { self.stream()?.start_new_epoch(channel).await })
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        Box::pin(async move { self.stream()?.forget(channel).await })
    }
}

impl Publisher for LatePublisher {
    fn publish(&self, channel: &ChannelName, event: Event) {
        if let Some(stream) = self.0.get() {
            stream.publish(channel, event);
        }
    }
}
