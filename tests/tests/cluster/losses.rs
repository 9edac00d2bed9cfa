//! Publications that Redis does not take: those of engines, which nobody repeats, and long ones.

use bytes::Bytes;
use tidewire_stream::{Event, Urgency, broker::Broker as _};
use tidewire_tests::{RedisServer, eventually};

use crate::node::{Delivered, Node, channel};

fn message(document: &str) -> Event {
    Event::Message(Bytes::copy_from_slice(document.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_lost_a_publication_of_an_engine_begins_a_new_epoch() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let (orders, values) = (channel("orders:1"), channel("values:1"));
    let first = b.subscribe(&orders).await.epoch;
    b.subscribe(&values).await;
    for name in [&orders, &values] {
        a.publish(name, "1").await;
        b.delivered(name, 1).await;
    }
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for name in [&orders, &values] {
        a.broker.offer(name, message("2"), Urgency::Ordinary);
    }
    let is_new =
        |one: &Delivered| matches!(one, Delivered::Newest(epoch, 0) if *epoch != first.as_str());
    eventually("the subscribers are told", async || {
        b.recorder.on(&orders).iter().any(is_new).then_some(())
    })
    .await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("a publication", async || {
        a.try_publish(&orders, "3", None).await.ok()
    })
    .await;
    let all = b.delivered(&orders, 2).await;
    assert_eq!(all.last(), Some(&(1, "3".to_owned())));
    // The next value takes the place of the one that was lost.
    a.publish(&values, "3").await;
    let all = b.delivered(&values, 2).await;
    assert_eq!(all.last(), Some(&(2, "3".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_redis_has_no_room_for_blocks_no_others() {
    let limit = ["--client-query-buffer-limit", "1mb"];
    let redis = RedisServer::start_with(&limit).await;
    let node = Node::start(&redis).await;
    let names: Vec<_> = (0..8)
        .map(|number| channel(&format!("orders:{number}")))
        .collect();
    for name in &names {
        node.publish(name, "1").await;
    }
    let long = format!("\"{}\"", "x".repeat(3 << 20));
    // Its sender may have stopped waiting.
    let refused = node.try_publish(&names[0], &long, None).await.unwrap_err();
    let text = refused.message();
    assert!(
        text.contains("client-query-buffer-limit") || text.contains("not known"),
        "{text}"
    );
    for name in &names {
        let published = eventually("a publication", async || {
            node.try_publish(name, "2", None).await.ok()
        });
        published.await;
    }
    eventually("no fault", async || node.fault().is_none().then_some(())).await;
}
