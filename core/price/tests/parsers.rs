//! Parsers against mutated and random frames: none may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use proptest::prelude::*;
use support::{binance_trade, bitstamp_trade, coinbase_match, coinbase_ticker, kraken_trade};
use tidewire_price::{Recording, VenueKind};

/// Frames of all venues: those of the sample, and further kinds.
fn frames() -> Vec<Vec<u8>> {
    let mut frames: Vec<_> = Recording::sample()
        .unwrap()
        .step_by(20)
        .map(|line| line.frame)
        .collect();
    let others = [
        binance_trade(1, "BTCUSDT", "1.5"),
        coinbase_match(1, "BTC-USD", "1e-5"),
        coinbase_ticker(1, "BTC-USD", "12345678901234567890.123456789"),
        kraken_trade(1, "BTC/USD", "1E+30"),
        bitstamp_trade(1, "btcusd", "1e-5", "2"),
        r#"{"arg":{"channel":"trades"},"data":[{"instId":"A-B","tradeId":"18446744073709551615","px":"1","sz":"1","side":"buy","ts":"1","count":"18446744073709551615"}]}"#.to_owned(),
        r#"{"topic":"publicTrade.X","ts":1,"data":[{"T":1,"s":"X","S":"Buy","v":"1","p":"2","i":"é"}]}"#.to_owned(),
        r#"{"channel":"market_trades","events":[{"type":"update","trades":[{"trade_id":"1","product_id":"A-B","price":"1","size":"1"}]}]}"#.to_owned(),
        r#"{"parsed":[{"id":"e6","price":{"price":"6183801","conf":"3","expo":-8,"publish_time":9223372036854775807}}]}"#.to_owned(),
        r#"{"channel":"trade","type":"update","data":[1,null,{},[]]}"#.to_owned(),
        r#"{"type":"error","message":"\u00e9\ud83d\ude00","reason":"x"}"#.to_owned(),
        r#"{"e":"aggTrade","a":18446744073709551615,"T":-9223372036854775808}"#.to_owned(),
        format!("{}1{}", "[".repeat(200), "]".repeat(200)),
    ];
    frames.extend(others.into_iter().map(String::into_bytes));
    frames
}

#[derive(Debug, Clone)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Double(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    let token = prop_oneof![
        Just(b"null".to_vec()),
        Just(b"-".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"{}".to_vec()),
        Just(b"1e400".to_vec()),
        Just(b"99999999999999999999999999999".to_vec()),
        prop::collection::vec(any::<u8>(), 1..6),
    ];
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        index().prop_map(Mutation::Cut),
        index().prop_map(Mutation::Remove),
        (index(), token).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (index(), index()).prop_map(|(from, to)| Mutation::Double(from, to)),
    ]
}

fn mutate(frame: &mut Vec<u8>, mutation: Mutation) {
    if frame.is_empty() {
        return;
    }
    match mutation {
        Mutation::Set(at, byte) => *at.get_mut(frame) = byte,
        Mutation::Cut(at) => frame.truncate(at.index(frame.len())),
        Mutation::Remove(at) => drop(frame.remove(at.index(frame.len()))),
        Mutation::Insert(at, bytes) => {
            let at = at.index(frame.len());
            frame.splice(at..at, bytes);
        }
        Mutation::Double(from, to) => {
            let (from, to) = (from.index(frame.len()), to.index(frame.len()));
            let part = frame[from.min(to)..from.max(to)].to_vec();
            frame.splice(from..from, part);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn mutated_frames_are_parsed_or_refused(
        frame in prop::sample::select(frames()),
        mutations in prop::collection::vec(mutation(), 0..6),
    ) {
        let mut frame = frame;
        for mutation in mutations {
            mutate(&mut frame, mutation);
        }
        for kind in VenueKind::ALL {
            if let Err(error) = kind.parse(&frame) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in VenueKind::ALL {
            let _ = kind.parse(&frame);
        }
    }
}
