//! Units: each venue's frames become the same figures in base, quote and percent.
#![allow(clippy::unwrap_used)]

mod support;

use support::{CapturingPublisher, NOW_US, config, price, read_config};
use tidewire_price::{Aggregator, VenueKind};
use tidewire_proto::v1::PriceUpdate;

/// A source that is fed with frames.
struct Harness {
    aggregator: Aggregator,
    kind: VenueKind,
}

impl Harness {
    /// A source of this kind with these keys. Prices are a VWAP, so that sizes show.
    fn new(kind: VenueKind, keys: &str) -> Self {
        let text = format!(
            "symbols = [\"BTC-USD\", \"UNI-USD\", \"BTC-USDT\", \"BTC-USDC\"]\nmethod = \"vwap\"\n[[source]]\nkind = {:?}\nclock = \"arrival\"\n{keys}",
            kind.name()
        );
        Self {
            aggregator: Aggregator::new(&config(&text), CapturingPublisher::new()).unwrap(),
            kind,
        }
    }

    fn apply_venue_frame(&mut self, frame: &str) {
        let source = self.aggregator.source(self.kind.name()).unwrap();
        let parsed = self.kind.parse(frame.as_bytes());
        self.aggregator.apply_frame(source, &parsed, NOW_US);
    }

    fn get_price(&self, symbol: &str) -> PriceUpdate {
        self.aggregator.price(symbol, NOW_US).unwrap()
    }

    /// The volume and the change of 24 hours.
    fn day(&self, symbol: &str) -> (Option<f64>, Option<f64>) {
        let update = self.get_price(symbol);
        let round = |number: f64| (number * 1e6).round() / 1e6;
        (update.volume_24h.map(round), update.change_24h.map(round))
    }

    /// The VWAP, and the size of the newest trade, in base.
    fn traded(&self, symbol: &str) -> (String, String) {
        let newest = self.aggregator.overview(NOW_US).recent_trades;
        let size = newest.first().and_then(|trade| trade.size.clone());
        let size = size.map_or_else(|| "unknown".to_owned(), |size| size.value);
        (price(&self.get_price(symbol)).to_owned(), size)
    }
}

#[test]
fn binance_spot_and_usd_margined_count_in_base() {
    let mut harness = Harness::new(VenueKind::Binance, "");
    harness.apply_venue_frame(r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161257687,"T":1723161257679,"s":"BTCUSDT","t":1,"p":"50000.00","q":"0.300","X":"MARKET","m":false}}"#);
    harness.apply_venue_frame(r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161257687,"T":1723161257679,"s":"BTCUSDT","t":2,"p":"60000.00","q":"0.100","X":"MARKET","m":false}}"#);
    // (15,000 + 6,000) / 0.4
    assert_eq!(
        harness.traded("BTC-USDT"),
        ("52500".to_owned(), "0.1".to_owned())
    );
    harness.apply_venue_frame(r#"{"stream":"btcusdt@ticker","data":{"e":"24hrTicker","E":1723161257687,"s":"BTCUSDT","p":"1000.00","P":"1.724","w":"58500.00","c":"59000.00","Q":"0.001","o":"58000.00","h":"60000.00","l":"57000.00","v":"1000.000","q":"58500000.00","O":1723074857687,"C":1723161257687,"F":1,"L":2,"n":2}}"#);
    assert_eq!(harness.day("BTC-USDT"), (Some(58_500_000.0), Some(1.724)));
}

/// Trades and a ticker of COIN-M.
const COIN_M: [&str; 3] = [
    r#"{"stream":"btcusd_perp@trade","data":{"e":"trade","E":1723161257687,"T":1723161257679,"s":"BTCUSD_PERP","t":1,"p":"50000.0","q":"500","X":"MARKET","m":false}}"#,
    r#"{"stream":"btcusd_perp@trade","data":{"e":"trade","E":1723161257687,"T":1723161257679,"s":"BTCUSD_PERP","t":2,"p":"40000.0","q":"400","X":"MARKET","m":false}}"#,
    r#"{"stream":"btcusd_perp@ticker","data":{"e":"24hrTicker","E":1723161257687,"s":"BTCUSD_PERP","ps":"BTCUSD","p":"-800.0","P":"-1.960","w":"40500.1","c":"40000.0","Q":"400","o":"40800.0","h":"51000.0","l":"39000.0","v":"810000","q":"2000.0","O":1723074857687,"C":1723161257687,"F":1,"L":2,"n":2}}"#,
];

#[test]
fn binance_coin_margined_counts_in_contracts() {
    let keys = r#"ids = { "BTC-USD" = "BTCUSD_PERP" }
contracts = { "BTC-USD" = "100 USD" }"#;
    let mut harness = Harness::new(VenueKind::Binance, keys);
    let asked = harness.aggregator.sources(NOW_US)[0].symbols.clone();
    assert_eq!(asked, ["BTC-USD", "BTC-USDT", "BTC-USDC"]);
    harness.apply_venue_frame(COIN_M[0]);
    harness.apply_venue_frame(COIN_M[1]);
    // 50,000 USD are 1 BTC, 40,000 USD are 1 BTC.
    assert_eq!(
        harness.traded("BTC-USD"),
        ("45000".to_owned(), "1".to_owned())
    );
    harness.apply_venue_frame(COIN_M[2]);
    assert_eq!(harness.day("BTC-USD"), (Some(81_000_000.0), Some(-1.96)));
    let detail = harness.get_price("BTC-USD").source_details.remove(0);
    assert_eq!((detail.trades, detail.volume_unknown), (2, None));
}

