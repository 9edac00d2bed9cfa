/** How the connection stands: the header, and the bar that shows while it does not. */
import type { ClientState, TidewireClient } from "@tidewire/client";
import { byId, draw, setText } from "./dom.ts";
import { age } from "./format.ts";

/** One word for a screen reader and for the header: it changes only when the state does. */
const WORDS: Readonly<Record<ClientState["status"], string>> = {
  idle: "Not connected",
  connecting: "Connecting",
  live: "Live",
  offline: "Offline",
  closed: "Disconnected",
};

/** Shows the connection's state and round-trip time. */
export class ConnectionView {
  readonly #client: TidewireClient;
  readonly #state = byId("state", HTMLElement);
  readonly #rtt = byId("rtt", HTMLElement);
  readonly #version = byId("version", HTMLElement);
  readonly #bar = byId("link-bar", HTMLElement);
  readonly #text = byId("link-text", HTMLElement);
  #wasLive = false;
  readonly #paint = (): void => {
    this.#draw();
  };

  constructor(client: TidewireClient) {
    this.#client = client;
    client.on("state", () => {
      draw(this.#paint);
    });
    client.on("rtt", () => {
      draw(this.#paint);
    });
    client.on("status", ({ state, reason }) => {
      const notice = byId("degraded", HTMLElement);
      notice.hidden = state === "ok";
      setText(notice, reason ?? state);
    });
    byId("link-retry", HTMLButtonElement).addEventListener("click", () => {
      client.connect();
    });
    this.#draw();
  }

  /** Time passed. */
  tick(): void {
    this.#draw();
  }

  #draw(): void {
    const { state, rttMs } = this.#client;
    const isLive = state.status === "live";
    this.#wasLive ||= isLive;
    document.body.dataset["link"] = state.status;
    setText(this.#state, state.status === "connecting" && this.#wasLive ? "Reconnecting" : WORDS[state.status]);
    setText(this.#rtt, isLive && rttMs !== undefined ? `${rttMs < 10 ? rttMs.toFixed(1) : rttMs.toFixed(0)} ms` : "");
    if (isLive) {
      setText(this.#version, `v${state.welcome.version}`);
    }
    this.#bar.hidden = isLive || state.status === "idle" || (state.status === "connecting" && state.attempt === 0);
    setText(this.#text, explain(state));
  }
}

function explain(state: ClientState): string {
  switch (state.status) {
    case "offline": {
      const wait = state.retryAt - Date.now();
      return `The connection was lost: ${why(state.end)}. ${wait > 500 ? `Trying again in ${age(wait)}.` : "Trying again…"}`;
    }
    case "connecting":
      return "Trying to reach the server again…";
    case "closed":
      return `The connection has ended: ${why(state.end)}.`;
    default:
      return "";
  }
}

function why({ code, reason }: { readonly code: number; readonly reason: string }): string {
  if (reason !== "") {
    return reason;
  }
  return code === 1006 ? "the server cannot be reached" : `code ${String(code)}`;
}
