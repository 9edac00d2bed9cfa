/** Frame list: the newest frames of the explorer, newest first, with a pause. */
import type { ServerMessage } from "@tidewire/client";
import { byId, draw, make, setText } from "./dom.ts";
import { count, timeOfDay } from "./format.ts";

/** Frames in the list: more would slow the page down. */
const MAX_FRAMES = 200;
/** Characters of a frame's data: a longer one is cut. */
const MAX_CHARACTERS = 2_000;

interface Frame {
  readonly number: number;
  readonly time: string;
  readonly channel: string;
  readonly type: string;
  readonly seq: string;
  readonly data: string;
}

/** The list. While it is paused, it still counts and stores new frames. */
export class FrameList {
  readonly #list = byId("frames", HTMLOListElement);
  readonly #count = byId("frame-count", HTMLElement);
  readonly #pause = byId("pause", HTMLButtonElement);
  readonly #empty = byId("frames-empty", HTMLElement);
  #frames: Frame[] = [];
  #total = 0;
  /** The number of the newest frame on the page. */
  #lastShown = 0;
  #isPaused = false;
  readonly #paint = (): void => {
    this.#draw();
  };

  constructor() {
    this.#pause.addEventListener("click", () => {
      this.#isPaused = !this.#isPaused;
      this.#pause.setAttribute("aria-pressed", String(this.#isPaused));
      this.#draw();
    });
    byId("clear", HTMLButtonElement).addEventListener("click", () => {
      this.#frames = [];
      this.#total = 0;
      this.#lastShown = 0;
      this.#list.replaceChildren();
      this.#draw();
    });
  }

  /** Adds a frame. */
  add(channel: string, message: ServerMessage): void {
    this.#total += 1;
    const data = JSON.stringify(message.data);
    this.#frames.push({
      number: this.#total,
      time: timeOfDay(Date.now()),
      channel,
      type: message.type,
      seq: message.seq === undefined ? "" : `#${String(message.seq)}`,
      data: data.length > MAX_CHARACTERS ? `${data.slice(0, MAX_CHARACTERS)}…` : data,
    });
    if (this.#frames.length > MAX_FRAMES) {
      this.#frames.shift();
    }
    draw(this.#paint);
  }

  #draw(): void {
    const unshown = this.#isPaused ? this.#frames.filter((frame) => frame.number > this.#lastShown).length : 0;
    setText(this.#pause, this.#isPaused ? (unshown > 0 ? `Resume (${String(unshown)} new)` : "Resume") : "Pause");
    const limit = this.#total > this.#frames.length ? `, the last ${String(MAX_FRAMES)} shown` : "";
    setText(this.#count, `${count(this.#total, "frame")}${limit}`);
    this.#empty.hidden = this.#total > 0;
    if (this.#isPaused) {
      return;
    }
    const news = this.#frames.filter((frame) => frame.number > this.#lastShown);
    this.#list.prepend(...news.reverse().map(frameLine));
    this.#lastShown = this.#total;
    while (this.#list.children.length > MAX_FRAMES) {
      this.#list.lastElementChild?.remove();
    }
  }
}

function frameLine(frame: Frame): HTMLLIElement {
  return make(
    "li",
    {},
    make("span", { class: "time", text: frame.time }),
    make("span", { class: "frame-channel", text: frame.channel }),
    make("span", { class: "soft", text: `${frame.type} ${frame.seq}`.trim() }),
    make("code", { text: frame.data }),
  );
}
