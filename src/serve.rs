//! Server life cycle: builds the parts, starts them, and shuts them down.
//!
//! 1. [`Server::build`] wires engines, streaming core and services. Nothing runs.
//! 2. [`Server::start`] binds the port, restores the stored state, then starts all tasks. The
//!    port is served last: no client sees a half-restored server.
//! 3. [`RunningServer::shut_down`] sends clients away, waits for tasks and for publications that
//!    are on their way to other servers, and saves histories.
//!    Each step has an end, whatever a client or a shard does: [`stop`].

mod stop;

use std::{io::ErrorKind, net::TcpListener, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tidewire_adapters::{
    AccessPolicy, CompressionOptions, Gateway, GatewayOptions, LocalityPolicy, OriginPolicy,
    Services, ShardThreads, tls::TlsAcceptor,
};
use tidewire_chain::{ChainEngine, notice::NoticeSink, sample::SampleNode};
use tidewire_notification::UserPushes;
use tidewire_price::{Candles, PriceEngine};
use tidewire_service::{
    AdminRpc, AlertRpc, ChainSlots, ForwardedCalls, NotifyRpc, PriceRpc, RevocationStore, Router,
    ServerSeries, StreamRpc, WatchRpc,
};
use tidewire_store::{EmbeddedStore, MemoryStore, SharedStore, StoreLease};
use tidewire_stream::{
    GuardedClock, Namespace, Namespaces, PublishRight, Publisher, SharedClock, StreamCore,
    StreamOptions, SystemClock,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use stop::StopSignal;

use crate::{
    agreement::Agreement,
    alerts::{Alerts, ChainTap},
    broker,
    chain_notifications::ChainNotifications,
    chain_owner::{self, ChainOwners},
    cli::NullPublisher,
    clock_mark, command_hint,
    config::Config,
    delivery::DeliveryChannels,
    engine_store::EngineStore,
    fallback::VenueProbe,
    feed::{Feed, OpenFeed},
    health::HealthWatch,
    histories, maintenance,
    notifications::Notifications,
    open_files,
    price_owner::{self, PriceOwner},
    price_publisher::OwnedPublisher,
    roles::Role,
    sample::{self, SampleUser},
    security,
    server_series::SeriesSampler,
    shared_settings, telemetry,
};

/// Longest drain window of a server on sample data that a venue's first price ends: its clients
/// come back to the next one.
const SAMPLE_DRAIN: Duration = Duration::from_secs(1);

/// Runs the server until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config, feed: Feed) -> anyhow::Result<()> {
    let metrics = telemetry::init_metrics()?;
    for contradiction in config.contradictions() {
        tracing::warn!("{contradiction}");
    }
    if let Some(limit) = open_files::raise_limit() {
        tracing::debug!(limit, "open files, and so connections");
    }
    // Before the log names the address: a reader of the log may stop the server.
    let mut stop_signal = StopSignal::new()?;
    // Caught for the whole run: a full disk quota is an error of the store, which the server
    // survives, and by default this signal would kill it.
    drop(signal(FILE_SIZE_SIGNAL)?);
    if config.may_play_sample() && matches!(feed, Feed::Live) {
        let listener = listen(&config)?;
        let probe = VenueProbe::start(&config)?;
        let is_live = tokio::select! {
            is_live = probe.delivers_soon() => is_live,
            () = stop_signal.received() => return Ok(()),
        };
        if !is_live && play_sample(&config, &listener, &probe, &metrics, &mut stop_signal).await? {
            return Ok(());
        }
        probe.end().await;
        let server = Server::build(config, Feed::Live, metrics, None).await?;
        return server.serve(Some(listener), &mut stop_signal).await;
    }
    let server = Server::build(config, feed, metrics, None).await?;
    server.serve(None, &mut stop_signal).await
}

/// Serves sample data until a venue delivers. Returns true if the process is to stop instead.
async fn play_sample(
    config: &Config,
    listener: &TcpListener,
    probe: &VenueProbe,
    metrics: &PrometheusHandle,
    stop_signal: &mut StopSignal,
) -> anyhow::Result<bool> {
    let tried = probe.engine().sources();
    let names: Vec<_> = tried.iter().map(|source| source.name.as_str()).collect();
    tracing::warn!(
        tried = names.join(", "),
        "no venue answers: the server plays sample data until one does"
    );
    let (config, tried) = (config.clone(), Some(probe.engine().clone()));
    let server = Server::build(config, Feed::sample(), metrics.clone(), tried).await?;
    let running = server.start(Some(listener.try_clone()?)).await?;
    let stops = tokio::select! {
        () = probe.delivered() => false,
        () = stop_signal.received() => true,
    };
    let mut window = running.config.server.drain;
    if !stops {
        tracing::warn!("a venue delivers: sample data ends, and the server starts again");
        window = window.min(SAMPLE_DRAIN);
    }
    running.shut_down(window).await;
    Ok(stops)
}

/// Binds the port.
fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let address = config.server.listen;
    TcpListener::bind(address).map_err(|error| {
        let reason = match error.kind() {
            ErrorKind::AddrInUse => "another program uses the port".to_owned(),
            _ => error.to_string(),
        };
        anyhow::anyhow!(
            "cannot listen on {address}: {reason}. Choose another port with --port, `server.listen` or TIDEWIRE_SERVER__LISTEN; --port 0 takes a free one"
        )
    })
}

