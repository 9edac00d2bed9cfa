/**
 * Client: one session with a server that survives the loss of its connection.
 * Its parts: a connection in `link.ts`, channels in `subscriptions.ts`, when to
 * connect in `reconnection.ts`, publications that wait in `queue.ts`.
 *
 * The methods are functions over the variables of the constructor. They need no
 * `this`, and the variables' names do not stay in the minified code.
 */
import { diagnose } from "#runtime";
import type { ClientEvents, ClientOptions, ClientState, PublishOptions, Quality, QueueOptions, TransportName } from "./api.ts";
import { webSocketUrl } from "./endpoint.ts";
import { environmentWith } from "./environment.ts";
import { failure, reasonOf, textOf, TidewireError } from "./errors.ts";
import { FALLBACK_ATTEMPTS, LEAVING_MS, LONGEST_RETURN_MS, LONGEST_WELCOME_MS, PATIENT_ATTEMPTS, PING_INTERVAL_MS, RETURN_MS, TOO_BIG, WELCOME_TIMEOUT_MS } from "./limits.ts";
import { ABNORMAL_CLOSE, type ConnectionEnd, openLinks } from "./link.ts";
import { openListeners } from "./listeners.ts";
import type { ClientMessage, ReplyOf, Requests, RequestType, ServerData, ServerMessage, ServerType } from "./messages.ts";
import { startQueue } from "./queue.ts";
import { whenConnected } from "./ready.ts";
import { openReconnection, shouldReconnect } from "./reconnection.ts";
import { openRequests, promiseOf } from "./requests.ts";
import { openSubscribing } from "./subscribing.ts";
import { type ChannelHandler, openSubscriptions, type SubscribeOptions } from "./subscriptions.ts";
import { CHANNEL_ENDED, NO_TOKEN, NO_WEB_SOCKET, NOT_RENEWED, PAGE_LEFT } from "./texts.ts";
import { openTimer } from "./timer.ts";
import { tokenSource } from "./token.ts";
import type { ErrorCode, Json } from "./types/common.ts";
import type { ActiveSubscription, Welcome } from "./types/session.ts";
import { openEventStream, openWebSocket } from "./wires.ts";

/**
 * A session with a Tidewire server.
 *
 * ```ts
 * const client = new WebSocketClient("ws://127.0.0.1:8080/v1/ws");
 * client.subscribe("prices:BTC-USD", (message) => {
 *   if (message.type === "price") console.log(message.data.price);
 * });
 * client.connect();
 * ```
 */
export class WebSocketClient {
  /** The state of the session now. */
  readonly state: ClientState = { status: "disconnected" };
  /** The server's time minus this machine's time, in milliseconds. */
  readonly clockOffsetMs: number = 0;

  /** Connects now, also while waiting to reconnect or closed. Does nothing while connecting or connected. */
  declare readonly connect: () => void;

  /** Ends the session until the next `connect`, which restores the subscriptions. No event of the page undoes it. */
  declare readonly disconnect: () => void;

  /** Resolves when connected. Rejects if the state is, or becomes, `closed` or `disconnected`. */
  declare readonly ready: () => Promise<Welcome>;

  /** Finds out at once whether the link works, and opens another if it does not. Resolves when connected. */
  declare readonly recoverState: () => Promise<Welcome>;

  /** Replaces options without a new connection. Only another user, by `queue.user`, the first token or none any more, has a new one. */
  declare readonly setOptions: (options: { readonly [Name in keyof ClientOptions]?: ClientOptions[Name] | undefined }) => void;

  /** The quality of the link now. */
  declare readonly getQuality: () => Quality;

