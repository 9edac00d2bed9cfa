//! Sources of the aggregator: added and removed ones, conversion, figures of 24 hours, oracles.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use support::{
    CapturingPublisher, NOW_US, binance_trade, bitstamp_trade, coinbase_match, config,
    kraken_trade, price,
};
use tidewire_price::{Aggregator, SourceConfig, VenueKind};
use tidewire_proto::v1::{PriceUpdate, SourceState};

const SECOND_US: i64 = 1_000_000;

struct Harness {
    aggregator: Aggregator,
    publisher: Arc<CapturingPublisher>,
}

impl Harness {
    fn new(text: &str) -> Self {
        let publisher = CapturingPublisher::new();
        Self {
            aggregator: Aggregator::new(&config(text), publisher.clone()).unwrap(),
            publisher,
        }
    }

    fn apply_frame(&mut self, name: &str, kind: VenueKind, frame: &str, at_us: i64) {
        let source = self.aggregator.source(name).unwrap();
        let events = kind.parse(frame.as_bytes());
        self.aggregator.apply_frame(source, &events, at_us);
    }

    fn get_price(&self, symbol: &str, at_us: i64) -> PriceUpdate {
        self.aggregator.price(symbol, at_us).unwrap()
    }
}

const CONVERTED: &str = "symbols = [\"BTC-USD\", \"BTC-USDT\", \"USDT-USD\"]\nconvert = [\"USDT\"]\n[[source]]\nkind = \"binance\"\nclock = \"arrival\"\n[[source]]\nkind = \"kraken\"\nclock = \"arrival\"";

#[test]
fn tether_counts_as_dollars_only_at_a_known_price() {
    let mut harness = Harness::new(CONVERTED);
    let binance = VenueKind::Binance;
    harness.apply_frame(
        "binance",
        binance,
        &binance_trade(1, "BTCUSDT", "100"),
        NOW_US,
    );
    assert_eq!(price(&harness.get_price("BTC-USDT", NOW_US)), "100");
    let answer = harness.get_price("BTC-USD", NOW_US);
    assert_eq!((price(&answer), answer.stale), ("null", true));
    let detail = &answer.source_details[0];
    assert_eq!(
        (detail.state(), detail.reason.as_deref()),
        (
            SourceState::Stale,
            Some("there is no live price of USDT-USD")
        )
    );
    assert_eq!(detail.rate.as_ref().unwrap().price, None);

    // With a rate it counts, and the detail has the rate and its age.
    let rate = kraken_trade(1, "USDT/USD", "0.998");
    harness.apply_frame("kraken", VenueKind::Kraken, &rate, NOW_US);
    harness.aggregator.tick(NOW_US + SECOND_US);
    let answer = harness.get_price("BTC-USD", NOW_US + 2 * SECOND_US);
    assert_eq!((price(&answer), answer.stale), ("99.8", false));
    let rate = answer.source_details[0].rate.clone().unwrap();
    assert_eq!(
        (
            rate.symbol.as_str(),
            rate.price.unwrap().value.as_str(),
            rate.age_ms
        ),
        ("USDT-USD", "0.998", Some(2_000))
    );
    let own = harness.publisher.prices("prices:BTC-USD@binance");
    assert_eq!(own.last().map(price), Some("99.8"));
    // A trade counts once, and keeps its price in its own currency.
    assert_eq!(harness.aggregator.sources(NOW_US)[0].trades, 1);
    assert_eq!(price(&harness.get_price("BTC-USDT", NOW_US)), "100");

    // A source that trades the dollar is not converted.
    let frame = kraken_trade(2, "BTC/USD", "99.6");
    harness.apply_frame("kraken", VenueKind::Kraken, &frame, NOW_US + 2 * SECOND_US);
    let answer = harness.get_price("BTC-USD", NOW_US + 2 * SECOND_US);
    assert_eq!((price(&answer), answer.sources), ("99.7", 2));
    assert!(answer.source_details[1].rate.is_none());
}

#[test]
fn a_stale_rate_makes_its_prices_stale() {
    let mut harness = Harness::new(CONVERTED);
    let rate = kraken_trade(1, "USDT/USD", "0.998");
    harness.apply_frame("kraken", VenueKind::Kraken, &rate, NOW_US);
    for second in 0..40 {
        let at = NOW_US + second * SECOND_US;
        let frame = binance_trade(second as u64 + 1, "BTCUSDT", "100");
        harness.apply_frame("binance", VenueKind::Binance, &frame, at);
        harness.aggregator.tick(at);
    }
    let published = harness.publisher.prices("prices:BTC-USD");
    let stale: Vec<_> = published.iter().filter(|update| update.stale).collect();
    assert_eq!(stale.len(), 1);
    assert_eq!(price(stale[0]), "99.8");
    assert!(!harness.get_price("BTC-USDT", NOW_US + 40 * SECOND_US).stale);
}

