//! Binance spot: parser and requests of `wss://stream.binance.com:9443/stream`.
//!
//! Source: Binance's "WebSocket Streams" documentation. Combined streams wrap the event as
//! `{"stream", "data"}`. Bare events are accepted too, and so are the events of its futures, which
//! differ in a few fields.

use std::{borrow::Cow, time::Duration};

use rust_decimal::Decimal;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json, value::RawValue};
use smallvec::smallvec;
use tidewire_proto::v1::TradeSide;

use super::{
    Events, FaultKind, Limits, ParseError, Size, Stamp, Ticker, Trade, TradeId, VenueEvent, Volume,
    field::{Text, change_percent, decode, missing, price, refusal, request_id, size, statistic},
    side_fields::{Documented, RawField, SideFields},
    subscribe::{Channel, Markets},
};
use crate::Symbol;

pub(super) const URL: &str = "wss://stream.binance.com:9443/stream";

/// Binance allows five messages a second including pongs, 1,024 streams a connection, and 300
/// connections in five minutes. A symbol takes two streams.
pub(super) const LIMITS: Limits = Limits {
    request_spacing: Duration::from_millis(250),
    connect_spacing: Duration::from_millis(1_000),
    symbols: Some(512),
    connections: 20,
};

/// A hundred markets are 200 streams. Requests stay short.
pub(super) const CHANNELS: [Channel; 1] = [Channel {
    name: "",
    markets: Markets::AtMost(100),
}];

/// The venue's name of a symbol. Binance has no US dollars, and Tether is another currency.
pub(super) fn venue_name(symbol: &Symbol) -> Option<String> {
    (symbol.quote() != "USD").then(|| format!("{}{}", symbol.base(), symbol.quote()))
}

/// Subscribes to trades and tickers.
pub(super) fn subscribe(names: &[String], id: u64) -> Value {
    let streams: Vec<_> = names
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .flat_map(|name| [format!("{name}@trade"), format!("{name}@ticker")])
        .collect();
    json!({"method": "SUBSCRIBE", "params": streams, "id": id})
}

/// The outermost object: a wrapped event, a bare one, or a response.
#[derive(Deserialize)]
struct BinanceEnvelope<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    id: RawField<'a>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    msg: Option<Text<'a>>,
    #[serde(borrow)]
    e: Option<Text<'a>>,
    u: Option<IgnoredAny>,
}

/// The fields that distinguish events.
#[derive(Deserialize)]
struct BinanceEventKind<'a> {
    #[serde(borrow)]
    e: Option<Text<'a>>,
    u: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct BinanceTrade<'a> {
    /// Read already. It is here so that an event with two kinds is a fault.
    #[serde(rename = "e")]
    _kind: Option<IgnoredAny>,
    #[serde(borrow)]
    s: Cow<'a, str>,
    /// The number of a single trade.
    t: Option<u64>,
    #[serde(borrow)]
    p: Cow<'a, str>,
    #[serde(borrow)]
    q: Cow<'a, str>,
    #[serde(rename = "T", borrow)]
    time: RawField<'a>,
    /// Whether the buyer was the maker, so that the taker sold.
    #[serde(borrow)]
    m: RawField<'a>,
    /// Futures: the origin of the trade.
    #[serde(rename = "X", borrow)]
    origin: RawField<'a>,
}

/// The number of an aggregate trade. In older single trades `a` is an order.
#[derive(Deserialize)]
struct BinanceAggregateId {
    a: u64,
}

#[derive(Deserialize)]
struct BinanceTicker<'a> {
    /// Read already. It is here so that an event with two kinds is a fault.
    #[serde(rename = "e")]
    _kind: Option<IgnoredAny>,
    #[serde(borrow)]
    s: Cow<'a, str>,
    #[serde(borrow)]
    c: Cow<'a, str>,
    #[serde(borrow)]
    o: RawField<'a>,
    #[serde(borrow)]
    v: RawField<'a>,
    #[serde(borrow)]
    q: RawField<'a>,
    #[serde(rename = "P", borrow)]
    change_percent: RawField<'a>,
    #[serde(borrow)]
    b: RawField<'a>,
    #[serde(borrow)]
    a: RawField<'a>,
    #[serde(rename = "E", borrow)]
    time: RawField<'a>,
    #[serde(rename = "L")]
    last_id: Option<u64>,
}

