//! Figures of 24 hours: counted here against a plain computation, excluded sources, conversion.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use proptest::prelude::*;
use support::{
    CapturingPublisher, NOW_US, binance_trade, bitstamp_trade, coinbase_match, coinbase_ticker,
    config, kraken_trade, price,
};
use tidewire_price::{Aggregator, LinkState, VenueKind};
use tidewire_proto::v1::PriceUpdate;

const SECOND_US: i64 = 1_000_000;
const HOUR_US: i64 = 3_600 * SECOND_US;
const DAY_US: i64 = 24 * HOUR_US;

struct Harness(Aggregator);

impl Harness {
    fn new(text: &str) -> Self {
        Self(Aggregator::new(&config(text), CapturingPublisher::new()).unwrap())
    }

    fn bitstamp() -> Self {
        Self::new("symbols = [\"BTC-USD\"]\n[[source]]\nkind = \"bitstamp\"\nclock = \"arrival\"")
    }

    fn apply_frame(&mut self, kind: VenueKind, frame: &str, at_us: i64) {
        let source = self.0.source(kind.name()).unwrap();
        self.0
            .apply_frame(source, &kind.parse(frame.as_bytes()), at_us);
    }

    fn trade(&mut self, id: u64, price: i64, size: i64, at_us: i64) {
        let frame = bitstamp_trade(id, "btcusd", &price.to_string(), &size.to_string());
        self.apply_frame(VenueKind::Bitstamp, &frame, at_us);
    }

    fn link(&mut self, state: &LinkState, at_us: i64) {
        let source = self.0.source("bitstamp").unwrap();
        self.0.set_link_state(source, state, at_us);
    }

    fn get_price(&self, at_us: i64) -> PriceUpdate {
        self.0.price("BTC-USD", at_us).unwrap()
    }
}

/// A trade: its time, price and size.
type Trade = (i64, i64, i64);

/// Change and volume of the 24 hours that end at `now_us`.
fn plain(tape: &[Trade], now_us: i64) -> (f64, f64) {
    let until_now = || tape.iter().filter(move |(at_us, ..)| *at_us <= now_us);
    let in_force = until_now().rfind(|(at_us, ..)| *at_us <= now_us - DAY_US);
    let (_, open, _) = in_force.unwrap_or(&tape[0]);
    let (_, last, _) = until_now().next_back().unwrap();
    let inside = until_now().filter(|(at_us, ..)| *at_us > now_us - DAY_US);
    let volume: i64 = inside.map(|(_, price, size)| price * size).sum();
    ((*last as f64 / *open as f64 - 1.0) * 100.0, volume as f64)
}

/// Compares the figures with those of `tape`, which holds the trades of the last day and the one
/// before. The first trade of all was at `first_us`.
fn assert_matches(harness: &Harness, tape: &[Trade], first_us: i64, now_us: i64) {
    let answer = harness.get_price(now_us);
    let (change, volume) = plain(tape, now_us);
    assert!(
        (answer.change_24h.unwrap() - change).abs() < 1e-6,
        "{answer:?} {change}"
    );
    assert_eq!(answer.volume_24h, Some(volume), "{answer:?}");
    let covered_ms = (now_us - first_us).min(DAY_US) / 1_000;
    assert_eq!(answer.day_covered_ms, Some(covered_ms.unsigned_abs()));
}

/// A number below `bound`, different for each `n`.
fn scattered(n: i64, bound: i64) -> i64 {
    let mixed = (n as u64 ^ 0x9e37_79b9).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 33) as i64) % bound
}

