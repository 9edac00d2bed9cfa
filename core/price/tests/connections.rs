//! Connections to venues, against a venue of the test on a local socket.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures::{SinkExt as _, StreamExt as _};
use support::{
    NOW_US, coinbase_match, config, kraken_trade, price,
    test_venue::{Harness, TestVenue, advance_seconds, receive, send, within},
};
use tidewire_price::{Recording, SourceConfig, VenueKind};
use tidewire_proto::v1::ConnectionState;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::yield_now,
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

const ACK: &str = r#"{"type":"subscriptions","channels":[]}"#;

const BTC: &str = r#"symbols = ["BTC-USD"]"#;

#[tokio::test]
async fn prices_survive_garbage_and_lost_connections() {
    let venue = TestVenue::open().await;
    let harness = Harness::new("coinbase", &venue.url(), BTC).connect();
    let (mut peer, request) = venue.accept().await;
    assert_eq!(
        request,
        r#"{"channels":["ticker","matches","heartbeat"],"product_ids":["BTC-USD"],"type":"subscribe"}"#
    );
    harness
        .until(|source| source.state() == ConnectionState::Mute)
        .await;
    send(&mut peer, ACK).await;
    send(&mut peer, "garbage").await;
    send(&mut peer, &coinbase_match(1, "BTC-USD", "10.5")).await;
    harness
        .until_published("prices:BTC-USD@coinbase", "10.5")
        .await;
    let source = harness.source();
    assert_eq!(
        (
            source.state(),
            source.frames,
            source.bad_frames,
            source.trades,
            source.connects
        ),
        (ConnectionState::Live, 3, 1, 1, 1)
    );
    // The connection breaks without a close frame, and comes back.
    drop(peer);
    let (mut peer, _) = venue.accept().await;
    harness.until(|source| source.connects == 2).await;
    send(&mut peer, &coinbase_match(2, "BTC-USD", "11")).await;
    harness.until_published("prices:BTC-USD", "11").await;
    assert_eq!(harness.source().state(), ConnectionState::Live);
    harness.stop().await;
}

