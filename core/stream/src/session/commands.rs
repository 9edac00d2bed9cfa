//! Commands: requests of a client to its session.
//!
//! Several commands of a session may run at the same time. Each is a [`Command`], which owns
//! the subscriptions that it made until its reply is queued: a reply releases no subscription
//! of another command, so that its publications follow the reply that announces it.

use std::time::Duration;

use parking_lot::Mutex;

use tidewire_proto::v1::{
    Authenticated, ChannelSubscription, ErrorCode, ServerMessage, SubscribeRequest, Subscribed,
    SubscriptionResult, UnsubscribeRequest, Unsubscribed, Visibility, VisibilityState,
};
use tokio::time::Instant;

use super::{
    Session, Slot, lifetime::closing_error, recovery::SubscribeOptions, state::State,
    subscriptions::Subscription,
};
use crate::{ChannelName, Class, Namespace, Position, StreamError, hub::HubKey};

/// Channels of one `subscribe` for which memory is reserved before they are checked: growing step
/// by step would leave a fifth of it unused.
const RESERVED_CHANNELS: usize = 256;

/// Length of one result in a `subscribed` reply beside the channel's name, in bytes: its fields
/// with the longest numbers, or a short error.
const RESULT_BYTES: usize = 176;

/// Channels of one command after which other tasks have their turn.
const CHANNELS_PER_TURN: usize = 64;

/// A request of a client in progress. Ends with [`reply`](Self::reply). Where the reply leaves
/// on another way than the session's, the command is dropped once the reply is ready.
#[derive(Debug)]
pub struct Command {
    session: Session,
    /// Subscriptions that wait for the reply.
    held: Mutex<Vec<Slot>>,
    /// The last field, so that it is dropped after the rest is done.
    follow_up: FollowUp,
}

/// Work that follows a reply: it begins when this is dropped.
#[derive(Default)]
struct FollowUp(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl std::fmt::Debug for FollowUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FollowUp").finish_non_exhaustive()
    }
}

impl Drop for FollowUp {
    fn drop(&mut self) {
        if let Some(work) = self.0.get_mut().take() {
            work();
        }
    }
}

impl std::ops::Deref for Command {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for Command {
    /// Releases the command's subscriptions, also when the command was cancelled.
    fn drop(&mut self) {
        let held = std::mem::take(self.held.get_mut());
        if held.is_empty() {
            return;
        }
        let now = Instant::now();
        {
            let mut state = self.core().state.lock();
            for slot in held {
                state.release_new(slot, now);
            }
        }
        self.session.0.mark_dirty();
    }
}

impl Command {
    /// Sends the reply, and releases the subscriptions that it announces. With a sink, the
    /// caller has to flush.
    pub fn reply(mut self, reply: ServerMessage) {
        let held = std::mem::take(self.held.get_mut());
        {
            let mut state = self.core().state.lock();
            state.send(reply);
            let now = Instant::now();
            for slot in held {
                state.release_new(slot, now);
            }
        }
        if self.core().sink.get().is_none() {
            self.session.0.mark_dirty();
        }
    }

    /// Does `work` once the reply is queued, or the command is dropped without one. It must not
    /// wait. A second call replaces the work of the first.
    pub fn after_reply(&self, work: impl FnOnce() + Send + 'static) {
        *self.follow_up.0.lock() = Some(Box::new(work));
    }

