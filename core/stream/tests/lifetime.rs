//! Lifetime: a token that expires and a session that closes end in time, whether the transport
//! takes the session's messages or not.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use proptest::prelude::*;
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{
    Claims, Clock as _, CloseReason, Connection, Identity, ManualClock, OutgoingMessage, ShardId,
    StreamCore, StreamOptions,
};
use tokio::time::Instant;

use support::{START_MS, client_on, core_with, open_history, run_shard, subscription};

const CHANNEL: &str = "orders:1";

/// Lifetime of the tokens.
const TOKEN_TIME: Duration = Duration::from_secs(60);

/// Longer than a closing session may take.
const CLOSE_TIME: Duration = Duration::from_secs(11);

struct World {
    stream: Arc<StreamCore>,
    clock: Arc<ManualClock>,
    shard: ShardId,
}

impl World {
    /// A core whose one shard runs.
    fn new() -> Self {
        let options = StreamOptions {
            shards: 1,
            ..StreamOptions::default()
        };
        let (stream, clock) = core_with([open_history("orders")], options);
        let shard = stream.hub().shards().next().unwrap();
        run_shard(&stream, shard);
        Self {
            stream,
            clock,
            shard,
        }
    }

    fn token(&self, lifetime: Duration) -> String {
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap();
        let claims = Claims {
            sub: "ada".to_owned(),
            exp: self.stream.clock().now_ms() / 1_000 + lifetime,
            ..Claims::default()
        };
        self.stream.authenticator().sign(&claims).unwrap()
    }

    /// A client on the shard. Nothing takes its messages.
    async fn connect(&self, identity: Identity) -> Connection {
        let mut info = client_on(self.shard);
        info.caller = identity.into();
        self.stream.connect(info).await
    }

    /// A user whose token expires after [`TOKEN_TIME`], subscribed to the channel.
    async fn user(&self) -> Connection {
        let token = self.token(TOKEN_TIME);
        let identity = self.stream.authenticator().authenticate(&token);
        let connection = self.connect(identity.await.unwrap()).await;
        subscribe(&connection).await;
        connection
    }

    async fn publish(&self) {
        let data = Bytes::from(format!("{:?}", "x".repeat(1_000)));
        let published = self
            .stream
            .publish_as(&Identity::Anonymous, CHANNEL, data, None);
        published.await.unwrap();
    }

    /// Lets time pass, on the clock and for the timers.
    async fn pass(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let step = Duration::from_secs(1).min(until - Instant::now());
            self.clock.advance(i64::try_from(step.as_millis()).unwrap());
            tokio::time::sleep(step).await;
        }
        support::run_ticks().await;
    }

    fn subscribers(&self) -> usize {
        let namespaces = self.stream.namespaces();
        let (channel, _) = namespaces.resolve(CHANNEL).unwrap();
        self.stream.hub().subscriber_count(&channel)
    }
}

async fn subscribe(connection: &Connection) {
    let command = connection.begin_command();
    let subscribed = command.subscribe(subscription(CHANNEL)).await.unwrap();
    assert_eq!(subscribed.channels[0].error, None);
}

/// Types of the messages that a connection has, and the reason for its end.
fn take(connection: &Connection) -> (Vec<&'static str>, Option<CloseReason>) {
    let mut out = Vec::new();
    let end = loop {
        match connection.next(usize::MAX, &mut out).now_or_never() {
            Some(Ok(())) => {}
            Some(Err(reason)) => break Some(reason),
            None => break None,
        }
    };
    (out.iter().map(OutgoingMessage::event_type).collect(), end)
}

#[tokio::test(start_paused = true)]
async fn a_token_expires_also_while_the_transport_takes_nothing() {
    let world = World::new();
    let connection = world.user().await;
    world.publish().await;
    world.pass(TOKEN_TIME - Duration::from_secs(1)).await;
    assert_eq!(world.subscribers(), 1);
    assert!(connection.identity().user().is_some() && !connection.is_closing());
    world.pass(Duration::from_secs(2)).await;
    assert!(connection.is_closing());
    assert_eq!(connection.identity(), Identity::Unknown);
    assert_eq!(
        (world.subscribers(), connection.subscription_count()),
        (0, 0)
    );
    let (types, end) = take(&connection);
    assert_eq!(types, ["welcome", "token_expiring", "error"]);
    assert_eq!(end, Some(CloseReason::TokenExpired));
}

