//! Server life cycle: builds the parts, starts them, and shuts them down.
//!
//! 1. [`Server::build`] wires engines, streaming core and services. Nothing runs.
//! 2. [`Server::start`] binds the port, restores the stored state, then starts all tasks. The
//!    port is served last: no client sees a half-restored server.
//! 3. [`RunningServer::shut_down`] sends clients away, waits for tasks, and saves histories.
//!    Each step has an end, whatever a client or a shard does.

use std::{net::TcpListener, sync::Arc, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tidewire_adapters::{
    AccessPolicy, CompressionOptions, Gateway, GatewayOptions, LocalityPolicy, OriginPolicy,
    Services, ShardThreads, tls::TlsAcceptor,
};
use tidewire_chain::ChainEngine;
use tidewire_notification::UserPushes;
use tidewire_price::{Candles, PriceEngine};
use tidewire_service::{
    AdminRpc, AlertRpc, NotifyRpc, PriceRpc, RevocationStore, Router, ServerSeries, StreamRpc,
    WatchRpc,
};
use tidewire_store::{EmbeddedStore, MemoryStore, SharedStore};
use tidewire_stream::{
    Namespace, Namespaces, PublishRight, SharedClock, StreamCore, SystemClock, deadline,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    alerts::{Alerts, ChainTap},
    chain_notifications::ChainNotifications,
    config::Config,
    delivery::DeliveryChannels,
    feed::{Feed, OpenFeed},
    health::HealthWatch,
    histories, maintenance,
    notifications::Notifications,
    security,
    server_series::SeriesSampler,
    telemetry,
};

/// Longest part of the drain window that is left for threads and histories, after clients.
const MAX_RESERVE: Duration = Duration::from_secs(2);

/// Time from SIGTERM to a forced exit where the drain window is shorter: a short window cuts
/// clients, and must not lose histories.
const SHORTEST_EXIT: Duration = Duration::from_secs(5);

/// Runs the server until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config, feed: Feed) -> anyhow::Result<()> {
    let metrics = telemetry::init_metrics()?;
    for contradiction in config.contradictions() {
        tracing::warn!("{contradiction}");
    }
    let server = Server::build(config, feed, metrics).await?;
    let mut running = server.start().await?;
    running.stop_signal.received().await;
    running.shut_down().await;
    Ok(())
}

/// The parts of a server, wired to each other. Only TLS files and remote keys are watched.
pub(crate) struct Server {
    pub(crate) config: Config,
    feed: OpenFeed,
    metrics: PrometheusHandle,
    pub(crate) clock: SharedClock,
    pub(crate) store: Option<SharedStore>,
    pub(crate) stream: Arc<StreamCore>,
    pub(crate) prices: PriceEngine,
    candles: Candles,
    pub(crate) chains: ChainEngine,
    pub(crate) chain_tap: Arc<ChainTap>,
    tls: Option<Arc<TlsAcceptor>>,
    lifetime: Lifetime,
}

/// The tasks of a server, and the two tokens that end it: first new connections, then tasks.
#[derive(Default)]
struct Lifetime {
    tasks: TaskTracker,
    /// Cancelled when the server begins to send its clients away.
    stop: CancellationToken,
    /// Cancelled when they have been sent away: no connection is accepted any more.
    halt: CancellationToken,
}

/// A server that clients can connect to.
struct RunningServer {
    config: Config,
    stop_signal: StopSignal,
    store: Option<SharedStore>,
    stream: Arc<StreamCore>,
    gateway: Gateway,
    threads: ShardThreads,
    /// Pushes to users. None without a store.
    pushes: Option<Arc<UserPushes>>,
    lifetime: Lifetime,
}

