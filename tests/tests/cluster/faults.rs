//! The broker while Redis or the connections to it fail.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{
    Event, Position, Urgency,
    broker::{Broker as _, Reach, memory::MemoryLimits, redis::RedisOptions},
};
use tidewire_tests::{RedisServer, eventually, within};
use tokio::sync::Semaphore;

use crate::node::{Delivered, Node, channel, document, lose_message, options};

/// Publishes documents from four tasks, with `disturb` after each fifty of them, and checks that each
/// document was published once, in the order of its publisher, and delivered in order.
async fn publish_amid(redis: &RedisServer, disturb: &[&str]) {
    let (a, b) = (Node::start(redis).await, Node::start(redis).await);
    let (a, b) = (Arc::new(a), Arc::new(b));
    let name = channel("orders:1");
    b.subscribe(&name).await;
    let mut tasks = Vec::new();
    let published = Arc::new(Semaphore::new(0));
    for publisher in 0..4 {
        let (a, name, published) = (a.clone(), name.clone(), published.clone());
        tasks.push(tokio::spawn(async move {
            for number in 0..100 {
                a.publish(&name, &format!("[{publisher},{number}]")).await;
                published.add_permits(1);
            }
        }));
    }
    for _ in 0..8 {
        let some = within("fifty publications", published.acquire_many(50));
        some.await.unwrap().forget();
        redis.command(disturb).await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    let delivered = b.delivered(&name, 400).await;
    let seqs: Vec<_> = delivered.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (1..=400).collect::<Vec<_>>());
    let different: HashSet<_> = delivered.iter().map(|(_, document)| document).collect();
    assert_eq!(different.len(), 400);
    for publisher in 0..4 {
        let own = format!("[{publisher},");
        let own = delivered
            .iter()
            .filter(|(_, document)| document.starts_with(&own));
        let own: Vec<_> = own.map(|(_, document)| document.clone()).collect();
        let sent: Vec<_> = (0..100)
            .map(|number| format!("[{publisher},{number}]"))
            .collect();
        assert_eq!(own, sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_are_flushed_amid_publications_lose_and_repeat_nothing() {
    let redis = RedisServer::start().await;
    publish_amid(&redis, &["SCRIPT", "FLUSH"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_under_way_together_keep_their_order() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let name = channel("orders:1");
    b.subscribe(&name).await;
    // Another node loads the scripts again, so that a pipeline may fail in its first part alone.
    let others = tokio::spawn({
        let redis = options(&redis);
        async move {
            for number in 0.. {
                let other = Node::with(redis.clone(), MemoryLimits::default()).await;
                other
                    .unwrap()
                    .publish(&channel("orders:2"), &number.to_string())
                    .await;
            }
        }
    });
    for round in 0..20 {
        for number in 0..900 {
            let event = Event::Message(format!("[{round},{number}]").into());
            a.broker.offer(&name, event, Urgency::Ordinary);
        }
        redis.command(&["SCRIPT", "FLUSH"]).await;
        if round % 4 == 0 {
            redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        }
        let count = (round + 1) * 900;
        let delivered = b.delivered(&name, count).await;
        let expected: Vec<_> = (0..900)
            .map(|number| format!("[{round},{number}]"))
            .collect();
        let newest: Vec<_> = delivered.into_iter().skip(count - 900).collect();
        let documents: Vec<_> = newest
            .iter()
            .map(|(_, document)| document.clone())
            .collect();
        assert_eq!(documents, expected);
        assert_eq!(newest.last().unwrap().0, count as u64);
    }
    others.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_publishing_connections_lose_and_repeat_nothing() {
    let redis = RedisServer::start().await;
    publish_amid(&redis, &["CLIENT", "KILL", "TYPE", "normal"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_subscriptions_are_filled_from_the_history() {
    let redis = RedisServer::start().await;
    publish_amid(&redis, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publications_that_pub_sub_refuses_are_published_and_found_by_comparison() {
    let redis = RedisServer::start().await;
    let compared = RedisOptions {
        comparison: Duration::from_millis(100),
        ..options(&redis)
    };
    let limits = MemoryLimits::default();
    let (a, b) = (
        Node::with(compared.clone(), limits).await.unwrap(),
        Node::with(compared, limits).await.unwrap(),
    );
    let name = channel("orders:1");
    b.subscribe(&name).await;
    let first = a.publish(&name, "1").await;
    redis
        .command(&["ACL", "SETUSER", "default", "-spublish"])
        .await;
    // It is in the history, and a sender that was told otherwise would publish it twice.
    let second = a.try_publish(&name, "2", Some("key")).await.unwrap();
    assert_eq!((&second.epoch, second.seq), (&first.epoch, 2));
    let repeated = a.try_publish(&name, "2", Some("key")).await.unwrap();
    assert_eq!(repeated, second);
    let expected = [(1, "1".to_owned()), (2, "2".to_owned())];
    assert_eq!(b.delivered(&name, 2).await, expected);
    let fault = a.fault().unwrap();
    assert!(fault.contains("its ACL refuses the user"), "{fault}");
    redis.command(&["ACL", "SETUSER", "default", "+@all"]).await;
    eventually("pub/sub works", async || a.fault().is_none().then_some(())).await;
    a.publish(&name, "3").await;
    assert_eq!(b.delivered(&name, 3).await.last().unwrap().0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_not_sent_is_said_not_to_be() {
    let mut redis = RedisServer::start().await;
    let mut short = options(&redis);
    short.timeout = Duration::from_millis(500);
    let node = Node::with(short, MemoryLimits::default()).await.unwrap();
    let name = channel("orders:1");
    node.publish(&name, "1").await;
    redis.pause();
    let error = node.try_publish(&name, "2", None).await.unwrap_err();
    assert!(
        error.message().starts_with("it is not known"),
        "it has heard it: {error}"
    );
    redis.resume();
    redis.kill();
    eventually("a publication that is not sent", async || {
        let error = node.try_publish(&name, "3", None).await.unwrap_err();
        error
            .message()
            .starts_with("nothing was published: Redis: no answer within 500 ms")
            .then_some(())
    })
    .await;
    redis.restart().await;
    eventually("Redis works", async || {
        node.try_publish(&name, "4", None).await.ok()
    })
    .await;
    let history = node.history(&name, None).await;
    let documents: Vec<_> = history
        .publications
        .iter()
        .map(|one| document(one))
        .collect();
    assert!(!documents.contains(&"3".to_owned()), "{documents:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_channels_are_subscribed_again_and_compared() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let names: Vec<_> = (0..20)
        .map(|number| channel(&format!("orders:{number}")))
        .collect();
    for name in &names {
        b.subscribe(name).await;
        a.publish(name, "1").await;
        b.delivered(name, 1).await;
    }
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    // Perhaps before the node is subscribed again.
    for name in &names {
        a.publish(name, "2").await;
    }
    for name in &names {
        let expected = [(1, "1".to_owned()), (2, "2".to_owned())];
        assert_eq!(b.delivered(name, 2).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_pub_sub_lost_is_filled() {
    let redis = RedisServer::start().await;
    let node = Node::start(&redis).await;
    let name = channel("orders:1");
    node.subscribe(&name).await;
    node.publish(&name, "1").await;
    node.delivered(&name, 1).await;
    lose_message(&redis, 2).await;
    node.publish(&name, "3").await;
    let expected = [(1, "1"), (2, "1"), (3, "3")].map(|(seq, text)| (seq, text.to_owned()));
    // The time of the foreign publication is long ago, so that a history may not have it.
    assert_eq!(node.delivered(&name, 3).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_emptied_begins_another_epoch() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let name = channel("orders:1");
    b.subscribe(&name).await;
    let mut before = a.publish(&name, "1").await;
    for number in 2..=5 {
        before = a.publish(&name, &number.to_string()).await;
    }
    b.delivered(&name, 5).await;
    redis.command(&["FLUSHALL"]).await;
    let after = a.publish(&name, "6").await;
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after.seq, 1);
    b.delivered(&name, 6).await;
    let last = b.recorder.on(&name).pop().unwrap();
    let epoch = after.epoch.as_str().to_owned();
    assert_eq!(last, Delivered::Publication(epoch, 1, "6".to_owned()));
    assert_eq!(b.history(&name, Some(&before)).await.reach, Reach::Lost);
    // Without a publication, the node finds it out when it is subscribed again.
    redis.command(&["FLUSHALL"]).await;
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let is_told = async || {
        let last = b.recorder.on(&name).pop();
        matches!(last, Some(Delivered::Newest(epoch, 0)) if epoch != after.epoch.as_str())
            .then_some(())
    };
    eventually("another epoch", is_told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_writes_never_gives_a_seq_twice() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let name = channel("orders:1");
    b.subscribe(&name).await;
    let mut before = a.publish(&name, "1").await;
    let keys = redis.command(&["KEYS", "test:*:meta:orders:1"]).await;
    let meta = keys.lines().last().unwrap().trim().to_owned();
    let keys = [meta.replace("meta", "history"), meta];
    let save = async || {
        for key in &keys {
            redis
                .command(&["COPY", key, &format!("saved {key}"), "REPLACE"])
                .await;
        }
    };
    // As after a failover to a replica that has not received what came later.
    let lose = async || {
        for key in &keys {
            redis
                .command(&["COPY", &format!("saved {key}"), key, "REPLACE"])
                .await;
        }
    };
    let publish = async |numbers: std::ops::RangeInclusive<usize>| {
        let mut last = None;
        for number in numbers {
            last = Some(a.publish(&name, &number.to_string()).await);
        }
        last.unwrap()
    };
    publish(2..=5).await;
    save().await;
    before = Position {
        seq: publish(6..=9).await.seq,
        ..before
    };
    b.delivered(&name, 9).await;
    lose().await;
    // The publisher knows better.
    let after = a.publish(&name, "10").await;
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after.seq, 1);
    // A node that has published nothing does not know. The one that is subscribed does.
    publish(11..=15).await;
    save().await;
    let before = publish(16..=19).await;
    b.delivered(&name, 19).await;
    lose().await;
    let stranger = Node::start(&redis).await;
    let unaware = stranger.publish(&name, "20").await;
    assert_eq!((&unaware.epoch, unaware.seq), (&before.epoch, 7));
    let is_told = async || {
        let last = b.recorder.on(&name).pop();
        matches!(last, Some(Delivered::Newest(epoch, _)) if epoch != before.epoch.as_str())
            .then_some(())
    };
    eventually("another epoch", is_told).await;
    assert_eq!(b.history(&name, Some(&before)).await.reach, Reach::Lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_ends_calls_by_their_deadline() {
    let redis = RedisServer::start().await;
    let mut short = options(&redis);
    short.timeout = Duration::from_secs(1);
    short.buffer_bytes = 4_096;
    let limits = MemoryLimits::default();
    let node = Node::with(short, limits).await.unwrap();
    let name = channel("orders:1");
    node.subscribe(&name).await;
    let before = node.publish(&name, "1").await;
    redis.pause();
    let error = node.try_publish(&name, "2", None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.message().contains("not known whether"), "{error}");
    let read = node
        .broker
        .history(&name, Some(&before), tidewire_stream::PageLimit::ALL);
    assert_eq!(read.await.unwrap_err().code(), ErrorCode::Unavailable);
    let joined = node.try_subscribe(&channel("orders:2")).await;
    assert_eq!(joined.unwrap_err().code(), ErrorCode::Unavailable);
    // Local channels work: only engines publish there.
    let blocks = channel("blocks:1");
    node.subscribe(&blocks).await;
    let event = tidewire_stream::Event::Message("1".into());
    node.broker
        .offer(&blocks, event, tidewire_stream::Urgency::Ordinary);
    assert_eq!(node.recorder.publications(&blocks).len(), 1);
    eventually("a fault", async || node.fault()).await;
    // Publications wait up to the bound.
    let document = format!("{:?}", "x".repeat(1_000));
    for _ in 0..10 {
        let event = tidewire_stream::Event::Message(document.clone().into());
        node.broker
            .offer(&name, event, tidewire_stream::Urgency::Ordinary);
    }
    let error = node.try_publish(&name, &document, None).await.unwrap_err();
    assert!(error.message().contains("broker.buffer_bytes"), "{error}");
    redis.resume();
    eventually("no fault", async || node.fault().is_none().then_some(())).await;
    // Publications of the engine found no room: a new epoch says so, before or after those that waited.
    eventually("another epoch", async || {
        let later = node.publish(&name, "later").await;
        (later.epoch != before.epoch).then_some(())
    })
    .await;
    let last = node.publish(&name, "last").await;
    let is_last = |one: &Delivered| matches!(one, Delivered::Publication(_, seq, document) if *seq == last.seq && document.contains("last"));
    eventually("the last publication", async || {
        node.recorder.on(&name).iter().any(is_last).then_some(())
    })
    .await;
    // Within an epoch nothing is missing.
    let mut known = (String::new(), 0);
    for one in node.recorder.on(&name) {
        known = match one {
            Delivered::Publication(epoch, seq, _) if epoch == known.0 => {
                assert_eq!(seq, known.1 + 1);
                (epoch, seq)
            }
            Delivered::Publication(epoch, seq, _) | Delivered::Newest(epoch, seq) => (epoch, seq),
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_empty_is_found_again() {
    let mut redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let name = channel("orders:1");
    b.subscribe(&name).await;
    let before = a.publish(&name, "1").await;
    b.delivered(&name, 1).await;
    redis.kill();
    eventually("a fault", async || b.fault()).await;
    // It waits for Redis, which comes back in time.
    let (after, ()) = tokio::join!(a.publish(&name, "2"), redis.restart());
    assert_ne!(after.epoch, before.epoch);
    eventually("the new epoch", async || {
        let all = b.recorder.on(&name);
        let is_new = |one: &Delivered| match one {
            Delivered::Publication(epoch, ..) | Delivered::Newest(epoch, _) => {
                epoch == after.epoch.as_str()
            }
        };
        all.iter().any(is_new).then_some(())
    })
    .await;
    eventually("no fault", async || b.fault().is_none().then_some(())).await;
    assert_eq!(b.history(&name, Some(&before)).await.reach, Reach::Lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_later_is_waited_for() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let node = Node::start(&redis).await;
    assert!(node.fault().unwrap().contains("no connection"));
    redis.restart().await;
    let name = channel("orders:1");
    assert_eq!(node.subscribe(&name).await.seq, 0);
    node.publish(&name, "1").await;
    node.delivered(&name, 1).await;
    eventually("no fault", async || node.fault().is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_leaves_and_another_joins_during_a_reconnect() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let name = channel("orders:1");
    b.subscribe(&name).await;
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    b.unsubscribe(&name);
    b.broker.sweep();
    b.subscribe(&name).await;
    a.publish(&name, "1").await;
    assert_eq!(b.delivered(&name, 1).await, [(1, "1".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_and_says_what_to_set() {
    let redis = RedisServer::start().await;
    let node = Node::start(&redis).await;
    let name = channel("orders:1");
    node.subscribe(&name).await;
    let position = node.publish(&name, "1").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = node.try_publish(&name, "2", None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.message().contains("maxmemory"), "{error}");
    let is_named = async || node.fault().filter(|fault| fault.contains("maxmemory"));
    eventually("the fault", is_named).await;
    // Histories can be read.
    let start = Position { seq: 0, ..position };
    assert_eq!(
        node.history(&name, Some(&start)).await.publications.len(),
        1
    );
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(node.publish(&name, "3").await.seq, 2);
    eventually("no fault", async || node.fault().is_none().then_some(())).await;
}
