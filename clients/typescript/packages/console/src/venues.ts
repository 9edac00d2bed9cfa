/** The venues that prices come from, asked for every few seconds. */
import { isSourceList, type PriceSource } from "@tidewire/client";
import { byId, make } from "./dom.ts";
import { age, amount, clock, count } from "./format.ts";

/** Asks, shows, and gives the symbols that the venues have. `undefined`: the server did not answer. */
export async function showVenues(): Promise<readonly string[] | undefined> {
  const sources = await ask().catch(() => undefined);
  if (sources === undefined) {
    // A server that is away is shown by the state of the connection.
    return undefined;
  }
  byId("venues", HTMLTableSectionElement).replaceChildren(...sources.map(venueRow));
  byId("sample", HTMLElement).hidden = !sources.some((source) => source.sample === true);
  const symbols = [...new Set(sources.flatMap((source) => source.symbols))];
  // Dollars first; apart from that in the order of the configuration.
  return symbols.sort((a, b) => Number(b.endsWith("-USD")) - Number(a.endsWith("-USD")));
}

async function ask(): Promise<readonly PriceSource[] | undefined> {
  const response = await fetch("/v1/rpc/PriceService/ListSources", { method: "POST", body: "{}" });
  const answer: unknown = await response.json();
  return isSourceList(answer) ? answer.sources : undefined;
}

function venueRow(source: PriceSource): HTMLTableRowElement {
  const fault = source.state === "live" ? undefined : source.lastError;
  const { gaps = 0, offsetMs } = source;
  const lost = gaps === 0 ? [] : [make("span", { class: "reason", text: count(gaps, "gap") })];
  const ahead = offsetMs === undefined || Math.round(offsetMs) === 0 ? [] : [make("span", { class: "reason", text: clock(offsetMs) })];
  return make(
    "tr",
    { attributes: { title: source.lastError ?? source.url } },
    make("th", { text: source.name, attributes: { scope: "row" } }),
    make("td", {}, make("span", { class: `chip ${source.state}`, text: source.state }), fault === undefined ? "" : make("span", { class: "reason", text: fault })),
    make("td", {}, `${amount(source.trades)} trades`, ...lost),
    make("td", { class: "soft" }, age(source.ageMs), ...ahead),
  );
}