    /// Subscribes to channels. Publications on them are sent after the reply.
    ///
    /// # Errors
    /// No channel was named, or so many that the reply would not fit the outbox, or the client
    /// must give a token first. An error of one channel is in that channel's result.
    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed, StreamError> {
        self.identity().require_known()?;
        if request.channels.is_empty() {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                "`channels` is missing or empty, expected a list of one channel at least",
            ));
        }
        let limit = self.core().context.options().outbox_bytes;
        let names = request.channels.iter();
        let shortest: usize = names.map(|one| one.channel.len() + RESULT_BYTES).sum();
        if shortest > limit {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "`channels` names {} channels, whose results would take about {shortest} bytes, expected {limit} at most: subscribe in several messages",
                    request.channels.len()
                ),
            ));
        }
        let reservation = self.reserve_reply((2 * shortest).min(limit));
        // Room for errors that say more than the shortest ones.
        let mut spare = reservation.bytes().saturating_sub(shortest);
        let count = request.channels.len().min(RESERVED_CHANNELS);
        self.core().state.lock().subscriptions.reserve(count);
        let mut channels = Vec::with_capacity(request.channels.len());
        for (index, request) in request.channels.into_iter().enumerate() {
            let name = request.channel.clone();
            channels.push(match self.subscribe_one(request).await {
                Ok(result) => result,
                Err(error) => SubscriptionResult {
                    channel: name,
                    error: Some(shorten(error, &mut spare).into()),
                    ..SubscriptionResult::default()
                },
            });
            if index % CHANNELS_PER_TURN == CHANNELS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(Subscribed { channels })
    }

    async fn subscribe_one(
        &self,
        request: ChannelSubscription,
    ) -> Result<SubscriptionResult, StreamError> {
        let namespaces = self.core().context.namespaces();
        let (channel, namespace) = namespaces.resolve(&request.channel)?;
        namespaces
            .look_owner_up(&self.identity(), &channel, namespace)
            .await;
        self.may_subscribe(&channel)?;
        let options = SubscribeOptions {
            since: request.since.map(Position::from),
            min_interval: request
                .min_interval_ms
                .map(|ms| Duration::from_millis(ms.into())),
        };
        if options.min_interval.is_some() && namespace.class == Class::History {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "`minIntervalMs` is for latest channels, and {channel} is a history channel"
                ),
            ));
        }
        let result = self
            .subscribe_to(channel.clone(), namespace, options)
            .await?;
        // The client may have been given another token meanwhile. Either this check or the one
        // of `authenticate` sees both the token and the subscription.
        if let Err(refused) = namespaces.may_read(&self.identity(), &channel, namespace)
            && !self.is_granted(&channel)
        {
            self.unsubscribe_from(&channel);
            return Err(refused);
        }
        Ok(result)
    }

    pub(super) async fn subscribe_to(
        &self,
        channel: ChannelName,
        namespace: &Namespace,
        options: SubscribeOptions,
    ) -> Result<SubscriptionResult, StreamError> {
        let subscribed = self.subscribe_held(channel, namespace, options);
        let (slot, result) = subscribed.await?;
        self.held.lock().extend(slot);
        Ok(result)
    }

    /// Authenticates the client: with its first token, or with a fresh one of the same user.
    /// Subscriptions that the fresh one does not allow are ended.
    ///
    /// # Errors
    /// The token is not valid, or another user's.
    pub async fn authenticate(&self, token: &str) -> Result<Authenticated, StreamError> {
        let authenticator = self.core().context.authenticator();
        let verification = Verification::begin(self);
        let identity = authenticator.authenticate(token).await?;
        let (Some(user), Some(expires_at)) = (identity.user().cloned(), identity.expires_at_ms())
        else {
            return Err(StreamError::new(
                ErrorCode::Unauthenticated,
                "the token names no user",
            ));
        };
        // A refresh that comes too late does not help an expired token.
        self.0.check_lifetime(Instant::now());
        {
            let mut state = self.core().state.lock();
            if state.closing.is_some() {
                return Err(closing_error());
            }
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
        drop(verification);
        self.identify()?;
        self.recheck_subscriptions();
        self.subscribe_to_personal_channels().await;
        Ok(Authenticated {
            user_id: user.as_str().to_owned(),
            expires_at,
            subscriptions: self.subscriptions(),
        })
    }
}

/// The verification of a token. Meanwhile the time in which the client must prove who it is
/// does not end.
struct Verification<'a>(&'a Session);

impl<'a> Verification<'a> {
    fn begin(session: &'a Session) -> Self {
        session.core().state.lock().verifications += 1;
        Self(session)
    }
}

impl Drop for Verification<'_> {
    fn drop(&mut self) {
        self.0.core().state.lock().verifications -= 1;
        // The time of a client whose token was refused goes on, and a new token has another end.
        self.0.0.check_lifetime(Instant::now());
        self.0.0.mark_dirty();
    }
}