#[tokio::test]
async fn a_lost_venue_makes_its_prices_stale_until_it_returns() {
    let venue = TestVenue::open().await;
    let harness = Harness::new("coinbase", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    send(&mut peer, &coinbase_match(1, "BTC-USD", "10")).await;
    harness.until_published("prices:BTC-USD", "10").await;
    let url = venue.url();
    let address = venue.0.local_addr().unwrap();
    drop((venue, peer));
    harness
        .until(|source| source.state() == ConnectionState::Waiting)
        .await;
    assert!(harness.source().last_error.is_some());
    harness.clock.advance(2_000);
    within(async {
        while !harness.engine.get_price("BTC-USD").unwrap().stale {
            yield_now().await;
        }
    })
    .await;
    let venue = TestVenue(TcpListener::bind(address).await.unwrap());
    assert_eq!(venue.url(), url);
    let (mut peer, _) = venue.accept().await;
    send(&mut peer, &coinbase_match(2, "BTC-USD", "12")).await;
    harness.until_published("prices:BTC-USD", "12").await;
    let published: Vec<_> = harness.publisher.prices("prices:BTC-USD");
    let stale: Vec<_> = published
        .iter()
        .map(|update| (price(update), update.stale))
        .collect();
    assert_eq!(stale, [("10", false), ("10", true), ("12", false)]);
    harness.stop().await;
}

#[tokio::test]
async fn a_mute_connection_is_replaced() {
    let venue = TestVenue::open().await;
    let config = format!("{BTC}\nwatchdog = \"400ms\"");
    let harness = Harness::new("coinbase", &venue.url(), &config).connect();
    // Connected, accepted, and only heartbeats.
    let (mut mute, _) = venue.accept().await;
    send(&mut mute, ACK).await;
    send(&mut mute, r#"{"type":"heartbeat","product_id":"BTC-USD"}"#).await;
    let (_peer, _) = venue.accept().await;
    let error = harness.source().last_error.unwrap();
    assert!(error.contains("connected, but no data"), "{error}");
    harness.stop().await;
}

#[tokio::test]
async fn one_refused_symbol_does_not_stop_the_others() {
    let venue = TestVenue::open().await;
    let symbols = r#"symbols = ["BTC-USD", "NOPE-USD"]"#;
    let harness = Harness::new("coinbase", &venue.url(), symbols).connect();
    let (mut peer, request) = venue.accept().await;
    assert!(request.contains("NOPE-USD"));
    let refusal = r#"{"type":"error","message":"Failed to subscribe","reason":"NOPE-USD is not a valid product"}"#;
    send(&mut peer, refusal).await;
    let again = receive(&mut peer).await;
    assert!(again.contains("BTC-USD") && !again.contains("NOPE-USD"));
    let error = harness.source().last_error.unwrap();
    assert!(error.contains("NOPE-USD is not a valid product"), "{error}");
    harness.stop().await;
}

#[tokio::test]
async fn all_requests_are_sent_and_pings_answered() {
    let venue = TestVenue::open().await;
    let harness = Harness::new("kraken", &venue.url(), BTC).connect();
    let (mut peer, ticker) = venue.accept().await;
    let trade = receive(&mut peer).await;
    assert!(ticker.contains(r#""channel":"ticker""#) && trade.contains(r#""channel":"trade""#));
    within(peer.send(Message::Ping("payload".into())))
        .await
        .unwrap();
    let pong = within(peer.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("payload".into()));
    harness.stop().await;
}

#[tokio::test]
async fn trades_repeated_on_a_new_connection_count_once() {
    let venue = TestVenue::open().await;
    let harness = Harness::new("coinbase", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    for id in 1..=3 {
        send(&mut peer, &coinbase_match(id, "BTC-USD", "10")).await;
    }
    harness.until(|source| source.trades == 3).await;
    drop(peer);
    let (mut peer, _) = venue.accept().await;
    for id in 1..=5 {
        send(&mut peer, &coinbase_match(id, "BTC-USD", "10")).await;
    }
    harness.until(|source| source.frames == 8).await;
    assert_eq!(harness.source().trades, 5);
    harness.stop().await;
}

#[tokio::test]
async fn at_full_speed_every_trade_counts() {
    const TRADES: u64 = 20_000;
    let venue = TestVenue::open().await;
    let harness = Harness::new("kraken", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    for id in 1..=TRADES {
        let frame = kraken_trade(id, "BTC/USD", &format!("{}.5", 100 + id % 50));
        within(peer.feed(Message::text(frame))).await.unwrap();
    }
    within(peer.flush()).await.unwrap();
    harness.until(|source| source.trades == TRADES).await;
    let answer = harness.engine.get_price("BTC-USD").unwrap();
    let detail = &answer.source_details[0];
    let bounds = [&detail.min, &detail.max].map(|bound| bound.clone().unwrap().value);
    assert_eq!(
        (detail.trades, bounds),
        (TRADES, ["100.5".to_owned(), "149.5".to_owned()])
    );
    assert_eq!(price(&answer), "100.5");
    harness.stop().await;
}

#[tokio::test]
async fn a_frame_above_the_limit_ends_the_connection() {
    let venue = TestVenue::open().await;
    let harness = Harness::new("kraken", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    // The peer may close before all of it is written.
    let _ = within(peer.send(Message::text("x".repeat(2 << 20)))).await;
    venue.accept().await;
    harness.until(|source| source.connects == 2).await;
    harness.stop().await;
}

#[tokio::test]
async fn frames_are_recorded() {
    let venue = TestVenue::open().await;
    let harness = Harness::new("coinbase", &venue.url(), BTC);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let recording = {
        let (engine, path, cancel) = (harness.engine.clone(), path.clone(), harness.cancel.clone());
        let recording = engine.recording(&path).unwrap();
        tokio::spawn(async move { engine.record(recording, cancel).await })
    };
    let (mut peer, _) = venue.accept().await;
    let frame = coinbase_match(1, "BTC-USD", "10");
    send(&mut peer, ACK).await;
    send(&mut peer, &frame).await;
    harness.until(|source| source.frames == 2).await;
    harness.cancel.cancel();
    assert_eq!(within(recording).await.unwrap().unwrap(), 2);
    let recording = Recording::open(&path).unwrap();
    assert!(!recording.head().sample);
    let lines: Vec<_> = recording.collect();
    assert_eq!(lines[1].frame, frame.as_bytes());
    assert_eq!(lines[1].time_us, NOW_US);
}

#[tokio::test]
async fn a_full_connection_is_joined_by_another() {
    let venue = TestVenue::open().await;
    let symbols: Vec<_> = (0..513).map(|n| format!("C{n}-USDT")).collect();
    let harness =
        Harness::new("binance", &venue.url(), &format!("symbols = {symbols:?}")).connect();
    let mut peers = Vec::new();
    for _ in 0..2 {
        let (peer, request) = venue.accept().await;
        peers.push((peer, request));
    }
    harness.until(|source| source.connections == Some(2)).await;
    // In the order of their names: 512 on the first.
    assert!(peers[0].1.contains("\"c0usdt@trade\""), "{}", peers[0].1);
    assert!(peers[1].1.contains("[\"c9usdt@trade\",\"c9usdt@ticker\"]"));
    for (peer, name) in peers
        .iter_mut()
        .map(|(peer, _)| peer)
        .zip(["C0USDT", "C9USDT"])
    {
        send(peer, &support::binance_trade(1, name, "5")).await;
    }
    harness.until(|source| source.trades == 2).await;
    // A lost connection affects only the symbols that it carried.
    drop(peers.remove(0));
    harness.until(|source| source.connections == Some(1)).await;
    assert_eq!(harness.source().state(), ConnectionState::Live);
    harness.stop().await;
}

#[tokio::test]
async fn sources_are_added_and_removed_at_runtime() {
    let (first, second) = (TestVenue::open().await, TestVenue::open().await);
    let harness = Harness::new("coinbase", &first.url(), BTC).connect();
    let (mut peer, _) = first.accept().await;
    send(&mut peer, &coinbase_match(1, "BTC-USD", "10")).await;
    harness.until_published("prices:BTC-USD", "10").await;
    let mut source = SourceConfig::new(VenueKind::Kraken);
    source.url = Some(second.url());
    let added = harness.engine.add_source(&source).unwrap();
    assert_eq!(
        (added.name.as_str(), added.state()),
        ("kraken", ConnectionState::Connecting)
    );
    let (mut other, _) = second.accept().await;
    send(&mut other, &kraken_trade(1, "BTC/USD", "12")).await;
    harness.until_published("prices:BTC-USD", "11").await;
    harness.engine.remove_source("coinbase").unwrap();
    harness.until_published("prices:BTC-USD", "12").await;
    // Its connection is closed.
    let end = within(peer.next()).await;
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
    assert!(harness.engine.remove_source("coinbase").is_err());

    // A reload keeps sources that a call added, and reconnects changed sources.
    let third = TestVenue::open().await;
    let text = |url: &str| format!("{BTC}\n[[source]]\nkind = \"coinbase\"\nurl = {url:?}");
    harness
        .engine
        .reload_sources(&config(&text(&third.url())))
        .unwrap();
    let (_peer, _) = third.accept().await;
    let names = || -> Vec<String> {
        let sources = harness.engine.sources();
        sources.into_iter().map(|source| source.name).collect()
    };
    assert_eq!(names(), ["coinbase", "kraken"]);
    let wrong = config(&text("http://x"));
    assert!(harness.engine.reload_sources(&wrong).is_err());
    assert_eq!(names().len(), 2);
    harness.stop().await;
}

/// The next request over HTTP, read to its end.
async fn http_request(venue: &TestVenue) -> (TcpStream, String) {
    let (mut socket, _) = within(venue.0.accept()).await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        within(socket.read_exact(&mut byte)).await.unwrap();
        request.push(byte[0]);
    }
    (socket, String::from_utf8(request).unwrap())
}

#[tokio::test]
async fn an_oracle_is_read_as_server_sent_events() {
    let venue = TestVenue::open().await;
    let url = format!("http://{}/stream", venue.0.local_addr().unwrap());
    let harness = Harness::new("pyth", &url, BTC).connect();
    let (mut socket, _) = http_request(&venue).await;
    within(socket.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"))
        .await
        .unwrap();
    let (mut socket, request) = http_request(&venue).await;
    let error = harness.source().last_error.unwrap();
    assert!(error.contains("answers 404"), "{error}");
    let asked = "GET /stream?ids[]=e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43&parsed=true HTTP/1.1";
    assert!(request.starts_with(asked), "{request}");
    let event = concat!(
        ":\n\ndata:{\"parsed\":[{\"id\":\"e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43\",",
        "\"price\":{\"price\":\"6183801\",\"conf\":\"1\",\"expo\":-2,\"publish_time\":1750000000}}]}\n\n"
    );
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = format!("{head}{:x}\r\n{event}\r\n", event.len());
    within(socket.write_all(answer.as_bytes())).await.unwrap();
    harness.until_published("prices:BTC-USD", "61838.01").await;
    // It sends why it ends, and is connected to again.
    let event = "event: error\ndata: too slow\n\n";
    let error = format!("{:x}\r\n{event}\r\n", event.len());
    within(socket.write_all(error.as_bytes())).await.unwrap();
    harness
        .until(|source| {
            source.last_error.as_deref() == Some("the venue ended the stream: too slow")
        })
        .await;
    let _again = http_request(&venue).await;
    harness.stop().await;
}

/// The path and the query hold keys.
const SECRETS: [&str; 3] = ["AbcKey123", "QueryKey456", "v3"];

fn assert_hides_keys(text: &str) {
    let lower = text.to_lowercase();
    assert!(
        !lower.contains("abckey123") && !lower.contains("querykey456"),
        "{text}"
    );
}

#[tokio::test]
async fn texts_of_a_venue_are_shown_without_the_keys_of_its_url() {
    let venue = TestVenue::open().await;
    let [path, query, version] = SECRETS;
    let url = format!(
        "ws://{}/{version}/{path}?token={query}",
        venue.0.local_addr().unwrap()
    );
    let harness = Harness::new("coinbase", &url, BTC).connect();
    let (mut peer, _) = venue.accept().await;
    let echo = format!("/{version}/{path}?token={query}");
    let refusal = format!(
        r#"{{"type":"error","message":"bad request to {echo}","reason":"BTC-USD for {path}"}}"#
    );
    send(&mut peer, &refusal).await;
    harness.until(|source| !source.refused.is_empty()).await;
    let source = harness.source();
    assert_hides_keys(&source.last_error.unwrap());
    assert!(
        source.refused[0].reason.contains("[redacted]"),
        "{:?}",
        source.refused
    );
    assert_hides_keys(&source.refused[0].reason);
    let detail = harness
        .engine
        .get_price("BTC-USD")
        .unwrap()
        .source_details
        .remove(0);
    assert_hides_keys(&detail.reason.unwrap());
    // As a value of a field.
    send(&mut peer, &coinbase_match(1, "BTC-USD", path)).await;
    harness.until(|source| source.bad_frames == 1).await;
    let error = harness.source().last_error.unwrap();
    assert!(error.starts_with("bad_value: `price` is"), "{error}");
    assert_hides_keys(&error);
    // As the reason of a close.
    let close = CloseFrame {
        code: CloseCode::Policy,
        reason: format!("no such path: {echo}").into(),
    };
    within(peer.close(Some(close))).await.unwrap();
    harness
        .until(|source| {
            let error = source.last_error.as_deref().unwrap_or_default();
            error.contains("the venue closed the connection: no such path: [redacted]")
        })
        .await;
    harness.stop().await;
}

#[tokio::test]
async fn error_pages_and_events_are_shown_without_the_keys_of_the_url() {
    let venue = TestVenue::open().await;
    let [path, query, version] = SECRETS;
    let target = format!("/{version}/{path}?token={query}");
    let url = format!("http://{}{target}", venue.0.local_addr().unwrap());
    let harness = Harness::new("pyth", &url, BTC).connect();
    let (mut socket, _) = http_request(&venue).await;
    let page = format!("<h1>Not found</h1> no route for GET {target} ({path}, {query})");
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{page}",
        page.len()
    );
    within(socket.write_all(answer.as_bytes())).await.unwrap();
    harness.until(|source| !source.refused.is_empty()).await;
    let (mut socket, _) = http_request(&venue).await;
    let source = harness.source();
    assert!(
        source
            .last_error
            .as_deref()
            .unwrap()
            .contains("answers 404")
    );
    assert_hides_keys(&source.last_error.unwrap());
    assert_hides_keys(&source.refused[0].reason);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let event = format!("{head}event: error\ndata: {path} may not stream\n\n");
    within(socket.write_all(event.as_bytes())).await.unwrap();
    harness
        .until(|source| {
            let error = source.last_error.as_deref().unwrap_or_default();
            error == "the venue ended the stream: [redacted] may not stream"
        })
        .await;
    harness.stop().await;
}

#[tokio::test]
async fn an_oracle_that_limits_its_clients_refuses_no_feed() {
    let venue = TestVenue::open().await;
    let url = format!("http://{}/stream", venue.0.local_addr().unwrap());
    let symbols = r#"symbols = ["BTC-USD", "ETH-USD"]"#;
    let harness = Harness::new("pyth", &url, symbols).connect();
    let (mut socket, _) = http_request(&venue).await;
    let body = "Too many requests";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    within(socket.write_all(answer.as_bytes())).await.unwrap();
    let (_socket, request) = http_request(&venue).await;
    assert_eq!(request.matches("ids[]=").count(), 2);
    let source = harness.source();
    assert!(source.last_error.unwrap().contains("Too many requests"));
    assert!(source.refused.is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn a_feed_that_an_oracle_refused_is_requested_again_soon() {
    let venue = TestVenue::open().await;
    let url = format!("http://{}/stream", venue.0.local_addr().unwrap());
    let symbols = r#"symbols = ["BTC-USD", "ETH-USD"]"#;
    let harness = Harness::new("pyth", &url, symbols).connect();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    // All, the second half, the first half, which alone is accepted.
    let mut sockets = Vec::new();
    for response in [refusal, refusal, head] {
        let (mut socket, _) = http_request(&venue).await;
        within(socket.write_all(response.as_bytes())).await.unwrap();
        sockets.push(socket);
    }
    harness.until(|source| !source.refused.is_empty()).await;
    advance_seconds(6).await;
    let (mut socket, request) = http_request(&venue).await;
    assert_eq!(request.matches("ids[]=").count(), 2);
    within(socket.write_all(head.as_bytes())).await.unwrap();
    harness.stop().await;
}

#[tokio::test]
async fn an_oracle_that_refuses_one_feed_streams_the_others() {
    const ETH: &str = "ff61491a931112ddf1bd8147cd1b641375f79f5825126d665480874634fd0ace";
    const SOL: &str = "ef0d8b6fda2ceba41da15d4095d1da392a0d2f8ed0c6c7bc0f4cfac8c280b56d";
    let not_found = |body: &str| {
        let length = body.len();
        format!("HTTP/1.1 404 Not Found\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let symbols = r#"symbols = ["BTC-USD", "ETH-USD", "SOL-USD"]"#;
    // By the word of the refusal.
    let venue = TestVenue::open().await;
    let url = format!("http://{}/stream", venue.0.local_addr().unwrap());
    let harness = Harness::new("pyth", &url, symbols).connect();
    let (mut socket, request) = http_request(&venue).await;
    assert_eq!(request.matches("ids[]=").count(), 3);
    let refusal = not_found(&format!("Price ids not found: 0x{ETH}"));
    within(socket.write_all(refusal.as_bytes())).await.unwrap();
    let (mut socket, request) = http_request(&venue).await;
    assert!(
        request.matches("ids[]=").count() == 2 && !request.contains(ETH),
        "{request}"
    );
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    within(socket.write_all(head.as_bytes())).await.unwrap();
    harness.until(|source| !source.refused.is_empty()).await;
    assert_eq!(harness.source().state(), ConnectionState::Mute);
    let refused = harness.source().refused;
    assert_eq!(refused[0].symbol, "ETH-USD");
    assert!(refused[0].reason.contains("404"), "{refused:?}");
    harness.stop().await;

    // In halves. SOL-USD has the second id.
    let venue = TestVenue::open().await;
    let url = format!("http://{}/stream", venue.0.local_addr().unwrap());
    let harness = Harness::new("pyth", &url, symbols).connect();
    let (mut counts, mut sockets) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let (mut socket, request) = http_request(&venue).await;
        counts.push(request.matches("ids[]=").count());
        let response = if request.contains(SOL) {
            not_found("")
        } else {
            head.to_owned()
        };
        within(socket.write_all(response.as_bytes())).await.unwrap();
        sockets.push(socket);
    }
    // All; the second half, accepted; the first half; its two, of which one is accepted; those two.
    assert_eq!(counts, [3, 1, 2, 1, 1, 2]);
    harness.until(|source| !source.refused.is_empty()).await;
    let refused = harness.source().refused;
    assert_eq!((refused.len(), refused[0].symbol.as_str()), (1, "SOL-USD"));
    harness.stop().await;
}
