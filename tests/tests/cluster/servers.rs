//! Two servers and one Redis: what clients see.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, json};
use tidewire_tests::{
    Client, RedisServer, Server, ServerBuilder, Token, Transport, VenueKind, VenueStandIn,
    eventually, on_every_transport, venue::Trade, within,
};

on_every_transport!(
    a_publication_reaches_the_clients_of_all_servers,
    a_client_that_was_cut_from_one_server_resumes_on_another,
    an_emptied_redis_begins_another_epoch,
);

/// A server that shares its channels over this Redis.
pub(crate) fn server(redis: &RedisServer) -> ServerBuilder {
    Server::builder()
        .set("broker", "kind = \"redis\"")
        .set("broker", &format!("url = {:?}", redis.url()))
        .set("broker", "prefix = \"test\"")
        .set("broker", "timeout = \"2s\"")
}

pub(crate) async fn pair(redis: &RedisServer) -> (Server, Server) {
    tokio::join!(server(redis).start(), server(redis).start())
}

async fn history(server: &Server, channel: &str) -> Value {
    let body = json!({"channel": channel, "limit": 1000});
    let answer = server.call("StreamService/GetHistory", None, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// The document of each publication of a history, with its seq.
fn documents(history: &Value) -> Vec<(u64, Value)> {
    let all = history["messages"].as_array().expect("messages");
    let all = all.iter();
    let seq = |one: &Value| one["seq"].as_u64().expect("a seq");
    all.map(|one| (seq(one), one["data"].clone())).collect()
}

/// Publishes with the service scope. None if the server does not take it.
async fn try_publish(server: &Server, channel: &str, data: Value) -> Result<Value, String> {
    let body = json!({"channel": channel, "data": data});
    let token = Token::service();
    let answer = server
        .call("StreamService/Publish", Some(&token), &body)
        .await;
    match answer.status {
        200 => Ok(answer.json()),
        _ => Err(answer.body),
    }
}

/// The part `broker` of a server.
async fn broker_part(server: &Server) -> Option<Value> {
    let listed = server.get("/readyz?verbose").await.json();
    let mut parts = listed["parts"].as_array()?.iter();
    parts.find(|one| one["part"] == "broker").cloned()
}

async fn broker_is(server: &Server, state: &str) -> Value {
    eventually(format!("the broker is {state}"), async || {
        let part = broker_part(server).await?;
        (part["state"] == state).then_some(part)
    })
    .await
}

async fn a_publication_reaches_the_clients_of_all_servers(transport: Transport) {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let mut clients = [
        Client::connect(transport, &a).await,
        Client::connect(transport, &b).await,
    ];
    for client in &mut clients {
        let subscribed = client.subscribe("demo:a").await;
        assert_eq!(subscribed["seq"], 0);
    }
    for number in 1..=40 {
        let server = if number % 2 == 0 { &a } else { &b };
        let position = server.publish("demo:a", json!(number)).await;
        assert_eq!(position["seq"], number);
    }
    let expected: Vec<_> = (1..=40).map(|number| (number, json!(number))).collect();
    for client in &mut clients {
        assert_eq!(client.take("demo:a", 40).await, expected);
    }
    let (of_a, of_b) = (history(&a, "demo:a").await, history(&b, "demo:a").await);
    assert_eq!(of_a, of_b);
    assert_eq!(documents(&of_a), expected);
}

async fn a_client_that_was_cut_from_one_server_resumes_on_another(transport: Transport) {
    let redis = RedisServer::start().await;
    let (mut a, b) = pair(&redis).await;
    let b = Arc::new(b);
    let mut client = Client::connect(transport, &a).await;
    let subscribed = client.subscribe("demo:a").await;
    let epoch = subscribed["epoch"].as_str().expect("an epoch").to_owned();
    let publisher = {
        let b = b.clone();
        tokio::spawn(async move {
            for number in 1..=300 {
                b.publish("demo:a", json!(number)).await;
            }
        })
    };
    let mut received = client.take("demo:a", 20).await;
    // Without a word to anybody.
    a.kill().await;
    drop(client);
    let mut client = Client::connect(transport, &b).await;
    let resumed = client.resume("demo:a", &epoch, 20).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
    received.extend(client.take("demo:a", 280).await);
    publisher.await.expect("all are published");
    let expected: Vec<_> = (1..=300).map(|number| (number, json!(number))).collect();
    assert_eq!(received, expected);
    // With nothing new, nothing comes again.
    drop(client);
    let mut client = Client::connect(transport, &b).await;
    let resumed = client.resume("demo:a", &epoch, 300).await;
    assert_eq!(
        (&resumed["recovered"], &resumed["seq"]),
        (&json!(true), &json!(300))
    );
    client.settle().await;
    assert!(client.unread().is_empty(), "{:?}", client.unread());
}

async fn an_emptied_redis_begins_another_epoch(transport: Transport) {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let mut client = Client::connect(transport, &b).await;
    let subscribed = client.subscribe("demo:a").await;
    for number in 1..=3 {
        a.publish("demo:a", json!(number)).await;
    }
    client.take("demo:a", 3).await;
    redis.command(&["FLUSHALL"]).await;
    let position = a.publish("demo:a", json!(4)).await;
    assert_eq!(position["seq"], 1);
    assert_ne!(position["epoch"], subscribed["epoch"]);
    let gap = client.next_of("gap").await;
    assert_eq!(gap.data["epoch"], position["epoch"], "{gap:?}");
    a.publish("demo:a", json!(5)).await;
    let message = client.next_on("demo:a").await;
    assert_eq!((message.seq, &message.data), (Some(2), &json!(5)));
}

#[tokio::test]
async fn a_user_is_reached_on_any_server() {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let token = Token::of("ann").sign();
    let mut client = Client::connect_as(Transport::WebSocketJson, &b, Some(&token)).await;
    a.publish("user:ann", json!("hello")).await;
    let message = client.next_on("user:ann").await;
    assert_eq!(message.data, "hello");
    let notify =
        json!({"user": "ann", "notification": {"type": "system_announcement", "title": "T"}});
    let sent = a
        .call("NotifyService/Notify", Some(&Token::service()), &notify)
        .await;
    assert_eq!(sent.status, 200, "{}", sent.body);
    let pushed = client.next_of("notification").await;
    assert_eq!(pushed.data["title"], "T", "{pushed:?}");
}

#[tokio::test]
async fn an_idempotency_key_counts_on_all_servers() {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let publish = async |server: &Server, data: Value| {
        let body = json!({"channel": "demo:a", "data": data, "idempotencyKey": "k"});
        let token = Token::service();
        server
            .call("StreamService/Publish", Some(&token), &body)
            .await
    };
    let first = publish(&a, json!(1)).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(publish(&b, json!(1)).await.json(), first.json());
    let other = publish(&b, json!(2)).await;
    assert!(other.body.contains("with other data"), "{}", other.body);
    assert_eq!(documents(&history(&b, "demo:a").await).len(), 1);
}

#[tokio::test]
async fn the_clients_of_a_killed_server_recover_with_one_read_of_the_history() {
    const CLIENTS: usize = 500;
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let mut position = Value::Null;
    for number in 1..=100 {
        position = a.publish("demo:a", json!(number)).await;
    }
    let epoch = position["epoch"].as_str().expect("an epoch");
    // Another client is there already, as usual on a server that clients come to.
    let mut first = Client::connect(Transport::WebSocketJson, &b).await;
    first.subscribe("demo:a").await;
    let reads = "tidewire_broker_history_reads_total";
    let before = b.metric(reads, "").await;
    let connected = (0..CLIENTS).map(|_| Client::connect(Transport::WebSocketJson, &b));
    let mut clients = futures::future::join_all(connected).await;
    let resumed = clients.iter_mut().map(async |client| {
        let resumed = client.resume("demo:a", epoch, 60).await;
        assert_eq!(resumed["recovered"], true, "{resumed}");
        client.take("demo:a", 40).await
    });
    let received = futures::future::join_all(resumed).await;
    let expected: Vec<_> = (61..=100).map(|number| (number, json!(number))).collect();
    assert!(received.iter().all(|one| *one == expected));
    let made = b.metric(reads, "").await - before;
    assert!(
        (1.0..=2.0).contains(&made),
        "{made} reads for {CLIENTS} clients"
    );
    // The history that was read is still the newest for those who come later, and for readers.
    b.publish("demo:a", json!(101)).await;
    assert_eq!(
        documents(&history(&b, "demo:a").await).last(),
        Some(&(101, json!(101)))
    );
    let mut late = Client::connect(Transport::WebSocketJson, &b).await;
    late.resume("demo:a", epoch, 99).await;
    let expected = [(100, json!(100)), (101, json!(101))];
    assert_eq!(late.take("demo:a", 2).await, expected);
}

#[tokio::test]
async fn a_killed_server_loses_nothing_that_was_acknowledged() {
    let redis = RedisServer::start().await;
    let (mut a, b) = pair(&redis).await;
    let mut client = Client::connect(Transport::WebSocketJson, &b).await;
    client.subscribe("demo:a").await;
    let http = a.new_http();
    let url = a.url("/v1/rpc/StreamService/Publish");
    let (sender, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
    let publishers = (0..4).map(|publisher: u64| {
        let (http, url, sender) = (http.clone(), url.clone(), sender.clone());
        tokio::spawn(async move {
            for number in 0.. {
                let data = json!([publisher, number]);
                let body = json!({"channel": "demo:a", "data": data});
                let request = http.post(&url).bearer_auth(Token::service()).json(&body);
                let Ok(response) = request.send().await else {
                    return;
                };
                let Ok(position) = response.json::<Value>().await else {
                    return;
                };
                let seq = position["seq"].as_u64().expect("a seq");
                sender.send((seq, data)).expect("the test listens");
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    drop(sender);
    let mut known = Vec::new();
    while known.len() < 100 {
        known.extend(within("an acknowledgement", acknowledged.recv()).await);
    }
    a.kill().await;
    while let Some(one) = within("the end", acknowledged.recv()).await {
        known.push(one);
    }
    for publisher in publishers {
        publisher.await.expect("it ends");
    }
    known.sort_by_key(|(seq, _)| *seq);
    let last = known.last().expect("some").0;
    let received = client
        .take("demo:a", usize::try_from(last).expect("few"))
        .await;
    let received: HashSet<_> = received
        .into_iter()
        .map(|(seq, data)| (seq, data.to_string()))
        .collect();
    for (seq, data) in known {
        assert!(received.contains(&(seq, data.to_string())), "{seq} is lost");
    }
}

#[tokio::test]
async fn a_stopped_server_hands_over_what_waits() {
    let redis = RedisServer::start().await;
    let (mut a, b) = pair(&redis).await;
    a.publish("demo:a", json!(0)).await;
    redis.pause();
    let mut waiting = Vec::new();
    for number in 1..=20 {
        let (http, url) = (a.new_http(), a.url("/v1/rpc/StreamService/Publish"));
        let body = json!({"channel": "demo:a", "data": number});
        waiting.push(tokio::spawn(async move {
            let request = http.post(url).bearer_auth(Token::service()).json(&body);
            request
                .send()
                .await
                .is_ok_and(|response| response.status() == 200)
        }));
    }
    a.metric_until("tidewire_broker_waiting_bytes", "", |bytes| bytes > 0.0)
        .await;
    a.terminate();
    redis.resume();
    let mut accepted = 0;
    for one in waiting {
        accepted += usize::from(one.await.expect("a request"));
    }
    assert!(a.ended().await.success());
    let kept = documents(&history(&b, "demo:a").await).len();
    assert!(kept > accepted, "{kept} of {accepted} are there");
}

#[tokio::test]
async fn servers_with_other_prefixes_share_nothing() {
    let redis = RedisServer::start().await;
    let a = server(&redis).start().await;
    let other = server(&redis)
        .set("broker", "prefix = \"other\"")
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &other).await;
    client.subscribe("demo:a").await;
    a.publish("demo:a", json!("not for others")).await;
    other.publish("demo:a", json!("own")).await;
    let message = client.next_on("demo:a").await;
    assert_eq!((message.seq, &message.data), (Some(1), &json!("own")));
    assert_eq!(documents(&history(&a, "demo:a").await).len(), 1);
}

const SYMBOL: &str = "ETH-BTC";

#[tokio::test]
async fn a_redis_that_hangs_stops_nothing_that_is_local() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let a = server(&redis)
        .set("prices", &format!("symbols = [{SYMBOL:?}]"))
        .source("coinbase", "coinbase", &venue.url())
        .start()
        .await;
    let trade = |id, price| {
        venue.trade(&Trade {
            symbol: SYMBOL,
            id,
            price,
        });
    };
    venue.wait_subscribed(1).await;
    trade(1, "0.05");
    let mut client = Client::connect(Transport::WebSocketJson, &a).await;
    client.subscribe("demo:a").await;
    client.subscribe(&format!("prices:{SYMBOL}")).await;
    client.next_on(&format!("prices:{SYMBOL}")).await;
    assert_eq!(a.get("/readyz").await.status, 200);
    redis.pause();
    // Calls end by their deadline, with a reason.
    let error = try_publish(&a, "demo:a", json!(1))
        .await
        .expect_err("no Redis");
    assert!(
        error.contains("unavailable") && error.contains("not known whether"),
        "{error}"
    );
    let body = json!({"channel": "demo:a"});
    let read = a.call("StreamService/GetHistory", None, &body).await;
    assert_eq!(read.status, 503, "{}", read.body);
    let refused = client.subscribe("demo:b").await;
    assert_eq!(refused["error"]["code"], "unavailable", "{refused}");
    // What is local goes on.
    assert_eq!(a.get("/healthz").await.status, 200);
    trade(2, "0.06");
    let price = client.next_on(&format!("prices:{SYMBOL}")).await;
    assert_eq!(price.data["price"], 0.06, "{price:?}");
    let status = client.next_of("status").await;
    assert_eq!(status.data["state"], "degraded");
    let reason = status.data["reason"].as_str().expect("a reason");
    assert_eq!(reason, "broker: it cannot be used");
    let ready = a.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(
        ready.body.contains("Redis cannot be used"),
        "{}",
        ready.body
    );
    assert!(a.metric("tidewire_part_degraded", "broker").await > 0.0);
    // A user is welcomed, and subscribed to the own channel later.
    let token = Token::of("ann").sign();
    let mut user = Client::connect_as(Transport::WebSocketJson, &a, Some(&token)).await;
    assert_eq!(user.welcome().data["subscriptions"], json!([]));
    redis.resume();
    let subscribed = user.next_of("subscribed").await;
    assert_eq!(subscribed.data["channels"][0]["channel"], "user:ann");
    let status = client.next_of("status").await;
    assert_eq!(status.data, json!({"state": "ok"}));
    a.publish("demo:a", json!("after")).await;
    let last = eventually("the last", async || {
        let message = client.next_on("demo:a").await;
        (message.data == "after").then_some(message)
    });
    last.await;
    a.publish("user:ann", json!("hello")).await;
    assert_eq!(user.next_on("user:ann").await.data, "hello");
    broker_is(&a, "ok").await;
}

#[tokio::test]
async fn a_redis_that_restarts_with_its_data_changes_nothing() {
    let mut redis =
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let (a, b) = pair(&redis).await;
    let mut client = Client::connect(Transport::WebSocketJson, &b).await;
    let subscribed = client.subscribe("demo:a").await;
    for number in 1..=10 {
        a.publish("demo:a", json!(number)).await;
    }
    client.take("demo:a", 10).await;
    redis.kill();
    // It waits for Redis, which comes back in time.
    let (position, ()) = tokio::join!(a.publish("demo:a", json!(11)), redis.restart());
    assert_eq!(
        (&position["epoch"], &position["seq"]),
        (&subscribed["epoch"], &json!(11))
    );
    assert_eq!(client.take("demo:a", 1).await, [(11, json!(11))]);
    client.settle().await;
    assert!(client.unread().iter().all(|one| one.kind != "gap"));
}

#[tokio::test]
async fn a_server_starts_without_redis_and_shares_once_it_is_there() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let a = server(&redis).without_readiness_check().start().await;
    a.log_line("Redis cannot be used yet").await;
    assert_eq!(a.get("/readyz").await.status, 503);
    assert_eq!(a.get("/healthz").await.status, 200);
    let part = broker_is(&a, "degraded").await;
    let reason = part["reason"].as_str().expect("a reason");
    assert!(reason.contains("no connection"), "{reason}");
    // Others than operators read nothing of Redis.
    let through_proxy = async |token: Option<Token>| {
        let request = a.http().get(a.url("/readyz?verbose"));
        let mut request = request.header("x-forwarded-for", "203.0.113.7");
        if let Some(token) = token {
            request = request.bearer_auth(token.sign());
        }
        a.send(request).await.body
    };
    let open = through_proxy(None).await;
    assert!(open.contains("it cannot be used"), "{open}");
    assert!(!open.contains("no connection"), "{open}");
    let admin = Token::of("operator").scope("admin");
    let whole = through_proxy(Some(admin)).await;
    assert!(whole.contains("no connection"), "{whole}");
    redis.restart().await;
    let b = server(&redis).start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &b).await;
    client.subscribe("demo:a").await;
    a.publish("demo:a", json!(1)).await;
    assert_eq!(client.take("demo:a", 1).await, [(1, json!(1))]);
    broker_is(&a, "ok").await;
    assert_eq!(a.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_redis_that_refuses_writes_says_what_to_set() {
    let redis = RedisServer::start().await;
    let a = server(&redis).start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &a).await;
    client.subscribe("demo:a").await;
    a.publish("demo:a", json!(0)).await;
    let refused = async || {
        let refused = try_publish(&a, "demo:a", json!("refused")).await;
        refused.expect_err("Redis takes nothing")
    };
    // Out of memory.
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = refused().await;
    assert!(
        error.contains("nothing was published") && error.contains("raise its `maxmemory`"),
        "{error}"
    );
    let part = broker_is(&a, "degraded").await;
    let reason = part["reason"].as_str().expect("a reason");
    assert!(reason.contains("maxmemory"), "{reason}");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    // Nobody publishes meanwhile.
    broker_is(&a, "ok").await;
    // No snapshot can be written: a folder is in its place.
    std::fs::create_dir(redis.folder().join("dump.rdb")).expect("a folder");
    redis
        .command(&["CONFIG", "SET", "save", "3600 1000000"])
        .await;
    redis.command(&["BGSAVE"]).await;
    let error = eventually("a failed snapshot", async || {
        try_publish(&a, "demo:a", json!("perhaps")).await.err()
    })
    .await;
    assert!(error.contains("stop-writes-on-bgsave-error"), "{error}");
    redis
        .command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"])
        .await;
    broker_is(&a, "ok").await;
    // A replica.
    let master = RedisServer::start().await;
    let port = master.port().to_string();
    redis.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    let error = refused().await;
    assert!(error.contains("must name the master"), "{error}");
    broker_is(&a, "degraded").await;
    redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    broker_is(&a, "ok").await;
    a.publish("demo:a", json!("last")).await;
    let last = eventually("the last", async || {
        let message = client.next_on("demo:a").await;
        (message.data == "last").then_some(message)
    });
    last.await;
}
