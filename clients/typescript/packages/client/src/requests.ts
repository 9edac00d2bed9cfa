/** Pending requests: ids, time limits, and the reply or failure that settles each. */
import type { Clock } from "./environment.ts";
import { failure, TidewireError } from "./errors.ts";
import type { ClientMessage, ReplyOf, Requests, RequestType, ServerMessage } from "./messages.ts";
import { openTimer } from "./timer.ts";
import type { ChannelNames } from "./types/session.ts";
import { CONNECTION_LOST, NO_JSON, NO_REPLY, NOT_CONNECTED, TOO_LARGE } from "./texts.ts";

const REQUEST_TIMEOUT_MS = 10_000;
/** No server refuses so few bytes: its limit is 1,024 at least. */
const LEAST_LIMIT = 1_000;
/** Messages without a reply that are remembered: more are not on the way at once, or come from a loop. */
const NOTED = 99;

/** Called once, with an error or a value. */
export type Done<Value> = (error: TidewireError | undefined, value?: Value) => void;

/**
 * Sends a request. It calls back at once and returns no promise: a reply must
 * take effect before the frame after it.
 */
export type StartRequest = <Type extends RequestType>(type: Type, data: Requests[Type]["data"], done?: Done<ReplyOf<Type>>) => void;

/** Returns a promise of what `run` calls back with. What has no form in JSON makes it throw. */
export function promiseOf<Value>(run: (done: Done<Value>) => void): Promise<Value> {
  return new Promise((resolve, reject) => {
    try {
      run((error, value) => {
        if (error) {
          reject(error);
        } else {
          resolve(value as Value);
        }
      });
    } catch (error) {
      reject(failure("invalid_argument", NO_JSON, error));
    }
  });
}

/**
 * Opens the requests of a client: `[start, settle, failAll, hasPending, sendAlone, failLargest]`. `settle` takes a
 * message, and returns whether it replies to a pending request. `failAll` is
 * for a lost connection: the effects of its requests are unknown. `sendAlone` sends a message without waiting
 * for a reply. `failLargest` is for a frame that the server refused for its size: the largest on the way is it.
 * A subscription does not fail: `cut` gets the number of its channels, and returns whether the next frames are
 * smaller. Returns whether another connection need not end the same way.
 */
export function openRequests(
  clock: Clock,
  limitMs: () => number | undefined,
  send: (message: ClientMessage) => boolean,
  isStream?: () => boolean,
): [start: StartRequest, settle: (message: ServerMessage) => boolean, failAll: () => void, hasPending: () => boolean, sendAlone: (message: ClientMessage) => boolean, failLargest: (cut: (channels: number) => boolean) => boolean] {
  const pending = new Map<string, readonly [done: Done<never>, message: ClientMessage]>();
  let lastId = 0;
  let lastReplyAt = -Infinity;
  let lastReplied = 0;
  /** Settles a request. Returns whether it was pending. */
  const finish = (id: string, error: TidewireError | undefined, data?: unknown): boolean => {
    const request = pending.get(id);
    // Before the call: it may start other requests.
    pending.delete(id);
    // The protocol fixes the reply type of each request.
    request?.[0](error, data as never);
    return !!request;
  };

  return [
    (type, data, done) => {
      const id = `${++lastId}`;
      const message = { type, id, data } as ClientMessage;
      if (send(message)) {
        const ms = limitMs() ?? REQUEST_TIMEOUT_MS;
        const setTimer = openTimer(clock);
        const expire = (): void => {
          // The messages of an event stream are posted one by one: the time of one begins when that before it is answered, and ends before that of the next.
          const left = isStream?.() && lastReplied < +id ? lastReplyAt + ms - clock.now() : 0;
          if (left > 0) {
            setTimer(left, expire);
          } else {
            finish(id, failure("deadline_exceeded", NO_REPLY, ms));
          }
        };
        setTimer(ms, expire);
        pending.set(id, [
          (error, reply) => {
            setTimer();
            done?.(error, reply);
          },
          message,
        ]);
      } else {
        done?.(failure("unavailable", NOT_CONNECTED));
      }
    },
    ({ id = "", type, data }) => {
      if (id) {
        lastReplied = +id;
        lastReplyAt = clock.now();
      }
      return type === "error" ? finish(id, new TidewireError(data)) : finish(id, undefined, data);
    },
    () => {
      for (const id of pending.keys()) {
        finish(id, failure("unavailable", CONNECTION_LOST));
      }
    },
    () => pending.size > 0,
    (message) => {
      // No reply has an id below 1.
      pending.set(`${-(++lastId % NOTED)}`, [() => undefined, message]);
      return send(message);
    },
    (cut) => {
      let largest = "";
      let most = LEAST_LIMIT;
      let channels = 0;
      for (const [id, [, message]] of pending) {
        // Each byte beyond ASCII is three characters of this form.
        const size = encodeURIComponent(JSON.stringify(message)).replace(/%../g, "_").length;
        if (size > most) {
          most = size;
          largest = id;
          channels = message.type.endsWith("subscribe") ? (message.data as ChannelNames).channels.length : 0;
        }
      }
      return (!!channels && cut(channels)) || finish(largest, failure("invalid_argument", TOO_LARGE));
    },
  ];
}
