//! Protocols of venues: how each responds to requests, after its documentation.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// A venue that a stand-in can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum VenueKind {
    /// Binance spot.
    Binance,
    /// Coinbase Exchange.
    Coinbase,
    /// Kraken, version 2 of its WebSocket.
    Kraken,
    /// OKX, version 5.
    Okx,
    /// Bybit, version 5.
    Bybit,
    /// Bitstamp, version 2.
    Bitstamp,
    /// Coinbase Advanced Trade.
    #[value(name = "coinbase_advanced")]
    CoinbaseAdvanced,
}

impl VenueKind {
    /// The three venues that most tests use.
    pub const THREE: [Self; 3] = [Self::Binance, Self::Coinbase, Self::Kraken];

    /// All venues.
    pub const ALL: [Self; 7] = [
        Self::Binance,
        Self::Coinbase,
        Self::Kraken,
        Self::Okx,
        Self::Bybit,
        Self::Bitstamp,
        Self::CoinbaseAdvanced,
    ];

    /// The kind in the server's configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Binance => "binance",
            Self::Coinbase => "coinbase",
            Self::Kraken => "kraken",
            Self::Okx => "okx",
            Self::Bybit => "bybit",
            Self::Bitstamp => "bitstamp",
            Self::CoinbaseAdvanced => "coinbase_advanced",
        }
    }

    /// The venue's name of a symbol `BASE-QUOTE`.
    #[must_use]
    pub fn symbol(self, symbol: &str) -> String {
        match self {
            Self::Binance | Self::Bybit => symbol.replace('-', ""),
            Self::Coinbase | Self::Okx | Self::CoinbaseAdvanced => symbol.to_owned(),
            Self::Bitstamp => symbol.replace('-', "").to_ascii_lowercase(),
            Self::Kraken => symbol.replace('-', "/"),
        }
    }
}

/// A peer's subscriptions: pairs of a channel and a symbol, as the venue spells them.
#[derive(Debug)]
pub(super) struct Subscriptions {
    kind: VenueKind,
    pairs: BTreeSet<(String, String)>,
    channels: BTreeSet<String>,
}

impl Subscriptions {
    pub(super) fn new(kind: VenueKind) -> Self {
        Self {
            kind,
            pairs: BTreeSet::new(),
            channels: BTreeSet::new(),
        }
    }

    /// Whether the peer has subscribed to every channel that a price needs.
    pub(super) fn is_complete(&self) -> bool {
        match self.kind {
            VenueKind::Binance | VenueKind::Coinbase | VenueKind::Bitstamp => {
                !self.channels.is_empty()
            }
            VenueKind::Okx => self.has("trades") && self.has("tickers"),
            VenueKind::Bybit => self.has("publicTrade") && self.has("tickers"),
            // These take one channel a request.
            VenueKind::Kraken => self.has("trade") && self.has("ticker"),
            VenueKind::CoinbaseAdvanced => self.has("market_trades") && self.has("ticker"),
        }
    }

    fn has(&self, channel: &str) -> bool {
        self.channels.contains(channel)
    }

    /// Applies a request, and returns the responses.
    pub(super) fn answer(&mut self, request: &str) -> Vec<String> {
        if self.kind == VenueKind::Okx && request == "ping" {
            return vec!["pong".to_owned()];
        }
        let Ok(request) = serde_json::from_str::<Value>(request) else {
            return Vec::new();
        };
        let answers = match self.kind {
            VenueKind::Binance => self.answer_binance(&request),
            VenueKind::Coinbase => self.answer_coinbase(&request),
            VenueKind::Kraken => self.answer_kraken(&request),
            VenueKind::Okx => self.answer_okx(&request),
            VenueKind::Bybit => self.answer_bybit(&request),
            VenueKind::Bitstamp => self.answer_bitstamp(&request),
            VenueKind::CoinbaseAdvanced => self.answer_coinbase_advanced(&request),
        };
        answers.iter().map(Value::to_string).collect()
    }

    fn add(&mut self, channel: &str, symbol: &str) {
        self.channels.insert(channel.to_owned());
        self.pairs.insert((channel.to_owned(), symbol.to_owned()));
    }

