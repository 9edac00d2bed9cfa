"""Writes sample.rec.gz: a made-up market in the documented formats of the venues.

The frames follow the public documentation of Binance, Coinbase Exchange and
Kraken; the prices are a random walk. Nothing in it was recorded.
"""

import gzip
import json
import pathlib
import random
import time

SECONDS = 60
START_MS = 1_750_000_000_000
END_MS = START_MS + SECONDS * 1000
USD = {"BTC": 61800, "ETH": 2680, "SOL": 155, "XRP": 0.61, "ADA": 0.36, "DOGE": 0.105, "AVAX": 23.4,
       "LINK": 10.9, "LTC": 61.2, "DOT": 4.7, "BCH": 345, "UNI": 6.4, "AAVE": 98, "XLM": 0.1}
USDT = ["BTC", "ETH", "SOL", "XRP"]
random.seed(20)
price, start = dict(USD), {base: value * random.uniform(0.93, 1.06) for base, value in USD.items()}
ids = {}
sequence = 0
lines = []


def text(value):
    return f"{value:.2f}" if value > 100 else f"{value:.5f}"


def iso(ms):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}000Z"


def put(ms, source, frame):
    lines.append((ms, source, json.dumps(frame, separators=(",", ":"))))


def next_id(*key):
    ids[key] = ids.get(key, random.randrange(10**6, 10**7)) + 1
    return ids[key]


def pause(base):
    """The mean time between two trades, in milliseconds."""
    return 350 if base in USDT else 1100


def trade(ms, base):
    global sequence
    price[base] *= 1 + random.gauss(0, 0.00012)
    left = END_MS - ms
    if left < 20_000:
        # Back to where it began, so that a loop has no cliff.
        price[base] *= (USD[base] / price[base]) ** (1 / (left / pause(base) + 1))
    size, buys = random.expovariate(1) * 200 / price[base], random.random() < 0.5
    near = price[base] * (1 + random.gauss(0, 0.00005))
    if base in USDT and random.random() < 0.4:
        name = base + "USDT"
        put(ms, 0, {"stream": name.lower() + "@trade", "data": {
            "e": "trade", "E": ms, "s": name, "t": next_id(0, base), "p": f"{near * 1.0004:.8f}", "q": f"{size:.8f}",
            "T": ms - 2, "m": not buys, "M": True}})
        return
    if random.random() < 0.6:
        sequence += 1
        put(ms, 1, {"type": "match", "trade_id": next_id(1, base), "maker_order_id": "", "taker_order_id": "",
                    "side": "sell" if buys else "buy", "size": f"{size:.8f}", "price": text(near),
                    "product_id": base + "-USD", "sequence": sequence, "time": iso(ms - 3)})
        return
    put(ms, 2, {"channel": "trade", "type": "update", "data": [{
        "symbol": base + "/USD", "side": "buy" if buys else "sell", "price": float(text(near)),
        "qty": round(size, 8), "ord_type": "market", "trade_id": next_id(2, base), "timestamp": iso(ms - 5)}]})


def tickers(ms, base):
    global sequence
    value, open_, spread = price[base], start[base], price[base] * 0.0001
    volume = USD["BTC"] * 9000 / value * (1 if base == "BTC" else 0.2)
    if base in USDT:
        name = base + "USDT"
        put(ms, 0, {"stream": name.lower() + "@ticker", "data": {
            "e": "24hrTicker", "E": ms, "s": name, "p": text(value - open_), "P": f"{(value / open_ - 1) * 100:.3f}",
            "w": text(value), "c": f"{value:.8f}", "Q": "1", "b": f"{value - spread:.8f}", "B": "1",
            "a": f"{value + spread:.8f}", "A": "1", "o": f"{open_:.8f}", "h": text(value), "l": text(open_),
            "v": f"{volume:.4f}", "q": f"{volume * value:.2f}", "O": ms - 86400000, "C": ms, "F": 1,
            "L": ids.get((0, base), 1), "n": 2}})
    sequence += 1
    put(ms, 1, {"type": "ticker", "sequence": sequence, "product_id": base + "-USD", "price": text(value),
                "open_24h": text(open_), "volume_24h": f"{volume / 4:.8f}", "low_24h": text(open_),
                "high_24h": text(value), "volume_30d": "0", "best_bid": text(value - spread), "best_bid_size": "1",
                "best_ask": text(value + spread), "best_ask_size": "1", "side": "buy", "time": iso(ms),
                "trade_id": ids.get((1, base), 1), "last_size": "1"})
    put(ms, 2, {"channel": "ticker", "type": "update", "data": [{
        "symbol": base + "/USD", "bid": float(text(value - spread)), "bid_qty": 1, "ask": float(text(value + spread)),
        "ask_qty": 1, "last": float(text(value)), "volume": round(volume / 8, 4), "vwap": float(text(value)),
        "low": float(text(open_)), "high": float(text(value)), "change": float(text(value - open_)),
        "change_pct": round((value / open_ - 1) * 100, 2)}]})


for index, base in enumerate(USD):
    for second in range(0, SECONDS, 4):
        lines.append((START_MS + second * 1000 + index * 60, None, base))
for base in USD:
    at = START_MS + int(random.expovariate(1 / pause(base)))
    while at < END_MS:
        lines.append((at, True, base))
        at += int(random.expovariate(1 / pause(base))) + 1
plan, lines = sorted(lines, key=lambda line: line[0]), []
for at, kind, base in plan:
    trade(at, base) if kind else tickers(at, base)
head = {"format": "tidewire-recording", "version": 2, "sample": True,
        "sources": [{"name": kind, "kind": kind} for kind in ("binance", "coinbase", "kraken")]}
body = json.dumps(head) + "\n" + "".join(f"{ms * 1000} {source} {frame}\n" for ms, source, frame in lines)
out = pathlib.Path(__file__).with_name("sample.rec.gz")
out.write_bytes(gzip.compress(body.encode(), 9, mtime=0))
print(f"{len(lines)} frames, {out.stat().st_size} bytes")
