//! Examples: each runs against a server and prints its price.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::json;
use tidewire_tests::{Program, Server, Token, VenueKind, VenueStandIn, venue::Trade, within};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::prices::server_of;

async fn server_with_a_price() -> (Server, VenueStandIn) {
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let server = server_of(std::slice::from_ref(&venue), &["BTC-USD", "ETH-USD"])
        .start()
        .await;
    venue.wait_subscribed(1).await;
    let symbols = ["BTC-USD", "ETH-USD"];
    for (symbol, price) in symbols.into_iter().zip(["61838.01", "2680.5"]) {
        venue.trade(&Trade {
            symbol,
            id: 1,
            price,
        });
    }
    venue.wait_read().await;
    (server, venue)
}

/// Runs a command until it has printed each of these lines. Dropping it kills the process.
async fn expect_lines(command: &mut Command, expected: &[&str]) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut printed = Vec::new();
    while !expected
        .iter()
        .all(|line| printed.iter().any(|printed| printed == line))
    {
        let line = within("a line of an example", lines.next_line())
            .await
            .unwrap();
        let line = line.unwrap_or_else(|| panic!("it ended after {printed:#?}"));
        printed.push(line);
    }
}

/// Returns an example's program, which cargo builds with the tests.
fn example(name: &str) -> Command {
    let test = env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --examples`",
        path.display()
    );
    Command::new(path)
}

#[tokio::test]
async fn prices_are_watched_over_a_websocket() {
    let (server, _venue) = server_with_a_price().await;
    let url = format!("ws://{}/v1/ws", server.address());
    expect_lines(
        example("watch_prices").arg(url),
        &["BTC-USD 61838.01 (1 sources)", "ETH-USD 2680.5 (1 sources)"],
    )
    .await;
}

#[tokio::test]
async fn prices_are_watched_over_grpc() {
    let (server, _venue) = server_with_a_price().await;
    expect_lines(
        example("grpc_prices").args([&server.url(""), "ETH-USD"]),
        &[
            "ETH-USD 2680.5 (1 sources)",
            "  kraken: 2680.5 after 1 trades",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_back_end_sends_a_notification_with_the_rust_client() {
    let server = Server::start().await;
    let mut command = example("send_notification");
    expect_lines(command.args([&server.url(""), "ada"]), &["sent to 1 inbox"]).await;
}

#[tokio::test]
async fn prices_are_followed_with_the_rust_client() {
    let (server, _venue) = server_with_a_price().await;
    expect_lines(
        example("follow_prices").args([&server.url(""), "btc-usd", "ETH-USD"]),
        &["BTC-USD 61838.01 (1 sources)", "ETH-USD 2680.5 (1 sources)"],
    )
    .await;
}

#[tokio::test]
async fn orders_are_resumed_with_the_rust_client() {
    let server = Server::start().await;
    let mut command = example("follow_orders");
    // The first run only publishes two, because nothing follows the subscription.
    expect_lines(command.arg(server.url("")), &["connected"]).await;
    let position = server
        .publish("demo:orders", json!({"id": 7, "item": "rice"}))
        .await;
    assert_eq!(position["seq"], 3);
    let epoch = position["epoch"].as_str().unwrap();
    let mut command = example("follow_orders");
    expect_lines(
        command.args([&server.url(""), epoch, "2"]),
        &[
            "order 7 of rice, missed",
            &format!("resume with {epoch} 3"),
            "order 1 of tea, missed",
            "order 2 of coffee, missed",
        ],
    )
    .await;
}

/// Runs a script to its end, and expects each part in its output.
async fn expect_output(command: &mut Command, expected: &[&str]) {
    let output = within("a script", command.stdin(Stdio::null()).output());
    let output = output.await.unwrap();
    let output_text = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{output_text}\n{complaints}");
    for part in expected {
        assert!(output_text.contains(part), "no {part} in\n{output_text}");
    }
}

/// Runs a script that fails, and returns what it says.
async fn refusal_of(command: &mut Command) -> String {
    let output = within("a script", command.stdin(Stdio::null()).output());
    let output = output.await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{text}");
    text
}

/// Returns a script of `examples`.
fn script(name: &str) -> Command {
    Command::new(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../examples")
            .join(name),
    )
}

#[tokio::test]
async fn the_checkout_example_waits_for_confirmations() {
    let server = Server::builder()
        .arguments(&["replay", "--loop"])
        .set("prices", "symbols = []")
        .start()
        .await;
    // The made-up chain has a payment within seconds.
    let mut node = Command::new("node");
    let example = script("checkout.mjs");
    let path = example.as_std().get_program();
    expect_lines(
        node.arg(path).arg(server.url("")),
        &[
            "waiting for a payment to 0x5a3b1e00000000000000000000000000000000a1",
            "confirming, 1 of 4",
            "confirming, 3 of 4",
        ],
    )
    .await;
}

#[tokio::test]
async fn the_curl_example_runs() {
    let (server, _venue) = server_with_a_price().await;
    let expected = [
        r#""price":61838.01"#,
        r#""state":"live""#,
        r#""channel":"demo:curl""#,
        r#""data":{"text":"hello"}"#,
        "event: welcome",
        "event: price",
    ];
    expect_output(
        script("curl.sh").args([&server.url(""), "BTC-USD"]),
        &expected,
    )
    .await;
}

#[tokio::test]
async fn notifications_are_sent_and_read_with_curl() {
    let server = Server::start().await;
    let expected = [
        "event: notification",
        r#""title":"Payment received""#,
        "`notification.title`: empty",
        r#""unreadCount":2}"#,
        r#"{"unreadCount":0}"#,
        r#""mutedTypes":["marketplace_update"]"#,
    ];
    // The second run finds what the first left, and notifies as well.
    for _ in 0..2 {
        let mut command = script("notifications.sh");
        command.args([&server.url(""), "ada"]);
        command.env("TOKEN", Token::of("ada").sign());
        command.env_remove("SERVICE_TOKEN");
        expect_output(&mut command, &expected).await;
    }
    // It says what is wrong: a user's token is none of a back end, and so on.
    let ada = Token::of("ada").sign();
    let (here, nowhere) = (server.url(""), "http://127.0.0.1:1".to_owned());
    for (url, user, token, service, part) in [
        (&here, "ada", Some(&ada), Some(&ada), "permission_denied"),
        (
            &here,
            "bob",
            Some(&ada),
            None,
            "TOKEN is of the user ada, expected one of bob",
        ),
        (
            &here,
            "ada",
            Some(&"bad".to_owned()),
            None,
            "\"unauthenticated\"",
        ),
        (&here, "ada", None, None, "expected a token of the user ada"),
        (&nowhere, "ada", Some(&ada), None, "connect to 127.0.0.1"),
    ] {
        let mut command = script("notifications.sh");
        command.args([url, user]);
        for (name, token) in [("TOKEN", token), ("SERVICE_TOKEN", service)] {
            match token {
                Some(token) => command.env(name, token),
                None => command.env_remove(name),
            };
        }
        let text = refusal_of(&mut command).await;
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn notifications_are_sent_and_streamed_over_grpc() {
    let server = Server::start().await;
    let mut command = example("grpc_notifications");
    command.args([&server.url(""), "ada"]);
    command.env("TOKEN", Token::of("ada").sign());
    command.env_remove("SERVICE_TOKEN");
    expect_lines(
        &mut command,
        &[
            "sent to 1 inbox",
            "refused: `notification.title`: empty, expected 1 to 500 bytes",
            "received: Payment received",
            "received: Your wallet was used",
            "unread: 0",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_webhook_is_verified_in_a_few_lines() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let environment = [("WEBHOOK_SECRET", secret), ("PORT", "0")];
    let mut receiver = Program::example("webhook_receiver.mjs", &environment);
    let line = receiver.line().await;
    let url = line.strip_prefix("listens on ").unwrap();
    let server = Server::builder()
        .table(&format!(
            "[[delivery.webhook]]\nname = \"example\"\nurl = {url:?}\nsecrets = [{secret:?}]\n\
             allow_private = true\n"
        ))
        .start()
        .await;
    let note = json!({"type": "payment_received", "title": "Paid – 0,1 Ξ"});
    let notify = async |body| {
        let method = "NotifyService/Notify";
        let answer = server.call(method, Some(&Token::service()), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    notify(json!({"user": "ada", "notification": note})).await;
    assert_eq!(
        receiver.line().await,
        "payment_received for ada: Paid – 0,1 Ξ"
    );
    notify(json!({"everyone": true, "notification": note})).await;
    assert_eq!(
        receiver.line().await,
        "payment_received for everyone: Paid – 0,1 Ξ"
    );
    // Without a signature, with one of somebody else, and with one of long ago.
    let old = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    for signature in [None, Some("v1,AAAA"), Some(old)] {
        let mut request = server.http().post(url).body("{\"test\": 2432232314}");
        if let Some(signature) = signature {
            request = request
                .header("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
                .header("webhook-timestamp", "1614265330")
                .header("webhook-signature", signature);
        }
        assert_eq!(request.send().await.unwrap().status(), 401, "{signature:?}");
    }
}

#[tokio::test]
async fn alerts_are_registered_and_explained_with_curl() {
    let (server, _venue) = server_with_a_price().await;
    let expected = [
        r#""state":"armed","version":1"#,
        r#""value":101,"previous":99"#,
        r#""manual":true"#,
        r#""decision":"not_met""#,
        r#""name":"From curl""#,
    ];
    let mut command = script("alerts.sh");
    command.args([&server.url(""), "BTC-USD"]);
    command.env("TOKEN", Token::of("ada").sign());
    expect_output(&mut command, &expected).await;
}

/// Returns the folder of the packages that the Python example needs. The first test on a machine
/// installs them from PyPI, into the cache folder; later ones find them there.
async fn python_packages(examples: &Path) -> PathBuf {
    let requirements = std::fs::read_to_string(examples.join("requirements.txt")).unwrap();
    let version = Command::new("python3").arg("--version").output();
    let version = String::from_utf8(within("Python", version).await.unwrap().stdout).unwrap();
    // Packages with compiled parts fit one version of Python.
    let name: String = format!("{version}{requirements}")
        .split_whitespace()
        .map(|word| format!("-{}", word.replace("==", "-")))
        .collect();
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    let folder = cache.join(format!("tidewire/packages{name}"));
    if folder.is_dir() {
        return folder;
    }
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    let new = tempfile::tempdir_in(folder.parent().unwrap()).unwrap();
    let install = "-m pip install --quiet --disable-pip-version-check --root-user-action=ignore";
    let mut command = Command::new("python3");
    command
        .args(install.split(' '))
        .arg("--target")
        .arg(new.path());
    command.arg("-r").arg(examples.join("requirements.txt"));
    // No deadline of a test: the network may be slow.
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "pip cannot install the packages: {text}"
    );
    // Another test may have been faster.
    if std::fs::rename(new.path(), &folder).is_ok() {
        let _ = new.keep();
    }
    folder
}

#[tokio::test]
async fn notifications_are_sent_and_listed_with_python() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python");
    let packages = python_packages(&examples).await;
    let stubs = tempfile::tempdir().unwrap();
    let python = |script: &str, path: &OsStr| {
        let mut command = Command::new("python3");
        command.arg(examples.join(script)).env("PYTHONPATH", path);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let mut generate = python("generate.py", packages.as_os_str());
    expect_output(generate.arg(stubs.path()), &[]).await;
    let path = env::join_paths([packages.as_path(), stubs.path()]).unwrap();
    let server = Server::start().await;
    let mut command = python("notifications.py", &path);
    command.args([&server.address().to_string(), "ada"]);
    command.env("TOKEN", Token::of("ada").sign());
    command.env_remove("SERVICE_TOKEN");
    let expected = [
        "subscribed to user:ada",
        "sent to 1 inbox",
        "received: Payment received, seq 1",
        r#"listed: Payment received: 0.5 ETH from Grace {"order": 7}"#,
        "unread: 1",
        "refused: INVALID_ARGUMENT: `notification.type`: none is given",
    ];
    expect_output(&mut command, &expected).await;
    // A failure is one line.
    for (user, token, part) in [
        ("bob", Token::of("ada").sign(), "PERMISSION_DENIED: "),
        ("ada", "bad".to_owned(), "UNAUTHENTICATED: "),
        ("ada", String::new(), "TOKEN is not set"),
    ] {
        let mut command = python("notifications.py", &path);
        command.args([&server.address().to_string(), user]);
        command.env("TOKEN", token).env_remove("SERVICE_TOKEN");
        let text = refusal_of(&mut command).await;
        assert!(text.starts_with(part), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