#[test]
fn a_year_of_trades_equals_the_plain_computation() {
    let (mut harness, mut tape, mut now_us) = (Harness::bitstamp(), Vec::new(), NOW_US);
    // About 30 a day, at any second; now and then none for a day or more.
    for n in 0..11_000 {
        now_us += match scattered(n, 400) {
            0 => DAY_US + scattered(n + 1, DAY_US),
            _ => scattered(n, 5_800) * SECOND_US,
        };
        let (price, size) = (20_000 + scattered(n + 2, 40_000), 1 + scattered(n + 3, 9));
        harness.trade(n as u64 + 1, price, size, now_us);
        tape.push((now_us, price, size));
        let inside = tape.partition_point(|(at_us, ..)| *at_us <= now_us - DAY_US);
        assert_matches(
            &harness,
            &tape[inside.saturating_sub(1)..],
            tape[0].0,
            now_us,
        );
    }
    assert!(
        now_us - NOW_US > 360 * DAY_US,
        "{}",
        (now_us - NOW_US) / DAY_US
    );
}

#[test]
fn the_change_is_from_the_price_in_force_a_day_ago() {
    let mut harness = Harness::bitstamp();
    harness.trade(1, 100, 1, NOW_US);
    harness.trade(2, 200, 1, NOW_US + 60 * SECOND_US);
    let now_us = NOW_US + DAY_US + 5 * SECOND_US;
    harness.trade(3, 200, 1, now_us);
    let answer = harness.get_price(now_us);
    assert_eq!(
        (answer.change_24h, answer.volume_24h),
        (Some(100.0), Some(400.0))
    );
    assert_eq!(answer.day_covered_ms, Some(86_400_000));
    // A minute later the first price is no longer in force.
    harness.trade(4, 200, 1, now_us + 60 * SECOND_US);
    let answer = harness.get_price(now_us + 60 * SECOND_US);
    assert_eq!(
        (answer.change_24h, answer.volume_24h),
        (Some(0.0), Some(400.0))
    );
}

#[test]
fn a_late_trade_is_in_the_volume_and_its_price_is_never_in_force() {
    let mut harness = Harness::bitstamp();
    for (id, price, venue_second, second) in [(1, "100", 1, 1), (3, "200", 3, 3), (2, "150", 2, 4)]
    {
        let frame = bitstamp_trade(id, "btcusd", price, "1");
        let frame = frame.replace("0000000000\"", &format!("{venue_second:04}000000\""));
        harness.apply_frame(VenueKind::Bitstamp, &frame, NOW_US + second * SECOND_US);
    }
    assert_eq!(
        harness.get_price(NOW_US + 4 * SECOND_US).volume_24h,
        Some(450.0)
    );
    let answer = harness.get_price(NOW_US + DAY_US + 4 * SECOND_US);
    assert_eq!(
        (answer.change_24h, answer.volume_24h),
        (Some(0.0), Some(0.0))
    );
}

#[test]
fn a_hole_of_seven_hours_is_bridged_by_the_price_in_force_and_not_covered() {
    let (mut harness, mut tape) = (Harness::bitstamp(), Vec::new());
    harness.link(&LinkState::Connected, NOW_US);
    let hole = NOW_US + 10 * HOUR_US..NOW_US + 17 * HOUR_US;
    for n in 0..2_400 {
        let at_us = NOW_US + n * 72 * SECOND_US;
        if hole.contains(&at_us) {
            continue;
        }
        if at_us == hole.end {
            harness.link(&LinkState::Connected, at_us);
        }
        let (price, size) = (20_000 + scattered(n, 40_000), 1 + scattered(n + 1, 9));
        harness.trade(n as u64 + 1, price, size, at_us);
        tape.push((at_us, price, size));
        if at_us + 72 * SECOND_US == hole.start {
            harness.link(&LinkState::Lost("gone".to_owned()), hole.start);
        }
        let answer = harness.get_price(at_us);
        let (change, volume) = plain(&tape, at_us);
        assert!((answer.change_24h.unwrap() - change).abs() < 1e-6);
        assert_eq!(answer.volume_24h, Some(volume));
        let start_us = NOW_US.max(at_us - DAY_US);
        let unseen_us = (hole.end.min(at_us) - hole.start.max(start_us)).max(0);
        let covered_us = at_us - start_us - unseen_us;
        assert_eq!(
            answer.day_covered_ms,
            Some(covered_us.unsigned_abs() / 1_000)
        );
    }
}

