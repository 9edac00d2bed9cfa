//! Servers whose notifications and alerts are in one store in Redis: one owns it, and another takes
//! over.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tidewire_tests::{
    Client, HttpResponse, RedisServer, Server, Token, Transport, VenueKind, VenueStandIn,
    eventually, venue::Trade, within,
};
use tokio::task::JoinSet;

use crate::servers::server;

const SYMBOL: &str = "BTC-USD";

/// A server with the store of this Redis.
async fn start(redis: &RedisServer) -> Server {
    start_with(redis, None).await
}

/// A server with the prices of a venue too.
async fn start_with(redis: &RedisServer, venue: Option<&VenueStandIn>) -> Server {
    let builder = server(redis).set("store", "kind = \"redis\"");
    let builder = match venue {
        Some(venue) => builder
            .set("prices", &format!("symbols = [{SYMBOL:?}]"))
            .source("kraken", "kraken", &venue.url()),
        None => builder,
    };
    builder.start().await
}

/// Two servers. The first one owns the store.
async fn pair(redis: &RedisServer) -> (Server, Server) {
    pair_with(redis, None).await
}

async fn pair_with(redis: &RedisServer, venue: Option<&VenueStandIn>) -> (Server, Server) {
    let a = start_with(redis, venue).await;
    a.metric_until("tidewire_store_owner", "", |value| value > 0.0)
        .await;
    let b = start_with(redis, venue).await;
    eventually("the second server knows the owner", async || {
        inbox(&b, "probe").await
    })
    .await;
    (a, b)
}

pub(crate) async fn notify(server: &Server, user: &str, title: &str) -> HttpResponse {
    let notification = json!({"type": "system_announcement", "title": title});
    let body = json!({"user": user, "notification": notification, "idempotencyKey": title});
    let token = Token::service();
    server
        .call("NotifyService/Notify", Some(&token), &body)
        .await
}

/// The titles in an inbox, and the count of unread notifications. None while the server has no hub.
pub(crate) async fn inbox(server: &Server, user: &str) -> Option<(Vec<String>, u64)> {
    let (token, mut titles, mut before) = (Token::service(), Vec::new(), Value::Null);
    loop {
        let mut body = json!({"user": user, "limit": 100});
        if !before.is_null() {
            body["before"] = before;
        }
        let listed = server
            .call("NotifyService/ListNotifications", Some(&token), &body)
            .await;
        let listed = (listed.status == 200).then(|| listed.json())?;
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let page = items.iter().filter_map(|one| one["title"].as_str());
        titles.extend(page.map(str::to_owned));
        before = listed["next"].clone();
        if before.is_null() {
            let body = json!({"user": user});
            let counted = server
                .call("NotifyService/GetUnreadCount", Some(&token), &body)
                .await;
            let counted = (counted.status == 200).then(|| counted.json())?;
            return Some((titles, counted["unreadCount"].as_u64().unwrap_or(0)));
        }
    }
}

