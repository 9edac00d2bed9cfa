/** Pending requests: ids, time limits, and the reply or failure that settles each. */
import type { Clock, Timer } from "./environment.ts";
import { failure, TidewireError } from "./errors.ts";
import type { ReplyOf, Requests, RequestType, ServerMessage } from "./messages.ts";

const REQUEST_TIMEOUT_MS = 10_000;

/**
 * Sends a request. It calls back at once and returns no promise: a reply must
 * take effect before the frame after it.
 */
export type StartRequest = <Type extends RequestType>(
  type: Type,
  data: Requests[Type]["data"],
  onReply?: (reply: ReplyOf<Type>) => void,
  onFailure?: (error: TidewireError) => void,
) => void;

function nothing(): void {
  // Nobody waits for the reply.
}

/**
 * Opens the requests of a client: `[start, settle, failAll]`. `settle` takes a
 * message, and returns whether it replies to a pending request. `failAll` is
 * for a lost connection: the effects of its requests are unknown.
 */
export function openRequests(
  clock: Clock,
  limitMs: () => number | undefined,
  send: (frame: string) => boolean,
): [start: StartRequest, settle: (message: ServerMessage) => boolean, failAll: () => void] {
  const pending = new Map<string, [onReply: (reply: never) => void, onFailure: (error: TidewireError) => void, timer: Timer]>();
  let lastId = 0;
  /** Returns a pending request, which is pending no more. */
  const take = (id: string): [onReply: (reply: never) => void, onFailure: (error: TidewireError) => void] | undefined => {
    const found = pending.get(id);
    pending.delete(id);
    found?.[2].cancel();
    return found && [found[0], found[1]];
  };

  return [
    (type, data, onReply = nothing, onFailure = nothing) => {
      const id = String(++lastId);
      if (!send(JSON.stringify({ type, id, data }))) {
        onFailure(failure("unavailable", "not connected"));
        return;
      }
      const ms = limitMs() ?? REQUEST_TIMEOUT_MS;
      const timer = clock.after(ms, () => {
        take(id)?.[1](failure("deadline_exceeded", `no reply within ${ms} ms`));
      });
      pending.set(id, [onReply, onFailure, timer]);
    },
    ({ id = "", type, data }) => {
      const request = take(id);
      if (type === "error") {
        request?.[1](new TidewireError(data));
      } else {
        // The protocol fixes the reply type of each request.
        request?.[0](data as never);
      }
      return !!request;
    },
    () => {
      for (const id of [...pending.keys()]) {
        take(id)?.[1](failure("unavailable", "the connection was lost before the reply came"));
      }
    },
  ];
}
