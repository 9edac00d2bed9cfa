//! Bitstamp, version 2: parser and requests of `wss://ws.bitstamp.net`.
//!
//! Source: Bitstamp's "WebSocket API" documentation. Each symbol has a channel of trades; there are
//! no tickers. Trade numbers rise with holes.

use std::{borrow::Cow, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use smallvec::smallvec;
use tidewire_proto::v1::TradeSide;

use super::{
    Events, FaultKind, KeepAlive, Limits, ParseError, Size, Trade, TradeId, VenueEvent,
    field::{Text, decode, price, refusal, size},
    side_fields::{Documented, RawField, SideFields},
    subscribe::{Channel, Markets},
};
use crate::Symbol;

pub(super) const URL: &str = "wss://ws.bitstamp.net";

pub(super) const LIMITS: Limits = Limits {
    request_spacing: Duration::from_millis(50),
    symbols: Some(200),
    ..Limits::NONE
};

pub(super) const KEEP_ALIVE: KeepAlive = KeepAlive {
    interval: Duration::from_secs(30),
    frame: r#"{"event":"bts:heartbeat"}"#,
};

/// The prefix of trade channels.
const TRADES: &str = "live_trades_";

/// The venue's name of a symbol, if Bitstamp trades in its quote currency.
pub(super) fn venue_name(symbol: &Symbol) -> Option<String> {
    let name = || format!("{}{}", symbol.base(), symbol.quote()).to_ascii_lowercase();
    matches!(
        symbol.quote(),
        "USD" | "EUR" | "GBP" | "BTC" | "USDT" | "USDC"
    )
    .then(name)
}

/// Each market is a channel, with a request of its own.
pub(super) const CHANNELS: [Channel; 1] = [Channel {
    name: "",
    markets: Markets::AtMost(1),
}];

/// Subscribes to trades of one market.
pub(super) fn subscribe(names: &[String]) -> Value {
    let name = names.first().map(String::as_str).unwrap_or_default();
    json!({"event": "bts:subscribe", "data": {"channel": format!("{TRADES}{name}")}})
}

#[derive(Deserialize)]
struct BitstampFrame<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BitstampTrade<'a> {
    id: u64,
    #[serde(borrow)]
    amount_str: Cow<'a, str>,
    #[serde(borrow)]
    price_str: Cow<'a, str>,
    /// 0 if the taker bought, 1 if it sold.
    #[serde(rename = "type", borrow)]
    side: RawField<'a>,
    #[serde(borrow)]
    microtimestamp: RawField<'a>,
}

#[derive(Deserialize)]
struct BitstampError<'a> {
    #[serde(borrow)]
    message: Option<Text<'a>>,
}

/// Parses a frame.
pub(super) fn parse(frame: &[u8]) -> Result<Events<'_>, ParseError> {
    let frame: BitstampFrame<'_> = decode(frame)?;
    let event = match frame.event.as_ref() {
        "trade" => trade(&frame)?,
        "bts:subscription_succeeded" => VenueEvent::Ack(None),
        "bts:heartbeat" => VenueEvent::Heartbeat,
        "bts:request_reconnect" => VenueEvent::Shutdown,
        "bts:error" => {
            let data = frame.data.map_or("{}", RawValue::get);
            let error: BitstampError<'_> = serde_json::from_str(data)?;
            refusal(None, [error.message.as_deref()])
        }
        _ => VenueEvent::Ignored,
    };
    Ok(smallvec![event])
}

fn trade<'a>(frame: &BitstampFrame<'a>) -> Result<VenueEvent<'a>, ParseError> {
    let wrong = |detail: &str| ParseError {
        kind: FaultKind::WrongType,
        detail: detail.to_owned(),
    };
    let channel = frame
        .channel
        .as_ref()
        .ok_or_else(|| wrong("`channel` is missing"))?;
    let name = match &channel.0 {
        Cow::Borrowed(channel) => channel.strip_prefix(TRADES).map(Cow::Borrowed),
        Cow::Owned(channel) => channel
            .strip_prefix(TRADES)
            .map(|name| Cow::Owned(name.to_owned())),
    };
    let Some(name) = name else {
        return Ok(VenueEvent::Ignored);
    };
    let data = frame.data.ok_or_else(|| wrong("`data` is missing"))?;
    let trade: BitstampTrade<'_> = serde_json::from_str(data.get())?;
    let mut fields = SideFields::default();
    Ok(VenueEvent::Trade(Trade {
        name,
        id: TradeId::Sparse(trade.id),
        price: price("price_str", &trade.price_str)?,
        size: Size::Base(size("amount_str", &trade.amount_str)?),
        side: match fields.integer("type", Documented::Number, trade.side) {
            Some(0) => TradeSide::Buy,
            Some(1) => TradeSide::Sell,
            _ => TradeSide::Unspecified,
        },
        venue_time_us: fields.epoch("microtimestamp", Documented::Text, trade.microtimestamp),
        unexpected: fields.into_unexpected(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::venue::{
        VenueKind,
        testing::{self, fault, one},
    };

    const KIND: VenueKind = VenueKind::Bitstamp;

    const TRADE: &str = r#"{"data":{"id":215999911,"timestamp":"1641343691","amount":0.07920001,"amount_str":"0.07920001","price":3805.4,"price_str":"3805.40","type":1,"microtimestamp":"1641343691596001","buy_order_id":1,"sell_order_id":2},"channel":"live_trades_ethusd","event":"trade"}"#;

    #[test]
    fn a_trade_is_parsed_from_its_texts() {
        let trade = testing::trade(KIND, TRADE);
        assert_eq!(
            (trade.name.as_ref(), trade.id),
            ("ethusd", TradeId::Sparse(215_999_911))
        );
        assert!(matches!(trade.name, Cow::Borrowed(_)));
        assert_eq!(trade.size.number().to_string(), "0.07920001");
        assert_eq!(trade.side, TradeSide::Sell);
        assert_eq!(trade.venue_time_us, Some(1_641_343_691_596_001));
    }

    #[test]
    fn responses_and_faults_are_parsed() {
        let ack =
            r#"{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}"#;
        assert_eq!(one(KIND, ack), Ok(VenueEvent::Ack(None)));
        let error = r#"{"event":"bts:error","channel":"","data":{"code":4003,"message":"Bad subscription string."}}"#;
        assert_eq!(
            one(KIND, error),
            Ok(refusal(None, [Some("Bad subscription string.")]))
        );
        let heartbeat = r#"{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}"#;
        assert_eq!(one(KIND, heartbeat), Ok(VenueEvent::Heartbeat));
        let reconnect = r#"{"event":"bts:request_reconnect","channel":"","data":""}"#;
        assert_eq!(one(KIND, reconnect), Ok(VenueEvent::Shutdown));
        assert_eq!(
            fault(KIND, &TRADE.replace("\"3805.40\"", "3805.40")),
            FaultKind::WrongType
        );
        assert_eq!(
            fault(KIND, &TRADE.replace("\"3805.40\"", "\"0\"")),
            FaultKind::BadValue
        );
        assert_eq!(
            fault(KIND, &TRADE.replace("215999911", "\"215999911\"")),
            FaultKind::WrongType
        );
        assert_eq!(fault(KIND, &TRADE[..99]), FaultKind::Malformed);
        let orders = TRADE.replace("live_trades_", "live_orders_");
        assert_eq!(one(KIND, &orders), Ok(VenueEvent::Ignored));
    }
}
