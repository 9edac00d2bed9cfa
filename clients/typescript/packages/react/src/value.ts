/** Values of channels: the newest data of one, or why there is none. */
import type { ChannelMessage, TidewireError } from "@tidewire/client";
import { useRefusal } from "./connection.ts";
import { stateSource, type Value } from "./follow.ts";
import type { Source } from "./live.ts";
import { useSources } from "./session.ts";

/** The newest message of a channel for which `pick` returns something. */
export function channelSource<T>(channel: string, pick: (message: ChannelMessage) => T | undefined, key = channel): Source<Value<T | undefined>> {
  return stateSource<T | undefined>(key, undefined, () => ({ _channel: channel, _next: (state, message) => pick(message) ?? state }));
}

/** A value as a component sees it. */
export interface Result<T> {
  readonly data: T | undefined;
  readonly loading: boolean;
  readonly error: TidewireError | undefined;
}

/** Shows a value. It is not loading where there is no source, or no connection to wait for. */
export function useValue<T>(sources: readonly Source<Value<T | undefined>>[]): Result<T> {
  const [value] = useSources(sources);
  const refusal = useRefusal();
  return { data: value?.data, error: refusal ?? value?.error, loading: !!value?.loading && !refusal };
}