#[test]
fn contracts_of_unknown_value_count_as_prices_and_in_no_volume() {
    let keys = r#"ids = { "BTC-USD" = "BTCUSD_PERP" }"#;
    let mut harness = Harness::new(VenueKind::Binance, keys);
    harness.apply_venue_frame(COIN_M[0]);
    harness.apply_venue_frame(COIN_M[1]);
    // Without volumes there is no VWAP, so it is the last price.
    assert_eq!(
        harness.traded("BTC-USD"),
        ("40000".to_owned(), "unknown".to_owned())
    );
    let detail = harness.get_price("BTC-USD").source_details.remove(0);
    assert_eq!(detail.trades, 2);
    assert!(detail.volume_unknown.unwrap().contains("`contracts`"));
    // A ticker has the volume in base too, which gives it approximately.
    harness.apply_venue_frame(COIN_M[2]);
    assert_eq!(harness.day("BTC-USD"), (Some(80_000_000.0), Some(-1.96)));
}

#[test]
fn okx_counts_spot_in_base_and_swaps_in_contracts() {
    let keys = r#"ids = { "BTC-USD" = "BTC-USD-220527", "UNI-USD" = "UNI-USD-SWAP", "BTC-USDC" = "BTC-USDC-SWAP" }
contracts = { "BTC-USD" = "100 USD", "BTC-USDC" = "0.0001 BTC" }"#;
    let mut harness = Harness::new(VenueKind::Okx, keys);
    let trade = |name: &str, id: u64, price: &str, size: &str| {
        format!(
            r#"{{"arg":{{"channel":"trades","instId":"{name}"}},"data":[{{"instId":"{name}","tradeId":"{id}","px":"{price}","sz":"{size}","side":"buy","ts":"1652459234339"}}]}}"#
        )
    };
    harness.apply_venue_frame(&trade("BTC-USDT", 1, "30000", "0.25"));
    assert_eq!(harness.traded("BTC-USDT").1, "0.25");
    harness.apply_venue_frame(&trade("BTC-USD-220527", 1, "30000", "60"));
    assert_eq!(harness.traded("BTC-USD").1, "0.2");
    harness.apply_venue_frame(&trade("BTC-USDC-SWAP", 1, "30000", "60"));
    assert_eq!(harness.traded("BTC-USDC").1, "0.006");

    let ticker = |kind: &str, name: &str, open: &str, of_currency: &str, volume: &str| {
        format!(
            r#"{{"arg":{{"channel":"tickers","instId":"{name}"}},"data":[{{"instType":"{kind}","instId":"{name}","last":"30000","lastSz":"1","askPx":"30001","askSz":"3","bidPx":"29999","bidSz":"4","open24h":"{open}","high24h":"31003.3","low24h":"27930.8","sodUtc0":"28935.3","sodUtc8":"30320.5","volCcy24h":"{of_currency}","vol24h":"{volume}","ts":"1652459223003"}}]}}"#
        )
    };
    harness.apply_venue_frame(&ticker("SPOT", "BTC-USDT", "25000", "3000000", "100"));
    assert_eq!(harness.day("BTC-USDT"), (Some(3_000_000.0), Some(20.0)));
    harness.apply_venue_frame(&ticker(
        "FUTURES",
        "BTC-USD-220527",
        "24000",
        "2600.5",
        "780000",
    ));
    assert_eq!(harness.day("BTC-USD"), (Some(78_000_000.0), Some(25.0)));
    harness.apply_venue_frame(&ticker("SWAP", "BTC-USDC-SWAP", "30000", "78", "780000"));
    assert_eq!(harness.day("BTC-USDC"), (Some(2_340_000.0), Some(0.0)));
    // The value of these contracts is unknown, but not the volume in base.
    harness.apply_venue_frame(&ticker("SWAP", "UNI-USD-SWAP", "15000", "10", "780000"));
    assert_eq!(harness.day("UNI-USD"), (Some(300_000.0), Some(100.0)));
}