#[derive(Deserialize)]
struct BinanceBookTicker<'a> {
    /// Read already. It is here so that an event with two kinds is a fault.
    #[serde(rename = "e")]
    _kind: Option<IgnoredAny>,
    #[serde(borrow)]
    s: Cow<'a, str>,
    #[serde(borrow)]
    b: RawField<'a>,
    #[serde(borrow)]
    a: RawField<'a>,
    /// Futures only.
    #[serde(rename = "E", borrow)]
    time: RawField<'a>,
}

/// Parses a frame.
pub(super) fn parse(frame: &[u8]) -> Result<Events<'_>, ParseError> {
    let envelope: BinanceEnvelope<'_> = decode(frame)?;
    if let Some(data) = envelope.data {
        let kind = match leading_kind(data.get()) {
            Some(kind) => kind,
            None => serde_json::from_str(data.get())?,
        };
        return Ok(smallvec![event(&kind, data.get().as_bytes())?]);
    }
    if let Some(event) = response(&envelope) {
        return Ok(smallvec![event]);
    }
    let kind = BinanceEventKind {
        e: envelope.e,
        u: envelope.u,
    };
    Ok(smallvec![event(&kind, frame)?])
}

/// The kind of an event whose first field it is, as Binance writes them. Reading it alone spares a
/// pass over the event.
fn leading_kind(event: &str) -> Option<BinanceEventKind<'_>> {
    let (kind, _) = event.strip_prefix(r#"{"e":""#)?.split_once('"')?;
    (!kind.contains('\\')).then_some(BinanceEventKind {
        e: Some(Text(kind.into())),
        u: None,
    })
}

fn response(envelope: &BinanceEnvelope<'_>) -> Option<VenueEvent<'static>> {
    let id = request_id(envelope.id);
    if let Some(error) = envelope.error {
        return Some(refusal(id, [Some(error.get())]));
    }
    if envelope.e.is_some() {
        return None;
    }
    if let Some(reason) = &envelope.msg {
        return Some(refusal(id, [Some(reason)]));
    }
    envelope.id.is_some().then_some(VenueEvent::Ack(id))
}

fn event<'a>(kind: &BinanceEventKind<'_>, event: &'a [u8]) -> Result<VenueEvent<'a>, ParseError> {
    match kind.e.as_deref() {
        Some("trade") => trade(event, None),
        Some("aggTrade") => trade(event, Some(decode(event)?)),
        Some("24hrTicker") => ticker(event, Documented::Text),
        // It has no change and no offers.
        Some("24hrMiniTicker") => ticker(event, Documented::OptionalText),
        Some("bookTicker") => book_ticker(event),
        // The book ticker of spot is the only event with an update id and without a name.
        None if kind.u.is_some() => book_ticker(event),
        Some("serverShutdown") => Ok(VenueEvent::Shutdown),
        // Depth and candles are not subscribed to, and do no harm.
        _ => Ok(VenueEvent::Ignored),
    }
}

fn trade(
    event: &[u8],
    aggregate: Option<BinanceAggregateId>,
) -> Result<VenueEvent<'_>, ParseError> {
    let frame: BinanceTrade<'_> = decode(event)?;
    let mut fields = SideFields::default();
    if fields
        .text("X", Documented::OptionalText, frame.origin)
        .as_deref()
        == Some("NA")
    {
        return Err(ParseError {
            kind: FaultKind::BadValue,
            detail: "`X` is \"NA\": this is not a trade of the market".to_owned(),
        });
    }
    Ok(VenueEvent::Trade(Trade {
        id: match aggregate {
            Some(id) => TradeId::Aggregate(id.a),
            None => TradeId::Single(frame.t.ok_or_else(|| missing("t"))?),
        },
        price: price("p", &frame.p)?,
        size: trade_size(&frame.s, size("q", &frame.q)?),
        side: match fields.flag("m", frame.m) {
            Some(true) => TradeSide::Sell,
            Some(false) => TradeSide::Buy,
            None => TradeSide::Unspecified,
        },
        venue_time_us: fields.epoch("T", Documented::Number, frame.time),
        name: frame.s,
        unexpected: fields.into_unexpected(),
    }))
}

/// Whether a contract of this name is margined in coins (COIN-M): `BTCUSD_PERP`, `BTCUSD_240927`.
/// Its sizes are contracts, each worth an amount of dollars.
fn is_coin_margined(name: &str) -> bool {
    name.split_once('_')
        .is_some_and(|(pair, _)| pair.ends_with("USD"))
}

