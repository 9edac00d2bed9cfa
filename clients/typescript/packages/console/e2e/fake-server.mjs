// Fake server for layout checks: it sends extreme values that the sample lacks, such as
// prices of thirty digits and very long names.

const LONG_WORD = "Donaudampfschifffahrtsgesellschaftskapitaensmuetzenabzeichen";
const LONG_REASON = `excluded: 12,345.6 bp from the median of the others, more than the limit of 50.0 bp; ${LONG_WORD}; the next try is in 30 s`;
const THIRTY_DIGITS = 1.234_567_890_123_456e29;
const SYMBOLS = ["BTC-USD", `${LONG_WORD.toUpperCase()}-USD`, "SHIB-USD", "NIL-USD"];
const PRICES = [THIRTY_DIGITS, 1e-18, -98_765.4321, null];

const timestamp = Date.now();
const trades = { trades: 987_654_321_012_345, missing: 123_456_789 };

function update(symbol) {
  const price = PRICES[SYMBOLS.indexOf(symbol)] ?? null;
  return {
    symbol,
    price,
    change24h: -1_234_567.891,
    volume24h: price === null ? null : 1e33,
    timestamp,
    source: "aggregate",
    confidence: price === null ? null : Math.abs(price) / 3,
    sources: 1_234,
    stale: symbol === "SHIB-USD",
    twap: price,
    sample: true,
  };
}

function detail(source, state, reason) {
  const rate = { symbol: `${LONG_WORD.toUpperCase()}-USD`, price: THIRTY_DIGITS, ageMs: 86_400_000 };
  const range = { price: THIRTY_DIGITS, min: -THIRTY_DIGITS, max: THIRTY_DIGITS };
  return { source, ...range, ageMs: 1e9, weight: 1, state, ...trades, rate, ...(reason && { reason, volumeUnknown: reason }) };
}

const OVERVIEW = {
  totalMarketCap: -1e33,
  totalVolume: THIRTY_DIGITS,
  btcDominance: -1_234_567.89,
  topMovers: SYMBOLS.map((symbol, index) => ({ symbol, price: PRICES[index], change24h: -1_234_567.89 })),
  recentTrades: SYMBOLS.map((symbol) => ({ symbol, price: THIRTY_DIGITS, size: THIRTY_DIGITS, side: "sell", source: LONG_WORD, timestamp })),
  timestamp,
  coverage: { symbols: 1e9, live: 1e9, withSupply: 0, withVolume: 0 },
};

const VENUES = ["kraken", LONG_WORD].map((name) => ({
  name,
  kind: name,
  url: `wss://${name}.example`,
  state: "waiting",
  symbols: SYMBOLS,
  frames: 1,
  badFrames: 0,
  ...trades,
  connects: 1,
  ageMs: 1e9,
  lastError: LONG_REASON,
  sample: true,
  gaps: 123_456_789,
  offsetMs: -123_456_789,
}));

const NOTIFICATIONS = ["low", "urgent"].map((priority, index) => ({
  id: `n${index}`,
  type: `${LONG_WORD.toLowerCase()}_${LONG_WORD.toLowerCase()}`,
  title: `${LONG_WORD} ${LONG_REASON}`,
  body: `${LONG_REASON}\n${LONG_WORD}`,
  data: null,
  priority,
  timestamp: timestamp - 1e12 * index,
  read: index === 1,
  actions: [LONG_WORD, LONG_REASON].map((label) => ({ label, url: "https://example.com" })),
}));

const HASH = `0x${"ab".repeat(32)}`;
const RULE = {
  id: "r1",
  name: `${LONG_WORD} ${LONG_REASON}`,
  condition: { kind: "all", conditions: [{ kind: "price_above", symbol: `${LONG_WORD}-USD`, threshold: "123456789012345678901234567890.123456789" }, { kind: "transaction_state", chain: 9_007_199_254_740_991, txHash: HASH, state: LONG_WORD }] },
  repeat: { times: 123_456_789 },
  cooldownMs: 2_592_000_001,
  enabled: true,
  state: "stopped",
  stoppedReason: `${LONG_REASON} ${LONG_WORD}`,
  fires: 123_456_789_012,
  lastFiredAt: timestamp,
  version: 123_456_789,
};
const FIRES = [1, 2].map((n) => ({ id: `f${n}`, alertId: "r1", rule: RULE, value: 1e-18, previous: THIRTY_DIGITS, sources: [LONG_WORD], timestamp, symbol: LONG_WORD, retracted: n === 1 }));
const TICK = { value: THIRTY_DIGITS, timestamp: timestamp - 1e12, sources: [LONG_WORD, LONG_WORD] };

