//! Bybit, version 5, spot: parser and requests of `wss://stream.bybit.com/v5/public/spot`.
//!
//! Source: Bybit's "V5 API" documentation, public topics. A ticker of the spot market is always
//! complete; on other markets a delta has only the changed fields. Trade numbers rise with holes,
//! or are texts.

use std::{borrow::Cow, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use smallvec::smallvec;

use super::{
    Events, KeepAlive, Limits, ParseError, Size, Stamp, Ticker, Trade, TradeId, VenueEvent, Volume,
    field::{Text, decode, entries, price, refusal, request_id, size},
    side_fields::{Documented, RawField, SideFields},
    subscribe::{Channel, Markets},
};
use crate::Symbol;

pub(super) const URL: &str = "wss://stream.bybit.com/v5/public/spot";

/// Bybit allows ten topics a request, 21,000 characters of topics a connection, and 500 connections
/// in five minutes.
pub(super) const LIMITS: Limits = Limits {
    request_spacing: Duration::from_millis(50),
    connect_spacing: Duration::from_millis(700),
    symbols: Some(400),
    connections: 20,
};

pub(super) const KEEP_ALIVE: KeepAlive = KeepAlive {
    interval: Duration::from_secs(20),
    frame: r#"{"op":"ping"}"#,
};

/// Five markets are ten topics.
pub(super) const CHANNELS: [Channel; 1] = [Channel {
    name: "",
    markets: Markets::AtMost(5),
}];

/// The venue's name of a symbol, if Bybit trades in its quote currency.
pub(super) fn venue_name(symbol: &Symbol) -> Option<String> {
    matches!(symbol.quote(), "USDT" | "USDC" | "EUR" | "BTC" | "ETH")
        .then(|| format!("{}{}", symbol.base(), symbol.quote()))
}

/// Subscribes to trades and tickers.
pub(super) fn subscribe(names: &[String], id: u64) -> Value {
    let topics: Vec<_> = names
        .iter()
        .flat_map(|name| [format!("tickers.{name}"), format!("publicTrade.{name}")])
        .collect();
    json!({"req_id": id.to_string(), "op": "subscribe", "args": topics})
}

#[derive(Deserialize)]
struct BybitFrame<'a> {
    #[serde(borrow)]
    topic: Option<Text<'a>>,
    #[serde(rename = "type", borrow)]
    kind: RawField<'a>,
    #[serde(borrow)]
    ts: RawField<'a>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    op: Option<Text<'a>>,
    success: Option<bool>,
    #[serde(borrow)]
    ret_msg: Option<Text<'a>>,
    #[serde(borrow)]
    req_id: RawField<'a>,
}

#[derive(Deserialize)]
struct BybitTrade<'a> {
    #[serde(borrow)]
    s: Cow<'a, str>,
    #[serde(rename = "T", borrow)]
    time: RawField<'a>,
    #[serde(rename = "S", borrow)]
    side: RawField<'a>,
    #[serde(borrow)]
    p: Cow<'a, str>,
    #[serde(borrow)]
    v: Cow<'a, str>,
    #[serde(borrow)]
    i: Cow<'a, str>,
    /// A block trade, agreed on outside of the order book.
    #[serde(rename = "BT", borrow)]
    is_block: RawField<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BybitTicker<'a> {
    #[serde(borrow)]
    symbol: Cow<'a, str>,
    #[serde(borrow)]
    last_price: Option<Text<'a>>,
    #[serde(borrow)]
    bid1_price: RawField<'a>,
    #[serde(borrow)]
    ask1_price: RawField<'a>,
    #[serde(rename = "price24hPcnt", borrow)]
    change: RawField<'a>,
    #[serde(rename = "volume24h", borrow)]
    volume: RawField<'a>,
    #[serde(rename = "turnover24h", borrow)]
    turnover: RawField<'a>,
}

