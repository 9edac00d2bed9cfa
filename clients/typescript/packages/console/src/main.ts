/** The console page: what a server says, live. */

import { isSourceList, type MarketOverview, TidewireClient } from "@tidewire/client";
import { byId, draw, row } from "./dom.ts";
import { Explorer } from "./explorer.ts";
import { age, amount, percent, price, UNKNOWN } from "./format.ts";
import { PriceTable } from "./prices.ts";
import { KINDS, snippet } from "./snippets.ts";

const client = new TidewireClient({ url: `${location.origin.replace(/^http/, "ws")}/v1/ws` });
const prices = new PriceTable();
const explorer = new Explorer(client);
const followed = new Set<string>();

function showState(): void {
  const { state } = client;
  const shown = byId("state", HTMLElement);
  shown.dataset["status"] = state.status;
  shown.textContent =
    state.status === "offline" ? `offline, next try in ${age(state.retryAt - Date.now())}` : state.status;
  if (state.status === "live") {
    byId("version", HTMLElement).textContent = `version ${state.welcome.version}, heartbeat ${String(state.heartbeatMs)} ms`;
  }
}

function showMarket(overview: MarketOverview): void {
  const facts: [string, string][] = [
    ["Market cap", amount(overview.totalMarketCap)],
    ["Volume 24 h (USD)", amount(overview.totalVolume)],
    ["BTC dominance", percent(overview.btcDominance)],
    ["Live symbols", overview.coverage === undefined ? UNKNOWN : `${String(overview.coverage.live)} of ${String(overview.coverage.symbols)}`],
  ];
  const list = byId("market", HTMLDListElement);
  list.replaceChildren(
    ...facts.flatMap(([name, value]) => {
      const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      detail.textContent = value;
      return [term, detail];
    }),
  );
  const movers = overview.topMovers.slice(0, 5).map((mover) => row(mover.symbol, price(mover.price), percent(mover.change24h)));
  byId("movers", HTMLTableSectionElement).replaceChildren(...movers);
}

async function showVenues(): Promise<void> {
  const response = await fetch("/v1/rpc/PriceService/ListSources", { method: "POST", body: "{}" });
  const answer: unknown = await response.json();
  if (!isSourceList(answer)) {
    return;
  }
  const venues = answer.sources.map((source) => {
    const shown = row(source.name, source.state, `${amount(source.frames)} frames`, age(source.ageMs));
    shown.title = source.lastError ?? source.url;
    return shown;
  });
  byId("venues", HTMLTableSectionElement).replaceChildren(...venues);
  for (const symbol of new Set(answer.sources.flatMap((source) => source.symbols))) {
    follow(symbol);
  }
}

function follow(symbol: string): void {
  if (followed.has(symbol)) {
    return;
  }
  followed.add(symbol);
  client.subscribe(`prices:${symbol}`, (message) => {
    if (message.type === "price") {
      prices.take(message.data);
    }
  });
}

function addCopyButtons(): void {
  const channels: Record<string, () => string[]> = {
    prices: () => prices.symbols.map((symbol) => `prices:${symbol}`),
    market: () => ["market:overview"],
    explorer: () => [explorer.channel],
  };
  for (const place of document.querySelectorAll<HTMLElement>("[data-copy]")) {
    for (const kind of KINDS) {
      const button = document.createElement("button");
      button.textContent = kind;
      button.title = `Copy as ${kind}`;
      button.addEventListener("click", () => {
        const code = snippet(kind, location.origin, channels[place.dataset["copy"] ?? ""]?.() ?? []);
        void navigator.clipboard.writeText(code).then(() => {
          button.textContent = "copied";
          setTimeout(() => (button.textContent = kind), 1_200);
        });
      });
      place.append(button);
    }
  }
}

client.on("state", () => {
  draw(showState);
});
client.on("rtt", (rtt) => {
  byId("rtt", HTMLElement).textContent = `${rtt.toFixed(0)} ms round trip`;
});
client.subscribe("market:overview", (message) => {
  if (message.type === "market_overview") {
    const { data } = message;
    draw(() => {
      showMarket(data);
    });
  }
});
addCopyButtons();
client.connect();
const refresh = (): void => {
  if (!document.hidden) {
    // A server that is away is shown by the state of the connection.
    showVenues().catch(() => undefined);
  }
};
refresh();
setInterval(refresh, 5_000);
setInterval(() => {
  if (!document.hidden) {
    draw(showState);
    prices.tick();
  }
}, 1_000);
