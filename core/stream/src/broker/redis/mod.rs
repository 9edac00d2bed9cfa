//! Redis broker: the broker of several servers, called nodes, that share their channels.
//!
//! A channel that clients or back ends publish to is *shared*: its position and its history are in
//! Redis, and each publication reaches the clients of all nodes. The channels of an engine that one
//! node runs for all are shared too: the script refuses a publication of a node that does not own
//! the engine any more ([`Fence`]). A channel that only this server's own engines publish to is
//! local, in a [`MemoryBroker`]: each node has engines of its own.
//!
//! ```text
//!  publish ──► queue ──► writer ──(script publish)──► Redis ──(SPUBLISH)──► subscriber ──► hub
//!                                                       ▲                        │
//!  history ──► reads ──► calls ──(script history)───────┤                        ▼
//!                                                       └──(script check)── catch-up
//! ```
//!
//! - [`servers`]: the connections to each server of Redis.
//! - [`queue`] and [`writer`]: all that waits for a channel is one batch, under one number.
//! - [`subscriber`] and [`positions`]: one `SSUBSCRIBE` for each channel that a client of this node
//!   is subscribed to. A batch is delivered if it follows the newest position.
//! - [`catch_up`]: otherwise, and after each (re)subscription, the channel is compared with Redis,
//!   and what is missing is read from the history.
//! - [`server_id`]: in a cluster, a batch names its server, and one of a replaced master is not delivered.
//! - [`asking`]: in a cluster, a command follows its keys to the server that a slot is on its way to.
//! - [`fences`]: in a cluster, no script sees a lease, and a copy of its term is beside each channel.
//! - [`owed`]: a history channel that lost a publication of an engine begins a new epoch.
//! - [`reads`], [`tail`] and [`kept_pages`]: a history, or each page of a long one, is read once for all
//!   clients that recover within seconds.
//!
//! Revocations and questions to other nodes go another way ([`control`], [`nodes`]).
//!
//! With [`Sentinels`], a connection is one to the master, and is opened again when there is another. In
//! a [`Cluster`], the parts above exist for each of its masters, and [`route`] knows the one of each
//! channel.
//!
//! The scripts are in `scripts/`. Times are those of the clock of Redis, so that the clocks of the
//! nodes may differ.

mod asking;
mod buffer;
mod calls;
mod catch_up;
mod control;
mod fences;
mod health;
mod hearing;
mod history;
mod kept_answers;
mod kept_pages;
mod keys;
mod link_names;
mod loss_log;
mod moving;
mod nodes;
mod owed;
mod positions;
mod probe;
mod publishing;
mod queue;
mod reads;
mod record;
mod route;
mod script;
mod server_id;
mod servers;
mod setup;
mod shares;
mod subscriber;
mod tail;
mod unavailable;
mod versions;
mod writer;

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tidewire_proto::v1::ErrorCode;
use tidewire_redis::{address, connection, error, resp};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};

pub use tidewire_redis::{
    CertificateFiles, Cluster, NodeProtocol, RedisAddress, RedisError, RedisOptions, RedisTls,
    Sentinels,
};

use self::{
    buffer::Buffer,
    calls::Calls,
    catch_up::CatchUp,
    control::{ControlTask, ControlTasks},
    fences::Fences,
    health::{Link, LinkHealth},
    keys::KeyNames,
    nodes::Nodes,
    owed::OwedEpochs,
    positions::{JoinState, Positions},
    queue::{Mode, Queue},
    reads::Reads,
    resp::Reply,
    route::{Place, Route},
    servers::Servers,
    shares::ClientShares,
    subscriber::{Change, SubscriptionTask},
    tail::TailBudget,
    unavailable::Unavailable as _,
    writer::{RecentPositions, Writer},
};
use super::{
    Answers, Broker, BrokerFuture, BrokerLink, ControlHandler, Fence, History, LocalDelivery,
    MemoryBroker, NodeTag, PageLimit, PublishFuture, Reach, Recipients, Sender, SnapshotEntry,
    memory::MemoryLimits,
};
use crate::{
    ChannelName, Class, Content, Epoch, Event, Namespace, Namespaces, Position, SharedClock,
    StoredPublication, StreamError, Urgency, auth::Revocation,
};

/// Queues, and connections that publish to each server. A channel always has the same queue.
const WRITERS: u64 = 2;

