//! Known channels: an event that clients can also read elsewhere is left out where nobody was
//! subscribed lately, and no client that missed it is recovered.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use support::{START_MS, client_on, core_with, open_history, subscription, take};
use tidewire_proto::v1::{
    ChannelSubscription, ErrorCode, GetUnreadCountResponse, Notification, SubscribeRequest,
    SubscriptionResult, server_message::Data,
};
use tidewire_stream::{
    AnonymousPolicy, Authenticator, ChannelName, Connection, ConnectionInfo, Epoch, Identity,
    ManualClock, Namespace, Namespaces, OutgoingMessage, PageLimit, Position, ShardId, SharedEvent,
    StreamCore, StreamOptions, Urgency, UserId,
    identity::UserIdentity,
    namespace::{METADATA_TTL, Ownership},
};

fn channel(user: &str) -> ChannelName {
    ChannelName::user(user).unwrap()
}

fn offer(stream: &StreamCore, user: &str) {
    let event = Data::UnreadCount(GetUnreadCountResponse { unread_count: 1 });
    stream.publish_if_known(&channel(user), event, Urgency::Ordinary, None);
}

/// The newest position of a user's channel.
async fn top(stream: &StreamCore, user: &str) -> Position {
    let channel = channel(user);
    let history = stream.broker().history(&channel, None, PageLimit::NOTHING);
    history.await.unwrap().top
}

async fn connect(stream: &Arc<StreamCore>, user: &str) -> Connection {
    let identity = UserIdentity::new(UserId::new(user), i64::MAX);
    let info = ConnectionInfo {
        caller: Identity::from(identity).into(),
        ..client_on(ShardId::CALLER)
    };
    stream.connect(info).await
}

/// Subscribes a user's connection again, since a position.
async fn resume(connection: &Connection, user: &str, since: Position) -> SubscriptionResult {
    let request = SubscribeRequest {
        channels: vec![ChannelSubscription {
            since: Some(tidewire_proto::v1::Position {
                epoch: since.epoch.as_str().to_owned(),
                seq: since.seq,
            }),
            ..subscription(channel(user).as_str()).channels.remove(0)
        }],
    };
    let subscribed = connection.begin_command().subscribe(request).await;
    subscribed.unwrap().channels.remove(0)
}

/// Lets some time pass, and then does the work that the server does once a second.
fn pass(stream: &StreamCore, clock: &ManualClock, ms: i64) {
    clock.advance(ms);
    stream.sweep();
}

const DAY_MS: i64 = METADATA_TTL.as_millis() as i64;

#[tokio::test]
async fn a_user_who_never_came_costs_nothing() {
    let (stream, _) = core_with([], StreamOptions::default());
    let saved = stream.broker().save().count();
    for number in 0..100 {
        offer(&stream, &format!("u{number}"));
    }
    assert_eq!(stream.broker().history_bytes(), 0);
    assert_eq!(stream.broker().save().count(), saved);
    assert_eq!(top(&stream, "u1").await.seq, 0);
}

#[tokio::test]
async fn a_user_who_is_away_for_a_moment_misses_nothing() {
    let (stream, clock) = core_with([], StreamOptions::default());
    let connection = connect(&stream, "ada").await;
    let since = top(&stream, "ada").await;
    drop(connection);
    pass(&stream, &clock, 60_000);
    offer(&stream, "ada");
    let connection = connect(&stream, "ada").await;
    let resumed = resume(&connection, "ada", since).await;
    assert_eq!((resumed.recovered, resumed.seq), (true, 1));
}

#[tokio::test]
async fn a_position_that_was_read_without_a_subscription_is_not_recovered() {
    let (stream, _) = core_with([], StreamOptions::default());
    let identity = Identity::from(UserIdentity::new(UserId::new("ada"), i64::MAX));
    let saved = stream.broker().save().count();
    let since = {
        let read = stream.history_as(&identity, "user:ada", None, PageLimit::NOTHING);
        read.await.unwrap().1.top
    };
    assert_eq!(
        stream.broker().save().count(),
        saved,
        "reading makes no channel"
    );
    offer(&stream, "ada");
    let read = stream.history_as(&identity, "user:ada", Some(since.clone()), PageLimit::ALL);
    let refused = read.await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::FailedPrecondition);
    let connection = connect(&stream, "ada").await;
    assert!(!resume(&connection, "ada", since).await.recovered);
    // From here on the channel is known, and a read position is one of its own.
    let since = top(&stream, "ada").await;
    offer(&stream, "ada");
    assert!(resume(&connection, "ada", since).await.recovered);
}

