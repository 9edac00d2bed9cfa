//! OKX, version 5: parser and requests of `wss://ws.okx.com:8443/ws/v5/public`.
//!
//! Source: OKX's "API guide", WebSocket, public data. All values are texts. A trade may stand for
//! several (`count`), and has the number of the last. Instruments are of the spot market unless the
//! operator names others (`ids`); swaps and futures count in contracts.

use std::{borrow::Cow, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use smallvec::smallvec;

use super::{
    Events, KeepAlive, Limits, ParseError, Size, Stamp, Ticker, Trade, TradeId, VenueEvent, Volume,
    field::{
        Text, change_percent, decode, entries, integer, price, refusal, request_id, size, statistic,
    },
    side_fields::{Documented, RawField, SideFields},
    subscribe::{Channel, Markets},
};
use crate::Symbol;

pub(super) const URL: &str = "wss://ws.okx.com:8443/ws/v5/public";

/// OKX allows three connections a second, and 480 requests an hour on each.
pub(super) const LIMITS: Limits = Limits {
    request_spacing: Duration::from_millis(200),
    connect_spacing: Duration::from_millis(400),
    symbols: Some(240),
    connections: 20,
};

/// OKX closes a connection after 30 seconds without a frame.
pub(super) const KEEP_ALIVE: KeepAlive = KeepAlive {
    interval: Duration::from_secs(20),
    frame: "ping",
};

/// Fifty markets are a hundred channels. Requests stay short.
pub(super) const CHANNELS: [Channel; 1] = [Channel {
    name: "",
    markets: Markets::AtMost(50),
}];

/// The venue's name of a symbol, if OKX trades in its quote currency.
pub(super) fn venue_name(symbol: &Symbol) -> Option<String> {
    matches!(symbol.quote(), "USDT" | "USDC" | "EUR" | "BTC" | "ETH")
        .then(|| symbol.as_str().to_owned())
}

/// Subscribes to trades and tickers.
pub(super) fn subscribe(names: &[String], id: u64) -> Value {
    let channels: Vec<_> = names
        .iter()
        .flat_map(|name| ["tickers", "trades"].map(|channel| (channel, name)))
        .map(|(channel, name)| json!({"channel": channel, "instId": name}))
        .collect();
    json!({"id": id.to_string(), "op": "subscribe", "args": channels})
}

#[derive(Deserialize)]
struct OkxFrame<'a> {
    #[serde(borrow)]
    arg: Option<OkxArgument<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<Text<'a>>,
    #[serde(borrow)]
    code: Option<Text<'a>>,
    #[serde(borrow)]
    msg: Option<Text<'a>>,
    #[serde(borrow)]
    id: RawField<'a>,
}

#[derive(Deserialize)]
struct OkxArgument<'a> {
    #[serde(borrow)]
    channel: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OkxTrade<'a> {
    #[serde(borrow)]
    inst_id: Cow<'a, str>,
    #[serde(borrow)]
    trade_id: Cow<'a, str>,
    #[serde(borrow)]
    px: Cow<'a, str>,
    #[serde(borrow)]
    sz: Cow<'a, str>,
    #[serde(borrow)]
    side: RawField<'a>,
    #[serde(borrow)]
    ts: RawField<'a>,
    #[serde(borrow)]
    count: RawField<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OkxTicker<'a> {
    #[serde(borrow)]
    inst_id: Cow<'a, str>,
    #[serde(borrow)]
    last: Cow<'a, str>,
    #[serde(borrow)]
    bid_px: RawField<'a>,
    #[serde(borrow)]
    ask_px: RawField<'a>,
    #[serde(rename = "open24h", borrow)]
    open: RawField<'a>,
    #[serde(rename = "vol24h", borrow)]
    volume: RawField<'a>,
    #[serde(rename = "volCcy24h", borrow)]
    volume_currency: RawField<'a>,
    #[serde(borrow)]
    ts: RawField<'a>,
}