/// The parts of a server, wired to each other. Only TLS files and remote keys are watched.
pub(crate) struct Server {
    pub(crate) config: Config,
    feed: OpenFeed,
    metrics: PrometheusHandle,
    pub(crate) clock: SharedClock,
    /// The same clock, whose mark is stored.
    guarded: Arc<GuardedClock>,
    pub(crate) store: Option<SharedStore>,
    /// The store of notifications and alerts, from the start on.
    pub(crate) engine_store: Option<EngineStore>,
    pub(crate) stream: Arc<StreamCore>,
    pub(crate) prices: PriceEngine,
    /// The publisher of prices, where one node publishes for all.
    owned_publisher: Option<Arc<OwnedPublisher>>,
    candles: Candles,
    /// The engine of all chains. Where the nodes share chains, it is never started, and checks names.
    pub(crate) chains: ChainEngine,
    pub(crate) shares_chains: bool,
    /// The engines of chains, here or on other nodes.
    pub(crate) chain_slots: ChainSlots,
    pub(crate) chain_tap: Arc<ChainTap>,
    sample_node: Option<SampleNode>,
    /// The venues that sample data stands in for.
    tried: Option<PriceEngine>,
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
    store: Option<SharedStore>,
    engine_store: Option<EngineStore>,
    price_owner: Option<Arc<PriceOwner>>,
    stream: Arc<StreamCore>,
    gateway: Gateway,
    threads: ShardThreads,
    /// The services that other nodes call.
    _forwarded: Arc<ForwardedCalls>,
    /// Pushes to users. None without a store.
    pushes: Option<Arc<UserPushes>>,
    lifetime: Lifetime,
}

