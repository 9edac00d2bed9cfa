//! The clock is set back: prices move, grow stale, and have the time of the clock.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use rust_decimal::Decimal;
use support::{CapturingPublisher, NOW_US, config, price};
use tidewire_price::{
    Aggregator,
    venue::{Size, Trade, TradeId, VenueEvent},
};
use tidewire_proto::v1::{PriceUpdate, TradeSide};

const SECOND_US: i64 = 1_000_000;
const HOUR_US: i64 = 3_600 * SECOND_US;

struct Harness {
    aggregator: Aggregator,
    publisher: Arc<CapturingPublisher>,
    /// This server's time.
    now_us: i64,
    /// The time of the venue's clock.
    venue_us: i64,
    number: u64,
}

impl Harness {
    fn new(kind: &str, method: &str) -> Self {
        let text = format!(
            "symbols = [\"BTC-USD\", \"ETH-USD\"]\nstale_after = \"4s\"\nmethod = {method:?}\nwindow = \"20s\"\n[[source]]\nkind = {kind:?}"
        );
        let publisher = CapturingPublisher::new();
        Self {
            aggregator: Aggregator::new(&config(&text), publisher.clone()).unwrap(),
            publisher,
            now_us: NOW_US,
            venue_us: NOW_US,
            number: 0,
        }
    }

    /// Trades each symbol five times a second at this price, and ticks.
    fn trade_for(&mut self, seconds: i64, price: i64, names: &[&str]) {
        let source = self.aggregator.only_source();
        for _ in 0..seconds * 5 {
            self.number += 1;
            for name in names {
                let trade = VenueEvent::Trade(Trade {
                    name: (*name).into(),
                    id: TradeId::Single(self.number),
                    price: Decimal::from(price),
                    size: Size::Base(Decimal::ONE),
                    side: TradeSide::Buy,
                    venue_time_us: Some(self.venue_us),
                    unexpected: Vec::new(),
                });
                self.aggregator.apply(source, &trade, self.now_us);
            }
            for _ in 0..2 {
                self.now_us += SECOND_US / 10;
                self.venue_us += SECOND_US / 10;
                self.aggregator.tick(self.now_us);
            }
        }
    }

    fn answer(&self, symbol: &str) -> PriceUpdate {
        self.aggregator.price(symbol, self.now_us).unwrap()
    }
}

trait OneSource {
    fn only_source(&self) -> tidewire_price::SourceId;
}

impl OneSource for Aggregator {
    fn only_source(&self) -> tidewire_price::SourceId {
        ["coinbase", "bitstamp"]
            .iter()
            .find_map(|name| self.source(name))
            .unwrap()
    }
}

#[test]
fn prices_move_and_grow_stale_after_a_step_back_by_any_method() {
    for method in ["median", "volume_weighted_median", "vwap", "twap", "ema"] {
        // Whether the venue's clock is set back as well.
        for venue_step_us in [0, HOUR_US] {
            let mut harness = Harness::new("coinbase", method);
            harness.trade_for(24, 100, &["BTC-USD", "ETH-USD"]);
            harness.now_us -= HOUR_US;
            harness.venue_us -= venue_step_us;
            harness.trade_for(5, 200, &["BTC-USD", "ETH-USD"]);
            let overviews = harness.publisher.overviews().len();
            harness.trade_for(30, 200, &["BTC-USD"]);
            let context = format!("{method}, {venue_step_us}");
            let bitcoin = harness.answer("BTC-USD");
            let number: f64 = price(&bitcoin).parse().unwrap();
            let (least, most) = if method == "ema" {
                (195.0, 200.0)
            } else {
                (200.0, 200.0)
            };
            assert!((least..=most).contains(&number), "{context}: {number}");
            assert!(!bitcoin.stale, "{context}");
            assert_eq!(bitcoin.covered_ms, Some(20_000), "{context}");
            let behind_ms = harness.now_us / 1_000 - bitcoin.timestamp;
            assert!((0..2_000).contains(&behind_ms), "{context}: {behind_ms}");
            let last = harness.publisher.prices("prices:BTC-USD").pop().unwrap();
            // At the same price, an update is published each second.
            let since_ms = bitcoin.timestamp - last.timestamp;
            assert!((0..=1_000).contains(&since_ms), "{context}: {since_ms}");
            assert!(harness.answer("ETH-USD").stale, "{context}");
            assert!(
                harness
                    .publisher
                    .prices("prices:ETH-USD")
                    .pop()
                    .unwrap()
                    .stale,
                "{context}"
            );
            let further = harness.publisher.overviews().len() - overviews;
            assert!((28..=32).contains(&further), "{context}: {further}");
            let source = &harness.aggregator.sources(harness.now_us)[0];
            assert_eq!(source.bad_frames, 0, "{context}: {:?}", source.last_error);
        }
    }
}

#[test]
fn the_windows_cover_as_much_as_before() {
    let mut harness = Harness::new("bitstamp", "twap");
    harness.trade_for(600, 100, &["btcusd"]);
    let before = harness.answer("BTC-USD");
    harness.now_us -= HOUR_US;
    harness.trade_for(2, 110, &["btcusd"]);
    let after = harness.answer("BTC-USD");
    assert_eq!(before.day_covered_ms, Some(600_000));
    assert_eq!(after.day_covered_ms, Some(602_000));
    assert_eq!(
        (before.volume_24h, after.volume_24h),
        (Some(300_000.0), Some(301_100.0))
    );
    assert!((after.change_24h.unwrap() - 10.0).abs() < 1e-9);
    // 18 of 20 seconds at 100.
    assert_eq!(price(&after), "101");
}

#[test]
fn a_small_disorder_of_times_is_no_step() {
    let mut harness = Harness::new("coinbase", "median");
    harness.trade_for(10, 100, &["BTC-USD"]);
    let before = harness.answer("BTC-USD").timestamp;
    harness.now_us -= 1_500_000;
    harness.venue_us -= 1_500_000;
    harness.trade_for(1, 101, &["BTC-USD"]);
    assert!(harness.answer("BTC-USD").timestamp >= before);
    assert_eq!(price(&harness.answer("BTC-USD")), "101");
}