/// The broker of several servers that share their channels.
#[derive(Debug)]
pub struct RedisBroker<D> {
    /// Broker of the channels of this server's own engines.
    local: MemoryBroker<D>,
    namespaces: Arc<Namespaces>,
    subscribers: Arc<D>,
    options: RedisOptions,
    keys: KeyNames,
    health: Arc<LinkHealth>,
    queues: Vec<Arc<Queue>>,
    buffer: Arc<Buffer>,
    catch_up: Arc<CatchUp<D>>,
    owed: Arc<OwedEpochs>,
    changes: mpsc::UnboundedSender<Change>,
    tails: TailBudget,
    shares: ClientShares,
    calls: Calls,
    nodes: Arc<Nodes>,
    fences: Arc<Fences>,
    tasks: Vec<AbortHandle>,
    control: OnceLock<ControlTasks>,
    /// Whether Redis lacks a revocation of this node.
    is_behind: Arc<AtomicBool>,
}

impl<D> Drop for RedisBroker<D> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl<D: LocalDelivery> RedisBroker<D> {
    /// A broker that connects to Redis, and again whenever that is needed. Call it within a
    /// runtime, which its tasks run on.
    ///
    /// # Errors
    /// The server answers, and is not fit: it is older than 7.0, it evicts, or it refuses the
    /// user. A server that does not answer is no error: it may come later.
    pub async fn start(
        namespaces: Arc<Namespaces>,
        subscribers: Arc<D>,
        clock: SharedClock,
        limits: MemoryLimits,
        options: RedisOptions,
    ) -> Result<Self, StreamError> {
        let node: Arc<str> = Epoch::random().as_str().into();
        let keys = KeyNames::new(&options.prefix, options.address.database);
        let keys = match options.cluster.is_empty() {
            true => keys,
            false => keys.in_cluster(),
        };
        let route = Route::new(&options.cluster, &keys);
        let health = Arc::new(LinkHealth::new(route.clone()));
        setup::check(&options, &keys, &node, &route, &health).await?;
        let calls = Calls::new(&options, &route, health.clone());
        let reads = Reads::new(
            calls.clone(),
            keys.clone(),
            namespaces.clone(),
            limits.history_bytes,
        );
        let positions = Arc::new(Positions::default());
        let catch_up = CatchUp::new(
            positions.clone(),
            reads,
            calls.clone(),
            keys.clone(),
            namespaces.clone(),
            subscribers.clone(),
        );
        let (sender, changes) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        if !options.cluster.is_empty() {
            let watch = options.cluster.clone().watch(options.clone());
            tasks.push(tokio::spawn(watch).abort_handle());
        }
        if !options.sentinels.is_empty() {
            let watch = options.sentinels.clone().watch(options.clone());
            tasks.push(tokio::spawn(watch).abort_handle());
        }
        let owed = OwedEpochs::new(namespaces.clone(), route.clone());
        tasks.push(tokio::spawn(owed.clone().run(catch_up.clone())).abort_handle());
        let fences = Fences::new(keys.clone(), calls.clone());
        let buffer = Buffer::new(options.buffer_bytes);
        let (mut queues, mut writers) = (Vec::new(), Vec::new());
        for index in 0..WRITERS {
            let queue = Queue::new(buffer.clone(), route.clone());
            writers.push(Writer {
                options: options.clone(),
                keys: keys.clone(),
                route: route.clone(),
                place: Place::Nowhere,
                node: format!("{node}.{index}").into(),
                link: Link::Publishing(Place::Nowhere, index),
                idempotency_ms: limits
                    .idempotency_window
                    .as_millis()
                    .max(1)
                    .to_string()
                    .into(),
                namespaces: namespaces.clone(),
                health: health.clone(),
                positions: positions.clone(),
                queue: queue.clone(),
                server: None,
                owed: owed.clone(),
                fences: fences.clone(),
                cuts: 0,
                seen: Arc::new(Mutex::new(RecentPositions::default())),
            });
            queues.push(queue);
        }
        let subscriber = {
            let (options, keys, route) = (options.clone(), keys.clone(), route.clone());
            let (health, calls, catch_up) = (health.clone(), calls.clone(), catch_up.clone());
            move |place, changes| SubscriptionTask {
                options: options.clone(),
                keys: keys.clone(),
                route: route.clone(),
                place,
                node: node.clone(),
                health: health.clone(),
                calls: calls.clone(),
                catch_up: catch_up.clone(),
                changes,
                probes: 0,
            }
        };
        let servers = Servers {
            route,
            health: health.clone(),
            positions,
            queues: queues.clone(),
            changes,
            writers,
            subscriber: Box::new(subscriber),
        };
        tasks.push(tokio::spawn(servers.run()).abort_handle());
        let local = MemoryBroker::new(namespaces.clone(), subscribers.clone(), clock, limits);
        let tag = NodeTag::random();
        let nodes = Nodes::new(tag, keys.clone(), calls.clone(), &options, health.clone());
        Ok(Self {
            local,
            namespaces,
            subscribers,
            options,
            keys,
            health,
            queues,
            buffer,
            catch_up,
            owed,
            changes: sender,
            tails: TailBudget::default(),
            shares: ClientShares::new(limits.channels_per_client),
            calls,
            nodes,
            fences,
            tasks,
            control: OnceLock::new(),
            is_behind: Arc::default(),
        })
    }

