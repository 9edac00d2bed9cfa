//! Alerts: opens the engine on the store, and ties it to prices, chains and notifications.
//!
//! Prices come from a listener of the price engine, base fees and transaction states from a tap on
//! what the chain engine publishes. Fires go to the users' channels and to the notification hub.
//! The engines do not know each other.

mod catalog;
mod chain_feed;
mod chain_tap;
mod sink;
mod transaction_watches;
mod watch_queue;

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use tidewire_alert::{AlertConfig, AlertEngine, AlertError, AlertTasks, SharedCatalog};
use tidewire_price::{PriceEngine, PriceListener};
use tidewire_service::{AlertRpc, NotifyRpc};
use tidewire_stream::SharedClock;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use self::{
    catalog::EngineCatalog, chain_feed::ChainFeed, sink::ChannelSink,
    transaction_watches::TransactionWatches,
};
use crate::{
    engine_store::{EngineStore, StoreTerm},
    notifications::NO_STORE,
    serve::Server,
    term_clock::TermClock,
};

pub(crate) use self::chain_tap::ChainTap;

/// Time between two attempts to open the engine on a store that fails.
const RETRY: Duration = Duration::from_secs(1);

/// Time that the start of the server waits for the rules to be loaded. Very many of them are loaded
/// while it serves already.
const OPEN_WAIT: Duration = Duration::from_millis(500);

/// The engine, while it is open.
type EngineSlot = Arc<RwLock<Option<AlertEngine>>>;

type Opening = JoinHandle<Result<(AlertEngine, AlertTasks, Option<TermClock>), AlertError>>;

/// Alerts of a server. The engine may open later than the server starts, and again in each term of
/// a shared store.
pub(crate) struct Alerts {
    service: AlertRpc,
    store: EngineStore,
    clock: SharedClock,
    config: AlertConfig,
    sink: Arc<ChannelSink>,
    catalog: SharedCatalog,
    prices: PriceEngine,
    watches: Arc<TransactionWatches>,
    /// Where the nodes share chains, what their owners publish.
    chain_feed: Option<ChainFeed>,
    engine: EngineSlot,
    opening: Option<Opening>,
    /// The store that the engine is opened on.
    term: Option<StoreTerm>,
    tasks: Option<AlertTasks>,
    /// The time of the term, if the store is shared.
    term_clock: Option<TermClock>,
    /// Passes prices to the engine, of which each term has another one.
    listener: Option<PriceListener>,
    /// Why the last attempt to open the engine failed.
    failure: Option<AlertError>,
}

impl Alerts {
    /// Alerts without an engine yet. None if there never is one: `service` returns the reason.
    pub(crate) fn new(server: &Server, service: &AlertRpc, notify: &NotifyRpc) -> Option<Self> {
        if !server.config.alerts.enabled {
            let reason = "`alerts.enabled` is false";
            service.set_absence(reason.to_owned());
            return None;
        }
        let Some(store) = server.engine_store.clone() else {
            service.set_absence(NO_STORE.to_owned());
            return None;
        };
        let loading = "the rules are being loaded".to_owned();
        match store.lease() {
            Some(_) => service.set_elsewhere(None, loading),
            None => service.set_absence(loading),
        }
        let engine = server.chain_tap.engine();
        let shared = server.shares_chains.then(|| server.stream.clone());
        let watches = Arc::new(TransactionWatches::new(server.chain_slots.clone(), shared));
        server.chain_tap.set_watches(watches.clone());
        let chains = server.config.chain.iter().map(|chain| chain.id);
        let chain_feed = server.shares_chains.then(|| ChainFeed {
            stream: server.stream.clone(),
            chains: chains.clone().collect(),
        });
        Some(Self {
            service: service.clone(),
            store,
            clock: server.clock.clone(),
            config: server.config.alert_config(),
            sink: Arc::new(ChannelSink::new(
                server.stream.clone(),
                notify.clone(),
                watches.clone(),
            )),
            catalog: Arc::new(EngineCatalog::new(
                server.prices.symbols(),
                chains.collect(),
            )),
            prices: server.prices.clone(),
            watches,
            chain_feed,
            engine,
            opening: None,
            term: None,
            tasks: None,
            term_clock: None,
            listener: None,
            failure: None,
        })
    }

    /// Opens the engine, if that takes no longer than a moment. Call it before clients connect.
    pub(crate) async fn open(mut self) -> Self {
        // A slow load goes on in `run`.
        let _ = tokio::time::timeout(OPEN_WAIT, self.opened()).await;
        self
    }

