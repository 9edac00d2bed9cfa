/** The box that follows any channel and publishes to it. */

import type { ServerMessage, TidewireClient } from "@tidewire/client";
import { byId, draw } from "./dom.ts";

const LINES = 200;

/** The box and its frames, the last of them. */
export class Explorer {
  readonly #frames = byId("frames", HTMLPreElement);
  readonly #note = byId("explorer-note", HTMLElement);
  readonly #channel = byId("channel", HTMLInputElement);
  readonly #body = byId("body", HTMLInputElement);
  readonly #lines: string[] = [];
  #leave: (() => void) | undefined;
  readonly #paint = (): void => {
    this.#frames.textContent = this.#lines.join("\n");
    this.#frames.scrollTop = this.#frames.scrollHeight;
  };

  readonly #client: TidewireClient;

  constructor(client: TidewireClient) {
    this.#client = client;
    byId("follow", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#follow();
    });
    byId("publish", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#publish();
    });
  }

  /** The channel in the box. */
  get channel(): string {
    return this.#channel.value.trim();
  }

  #follow(): void {
    this.#leave?.();
    this.#note.textContent = `following ${this.channel}`;
    const onError = (error: Error): void => {
      this.#note.textContent = error.message;
    };
    const show = (message: ServerMessage): void => {
      this.#lines.push(JSON.stringify(message));
      this.#lines.splice(0, this.#lines.length - LINES);
      draw(this.#paint);
    };
    this.#leave = this.#client.subscribe(this.channel, show, { onError });
  }

  async #publish(): Promise<void> {
    try {
      const at = await this.#client.publish(this.channel, JSON.parse(this.#body.value) as null);
      this.#note.textContent = `published as number ${String(at.seq)}`;
    } catch (error) {
      this.#note.textContent = error instanceof Error ? error.message : String(error);
    }
  }
}
