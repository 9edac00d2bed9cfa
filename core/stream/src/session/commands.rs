//! What a client can ask of its session.

use std::{sync::Arc, time::Duration};

use tidewire_proto::v1::{
    Authenticated, ChannelClass, ChannelSubscription, Error, ErrorCode, ServerMessage,
    SubscribeRequest, Subscribed, SubscriptionResult, UnsubscribeRequest, Unsubscribed, Visibility,
    VisibilityState, Welcome, server_message::Data,
};
use tokio::time::Instant;

use super::{
    Session,
    state::{Slot, State},
    subscription::{BatchMode, Flow, HeldUntil, Queued, Subscription, Wish},
};
use crate::{
    ChannelName, Class, Epoch, Identity, Namespace, Opening, Position, StreamError,
    broker::{History, Page, Reach},
    hub::HubKey,
};

impl Session {
    /// Follows channels. What they say flows after [`release_held`](Self::release_held), so
    /// that the reply comes first.
    ///
    /// # Errors
    /// Nothing was asked for, or the client must give a token first. What is wrong
    /// with one channel is said in its result.
    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed, StreamError> {
        self.identity().require_known()?;
        if request.channels.is_empty() {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                "`channels` is empty, expected one channel at least",
            ));
        }
        let mut channels = Vec::with_capacity(request.channels.len());
        for wanted in request.channels {
            let name = wanted.channel.clone();
            channels.push(match self.subscribe_one(wanted).await {
                Ok(result) => result,
                Err(error) => SubscriptionResult {
                    channel: name,
                    error: Some(error.into()),
                    ..SubscriptionResult::default()
                },
            });
        }
        Ok(Subscribed { channels })
    }

    async fn subscribe_one(
        &self,
        wanted: ChannelSubscription,
    ) -> Result<SubscriptionResult, StreamError> {
        let stream = self.core().stream.clone();
        let (channel, namespace) = stream.namespaces().resolve(&wanted.channel)?;
        self.may_subscribe(&channel)?;
        let wish = Wish {
            since: wanted.since.map(Position::from),
            min_interval: wanted
                .min_interval_ms
                .map(|ms| Duration::from_millis(ms.into())),
        };
        if wish.min_interval.is_some() && namespace.class == Class::History {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "`minIntervalMs` is for latest channels, and {channel} is a history channel"
                ),
            ));
        }
        self.follow(channel, namespace, wish).await
    }

    /// Checks that the client may subscribe to a channel, and has room for it. Activates
    /// nothing; the engine need not know the channel yet.
    ///
    /// # Errors
    /// The client must give a token first, may not read the channel, or is subscribed to as
    /// many channels as it may be; or there is no such namespace.
    pub fn may_subscribe(&self, channel: &ChannelName) -> Result<(), StreamError> {
        let identity = self.identity();
        identity.require_known()?;
        let namespaces = self.core().stream.namespaces();
        let namespace = namespaces.find(channel)?;
        namespaces.may_read(&identity, channel, namespace)?;
        self.check_room(&self.core().state.lock(), channel)
    }

    /// Checks that one more subscription is allowed, or that there is this one already.
    fn check_room(&self, state: &State, channel: &ChannelName) -> Result<(), StreamError> {
        let limit = self.core().stream.options().channels_per_connection;
        let is_full = limit > 0 && state.subscriptions.len() >= limit;
        if !is_full || state.by_channel.contains_key(channel) {
            return Ok(());
        }
        Err(StreamError::new(
            ErrorCode::ResourceExhausted,
            format!("this connection follows {limit} channels already, and may not follow more"),
        ))
    }

    async fn follow(
        &self,
        channel: ChannelName,
        namespace: &Namespace,
        wish: Wish,
    ) -> Result<SubscriptionResult, StreamError> {
        let until = HeldUntil::Subscribed;
        let (_, result) = self.follow_until(until, channel, namespace, wish).await?;
        Ok(result)
    }

    /// Takes its place in the hub, then reads the position: so nothing is missed
    /// between the two. The flow is held until then; there is no slot if the session
    /// follows the channel already.
    pub(super) async fn follow_until(
        &self,
        until: HeldUntil,
        channel: ChannelName,
        namespace: &Namespace,
        wish: Wish,
    ) -> Result<(Option<Slot>, SubscriptionResult), StreamError> {
        // A subscription that is refused activates nothing, and leaves the one before.
        self.check_room(&self.core().state.lock(), &channel)?;
        // Before the position is read: its epoch is that of the engine's work.
        self.core().stream.namespaces().activate(&channel)?;
        if wish.since.is_some() || wish.min_interval.is_some() {
            self.unfollow(&channel);
        }
        let slot = self.enlist(&channel, namespace, wish.min_interval, until)?;
        let (since, page) = match namespace.class {
            Class::Latest | Class::History if opens_with_newest(namespace, &wish) => (
                None,
                Page {
                    items: 1,
                    bytes: usize::MAX,
                },
            ),
            _ if wish.since.is_none() => (None, Page { items: 0, bytes: 0 }),
            _ => {
                let bytes = self.core().stream.options().outbox_bytes;
                (
                    wish.since.as_ref(),
                    Page {
                        items: usize::MAX,
                        bytes,
                    },
                )
            }
        };
        let history = match self
            .core()
            .stream
            .broker()
            .history(&channel, since, page)
            .await
        {
            Ok(history) => history,
            Err(error) => {
                self.unfollow(&channel);
                return Err(error);
            }
        };
        let recovered = namespace.class == Class::History
            && wish.since.is_some()
            && history.reach == Reach::Complete;
        let top = history.top.clone();
        if let Some(slot) = slot {
            self.place(slot, wish.since.filter(|_| recovered), history);
        }
        let result = SubscriptionResult {
            channel: channel.as_str().to_owned(),
            epoch: top.epoch.as_str().to_owned(),
            seq: top.seq,
            recovered,
            error: None,
            class: Some(ChannelClass::from(namespace.class).into()),
            batched: Some(namespace.batched),
        };
        Ok((slot, result))
    }

    /// Takes a place in the hub, held back. None if the session follows the
    /// channel already, or is about to end: it would leave the place behind.
    fn enlist(
        &self,
        channel: &ChannelName,
        namespace: &Namespace,
        min_interval: Option<Duration>,
        until: HeldUntil,
    ) -> Result<Option<Slot>, StreamError> {
        let slot = {
            let mut state = self.core().state.lock();
            if state.closing.is_some() || state.by_channel.contains_key(channel) {
                return Ok(None);
            }
            self.check_room(&state, channel)?;
            // The real position is known when the history was read.
            let nowhere = Position {
                epoch: Epoch::new(""),
                seq: 0,
            };
            state.insert(Subscription {
                channel: channel.clone(),
                class: namespace.class,
                hub_key: None,
                generation: 0,
                position: nowhere.clone(),
                taken: nowhere.clone(),
                flow: Flow::held(until, nowhere),
                pending: None,
                queued: Queued::No,
                telling: BatchMode::of(namespace),
                pauses_in_background: namespace.pauses_in_background,
                min_interval,
                last_sent: None,
            })
        };
        let key = self
            .core()
            .stream
            .hub()
            .add(channel, Arc::clone(&self.0), slot);
        let is_gone = match self.core().state.lock().get(slot) {
            Some(subscription) => {
                subscription.hub_key = Some(key);
                false
            }
            // The session ended meanwhile.
            None => true,
        };
        if is_gone {
            self.remove_from_hub(channel, key);
            return Ok(None);
        }
        Ok(Some(slot))
    }

    /// Sets a new subscription to its position.
    fn place(&self, slot: Slot, since: Option<Position>, history: History) {
        let mut state = self.core().state.lock();
        let Some(subscription) = state.get(slot) else {
            return;
        };
        // With what was read from the history right after it.
        subscription.position = since.unwrap_or_else(|| Position {
            seq: match (subscription.class, history.publications.first()) {
                (Class::History, Some(first)) => first.seq() - 1,
                _ => history.top.seq,
            },
            ..history.top.clone()
        });
        subscription.taken = subscription.position.clone();
        if subscription.class == Class::Latest {
            // What came meanwhile is newer, unless it was under way before.
            let newest = history.publications.into_iter().next_back();
            let noted = subscription.pending.take().filter(|noted| {
                noted.position().epoch != history.top.epoch || noted.seq() > history.top.seq
            });
            subscription.pending = noted.or(newest);
            return;
        }
        let Flow::Held(hold) = &mut subscription.flow else {
            return;
        };
        let was_noted = !hold.top.epoch.as_str().is_empty();
        if !was_noted || hold.top.epoch == history.top.epoch {
            hold.note_top(&history.top);
        }
        hold.prefill(history.publications);
    }

    /// Lets flow what was held back until the reply was said.
    pub fn release_held(&self) {
        self.core().state.lock().release_held(Instant::now());
        self.0.mark();
    }

    /// Stops following channels. What waits of them is not sent any more.
    ///
    /// # Errors
    /// A name is malformed.
    pub fn unsubscribe(&self, request: &UnsubscribeRequest) -> Result<Unsubscribed, StreamError> {
        let mut channels = Vec::with_capacity(request.channels.len());
        for name in &request.channels {
            // A channel that its engine knows no more can still be left.
            let channel = match self.core().stream.namespaces().resolve(name) {
                Ok((channel, _)) => channel,
                Err(_) => ChannelName::parse(name)?,
            };
            self.unfollow(&channel);
            channels.push(channel.as_str().to_owned());
        }
        Ok(Unsubscribed { channels })
    }

    pub(super) fn remove_from_hub(&self, channel: &ChannelName, key: HubKey) {
        let core = self.core();
        core.stream.hub().remove(channel, core.shard_id(), key);
    }

    /// True if the session followed the channel.
    pub(super) fn unfollow(&self, channel: &ChannelName) -> bool {
        let Some(removed) = self.core().state.lock().remove(channel) else {
            return false;
        };
        if let Some(key) = removed.hub_key {
            self.remove_from_hub(channel, key);
        }
        true
    }

    /// Takes a token: the first, or a fresh one of the same user.
    ///
    /// # Errors
    /// The token is not valid, or another user's.
    pub async fn authenticate(&self, token: &str) -> Result<Authenticated, StreamError> {
        let authenticator = self.core().stream.authenticator();
        let identity = authenticator.authenticate(token).await?;
        let (Some(user), Some(expires_at)) = (identity.user().cloned(), identity.expires_at_ms())
        else {
            return Err(StreamError::new(
                ErrorCode::Unauthenticated,
                "the token names no user",
            ));
        };
        {
            let mut state = self.core().state.lock();
            if state
                .identity
                .user()
                .is_some_and(|current| *current != user)
            {
                return Err(StreamError::new(
                    ErrorCode::PermissionDenied,
                    "the token is another user's: open another connection for it",
                ));
            }
            if let Some(quota) = self.quota() {
                quota.assign(&identity)?;
            }
            state.identity = identity;
        }
        self.core().stream.identify(self)?;
        self.follow_own_channel().await;
        Ok(Authenticated {
            user_id: user.as_str().to_owned(),
            expires_at,
            subscriptions: self.subscriptions(),
        })
    }

    /// Subscribes a known user to its own channel.
    pub(super) async fn follow_own_channel(&self) {
        let Identity::User(identity) = self.identity() else {
            return;
        };
        let stream = self.core().stream.clone();
        let followed = async {
            for personal in stream.namespaces().personal_channels(&identity.user) {
                let (channel, namespace) = personal?;
                self.follow(channel, namespace, Wish::default()).await?;
            }
            Ok::<(), StreamError>(())
        };
        if let Err(error) = followed.await {
            tracing::warn!(user = identity.user.as_str(), %error, "a user is not subscribed to its personal channel");
        }
    }

    /// Says `welcome`.
    pub(super) fn send_welcome(&self) {
        let identity = self.identity();
        let clock = self.core().stream.clock();
        let welcome = Welcome {
            connection_id: self.id().as_str().to_owned(),
            user_id: identity.user().map(|user| user.as_str().to_owned()),
            heartbeat_ms: self.tell_heartbeat_ms(),
            server_time: clock.now_ms(),
            expires_at: identity.expires_at_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            subscriptions: self.subscriptions(),
            post_key: self.post_key().map(str::to_owned),
        };
        self.send(ServerMessage {
            data: Some(Data::Welcome(welcome)),
            ..ServerMessage::default()
        });
    }

    /// Notes whether anyone is looking. Unseen, latest values wait, and history
    /// channels pause, but for the user's own and transactions.
    ///
    /// # Errors
    /// The state is not one of the two.
    pub fn set_visibility(&self, visibility: Visibility) -> Result<VisibilityState, StreamError> {
        if visibility == Visibility::Unspecified {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                "`state` is missing, expected \"active\" or \"background\"",
            ));
        }
        let now = Instant::now();
        {
            let mut state = self.core().state.lock();
            state.visibility = visibility;
            state.pulse.woken(now);
            let slots: Vec<_> = state
                .subscriptions
                .iter()
                .map(|(index, subscription)| Slot {
                    index,
                    generation: subscription.generation,
                })
                .collect();
            for slot in slots {
                match visibility {
                    Visibility::Background => state.pause(slot),
                    _ => state.wake(slot, now),
                }
            }
        }
        let heartbeat_ms = self.tell_heartbeat_ms();
        self.0.mark();
        Ok(VisibilityState {
            state: visibility.into(),
            heartbeat_ms,
        })
    }

    /// An error that answers no message, or the message with this id.
    pub fn send_error(&self, id: Option<String>, error: Error) {
        self.send(ServerMessage {
            id,
            data: Some(Data::Error(error)),
            ..ServerMessage::default()
        });
    }
}

/// Whether a subscription begins with the newest publication.
fn opens_with_newest(namespace: &Namespace, wish: &Wish) -> bool {
    match namespace.class {
        Class::Latest => true,
        Class::History => wish.since.is_none() && namespace.opening == Opening::Newest,
    }
}