/** Blocks whose every second one was undone, in a chain with the largest id. */
const BLOCKS = [0, 1, 2, 3, 4, 5].map((n) => ({
  chain: 1,
  number: 9_007_199_254_740_000 + Math.floor(n / 2),
  hash: `0x${String(n).repeat(64)}`,
  parentHash: `0x${String(Math.max(0, n - 2 + (n % 2))).repeat(64)}`,
  timestamp: timestamp - 1e12,
  transactions: 123_456_789,
  baseFeePerGas: "123456789012345678901234567890",
  ...(n % 2 === 1 && { reorged: [`0x${String(n - 1).repeat(64)}`] }),
}));
const WALLET_UPDATES = [
  { type: "balance", data: { symbol: LONG_WORD, decimals: 2, current: "123456789012345678901234567890", delta: "-123456789012345678901234567890", blockNumber: 9_007_199_254_740_991, how: "trace" } },
  { type: "transaction", data: { hash: HASH, from: HASH, to: HASH, value: "123456789012345678901234567890123456", direction: "out", status: LONG_WORD, replacedBy: HASH } },
].map((update) => ({ ...update, address: HASH.slice(0, 42), chain: 9_007_199_254_740_991, timestamp, suspicious: LONG_REASON, removed: true }));
const TRANSACTION = { chain: 1, hash: HASH, state: "failed", confirmations: 123_456_789, required: 123_456_789, from: HASH.slice(0, 42), blockNumber: 9_007_199_254_740_991, blockHash: HASH, gasUsed: 9_007_199_254_740_991, reason: `${LONG_REASON} ${LONG_WORD}`, replacedBy: HASH, timestamp };

/** The history of a channel. */
function historyOf(channel) {
  const [type, data] = channel.startsWith("blocks:") ? ["block", BLOCKS] : channel.startsWith("wallet:") ? ["wallet_update", WALLET_UPDATES] : channel.startsWith("tx:") ? ["transaction", [TRANSACTION]] : ["message", []];
  return { channel, epoch: "e", seq: data.length, messages: data.map((each, index) => ({ type, seq: index + 1, data: each, timestamp })) };
}

function candle(symbol, index) {
  const start = Math.floor(timestamp / 60_000) * 60_000 - index * 60_000;
  return { symbol, interval: "1m", start, open: THIRTY_DIGITS, high: THIRTY_DIGITS, low: -THIRTY_DIGITS, close: 1e-18, volume: 1e33, closed: index > 0, sources: 1_234 };
}

/** The replies of calls, by the name of the method. */
const REPLIES = {
  ListSources: () => ({ sources: VENUES, tried: VENUES }),
  GetPrice: ({ symbol }) => ({ ...update(symbol), method: LONG_WORD, windowMs: 1e12, dayCoveredMs: 1e6, sourceDetails: [detail("kraken", "live"), detail(`a${LONG_WORD}`, "live"), detail(LONG_WORD, "excluded", LONG_REASON)] }),
  GetCandles: ({ symbol }) => ({ items: [2, 1, 0].map((index) => candle(symbol, index)) }),
  GetServerSeries: () => ({
    stepMs: 10_000,
    samples: [1, 0].map((index) => ({ timestamp: timestamp - index * 10_000, venues: 1e9, venuesUp: 123_456_789, chains: 1e9, chainsAtHead: 0, clients: 1e12, messagesPerSecond: 1e18, deliveryP99Ms: 1e12, alertsFired: 1e15 })),
  }),
  ExplainAlert: () => ({ rule: RULE, value: 1, holds: true, decision: "suppressed", reason: `${LONG_REASON}; ${LONG_WORD}`, tick: TICK, previousTick: TICK }),
  ListFires: () => ({ items: FIRES, next: "f2" }),
  ListConnections: () => ({
    connections: ["c", "d"].map((connectionId) => ({ connectionId, userId: LONG_WORD, transport: "websocket", address: "2001:db8:1234:5678:9abc:def0:1234:5678", connectedAt: 0, subscriptions: 1e9, rttMs: 1e9, jitterMs: 1e9, missedBeats: 123_456, bytesSent: 1e18, bytesReceived: 1e18, bytesQueued: 1e18 })),
    next: "d",
  }),
};