#[tokio::test]
async fn a_user_who_is_connected_for_quiet_days_and_away_for_a_moment_misses_nothing() {
    let (stream, clock) = core_with([], StreamOptions::default());
    for quiet_ms in [DAY_MS - 1, DAY_MS + 1, 2 * DAY_MS] {
        let connection = connect(&stream, "ada").await;
        let since = top(&stream, "ada").await;
        pass(&stream, &clock, quiet_ms);
        drop(connection);
        pass(&stream, &clock, DAY_MS - 1);
        offer(&stream, "ada");
        let connection = connect(&stream, "ada").await;
        let seq = since.seq + 1;
        let resumed = resume(&connection, "ada", since).await;
        assert_eq!((resumed.recovered, resumed.seq), (true, seq));
    }
}

#[tokio::test]
async fn a_subscriber_gets_the_message_after_a_quiet_day_and_no_gap() {
    let (stream, clock) = core_with([open_history("orders")], StreamOptions::default());
    let connection = connect(&stream, "ada").await;
    let command = connection.begin_command();
    command.subscribe(subscription("orders:1")).await.unwrap();
    drop(command);
    take(&connection);
    for day in 0..3 {
        let published = stream.publish_as(&Identity::Anonymous, "orders:1", "1".into(), None);
        let (_, position) = published.await.unwrap();
        assert_eq!(position.seq, day + 1);
        let [OutgoingMessage::Publication(publication)] = &take(&connection)[..] else {
            panic!("day {day}: expected the message alone");
        };
        assert_eq!(*publication.position(), position);
        pass(&stream, &clock, DAY_MS + 1);
    }
    // Nobody is there any more: the channel is forgotten a day later.
    drop(connection);
    let channel = ChannelName::parse("orders:1").unwrap();
    let top = async || {
        let history = stream.broker().history(&channel, None, PageLimit::NOTHING);
        history.await.unwrap().top.seq
    };
    pass(&stream, &clock, DAY_MS);
    assert_eq!(top().await, 3);
    pass(&stream, &clock, 1);
    assert_eq!(top().await, 0);
}

#[tokio::test]
async fn a_stop_saves_that_a_quiet_channel_was_in_use() {
    let (before, clock) = core_with([], StreamOptions::default());
    let connection = connect(&before, "ada").await;
    let since = top(&before, "ada").await;
    clock.advance(DAY_MS - 1);
    let (after, clock) = core_with([], StreamOptions::default());
    clock.advance(DAY_MS - 1);
    for saved in before.broker().save() {
        after.broker().load(&saved).unwrap();
    }
    drop(connection);
    pass(&after, &clock, 2);
    let connection = connect(&after, "ada").await;
    assert!(resume(&connection, "ada", since).await.recovered);
}

#[tokio::test]
async fn a_user_who_was_away_for_a_day_is_not_recovered() {
    let (stream, clock) = core_with([], StreamOptions::default());
    let connection = connect(&stream, "ada").await;
    let since = top(&stream, "ada").await;
    drop(connection);
    pass(&stream, &clock, DAY_MS + 1);
    offer(&stream, "ada");
    assert_eq!(top(&stream, "ada").await.seq, 0, "it was left out");
    let connection = connect(&stream, "ada").await;
    assert!(!resume(&connection, "ada", since).await.recovered);
}

#[tokio::test]
async fn a_full_namespace_recovers_nobody_whose_channel_is_unknown() {
    let personal = Namespace {
        ownership: Ownership::Personal,
        max_channels: 1,
        ..Namespace::history("user")
    };
    let mut namespaces = Namespaces::default();
    namespaces.add(personal).unwrap();
    let clock = ManualClock::at(START_MS);
    let authenticator =
        Authenticator::hs256(&[7; 32], AnonymousPolicy::Read, clock.clone()).unwrap();
    let options = StreamOptions::default();
    let stream = StreamCore::in_memory(namespaces, authenticator, clock, options);
    let _ada = connect(&stream, "ada").await;
    let bob = connect(&stream, "bob").await;
    let since = bob.subscriptions().remove(0);
    drop(bob);
    offer(&stream, "bob");
    let bob = connect(&stream, "bob").await;
    let since = Position {
        epoch: Epoch::new(&since.epoch),
        seq: since.seq,
    };
    assert!(!resume(&bob, "bob", since).await.recovered);
}

#[tokio::test]
async fn events_alone_keep_nobody_known() {
    let (stream, clock) = core_with([], StreamOptions::default());
    drop(connect(&stream, "ada").await);
    let since = top(&stream, "ada").await;
    for _ in 0..25 {
        offer(&stream, "ada");
        pass(&stream, &clock, DAY_MS / 24);
    }
    assert_eq!(top(&stream, "ada").await.seq, 0, "it is forgotten");
    assert_eq!(stream.broker().history_bytes(), 0);
    assert!(stream.users_to_reach().is_empty());
    let connection = connect(&stream, "ada").await;
    assert!(!resume(&connection, "ada", since).await.recovered);
}

