/**
 * Queue of publications: each waits until the server took it, so that held and
 * live publications share one order and none is lost with a connection or a
 * reload. A publication sent again has the same idempotency key, and the server
 * publishes it once.
 */
import type { QueueOptions, QueueStorage } from "./api.ts";
import type { Clock } from "./environment.ts";
import { failure, type TidewireError } from "./errors.ts";
import type { Done, StartRequest } from "./requests.ts";
import { NOT_SENT, NOT_STORED, OTHER_USER, QUEUE_FULL, SENT_ELSEWHERE, STORED_DAMAGED, STORED_FAILED, WAITED_TOO_LONG } from "./texts.ts";
import { openTimer } from "./timer.ts";
import type { ErrorCode, Json } from "./types/common.ts";
import type { ActiveSubscription, PublishRequest } from "./types/session.ts";

const MAX_ENTRIES = 100;
/** The server remembers an idempotency key for five minutes. A margin is left for the way there. */
const KEY_LIFE_MS = 270_000;
/** A publication that was never sent is dropped after a day: nobody expects it any more. */
const UNSENT_LIFE_MS = 86_400_000;
/** Added to the time of a call in the same millisecond as the one before: the times give the order. */
const STEP_MS = 0.001;
/** The time for other tabs that come back as well to send their own. What is stored after it is of a tab that is gone. */
const TAKE_OVER_MS = 2_000;
/** The time until a publication is sent again that the server could not take, where the server names none. */
const RETRY_MS = 1_000;

/** A publication. Stored are the parts whose names do not begin with `_`. */
interface Entry {
  readonly request: PublishRequest;
  /** The time of the call, later than that of the call before. */
  readonly at: number;
  /** When it was first sent, by the wall clock. */
  sentAt?: number | undefined;
  /** The user, "" for none, `undefined` until it is known. */
  _owner: string | undefined;
  /** The link that it was sent on, 0 for none of this page. */
  _link: number;
  /** It is in the storage, unless another tab took it out. */
  _isStored?: boolean;
  readonly _done: Done<ActiveSubscription>;
}

/**
 * Opens the queue of a client: `[add, open, close]`. `add` puts a publication behind all others, and
 * calls back with its position, or why it is refused. `open`: a connection of a user is open. It sends
 * what waits, and what was stored before a reload. `close`: the link is lost, and what has no reply is
 * sent again on the next one. With `isOver`, the session ends, and another user may sign in.
 *
 * `url` tells the queues of several servers apart. `named`: the user whom the options name, "" without a
 * token, or `undefined`. `report` gets what no promise of this page tells: a
 * stored publication that is damaged or refused, a storage that fails. `start` sends a request on the
 * link of the number `linkNow`, and `probe` finds out whether that works.
 */
