//! Configuration of servers that share their channels: what is refused, and what a secret is.

use tempfile::TempDir;
use tidewire_tests::{RedisServer, Server, Transport, command, eventually, refused_start, within};

use crate::servers::server;

const PASSWORD: &str = "a-password-of-redis";

/// The configuration of a server with these keys of `[broker]`.
fn toml(keys: &[&str]) -> String {
    let mut builder = Server::builder();
    for key in keys {
        builder = builder.set("broker", key);
    }
    builder.toml()
}

/// The text of `check-config`, which refuses.
async fn checked(keys: &[&str]) -> String {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("tidewire.toml"), toml(keys)).expect("a file");
    let arguments = ["check-config", "--config", "tidewire.toml"];
    let mut check = command(folder.path(), &arguments);
    let output = within("the check", check.output()).await.expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{keys:?}: {text}");
    text
}

#[tokio::test]
async fn wrong_keys_are_named_with_what_is_expected() {
    let redis = "kind = \"redis\"";
    let url = "url = \"redis://localhost\"";
    for (keys, parts) in [
        (
            vec![redis],
            ["broker.url is missing", "redis://localhost:6379"],
        ),
        (vec![url], ["broker.url is set", "broker.kind = \"redis\""]),
        (
            vec![redis, "url = \"localhost\""],
            ["broker.url has no scheme", "redis://HOST"],
        ),
        (
            vec![redis, "url = \"redis+sentinel://localhost\""],
            ["broker.url has the scheme", "broker.sentinels"],
        ),
        (
            vec![redis, "url = \"redis+cluster://localhost\""],
            ["broker.url has the scheme", "broker.cluster"],
        ),
        (
            vec![redis, "cluster = [\"one\"]", "sentinels = [\"two\"]"],
            ["broker.cluster and broker.sentinels", "one of them"],
        ),
        (
            vec![redis, "cluster = [\"one\"]", "url = \"redis://cluster/3\""],
            ["broker.url names the database 3", "expected none"],
        ),
        (
            vec![redis, "cluster = [\":a-password-of-redis@one\"]"],
            ["broker.cluster has an address", "HOST:PORT"],
        ),
        (
            vec!["cluster = [\"one\"]"],
            ["broker.cluster is set", "broker.kind = \"redis\""],
        ),
        (
            vec![
                redis,
                url,
                "sentinels = [\"redis://:a-password-of-redis@one:x\"]",
            ],
            ["broker.sentinels has an address", "HOST:PORT"],
        ),
        (
            vec!["sentinels = [\"one\"]"],
            ["broker.sentinels is set", "broker.kind = \"redis\""],
        ),
        (
            vec![redis, "url = \"redis://:a-password-of-redis@host:port\""],
            ["broker.url has no host, or a wrong port", "expected"],
        ),
        (
            vec![redis, "url = \"redis://ann:a-password-of-redis\""],
            ["broker.url has no host, or a wrong port", "expected"],
        ),
        (
            vec![redis, url, "prefix = \"{a}\""],
            ["broker.prefix is \"{a}\"", "1 to 64 letters"],
        ),
        (
            vec![redis, url, "timeout = \"1ms\""],
            ["broker.timeout is 1ms", "100ms to 1m"],
        ),
        (
            vec![redis, url, "buffer_bytes = 1"],
            ["broker.buffer_bytes is 1", "4096"],
        ),
        (
            vec![redis, url, "ca_file = \"missing.pem\""],
            ["without TLS", "rediss://"],
        ),
        (
            vec![
                redis,
                "url = \"rediss://localhost\"",
                "ca_file = \"missing.pem\"",
            ],
            ["broker.ca_file missing.pem", "certificates in PEM"],
        ),
        (
            vec![
                redis,
                "url = \"rediss://localhost\"",
                "tls_cert = \"a.pem\"",
            ],
            ["broker.tls_key is missing", "expected"],
        ),
    ] {
        let text = checked(&keys).await;
        for part in parts {
            assert!(text.contains(part), "{keys:?}: {part:?} is not in {text}");
        }
        assert!(text.contains("(tidewire.toml line "), "{text}");
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

#[tokio::test]
async fn a_redis_that_is_not_fit_is_refused_with_what_to_set() {
    let redis = RedisServer::start_with(&["--requirepass", PASSWORD]).await;
    let folder = TempDir::new().expect("a folder");
    let host = redis.url().replace("redis://", "");
    for (sign_in, part) in [
        (String::new(), "it wants a password: set it in `broker.url`"),
        (
            ":wrong-password@".to_owned(),
            "it refuses the user or the password",
        ),
        (
            format!("nobody:{PASSWORD}@"),
            "it refuses the user or the password",
        ),
    ] {
        let url = format!("url = \"redis://{sign_in}{host}\"");
        let error = refused_start(folder.path(), &toml(&["kind = \"redis\"", &url])).await;
        assert!(error.contains(part), "{error}");
        // It may be one of several.
        assert!(error.contains(&format!("from {host}")), "{error}");
        assert!(
            !error.contains(PASSWORD) && !error.contains("wrong-password"),
            "{error}"
        );
    }
    let evicting = RedisServer::start_with(&["--maxmemory-policy", "volatile-ttl"]).await;
    let url = format!("url = {:?}", evicting.url());
    let error = refused_start(folder.path(), &toml(&["kind = \"redis\"", &url])).await;
    assert!(
        error.contains("set `maxmemory-policy noeviction`"),
        "{error}"
    );
    let url = format!("url = \"{}/99\"", evicting.url());
    let error = refused_start(folder.path(), &toml(&["kind = \"redis\"", &url])).await;
    assert!(error.contains("DB index is out of range"), "{error}");
}

#[tokio::test]
async fn the_environment_sets_the_broker_and_its_password_is_a_secret() {
    let redis = RedisServer::start_with(&["--requirepass", PASSWORD]).await;
    let url = redis
        .url()
        .replace("redis://", &format!("redis://:{PASSWORD}@"));
    let a = Server::builder()
        .environment("TIDEWIRE_BROKER__KIND", "redis")
        .environment("TIDEWIRE_BROKER__URL", &url)
        .environment("TIDEWIRE_BROKER__PREFIX", "test")
        .environment("TIDEWIRE_LOG", "trace")
        .start()
        .await;
    let line = a.log_line("channels are shared over Redis").await;
    assert!(line.contains(&redis.url()), "{line}");
    let b = server(&redis)
        .set("broker", &format!("url = {url:?}"))
        .start()
        .await;
    let mut client = tidewire_tests::Client::connect(Transport::WebSocketJson, &b).await;
    client.subscribe("demo:a").await;
    a.publish("demo:a", serde_json::json!(1)).await;
    client.take("demo:a", 1).await;
    let parts = eventually("the parts", async || {
        let listed = a.get("/readyz?verbose").await.body;
        listed.contains("broker").then_some(listed)
    })
    .await;
    let metrics = a.get("/metrics").await.body;
    for text in [a.log(), parts, metrics] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}
