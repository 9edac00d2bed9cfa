/** The table of prices. */
import type { PriceUpdate, TidewireClient } from "@tidewire/client";
import { byId } from "./dom.ts";
import { PriceRow } from "./price-row.ts";
import { SourcesPanel } from "./sources.ts";

const COLUMNS = 8;

/** All prices that came, in the order in which the symbols were followed. */
export class PriceTable {
  readonly #client: TidewireClient;
  /** `undefined` until the first price. */
  readonly #rows = new Map<string, PriceRow | undefined>();
  readonly #open = new Map<string, SourcesPanel>();
  readonly #body = byId("prices", HTMLTableSectionElement);
  readonly #waiting = byId("prices-note", HTMLElement);

  constructor(client: TidewireClient) {
    this.#client = client;
  }

  /** The symbols shown. */
  get symbols(): string[] {
    return this.#shown().map((row) => row.symbol);
  }

  /** Follows a symbol, once. */
  follow(symbol: string): void {
    if (this.#rows.has(symbol)) {
      return;
    }
    this.#rows.set(symbol, undefined);
    this.#client.subscribe(`prices:${symbol}`, (message) => {
      if (message.type === "price") {
        this.#take(symbol, message.data);
      }
    });
  }

  /** Time passed. */
  tick(): void {
    for (const row of this.#shown()) {
      row.tick();
    }
    for (const panel of this.#open.values()) {
      void panel.refresh();
    }
  }

  #take(symbol: string, update: PriceUpdate): void {
    const row = this.#rows.get(symbol) ?? this.#add(symbol);
    row.take(update);
  }

  #add(symbol: string): PriceRow {
    const row = new PriceRow(symbol, () => Date.now() + this.#client.clockOffsetMs);
    const place = [...this.#rows.keys()].indexOf(symbol);
    const after = [...this.#rows.values()].slice(place).find((other) => other !== undefined);
    this.#body.insertBefore(row.element, after?.element ?? null);
    this.#rows.set(symbol, row);
    this.#waiting.hidden = true;
    row.element.addEventListener("click", () => {
      // A click that selects text opens nothing.
      if (document.getSelection()?.isCollapsed !== false) {
        this.#toggle(row);
      }
    });
    return row;
  }

  #toggle(row: PriceRow): void {
    const open = this.#open.get(row.symbol);
    row.toggle.setAttribute("aria-expanded", String(open === undefined));
    row.element.classList.toggle("open", open === undefined);
    if (open !== undefined) {
      this.#open.delete(row.symbol);
      row.toggle.removeAttribute("aria-controls");
      open.element.remove();
      return;
    }
    const panel = new SourcesPanel(this.#client, row.symbol, COLUMNS);
    this.#open.set(row.symbol, panel);
    row.toggle.setAttribute("aria-controls", panel.element.id);
    row.element.after(panel.element);
    void panel.refresh();
  }

  #shown(): PriceRow[] {
    return [...this.#rows.values()].filter((row) => row !== undefined);
  }
}
