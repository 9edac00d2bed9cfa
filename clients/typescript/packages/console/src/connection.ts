/** Connection view: the state in the header, and the bar that shows while the connection is lost. */
import type { ClientState, WebSocketClient } from "@tidewire/client";
import { byId, draw, setText } from "./dom.ts";
import { age } from "./format.ts";

/** Text of each state in the header. It changes only with the state, because screen readers read each change. */
const STATE_TEXTS: Readonly<Record<ClientState["status"], string>> = {
  disconnected: "Not connected",
  connecting: "Connecting",
  connected: "Connected",
  reconnecting: "Offline",
  closed: "Disconnected",
};

/** Shows the connection's state and round-trip time, and how much data the server has. */
export class ConnectionView {
  readonly #client: WebSocketClient;
  readonly #state = byId("state", HTMLElement);
  readonly #rtt = byId("rtt", HTMLElement);
  readonly #data = byId("data-state", HTMLElement);
  readonly #version = byId("version", HTMLElement);
  readonly #bar = byId("connection-bar", HTMLElement);
  readonly #text = byId("connection-text", HTMLElement);
  #wasLive = false;
  readonly #paint = (): void => {
    this.#draw();
  };

  constructor(client: WebSocketClient) {
    this.#client = client;
    client.on("state", ({ status }) => {
      if (status !== "connected") {
        // Each connection says by itself that the server is degraded.
        byId("degraded", HTMLElement).hidden = true;
      }
      draw(this.#paint);
    });
    client.on("quality", () => {
      draw(this.#paint);
    });
    client.on("status", ({ state, reason }) => {
      const notice = byId("degraded", HTMLElement);
      notice.hidden = state === "ok";
      setText(notice, reason ?? state);
    });
    byId("connection-retry", HTMLButtonElement).addEventListener("click", () => {
      client.connect();
    });
    this.#draw();
  }

  /** Updates the texts that depend on the time. */
  tick(): void {
    this.#draw();
  }

  /** Shows how much data the server has, which is another matter than whether it is connected. */
  showData(text: string): void {
    setText(this.#data, `· ${text}`);
  }

  #draw(): void {
    const { state } = this.#client;
    const { rttMs } = this.#client.getQuality();
    const isLive = state.status === "connected";
    this.#wasLive ||= isLive;
    document.body.dataset["connection"] = state.status;
    setText(this.#state, state.status === "connecting" && this.#wasLive ? "Reconnecting" : STATE_TEXTS[state.status]);
    this.#data.hidden = !isLive;
    setText(this.#rtt, isLive && rttMs !== undefined ? `${rttMs < 10 ? rttMs.toFixed(1) : rttMs.toFixed(0)} ms` : "");
    if (isLive) {
      setText(this.#version, `v${state.welcome.version}`);
    }
    this.#bar.hidden = isLive || state.status === "disconnected" || (state.status === "connecting" && state.attempt === 0);
    setText(this.#text, barText(state));
  }
}

/** The text of the bar, empty while the connection is live. */
function barText(state: ClientState): string {
  switch (state.status) {
    case "reconnecting": {
      const wait = state.retryAt - Date.now();
      return `The connection was lost: ${reasonOf(state.end)}. ${wait > 500 ? `Trying again in ${age(wait)}.` : "Trying again…"}`;
    }
    case "connecting":
      return "Trying to connect again…";
    case "closed":
      return `The connection is closed: ${reasonOf(state.end)}.`;
    default:
      return "";
  }
}

function reasonOf({ code, reason }: { readonly code: number; readonly reason: string }): string {
  if (reason !== "") {
    return reason;
  }
  return code === 1006 ? "the server cannot be reached" : `close code ${String(code)}`;
}