export function startQueue(
  clock: Clock,
  random: () => number,
  url: string,
  options: QueueOptions | false | undefined,
  named: () => string | undefined,
  report: (code: ErrorCode, number: number, cause?: unknown) => void,
  linkNow: () => number,
  start: StartRequest,
  probe: () => void,
): [
  add: (channel: string, data: Json, idempotencyKey: string | undefined, done: Done<ActiveSubscription>) => void,
  open: (user: string) => void,
  close: (isOver: boolean) => void,
] {
  const { storage: given, maxEntries = MAX_ENTRIES } = { ...(options as QueueOptions | undefined) };
  let storage: QueueStorage | undefined;
  try {
    storage = options === false ? undefined : (given ?? globalThis.localStorage);
  } catch {
    // A page without the right to store.
  }
  const entries = new Set<Entry>();
  /** Tells the keys of two tabs apart that publish in the same millisecond. */
  const tab = random().toString(36).slice(2);
  let lastNamed = named();
  let owner = lastNamed;
  let isOpen = false;
  let lastAt = 0;
  /** Calls of this page that wait. What it took over is bounded by the storage. */
  let waiting = 0;
  /** The user whose stored publications this page has taken over. */
  let known: string | undefined;
  let hasStorageFailed = false;
  /** The server could not take all: until the queue is empty one is sent at a time, also on the next link, so that none overtakes another. */
  let isSlow = false;
  /** The time to send again has not come. */
  let isWaiting = false;
  const setTimer = openTimer(clock);
  const setTakeOver = openTimer(clock);

  /** Uses the storage, which the browser may refuse, and which may be full: then publications wait in memory alone. */
  const withStorage = (use: (storage: QueueStorage) => void): void => {
    try {
      if (storage) {
        use(storage);
      }
    } catch (cause) {
      if (!hasStorageFailed) {
        hasStorageFailed = true;
        report("resource_exhausted", NOT_STORED, cause);
      }
    }
  };
  /** Encoded: the prefix of one user is that of no other. What is stored has no version: another form has another first word. */
  const keyOf = (user = "", request?: PublishRequest): string =>
    ["tidewire/2", url, user, request?.channel ?? "", request?.idempotencyKey ?? ""].map(encodeURIComponent).join("|");
  const save = (entry: Entry): void => {
    const { _owner: owner, request, at, sentAt } = entry;
    if (owner !== undefined) {
      withStorage((storage) => {
        storage.setItem(keyOf(owner, request), JSON.stringify({ request, at, sentAt }));
        entry._isStored = true;
      });
    }
  };
  const finish = (entry: Entry, error: TidewireError | undefined, position?: ActiveSubscription): void => {
    const isPending = entries.delete(entry);
    withStorage((storage) => {
      storage.removeItem(keyOf(entry._owner, entry.request));
    });
    // The link before may answer too.
    if (isPending) {
      entry._done(error, position);
    }
  };
  const pump = (): void => {
    for (const entry of isOpen && !isWaiting ? [...entries].sort((a, b) => a.at - b.at) : []) {
      const link = linkNow();
      if (entry._link !== link) {
        const { at, request } = entry;
        const now = clock.wallTime();
        let error: TidewireError | undefined;
        withStorage((storage) => {
          const text = entry._isStored ? storage.getItem(keyOf(entry._owner, request)) : "{}";
          if (text !== null) {
            // Another tab may have taken it over, and sent it.
            entry.sentAt ??= (JSON.parse(text) as Entry).sentAt;
          } else if (now - at > KEY_LIFE_MS) {
            // A younger one is sent again: the server remembers its key, and answers with the position.
            error = failure("already_exists", SENT_ELSEWHERE);
          }
        });
        const { sentAt } = entry;
        // Of a time to come, the clock was set back since: nobody knows its age.
        if (Math.abs(now - (sentAt ?? at)) > (sentAt ? KEY_LIFE_MS : UNSENT_LIFE_MS)) {
          error ??= failure("deadline_exceeded", sentAt ? WAITED_TOO_LONG : NOT_SENT);
        }
        if (error) {
          finish(entry, error);
          continue;
        }
        entry._link = link;
        entry.sentAt ??= now;
        save(entry);
        start("publish", request, (error, position) => {
          if (error && link !== linkNow()) {
            // It is sent again on the next one.
          } else if (error && ["unavailable", "resource_exhausted", "deadline_exceeded"].includes(error.code)) {
            if (!isWaiting && error.code === "deadline_exceeded") {
              // Nothing came back, perhaps because the link is dead.
              probe();
            }
            entry._link = 0;
            isSlow = isWaiting = true;
            setTimer(error.retryAfterMs ?? RETRY_MS, () => {
              isWaiting = false;
              pump();
            });
          } else {
            finish(entry, error, position);
            if (isSlow) {
              isSlow = entries.size > 0;
              pump();
            }
          }
        });
      }
      if (isSlow) {
        break;
      }
    }
  };

  /** Takes over what was stored before a reload, or by a tab that is gone. */
  const takeOver = (): void => {
    withStorage((storage) => {
      for (let index = storage.length; index--; ) {
        const key = storage.key(index) ?? "";
        const text = storage.getItem(key);
        if (text !== null && key.startsWith(keyOf(known).slice(0, -1)) && ![...entries].some(({ request }) => keyOf(known, request) === key)) {
          try {
            const stored = JSON.parse(text) as Entry;
            const { channel } = stored.request;
            if (keyOf(known, stored.request) !== key || !(stored.at > 0)) {
              throw new TypeError(key);
            }
            entries.add({
              ...stored,
              _isStored: true,
              _owner: known,
              _link: 0,
              _done: (error) => {
                // The promise of the call went with its page.
                if (error) {
                  report(error.code, STORED_FAILED, `${channel} failed: ${error.message}`);
                }
              },
            });
          } catch {
            storage.removeItem(key);
            report("data_loss", STORED_DAMAGED, text);
          }
        }
      }
    });
    pump();
  };

  return [
    (channel, data, idempotencyKey, done) => {
      if (waiting >= maxEntries) {
        done(failure("resource_exhausted", QUEUE_FULL, waiting));
      } else {
        // Now, and not when it is sent: it may change meanwhile, or have no form in JSON, which throws.
        const sent = JSON.parse(JSON.stringify(data)) as Json;
        if (!isOpen && lastNamed !== named()) {
          // Another user signed in: the last connection says nothing of whose this is.
          owner = lastNamed = named();
        }
        const now = clock.wallTime();
        // A clock that was so far ahead was set back: with its time, this one would be refused.
        const at = (lastAt = lastAt - now > UNSENT_LIFE_MS ? now : Math.max(now, lastAt + STEP_MS));
        waiting += 1;
        const entry: Entry = {
          request: { channel, data: sent, idempotencyKey: idempotencyKey ?? at.toString(36) + tab },
          at,
          _owner: owner,
          _link: 0,
          _done: (error, position) => {
            waiting -= 1;
            done(error, position);
          },
        };
        entries.add(entry);
        save(entry);
        pump();
      }
    },
    (user) => {
      owner = user;
      isOpen = true;
      for (const entry of entries) {
        entry._owner ??= user;
        if (entry._owner === user) {
          // Not again: another tab may have sent it, and taken it out.
          if (!entry._isStored) {
            save(entry);
          }
        } else {
          // It stays stored until its own user returns.
          entries.delete(entry);
          entry._done(failure("failed_precondition", OTHER_USER));
        }
      }
      if (known === user) {
        setTakeOver(TAKE_OVER_MS, takeOver);
      } else {
        // At once: what was stored before a reload goes before what the page publishes from now on.
        known = user;
        takeOver();
      }
      pump();
    },
    (isOver) => {
      isOpen = isWaiting = false;
      if (isOver) {
        owner = lastNamed = named();
      }
      setTimer();
      setTakeOver();
    },
  ];
}
