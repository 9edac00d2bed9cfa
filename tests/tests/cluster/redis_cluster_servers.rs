//! Servers whose prices, store and chains are in a Redis Cluster.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tidewire_tests::{
    Client, Node as ChainNode, RedisCluster, Server, ServerBuilder, Token, Transport, VenueKind,
    VenueStandIn, eventually,
};
use tokio::task::JoinSet;

use crate::{
    chains::{BLOCKS, Member, Mining, caught_up, further, listener_with},
    node::{Delivered, channel},
    prices::{price_of, trade},
    redis_cluster::{MASTERS, cluster_options, node, slot_of, without_gap},
    shared_store::{inbox, notify},
};

/// A server whose prices and store are in the cluster.
fn server(cluster: &RedisCluster, venue: &VenueStandIn) -> ServerBuilder {
    base(cluster)
        .set("broker", "share_prices = true")
        .set("store", "kind = \"redis\"")
        .set("prices", "symbols = [\"BTC-USD\"]")
        .source("kraken", "kraken", &venue.url())
}

/// A server in the cluster.
pub(crate) fn base(cluster: &RedisCluster) -> ServerBuilder {
    Server::builder()
        .set("broker", "kind = \"redis\"")
        .set("broker", &format!("cluster = {:?}", cluster.seeds()))
        .set("broker", "prefix = \"test\"")
        .set("broker", "timeout = \"2s\"")
}