proptest! {
    #[test]
    fn any_tape_equals_the_plain_computation(
        steps in prop::collection::vec((prop_oneof![0..100_i64, 0..20_000_i64, 50_000..200_000_i64], 1..500_i64, 1..9_i64), 1..60),
        later in 0..30_i64,
    ) {
        let (mut harness, mut tape, mut now_us) = (Harness::bitstamp(), Vec::new(), NOW_US);
        for (id, (seconds, price, size)) in (1..).zip(steps) {
            now_us += seconds * SECOND_US;
            // Within five times the last price.
            let price = 1_000 + price;
            harness.trade(id, price, size, now_us);
            tape.push((now_us, price, size));
            assert_matches(&harness, &tape, tape[0].0, now_us);
        }
        // Time passes without a trade.
        assert_matches(&harness, &tape, tape[0].0, now_us + later * SECOND_US);
    }
}

#[test]
fn a_part_of_a_day_does_not_count_beside_whole_days() {
    let mut harness = Harness::new(
        "symbols = [\"BTC-USD\"]\n[[source]]\nkind = \"bitstamp\"\nclock = \"arrival\"\n[[source]]\nkind = \"coinbase\"",
    );
    harness.apply_frame(
        VenueKind::Bitstamp,
        &bitstamp_trade(1, "btcusd", "120", "1"),
        NOW_US,
    );
    assert_eq!(harness.get_price(NOW_US).change_24h, Some(0.0));
    assert_eq!(harness.get_price(NOW_US).day_covered_ms, Some(0));
    let ticker = coinbase_ticker(1, "BTC-USD", "120");
    harness.apply_frame(VenueKind::Coinbase, &ticker, NOW_US);
    let answer = harness.get_price(NOW_US);
    assert!((answer.change_24h.unwrap() - 20.0).abs() < 1e-9);
    assert_eq!(
        (answer.volume_24h, answer.day_covered_ms),
        (Some(360.0), None)
    );
}

#[test]
fn a_source_without_figures_does_not_hide_how_much_is_covered() {
    let mut harness = Harness::new(
        "symbols = [\"BTC-USD\"]\n[[source]]\nkind = \"bitstamp\"\nclock = \"arrival\"\n[[source]]\nkind = \"coinbase\"\nclock = \"arrival\"",
    );
    // Coinbase reports figures of 24 hours by tickers alone.
    for (kind, frame) in [
        (VenueKind::Bitstamp, bitstamp_trade(1, "btcusd", "120", "1")),
        (VenueKind::Coinbase, coinbase_match(1, "BTC-USD", "120")),
    ] {
        harness.apply_frame(kind, &frame, NOW_US);
    }
    let answer = harness.get_price(NOW_US);
    assert_eq!(
        (answer.volume_24h, answer.day_covered_ms),
        (Some(120.0), Some(0))
    );
}

#[test]
fn an_excluded_source_gives_the_price_no_time() {
    let source = |kind| format!("[[source]]\nkind = \"{kind}\"\nclock = \"arrival\"\n");
    let sources: String = ["kraken", "bitstamp", "coinbase"].map(source).concat();
    let mut harness = Harness::new(&format!("symbols = [\"BTC-USD\"]\n{sources}"));
    for (kind, frame) in [
        (VenueKind::Kraken, kraken_trade(1, "BTC/USD", "100")),
        (VenueKind::Bitstamp, bitstamp_trade(1, "btcusd", "100", "1")),
        (VenueKind::Coinbase, coinbase_match(1, "BTC-USD", "100")),
    ] {
        harness.apply_frame(kind, &frame, NOW_US);
    }
    let formed = harness.get_price(NOW_US).timestamp;
    for second in 1..=3 {
        let now_us = NOW_US + second * 1_000_000;
        let print = coinbase_match(1 + second.unsigned_abs(), "BTC-USD", "150");
        harness.apply_frame(VenueKind::Coinbase, &print, now_us);
        let answer = harness.get_price(now_us);
        assert_eq!((answer.sources, answer.timestamp), (2, formed));
    }
}

