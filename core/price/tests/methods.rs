//! Each method's price, computed by hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use rust_decimal::Decimal;
use support::{CapturingPublisher, NOW_US, config, price};
use tidewire_price::{
    Aggregator, LinkState,
    venue::{Size, Ticker, Trade, TradeId, VenueEvent},
};
use tidewire_proto::v1::{PriceUpdate, SourceState, TradeSide};

const SECOND_US: i64 = 1_000_000;

struct Harness {
    aggregator: Aggregator,
    publisher: Arc<CapturingPublisher>,
    id: u64,
}

impl Harness {
    /// Sources `a`, `b` and `c` of BTC-USD, and a window of a minute.
    fn new(method: &str) -> Self {
        let sources =
            ["a", "b", "c"].map(|name| format!("[[source]]\nkind = \"kraken\"\nname = {name:?}"));
        let text = format!(
            "symbols = [\"BTC-USD\"]\nmethod = {method:?}\nwindow = \"1m\"\noutlier_percent = 2\n{}",
            sources.join("\n")
        );
        let publisher = CapturingPublisher::new();
        Self {
            aggregator: Aggregator::new(&config(&text), publisher.clone()).unwrap(),
            publisher,
            id: 0,
        }
    }

    /// A trade, `second` seconds after the start.
    fn trade(&mut self, source: &str, price: &str, size: &str, second: i64) {
        self.id += 1;
        let trade = Trade {
            name: "BTC/USD".into(),
            id: TradeId::Single(self.id),
            price: price.parse().unwrap(),
            size: Size::Base(size.parse().unwrap()),
            side: TradeSide::Buy,
            venue_time_us: None,
            unexpected: Vec::new(),
        };
        let source = self.aggregator.source(source).unwrap();
        self.aggregator
            .apply(source, &VenueEvent::Trade(trade), at(second));
    }

    fn get_price(&self, second: i64) -> PriceUpdate {
        self.aggregator.price("BTC-USD", at(second)).unwrap()
    }

    fn price_at(&self, second: i64) -> String {
        price(&self.get_price(second)).to_owned()
    }
}

fn at(second: i64) -> i64 {
    NOW_US + second * SECOND_US
}

#[test]
fn a_vwap_weighs_the_trades_of_its_window() {
    let mut harness = Harness::new("vwap");
    harness.trade("a", "100.10", "2", 0);
    harness.trade("b", "100.40", "1.5", 1);
    harness.trade("c", "100.00", "0.5", 30);
    // (200.2 + 150.6 + 50) / 4
    assert_eq!(harness.price_at(30), "100.2");
    let answer = harness.get_price(30);
    let weights: Vec<_> = answer
        .source_details
        .iter()
        .map(|detail| detail.weight)
        .collect();
    assert_eq!(weights, [0.5, 0.375, 0.125]);
    assert_eq!(
        (
            answer.method.as_deref(),
            answer.window_ms,
            answer.covered_ms
        ),
        (Some("vwap"), Some(60_000), Some(30_000))
    );
    harness.trade("c", "100.20", "0.5", 61);
    // The trades of the first two seconds have left the window: (50 + 50.1) / 1
    assert_eq!(harness.price_at(61), "100.1");
    // A tick publishes the change too.
    harness.aggregator.tick(at(90));
    let published = harness.publisher.prices("prices:BTC-USD");
    assert_eq!(published.last().map(price), Some("100.2"));
}

#[test]
fn a_vwap_without_trades_is_the_median() {
    let mut harness = Harness::new("vwap");
    let source = harness.aggregator.source("a").unwrap();
    let ticker = Ticker {
        name: "BTC/USD".into(),
        last: Some(Decimal::new(995, 1)),
        ..Ticker::default()
    };
    harness
        .aggregator
        .apply(source, &VenueEvent::Ticker(ticker), at(0));
    assert_eq!(harness.price_at(1), "99.5");
}

#[test]
fn a_weighted_median_follows_the_volume() {
    let mut harness = Harness::new("volume_weighted_median");
    harness.trade("a", "100.10", "5", 0);
    harness.trade("b", "100.40", "1", 0);
    harness.trade("c", "100.20", "2", 0);
    assert_eq!(harness.price_at(0), "100.1");
    harness.trade("c", "100.30", "8", 1);
    assert_eq!(harness.price_at(1), "100.3");
}

#[test]
fn an_ema_forgets_a_source_that_is_excluded() {
    let mut harness = Harness::new("ema");
    // Alone it is the price, however wrong.
    harness.trade("a", "900000000000", "1", 0);
    harness.trade("b", "100", "1", 1);
    harness.trade("c", "101", "1", 2);
    let answer = harness.get_price(2);
    assert_eq!(answer.source_details[0].state(), SourceState::Excluded);
    assert_eq!(price(&answer), "100.5");
    // An exclusion while the average is near moves nothing.
    let mut harness = Harness::new("ema");
    for source in ["a", "b", "c"] {
        harness.trade(source, "100", "1", 0);
        harness.trade(source, "101", "1", 0);
    }
    harness.trade("a", "110", "1", 20);
    let answer = harness.get_price(20);
    assert_eq!(answer.source_details[0].state(), SourceState::Excluded);
    let average: f64 = price(&answer).parse().unwrap();
    assert!((100.4..100.6).contains(&average), "{average}");
}