impl Server {
    /// Builds the parts. The streaming core is first: engines publish to it, and then
    /// register as the providers of their channels.
    async fn build(
        mut config: Config,
        feed: Feed,
        metrics: PrometheusHandle,
        tried: Option<PriceEngine>,
    ) -> anyhow::Result<Self> {
        let guarded = Arc::new(GuardedClock::new(Arc::new(SystemClock)));
        let clock: SharedClock = guarded.clone();
        let lifetime = Lifetime::default();
        let feed = feed.open()?;
        let store = open_store(&config, &feed)?;
        if let Some(store) = &store {
            clock_mark::resume(store, &guarded).await?;
        }
        let (authenticator, remote_keys) = security::authenticator(&config, clock.clone())?;
        let options = StreamOptions {
            sample: feed.is_sample(),
            ..config.stream_options()
        };
        let (mut namespaces, problems) = namespaces(&config);
        if let Some(problem) = problems.into_iter().next() {
            anyhow::bail!("{problem}");
        }
        let shares_prices = price_owner::is_shared(&config, &feed);
        if shares_prices {
            price_owner::share(&mut namespaces)?;
        }
        let shares_chains = chain_owner::is_shared(&config, &feed);
        if shares_chains {
            chain_owner::share(&mut namespaces)?;
        }
        let stream = broker::open(
            &config.broker,
            &feed,
            namespaces,
            authenticator,
            clock.clone(),
            options,
        )
        .await?;
        let mut sample_node = None;
        if feed.is_sample() && config.chain.is_empty() {
            let (node, chain) = SampleNode::open(store.clone(), clock.clone()).await?;
            sample_node = Some(node);
            config.chain.push(chain);
        }
        let price_config = feed.price_config(&config.prices);
        let owned_publisher = shares_prices.then(|| OwnedPublisher::new(stream.clone()));
        let publisher: Arc<dyn Publisher> = match &owned_publisher {
            Some(owned) => owned.clone(),
            None => stream.clone(),
        };
        let prices = PriceEngine::new(&price_config, publisher.clone(), clock.clone())?;
        // Recordings are of different times: the store of a replay would hold the candles of all.
        let candle_store = store.clone();
        let candle_store = candle_store.filter(|_| feed.is_live() || feed.is_sample());
        let candle_store = candle_store.unwrap_or_else(|| Arc::new(MemoryStore::new()));
        let candles = Candles::new(&prices, publisher, candle_store);
        if feed.is_sample() {
            candles.label_as_sample();
        } else if !feed.is_live() {
            candles.keep_recording();
        }
        let chain_tap = Arc::new(ChainTap::new(stream.clone()));
        let chains = ChainEngine::new(
            &config.chain,
            chain_tap.clone(),
            clock.clone(),
            store.clone(),
        )?;
        let providers = prices.channel_providers().into_iter();
        let providers = providers.chain([candles.channel_provider()]);
        let chain_slots = match shares_chains {
            true => ChainSlots::shared(stream.clone(), chains.clone()),
            false => ChainSlots::own(chains.clone()),
        };
        for (namespace, provider) in providers.chain(chain_slots.channel_providers()) {
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
            guarded,
            store,
            engine_store: None,
            stream,
            prices,
            owned_publisher,
            candles,
            chains,
            shares_chains,
            chain_slots,
            chain_tap,
            sample_node,
            tried,
            tls,
            lifetime,
        })
    }

    /// Serves until the process is to stop, then shuts down.
    async fn serve(
        self,
        listener: Option<TcpListener>,
        stop_signal: &mut StopSignal,
    ) -> anyhow::Result<()> {
        let running = self.start(listener).await?;
        stop_signal.received().await;
        let window = running.config.server.drain;
        running.shut_down(window).await;
        Ok(())
    }

    /// Binds the port unless `listener` has it, restores, starts the engines, then serves clients.
    async fn start(mut self, listener: Option<TcpListener>) -> anyhow::Result<RunningServer> {
        let listener = match listener {
            Some(listener) => listener,
            None => listen(&self.config)?,
        };
        let address = listener.local_addr()?;
        let agreement = self.stream.broker().node_tag().map(|node| {
            let own = shared_settings::of(&self.config, node.as_str(), address);
            self.stream.tell_settings(own.clone());
            Agreement::new(own)
        });
        let revocations = RevocationStore::new(self.stream.clone(), self.store.clone());
        let watches = WatchRpc::new(self.stream.clone(), self.chain_slots.clone());
        let notify = NotifyRpc::new(self.stream.clone());
        if let Some(own) = self.store.clone() {
            let is_live = self.feed.is_live();
            let opened = EngineStore::open(&self.config, own, is_live, &self.stream).await?;
            self.engine_store = Some(opened);
        }
        let price_owner = match self.owned_publisher.take() {
            Some(publisher) => {
                let store = self.engine_store.as_ref().and_then(EngineStore::ownership);
                PriceOwner::start(&self.config, &self.stream, publisher, store)?
            }
            None => None,
        };
        let price = PriceRpc::new(self.prices.clone(), self.candles.clone());
        let price = price.in_place_of(self.tried.clone());
        let price = match &price_owner {
            Some(_) if self.follows_venues() => price.shared(&self.stream),
            Some(_) => price.shared_without_engine(&self.stream),
            None => price,
        };
        let delivery = match &self.store {
            Some(_) => DeliveryChannels::new(&self.config.delivery, &self.stream, &self.clock)?,
            None => None,
        };
        let mut notifications = Notifications::new(
            &notify,
            &self.stream,
            self.engine_store.clone(),
            self.clock.clone(),
            self.config.notification_config(),
            delivery,
        );
        let mut notice_sink = None;
        if self.config.notifications.on_chain {
            let is_shared = self.lease().is_some();
            let sink = ChainNotifications::new(&notify, &self.config.chain, is_shared);
            let sink: Arc<dyn NoticeSink> = Arc::new(sink);
            self.chains.notify_users(sink.clone());
            notice_sink = Some(sink);
        }
        let chain_owners = match self.shares_chains {
            true => {
                let sink = notice_sink.as_ref();
                let parts = (&self.stream, &self.chain_slots, &self.clock);
                ChainOwners::start(&self.config, parts, sink)?
            }
            false => None,
        };
        let alert = AlertRpc::new(self.stream.clone());
        let file = command_hint::config_file(&self.config);
        let series = ServerSeries::of_server(file.as_deref().and_then(Path::to_str));
        let forwarded = ForwardedCalls::register(&self.stream, &notify, &alert, &watches, &price);
        let router = Router::new(&self.stream, &price, &watches, &notify, &alert);
        let services = Services {
            stream: StreamRpc::new(self.stream.clone(), router),
            price: price.clone(),
            watch: watches.clone(),
            admin: AdminRpc::new(
                self.stream.clone(),
                revocations.clone(),
                notify.clone(),
                series.clone(),
            ),
            notify: notify.clone(),
            alert: alert.clone(),
        };
        let owners = (price_owner.clone(), chain_owners.clone());
        let gateway = self.gateway(services, address.ip(), owners, agreement.clone())?;
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
        if let Some(node) = self.sample_node.take() {
            tasks.spawn(node.run(halt.clone()));
            let user = SampleUser {
                notify: notify.clone(),
                alerts: alert.clone(),
                chains: self.chains.clone(),
                symbols: self.prices.symbols(),
                token_command: command_hint::command(
                    &self.config,
                    &format!("token --user {}", sample::USER),
                ),
            };
            tasks.spawn(user.run(halt.clone()));
        }
        if self.feed.is_live() {
            let hang_ups = signal(SignalKind::hangup())?;
            let sources = (self.config.file.clone(), self.config.overrides.clone());
            tasks.spawn(maintenance::reload_sources(
                sources,
                self.running_prices(),
                hang_ups,
                halt.clone(),
            ));
        }
        if let Some(store) = &self.store {
            let (clock, store) = (self.guarded.clone(), store.clone());
            tasks.spawn(clock_mark::run(clock, store, halt.clone()));
        }
        tasks.spawn(self.candles.clone().run(halt.clone()));
        let lease = self.lease();
        let prices = self.running_prices();
        if let Some(owner) = &price_owner {
            tasks.spawn(owner.clone().run(self.prices.clone(), halt.clone()));
            tasks.spawn(owner.clone().tell(price, halt.clone()));
        }
        if let Some(owners) = &chain_owners {
            owners.run(tasks, halt);
        }
        if let Some(prices) = &prices {
            let replay = command_hint::server_command(&self.config, "replay --loop");
            self.feed.start(prices, replay, tasks, halt);
        }
        let (stream, metrics) = (self.stream.clone(), self.metrics);
        if let Some(agreement) = &agreement {
            let comparing = agreement.clone().run(self.stream.clone(), halt.clone());
            tasks.spawn(comparing);
        }
        let health = HealthWatch {
            stream: self.stream.clone(),
            prices: prices.clone(),
            price_owner: price_owner.clone(),
            chain_owners,
            chains: self.chains.clone(),
            chain_configs: self.config.chain.clone(),
            store: self.store.clone(),
            lease,
            unserved: notifications.as_ref().map(Notifications::unserved),
            agreement,
        };
        tasks.spawn(health.run(halt.clone()));
        let sampler = SeriesSampler {
            stream: self.stream.clone(),
            prices,
            alerts: alert.clone(),
            series,
        };
        tasks.spawn(sampler.run(halt.clone()));
        tasks.spawn(maintenance::sweep_histories(stream, metrics, halt.clone()));
        tasks.spawn(maintenance::sweep_watches(watches, halt.clone()));
        let (slots, cancel) = (self.chain_slots.clone(), halt.clone());
        tasks.spawn(async move {
            cancel.run_until_cancelled(slots.run()).await;
        });
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
            store: self.store,
            engine_store: self.engine_store,
            price_owner,
            stream: self.stream,
            gateway,
            threads,
            _forwarded: forwarded,
            pushes,
            lifetime: self.lifetime,
        })
    }

    /// The part of this node in a shared store.
    fn lease(&self) -> Option<Arc<StoreLease>> {
        self.engine_store.as_ref()?.lease().cloned()
    }

    /// Whether this node runs the price engine.
    fn follows_venues(&self) -> bool {
        !self.feed.is_live() || Role::Prices.is_among(&self.config.server.roles)
    }

    /// The price engine, if this node runs it.
    fn running_prices(&self) -> Option<PriceEngine> {
        self.follows_venues().then(|| self.prices.clone())
    }

    fn gateway(
        &self,
        services: Services,
        ip: std::net::IpAddr,
        (price_owner, chain_owners): (Option<Arc<PriceOwner>>, Option<Arc<ChainOwners>>),
        agreement: Option<Arc<Agreement>>,
    ) -> anyhow::Result<Gateway> {
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
                prices: self.running_prices(),
                price_owner,
                chain_owners,
                agreement,
                tried: self.tried.clone(),
                chains: self.chains.clone(),
                chain_ids: self.config.chain.iter().map(|chain| chain.id).collect(),
                is_sample: self.feed.is_sample(),
                notify,
                alerts,
                store: self.store.clone(),
                lease: self.lease(),
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
        self.stream.listen_to_operators().await;
        for chain in self.config.chain.iter().filter(|_| !self.shares_chains) {
            tracing::info!(chain = chain.id, name = chain.label(), "follows a chain");
        }
        self.candles
            .load()
            .await
            .context("candles cannot be read from the store")?;
        // Before histories: a history continues in the epoch that its chain restored.
        if !self.shares_chains {
            self.chains
                .start(&self.lifetime.tasks, &self.lifetime.halt)
                .await
                .context("the state of chains cannot be read from the store")?;
        }
        if let Some(store) = &self.store {
            histories::load(&**store, &self.stream)
                .await
                .context("histories cannot be read from the store")?;
        }
        Ok(())
    }
}

