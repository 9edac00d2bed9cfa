/** Price table: one row for each symbol, which opens into its sources. */
import type { PriceUpdate, WebSocketClient } from "@tidewire/client";
import { byId } from "./dom.ts";
import { PriceRow } from "./price-row.ts";
import { SourcesPanel } from "./sources.ts";

/** Columns of the table in `index.html`. */
const COLUMNS = 8;

/** All prices received, in the order of their subscriptions. */
export class PriceTable {
  readonly #client: WebSocketClient;
  /** A row is `undefined` until the first price of its symbol. */
  readonly #rows = new Map<string, PriceRow | undefined>();
  readonly #open = new Map<string, SourcesPanel>();
  readonly #body = byId("prices", HTMLTableSectionElement);
  readonly #emptyNote = byId("prices-note", HTMLElement);

  constructor(client: WebSocketClient) {
    this.#client = client;
  }

  /** The symbols with a price. */
  get symbols(): string[] {
    return this.#shown().map((row) => row.symbol);
  }

  /** Subscribes to a symbol. A repeated call does nothing. */
  subscribe(symbol: string): void {
    if (this.#rows.has(symbol)) {
      return;
    }
    this.#rows.set(symbol, undefined);
    this.#client.subscribe(`prices:${symbol}`, (message) => {
      if (message.type === "price") {
        this.#show(symbol, message.data);
      }
    });
  }

  /** Updates the ages of the prices and the open sources. */
  tick(): void {
    for (const row of this.#shown()) {
      row.tick();
    }
    for (const panel of this.#open.values()) {
      void panel.refresh();
    }
  }

  #show(symbol: string, update: PriceUpdate): void {
    const row = this.#rows.get(symbol) ?? this.#add(symbol);
    row.show(update);
  }

  #add(symbol: string): PriceRow {
    const row = new PriceRow(symbol, () => Date.now() + this.#client.clockOffsetMs);
    const index = [...this.#rows.keys()].indexOf(symbol);
    const next = [...this.#rows.values()].slice(index).find((other) => other !== undefined);
    this.#body.insertBefore(row.element, next?.element ?? null);
    this.#rows.set(symbol, row);
    this.#emptyNote.hidden = true;
    row.element.addEventListener("click", () => {
      // A click that selects text must not open the row.
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