#[tokio::test(start_paused = true)]
async fn nobody_acts_in_the_name_of_an_expired_token() {
    let world = World::new();
    let connection = world.user().await;
    let fresh = world.token(2 * TOKEN_TIME);
    // The clock alone: no timer has noticed.
    world.clock.set(START_MS + 60_000);
    assert_eq!(connection.identity(), Identity::Unknown);
    assert_eq!(connection.caller().identity, Identity::Unknown);
    let command = connection.begin_command();
    let refused = command.subscribe(subscription(CHANNEL)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Unauthenticated);
    // A fresh token comes too late.
    let refused = command.authenticate(&fresh).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::FailedPrecondition);
    assert_eq!(connection.identity(), Identity::Unknown);
    assert_eq!(take(&connection).1, Some(CloseReason::TokenExpired));
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_moves_the_end() {
    let world = World::new();
    let connection = world.user().await;
    world.pass(TOKEN_TIME / 2).await;
    let fresh = world.token(2 * TOKEN_TIME);
    let command = connection.begin_command();
    command.authenticate(&fresh).await.unwrap();
    world.pass(TOKEN_TIME).await;
    assert!(connection.identity().user().is_some() && !connection.is_closing());
    world.pass(TOKEN_TIME).await;
    assert!(connection.is_closing());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_comes_after_an_operators_end_gives_no_rights() {
    let world = World::new();
    let connection = world.connect(Identity::Anonymous).await;
    let id = connection.id().as_str();
    let target = tidewire_stream::Target::Connection(id);
    assert_eq!(world.stream.disconnect(target).unwrap(), 1);
    let token = world.token(TOKEN_TIME);
    let command = connection.begin_command();
    assert!(command.authenticate(&token).await.is_err());
    assert_eq!(connection.identity(), Identity::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_token_ends_also_while_the_transport_takes_nothing() {
    let world = World::new();
    let connection = world.connect(Identity::Unknown).await;
    world.pass(Duration::from_secs(4)).await;
    assert!(!connection.is_closing());
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(
        connection.close_reason(),
        Some(CloseReason::Unauthenticated)
    );
}

#[tokio::test(start_paused = true)]
async fn a_closing_session_takes_no_more_publications_and_ends_by_its_deadline() {
    let world = World::new();
    let connection = world.connect(Identity::Anonymous).await;
    subscribe(&connection).await;
    world.publish().await;
    support::run_ticks().await;
    let queued = connection.queued_bytes();
    assert!(queued > 1_000, "{queued}");
    connection.close(CloseReason::RateLimited);
    world.publish().await;
    world.pass(CLOSE_TIME / 2).await;
    assert_eq!(connection.queued_bytes(), queued);
    world.pass(CLOSE_TIME / 2).await;
    assert_eq!(connection.queued_bytes(), 0);
    assert_eq!(world.subscribers(), 0);
    assert_eq!(take(&connection), (vec![], Some(CloseReason::RateLimited)));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_clock_has_passed_ends_its_session_within_a_minute() {
    let world = World::new();
    let token = world.token(10 * TOKEN_TIME);
    let identity = world.stream.authenticator().authenticate(&token);
    let connection = world.connect(identity.await.unwrap()).await;
    subscribe(&connection).await;
    // The wall clock steps on, as after a machine was suspended. No timer does.
    world.clock.advance(20 * 60_000);
    world.pass(Duration::from_secs(60)).await;
    world.publish().await;
    let (messages, end) = take(&connection);
    assert_eq!(end, Some(CloseReason::TokenExpired), "{messages:?}");
    assert_eq!(world.subscribers(), 0);
}

#[derive(Debug, Clone)]
enum Action {
    Publish,
    Subscribe,
    Take,
    /// Lets some seconds pass, for the timers too.
    Pass(u64),
    /// Lets some seconds pass on the clock alone.
    Skip(i64),
    Close,
    Renew,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Publish),
        2 => Just(Action::Subscribe),
        1 => Just(Action::Take),
        3 => (1_u64..40).prop_map(Action::Pass),
        1 => (1_i64..40).prop_map(Action::Skip),
        1 => Just(Action::Close),
        1 => Just(Action::Renew),
    ]
}

async fn play(actions: Vec<Action>) {
    let world = World::new();
    let connection = world.user().await;
    let mut expires_at = START_MS + 60_000;
    let mut closing_since = None;
    let mut queued = usize::MAX;
    for action in actions {
        match action {
            Action::Publish => world.publish().await,
            Action::Subscribe => {
                let command = connection.begin_command();
                let _ = command.subscribe(subscription(CHANNEL)).await;
            }
            Action::Take => {
                let _ = take(&connection);
            }
            Action::Pass(seconds) => world.pass(Duration::from_secs(seconds)).await,
            Action::Skip(seconds) => world.clock.advance(1_000 * seconds),
            Action::Close => connection.close(CloseReason::Draining),
            Action::Renew => {
                let token = world.token(TOKEN_TIME);
                let command = connection.begin_command();
                let now_ms = world.clock.now_ms();
                let renewed = command.authenticate(&token).await;
                if let Ok(renewed) = &renewed {
                    assert!(now_ms < expires_at && closing_since.is_none());
                    expires_at = renewed.expires_at;
                }
            }
        }
        support::run_ticks().await;
        if connection.identity().user().is_some() {
            assert!(world.clock.now_ms() < expires_at);
        }
        if !connection.is_closing() {
            assert_eq!(closing_since, None);
            continue;
        }
        let now = Instant::now();
        let since = *closing_since.get_or_insert(now);
        // Nothing is added. The step in which it began may have added an error.
        if since < now {
            assert!(connection.queued_bytes() <= queued);
        }
        queued = connection.queued_bytes();
        if since + CLOSE_TIME < now {
            assert_eq!((queued, world.subscribers()), (0, 0));
            assert_eq!(connection.subscription_count(), 0);
        }
    }
    world.pass(2 * TOKEN_TIME + CLOSE_TIME).await;
    assert!(connection.is_closing());
    assert_eq!((connection.queued_bytes(), world.subscribers()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_session_of_a_token_ends(actions in prop::collection::vec(action(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(actions));
    }
}
