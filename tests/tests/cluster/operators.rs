//! Requests of operators that reach all servers.

use serde_json::{Value, json};
use tidewire_tests::{Client, RedisServer, Server, Token, Transport, eventually};

use crate::servers::{pair, server};

async fn admin(server: &Server, method: &str, body: &Value) -> Value {
    let token = Token::of("operator").scope("admin").sign();
    let method = format!("AdminService/{method}");
    let answer = server.call(&method, Some(&token), body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// Whether a server refuses a token.
async fn refuses(server: &Server, token: &str) -> bool {
    Client::open(Transport::WebSocketJson, server, Some(token))
        .await
        .is_err()
}

#[tokio::test]
async fn a_user_is_disconnected_from_all_servers() {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let token = Token::of("ann").sign();
    let mut ann = Client::connect_as(Transport::WebSocketJson, &b, Some(&token)).await;
    let other = Token::of("bob").sign();
    let mut bob = Client::connect_as(Transport::WebSocketJson, &b, Some(&other)).await;
    let answer = admin(&a, "Disconnect", &json!({"user": "ann"})).await;
    assert_eq!(answer["connections"], 1);
    ann.closed().await;
    bob.settle().await;
    // One connection, of another server.
    let id = bob.welcome().data["connectionId"].clone();
    let answer = admin(&a, "Disconnect", &json!({"connectionId": id})).await;
    assert_eq!(answer["connections"], 1);
    bob.closed().await;
    let body = json!({"connectionId": id});
    let token = Token::of("operator").scope("admin").sign();
    let answer = a.call("AdminService/Disconnect", Some(&token), &body).await;
    assert_eq!(answer.status, 404, "{}", answer.body);
}

/// The subscribers of a channel, as one server says.
async fn presence(server: &Server, channel: &str) -> Value {
    let body = json!({"channel": channel});
    let answer = server.call("StreamService/GetPresence", None, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

#[tokio::test]
async fn the_connections_to_all_servers_are_listed_and_counted() {
    let redis = RedisServer::start().await;
    let (a, mut b) = pair(&redis).await;
    let token = |user: &str| Token::of(user).sign();
    let mut ann = Client::connect_as(Transport::WebSocketJson, &a, Some(&token("ann"))).await;
    let mut other = Client::connect_as(Transport::WebSocketJson, &b, Some(&token("ann"))).await;
    let mut bob = Client::connect_as(Transport::WebSocketJson, &b, Some(&token("bob"))).await;
    for client in [&mut ann, &mut other, &mut bob] {
        client.subscribe("demo:lobby").await;
    }
    let expected = json!({"channel": "demo:lobby", "connections": 3, "users": ["ann", "bob"]});
    assert_eq!(presence(&a, "demo:lobby").await, expected);
    assert_eq!(presence(&b, "demo:lobby").await, expected);
    // In pages, in the same order on both.
    let mut ids = Vec::new();
    let mut body = json!({"limit": 2});
    loop {
        let page = admin(&a, "ListConnections", &body).await;
        assert!(page.get("missingNodes").is_none(), "{page}");
        let connections = page["connections"].as_array().expect("connections");
        ids.extend(connections.iter().map(|one| one["connectionId"].clone()));
        match page.get("next") {
            Some(next) => body["after"] = next.clone(),
            None => break,
        }
    }
    assert_eq!(ids.len(), 3);
    let all = admin(&b, "ListConnections", &json!({})).await;
    let of_b: Vec<_> = all["connections"]
        .as_array()
        .expect("connections")
        .iter()
        .collect();
    let of_b: Vec<_> = of_b.iter().map(|one| one["connectionId"].clone()).collect();
    assert_eq!(ids, of_b);
    let filter = json!({"user": "ann", "channel": "demo:lobby"});
    let of_ann = admin(&b, "ListConnections", &filter).await;
    assert_eq!(of_ann["connections"].as_array().map(Vec::len), Some(2));
    // A server that is killed takes its connections with it. It is missed until its lease ends.
    b.kill().await;
    let left = presence(&a, "demo:lobby").await;
    assert_eq!(
        (&left["connections"], &left["users"]),
        (&json!(1), &json!(["ann"]))
    );
    eventually("the end of the lease", async || {
        let left = presence(&a, "demo:lobby").await;
        left.get("missingNodes").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_counted_and_an_action_without_it_is_refused() {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let token = Token::of("ann").sign();
    let mut ann = Client::connect_as(Transport::WebSocketJson, &b, Some(&token)).await;
    ann.subscribe("demo:lobby").await;
    assert_eq!(presence(&a, "demo:lobby").await["connections"], 1);
    b.pause();
    let without = presence(&a, "demo:lobby").await;
    assert_eq!(
        (&without["connections"], &without["missingNodes"]),
        (&json!(0), &json!(1))
    );
    let operator = Token::of("operator").scope("admin").sign();
    let body = json!({"user": "ann"});
    let refused = a
        .call("AdminService/Disconnect", Some(&operator), &body)
        .await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(
        refused.body.contains("repeat the request"),
        "{}",
        refused.body
    );
    b.resume();
    // It reads what waited for it.
    ann.closed().await;
    // Without Redis a server knows its own connections, and that others are missing.
    let mut bob = Client::connect(Transport::WebSocketJson, &a).await;
    bob.subscribe("demo:lobby").await;
    redis.pause();
    let own = presence(&a, "demo:lobby").await;
    assert_eq!(
        (&own["connections"], &own["missingNodes"]),
        (&json!(1), &json!(1))
    );
    redis.resume();
}

#[tokio::test]
async fn a_server_that_stops_is_missed_by_nobody() {
    let redis = RedisServer::start().await;
    let (a, mut b) = pair(&redis).await;
    let mut ann = Client::connect(Transport::WebSocketJson, &b).await;
    ann.subscribe("demo:lobby").await;
    b.terminate();
    assert!(b.ended().await.success());
    let left = presence(&a, "demo:lobby").await;
    assert_eq!(
        left,
        json!({"channel": "demo:lobby", "connections": 0, "users": []})
    );
}

#[tokio::test]
async fn a_user_is_subscribed_and_unsubscribed_on_all_servers() {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let token = Token::of("ann").sign();
    let mut first = Client::connect_as(Transport::WebSocketJson, &a, Some(&token)).await;
    let mut second = Client::connect_as(Transport::WebSocketJson, &b, Some(&token)).await;
    let body = json!({"user": "ann", "channel": "demo:lobby"});
    let answer = admin(&a, "SubscribeUser", &body).await;
    assert_eq!(answer["connections"], 2);
    a.publish("demo:lobby", json!(1)).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.next_on("demo:lobby").await.data, 1);
    }
    let answer = admin(&b, "UnsubscribeUser", &body).await;
    assert_eq!(answer["connections"], 2);
    let id = second.welcome().data["connectionId"].clone();
    let body = json!({"connectionId": id, "channel": "demo:other"});
    assert_eq!(admin(&a, "SubscribeUser", &body).await["connections"], 1);
    a.publish("demo:other", json!(2)).await;
    assert_eq!(second.next_on("demo:other").await.data, 2);
}

#[tokio::test]
async fn a_posted_command_reaches_the_server_of_its_stream() {
    let redis = RedisServer::start().await;
    let (a, mut b) = pair(&redis).await;
    let mut stream = Client::connect(Transport::Sse, &b).await;
    let welcome = stream.welcome().data.clone();
    let id = welcome["connectionId"].as_str().expect("an id").to_owned();
    let key = welcome["postKey"].as_str().expect("a key").to_owned();
    let post = async |query: &str, body: Value| {
        let url = a.url(&format!("/v1/sse/{id}{query}"));
        a.send(a.http().post(url).body(body.to_string())).await
    };
    let subscribe =
        json!({"type": "subscribe", "id": "1", "data": {"channels": [{"channel": "demo:a"}]}});
    let answer = post(&format!("?key={key}"), subscribe.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["type"], "subscribed", "{}", answer.body);
    a.publish("demo:a", json!(1)).await;
    assert_eq!(stream.next_on("demo:a").await.data, 1);
    let answer = post(
        &format!("?key={key}"),
        json!({"type": "nonsense", "id": "2"}),
    )
    .await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    for query in ["?key=wrong", ""] {
        let answer = post(query, subscribe.clone()).await;
        assert_eq!(answer.status, 403, "{}", answer.body);
    }
    // A server that is gone.
    b.kill().await;
    eventually("the end of the lease", async || {
        let answer = post(&format!("?key={key}"), subscribe.clone()).await;
        (answer.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_revocation_counts_on_all_servers_and_those_that_come_later() {
    let redis = RedisServer::start().await;
    let (a, mut b) = pair(&redis).await;
    let token = Token::of("ann").id("stolen").sign();
    let mut ann = Client::connect_as(Transport::WebSocketJson, &b, Some(&token)).await;
    admin(&a, "Revoke", &json!({"jti": "stolen"})).await;
    ann.closed().await;
    assert!(refuses(&b, &token).await);
    // A server without a store of its own from before.
    let c = server(&redis).start().await;
    assert!(refuses(&c, &token).await);
    // One that was away, with its own store, and a Redis that was emptied.
    let user = Token::of("eve").sign();
    admin(&c, "Revoke", &json!({"user": "eve"})).await;
    eventually("the revocation", async || {
        refuses(&b, &user).await.then_some(())
    })
    .await;
    b.kill().await;
    redis.command(&["FLUSHALL"]).await;
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let field = eventually("the revocations in Redis", async || {
        let fields = redis
            .command(&["HKEYS", "test:{control}:revocations"])
            .await;
        (fields.contains("t:stolen") && fields.contains("u:eve")).then_some(fields)
    });
    field.await;
    let d = server(&redis).start().await;
    assert!(refuses(&d, &token).await && refuses(&d, &user).await);
    assert!(!refuses(&d, &Token::of("bob").sign()).await);
}

#[tokio::test]
async fn a_revocation_without_redis_is_in_force_and_reaches_the_others_later() {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let token = Token::of("ann").id("stolen").sign();
    redis.pause();
    let operator = Token::of("operator").scope("admin").sign();
    let answer = a
        .call(
            "AdminService/Revoke",
            Some(&operator),
            &json!({"jti": "stolen"}),
        )
        .await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(
        answer.body.contains("done on this server"),
        "{}",
        answer.body
    );
    assert!(refuses(&a, &token).await);
    redis.resume();
    eventually("the revocation", async || {
        refuses(&b, &token).await.then_some(())
    })
    .await;
}
