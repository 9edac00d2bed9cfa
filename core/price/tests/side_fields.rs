//! Fields beside the price in another form than documented: the price counts, the field is named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{CapturingPublisher, NOW_US, config, price};
use tidewire_price::{Aggregator, VenueKind};
use tidewire_proto::v1::PriceUpdate;

const BINANCE_TRADE: &str = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1750000000010,"s":"BTCUSDT","t":12345,"p":"61837.64","q":"0.001","T":1750000000009,"m":true,"M":true}}"#;
const BINANCE_TICKER: &str = r#"{"stream":"btcusdt@ticker","data":{"e":"24hrTicker","E":1750000000005,"s":"BTCUSDT","p":"1","P":"2.5","w":"1","c":"61837.64","Q":"1","b":"61837","B":"1","a":"61838","A":"1","o":"60000","h":"1","l":"1","v":"10","q":"1005","O":1,"C":5,"F":1,"L":2,"n":2}}"#;
const COINBASE_MATCH: &str = r#"{"type":"match","trade_id":42,"side":"sell","size":"0.5","price":"61837.64","product_id":"BTC-USDT","sequence":9,"time":"2025-06-15T15:06:40.1Z"}"#;
const COINBASE_TICKER: &str = r#"{"type":"ticker","sequence":1,"product_id":"BTC-USDT","price":"61837.64","open_24h":"60000","volume_24h":"3","best_bid":"61837","best_ask":"61838","time":"2025-06-15T15:06:40.1Z","trade_id":5}"#;
const ADVANCED_TRADE: &str = r#"{"channel":"market_trades","timestamp":"2025-06-15T15:06:40.2Z","events":[{"type":"update","trades":[{"trade_id":"1","product_id":"BTC-USDT","price":"61837.64","size":"1","side":"BUY","time":"2025-06-15T15:06:40.1Z"}]}]}"#;
const ADVANCED_TICKER: &str = r#"{"channel":"ticker","timestamp":"2025-06-15T15:06:40.2Z","events":[{"type":"update","tickers":[{"product_id":"BTC-USDT","price":"61837.64","volume_24_h":"20","price_percent_chg_24_h":"-2.5","best_bid":"61837","best_ask":"61838"}]}]}"#;
const KRAKEN_TRADE: &str = r#"{"channel":"trade","type":"update","data":[{"symbol":"BTC/USDT","side":"sell","price":61837.64,"qty":1,"ord_type":"market","trade_id":7,"timestamp":"2025-06-15T15:06:40.1Z"}]}"#;
const KRAKEN_TICKER: &str = r#"{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USDT","bid":61837,"ask":61838,"last":61837.64,"volume":10,"vwap":2,"change_pct":-1.5}]}"#;
const OKX_TRADE: &str = r#"{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"1306","px":"61837.64","sz":"0.1","side":"buy","ts":"1750000000174","count":"3"}]}"#;
const OKX_TICKER: &str = r#"{"arg":{"channel":"tickers","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","last":"61837.64","askPx":"61838","bidPx":"61837","open24h":"60000","volCcy24h":"2222","vol24h":"20","ts":"1750000000085"}]}"#;
const BYBIT_TRADE: &str = r#"{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1750000000868,"data":[{"T":1750000000865,"s":"BTCUSDT","S":"Buy","v":"0.001","p":"61837.64","i":"2290","BT":false}]}"#;
const BYBIT_TICKER: &str = r#"{"topic":"tickers.BTCUSDT","ts":1750000000003,"type":"snapshot","data":{"symbol":"BTCUSDT","lastPrice":"61837.64","volume24h":"6780","turnover24h":"141946527","price24hPcnt":"0.0196"}}"#;
const BITSTAMP_TRADE: &str = r#"{"data":{"id":215,"amount_str":"0.07","price_str":"61837.64","type":1,"microtimestamp":"1750000000596001"},"channel":"live_trades_btcusdt","event":"trade"}"#;

/// A venue's frame, with the side fields that it always has and those that it may lack.
type Frame = (
    VenueKind,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const FRAMES: [Frame; 13] = [
    (VenueKind::Binance, BINANCE_TRADE, &["T", "m"], &[]),
    (
        VenueKind::Binance,
        BINANCE_TICKER,
        &["E", "P", "b", "a", "o", "v", "q"],
        &[],
    ),
    (VenueKind::Coinbase, COINBASE_MATCH, &["side", "time"], &[]),
    (
        VenueKind::Coinbase,
        COINBASE_TICKER,
        &["open_24h", "volume_24h", "best_bid", "best_ask", "time"],
        &[],
    ),
    (VenueKind::CoinbaseAdvanced, ADVANCED_TRADE, &["time"], &[]),
    (
        VenueKind::CoinbaseAdvanced,
        ADVANCED_TICKER,
        &[
            "timestamp",
            "volume_24_h",
            "price_percent_chg_24_h",
            "best_bid",
            "best_ask",
        ],
        &[],
    ),
    (VenueKind::Kraken, KRAKEN_TRADE, &["side", "timestamp"], &[]),
    (
        VenueKind::Kraken,
        KRAKEN_TICKER,
        &["bid", "ask", "volume", "vwap", "change_pct"],
        &[],
    ),
    (VenueKind::Okx, OKX_TRADE, &["side", "ts"], &["count"]),
    (
        VenueKind::Okx,
        OKX_TICKER,
        &["askPx", "bidPx", "open24h", "volCcy24h", "vol24h", "ts"],
        &[],
    ),
    (VenueKind::Bybit, BYBIT_TRADE, &["T", "S"], &["BT"]),
    (
        VenueKind::Bybit,
        BYBIT_TICKER,
        &["ts", "volume24h", "turnover24h", "price24hPcnt"],
        &[],
    ),
    (
        VenueKind::Bitstamp,
        BITSTAMP_TRADE,
        &["type", "microtimestamp"],
        &[],
    ),
];

fn get_price(kind: VenueKind, frame: &str) -> PriceUpdate {
    let text = format!(
        "symbols = [\"BTC-USDT\"]\n[[source]]\nkind = {:?}",
        kind.name()
    );
    let mut aggregator = Aggregator::new(&config(&text), CapturingPublisher::new()).unwrap();
    let source = aggregator.source(kind.name()).unwrap();
    aggregator.apply_frame(source, &kind.parse(frame.as_bytes()), NOW_US);
    assert_eq!(aggregator.sources(NOW_US)[0].bad_frames, 0, "{frame}");
    aggregator.price("BTC-USDT", NOW_US).unwrap()
}

/// The range of a field's value in a frame, and of the field with the comma before or after it.
fn find(frame: &str, field: &str) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let key = format!("\"{field}\":");
    let begin = frame.rfind(&key).unwrap();
    let from = begin + key.len();
    let length = frame[from..].find([',', '}']).unwrap();
    let until = from + length;
    let whole = match frame.as_bytes()[until] {
        b',' => begin..until + 1,
        _ => begin - 1..until,
    };
    (from..until, whole)
}

