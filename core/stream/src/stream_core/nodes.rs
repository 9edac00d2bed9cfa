//! Requests that concern the connections to all nodes: the servers that share their channels.
//!
//! A node does its own part, asks the others, and adds their answers. Nodes that do not answer are
//! counted: a list without them says so, and an action without them is an error, which may be
//! repeated. A server that shares nothing has no others.

mod call;
mod question;
mod settings;

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tidewire_proto::v1::{self, ErrorCode};
use tokio::sync::Semaphore;

pub(super) use self::call::CallPlaces;
use self::question::{Answer, Count, Post, PostReply, Question, Refusal, WireTarget};
pub use self::{
    call::{CallClass, CallHandler, CallLane, CallOutcome, CallRefusal, ForwardedCall},
    settings::{NodeSettings, OtherSettings},
};
use super::{
    StreamCore,
    operator::{ConnectionFilter, MAX_NAMED, Presence, Target},
};
use crate::{
    Caller, ChannelName, ClientKey, Identity, StreamError, UserId,
    auth::Revocation,
    broker::{Answers, ControlHandler, NodeTag, Recipients},
    limit::semaphore::KeyedSemaphore,
    session::Session,
};

/// Longest answer of a node, in bytes.
const ANSWER_BYTES: usize = 4 << 20;

/// Bytes of the users that a node names.
const NAMED_BYTES: usize = 1 << 20;

/// After so many milliseconds an action that some nodes have not confirmed may be repeated.
const RETRY_AFTER_MS: u32 = 1_000;

/// Messages of clients that are passed on to other nodes at once at most, and as many that come from
/// them. They may take long, and leave places of the broker to operators.
const POSTS: usize = 128;

/// The same of one client.
const CLIENT_POSTS: u32 = 32;

/// Places of clients' messages between nodes.
#[derive(Debug)]
pub(super) struct PostPlaces {
    forwarded: Semaphore,
    clients: KeyedSemaphore<ClientKey>,
    received: Semaphore,
}

impl Default for PostPlaces {
    fn default() -> Self {
        Self {
            forwarded: Semaphore::new(POSTS),
            clients: KeyedSemaphore::default(),
            received: Semaphore::new(POSTS),
        }
    }
}

/// A page of the connections to all nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConnectionPage {
    /// The connections, in the order of their ids.
    pub connections: Vec<v1::Connection>,
    /// Nodes whose connections are missing, since they did not answer.
    pub missing_nodes: usize,
}

/// A message of a client that came as a request of its own, beside the client's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostedCommand {
    /// The connection.
    pub connection: String,
    /// Key of the connection.
    pub key: Option<String>,
    /// The user of the token that came with the request.
    pub user: Option<UserId>,
    /// The message.
    pub body: Bytes,
}

/// Carries out the messages of clients whose requests came to another node than their connections.
pub trait PostHandler: Send + Sync + 'static {
    /// Carries out a message. Returns the HTTP status and the body of the response.
    fn post<'a>(
        &'a self,
        session: Option<Session>,
        command: &'a PostedCommand,
    ) -> Pin<Box<dyn Future<Output = (u16, Vec<u8>)> + Send + 'a>>;
}

impl StreamCore {
    /// Returns the subscribers of a channel on all nodes, for a client that may read it.
    ///
    /// # Errors
    /// The client may not read the channel, or the name is wrong.
    pub async fn presence_as(
        &self,
        identity: &Identity,
        channel: &str,
    ) -> Result<Presence, StreamError> {
        let namespaces = self.namespaces();
        let (channel, namespace) = namespaces.resolve(channel)?;
        namespaces
            .look_owner_up(identity, &channel, namespace)
            .await;
        namespaces.may_read(identity, &channel, namespace)?;
        let mut presence = self.presence(&channel).await;
        let question = Question::Presence(channel.as_str().to_owned());
        let (answers, missing) = self.ask_others(&question).await;
        presence.missing_nodes = missing;
        for answer in answers {
            let Answer::Presence(other) = answer else {
                presence.missing_nodes += 1;
                continue;
            };
            presence.connections += other.connections as usize;
            let users = other.users.into_iter().map(|user| UserId::new(&user));
            presence.users.extend(users);
        }
        while presence.users.len() > MAX_NAMED {
            presence.users.pop_last();
        }
        Ok(presence)
    }