/// Opens the store. A replay has a folder of its own in the data folder, so that its data never
/// mixes with that of the venues. A server does not start without its store: the tokens that it
/// names as revoked would be valid again. A replay does, for example beside another one.
fn open_store(config: &Config, feed: &OpenFeed) -> anyhow::Result<Option<SharedStore>> {
    if feed.is_live() {
        return Ok(Some(Arc::new(EmbeddedStore::open(&config.store.path)?)));
    }
    let name = match feed.is_sample() {
        true => "sample",
        false => "replay",
    };
    match EmbeddedStore::open(&config.store.path.join(name)) {
        Ok(store) => Ok(Some(Arc::new(store))),
        Err(error) => {
            tracing::warn!(%error, "the replay has no store: it has no notifications and no alerts, and its histories end with it");
            Ok(None)
        }
    }
}

/// `SIGXFSZ`: a write beyond the limit of a file's size. The number is the same on Linux (x86,
/// Arm, RISC-V) and macOS.
const FILE_SIZE_SIGNAL: SignalKind = SignalKind::from_raw(25);

/// The faults in the parts that the configuration names, without starting a server: all that
/// [`run`] refuses, apart from the state of the machine.
pub(crate) fn problems(config: &Config) -> Vec<String> {
    let mut problems = security::problems(config);
    let path = &config.store.path;
    if path.exists() && !path.is_dir() {
        problems.push(format!(
            "store.path is {}, which is a file, expected a folder",
            path.display()
        ));
    }
    let origins = config.server.allowed_origins.iter();
    let faults = origins.filter_map(|origin| OriginPolicy::fault(origin));
    problems.extend(faults.map(|fault| format!("server.allowed_origins {fault}")));
    problems.extend(namespaces(config).1);
    let clock: SharedClock = Arc::new(SystemClock);
    // Engines say nothing about what is wrong with their configuration already.
    if config.prices.problems().is_empty() {
        let silent = Arc::new(NullPublisher);
        let prices = PriceEngine::new(&config.prices, silent, clock.clone());
        problems.extend(prices.err().map(|error| error.to_string()));
    }
    if config.delivery.problems().is_empty() {
        let senders = tidewire_delivery::Senders::new(&config.delivery, &clock);
        problems.extend(senders.err().map(|error| error.to_string()));
    }
    problems
}

