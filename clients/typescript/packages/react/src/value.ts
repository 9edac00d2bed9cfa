/** Values of channels: the newest data of one, or why there is none. */
import type { ChannelMessage, TidewireError } from "@tidewire/client";
import { REFUSAL } from "./connection.ts";
import { type Source, useSource } from "./session.ts";

/** Data that may still be missing, or refused. */
export interface Value<T> {
  readonly data?: T;
  readonly error?: TidewireError;
}

/** Neither data nor an error so far. */
export const NOTHING: Value<never> = {};

/** The newest message of a channel for which `pick` returns something. */
export function channelSource<T>(channel: string, pick: (message: ChannelMessage) => T | undefined): Source<Value<T>> {
  return {
    key: channel,
    initial: NOTHING,
    start: (client, live) =>
      client.subscribe(
        channel,
        (message) => {
          const data = pick(message);
          if (data !== undefined) {
            live.set({ data });
          }
        },
        {
          onError: (error) => {
            live.set({ ...live.next, error });
          },
        },
      ),
  };
}

/** A value as a component sees it. */
export interface Result<T> {
  readonly data: T | undefined;
  readonly loading: boolean;
  readonly error: TidewireError | undefined;
}

/** Shows a value. It is not loading where there is no source, or no connection to wait for. */
export function useValue<T>(source: Source<Value<T>> | undefined): Result<T> {
  const value = useSource<Value<T>>(source, NOTHING);
  const refusal = useSource(REFUSAL, undefined);
  return { data: value.data, error: value.error ?? refusal, loading: source !== undefined && value === NOTHING && refusal === undefined };
}
