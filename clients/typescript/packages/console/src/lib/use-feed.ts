/** Feed hook: the newest messages of a channel in a component. */
import { useEffect, useState } from "react";
import { EMPTY_FEED, type FeedState, openFeed } from "../feed.ts";
import { useSession } from "./session.ts";

/** The newest `limit` messages of a channel, live. Without a channel it is empty. */
export function useFeed(channel: string | undefined, limit: number): FeedState {
  const { client } = useSession();
  const [state, setState] = useState(EMPTY_FEED);
  useEffect(() => {
    setState(EMPTY_FEED);
    return channel === undefined ? undefined : openFeed(client, channel, limit, setState);
  }, [client, channel, limit]);
  return state;
}
