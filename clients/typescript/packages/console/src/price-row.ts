/** One symbol's row in the table of prices. */
import type { PriceUpdate } from "@tidewire/client";
import { draw, make, makeSvg, setText, setTrend } from "./dom.ts";
import { age, amount, certainty, count, percent, price, sparkline } from "./format.ts";

/** The sparkline holds so many points, one for each step: a minute and a half. */
const POINTS = 120;
const STEP_MS = 750;
const WIDTH = 110;
const HEIGHT = 28;

/** A row that follows its price. */
export class PriceRow {
  readonly element: HTMLTableRowElement;
  /** Opens and closes what is below the row. */
  readonly toggle: HTMLButtonElement;
  readonly symbol: string;
  readonly #now: () => number;
  readonly #tag = make("span", { class: "tag", text: "stale", attributes: { hidden: "", title: "No source is live: the last price known" } });
  readonly #brief = make("span", { class: "brief" });
  readonly #price = make("span", { class: "digits" });
  readonly #briefChange = make("span", { class: "brief" });
  readonly #change = make("td", { class: "wide" });
  readonly #volume = make("td", { class: "wide" });
  readonly #confidence = make("td", { class: "wide" });
  readonly #sources = make("td", { class: "wide" });
  readonly #age = make("td", { class: "wide age" });
  readonly #line = makeSvg("polyline");
  readonly #area = makeSvg("polygon");
  readonly #svg = makeSvg("svg", { viewBox: `0 0 ${String(WIDTH)} ${String(HEIGHT)}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  readonly #values: number[] = [];
  #steppedAt = Number.NEGATIVE_INFINITY;
  #update: PriceUpdate | undefined;
  #drawn: number | null = null;
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

  /** A new price. */
  take(update: PriceUpdate): void {
    if (update.price !== null && !update.stale) {
      this.#note(update.price);
    }
    this.#update = update;
    draw(this.#paint);
  }

  /** Time passed. */
  tick(): void {
    if (this.#update === undefined) {
      return;
    }
    const passed = age(this.#now() - this.#update.timestamp);
    setText(this.#age, passed);
    setText(this.#brief, this.#update.stale ? passed : `${passed} · ${count(this.#update.sources, "source")}`);
  }

  /** Prices of one step become one point, the last of them. */
  #note(value: number): void {
    const now = performance.now();
    if (now - this.#steppedAt < STEP_MS) {
      this.#values[this.#values.length - 1] = value;
      return;
    }
    this.#steppedAt = now;
    this.#values.push(value);
    if (this.#values.length > POINTS) {
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
      setText(cell, percent(update.change24h));
      setTrend(cell, update.change24h);
    }
    setText(this.#volume, amount(update.volume24h));
    setText(this.#confidence, certainty(update.confidence, update.price));
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

  /** A moment of colour when the price moves. */
  #flash(value: number | null): void {
    const before = this.#drawn;
    this.#drawn = value;
    if (before === null || value === null || before === value) {
      return;
    }
    setTrend(this.#price, value - before);
    // Two names for one animation: a change of name starts it again.
    this.#price.dataset["flash"] = this.#price.dataset["flash"] === "a" ? "b" : "a";
  }
}
