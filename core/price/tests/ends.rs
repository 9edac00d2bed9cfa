//! Connections that are to end: another takes their place before they go, nothing is lost
//! and nothing counts twice.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures::StreamExt as _;
use support::{
    coinbase_match,
    venue::{Bench, Peer, Venue, pass, receive, say, within},
};
use tidewire_proto::v1::ConnectionState;
use tokio_tungstenite::tungstenite::Message;

const BTC: &str = r#"symbols = ["BTC-USD"]"#;

/// A trade, by its number and price, as a venue tells it.
type TradeFrame = fn(u64, &str) -> String;

/// Who announces its end, how, and a trade at it.
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

/// OKX, an engine that has a price of it, and their connection.
async fn okx() -> (Venue, Bench, Peer) {
    let venue = Venue::open().await;
    let config = "symbols = [\"BTC-USDT\"]\nwatchdog = \"200000s\"";
    let bench = Bench::new("okx", &venue.url(), config).connect();
    let (mut peer, _) = venue.accept().await;
    say(&mut peer, &okx_trade(1, "10")).await;
    bench.until_told("prices:BTC-USDT", "10").await;
    (venue, bench, peer)
}

#[tokio::test]
async fn an_announced_end_loses_nothing_and_counts_nothing_twice() {
    for (kind, farewell, trade) in ANNOUNCED {
        let venue = Venue::open().await;
        let symbols = r#"symbols = ["BTC-USDT"]"#;
        let bench = Bench::new(kind, &venue.url(), symbols).connect();
        let (mut old, _) = venue.accept().await;
        say(&mut old, &trade(1, "10")).await;
        bench.until_told("prices:BTC-USDT", "10").await;
        say(&mut old, farewell).await;
        // Said while the other is set up.
        say(&mut old, &trade(2, "11")).await;
        let (mut new, _) = venue.accept().await;
        bench.until(|source| source.connects == 2).await;
        // Said on both, and only on the old one, as the new one is not subscribed yet.
        say(&mut old, &trade(3, "12")).await;
        bench.until_told("prices:BTC-USDT", "12").await;
        for (id, price) in [(2, "11"), (3, "12"), (4, "13")] {
            say(&mut new, &trade(id, price)).await;
        }
        bench.until_told("prices:BTC-USDT", "13").await;
        say(&mut old, &trade(4, "13")).await;
        drop(old);
        say(&mut new, &trade(5, "14")).await;
        bench.until_told("prices:BTC-USDT", "14").await;
        let source = bench.source();
        assert_eq!(
            (source.trades, source.gaps, source.connects),
            (5, None, 2),
            "{kind}"
        );
        let told = bench.journal.prices("prices:BTC-USDT");
        assert!(told.iter().all(|update| !update.stale), "{kind}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn an_old_connection_is_kept_alive_until_it_goes() {
    let (venue, bench, mut old) = okx().await;
    pass(21).await;
    assert_eq!(receive(&mut old).await, "ping");
    let farewell = ANNOUNCED[1].1;
    say(&mut old, farewell).await;
    // While another is set up, which takes a while: its handshake is not answered yet.
    let (socket, _) = within(venue.0.accept()).await.unwrap();
    bench.until(|source| source.frames == 2).await;
    pass(9).await;
    pass(9).await;
    pass(9).await;
    assert_eq!(receive(&mut old).await, "ping");
    drop(socket);
    // While both are heard.
    let (mut new, _) = venue.accept().await;
    bench.until(|source| source.connects == 2).await;
    say(&mut new, ACK).await;
    bench.until(|source| source.frames == 3).await;
    pass(21).await;
    assert_eq!(receive(&mut old).await, "ping");
    assert_eq!(receive(&mut new).await, "ping");
    say(&mut old, &okx_trade(2, "11")).await;
    bench.until_told("prices:BTC-USDT", "11").await;
    pass(10).await;
    let end = within(old.next()).await;
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
    bench.stop().await;
}

#[tokio::test]
async fn an_old_connection_stays_if_the_new_one_fails() {
    let (venue, bench, mut old) = okx().await;
    say(&mut old, ANNOUNCED[1].1).await;
    let (new, _) = venue.accept().await;
    bench.until(|source| source.connects == 2).await;
    drop(new);
    let (mut newer, _) = venue.accept().await;
    say(&mut old, &okx_trade(2, "11")).await;
    bench.until_told("prices:BTC-USDT", "11").await;
    say(&mut newer, &okx_trade(3, "12")).await;
    bench.until_told("prices:BTC-USDT", "12").await;
    let source = bench.source();
    assert_eq!((source.trades, source.gaps), (3, None));
    let told = bench.journal.prices("prices:BTC-USDT");
    assert!(told.iter().all(|update| !update.stale));
    bench.stop().await;
}

#[tokio::test]
async fn an_old_connection_goes_after_the_new_one_is_there() {
    let venue = Venue::open().await;
    let config = format!("watchdog = \"200000s\"\n{BTC}");
    let bench = Bench::new("coinbase", &venue.url(), &config).connect();
    let (mut old, _) = venue.accept().await;
    say(&mut old, &coinbase_match(1, "BTC-USD", "10")).await;
    bench.until_told("prices:BTC-USD", "10").await;
    // Venues end a connection after 24 hours.
    pass(24 * 3_600 - 600).await;
    let (mut new, request) = venue.accept().await;
    assert!(request.contains("BTC-USD"));
    // The old one is still heard, and what both say counts once.
    say(&mut old, &coinbase_match(2, "BTC-USD", "11")).await;
    bench.until_told("prices:BTC-USD", "11").await;
    say(&mut new, &coinbase_match(2, "BTC-USD", "11")).await;
    say(&mut new, &coinbase_match(3, "BTC-USD", "12")).await;
    bench.until_told("prices:BTC-USD", "12").await;
    pass(60).await;
    assert!(!matches!(
        within(old.next()).await,
        Some(Ok(Message::Text(_)))
    ));
    say(&mut new, &coinbase_match(4, "BTC-USD", "13")).await;
    bench.until_told("prices:BTC-USD", "13").await;
    let source = bench.source();
    assert_eq!((source.trades, source.connects), (4, 2));
    assert_eq!(source.state(), ConnectionState::Live);
    let told = bench.journal.prices("prices:BTC-USD");
    assert!(told.iter().all(|update| !update.stale));
    bench.stop().await;
}