#[test]
fn a_twap_weighs_by_time_and_reports_its_coverage() {
    let mut harness = Harness::new("twap");
    harness.trade("a", "100", "1", 0);
    harness.trade("a", "101", "1", 6);
    assert_eq!(harness.price_at(8), "100.25");
    let answer = harness.get_price(8);
    assert_eq!(answer.covered_ms, Some(8_000));
    assert_eq!(answer.twap.unwrap().value, "100.25");
    // Lost at 10, stale at 12, back at 20: those 8 seconds are not covered.
    let a = harness.aggregator.source("a").unwrap();
    let lost = LinkState::Lost("gone".to_owned());
    harness.aggregator.set_link_state(a, &lost, at(10));
    harness.aggregator.tick(at(12));
    let answer = harness.get_price(14);
    assert_eq!((answer.stale, answer.covered_ms), (true, Some(12_000)));
    harness
        .aggregator
        .set_link_state(a, &LinkState::Connected, at(19));
    harness.trade("a", "103", "1", 20);
    // (6 × 100 + 6 × 101 + 4 × 103) / 16
    let answer = harness.get_price(24);
    assert_eq!(
        (price(&answer), answer.covered_ms),
        ("101.125", Some(16_000))
    );
    // All updates have it, with any method.
    let mut harness = Harness::new("median");
    harness.trade("a", "100", "1", 0);
    harness.trade("a", "104", "1", 5);
    harness.trade("a", "102", "1", 10);
    let published = harness.publisher.prices("prices:BTC-USD");
    let twaps: Vec<_> = published
        .iter()
        .map(|update| update.twap.clone().unwrap().value)
        .collect();
    assert_eq!(twaps, ["100", "100", "102"]);
}

#[test]
fn an_ema_moves_by_2_61ths_a_second() {
    let mut harness = Harness::new("ema");
    harness.trade("a", "100", "1", 0);
    harness.trade("a", "161", "1", 1);
    assert_eq!(harness.price_at(1), "100");
    assert_eq!(harness.price_at(2), "102");
    harness.aggregator.tick(at(2));
    let published = harness.publisher.prices("prices:BTC-USD");
    assert_eq!(published.last().map(price), Some("102"));
}

#[test]
fn averages_advance_once_a_second() {
    let mut harness = Harness::new("ema");
    harness.trade("a", "100", "1", 0);
    harness.trade("a", "161", "1", 1);
    harness.aggregator.tick(at(2));
    let count = |harness: &Harness| harness.publisher.prices("prices:BTC-USD").len();
    let before = count(&harness);
    harness.aggregator.tick(at(3) - 1);
    assert_eq!(count(&harness), before);
    harness.aggregator.tick(at(3));
    assert_eq!(count(&harness), before + 1);
}

#[test]
fn an_outlier_is_excluded_until_it_is_close_again() {
    let mut harness = Harness::new("median");
    harness.trade("a", "100", "1", 0);
    harness.trade("b", "100.4", "1", 0);
    harness.trade("c", "110", "1", 0);
    let answer = harness.get_price(0);
    assert_eq!((price(&answer), answer.sources), ("100.2", 2));
    assert_eq!(answer.confidence.unwrap().value, "0.2");
    let c = &answer.source_details[2];
    assert_eq!((c.state(), c.weight), (SourceState::Excluded, 0.0));
    assert_eq!(
        c.reason.as_deref(),
        Some("9.78 % from the median of the others, 100.2")
    );
    // Included again below half of the limit of 2 %, not before.
    harness.trade("c", "101.5", "1", 1);
    assert_eq!(harness.get_price(1).sources, 2);
    harness.trade("c", "101", "1", 2);
    assert_eq!(
        (harness.price_at(2).as_str(), harness.get_price(2).sources),
        ("100.4", 3)
    );
}

#[test]
fn an_excluded_source_does_not_become_the_price_when_the_others_end() {
    let mut harness = Harness::new("median");
    for source in ["a", "b"] {
        harness.trade(source, "100", "1", 0);
    }
    harness.trade("c", "110", "1", 0);
    for source in ["a", "b"] {
        let id = harness.aggregator.source(source).unwrap();
        let lost = LinkState::Lost("gone".to_owned());
        harness.aggregator.set_link_state(id, &lost, at(1));
    }
    harness.aggregator.tick(at(4));
    harness.trade("c", "110.5", "1", 5);
    let answer = harness.get_price(5);
    assert_eq!((price(&answer), answer.stale), ("100", true));
    assert_eq!(answer.source_details[2].state(), SourceState::Excluded);
    // Published once.
    let stale = harness.publisher.prices("prices:BTC-USD");
    assert_eq!(stale.iter().filter(|update| update.stale).count(), 1);
    // After a minute without any other it is accepted.
    harness.trade("c", "111", "1", 65);
    let answer = harness.get_price(65);
    assert_eq!((price(&answer), answer.stale), ("111", false));
}
