/** The table of prices. */

import type { PriceUpdate } from "@tidewire/client";
import { byId, draw } from "./dom.ts";
import { age, amount, percent, price, sparkline } from "./format.ts";

const POINTS = 120;

/** One symbol's row. */
class PriceRow {
  readonly element = document.createElement("tr");
  readonly #cells: HTMLTableCellElement[] = [];
  readonly #tag = document.createElement("span");
  readonly #line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  readonly #values: number[] = [];
  #update: PriceUpdate | undefined;
  #seenAt = 0;
  readonly #paint = (): void => {
    this.#draw();
  };

  constructor(symbol: string) {
    for (const kind of ["", "price", "", "wide", "wide", "wide", "", ""]) {
      const cell = this.element.insertCell();
      cell.className = kind;
      this.#cells.push(cell);
    }
    this.#tag.className = "tag";
    this.#tag.textContent = "STALE";
    this.#tag.hidden = true;
    this.#cells[0]?.append(symbol, this.#tag);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 110 24");
    svg.setAttribute("aria-hidden", "true");
    svg.append(this.#line);
    this.#cells[6]?.append(svg);
  }

  take(update: PriceUpdate): void {
    const before = this.#values.at(-1);
    if (typeof update.price === "number" && !update.stale) {
      this.#values.push(update.price);
      if (this.#values.length > POINTS) {
        this.#values.shift();
      }
      if (before !== undefined && before !== update.price) {
        this.#cells[1]?.classList.toggle("up", update.price > before);
        this.#cells[1]?.classList.toggle("down", update.price < before);
      }
    }
    this.#update = update;
    this.#seenAt = Date.now();
    draw(this.#paint);
  }

  tick(): void {
    const cell = this.#cells[7];
    if (cell !== undefined && this.#update !== undefined) {
      cell.textContent = age(Date.now() - this.#seenAt);
    }
  }

  #draw(): void {
    const update = this.#update;
    if (update === undefined) {
      return;
    }
    const texts = [price(update.price), percent(update.change24h), amount(update.volume24h), price(update.confidence), String(update.sources)];
    texts.forEach((text, index) => {
      const cell = this.#cells[index + 1];
      if (cell !== undefined && cell.textContent !== text) {
        cell.textContent = text;
      }
    });
    this.#cells[2]?.classList.toggle("up", (update.change24h ?? 0) > 0);
    this.#cells[2]?.classList.toggle("down", (update.change24h ?? 0) < 0);
    this.element.classList.toggle("stale", update.stale);
    this.#tag.hidden = !update.stale;
    this.#line.setAttribute("points", sparkline(this.#values, 110, 24));
    this.tick();
  }
}

/** All prices that came. */
export class PriceTable {
  readonly #rows = new Map<string, PriceRow>();
  readonly #body = byId("prices", HTMLTableSectionElement);
  readonly #note = byId("prices-note", HTMLElement);
  readonly #sample = byId("sample", HTMLElement);

  /** The symbols shown. */
  get symbols(): string[] {
    return [...this.#rows.keys()];
  }

  take(update: PriceUpdate): void {
    let shown = this.#rows.get(update.symbol);
    if (shown === undefined) {
      shown = new PriceRow(update.symbol);
      shown.element.dataset["symbol"] = update.symbol;
      this.#rows.set(update.symbol, shown);
      this.#body.append(shown.element);
      this.#note.hidden = true;
    }
    this.#sample.hidden = update.sample !== true;
    shown.take(update);
  }

  tick(): void {
    for (const shown of this.#rows.values()) {
      shown.tick();
    }
  }
}
