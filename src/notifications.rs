//! Notifications: opens the hub on the store, and publishes its events to the users' connections.
//!
//! An event of one user is published on `user:{id}` ([`UserPushes`]): at once, or gathered with
//! others by priority. A broadcast is one event of the hub, and one push to each user who is
//! connected or was until a moment ago: the fan-out task makes these in chunks and yields between
//! them. All others find the broadcast in their list, and are not recovered. A notification to a
//! channel is published at once, whatever its priority, so that it stays between the messages of
//! its time.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tidewire_notification::{
    EventSink, HubEvent, NotificationConfig, NotificationError, NotificationHub, NotificationId,
    NotificationSummary, Unreached, UserPushes,
};
use tidewire_proto::v1::{ErrorCode, Notification, Priority, server_message::Data};
use tidewire_service::NotifyRpc;
use tidewire_stream::{
    ChannelName, DurablePublisher as _, SharedClock, StreamCore, StreamError, Urgency, UserId,
    channel::PERSONAL,
};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    delivery::{DeliveryChannels, OpenChannels},
    engine_store::{EngineStore, StoreTerm},
    term_clock::TermClock,
    unserved_term::UnservedTerm,
};

/// Time between two attempts to open the hub on a store that fails.
const RETRY: Duration = Duration::from_secs(1);

/// Users in one chunk of a fan-out. Their states are read together, so that a store that has
/// to read them reads in one group.
const CHUNK: usize = 256;

/// Broadcasts that wait for the fan-out. Beyond it, connected users get a `gap` instead.
const QUEUE: usize = 1_024;

/// The reason for which a replay beside another one has no notifications and no alerts.
pub(crate) const NO_STORE: &str = "a replay has no store to keep them in if another process has its folder: stop that one, or set another folder in `store.path`";

/// Time from another owner of a shared store until connected users are told to read their lists
/// again: its hub has opened by then.
const TAKEOVER: Duration = Duration::from_millis(500);

/// Longest time from the first user of a node who is told so to the last.
const GAP_TIME: Duration = Duration::from_secs(10);

/// Longest time from one of them to the next.
const GAP_PAUSE: Duration = Duration::from_millis(2);

/// Notifications of a server. The hub may open later than the server starts, and again in each
/// term of a shared store.
pub(crate) struct Notifications {
    service: NotifyRpc,
    stream: Arc<StreamCore>,
    store: EngineStore,
    clock: SharedClock,
    config: NotificationConfig,
    sink: Arc<ChannelSink>,
    fan_outs: mpsc::Receiver<FanOut>,
    urgent_fan_outs: mpsc::Receiver<FanOut>,
    channel_outcomes: ChannelOutcomes,
    open: Option<OpenHub>,
    delivery: Option<DeliveryChannels>,
    /// Why the last attempt to open the hub failed.
    failure: Option<NotificationError>,
    unserved: Arc<UnservedTerm>,
    /// The rest of terms that have ended.
    ended_terms: JoinSet<()>,
    /// Whether no later attempt can open it.
    is_closed: bool,
}

/// A hub that has opened, and does not work yet.
struct OpenHub {
    hub: NotificationHub,
    term: StoreTerm,
    clock: Option<TermClock>,
    delivery: Option<OpenChannels>,
}

impl Notifications {
    /// Notifications without a hub yet. Without a store there never is one: `service` returns
    /// the reason.
    pub(crate) fn new(
        service: &NotifyRpc,
        stream: &Arc<StreamCore>,
        store: Option<EngineStore>,
        clock: SharedClock,
        config: NotificationConfig,
        delivery: Option<DeliveryChannels>,
    ) -> Option<Self> {
        let Some(store) = store else {
            service.set_absence(NO_STORE.to_owned());
            return None;
        };
        let (sender, fan_outs) = mpsc::channel(QUEUE);
        let (urgent_sender, urgent_fan_outs) = mpsc::channel(QUEUE);
        let (outcome_sender, outcomes) = mpsc::channel(QUEUE);
        if let Err(error) = stream.register_summary(PERSONAL, Arc::new(NotificationSummary)) {
            tracing::error!(%error, "clients receive what they missed one by one");
        }
        if delivery.is_some() {
            service.delivery().announce();
        }
        let sink = ChannelSink {
            stream: stream.clone(),
            pushes: Arc::new(UserPushes::new(stream.clone())),
            fan_outs: sender,
            urgent_fan_outs: urgent_sender,
            channel_outcomes: outcome_sender,
            has_dropped: AtomicBool::new(false),
            unknown_namespaces: parking_lot::Mutex::default(),
        };
        Some(Self {
            service: service.clone(),
            stream: stream.clone(),
            store,
            clock,
            config,
            sink: Arc::new(sink),
            fan_outs,
            urgent_fan_outs,
            channel_outcomes: Arc::new(Mutex::new(outcomes)),
            open: None,
            delivery,
            failure: None,
            unserved: Arc::default(),
            ended_terms: JoinSet::new(),
            is_closed: false,
        })
    }

