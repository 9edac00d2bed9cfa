//! What venues should not say, and what the aggregate does about it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use support::{Journal, NOW_US, binance_trade, coinbase_match, coinbase_ticker, config, price};
use tidewire_price::{Aggregator, VenueKind};
use tidewire_proto::v1::{PriceUpdate, Source, SourceDetail};

const SECOND_US: i64 = 1_000_000;
/// The time in the frames of `coinbase_match`, which is when the tests begin.
const TIME: &str = "2025-06-15T15:06:40.000001Z";

struct Bench {
    aggregator: Aggregator,
    journal: Arc<Journal>,
}

impl Bench {
    fn new() -> Self {
        let text = "symbols = [\"BTC-USD\", \"BTC-USDT\"]\n[[source]]\nkind = \"coinbase\"\n[[source]]\nkind = \"binance\"";
        let journal = Journal::new();
        Self {
            aggregator: Aggregator::new(&config(text), journal.clone()).unwrap(),
            journal,
        }
    }

    fn say(&mut self, frame: &str, at_us: i64) {
        self.hear(VenueKind::Coinbase, frame, at_us);
    }

    fn hear(&mut self, kind: VenueKind, frame: &str, at_us: i64) {
        let source = self.aggregator.source(kind.name()).unwrap();
        let events = kind.parse(frame.as_bytes());
        self.aggregator.apply_frame(source, &events, at_us);
    }

