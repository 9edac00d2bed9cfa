//! Subscription task: the connection to a server on which this node hears of publications, its own too.
//!
//! Each channel is one `SSUBSCRIBE`, and the server may end each by itself: a `sunsubscribe` that
//! was not asked for, as when a slot moves, is answered by another `SSUBSCRIBE`. If the slot has moved
//! to another server of a cluster, the answer says so, and that one's task subscribes to the channel.
//! After each `ssubscribe` the channel is compared with Redis ([`CatchUp`]). It is also compared when a
//! batch names another server than that of the connection ([`server_id`](super::server_id)).
//!
//! The connection probes itself once a second: a ping, which the server answers, and a publication
//! on a shard channel of its own, which shows that publishing and pub/sub work. Without them it is
//! opened again. A server that has not answered a ping for a while may have been replaced: what it sends
//! afterwards waits until the sentinels or the cluster have confirmed that it is still the master.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    address::RedisOptions,
    calls::{Calls, RedisCommand, backoff},
    catch_up::CatchUp,
    connection::RedisConnection,
    error::RedisError,
    health::{Link as HealthLink, LinkHealth},
    keys::KeyNames,
    probe,
    record::BatchMessage,
    resp::{self, Reply},
    route::{Place, Route},
    server_id::ServerId,
};
use crate::{Backoff, ChannelName, broker::LocalDelivery};

/// Time between two probes.
const PROBE: Duration = Duration::from_secs(1);

/// Time for which probes may stay away beyond the longest wait for an answer.
const PROBE_GRACE: Duration = Duration::from_secs(2);

/// Subscriptions that the server has not confirmed yet at most: its answers must not fill the
/// buffer that it has for this connection.
const UNCONFIRMED: usize = 512;

/// A change of the channels of this node. The table of channels decides; this says where to look.
#[derive(Debug)]
pub(super) struct Change(pub(super) ChannelName);

/// The task of the connection.
pub(super) struct SubscriptionTask<D> {
    pub(super) options: RedisOptions,
    pub(super) route: Route,
    pub(super) place: Place,
    pub(super) keys: KeyNames,
    pub(super) node: Arc<str>,
    pub(super) health: Arc<LinkHealth>,
    pub(super) calls: Calls,
    pub(super) catch_up: Arc<CatchUp<D>>,
    pub(super) changes: mpsc::UnboundedReceiver<Change>,
    /// Number of the last probe.
    pub(super) probes: u64,
}

/// State of one connection.
struct Link {
    connection: RedisConnection,
    /// The server, if it can be told from those whose batches come over the bus of a cluster.
    server: Option<ServerId>,
    /// The name in the keys of the probe, and its shard channel.
    prober: String,
    probe: Bytes,
    /// Channels to subscribe to.
    pending: VecDeque<ChannelName>,
    unconfirmed: usize,
    heard_at: Instant,
    /// When the oldest ping that is not answered was sent.
    pinged_at: Option<Instant>,
    probe_heard_at: Instant,
    /// When a probe was last sent with success.
    probe_sent_at: Arc<Mutex<Option<Instant>>>,
}

impl Link {
    /// Whether another server's script made a batch.
    fn is_of_another_server(&self, batch: &BatchMessage<'_>) -> bool {
        let own = self.server.as_ref();
        own.is_some_and(|own| own.is_other_than(batch.server))
    }
}

impl<D: LocalDelivery> SubscriptionTask<D> {
    /// Listens until the place has no channels any more, or until it is aborted.
    pub(super) async fn run(mut self) {
        let mut backoff = backoff();
        let (route, place) = (self.route.clone(), self.place.clone());
        while !route.is_gone(&place) {
            let version = self.options.sentinels.version();
            let listened = tokio::select! {
                listened = self.listen(&mut backoff) => listened,
                () = route.gone(&place) => return,
            };
            match listened {
                Ok(()) => return,
                Err(error) => self.health.fail(self.link(), &error),
            }
            let pause = backoff.next_pause();
            tokio::select! {
                () = self.options.sentinels.pause(version, pause) => {}
                () = route.gone(&place) => {}
            }
        }
    }

    fn link(&self) -> HealthLink {
        HealthLink::Subscriptions(self.place.clone())
    }

    /// The channels of this node at the place.
    fn names(&self) -> VecDeque<ChannelName> {
        let mut names = self.catch_up.positions.names();
        names.retain(|channel| self.route.of(channel) == self.place);
        names.into()
    }