/// Parses a frame.
pub(super) fn parse(frame: &[u8]) -> Result<Events<'_>, ParseError> {
    let frame: BybitFrame<'_> = decode(frame)?;
    let Some((topic, data)) = frame.topic.as_deref().zip(frame.data) else {
        return Ok(smallvec![response(&frame)]);
    };
    if topic.starts_with("publicTrade.") {
        return entries(data, trade);
    }
    if topic.starts_with("tickers.") {
        return Ok(smallvec![ticker(data.get(), frame.kind, frame.ts)?]);
    }
    Ok(smallvec![VenueEvent::Ignored])
}

fn response(frame: &BybitFrame<'_>) -> VenueEvent<'static> {
    match (frame.op.as_deref(), frame.success) {
        (Some("ping" | "pong"), _) => VenueEvent::Heartbeat,
        (Some("subscribe"), Some(true)) => VenueEvent::Ack(request_id(frame.req_id)),
        (_, Some(false)) => refusal(request_id(frame.req_id), [frame.ret_msg.as_deref()]),
        _ => VenueEvent::Ignored,
    }
}

/// Whether a contract of this name is inverse: `BTCUSD`, and `BTCUSDH25`, which expires in March
/// 2025. Inverse contracts have sizes and volumes in quote and turnovers in base. On other markets
/// sizes are in base and turnovers in quote.
fn is_inverse(name: &str) -> bool {
    match name.as_bytes() {
        [.., b'U', b'S', b'D'] => true,
        [.., b'U', b'S', b'D', month, tens, units] => {
            b"FGHJKMNQUVXZ".contains(month) && tens.is_ascii_digit() && units.is_ascii_digit()
        }
        _ => false,
    }
}

fn trade(entry: &str) -> Result<VenueEvent<'_>, ParseError> {
    let frame: BybitTrade<'_> = serde_json::from_str(entry)?;
    let mut fields = SideFields::default();
    let is_block = frame.is_block.is_some() && fields.flag("BT", frame.is_block) == Some(true);
    if is_block {
        return Ok(VenueEvent::Ignored);
    }
    Ok(VenueEvent::Trade(Trade {
        id: trade_id(&frame.i),
        price: price("p", &frame.p)?,
        size: if is_inverse(&frame.s) {
            Size::Quote(size("v", &frame.v)?)
        } else {
            Size::Base(size("v", &frame.v)?)
        },
        side: fields.side("S", frame.side),
        venue_time_us: fields.epoch("T", Documented::Number, frame.time),
        name: frame.s,
        unexpected: fields.into_unexpected(),
    }))
}

