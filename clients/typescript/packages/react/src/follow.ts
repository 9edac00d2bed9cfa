/**
 * State that is loaded once, and then follows a channel.
 *
 * The channel may depend on the connection: another user has another one, and then the state begins
 * again. After a `gap`, or a message from which the state does not follow, it is loaded again.
 */
import type { ChannelMessage, ClientState, TidewireError, WebSocketClient } from "@tidewire/client";

/** Pushes that are kept for a page that is loaded. After more, it is loaded again. */
const MAX_MEANWHILE = 1_000;
/** The time until a page is loaded again that the server could not give, where it names none. It doubles with each refusal. */
const RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 60_000;

/** What follows a channel. */
export interface Follower<Page> {
  /** The channel. By default that of the connection's user: another connection may change it, and without a user the state stays empty. */
  readonly _channel?: string;
  /** The first channel, or another one: everything of the one before must go. */
  readonly _reset?: (channel: string | undefined) => void;
  readonly _load: () => Promise<Page>;
  /** `meanwhile` was pushed since the request for the page, and was given to `onMessage` too. */
  readonly _onPage: (page: Page, meanwhile: readonly ChannelMessage[]) => void;
  /** The channel or the page is refused. */
  readonly onError?: (error: TidewireError) => void;
  /** Returns whether the state follows from the message. If not, it is loaded again. */
  readonly _onMessage: (message: ChannelMessage) => boolean;
}

/** Follows a channel. Returns a function that ends it. */
export function follow<Page>(client: WebSocketClient, { _channel: fixed, _reset: reset, _load: load, _onPage: onPage, onError, _onMessage: onMessage }: Follower<Page>): () => void {
  let unsubscribe: (() => void) | undefined;
  // `null`: not known yet, other than a connection without a channel.
  let channel: string | null | undefined = null;
  let isStale = false;
  /** The page was refused: only time or another connection makes another try, and no push. */
  let isRefused = false;
  /** The pushes since a request for a page. Another list than that of a reply: the reply comes too late. */
  let meanwhile: ChannelMessage[] | undefined;
  let refusals = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const read = (): void => {
    if (!isStale || meanwhile || isRefused) {
      return;
    }
    const own: ChannelMessage[] = (meanwhile = []);
    isStale = false;
    load()
      .then((page) => {
        if (own === meanwhile) {
          // It throws for a page of another form.
          onPage(page, own);
          meanwhile = undefined;
          refusals = 0;
          isStale ||= own.length >= MAX_MEANWHILE;
          read();
        }
      })
      .catch((error: unknown) => {
        if (own === meanwhile) {
          meanwhile = undefined;
          // The next connection reads again. A lost one refused nothing.
          isStale = true;
          if (client.state.status === "connected") {
            const { code, retryAfterMs } = error as Partial<TidewireError>;
            isRefused = true;
            if (["unavailable", "resource_exhausted", "deadline_exceeded", "internal"].includes(code ?? "")) {
              timer = setTimeout(retry, retryAfterMs ?? Math.min(LONGEST_RETRY_MS, RETRY_MS * 2 ** refusals++));
            }
            onError?.(error as TidewireError);
          }
        }
      });
  };
  const retry = (): void => {
    clearTimeout(timer);
    isRefused = false;
    read();
  };
  const receive = (message: ChannelMessage): void => {
    if (meanwhile && meanwhile.length < MAX_MEANWHILE) {
      meanwhile.push(message);
    }
    isStale = message.type === "gap" || !onMessage(message) || isStale;
    read();
  };
  const onState = (state: ClientState): void => {
    if (state.status !== "connected") {
      return;
    }
    const { userId } = state.welcome;
    const next = fixed ?? (userId && `user:${userId}`);
    if (next !== channel) {
      unsubscribe?.();
      clearTimeout(timer);
      meanwhile = undefined;
      channel = next;
      isStale = true;
      reset?.(next);
      unsubscribe = next ? client.subscribe(next, receive, onError && { onError }) : undefined;
    }
    if (next) {
      retry();
    }
  };
  onState(client.state);
  const off = client.on("state", onState);
  return () => {
    off();
    clearTimeout(timer);
    // No reply counts any more, and nothing is read.
    meanwhile = undefined;
    isStale = false;
    unsubscribe?.();
  };
}
