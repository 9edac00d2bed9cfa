/** A bounded list of frames, newest first, that can be held still. */
import type { ServerMessage } from "@tidewire/client";
import { byId, draw, make, setText } from "./dom.ts";
import { count, timeOfDay } from "./format.ts";

/** So many frames are kept, and so many characters of one. */
const FRAMES = 200;
const CHARACTERS = 2_000;

interface Frame {
  readonly number: number;
  readonly time: string;
  readonly channel: string;
  readonly type: string;
  readonly seq: string;
  readonly data: string;
}

/** The list. While it is held still, frames go on to be counted and kept. */
export class FrameList {
  readonly #list = byId("frames", HTMLOListElement);
  readonly #count = byId("frame-count", HTMLElement);
  readonly #pause = byId("pause", HTMLButtonElement);
  readonly #empty = byId("frames-empty", HTMLElement);
  #frames: Frame[] = [];
  #total = 0;
  /** The number of the newest frame in the list on the page. */
  #shown = 0;
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
      this.#shown = 0;
      this.#list.replaceChildren();
      this.#draw();
    });
  }

  /** A frame came. */
  take(channel: string, message: ServerMessage): void {
    this.#total += 1;
    const data = JSON.stringify(message.data);
    this.#frames.push({
      number: this.#total,
      time: timeOfDay(Date.now()),
      channel,
      type: message.type,
      seq: message.seq === undefined ? "" : `#${String(message.seq)}`,
      data: data.length > CHARACTERS ? `${data.slice(0, CHARACTERS)}…` : data,
    });
    if (this.#frames.length > FRAMES) {
      this.#frames.shift();
    }
    draw(this.#paint);
  }

  #draw(): void {
    const waiting = this.#isPaused ? this.#frames.filter((frame) => frame.number > this.#shown).length : 0;
    setText(this.#pause, this.#isPaused ? (waiting > 0 ? `Resume (${String(waiting)} new)` : "Resume") : "Pause");
    const kept = this.#total > this.#frames.length ? `, the last ${String(FRAMES)} kept` : "";
    setText(this.#count, `${count(this.#total, "frame")}${kept}`);
    this.#empty.hidden = this.#total > 0;
    if (this.#isPaused) {
      return;
    }
    const news = this.#frames.filter((frame) => frame.number > this.#shown);
    this.#list.prepend(...news.reverse().map(frameLine));
    this.#shown = this.#total;
    while (this.#list.children.length > FRAMES) {
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
