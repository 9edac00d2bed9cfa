//! Implausible, old, duplicate, missing and broken data, and silence.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use support::{
    CapturingPublisher, NOW_US, binance_trade, coinbase_match, coinbase_ticker, config, price,
};
use tidewire_price::{Aggregator, VenueKind};
use tidewire_proto::v1::{PriceUpdate, Source, SourceDetail};

const SECOND_US: i64 = 1_000_000;
/// The time in the frames of `coinbase_match`, which is when the tests begin.
const TIME: &str = "2025-06-15T15:06:40.000001Z";

struct Harness {
    aggregator: Aggregator,
    publisher: Arc<CapturingPublisher>,
}

impl Harness {
    fn new() -> Self {
        let text = "symbols = [\"BTC-USD\", \"BTC-USDT\"]\n[[source]]\nkind = \"coinbase\"\n[[source]]\nkind = \"binance\"";
        let publisher = CapturingPublisher::new();
        Self {
            aggregator: Aggregator::new(&config(text), publisher.clone()).unwrap(),
            publisher,
        }
    }

    fn apply_frame(&mut self, frame: &str, at_us: i64) {
        self.apply_venue_frame(VenueKind::Coinbase, frame, at_us);
    }

    fn apply_venue_frame(&mut self, kind: VenueKind, frame: &str, at_us: i64) {
        let source = self.aggregator.source(kind.name()).unwrap();
        let events = kind.parse(frame.as_bytes());
        self.aggregator.apply_frame(source, &events, at_us);
    }

    /// A trade that arrives at `second` of the test and claims `venue_second`.
    fn trade(&mut self, id: u64, price: &str, venue_second: i64, second: i64) {
        let at = coinbase_time(venue_second);
        let frame = coinbase_match(id, "BTC-USD", price).replace(TIME, &at);
        self.apply_frame(&frame, NOW_US + second * SECOND_US);
    }

    fn answer(&self) -> PriceUpdate {
        self.aggregator.price("BTC-USD", NOW_US).unwrap()
    }

    fn detail(&self) -> SourceDetail {
        self.answer().source_details.remove(0)
    }

    fn source(&self) -> Source {
        self.aggregator.sources(NOW_US).remove(0)
    }
}

/// Seconds after 15:06:40, in Coinbase's notation.
fn coinbase_time(second: i64) -> String {
    let of_day = (15 * 60 + 6) * 60 + 40 + second;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("2025-06-15T{hour:02}:{minute:02}:{second:02}.000001Z")
}

#[test]
fn impossible_prices_are_counted_and_change_nothing() {
    let mut harness = Harness::new();
    harness.apply_frame(&coinbase_match(1, "BTC-USD", "100"), NOW_US);
    let published = harness.publisher.all().len();
    for (id, bad) in (2..).zip(["0", "-1", "0.00000000", "NaN", "Infinity", "-0", "1e99", ""]) {
        harness.apply_frame(&coinbase_match(id, "BTC-USD", bad), NOW_US);
        harness.apply_frame(&coinbase_ticker(id, "BTC-USD", bad), NOW_US);
    }
    assert_eq!(price(&harness.answer()), "100");
    assert_eq!(
        (harness.source().bad_frames, harness.detail().trades),
        (16, 1)
    );
    assert_eq!(harness.publisher.all().len(), published);
}

#[test]
fn a_price_ten_times_the_last_waits_for_confirmation() {
    let mut harness = Harness::new();
    harness.trade(1, "100", 0, 0);
    harness.trade(2, "1000", 1, 1);
    assert_eq!(
        (price(&harness.answer()), harness.source().bad_frames),
        ("100", 1)
    );
    assert_eq!(harness.detail().max.unwrap().value, "100");
    harness.trade(3, "101", 2, 2);
    harness.trade(4, "10", 3, 3);
    harness.trade(5, "102", 4, 4);
    assert_eq!(
        (price(&harness.answer()), harness.source().bad_frames),
        ("102", 2)
    );
    // A split of the token: the second price confirms the first.
    harness.trade(6, "1020", 5, 5);
    harness.trade(7, "1021", 6, 6);
    assert_eq!(price(&harness.answer()), "1021");
    let error = harness.source().last_error.unwrap();
    assert!(
        error.starts_with("absurd_price: 1020 waits for confirmation"),
        "{error}"
    );
}