impl Server {
    /// Builds the parts. The streaming core is first: engines publish to it, and then
    /// register as the providers of their channels.
    async fn build(config: Config, feed: Feed, metrics: PrometheusHandle) -> anyhow::Result<Self> {
        let clock: SharedClock = Arc::new(SystemClock);
        let lifetime = Lifetime::default();
        let feed = feed.open()?;
        let store = open_store(&config, &feed)?;
        let (authenticator, remote_keys) = security::authenticator(&config, clock.clone())?;
        let stream = StreamCore::in_memory(
            namespaces(&config)?,
            authenticator,
            clock.clone(),
            config.stream_options(),
        );
        let price_config = feed.price_config(&config.prices);
        let prices = PriceEngine::new(&price_config, stream.clone(), clock.clone())?;
        // A replay keeps its candles in memory.
        let candle_store = store.clone();
        let candle_store = candle_store.unwrap_or_else(|| Arc::new(MemoryStore::new()));
        let candles = Candles::new(&prices, stream.clone(), candle_store);
        let chain_tap = Arc::new(ChainTap::new(stream.clone()));
        let chains = ChainEngine::new(
            &config.chain,
            chain_tap.clone(),
            clock.clone(),
            store.clone(),
        )?;
        let providers = prices.channel_providers().into_iter();
        let providers = providers.chain([candles.channel_provider()]);
        for (namespace, provider) in providers.chain(chains.channel_providers()) {
            stream.register_provider(namespace, provider)?;
        }
        if let Some(remote) = remote_keys {
            security::keep_keys(remote, &lifetime.tasks, &lifetime.halt).await;
        }
        let tls = security::tls(&config.server, &lifetime.tasks, &lifetime.halt)?;
        Ok(Self {
            config,
            feed,
            metrics,
            clock,
            store,
            stream,
            prices,
            candles,
            chains,
            chain_tap,
            tls,
            lifetime,
        })
    }

    /// Binds the port, restores, starts the engines, then serves clients.
    async fn start(self) -> anyhow::Result<RunningServer> {
        // Before the log names the address: a reader of the log may stop the server.
        let stop_signal = StopSignal::new()?;
        // Caught for the whole run: a full disk quota is an error of the store, which the server
        // survives, and by default this signal would kill it.
        drop(signal(FILE_SIZE_SIGNAL)?);
        let listener = TcpListener::bind(self.config.server.listen).with_context(|| {
            format!(
                "cannot listen on {}, which `server.listen` or TIDEWIRE_SERVER__LISTEN changes",
                self.config.server.listen
            )
        })?;
        let address = listener.local_addr()?;
        let revocations = RevocationStore::new(self.stream.clone(), self.store.clone());
        let watches = WatchRpc::new(self.stream.clone(), self.chains.clone());
        let price = PriceRpc::new(self.prices.clone(), self.candles.clone());
        let notify = NotifyRpc::new(self.stream.clone());
        let delivery = match &self.store {
            Some(store) => {
                DeliveryChannels::new(&self.config.delivery, store, &self.stream, &self.clock)?
            }
            None => None,
        };
        let mut notifications = Notifications::new(
            &notify,
            &self.stream,
            self.store.clone(),
            self.clock.clone(),
            self.config.notification_config(),
            delivery,
        );
        if self.config.notifications.on_chain {
            let sink = ChainNotifications::new(&notify, &self.config.chain);
            self.chains.notify_users(Arc::new(sink));
        }
        let alert = AlertRpc::new(self.stream.clone());
        let series = ServerSeries::default();
        let router = Router::new(&self.stream, &price, &watches, &notify, &alert);
        let services = Services {
            stream: StreamRpc::new(self.stream.clone(), router),
            price,
            watch: watches.clone(),
            admin: AdminRpc::new(
                self.stream.clone(),
                revocations.clone(),
                notify.delivery().clone(),
                series.clone(),
            ),
            notify: notify.clone(),
            alert: alert.clone(),
        };
        let gateway = self.gateway(services, address.ip())?;
        self.restore(&revocations).await?;
        if let Some(notifications) = &mut notifications {
            notifications.open().await;
        }
        let alerts = Alerts::new(&self, &alert, &notify);
        let alerts = match alerts {
            Some(alerts) => Some(alerts.open().await),
            None => None,
        };
        let pushes = notifications.as_ref().map(Notifications::pushes);
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        tracing::info!(
            "Tidewire {} listens on {scheme}://{address}",
            env!("CARGO_PKG_VERSION")
        );
        let Lifetime { tasks, stop, halt } = &self.lifetime;
        if self.feed.is_live() {
            let hang_ups = signal(SignalKind::hangup())?;
            let (file, prices) = (self.config.file.clone(), self.prices.clone());
            tasks.spawn(maintenance::reload_sources(
                file,
                prices,
                hang_ups,
                halt.clone(),
            ));
        }
        tasks.spawn(self.candles.clone().run(halt.clone()));
        self.feed.start(&self.prices, tasks, halt);
        let (stream, metrics) = (self.stream.clone(), self.metrics);
        let health = HealthWatch {
            stream: self.stream.clone(),
            prices: self.prices.clone(),
            chains: self.chains.clone(),
            chain_configs: self.config.chain.clone(),
            store: self.store.clone(),
        };
        tasks.spawn(health.run(halt.clone()));
        let sampler = SeriesSampler {
            stream: self.stream.clone(),
            prices: self.prices.clone(),
            alerts: alert.clone(),
            series,
        };
        tasks.spawn(sampler.run(halt.clone()));
        tasks.spawn(maintenance::sweep_histories(stream, metrics, halt.clone()));
        tasks.spawn(maintenance::sweep_watches(watches, halt.clone()));
        if let Some(notifications) = notifications {
            tasks.spawn(notifications.run(halt.clone()));
        }
        if let Some(alerts) = alerts {
            tasks.spawn(alerts.run(halt.clone()));
        }
        tasks.spawn(maintenance::save_revocations(revocations, halt.clone()));
        tasks.spawn(maintenance::watch_shards(self.stream.clone(), halt.clone()));
        let threads = tidewire_adapters::serve(&listener, &gateway, self.tls, stop, halt)
            .context("the server's threads cannot start")?;
        Ok(RunningServer {
            config: self.config,
            stop_signal,
            store: self.store,
            stream: self.stream,
            gateway,
            threads,
            pushes,
            lifetime: self.lifetime,
        })
    }

