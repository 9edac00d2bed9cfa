//! Recordings: written, read, and replayed to the same publications.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{collections::BTreeMap, fs, io::Write as _, path::Path, sync::Arc};

use support::{CapturingPublisher, NOW_US, coinbase_match};
use tidewire_price::{
    PriceConfig, PriceEngine, RecordedFrame, RecordedSource, Recording, RecordingWriter,
    ReplaySpeed, ReplayStart,
};
use tidewire_proto::v1::MarketOverview;
use tidewire_stream::{Event, ManualClock};
use tokio_util::sync::CancellationToken;

async fn replay(
    recording: Recording,
    speed: ReplaySpeed,
) -> (u64, PriceEngine, Arc<CapturingPublisher>) {
    let publisher = CapturingPublisher::new();
    let config = PriceEngine::replay_config(PriceConfig::default(), &recording);
    let clock = ManualClock::at(NOW_US / 1_000);
    let engine = PriceEngine::new(&config, publisher.clone(), clock).unwrap();
    let frames = engine
        .replay(
            recording,
            speed,
            ReplayStart::Now,
            &CancellationToken::new(),
        )
        .await;
    (frames, engine, publisher)
}

fn write(path: &Path, frames: &[&str]) -> RecordingWriter {
    let source = RecordedSource {
        name: "cb".to_owned(),
        kind: "coinbase".to_owned(),
    };
    let mut writer = RecordingWriter::create(path, vec![source]).unwrap();
    for (number, frame) in (0..).zip(frames) {
        let line = RecordedFrame {
            time_us: NOW_US + number,
            source: 0,
            frame: frame.as_bytes().to_vec(),
        };
        writer.write(&line).unwrap();
    }
    writer
}

#[tokio::test(start_paused = true)]
async fn the_same_recording_gives_the_same_publications() {
    let (frames, engine, first) = replay(Recording::sample().unwrap(), ReplaySpeed::Maximum).await;
    let (_, _, second) = replay(Recording::sample().unwrap(), ReplaySpeed::Maximum).await;
    assert_eq!(frames, 1_744);
    assert_eq!(first.all(), second.all());
    // Overviews are at least a second apart, and the last one comes with the last frames.
    let overviews = first.overviews();
    let is_apart = |pair: &[MarketOverview]| pair[1].timestamp - pair[0].timestamp >= 1_000;
    assert!(overviews.len() > 50 && overviews.windows(2).all(is_apart));
    let (last, now) = (overviews.last().unwrap(), engine.overview());
    assert_eq!(
        (&last.recent_trades, &last.top_movers),
        (&now.recent_trades, &now.top_movers)
    );
    // The sample marks every publication as one, has no faults, and covers all symbols.
    let is_sample = |(_, event): &(String, Event)| match event {
        Event::Price(update) => update.sample,
        _ => true,
    };
    assert!(first.all().iter().all(is_sample));
    for source in engine.sources() {
        assert!(source.sample && source.bad_frames == 0, "{source:?}");
    }
    assert_eq!(engine.overview().coverage.unwrap().live, 18);
}

#[tokio::test(start_paused = true)]
async fn a_paced_replay_ends_with_the_same_prices() {
    let (_, fast, _) = replay(Recording::sample().unwrap(), ReplaySpeed::Maximum).await;
    let (_, paced, _) = replay(Recording::sample().unwrap(), ReplaySpeed::Times(1.0)).await;
    for symbol in ["BTC-USD", "XLM-USD", "BTC-USDT"] {
        let (fast, paced) = (
            fast.get_price(symbol).unwrap(),
            paced.get_price(symbol).unwrap(),
        );
        assert_eq!((fast.price, fast.sources), (paced.price, paced.sources));
    }
}

/// Plays a recording this often. Returns what was published on each channel of prices, with the
/// time of each publication in milliseconds since the start.
async fn publications_of_passes(
    open: impl Fn() -> Recording,
    passes: u64,
) -> (PriceEngine, BTreeMap<String, Vec<i64>>) {
    let publisher = CapturingPublisher::new();
    let config = PriceEngine::replay_config(PriceConfig::default(), &open());
    let clock = ManualClock::at(NOW_US / 1_000);
    let engine = PriceEngine::new(&config, publisher.clone(), clock).unwrap();
    let mut left = passes;
    let next = |frames| {
        assert!(frames > 0);
        left -= 1;
        (left > 0).then(&open)
    };
    let (speed, start) = (ReplaySpeed::Times(1.0), ReplayStart::Now);
    let cancel = CancellationToken::new();
    engine
        .replay_again(open(), speed, start, &cancel, next)
        .await;
    let mut times = BTreeMap::<_, Vec<_>>::new();
    for (channel, event) in publisher.all() {
        if let Event::Price(update) = event {
            let at_ms = update.timestamp - NOW_US / 1_000;
            times.entry(channel).or_default().push(at_ms);
        }
    }
    (engine, times)
}

