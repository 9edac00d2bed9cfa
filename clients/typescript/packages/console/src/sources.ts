/** What is below an open row: what each source says of the symbol, asked for while it is open. */
import { type PriceUpdate, type Rate, type SourceDetail, type TidewireClient } from "@tidewire/client";
import { copyButtons } from "./copy.ts";
import { make, setText } from "./dom.ts";
import { age, amount, certainty, distance, price } from "./format.ts";

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
    this.#body.replaceChildren(...details.map((detail) => sourceRow(detail, update.price)));
    setText(this.#note, summary(update, details));
  }
}

function sourceRow(detail: SourceDetail, from: number | null): HTMLTableRowElement {
  const state = make("span", { class: `chip ${detail.state}`, text: detail.state });
  const why = detail.reason === undefined ? [] : [make("span", { class: "reason", text: detail.reason })];
  const bar = make("span", { class: "bar", attributes: { "aria-hidden": "true" } });
  bar.style.setProperty("--part", String(detail.weight));
  const { missing = 0, rate, volumeUnknown } = detail;
  const lost = missing === 0 ? [] : [make("span", { class: "reason", text: `${amount(missing)} missing` })];
  const unknown = volumeUnknown === undefined ? [] : [make("span", { class: "reason", text: "volume unknown", attributes: { title: volumeUnknown } })];
  const converted = rate === undefined ? [] : [make("span", { class: "reason", text: conversion(rate) })];
  return make(
    "tr",
    { attributes: { "data-source": detail.source } },
    make("th", { text: detail.source, attributes: { scope: "row" } }),
    make("td", {}, state, ...why),
    make("td", {}, price(detail.price), ...converted),
    make("td", { class: "wide", text: distance(detail.price, from) }),
    make("td", { text: age(detail.ageMs) }),
    make("td", {}, bar, `${String(Math.round(detail.weight * 100))} %`),
    make("td", { class: "wide" }, amount(detail.trades), ...lost, ...unknown),
    make("td", { class: "wide", text: `${price(detail.min)} – ${price(detail.max)}` }),
  );
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