#[test]
fn sources_are_added_and_removed() {
    let mut harness =
        Harness::new("symbols = [\"BTC-USD\", \"ETH-USD\"]\n[[source]]\nkind = \"coinbase\"");
    let coinbase = VenueKind::Coinbase;
    harness.apply_frame(
        "coinbase",
        coinbase,
        &coinbase_match(1, "BTC-USD", "100"),
        NOW_US,
    );
    let spec = |name: &str| {
        let mut source = SourceConfig::new(VenueKind::Kraken);
        source.name = Some(name.to_owned());
        source.spec().unwrap()
    };
    harness.aggregator.add_source(spec("k")).unwrap();
    let twice = harness.aggregator.add_source(spec("k")).unwrap_err();
    assert!(twice.to_string().contains("two sources are named"));
    let old = harness.aggregator.source("k").unwrap();
    harness.apply_frame(
        "k",
        VenueKind::Kraken,
        &kraken_trade(1, "BTC/USD", "102"),
        NOW_US,
    );
    assert_eq!(price(&harness.get_price("BTC-USD", NOW_US)), "101");

    // The first one is removed: the price of the other is published.
    harness
        .aggregator
        .remove_source("coinbase", NOW_US)
        .unwrap();
    let answer = harness.get_price("BTC-USD", NOW_US);
    assert_eq!((price(&answer), answer.source_details.len()), ("102", 1));
    let own = harness.publisher.prices("prices:BTC-USD@coinbase");
    assert!(own.last().unwrap().stale);
    // The last one is removed: the price is stale, once.
    harness.aggregator.remove_source("k", NOW_US).unwrap();
    assert!(harness.get_price("BTC-USD", NOW_US).stale);
    assert!(harness.aggregator.sources(NOW_US).is_empty());
    let unknown = harness.aggregator.remove_source("k", NOW_US).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no source \"k\"");

    // Another source gets its index, and late frames of the old one do not count for it.
    harness.aggregator.add_source(spec("k2")).unwrap();
    let late = VenueKind::Kraken.parse(b"{}");
    let frame = kraken_trade(9, "BTC/USD", "500");
    let events = VenueKind::Kraken.parse(frame.as_bytes());
    harness.aggregator.apply_frame(old, &late, NOW_US);
    harness.aggregator.apply_frame(old, &events, NOW_US);
    assert_eq!(harness.aggregator.sources(NOW_US)[0].frames, 0);
    harness.apply_frame(
        "k2",
        VenueKind::Kraken,
        &kraken_trade(1, "ETH/USD", "7"),
        NOW_US,
    );
    assert_eq!(price(&harness.get_price("ETH-USD", NOW_US)), "7");
    harness.aggregator.tick(NOW_US + 31 * SECOND_US);
    assert!(harness.get_price("ETH-USD", NOW_US).stale);
    for n in 0..63 {
        harness
            .aggregator
            .add_source(spec(&format!("n{n}")))
            .unwrap();
    }
    let full = harness.aggregator.add_source(spec("one-more")).unwrap_err();
    assert!(full.to_string().contains("64 sources already"), "{full}");
}

#[test]
fn the_figures_of_24_hours_are_computed_if_no_venue_sends_them() {
    let mut harness = Harness::new(
        "symbols = [\"BTC-USD\"]\n[[source]]\nkind = \"bitstamp\"\nclock = \"arrival\"",
    );
    let bitstamp = VenueKind::Bitstamp;
    let hour_us = 3_600 * SECOND_US;
    for hour in 0..30 {
        let frame = bitstamp_trade(
            hour as u64 * 7 + 1,
            "btcusd",
            &format!("{}", 100 + hour),
            "2",
        );
        harness.apply_frame("bitstamp", bitstamp, &frame, NOW_US + hour * hour_us);
        let answer = harness.get_price("BTC-USD", NOW_US + hour * hour_us);
        let covered = 3_600_000 * hour.unsigned_abs();
        assert_eq!(answer.day_covered_ms, Some(covered.min(86_400_000)));
    }
    let answer = harness.get_price("BTC-USD", NOW_US + 29 * hour_us);
    let volume: i64 = (6..30).map(|hour| 2 * (100 + hour)).sum();
    assert_eq!(answer.volume_24h, Some(volume as f64));
    // From the price of hour 5, which was in force 24 hours ago.
    assert!((answer.change_24h.unwrap() - 24.0 / 105.0 * 100.0).abs() < 1e-9);
}

#[test]
fn an_oracle_gives_a_price_and_its_confidence() {
    let mut harness = Harness::new("symbols = [\"BTC-USD\"]\n[[source]]\nkind = \"pyth\"");
    let frame = r#"{"binary":{},"parsed":[{"id":"e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43","price":{"price":"6183801000000","conf":"3000000000","expo":-8,"publish_time":1750000000}}]}"#;
    harness.apply_frame("pyth", VenueKind::Pyth, frame, NOW_US);
    let answer = harness.get_price("BTC-USD", NOW_US);
    assert_eq!(price(&answer), "61838.01");
    assert_eq!(answer.confidence.unwrap().value, "30");
    assert_eq!(
        (answer.volume_24h, answer.source_details[0].trades),
        (None, 0)
    );
}
