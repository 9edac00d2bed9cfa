//! Kraken, version 2: `wss://ws.kraken.com/v2`.
//!
//! Source: Kraken's "WebSocket API v2" documentation. Numbers are JSON numbers and
//! are taken from their text.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use tidewire_proto::v1::TradeSide;

use super::{ParseError, Ticker, Trade, VenueEvent, maybe_positive, number, positive, rfc3339_ms};

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    success: Option<bool>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct TradeFrame<'a> {
    #[serde(borrow)]
    symbol: Cow<'a, str>,
    #[serde(borrow)]
    side: Cow<'a, str>,
    #[serde(borrow)]
    price: Number<'a>,
    #[serde(borrow)]
    qty: Number<'a>,
    trade_id: u64,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
}

#[derive(Deserialize)]
struct TickerFrame<'a> {
    #[serde(borrow)]
    symbol: Cow<'a, str>,
    #[serde(borrow)]
    last: Number<'a>,
    #[serde(borrow)]
    bid: Option<Number<'a>>,
    #[serde(borrow)]
    ask: Option<Number<'a>>,
    #[serde(borrow)]
    volume: Option<Number<'a>>,
    #[serde(borrow)]
    vwap: Option<Number<'a>>,
    #[serde(borrow)]
    change_pct: Option<Number<'a>>,
    #[serde(borrow)]
    timestamp: Option<Cow<'a, str>>,
}

/// The text of a JSON number.
struct Number<'a>(&'a str);

impl<'de: 'a, 'a> Deserialize<'de> for Number<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return Ok(Self(text));
        }
        Err(serde::de::Error::custom(format_args!(
            "expected a number, found {text}"
        )))
    }
}

/// Asks for trades and tickers.
pub(super) fn subscribe(names: &[String]) -> Vec<String> {
    let request = |channel: &str, id: u32, extra: (&str, serde_json::Value)| {
        let mut params = serde_json::json!({"channel": channel, "symbol": names, "snapshot": channel == "ticker"});
        params[extra.0] = extra.1;
        serde_json::json!({"method": "subscribe", "params": params, "req_id": id}).to_string()
    };
    vec![
        request("ticker", 1, ("event_trigger", "trades".into())),
        request("trade", 2, ("snapshot", false.into())),
    ]
}

/// What a frame says.
pub(super) fn parse<'a>(
    frame: &'a str,
    events: &mut Vec<VenueEvent<'a>>,
) -> Result<(), ParseError> {
    let frame: Frame<'a> = serde_json::from_str(frame)?;
    if frame.method.as_deref() == Some("subscribe") {
        events.push(match frame.success {
            Some(true) => VenueEvent::Accepted,
            _ => VenueEvent::Refused(frame.error.unwrap_or_default().into_owned()),
        });
        return Ok(());
    }
    match (frame.channel.as_deref(), frame.kind.as_deref(), frame.data) {
        // A snapshot of trades is history.
        (Some("trade"), Some("update"), Some(data)) => {
            for trade in serde_json::from_str::<Vec<TradeFrame<'a>>>(data.get())? {
                events.push(self::trade(trade)?);
            }
        }
        (Some("ticker"), _, Some(data)) => {
            for ticker in serde_json::from_str::<Vec<TickerFrame<'a>>>(data.get())? {
                events.push(self::ticker(ticker)?);
            }
        }
        _ => events.push(VenueEvent::Nothing),
    }
    Ok(())
}

fn trade(frame: TradeFrame<'_>) -> Result<VenueEvent<'_>, ParseError> {
    Ok(VenueEvent::Trade(Trade {
        id: frame.trade_id,
        price: positive("price", frame.price.0)?,
        size: positive("qty", frame.qty.0)?,
        side: match frame.side.as_ref() {
            "buy" => TradeSide::Buy,
            "sell" => TradeSide::Sell,
            _ => TradeSide::Unspecified,
        },
        time_ms: rfc3339_ms(&frame.timestamp),
        name: frame.symbol,
    }))
}

fn ticker(frame: TickerFrame<'_>) -> Result<VenueEvent<'_>, ParseError> {
    let text = |number: &Option<Number<'_>>| number.as_ref().map(|number| number.0.to_owned());
    let stat = |value: &Option<Number<'_>>| number(text(value).as_deref());
    Ok(VenueEvent::Ticker(Ticker {
        last: Some(positive("last", frame.last.0)?),
        bid: maybe_positive(text(&frame.bid).as_deref()),
        ask: maybe_positive(text(&frame.ask).as_deref()),
        change_percent: stat(&frame.change_pct),
        // The volume is in base, and traded at the average price.
        volume_quote: stat(&frame.volume)
            .zip(stat(&frame.vwap))
            .map(|(volume, vwap)| volume * vwap),
        time_ms: frame.timestamp.as_deref().and_then(rfc3339_ms),
        name: frame.symbol,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::venue::FaultKind;

    fn all(frame: &str) -> Result<Vec<VenueEvent<'_>>, ParseError> {
        let mut events = Vec::new();
        parse(frame, &mut events)?;
        Ok(events)
    }

    const TRADES: &str = r#"{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":61838.10,"qty":0.00012345678901,"ord_type":"market","trade_id":7,"timestamp":"2024-08-08T23:54:17.102938Z"},{"symbol":"BTC/USD","side":"buy","price":61838.2,"qty":1,"ord_type":"limit","trade_id":8,"timestamp":"2024-08-08T23:54:17.2Z"}]}"#;

    #[test]
    fn numbers_are_taken_from_their_text() {
        let events = all(TRADES).unwrap();
        let [VenueEvent::Trade(first), VenueEvent::Trade(second)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(first.size.to_string(), "0.00012345678901");
        assert_eq!((second.id, second.side), (8, TradeSide::Buy));
        assert_eq!(
            all(&TRADES.replace("\"update\"", "\"snapshot\"")).unwrap(),
            [VenueEvent::Nothing]
        );
    }

    #[test]
    fn the_ticker_gives_change_and_volume_in_quote() {
        let frame = r#"{"channel":"ticker","type":"snapshot","data":[{"symbol":"BTC/USD","bid":1.0,"bid_qty":1,"ask":1.2,"ask_qty":1,"last":1.1,"volume":10,"vwap":2,"low":1,"high":3,"change":0.1,"change_pct":-1.5}]}"#;
        let events = all(frame).unwrap();
        let [VenueEvent::Ticker(ticker)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(
            (ticker.change_percent, ticker.volume_quote),
            (Some(-1.5), Some(20.0))
        );
    }

    #[test]
    fn answers_and_faults_are_told_apart() {
        assert_eq!(
            all(r#"{"method":"subscribe","result":{},"success":true}"#).unwrap(),
            [VenueEvent::Accepted]
        );
        let refused =
            all(r#"{"method":"subscribe","success":false,"error":"Currency pair not supported"}"#);
        assert!(matches!(refused.unwrap()[..], [VenueEvent::Refused(_)]));
        assert_eq!(
            all(r#"{"channel":"heartbeat"}"#).unwrap(),
            [VenueEvent::Nothing]
        );
        assert_eq!(
            all(&TRADES.replace("61838.10", "\"61838.10\""))
                .unwrap_err()
                .kind,
            FaultKind::WrongType
        );
        assert_eq!(
            all(&TRADES.replace("61838.10", "-1")).unwrap_err().kind,
            FaultKind::BadValue
        );
    }
}
