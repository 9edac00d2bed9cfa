//! A rolling upgrade under load: each node is replaced by another one, which starts before it stops.
//!
//! A load balancer that gives a new connection to the ready node with the fewest stands before the
//! nodes. `TIDEWIRE_ROLLING_CLIENTS` says how many clients there are; all of them have to be there
//! without a gap at the end, on nodes with equally many.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::json;
use tidewire_tests::{Client, Endpoint, RedisServer, Server, Transport, eventually};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::interval,
};

use crate::servers::server;

const CHANNEL: &str = "demo:roll";

/// Time between two health checks, and between two publications.
const PACE: Duration = Duration::from_millis(20);

/// A load balancer, as its clients see it.
#[derive(Default)]
struct Balancer {
    nodes: Mutex<BTreeMap<usize, Balanced>>,
    added: Notify,
}

struct Balanced {
    endpoint: Endpoint,
    is_ready: bool,
    connections: usize,
}

impl Balancer {
    fn add(&self, number: usize, server: &Server) {
        let balanced = Balanced {
            endpoint: (**server).clone(),
            is_ready: true,
            connections: 0,
        };
        self.nodes.lock().insert(number, balanced);
        self.added.notify_waiters();
    }

    fn remove(&self, number: usize) {
        self.nodes.lock().remove(&number);
    }

    /// The ready node with the fewest connections, which has one more then. Waits until there is one.
    async fn take(&self) -> (usize, Endpoint) {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            if let Some(taken) = self.try_take() {
                return taken;
            }
            added.await;
        }
    }

    fn try_take(&self) -> Option<(usize, Endpoint)> {
        let mut nodes = self.nodes.lock();
        let ready = nodes.iter_mut().filter(|(_, node)| node.is_ready);
        let (number, node) = ready.min_by_key(|(_, node)| node.connections)?;
        node.connections += 1;
        Some((*number, node.endpoint.clone()))
    }

    /// Takes a node out that refused a connection.
    fn take_out(&self, number: usize) {
        if let Some(node) = self.nodes.lock().get_mut(&number) {
            node.connections -= 1;
            node.is_ready = false;
        }
    }

    fn give_back(&self, number: usize) {
        if let Some(node) = self.nodes.lock().get_mut(&number) {
            node.connections -= 1;
        }
    }

    /// Takes a node that is not ready out, as a health check does.
    async fn check(self: Arc<Self>) {
        let mut checks = interval(PACE);
        loop {
            checks.tick().await;
            let endpoints: Vec<(usize, Endpoint)> = {
                let nodes = self.nodes.lock();
                let ready = nodes.iter().filter(|(_, node)| node.is_ready);
                ready
                    .map(|(number, node)| (*number, node.endpoint.clone()))
                    .collect()
            };
            for (number, endpoint) in endpoints {
                let answer = endpoint.http().get(endpoint.url("/readyz")).send().await;
                if !answer.is_ok_and(|answer| answer.status() == 200) {
                    self.nodes.lock().get_mut(&number).unwrap().is_ready = false;
                }
            }
        }
    }

    fn connections(&self) -> Vec<usize> {
        let nodes = self.nodes.lock();
        nodes.values().map(|node| node.connections).collect()
    }
}

/// How a client fared.
#[derive(Debug, Default)]
struct Fate {
    /// Times at which it was told to come back, in ms after the word.
    moves: Vec<u64>,
    last_seq: u64,
}

/// Follows the channel until it has everything up to the last seq, and moves when it is told to.
async fn follow(balancer: Arc<Balancer>, mut last: watch::Receiver<Option<u64>>) -> Fate {
    let mut fate = Fate::default();
    let mut position: Option<(String, u64)> = None;
    loop {
        let (number, endpoint) = balancer.take().await;
        let opened = Client::open(Transport::WebSocketProto, &endpoint, None).await;
        let Ok(mut client) = opened else {
            // It has ended between two checks.
            balancer.take_out(number);
            continue;
        };
        let after = Box::pin(read(&mut client, &mut position, &mut last)).await;
        balancer.give_back(number);
        fate.last_seq = position.as_ref().map_or(0, |(_, seq)| *seq);
        match after {
            Some(after_ms) => {
                fate.moves.push(after_ms);
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
            }
            None => return fate,
        }
    }
}

/// When a connection that has ended was told to come back.
async fn told(client: &mut Client) -> u64 {
    while let Some(message) = client.try_next().await {
        if message.kind == "reconnect" {
            return message.data["afterMs"].as_u64().unwrap();
        }
    }
    0
}

/// Reads on one connection. Returns when to come back, or None once all has arrived.
async fn read(
    client: &mut Client,
    position: &mut Option<(String, u64)>,
    last: &mut watch::Receiver<Option<u64>>,
) -> Option<u64> {
    let is_resumed = position.is_some();
    let channel = match &*position {
        Some((epoch, seq)) => json!({"channel": CHANNEL, "since": {"epoch": epoch, "seq": seq}}),
        None => json!(CHANNEL),
    };
    let request = json!({"channels": [channel]});
    let Some(reply) = client.try_request("subscribe", request).await else {
        return Some(told(client).await);
    };
    let subscribed = reply.expect("subscribed").data["channels"][0].clone();
    let (epoch, seq) = position.get_or_insert_with(|| {
        let epoch = subscribed["epoch"].as_str().unwrap().to_owned();
        (epoch, subscribed["seq"].as_u64().unwrap())
    });
    assert_eq!(subscribed["recovered"], is_resumed, "{subscribed}");
    assert_eq!(subscribed["epoch"], *epoch);
    loop {
        if last.borrow_and_update().is_some_and(|last| *seq == last) {
            return None;
        }
        let message = tokio::select! {
            message = client.try_next() => message,
            changed = last.changed() => {
                changed.unwrap();
                continue;
            }
        };
        // Without a word: at once.
        let Some(message) = message else {
            return Some(0);
        };
        match &*message.kind {
            "reconnect" => return Some(message.data["afterMs"].as_u64().unwrap()),
            "gap" => panic!("a gap: {message:?}"),
            _ if message.channel.as_deref() == Some(CHANNEL) => {
                let next = message.seq.unwrap();
                assert_eq!(next, *seq + 1, "a hole, or one twice");
                *seq = next;
            }
            _ => {}
        }
    }
}