/// The built-in namespaces with their configured access, those of the operator, and on
/// loopback `demo`, which the machine's own user may publish to without a token.
fn namespaces(config: &Config) -> (Namespaces, Vec<String>) {
    let mut all = Namespaces::built_in();
    let mut problems = Vec::new();
    for namespace in &config.namespace {
        let name = namespace.name();
        let added = match (Namespaces::is_built_in(name), namespace.access_alone()) {
            (true, Some(access)) => {
                let restricted = all.restrict(name, access).err();
                let key = format!("namespace.access of {name:?}");
                problems.extend(restricted.map(|error| format!("{key}: {error}")));
                continue;
            }
            (true, None) => {
                problems.push(format!(
                    "namespace {name:?} is built in: only its `access` can be set"
                ));
                continue;
            }
            (false, _) => all.add(namespace.namespace()),
        };
        problems.extend(added.err().map(|error| match error.to_string() {
            text if text.starts_with("namespace") => text,
            text => format!("namespace {name:?}: {text}"),
        }));
    }
    let is_own = config.namespace.iter().any(|own| own.name() == "demo");
    if config.server.listen.ip().is_loopback() && !is_own {
        let added = all.add(Namespace {
            publish: PublishRight::AuthenticatedOrLocal,
            ..Namespace::history("demo")
        });
        problems.extend(added.err().map(|error| error.to_string()));
    }
    (all, problems)
}
