//! Calls of services between two nodes: what the node that asks learns.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{
    AnonymousPolicy, Authenticator, CallClass, CallHandler, CallLane, CallOutcome, CallRefusal,
    Caller, ForwardedCall, Identity, ManualClock, Namespaces, NodeSettings, StreamCore,
    StreamError, StreamOptions, UserId, identity::UserIdentity,
};
use tidewire_tests::{RedisServer, eventually, within};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::node::options;

async fn node(redis: &RedisServer) -> Arc<StreamCore> {
    let clock = ManualClock::at(1_750_000_000_000);
    let policy = AnonymousPolicy::Read;
    let authenticator = Authenticator::hs256(&[7; 32], policy, clock.clone()).unwrap();
    let core = StreamCore::with_redis(
        Namespaces::built_in(),
        authenticator,
        clock,
        StreamOptions::default(),
        options(redis),
    );
    let core = core.await.unwrap();
    core.listen_to_operators().await;
    core
}

/// Answers by the method, and counts. One to `wait` is answered once it may go on.
struct Service(AtomicUsize, Semaphore);

impl Default for Service {
    fn default() -> Self {
        Self(AtomicUsize::new(0), Semaphore::new(0))
    }
}

impl CallHandler for Service {
    fn call(
        self: Arc<Self>,
        call: ForwardedCall,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, CallRefusal>> + Send>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match &*call.method {
                "whoami" => {
                    let user = call.caller.identity.user().map(UserId::as_str);
                    Ok([user.unwrap_or("nobody").as_bytes(), b":", &call.body].concat())
                }
                "refuse" => {
                    let error = StreamError::new(ErrorCode::ResourceExhausted, "too many");
                    Err(CallRefusal::Error(error.with_retry_after_ms(250)))
                }
                "wait" => {
                    self.1.acquire().await.unwrap().forget();
                    Ok(call.body.to_vec())
                }
                "moved" => Err(CallRefusal::NotOwner("another has it".to_owned())),
                _ => std::future::pending().await,
            }
        })
    }
}

fn call(method: &str, body: &'static [u8], time: Duration) -> ForwardedCall {
    let identity = UserIdentity::new(UserId::new("ann"), i64::MAX);
    ForwardedCall {
        lane: CallLane::default(),
        service: "test".to_owned(),
        method: method.to_owned(),
        caller: Caller::from(Identity::from(identity)),
        body: Bytes::from_static(body),
        time,
    }
}

const TIME: Duration = Duration::from_secs(20);

