//! Coinbase Exchange: parser and requests of `wss://ws-feed.exchange.coinbase.com`.
//!
//! Source: Coinbase's "WebSocket Channels" documentation. Trades are `match` messages; `last_match`
//! repeats an old one. A ticker has the price and the number of the last match.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use smallvec::smallvec;
use tidewire_proto::v1::TradeSide;

use super::{
    Events, Limits, ParseError, Size, Stamp, Ticker, Trade, TradeId, VenueEvent, Volume,
    field::{Text, change_percent, decode, missing, price, refusal, size, statistic},
    side_fields::{Documented, RawField, SideFields},
    subscribe::{Channel, Markets},
};
use crate::Symbol;

pub(super) const URL: &str = "wss://ws-feed.exchange.coinbase.com";

/// Coinbase allows eight requests a second.
pub(super) const LIMITS: Limits = Limits {
    request_spacing: Duration::from_millis(150),
    ..Limits::NONE
};

/// The venue's name of a symbol, if Coinbase trades in its quote currency.
pub(super) fn venue_name(symbol: &Symbol) -> Option<String> {
    matches!(symbol.quote(), "USD" | "USDT" | "EUR" | "GBP" | "BTC")
        .then(|| symbol.as_str().to_owned())
}

/// One request has all markets.
pub(super) const CHANNELS: [Channel; 1] = [Channel {
    name: "",
    markets: Markets::All,
}];

/// Subscribes to trades and tickers, and to heartbeats, which keep the connection open.
pub(super) fn subscribe(names: &[String]) -> Value {
    json!({
        "type": "subscribe",
        "product_ids": names,
        "channels": ["ticker", "matches", "heartbeat"],
    })
}

#[derive(Deserialize)]
struct CoinbaseFrame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    product_id: Option<Text<'a>>,
    #[serde(borrow)]
    price: Option<Text<'a>>,
    #[serde(borrow)]
    size: Option<Text<'a>>,
    #[serde(borrow)]
    side: RawField<'a>,
    #[serde(borrow)]
    time: RawField<'a>,
    trade_id: Option<u64>,
    #[serde(borrow)]
    open_24h: RawField<'a>,
    #[serde(borrow)]
    volume_24h: RawField<'a>,
    #[serde(borrow)]
    best_bid: RawField<'a>,
    #[serde(borrow)]
    best_ask: RawField<'a>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
}

/// Parses a frame.
pub(super) fn parse(frame: &[u8]) -> Result<Events<'_>, ParseError> {
    let frame: CoinbaseFrame<'_> = decode(frame)?;
    let event = match &*frame.kind {
        "match" => trade(frame)?,
        "ticker" => ticker(frame)?,
        "heartbeat" => VenueEvent::Heartbeat,
        "subscriptions" => VenueEvent::Ack(None),
        "error" => refusal(None, [frame.message.as_deref(), frame.reason.as_deref()]),
        _ => VenueEvent::Ignored,
    };
    Ok(smallvec![event])
}

fn needed<'a>(field: &str, value: Option<Text<'a>>) -> Result<Text<'a>, ParseError> {
    value.ok_or_else(|| missing(field))
}

