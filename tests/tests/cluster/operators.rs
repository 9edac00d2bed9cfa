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
    assert_eq!(answer["connections"], 0, "none was on this server");
    ann.closed().await;
    bob.settle().await;
    // One connection, of another server.
    let id = bob.welcome().data["connectionId"].clone();
    admin(&a, "Disconnect", &json!({"connectionId": id})).await;
    bob.closed().await;
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