#[tokio::test(start_paused = true)]
async fn the_sample_plays_for_an_hour_at_an_even_rate() {
    let began = tokio::time::Instant::now();
    let open = || Recording::sample().unwrap();
    let (engine, times) = publications_of_passes(open, 60).await;
    // Time in the aggregator is the time that passed: no pass begins early or late.
    let passed_ms = i64::try_from(began.elapsed().as_millis()).unwrap();
    assert!((3_590_000..3_610_000).contains(&passed_ms), "{passed_ms}");
    assert_eq!(times.keys().filter(|name| !name.contains('@')).count(), 18);
    for (channel, times) in &times {
        assert!(times.is_sorted(), "{channel}");
        assert!((passed_ms - times.last().unwrap()) < 60_000, "{channel}");
        let mut minutes = [0_u32; 59];
        for at_ms in times {
            if let Some(count) = minutes.get_mut(usize::try_from(at_ms / 60_000).unwrap()) {
                *count += 1;
            }
        }
        // The first minute has no earlier figures, and the seam of two passes moves a little.
        let usual = minutes[30];
        let is_even = |count: &u32| count.abs_diff(usual) <= 2 + usual / 20;
        assert!(
            usual > 5 && minutes.iter().all(is_even),
            "{channel}: {minutes:?}"
        );
    }
    for source in engine.sources() {
        assert_eq!((source.gaps, source.bad_frames), (None, 0), "{source:?}");
    }
    let overview = engine.overview();
    assert!(overview.sample && overview.total_market_cap.is_some());
    assert_eq!(overview.coverage.unwrap().with_supply, 14);
}

#[tokio::test(start_paused = true)]
async fn a_further_pass_repeats_no_trade() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let frames: Vec<_> = (1..=10)
        .map(|id| coinbase_match(id, "BTC-USD", &format!("5.{id}")))
        .collect();
    let frames: Vec<_> = frames.iter().map(String::as_str).collect();
    write(&path, &frames).finish().unwrap();
    let open = || Recording::open(&path).unwrap();
    let (engine, _) = publications_of_passes(open, 7).await;
    let source = &engine.sources()[0];
    assert_eq!((source.trades, source.gaps), (70, None));
}

#[tokio::test(start_paused = true)]
async fn a_further_pass_repeats_no_trade_whose_number_is_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let source = RecordedSource {
        name: "bybit".to_owned(),
        kind: "bybit".to_owned(),
    };
    let mut writer = RecordingWriter::create(&path, vec![source]).unwrap();
    // Half of the trades have a number.
    for number in 0..200 {
        let id = match number % 2 {
            0 => format!("20f43950-d8dd-5b31-9112-a178eb{:06x}", number * 7_919),
            _ => format!("22900000000684{:05}", number * 7),
        };
        let frame = format!(
            r#"{{"topic":"publicTrade.BTCUSDT","ts":1,"data":[{{"T":1672304486865,"s":"BTCUSDT","S":"Buy","v":"1","p":"10.{number}","i":"{id}","BT":false}}]}}"#
        );
        let line = RecordedFrame {
            time_us: NOW_US + number,
            source: 0,
            frame: frame.into_bytes(),
        };
        writer.write(&line).unwrap();
    }
    writer.finish().unwrap();
    let open = || Recording::open(&path).unwrap();
    let (engine, _) = publications_of_passes(open, 6).await;
    let source = &engine.sources()[0];
    assert_eq!((source.trades, source.bad_frames), (1_200, 0));
}