    /// The pushes to users, to close before clients are sent away.
    pub(crate) fn pushes(&self) -> Arc<UserPushes> {
        self.sink.pushes.clone()
    }

    /// Whether this node serves the shared store while it owns it.
    pub(crate) fn unserved(&self) -> Arc<UnservedTerm> {
        self.unserved.clone()
    }

    /// Opens the hub, if this node may. Call it before clients connect. A failure leaves the rest of
    /// the server as it is: [`run`](Self::run) repeats the attempt, and meanwhile requests return
    /// `unavailable`.
    pub(crate) async fn open(&mut self) {
        if let Some(term) = self.store.now() {
            self.open_on(term).await;
        }
    }

    async fn open_on(&mut self, term: StoreTerm) {
        let (own, config) = (self.clock.clone(), self.config.clone());
        let (store, sink) = (term.store.clone(), self.sink.clone());
        let opening = async {
            term.raise_fence(&self.stream).await;
            let shared = term.clock(&own).await?;
            let clock = shared.as_ref().map_or(own, TermClock::clock);
            let hub = NotificationHub::open(store, sink, clock.clone(), config).await?;
            Ok::<_, NotificationError>((hub, clock, shared))
        };
        match opening.await {
            Ok((hub, clock, term_clock)) => {
                if self.failure.take().is_some() {
                    tracing::info!("notifications are available again");
                }
                self.sink
                    .pushes
                    .begin_term(term.store.clone(), term.fence());
                let slot = self.service.delivery();
                let delivery = self.delivery.as_ref();
                let on = (&term.store, &clock);
                let delivery = delivery.map(|delivery| delivery.open(&hub, on, slot));
                self.service.set_hub(hub.clone(), term.store.clone());
                self.open = Some(OpenHub {
                    hub,
                    term,
                    clock: term_clock,
                    delivery,
                });
            }
            Err(error) => {
                if self.failure.as_ref() != Some(&error) {
                    tracing::error!(%error, "notifications cannot be opened");
                    self.set_absence(error.to_string());
                }
                // Only a store that fails now may work later. Another node may read a shared one, for
                // example a newer version of the server.
                let is_store_fault = matches!(error, NotificationError::Unavailable(_));
                self.is_closed = !is_store_fault && !term.give_up();
                self.failure = Some(error);
            }
        }
    }

    /// Says why there is no hub here. On a shared store another node will have one.
    fn set_absence(&self, reason: String) {
        match self.store.lease() {
            Some(_) => self.service.set_elsewhere(None, reason),
            None => self.service.set_absence(reason),
        }
    }

