/** Values of channels: the newest data of one, or why there is none. */
import type { ChannelMessage, TidewireError, WebSocketClient } from "@tidewire/client";
import { useRefusal } from "./connection.ts";
import { type Source, useSources } from "./session.ts";

/** Data that may still be missing, or refused. */
export interface Value<T> {
  readonly data?: T | undefined;
  readonly error?: TidewireError | undefined;
}

/** Neither data nor an error so far. */
export const NOTHING: Value<never> = {};

/** A value that `start` sets. Without new data, the data stays. */
export function valueSource<T>(key: string, start: (client: WebSocketClient, set: (data?: T, error?: TidewireError) => void) => () => void): Source<Value<T>> {
  return {
    _key: key,
    _initial: NOTHING,
    _start(client, show) {
      let data: T | undefined;
      return start(client, (next = data, error) => {
        const value = { data: (data = next), error };
        show(() => value);
      });
    },
  };
}

/** The newest message of a channel for which `pick` returns something. */
export function channelSource<T>(channel: string, pick: (message: ChannelMessage) => T | undefined, key = channel): Source<Value<T>> {
  return valueSource(key, (client, set) =>
    client.subscribe(
      channel,
      (message) => {
        set(pick(message));
      },
      {
        onError: (error) => {
          set(undefined, error);
        },
      },
    ),
  );
}

/** A value as a component sees it. */
export interface Result<T> {
  readonly data: T | undefined;
  readonly loading: boolean;
  readonly error: TidewireError | undefined;
}

/** Shows a value. It is not loading where there is no source, or no connection to wait for. */
export function useValue<T>(sources: readonly Source<Value<T>>[]): Result<T> {
  const [value] = useSources(sources);
  const refusal = useRefusal();
  const { data, error = refusal }: Value<T> = value ?? NOTHING;
  return { data, error, loading: value === NOTHING && !error };
}
