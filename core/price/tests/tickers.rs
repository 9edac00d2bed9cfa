//! Tickers beside trades: which one sets the price, what an old time means, and what is a heartbeat.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use support::{CapturingPublisher, NOW_US, coinbase_match, coinbase_ticker, config, price};
use tidewire_price::{Aggregator, LinkState, VenueKind};
use tidewire_proto::v1::{PriceUpdate, Source};

const SECOND_US: i64 = 1_000_000;

/// The times in the frames of `coinbase_match` and `coinbase_ticker`, when the tests begin.
const MATCH_TIME: &str = "2025-06-15T15:06:40.000001Z";
const TICKER_TIME: &str = "2025-06-15T15:06:40.000002Z";

/// One source that is fed with frames.
struct Harness {
    aggregator: Aggregator,
    publisher: Arc<CapturingPublisher>,
    kind: VenueKind,
}

impl Harness {
    fn new(kind: VenueKind) -> Self {
        let text = format!(
            "symbols = [\"BTC-USD\", \"ETH-USD\", \"BTC-USDT\"]\n[[source]]\nkind = {:?}",
            kind.name()
        );
        let publisher = CapturingPublisher::new();
        Self {
            aggregator: Aggregator::new(&config(&text), publisher.clone()).unwrap(),
            publisher,
            kind,
        }
    }

    fn apply_frame(&mut self, frame: &str, second: i64) {
        let source = self.aggregator.source(self.kind.name()).unwrap();
        let events = self.kind.parse(frame.as_bytes());
        let at_us = NOW_US + second * SECOND_US;
        self.aggregator.apply_frame(source, &events, at_us);
    }

    fn link(&mut self, state: &LinkState, second: i64) {
        let source = self.aggregator.source(self.kind.name()).unwrap();
        let at_us = NOW_US + second * SECOND_US;
        self.aggregator.set_link_state(source, state, at_us);
    }

    fn get_price(&self, symbol: &str, second: i64) -> PriceUpdate {
        let at_us = NOW_US + second * SECOND_US;
        self.aggregator.price(symbol, at_us).unwrap()
    }

    fn source(&self) -> Source {
        self.aggregator.sources(NOW_US).remove(0)
    }

    /// All prices that the source's own channel showed.
    fn prices(&self, symbol: &str) -> Vec<String> {
        let channel = format!("prices:{symbol}@{}", self.kind.name());
        let updates = self.publisher.prices(&channel);
        updates
            .iter()
            .map(|update| price(update).to_owned())
            .collect()
    }
}

