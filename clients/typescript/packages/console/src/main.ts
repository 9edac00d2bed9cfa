/** Console page: live prices, market, venues, inbox and channels of a server. */
import { WebSocketClient } from "@tidewire/client";
import { base } from "./base.ts";
import { ConnectionView } from "./connection.ts";
import { copyButtons } from "./copy.ts";
import { byId } from "./dom.ts";
import { Explorer } from "./explorer.ts";
import { Inbox } from "./inbox.ts";
import { MarketView } from "./market.ts";
import { PriceTable } from "./prices.ts";
import { showVenues } from "./venues.ts";

/** Ages on the page change with each tick. */
const TICK_MS = 1_000;
/** Ticks between two requests for the venues. */
const VENUES_TICKS = 5;

const url = `${base.replace(/^http/, "ws")}/v1/ws`;
const client = new WebSocketClient(url);
const connection = new ConnectionView(client);
const prices = new PriceTable(client);
new MarketView(client);
new Explorer(client);
const inbox = new Inbox(url);

byId("prices-copy", HTMLElement).replaceWith(
  copyButtons("the prices", () => ({ kind: "channels", channels: prices.symbols.map((symbol) => `prices:${symbol}`) })),
);
byId("market-copy", HTMLElement).replaceWith(copyButtons("the market", () => ({ kind: "channels", channels: ["market:overview"] })));
byId("venues-copy", HTMLElement).replaceWith(
  copyButtons("the venues", () => ({ kind: "call", method: "PriceService/ListSources", body: {} })),
);

async function refreshVenues(): Promise<void> {
  const venues = await showVenues();
  if (venues === undefined) {
    return;
  }
  connection.showData(venues.data);
  for (const symbol of venues.symbols) {
    prices.subscribe(symbol);
  }
}

let ticks = 0;
function tick(): void {
  if (document.hidden) {
    return;
  }
  connection.tick();
  prices.tick();
  inbox.tick();
  if (client.state.status === "connected" && ticks % VENUES_TICKS === 0) {
    void refreshVenues();
  }
  ticks += 1;
}

client.on("state", ({ status }) => {
  if (status === "connected") {
    void refreshVenues();
  }
});
client.connect();
setInterval(tick, TICK_MS);
