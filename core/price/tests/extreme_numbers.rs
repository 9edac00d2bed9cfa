//! Numbers at the edges of what a decimal holds: they end no task, and cost nobody but their source.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use rust_decimal::Decimal;
use support::{CapturingPublisher, NOW_US, coinbase_match, config, price};
use tidewire_price::{
    Aggregator, VenueKind,
    venue::{Size, Ticker, Trade, TradeId, VenueEvent, Volume},
};
use tidewire_proto::v1::TradeSide;

const SECOND_US: i64 = 1_000_000;

const METHODS: [&str; 5] = ["median", "volume_weighted_median", "vwap", "twap", "ema"];

fn aggregator(more: &str, sources: &[&str]) -> (Aggregator, Arc<CapturingPublisher>) {
    let mut text = format!("symbols = [\"BTC-USD\", \"ETH-USD\"]\n{more}\n");
    for name in sources {
        text += &format!("[[source]]\nkind = \"coinbase\"\nname = {name:?}\n");
    }
    let publisher = CapturingPublisher::new();
    let aggregator = Aggregator::new(&config(&text), publisher.clone()).unwrap();
    (aggregator, publisher)
}

fn trade(id: u64, name: &str, price: Decimal, size: Decimal) -> VenueEvent<'_> {
    VenueEvent::Trade(Trade {
        name: name.into(),
        id: TradeId::Single(id),
        price,
        size: Size::Base(size),
        side: TradeSide::Buy,
        venue_time_us: None,
        unexpected: Vec::new(),
    })
}

/// The greatest decimal, one that rounds up when it is halved, the smallest, and usual ones.
fn extremes() -> [Decimal; 7] {
    [
        Decimal::MAX,
        Decimal::MAX - Decimal::ONE,
        Decimal::MAX / Decimal::TWO,
        Decimal::new(1, 28),
        Decimal::ONE,
        Decimal::from_i128_with_scale(79_228_162_514_264_337_593_543_950_335, 14),
        Decimal::from(100),
    ]
}

#[test]
fn no_decimal_ends_the_engine_by_any_method() {
    for method in METHODS {
        for window in ["60s", "1h"] {
            let more = format!("method = {method:?}\nwindow = {window:?}\nstale_after = \"4s\"");
            let (mut aggregator, _) = aggregator(&more, &["a", "b", "c"]);
            let ids = ["a", "b", "c"].map(|name| aggregator.source(name).unwrap());
            aggregator.apply(
                ids[2],
                &trade(1, "ETH-USD", Decimal::TEN, Decimal::ONE),
                NOW_US,
            );
            let all = extremes();
            let mut now_us = NOW_US;
            for round in 0..280_u64 {
                for (own, id) in (0..).zip(&ids) {
                    let at = |shift: u64| all[((round + shift + own * 3) % 7) as usize];
                    now_us += 7_000;
                    let size = at(own + 2);
                    // The second confirms the first.
                    for twice in 0..2 {
                        let number = 10 + round * 2 + twice;
                        aggregator.apply(*id, &trade(number, "BTC-USD", at(0), size), now_us);
                    }
                    let ticker = Ticker {
                        name: "BTC-USD".into(),
                        last: Some(at(1)),
                        bid: Some(at(4)),
                        ask: Some(at(5)),
                        change_percent: Some(1e30),
                        volume: Volume::in_base(Some(1e30)),
                        ..Ticker::default()
                    };
                    aggregator.apply(*id, &VenueEvent::Ticker(ticker), now_us);
                }
                now_us += 90_000;
                aggregator.tick(now_us);
                aggregator.price("BTC-USD", now_us).unwrap();
                let _ = aggregator.overview(now_us);
            }
            // The other symbol grows stale as ever.
            aggregator.tick(now_us + 5 * SECOND_US);
            let other = aggregator.price("ETH-USD", now_us + 5 * SECOND_US).unwrap();
            assert!(other.stale, "{method}");
        }
    }
}

