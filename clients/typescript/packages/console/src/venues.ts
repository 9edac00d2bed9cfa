/** Venue table: the venues of the prices, with their connection state. */
import type { PriceSource, SourceList } from "@tidewire/client";
import { isSourceList } from "@tidewire/client/checks";
import { base } from "./base.ts";
import { byId, make, setText } from "./dom.ts";
import { age, clockOffset, compact, count } from "./format.ts";

/** What the venue table found out. */
export interface Venues {
  readonly symbols: readonly string[];
  /** How much data there is, in words. */
  readonly data: string;
}

/** Requests and shows the venues. Returns `undefined` if the server did not respond. */
export async function showVenues(): Promise<Venues | undefined> {
  const list = await listSources().catch(() => undefined);
  if (list === undefined) {
    // The connection view reports a server that does not respond.
    return undefined;
  }
  const { sources, tried = [] } = list;
  byId("venues", HTMLTableSectionElement).replaceChildren(...sources.map(venueRow));
  const isSample = sources.some((source) => source.sample === true);
  byId("sample", HTMLElement).hidden = !isSample;
  const notice = byId("tried", HTMLElement);
  notice.hidden = tried.length === 0;
  setText(notice, `No venue answers: ${tried.map(({ name }) => name).join(", ")}. They are tried on, and market data replaces this once one delivers.`);
  const symbols = [...new Set(sources.flatMap((source) => source.symbols))];
  // Prices in dollars first, otherwise in the order of the configuration.
  symbols.sort((a, b) => Number(b.endsWith("-USD")) - Number(a.endsWith("-USD")));
  const live = sources.filter(({ state }) => state === "live").length;
  return { symbols, data: isSample ? "sample data" : `${String(live)} of ${count(sources.length, "venue")}` };
}

async function listSources(): Promise<SourceList | undefined> {
  const response = await fetch(`${base}/v1/rpc/PriceService/ListSources`, { method: "POST", body: "{}" });
  const body: unknown = await response.json();
  return isSourceList(body) ? body : undefined;
}

function venueRow(source: PriceSource): HTMLTableRowElement {
  const error = source.state === "live" ? undefined : source.lastError;
  const { gaps = 0, offsetMs } = source;
  const gapNotes = gaps === 0 ? [] : [make("span", { class: "reason", text: count(gaps, "gap") })];
  const clockNotes = offsetMs === undefined || Math.round(offsetMs) === 0 ? [] : [make("span", { class: "reason", text: clockOffset(offsetMs) })];
  return make(
    "tr",
    { attributes: { title: source.lastError ?? source.url } },
    make("th", { text: source.name, attributes: { scope: "row" } }),
    make("td", {}, make("span", { class: `chip ${source.state}`, text: source.state }), error === undefined ? "" : make("span", { class: "reason", text: error })),
    make("td", {}, `${compact(source.trades)} trades`, ...gapNotes),
    make("td", { class: "soft" }, age(source.ageMs), ...clockNotes),
  );
}
