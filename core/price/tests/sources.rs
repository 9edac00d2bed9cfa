//! Connections to venues, against a venue of this test on a local socket.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures::{SinkExt as _, StreamExt as _};
use support::{
    NOW_US, coinbase_match, config, kraken_trade, price,
    venue::{Bench, Venue, receive, say, within},
};
use tidewire_price::{Recording, SourceConfig, VenueKind};
use tidewire_proto::v1::ConnectionState;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::yield_now,
};
use tokio_tungstenite::tungstenite::Message;

const ACK: &str = r#"{"type":"subscriptions","channels":[]}"#;

const BTC: &str = r#"symbols = ["BTC-USD"]"#;

#[tokio::test]
async fn prices_come_through_garbage_and_lost_connections() {
    let venue = Venue::open().await;
    let bench = Bench::new("coinbase", &venue.url(), BTC).connect();
    let (mut peer, request) = venue.accept().await;
    assert_eq!(
        request,
        r#"{"channels":["ticker","matches","heartbeat"],"product_ids":["BTC-USD"],"type":"subscribe"}"#
    );
    bench
        .until(|source| source.state() == ConnectionState::Mute)
        .await;
    say(&mut peer, ACK).await;
    say(&mut peer, "garbage").await;
    say(&mut peer, &coinbase_match(1, "BTC-USD", "10.5")).await;
    bench.until_told("prices:BTC-USD@coinbase", "10.5").await;
    let source = bench.source();
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
    // The connection breaks without a word, and comes back.
    drop(peer);
    let (mut peer, _) = venue.accept().await;
    bench.until(|source| source.connects == 2).await;
    say(&mut peer, &coinbase_match(2, "BTC-USD", "11")).await;
    bench.until_told("prices:BTC-USD", "11").await;
    assert_eq!(bench.source().state(), ConnectionState::Live);
    bench.stop().await;
}