#[tokio::test(start_paused = true)]
async fn a_line_with_a_wrong_time_neither_stops_time_nor_holds_the_others_up() {
    const SECOND_US: i64 = 1_000_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let wrong = [
        NOW_US + 400 * 86_400 * SECOND_US,
        NOW_US - 86_400 * SECOND_US,
    ];
    for (speed, wrong_us) in [ReplaySpeed::Maximum, ReplaySpeed::Times(1.0)]
        .into_iter()
        .flat_map(|speed| wrong.map(|wrong_us| (speed, wrong_us)))
    {
        let _ = fs::remove_file(&path);
        let mut writer = write(&path, &[]);
        for id in 1..=30 {
            let at_us = NOW_US + id * SECOND_US;
            let number = u64::try_from(id).unwrap();
            let line = RecordedFrame {
                time_us: if id == 10 { wrong_us } else { at_us },
                source: 0,
                frame: coinbase_match(number, "BTC-USD", &format!("5.{id}")).into_bytes(),
            };
            writer.write(&line).unwrap();
        }
        writer.finish().unwrap();
        let began = tokio::time::Instant::now();
        let (frames, engine, publisher) = replay(Recording::open(&path).unwrap(), speed).await;
        assert_eq!((frames, engine.sources()[0].trades), (30, 30));
        // Ticks go on after the line: the market overview is published each second.
        let overviews = publisher.overviews().len();
        assert!((26..=32).contains(&overviews), "{overviews}");
        let end_ms = publisher.prices("prices:BTC-USD").pop().unwrap().timestamp;
        let lasted_ms = end_ms - NOW_US / 1_000;
        assert!((26_000..31_000).contains(&lasted_ms), "{lasted_ms}");
        assert!(began.elapsed().as_secs() < 40);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_after_the_computer_slept_begins_at_the_clocks_time() {
    let publisher = CapturingPublisher::new();
    let open = || Recording::sample().unwrap();
    let config = PriceEngine::replay_config(PriceConfig::default(), &open());
    let clock = ManualClock::at(NOW_US / 1_000);
    let engine = PriceEngine::new(&config, publisher.clone(), clock.clone()).unwrap();
    let mut passes = 0;
    let next = |_| {
        passes += 1;
        // An hour of sleep during the first pass: tokio's time stood still.
        clock.set(NOW_US / 1_000 + 3_600_000);
        (passes < 2).then(open)
    };
    let (speed, start) = (ReplaySpeed::Times(1.0), ReplayStart::Now);
    let cancel = CancellationToken::new();
    engine
        .replay_again(open(), speed, start, &cancel, next)
        .await;
    let last = publisher.prices("prices:BTC-USD").pop().unwrap();
    let after_ms = last.timestamp - NOW_US / 1_000 - 3_600_000;
    assert!((50_000..70_000).contains(&after_ms), "{after_ms}");
    assert!(!last.stale);
}

#[tokio::test]
async fn a_truncated_file_is_readable_up_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let frames: Vec<_> = (1..=500)
        .map(|id| coinbase_match(id, "BTC-USD", &format!("{id}.25")))
        .collect();
    let frames: Vec<_> = frames.iter().map(String::as_str).collect();
    let mut writer = write(&path, &frames);
    writer.flush().unwrap();
    // As if killed now: everything until the last flush is there.
    let killed = folder.path().join("killed.rec.gz");
    fs::copy(&path, &killed).unwrap();
    assert_eq!(Recording::open(&killed).unwrap().count(), 500);
    writer.finish().unwrap();
    let whole: Vec<_> = Recording::open(&path).unwrap().collect();
    assert_eq!(whole.len(), 500);
    assert_eq!(whole[499].frame, frames[499].as_bytes());
    assert_eq!(whole[499].time_us, NOW_US + 499);
    let cut = folder.path().join("cut.rec.gz");
    let bytes = fs::read(&path).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let some: Vec<_> = Recording::open(&cut).unwrap().collect();
    assert!(!some.is_empty() && some.len() < 500);
    assert_eq!(some[..], whole[..some.len()]);
}

#[tokio::test]
async fn line_breaks_in_frames_do_not_break_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let spread = coinbase_match(1, "BTC-USD", "5").replace(',', ",\r\n");
    write(&path, &[&spread, "not json", ""]).finish().unwrap();
    let (frames, engine, _) = replay(Recording::open(&path).unwrap(), ReplaySpeed::Maximum).await;
    assert_eq!(frames, 3);
    let source = &engine.sources()[0];
    assert_eq!((source.trades, source.bad_frames), (1, 2));
    assert_eq!(
        engine.get_price("BTC-USD").unwrap().price.unwrap().value,
        "5"
    );
}

#[tokio::test(start_paused = true)]
async fn gaps_and_backward_times_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let mut writer = write(&path, &[]);
    for (id, time_us) in [(1, NOW_US), (2, i64::MAX), (3, i64::MIN), (4, NOW_US)] {
        let frame = coinbase_match(id, "BTC-USD", "5").into_bytes();
        let line = RecordedFrame {
            time_us,
            source: 0,
            frame,
        };
        writer.write(&line).unwrap();
    }
    writer.finish().unwrap();
    let recording = Recording::open(&path).unwrap();
    let (frames, engine, _) = replay(recording, ReplaySpeed::Maximum).await;
    assert_eq!((frames, engine.sources()[0].trades), (4, 4));
}

