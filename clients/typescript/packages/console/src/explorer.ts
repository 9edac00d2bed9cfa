/** The box that follows any channel, shows its frames, and publishes. */
import type { Json, TidewireClient } from "@tidewire/client";
import { copyButtons } from "./copy.ts";
import { byId, make, setText } from "./dom.ts";
import { FrameList } from "./frames.ts";

/** So many channels at once. */
const CHANNELS = 12;

interface Followed {
  readonly chip: HTMLElement;
  readonly leave: () => void;
}

/** The box. */
export class Explorer {
  readonly #client: TidewireClient;
  readonly #frames = new FrameList();
  readonly #note = byId("explorer-note", HTMLElement);
  readonly #channel = byId("channel", HTMLInputElement);
  readonly #body = byId("body", HTMLInputElement);
  readonly #chips = byId("followed", HTMLElement);
  readonly #followed = new Map<string, Followed>();

  constructor(client: TidewireClient) {
    this.#client = client;
    byId("follow", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#follow(this.#name());
    });
    byId("publish", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#publish();
    });
    this.#channel.addEventListener("input", () => {
      setText(byId("publish-to", HTMLElement), this.#name());
    });
    client.on("message", (message) => {
      if (message.type === "subscribed") {
        for (const { channel, error } of message.data.channels) {
          this.#mark(channel, error === undefined ? "on" : "refused");
        }
      }
    });
    client.on("state", ({ status }) => {
      if (status !== "live") {
        for (const channel of this.#followed.keys()) {
          this.#mark(channel, "waiting");
        }
      }
    });
    this.#addCopyButtons();
  }

  #name(): string {
    return this.#channel.value.trim();
  }

  #follow(channel: string): void {
    if (this.#followed.has(channel)) {
      this.#say(`${channel} is followed already.`);
      return;
    }
    if (this.#followed.size >= CHANNELS) {
      this.#say(`No more than ${String(CHANNELS)} channels at once: leave one first.`);
      return;
    }
    const leave = make("button", { text: "×", attributes: { type: "button", "aria-label": `Unsubscribe from ${channel}`, title: "Unsubscribe" } });
    const chip = make("li", { attributes: { "data-channel": channel, "data-state": "waiting" } }, channel, leave);
    leave.addEventListener("click", () => {
      this.#leave(channel);
      this.#channel.focus();
    });
    this.#chips.append(chip);
    this.#say("");
    const stop = this.#client.subscribe(
      channel,
      (message) => {
        this.#frames.take(channel, message);
      },
      {
        onError: (error) => {
          this.#say(`${channel}: ${error.message}`);
          this.#leave(channel);
        },
      },
    );
    this.#followed.set(channel, { chip, leave: stop });
  }

  #leave(channel: string): void {
    const followed = this.#followed.get(channel);
    this.#followed.delete(channel);
    followed?.leave();
    followed?.chip.remove();
  }

  #mark(channel: string, state: "on" | "refused" | "waiting"): void {
    const chip = this.#followed.get(channel)?.chip;
    if (chip !== undefined) {
      chip.dataset["state"] = state;
    }
  }

  async #publish(): Promise<void> {
    const data = this.#document();
    if (data === undefined) {
      return;
    }
    try {
      const at = await this.#client.publish(this.#name(), data);
      this.#say(`Published to ${at.channel} as number ${String(at.seq)}.`);
    } catch (error) {
      this.#say(error instanceof Error ? error.message : String(error));
    }
  }

  /** What is in the box, if it is JSON. */
  #document(): Json | undefined {
    try {
      return JSON.parse(this.#body.value) as Json;
    } catch (error) {
      this.#say(`What is published must be JSON: ${error instanceof Error ? error.message : String(error)}.`);
      return undefined;
    }
  }

  #addCopyButtons(): void {
    const follow = copyButtons("these channels", () => {
      const followed = [...this.#followed.keys()];
      return { kind: "channels", channels: followed.length > 0 ? followed : [this.#name()] };
    });
    byId("explorer-copy", HTMLElement).replaceWith(follow);
    const publish = copyButtons("this publication", () => ({
      kind: "call",
      method: "StreamService/Publish",
      body: { channel: this.#name(), data: this.#document() ?? null },
    }));
    byId("publish-copy", HTMLElement).replaceWith(publish);
  }

  #say(text: string): void {
    setText(this.#note, text);
  }
}