/// A notification with much text, as many users get it.
fn long_notification() -> Arc<SharedEvent> {
    SharedEvent::new(Data::Notification(Notification {
        title: "t".to_owned(),
        body: "b".repeat(10_000),
        data: vec![b'1'; 16_000].into(),
        ..Notification::default()
    }))
}

#[tokio::test]
async fn one_event_for_many_users_costs_no_history_of_others() {
    const USERS: usize = 300;
    let options = StreamOptions {
        history_bytes: 4 << 20,
        ..StreamOptions::default()
    };
    let (stream, _) = core_with([open_history("orders")], options);
    let publish = async |channel: &str, data: Bytes| {
        let published = stream.publish_as(&Identity::Anonymous, channel, data, None);
        published.await.unwrap().1
    };
    let order = publish("orders:1", "1".into()).await;
    for _ in 0..20 {
        publish("orders:1", format!("{:?}", "x".repeat(1_000)).into()).await;
    }
    // A half of them is away, with a history.
    let mut connections = Vec::new();
    for user in 0..USERS {
        let connection = connect(&stream, &user.to_string()).await;
        offer(&stream, &user.to_string());
        connections.extend((user % 2 == 0).then_some(connection));
    }
    let before = stream.broker().history_bytes();
    for _ in 0..3 {
        let event = long_notification();
        let users = stream.users_to_reach();
        assert_eq!(users.len(), USERS);
        for user in users {
            stream.publish_if_known(
                &channel(user.as_str()),
                event.clone(),
                Urgency::Ordinary,
                None,
            );
        }
        for connection in &connections {
            assert!(take(connection).iter().any(|message| {
                matches!(message, OutgoingMessage::Publication(one) if one.json().len() > 26_000)
            }));
        }
        stream.sweep();
    }
    let added = stream.broker().history_bytes() - before;
    assert!(added < 3 * (30_000 + 1_500 * USERS), "{added}");
    let kept = stream.history_as(
        &Identity::Anonymous,
        "orders:1",
        Some(order),
        PageLimit::ALL,
    );
    assert_eq!(kept.await.unwrap().1.publications.len(), 20);
    // Those who were away have all of it when they come back.
    let away = connect(&stream, "1").await;
    let top = top(&stream, "1").await;
    let since = Position::start(top.epoch);
    let resumed = resume(&away, "1", since).await;
    assert_eq!((resumed.recovered, resumed.seq), (true, 4));
}

/// Publishes for every user who needs it.
fn offer_to_all(stream: &StreamCore) {
    for user in stream.users_to_reach() {
        offer(stream, user.as_str());
    }
}

#[tokio::test]
async fn an_event_for_all_reaches_who_is_there_and_recovers_nobody_who_missed_it() {
    let (stream, _) = core_with([], StreamOptions::default());
    let _ada = connect(&stream, "ada").await;
    let bob = connect(&stream, "bob").await;
    let since = top(&stream, "bob").await;
    drop(bob);
    offer_to_all(&stream);
    assert_eq!(top(&stream, "ada").await.seq, 1);
    assert_eq!(top(&stream, "bob").await.seq, 0, "it was left out");
    let bob = connect(&stream, "bob").await;
    assert!(!resume(&bob, "bob", since).await.recovered);
    // From here on it has all.
    let since = top(&stream, "bob").await;
    offer_to_all(&stream);
    drop(bob);
    let bob = connect(&stream, "bob").await;
    let resumed = resume(&bob, "bob", since).await;
    assert_eq!((resumed.recovered, resumed.seq), (true, 1));
}

#[tokio::test]
async fn an_event_for_all_costs_nobody_a_message() {
    let (stream, clock) = core_with([], StreamOptions::default());
    let bob = connect(&stream, "bob").await;
    let since = top(&stream, "bob").await;
    drop(bob);
    offer(&stream, "bob");
    offer_to_all(&stream);
    let bob = connect(&stream, "bob").await;
    let resumed = resume(&bob, "bob", since).await;
    assert_eq!((resumed.recovered, resumed.seq), (true, 2));
    drop(bob);
    // Once its history has ended, nothing is lost but the position.
    pass(&stream, &clock, DAY_MS / 2);
    assert!(stream.users_to_reach().is_empty());
    assert_eq!(stream.broker().history_bytes(), 0);
}
