/**
 * Reconnection manager, as `@tidewire/client/reconnection`: when the client connects again, for
 * connections of another kind. The client itself does not load this file.
 */
import type { Quality } from "./api.ts";
import { type Environment, environmentWith } from "./environment.ts";
import { openReconnection, type Reconnection } from "./reconnection.ts";

export { shouldReconnect } from "./reconnection.ts";

const nothing = (): void => undefined;

/** Decides when to connect again, and measures the link. It opens nothing itself. */
export class ReconnectionManager {
  readonly #inner: Reconnection;

  /**
   * `onRetry`: the time for the next connection has come. `onWake`: the page
   * woke, or the network came back; the link may be dead. `onSleep`: the page
   * goes away, perhaps into the browser's cache. `onVisibility`: it was shown or hidden.
   * The clock, the page and random numbers are those of the runtime, other than those that a test gives.
   */
  constructor(
    environment: Partial<Pick<Environment, "clock" | "page" | "random">>,
    onRetry: () => void,
    onWake: () => void = nothing,
    onSleep: () => void = nothing,
    onVisibility: () => void = nothing,
  ) {
    const { clock, page, random } = environmentWith({ environment });
    this.#inner = openReconnection(clock, page, random, onRetry, onWake, onSleep, onVisibility);
  }

  /** Attempts since the last steady connection. */
  get attempt(): number {
    return this.#inner[0]();
  }

  /** Whether the page is visible. */
  get isVisible(): boolean {
    return this.#inner[1]();
  }

  /** Plans the next attempt after an end with this code. Returns its delay in milliseconds. */
  schedule(code: number): number {
    return this.#inner[2](code);
  }

  /** The server asked to come back after `afterMs`. Hidden pages leave the first places to visible ones. */
  onReconnect(afterMs: number): void {
    this.#inner[3](afterMs);
  }

  /** The server refuses connections for this time in milliseconds. */
  bar(forMs: number): void {
    this.#inner[4](forMs);
  }

  /** Plans the next attempt for the earliest time that the server allows. Returns its delay in milliseconds, below 0 for none. */
  hurry(): number {
    return this.#inner[5]();
  }

  /** Listens to the page from now on. */
  start(): void {
    this.#inner[6]();
  }

  /** Forgets the page, the timer and the attempts: what the application asked for outranks events. */
  stop(): void {
    this.#inner[8]();
    this.#inner[7]();
  }

  /** Cancels the next attempt. */
  cancel(): void {
    this.#inner[8]();
  }

  /** A connection works. */
  onConnected(): void {
    this.#inner[9]();
  }

  /** Counts a ping: its round trip in milliseconds, or `undefined` if it was lost. */
  onPing(rttMs: number | undefined): void {
    this.#inner[10](rttMs);
  }

  /** The quality of the link now. */
  getQuality(isConnected: boolean): Quality {
    return this.#inner[11](isConnected);
  }
}