fn trade_size(name: &str, number: Decimal) -> Size {
    if is_coin_margined(name) {
        Size::Contracts(number)
    } else {
        Size::Base(number)
    }
}

/// `v` is in base and `q` in quote; for COIN-M, `v` is in contracts and `q` in base.
fn volume(name: &str, v: Option<f64>, q: Option<f64>) -> Volume {
    if is_coin_margined(name) {
        Volume::in_contracts(v, q)
    } else {
        Volume::in_quote(q)
    }
}

/// `of_whole` is how the fields that only the whole ticker has are documented.
fn ticker(event: &[u8], of_whole: Documented) -> Result<VenueEvent<'_>, ParseError> {
    let frame: BinanceTicker<'_> = decode(event)?;
    let mut fields = SideFields::default();
    let change = fields.statistic("P", of_whole, frame.change_percent);
    // The mini ticker has no change; it follows from the price 24 hours ago.
    let open = fields.statistic("o", Documented::Text, frame.o);
    let from_open = || change_percent(open, statistic(Some(&frame.c)));
    Ok(VenueEvent::Ticker(Ticker {
        last: Some(price("c", &frame.c)?),
        last_id: frame.last_id,
        bid: fields.offer("b", of_whole, frame.b),
        ask: fields.offer("a", of_whole, frame.a),
        change_percent: change.or_else(from_open),
        volume: volume(
            &frame.s,
            fields.statistic("v", Documented::Text, frame.v),
            fields.statistic("q", Documented::Text, frame.q),
        ),
        stamp: fields
            .epoch("E", Documented::Number, frame.time)
            .map(Stamp::Sent),
        name: frame.s,
        unexpected: fields.into_unexpected(),
    }))
}

