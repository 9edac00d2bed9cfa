//! Opening: `welcome` is the first message of a session, and no position that a client is told
//! is ahead of what it was sent.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use futures::FutureExt as _;
use tidewire_proto::v1::{ActiveSubscription, SubscriptionResult, server_message::Data};
use tidewire_stream::{
    Caller, ChannelProvider, Claims, CloseReason, Connection, ConnectionInfo, Identity,
    OutgoingMessage, ShardId, StreamCore, StreamError, StreamOptions, Target,
};

use support::{START_MS, client_on, core_with, open_history, subscription};

const CHANNEL: &str = "orders:1";

/// The engine of personal channels, which ends every connection of a user while it opens.
#[derive(Default)]
struct Disconnector(OnceLock<Weak<StreamCore>>);

impl ChannelProvider for Disconnector {
    fn validate(&self, _rest: &str) -> Result<(), StreamError> {
        Ok(())
    }

    fn activate(&self, rest: &str, _caller: &Caller) -> Result<(), StreamError> {
        let stream = self.0.get().and_then(Weak::upgrade).unwrap();
        assert_eq!(stream.disconnect(Target::User(rest)).unwrap(), 1);
        Ok(())
    }
}

async fn identity(stream: &StreamCore, user: &str) -> Identity {
    let claims = Claims {
        sub: user.to_owned(),
        exp: START_MS / 1_000 + 60,
        ..Claims::default()
    };
    let token = stream.authenticator().sign(&claims).unwrap();
    stream.authenticator().authenticate(&token).await.unwrap()
}

/// Types of the messages that a connection has, and the reason for its end.
fn take(connection: &Connection) -> (Vec<&'static str>, Option<CloseReason>) {
    let (mut out, mut end) = (Vec::new(), None);
    while let Some(taken) = connection.next(usize::MAX, &mut out).now_or_never() {
        if let Err(reason) = taken {
            end = Some(reason);
            break;
        }
    }
    (out.iter().map(OutgoingMessage::event_type).collect(), end)
}

#[tokio::test]
async fn welcome_is_first_even_if_the_session_ends_while_it_opens() {
    let (stream, _) = core_with([], StreamOptions::default());
    let provider = Arc::new(Disconnector::default());
    provider.0.set(Arc::downgrade(&stream)).unwrap();
    stream.register_provider("user", provider).unwrap();
    let info = ConnectionInfo {
        caller: identity(&stream, "ada").await.into(),
        ..client_on(ShardId::CALLER)
    };
    let connection = stream.connect(info).await;
    let (types, end) = take(&connection);
    assert_eq!(types, ["welcome", "error"]);
    assert_eq!(end, Some(CloseReason::Disconnected));
}

async fn subscribe(connection: &Connection) -> SubscriptionResult {
    let command = connection.begin_command();
    let subscribed = command.subscribe(subscription(CHANNEL)).await;
    subscribed.unwrap().channels.remove(0)
}

/// Sequence numbers of the publications in about `budget` bytes.
fn read(connection: &Connection, budget: usize) -> Vec<u64> {
    let mut out = Vec::new();
    let _ = connection.next(budget, &mut out).now_or_never();
    let publications = out.into_iter().filter_map(|message| match message {
        OutgoingMessage::Publication(publication) => Some(publication.seq()),
        OutgoingMessage::Direct(_) | OutgoingMessage::PriceBatch(_) => None,
    });
    publications.collect()
}

#[tokio::test]
async fn no_reply_is_ahead_of_what_the_client_was_sent() {
    let (stream, _) = core_with([open_history("orders")], StreamOptions::default());
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    read(&connection, usize::MAX);
    assert_eq!(subscribe(&connection).await.seq, 0);
    for _ in 0..5 {
        let data = Bytes::from_static(b"1");
        let published = stream.publish_as(&Identity::Anonymous, CHANNEL, data, None);
        published.await.unwrap();
    }
    let positions = |connection: &Connection| -> Vec<u64> {
        let all = connection.subscriptions();
        all.iter().map(|one: &ActiveSubscription| one.seq).collect()
    };
    // Five publications wait in the outbox, and every reply leaves before them.
    let again = subscribe(&connection).await;
    assert_eq!((again.seq, again.recovered), (0, false));
    assert_eq!(positions(&connection), [0]);
    assert_eq!(read(&connection, 1), [1]);
    let epoch = again.epoch;
    let again = subscribe(&connection).await;
    assert_eq!((again.seq, again.epoch), (1, epoch));
    assert_eq!(positions(&connection), [1]);
    assert_eq!(read(&connection, usize::MAX), [2, 3, 4, 5]);
    assert_eq!(subscribe(&connection).await.seq, 5);
    assert_eq!(positions(&connection), [5]);
}

#[tokio::test]
async fn authenticated_lists_positions_that_the_client_was_sent() {
    let (stream, _) = core_with([open_history("orders")], StreamOptions::default());
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    subscribe(&connection).await;
    read(&connection, usize::MAX);
    let data = Bytes::from_static(b"1");
    let published = stream.publish_as(&Identity::Anonymous, CHANNEL, data, None);
    published.await.unwrap();
    let claims = Claims {
        sub: "ada".to_owned(),
        exp: START_MS / 1_000 + 60,
        ..Claims::default()
    };
    let token = stream.authenticator().sign(&claims).unwrap();
    let command = connection.begin_command();
    let authenticated = command.authenticate(&token).await.unwrap();
    let position = |name: &str| {
        let all = authenticated.subscriptions.iter();
        let mut found = all.filter(|one| one.channel == name).map(|one| one.seq);
        found.next()
    };
    assert_eq!(position(CHANNEL), Some(0), "1 waits in the outbox");
    assert_eq!(position("user:ada"), Some(0));
    let reply = Data::Authenticated(authenticated);
    command.reply(tidewire_proto::v1::ServerMessage {
        data: Some(reply),
        ..Default::default()
    });
    assert_eq!(read(&connection, usize::MAX), [1]);
}
