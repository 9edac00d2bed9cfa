/** Venue table: the venues of the prices, with their connection state. */
import type { PriceSource } from "@tidewire/client";
import { isSourceList } from "@tidewire/client/checks";
import { byId, make } from "./dom.ts";
import { age, clockOffset, compact, count } from "./format.ts";

/** Requests and shows the venues. Returns their symbols, or `undefined` if the server did not respond. */
export async function showVenues(): Promise<readonly string[] | undefined> {
  const sources = await listSources().catch(() => undefined);
  if (sources === undefined) {
    // The connection view reports a server that does not respond.
    return undefined;
  }
  byId("venues", HTMLTableSectionElement).replaceChildren(...sources.map(venueRow));
  byId("sample", HTMLElement).hidden = !sources.some((source) => source.sample === true);
  const symbols = [...new Set(sources.flatMap((source) => source.symbols))];
  // Prices in dollars first, otherwise in the order of the configuration.
  return symbols.sort((a, b) => Number(b.endsWith("-USD")) - Number(a.endsWith("-USD")));
}

async function listSources(): Promise<readonly PriceSource[] | undefined> {
  const response = await fetch("/v1/rpc/PriceService/ListSources", { method: "POST", body: "{}" });
  const body: unknown = await response.json();
  return isSourceList(body) ? body.sources : undefined;
}

function venueRow(source: PriceSource): HTMLTableRowElement {
  const error = source.state === "connected" ? undefined : source.lastError;
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