impl Session {
    /// Begins a command of the client.
    #[must_use]
    pub fn begin_command(&self) -> Command {
        Command {
            session: self.clone(),
            held: Mutex::default(),
            follow_up: FollowUp::default(),
        }
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
        let namespaces = self.core().context.namespaces();
        let namespace = namespaces.find(channel)?;
        namespaces.may_read(&identity, channel, namespace)?;
        self.check_room(&self.core().state.lock(), channel)
    }

    /// Checks that one more subscription is allowed, or that there is this one already.
    pub(super) fn check_room(
        &self,
        state: &State,
        channel: &ChannelName,
    ) -> Result<(), StreamError> {
        let limit = self.core().context.options().channels_per_connection;
        let is_full = limit > 0 && state.subscriptions.len() >= limit;
        if !is_full || state.subscriptions.contains(channel) {
            return Ok(());
        }
        Err(StreamError::new(
            ErrorCode::ResourceExhausted,
            format!("this connection follows {limit} channels already, and may not follow more"),
        ))
    }

    /// Ends subscriptions, and drops their queued publications.
    ///
    /// # Errors
    /// A name is malformed.
    pub fn unsubscribe(&self, request: &UnsubscribeRequest) -> Result<Unsubscribed, StreamError> {
        // All before the first ends: a refused request changes nothing.
        let names = request.channels.iter().map(|name| {
            // A channel that its engine does not know any more can still be left.
            match self.core().context.namespaces().resolve(name) {
                Ok((channel, _)) => Ok(channel),
                Err(_) => ChannelName::parse(name),
            }
        });
        let channels = names.collect::<Result<Vec<_>, _>>()?;
        for channel in &channels {
            self.unsubscribe_from(channel);
        }
        Ok(Unsubscribed {
            channels: channels
                .iter()
                .map(|channel| channel.as_str().to_owned())
                .collect(),
            reason: None,
        })
    }

    /// Whether an operator subscribed the session to a channel.
    fn is_granted(&self, channel: &ChannelName) -> bool {
        let state = self.core().state.lock();
        let subscription = state.subscriptions.on(channel);
        subscription.is_some_and(Subscription::is_granted)
    }

    /// Ends a subscription, and returns it. None if the session was not subscribed.
    pub(super) fn unsubscribe_from(&self, channel: &ChannelName) -> Option<Subscription> {
        let ended = self.core().state.lock().unsubscribe(channel)?;
        if let Some(key) = ended.hub_key() {
            self.remove_from_hub(channel, key);
        }
        Some(ended)
    }

    /// Ends a subscription that may have ended already.
    pub(super) fn end_subscription(&self, slot: Slot) {
        let ended = {
            let mut state = self.core().state.lock();
            let subscription = state.subscriptions.get_mut(slot);
            let channel = subscription.map(|one| one.channel().clone());
            channel.and_then(|channel| state.unsubscribe(&channel))
        };
        if let Some(ended) = ended
            && let Some(key) = ended.hub_key()
        {
            self.remove_from_hub(ended.channel(), key);
        }
    }

    pub(super) fn remove_from_hub(&self, channel: &ChannelName, key: HubKey) {
        let core = self.core();
        // Before the channel is without subscribers, so that it is not forgotten between the two.
        core.context.broker().note_left(channel);
        core.context.hub().remove(channel, core.shard_id(), key);
    }

    /// Notes whether the client is in the foreground. In the background, latest values wait,
    /// and history channels pause, unless their namespace never pauses.
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
            state.heartbeat.note_activity(now);
            for slot in state.slots() {
                match visibility {
                    Visibility::Background => state.pause(slot),
                    _ => state.unpause(slot, now),
                }
            }
        }
        let heartbeat_ms = self.announce_heartbeat();
        self.0.mark_dirty();
        Ok(VisibilityState {
            state: visibility.into(),
            heartbeat_ms,
        })
    }
}

/// The error of one channel, with its text if there is room for it in the reply.
fn shorten(error: StreamError, spare: &mut usize) -> StreamError {
    // In JSON, a quote or a backslash takes two bytes, and a control character six.
    let escaped = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    let length: usize = error.message().bytes().map(escaped).sum();
    if length <= *spare {
        *spare -= length;
        return error;
    }
    StreamError::new(error.code(), "refused; the reply has no room for more")
}