/// Parses a frame.
pub(super) fn parse(frame: &[u8]) -> Result<Events<'_>, ParseError> {
    if frame == b"pong" {
        return Ok(smallvec![VenueEvent::Heartbeat]);
    }
    let frame: OkxFrame<'_> = decode(frame)?;
    if let Some(event) = &frame.event {
        return Ok(smallvec![response(event, &frame)]);
    }
    let channel = frame.arg.and_then(|arg| arg.channel);
    match (channel.as_deref(), frame.data) {
        (Some("trades"), Some(data)) => entries(data, trade),
        (Some("tickers"), Some(data)) => entries(data, ticker),
        _ => Ok(smallvec![VenueEvent::Ignored]),
    }
}

fn response(event: &str, frame: &OkxFrame<'_>) -> VenueEvent<'static> {
    match event {
        "subscribe" => VenueEvent::Ack(request_id(frame.id)),
        "error" => {
            let reason = [frame.msg.as_deref(), frame.code.as_deref()];
            refusal(request_id(frame.id), reason)
        }
        // An upgrade of the venue, after which it closes the connection.
        "notice" => VenueEvent::Shutdown,
        _ => VenueEvent::Ignored,
    }
}

fn trade(entry: &str) -> Result<VenueEvent<'_>, ParseError> {
    let frame: OkxTrade<'_> = serde_json::from_str(entry)?;
    let last = integer("tradeId", &frame.trade_id)?;
    let mut fields = SideFields::default();
    let count = fields.integer("count", Documented::OptionalText, frame.count);
    let count: u64 = count.unwrap_or(1).max(1);
    Ok(VenueEvent::Trade(Trade {
        id: TradeId::Range {
            first: last.saturating_sub(count - 1),
            last,
        },
        price: price("px", &frame.px)?,
        size: if is_contract(&frame.inst_id) {
            Size::Contracts(size("sz", &frame.sz)?)
        } else {
            Size::Base(size("sz", &frame.sz)?)
        },
        side: fields.side("side", frame.side),
        venue_time_us: fields.epoch("ts", Documented::Text, frame.ts),
        name: frame.inst_id,
        unexpected: fields.into_unexpected(),
    }))
}

/// Whether an instrument counts in contracts: `BTC-USD-SWAP` and `BTC-USD-240927` do, `BTC-USDT` of
/// the spot market does not.
fn is_contract(name: &str) -> bool {
    name.bytes().filter(|byte| *byte == b'-').count() > 1
}

/// `vol24h` is in base and `volCcy24h` in quote; for contracts, `vol24h` is in contracts and
/// `volCcy24h` in base.
fn volume(name: &str, vol: Option<f64>, vol_ccy: Option<f64>) -> Volume {
    if is_contract(name) {
        Volume::in_contracts(vol, vol_ccy)
    } else {
        Volume::in_quote(vol_ccy)
    }
}

