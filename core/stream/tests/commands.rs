//! Commands of one session that run at the same time, and the time in which a client must send
//! a token.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use jsonwebtoken::Algorithm;
use tidewire_proto::v1::{ErrorCode, Position, ServerMessage, server_message::Data};
use tidewire_stream::{
    Access, AnonymousPolicy, Authenticator, Claims, CloseReason, Command, Connection, Identity,
    Keys, ManualClock, Namespace, Namespaces, OutgoingMessage, RemoteKeySet, ShardId, StreamCore,
    StreamOptions, Target, TokenRules,
    auth::{JwksFuture, JwksSource},
};
use tokio::sync::Notify;

use support::{client_on, core_with, open_history, subscription, take};

async fn publish(stream: &StreamCore, channel: &str, data: &'static str) {
    let data = Bytes::from_static(data.as_bytes());
    stream
        .publish_as(&Identity::Anonymous, channel, data, None)
        .await
        .unwrap();
}

async fn subscribe(command: &Command, channel: &str) -> ServerMessage {
    let subscribed = command.subscribe(subscription(channel)).await;
    ServerMessage {
        id: Some(channel.to_owned()),
        data: Some(Data::Subscribed(subscribed.unwrap())),
        ..ServerMessage::default()
    }
}

/// Messages that the client receives now: ids of replies, and channels of publications.
fn received(connection: &Connection) -> Vec<String> {
    let messages = take(connection).into_iter();
    let names = messages.filter_map(|message| match message {
        OutgoingMessage::Direct(reply) => reply.to_message().id.map(|id| format!("reply {id}")),
        OutgoingMessage::Publication(one) => Some(one.channel().to_string()),
        OutgoingMessage::PriceBatch(_) => None,
    });
    names.collect()
}

#[tokio::test(start_paused = true)]
async fn a_reply_releases_the_subscriptions_of_its_own_command_alone() {
    let (stream, _) = core_with([open_history("orders")], StreamOptions::default());
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    let (first, second) = (connection.begin_command(), connection.begin_command());
    let first_reply = subscribe(&first, "orders:1").await;
    let second_reply = subscribe(&second, "orders:2").await;
    publish(&stream, "orders:1", "1").await;
    publish(&stream, "orders:2", "2").await;
    second.reply(second_reply);
    assert_eq!(received(&connection), ["reply orders:2", "orders:2"]);
    first.reply(first_reply);
    assert_eq!(received(&connection), ["reply orders:1", "orders:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_command_holds_nothing_back() {
    let (stream, _) = core_with([open_history("orders")], StreamOptions::default());
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    let command = connection.begin_command();
    let _ = subscribe(&command, "orders:1").await;
    publish(&stream, "orders:1", "1").await;
    assert_eq!(received(&connection), [""; 0]);
    drop(command);
    assert_eq!(received(&connection), ["orders:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_subscription_inherits_the_grant_of_an_operator() {
    let rooms = Namespace {
        access: Access::Owner,
        ..Namespace::history("room")
    };
    let (stream, _) = core_with([rooms], StreamOptions::default());
    let token = |channels: &[&str]| {
        let claims = Claims {
            sub: "ada".to_owned(),
            exp: support::START_MS / 1_000 + 60,
            channels: channels.iter().map(|&one| one.to_owned()).collect(),
            ..Claims::default()
        };
        stream.authenticator().sign(&claims).unwrap()
    };
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    let command = connection.begin_command();
    command.authenticate(&token(&["room:*"])).await.unwrap();
    let target = Target::User("ada");
    assert_eq!(stream.subscribe_target(target, "room:1").await.unwrap(), 1);
    // The client comes back to its position.
    let mut request = subscription("room:1");
    request.channels[0].since = Some(Position {
        epoch: "e".to_owned(),
        seq: 0,
    });
    let subscribed = command.subscribe(request).await.unwrap();
    assert_eq!(subscribed.channels[0].error, None);
    command.authenticate(&token(&[])).await.unwrap();
    let (channel, _) = stream.namespaces().resolve("room:1").unwrap();
    assert!(connection.is_subscribed(&channel));
}

/// An identity provider that responds with no keys, when it is released.
#[derive(Debug, Default)]
struct HeldProvider(Arc<Notify>);

impl JwksSource for HeldProvider {
    fn fetch(&self) -> JwksFuture<'_> {
        Box::pin(async {
            self.0.notified().await;
            Ok(br#"{"keys": []}"#.to_vec())
        })
    }
}

/// A server that requires a token and has only a provider's keys.
fn core_with_provider() -> (Arc<StreamCore>, Arc<ManualClock>, Arc<Notify>) {
    let clock = ManualClock::at(1_000_000);
    let released = Arc::new(Notify::new());
    let provider = HeldProvider(released.clone());
    let remote = RemoteKeySet::new(Box::new(provider), clock.clone());
    let authenticator = Authenticator::new(
        Keys::default().remote(remote),
        TokenRules::default(),
        AnonymousPolicy::Refuse,
        clock.clone(),
    );
    let options = StreamOptions::default();
    let all = Namespaces::built_in();
    let stream = StreamCore::in_memory(all, authenticator, clock.clone(), options);
    (stream, clock, released)
}

async fn connect_unknown(stream: &Arc<StreamCore>) -> Connection {
    let mut info = client_on(ShardId::CALLER);
    info.caller = Identity::Unknown.into();
    stream.connect(info).await
}

/// The end of a session, if it is over.
fn end(connection: &Connection) -> Option<CloseReason> {
    let mut out = Vec::new();
    loop {
        match connection.next(usize::MAX, &mut out).now_or_never() {
            Some(Ok(())) => {}
            Some(Err(reason)) => return Some(reason),
            None => return None,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_must_send_a_token_has_five_seconds() {
    let (stream, clock, _) = core_with_provider();
    let connection = connect_unknown(&stream).await;
    assert_eq!(end(&connection), None);
    clock.advance(4_999);
    assert_eq!(end(&connection), None);
    clock.advance(1);
    assert_eq!(end(&connection), Some(CloseReason::Unauthenticated));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_being_verified_came_in_time() {
    let (stream, clock, released) = core_with_provider();
    let connection = connect_unknown(&stream).await;
    let header = jsonwebtoken::Header {
        kid: Some("unknown".to_owned()),
        ..jsonwebtoken::Header::new(Algorithm::ES256)
    };
    let header = base64_of(&serde_json::to_vec(&header).unwrap());
    let token = format!("{header}.{}.{}", base64_of(b"{}"), base64_of(b"x"));
    let command = connection.begin_command();
    let mut verifying = Box::pin(command.authenticate(&token));
    assert!((&mut verifying).now_or_never().is_none());
    clock.advance(60_000);
    assert_eq!(end(&connection), None, "the verification goes on");
    released.notify_one();
    let error = verifying.await.unwrap_err();
    // The provider responded with a set that cannot be used, so the token may be good.
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert_eq!(end(&connection), Some(CloseReason::Unauthenticated));
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(bytes)
}
