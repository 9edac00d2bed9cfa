//! Servers of which one publishes prices for all.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tidewire_stream::Event;
use tidewire_tests::{
    Client, RedisServer, Server, ServerBuilder, Token, Transport, VenueKind, VenueStandIn,
    eventually, venue::Trade,
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    node::{Node, channel, document},
    servers::server,
};

pub(crate) const SYMBOL: &str = "BTC-USD";

pub(crate) const CHANNEL: &str = "prices:BTC-USD";

/// Time between two trades under load.
const PACE: Duration = Duration::from_millis(20);

fn sharing(redis: &RedisServer) -> ServerBuilder {
    server(redis).set("broker", "share_prices = true")
}

pub(crate) fn builder(redis: &RedisServer, venue: &VenueStandIn) -> ServerBuilder {
    builder_at(redis, &venue.url())
}

fn builder_at(redis: &RedisServer, venue: &str) -> ServerBuilder {
    sharing(redis)
        .set("prices", &format!("symbols = [{SYMBOL:?}]"))
        .source("kraken", "kraken", venue)
}

/// A server that owns the price engine, and others that follow the venue too.
pub(crate) async fn owner_and_others<const N: usize>(
    redis: &RedisServer,
    venue: &VenueStandIn,
) -> (Server, [Server; N]) {
    let owner = builder(redis, venue).start().await;
    owns(&owner, true).await;
    let mut others = Vec::new();
    for _ in 0..N {
        others.push(builder(redis, venue).start().await);
    }
    venue.wait_subscribed(1 + N).await;
    let others = others.try_into().expect("as many servers");
    (owner, others)
}

/// Waits until a server owns the price engine, or does not.
pub(crate) async fn owns(server: &Server, expected: bool) {
    server
        .metric_until("tidewire_price_owner", "", |value| {
            (value > 0.5) == expected
        })
        .await;
}

/// The price of a trade.
pub(crate) fn price_of(id: u64) -> f64 {
    (10_000 + id) as f64
}

/// Trades at a price that rises with the number.
pub(crate) fn trade(venue: &VenueStandIn, id: u64) {
    venue.trade(&Trade {
        symbol: SYMBOL,
        id,
        price: &price_of(id).to_string(),
    });
}

/// Trades until it is stopped. Returns the number of the last trade.
struct Load {
    stop: oneshot::Sender<()>,
    trades: JoinHandle<(VenueStandIn, u64)>,
}

impl Load {
    fn start(venue: VenueStandIn, first: u64) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let trades = tokio::spawn(async move {
            let mut id = first;
            loop {
                trade(&venue, id);
                if tokio::time::timeout(PACE, &mut stopped).await.is_ok() {
                    return (venue, id);
                }
                id += 1;
            }
        });
        Self { stop, trades }
    }

    async fn end(self) -> (VenueStandIn, u64) {
        self.stop.send(()).expect("the trades go on");
        self.trades.await.expect("the trades end")
    }
}

/// The prices of all publications so far, in their order. Checks that each follows the one before,
/// and that none is there twice.
fn prices(listener: &Node) -> Vec<f64> {
    let published = listener.recorder.publications(&channel(CHANNEL));
    let first = published.first().map_or(1, |(seq, _)| *seq);
    let mut prices = Vec::new();
    let mut seen = BTreeSet::new();
    for ((seq, document), expected) in published.iter().zip(first..) {
        assert_eq!(*seq, expected, "{published:?}");
        let update: Value = serde_json::from_str(document).expect("a price");
        assert!(
            seen.insert(["timestamp", "price", "stale"].map(|key| update[key].to_string())),
            "{document} is there twice: {published:?}"
        );
        prices.push(update["price"].as_f64().expect("a price"));
    }
    prices
}

/// A listener to all that is published.
async fn listener(redis: &RedisServer) -> Node {
    let node = Node::start(redis).await;
    node.subscribe(&channel(CHANNEL)).await;
    node
}

/// Waits until the price of a trade, or of a later one, was published.
async fn published(listener: &Node, id: u64) {
    let expected = price_of(id);
    eventually(format!("a price of {expected}"), async || {
        let prices = prices(listener);
        prices
            .last()
            .is_some_and(|price| *price >= expected)
            .then_some(())
    })
    .await;
}

/// Waits for the price of a trade, or of a later one.
async fn received(client: &mut Client, id: u64) -> Value {
    loop {
        let message = client.next_on(CHANNEL).await;
        if message.data["price"].as_f64() >= Some(price_of(id)) {
            return message.data;
        }
    }
}