fn book_ticker(event: &[u8]) -> Result<VenueEvent<'_>, ParseError> {
    let frame: BinanceBookTicker<'_> = decode(event)?;
    let mut fields = SideFields::default();
    let time_us = fields.epoch("E", Documented::OptionalNumber, frame.time);
    Ok(VenueEvent::Ticker(Ticker {
        bid: fields.offer("b", Documented::Text, frame.b),
        ask: fields.offer("a", Documented::Text, frame.a),
        stamp: time_us.map(Stamp::Sent),
        name: frame.s,
        unexpected: fields.into_unexpected(),
        ..Ticker::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::venue::{
        VenueKind,
        testing::{self, fault, frames, one},
    };

    const KIND: VenueKind = VenueKind::Binance;

    const TRADE: &str = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1700000000010,"s":"BTCUSDT","t":12345,"p":"61837.64000000","q":"0.00100000","T":1700000000009,"m":true,"M":true}}"#;

    #[test]
    fn trades_keep_their_exact_price() {
        let trade = testing::trade(KIND, TRADE);
        assert_eq!(
            (trade.name.as_ref(), trade.id, trade.side),
            ("BTCUSDT", TradeId::Single(12345), TradeSide::Sell)
        );
        assert!(matches!(trade.name, Cow::Borrowed(_)));
        assert_eq!(trade.price.normalize().to_string(), "61837.64");
        assert_eq!(trade.venue_time_us, Some(1_700_000_000_009_000));
    }

    #[test]
    fn the_kind_of_an_event_may_be_anywhere_in_it() {
        let expected = testing::trade(KIND, TRADE);
        let kind = r#""e":"trade","#;
        for (from, to) in [(kind, r#" "e" : "trade","#), (kind, r#""e":"tr\u0061de","#)] {
            let frame = TRADE.replace(from, to);
            assert_eq!(testing::trade(KIND, &frame), expected, "{frame}");
        }
        let twice = TRADE.replace(kind, r#""e":"trade","e":"trade","#);
        assert_eq!(fault(KIND, &twice), FaultKind::WrongType);
        let last = TRADE.replace(kind, "").replace("}}", r#","e":"trade"}}"#);
        assert_eq!(testing::trade(KIND, &last), expected);
    }

    #[test]
    fn bare_aggregate_and_older_trades_are_parsed() {
        let aggregate = r#"{"e":"aggTrade","E":1,"s":"ETHUSDT","a":7,"p":"1","q":"2","f":1,"l":2,"T":3,"m":false,"M":true}"#;
        let trade = testing::trade(KIND, aggregate);
        assert_eq!(
            (trade.id, trade.side),
            (TradeId::Aggregate(7), TradeSide::Buy)
        );
        // Older trades have the orders' numbers too.
        let older = TRADE.replace(r#""T":"#, r#""b":88,"a":50,"T":"#);
        let trade = testing::trade(KIND, &older);
        assert_eq!(trade.id, TradeId::Single(12345));
    }

    #[test]
    fn tickers_have_their_units() {
        let frame = r#"{"stream":"btcusdt@ticker","data":{"e":"24hrTicker","E":5,"s":"BTCUSDT","p":"1","P":"2.5","w":"1","c":"100.5","Q":"1","b":"100.4","B":"1","a":"100.6","A":"1","o":"98","h":"1","l":"1","v":"10","q":"1005","O":1,"C":5,"F":1,"L":2,"n":2}}"#;
        let ticker = testing::ticker(KIND, frame);
        assert_eq!(
            (ticker.change_percent, ticker.volume.quote, ticker.last_id),
            (Some(2.5), Some(1005.0), Some(2))
        );
        let mini = r#"{"e":"24hrMiniTicker","E":5,"s":"BTCUSDT","c":"110","o":"100","h":"1","l":"1","v":"10","q":"1005"}"#;
        let ticker = testing::ticker(KIND, mini);
        assert!((ticker.change_percent.unwrap() - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_book_ticker_has_offers_and_no_price() {
        let spot = r#"{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1.0","B":"2","a":"1.1","A":"3"}}"#;
        let futures = r#"{"u":1,"e":"bookTicker","s":"BTCUSDT","b":"1.0","B":"2","a":"1.1","A":"3","T":5,"E":5}"#;
        for frame in [spot, futures] {
            let ticker = testing::ticker(KIND, frame);
            assert!(ticker.last.is_none() && ticker.bid.is_some() && ticker.ask.is_some());
        }
    }

    #[test]
    fn responses_and_other_streams_are_distinguished() {
        for (ack, id) in [
            (r#"{"result":null,"id":1}"#, Some(1)),
            (r#"{"result":null,"id":"2"}"#, Some(2)),
            (r#"{"result":null,"id":"a"}"#, None),
        ] {
            assert_eq!(one(KIND, ack), Ok(VenueEvent::Ack(id)));
        }
        for error in [
            r#"{"error":{"code":2,"msg":"x"},"id":1}"#,
            r#"{"code":2,"msg":"Invalid request","id":1}"#,
        ] {
            assert!(matches!(
                one(KIND, error),
                Ok(VenueEvent::Error(refusal)) if refusal.request == Some(1)
            ));
        }
        for ignored in [
            r#"{"stream":"x@depth","data":{"e":"depthUpdate","U":1,"u":2,"b":[["1","2"]],"a":[]}}"#,
            r#"{"lastUpdateId":1,"bids":[],"asks":[]}"#,
            "{}",
        ] {
            assert_eq!(one(KIND, ignored), Ok(VenueEvent::Ignored));
        }
        assert_eq!(
            one(KIND, r#"{"e":"serverShutdown","E":1}"#),
            Ok(VenueEvent::Shutdown)
        );
    }

    #[test]
    fn faults_have_their_kind() {
        assert_eq!(fault(KIND, &TRADE[..80]), FaultKind::Malformed);
        let price = "\"61837.64000000\"";
        assert_eq!(
            fault(KIND, &TRADE.replace(price, "61837.64")),
            FaultKind::WrongType
        );
        assert_eq!(
            fault(KIND, &TRADE.replace("\"t\":12345,", "")),
            FaultKind::WrongType
        );
        for bad in ["0.0", "NaN", "-1", ""] {
            let frame = TRADE.replace(price, &format!("\"{bad}\""));
            assert_eq!(fault(KIND, &frame), FaultKind::BadValue, "{bad}");
        }
        assert_eq!(
            fault(KIND, &TRADE.replace("0.00100000", "0.00000000")),
            FaultKind::BadValue
        );
        assert_eq!(
            fault(KIND, &TRADE.replace(r#""M":true"#, r#""X":"NA""#)),
            FaultKind::BadValue
        );
        assert_eq!(parse(b"\xff{}").unwrap_err().kind, FaultKind::Malformed);
    }

    #[test]
    fn requests_stay_within_their_size() {
        let names: Vec<_> = (0..150).map(|n| format!("C{n}USDT")).collect();
        let requests = frames(KIND, &names);
        assert_eq!(requests.len(), 2);
        assert!(requests[0].contains("\"c0usdt@trade\"") && requests[1].contains("\"id\":2"));
    }
}