#[test]
fn crossed_offers_are_dropped_and_the_price_stays() {
    let mut harness = Harness::new();
    harness.apply_frame(&coinbase_ticker(1, "BTC-USD", "100"), NOW_US);
    assert_eq!(harness.answer().confidence.unwrap().value, "1");
    let crossed = coinbase_ticker(2, "BTC-USD", "100.5").replace("\"99\"", "\"103\"");
    harness.apply_frame(&crossed, NOW_US);
    assert_eq!(price(&harness.answer()), "100.5");
    assert_eq!(harness.answer().confidence, None);
    assert_eq!(harness.source().bad_frames, 1);
}

#[test]
fn times_from_the_future_are_replaced_by_the_arrival() {
    let mut harness = Harness::new();
    harness.trade(1, "100", 0, 0);
    harness.trade(2, "101", 3_600, 1);
    assert_eq!(price(&harness.answer()), "101");
    let published = harness.publisher.prices("prices:BTC-USD");
    assert_eq!(published[1].timestamp, NOW_US / 1_000 + 1_000);
    assert_eq!(harness.source().bad_frames, 1);
    // It does not hold the price of later trades.
    harness.trade(3, "102", 2, 2);
    assert_eq!(price(&harness.answer()), "102");
}

#[test]
fn data_from_the_past_does_not_count_and_does_not_keep_a_source_live() {
    let mut harness = Harness::new();
    harness.trade(1, "100", 0, 0);
    harness.trade(2, "90", -3_600, 20);
    assert_eq!(
        (price(&harness.answer()), harness.detail().trades),
        ("100", 1)
    );
    harness.aggregator.tick(NOW_US + 31 * SECOND_US);
    assert!(harness.answer().stale);
    // A clock that was set is accepted after some messages.
    for n in 0..8 {
        harness.trade(3 + n, "95", -3_600 + n as i64, 40 + n as i64);
    }
    assert_eq!(
        (price(&harness.answer()), harness.answer().stale),
        ("95", false)
    );
    assert_eq!(harness.source().bad_frames, 8);
}

#[test]
fn a_slow_clock_makes_no_negative_ages() {
    let mut harness = Harness::new();
    // As recorded: this server's clock is 1.27 s behind the venue's.
    let frame = coinbase_match(1, "BTC-USD", "100");
    harness.apply_frame(&frame, NOW_US - 1_270_000);
    let answer = harness
        .aggregator
        .price("BTC-USD", NOW_US - 1_170_000)
        .unwrap();
    assert_eq!(answer.source_details[0].age_ms, Some(100));
    assert_eq!(harness.source().offset_ms, Some(-1_271));
    // A message that travelled half a second longer is that much older.
    harness.trade(2, "101", 1, 0);
    let answer = harness.aggregator.price("BTC-USD", NOW_US).unwrap();
    assert_eq!(answer.source_details[0].age_ms, Some(270));
}

#[test]
fn duplicate_trades_do_not_count_and_do_not_keep_a_source_live() {
    let mut harness = Harness::new();
    harness.trade(1, "100", 0, 0);
    for second in 1..31 {
        harness.trade(1, "105", second, second);
    }
    assert_eq!(
        (price(&harness.answer()), harness.detail().trades),
        ("100", 1)
    );
    harness.aggregator.tick(NOW_US + 31 * SECOND_US);
    assert!(harness.answer().stale);
}

#[test]
fn a_reconnect_that_repeats_trades_does_not_move_a_vwap_or_erase_gaps() {
    let text = "symbols = [\"BTC-USD\"]\nmethod = \"vwap\"\n[[source]]\nkind = \"coinbase\"";
    let mut harness = Harness::new();
    harness.aggregator = Aggregator::new(&config(text), CapturingPublisher::new()).unwrap();
    let price_of = |id: u64| if id <= 600 { "100" } else { "103" };
    // Of 1,205 trades five are missing. Then the last 300 are repeated, and the venue goes on.
    for id in (1..=1_000).chain(1_006..=1_205).chain(906..=1_205) {
        if !(1_001..=1_005).contains(&id) {
            harness.apply_frame(&coinbase_match(id, "BTC-USD", price_of(id)), NOW_US);
        }
    }
    let detail = harness.detail();
    assert_eq!((detail.trades, detail.missing), (1_200, Some(5)));
    // (600 × 100 + 600 × 103) / 1,200
    assert_eq!(price(&harness.answer()), "101.5");
}