    async fn listen(&mut self, backoff: &mut Backoff) -> Result<(), RedisError> {
        // A new connection subscribes to all channels of the table. Changes of an outage would
        // only grow.
        while self.changes.try_recv().is_ok() {}
        let master = self.place.master();
        let mut connection = RedisConnection::open_master(&self.options, master).await?;
        let prober = probe::name(&self.keys, &self.node, &self.route, &self.place);
        let prober = prober.ok_or_else(|| {
            RedisError::Connection("no name of a probe is in a slot of the server".to_owned())
        })?;
        let probe = self.keys.probe(&prober);
        let server = ServerId::ask(&mut connection, &self.route).await?;
        if server.is_none() && self.route.is_cluster() {
            tracing::warn!(
                link = %self.link(),
                "the server does not tell its id: after a failover, subscribers may get a publication of the replaced master: allow `+cluster|myid`"
            );
        }
        subscribe(&mut connection, &probe).await?;
        let now = Instant::now();
        let mut link = Link {
            connection,
            server,
            prober,
            probe,
            pending: self.names(),
            unconfirmed: 1,
            heard_at: now,
            pinged_at: None,
            probe_heard_at: now,
            probe_sent_at: Arc::default(),
        };
        let mut probes = interval(PROBE);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut comparisons = interval(self.options.comparison);
        comparisons.set_missed_tick_behavior(MissedTickBehavior::Delay);
        comparisons.reset();
        self.check_eviction();
        loop {
            while let Some(reply) = link.connection.arrived()? {
                self.receive(&mut link, reply, backoff)?;
            }
            self.subscribe_pending(&mut link).await?;
            tokio::select! {
                filled = link.connection.fill() => {
                    filled?;
                    // A master that was replaced while it hung sends what it then published for nobody.
                    if let Some(pinged_at) = link.pinged_at {
                        let silent_since = pinged_at.max(link.heard_at);
                        link.connection
                            .confirm_master(&self.options, silent_since)
                            .await?;
                    }
                }
                change = self.changes.recv() => match change {
                    Some(Change(channel)) => self.apply(&mut link, channel).await?,
                    None => return Ok(()),
                },
                _ = probes.tick() => self.probe(&mut link).await?,
                _ = comparisons.tick() => {
                    self.check_eviction();
                    for channel in self.names() {
                        self.catch_up.start(&channel);
                    }
                }
            }
        }
    }

    /// Subscribes to a channel that this node has now, or leaves one that it has no more.
    async fn apply(&self, link: &mut Link, channel: ChannelName) -> Result<(), RedisError> {
        if self.catch_up.positions.contains(&channel) {
            link.pending.push_back(channel);
            return Ok(());
        }
        if self.route.of(&channel) != self.place {
            return Ok(());
        }
        let mut command = Vec::new();
        let name = self.keys.shard_channel(&channel);
        resp::encode(&mut command, &[&b"SUNSUBSCRIBE"[..], &name]);
        link.connection.send(&command).await
    }

    async fn subscribe_pending(&self, link: &mut Link) -> Result<(), RedisError> {
        let mut commands = Vec::new();
        while link.unconfirmed < UNCONFIRMED
            && let Some(channel) = link.pending.pop_front()
        {
            let name = self.keys.shard_channel(&channel);
            resp::encode(&mut commands, &[&b"SSUBSCRIBE"[..], &name]);
            link.unconfirmed += 1;
        }
        match commands.is_empty() {
            true => Ok(()),
            false => link.connection.send(&commands).await,
        }
    }