/// Checks that prices never went back: a late one of an earlier owner would.
fn assert_rising(prices: &[f64]) {
    assert!(prices.is_sorted(), "{prices:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_servers_publishes_for_all() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let listener = listener(&redis).await;
    let (a, [b, c]) = owner_and_others(&redis, &venue).await;
    let mut clients = Vec::new();
    for server in [&a, &b, &c] {
        let mut client = Client::connect(Transport::WebSocketJson, server).await;
        client.subscribe(CHANNEL).await;
        clients.push(client);
    }
    for id in 1..=20 {
        trade(&venue, id);
        published(&listener, id).await;
    }
    let mut newest = BTreeSet::new();
    for client in &mut clients {
        let message = loop {
            let message = client.next_on(CHANNEL).await;
            if message.data["price"] == price_of(20) {
                break message;
            }
        };
        newest.insert(message.seq);
    }
    assert_eq!(newest.len(), 1, "{newest:?}");
    assert_eq!(prices(&listener).len(), 20);
    for (server, expected) in [(&a, true), (&b, false), (&c, false)] {
        owns(server, expected).await;
    }
    // Each follows the venue, and tells the details.
    for server in [&a, &b, &c] {
        let body = json!({"symbol": SYMBOL});
        let price = server
            .call("PriceService/GetPrice", None, &body)
            .await
            .json();
        assert_eq!(price["price"], price_of(20), "{price}");
        assert_eq!(price["sourceDetails"][0]["state"], "live", "{price}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_publishes_when_the_owner_is_killed() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let listener = listener(&redis).await;
    let (mut a, [b]) = owner_and_others(&redis, &venue).await;
    let mut client = Client::connect(Transport::WebSocketJson, &b).await;
    client.subscribe(CHANNEL).await;
    let load = Load::start(venue, 1);
    received(&mut client, 20).await;
    let before = prices(&listener).len();
    let started = Instant::now();
    a.kill().await;
    owns(&b, true).await;
    eventually("the next price", async || {
        (prices(&listener).len() > before + 5).then_some(())
    })
    .await;
    println!(
        "the next owner publishes {:?} after the kill",
        started.elapsed()
    );
    let (_venue, last) = load.end().await;
    published(&listener, last).await;
    received(&mut client, last).await;
    assert_rising(&prices(&listener));
    // The order goes on: clients have nothing to read again.
    assert!(client.unread().iter().all(|one| one.kind != "gap"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_publishes_what_changed_of_two_thousand_symbols() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let symbols: Vec<_> = (0..2_000)
        .map(|number| format!("S{number:04}-USD"))
        .collect();
    let list = format!("symbols = {symbols:?}");
    let started = async || {
        // No price grows stale on a slow machine.
        let builder = sharing(&redis).set("prices", "stale_after = \"10m\"");
        builder
            .set("prices", &list)
            .source("kraken", "kraken", &venue.url())
            .start()
            .await
    };
    let mut a = started().await;
    owns(&a, true).await;
    let b = started().await;
    venue.wait_subscribed(2).await;
    let trade = |symbol: &str, id: u64| {
        let price = &price_of(id).to_string();
        venue.trade(&Trade { symbol, id, price });
    };
    let reader = Node::start(&redis).await;
    let newest = async |symbol: &str| {
        let history = reader
            .history(&channel(&format!("prices:{symbol}")), None)
            .await;
        let newest = history.publications.last()?.event();
        let Event::Price(price) = &*newest else {
            panic!("{newest:?}");
        };
        Some((price.price.clone(), history.top.seq))
    };
    for symbol in &symbols {
        trade(symbol, 1);
    }
    let mut before = Vec::new();
    for symbol in &symbols {
        before.push(eventually("its first price", async || newest(symbol).await).await);
    }
    a.kill().await;
    for symbol in symbols.iter().step_by(2) {
        trade(symbol, 2);
    }
    owns(&b, true).await;
    // The last one in the order of the trades need not be the last one that is published.
    for (index, symbol) in symbols.iter().enumerate() {
        let (price, seq) = before[index].clone();
        if index % 2 == 0 {
            let is_next = |after: &(_, u64)| after.0 != price && after.1 == seq + 1;
            eventually("its next price", async || {
                newest(symbol).await.filter(is_next)
            })
            .await;
        } else {
            assert_eq!(newest(symbol).await, Some((price, seq)), "{symbol}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_paused_publishes_nothing_late() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let listener = listener(&redis).await;
    let (a, [b]) = owner_and_others(&redis, &venue).await;
    let load = Load::start(venue, 1);
    published(&listener, 20).await;
    a.pause();
    owns(&b, true).await;
    let before = prices(&listener).len();
    eventually("prices of the next owner", async || {
        (prices(&listener).len() > before + 5).then_some(())
    })
    .await;
    a.resume();
    owns(&a, false).await;
    let (_venue, last) = load.end().await;
    published(&listener, last).await;
    assert_rising(&prices(&listener));
    owns(&b, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_does_not_know_the_next_one_is_refused() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let listener = listener(&redis).await;
    let (a, [b]) = owner_and_others(&redis, &venue).await;
    let load = Load::start(venue, 1);
    published(&listener, 20).await;
    // The term of another node, which the owner hears of when it extends its own. It is over.
    let lease = ["HSET", "test:{prices}:lease", "until", "0", "term"];
    // Later than the term of the owner, whose number begins at the time.
    let mut number = 4_000_000_000_u64;
    eventually("a refusal", async || {
        number += 1;
        let term = format!("{number}-00000000");
        redis.command(&[&lease[..], &[&term]].concat()).await;
        let name = "tidewire_broker_fenced_publications_total";
        let refused = a.metric(name, "").await + b.metric(name, "").await;
        (refused > 0.5).then_some(())
    })
    .await;
    let (_venue, last) = load.end().await;
    published(&listener, last).await;
    assert_rising(&prices(&listener));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_the_prices_over() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let listener = listener(&redis).await;
    let (mut a, [b]) = owner_and_others(&redis, &venue).await;
    trade(&venue, 1);
    published(&listener, 1).await;
    // A price that the next owner does not publish again.
    venue.wait_read().await;
    a.terminate();
    let started = Instant::now();
    owns(&b, true).await;
    println!(
        "the next owner has the lease {:?} after SIGTERM",
        started.elapsed()
    );
    a.ended().await;
    trade(&venue, 2);
    published(&listener, 2).await;
    assert_eq!(prices(&listener), [price_of(1), price_of(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_serves_the_prices_of_another_server() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let shared = |builder: ServerBuilder| builder.set("store", "kind = \"redis\"");
    let mut a = shared(builder(&redis, &venue)).start().await;
    owns(&a, true).await;
    let gateway = shared(builder(&redis, &venue))
        .set("server", "roles = [\"gateway\"]")
        .start()
        .await;
    let call = async |method: &str, body: Value| {
        let token = Token::service();
        gateway.call(method, Some(&token), &body).await
    };
    venue.wait_subscribed(1).await;
    assert_eq!(venue.accepted(), 1);
    // A node that connects to no venue has no figure that says that one is down.
    a.metric_until("tidewire_venue_connected", "kraken", |value| value > 0.0)
        .await;
    let metrics = gateway.get("/metrics").await.body;
    assert!(!metrics.contains("tidewire_venue_connected{"), "{metrics}");
    let before = call("PriceService/GetPrice", json!({"symbol": SYMBOL})).await;
    assert_eq!(before.status, 200, "{}", before.body);
    assert_eq!(before.json()["price"], Value::Null);
    let unknown = call("PriceService/GetPrice", json!({"symbol": "X-Y"})).await;
    assert_eq!(unknown.status, 404, "{}", unknown.body);
    let mut client = Client::connect(Transport::WebSocketJson, &gateway).await;
    client.subscribe(CHANNEL).await;
    trade(&venue, 7);
    let price = received(&mut client, 7).await;
    assert_eq!(price["sources"], 1);
    let read = call("PriceService/GetPrice", json!({"symbol": SYMBOL}))
        .await
        .json();
    assert_eq!(
        (&read["price"], &read["timestamp"]),
        (&price["price"], &price["timestamp"])
    );
    // One that subscribes later begins with the newest price.
    let mut late = Client::connect(Transport::WebSocketJson, &gateway).await;
    late.subscribe(CHANNEL).await;
    assert_eq!(received(&mut late, 7).await["price"], price_of(7));
    // It never owns the store either, and is ready.
    assert_eq!(gateway.get("/readyz").await.status, 200);
    owns(&gateway, false).await;
    let stored = gateway.metric("tidewire_store_owner", "").await;
    assert!(stored < 0.5, "{stored}");
    // Nobody brings the price up to date any more.
    a.kill().await;
    eventually("a stale price", async || {
        let price = call("PriceService/GetPrice", json!({"symbol": SYMBOL})).await;
        let price = price.json();
        (price["stale"] == true && price["price"] == price_of(7)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_the_shared_store_is_given_the_prices() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let listener = listener(&redis).await;
    let shared = |builder: ServerBuilder| builder.set("store", "kind = \"redis\"");
    let a = shared(builder(&redis, &venue))
        .set("server", "roles = [\"prices\"]")
        .start()
        .await;
    owns(&a, true).await;
    venue.wait_subscribed(1).await;
    let url = venue.url();
    let load = Load::start(venue, 1);
    published(&listener, 20).await;
    let b = shared(builder_at(&redis, &url)).start().await;
    owns(&b, true).await;
    owns(&a, false).await;
    let (_venue, last) = load.end().await;
    published(&listener, last).await;
    assert_rising(&prices(&listener));
    let stored = b.metric("tidewire_store_owner", "").await;
    assert!(stored > 0.5, "{stored}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_come_back_with_redis() {
    let mut redis =
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let (a, []) = owner_and_others(&redis, &venue).await;
    let mut client = Client::connect(Transport::WebSocketJson, &a).await;
    client.subscribe(CHANNEL).await;
    trade(&venue, 1);
    received(&mut client, 1).await;
    redis.kill();
    a.log_line("Redis does not work").await;
    trade(&venue, 2);
    // The engine of this server goes on.
    let body = json!({"symbol": SYMBOL});
    eventually("the price of the engine", async || {
        let price = a.call("PriceService/GetPrice", None, &body).await.json();
        (price["price"] == price_of(2)).then_some(())
    })
    .await;
    redis.restart().await;
    received(&mut client, 2).await;
    trade(&venue, 3);
    received(&mut client, 3).await;
    assert!(client.unread().iter().all(|one| one.kind != "gap"));
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_that_a_full_redis_refuses_are_superseded_and_not_lost() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let (a, []) = owner_and_others(&redis, &venue).await;
    let mut client = Client::connect(Transport::WebSocketJson, &a).await;
    client.subscribe(CHANNEL).await;
    trade(&venue, 1);
    received(&mut client, 1).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    trade(&venue, 2);
    eventually("a value that is superseded", async || {
        let metrics = a.get("/metrics").await.body;
        let is_counted = metrics.contains("\ntidewire_broker_superseded_values_total ");
        is_counted.then_some(())
    })
    .await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    received(&mut client, 2).await;
    assert!(client.unread().iter().all(|one| one.kind != "gap"));
    // Nobody is woken for it.
    let metrics = a.get("/metrics").await.body;
    assert!(!metrics.contains("tidewire_broker_lost_publications_total"));
}

/// The newest price that was published, and whether it is stale.
async fn newest(reader: &Node) -> Option<(f64, bool)> {
    let history = reader.history(&channel(CHANNEL), None).await;
    let newest = history.publications.last()?;
    let update: Value = serde_json::from_str(&document(newest)).expect("a price");
    Some((
        update["price"].as_f64().expect("a price"),
        update["stale"].as_bool().expect("a flag"),
    ))
}

async fn newest_is(reader: &Node, id: u64, is_stale: bool) {
    let expected = Some((price_of(id), is_stale));
    eventually(format!("{expected:?}"), async || {
        (newest(reader).await == expected).then_some(())
    })
    .await;
}

/// An owner is followed by a server whose venue is away since this trade, or since ever.
async fn follow_without_venue(last_of_next: Option<u64>) {
    let redis = RedisServer::start().await;
    let (venue, mut of_next) = (
        VenueStandIn::start(VenueKind::Kraken).await,
        VenueStandIn::start(VenueKind::Kraken).await,
    );
    let short = |builder: ServerBuilder| builder.set("prices", "stale_after = \"1s\"");
    let mut owner = short(builder(&redis, &venue)).start().await;
    owns(&owner, true).await;
    let next = short(builder(&redis, &of_next)).start().await;
    venue.wait_subscribed(1).await;
    of_next.wait_subscribed(1).await;
    if let Some(id) = last_of_next {
        trade(&of_next, id);
        let body = json!({"symbol": SYMBOL});
        of_next.wait_read().await;
        of_next.stop().await;
        eventually("a stale price", async || {
            let price = next.call("PriceService/GetPrice", None, &body).await.json();
            (price["stale"] == true).then_some(())
        })
        .await;
    }
    let reader = Node::start(&redis).await;
    trade(&venue, 5);
    newest_is(&reader, 5, false).await;
    owner.kill().await;
    owns(&next, true).await;
    newest_is(&reader, 5, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_venue_is_away_publishes_the_price_as_stale() {
    follow_without_venue(Some(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_never_had_a_price_publishes_the_last_one_as_stale() {
    follow_without_venue(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_redis_lost_is_published_again_in_the_same_term() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let (_owner, []) = owner_and_others(&redis, &venue).await;
    let reader = Node::start(&redis).await;
    trade(&venue, 1);
    newest_is(&reader, 1, false).await;
    // All but the leases.
    let keys = redis.command(&["KEYS", "test:*prices:BTC-USD"]).await;
    let keys: Vec<_> = keys
        .lines()
        .filter(|line| line.starts_with("test:"))
        .collect();
    let [_, _] = keys[..] else { panic!("{keys:?}") };
    redis.command(&["DEL", keys[0], keys[1]]).await;
    assert_eq!(newest(&reader).await, None);
    newest_is(&reader, 1, false).await;
}
