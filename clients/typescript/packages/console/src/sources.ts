/** Sources panel: the quote of each source of a symbol, below its open row. */
import { type PriceUpdate, type Rate, type SourceDetail, type WebSocketClient } from "@tidewire/client";
import { copyButtons } from "./copy.ts";
import { make, setText } from "./dom.ts";
import { age, compact, confidence, count, deviation, price } from "./format.ts";

/** Title and class of each column. A `wide` column is hidden where there is no room. */
const COLUMNS: readonly (readonly [string, string])[] = [
  ["Source", ""],
  ["State", ""],
  ["Price", ""],
  ["From median", "wide"],
  ["Age", "age"],
  ["Weight", ""],
  ["Trades", "wide"],
  ["Low – high", "wide"],
];

/** The sources of one symbol. */
export class SourcesPanel {
  readonly element: HTMLTableRowElement;
  readonly #client: WebSocketClient;
  readonly #symbol: string;
  readonly #body = make("tbody");
  readonly #note = make("p", { class: "note", text: "Loading…" });
  #isLoading = false;

  constructor(client: WebSocketClient, symbol: string, columns: number) {
    this.#client = client;
    this.#symbol = symbol;
    const head = make("tr", {}, ...COLUMNS.map(([text, kind]) => make("th", { class: kind, text, attributes: { scope: "col" } })));
    const table = make("table", { attributes: { "aria-label": `Sources of ${symbol}` } }, make("thead", {}, head), this.#body);
    const subject = { kind: "call", method: "PriceService/GetPrice", body: { symbol } } as const;
    const foot = make("div", { class: "foot" }, this.#note, copyButtons(`the sources of ${symbol}`, () => subject));
    const cell = make("td", { attributes: { colspan: String(columns) } }, make("div", { class: "sources" }, make("div", { class: "scroll" }, table), foot));
    this.element = make("tr", { class: "detail", attributes: { id: `sources-${symbol}` } }, cell);
  }

  /** Requests the sources again, unless a request is in flight. */
  async refresh(): Promise<void> {
    if (this.#isLoading) {
      return;
    }
    this.#isLoading = true;
    try {
      this.#show(await this.#client.request("get_price", { symbol: this.#symbol }));
    } catch (error) {
      // The old quotes stay on the page, so the note must say that they are old.
      setText(this.#note, `Not up to date: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      this.#isLoading = false;
    }
  }

  #show(update: PriceUpdate): void {
    const details = update.sourceDetails ?? [];
    this.#body.replaceChildren(...details.flatMap((detail) => sourceRows(detail, update.price)));
    setText(this.#note, summary(update, details));
  }
}

/** The row of a source, and a second one for remarks that are too long for a column. */
function sourceRows(detail: SourceDetail, from: number | null): HTMLTableRowElement[] {
  const state = make("span", { class: `chip ${detail.state}`, text: detail.state });
  const bar = make("span", { class: "bar", attributes: { "aria-hidden": "true" } });
  bar.style.setProperty("--part", String(detail.weight));
  const row = make(
    "tr",
    { attributes: { "data-source": detail.source } },
    make("th", { text: detail.source, attributes: { scope: "row" } }),
    make("td", {}, state),
    make("td", { text: price(detail.price) }),
    make("td", { class: "wide", text: deviation(detail.price, from) }),
    make("td", { class: "age", text: age(detail.ageMs) }),
    make("td", {}, bar, `${String(Math.round(detail.weight * 100))} %`),
    make("td", { class: "wide", text: compact(detail.trades) }),
    make("td", { class: "wide", text: `${price(detail.min)} – ${price(detail.max)}` }),
  );
  const lines = remarks(detail);
  if (lines.length === 0) {
    return [row];
  }
  const cell = make("td", { attributes: { colspan: String(COLUMNS.length) } }, make("span", { class: "reason", text: lines.join(" · ") }));
  return [row, make("tr", { class: "remarks" }, cell)];
}

/** Remarks on a source: why it is excluded, the conversion of its price, missing trades, unknown volume, other fields. */
function remarks({ reason, missing = 0, rate, volumeUnknown, unexpectedFields = [] }: SourceDetail): string[] {
  const missingTrades = missing === 0 ? undefined : `${count(missing, "trade")} missing`;
  const converted = rate === undefined ? undefined : conversion(rate);
  const unknown = volumeUnknown === undefined ? undefined : `volume unknown: ${volumeUnknown}`;
  const fields = unexpectedFields.length === 0 ? undefined : `fields not as documented: ${unexpectedFields.join(", ")}`;
  return [reason, converted, missingTrades, unknown, fields].filter((remark) => remark !== undefined);
}

/** The rate that converted the price. */
function conversion(rate: Rate): string {
  return `converted at ${rate.symbol} ${price(rate.price)}, ${age(rate.ageMs)} old`;
}

/** The method, the number of sources and the confidence, in one sentence. */
function summary({ method, price: value, confidence: width, stale }: PriceUpdate, details: readonly SourceDetail[]): string {
  const live = details.filter((detail) => detail.state === "live").length;
  const how = `${method ?? "Aggregate"} of ${String(live)} live of ${String(details.length)} sources`;
  const known = width === null ? "" : `, ${confidence(width, value)}`;
  return `${how.charAt(0).toUpperCase()}${how.slice(1)}${known}${stale ? "; no source is live, this is the last known price" : ""}`;
}