    fn receive(
        &self,
        link: &mut Link,
        reply: Reply,
        backoff: &mut Backoff,
    ) -> Result<(), RedisError> {
        link.heard_at = Instant::now();
        let parts = match reply {
            // The answer to a ping before the first subscription.
            Reply::Text(_) => {
                link.pinged_at = None;
                return Ok(());
            }
            Reply::Error(text) => {
                return match RedisError::Refused(text) {
                    // A server that cannot save refuses pings too.
                    error if error.refuses_writes() => {
                        link.pinged_at = None;
                        Ok(())
                    }
                    // The connection has noted where the slot is. The task of that server subscribes.
                    error if error.is_redirection() => {
                        link.unconfirmed = link.unconfirmed.saturating_sub(1);
                        Ok(())
                    }
                    error => Err(error),
                };
            }
            reply => reply.array()?,
        };
        let mut parts = parts.into_iter();
        let (Some(Reply::Text(kind)), Some(Reply::Text(name))) = (parts.next(), parts.next())
        else {
            return Err(RedisError::Protocol(
                "a message without a kind came".to_owned(),
            ));
        };
        match &*kind {
            b"pong" => link.pinged_at = None,
            b"smessage" if name == link.probe => link.probe_heard_at = link.heard_at,
            b"smessage" => {
                if let Some(Reply::Text(message)) = parts.next() {
                    self.deliver(link, &name, &message);
                }
            }
            b"ssubscribe" => {
                link.unconfirmed = link.unconfirmed.saturating_sub(1);
                if name == link.probe {
                    backoff.reset();
                    self.health.recover(&self.link());
                } else if let Some(channel) = self.keys.channel(&name) {
                    self.catch_up.start(&channel);
                }
            }
            b"sunsubscribe" if name == link.probe => {
                return Err(RedisError::Connection(
                    "the server ended the probe".to_owned(),
                ));
            }
            b"sunsubscribe" => {
                if let Some(channel) = self.keys.channel(&name)
                    && self.catch_up.positions.contains(&channel)
                {
                    link.pending.push_back(channel);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn deliver(&self, link: &Link, name: &[u8], message: &[u8]) {
        let Some(channel) = self.keys.channel(name) else {
            return;
        };
        if message.is_empty() {
            // It was published on the server that the slot is on its way to.
            self.catch_up.start(&channel);
            return;
        }
        match BatchMessage::parse(message) {
            // It came over the bus of the cluster. The history of the own server is the truth.
            Some(batch) if link.is_of_another_server(&batch) => self.catch_up.start(&channel),
            Some(batch) => self.catch_up.receive(&channel, &batch),
            None => {
                tracing::warn!(%channel, "a message of another node cannot be read");
                self.catch_up.start(&channel);
            }
        }
    }

    /// Sends a ping and a publication to itself, and looks for those of before.
    async fn probe(&mut self, link: &mut Link) -> Result<(), RedisError> {
        link.connection.check_master()?;
        let now = Instant::now();
        let longest = self.options.timeout.max(PROBE) + PROBE_GRACE;
        if now.duration_since(link.heard_at) > longest {
            return Err(RedisError::TimedOut(longest.as_millis()));
        }
        let sent_at = *link.probe_sent_at.lock();
        if sent_at
            .is_some_and(|sent_at| sent_at.saturating_duration_since(link.probe_heard_at) > longest)
        {
            return Err(RedisError::Connection(
                "pub/sub delivers nothing: the node does not hear itself".to_owned(),
            ));
        }
        let mut ping = Vec::new();
        resp::encode(&mut ping, &["PING"]);
        link.pinged_at.get_or_insert(now);
        link.connection.send(&ping).await?;
        self.probes += 1;
        let [publish, ..] = probe::calls(&self.keys, &link.prober, self.probes);
        let (calls, health) = (self.calls.clone(), self.health.clone());
        let writes = HealthLink::Writes(self.place.clone());
        let sent_at = link.probe_sent_at.clone();
        tokio::spawn(async move {
            match calls.script(publish).await.and_then(Reply::text) {
                Ok(_) => {
                    health.recover(&writes);
                    *sent_at.lock() = Some(Instant::now());
                }
                Err(error) => health.fail(writes, &error),
            }
        });
        Ok(())
    }

    /// Finds out whether the server drops keys, in a task of its own: it may be another server
    /// than at the start, or have another configuration.
    fn check_eviction(&self) {
        let (calls, health) = (self.calls.clone(), self.health.clone());
        let place = self.place.clone();
        let link = HealthLink::Eviction(place.clone());
        tokio::spawn(async move {
            let question = RedisCommand::Plain(probe::eviction_question());
            // A server that does not answer is another fault.
            match probe::eviction_fault(calls.call_at(&place, question).await) {
                Ok(Some(fault)) => health.fail(link, &fault),
                Ok(None) => health.recover(&link),
                Err(_) => {}
            }
        });
    }
}

async fn subscribe(connection: &mut RedisConnection, name: &[u8]) -> Result<(), RedisError> {
    let mut command = Vec::new();
    resp::encode(&mut command, &[b"SSUBSCRIBE", name]);
    connection.send(&command).await
}