fn ticker(entry: &str) -> Result<VenueEvent<'_>, ParseError> {
    let frame: OkxTicker<'_> = serde_json::from_str(entry)?;
    let last = statistic(Some(&frame.last));
    let mut fields = SideFields::default();
    let open = fields.statistic("open24h", Documented::Text, frame.open);
    Ok(VenueEvent::Ticker(Ticker {
        last: Some(price("last", &frame.last)?),
        last_id: None,
        bid: fields.offer("bidPx", Documented::Text, frame.bid_px),
        ask: fields.offer("askPx", Documented::Text, frame.ask_px),
        change_percent: change_percent(open, last),
        volume: volume(
            &frame.inst_id,
            fields.statistic("vol24h", Documented::Text, frame.volume),
            fields.statistic("volCcy24h", Documented::Text, frame.volume_currency),
        ),
        // The time when the venue last computed it, which may be long ago.
        stamp: fields
            .epoch("ts", Documented::Text, frame.ts)
            .map(Stamp::Formed),
        name: frame.inst_id,
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

    const KIND: VenueKind = VenueKind::Okx;

    const TRADE: &str = r#"{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474","px":"42219.9","sz":"0.12060306","side":"buy","ts":"1629386781174","count":"3"}]}"#;
    const TICKER: &str = r#"{"arg":{"channel":"tickers","instId":"BTC-USDT"},"data":[{"instType":"SPOT","instId":"BTC-USDT","last":"110","lastSz":"0.1","askPx":"110.5","askSz":"11","bidPx":"109.5","bidSz":"5","open24h":"100","high24h":"112","low24h":"98","volCcy24h":"2222","vol24h":"20","sodUtc0":"99","sodUtc8":"99","ts":"1597026383085"}]}"#;

    #[test]
    fn a_trade_stands_for_several() {
        let trade = testing::trade(KIND, TRADE);
        let run = TradeId::Range {
            first: 130_639_472,
            last: 130_639_474,
        };
        assert_eq!((trade.id, trade.side), (run, TradeSide::Buy));
        assert_eq!(trade.size, Size::Base("0.12060306".parse().unwrap()));
        assert_eq!(trade.venue_time_us, Some(1_629_386_781_174_000));
    }

    #[test]
    fn volumes_of_spot_are_in_quote_and_of_contracts_in_base_and_contracts() {
        let volume = |frame: &str| match one(KIND, frame).unwrap() {
            VenueEvent::Ticker(ticker) => (ticker.volume, ticker.change_percent),
            other => panic!("{other:?}"),
        };
        let (spot, change) = volume(TICKER);
        assert_eq!(spot, Volume::in_quote(Some(2_222.0)));
        assert!((change.unwrap() - 10.0).abs() < 1e-9);
        for contract in ["BTC-USD-SWAP", "BTC-USD-240927", "BTC-USDT-SWAP"] {
            let (swap, _) = volume(&TICKER.replace("BTC-USDT", contract).replace("SPOT", "SWAP"));
            let expected = Volume {
                quote: None,
                base: Some(2_222.0),
                contracts: Some(20.0),
            };
            assert_eq!(swap, expected, "{contract}");
            let frame = TRADE.replace("BTC-USDT", contract);
            let trade = testing::trade(KIND, &frame);
            assert!(matches!(trade.size, Size::Contracts(_)), "{contract}");
        }
    }

    #[test]
    fn responses_and_faults_are_parsed() {
        assert_eq!(one(KIND, "pong"), Ok(VenueEvent::Heartbeat));
        let ack = r#"{"event":"subscribe","arg":{"channel":"tickers","instId":"BTC-USDT"}}"#;
        assert_eq!(one(KIND, ack), Ok(VenueEvent::Ack(None)));
        let error =
            r#"{"event":"error","code":"60018","msg":"Wrong URL or instId:X-Y doesn't exist"}"#;
        assert!(
            matches!(one(KIND, error), Ok(VenueEvent::Error(refusal)) if refusal.reason.ends_with("60018"))
        );
        assert_eq!(
            one(KIND, r#"{"arg":{"channel":"books"},"data":[]}"#),
            Ok(VenueEvent::Ignored)
        );
        assert_eq!(
            fault(KIND, &TRADE.replace("\"42219.9\"", "42219.9")),
            FaultKind::WrongType
        );
        assert_eq!(
            fault(KIND, &TRADE.replace("\"130639474\"", "\"x\"")),
            FaultKind::BadValue
        );
        assert_eq!(fault(KIND, &TRADE[..99]), FaultKind::Malformed);
    }

    #[test]
    fn requests_stay_within_their_size() {
        let names: Vec<_> = (0..120).map(|n| format!("C{n}-USDT")).collect();
        let requests = frames(KIND, &names);
        assert_eq!(requests.len(), 3);
        assert!(requests[0].starts_with(r#"{"args":[{"channel":"tickers","instId":"C0-USDT"}"#));
    }
}