/// Writes a recording of one source from lines as they are.
fn write_lines(path: &Path, lines: &[Vec<u8>]) {
    let head = br#"{"format":"tidewire-recording","version":2,"sources":[{"name":"cb","kind":"coinbase"}]}"#;
    let file = fs::File::create(path).unwrap();
    let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    for line in [&head.to_vec()].into_iter().chain(lines) {
        out.write_all(line).unwrap();
        out.write_all(b"\n").unwrap();
    }
    out.finish().unwrap();
}

#[test]
fn a_bad_line_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let long = vec![b'x'; 3 << 20];
    let bad = [
        &b"garbage"[..],
        b"",
        b"1 0",
        b"x 0 {}",
        b"1 1 {}",
        b"1 -1 {}",
        b"9223372036854775808 0 {}",
        &long,
    ];
    let mut lines = vec![b"1 0 first".to_vec()];
    lines.extend(bad.map(<[u8]>::to_vec));
    lines.push(b"2 0 last".to_vec());
    write_lines(&path, &lines);
    let mut recording = Recording::open(&path).unwrap();
    let frames: Vec<_> = recording.by_ref().map(|one| one.frame).collect();
    assert_eq!(frames, [b"first".to_vec(), b"last".to_vec()]);
    assert_eq!(recording.bad_lines(), bad.len() as u64);
}

