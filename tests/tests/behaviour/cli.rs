//! Command line: help, tokens, configuration check, record and replay.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{
    Client, SECRET, Server, Transport, VenueKind, VenueStandIn, command, interrupt, venue::Trade,
    within,
};

use crate::prices::{get_price, server_of};

/// Runs the binary until it exits.
async fn run(folder: &Path, arguments: &[&str]) -> Output {
    within("a command", command(folder, arguments).output())
        .await
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Creates a folder with this configuration file.
fn folder_with(config: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("tidewire.toml"), config).unwrap();
    folder
}

#[tokio::test]
async fn help_names_the_commands() {
    let folder = TempDir::new().unwrap();
    let help = run(folder.path(), &["--help"]).await;
    assert!(help.status.success());
    for name in [
        "serve",
        "token",
        "check-config",
        "move-store",
        "record",
        "replay",
    ] {
        assert!(
            stdout(&help).contains(name),
            "{name} is not in\n{}",
            stdout(&help)
        );
    }
    let version = run(folder.path(), &["--version"]).await;
    assert!(
        stdout(&version).starts_with("tidewire "),
        "{}",
        stdout(&version)
    );
    let unknown = run(folder.path(), &["nonsense"]).await;
    assert!(!unknown.status.success());
    // None of these commands needs a data folder.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_token_command_prints_only_the_token() {
    let server = Server::start().await;
    let folder = folder_with(&format!("[auth]\nhmac_secret = {SECRET:?}\n"));
    let asked = [
        "token",
        "--config",
        "tidewire.toml",
        "--user",
        "ada",
        "--scope",
        "service",
        "--ttl",
        "5m",
    ];
    let output = run(folder.path(), &asked).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let token = stdout(&output);
    assert_eq!(token.lines().count(), 1);
    let token = token.trim();
    assert_eq!(token.split('.').count(), 3, "{token}");
    let client = Client::connect_as(Transport::WebSocketJson, &server, Some(token)).await;
    let welcome = &client.welcome().data;
    assert_eq!(welcome["userId"], "ada");
    let left = welcome["expiresAt"].as_i64().unwrap() - welcome["serverTime"].as_i64().unwrap();
    assert!((0..=300_000).contains(&left), "{left}");
    let body = json!({"user": "bob", "data": 1});
    let sent = server
        .call("StreamService/SendToUser", Some(token), &body)
        .await;
    assert_eq!(sent.status, 200, "{}", sent.body);

    let both = ["--scope", " admin  service "];
    let output = run(folder.path(), &[&asked[..5], &both].concat()).await;
    assert!(output.status.success(), "{}", stderr(&output));
    for bad in [
        &["token"][..],
        &["token", "--user", "ada", "--ttl", "soon"],
        &["token", "--user", "ada", "--ttl", "101years"],
    ] {
        let output = run(folder.path(), bad).await;
        assert!(!output.status.success());
        assert_eq!(stdout(&output), "");
    }
    // The server would ignore such a scope.
    for bad in [
        "bogus",
        "service bogus",
        "Service",
        "service,admin",
        "",
        " ",
    ] {
        let asked = ["token", "--user", "ada", "--scope", bad];
        let output = run(folder.path(), &asked).await;
        assert!(!output.status.success());
        assert_eq!(stdout(&output), "");
        let error = stderr(&output);
        assert!(error.contains("expected `service`, `admin`"), "{error}");
    }
}

