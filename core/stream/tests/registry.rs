//! Registry: sessions leave nothing behind, however they open and end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use tidewire_proto::v1::{ChannelSubscription, SubscribeRequest, UnsubscribeRequest};
use tidewire_stream::{
    AnonymousPolicy, Authenticator, Caller, Claims, Connection, ConnectionInfo, Encoding, Identity,
    LimitOptions, ManualClock, Namespace, Namespaces, PublishRight, RegistrySizes, Session,
    SessionLimits, ShardId, Sink, StreamCore, StreamOptions, Target, Transport, UserId,
    session::CloseReason,
};
use tokio::time::Instant;

/// Sessions that open and end.
const SESSIONS: u32 = 100_000;

/// Labels of the connections, in turn.
const TRANSPORTS: [Transport; 3] = [
    Transport::new("first"),
    Transport::new("second"),
    Transport::new("third"),
];

/// Sessions that are open at a time.
const AT_ONCE: usize = 500;

/// Timers of a shard below which stale entries are not removed.
const FEW_TIMERS: usize = 1_024;

struct World {
    stream: Arc<StreamCore>,
    limits: SessionLimits,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::at(1_000_000);
        let mut namespaces = Namespaces::built_in();
        let rooms = Namespace {
            publish: PublishRight::Public,
            ..Namespace::history("room")
        };
        namespaces.add(rooms).unwrap();
        let authenticator =
            Authenticator::hs256(&[7; 32], AnonymousPolicy::Read, clock.clone()).unwrap();
        let options = StreamOptions {
            shards: 2,
            ..StreamOptions::default()
        };
        let stream = StreamCore::in_memory(namespaces, authenticator, clock.clone(), options);
        let limits = LimitOptions {
            connections_per_ip: 0,
            connections_per_user: 0,
            handshakes_per_second: 0,
            ..LimitOptions::default()
        };
        Self {
            stream,
            limits: SessionLimits::new(limits, clock),
        }
    }

    fn token(&self, number: u32) -> String {
        let claims = Claims {
            sub: format!("user{}", number % 1_000),
            exp: 1_000_000,
            jti: Some(format!("token{number}")),
            ..Claims::default()
        };
        self.stream.authenticator().sign(&claims).unwrap()
    }

    async fn open(&self, identity: Identity, shard: ShardId, number: u32) -> Connection {
        let address = Some(IpAddr::from((number % 5_000).to_be_bytes()));
        let info = ConnectionInfo {
            quota: Some(self.limits.admit(address, &identity).unwrap()),
            caller: Caller {
                address,
                ..Caller::from(identity)
            },
            transport: TRANSPORTS[number as usize % TRANSPORTS.len()],
            post_key: None,
            encoding: Encoding::Json,
            heartbeat: None,
            shard,
        };
        self.stream.connect(info).await
    }

    /// Waits until nothing refers to a session any more. The shards drop the sessions that were
    /// in their inboxes in the next tick.
    async fn sessions_are_dropped(&self) {
        for _ in 0..10_000 {
            if self.stream.referenced_sessions() == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
        let left = self.stream.referenced_sessions();
        panic!("something refers to {left} sessions");
    }

    /// Whether no session has left anything.
    fn is_empty(&self) -> bool {
        let hub = self.stream.hub();
        let lists = |shard: ShardId| hub.shard(shard).entry_counts().0;
        self.stream.registry_sizes() == RegistrySizes::default()
            && hub.channel_count() == 0
            && lists(ShardId::CALLER) == 0
            && hub.shards().map(lists).sum::<usize>() == 0
            && self.limits.in_use() == (0, 0)
    }
}

/// A sink that takes all messages, and is flushed again after twenty seconds, like a socket.
struct TestSink(Session);

impl Sink for TestSink {
    fn flush(&self, now: Instant) {
        let mut out = Vec::new();
        let again_at = now + Duration::from_secs(20);
        while matches!(
            self.0.take_outgoing(now, usize::MAX, &mut out, again_at),
            tidewire_stream::FlushOutcome::More
        ) {}
    }
}

