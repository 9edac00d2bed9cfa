/** Event listeners: one listener's exception never reaches the client or the other listeners. */
import type { ClientEvents } from "./api.ts";
import { reasonOf } from "./errors.ts";

/** A listener of any event. The public types of `on` fix which one. */
type Listener = (event: never) => void;

/** Opens the listeners of a client: `[on, off, emit, call]`. */
export function openListeners(): [
  on: (name: keyof ClientEvents, listener: Listener) => () => void,
  off: (name: keyof ClientEvents, listener: Listener) => void,
  emit: <Name extends keyof ClientEvents>(name: Name, event: ClientEvents[Name]) => void,
  call: <Event>(listener: (event: Event) => void, event: Event) => void,
] {
  const listeners = new Map<string, Set<Listener>>();
  let isReporting = false;

  const off = (name: keyof ClientEvents, listener: Listener): void => {
    listeners.get(name)?.delete(listener);
  };
  const on = (name: keyof ClientEvents, listener: Listener): (() => void) => {
    listeners.set(name, (listeners.get(name) ?? new Set()).add(listener));
    return () => {
      off(name, listener);
    };
  };
  const emit = <Name extends keyof ClientEvents>(name: Name, event: ClientEvents[Name]): void => {
    const all = [...(listeners.get(name) ?? [])];
    if (name === "error" && (!all.length || isReporting)) {
      // No failure is silent.
      console.error("tidewire:", event);
    } else {
      for (const listener of all) {
        call(listener, event as never);
      }
    }
  };
  /** Calls a function of the application. What it throws becomes an `error` event. */
  const call = <Event>(listener: (event: Event) => void, event: Event): void => {
    try {
      listener(event);
    } catch (cause) {
      const wasReporting = isReporting;
      // What a listener of errors throws goes to the console: an event would call it again.
      isReporting = (event as { code?: unknown } | null)?.code !== undefined;
      emit("error", { code: "internal", message: `a listener threw: ${reasonOf(cause)}`, cause });
      isReporting = wasReporting;
    }
  };
  return [on, off, emit, call];
}