fn clients() -> usize {
    let count = std::env::var("TIDEWIRE_ROLLING_CLIENTS");
    count.map_or(150, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_replaced_by_new_ones_move_each_client_at_most_twice_and_evenly() {
    let clients = clients();
    let redis = RedisServer::start().await;
    let node = || {
        let builder = server(&redis).set("server", "drain = \"3s\"");
        builder.set("limits", &format!("connections_per_ip = {}", 2 * clients))
    };
    let balancer = Arc::new(Balancer::default());
    let mut nodes = Vec::new();
    for number in 0..3 {
        let server = node().start().await;
        balancer.add(number, &server);
        nodes.push(server);
    }
    let mut checks = JoinSet::new();
    checks.spawn(balancer.clone().check());
    let (last, is_last) = watch::channel(None);
    let mut following = JoinSet::new();
    for _ in 0..clients {
        following.spawn(follow(balancer.clone(), is_last.clone()));
    }
    let has_all = |nodes: Vec<usize>| (nodes.iter().sum::<usize>() == clients).then_some(nodes);
    eventually("all clients", async || has_all(balancer.connections())).await;
    // One that stays publishes.
    let publisher = node().start().await;
    let mut publications = interval(PACE);
    let mut replacements = Vec::new();
    for (number, mut old) in nodes.into_iter().enumerate() {
        let new = node().start().await;
        balancer.add(3 + number, &new);
        replacements.push(new);
        old.terminate();
        let ended = old.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                status = &mut ended => break assert!(status.success(), "{status}"),
                _ = publications.tick() => {
                    publisher.publish(CHANNEL, json!("a word on the way")).await;
                }
            }
        }
        eventually("all clients again", async || {
            has_all(balancer.connections())
        })
        .await;
    }
    let newest = publisher.publish(CHANNEL, json!("the last word")).await;
    let balance = balancer.connections();
    last.send(newest["seq"].as_u64()).unwrap();
    let fates = following.join_all().await;
    let most = fates.iter().map(|fate| fate.moves.len()).max();
    assert!(most <= Some(2), "{most:?} moves");
    let fair = clients.div_ceil(3);
    let is_fair = |count: &usize| count.abs_diff(fair) <= fair / 5 + 1;
    assert!(balance[3..].iter().all(is_fair), "{balance:?}");
    assert!(
        fates
            .iter()
            .all(|fate| Some(fate.last_seq) == newest["seq"].as_u64())
    );
    // No storm: no fifth of the window has more than double its share of the words to come back.
    let words: Vec<u64> = fates.iter().flat_map(|fate| fate.moves.clone()).collect();
    let longest = words.iter().max().copied().unwrap_or_default() + 1;
    for fifth in 0..5 {
        let range = longest * fifth / 5..longest * (fifth + 1) / 5;
        let count = words.iter().filter(|after| range.contains(after)).count();
        assert!(
            count <= 2 * words.len() / 5,
            "{count} of {} in {range:?}",
            words.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_a_killed_node_recover_with_one_read() {
    let clients = clients();
    let redis = RedisServer::start().await;
    let start = || {
        let limit = format!("connections_per_ip = {}", 2 * clients);
        server(&redis).set("limits", &limit).start()
    };
    let (mut killed, other) = (start().await, start().await);
    let balancer = Arc::new(Balancer::default());
    balancer.add(0, &killed);
    let (last, is_last) = watch::channel(None);
    let mut following = JoinSet::new();
    for _ in 0..clients {
        following.spawn(follow(balancer.clone(), is_last.clone()));
    }
    other.publish(CHANNEL, json!("the first word")).await;
    eventually("all clients", async || {
        let subscribed = killed.metric("tidewire_subscriptions", "").await;
        (subscribed >= clients as f64).then_some(())
    })
    .await;
    killed.kill().await;
    // They miss these, before they come to the other node.
    for _ in 0..10 {
        other.publish(CHANNEL, json!("a word on the way")).await;
    }
    let reads = "tidewire_broker_history_reads_total";
    let before = other.metric(reads, "").await;
    balancer.remove(0);
    balancer.add(1, &other);
    eventually("all clients again", async || {
        let subscribed = other.metric("tidewire_subscriptions", "").await;
        (subscribed >= clients as f64).then_some(())
    })
    .await;
    let newest = other.publish(CHANNEL, json!("the last word")).await;
    last.send(newest["seq"].as_u64()).unwrap();
    let fates = following.join_all().await;
    assert!(
        fates
            .iter()
            .all(|fate| Some(fate.last_seq) == newest["seq"].as_u64())
    );
    let reads = other.metric(reads, "").await - before;
    // They come within seconds of each other. On a slow machine the history is read once more.
    assert!((1.0..=3.0).contains(&reads), "{reads} reads");
}
