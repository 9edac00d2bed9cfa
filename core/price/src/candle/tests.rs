//! Candles over a store: saved, read, restored after a crash, and removed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rust_decimal::Decimal;
use tidewire_store::{EmbeddedStore, MemoryStore, SharedStore};
use tidewire_stream::{ChannelName, Event, GuardedClock, ManualClock, Publisher, SharedClock};

use super::*;
use crate::{PriceConfig, PriceEngine, Symbol, aggregate::PriceObservation};

/// Midnight of a day, in milliseconds since the Unix epoch.
const MIDNIGHT_MS: i64 = 20_000 * DAY_MS;

#[derive(Default)]
struct Published(Mutex<Vec<(String, Event)>>);

impl Publisher for Published {
    fn publish(&self, channel: &ChannelName, event: Event) {
        self.0.lock().push((channel.as_str().to_owned(), event));
    }
}

impl Published {
    fn take(&self, channel: &str) -> Vec<v1::Candle> {
        let mut all = self.0.lock();
        let (own, others) = all.drain(..).partition(|(name, _)| name == channel);
        *all = others;
        let own: Vec<(String, Event)> = own;
        let candles = own.into_iter().filter_map(|(_, event)| match event {
            Event::Candle(candle) => Some(candle),
            _ => None,
        });
        candles.collect()
    }
}

struct Fixture {
    clock: Arc<ManualClock>,
    published: Arc<Published>,
    candles: Candles,
}

impl Fixture {
    async fn open(store: SharedStore, now_ms: i64, symbols: &[&str]) -> Self {
        let clock = ManualClock::at(now_ms);
        Self::open_with(store, clock.clone(), clock, symbols).await
    }

    /// The engine reads `guarded`, which shows the time of `clock`.
    async fn open_with(
        store: SharedStore,
        clock: Arc<ManualClock>,
        guarded: SharedClock,
        symbols: &[&str],
    ) -> Self {
        let published = Arc::new(Published::default());
        let config = PriceConfig {
            symbols: symbols.iter().map(|symbol| (*symbol).to_owned()).collect(),
            ..PriceConfig::default()
        };
        let engine = PriceEngine::new(&config, published.clone(), guarded).unwrap();
        let candles = Candles::new(&engine, published.clone(), store);
        candles.load().await.unwrap();
        Self {
            clock,
            published,
            candles,
        }
    }

    /// Counts a tick, formed now.
    fn tick(&self, symbol: &str, price: Decimal, traded: Option<Decimal>) {
        self.candles.add(&PriceObservation {
            symbol: &Symbol::parse(symbol).unwrap(),
            price,
            sources: 3,
            formed_us: self.candles.now_ms() * 1_000,
            traded,
        });
    }

    async fn starts(&self, interval: &str, since_ms: Option<i64>, limit: u32) -> Vec<(i64, bool)> {
        let read = self.candles.get("BTC-USD", interval, since_ms, Some(limit));
        let candles = read.await.unwrap().into_iter();
        candles
            .map(|candle| (candle.start, candle.closed))
            .collect()
    }
}

fn cents(number: i64) -> Decimal {
    Decimal::new(number, 2)
}