async fn subscribe(session: &Session, channels: &[String]) {
    let channels = channels
        .iter()
        .map(|channel| ChannelSubscription {
            channel: channel.clone(),
            ..ChannelSubscription::default()
        })
        .collect();
    session
        .begin_command()
        .subscribe(SubscribeRequest { channels })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_sessions_leave_nothing() {
    let world = World::new();
    let stream = &world.stream;
    let shards: Vec<_> = stream.hub().shards().collect();
    for shard in shards.clone() {
        let shard = stream.hub().shard(shard).clone();
        tokio::spawn(async move { shard.run(Duration::ZERO).await });
    }
    let mut open = Vec::new();
    let mut timers = 0;
    for number in 0..SESSIONS {
        let shard = match number % 3 {
            0 => ShardId::CALLER,
            shard => shards[shard as usize - 1],
        };
        // Signing and verifying are slow: some sessions open with a token, or get one.
        let identity = match number % 4 {
            0 => stream.authenticator().verify(&world.token(number)).unwrap(),
            _ => Identity::Anonymous,
        };
        let connection = world.open(identity, shard, number).await;
        let sink = Arc::new(TestSink(Session::clone(&connection)));
        if shard != ShardId::CALLER {
            let weak: Weak<TestSink> = Arc::downgrade(&sink);
            connection.attach(weak);
            sink.flush(Instant::now());
        }
        if number % 8 == 1 {
            let token = world.token(number);
            connection
                .begin_command()
                .authenticate(&token)
                .await
                .unwrap();
            if number % 16 == 1 {
                let fresh = world.token(number + 1);
                let _ = connection.begin_command().authenticate(&fresh).await;
                connection
                    .begin_command()
                    .authenticate(&token)
                    .await
                    .unwrap();
            }
        }
        let names = [
            format!("room:{}", number % 700),
            format!("room:own{number}"),
            "blocks:1".to_owned(),
        ];
        subscribe(&connection, &names).await;
        if number % 5 == 0 {
            let user = format!("user{}", number % 1_000);
            stream
                .subscribe_target(Target::User(&user), "room:all")
                .await
                .unwrap();
        }
        if number % 7 == 0 {
            let channels = names[..1].to_vec();
            connection
                .unsubscribe(&UnsubscribeRequest { channels })
                .unwrap();
        }
        open.push((connection, sink));
        if open.len() == AT_ONCE {
            end_all(&world, &mut open, number).await;
            assert!(
                world.is_empty(),
                "after {number}: {:?}",
                stream.registry_sizes()
            );
            world.sessions_are_dropped().await;
            let held = shards
                .iter()
                .map(|shard| stream.hub().shard(*shard).entry_counts().1);
            timers = timers.max(held.max().unwrap());
        }
    }
    assert!(open.is_empty() && world.is_empty());
    // Stale entries stay until their time, at most twice as many as sessions.
    assert!(timers <= FEW_TIMERS.max(2 * AT_ONCE), "{timers} timers");
}

/// Ends sessions in all possible ways.
async fn end_all(world: &World, open: &mut Vec<(Connection, Arc<TestSink>)>, number: u32) {
    for (index, (connection, _)) in open.iter().enumerate() {
        let id = connection.id().as_str();
        match index % 6 {
            0 => connection.close(CloseReason::Draining),
            1 => {
                let closed = world.stream.disconnect(Target::Connection(id));
                assert_eq!(closed.unwrap(), 1);
            }
            2 if index % 5 == 0 => {
                if let Some(user) = connection.identity().user() {
                    world
                        .stream
                        .disconnect(Target::User(user.as_str()))
                        .unwrap();
                }
            }
            _ => {}
        }
    }
    let revocations = world.stream.authenticator().revocations();
    revocations
        .revoke_token(&format!("token{number}"), Some(1))
        .unwrap();
    for (index, (connection, _)) in open.drain(..).enumerate() {
        let session = Session::clone(&connection);
        drop(connection);
        if index % 9 == 0 {
            // A late command subscribes to nothing.
            subscribe(&session, &["room:late".to_owned()]).await;
            assert_eq!(session.subscription_count(), 0);
        }
    }
}

#[tokio::test]
async fn a_session_that_opens_with_a_revoked_token_is_closed() {
    let world = World::new();
    let authenticator = world.stream.authenticator();
    // Verified before the revocation, opened after it.
    let identity = authenticator.verify(&world.token(1)).unwrap();
    let revocations = authenticator.revocations();
    assert_eq!(revocations.revoke_user(&UserId::new("user1"), None), Ok(0));
    let connection = world.open(identity, ShardId::CALLER, 1).await;
    let mut out = Vec::new();
    let mut ended = Ok(());
    while ended.is_ok() {
        ended = connection.next(usize::MAX, &mut out).await;
    }
    assert_eq!(ended, Err(CloseReason::Revoked));
    assert_eq!(connection.subscription_count(), 0);
    assert_eq!(world.stream.registry_sizes().users, 1);
    drop(connection);
    assert!(world.is_empty());
}

#[tokio::test]
async fn a_revoked_session_is_sent_nothing_more() {
    let world = World::new();
    let authenticator = world.stream.authenticator();
    let identity = authenticator.verify(&world.token(1)).unwrap();
    let connection = world.open(identity.clone(), ShardId::CALLER, 1).await;
    subscribe(&connection, &["room:1".to_owned()]).await;
    for _ in 0..3 {
        let published = world
            .stream
            .publish_as(&identity, "room:1", "\"secret\"".into(), None)
            .await;
        published.unwrap();
    }
    let revoked = authenticator.revocations().revoke_token("token1", None);
    assert_eq!(revoked, Ok(1));
    let mut out = Vec::new();
    while connection.next(usize::MAX, &mut out).await.is_ok() {}
    let types: Vec<_> = out.iter().map(|message| message.event_type()).collect();
    assert_eq!(types, ["welcome", "error"]);
    // No command runs in its name either.
    assert_eq!(connection.identity(), Identity::Unknown);
}