    /// A trade at a second of the test, that says it was at another.
    fn trade(&mut self, id: u64, price: &str, said_second: i64, second: i64) {
        let at = chrono(said_second);
        let frame = coinbase_match(id, "BTC-USD", price).replace(TIME, &at);
        self.say(&frame, NOW_US + second * SECOND_US);
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

/// Seconds after 15:06:40, as Coinbase writes them.
fn chrono(second: i64) -> String {
    let of_day = (15 * 60 + 6) * 60 + 40 + second;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("2025-06-15T{hour:02}:{minute:02}:{second:02}.000001Z")
}

#[test]
fn prices_that_cannot_be_are_counted_and_change_nothing() {
    let mut bench = Bench::new();
    bench.say(&coinbase_match(1, "BTC-USD", "100"), NOW_US);
    let told = bench.journal.all().len();
    for (id, bad) in (2..).zip(["0", "-1", "0.00000000", "NaN", "Infinity", "-0", "1e99", ""]) {
        bench.say(&coinbase_match(id, "BTC-USD", bad), NOW_US);
        bench.say(&coinbase_ticker(id, "BTC-USD", bad), NOW_US);
    }
    assert_eq!(price(&bench.answer()), "100");
    assert_eq!((bench.source().bad_frames, bench.detail().trades), (16, 1));
    assert_eq!(bench.journal.all().len(), told);
}

#[test]
fn a_price_ten_times_the_last_is_not_believed_before_it_is_said_again() {
    let mut bench = Bench::new();
    bench.trade(1, "100", 0, 0);
    bench.trade(2, "1000", 1, 1);
    assert_eq!(
        (price(&bench.answer()), bench.source().bad_frames),
        ("100", 1)
    );
    assert_eq!(bench.detail().max.unwrap().value, "100");
    bench.trade(3, "101", 2, 2);
    bench.trade(4, "10", 3, 3);
    bench.trade(5, "102", 4, 4);
    assert_eq!(
        (price(&bench.answer()), bench.source().bad_frames),
        ("102", 2)
    );
    // A token that was split: the second time it is true.
    bench.trade(6, "1020", 5, 5);
    bench.trade(7, "1021", 6, 6);
    assert_eq!(price(&bench.answer()), "1021");
    let error = bench.source().last_error.unwrap();
    assert!(
        error.starts_with("absurd_price: 1020 is not believed"),
        "{error}"
    );
}

#[test]
fn crossed_offers_are_no_offers_and_the_price_stands() {
    let mut bench = Bench::new();
    bench.say(&coinbase_ticker(1, "BTC-USD", "100"), NOW_US);
    assert_eq!(bench.answer().confidence.unwrap().value, "1");
    let crossed = coinbase_ticker(2, "BTC-USD", "100.5").replace("\"99\"", "\"103\"");
    bench.say(&crossed, NOW_US);
    assert_eq!(price(&bench.answer()), "100.5");
    assert_eq!(bench.answer().confidence, None);
    assert_eq!(bench.source().bad_frames, 1);
}

#[test]
fn times_from_the_future_are_replaced_by_the_arrival() {
    let mut bench = Bench::new();
    bench.trade(1, "100", 0, 0);
    bench.trade(2, "101", 3_600, 1);
    assert_eq!(price(&bench.answer()), "101");
    let told = bench.journal.prices("prices:BTC-USD");
    assert_eq!(told[1].timestamp, NOW_US / 1_000 + 1_000);
    assert_eq!(bench.source().bad_frames, 1);
    // It does not hold the price of those that come after.
    bench.trade(3, "102", 2, 2);
    assert_eq!(price(&bench.answer()), "102");
}

#[test]
fn what_is_from_the_past_is_no_news_and_no_sign_of_life() {
    let mut bench = Bench::new();
    bench.trade(1, "100", 0, 0);
    bench.trade(2, "90", -3_600, 20);
    assert_eq!((price(&bench.answer()), bench.detail().trades), ("100", 1));
    bench.aggregator.tick(NOW_US + 31 * SECOND_US);
    assert!(bench.answer().stale);
    // A clock that was set is believed when it lasts.
    for n in 0..8 {
        bench.trade(3 + n, "95", -3_600 + n as i64, 40 + n as i64);
    }
    assert_eq!(
        (price(&bench.answer()), bench.answer().stale),
        ("95", false)
    );
    assert_eq!(bench.source().bad_frames, 8);
}

#[test]
fn a_clock_that_is_behind_makes_no_negative_ages() {
    let mut bench = Bench::new();
    // As recorded: this server's clock is 1.27 s behind the venue's.
    let frame = coinbase_match(1, "BTC-USD", "100");
    bench.say(&frame, NOW_US - 1_270_000);
    let answer = bench
        .aggregator
        .price("BTC-USD", NOW_US - 1_170_000)
        .unwrap();
    assert_eq!(answer.source_details[0].age_ms, Some(100));
    assert_eq!(bench.source().offset_ms, Some(-1_271));
    // A message that was half a second on its way longer is that much older.
    bench.trade(2, "101", 1, 0);
    let answer = bench.aggregator.price("BTC-USD", NOW_US).unwrap();
    assert_eq!(answer.source_details[0].age_ms, Some(270));
}

#[test]
fn repeated_trades_do_not_count_and_do_not_keep_a_source_alive() {
    let mut bench = Bench::new();
    bench.trade(1, "100", 0, 0);
    for second in 1..31 {
        bench.trade(1, "105", second, second);
    }
    assert_eq!((price(&bench.answer()), bench.detail().trades), ("100", 1));
    bench.aggregator.tick(NOW_US + 31 * SECOND_US);
    assert!(bench.answer().stale);
}

#[test]
fn lost_trades_are_a_gap_of_their_symbol_alone() {
    let mut bench = Bench::new();
    let mut say = |id, symbol| {
        let frame = binance_trade(id, symbol, "100");
        bench.hear(VenueKind::Binance, &frame, NOW_US);
    };
    for id in [1, 2, 6, 4, 7] {
        say(id, "BTCUSDT");
    }
    let source = bench.aggregator.sources(NOW_US).remove(1);
    assert_eq!((source.gaps, source.trades), (Some(1), 5));
    let detail = bench.aggregator.price("BTC-USDT", NOW_US).unwrap();
    assert_eq!(detail.source_details[1].missing, Some(2));
    assert_eq!(bench.source().gaps, None);
}

#[test]
fn broken_frames_are_counted_by_what_is_wrong() {
    let mut bench = Bench::new();
    bench.say(&coinbase_match(1, "BTC-USD", "100"), NOW_US);
    let whole = coinbase_match(2, "BTC-USD", "101");
    // Cut off at each byte.
    for length in 0..whole.len() {
        bench.say(&whole[..length], NOW_US);
    }
    assert_eq!(bench.source().bad_frames, whole.len() as u64);
    // A text that became a number, and the other way round.
    bench.say(&whole.replace("\"101\"", "101"), NOW_US);
    bench.say(&whole.replace(":2,", ":\"2\","), NOW_US);
    let error = bench.source().last_error.unwrap();
    assert!(error.starts_with("wrong_type"), "{error}");
    // Another symbol's data.
    bench.say(&coinbase_match(2, "ETH-USD", "101"), NOW_US);
    let error = bench.source().last_error.unwrap();
    assert!(error.starts_with("unknown_symbol"), "{error}");
    assert_eq!((price(&bench.answer()), bench.detail().trades), ("100", 1));
    // And all goes on.
    bench.say(&whole, NOW_US);
    assert_eq!((price(&bench.answer()), bench.detail().trades), ("101", 2));
}

#[test]
fn signs_of_life_are_no_data() {
    let mut bench = Bench::new();
    bench.say(&coinbase_match(1, "BTC-USD", "100"), NOW_US);
    for second in 1..=30 {
        let heartbeat = format!(
            r#"{{"type":"heartbeat","product_id":"BTC-USD","sequence":{second},"last_trade_id":1,"time":"{TIME}"}}"#
        );
        bench.say(&heartbeat, NOW_US + second * SECOND_US);
        bench.aggregator.tick(NOW_US + second * SECOND_US);
    }
    assert!(bench.answer().stale);
    let told = bench.journal.prices("prices:BTC-USD");
    let stale: Vec<_> = told.iter().map(|update| update.stale).collect();
    assert_eq!(stale, [false, true]);
}

#[test]
fn a_quiet_symbol_does_not_flap() {
    let mut bench = Bench::new();
    // Once in 100 seconds, and `stale_after` is 30 seconds.
    for n in 0..20 {
        let second = 100 * n;
        bench.trade(n as u64 + 1, "100", second, second);
        for step in 0..100 {
            bench.aggregator.tick(NOW_US + (second + step) * SECOND_US);
        }
    }
    let told = bench.journal.prices("prices:BTC-USD");
    // Only until its habit was known.
    assert_eq!(told.iter().filter(|update| update.stale).count(), 1);
    // Really gone: three silences as long as the longest, not more.
    bench.aggregator.tick(NOW_US + (1_900 + 301) * SECOND_US);
    assert!(bench.answer().stale);
}
