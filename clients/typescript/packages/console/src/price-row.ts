/** Price row: one symbol in the table of prices, with its sparkline. */
import type { PriceUpdate } from "@tidewire/client";
import { draw, make, makeSvg, setText, setTrend } from "./dom.ts";
import { age, compact, confidence, count, percentChange, price, sparkline } from "./format.ts";

/** Points of the sparkline, and milliseconds for each: a minute and a half. */
const MAX_POINTS = 120;
const POINT_MS = 750;
const WIDTH = 110;
const HEIGHT = 28;

/** A row that shows the last price of its symbol. */
export class PriceRow {
  readonly element: HTMLTableRowElement;
  /** The button that opens and closes the sources below the row. */
  readonly toggle: HTMLButtonElement;
  readonly symbol: string;
  readonly #now: () => number;
  readonly #tag = make("span", { class: "tag", text: "stale", attributes: { hidden: "", title: "No source is live: this is the last known price" } });
  readonly #brief = make("span", { class: "brief" });
  readonly #price = make("span", { class: "digits" });
  readonly #briefChange = make("span", { class: "brief" });
  readonly #change = make("td", { class: "wide" });
  readonly #volume = make("td", { class: "wide wider" });
  readonly #confidence = make("td", { class: "wide wider" });
  readonly #sources = make("td", { class: "wide" });
  readonly #age = make("td", { class: "wide age" });
  readonly #line = makeSvg("polyline");
  readonly #area = makeSvg("polygon");
  readonly #svg = makeSvg("svg", { viewBox: `0 0 ${String(WIDTH)} ${String(HEIGHT)}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  readonly #values: number[] = [];
  #pointStartedAt = Number.NEGATIVE_INFINITY;
  #update: PriceUpdate | undefined;
  #drawnPrice: number | null = null;
  readonly #paint = (): void => {
    this.#draw();
  };

  /** `now` is the server's time in milliseconds. */
  constructor(symbol: string, now: () => number) {
    this.symbol = symbol;
    this.#now = now;
    this.toggle = make("button", { class: "symbol", text: symbol, attributes: { type: "button", "aria-expanded": "false" } });
    this.#svg.append(this.#area, this.#line);
    this.element = make(
      "tr",
      { attributes: { "data-symbol": symbol } },
      make("th", { attributes: { scope: "row" } }, this.toggle, this.#tag, this.#brief),
      make("td", { class: "trend" }, this.#svg),
      make("td", { class: "price" }, this.#price, this.#briefChange),
      this.#change,
      this.#volume,
      this.#confidence,
      this.#sources,
      this.#age,
    );
  }

  /** Shows a new price. */
  show(update: PriceUpdate): void {
    if (update.price !== null && !update.stale) {
      this.#addPoint(update.price);
    }
    this.#update = update;
    draw(this.#paint);
  }

  /** Updates the age of the price. */
  tick(): void {
    if (this.#update === undefined) {
      return;
    }
    const passed = age(this.#now() - this.#update.timestamp);
    setText(this.#age, passed);
    setText(this.#brief, this.#update.stale ? passed : `${passed} · ${count(this.#update.sources, "source")}`);
  }

  /** Adds a point to the sparkline. Prices within the time of one point replace each other. */
  #addPoint(value: number): void {
    const now = performance.now();
    if (now - this.#pointStartedAt < POINT_MS) {
      this.#values[this.#values.length - 1] = value;
      return;
    }
    this.#pointStartedAt = now;
    this.#values.push(value);
    if (this.#values.length > MAX_POINTS) {
      this.#values.shift();
    }
  }

  #draw(): void {
    const update = this.#update;
    if (update === undefined) {
      return;
    }
    this.#flash(update.price);
    setText(this.#price, price(update.price));
    for (const cell of [this.#change, this.#briefChange]) {
      setText(cell, percentChange(update.change24h));
      setTrend(cell, update.change24h);
    }
    setText(this.#volume, compact(update.volume24h));
    setText(this.#confidence, confidence(update.confidence, update.price));
    setText(this.#sources, String(update.sources));
    this.element.classList.toggle("stale", update.stale);
    this.#tag.hidden = !update.stale;
    const points = sparkline(this.#values, WIDTH, HEIGHT);
    this.#line.setAttribute("points", points);
    this.#area.setAttribute("points", `0,${String(HEIGHT)} ${points} ${String(WIDTH)},${String(HEIGHT)}`);
    const [first, last] = [this.#values[0], this.#values.at(-1)];
    setTrend(this.#svg, first === undefined || last === undefined ? 0 : last - first);
    this.tick();
  }

  /** Flashes a colour when the price changes. */
  #flash(value: number | null): void {
    const before = this.#drawnPrice;
    this.#drawnPrice = value;
    if (before === null || value === null || before === value) {
      return;
    }
    setTrend(this.#price, value - before);
    // The animation has two names, because only a change of name restarts it.
    this.#price.dataset["flash"] = this.#price.dataset["flash"] === "a" ? "b" : "a";
  }
}