/** Returns the reply to a request and the pushes after it. */
function messagesFor({ type, id, data }) {
  const reply = (replyType, replyData) => ({ type: replyType, id, data: replyData });
  switch (type) {
    case "subscribe": {
      const names = data.channels.map((channel) => channel.channel ?? channel);
      const channels = names.map((channel) => ({ channel, epoch: "e", seq: 0, recovered: false }));
      return [reply("subscribed", { channels }), ...names.map(firstPush)];
    }
    case "get_price":
      return [reply("price", { ...update(data.symbol), method: "median", sourceDetails: [detail("kraken", "live"), detail(LONG_WORD, "excluded", LONG_REASON)] })];
    case "get_candles":
      return [reply("candles", REPLIES.GetCandles(data))];
    case "publish":
      return [reply("error", { code: "invalid_argument", message: LONG_REASON })];
    case "notifications":
      return [reply("notifications", { items: NOTIFICATIONS, unreadCount: 123_456_789_012, next: "n1" })];
    case "history":
      return [reply("history", historyOf(data.channel))];
    case "watch":
      return [reply("watching", TRANSACTION)];
    case "alerts":
      return [reply("alerts", { items: [RULE] })];
    case "alert_log":
      return [reply("alert_log", { items: FIRES, next: "f2" })];
    case "alert_update":
      return [reply("error", { code: "unavailable", message: `${LONG_REASON} ${LONG_WORD}` })];
    case "mark_read":
      return [reply("error", { code: "unavailable", message: LONG_REASON })];
    case "ping":
      return [reply("pong", { serverTime: timestamp, heartbeatMs: 60_000 })];
    default:
      return [];
  }
}

/** Returns the first push of a channel. */
function firstPush(channel) {
  if (channel === "market:overview") {
    return { type: "market_overview", channel, data: OVERVIEW };
  }
  if (channel.startsWith("prices:")) {
    return { type: "price", channel, data: update(channel.slice("prices:".length)) };
  }
  if (channel.startsWith("user:")) {
    return { type: "unread_count", channel, seq: 1, data: { unreadCount: 123_456_789_012 } };
  }
  if (/^(blocks|wallet|tx):/.test(channel)) {
    return { type: "status", data: { state: "degraded", reason: LONG_REASON } };
  }
  return { type: "message", channel, seq: THIRTY_DIGITS, data: { [LONG_WORD]: LONG_REASON } };
}

const ENDPOINTS = ["endpoint_head", "endpoint_score", "calls_total", "lies_total", "limits_total"].map((name) => `tidewire_chain_${name}{chain="1",endpoint="wss://${LONG_WORD}.example"} 123456789012\n`).join("");

/** Connects `page` to the fake server instead of the one that served it. */
export async function useFakeServer(page) {
  await page.routeWebSocket("**/v1/ws", (socket) => {
    const send = (message) => socket.send(JSON.stringify({ timestamp, ...message }));
    socket.onMessage((text) => messagesFor(JSON.parse(text)).forEach(send));
    send({ type: "welcome", data: { connectionId: "c", heartbeatMs: 60_000, serverTime: timestamp, version: `0.1.0-${LONG_WORD}`, subscriptions: [{ channel: `user:${LONG_WORD}`, epoch: "e", seq: 0 }] } });
    send({ type: "status", data: { state: "degraded", reason: LONG_REASON } });
  });
  await page.route("**/v1/rpc/**", (route) => {
    const [method] = /[^/]+$/.exec(route.request().url()) ?? [];
    const reply = REPLIES[method ?? ""];
    return reply === undefined ? route.fulfill({ status: 400, json: { code: "failed_precondition", message: LONG_REASON } }) : route.fulfill({ json: reply(route.request().postDataJSON()) });
  });
  await page.route("**/metrics", (route) => route.fulfill({ contentType: "text/plain", body: `tidewire_part_degraded{part="${LONG_WORD}"} 1\n${ENDPOINTS}` }));
  await page.route("**/readyz?verbose", (route) => route.fulfill({ json: { state: "degraded", data: { venues: { all: 1e9, live: 0 }, chains: { all: 1, live: 0 } }, parts: [1, 9_007_199_254_740_991].map((id) => ({ part: `chain ${id}`, state: "degraded", reason: `${LONG_REASON} ${LONG_WORD}`, since: timestamp })) } }));
  await page.route("**/readyz", (route) => route.fulfill({ contentType: "text/plain", body: LONG_REASON }));
}
