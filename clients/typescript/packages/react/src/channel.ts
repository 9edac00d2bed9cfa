/** Channel hook: the newest message of any channel. */
import type { ChannelMessage } from "@tidewire/client";
import { useMemo } from "react";
import { channelSource, type Result, useValue } from "./value.ts";

/**
 * The newest message of a channel of your own, such as `analytics:visitors`. It may be a `gap`.
 * For every message of a channel, call `useClient().subscribe` in an effect.
 */
export function useChannel(channel: string | undefined): Result<ChannelMessage> {
  return useValue(useMemo(() => (channel ? [channelSource(channel, (message) => message, `channel ${channel}`)] : []), [channel]));
}
