//! Coinbase Exchange: `wss://ws-feed.exchange.coinbase.com`.
//!
//! Source: Coinbase's "WebSocket Channels" documentation. Trades are `match`
//! messages; `last_match` repeats an old one, and the ticker a match.

use std::borrow::Cow;

use serde::Deserialize;
use tidewire_proto::v1::TradeSide;

use super::{
    FaultKind, ParseError, Ticker, Trade, VenueEvent, maybe_positive, number, positive, rfc3339_ms,
};

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    product_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    price: Option<Cow<'a, str>>,
    #[serde(borrow)]
    size: Option<Cow<'a, str>>,
    #[serde(borrow)]
    side: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    trade_id: Option<u64>,
    #[serde(borrow)]
    open_24h: Option<Cow<'a, str>>,
    #[serde(borrow)]
    volume_24h: Option<Cow<'a, str>>,
    #[serde(borrow)]
    best_bid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    best_ask: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

/// Asks for trades and tickers, and for heartbeats that keep the connection.
pub(super) fn subscribe(names: &[String]) -> Vec<String> {
    let request = serde_json::json!({
        "type": "subscribe",
        "product_ids": names,
        "channels": ["ticker", "matches", "heartbeat"],
    });
    vec![request.to_string()]
}

/// What a frame says.
pub(super) fn parse<'a>(
    frame: &'a str,
    events: &mut Vec<VenueEvent<'a>>,
) -> Result<(), ParseError> {
    let frame: Frame<'a> = serde_json::from_str(frame)?;
    events.push(match frame.kind.as_ref() {
        "match" => trade(frame)?,
        "ticker" => ticker(frame)?,
        "subscriptions" => VenueEvent::Accepted,
        "error" => VenueEvent::Refused(format!(
            "{} {}",
            frame.message.unwrap_or_default(),
            frame.reason.unwrap_or_default()
        )),
        _ => VenueEvent::Nothing,
    });
    Ok(())
}

fn needed<'a>(field: &str, value: Option<Cow<'a, str>>) -> Result<Cow<'a, str>, ParseError> {
    value.ok_or_else(|| missing(field))
}

fn missing(field: &str) -> ParseError {
    ParseError {
        kind: FaultKind::WrongType,
        detail: format!("`{field}` is missing"),
    }
}

fn trade(frame: Frame<'_>) -> Result<VenueEvent<'_>, ParseError> {
    Ok(VenueEvent::Trade(Trade {
        id: frame.trade_id.ok_or_else(|| missing("trade_id"))?,
        price: positive("price", &needed("price", frame.price)?)?,
        size: positive("size", &needed("size", frame.size)?)?,
        // The side is the maker's: the taker did the opposite.
        side: match frame.side.as_deref() {
            Some("buy") => TradeSide::Sell,
            Some("sell") => TradeSide::Buy,
            _ => TradeSide::Unspecified,
        },
        time_ms: frame.time.as_deref().and_then(rfc3339_ms),
        name: needed("product_id", frame.product_id)?,
    }))
}

fn ticker(frame: Frame<'_>) -> Result<VenueEvent<'_>, ParseError> {
    let text = needed("price", frame.price)?;
    let last = positive("price", &text)?;
    let price = number(Some(&text));
    let open = number(frame.open_24h.as_deref()).filter(|open| *open > 0.0);
    let volume = number(frame.volume_24h.as_deref());
    Ok(VenueEvent::Ticker(Ticker {
        last: Some(last),
        bid: maybe_positive(frame.best_bid.as_deref()),
        ask: maybe_positive(frame.best_ask.as_deref()),
        change_percent: price
            .zip(open)
            .map(|(price, open)| (price / open - 1.0) * 100.0),
        // The volume is in base.
        volume_quote: price.zip(volume).map(|(price, volume)| price * volume),
        time_ms: frame.time.as_deref().and_then(rfc3339_ms),
        name: needed("product_id", frame.product_id)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(frame: &str) -> Result<VenueEvent<'_>, ParseError> {
        let mut events = Vec::new();
        parse(frame, &mut events)?;
        Ok(events.remove(0))
    }

    const MATCH: &str = r#"{"type":"match","trade_id":42,"maker_order_id":"a","taker_order_id":"b","side":"sell","size":"0.5","price":"61838.01","product_id":"BTC-USD","sequence":9,"time":"2024-08-08T23:54:17.102938Z"}"#;

    #[test]
    fn a_match_is_a_trade_of_the_taker() {
        let Ok(VenueEvent::Trade(trade)) = one(MATCH) else {
            panic!("no trade")
        };
        assert_eq!(
            (trade.side, trade.id, trade.time_ms),
            (TradeSide::Buy, 42, Some(1_723_161_257_102))
        );
        assert_eq!(
            one(&MATCH.replace("\"match\"", "\"last_match\"")),
            Ok(VenueEvent::Nothing)
        );
    }

    #[test]
    fn the_ticker_gives_change_and_volume_in_quote() {
        let frame = r#"{"type":"ticker","sequence":1,"product_id":"BTC-USD","price":"110","open_24h":"100","volume_24h":"3","low_24h":"1","high_24h":"2","volume_30d":"4","best_bid":"109.9","best_bid_size":"1","best_ask":"110.1","best_ask_size":"1","side":"buy","time":"2024-08-08T23:54:17.1Z","trade_id":5,"last_size":"1"}"#;
        let Ok(VenueEvent::Ticker(ticker)) = one(frame) else {
            panic!("no ticker")
        };
        assert!((ticker.change_percent.unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(ticker.volume_quote, Some(330.0));
    }

    #[test]
    fn answers_and_faults_are_told_apart() {
        assert_eq!(
            one(r#"{"type":"subscriptions","channels":[]}"#),
            Ok(VenueEvent::Accepted)
        );
        assert!(matches!(
            one(r#"{"type":"error","message":"no","reason":"x"}"#),
            Ok(VenueEvent::Refused(_))
        ));
        assert_eq!(
            one(&MATCH.replace("\"61838.01\"", "61838.01"))
                .unwrap_err()
                .kind,
            FaultKind::WrongType
        );
        assert_eq!(
            one(&MATCH.replace("\"price\"", "\"cost\""))
                .unwrap_err()
                .kind,
            FaultKind::WrongType
        );
        assert_eq!(one("[]").unwrap_err().kind, FaultKind::WrongType);
        assert_eq!(one("{").unwrap_err().kind, FaultKind::Malformed);
    }
}
