//! Binance spot: `wss://stream.binance.com:9443/stream`.
//!
//! Source: Binance's "WebSocket Streams" documentation. Combined-stream frames wrap
//! the event as `{"stream", "data"}`; bare events are understood too.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use tidewire_proto::v1::TradeSide;

use super::{ParseError, Ticker, Trade, VenueEvent, maybe_positive, number, positive};

/// Streams in one request; a connection carries 1,024.
const STREAMS_A_REQUEST: usize = 200;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    stream: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    id: Option<u64>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    e: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    e: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct TradeFrame<'a> {
    #[serde(borrow)]
    s: Cow<'a, str>,
    /// The trade's id, or an aggregate trade's.
    #[serde(alias = "a")]
    t: u64,
    #[serde(borrow)]
    p: Cow<'a, str>,
    #[serde(borrow)]
    q: Cow<'a, str>,
    #[serde(rename = "T")]
    time: i64,
    /// Whether the buyer was the maker, so that the seller took.
    m: bool,
}

#[derive(Deserialize)]
struct TickerFrame<'a> {
    #[serde(borrow)]
    s: Cow<'a, str>,
    #[serde(borrow)]
    c: Cow<'a, str>,
    #[serde(borrow)]
    o: Cow<'a, str>,
    #[serde(borrow)]
    q: Cow<'a, str>,
    #[serde(rename = "P", borrow)]
    change_percent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    b: Option<Cow<'a, str>>,
    #[serde(borrow)]
    a: Option<Cow<'a, str>>,
    #[serde(rename = "E")]
    time: i64,
}

/// Asks for trades and tickers.
pub(super) fn subscribe(names: &[String]) -> Vec<String> {
    let streams: Vec<_> = names
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .flat_map(|name| [format!("{name}@trade"), format!("{name}@ticker")])
        .collect();
    let requests = streams.chunks(STREAMS_A_REQUEST).enumerate();
    requests
        .map(|(index, params)| {
            serde_json::json!({"method": "SUBSCRIBE", "params": params, "id": index + 1})
                .to_string()
        })
        .collect()
}

/// What a frame says.
pub(super) fn parse<'a>(
    frame: &'a str,
    events: &mut Vec<VenueEvent<'a>>,
) -> Result<(), ParseError> {
    let envelope: Envelope<'a> = serde_json::from_str(frame)?;
    if let Some(error) = envelope.error {
        events.push(VenueEvent::Refused(error.get().to_owned()));
        return Ok(());
    }
    if envelope.id.is_some() {
        events.push(VenueEvent::Accepted);
        return Ok(());
    }
    let (kind, event) = match envelope.data {
        Some(data) => (serde_json::from_str::<Kind<'a>>(data.get())?.e, data.get()),
        None => (envelope.e, frame),
    };
    drop(envelope.stream);
    events.push(match kind.as_deref() {
        Some("trade" | "aggTrade") => trade(event)?,
        Some("24hrTicker" | "24hrMiniTicker") => ticker(event)?,
        Some("serverShutdown") => VenueEvent::Closing,
        // Depth and book tickers are not asked for, and harmless.
        _ => VenueEvent::Nothing,
    });
    Ok(())
}

fn trade(event: &str) -> Result<VenueEvent<'_>, ParseError> {
    let frame: TradeFrame<'_> = serde_json::from_str(event)?;
    Ok(VenueEvent::Trade(Trade {
        id: frame.t,
        price: positive("p", &frame.p)?,
        size: positive("q", &frame.q)?,
        side: if frame.m {
            TradeSide::Sell
        } else {
            TradeSide::Buy
        },
        time_ms: Some(frame.time),
        name: frame.s,
    }))
}

