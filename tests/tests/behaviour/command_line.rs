//! Command line: the address, and what a user is told of a mistake before anything starts.

use std::{fs, path::Path, process::Stdio};

use tempfile::TempDir;
use tidewire_tests::{Server, command, interrupt, tls::Authority, within};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// A folder with this configuration file.
fn folder_with(config: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("tidewire.toml"), config).unwrap();
    folder
}

/// Runs the binary with these variables until it exits. Returns whether it succeeded, and its
/// output with its errors.
async fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = command(folder, arguments);
    command.envs(variables.iter().copied());
    let output = within("a command", command.output()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// The output of `check-config` about a file.
async fn check(config: &str) -> (bool, String) {
    let folder = folder_with(config);
    let arguments = ["check-config", "--config", "tidewire.toml"];
    run(folder.path(), &arguments, &[]).await
}

/// The first log line of a server with `text`, and the log up to then.
async fn log_until(
    folder: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
    text: &str,
) -> Vec<String> {
    let mut command = command(folder, arguments);
    let mut child = command
        .envs(variables.iter().copied())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut log = Vec::new();
    within(text.to_owned(), async {
        while let Some(line) = lines.next_line().await.unwrap() {
            log.push(line);
            if log.last().unwrap().contains(text) {
                return;
            }
        }
        panic!("no {text:?} in {log:#?}");
    })
    .await;
    interrupt(&child);
    within("the server's end", child.wait()).await.unwrap();
    log
}

const LISTENS: &str = "listens on http://127.0.0.1:";

#[tokio::test]
async fn options_choose_the_address() {
    let plain = "[prices]\nsymbols = []\n";
    let elsewhere = "[server]\nlisten = \"127.0.0.1:1\"\n[prices]\nsymbols = []\n";
    for (config, options) in [
        (plain, &["--port", "0"][..]),
        (elsewhere, &["--port", "0"]),
        (elsewhere, &["--listen", "localhost:0"]),
        (elsewhere, &["serve", "--listen", "127.0.0.1:0"]),
        (
            "[server]\nlisten = \"localhost:0\"\n[prices]\nsymbols = []\n",
            &[],
        ),
    ] {
        let folder = folder_with(config);
        let arguments = [options, &["--config", "tidewire.toml"]].concat();
        let log = log_until(folder.path(), &arguments, &[], LISTENS).await;
        assert!(!log.last().unwrap().ends_with(":1"), "{log:?}");
    }
    let folder = folder_with(plain);
    for (options, part) in [
        (
            &["--listen", "example.com:80"][..],
            "`server.listen` is the text \"example.com:80\" (command line), expected an IP address",
        ),
        (
            &["--listen", "127.0.0.1:0", "--port", "1"],
            "cannot be used with",
        ),
        (&["--port", "70000"], "70000"),
    ] {
        let (is_good, text) = run(folder.path(), options, &[]).await;
        assert!(!is_good && text.contains(part), "{options:?}: {text}");
    }
}

#[tokio::test]
async fn a_port_in_use_says_how_to_choose_another() {
    let server = Server::start().await;
    let address = server.address().to_string();
    let folder = folder_with("[prices]\nsymbols = []\n");
    let arguments = ["--listen", &address, "--config", "tidewire.toml"];
    let (is_good, text) = run(folder.path(), &arguments, &[]).await;
    assert!(!is_good, "{text}");
    for part in [
        &address,
        "another program uses the port",
        "--port",
        "server.listen",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// A file of the usual name is in the folder, and `--config` is missing: every command says that it
/// is not read, and works.
#[tokio::test]
async fn a_file_that_is_not_read_is_named() {
    let hint = "tidewire.toml in this folder is not read: expected `--config tidewire.toml`";
    let folder = folder_with("[prices]\nsymbols = []\n[delivery.push]\n");
    for arguments in [
        &["--port", "0"][..],
        &["serve", "--port", "0"],
        &["replay", "--port", "0"],
    ] {
        let log = log_until(folder.path(), arguments, &[], LISTENS).await;
        let warned = log.iter().filter(|line| line.contains(hint));
        assert!(warned.clone().all(|line| line.contains("WARN")), "{log:#?}");
        assert_eq!(warned.count(), 1, "{log:#?}");
    }
    for arguments in [&["check-config"][..], &["token", "--user", "ada"]] {
        let (is_good, text) = run(folder.path(), arguments, &[]).await;
        assert!(is_good && text.contains(hint), "{arguments:?}: {text}");
    }
    // With the option it is read, and without a file there is nothing to say.
    let arguments = ["check-config", "--config", "tidewire.toml"];
    let (is_good, text) = run(folder.path(), &arguments, &[]).await;
    assert!(!is_good && !text.contains(hint), "{text}");
    let empty = TempDir::new().unwrap();
    let (is_good, text) = run(empty.path(), &["check-config"], &[]).await;
    assert!(is_good && !text.contains("not read"), "{text}");
}

#[tokio::test]
async fn all_faults_are_named_at_once_with_their_lines() {
    let (is_good, text) = check(
        r#"
[server]
listen = 5
drain = "2h"
colour = "blue"

[limits]
frame_bytes = 1

[prices]
symbols = ["BTC-USD"]
watchdog = "0s"

[prices.supply]
BTC = -1

[[chain]]
id = 1
endpoints = ["ws://127.0.0.1:1"]
agreement = 3

[[namespace]]
class = "history"
"#,
    )
    .await;
    assert!(!is_good);
    for part in [
        "`server.listen` is the number 5 (tidewire.toml line 3), expected an IP address",
        "unknown key `server.colour` (tidewire.toml line 5)",
        "server.drain is 2h, expected 0s to 1h (tidewire.toml line 4)",
        "limits.frame_bytes is 1, expected 1024 to 268435456 (tidewire.toml line 8)",
        "prices.watchdog is 0s",
        "(tidewire.toml line 12)",
        "prices.supply.BTC",
        "chain 1: `agreement` is 3, expected 1 to 1 (tidewire.toml line 20)",
        "`name` of the first `[[namespace]]` is missing (tidewire.toml line 22)",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    // A line for each, and nothing that follows from one of them.
    assert_eq!(text.lines().count(), 8, "{text}");
    let variables = [
        ("TIDEWIRE_SERVER__DRAIN", "soon"),
        ("TIDEWIRE_LIMITS__X", "1"),
    ];
    let folder = TempDir::new().unwrap();
    let (is_good, text) = run(folder.path(), &["check-config"], &variables).await;
    assert!(!is_good);
    assert!(
        text.contains("`server.drain` is") && text.contains("unknown key `limits.x`"),
        "{text}"
    );
}

#[tokio::test]
async fn an_origin_that_no_page_has_is_refused() {
    let (is_good, text) = check("[server]\nallowed_origins = [\"https://a.b\", \"e.f\"]\n").await;
    assert!(!is_good);
    let fault = "server.allowed_origins has \"e.f\", which no page's origin equals, expected";
    assert!(text.contains(fault) && text.contains("line 2"), "{text}");
    let wildcard = "[server]\nallowed_origins = [\"https://*.example.com\"]\n";
    let (is_good, text) = check(wildcard).await;
    let fault =
        "server.allowed_origins has \"https://*.example.com\", which no page's origin equals";
    assert!(!is_good && text.contains(fault), "{text}");
    let (is_good, text) = check("[server]\nallowed_origins = [\"https://a.b/\", \"*\"]\n").await;
    assert!(is_good, "{text}");
}

/// One file with a fault of each kind: none hides another, and each has its line.
#[tokio::test]
async fn faults_of_all_sections_are_named_at_once() {
    let (is_good, text) = check(FAULTY).await;
    assert!(!is_good);
    for part in [
        "auth.hmac_secret is missing",
        "(server.listen is 0.0.0.0:8080) (tidewire.toml line 3)",
        "unknown key `server.kepalive` (tidewire.toml line 4)",
        "`server.drain` is the text \"soon\" (tidewire.toml line 5)",
        "broker.url is missing, expected the address of Redis, such as redis://localhost:6379 (tidewire.toml line 6)",
        "\"BTCUSD\" is not a symbol",
        "`BASE-QUOTE` in upper-case letters and digits, for example BTC-USD (tidewire.toml line 9)",
        "prices.symbol.\"DOGE-EUR\": this symbol is not in `prices.symbols`",
        "prices.symbol.\"DOGE-EUR\".window is 2h, expected at most 1h (tidewire.toml line 11)",
        "`prices.symbol.BTC-USD.window` is the number 5 (tidewire.toml line 13)",
        "`kind` of the first `[[prices.source]]` is the text \"nasdaq\" (tidewire.toml line 15)",
        "the url \"stream.example.com\" is not an address of such a venue, expected ws://… or wss://… (tidewire.toml line 18)",
        "two sources are named \"kraken\", expected different names: set `name` (tidewire.toml line 21)",
        "namespace \"prices\" is built in: only its `access` can be set (tidewire.toml line 25)",
        "namespace \"Orders\" is malformed",
        "(tidewire.toml line 28)",
        "`id` of the first `[[chain]]` is the text \"one\" (tidewire.toml line 30)",
        "the first `[[chain]]`: `endpoints` is empty, expected one at least (tidewire.toml line 29)",
        "chain 5: `agreement` is 3, expected 1 to 1 (tidewire.toml line 34)",
        "delivery.timeout is 2h, expected 1s to 30s (tidewire.toml line 36)",
        "delivery.push.vapid_private_key is no private key of P-256",
        "(tidewire.toml line 38)",
        "delivery.webhook \"shop\" secrets is empty",
        "(tidewire.toml line 43)",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    // No consequence of a wrong value, and a line for each fault.
    assert!(!text.contains(" is missing (tidewire.toml"), "{text}");
    assert_eq!(text.lines().count(), 19, "{text}");
    assert!(
        text.lines().all(|line| line.starts_with("tidewire: ")),
        "{text}"
    );
}

const FAULTY: &str = r#"
[server]
listen = "0.0.0.0:8080"
kepalive = "25s"
drain = "soon"
[broker]
kind = "redis"
[prices]
symbols = ["BTCUSD", "BTC-USD"]
[prices.symbol."DOGE-EUR"]
window = "2h"
[prices.symbol."BTC-USD"]
window = 5
[[prices.source]]
kind = "nasdaq"
[[prices.source]]
kind = "okx"
url = "stream.example.com"
[[prices.source]]
kind = "kraken"
[[prices.source]]
# A second one.
kind = "kraken"
[[namespace]]
name = "prices"
class = "latest"
[[namespace]]
name = "Orders"
[[chain]]
id = "one"
[[chain]]
id = 5
endpoints = ["ws://127.0.0.1:1"]
agreement = 3
[delivery]
timeout = "2h"
[delivery.push]
vapid_private_key = "x"
subject = "mailto:a@b.example"
[[delivery.webhook]]
name = "shop"
url = "https://example.com"
secrets = []
"#;

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("folder.toml")).unwrap();
    fs::write(folder.path().join("latin.toml"), b"# one\n# \xfcber\n").unwrap();
    fs::write(folder.path().join("broken.toml"), "[server\n").unwrap();
    for (file, part) in [
        (
            "folder.toml",
            "folder.toml is a folder, expected a configuration file",
        ),
        ("latin.toml", "latin.toml line 2 is not UTF-8"),
        ("broken.toml", "broken.toml: TOML parse error at line 1"),
        ("none.toml", "there is no configuration file none.toml"),
    ] {
        for arguments in [&["check-config", "--config", file][..], &["--config", file]] {
            let (is_good, text) = run(folder.path(), arguments, &[]).await;
            assert!(!is_good && text.contains(part), "{part}: {text}");
        }
    }
    let (is_good, text) = run(folder.path(), &["check-config", "my.toml"], &[]).await;
    assert!(!is_good, "{text}");
    assert!(
        text.contains("expected `tidewire check-config --config my.toml`"),
        "{text}"
    );
}

#[tokio::test]
async fn arguments_that_mean_nothing_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    for (arguments, part) in [
        (
            &["--port", "abc"][..],
            "expected a whole number from 0 to 65535",
        ),
        (
            &["--port", "70000"],
            "expected a whole number from 0 to 65535",
        ),
        (&["token", "--user", ""], "expected the id of a user"),
        (
            &["token", "--user", "ada", "--port", "1"],
            "unexpected argument '--port'",
        ),
        (
            &["record", "a.gz", "--listen", "localhost:1"],
            "unexpected argument '--listen'",
        ),
        (
            &["replay", "none.gz", "--port", "0"],
            "there is no recording none.gz",
        ),
        (
            &["record", "none/a.gz"],
            "none/a.gz cannot be written: there is no folder none",
        ),
    ] {
        let (is_good, text) = run(folder.path(), arguments, &[]).await;
        assert!(!is_good && text.contains(part), "{arguments:?}: {text}");
        assert!(!text.contains("recording; interrupt"), "{text}");
    }
    for command in ["token", "record"] {
        let (_, text) = run(folder.path(), &[command, "--help"], &[]).await;
        assert!(
            !text.contains("--port") && !text.contains("--listen"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_check_finds_certificates_that_a_server_refuses() {
    let folder = TempDir::new().unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let authority = Authority::new();
    authority.sign(&["localhost"]).write(&certificate, &key);
    let other = folder.path().join("other.pem");
    let other_key = folder.path().join("other-key.pem");
    authority.sign(&["localhost"]).write(&other, &other_key);
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let missing = folder.path().join("missing.pem");
    let file = folder.path().join("tidewire.toml");
    let arguments = ["check-config", "--config", "tidewire.toml"];
    let cases = [
        (&certificate, &key, None),
        (&key, &certificate, Some("in each other's place")),
        (&missing, &key, Some("missing.pem")),
        (&certificate, &missing, Some("missing.pem")),
        (&empty, &key, Some("server.tls_cert")),
        (&certificate, &empty, Some("server.tls_key")),
        (&certificate, &other_key, Some("server.tls_key")),
    ];
    for (certificate, key, fault) in cases {
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ntls_cert = {certificate:?}\ntls_key = {key:?}\n[prices]\nsymbols = []\n[limits]\nframe_bytes = 1\n"
        );
        fs::write(&file, &config).unwrap();
        let (is_good, text) = run(folder.path(), &arguments, &[]).await;
        assert!(!is_good && text.contains("limits.frame_bytes"), "{text}");
        assert_eq!(text.contains("tls_"), fault.is_some(), "{text}");
        assert!(
            text.contains(fault.unwrap_or_default()),
            "{fault:?}: {text}"
        );
        assert_eq!(
            text.lines().count(),
            1 + usize::from(fault.is_some()),
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_check_finds_other_files_that_a_server_refuses() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "text").unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for (config, part) in [
        (format!("[store]\npath = {:?}", at("file")), "store.path"),
        (
            format!(
                "[auth]\njwks_url = \"https://a.example/keys\"\njwks_ca = {:?}",
                at("none")
            ),
            "auth.jwks",
        ),
        (
            format!("[delivery]\nca_file = {:?}", at("none")),
            "delivery.ca_file",
        ),
        (
            format!(
                "[[chain]]\nid = 1\nendpoints = [{{ url = \"wss://a.example\", ca_file = {:?} }}]",
                at("none")
            ),
            "none",
        ),
    ] {
        let (is_good, text) = check(&config).await;
        assert!(!is_good && text.contains(part), "{config}: {text}");
        let own = folder_with(&config);
        let arguments = ["--port", "0", "--config", "tidewire.toml"];
        let (is_good, text) = run(own.path(), &arguments, &[]).await;
        assert!(!is_good && text.contains(part), "{config}: {text}");
    }
}

#[tokio::test]
async fn variables_and_levels_that_mean_nothing_are_named() {
    let folder = TempDir::new().unwrap();
    let variables = [
        ("TIDEWIRE_LISTEN", "127.0.0.1:1"),
        ("TIDEWIRE_SERVER_LISTEN", "127.0.0.1:1"),
        ("TIDEWIRE_PORT", "tcp://10.0.0.1:80"),
        ("TIDEWIRE_LOG", "warn"),
    ];
    let (is_good, text) = run(folder.path(), &["check-config"], &variables).await;
    assert!(!is_good, "{text}");
    for part in [
        "TIDEWIRE_LISTEN sets nothing: did you mean TIDEWIRE_SERVER__LISTEN?",
        "TIDEWIRE_SERVER_LISTEN sets nothing: did you mean TIDEWIRE_SERVER__LISTEN?",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains("TIDEWIRE_PORT") && !text.contains("TIDEWIRE_LOG"),
        "{text}"
    );
    // A server starts all the same: the variable may be somebody else's.
    let arguments = ["--port", "0"];
    let said = "TIDEWIRE_LISTEN sets nothing";
    let log = log_until(folder.path(), &arguments, &variables[..1], "listens on").await;
    assert!(log.iter().any(|line| line.contains(said)), "{log:?}");
    // Beside a fault of another variable, too.
    let variables = [("TIDEWIRE_SERVER_PORT", "1"), ("TIDEWIRE_LIMITS__X", "1")];
    let (is_good, text) = run(folder.path(), &["check-config"], &variables).await;
    assert!(!is_good, "{text}");
    for part in [
        "TIDEWIRE_SERVER_PORT sets nothing",
        "unknown key `limits.x`",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for arguments in [&["check-config"][..], &["--port", "0"]] {
        let level = [("TIDEWIRE_LOG", "info,tidewire_chain=inof")];
        let (is_good, text) = run(folder.path(), arguments, &level).await;
        assert!(!is_good, "{text}");
        assert!(
            text.contains("\"tidewire_chain=inof\" is no level, expected one of off"),
            "{text}"
        );
    }
    let arguments = ["token", "--user", "ada", "--scope", "service root"];
    let (is_good, text) = run(folder.path(), &arguments, &[]).await;
    assert!(!is_good && text.contains("\"root\" is no scope"), "{text}");
}

#[tokio::test]
async fn a_recording_does_not_overwrite_a_file() {
    let folder = folder_with("[prices]\nsymbols = []\n");
    let file = folder.path().join("old.rec.gz");
    fs::write(&file, "precious").unwrap();
    let plain = ["record", "old.rec.gz", "--config", "tidewire.toml"];
    let (is_good, text) = run(folder.path(), &plain, &[]).await;
    assert!(
        !is_good && text.contains("old.rec.gz exists already"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    // Without sources it ends at once.
    let forced = [&plain[..], &["--force"]].concat();
    let (_, text) = run(folder.path(), &forced, &[]).await;
    assert_ne!(fs::read(&file).unwrap(), b"precious", "{text}");
    assert!(text.contains("the recording is empty"), "{text}");
    let replay = [
        "replay",
        "old.rec.gz",
        "--port",
        "0",
        "--config",
        "tidewire.toml",
    ];
    let log = log_until(
        folder.path(),
        &replay,
        &[],
        "has no frame that can be played",
    )
    .await;
    assert!(log.iter().any(|line| line.contains("frames=0")), "{log:#?}");
}

#[tokio::test]
async fn a_token_of_a_new_secret_says_so() {
    let folder = TempDir::new().unwrap();
    let asked = ["token", "--user", "ada"];
    let (is_good, text) = run(folder.path(), &asked, &[]).await;
    assert!(is_good, "{text}");
    let data = folder.path().join("tidewire-data");
    assert!(text.contains("made a new secret in"), "{text}");
    assert!(text.contains(&data.display().to_string()), "{text}");
    // The second one is of the same secret, which a server here has too.
    let (_, text) = run(folder.path(), &asked, &[]).await;
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[tokio::test]
async fn a_replay_at_full_speed_logs_little() {
    let folder = folder_with("[prices]\nsymbols = [\"BTC-USD\", \"ETH-USD\"]\n");
    let arguments = [
        "replay",
        "--loop",
        "--speed",
        "max",
        "--port",
        "0",
        "--config",
        "tidewire.toml",
    ];
    // The made-up chain takes some seconds, in which hundreds of passes end.
    let log = log_until(folder.path(), &arguments, &[], "the mempool is read").await;
    assert!(log.len() < 30, "{log:#?}");
}

#[tokio::test]
async fn commands_in_the_log_read_the_configuration_of_the_server() {
    let config = "[prices]\nsymbols = [\"BTC-USD\"]\n[[prices.source]]\nkind = \"coinbase\"\nurl = \"ws://127.0.0.1:1\"\n";
    let folder = folder_with(config);
    let path = folder.path().canonicalize().unwrap();
    let file = path.join("tidewire.toml").display().to_string();
    let listen = ["--config", "tidewire.toml", "--listen", "127.0.0.1:0"];
    for (arguments, command) in [
        (
            &["serve"][..],
            "tidewire replay --loop --listen 127.0.0.1:0 --config",
        ),
        (
            &["replay", "--loop"],
            "tidewire token --user sample --config",
        ),
    ] {
        let arguments = [arguments, &listen[..]].concat();
        let log = log_until(&path, &arguments, &[], command).await;
        let expected = format!("`{command} {file}`");
        assert!(log.last().unwrap().contains(&expected), "{log:#?}");
    }
    let variables = [
        ("TIDEWIRE_STORE__PATH", "my data"),
        (
            "TIDEWIRE_AUTH__HMAC_SECRET",
            "0123456789012345678901234567890123456789",
        ),
    ];
    let arguments = ["replay", "--loop", "--listen", "127.0.0.1:0"];
    let log = log_until(&path, &arguments, &variables, "tidewire token").await;
    let expected = "`TIDEWIRE_STORE__PATH='my data' tidewire token --user sample`, with TIDEWIRE_AUTH__HMAC_SECRET as the server has it, prints";
    assert!(log.last().unwrap().contains(expected), "{log:#?}");
}