#[test]
fn lost_trades_are_a_gap_of_their_symbol_alone() {
    let mut harness = Harness::new();
    let mut say = |id, symbol| {
        let frame = binance_trade(id, symbol, "100");
        harness.apply_venue_frame(VenueKind::Binance, &frame, NOW_US);
    };
    for id in [1, 2, 6, 4, 7] {
        say(id, "BTCUSDT");
    }
    let source = harness.aggregator.sources(NOW_US).remove(1);
    assert_eq!((source.gaps, source.trades), (Some(1), 5));
    let detail = harness.aggregator.price("BTC-USDT", NOW_US).unwrap();
    assert_eq!(detail.source_details[1].missing, Some(2));
    assert_eq!(harness.source().gaps, None);
}

#[test]
fn a_wrong_number_leaves_nothing_missing() {
    let mut harness = Harness::new();
    for id in (1..=10).chain([9_000_000]).chain(11..=20).chain([25]) {
        harness.apply_frame(&coinbase_match(id, "BTC-USD", "100"), NOW_US);
    }
    // 21 to 24.
    assert_eq!(harness.detail().missing, Some(4));
    assert_eq!(harness.detail().trades, 22);
    assert_eq!(harness.source().gaps, Some(2));
}

#[test]
fn broken_frames_are_counted_by_kind() {
    let mut harness = Harness::new();
    harness.apply_frame(&coinbase_match(1, "BTC-USD", "100"), NOW_US);
    let whole = coinbase_match(2, "BTC-USD", "101");
    // Truncated at each byte.
    for length in 0..whole.len() {
        harness.apply_frame(&whole[..length], NOW_US);
    }
    assert_eq!(harness.source().bad_frames, whole.len() as u64);
    // A text that became a number, and the reverse.
    harness.apply_frame(&whole.replace("\"101\"", "101"), NOW_US);
    harness.apply_frame(&whole.replace(":2,", ":\"2\","), NOW_US);
    let error = harness.source().last_error.unwrap();
    assert!(error.starts_with("wrong_type"), "{error}");
    // Another symbol's data.
    harness.apply_frame(&coinbase_match(2, "ETH-USD", "101"), NOW_US);
    let error = harness.source().last_error.unwrap();
    assert!(error.starts_with("unknown_symbol"), "{error}");
    assert_eq!(
        (price(&harness.answer()), harness.detail().trades),
        ("100", 1)
    );
    // The next good frame applies.
    harness.apply_frame(&whole, NOW_US);
    assert_eq!(
        (price(&harness.answer()), harness.detail().trades),
        ("101", 2)
    );
}

#[test]
fn heartbeats_do_not_keep_a_source_live() {
    let mut harness = Harness::new();
    harness.apply_frame(&coinbase_match(1, "BTC-USD", "100"), NOW_US);
    for second in 1..=30 {
        let heartbeat = format!(
            r#"{{"type":"heartbeat","product_id":"BTC-USD","sequence":{second},"last_trade_id":1,"time":"{TIME}"}}"#
        );
        harness.apply_frame(&heartbeat, NOW_US + second * SECOND_US);
        harness.aggregator.tick(NOW_US + second * SECOND_US);
    }
    assert!(harness.answer().stale);
    let published = harness.publisher.prices("prices:BTC-USD");
    let stale: Vec<_> = published.iter().map(|update| update.stale).collect();
    assert_eq!(stale, [false, true]);
}

#[test]
fn a_quiet_symbol_does_not_flap() {
    let mut harness = Harness::new();
    // Once in 100 seconds, while `stale_after` is 30 seconds.
    for n in 0..20 {
        let second = 100 * n;
        harness.trade(n as u64 + 1, "100", second, second);
        for step in 0..100 {
            harness
                .aggregator
                .tick(NOW_US + (second + step) * SECOND_US);
        }
    }
    let published = harness.publisher.prices("prices:BTC-USD");
    // Only until the interval was known.
    assert_eq!(published.iter().filter(|update| update.stale).count(), 1);
    // After three times the longest silence it is stale.
    harness.aggregator.tick(NOW_US + (1_900 + 301) * SECOND_US);
    assert!(harness.answer().stale);
}
