//! Refused markets: one that a venue does not have takes no other along, and is named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{
    NOW_US, binance_trade, kraken_trade,
    test_venue::{Harness, TestVenue, VenuePeer, advance_seconds, receive, send},
};
use tidewire_proto::v1::SourceState;

/// The symbols that the source names as refused, and the reason for the first.
fn refused(harness: &Harness) -> (Vec<String>, String) {
    let refused = harness.source().refused;
    let reason = refused.first().map(|first| first.reason.clone());
    let symbols = refused.into_iter().map(|refused| refused.symbol);
    (symbols.collect(), reason.unwrap_or_default())
}

/// The state and the reason of a symbol's source in `GetPrice`.
fn detail(harness: &Harness, symbol: &str) -> (SourceState, String) {
    let answer = harness.engine.get_price(symbol).unwrap();
    let detail = &answer.source_details[0];
    (detail.state(), detail.reason.clone().unwrap_or_default())
}

fn bybit_trade(id: u64, name: &str) -> String {
    let at_ms = NOW_US / 1_000;
    format!(
        r#"{{"topic":"publicTrade.{name}","type":"snapshot","ts":{at_ms},"data":[{{"T":{at_ms},"s":"{name}","S":"Buy","v":"1","p":"10.5","i":"{id}","BT":false}}]}}"#
    )
}

#[tokio::test]
async fn the_others_of_a_refused_request_are_requested_without_the_one_it_names() {
    let venue = TestVenue::open().await;
    let symbols = r#"symbols = ["BTC-USDT", "ETH-USDT", "FOO-USDT", "SOL-USDT", "XRP-USDT"]"#;
    let harness = Harness::new("bybit", &venue.url(), symbols).connect();
    let (mut peer, request) = venue.accept().await;
    assert!(request.contains("publicTrade.FOOUSDT") && request.contains("tickers.BTCUSDT"));
    let refusal = r#"{"success":false,"ret_msg":"error:handler not found,topic:publicTrade.FOOUSDT","conn_id":"c","req_id":"","op":"subscribe"}"#;
    send(&mut peer, refusal).await;
    let again = receive(&mut peer).await;
    assert!(!again.contains("FOOUSDT"), "{again}");
    for name in ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"] {
        assert!(
            again.contains(&format!("\"tickers.{name}\",\"publicTrade.{name}\"")),
            "{again}"
        );
    }
    send(
        &mut peer,
        r#"{"success":true,"ret_msg":"subscribe","conn_id":"c","req_id":"2","op":"subscribe"}"#,
    )
    .await;
    for (id, name) in (1..).zip(["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]) {
        send(&mut peer, &bybit_trade(id, name)).await;
    }
    harness.until(|source| source.trades == 4).await;
    let (symbols, reason) = refused(&harness);
    assert_eq!(symbols, ["FOO-USDT"]);
    assert_eq!(reason, "error:handler not found,topic:publicTrade.FOOUSDT");
    let (state, reason) = detail(&harness, "FOO-USDT");
    assert_eq!(state, SourceState::Stale);
    assert_eq!(
        reason,
        "the venue refuses it: error:handler not found,topic:publicTrade.FOOUSDT"
    );
    assert_eq!(
        detail(&harness, "BTC-USDT"),
        (SourceState::Live, String::new())
    );
    // Data shows that it is not refused any more.
    send(&mut peer, &bybit_trade(9, "FOOUSDT")).await;
    harness.until(|source| source.trades == 5).await;
    assert_eq!(refused(&harness).0, Vec::<String>::new());
    harness.stop().await;
}

