/** Values of channels: the newest data of one, or why there is none. */
import type { ChannelMessage, TidewireError } from "@tidewire/client";
import { useRefusal } from "./connection.ts";
import { type Source, useSources } from "./session.ts";

/** Data that may still be missing, or refused. */
export interface Value<T> {
  readonly data?: T | undefined;
  readonly error?: TidewireError | undefined;
}

/** Neither data nor an error so far. */
export const NOTHING: Value<never> = {};

/** The newest message of a channel for which `pick` returns something. */
export function channelSource<T>(channel: string, pick: (message: ChannelMessage) => T | undefined, key = channel): Source<Value<T>> {
  return {
    key,
    initial: NOTHING,
    start(client, show) {
      let data: T | undefined;
      return client.subscribe(
        channel,
        (message) => {
          const value = { data: (data = pick(message) ?? data) };
          show(() => value);
        },
        {
          onError: (error) => {
            const value = { data, error };
            show(() => value);
          },
        },
      );
    },
  };
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