    /// Does the background work of the hub, and fans its broadcasts out, until cancelled.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let pushing = tokio::spawn({
            let (pushes, cancel) = (self.pushes(), cancel.clone());
            async move { pushes.run(cancel).await }
        });
        let telling = tokio::spawn({
            let (stream, store, cancel) = (self.stream.clone(), self.store.clone(), cancel.clone());
            async move {
                cancel
                    .run_until_cancelled(tell_of_terms(&stream, &store))
                    .await
            }
        });
        let watching = tokio::spawn({
            let watching = self
                .unserved()
                .watch(self.store.clone(), self.service.clone());
            let (cancel, is_shared) = (cancel.clone(), self.store.lease().is_some());
            async move {
                if is_shared {
                    cancel.run_until_cancelled(watching).await;
                }
            }
        });
        while let Some(Some(open)) = cancel.run_until_cancelled(self.opened()).await {
            self.serve(open, &cancel).await;
        }
        cancel.cancelled().await;
        while self.ended_terms.join_next().await.is_some() {}
        if pushing.await.is_err() || telling.await.is_err() || watching.await.is_err() {
            tracing::error!("the background work of notifications panicked");
        }
    }

    /// Works until the term of the store ends or the server stops.
    async fn serve(&mut self, open: OpenHub, cancel: &CancellationToken) {
        let OpenHub {
            hub,
            term,
            clock,
            delivery,
        } = open;
        let until = cancel.child_token();
        let clock = clock.map(|clock| {
            let until = until.clone();
            tokio::spawn(async move { clock.keep(until).await })
        });
        let background = tokio::spawn({
            let (hub, until) = (hub.clone(), until.clone());
            let (stream, outcomes) = (self.stream.clone(), self.channel_outcomes.clone());
            async move {
                let confirming = confirm_channels(&hub, &stream, &outcomes);
                tokio::join!(
                    hub.run(until.clone()),
                    until.run_until_cancelled(confirming)
                );
            }
        });
        let delivery = delivery.map(|delivery| delivery.run(term.clone(), until.clone()));
        let delivery = delivery.map(tokio::spawn);
        let fanning = async {
            while let Some(fan_out) = self.next_fan_out().await {
                self.fan_out(&hub, fan_out).await;
            }
        };
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            reason = term.ended() => Some(reason),
            () = fanning => None,
        };
        let term_has_ended = ended.is_some();
        if let Some(reason) = ended {
            tracing::warn!(%reason, "notifications end with the term of the shared store");
            self.sink.pushes.end_term();
            self.set_absence(reason.to_string());
            self.service.delivery().clear();
        }
        until.cancel();
        let rest = async move {
            if let Some(clock) = clock
                && clock.await.is_err()
            {
                tracing::error!("the clock of the shared store panicked");
            }
            if background.await.is_err() {
                tracing::error!("the background work of notifications panicked");
            }
            if let Some(delivery) = delivery
                && delivery.await.is_err()
            {
                tracing::error!("the delivery channels panicked");
            }
        };
        if !term_has_ended {
            return rest.await;
        }
        // The next term, or the way to the next owner, must not wait for it.
        while self.ended_terms.try_join_next().is_some() {}
        self.ended_terms.spawn(rest);
    }

    /// The hub, once it is open. None if no later attempt can open it.
    async fn opened(&mut self) -> Option<OpenHub> {
        while self.open.is_none() {
            if self.is_closed {
                return None;
            }
            if self.failure.is_some() {
                sleep(RETRY).await;
            }
            let service = self.service.clone();
            let absent = |node: Option<&str>, reason| service.set_elsewhere(node, reason);
            let term = self.store.term(absent).await;
            self.open_on(term).await;
        }
        self.open.take()
    }

    async fn next_fan_out(&mut self) -> Option<FanOut> {
        tokio::select! {
            biased;
            urgent = self.urgent_fan_outs.recv() => urgent,
            next = self.fan_outs.recv() => next,
        }
    }

    /// Publishes to each user who needs it. Urgent broadcasts have their turn after each chunk.
    async fn fan_out(&mut self, hub: &NotificationHub, fan_out: FanOut) {
        match fan_out {
            FanOut::Gap(user) => self.publish_gap_if_known(&user).await,
            // They come with those of a queue that had no room.
            FanOut::Gaps => {}
            fan_out => {
                let users = self.stream.users_to_reach();
                for users in users.chunks(CHUNK) {
                    while let Ok(urgent) = self.urgent_fan_outs.try_recv() {
                        self.publish_to_all(hub, urgent).await;
                    }
                    self.publish_to_chunk(hub, users, &fan_out).await;
                }
            }
        }
        if self.fan_outs.is_empty() && self.sink.take_dropped() {
            tracing::warn!("too many events at once: connected users read their lists again");
            for user in self.stream.users_to_reach() {
                publish_gap(&self.stream, &user).await;
            }
        }
    }

    /// Publishes to each user who is connected now, or was until a moment ago.
    async fn publish_to_all(&self, hub: &NotificationHub, fan_out: FanOut) {
        let users = self.stream.users_to_reach();
        for users in users.chunks(CHUNK) {
            self.publish_to_chunk(hub, users, &fan_out).await;
        }
    }

    async fn publish_to_chunk(&self, hub: &NotificationHub, users: &[UserId], fan_out: &FanOut) {
        let unreached = fan_out.publish_to(hub, users).await;
        if let Some((_, error)) = unreached.last() {
            tracing::warn!(%error, "some connected users must read their lists again");
        }
        for (user, _) in unreached {
            publish_gap(&self.stream, &user).await;
        }
        tokio::task::yield_now().await;
    }

    /// Publishes a gap to a user who may have a connection, or a position that is recovered.
    async fn publish_gap_if_known(&self, user: &UserId) {
        let is_known = |channel| self.stream.is_known(&channel);
        if ChannelName::user(user.as_str()).is_ok_and(is_known) {
            publish_gap(&self.stream, user).await;
        }
    }
}

