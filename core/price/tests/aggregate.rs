//! The way from venue frames to publications.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use rust_decimal::Decimal;
use support::{
    CapturingPublisher, NOW_US, binance_trade, coinbase_match, coinbase_ticker, config,
    kraken_trade, price,
};
use tidewire_price::{
    Aggregator, LinkState, VenueKind,
    venue::{Size, Trade, TradeId, VenueEvent},
};
use tidewire_proto::v1::{SourceState, TradeSide};

const SECOND_US: i64 = 1_000_000;

/// An aggregator that is fed with frames.
struct Harness {
    aggregator: Aggregator,
    publisher: Arc<CapturingPublisher>,
}

impl Harness {
    fn new(text: &str) -> Self {
        let publisher = CapturingPublisher::new();
        let aggregator = Aggregator::new(&config(text), publisher.clone()).unwrap();
        Self {
            aggregator,
            publisher,
        }
    }

    fn apply_frame(&mut self, venue: &str, frame: &str, at_us: i64) {
        let source = self.aggregator.source(venue).unwrap();
        let kind = VenueKind::from_name(venue).unwrap();
        self.aggregator
            .apply_frame(source, &kind.parse(frame.as_bytes()), at_us);
    }

    fn prices(&self, channel: &str) -> Vec<(String, u32, bool)> {
        let updates = self.publisher.prices(channel);
        let shown = |update: &tidewire_proto::v1::PriceUpdate| {
            (price(update).to_owned(), update.sources, update.stale)
        };
        updates.iter().map(shown).collect()
    }
}

fn published(price: &str, sources: u32, stale: bool) -> (String, u32, bool) {
    (price.to_owned(), sources, stale)
}