#[test]
fn an_excluded_source_counts_neither_in_volume_nor_in_change() {
    let mut harness = Harness::new("symbols = [\"BTC-USDT\"]");
    let okx = r#"{"arg":{"channel":"tickers","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","last":"60000","askPx":"60001","bidPx":"59999","open24h":"59406","volCcy24h":"1000000","vol24h":"1","ts":"1750000000000"}]}"#;
    let bybit = r#"{"topic":"tickers.BTCUSDT","ts":1750000000000,"type":"snapshot","data":{"symbol":"BTCUSDT","lastPrice":"60001","volume24h":"1","turnover24h":"2000000","price24hPcnt":"0.02"}}"#;
    // At half of the others' price, with a large volume and a large change.
    let coinbase = coinbase_ticker(1, "BTC-USDT", "30000").replace("\"2\"", "\"30000\"");
    for (kind, frame) in [
        (VenueKind::Okx, okx),
        (VenueKind::Bybit, bybit),
        (VenueKind::Coinbase, &coinbase),
    ] {
        harness.apply_frame(kind, frame, NOW_US);
    }
    let answer = harness.0.price("BTC-USDT", NOW_US).unwrap();
    assert_eq!((price(&answer), answer.sources), ("60000.5", 2));
    assert_eq!(answer.volume_24h, Some(3_000_000.0));
    let change = (60_000.0 / 59_406.0 - 1.0) * 100.0;
    assert!((answer.change_24h.unwrap() - (change + 2.0) / 2.0).abs() < 1e-9);
}

const CONVERTED: &str = "symbols = [\"BTC-USD\", \"USDT-USD\"]\nconvert = [\"USDT\"]\n[[source]]\nkind = \"binance\"\nclock = \"arrival\"\n[[source]]\nkind = \"coinbase\"";

const BINANCE_TICKER: &str = r#"{"stream":"btcusdt@ticker","data":{"e":"24hrTicker","E":1750000000000,"s":"BTCUSDT","P":"20","c":"60000","o":"50000","v":"100","q":"6000000","b":"59999","a":"60001","L":1}}"#;

#[test]
fn a_converted_market_is_converted_in_every_figure() {
    let mut harness = Harness::new(CONVERTED);
    // Without a rate nothing of it is shown.
    let trade = |id| binance_trade(id, "BTCUSDT", "60000");
    harness.apply_frame(VenueKind::Binance, &trade(1), NOW_US);
    assert!(harness.0.overview(NOW_US).recent_trades.is_empty());
    let rate = coinbase_ticker(1, "USDT-USD", "0.9").replace("\"100\"", "\"1\"");
    harness.apply_frame(VenueKind::Coinbase, &rate, NOW_US);
    harness.apply_frame(VenueKind::Binance, &trade(2), NOW_US);
    harness.apply_frame(VenueKind::Binance, BINANCE_TICKER, NOW_US);
    let overview = harness.0.overview(NOW_US);
    let [shown] = &overview.recent_trades[..] else {
        panic!("{:?}", overview.recent_trades)
    };
    assert_eq!(
        (
            shown.symbol.as_str(),
            shown.price.as_ref().unwrap().value.as_str()
        ),
        ("BTC-USD", "54000")
    );
    let mover = &overview.top_movers[1];
    assert_eq!(
        (
            mover.symbol.as_str(),
            mover.price.as_ref().unwrap().value.as_str()
        ),
        ("BTC-USD", "54000")
    );
    // 20 % more in a currency that lost 10 % are 8 % more.
    assert!((mover.change_24h - 8.0).abs() < 1e-9, "{mover:?}");
    let answer = harness.get_price(NOW_US);
    assert!((answer.change_24h.unwrap() - 8.0).abs() < 1e-9);
    assert_eq!(answer.volume_24h, Some(5_400_000.0));
}
