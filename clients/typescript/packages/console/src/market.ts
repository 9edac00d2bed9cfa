/** The market at a glance: figures, top movers, recent trades. */
import type { MarketOverview, RecentTrade, TidewireClient, TopMover } from "@tidewire/client";
import { byId, draw, make, setTrend } from "./dom.ts";
import { amount, percent, price, share, size, timeOfDay, UNKNOWN } from "./format.ts";

const MOVERS = 6;
const TRADES = 14;

/** Follows the overview and shows it. */
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

  constructor(client: TidewireClient) {
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
    const needs = coverage?.withSupply === 0 ? "needs [prices.supply]" : "";
    this.#facts.replaceChildren(
      fact("Market cap, USD", amount(overview.totalMarketCap), needs),
      fact("Volume 24 h, USD", amount(overview.totalVolume)),
      fact("BTC dominance", share(overview.btcDominance), needs),
      fact("Live symbols", live),
    );
    fill(this.#movers, overview.topMovers.slice(0, MOVERS).map(moverRow), "No symbol has moved yet");
    fill(this.#trades, overview.recentTrades.slice(0, TRADES).map(tradeRow), "No trades yet");
  }
}

/** A figure; `needs` says what an unknown one is for want of. */
function fact(name: string, value: string, needs = ""): HTMLElement {
  const hint = value === UNKNOWN && needs !== "" ? [make("span", { class: "hint", text: needs })] : [];
  return make("div", {}, make("dt", { text: name }), make("dd", { text: value }, ...hint));
}

function fill(body: HTMLTableSectionElement, rows: readonly HTMLTableRowElement[], otherwise: string): void {
  body.replaceChildren(...(rows.length > 0 ? rows : [make("tr", {}, make("td", { class: "note", text: otherwise }))]));
}

function moverRow(mover: TopMover): HTMLTableRowElement {
  const change = make("td", { class: "strong", text: percent(mover.change24h) });
  setTrend(change, mover.change24h);
  return make("tr", {}, make("th", { text: mover.symbol, attributes: { scope: "row" } }), make("td", { text: price(mover.price) }), change);
}

function tradeRow(trade: RecentTrade): HTMLTableRowElement {
  const { side } = trade;
  const arrow = make("span", { text: side === "buy" ? "▲ " : side === "sell" ? "▼ " : "", attributes: { "aria-hidden": "true" } });
  const paid = make("td", {}, arrow, make("span", { class: "hidden", text: side ?? "" }), price(trade.price));
  setTrend(paid, side === "buy" ? 1 : side === "sell" ? -1 : 0);
  return make(
    "tr",
    { attributes: { title: `${side ?? "trade"} on ${trade.source}` } },
    make("td", { class: "time", text: timeOfDay(trade.timestamp) }),
    make("th", { text: trade.symbol, attributes: { scope: "row" } }),
    paid,
    make("td", { text: size(trade.size) }),
    make("td", { class: "soft wide", text: trade.source }),
  );
}