/// The number of a trade: the text's own, or its FNV-1a hash.
fn trade_id(id: &str) -> TradeId {
    let hash = || {
        id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    let number = id.parse().ok();
    number.map_or_else(|| TradeId::Hashed(hash()), TradeId::Sparse)
}

fn ticker<'a>(
    data: &'a str,
    kind: RawField<'_>,
    ts: RawField<'_>,
) -> Result<VenueEvent<'a>, ParseError> {
    let frame: BybitTicker<'_> = serde_json::from_str(data)?;
    let mut fields = SideFields::default();
    // A delta has the changed fields only.
    let of_whole = match fields.text("type", Documented::Text, kind).as_deref() {
        Some("delta") => Documented::OptionalText,
        _ => Documented::Text,
    };
    let last = frame.last_price.as_deref();
    let volume = fields.statistic("volume24h", of_whole, frame.volume);
    let turnover = fields.statistic("turnover24h", of_whole, frame.turnover);
    Ok(VenueEvent::Ticker(Ticker {
        last: last.map(|last| price("lastPrice", last)).transpose()?,
        last_id: None,
        // The spot market has none.
        bid: fields.offer("bid1Price", Documented::OptionalText, frame.bid1_price),
        ask: fields.offer("ask1Price", Documented::OptionalText, frame.ask1_price),
        // The venue sends a fraction.
        change_percent: fields
            .statistic("price24hPcnt", of_whole, frame.change)
            .map(|change| change * 100.0),
        volume: if is_inverse(&frame.symbol) {
            Volume {
                quote: volume,
                base: turnover,
                contracts: None,
            }
        } else {
            Volume::in_quote(turnover)
        },
        stamp: fields.epoch("ts", Documented::Number, ts).map(Stamp::Sent),
        name: frame.symbol,
        unexpected: fields.into_unexpected(),
    }))
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::TradeSide;

    use super::*;
    use crate::venue::{
        FaultKind, VenueKind,
        testing::{self, fault, frames, one},
    };

    const KIND: VenueKind = VenueKind::Bybit;

    const TRADE: &str = r#"{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,"s":"BTCUSDT","S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false}]}"#;
    const TICKER: &str = r#"{"topic":"tickers.BTCUSDT","ts":1673853746003,"type":"snapshot","cs":2588407389,"data":{"symbol":"BTCUSDT","lastPrice":"21109.77","highPrice24h":"21426.99","lowPrice24h":"20575","prevPrice24h":"20704.93","volume24h":"6780.866843","turnover24h":"141946527.22907118","price24hPcnt":"0.0196","usdIndexPrice":"21120.2400136"}}"#;

    #[test]
    fn trades_and_their_numbers_are_parsed() {
        let trade = testing::trade(KIND, TRADE);
        assert_eq!(
            (trade.price.to_string().as_str(), trade.side),
            ("16578.50", TradeSide::Buy)
        );
        assert!(matches!(trade.id, TradeId::Hashed(_)), "{:?}", trade.id);
        let numbered = TRADE.replace(
            "20f43950-d8dd-5b31-9112-a178eb6023af",
            "2290000000068493487",
        );
        let trade = testing::trade(KIND, &numbered);
        assert_eq!(trade.id, TradeId::Sparse(2_290_000_000_068_493_487));
        assert_eq!(
            one(KIND, &TRADE.replace("\"BT\":false", "\"BT\":true")),
            Ok(VenueEvent::Ignored)
        );
    }

    #[test]
    fn tickers_have_their_units_and_a_delta_keeps_other_fields() {
        let ticker = testing::ticker(KIND, TICKER);
        assert!((ticker.change_percent.unwrap() - 1.96).abs() < 1e-9);
        assert_eq!(
            ticker.volume,
            Volume::in_quote(Some(141_946_527.229_071_18))
        );
        let delta = r#"{"topic":"tickers.BTCUSDT","type":"delta","data":{"symbol":"BTCUSDT","bid1Price":"5"},"cs":1,"ts":1673853746003}"#;
        let ticker = testing::ticker(KIND, delta);
        assert_eq!((ticker.last, ticker.volume), (None, Volume::default()));
        assert!(ticker.bid.is_some());
    }

    #[test]
    fn responses_and_faults_are_parsed() {
        let ack = r#"{"success":true,"ret_msg":"subscribe","conn_id":"x","op":"subscribe"}"#;
        assert_eq!(one(KIND, ack), Ok(VenueEvent::Ack(None)));
        let numbered = ack.replace("\"op\"", "\"req_id\":\"3\",\"op\"");
        assert_eq!(one(KIND, &numbered), Ok(VenueEvent::Ack(Some(3))));
        let pong = r#"{"success":true,"ret_msg":"pong","conn_id":"x","op":"ping"}"#;
        assert_eq!(one(KIND, pong), Ok(VenueEvent::Heartbeat));
        let error = r#"{"success":false,"ret_msg":"error:handler not found","conn_id":"x","op":"subscribe"}"#;
        assert!(matches!(one(KIND, error), Ok(VenueEvent::Error(_))));
        assert_eq!(
            fault(KIND, &TRADE.replace("\"16578.50\"", "16578.5")),
            FaultKind::WrongType
        );
        assert_eq!(
            fault(KIND, &TICKER.replace("\"21109.77\"", "\"-1\"")),
            FaultKind::BadValue
        );
        assert_eq!(fault(KIND, &TRADE[..99]), FaultKind::Malformed);
    }

    #[test]
    fn requests_have_ten_topics() {
        let names: Vec<_> = (0..12).map(|n| format!("C{n}USDT")).collect();
        let requests = frames(KIND, &names);
        assert_eq!(requests.len(), 3);
        assert!(requests[2].contains("publicTrade.C11USDT"));
    }
}