    /// Whether a channel is in Redis: somebody else than the engines of this server publishes to
    /// it.
    fn is_shared(&self, channel: &ChannelName) -> bool {
        let namespace = self.namespaces.get(channel);
        namespace.is_some_and(Namespace::is_shared)
    }

    fn positions(&self) -> &Positions {
        &self.catch_up.positions
    }

    /// Waits for a read of a channel's history until its deadline.
    async fn in_time(
        &self,
        channel: &ChannelName,
        read: impl Future<Output = Result<History, RedisError>>,
    ) -> Result<History, StreamError> {
        let error = match timeout(self.options.timeout, read).await {
            Ok(Ok(history)) => return Ok(history),
            Ok(Err(error)) => error,
            Err(_) => self.timed_out(channel),
        };
        Err(error.unavailable("the history cannot be read"))
    }

    /// The error of work on a channel that took too long.
    fn timed_out(&self, channel: &ChannelName) -> RedisError {
        let place = self.health.place_of(channel);
        self.health.timed_out(&place, self.options.timeout)
    }

    async fn join_shared(&self, channel: &ChannelName) -> Result<(), StreamError> {
        let Some(namespace) = self.namespaces.get(channel) else {
            return Ok(());
        };
        let JoinState::Waiting { ready, is_first } =
            self.positions().join(channel, namespace.class)
        else {
            return Ok(());
        };
        if is_first {
            self.announce(channel);
        }
        let not_followed =
            |error: RedisError| error.unavailable("the channel cannot be subscribed to");
        match timeout(self.options.timeout, ready).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(not_followed(RedisError::Connection(
                "the broker has ended".to_owned(),
            ))),
            Err(_) => Err(not_followed(self.timed_out(channel))),
        }
    }

    /// Tells the subscriber that this node joined a channel, or left it.
    fn announce(&self, channel: &ChannelName) {
        // It listens as long as the broker exists.
        let _ = self.changes.send(Change(channel.clone()));
    }

    /// Begins a new epoch: in any case with the mode `restart`, and of a personal channel with `personal` if
    /// none began in the present term of the shared store.
    async fn restart_shared(
        &self,
        channel: &ChannelName,
        mode: &'static str,
    ) -> Result<(), StreamError> {
        let Some(namespace) = self.namespaces.get(channel) else {
            return Ok(());
        };
        let restarted = self.catch_up.check(channel, None, namespace, mode).await;
        restarted
            .map(drop)
            .map_err(|error| error.unavailable("no new epoch has begun"))
    }
}

impl<D: LocalDelivery> Broker for RedisBroker<D> {
    fn offer(&self, channel: &ChannelName, event: Event, urgency: Urgency) {
        match self.is_shared(channel) {
            true => self.offer_shared(channel, (&event.into(), urgency), Mode::Any, None),
            false => self.local.offer(channel, event, urgency),
        }
    }

    fn offer_once(
        &self,
        channel: &ChannelName,
        event: Event,
        urgency: Urgency,
        key: &str,
    ) -> PublishFuture {
        match self.is_shared(channel) {
            true => self.offer_shared_once(channel, event, urgency, key, None),
            false => self.local.offer_once(channel, event, urgency, key),
        }
    }

    fn offer_fenced_once(
        &self,
        channel: &ChannelName,
        event: Event,
        key: &str,
        fence: &Arc<Fence>,
    ) -> PublishFuture {
        let urgency = Urgency::Ordinary;
        match self.is_shared(channel) {
            true => self.offer_shared_once(channel, event, urgency, key, Some(fence)),
            false => self.local.offer_once(channel, event, urgency, key),
        }
    }

    fn offer_fenced(&self, channel: &ChannelName, event: Event, fence: &Arc<Fence>) {
        if !self.is_shared(channel) {
            return self.local.offer(channel, event, Urgency::Ordinary);
        }
        let content = (&event.into(), Urgency::Ordinary);
        self.offer_shared(channel, content, Mode::Any, Some(fence));
    }

