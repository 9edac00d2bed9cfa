//! Replacement of connections that must end: no trade is lost, and none counts twice.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures::StreamExt as _;
use support::{
    coinbase_match,
    test_venue::{Harness, TestVenue, VenuePeer, advance_seconds, receive, send, within},
};
use tidewire_proto::v1::ConnectionState;
use tokio_tungstenite::tungstenite::Message;

const BTC: &str = r#"symbols = ["BTC-USD"]"#;

/// A venue's frame of a trade, by its number and price.
type TradeFrame = fn(u64, &str) -> String;

/// Venues that announce a shutdown: the announcement, and a trade.
const ANNOUNCED: [(&str, &str, TradeFrame); 3] = [
    (
        "binance",
        r#"{"e":"serverShutdown","E":1750000000000}"#,
        |id, price| support::binance_trade(id, "BTCUSDT", price),
    ),
    (
        "okx",
        r#"{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. Please reconnect.","connId":"a4d3ae55"}"#,
        okx_trade,
    ),
    (
        "bitstamp",
        r#"{"event":"bts:request_reconnect","channel":"","data":""}"#,
        |id, price| support::bitstamp_trade(id, "btcusdt", price, "1"),
    ),
];

const ACK: &str = r#"{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"}}"#;

fn okx_trade(id: u64, price: &str) -> String {
    format!(
        r#"{{"arg":{{"channel":"trades","instId":"BTC-USDT"}},"data":[{{"instId":"BTC-USDT","tradeId":"{id}","px":"{price}","sz":"1","side":"buy","ts":"1750000000000","count":"1"}}]}}"#
    )
}

/// OKX, an engine with a price of it, and their connection.
async fn okx() -> (TestVenue, Harness, VenuePeer) {
    let venue = TestVenue::open().await;
    let config = "symbols = [\"BTC-USDT\"]\nwatchdog = \"200000s\"";
    let harness = Harness::new("okx", &venue.url(), config).connect();
    let (mut peer, _) = venue.accept().await;
    send(&mut peer, &okx_trade(1, "10")).await;
    harness.until_published("prices:BTC-USDT", "10").await;
    (venue, harness, peer)
}

#[tokio::test]
async fn an_announced_shutdown_loses_no_trade_and_counts_none_twice() {
    for (kind, announcement, trade) in ANNOUNCED {
        let venue = TestVenue::open().await;
        let symbols = r#"symbols = ["BTC-USDT"]"#;
        let harness = Harness::new(kind, &venue.url(), symbols).connect();
        let (mut old, _) = venue.accept().await;
        send(&mut old, &trade(1, "10")).await;
        harness.until_published("prices:BTC-USDT", "10").await;
        send(&mut old, announcement).await;
        // Sent while the new connection is set up.
        send(&mut old, &trade(2, "11")).await;
        let (mut new, _) = venue.accept().await;
        harness.until(|source| source.connects == 2).await;
        // Sent on both, and first on the old one, because the new one is not subscribed yet.
        send(&mut old, &trade(3, "12")).await;
        harness.until_published("prices:BTC-USDT", "12").await;
        for (id, price) in [(2, "11"), (3, "12"), (4, "13")] {
            send(&mut new, &trade(id, price)).await;
        }
        harness.until_published("prices:BTC-USDT", "13").await;
        send(&mut old, &trade(4, "13")).await;
        drop(old);
        send(&mut new, &trade(5, "14")).await;
        harness.until_published("prices:BTC-USDT", "14").await;
        let source = harness.source();
        assert_eq!(
            (source.trades, source.gaps, source.connects),
            (5, None, 2),
            "{kind}"
        );
        let published = harness.publisher.prices("prices:BTC-USDT");
        assert!(published.iter().all(|update| !update.stale), "{kind}");
        harness.stop().await;
    }
}

#[tokio::test]
async fn an_old_connection_gets_keep_alives_until_it_closes() {
    let (venue, harness, mut old) = okx().await;
    advance_seconds(21).await;
    assert_eq!(receive(&mut old).await, "ping");
    let announcement = ANNOUNCED[1].1;
    send(&mut old, announcement).await;
    // While the new connection's handshake is not answered yet.
    let (socket, _) = within(venue.0.accept()).await.unwrap();
    harness.until(|source| source.frames == 2).await;
    advance_seconds(9).await;
    advance_seconds(9).await;
    advance_seconds(9).await;
    assert_eq!(receive(&mut old).await, "ping");
    drop(socket);
    // While both are read.
    let (mut new, _) = venue.accept().await;
    harness.until(|source| source.connects == 2).await;
    send(&mut new, ACK).await;
    harness.until(|source| source.frames == 3).await;
    advance_seconds(21).await;
    assert_eq!(receive(&mut old).await, "ping");
    assert_eq!(receive(&mut new).await, "ping");
    send(&mut old, &okx_trade(2, "11")).await;
    harness.until_published("prices:BTC-USDT", "11").await;
    advance_seconds(10).await;
    let end = within(old.next()).await;
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
    harness.stop().await;
}

#[tokio::test]
async fn an_old_connection_stays_if_the_new_one_fails() {
    let (venue, harness, mut old) = okx().await;
    send(&mut old, ANNOUNCED[1].1).await;
    let (new, _) = venue.accept().await;
    harness.until(|source| source.connects == 2).await;
    drop(new);
    let (mut newer, _) = venue.accept().await;
    send(&mut old, &okx_trade(2, "11")).await;
    harness.until_published("prices:BTC-USDT", "11").await;
    send(&mut newer, &okx_trade(3, "12")).await;
    harness.until_published("prices:BTC-USDT", "12").await;
    let source = harness.source();
    assert_eq!((source.trades, source.gaps), (3, None));
    let published = harness.publisher.prices("prices:BTC-USDT");
    assert!(published.iter().all(|update| !update.stale));
    harness.stop().await;
}

#[tokio::test]
async fn an_old_connection_closes_after_the_new_one_is_subscribed() {
    let venue = TestVenue::open().await;
    let config = format!("watchdog = \"200000s\"\n{BTC}");
    let harness = Harness::new("coinbase", &venue.url(), &config).connect();
    let (mut old, _) = venue.accept().await;
    send(&mut old, &coinbase_match(1, "BTC-USD", "10")).await;
    harness.until_published("prices:BTC-USD", "10").await;
    // Venues close a connection after 24 hours.
    advance_seconds(24 * 3_600 - 600).await;
    let (mut new, request) = venue.accept().await;
    assert!(request.contains("BTC-USD"));
    // The old one is still read, and a trade on both counts once.
    send(&mut old, &coinbase_match(2, "BTC-USD", "11")).await;
    harness.until_published("prices:BTC-USD", "11").await;
    send(&mut new, &coinbase_match(2, "BTC-USD", "11")).await;
    send(&mut new, &coinbase_match(3, "BTC-USD", "12")).await;
    harness.until_published("prices:BTC-USD", "12").await;
    advance_seconds(60).await;
    assert!(!matches!(
        within(old.next()).await,
        Some(Ok(Message::Text(_)))
    ));
    send(&mut new, &coinbase_match(4, "BTC-USD", "13")).await;
    harness.until_published("prices:BTC-USD", "13").await;
    let source = harness.source();
    assert_eq!((source.trades, source.connects), (4, 2));
    assert_eq!(source.state(), ConnectionState::Live);
    let published = harness.publisher.prices("prices:BTC-USD");
    assert!(published.iter().all(|update| !update.stale));
    harness.stop().await;
}