#[tokio::test]
async fn a_page_holds_the_newest_or_those_since_a_time() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let fixture = Fixture::open(store, MIDNIGHT_MS, &["BTC-USD"]).await;
    // A price each ten minutes for three days, saved now and then.
    for number in 0..3 * 144 {
        fixture.tick("BTC-USD", cents(10_000 + number), Some(cents(1)));
        if number % 7 == 0 {
            fixture.candles.save().await.unwrap();
        }
        fixture.clock.advance(10 * MINUTE_MS);
    }
    let last_ms = MIDNIGHT_MS + 3 * DAY_MS - 10 * MINUTE_MS;
    assert_eq!(
        fixture.starts("1m", None, 2).await,
        [(last_ms - 10 * MINUTE_MS, true), (last_ms, true)]
    );
    assert_eq!(
        fixture.starts("1d", None, 100).await,
        // A day closes two seconds after its end.
        [0, 1, 2].map(|day| (MIDNIGHT_MS + day * DAY_MS, day < 2))
    );
    fixture.tick("BTC-USD", cents(5), None);
    let now_ms = MIDNIGHT_MS + 3 * DAY_MS;
    assert_eq!(fixture.starts("1h", None, 1).await, [(now_ms, false)]);
    assert_eq!(
        fixture.starts("1h", Some(now_ms - HOUR_MS), 9).await,
        [(now_ms - HOUR_MS, true), (now_ms, false)]
    );
    // A time within a candle is after its start.
    assert_eq!(
        fixture.starts("1h", Some(now_ms - 1), 9).await,
        [(now_ms, false)]
    );
    assert_eq!(
        fixture.starts("5m", Some(MIDNIGHT_MS + 1), 2).await,
        [10, 20].map(|minute| (MIDNIGHT_MS + minute * MINUTE_MS, true))
    );
    assert_eq!(fixture.starts("1d", Some(i64::MIN), 2).await.len(), 2);
    assert_eq!(fixture.starts("1d", Some(i64::MAX), 2).await, []);
    let day = fixture
        .candles
        .get("BTC-USD", "1d", None, Some(2))
        .await
        .unwrap();
    let text = |value: &Option<v1::Decimal>| value.as_ref().unwrap().value.clone();
    assert_eq!(
        [
            &day[0].open,
            &day[0].high,
            &day[0].low,
            &day[0].close,
            &day[0].volume
        ]
        .map(text),
        ["102.88", "104.31", "102.88", "104.31", "1.44"]
    );
    assert_eq!(day[1].volume, None);
}

#[tokio::test]
async fn bad_requests_are_named() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let fixture = Fixture::open(store, MIDNIGHT_MS, &["BTC-USD"]).await;
    for (symbol, interval, limit, expected) in [
        (
            "BTC-USB",
            "1m",
            1,
            "there is no symbol \"BTC-USB\", did you mean BTC-USD?",
        ),
        ("btc-usd", "1m", 1, "\"btc-usd\" is not a symbol"),
        (
            "BTC-USD",
            "2m",
            1,
            "`interval` is \"2m\", expected one of 1m, 5m, 1h, 1d",
        ),
        ("BTC-USD", "1m", 0, "`limit` is 0, expected 1 to 1000"),
        (
            "BTC-USD",
            "1m",
            1_001,
            "`limit` is 1001, expected 1 to 1000",
        ),
    ] {
        let error = fixture
            .candles
            .get(symbol, interval, None, Some(limit))
            .await
            .unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    for (channel, is_valid) in [
        ("BTC-USD:1m", true),
        ("BTC-USD:1M", false),
        ("BTC-USD", false),
        ("BTC-USD:", false),
        ("BTC-USB:1d", false),
        ("BTC-USD:1m:1m", false),
    ] {
        assert_eq!(
            fixture.candles.check_channel(channel).is_ok(),
            is_valid,
            "{channel}"
        );
    }
}