/// The inbox on a server that takes over.
async fn taken_over(server: &Server, user: &str) -> (Vec<String>, u64) {
    eventually("another server takes over", async || {
        inbox(server, user).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_owner_is_killed() {
    let redis = RedisServer::start().await;
    let (mut a, b) = pair(&redis).await;
    let token = Token::of("ann").sign();
    let mut client = Client::connect_as(Transport::WebSocketJson, &b, Some(&token)).await;
    let mut acknowledged = BTreeSet::new();
    let url = a.url("/v1/rpc/NotifyService/Notify");
    let (mut sending, count) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for task in 0..4 {
        let (http, url, count) = (a.new_http(), url.clone(), count.clone());
        sending.spawn(async move {
            let mut sent = Vec::new();
            for number in 0.. {
                let title = format!("{task}.{number}");
                let notification = json!({"type": "system_announcement", "title": title});
                let body = json!({"user": "ann", "notification": notification});
                let request = http.post(&url).bearer_auth(Token::service()).json(&body);
                match request.send().await {
                    Ok(answer) if answer.status() == 200 => {
                        sent.push(title);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => return sent,
                }
            }
            sent
        });
    }
    eventually("some are acknowledged", async || {
        (count.load(Ordering::Relaxed) >= 40).then_some(())
    })
    .await;
    a.kill().await;
    while let Some(sent) = within("the senders", sending.join_next()).await {
        acknowledged.extend(sent.expect("a sender ends"));
    }
    assert!(acknowledged.len() >= 40, "{}", acknowledged.len());
    let (titles, unread) = taken_over(&b, "ann").await;
    let unique: BTreeSet<_> = titles.iter().cloned().collect();
    assert_eq!(unique.len(), titles.len());
    assert!(unique.is_superset(&acknowledged));
    // One of each sender may have been stored without an acknowledgement.
    assert!(unique.len() <= acknowledged.len() + 4);
    assert_eq!(unread, titles.len() as u64);
    assert_eq!(notify(&b, "ann", "later").await.status, 200);
    let (_, unread) = taken_over(&b, "ann").await;
    assert_eq!(unread, titles.len() as u64 + 1);
    // A client on another node is told to read its list again.
    client.next_of("gap").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_recovers_nothing_across_owners() {
    let redis = RedisServer::start().await;
    let (mut a, b) = pair(&redis).await;
    let token = Token::of("ann").sign();
    let mut client = Client::connect_as(Transport::WebSocketJson, &a, Some(&token)).await;
    let position = client.subscribe("user:ann").await;
    let epoch = position["epoch"].as_str().expect("an epoch").to_owned();
    let seq = position["seq"].as_u64().expect("a seq");
    // In the term of one owner, a user who comes back on another node misses nothing.
    let mut other = Client::connect_as(Transport::WebSocketJson, &b, Some(&token)).await;
    assert_eq!(
        other.resume("user:ann", &epoch, seq).await["recovered"],
        true
    );
    drop(other);
    // It may have stored a notification whose push was gathered.
    a.kill().await;
    taken_over(&b, "ann").await;
    let c = start(&redis).await;
    let mut client = Client::connect_as(Transport::WebSocketJson, &c, Some(&token)).await;
    let resumed = client.resume("user:ann", &epoch, seq).await;
    assert_ne!(resumed["recovered"], true, "{resumed}");
    assert_ne!(resumed["epoch"], epoch.as_str());
}

/// Notifies the subscribers of a channel.
async fn notify_channel(server: &Server, title: &str) -> HttpResponse {
    let notification = json!({"type": "system_announcement", "title": title});
    let body = json!({"channel": "demo:room", "notification": notification});
    let token = Token::service();
    server
        .call("NotifyService/Notify", Some(&token), &body)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_to_a_channel_is_published_by_the_next_owner() {
    let redis = RedisServer::start().await;
    let (mut a, b) = pair(&redis).await;
    let mut client = Client::connect(Transport::WebSocketJson, &b).await;
    client.subscribe("demo:room").await;
    assert_eq!(notify_channel(&a, "1").await.status, 200);
    assert_eq!(client.next_on("demo:room").await.data["title"], "1");
    let rows = ["HLEN", "test:{store}:values:notification.channel_rows"];
    eventually("the publication is noted", async || {
        (redis.command(&rows).await == ":0\r\n").then_some(())
    })
    .await;
    // The store can be written, and channels cannot.
    let only = ["~test:{store}:*", "~test:{control}:*"];
    let restrict = ["ACL", "SETUSER", "default", "resetkeys", only[0], only[1]];
    redis.command(&restrict).await;
    for title in ["2", "3"] {
        let acknowledged = notify_channel(&a, title).await;
        assert_eq!(acknowledged.status, 200, "{}", acknowledged.body);
    }
    a.kill().await;
    redis
        .command(&["ACL", "SETUSER", "default", "allkeys"])
        .await;
    taken_over(&b, "ann").await;
    for (seq, title) in [(2, "2"), (3, "3")] {
        let message = client.next_on("demo:room").await;
        assert_eq!(
            (message.seq, &message.data["title"]),
            (Some(seq), &json!(title))
        );
    }
    eventually("the publications are noted", async || {
        (redis.command(&rows).await == ":0\r\n").then_some(())
    })
    .await;
    assert_eq!(notify_channel(&b, "4").await.status, 200);
    let message = client.next_on("demo:room").await;
    assert_eq!(
        (message.seq, &message.data["title"]),
        (Some(4), &json!("4"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_to_a_channel_waits_for_an_owner_that_has_its_namespace() {
    let redis = RedisServer::start().await;
    let start = async |name: &str| {
        let builder = server(&redis).set("store", "kind = \"redis\"");
        builder.namespace(name, "").start().await
    };
    let mut a = start("room").await;
    a.metric_until("tidewire_store_owner", "", |value| value > 0.0)
        .await;
    let mut b = start("other").await;
    // The store can be written, and channels cannot.
    let only = ["~test:{store}:*", "~test:{control}:*"];
    let restrict = ["ACL", "SETUSER", "default", "resetkeys", only[0], only[1]];
    redis.command(&restrict).await;
    let notification = json!({"type": "system_announcement", "title": "1"});
    let body = json!({"channel": "room:1", "notification": notification});
    let token = Token::service();
    let acknowledged = a.call("NotifyService/Notify", Some(&token), &body).await;
    assert_eq!(acknowledged.status, 200, "{}", acknowledged.body);
    a.kill().await;
    redis
        .command(&["ACL", "SETUSER", "default", "allkeys"])
        .await;
    b.log_line("a namespace that this node lacks").await;
    b.kill().await;
    let c = start("room").await;
    eventually("it is published", async || {
        let request = json!({"channel": "room:1"});
        let page = c
            .call("StreamService/GetHistory", Some(&token), &request)
            .await;
        let page = (page.status == 200).then(|| page.json())?;
        let title = &page["messages"][0]["data"]["title"];
        (*title == json!("1")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_paused_pushes_nothing_of_its_term() {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let token = Token::of("ann").sign();
    let mut client = Client::connect_as(Transport::WebSocketJson, &b, Some(&token)).await;
    let notification = json!({"type": "system_announcement", "title": "low", "priority": "low"});
    let body = json!({"user": "ann", "notification": notification});
    let service = Token::service();
    let sent = a.call("NotifyService/Notify", Some(&service), &body).await;
    a.pause();
    assert_eq!(sent.status, 200, "{}", sent.body);
    taken_over(&b, "ann").await;
    let body = json!({"user": "ann", "ids": [sent.json()["id"]]});
    let dismissed = b.call("NotifyService/Dismiss", Some(&service), &body).await;
    assert_eq!(dismissed.status, 200, "{}", dismissed.body);
    client.next_of("dismissed").await;
    a.resume();
    a.log_line("notifications end with the term").await;
    client.settle().await;
    let unread = client.unread();
    assert!(
        unread.iter().all(|one| one.kind != "notification"),
        "{unread:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_cannot_read_the_store_leaves_it_to_others() {
    let redis = RedisServer::start().await;
    let (mut a, b) = pair(&redis).await;
    assert_eq!(notify(&a, "ann", "1").await.status, 200);
    // The place of a notification has eight bytes.
    let meta = "test:{store}:values:notification.meta";
    let order = "test:{store}:order:notification.meta";
    redis.command(&["HSET", meta, "nxx", "?"]).await;
    redis.command(&["ZADD", order, "0", "nxx"]).await;
    a.kill().await;
    b.log_line("notifications cannot be opened").await;
    redis.command(&["HDEL", meta, "nxx"]).await;
    redis.command(&["ZREM", order, "nxx"]).await;
    let c = start(&redis).await;
    assert_eq!(taken_over(&c, "ann").await.0, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_paused_cannot_write() {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let a = Arc::new(a);
    assert_eq!(notify(&a, "ann", "1").await.status, 200);
    a.pause();
    // These are in its socket when it goes on.
    let mut waiting = JoinSet::new();
    for number in 0..8 {
        let a = a.clone();
        let title = format!("paused.{number}");
        waiting.spawn(async move { (title.clone(), notify(&a, "ann", &title).await) });
    }
    let (titles, _) = taken_over(&b, "ann").await;
    assert_eq!(titles, ["1"]);
    assert_eq!(notify(&b, "ann", "2").await.status, 200);
    a.resume();
    // The paused server stores nothing itself: the new owner does it, or nobody.
    let mut expected = BTreeSet::from(["1".to_owned(), "2".to_owned()]);
    while let Some(answer) = within("the answers", waiting.join_next()).await {
        let (title, answer) = answer.expect("an answer");
        if answer.status == 200 {
            expected.insert(title);
        }
    }
    let (titles, unread) = taken_over(&b, "ann").await;
    assert_eq!(unread, titles.len() as u64);
    assert_eq!(titles.into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(notify(&a, "ann", "3").await.status, 200);
    let (titles, _) = taken_over(&b, "ann").await;
    assert!(titles.contains(&"3".to_owned()));
    let lost = b.metric("tidewire_store_lost_commits_total", "").await;
    assert!(lost < 1.0, "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_the_store_over_and_it_comes_back() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let (mut a, mut b) = pair_with(&redis, Some(&venue)).await;
    register(&a, &price("price_above", 100)).await;
    assert_eq!(notify(&a, "ann", "1").await.status, 200);
    a.terminate();
    a.ended().await;
    assert_eq!(taken_over(&b, "ann").await.0, ["1"]);
    assert_eq!(rules(&b).await, 1);
    // Also a server that was not the first one, and one that starts anew.
    let c = start_with(&redis, Some(&venue)).await;
    assert_eq!(notify(&b, "ann", "2").await.status, 200);
    b.terminate();
    b.ended().await;
    assert_eq!(taken_over(&c, "ann").await.1, 2);
    assert_eq!(rules(&c).await, 1);
}

/// A condition on the price.
fn price(kind: &str, threshold: u64) -> Value {
    json!({"kind": kind, "symbol": SYMBOL, "threshold": threshold})
}

async fn register(server: &Server, condition: &Value) {
    let body = json!({"user": "ann", "rule": {"condition": condition}});
    let token = Token::service();
    let registered = server
        .call("AlertService/RegisterAlert", Some(&token), &body)
        .await;
    assert_eq!(registered.status, 200, "{}", registered.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_of_each_term_begins_with_the_last_prices() {
    let redis = RedisServer::start().await;
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let (a, mut b) = pair_with(&redis, Some(&venue)).await;
    let trade = |id, price| {
        venue.trade(&Trade {
            symbol: SYMBOL,
            id,
            price,
        });
    };
    venue.wait_subscribed(2).await;
    trade(1, "99.5");
    venue.wait_read().await;
    let both = [price("price_above", 100), price("price_below", 1_000)];
    register(&a, &json!({"kind": "all", "conditions": both})).await;
    wait_armed(&a).await;
    // Neither of the next two owners sees another price before its rules have a value.
    a.pause();
    wait_armed(&b).await;
    a.resume();
    a.log_line("alerts end with the term").await;
    // Each rule is counted once.
    a.metric_until("tidewire_alerts_rules", "", |rules| rules < 0.5)
        .await;
    let rules = b.metric("tidewire_alerts_rules", "").await;
    assert!((rules - 1.0).abs() < f64::EPSILON, "{rules}");
    b.terminate();
    b.ended().await;
    wait_armed(&a).await;
    trade(2, "150");
    let titles = eventually("the rule fires", async || {
        let (titles, _) = inbox(&a, "ann").await?;
        (!titles.is_empty()).then_some(titles)
    })
    .await;
    assert_eq!(titles.len(), 1, "{titles:?}");
}

/// Waits until the only rule has a value.
async fn wait_armed(server: &Server) {
    let body = json!({"user": "ann"});
    eventually("the rule to have a value", async || {
        let token = Token::service();
        let listed = server
            .call("AlertService/ListAlerts", Some(&token), &body)
            .await;
        let listed = (listed.status == 200).then(|| listed.json())?;
        (listed["items"][0]["state"] == "armed").then_some(())
    })
    .await;
}

/// How many rules the user has.
async fn rules(server: &Server) -> usize {
    let body = json!({"user": "ann"});
    eventually("the rules are loaded", async || {
        let token = Token::service();
        let listed = server
            .call("AlertService/ListAlerts", Some(&token), &body)
            .await;
        let listed = (listed.status == 200).then(|| listed.json())?;
        Some(listed["items"].as_array().map_or(0, Vec::len))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_come_back_with_redis() {
    let mut redis =
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let a = start(&redis).await;
    assert_eq!(notify(&a, "ann", "1").await.status, 200);
    redis.kill();
    let refused = notify(&a, "ann", "2").await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    let part = eventually("the part is degraded", async || {
        let listed = a.get("/readyz?verbose").await.json();
        let parts: Vec<Value> = listed["parts"].as_array()?.clone();
        parts
            .into_iter()
            .find(|one| one["part"] == "shared store" && one["state"] == "degraded")
    });
    assert!(part.await.to_string().contains("Redis"));
    redis.restart().await;
    let sent = eventually("a notification is stored", async || {
        let sent = notify(&a, "ann", "3").await;
        (sent.status == 200).then_some(())
    });
    sent.await;
    let (titles, unread) = taken_over(&a, "ann").await;
    assert!(titles.contains(&"1".to_owned()) && titles.contains(&"3".to_owned()));
    assert_eq!(unread, titles.len() as u64);
}
