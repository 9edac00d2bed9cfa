/**
 * Client: one session with a server that survives the loss of its connection.
 * Its parts: a connection in `link.ts`, channels in `subscriptions.ts`, when to
 * connect in `reconnection.ts`, publications that wait in `queue.ts`.
 *
 * The methods are functions over the variables of the constructor. They need no
 * `this`, and the variables' names do not stay in the minified code.
 */
import { WEB_SOCKET_HELP } from "#runtime";
import type { ClientEvents, ClientOptions, ClientState, PublishOptions, Quality, TransportName } from "./api.ts";
import { diagnose, httpUrl, webSocketUrl } from "./endpoint.ts";
import { environmentWith, type Timer } from "./environment.ts";
import { failure, reasonOf } from "./errors.ts";
import { ABNORMAL_CLOSE, type ConnectionEnd, type Link, openLink } from "./link.ts";
import { openListeners } from "./listeners.ts";
import type { ClientMessage, ReplyOf, Requests, RequestType, ServerMessage } from "./messages.ts";
import { openPings } from "./pings.ts";
import { openQueue } from "./queue.ts";
import { ReconnectionManager, shouldReconnect } from "./reconnection.ts";
import { openRequests, promiseOf } from "./requests.ts";
import { openSubscribing } from "./subscribing.ts";
import { type ChannelHandler, openSubscriptions, type SubscribeOptions } from "./subscriptions.ts";
import { tokenSource } from "./token.ts";
import type { ErrorCode, Json } from "./types/common.ts";
import type { ActiveSubscription, Welcome } from "./types/session.ts";
import { openEventStream, openWebSocket } from "./wires.ts";