/// A server that is killed after each number of saves loses what came after the last one.
#[tokio::test]
async fn a_crash_loses_what_was_not_saved() {
    let store = Arc::new(MemoryStore::new());
    let mut fixture = Fixture::open(store.clone(), MIDNIGHT_MS - HOUR_MS, &["BTC-USD"]).await;
    let mut counted: Vec<(i64, Decimal)> = Vec::new();
    let mut unsaved = Vec::new();
    for number in 0_i64..2_000 {
        // 7 s, and pauses of minutes and hours.
        let pause_ms = match number % 211 {
            0 => 2 * HOUR_MS + 1,
            1 => 3 * MINUTE_MS,
            _ => 7_000,
        };
        fixture.clock.advance(pause_ms);
        let now_ms = fixture.candles.now_ms();
        let price = cents(1_000 + (number * 37) % 91);
        fixture.tick("BTC-USD", price, Some(cents(number)));
        unsaved.push((now_ms, price));
        if number % 3 == 0 {
            fixture.candles.publish();
            fixture.candles.save().await.unwrap();
            counted.append(&mut unsaved);
        }
        if number % 50 == 49 {
            unsaved.clear();
            let later_ms = now_ms + (number % 4) * 40_000;
            fixture = Fixture::open(store.clone(), later_ms, &["BTC-USD"]).await;
        }
    }
    fixture.candles.save().await.unwrap();
    counted.append(&mut unsaved);
    for interval in CandleInterval::ALL {
        let mut expected: Vec<(i64, Vec<Decimal>)> = Vec::new();
        for (ms, price) in &counted {
            let start_ms = interval.start_of(*ms);
            match expected.last_mut() {
                Some((last, prices)) if *last == start_ms => prices.push(*price),
                _ => expected.push((start_ms, vec![*price])),
            }
        }
        let limit = u32::try_from(expected.len()).unwrap();
        let read = fixture
            .candles
            .get("BTC-USD", interval.name(), None, Some(limit.min(1_000)));
        let candles = read.await.unwrap();
        assert_eq!(candles.len(), expected.len().min(1_000));
        let expected = &expected[expected.len() - candles.len()..];
        for (candle, (start_ms, prices)) in candles.iter().zip(expected) {
            assert_eq!(candle.start, *start_ms);
            let expected = [
                prices.first(),
                prices.iter().max(),
                prices.iter().min(),
                prices.last(),
            ];
            let found = [&candle.open, &candle.high, &candle.low, &candle.close];
            let expected = expected.map(|price| price.copied().map(to_wire));
            assert_eq!(found.map(Clone::clone), expected, "{interval:?} {start_ms}");
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_loses_nothing_meanwhile() {
    let store = Arc::new(MemoryStore::new());
    let fixture = Fixture::open(store.clone(), MIDNIGHT_MS, &["BTC-USD"]).await;
    store.fail_commits();
    for number in 0..300 {
        fixture.tick("BTC-USD", cents(number), None);
        fixture.clock.advance(MINUTE_MS);
        assert!(number == 0 || fixture.candles.save().await.is_err());
    }
    assert_eq!(fixture.starts("1m", None, 1_000).await.len(), 300);
    store.accept_commits();
    fixture.candles.save().await.unwrap();
    let restarted = Fixture::open(store, MIDNIGHT_MS + 300 * MINUTE_MS, &["BTC-USD"]).await;
    assert_eq!(restarted.starts("1m", None, 1_000).await.len(), 300);
}

#[tokio::test]
async fn days_that_are_over_are_removed_whole() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let symbols = ["BTC-USD", "ETH-USD"];
    let fixture = Fixture::open(store.clone(), MIDNIGHT_MS, &symbols).await;
    for _ in 0..40 * 24 {
        for symbol in symbols {
            fixture.tick(symbol, cents(1), None);
        }
        fixture.clock.advance(HOUR_MS);
        fixture.candles.save().await.unwrap();
    }
    let now_ms = fixture.candles.now_ms() - 1;
    // One of them is not configured any more.
    let fixture = Fixture::open(store.clone(), now_ms, &["BTC-USD"]).await;
    fixture.candles.prune().await.unwrap();
    let keys = store
        .scan(engine::TABLE, Vec::new(), None, 10_000)
        .await
        .unwrap();
    // The last hour of each has a minute that was forming, in a record of its own.
    assert_eq!(keys.len(), 2 * 31 * 24);
    let days = fixture.starts("1d", None, 1_000).await;
    assert_eq!(days.len(), 31);
    assert_eq!(days[0].0, MIDNIGHT_MS + 9 * DAY_MS);
    let hours = fixture.starts("1h", Some(0), 1_000).await;
    assert_eq!(hours.len(), 31 * 24);
}

/// A server ran with a clock that was days ahead. With the right one its candles go on, and those
/// of the future are removed.
#[tokio::test]
async fn minutes_ahead_of_the_clock_are_removed_at_the_start() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let now_ms = MIDNIGHT_MS + 10 * HOUR_MS + 30 * MINUTE_MS;
    let minute = async |at_ms: i64, price| {
        let fixture = Fixture::open(store.clone(), at_ms, &["BTC-USD"]).await;
        fixture.tick("BTC-USD", cents(price), None);
        fixture.candles.save().await.unwrap();
    };
    minute(now_ms, 1).await;
    // In the same hour, and days later: closed, and forming.
    minute(now_ms + 5 * MINUTE_MS, 7).await;
    minute(now_ms + 2 * DAY_MS, 8).await;
    minute(now_ms + 2 * DAY_MS + MINUTE_MS, 9).await;
    let fixture = Fixture::open(store.clone(), now_ms + MINUTE_MS, &["BTC-USD"]).await;
    fixture.tick("BTC-USD", cents(3), None);
    fixture.candles.save().await.unwrap();
    let minutes = [(now_ms, true), (now_ms + MINUTE_MS, false)];
    assert_eq!(fixture.starts("1m", None, 9).await, minutes);
    let hour_ms = CandleInterval::Hour.start_of(now_ms);
    assert_eq!(fixture.starts("1h", None, 9).await, [(hour_ms, false)]);
    // Nothing of them comes back when their time has come.
    let later = Fixture::open(store, now_ms + 2 * DAY_MS + HOUR_MS, &["BTC-USD"]).await;
    let minutes = minutes.map(|(start_ms, _)| (start_ms, true));
    assert_eq!(later.starts("1m", None, 9).await, minutes);
}

/// A server's clock is set back while it runs: the minutes go on at the new time.
#[tokio::test]
async fn candles_go_on_when_the_clock_is_set_back() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let fixture = Fixture::open(store, MIDNIGHT_MS + HOUR_MS, &["BTC-USD"]).await;
    fixture.tick("BTC-USD", cents(1), None);
    fixture.candles.save().await.unwrap();
    fixture.clock.advance(20 * MINUTE_MS);
    fixture.tick("BTC-USD", cents(2), None);
    // A step within the tolerance changes nothing.
    fixture.clock.advance(-MINUTE_MS);
    assert!(!fixture.candles.is_ahead_of_clock());
    fixture.clock.set(MIDNIGHT_MS + HOUR_MS + 10 * MINUTE_MS);
    assert!(fixture.candles.is_ahead_of_clock());
    // Those that are ahead are left out before they are removed.
    let hour_ms = MIDNIGHT_MS + HOUR_MS;
    assert_eq!(fixture.starts("1m", None, 9).await, [(hour_ms, true)]);
    assert_eq!(fixture.starts("1m", Some(hour_ms + 1), 9).await, []);
    assert_eq!(fixture.starts("1h", None, 9).await, [(hour_ms, false)]);
    fixture.candles.save().await.unwrap();
    assert_eq!(fixture.starts("1m", None, 9).await, [(hour_ms, true)]);
    fixture.candles.go_back().await.unwrap();
    assert!(!fixture.candles.is_ahead_of_clock());
    fixture.tick("BTC-USD", cents(3), None);
    let minutes = fixture.candles.get("BTC-USD", "1m", None, None).await;
    let minutes = minutes.unwrap().into_iter();
    let minutes: Vec<_> = minutes
        .map(|candle| {
            (
                (candle.start - MIDNIGHT_MS) / MINUTE_MS,
                candle.close.unwrap().value,
            )
        })
        .collect();
    assert_eq!(minutes, [(60, "0.01".to_owned()), (70, "0.03".to_owned())]);
}

