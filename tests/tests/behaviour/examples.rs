//! Examples: each runs against a server and prints its price.

use std::{env, path::Path, process::Stdio};

use tidewire_tests::{Server, Token, VenueKind, VenueStandIn, venue::Trade, within};
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
async fn the_curl_example_runs() {
    let (server, _venue) = server_with_a_price().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/curl.sh");
    let output = Command::new(script)
        .args([&server.url(""), "BTC-USD"])
        .stdin(Stdio::null())
        .output();
    let output = within("curl", output).await.unwrap();
    let output_text = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{output_text}\n{complaints}");
    for part in [
        r#""price":61838.01"#,
        r#""state":"live""#,
        r#""channel":"demo:curl""#,
        r#""data":{"text":"hello"}"#,
        "event: welcome",
        "event: price",
    ] {
        assert!(output_text.contains(part), "no {part} in\n{output_text}");
    }
}

#[tokio::test]
async fn the_example_of_alerts_runs() {
    let (server, _venue) = server_with_a_price().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/alerts.sh");
    let output = Command::new(script)
        .args([&server.url(""), "BTC-USD"])
        .env("TOKEN", Token::of("ada").sign())
        .stdin(Stdio::null())
        .output();
    let output = within("curl", output).await.unwrap();
    let output_text = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{output_text}\n{complaints}");
    for part in [
        r#""state":"armed","version":1"#,
        r#""value":101,"previous":99"#,
        r#""manual":true"#,
        r#""decision":"not_met""#,
        r#""name":"From curl""#,
    ] {
        assert!(output_text.contains(part), "no {part} in\n{output_text}");
    }
}