    fn answer_binance(&mut self, request: &Value) -> Vec<Value> {
        if request["method"] != "SUBSCRIBE" {
            let error = json!({"code": 2, "msg": "Invalid request: unknown variant"});
            return vec![json!({"error": error, "id": request["id"]})];
        }
        for stream in strings(&request["params"]) {
            let (symbol, channel) = stream.split_once('@').unwrap_or((stream, ""));
            self.add(channel, &symbol.to_ascii_uppercase());
        }
        vec![json!({"result": null, "id": request["id"]})]
    }

    fn answer_coinbase(&mut self, request: &Value) -> Vec<Value> {
        if request["type"] != "subscribe" {
            return vec![json!({"type": "error", "message": "Malformed JSON"})];
        }
        for channel in strings(&request["channels"]) {
            for product in strings(&request["product_ids"]) {
                self.add(channel, product);
            }
        }
        let channels: Vec<_> = strings(&request["channels"])
            .map(|name| json!({"name": name, "product_ids": request["product_ids"]}))
            .collect();
        vec![json!({"type": "subscriptions", "channels": channels})]
    }

    fn answer_kraken(&mut self, request: &Value) -> Vec<Value> {
        let times = ("2024-08-08T23:54:17.000000Z", "2024-08-08T23:54:17.000100Z");
        if request["method"] == "ping" {
            return vec![json!({"method": "pong", "time_in": times.0, "time_out": times.1})];
        }
        if request["method"] != "subscribe" {
            return vec![json!({"error": "Unknown method", "success": false})];
        }
        let params = &request["params"];
        let channel = params["channel"].as_str().unwrap_or_default();
        let answers = strings(&params["symbol"]).map(|symbol| {
            json!({
                "method": "subscribe",
                "req_id": request["req_id"],
                "result": {"channel": channel, "snapshot": params["snapshot"], "symbol": symbol},
                "success": true,
                "time_in": times.0,
                "time_out": times.1,
            })
        });
        let answers = answers.collect();
        for symbol in strings(&params["symbol"]) {
            self.add(channel, symbol);
        }
        answers
    }

    fn answer_okx(&mut self, request: &Value) -> Vec<Value> {
        if request["op"] != "subscribe" {
            return vec![json!({"event": "error", "code": "60012", "msg": "Illegal request"})];
        }
        let arguments = request["args"].as_array().into_iter().flatten();
        let answers = arguments.map(|argument| {
            let text = |key: &str| argument[key].as_str().unwrap_or_default().to_owned();
            self.add(&text("channel"), &text("instId"));
            json!({"event": "subscribe", "arg": argument})
        });
        answers.collect()
    }

    fn answer_bybit(&mut self, request: &Value) -> Vec<Value> {
        if request["op"] == "ping" {
            return vec![json!({"success": true, "ret_msg": "pong", "conn_id": "c", "op": "ping"})];
        }
        let arguments: Vec<_> = strings(&request["args"]).collect();
        if request["op"] != "subscribe" || arguments.len() > 10 {
            let wrong = json!({"success": false, "ret_msg": "args size >10", "op": "subscribe"});
            return vec![wrong];
        }
        for topic in arguments {
            let (channel, symbol) = topic.split_once('.').unwrap_or((topic, ""));
            self.add(channel, symbol);
        }
        vec![json!({"success": true, "ret_msg": "subscribe", "conn_id": "c", "op": "subscribe"})]
    }

    fn answer_bitstamp(&mut self, request: &Value) -> Vec<Value> {
        if request["event"] == "bts:heartbeat" {
            let data = json!({"status": "success"});
            return vec![json!({"event": "bts:heartbeat", "channel": "", "data": data})];
        }
        let channel = request["data"]["channel"].as_str().unwrap_or_default();
        let Some(symbol) = channel.strip_prefix("live_trades_") else {
            let data = json!({"code": 4003, "message": "Bad subscription string."});
            return vec![json!({"event": "bts:error", "channel": "", "data": data})];
        };
        self.add("live_trades", symbol);
        vec![json!({"event": "bts:subscription_succeeded", "channel": channel, "data": {}})]
    }