/// Two nodes, of which the second one answers the calls of the service `test`.
async fn pair() -> (RedisServer, Arc<StreamCore>, Arc<StreamCore>, Arc<Service>) {
    let redis = RedisServer::start().await;
    let (a, b) = (node(&redis).await, node(&redis).await);
    let service = Arc::new(Service::default());
    let handler: Arc<dyn CallHandler> = service.clone();
    b.register_call_handler("test", Arc::downgrade(&handler));
    (redis, a, b, service)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_tells_what_became_of_it() {
    let (redis, a, b, service) = pair().await;
    let tag = b.broker().node_tag().unwrap();
    let ask = async |method, body, time| {
        let call = call(method, body, time);
        a.call_node(tag.as_str(), call).await.unwrap()
    };
    let answered = ask("whoami", b"body", TIME).await;
    assert_eq!(
        answered,
        CallOutcome::Response(Bytes::from_static(b"ann:body"))
    );
    let CallOutcome::Refused(error) = ask("refuse", b"", TIME).await else {
        panic!("it was not refused");
    };
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    assert_eq!(
        (error.message(), error.retry_after_ms()),
        ("too many", Some(250))
    );
    let moved = ask("moved", b"", TIME).await;
    assert_eq!(moved, CallOutcome::NotBegun("another has it".to_owned()));
    // It hears it, and does not answer in time.
    let silent = ask("hang", b"", Duration::from_millis(300)).await;
    assert!(matches!(silent, CallOutcome::InDoubt(_)), "{silent:?}");
    assert_eq!(service.0.load(Ordering::SeqCst), 4);
    // A service of a newer version, and nodes that are not there.
    let mut unknown = call("whoami", b"", TIME);
    unknown.service = "newer".to_owned();
    let unknown = a.call_node(tag.as_str(), unknown).await.unwrap();
    let own = a.broker().node_tag().unwrap();
    for (node, outcome) in [
        (tag.as_str(), unknown),
        (
            own.as_str(),
            a.call_node(own.as_str(), call("whoami", b"", TIME))
                .await
                .unwrap(),
        ),
        (
            "0badcafe",
            a.call_node("0badcafe", call("whoami", b"", TIME))
                .await
                .unwrap(),
        ),
    ] {
        assert!(
            matches!(outcome, CallOutcome::NotBegun(_)),
            "{node}: {outcome:?}"
        );
    }
    // One that holds its lease and has no connection any more.
    let add = ["ZADD", "test:{control}:nodes", "9999999999999", "0badcafe"];
    redis.command(&add).await;
    let gone = a
        .call_node("0badcafe", call("whoami", b"", TIME))
        .await
        .unwrap();
    assert!(matches!(gone, CallOutcome::NotBegun(_)), "{gone:?}");
    assert_eq!(service.0.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_bounded() {
    let (_redis, a, b, _service) = pair().await;
    let tag = b.broker().node_tag().unwrap();
    let long: &'static [u8] = vec![0; (4 << 20) + 1].leak();
    let refused = a.call_node(tag.as_str(), call("whoami", long, TIME)).await;
    assert_eq!(refused.unwrap_err().code(), ErrorCode::ResourceExhausted);
    let longest = &long[..4 << 20];
    let CallOutcome::Refused(error) = a
        .call_node(tag.as_str(), call("whoami", longest, TIME))
        .await
        .unwrap()
    else {
        panic!("its response is longer than a node reads");
    };
    assert!(error.message().contains("bytes long"), "{error}");
    // A client with many calls under way is refused further ones.
    let mut calls = JoinSet::new();
    for _ in 0..300 {
        let a = a.clone();
        calls.spawn(async move { a.call_node(tag.as_str(), call("hang", b"", TIME)).await });
    }
    for _ in 256..300 {
        let ended = within("a refusal", calls.join_next()).await.unwrap();
        let error = ended.unwrap().unwrap_err();
        assert!(error.message().contains("of this client"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_holds_up_its_own_lane_alone() {
    let (redis, a, b, service) = pair().await;
    let tag = b.broker().node_tag().unwrap();
    let lane = |class, name: &str| CallLane {
        class,
        name: name.to_owned(),
    };
    let in_lane = |lane, method: &str| ForwardedCall {
        lane,
        ..call(method, b"", TIME)
    };
    let one = || lane(CallClass::Chain, "requests about chain 1");
    let mut hanging = JoinSet::new();
    for _ in 0..200 {
        let (a, call) = (a.clone(), in_lane(one(), "hang"));
        hanging.spawn(async move { a.call_node(tag.as_str(), call).await });
    }
    eventually("the lane is full", async || {
        (service.0.load(Ordering::SeqCst) == 32).then_some(())
    })
    .await;
    for other in [
        lane(CallClass::Chain, "requests about chain 2"),
        lane(CallClass::Chain, "short requests about chain 1"),
        lane(CallClass::Node, "requests about chain 1"),
        lane(CallClass::Engine, "notifications"),
    ] {
        let asked = in_lane(other.clone(), "whoami");
        let answered = within("an answer", a.call_node(tag.as_str(), asked)).await;
        let expected = CallOutcome::Response(Bytes::from_static(b"ann:"));
        assert_eq!(answered.unwrap(), expected, "{other:?}");
    }
    // The error names the engine that hangs.
    let mut late = in_lane(one(), "whoami");
    late.time = Duration::from_millis(50);
    let refused = a.call_node(tag.as_str(), late).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "too many requests about chain 1 wait for another server"
    );
    // Several nodes that ask about it take its places on the owner, and no others.
    let (c, d) = (node(&redis).await, node(&redis).await);
    for asking in [&c, &d] {
        for _ in 0..32 {
            let (asking, call) = (asking.clone(), in_lane(one(), "hang"));
            hanging.spawn(async move { asking.call_node(tag.as_str(), call).await });
        }
    }
    let refused = within("a refusal", hanging.join_next()).await.unwrap();
    assert_eq!(
        refused.unwrap().unwrap(),
        CallOutcome::NotBegun(
            "the node carries out as many requests about chain 1 as it may".to_owned()
        )
    );
    let asked = in_lane(lane(CallClass::Chain, "requests about chain 2"), "whoami");
    let answered = within("an answer", d.call_node(tag.as_str(), asked)).await;
    assert!(
        matches!(answered, Ok(CallOutcome::Response(_))),
        "{answered:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_no_settings_is_not_one_that_does_not_answer() {
    let redis = RedisServer::start().await;
    let (a, b) = (node(&redis).await, node(&redis).await);
    // As one of an earlier release.
    let _earlier = node(&redis).await;
    b.tell_settings(NodeSettings {
        node: "b".to_owned(),
        ..NodeSettings::default()
    });
    let others = eventually("the settings of the other nodes", async || {
        let others = a.settings_of_others().await?;
        (!others.nodes.is_empty()).then_some(others)
    })
    .await;
    assert_eq!(others.nodes[0].node, "b");
    assert_eq!((others.nodes.len(), others.missing), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_not_heard_is_repeated() {
    let (redis, a, b, service) = pair().await;
    let tag = b.broker().node_tag().unwrap();
    for round in 1..=5 {
        let mut calls = JoinSet::new();
        for _ in 0..10 {
            let a = a.clone();
            calls.spawn(async move { a.call_node(tag.as_str(), call("wait", b"x", TIME)).await });
        }
        eventually("the calls are begun", async || {
            (service.0.load(Ordering::SeqCst) == round * 10).then_some(())
        })
        .await;
        // Neither node hears anything until it has subscribed again.
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        service.1.add_permits(10);
        let expected = CallOutcome::Response(Bytes::from_static(b"x"));
        while let Some(answered) = within("the answers", calls.join_next()).await {
            assert_eq!(answered.unwrap().unwrap(), expected);
        }
        // None was carried out twice.
        assert_eq!(service.0.load(Ordering::SeqCst), round * 10);
    }
}
