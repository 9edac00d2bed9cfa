//! Coinbase Advanced Trade: parser and requests of `wss://advanced-trade-ws.coinbase.com`.
//!
//! Source: Coinbase's "Advanced Trade WebSocket" documentation. A frame holds events of one
//! channel, and each event holds entries. The first event of `market_trades` is a snapshot of old
//! trades; in later ones the newest trade comes first. The market is that of
//! [`coinbase`](super::coinbase), so using both counts it twice.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use smallvec::smallvec;
use tidewire_proto::v1::TradeSide;

use super::{
    Events, Limits, ParseError, Size, Stamp, Ticker, Trade, TradeId, VenueEvent, Volume, coinbase,
    field::{Text, decode, entries, integer, price, refusal, size},
    side_fields::{Documented, RawField, SideFields},
    subscribe::{Channel, Markets},
};
use crate::Symbol;

pub(super) const URL: &str = "wss://advanced-trade-ws.coinbase.com";

/// Eight messages a second, as at Coinbase Exchange.
pub(super) const LIMITS: Limits = coinbase::LIMITS;

/// The venue's name of a symbol, as at Coinbase Exchange. Products in USDC are left out, because
/// they carry the data of the product in dollars.
pub(super) fn venue_name(symbol: &Symbol) -> Option<String> {
    coinbase::venue_name(symbol)
}

/// Each channel has a request with all markets. Without heartbeats, quiet channels are closed.
pub(super) const CHANNELS: [Channel; 3] = [
    Channel {
        name: "heartbeats",
        markets: Markets::None,
    },
    Channel {
        name: "ticker",
        markets: Markets::All,
    },
    Channel {
        name: "market_trades",
        markets: Markets::All,
    },
];

/// Subscribes to a channel.
pub(super) fn subscribe(channel: &str, names: &[String]) -> Value {
    if names.is_empty() {
        return json!({"type": "subscribe", "channel": channel});
    }
    json!({"type": "subscribe", "product_ids": names, "channel": channel})
}

#[derive(Deserialize)]
struct AdvancedFrame<'a> {
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow)]
    timestamp: RawField<'a>,
    #[serde(borrow, default)]
    events: Vec<&'a RawValue>,
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct AdvancedEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    tickers: Option<&'a RawValue>,
    #[serde(borrow)]
    trades: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AdvancedTrade<'a> {
    #[serde(borrow)]
    trade_id: Cow<'a, str>,
    #[serde(borrow)]
    product_id: Cow<'a, str>,
    #[serde(borrow)]
    price: Cow<'a, str>,
    #[serde(borrow)]
    size: Cow<'a, str>,
    #[serde(borrow)]
    time: RawField<'a>,
}

#[derive(Deserialize)]
struct AdvancedTicker<'a> {
    #[serde(borrow)]
    product_id: Cow<'a, str>,
    #[serde(borrow)]
    price: Cow<'a, str>,
    #[serde(borrow)]
    volume_24_h: RawField<'a>,
    #[serde(borrow)]
    price_percent_chg_24_h: RawField<'a>,
    #[serde(borrow)]
    best_bid: RawField<'a>,
    #[serde(borrow)]
    best_ask: RawField<'a>,
}

/// Parses a frame.
pub(super) fn parse(frame: &[u8]) -> Result<Events<'_>, ParseError> {
    let frame: AdvancedFrame<'_> = decode(frame)?;
    match frame.channel.as_deref() {
        Some("market_trades") => trades(&frame.events),
        Some("ticker") => tickers(&frame.events, frame.timestamp),
        Some("heartbeats") => Ok(smallvec![VenueEvent::Heartbeat]),
        Some("subscriptions") => Ok(smallvec![VenueEvent::Ack(None)]),
        None if frame.kind.as_deref() == Some("error") => {
            Ok(smallvec![refusal(None, [frame.message.as_deref()])])
        }
        _ => Ok(smallvec![VenueEvent::Ignored]),
    }
}

fn trades<'a>(events: &[&'a RawValue]) -> Result<Events<'a>, ParseError> {
    let mut all = Events::new();
    for event in events {
        let event: AdvancedEvent<'a> = serde_json::from_str(event.get())?;
        // A snapshot holds old trades.
        if event.kind.as_deref() != Some("update") {
            all.push(VenueEvent::Ignored);
        } else if let Some(trades) = event.trades {
            all.extend(entries(trades, trade)?.into_iter().rev());
        }
    }
    Ok(all)
}

fn tickers<'a>(events: &[&'a RawValue], timestamp: RawField<'_>) -> Result<Events<'a>, ParseError> {
    let mut all = Events::new();
    for event in events {
        let event: AdvancedEvent<'a> = serde_json::from_str(event.get())?;
        if let Some(tickers) = event.tickers {
            all.extend(entries(tickers, |entry| ticker(entry, timestamp))?);
        }
    }
    Ok(all)
}

fn trade(entry: &str) -> Result<VenueEvent<'_>, ParseError> {
    let frame: AdvancedTrade<'_> = serde_json::from_str(entry)?;
    let mut fields = SideFields::default();
    Ok(VenueEvent::Trade(Trade {
        id: TradeId::Single(integer("trade_id", &frame.trade_id)?),
        price: price("price", &frame.price)?,
        size: Size::Base(size("size", &frame.size)?),
        // The documentation does not define whose side `side` is.
        side: TradeSide::Unspecified,
        venue_time_us: fields.rfc3339("time", Documented::Text, frame.time),
        name: frame.product_id,
        unexpected: fields.into_unexpected(),
    }))
}