    /// Waits until the engine is open. False if no later attempt can open it.
    async fn opened(&mut self) -> bool {
        loop {
            if self.tasks.is_some() {
                return true;
            }
            let opening = match &mut self.opening {
                Some(opening) => opening,
                None => {
                    if self.failure.is_some() {
                        sleep(RETRY).await;
                    }
                    let service = &self.service;
                    let absent = |node: Option<&str>, reason| service.set_elsewhere(node, reason);
                    let term = self.store.term(absent).await;
                    let store = term.store.clone();
                    let sink = Arc::new(self.sink.with_fence(term.fence()));
                    let (catalog, own) = (self.catalog.clone(), self.clock.clone());
                    let config = self.config.clone();
                    self.term = Some(term.clone());
                    let stream = self.sink.stream.clone();
                    let open = async move {
                        term.raise_fence(&stream).await;
                        let shared = term.clock(&own).await?;
                        let clock = shared.as_ref().map_or(own, TermClock::clock);
                        let opened = AlertEngine::open(store, sink, catalog, clock, config).await?;
                        Ok::<_, AlertError>((opened.0, opened.1, shared))
                    };
                    self.opening.insert(tokio::spawn(open))
                }
            };
            // The handle stays here if this function is cancelled, so that the loading goes on.
            let result = opening.await;
            self.opening = None;
            match result {
                Ok(Ok((engine, tasks, clock))) => {
                    if self.failure.take().is_some() {
                        tracing::info!("alerts are available again");
                    }
                    self.listener = Some(listen(&self.prices, engine.clone()));
                    if let Some(term) = &self.term {
                        self.service.set_engine(engine.clone(), term.store.clone());
                    }
                    *self.engine.write() = Some(engine);
                    self.tasks = Some(tasks);
                    self.term_clock = clock;
                }
                Ok(Err(error)) => {
                    if self.failure.as_ref() != Some(&error) {
                        tracing::error!(%error, "alerts cannot be opened");
                        match (self.store.lease(), &error) {
                            (Some(_), AlertError::Unavailable(_)) => {
                                self.service.set_elsewhere(None, error.to_string());
                            }
                            _ => self.service.set_absence(error.to_string()),
                        }
                    }
                    let may_work_later = matches!(error, AlertError::Unavailable(_));
                    self.failure = Some(error);
                    let shared = self.term.as_ref().filter(|term| term.is_shared());
                    match shared {
                        _ if may_work_later => {}
                        // Notifications may work, so that the node keeps the store.
                        Some(term) => drop(term.ended().await),
                        None => return false,
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the loading of alerts panicked: restart the server");
                    let fault = "the loading of alerts panicked";
                    self.service.set_fault(fault.to_owned());
                    return false;
                }
            }
        }
    }
}

impl Alerts {
    /// Judges, stores and delivers until cancelled.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        while let Some(true) = cancel.run_until_cancelled(self.opened()).await {
            let (Some(tasks), Some(term)) = (self.tasks.take(), self.term.take()) else {
                return;
            };
            let (listener, clock) = (self.listener.take(), self.term_clock.take());
            let until = cancel.child_token();
            let following = async {
                if let Some(clock) = clock {
                    clock.follow(until.clone()).await;
                }
            };
            let serving = async {
                self.serve((tasks, listener), &term, &cancel).await;
                until.cancel();
            };
            tokio::join!(serving, following);
        }
    }

    /// Works until the term of the store ends or the server stops.
    async fn serve(
        &self,
        (tasks, mut listener): (AlertTasks, Option<PriceListener>),
        term: &StoreTerm,
        cancel: &CancellationToken,
    ) {
        let (service, until) = (&self.service, cancel.child_token());
        let engine = self.engine.read().clone();
        let fed = async {
            if let (Some(feed), Some(engine)) = (&self.chain_feed, &engine) {
                let taps = until.run_until_cancelled(feed.listen(engine)).await;
                until.cancelled().await;
                drop(taps);
            }
        };
        let watching = engine.clone().map(|engine| {
            let (watches, until) = (self.watches.clone(), until.clone());
            tokio::spawn(async move { watches.run(&engine, until).await })
        });
        let watched = async {
            if let Some(watching) = watching
                && watching.await.is_err_and(|error| error.is_panic())
            {
                tracing::error!("the transaction watches of alerts panicked: restart the server");
                service.set_fault("the transaction watches of alerts panicked".to_owned());
            }
        };
        let ended = async {
            if let Some(reason) = until.run_until_cancelled(term.ended()).await {
                tracing::warn!(%reason, "alerts end with the term of the shared store");
                drop(listener.take());
                *self.engine.write() = None;
                service.set_elsewhere(None, reason.to_string());
                until.cancel();
            }
        };
        tokio::join!(tasks.run(until.clone()), watched, ended, fed);
    }
}

/// Passes each published price on. Those of symbols whose price was published while the rules were
/// loaded are the first: it may be long before they change.
fn listen(prices: &PriceEngine, engine: AlertEngine) -> PriceListener {
    prices.on_price(move |tick| {
        let symbol = tick.symbol.as_str();
        match tick.stale {
            true => engine.stale(symbol),
            false => engine.price(
                symbol,
                (tick.price, tick.formed_us),
                tick.traded,
                tick.names.iter().copied(),
            ),
        }
    })
}
