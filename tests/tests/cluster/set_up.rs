//! Servers of Redis that are not fit: a start-up error says what to set.

use tidewire_stream::broker::{memory::MemoryLimits, redis::RedisAddress};
use tidewire_tests::RedisServer;

use crate::node::{Node, channel, options};

/// The error of a start with this part of the URL before the host.
async fn refused(redis: &RedisServer, sign_in: &str) -> String {
    let mut options = options(redis);
    let url = redis
        .url()
        .replace("redis://", &format!("redis://{sign_in}"));
    options.address = RedisAddress::parse(&url).unwrap();
    match Node::with(options, MemoryLimits::default()).await {
        Ok(_) => panic!("{sign_in:?} is accepted"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_password_is_named() {
    let redis = RedisServer::start_with(&["--requirepass", "secret"]).await;
    let error = refused(&redis, "").await;
    assert!(
        error.contains("wants a password") && error.contains("broker.url"),
        "{error}"
    );
    let error = refused(&redis, ":wrong@").await;
    assert!(
        error.contains("refuses the user or the password"),
        "{error}"
    );
    assert!(!error.contains(":wrong"), "{error}");
    let mut fit = options(&redis);
    let url = redis.url().replace("redis://", "redis://:secret@");
    fit.address = RedisAddress::parse(&url).unwrap();
    let node = Node::with(fit, MemoryLimits::default()).await.unwrap();
    let name = channel("orders:1");
    node.subscribe(&name).await;
    node.publish(&name, "1").await;
    node.delivered(&name, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_not_needed_is_named() {
    let redis = RedisServer::start().await;
    let error = refused(&redis, ":secret@").await;
    assert!(error.contains("it has no password"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_channels_or_keys_is_named() {
    let redis = RedisServer::start().await;
    let rights = "+@read +@write +@scripting +@pubsub +@connection +time";
    for (name, rules, is_fit) in [
        ("nothing", "", false),
        ("deaf", "~test:*", false),
        ("keyless", "&test:*", false),
        // Without the right to read the configuration.
        ("fit", "~test:* &test:*", true),
    ] {
        let text = format!("ACL SETUSER {name} on >secret {rules} {rights}");
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(redis.command(&words).await, "+OK\r\n");
        let sign_in = format!("{name}:secret@");
        if !is_fit {
            let error = refused(&redis, &sign_in).await;
            assert!(error.contains("its ACL refuses the user"), "{error}");
            continue;
        }
        let mut fit = options(&redis);
        let url = redis
            .url()
            .replace("redis://", &format!("redis://{sign_in}"));
        fit.address = RedisAddress::parse(&url).unwrap();
        let node = Node::with(fit, MemoryLimits::default()).await.unwrap();
        let orders = channel("orders:1");
        node.subscribe(&orders).await;
        node.publish(&orders, "1").await;
        node.delivered(&orders, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_evicts_is_refused() {
    let redis = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let error = refused(&redis, "").await;
    assert!(
        error.contains("set `maxmemory-policy noeviction`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_named() {
    let master = RedisServer::start().await;
    let replica = RedisServer::start().await;
    let port = master.port().to_string();
    replica.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    let node = Node::start(&replica).await;
    let fault = node.broker_fault();
    assert!(fault.contains("must name the master"), "{fault}");
}