    /// Returns the first `limit` connections to all nodes that pass the filter, in the order of
    /// their ids.
    ///
    /// # Errors
    /// The channel's name is wrong.
    pub async fn all_connections(
        &self,
        filter: ConnectionFilter<'_>,
        limit: usize,
    ) -> Result<ConnectionPage, StreamError> {
        let own = self.connections(filter, limit).await?;
        let question = Question::Connections(question::Page {
            user: filter.user.map(str::to_owned),
            channel: filter.channel.map(str::to_owned),
            after: filter.after.to_owned(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        });
        let (answers, missing_nodes) = self.ask_others(&question).await;
        let mut page = ConnectionPage {
            connections: own.iter().map(describe).collect(),
            missing_nodes,
        };
        for answer in answers {
            match answer {
                Answer::Connections(other) => page.connections.extend(other.connections),
                _ => page.missing_nodes += 1,
            }
        }
        page.connections
            .sort_by(|a, b| a.connection_id.cmp(&b.connection_id));
        page.connections.truncate(limit);
        Ok(page)
    }

    /// Closes connections to all nodes, and returns how many.
    ///
    /// # Errors
    /// There is no such connection, or not all nodes have done it.
    pub async fn disconnect_everywhere(&self, target: Target<'_>) -> Result<usize, StreamError> {
        let own = self.disconnect(target);
        self.act_everywhere(target, own, Question::Disconnect(target.into()))
            .await
    }

    /// Subscribes connections to all nodes to a channel, even if their clients may not read it.
    /// Returns how many are subscribed then.
    ///
    /// # Errors
    /// There is no such connection or no such channel, or none of the connections can be subscribed,
    /// or not all nodes have done it.
    pub async fn subscribe_everywhere(
        &self,
        target: Target<'_>,
        channel: &str,
    ) -> Result<usize, StreamError> {
        self.namespaces().resolve(channel)?;
        let own = self.subscribe_target(target, channel).await;
        let question = Question::Subscribe(question::Subscription::new(target, channel));
        self.act_everywhere(target, own, question).await
    }

    /// Unsubscribes connections to all nodes from a channel, and returns how many were subscribed.
    ///
    /// # Errors
    /// There is no such connection, the channel's name is malformed, or not all nodes have done it.
    pub async fn unsubscribe_everywhere(
        &self,
        target: Target<'_>,
        channel: &str,
    ) -> Result<usize, StreamError> {
        self.channel_named(channel)?;
        let own = self.unsubscribe_target(target, channel);
        let question = Question::Unsubscribe(question::Subscription::new(target, channel));
        self.act_everywhere(target, own, question).await
    }

    /// Unsubscribes a user's connections to all nodes from a channel that they may not read any more.
    /// Returns how many were subscribed.
    ///
    /// # Errors
    /// The channel's name is wrong, or not all nodes have done it.
    pub async fn recheck_everywhere(
        &self,
        user: &UserId,
        channel: &str,
    ) -> Result<usize, StreamError> {
        let target = Target::User(user.as_str());
        let own = self.recheck(user, channel);
        let question = Question::Recheck(question::Subscription::new(target, channel));
        self.act_everywhere(target, own, question).await
    }

    /// Adds what the other nodes did to what this one did.
    async fn act_everywhere(
        &self,
        target: Target<'_>,
        own: Result<usize, StreamError>,
        question: Question,
    ) -> Result<usize, StreamError> {
        let (answers, missing) = match (target, &own) {
            // It is nowhere else.
            (Target::Connection(_), Ok(_)) => return own,
            (Target::Connection(id), Err(error)) if error.code() == ErrorCode::NotFound => {
                self.ask_node_of(id, &question).await?
            }
            (Target::Connection(_), Err(_)) => return own,
            (Target::User(_), _) => self.ask_others(&question).await,
        };
        let (mut count, mut failure) = match own {
            Ok(count) => (count, None),
            Err(error) => (0, Some(error)),
        };
        let mut unconfirmed = missing;
        for answer in answers {
            match answer {
                Answer::Count(Count { connections }) => {
                    count += connections as usize;
                    // It is the node of the connection.
                    if matches!(target, Target::Connection(_)) {
                        failure = None;
                    }
                }
                // A server of another version does not know the question: it has done nothing.
                Answer::Refusal(refusal) if refusal.code == ErrorCode::Unimplemented as i32 => {
                    unconfirmed += 1;
                }
                Answer::Refusal(refusal) => failure = Some(refusal.into()),
                _ => unconfirmed += 1,
            }
        }
        if unconfirmed > 0 {
            let text = format!(
                "it is done for {count} connections, and {unconfirmed} other servers have not confirmed it: repeat the request"
            );
            let error = StreamError::new(ErrorCode::Unavailable, text);
            return Err(error.with_retry_after_ms(RETRY_AFTER_MS));
        }
        match failure {
            Some(error) if count == 0 => Err(error),
            _ => Ok(count),
        }
    }

    /// Registers what carries out the messages that other nodes received for clients of this one.
    pub fn register_post_handler(&self, handler: Weak<dyn PostHandler>) {
        // There is one for each kind of transport that needs it, which is one.
        let _ = self.post_handler.set(handler);
    }

    /// Whether a connection that is not here may be one to another node.
    #[must_use]
    pub fn may_be_elsewhere(&self, connection: &str) -> bool {
        let own = self.broker().node_tag();
        let tag = NodeTag::read(connection.as_bytes());
        own.is_some() && tag.is_some() && tag != own
    }

    /// Passes a client's message to the node of its connection. Returns the HTTP status and the body
    /// of the response. None if there is no such node.
    ///
    /// # Errors
    /// Too many wait. Or the node did not answer: it is not known whether the message was carried
    /// out.
    pub async fn forward_post(
        &self,
        caller: &Caller,
        command: PostedCommand,
    ) -> Result<Option<(u16, Bytes)>, StreamError> {
        let client = ClientKey::from(caller);
        let place = self.post_places.clients.try_acquire(&client, CLIENT_POSTS);
        let (Some(_place), Ok(_permit)) = (place, self.post_places.forwarded.try_acquire()) else {
            return Err(too_many_posts());
        };
        let connection = command.connection.clone();
        let question = Question::Post(Post {
            connection: command.connection,
            key: command.key,
            user: command.user.map(|user| user.as_str().to_owned()),
            body: command.body,
        });
        let (answers, missing) = self.ask_node_of(&connection, &question).await?;
        match answers.into_iter().next() {
            Some(Answer::Post(PostReply { status, body })) => {
                Ok(Some((u16::try_from(status).unwrap_or(500), body)))
            }
            Some(Answer::Refusal(refusal)) => Err(refusal.into()),
            None if missing == 0 => Ok(None),
            _ => Err(StreamError::new(
                ErrorCode::Unavailable,
                "the server of this connection does not answer, and it is not known whether the message was carried out",
            )
            .with_retry_after_ms(RETRY_AFTER_MS)),
        }
    }

    /// Asks all other nodes. Returns their answers, and how many are missing.
    async fn ask_others(&self, question: &Question) -> (Vec<Answer>, usize) {
        let encoded = question.to_bytes();
        let Some(asked) = self.broker().ask(Recipients::Others, &encoded) else {
            return (Vec::new(), 0);
        };
        match asked.await {
            Ok(asked) => read_all(&asked),
            Err(error) => {
                tracing::warn!(%error, "other servers are not asked");
                (Vec::new(), self.broker().other_nodes().max(1))
            }
        }
    }

    /// Asks the node of a connection. Returns its answer, and 1 if it is missing. Neither if there
    /// is no such node.
    async fn ask_node_of(
        &self,
        connection: &str,
        question: &Question,
    ) -> Result<(Vec<Answer>, usize), StreamError> {
        let is_other = |tag: &NodeTag| self.broker().node_tag() != Some(*tag);
        let tag = NodeTag::read(connection.as_bytes()).filter(is_other);
        let encoded = question.to_bytes();
        let asked = tag.and_then(|tag| self.broker().ask(Recipients::Node(tag), &encoded));
        match asked {
            Some(asked) => Ok(read_all(&asked.await?)),
            None => Ok((Vec::new(), 0)),
        }
    }

    /// The answer to a question of another node.
    async fn answer_question(&self, question: Question) -> Answer {
        match question {
            Question::Call(call) => self.answer_call(call).await,
            Question::Settings(_) => self.answer_settings(),
            Question::Presence(channel) => match ChannelName::parse(&channel) {
                Ok(channel) => self.presence(&channel).await.into(),
                Err(error) => Answer::from(StreamError::from(error)),
            },
            Question::Connections(page) => {
                let filter = ConnectionFilter {
                    user: page.user.as_deref(),
                    channel: page.channel.as_deref(),
                    after: &page.after,
                };
                match self.connections(filter, page.limit as usize).await {
                    Ok(sessions) => Answer::Connections(question::Connections {
                        connections: sessions.iter().map(describe).collect(),
                    }),
                    Err(error) => error.into(),
                }
            }
            Question::Disconnect(target) => {
                let Some(target) = target.get() else {
                    return unknown_question().into();
                };
                let closed = self.disconnect(target);
                tracing::info!(
                    ?target,
                    ?closed,
                    "disconnected, as another server was asked to"
                );
                Answer::of_count(closed)
            }
            Question::Subscribe(question::Subscription { target, channel }) => {
                match target.as_ref().and_then(WireTarget::get) {
                    Some(target) => Answer::of_count(self.subscribe_target(target, &channel).await),
                    None => unknown_question().into(),
                }
            }
            Question::Unsubscribe(question::Subscription { target, channel }) => {
                match target.as_ref().and_then(WireTarget::get) {
                    Some(target) => Answer::of_count(self.unsubscribe_target(target, &channel)),
                    None => unknown_question().into(),
                }
            }
            Question::Recheck(question::Subscription { target, channel }) => {
                match target.as_ref().and_then(WireTarget::get) {
                    Some(Target::User(user)) => {
                        Answer::of_count(self.recheck(&UserId::new(user), &channel))
                    }
                    _ => unknown_question().into(),
                }
            }
            Question::Post(post) => {
                let Ok(_permit) = self.post_places.received.try_acquire() else {
                    return too_many_posts().into();
                };
                let Some(handler) = self.post_handler.get().and_then(Weak::upgrade) else {
                    let text = "this server takes no messages for its connections";
                    return StreamError::new(ErrorCode::Unimplemented, text).into();
                };
                let session = self.session(&post.connection);
                let command = PostedCommand {
                    connection: post.connection,
                    key: post.key,
                    user: post.user.as_deref().map(UserId::new),
                    body: post.body,
                };
                let (status, body) = handler.post(session, &command).await;
                Answer::Post(PostReply {
                    status: status.into(),
                    body: body.into(),
                })
            }
        }
    }

    /// The subscribers of a channel on this node.
    async fn presence(&self, channel: &ChannelName) -> Presence {
        let mut users = BTreeSet::new();
        self.for_each_subscriber(channel, |session| {
            if users.len() < MAX_NAMED
                && let Some(user) = session.identity().user()
            {
                users.insert(user.clone());
            }
        })
        .await;
        Presence {
            connections: self.hub().subscriber_count(channel),
            channel: channel.clone(),
            users,
            missing_nodes: 0,
        }
    }
}

fn unknown_question() -> StreamError {
    let text = "this server does not know the request: it is of another version";
    StreamError::new(ErrorCode::Unimplemented, text)
}

fn too_many_posts() -> StreamError {
    let text = "too many messages for connections to other servers wait";
    StreamError::new(ErrorCode::ResourceExhausted, text).with_retry_after_ms(RETRY_AFTER_MS)
}

/// Reads answers, and counts those that are missing or are not understood.
fn read_all(asked: &Answers) -> (Vec<Answer>, usize) {
    let answers = asked.answers.iter().map(Answer::read);
    let answers: Vec<_> = answers.flatten().collect();
    let missing = asked.missing + asked.answers.len() - answers.len();
    (answers, missing)
}

impl From<Presence> for Answer {
    fn from(presence: Presence) -> Self {
        let mut bytes = 0;
        let users = presence.users.into_iter().take_while(|user| {
            bytes += user.as_str().len();
            bytes <= NAMED_BYTES
        });
        Self::Presence(question::PresenceAnswer {
            connections: u32::try_from(presence.connections).unwrap_or(u32::MAX),
            users: users.map(|user| user.as_str().to_owned()).collect(),
        })
    }
}

impl Answer {
    fn of_count(done: Result<usize, StreamError>) -> Self {
        match done {
            Ok(count) => Self::Count(Count {
                connections: u32::try_from(count).unwrap_or(u32::MAX),
            }),
            Err(error) => error.into(),
        }
    }
}

/// A connection and its quality, as operators read it.
fn describe(session: &Session) -> v1::Connection {
    let info = session.info();
    let quality = session.quality();
    let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    let address = info.caller.address.map(|address| address.to_string());
    v1::Connection {
        connection_id: session.id().as_str().to_owned(),
        user_id: session
            .identity()
            .user()
            .map(|user| user.as_str().to_owned()),
        transport: info.transport.name().to_owned(),
        address: address.unwrap_or_default(),
        connected_at: session.opened_at_ms(),
        subscriptions: u32::try_from(session.subscription_count()).unwrap_or(u32::MAX),
        rtt_ms: quality.round_trip.map(ms),
        jitter_ms: quality.jitter.map(ms),
        missed_beats: quality.missed_beats,
        bytes_sent: quality.bytes_sent,
        bytes_received: quality.bytes_received,
        bytes_queued: session.queued_bytes() as u64,
    }
}

impl ControlHandler for StreamCore {
    fn revoke(&self, revocation: &Revocation, expires_at_ms: i64) {
        let revocations = self.authenticator().revocations();
        if let Err(error) = revocations.merge(revocation, expires_at_ms) {
            tracing::error!(%error, "a revocation of another server is not in force here");
        }
    }

