//! Servers of Redis that are not fit: a start-up error says what to set.

use std::time::Duration;

use tempfile::TempDir;
use tidewire_stream::broker::{
    Broker as _,
    memory::MemoryLimits,
    redis::{CertificateFiles, RedisAddress, RedisTls},
};
use tidewire_tests::{Port, RedisServer, eventually, tls::Authority};

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
async fn a_server_that_evicts_later_is_named() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let node = Node::start(&redis).await;
    redis
        .restart_with(&["--maxmemory-policy", "allkeys-lru"])
        .await;
    let link = eventually("the fault", async || {
        let link = node.broker.link()?;
        let fault = link.fault.as_ref()?;
        fault
            .contains("set `maxmemory-policy noeviction`")
            .then_some(link)
    })
    .await;
    assert!(link.is_available, "{link:?}");
    let name = channel("orders:1");
    node.subscribe(&name).await;
    node.publish(&name, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_named_until_it_is_promoted() {
    let master = RedisServer::start().await;
    let replica = RedisServer::start().await;
    let port = master.port().to_string();
    replica.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    let mut short = options(&replica);
    short.timeout = Duration::from_millis(500);
    let node = Node::with(short, MemoryLimits::default()).await.unwrap();
    let named = |fault: &String| fault.contains("must name the master");
    assert!(node.fault().is_some_and(|fault| named(&fault)));
    let name = channel("orders:1");
    let refused = node.try_publish(&name, "1", None).await.unwrap_err();
    assert!(named(&refused.message().to_owned()), "{refused}");
    // Also once all connections are open.
    eventually("the fault", async || node.fault().filter(named)).await;
    replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("no fault", async || node.fault().is_none().then_some(())).await;
    node.publish(&name, "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted_for_a_trusted_server_alone() {
    let authority = Authority::new();
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    let ca = authority.write(folder.path());
    let own = authority.sign(&["localhost"]);
    own.write(&file("cert.pem"), &file("key.pem"));
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let paths = [&ca, &file("cert.pem"), &file("key.pem")].map(|path| text(path));
    let redis = RedisServer::start_with(&[
        "--tls-ca-cert-file",
        &paths[0],
        "--tls-cert-file",
        &paths[1],
        "--tls-key-file",
        &paths[2],
    ])
    .await;
    let port = Port::free();
    let set = ["CONFIG", "SET", "tls-port", &port.number().to_string()];
    assert_eq!(redis.command(&set).await, "+OK\r\n");
    let trusting = CertificateFiles {
        authorities: Some(ca.clone()),
        identity: None,
    };
    let known = CertificateFiles {
        identity: Some((file("cert.pem"), file("key.pem"))),
        ..trusting.clone()
    };
    let node = async |url: String, files: &CertificateFiles| {
        let mut options = options(&redis);
        options.address = RedisAddress::parse(&url).unwrap();
        options.tls = RedisTls::new(files).unwrap();
        // A server without TLS says nothing.
        options.timeout = Duration::from_secs(1);
        Node::with(options, MemoryLimits::default()).await
    };
    let secure = format!("rediss://localhost:{}", port.number());
    // A server that ends the connection may be one that comes later.
    let fault = async |url: &str, files: &CertificateFiles| match node(url.to_owned(), files).await
    {
        Ok(node) => node.fault().unwrap(),
        Err(error) => error.to_string(),
    };
    let text = fault(&secure, &CertificateFiles::default()).await;
    assert!(text.contains("broker.ca_file"), "{text}");
    let text = fault(&secure, &trusting).await;
    assert!(text.contains("broker.tls_cert"), "{text}");
    let plain = format!("rediss://localhost:{}", redis.port());
    let text = fault(&plain, &known).await;
    assert!(text.contains("without TLS"), "{text}");
    let node = node(secure, &known).await.unwrap();
    let name = channel("orders:1");
    node.subscribe(&name).await;
    let document = format!("{:?}", "x".repeat(50_000));
    for _ in 0..20 {
        node.publish(&name, &document).await;
    }
    assert_eq!(node.delivered(&name, 20).await.len(), 20);
}