#[test]
fn bybit_counts_in_base_and_inverse_contracts_in_quote() {
    let keys = r#"ids = { "BTC-USD" = "BTCUSD" }"#;
    let mut harness = Harness::new(VenueKind::Bybit, keys);
    let trade = |name: &str, size: &str| {
        format!(
            r#"{{"topic":"publicTrade.{name}","type":"snapshot","ts":1672304486868,"data":[{{"T":1672304486865,"s":"{name}","S":"Buy","v":"{size}","p":"20000.00","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false}}]}}"#
        )
    };
    harness.apply_venue_frame(&trade("BTCUSDT", "0.001"));
    assert_eq!(harness.traded("BTC-USDT").1, "0.001");
    harness.apply_venue_frame(&trade("BTCUSD", "500"));
    assert_eq!(harness.traded("BTC-USD").1, "0.025");
    let ticker = |name: &str, volume: &str, turnover: &str| {
        format!(
            r#"{{"topic":"tickers.{name}","ts":1673853746003,"type":"snapshot","cs":2588407389,"data":{{"symbol":"{name}","lastPrice":"20000","highPrice24h":"21426.99","lowPrice24h":"19575","prevPrice24h":"20704.93","volume24h":"{volume}","turnover24h":"{turnover}","price24hPcnt":"0.0196"}}}}"#
        )
    };
    harness.apply_venue_frame(&ticker("BTCUSDT", "6780.8", "141946527.2"));
    assert_eq!(harness.day("BTC-USDT"), (Some(141_946_527.2), Some(1.96)));
    harness.apply_venue_frame(&ticker("BTCUSD", "49337318", "2400.5"));
    assert_eq!(harness.day("BTC-USD"), (Some(49_337_318.0), Some(1.96)));
}

#[test]
fn coinbase_and_kraken_count_in_base() {
    let mut harness = Harness::new(VenueKind::Coinbase, "");
    harness.apply_venue_frame(r#"{"type":"ticker","sequence":1,"product_id":"BTC-USD","price":"60000","open_24h":"50000","volume_24h":"3","low_24h":"1","high_24h":"2","volume_30d":"4","best_bid":"59999","best_ask":"60001","side":"buy","time":"2024-08-08T23:54:17.1Z","trade_id":5,"last_size":"1"}"#);
    assert_eq!(harness.day("BTC-USD"), (Some(180_000.0), Some(20.0)));
    let mut harness = Harness::new(VenueKind::CoinbaseAdvanced, "");
    harness.apply_venue_frame(r#"{"channel":"ticker","client_id":"","timestamp":"2026-11-22T10:00:00.123456789Z","sequence_num":0,"events":[{"type":"snapshot","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"60000","volume_24_h":"3","low_24_h":"1","high_24_h":"2","low_52_w":"1","high_52_w":"2","price_percent_chg_24_h":"-2.5","best_bid":"59999","best_ask":"60001"}]}]}"#);
    assert_eq!(harness.day("BTC-USD"), (Some(180_000.0), Some(-2.5)));
    let mut harness = Harness::new(VenueKind::Kraken, "");
    harness.apply_venue_frame(r#"{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":59999.9,"bid_qty":1.0,"ask":60000.1,"ask_qty":1.0,"last":60000.0,"volume":3.0,"vwap":59000.0,"low":1.0,"high":2.0,"change":600.0,"change_pct":1.01}]}"#);
    assert_eq!(harness.day("BTC-USD"), (Some(177_000.0), Some(1.01)));
}

#[test]
fn a_market_name_may_be_in_any_script() {
    let keys = r#"ids = { "BTC-USDT" = "币安人生USDT" }"#;
    let mut harness = Harness::new(VenueKind::Binance, keys);
    let requests = VenueKind::Binance.subscribe(&["币安人生USDT".to_owned()]);
    let frame = VenueKind::Binance.subscribe_frame(&requests[0], 1);
    assert!(frame.contains("\"币安人生usdt@trade\""), "{frame}");
    for (id, name) in [(1, "币安人生USDT"), (2, r"\u5e01\u5b89\u4eba\u751fUSDT")] {
        harness.apply_venue_frame(&format!(r#"{{"stream":"x@trade","data":{{"e":"trade","E":1723161257687,"T":1723161257679,"s":"{name}","t":{id},"p":"0.5","q":"2","m":false}}}}"#));
    }
    let detail = harness.get_price("BTC-USDT").source_details.remove(0);
    assert_eq!(
        (detail.trades, detail.price.unwrap().value.as_str()),
        (2, "0.5")
    );
}

#[test]
fn impossible_ids_and_contract_values_are_refused() {
    let source = |keys: &str| {
        let text = format!("[[source]]\nkind = \"okx\"\n{keys}");
        read_config(&text)?
            .check()
            .map_err(|error| error.to_string())
    };
    assert_eq!(source(r#"ids = { "BTC-USD" = "BTC-USD-SWAP" }"#), Ok(()));
    assert_eq!(
        source(r#"ids = { "BIANREN-USDT" = "币安人生-USDT" }"#),
        Ok(())
    );
    for name in ["", "a b", "x\\\"}", "BTC\u{200b}-USDT", "BTC\u{202e}-USDT"] {
        let error = source(&format!(r#"ids = {{ "BTC-USD" = "{name}" }}"#)).unwrap_err();
        assert!(error.contains("as its frames spell it"), "{error}");
    }
    let error = source(r#"contracts = { "BTC-USD" = "100" }"#).unwrap_err();
    assert!(
        error.contains(r#"contracts."BTC-USD" is "100", expected an amount of BTC or USD"#),
        "{error}"
    );
}