fn trade(frame: CoinbaseFrame<'_>) -> Result<VenueEvent<'_>, ParseError> {
    let id = frame.trade_id.ok_or_else(|| missing("trade_id"))?;
    let mut fields = SideFields::default();
    Ok(VenueEvent::Trade(Trade {
        id: TradeId::Single(id),
        price: price("price", &needed("price", frame.price)?)?,
        size: Size::Base(size("size", &needed("size", frame.size)?)?),
        // The side is the maker's, so the taker's is the opposite.
        side: match fields.side("side", frame.side) {
            TradeSide::Buy => TradeSide::Sell,
            TradeSide::Sell => TradeSide::Buy,
            TradeSide::Unspecified => TradeSide::Unspecified,
        },
        venue_time_us: fields.rfc3339("time", Documented::Text, frame.time),
        name: needed("product_id", frame.product_id)?.0,
        unexpected: fields.into_unexpected(),
    }))
}

fn ticker(frame: CoinbaseFrame<'_>) -> Result<VenueEvent<'_>, ParseError> {
    let last = needed("price", frame.price)?;
    let number = statistic(Some(&last));
    let mut fields = SideFields::default();
    let open = fields.statistic("open_24h", Documented::Text, frame.open_24h);
    Ok(VenueEvent::Ticker(Ticker {
        last: Some(price("price", &last)?),
        last_id: frame.trade_id,
        bid: fields.offer("best_bid", Documented::Text, frame.best_bid),
        ask: fields.offer("best_ask", Documented::Text, frame.best_ask),
        change_percent: change_percent(open, number),
        volume: Volume::in_base(fields.statistic("volume_24h", Documented::Text, frame.volume_24h)),
        // The time of the last match.
        stamp: fields
            .rfc3339("time", Documented::Text, frame.time)
            .map(Stamp::Formed),
        name: needed("product_id", frame.product_id)?.0,
        unexpected: fields.into_unexpected(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::venue::{
        FaultKind, VenueKind,
        testing::{self, fault, one},
    };

    const KIND: VenueKind = VenueKind::Coinbase;

    const MATCH: &str = r#"{"type":"match","trade_id":42,"maker_order_id":"a","taker_order_id":"b","side":"sell","size":"0.5","price":"61838.01","product_id":"BTC-USD","sequence":9,"time":"2024-08-08T23:54:17.102938Z"}"#;

    #[test]
    fn a_match_is_a_trade_of_the_taker() {
        let trade = testing::trade(KIND, MATCH);
        assert_eq!(
            (trade.side, trade.id),
            (TradeSide::Buy, TradeId::Single(42))
        );
        assert_eq!(trade.venue_time_us, Some(1_723_161_257_102_938));
        assert_eq!(
            one(KIND, &MATCH.replace("\"match\"", "\"last_match\"")),
            Ok(VenueEvent::Ignored)
        );
    }

    #[test]
    fn the_ticker_gives_change_and_volume() {
        let frame = r#"{"type":"ticker","sequence":1,"product_id":"BTC-USD","price":"110","open_24h":"100","volume_24h":"3","low_24h":"1","high_24h":"2","volume_30d":"4","best_bid":"109.9","best_bid_size":"1","best_ask":"110.1","best_ask_size":"1","side":"buy","time":"2024-08-08T23:54:17.1Z","trade_id":5,"last_size":"1"}"#;
        let ticker = testing::ticker(KIND, frame);
        assert!((ticker.change_percent.unwrap() - 10.0).abs() < 1e-9);
        assert_eq!((ticker.volume.base, ticker.last_id), (Some(3.0), Some(5)));
    }

    #[test]
    fn responses_and_faults_are_distinguished() {
        assert_eq!(
            one(KIND, r#"{"type":"subscriptions","channels":[]}"#),
            Ok(VenueEvent::Ack(None))
        );
        let heartbeat = r#"{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD","time":"2014-11-07T08:19:28.464459Z"}"#;
        assert_eq!(one(KIND, heartbeat), Ok(VenueEvent::Heartbeat));
        assert_eq!(
            fault(KIND, &MATCH.replace("\"61838.01\"", "61838.01")),
            FaultKind::WrongType
        );
        assert_eq!(
            fault(KIND, &MATCH.replace("\"price\"", "\"cost\"")),
            FaultKind::WrongType
        );
        assert_eq!(fault(KIND, "[]"), FaultKind::WrongType);
        assert_eq!(fault(KIND, "{"), FaultKind::Malformed);
    }

    #[test]
    fn a_refusal_names_the_product() {
        let refused = one(
            KIND,
            r#"{"type":"error","message":"Failed to subscribe","reason":"FOO-USD is not a valid product"}"#,
        );
        let reason = "Failed to subscribe: FOO-USD is not a valid product";
        assert_eq!(refused, Ok(refusal(None, [Some(reason)])));
    }
}
