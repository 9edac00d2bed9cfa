/** The market at a glance: figures, top movers, recent trades. */
import type { MarketOverview, RecentTrade, TidewireClient, TopMover } from "@tidewire/client";
import { byId, draw, make, setTrend } from "./dom.ts";
import { amount, percent, price, share, size, timeOfDay, UNKNOWN } from "./format.ts";

const MOVERS = 5;
const TRADES = 8;

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
    this.#facts.replaceChildren(
      fact("Market cap", amount(overview.totalMarketCap), "In USD, of the symbols whose supply is configured"),
      fact("Volume 24 h", amount(overview.totalVolume), "In USD"),
      fact("BTC dominance", share(overview.btcDominance), "Bitcoin's part of the market cap"),
      fact("Live symbols", live, "Symbols with a live source"),
    );
    fill(this.#movers, overview.topMovers.slice(0, MOVERS).map(moverRow), "No symbol has moved yet");
    fill(this.#trades, overview.recentTrades.slice(0, TRADES).map(tradeRow), "No trades yet");
  }
}

function fact(name: string, value: string, title: string): HTMLElement {
  return make("div", { attributes: { title } }, make("dt", { text: name }), make("dd", { text: value }));
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
  const paid = make("td", { text: price(trade.price) });
  setTrend(paid, trade.side === "buy" ? 1 : trade.side === "sell" ? -1 : 0);
  return make(
    "tr",
    { attributes: { title: `${trade.side ?? "trade"} on ${trade.source}` } },
    make("td", { class: "time", text: timeOfDay(trade.timestamp) }),
    make("th", { text: trade.symbol, attributes: { scope: "row" } }),
    paid,
    make("td", { text: size(trade.size) }),
    make("td", { class: "soft", text: trade.source }),
  );
}
