//! The broker over a Redis that works.

use std::{collections::HashSet, sync::Arc};

use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{
    ClientKey, Epoch, Event, PageLimit, Position,
    broker::{Broker as _, Reach, Sender, memory::MemoryLimits},
};
use tidewire_tests::{RedisServer, eventually};

use crate::node::{Node, channel, document, options};

fn documents(history: &tidewire_stream::broker::History) -> Vec<(u64, String)> {
    let all = history.publications.iter();
    all.map(|one| (one.seq(), document(one))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn publications_of_both_nodes_reach_both_in_one_order() {
    let redis = RedisServer::start().await;
    let nodes = [Node::start(&redis).await, Node::start(&redis).await];
    let names = ["orders:1", "orders:2", "orders:3"].map(channel);
    for node in &nodes {
        for name in &names {
            assert_eq!(node.subscribe(name).await.seq, 0);
        }
    }
    let nodes = Arc::new(nodes);
    let mut tasks = Vec::new();
    for publisher in 0..8_usize {
        let (nodes, names) = (nodes.clone(), names.clone());
        tasks.push(tokio::spawn(async move {
            let mut last = vec![0; names.len()];
            for number in 0..150_usize {
                let at = number % names.len();
                let text = format!("[{publisher},{number}]");
                let position = nodes[publisher % 2].publish(&names[at], &text).await;
                assert!(position.seq > last[at], "the order of one publisher");
                last[at] = position.seq;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for name in &names {
        let first = nodes[0].delivered(name, 400).await;
        assert_eq!(first, nodes[1].delivered(name, 400).await);
        let seqs: Vec<_> = first.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, (1..=400).collect::<Vec<_>>());
        let different: HashSet<_> = first.iter().map(|(_, document)| document).collect();
        assert_eq!(different.len(), 400);
        assert_eq!(documents(&nodes[0].history(name, None).await), first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_read_as_from_memory() {
    let redis = RedisServer::start().await;
    let node = Node::start(&redis).await;
    let name = channel("short:1");
    let start = node.subscribe(&name).await;
    for number in 1..=8 {
        node.publish(&name, &number.to_string()).await;
    }
    let top = Position {
        seq: 8,
        ..start.clone()
    };
    let since = |seq| Position {
        seq,
        ..start.clone()
    };
    let read = async |seq| node.history(&name, Some(&since(seq))).await;
    let numbers = |history: &tidewire_stream::broker::History| -> Vec<u64> {
        history.publications.iter().map(|one| one.seq()).collect()
    };
    // Five are kept: 4 to 8.
    for (seq, expected, reach) in [
        (8, vec![], Reach::Complete),
        (5, vec![6, 7, 8], Reach::Complete),
        (3, vec![4, 5, 6, 7, 8], Reach::Complete),
        (2, vec![], Reach::Lost),
        (0, vec![], Reach::Lost),
        (9, vec![], Reach::Lost),
    ] {
        let history = read(seq).await;
        assert_eq!(
            (numbers(&history), history.reach),
            (expected, reach),
            "{seq}"
        );
        assert_eq!(history.top, top);
        let since = since(seq);
        let position = node.broker.history(&name, Some(&since), PageLimit::NOTHING);
        let position = position.await.unwrap();
        assert_eq!(
            (position.reach, position.publications.len()),
            (reach, 0),
            "{seq}"
        );
    }
    let other = Position {
        epoch: Epoch::new("other"),
        seq: 8,
    };
    assert_eq!(node.history(&name, Some(&other)).await.reach, Reach::Lost);
    assert_eq!(numbers(&node.history(&name, None).await), [4, 5, 6, 7, 8]);
    for (items, expected) in [(1, vec![8]), (2, vec![7, 8]), (500, vec![4, 5, 6, 7, 8])] {
        let limit = PageLimit {
            items,
            bytes: usize::MAX,
        };
        let history = node.broker.history(&name, None, limit).await.unwrap();
        assert_eq!(numbers(&history), expected);
    }
    let two = PageLimit {
        items: 2,
        bytes: usize::MAX,
    };
    let history = node
        .broker
        .history(&name, Some(&since(4)), two)
        .await
        .unwrap();
    assert_eq!(numbers(&history), [5, 6]);
    let little = node
        .broker
        .history(&name, Some(&since(4)), PageLimit::bytes(1))
        .await;
    assert_eq!(numbers(&little.unwrap()), [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_is_read_in_pages() {
    let redis = RedisServer::start().await;
    let node = Node::start(&redis).await;
    let name = channel("orders:long");
    let text = format!("{:?}", "x".repeat(50_000));
    let first = node.publish(&name, &text).await;
    for _ in 1..60 {
        node.publish(&name, &text).await;
    }
    let start = Position { seq: 0, ..first };
    let history = node.history(&name, Some(&start)).await;
    assert_eq!(history.reach, Reach::Complete);
    let seqs: Vec<_> = history.publications.iter().map(|one| one.seq()).collect();
    assert_eq!(seqs, (1..=60).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_read_once_for_all_that_recover() {
    let redis = RedisServer::start().await;
    let node = Arc::new(Node::start(&redis).await);
    let name = channel("orders:1");
    let mut position = node.publish(&name, "1").await;
    for number in 2..=100 {
        node.publish(&name, &number.to_string()).await;
    }
    position.seq = 40;
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    let mut tasks = Vec::new();
    for _ in 0..5_000 {
        let (node, name, position) = (node.clone(), name.clone(), position.clone());
        tasks.push(tokio::spawn(async move {
            let history = node.history(&name, Some(&position)).await;
            assert_eq!(history.publications.len(), 60);
            // One decoded publication for all: their encodings are shared.
            Arc::as_ptr(&history.publications[0]) as usize
        }));
    }
    let mut different = HashSet::new();
    for task in tasks {
        different.insert(task.await.unwrap());
    }
    assert!(different.len() <= 100, "{} reads", different.len());
    let stats = redis.command(&["INFO", "commandstats"]).await;
    let calls = stats.split("cmdstat_xrange:calls=").nth(1).unwrap();
    let calls: usize = calls.split(',').next().unwrap().parse().unwrap();
    // Two steps for each read, since sixty entries are more than thirty-two.
    assert!(calls <= 200, "{calls} reads of the stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_counts_on_all_nodes() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let name = channel("orders:1");
    a.subscribe(&name).await;
    let first = a.try_publish(&name, "1", Some("key")).await.unwrap();
    let repeated = b.try_publish(&name, "1", Some("key")).await.unwrap();
    assert_eq!(first, repeated);
    let refused = b.try_publish(&name, "2", Some("key")).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::FailedPrecondition);
    // At the same time on one node, in one batch or not.
    let (one, two, three) = tokio::join!(
        a.try_publish(&name, "3", Some("other")),
        a.try_publish(&name, "3", Some("other")),
        a.try_publish(&name, "4", None),
    );
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(three.unwrap().seq, 3);
    let too_long = "k".repeat(256);
    let refused = a
        .try_publish(&name, "5", Some(&too_long))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidArgument);
    assert_eq!(a.delivered(&name, 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seq_is_exact_beyond_two_to_the_fifty_third() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let name = channel("orders:1");
    let first = a.publish(&name, "0").await;
    let keys = redis.command(&["KEYS", "test:*:meta:orders:1"]).await;
    let meta = keys.lines().last().unwrap().trim().to_owned();
    redis
        .command(&["HSET", &meta, "s", "9007199254740991"])
        .await;
    redis
        .command(&["DEL", &meta.replace("meta", "history")])
        .await;
    let top = b.subscribe(&name).await;
    assert_eq!(top.seq, 9_007_199_254_740_991);
    let mut tasks = Vec::new();
    for number in 0..10 {
        tasks.push(a.publish(&name, &number.to_string()).await.seq);
    }
    let expected: Vec<_> = (9_007_199_254_740_992..9_007_199_254_741_002).collect();
    assert_eq!(tasks, expected);
    let delivered = b.delivered(&name, 10).await;
    let seqs: Vec<_> = delivered.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, expected);
    let since = Position {
        seq: 9_007_199_254_740_993,
        ..first
    };
    let history = b.history(&name, Some(&since)).await;
    let seqs: Vec<_> = history.publications.iter().map(|one| one.seq()).collect();
    assert_eq!(seqs, expected[2..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latest_channel_keeps_its_newest_value() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let name = channel("values:1");
    b.subscribe(&name).await;
    for number in 1..=20 {
        a.publish(&name, &number.to_string()).await;
    }
    let history = b.history(&name, None).await;
    assert_eq!(documents(&history), [(20, "20".to_owned())]);
    let last = eventually("the newest value", async || {
        let delivered = b.recorder.publications(&name);
        delivered.last().filter(|(seq, _)| *seq == 20).cloned()
    });
    assert_eq!(last.await.1, "20");
    let keys = redis.command(&["KEYS", "test:*:history:values:1"]).await;
    let history = keys.lines().last().unwrap().trim().to_owned();
    assert_eq!(redis.command(&["XLEN", &history]).await, ":1\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_with_other_prefixes_or_databases_never_meet() {
    let redis = RedisServer::start().await;
    let mut other_prefix = options(&redis);
    other_prefix.prefix = "other".to_owned();
    let mut other_database = options(&redis);
    other_database.address =
        tidewire_stream::broker::redis::RedisAddress::parse(&format!("{}/1", redis.url())).unwrap();
    let limits = MemoryLimits::default();
    let nodes = [
        Node::start(&redis).await,
        Node::with(other_prefix, limits).await.unwrap(),
        Node::with(other_database, limits).await.unwrap(),
    ];
    let name = channel("orders:1");
    for node in &nodes {
        node.subscribe(&name).await;
    }
    for (index, node) in nodes.iter().enumerate() {
        for _ in 0..=index {
            node.publish(&name, &index.to_string()).await;
        }
    }
    for (index, node) in nodes.iter().enumerate() {
        let expected: Vec<_> = (1..=index as u64 + 1)
            .map(|seq| (seq, index.to_string()))
            .collect();
        assert_eq!(node.delivered(&name, index + 1).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_for_a_user_who_is_away_is_left_out() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let name = channel("user:ann");
    let offer = |node: &Node, text: &'static str| {
        let event = Event::Message(text.into());
        node.broker.offer_if_known(
            &name,
            event.into(),
            tidewire_stream::Urgency::Ordinary,
            None,
        );
    };
    offer(&a, "1");
    // After it, whichever connection it has.
    for number in 0..8 {
        a.publish(&channel(&format!("orders:{number}")), "1").await;
    }
    b.subscribe(&name).await;
    offer(&a, "2");
    assert_eq!(b.delivered(&name, 1).await, [(1, "2".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_makes_as_many_channels_as_it_may() {
    let redis = RedisServer::start().await;
    let limits = MemoryLimits {
        channels_per_client: 2,
        ..MemoryLimits::default()
    };
    let node = Node::with(options(&redis), limits).await.unwrap();
    let publish = async |name: &str| {
        let sender = Sender {
            client: ClientKey::Unknown,
            is_limited: true,
        };
        let event = Event::Message("1".into());
        node.broker
            .publish(&channel(name), event, None, sender)
            .await
    };
    publish("orders:1").await.unwrap();
    publish("orders:2").await.unwrap();
    let refused = publish("orders:3").await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
    publish("orders:1").await.unwrap();
    node.publish(&channel("orders:3"), "1").await;
    assert_eq!(publish("orders:3").await.unwrap().seq, 2);
}