#[test]
fn a_price_or_a_size_out_of_range_is_a_bad_frame() {
    let (mut aggregator, _) = aggregator("", &["a"]);
    let ids = ["a"].map(|name| aggregator.source(name).unwrap());
    let mut apply = |source, frame: &str| {
        let events = VenueKind::Coinbase.parse(frame.as_bytes());
        aggregator.apply_frame(source, &events, NOW_US);
        aggregator.sources(NOW_US)[0].bad_frames
    };
    let greatest = Decimal::MAX.to_string();
    for (bad, number) in (1..).zip([&*greatest, "1000000000001", "1e13", "0.9e-18", "1e-28"]) {
        let frame = coinbase_match(bad, "BTC-USD", number);
        assert_eq!(apply(ids[0], &frame), bad, "{number}");
    }
    for (bad, number) in (6..).zip([&*greatest, "1e16", "1e-19"]) {
        let frame = coinbase_match(bad, "BTC-USD", "100");
        let frame = frame.replace("\"size\":\"0.5\"", &format!("\"size\":\"{number}\""));
        assert_eq!(apply(ids[0], &frame), bad, "{number}");
    }
    // Within the range, and far from each other.
    let mut say = |id, number| apply(ids[0], &coinbase_match(id, "BTC-USD", number));
    assert_eq!((say(20, "1000000000000"), say(21, "1e-18")), (8, 9));
    let source = &aggregator.sources(NOW_US)[0];
    let error = source.last_error.as_deref().unwrap();
    assert!(error.starts_with("absurd_price"), "{error}");
}

#[test]
fn an_extreme_side_field_costs_its_source_that_field_alone() {
    let text = "symbols = [\"BTC-USDT\"]\n[[source]]\nkind = \"okx\"\n[[source]]\nkind = \"bybit\"";
    let publisher = CapturingPublisher::new();
    let mut aggregator = Aggregator::new(&config(text), publisher.clone()).unwrap();
    let okx = |open: &str, volume: &str| {
        format!(
            r#"{{"arg":{{"channel":"tickers","instId":"BTC-USDT"}},"data":[{{"instId":"BTC-USDT","last":"110","askPx":"111","bidPx":"109","open24h":"{open}","volCcy24h":"{volume}","vol24h":"1","ts":"1750000000000"}}]}}"#
        )
    };
    let bybit = |change: &str, volume: &str| {
        format!(
            r#"{{"topic":"tickers.BTCUSDT","ts":1750000000000,"type":"snapshot","cs":1,"data":{{"symbol":"BTCUSDT","lastPrice":"110","volume24h":"1","turnover24h":"{volume}","price24hPcnt":"{change}"}}}}"#
        )
    };
    let mut apply = |kind: VenueKind, frame: &str| {
        let source = aggregator.source(kind.name()).unwrap();
        aggregator.apply_frame(source, &kind.parse(frame.as_bytes()), NOW_US);
        let answer = aggregator.price("BTC-USDT", NOW_US).unwrap();
        (answer.change_24h, answer.volume_24h)
    };
    apply(VenueKind::Okx, &okx("1e-320", "1e308"));
    let (change, volume) = apply(VenueKind::Bybit, &bybit("0.25", "700"));
    assert_eq!((change, volume), (Some(25.0), Some(700.0)));
    // The other way round, and with the fields of the first as they should be.
    apply(VenueKind::Okx, &okx("100", "300"));
    let (change, volume) = apply(VenueKind::Bybit, &bybit("1e307", "1.5e308"));
    assert!((change.unwrap() - 17.5).abs() < 1e-9);
    assert_eq!(volume, Some(1_000.0));
    let details = aggregator.price("BTC-USDT", NOW_US).unwrap().source_details;
    let unexpected = |at: usize| details[at].unexpected_fields.clone();
    assert_eq!(unexpected(0), ["open24h", "volCcy24h"]);
    assert_eq!(unexpected(1), ["turnover24h", "price24hPcnt"]);
    let published = publisher.prices("prices:BTC-USDT");
    assert!(published.iter().all(|update| price(update) == "110"));
}
