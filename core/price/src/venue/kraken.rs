//! Kraken, version 2: parser and requests of `wss://ws.kraken.com/v2`.
//!
//! Source: Kraken's "WebSocket API v2" documentation. Numbers are JSON numbers, and are parsed from
//! their text. A frame may hold several trades.

use std::{borrow::Cow, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use smallvec::smallvec;

use super::{
    Events, KeepAlive, Limits, ParseError, Size, Stamp, Ticker, Trade, TradeId, VenueEvent, Volume,
    field::{NumberText, Text, decode, entries, joined, price, request_id, size},
    side_fields::{Documented, RawField, SideFields},
    subscribe::{Channel, Markets, Refusal, RefusalScope},
};
use crate::Symbol;

pub(super) const URL: &str = "wss://ws.kraken.com/v2";

/// Kraken documents no limit of public requests; each connection sends two.
pub(super) const LIMITS: Limits = Limits {
    request_spacing: Duration::from_millis(100),
    ..Limits::NONE
};

pub(super) const KEEP_ALIVE: KeepAlive = KeepAlive {
    interval: Duration::from_secs(30),
    frame: r#"{"method":"ping"}"#,
};

/// The venue's name of a symbol, if Kraken trades in its quote currency.
pub(super) fn venue_name(symbol: &Symbol) -> Option<String> {
    matches!(
        symbol.quote(),
        "USD" | "EUR" | "GBP" | "BTC" | "USDT" | "USDC"
    )
    .then(|| format!("{}/{}", symbol.base(), symbol.quote()))
}

/// Each channel has a request with all markets, which are accepted or refused one by one.
pub(super) const CHANNELS: [Channel; 2] = [
    Channel {
        name: "ticker",
        markets: Markets::All,
    },
    Channel {
        name: "trade",
        markets: Markets::All,
    },
];

/// Subscribes to a channel.
pub(super) fn subscribe(channel: &str, names: &[String], id: u64) -> Value {
    let params = match channel {
        "ticker" => {
            json!({"channel": channel, "symbol": names, "event_trigger": "trades", "snapshot": true})
        }
        // A snapshot would hold old trades.
        _ => json!({"channel": channel, "symbol": names, "snapshot": false}),
    };
    json!({"method": "subscribe", "params": params, "req_id": id})
}

#[derive(Deserialize)]
struct KrakenFrame<'a> {
    #[serde(borrow)]
    method: Option<Text<'a>>,
    success: Option<bool>,
    #[serde(borrow)]
    req_id: RawField<'a>,
    #[serde(borrow)]
    error: Option<Text<'a>>,
    #[serde(borrow)]
    symbol: Option<Text<'a>>,
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct KrakenTrade<'a> {
    #[serde(borrow)]
    symbol: Cow<'a, str>,
    #[serde(borrow)]
    side: RawField<'a>,
    #[serde(borrow)]
    price: NumberText<'a>,
    #[serde(borrow)]
    qty: NumberText<'a>,
    trade_id: u64,
    #[serde(borrow)]
    timestamp: RawField<'a>,
}

#[derive(Deserialize)]
struct KrakenTicker<'a> {
    #[serde(borrow)]
    symbol: Cow<'a, str>,
    #[serde(borrow)]
    last: NumberText<'a>,
    #[serde(borrow)]
    bid: RawField<'a>,
    #[serde(borrow)]
    ask: RawField<'a>,
    #[serde(borrow)]
    volume: RawField<'a>,
    #[serde(borrow)]
    vwap: RawField<'a>,
    #[serde(borrow)]
    change_pct: RawField<'a>,
    #[serde(borrow)]
    timestamp: RawField<'a>,
}

/// Parses a frame.
pub(super) fn parse(frame: &[u8]) -> Result<Events<'_>, ParseError> {
    let frame: KrakenFrame<'_> = decode(frame)?;
    // A refusal of an unreadable request does not name its method.
    if frame.method.is_some() || frame.error.is_some() {
        return Ok(smallvec![response(&frame)]);
    }
    match (frame.channel.as_deref(), frame.kind.as_deref(), frame.data) {
        (Some("trade"), Some("update"), Some(data)) => entries(data, trade),
        (Some("ticker"), _, Some(data)) => entries(data, ticker),
        (Some("heartbeat"), _, _) => Ok(smallvec![VenueEvent::Heartbeat]),
        // The venue's status, and snapshots of old trades.
        _ => Ok(smallvec![VenueEvent::Ignored]),
    }
}

fn response(frame: &KrakenFrame<'_>) -> VenueEvent<'static> {
    let id = request_id(frame.req_id);
    match (frame.method.as_deref(), frame.success) {
        (Some("pong"), _) => VenueEvent::Heartbeat,
        (Some("subscribe"), Some(true)) => VenueEvent::Ack(id),
        _ => {
            let reason = joined([frame.error.as_deref(), frame.symbol.as_deref()]);
            VenueEvent::Error(Refusal {
                scope: match frame.symbol {
                    Some(_) => RefusalScope::Market,
                    None => RefusalScope::Request,
                },
                ..Refusal::of_request(&reason, id)
            })
        }
    }
}

fn trade(entry: &str) -> Result<VenueEvent<'_>, ParseError> {
    let frame: KrakenTrade<'_> = serde_json::from_str(entry)?;
    let mut fields = SideFields::default();
    Ok(VenueEvent::Trade(Trade {
        id: TradeId::Single(frame.trade_id),
        price: price("price", frame.price.text())?,
        size: Size::Base(size("qty", frame.qty.text())?),
        side: fields.side("side", frame.side),
        venue_time_us: fields.rfc3339("timestamp", Documented::Text, frame.timestamp),
        name: frame.symbol,
        unexpected: fields.into_unexpected(),
    }))
}

