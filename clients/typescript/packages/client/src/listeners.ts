/** Event listeners: one listener's exception never reaches the client or the other listeners. */
import type { ClientError, ClientEvents } from "./api.ts";
import { textOf } from "./errors.ts";
import { LISTENER_THREW } from "./texts.ts";

/** A listener of any event. The public types of `on` fix which one. */
type Listener = (event: never) => void;

/** Opens the listeners of a client: `[on, off, emit, call]`. */
export function openListeners(): [
  on: (name: keyof ClientEvents, listener: Listener) => () => void,
  off: (name: keyof ClientEvents, listener: Listener) => void,
  emit: <Name extends keyof ClientEvents>(name: Name, event: ClientEvents[Name]) => void,
  call: <Event>(listener: ((event: Event) => void) | undefined, event: Event) => void,
] {
  const listeners: Partial<Record<string, Set<Listener>>> = {};

  const off = (name: keyof ClientEvents, listener: Listener): void => {
    listeners[name]?.delete(listener);
  };
  const on = (name: keyof ClientEvents, listener: Listener): (() => void) => {
    (listeners[name] ??= new Set()).add(listener);
    return () => {
      off(name, listener);
    };
  };
  /** Reports to the console. No failure is silent. */
  const log = (error: unknown): void => {
    console.error("tidewire:", error);
  };
  const emit = <Name extends keyof ClientEvents>(name: Name, event: ClientEvents[Name]): void => {
    const all = [...(listeners[name] ?? [])];
    const isError = name === "error";
    if (isError && !all.length) {
      log(event);
    }
    for (const listener of all) {
      // What a listener of errors throws goes to the console: an event would call it again.
      call(listener, event as never, isError ? log : undefined);
    }
  };
  /** Calls a function of the application, if there is one. What it throws becomes an `error` event, unless `report` takes it. */
  const call = <Event>(
    listener: ((event: Event) => void) | undefined,
    event: Event,
    report = (error: ClientError): void => {
      emit("error", error);
    },
  ): void => {
    try {
      listener?.(event);
    } catch (cause) {
      report({ code: "internal", message: textOf(LISTENER_THREW, cause), cause });
    }
  };
  return [on, off, emit, call];
}