#[test]
fn venues_make_one_price_and_keep_their_own_channels() {
    let mut harness = Harness::new(r#"symbols = ["BTC-USD", "BTC-USDT"]"#);
    harness.apply_frame("coinbase", &coinbase_match(1, "BTC-USD", "100.10"), NOW_US);
    harness.apply_frame("kraken", &kraken_trade(7, "BTC/USD", "100.3"), NOW_US + 1);
    harness.apply_frame(
        "binance",
        &binance_trade(9, "BTCUSDT", "100.20"),
        NOW_US + 2,
    );
    assert_eq!(
        harness.prices("prices:BTC-USD"),
        [published("100.1", 1, false), published("100.2", 2, false)]
    );
    assert_eq!(
        harness.prices("prices:BTC-USD@kraken"),
        [published("100.3", 1, false)]
    );
    // Tether is not the dollar.
    assert_eq!(
        harness.prices("prices:BTC-USDT"),
        [published("100.2", 1, false)]
    );
    let answer = harness.aggregator.price("BTC-USD", NOW_US + 5_000).unwrap();
    assert_eq!(answer.confidence.unwrap().value, "0.1");
    assert_eq!(answer.method.as_deref(), Some("median"));
    let [coinbase, kraken, ..] = &answer.source_details[..] else {
        panic!("{:?}", answer.source_details)
    };
    assert_eq!(
        (coinbase.source.as_str(), coinbase.weight, coinbase.age_ms),
        ("coinbase", 0.5, Some(5))
    );
    assert_eq!((kraken.state(), kraken.trades), (SourceState::Live, 1));
}

#[test]
fn the_age_of_a_symbol_is_that_of_its_newest_data() {
    let mut harness = Harness::new(r#"symbols = ["BTC-USD", "ETH-USD"]"#);
    assert!(harness.aggregator.ages_ms(NOW_US).is_empty());
    harness.apply_frame("coinbase", &coinbase_match(1, "BTC-USD", "100"), NOW_US);
    let later = NOW_US + 2 * SECOND_US;
    harness.apply_frame("kraken", &kraken_trade(7, "BTC/USD", "100"), later);
    let ages = harness.aggregator.ages_ms(later + 1_500_999);
    assert_eq!(ages, [("BTC-USD".to_owned(), 1_500)]);
}

#[test]
fn a_trade_counts_once_and_a_newer_ticker_sets_the_price() {
    let mut harness = Harness::new(r#"symbols = ["BTC-USD"]"#);
    let at = NOW_US;
    let last_match = coinbase_match(9, "BTC-USD", "90").replace("match\"", "last_match\"");
    harness.apply_frame("coinbase", &last_match, at);
    harness.apply_frame("coinbase", &coinbase_match(10, "BTC-USD", "101"), at);
    harness.apply_frame("coinbase", &coinbase_match(10, "BTC-USD", "101"), at);
    // The ticker of that trade, and of the one before.
    harness.apply_frame("coinbase", &coinbase_ticker(10, "BTC-USD", "101"), at);
    harness.apply_frame("coinbase", &coinbase_ticker(9, "BTC-USD", "90"), at);
    let answer = harness.aggregator.price("BTC-USD", at).unwrap();
    assert_eq!(
        (price(&answer), answer.source_details[0].trades),
        ("101", 1)
    );
    assert_eq!(answer.volume_24h, Some(180.0));
    // A lone source is known to half of the distance between its offers.
    assert_eq!(answer.confidence.unwrap().value, "1");
    harness.apply_frame("coinbase", &coinbase_ticker(11, "BTC-USD", "102"), at);
    harness.apply_frame("coinbase", &coinbase_match(12, "BTC-USD", "99.5"), at);
    let answer = harness.aggregator.price("BTC-USD", at).unwrap();
    let detail = &answer.source_details[0];
    let bounds = [&detail.min, &detail.max].map(|bound| bound.clone().unwrap().value);
    assert_eq!((price(&answer), detail.trades), ("99.5", 2));
    // Of trades alone.
    assert_eq!(bounds, ["99.5", "101"]);
    let sources = harness.aggregator.sources(at);
    let coinbase = sources.iter().find(|s| s.name == "coinbase").unwrap();
    assert_eq!((coinbase.frames, coinbase.trades), (7, 2));
}

#[test]
fn a_late_trade_counts_and_does_not_set_the_price() {
    let mut harness = Harness::new(r#"symbols = ["BTC-USD"]"#);
    let trade = |id: u64, price: i64, seconds: i64| {
        let (price, time_us) = (Decimal::from(price), NOW_US + seconds * SECOND_US);
        VenueEvent::Trade(Trade {
            name: "BTC-USD".into(),
            id: TradeId::Single(id),
            price,
            size: Size::Base(price),
            side: TradeSide::Unspecified,
            venue_time_us: Some(time_us),
            unexpected: Vec::new(),
        })
    };
    let coinbase = harness.aggregator.source("coinbase").unwrap();
    let mut price_after = |event: VenueEvent<'_>| {
        harness.aggregator.apply(coinbase, &event, NOW_US);
        price(&harness.aggregator.price("BTC-USD", NOW_US).unwrap()).to_owned()
    };
    assert_eq!(price_after(trade(10, 100, 10)), "100");
    assert_eq!(price_after(trade(12, 102, 12)), "102");
    assert_eq!(price_after(trade(11, 90, 11)), "102");
    // One wrong time does not hold the price.
    assert_eq!(price_after(trade(13, 103, 9_999)), "103");
    assert_eq!(price_after(trade(14, 104, 14)), "104");
    // The venue restarts its numbering.
    assert_eq!(price_after(trade(1, 105, 15)), "105");
    let answer = harness.aggregator.price("BTC-USD", NOW_US).unwrap();
    let detail = &answer.source_details[0];
    assert_eq!(detail.trades, 6);
    assert_eq!(detail.min.as_ref().unwrap().value, "90");
}

#[test]
fn the_detail_of_a_bad_frame_is_short() {
    let mut harness = Harness::new(r#"symbols = ["BTC-USD"]"#);
    let long = "X".repeat(100_000);
    for frame in [
        coinbase_match(1, &long, "1"),
        format!(r#"{{"type":"match","trade_id":{long:?}}}"#),
        coinbase_match(1, "BTC-USD", &long),
    ] {
        harness.apply_frame("coinbase", &frame, NOW_US);
        let sources = harness.aggregator.sources(NOW_US);
        let coinbase = sources.iter().find(|s| s.name == "coinbase").unwrap();
        let error = coinbase.last_error.as_ref().unwrap();
        assert!(error.len() < 300, "{} bytes", error.len());
    }
}

#[test]
fn bad_frames_are_counted_and_good_ones_still_apply() {
    let mut harness = Harness::new(r#"symbols = ["BTC-USD"]"#);
    let bad = coinbase_match(1, "BTC-USD", "0");
    for frame in ["{", "[]", &bad, &coinbase_match(1, "XYZ-USD", "5")] {
        harness.apply_frame("coinbase", frame, NOW_US);
    }
    harness.apply_frame("coinbase", &coinbase_match(1, "BTC-USD", "7"), NOW_US);
    let sources = harness.aggregator.sources(NOW_US);
    let coinbase = sources.iter().find(|s| s.name == "coinbase").unwrap();
    assert_eq!(
        (coinbase.frames, coinbase.bad_frames, coinbase.trades),
        (5, 4, 1)
    );
    assert_eq!(harness.prices("prices:BTC-USD"), [published("7", 1, false)]);
}

#[test]
fn the_last_source_to_end_leaves_one_stale_price_until_new_data() {
    let mut harness = Harness::new(
        "symbols = [\"BTC-USD\", \"ETH-USD\"]\nstale_after = \"1s\"\n[symbol.\"ETH-USD\"]\nstale_after = \"5s\"",
    );
    harness.apply_frame("coinbase", &coinbase_match(1, "BTC-USD", "10"), NOW_US);
    harness.apply_frame("coinbase", &coinbase_match(1, "ETH-USD", "2"), NOW_US);
    let half = NOW_US + SECOND_US / 2;
    harness.apply_frame("kraken", &kraken_trade(1, "BTC/USD", "12"), half);
    for step in 0..40 {
        harness.aggregator.tick(NOW_US + step * SECOND_US / 10);
    }
    let back = NOW_US + 4 * SECOND_US;
    harness.apply_frame("coinbase", &coinbase_match(2, "BTC-USD", "12"), back);
    assert_eq!(
        harness.prices("prices:BTC-USD"),
        [
            published("10", 1, false),
            published("11", 2, false),
            published("12", 1, false),
            published("12", 0, true),
            published("12", 1, false)
        ]
    );
    assert_eq!(
        harness.prices("prices:BTC-USD@kraken"),
        [published("12", 1, false), published("12", 0, true)]
    );
    assert_eq!(harness.prices("prices:ETH-USD"), [published("2", 1, false)]);
    // A stale price keeps its timestamp.
    let stale = &harness.publisher.prices("prices:BTC-USD")[3];
    assert_eq!(stale.timestamp, NOW_US / 1_000);
}

#[test]
fn a_lost_connection_stops_counting_after_a_grace_period() {
    let mut harness = Harness::new(r#"symbols = ["BTC-USD"]"#);
    harness.apply_frame("coinbase", &coinbase_match(1, "BTC-USD", "10"), NOW_US);
    let source = harness.aggregator.source("coinbase").unwrap();
    let lost = LinkState::Lost("gone".to_owned());
    // It reconnects in time.
    harness.aggregator.set_link_state(source, &lost, NOW_US);
    harness.aggregator.tick(NOW_US + SECOND_US);
    harness
        .aggregator
        .set_link_state(source, &LinkState::Connected, NOW_US + SECOND_US);
    harness.aggregator.tick(NOW_US + 5 * SECOND_US);
    assert_eq!(
        harness.prices("prices:BTC-USD"),
        [published("10", 1, false)]
    );
    // It does not.
    harness
        .aggregator
        .set_link_state(source, &lost, NOW_US + 5 * SECOND_US);
    harness.aggregator.tick(NOW_US + 6 * SECOND_US);
    harness.aggregator.tick(NOW_US + 7 * SECOND_US);
    harness.aggregator.tick(NOW_US + 8 * SECOND_US);
    assert_eq!(
        harness.prices("prices:BTC-USD"),
        [published("10", 1, false), published("10", 0, true)]
    );
    let answer = harness.aggregator.price("BTC-USD", NOW_US).unwrap();
    assert_eq!(
        answer.source_details[0].reason.as_deref(),
        Some("the connection is lost")
    );
    // Connected again, without data so far.
    let back = NOW_US + 9 * SECOND_US;
    harness
        .aggregator
        .set_link_state(source, &LinkState::Connected, back);
    let answer = harness.aggregator.price("BTC-USD", back).unwrap();
    assert_eq!(
        (answer.stale, answer.source_details[0].reason.as_deref()),
        (true, Some("silent for too long"))
    );
}

#[test]
fn only_visible_changes_are_published_and_a_quiet_market_once_a_second() {
    let mut harness = Harness::new(
        "symbols = [\"BTC-USD\"]\n[[source]]\nkind = \"coinbase\"\nclock = \"arrival\"",
    );
    for step in 0..25_u32 {
        let at = NOW_US + i64::from(step) * SECOND_US / 10;
        harness.apply_frame(
            "coinbase",
            &coinbase_match(u64::from(step), "BTC-USD", "10"),
            at,
        );
    }
    let stamps: Vec<_> = harness
        .publisher
        .prices("prices:BTC-USD")
        .iter()
        .map(|update| update.timestamp - NOW_US / 1_000)
        .collect();
    assert_eq!(stamps, [0, 1_000, 2_000]);
    let newest = harness.aggregator.price("BTC-USD", NOW_US).unwrap();
    assert_eq!(newest.timestamp, NOW_US / 1_000 + 2_400);
}

#[test]
fn timestamps_are_the_venues_if_plausible_and_the_arrivals_if_configured() {
    let stamp = |clock: &str, at_us: i64| {
        let mut harness = Harness::new(&format!(
            "symbols = [\"BTC-USD\"]\n[[source]]\nkind = \"coinbase\"\nclock = \"{clock}\""
        ));
        harness.apply_frame("coinbase", &coinbase_match(1, "BTC-USD", "10"), at_us);
        harness.publisher.prices("prices:BTC-USD")[0].timestamp
    };
    // The frame's time is 1,750,000,000,000.
    assert_eq!(stamp("venue", NOW_US + 900_000), 1_750_000_000_000);
    assert_eq!(stamp("arrival", NOW_US + 900_000), 1_750_000_000_900);
    assert_eq!(
        stamp("venue", NOW_US + 3_600 * SECOND_US),
        1_750_003_600_000
    );
    assert_eq!(stamp("venue", NOW_US - 60 * SECOND_US), 1_749_999_940_000);
}

#[test]
fn the_overview_sums_known_figures_and_reports_its_coverage() {
    let mut harness = Harness::new(
        "symbols = [\"BTC-USD\", \"ETH-USD\", \"BTC-USDT\", \"SOL-USD\"]\n[supply]\nBTC = 20\nETH = 100",
    );
    harness.aggregator.tick(NOW_US);
    assert!(harness.publisher.overviews().is_empty());
    harness.apply_frame("coinbase", &coinbase_ticker(1, "BTC-USD", "110"), NOW_US);
    harness.apply_frame("coinbase", &coinbase_ticker(1, "ETH-USD", "22"), NOW_US);
    harness.apply_frame("coinbase", &coinbase_ticker(1, "BTC-USDT", "105"), NOW_US);
    for id in 1..=25 {
        let frame = kraken_trade(id, "BTC/USD", "110");
        harness.apply_frame("kraken", &frame, NOW_US + 1);
    }
    for step in 0..30 {
        harness.aggregator.tick(NOW_US + step * SECOND_US / 10);
    }
    // Once, because nothing changed afterwards.
    let [overview] = &harness.publisher.overviews()[..] else {
        panic!("published more than once")
    };
    assert_eq!(overview.total_market_cap, Some(4_400.0));
    assert_eq!(overview.btc_dominance, Some(50.0));
    assert_eq!(overview.total_volume, Some(264.0));
    let movers: Vec<_> = overview
        .top_movers
        .iter()
        .map(|m| m.symbol.as_str())
        .collect();
    assert_eq!(movers, ["ETH-USD", "BTC-USD", "BTC-USDT"]);
    assert_eq!(overview.recent_trades.len(), 20);
    let coverage = overview.coverage.unwrap();
    assert_eq!(
        (
            coverage.symbols,
            coverage.live,
            coverage.with_supply,
            coverage.with_volume
        ),
        (4, 3, 2, 2)
    );
    let unknown = Harness::new(r#"symbols = ["BTC-USD"]"#)
        .aggregator
        .overview(NOW_US);
    assert_eq!(
        (
            unknown.total_market_cap,
            unknown.total_volume,
            unknown.btc_dominance
        ),
        (None, None, None)
    );
}

#[test]
fn an_unknown_symbol_or_source_is_answered_with_the_nearest() {
    let harness = Harness::new(r#"symbols = ["BTC-USD", "ETH-USD"]"#);
    let error = |name: &str| harness.aggregator.price(name, 0).unwrap_err().to_string();
    assert_eq!(
        error("BTC-USB"),
        r#"there is no symbol "BTC-USB", did you mean BTC-USD?"#
    );
    assert!(error("btc").contains("expected `BASE-QUOTE`"));
}
