/** Channel hook: the newest message of any channel. */
import type { ChannelMessage, Json } from "@tidewire/client";
import { useMemo } from "react";
import { channelSource, type Result, useValue } from "./value.ts";

type WithData<Message, Data> = Message extends { readonly type: "message" } ? Omit<Message, "data"> & { readonly data: Data } : Message;

/** A message on a channel whose publications have data of one type: `data` has it where `type` is `message`. */
export type ChannelMessageOf<Data> = WithData<ChannelMessage, Data>;

/**
 * The newest message of a channel of your own, such as `analytics:visitors`. `Data` is the type of what is published on it,
 * which nobody checks. The message may be a `gap`. For every message of a channel, call `useClient().subscribe` in an effect.
 */
export function useChannel<Data = Json>(channel: string | undefined): Result<ChannelMessageOf<Data>> {
  return useValue(useMemo(() => (channel ? [channelSource(channel, (message) => message, `channel ${channel}`)] : []), [channel])) as Result<ChannelMessageOf<Data>>;
}