    fn revocations(&self) -> Vec<(Revocation, i64)> {
        self.authenticator().revocations().all()
    }

    fn now_ms(&self) -> i64 {
        self.clock().now_ms()
    }

    fn answer(self: Arc<Self>, question: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        Box::pin(async move {
            let answer = match Question::read(question) {
                Some(question) => self.answer_question(question).await,
                None => unknown_question().into(),
            };
            let encoded = answer.to_bytes();
            if encoded.len() <= ANSWER_BYTES {
                return encoded;
            }
            let text = format!(
                "the answer of another server is {} bytes long, expected {ANSWER_BYTES} at most",
                encoded.len()
            );
            Answer::from(StreamError::new(ErrorCode::ResourceExhausted, text)).to_bytes()
        })
    }
}

impl From<StreamError> for Answer {
    fn from(error: StreamError) -> Self {
        Self::Refusal(Refusal {
            code: error.code().into(),
            message: error.message().to_owned(),
            retry_after_ms: error.retry_after_ms(),
        })
    }
}

impl From<Refusal> for StreamError {
    fn from(refusal: Refusal) -> Self {
        let code = ErrorCode::try_from(refusal.code).unwrap_or(ErrorCode::Internal);
        let error = Self::new(code, refusal.message);
        match refusal.retry_after_ms {
            Some(wait) => error.with_retry_after_ms(wait),
            None => error,
        }
    }
}