    fn raise_fence<'a>(&'a self, fence: &'a Fence) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            self.fences.raise(fence).await;
            Ok(())
        })
    }

    fn offer_if_known(
        &self,
        channel: &ChannelName,
        content: Content,
        urgency: Urgency,
        fence: Option<&Arc<Fence>>,
    ) -> bool {
        if !self.is_shared(channel) {
            return self.local.offer_if_known(channel, content, urgency, None);
        }
        // The script finds out: a client of another node may be subscribed.
        self.offer_shared(channel, (&content, urgency), Mode::Known, fence);
        true
    }

    fn is_known(&self, channel: &ChannelName) -> bool {
        self.is_shared(channel) || self.local.is_known(channel)
    }

    fn join<'a>(&'a self, channel: &'a ChannelName) -> Option<BrokerFuture<'a, ()>> {
        let is_shared = self.is_shared(channel);
        is_shared.then(|| -> BrokerFuture<'a, ()> { Box::pin(self.join_shared(channel)) })
    }

    fn touch(&self, channel: &ChannelName) {
        // A personal channel is made when this node joins it.
        if !self.is_shared(channel) {
            self.local.touch(channel);
        }
    }

    fn note_left(&self, channel: &ChannelName) {
        match self.is_shared(channel) {
            true => self.positions().note_left(channel),
            false => self.local.note_left(channel),
        }
    }

    fn forget_quiet(&self, namespace: &str) -> Vec<ChannelName> {
        let is_shared = self
            .namespaces
            .named(namespace)
            .is_some_and(Namespace::is_shared);
        if !is_shared {
            return self.local.forget_quiet(namespace);
        }
        // The channels of the clients of this node. Those of other nodes are not reached yet.
        let mut names = self.positions().names();
        names.retain(|name| name.namespace() == namespace);
        names
    }

    fn publish<'a>(
        &'a self,
        channel: &'a ChannelName,
        event: Event,
        idempotency_key: Option<&'a str>,
        sender: Sender,
    ) -> BrokerFuture<'a, Position> {
        if !self.is_shared(channel) {
            return self.local.publish(channel, event, idempotency_key, sender);
        }
        Box::pin(async move {
            self.publish_shared(channel, event, idempotency_key, &sender)
                .await
        })
    }

    fn history<'a>(
        &'a self,
        channel: &'a ChannelName,
        since: Option<&'a Position>,
        limit: PageLimit,
    ) -> BrokerFuture<'a, History> {
        let namespace = self.namespaces.get(channel);
        match namespace.filter(|one| one.is_shared()) {
            None => self.local.history(channel, since, limit),
            Some(namespace) => Box::pin(async move {
                if since.is_some() && namespace.is_personal() && !self.positions().contains(channel)
                {
                    // Its position may be of an earlier term of the shared store.
                    let checked = self.catch_up.check(channel, None, namespace, "personal");
                    checked
                        .await
                        .map_err(|error| error.unavailable("the history cannot be read"))?;
                }
                let read = history::read(&self.catch_up.reads, channel, namespace, since, limit);
                self.in_time(channel, read).await
            }),
        }
    }

    fn recover<'a>(
        &'a self,
        channel: &'a ChannelName,
        since: Option<&'a Position>,
        limit: PageLimit,
    ) -> BrokerFuture<'a, History> {
        let namespace = self.namespaces.get(channel);
        let (Some(namespace), Some(state)) = (namespace, self.positions().get(channel)) else {
            return self.history(channel, since, limit);
        };
        match since {
            Some(since) if namespace.class == Class::History => Box::pin(async move {
                let reads = &self.catch_up.reads;
                let tail = (&state, self.positions(), &self.tails);
                let read = history::recover(reads, channel, namespace, since, limit, tail);
                self.in_time(channel, read).await
            }),
            None if limit.items == 0 => {
                let top = state.lock().settled_top().cloned();
                let Some(top) = top else {
                    return self.history(channel, since, limit);
                };
                Box::pin(std::future::ready(Ok(History {
                    top,
                    publications: Vec::new(),
                    reach: Reach::Complete,
                })))
            }
            _ => self.history(channel, since, limit),
        }
    }

    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        publications: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()> {
        if !self.is_shared(channel) {
            return self.local.restore(channel, epoch, publications);
        }
        let text = format!("{channel} is shared by several servers, and cannot be restored by one");
        let error = StreamError::new(ErrorCode::FailedPrecondition, text);
        Box::pin(std::future::ready(Err(error)))
    }

    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        match self.is_shared(channel) {
            true => Box::pin(self.restart_shared(channel, "restart")),
            false => self.local.start_new_epoch(channel),
        }
    }

    fn start_epoch_of_term<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        match self.is_shared(channel) {
            true => Box::pin(self.restart_shared(channel, "personal")),
            false => self.local.start_new_epoch(channel),
        }
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        match self.is_shared(channel) {
            true => Box::pin(self.restart_shared(channel, "restart")),
            false => self.local.forget(channel),
        }
    }

    fn save(&self) -> Box<dyn Iterator<Item = SnapshotEntry> + '_> {
        self.local.save()
    }

    fn load(&self, saved: &SnapshotEntry) -> Result<(), StreamError> {
        self.local.load(saved)
    }

    fn over_budget(&self) -> BrokerFuture<'_, ()> {
        self.local.over_budget()
    }

    fn history_bytes(&self) -> usize {
        self.local.history_bytes() + self.tails.bytes() + self.catch_up.reads.kept_bytes()
    }

    fn sweep(&self) {
        self.local.sweep();
        self.positions().sweep_tails();
        self.catch_up.reads.sweep();
        let has_subscribers = |channel: &ChannelName| self.subscribers.has_subscribers(channel);
        for channel in self.positions().take_unused(has_subscribers) {
            self.announce(&channel);
        }
    }

    fn link(&self) -> Option<BrokerLink> {
        Some(BrokerLink {
            fault: self.health.fault(),
            is_available: self.health.is_available(),
            is_whole: self.health.is_whole(),
            waiting_bytes: self.buffer.used(),
            node_protocol: self.nodes.agreed(),
        })
    }

    fn listen_to_operators(
        &self,
        handler: Weak<dyn ControlHandler>,
    ) -> Option<BrokerFuture<'_, ()>> {
        let (ready, is_ready) = oneshot::channel();
        self.control.get_or_init(|| {
            let task = ControlTask {
                options: self.options.clone(),
                keys: self.keys.clone(),
                nodes: self.nodes.clone(),
                health: self.health.clone(),
                calls: self.calls.clone(),
                handler,
                is_behind: self.is_behind.clone(),
                ready: Some(ready),
            };
            ControlTasks {
                listening: tokio::spawn(task.run()).abort_handle(),
                lease: tokio::spawn(self.nodes.clone().keep_lease()).abort_handle(),
            }
        });
        Some(Box::pin(async move {
            let is_away = !self.health.is_whole();
            if !is_away && timeout(self.options.timeout, is_ready).await.is_err() {
                tracing::warn!("the revocations of other servers come later: Redis is slow");
            }
            Ok(())
        }))
    }

    fn spread<'a>(
        &'a self,
        revocation: &'a Revocation,
        expires_at_ms: i64,
    ) -> Option<BrokerFuture<'a, ()>> {
        let call = control::call(&self.keys, self.nodes.tag, revocation, expires_at_ms);
        Some(Box::pin(async move {
            let sent = self.calls.script(call).await.and_then(Reply::text);
            sent.map(drop).map_err(|error| {
                self.is_behind.store(true, Ordering::Release);
                error.unavailable("it is done on this server, and the others have not been told")
            })
        }))
    }

    fn node_tag(&self) -> Option<NodeTag> {
        Some(self.nodes.tag)
    }

    fn other_nodes(&self) -> usize {
        self.nodes.others()
    }

    fn ask<'a>(
        &'a self,
        whom: Recipients,
        question: &'a [u8],
    ) -> Option<BrokerFuture<'a, Answers>> {
        Some(Box::pin(async move {
            let asked = self.nodes.ask(whom, question).await;
            asked.map_err(|error| error.unavailable("the other servers cannot be asked"))
        }))
    }

    fn flush(&self) -> BrokerFuture<'_, ()> {
        Box::pin(async move {
            self.buffer.emptied().await;
            if let Some(control) = self.control.get() {
                control.lease.abort();
                self.nodes.leave().await;
            }
            Ok(())
        })
    }
}

/// Whether the text may be a prefix of keys.
///
/// # Errors
/// The part that is wrong.
pub fn check_prefix(prefix: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if (1..=64).contains(&prefix.len()) && prefix.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(format!(
        "is {prefix:?}, expected 1 to 64 letters, digits, `-`, `_`, `.` or `:`"
    ))
}