fn ticker(entry: &str) -> Result<VenueEvent<'_>, ParseError> {
    let frame: KrakenTicker<'_> = serde_json::from_str(entry)?;
    let mut fields = SideFields::default();
    let volume = fields.statistic("volume", Documented::Number, frame.volume);
    let average = fields.statistic("vwap", Documented::Number, frame.vwap);
    Ok(VenueEvent::Ticker(Ticker {
        last: Some(price("last", frame.last.text())?),
        last_id: None,
        bid: fields.offer("bid", Documented::Number, frame.bid),
        ask: fields.offer("ask", Documented::Number, frame.ask),
        change_percent: fields.statistic("change_pct", Documented::Number, frame.change_pct),
        // The volume is in base; times its average price, which is rounded, it is in quote.
        volume: Volume {
            quote: volume
                .zip(average)
                .map(|(volume, average)| volume * average),
            base: volume.filter(|_| average.is_some()),
            contracts: None,
        },
        // The documentation does not define the time.
        stamp: fields
            .rfc3339("timestamp", Documented::OptionalText, frame.timestamp)
            .map(Stamp::Formed),
        name: frame.symbol,
        unexpected: fields.into_unexpected(),
    }))
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::TradeSide;

    use super::*;
    use crate::venue::{FaultKind, VenueKind, testing::all};

    const KIND: VenueKind = VenueKind::Kraken;

    const TRADES: &str = r#"{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":61838.10,"qty":0.00012345678901,"ord_type":"market","trade_id":7,"timestamp":"2024-08-08T23:54:17.102938Z"},{"symbol":"BTC/USD","side":"buy","price":61838.2,"qty":1,"ord_type":"limit","trade_id":8,"timestamp":"2024-08-08T23:54:17.2Z"}]}"#;

    #[test]
    fn numbers_are_parsed_from_their_text() {
        let events = all(KIND, TRADES);
        let [VenueEvent::Trade(first), VenueEvent::Trade(second)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(first.price.to_string(), "61838.10");
        assert_eq!(first.size.number().to_string(), "0.00012345678901");
        assert_eq!(
            (second.id, second.side),
            (TradeId::Single(8), TradeSide::Buy)
        );
        assert_eq!(
            all(KIND, &TRADES.replace("\"update\"", "\"snapshot\"")),
            [VenueEvent::Ignored]
        );
    }

    #[test]
    fn a_bad_entry_does_not_discard_the_others() {
        for (bad, kind) in [
            ("\"61838.10\"", FaultKind::WrongType),
            ("-1", FaultKind::BadValue),
            ("0", FaultKind::BadValue),
            ("null", FaultKind::WrongType),
        ] {
            let frame = TRADES.replace("61838.10", bad);
            let events = all(KIND, &frame);
            let [VenueEvent::Fault(error), VenueEvent::Trade(_)] = &events[..] else {
                panic!("{events:?}")
            };
            assert_eq!(error.kind, kind, "{bad}");
        }
    }

    #[test]
    fn the_ticker_gives_change_and_volume_in_quote() {
        let frame = r#"{"channel":"ticker","type":"snapshot","data":[{"symbol":"BTC/USD","bid":1.0,"bid_qty":1,"ask":1.2,"ask_qty":1,"last":1.1,"volume":10,"vwap":2,"low":1,"high":3,"change":0.1,"change_pct":-1.5}]}"#;
        let events = all(KIND, frame);
        let [VenueEvent::Ticker(ticker)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(
            (ticker.change_percent, ticker.volume.quote),
            (Some(-1.5), Some(20.0))
        );
    }

    #[test]
    fn responses_and_faults_are_distinguished() {
        assert_eq!(
            all(
                KIND,
                r#"{"method":"subscribe","result":{"channel":"trade"},"success":true,"req_id":2}"#
            ),
            [VenueEvent::Ack(Some(2))]
        );
        let refusal = r#"{"error":"Currency pair not supported","method":"subscribe","req_id":1,"success":false,"symbol":"FOO/USD"}"#;
        assert_eq!(
            all(KIND, refusal),
            [VenueEvent::Error(Refusal {
                scope: RefusalScope::Market,
                ..Refusal::of_request("Currency pair not supported: FOO/USD", Some(1))
            })]
        );
        // The message names the market too.
        let refusal = r#"{"error":"Currency pair not supported FOO/USD","method":"subscribe","req_id":1,"success":false,"symbol":"FOO/USD"}"#;
        assert_eq!(
            all(KIND, refusal),
            [VenueEvent::Error(Refusal {
                scope: RefusalScope::Market,
                ..Refusal::of_request("Currency pair not supported FOO/USD", Some(1))
            })]
        );
        assert_eq!(
            all(KIND, r#"{"error":"Malformed request","success":false}"#),
            [VenueEvent::Error(Refusal::of_request(
                "Malformed request",
                None
            ))]
        );
        for heartbeat in [
            r#"{"channel":"heartbeat"}"#,
            r#"{"method":"pong","req_id":1}"#,
        ] {
            assert_eq!(all(KIND, heartbeat), [VenueEvent::Heartbeat]);
        }
        let status = r#"{"channel":"status","type":"update","data":[{"system":"online"}]}"#;
        assert_eq!(all(KIND, status), [VenueEvent::Ignored]);
        for (frame, kind) in [
            (
                r#"{"channel":"trade","type":"update","data":{}}"#,
                FaultKind::WrongType,
            ),
            (r#"{"channel":5}"#, FaultKind::WrongType),
            (&TRADES[..90], FaultKind::Malformed),
        ] {
            assert_eq!(parse(frame.as_bytes()).unwrap_err().kind, kind, "{frame}");
        }
    }
}