/// A clock that is far ahead of the newest candle may be wrong: nothing is removed at once.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_far_ahead_removes_nothing_for_a_day() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let open = async |at_ms: i64| {
        let clock = ManualClock::at(at_ms);
        let guarded = Arc::new(GuardedClock::new(clock.clone()));
        Fixture::open_with(store.clone(), clock, guarded, &["BTC-USD"]).await
    };
    let fixture = open(MIDNIGHT_MS).await;
    fixture.tick("BTC-USD", cents(1), None);
    fixture.candles.save().await.unwrap();
    let ahead = open(MIDNIGHT_MS + 40 * DAY_MS).await;
    ahead.candles.prune().await.unwrap();
    ahead.tick("BTC-USD", cents(9), None);
    ahead.candles.save().await.unwrap();
    let right = open(MIDNIGHT_MS + MINUTE_MS).await;
    assert_eq!(right.starts("1m", None, 9).await, [(MIDNIGHT_MS, true)]);
    let hours = async || {
        right.candles.prune().await.unwrap();
        // The forming minute has a record beside them.
        let rows = store.scan(engine::TABLE, vec![1], None, 9).await;
        rows.unwrap().len()
    };
    // The same while it runs.
    right.clock.advance(40 * DAY_MS);
    assert_eq!(hours().await, 1);
    // It was right after all.
    tokio::time::advance(Duration::from_secs(24 * 60 * 60)).await;
    assert_eq!(hours().await, 0);
}

#[tokio::test]
async fn candles_of_the_sample_say_so() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let fixture = Fixture::open(store, MIDNIGHT_MS, &["BTC-USD"]).await;
    let labels = async || {
        fixture.tick("BTC-USD", cents(1), None);
        fixture.candles.publish();
        let mut all = fixture.published.take("candles:BTC-USD:1m");
        let page = fixture.candles.get("BTC-USD", "1m", None, None).await;
        all.extend(page.unwrap());
        all.into_iter()
            .map(|candle| candle.sample)
            .collect::<Vec<_>>()
    };
    assert_eq!(labels().await, [false, false]);
    fixture.candles.label_as_sample();
    assert_eq!(labels().await, [true, true]);
}