#[tokio::test]
async fn server_and_token_command_share_the_folders_secret() {
    // No secret in the configuration, on loopback.
    let folder = folder_with("[store]\npath = \"data\"\n");
    let asked = ["token", "--config", "tidewire.toml", "--user", "ada"];
    let first = run(folder.path(), &asked).await;
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(folder.path().join("data").is_dir());
    let data = folder.path().join("data").display().to_string();
    let server = Server::builder()
        .without_file()
        .environment("TIDEWIRE_SERVER__LISTEN", "127.0.0.1:0")
        .environment("TIDEWIRE_STORE__PATH", &data)
        .environment("TIDEWIRE_PRICES__SYMBOLS", "[]")
        .start()
        .await;
    let token = stdout(&first);
    let client = Client::connect_as(Transport::WebSocketJson, &server, Some(token.trim())).await;
    assert_eq!(client.welcome().data["userId"], "ada");
    // The secret was written under another name first.
    let files = std::fs::read_dir(folder.path().join("data")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    names.sort();
    let store = ["store.0.log", "store.1.log", "store.lock", "store.redb"];
    assert_eq!(names, [&["hmac_secret"], &store[..]].concat());
}

#[tokio::test]
async fn a_secret_that_a_crash_left_empty_is_refused_by_name() {
    for text in ["", "cut off"] {
        let folder = folder_with("[store]\npath = \"data\"\n");
        let path = folder.path().join("data/hmac_secret");
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::fs::write(&path, text).unwrap();
        for command in [
            &["--config", "tidewire.toml"][..],
            &["token", "--config", "tidewire.toml", "--user", "ada"],
        ] {
            let output = run(folder.path(), command).await;
            assert!(!output.status.success());
            let error = stderr(&output);
            assert!(error.contains("data/hmac_secret"), "{error}");
            assert!(error.contains("or remove it"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[tokio::test]
async fn a_valid_configuration_passes_the_check() {
    let folder = folder_with(
        r#"
        [server]
        listen = "127.0.0.1:9999"
        allowed_origins = ["https://app.example.com"]
        drain = "5s"
        [auth]
        anonymous = true
        hmac_secret = "0123456789abcdef0123456789abcdef"
        [broker]
        kind = "memory"
        [store]
        kind = "embedded"
        path = "data"
        [stream]
        batch_interval_ms = 50
        [limits]
        connections_per_ip = 1000
        frame_bytes = 65536
        [[namespace]]
        name = "orders"
        class = "history"
        history_size = 100
        history_ttl = "10m"
        access = "public"
        publish = "service"
        [prices]
        symbols = ["BTC-USD", "ETH-USD"]
        stale_after_ms = 30000
        [prices.symbol.BTC-USD]
        stale_after_ms = 5000
        [[prices.source]]
        kind = "binance"
        url = "ws://127.0.0.1:9001"
        clock = "arrival"
        [[chain]]
        id = 1
        endpoints = ["ws://127.0.0.1:8545"]
        "#,
    );
    let output = run(
        folder.path(),
        &["check-config", "--config", "tidewire.toml"],
    )
    .await;
    assert!(output.status.success(), "{}", stderr(&output));
}

#[tokio::test]
async fn a_bad_configuration_names_the_key() {
    // Configuration texts, and the parts that the error must contain.
    let cases: [(&str, &[&str]); 21] = [
        (
            "[server]\nlisten_on = \"127.0.0.1:1\"",
            &["listen_on", "listen"],
        ),
        ("[sever]\n", &["sever", "server"]),
        ("[prices]\nsymbol_list = []", &["symbol_list", "symbol"]),
        ("[server]\nlisten = 5", &["server.listen"]),
        ("[server]\ndrain = \"soon\"", &["drain", "soon"]),
        ("[prices]\nsymbols = [\"btc\"]", &["btc", "BASE-QUOTE"]),
        (
            "[[namespace]]\nname = \"a\"\nclas = \"latest\"",
            &["clas", "class"],
        ),
        (
            "[[prices.source]]\nkind = \"nasdaq\"",
            &["nasdaq", "kraken"],
        ),
        ("[prices]\nwatchdog_ms = 0", &["prices.watchdog_ms"]),
        ("[prices.supply]\nBTC = -1", &["prices.supply.BTC"]),
        (
            "[prices]\nca_file = \"nowhere.pem\"",
            &["prices.ca_file", "nowhere.pem", "PEM"],
        ),
        ("[server\n", &["line 1"]),
        (
            "[prices]\nwatchdog_ms = 9223372036854775807",
            &["prices.watchdog_ms"],
        ),
        (
            "[server]\ntrusted_proxies = [\"::ffff:10.0.0.0/64\"]",
            &["server.trusted_proxies", "expected the IPv4 network"],
        ),
        (
            "[[namespace]]\nname = \"a\"\nmax_channels = 0",
            &["namespace.max_channels of \"a\" is 0, expected 1 to"],
        ),
        (
            "[server]\ncompression = \"yes\"",
            &["server.compression", "true or false"],
        ),
        (
            "[auth]\npublic_key_file = \"nowhere.pem\"",
            &["auth.public_key_file", "nowhere.pem"],
        ),
        (
            "[auth]\njwks_url = \"ftp://example.com\"",
            &["auth.jwks_url", "ftp://example.com"],
        ),
        (
            "[[namespace]]\nname = \"prices\"\nclass = \"history\"",
            &["\"prices\" is built in", "access"],
        ),
        (
            "[[namespace]]\nname = \"a:b\"\nclass = \"history\"",
            &["\"a:b\" is malformed"],
        ),
        (
            "[server]\ntls_cert = \"nowhere.pem\"\ntls_key = \"nowhere.pem\"",
            &["server.tls_cert", "nowhere.pem"],
        ),
    ];
    for (config, parts) in cases {
        let folder = folder_with(config);
        let output = run(
            folder.path(),
            &["check-config", "--config", "tidewire.toml"],
        )
        .await;
        assert!(!output.status.success(), "{config}");
        let error_text = stderr(&output);
        for part in parts {
            assert!(
                error_text.contains(part),
                "{config}: {part:?} is not in {error_text:?}"
            );
        }
        // A server refuses the same configurations as the check.
        let output = run(folder.path(), &["--config", "tidewire.toml"]).await;
        assert!(!output.status.success(), "{config}");
    }
    let folder = TempDir::new().unwrap();
    let missing = run(folder.path(), &["check-config", "--config", "nowhere.toml"]).await;
    assert!(!missing.status.success());
    assert!(stderr(&missing).contains("nowhere.toml"));
    let open = folder_with("[server]\nlisten = \"0.0.0.0:8080\"");
    let output = run(open.path(), &["check-config", "--config", "tidewire.toml"]).await;
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("hmac_secret"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn an_environment_variable_takes_a_list() {
    let folder = TempDir::new().unwrap();
    let check = async |value: &str| {
        let mut check = command(folder.path(), &["check-config"]);
        check.env("TIDEWIRE_SERVER__TRUSTED_PROXIES", value);
        within("a command", check.output()).await.unwrap()
    };
    let output = check(r#"["10.0.0.0/8", "::1"]"#).await;
    assert!(output.status.success(), "{}", stderr(&output));
    for (wrong, part) in [
        ("10.0.0.0/8", "expected a list such as [\"a\", \"b\"]"),
        (r#"["10.0.0.0/33"]"#, "server.trusted_proxies"),
        (r#"["::ffff:10.0.0.0/64"]"#, "server.trusted_proxies"),
    ] {
        let output = check(wrong).await;
        assert!(!output.status.success(), "{wrong}");
        let error = stderr(&output);
        assert!(error.contains(part), "{wrong}: {error}");
        assert!(error.to_lowercase().contains("trusted_proxies"), "{error}");
    }
}

#[tokio::test]
async fn a_short_secret_is_refused() {
    let folder = folder_with(SHORT_SECRET);
    let output = run(folder.path(), &["--config", "tidewire.toml"]).await;
    assert!(!output.status.success());
    assert!(stderr(&output).contains("32"), "{}", stderr(&output));
}

#[tokio::test]
async fn the_check_reports_a_short_secret() {
    let folder = folder_with(SHORT_SECRET);
    let output = run(
        folder.path(),
        &["check-config", "--config", "tidewire.toml"],
    )
    .await;
    assert!(!output.status.success());
    assert!(stderr(&output).contains("32"), "{}", stderr(&output));
}

const SHORT_SECRET: &str = "[auth]\nhmac_secret = \"short\"\n[prices]\nsymbols = []\n";

#[tokio::test]
async fn the_default_command_serves_and_logs_unreachable_venues() {
    let venues =
        r#"[{kind="binance",url="ws://127.0.0.1:1"},{kind="kraken",url="ws://127.0.0.1:1"}]"#;
    let server = Server::builder()
        .without_file()
        .environment("TIDEWIRE_SERVER__LISTEN", "127.0.0.1:0")
        .environment("TIDEWIRE_PRICES__SOURCE", venues)
        .start()
        .await;
    for name in ["binance", "kraken"] {
        let line = server.log_line(&format!("cannot reach {name}")).await;
        assert!(line.contains("ws://127.0.0.1:1"), "{line}");
    }
    assert_eq!(server.get("/").await.status, 200);
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    assert_eq!(
        client.subscribe("prices:BTC-USDT").await["error"],
        Value::Null
    );
    client.settle().await;
}

#[tokio::test]
async fn a_port_in_use_is_reported() {
    let server = Server::start().await;
    let address = server.address().to_string();
    let folder = folder_with(&format!(
        "[server]\nlisten = {address:?}\n[prices]\nsymbols = []\n"
    ));
    let output = run(folder.path(), &["--config", "tidewire.toml"]).await;
    assert!(!output.status.success());
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}

#[tokio::test]
async fn the_sample_is_replayed_and_labelled() {
    let server = Server::builder()
        .arguments(&["replay", "--speed", "max"])
        .set("prices", "symbols = [\"BTC-USD\"]")
        .start()
        .await;
    server.log_line("the replay has ended").await;
    assert!(server.log().contains("sample"), "{}", server.log());
    let price = get_price(&server, "BTC-USD").await;
    assert!(price["price"].is_number(), "{price}");
    assert_eq!(price["sample"], true);
}

#[tokio::test]
async fn a_replayed_recording_has_the_same_counts() {
    let venues = [
        VenueStandIn::start(VenueKind::Coinbase).await,
        VenueStandIn::start(VenueKind::Kraken).await,
    ];
    let folder = folder_with(&server_of(&venues, &["BTC-USD"]).toml());
    let mut child = command(
        folder.path(),
        &["record", "all.rec.gz", "--config", "tidewire.toml"],
    )
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    for venue in &venues {
        venue.wait_subscribed(1).await;
        for id in 1..=500 {
            let price = format!("{}", 100 + id % 7);
            venue.trade(&Trade {
                symbol: "BTC-USD",
                id,
                price: &price,
            });
        }
        venue.send("{");
        venue.wait_read().await;
    }
    interrupt(&child);
    let status = within("the recording's end", child.wait()).await.unwrap();
    assert!(status.success());

    let file = folder.path().join("all.rec.gz").display().to_string();
    let server = Server::builder()
        .arguments(&["replay", &file, "--speed", "max"])
        .set("prices", "symbols = [\"BTC-USD\"]")
        .start()
        .await;
    server.log_line("the replay has ended").await;
    let price = get_price(&server, "BTC-USD").await;
    let details = price["sourceDetails"].as_array().unwrap();
    assert_eq!(details.len(), 2);
    for detail in details {
        assert_eq!(
            (&detail["trades"], &detail["price"]),
            (&json!(500), &json!(103))
        );
        assert_eq!((&detail["min"], &detail["max"]), (&json!(100), &json!(106)));
    }
    assert_eq!(
        server
            .metric("tidewire_venue_bad_frames_total", "malformed")
            .await,
        2.0
    );
    let nothing = run(folder.path(), &["replay", "nowhere.rec.gz"]).await;
    assert!(!nothing.status.success());
    assert!(stderr(&nothing).contains("nowhere.rec.gz"));
}
