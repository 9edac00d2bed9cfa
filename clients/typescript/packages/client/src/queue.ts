/**
 * Queue of publications: each waits until the server took it, so that held and
 * live publications share one order and none is lost with a connection or a
 * reload. A publication sent again has the same idempotency key, and the server
 * publishes it once.
 */
import type { QueueOptions, QueueStorage } from "./api.ts";
import type { Environment } from "./environment.ts";
import { failure, type TidewireError } from "./errors.ts";
import type { Json } from "./types/common.ts";
import type { ActiveSubscription, PublishRequest } from "./types/session.ts";

const MAX_ENTRIES = 100;
/** The server remembers an idempotency key for five minutes. A margin is left for the way there. */
const KEY_LIFE_MS = 270_000;
/** A publication that was never sent is dropped after a day: nobody expects it any more. */
const UNSENT_LIFE_MS = 86_400_000;

/** What is stored of a publication. */
interface Stored {
  readonly request: PublishRequest;
  /** The time of the call and its number, which give the order. */
  readonly order: readonly [at: number, count: number];
  /** When it was first sent, by the wall clock. */
  sentAt?: number;
}

interface Entry extends Stored {
  /** The user, "" for none, `undefined` until it is known. */
  owner: string | undefined;
  isInFlight?: boolean;
  resolve?: (position: ActiveSubscription) => void;
  reject?: (error: TidewireError) => void;
}

/** Sends a publication now. Calls back with its position or error, unless the link is lost. */
export type SendPublication = (request: PublishRequest, onReply: (position: ActiveSubscription) => void, onFailure: (error: TidewireError) => void) => void;

/** The publications that wait for the server. */
export interface PublishQueue {
  /** Adds a publication behind all others. Resolves to its position, or rejects when it is refused. */
  add(channel: string, data: Json, idempotencyKey: string | undefined): Promise<ActiveSubscription>;
  /** A connection of a user is open: sends what waits, and what was stored before a reload. */
  open(owner: string): void;
  /** The link is lost: what has no reply is sent again on the next one. */
  close(): void;
}

/** Opens the queue of a client. `url` tells the queues of several servers apart. */
export function openQueue({ clock, random }: Environment, url: string, options: QueueOptions | undefined, send: SendPublication): PublishQueue {
  const storage = options?.storage ?? findStorage();
  /** Tells the keys of two tabs apart that publish in the same millisecond. */
  const tab = random().toString(36).slice(2);
  let owner = options?.user;
  let entries: Entry[] = [];
  let isOpen = false;
  let count = 0;

  const prefixOf = (user: string): string => `tidewire|${url}|${user}|`;
  const keyOf = (entry: Entry): string => prefixOf(entry.owner ?? "") + (entry.request.idempotencyKey ?? "");
  const save = (entry: Entry): void => {
    const { request, order, sentAt } = entry;
    if (entry.owner !== undefined && entries.includes(entry)) {
      try {
        storage?.setItem(keyOf(entry), JSON.stringify({ request, order, sentAt }));
      } catch {
        // The storage is full: the publication waits in memory alone.
      }
    }
  };
  const load = (prefix: string): void => {
    const keys = Array.from({ length: storage?.length ?? 0 }, (_, index) => storage?.key(index) ?? "");
    for (const key of keys) {
      if (key.startsWith(prefix) && !entries.some((entry) => keyOf(entry) === key)) {
        entries.push({ ...(JSON.parse(storage?.getItem(key) ?? "") as Stored), owner });
      }
    }
    entries.sort((a, b) => a.order[0] - b.order[0] || a.order[1] - b.order[1]);
  };
  const remove = (entry: Entry): void => {
    entries = entries.filter((other) => other !== entry);
    storage?.removeItem(keyOf(entry));
  };
  const pump = (): void => {
    for (const entry of isOpen ? entries : []) {
      const { sentAt, order, request } = entry;
      const now = clock.wallTime();
      if (entry.isInFlight) {
        continue;
      }
      if (now - (sentAt ?? order[0]) > (sentAt ? KEY_LIFE_MS : UNSENT_LIFE_MS)) {
        remove(entry);
        entry.reject?.(failure("deadline_exceeded", "it waited too long, and may have been published"));
      } else {
        entry.isInFlight = true;
        entry.sentAt = sentAt ?? now;
        save(entry);
        send(
          request,
          (position) => {
            remove(entry);
            entry.resolve?.(position);
          },
          (error) => {
            remove(entry);
            entry.reject?.(error);
          },
        );
      }
    }
  };

  return {
    add: (channel, data, idempotencyKey) =>
      new Promise((resolve, reject) => {
        if (entries.length >= (options?.maxEntries ?? MAX_ENTRIES)) {
          reject(failure("resource_exhausted", `the queue is full: ${entries.length} publications wait`));
          return;
        }
        const at = clock.wallTime();
        const request = { channel, data, idempotencyKey: idempotencyKey ?? `${at.toString(36)}-${tab}-${++count}` };
        const entry: Entry = { request, order: [at, count], owner, resolve, reject };
        entries.push(entry);
        save(entry);
        pump();
      }),
    open(user) {
      owner = user;
      isOpen = true;
      entries = entries.filter((entry) => {
        entry.owner ??= user;
        const isOwn = entry.owner === user;
        if (isOwn) {
          save(entry);
        } else {
          // It stays stored until its own user returns.
          entry.reject?.(failure("failed_precondition", "another user signed in"));
        }
        return isOwn;
      });
      load(prefixOf(user));
      pump();
    },
    close() {
      isOpen = false;
      for (const entry of entries) {
        entry.isInFlight = false;
      }
    },
  };
}

function findStorage(): QueueStorage | undefined {
  try {
    return globalThis.localStorage;
  } catch {
    // A page without the right to store.
    return undefined;
  }
}
