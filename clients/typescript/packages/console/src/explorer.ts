/** Channel explorer: subscribes to any channel, lists its messages, and publishes. */
import type { Json, WebSocketClient } from "@tidewire/client";
import { copyButtons } from "./copy.ts";
import { byId, make, setText } from "./dom.ts";
import { FrameList } from "./frames.ts";

/** Channels at once: more would flood the list. */
const MAX_CHANNELS = 12;

interface ExplorerSubscription {
  readonly chip: HTMLElement;
  readonly unsubscribe: () => void;
}

/** The "Channels" card of the page. */
export class Explorer {
  readonly #client: WebSocketClient;
  readonly #frames = new FrameList();
  readonly #note = byId("explorer-note", HTMLElement);
  readonly #channel = byId("channel", HTMLInputElement);
  readonly #body = byId("body", HTMLInputElement);
  readonly #chips = byId("subscriptions", HTMLElement);
  readonly #subscriptions = new Map<string, ExplorerSubscription>();

  constructor(client: WebSocketClient) {
    this.#client = client;
    byId("subscribe", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#subscribe(this.#channelName());
    });
    byId("publish", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#publish();
    });
    this.#channel.addEventListener("input", () => {
      setText(byId("publish-to", HTMLElement), this.#channelName());
    });
    client.on("message", (message) => {
      if (message.type === "subscribed") {
        for (const { channel, error } of message.data.channels) {
          this.#setChipState(channel, error === undefined ? "on" : "refused");
        }
      }
    });
    client.on("state", ({ status }) => {
      if (status !== "connected") {
        for (const channel of this.#subscriptions.keys()) {
          this.#setChipState(channel, "waiting");
        }
      }
    });
    this.#addCopyButtons();
  }

  #channelName(): string {
    return this.#channel.value.trim();
  }

  #subscribe(channel: string): void {
    if (this.#subscriptions.has(channel)) {
      this.#showNote(`Already subscribed to ${channel}.`);
      return;
    }
    if (this.#subscriptions.size >= MAX_CHANNELS) {
      this.#showNote(`At most ${String(MAX_CHANNELS)} channels at once: unsubscribe from one first.`);
      return;
    }
    const button = make("button", { text: "×", attributes: { type: "button", "aria-label": `Unsubscribe from ${channel}`, title: "Unsubscribe" } });
    const chip = make("li", { attributes: { "data-channel": channel, "data-state": "waiting" } }, channel, button);
    button.addEventListener("click", () => {
      this.#unsubscribe(channel);
      this.#channel.focus();
    });
    this.#chips.append(chip);
    this.#showNote("");
    const unsubscribe = this.#client.subscribe(
      channel,
      (message) => {
        this.#frames.add(channel, message);
      },
      {
        onError: (error) => {
          this.#showNote(`${channel}: ${error.message}`);
          this.#unsubscribe(channel);
        },
      },
    );
    this.#subscriptions.set(channel, { chip, unsubscribe });
  }

  #unsubscribe(channel: string): void {
    const subscription = this.#subscriptions.get(channel);
    this.#subscriptions.delete(channel);
    subscription?.unsubscribe();
    subscription?.chip.remove();
  }

  #setChipState(channel: string, state: "on" | "refused" | "waiting"): void {
    const chip = this.#subscriptions.get(channel)?.chip;
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
      const position = await this.#client.publish(this.#channelName(), data);
      this.#showNote(`Published to ${position.channel} with seq ${String(position.seq)}.`);
    } catch (error) {
      this.#showNote(error instanceof Error ? error.message : String(error));
    }
  }

  /** The content of the JSON box, or `undefined` if it is not JSON. */
  #document(): Json | undefined {
    try {
      return JSON.parse(this.#body.value) as Json;
    } catch (error) {
      this.#showNote(`The publication must be JSON: ${error instanceof Error ? error.message : String(error)}.`);
      return undefined;
    }
  }

  #addCopyButtons(): void {
    const subscribe = copyButtons("these channels", () => {
      const channels = [...this.#subscriptions.keys()];
      return { kind: "channels", channels: channels.length > 0 ? channels : [this.#channelName()] };
    });
    byId("explorer-copy", HTMLElement).replaceWith(subscribe);
    const publish = copyButtons("this publication", () => ({
      kind: "call",
      method: "StreamService/Publish",
      body: { channel: this.#channelName(), data: this.#document() ?? null },
    }));
    byId("publish-copy", HTMLElement).replaceWith(publish);
  }

  #showNote(text: string): void {
    setText(this.#note, text);
  }
}