#[tokio::test]
async fn without_a_name_the_halves_are_requested() {
    let venue = TestVenue::open().await;
    let symbols = r#"symbols = ["A-USDT", "B-USDT", "C-USDT"]"#;
    let harness = Harness::new("binance", &venue.url(), symbols).connect();
    let (mut peer, _) = venue.accept().await;
    let refuse = |id: u64| format!(r#"{{"error":{{"code":2,"msg":"Invalid request"}},"id":{id}}}"#);
    send(&mut peer, &refuse(1)).await;
    let halves = [receive(&mut peer).await, receive(&mut peer).await];
    assert!(
        halves[0].contains(r#"["ausdt@trade","ausdt@ticker","busdt@trade","busdt@ticker"]"#),
        "{}",
        halves[0]
    );
    assert!(
        halves[1].contains(r#"["cusdt@trade","cusdt@ticker"]"#),
        "{}",
        halves[1]
    );
    // Of the first half, one is refused.
    send(&mut peer, &refuse(2)).await;
    send(&mut peer, r#"{"result":null,"id":3}"#).await;
    let quarters = [receive(&mut peer).await, receive(&mut peer).await];
    assert!(
        quarters[0].contains(r#"["ausdt@trade","ausdt@ticker"]"#),
        "{}",
        quarters[0]
    );
    send(&mut peer, r#"{"result":null,"id":4}"#).await;
    send(&mut peer, &refuse(5)).await;
    send(&mut peer, &binance_trade(1, "AUSDT", "5")).await;
    harness.until(|source| source.trades == 1).await;
    assert_eq!(refused(&harness).0, ["B-USDT"]);
    harness.stop().await;
}

#[tokio::test]
async fn a_refused_market_is_requested_again_alone_after_growing_pauses() {
    let venue = TestVenue::open().await;
    let text = "symbols = [\"BTC-USD\", \"FOO-USD\"]\nwatchdog = \"7200s\"";
    let harness = Harness::new("kraken", &venue.url(), text).connect();
    let (mut peer, _) = venue.accept().await;
    let trade = receive(&mut peer).await;
    assert!(trade.contains(r#""req_id":2"#), "{trade}");
    // Kraken answers for each market.
    send(
        &mut peer,
        r#"{"method":"subscribe","result":{"channel":"trade"},"success":true,"req_id":2}"#,
    )
    .await;
    let refuse = |id: u64| {
        format!(
            r#"{{"error":"Currency pair not supported","method":"subscribe","req_id":{id},"success":false,"symbol":"FOO/USD"}}"#
        )
    };
    // The second refusal is of the first request again, one more is of the trades.
    let mut id = 1;
    for (number, seconds) in (1..).zip([6, 31, 301, 3_601, 3_601]) {
        send(&mut peer, &refuse(id)).await;
        send(&mut peer, &kraken_trade(number, "BTC/USD", "10")).await;
        harness.until(|source| source.trades == number).await;
        let (symbols, reason) = refused(&harness);
        assert_eq!(symbols, ["FOO-USD"]);
        assert_eq!(reason, "Currency pair not supported: FOO/USD");
        advance_seconds(seconds).await;
        let again = next_request(&mut peer).await;
        id = number + 2;
        assert!(
            again.contains(r#""symbol":["FOO/USD"]"#)
                && again.contains(r#""channel":"ticker""#)
                && again.contains(&format!(r#""req_id":{id}"#)),
            "{again}"
        );
    }
    harness.stop().await;
}

/// The next frame that is no keep-alive.
async fn next_request(peer: &mut VenuePeer) -> String {
    loop {
        let frame = receive(peer).await;
        if !frame.contains("ping") {
            return frame;
        }
    }
}

/// A Bybit venue of seven markets, which are two requests. The first is accepted.
async fn two_requests() -> (Harness, VenuePeer, String) {
    let venue = TestVenue::open().await;
    let symbols: Vec<_> = ["A", "B", "C", "D", "E", "F", "G"]
        .map(|base| format!("{base}-USDT"))
        .to_vec();
    let text = format!("symbols = {symbols:?}\nwatchdog = \"7200s\"");
    let harness = Harness::new("bybit", &venue.url(), &text).connect();
    let (mut peer, _) = venue.accept().await;
    send(&mut peer, &bybit_accepts(1)).await;
    let second = next_request(&mut peer).await;
    (harness, peer, second)
}

fn bybit_accepts(id: u64) -> String {
    format!(r#"{{"success":true,"ret_msg":"subscribe","req_id":"{id}","op":"subscribe"}}"#)
}

fn bybit_refuses(id: u64, reason: &str) -> String {
    format!(r#"{{"success":false,"ret_msg":{reason:?},"req_id":"{id}","op":"subscribe"}}"#)
}

#[tokio::test]
async fn too_many_requests_refuse_no_market() {
    let (harness, mut peer, second) = two_requests().await;
    let topics = |request: &str| request.split_once("[").unwrap().1.to_owned();
    let cut = |request: &str| topics(request).split_once(']').unwrap().0.to_owned();
    for (id, seconds) in [(2, 5), (3, 30)] {
        send(&mut peer, &bybit_refuses(id, "Too many visits!")).await;
        harness
            .until(|source| source.frames == id && source.last_error.is_some())
            .await;
        assert_eq!(refused(&harness).0, Vec::<String>::new());
        advance_seconds(seconds).await;
        let again = next_request(&mut peer).await;
        assert_eq!(cut(&again), cut(&second));
    }
    let error = harness.source().last_error.unwrap();
    assert_eq!(error, "the venue refuses: Too many visits!");
    send(&mut peer, &bybit_accepts(4)).await;
    send(&mut peer, &bybit_trade(1, "GUSDT")).await;
    harness.until(|source| source.trades == 1).await;
    assert_eq!(detail(&harness, "G-USDT").0, SourceState::Live);
    harness.stop().await;
}

#[tokio::test]
async fn a_reason_that_repeats_the_request_refuses_its_halves_first() {
    let (harness, mut peer, second) = two_requests().await;
    assert!(second.contains("FUSDT") && second.contains("GUSDT"));
    let reason =
        "Invalid request, args: [tickers.FUSDT,publicTrade.FUSDT,tickers.GUSDT,publicTrade.GUSDT]";
    send(&mut peer, &bybit_refuses(2, reason)).await;
    let halves = [next_request(&mut peer).await, next_request(&mut peer).await];
    assert!(halves[0].contains(r#"["tickers.FUSDT","publicTrade.FUSDT"]"#));
    assert!(halves[1].contains(r#"["tickers.GUSDT","publicTrade.GUSDT"]"#));
    assert_eq!(refused(&harness).0, Vec::<String>::new());
    send(&mut peer, &bybit_accepts(3)).await;
    send(&mut peer, &bybit_refuses(4, "Invalid request")).await;
    harness.until(|source| !source.refused.is_empty()).await;
    assert_eq!(refused(&harness).0, ["G-USDT"]);
    harness.stop().await;
}
