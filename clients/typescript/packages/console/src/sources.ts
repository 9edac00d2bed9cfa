/** What is below an open row: what each source says of the symbol, asked for while it is open. */
import { type PriceUpdate, type Rate, type SourceDetail, type TidewireClient } from "@tidewire/client";
import { copyButtons } from "./copy.ts";
import { make, setText } from "./dom.ts";
import { age, amount, certainty, count, distance, price } from "./format.ts";

const COLUMNS: readonly (readonly [string, string])[] = [
  ["Source", ""],
  ["State", ""],
  ["Price", ""],
  ["From median", "wide"],
  ["Age", ""],
  ["Weight", ""],
  ["Trades", "wide"],
  ["Low – high", "wide"],
];

/** The sources of one symbol. */
export class SourcesPanel {
  readonly element: HTMLTableRowElement;
  readonly #client: TidewireClient;
  readonly #symbol: string;
  readonly #body = make("tbody");
  readonly #note = make("p", { class: "note", text: "Asking…" });
  #isAsking = false;

  constructor(client: TidewireClient, symbol: string, columns: number) {
    this.#client = client;
    this.#symbol = symbol;
    const head = make("tr", {}, ...COLUMNS.map(([text, kind]) => make("th", { class: kind, text, attributes: { scope: "col" } })));
    const table = make("table", { attributes: { "aria-label": `Sources of ${symbol}` } }, make("thead", {}, head), this.#body);
    const shown = { kind: "call", method: "PriceService/GetPrice", body: { symbol } } as const;
    const foot = make("div", { class: "foot" }, this.#note, copyButtons(`the sources of ${symbol}`, () => shown));
    const cell = make("td", { attributes: { colspan: String(columns) } }, make("div", { class: "sources" }, table, foot));
    this.element = make("tr", { class: "detail", attributes: { id: `sources-${symbol}` } }, cell);
  }

  /** Asks anew; one question at a time. */
  async refresh(): Promise<void> {
    if (this.#isAsking) {
      return;
    }
    this.#isAsking = true;
    try {
      this.#show(await this.#client.request("get_price", { symbol: this.#symbol }));
    } catch (error) {
      // What was shown stays; the note says that it is old.
      setText(this.#note, `Not up to date: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      this.#isAsking = false;
    }
  }

  #show(update: PriceUpdate): void {
    const details = update.sourceDetails ?? [];
    this.#body.replaceChildren(...details.flatMap((detail) => sourceRows(detail, update.price)));
    setText(this.#note, summary(update, details));
  }
}

/** The row of a source, and below it what needs more words than a column has room for. */
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
    make("td", { class: "wide", text: distance(detail.price, from) }),
    make("td", { text: age(detail.ageMs) }),
    make("td", {}, bar, `${String(Math.round(detail.weight * 100))} %`),
    make("td", { class: "wide", text: amount(detail.trades) }),
    make("td", { class: "wide", text: `${price(detail.min)} – ${price(detail.max)}` }),
  );
  const words = remarks(detail);
  if (words.length === 0) {
    return [row];
  }
  const cell = make("td", { attributes: { colspan: String(COLUMNS.length) } }, make("span", { class: "reason", text: words.join(" · ") }));
  return [row, make("tr", { class: "remarks" }, cell)];
}

/** Why a source does not count, what it lacks, and what was made of it. */
function remarks({ reason, missing = 0, rate, volumeUnknown }: SourceDetail): string[] {
  const lost = missing === 0 ? undefined : `${count(missing, "trade")} missing`;
  const converted = rate === undefined ? undefined : conversion(rate);
  const unknown = volumeUnknown === undefined ? undefined : `volume unknown: ${volumeUnknown}`;
  return [reason, converted, lost, unknown].filter((words) => words !== undefined);
}

/** What the price was multiplied by. */
function conversion(rate: Rate): string {
  return `at ${rate.symbol} ${price(rate.price)}, ${age(rate.ageMs)}`;
}

function summary({ method, price: value, confidence, stale }: PriceUpdate, details: readonly SourceDetail[]): string {
  const live = details.filter((detail) => detail.state === "live").length;
  const how = `${method ?? "Aggregate"} of ${String(live)} live of ${String(details.length)} sources`;
  const known = confidence === null ? "" : `, ${certainty(confidence, value)}`;
  return `${how.charAt(0).toUpperCase()}${how.slice(1)}${known}${stale ? "; no source is live, this is the last price known" : ""}`;
}