#[test]
fn a_side_field_in_any_form_costs_itself_alone_and_is_named() {
    for (kind, frame, always, optional) in FRAMES {
        let usual = get_price(kind, frame);
        assert_eq!(price(&usual), "61837.64", "{frame}");
        assert!(
            usual.source_details[0].unexpected_fields.is_empty(),
            "{frame}"
        );
        for field in always.iter().chain(optional) {
            let (value, whole) = find(frame, field);
            let other_form = match frame[value.clone()].strip_prefix('"') {
                Some(text) => text.trim_end_matches('"').to_owned(),
                None => format!("\"{}\"", &frame[value.clone()]),
            };
            // A text that is no number is no JSON without its quotes.
            let other_form = match serde_json::from_str::<serde_json::Value>(&other_form) {
                Ok(_) => other_form,
                Err(_) => "7".to_owned(),
            };
            let with = |new: &str| format!("{}{new}{}", &frame[..value.start], &frame[value.end..]);
            let missing = format!("{}{}", &frame[..whole.start], &frame[whole.end..]);
            let variants = [
                (with(&other_form), true),
                (with("{\"x\":[1]}"), true),
                (with("null"), always.contains(field)),
                (missing, always.contains(field)),
            ];
            for (variant, is_named) in variants {
                let answer = get_price(kind, &variant);
                assert_eq!(price(&answer), "61837.64", "{variant}");
                let named = &answer.source_details[0].unexpected_fields;
                assert_eq!(
                    named.contains(&(*field).to_owned()),
                    is_named,
                    "{variant}: {named:?}"
                );
                assert!(named.len() <= 1, "{variant}: {named:?}");
            }
        }
        // A new field is nobody's concern.
        let new = frame.replacen('{', "{\"brandNew\":[{\"a\":null}],", 1);
        let answer = get_price(kind, &new);
        assert_eq!(price(&answer), "61837.64");
        assert!(answer.source_details[0].unexpected_fields.is_empty());
    }
}

#[test]
fn a_readable_value_counts_in_either_form() {
    let kraken = KRAKEN_TICKER.replace("-1.5", "\"-1.5\"");
    let answer = get_price(VenueKind::Kraken, &kraken);
    assert_eq!(
        (answer.change_24h, answer.volume_24h),
        (Some(-1.5), Some(20.0))
    );
    let binance = BINANCE_TICKER.replace("\"1005\"", "1005");
    assert_eq!(
        get_price(VenueKind::Binance, &binance).volume_24h,
        Some(1005.0)
    );
    let binance = BINANCE_TICKER.replace("\"1005\"", "null");
    let answer = get_price(VenueKind::Binance, &binance);
    assert_eq!((answer.change_24h, answer.volume_24h), (Some(2.5), None));
}

#[test]
fn a_publication_of_an_oracle_needs_its_price_alone() {
    const PYTH: &str = r#"{"parsed":[{"id":"e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43","price":{"price":"6183764","conf":"3","expo":-2,"publish_time":1750000000}}]}"#;
    let text = "symbols = [\"BTC-USD\"]\n[[source]]\nkind = \"pyth\"";
    for (from, to) in [
        ("\"3\"", "3"),
        ("\"3\"", "null"),
        ("\"conf\":\"3\",", ""),
        ("1750000000", "\"1750000000\""),
        ("1750000000", "null"),
    ] {
        let mut aggregator = Aggregator::new(&config(text), CapturingPublisher::new()).unwrap();
        let source = aggregator.source("pyth").unwrap();
        let frame = PYTH.replace(from, to);
        aggregator.apply_frame(source, &VenueKind::Pyth.parse(frame.as_bytes()), NOW_US);
        let answer = aggregator.price("BTC-USD", NOW_US).unwrap();
        assert_eq!(price(&answer), "61837.64", "{frame}");
        assert_eq!(
            answer.source_details[0].unexpected_fields.len(),
            1,
            "{frame}"
        );
    }
}
