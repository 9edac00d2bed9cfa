//! Frames of venues, built after their documentation.

use serde_json::{Value, json};

use super::VenueKind;

/// The time in the frames. Any valid time would do.
const TIME_MS: u64 = 1_723_161_257_102;
const TIME: &str = "2024-08-08T23:54:17.102000Z";

/// A trade.
#[derive(Debug, Clone, Copy)]
pub struct Trade<'a> {
    /// `BASE-QUOTE`.
    pub symbol: &'a str,
    /// The venue's number, counting up.
    pub id: u64,
    /// The price, as the venue writes it.
    pub price: &'a str,
}

impl Trade<'_> {
    /// The venue's frame of this trade.
    #[must_use]
    pub fn frame(&self, kind: VenueKind) -> String {
        let Self { id, price, .. } = self;
        let symbol = kind.symbol(self.symbol);
        match kind {
            VenueKind::Binance => {
                let stream = format!("{}@trade", symbol.to_ascii_lowercase());
                let data = json!({
                    "e": "trade", "E": TIME_MS, "s": symbol, "t": id, "p": price, "q": "0.50000000",
                    "T": TIME_MS, "m": true, "M": true,
                });
                json!({"stream": stream, "data": data}).to_string()
            }
            VenueKind::Coinbase => json!({
                "type": "match", "trade_id": id, "sequence": id, "maker_order_id": "m",
                "taker_order_id": "t", "time": TIME, "product_id": symbol, "size": "0.5",
                "price": price, "side": "buy",
            })
            .to_string(),
            // The price is a JSON number with exactly these digits.
            VenueKind::Kraken => format!(
                concat!(
                    r#"{{"channel":"trade","type":"update","data":[{{"symbol":"{}","side":"sell","#,
                    r#""price":{},"qty":0.5,"ord_type":"market","trade_id":{},"timestamp":"{}"}}]}}"#
                ),
                symbol, price, id, TIME
            ),
            VenueKind::Okx => json!({
                "arg": {"channel": "trades", "instId": symbol},
                "data": [{
                    "instId": symbol, "tradeId": id.to_string(), "px": price, "sz": "0.5",
                    "side": "sell", "ts": TIME_MS.to_string(), "count": "1",
                }],
            })
            .to_string(),
            VenueKind::Bybit => json!({
                "topic": format!("publicTrade.{symbol}"), "type": "snapshot", "ts": TIME_MS,
                "data": [{
                    "T": TIME_MS, "s": symbol, "S": "Sell", "v": "0.5", "p": price,
                    "L": "PlusTick", "i": id.to_string(), "BT": false,
                }],
            })
            .to_string(),
            VenueKind::Bitstamp => json!({
                "event": "trade", "channel": format!("live_trades_{symbol}"),
                "data": {
                    "id": id, "amount_str": "0.5", "price_str": price, "type": 1,
                    "microtimestamp": (TIME_MS * 1_000).to_string(),
                },
            })
            .to_string(),
            VenueKind::CoinbaseAdvanced => advanced(
                "market_trades",
                &json!({
                    "type": "update",
                    "trades": [{
                        "trade_id": id.to_string(), "product_id": symbol, "price": price, "size": "0.5",
                        "side": "SELL", "time": TIME,
                    }],
                }),
            ),
        }
    }
}

/// A frame of Coinbase Advanced Trade with one event.
fn advanced(channel: &str, event: &Value) -> String {
    json!({
        "channel": channel, "client_id": "", "timestamp": TIME, "sequence_num": 1,
        "events": [event],
    })
    .to_string()
}

/// A ticker.
#[derive(Debug, Clone, Copy)]
pub struct Ticker<'a> {
    /// `BASE-QUOTE`.
    pub symbol: &'a str,
    /// The last price.
    pub last: &'a str,
    /// The price 24 hours ago.
    pub open: &'a str,
    /// The volume of 24 hours, in base.
    pub volume: &'a str,
}

impl Ticker<'_> {
    /// The venue's frame of this ticker.
    ///
    /// # Panics
    /// A figure is not a number, or the venue has no tickers.
    #[must_use]
    pub fn frame(&self, kind: VenueKind) -> String {
        let Self {
            last, open, volume, ..
        } = self;
        let symbol = kind.symbol(self.symbol);
        let number = |text: &str| text.parse::<f64>().expect("a number");
        let change = number(last) - number(open);
        let percent = change / number(open) * 100.0;
        match kind {
            VenueKind::Binance => {
                let stream = format!("{}@ticker", symbol.to_ascii_lowercase());
                let data = json!({
                    "e": "24hrTicker", "E": TIME_MS, "s": symbol, "p": change.to_string(),
                    "P": percent.to_string(), "w": last, "x": open, "c": last, "Q": "1", "b": last,
                    "B": "1", "a": last, "A": "1", "o": open, "h": last, "l": open, "v": volume,
                    "q": (number(volume) * number(last)).to_string(), "O": TIME_MS - 86_400_000,
                    "C": TIME_MS, "F": 1, "L": 2, "n": 2,
                });
                json!({"stream": stream, "data": data}).to_string()
            }
            VenueKind::Coinbase => json!({
                "type": "ticker", "sequence": 1, "product_id": symbol, "price": last,
                "open_24h": open, "volume_24h": volume, "low_24h": open, "high_24h": last,
                "volume_30d": volume, "best_bid": last, "best_bid_size": "1", "best_ask": last,
                "best_ask_size": "1", "side": "buy", "time": TIME, "trade_id": 1, "last_size": "1",
            })
            .to_string(),
            VenueKind::Kraken => format!(
                concat!(
                    r#"{{"channel":"ticker","type":"update","data":[{{"symbol":"{}","bid":{},"bid_qty":1,"#,
                    r#""ask":{},"ask_qty":1,"last":{},"volume":{},"vwap":{},"low":{},"high":{},"#,
                    r#""change":{},"change_pct":{}}}]}}"#
                ),
                symbol, last, last, last, volume, last, open, last, change, percent
            ),
            VenueKind::Okx => json!({
                "arg": {"channel": "tickers", "instId": symbol},
                "data": [{
                    "instType": "SPOT", "instId": symbol, "last": last, "lastSz": "1", "askPx": last,
                    "bidPx": last, "open24h": open, "high24h": last, "low24h": open, "vol24h": volume,
                    "volCcy24h": (number(volume) * number(last)).to_string(), "ts": TIME_MS.to_string(),
                }],
            })
            .to_string(),
            VenueKind::Bybit => json!({
                "topic": format!("tickers.{symbol}"), "type": "snapshot", "ts": TIME_MS, "cs": 1,
                "data": {
                    "symbol": symbol, "lastPrice": last, "prevPrice24h": open, "volume24h": volume,
                    "price24hPcnt": (percent / 100.0).to_string(),
                    "turnover24h": (number(volume) * number(last)).to_string(),
                },
            })
            .to_string(),
            VenueKind::Bitstamp => panic!("Bitstamp has no summaries"),
            VenueKind::CoinbaseAdvanced => advanced("ticker", &json!({
                "type": "snapshot",
                "tickers": [{
                    "type": "ticker", "product_id": symbol, "price": last, "volume_24_h": volume,
                    "price_percent_chg_24_h": percent.to_string(), "best_bid": last, "best_ask": last,
                }],
            })),
        }
    }
}