/** The time for a handshake. It doubles with each attempt: a slow network needs longer. */
const WELCOME_TIMEOUT_MS = 2_500;
const LONGEST_WELCOME_MS = 20_000;
/** Attempts without a `welcome` before the other transport is tried, and where a WebSocket has worked before. */
const FALLBACK_ATTEMPTS = 2;
const PATIENT_ATTEMPTS = 6;
/** The first time on an event stream after which a WebSocket is tried again. It doubles. */
const RETURN_MS = 15_000;
const LONGEST_RETURN_MS = 300_000;

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

  /** Replaces options without a new connection: the queue and pending requests stay. */
  declare readonly setOptions: (options: Partial<ClientOptions>) => void;

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
    const { clock, fetch, webSocket, eventStream = openEventStream } = environment;
    const [on, off, emit, call] = openListeners();
    const subscriptions = openSubscriptions(call, (channel, { code, message }) => {
      emit("error", { code, message, channel });
    });
    const [fetchToken, forgetToken] = tokenSource(clock);
    let link: Link | undefined;
    /** A WebSocket that is tried while an event stream works. */
    let candidate: Link | undefined;
    let transport: TransportName = "websocket";
    /** Attempts of this transport since its last `welcome`. */
    let failures = 0;
    let hasUsedWebSocket = false;
    let returnMs = RETURN_MS;
    /** Counts connections, so that a token that comes late opens none. */
    let generation = 0;
    let returnTimer: Timer | undefined;
    /** What the server or a diagnosis said before the end. */
    let hint = "";

    const allows = (name: TransportName): boolean => options.transports?.includes(name) ?? true;
    const isOpen = (): boolean => link?.isOpen() ?? false;
    const getQuality = (): Quality => reconnection.getQuality(isOpen());
    const request: this["request"] = (type, data) =>
      promiseOf((done) => {
        start(type, data, done);
      });
    const setState = (state: ClientState): void => {
      self.state = state;
      emit("state", state);
    };
    const report = (code: ErrorCode, message: string, cause?: unknown): void => {
      emit("error", { code, message, cause });
    };

    const [start, settle, failAll] = openRequests(
      clock,
      () => options.requestTimeoutMs,
      (frame) => {
        // What a subscription was called before comes after it: its own publication, for example.
        flush();
        return link?.send(frame) ?? false;
      },
    );
    const [subscribeSoon, flush, remove, resetSubscribing] = openSubscribing(
      clock,
      subscriptions,
      start,
      isOpen,
      () => link?.transport === "websocket",
      () => options.saveData ?? (globalThis as { navigator?: { connection?: { saveData?: boolean } } }).navigator?.connection?.saveData,
    );
    const [ping, pingLoop, stopPings] = openPings(
      clock,
      start,
      () => reconnection.isVisible && isOpen(),
      (rttMs, clockOffsetMs = self.clockOffsetMs) => {
        self.clockOffsetMs = clockOffsetMs;
        reconnection.onPing(rttMs);
        emit("quality", getQuality());
      },
    );
    const queue =
      options.queue === false
        ? undefined
        : openQueue(environment, target.href, options.getToken || options.token ? options.queue : { user: "", ...options.queue }, report, (request, done) => {
            start("publish", request, (error, position) => {
              // A lost link is the queue's own matter: it sends again.
              if (!error || isOpen()) {
                done(error, position);
              }
            });
          });

    /** Drops the connection, its timers and its requests. */
    const drop = (keep?: Link): void => {
      generation += 1;
      reconnection.cancel();
      stopPings();
      returnTimer?.cancel();
      for (const old of [link, candidate]) {
        if (old !== keep) {
          old?.close();
        }
      }
      link = candidate = undefined;
      resetSubscribing();
      queue?.close();
      for (const subscription of subscriptions.all()) {
        subscription.onDisconnect();
      }
      failAll();
    };
    const stop = (state: ClientState): void => {
      reconnection.stop();
      drop();
      if (self.state.status !== state.status) {
        setState(state);
      }
    };
    const onEnd = ({ code, reason }: ConnectionEnd, isFatal = !shouldReconnect(code)): void => {
      const wasConnected = self.state.status === "connected";
      // The server's error before a close says more than the reason of the close.
      const end = { code, reason: wasConnected && code < 4000 ? reason : hint || reason };
      drop();
      if (isFatal) {
        stop({ status: "closed", end });
        return;
      }
      if (!wasConnected) {
        onFailedAttempt();
      }
      const delayMs = reconnection.schedule(code);
      setState({ status: "reconnecting", retryAt: clock.wallTime() + delayMs, attempt: reconnection.attempt, end });
    };
    /** No `welcome` came: perhaps only the other transport gets through, or the URL is wrong. */
    const onFailedAttempt = (): void => {
      if (++failures < (hasUsedWebSocket ? PATIENT_ATTEMPTS : FALLBACK_ATTEMPTS)) {
        return;
      }
      failures = 0;
      const other = transport === "sse" ? "websocket" : "sse";
      transport = allows(other) ? other : transport;
      if (!hasUsedWebSocket && !hint) {
        void diagnose(fetch, target).then((found) => {
          if (found && !isOpen()) {
            hint = found;
            report("failed_precondition", found);
          }
        });
      }
    };
    /** Fetches a token, and calls `use` unless another connection was opened meanwhile. */
    const withToken = (use: (token: string | undefined) => unknown, isRenewal = false): void => {
      const mine = generation;
      let hasToken = false;
      fetchToken(options)
        .then((token) => {
          hasToken = true;
          return mine === generation && use(token);
        })
        .catch((error: unknown) => {
          const reason = reasonOf(error);
          if (isRenewal || !hasToken) {
            report("unauthenticated", `${isRenewal ? "the token could not be renewed" : "getToken failed"}: ${reason}`, error);
          }
          if (!isRenewal && mine === generation) {
            // A socket that can not be constructed is final: a bad token, or `ws:` in a page of `https:`.
            onEnd({ code: ABNORMAL_CLOSE, reason }, hasToken);
          }
        });
    };
    const connectBy = (name: TransportName, token: string | undefined): Link => {
      const self = openLink(
        clock,
        (options.parse ?? JSON.parse) as (frame: string) => ServerMessage,
        name,
        Math.min(LONGEST_WELCOME_MS, WELCOME_TIMEOUT_MS * 2 ** reconnection.attempt),
        (onOpen, onFrame, onClose) =>
          name === "sse" || !webSocket
            ? eventStream(fetch, httpUrl(target), token, subscriptions.cursor, onFrame, onClose)
            : openWebSocket(webSocket, target.href, token, onOpen, onFrame, onClose),
        (message) => {
          if (self === candidate && message.type === "welcome") {
            drop(self);
            link = self;
          }
          if (self === link) {
            onMessage(message);
          }
        },
        (reason) => {
          report("invalid_argument", `a frame is no message: ${reason}`);
        },
        ping,
        (end) => {
          if (self === candidate) {
            candidate = undefined;
            returnLater();
          } else if (self === link) {
            onEnd(end);
          }
        },
      );
      return self;
    };
    const open = (): void => {
      drop();
      setState({ status: "connecting", attempt: reconnection.attempt });
      withToken((token) => {
        link = connectBy(transport, token);
      });
    };
    /** An event stream works. Tries a WebSocket beside it, later and later. */
    const returnLater = (): void => {
      if (transport === "sse" && allows("websocket")) {
        returnTimer = clock.after(returnMs, () => {
          if (reconnection.isVisible) {
            returnMs = Math.min(LONGEST_RETURN_MS, returnMs * 2);
            withToken((token) => {
              candidate = connectBy("websocket", token);
            });
          } else {
            returnLater();
          }
        });
      }
    };
    const onWake = (): void => {
      if (isOpen()) {
        link?.probe();
      } else if (self.state.status === "reconnecting") {
        const delayMs = reconnection.hurry();
        if (delayMs > 0) {
          setState({ ...self.state, retryAt: clock.wallTime() + delayMs });
        } else {
          open();
        }
      }
    };
    const reconnection = new ReconnectionManager(
      environment,
      open,
      onWake,
      () => {
        // A page with a socket may not enter the browser's cache.
        if (isOpen()) {
          onEnd({ code: 1001, reason: "the page was left" });
        }
      },
      () => {
        start("visibility", { state: reconnection.isVisible ? "active" : "background" });
        pingLoop();
      },
    );

    const onMessage = (message: ServerMessage): void => {
      emit("message", message);
      try {
        apply(message);
      } catch (cause) {
        report("invalid_argument", `\`${message.type}\` has another form: ${reasonOf(cause)}`, cause);
      }
    };
    const apply = (message: ServerMessage): void => {
      const { id, type, data } = message;
      if (type === "welcome") {
        onWelcome(data);
      } else if (type === "authenticated") {
        subscriptions.applyServerSide(data.subscriptions);
        // The new token may read more.
        subscribeSoon(subscriptions.all().filter((subscription) => subscription.isRefused()));
      } else if (type === "pong" || type === "visibility") {
        onHeartbeat(data.heartbeatMs);
      } else if (type === "reconnect") {
        reconnection.onReconnect(data.afterMs);
      } else if (type === "token_expiring" && options.getToken) {
        withToken((token) => token && request("auth", { token }), true);
      } else if (type === "status") {
        emit("status", data);
      }
      if (settle(message) || id) {
        // A reply, perhaps one that came too late.
      } else if (type === "subscribed") {
        subscriptions.applyPushed(data.channels);
      } else if (type === "unsubscribed") {
        for (const subscription of data.channels.flatMap((channel) => subscriptions.find(channel))) {
          subscription.refuse(failure("cancelled", data.reason ?? "the server ended the subscription"));
        }
      } else if (type !== "error") {
        subscriptions.dispatch(message);
      } else if (!message.channel) {
        hint = data.message;
        reconnection.bar(data.retryAfterMs ?? 0);
        emit("error", data);
      }
    };
    const onWelcome = (welcome: Welcome): void => {
      const { heartbeatMs } = welcome;
      transport = link?.transport ?? transport;
      const isWebSocket = transport === "websocket";
      hasUsedWebSocket ||= isWebSocket;
      failures = 0;
      hint = "";
      returnMs = isWebSocket ? RETURN_MS : returnMs;
      reconnection.onConnected();
      subscriptions.applyServerSide(welcome.subscriptions);
      self.state = { status: "connected", welcome, heartbeatMs, transport };
      self.clockOffsetMs = welcome.serverTime - clock.wallTime();
      if (!reconnection.isVisible) {
        start("visibility", { state: "background" });
      }
      // An event stream resumes the server's own subscriptions by its cursor: `subscribed` follows.
      subscribeSoon(subscriptions.all().filter((subscription) => !subscription.isResumed()));
      // Before the event: a listener that publishes at once then receives its own publication.
      flush();
      queue?.open(welcome.userId ?? "");
      emit("state", self.state);
      pingLoop();
      returnLater();
    };
    const onHeartbeat = (heartbeatMs: number): void => {
      link?.setHeartbeat(heartbeatMs);
      if (self.state.status === "connected" && self.state.heartbeatMs !== heartbeatMs) {
        setState({ ...self.state, heartbeatMs });
      }
    };

    const ready: this["ready"] = () =>
      new Promise((resolve, reject) => {
        const check = (state: ClientState): void => {
          const { status } = state;
          if (status === "connected") {
            resolve(state.welcome);
          } else if (status.endsWith("d")) {
            reject(failure("unavailable", status === "closed" ? state.end.reason : "not connected: call connect()"));
          } else {
            return;
          }
          off("state", check);
        };
        on("state", check);
        check(self.state);
      });
    Object.assign(self, {
      on,
      off,
      getQuality,
      request,
      ready,
      connect() {
        if (!self.state.status.startsWith("connect")) {
          if (!allows("websocket")) {
            transport = "sse";
          } else if (!webSocket) {
            throw new TypeError(`there is no global WebSocket: ${WEB_SOCKET_HELP}pass a class as the option \`webSocket\``);
          }
          reconnection.start();
          open();
        }
      },
      disconnect() {
        forgetToken();
        stop({ status: "disconnected" });
      },
      recoverState() {
        onWake();
        return ready();
      },
      setOptions(next) {
        options = { ...options, ...next };
      },
      subscribe(channel, handler, settings) {
        const subscriber = { ...settings, handler };
        const [subscription, isNew] = subscriptions.add(channel, subscriber);
        subscribeSoon(isNew ? [subscription] : []);
        return () => {
          remove(subscription, subscriber);
        };
      },
      unsubscribe(channel, handler) {
        for (const subscription of subscriptions.all()) {
          for (const subscriber of subscription.name === channel ? [...subscription.subscribers] : []) {
            if (!handler || subscriber.handler === handler) {
              remove(subscription, subscriber);
            }
          }
        }
      },
      publish: (channel, data, { idempotencyKey, queue: isQueued = true } = {}) =>
        promiseOf((done) => {
          if (queue && isQueued) {
            queue.add(channel, data, idempotencyKey, done);
          } else {
            start("publish", { channel, data, idempotencyKey }, done);
          }
        }),
      send: (message) => link?.send(JSON.stringify(message)) ?? false,
    } satisfies Omit<WebSocketClient, "state" | "clockOffsetMs">);
  }
}