/// Tells the users who are connected here to read their lists again whenever a shared store has
/// another owner: one that was killed may have stored a notification that it did not publish. The
/// broker begins a new epoch for all other users when they come back. It begins one in each term, so that a
/// user who is connected to several nodes is told once.
async fn tell_of_terms(stream: &StreamCore, store: &EngineStore) {
    let Some(mut ownership) = store.ownership() else {
        return;
    };
    // Clients connect from now on. Those who come before the first term is known are told too.
    let mut known = ownership.borrow_and_update().term().map(str::to_owned);
    while ownership.changed().await.is_ok() {
        let term = ownership.borrow_and_update().term().map(str::to_owned);
        if term.is_none() || known == term {
            continue;
        }
        known = term;
        sleep(TAKEOVER).await;
        publish_gaps(stream, stream.users_to_reach()).await;
    }
}

/// Tells users to read their lists again, spread over a time, so that the new owner is not asked for
/// all lists at once.
async fn publish_gaps(stream: &StreamCore, users: Vec<UserId>) {
    let begun = Instant::now();
    for (index, user) in users.iter().enumerate() {
        sleep_until(begun + gap_delay(index, users.len())).await;
        let gap = async {
            let channel = ChannelName::user(user.as_str())?;
            anyhow::Ok(stream.start_epoch_of_term(&channel).await?)
        };
        if let Err(error) = gap.await {
            tracing::error!(%error, "a user's connections miss something and do not know it");
        }
    }
}

/// The time until the user of this index is told: evenly spread over at most [`GAP_TIME`].
fn gap_delay(index: usize, users: usize) -> Duration {
    let count = u32::try_from(users.max(1)).unwrap_or(u32::MAX);
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    (GAP_TIME / count).min(GAP_PAUSE) * index
}

/// Tells a user's connections that they missed something.
async fn publish_gap(stream: &StreamCore, user: &UserId) {
    let gap = async {
        let channel = ChannelName::user(user.as_str())?;
        anyhow::Ok(stream.start_new_epoch(&channel).await?)
    };
    if let Err(error) = gap.await {
        tracing::error!(%error, "a user's connections miss something and do not know it");
    }
}

/// The faults of the configured types. Those of numbers and durations are found with the bounds of
/// all keys.
pub(crate) fn type_problems(config: &NotificationConfig) -> Vec<String> {
    let problems = config.problems().into_iter();
    let of_types = problems.filter_map(|error| match error {
        NotificationError::Invalid { field, problem } if field.starts_with("types") => {
            Some(format!("notifications.{field}: {problem}"))
        }
        _ => None,
    });
    of_types.collect()
}

/// Something that concerns all connected users, or a gap.
enum FanOut {
    /// A broadcast, for the users who see its class.
    Broadcast {
        notification: Arc<Notification>,
        class: tidewire_notification::Class,
    },
    /// The counts of users may have changed.
    Counts,
    /// Users must read their lists again.
    Gaps,
    /// This user must.
    Gap(UserId),
}

impl FanOut {
    /// Has the hub publish the events of users. Returns those whom it could not reach.
    async fn publish_to(&self, hub: &NotificationHub, users: &[UserId]) -> Unreached {
        match self {
            // These are not the hub's.
            Self::Gaps | Self::Gap(_) => Unreached::new(),
            Self::Broadcast {
                notification,
                class,
            } => hub.publish_broadcast(users, notification, *class).await,
            Self::Counts => hub.publish_counts(users).await,
        }
    }
}

/// The outcome of the publication of a notification to a channel.
struct ChannelOutcome {
    id: NotificationId,
    channel: ChannelName,
    outcome: Result<(), StreamError>,
}

type ChannelOutcomes = Arc<Mutex<mpsc::Receiver<ChannelOutcome>>>;

/// Tells the hub which notifications to channels are published, and has it publish the others again.
async fn confirm_channels(hub: &NotificationHub, stream: &StreamCore, outcomes: &ChannelOutcomes) {
    let mut outcomes = outcomes.lock().await;
    let (mut received, mut published, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut retries = interval(RETRY);
    retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let has_rest = !(published.is_empty() && refused.is_empty());
        tokio::select! {
            count = outcomes.recv_many(&mut received, CHUNK) => if count == 0 {
                return;
            },
            _ = retries.tick(), if has_rest => hub.publish_channels_again(&std::mem::take(&mut refused)),
        }
        for ChannelOutcome {
            id,
            channel,
            outcome,
        } in received.drain(..)
        {
            match outcome {
                Ok(()) => published.push(id),
                Err(error) if error.code() == ErrorCode::Unavailable => {
                    if refused.is_empty() {
                        tracing::warn!(%channel, %error, "notifications to channels are published later");
                    }
                    refused.push(id);
                }
                // It would be refused each time.
                Err(error) => {
                    tracing::error!(%channel, %error, "a notification to a channel is lost");
                    if let Err(error) = stream.start_new_epoch(&channel).await {
                        tracing::error!(%channel, %error, "subscribers miss a notification and do not know it");
                    }
                    published.push(id);
                }
            }
        }
        if published.is_empty() {
            continue;
        }
        match hub.channel_published(&published).await {
            Ok(()) => published.clear(),
            // They are published again when the hub opens, under the same keys.
            Err(error) => tracing::debug!(%error, "published notifications are noted later"),
        }
        published.truncate(QUEUE);
    }
}