    fn answer_coinbase_advanced(&mut self, request: &Value) -> Vec<Value> {
        let Some(channel) = request["channel"]
            .as_str()
            .filter(|_| request["type"] == "subscribe")
        else {
            return vec![json!({"type": "error", "message": "no such channel"})];
        };
        self.channels.insert(channel.to_owned());
        for product in strings(&request["product_ids"]) {
            self.add(channel, product);
        }
        let subscriptions = json!({channel: request["product_ids"]});
        vec![json!({
            "channel": "subscriptions", "client_id": "", "sequence_num": 0,
            "timestamp": "2024-08-08T23:54:17.000000000Z",
            "events": [{"subscriptions": subscriptions}],
        })]
    }

    /// Whether the venue would send a recorded frame to this peer.
    pub(super) fn wants(&self, frame: &str) -> bool {
        let Ok(frame) = serde_json::from_str::<Value>(frame) else {
            return false;
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pair = match self.kind {
            VenueKind::Binance => {
                let stream = text(&frame["stream"]);
                let Some((symbol, channel)) = stream.split_once('@') else {
                    return false;
                };
                (channel.to_owned(), symbol.to_ascii_uppercase())
            }
            VenueKind::Coinbase => {
                let channel = match frame["type"].as_str() {
                    Some("match" | "last_match") => "matches",
                    Some("ticker") => "ticker",
                    Some("heartbeat") => "heartbeat",
                    _ => return false,
                };
                (channel.to_owned(), text(&frame["product_id"]))
            }
            VenueKind::Kraken => (text(&frame["channel"]), text(&frame["data"][0]["symbol"])),
            VenueKind::Okx => (
                text(&frame["arg"]["channel"]),
                text(&frame["arg"]["instId"]),
            ),
            VenueKind::Bybit | VenueKind::Bitstamp => {
                let bybit = self.kind == VenueKind::Bybit;
                let (key, split) = if bybit {
                    ("topic", '.')
                } else {
                    ("channel", '_')
                };
                let name = text(&frame[key]);
                let Some((channel, symbol)) = name.rsplit_once(split) else {
                    return false;
                };
                (channel.to_owned(), symbol.to_owned())
            }
            VenueKind::CoinbaseAdvanced => {
                let event = &frame["events"][0];
                let entries = [&event["trades"][0], &event["tickers"][0]];
                let symbols = entries.map(|entry| text(&entry["product_id"]));
                (text(&frame["channel"]), symbols.concat())
            }
        };
        self.pairs.contains(&pair)
    }
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_sent() {
        let mut binance = Subscriptions::new(VenueKind::Binance);
        let request = r#"{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}"#;
        assert_eq!(binance.answer(request), [r#"{"id":1,"result":null}"#]);
        assert!(binance.wants(r#"{"stream":"btcusdt@trade","data":{}}"#));
        assert!(!binance.wants(r#"{"stream":"btcusdt@bookTicker","data":{}}"#));
        assert!(!binance.wants(r#"{"lastUpdateId":1}"#));

        let mut coinbase = Subscriptions::new(VenueKind::Coinbase);
        coinbase.answer(r#"{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches"]}"#);
        assert!(coinbase.wants(r#"{"type":"match","product_id":"BTC-USD"}"#));
        assert!(!coinbase.wants(r#"{"type":"match","product_id":"ETH-USD"}"#));
        assert!(!coinbase.wants(r#"{"type":"ticker","product_id":"BTC-USD"}"#));
    }

    #[test]
    fn kraken_acknowledges_each_symbol() {
        let mut kraken = Subscriptions::new(VenueKind::Kraken);
        let request = |channel: &str| {
            let params = json!({"channel": channel, "symbol": ["BTC/USD", "ETH/USD"]});
            json!({"method": "subscribe", "params": params, "req_id": 1}).to_string()
        };
        assert_eq!(kraken.answer(&request("ticker")).len(), 2);
        assert!(!kraken.is_complete());
        kraken.answer(&request("trade"));
        assert!(kraken.is_complete());
        assert!(kraken.wants(r#"{"channel":"trade","data":[{"symbol":"ETH/USD"}]}"#));
        assert!(!kraken.wants(r#"{"channel":"heartbeat"}"#));
    }
}
