//! Price bench: the cost of a venue's frame, from its text through the aggregate to its
//! publications, on one thread; and the memory of symbols.
//!
//! ```text
//! cargo bench --bench price                        # frames a second and core
//! cargo bench --bench price -- binance             # only benches with this in their name
//! valgrind --tool=callgrind PATH --fixed binance   # a fixed number of frames, untimed
//! ```

mod support;

use std::{
    error::Error,
    hint::black_box,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use tidewire_price::{Aggregator, LinkState, PriceConfig, SourceClock, SourceConfig, VenueKind};
use tidewire_stream::{ChannelName, Event, Publisher};

use support::{Bench, resident};

/// Frames of one sample. The best sample is the least disturbed one; the median is shown too.
const FRAMES: u64 = 200_000;
const SAMPLES: usize = 9;
/// Frames of an untimed run.
const FIXED: u64 = 100_000;
/// The start of the bench's time, in milliseconds since the Unix epoch.
const NOW_MS: u64 = 1_750_000_000_000;

/// A publisher that drops everything.
struct Nowhere;

impl Publisher for Nowhere {
    fn publish(&self, _channel: &ChannelName, event: Event) {
        black_box(event);
    }
}

/// A frame in which `@` is the number of the trade, `#` the last digits of the price and `%` the
/// time in milliseconds.
struct Template {
    bytes: Vec<u8>,
    numbers: Vec<(usize, usize, Field)>,
}

#[derive(Clone, Copy)]
enum Field {
    Id,
    Cents,
    Time,
}

impl Template {
    fn new(text: &str) -> Self {
        let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
        for byte in text.bytes() {
            let (field, width) = match byte {
                b'@' => (Field::Id, 10),
                b'#' => (Field::Cents, 2),
                b'%' => (Field::Time, 13),
                _ => {
                    bytes.push(byte);
                    continue;
                }
            };
            numbers.push((bytes.len(), width, field));
            bytes.resize(bytes.len() + width, b'0');
        }
        Self { bytes, numbers }
    }

    /// The frame of the n-th trade.
    fn frame(&mut self, n: u64) -> &[u8] {
        for (at, width, field) in &self.numbers {
            let mut number = match field {
                Field::Id => 3_000_000_000 + n,
                // Half of the trades do not change the price, as in a real market.
                Field::Cents => n / 2 * 7 % 100,
                Field::Time => NOW_MS + n / 100,
            };
            for digit in self.bytes[*at..at + width].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        &self.bytes
    }
}

const BINANCE: &str = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":%,"s":"BTCUSDT","t":@,"p":"61837.#000000","q":"0.02000000","T":%,"m":true,"M":true}}"#;
const FRAMES_OF: [(&str, VenueKind, &str, &str); 8] = [
    ("binance trade", VenueKind::Binance, "BTC-USDT", BINANCE),
    (
        "coinbase match",
        VenueKind::Coinbase,
        "BTC-USD",
        r#"{"type":"match","trade_id":@,"maker_order_id":"d50ec984-77a8-460a-b958-66f114b0de9b","taker_order_id":"132fb6ae-456b-4654-b4e0-d681ac05cea1","side":"sell","size":"0.02000000","price":"61837.#","product_id":"BTC-USD","sequence":@,"time":"2025-06-15T15:06:40.000001Z"}"#,
    ),
    (
        "kraken trade",
        VenueKind::Kraken,
        "BTC-USD",
        r#"{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":61837.#,"qty":0.02000000,"ord_type":"market","trade_id":@,"timestamp":"2025-06-15T15:06:40.000001Z"}]}"#,
    ),
    (
        "okx trade",
        VenueKind::Okx,
        "BTC-USDT",
        r#"{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"@","px":"61837.#","sz":"0.02","side":"buy","ts":"%","count":"1"}]}"#,
    ),
    (
        "bybit trade",
        VenueKind::Bybit,
        "BTC-USDT",
        r#"{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":%,"data":[{"T":%,"s":"BTCUSDT","S":"Buy","v":"0.020000","p":"61837.#","L":"PlusTick","i":"@","BT":false}]}"#,
    ),
    (
        "bitstamp trade",
        VenueKind::Bitstamp,
        "BTC-USD",
        r#"{"data":{"id":@,"timestamp":"1750000000","amount":0.02,"amount_str":"0.02000000","price":61837.#,"price_str":"61837.#","type":0,"microtimestamp":"%000","buy_order_id":1443875737346049,"sell_order_id":1443875731320832},"channel":"live_trades_btcusd","event":"trade"}"#,
    ),
    (
        "coinbase_advanced trade",
        VenueKind::CoinbaseAdvanced,
        "BTC-USD",
        r#"{"channel":"market_trades","client_id":"","timestamp":"2025-06-15T15:06:40.000001Z","sequence_num":@,"events":[{"type":"update","trades":[{"trade_id":"@","product_id":"BTC-USD","price":"61837.#","size":"0.02","side":"BUY","time":"2025-06-15T15:06:40.000001Z"}]}]}"#,
    ),
    (
        "pyth update",
        VenueKind::Pyth,
        "BTC-USD",
        r#"{"parsed":[{"id":"e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43","price":{"price":"61837#000000","conf":"3000000000","expo":-8,"publish_time":1750000000},"ema_price":{"price":"6183700000000","conf":"3000000000","expo":-8,"publish_time":1750000000},"metadata":{"slot":@}}]}"#,
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    let bench = Bench::from_arguments();
    for (name, kind, symbol, text) in FRAMES_OF {
        bench.run_frames(name, kind, &config(&[symbol.to_owned()], &[kind]), text)?;
    }
    let four = [
        VenueKind::Binance,
        VenueKind::Okx,
        VenueKind::Bybit,
        VenueKind::Bitstamp,
    ];
    let one = ["BTC-USDT".to_owned()];
    bench.run_beside("binance trade, one of 4 live sources", &config(&one, &four))?;
    for count in [10, 10_000] {
        let mut symbols: Vec<_> = (1..count).map(|n| format!("C{n}-USDT")).collect();
        symbols.push("BTC-USDT".to_owned());
        let name = format!("binance trade, one of {count} symbols");
        let config = config(&symbols, &[VenueKind::Binance]);
        bench.run_frames(&name, VenueKind::Binance, &config, BINANCE)?;
    }
    bench.memory()
}

fn config(symbols: &[String], kinds: &[VenueKind]) -> PriceConfig {
    let source = |kind: &VenueKind| SourceConfig {
        clock: match kind {
            // The times in their frames are fixed.
            VenueKind::Coinbase
            | VenueKind::Kraken
            | VenueKind::CoinbaseAdvanced
            | VenueKind::Pyth => SourceClock::Arrival,
            _ => SourceClock::Venue,
        },
        ..SourceConfig::new(*kind)
    };
    PriceConfig {
        symbols: symbols.to_vec(),
        source: kinds.iter().map(source).collect(),
        ..PriceConfig::default()
    }
}

impl Bench {
    fn run_frames(
        &self,
        name: &str,
        kind: VenueKind,
        config: &PriceConfig,
        text: &str,
    ) -> Result<(), Box<dyn Error>> {
        if !self.wants(name) {
            return Ok(());
        }
        let aggregator = Aggregator::new(config, Arc::new(Nowhere))?;
        self.measure(name, kind, aggregator, text)
    }

    /// Measures with other sources that have a price already.
    fn run_beside(&self, name: &str, config: &PriceConfig) -> Result<(), Box<dyn Error>> {
        if !self.wants(name) {
            return Ok(());
        }
        let mut aggregator = Aggregator::new(config, Arc::new(Nowhere))?;
        for (_, kind, _, text) in FRAMES_OF.iter().skip(3).take(3) {
            let text = text.replace("btcusd\"", "btcusdt\"");
            let mut template = Template::new(&text);
            let source = aggregator.source(kind.name()).ok_or("no such source")?;
            let events = kind.parse(template.frame(0));
            aggregator.apply_frame(source, &events, arrival_us(0));
        }
        self.measure(name, VenueKind::Binance, aggregator, BINANCE)
    }

    fn measure(
        &self,
        name: &str,
        kind: VenueKind,
        mut aggregator: Aggregator,
        text: &str,
    ) -> Result<(), Box<dyn Error>> {
        let source = aggregator.source(kind.name()).ok_or("no such source")?;
        aggregator.set_link_state(source, &LinkState::Live, arrival_us(0));
        let mut template = Template::new(text);
        let mut next = 0;
        let mut run = |count: u64| {
            let start = Instant::now();
            for n in next..next + count {
                let events = kind.parse(template.frame(n));
                aggregator.apply_frame(source, &events, arrival_us(n));
            }
            next += count;
            start.elapsed()
        };
        if self.is_fixed {
            run(FIXED);
            writeln!(io::stdout(), "{name:<40} {FIXED} frames")?;
            return Ok(());
        }
        run(FRAMES / 10);
        let mut samples: Vec<Duration> = (0..SAMPLES).map(|_| run(FRAMES)).collect();
        samples.sort_unstable();
        let bad = aggregator.sources(arrival_us(next))[0].bad_frames;
        let rate = |sample: Duration| FRAMES as f64 / sample.as_secs_f64();
        writeln!(
            io::stdout(),
            "{name:<40} {:>10.0} frames/s, best {:>10.0}; {:>6.0} ns each{}",
            rate(samples[SAMPLES / 2]),
            rate(samples[0]),
            1e9 / rate(samples[SAMPLES / 2]),
            if bad > 0 { ", with bad frames" } else { "" }
        )?;
        Ok(())
    }

    /// Measures the memory of 5,000 symbols at 8 sources after some trades each.
    fn memory(&self) -> Result<(), Box<dyn Error>> {
        const SYMBOLS: u64 = 5_000;
        const TRADES: u64 = 200;
        let name = "memory of 5,000 symbols at 8 sources";
        if !self.wants(name) || self.is_fixed {
            return Ok(());
        }
        let before = resident().ok_or("memory is reported on Linux only")?;
        let symbols: Vec<_> = (0..SYMBOLS).map(|n| format!("C{n:04}-USDT")).collect();
        let mut config = config(&symbols, &[VenueKind::Okx; 8]);
        for (number, source) in config.source.iter_mut().enumerate() {
            (source.kind, source.name) = (VenueKind::Binance, Some(format!("b{number}")));
        }
        let mut aggregator = Aggregator::new(&config, Arc::new(Nowhere))?;
        let empty = resident()
            .ok_or("memory is reported on Linux only")?
            .saturating_sub(before);
        for source in 0..8 {
            let id = aggregator.source(&format!("b{source}"));
            let id = id.ok_or("no such source")?;
            for n in 0..TRADES {
                for symbol in 0..SYMBOLS {
                    let name = format!("C{symbol:04}USDT");
                    let mut template = Template::new(&BINANCE.replace("BTCUSDT", &name));
                    let events = VenueKind::Binance.parse(template.frame(n));
                    aggregator.apply_frame(id, &events, arrival_us(n));
                }
            }
        }
        let full = resident()
            .ok_or("memory is reported on Linux only")?
            .saturating_sub(before);
        writeln!(
            io::stdout(),
            "{name:<40} {:>6.1} MiB before any data, {:.1} MiB after {TRADES} trades each",
            empty as f64 / f64::from(1 << 20),
            full as f64 / f64::from(1 << 20)
        )?;
        black_box(aggregator);
        Ok(())
    }
}

/// When the n-th frame arrives: a hundred a millisecond.
fn arrival_us(n: u64) -> i64 {
    ((NOW_MS + 20) * 1_000 + n * 10) as i64
}