#[test]
fn a_line_that_is_cut_off_is_not_bad() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    write_lines(&path, &[b"1 0 first".to_vec(), b"2 0 la".to_vec()]);
    // A file that ends within its compression.
    let bytes = fs::read(&path).unwrap();
    for end in 1..bytes.len() {
        fs::write(&path, &bytes[..end]).unwrap();
        if let Ok(mut recording) = Recording::open(&path) {
            assert!(recording.by_ref().count() <= 2);
            assert_eq!(recording.bad_lines(), 0, "{end}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn times_at_the_end_of_numbers_end() {
    const LAST_US: i64 = 253_402_300_799_999_999;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    for times in [
        [i64::MAX - 50_000, i64::MAX],
        [i64::MIN, 0],
        [i64::MIN, i64::MAX],
        [i64::MAX, i64::MIN],
        [NOW_US, i64::MAX],
    ] {
        let mut writer = write(&path, &[]);
        for (id, time_us) in (1..).zip(times) {
            let frame = coinbase_match(id, "BTC-USD", "5").into_bytes();
            let line = RecordedFrame {
                time_us,
                source: 0,
                frame,
            };
            writer.write(&line).unwrap();
        }
        writer.finish().unwrap();
        for start in [ReplayStart::Now, ReplayStart::Recorded] {
            let recording = Recording::open(&path).unwrap();
            let config = PriceEngine::replay_config(PriceConfig::default(), &recording);
            let clock = ManualClock::at(NOW_US / 1_000);
            let engine = PriceEngine::new(&config, CapturingPublisher::new(), clock).unwrap();
            let cancel = CancellationToken::new();
            let frames = engine.replay(recording, ReplaySpeed::Maximum, start, &cancel);
            assert_eq!(frames.await, 2);
            let time_ms = engine.get_price("BTC-USD").unwrap().timestamp;
            assert!(
                (0..=LAST_US / 1_000 + 1_000).contains(&time_ms),
                "{time_ms}"
            );
        }
    }
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other");
    assert!(Recording::open(&path).is_err());
    fs::write(&path, "text").unwrap();
    let error = Recording::open(&path).unwrap_err().to_string();
    assert!(error.contains("this is not a recording"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn speed_and_machine_do_not_change_the_publications() {
    let mut said = Vec::new();
    let speeds = [
        (ReplaySpeed::Maximum, 0),
        (ReplaySpeed::Times(1.0), 77_000),
        (ReplaySpeed::Times(333.0), 1_234_567),
    ];
    for (speed, later_ms) in speeds {
        let publisher = CapturingPublisher::new();
        let recording = Recording::sample().unwrap();
        let config = PriceEngine::replay_config(PriceConfig::default(), &recording);
        let clock = ManualClock::at(NOW_US / 1_000 + later_ms);
        let engine = PriceEngine::new(&config, publisher.clone(), clock).unwrap();
        let (tasks, cancel) = (
            tokio_util::task::TaskTracker::new(),
            CancellationToken::new(),
        );
        engine.run_clock(&tasks, &cancel);
        engine
            .replay(recording, speed, ReplayStart::Recorded, &cancel)
            .await;
        cancel.cancel();
        said.push(format!("{:?}", publisher.all()));
    }
    assert!(said[0].len() > 100_000);
    assert!(said[0] == said[1] && said[1] == said[2]);
}

#[tokio::test(start_paused = true)]
async fn listeners_receive_published_prices() {
    let publisher = CapturingPublisher::new();
    let recording = Recording::sample().unwrap();
    let config = PriceEngine::replay_config(PriceConfig::default(), &recording);
    let clock = ManualClock::at(NOW_US / 1_000);
    let engine = PriceEngine::new(&config, publisher.clone(), clock).unwrap();
    let heard = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let own = heard.clone();
    let _listener = engine.on_price(move |tick| {
        if tick.symbol.as_str() == "BTC-USD" {
            own.lock()
                .push((tick.price.normalize().to_string(), tick.stale));
        }
    });
    let cancel = CancellationToken::new();
    engine
        .replay(recording, ReplaySpeed::Maximum, ReplayStart::Now, &cancel)
        .await;
    let published = publisher.prices("prices:BTC-USD");
    let published: Vec<_> = published
        .iter()
        .map(|update| (support::price(update).to_owned(), update.stale))
        .collect();
    assert_eq!(*heard.lock(), published);
    let price = engine.get_price("BTC-USD").unwrap();
    assert_eq!(
        Some(support::price(&price)),
        published.last().map(|(price, _)| price.as_str())
    );
    // A listener that comes late begins with the last price.
    let late = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let own = late.clone();
    let listener = engine.on_price(move |tick| {
        if tick.symbol.as_str() == "BTC-USD" {
            own.lock()
                .push((tick.price.normalize().to_string(), tick.stale));
        }
    });
    assert_eq!(late.lock().last(), published.last());
    assert_eq!(late.lock().len(), 1);
    // One that was dropped is gone, with all that it had.
    assert_eq!(Arc::strong_count(&late), 2);
    drop(listener);
    assert_eq!(Arc::strong_count(&late), 1);
}

#[tokio::test(start_paused = true)]
async fn listeners_receive_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let frames = [1, 2, 6, 4, 7].map(|id| coinbase_match(id, "BTC-USD", "5"));
    let frames: Vec<_> = frames.iter().map(String::as_str).collect();
    write(&path, &frames).finish().unwrap();
    let recording = Recording::open(&path).unwrap();
    let config = PriceEngine::replay_config(PriceConfig::default(), &recording);
    let clock = ManualClock::at(NOW_US / 1_000);
    let engine = PriceEngine::new(&config, CapturingPublisher::new(), clock).unwrap();
    let heard = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let own = heard.clone();
    engine.on_gap(move |gap| {
        let (symbol, source) = (gap.symbol.to_string(), gap.source.to_owned());
        own.lock().push((symbol, source, gap.missing));
    });
    let cancel = CancellationToken::new();
    engine
        .replay(recording, ReplaySpeed::Maximum, ReplayStart::Now, &cancel)
        .await;
    let gap = ("BTC-USD".to_owned(), "cb".to_owned(), 3);
    assert_eq!(*heard.lock(), [gap]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_uses_the_configured_ids_and_contracts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let source = RecordedSource {
        name: "coin-m".to_owned(),
        kind: "binance".to_owned(),
    };
    let mut writer = RecordingWriter::create(&path, vec![source]).unwrap();
    let frame = support::binance_trade(1, "BTCUSD_PERP", "50").into_bytes();
    let line = RecordedFrame {
        time_us: NOW_US,
        source: 0,
        frame,
    };
    writer.write(&line).unwrap();
    writer.finish().unwrap();
    let recording = Recording::open(&path).unwrap();
    let text = r#"
        symbols = ["BTC-USD"]
        [[source]]
        kind = "binance"
        name = "coin-m"
        url = "ws://127.0.0.1:1"
        ids = { "BTC-USD" = "BTCUSD_PERP" }
        contracts = { "BTC-USD" = "100 USD" }
    "#;
    let config = PriceEngine::replay_config(support::config(text), &recording);
    let clock = ManualClock::at(NOW_US / 1_000);
    let engine = PriceEngine::new(&config, CapturingPublisher::new(), clock).unwrap();
    let cancel = CancellationToken::new();
    engine
        .replay(recording, ReplaySpeed::Maximum, ReplayStart::Now, &cancel)
        .await;
    assert_eq!(support::price(&engine.get_price("BTC-USD").unwrap()), "50");
    let trade = engine.overview().recent_trades.remove(0);
    assert_eq!(trade.size.unwrap().value, "2");
}
