/**
 * State of a channel: it is loaded once, if there is something to load, and then follows the channel.
 *
 * The channel may depend on the connection: another user has another one, and then the state begins
 * again. After a `gap`, or a message from which the state does not follow, it is loaded again.
 */
import { type ChannelMessage, type ClientState, TidewireError, type WebSocketClient } from "@tidewire/client";
import type { Source } from "./live.ts";

/** Pushes that are kept for a page that is loaded. After more, it is loaded again. */
const MAX_MEANWHILE = 1_000;
/** The time until a page is loaded again that the server could not give, where it names none. It doubles with each refusal. */
const RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 60_000;

/** A state as hooks see it. */
export interface Value<T> {
  readonly data: T;
  /** Why there is no data, or why it is not what it was asked to be: the channel or the page is refused. */
  readonly error?: TidewireError | undefined;
  /** Neither data nor an error came so far. */
  readonly loading: boolean;
}

/** How a state follows a channel. */
export interface Follower<State, Page, T> {
  /** The channel. By default that of the connection's user: another connection may change it, and without a user the state stays empty. */
  readonly _channel?: string;
  /** Whether a refused channel is an `error` event of the client. */
  readonly _isReported?: boolean;
  readonly _load?: () => Promise<Page>;
  /** Returns the state of a page. Messages that were pushed since the request for it follow. */
  readonly _onPage?: (page: Page, state: State) => State;
  /** Returns the state after a message. If it returns nothing or calls `reload`, the state does not follow from it, and is loaded again. */
  readonly _next: (state: State, message: ChannelMessage, reload: () => void) => State | undefined;
  /** Returns the data of a state: by default, the state. */
  readonly _view?: (state: State) => T;
}

/** Returns the source of a state. `create` says how it follows its channel, and gets what changes the state otherwise. */
export function stateSource<State, Page = never, T = State>(
  key: string,
  initial: State,
  create: (client: WebSocketClient, change: (next?: (state: State) => State) => void) => Follower<State, Page, T>,
  data?: T,
): Source<Value<T>> {
  return {
    _key: key,
    _initial: { data: data as T, loading: true },
    _start(client, show) {
      let state = initial;
      let error: TidewireError | undefined;
      let loading = true;
      const update = (): void => {
        show(() => ({ data: view(state), error, loading }));
      };
      const set = (next: State, failure?: TidewireError, isLoading = false): void => {
        state = next;
        error = failure;
        loading = isLoading;
        update();
      };
      const {
        _channel: fixed,
        _isReported: isReported,
        _load: load,
        _onPage: onPage,
        _next: next,
        _view: view = (state) => state as unknown as T,
      } = create(client, (next = (state) => state) => {
        state = next(state);
        update();
      });
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
        if (!load || !isStale || meanwhile || isRefused) {
          return;
        }
        const own: ChannelMessage[] = (meanwhile = []);
        isStale = false;
        load()
          .then((page) => {
            if (own === meanwhile) {
              // It throws for a page of another form.
              set((onPage as (page: Page, state: State) => State)(page, state));
              meanwhile = undefined;
              refusals = 0;
              isStale ||= own.length >= MAX_MEANWHILE;
              own.forEach(step);
              read();
            }
          })
          .catch((failure: unknown) => {
            if (own === meanwhile) {
              meanwhile = undefined;
              // The next connection reads again. A lost one refused nothing.
              isStale = true;
              if (client.state.status === "connected") {
                const { code, retryAfterMs } = failure as Partial<TidewireError>;
                isRefused = true;
                if (["unavailable", "resource_exhausted", "deadline_exceeded", "internal"].includes(code ?? "")) {
                  timer = setTimeout(retry, retryAfterMs ?? Math.min(LONGEST_RETRY_MS, RETRY_MS * 2 ** refusals++));
                }
                set(state, failure as TidewireError);
              }
            }
          });
      };
      const retry = (): void => {
        clearTimeout(timer);
        isRefused = false;
        read();
      };
      const reload = (): void => {
        isStale = true;
      };
      const step = (message: ChannelMessage): void => {
        const after = next(state, message, reload);
        isStale ||= after === undefined;
        if (after !== undefined && after !== state) {
          set(after, isRefused ? error : undefined, loading && !!load);
        }
      };
      const receive = (message: ChannelMessage): void => {
        isStale ||= message.type === "gap";
        if (meanwhile && meanwhile.length < MAX_MEANWHILE) {
          meanwhile.push(message);
        }
        if (!meanwhile || state !== undefined) {
          step(message);
        }
        read();
      };
      const move = (to: string | undefined): void => {
        if (to === channel) {
          return;
        }
        if (!fixed) {
          set(initial, to ? undefined : new TidewireError({ code: "unauthenticated", message: "no user is signed in" }), !!to);
        }
        unsubscribe?.();
        clearTimeout(timer);
        meanwhile = undefined;
        channel = to;
        isStale = true;
        unsubscribe = to
          ? client.subscribe(
              to,
              receive,
              isReported
                ? undefined
                : {
                    onError: (error) => {
                      set(state, error);
                    },
                  },
            )
          : undefined;
      };
      const onState = (now: ClientState): void => {
        if (now.status === "connected") {
          const { userId } = now.welcome;
          move(fixed ?? (userId && `user:${userId}`));
          if (channel) {
            retry();
          }
        }
      };
      if (fixed) {
        move(fixed);
      } else {
        update();
      }
      onState(client.state);
      const off = client.on("state", onState);
      return () => {
        off();
        clearTimeout(timer);
        // No reply counts any more.
        meanwhile = undefined;
        unsubscribe?.();
      };
    },
  };
}