/// Publishes the events of the hub on channels.
struct ChannelSink {
    stream: Arc<StreamCore>,
    pushes: Arc<UserPushes>,
    fan_outs: mpsc::Sender<FanOut>,
    urgent_fan_outs: mpsc::Sender<FanOut>,
    channel_outcomes: mpsc::Sender<ChannelOutcome>,
    /// Whether a queue had no room.
    has_dropped: AtomicBool,
    /// Namespaces of which notifications came that this node does not have.
    unknown_namespaces: parking_lot::Mutex<HashSet<String>>,
}

impl ChannelSink {
    fn queue(&self, fan_out: FanOut) {
        let queue = match &fan_out {
            FanOut::Broadcast { class, .. } if class.priority() == Priority::Urgent => {
                &self.urgent_fan_outs
            }
            _ => &self.fan_outs,
        };
        if queue.try_send(fan_out).is_err() {
            self.has_dropped.store(true, Ordering::Release);
        }
    }

    fn warn_of_namespace(&self, channel: &ChannelName) {
        let namespace = channel.namespace();
        if self.unknown_namespaces.lock().insert(namespace.to_owned()) {
            tracing::warn!(
                namespace,
                %channel,
                "notifications to channels of a namespace that this node lacks stay in the store: add it to the configuration, and restart"
            );
        }
    }

    fn take_dropped(&self) -> bool {
        self.has_dropped.swap(false, Ordering::AcqRel)
    }
}

impl EventSink for ChannelSink {
    fn publish(&self, event: HubEvent) {
        match event {
            HubEvent::Notification {
                user,
                notification,
                unread_count,
                audience,
                ..
            } => self
                .pushes
                .notification(&user, notification, unread_count, audience),
            HubEvent::Broadcast {
                notification,
                class,
            } => self.queue(FanOut::Broadcast {
                notification,
                class,
            }),
            HubEvent::Channel {
                channel,
                notification,
            } => {
                // Each node has the namespaces of its own file. The row stays for an owner that has it.
                if self.stream.namespaces().get(&channel).is_none() {
                    self.warn_of_namespace(&channel);
                    return;
                }
                let urgency = match notification.priority() {
                    Priority::Urgent => Urgency::Urgent,
                    _ => Urgency::Ordinary,
                };
                let (key, id) = (
                    format!("notification-{}", notification.id),
                    NotificationId::parse(&notification.id),
                );
                let event = Data::Notification(*notification);
                let publishing = self.stream.publish_once(&channel, event, urgency, &key);
                if let Some(id) = id {
                    let outcomes = self.channel_outcomes.clone();
                    tokio::spawn(async move {
                        let outcome = publishing.await;
                        // Without a receiver the server stops, and the next start publishes it.
                        let _ = outcomes
                            .send(ChannelOutcome {
                                id,
                                channel,
                                outcome,
                            })
                            .await;
                    });
                }
            }
            HubEvent::Read { user, receipt } => self.pushes.read(&user, receipt),
            HubEvent::Dismissed { user, dismissed } => self.pushes.dismissed(&user, dismissed),
            HubEvent::UnreadCount { user, unread_count } => {
                self.pushes.unread_count(&user, unread_count);
            }
            HubEvent::BroadcastRemoval { ids } => {
                self.pushes.retract(&ids);
                self.queue(FanOut::Counts);
            }
            HubEvent::Preferences { user, preferences } => {
                self.pushes.preferences(&user, &preferences);
            }
            HubEvent::Gap { user } => self.queue(FanOut::Gap(user)),
            HubEvent::GapForAll => {
                self.has_dropped.store(true, Ordering::Release);
                self.queue(FanOut::Gaps);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_after_a_takeover_are_spread() {
        // Few users are told soon, and many within the longest time.
        assert_eq!(gap_delay(0, 0), Duration::ZERO);
        assert_eq!(gap_delay(9, 10), Duration::from_millis(18));
        assert_eq!(gap_delay(50_000, 100_000), Duration::from_secs(5));
        for users in [1, 4_999, 5_001, 1_000_000] {
            assert!(gap_delay(users - 1, users) < GAP_TIME, "{users}");
        }
    }
}