/// Frames of a venue whose tickers have no trade number: its symbol, a trade and a ticker.
type Frames = (&'static str, fn(u64, &str) -> String, fn(&str) -> String);

fn unnumbered(kind: VenueKind) -> Frames {
    match kind {
        VenueKind::CoinbaseAdvanced => (
            "BTC-USD",
            |id, price| {
                format!(
                    r#"{{"channel":"market_trades","timestamp":"2025-06-15T15:06:40.1Z","events":[{{"type":"update","trades":[{{"trade_id":"{id}","product_id":"BTC-USD","price":"{price}","size":"1","time":"2025-06-15T15:06:40Z"}}]}}]}}"#
                )
            },
            // The envelope is newer than the last trade; its time is not the trade's.
            |price| {
                format!(
                    r#"{{"channel":"ticker","timestamp":"2025-06-15T15:06:40.9Z","events":[{{"type":"update","tickers":[{{"product_id":"BTC-USD","price":"{price}","volume_24_h":"20","price_percent_chg_24_h":"1","best_bid":"1","best_ask":"2"}}]}}]}}"#
                )
            },
        ),
        VenueKind::Kraken => (
            "BTC-USD",
            |id, price| {
                format!(
                    r#"{{"channel":"trade","type":"update","data":[{{"symbol":"BTC/USD","side":"buy","price":{price},"qty":1,"ord_type":"market","trade_id":{id},"timestamp":"2025-06-15T15:06:40Z"}}]}}"#
                )
            },
            |price| {
                format!(
                    r#"{{"channel":"ticker","type":"update","data":[{{"symbol":"BTC/USD","bid":1,"ask":2,"last":{price},"volume":20,"vwap":1,"change_pct":1,"timestamp":"2025-06-15T15:06:41Z"}}]}}"#
                )
            },
        ),
        VenueKind::Okx => (
            "BTC-USDT",
            |id, price| {
                format!(
                    r#"{{"arg":{{"channel":"trades","instId":"BTC-USDT"}},"data":[{{"instId":"BTC-USDT","tradeId":"{id}","px":"{price}","sz":"1","side":"buy","ts":"1750000000000"}}]}}"#
                )
            },
            |price| {
                format!(
                    r#"{{"arg":{{"channel":"tickers","instId":"BTC-USDT"}},"data":[{{"instId":"BTC-USDT","last":"{price}","askPx":"2","bidPx":"1","open24h":"100","volCcy24h":"20","vol24h":"1","ts":"1750000000900"}}]}}"#
                )
            },
        ),
        VenueKind::Bybit => (
            "BTC-USDT",
            |id, price| {
                format!(
                    r#"{{"topic":"publicTrade.BTCUSDT","ts":1750000000001,"data":[{{"T":1750000000000,"s":"BTCUSDT","S":"Buy","v":"1","p":"{price}","i":"{id}"}}]}}"#
                )
            },
            |price| {
                format!(
                    r#"{{"topic":"tickers.BTCUSDT","ts":1750000000900,"data":{{"symbol":"BTCUSDT","lastPrice":"{price}","price24hPcnt":"0.01","volume24h":"1","turnover24h":"20"}}}}"#
                )
            },
        ),
        other => panic!("{other:?} numbers its tickers"),
    }
}

const UNNUMBERED: [VenueKind; 4] = [
    VenueKind::CoinbaseAdvanced,
    VenueKind::Kraken,
    VenueKind::Okx,
    VenueKind::Bybit,
];

#[test]
fn a_ticker_without_a_number_never_outranks_a_trade() {
    for kind in UNNUMBERED {
        let mut harness = Harness::new(kind);
        let (symbol, trade, ticker) = unnumbered(kind);
        harness.apply_frame(&ticker("99"), 0);
        harness.apply_frame(&trade(1, "100"), 1);
        harness.apply_frame(&ticker("107.5"), 1);
        harness.apply_frame(&ticker("107.5"), 2);
        harness.apply_frame(&trade(2, "101"), 3);
        harness.apply_frame(&ticker("103.33"), 4);
        let mut prices = harness.prices(symbol);
        prices.dedup();
        assert_eq!(prices, ["99", "100", "101"], "{kind:?}");
        // Its figures count.
        let answer = harness.get_price(symbol, 4);
        assert!(
            answer.change_24h.is_some() && answer.volume_24h.is_some(),
            "{kind:?}"
        );
        assert_eq!(harness.source().bad_frames, 0, "{kind:?}");
    }
}

#[test]
fn a_ticker_sets_the_price_when_trades_may_have_been_missed() {
    for kind in UNNUMBERED {
        let mut harness = Harness::new(kind);
        let (symbol, trade, ticker) = unnumbered(kind);
        let price_of =
            |harness: &Harness, second| price(&harness.get_price(symbol, second)).to_owned();
        harness.link(&LinkState::Connected, 0);
        harness.apply_frame(&trade(1, "100"), 0);
        // A connection that replaces an open one misses nothing.
        harness.link(&LinkState::Connected, 1);
        harness.apply_frame(&ticker("110"), 1);
        assert_eq!(price_of(&harness, 1), "100", "{kind:?}");
        harness.link(&LinkState::Lost("gone".to_owned()), 2);
        harness.link(&LinkState::Connected, 3);
        harness.apply_frame(&ticker("111"), 3);
        assert_eq!(price_of(&harness, 3), "111", "{kind:?}");
        harness.apply_frame(&trade(2, "112"), 4);
        harness.apply_frame(&ticker("113"), 5);
        assert_eq!(price_of(&harness, 5), "112", "{kind:?}");
        // Trades that stop for much longer than usual are missing too: three times their longest
        // silence, at least 15 seconds.
        for n in 0..40 {
            harness.apply_frame(&trade(3 + n, "112"), 6 + n as i64);
        }
        harness.apply_frame(&ticker("114"), 59);
        assert_eq!(price_of(&harness, 59), "112", "{kind:?}");
        harness.apply_frame(&ticker("115"), 60);
        assert_eq!(price_of(&harness, 60), "115", "{kind:?}");
    }
}

#[test]
fn a_numbered_ticker_sets_the_price_only_ahead_of_the_trades() {
    let mut harness = Harness::new(VenueKind::Coinbase);
    let mut after = |frame: &str| {
        harness.apply_frame(frame, 0);
        price(&harness.get_price("BTC-USD", 0)).to_owned()
    };
    assert_eq!(after(&coinbase_match(10, "BTC-USD", "100")), "100");
    assert_eq!(after(&coinbase_ticker(12, "BTC-USD", "102")), "102");
    assert_eq!(after(&coinbase_match(12, "BTC-USD", "102")), "102");
    assert_eq!(after(&coinbase_ticker(11, "BTC-USD", "101")), "102");
    assert_eq!(after(&coinbase_ticker(10, "BTC-USD", "100")), "102");
    // On a new connection, the number of a trade that was seen is not newer.
    harness.link(&LinkState::Lost("gone".to_owned()), 1);
    harness.link(&LinkState::Connected, 1);
    harness.apply_frame(&coinbase_ticker(10, "BTC-USD", "100"), 2);
    assert_eq!(price(&harness.get_price("BTC-USD", 2)), "102");
    harness.apply_frame(&coinbase_ticker(14, "BTC-USD", "104"), 2);
    assert_eq!(price(&harness.get_price("BTC-USD", 2)), "104");
}

#[test]
fn a_ticker_stamped_with_its_last_trade_is_current_in_any_order() {
    // The last trade of ETH-USD was 107 s ago.
    let quiet = coinbase_ticker(7, "ETH-USD", "100").replace(TICKER_TIME, "2025-06-15T15:04:53Z");
    let fresh = |n: i64| {
        let time = format!("2025-06-15T15:06:{}.000001Z", 40 + n);
        coinbase_match(n as u64 + 1, "BTC-USD", "50").replace(MATCH_TIME, &time)
    };
    for quiet_first in [true, false] {
        let mut harness = Harness::new(VenueKind::Coinbase);
        if quiet_first {
            harness.apply_frame(&quiet, 0);
            assert_eq!(harness.source().offset_ms, None);
        }
        for n in 0..12 {
            harness.apply_frame(&fresh(n), n);
        }
        if !quiet_first {
            harness.apply_frame(&quiet, 11);
        }
        let source = harness.source();
        assert_eq!((source.bad_frames, source.trades), (0, 12), "{source:?}");
        assert_eq!(source.offset_ms, Some(-1));
        let eth = harness.get_price("ETH-USD", 12);
        assert_eq!(
            (price(&eth), eth.stale, eth.volume_24h),
            ("100", false, Some(200.0))
        );
        assert_eq!(eth.change_24h, Some(0.0));
        // Its price is as old as its last trade.
        assert_eq!(eth.timestamp, NOW_US / 1_000 - 107_000);
        assert_eq!(eth.source_details[0].age_ms, Some(119_000));
        let btc = harness.get_price("BTC-USD", 12);
        assert_eq!(btc.timestamp, NOW_US / 1_000 + 11_000);
    }
    // A last trade cannot be in the future.
    let mut harness = Harness::new(VenueKind::Coinbase);
    harness.apply_frame(&quiet.replace("15:04:53", "16:04:53"), 0);
    assert_eq!(harness.source().bad_frames, 1);
    assert_eq!(harness.get_price("ETH-USD", 0).timestamp, NOW_US / 1_000);
}

#[test]
fn an_old_repeated_trade_is_no_time_jump() {
    let mut harness = Harness::new(VenueKind::Coinbase);
    harness.apply_frame(&coinbase_match(1, "BTC-USD", "50"), 0);
    let later = coinbase_match(2, "BTC-USD", "51").replace("15:06:40", "15:10:00");
    harness.apply_frame(&later, 200);
    harness.link(&LinkState::Lost("gone".to_owned()), 200);
    harness.link(&LinkState::Connected, 200);
    harness.apply_frame(&coinbase_match(1, "BTC-USD", "50"), 201);
    let source = harness.source();
    assert_eq!(
        (source.bad_frames, source.trades),
        (0, 2),
        "{:?}",
        source.last_error
    );
    assert_eq!(price(&harness.get_price("BTC-USD", 201)), "51");
}

#[test]
fn one_print_told_by_a_trade_and_a_ticker_is_one_witness() {
    let fat_trade = coinbase_match(6, "BTC-USD", "360000");
    let fat_ticker = coinbase_ticker(6, "BTC-USD", "360000");
    for frames in [[&fat_trade, &fat_ticker], [&fat_ticker, &fat_trade]] {
        let mut harness = Harness::new(VenueKind::Coinbase);
        for id in 1..=5 {
            harness.apply_frame(&coinbase_match(id, "BTC-USD", "60000"), id as i64);
        }
        for frame in frames {
            harness.apply_frame(frame, 6);
            harness.apply_frame(frame, 6);
        }
        assert_eq!(price(&harness.get_price("BTC-USD", 6)), "60000");
        assert_eq!(harness.get_price("BTC-USD", 6).change_24h, None);
        harness.apply_frame(&coinbase_match(7, "BTC-USD", "360001"), 7);
        assert_eq!(price(&harness.get_price("BTC-USD", 7)), "360001");
    }
    // The same where tickers have no numbers.
    for kind in UNNUMBERED {
        let mut harness = Harness::new(kind);
        let (symbol, trade, ticker) = unnumbered(kind);
        harness.apply_frame(&trade(1, "60000"), 0);
        for frame in [ticker("360000"), trade(2, "360000"), ticker("360000")] {
            harness.apply_frame(&frame, 1);
        }
        assert_eq!(price(&harness.get_price(symbol, 1)), "60000", "{kind:?}");
        harness.apply_frame(&trade(3, "360000"), 2);
        assert_eq!(price(&harness.get_price(symbol, 2)), "360000", "{kind:?}");
    }
}

#[test]
fn a_refused_trade_still_reveals_the_gap_before_it() {
    let mut harness = Harness::new(VenueKind::Coinbase);
    harness.apply_frame(&coinbase_match(1, "BTC-USD", "100"), 0);
    harness.apply_frame(&coinbase_match(4, "BTC-USD", "10000"), 0);
    let detail = harness.get_price("BTC-USD", 0).source_details.remove(0);
    assert_eq!((harness.source().gaps, detail.missing), (Some(1), Some(2)));
}

/// The ticker as the venue sends it at this second.
fn at_second(ticker: &str, second: i64) -> String {
    let time = format!("15:{:02}:{:02}", 6 + (40 + second) / 60, (40 + second) % 60);
    let time_ms = 1_750_000_000_900 + second * 1_000;
    ticker
        .replace("15:06:40", &time)
        .replace("15:06:41", &time)
        .replace("1750000000900", &time_ms.to_string())
}

#[test]
fn a_ticker_that_repeats_itself_is_a_heartbeat() {
    for kind in UNNUMBERED {
        let mut harness = Harness::new(kind);
        let (symbol, _, ticker) = unnumbered(kind);
        // Only the time of the frame moves on.
        for second in 0..40 {
            let moved = at_second(&ticker("100"), second);
            harness.apply_frame(&moved, second);
            harness.aggregator.tick(NOW_US + second * SECOND_US);
        }
        assert!(harness.get_price(symbol, 40).stale, "{kind:?}");
        let published = harness.publisher.prices(&format!("prices:{symbol}"));
        let stale = published.iter().filter(|update| update.stale).count();
        assert_eq!(stale, 1, "{kind:?}");
        // A change is data, and so is the first ticker of a new connection.
        harness.apply_frame(&at_second(&ticker("101"), 40), 40);
        assert!(!harness.get_price(symbol, 40).stale, "{kind:?}");
        harness.aggregator.tick(NOW_US + 500 * SECOND_US);
        assert!(harness.get_price(symbol, 500).stale, "{kind:?}");
        harness.link(&LinkState::Lost("gone".to_owned()), 500);
        harness.link(&LinkState::Connected, 501);
        harness.apply_frame(&at_second(&ticker("101"), 502), 502);
        assert!(!harness.get_price(symbol, 502).stale, "{kind:?}");
    }
}

#[test]
fn a_halted_market_whose_average_rises_grows_stale() {
    let mut harness = Harness::new(VenueKind::Kraken);
    let ticker = |volume: &str, average: &str| {
        format!(
            r#"{{"channel":"ticker","type":"update","data":[{{"symbol":"BTC/USD","bid":99.0,"ask":101.0,"last":100.0,"volume":{volume},"vwap":{average},"change_pct":1.5}}]}}"#
        )
    };
    harness.apply_frame(&ticker("10", "100.0"), 0);
    // Old trades leave the 24 hours, and the rounded average rises by more.
    for (second, (volume, average)) in
        (1..).zip([("9.999", "100.1"), ("9.998", "100.2"), ("9.997", "100.3")])
    {
        harness.apply_frame(&ticker(volume, average), second * 9);
    }
    harness.aggregator.tick(NOW_US + 31 * SECOND_US);
    assert!(harness.get_price("BTC-USD", 31).stale);
    harness.apply_frame(&ticker("10.5", "99.0"), 32);
    assert!(!harness.get_price("BTC-USD", 32).stale);
}

#[test]
fn a_ticker_with_new_offers_a_new_trade_or_more_volume_is_data() {
    let base = coinbase_ticker(1, "BTC-USD", "100");
    let changes = [
        (base.replace("\"trade_id\":1", "\"trade_id\":2"), false),
        (base.replace("\"99\"", "\"98\""), false),
        (base.replace("\"101\"", "\"102\""), false),
        (
            base.replace("volume_24h\":\"2\"", "volume_24h\":\"3\""),
            false,
        ),
        // Old trades leave the 24 hours of a halted market too.
        (
            base.replace("volume_24h\":\"2\"", "volume_24h\":\"1\""),
            true,
        ),
        (
            base.replace("open_24h\":\"100\"", "open_24h\":\"90\""),
            true,
        ),
    ];
    for (changed, is_stale) in changes {
        let mut harness = Harness::new(VenueKind::Coinbase);
        harness.apply_frame(&base, 0);
        harness.apply_frame(&changed, 29);
        harness.aggregator.tick(NOW_US + 31 * SECOND_US);
        assert_eq!(
            harness.get_price("BTC-USD", 31).stale,
            is_stale,
            "{changed}"
        );
    }
    // Figures of a live price are published, and do not prolong its life.
    let mut harness = Harness::new(VenueKind::Coinbase);
    harness.apply_frame(&base, 0);
    harness.apply_frame(&base.replace("open_24h\":\"100\"", "open_24h\":\"80\""), 1);
    let published = harness.publisher.prices("prices:BTC-USD");
    let changes: Vec<_> = published.iter().map(|update| update.change_24h).collect();
    assert_eq!(changes, [Some(0.0), Some(25.0)]);
}