#[tokio::test]
async fn a_lost_venue_makes_its_prices_stale_and_its_return_mends_them() {
    let venue = Venue::open().await;
    let bench = Bench::new("coinbase", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    say(&mut peer, &coinbase_match(1, "BTC-USD", "10")).await;
    bench.until_told("prices:BTC-USD", "10").await;
    let url = venue.url();
    let address = venue.0.local_addr().unwrap();
    drop((venue, peer));
    bench
        .until(|source| source.state() == ConnectionState::Waiting)
        .await;
    assert!(bench.source().last_error.is_some());
    bench.clock.advance(2_000);
    within(async {
        while !bench.engine.get_price("BTC-USD").unwrap().stale {
            yield_now().await;
        }
    })
    .await;
    let venue = Venue(TcpListener::bind(address).await.unwrap());
    assert_eq!(venue.url(), url);
    let (mut peer, _) = venue.accept().await;
    say(&mut peer, &coinbase_match(2, "BTC-USD", "12")).await;
    bench.until_told("prices:BTC-USD", "12").await;
    let told: Vec<_> = bench.journal.prices("prices:BTC-USD");
    let stale: Vec<_> = told
        .iter()
        .map(|update| (price(update), update.stale))
        .collect();
    assert_eq!(stale, [("10", false), ("10", true), ("12", false)]);
    bench.stop().await;
}

#[tokio::test]
async fn a_mute_connection_is_set_up_anew() {
    let venue = Venue::open().await;
    let config = format!("{BTC}\nwatchdog = \"400ms\"");
    let bench = Bench::new("coinbase", &venue.url(), &config).connect();
    // Connected, accepted, and only heartbeats.
    let (mut mute, _) = venue.accept().await;
    say(&mut mute, ACK).await;
    say(&mut mute, r#"{"type":"heartbeat","product_id":"BTC-USD"}"#).await;
    let (_peer, _) = venue.accept().await;
    let error = bench.source().last_error.unwrap();
    assert!(error.contains("connected, but no data"), "{error}");
    bench.stop().await;
}

#[tokio::test]
async fn one_refused_symbol_does_not_take_the_others_along() {
    let venue = Venue::open().await;
    let symbols = r#"symbols = ["BTC-USD", "NOPE-USD"]"#;
    let bench = Bench::new("coinbase", &venue.url(), symbols).connect();
    let (mut peer, request) = venue.accept().await;
    assert!(request.contains("NOPE-USD"));
    let refusal = r#"{"type":"error","message":"Failed to subscribe","reason":"NOPE-USD is not a valid product"}"#;
    say(&mut peer, refusal).await;
    let again = receive(&mut peer).await;
    assert!(again.contains("BTC-USD") && !again.contains("NOPE-USD"));
    let error = bench.source().last_error.unwrap();
    assert!(error.contains("NOPE-USD is not a valid product"), "{error}");
    bench.stop().await;
}

#[tokio::test]
async fn requests_are_all_sent_and_pings_answered() {
    let venue = Venue::open().await;
    let bench = Bench::new("kraken", &venue.url(), BTC).connect();
    let (mut peer, ticker) = venue.accept().await;
    let trade = receive(&mut peer).await;
    assert!(ticker.contains(r#""channel":"ticker""#) && trade.contains(r#""channel":"trade""#));
    within(peer.send(Message::Ping("payload".into())))
        .await
        .unwrap();
    let pong = within(peer.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("payload".into()));
    bench.stop().await;
}

#[tokio::test]
async fn what_is_said_again_on_a_new_connection_counts_once() {
    let venue = Venue::open().await;
    let bench = Bench::new("coinbase", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    for id in 1..=3 {
        say(&mut peer, &coinbase_match(id, "BTC-USD", "10")).await;
    }
    bench.until(|source| source.trades == 3).await;
    drop(peer);
    let (mut peer, _) = venue.accept().await;
    for id in 1..=5 {
        say(&mut peer, &coinbase_match(id, "BTC-USD", "10")).await;
    }
    bench.until(|source| source.frames == 8).await;
    assert_eq!(bench.source().trades, 5);
    bench.stop().await;
}

#[tokio::test]
async fn at_full_speed_every_trade_counts() {
    const TRADES: u64 = 20_000;
    let venue = Venue::open().await;
    let bench = Bench::new("kraken", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    for id in 1..=TRADES {
        let frame = kraken_trade(id, "BTC/USD", &format!("{}.5", 100 + id % 50));
        within(peer.feed(Message::text(frame))).await.unwrap();
    }
    within(peer.flush()).await.unwrap();
    bench.until(|source| source.trades == TRADES).await;
    let answer = bench.engine.get_price("BTC-USD").unwrap();
    let detail = &answer.source_details[0];
    let bounds = [&detail.min, &detail.max].map(|bound| bound.clone().unwrap().value);
    assert_eq!(
        (detail.trades, bounds),
        (TRADES, ["100.5".to_owned(), "149.5".to_owned()])
    );
    assert_eq!(price(&answer), "100.5");
    bench.stop().await;
}

#[tokio::test]
async fn frames_that_are_too_long_end_the_connection() {
    let venue = Venue::open().await;
    let bench = Bench::new("kraken", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    // The peer may close before all of it is written.
    let _ = within(peer.send(Message::text("x".repeat(2 << 20)))).await;
    venue.accept().await;
    bench.until(|source| source.connects == 2).await;
    bench.stop().await;
}

#[tokio::test]
async fn what_venues_say_is_recorded() {
    let venue = Venue::open().await;
    let bench = Bench::new("coinbase", &venue.url(), BTC);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let recording = {
        let (engine, path, cancel) = (bench.engine.clone(), path.clone(), bench.cancel.clone());
        tokio::spawn(async move { engine.record(&path, cancel).await })
    };
    let (mut peer, _) = venue.accept().await;
    let frame = coinbase_match(1, "BTC-USD", "10");
    say(&mut peer, ACK).await;
    say(&mut peer, &frame).await;
    bench.until(|source| source.frames == 2).await;
    bench.cancel.cancel();
    assert_eq!(within(recording).await.unwrap().unwrap(), 2);
    let recording = Recording::open(&path).unwrap();
    assert!(!recording.head().sample);
    let lines: Vec<_> = recording.collect();
    assert_eq!(lines[1].frame, frame.as_bytes());
    assert_eq!(lines[1].time_us, NOW_US);
}

#[tokio::test]
async fn one_connection_more_where_one_is_full() {
    let venue = Venue::open().await;
    let symbols: Vec<_> = (0..513).map(|n| format!("C{n}-USDT")).collect();
    let bench = Bench::new("binance", &venue.url(), &format!("symbols = {symbols:?}")).connect();
    let mut peers = Vec::new();
    for _ in 0..2 {
        let (peer, request) = venue.accept().await;
        peers.push((peer, request));
    }
    bench.until(|source| source.connections == Some(2)).await;
    // In the order of their names: 512 on the first.
    assert!(peers[0].1.contains("\"c0usdt@trade\""), "{}", peers[0].1);
    assert!(peers[1].1.contains("[\"c9usdt@trade\",\"c9usdt@ticker\"]"));
    for (peer, name) in peers
        .iter_mut()
        .map(|(peer, _)| peer)
        .zip(["C0USDT", "C9USDT"])
    {
        say(peer, &support::binance_trade(1, name, "5")).await;
    }
    bench.until(|source| source.trades == 2).await;
    // One is lost: only what it carried.
    drop(peers.remove(0));
    bench.until(|source| source.connections == Some(1)).await;
    assert_eq!(bench.source().state(), ConnectionState::Live);
    bench.stop().await;
}

#[tokio::test]
async fn sources_are_added_and_removed_while_it_runs() {
    let (first, second) = (Venue::open().await, Venue::open().await);
    let bench = Bench::new("coinbase", &first.url(), BTC).connect();
    let (mut peer, _) = first.accept().await;
    say(&mut peer, &coinbase_match(1, "BTC-USD", "10")).await;
    bench.until_told("prices:BTC-USD", "10").await;
    let mut source = SourceConfig::new(VenueKind::Kraken);
    source.url = Some(second.url());
    let added = bench.engine.add_source(&source).unwrap();
    assert_eq!(
        (added.name.as_str(), added.state()),
        ("kraken", ConnectionState::Connecting)
    );
    let (mut other, _) = second.accept().await;
    say(&mut other, &kraken_trade(1, "BTC/USD", "12")).await;
    bench.until_told("prices:BTC-USD", "11").await;
    bench.engine.remove_source("coinbase").unwrap();
    bench.until_told("prices:BTC-USD", "12").await;
    // Its connection is closed.
    let end = within(peer.next()).await;
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
    assert!(bench.engine.remove_source("coinbase").is_err());

    // The configuration is read again: what was added stays, what changed is new.
    let third = Venue::open().await;
    let text = |url: &str| format!("{BTC}\n[[source]]\nkind = \"coinbase\"\nurl = {url:?}");
    bench
        .engine
        .reload_sources(&config(&text(&third.url())))
        .unwrap();
    let (_peer, _) = third.accept().await;
    let names = || -> Vec<String> {
        let sources = bench.engine.sources();
        sources.into_iter().map(|source| source.name).collect()
    };
    assert_eq!(names(), ["coinbase", "kraken"]);
    let wrong = config(&text("http://x"));
    assert!(bench.engine.reload_sources(&wrong).is_err());
    assert_eq!(names().len(), 2);
    bench.stop().await;
}

/// The next request over HTTP, whole.
async fn http_request(venue: &Venue) -> (TcpStream, String) {
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
async fn an_oracle_is_heard_as_events() {
    let venue = Venue::open().await;
    let url = format!("http://{}/stream", venue.0.local_addr().unwrap());
    let bench = Bench::new("pyth", &url, BTC).connect();
    let (mut socket, _) = http_request(&venue).await;
    within(socket.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"))
        .await
        .unwrap();
    let (mut socket, request) = http_request(&venue).await;
    let error = bench.source().last_error.unwrap();
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
    bench.until_told("prices:BTC-USD", "61838.01").await;
    // It says why it ends, and is asked again.
    let event = "event: error\ndata: too slow\n\n";
    let error = format!("{:x}\r\n{event}\r\n", event.len());
    within(socket.write_all(error.as_bytes())).await.unwrap();
    bench
        .until(|source| {
            source.last_error.as_deref() == Some("the venue ended the stream: too slow")
        })
        .await;
    let _again = http_request(&venue).await;
    bench.stop().await;
}
