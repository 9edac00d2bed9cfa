//! Frames of price venues.

use tidewire_price::{VenueKind, venue::VenueEvent};

use super::edits::{Verdict, fuzz, texts};

/// Parses frames of a venue. Accepted trades and prices must be positive and finite.
fn fuzz_venue(kind: VenueKind, seeds: &[&str]) {
    fuzz(&texts(seeds), |bytes| {
        let Ok(events) = kind.parse(bytes) else {
            return Verdict::Refused;
        };
        let mut verdict = Verdict::Accepted;
        for event in events {
            match event {
                VenueEvent::Trade(trade) => {
                    assert!(
                        trade.price > Default::default()
                            && trade.size.number() > Default::default()
                    );
                }
                VenueEvent::Ticker(ticker) => {
                    let prices = [ticker.last, ticker.bid, ticker.ask];
                    assert!(
                        prices
                            .into_iter()
                            .flatten()
                            .all(|price| price > Default::default())
                    );
                    let volume = ticker.volume;
                    let figures = [
                        ticker.change_percent,
                        volume.quote,
                        volume.base,
                        volume.contracts,
                    ];
                    assert!(figures.into_iter().flatten().all(f64::is_finite));
                }
                VenueEvent::Fault(_) => verdict = Verdict::Refused,
                _ => {}
            }
        }
        verdict
    });
}

#[test]
fn binance_frames() {
    fuzz_venue(
        VenueKind::Binance,
        &[
            r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1700000000010,"s":"BTCUSDT","t":12345,"p":"61837.64000000","q":"0.00100000","T":1700000000009,"m":true,"M":true}}"#,
            r#"{"e":"aggTrade","E":1,"s":"ETHUSDT","a":7,"p":"1","q":"2","f":1,"l":2,"T":3,"m":false,"M":true}"#,
            r#"{"stream":"btcusdt@ticker","data":{"e":"24hrTicker","E":5,"s":"BTCUSDT","p":"1","P":"2.5","w":"1","c":"100.5","Q":"1","b":"100.4","B":"1","a":"100.6","A":"1","o":"98","h":"1","l":"1","v":"10","q":"1005","O":1,"C":5,"F":1,"L":2,"n":2}}"#,
            r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1634052000000,"s":"BTCUSDT","t":12,"p":"5","q":"1","b":88,"a":50,"T":1634052000000,"m":false,"M":true}}"#,
            r#"{"e":"24hrMiniTicker","E":5,"s":"BTCUSDT","c":"110","o":"100","h":"1","l":"1","v":"10","q":"1005"}"#,
            r#"{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1.0","B":"2","a":"1.1","A":"3"}}"#,
            r#"{"e":"serverShutdown","E":1}"#,
            r#"{"result":null,"id":1}"#,
            r#"{"error":{"code":2,"msg":"x"},"id":1}"#,
        ],
    );
}

#[test]
fn coinbase_frames() {
    fuzz_venue(
        VenueKind::Coinbase,
        &[
            r#"{"type":"match","trade_id":42,"maker_order_id":"a","taker_order_id":"b","side":"sell","size":"0.5","price":"61838.01","product_id":"BTC-USD","sequence":9,"time":"2024-08-08T23:54:17.102938Z"}"#,
            r#"{"type":"ticker","sequence":1,"product_id":"BTC-USD","price":"110","open_24h":"100","volume_24h":"3","low_24h":"1","high_24h":"2","volume_30d":"4","best_bid":"109.9","best_bid_size":"1","best_ask":"110.1","best_ask_size":"1","side":"buy","time":"2024-08-08T23:54:17.1Z","trade_id":5,"last_size":"1"}"#,
            r#"{"type":"last_match","trade_id":41,"side":"buy","size":"1","price":"2","product_id":"BTC-USD","time":"2024-08-08T23:54:17Z"}"#,
            r#"{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD","time":"2014-11-07T08:19:28.464459Z"}"#,
            r#"{"type":"subscriptions","channels":[]}"#,
            r#"{"type":"error","message":"no","reason":"x"}"#,
        ],
    );
}