fn ticker(event: &str) -> Result<VenueEvent<'_>, ParseError> {
    let frame: TickerFrame<'_> = serde_json::from_str(event)?;
    let last = positive("c", &frame.c)?;
    // The mini ticker has no change: it follows from the price 24 hours ago.
    let from_open = || {
        let open = number(Some(&frame.o)).filter(|open| *open > 0.0)?;
        number(Some(&frame.c)).map(|last| (last / open - 1.0) * 100.0)
    };
    Ok(VenueEvent::Ticker(Ticker {
        last: Some(last),
        bid: maybe_positive(frame.b.as_deref()),
        ask: maybe_positive(frame.a.as_deref()),
        change_percent: number(frame.change_percent.as_deref()).or_else(from_open),
        volume_quote: number(Some(&frame.q)),
        time_ms: Some(frame.time),
        name: frame.s,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::venue::FaultKind;

    fn one(frame: &str) -> Result<VenueEvent<'_>, ParseError> {
        let mut events = Vec::new();
        parse(frame, &mut events)?;
        assert_eq!(events.len(), 1);
        Ok(events.remove(0))
    }

    const TRADE: &str = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1700000000010,"s":"BTCUSDT","t":12345,"p":"61837.64000000","q":"0.00100000","T":1700000000009,"m":true,"M":true}}"#;

    #[test]
    fn trades_keep_their_exact_price() {
        let Ok(VenueEvent::Trade(trade)) = one(TRADE) else {
            panic!("no trade")
        };
        assert_eq!(
            (trade.name.as_ref(), trade.id, trade.side),
            ("BTCUSDT", 12345, TradeSide::Sell)
        );
        assert_eq!(trade.price.normalize().to_string(), "61837.64");
        assert_eq!(trade.time_ms, Some(1_700_000_000_009));
        let bare = r#"{"e":"aggTrade","E":1,"s":"ETHUSDT","a":7,"p":"1","q":"2","f":1,"l":2,"T":3,"m":false,"M":true}"#;
        assert!(matches!(
            one(bare),
            Ok(VenueEvent::Trade(Trade {
                id: 7,
                side: TradeSide::Buy,
                ..
            }))
        ));
    }

    #[test]
    fn tickers_have_their_units() {
        let frame = r#"{"stream":"btcusdt@ticker","data":{"e":"24hrTicker","E":5,"s":"BTCUSDT","p":"1","P":"2.5","w":"1","c":"100.5","Q":"1","b":"100.4","B":"1","a":"100.6","A":"1","o":"98","h":"1","l":"1","v":"10","q":"1005","O":1,"C":5,"F":1,"L":2,"n":2}}"#;
        let Ok(VenueEvent::Ticker(ticker)) = one(frame) else {
            panic!("no ticker")
        };
        assert_eq!(
            (ticker.change_percent, ticker.volume_quote),
            (Some(2.5), Some(1005.0))
        );
    }

    #[test]
    fn answers_and_other_streams_are_told_apart() {
        assert_eq!(one(r#"{"result":null,"id":1}"#), Ok(VenueEvent::Accepted));
        assert!(matches!(
            one(r#"{"error":{"code":2,"msg":"x"},"id":1}"#),
            Ok(VenueEvent::Refused(_))
        ));
        assert_eq!(
            one(r#"{"stream":"x@depth","data":{"e":"depthUpdate"}}"#),
            Ok(VenueEvent::Nothing)
        );
        assert_eq!(
            one(r#"{"stream":"x@bookTicker","data":{"u":1,"s":"X","b":"1"}}"#),
            Ok(VenueEvent::Nothing)
        );
        assert_eq!(
            one(r#"{"lastUpdateId":1,"bids":[],"asks":[]}"#),
            Ok(VenueEvent::Nothing)
        );
    }

    #[test]
    fn faults_have_their_kind() {
        let kind = |frame: &str| one(frame).unwrap_err().kind;
        assert_eq!(kind(&TRADE[..80]), FaultKind::Malformed);
        assert_eq!(
            kind(&TRADE.replace("\"61837.64000000\"", "61837.64")),
            FaultKind::WrongType
        );
        assert_eq!(
            kind(&TRADE.replace("61837.64000000", "0.0")),
            FaultKind::BadValue
        );
        assert_eq!(
            kind(&TRADE.replace("61837.64000000", "NaN")),
            FaultKind::BadValue
        );
        assert_eq!(
            kind(&TRADE.replace("61837.64000000", "-1")),
            FaultKind::BadValue
        );
    }
}