    fn gateway(&self, services: Services, ip: std::net::IpAddr) -> anyhow::Result<Gateway> {
        let server = &self.config.server;
        let admission = security::admission(&self.config, self.clock.clone())?;
        let (notify, alerts) = (services.notify.clone(), services.alert.clone());
        Ok(Gateway::new(
            self.stream.clone(),
            services,
            AccessPolicy {
                origins: OriginPolicy::new(server.allowed_origins.clone(), ip),
                locality: LocalityPolicy::new(ip),
                admission: admission.clone(),
            },
            GatewayOptions {
                frame_bytes: self.config.limits.frame_bytes,
                compression: server.compression.then(CompressionOptions::default),
            },
            Arc::new(telemetry::ServerProbes {
                handle: self.metrics.clone(),
                stream: self.stream.clone(),
                admission,
                prices: self.prices.clone(),
                notify,
                alerts,
                store: self.store.clone(),
                stopping: self.lifetime.stop.clone(),
            }),
            self.lifetime.tasks.clone(),
        ))
    }

    /// Restores revocations, chains and histories. Call it before clients resume.
    async fn restore(&self, revocations: &RevocationStore) -> anyhow::Result<()> {
        revocations
            .load()
            .await
            .context("revocations cannot be read from the store")?;
        for chain in &self.config.chain {
            tracing::info!(chain = chain.id, name = chain.label(), "follows a chain");
        }
        self.candles
            .load()
            .await
            .context("candles cannot be read from the store")?;
        // Before histories: a history continues in the epoch that its chain restored.
        self.chains
            .start(&self.lifetime.tasks, &self.lifetime.halt)
            .await
            .context("the state of chains cannot be read from the store")?;
        if let Some(store) = &self.store {
            histories::load(&**store, &self.stream)
                .await
                .context("histories cannot be read from the store")?;
        }
        Ok(())
    }
}

