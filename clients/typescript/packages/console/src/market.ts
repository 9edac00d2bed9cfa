/** Market view: figures, top movers and recent trades. */
import type { MarketOverview, RecentTrade, WebSocketClient, TopMover } from "@tidewire/client";
import { byId, draw, make, setTrend } from "./dom.ts";
import { compact, percent, percentChange, price, size, timeOfDay, UNKNOWN } from "./format.ts";

const MAX_MOVERS = 6;
const MAX_TRADES = 14;

/** Subscribes to the market overview and shows it. */
export class MarketView {
  readonly #facts = byId("market", HTMLDListElement);
  readonly #movers = byId("movers", HTMLTableSectionElement);
  readonly #trades = byId("trades", HTMLTableSectionElement);
  #overview: MarketOverview | undefined;
  readonly #paint = (): void => {
    if (this.#overview !== undefined) {
      this.#draw(this.#overview);
    }
  };

  constructor(client: WebSocketClient) {
    client.subscribe("market:overview", (message) => {
      if (message.type === "market_overview") {
        this.#overview = message.data;
        draw(this.#paint);
      }
    });
  }

  #draw(overview: MarketOverview): void {
    const { coverage } = overview;
    const live = coverage === undefined ? UNKNOWN : `${String(coverage.live)} of ${String(coverage.symbols)}`;
    const hint = coverage?.withSupply === 0 ? "needs [prices.supply]" : "";
    this.#facts.replaceChildren(
      fact("Market cap, USD", compact(overview.totalMarketCap), hint),
      fact("Volume 24 h, USD", compact(overview.totalVolume)),
      fact("BTC dominance", percent(overview.btcDominance), hint),
      fact("Live symbols", live),
    );
    fill(this.#movers, overview.topMovers.slice(0, MAX_MOVERS).map(moverRow), "No price has changed yet");
    fill(this.#trades, overview.recentTrades.slice(0, MAX_TRADES).map(tradeRow), "No trades yet");
  }
}

/** A figure. `hint` names the configuration that an unknown figure needs. */
function fact(name: string, value: string, hint = ""): HTMLElement {
  const hints = value === UNKNOWN && hint !== "" ? [make("span", { class: "hint", text: hint })] : [];
  return make("div", {}, make("dt", { text: name }), make("dd", { text: value }, ...hints));
}

function fill(body: HTMLTableSectionElement, rows: readonly HTMLTableRowElement[], emptyText: string): void {
  body.replaceChildren(...(rows.length > 0 ? rows : [make("tr", {}, make("td", { class: "note", text: emptyText }))]));
}

function moverRow(mover: TopMover): HTMLTableRowElement {
  const change = make("td", { class: "strong", text: percentChange(mover.change24h) });
  setTrend(change, mover.change24h);
  return make("tr", {}, make("th", { text: mover.symbol, attributes: { scope: "row" } }), make("td", { text: price(mover.price) }), change);
}

function tradeRow(trade: RecentTrade): HTMLTableRowElement {
  const { side } = trade;
  const arrow = make("span", { text: side === "buy" ? "▲ " : side === "sell" ? "▼ " : "", attributes: { "aria-hidden": "true" } });
  const priceCell = make("td", {}, arrow, make("span", { class: "hidden", text: side ?? "" }), price(trade.price));
  setTrend(priceCell, side === "buy" ? 1 : side === "sell" ? -1 : 0);
  return make(
    "tr",
    { attributes: { title: `${side ?? "trade"} on ${trade.source}` } },
    make("td", { class: "time", text: timeOfDay(trade.timestamp) }),
    make("th", { text: trade.symbol, attributes: { scope: "row" } }),
    priceCell,
    make("td", { text: size(trade.size) }),
    make("td", { class: "soft wide", text: trade.source }),
  );
}