#[tokio::test]
async fn changes_are_published_and_each_end_once() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let fixture = Fixture::open(store, MIDNIGHT_MS, &["BTC-USD"]).await;
    let published = |channel: &str| {
        let candles = fixture.published.take(channel).into_iter();
        let short = candles.map(|candle| (candle.start - MIDNIGHT_MS, candle.closed));
        short.collect::<Vec<_>>()
    };
    fixture.tick("BTC-USD", cents(1), None);
    fixture.tick("BTC-USD", cents(2), None);
    fixture.candles.publish();
    fixture.candles.publish();
    assert_eq!(published("candles:BTC-USD:1m"), [(0, false)]);
    assert_eq!(published("candles:BTC-USD:1d"), [(0, false)]);
    fixture.clock.advance(MINUTE_MS + 2_000);
    fixture.candles.publish();
    assert_eq!(published("candles:BTC-USD:1m"), [(0, true)]);
    assert_eq!(published("candles:BTC-USD:5m"), [(0, false)]);
    fixture.tick("BTC-USD", cents(2), None);
    fixture.clock.advance(4 * MINUTE_MS);
    fixture.tick("BTC-USD", cents(2), None);
    fixture.candles.publish();
    let minutes = [(MINUTE_MS, true), (5 * MINUTE_MS, false)];
    assert_eq!(published("candles:BTC-USD:1m"), minutes);
    let fives = [(0, true), (5 * MINUTE_MS, false)];
    assert_eq!(published("candles:BTC-USD:5m"), fives);
}

#[tokio::test]
async fn days_of_a_recording_pass_between_two_writes() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let fixture = Fixture::open(store, MIDNIGHT_MS, &["BTC-USD"]).await;
    fixture.candles.keep_recording();
    for _ in 0..3 * 1_440 {
        fixture.tick("BTC-USD", cents(1), None);
        fixture.clock.advance(MINUTE_MS);
        // As often as a reader asks, and without a write.
        fixture.candles.publish();
    }
    fixture.candles.save().await.unwrap();
    for day in 0..3 {
        let since_ms = MIDNIGHT_MS + day * DAY_MS;
        let starts = fixture.starts("1m", Some(since_ms), 1_000).await;
        assert_eq!(starts.len(), 1_000, "day {day}");
        assert_eq!(starts[0].0, since_ms);
    }
}

/// The bound of the file with everything in it. A usual candle takes about 25 bytes.
#[tokio::test]
async fn a_minute_takes_64_bytes_on_disk_at_most() {
    const DAYS: i64 = 6;
    let symbols: Vec<String> = (0..20).map(|number| format!("C{number}-USD")).collect();
    let names: Vec<&str> = symbols.iter().map(String::as_str).collect();
    let folder = tempfile::tempdir().unwrap();
    let store: SharedStore = Arc::new(EmbeddedStore::open(folder.path()).unwrap());
    let fixture = Fixture::open(store.clone(), MIDNIGHT_MS, &names).await;
    for minute in 0..DAYS * 1_440 {
        for (number, symbol) in (1_i64..).zip(&names) {
            for step in 0..4 {
                let random = (minute * 7_919 + step * 104_729 + number * 1_299_709) % 10_007;
                let price = Decimal::new(number * 6_183_801 + random, 2);
                let traded = Decimal::new(random * 98_765_432_101 + 1, 10);
                fixture.tick(symbol, price, Some(traded));
            }
        }
        fixture.clock.advance(MINUTE_MS);
        // As a server does in the last hour; less often before, for the time of this test.
        if minute % 30 == 0 || minute >= DAYS * 1_440 - 60 {
            fixture.candles.save().await.unwrap();
        }
    }
    fixture.candles.save().await.unwrap();
    let file = std::fs::metadata(folder.path().join("store.redb"))
        .unwrap()
        .len();
    let candles = u64::try_from(DAYS * 1_440).unwrap() * symbols.len() as u64;
    assert!(file <= 64 * candles, "{} bytes a candle", file / candles);
}