  /** Adds a listener. Returns a function that removes it. */
  declare readonly on: <Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void) => () => void;

  /** Removes a listener. */
  declare readonly off: <Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void) => void;

  /**
   * Subscribes to a channel, across connections and in any state. Returns a
   * function that removes the handler. The options of a channel's first handler
   * apply until its last handler is removed.
   */
  declare readonly subscribe: (channel: string, handler: ChannelHandler, options?: SubscribeOptions) => () => void;

  /** Removes a handler of a channel, or all of them. */
  declare readonly unsubscribe: (channel: string, handler?: ChannelHandler) => void;

  /**
   * Publishes a JSON document. Resolves to its position in the channel. Without
   * a connection it waits in the queue, which survives a reload.
   */
  declare readonly publish: (channel: string, data: Json, options?: PublishOptions) => Promise<ActiveSubscription>;

  /** Sends a message without waiting for a reply. Returns whether it was sent. */
  declare readonly send: (message: ClientMessage) => boolean;

  /**
   * Sends a request and resolves to the data of its reply. Rejects with a
   * `TidewireError`: the server's own, `unavailable` when the connection is
   * missing or lost before the reply, or `deadline_exceeded` after the time limit.
   */
  declare readonly request: <Type extends RequestType>(type: Type, data: Requests[Type]["data"]) => Promise<ReplyOf<Type>>;

  /**
   * `url` is for example `ws://127.0.0.1:8080/v1/ws`. Throws a `TypeError` for a
   * URL that can not work. It has no side effect; `connect` throws where there is no WebSocket.
   */
  constructor(url: string | URL, options: ClientOptions = {}) {
    const self = this as { -readonly [Name in keyof this]: this[Name] };
    const target = webSocketUrl(url);
    const environment = environmentWith(options);
    const { clock, page, random, fetch, webSocket, eventStream = openEventStream } = environment;
    const [on, off, emit, call] = openListeners();
    const [find, all, has, addHandler, forget, applyServerSide, dispatch, cursor] = openSubscriptions(call);
    const [fetchToken, forgetToken] = tokenSource(clock);
    let { state } = self;
    /** The transport in use is an event stream. */
    let isStream = false;
    /** Attempts of this transport since its last `welcome`. */
    let failures = 0;
    let hasUsedWebSocket = false;
    let returnMs = RETURN_MS;
    /** `recoverState` began the attempt. */
    let isAnew = false;
    /** Counts connections, so that a token that comes late opens none. */
    let generation = 0;
    const setPingTimer = openTimer(clock);
    const setReturnTimer = openTimer(clock);
    /** What the server or a diagnosis said before the end. */
    let hint = "";
    /** The user whom the options name, "" without a token, or `undefined`. */
    const named = (): string | undefined => (options.getToken || options.token ? (options.queue as QueueOptions | undefined)?.user : "");
    const nameOf = (stream: boolean): TransportName => (stream ? "sse" : "websocket");
    const prefersStream = (): boolean => options.transports?.[0] === nameOf(true);
    const getQuality = (): Quality => qualityOf(isOpen());
    const request: this["request"] = (type, data) =>
      promiseOf((done) => {
        start(type, data, done);
      });
    const setState = (next: ClientState): void => {
      self.state = state = next;
      emit("state", next);
    };
    const report = (code: ErrorCode, number: number, cause?: unknown): void => {
      emit("error", { code, message: textOf(number, cause), cause });
    };
    const send = (message: ClientMessage): boolean => {
      // What a subscription was called before comes after it: its own publication, for example.
      flush();
      return transmit(JSON.stringify(message));
    };
    const [start, settle, failAll, hasPending, sendAlone, failLargest] = openRequests(clock, () => options.requestTimeoutMs, send, () => isStream);
    const [subscribeSoon, flush, remove, cut, cancelAgain] = openSubscribing(
      clock, has, forget, start, () => isOpen(), () => generation, () => !isStream,
      () => options.saveData ?? (globalThis as { navigator?: { connection?: { saveData?: boolean } } }).navigator?.connection?.saveData,
    );
    const ping = (): void => {
      const t = clock.now();
      start("ping", { t }, (error, pong) => {
        const rttMs = clock.now() - t;
        if (isStream && error?.code === "deadline_exceeded" && isOpen()) {
          // A POST hangs, and all others wait behind it.
          onEnd({ code: ABNORMAL_CLOSE, reason: error.message });
        }
        if (pong) {
          self.clockOffsetMs = pong.serverTime + rttMs / 2 - clock.wallTime();
        }
        onPing(pong && rttMs);
        if (isOpen()) {
          // A ping that is lost with its link ends within the change to another state, which says it.
          emit("quality", getQuality());
        }
      });
    };
    /** Pings now, and every few seconds while somebody looks. */
    const pingLoop = (): void => {
      setPingTimer();
      if (isVisible() && isOpen()) {
        ping();
        setPingTimer(PING_INTERVAL_MS, pingLoop);
      }
    };
    const [enqueue, openQueue, closeQueue] = startQueue(clock, random, target, options.queue, named, report, () => generation, start, () => {
      probe();
    });

    /** Ends a stream that was replaced: once nothing has to be answered, or late. */
    const endOthersSoon = (): void => {
      setReturnTimer(hasPending() ? LEAVING_MS : 0, endOthers);
    };
    /** Drops the connection, its timers and its requests. `isOver`: the session ends. `isReplaced`: its requests may still be answered. */
    const drop = (isOver = false, isReplaced = false): void => {
      generation += 1;
      isAnew = false;
      cancelRetry();
      setPingTimer();
      setReturnTimer();
      // Before the links are closed: no end of theirs counts any more.
      release();
      closeQueue(isOver);
      cancelAgain();
      for (const subscription of all()) {
        subscription._onDisconnect();
      }
      if (!isReplaced) {
        endOthers();
        failAll();
      }
    };
    const stop = (next: ClientState): void => {
      stopWaking();
      drop(true);
      if (state.status !== next.status) {
        setState(next);
      }
    };
    const onEnd = ({ code, reason }: ConnectionEnd, isFatal = !shouldReconnect(code)): void => {
      // Without the request that the server can not take, another connection would not end the same way.
      if (code === TOO_BIG) {
        isFatal = !failLargest(cut);
      }
      const wasConnected = isOpen();
      // The server's error before a close says more than the reason of the close.
      const end = { code, reason: wasConnected && code < 4000 ? reason : hint || reason };
      drop();
      if (isFatal) {
        stop({ status: "closed", end });
        return;
      }
      // No `welcome` came: perhaps only the other transport gets through, or the URL is wrong.
      if (!wasConnected && ++failures >= (hasUsedWebSocket ? PATIENT_ATTEMPTS : FALLBACK_ATTEMPTS)) {
        failures = 0;
        if (options.transports?.includes(nameOf(!isStream)) ?? true) {
          isStream = !webSocket || !isStream;
        }
        if (!hasUsedWebSocket && !hint) {
          void diagnose?.(fetch, target).then((found) => {
            if (found && !isOpen()) {
              hint = found;
              emit("error", { code: "failed_precondition", message: found });
            }
          });
        }
      }
      const delayMs = schedule(code);
      setState({ status: "reconnecting", retryAt: clock.wallTime() + delayMs, attempt: attempts(), end });
    };
    /** Fetches a token, and calls `use` unless another connection was opened meanwhile. A failure does no harm to the connection that it is fetched beside. */
    const withToken = (use: (token: string | undefined) => unknown, isBeside = false): void => {
      const mine = generation;
      let hasToken = false;
      const fetched = fetchToken(options);
      fetched
        .then((token) => {
          hasToken = true;
          return mine === generation && use(token);
        })
        .catch((error: unknown) => {
          const reason = reasonOf(error);
          if (isBeside || !hasToken) {
            report("unavailable", isBeside ? NOT_RENEWED : NO_TOKEN, error);
          }
          if (isBeside) {
            returnLater();
          } else if (mine === generation) {
            // A socket that can not be constructed is final: a bad token, or `ws:` in a page of `https:`.
            onEnd({ code: ABNORMAL_CLOSE, reason }, hasToken);
          }
        });
    };
    const connectBy = (stream: boolean, isBeside: boolean, token: string | undefined): void => {
      openLink(
        stream,
        isBeside,
        Math.min(LONGEST_WELCOME_MS, WELCOME_TIMEOUT_MS * 2 ** attempts()),
        (options.parse ?? JSON.parse) as (frame: string) => ServerMessage,
        (onOpen, onFrame, onClose) =>
          stream
            ? eventStream(fetch, target.replace("ws", "http").replace(/ws(\?|$)/, "sse$1"), token, cursor, onFrame, onClose)
            : openWebSocket(webSocket, target, token, onOpen, onFrame, onClose),
      );
    };
    const open = (): void => {
      drop();
      const mine = generation;
      setState({ status: "connecting", attempt: attempts() });
      // A listener may disconnect, or connect again.
      if (mine === generation) {
        withToken((token) => {
          connectBy(isStream, false, token);
        });
      }
    };
    /** An event stream works. Tries a WebSocket beside it, later and later. */
    const returnLater = (): void => {
      if (isStream && !prefersStream() && isOpen()) {
        setReturnTimer(returnMs, () => {
          if (isVisible()) {
            returnMs = Math.min(LONGEST_RETURN_MS, returnMs * 2);
            withToken((token) => {
              connectBy(false, true, token);
            }, true);
          } else {
            returnLater();
          }
        });
      }
    };
    const onWake = (isOnline: boolean): void => {
      if (isOpen()) {
        probe();
      } else if (state.status === "reconnecting" || (isOnline && state.status === "connecting")) {
        // An attempt over the network of before may hang until its time is over.
        const delayMs = hurry();
        if (delayMs <= 0) {
          open();
        } else if (state.status === "reconnecting") {
          setState({ ...state, retryAt: clock.wallTime() + delayMs });
        } else {
          // The application asked for this attempt, and the server allows no other one yet.
          cancelRetry();
        }
      }
    };
    const onVisibility = (): void => {
      start("visibility", { state: isVisible() ? "active" : "background" });
      pingLoop();
    };
    const onSleep = (): void => {
      // A page with a socket may not enter the browser's cache.
      if (isOpen()) {
        onEnd({ code: 1001, reason: textOf(PAGE_LEFT) });
      }
    };
    const [attempts, isVisible, schedule, onReconnect, bar, hurry, startWaking, stopWaking, cancelRetry, onConnected, onPing, qualityOf] = openReconnection(
      clock, page, random, open, onWake, onSleep, onVisibility,
    );
    const onMessage = (message: ServerMessage): void => {
      const { id, type, data } = message;
      const mine = generation;
      emit("message", message);
      if (mine !== generation) {
        return;
      }
      // Of what this client does not know, nothing happens here.
      (effects as Partial<Record<string, (data: never) => void>>)[type]?.(data as never);
      if (settle(message) || (id && type !== "subscribed")) {
        // A reply, perhaps one that came too late. The server keeps the channels of a late `subscribed`.
      } else if (type === "subscribed") {
        for (const result of data.channels) {
          for (const subscription of find(result.channel)) {
            subscription._finish(result, true);
          }
        }
      } else if (type === "unsubscribed") {
        for (const subscription of data.channels.flatMap((channel) => find(channel))) {
          subscription._refuse(failure("cancelled", CHANNEL_ENDED, data.reason));
        }
      } else if (type !== "error") {
        dispatch(message);
      } else if (!message.channel) {
        hint = data.message;
        bar(new TidewireError(data).retryAfterMs ?? 0);
        emit("error", data);
      }
    };
    const onWelcome = (welcome: Welcome): void => {
      const { heartbeatMs } = welcome;
      hasUsedWebSocket ||= !isStream;
      failures = 0;
      hint = "";
      returnMs = isStream ? returnMs : RETURN_MS;
      onConnected();
      applyServerSide(welcome.subscriptions);
      self.state = state = { status: "connected", welcome, heartbeatMs, transport: nameOf(isStream) };
      self.clockOffsetMs = welcome.serverTime - clock.wallTime();
      if (!isVisible()) {
        onVisibility();
      }
      // An event stream resumes the server's own subscriptions by its cursor: `subscribed` follows.
      subscribeSoon(all().filter((subscription) => !subscription._isResumed()));
      // Before the event: a listener that publishes at once then receives its own publication.
      flush();
      // A listener of its errors may end the session.
      openQueue(welcome.userId ?? "");
      if (isOpen()) {
        emit("state", state);
      }
      pingLoop();
      returnLater();
    };
    const onHeartbeat = ({ heartbeatMs }: { readonly heartbeatMs: number }): void => {
      setHeartbeat(heartbeatMs);
      if ("welcome" in state && state.heartbeatMs !== heartbeatMs) {
        setState({ ...state, heartbeatMs });
      }
    };
    /** What a message does to the session, before it is a reply or a push to a channel. */
    const effects = {
      welcome: onWelcome,
      authenticated({ subscriptions }) {
        applyServerSide(subscriptions);
        // The new token may read more.
        subscribeSoon(all().filter((subscription) => subscription._isRefused()));
      },
      pong: onHeartbeat,
      visibility: onHeartbeat,
      reconnect({ afterMs }) {
        onReconnect(afterMs);
      },
      token_expiring() {
        if (options.getToken) {
          withToken((token) => token && request("auth", { token }), true);
        }
      },
      status(data) {
        emit("status", data);
      },
    } satisfies { [Type in ServerType]?: (data: ServerData[Type]) => void };

    const [openLink, release, endOthers, isOpen, transmit, probe, setHeartbeat] = openLinks(
      clock, () => isStream, onMessage,
      (message) => {
        // Of its pushes, the WebSocket has what follows the last one.
        settle(message);
        endOthersSoon();
      },
      (stream) => {
        drop(false, isStream !== stream);
        isStream = stream;
        endOthersSoon();
      },
      ping, onEnd, returnLater, report,
    );
    Object.assign(self, {
      on,
      off,
      getQuality,
      request,
      ready() {
        return whenConnected(self);
      },
      connect() {
        if (!state.status.startsWith("connect")) {
          if (prefersStream()) {
            isStream = true;
          } else if (!webSocket) {
            throw new TypeError(textOf(NO_WEB_SOCKET));
          }
          startWaking();
          open();
        }
      },
      disconnect() {
        forgetToken();
        stop({ status: "disconnected" });
      },
      recoverState() {
        // An attempt that was begun anew once has its time: a handshake may take longer than the next call.
        onWake(!isAnew);
        isAnew = state.status === "connecting";
        return self.ready();
      },
      setOptions(next) {
        const before = named();
        options = { ...options, ...next } as ClientOptions;
        if (named() !== before) {
          // The connection, the attempt and the token that is fetched are the last user's.
          forgetToken();
          if (state.status.startsWith("connect")) {
            open();
          }
        }
      },
      subscribe(channel, handler, settings) {
        const report = ({ code, message }: TidewireError): void => {
          emit("error", { code, message, channel });
        };
        const subscriber = { ...settings, handler, onError: settings?.onError ?? report };
        const [subscription, isNew] = addHandler(channel, subscriber);
        subscribeSoon(isNew ? [subscription] : []);
        return () => {
          remove(subscription, subscriber);
        };
      },
      unsubscribe(channel, handler) {
        for (const subscription of all()) {
          for (const subscriber of subscription._name === channel ? [...subscription._subscribers] : []) {
            if (!handler || subscriber.handler === handler) {
              remove(subscription, subscriber);
            }
          }
        }
      },
      publish: (channel, data, { idempotencyKey, queue = options.queue !== false } = {}) =>
        promiseOf((done) => {
          if (queue) {
            enqueue(channel, data, idempotencyKey, done);
          } else {
            start("publish", { channel, data, idempotencyKey }, done);
          }
        }),
      send: sendAlone,
    } satisfies Omit<WebSocketClient, "state" | "clockOffsetMs">);
  }
}
