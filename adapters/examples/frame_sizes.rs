//! Frame sizes: bytes of a price update on a WebSocket as JSON, compressed JSON and
//! protobuf, and the time that compression takes. Run it with
//! `cargo run --release -p tidewire-adapters --example frame_sizes`.
//!
//! Each size is the mean over different messages. Each time is the best of many rounds, so
//! that other load on the machine matters little.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool at the command line"
)]

use std::{fmt::Write as _, hint::black_box, time::Instant};

use flate2::{Compress, Compression, FlushCompress};
use tidewire_adapters::{
    CompressionLevel, CompressionOptions,
    websocket::{
        deflate::inflate,
        frame::{Opcode, encode_deflated_frame, encode_frame},
    },
};
use tidewire_proto::{json, prost::Message as _, v1::ServerMessage};

/// Messages of each kind.
const MESSAGES: usize = 200;

/// Rounds of each measurement.
const ROUNDS: usize = 40;

const LEVELS: [u8; 4] = [1, 3, 6, 9];

fn main() {
    let mut random = Random(7);
    println!(
        "| message | encoding | bytes a frame | bytes an update | of JSON | µs to compress | µs to inflate |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|");
    for (name, updates) in [
        ("`price`", 1),
        ("`price_batch` of 10", 10),
        ("`price_batch` of 50", 50),
    ] {
        let messages: Vec<_> = (0..MESSAGES)
            .map(|at| message(&mut random, at, updates))
            .collect();
        measure(name, updates, &messages);
    }
}

fn measure(name: &str, updates: usize, messages: &[ServerMessage]) {
    let texts: Vec<_> = messages.iter().map(json::to_vec).collect();
    let plain = mean(
        texts
            .iter()
            .map(|text| encode_frame(Opcode::Text, text).len()),
    );
    let row = |encoding: &str, bytes: f64, times: &str| {
        println!(
            "| {name} | {encoding} | {bytes:.0} | {:.0} | {:.0} % | {times} |",
            bytes / updates as f64,
            bytes / plain * 100.0
        );
    };
    row("JSON", plain, "– | –");
    for level in LEVELS {
        let options = CompressionOptions {
            level: CompressionLevel::new(level).unwrap(),
            threshold: 0,
        };
        let deflated = |text: &[u8]| encode_deflated_frame(Opcode::Text, text, options).unwrap();
        let frames: Vec<_> = texts.iter().map(|text| deflated(text)).collect();
        let deflating = best(|| {
            for text in &texts {
                black_box(deflated(text));
            }
        });
        let payloads: Vec<_> = frames.iter().map(|frame| payload(frame)).collect();
        let inflating = best(|| {
            for payload in &payloads {
                black_box(inflate(payload, 1 << 20).unwrap());
            }
        });
        row(
            &format!("JSON, deflated at level {level}"),
            mean(frames.iter().map(bytes::Bytes::len)),
            &format!("{deflating:.1} | {inflating:.1}"),
        );
    }
    if updates > 1 {
        let concatenated = mean(texts.iter().map(|text| concatenated(text)));
        row(
            "JSON, concatenated from parts deflated once",
            concatenated,
            "– | –",
        );
    }
    let protos: Vec<_> = messages.iter().map(ServerMessage::encode_to_vec).collect();
    let bytes = mean(
        protos
            .iter()
            .map(|bytes| encode_frame(Opcode::Binary, bytes).len()),
    );
    row("protobuf", bytes, "– | –");
}

/// The payload length of a batch that is concatenated from compressed updates. A flushed
/// stream ends at a byte boundary, where the next one may begin.
fn concatenated(text: &[u8]) -> usize {
    let parts = text.split_inclusive(|byte| *byte == b'}');
    let length: usize = parts
        .map(|part| {
            let mut stream = Compress::new(Compression::new(6), false);
            let mut out = Vec::with_capacity(part.len() + 100);
            stream
                .compress_vec(part, &mut out, FlushCompress::Sync)
                .unwrap();
            out.len()
        })
        .sum();
    length + 4
}

fn payload(frame: &[u8]) -> &[u8] {
    match frame[1] {
        126 => &frame[4..],
        127 => &frame[10..],
        _ => &frame[2..],
    }
}

fn mean(lengths: impl ExactSizeIterator<Item = usize>) -> f64 {
    let count = lengths.len();
    lengths.sum::<usize>() as f64 / count as f64
}

/// Microseconds per message in the best round.
fn best(mut round: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e6 / MESSAGES as f64
}

/// A message as the server sends it, with realistic digits.
fn message(random: &mut Random, at: usize, updates: usize) -> ServerMessage {
    let time = 1_795_553_639_679 + at as u64 * 50;
    let text = if updates == 1 {
        let seq = 18_234 + at;
        format!(
            r#"{{"type":"price","channel":"prices:BTC-USD","seq":{seq},"data":{},"timestamp":{time}}}"#,
            update(random, 0, time)
        )
    } else {
        let updates: Vec<_> = (0..updates)
            .map(|symbol| update(random, symbol, time))
            .collect();
        format!(
            r#"{{"type":"price_batch","data":{{"updates":[{}],"timestamp":{time}}},"timestamp":{time}}}"#,
            updates.join(",")
        )
    };
    json::from_slice(text.as_bytes()).unwrap()
}

fn update(random: &mut Random, symbol: usize, time: u64) -> String {
    let names = [
        "BTC", "ETH", "SOL", "XRP", "DOGE", "ADA", "AVAX", "LINK", "DOT", "UNI", "ATOM", "LTC",
        "NEAR", "APT", "ARB", "OP", "AAVE",
    ];
    let name = names[symbol % names.len()];
    let base = 61_800.0 / (1.0 + symbol as f64 * 3.7);
    let price = base * (1.0 + (random.unit() - 0.5) * 0.01);
    let mut text = String::new();
    let number = if symbol < names.len() {
        String::new()
    } else {
        (symbol / names.len()).to_string()
    };
    write!(
        text,
        r#"{{"symbol":"{name}{number}-USD","price":{price:.2},"change24h":{},"volume24h":{:.2},"timestamp":{},"source":"aggregate","confidence":{:.3},"sources":3,"stale":false,"twap":{:.4}}}"#,
        (random.unit() - 0.5) * 10.0,
        random.unit() * 1e9,
        time - (random.unit() * 300.0) as u64,
        random.unit(),
        price * (1.0 + (random.unit() - 0.5) * 0.001),
    )
    .unwrap();
    text
}

/// A generator with the same numbers in every run.
struct Random(u64);

impl Random {
    /// A number from 0 to 1.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