impl RunningServer {
    /// Sends clients away over the drain window, stops accepting, ends all tasks, and saves
    /// histories last, when nothing is published any more.
    async fn shut_down(self) {
        let Lifetime { tasks, stop, halt } = self.lifetime;
        tracing::info!(
            connections = self.gateway.connections(),
            "stopping: clients are sent away"
        );
        if let Some(pushes) = &self.pushes {
            pushes.close();
        }
        stop.cancel();
        let window = self.config.server.drain;
        let started = Instant::now();
        exit_after(window.max(SHORTEST_EXIT));
        let reserve = (window / 5).min(MAX_RESERVE);
        let cut = deadline(started, window.saturating_sub(reserve));
        // In a task of its own: a session that is stuck in its lock keeps only that task.
        let stream = self.stream.clone();
        let drained = tokio::spawn(async move { stream.drain(window).await });
        let is_drained = timeout_at(cut, drained).await.is_ok();
        halt.cancel();
        tasks.close();
        if timeout_at(cut, tasks.wait()).await.is_err() || !is_drained {
            tracing::warn!(
                tasks = tasks.len(),
                "some connections did not end in time and are cut"
            );
        }
        self.threads.end(cut + reserve / 2).await;
        if let Some(store) = &self.store
            && let Err(error) = histories::save(&**store, &self.stream).await
        {
            tracing::error!(%error, "histories are not saved: clients will read their state again");
        }
        tracing::info!("stopped");
    }
}

/// Ends the process after `time`, if it still runs: a shard's thread that is stuck in a lock
/// could stop every orderly way out.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own waits, because every runtime may be stuck"
)]
fn exit_after(time: Duration) {
    let watch = std::thread::Builder::new().name("tidewire-exit".to_owned());
    let watched = watch.spawn(move || {
        std::thread::sleep(time);
        tracing::error!("the stop takes too long: the process ends, and histories may be lost");
        std::process::exit(1);
    });
    if let Err(error) = watched {
        tracing::warn!(%error, "nothing watches over the time of the stop");
    }
}

/// Opens the store. A replay without chains stores nothing. Any other server does not start
/// without its store: the tokens that it names as revoked would be valid again.
fn open_store(config: &Config, feed: &OpenFeed) -> anyhow::Result<Option<SharedStore>> {
    if config.chain.is_empty() && !feed.is_live() {
        return Ok(None);
    }
    Ok(Some(Arc::new(EmbeddedStore::open(&config.store.path)?)))
}

/// `SIGXFSZ`: a write beyond the limit of a file's size. The number is the same on Linux (x86,
/// Arm, RISC-V) and macOS.
const FILE_SIZE_SIGNAL: SignalKind = SignalKind::from_raw(25);

/// SIGTERM and SIGINT, caught from the moment it exists.
pub(crate) struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    /// Starts to catch the signals.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of the signals.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Checks the parts of a server that the configuration names, without starting one: what
/// [`run`] refuses, this refuses too.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    namespaces(config)?;
    security::check(config)
}

/// The built-in namespaces with their configured access, those of the operator, and on
/// loopback `demo`, which the machine's own user may publish to without a token.
fn namespaces(config: &Config) -> anyhow::Result<Namespaces> {
    let mut all = Namespaces::built_in();
    for namespace in &config.namespace {
        if Namespaces::is_built_in(namespace.name()) {
            let access = namespace.access_alone().with_context(|| {
                format!(
                    "namespace {:?} is built in: only its `access` can be set",
                    namespace.name()
                )
            })?;
            all.restrict(namespace.name(), access)?;
        } else {
            all.add(namespace.namespace())?;
        }
    }
    if config.server.listen.ip().is_loopback()
        && config
            .namespace
            .iter()
            .all(|own| own.namespace().name != "demo")
    {
        all.add(Namespace {
            publish: PublishRight::AuthenticatedOrLocal,
            ..Namespace::history("demo")
        })?;
    }
    Ok(all)
}