/// Notifies a user until it is stopped, on either server. Returns the titles that were acknowledged, and how
/// long the longest wait for one was.
async fn notify_until(
    servers: Arc<[Server; 2]>,
    task: usize,
    stopped: Arc<AtomicBool>,
) -> (BTreeSet<String>, Duration) {
    let (mut titles, mut longest) = (BTreeSet::new(), Duration::ZERO);
    for number in 0.. {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        // The title is the idempotency key, too.
        let (title, begun) = (format!("{task}.{number}"), Instant::now());
        while notify(&servers[task % 2], "ann", &title).await.status != 200 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{title}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        longest = longest.max(begun.elapsed());
        titles.insert(title);
    }
    (titles, longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_killed_under_load_loses_nothing_acknowledged() {
    let mut cluster = RedisCluster::start(MASTERS).await;
    for master in 0..MASTERS {
        cluster.add_replica(master).await;
    }
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let with = || server(&cluster, &venue).set("store", "replicas = 1");
    let a = with().start().await;
    owns_all(&a).await;
    let servers = Arc::new([a, with().start().await]);
    venue.wait_subscribed(2).await;
    let prices = channel("prices:BTC-USD");
    let listener = node(&cluster).await;
    listener.subscribe(&prices).await;
    let token = Token::service();
    let condition = json!({"kind": "price_above", "symbol": "BTC-USD", "threshold": 10_050});
    let rule = json!({"user": "ann", "rule": {"condition": condition}, "idempotencyKey": "rule"});
    eventually("an alert rule", async || {
        let rpc = "AlertService/RegisterAlert";
        let answer = servers[1].call(rpc, Some(&token), &rule).await;
        (answer.status == 200).then_some(())
    })
    .await;
    let stopped = Arc::new(AtomicBool::new(false));
    let mut senders = JoinSet::new();
    for task in 0..4 {
        senders.spawn(notify_until(servers.clone(), task, stopped.clone()));
    }
    let trades = {
        let stopped = stopped.clone();
        tokio::spawn(async move {
            for id in 1.. {
                trade(&venue, id);
                tokio::time::sleep(Duration::from_millis(20)).await;
                if stopped.load(Ordering::Relaxed) && id > 300 {
                    return (venue, id);
                }
            }
            unreachable!("it is stopped")
        })
    };
    listener.delivered(&prices, 5).await;
    // The master of the store, then that of the prices, unless it is the same one.
    let mut killed = BTreeSet::new();
    for slot in [
        cluster.slot("test:{store}:lease").await,
        slot_of(&cluster, &prices).await,
    ] {
        let master = RedisCluster::first_owner(slot, MASTERS);
        if killed.insert(master) {
            cluster.servers[master].kill();
            let next = MASTERS + master;
            eventually("a promoted replica", async || {
                let role = cluster.servers[next].command(&["ROLE"]).await;
                role.contains("master").then_some(())
            })
            .await;
            // It comes back as the replica that each commit has to reach.
            cluster.servers[master].restart().await;
            eventually("a replica of the promoted server", async || {
                let info = cluster.servers[master]
                    .command(&["INFO", "replication"])
                    .await;
                info.contains("master_link_status:up").then_some(())
            })
            .await;
            eventually("a notification after the failover", async || {
                let answer = notify(&servers[0], "bob", &format!("after {master}")).await;
                (answer.status == 200).then_some(())
            })
            .await;
            let before = listener.recorder.publications(&prices).len();
            listener.delivered(&prices, before + 5).await;
        }
    }
    stopped.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut longest) = (BTreeSet::new(), Duration::ZERO);
    while let Some(sent) = senders.join_next().await {
        let (titles, wait) = sent.unwrap();
        acknowledged.extend(titles);
        longest = longest.max(wait);
    }
    let (venue, last) = trades.await.unwrap();
    println!(
        "{} acknowledged, the longest wait {longest:?}",
        acknowledged.len()
    );
    let (titles, _) = eventually("an inbox", async || inbox(&servers[1], "ann").await).await;
    let unique: BTreeSet<_> = titles.iter().cloned().collect();
    assert_eq!(unique.len(), titles.len(), "none is there twice");
    let lost: Vec<_> = acknowledged.difference(&unique).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let fires = eventually("a list of fires", async || {
        let (rpc, body) = ("AlertService/ListFires", json!({"user": "ann"}));
        let answer = servers[1].call(rpc, Some(&token), &body).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(fires["items"].as_array().map(Vec::len), Some(1), "{fires}");
    // The newest price arrives. Numbers only rise: subscribers of prices get the newest ones, not all.
    trade(&venue, last + 1);
    let expected = price_of(last + 1);
    eventually("the newest price", async || {
        let prices = listener.recorder.publications(&prices);
        let newest = serde_json::from_str::<Value>(&prices.last()?.1).ok()?;
        (newest["price"].as_f64() == Some(expected)).then_some(())
    })
    .await;
    let mut known: Option<(String, u64)> = None;
    for delivered in listener.recorder.on(&prices) {
        let (Delivered::Publication(epoch, seq, _) | Delivered::Newest(epoch, seq)) = delivered;
        let is_later = known.is_none_or(|(before, last)| before != epoch || last <= seq);
        assert!(is_later, "{epoch} {seq}");
        known = Some((epoch, seq));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_go_on_when_their_owner_or_a_slot_moves() {
    let cluster = RedisCluster::start(MASTERS).await;
    let chain = ChainNode::start().await;
    let listener = listener_with(cluster_options(&cluster), BLOCKS).await;
    let a = Member::on(base(&cluster), &chain).await;
    a.owns(true).await;
    let mut b = Member::on(base(&cluster), &chain).await;
    let mut c = Member::on(base(&cluster), &chain).await;
    let mining = Mining::start(chain);
    further(&listener, 10).await;
    // The lease, the store and the outbox move, then the channel.
    for slot in [
        cluster.slot("test:{chain-31337}:lease").await,
        slot_of(&cluster, &channel(BLOCKS)).await,
    ] {
        let from = RedisCluster::first_owner(slot, MASTERS);
        cluster.move_slot(slot, from, (from + 1) % MASTERS).await;
        further(&listener, 10).await;
    }
    // An owner that was paused does not know of the next one.
    a.server.pause();
    further(&listener, 10).await;
    a.server.resume();
    a.owns(false).await;
    further(&listener, 10).await;
    // One of them is the owner.
    b.server.kill().await;
    c.server.kill().await;
    a.owns(true).await;
    further(&listener, 10).await;
    let chain = mining.end().await;
    let told = caught_up(&listener, &chain).await;
    assert!(told.reorgs.is_empty(), "{told:?}");
    // What is published is not stored any more.
    eventually("an empty outbox", async || {
        for server in &cluster.servers {
            let rows = server.try_command(&["HLEN", "test:{chain-31337}:values:chain.journal"]);
            let rows = rows.await?;
            (rows.starts_with(":0") || rows.starts_with("-MOVED")).then_some(())?;
        }
        Some(())
    })
    .await;
}

async fn owns_all(server: &Server) {
    for metric in ["tidewire_store_owner", "tidewire_price_owner"] {
        server.metric_until(metric, "", |value| value > 0.5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_and_the_store_go_on_when_their_owner_is_killed() {
    let cluster = RedisCluster::start(MASTERS).await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let mut a = server(&cluster, &venue).start().await;
    owns_all(&a).await;
    let b = server(&cluster, &venue).start().await;
    venue.wait_subscribed(2).await;
    let prices = channel("prices:BTC-USD");
    let listener = node(&cluster).await;
    listener.subscribe(&prices).await;
    let token = Token::of("ann").sign();
    let mut client = Client::connect_as(Transport::WebSocketJson, &b, Some(&token)).await;
    client.subscribe("prices:BTC-USD").await;
    trade(&venue, 1);
    listener.delivered(&prices, 1).await;
    client.next_on("prices:BTC-USD").await;
    // The server that does not own the store passes it on.
    let stored = eventually("the second server knows the owner", async || {
        let answer = notify(&b, "ann", "before").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(stored.status, 200, "{}", stored.body);
    client.next_on("user:ann").await;
    // The slot of the store moves to another master.
    let slot = cluster.slot("test:{store}:lease").await;
    let from = RedisCluster::first_owner(slot, MASTERS);
    cluster.move_slot(slot, from, (from + 1) % MASTERS).await;
    eventually("a notification after the move", async || {
        let answer = notify(&b, "ann", "moved").await;
        (answer.status == 200).then_some(())
    })
    .await;
    a.kill().await;
    owns_all(&b).await;
    eventually("a notification after the takeover", async || {
        let answer = notify(&b, "ann", "after").await;
        (answer.status == 200).then_some(())
    })
    .await;
    let (titles, _) = inbox(&b, "ann").await.expect("an inbox");
    assert_eq!(titles, ["after", "moved", "before"]);
    let before = listener.recorder.publications(&prices).len();
    trade(&venue, 2);
    listener.delivered(&prices, before + 1).await;
    let seqs: Vec<_> = without_gap(&listener, &prices)
        .into_iter()
        .map(|one| one.1)
        .collect();
    let expected: Vec<_> = (1..=seqs.len() as u64).collect();
    assert_eq!(seqs, expected);
}