fn ticker<'a>(entry: &'a str, timestamp: RawField<'_>) -> Result<VenueEvent<'a>, ParseError> {
    let frame: AdvancedTicker<'_> = serde_json::from_str(entry)?;
    let mut fields = SideFields::default();
    let (change, volume) = (frame.price_percent_chg_24_h, frame.volume_24_h);
    Ok(VenueEvent::Ticker(Ticker {
        last: Some(price("price", &frame.price)?),
        last_id: None,
        bid: fields.offer("best_bid", Documented::Text, frame.best_bid),
        ask: fields.offer("best_ask", Documented::Text, frame.best_ask),
        change_percent: fields.statistic("price_percent_chg_24_h", Documented::Text, change),
        volume: Volume::in_base(fields.statistic("volume_24_h", Documented::Text, volume)),
        stamp: fields
            .rfc3339("timestamp", Documented::Text, timestamp)
            .map(Stamp::Sent),
        name: frame.product_id,
        unexpected: fields.into_unexpected(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::venue::{
        FaultKind, VenueKind,
        testing::{all, frames},
    };

    const KIND: VenueKind = VenueKind::CoinbaseAdvanced;

    const TRADES: &str = r#"{"channel":"market_trades","client_id":"","timestamp":"2026-11-22T10:00:00.123456789Z","sequence_num":7,"events":[{"type":"update","trades":[{"trade_id":"1001","product_id":"BTC-USD","price":"61838.02","size":"0.5","side":"BUY","time":"2026-11-22T10:00:00.100001Z"},{"trade_id":"1000","product_id":"BTC-USD","price":"61838.01","size":"0.25","side":"SELL","time":"2026-11-22T10:00:00.1Z"}]}]}"#;
    const TICKER: &str = r#"{"channel":"ticker","client_id":"","timestamp":"2026-11-22T10:00:00.123456789Z","sequence_num":0,"events":[{"type":"snapshot","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"100","volume_24_h":"20","low_24_h":"1","high_24_h":"2","low_52_w":"1","high_52_w":"2","price_percent_chg_24_h":"-2.5","best_bid":"99.5","best_bid_quantity":"1","best_ask":"100.5","best_ask_quantity":"1"}]}]}"#;

    #[test]
    fn trades_are_sorted_oldest_first_and_snapshots_ignored() {
        let trades = all(KIND, TRADES);
        let [VenueEvent::Trade(older), VenueEvent::Trade(newer)] = &trades[..] else {
            panic!("{trades:?}")
        };
        assert_eq!(
            (older.id, newer.id),
            (TradeId::Single(1000), TradeId::Single(1001))
        );
        assert_eq!(older.price.to_string(), "61838.01");
        assert_eq!(newer.venue_time_us, Some(1_795_341_600_100_001));
        let snapshot = TRADES.replace("\"update\"", "\"snapshot\"");
        assert_eq!(all(KIND, &snapshot), [VenueEvent::Ignored]);
    }

    #[test]
    fn tickers_have_their_units() {
        let tickers = all(KIND, TICKER);
        let [VenueEvent::Ticker(ticker)] = &tickers[..] else {
            panic!("{tickers:?}")
        };
        assert_eq!(
            (ticker.change_percent, ticker.volume),
            (Some(-2.5), Volume::in_base(Some(20.0)))
        );
        assert_eq!(ticker.stamp, Some(Stamp::Sent(1_795_341_600_123_456)));
    }

    #[test]
    fn responses_and_faults_are_parsed() {
        let ack = r#"{"channel":"subscriptions","client_id":"","timestamp":"2026-11-22T10:00:00Z","sequence_num":1,"events":[{"subscriptions":{"ticker":["BTC-USD"]}}]}"#;
        assert_eq!(all(KIND, ack), [VenueEvent::Ack(None)]);
        let heartbeat = r#"{"channel":"heartbeats","client_id":"","timestamp":"2026-11-22T10:00:00Z","sequence_num":1,"events":[{"current_time":"x","heartbeat_counter":3049}]}"#;
        assert_eq!(all(KIND, heartbeat), [VenueEvent::Heartbeat]);
        let error = r#"{"type":"error","message":"no such channel"}"#;
        assert_eq!(all(KIND, error), [refusal(None, [Some("no such channel")])]);
        // One bad entry does not discard the other.
        let bad = TRADES.replace("\"61838.02\"", "\"0\"");
        assert!(matches!(
            &all(KIND, &bad)[..],
            [VenueEvent::Trade(_), VenueEvent::Fault(fault)] if fault.kind == FaultKind::BadValue
        ));
        assert_eq!(
            parse(&TRADES.as_bytes()[..90]).unwrap_err().kind,
            FaultKind::Malformed
        );
    }

    #[test]
    fn products_in_usdc_are_left_out() {
        let name = |symbol| venue_name(&Symbol::parse(symbol).unwrap());
        assert_eq!(name("BTC-USDC"), None);
        assert_eq!(name("BTC-USD").as_deref(), Some("BTC-USD"));
        assert_eq!(frames(KIND, &["BTC-USD".to_owned()]).len(), 3);
    }
}