#[test]
fn kraken_frames() {
    fuzz_venue(
        VenueKind::Kraken,
        &[
            r#"{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":61838.10,"qty":0.00012345678901,"ord_type":"market","trade_id":7,"timestamp":"2024-08-08T23:54:17.102938Z"},{"symbol":"BTC/USD","side":"buy","price":61838.2,"qty":1,"ord_type":"limit","trade_id":8,"timestamp":"2024-08-08T23:54:17.2Z"}]}"#,
            r#"{"channel":"ticker","type":"snapshot","data":[{"symbol":"BTC/USD","bid":1.0,"bid_qty":1,"ask":1.2,"ask_qty":1,"last":1.1,"volume":10,"vwap":2,"low":1,"high":3,"change":0.1,"change_pct":-1.5}]}"#,
            r#"{"method":"subscribe","result":{},"success":true}"#,
            r#"{"error":"Currency pair not supported","method":"subscribe","req_id":1,"success":false,"symbol":"FOO/USD"}"#,
            r#"{"channel":"status","type":"update","data":[{"system":"online"}]}"#,
            r#"{"method":"pong","req_id":1}"#,
            r#"{"channel":"heartbeat"}"#,
        ],
    );
}

#[test]
fn okx_frames() {
    fuzz_venue(
        VenueKind::Okx,
        &[
            r#"{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474","px":"42219.9","sz":"0.12060306","side":"buy","ts":"1629386781174","count":"3"}]}"#,
            r#"{"arg":{"channel":"tickers","instId":"BTC-USDT"},"data":[{"instType":"SPOT","instId":"BTC-USDT","last":"110","lastSz":"0.1","askPx":"110.5","bidPx":"109.5","open24h":"100","volCcy24h":"2222","vol24h":"20","ts":"1597026383085"}]}"#,
            r#"{"event":"subscribe","arg":{"channel":"tickers","instId":"BTC-USDT"}}"#,
            r#"{"event":"error","code":"60018","msg":"x"}"#,
            r#"pong"#,
        ],
    );
}

#[test]
fn bybit_frames() {
    fuzz_venue(
        VenueKind::Bybit,
        &[
            r#"{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,"s":"BTCUSDT","S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false}]}"#,
            r#"{"topic":"tickers.BTCUSDT","ts":1673853746003,"type":"snapshot","cs":2588407389,"data":{"symbol":"BTCUSDT","lastPrice":"21109.77","turnover24h":"141946527.2","price24hPcnt":"0.0196"}}"#,
            r#"{"success":true,"ret_msg":"subscribe","conn_id":"x","op":"subscribe"}"#,
            r#"{"success":true,"ret_msg":"pong","op":"ping"}"#,
        ],
    );
}

#[test]
fn bitstamp_frames() {
    fuzz_venue(
        VenueKind::Bitstamp,
        &[
            r#"{"data":{"id":215999911,"amount":0.0792,"amount_str":"0.07920001","price_str":"3805.40","type":1,"microtimestamp":"1641343691596001"},"channel":"live_trades_ethusd","event":"trade"}"#,
            r#"{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}"#,
            r#"{"event":"bts:error","channel":"","data":{"code":4003,"message":"Bad"}}"#,
            r#"{"event":"bts:request_reconnect","channel":"","data":""}"#,
        ],
    );
}

#[test]
fn coinbase_advanced_frames() {
    fuzz_venue(
        VenueKind::CoinbaseAdvanced,
        &[
            r#"{"channel":"market_trades","timestamp":"2026-11-22T10:00:00.123456789Z","sequence_num":7,"events":[{"type":"update","trades":[{"trade_id":"1001","product_id":"BTC-USD","price":"61838.02","size":"0.5","side":"BUY","time":"2026-11-22T10:00:00.1Z"}]}]}"#,
            r#"{"channel":"ticker","timestamp":"2026-11-22T10:00:00Z","sequence_num":0,"events":[{"type":"snapshot","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"100","volume_24_h":"20","price_percent_chg_24_h":"-2.5","best_bid":"99.5","best_ask":"100.5"}]}]}"#,
            r#"{"channel":"heartbeats","timestamp":"2026-11-22T10:00:00Z","sequence_num":1,"events":[]}"#,
            r#"{"type":"error","message":"no"}"#,
        ],
    );
}

#[test]
fn pyth_frames() {
    fuzz_venue(
        VenueKind::Pyth,
        &[
            r#"{"binary":{"encoding":"hex","data":["50"]},"parsed":[{"id":"e62d","price":{"price":"6183801000001","conf":"3000000000","expo":-8,"publish_time":1723161257},"metadata":{"slot":1}}]}"#,
            r#"{"parsed":[]}"#,
            r#"{}"#,
        ],
    );
}
